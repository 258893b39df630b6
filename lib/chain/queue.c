/* SPDX-License-Identifier: MIT */
/* Queues: submit, reap, cancel. What a request goes through is in queue_work.c. */
#include "chain/queue_int.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "chain/recorder.h"
#include "util/alloc.h"
#include "util/bytes.h"

#define TRIES 2 /* windows filled and evicted before a walker does it all */

/* ------------------------------------------------------------------ submit --- */

static void signal_pollers(qchain_queue *q)
{
    if (!q->polled || q->signalled)
        return;
    q->signalled = true;
    eventfd_write(q->eventfd, 1);
}

/* Make the descriptor readable for what is done already, and for what the kernel did not
 * take, which must be reaped. */
static inline void tell_pollers(qchain_queue *q)
{
    if (q->done || (q->ring && qc_uring_has_failed(q->ring)))
        signal_pollers(q);
}

/* Copy the pieces, without those that are empty. */
static int copy_iov(struct qc_request *r, const qchain_iov *iov, size_t n_iov)
{
    qchain_iov *copy = NULL;
    uint32_t n = 0;

    for (size_t i = 0; i < n_iov; i++) {
        if (iov[i].len == 0)
            continue;
        if (n++ == 0)
            r->one = iov[i];
    }
    r->n_iov = (uint16_t)n;
    r->iov = &r->one;
    if (n < 2)
        return 0;
    copy = qc_malloc(n * sizeof(*copy));
    if (!copy)
        return QCHAIN_E_NOMEM;
    n = 0;
    for (size_t i = 0; i < n_iov; i++)
        if (iov[i].len != 0)
            copy[n++] = iov[i];
    r->iov = copy;
    return 0;
}

static __attribute__((noinline)) void fail_changed(qchain_queue *q, struct qc_request *r)
{
    qchain_error why;

    r->result = qc_chain_fail_changed(&why);
    r->text = qc_text_of(&why);
    qc_request_finish(q, r);
}

/* Hand over what is prepared, unless more follows. */
static inline void submit_prepared(qchain_queue *q, bool more)
{
    /* Requests of a chain with a tip are not held back, only their submission is. */
    if (more && q->c->tip && qc_uring_unsubmitted(q->ring) < QC_INDEX_MANY)
        return;
    qc_uring_submit(q->ring);
}

static inline int submit(qchain_queue *q, enum qc_request_kind kind, const qchain_iov *iov, size_t n_iov,
                         size_t length, uint64_t offset, uint32_t flags, bool more, void *user,
                         qchain_error *err)
{
    struct qc_request *r = q->free;
    int n_ring = 0;

    if (!r)
        return qc_fail(err, QCHAIN_E_BUSY, "queue: %u requests are not reaped yet, which is its "
                       "depth: reap first", q->depth);
    if (n_iov == 1) {
        r->one = *iov;
        r->n_iov = 1;
    } else if (copy_iov(r, iov, n_iov) != 0) {
        return qc_fail_nomem(err);
    }
    q->free = r->next;
    r->user = user;
    r->offset = offset;
    r->length = length;
    r->result = 0;
    r->todo = r->in_ring = r->elsewhere = r->tries = 0;
    r->kind = kind;
    r->flags = flags;
    r->cancelled = false;
    r->working = true;
    if (length == 0 && kind != QC_REQUEST_FLUSH)
        qc_request_finish(q, r);
    else if (atomic_load_explicit(&q->c->changed, memory_order_relaxed))
        fail_changed(q, r);
    else if (q->ring && (more || q->n_held > 0) && !q->c->tip)
        q->held[q->n_held++] = r;
    else
        n_ring = qc_request_start(q, r);
    if (n_ring < 0) {
        qc_request_drop_parts(r);
        qc_request_let_go(q, r);
        r->working = false;
        r->next = q->free;
        q->free = r;
        return qc_fail(err, QCHAIN_E_NOMEM, "queue: no thread can be started");
    }
    q->pending++;
    if (kind == QC_REQUEST_READ) {
        qc_count_bytes(q->c->env->slots, QC_CNT_READS, length);
        qc_note_read(q->c, offset, length);
    }
    /* A request, and what of it the ring carries. */
    qc_count_bytes(q->c->env->slots, QC_CNT_QUEUE_REQUESTS, (uint64_t)n_ring);
    if (q->n_held == QC_INDEX_MANY || (q->n_held > 0 && !more))
        qc_requests_start_held(q);
    if (q->ring && q->n_held == 0)
        submit_prepared(q, more);
    tell_pollers(q);
    return 0;
}

int qc_queue_readv(qchain_queue *q, const qchain_iov *iov, size_t n_iov, size_t length,
                   uint64_t offset, bool more, void *user, qchain_error *err)
{
    return submit(q, QC_REQUEST_READ, iov, n_iov, length, offset, 0, more, user, err);
}

int qc_queue_change(qchain_queue *q, enum qc_request_kind kind, const qchain_iov *iov, size_t n_iov,
                    uint64_t length, uint64_t offset, uint32_t flags, bool more, void *user,
                    qchain_error *err)
{
    static const qchain_iov none;
    int ret = qc_tip_check(q->c, err);

    if (ret != 0)
        return ret;
    return submit(q, kind, iov ? iov : &none, iov ? n_iov : 1, length, offset, flags, more, user, err);
}

/* -------------------------------------------------------------------- reap --- */

/* Where no thread can be had for what was accepted, it is done here. */
static void do_here(qchain_queue *q, struct qc_request *r)
{
    enum qc_elsewhere where = r->elsewhere;

    qc_request_work(r);
    r->elsewhere = QC_NOTHING;
    if (r->kind != QC_REQUEST_READ && where == QC_LEAF)
        qc_request_leaf_wrote(q, r);
    else
        r->result = r->ret;
    qc_request_finish(q, r);
}

/* A request after something of it ended: more to do, more to come, or finished. */
static void go_on(qchain_queue *q, struct qc_request *r)
{
    if (r->elsewhere != QC_NOTHING)
        return;
    if (r->todo && r->cancelled && r->result == 0)
        r->result = QCHAIN_E_CANCELLED;
    if (r->todo && r->result == 0) {
        if (qc_request_send(q, r, QC_LEAF))
            return;
        qc_request_work(r);
        r->elsewhere = QC_NOTHING;
        r->result = r->ret;
    }
    if (!r->in_ring)
        qc_request_finish(q, r);
}

/* A write that the ring did in part, or not: all of it anew, by a call that can say why. */
static void write_ended(qchain_queue *q, struct qc_request *r)
{
    bool whole = r->read.result >= 0 && (uint32_t)r->read.result == r->read.length;

    r->in_ring = 0;
    if (qc_request_wrote(q, r, whole) || r->cancelled) {
        if (!whole)
            r->result = QCHAIN_E_CANCELLED;
        qc_request_finish(q, r);
    } else if (!qc_request_send(q, r, QC_WHOLE)) {
        do_here(q, r);
    }
}

static void read_ended(qchain_queue *q, struct qc_uring_read *read)
{
    struct qc_request *r = read->user;
    uint32_t i = read == &r->read ? 0 : (uint32_t)(read - r->pieces->read);

    if (r->kind != QC_REQUEST_READ) {
        write_ended(q, r);
        return;
    }
    r->in_ring &= (uint8_t)~(1u << i);
    /* Short, to be tried again, or a failure: a blocking read gives bytes or reasons. */
    if (read->result < 0 || (uint32_t)read->result != read->length)
        r->todo |= 1u << i;
    go_on(q, r);
}

static void start_again(qchain_queue *q, struct qc_request *r)
{
    int n_ring;

    if (r->cancelled) {
        r->result = QCHAIN_E_CANCELLED;
        qc_request_finish(q, r);
        return;
    }
    /* A window that cannot be filled, or does not stay: a walker reads and tells all. */
    if (r->kind != QC_REQUEST_READ)
        n_ring = qc_request_start(q, r);
    else if (r->ret != 0 || ++r->tries >= TRIES)
        n_ring = qc_request_send(q, r, QC_WHOLE) ? 0 : QCHAIN_E_NOMEM;
    else
        n_ring = qc_request_start(q, r);
    if (n_ring < 0)
        do_here(q, r);
    else if (n_ring > 0)
        qc_count(q->c->env->slots, QC_CNT_QUEUE_URING, (uint64_t)n_ring);
}

static void came_back(qchain_queue *q, struct qc_request *r)
{
    enum qc_elsewhere from = r->elsewhere;

    q->n_elsewhere--;
    r->elsewhere = QC_NOTHING;
    if (from == QC_PARKED) {
        start_again(q, r);
        return;
    }
    if (r->kind != QC_REQUEST_READ && from == QC_LEAF)
        qc_request_leaf_wrote(q, r);
    else if (r->ret != 0)
        r->result = r->ret;
    go_on(q, r);
}

/* Take what has ended: from the ring until `most` are done (the rest keeps it readable),
 * and all that others handed back. */
static void harvest(qchain_queue *q, uint32_t most)
{
    struct qc_request *r, *next;
    struct qc_uring_read *read;

    while (q->ring && q->n_done < most && (read = qc_uring_reap(q->ring)))
        read_ended(q, read);
    if (!atomic_load_explicit(&q->inbox, memory_order_relaxed))
        return;
    for (r = atomic_exchange(&q->inbox, NULL); r; r = next) {
        next = r->next;
        came_back(q, r);
    }
}

static void clear_eventfd(qchain_queue *q)
{
    eventfd_t count;

    (void)eventfd_read(q->eventfd, &count); /* does not block */
}

/* Sleep until something ends, or for timeout_ms; may end early. */
static void sleep_for_more(qchain_queue *q, int timeout_ms)
{
    struct pollfd fd = {.fd = q->eventfd, .events = POLLIN};
    bool others = !q->ring || q->n_elsewhere > 0;

    atomic_store(&q->listening, true);
    if (atomic_load(&q->inbox)) {
        if (q->ring)
            qc_uring_submit(q->ring);
    } else if (q->ring) {
        qc_uring_wait(q->ring, others ? q->eventfd : -1, timeout_ms);
    } else {
        poll(&fd, 1, timeout_ms);
    }
    atomic_store(&q->listening, q->polled);
    if (others)
        clear_eventfd(q); /* what it stands for is taken afterwards */
}

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Until min are done, or the time is over. */
static void wait_for(qchain_queue *q, uint32_t min, uint32_t max, int timeout_ms)
{
    int64_t end = timeout_ms > 0 ? now_ms() + timeout_ms + 1 : 0, left;

    while (q->n_done < min && timeout_ms != 0) {
        left = timeout_ms < 0 ? -1 : end - now_ms();
        if (timeout_ms > 0 && left <= 0)
            return;
        sleep_for_more(q, left > INT_MAX ? INT_MAX : (int)left);
        harvest(q, max);
    }
}

/* A sentence for a failure that has none of its own. */
static const char *plain_text(int result)
{
    switch (result) {
    case QCHAIN_E_CANCELLED:
        return "the request was cancelled";
    case QCHAIN_E_NOMEM:
        return "out of memory";
    default:
        return "the request failed, and there was no memory to say why";
    }
}

static void drop_texts(struct qc_text **list)
{
    struct qc_text *t;

    while ((t = *list)) {
        *list = t->next;
        qc_free(t);
    }
}

/* The text of a failure, kept until the next reap. */
static const char *tell_text(qchain_queue *q, struct qc_request *r)
{
    struct qc_text *t = r->text;

    if (!t)
        return plain_text(r->result);
    t->next = q->told;
    q->told = t;
    r->text = NULL;
    return t->s;
}

/* Move up to max finished requests into out. */
static uint32_t give_out(qchain_queue *q, qchain_completion *out, uint32_t max)
{
    struct qc_request *r;
    uint32_t n = 0;

    for (; n < max && (r = q->done); n++) {
        q->done = r->next;
        out[n] = (qchain_completion){.user = r->user, .result = r->result};
        if (__builtin_expect(r->result != 0, 0))
            out[n].error = tell_text(q, r);
        r->next = q->free;
        q->free = r;
    }
    if (!q->done)
        q->done_end = &q->done;
    q->n_done -= n;
    q->pending -= n;
    return n;
}

int qc_queue_reap(qchain_queue *q, qchain_completion *out, uint32_t min, uint32_t max,
                  int timeout_ms)
{
    uint32_t n;

    if (q->told)
        drop_texts(&q->told);
    min = (uint32_t)qc_min64(qc_min64(min, max), q->pending);
    q->signalled = false;
    if (q->n_held > 0)
        qc_requests_start_held(q);
    if (q->polled && (!q->ring || q->pollfd >= 0))
        clear_eventfd(q); /* before anything is taken that it may stand for */
    harvest(q, max);
    if (q->n_done < min)
        wait_for(q, min, max, timeout_ms);
    while (q->ring && qc_uring_unsubmitted(q->ring) > 0) {
        qc_uring_submit(q->ring);
        harvest(q, max);
    }
    n = give_out(q, out, max);
    if (q->polled) {
        if (q->ring)
            qc_uring_watch(q->ring, q->eventfd);
        q->signalled = false; /* it may have been taken since */
        tell_pollers(q);
    }
    return (int)n;
}

/* Where the ring would not tell of the eventfd: a descriptor that tells of both. */
static int poll_both(qchain_queue *q)
{
    struct epoll_event in = {.events = EPOLLIN};
    int fd = epoll_create1(EPOLL_CLOEXEC);

    if (fd >= 0 && epoll_ctl(fd, EPOLL_CTL_ADD, q->eventfd, &in) == 0 &&
        epoll_ctl(fd, EPOLL_CTL_ADD, qc_uring_fd(q->ring), &in) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

int qc_queue_fd(qchain_queue *q)
{
    if (!q->polled) {
        if (q->ring && !qc_uring_watch(q->ring, q->eventfd)) {
            q->pollfd = poll_both(q);
            if (q->pollfd < 0)
                return QCHAIN_E_IO;
        }
        q->polled = true;
        atomic_store(&q->listening, true);
        if (atomic_load(&q->inbox))
            signal_pollers(q);
        tell_pollers(q);
    }
    if (q->pollfd >= 0)
        return q->pollfd;
    return q->ring ? qc_uring_fd(q->ring) : q->eventfd;
}

/* ------------------------------------------------------------------ cancel --- */

static void cancel_one(qchain_queue *q, struct qc_request *r)
{
    r->cancelled = true;
    for (uint32_t i = 0; i < QC_RING_PIECES; i++)
        if (r->in_ring >> i & 1)
            qc_uring_cancel(q->ring, r->pieces ? &r->pieces->read[i] : &r->read);
    /* One that has begun is handed back by whoever has it. */
    if (((r->elsewhere == QC_LEAF || r->elsewhere == QC_WHOLE) &&
         qc_tasks_withdraw(qc_request_tasks(q, r->elsewhere), &r->task)) ||
        (r->elsewhere == QC_PARKED && r->kind != QC_REQUEST_READ && qc_request_unpark(q, r))) {
        q->n_elsewhere--;
        r->elsewhere = QC_NOTHING;
        r->result = QCHAIN_E_CANCELLED;
        go_on(q, r);
    }
}

int qc_queue_cancel(qchain_queue *q, void *user)
{
    int n = 0;

    if (q->n_held > 0)
        qc_requests_start_held(q);
    for (uint32_t i = 0; i < q->depth; i++) {
        struct qc_request *r = &q->request[i];

        if (r->working && r->user == user) {
            cancel_one(q, r);
            n++;
        }
    }
    if (q->ring)
        qc_uring_submit(q->ring); /* those that were held */
    tell_pollers(q);
    return n;
}

uint32_t qc_queue_pending(const qchain_queue *q)
{
    return q->pending;
}

qchain *qc_queue_chain(const qchain_queue *q)
{
    return q->c;
}

bool qc_queue_uses_uring(const qchain_queue *q)
{
    return q->ring != NULL;
}

/* --------------------------------------------------------- create and close --- */

static void destroy(qchain_queue *q)
{
    qc_uring_destroy(q->ring);
    if (q->pollfd >= 0)
        close(q->pollfd);
    if (q->eventfd >= 0)
        close(q->eventfd);
    qc_free(q->request);
    qc_free(q);
}

int qc_queue_create(qchain_queue **out, qchain *c, unsigned depth, bool use_uring,
                    qchain_error *err)
{
    qchain_queue *q = qc_aligned(_Alignof(qchain_queue), sizeof(*q));
    size_t size = depth * sizeof(*q->request);

    if (!q)
        return qc_fail_nomem(err);
    memset(q, 0, sizeof(*q));
    q->c = c;
    q->depth = depth;
    q->done_end = &q->done;
    q->pollfd = -1;
    q->eventfd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (q->eventfd < 0) {
        int errnum = errno;

        destroy(q);
        return qc_fail_errno(err, errnum, "queue: cannot make an eventfd");
    }
    q->request = qc_aligned(_Alignof(struct qc_request), size);
    if (!q->request) {
        destroy(q);
        return qc_fail_nomem(err);
    }
    memset(q->request, 0, size);
    for (unsigned i = depth; i-- > 0;) {
        q->request[i].q = q;
        q->request[i].iov = &q->request[i].one;
        q->request[i].next = q->free;
        q->free = &q->request[i];
    }
    if (use_uring)
        q->ring = qc_uring_create(depth, c->n_sources);
    *out = q;
    return 0;
}

void qc_queue_close(qchain_queue *q)
{
    if (!q)
        return;
    if (q->n_held > 0)
        qc_requests_start_held(q);
    for (uint32_t i = 0; i < q->depth; i++)
        if (q->request[i].working)
            cancel_one(q, &q->request[i]);
    while (q->n_done < q->pending) {
        harvest(q, UINT32_MAX);
        if (q->n_done < q->pending)
            sleep_for_more(q, -1);
    }
    while (atomic_load(&q->givers) != 0)
        sched_yield();
    for (struct qc_request *r = q->done; r; r = r->next)
        drop_texts(&r->text);
    drop_texts(&q->told);
    destroy(q);
}
