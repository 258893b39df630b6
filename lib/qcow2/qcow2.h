/* SPDX-License-Identifier: MIT */
/* qcow2, versions 2 and 3, for reading. */
#ifndef QC_QCOW2_QCOW2_H
#define QC_QCOW2_QCOW2_H

#include "format/format.h"

extern const struct qc_format qc_qcow2_format;

#endif
