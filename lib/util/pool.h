/* SPDX-License-Identifier: MIT */
/*
 * The leaf pool: threads for tasks that never wait for anything queued (preads,
 * inflating, hashing). Threads start at the first need, end when idle for a while,
 * and block all signals.
 */
#ifndef QC_UTIL_POOL_H
#define QC_UTIL_POOL_H

#include <stdbool.h>
#include <stdint.h>

struct qc_pool;

/* n_threads: how many at most; starts none. NULL when there is no memory. */
struct qc_pool *qc_pool_create(unsigned n_threads);
/* Waits for what runs. NULL is fine. */
void qc_pool_destroy(struct qc_pool *p);
unsigned qc_pool_threads(const struct qc_pool *p);

/* Call fn(ctx, i) for i in [0, n), on up to `width` threads of which the caller
 * is one; returns when all have returned. If no thread can be started the caller
 * does it all. fn returns 0, or a negative code after which no new i is begun;
 * the first such code is returned. May be nested: a caller waits only for what
 * is already running. */
int qc_pool_run(struct qc_pool *p, unsigned width, uint64_t n,
                int (*fn)(void *ctx, uint64_t i), void *ctx);

#endif
