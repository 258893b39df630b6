/* SPDX-License-Identifier: MIT */
/* Reading tables whose entries vary in length, a window at a time. */
#ifndef QC_QCOW2_TABLE_WALK_H
#define QC_QCOW2_TABLE_WALK_H

#include "qcow2/bitmap_dir.h"
#include "qcow2/image_int.h"
#include "qcow2/snapshot_table.h"

/* Called for each entry; what they point to is gone afterwards. A negative code
 * ends the walk, which returns it. */
typedef int (*qc2_snapshot_fn)(void *data, const struct qc2_snapshot *s, qchain_error *err);
typedef int (*qc2_bitmap_fn)(void *data, const struct qc2_bitmap *b, const char *name,
                             qchain_error *err);

int qc2_each_snapshot(struct qc2_image *q, qc2_snapshot_fn fn, void *data, qchain_error *err);
int qc2_each_bitmap(struct qc2_image *q, qc2_bitmap_fn fn, void *data, qchain_error *err);

#endif
