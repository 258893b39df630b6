/* SPDX-License-Identifier: MIT */
/* What layers behind URLs show, brought into the disk cache. */
#ifndef QC_OPS_PREFETCH_H
#define QC_OPS_PREFETCH_H

#include <qchain.h>

/* See qchain_prefetch; the arguments are checked already, n > 0. */
int qc_prefetch(qchain *const *chains, uint32_t n, const qchain_prefetch_opts *o,
                qchain_prefetch_result *result, qchain_error *err);

#endif
