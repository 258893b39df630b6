/* SPDX-License-Identifier: MIT */
/* New qcow2 images. */
#ifndef QC_QCOW2_NEW_IMAGE_H
#define QC_QCOW2_NEW_IMAGE_H

#include "io/store.h"
#include "qcow2/header.h"

struct qc2_create_opts {
    uint64_t    size;           /* of the disk, a multiple of 512 */
    uint32_t    version;        /* 2 or 3 */
    uint64_t    cluster_size;
    uint32_t    refcount_bits;
    uint32_t    compression;    /* QCHAIN_COMPRESSION_* */
    uint32_t    preallocation;  /* QCHAIN_PREALLOC_* */
    bool        extended_l2, lazy_refcounts, data_file_raw;
    bool        in_place;       /* the store holds other bytes now, and has the size it has */
    const char *backing_file, *backing_format, *data_file; /* NULL: none */
};

/* Where the parts of a new image lie: header, refcount table, refcount blocks, L1 table, L2 tables, data. In
 * clusters, but for the entries. */
struct qc2_layout {
    unsigned cluster_bits, refcount_order;
    uint64_t l1_entries, disk_clusters;
    uint64_t reftable, n_reftable;
    uint64_t blocks, n_blocks;
    uint64_t l1, n_l1;
    uint64_t l2, n_l2;
    uint64_t data, n_data; /* within the image's own file */
    uint64_t end;
};

/* Whether the options go together. INVAL with which of them does not. */
int qc2_create_check(const struct qc2_create_opts *o, qchain_error *err);
/* Lay out the image of options that were checked. LIMIT: too large for its clusters. */
int qc2_create_layout(struct qc2_layout *l, const struct qc2_create_opts *o, qchain_error *err);

/* Write a new image. data: the store of its external data file, or NULL; it is made as long as the disk, what it
 * holds stays. In place: the old content stops being an image first, and the new one is there last, both
 * durable; else nothing is made durable here. */
int qc2_create(struct qc_store *store, struct qc_store *data, const struct qc2_create_opts *o,
               qchain_error *err);

#endif
