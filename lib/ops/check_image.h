/* SPDX-License-Identifier: MIT */
/* Checking one image by its name. */
#ifndef QC_OPS_CHECK_IMAGE_H
#define QC_OPS_CHECK_IMAGE_H

#include <qchain.h>

/* opts and open are checked already; open's flags say nothing of writing. */
int qc_check(qchain_env *env, const char *name, const qchain_check_opts *opts,
             const qchain_open_opts *open, qchain_check_result *out, qchain_error *err);

#endif
