/* SPDX-License-Identifier: MIT */
#ifndef QC_OPS_COPYOUT_H
#define QC_OPS_COPYOUT_H

#include <qchain.h>

/* See qchain_copy_out; flags are checked, opts is the library's copy. */
int qc_copy_out(qchain *c, const qchain_sink *sink, qchain_copy_opts *opts, qchain_error *err);

#endif
