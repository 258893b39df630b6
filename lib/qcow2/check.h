/* SPDX-License-Identifier: MIT */
/*
 * Check and repair of one qcow2 image: a pass of its own over the file's bytes, which shares no table, cache or
 * count with the code that writes images, so that it can be that code's judge.
 */
#ifndef QC_QCOW2_CHECK_H
#define QC_QCOW2_CHECK_H

#include "io/store.h"

enum qc2_check_flags {
    QC2_CHECK_REPAIR_LEAKS = 0x1,
    QC2_CHECK_REPAIR_ALL = 0x2 /* leaks, too */
};

struct qc2_check_opts {
    uint32_t flags;          /* QC2_CHECK_*; to repair, the store must be open for writing */
    uint32_t reserved0;
    uint64_t max_memory;     /* bytes for counts; 0: 1 GiB; beyond it LIMIT */
    /* Told of each thing found, in one sentence; level: QCHAIN_LOG_ERROR for what is wrong, WARN for leaks and
     * what is only worth knowing, INFO for what was mended. May be NULL. */
    void   (*found)(void *data, int level, const char *message);
    void    *found_data;
    /* Asked now and then; a negative code (err set) ends the check. May be NULL. */
    int    (*go_on)(void *data, qchain_error *err);
    void    *go_on_data;
};

/* Numbers as qemu-img check has them. */
struct qc2_check_result {
    uint64_t corruptions, leaks; /* that are there at the end */
    uint64_t corruptions_fixed, leaks_fixed;
    uint64_t check_errors;       /* what could not be read */
    uint64_t total_clusters, allocated_clusters, fragmented_clusters, compressed_clusters;
    uint64_t image_end_offset;
    bool     dirty, corrupt;     /* the header's bits, at the end */
};

/* Check the image in store, which is borrowed; with flags, mend what can be, durably. opts may be NULL. Nobody
 * may write to the store meanwhile. Returns 0 if the check came to its end, whatever it found. Errors:
 * UNSUPPORTED (not qcow2), CORRUPT (a header that makes no sense), LIMIT, IO, NOMEM; READONLY and NOSPACE of
 * repairs, after which the image is no worse than before. */
int qc2_check(struct qc_store *store, const struct qc2_check_opts *opts, struct qc2_check_result *out,
              qchain_error *err);

#endif
