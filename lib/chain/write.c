/* SPDX-License-Identifier: MIT */
/* Writing: in place where the tip has a place of its own, else to a new one that is filled up from below. */
#include "chain/tip.h"
#include "util/bytes.h"

int qc_tip_write_at(qchain *c, struct qc_cursor *cur, uint64_t host, uint64_t left, qchain_error *err)
{
    qchain_iov piece[QC_PIECES];
    size_t n, bytes;
    int ret = 0;

    for (; ret == 0 && left > 0; left -= bytes, host += bytes) {
        n = qc_cursor_take(cur, left, piece, QC_PIECES, &bytes);
        if (n == 1)
            ret = qc_store_write(c->tip->data, piece[0].base, bytes, host, err);
        else
            ret = qc_store_writev(c->tip->data, piece, n, bytes, host, err);
    }
    return ret;
}

/* The clusters are locked. */
static int write_new(qchain *c, struct qc_cursor *cur, struct qc_place *p, uint32_t flags,
                     qchain_error *err)
{
    const struct qc_write_ops *ops = c->tip->ops;
    struct qc_image *img = c->tip->img;
    int ret = ops->alloc(img, p, err);

    if (ret != 0)
        return ret;
    ret = qc_tip_fill(c, cur, p, flags, err);
    if (ret == 0)
        return ops->finish_alloc(img, p, err);
    ops->abort_alloc(img, p);
    return ret;
}

void qc_tip_lock_clusters(struct qc_tip *t, struct qc_range_lock *l, uint64_t offset, uint64_t end)
{
    qc_range_lock_take(&t->ranges, l, qc_align_down(offset, t->unit), qc_align_up(end, t->unit));
}

/* What lies where may have changed while the locks were waited for. */
static int write_locked(qchain *c, struct qc_cursor *cur, struct qc_place *p, uint32_t flags,
                        qchain_error *err)
{
    struct qc_tip *t = c->tip;
    uint64_t offset = p->offset, length = p->length;
    struct qc_range_lock lock;
    int ret;

    qc_tip_lock_clusters(t, &lock, offset, offset + length);
    ret = t->ops->place(t->img, offset, length, p, err);
    if (ret == 0)
        ret = p->own ? qc_tip_write_at(c, cur, p->host, p->length, err) : write_new(c, cur, p, flags, err);
    qc_range_lock_give(&t->ranges, &lock);
    return ret;
}

int qc_tip_write_range(qchain *c, struct qc_cursor *cur, uint64_t offset, uint64_t end, uint32_t flags,
                       qchain_error *err)
{
    struct qc_tip *t = c->tip;
    struct qc_place p;
    int ret = 0;

    for (; ret == 0 && offset < end; offset += p.length) {
        ret = t->ops->place(t->img, offset, end - offset, &p, err);
        if (ret != 0)
            break;
        if (p.own)
            ret = qc_tip_write_at(c, cur, p.host, p.length, err);
        else if (flags & QC_TIP_LOCKED)
            ret = write_new(c, cur, &p, flags, err);
        else
            ret = write_locked(c, cur, &p, flags, err);
    }
    return ret;
}

int qc_tip_write_zeros(qchain *c, uint64_t offset, uint64_t end, uint32_t flags, qchain_error *err)
{
    uint64_t stop;
    bool zero;
    int ret = 0;

    for (; ret == 0 && offset < end; offset = stop) {
        qchain_iov iov = {qc_tip_zeros, QC_TIP_ZEROS};
        struct qc_cursor cur = {&iov, 0};

        stop = qc_min64(end, qc_align_down(offset, QC_TIP_ZEROS) + QC_TIP_ZEROS);
        zero = false;
        if (!(flags & QC_TIP_HOLD))
            ret = qc_tip_is_zero(c, offset, stop, flags, &zero, err);
        if (ret == 0 && !zero)
            ret = qc_tip_write_range(c, &cur, offset, stop, flags, err);
    }
    return ret;
}

/* The same as for reads: the disk may have become smaller. */
static int check_end(const qchain *c, uint64_t end, qchain_error *err)
{
    if (end <= c->size)
        return 0;
    return qc_fail(err, QCHAIN_E_RANGE, "write: the disk became smaller: it has %llu bytes now",
                   (unsigned long long)c->size);
}

int qc_tip_begin_write(qchain *c, uint64_t end, unsigned *token, qchain_error *err)
{
    int ret = qc_chain_check(c, err);

    if (ret == 0)
        ret = qc_tip_check(c, err);
    if (ret != 0)
        return ret;
    qc_admission_enter(&c->tip->admission);
    ret = check_end(c, end, err);
    if (ret == 0 && !qc_tip_is_marked(c->tip))
        ret = qc_bitmaps_mark(c, err);
    if (ret == 0)
        *token = qc_epoch_enter(c->tip->requests);
    else
        qc_admission_leave(&c->tip->admission);
    return ret;
}

int qc_tip_end_write(qchain *c, unsigned token, uint32_t flags, int ret, qchain_error *err)
{
    qc_epoch_exit(c->tip->requests, token);
    if (ret != 0)
        qc_layer_prefix(c, 0, err);
    else if (flags & QCHAIN_WRITE_FUA || c->tip->durable)
        ret = qc_chain_flush(c, err);
    qc_admission_leave(&c->tip->admission);
    return ret;
}

int qc_chain_writev(qchain *c, const qchain_iov *iov, size_t n_iov, size_t length, uint64_t offset,
                    uint32_t flags, qchain_error *err)
{
    struct qc_cursor cur = {iov, 0};
    unsigned token;
    int ret;

    (void)n_iov;
    ret = qc_tip_begin_write(c, offset + length, &token, err);
    if (ret != 0)
        return ret;
    if (length > 0) {
        ret = qc_tip_write_range(c, &cur, offset, offset + length, 0, err);
        qc_tip_note_write(c, offset, length); /* also after a failure: parts may be written */
    }
    return qc_tip_end_write(c, token, flags, ret, err);
}
