/* SPDX-License-Identifier: MIT */
/*
 * The bytes seam, inside: an open store with its size, identity and counters.
 * Checks ranges, supplies defaults for NULL slots, counts. Stores know nothing
 * of formats. The seam's contract is in <qchain-backend.h>.
 */
#ifndef QC_IO_STORE_H
#define QC_IO_STORE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <qchain-backend.h>

#include "util/slots.h"

/* What every read looks at comes first, on two cache lines: a deep chain has
 * thousands of these. */
struct qc_store {
    uint64_t               size;   /* bytes, fixed at open */
    void                  *obj;
    struct qc_slots       *slots;  /* counters; borrowed, may be NULL */
    qchain_store_limits    limits; /* what the store asks of us; zeros: nothing */
    qchain_store_ops       ops;    /* copied; slots the extender lacks are NULL */
    char                  *name;   /* for messages, escaped */
    qchain_store_identity  identity;
};

enum qc_read_flags {
    QC_READ_META = 0x1,      /* counted as metadata */
    QC_READ_PAST_END = 0x2,  /* bytes past the end read as zeros, else CORRUPT */
    QC_READ_FRESH = 0x4      /* of a far store: not from a cache, whose bytes make no sense */
};

/* Wrap an extender's store: copies ops and name, asks size and identity. On
 * failure the store's object has been closed. slots may be NULL. */
int qc_store_create(struct qc_store **out, const qchain_store *from, struct qc_slots *slots,
                    qchain_error *err);
/* Closes the object. NULL is fine. */
void qc_store_destroy(struct qc_store *s);

/* Read, whole or failed. */
int qc_store_read(struct qc_store *s, void *buf, size_t length, uint64_t offset, uint32_t flags,
                  qchain_error *err);
int qc_store_readv(struct qc_store *s, const qchain_iov *iov, size_t n_iov, size_t length,
                   uint64_t offset, uint32_t flags, qchain_error *err);

/*
 * What a read of data needs of a store, on half a cache line: whoever has
 * thousands of stores keeps these side by side, since in a deep chain every line
 * that is looked at is a miss.
 */
struct qc_store_hot {
    int (*pread)(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                 qchain_error *err); /* NULL: the store asks something of its callers */
    void            *obj;
    uint64_t         size;
    _Atomic(struct qc_store *) store; /* NULL: not open yet, and the rest is not set */
};

/* Set it, the store last, so that who sees the store sees all. */
void qc_store_hot_init(struct qc_store_hot *h, struct qc_store *s);
/* As qc_store_read(h->store, ..., QC_READ_PAST_END); the store was seen to be open.
 * slots: the store's. */
int qc_store_read_hot(const struct qc_store_hot *h, struct qc_slots *slots, void *buf,
                      size_t length, uint64_t offset, qchain_error *err);

/* Is it far away: reads are waited for, and best many at once? */
static inline bool qc_store_is_far(const struct qc_store *s)
{
    return s->limits.parallel > 1;
}

/* Does it take reads without being waited for? Not if they had to be cut or copied for it. */
static inline bool qc_store_submits(const struct qc_store *s)
{
    return qc_store_is_far(s) && s->ops.submit &&
           (s->limits.max_transfer | s->limits.align_offset) == 0;
}

/* A slot returned rc, a failure: have it be a known code, and explained. Returns it. */
int qc_store_failed(const struct qc_store *s, int rc, const char *slot, qchain_error *err);

/* ---- several reads at once (store_many.c) ---- */

/* One of them; the store may be another one each time. */
struct qc_store_piece {
    struct qc_store *store;
    void            *buf;
    size_t           length;
    uint64_t         offset;
};

/* Read all pieces, whole or failed: those of far stores at once, and the caller waits. flags:
 * enum qc_read_flags. On failure *failed (may be NULL) receives the number of a piece that did. */
int qc_store_read_many(const struct qc_store_piece *piece, size_t n, uint32_t flags, size_t *failed,
                       qchain_error *err);

/* Begin a read without waiting; the range lies within the store, which submits. r is
 * filled in but for struct_size. */
void qc_store_submit(struct qc_store *s, qchain_store_read *r);

/* The stretch at offset, clipped to [offset, offset + length): data or hole. */
int qc_store_extent(struct qc_store *s, qchain_store_extent *out, uint64_t length,
                    uint64_t offset, qchain_error *err);
/* Bytes on the medium; the size if the store cannot tell. */
uint64_t qc_store_allocated(struct qc_store *s);

#endif
