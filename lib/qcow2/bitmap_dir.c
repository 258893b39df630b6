/* SPDX-License-Identifier: MIT */
/*
 * The bitmap directory is a row of entries, each padded to a multiple of 8:
 *
 *   OFFSET SIZE FIELD
 *        0    8 offset of the bitmap table, cluster aligned
 *        8    4 entries of that table
 *       12    4 flags: 1 in use, 2 auto, 4 unknown extra data does no harm
 *       16    1 type: 1 dirty tracking
 *       17    1 log2 of the bytes of disk that a bit stands for
 *       18    2 length of the name
 *       20    4 length of the extra data
 *       24      extra data, name; without NUL
 */
#include "qcow2/bitmap_dir.h"

#include <inttypes.h>

#include "util/bytes.h"
#include "util/error.h"

int qc2_bitmap_dir_check(const struct qc2_header *h, uint64_t file_size, qchain_error *err)
{
    uint64_t end;

    if (h->n_bitmaps == 0)
        return qc_fail(err, QCHAIN_E_CORRUPT, "bitmaps nb_bitmaps=0: must be at least 1");
    if (h->n_bitmaps > QC2_MAX_BITMAPS)
        return qc_fail(err, QCHAIN_E_LIMIT, "bitmaps nb_bitmaps=%" PRIu32 ": at most %u",
                       h->n_bitmaps, QC2_MAX_BITMAPS);
    if (h->bitmap_dir_size > QC2_BITMAP_MAX_DIR)
        return qc_fail(err, QCHAIN_E_LIMIT,
                       "bitmaps directory_size=%" PRIu64 ": at most 64 MiB", h->bitmap_dir_size);
    if (h->bitmap_dir_offset == 0 || h->bitmap_dir_offset % qc2_cluster_size(h) != 0)
        return qc_fail(err, QCHAIN_E_CORRUPT,
                       "bitmaps directory_offset=%" PRIu64
                       ": must be aligned to a cluster and not 0", h->bitmap_dir_offset);
    if (!qc_add_ok(h->bitmap_dir_offset, h->bitmap_dir_size, &end) || end > file_size)
        return qc_fail(err, QCHAIN_E_CORRUPT,
                       "bitmaps directory_offset=%" PRIu64
                       ": the directory ends past the end of the file", h->bitmap_dir_offset);
    return QCHAIN_OK;
}

static int fault(qchain_error *err, int code, uint32_t number, const char *field, uint64_t value,
                 const char *rule)
{
    return qc_fail(err, code, "bitmap %" PRIu32 " %s=%" PRIu64 ": %s", number, field, value, rule);
}

static int check_table(const struct qc2_bitmap *b, const struct qc2_header *h, uint64_t file_size,
                       uint32_t number, qchain_error *err)
{
    uint64_t bytes = (uint64_t)b->table_size << h->cluster_bits;
    uint64_t end;

    if (b->table_offset == 0 || b->table_offset % qc2_cluster_size(h) != 0)
        return fault(err, QCHAIN_E_CORRUPT, number, "table_offset", b->table_offset,
                     "must be aligned to a cluster and not 0");
    if (b->table_size == 0)
        return fault(err, QCHAIN_E_CORRUPT, number, "table_size", 0, "must be at least 1");
    if (b->table_size > QC2_BITMAP_MAX_TABLE || bytes > QC2_BITMAP_MAX_BYTES)
        return fault(err, QCHAIN_E_LIMIT, number, "table_size", b->table_size,
                     "at most 2^27 entries and 512 MiB");
    if (!qc_add_ok(b->table_offset, UINT64_C(8) * b->table_size, &end) || end > file_size)
        return fault(err, QCHAIN_E_CORRUPT, number, "table_offset", b->table_offset,
                     "the table ends past the end of the file");
    if (!(b->flags & QC2_BITMAP_IN_USE) && h->size > bytes * 8 << b->granularity_bits)
        return fault(err, QCHAIN_E_CORRUPT, number, "table_size", b->table_size,
                     "the bitmap does not cover the disk");
    return QCHAIN_OK;
}

int qc2_bitmap_parse(struct qc2_bitmap *b, const uint8_t *p, const struct qc2_header *h,
                     uint64_t file_size, uint32_t number, qchain_error *err)
{
    b->table_offset = qc_be64(p);
    b->table_size = qc_be32(p + 8);
    b->flags = qc_be32(p + 12);
    b->type = p[16];
    b->granularity_bits = p[17];
    b->name_len = qc_be16(p + 18);
    b->extra_len = qc_be32(p + 20);
    b->bytes = qc_align_up(QC2_BITMAP_FIXED + (uint64_t)b->extra_len + b->name_len, 8);
    if (b->flags & ~(uint32_t)QC2_BITMAP_KNOWN)
        return fault(err, QCHAIN_E_CORRUPT, number, "flags", b->flags, "bits 3 to 31 must be 0");
    if (b->type != 1)
        return fault(err, QCHAIN_E_UNSUPPORTED, number, "type", b->type,
                     "1 (dirty tracking) is known");
    if (b->granularity_bits < 9 || b->granularity_bits > 31)
        return fault(err, QCHAIN_E_LIMIT, number, "granularity_bits", b->granularity_bits,
                     "9 to 31 are known");
    if (b->name_len == 0 || b->name_len > QC2_BITMAP_MAX_NAME)
        return fault(err, QCHAIN_E_CORRUPT, number, "name_size", b->name_len,
                     "must be 1 to 1023");
    return check_table(b, h, file_size, number, err);
}
