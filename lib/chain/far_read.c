/* SPDX-License-Identifier: MIT */
#include "chain/far_read.h"

#include "util/alloc.h"
#include "util/vec.h"

int qc_far_add(struct qc_far_list *l, struct qc_store *store, uint16_t source, const qchain_iov *iov,
               size_t n, uint64_t host, qchain_error *err)
{
    struct qc_store_piece *p;

    if (qc_grow((void **)&l->piece, &l->cap, l->n + n, sizeof(*l->piece)) != 0 ||
        qc_grow((void **)&l->source, &l->cap_source, l->n + n, sizeof(*l->source)) != 0)
        return qc_fail_nomem(err);
    for (size_t i = 0; i < n; i++) {
        p = &l->piece[l->n];
        *p = (struct qc_store_piece){store, iov[i].base, iov[i].len, host};
        l->source[l->n++] = source;
        host += iov[i].len;
    }
    return 0;
}

int qc_far_read(qchain *c, struct qc_far_list *l, qchain_error *err)
{
    size_t failed = 0;
    int ret;

    if (l->n == 0)
        return 0;
    ret = qc_store_read_many(l->piece, l->n, QC_READ_PAST_END | (l->exact ? (uint32_t)QC_READ_EXACT : 0), &failed, err);
    if (ret != 0)
        qc_layer_prefix(c, c->source[l->source[failed]].layer, err);
    return ret;
}

void qc_far_finish(struct qc_far_list *l)
{
    qc_free(l->piece);
    qc_free(l->source);
}
