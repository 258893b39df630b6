/* SPDX-License-Identifier: MIT */
/* Requests that change the disk. */
#include "chain/queue_int.h"

#include <string.h>

#include "util/alloc.h"
#include "util/bytes.h"

void qc_request_let_go(qchain_queue *q, struct qc_request *r)
{
    struct qc_tip *t = q->c->tip;
    uint8_t holds = r->holds;

    r->holds = 0;
    if (holds & QC_HOLDS_PLACE)
        t->ops->abort_alloc(t->img, &r->new->place);
    if (holds & QC_HOLDS_RANGE)
        qc_range_lock_give(&t->ranges, &r->new->lock);
    if (holds & QC_HOLDS_EPOCH)
        qc_tip_exit(t, r->token);
    if (holds & QC_HOLDS_ADMISSION)
        qc_admission_leave(&t->admission);
    qc_free(r->new);
    r->new = NULL;
}

/* ------------------------------------------------------------ other threads --- */

int qc_request_work_write(struct qc_request *r, qchain_error *err)
{
    qchain *c = r->q->c;
    struct qc_cursor cur = {r->iov, 0};
    int ret;

    if (r->elsewhere == QC_LEAF) { /* it is inside, and has a place */
        if (r->new)
            cur.iov = r->new->iov;
        ret = qc_tip_write_at(c, &cur, r->host, r->host_length, err);
        if (ret != 0)
            qc_layer_prefix(c, 0, err);
        return ret;
    }
    switch ((enum qc_request_kind)r->kind) {
    case QC_REQUEST_WRITE:
        return qc_chain_writev(c, r->iov, r->n_iov, r->length, r->offset, r->flags, err);
    case QC_REQUEST_ZEROES:
        return qc_chain_write_zeroes(c, r->length, r->offset, r->flags, err);
    case QC_REQUEST_DISCARD:
        return qc_chain_discard(c, r->length, r->offset, err);
    case QC_REQUEST_FLUSH:
        return qc_chain_flush(c, err);
    case QC_REQUEST_READ:
        break;
    }
    return 0;
}

static int by_walker(qchain_queue *q, struct qc_request *r)
{
    qc_request_let_go(q, r);
    return qc_request_send(q, r, QC_WHOLE) ? 0 : QCHAIN_E_NOMEM;
}

static void back(struct qc_request *r)
{
    r->ret = 0;
    qc_request_hand_back(r);
}

static void admitted_now(struct qc_admission_waiter *w)
{
    back((struct qc_request *)(void *)((char *)w - offsetof(struct qc_request, admission)));
}

/* Once this was called another thread may have it already. */
static void park(qchain_queue *q, struct qc_request *r)
{
    r->elsewhere = QC_PARKED;
    q->n_elsewhere++;
}

static void unpark(qchain_queue *q, struct qc_request *r)
{
    r->elsewhere = QC_NOTHING;
    q->n_elsewhere--;
}

static bool admit(qchain_queue *q, struct qc_request *r)
{
    if (r->holds & QC_HOLDS_ADMISSION)
        return true;
    r->admission.ready = admitted_now;
    park(q, r);
    if (!qc_admission_try(&q->c->tip->admission, &r->admission))
        return false;
    unpark(q, r);
    r->holds |= QC_HOLDS_ADMISSION;
    return true;
}

bool qc_request_unpark(qchain_queue *q, struct qc_request *r)
{
    struct qc_tip *t = q->c->tip;

    if (!(r->holds & QC_HOLDS_RANGE))
        return qc_admission_withdraw(&t->admission, &r->admission);
    if (!qc_range_lock_withdraw(&t->ranges, &r->new->lock))
        return false;
    r->holds &= (uint8_t)~QC_HOLDS_RANGE;
    return true;
}

/* ---------------------------------------------------------------- new places --- */

static void granted_now(struct qc_range_lock *l)
{
    back(((struct qc_new_place *)(void *)l)->r);
}

/* 1: the clusters are locked now; 0: the request is parked; or NOMEM. */
static int lock_clusters(qchain_queue *q, struct qc_request *r, const struct qc_place *p)
{
    struct qc_tip *t = q->c->tip;
    struct qc_new_place *new;

    if (r->holds & QC_HOLDS_RANGE)
        return 1;
    new = qc_malloc(sizeof(*new) + (r->n_iov + 2u) * sizeof(new->iov[0]));
    if (!new)
        return QCHAIN_E_NOMEM;
    new->r = r;
    new->lock.start = qc_align_down(p->offset, t->unit);
    new->lock.end = qc_align_up(p->offset + p->length, t->unit);
    new->lock.granted = granted_now;
    r->new = new;
    r->holds |= QC_HOLDS_RANGE; /* when it is looked at again it is so */
    park(q, r);
    if (!qc_range_lock_try(&t->ranges, &new->lock))
        return 0;
    unpark(q, r);
    return 1;
}

/* Does what the units have besides read as zeros, as far as is known? */
static bool needs_no_reading(qchain *c, const struct qc_place *p)
{
    uint64_t end = p->offset + p->length, unit_end = p->unit + p->unit_length;
    qchain_error why;
    bool zero = true;

    qc_error_init(&why);
    if (p->unit < p->offset && qc_tip_is_zero(c, p->unit, p->offset, QC_TIP_NO_WAIT, &zero, &why) != 0)
        return false;
    if (zero && end < unit_end && qc_tip_is_zero(c, end, unit_end, QC_TIP_NO_WAIT, &zero, &why) != 0)
        return false;
    return zero;
}

/* What is to be written, and where: r->host and r->host_length; its pieces go to new->iov. How many; 0: too much. */
static uint32_t gather(struct qc_request *r)
{
    struct qc_new_place *new = r->new;
    const struct qc_place *p = &new->place;
    uint64_t head = p->offset - p->unit, tail = p->unit + p->unit_length - (p->offset + p->length);
    uint32_t n = 0;

    r->host = p->unit_host + head;
    r->host_length = r->length;
    if (!p->zeroed && (head > QC_TIP_ZEROS || tail > QC_TIP_ZEROS))
        return 0;
    if (!p->zeroed && head > 0) {
        new->iov[n++] = (qchain_iov){qc_tip_zeros, head};
        r->host -= head;
        r->host_length += head;
    }
    memcpy(new->iov + n, r->iov, r->n_iov * sizeof(new->iov[0]));
    n += r->n_iov;
    if (!p->zeroed && tail > 0) {
        new->iov[n++] = (qchain_iov){qc_tip_zeros, tail};
        r->host_length += tail;
    }
    return n;
}

static bool into_ring(qchain_queue *q, struct qc_request *r, const qchain_iov *iov, uint32_t n_iov)
{
    struct qc_tip *t = q->c->tip;
    bool taken;

    if (!q->ring)
        return false;
    r->read.user = r;
    if (n_iov == 1)
        taken = qc_uring_prepare_write(q->ring, &r->read, t->data, t->source, iov->base, r->host_length,
                                       r->host);
    else
        taken = qc_uring_prepare_writev(q->ring, &r->read, t->data, t->source, iov, n_iov,
                                        r->host_length, r->host);
    if (taken)
        r->in_ring = 1;
    return taken;
}

static int start_in_place(qchain_queue *q, struct qc_request *r, const struct qc_place *p)
{
    if (r->new) { /* it became the tip's own while the lock was waited for */
        r->holds &= (uint8_t)~QC_HOLDS_RANGE;
        qc_range_lock_give(&q->c->tip->ranges, &r->new->lock);
        qc_free(r->new);
        r->new = NULL;
    }
    if (p->length < r->length)
        return by_walker(q, r);
    r->host = p->host;
    r->host_length = r->length;
    if (into_ring(q, r, r->iov, r->n_iov))
        return 1;
    return qc_request_send(q, r, QC_LEAF) ? 0 : QCHAIN_E_NOMEM;
}

static int start_new(qchain_queue *q, struct qc_request *r, struct qc_place *p)
{
    struct qc_tip *t = q->c->tip;
    qchain_error why;
    uint32_t n;
    int ret;

    if (p->length < r->length)
        return by_walker(q, r);
    ret = lock_clusters(q, r, p);
    if (ret <= 0)
        return ret < 0 ? by_walker(q, r) : 0;
    qc_error_init(&why);
    /* Now that nobody else changes what lies there. */
    if (t->ops->place(t->img, r->offset, r->length, p, &why) != 0)
        return by_walker(q, r);
    if (p->own)
        return start_in_place(q, r, p);
    if (p->length < r->length || !needs_no_reading(q->c, p))
        return by_walker(q, r);
    r->new->place = *p;
    if (t->ops->alloc(t->img, &r->new->place, &why) != 0)
        return by_walker(q, r); /* which can say why */
    r->holds |= QC_HOLDS_PLACE;
    n = r->new->place.length == r->length ? gather(r) : 0;
    if (n == 0)
        return by_walker(q, r);
    if (into_ring(q, r, r->new->iov, n))
        return 1;
    return qc_request_send(q, r, QC_LEAF) ? 0 : QCHAIN_E_NOMEM;
}

/* -------------------------------------------------------------------- start --- */

int qc_request_start_write(qchain_queue *q, struct qc_request *r)
{
    struct qc_tip *t = q->c->tip;
    struct qc_place p;
    qchain_error why;

    if (r->kind != QC_REQUEST_FLUSH && !admit(q, r))
        return 0;
    if (r->kind != QC_REQUEST_WRITE || r->flags & QCHAIN_WRITE_FUA || t->durable || !qc_tip_is_marked(t) ||
        r->offset + r->length > q->c->size)
        return by_walker(q, r);
    if (!(r->holds & QC_HOLDS_EPOCH)) {
        r->token = qc_epoch_enter(t->requests);
        r->holds |= QC_HOLDS_EPOCH;
    }
    qc_error_init(&why);
    if (t->ops->place(t->img, r->offset, r->length, &p, &why) != 0)
        return by_walker(q, r);
    return p.own ? start_in_place(q, r, &p) : start_new(q, r, &p);
}

/* What was written becomes the disk's. */
static void enter_place(qchain_queue *q, struct qc_request *r)
{
    struct qc_tip *t = q->c->tip;
    qchain_error why;

    if (!(r->holds & QC_HOLDS_PLACE))
        return;
    qc_error_init(&why);
    r->holds &= (uint8_t)~QC_HOLDS_PLACE;
    r->result = t->ops->finish_alloc(t->img, &r->new->place, &why);
    if (r->result != 0) {
        qc_layer_prefix(q->c, 0, &why);
        r->text = qc_text_of(&why);
    }
}

bool qc_request_wrote(qchain_queue *q, struct qc_request *r, bool whole)
{
    if (whole) {
        qc_count_bytes(q->c->env->slots, QC_CNT_STORE_WRITES, r->host_length); /* past the store's door */
        qc_store_wrote(q->c->tip->data, r->host, r->host_length);
        enter_place(q, r);
    } else {
        qc_store_failed(q->c->tip->data, r->host, r->host_length);
    }
    qc_tip_note_write(q->c, r->offset, r->length); /* some of it may be there */
    if (!whole)
        qc_request_let_go(q, r);
    return whole;
}

void qc_request_leaf_wrote(qchain_queue *q, struct qc_request *r)
{
    r->result = r->ret;
    if (r->ret == 0)
        enter_place(q, r);
    qc_tip_note_write(q->c, r->offset, r->length);
}
