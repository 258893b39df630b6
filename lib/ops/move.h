/* SPDX-License-Identifier: MIT */
/*
 * Moving data between layers: what layers of one chain hold is written into the top of a chain that is open for
 * writing, which may be the same. Rebase, commit, stream and convert are a choice of source, target and a look at
 * each extent.
 */
#ifndef QC_OPS_MOVE_H
#define QC_OPS_MOVE_H

#include "chain/chain.h"
#include "ops/job.h"

enum qc_move_flags {
    QC_MOVE_COMPRESS     = 0x01, /* data is written compressed, where whole clusters are written   */
    QC_MOVE_KEEP_STREAMS = 0x02, /* streams of compressed clusters are taken as they are where the target's clusters
                                    are of the same size and kind, and the whole cluster shows     */
    QC_MOVE_DETECT_ZEROS = 0x04, /* look for zeros in data                                         */
    QC_MOVE_SALVAGE      = 0x08,
    QC_MOVE_COMPARE      = 0x10, /* leave out what `against` has, too, by reading both             */
    QC_MOVE_SKIP_ZEROS   = 0x20, /* the target reads as zeros: they need not be written            */
    QC_MOVE_EXACT        = 0x40, /* what lies around is not to be had from the source: nothing is written but what
                                    the layers hold                                                */
    QC_MOVE_WRITE_ZEROS  = 0x80, /* as data                                                        */
    QC_MOVE_WRITE_BEHIND = 0x100, /* the target will be flushed: let the medium begin before       */
    QC_MOVE_STILL        = 0x200 /* nobody writes to `from`, though it may be open for that        */
};

struct qc_move {
    qchain     *from;
    qchain     *to;           /* open for writing                                                  */
    uint32_t    upto, below;  /* what layers [upto, below) of `from` hold and none of [0, upto) hides; layers [0, upto)
                                 of `from` are looked at, never read. below == layers + 1: absent ranges, too, are
                                 zeros to be written                                               */
    uint64_t    start, end;
    uint32_t    flags;        /* QC_MOVE_*                                                         */
    uint64_t    sparse_bytes; /* with DETECT_ZEROS: stretches so long count                        */
    unsigned    threads;      /* 0: chosen                                                         */
    qchain     *against;      /* with COMPARE                                                      */
    qchain_job *job;
    uint64_t    began_ns;     /* when that was begun, for this range and others; 0: this is all    */
    qchain_job_result done;   /* out                                                               */
};

/* To the end, or to the first failure. What was written is in the target's memory and file, not flushed. Writes are
 * whole units of the target, merged to 1 MiB and more, several at a time. */
int qc_move_run(struct qc_move *m, qchain_error *err);

#endif
