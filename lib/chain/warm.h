/* SPDX-License-Identifier: MIT */
/* While the next layer of a far chain is opened, metadata that the first read will need is read. */
#ifndef QC_CHAIN_WARM_H
#define QC_CHAIN_WARM_H

#include "chain/chain.h"

/* Begin to read what layer k's first window needs, if it lies far away. Its image is open. */
void qc_warm_layer(qchain *c, uint32_t k);
/* The chain is being closed: what has not begun is left out, what waits for a server is given up. */
void qc_warm_end(qchain *c);

#endif
