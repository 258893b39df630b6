/* SPDX-License-Identifier: MIT */
/*
 * Many bits, of which most are alike: in chunks of 4 KiB that are there only if they hold both kinds.
 *
 * Any number of threads may set and look; who clears, loads or changes the size must be alone.
 */
#ifndef QC_FORMAT_BITS_H
#define QC_FORMAT_BITS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define QC_BITS_CHUNK 4096u /* bytes */

typedef _Atomic uint64_t qc_word;

struct qc_bits {
    uint64_t            n;
    size_t              n_chunks;
    _Atomic(qc_word *) *chunk; /* NULL: zeros; a mark: ones */
};

struct qc_bits *qc_bits_create(uint64_t n); /* all clear; NULL: no memory */
void qc_bits_destroy(struct qc_bits *b);    /* NULL is fine */

/* Set [first, end), cut to those that there are. True if one was not set before. Never fails: where there is no
 * memory more bits are set than were asked for. */
bool qc_bits_set(struct qc_bits *b, uint64_t first, uint64_t end);
void qc_bits_clear(struct qc_bits *b);
/* The first bit >= from that has a value; n if there is none. */
uint64_t qc_bits_next(const struct qc_bits *b, uint64_t from, bool value);
/* Those that are added are clear. False: no memory, and nothing has changed. Making it smaller never fails. */
bool qc_bits_resize(struct qc_bits *b, uint64_t n);

/* As bytes, the lowest bit of each first: take len bytes from byte `at` on, or give them. What is beyond the last
 * bit is not taken, and given as 0. load: false if there is no memory. */
bool qc_bits_load(struct qc_bits *b, uint64_t at, const uint8_t *p, size_t len);
void qc_bits_store(const struct qc_bits *b, uint64_t at, uint8_t *p, size_t len);

#endif
