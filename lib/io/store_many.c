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
    size_t          left;   /* under the lock */
    int             result; /* the first failure */
    size_t          failed;
    qchain_error   *err;
};

struct flying {
    qchain_store_read read;
    struct batch     *batch;
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

int qc_store_submitted(int result, qchain_error *why)
{
    if (result > 0 || result < QCHAIN_E_EXISTS)
        return qc_fail(why, QCHAIN_E_INTERNAL, "the store's submit gave %d: not a known code", result);
    if (result != 0 && why->code != result)
        return qc_fail(why, result, "the store's submit failed without saying why");
    return result;
}

/* Under the lock. */
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

    result = qc_store_submitted(result, &f->err);
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
    uint64_t size = qc_store_size(s);
    size_t inside = p->offset < size ? (size_t)qc_min64(p->length, size - p->offset) : 0;

    if (!qc_store_can_submit(s) || inside == 0 ||
        (inside < p->length && !(flags & QC_READ_PAST_END)))
        return false;
    memset((char *)p->buf + inside, 0, p->length - inside);
    qc_error_init(&f->err);
    f->batch = b;
    f->number = i;
    f->read = (qchain_store_read){.buf = p->buf, .length = inside, .offset = p->offset,
                                  .flags = (flags & QC_READ_META ? QCHAIN_STORE_META : 0) |
                                           (flags & QC_READ_FRESH ? QCHAIN_STORE_FRESH : 0) |
                                           (flags & QC_READ_EXACT ? QCHAIN_STORE_EXACT : 0),
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

/* One that no store begins for us; false if it failed. */
static bool read_near(struct batch *b, const struct qc_store_piece *p, size_t number, uint32_t flags)
{
    qchain_error why; /* others may say theirs meanwhile */
    int ret;

    qc_error_init(&why);
    ret = read_one(p, flags, &why);
    if (ret == 0)
        return true;
    pthread_mutex_lock(&b->lock);
    note(b, number, ret, &why);
    pthread_mutex_unlock(&b->lock);
    return false;
}

static void wait_for_all(struct batch *b)
{
    pthread_mutex_lock(&b->lock);
    while (b->left > 0)
        pthread_cond_wait(&b->over, &b->lock);
    pthread_mutex_unlock(&b->lock);
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

int qc_store_read_many(const struct qc_store_piece *piece, size_t n, uint32_t flags, size_t *failed,
                       qchain_error *err)
{
    struct batch b = {.lock = PTHREAD_MUTEX_INITIALIZER, .over = PTHREAD_COND_INITIALIZER,
                      .err = err};
    struct flying *f;
    bool near[AT_ONCE], good = true;
    size_t step = qc_min64(n, AT_ONCE);

    if (n < 2 || !(f = qc_malloc(step * sizeof(*f))))
        return read_in_order(piece, n, flags, failed, err);
    for (size_t at = 0; b.result == 0 && at < n; at += step) {
        step = qc_min64(n - at, AT_ONCE);
        for (size_t i = 0; i < step; i++)
            near[i] = !take_off(&f[i], &b, &piece[at + i], at + i, flags);
        for (size_t i = 0; good && i < step; i++)
            if (near[i])
                good = read_near(&b, &piece[at + i], at + i, flags);
        wait_for_all(&b);
    }
    if (b.result != 0 && failed)
        *failed = b.failed;
    qc_free(f);
    pthread_cond_destroy(&b.over);
    pthread_mutex_destroy(&b.lock);
    return b.result;
}
