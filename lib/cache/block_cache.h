/* SPDX-License-Identifier: MIT */
/*
 * Decoded clusters and ranges of remote objects in memory: pinned blocks under a byte budget. Out goes the
 * oldest that has no uses left; whenever one is passed over that takes a use from it. So a hit moves nothing.
 * Does no I/O. Any thread.
 */
#ifndef QC_CACHE_BLOCK_CACHE_H
#define QC_CACHE_BLOCK_CACHE_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct qc_block_cache;

struct qc_block {
    struct qc_block *hash_next;
    struct qc_block *newer, *older;
    uint64_t owner, offset; /* the key: a layer's number for life; mostly a host offset */
    atomic_uint state;      /* 2 * pins, and 1 if it is in the table */
    uint32_t    used;       /* hits that still protect it; under the shard's lock */
    size_t   size;
    unsigned char data[];
};

/* NULL when there is no memory. */
struct qc_block_cache *qc_block_cache_create(uint64_t budget);
/* No block may be pinned. NULL is fine. */
void qc_block_cache_destroy(struct qc_block_cache *c);

/* The block under a key, pinned, or NULL. */
struct qc_block *qc_block_find(struct qc_block_cache *c, uint64_t owner, uint64_t offset);
/* A new block to fill, pinned, in no cache yet; NULL when there is no memory. */
struct qc_block *qc_block_new(size_t size);
/* Put a filled block under a key (unless the key is taken); keeps the pin. */
void qc_block_insert(struct qc_block_cache *c, struct qc_block *b, uint64_t owner,
                     uint64_t offset);
/* Give up a pin. */
void qc_block_unpin(struct qc_block_cache *c, struct qc_block *b);
/* Forget all blocks of an owner; none may be pinned. */
void qc_block_drop_owner(struct qc_block_cache *c, uint64_t owner);
uint64_t qc_block_cache_bytes(struct qc_block_cache *c);
/* Blocks that are being filled, or kept elsewhere, count as well: make room for so many bytes, and
 * give it back. */
void qc_block_cache_reserve(struct qc_block_cache *c, uint64_t bytes);
void qc_block_cache_release(struct qc_block_cache *c, uint64_t bytes);
uint64_t qc_block_cache_budget(const struct qc_block_cache *c);

#endif
