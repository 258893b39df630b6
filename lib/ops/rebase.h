/* SPDX-License-Identifier: MIT */
/* Letting the top of a chain stand on another backing file. */
#ifndef QC_OPS_REBASE_H
#define QC_OPS_REBASE_H

#include <stdbool.h>
#include <qchain.h>

/* See qchain_rebase; the options are checked. */
int qc_rebase(qchain *c, const qchain_rebase_opts *o, qchain_job_result *out, qchain_error *err);

/* See qchain_stream, qchain_merge and qchain_delete_layer. */
int qc_stream(qchain *c, uint32_t base, qchain_job *job, qchain_job_result *out, qchain_error *err);
int qc_merge(qchain *c, uint64_t limit, qchain_job *job, qchain_job_result *out, qchain_error *err);
int qc_delete_layer(qchain_env *env, const char *layer, const char *const *children, uint32_t n, bool remove,
                    const qchain_open_opts *opts, qchain_job *job, qchain_job_result *out, qchain_error *err);

/* ---- between them ---- */

/* Begin to change what the top stands on, which only one may do: READONLY, UNSUPPORTED, BUSY; INVAL if it was done
 * before with this handle. */
int  qc_restack_begin(qchain *c, const char *what, qchain_error *err);
void qc_restack_end(qchain *c);
/* Move what layers [1, below) hold and the top does not hide into the top. flags: QC_MOVE_*. */
int qc_restack_move(qchain *c, uint32_t below, uint32_t flags, uint32_t threads, qchain *against, qchain_job *job,
                    qchain_job_result *out, qchain_error *err);
/* All that was written is made durable; then the header names another backing file, of so many bytes. */
int qc_restack_switch(qchain *c, const char *name, const char *format, uint64_t size, qchain_error *err);

#endif
