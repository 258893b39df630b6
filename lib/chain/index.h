/* SPDX-License-Identifier: MIT */
/*
 * The index: one map over N frozen layers, in windows that are filled at the
 * first need. A window is unknown or holds sorted runs that cover it whole.
 */
#ifndef QC_CHAIN_INDEX_H
#define QC_CHAIN_INDEX_H

#include <pthread.h>
#include <qchain.h>

#include "chain/window.h"

#define QC_WINDOW_BITS 27 /* 128 MiB */

struct qc_window_page;
struct qc_fill_claim;
struct qc_walk;

struct qc_index {
    unsigned  window_bits;
    uint64_t  size;   /* bytes of disk that it covers: what the frozen layers show */
    uint64_t  n_windows;
    uint64_t  n_pages;
    uint64_t  span;   /* windows that one fill of many takes at once */
    uint64_t  unit;   /* bytes: the largest cluster, at least 64 KiB */
    atomic_uint_fast64_t usual; /* bytes of runs that the last span had */
    _Atomic(struct qc_window_page *) *page;
    pthread_mutex_t       lock;   /* guards claims, and the making of pages */
    pthread_cond_t        filled;
    struct qc_fill_claim *claims; /* what is being filled now */
    struct qc_walk       *walks;  /* what walkers fill for those who do not wait */
};

/* Ready the index of a chain whose layers are all open. */
int  qc_index_init(struct qchain *c, qchain_error *err);
void qc_index_finish(struct qchain *c);

/* The window that holds guest, filled; stays valid until qc_epoch_exit with
 * *token. NULL with err set on failure (no epoch is held then). */
const struct qc_window *qc_index_get(struct qchain *c, uint64_t guest, unsigned *token,
                                     qchain_error *err);

/* Copy out the runs of [offset, end), at most max of them and not beyond the
 * window; *n receives how many, at least one. Where a window cannot be filled
 * because something in it is damaged, what surrounds offset is looked up alone,
 * so that damage only hurts who touches it. err is not NULL. */
int qc_index_copy(struct qchain *c, uint64_t offset, uint64_t end, struct qc_run *run, size_t max,
                  size_t *n, qchain_error *err);

/* The same without filling or waiting: how many were copied, 0 if the window is not
 * known, or damaged. */
size_t qc_index_peek(struct qchain *c, uint64_t offset, uint64_t end, struct qc_run *run,
                     size_t max);

/* The same for n places at once, at most QC_INDEX_MANY, whose misses of the processor's
 * cache overlap: *run[i] becomes the run that holds run[i]->guest, or, where that is not
 * known, its length becomes 0. */
#define QC_INDEX_MANY 8
void qc_index_peek_many(struct qchain *c, struct qc_run *const *run, size_t n);

/* Told when a window is there. Embed it. */
struct qc_index_waiter {
    struct qc_index_waiter *next;
    /* Called once, by any thread, with nothing held: 0, or why the window could not be
     * filled. When all who wait were called the chain may be closed. */
    void (*ready)(struct qc_index_waiter *w, int ret);
};

/* Have the window that holds guest filled by a walker, one for all who wait for it.
 * By the time that w is told it may be evicted again. False, and w is not taken, if
 * there is no memory or no thread. */
bool qc_index_want(struct qchain *c, uint64_t guest, struct qc_index_waiter *w);

/* Fill windows of [offset, end) ahead of somebody who will read on, several spans
 * at a time, as far as the memory budget goes. What fails is left for him to meet. */
void qc_index_fill_ahead(struct qchain *c, uint64_t offset, uint64_t end);

/* True, without filling anything, if the window that holds guest is filled. */
int qc_index_known(struct qchain *c, uint64_t guest);

static inline uint64_t qc_window_size(const struct qc_index *ix)
{
    return UINT64_C(1) << ix->window_bits;
}

#endif
