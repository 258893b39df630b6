/* SPDX-License-Identifier: MIT */
#include "chain/fill.h"

#include "chain/chain.h"
#include "chain/sidecar.h"
#include "chain/tip.h"
#include "util/alloc.h"
#include "util/bytes.h"

/* Layers that one task of a parallel fill visits. */
#define GROUP_LAYERS 32
/* Groups of a far chain: each layer's metadata takes some round trips. */
#define FAR_GROUPS 128
/* The longest run of nothing: lengths are 32 bits of sectors. */
#define GAP_MAX (UINT64_C(1) << 40)

/* What a fill works with: one set a call, its arrays reused from layer to layer. */
struct fill {
    struct qchain  *c;
    uint64_t        start, end;
    uint64_t        limit;   /* what shows at most, from the first layer to this one */
    uint32_t        bottom;  /* the layers in view end before this one */
    uint64_t        covered; /* bytes of acc */
    struct qc_runs *acc;
    struct qc_runs  layer;   /* one layer's runs */
    struct qc_runs  prealloc;
};

/* A layer's runs speak of source 0: give them the chain's number, and move those
 * that only name a place aside. A compressed run may stick out of the range that
 * was asked for: it is cut, or more than the range would count as covered. */
static int adopt_runs(struct fill *f, const struct qc_layer *l, uint64_t end)
{
    size_t to = 0;
    enum qc_kind kind;
    int ret;

    f->prealloc.n = 0;
    for (size_t i = 0; i < f->layer.n; i++) {
        struct qc_run r = f->layer.run[i];
        uint64_t a = qc_max64(r.guest, f->start), b = qc_min64(qc_run_end(&r), end);

        if (a >= b)
            continue;
        kind = qc_run_kind(&r);
        if (kind != QC_COMPRESSED && qc_kind_has_host(kind))
            r.host_kind += (a - r.guest) << 8;
        r.guest = a;
        r.length = (uint32_t)((b - a) >> 9);
        r.source = qc_kind_has_host(kind) ? l->data_source : l->source;
        if (kind == QC_PREALLOC) {
            ret = qc_runs_reserve(&f->prealloc, f->prealloc.n + 1);
            if (ret != 0)
                return ret;
            f->prealloc.run[f->prealloc.n++] = r;
        } else {
            f->layer.run[to++] = r;
        }
    }
    f->layer.n = to;
    return 0;
}

/* Below a layer [from, to) shows nothing: zeros of the given kind, with the
 * places that the layer has preallocated. */
static int add_nothing(struct fill *f, const struct qc_layer *l, uint64_t from, uint64_t to,
                       enum qc_kind kind)
{
    struct qc_run gap;
    size_t keep = 0;
    uint64_t step;
    int ret;

    for (size_t i = 0; i < f->prealloc.n; i++) {
        struct qc_run r = f->prealloc.run[i];
        uint64_t a = qc_max64(r.guest, from), b = qc_min64(qc_run_end(&r), to);

        if (a >= b)
            continue;
        r.host_kind += (a - r.guest) << 8;
        r.guest = a;
        r.length = (uint32_t)((b - a) >> 9);
        f->prealloc.run[keep++] = r;
    }
    ret = qc_runs_merge_under(f->acc, f->prealloc.run, keep, &f->covered);
    for (; ret == 0 && from < to; from += step) {
        step = qc_min64(to - from, UINT64_C(1) << 40); /* lengths are 32 bits of sectors */
        gap = qc_run_make(from, step, kind, 0);
        gap.source = l->source;
        ret = qc_runs_merge_under(f->acc, &gap, 1, &f->covered);
    }
    return ret;
}

/* The runs of one layer alone. */
static int map_layer(struct qchain *c, uint32_t k, uint64_t offset, uint64_t length, struct qc_runs *out,
                     qchain_error *err)
{
    struct qc_image *img;
    int ret;

    if (k < c->frozen)
        return qc_tip_map(c, offset, length, out, err);
    img = qc_layer_image(c, k, err);
    if (!img)
        return err->code;
    ret = img->format->map(img, offset, length, out, err);
    if (ret != 0)
        qc_layer_prefix(c, k, err);
    return ret;
}

static int visit_layer(struct fill *f, uint32_t k, qchain_error *err)
{
    struct qchain *c = f->c;
    const struct qc_layer *l = &c->layer[k];
    uint64_t end, below;
    int ret;

    f->limit = qc_min64(f->limit, l->virtual_size);
    end = qc_min64(f->end, f->limit);
    if (f->start >= end)
        return 0;
    f->layer.n = 0;
    ret = map_layer(c, k, f->start, end - f->start, &f->layer, err);
    if (ret != 0)
        return ret;
    ret = adopt_runs(f, l, end);
    if (ret == 0)
        ret = qc_runs_merge_under(f->acc, f->layer.run, f->layer.n, &f->covered);
    if (ret == 0 && k + 1 == c->n_layers) {
        ret = add_nothing(f, l, f->start, end, QC_END);
    } else if (ret == 0 && k + 1 < f->bottom) {
        below = qc_max64(f->start, c->layer[k + 1].virtual_size);
        if (below < end)
            ret = add_nothing(f, l, below, end, QC_SHORT);
    }
    return ret == 0 ? 0 : qc_fail_nomem(err);
}

/* Of what all layers show together, what those before `bottom` do: who is below decides nothing. */
static void leave_deeper(struct fill *f)
{
    size_t to = 0;

    for (size_t i = 0; i < f->layer.n; i++) {
        const struct qc_run *r = &f->layer.run[i];
        enum qc_kind kind = qc_run_kind(r);
        uint32_t by = f->c->source[r->source].layer;

        /* These are zeros because of the layer below, which is shorter, or is not there. */
        by += kind == QC_END || kind == QC_SHORT || kind == QC_PREALLOC;
        if (by < f->bottom)
            f->layer.run[to++] = *r;
    }
    f->layer.n = to;
}

/* All layers from the sidecar's on down at once. */
static int visit_sidecar(struct fill *f, uint32_t k, qchain_error *err)
{
    uint64_t end;
    int ret;

    f->limit = qc_min64(f->limit, f->c->layer[k].virtual_size);
    end = qc_min64(f->end, f->limit);
    if (f->start >= end)
        return 0;
    f->layer.n = 0;
    ret = qc_sidecar_runs(f->c, f->start, end, &f->layer, err);
    if (ret != 0)
        return ret;
    if (f->bottom < f->c->n_layers)
        leave_deeper(f);
    ret = qc_runs_merge_under(f->acc, f->layer.run, f->layer.n, &f->covered);
    return ret == 0 ? 0 : qc_fail_nomem(err);
}

/* limit: what shows of the first layer. */
static int fill_range(struct qchain *c, uint32_t first, uint32_t last, uint32_t bottom,
                      uint64_t limit, uint64_t start, uint64_t end, struct qc_runs *out,
                      qchain_error *err)
{
    struct fill f = {.c = c, .start = start, .end = end, .limit = limit, .bottom = bottom,
                     .acc = out};
    uint64_t whole = start < limit ? qc_min64(end, limit) - start : 0;
    uint32_t known = qc_sidecar_first(c);
    qchain_error local;
    int ret = 0;

    if (!err) {
        qc_error_init(&local);
        err = &local;
    }
    out->n = 0;
    for (uint32_t k = first; ret == 0 && k < last && f.covered < whole; k++) {
        if (k == known) {
            ret = visit_sidecar(&f, k, err);
            if (ret == 0 || ret == QCHAIN_E_NOMEM)
                break;
            qc_error_init(err); /* damaged: the layers themselves tell */
        }
        ret = visit_layer(&f, k, err);
    }
    qc_runs_finish(&f.layer);
    qc_runs_finish(&f.prealloc);
    return ret;
}

int qc_fill_layers(struct qchain *c, uint32_t first, uint32_t last, uint64_t start, uint64_t end,
                   struct qc_runs *out, qchain_error *err)
{
    return fill_range(c, first, last, last, c->layer[first].virtual_size, start, end, out, err);
}

struct group_fill {
    struct qchain  *c;
    uint32_t        first, last; /* the layers of all of them */
    uint64_t        start, end;
    uint32_t        n;     /* groups; what a sidecar knows is part of the last */
    uint32_t        layers; /* in a group */
    struct qc_runs *runs;  /* one list a group */
    int            *rets;  /* one a group, */
    qchain_error   *errs;  /* and why */
};

static int fill_group(void *ctx, uint64_t i)
{
    struct group_fill *g = ctx;
    uint32_t first = g->first + (uint32_t)i * g->layers;
    uint32_t last = i + 1 < g->n ? first + g->layers : g->last;

    qc_error_init(&g->errs[i]);
    g->rets[i] = fill_range(g->c, first, last, g->last, g->c->layer[first].limit, g->start, g->end,
                            &g->runs[i], &g->errs[i]);
    return 0; /* whether it matters is seen when those above are known */
}

/* Merge the groups from the top down. What fails below all that shows is no failure. */
static int merge_groups(const struct group_fill *g, struct qc_runs *out, qchain_error *err)
{
    uint64_t covered = 0;
    int ret = 0;

    for (uint32_t i = 0; ret == 0 && i < g->n && covered < g->end - g->start; i++) {
        if (g->rets[i] != 0) {
            qc_error_copy(err, &g->errs[i]);
            return g->rets[i];
        }
        ret = qc_runs_merge_under(out, g->runs[i].run, g->runs[i].n, &covered);
    }
    return ret == 0 ? 0 : qc_fail_nomem(err);
}

/* Groups of layers [first, last) on several threads, then one merge. */
static int fill_in_groups(struct qchain *c, struct qc_pool *pool, uint32_t layers, uint32_t first, uint32_t last,
                          uint64_t start, uint64_t end, struct qc_runs *out, qchain_error *err)
{
    uint32_t n = ((uint32_t)qc_min64(qc_sidecar_first(c), last) - first + layers - 1) / layers;
    struct group_fill g = {c, first, last, start, end, n, layers, NULL, NULL, NULL};
    int ret;

    out->n = 0;
    g.runs = qc_calloc(n, sizeof(*g.runs));
    g.rets = qc_calloc(n, sizeof(*g.rets));
    g.errs = qc_calloc(n, sizeof(*g.errs));
    if (g.runs && g.rets && g.errs) {
        qc_pool_run(pool, qc_pool_threads(pool), n, fill_group, &g);
        ret = merge_groups(&g, out, err);
    } else {
        ret = qc_fail_nomem(err);
    }
    for (uint32_t i = 0; g.runs && i < n; i++)
        qc_runs_finish(&g.runs[i]);
    qc_free(g.runs);
    qc_free(g.rets);
    qc_free(g.errs);
    return ret;
}

int qc_fill_all(struct qchain *c, uint64_t start, uint64_t end, struct qc_runs *out,
                qchain_error *err)
{
    uint32_t layers = qc_sidecar_first(c) - c->frozen;

    if (c->far && layers > 1)
        return fill_in_groups(c, c->env->far, (layers + FAR_GROUPS - 1) / FAR_GROUPS, c->frozen, c->n_layers,
                              start, end, out, err);
    if (layers >= 2 * GROUP_LAYERS && qc_pool_threads(c->env->pool) > 1)
        return fill_in_groups(c, c->env->pool, GROUP_LAYERS, c->frozen, c->n_layers, start, end, out, err);
    return qc_fill_layers(c, c->frozen, c->n_layers, start, end, out, err);
}

int qc_fill_upper(struct qchain *c, uint32_t last, uint64_t start, uint64_t end, struct qc_runs *out,
                  qchain_error *err)
{
    uint32_t layers = (uint32_t)qc_min64(qc_sidecar_first(c), last);

    if (c->far && layers > 1)
        return fill_in_groups(c, c->env->far, (layers + FAR_GROUPS - 1) / FAR_GROUPS, 0, last, start, end, out, err);
    return qc_fill_layers(c, 0, last, start, end, out, err);
}

int qc_fill_next_used(struct qchain *c, uint32_t first, uint32_t last, uint64_t guest, uint64_t end,
                      uint64_t *used, qchain_error *err)
{
    uint32_t known = last == c->n_layers ? qc_sidecar_first(c) : last;
    uint64_t least = end, limit = UINT64_MAX, at;
    int ret;

    for (uint32_t k = first; k < last && least > guest; k++) {
        struct qc_image *img;

        limit = qc_min64(limit, c->layer[k].virtual_size);
        if (guest >= limit)
            break; /* what is deeper shows even less */
        if (k == known) {
            at = qc_sidecar_next_used(c, guest);
        } else if (k < c->frozen) {
            ret = qc_tip_next_used(c, guest, qc_min64(end, limit), &at, err);
            if (ret != 0)
                return ret;
        } else {
            img = qc_layer_image(c, k, err);
            if (!img)
                return err->code;
            ret = img->format->next_used(img, guest, &at, err);
            if (ret != 0) {
                qc_layer_prefix(c, k, err);
                return ret;
            }
        }
        if (at < limit)
            least = qc_min64(least, at);
        if (k == known)
            break;
    }
    *used = qc_max64(least, guest);
    return 0;
}

struct qc_run qc_fill_nothing(const struct qchain *c, uint64_t offset, uint64_t end)
{
    struct qc_run gap;
    uint64_t start = qc_align_down(offset, 512); /* runs are sectors, ranges are bytes */
    uint32_t k = c->frozen, high = c->n_layers, mid;

    /* The deepest layer that still reaches here: nothing shows below it. Limits fall. */
    while (k + 1 < high) {
        mid = k + (high - k) / 2;
        if (offset < c->layer[mid].limit)
            k = mid;
        else
            high = mid;
    }
    end = qc_min64(qc_min64(end, c->layer[k].limit), qc_align_down(offset, GAP_MAX) + GAP_MAX);
    gap = qc_run_make(start, qc_align_up(end, 512) - start,
                      k + 1 == c->n_layers ? QC_END : QC_SHORT, 0);
    gap.source = c->layer[k].source;
    return gap;
}
