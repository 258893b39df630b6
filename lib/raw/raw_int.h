/* SPDX-License-Identifier: MIT */
/* An open raw image, for the files of this room. */
#ifndef QC_RAW_RAW_INT_H
#define QC_RAW_RAW_INT_H

#include "format/write.h"
#include "raw/raw_image.h"

/* A run's length has 32 bits of sectors; longer stretches are cut at a size that
 * every window and every cluster divides. */
#define QC_RAW_RUN_MAX (UINT64_C(1) << 40)

struct qc_raw_image {
    struct qc_image base; /* first */
    bool            discard, unsafe; /* of one that is written */
};

static inline struct qc_raw_image *qc_raw_of(struct qc_image *img)
{
    return (struct qc_raw_image *)img;
}

extern const struct qc_write_ops qc_raw_write_ops;

#endif
