/* SPDX-License-Identifier: MIT */
/* Maps and differences, a bounded piece a call. */
#include "chain/chain.h"
#include "chain/extents.h"
#include "chain/fill.h"
#include "chain/tip.h"
#include "util/alloc.h"
#include "util/bytes.h"

/* Runs copied out of a window at a time, so that no I/O is done in the epoch. */
#define BATCH 256

/* The ranges that a diff merges at a time. */
#define DIFF_STEP (UINT64_C(1) << 30)
#define DIFF_STEP_MAX (UINT64_C(1) << 50)
/* Of far layers, which take a round trip each time. */
#define FAR_STEP_LEAST (UINT64_C(128) << 20)
#define FAR_STEP (UINT64_C(16) << 30)

/* Nothing is held in [offset, end): tell it without filling windows. */
static int put_nothing(struct qc_extents *x, uint64_t *offset, uint64_t end, qchain_error *err)
{
    struct qc_run gap;
    int ret = 0;

    while (ret == 0 && *offset < end && !x->full) {
        gap = qc_fill_nothing(x->c, *offset, end);
        ret = qc_extents_put(x, &gap, offset, qc_min64(end, qc_run_end(&gap)), err);
    }
    return ret;
}

/* Put what one window holds of [*offset, end). */
static int put_window(struct qc_extents *x, uint64_t *offset, uint64_t end, struct qc_run *batch,
                      qchain_error *err)
{
    size_t n;
    int ret = qc_index_copy(x->c, *offset, end, batch, BATCH, &n, err);

    for (size_t i = 0; ret == 0 && i < n && *offset < end && !x->full; i++)
        ret = qc_extents_put(x, &batch[i], offset, end, err);
    return ret;
}

/* What the frozen layers hold of [*offset, end). */
static int put_frozen(struct qc_extents *x, uint64_t *offset, uint64_t end, struct qc_run *batch,
                      qchain_error *err)
{
    qchain *c = x->c;
    uint64_t window = qc_window_size(&c->index), used;
    int ret = 0;

    while (ret == 0 && *offset < end && !x->full) {
        if (!qc_index_known(c, *offset)) {
            ret = qc_fill_next_used(c, c->frozen, c->n_layers, *offset, end, &used, err);
            /* A hole that reaches over whole windows needs none of them. */
            used = used == end ? end : qc_align_down(used, window);
            if (ret == 0 && used > *offset) {
                ret = put_nothing(x, offset, used, err);
                continue;
            }
            if (ret == 0)
                qc_index_fill_ahead(c, *offset, end);
        }
        if (ret == 0)
            ret = put_window(x, offset, end, batch, err);
    }
    return ret;
}

/* The same with a tip above. */
static int put_tip(struct qc_extents *x, uint64_t *offset, uint64_t end, struct qc_run *batch,
                   qchain_error *err)
{
    qchain *c = x->c;
    enum qc_kind kind;
    struct qc_run r;
    uint64_t stop;
    int ret = 0;

    while (ret == 0 && *offset < end && !x->full) {
        ret = qc_tip_locate(c, *offset, end, &r, err);
        kind = qc_run_kind(&r);
        stop = qc_min64(end, qc_run_end(&r));
        if (ret != 0)
            break;
        if (kind != QC_ABSENT && kind != QC_PREALLOC) {
            ret = qc_extents_put(x, &r, offset, stop, err);
        } else if (*offset < c->index.size) {
            ret = put_frozen(x, offset, qc_min64(stop, c->index.size), batch, err);
        } else {
            if (kind == QC_ABSENT)
                r = qc_tip_nothing(c, *offset, stop);
            ret = qc_extents_put(x, &r, offset, qc_min64(stop, qc_run_end(&r)), err);
        }
    }
    return ret;
}

int qc_chain_map(qchain *c, uint64_t offset, uint64_t end, qchain_extent *extents, uint32_t max,
                 uint32_t *n, uint64_t *next, uint32_t flags, qchain_error *err)
{
    struct qc_extents x = {.c = c, .out = extents, .max = max, .flags = flags};
    struct qc_run batch[BATCH];
    unsigned token = 0;
    int ret = qc_chain_check(c, err);

    if (c->tip) {
        token = qc_tip_enter(c->tip);
        end = qc_min64(end, c->size);
    }
    if (ret == 0)
        ret = c->tip ? put_tip(&x, &offset, end, batch, err) : put_frozen(&x, &offset, end, batch, err);
    if (c->tip)
        qc_tip_exit(c->tip, token);
    *n = x.n;
    *next = offset;
    return ret;
}

/* True for what no layer holds; places that the bottom has preallocated are of it. */
static bool is_nothing(const qchain *c, const struct qc_run *r)
{
    enum qc_kind kind = qc_run_kind(r);

    return kind == QC_END ||
           (kind == QC_PREALLOC && c->source[r->source].layer + 1 == c->n_layers);
}

/* How much is merged at a time: of far layers as much as there is room for, however small the runs are, so that their
 * tables are asked for together, and not again for the next call. */
static uint64_t diff_merged(const qchain *c, uint32_t below, uint32_t upto, uint32_t max)
{
    uint64_t unit = UINT64_MAX, step = FAR_STEP_LEAST;
    const struct qc_layer *l;

    if (!c->far)
        return DIFF_STEP;
    for (uint32_t k = upto; k < below; k++) {
        l = &c->layer[k];
        if (l->img && l->img->run_unit)
            unit = qc_min64(unit, l->img->run_unit);
        else if (l->cluster_size)
            unit = qc_min64(unit, l->cluster_size);
    }
    while (step < FAR_STEP && 2 * step / unit <= max)
        step *= 2;
    return step;
}

/* Where the step that begins at offset ends: a long one where no layer holds
 * anything, for a disk may be 2^63 bytes of nothing. */
static int diff_step(qchain *c, uint32_t below, uint32_t upto, uint64_t step, uint64_t offset, uint64_t end,
                     uint64_t *stop, qchain_error *err)
{
    uint64_t used = qc_min64(end, qc_align_down(offset, DIFF_STEP_MAX) + DIFF_STEP_MAX);
    int ret = qc_fill_next_used(c, upto, below, offset, used, &used, err);

    if (ret != 0)
        return ret;
    used = used < end ? qc_align_down(used, step) : end;
    *stop = qc_max64(used, qc_min64(qc_align_down(offset, step) + step, end));
    return 0;
}

int qc_chain_diff(qchain *c, uint32_t below, uint32_t upto, uint64_t offset, uint64_t end,
                  qchain_extent *extents, uint32_t max, uint32_t *n, uint64_t *next,
                  uint32_t flags, qchain_error *err)
{
    struct qc_extents x = {.c = c, .out = extents, .max = max, .flags = flags};
    struct qc_runs runs = {0};
    unsigned token = 0;
    uint64_t stop, at, step = diff_merged(c, below, upto, max);
    int ret = qc_chain_check(c, err);

    if (c->tip) {
        token = qc_tip_enter(c->tip);
        end = qc_min64(end, c->size);
    }
    while (ret == 0 && offset < end && !x.full) {
        ret = diff_step(c, below, upto, step, offset, end, &stop, err);
        if (ret != 0)
            break;
        at = qc_align_down(offset, 512);
        ret = upto == 0 ? qc_fill_upper(c, below, at, qc_align_up(stop, 512), &runs, err)
                        : qc_fill_layers(c, upto, below, at, qc_align_up(stop, 512), &runs, err);
        if (ret != 0)
            break;
        qc_runs_join(&runs);
        for (size_t i = 0; ret == 0 && i < runs.n && !x.full; i++) {
            at = qc_max64(offset, runs.run[i].guest);
            if (!is_nothing(c, &runs.run[i]) && at < qc_min64(qc_run_end(&runs.run[i]), stop))
                ret = qc_extents_put(&x, &runs.run[i], &at, stop, err);
            if (x.full)
                offset = at;
        }
        if (!x.full)
            offset = stop;
    }
    if (c->tip)
        qc_tip_exit(c->tip, token);
    qc_runs_finish(&runs);
    *n = x.n;
    *next = offset;
    return ret;
}
