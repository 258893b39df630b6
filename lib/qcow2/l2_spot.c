/* SPDX-License-Identifier: MIT */
#include "qcow2/l2_spot.h"

#include <inttypes.h>

#include "util/error.h"

void qc2_spot_geometry(const struct qc2_writer *w, uint64_t offset, uint64_t length, struct qc2_l2 *g)
{
    const struct qc2_image *q = w->q;
    uint64_t disk = q->base.virtual_size;

    *g = (struct qc2_l2){
        .cluster_bits = q->header.cluster_bits,
        .extended = qc2_extended_l2(&q->header),
        .zero_flag = q->header.version >= 3,
        .data_file = q->base.wants_data_file,
        .file_size = qc_store_size(w->store),
        /* what lies beyond the disk (VM state) is not clipped to it */
        .virtual_size = offset < disk ? disk : UINT64_MAX,
        .start = offset,
        .end = offset + length,
    };
}

static int check_table(const struct qc2_writer *w, uint32_t slot, uint64_t table, qchain_error *err)
{
    if (table % w->q->base.cluster_size == 0)
        return QCHAIN_OK;
    qc_fail(err, QCHAIN_E_CORRUPT,
            "L1 entry %" PRIu32 "=%" PRIu64 ": the L2 table's offset is not aligned to a cluster", slot,
            table);
    qc_error_at(err, w->l1_offset + UINT64_C(8) * slot);
    return QCHAIN_E_CORRUPT;
}

int qc2_spot_find(struct qc2_writer *w, uint64_t offset, struct qc2_spot *s, qchain_error *err)
{
    const struct qc2_header *h = &w->q->header;
    unsigned cover_bits = qc2_l2_cover_bits(h);
    unsigned entry_bits = qc2_extended_l2(h) ? 4 : 3;
    uint64_t slot = offset >> cover_bits;
    uint64_t index = (offset - (slot << cover_bits)) >> h->cluster_bits;
    uint64_t reach = (uint64_t)(w->slice_bytes >> entry_bits) << h->cluster_bits;
    uint64_t table = slot < w->l1_size ? w->l1[slot] & QC2_OFFSET_MASK : 0;
    int rc;

    s->slice = NULL;
    s->guest = qc_align_down(offset, qc2_cluster_size(h));
    s->end = qc_align_down(offset, reach) + reach;
    s->table_end = (slot + 1) << cover_bits;
    if (table == 0)
        return QCHAIN_OK;
    rc = check_table(w, (uint32_t)slot, table, err);
    if (rc < 0)
        return rc;
    s->host = table + (index << entry_bits);
    rc = qc2_slice_get(w, s->host, &s->slice, err);
    if (rc < 0) {
        qc_error_prefix(err, -1, "L2 table at %" PRIu64 ": ", table);
        return rc;
    }
    s->raw = (uint64_t *)(void *)(s->slice->data + (s->host - s->slice->host));
    return QCHAIN_OK;
}

void qc2_spot_leave(struct qc2_writer *w, struct qc2_spot *s)
{
    qc2_slice_put(w, s->slice);
    s->slice = NULL;
}

/* Fill the new table at `to` with what the one at `from` holds. */
static int copy_table(struct qc2_writer *w, uint64_t to, uint64_t from, qchain_error *err)
{
    for (uint64_t at = 0; at < w->q->base.cluster_size; at += w->slice_bytes) {
        struct qc2_slice *old, *new;
        int rc = qc2_slice_get(w, from + at, &old, err);

        if (rc < 0)
            return rc;
        if (!qc_is_zero(old->data, w->slice_bytes)) {
            rc = qc2_slice_get(w, to + at, &new, err);
            if (rc == 0) {
                memcpy(new->data, old->data, w->slice_bytes);
                qc2_slice_dirty(w, new, QC2_MAP);
                qc2_slice_put(w, new);
            }
        }
        qc2_slice_put(w, old);
        if (rc < 0)
            return rc;
    }
    return QCHAIN_OK;
}

/* A new table for the slot: empty, or with what the old one holds. */
static int new_table(struct qc2_writer *w, uint32_t slot, qchain_error *err)
{
    uint64_t cluster = w->q->base.cluster_size, old = w->l1[slot] & QC2_OFFSET_MASK, host;
    bool zeroed;
    int rc = qc2_alloc(w, 1, &host, &zeroed, err);

    if (rc < 0)
        return rc;
    rc = qc2_table_new(w, host, cluster, zeroed, err);
    if (rc == 0 && old)
        rc = copy_table(w, host, old, err);
    if (rc == 0)
        rc = qc2_l1_set(w, slot, host | QC2_COPIED, err);
    if (rc < 0) {
        qc2_table_drop(w, host, cluster);
        qc2_refcount_add(w, host, cluster, -1, NULL);
    } else if (old) {
        qc2_free_later(w, old, cluster);
    }
    return rc;
}

int qc2_spot_make(struct qc2_writer *w, uint64_t offset, struct qc2_spot *s, qchain_error *err)
{
    uint64_t slot = offset >> qc2_l2_cover_bits(&w->q->header);
    int rc = QCHAIN_OK;

    s->slice = NULL;
    if (slot >= QC2_MAX_L1_ENTRIES)
        return qc_fail(err, QCHAIN_E_LIMIT, "L1 table: %" PRIu64 " entries are needed, at most %u",
                       slot + 1, QC2_MAX_L1_ENTRIES);
    if (slot >= w->l1_size)
        rc = qc2_l1_grow(w, (uint32_t)slot + 1, err);
    if (rc == 0)
        rc = check_table(w, (uint32_t)slot, w->l1[slot] & QC2_OFFSET_MASK, err);
    if (rc == 0 && (!(w->l1[slot] & QC2_COPIED) || (w->l1[slot] & QC2_OFFSET_MASK) == 0))
        rc = new_table(w, (uint32_t)slot, err);
    return rc < 0 ? rc : qc2_spot_find(w, offset, s, err);
}

int qc2_spot_check(const struct qc2_l2 *g, const struct qc2_spot *s, size_t i, qchain_error *err)
{
    unsigned entry_bits = qc2_l2_entry_bits(g);
    uint64_t guest = s->guest + ((uint64_t)i << g->cluster_bits);
    struct qc_run room[QC2_SUBCLUSTERS]; /* as many as there can be */
    struct qc_runs runs = {room, 0, QC2_SUBCLUSTERS};
    struct qc2_l2 one = *g;

    if (qc2_entry_is_plain(g, qc2_entry_get(g, s->raw, i), guest))
        return QCHAIN_OK;
    one.start = guest;
    one.end = guest + (UINT64_C(1) << g->cluster_bits);
    return qc2_l2_parse(&one, s->raw + (i << (entry_bits - 3)), 1, guest, s->host + (i << entry_bits),
                        &runs, err);
}

void qc2_gone_end(struct qc2_writer *w, struct qc2_gone *gone)
{
    if (gone->length > 0)
        qc2_free_later(w, gone->host, gone->length);
    gone->length = 0;
}

void qc2_gone_add(struct qc2_writer *w, const struct qc2_l2 *g, struct qc2_gone *gone, struct qc2_entry e)
{
    uint64_t host, length = UINT64_C(1) << g->cluster_bits;

    if (g->data_file)
        return;
    if (e.word & QC2_COMPRESSED) { /* a cluster is counted for each stream in it, so these stay single */
        qc2_entry_stream(g, e.word, &host, &length);
        qc2_free_later(w, host, length);
        return;
    }
    host = qc2_entry_host(e);
    if (host == 0)
        return;
    if (gone->length > 0 && gone->host + gone->length == host) {
        gone->length += length;
        return;
    }
    qc2_gone_end(w, gone);
    *gone = (struct qc2_gone){host, length};
}
