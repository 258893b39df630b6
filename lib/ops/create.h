/* SPDX-License-Identifier: MIT */
/* Making images, and telling how large they would be. */
#ifndef QC_OPS_CREATE_H
#define QC_OPS_CREATE_H

#include "chain/env.h"
#include "qcow2/new_image.h"

/* What options of a caller say, with defaults filled in; the size is not looked at. INVAL, UNSUPPORTED (a format that
 * is not known). */
int qc_create_parse(struct qc2_create_opts *out, bool *raw, const qchain_create_opts *o,
                    qchain_error *err);
/* *size rounded up to 512. LIMIT. */
int qc_create_round(uint64_t *size, qchain_error *err);

/* See qchain_create. */
int qc_create(qchain_env *env, const char *name, const qchain_create_opts *o, qchain_error *err);
/* See qchain_measure. source: NULL, an empty disk. */
int qc_measure(qchain *source, const qchain_create_opts *o, qchain_measure_result *out,
               qchain_error *err);

#endif
