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

/* An image that is being made. It has all that an empty one has, and no name yet, unless it is a device. o and err are
 * borrowed until its end. */
struct qc_creating;

int  qc_create_begin(struct qc_creating **out, qchain_env *env, const char *name, const qchain_create_opts *o,
                     qchain_error *err);
/* A device, or the like, that holds what it held where nothing was written yet. */
bool qc_create_in_place(const struct qc_creating *c);
/* Open it for writing, with the image's name; flags: QCHAIN_OPEN_*. To be closed before the next. */
int  qc_create_open(struct qc_creating *c, uint32_t flags, qchain **out, qchain_error *err);
/* Give it its name; durable: with all that was written to it. */
int  qc_create_commit(struct qc_creating *c, bool durable, qchain_error *err);
/* What was not committed is removed. NULL is fine. */
void qc_create_end(struct qc_creating *c);

/* See qchain_create. */
int qc_create(qchain_env *env, const char *name, const qchain_create_opts *o, qchain_error *err);
/* See qchain_measure. source: NULL, an empty disk. */
int qc_measure(qchain *source, const qchain_create_opts *o, qchain_measure_result *out,
               qchain_error *err);

#endif
