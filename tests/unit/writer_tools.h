/* SPDX-License-Identifier: MIT */
/* What tests of the qcow2 writer share: small images, a mapping of whole clusters, and a verdict on an image. */
#ifndef QC_TESTS_WRITER_TOOLS_H
#define QC_TESTS_WRITER_TOOLS_H

#include "qcow2/writer.h"
#include "rec_store.h"

/* An image that is open for writing. */
struct subject {
    struct rec_store  *rec;
    struct qc_store   *store;
    struct qc_image   *img;
    struct qc2_image  *q;
    struct qc2_writer *w;
    struct qc_slots   *slots;
};

/* Make an empty image in r. */
void image_make(struct rec_store *r, uint32_t version, unsigned cluster_bits, unsigned order, uint64_t disk);
/* Open what is in r. 0, or the code of what failed. */
int  subject_open(struct subject *s, struct rec_store *r, const struct qc_write_opts *opts, qchain_error *err);
/* end: as a user would; else as if the process died. Returns what ending did. */
int  subject_close(struct subject *s, bool end, qchain_error *err);

/* Give a cluster of the disk a new place, with its tag written to it, in place of the one it had. */
int  map_cluster(struct subject *s, uint64_t guest, qchain_error *err);
/* The same, with something done between the allocation and the writing. */
int  map_cluster_slowly(struct subject *s, uint64_t guest, int (*between)(struct qc2_writer *, qchain_error *),
                        qchain_error *err);
int  unmap_cluster(struct subject *s, uint64_t guest, qchain_error *err);

/* What is wrong with an image: bytes[0, size). */
struct verdict {
    char     damage[256]; /* "" if none */
    uint64_t leaks;       /* counts that are too high, all summed up */
    uint64_t mapped;      /* clusters */
};
void image_check(const uint8_t *bytes, uint64_t size, struct verdict *v);

#endif
