/* SPDX-License-Identifier: MIT */
/*
 * qchain-jobs.h - long operations that change chains: convert, rebase, commit, stream, taking a layer out,
 * merging before upload; and prefetching, which changes none. Included by <qchain.h>, whose rules on errors,
 * option structs, threads and units hold here.
 *
 * What a kill leaves. Each of these can be killed at any instruction, or lose power: the chain reads the same
 * bytes as before, and running the call again finishes the work. What is on disk is changed in this order:
 * data first, made durable; then the one sector of a header that lets it count; only then is anything removed.
 *
 * Cancelling (qchain_job_cancel) is the same without the kill: CANCELLED, and the chain is valid.
 */
#ifndef QCHAIN_JOBS_H
#define QCHAIN_JOBS_H

#include <qchain-write.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What an operation did; all counts are bytes unless they say otherwise. */
typedef struct qchain_job_result {
    size_t   struct_size; /* set by the caller                                                */
    uint64_t copied;      /* data written where it was missing                                */
    uint64_t zeroed;      /* ranges made zero without data                                    */
    uint64_t compressed;  /* of copied: disk bytes whose streams were moved as they are       */
    uint64_t compared;    /* read to be compared                                              */
    uint64_t salvaged;    /* could not be read, and are zeros                                 */
    uint32_t layers;      /* of the chain afterwards                                          */
    uint32_t reserved0;
    uint64_t reserved[6];
} qchain_job_result;

/* --------------------------------------------------------------- convert --- */

enum qchain_convert_flags {
    QCHAIN_CONVERT_COMPRESS    = 0x01, /* clusters compressed, as the target's type says; qcow2 only           */
    QCHAIN_CONVERT_EXISTING    = 0x02, /* the target is there, and is written into                             */
    QCHAIN_CONVERT_IS_ZERO     = 0x04, /* with EXISTING: it reads as zeros all over                            */
    QCHAIN_CONVERT_SALVAGE     = 0x08, /* what cannot be read becomes zeros                                    */
    QCHAIN_CONVERT_OFFLOAD     = 0x10, /* let the file system copy where it can, and look at no bytes          */
    QCHAIN_CONVERT_UNSAFE      = 0x20, /* do not make the target durable                                       */
    QCHAIN_CONVERT_BITMAPS     = 0x40, /* take the persistent dirty bitmaps of the top along                   */
    QCHAIN_CONVERT_SKIP_BROKEN = 0x80  /* with BITMAPS: leave out those that are in use or damaged             */
};

typedef struct qchain_convert_opts {
    size_t      struct_size;  /* set by qchain_convert_opts_init                                               */
    uint32_t    flags;        /* QCHAIN_CONVERT_*                                                              */
    uint32_t    threads;      /* at most 256; more than 64 count as 64; 0 = chosen                              */
    uint64_t    sparse_bytes; /* stretches of zeros so long become holes or zero clusters; 0 = 4096;
                                 UINT64_MAX = none, everything is written                                      */
    const qchain_create_opts *create; /* of the target; size 0 or UINT64_MAX = the source's; NULL = all defaults.
                                 With a backing file only what lies above it is copied: the source's layers down to
                                 it, when it is one of them, else what the source's top holds. Of an EXISTING
                                 target the format counts, and whether a backing file is named               */
    const qchain_open_opts *open; /* how an EXISTING target is opened (WRITE is added); of a new one
                                 QCHAIN_OPEN_DIRECT counts                                                     */
    qchain_job *job;          /* may be NULL                                                                   */
    uint64_t    reserved[4];
} qchain_convert_opts;

/* Fill o with defaults; size is sizeof(qchain_convert_opts). Since 0.1. */
QCHAIN_API void qchain_convert_opts_init(qchain_convert_opts *o, size_t size);
/* Copy the disk of a chain (open for reading or writing; of a snapshot if it was opened by one) to an image
 * called name: atomically, unless it is EXISTING or a device. What is added to a longer target reads as zeros.
 * Where a raw target and the files of the source lie in one file system that can share blocks, it shares what
 * lies there in whole blocks, unless sparse_bytes or SALVAGE asks to look at them. result may be NULL. Blocks.
 * Errors: INVAL (the target is a layer of the source), NOSPACE (it is smaller), UNSUPPORTED (the target's
 * format has no compressed clusters, or one of both no bitmaps), CORRUPT (with BITMAPS: one is in use), and those of
 * qchain_create, qchain_read and qchain_write. Since 0.1. */
QCHAIN_API int qchain_convert(qchain *source, const char *name, const qchain_convert_opts *opts,
                              qchain_job_result *result, qchain_error *err);

/* ---------------------------------------------------------------- rebase --- */

enum qchain_rebase_flags {
    QCHAIN_REBASE_UNSAFE   = 0x1, /* copy nothing: the new backing is known to have the same bytes below        */
    QCHAIN_REBASE_FORCE    = 0x2, /* with UNSAFE: do not look whether that can be right                         */
    QCHAIN_REBASE_COMPARE  = 0x4, /* copy only clusters that differ, by reading both                            */
    QCHAIN_REBASE_COMPRESS = 0x8  /* write what must be copied compressed                                       */
};

typedef struct qchain_rebase_opts {
    size_t      struct_size;  /* set by qchain_rebase_opts_init                                                 */
    uint32_t    flags;        /* QCHAIN_REBASE_*                                                                */
    uint32_t    threads;      /* 0 = chosen                                                                     */
    const char *backing_file; /* the new backing, as it is to be recorded; resolved as the top's own names are;
                                 NULL or "" = none                                                              */
    const char *backing_format; /* NULL = that of the layer, if it is one of the chain; else required           */
    const qchain_open_opts *open; /* how a backing that is no layer of the chain is opened: its flags FORCE_SHARE,
                                 DIRECT and NO_INDEX, max_layers, policy and resolver count; may be NULL        */
    qchain_job *job;          /* may be NULL                                                                    */
    uint64_t    reserved[4];
} qchain_rebase_opts;

/* Fill o with defaults; size is sizeof(qchain_rebase_opts). Since 0.1. */
QCHAIN_API void qchain_rebase_opts_init(qchain_rebase_opts *o, size_t size);
/* Let the top of a chain that is open for writing stand on another backing file, with the same bytes to be
 * read. A backing that is a layer of the chain: what the layers between hold and nobody above hides is moved,
 * nothing is read of the new backing but the rest of clusters that are moved in part, streams of compressed
 * clusters are kept where cluster sizes and kinds agree. Any other: old and new backing are compared. Where
 * the new one is longer than what was below, zeros are written. Afterwards the handle reads on, through the
 * layers it has open. Meanwhile it may be read and written, also by queues: what is written stands; resizing it,
 * its snapshots and a second such call are BUSY; one that comes afterwards needs the chain opened again (INVAL).
 * result may be NULL. Blocks. Errors: READONLY, UNSUPPORTED, NOTFOUND, CHAIN (UNSAFE: the named file cannot be
 * right; the message says why), and those of qchain_read and qchain_write. Since 0.1. */
QCHAIN_API int qchain_rebase(qchain *c, const qchain_rebase_opts *opts, qchain_job_result *result,
                             qchain_error *err);

/* Pull what is below into the top of a chain that is open for writing, down to layer `base` (excluded; the
 * number of layers = everything), and let it stand on that layer; named as the layer above names it. Reads and
 * writes meanwhile, and errors: as with qchain_rebase; INVAL also for a base that is the top or lies below the
 * chain. flags must be 0. job and result may be NULL. Blocks. Since 0.1. */
QCHAIN_API int qchain_stream(qchain *c, uint32_t base, uint32_t flags, qchain_job *job, qchain_job_result *result,
                             qchain_error *err);

/* Before an upload: if the layers right below the top are small, move what they hold into the top, which then
 * stands on what was below them. limit: bytes of data that all of them together may hold by themselves;
 * 0 = 300000000. A chain of two layers, or whose parent is larger, is left alone (result->layers tells). The rest
 * as with qchain_stream. Since 0.1. */
QCHAIN_API int qchain_merge(qchain *c, uint64_t limit, uint32_t flags, qchain_job *job, qchain_job_result *result,
                            qchain_error *err);

enum qchain_delete_flags {
    QCHAIN_DELETE_FILE = 0x1 /* remove the layer's file; it must not be named by a child that is left out       */
};

/* Take a layer out of the chains above it. children: n names of images whose backing file it is; each is
 * rebased onto the layer's own backing file, and must be free to be written. What is a child nobody can know
 * but the caller. flags: QCHAIN_DELETE_*. If it fails midway, some children are rebased and others not; all read
 * the same, the file is there, and the call may be repeated. opts: how the children are opened; names no store,
 * descriptor, snapshot, data file or index. env, opts, job and result may be NULL; of the result layers is that of
 * the last child's chain. Blocks. Errors: INVAL (a child stands on something else), LOCKED, and those of
 * qchain_open and qchain_rebase. Since 0.1. */
QCHAIN_API int qchain_delete_layer(qchain_env *env, const char *layer, const char *const *children, uint32_t n,
                                   uint32_t flags, const qchain_open_opts *opts, qchain_job *job,
                                   qchain_job_result *result, qchain_error *err);

/* ---------------------------------------------------------------- commit --- */

enum qchain_commit_flags {
    QCHAIN_COMMIT_KEEP = 0x1 /* do not empty the top afterwards: its data stays, too (-d)     */
};

typedef struct qchain_commit_opts {
    size_t      struct_size; /* set by qchain_commit_opts_init                                                  */
    uint32_t    flags;       /* QCHAIN_COMMIT_*                                                                 */
    uint32_t    threads;     /* 0 = chosen                                                                      */
    const char *base;        /* a layer below, by the name it has in the chain; NULL = the top's backing file.
                                Of a base further down the top is not emptied, as QEMU does it                  */
    const qchain_open_opts *open; /* how the chain is opened; may be NULL                                       */
    qchain_job *job;         /* may be NULL                                                                     */
    uint64_t    reserved[4];
} qchain_commit_opts;

/* Fill o with defaults; size is sizeof(qchain_commit_opts). Since 0.1. */
QCHAIN_API void qchain_commit_opts_init(qchain_commit_opts *o, size_t size);
/* Write what the layers from the image called name down to the base (excluded) hold into the base, which is
 * made longer if it is too short; make that durable; empty the top, if it stands right on the base. Both are
 * locked against other writers, and other readers of the base are refused (LOCKED): layers that stand on it
 * elsewhere would change. result may be NULL. Blocks. Errors: NOTFOUND (no such layer), LOCKED, and those of
 * qchain_read and qchain_write. Since 0.1. */
QCHAIN_API int qchain_commit(qchain_env *env, const char *name, const qchain_commit_opts *opts,
                             qchain_job_result *result, qchain_error *err);

/* -------------------------------------------------------------- prefetch --- */

enum qchain_prefetch_flags {
    QCHAIN_PREFETCH_METADATA = 0x1, /* only what finding the data takes: tables, or the sidecar index           */
    QCHAIN_PREFETCH_IDLE     = 0x2, /* reads through the same environment go first: while one waits for its
                                       server, hardly anything is fetched; one request at a time for 0.3 s
                                       after it; then as much as the link carries. Where they wait longer for their
                                       first bytes than they did of late, requests are smaller and fewer       */
    QCHAIN_PREFETCH_TOP      = 0x4  /* into the tops of the chains, which are open for writing                  */
};

/* A part of one of the disks. */
typedef struct qchain_prefetch_range {
    uint64_t offset;    /* guest bytes, of any alignment; what lies past the disk's end is left out             */
    uint64_t length;    /* UINT64_MAX = to the end                                                              */
    uint32_t chain;     /* which disk: its number among those of the call                                       */
    uint32_t reserved0; /* 0                                                                                    */
} qchain_prefetch_range;

typedef struct qchain_prefetch_opts {
    size_t      struct_size;         /* set by qchain_prefetch_opts_init                                        */
    uint32_t    flags;               /* QCHAIN_PREFETCH_*                                                       */
    uint32_t    parallel;            /* requests under way, at most 256; 0 = chosen                             */
    const qchain_prefetch_range *ranges; /* in the order in which they are wanted; NULL = the whole of each disk */
    uint32_t    n_ranges;
    uint32_t    reserved0;           /* 0                                                                       */
    uint64_t    bytes_per_second;    /* of data; 0 = no limit. The job's rate holds as well                     */
    uint64_t    requests_per_second; /* for data; 0 = no limit                                                  */
    uint64_t    max_bytes;           /* of data in all: then it ends; 0 = no limit                              */
    uint64_t    deadline_ms;         /* after so long it ends; 0 = no limit                                     */
    qchain_job *job;                 /* may be NULL; progress is told in guest bytes of the ranges              */
    uint64_t    reserved[4];
} qchain_prefetch_opts;

/* Why a prefetch that did not fail has ended. */
enum qchain_prefetch_end {
    QCHAIN_PREFETCH_ALL      = 0, /* everything is in the cache                                                 */
    QCHAIN_PREFETCH_BYTES    = 1, /* max_bytes were fetched                                                     */
    QCHAIN_PREFETCH_DEADLINE = 2  /* deadline_ms were over                                                      */
};

/* What a prefetch did, also one that failed: in bytes, but for requests. */
typedef struct qchain_prefetch_result {
    size_t   struct_size; /* set by the caller                                                                  */
    uint64_t visible;     /* guest bytes looked at that layers behind URLs show                                 */
    uint64_t local;       /* the same of other layers, which need no cache                                      */
    uint64_t unkept;      /* the same of objects whose server sends no validators: these cannot be cached       */
    uint64_t cached;      /* bytes of objects that were in the cache, or on their way there                     */
    uint64_t fetched;     /* bytes of objects that were brought into it                                         */
    uint64_t requests;    /* for these                                                                          */
    uint32_t end;         /* enum qchain_prefetch_end                                                           */
    uint32_t reserved0;
    uint64_t reserved[4];
} qchain_prefetch_result;

/* Fill o with defaults; size is sizeof(qchain_prefetch_opts). Since 0.1. */
QCHAIN_API void qchain_prefetch_opts_init(qchain_prefetch_opts *o, size_t size);
/* Bring what layers behind URLs show of n disks into the disk cache of their environment (setting cache-dir),
 * so that reads of it, by other processes too, ask no server for data. What upper layers hide is not fetched,
 * but for gaps of at most 16 KiB between what is; nothing is fetched twice, nor what is in the cache already:
 * run again, it goes on where it was ended or killed. Neighbours become requests of up to 2 MiB. It fetches
 * while it still maps; the disks take turns under one budget. Reads through the same chains that want what is on
 * its way wait for that. More than fits the cache pushes out what came first. Needs up to 16 MiB of memory besides
 * the environment's budgets, whatever the chain's size.
 * chains: any, also of different environments; ranges of a disk are taken in their order, which is kept but within
 * a batch of some MiB. opts and result may be NULL. Blocks; any thread; the chains may be read, written and
 * mapped meanwhile, not closed. Local layers are left alone, and chains of nothing else need no cache. The rate
 * holds for data alone, not for tables.
 * With TOP no cache is needed; one that is there is used as by reads, and counts as if it were the server. What is
 * fetched is stored in the top of each chain where that holds nothing yet, zeros of layers excepted, with the streams
 * of compressed clusters as they are where the top's clusters are of the same kind and size. The top goes on standing
 * on the same layers, is a valid image at any time, also after a kill, and durable when the call returns; what it holds
 * counts as local, and is not fetched again. Meanwhile as with qchain_rebase; METADATA is INVAL. qchain_stream makes
 * the top independent.
 * Errors: UNSUPPORTED (a layer lies behind a URL, and there is no disk cache), IO (the cache cannot be used, or
 * not be written), CANCELLED by the job (at once: what is under way still lands in the cache, not in a top), RANGE (a
 * range begins past the end), READONLY (TOP, and the chain is not open for writing), and those of qchain_map,
 * qchain_read and, with TOP, qchain_write. Since 0.1. */
QCHAIN_API int qchain_prefetch(qchain *const *chains, uint32_t n, const qchain_prefetch_opts *opts,
                               qchain_prefetch_result *result, qchain_error *err);

#ifdef __cplusplus
}
#endif

#endif
