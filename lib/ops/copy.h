/* SPDX-License-Identifier: MIT */
/*
 * The copy engine: the visible bytes of a range, read by several workers and
 * handed on as segments of data and zeros. Long operations differ only in what
 * they do with the segments.
 */
#ifndef QC_OPS_COPY_H
#define QC_OPS_COPY_H

#include <stdbool.h>

#include "chain/chain.h"
#include "ops/job.h"

#define QC_COPY_SEGMENTS 64

struct qc_segment {
    uint64_t offset, length;
    char    *buf;        /* NULL: zeros */
    size_t   run, n_run; /* of a selection: its runs among the task's; QC_ABSENT is what the whole chain shows */
    bool     streams;    /* its runs are streams of whole clusters, not read: there is room for them in buf */
};

/* One worker's load: segments in order of offset, without gaps but those of a selection. */
struct qc_copy_task {
    uint64_t          number; /* tasks are numbered in order of offset */
    uint64_t          start, end;
    struct qc_segment segment[QC_COPY_SEGMENTS];
    unsigned          n;
    uint64_t          moves; /* bytes of its segments */
    char             *buf;
    struct qc_run    *run;
    size_t            n_run, cap_run;
    struct qc_span   *span;   /* of a selection: how it is read, */
    qchain_iov       *iov;    /* and into what, one a span */
    size_t            n_span, cap_span, cap_iov;
    void             *local; /* from job.local_size: zeroed memory of the worker */
};

/* Some layers rather than what the whole chain shows: what [upto, below) hold and none of [0, upto) hides. It is
 * read straight from where it lies: what is deeper is looked at by nobody, but for the rest of units that are
 * selected in part. */
struct qc_copy_select {
    uint32_t upto, below;
    bool     absent;       /* what none of them holds, nor [0, upto), is zeros, too */
    bool     exact;        /* the rest of units is not what the chain shows: segments are what was found */
    bool     still;        /* nobody writes the chain, though it may be open for that */
    /* Streams of compressed clusters of this format, kind and size are left as they are. NULL: none. */
    const struct qc_image *streams_of;
};

struct qc_copy_job {
    qchain     *c;
    uint64_t    start, end;
    uint64_t    align;       /* data segments are multiples of it (but for the disk's end) */
    uint64_t    chunk;       /* bytes of data a task; a multiple of align */
    unsigned    threads;     /* 0: default */
    const struct qc_copy_select *select; /* NULL: all that shows */
    size_t      local_size;  /* memory each worker has for itself */
    bool        salvage;     /* what cannot be read is zeros, counted in salvaged */
    uint64_t    salvaged;    /* out */
    qchain_job *job;
    uint64_t    began_ns;    /* when the job was begun, for this and more; 0: this is all of it */
    void       *ctx;
    /* With the task's data read, on the worker, in any order; may be NULL. */
    int (*work)(void *ctx, struct qc_copy_task *t, qchain_error *err);
    /* In order of offset, one at a time; may be NULL. */
    int (*emit)(void *ctx, struct qc_copy_task *t, qchain_error *err);
};

/* Run to the end, or to the first failure (also a positive result of work or
 * emit), which is returned. */
int qc_copy_run(struct qc_copy_job *job, qchain_error *err);

unsigned qc_copy_threads(qchain *c, unsigned asked);

#endif
