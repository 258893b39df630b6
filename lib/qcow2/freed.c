/* SPDX-License-Identifier: MIT */
/*
 * Clusters on their way to being free:
 *
 *   open      nothing in memory refers to them any more
 *   taken     by a flush, which writes so; back to open if it fails
 *   retired   nothing on the medium does; but who looked one up before may be reading it still
 *   ready     everyone who was inside then has left: the count falls
 */
#include <inttypes.h>

#include "qcow2/writer_int.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"
#include "util/vec.h"

struct stretch {
    uint64_t cluster, n;
};

struct qc2_batch {
    struct qc_retired retired; /* first */
    struct qc2_batch *next;
    struct qc2_freed *freed;
    struct stretch   *s;
    size_t            n, cap;
};

struct qc2_freed {
    struct qc2_batch *open;                   /* the first takes what comes */
    atomic_size_t     n_retired;              /* batches */
    _Atomic(struct qc2_batch *) ready;
};

static void batch_free(struct qc2_batch *b)
{
    if (b)
        qc_free(b->s);
    qc_free(b);
}

/* ------------------------------------------------------------------------ open --- */

static struct stretch *new_stretch(struct qc2_freed *f)
{
    struct qc2_batch *b = f->open;
    void *p;
    int rc;

    if (!b) {
        b = f->open = qc_calloc(1, sizeof(*b));
        if (!b)
            return NULL;
        b->freed = f;
    }
    p = b->s;
    rc = qc_grow(&p, &b->cap, b->n + 1, sizeof(*b->s));
    b->s = p;
    return rc == 0 ? &b->s[b->n++] : NULL;
}

void qc2_free_later(struct qc2_writer *w, uint64_t host, uint64_t length)
{
    unsigned bits = w->q->header.cluster_bits;
    uint64_t first = host >> bits, n;
    struct qc2_batch *b = w->freed->open;
    struct stretch *s;

    if (length == 0)
        return;
    n = ((host + length - 1) >> bits) - first + 1;
    if (qc2_breaks(4)) {
        qc2_refcount_add(w, host, length, -1, NULL);
        return;
    }
    if (b && b->n > 0 && b->s[b->n - 1].cluster + b->s[b->n - 1].n == first) {
        b->s[b->n - 1].n += n;
        return;
    }
    s = new_stretch(w->freed);
    if (s)
        *s = (struct stretch){first, n};
    else
        qc2_say(w, QCHAIN_LOG_WARN, "no memory: %" PRIu64 " clusters at %" PRIu64 " are lost", n, host);
}

struct qc2_batch *qc2_freed_take(struct qc2_writer *w)
{
    struct qc2_batch *list = w->freed->open;

    w->freed->open = NULL;
    return list;
}

void qc2_freed_untake(struct qc2_writer *w, struct qc2_batch *list)
{
    struct qc2_batch **end = &w->freed->open;

    while (*end)
        end = &(*end)->next;
    *end = list;
}

/* --------------------------------------------------------------------- retired --- */

static void now_ready(struct qc_retired *r)
{
    struct qc2_batch *b = (struct qc2_batch *)r;
    struct qc2_freed *f = b->freed;

    b->next = atomic_load(&f->ready);
    while (!atomic_compare_exchange_weak(&f->ready, &b->next, b))
        continue;
    atomic_fetch_sub(&f->n_retired, 1);
}

void qc2_freed_retire(struct qc2_writer *w, struct qc2_batch *list)
{
    struct qc2_batch *next;

    for (; list; list = next) {
        next = list->next;
        list->retired.free_fn = now_ready;
        atomic_fetch_add(&w->freed->n_retired, 1);
        qc_epoch_retire(w->requests, &list->retired);
    }
}

/* ----------------------------------------------------------------------- ready --- */

/* One reference less. With discarding, one that is the last is kept, and *last set. */
static int give_back(struct qc2_writer *w, uint64_t cluster, bool *last, qchain_error *err)
{
    unsigned bits = w->q->header.cluster_bits;
    uint64_t count, size = w->q->base.cluster_size;
    int rc;

    *last = false;
    if (w->discard) {
        rc = qc2_refcount_get(w, cluster << bits, &count, err);
        *last = rc == 0 && count == 1;
        if (*last && w->counts->packed && (w->counts->packed - 1) >> bits == cluster)
            w->counts->packed = 0;
        if (rc < 0 || *last)
            return rc;
    }
    return qc2_refcount_add(w, cluster << bits, size, -1, err);
}

/* Leave in the batch what is to be discarded first: stretches only become fewer or shorter, unless one falls
 * apart. */
static void give_back_batch(struct qc2_writer *w, struct qc2_batch *b, struct qc2_batch *rest)
{
    qchain_error err;
    bool last;

    for (size_t i = 0; i < b->n; i++)
        for (uint64_t c = b->s[i].cluster; c < b->s[i].cluster + b->s[i].n; c++) {
            struct stretch *end = rest->n ? &rest->s[rest->n - 1] : NULL;
            void *p = rest->s;

            qc_error_init(&err);
            if (give_back(w, c, &last, &err) < 0)
                qc2_say(w, QCHAIN_LOG_WARN, "the cluster at %" PRIu64 " is lost: %s",
                        c << w->q->header.cluster_bits, err.text);
            if (!last)
                continue;
            if (end && end->cluster + end->n == c) {
                end->n++;
            } else if (qc_grow(&p, &rest->cap, rest->n + 1, sizeof(*rest->s)) == 0) {
                rest->s = p;
                rest->s[rest->n++] = (struct stretch){c, 1};
            } else { /* without discarding it, then */
                qc2_count_set(w, c, 0, NULL);
            }
        }
}

void qc2_freed_work_locked(struct qc2_writer *w)
{
    struct qc2_batch none = {0}, *b, *next;

    if (w->discard || !atomic_load_explicit(&w->freed->ready, memory_order_relaxed))
        return;
    for (b = atomic_exchange(&w->freed->ready, NULL); b; b = next) {
        next = b->next;
        give_back_batch(w, b, &none);
        batch_free(b);
    }
}

static void discard_rest(struct qc2_writer *w, const struct qc2_batch *rest)
{
    unsigned bits = w->q->header.cluster_bits;

    for (size_t i = 0; i < rest->n; i++)
        qc_store_discard(w->store, rest->s[i].n << bits, rest->s[i].cluster << bits, NULL);
    pthread_mutex_lock(&w->lock);
    for (size_t i = 0; i < rest->n; i++)
        qc2_refcount_add(w, rest->s[i].cluster << bits, rest->s[i].n << bits, -1, NULL);
    pthread_mutex_unlock(&w->lock);
}

void qc2_freed_work(struct qc2_writer *w)
{
    struct qc2_batch rest = {0}, *b, *next;

    if (atomic_load(&w->freed->n_retired) > 0)
        qc_epoch_reclaim(w->requests);
    if (!atomic_load(&w->freed->ready) || atomic_load(&w->stopped))
        return;
    pthread_mutex_lock(&w->lock);
    for (b = atomic_exchange(&w->freed->ready, NULL); b; b = next) {
        next = b->next;
        give_back_batch(w, b, &rest);
        batch_free(b);
    }
    pthread_mutex_unlock(&w->lock);
    if (rest.n > 0)
        discard_rest(w, &rest);
    qc_free(rest.s);
}

/* ------------------------------------------------------------------------ life --- */

int qc2_freed_create(struct qc2_writer *w, qchain_error *err)
{
    w->freed = qc_calloc(1, sizeof(*w->freed));
    return w->freed ? QCHAIN_OK : qc_fail_nomem(err);
}

static void list_free(struct qc2_batch *b)
{
    struct qc2_batch *next;

    for (; b; b = next) {
        next = b->next;
        batch_free(b);
    }
}

void qc2_freed_destroy(struct qc2_writer *w)
{
    struct qc2_freed *f = w->freed;

    if (!f)
        return;
    if (atomic_load(&f->n_retired) > 0)
        qc_epoch_drain(w->requests);
    list_free(f->open);
    list_free(atomic_load(&f->ready));
    qc_free(f);
    w->freed = NULL;
}
