/* SPDX-License-Identifier: MIT */
/* What requests wait in: their origin's queue, a backoff, the making of their credentials. */
#include "net/http_int.h"

#include "util/alloc.h"

/* ------------------------------------------------------------------------ queues --- */

static void push(struct http_queue *q, struct qc_http_private *op, bool first)
{
    if (!q->first || !first) {
        op->next_q = NULL;
        if (!q->first)
            q->end = &q->first;
        *q->end = op;
        q->end = &op->next_q;
    } else {
        op->next_q = q->first;
        q->first = op;
    }
}

struct qc_http_private *qc_queue_pop(struct http_queue *q)
{
    struct qc_http_private *op = q->first;

    if (op) {
        q->first = op->next_q;
        if (!q->first)
            q->end = &q->first;
    }
    return op;
}

static struct http_queue *queue_of(struct qc_http_private *op)
{
    return &op->origin->queue[op->r->flags & QC_HTTP_META ? 0 : 1];
}

void qc_op_take_out(struct qc_http_private *op)
{
    struct http_queue *q = queue_of(op);
    struct qc_http_private **link = &q->first;

    while (*link != op)
        link = &(*link)->next_q;
    *link = op->next_q;
    if (!*link)
        q->end = link;
}

void qc_op_enqueue(struct qc_http_private *op, bool first)
{
    op->state = OP_QUEUED;
    push(queue_of(op), op, first);
}

void qc_worker_look_at(struct http_worker *w, int64_t when)
{
    if (when < w->scan_us)
        w->scan_us = when;
}

void qc_op_delay(struct qc_http_private *op, int64_t us)
{
    op->state = OP_DELAYED;
    op->due_us = qc_http_now_us() + us;
    qc_worker_look_at(op->w, op->due_us);
}

struct http_origin *qc_worker_origin(struct http_worker *w, const char *key)
{
    size_t len = qc_place_server(key);
    struct http_origin *o, **link = &w->origins;

    while ((o = *link)) {
        if (o->len == len && memcmp(o->name, key, len) == 0)
            return o;
        if (o->n_ops == 0 && o->window >= w->limit) { /* nothing to remember */
            *link = o->next;
            qc_free(o);
        } else {
            link = &o->next;
        }
    }
    o = qc_calloc(1, sizeof(*o) + len + 1);
    if (!o)
        return NULL;
    memcpy(o->name, key, len);
    o->len = len;
    o->window = w->limit;
    o->next = w->origins;
    w->origins = o;
    return o;
}

/* ------------------------------------------------------------------------- credentials --- */

static void prepare_run(struct qc_task *t)
{
    struct http_prepare *p = (struct http_prepare *)((char *)t - offsetof(struct http_prepare, task));
    struct http_worker *w = p->w;
    struct http_prepare *old = atomic_load(&w->prepared);

    p->ret = qc_place_prepare(p->place, p->refresh, &p->err);
    do
        p->next = old;
    while (!atomic_compare_exchange_weak(&w->prepared, &old, p));
    qc_worker_wake(w);
}

void qc_prepare_free(struct http_prepare *p)
{
    qc_place_unref(p->place);
    qc_free(p);
}

void qc_op_prepare(struct qc_http_private *op, bool refresh)
{
    struct http_prepare *p = qc_calloc(1, sizeof(*p));

    op->prepared++;
    if (!p) {
        qc_op_finish(op, qc_fail_nomem(&op->r->err));
        return;
    }
    qc_error_init(&p->err);
    p->w = op->w;
    p->op = op;
    p->place = qc_place_ref(op->r->place);
    p->refresh = refresh;
    p->task.key = p->place;
    p->task.run = prepare_run;
    op->state = OP_PREPARING;
    op->prepare = p;
    if (!qc_tasks_submit(op->w->h->helpers, &p->task)) {
        qc_prepare_free(p);
        op->prepare = NULL;
        qc_op_finish(op, qc_op_fail(op, QCHAIN_E_LIMIT, "no thread can be started"));
    }
}

void qc_worker_take_prepared(struct http_worker *w)
{
    struct http_prepare *p = atomic_load_explicit(&w->prepared, memory_order_relaxed), *next;

    if (!p)
        return;
    for (p = atomic_exchange(&w->prepared, NULL); p; p = next) {
        struct qc_http_private *op = p->op;

        next = p->next;
        if (op) {
            op->prepare = NULL;
            if (p->ret == 0) {
                qc_op_enqueue(op, true);
            } else {
                qc_error_copy(&op->r->err, &p->err);
                op->r->err.http_status = op->r->status;
                qc_op_finish(op, p->ret);
            }
        }
        qc_prepare_free(p);
    }
}
