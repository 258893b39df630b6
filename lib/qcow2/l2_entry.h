/* SPDX-License-Identifier: MIT */
/* Entries of L2 tables as numbers, and what writing makes of them: no I/O. */
#ifndef QC_QCOW2_L2_ENTRY_H
#define QC_QCOW2_L2_ENTRY_H

#include "qcow2/l2.h"
#include "util/bytes.h"

#define QC2_SUBCLUSTERS 32u

/* bitmap: 0 without extended entries. Bit i: subcluster i is stored; 32 + i: it reads as zeros. */
struct qc2_entry {
    uint64_t word, bitmap;
};

/* Of the units (clusters; with extended entries, subclusters) that a write is about: */
enum qc2_use {
    QC2_USE_OWN,   /* stored where nobody else looks: written in place */
    QC2_USE_REUSE, /* a place of its own, but it is not what is read there: filled, then the entry changes */
    QC2_USE_FRESH  /* a new place */
};

static inline unsigned qc2_unit_bits(const struct qc2_l2 *g)
{
    return g->extended ? g->cluster_bits - 5 : g->cluster_bits;
}

/* How many units a cluster has. */
static inline unsigned qc2_units(const struct qc2_l2 *g)
{
    return g->extended ? QC2_SUBCLUSTERS : 1;
}

static inline struct qc2_entry qc2_entry_get(const struct qc2_l2 *g, const uint64_t *raw, size_t i)
{
    if (g->extended)
        return (struct qc2_entry){__builtin_bswap64(raw[2 * i]), __builtin_bswap64(raw[2 * i + 1])};
    return (struct qc2_entry){__builtin_bswap64(raw[i]), 0};
}

static inline void qc2_entry_put(const struct qc2_l2 *g, uint64_t *raw, size_t i, struct qc2_entry e)
{
    if (g->extended) {
        raw[2 * i] = __builtin_bswap64(e.word);
        raw[2 * i + 1] = __builtin_bswap64(e.bitmap);
    } else {
        raw[i] = __builtin_bswap64(e.word);
    }
}

static inline uint64_t qc2_entry_host(struct qc2_entry e)
{
    return e.word & QC2_OFFSET_MASK;
}

/* Does it name a place? Compressed ones do not count. */
static inline bool qc2_entry_has_place(const struct qc2_l2 *g, struct qc2_entry e)
{
    return !(e.word & QC2_COMPRESSED) &&
           (qc2_entry_host(e) != 0 || (g->data_file && (e.word & QC2_COPIED)));
}

static inline bool qc2_entry_is_absent(const struct qc2_l2 *g, struct qc2_entry e)
{
    return !qc2_entry_has_place(g, e) && e.bitmap == 0 &&
           !(e.word & (g->extended ? QC2_COMPRESSED : QC2_COMPRESSED | QC2_ZERO));
}

/* True if nothing is to be said against it, as far as can be told at a glance; else qc2_l2_parse knows. */
static inline bool qc2_entry_is_plain(const struct qc2_l2 *g, struct qc2_entry e, uint64_t guest)
{
    uint64_t host = qc2_entry_host(e);

    if ((e.word & ~(QC2_OFFSET_MASK | QC2_COPIED)) || (host & ((UINT64_C(1) << g->cluster_bits) - 1)) ||
        ((uint32_t)e.bitmap & (uint32_t)(e.bitmap >> 32)))
        return false;
    if (!qc2_entry_has_place(g, e))
        return (uint32_t)e.bitmap == 0;
    return g->data_file ? host == guest : host < g->file_size;
}

/* The bits of n subclusters from the first on. */
static inline uint32_t qc2_sub_mask(unsigned first, unsigned n)
{
    return (uint32_t)(((UINT64_C(1) << n) - 1) << first);
}

/* What a write to one unit of a sound entry comes down to. */
enum qc2_use qc2_entry_use(const struct qc2_l2 *g, struct qc2_entry e, unsigned unit);

/* A new place for units [*first, *end) must also hold what is stored at the old one: widens them to that. */
void qc2_entry_widen(const struct qc2_l2 *g, struct qc2_entry e, unsigned *first, unsigned *end);

/* e, after its units [first, end) were written to the cluster at host. */
struct qc2_entry qc2_entry_written(const struct qc2_l2 *g, struct qc2_entry e, uint64_t host,
                                   unsigned first, unsigned end);

/* e, with units [first, end) reading as zeros; not compressed unless these are all. The place is kept if it is
 * the entry's own (external data: any), and keep, or if something else is still stored there. */
struct qc2_entry qc2_entry_zeroed(const struct qc2_l2 *g, struct qc2_entry e, unsigned first, unsigned end,
                                  bool keep);

/* Where the stream of a compressed entry lies: to the end of its last sector. */
void qc2_entry_stream(const struct qc2_l2 *g, uint64_t word, uint64_t *host, uint64_t *length);
/* The entry of a stream; 0 if its place cannot be said in one. */
uint64_t qc2_entry_of_stream(const struct qc2_l2 *g, uint64_t host, uint64_t length);

#endif
