/* SPDX-License-Identifier: MIT */
/* The parts of one read that lie in far stores: gathered, then waited for together. */
#ifndef QC_CHAIN_FAR_READ_H
#define QC_CHAIN_FAR_READ_H

#include "chain/chain.h"

struct qc_far_list { /* zeroed to begin with */
    struct qc_store_piece *piece;
    uint16_t              *source; /* one a piece */
    size_t                 n, cap, cap_source;
    bool                   exact; /* no more than the pieces */
};

/* Add pieces that follow each other in a store from host on. */
int  qc_far_add(struct qc_far_list *l, struct qc_store *store, uint16_t source, const qchain_iov *iov,
                size_t n, uint64_t host, qchain_error *err);
/* Read all; says which layer it was. */
int  qc_far_read(qchain *c, struct qc_far_list *l, qchain_error *err);
void qc_far_finish(struct qc_far_list *l);

#endif
