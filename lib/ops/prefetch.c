/* SPDX-License-Identifier: MIT */
/*
 * Prefetching: disks take turns; of each a batch is mapped (prefetch_plan.c), and what the disk cache lacks of it
 * is asked for as fast as the rules let (prefetch_window.c). While a batch is mapped, what was asked for before
 * is on its way: one thread is enough.
 */
#include "ops/prefetch.h"

#include "ops/prefetch_int.h"
#include "remote/bring.h"
#include "util/alloc.h"
#include "util/bytes.h"

struct prefetch {
    const qchain_prefetch_opts *o;
    qchain_prefetch_result     *result;
    struct qc_prefetch_disk    *disk;
    uint32_t                    n;
    struct qc_prefetch_batch    batch;
    struct qc_prefetch_window  *window;
};

/* The next stretch of [at, end) that the cache lacks and nobody brings, with what lies between parts of it that
 * are near each other; false: there is none before *end, which may be less than it was. */
static bool next_missing(struct prefetch *p, const struct qc_store *s, uint64_t *at, uint64_t *end)
{
    uint64_t from, to, next, until;

    if (!qc_prefetch_trim(p->window, s, at, end) || !qc_bring_lacks(s, *at, *end, &from, &to))
        return false;
    while (to < *end && qc_bring_lacks(s, to, *end, &next, &until) && next - to <= QC_PREFETCH_GAP)
        to = until;
    *at = from;
    *end = to;
    return true;
}

/* A request may have to wait long, and others bring things meanwhile. */
static bool still_missing(struct prefetch *p, const struct qc_store *s, uint64_t start, uint64_t end)
{
    uint64_t at = start, to = end;

    return next_missing(p, s, &at, &to) && at == start && to == end;
}

/* One request's worth of a want: ask for what is missing of it. */
static int fetch_piece(struct prefetch *p, qchain *c, uint32_t source, struct qc_store *s, uint64_t start,
                       uint64_t end, qchain_error *err)
{
    uint64_t at = start, to, fetched = 0;
    size_t length;
    int ret = 0;

    while (ret == 0 && at < end) {
        to = end;
        if (!next_missing(p, s, &at, &to)) {
            at = to;
            continue;
        }
        length = (size_t)(to - at);
        ret = qc_prefetch_hold(p->window, c->env->remote, &length, err);
        if (ret == 0 && !still_missing(p, s, at, at + length))
            continue;
        if (ret == 0)
            ret = qc_prefetch_begin(p->window, c, source, s, at, length, err);
        if (ret == 0) {
            fetched += length;
            at += length;
        }
    }
    p->result->cached += at - start - fetched;
    return ret;
}

static int fetch_want(struct prefetch *p, qchain *c, const struct qc_want *w, qchain_error *err)
{
    struct qc_store *s = qc_source_store(c, w->source, err);
    uint64_t to;
    int ret = s ? qc_chain_check(c, err) : err->code;

    for (uint64_t at = w->start; ret == 0 && at < w->end; at = to) {
        to = qc_min64(qc_align_down(at, QC_PREFETCH_REQUEST) + QC_PREFETCH_REQUEST, w->end);
        ret = fetch_piece(p, c, w->source, s, at, to, err);
    }
    if (ret == 0)
        qc_job_pass(p->o->job, w->shows);
    return ret;
}

/* A batch of one disk. */
static int take_turn(struct prefetch *p, struct qc_prefetch_disk *d, bool *more, qchain_error *err)
{
    int ret = qc_prefetch_check(p->window, err);

    if (ret == 0)
        ret = qc_prefetch_plan(d, &p->batch, more, p->result, err);
    if (ret != 0)
        return ret;
    qc_job_pass(p->o->job, p->batch.passed);
    for (uint32_t i = 0; ret == 0 && i < p->batch.n; i++)
        ret = fetch_want(p, d->c, &p->batch.want[i], err);
    return ret;
}

/* All disks by turns, until none has more. */
static int take_turns(struct prefetch *p, qchain_error *err)
{
    bool more = true, any;
    int ret = 0;

    while (more && ret == 0) {
        more = false;
        for (uint32_t i = 0; ret == 0 && i < p->n; i++) {
            any = false;
            ret = take_turn(p, &p->disk[i], &any, err);
            more |= any;
        }
    }
    if (ret == 0 || ret == QC_PREFETCH_ENDED(QCHAIN_PREFETCH_BYTES)) {
        int last = qc_prefetch_settle(p->window, err);

        ret = last != 0 ? last : ret;
    }
    return ret;
}

/* A chain that has a layer behind a URL needs a cache. */
static int check_cache(qchain *c, qchain_error *err)
{
    bool far = false;

    for (uint32_t i = 0; !far && i < c->n_sources; i++)
        far = qc_source_opened(c, i) ? qc_remote_is(qc_source_opened(c, i)) : qc_remote_name(c->source[i].name);
    return far ? qc_bring_check(c->env->remote, err) : 0;
}

static int begin(struct prefetch *p, qchain *const *chains, qchain_error *err)
{
    uint64_t length, total = 0;
    int ret = qc_prefetch_batch_init(&p->batch, p->o->flags & QCHAIN_PREFETCH_METADATA, err);

    p->disk = qc_calloc(p->n, sizeof(*p->disk));
    p->window = qc_prefetch_window_create(p->o, qc_now_ns());
    if (ret == 0 && (!p->disk || !p->window))
        ret = qc_fail_nomem(err);
    for (uint32_t i = 0; ret == 0 && i < p->n; i++) {
        ret = qc_prefetch_disk_init(&p->disk[i], chains[i], p->o, i, &length, err);
        if (ret == 0)
            ret = check_cache(chains[i], err);
        if (ret != 0 && p->n > 1)
            qc_error_prefix(err, -1, "disk %u: ", i);
        total += ret == 0 ? length : 0;
    }
    qc_job_begin(p->o->job, total);
    return ret;
}

int qc_prefetch(qchain *const *chains, uint32_t n, const qchain_prefetch_opts *o,
                qchain_prefetch_result *result, qchain_error *err)
{
    struct prefetch p = {.o = o, .result = result, .n = n};
    int ret = begin(&p, chains, err);

    if (ret == 0)
        ret = take_turns(&p, err);
    if (ret > 0) {
        result->end = (uint32_t)(ret - QC_PREFETCH_ENDED(0));
        ret = 0;
    }
    if (p.window)
        qc_prefetch_count(p.window, result);
    qc_prefetch_window_drop(p.window);
    qc_prefetch_batch_finish(&p.batch);
    qc_free(p.disk);
    return ret;
}
