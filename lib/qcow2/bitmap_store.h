/* SPDX-License-Identifier: MIT */
/* Persistent dirty bitmaps in the file: bitmap_read.c, bitmap_write.c. The slots of format/write.h. */
#ifndef QC_QCOW2_BITMAP_STORE_H
#define QC_QCOW2_BITMAP_STORE_H

#include "qcow2/bitmap_dir.h"
#include "qcow2/writer.h"

/* An entry of a bitmap table: where a cluster of bits lies, or 0 and what it is instead. */
#define QC2_BITMAP_OFFSET UINT64_C(0x00fffffffffffe00)
#define QC2_BITMAP_ONES UINT64_C(1)

/* CORRUPT if it has reserved bits, or no cluster inside the file. */
int qc2_bitmap_entry_check(const struct qc2_image *q, uint64_t entry, uint64_t place, qchain_error *err);
/* Entries that the table of a bitmap with so many bits has. */
uint64_t qc2_bitmap_clusters(const struct qc2_image *q, uint64_t n_bits);

/* Called for each entry of a table, in order. */
typedef int (*qc2_bitmap_entry_fn)(void *data, uint32_t number, uint64_t entry, uint64_t place, qchain_error *err);
int qc2_bitmap_table_walk(struct qc2_image *q, uint64_t host, uint32_t n, qc2_bitmap_entry_fn fn, void *data,
                          qchain_error *err);

int qc2_bitmaps_list(struct qc_image *img, struct qc_bitmap_list *out, qchain_error *err);
int qc2_bitmap_load(struct qc_image *img, struct qc_bitmap_list *list, struct qc_bitmap *b, qchain_error *err);
int qc2_bitmap_fits(struct qc_image *img, const struct qc_bitmap_list *list, uint32_t granularity_bits,
                    uint64_t disk, size_t more, qchain_error *err);
int qc2_bitmaps_mark(struct qc_image *img, const struct qc_bitmap_list *list, bool all, qchain_error *err);
int qc2_bitmaps_store(struct qc_image *img, struct qc_bitmap_list *list, qchain_error *err);

#endif
