/* SPDX-License-Identifier: MIT */
/*
 * A qcow2 image that is written: its tables in memory, and the order in which they reach the file.
 *
 * What keeps the file valid at every instant, in one place:
 *
 *   - Tables are changed in memory, in pieces of at most 4 KiB (slices), and reach the file by a flush alone. A
 *     flush takes what changed as it was at one moment, and writes it in stages with an fsync between them:
 *       COUNTS   refcounts, and tables that nothing on the medium refers to yet; data was written before
 *       BLOCKS   entries of the refcount table: refcount blocks come into being
 *       MAP      L2 tables, the L1 table: the disk changes
 *     So what is referred to is there, and counted, before the reference is.
 *   - What is no longer referred to is freed only after the flush that wrote so, and when nobody who was inside
 *     the image then still is (qc2_free_later): its refcount falls, and it is found by allocation, then.
 *   - Flushes take turns; who waits for one that began after his call came is served by it.
 *
 * A process that dies leaves clusters counted that nobody uses, at worst.
 */
#ifndef QC_QCOW2_WRITER_H
#define QC_QCOW2_WRITER_H

#include "format/write.h"
#include "qcow2/image_int.h"
#include "util/slots.h"

enum qc2_stage { QC2_COUNTS, QC2_BLOCKS, QC2_MAP, QC2_STAGES };

/* A piece of a table in memory. */
struct qc2_slice {
    uint64_t  host;  /* where in the file */
    uint8_t  *data;  /* w->slice_bytes, as in the file */
    /* The cache's. */
    enum qc2_stage    home, stage; /* as its table's user says; in which it is written (a new table: COUNTS) */
    bool              dirty, dropped;
    uint32_t          pins;
    struct qc2_slice *next, *newer, *older;
};

struct qc2_meta;     /* meta_cache.c */
struct qc2_counts;   /* refcount.c */
struct qc2_freed;    /* freed.c */
struct qc2_regions;  /* overlap.c: where metadata lies */
struct qc2_taken;    /* flush.c: what a flush is writing */
struct qc2_line;     /* writer.c */

struct qc2_writer {
    struct qc2_image   *q;
    struct qc_slots    *requests;   /* borrowed */
    struct qc_store    *store, *data; /* the image, and where guest data is (the same, or the external file) */
    bool                discard, unsafe;
    uint32_t            slice_bytes;
    uint64_t            dirty_limit; /* bytes of changed slices that begin a flush */

    pthread_mutex_t     lock;       /* guards all below, and is held while a table is read */
    struct qc2_meta    *meta;
    struct qc2_counts  *counts;
    struct qc2_freed   *freed;
    struct qc2_regions *regions;
    uint64_t           *l1;         /* of the active table, as numbers, with their flags */
    uint32_t            l1_size;
    uint64_t            l1_offset;
    uint64_t           *l1_dirty;   /* a bit for each 512 bytes of the table */
    struct qc2_taken   *taken;      /* by a flush; NULL once its outcome was noted */
    struct qc2_line    *said;       /* lines for the log, see qc2_say */
    atomic_bool         has_said;
    atomic_bool         stopped;    /* damage was met, or an fsync failed: nothing is written any more */

    pthread_mutex_t     flush_lock; /* taken before lock */
    atomic_uint_fast64_t begun;     /* flushes */
    uint64_t            flushed;    /* flush_lock: number of the last one that succeeded */
    pthread_mutex_t     io_lock;    /* a flush writes; taken after lock, and no lock is taken inside */
};

extern const struct qc_write_ops qc2_write_ops;

/* ---- writer.c ---- */

/* Load what writing needs. Clears features that this library does not know of (autoclear), or that end with
 * the first write, before it returns. */
int  qc2_writer_create(struct qc2_writer **out, struct qc2_image *q, const struct qc_write_opts *opts,
                       qchain_error *err);
/* Flush, give back what is freed, mark clean. */
int  qc2_writer_end(struct qc2_writer *w, qchain_error *err);
void qc2_writer_destroy(struct qc2_writer *w); /* NULL is fine */

/* Before taking the lock to change something: READONLY if writing has stopped; flushes first if too much is
 * dirty. */
int  qc2_writer_ready(struct qc2_writer *w, qchain_error *err);
/* What was written to the store so far is durable after; if not, writing stops. No fsync if unsafe. Any lock. */
int  qc2_sync(struct qc2_writer *w, struct qc_store *store, qchain_error *err);
/* See that the file goes on to the last cluster of a range which qc2_alloc gave out, and which nobody else
 * writes: where nothing but zeros was to be written, nothing may have been. Before the first reference. */
int  qc2_reach(struct qc2_writer *w, uint64_t host, uint64_t length, qchain_error *err);
/* Damage was met: set the corrupt bit, stop writing; returns CORRUPT with err as the caller has set it. Lock held. */
int  qc2_writer_damaged(struct qc2_writer *w, qchain_error *err);

/* A line for the log, which is told when the lock is not held any more; of very many some are dropped. Lock held. */
void qc2_say(struct qc2_writer *w, int level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Tell them. No lock held. */
void qc2_tell(struct qc2_writer *w);

/* ---- flush.c ---- */

/* Make all durable that was finished before the call; if unsafe it is written all the same, so that it outlives the
 * process. No lock held. */
int  qc2_flush(struct qc2_writer *w, qchain_error *err);
/* The same with the lock held throughout; nothing that was freed is given back. For rare events: all wait. */
int  qc2_flush_locked(struct qc2_writer *w, qchain_error *err);

/* ---- meta_cache.c; all with the lock held ---- */

/* The slice that holds the byte at host, read if it is not there; pinned until put. */
int  qc2_slice_get(struct qc2_writer *w, uint64_t host, struct qc2_slice **out, qchain_error *err);
void qc2_slice_put(struct qc2_writer *w, struct qc2_slice *s); /* NULL is fine */
/* It was changed. stage: of its table. */
void qc2_slice_dirty(struct qc2_writer *w, struct qc2_slice *s, enum qc2_stage stage);
/* A new table of `length` bytes at host, which qc2_alloc gave out: all zeros, in memory and (zeroed: already)
 * in the file, and part of stage COUNTS until the next flush is done. */
int  qc2_table_new(struct qc2_writer *w, uint64_t host, uint64_t length, bool zeroed, qchain_error *err);
/* The table is no more: nothing of it is to be written. */
void qc2_table_drop(struct qc2_writer *w, uint64_t host, uint64_t length);
/* Is any of the cluster-sized table at host in memory, or not in the file yet? */
bool qc2_table_in_memory(const struct qc2_writer *w, uint64_t host);
/* Bytes that are dirty. */
uint64_t qc2_meta_dirty_bytes(const struct qc2_writer *w);

/* ---- L1 (l1_write.c); lock held ---- */

/* Set an entry, in memory; it reaches the file in stage MAP. Notes where L2 tables lie (QC2_REGION_L2). */
int  qc2_l1_set(struct qc2_writer *w, uint32_t slot, uint64_t entry, qchain_error *err);
/* Make the table hold at least so many entries; durable when it returns. Flushes with the lock held: what is in
 * memory must be fit to be on the medium. */
int  qc2_l1_grow(struct qc2_writer *w, uint32_t n_entries, qchain_error *err);

/* ---- refcount.c; lock held ---- */

/* n clusters in one stretch, with refcount 1. *zeroed: the file reads as zeros there (never used yet). NOSPACE, LIMIT. */
int  qc2_alloc(struct qc2_writer *w, uint64_t n, uint64_t *host, bool *zeroed, qchain_error *err);
/* Room for a compressed stream of `bytes` (at most a cluster), which may share a cluster with others: counts it. */
int  qc2_alloc_bytes(struct qc2_writer *w, uint64_t bytes, uint64_t *host, qchain_error *err);
int  qc2_refcount_get(struct qc2_writer *w, uint64_t host, uint64_t *count, qchain_error *err);
/* Count +1 or -1 for each cluster that [host, host + length) touches, at once: -1 only for what was never
 * referred to on the medium. LIMIT if a count would not fit, and CORRUPT, writing stopped, if one is 0 already:
 * all stay as they were. */
int  qc2_refcount_add(struct qc2_writer *w, uint64_t host, uint64_t length, int delta, qchain_error *err);

/* ---- freed.c; lock held ---- */

/* What refers to the clusters that [host, host + length) touches was changed in memory: -1 once that is on the
 * medium and everyone who is inside has left. Never fails: without memory they stay counted (a leak, logged). */
void qc2_free_later(struct qc2_writer *w, uint64_t host, uint64_t length);

/* ---- overlap.c; lock held ---- */

enum qc2_region {
    QC2_REGION_HEADER = 0x01, QC2_REGION_L1 = 0x02, QC2_REGION_L2 = 0x04, QC2_REGION_REFTABLE = 0x08,
    QC2_REGION_REFBLOCK = 0x10, QC2_REGION_SNAPSHOTS = 0x20, QC2_REGION_SNAPSHOT_L1 = 0x40,
    QC2_REGION_BITMAPS = 0x80, QC2_REGION_CRYPTO = 0x100, QC2_REGION_ALL = 0x1ff
};

/* Note that metadata lies, or no longer lies, in these clusters. */
int  qc2_region_add(struct qc2_writer *w, uint64_t host, uint64_t length, enum qc2_region what, qchain_error *err);
void qc2_region_remove(struct qc2_writer *w, uint64_t host, uint64_t length, enum qc2_region what);
/* What of `minded` (enum qc2_region) lies in the clusters of the range: 0 if nothing. Takes no lock of its own;
 * for a place of guest data this is asked with all of them. */
unsigned qc2_region_find(const struct qc2_writer *w, uint64_t host, uint64_t length, unsigned minded);
/* Before guest data or a table is written to [host, host + length): CORRUPT, writing stopped, if it would
 * destroy other metadata. what: the kind that may lie there itself; 0 for data. */
int  qc2_overlap_check(struct qc2_writer *w, uint64_t host, uint64_t length, unsigned what, qchain_error *err);

/* ---- header_write.c ---- */

/* Write the header's fixed fields from q->header, by one write within its first sector(s), then fsync. */
int  qc2_header_store(struct qc2_writer *w, qchain_error *err);

/* ---- for tests of the order ---- */

/* Leaves out one rule of those at the head of this file, so that a test that looks for states that must not be
 * can be seen to find them. Nothing in the library sets it. 0: all rules are kept; else one of
 *   1  no fsync between COUNTS (and BLOCKS) and MAP
 *   2  MAP is written before COUNTS
 *   3  entries of the refcount table are written before the blocks
 *   4  what is freed may be used anew at once
 *   5  data is not synced before MAP: of a data file, or where a flush has no COUNTS
 *   6  a grown L1 table: the header refers to it before it is written
 *   7  a flush reports that it is done before the last fsync
 *   8  a new L2 table is written along with the L1 entry, and its place is not zeroed
 *   9, 10, 11  emptying: the first, second or third fsync is left out */
extern atomic_int qc2_test_break;

static inline bool qc2_breaks(int rule)
{
    return atomic_load_explicit(&qc2_test_break, memory_order_relaxed) == rule;
}

/* ---- l2_write.c, zero_write.c, compressed_write.c, snapshot_write.c: the slots of format/write.h ---- */

int qc2_locate(struct qc_image *img, uint64_t offset, uint64_t length, struct qc_run *out,
               qchain_error *err);
int qc2_place(struct qc_image *img, uint64_t offset, uint64_t length, struct qc_place *out,
              qchain_error *err);
int qc2_place_alloc(struct qc_image *img, struct qc_place *p, qchain_error *err);
int qc2_place_finish(struct qc_image *img, struct qc_place *p, qchain_error *err);
void qc2_place_abort(struct qc_image *img, struct qc_place *p);
int qc2_zero(struct qc_image *img, uint64_t offset, uint64_t length, uint32_t flags, uint64_t *done,
             qchain_error *err);
int qc2_discard(struct qc_image *img, uint64_t offset, uint64_t length, bool has_backing,
                qchain_error *err);
struct qc_encoder *qc2_encoder_create(const struct qc_image *img);
void qc2_encoder_destroy(struct qc_encoder *e);
int qc2_encode(struct qc_encoder *e, void *out, size_t *out_len, const void *in, size_t in_len,
               qchain_error *err);
int qc2_write_compressed(struct qc_image *img, uint64_t offset, const void *stream, size_t length,
                         qchain_error *err);
int qc2_resize(struct qc_image *img, uint64_t size, uint64_t hidden, qchain_error *err);
int qc2_make_empty(struct qc_image *img, qchain_error *err);
int qc2_snapshot_create(struct qc_image *img, const struct qc_snapshot_new *s, qchain_error *err);
int qc2_snapshot_apply(struct qc_image *img, const char *key, qchain_error *err);
int qc2_snapshot_delete(struct qc_image *img, const char *key, qchain_error *err);
int qc2_vmstate_base(struct qc_image *img, uint64_t *offset, qchain_error *err);

#endif
