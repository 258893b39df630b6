/* SPDX-License-Identifier: MIT */
/* Persistent dirty bitmaps of an image, as they are in memory. */
#ifndef QC_FORMAT_BITMAP_H
#define QC_FORMAT_BITMAP_H

#include "format/bits.h"

#define QC_BITMAP_NEW UINT32_MAX

struct qc_bitmap {
    char       *name;      /* name_len bytes, and a NUL */
    uint32_t    name_len;
    uint32_t    granularity_bits;
    bool        enabled;   /* it follows the disk */
    bool        in_use;    /* was not stored when it should have been: it can only be removed */
    bool        foreign;   /* has more than we know of, without which it is not to be used */
    bool        mark;      /* to bitmaps_mark */
    atomic_bool changed;   /* the file says something else of it */
    struct qc_bits *bits;  /* NULL: not loaded */
    uint32_t    slot;      /* the number that it has in the file; QC_BITMAP_NEW: none */
    uint64_t    host;      /* the format's: where its table lies, */
    uint32_t    host_entries; /* and how many entries it has */
};

struct qc_bitmap_list {
    struct qc_bitmap **b;
    size_t   n, cap;
    uint64_t disk;    /* bytes that the bits stand for */
    uint64_t loaded;  /* bytes of the file that were loaded */
};

static inline uint64_t qc_bitmap_bits(uint64_t disk, uint32_t granularity_bits)
{
    return (disk >> granularity_bits) + ((disk & ((UINT64_C(1) << granularity_bits) - 1)) != 0);
}

/* Append one that is all zeros but for its name; NULL: no memory. */
struct qc_bitmap *qc_bitmap_append(struct qc_bitmap_list *l, const char *name, size_t name_len);
void qc_bitmap_remove(struct qc_bitmap_list *l, size_t i);
void qc_bitmap_list_finish(struct qc_bitmap_list *l);

#endif
