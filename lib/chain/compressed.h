/* SPDX-License-Identifier: MIT */
/* Compressed clusters: fetched in stretches, decoded on several threads. */
#ifndef QC_CHAIN_COMPRESSED_H
#define QC_CHAIN_COMPRESSED_H

#include <stdbool.h>
#include <qchain.h>

#include "format/run.h"

/* One piece of a cluster that a read wants. */
struct qc_decode_piece {
    struct qc_run run;
    uint64_t      offset; /* guest */
    void         *buf;
    size_t        length;
};

struct qc_decode_list {
    struct qc_decode_piece *piece;
    size_t                  n, cap;
};

void qc_decode_init(struct qc_decode_list *l);
void qc_decode_finish(struct qc_decode_list *l);
/* Note a piece of run r: [offset, offset + length) into buf. */
int qc_decode_add(struct qc_decode_list *l, const struct qc_run *r, uint64_t offset, void *buf,
                  size_t length);
/* Read and decode all pieces. serial: on this thread. On failure the buffers
 * hold zeros or decoded bytes, never garbage. */
int qc_decode_run(qchain *c, struct qc_decode_list *l, bool serial, qchain_error *err);

#endif
