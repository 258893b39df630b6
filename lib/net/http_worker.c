/* SPDX-License-Identifier: MIT */
/* A worker: its queues, its timers, its sockets. Sockets are watched by epoll of our own, as curl's own
 * loop looks at every transfer whenever one moves. */
#include "net/http_int.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "util/alloc.h"
#include "util/bytes.h"

#define MS INT64_C(1000)
#define NEVER INT64_MAX
#define EVENTS 64
#define GATHER_NS 50000   /* 100 MB/s of bulk bring 5 KB in that time, 1 GB/s 50 KB */
#define GATHER_LEAST 4u
#define GATHER_BYTES 32768u
#define STALL_RATE 1024    /* bytes a second */
#define HEDGE_LEAST_US (200 * MS)
#define HEDGE_BYTES (UINT64_C(2) << 20)

static _Thread_local struct http_worker *here; /* the worker whose thread this is */

/* ------------------------------------------------------------------------- begin, end --- */

void qc_op_finish(struct qc_http_private *op, int ret)
{
    struct http_worker *w = op->w;

    if (op->state == OP_QUEUED)
        qc_op_take_out(op);
    if (op->attempt)
        qc_attempt_end(op->attempt);
    if (op->hedge)
        qc_attempt_end(op->hedge);
    if (op->prepare)
        op->prepare->op = NULL;
    if (op->origin)
        op->origin->n_ops--;
    if (op->prev)
        op->prev->next = op->next;
    else
        w->ops = op->next;
    if (op->next)
        op->next->prev = op->prev;
    atomic_fetch_sub_explicit(&w->load, 1, memory_order_relaxed);
    if (ret == 0) /* an earlier attempt's */
        qc_error_init(&op->r->err);
    qc_op_tell(op, ret);
}

static void start(struct http_worker *w, struct qc_http_private *op)
{
    int ret = qc_attempt_begin(w, op, false);

    if (ret == 0) {
        op->state = OP_RUNNING;
        if (op->counted > 0)
            qc_count(w->h->slots, QC_CNT_HTTP_RETRIES, 1);
        qc_worker_look_at(w, qc_http_now_us() + HEDGE_LEAST_US);
    } else if (ret == 1) {
        op->state = OP_NEW;
        if (op->prepared < 3)
            qc_op_prepare(op, false);
        else
            qc_op_finish(op, qc_op_fail(op, QCHAIN_E_AUTH, "credentials expire at once"));
    } else {
        op->state = OP_NEW;
        qc_op_finish(op, ret);
    }
}

static void launch(struct http_worker *w)
{
    struct qc_http_private *op;

    for (struct http_origin *o = w->origins; o; o = o->next)
        while (o->running < (unsigned)o->window &&
               ((op = qc_queue_pop(&o->queue[0])) || (op = qc_queue_pop(&o->queue[1])))) {
            op->state = OP_NEW;
            start(w, op);
        }
}

/* One that was submitted. */
static void admit(struct http_worker *w, struct qc_http_private *op)
{
    op->next = w->ops;
    op->prev = NULL;
    if (w->ops)
        w->ops->prev = op;
    w->ops = op;
    op->origin = qc_worker_origin(w, qc_place_key(op->r->place));
    if (!op->origin) {
        qc_op_finish(op, qc_fail_nomem(&op->r->err));
        return;
    }
    op->origin->n_ops++;
    qc_worker_look_at(w, op->deadline_us);
    qc_op_enqueue(op, false);
}

static void take_inbox(struct http_worker *w)
{
    struct qc_http_private *op = atomic_load_explicit(&w->inbox, memory_order_relaxed);
    struct qc_http_private *next, *in_order = NULL;

    if (!op)
        return;
    for (op = atomic_exchange(&w->inbox, NULL); op; op = next) {
        next = op->next_in;
        op->next_in = in_order;
        in_order = op;
    }
    for (op = in_order; op; op = next) {
        next = op->next_in;
        admit(w, op);
    }
}

/* --------------------------------------------------------------------------- timers --- */

/* A token for a retry; they come back with requests, and with time. */
static bool take_retry_token(struct qc_http *h, int64_t now)
{
    int64_t then = atomic_load(&h->refilled_us), n = (now - then) * QC_RETRY_RATE / 1000000;
    int have;

    if (n > 0 && atomic_compare_exchange_strong(&h->refilled_us, &then, now)) {
        have = atomic_load(&h->retry_tokens);
        n = qc_min64((uint64_t)n * QC_RETRY_PRICE, QC_RETRY_MOST);
        if (have < QC_RETRY_MOST)
            atomic_fetch_add(&h->retry_tokens, (int)n);
    }
    have = atomic_load(&h->retry_tokens);
    while (have >= QC_RETRY_PRICE)
        if (atomic_compare_exchange_weak(&h->retry_tokens, &have, have - QC_RETRY_PRICE))
            return true;
    return false;
}

/* True if it was cut off for a stall. */
static bool is_stalled(struct http_worker *w, struct http_attempt *a, int64_t now)
{
    int64_t stall = w->h->conf->stall_ms * MS;
    uint64_t sum = a->got + a->sent + a->answer.n_bytes; /* falls when a header begins anew */
    uint64_t moved = sum > a->mark ? sum - a->mark : 0;
    uint64_t need = qc_max64(1, STALL_RATE * (uint64_t)w->h->conf->stall_ms / 1000);

    if (!a->ready) {
        /* curl's time for connecting holds, and after it ours begins; but curl may also keep a transfer waiting for
         * a connection that it takes for being in use, and then nobody looks at the clock. */
        if (now - a->begun_us < w->h->conf->connect_ms * MS + stall) {
            qc_worker_look_at(w, now + HEDGE_LEAST_US);
            return false;
        }
        qc_attempt_cut(a, CUT_STALL, "no connection in %.1f s", (double)(now - a->begun_us) / 1e6);
        return true;
    }
    if (moved >= need) {
        a->mark += moved;
        a->mark_us = now;
    }
    if (now - a->mark_us < stall) {
        qc_worker_look_at(w, a->mark_us + stall);
        return false;
    }
    qc_attempt_cut(a, CUT_STALL, "the transfer stalls: %llu bytes in %.1f s",
                   (unsigned long long)moved, (double)(now - a->mark_us) / 1e6);
    return true;
}

static void maybe_hedge(struct http_worker *w, struct qc_http_private *op, int64_t now)
{
    const struct http_attempt *a = op->attempt;
    const struct qc_http_request *r = op->r;
    struct qc_http *h = w->h;
    int64_t late;

    if (!h->conf->hedge || r->method != QC_HTTP_GET || op->hedge || a->first_us != 0 ||
        r->flags & (QC_HTTP_NO_HEDGE | QC_HTTP_ONCE) || r->length - r->have > HEDGE_BYTES)
        return;
    late = (int64_t)qc_max64(4 * qc_latency_at(&h->first_byte, 95), (uint64_t)HEDGE_LEAST_US);
    if (now - a->begun_us < late) {
        qc_worker_look_at(w, a->begun_us + late);
        return;
    }
    if (op->origin->running >= (unsigned)op->origin->window ||
        atomic_load(&h->hedge_tokens) < QC_HEDGE_PRICE) {
        qc_worker_look_at(w, now + HEDGE_LEAST_US);
        return;
    }
    atomic_fetch_sub(&h->hedge_tokens, QC_HEDGE_PRICE);
    if (qc_attempt_begin(w, op, true) == 0)
        qc_count(h->slots, QC_CNT_HTTP_HEDGES, 1);
}

static void check_running(struct http_worker *w, struct qc_http_private *op, int64_t now)
{
    struct http_attempt *two[2] = {op->attempt, op->hedge};
    enum http_state state = op->state;

    for (int i = 0; i < 2; i++)
        if (two[i] && (two[i]->cut == CUT_LOST || is_stalled(w, two[i], now))) {
            /* With the end of one, the request may be at its end. */
            qc_attempt_over(two[i], CURLE_ABORTED_BY_CALLBACK);
            qc_worker_look_at(w, now);
            return;
        }
    if (state == OP_RUNNING && op->attempt)
        maybe_hedge(w, op, now);
}

static bool is_ending(const struct http_worker *w)
{
    return atomic_load_explicit(&w->h->stop, memory_order_relaxed) ||
           atomic_load_explicit(&w->h->aborted, memory_order_relaxed);
}

static void check(struct http_worker *w, struct qc_http_private *op, int64_t now)
{
    if (atomic_load(&op->cancelled) || is_ending(w)) {
        qc_op_finish(op, qc_op_fail(op, QCHAIN_E_CANCELLED, "cancelled"));
    } else if (now >= op->deadline_us) {
        qc_op_expire(op);
    } else {
        qc_worker_look_at(w, op->deadline_us);
        if (op->state == OP_RUNNING)
            check_running(w, op, now);
        else if (op->state == OP_DELAYED && now < op->due_us)
            qc_worker_look_at(w, op->due_us);
        else if (op->state == OP_DELAYED && take_retry_token(w->h, now))
            qc_op_enqueue(op, false);
        else if (op->state == OP_DELAYED)
            qc_op_delay(op, 20 * MS + (int64_t)(qc_worker_random(w) % 80000));
    }
}

/* Look at every request; each says when it wants to be looked at again. */
static void scan(struct http_worker *w)
{
    int64_t now = qc_http_now_us();
    struct qc_http_private *op, *next;

    if (atomic_load_explicit(&w->cancels, memory_order_relaxed) && atomic_exchange(&w->cancels, false))
        w->scan_us = now;
    if (is_ending(w))
        w->scan_us = now;
    if (now < w->scan_us)
        return;
    w->scan_us = NEVER;
    for (op = w->ops; op; op = next) {
        next = op->next;
        check(w, op, now);
    }
    if (w->scan_us < now + MS)
        w->scan_us = now + MS;
}

/* -------------------------------------------------------------------------- sockets --- */

static int on_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *known)
{
    struct http_worker *w = arg;
    struct epoll_event e = {.data.fd = fd};

    (void)easy;
    if (what == CURL_POLL_REMOVE) {
        epoll_ctl(w->poll_fd, EPOLL_CTL_DEL, fd, NULL);
        w->curl->multi_assign(w->multi, fd, NULL);
        return 0;
    }
    e.events = (what & CURL_POLL_IN ? EPOLLIN : 0u) | (what & CURL_POLL_OUT ? EPOLLOUT : 0u);
    /* A failure reported here would end every transfer; so this one is left to stall. */
    if (epoll_ctl(w->poll_fd, known ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &e) != 0)
        epoll_ctl(w->poll_fd, known ? EPOLL_CTL_ADD : EPOLL_CTL_MOD, fd, &e);
    if (!known)
        w->curl->multi_assign(w->multi, fd, w);
    return 0;
}

static int on_timer(CURLM *multi, long ms, void *arg)
{
    struct http_worker *w = arg;

    (void)multi;
    w->timer_us = ms < 0 ? -1 : ms == 0 ? 0 : qc_http_now_us() + ms * MS;
    return 0;
}

static void take_ended(struct http_worker *w)
{
    CURLMsg *m;
    int left;

    while ((m = w->curl->multi_info_read(w->multi, &left))) {
        struct http_attempt *a = NULL;
        CURLcode code = m->data.result;

        if (m->msg != CURLMSG_DONE)
            continue;
        w->curl->easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&a);
        qc_attempt_over(a, code);
    }
}

/* Until when to sleep, in ms; -1: until something comes. */
static int how_long(struct http_worker *w)
{
    int64_t now, until = w->scan_us;

    if (atomic_load(&w->inbox) || atomic_load(&w->prepared) || atomic_load(&w->cancels) ||
        atomic_load(&w->h->stop))
        return 0;
    if (w->timer_us >= 0 && w->timer_us < until)
        until = w->timer_us;
    if (until == NEVER)
        return -1;
    if (until <= 0)
        return 0;
    now = qc_http_now_us();
    return until <= now ? 0 : (int)qc_min64((uint64_t)(until - now + MS - 1) / MS, 60000);
}

static void drain_wakeups(struct http_worker *w)
{
    uint64_t n;

    while (read(w->wake_fd, &n, sizeof(n)) < 0 && errno == EINTR)
        continue;
}

/* Where nothing but bulk comes in, and faster than it is taken, let some of it gather: a call for each
 * packet costs more than the packet. */
static void let_gather(const struct http_worker *w)
{
    const struct timespec nap = {0, GATHER_NS};

    if (w->n_bulk >= GATHER_LEAST && w->n_bulk == w->n_running && w->moved >= GATHER_BYTES)
        nanosleep(&nap, NULL);
}

/* What curl has to do by itself. Transfers that were just begun are sent by this. */
static void move_timers(struct http_worker *w)
{
    int running;

    if (w->timer_us < 0 || (w->timer_us > 0 && w->timer_us > qc_http_now_us()))
        return;
    w->timer_us = -1;
    w->curl->multi_socket_action(w->multi, CURL_SOCKET_TIMEOUT, 0, &running);
    qc_attempts_tell(w);
}

static void wait_and_move(struct http_worker *w)
{
    struct epoll_event e[EVENTS];
    int n, running;

    /* Requests go out before what has come in is looked at: they have a round trip before them. */
    move_timers(w);
    let_gather(w);
    w->moved = 0;
    n = epoll_wait(w->poll_fd, e, EVENTS, how_long(w));

    for (int i = 0; i < n; i++) {
        /* Of an error alone curl finds out itself, and says better what it is. */
        int bits = (e[i].events & EPOLLIN ? CURL_CSELECT_IN : 0) |
                   (e[i].events & EPOLLOUT ? CURL_CSELECT_OUT : 0);

        if (e[i].data.fd == w->wake_fd)
            drain_wakeups(w);
        else
            w->curl->multi_socket_action(w->multi, e[i].data.fd, bits, &running);
        qc_attempts_tell(w);
    }
}

static void *worker_thread(void *arg)
{
    struct http_worker *w = arg;

    here = w;
    while (!atomic_load(&w->h->stop) || w->ops || atomic_load(&w->inbox)) {
        take_inbox(w);
        qc_worker_take_prepared(w);
        scan(w);
        launch(w);
        wait_and_move(w);
        take_ended(w);
    }
    return NULL;
}

/* ----------------------------------------------------------------------------- door --- */

uint64_t qc_worker_random(struct http_worker *w)
{
    uint64_t x = w->random;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    w->random = x;
    return x >> 11;
}

void qc_worker_wake(struct http_worker *w)
{
    const uint64_t one = 1;

    if (here == w)
        return;
    while (write(w->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        continue;
}

void qc_worker_give(struct http_worker *w, struct qc_http_private *op)
{
    struct qc_http_private *old = atomic_load(&w->inbox);

    do
        op->next_in = old;
    while (!atomic_compare_exchange_weak(&w->inbox, &old, op));
    if (!old) /* else somebody has woken it */
        qc_worker_wake(w);
}

static bool set_multi(struct http_worker *w)
{
    const struct qc_curl *c = w->curl;
    int bad = 0;

    bad |= (int)c->multi_setopt(w->multi, CURLMOPT_SOCKETFUNCTION, on_socket);
    bad |= (int)c->multi_setopt(w->multi, CURLMOPT_SOCKETDATA, (void *)w);
    bad |= (int)c->multi_setopt(w->multi, CURLMOPT_TIMERFUNCTION, on_timer);
    bad |= (int)c->multi_setopt(w->multi, CURLMOPT_TIMERDATA, (void *)w);
    bad |= (int)c->multi_setopt(w->multi, CURLMOPT_PIPELINING, (long)CURLPIPE_MULTIPLEX);
    /* How many there are is decided by who begins attempts; these are a net: what was cut off is not closed at once. */
    bad |= (int)c->multi_setopt(w->multi, CURLMOPT_MAX_HOST_CONNECTIONS, (long)w->limit * 2 + 16);
    bad |= (int)c->multi_setopt(w->multi, CURLMOPT_MAXCONNECTS, (long)w->limit * 2 + 16);
    return bad == 0;
}

int qc_worker_start(struct http_worker *w, qchain_error *err)
{
    struct epoll_event e = {.events = EPOLLIN};
    sigset_t all, old;
    int rc;

    w->timer_us = -1;
    w->scan_us = NEVER;
    w->random = ((uint64_t)qc_http_now_us() ^ (uint64_t)(uintptr_t)w) | 1;
    w->poll_fd = epoll_create1(EPOLL_CLOEXEC);
    w->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (w->poll_fd < 0 || w->wake_fd < 0)
        return qc_fail_errno(err, errno, "no descriptors for HTTP");
    e.data.fd = w->wake_fd;
    if (epoll_ctl(w->poll_fd, EPOLL_CTL_ADD, w->wake_fd, &e) != 0)
        return qc_fail_errno(err, errno, "no descriptors for HTTP");
    w->multi = w->curl->multi_init();
    if (!w->multi || !set_multi(w))
        return qc_fail_nomem(err);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&w->thread, NULL, worker_thread, w);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0)
        return qc_fail(err, QCHAIN_E_LIMIT, "no thread can be started");
    w->alive = true;
    return 0;
}

void qc_worker_stop(struct http_worker *w)
{
    if (!w->alive)
        return;
    qc_worker_wake(w);
    pthread_join(w->thread, NULL);
    w->alive = false;
}

void qc_worker_free(struct http_worker *w)
{
    struct qc_http_private *op = atomic_exchange(&w->inbox, NULL), *next;
    struct http_prepare *p, *next_p;
    struct http_attempt *a;
    struct http_origin *o;

    /* Of another worker's last done. */
    for (; op; op = next) {
        next = op->next_in;
        qc_op_tell(op, qc_op_fail(op, QCHAIN_E_CANCELLED, "cancelled"));
    }

    for (p = atomic_load(&w->prepared); p; p = next_p) {
        next_p = p->next;
        qc_prepare_free(p);
    }
    while ((a = w->spare)) {
        w->spare = a->next;
        qc_attempt_free(a);
    }
    while ((o = w->origins)) {
        w->origins = o->next;
        qc_free(o);
    }
    if (w->multi)
        w->curl->multi_cleanup(w->multi);
    if (w->poll_fd >= 0)
        close(w->poll_fd);
    if (w->wake_fd >= 0)
        close(w->wake_fd);
}
