/* SPDX-License-Identifier: MIT */
/*
 * All that hangs on an L1 table, at once: for snapshots, while nobody else is inside. The L2 tables are read
 * from the file and written there in large pieces, past the memory for slices: everything was flushed before.
 * All with the writer's lock held.
 */
#ifndef QC_QCOW2_SNAPSHOT_TREE_H
#define QC_QCOW2_SNAPSHOT_TREE_H

#include "qcow2/writer.h"

/* An L1 table, as numbers; flags do not matter. */
struct qc2_tree {
    const uint64_t *l1;
    uint32_t        n;
};

/* Count all L2 tables and clusters down by 1. If that fails some counts are too high. CORRUPT if a table is not
 * sound. */
int qc2_tree_drop(struct qc2_writer *w, const struct qc2_tree *t, qchain_error *err);

/* Count all up by 1, and clear COPIED in the tables: nothing that hangs on them is only one tree's any more. If that
 * fails the counts are as they were, but COPIED may be missing: qc2_tree_regain, after a flush. CORRUPT if a table
 * is not sound. */
int qc2_tree_join(struct qc2_writer *w, const struct qc2_tree *t, qchain_error *err);

/* Count all down as qc2_tree_drop does, and set COPIED at once in tables that are the active tree's as well and are, with
 * all they refer to, the disk's alone now; of the others qc2_tree_regain sees to it. settled: t->n zeros; receives
 * the tables that are done. */
int qc2_tree_leave(struct qc2_writer *w, const struct qc2_tree *t, uint64_t *settled, qchain_error *err);

/* Some of the active tree is the image's alone again, below those slots that `by` has, too: set COPIED where a
 * refcount is 1. */
int qc2_tree_regain(struct qc2_writer *w, const struct qc2_tree *by, qchain_error *err);

#endif
