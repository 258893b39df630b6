/* SPDX-License-Identifier: MIT */
/* The table of internal snapshots, and dirty bitmaps. */
#include <inttypes.h>

#include "qcow2/check_int.h"
#include "qcow2/l2.h"
#include "qcow2/table_walk.h"
#include "util/bytes.h"
#include "util/error.h"
#include "util/escape.h"

#define PIECE 65536u

/* ------------------------------------------------------------- snapshots --- */

struct snapshots {
    struct qc2_check *c;
    uint32_t          number;
    uint64_t          bytes; /* of the table */
};

static int one_snapshot(void *data, const struct qc2_snapshot *s, qchain_error *err)
{
    struct snapshots *l = data;
    struct qc2_check *c = l->c;
    uint32_t number = l->number++;
    bool inside;
    int rc;

    l->bytes += s->bytes;
    if (c->h->version >= 3 && !s->has_disk_size)
        qc2_check_bad(c, 1, "snapshot %" PRIu32 ": its entry does not say how large the disk was",
                      number);
    if (s->l1_size > QC2_MAX_L1_ENTRIES || s->l1_offset % c->cluster != 0) {
        c->lost = true;
        qc2_check_bad(c, 1, "snapshot %" PRIu32 ": its L1 table (%" PRIu32 " entries at %" PRIu64
                      ") is %s", number, s->l1_size, s->l1_offset,
                      s->l1_size > QC2_MAX_L1_ENTRIES ? "too large" : "not aligned to a cluster");
        return QCHAIN_OK;
    }
    rc = qc2_check_region(c, s->l1_offset, (uint64_t)s->l1_size * 8, "a snapshot's L1 table",
                          &inside, err);
    if (rc == 0 && inside)
        rc = qc2_stretch_add(&c->l1s, s->l1_offset, s->l1_offset + (uint64_t)s->l1_size * 8, false,
                             err);
    return rc;
}

/* A list that ends in damage is corrupt as a whole; what could be read of it counts. */
static int list_ended(struct qc2_check *c, int rc, const qchain_error *why, qchain_error *err)
{
    if (rc == 0)
        return QCHAIN_OK;
    if (rc == QCHAIN_E_CORRUPT || rc == QCHAIN_E_LIMIT || rc == QCHAIN_E_UNSUPPORTED) {
        c->lost = true;
        qc2_check_bad(c, 1, "%s", why->text);
        return QCHAIN_OK;
    }
    if (rc == QCHAIN_E_IO || rc == QCHAIN_E_NET || rc == QCHAIN_E_CHANGED) {
        c->lost = true;
        c->r.check_errors++;
        qc2_check_say(c, QCHAIN_LOG_ERROR, "%s", why->text);
        return QCHAIN_OK;
    }
    qc_error_copy(err, why);
    return rc;
}

int qc2_check_snapshots(struct qc2_check *c, qchain_error *err)
{
    struct snapshots l = {.c = c};
    qchain_error why;
    bool inside;
    int rc;

    if (c->h->n_snapshots == 0)
        return QCHAIN_OK;
    if (c->h->incompatible & QC2_INCOMPAT_DATA_FILE)
        qc2_check_bad(c, 1, "header nb_snapshots=%" PRIu32
                      ": no snapshots are allowed with an external data file", c->h->n_snapshots);
    qc_error_init(&why);
    rc = list_ended(c, qc2_each_snapshot(c->q, one_snapshot, &l, &why), &why, err);
    if (rc == 0)
        rc = qc2_check_region(c, c->h->snapshots_offset, l.bytes, "the snapshot table", &inside,
                              err);
    return rc;
}

/* --------------------------------------------------------------- bitmaps --- */

static int one_bitmap(void *data, const struct qc2_bitmap *b, const char *name, qchain_error *err)
{
    struct qc2_check *c = data;
    uint64_t bytes = (uint64_t)b->table_size * 8;
    struct qc_escaped text;
    bool inside;
    int rc;

    if (b->flags & QC2_BITMAP_IN_USE)
        qc2_check_say(c, QCHAIN_LOG_WARN, "bitmap '%s' was in use: it cannot be trusted",
                      qc_escape(&text, name, b->name_len));
    rc = qc2_check_region(c, b->table_offset, bytes, "a bitmap's table", &inside, err);
    if (rc == 0 && inside)
        rc = qc2_stretch_add(&c->bitmaps, b->table_offset, b->table_offset + bytes, false, err);
    return rc;
}

static int bitmap_entry(struct qc2_check *c, uint64_t e, uint64_t place, uint64_t times,
                        qchain_error *err)
{
    uint64_t at = e & QC2_OFFSET_MASK;

    if ((e & ~(QC2_OFFSET_MASK | 1)) || (at && e & 1) || at % c->cluster != 0) {
        c->lost |= at != 0;
        qc2_check_bad(c, times, "bitmap table entry at %" PRIu64 "=0x%016" PRIx64 ": %s", place, e,
                      at % c->cluster != 0 ? "not aligned to a cluster" : "reserved bits are set");
        return QCHAIN_OK;
    }
    return at ? qc2_check_count(c, at, c->cluster, times, "a bitmap's cluster", err) : QCHAIN_OK;
}

static int bitmap_piece(void *data, uint64_t start, uint64_t end, uint64_t times, uint64_t active,
                        qchain_error *err)
{
    struct qc2_check *c = data;
    const uint64_t *raw = (const uint64_t *)(const void *)c->buf;
    int rc = QCHAIN_OK;

    (void)active;
    for (uint64_t at = start, n; at < end && rc == 0; at += n) {
        n = qc_min64(end - at, PIECE);
        rc = qc2_check_go_on(c, err);
        qc2_check_read(c, c->buf, (size_t)n, at, "bitmap table");
        for (size_t i = 0; i < n / 8 && rc == 0; i++)
            if (raw[i] != 0)
                rc = bitmap_entry(c, qc_be64(&raw[i]), at + i * 8, times, err);
    }
    return rc;
}

int qc2_check_bitmaps(struct qc2_check *c, qchain_error *err)
{
    qchain_error why;
    bool inside;
    int rc;

    if (!c->h->has_bitmaps)
        return QCHAIN_OK;
    if (!(c->h->autoclear & QC2_AUTOCLEAR_BITMAPS)) {
        qc2_check_say(c, QCHAIN_LOG_WARN, "a program without support for bitmaps changed the image: "
                      "its bitmaps are lost, and their clusters leaked");
        return QCHAIN_OK;
    }
    qc_error_init(&why);
    rc = list_ended(c, qc2_each_bitmap(c->q, one_bitmap, c, &why), &why, err);
    if (rc == 0 && c->h->bitmap_dir_offset % c->cluster == 0)
        rc = qc2_check_region(c, c->h->bitmap_dir_offset, c->h->bitmap_dir_size,
                              "the bitmap directory", &inside, err);
    if (rc == 0)
        rc = qc2_sweep(&c->bitmaps, bitmap_piece, c, err);
    return rc;
}
