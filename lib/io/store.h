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

struct qc_store_writing;

/* What every read looks at comes first, on two cache lines: a deep chain has
 * thousands of these. */
struct qc_store {
    _Atomic uint64_t       size;   /* bytes; qc_store_size. Fixed at open unless writable */
    void                  *obj;
    struct qc_slots       *slots;  /* counters; borrowed, may be NULL */
    qchain_store_limits    limits; /* what the store asks of us; zeros: nothing */
    qchain_store_ops       ops;    /* copied; slots the extender lacks are NULL */
    char                  *name;   /* for messages, escaped */
    qchain_store_identity  identity; /* when it was opened */
    struct qc_store_writing *writing; /* store_write.c; NULL: not writable */
};

/* The size now: of a writable store, writing past the end and resizing change it, so whoever needs
 * it twice asks once. */
static inline uint64_t qc_store_size(const struct qc_store *s)
{
    return atomic_load_explicit(&s->size, memory_order_relaxed);
}

static inline bool qc_store_is_writable(const struct qc_store *s)
{
    return s->writing != NULL;
}

enum qc_read_flags {
    QC_READ_META = 0x1,      /* counted as metadata */
    QC_READ_PAST_END = 0x2,  /* bytes past the end read as zeros, else CORRUPT */
    QC_READ_EXACT = 0x8,     /* of a far store: no more than this; what lies around will not be wanted */
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
                 qchain_error *err); /* NULL: the store asks something of its callers, or is
                                        writable */
    void            *obj;
    uint64_t         size;           /* when this was set */
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

/* Can reads of any range be begun without waiting? */
static inline bool qc_store_can_submit(const struct qc_store *s)
{
    return qc_store_is_far(s) && s->ops.submit &&
           (s->limits.max_transfer | s->limits.align_offset) == 0;
}

/* How long it is, as qc_store_size. */
static inline uint64_t qc_store_hot_size(const struct qc_store_hot *h)
{
    return h->pread ? h->size
                    : qc_store_size(atomic_load_explicit(&h->store, memory_order_relaxed));
}

/* ---- writing (store_write.c); of stores that were opened for it, else READONLY ---- */

/* Write, whole or failed, also past the end; failed, any part of it may be there. READONLY once a
 * flush failed: what is on the medium is not known any more. Where only whole blocks can be
 * written, the size becomes a multiple of them by a write past the end. */
int qc_store_write(struct qc_store *s, const void *buf, size_t length, uint64_t offset,
                   qchain_error *err);
int qc_store_writev(struct qc_store *s, const qchain_iov *iov, size_t n_iov, size_t length,
                    uint64_t offset, qchain_error *err);
/* For who writes by other ways (a ring), whole blocks: can that be done now? Not by him if the
 * store ends within a block, which he would make longer. */
bool qc_store_takes_write(const struct qc_store *s, size_t length, uint64_t offset);
/* For him, too: a write to [offset, offset + length) has ended, well. (One
 * that failed is done again by qc_store_write.) */
void qc_store_wrote(struct qc_store *s, uint64_t offset, uint64_t length);
/* And one has failed, of which anything may be there. */
void qc_store_failed(struct qc_store *s, uint64_t offset, uint64_t length);
/* All writes that ended before are durable after; no system call if there were none since the last.
 * Any number of threads may call. */
int qc_store_flush(struct qc_store *s, qchain_error *err);
/* True if a write ended that no flush has covered. */
bool qc_store_is_dirty(const struct qc_store *s);
/* Change the size; of what was cut off nothing comes back. No write past the new size is under way. */
int qc_store_resize(struct qc_store *s, uint64_t size, qchain_error *err);
/* Make [offset, offset + length) read as zeros, which may reach past the end. unmap: give its space
 * back. Writes zeros where the store has no better way. */
int qc_store_zero(struct qc_store *s, uint64_t length, uint64_t offset, bool unmap,
                  qchain_error *err);
/* Nobody needs these bytes any more: give the space back if that can be done; they read as anything
 * then. */
int qc_store_discard(struct qc_store *s, uint64_t length, uint64_t offset, qchain_error *err);

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

/* Begin a read without waiting; the range lies within the store, which has a submit slot. r is
 * filled in but for struct_size. */
void qc_store_submit(struct qc_store *s, qchain_store_read *r);
/* What done was called with, as a code of ours with a message in why, which r had as its err. */
int  qc_store_submitted(int result, qchain_error *why);

/* The stretch at offset, clipped to [offset, offset + length): data or hole. */
int qc_store_extent(struct qc_store *s, qchain_store_extent *out, uint64_t length,
                    uint64_t offset, qchain_error *err);
/* Bytes on the medium; the size if the store cannot tell. */
uint64_t qc_store_allocated(struct qc_store *s);

#endif
