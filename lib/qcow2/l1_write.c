/* SPDX-License-Identifier: MIT */
/* The L1 table of an image that is written, and what it has in common with the refcount table: both are in
 * memory as a whole, and are written in pieces of a sector. */
#include <inttypes.h>
#include <string.h>

#include "qcow2/l2.h"
#include "qcow2/writer_int.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"

/* ------------------------------------------------------ tables of numbers --- */

static uint64_t n_words(uint64_t n_entries)
{
    return qc_div_up(qc_div_up(n_entries, QC2_PIECE_ENTRIES), 64);
}

uint64_t *qc2_dirty_create(uint64_t n_entries)
{
    return qc_calloc(n_words(n_entries) + 1, sizeof(uint64_t));
}

uint64_t qc2_dirty_next(const uint64_t *bits, uint64_t n_entries, uint64_t piece)
{
    uint64_t end = n_words(n_entries);

    for (uint64_t i = piece / 64; i < end; i++) {
        uint64_t word = bits[i];

        if (i == piece / 64)
            word &= ~UINT64_C(0) << piece % 64;
        if (word) {
            piece = i * 64 + (unsigned)__builtin_ctzll(word);
            return piece * QC2_PIECE_ENTRIES < n_entries ? piece : UINT64_MAX;
        }
    }
    return UINT64_MAX;
}

void qc2_dirty_clear(uint64_t *bits, uint64_t n_entries)
{
    memset(bits, 0, n_words(n_entries) * sizeof(*bits));
}

void qc2_entries_encode(uint8_t *out, const uint64_t *entry, uint64_t n, uint64_t mask)
{
    for (uint64_t i = 0; i < n; i++) {
        uint64_t v = __builtin_bswap64(entry[i] & ~mask);

        memcpy(out + 8 * i, &v, 8);
    }
}

int qc2_table_write(struct qc2_writer *w, uint64_t host, const uint64_t *entry, uint64_t n,
                    uint64_t mask, uint64_t bytes, qchain_error *err)
{
    size_t room = (size_t)qc_min64(bytes, 1u << 20);
    uint8_t *buf = qc_malloc(room);
    int rc = buf ? QCHAIN_OK : qc_fail_nomem(err);

    for (uint64_t at = 0; at < bytes && rc == 0; at += room) {
        size_t length = (size_t)qc_min64(bytes - at, room);
        uint64_t first = at / 8, some = first < n ? qc_min64(n - first, length / 8) : 0;

        qc2_entries_encode(buf, entry + first, some, mask);
        memset(buf + some * 8, 0, length - some * 8);
        rc = qc_store_write(w->store, buf, length, host + at, err);
    }
    qc_free(buf);
    return rc;
}

/* ---------------------------------------------------------------------- L1 --- */

static int check_entry(const struct qc2_writer *w, uint32_t slot, qchain_error *err)
{
    uint64_t entry = w->l1[slot], table = entry & QC2_OFFSET_MASK, cluster = w->q->base.cluster_size;
    const char *rule = NULL;

    if (entry & ~(QC2_OFFSET_MASK | QC2_COPIED))
        rule = "reserved bits are set";
    else if (table % cluster != 0)
        rule = "the L2 table's offset is not aligned to a cluster";
    else if (table != 0 && table + cluster > qc_store_size(w->store))
        rule = "the L2 table ends past the end of the file";
    if (!rule)
        return QCHAIN_OK;
    qc_fail(err, QCHAIN_E_CORRUPT, "L1 entry %" PRIu32 "=0x%" PRIx64 ": %s", slot, entry, rule);
    qc_error_at(err, w->l1_offset + UINT64_C(8) * slot);
    return QCHAIN_E_CORRUPT;
}

int qc2_l1_load(struct qc2_writer *w, qchain_error *err)
{
    const struct qc2_header *h = &w->q->header;
    size_t bytes = (size_t)h->l1_size * 8;
    int rc = QCHAIN_OK;

    w->l1_size = h->l1_size;
    w->l1_offset = h->l1_offset;
    w->l1 = qc_malloc(bytes);
    w->l1_dirty = qc2_dirty_create(w->l1_size);
    if (!w->l1 || !w->l1_dirty)
        return qc_fail_nomem(err);
    if (bytes > 0)
        rc = qc_store_read(w->store, w->l1, bytes, w->l1_offset, QC_READ_META, err);
    if (rc < 0) {
        qc_error_prefix(err, -1, "L1 table: ");
        return rc;
    }
    for (uint32_t i = 0; i < w->l1_size && rc == 0; i++) {
        w->l1[i] = qc_be64(&w->l1[i]);
        rc = check_entry(w, i, err);
    }
    return rc;
}

void qc2_l1_unload(struct qc2_writer *w)
{
    qc_free(w->l1);
    qc_free(w->l1_dirty);
    w->l1 = w->l1_dirty = NULL;
}

int qc2_l1_set(struct qc2_writer *w, uint32_t slot, uint64_t entry, qchain_error *err)
{
    uint64_t cluster = w->q->base.cluster_size;
    uint64_t old, new = entry & QC2_OFFSET_MASK;
    int rc = QCHAIN_OK;

    if (slot >= w->l1_size)
        return qc_fail(err, QCHAIN_E_INTERNAL, "L1 entry %" PRIu32 " of %" PRIu32, slot, w->l1_size);
    old = w->l1[slot] & QC2_OFFSET_MASK;
    if (new != 0 && new != old)
        rc = qc2_region_add(w, new, cluster, QC2_REGION_L2, err);
    if (rc < 0)
        return rc;
    if (old != 0 && new != old)
        qc2_region_remove(w, old, cluster, QC2_REGION_L2);
    w->l1[slot] = entry;
    qc2_dirty_set(w->l1_dirty, slot);
    return QCHAIN_OK;
}

/* -------------------------------------------------------------------- growth --- */

/* A longer table, which lies at host from now on; all that went before is durable. */
static int switch_table(struct qc2_writer *w, uint64_t *entry, uint32_t n, uint64_t host,
                        qchain_error *err)
{
    struct qc2_header *h = &w->q->header;
    struct qc2_header old = *h;
    uint64_t bytes = qc_align_up(UINT64_C(8) * n, w->q->base.cluster_size);
    int rc = QCHAIN_OK;

    h->l1_size = n;
    h->l1_offset = host;
    if (qc2_breaks(6))
        rc = qc2_header_store(w, err);
    if (rc == 0)
        rc = qc2_table_write(w, host, entry, n, 0, bytes, err);
    /* With the lock held, nothing changes between this and the header. */
    if (rc == 0)
        rc = qc2_flush_locked(w, err);
    if (rc < 0) {
        *h = old;
        return rc;
    }
    rc = qc2_header_store(w, err);
    if (rc < 0) /* which table is the image's now, nobody knows */
        atomic_store(&w->stopped, true);
    return rc;
}

/* The old table's place is free, the new one's is not. */
static void replace_table(struct qc2_writer *w, uint64_t *entry, uint64_t *dirty, uint32_t n, uint64_t host)
{
    uint64_t length = UINT64_C(8) * w->l1_size;

    if (length > 0) {
        qc2_region_remove(w, w->l1_offset, length, QC2_REGION_L1);
        /* The header that does not refer to it is durable, and tables are not read by place. */
        qc2_refcount_add(w, w->l1_offset, length, -1, NULL);
    }
    qc2_l1_unload(w);
    w->l1 = entry;
    w->l1_dirty = dirty;
    w->l1_size = w->q->l1_size = n;
    w->l1_offset = w->q->l1_offset = host;
}

int qc2_l1_grow(struct qc2_writer *w, uint32_t n_entries, qchain_error *err)
{
    uint64_t clusters = qc_div_up(UINT64_C(8) * n_entries, w->q->base.cluster_size), host;
    uint64_t *entry, *dirty;
    bool zeroed;
    int rc;

    if (n_entries <= w->l1_size)
        return QCHAIN_OK;
    if (n_entries > QC2_MAX_L1_ENTRIES)
        return qc_fail(err, QCHAIN_E_LIMIT, "L1 table of %" PRIu32 " entries: at most %u", n_entries,
                       QC2_MAX_L1_ENTRIES);
    entry = qc_calloc(n_entries, sizeof(*entry));
    dirty = qc2_dirty_create(n_entries);
    rc = entry && dirty ? qc2_alloc(w, clusters, &host, &zeroed, err) : qc_fail_nomem(err);
    if (rc < 0) {
        qc_free(entry);
        qc_free(dirty);
        return rc;
    }
    memcpy(entry, w->l1, w->l1_size * sizeof(*entry));
    rc = qc2_region_add(w, host, UINT64_C(8) * n_entries, QC2_REGION_L1, err);
    if (rc == 0)
        rc = switch_table(w, entry, n_entries, host, err);
    if (rc < 0) {
        qc2_region_remove(w, host, UINT64_C(8) * n_entries, QC2_REGION_L1);
        if (!atomic_load(&w->stopped))
            qc2_refcount_add(w, host, clusters << w->q->header.cluster_bits, -1, NULL);
        qc_free(entry);
        qc_free(dirty);
        return rc;
    }
    replace_table(w, entry, dirty, n_entries, host);
    return QCHAIN_OK;
}
