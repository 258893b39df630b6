/* SPDX-License-Identifier: MIT */
/* Making ranges zero without writing them, and giving them up. */
#include "chain/tip.h"
#include "util/bytes.h"

/* What one lock covers at most: others want to write meanwhile. */
#define STEP (UINT64_C(1) << 30)

/* The bytes of [offset, end) that are not whole units, or all where the format has nothing better: as zeros, if
 * they are not. The clusters are locked. */
static int zero_part(qchain *c, uint64_t offset, uint64_t end, uint32_t flags, uint64_t *stop,
                     qchain_error *err)
{
    uint64_t unit = c->tip->img->run_unit ? c->tip->img->run_unit : 512;

    *stop = qc_min64(end, qc_align_down(offset, unit) + qc_max64(unit, c->tip->unit));
    if (offset % unit != 0)
        *stop = qc_min64(end, qc_align_up(offset, unit));
    return qc_tip_write_zeros(c, offset, *stop, QC_TIP_LOCKED | (flags & QC_ZERO_HOLD ? QC_TIP_HOLD : 0), err);
}

int qc_tip_zero_locked(qchain *c, uint64_t offset, uint64_t end, uint32_t flags, qchain_error *err)
{
    struct qc_tip *t = c->tip;
    uint64_t done, stop;
    int ret = 0;

    for (; ret == 0 && offset < end; offset = stop) {
        done = 0;
        ret = t->ops->zero(t->img, offset, end - offset, flags, &done, err);
        stop = offset + done;
        if (ret == 0 && done == 0)
            ret = zero_part(c, offset, end, flags, &stop, err);
    }
    return ret;
}

int qc_tip_zero(qchain *c, uint64_t offset, uint64_t end, uint32_t flags, qchain_error *err)
{
    struct qc_range_lock lock;
    uint64_t stop;
    int ret = 0;

    if (c->tip->restacked) /* what it names may be nothing, while layers are read below it still */
        flags |= QC_ZERO_HOLD;
    for (; ret == 0 && offset < end; offset = stop) {
        stop = qc_min64(end, qc_align_down(offset, STEP) + STEP);
        qc_tip_lock_clusters(c->tip, &lock, offset, stop);
        ret = qc_tip_zero_locked(c, offset, stop, flags, err);
        qc_range_lock_give(&c->tip->ranges, &lock);
    }
    return ret;
}

int qc_chain_write_zeroes(qchain *c, uint64_t length, uint64_t offset, uint32_t flags, qchain_error *err)
{
    unsigned token;
    int ret = qc_tip_begin_write(c, offset + length, &token, err);

    if (ret != 0)
        return ret;
    if (length > 0) {
        ret = qc_tip_zero(c, offset, offset + length, flags & QCHAIN_WRITE_UNMAP ? QC_ZERO_UNMAP : 0,
                          err);
        qc_tip_note_write(c, offset, length);
    }
    return qc_tip_end_write(c, token, flags, ret, err);
}

int qc_chain_discard(qchain *c, uint64_t length, uint64_t offset, qchain_error *err)
{
    uint64_t end = offset + length, at = offset, stop;
    struct qc_tip *t = c->tip;
    struct qc_range_lock lock;
    unsigned token;
    int ret = qc_tip_begin_write(c, end, &token, err);

    if (ret != 0)
        return ret;
    for (; ret == 0 && at < end; at = stop) {
        stop = qc_min64(end, qc_align_down(at, STEP) + STEP);
        qc_tip_lock_clusters(t, &lock, at, stop);
        /* While it is moved onto another layer, there will be something below, where now is nothing. */
        ret = t->ops->discard(t->img, at, stop - at, t->img->backing_name || t->restacked || atomic_load(&t->moving),
                              err);
        qc_range_lock_give(&t->ranges, &lock);
    }
    if (length > 0)
        qc_tip_note_write(c, offset, length);
    return qc_tip_end_write(c, token, 0, ret, err);
}
