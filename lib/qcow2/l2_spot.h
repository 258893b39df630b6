/* SPDX-License-Identifier: MIT */
/* Finding an entry of an L2 table to look at or to change it; all with the writer's lock held. */
#ifndef QC_QCOW2_L2_SPOT_H
#define QC_QCOW2_L2_SPOT_H

#include "qcow2/l2_entry.h"
#include "qcow2/writer.h"

/* The entry of one cluster, and those after it in its slice. */
struct qc2_spot {
    struct qc2_slice *slice; /* pinned; NULL: there is no table */
    uint64_t *raw;
    uint64_t  host;      /* where the entry lies, for messages */
    uint64_t  guest;     /* where its cluster begins on the disk */
    uint64_t  end;       /* and where those end that the slice tells of, */
    uint64_t  table_end; /* and the table */
};

/* What a parser must know to look at entries of [offset, offset + length). */
void qc2_spot_geometry(const struct qc2_writer *w, uint64_t offset, uint64_t length, struct qc2_l2 *g);

int  qc2_spot_find(struct qc2_writer *w, uint64_t offset, struct qc2_spot *s, qchain_error *err);
/* The same, and the table is one that may be changed: it is made, or copied if a snapshot has it, too. */
int  qc2_spot_make(struct qc2_writer *w, uint64_t offset, struct qc2_spot *s, qchain_error *err);
void qc2_spot_leave(struct qc2_writer *w, struct qc2_spot *s);

/* CORRUPT if the i-th entry from the spot on is not sound. */
int  qc2_spot_check(const struct qc2_l2 *g, const struct qc2_spot *s, size_t i, qchain_error *err);

/* Clusters that nothing refers to any more, put together to stretches. Begin with zeros. */
struct qc2_gone {
    uint64_t host, length;
};
/* What the entry referred to. */
void qc2_gone_add(struct qc2_writer *w, const struct qc2_l2 *g, struct qc2_gone *gone, struct qc2_entry e);
/* Free the last stretch. */
void qc2_gone_end(struct qc2_writer *w, struct qc2_gone *gone);

#endif
