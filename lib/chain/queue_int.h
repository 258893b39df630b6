/* SPDX-License-Identifier: MIT */
/*
 * Inside of queues. A request is at most two things at once: reads in the ring, and
 * one task or wait of other threads (enum qc_elsewhere), which hand it back on the
 * inbox. When neither is left, and nothing to be done, it is finished.
 */
#ifndef QC_CHAIN_QUEUE_INT_H
#define QC_CHAIN_QUEUE_INT_H

#include <stdatomic.h>

#include "chain/queue.h"
#include "chain/tip.h"
#include "io/uring.h"
#include "util/tasks.h"

#define QC_RING_PIECES 8 /* of one request */

/* Why a request failed; taken by a completion, and freed at the next reap. */
struct qc_text {
    struct qc_text *next;
    char            s[];
};

/* What a request of several runs needs on top. */
struct qc_pieces {
    struct qc_uring_read read[QC_RING_PIECES];
    uint32_t             n;
    struct qc_run        run[];
};

/* What another thread has of a request. */
enum qc_elsewhere { QC_NOTHING, QC_LEAF, QC_WHOLE, QC_PARKED, QC_FAR };

/* What a request of a chain with a tip holds until it is finished, or begun anew. */
enum qc_request_holds {
    QC_HOLDS_EPOCH = 0x1,     /* it is inside */
    QC_HOLDS_ADMISSION = 0x2,
    QC_HOLDS_RANGE = 0x4,     /* new->lock */
    QC_HOLDS_PLACE = 0x8      /* new->place was allocated */
};

/* A write to a place that is not the tip's own yet. */
struct qc_new_place {
    struct qc_range_lock lock;
    struct qc_request   *r;
    struct qc_place      place;
    qchain_iov           iov[]; /* of the request, and zeros before and behind */
};

/* In the order in which a warm read looks at it. */
struct qc_request {
    _Alignas(64) struct qc_uring_read read; /* of a single run */
    void                  *user;
    qchain_iov             one;
    uint64_t               offset;
    struct qc_request     *next;    /* free, done; in the inbox the giver's */
    struct qc_run          run;     /* if pieces is NULL */
    const qchain_iov      *iov;     /* &one, or a copy of the caller's */
    size_t                 length;
    int32_t                result;
    uint32_t               todo;    /* runs that a leaf must read, by bits */
    uint16_t               n_iov;
    uint8_t                in_ring; /* reads there, by bits */
    uint8_t                elsewhere;
    uint8_t                tries;
    uint8_t                kind;    /* enum qc_request_kind */
    uint8_t                holds;   /* enum qc_request_holds */
    bool                   working; /* accepted and not finished */
    bool                   cancelled;
    struct qc_pieces      *pieces;
    struct qc_text        *text;    /* of a failure; then result is set */
    qchain_queue          *q;
    /* Of the thread that has it elsewhere, from the start to the handing back. */
    struct qc_task         task;
    struct qc_index_waiter waiter;
    uint32_t               doing;   /* a leaf: runs, by bits */
    int                    ret;
    /* Of a chain with a tip. */
    unsigned               token;   /* of the epoch */
    uint32_t               flags;   /* of a write: QCHAIN_WRITE_* */
    struct qc_new_place   *new;     /* NULL: in place */
    uint64_t               host;    /* what the ring or a leaf writes, and where */
    uint64_t               host_length;
    struct qc_admission_waiter admission;
};

struct qchain_queue {
    qchain           *c;
    struct qc_uring  *ring;      /* NULL: threads */
    struct qc_request *request;  /* all */
    struct qc_request *free;
    struct qc_request *done, **done_end;
    uint32_t          depth, pending, n_done;
    uint32_t          n_elsewhere;
    uint32_t          n_held;    /* accepted, and not begun yet */
    struct qc_request *held[QC_INDEX_MANY];
    int               eventfd;
    int               pollfd;    /* of both, where the ring would not watch; else -1 */
    bool              polled;    /* somebody may poll the descriptor */
    bool              signalled; /* and it is readable until the next reap */
    struct qc_text   *told;      /* texts of the last reap */
    /* What other threads touch. */
    _Alignas(64) _Atomic(struct qc_request *) inbox;
    atomic_bool       listening; /* a write to the eventfd is wanted */
    atomic_uint       givers;    /* threads that are handing something back */
};

/* queue_work.c */

/* Set a request going: how many reads went to the ring (not submitted yet), or NOMEM if
 * nothing was begun because no thread can be had; r->elsewhere says what for. */
int  qc_request_start(qchain_queue *q, struct qc_request *r);
/* Set all that are held going; those for which no thread can be had fail. */
void qc_requests_start_held(qchain_queue *q);
/* Hand a request to a leaf (what is to do) or a walker (all of it). False if no thread
 * can be had; r->elsewhere says all the same what for. */
bool qc_request_send(qchain_queue *q, struct qc_request *r, enum qc_elsewhere where);
/* Who has or had a task of a request: leaves or walkers, or those that wait for far stores. */
struct qc_tasks *qc_request_tasks(const qchain_queue *q, enum qc_elsewhere where);
/* The work of that leaf or walker, on this thread. */
void qc_request_work(struct qc_request *r);
/* Free what a request has besides its place. */
void qc_request_drop_parts(struct qc_request *r);
/* A failure's text; NULL if there is no memory. */
struct qc_text *qc_text_of(const qchain_error *err);
/* Give a request back to its queue, which another thread has it from. */
void qc_request_hand_back(struct qc_request *r);

/* queue_write.c */

/* As qc_request_start, for what is no read. */
int  qc_request_start_write(qchain_queue *q, struct qc_request *r);
/* A write came out of the ring. True: the request has ended; false: it is to be begun anew, by a walker. */
bool qc_request_wrote(qchain_queue *q, struct qc_request *r, bool whole);
/* A leaf has written to a request's place, or failed: r->ret. The request has ended. */
void qc_request_leaf_wrote(qchain_queue *q, struct qc_request *r);
/* The work of a leaf or a walker, if it is no read. */
int  qc_request_work_write(struct qc_request *r, qchain_error *err);
/* One that is parked waits no longer: a drain may last for ever, and clusters be locked until a queue is reaped.
 * False if it is on its way back. */
bool qc_request_unpark(qchain_queue *q, struct qc_request *r);
/* Give up all that it holds. */
void qc_request_let_go(qchain_queue *q, struct qc_request *r);

/* Put a request among those that are done. */
static inline void qc_request_finish(qchain_queue *q, struct qc_request *r)
{
    if (__builtin_expect(r->pieces || r->iov != &r->one, 0))
        qc_request_drop_parts(r);
    if (__builtin_expect(r->holds, 0))
        qc_request_let_go(q, r);
    r->working = false;
    r->next = NULL;
    *q->done_end = r;
    q->done_end = &r->next;
    q->n_done++;
}

#endif
