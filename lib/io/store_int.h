/* SPDX-License-Identifier: MIT */
/* Inside of the dispatcher: what its reading and its writing half share. */
#ifndef QC_IO_STORE_INT_H
#define QC_IO_STORE_INT_H

#include "io/store.h"
#include "util/bytes.h"

#define QC_MAX_PIECES 1024       /* of one preadv, as the seam promises */
#define QC_PIECES_A_CALL 256     /* of one that had to be cut; bounds the stack */
#define QC_BOUNCE_BYTES (1u << 20)

/* A place in a scattered buffer. */
struct qc_cursor {
    const qchain_iov *iov;
    size_t            n_iov;
    size_t            skip; /* bytes of iov[0] already passed */
};

/* Take the next piece, at most max bytes of it; false at the end. */
static inline bool qc_next_piece(struct qc_cursor *c, qchain_iov *piece, size_t max)
{
    while (c->n_iov > 0 && c->skip == c->iov->len) {
        c->iov++;
        c->n_iov--;
        c->skip = 0;
    }
    if (c->n_iov == 0 || max == 0)
        return false;
    piece->base = (char *)c->iov->base + c->skip;
    piece->len = qc_min64(c->iov->len - c->skip, max);
    c->skip += piece->len;
    return true;
}

/* What the store takes in one call. */
static inline size_t qc_store_most(const struct qc_store *s)
{
    return s->limits.max_transfer ? qc_min64(s->limits.max_transfer, SIZE_MAX) : SIZE_MAX;
}

static inline bool qc_store_asks_nothing(const struct qc_store *s)
{
    return (s->limits.max_transfer | s->limits.align_offset) == 0;
}

/* What a slot returned, as a code of ours with a message. */
int qc_store_slot_failed(const struct qc_store *s, int rc, const char *slot, qchain_error *err);
/* The same for a slot that may say UNSUPPORTED, which must leave no trace in err. */
int qc_store_optional_failed(const struct qc_store *s, int rc, const char *slot,
                             qchain_error *said, qchain_error *err);
/* Call pread, nothing else. */
int qc_store_call_pread(struct qc_store *s, void *buf, size_t length, uint64_t offset,
                        uint32_t flags, qchain_error *err);

/* store_write.c: for a store that has pwrite, once its limits are known. */
int  qc_store_make_writable(struct qc_store *s, qchain_error *err);
void qc_store_end_writing(struct qc_store *s);

/* store_blocks.c: of two who write into one block of a store that takes whole blocks only, each
 * would bring back what the other has just overwritten. */

struct qc_blocks;

struct qc_blocks *qc_blocks_create(void); /* NULL: no memory */
void qc_blocks_destroy(struct qc_blocks *b); /* NULL is fine */
/* Wait until nobody rewrites what lies in [offset, offset + length), and, if the caller is about to
 * (alone), nobody writes there at all. At least one byte. */
void qc_blocks_lock(struct qc_blocks *b, uint64_t offset, uint64_t length, bool alone);
void qc_blocks_unlock(struct qc_blocks *b, uint64_t offset, uint64_t length, bool alone);

#endif
