/* SPDX-License-Identifier: MIT */
#include "net/http_int.h"

#define GENERATION 1024u

/* Four buckets an octave: the two bits below the highest one. */
static unsigned bucket_of(uint64_t us)
{
    unsigned high, b;

    if (us < 4)
        return (unsigned)us;
    high = 63 - (unsigned)__builtin_clzll(us);
    b = 4 * (high - 1) + (unsigned)(us >> (high - 2) & 3);
    return b < QC_LATENCY_BUCKETS ? b : QC_LATENCY_BUCKETS - 1;
}

/* The middle of it. */
static uint64_t value_of(unsigned b)
{
    unsigned high = b / 4 + 1;
    uint64_t step;

    if (b < 4)
        return b;
    step = UINT64_C(1) << (high - 2);
    return (4 + b % 4) * step + step / 2;
}

void qc_latency_add(struct qc_latency *l, uint64_t us)
{
    unsigned which = atomic_load_explicit(&l->which, memory_order_relaxed) & 1;

    atomic_fetch_add_explicit(&l->bucket[which][bucket_of(us)], 1, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&l->n, 1, memory_order_relaxed) % GENERATION != GENERATION - 1)
        return;
    which ^= 1;
    for (unsigned b = 0; b < QC_LATENCY_BUCKETS; b++)
        atomic_store_explicit(&l->bucket[which][b], 0, memory_order_relaxed);
    atomic_store_explicit(&l->which, which, memory_order_relaxed);
}

uint64_t qc_latency_at(struct qc_latency *l, unsigned percentile)
{
    uint64_t sum[QC_LATENCY_BUCKETS], all = 0, below = 0, want;

    for (unsigned b = 0; b < QC_LATENCY_BUCKETS; b++) {
        sum[b] = (uint64_t)atomic_load_explicit(&l->bucket[0][b], memory_order_relaxed) +
                 atomic_load_explicit(&l->bucket[1][b], memory_order_relaxed);
        all += sum[b];
    }
    if (all == 0)
        return 0;
    want = (all * (percentile > 100 ? 100 : percentile) + 99) / 100;
    if (want == 0)
        want = 1;
    for (unsigned b = 0; b < QC_LATENCY_BUCKETS; b++) {
        below += sum[b];
        if (below >= want)
            return value_of(b) ? value_of(b) : 1;
    }
    return value_of(QC_LATENCY_BUCKETS - 1);
}
