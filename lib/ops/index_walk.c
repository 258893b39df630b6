/* SPDX-License-Identifier: MIT */
/* Walking a whole disk in stretches: what building a sidecar and checking one share. The
 * windows of the index are left alone: what is walked is always what the layers say now. */
#include "chain/chain.h"
#include "chain/fill.h"
#include "chain/index_file.h"
#include "ops/index_build.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/pool.h"

#define STRETCHES_A_THREAD 4

int qc_walk_init(struct qc_walk *w, qchain *c, unsigned threads, qchain_error *err)
{
    unsigned max;

    *w = (struct qc_walk){.c = c, .width = threads ? threads : qc_pool_threads(c->env->pool)};
    max = w->width * STRETCHES_A_THREAD;
    w->piece = qc_max64(c->index.span << c->index.window_bits, QC_IXF_WINDOW);
    if (c->index.window_bits != QC_WINDOW_BITS)
        w->piece = QC_IXF_WINDOW;
    w->runs = qc_calloc(max, sizeof(*w->runs));
    w->errs = qc_calloc(max, sizeof(*w->errs));
    if (w->runs && w->errs)
        return 0;
    qc_walk_finish(w);
    return qc_fail_nomem(err);
}

void qc_walk_finish(struct qc_walk *w)
{
    for (unsigned i = 0; w->runs && i < w->width * STRETCHES_A_THREAD; i++)
        qc_runs_finish(&w->runs[i]);
    qc_free(w->runs);
    qc_free(w->errs);
    w->runs = NULL;
    w->errs = NULL;
}

void qc_walk_range(const struct qc_walk *w, unsigned i, uint64_t *start, uint64_t *end)
{
    *start = w->start + i * w->piece;
    *end = i + 1 < w->n ? *start + w->piece : w->at;
}

static int walk_one(void *ctx, uint64_t i)
{
    struct qc_walk *w = ctx;
    uint64_t start, end;
    int ret;

    qc_walk_range(w, (unsigned)i, &start, &end);
    ret = qc_fill_layers(w->c, 0, w->c->n_layers, start, end, &w->runs[i], &w->errs[i]);
    if (ret == 0)
        qc_runs_join(&w->runs[i]);
    return ret;
}

/* [w->at, end) holds nothing: its runs are known without a look at the layers. */
static int walk_nothing(struct qc_walk *w, uint64_t end, qchain_error *err)
{
    struct qc_runs *runs = &w->runs[0];
    struct qc_run gap;

    w->n = 1;
    w->start = w->at;
    w->at = end;
    runs->n = 0;
    for (uint64_t at = w->start; at < end; at = qc_run_end(&gap)) {
        gap = qc_fill_nothing(w->c, at, end);
        if (qc_runs_reserve(runs, runs->n + 1) != 0)
            return qc_fail_nomem(err);
        runs->run[runs->n++] = gap;
    }
    return 0;
}

int qc_walk_next(struct qc_walk *w, qchain_error *err)
{
    unsigned max = w->width * STRETCHES_A_THREAD;
    uint64_t used;
    int ret;

    w->n = 0;
    if (w->at >= w->end)
        return 0;
    ret = qc_fill_next_used(w->c, 0, w->c->n_layers, w->at, w->end, &used, err);
    if (ret != 0)
        return ret;
    if (used < w->end)
        used = qc_align_down(used, QC_IXF_WINDOW);
    /* Not all of an endless nothing at once: its runs are 1 TiB long at most. */
    used = qc_min64(used, qc_align_down(w->at, QC_IXF_WINDOW) + (UINT64_C(1) << 52));
    if (used > w->at)
        return walk_nothing(w, used, err);
    w->start = w->at;
    w->n = (unsigned)qc_min64(max, qc_div_up(w->end - w->at, w->piece));
    w->at = qc_min64(w->end, w->start + w->n * w->piece);
    for (unsigned i = 0; i < w->n; i++)
        qc_error_init(&w->errs[i]);
    ret = qc_pool_run(w->c->env->pool, w->width, w->n, walk_one, w);
    for (unsigned i = 0; ret != 0 && i < w->n; i++) {
        if (w->errs[i].code) {
            qc_error_copy(err, &w->errs[i]);
            break;
        }
    }
    return ret;
}
