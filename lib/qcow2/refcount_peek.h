/* SPDX-License-Identifier: MIT */
/* Many refcounts, of clusters in any order, as they are in the file: everything was flushed before. */
#ifndef QC_QCOW2_REFCOUNT_PEEK_H
#define QC_QCOW2_REFCOUNT_PEEK_H

#include "qcow2/writer.h"

struct qc2_peek {
    struct qc2_writer *w;
    unsigned           block_bits; /* clusters that a refcount block counts */
    uint64_t           n;          /* blocks there can be */
    uint64_t          *table;      /* the refcount table as in the file */
    uint8_t          **block;      /* those read */
    uint64_t           bytes;      /* in them */
};

int  qc2_peek_start(struct qc2_peek *p, struct qc2_writer *w, qchain_error *err);
void qc2_peek_end(struct qc2_peek *p);
int  qc2_peek_is_one(struct qc2_peek *p, uint64_t host, bool *one, qchain_error *err);

#endif
