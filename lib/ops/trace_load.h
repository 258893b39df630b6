/* SPDX-License-Identifier: MIT */
/* Traces read, put in order, and written. */
#ifndef QC_OPS_TRACE_LOAD_H
#define QC_OPS_TRACE_LOAD_H

#include <stddef.h>
#include <qchain.h>

/* See qchain_trace_load and _save; the arguments are checked already. t is zeros, and to be finished in any case. */
int  qc_trace_load(qchain_trace *t, qchain_env *env, const char *const *names, uint32_t n,
                   const qchain_trace_load_opts *o, qchain_error *err);
void qc_trace_finish(qchain_trace *t);
int  qc_trace_save(const qchain_trace *t, const char *path, qchain_error *err);

/* Of n records in order of time, all of them right, what no earlier one has: each byte once, in order of the record
 * that has it first, within it by offset; each counts as one read. At most 2 * n; *out is to be freed with qc_free.
 * NOMEM. */
int qc_trace_distinct(const qchain_trace_record *r, size_t n, qchain_trace_record **out, size_t *n_out,
                      qchain_error *err);

#endif
