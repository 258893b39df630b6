/* SPDX-License-Identifier: MIT */
/*
 * Windows: the merged runs of one stretch of the disk, read without a lock
 * under an epoch; all windows of an environment share one memory budget.
 */
#ifndef QC_CHAIN_WINDOW_H
#define QC_CHAIN_WINDOW_H

#include <pthread.h>
#include <stdatomic.h>

#include "format/run.h"
#include "util/regions.h"
#include "util/slots.h"

/*
 * One allocation: the head, the runs, and a table of where to begin to look: for
 * each of n_buckets equal parts of the window the number of the run that holds
 * its first byte. Readers of a deep chain miss the processor's cache at nearly
 * every step, so steps count, and the table must be small enough to stay there:
 * with about two runs a bucket a lookup touches the head, one entry of the table
 * and two neighbouring lines of runs, fetched side by side, whatever n is.
 */
struct qc_window {
    struct qc_retired          retired; /* first */
    struct qc_window          *next, *prev;  /* in the ring, under its lock */
    _Atomic(struct qc_window *) *slot;       /* where readers find it */
    const void                *owner;        /* the chain */
    struct qc_regions         *regions;      /* where its memory is from; NULL: the heap */
    uint32_t                   n;            /* 0: damaged, see qc_window_damaged */
    uint8_t                    bucket_bits;  /* log2 of the bytes of disk a bucket */
    atomic_bool                used;         /* looked at since the hand passed */
    uint64_t                   base;         /* its first byte on the disk */
    const uint32_t            *bucket;       /* n_buckets + 1 entries, behind the runs */
    struct qc_run              run[];
};

typedef _Atomic(struct qc_window *) qc_window_slot;

/* The clock of all windows. */
struct qc_ring {
    pthread_mutex_t   lock;
    struct qc_window *hand;  /* the next to be looked at, or NULL */
    uint64_t          bytes, budget;
    struct qc_regions regions; /* memory of windows that readers asked for */
};

void qc_ring_init(struct qc_ring *r, uint64_t budget);
void qc_ring_finish(struct qc_ring *r); /* no window may be left */

/* A window with a copy of n runs (at least one) that cover it whole, in a ring's
 * regions or (NULL) on the heap; NULL when there is no memory. */
struct qc_window *qc_window_create(struct qc_ring *r, const struct qc_run *run, size_t n);
void qc_window_free(struct qc_window *w); /* one that was not published; NULL is fine */
/* A window without runs: says that the metadata of this one is damaged, so that
 * nobody reads it all again to find that out. NULL when there is no memory. */
struct qc_window *qc_window_damaged(void);
/* Let readers see w through slot (which must be empty: one filler a slot), and
 * evict others when the budget is passed. Becomes the ring's. */
void qc_ring_publish(struct qc_ring *r, struct qc_slots *slots, struct qc_window *w,
                     qc_window_slot *slot, const void *owner);
/* Take out all windows of an owner that no reader looks at any more. */
void qc_ring_drop_owner(struct qc_ring *r, const void *owner);
uint64_t qc_ring_bytes(struct qc_ring *r);

static inline const uint32_t *qc_window_bucket(const struct qc_window *w, uint64_t guest)
{
    return &w->bucket[(guest - w->base) >> w->bucket_bits];
}

/* Have the lines on their way that qc_window_find looks at. */
static inline void qc_window_prefetch(const struct qc_window *w, uint64_t guest)
{
    const struct qc_run *run = &w->run[*qc_window_bucket(w, guest)];

    __builtin_prefetch(run);
    __builtin_prefetch((const char *)run + 64);
}

/* The number of the run that holds guest; the window covers it. */
static inline uint32_t qc_window_find(const struct qc_window *w, uint64_t guest)
{
    const uint32_t *at = qc_window_bucket(w, guest);
    uint32_t low = at[0], n = at[1] - low + 1, half;

    qc_window_prefetch(w, guest);
    while (n > 1) { /* without branches: the compiler makes conditional moves of it */
        half = n / 2;
        low = w->run[low + half].guest <= guest ? low + half : low;
        n -= half;
    }
    return low;
}

#endif
