/* SPDX-License-Identifier: MIT */
/* Filling what was allocated: the guest's bytes, and around them what the disk had there before. */
#include <string.h>

#include "chain/tip.h"
#include "util/alloc.h"
#include "util/bytes.h"

#define RUNS 16
#define ZEROS_WRITTEN QC_TIP_ZEROS /* more are made by other means than writing */
#define WHOLE_UNIT (256u << 10)    /* units up to here are read and written by one call each */
#define COVERED (16u << 10)        /* bytes that may be read for nothing, as the write covers them */

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
    if (e->from == e->to) {
        e->zero = true;
        return 0;
    }
    return qc_tip_is_zero(c, e->from, e->to, flags, &e->zero, err);
}

/* Something to be kept on both sides of a small write: two calls instead of four do it. 1: it cannot be read in one
 * piece, maybe because of what the write covers. */
static int fill_whole(qchain *c, struct qc_cursor *cur, const struct qc_place *p, uint32_t flags,
                      qchain_error *err)
{
    struct edge unit = {.from = p->unit, .to = p->unit + p->unit_length};
    uint64_t left = p->length;
    qchain_error why;
    int ret = 1;

    qc_error_init(&why);
    if (read_edge(c, &unit, flags, &why) == 0) {
        char *to = unit.buf + (p->offset - p->unit);
        qchain_iov piece;
        size_t bytes;

        for (; left > 0; left -= bytes, to += bytes) {
            qc_cursor_take(cur, left, &piece, 1, &bytes);
            memcpy(to, piece.base, bytes);
        }
        ret = qc_store_write(c->tip->data, unit.buf, p->unit_length, p->unit_host, err);
    }
    qc_free(unit.buf);
    return ret;
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

static int fill_by_edges(qchain *c, struct qc_cursor *cur, const struct qc_place *p, struct edge *head,
                         struct edge *tail, uint32_t flags, qchain_error *err)
{
    struct gather g = {.store = c->tip->data, .host = p->unit_host};
    int ret = head->zero ? 0 : read_edge(c, head, flags, err);

    if (ret == 0 && !tail->zero)
        ret = read_edge(c, tail, flags, err);
    if (ret == 0)
        ret = gather_edge(&g, head, p->zeroed, err);
    if (ret == 0)
        ret = gather_data(&g, cur, p->length, err);
    if (ret == 0)
        ret = gather_edge(&g, tail, p->zeroed, err);
    if (ret == 0)
        ret = gather_flush(&g, err);
    qc_free(head->buf);
    qc_free(tail->buf);
    return ret;
}

int qc_tip_fill(qchain *c, struct qc_cursor *cur, const struct qc_place *p, uint32_t flags,
                qchain_error *err)
{
    struct edge head = {.from = p->unit, .to = p->offset};
    struct edge tail = {.from = p->offset + p->length, .to = p->unit + p->unit_length};
    int ret = look_at_edge(c, &head, flags, err);

    if (ret == 0)
        ret = look_at_edge(c, &tail, flags, err);
    if (ret != 0)
        return ret;
    if (!head.zero && !tail.zero && p->unit_length <= WHOLE_UNIT && p->length <= COVERED) {
        ret = fill_whole(c, cur, p, flags, err);
        if (ret <= 0)
            return ret;
    }
    return fill_by_edges(c, cur, p, &head, &tail, flags, err);
}
