/* SPDX-License-Identifier: MIT */
/* A few bits for each of some clusters: a hash table. */
#ifndef QC_QCOW2_CLUSTER_MAP_H
#define QC_QCOW2_CLUSTER_MAP_H

#include <stddef.h>
#include <stdint.h>

struct qc2_cmap_entry {
    uint64_t cluster;
    uint32_t bits; /* 0: the entry is free */
};

/* All zeros is an empty one. */
struct qc2_cmap {
    struct qc2_cmap_entry *e;
    size_t cap; /* a power of two, or 0 */
    size_t n;
    uint64_t multiplier; /* of the hash */
};

void     qc2_cmap_finish(struct qc2_cmap *m);
/* 0: not there. */
uint32_t qc2_cmap_get(const struct qc2_cmap *m, uint64_t cluster);
/* Set some bits. 0 or QCHAIN_E_NOMEM, with nothing changed. */
int      qc2_cmap_add(struct qc2_cmap *m, uint64_t cluster, uint32_t bits);
/* Clear some bits. */
void     qc2_cmap_remove(struct qc2_cmap *m, uint64_t cluster, uint32_t bits);
/* Who goes through m->e[] may change bits; if he makes some 0, this follows. */
void     qc2_cmap_tidy(struct qc2_cmap *m);

#endif
