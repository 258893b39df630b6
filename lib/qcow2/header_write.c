/* SPDX-License-Identifier: MIT */
/* Writing the header's fixed fields; their table is at the head of header.c. They all lie in one sector, which a
 * medium writes whole or not at all. */
#include <string.h>

#include "qcow2/writer_int.h"
#include "util/bytes.h"
#include "util/error.h"

static void put32(uint8_t *p, uint32_t v)
{
    v = __builtin_bswap32(v);
    memcpy(p, &v, sizeof(v));
}

static void put64(uint8_t *p, uint64_t v)
{
    v = __builtin_bswap64(v);
    memcpy(p, &v, sizeof(v));
}

static size_t encode(uint8_t *p, const struct qc2_header *h)
{
    memcpy(p, "QFI\xfb", 4);
    put32(p + 4, h->version);
    put64(p + 8, h->backing_offset);
    put32(p + 16, h->backing_size);
    put32(p + 20, h->cluster_bits);
    put64(p + 24, h->size);
    put32(p + 32, h->crypt_method);
    put32(p + 36, h->l1_size);
    put64(p + 40, h->l1_offset);
    put64(p + 48, h->reftable_offset);
    put32(p + 56, h->reftable_clusters);
    put32(p + 60, h->n_snapshots);
    put64(p + 64, h->snapshots_offset);
    if (h->version < 3)
        return QC2_V2_LENGTH;
    put64(p + 72, h->incompatible);
    put64(p + 80, h->compatible);
    put64(p + 88, h->autoclear);
    put32(p + 96, h->refcount_order);
    put32(p + 100, h->header_length);
    return QC2_V3_LENGTH;
}

int qc2_header_store(struct qc2_writer *w, qchain_error *err)
{
    uint8_t head[QC2_V3_LENGTH];
    size_t length = encode(head, &w->q->header);
    int rc = qc_store_write(w->store, head, length, 0, err);

    if (rc == 0)
        rc = qc2_sync(w, w->store, err);
    if (rc < 0)
        qc_error_prefix(err, -1, "header: ");
    return rc;
}
