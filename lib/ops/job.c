/* SPDX-License-Identifier: MIT */
#include "ops/job.h"

#include <time.h>

#include "util/error.h"

void qc_job_begin(qchain_job *job, uint64_t total)
{
    if (!job)
        return;
    atomic_store(&job->done, 0);
    atomic_store(&job->moved, 0);
    atomic_store(&job->total, total);
}

void qc_job_total(qchain_job *job, uint64_t total)
{
    if (job)
        atomic_store(&job->total, total);
}

void qc_job_add(qchain_job *job, uint64_t bytes)
{
    if (!job)
        return;
    atomic_fetch_add(&job->moved, bytes);
    atomic_fetch_add(&job->done, bytes);
}

void qc_job_pass(qchain_job *job, uint64_t bytes)
{
    if (job)
        atomic_fetch_add(&job->done, bytes);
}

int qc_job_check(qchain_job *job, uint64_t started_ns, qchain_error *err)
{
    struct timespec nap = {0, 10 * 1000 * 1000};
    uint64_t rate;

    if (!job)
        return 0;
    for (;;) {
        if (atomic_load(&job->cancelled))
            return qc_fail(err, QCHAIN_E_CANCELLED, "cancelled");
        rate = atomic_load(&job->rate);
        if (!atomic_load(&job->paused) &&
            (rate == 0 || (double)atomic_load(&job->moved) / (double)rate <=
                              (double)(qc_now_ns() - started_ns) / 1e9))
            return 0;
        nanosleep(&nap, NULL);
    }
}
