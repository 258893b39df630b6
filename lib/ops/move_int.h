/* SPDX-License-Identifier: MIT */
/* Inside of moving: what its workers share. */
#ifndef QC_OPS_MOVE_INT_H
#define QC_OPS_MOVE_INT_H

#include <stdatomic.h>

#include "ops/copy.h"
#include "ops/move.h"

struct qc_mover {
    struct qc_move      *m;
    uint64_t             unit;      /* of the target */
    uint64_t             zero_unit;
    size_t               room;      /* bytes each worker has to compare */
    atomic_uint_fast64_t copied, zeroed, compressed, compared;
};

int qc_move_put_zeros(struct qc_mover *v, uint64_t offset, uint64_t length, qchain_error *err);
int qc_move_put_data(struct qc_mover *v, const char *buf, uint64_t offset, uint64_t length, qchain_error *err);
/* Put what differs from the disk that is compared with. buf is NULL for zeros; room: the worker's. */
int qc_move_compare(struct qc_mover *v, const char *buf, uint64_t offset, uint64_t length, char *room,
                    qchain_error *err);
/* Move the streams of a segment. */
int qc_move_put_streams(struct qc_mover *v, const struct qc_copy_task *t, const struct qc_segment *g,
                        qchain_error *err);

#endif
