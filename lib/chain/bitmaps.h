/* SPDX-License-Identifier: MIT */
/*
 * Persistent dirty bitmaps of the top layer. What a writer does with them:
 *
 *   open         the directory and those that are enabled are loaded; others when somebody wants to know
 *   first write  all that it concerns are marked as in use in the file, durably, before
 *   each write   sets bits, without a lock, before it is reported as done
 *   a call       changes them in memory; nobody writes meanwhile
 *   end          they are stored, and then no longer in use
 *
 * So what the file says of a bitmap is true, or that it cannot be trusted, at every instant.
 */
#ifndef QC_CHAIN_BITMAPS_H
#define QC_CHAIN_BITMAPS_H

#include <pthread.h>

#include "chain/chain.h"
#include "format/bitmap.h"

struct qc_bitmaps {
    pthread_mutex_t       lock;    /* of all but bits; taken after the tip's admission is held, if it is */
    struct qc_bitmap_list list;
    bool                  listed;
    bool                  changed; /* some were added or removed */
    bool                  marked;  /* some in the file */
};

/* Those that note what is written. Fixed while anybody writes. */
struct qc_tracked {
    size_t            n;
    struct qc_bitmap *b[];
};

/* Of a chain that is being opened for writing, and has a tip: load. */
int  qc_bitmaps_open(qchain *c, qchain_error *err);
void qc_bitmaps_destroy(qchain *c);

/* Those of the top of any chain whose format has some, listed; with the lock held, on success. */
int  qc_bitmaps_enter(qchain *c, struct qc_bitmaps **out, qchain_error *err);

/* Set the bits of a range. */
void qc_bitmaps_note(struct qc_tracked *t, uint64_t offset, uint64_t length);
/* Before the first write: mark them. The caller is admitted, or alone. */
int  qc_bitmaps_mark(qchain *c, qchain_error *err);
/* Nobody writes: let the file have them as they are, if it does not. On failure it says that they are in use,
 * and this may be tried again. */
int  qc_bitmaps_store(qchain *c, qchain_error *err);

/* The disk's size is about to change, to `size` (UINT64_MAX: not known yet); the caller is alone. Marks all. BUSY
 * if some cannot follow. */
int  qc_bitmaps_before_resize(qchain *c, uint64_t size, qchain_error *err);
/* It is c->size now, and was `old`. all: any of it may have changed. Stores them, if that can be done now. */
void qc_bitmaps_after_resize(qchain *c, uint64_t old, bool all);

/* ---- the calls; arguments are checked, err is not NULL ---- */

int qc_chain_bitmap_add(qchain *c, const char *name, uint32_t granularity_bits, bool enabled, qchain_error *err);
int qc_chain_bitmap_remove(qchain *c, const char *name, qchain_error *err);
int qc_chain_bitmap_clear(qchain *c, const char *name, qchain_error *err);
int qc_chain_bitmap_enable(qchain *c, const char *name, bool enabled, qchain_error *err);
int qc_chain_bitmap_merge(qchain *c, const char *name, qchain *source, const char *from, qchain_error *err);
int qc_chain_bitmap_query(qchain *c, const char *name, uint64_t offset, uint64_t length,
                          qchain_dirty_extent *extents, uint32_t max, uint32_t *n, uint64_t *next,
                          qchain_error *err);

#endif
