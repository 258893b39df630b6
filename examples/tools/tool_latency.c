/* SPDX-License-Identifier: MIT */
/*
 * tool_latency.c - how long requests took. Each power of two is cut into 64 buckets, so
 * that a few thousand counters tell microseconds and minutes alike to within 2 %.
 */
#include "tool_bench.h"

#define FIRST (UINT64_C(1) << TOOL_LATENCY_BITS)

static unsigned bucket_of(uint64_t ns)
{
    unsigned shift;

    if (ns < FIRST)
        return (unsigned)ns;
    shift = 63 - (unsigned)__builtin_clzll(ns) - TOOL_LATENCY_BITS;
    return (shift << TOOL_LATENCY_BITS) + (unsigned)(ns >> shift);
}

/* The largest time that a bucket holds. */
static uint64_t bucket_end(unsigned i)
{
    unsigned shift;

    if (i < FIRST)
        return i;
    shift = (i >> TOOL_LATENCY_BITS) - 1;
    return ((((i & (FIRST - 1)) | FIRST) + 1) << shift) - 1;
}

void tool_latency_add(struct tool_latency *l, uint64_t ns)
{
    l->n++;
    l->sum_ns += ns;
    if (ns > l->max_ns)
        l->max_ns = ns;
    l->buckets[bucket_of(ns)]++;
}

void tool_latency_join(struct tool_latency *l, const struct tool_latency *more)
{
    unsigned i;

    l->n += more->n;
    l->sum_ns += more->sum_ns;
    if (more->max_ns > l->max_ns)
        l->max_ns = more->max_ns;
    for (i = 0; i < TOOL_LATENCY_BUCKETS; i++)
        l->buckets[i] += more->buckets[i];
}

uint64_t tool_latency_at(const struct tool_latency *l, double part)
{
    uint64_t want = (uint64_t)(part * (double)l->n), seen = 0;
    unsigned i;

    /* the request that makes the part full, counted from 1 */
    if ((double)want < part * (double)l->n || want == 0)
        want++;
    for (i = 0; i < TOOL_LATENCY_BUCKETS; i++) {
        seen += l->buckets[i];
        if (seen >= want)
            return bucket_end(i) < l->max_ns ? bucket_end(i) : l->max_ns;
    }
    return l->max_ns;
}
