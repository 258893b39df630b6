/* SPDX-License-Identifier: MIT */
/* A run: one stretch of a virtual disk and what is there. 24 bytes. */
#ifndef QC_FORMAT_RUN_H
#define QC_FORMAT_RUN_H

#include <stddef.h>
#include <stdint.h>

enum qc_kind {
    QC_END = 0,        /* nothing down to the bottom: zeros                     */
    QC_SHORT = 1,      /* beyond the end of a shorter layer below: zeros        */
    QC_ZERO = 2,       /* a layer says zeros                                    */
    QC_ZERO_ALLOC = 3, /* the same, with a place in the file                    */
    QC_PREALLOC = 4,   /* a place in the file, but not the layer's data: what is
                          below shows. In an index: nothing is below            */
    QC_DATA = 5,
    QC_COMPRESSED = 6, /* one cluster's stream; never merged, never split by a
                          format; windows are multiples of every cluster size   */
    QC_ABSENT = 7      /* answered by locate alone: this layer holds nothing     */
};

struct qc_run {
    uint64_t guest;        /* byte offset in the virtual disk, multiple of 512   */
    uint64_t host_kind;    /* host byte offset << 8 | kind; host < 2^56          */
    uint32_t length;       /* in 512-byte units                                  */
    uint16_t source;       /* number of the file; a format fills in 0            */
    uint16_t sectors;      /* compressed: 512-byte sectors the stream may touch,
                              the one with its first byte included              */
};

_Static_assert(sizeof(struct qc_run) == 24, "a run is 24 bytes");

#define QC_HOST_MAX ((UINT64_C(1) << 56) - 1)

static inline enum qc_kind qc_run_kind(const struct qc_run *r)
{
    return (enum qc_kind)(r->host_kind & 0xff);
}

static inline uint64_t qc_run_host(const struct qc_run *r)
{
    return r->host_kind >> 8;
}

static inline uint64_t qc_run_length(const struct qc_run *r)
{
    return (uint64_t)r->length << 9;
}

static inline uint64_t qc_run_end(const struct qc_run *r)
{
    return r->guest + qc_run_length(r);
}

/* True for kinds whose host offset means something. */
static inline int qc_kind_has_host(enum qc_kind k)
{
    return k == QC_DATA || k == QC_ZERO_ALLOC || k == QC_PREALLOC || k == QC_COMPRESSED;
}

static inline struct qc_run qc_run_make(uint64_t guest, uint64_t length, enum qc_kind kind,
                                        uint64_t host)
{
    struct qc_run r = {guest, host << 8 | (uint64_t)kind, (uint32_t)(length >> 9), 0, 0};

    return r;
}

/* A growing list of runs, sorted by guest, without overlap. */
struct qc_runs {
    struct qc_run *run;
    size_t         n, cap;
};

/* Append r, merging it with the last run where both are one stretch (not
 * compressed). 0 or QCHAIN_E_NOMEM. */
int  qc_runs_add(struct qc_runs *l, struct qc_run r);
int  qc_runs_reserve(struct qc_runs *l, size_t n);
void qc_runs_finish(struct qc_runs *l); /* frees the array */

#endif
