/* SPDX-License-Identifier: MIT */
/* Space for what will be written later. */
#ifndef QC_FORMAT_RESERVE_H
#define QC_FORMAT_RESERVE_H

#include "io/store.h"

/* Prepare [offset, offset + length) of a store, which reads as zeros if it is new. how: QCHAIN_PREALLOC_*: FALLOC
 * makes the medium keep space for it, FULL writes zeros; others do nothing. */
int qc_reserve(struct qc_store *store, uint64_t length, uint64_t offset, uint32_t how, qchain_error *err);

#endif
