/* SPDX-License-Identifier: MIT */
/*
 * io_uring for one thread at a time: reads and writes of local files, submitted without
 * waiting. Files are registered with the ring at their first use, so that a read
 * costs no look at the descriptor table, and a file that is read stays open
 * whatever the descriptor pool does. Found at run time (Linux 5.13 or later);
 * without it, or without liburing, qc_uring_create answers NULL.
 *
 * The kernel may end a read in ways that say little: short, -EAGAIN, or with any
 * error when the thread that submitted it has ended. Whoever needs the bytes, or
 * the reason, then reads again with a blocking call. Likewise a write, of which any part
 * may be there.
 */
#ifndef QC_IO_URING_H
#define QC_IO_URING_H

#include <stdbool.h>
#include <stdint.h>

#include "io/store.h"

struct qc_uring;

/* One read, or write. Embed it; the ring's from the moment it was prepared until it comes out
 * of a reap. */
struct qc_uring_read {
    void                 *user;
    struct qc_uring_read *next;   /* the ring's */
    uint32_t              length; /* asked for */
    int32_t               result; /* bytes moved, or a negative errno */
};

#ifdef QC_HAVE_LIBURING

/* depth: reads in flight, at most. n_files: stores are told by numbers below this
 * (more than can be registered is fine). NULL if there is no io_uring here or it
 * is forbidden. */
struct qc_uring *qc_uring_create(unsigned depth, unsigned n_files);
/* No read may be in flight. Files are let go before this returns. NULL is fine. */
void qc_uring_destroy(struct qc_uring *u);

/* Prepare a read of [offset, offset + length) of a store, which lies inside it.
 * file: the store's number. False if this read is not for io_uring: no local file,
 * its descriptor is closed just now, the buffer does not suit O_DIRECT, the ring is
 * full. The bytes may arrive, and r come out, after the next qc_uring_submit. */
bool qc_uring_prepare(struct qc_uring *u, struct qc_uring_read *r, struct qc_store *store,
                      unsigned file, void *buf, size_t length, uint64_t offset);
/* The same into pieces; iov must stay until r comes out. */
bool qc_uring_preparev(struct qc_uring *u, struct qc_uring_read *r, struct qc_store *store,
                       unsigned file, const qchain_iov *iov, unsigned n_iov, size_t length,
                       uint64_t offset);
/* A write of [offset, offset + length) of a writable store, which may lie past its end. False as
 * above, or if the store takes none any more. When r has come out with all of it, tell the store
 * (qc_store_wrote); else write again with a blocking call. Where only whole blocks can be written,
 * nobody else may write into the same bytes at that time by a blocking call, or both lose some. */
bool qc_uring_prepare_write(struct qc_uring *u, struct qc_uring_read *r, struct qc_store *store,
                            unsigned file, const void *buf, size_t length, uint64_t offset);
bool qc_uring_prepare_writev(struct qc_uring *u, struct qc_uring_read *r, struct qc_store *store,
                             unsigned file, const qchain_iov *iov, unsigned n_iov, size_t length,
                             uint64_t offset);
/* How many are prepared and not submitted. */
unsigned qc_uring_unsubmitted(const struct qc_uring *u);
/* Hand over what is prepared: one system call. False if the kernel did not take all:
 * the rest comes out of the next reaps as failed. */
bool qc_uring_submit(struct qc_uring *u);
/* True if something comes out of the next reap as failed, of which qc_uring_fd does not
 * tell. */
bool qc_uring_has_failed(const struct qc_uring *u);
/* The next read that has ended, NULL if there is none; makes a system call only if the
 * kernel asks for one. */
struct qc_uring_read *qc_uring_reap(struct qc_uring *u);
/* Submit, then wait until a read has ended or `others` (-1, or a descriptor that other
 * threads make readable) is readable, for timeout_ms at most; -1 = as long as it takes.
 * May return early. */
void qc_uring_wait(struct qc_uring *u, int others, int timeout_ms);
/* Ask the kernel to give up a read, which comes out all the same. Advisory. */
void qc_uring_cancel(struct qc_uring *u, struct qc_uring_read *r);

/* Watch an eventfd, always the same one: writing to it makes qc_uring_fd readable. Does
 * nothing if it is watched already; the kernel may let it go, so call this whenever
 * somebody may poll. False if the kernel would not have it. */
bool qc_uring_watch(struct qc_uring *u, int eventfd);
/* Polls readable while something ended that was not reaped, or the eventfd was written
 * to since the last reap that came to the end. */
int  qc_uring_fd(const struct qc_uring *u);

#else /* never called on what qc_uring_create did not make */

static inline struct qc_uring *qc_uring_create(unsigned depth, unsigned n_files)
{
    (void)depth;
    (void)n_files;
    return NULL;
}

static inline void qc_uring_destroy(struct qc_uring *u)
{
    (void)u;
}

static inline bool qc_uring_prepare(struct qc_uring *u, struct qc_uring_read *r,
                                    struct qc_store *store, unsigned file, void *buf,
                                    size_t length, uint64_t offset)
{
    (void)u, (void)r, (void)store, (void)file, (void)buf, (void)length, (void)offset;
    return false;
}

static inline bool qc_uring_preparev(struct qc_uring *u, struct qc_uring_read *r,
                                     struct qc_store *store, unsigned file,
                                     const qchain_iov *iov, unsigned n_iov, size_t length,
                                     uint64_t offset)
{
    (void)u, (void)r, (void)store, (void)file, (void)iov, (void)n_iov, (void)length;
    (void)offset;
    return false;
}

static inline bool qc_uring_prepare_write(struct qc_uring *u, struct qc_uring_read *r,
                                          struct qc_store *store, unsigned file, const void *buf,
                                          size_t length, uint64_t offset)
{
    (void)u, (void)r, (void)store, (void)file, (void)buf, (void)length, (void)offset;
    return false;
}

static inline bool qc_uring_prepare_writev(struct qc_uring *u, struct qc_uring_read *r,
                                           struct qc_store *store, unsigned file,
                                           const qchain_iov *iov, unsigned n_iov, size_t length,
                                           uint64_t offset)
{
    (void)u, (void)r, (void)store, (void)file, (void)iov, (void)n_iov, (void)length;
    (void)offset;
    return false;
}

static inline unsigned qc_uring_unsubmitted(const struct qc_uring *u)
{
    (void)u;
    return 0;
}

static inline bool qc_uring_submit(struct qc_uring *u)
{
    (void)u;
    return true;
}

static inline bool qc_uring_has_failed(const struct qc_uring *u)
{
    (void)u;
    return false;
}

static inline struct qc_uring_read *qc_uring_reap(struct qc_uring *u)
{
    (void)u;
    return NULL;
}

static inline void qc_uring_wait(struct qc_uring *u, int others, int timeout_ms)
{
    (void)u, (void)others, (void)timeout_ms;
}

static inline void qc_uring_cancel(struct qc_uring *u, struct qc_uring_read *r)
{
    (void)u, (void)r;
}

static inline bool qc_uring_watch(struct qc_uring *u, int eventfd)
{
    (void)u, (void)eventfd;
    return false;
}

static inline int qc_uring_fd(const struct qc_uring *u)
{
    (void)u;
    return -1;
}

#endif
#endif
