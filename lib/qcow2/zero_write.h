/* SPDX-License-Identifier: MIT */
#ifndef QC_QCOW2_ZERO_WRITE_H
#define QC_QCOW2_ZERO_WRITE_H

#include "qcow2/writer.h"

/* Make the clusters of [start, end), whole ones of the disk or of what lies beyond it, absent. */
int qc2_drop(struct qc2_writer *w, uint64_t start, uint64_t end, qchain_error *err);

#endif
