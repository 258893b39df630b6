/* SPDX-License-Identifier: MIT */
#include "chain/window.h"

#include <string.h>

#include "util/alloc.h"

#define HEAP_BYTES (256u << 10)

static uint64_t n_buckets(const struct qc_window *w)
{
    uint64_t length = qc_run_end(&w->run[w->n - 1]) - w->base;

    return ((length - 1) >> w->bucket_bits) + 1;
}

static uint64_t window_bytes(const struct qc_window *w)
{
    if (w->n == 0)
        return sizeof(*w);
    return sizeof(*w) + (uint64_t)w->n * sizeof(w->run[0]) +
           (n_buckets(w) + 1) * sizeof(w->bucket[0]);
}

void qc_ring_init(struct qc_ring *r, uint64_t budget)
{
    pthread_mutex_init(&r->lock, NULL);
    r->hand = NULL;
    r->bytes = 0;
    r->budget = budget;
    qc_regions_init(&r->regions);
}

void qc_ring_finish(struct qc_ring *r)
{
    qc_regions_finish(&r->regions);
    pthread_mutex_destroy(&r->lock);
}

/* Bytes of disk a bucket, as a power of two: about two runs in each. */
static uint8_t choose_bucket_bits(uint64_t length, size_t n)
{
    uint8_t bits = 9;

    while (((length - 1) >> bits) + 1 > n / 2 + 1)
        bits++;
    return bits;
}

static void fill_buckets(struct qc_window *w, uint32_t *bucket, uint64_t n)
{
    uint32_t at = 0;

    for (uint64_t i = 0; i < n; i++) {
        while (qc_run_end(&w->run[at]) <= w->base + (i << w->bucket_bits))
            at++;
        bucket[i] = at;
    }
    bucket[n] = w->n - 1; /* a lookup in the last one ends here */
}

/* Memory for a window. The first few of an environment are not worth a region. */
static struct qc_window *take_memory(struct qc_ring *r, size_t size)
{
    struct qc_window *w = NULL;
    bool in_region = r && qc_ring_bytes(r) >= HEAP_BYTES;

    if (in_region)
        w = qc_regions_alloc(&r->regions, size);
    in_region = w != NULL;
    if (!w)
        w = qc_malloc(size);
    if (w) {
        memset(w, 0, sizeof(*w));
        w->regions = in_region ? &r->regions : NULL;
    }
    return w;
}

void qc_window_free(struct qc_window *w)
{
    if (w && w->regions)
        qc_regions_free(w->regions, w);
    else
        qc_free(w);
}

struct qc_window *qc_window_create(struct qc_ring *r, const struct qc_run *run, size_t n)
{
    uint64_t length = qc_run_end(&run[n - 1]) - run[0].guest, buckets;
    uint8_t bits = choose_bucket_bits(length, n);
    struct qc_window *w;

    if (n > UINT32_MAX)
        return NULL;
    buckets = ((length - 1) >> bits) + 1;
    w = take_memory(r, sizeof(*w) + n * sizeof(*run) + (buckets + 1) * sizeof(w->bucket[0]));
    if (!w)
        return NULL;
    w->n = (uint32_t)n;
    w->base = run[0].guest;
    w->bucket_bits = bits;
    w->bucket = (uint32_t *)(w->run + n);
    memcpy(w->run, run, n * sizeof(*run));
    fill_buckets(w, (uint32_t *)(w->run + n), buckets);
    return w;
}

struct qc_window *qc_window_damaged(void)
{
    return qc_calloc(1, sizeof(struct qc_window));
}

static void ring_insert(struct qc_ring *r, struct qc_window *w)
{
    if (!r->hand) {
        r->hand = w->next = w->prev = w;
    } else { /* behind the hand: the last to be looked at */
        w->next = r->hand;
        w->prev = r->hand->prev;
        w->prev->next = w;
        w->next->prev = w;
    }
    r->bytes += window_bytes(w);
}

static void ring_remove(struct qc_ring *r, struct qc_window *w)
{
    if (r->hand == w)
        r->hand = w->next == w ? NULL : w->next;
    w->prev->next = w->next;
    w->next->prev = w->prev;
    r->bytes -= window_bytes(w);
}

static void free_window(struct qc_retired *retired)
{
    qc_window_free((struct qc_window *)retired);
}

/* One that may go, unlinked and invisible to new readers; NULL if there is none
 * but `keep`. Under the lock. */
static struct qc_window *evict_one(struct qc_ring *r, const struct qc_window *keep)
{
    struct qc_window *w;

    for (;;) {
        w = r->hand;
        if (w->next == w)
            return NULL; /* only `keep` is left */
        r->hand = w->next;
        if (w == keep || atomic_exchange_explicit(&w->used, false, memory_order_relaxed))
            continue;
        ring_remove(r, w);
        atomic_store(w->slot, NULL);
        return w;
    }
}

void qc_ring_publish(struct qc_ring *r, struct qc_slots *slots, struct qc_window *w,
                     qc_window_slot *slot, const void *owner)
{
    struct qc_window *out, *gone = NULL;

    w->slot = slot;
    w->owner = owner;
    atomic_init(&w->used, false);
    pthread_mutex_lock(&r->lock);
    ring_insert(r, w);
    atomic_store(slot, w);
    while (r->bytes > r->budget && (out = evict_one(r, w))) {
        out->next = gone;
        gone = out;
    }
    pthread_mutex_unlock(&r->lock);
    while ((out = gone)) {
        gone = out->next;
        out->retired.free_fn = free_window;
        qc_count(slots, QC_CNT_EVICTIONS, 1);
        qc_epoch_retire(slots, &out->retired);
    }
}

void qc_ring_drop_owner(struct qc_ring *r, const void *owner)
{
    struct qc_window *w, *next;
    uint64_t n = 0;

    pthread_mutex_lock(&r->lock);
    w = r->hand;
    if (w) {
        do {
            n++;
            w = w->next;
        } while (w != r->hand);
    }
    for (; n > 0; n--, w = next) {
        next = w->next;
        if (w->owner != owner)
            continue;
        ring_remove(r, w);
        atomic_store(w->slot, NULL);
        qc_window_free(w);
    }
    pthread_mutex_unlock(&r->lock);
}

uint64_t qc_ring_bytes(struct qc_ring *r)
{
    uint64_t bytes;

    pthread_mutex_lock(&r->lock);
    bytes = r->bytes;
    pthread_mutex_unlock(&r->lock);
    return bytes;
}
