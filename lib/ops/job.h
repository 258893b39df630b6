/* SPDX-License-Identifier: MIT */
/* What a long call and those who watch it share. */
#ifndef QC_OPS_JOB_H
#define QC_OPS_JOB_H

#include <stdatomic.h>
#include <qchain.h>

#include "util/clock.h"

struct qchain_job {
    atomic_int           cancelled;
    atomic_int           paused;
    atomic_uint_fast64_t rate;  /* bytes a second; 0: none */
    atomic_uint_fast64_t done, total;
    atomic_uint_fast64_t moved; /* of done: what the rate holds for */
};

/* All accept NULL. */
void qc_job_begin(qchain_job *job, uint64_t total);
void qc_job_add(qchain_job *job, uint64_t bytes);
/* There is so much to do, as is known by now. */
void qc_job_total(qchain_job *job, uint64_t total);
/* So much of the work turned out to be none: no rate holds for it. */
void qc_job_pass(qchain_job *job, uint64_t bytes);
/* Hold while paused or ahead of the rate (started_ns: when the call began);
 * CANCELLED when asked to end. */
int qc_job_check(qchain_job *job, uint64_t started_ns, qchain_error *err);

#endif
