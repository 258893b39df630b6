/* SPDX-License-Identifier: MIT */
/* Copying a disk into a sink. */
#include "ops/copyout.h"

#include <string.h>

#include "ops/copy.h"
#include "util/bytes.h"

#define DEFAULT_CHUNK (512u << 10)
#define FAR_CHUNK (2u << 20)     /* of chains that lie far away */
#define MAX_CHUNK (UINT64_C(1) << 30)
#define ZERO_UNIT 4096

static const char zeros[64 << 10];

struct out {
    const qchain_sink *sink;
    uint32_t           flags;
    qchain_job        *job;
};

static int put_zeros(const struct out *o, uint64_t offset, uint64_t length, qchain_error *err)
{
    uint64_t n;
    int ret = 0;

    if (o->flags & QCHAIN_COPY_NO_ZEROS)
        return 0;
    if (o->sink->zero)
        return o->sink->zero(o->sink->data, length, offset, err);
    for (; ret == 0 && length > 0; offset += n, length -= n) {
        n = qc_min64(length, sizeof(zeros));
        ret = qc_job_check(o->job, 0, err); /* a hole may be as long as the disk */
        if (ret == 0)
            ret = o->sink->write(o->sink->data, zeros, (size_t)n, offset, err);
    }
    return ret;
}

/* Length of the stretch at buf that is all zeros, or has none, in whole units. */
static size_t stretch(const char *buf, size_t len, bool *zero)
{
    size_t at = 0, n;

    for (; at < len; at += n) {
        n = len - at < ZERO_UNIT ? len - at : ZERO_UNIT;
        bool z = qc_is_zero(buf + at, n);

        if (at == 0)
            *zero = z;
        else if (z != *zero)
            break;
    }
    return at;
}

static int put_data(const struct out *o, const struct qc_segment *s, qchain_error *err)
{
    size_t at = 0, n;
    bool zero;
    int ret = 0;

    if (!(o->flags & QCHAIN_COPY_DETECT_ZEROS))
        return o->sink->write(o->sink->data, s->buf, (size_t)s->length, s->offset, err);
    for (; ret == 0 && at < s->length; at += n) {
        n = stretch(s->buf + at, (size_t)s->length - at, &zero);
        if (zero)
            ret = put_zeros(o, s->offset + at, n, err);
        else
            ret = o->sink->write(o->sink->data, s->buf + at, n, s->offset + at, err);
    }
    return ret;
}

static int put_task(void *ctx, struct qc_copy_task *t, qchain_error *err)
{
    const struct out *o = ctx;
    int ret = 0;

    qc_error_init(err); /* what reading got over is not the sink's */
    for (unsigned i = 0; ret == 0 && i < t->n; i++) {
        const struct qc_segment *s = &t->segment[i];

        ret = s->buf ? put_data(o, s, err) : put_zeros(o, s->offset, s->length, err);
    }
    if (ret < 0 && err->code != ret)
        qc_fail(err, ret, "the sink failed without saying why");
    return ret;
}

int qc_copy_out(qchain *c, const qchain_sink *sink, qchain_copy_opts *opts, qchain_error *err)
{
    struct out o = {sink, opts->flags, opts->job};
    struct qc_copy_job job = {.c = c, .start = opts->offset, .align = 512, .ctx = &o};
    uint64_t chunk = opts->chunk_bytes ? opts->chunk_bytes : c->far ? FAR_CHUNK : DEFAULT_CHUNK;
    int ret;

    if (opts->offset > c->size || opts->length > c->size - opts->offset)
        return qc_fail(err, QCHAIN_E_RANGE, "copy: %llu bytes at %llu reach beyond the disk's %llu",
                       (unsigned long long)opts->length, (unsigned long long)opts->offset,
                       (unsigned long long)c->size);
    job.end = opts->length ? opts->offset + opts->length : c->size;
    job.chunk = qc_align_up(qc_min64(chunk, MAX_CHUNK), 512);
    job.threads = opts->threads;
    job.salvage = opts->flags & QCHAIN_COPY_SALVAGE;
    job.job = opts->job;
    if (opts->flags & QCHAIN_COPY_ORDERED)
        job.emit = put_task;
    else
        job.work = put_task;
    ret = qc_copy_run(&job, err);
    opts->salvaged_bytes = job.salvaged;
    return ret;
}
