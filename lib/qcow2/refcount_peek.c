/* SPDX-License-Identifier: MIT */
#include "qcow2/refcount_peek.h"

#include <inttypes.h>

#include "qcow2/l2.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"

#define MEMORY (UINT64_C(32) << 20) /* for blocks; when it is full all are forgotten */

static void forget(struct qc2_peek *p)
{
    for (uint64_t i = 0; p->block && i < p->n; i++) {
        qc_free(p->block[i]);
        p->block[i] = NULL;
    }
    p->bytes = 0;
}

int qc2_peek_start(struct qc2_peek *p, struct qc2_writer *w, qchain_error *err)
{
    const struct qc2_header *h = &w->q->header;
    uint64_t bytes = (uint64_t)h->reftable_clusters << h->cluster_bits;

    *p = (struct qc2_peek){.w = w, .block_bits = h->cluster_bits + 3 - h->refcount_order, .n = bytes / 8};
    p->table = qc_malloc(bytes + 1);
    p->block = qc_calloc(p->n + 1, sizeof(*p->block));
    if (!p->table || !p->block)
        return qc_fail_nomem(err);
    return qc_store_read(w->store, p->table, bytes, h->reftable_offset, QC_READ_META, err);
}

void qc2_peek_end(struct qc2_peek *p)
{
    forget(p);
    qc_free(p->block);
    qc_free(p->table);
}

static int load(struct qc2_peek *p, uint64_t i, qchain_error *err)
{
    uint64_t cluster = p->w->q->base.cluster_size;
    uint64_t at = qc_be64(&p->table[i]) & QC2_OFFSET_MASK;
    int rc;

    if (p->bytes >= MEMORY)
        forget(p);
    p->block[i] = qc_calloc(1, cluster);
    if (!p->block[i])
        return qc_fail_nomem(err);
    p->bytes += cluster;
    if (at == 0)
        return QCHAIN_OK;
    rc = qc_store_read(p->w->store, p->block[i], cluster, at, QC_READ_META, err);
    if (rc < 0)
        qc_error_prefix(err, -1, "refcount block at %" PRIu64 ": ", at);
    return rc;
}

static uint64_t count_at(const uint8_t *block, uint64_t i, unsigned order)
{
    unsigned bits = 1u << order;

    switch (order) {
    case 3: return block[i];
    case 4: return qc_be16(block + 2 * i);
    case 5: return qc_be32(block + 4 * i);
    case 6: return qc_be64(block + 8 * i);
    default: return (unsigned)block[i >> (3 - order)] >> ((i << order) & 7) & ((1u << bits) - 1);
    }
}

int qc2_peek_is_one(struct qc2_peek *p, uint64_t host, bool *one, qchain_error *err)
{
    uint64_t cluster = host >> p->w->q->header.cluster_bits;
    uint64_t i = cluster >> p->block_bits;
    int rc = QCHAIN_OK;

    *one = false;
    if (i >= p->n)
        return QCHAIN_OK;
    if (!p->block[i])
        rc = load(p, i, err);
    if (rc == 0)
        *one = count_at(p->block[i], cluster & ((UINT64_C(1) << p->block_bits) - 1),
                        p->w->q->header.refcount_order) == 1;
    return rc;
}
