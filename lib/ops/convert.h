/* SPDX-License-Identifier: MIT */
/* Copying a disk to an image of its own. */
#ifndef QC_OPS_CONVERT_H
#define QC_OPS_CONVERT_H

#include "chain/chain.h"

/* See qchain_convert; the arguments are checked, and o's create and open are complete. */
int qc_convert(qchain *source, const char *name, const qchain_convert_opts *o, qchain_job_result *done,
               qchain_error *err);

/* convert_share.c */

/* Stretches of a disk, in order. */
struct qc_ranges {
    struct qc_range {
        uint64_t start, end;
    }     *r;
    size_t n, cap;
};

/* Let the raw image `to` have what files of `from` hold by sharing it, where the file system can do that; with `copy`
 * also by letting it copy. is_zero: `to` reads as zeros. *shared: bytes; what could not be is put to left. */
int qc_convert_share(qchain *from, qchain *to, bool is_zero, bool copy, qchain_job *job, struct qc_ranges *left,
                     uint64_t *shared, qchain_error *err);

#endif
