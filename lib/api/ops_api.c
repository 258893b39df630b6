/* SPDX-License-Identifier: MIT */
/* The door to long operations. */
#include <string.h>

#include "api/api.h"
#include "chain/chain.h"
#include "ops/checksum.h"
#include "ops/compare.h"
#include "ops/copyout.h"
#include "ops/job.h"
#include "util/alloc.h"

#define KNOWN_COPY                                                                                 \
    (QCHAIN_COPY_ORDERED | QCHAIN_COPY_SALVAGE | QCHAIN_COPY_NO_ZEROS | QCHAIN_COPY_DETECT_ZEROS)

qchain_job *qchain_job_create(void)
{
    return qc_calloc(1, sizeof(qchain_job));
}

void qchain_job_destroy(qchain_job *job)
{
    qc_free(job);
}

void qchain_job_cancel(qchain_job *job)
{
    if (job)
        atomic_store(&job->cancelled, 1);
}

void qchain_job_pause(qchain_job *job, int paused)
{
    if (job)
        atomic_store(&job->paused, paused != 0);
}

void qchain_job_rate(qchain_job *job, uint64_t bytes_per_second)
{
    if (job)
        atomic_store(&job->rate, bytes_per_second);
}

void qchain_job_progress(const qchain_job *job, uint64_t *done, uint64_t *total)
{
    if (done)
        *done = job ? atomic_load(&job->done) : 0;
    if (total)
        *total = job ? atomic_load(&job->total) : 0;
}

void qchain_copy_opts_init(qchain_copy_opts *o, size_t size)
{
    qc_opts_init(o, size);
}

void qchain_compare_opts_init(qchain_compare_opts *o, size_t size)
{
    qc_opts_init(o, size);
}

/* Write the library's copy of an option struct back for its out fields. */
static void give_back(void *to, const void *from, size_t from_size)
{
    size_t size;

    memcpy(&size, to, sizeof(size));
    memcpy((char *)to + sizeof(size), (const char *)from + sizeof(size),
           (size < from_size ? size : from_size) - sizeof(size));
}

int qchain_copy_out(qchain *c, const qchain_sink *sink, qchain_copy_opts *opts, qchain_error *err)
{
    qchain_copy_opts o;
    qchain_sink s;
    int ret;

    QC_ERR(err);
    if (!c || !sink)
        return qc_fail(err, QCHAIN_E_INVAL, "copy: an argument is NULL");
    ret = qc_opts_copy(&o, sizeof(o), opts, err);
    if (ret == 0)
        ret = qc_opts_copy(&s, sizeof(s), sink, err);
    if (ret != 0)
        return ret;
    if (!s.write || o.flags & ~(uint32_t)KNOWN_COPY)
        return qc_fail(err, QCHAIN_E_INVAL, "copy: no write call, or unknown flags 0x%x", o.flags);
    if (qc_env_forked(c->env))
        return qc_fail_forked(err);
    ret = qc_copy_out(c, &s, &o, err);
    if (opts)
        give_back(opts, &o, sizeof(o));
    return ret;
}

int qchain_compare(qchain *a, qchain *b, qchain_compare_opts *opts, qchain_error *err)
{
    qchain_compare_opts o;
    int ret;

    QC_ERR(err);
    if (!a || !b || !opts)
        return qc_fail(err, QCHAIN_E_INVAL, "compare: an argument is NULL");
    ret = qc_opts_copy(&o, sizeof(o), opts, err);
    if (ret != 0)
        return ret;
    if (o.flags & ~(uint32_t)QCHAIN_COMPARE_STRICT)
        return qc_fail(err, QCHAIN_E_INVAL, "compare: unknown flags 0x%x", o.flags);
    if (qc_env_forked(a->env) || qc_env_forked(b->env))
        return qc_fail_forked(err);
    ret = qc_compare(a, b, &o, err);
    give_back(opts, &o, sizeof(o));
    return ret;
}

int qchain_checksum(qchain *c, uint8_t digest[32], uint32_t threads, qchain_job *job,
                    qchain_error *err)
{
    QC_ERR(err);
    if (!c || !digest)
        return qc_fail(err, QCHAIN_E_INVAL, "checksum: an argument is NULL");
    if (qc_env_forked(c->env))
        return qc_fail_forked(err);
    return qc_checksum(c, digest, threads, job, err);
}
