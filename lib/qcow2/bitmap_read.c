/* SPDX-License-Identifier: MIT */
/*
 * Dirty bitmaps: the directory as a list, and the bits of one.
 *
 * A bitmap table has an entry, big-endian, for each cluster of bits:
 *
 *   BITS   FIELD
 *      0   only if there is no cluster: all bits are 1, else all are 0
 *    1-8   0
 *   9-55   offset of the cluster; 0: there is none
 *  56-63   0
 */
#include <inttypes.h>

#include "qcow2/bitmap_store.h"
#include "qcow2/table_walk.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"
#include "util/escape.h"

#define TABLE_STEP 8192u /* entries read at a time */

/* --------------------------------------------------------------------- list --- */

struct listing {
    struct qc2_image      *q;
    struct qc_bitmap_list *out;
    uint64_t               tables; /* bytes */
};

static int list_one(void *data, const struct qc2_bitmap *e, const char *name, qchain_error *err)
{
    struct listing *l = data;
    uint32_t slot = (uint32_t)l->out->n;
    struct qc_bitmap *b;

    l->tables += UINT64_C(8) * e->table_size;
    if (l->tables > qc_store_size(l->q->base.store))
        return qc_fail(err, QCHAIN_E_CORRUPT, "the bitmaps' tables are longer than the file: they overlap");
    b = qc_bitmap_append(l->out, name, e->name_len);
    if (!b)
        return qc_fail_nomem(err);
    b->slot = slot;
    b->granularity_bits = e->granularity_bits;
    b->enabled = e->flags & QC2_BITMAP_AUTO;
    b->in_use = e->flags & QC2_BITMAP_IN_USE;
    b->foreign = e->extra_len > 0 && !(e->flags & QC2_BITMAP_EXTRA_COMPATIBLE);
    b->host = e->table_offset;
    b->host_entries = e->table_size;
    return QCHAIN_OK;
}

int qc2_bitmaps_list(struct qc_image *img, struct qc_bitmap_list *out, qchain_error *err)
{
    struct qc2_image *q = qc2_of(img);
    struct listing l = {.q = q, .out = out};

    out->disk = q->header.size;
    if (!q->header.has_bitmaps || !(q->header.autoclear & QC2_AUTOCLEAR_BITMAPS))
        return QCHAIN_OK;
    return qc2_each_bitmap(q, list_one, &l, err);
}

/* -------------------------------------------------------------------- table --- */

uint64_t qc2_bitmap_clusters(const struct qc2_image *q, uint64_t n_bits)
{
    return qc_max64(1, qc_div_up(qc_div_up(n_bits, 8), q->base.cluster_size));
}

int qc2_bitmap_entry_check(const struct qc2_image *q, uint64_t entry, uint64_t place, qchain_error *err)
{
    uint64_t host = entry & QC2_BITMAP_OFFSET, size = qc_store_size(q->base.store);
    const char *rule = NULL;

    if (entry & ~(QC2_BITMAP_OFFSET | QC2_BITMAP_ONES) || (host && entry & QC2_BITMAP_ONES))
        rule = "reserved bits are set";
    else if (host % q->base.cluster_size != 0)
        rule = "the cluster is not aligned";
    else if (host && (host > size || size - host < q->base.cluster_size))
        rule = "the cluster ends past the end of the file";
    if (!rule)
        return QCHAIN_OK;
    qc_fail(err, QCHAIN_E_CORRUPT, "bitmap table entry at %" PRIu64 "=0x%016" PRIx64 ": %s", place, entry, rule);
    qc_error_at(err, place);
    return QCHAIN_E_CORRUPT;
}

int qc2_bitmap_table_walk(struct qc2_image *q, uint64_t host, uint32_t n, qc2_bitmap_entry_fn fn, void *data,
                          qchain_error *err)
{
    uint64_t *raw = qc_malloc((size_t)qc_min64(n, TABLE_STEP) * 8);
    int rc = raw ? QCHAIN_OK : qc_fail_nomem(err);

    for (uint32_t i = 0; i < n && rc == 0; i += TABLE_STEP) {
        uint32_t here = (uint32_t)qc_min64(n - i, TABLE_STEP);

        rc = qc_store_read(q->base.store, raw, (size_t)here * 8, host + UINT64_C(8) * i, QC_READ_META, err);
        for (uint32_t k = 0; k < here && rc == 0; k++)
            rc = fn(data, i + k, qc_be64(&raw[k]), host + UINT64_C(8) * (i + k), err);
    }
    qc_free(raw);
    return rc;
}

/* --------------------------------------------------------------------- load --- */

struct loading {
    struct qc2_image      *q;
    struct qc_bitmap_list *list;
    struct qc_bits        *bits;
    uint8_t               *buf; /* a cluster */
};

static int load_entry(void *data, uint32_t number, uint64_t entry, uint64_t place, qchain_error *err)
{
    struct loading *l = data;
    uint64_t cluster = l->q->base.cluster_size, host = entry & QC2_BITMAP_OFFSET, at = number * cluster;
    int rc = qc2_bitmap_entry_check(l->q, entry, place, err);

    if (rc < 0 || entry == 0)
        return rc;
    if (entry == QC2_BITMAP_ONES) {
        qc_bits_set(l->bits, at * 8, (at + cluster) * 8);
        return QCHAIN_OK;
    }
    l->list->loaded += cluster;
    if (l->list->loaded > qc_store_size(l->q->base.store))
        return qc_fail(err, QCHAIN_E_CORRUPT, "the bitmaps are longer than the file: they overlap");
    rc = qc_store_read(l->q->base.store, l->buf, cluster, host, QC_READ_META, err);
    if (rc == 0 && !qc_bits_load(l->bits, at, l->buf, cluster))
        rc = qc_fail_nomem(err);
    return rc;
}

int qc2_bitmap_load(struct qc_image *img, struct qc_bitmap_list *list, struct qc_bitmap *b, qchain_error *err)
{
    struct loading l = {.q = qc2_of(img), .list = list};
    uint64_t n = qc_bitmap_bits(list->disk, b->granularity_bits), need = qc2_bitmap_clusters(l.q, n);
    struct qc_escaped shown;
    int rc;

    if (b->host_entries != need)
        return qc_fail(err, QCHAIN_E_CORRUPT, "bitmap '%s': its table has %" PRIu32 " entries for %" PRIu64
                       " clusters of bits", qc_escape_str(&shown, b->name), b->host_entries, need);
    l.bits = qc_bits_create(n);
    l.buf = qc_malloc(img->cluster_size);
    rc = l.bits && l.buf ? QCHAIN_OK : qc_fail_nomem(err);
    if (rc == 0)
        rc = qc2_bitmap_table_walk(l.q, b->host, b->host_entries, load_entry, &l, err);
    qc_free(l.buf);
    if (rc == 0) {
        b->bits = l.bits;
        return QCHAIN_OK;
    }
    qc_bits_destroy(l.bits);
    qc_error_prefix(err, -1, "bitmap '%s': ", qc_escape_str(&shown, b->name));
    return rc;
}
