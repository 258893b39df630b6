/* SPDX-License-Identifier: MIT */
#include "chain/tip.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "chain/sidecar.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/escape.h"

#define RAW_UNIT 4096
/* The longest run: lengths are 32 bits of sectors. */
#define RUN_MAX (UINT64_C(1) << 40)

/* ------------------------------------------------------------------ create --- */

/* Is this file a sidecar index, or only called like one? */
static bool is_sidecar(const char *path)
{
    char magic[8];
    int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    bool is = fd >= 0 && pread(fd, magic, sizeof(magic), 0) == (ssize_t)sizeof(magic) &&
              memcmp(magic, "QCHAINIX", sizeof(magic)) == 0;

    if (fd >= 0)
        close(fd);
    return is;
}

/* What the top's sidecar says is not so any more with the first write. Its image's size and time say so, too, so
 * that it cannot be removed is no failure. */
static void remove_sidecar(qchain *c)
{
    char *path = c->layer[0].real_path ? qc_sidecar_path(c->layer[0].real_path) : NULL;
    struct qc_escaped shown;

    if (path && is_sidecar(path) && unlink(path) != 0)
        qc_log(&c->env->log, QCHAIN_LOG_WARN, "chain", "index '%s' cannot be removed: %s",
               qc_escape_str(&shown, path), strerror(errno));
    qc_free(path);
}

static int begin(qchain *c, struct qc_tip *t, qchain_error *err)
{
    struct qc_write_opts opts = {.requests = t->requests,
                                 .discard = c->open_flags & QCHAIN_OPEN_DISCARD,
                                 .unsafe = c->open_flags & QCHAIN_OPEN_UNSAFE,
                                 .shared = c->open_flags & QCHAIN_OPEN_FORCE_SHARE};
    int ret = t->ops->begin(t->img, &opts, err);

    if (ret != 0)
        qc_layer_prefix(c, 0, err);
    return ret;
}

static void free_tip(struct qc_tip *t)
{
    qc_slots_destroy(t->requests);
    qc_admission_finish(&t->admission);
    qc_range_locks_finish(&t->ranges);
    pthread_mutex_destroy(&t->structure);
    pthread_mutex_destroy(&t->closed_lock);
    pthread_cond_destroy(&t->opened);
    pthread_mutex_destroy(&t->encoder_lock);
    qc_free(t);
}

int qc_tip_create(qchain *c, qchain_error *err)
{
    const struct qc_layer *l = &c->layer[0];
    struct qc_image *img = l->img;
    struct qc_tip *t;
    int ret;

    if (!img->format->write) {
        ret = qc_fail(err, QCHAIN_E_UNSUPPORTED, "images of format %s cannot be written",
                      img->format->name);
        qc_layer_prefix(c, 0, err);
        return ret;
    }
    t = qc_calloc(1, sizeof(*t));
    if (!t)
        return qc_fail_nomem(err);
    t->img = img;
    t->ops = img->format->write;
    t->source = l->data_source;
    t->data = img->data_store ? img->data_store : img->store;
    t->unit = img->cluster_size ? img->cluster_size : RAW_UNIT;
    t->keeps = c->open_flags & QCHAIN_OPEN_COPY_ON_READ;
    t->durable = c->open_flags & QCHAIN_OPEN_WRITETHROUGH && !(c->open_flags & QCHAIN_OPEN_UNSAFE);
    qc_admission_init(&t->admission);
    qc_range_locks_init(&t->ranges);
    pthread_mutex_init(&t->structure, NULL);
    pthread_mutex_init(&t->closed_lock, NULL);
    pthread_cond_init(&t->opened, NULL);
    pthread_mutex_init(&t->encoder_lock, NULL);
    t->requests = qc_slots_create();
    remove_sidecar(c);
    ret = t->requests ? begin(c, t, err) : qc_fail_nomem(err);
    if (ret != 0) {
        free_tip(t);
        return ret;
    }
    c->tip = t; /* on failure it is the chain's to take apart */
    return qc_bitmaps_open(c, err);
}

int qc_tip_end(qchain *c, bool anyway, qchain_error *err)
{
    int ret;

    if (atomic_load(&c->tip->ended))
        return 0;
    ret = qc_bitmaps_store(c, err);
    if (ret != 0 && !anyway)
        return ret;
    if (ret != 0)
        qc_log(&c->env->log, QCHAIN_LOG_WARN, "chain", "dirty bitmaps are lost: they could not be stored");
    if (atomic_exchange(&c->tip->ended, true))
        return 0;
    ret = c->tip->ops->end(c->tip->img, err);
    if (ret != 0)
        qc_layer_prefix(c, 0, err);
    if (ret == QCHAIN_E_NOSPACE && !anyway) /* what is in memory can still be written */
        atomic_store(&c->tip->ended, false);
    return ret;
}

void qc_tip_destroy(qchain *c)
{
    struct qc_tip *t = c->tip;

    if (!t)
        return;
    qc_tip_free_encoders(t);
    t->img->format->close(t->img); /* it borrowed the epochs */
    c->layer[0].img = NULL;
    free_tip(t);
    c->tip = NULL;
}

int qc_tip_check(const qchain *c, qchain_error *err)
{
    if (!c->tip)
        return qc_fail(err, QCHAIN_E_READONLY, "the chain is open for reading (QCHAIN_OPEN_WRITE)");
    if (atomic_load_explicit(&c->tip->ended, memory_order_relaxed))
        return qc_fail(err, QCHAIN_E_READONLY, "the chain was finished: it can only be closed");
    return 0;
}

unsigned qc_tip_enter_slowly(struct qc_tip *t, unsigned token)
{
    do {
        qc_epoch_exit(t->requests, token);
        pthread_mutex_lock(&t->closed_lock);
        while (atomic_load(&t->closed))
            pthread_cond_wait(&t->opened, &t->closed_lock);
        pthread_mutex_unlock(&t->closed_lock);
        token = qc_epoch_enter(t->requests);
    } while (atomic_load(&t->closed));
    return token;
}

/* ----------------------------------------------------------------- look up --- */

struct qc_run qc_run_part(struct qc_run r, uint64_t from, uint64_t to)
{
    enum qc_kind kind = qc_run_kind(&r);

    from = qc_max64(from, r.guest);
    to = qc_min64(to, qc_run_end(&r));
    if (kind != QC_COMPRESSED && qc_kind_has_host(kind))
        r.host_kind += (from - r.guest) << 8;
    r.guest = from;
    r.length = (uint32_t)((to - from) >> 9);
    return r;
}

int qc_tip_locate(qchain *c, uint64_t offset, uint64_t end, struct qc_run *out, qchain_error *err)
{
    struct qc_tip *t = c->tip;
    uint64_t start = qc_align_down(offset, 512);
    int ret = t->ops->locate(t->img, start, qc_min64(qc_align_up(end, 512) - start, RUN_MAX), out, err);

    if (ret != 0) {
        qc_layer_prefix(c, 0, err);
        return ret;
    }
    out->source = qc_kind_has_host(qc_run_kind(out)) ? c->layer[0].data_source : c->layer[0].source;
    return 0;
}

int qc_tip_map(qchain *c, uint64_t offset, uint64_t length, struct qc_runs *out, qchain_error *err)
{
    uint64_t end = offset + length;
    struct qc_run r;
    int ret = 0;

    for (; ret == 0 && offset < end; offset = qc_run_end(&r)) {
        ret = qc_tip_locate(c, offset, end, &r, err);
        if (ret != 0)
            break;
        r.source = 0; /* as formats tell it */
        if (qc_run_kind(&r) != QC_ABSENT && qc_runs_add(out, qc_run_part(r, offset, end)) != 0)
            ret = qc_fail_nomem(err);
    }
    return ret;
}

int qc_tip_next_used(qchain *c, uint64_t guest, uint64_t end, uint64_t *used, qchain_error *err)
{
    struct qc_run r;
    int ret = 0;

    for (*used = guest; *used < end; *used = qc_run_end(&r)) {
        ret = qc_tip_locate(c, *used, end, &r, err);
        if (ret != 0 || qc_run_kind(&r) != QC_ABSENT)
            break;
    }
    *used = qc_min64(*used, end);
    return ret;
}

struct qc_run qc_tip_nothing(const qchain *c, uint64_t offset, uint64_t end)
{
    uint64_t start = qc_align_down(offset, 512);
    struct qc_run gap = qc_run_make(start, qc_min64(qc_align_up(end, 512) - start, RUN_MAX),
                                    c->n_layers > 1 ? QC_SHORT : QC_END, 0);

    gap.source = c->layer[0].source;
    return gap;
}

/* The runs of what the tip does not hold, [offset, end) of run r. How many, 0 if the index does not know. */
static int copy_below(qchain *c, uint64_t offset, uint64_t end, uint32_t flags, const struct qc_run *r,
                      struct qc_run *run, size_t max, size_t *n, qchain_error *err)
{
    uint64_t below = flags & QC_TIP_VM ? 0 : c->index.size;
    int ret = 0;

    *n = 1;
    if (offset >= below) {
        *run = qc_run_kind(r) == QC_PREALLOC
                   ? qc_run_part(*r, qc_align_down(offset, 512), qc_align_up(end, 512))
                   : qc_tip_nothing(c, offset, end);
        return 0;
    }
    end = qc_min64(end, below);
    if (flags & QC_TIP_NO_WAIT)
        *n = qc_index_peek(c, offset, end, run, max);
    else
        ret = qc_index_copy(c, offset, end, run, max, n, err);
    for (size_t i = 0; ret == 0 && i < *n; i++)
        run[i] = qc_run_part(run[i], qc_align_down(offset, 512), qc_align_up(end, 512));
    return ret;
}

int qc_tip_copy(qchain *c, uint64_t offset, uint64_t end, uint32_t flags, struct qc_run *run,
                size_t max, size_t *n, uint64_t *unknown, qchain_error *err)
{
    enum qc_kind kind;
    struct qc_run r;
    size_t got;
    int ret = 0;

    for (*n = 0; offset < end && *n < max; offset = qc_run_end(&run[*n - 1])) {
        ret = qc_tip_locate(c, offset, end, &r, err);
        if (ret != 0)
            return ret;
        kind = qc_run_kind(&r);
        if (kind != QC_ABSENT && kind != QC_PREALLOC) {
            run[(*n)++] = qc_run_part(r, qc_align_down(offset, 512), qc_align_up(end, 512));
            continue;
        }
        ret = copy_below(c, offset, qc_min64(end, qc_run_end(&r)), flags, &r, run + *n, max - *n, &got,
                         err);
        if (ret != 0)
            return ret;
        if (got == 0) {
            *unknown = offset;
            *n = 0;
            return 0;
        }
        *n += got;
    }
    return 0;
}
