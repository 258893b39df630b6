/* SPDX-License-Identifier: MIT */
#include "chain/index.h"

#include "chain/chain.h"
#include "chain/fill.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/tasks.h"

#define PAGE_WINDOWS 512
#define MAX_PAGES 65536
/* Spans that a map fills at a time, for each thread. */
#define SPANS_A_THREAD 32
/* The same of a far chain, filled at once. */
#define FAR_SPANS 32
/* A span brings at most this much disk into one merge. */
#define SPAN_MAX (UINT64_C(1) << 33)
/* Runs in one window of a disk so large that its windows are: 24 MiB. */
#define WINDOW_RUNS_MAX (UINT64_C(1) << 20)

struct qc_window_page {
    qc_window_slot window[PAGE_WINDOWS];
};

/* Windows [first, last) are being filled by somebody. */
struct qc_fill_claim {
    struct qc_fill_claim *next;
    uint64_t first, last;
};

/* Spans go by the disk that the biggest L2 table covers, so that each table is
 * read with one call; but the runs of all that threads fill at once must fit a
 * part of the budget even if every cluster is one. */
static void choose_span(struct qchain *c)
{
    struct qc_index *ix = &c->index;
    uint64_t window = qc_window_size(ix), threads = qc_pool_threads(c->env->pool), unit = 0;
    uint64_t least = SPAN_MAX, most_runs;

    ix->unit = UINT64_C(64) << 10;
    for (uint32_t k = c->frozen; k < c->n_layers; k++) {
        const struct qc_image *img = c->layer[k].img;
        uint32_t cluster = c->layer[k].cluster_size;

        if (cluster == 0)
            continue; /* raw has no tables */
        /* What a sidecar tells is at hand in any pieces; it may have subclusters. */
        unit = qc_max64(unit, img ? qc_min64(img->map_unit, SPAN_MAX) : window);
        least = qc_min64(least, img ? img->run_unit : qc_max64(cluster / 32, 512));
        ix->unit = qc_max64(ix->unit, cluster);
    }
    /* Two at a time: visiting a layer costs even where it holds nothing. */
    unit = qc_min64(2 * unit, SPAN_MAX);
    most_runs = c->env->windows.budget / 4 / threads / sizeof(struct qc_run);
    /* A small disk is cut finer, to give every thread something. */
    while (unit > window && (ix->size / unit < 4 * threads || unit / least > most_runs))
        unit /= 2;
    ix->span = unit <= window ? 1 : unit / window;
}

int qc_index_init(struct qchain *c, qchain_error *err)
{
    struct qc_index *ix = &c->index;

    ix->window_bits = QC_WINDOW_BITS;
    ix->size = c->frozen < c->n_layers ? c->layer[c->frozen].virtual_size : 0;
    while (qc_div_up(ix->size, qc_window_size(ix)) > (uint64_t)MAX_PAGES * PAGE_WINDOWS)
        ix->window_bits++;
    ix->n_windows = qc_div_up(ix->size, qc_window_size(ix));
    ix->n_pages = qc_div_up(ix->n_windows, PAGE_WINDOWS);
    ix->page = qc_calloc(ix->n_pages, sizeof(*ix->page));
    if (!ix->page)
        return qc_fail_nomem(err);
    pthread_mutex_init(&ix->lock, NULL);
    pthread_cond_init(&ix->filled, NULL);
    atomic_init(&ix->usual, 0);
    choose_span(c);
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
 * which is safe to use only inside an epoch. for_reads: readers will come back to
 * them at random, so huge pages are worth their price. */
static int publish_windows(struct qchain *c, const struct qc_runs *runs, uint64_t first,
                           uint64_t last, bool for_reads, const struct qc_window **newest)
{
    struct qc_index *ix = &c->index;
    struct qc_runs part = {0};
    struct qc_window *w;
    qc_window_slot *slot;
    size_t at = 0;
    int ret = 0;

    for (uint64_t i = first; ret == 0 && i < last; i++) {
        ret = cut_window(runs, &at, i << ix->window_bits,
                         qc_min64((i + 1) << ix->window_bits, c->index.size), &part);
        if (ret != 0)
            break;
        slot = make_slot(ix, i);
        if (slot && atomic_load(slot))
            continue;
        if (slot)
            w = qc_window_create(for_reads ? &c->env->windows : NULL, part.run, part.n);
        else
            w = NULL;
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
static int fill_windows(struct qchain *c, uint64_t first, uint64_t last, uint64_t *bytes)
{
    struct qc_index *ix = &c->index;
    const struct qc_window *newest;
    uint64_t start = first << ix->window_bits, end = qc_min64(last << ix->window_bits, c->index.size);
    struct qc_runs runs = {0};
    qchain_error err;
    int ret;

    qc_error_init(&err);
    /* A far chain's layers are waited for together; else spans keep all threads busy. */
    if (c->far)
        ret = qc_fill_all(c, start, end, &runs, &err);
    else
        ret = qc_fill_layers(c, c->frozen, c->n_layers, start, end, &runs, &err);
    if (ret == 0) {
        qc_runs_join(&runs);
        *bytes = runs.n * sizeof(runs.run[0]);
        ret = publish_windows(c, &runs, first, last, false, &newest);
    }
    qc_runs_finish(&runs);
    return ret;
}

/* The runs of a window. On disks beyond 4 PiB windows are larger, and filled in
 * steps, so that what a hostile image makes of one stays bounded. */
static int fill_runs(struct qchain *c, uint64_t start, uint64_t end, struct qc_runs *runs,
                     qchain_error *err)
{
    struct qc_runs part = {0};
    uint64_t covered = 0, stop;
    int ret = 0;

    if (c->index.window_bits == QC_WINDOW_BITS)
        return qc_fill_all(c, start, end, runs, err);
    for (; ret == 0 && start < end; start = stop) {
        stop = qc_min64(start + (UINT64_C(1) << QC_WINDOW_BITS), end);
        ret = qc_fill_all(c, start, stop, &part, err);
        if (ret == 0) {
            ret = qc_runs_merge_under(runs, part.run, part.n, &covered);
            if (ret != 0)
                qc_fail_nomem(err);
        }
        qc_runs_join(runs);
        if (ret == 0 && runs->n > WINDOW_RUNS_MAX)
            ret = qc_fail(err, QCHAIN_E_LIMIT,
                          "more than %llu extents around disk offset %llu: too fragmented for a "
                          "disk of this size", (unsigned long long)WINDOW_RUNS_MAX,
                          (unsigned long long)start);
    }
    qc_runs_finish(&part);
    return ret;
}

/* Remember that a window is damaged. Without memory it will be found out again. */
static void publish_damage(struct qchain *c, uint64_t w)
{
    struct qc_window *window = qc_window_damaged();
    qc_window_slot *slot = window ? make_slot(&c->index, w) : NULL;

    if (slot && !atomic_load(slot))
        qc_ring_publish(&c->env->windows, c->env->slots, window, slot, c);
    else
        qc_window_free(window);
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

    ret = fill_runs(c, w << ix->window_bits, qc_min64((w + 1) << ix->window_bits, c->index.size), &runs,
                    err);
    if (ret == 0) {
        qc_runs_join(&runs);
        *token = qc_epoch_enter(c->env->slots);
        ret = publish_windows(c, &runs, w, w + 1, true, &window);
        if (ret != 0) {
            qc_epoch_exit(c->env->slots, *token);
            qc_fail_nomem(err);
        }
    } else if (ret == QCHAIN_E_CORRUPT) {
        publish_damage(c, w);
    }
    qc_runs_finish(&runs);
    return window;
}

static void note_use(struct qc_window *window)
{
    if (!atomic_load_explicit(&window->used, memory_order_relaxed))
        atomic_store_explicit(&window->used, true, memory_order_relaxed);
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
    note_use(window);
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
            return window;
    }
    if (window->n > 0)
        return window;
    qc_epoch_exit(c->env->slots, *token);
    qc_fail(err, QCHAIN_E_CORRUPT, "metadata around disk offset %llu is damaged",
            (unsigned long long)guest);
    return NULL;
}

/* The runs around offset, without the window that they lie in. */
static int copy_alone(struct qchain *c, uint64_t offset, uint64_t end, struct qc_run *run,
                      size_t max, size_t *n, qchain_error *err)
{
    uint64_t start = qc_align_down(offset, c->index.unit);
    struct qc_runs runs = {0};
    int ret;

    ret = qc_fill_all(c, start, qc_min64(start + c->index.unit, c->index.size), &runs, err);
    *n = 0;
    for (size_t i = 0; ret == 0 && i < runs.n && *n < max && runs.run[i].guest < end; i++)
        if (qc_run_end(&runs.run[i]) > offset)
            run[(*n)++] = runs.run[i];
    qc_runs_finish(&runs);
    return ret;
}

static size_t copy_runs(const struct qc_window *w, uint64_t offset, uint64_t end,
                        struct qc_run *run, size_t max)
{
    size_t n = 0;

    for (uint32_t i = qc_window_find(w, offset); i < w->n && n < max; i++) {
        run[n++] = w->run[i];
        if (qc_run_end(&w->run[i]) >= end)
            break;
    }
    return n;
}

int qc_index_copy(struct qchain *c, uint64_t offset, uint64_t end, struct qc_run *run, size_t max,
                  size_t *n, qchain_error *err)
{
    const struct qc_window *w;
    unsigned token;

    w = qc_index_get(c, offset, &token, err);
    if (!w && (err->code == QCHAIN_E_CORRUPT || err->code == QCHAIN_E_IO))
        return copy_alone(c, offset, end, run, max, n, err);
    if (!w)
        return err->code;
    *n = copy_runs(w, offset, end, run, max);
    qc_epoch_exit(c->env->slots, token);
    return 0;
}

size_t qc_index_peek(struct qchain *c, uint64_t offset, uint64_t end, struct qc_run *run,
                     size_t max)
{
    unsigned token;
    const struct qc_window *w = look(c, offset >> c->index.window_bits, &token);
    size_t n;

    if (!w)
        return 0;
    n = w->n > 0 ? copy_runs(w, offset, end, run, max) : 0;
    qc_epoch_exit(c->env->slots, token);
    return n;
}

void qc_index_peek_many(struct qchain *c, struct qc_run *const *run, size_t n)
{
    struct qc_window *w[QC_INDEX_MANY];
    unsigned token = qc_epoch_enter(c->env->slots);
    qc_window_slot *slot;

    for (size_t i = 0; i < n; i++) {
        slot = find_slot(&c->index, run[i]->guest >> c->index.window_bits);
        w[i] = slot ? atomic_load(slot) : NULL;
        run[i]->length = 0;
        if (w[i] && w[i]->n > 0)
            __builtin_prefetch(qc_window_bucket(w[i], run[i]->guest));
        else
            w[i] = NULL;
    }
    for (size_t i = 0; i < n; i++)
        if (w[i])
            qc_window_prefetch(w[i], run[i]->guest);
    for (size_t i = 0; i < n; i++) {
        if (!w[i])
            continue;
        *run[i] = w[i]->run[qc_window_find(w[i], run[i]->guest)];
        note_use(w[i]);
    }
    qc_epoch_exit(c->env->slots, token);
}

/* ------------------------------------------------- for those who do not wait --- */

/* A window that a walker fills. On the list until it is done, under the lock. */
struct qc_walk {
    struct qc_task          task;
    struct qc_walk         *next;
    struct qchain          *c;
    uint64_t                window;
    struct qc_index_waiter *waiters;
};

/* Take a walk off the list, free it, and return who waits for it. */
static struct qc_index_waiter *end_walk(struct qc_walk *walk)
{
    struct qc_index *ix = &walk->c->index;
    struct qc_walk **at = &ix->walks;
    struct qc_index_waiter *waiters;

    pthread_mutex_lock(&ix->lock);
    while (*at != walk)
        at = &(*at)->next;
    *at = walk->next;
    waiters = walk->waiters;
    pthread_mutex_unlock(&ix->lock);
    qc_free(walk);
    return waiters;
}

/* The last one that is told may close the chain: it is not looked at any more. */
static void tell_all(struct qc_index_waiter *w, const struct qc_index_waiter *but, int ret)
{
    struct qc_index_waiter *next;

    for (; w; w = next) {
        next = w->next;
        if (w != but)
            w->ready(w, ret);
    }
}

static void run_walk(struct qc_task *task)
{
    struct qc_walk *walk = (struct qc_walk *)task;
    struct qchain *c = walk->c;
    qchain_error err;
    unsigned token;

    qc_error_init(&err);
    qc_count(c->env->slots, QC_CNT_QUEUE_WALKS, 1);
    if (qc_index_get(c, walk->window << c->index.window_bits, &token, &err))
        qc_epoch_exit(c->env->slots, token);
    tell_all(end_walk(walk), NULL, err.code);
}

bool qc_index_want(struct qchain *c, uint64_t guest, struct qc_index_waiter *w)
{
    struct qc_index *ix = &c->index;
    uint64_t window = guest >> ix->window_bits;
    struct qc_walk *walk, *mine;

    mine = qc_malloc(sizeof(*mine));
    pthread_mutex_lock(&ix->lock);
    for (walk = ix->walks; walk && walk->window != window; walk = walk->next)
        continue;
    if (walk) {
        w->next = walk->waiters;
        walk->waiters = w;
    } else if (mine) {
        w->next = NULL;
        *mine = (struct qc_walk){.task = {.key = c, .run = run_walk},
                                 .next = ix->walks, .c = c, .window = window, .waiters = w};
        ix->walks = mine;
    }
    pthread_mutex_unlock(&ix->lock);
    if (walk || !mine) {
        qc_free(mine);
        return walk != NULL;
    }
    if (qc_tasks_submit(c->env->walkers, &mine->task))
        return true;
    tell_all(end_walk(mine), w, QCHAIN_E_NOMEM); /* others may have joined meanwhile */
    return false;
}

/* ------------------------------------------------------------------------------ */

struct ahead {
    struct qchain *c;
    uint64_t       first, last; /* windows */
    uint64_t       room;        /* bytes that may be filled ahead of the reader */
    atomic_uint_fast64_t filled;
};

/* Leave out what is known at either end of [*first, *last). */
static void trim_known(struct qc_index *ix, uint64_t *first, uint64_t *last)
{
    while (*first < *last && window_known(ix, *first))
        (*first)++;
    while (*first < *last && window_known(ix, *last - 1))
        (*last)--;
}

static int fill_span(void *ctx, uint64_t i)
{
    struct ahead *a = ctx;
    struct qc_index *ix = &a->c->index;
    uint64_t span = (a->first / ix->span + i) * ix->span;
    uint64_t first = qc_max64(span, a->first), last = qc_min64(span + ix->span, a->last);
    uint64_t bytes = 0, usual = atomic_load_explicit(&ix->usual, memory_order_relaxed);
    struct qc_fill_claim claim;

    trim_known(ix, &first, &last);
    if (first == last)
        return 0;
    /* What would be evicted before the reader comes to it is left to him. */
    if (atomic_fetch_add(&a->filled, usual) + usual > a->room && i > 0)
        return 0;
    claim_windows(ix, &claim, first, last);
    trim_known(ix, &first, &last); /* others may have filled it while we waited */
    if (first < last && fill_windows(a->c, first, last, &bytes) == 0)
        atomic_store_explicit(&ix->usual, bytes, memory_order_relaxed);
    release_claim(ix, &claim);
    atomic_fetch_add(&a->filled, bytes - usual);
    return 0;
}

void qc_index_fill_ahead(struct qchain *c, uint64_t offset, uint64_t end)
{
    struct qc_index *ix = &c->index;
    struct qc_pool *pool = c->far ? c->env->far : c->env->pool;
    unsigned width = c->far ? FAR_SPANS : qc_pool_threads(pool);
    struct ahead a = {.c = c, .first = offset >> ix->window_bits};
    uint64_t spans = width > 1 ? SPANS_A_THREAD * (uint64_t)qc_pool_threads(c->env->pool) : 1;

    if (ix->window_bits != QC_WINDOW_BITS)
        return; /* a window of such a disk is a span by itself */
    a.room = c->env->windows.budget / 4;
    a.last = (a.first / ix->span + spans) * ix->span;
    a.last = qc_min64(a.last, qc_div_up(end, qc_window_size(ix)));
    spans = qc_div_up(a.last, ix->span) - a.first / ix->span;
    qc_pool_run(pool, width, spans, fill_span, &a);
}
