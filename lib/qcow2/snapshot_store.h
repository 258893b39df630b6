/* SPDX-License-Identifier: MIT */
/* The table of internal snapshots, as a whole in memory, and written anew as a whole. With the writer's lock held. */
#ifndef QC_QCOW2_SNAPSHOT_STORE_H
#define QC_QCOW2_SNAPSHOT_STORE_H

#include "qcow2/snapshot_table.h"
#include "qcow2/writer.h"

struct qc2_snapshots {
    uint8_t *raw;   /* entries as in the file: what is not known of them stays */
    size_t   bytes, cap;
    uint32_t n;
    uint64_t host;  /* where it lies now; 0: nowhere */
    uint64_t host_bytes;
};

/* All zeros before. The entries are sound; their L1 tables were not looked at. */
int  qc2_snapshots_load(struct qc2_writer *w, struct qc2_snapshots *t, qchain_error *err);
void qc2_snapshots_finish(struct qc2_snapshots *t);

/* Find by id, or else by name; *at: where the entry begins. NOTFOUND. */
int  qc2_snapshots_find(struct qc2_writer *w, const struct qc2_snapshots *t, const char *key,
                        struct qc2_snapshot *out, size_t *at, qchain_error *err);
/* Append one; its id is a number higher than all there are. LIMIT, NOMEM. */
int  qc2_snapshots_add(struct qc2_snapshots *t, const struct qc_snapshot_new *s, uint64_t l1_offset,
                       uint32_t l1_size, uint64_t disk_size, qchain_error *err);
void qc2_snapshots_remove(struct qc2_snapshots *t, size_t at, uint64_t bytes);

/* Write the table to a new place, not referred to yet: *host, 0 if it is empty. */
int  qc2_snapshots_write(struct qc2_writer *w, const struct qc2_snapshots *t, uint64_t *host,
                         qchain_error *err);
/* Give that place back. */
void qc2_snapshots_unwrite(struct qc2_writer *w, const struct qc2_snapshots *t, uint64_t host);
/* All is flushed: let the header refer to it, durably, and free the old place. On failure it is not known which
 * one it refers to, and writing stops. */
int  qc2_snapshots_switch(struct qc2_writer *w, const struct qc2_snapshots *t, uint64_t host,
                          qchain_error *err);

#endif
