/* SPDX-License-Identifier: MIT */
/*
 * Who writes where, of a store that takes whole blocks only. By regions, hashed: writes are long
 * compared with a look here, and two that meet by chance wait for each other, that is all.
 */
#include "io/store_int.h"

#include <pthread.h>

#include "util/alloc.h"

#define REGION_BITS 16
#define N_REGIONS 64

struct region {
    uint32_t writers;
    uint32_t waiting; /* to be alone; new writers let them go first */
    bool     alone;
};

struct qc_blocks {
    pthread_mutex_t lock;
    pthread_cond_t  left;
    struct region   region[N_REGIONS];
};

struct qc_blocks *qc_blocks_create(void)
{
    struct qc_blocks *b = qc_calloc(1, sizeof(*b));

    if (!b)
        return NULL;
    if (pthread_mutex_init(&b->lock, NULL) != 0) {
        qc_free(b);
        return NULL;
    }
    pthread_cond_init(&b->left, NULL);
    return b;
}

void qc_blocks_destroy(struct qc_blocks *b)
{
    if (!b)
        return;
    pthread_cond_destroy(&b->left);
    pthread_mutex_destroy(&b->lock);
    qc_free(b);
}

/* The regions of a range: how many, from *first on, round about. */
static unsigned regions_of(uint64_t offset, uint64_t length, unsigned *first)
{
    uint64_t a = offset >> REGION_BITS, n = ((offset + length - 1) >> REGION_BITS) - a + 1;

    *first = a % N_REGIONS;
    return n < N_REGIONS ? (unsigned)n : N_REGIONS;
}

static bool is_free(const struct qc_blocks *b, unsigned first, unsigned n, bool alone)
{
    for (unsigned i = 0; i < n; i++) {
        const struct region *r = &b->region[(first + i) % N_REGIONS];

        if (r->alone || (alone ? r->writers > 0 : r->waiting > 0))
            return false;
    }
    return true;
}

static void add_waiting(struct qc_blocks *b, unsigned first, unsigned n, uint32_t v)
{
    for (unsigned i = 0; i < n; i++)
        b->region[(first + i) % N_REGIONS].waiting += v;
}

/* All regions are taken at one time, so that nobody waits who holds some. */
void qc_blocks_lock(struct qc_blocks *b, uint64_t offset, uint64_t length, bool alone)
{
    unsigned first, n = regions_of(offset, length, &first);

    pthread_mutex_lock(&b->lock);
    if (alone)
        add_waiting(b, first, n, 1);
    while (!is_free(b, first, n, alone))
        pthread_cond_wait(&b->left, &b->lock);
    if (alone)
        add_waiting(b, first, n, UINT32_MAX);
    for (unsigned i = 0; i < n; i++) {
        struct region *r = &b->region[(first + i) % N_REGIONS];

        if (alone)
            r->alone = true;
        else
            r->writers++;
    }
    pthread_mutex_unlock(&b->lock);
}

void qc_blocks_unlock(struct qc_blocks *b, uint64_t offset, uint64_t length, bool alone)
{
    unsigned first, n = regions_of(offset, length, &first);

    pthread_mutex_lock(&b->lock);
    for (unsigned i = 0; i < n; i++) {
        struct region *r = &b->region[(first + i) % N_REGIONS];

        if (alone)
            r->alone = false;
        else
            r->writers--;
    }
    pthread_cond_broadcast(&b->left);
    pthread_mutex_unlock(&b->lock);
}
