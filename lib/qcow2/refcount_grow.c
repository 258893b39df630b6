/* SPDX-License-Identifier: MIT */
/* New refcount blocks, and a larger refcount table. */
#include <inttypes.h>
#include <string.h>

#include "qcow2/writer_int.h"
#include "util/bytes.h"
#include "util/error.h"
#include "util/vec.h"

#define MAX_ENTRIES (QC2_MAX_REFTABLE_BYTES / 8)

static uint64_t host_of(const struct qc2_writer *w, uint64_t cluster)
{
    return cluster << w->q->header.cluster_bits;
}

/* ------------------------------------------------------------------- blocks --- */

static void block_drop(struct qc2_writer *w, uint64_t i)
{
    uint64_t host = qc2_block_host(w->counts, i), cluster = w->q->base.cluster_size;

    w->counts->table[i] = 0;
    qc2_table_drop(w, host, cluster);
    qc2_region_remove(w, host, cluster, QC2_REGION_REFBLOCK);
}

/* Block i comes to lie in a free cluster, which it counts itself, or another block does. The entry of the table
 * is written after it, in stage BLOCKS. */
static int block_at(struct qc2_writer *w, uint64_t i, uint64_t cluster, qchain_error *err)
{
    struct qc2_counts *c = w->counts;
    uint64_t host = host_of(w, cluster), length = w->q->base.cluster_size;
    int rc = qc2_region_add(w, host, length, QC2_REGION_REFBLOCK, err);

    if (rc < 0)
        return rc;
    rc = qc2_table_new(w, host, length, host >= c->high, err);
    if (rc < 0) {
        qc2_region_remove(w, host, length, QC2_REGION_REFBLOCK);
        return rc;
    }
    c->table[i] = host;
    rc = qc2_count_set(w, cluster, 1, err);
    if (rc < 0) {
        block_drop(w, i);
        return rc;
    }
    qc2_dirty_set(c->dirty, i);
    c->hint = cluster + 1;
    c->high = qc_max64(c->high, host + length);
    return QCHAIN_OK;
}

int qc2_block_make(struct qc2_writer *w, uint64_t i, qchain_error *err)
{
    struct qc2_counts *c = w->counts;
    int rc = QCHAIN_OK;

    while (rc == 0 && qc2_block_host(c, i) == 0) {
        uint64_t cluster, own;

        rc = qc2_find_free(w, 1, &cluster, err);
        if (rc < 0)
            return rc;
        own = qc2_block_of(c, cluster);
        /* It must be counted: by a block that there is, or by itself. */
        own = qc2_block_host(c, own) == 0 ? own : i;
        if (own >= c->n)
            rc = qc2_reftable_grow(w, own + 1, err);
        else
            rc = block_at(w, own, cluster, err);
    }
    return rc;
}

/* -------------------------------------------------------------------- table --- */

/* Make it longer in memory alone. */
static int lengthen(struct qc2_counts *c, uint64_t n, qchain_error *err)
{
    void *p = c->table;
    int rc;

    if (n <= c->n)
        return QCHAIN_OK;
    if (n > MAX_ENTRIES)
        return qc_fail(err, QCHAIN_E_LIMIT, "refcount table of %" PRIu64
                       " entries: at most 8 MiB; the file is too large for its cluster size", n);
    rc = qc_grow(&p, &c->cap, n, sizeof(*c->table));
    c->table = p;
    if (rc < 0)
        return qc_fail_nomem(err);
    memset(c->table + c->n, 0, (n - c->n) * sizeof(*c->table));
    c->n = n;
    return QCHAIN_OK;
}

/* Back to what the file has: all that was counted beyond is the new table, and blocks for it. */
static void shorten(struct qc2_writer *w, uint64_t n, uint64_t place, uint64_t clusters)
{
    struct qc2_counts *c = w->counts;
    uint64_t bits = w->q->header.cluster_bits;

    for (uint64_t k = place >> bits; place && k < (place >> bits) + clusters; k++)
        if (qc2_block_of(c, k) < n)
            qc2_count_set(w, k, 0, NULL);
    for (uint64_t i = n; i < c->n; i++) {
        uint64_t host = qc2_block_host(c, i);

        if (host == 0)
            continue;
        block_drop(w, i);
        if (qc2_block_of(c, host >> bits) < n)
            qc2_count_set(w, host >> bits, 0, NULL);
    }
    c->n = n;
    c->hint = qc_min64(c->hint, n << c->block_bits);
    c->hint_long = qc_min64(c->hint_long, n << c->block_bits);
}

/* A place for the table that holds all entries, which may become more by that. */
static int find_place(struct qc2_writer *w, uint64_t n, uint64_t *place, uint64_t *clusters,
                      qchain_error *err)
{
    struct qc2_counts *c = w->counts;
    unsigned bits = w->q->header.cluster_bits;
    bool zeroed;
    int rc = QCHAIN_OK;

    for (;;) {
        if (rc == 0)
            rc = lengthen(c, n, err);
        if (rc < 0)
            return rc;
        *clusters = qc_div_up(8 * c->n, w->q->base.cluster_size);
        rc = lengthen(c, *clusters << bits >> 3, err);
        if (rc == 0)
            rc = qc2_alloc(w, *clusters, place, &zeroed, err);
        if (rc < 0 || 8 * c->n <= *clusters << bits)
            return rc;
        /* Blocks for the place itself did not fit. */
        n = c->n;
        rc = qc2_refcount_add(w, *place, *clusters << bits, -1, err);
        *place = 0;
    }
}

/* The file's table is the new one. Blocks that it refers to are written first, with all other counts: those can
 * be written at any time. */
static int switch_table(struct qc2_writer *w, uint64_t place, uint64_t clusters, qchain_error *err)
{
    struct qc2_counts *c = w->counts;
    struct qc2_header *h = &w->q->header;
    int rc;

    qc2_flush_wait(w);
    rc = qc2_reach_end(w, qc2_fresh_end(w), err);
    if (rc == 0)
        rc = qc2_write_slices(w, QC2_COUNTS, err);
    if (rc == 0)
        rc = qc2_table_write(w, place, c->table, c->n, QC2_FULL, clusters << h->cluster_bits, err);
    if (rc == 0)
        rc = qc2_sync(w, w->store, err);
    if (rc < 0)
        return rc;
    h->reftable_offset = place;
    h->reftable_clusters = (uint32_t)clusters;
    rc = qc2_header_store(w, err);
    if (rc < 0) /* which table is the image's now, nobody knows */
        atomic_store(&w->stopped, true);
    return rc;
}

static int grow(struct qc2_writer *w, uint64_t n, qchain_error *err)
{
    struct qc2_counts *c = w->counts;
    unsigned bits = w->q->header.cluster_bits;
    uint64_t before = c->n, old = c->offset, old_bytes = c->clusters << bits, place = 0, clusters = 0;
    int rc = find_place(w, qc_max64(n, qc_min64(before + before / 2, MAX_ENTRIES)), &place, &clusters,
                        err);

    if (rc == 0)
        rc = qc2_region_add(w, place, clusters << bits, QC2_REGION_REFTABLE, err);
    if (rc == 0)
        rc = switch_table(w, place, clusters, err);
    if (rc < 0) {
        if (place)
            qc2_region_remove(w, place, clusters << bits, QC2_REGION_REFTABLE);
        if (!atomic_load(&w->stopped))
            shorten(w, before, place, clusters);
        return rc;
    }
    c->offset = place;
    c->clusters = clusters;
    memset(c->dirty, 0, sizeof(c->dirty));
    qc2_region_remove(w, old, old_bytes, QC2_REGION_REFTABLE);
    return qc2_refcount_add(w, old, old_bytes, -1, err);
}

int qc2_reftable_grow(struct qc2_writer *w, uint64_t n, qchain_error *err)
{
    struct qc2_counts *c = w->counts;
    int rc;

    /* Room for the new table may ask for more blocks yet. */
    if (c->growing)
        return lengthen(c, n, err);
    c->growing = true;
    rc = grow(w, n, err);
    c->growing = false;
    return rc;
}
