/* SPDX-License-Identifier: MIT */
/*
 * Refcounts: how many times each cluster of the file is referred to.
 *
 * The refcount table, in memory as a whole, says where the refcount blocks are, a cluster each. A block is a
 * row of counts of 2^refcount_order bits, big-endian; those of less than a byte begin with a byte's low bits.
 * Where the table has no block all counts are 0.
 */
#include <inttypes.h>
#include <string.h>

#include "qcow2/writer_int.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"
#include "util/vec.h"

/* ------------------------------------------------------------------- counts --- */

uint64_t qc2_count_get(const uint8_t *slice, unsigned order, uint32_t number)
{
    const uint8_t *p = slice + ((uint64_t)number << order >> 3);

    switch (order) {
    case 3:
        return *p;
    case 4:
        return qc_be16(p);
    case 5:
        return qc_be32(p);
    case 6:
        return qc_be64(p);
    default:
        return *p >> (number << order & 7) & ((1u << (1u << order)) - 1);
    }
}

static void put_big(uint8_t *p, unsigned bytes, uint64_t value)
{
    for (unsigned i = 0; i < bytes; i++)
        p[i] = (uint8_t)(value >> 8 * (bytes - 1 - i));
}

static void count_put(uint8_t *slice, unsigned order, uint32_t number, uint64_t value)
{
    uint8_t *p = slice + ((uint64_t)number << order >> 3);
    unsigned shift = number << order & 7, mask;

    if (order >= 3) {
        put_big(p, 1u << (order - 3), value);
        return;
    }
    mask = ((1u << (1u << order)) - 1) << shift;
    *p = (uint8_t)((*p & ~mask) | (unsigned)value << shift);
}

static uint64_t count_max(unsigned order)
{
    return order == 6 ? UINT64_MAX : (UINT64_C(1) << (1u << order)) - 1;
}

int qc2_count_slice(struct qc2_writer *w, uint64_t cluster, struct qc2_slice **out, uint32_t *number,
                    qchain_error *err)
{
    const struct qc2_counts *c = w->counts;
    uint64_t block = qc2_block_host(c, qc2_block_of(c, cluster));
    uint64_t within = cluster & ((UINT64_C(1) << c->block_bits) - 1);
    int rc;

    *out = NULL;
    if (block == 0)
        return QCHAIN_OK;
    *number = (uint32_t)(within & (((uint64_t)w->slice_bytes << 3 >> c->order) - 1));
    rc = qc2_slice_get(w, block + (within << c->order >> 3), out, err);
    if (rc < 0)
        qc_error_prefix(err, -1, "refcount block at %" PRIu64 ": ", block);
    return rc;
}

int qc2_refcount_get(struct qc2_writer *w, uint64_t host, uint64_t *count, qchain_error *err)
{
    struct qc2_slice *s;
    uint32_t number;
    int rc = qc2_count_slice(w, host >> w->q->header.cluster_bits, &s, &number, err);

    *count = rc == 0 && s ? qc2_count_get(s->data, w->counts->order, number) : 0;
    qc2_slice_put(w, s);
    return rc;
}

/* A cluster that nobody uses any more. */
static void now_free(struct qc2_counts *c, uint64_t cluster, unsigned cluster_bits)
{
    c->hint = qc_min64(c->hint, cluster);
    c->hint_long = qc_min64(c->hint_long, cluster);
    c->table[qc2_block_of(c, cluster)] &= ~QC2_FULL;
    if (c->packed && (c->packed - 1) >> cluster_bits == cluster)
        c->packed = 0;
}

int qc2_count_set(struct qc2_writer *w, uint64_t cluster, uint64_t value, qchain_error *err)
{
    struct qc2_slice *s;
    uint32_t number;
    int rc = qc2_count_slice(w, cluster, &s, &number, err);

    if (rc < 0)
        return rc;
    if (!s)
        return qc_fail(err, QCHAIN_E_INTERNAL, "cluster %" PRIu64 " has no refcount block", cluster);
    count_put(s->data, w->counts->order, number, value);
    qc2_slice_dirty(w, s, QC2_COUNTS);
    qc2_slice_put(w, s);
    if (value == 0)
        now_free(w->counts, cluster, w->q->header.cluster_bits);
    return QCHAIN_OK;
}

static int add_one(struct qc2_writer *w, uint64_t cluster, int delta, qchain_error *err)
{
    unsigned bits = w->q->header.cluster_bits;
    uint64_t count;
    int rc = qc2_refcount_get(w, cluster << bits, &count, err);

    if (rc < 0)
        return rc;
    if (count == 0) {
        qc_fail(err, QCHAIN_E_CORRUPT, "refcount of the cluster at %" PRIu64
                " is 0, though it is in use", cluster << bits);
        qc_error_at(err, cluster << bits);
        return qc2_writer_damaged(w, err);
    }
    if (delta > 0 && count == count_max(w->counts->order))
        return qc_fail(err, QCHAIN_E_LIMIT, "refcount of the cluster at %" PRIu64
                       ": %" PRIu64 " is the most that %u bits hold", cluster << bits, count,
                       1u << w->counts->order);
    return qc2_count_set(w, cluster, delta > 0 ? count + 1 : count - 1, err);
}

int qc2_refcount_add(struct qc2_writer *w, uint64_t host, uint64_t length, int delta, qchain_error *err)
{
    unsigned bits = w->q->header.cluster_bits;
    uint64_t first = host >> bits, last, c, count;
    int rc = QCHAIN_OK;

    if (length == 0)
        return QCHAIN_OK;
    last = (host + length - 1) >> bits;
    for (c = first; c <= last && rc == 0; c++)
        rc = add_one(w, c, delta, err);
    if (rc == 0)
        return QCHAIN_OK;
    /* Back: where that fails, too, a cluster stays counted. */
    for (c--; c > first; c--)
        if (qc2_refcount_get(w, (c - 1) << bits, &count, NULL) == 0)
            qc2_count_set(w, c - 1, count - (uint64_t)(int64_t)delta, NULL);
    return rc;
}

/* --------------------------------------------------------------------- life --- */

static int check_place(const struct qc2_header *h, uint64_t file_size, qchain_error *err)
{
    uint64_t bytes = (uint64_t)h->reftable_clusters << h->cluster_bits, end;

    if (h->reftable_clusters == 0)
        return qc_fail(err, QCHAIN_E_CORRUPT,
                       "header refcount_table_clusters=0: must be at least 1");
    if (h->reftable_offset == 0 || h->reftable_offset % qc2_cluster_size(h) != 0 ||
        !qc_add_ok(h->reftable_offset, bytes, &end) || end > file_size)
        return qc_fail(err, QCHAIN_E_CORRUPT,
                       "header refcount_table_offset=%" PRIu64 ": not a table inside the file",
                       h->reftable_offset);
    return QCHAIN_OK;
}

static int check_entry(const struct qc2_writer *w, uint64_t i, uint64_t entry, qchain_error *err)
{
    uint64_t cluster = w->q->base.cluster_size, size = qc_store_size(w->store);

    if (entry % cluster == 0 && entry <= size && (entry == 0 || cluster <= size - entry))
        return QCHAIN_OK;
    qc_fail(err, QCHAIN_E_CORRUPT, "refcount table entry %" PRIu64 "=0x%" PRIx64
            ": not a block inside the file", i, entry);
    qc_error_at(err, w->counts->offset + 8 * i);
    return QCHAIN_E_CORRUPT;
}

static int load_table(struct qc2_writer *w, qchain_error *err)
{
    struct qc2_counts *c = w->counts;
    void *p = NULL;
    int rc = qc_grow(&p, &c->cap, c->n, sizeof(*c->table)) < 0 ? qc_fail_nomem(err) : QCHAIN_OK;

    c->table = p;
    if (rc == 0)
        rc = qc_store_read(w->store, c->table, c->n * 8, c->offset, QC_READ_META, err);
    for (uint64_t i = 0; i < c->n && rc == 0; i++) {
        c->table[i] = qc_be64(&c->table[i]);
        rc = check_entry(w, i, c->table[i], err);
    }
    return rc;
}

int qc2_counts_create(struct qc2_writer *w, qchain_error *err)
{
    const struct qc2_header *h = &w->q->header;
    struct qc2_counts *c = qc_calloc(1, sizeof(*c));
    int rc;

    if (!c)
        return qc_fail_nomem(err);
    w->counts = c;
    c->order = h->refcount_order;
    c->block_bits = h->cluster_bits + 3 - c->order;
    rc = check_place(h, qc_store_size(w->store), err);
    if (rc < 0)
        return rc;
    c->offset = h->reftable_offset;
    c->clusters = h->reftable_clusters;
    c->n = c->clusters << h->cluster_bits >> 3;
    c->high = qc_align_up(qc_store_size(w->store), w->q->base.cluster_size);
    return load_table(w, err);
}

void qc2_counts_destroy(struct qc2_writer *w)
{
    if (w->counts)
        qc_free(w->counts->table);
    qc_free(w->counts);
    w->counts = NULL;
}
