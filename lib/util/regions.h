/* SPDX-License-Identifier: MIT */
/*
 * Memory on huge pages for many small things that are read at random: with small
 * pages a reader misses the translation cache on top of the data cache. Things
 * are laid one behind the other in regions of 2 MiB; a region goes back to the
 * system when nothing in it lives any more. For things that die about in the
 * order they were born.
 */
#ifndef QC_UTIL_REGIONS_H
#define QC_UTIL_REGIONS_H

#include <pthread.h>
#include <stddef.h>

#define QC_REGION_SIZE ((size_t)2 << 20)
#define QC_REGION_MOST (QC_REGION_SIZE / 8) /* bytes of one thing, at most */

struct qc_region;

struct qc_regions {
    pthread_mutex_t   lock;
    struct qc_region *current; /* where the next thing goes; or NULL */
};

void qc_regions_init(struct qc_regions *r);
void qc_regions_finish(struct qc_regions *r); /* nothing may live */

/* size bytes, aligned to 16; NULL when there is no memory or size is too much. */
void *qc_regions_alloc(struct qc_regions *r, size_t size);
void  qc_regions_free(struct qc_regions *r, void *p);

#endif
