/* SPDX-License-Identifier: MIT */
#include "chain/index.h"

#include "chain/chain.h"
#include "chain/fill.h"
#include "util/alloc.h"
#include "util/bytes.h"

#define PAGE_WINDOWS 512
#define MAX_PAGES 65536
/* Spans that a map fills at a time, for each thread. */
#define SPANS_A_THREAD 32
/* A span brings at most this much disk into one merge. */
#define SPAN_MAX (UINT64_C(1) << 33)

struct qc_window_page {
    qc_window_slot window[PAGE_WINDOWS];
};

/* Windows [first, last) are being filled by somebody. */
struct qc_fill_claim {
    struct qc_fill_claim *next;
    uint64_t first, last;
};

/* The disk that the biggest L2 table of the chain covers, in windows: fills of
 * many windows go by it, so that each table is read with one call. */
static uint64_t choose_span(const struct qchain *c)
{
    uint64_t unit = 0, window = qc_window_size(&c->index);

    for (uint32_t k = 0; k < c->n_layers; k++)
        unit = qc_max64(unit, qc_min64(c->layer[k].img->map_unit, SPAN_MAX));
    /* Two at a time: visiting a layer costs even where it holds nothing. */
    unit = qc_min64(2 * unit, SPAN_MAX);
    /* A small disk is cut finer, to give every thread something. */
    while (unit > window && c->size / unit < 4 * (uint64_t)qc_pool_threads(c->env->pool))
        unit /= 2;
    return unit <= window ? 1 : unit / window;
}

int qc_index_init(struct qchain *c, qchain_error *err)
{
    struct qc_index *ix = &c->index;

    ix->window_bits = QC_WINDOW_BITS;
    while (qc_div_up(c->size, qc_window_size(ix)) > (uint64_t)MAX_PAGES * PAGE_WINDOWS)
        ix->window_bits++;
    ix->n_windows = qc_div_up(c->size, qc_window_size(ix));
    ix->n_pages = qc_div_up(ix->n_windows, PAGE_WINDOWS);
    ix->page = qc_calloc(ix->n_pages, sizeof(*ix->page));
    if (!ix->page)
        return qc_fail_nomem(err);
    pthread_mutex_init(&ix->lock, NULL);
    pthread_cond_init(&ix->filled, NULL);
    ix->span = choose_span(c);
    return 0;
}

void qc_index_finish(struct qchain *c)
{
    struct qc_index *ix = &c->index;

    if (!ix->page)
        return;
    qc_ring_drop_owner(&c->env->windows, c);
    for (uint64_t i = 0; i < ix->n_pages; i++)
        qc_free(atomic_load(&ix->page[i]));
    qc_free(ix->page);
    pthread_cond_destroy(&ix->filled);
    pthread_mutex_destroy(&ix->lock);
}

/* The place of window w, or NULL if its page was never made. */
static qc_window_slot *find_slot(struct qc_index *ix, uint64_t w)
{
    struct qc_window_page *page = atomic_load(&ix->page[w / PAGE_WINDOWS]);

    return page ? &page->window[w % PAGE_WINDOWS] : NULL;
}

static qc_window_slot *make_slot(struct qc_index *ix, uint64_t w)
{
    struct qc_window_page *page;

    pthread_mutex_lock(&ix->lock);
    page = atomic_load(&ix->page[w / PAGE_WINDOWS]);
    if (!page) {
        page = qc_calloc(1, sizeof(*page));
        atomic_store(&ix->page[w / PAGE_WINDOWS], page);
    }
    pthread_mutex_unlock(&ix->lock);
    return page ? &page->window[w % PAGE_WINDOWS] : NULL;
}

static bool window_known(struct qc_index *ix, uint64_t w)
{
    qc_window_slot *slot = find_slot(ix, w);

    return slot && atomic_load(slot);
}

int qc_index_known(struct qchain *c, uint64_t guest)
{
    return window_known(&c->index, guest >> c->index.window_bits);
}

static bool claimed(const struct qc_index *ix, uint64_t first, uint64_t last)
{
    for (const struct qc_fill_claim *claim = ix->claims; claim; claim = claim->next)
        if (claim->first < last && first < claim->last)
            return true;
    return false;
}

/* Wait until nobody fills any of [first, last), then claim it. */
static void claim_windows(struct qc_index *ix, struct qc_fill_claim *claim, uint64_t first,
                          uint64_t last)
{
    pthread_mutex_lock(&ix->lock);
    while (claimed(ix, first, last))
        pthread_cond_wait(&ix->filled, &ix->lock);
    claim->first = first;
    claim->last = last;
    claim->next = ix->claims;
    ix->claims = claim;
    pthread_mutex_unlock(&ix->lock);
}

static void release_claim(struct qc_index *ix, struct qc_fill_claim *claim)
{
    struct qc_fill_claim **at = &ix->claims;

    pthread_mutex_lock(&ix->lock);
    while (*at != claim)
        at = &(*at)->next;
    *at = claim->next;
    pthread_cond_broadcast(&ix->filled);
    pthread_mutex_unlock(&ix->lock);
}

/* Cut run number *at (and those after it) at the end of window w: the window's
 * runs are put into part. */
static int cut_window(const struct qc_runs *all, size_t *at, uint64_t start, uint64_t end,
                      struct qc_runs *part)
{
    int ret;

    part->n = 0;
    for (; *at < all->n && all->run[*at].guest < end; (*at)++) {
        struct qc_run r = all->run[*at];
        uint64_t from = qc_max64(r.guest, start), to = qc_min64(qc_run_end(&r), end);
        enum qc_kind kind = qc_run_kind(&r);

        if (kind != QC_COMPRESSED && qc_kind_has_host(kind))
            r.host_kind += (from - r.guest) << 8;
        r.guest = from;
        r.length = (uint32_t)((to - from) >> 9);
        ret = qc_runs_reserve(part, part->n + 1);
        if (ret != 0)
            return ret;
        part->run[part->n++] = r;
        if (qc_run_end(&all->run[*at]) > end)
            break;
    }
    return 0;
}

/* Publish runs that cover windows [first, last); *newest receives the last one,
 * which is safe to use only inside an epoch. */
static int publish_windows(struct qchain *c, const struct qc_runs *runs, uint64_t first,
                           uint64_t last, const struct qc_window **newest)
{
    struct qc_index *ix = &c->index;
    struct qc_runs part = {0};
    struct qc_window *w;
    qc_window_slot *slot;
    size_t at = 0;
    int ret = 0;

    for (uint64_t i = first; ret == 0 && i < last; i++) {
        ret = cut_window(runs, &at, i << ix->window_bits,
                         qc_min64((i + 1) << ix->window_bits, c->size), &part);
        if (ret != 0)
            break;
        slot = make_slot(ix, i);
        if (slot && atomic_load(slot))
            continue;
        w = slot ? qc_window_create(part.run, part.n) : NULL;
        if (!w) {
            ret = QCHAIN_E_NOMEM;
            break;
        }
        qc_count(c->env->slots, QC_CNT_FILLS, 1);
        qc_ring_publish(&c->env->windows, c->env->slots, w, slot, c);
        *newest = w;
    }
    qc_runs_finish(&part);
    return ret;
}

/* Fill windows [first, last), which this thread has claimed; *bytes receives what
 * their runs take. */
static int fill_windows(struct qchain *c, uint64_t first, uint64_t last, uint64_t *bytes,
                        qchain_error *err)
{
    struct qc_index *ix = &c->index;
    const struct qc_window *newest;
    struct qc_runs runs = {0};
    int ret;

    ret = qc_fill_layers(c, 0, c->n_layers, first << ix->window_bits,
                         qc_min64(last << ix->window_bits, c->size), &runs, err);
    if (ret == 0) {
        qc_runs_join(&runs);
        *bytes = runs.n * sizeof(runs.run[0]);
        ret = publish_windows(c, &runs, first, last, &newest);
        if (ret != 0)
            qc_fail_nomem(err);
    }
    qc_runs_finish(&runs);
    return ret;
}

/* Fill one window for the caller, who is let into the epoch with it. The epoch
 * is entered before the window is published, so that it may be evicted at once
 * but not freed; not earlier, as reading may wait for readers to leave. */
static const struct qc_window *fill_one(struct qchain *c, uint64_t w, unsigned *token,
                                        qchain_error *err)
{
    struct qc_index *ix = &c->index;
    const struct qc_window *window = NULL;
    struct qc_runs runs = {0};
    int ret;

    ret = qc_fill_all(c, w << ix->window_bits, qc_min64((w + 1) << ix->window_bits, c->size),
                      &runs, err);
    if (ret == 0) {
        qc_runs_join(&runs);
        *token = qc_epoch_enter(c->env->slots);
        ret = publish_windows(c, &runs, w, w + 1, &window);
        if (ret != 0) {
            qc_epoch_exit(c->env->slots, *token);
            qc_fail_nomem(err);
        }
    }
    qc_runs_finish(&runs);
    return window;
}

static const struct qc_window *look(struct qchain *c, uint64_t w, unsigned *token)
{
    qc_window_slot *slot = find_slot(&c->index, w);
    struct qc_window *window;

    if (!slot)
        return NULL;
    *token = qc_epoch_enter(c->env->slots);
    window = atomic_load(slot);
    if (!window) {
        qc_epoch_exit(c->env->slots, *token);
        return NULL;
    }
    if (!atomic_load_explicit(&window->used, memory_order_relaxed))
        atomic_store_explicit(&window->used, true, memory_order_relaxed);
    return window;
}

const struct qc_window *qc_index_get(struct qchain *c, uint64_t guest, unsigned *token,
                                     qchain_error *err)
{
    struct qc_index *ix = &c->index;
    uint64_t w = guest >> ix->window_bits;
    const struct qc_window *window;
    struct qc_fill_claim claim;
    bool known;

    while (!(window = look(c, w, token))) {
        claim_windows(ix, &claim, w, w + 1);
        known = window_known(ix, w); /* somebody else filled it while we waited */
        if (!known)
            window = fill_one(c, w, token, err);
        release_claim(ix, &claim);
        if (!known)
            break;
    }
    return window;
}

struct ensure {
    struct qchain *c;
    uint64_t       first, last; /* windows */
    uint64_t       spans;
    uint64_t       room;        /* bytes that may be filled ahead of the caller */
    qchain_error  *errs;
    atomic_uint_fast64_t filled;
};

static int ensure_span(void *ctx, uint64_t i)
{
    struct ensure *e = ctx;
    struct qc_index *ix = &e->c->index;
    uint64_t span = (e->first / ix->span + i) * ix->span;
    uint64_t first = qc_max64(span, e->first), last = qc_min64(span + ix->span, e->last);
    struct qc_fill_claim claim;
    uint64_t bytes = 0;
    int ret = 0;

    /* What would be evicted before the caller comes to it is left to him. */
    if (i > 0 && atomic_load_explicit(&e->filled, memory_order_relaxed) > e->room)
        return 0;
    while (first < last && window_known(ix, first))
        first++;
    while (first < last && window_known(ix, last - 1))
        last--;
    if (first == last)
        return 0;
    claim_windows(ix, &claim, first, last);
    while (first < last && window_known(ix, first)) /* filled while we waited */
        first++;
    if (first < last)
        ret = fill_windows(e->c, first, last, &bytes, &e->errs[i]);
    release_claim(ix, &claim);
    atomic_fetch_add_explicit(&e->filled, bytes, memory_order_relaxed);
    return ret;
}

int qc_index_ensure(struct qchain *c, uint64_t offset, uint64_t end, uint64_t *done,
                    qchain_error *err)
{
    struct qc_index *ix = &c->index;
    unsigned width = qc_pool_threads(c->env->pool);
    struct ensure e = {.c = c, .first = offset >> ix->window_bits};
    int ret;

    /* Many spans a thread, so that all end at about the same time. */
    e.spans = width > 1 ? SPANS_A_THREAD * (uint64_t)width : 1;
    e.room = c->env->windows.budget / 4;
    e.last = (e.first / ix->span + e.spans) * ix->span;
    e.last = qc_min64(e.last, qc_div_up(end, qc_window_size(ix)));
    e.spans = qc_div_up(e.last, ix->span) - e.first / ix->span;
    e.errs = qc_calloc(e.spans, sizeof(*e.errs));
    if (!e.errs)
        return qc_fail_nomem(err);
    ret = qc_pool_run(c->env->pool, width, e.spans, ensure_span, &e);
    for (uint64_t i = 0; ret != 0 && i < e.spans; i++) {
        if (e.errs[i].code) {
            qc_error_copy(err, &e.errs[i]);
            break;
        }
    }
    *done = qc_min64(e.last << ix->window_bits, end);
    qc_free(e.errs);
    return ret;
}
