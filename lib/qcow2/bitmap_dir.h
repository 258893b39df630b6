/* SPDX-License-Identifier: MIT */
/* Entries of the directory of persistent bitmaps: no I/O. */
#ifndef QC_QCOW2_BITMAP_DIR_H
#define QC_QCOW2_BITMAP_DIR_H

#include <stddef.h>
#include <stdint.h>
#include <qchain.h>

#include "qcow2/header.h"

#define QC2_BITMAP_FIXED 24u
#define QC2_BITMAP_MAX_NAME 1023u
#define QC2_BITMAP_MAX_DIR (UINT64_C(64) << 20)
#define QC2_BITMAP_MAX_TABLE (1u << 27)            /* entries */
#define QC2_BITMAP_MAX_BYTES (UINT64_C(512) << 20) /* of clusters of bits */

enum qc2_bitmap_flags {
    QC2_BITMAP_IN_USE = 0x1,
    QC2_BITMAP_AUTO = 0x2,
    QC2_BITMAP_EXTRA_COMPATIBLE = 0x4,
    QC2_BITMAP_KNOWN = 0x7
};

struct qc2_bitmap {
    uint64_t table_offset;
    uint32_t table_size; /* entries */
    uint32_t flags;
    uint8_t  type;
    uint8_t  granularity_bits;
    uint16_t name_len;
    uint32_t extra_len; /* lies between the fixed part and the name */
    uint64_t bytes;     /* of the entry, padded */
};

/* Check what the extension says of the directory. */
int qc2_bitmap_dir_check(const struct qc2_header *h, uint64_t file_size, qchain_error *err);

/* Parse the fixed part, QC2_BITMAP_FIXED bytes, and check it. number: of the
 * entry, for messages. */
int qc2_bitmap_parse(struct qc2_bitmap *b, const uint8_t *p, const struct qc2_header *h,
                     uint64_t file_size, uint32_t number, qchain_error *err);

#endif
