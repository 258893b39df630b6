/* SPDX-License-Identifier: MIT */
/*
 * qchain-write.h - the writable top layer of a chain: making images, writing, snapshots, dirty
 * bitmaps, checking and mending. Included by <qchain.h>, whose rules on errors, option structs,
 * threads and units hold here.
 *
 * Opening with QCHAIN_OPEN_WRITE opens the top layer for writing and the others for reading. Only
 * the top is ever written. It is locked as QEMU locks it: others may not write, and QEMU may not
 * read it without -U.
 *
 * What a crash leaves. After a process that writes is killed at any instruction, or a machine loses
 * power, the image is valid: what a flush had reported is there, what was written later is there or
 * not, sector by sector, and at worst clusters are counted that nobody uses (qchain_check finds and
 * mends these leaks). With QCHAIN_OPEN_UNSAFE this holds for the process that is killed after a
 * flush, and not for the machine.
 *
 * When writing fails. NOSPACE: the image is as it was, but for what the failing call may have
 * written of its own range; make room and go on. IO: the same, if the medium works again. After a
 * flush that failed it is not known what is on the medium: every later write and flush fails
 * READONLY. CORRUPT: damage was met where something would have been destroyed; the image is marked
 * corrupt, and only qchain_check may write to it.
 *
 * With QCHAIN_OPEN_COPY_ON_READ what qchain_read and queues read of the layers below is stored in the top, in whole
 * clusters (subclusters), unless zeros are known to be there without reading; the next read of it needs no layer below.
 * Dirty bitmaps take no note of it, and a read never fails because something could not be stored: that is logged. Reads
 * while writing is held (qchain_drain) store nothing. qchain_stream brings the rest.
 *
 * Close. qchain_close writes everything out as qchain_finish does, but cannot tell if that fails:
 * call qchain_finish, or qchain_flush, first.
 */
#ifndef QCHAIN_WRITE_H
#define QCHAIN_WRITE_H

#include <qchain.h>

#ifdef __cplusplus
extern "C" {
#endif

/* --------------------------------------------------------------- writing --- */

enum qchain_write_flags {
    QCHAIN_WRITE_FUA   = 0x1, /* durable when the call returns                               */
    QCHAIN_WRITE_UNMAP = 0x2  /* write_zeroes: the space need not be kept                     */
};

/* Write length bytes at offset: all or an error (then parts of the range may be written). The range
 * must lie within the disk. flags: QCHAIN_WRITE_FUA. Blocks. Any number of threads; of two writes
 * to the same bytes at once either may win, sector by sector. Errors: RANGE, READONLY, NOSPACE, IO,
 * CORRUPT, LIMIT, NOMEM. Since 0.1. */
QCHAIN_API int qchain_write(qchain *c, const void *buf, size_t length, uint64_t offset, uint32_t flags,
                            qchain_error *err);
/* The same from n_iov pieces, at most 1024, laid out as struct iovec. Since 0.1. */
QCHAIN_API int qchain_writev(qchain *c, const struct qchain_iov *iov, uint32_t n_iov, uint64_t offset,
                             uint32_t flags, qchain_error *err);
/* Make a range read as zeros, where possible without writing data. flags: QCHAIN_WRITE_*. Since
 * 0.1. */
QCHAIN_API int qchain_write_zeroes(qchain *c, uint64_t length, uint64_t offset, uint32_t flags, qchain_error *err);
/* Say that a range is not needed any more. Whole clusters are given up: they read as zeros
 * afterwards (of version 2 over a backing file they are left alone), the rest of the range is left
 * as it is. With QCHAIN_OPEN_DISCARD their space goes back to the file system. flags must be 0.
 * Since 0.1. */
QCHAIN_API int qchain_discard(qchain *c, uint64_t length, uint64_t offset, uint32_t flags, qchain_error *err);
/* Write whole clusters compressed (the last one of the disk may be shorter); what does not become
 * smaller is written as it is. offset must be a multiple of the cluster size, and length too or end
 * with the disk. Several threads compress. Errors: also UNSUPPORTED (raw, external data file).
 * Since 0.1. */
QCHAIN_API int qchain_write_compressed(qchain *c, const void *buf, size_t length, uint64_t offset, uint32_t flags,
                                       qchain_error *err);
/* Make durable what was written before. Nothing to do, no system call. Errors: READONLY (also after
 * a flush that failed, or qchain_finish), NOSPACE, IO, CORRUPT. Since 0.1. */
QCHAIN_API int qchain_flush(qchain *c, qchain_error *err);
/* End writing: flush, store dirty bitmaps, mark the image clean. Nothing else may be under way;
 * afterwards the chain can be read and closed, and all else is READONLY. After NOSPACE nothing has
 * ended: make room and call it again. Errors: as qchain_flush. Since 0.1. */
QCHAIN_API int qchain_finish(qchain *c, qchain_error *err);

enum qchain_resize_flags {
    QCHAIN_RESIZE_SHRINK = 0x1 /* it may become smaller; what lay beyond is lost              */
};

/* Change the disk's size, a multiple of 512. What is added reads as zeros, also where a backing
 * file is longer. Waits for what is under way, and holds what comes meanwhile. Errors: INVAL
 * (smaller, without the flag), UNSUPPORTED (a smaller disk with internal snapshots of other sizes
 * in version 2), LIMIT, NOSPACE, IO, BUSY (dirty bitmaps that cannot follow; a rebase, stream or
 * merge is going on). Since 0.1. */
QCHAIN_API int qchain_resize(qchain *c, uint64_t size, uint32_t flags, qchain_error *err);

/* Hold all writing: wait for what is under way, then flush; what comes is held until qchain_resume.
 * Reads go on. Calls nest. qchain_close while drained is fine. Errors: as qchain_flush, and nothing
 * is held then. qchain_resume may be called by any thread; without a drain it does nothing. Since
 * 0.1. */
QCHAIN_API int qchain_drain(qchain *c, qchain_error *err);
QCHAIN_API void qchain_resume(qchain *c);

/* The same through a queue, completing in any order; see "queues" in <qchain.h>. flags:
 * QCHAIN_REQUEST_*. What a queue has accepted is under way until it is reaped: a thread that
 * drains, resizes, works on snapshots, or writes to the same clusters by a call or through another
 * queue reaps its own queues first. While another thread drains or resizes, or works on snapshots,
 * blocking calls may wait for it, and it for what is not reaped: where that can be, a thread with
 * requests in a queue makes none. Since 0.1. */
QCHAIN_API int qchain_queue_writev(qchain_queue *q, const struct qchain_iov *iov, uint32_t n_iov, uint64_t offset,
                                   uint32_t flags, void *user, qchain_error *err);
QCHAIN_API int qchain_queue_write_zeroes(qchain_queue *q, uint64_t length, uint64_t offset, uint32_t flags,
                                         void *user, qchain_error *err);
QCHAIN_API int qchain_queue_discard(qchain_queue *q, uint64_t length, uint64_t offset, uint32_t flags, void *user,
                                    qchain_error *err);

/* ---------------------------------------------------------- making images --- */

enum qchain_create_flags {
    QCHAIN_CREATE_EXTENDED_L2    = 0x01, /* subclusters; needs clusters of 16 KiB or more      */
    QCHAIN_CREATE_LAZY_REFCOUNTS = 0x02,
    QCHAIN_CREATE_DATA_FILE_RAW  = 0x04, /* the data file is a raw image by itself             */
    QCHAIN_CREATE_UNSAFE_BACKING = 0x08, /* do not open the backing file; size must be given   */
    QCHAIN_CREATE_KEEP           = 0x10  /* fail if the file exists (EXISTS)                    */
};

enum qchain_preallocation {
    QCHAIN_PREALLOC_OFF      = 0,
    QCHAIN_PREALLOC_METADATA = 1, /* tables; the file is sparse                               */
    QCHAIN_PREALLOC_FALLOC   = 2, /* and space is reserved                                    */
    QCHAIN_PREALLOC_FULL     = 3  /* and zeros are written                                    */
};

typedef struct qchain_create_opts {
    size_t      struct_size;   /* set by qchain_create_opts_init                              */
    uint32_t    flags;         /* QCHAIN_CREATE_*                                             */
    uint32_t    version;       /* of qcow2: 2 or 3; 0 = 3                                      */
    const char *format;        /* "qcow2" or "raw"; NULL = qcow2                               */
    uint64_t    size;          /* of the disk, bytes, rounded up to 512; UINT64_MAX = that of the backing file */
    uint64_t    cluster_size;  /* 512 bytes to 2 MiB, a power of two; 0 = 64 KiB               */
    uint32_t    refcount_bits; /* 1 to 64, a power of two; 0 = 16                              */
    uint32_t    compression;   /* QCHAIN_COMPRESSION_*                                         */
    uint32_t    preallocation; /* QCHAIN_PREALLOC_*                                            */
    uint32_t    reserved0;
    const char *backing_file;  /* as it is to be recorded; resolved against the image's directory */
    const char *backing_format; /* required with a backing file                                */
    const char *data_file;     /* as it is to be recorded; created unless it exists            */
    const qchain_policy *policy; /* for opening the backing file; NULL = the environment's     */
} qchain_create_opts;

/* Fill o with defaults; size is sizeof(qchain_create_opts). Since 0.1. */
QCHAIN_API void qchain_create_opts_init(qchain_create_opts *o, size_t size);
/* Make an image called name, atomically: it is there whole and durable, or not at all. A file that
 * exists is replaced. Block devices are written in place. The backing file is opened (by the
 * policy) to see that it is there, and for its size. Errors: INVAL (options that do not fit
 * together; the message says which), UNSUPPORTED (encryption), NOTFOUND, ACCESS, NOSPACE, IO. Since
 * 0.1. */
QCHAIN_API int qchain_create(qchain_env *env, const char *name, const qchain_create_opts *opts, qchain_error *err);

typedef struct qchain_measure_result {
    size_t   struct_size;     /* set by the caller                                             */
    uint64_t required;        /* bytes a new image takes that holds the data                   */
    uint64_t fully_allocated; /* and one that holds all of the disk                             */
    uint64_t bitmaps;         /* what the bitmaps of the source take in it; UINT64_MAX: cannot be copied */
    uint64_t reserved[4];
} qchain_measure_result;

/* How large the file of a new image would be. source: whose data it shall hold; NULL: an empty disk
 * of opts->size. opts may be NULL with a source. Blocks. Errors: INVAL (options that do not fit
 * together), UNSUPPORTED, and those of qchain_map. Since 0.1. */
QCHAIN_API int qchain_measure(qchain *source, const qchain_create_opts *opts, qchain_measure_result *out,
                              qchain_error *err);

enum qchain_amend_mask { /* which fields of the options are to be applied */
    QCHAIN_AMEND_VERSION = 0x1, QCHAIN_AMEND_BACKING_FILE = 0x2, QCHAIN_AMEND_BACKING_FORMAT = 0x4,
    QCHAIN_AMEND_SIZE = 0x8, QCHAIN_AMEND_LAZY_REFCOUNTS = 0x10, QCHAIN_AMEND_REFCOUNT_BITS = 0x20,
    QCHAIN_AMEND_DATA_FILE = 0x40, QCHAIN_AMEND_DATA_FILE_RAW = 0x80
};

/* Change options of the top image of a chain opened for writing. mask: QCHAIN_AMEND_*. The backing
 * file is not looked at: its name is only recorded. job may be NULL; so far nothing takes long enough
 * to look at it. Errors: UNSUPPORTED (what cannot be changed), READONLY, INVAL, NOSPACE, IO. Since
 * 0.1. */
QCHAIN_API int qchain_amend(qchain *c, const qchain_create_opts *opts, uint32_t mask, qchain_job *job,
                            qchain_error *err);

/* ------------------------------------------------------ internal snapshots --- */

typedef struct qchain_snapshot_opts {
    size_t   struct_size;   /* set by qchain_snapshot_opts_init                                */
    uint32_t flags;         /* QCHAIN_SNAPSHOT_HAS_ICOUNT                                      */
    uint32_t reserved0;
    uint64_t vm_state_size; /* bytes of the VM state area that belong to it                    */
    uint64_t vm_clock_nsec;
    uint64_t date_ns;       /* since the epoch; 0 = now                                        */
    uint64_t icount;        /* with HAS_ICOUNT: instructions that the guest had run            */
} qchain_snapshot_opts;

/* Fill o with defaults; size is sizeof(qchain_snapshot_opts). Since 0.1. */
QCHAIN_API void qchain_snapshot_opts_init(qchain_snapshot_opts *o, size_t size);
/* Internal snapshots of the top image, of a chain opened for writing; opts may be NULL. Each waits
 * for writes under way and holds others. key: an id, or else a name. Names may be there more than
 * once; ids are not. qchain_layer_info lists them. Errors: NOTFOUND, UNSUPPORTED (raw, external data
 * file), LIMIT (refcounts too narrow), CORRUPT, NOSPACE, IO, READONLY; to make or apply one: BUSY (a
 * rebase, stream or merge is going on). Since 0.1. */
QCHAIN_API int qchain_snapshot_create(qchain *c, const char *name, const qchain_snapshot_opts *opts,
                                      qchain_error *err);
QCHAIN_API int qchain_snapshot_apply(qchain *c, const char *key, qchain_error *err);
QCHAIN_API int qchain_snapshot_delete(qchain *c, const char *key, qchain_error *err);

/* Read and write the VM state area of the top image of a chain opened for writing, which begins behind
 * the disk: offset counts from its beginning. What was never written reads as zeros. Errors:
 * READONLY, UNSUPPORTED (raw, external data file), RANGE (too far), and those of qchain_read and
 * qchain_write. Since 0.1. */
QCHAIN_API int qchain_vmstate_read(qchain *c, void *buf, size_t length, uint64_t offset, qchain_error *err);
QCHAIN_API int qchain_vmstate_write(qchain *c, const void *buf, size_t length, uint64_t offset, qchain_error *err);

/* ------------------------------------------------------------ dirty bitmaps --- */
/*
 * Persistent dirty bitmaps of the top image: each notes which stretches of the disk were written to
 * while it was enabled. They are read when the chain is opened for writing, marked as in use in the
 * file before the first write, and stored by qchain_finish; after a crash one that was in use is
 * inconsistent: it can only be removed. If storing fails for NOSPACE, qchain_finish has ended
 * nothing: make room and call it again, or close, and they are lost. Resizing the disk, and going
 * back to a snapshot, store them, too; what is added to the disk, and all of it, is noted then.
 * qchain_layer_info lists those that are in the file.
 */
/* Make a bitmap; remove one; forget what one has noted; let one note from now on, or not.
 * granularity: bytes of disk a bit, a power of two from 512 to 2 GiB; 0 = the cluster size, but 4
 * KiB at least and 64 KiB at most, as QEMU. enabled: 1 or 0. Errors: EXISTS (there is one of this
 * name), NOTFOUND, READONLY, INVAL, UNSUPPORTED (version 2, raw), LIMIT. Since 0.1. */
QCHAIN_API int qchain_bitmap_add(qchain *c, const char *name, uint64_t granularity, int enabled, qchain_error *err);
QCHAIN_API int qchain_bitmap_remove(qchain *c, const char *name, qchain_error *err);
QCHAIN_API int qchain_bitmap_clear(qchain *c, const char *name, qchain_error *err);
QCHAIN_API int qchain_bitmap_enable(qchain *c, const char *name, int enabled, qchain_error *err);
/* Add what the bitmap `from` of chain source (may be c, or opened for reading) has to bitmap name
 * of c. Errors: INVAL (the disks' sizes differ), and as these others: NOTFOUND, CORRUPT (in use: it
 * can only be removed), UNSUPPORTED (it has extra data of unknown meaning), IO, NOMEM. Since 0.1.
 * */
QCHAIN_API int qchain_bitmap_merge(qchain *c, const char *name, qchain *source, const char *from, qchain_error *err);

typedef struct qchain_dirty_extent {
    uint64_t offset, length; /* bytes of disk                                                   */
    uint32_t dirty;          /* 1 or 0                                                          */
    uint32_t reserved0;
} qchain_dirty_extent;

/* What a bitmap says of a range, as extents that cover it in order; as qchain_map goes on by *next.
 * Also of a chain opened for reading. Errors: NOTFOUND, CORRUPT (in use: not to be trusted), RANGE.
 * Since 0.1. */
QCHAIN_API int qchain_bitmap_query(qchain *c, const char *name, uint64_t offset, uint64_t length,
                                   qchain_dirty_extent *extents, uint32_t max, uint32_t *n, uint64_t *next,
                                   qchain_error *err);

/* -------------------------------------------------------------- check, repair --- */

enum qchain_check_flags {
    QCHAIN_CHECK_REPAIR_LEAKS = 0x1,
    QCHAIN_CHECK_REPAIR_ALL   = 0x2  /* leaks, too                                              */
};

typedef struct qchain_check_result {
    size_t   struct_size;        /* set by the caller                                           */
    uint64_t corruptions, leaks; /* found, and not mended                                       */
    uint64_t corruptions_fixed, leaks_fixed;
    uint64_t check_errors;       /* what could not be looked at                                  */
    uint64_t total_clusters, allocated_clusters, fragmented_clusters, compressed_clusters;
    uint64_t image_end_offset;   /* where the last cluster in use ends                           */
    uint64_t reserved[4];
} qchain_check_result;

typedef struct qchain_check_opts {
    size_t      struct_size;     /* set by qchain_check_opts_init                                */
    uint32_t    flags;           /* QCHAIN_CHECK_*                                               */
    uint32_t    reserved0;
    qchain_job *job;             /* may be NULL                                                  */
    /* Told of each thing found, in one sentence, by the calling thread; may be NULL. level: QCHAIN_LOG_ERROR
     * (a corruption), WARN (a leak, a mark), INFO (what was mended). It must not call the library. */
    void      (*found)(void *data, int level, const char *message);
    void       *found_data;
    const qchain_open_opts *open; /* how: format, fd, store, data_file, FORCE_SHARE count; may be NULL */
} qchain_check_opts;

/* Fill o with defaults; size is sizeof(qchain_check_opts). Since 0.1. */
QCHAIN_API void qchain_check_opts_init(qchain_check_opts *o, size_t size);
/* Look whether one image is valid: all references against all refcounts, flags, tables, snapshots,
 * bitmaps; its backing file is not opened. Time grows with the metadata, memory with the file's
 * clusters (and is bounded: LIMIT). Mending never makes worse what it cannot mend, and is durable.
 * Returns 0 if the look came to its end, whatever it found. Errors: UNSUPPORTED (raw), LOCKED, and
 * those of opening. Since 0.1. */
QCHAIN_API int qchain_check(qchain_env *env, const char *name, const qchain_check_opts *opts,
                            qchain_check_result *out, qchain_error *err);

#ifdef __cplusplus
}
#endif
#endif
