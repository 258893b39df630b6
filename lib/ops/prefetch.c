/* SPDX-License-Identifier: MIT */
/*
 * Prefetching: disks take turns; of each a batch is mapped (prefetch_plan.c), and what the disk cache lacks of it
 * is asked for as fast as the rules let (prefetch_window.c). While a batch is mapped, what was asked for before
 * is on its way: one thread is enough.
 */
#include "ops/prefetch.h"

#include "ops/prefetch_int.h"
#include "chain/tip.h"
#include "ops/rebase.h"
#include "remote/bring.h"
#include "util/alloc.h"
#include "util/bytes.h"

#define FLUSH_NS (UINT64_C(500) * 1000000) /* so often tops are made durable: a kill takes back what came later */

struct prefetch {
    const qchain_prefetch_opts *o;
    qchain_prefetch_result     *result;
    struct qc_prefetch_disk    *disk;
    uint32_t                    n, n_held; /* disks; of them those whose tops stay what they are */
    struct qc_prefetch_batch    batch;
    struct qc_prefetch_window  *window;
    uint64_t                    flushed_ns;
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
            ret = qc_prefetch_begin(p->window, c, source, s, at, length, NULL, 0, err);
        if (ret == 0) {
            fetched += length;
            at += length;
        }
    }
    p->result->cached += at - start - fetched;
    return ret;
}

static int fetch_for_cache(struct prefetch *p, qchain *c, const struct qc_want *w, struct qc_store *s,
                           qchain_error *err)
{
    uint64_t to, most;
    int ret = 0;

    for (uint64_t at = w->start; ret == 0 && at < w->end; at = to) {
        most = qc_prefetch_request(p->window, c->env->remote);
        to = qc_min64(qc_align_down(at, most) + most, w->end);
        ret = fetch_piece(p, c, w->source, s, at, to, err);
    }
    return ret;
}

/* So many of the pieces are one request of at most that length, but one at least; *end: its end. */
static uint32_t fit(const struct qc_want *piece, uint32_t n, uint64_t most, uint64_t *end)
{
    uint32_t k;

    *end = piece[0].end;
    for (k = 1; k < n && qc_max64(*end, piece[k].end) - piece[0].start <= most; k++)
        *end = qc_max64(*end, piece[k].end);
    return k;
}

/* Make durable what tops have got. */
static int flush_tops(struct prefetch *p, qchain_error *err)
{
    int ret = 0;

    for (uint32_t i = 0; ret == 0 && i < p->n_held; i++)
        ret = qc_chain_flush(p->disk[i].c, err);
    p->flushed_ns = qc_now_ns();
    return ret;
}

/* Whole pieces: what the top lacks of them is stored there. */
static int fetch_for_top(struct prefetch *p, qchain *c, const struct qc_want *w, struct qc_store *s, qchain_error *err)
{
    const struct qc_want *piece = p->batch.piece + w->first;
    uint64_t end;
    size_t length;
    int ret = 0;

    for (uint32_t i = 0, n; ret == 0 && i < w->n_pieces; i += n) {
        n = fit(piece + i, w->n_pieces - i, qc_prefetch_request(p->window, c->env->remote), &end);
        length = (size_t)(end - piece[i].start);
        ret = qc_prefetch_hold(p->window, c->env->remote, &length, err);
        if (ret == 0 && length < end - piece[i].start) {
            n = fit(piece + i, n, length, &end);
            if (end - piece[i].start > length)
                return QC_PREFETCH_ENDED(QCHAIN_PREFETCH_BYTES);
        }
        if (ret == 0)
            ret = qc_prefetch_begin(p->window, c, w->source, s, piece[i].start, (size_t)(end - piece[i].start),
                                    piece + i, n, err);
        if (ret == 0 && qc_now_ns() - p->flushed_ns > FLUSH_NS)
            ret = flush_tops(p, err);
    }
    return ret;
}

static int fetch_want(struct prefetch *p, qchain *c, const struct qc_want *w, qchain_error *err)
{
    struct qc_store *s = qc_source_store(c, w->source, err);
    int ret = s ? qc_chain_check(c, err) : err->code;

    if (ret == 0)
        ret = (p->batch.piece ? fetch_for_top : fetch_for_cache)(p, c, w, s, err);
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

/* Can it take anything? Tops stay what they are meanwhile; for the cache there must be one if a layer of the chain lies
 * behind a URL. */
static int begin_disk(struct prefetch *p, qchain *c, qchain_error *err)
{
    bool far = false;
    int ret;

    if (p->batch.piece) {
        ret = qc_restack_begin(c, "prefetch", err);
        p->n_held += ret == 0;
        return ret;
    }
    for (uint32_t i = 0; !far && i < c->n_sources; i++)
        far = qc_source_opened(c, i) ? qc_remote_is(qc_source_opened(c, i)) : qc_remote_name(c->source[i].name);
    return far ? qc_bring_check(c->env->remote, err) : 0;
}

static int begin(struct prefetch *p, qchain *const *chains, qchain_error *err)
{
    uint64_t length, total = 0;
    int ret = qc_prefetch_batch_init(&p->batch, p->o->flags, err);

    p->disk = qc_calloc(p->n, sizeof(*p->disk));
    p->window = qc_prefetch_window_create(p->o, qc_now_ns());
    if (ret == 0 && (!p->disk || !p->window))
        ret = qc_fail_nomem(err);
    for (uint32_t i = 0; ret == 0 && i < p->n; i++) {
        ret = qc_prefetch_disk_init(&p->disk[i], chains[i], p->o, i, &length, err);
        if (ret == 0)
            ret = begin_disk(p, chains[i], err);
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
    struct prefetch p = {.o = o, .result = result, .n = n, .flushed_ns = qc_now_ns()};
    int ret = begin(&p, chains, err);

    if (ret == 0)
        ret = take_turns(&p, err);
    if (ret >= 0) {
        int flushed = flush_tops(&p, err);

        ret = flushed != 0 ? flushed : ret;
    }
    for (uint32_t i = 0; i < p.n_held; i++)
        qc_restack_end(chains[i]);
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
