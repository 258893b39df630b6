/* SPDX-License-Identifier: MIT */
/* One read: look up, fetch, done. */
#include <string.h>

#include "chain/chain.h"
#include "chain/compressed.h"
#include "chain/far_read.h"
#include "chain/pieces.h"
#include "chain/pull.h"
#include "chain/tip.h"
#include "util/bytes.h"

/* Runs looked up at a time; the epoch is left before any I/O. */
#define BATCH 32

static int read_data(qchain *c, const struct qc_run *r, struct qc_cursor *cur, uint64_t offset,
                     size_t len, struct qc_far_list *far, qchain_error *err)
{
    const struct qc_store_hot *hot = &c->hot[r->source];
    uint64_t host = qc_run_host(r) + (offset - r->guest);
    struct qc_store *store = qc_source_store(c, r->source, err);
    qchain_iov piece[QC_PIECES];
    size_t n, bytes;
    int ret = 0;

    if (!store)
        return err->code;
    for (; ret == 0 && len > 0; len -= bytes, host += bytes) {
        n = qc_cursor_take(cur, len, piece, QC_PIECES, &bytes);
        if (qc_store_is_far(store)) /* waited for together with others */
            ret = qc_far_add(far, store, r->source, piece, n, host, err);
        else if (n == 1)
            ret = qc_store_read_hot(hot, c->env->slots, piece[0].base, bytes, host, err);
        else
            ret = qc_store_readv(store, piece, n, bytes, host, QC_READ_PAST_END, err);
    }
    if (ret != 0)
        qc_layer_prefix(c, c->source[r->source].layer, err);
    return ret;
}

static void read_zeros(struct qc_cursor *cur, size_t len)
{
    qchain_iov piece[QC_PIECES];
    size_t n, bytes;

    for (; len > 0; len -= bytes) {
        n = qc_cursor_take(cur, len, piece, QC_PIECES, &bytes);
        for (size_t i = 0; i < n; i++)
            memset(piece[i].base, 0, piece[i].len);
    }
}

/* A compressed piece goes through one buffer, whatever the caller's is made of. */
static int add_compressed(struct qc_decode_list *list, const struct qc_run *r, struct qc_cursor *cur,
                          uint64_t offset, size_t len)
{
    qchain_iov piece[1];
    size_t bytes;
    int ret = 0;

    for (; ret == 0 && len > 0; len -= bytes, offset += bytes) {
        qc_cursor_take(cur, len, piece, 1, &bytes);
        ret = qc_decode_add(list, r, offset, piece[0].base, bytes);
    }
    return ret;
}

static int read_runs(qchain *c, const struct qc_run *run, size_t n, struct qc_cursor *cur,
                     uint64_t *offset, uint64_t end, struct qc_decode_list *list,
                     struct qc_far_list *far, qchain_error *err)
{
    int ret = 0;

    for (size_t i = 0; ret == 0 && i < n; i++) {
        size_t len = (size_t)(qc_min64(qc_run_end(&run[i]), end) - *offset);

        switch (qc_run_kind(&run[i])) {
        case QC_DATA:
            ret = read_data(c, &run[i], cur, *offset, len, far, err);
            break;
        case QC_COMPRESSED:
            ret = add_compressed(list, &run[i], cur, *offset, len);
            if (ret != 0)
                qc_fail_nomem(err);
            break;
        case QC_END:
        case QC_SHORT:
        case QC_ZERO:
        case QC_ZERO_ALLOC:
        case QC_PREALLOC:
        case QC_ABSENT:
            read_zeros(cur, len);
            break;
        }
        *offset += len;
    }
    return ret;
}

/* What the chain shows of [offset, end), looked up; what is far away is only gathered. A disk that is written may have
 * become smaller since the range was checked. */
static int read_shown(qchain *c, struct qc_cursor *cur, uint64_t offset, uint64_t end, uint32_t flags,
                      struct qc_decode_list *list, struct qc_far_list *far, qchain_error *err)
{
    struct qc_run run[BATCH];
    size_t n;
    int ret = 0;

    if (c->tip && end > c->size && !(flags & QC_CHAIN_READ_VM))
        return qc_fail(err, QCHAIN_E_RANGE, "read: the disk became smaller: it has %llu bytes now",
                       (unsigned long long)c->size);
    while (ret == 0 && offset < end) {
        if (c->tip)
            ret = qc_tip_copy(c, offset, end, flags & QC_CHAIN_READ_VM ? QC_TIP_VM : 0, run, BATCH, &n,
                              NULL, err);
        else
            ret = qc_index_copy(c, offset, end, run, BATCH, &n, err);
        if (ret == 0)
            ret = read_runs(c, run, n, cur, &offset, end, list, far, err);
    }
    return ret;
}

int qc_chain_read_spans(qchain *c, const struct qc_span *span, size_t n, uint32_t flags, qchain_error *err)
{
    struct qc_decode_list list;
    struct qc_far_list far = {.exact = flags & QC_CHAIN_READ_EXACT};
    int ret = 0;

    qc_decode_init(&list);
    for (size_t i = 0; ret == 0 && i < n; i++) {
        const struct qc_span *s = &span[i];
        struct qc_cursor cur = {s->iov, 0};
        uint64_t offset = s->offset;

        if (s->run)
            ret = read_runs(c, s->run, s->n, &cur, &offset, s->end, &list, &far, err);
        else
            ret = read_shown(c, &cur, offset, s->end, flags, &list, &far, err);
    }
    if (ret == 0)
        ret = qc_far_read(c, &far, err);
    if (ret == 0 && list.n > 0)
        ret = qc_decode_run(c, &list, flags & QC_CHAIN_READ_SERIAL, err);
    qc_far_finish(&far);
    qc_decode_finish(&list);
    return ret;
}

int qc_chain_read_runs(qchain *c, const struct qc_run *run, size_t n, const qchain_iov *iov,
                       uint64_t offset, uint64_t end, uint32_t flags, qchain_error *err)
{
    struct qc_span span = {run, n, iov, offset, end};

    return qc_chain_read_spans(c, &span, 1, flags | QC_CHAIN_READ_SERIAL, err);
}

/* The range into pieces, whatever they are. */
static int read_range(qchain *c, const qchain_iov *iov, uint64_t offset, uint64_t end,
                      uint32_t flags, qchain_error *err)
{
    struct qc_span span = {NULL, 0, iov, offset, end};

    return qc_chain_read_spans(c, &span, 1, flags, err);
}

/* A read of a disk that is written. */
static __attribute__((noinline)) int read_tip(qchain *c, const qchain_iov *iov, size_t n_iov, uint64_t offset,
                                              uint64_t end, uint32_t flags, qchain_error *err)
{
    bool inside = flags & (QC_CHAIN_READ_INSIDE | QC_CHAIN_READ_VM);
    unsigned token;
    int ret;

    if (flags & QC_CHAIN_READ_KEEP && c->tip->keeps)
        return qc_pull_readv(c, iov, n_iov, end - offset, offset, err);
    token = inside ? 0 : qc_tip_enter(c->tip);
    ret = read_range(c, iov, offset, end, flags, err);
    if (!inside)
        qc_tip_exit(c->tip, token);
    return ret;
}

int qc_chain_readv(qchain *c, const qchain_iov *iov, size_t n_iov, size_t length, uint64_t offset,
                   uint32_t flags, qchain_error *err)
{
    uint64_t end = offset + length;
    const struct qc_window *w;
    struct qc_run r;
    unsigned token;
    int ret = qc_chain_check(c, err);

    if (length == 0 || ret != 0)
        return ret;
    if (__builtin_expect(c->tip != NULL, 0))
        return read_tip(c, iov, n_iov, offset, end, flags, err);
    /* The usual small read lies within one stored run: no more than a lookup and
     * one call to the store. */
    w = qc_index_get(c, offset, &token, err);
    if (!w)
        return read_range(c, iov, offset, end, flags, err);
    r = w->run[qc_window_find(w, offset)];
    /* On its way while the epoch is left: of a deep chain nothing is in the cache. */
    if (qc_source_opened(c, r.source))
        __builtin_prefetch(c->hot[r.source].obj);
    qc_epoch_exit(c->env->slots, token);
    if (n_iov != 1 || qc_run_kind(&r) != QC_DATA || qc_run_end(&r) < end ||
        !qc_source_opened(c, r.source))
        return read_range(c, iov, offset, end, flags, err);
    ret = qc_store_read_hot(&c->hot[r.source], c->env->slots, iov->base, length,
                            qc_run_host(&r) + (offset - r.guest), err);
    if (ret != 0)
        qc_layer_prefix(c, c->source[r.source].layer, err);
    return ret;
}
