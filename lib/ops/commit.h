/* SPDX-License-Identifier: MIT */
#ifndef QC_OPS_COMMIT_H
#define QC_OPS_COMMIT_H

#include <qchain.h>

/* See qchain_commit; the arguments are checked. open: its flags as well. */
int qc_commit(qchain_env *env, const char *name, const qchain_commit_opts *opts, const qchain_open_opts *open,
              qchain_job_result *result, qchain_error *err);

#endif
