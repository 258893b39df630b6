/* SPDX-License-Identifier: MIT */
/* An open qcow2 image, for the files of this room. */
#ifndef QC_QCOW2_IMAGE_INT_H
#define QC_QCOW2_IMAGE_INT_H

#include <pthread.h>
#include <stdatomic.h>

#include "format/format.h"
#include "qcow2/header.h"

/* Which L1 slots are in use. A small table is kept whole; of a large one, a bit
 * for each group of slots, so that an image takes at most 4 KiB. */
struct qc2_l1_map {
    uint32_t n_slots; /* those that the disk needs */
    uint8_t  shift;   /* a bit stands for 2^shift slots */
    bool     whole;   /* word[] holds the masked entries themselves */
    uint64_t word[];
};

#define QC2_L1_WHOLE 256u  /* entries */
#define QC2_L1_BITS 32768u /* bits */

struct qc2_image {
    struct qc_image      base; /* first */
    struct qc2_header    header;
    const struct qc_log *log;
    bool                 salvage;
    uint64_t             l1_offset; /* of the active table or the snapshot's */
    uint32_t             l1_size;
    pthread_mutex_t      lock;                /* guards the building of l1_map */
    _Atomic(struct qc2_l1_map *) l1_map;      /* built at the first need, then constant */
    atomic_int           holes;               /* 0: not yet known, 1: no, 2: yes */
    struct qc2_writer   *writer;              /* NULL: open for reading */
};

static inline struct qc2_image *qc2_of(struct qc_image *img)
{
    return (struct qc2_image *)img;
}

static inline struct qc2_limits qc2_limits_of(const struct qc2_image *q)
{
    return (struct qc2_limits){q->base.store->size, q->salvage};
}

/* Flags for reading metadata. */
static inline uint32_t qc2_meta_flags(const struct qc2_image *q)
{
    return QC_READ_META | (q->salvage ? QC_READ_PAST_END : 0u);
}

/* image.c */
/* Read the header again: somebody changed it. Names stay. */
int qc2_reload_header(struct qc2_image *q, qchain_error *err);

/* l1_table.c */
int qc2_l1_get(struct qc2_image *q, const struct qc2_l1_map **out, qchain_error *err);
/* The first slot >= slot that may be in use; n_slots if none. */
uint32_t qc2_l1_next(const struct qc2_l1_map *m, uint32_t slot);
/* Read n entries from slot on: masked to the offset of their L2 table. */
int qc2_l1_read(struct qc2_image *q, uint64_t *entry, uint32_t slot, uint32_t n,
                qchain_error *err);

/* map.c */
int qc2_map(struct qc_image *img, uint64_t offset, uint64_t length, struct qc_runs *out,
            qchain_error *err);
int qc2_next_used(struct qc_image *img, uint64_t offset, uint64_t *used, qchain_error *err);

/* holes.c */
int qc2_may_have_holes(struct qc_image *img, bool *holes, qchain_error *err);

/* decode.c */
struct qc_decoder *qc2_decoder_create(const struct qc_image *img);
void qc2_decoder_destroy(struct qc_decoder *d);
int qc2_decode(struct qc_decoder *d, void *out, size_t out_len, const void *in, size_t in_len,
               qchain_error *err);

/* describe.c */
int qc2_describe(struct qc_image *img, qchain_image_info *info, qchain_error *err);

#endif
