/* SPDX-License-Identifier: MIT */
/*
 * A queue of requests to a chain; see "queues" in <qchain.h>. One request:
 *
 *   submit   the runs are looked up, if the index has them (never filled here);
 *            zeros are copied; stored bytes of local files go to the ring (io/uring)
 *            piece by piece; what the ring does not take, compressed clusters and
 *            other stores go to a leaf task with the runs found; what the index does
 *            not know waits for a walker (one a window, chain/index.h)
 *   write    in place: to the ring; to a new place whose surroundings need no reading: place and room are found
 *            at once, the ring writes, reap finishes; all else is a walker's
 *   reap     takes what has ended: from the ring, and from other threads, which put
 *            requests on a list and write to one eventfd
 *
 * A request that comes back from a walker is looked up again by the queue's own
 * thread, in reap. All but that list is that thread's, so nothing here takes a lock.
 */
#ifndef QC_CHAIN_QUEUE_H
#define QC_CHAIN_QUEUE_H

#include "chain/chain.h"

enum qc_request_kind {
    QC_REQUEST_READ, QC_REQUEST_WRITE, QC_REQUEST_ZEROES, QC_REQUEST_DISCARD, QC_REQUEST_FLUSH
};

/* Arguments are checked already; err is not NULL. depth: at least 1. */
int qc_queue_create(qchain_queue **out, qchain *c, unsigned depth, bool use_uring,
                    qchain_error *err);
void qc_queue_close(qchain_queue *q); /* NULL is fine */
qchain *qc_queue_chain(const qchain_queue *q);
bool qc_queue_uses_uring(const qchain_queue *q);

/* The range is checked already; iov holds length bytes, and is copied. */
int qc_queue_readv(qchain_queue *q, const qchain_iov *iov, size_t n_iov, size_t length,
                   uint64_t offset, bool more, void *user, qchain_error *err);
/* What changes the disk: READONLY if it is not open for that. iov: of a write, else NULL. flags: QCHAIN_WRITE_*. */
int qc_queue_change(qchain_queue *q, enum qc_request_kind kind, const qchain_iov *iov, size_t n_iov,
                    uint64_t length, uint64_t offset, uint32_t flags, bool more, void *user,
                    qchain_error *err);
int qc_queue_reap(qchain_queue *q, qchain_completion *out, uint32_t min, uint32_t max,
                  int timeout_ms);
int qc_queue_fd(qchain_queue *q);
int qc_queue_cancel(qchain_queue *q, void *user);
uint32_t qc_queue_pending(const qchain_queue *q);

#endif
