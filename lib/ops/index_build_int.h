/* SPDX-License-Identifier: MIT */
/* Inside of building a sidecar: what its files share. */
#ifndef QC_OPS_INDEX_BUILD_INT_H
#define QC_OPS_INDEX_BUILD_INT_H

#include <sys/types.h>

#include "chain/index_file.h"
#include "ops/index_build.h"

struct qc_builder {
    qchain                  *c;
    const qchain_index_opts *opts;
    uint64_t                 began_ns;
    struct qc_ixf            x;        /* what will be written; pages: offsets from the first */
    size_t                   cap_pages;
    struct qc_ixf_buf        page;     /* the open page */
    uint64_t                 page_start;
    struct qc_ixf_encoder    encoder;
    struct qc_ixf_buf        done;     /* ended pages that are not in the spill file */
    uint64_t                 done_bytes;
    int                      spill;    /* an unnamed file, -1: none yet */
    uint64_t                 spilled;
    mode_t                   readers;  /* permission bits to read that all files have */
    qchain_error            *err;
};

/* index_table.c */

/* UNSUPPORTED: why a layer's chain cannot have a sidecar. */
int qc_build_refuse(struct qc_builder *b, uint32_t layer, const char *why);
/* Fill in b->x.source, and the header's counts. */
int qc_build_table(struct qc_builder *b);
/* Wait until no change could leave a modification time as it is. */
int qc_build_wait(struct qc_builder *b);
/* Are the files what they were when they were opened? Else CHANGED. */
int qc_build_look_again(struct qc_builder *b);
/* ns since the epoch */
uint64_t qc_build_now(void);

#endif
