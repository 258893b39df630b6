/* SPDX-License-Identifier: MIT */
/* The L2 tables of a range in a far store: gathered, then read together. */
#ifndef QC_QCOW2_MAP_FAR_H
#define QC_QCOW2_MAP_FAR_H

#include "qcow2/image_int.h"
#include "qcow2/l2.h"

/* A part of one table: where in the file, the disk offset of its first cluster, bytes. */
struct qc2_far_table {
    uint64_t host, guest, bytes;
};

struct qc2_far { /* zeroed to begin with */
    struct qc2_far_table *table;
    size_t                n, cap;
    uint64_t              bytes; /* that will be read, with those between tables */
};

/* Add one; they come in order of the disk. */
int  qc2_far_add(struct qc2_far *f, uint64_t host, uint64_t guest, uint64_t bytes, qchain_error *err);
/* True if so much was gathered that it should be read before more is. */
bool qc2_far_is_full(const struct qc2_far *f);
/* Read, parse, and forget all. */
int  qc2_far_flush(struct qc2_far *f, struct qc2_image *q, const struct qc2_l2 *l2,
                   struct qc_runs *out, qchain_error *err);
void qc2_far_finish(struct qc2_far *f);

/* The format's read_ahead. */
void qc2_read_ahead(struct qc_image *img);

#endif
