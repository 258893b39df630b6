/* SPDX-License-Identifier: MIT */
/* The layout of an entry is described in l2.c. */
#include "qcow2/l2_entry.h"

static uint32_t stored_of(struct qc2_entry e)
{
    return e.word & QC2_COMPRESSED ? 0 : (uint32_t)e.bitmap;
}

static uint32_t zero_of(struct qc2_entry e)
{
    return e.word & QC2_COMPRESSED ? 0 : (uint32_t)(e.bitmap >> 32);
}

static uint64_t bitmap_of(uint32_t stored, uint32_t zero)
{
    return (uint64_t)zero << 32 | stored;
}

/* What is at an external file's guest offset is always the image's. */
static bool is_own_place(const struct qc2_l2 *g, struct qc2_entry e)
{
    return qc2_entry_has_place(g, e) && (g->data_file || (e.word & QC2_COPIED));
}

enum qc2_use qc2_entry_use(const struct qc2_l2 *g, struct qc2_entry e, unsigned unit)
{
    if (!is_own_place(g, e))
        return QC2_USE_FRESH;
    if (g->extended)
        return stored_of(e) >> unit & 1 ? QC2_USE_OWN : QC2_USE_REUSE;
    return e.word & QC2_ZERO ? QC2_USE_REUSE : QC2_USE_OWN;
}

void qc2_entry_widen(const struct qc2_l2 *g, struct qc2_entry e, unsigned *first, unsigned *end)
{
    uint32_t stored = stored_of(e);

    if (!g->extended || (e.word & QC2_COMPRESSED)) {
        *first = 0;
        *end = qc2_units(g);
    } else if (stored) {
        unsigned lowest = (unsigned)__builtin_ctz(stored);
        unsigned after = QC2_SUBCLUSTERS - (unsigned)__builtin_clz(stored);

        *first = lowest < *first ? lowest : *first;
        *end = after > *end ? after : *end;
    }
}

struct qc2_entry qc2_entry_written(const struct qc2_l2 *g, struct qc2_entry e, uint64_t host,
                                   unsigned first, unsigned end)
{
    struct qc2_entry to = {host | QC2_COPIED, 0};

    if (g->extended) {
        uint32_t mask = qc2_sub_mask(first, end - first);

        to.bitmap = bitmap_of(stored_of(e) | mask, zero_of(e) & ~mask);
    }
    return to;
}

struct qc2_entry qc2_entry_zeroed(const struct qc2_l2 *g, struct qc2_entry e, unsigned first, unsigned end,
                                  bool keep)
{
    struct qc2_entry to = {0, 0};
    uint32_t stored = 0;

    if (g->extended) {
        uint32_t mask = qc2_sub_mask(first, end - first);

        stored = stored_of(e) & ~mask;
        to.bitmap = bitmap_of(stored, zero_of(e) | mask);
    } else {
        to.word = QC2_ZERO;
    }
    if (stored || (is_own_place(g, e) && (keep || g->data_file)))
        to.word |= e.word & (QC2_OFFSET_MASK | QC2_COPIED);
    return to;
}

void qc2_entry_stream(const struct qc2_l2 *g, uint64_t word, uint64_t *host, uint64_t *length)
{
    unsigned x = 62 - (g->cluster_bits - 8);
    uint64_t sectors = ((word & (QC2_COMPRESSED - 1)) >> x) + 1;

    *host = word & ((UINT64_C(1) << x) - 1);
    *length = (sectors << 9) - (*host & 511);
}

uint64_t qc2_entry_of_stream(const struct qc2_l2 *g, uint64_t host, uint64_t length)
{
    unsigned x = 62 - (g->cluster_bits - 8);
    uint64_t more = ((host + length - 1) >> 9) - (host >> 9);

    if (host > QC_HOST_MAX || host >> x || more >> (g->cluster_bits - 8))
        return 0;
    return QC2_COMPRESSED | more << x | host;
}
