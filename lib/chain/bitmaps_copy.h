/* SPDX-License-Identifier: MIT */
/* Taking the persistent dirty bitmaps of a top layer along into another image. */
#ifndef QC_CHAIN_BITMAPS_COPY_H
#define QC_CHAIN_BITMAPS_COPY_H

#include "chain/chain.h"

/* Could all be copied? skip_broken: those that cannot be trusted are left out. UNSUPPORTED, CORRUPT. */
int qc_bitmaps_check_copy(qchain *from, bool skip_broken, qchain_error *err);
/* Add them to a chain that is open for writing, and has a disk of the same size. */
int qc_bitmaps_copy(qchain *to, qchain *from, bool skip_broken, qchain_error *err);

#endif
