/* SPDX-License-Identifier: MIT */
/* Moving data between layers: the copy engine with a tip as its sink. */
#include "ops/move.h"

#include <string.h>

#include "chain/pull.h"
#include "io/file_share.h"
#include "ops/copy.h"
#include "ops/move_int.h"
#include "util/bytes.h"

#define CHUNK (UINT64_C(2) << 20)
#define FAR_CHUNK (UINT64_C(4) << 20)
#define ZERO_UNIT 4096
#define ZERO_PIECES 16u
#define BEHIND (UINT64_C(8) << 20) /* written at once, so to speak */

/* So many bytes more were written. */
static void note_written(struct qc_mover *v, uint64_t length)
{
    uint64_t before = atomic_fetch_add(&v->copied, length);

    if (v->m->flags & QC_MOVE_WRITE_BEHIND && before / BEHIND != (before + length) / BEHIND)
        qc_file_write_behind(v->m->to->tip->data);
}

/* ------------------------------------------------------------------ zeros --- */

/* As data, however long. */
static int write_zeros(struct qc_mover *v, uint64_t offset, uint64_t length, qchain_error *err)
{
    qchain_iov iov[ZERO_PIECES];
    uint64_t n, left;
    uint32_t k;
    int ret = 0;

    for (; ret == 0 && length > 0; offset += n, length -= n) {
        n = qc_min64(length, ZERO_PIECES * QC_TIP_ZEROS);
        for (k = 0, left = n; left > 0; left -= iov[k++].len)
            iov[k] = (qchain_iov){qc_tip_zeros, (size_t)qc_min64(left, QC_TIP_ZEROS)};
        ret = qc_job_check(v->m->job, 0, err);
        if (ret == 0)
            ret = qc_chain_writev(v->m->to, iov, k, (size_t)n, offset, 0, err);
        if (ret == 0)
            note_written(v, n);
    }
    return ret;
}

int qc_move_put_zeros(struct qc_mover *v, uint64_t offset, uint64_t length, qchain_error *err)
{
    qchain *to = v->m->to;
    int ret;

    if (v->m->flags & QC_MOVE_SKIP_ZEROS)
        return 0;
    if (v->m->flags & QC_MOVE_WRITE_ZEROS)
        return write_zeros(v, offset, length, err);
    if (to == v->m->from) /* what is below will be another */
        ret = qc_chain_pull(to, NULL, length, offset, err);
    else
        ret = qc_chain_write_zeroes(to, length, offset, QCHAIN_WRITE_UNMAP, err);
    if (ret == 0)
        atomic_fetch_add(&v->zeroed, length);
    return ret;
}

/* ------------------------------------------------------------------- data --- */

static int put_data(struct qc_mover *v, const char *buf, uint64_t offset, uint64_t length, qchain_error *err)
{
    qchain_iov iov = {(char *)(uintptr_t)buf, (size_t)length};
    qchain *to = v->m->to;
    uint64_t unit = to->tip->unit;
    bool whole = offset % unit == 0 && (length % unit == 0 || offset + length == to->size);
    int ret;

    if (to == v->m->from && v->m->flags & QC_MOVE_COMPRESS && whole)
        ret = qc_chain_pull_compressed(to, buf, length, offset, err);
    else if (to == v->m->from)
        ret = qc_chain_pull(to, buf, length, offset, err);
    else if (v->m->flags & QC_MOVE_COMPRESS && whole)
        ret = qc_chain_write_compressed(to, buf, iov.len, offset, 0, err);
    else
        ret = qc_chain_writev(to, &iov, 1, iov.len, offset, 0, err);
    if (ret == 0)
        note_written(v, length);
    return ret;
}

/* Length of the stretch at buf that is all zeros, or has none, in whole units. */
static uint64_t stretch(const char *buf, uint64_t length, uint64_t unit, bool *zero)
{
    uint64_t at = 0, n;

    for (; at < length; at += n) {
        n = qc_min64(unit, length - at);
        bool z = qc_is_zero(buf + at, (size_t)n);

        if (at == 0)
            *zero = z;
        else if (z != *zero)
            break;
    }
    return at;
}

int qc_move_put_data(struct qc_mover *v, const char *buf, uint64_t offset, uint64_t length, qchain_error *err)
{
    uint64_t at = 0, n;
    bool zero;
    int ret = 0;

    if (!(v->m->flags & QC_MOVE_DETECT_ZEROS))
        return put_data(v, buf, offset, length, err);
    for (; ret == 0 && at < length; at += n) {
        n = stretch(buf + at, length - at, v->zero_unit, &zero);
        if (zero)
            ret = qc_move_put_zeros(v, offset + at, n, err);
        else
            ret = put_data(v, buf + at, offset + at, n, err);
    }
    return ret;
}

/* -------------------------------------------------------------------- run --- */

static int put_task(void *ctx, struct qc_copy_task *t, qchain_error *err)
{
    struct qc_mover *v = ctx;
    int ret = 0;

    qc_error_init(err); /* what reading got over is over */
    for (unsigned i = 0; ret == 0 && i < t->n; i++) {
        const struct qc_segment *s = &t->segment[i];

        if (v->m->flags & QC_MOVE_COMPARE)
            ret = qc_move_compare(v, s->buf, s->offset, s->length, t->local, err);
        else if (s->streams)
            ret = qc_move_put_streams(v, t, s, err);
        else if (s->buf)
            ret = qc_move_put_data(v, s->buf, s->offset, s->length, err);
        else
            ret = qc_move_put_zeros(v, s->offset, s->length, err);
    }
    return ret;
}

/* Bytes of the target that are written whole: less makes it read what lies around. */
static uint64_t target_unit(const struct qc_move *m)
{
    const struct qc_tip *t = m->to->tip;
    uint64_t unit = m->flags & QC_MOVE_COMPRESS ? t->unit : t->img->run_unit;

    /* The rest of a unit is what the source's whole chain shows, unless that hides what is moved. */
    return unit == 0 || m->flags & QC_MOVE_EXACT || (m->upto > 0 && m->from != m->to) ? 512 : unit;
}

/* May streams be taken into the target as they are? */
static bool takes_streams(const struct qc_move *m)
{
    const struct qc_tip *t = m->to->tip;

    return m->flags & QC_MOVE_KEEP_STREAMS && !(m->flags & QC_MOVE_COMPARE) && t->ops->write_compressed &&
           !t->img->data_store;
}

int qc_move_run(struct qc_move *m, qchain_error *err)
{
    struct qc_mover v = {.m = m};
    struct qc_copy_select select = {.upto = m->upto, .below = m->below,
                                    .absent = m->below > m->from->n_layers};
    struct qc_copy_job job = {.c = m->from, .start = m->start, .end = m->end, .threads = m->threads,
                              .salvage = m->flags & QC_MOVE_SALVAGE, .select = &select, .job = m->job,
                              .began_ns = m->began_ns, .ctx = &v, .work = put_task};
    int ret;

    job.align = target_unit(m);
    if (takes_streams(m))
        select.streams_of = m->to->tip->img;
    select.still = m->flags & QC_MOVE_STILL;
    v.unit = job.align;
    if (m->flags & QC_MOVE_COMPARE)
        job.local_size = v.room = CHUNK;
    job.chunk = qc_max64(m->from->far ? FAR_CHUNK : CHUNK, job.align);
    v.zero_unit = qc_align_up(qc_max64(m->sparse_bytes, ZERO_UNIT), qc_max64(job.align, ZERO_UNIT));
    ret = qc_copy_run(&job, err);
    m->done.copied += v.copied;
    m->done.zeroed += v.zeroed;
    m->done.compressed += v.compressed;
    m->done.compared += v.compared;
    m->done.salvaged += job.salvaged;
    return ret;
}
