/* SPDX-License-Identifier: MIT */
/*
 * Locks on ranges of the disk. Disjoint ranges are held at once by any number; who overlaps with one that came
 * before waits for it, in the order of coming, parked or blocked.
 */
#ifndef QC_CHAIN_RANGE_LOCK_H
#define QC_CHAIN_RANGE_LOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

/* One range; embed it. The locks' from taking to giving back. */
struct qc_range_lock {
    uint64_t start, end;
    /* Called once, by whoever made room, with nothing held, if the range could not be had at once. NULL for
     * those that block. */
    void   (*granted)(struct qc_range_lock *l);
    /* The locks'. */
    struct qc_range_lock *next, *prev;
    struct qc_range_lock *next_granted;
    bool                  held;
};

struct qc_range_locks {
    pthread_mutex_t       lock;
    pthread_cond_t        changed; /* somebody who blocks was given his range */
    struct qc_range_lock *first, *last; /* held and waiting, as they came */
};

void qc_range_locks_init(struct qc_range_locks *r);
void qc_range_locks_finish(struct qc_range_locks *r); /* none may be held */

/* Take l->start to l->end, which are set, and so is granted. True if it is held now; else granted will be
 * called. */
bool qc_range_lock_try(struct qc_range_locks *r, struct qc_range_lock *l);
/* Take a range, blocking. */
void qc_range_lock_take(struct qc_range_locks *r, struct qc_range_lock *l, uint64_t start, uint64_t end);
void qc_range_lock_give(struct qc_range_locks *r, struct qc_range_lock *l);
/* Wait no longer for what qc_range_lock_try could not have. False if it is held by now: granted is, or was, called. */
bool qc_range_lock_withdraw(struct qc_range_locks *r, struct qc_range_lock *l);

#endif
