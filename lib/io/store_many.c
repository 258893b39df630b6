/* SPDX-License-Identifier: MIT */
/* Several reads at once: where a store is far away, what is needed next should not wait for what
 * was needed before. */
#include <pthread.h>
#include <string.h>

#include "io/store.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"

#define AT_ONCE 256 /* reads of a batch */

struct batch {
    pthread_mutex_t lock;
    pthread_cond_t  over;
    size_t          left;   /* under the lock, as is all below */
    int             result; /* the first failure */
    size_t          failed;
    qchain_error   *err;
};

struct flying {
    qchain_store_read read;
    struct batch     *batch;
    struct qc_store  *store;
    size_t            number;
    qchain_error      err;
};

void qc_store_submit(struct qc_store *s, qchain_store_read *r)
{
    bool meta = r->flags & QCHAIN_STORE_META;

    r->struct_size = sizeof(*r);
    qc_count_bytes(s->slots, meta ? QC_CNT_META_READS : QC_CNT_STORE_READS, r->length);
    s->ops.submit(s->obj, r);
}

static void note(struct batch *b, size_t number, int result, const qchain_error *why)
{
    if (result == 0 || b->result != 0)
        return;
    b->result = result;
    b->failed = number;
    qc_error_copy(b->err, why);
}

static void landed(qchain_store_read *r, int result)
{
    struct flying *f = (struct flying *)(void *)r;
    struct batch *b = f->batch;

    if (result != 0)
        result = qc_store_failed(f->store, result, "submit", &f->err);
    pthread_mutex_lock(&b->lock);
    note(b, f->number, result, &f->err);
    if (--b->left == 0)
        pthread_cond_signal(&b->over); /* under the lock: the batch is gone after it */
    pthread_mutex_unlock(&b->lock);
}

/* Begin piece i if its store takes that, clipped by the store's end. */
static bool take_off(struct flying *f, struct batch *b, const struct qc_store_piece *p, size_t i,
                     uint32_t flags)
{
    struct qc_store *s = p->store;
    size_t inside = p->offset < s->size ? (size_t)qc_min64(p->length, s->size - p->offset) : 0;

    if (!qc_store_submits(s) || inside == 0 ||
        (inside < p->length && !(flags & QC_READ_PAST_END)))
        return false;
    memset((char *)p->buf + inside, 0, p->length - inside);
    qc_error_init(&f->err);
    f->batch = b;
    f->store = s;
    f->number = i;
    f->read = (qchain_store_read){.buf = p->buf, .length = inside, .offset = p->offset,
                                  .flags = (flags & QC_READ_META ? QCHAIN_STORE_META : 0) |
                                           (flags & QC_READ_FRESH ? QCHAIN_STORE_FRESH : 0),
                                  .err = &f->err, .done = landed};
    pthread_mutex_lock(&b->lock);
    b->left++;
    pthread_mutex_unlock(&b->lock);
    qc_store_submit(s, &f->read);
    return true;
}

static int read_one(const struct qc_store_piece *p, uint32_t flags, qchain_error *err)
{
    return qc_store_read(p->store, p->buf, p->length, p->offset, flags, err);
}

static int read_in_order(const struct qc_store_piece *piece, size_t n, uint32_t flags,
                         size_t *failed, qchain_error *err)
{
    int ret = 0;

    for (size_t i = 0; ret == 0 && i < n; i++) {
        ret = read_one(&piece[i], flags, err);
        if (ret != 0 && failed)
            *failed = i;
    }
    return ret;
}

/* The others, meanwhile, on this thread. */
static void read_near(struct batch *b, const struct qc_store_piece *piece, const bool *near, size_t n,
                      size_t at, uint32_t flags)
{
    qchain_error why;
    int ret = 0;

    for (size_t i = 0; ret == 0 && i < n; i++) {
        if (!near[i])
            continue;
        qc_error_init(&why);
        ret = read_one(&piece[i], flags, &why);
        if (ret == 0)
            continue;
        pthread_mutex_lock(&b->lock);
        note(b, at + i, ret, &why);
        pthread_mutex_unlock(&b->lock);
    }
}

int qc_store_read_many(const struct qc_store_piece *piece, size_t n, uint32_t flags, size_t *failed,
                       qchain_error *err)
{
    struct batch b = {.lock = PTHREAD_MUTEX_INITIALIZER, .over = PTHREAD_COND_INITIALIZER,
                      .err = err};
    struct flying *f;
    bool near[AT_ONCE];
    size_t step = qc_min64(n, AT_ONCE);

    if (n < 2 || !(f = qc_malloc(step * sizeof(*f))))
        return read_in_order(piece, n, flags, failed, err);
    for (size_t at = 0; b.result == 0 && at < n; at += step) {
        step = qc_min64(n - at, AT_ONCE);
        for (size_t i = 0; i < step; i++)
            near[i] = !take_off(&f[i], &b, &piece[at + i], at + i, flags);
        read_near(&b, piece + at, near, step, at, flags);
        pthread_mutex_lock(&b.lock);
        while (b.left > 0)
            pthread_cond_wait(&b.over, &b.lock);
        pthread_mutex_unlock(&b.lock);
    }
    if (b.result != 0 && failed)
        *failed = b.failed;
    qc_free(f);
    pthread_cond_destroy(&b.over);
    pthread_mutex_destroy(&b.lock);
    return b.result;
}
