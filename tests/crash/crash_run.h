/* SPDX-License-Identifier: MIT */
/* Lists of operations on a small image over the recording disk, and what must hold of each state after a crash. */
#ifndef CRASH_RUN_H
#define CRASH_RUN_H

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <qchain.h>

#include "../unit/crash_states.h"
#include "crash_model.h"

#define DISK_MAX (UINT64_C(16) << 20)

enum guest_kind {
    G_WRITE, G_ZERO, G_ZERO_UNMAP, G_DISCARD, G_COMPRESSED, G_FLUSH, G_SNAPSHOT, G_APPLY, G_DELETE, G_GROW,
    G_SHRINK, G_KINDS
};

static const char *const guest_name[] = {"write", "zero", "zero-unmap", "discard", "compressed", "flush",
                                         "snapshot", "apply", "delete", "grow", "shrink"};

struct guest_op {
    enum guest_kind kind;
    uint32_t        sector, n; /* or which snapshot */
};

/* An image to begin with, and the one below it. */
struct setup {
    char     name[200];  /* for messages: qemu-img's options */
    struct rec_store *top, *base; /* base NULL: none */
    uint32_t sectors, base_sectors;
    uint32_t cluster;    /* bytes */
    bool     v2, narrow; /* narrow: refcounts that no snapshot fits into */
    bool     no_compression;
};

struct run {
    const struct setup *setup;
    qchain_env         *env;
    struct rec_store   *disk;
    uint64_t            n_mended;
    struct model        model;
    const struct guest_op *op;
    uint32_t            n_ops;
    unsigned            most;      /* states an interval */
    unsigned            every_qemu; /* each so many states are also checked by qemu-img; 0: none */
    const char         *qemu_file;
    const char         *keep;       /* where the first state that is wrong is put; or NULL */
    uint64_t            seed;
    uint64_t            n_states, n_same, n_qemu, n_leaky;
    char                wrong[1200]; /* what did not hold; "" */
};

static inline int run_wrong(struct run *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static inline int run_wrong(struct run *r, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    if (!r->wrong[0])
        vsnprintf(r->wrong, sizeof(r->wrong), fmt, ap);
    va_end(ap);
    return 1;
}

/* ------------------------------------------------------------------ opening --- */

static inline int find_base(void *data, const qchain_reference *ref, qchain_resolution *out)
{
    static _Thread_local qchain_store store;

    (void)ref;
    rec_store_of(data, &store);
    out->store = &store;
    out->format = "raw";
    return QCHAIN_RESOLVE_STORE;
}

static inline int run_open(struct run *r, struct rec_store *m, uint32_t flags, const char *snapshot, qchain **c,
                           qchain_error *err)
{
    qchain_store store;
    qchain_open_opts o;

    rec_store_of(m, &store);
    qchain_open_opts_init(&o, sizeof(o));
    o.flags = flags;
    o.format = "qcow2";
    o.store = &store;
    o.snapshot = snapshot;
    if (r->setup->base) {
        o.resolver = find_base;
        o.resolver_data = r->setup->base;
    }
    return qchain_open(c, r->env, "top.qcow2", &o, err);
}

/* ------------------------------------------------------------- after a crash --- */

static inline int check_image(struct run *r, struct rec_store *m, qchain_check_result *res, qchain_error *err)
{
    qchain_store store;
    qchain_open_opts oo;
    qchain_check_opts o;

    rec_store_of(m, &store);
    qchain_open_opts_init(&oo, sizeof(oo));
    oo.store = &store;
    oo.format = "qcow2";
    qchain_check_opts_init(&o, sizeof(o));
    o.open = &oo;
    memset(res, 0, sizeof(*res));
    res->struct_size = sizeof(*res);
    return qchain_check(r->env, "top.qcow2", &o, res, err);
}

static inline void keep_state(const struct run *r, struct rec_store *m)
{
    FILE *f = fopen(r->keep, "we");

    if (f) {
        fwrite(m->bytes, 1, m->size, f);
        fclose(f);
    }
}

/* qemu-img's verdict: 0 clean, 3 leaks, 2 corrupt. */
static inline int qemu_check(const struct run *r, struct rec_store *m)
{
    int fd = open(r->qemu_file, O_CREAT | O_TRUNC | O_WRONLY | O_CLOEXEC, 0600), status, null;
    pid_t pid;

    if (fd < 0 || write(fd, m->bytes, m->size) != (ssize_t)m->size)
        abort();
    close(fd);
    pid = fork();
    if (pid == 0) {
        null = open("/dev/null", O_WRONLY);
        dup2(null, 1);
        dup2(null, 2);
        execlp("qemu-img", "qemu-img", "check", "-q", "-f", "qcow2", r->qemu_file, (char *)NULL);
        _exit(127);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
        abort();
    return WEXITSTATUS(status);
}

/* The disk against what the model allows at that instant. */
static inline int check_content(struct run *r, qchain *c, uint64_t at, qchain_error *err)
{
    static unsigned char buf[MODEL_SECTORS * SECTOR];
    uint64_t size = qchain_size(c), certain = model_certain(&r->model, at), value;
    uint32_t n = (uint32_t)(size / SECTOR);

    if (n > MODEL_SECTORS)
        return run_wrong(r, "the disk has %u sectors", n);
    if (qchain_read(c, buf, size, 0, 0, err) != 0)
        return run_wrong(r, "the disk cannot be read: %s", qchain_error_message(err));
    for (uint32_t i = 0; i < n; i++) {
        value = sector_value(buf + (size_t)i * SECTOR);
        if (!model_allows(&r->model, i, value, at, certain))
            return run_wrong(r, "sector %u holds value %llu%s (cluster %u), not allowed: now %llu, %u versions", i,
                             (unsigned long long)value, value == GARBAGE ? " (garbage)" : "",
                             i * SECTOR / r->setup->cluster, (unsigned long long)model_now(&r->model, i),
                             r->model.sector[i].n);
    }
    return 0;
}

static inline int check_snapshot(struct run *r, struct rec_store *m, const struct model_snapshot *s,
                                 const char *id, qchain_error *err)
{
    static unsigned char buf[MODEL_SECTORS * SECTOR];
    int ret = 0;
    qchain *c;

    if (run_open(r, m, 0, id, &c, err) != 0)
        return run_wrong(r, "snapshot '%s' cannot be opened: %s", s->name, qchain_error_message(err));
    if (qchain_size(c) != (uint64_t)s->sectors * SECTOR)
        ret = run_wrong(r, "snapshot '%s' has %llu bytes", s->name, (unsigned long long)qchain_size(c));
    if (ret == 0 && qchain_read(c, buf, (size_t)s->sectors * SECTOR, 0, 0, err) != 0)
        ret = run_wrong(r, "snapshot '%s' cannot be read: %s", s->name, qchain_error_message(err));
    for (uint32_t i = 0; ret == 0 && i < s->sectors; i++)
        if (sector_value(buf + (size_t)i * SECTOR) != s->value[i])
            ret = run_wrong(r, "snapshot '%s': sector %u holds %llu instead of %llu", s->name, i,
                            (unsigned long long)sector_value(buf + (size_t)i * SECTOR),
                            (unsigned long long)s->value[i]);
    qchain_close(c);
    return ret;
}

/* Those in the image are as they were made; those that must be there are. */
static inline int check_snapshots(struct run *r, struct rec_store *m, qchain *c, uint64_t at, qchain_error *err)
{
    qchain_image_info *info = NULL;
    bool seen[MODEL_SNAPSHOTS] = {false};
    int ret = 0;

    if (r->model.n_snaps == 0)
        return 0;
    if (qchain_layer_info(&info, c, 0, err) != 0)
        return run_wrong(r, "the image cannot be described: %s", qchain_error_message(err));
    for (uint32_t i = 0; ret == 0 && i < info->n_snapshots; i++) {
        for (uint32_t k = 0; ret == 0 && k < r->model.n_snaps; k++) {
            const struct model_snapshot *s = &r->model.snap[k];

            if (strcmp(s->name, info->snapshots[i].name) != 0)
                continue;
            seen[k] = true;
            if (s->gone && s->gone < model_certain(&r->model, at))
                ret = run_wrong(r, "snapshot '%s' is back from the dead", s->name);
            else
                ret = check_snapshot(r, m, s, info->snapshots[i].id, err);
        }
    }
    for (uint32_t k = 0; ret == 0 && k < r->model.n_snaps; k++) {
        const struct model_snapshot *s = &r->model.snap[k];

        if (!seen[k] && s->made && s->made <= model_certain(&r->model, at) && (!s->gone || s->gone > at))
            ret = run_wrong(r, "snapshot '%s' is lost", s->name);
    }
    qchain_image_info_free(info);
    return ret;
}

/* An image that is marked dirty is mended by who opens it for writing; then it must be right. The mending is cut
 * short, too: what is left is mended by the next. */
static inline int mend_dirty(struct run *r, struct rec_store *m, qchain_error *err)
{
    qchain *c = NULL;

    rec_reset(m);
    if (++r->n_mended % 2 == 0) {
        m->log->fail_from = r->n_mended / 2 % 40 + 1;
        m->log->fail_to = UINT64_MAX;
        if (run_open(r, m, QCHAIN_OPEN_WRITE, NULL, &c, err) == 0)
            qchain_close(c);
        rec_reset(m);
    }
    if (run_open(r, m, QCHAIN_OPEN_WRITE, NULL, &c, err) != 0)
        return run_wrong(r, "is not mended: %s", qchain_error_message(err));
    qchain_close(c);
    return 0;
}

static inline bool is_dirty(struct rec_store *m)
{
    return m->size > 79 && m->bytes[7] >= 3 && m->bytes[79] & 1;
}

static inline int check_state(void *data, struct rec_store *const *state, uint64_t at, const char *which)
{
    struct rec_store *m = state[0];
    struct run *r = data;
    qchain_error *err = qchain_error_create();
    qchain_check_result res = {0};
    qchain *c = NULL;
    int ret = 0, verdict;

    r->n_states++;
    if (is_dirty(m))
        ret = mend_dirty(r, m, err);
    if (ret != 0)
        ;
    else if (check_image(r, m, &res, err) != 0)
        ret = run_wrong(r, "check fails: %s", qchain_error_message(err));
    else if (res.corruptions || res.check_errors)
        ret = run_wrong(r, "check finds %llu corruptions, %llu errors", (unsigned long long)res.corruptions,
                        (unsigned long long)res.check_errors);
    r->n_leaky += res.leaks != 0;
    if (r->every_qemu && (ret != 0 || r->n_states % r->every_qemu == 0)) {
        r->n_qemu++;
        verdict = qemu_check(r, m);
        if (ret != 0) {
            size_t n = strlen(r->wrong);

            snprintf(r->wrong + n, sizeof(r->wrong) - n, " (qemu-img check: exit %d)", verdict);
        } else if (verdict != 0 && verdict != 3) {
            ret = run_wrong(r, "qemu-img check: exit %d", verdict);
        }
    }
    if (ret == 0 && run_open(r, m, 0, NULL, &c, err) != 0)
        ret = run_wrong(r, "cannot be opened: %s", qchain_error_message(err));
    if (ret == 0)
        ret = check_content(r, c, at, err);
    if (ret == 0)
        ret = check_snapshots(r, m, c, at, err);
    qchain_close(c);
    if (ret != 0) {
        size_t n = strlen(r->wrong);

        snprintf(r->wrong + n, sizeof(r->wrong) - n, " [%s, crash at %llu of %llu]", which,
                 (unsigned long long)at, (unsigned long long)r->disk->log->clock);
        if (r->keep)
            keep_state(r, m);
    }
    qchain_error_destroy(err);
    return ret;
}

/* ---------------------------------------------------------------- the guest --- */

static inline uint64_t run_clock(struct run *r)
{
    return rec_clock(r->disk->log);
}

/* What the guest reads now becomes the version that it expects: for operations that may leave things alone. */
static inline int note_actual(struct run *r, qchain *c, uint32_t first, uint32_t n, uint64_t began,
                              uint64_t ended, qchain_error *err)
{
    static unsigned char buf[MODEL_SECTORS * SECTOR];

    if (qchain_read(c, buf, (size_t)n * SECTOR, (uint64_t)first * SECTOR, 0, err) != 0)
        return run_wrong(r, "read fails: %s", qchain_error_message(err));
    for (uint32_t i = 0; i < n; i++) {
        uint64_t value = sector_value(buf + (size_t)i * SECTOR);

        if (value != 0 && value != model_now(&r->model, first + i))
            return run_wrong(r, "sector %u holds %llu after it was given up", first + i,
                             (unsigned long long)value);
        model_put(&r->model, first + i, 0, began, value == 0 ? ended : 0);
        if (value != 0)
            model_put(&r->model, first + i, value, began, ended);
    }
    return 0;
}

static inline int guest_write(struct run *r, qchain *c, const struct guest_op *g, qchain_error *err)
{
    static unsigned char buf[MODEL_SECTORS * SECTOR];
    uint64_t began = run_clock(r), value = ++r->model.next_value;
    int ret;

    for (uint32_t i = 0; i < g->n; i++)
        sector_fill(buf + (size_t)i * SECTOR, value << 10 | i);
    /* A compressed cluster must not be larger than its bytes: these are not. */
    if (g->kind == G_COMPRESSED)
        ret = qchain_write_compressed(c, buf, (size_t)g->n * SECTOR, (uint64_t)g->sector * SECTOR, 0, err);
    else
        ret = qchain_write(c, buf, (size_t)g->n * SECTOR, (uint64_t)g->sector * SECTOR, 0, err);
    for (uint32_t i = 0; i < g->n; i++)
        model_put(&r->model, g->sector + i, value << 10 | i, began, ret == 0 ? run_clock(r) : 0);
    return ret;
}

static inline int guest_zero(struct run *r, qchain *c, const struct guest_op *g, qchain_error *err)
{
    uint64_t began = run_clock(r);
    int ret = qchain_write_zeroes(c, (uint64_t)g->n * SECTOR, (uint64_t)g->sector * SECTOR,
                                  g->kind == G_ZERO_UNMAP ? QCHAIN_WRITE_UNMAP : 0, err);

    for (uint32_t i = 0; i < g->n; i++)
        model_put(&r->model, g->sector + i, 0, began, ret == 0 ? run_clock(r) : 0);
    return ret;
}

static inline int guest_discard(struct run *r, qchain *c, const struct guest_op *g, qchain_error *err)
{
    uint64_t began = run_clock(r);
    int ret = qchain_discard(c, (uint64_t)g->n * SECTOR, (uint64_t)g->sector * SECTOR, 0, err);

    if (ret == 0 && note_actual(r, c, g->sector, g->n, began, run_clock(r), err) != 0)
        return 1;
    return ret;
}

static inline int guest_snapshot(struct run *r, qchain *c, qchain_error *err)
{
    struct model *m = &r->model;
    struct model_snapshot *s = &m->snap[m->n_snaps];
    uint64_t began;
    int ret;

    if (m->n_snaps == MODEL_SNAPSHOTS)
        return 0;
    *s = (struct model_snapshot){.used = true, .sectors = m->sectors};
    snprintf(s->name, sizeof(s->name), "s%u", m->n_snaps);
    for (uint32_t i = 0; i < m->sectors; i++)
        s->value[i] = model_now(m, i);
    m->n_snaps++;
    began = run_clock(r);
    ret = qchain_snapshot_create(c, s->name, NULL, err);
    if (ret == 0) {
        s->made = run_clock(r);
        model_flushed(m, began, s->made); /* making one flushes */
    }
    return ret;
}

static inline struct model_snapshot *pick_snapshot(struct run *r, uint32_t which)
{
    struct model *m = &r->model;

    for (uint32_t i = 0; i < m->n_snaps; i++) {
        struct model_snapshot *s = &m->snap[(which + i) % m->n_snaps];

        if (s->made && !s->gone)
            return s;
    }
    return NULL;
}

static inline int guest_apply(struct run *r, qchain *c, const struct guest_op *g, qchain_error *err)
{
    struct model_snapshot *s = pick_snapshot(r, g->sector);
    struct model *m = &r->model;
    uint64_t began = run_clock(r);
    int ret;

    if (!s || s->sectors != m->sectors)
        return 0;
    ret = qchain_snapshot_apply(c, s->name, err);
    if (ret == QCHAIN_E_LIMIT)
        return ret;
    for (uint32_t i = 0; i < m->sectors; i++)
        model_put(m, i, s->value[i], began, ret == 0 ? run_clock(r) : 0);
    return ret;
}

static inline int guest_delete(struct run *r, qchain *c, const struct guest_op *g, qchain_error *err)
{
    struct model_snapshot *s = pick_snapshot(r, g->sector);
    int ret;

    if (!s)
        return 0;
    s->gone = run_clock(r);
    ret = qchain_snapshot_delete(c, s->name, err);
    return ret;
}

static inline int guest_resize(struct run *r, qchain *c, const struct guest_op *g, qchain_error *err)
{
    struct model *m = &r->model;
    uint64_t began = run_clock(r), ended;
    uint32_t to = g->kind == G_GROW ? m->sectors + g->n : m->sectors > 2 * g->n ? m->sectors - g->n : m->sectors;
    int ret;

    if (to > MODEL_SECTORS || to == m->sectors)
        return 0;
    ret = qchain_resize(c, (uint64_t)to * SECTOR, QCHAIN_RESIZE_SHRINK, err);
    if (ret != 0)
        return ret == QCHAIN_E_UNSUPPORTED ? 0 : ret;
    ended = run_clock(r);
    /* What was cut off may be found at the old size, or what lies below; what is added is zeros. */
    for (uint32_t i = to; i < m->sectors; i++) {
        if (i < r->setup->base_sectors)
            model_put(m, i, sector_value(r->setup->base->bytes + (size_t)i * SECTOR), began, 0);
        model_put(m, i, 0, began, ended);
    }
    for (uint32_t i = m->sectors; i < to; i++)
        model_put(m, i, 0, began, ended);
    m->sectors = to;
    return 0;
}

static inline int guest_do(struct run *r, qchain *c, struct guest_op g, qchain_error *err)
{
    uint32_t per = r->setup->cluster / SECTOR;
    uint64_t began;
    int ret;

    if (g.kind <= G_COMPRESSED) { /* within the disk as it is now */
        g.sector %= r->model.sectors;
        if (g.kind == G_COMPRESSED) {
            g.sector = g.sector / per * per;
            g.n = (g.n + per - 1) / per * per;
        }
        if (g.n > r->model.sectors - g.sector)
            g.n = r->model.sectors - g.sector;
    }
    switch (g.kind) {
    case G_WRITE:
    case G_COMPRESSED:
        return guest_write(r, c, &g, err);
    case G_ZERO:
    case G_ZERO_UNMAP:
        return guest_zero(r, c, &g, err);
    case G_DISCARD:
        return guest_discard(r, c, &g, err);
    case G_FLUSH:
        began = run_clock(r);
        ret = qchain_flush(c, err);
        if (ret == 0)
            model_flushed(&r->model, began, run_clock(r));
        return ret;
    case G_SNAPSHOT:
        return r->setup->narrow ? 0 : guest_snapshot(r, c, err);
    case G_APPLY:
        return guest_apply(r, c, &g, err);
    case G_DELETE:
        return guest_delete(r, c, &g, err);
    default:
        return guest_resize(r, c, &g, err);
    }
}

/* The values that the disk has before anything is written. */
static inline void model_begin(struct run *r)
{
    const struct setup *s = r->setup;
    struct model *m = &r->model;

    model_reset(m);
    m->sectors = s->sectors;
    m->next_value = 1000;
    for (uint32_t i = 0; i < s->base_sectors && i < MODEL_SECTORS; i++)
        if (i < s->sectors) /* what is longer must never show */
            model_put(m, i, sector_value(s->base->bytes + (size_t)i * SECTOR), 1, 1);
}

/* Run a list, then look at all states that a crash may leave. 0, or 1 with r->wrong set. */
static inline int run_list(struct run *r)
{
    struct crash_walk s = {.log = r->disk->log, .most = r->most, .random = 4, .seed = r->seed | 1,
                           .tell = check_state, .data = r};
    qchain_error *err = qchain_error_create();
    qchain *c = NULL;
    uint64_t began;
    int ret = 0;

    rec_copy(r->disk, r->setup->top);
    rec_record(r->disk->log);
    rec_clock(r->disk->log);
    model_begin(r);
    model_flushed(&r->model, 1, 1);
    r->wrong[0] = '\0';
    if (run_open(r, r->disk, QCHAIN_OPEN_WRITE, NULL, &c, err) != 0)
        ret = run_wrong(r, "cannot be opened for writing: %s", qchain_error_message(err));
    for (uint32_t i = 0; ret == 0 && i < r->n_ops; i++)
        switch (guest_do(r, c, r->op[i], err)) {
        case 0:
        case QCHAIN_E_LIMIT: /* of refcounts that are too narrow */
            break;
        default:
            ret = run_wrong(r, "operation %u (%s) fails: %s", i, guest_name[r->op[i].kind],
                            qchain_error_message(err));
        }
    if (ret == 0)
        ret = check_content(r, c, UINT64_MAX, err);
    began = run_clock(r);
    if (ret == 0 && qchain_finish(c, err) != 0)
        ret = run_wrong(r, "finishing fails: %s", qchain_error_message(err));
    qchain_close(c);
    qchain_error_destroy(err);
    if (ret == 0) {
        model_flushed(&r->model, began, run_clock(r));
        ret = crash_walk(&s);
        r->n_same += s.same;
    }
    return ret;
}

/* After a list that ran to its end nothing may leak. */
static inline int run_check_end(struct run *r)
{
    qchain_error *err = qchain_error_create();
    qchain_check_result res;
    int ret = 0;

    if (check_image(r, r->disk, &res, err) != 0)
        ret = run_wrong(r, "check after the end fails: %s", qchain_error_message(err));
    else if (res.corruptions || res.leaks || res.check_errors)
        ret = run_wrong(r, "after the end: %llu corruptions, %llu leaks", (unsigned long long)res.corruptions,
                        (unsigned long long)res.leaks);
    else if (r->every_qemu && qemu_check(r, r->disk) != 0)
        ret = run_wrong(r, "after the end qemu-img check is not satisfied");
    qchain_error_destroy(err);
    return ret;
}

#endif
