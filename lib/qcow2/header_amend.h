/* SPDX-License-Identifier: MIT */
/* Changing what the header of a qcow2 image says. */
#ifndef QC_QCOW2_HEADER_AMEND_H
#define QC_QCOW2_HEADER_AMEND_H

#include "format/format.h"

/* Apply the fields of opts that mask (QCHAIN_AMEND_*, without SIZE) names to an image that is open for writing,
 * flushed, and that nobody else is inside. All of them or, on failure, none. UNSUPPORTED: the image has what
 * cannot be changed; INVAL: the options do not go together, or not with the image. */
int qc2_amend(struct qc_image *img, const qchain_create_opts *opts, uint32_t mask, qchain_error *err);

#endif
