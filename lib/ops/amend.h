/* SPDX-License-Identifier: MIT */
/* Changing options of an image. */
#ifndef QC_OPS_AMEND_H
#define QC_OPS_AMEND_H

#include <qchain.h>

/* See qchain_amend; mask has known bits only. */
int qc_amend(qchain *c, const qchain_create_opts *o, uint32_t mask, qchain_error *err);

#endif
