/* SPDX-License-Identifier: MIT */
#ifndef QC_OPS_CHECKSUM_H
#define QC_OPS_CHECKSUM_H

#include <qchain.h>

/* See qchain_checksum. */
int qc_checksum(qchain *c, uint8_t digest[32], uint32_t threads, qchain_job *job,
                qchain_error *err);

#endif
