/* SPDX-License-Identifier: MIT */
/* What the files that make up the writer's core share, and nobody else sees. */
#ifndef QC_QCOW2_WRITER_INT_H
#define QC_QCOW2_WRITER_INT_H

#include "qcow2/cluster_map.h"
#include "qcow2/writer.h"

/* ---- meta_cache.c ---- */

enum qc2_fresh {
    QC2_FRESH_NEW = 1,   /* nothing on the medium refers to this cluster of a table */
    QC2_FRESH_TAKEN = 2, /* a flush that is under way writes what refers to it */
    QC2_FRESH_EOF = 4    /* it was never written: the file may end before it */
};

struct qc2_slices {
    struct qc2_slice *oldest, *newest;
};

struct qc2_meta {
    struct qc2_slice **bucket;
    size_t             n_buckets; /* a power of two */
    size_t             n, max;    /* slices */
    struct qc2_slices  clean, dirty[QC2_STAGES];
    size_t             n_dirty[QC2_STAGES];
    atomic_uint_fast64_t dirty_bytes;
    struct qc2_cmap    fresh;     /* clusters of new tables */
};

int  qc2_meta_create(struct qc2_writer *w, uint64_t cache_bytes, qchain_error *err);
void qc2_meta_destroy(struct qc2_writer *w);
/* All slices; they are clean, and nobody has one pinned. */
void qc2_meta_forget(struct qc2_writer *w);
/* A dirty slice has been, or is about to be, written. */
void qc2_slice_clean(struct qc2_writer *w, struct qc2_slice *s);
/* New tables: what a flush takes; what came of it. referred: the medium may refer to them now. */
void qc2_fresh_take(struct qc2_writer *w);
void qc2_fresh_settle(struct qc2_writer *w, bool referred);
/* Where the file must reach for the new tables; 0: no matter. */
uint64_t qc2_fresh_end(const struct qc2_writer *w);

/* ---- flush.c ---- */

/* Wait until nothing is being written by a flush, and note the outcome. Lock held. */
void qc2_flush_wait(struct qc2_writer *w);
/* Write all slices of a stage as they are; they stay dirty. Lock held, nothing being written. */
int  qc2_write_slices(struct qc2_writer *w, enum qc2_stage stage, qchain_error *err);
/* See that the file goes on to `end`, whose last sector is a new table's. */
int  qc2_reach_end(struct qc2_writer *w, uint64_t end, qchain_error *err);

/* ---- l1_write.c: the L1 table, and how it and the refcount table are kept: as numbers, with a bit for each
 * piece of them that changed ---- */

#define QC2_PIECE 512u               /* bytes; a medium writes so many whole or not at all */
#define QC2_PIECE_ENTRIES (QC2_PIECE / 8)

uint64_t *qc2_dirty_create(uint64_t n_entries);
static inline void qc2_dirty_set(uint64_t *bits, uint64_t entry)
{
    entry /= QC2_PIECE_ENTRIES;
    bits[entry / 64] |= UINT64_C(1) << entry % 64;
}
/* The first changed piece >= piece, of a table with so many entries; UINT64_MAX: none. */
uint64_t qc2_dirty_next(const uint64_t *bits, uint64_t n_entries, uint64_t piece);
void     qc2_dirty_clear(uint64_t *bits, uint64_t n_entries);
/* n numbers as they are in a file; the bits of mask are left out. */
void     qc2_entries_encode(uint8_t *out, const uint64_t *entry, uint64_t n, uint64_t mask);
/* Write a whole table with zeros after it up to `bytes`, multiples of 512. */
int      qc2_table_write(struct qc2_writer *w, uint64_t host, const uint64_t *entry, uint64_t n,
                         uint64_t mask, uint64_t bytes, qchain_error *err);
int      qc2_l1_load(struct qc2_writer *w, qchain_error *err);
void     qc2_l1_unload(struct qc2_writer *w);

/* ---- refcount.c, cluster_alloc.c, refcount_grow.c ---- */

#define QC2_FULL UINT64_C(1) /* in counts->table: the block has no free cluster */

struct qc2_counts {
    uint64_t *table;       /* where the refcount blocks are, and QC2_FULL; 0: none */
    size_t    cap;
    uint64_t  n;           /* entries */
    uint64_t  offset;      /* of the table in the file */
    uint64_t  clusters;    /* that it takes there */
    uint64_t  dirty[QC2_MAX_REFTABLE_BYTES / QC2_PIECE / 64];
    bool      growing;     /* the table may be longer here than in the file */
    unsigned  order;       /* counts have 2^order bits */
    unsigned  block_bits;  /* log2 of the clusters that a block counts */
    uint64_t  hint, hint_long; /* clusters: none before it is free; no stretch begins before it */
    uint64_t  high;        /* from here on the file has never been used (bytes) */
    uint64_t  packed;      /* where the next compressed stream may go; 0: nowhere yet */
};

static inline uint64_t qc2_block_of(const struct qc2_counts *c, uint64_t cluster)
{
    return cluster >> c->block_bits;
}

/* Where block i is; 0: there is none. */
static inline uint64_t qc2_block_host(const struct qc2_counts *c, uint64_t i)
{
    return i < c->n ? c->table[i] & ~QC2_FULL : 0;
}

int  qc2_counts_create(struct qc2_writer *w, qchain_error *err);
void qc2_counts_destroy(struct qc2_writer *w);
/* The count of a cluster whose block there is, set to a value. */
int  qc2_count_set(struct qc2_writer *w, uint64_t cluster, uint64_t value, qchain_error *err);
/* The slice that holds a cluster's count, and its number in there; *out NULL: there is no block. */
int  qc2_count_slice(struct qc2_writer *w, uint64_t cluster, struct qc2_slice **out, uint32_t *number,
                     qchain_error *err);
uint64_t qc2_count_get(const uint8_t *slice, unsigned order, uint32_t number);
/* n clusters in one stretch that are free; blocks for them may be missing. */
int  qc2_find_free(struct qc2_writer *w, uint64_t n, uint64_t *first, qchain_error *err);
/* See that there is block i: what was found free may be so no more. */
int  qc2_block_make(struct qc2_writer *w, uint64_t i, qchain_error *err);
/* Make room for at least n entries in the refcount table. */
int  qc2_reftable_grow(struct qc2_writer *w, uint64_t n, qchain_error *err);

/* ---- freed.c ---- */

struct qc2_batch;

int  qc2_freed_create(struct qc2_writer *w, qchain_error *err);
/* Nobody is inside. */
void qc2_freed_destroy(struct qc2_writer *w);
/* What was freed until now, as a list; lock held. */
struct qc2_batch *qc2_freed_take(struct qc2_writer *w);
/* It was not written; lock held. */
void qc2_freed_untake(struct qc2_writer *w, struct qc2_batch *list);
/* It was: wait for those who are inside. No lock held. */
void qc2_freed_retire(struct qc2_writer *w, struct qc2_batch *list);
/* Give back what can be given back now. No lock held. */
void qc2_freed_work(struct qc2_writer *w);
/* The same with the lock held, unless places must be discarded first. */
void qc2_freed_work_locked(struct qc2_writer *w);

/* ---- overlap.c ---- */

/* From all that the header refers to; w->l1 and w->counts are there. */
int  qc2_regions_create(struct qc2_writer *w, qchain_error *err);
void qc2_regions_destroy(struct qc2_writer *w);

#endif
