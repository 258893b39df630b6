/* SPDX-License-Identifier: MIT */
/*
 * Was the metadata of an image preallocated? Then stored clusters may be holes of
 * the file, and are looked at when mapping. The question is answered as QEMU
 * answers it: are clearly more clusters counted as used than the file occupies.
 *
 * The refcount table is an array of 64-bit offsets of blocks (bits 9-63, 0: all
 * refcounts are 0); a block is a cluster of refcounts, 2^refcount_order bits each,
 * those narrower than a byte from the lowest bit up.
 *
 * Reading must not need refcounts: whatever is wrong with them means "no".
 */
#include "qcow2/image_int.h"

#include "util/alloc.h"
#include "util/bytes.h"

#define REFTABLE_MASK (~UINT64_C(511))
#define BLOCK_PIECE 65536u

/* A count that stops at a limit. */
struct census {
    struct qc2_image *q;
    uint8_t          *buf;       /* BLOCK_PIECE bytes */
    uint64_t          clusters;  /* of the file */
    uint64_t          threshold;
    uint64_t          found;
    uint64_t          budget;    /* blocks that may still be read */
};

static uint64_t count_bytes(const uint8_t *p, uint64_t n, unsigned width)
{
    uint64_t found = 0;

    for (uint64_t i = 0; i < n; i++) {
        uint8_t any = 0;

        for (unsigned k = 0; k < width; k++)
            any |= p[i * width + k];
        found += any != 0;
    }
    return found;
}

/* How many of the n refcounts at p are not 0. */
static uint64_t count_used(const uint8_t *p, uint64_t n, unsigned order)
{
    uint64_t found = 0;
    unsigned bits = 1u << order;
    unsigned mask = (1u << bits % 32) - 1;

    if (order >= 3)
        return count_bytes(p, n, bits / 8);
    for (uint64_t i = 0; i < n; i++)
        found += (p[i * bits / 8] >> i * bits % 8 & mask) != 0;
    return found;
}

/* Count the refcounts of n clusters in the block at offset. */
static int count_block(struct census *c, uint64_t offset, uint64_t n)
{
    unsigned order = c->q->header.refcount_order;
    uint64_t bytes = qc_div_up(n << order, 8);

    for (uint64_t at = 0; at < bytes && c->found < c->threshold; at += BLOCK_PIECE) {
        size_t len = (size_t)qc_min64(bytes - at, BLOCK_PIECE);
        uint64_t here = qc_min64(n - (at << 3 >> order), (uint64_t)len << 3 >> order);

        if (qc_store_read(c->q->base.store, c->buf, len, offset + at,
                          QC_READ_META | QC_READ_PAST_END, NULL) < 0)
            return -1;
        c->found += count_used(c->buf, here, order);
    }
    return 0;
}

static int count_all(struct census *c)
{
    const struct qc2_header *h = &c->q->header;
    uint64_t per_block = qc2_cluster_size(h) << 3 >> h->refcount_order;
    uint64_t blocks = qc_min64(qc_div_up(c->clusters, per_block),
                               (uint64_t)h->reftable_clusters << h->cluster_bits >> 3);
    uint64_t entry[512];

    for (uint64_t i = 0; i < blocks && c->found < c->threshold; i++) {
        uint64_t offset;

        if (i % 512 == 0 &&
            qc_store_read(c->q->base.store, entry, (size_t)qc_min64(blocks - i, 512) * 8,
                          h->reftable_offset + i * 8, QC_READ_META | QC_READ_PAST_END, NULL) < 0)
            return -1;
        offset = qc_be64(&entry[i % 512]) & REFTABLE_MASK;
        if (offset == 0)
            continue;
        if (offset > INT64_MAX || offset % qc2_cluster_size(h) != 0 || c->budget-- == 0)
            return -1;
        if (count_block(c, offset, qc_min64(c->clusters - i * per_block, per_block)) < 0)
            return -1;
    }
    return 0;
}

static bool detect(struct qc2_image *q)
{
    uint64_t occupied = qc_store_allocated(q->base.store) / q->base.cluster_size;
    struct census c = {.q = q, .clusters = qc_div_up(q->base.store->size, q->base.cluster_size)};
    uint64_t tenth_more;
    bool yes;

    if (!qc_mul_ok(occupied, 10, &tenth_more) || q->header.reftable_offset > INT64_MAX)
        return false;
    c.threshold = qc_max64(tenth_more / 9, occupied + 2);
    if (c.clusters < c.threshold)
        return false;
    /* A block that counts something occupies a cluster: more blocks than that are
     * one block many times, or holes. */
    c.budget = occupied + 2;
    c.buf = qc_malloc(BLOCK_PIECE);
    if (!c.buf)
        return false;
    yes = count_all(&c) == 0 && c.found >= c.threshold;
    qc_free(c.buf);
    return yes;
}

int qc2_may_have_holes(struct qc_image *img, bool *holes, qchain_error *err)
{
    struct qc2_image *q = qc2_of(img);
    int known = atomic_load_explicit(&q->holes, memory_order_relaxed);

    (void)err;
    if (known == 0) {
        known = detect(q) ? 2 : 1; /* two threads may both find out: the same */
        atomic_store_explicit(&q->holes, known, memory_order_relaxed);
    }
    *holes = known == 2;
    return QCHAIN_OK;
}
