/* SPDX-License-Identifier: MIT */
#include "util/regions.h"

#include <stdint.h>
#include <sys/mman.h>

/* Stands at a region's beginning, which is aligned to its size. */
struct qc_region {
    size_t used; /* bytes, with this head */
    size_t live; /* things */
};

#define HEAD ((sizeof(struct qc_region) + 15) & ~(size_t)15)

void qc_regions_init(struct qc_regions *r)
{
    pthread_mutex_init(&r->lock, NULL);
    r->current = NULL;
}

void qc_regions_finish(struct qc_regions *r)
{
    if (r->current)
        munmap(r->current, QC_REGION_SIZE);
    pthread_mutex_destroy(&r->lock);
}

static struct qc_region *region_create(void)
{
    /* Twice as much, of which the ends are given back, is sure to hold an aligned one. */
    char *p = mmap(NULL, 2 * QC_REGION_SIZE, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    size_t before;
    struct qc_region *region;

    if (p == MAP_FAILED)
        return NULL;
    before = -(uintptr_t)p & (QC_REGION_SIZE - 1);
    region = (struct qc_region *)(void *)(p + before);
    if (before > 0)
        munmap(p, before);
    munmap(p + before + QC_REGION_SIZE, QC_REGION_SIZE - before);
    (void)madvise(region, QC_REGION_SIZE, MADV_HUGEPAGE); /* small pages serve as well */
    region->used = HEAD;
    return region;
}

void *qc_regions_alloc(struct qc_regions *r, size_t size)
{
    struct qc_region *region, *full = NULL;
    void *p = NULL;

    size = (size + 15) & ~(size_t)15;
    if (size > QC_REGION_MOST)
        return NULL;
    pthread_mutex_lock(&r->lock);
    region = r->current;
    if (!region || QC_REGION_SIZE - region->used < size) {
        if (region && region->live == 0)
            full = region;
        region = r->current = region_create();
    }
    if (region) {
        p = (char *)region + region->used;
        region->used += size;
        region->live++;
    }
    pthread_mutex_unlock(&r->lock);
    if (full)
        munmap(full, QC_REGION_SIZE);
    return p;
}

void qc_regions_free(struct qc_regions *r, void *p)
{
    struct qc_region *region = (struct qc_region *)((uintptr_t)p & ~(QC_REGION_SIZE - 1));
    struct qc_region *gone = NULL;

    pthread_mutex_lock(&r->lock);
    if (--region->live == 0) {
        if (region == r->current)
            region->used = HEAD;
        else
            gone = region;
    }
    pthread_mutex_unlock(&r->lock);
    if (gone)
        munmap(gone, QC_REGION_SIZE);
}
