/* SPDX-License-Identifier: MIT */
/*
 * qchain-trace.h - traces: which parts of a disk were read, in order, recorded while they are read; and what
 * they say, for qchain_prefetch. Included by <qchain.h>, whose rules on errors, option structs, threads and units
 * hold here.
 *
 * A trace speaks of offsets of the disk alone, so one that was recorded before a rebase, merge or commit, or of
 * another chain with the same disk below, serves as well afterwards. It holds no bytes and no names. It tells what
 * a guest reads: who may read the trace learns that.
 */
#ifndef QCHAIN_TRACE_H
#define QCHAIN_TRACE_H

#include <qchain-jobs.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------- recording --- */

enum qchain_trace_flags {
    QCHAIN_TRACE_KEEP_FIRST = 0x1 /* at max_bytes the recording ends: what comes later is not in it            */
};

typedef struct qchain_trace_opts {
    size_t   struct_size; /* set by qchain_trace_opts_init                                                      */
    uint32_t flags;       /* QCHAIN_TRACE_*                                                                     */
    uint32_t reserved0;   /* 0                                                                                  */
    uint64_t max_bytes;   /* of the trace, both files together; 128 KiB to 8 MiB; 0 = 4 MiB                     */
    uint64_t reserved[4];
} qchain_trace_opts;

/* Fill o with defaults; size is sizeof(qchain_trace_opts). Since 0.1. */
QCHAIN_API void qchain_trace_opts_init(qchain_trace_opts *o, size_t size);
/* Record from now on what is read through c: by qchain_read and its like, by queues (when a request is accepted,
 * whatever becomes of it), and by operations that read its disk (qchain_copy_out, qchain_checksum, qchain_compare).
 * Reads for copy-on-write and of internal snapshots' VM state are not the guest's, and left out. Reads that follow
 * each other closely, in place and time, become one record.
 * path: a file that is made, or a trace, which is replaced; anything else that lies there is left alone. When it
 * has half of max_bytes it is renamed to path with ".1" behind it, in place of the one before, and a new one is
 * begun: so the latest reads are kept, at least half of max_bytes. With KEEP_FIRST the earliest are.
 * Readers make no system call for it and wait for no I/O: records are kept in memory (at most 4 MB a recording) and
 * written four times a second, or when there are many, by a thread of its own. Reads that come faster than they can be
 * written are counted, not recorded. A process that is killed leaves a trace that lacks the last quarter of a
 * second; nothing is synced, so after a power failure it may lack more.
 * opts may be NULL. Start and stop of one chain must not overlap each other; reads may go on meanwhile. Errors:
 * BUSY (one is under way), INVAL (a file that is no trace lies there), LOCKED (somebody records into it), ACCESS,
 * NOTFOUND (no such directory), NOSPACE, IO, NOMEM. Since 0.1. */
QCHAIN_API int qchain_trace_start(qchain *c, const char *path, const qchain_trace_opts *opts, qchain_error *err);
/* End the recording: when it returns, all reads that had ended before are in the file. NOTFOUND if none is under
 * way; NOSPACE or IO if a part of it could not be written: what is before that part is there. qchain_close does
 * the same, silently. Since 0.1. */
QCHAIN_API int qchain_trace_stop(qchain *c, qchain_error *err);

/* --------------------------------------------------------------- reading --- */

/* One read, or several that were joined. */
typedef struct qchain_trace_record {
    uint64_t time_us; /* since the recording began; of several reads the first's                                */
    uint64_t offset;  /* guest bytes                                                                            */
    uint64_t length;  /* at least 1                                                                             */
    uint64_t reads;   /* how many it was, at least 1                                                            */
} qchain_trace_record;

/* What a trace says, or several: one block of facts; later versions append fields. */
typedef struct qchain_trace {
    size_t   struct_size;
    uint32_t flags;       /* 0                                                                                  */
    uint32_t n_ranges;
    uint64_t n_records;
    uint64_t disk_size;   /* bytes of the disk when it began; of several the largest                            */
    uint64_t began_ns;    /* when, ns since the epoch; of several the earliest                                  */
    uint64_t lost;        /* reads that came too fast to be recorded                                            */
    uint64_t unread;      /* bytes at the ends of files that make no sense: what a kill or a full disk leaves   */
    const qchain_trace_record *records;  /* in order of time                                                    */
    const qchain_prefetch_range *ranges; /* what was read, each byte once, in the order of the first reads      */
    uint64_t reserved[4];
} qchain_trace;

enum qchain_trace_load_flags {
    QCHAIN_TRACE_LOAD_BESIDE   = 0x1, /* the names are images': the trace beside each, called as it with ".qctrace"
                                         behind                                                                 */
    QCHAIN_TRACE_LOAD_DISTINCT = 0x2  /* of the records what an earlier one has is left out; each then counts as
                                         one read                                                               */
};

typedef struct qchain_trace_load_opts {
    size_t   struct_size; /* set by qchain_trace_load_opts_init                                                 */
    uint32_t flags;       /* QCHAIN_TRACE_LOAD_*                                                                */
    uint32_t chain;       /* that the ranges are given                                                          */
    uint64_t disk_size;   /* what lies past it is left out; 0 = nothing is                                      */
    uint64_t reserved[4];
} qchain_trace_load_opts;

/* Fill o with defaults; size is sizeof(qchain_trace_load_opts). Since 0.1. */
QCHAIN_API void qchain_trace_load_opts_init(qchain_trace_load_opts *o, size_t size);
/* Read n traces, n > 0, as one: ordered by the time since each began. names: paths or URLs; of a file the part that
 * was renamed is read, too, unless it is of another recording. A file may be one that is being recorded: what is
 * whole of it is taken, and unread tells of the rest. env: how URLs are reached; NULL = the defaults. opts may be
 * NULL. Blocks. Takes at most 2 million records, and some 500 MB of memory for so many. *out is to be freed by
 * qchain_trace_free. Errors: NOTFOUND, CORRUPT (no trace, or its header is damaged), UNSUPPORTED (of a later
 * version), LIMIT (more than 16 MiB of files, or more records), ACCESS, IO, NOMEM, INVAL, and those of requests.
 * Since 0.1. */
QCHAIN_API int qchain_trace_load(qchain_trace **out, qchain_env *env, const char *const *names, uint32_t n,
                                 const qchain_trace_load_opts *opts, qchain_error *err);
/* Free one; NULL is fine. Since 0.1. */
QCHAIN_API void qchain_trace_free(qchain_trace *t);
/* Write the records of one to a file, atomically; a file that lies there must be a trace. Errors: INVAL (it is
 * not, or the records are in no order), LOCKED (somebody records into it), LIMIT (it would be larger than
 * qchain_trace_load takes), and those of writing. Since 0.1. */
QCHAIN_API int qchain_trace_save(const qchain_trace *t, const char *path, qchain_error *err);

#ifdef __cplusplus
}
#endif

#endif
