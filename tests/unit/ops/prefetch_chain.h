/* SPDX-License-Identifier: MIT */
/* The chain of the tests of prefetching: what of its files shows, and what does not. */
#ifndef PREFETCH_CHAIN_H
#define PREFETCH_CHAIN_H

#include "mem_layers.h"
#include "ops/prefetch_int.h"
#include "remote/tier.h"
#include "util/bytes.h"

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define BITS 16
#define CLUSTER (UINT64_C(1) << BITS)
#define DISK (16 * MIB)
#define CLUSTERS (DISK / CLUSTER)
#define LAYERS 4
#define GRAINS (2 * DISK / QC_GRAIN) /* of a file, at most */

static struct mem_chain *m;
static uint64_t n_wanted; /* grains */
static bool wanted[LAYERS][GRAINS], hidden[LAYERS][GRAINS];

static uint64_t big_endian(const unsigned char *p)
{
    uint64_t v = 0;

    for (int i = 0; i < 8; i++)
        v = v << 8 | p[i];
    return v;
}

/* Where the L2 table of a cluster lies; 0: it has none. */
static uint64_t table_of(const unsigned char *file, uint64_t cluster)
{
    return big_endian(file + CLUSTER + cluster / (CLUSTER / 8) * 8) & UINT64_C(0xfffffffffffe00);
}

/* Where a cluster's bytes lie in its layer's file; false: it has none. */
static bool place_in(const unsigned char *file, uint64_t cluster, uint64_t *start, uint64_t *end)
{
    uint64_t per_l2 = CLUSTER / 8, l2 = table_of(file, cluster);
    uint64_t entry = l2 ? big_endian(file + l2 + cluster % per_l2 * 8) : 0;
    unsigned x = 62 - (BITS - 8);

    if (entry >> 62 & 1) {
        *start = entry & ((UINT64_C(1) << x) - 1);
        *end = (*start & ~UINT64_C(511)) + 512 * ((entry >> x & ((1u << (BITS - 8)) - 1)) + 1);
    } else {
        *start = entry & UINT64_C(0xfffffffffffe00);
        *end = *start + CLUSTER;
    }
    return *start > 0;
}

static bool place_of(uint32_t k, uint64_t cluster, uint64_t *start, uint64_t *end)
{
    return place_in(m->layer[k].file, cluster, start, end);
}

/* What of the files shows, and what is data that does not. Files may end within a grain. */
static void look_at_all(void)
{
    memset(wanted, 0, sizeof(wanted));
    memset(hidden, 0, sizeof(hidden));
    n_wanted = 0;
    for (int pass = 0; pass < 2; pass++)
        for (uint32_t k = 0; k < LAYERS; k++)
            for (uint64_t i = 0; i < CLUSTERS; i++) {
                bool shows = mem_chain_look(m, i * CLUSTER, &(enum mem_state){0}) == k;
                uint64_t start, end;

                if (shows != (pass == 0) || !place_of(k, i, &start, &end))
                    continue;
                assert_true(end / QC_GRAIN < GRAINS);
                for (uint64_t g = start / QC_GRAIN; g <= (end - 1) / QC_GRAIN; g++) {
                    n_wanted += shows && !wanted[k][g];
                    wanted[k][g] |= shows;
                    hidden[k][g] |= !wanted[k][g];
                }
            }
}

/* What lies between things that show, and is small, may come along. */
static void allow_gaps(void)
{
    for (uint32_t k = 0; k < LAYERS; k++)
        for (uint64_t g = 0, last = GRAINS; g < GRAINS; g++) {
            if (!wanted[k][g])
                continue;
            for (uint64_t i = last; i < g && (g - last - 1) * QC_GRAIN <= QC_PREFETCH_GAP; i++)
                hidden[k][i] = false;
            last = g;
        }
}

static unsigned n_hidden(void)
{
    unsigned n = 0;

    for (uint32_t k = 0; k < LAYERS; k++)
        for (uint64_t g = 0; g < GRAINS; g++)
            n += hidden[k][g];
    return n;
}

#endif
