/* SPDX-License-Identifier: MIT */
/* Entries of L2 tables, turned into runs: no I/O. */
#ifndef QC_QCOW2_L2_H
#define QC_QCOW2_L2_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <qchain.h>

#include "format/run.h"

#define QC2_OFFSET_MASK UINT64_C(0x00fffffffffffe00) /* of L1 and L2 entries */
#define QC2_COPIED (UINT64_C(1) << 63)
#define QC2_COMPRESSED (UINT64_C(1) << 62)
#define QC2_ZERO UINT64_C(1)

/* What a parser must know of the image and of the range asked for. */
struct qc2_l2 {
    unsigned cluster_bits;
    bool     extended;     /* 16-byte entries with subclusters */
    bool     zero_flag;    /* version 3 */
    bool     data_file;    /* data is in an external file, at its guest offset */
    bool     salvage;      /* clusters past the end read as zeros */
    uint64_t file_size;    /* of the image; data must begin before it */
    uint64_t virtual_size;
    uint64_t start, end;   /* runs are clipped to it */
};

static inline unsigned qc2_l2_entry_bits(const struct qc2_l2 *g)
{
    return g->extended ? 4 : 3;
}

/* Append the runs of n entries, raw as in the file, 8-byte aligned, to out.
 * guest: where on the disk the first one's cluster begins; host: where in the file
 * the first one lies, for messages. All of them have a part of [start, end).
 * CORRUPT or NOMEM; out may then hold some. */
int qc2_l2_parse(const struct qc2_l2 *g, const uint64_t *raw, size_t n, uint64_t guest,
                 uint64_t host, struct qc_runs *out, qchain_error *err);

#endif
