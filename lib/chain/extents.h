/* SPDX-License-Identifier: MIT */
/* Runs told as the public extents, with holes found in local files. */
#ifndef QC_CHAIN_EXTENTS_H
#define QC_CHAIN_EXTENTS_H

#include <stdbool.h>

#include "chain/chain.h"

/* A caller's array that is being filled. */
struct qc_extents {
    qchain        *c;
    qchain_extent *out;
    uint32_t       max, n;
    uint32_t       flags;      /* QCHAIN_MAP_* */
    bool           full;       /* the next piece did not fit */
    /* The stretch of a file that was looked at last. */
    const struct qc_store *looked_at;
    qchain_store_extent     stretch;
};

/* Put run r, cut to [*offset, end); *offset moves on to the end of what was put,
 * less than the run's end when the array is full. */
int qc_extents_put(struct qc_extents *x, const struct qc_run *r, uint64_t *offset, uint64_t end,
                   qchain_error *err);

#endif
