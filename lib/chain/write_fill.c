/* SPDX-License-Identifier: MIT */
/* Filling what was allocated: the guest's bytes, and around them what the disk had there before. */
#include <string.h>

#include "chain/tip.h"
#include "util/alloc.h"
#include "util/bytes.h"

#define RUNS 16
#define ZEROS_WRITTEN QC_TIP_ZEROS /* more are made by other means than writing */

_Alignas(4096) unsigned char qc_tip_zeros[QC_TIP_ZEROS];

/* The part of a unit that the guest does not write. */
struct edge {
    uint64_t from, to;
    bool     zero;
    char    *buf; /* its bytes, if it is not */
};

int qc_tip_is_zero(qchain *c, uint64_t offset, uint64_t end, uint32_t flags, bool *zero,
                   qchain_error *err)
{
    struct qc_run run[RUNS];
    uint64_t unknown;
    size_t n;
    int ret = 0;

    *zero = true;
    if (!(flags & QC_TIP_VM))
        end = qc_min64(end, c->size); /* beyond it there is nothing */
    while (ret == 0 && *zero && offset < end) {
        ret = qc_tip_copy(c, offset, end, flags & (QC_TIP_VM | QC_TIP_NO_WAIT), run, RUNS, &n, &unknown,
                          err);
        if (ret == 0 && n == 0)
            *zero = false; /* not known */
        for (size_t i = 0; ret == 0 && i < n; i++) {
            *zero &= qc_kind_is_zero(qc_run_kind(&run[i]));
            offset = qc_run_end(&run[i]);
        }
    }
    return ret;
}

static int read_edge(qchain *c, struct edge *e, uint32_t flags, qchain_error *err)
{
    bool vm = flags & QC_TIP_VM;
    uint64_t length = e->to - e->from, end = vm ? e->to : qc_min64(e->to, c->size);
    qchain_iov iov;
    int ret;

    e->buf = qc_aligned(4096, length);
    if (!e->buf)
        return qc_fail_nomem(err);
    iov = (qchain_iov){e->buf, end - e->from};
    memset(e->buf + iov.len, 0, length - iov.len);
    ret = qc_chain_readv(c, &iov, 1, iov.len, e->from,
                         QC_CHAIN_READ_INSIDE | QC_CHAIN_READ_SERIAL | (vm ? QC_CHAIN_READ_VM : 0), err);
    if (ret != 0)
        qc_error_prefix(err, -1, "what the disk has around a write: ");
    return ret;
}

static int look_at_edge(qchain *c, struct edge *e, uint32_t flags, qchain_error *err)
{
    int ret;

    if (e->from == e->to)
        return 0;
    ret = qc_tip_is_zero(c, e->from, e->to, flags, &e->zero, err);
    return ret == 0 && !e->zero ? read_edge(c, e, flags, err) : ret;
}

/* Pieces that follow each other in the store, until there are enough for a call. */
struct gather {
    struct qc_store *store;
    uint64_t         host;
    qchain_iov       piece[QC_PIECES];
    size_t           n, bytes;
};

static int gather_flush(struct gather *g, qchain_error *err)
{
    int ret = 0;

    if (g->n == 1)
        ret = qc_store_write(g->store, g->piece[0].base, g->bytes, g->host, err);
    else if (g->n > 1)
        ret = qc_store_writev(g->store, g->piece, g->n, g->bytes, g->host, err);
    g->host += g->bytes;
    g->n = g->bytes = 0;
    return ret;
}

static int gather_add(struct gather *g, void *base, size_t length, qchain_error *err)
{
    g->piece[g->n++] = (qchain_iov){base, length};
    g->bytes += length;
    return g->n == QC_PIECES ? gather_flush(g, err) : 0;
}

static int gather_edge(struct gather *g, const struct edge *e, bool zeroed, qchain_error *err)
{
    uint64_t length = e->to - e->from;
    int ret;

    if (length == 0)
        return 0;
    if (e->buf)
        return gather_add(g, e->buf, length, err);
    if (!zeroed && length <= ZEROS_WRITTEN)
        return gather_add(g, qc_tip_zeros, length, err);
    ret = gather_flush(g, err);
    if (ret == 0 && !zeroed)
        ret = qc_store_zero(g->store, length, g->host, false, err);
    g->host += length;
    return ret;
}

static int gather_data(struct gather *g, struct qc_cursor *cur, uint64_t length, qchain_error *err)
{
    qchain_iov piece;
    size_t bytes;
    int ret = 0;

    for (; ret == 0 && length > 0; length -= bytes) {
        qc_cursor_take(cur, length, &piece, 1, &bytes);
        ret = gather_add(g, piece.base, bytes, err);
    }
    return ret;
}

int qc_tip_fill(qchain *c, struct qc_cursor *cur, const struct qc_place *p, uint32_t flags,
                qchain_error *err)
{
    struct edge head = {.from = p->unit, .to = p->offset};
    struct edge tail = {.from = p->offset + p->length, .to = p->unit + p->unit_length};
    struct gather g = {.store = c->tip->data, .host = p->unit_host};
    int ret = look_at_edge(c, &head, flags, err);

    if (ret == 0)
        ret = look_at_edge(c, &tail, flags, err);
    if (ret == 0)
        ret = gather_edge(&g, &head, p->zeroed, err);
    if (ret == 0)
        ret = gather_data(&g, cur, p->length, err);
    if (ret == 0)
        ret = gather_edge(&g, &tail, p->zeroed, err);
    if (ret == 0)
        ret = gather_flush(&g, err);
    qc_free(head.buf);
    qc_free(tail.buf);
    return ret;
}
