/* SPDX-License-Identifier: MIT */
#ifndef QC_QCOW2_REFCOUNT_BULK_H
#define QC_QCOW2_REFCOUNT_BULK_H

#include "qcow2/writer.h"

/* As qc2_refcount_add for whole clusters, a slice of counts at a time. *one: all of them are known to be 1 now. Lock
 * held. */
int qc2_refcount_add_many(struct qc2_writer *w, uint64_t host, uint64_t length, int delta, bool *one,
                          qchain_error *err);

#endif
