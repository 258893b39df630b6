/* SPDX-License-Identifier: MIT */
/*
 * Finding free clusters: the first that fit, from a hint on. There are two hints, for single clusters and for
 * stretches, so that each goes over the counts about once; both fall when something before them becomes free.
 * Counts are looked at 8 bytes at a time, and blocks that are full are remembered.
 */
#include <inttypes.h>
#include <string.h>

#include "io/file.h"
#include "qcow2/writer_int.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"

#define MAX_BITS 56 /* of offsets in L1 and L2 entries */
#define SCAN_PIECE (64u << 10)

/* ---------------------------------------------------------------- searching --- */

/* The lowest bit of each count in 8 bytes. Whether a count is 0 does not depend on the order of its bytes. */
static uint64_t low_bits(unsigned order)
{
    uint64_t v = 1;

    for (unsigned i = order; i < 6; i++)
        v |= v << (1u << i);
    return v;
}

static bool has_zero(uint64_t word, uint64_t low, unsigned order)
{
    return (word - low) & ~word & (low << ((1u << order) - 1));
}

/* From count `at` on: the first that is free, or is used, at most `end`. */
static uint32_t scan(const uint8_t *data, unsigned order, uint32_t at, uint32_t end, bool want_free)
{
    uint32_t step = 64u >> order;
    uint64_t low = low_bits(order), word;

    while (at < end) {
        if (at % step == 0 && end - at >= step) {
            memcpy(&word, data + ((uint64_t)at << order >> 3), sizeof(word));
            if (want_free ? !has_zero(word, low, order) : word == 0) {
                at += step;
                continue;
            }
        }
        if ((qc2_count_get(data, order, at) == 0) == want_free)
            return at;
        at++;
    }
    return end;
}

/* Is a block full of which nothing is in memory? It is read in large pieces, past the slices. False: it is not, or that
 * is not known. */
static bool is_full_there(struct qc2_writer *w, uint64_t block)
{
    uint64_t host = qc2_block_host(w->counts, block), bytes = w->q->base.cluster_size, at, piece;
    unsigned order = w->counts->order;
    bool full = !qc2_table_in_memory(w, host);
    uint8_t *counts;
    uint32_t n;

    piece = qc_min64(bytes, SCAN_PIECE);
    n = (uint32_t)(piece << 3 >> order);
    counts = full ? qc_malloc(piece) : NULL;
    for (at = 0; full && at < bytes; at += piece)
        full = counts && qc_store_read(w->store, counts, piece, host + at, QC_READ_META, NULL) == 0 &&
               scan(counts, order, 0, n, true) == n;
    qc_free(counts);
    return full;
}

/* The first cluster from c on, before end, that is free, or is used; end if there is none. */
static int find(struct qc2_writer *w, uint64_t c, uint64_t end, bool want_free, uint64_t *found,
                qchain_error *err)
{
    struct qc2_counts *k = w->counts;
    uint32_t per_slice = w->slice_bytes * 8 >> k->order, number, n;
    uint64_t block_start = UINT64_MAX; /* of a block that is seen from its beginning */

    while (c < end) {
        uint64_t i = qc2_block_of(k, c), next = (i + 1) << k->block_bits;
        struct qc2_slice *s;
        int rc;

        if (qc2_block_host(k, i) == 0 || k->table[i] & QC2_FULL) {
            if (want_free == (qc2_block_host(k, i) == 0))
                break;
            c = i < k->n ? next : end;
            continue;
        }
        if (c == i << k->block_bits)
            block_start = c;
        if (want_free && c == block_start && is_full_there(w, i)) {
            k->table[i] |= QC2_FULL;
            continue;
        }
        rc = qc2_count_slice(w, c, &s, &number, err);
        if (rc < 0)
            return rc;
        n = scan(s->data, k->order, number, per_slice, want_free);
        qc2_slice_put(w, s);
        c += n - number;
        if (n < per_slice)
            break;
        if (want_free && c == next && block_start == i << k->block_bits)
            k->table[i] |= QC2_FULL;
    }
    *found = c < end ? c : end;
    return QCHAIN_OK;
}

/* Clusters from here on cannot be referred to, or not be counted. */
static uint64_t limit(const struct qc2_writer *w)
{
    return qc_min64(UINT64_C(1) << (MAX_BITS - w->q->header.cluster_bits),
                    QC2_MAX_REFTABLE_BYTES / 8 << w->counts->block_bits);
}

int qc2_find_free(struct qc2_writer *w, uint64_t n, uint64_t *first, qchain_error *err)
{
    struct qc2_counts *k = w->counts;
    uint64_t *hint = n == 1 ? &k->hint : &k->hint_long;
    uint64_t c = qc_max64(*hint, n == 1 ? 0 : k->hint), end = limit(w), used = 0;
    int rc;

    for (;;) {
        rc = find(w, c, end, true, &c, err);
        if (rc < 0)
            return rc;
        if (n > end || c > end - n)
            return qc_fail(err, QCHAIN_E_LIMIT, "no %" PRIu64 " free clusters below %" PRIu64
                           ", where a file with clusters of %" PRIu32 " bytes ends", n,
                           end << w->q->header.cluster_bits, w->q->base.cluster_size);
        rc = n == 1 ? QCHAIN_OK : find(w, c, c + n, false, &used, err);
        if (rc < 0)
            return rc;
        if (n == 1 || used == c + n)
            break;
        c = used;
    }
    *hint = c;
    *first = c;
    if (qc2_region_find(w, c << w->q->header.cluster_bits, n << w->q->header.cluster_bits,
                        QC2_REGION_ALL) == 0)
        return QCHAIN_OK;
    qc_fail(err, QCHAIN_E_CORRUPT, "refcounts say that clusters from %" PRIu64
            " on are free, but tables of the image lie there", c << w->q->header.cluster_bits);
    qc_error_at(err, c << w->q->header.cluster_bits);
    return qc2_writer_damaged(w, err);
}

/* --------------------------------------------------------------- allocation --- */

/* A stretch of which all is counted by blocks that there are. */
static int find_counted(struct qc2_writer *w, uint64_t n, uint64_t *first, qchain_error *err)
{
    const struct qc2_counts *k = w->counts;
    bool made = true;
    int rc = QCHAIN_OK;

    while (rc == 0 && made) {
        made = false;
        rc = qc2_find_free(w, n, first, err);
        if (rc < 0)
            return rc;
        for (uint64_t i = qc2_block_of(k, *first); rc == 0 && i <= qc2_block_of(k, *first + n - 1); i++)
            if (qc2_block_host(k, i) == 0) {
                made = true;
                rc = qc2_block_make(w, i, err);
            }
    }
    return rc;
}

int qc2_alloc(struct qc2_writer *w, uint64_t n, uint64_t *host, bool *zeroed, qchain_error *err)
{
    struct qc2_counts *k = w->counts;
    unsigned bits = w->q->header.cluster_bits;
    uint64_t first, done;
    int rc;

    if (atomic_load(&w->stopped))
        return qc_fail(err, QCHAIN_E_READONLY, "writing has stopped after an earlier failure");
    qc2_freed_work_locked(w);
    rc = find_counted(w, n, &first, err);
    for (done = 0; rc == 0 && done < n; done++)
        rc = qc2_count_set(w, first + done, 1, err);
    if (rc < 0) {
        while (done-- > 1)
            qc2_count_set(w, first + done - 1, 0, NULL);
        return rc;
    }
    *(n == 1 ? &k->hint : &k->hint_long) = first + n;
    if (k->hint == first)
        k->hint = first + n;
    *host = first << bits;
    *zeroed = *host >= k->high;
    k->high = qc_max64(k->high, (first + n) << bits);
    if (w->data == w->store)
        qc_file_room(w->store, k->high);
    return QCHAIN_OK;
}

/* Bytes below which a compressed cluster's descriptor can point. */
static uint64_t packed_limit(const struct qc2_writer *w)
{
    return UINT64_C(1) << qc_min64(62 - (w->q->header.cluster_bits - 8), MAX_BITS);
}

/* Put a stream behind the last one, in a cluster that may be shared once more. *fits false: it does not. */
static int pack_behind(struct qc2_writer *w, uint64_t bytes, bool *fits, qchain_error *err)
{
    struct qc2_counts *k = w->counts;
    uint64_t room = (0 - k->packed) & (w->q->base.cluster_size - 1);
    qchain_error said;
    int rc;

    *fits = false;
    if (k->packed == 0 || room < bytes)
        return QCHAIN_OK;
    qc_error_init(&said);
    rc = qc2_refcount_add(w, k->packed, bytes, 1, &said);
    *fits = rc == 0;
    if (rc == 0 || rc == QCHAIN_E_LIMIT)
        return QCHAIN_OK;
    qc_error_copy(err, &said);
    return rc;
}

int qc2_alloc_bytes(struct qc2_writer *w, uint64_t bytes, uint64_t *host, qchain_error *err)
{
    struct qc2_counts *k = w->counts;
    uint64_t cluster = w->q->base.cluster_size, fresh, room;
    bool fits, zeroed;
    int rc;

    if (bytes == 0 || bytes > cluster)
        return qc_fail(err, QCHAIN_E_INTERNAL, "a compressed stream of %" PRIu64 " bytes", bytes);
    rc = pack_behind(w, bytes, &fits, err);
    if (rc < 0)
        return rc;
    if (fits) {
        *host = k->packed;
        k->packed += bytes;
        return QCHAIN_OK;
    }
    rc = qc2_alloc(w, 1, &fresh, &zeroed, err);
    if (rc < 0)
        return rc;
    if (fresh + cluster > packed_limit(w)) {
        qc2_refcount_add(w, fresh, cluster, -1, NULL);
        return qc_fail(err, QCHAIN_E_LIMIT, "no room for compressed clusters below %" PRIu64,
                       packed_limit(w));
    }
    /* The tail of the last cluster is used, too, if the new one follows it. */
    room = (0 - k->packed) & (cluster - 1);
    if (k->packed != 0 && room > 0 && k->packed + room == fresh &&
        qc2_refcount_add(w, k->packed, 1, 1, NULL) == 0)
        fresh = k->packed;
    *host = fresh;
    k->packed = fresh + bytes;
    return QCHAIN_OK;
}
