/* SPDX-License-Identifier: MIT */
#ifndef QC_OPS_COMPARE_H
#define QC_OPS_COMPARE_H

#include <qchain.h>

/* See qchain_compare; flags are checked. */
int qc_compare(qchain *a, qchain *b, qchain_compare_opts *opts, qchain_error *err);

#endif
