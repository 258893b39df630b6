/* SPDX-License-Identifier: MIT */
/*
 * The L1 table, an array of big-endian numbers of 64 bits:
 *
 *   BIT
 *    63   COPIED: the L2 table's refcount is exactly 1
 *   9-55  offset of the L2 table, cluster aligned; 0: none
 *
 * Other bits are reserved; like QEMU we do not look at them.
 */
#include "qcow2/image_int.h"

#include <inttypes.h>

#include "qcow2/l2.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"

#define PIECE 8192u /* entries read at a time: 64 KiB */

int qc2_l1_read(struct qc2_image *q, uint64_t *entry, uint32_t slot, uint32_t n, qchain_error *err)
{
    int rc = qc_store_read(q->base.store, entry, (size_t)n * 8,
                           q->l1_offset + (uint64_t)slot * 8, qc2_meta_flags(q), err);

    if (rc < 0) {
        qc_error_prefix(err, -1, "L1 table: ");
        return rc;
    }
    for (uint32_t i = 0; i < n; i++)
        entry[i] = qc_be64(&entry[i]) & QC2_OFFSET_MASK;
    return QCHAIN_OK;
}

static struct qc2_l1_map *map_alloc(uint32_t n_slots)
{
    struct qc2_l1_map *m;
    bool whole = n_slots <= QC2_L1_WHOLE;
    uint8_t shift = 0;
    size_t words;

    while (!whole && n_slots > (uint64_t)QC2_L1_BITS << shift)
        shift++;
    words = whole ? n_slots : (qc_div_up(n_slots, UINT64_C(1) << shift) + 63) / 64;
    m = qc_calloc(1, sizeof(*m) + words * sizeof(m->word[0]));
    if (!m)
        return NULL;
    m->n_slots = n_slots;
    m->shift = shift;
    m->whole = whole;
    return m;
}

/* True if the entry counts as a table; those past the end of a file that is read
 * in spite of damage do not. */
static bool in_use(const struct qc2_image *q, uint64_t entry)
{
    return entry != 0 && !(q->salvage && entry >= q->base.store->size);
}

/* Stream the table and note what is in use. Each used slot has a cluster of its
 * own in the file; a table that says otherwise would cost a long time to follow. */
static int map_fill(struct qc2_image *q, struct qc2_l1_map *m, qchain_error *err)
{
    uint64_t clusters = qc_div_up(q->base.store->size, q->base.cluster_size);
    uint64_t used = 0;
    uint64_t *piece = m->whole ? m->word : qc_malloc(PIECE * sizeof(*piece));
    int rc = QCHAIN_OK;

    if (!piece)
        return qc_fail_nomem(err);
    for (uint32_t slot = 0; slot < m->n_slots && rc == 0; slot += PIECE) {
        uint32_t n = (uint32_t)qc_min64(m->n_slots - slot, PIECE);

        rc = qc2_l1_read(q, piece, slot, n, err);
        for (uint32_t i = 0; i < n && rc == 0; i++) {
            uint32_t bit = (slot + i) >> m->shift;

            if (!in_use(q, piece[i]))
                continue;
            used++;
            if (!m->whole)
                m->word[bit / 64] |= UINT64_C(1) << bit % 64;
        }
    }
    if (rc == 0 && used > clusters)
        rc = qc_fail(err, QCHAIN_E_CORRUPT,
                     "L1 table has %" PRIu64 " entries in use, more than the file's %" PRIu64
                     " clusters", used, clusters);
    if (!m->whole)
        qc_free(piece);
    return rc;
}

static int map_build(struct qc2_image *q, struct qc2_l1_map **out, qchain_error *err)
{
    uint64_t cover = UINT64_C(1) << qc2_l2_cover_bits(&q->header);
    uint64_t need = qc_div_up(q->base.virtual_size, cover);
    struct qc2_l1_map *m = map_alloc((uint32_t)qc_min64(need, q->l1_size));
    int rc;

    if (!m)
        return qc_fail_nomem(err);
    rc = map_fill(q, m, err);
    if (rc < 0) {
        qc_free(m);
        return rc;
    }
    *out = m;
    return QCHAIN_OK;
}

int qc2_l1_get(struct qc2_image *q, const struct qc2_l1_map **out, qchain_error *err)
{
    struct qc2_l1_map *m = atomic_load_explicit(&q->l1_map, memory_order_acquire);
    int rc = QCHAIN_OK;

    if (!m) {
        pthread_mutex_lock(&q->lock);
        m = atomic_load_explicit(&q->l1_map, memory_order_relaxed);
        if (!m) {
            rc = map_build(q, &m, err);
            if (rc == 0)
                atomic_store_explicit(&q->l1_map, m, memory_order_release);
        }
        pthread_mutex_unlock(&q->lock);
    }
    *out = m;
    return rc;
}

uint32_t qc2_l1_next(const struct qc2_l1_map *m, uint32_t slot)
{
    uint32_t bits = (uint32_t)qc_div_up(m->n_slots, UINT64_C(1) << m->shift);
    uint32_t bit = slot >> m->shift;

    if (m->whole) {
        while (slot < m->n_slots && m->word[slot] == 0)
            slot++;
        return slot;
    }
    while (bit < bits) {
        uint64_t rest = m->word[bit / 64] >> bit % 64;
        uint64_t first;

        if (!rest) {
            bit = (bit | 63) + 1;
            continue;
        }
        bit += (uint32_t)__builtin_ctzll(rest);
        first = (uint64_t)bit << m->shift;
        return (uint32_t)qc_max64(slot, first);
    }
    return m->n_slots;
}
