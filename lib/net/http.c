/* SPDX-License-Identifier: MIT */
#include "net/http_int.h"

#include "net/config_int.h"
#include "util/alloc.h"

/* Requests that a worker has before another one gets some. */
#define ENOUGH 16u

/* Who waits in qc_http_perform. */
struct http_waiter {
    pthread_mutex_t lock;
    pthread_cond_t  cond;
    bool            done;
    int             ret;
};

struct qc_http *qc_http_create(const qchain_remote *conf, const struct qc_log *log,
                               struct qc_slots *slots)
{
    struct qc_http *h = qc_calloc(1, sizeof(*h));

    if (!h)
        return NULL;
    h->conf = conf;
    h->log = log;
    h->slots = slots;
    atomic_init(&h->retry_tokens, QC_RETRY_MOST);
    atomic_init(&h->hedge_tokens, QC_HEDGE_MOST);
    if (pthread_mutex_init(&h->lock, NULL) != 0) {
        qc_free(h);
        return NULL;
    }
    return h;
}

static void stop_all(struct qc_http *h)
{
    for (unsigned i = 0; i < h->n_workers; i++)
        qc_worker_stop(&h->worker[i]);
    qc_tasks_destroy(h->helpers);
    h->helpers = NULL;
    for (unsigned i = 0; i < h->n_workers; i++)
        qc_worker_free(&h->worker[i]);
    qc_free(h->worker);
    h->worker = NULL;
    h->n_workers = 0;
}

void qc_http_abort(struct qc_http *h)
{
    atomic_store(&h->aborted, true);
    if (!atomic_load_explicit(&h->started, memory_order_acquire))
        return;
    for (unsigned i = 0; i < h->n_workers; i++) {
        atomic_store(&h->worker[i].cancels, true);
        qc_worker_wake(&h->worker[i]);
    }
}

void qc_http_destroy(struct qc_http *h)
{
    if (!h)
        return;
    atomic_store(&h->stop, true);
    pthread_mutex_lock(&h->lock); /* nobody starts any more */
    pthread_mutex_unlock(&h->lock);
    stop_all(h);
    pthread_mutex_destroy(&h->lock);
    qc_free(h);
}

int qc_http_available(qchain_error *err)
{
    return qc_curl_load(err) ? 0 : QCHAIN_E_UNSUPPORTED;
}

/* ------------------------------------------------------------------------ starting --- */

static int start_all(struct qc_http *h, qchain_error *err)
{
    unsigned n = h->conf->workers > 0 ? h->conf->workers : 1;
    unsigned limit = h->conf->connections / n;
    int ret = 0;

    h->curl = qc_curl_load(err);
    if (!h->curl)
        return QCHAIN_E_UNSUPPORTED;
    h->worker = qc_calloc(n, sizeof(*h->worker));
    h->helpers = qc_tasks_create(2);
    if (!h->worker || !h->helpers)
        return qc_fail_nomem(err);
    for (h->n_workers = 0; h->n_workers < n && ret == 0; h->n_workers++) {
        struct http_worker *w = &h->worker[h->n_workers];

        w->h = h;
        w->curl = h->curl;
        w->limit = limit > 0 ? limit : 1;
        w->poll_fd = w->wake_fd = -1;
        ret = qc_worker_start(w, err);
    }
    return ret;
}

static int start(struct qc_http *h, qchain_error *err)
{
    int ret = 0;

    if (atomic_load_explicit(&h->started, memory_order_acquire))
        return 0;
    pthread_mutex_lock(&h->lock);
    if (!atomic_load(&h->started)) {
        ret = start_all(h, err);
        if (ret != 0) {
            /* Those that were started have nothing to do. */
            bool stopped = atomic_exchange(&h->stop, true);

            stop_all(h);
            atomic_store(&h->stop, stopped);
        } else {
            atomic_store_explicit(&h->started, true, memory_order_release);
        }
    }
    pthread_mutex_unlock(&h->lock);
    return ret;
}

/* ------------------------------------------------------------------------ requests --- */

/* While requests are few they share connections of one worker; when there are more, all workers have
 * some, also of one origin. */
static struct http_worker *choose(struct qc_http *h)
{
    struct http_worker *least = &h->worker[0];
    unsigned least_load = UINT32_MAX;

    for (unsigned i = 0; i < h->n_workers; i++) {
        struct http_worker *w = &h->worker[i];
        unsigned load = atomic_load_explicit(&w->load, memory_order_relaxed);

        if (load < ENOUGH && load < w->limit)
            return w;
        if (load < least_load) {
            least = w;
            least_load = load;
        }
    }
    return least;
}

static void add_tokens(atomic_int *tokens, int most)
{
    if (atomic_load_explicit(tokens, memory_order_relaxed) < most)
        atomic_fetch_add_explicit(tokens, 1, memory_order_relaxed);
}

void qc_op_tell(struct qc_http_private *op, int ret)
{
    struct qc_http_request *r = op->r;
    struct http_waiter *waiter = op->waiter;

    qc_conf_wipe(op->hop);
    op->hop = NULL;
    if (waiter) {
        r->priv = NULL;
        qc_free(op);
        pthread_mutex_lock(&waiter->lock);
        waiter->ret = ret;
        waiter->done = true;
        pthread_cond_signal(&waiter->cond);
        pthread_mutex_unlock(&waiter->lock);
        return;
    }
    /* A cancel may look at op until done returns; r may be freed by then. */
    r->done(r, ret);
    qc_free(op);
}

/* 0, or a failure in r->err with which it is not begun. */
static int submit(struct qc_http *h, struct qc_http_request *r, struct http_waiter *waiter)
{
    uint32_t deadline_ms = r->deadline_ms ? r->deadline_ms : h->conf->deadline_ms;
    struct qc_http_private *op;
    int ret;

    qc_error_init(&r->err);
    memset(&r->got, 0, sizeof(r->got));
    r->have = 0;
    r->attempts = 0;
    r->status = 0;
    r->priv = NULL;
    ret = start(h, &r->err);
    if (ret != 0)
        return ret;
    if (atomic_load(&h->stop) || atomic_load(&h->aborted))
        return qc_fail(&r->err, QCHAIN_E_CANCELLED, "cancelled: the environment ends");
    op = qc_calloc(1, sizeof(*op));
    if (!op)
        return qc_fail_nomem(&r->err);
    op->r = r;
    op->waiter = waiter;
    op->may_retry = !(r->flags & QC_HTTP_ONCE);
    op->begun_us = qc_http_now_us();
    op->deadline_us = op->begun_us + (int64_t)deadline_ms * 1000;
    add_tokens(&h->retry_tokens, QC_RETRY_MOST);
    add_tokens(&h->hedge_tokens, QC_HEDGE_MOST);
    op->w = choose(h);
    atomic_fetch_add_explicit(&op->w->load, 1, memory_order_relaxed);
    r->priv = op;
    qc_worker_give(op->w, op);
    return 0;
}

void qc_http_submit(struct qc_http *h, struct qc_http_request *r)
{
    int ret = submit(h, r, NULL);

    if (ret != 0)
        r->done(r, ret);
}

void qc_http_cancel(struct qc_http *h, struct qc_http_request *r)
{
    struct qc_http_private *op = r->priv;

    (void)h;
    if (!op)
        return;
    atomic_store(&op->cancelled, true);
    atomic_store(&op->w->cancels, true);
    qc_worker_wake(op->w);
}

int qc_http_perform(struct qc_http *h, struct qc_http_request *r)
{
    struct http_waiter waiter = {.done = false};
    int ret;

    pthread_mutex_init(&waiter.lock, NULL);
    pthread_cond_init(&waiter.cond, NULL);
    ret = submit(h, r, &waiter);
    if (ret == 0) {
        pthread_mutex_lock(&waiter.lock);
        while (!waiter.done)
            pthread_cond_wait(&waiter.cond, &waiter.lock);
        pthread_mutex_unlock(&waiter.lock);
        ret = waiter.ret;
    }
    pthread_cond_destroy(&waiter.cond);
    pthread_mutex_destroy(&waiter.lock);
    return ret;
}

uint64_t qc_http_first_byte_us(struct qc_http *h, unsigned percentile)
{
    return qc_latency_at(&h->first_byte, percentile);
}

uint64_t qc_http_total_us(struct qc_http *h, unsigned percentile)
{
    return qc_latency_at(&h->total, percentile);
}
