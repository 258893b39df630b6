/* SPDX-License-Identifier: MIT */
/* Several reads at once, of far and near stores. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "io/store.h"
#include "util/error.h"

#define SIZE 100000u

/* A store whose reads, if it has submit, are answered by a thread, the last first. */
struct toy {
    unsigned        number;
    uint32_t        parallel, align;
    bool            has_submit, at_once;
    int             fail_at;    /* the read at this offset fails, */
    int             fail_with;  /* with this, */
    bool            silent;     /* and without a word */
    pthread_mutex_t lock;
    pthread_cond_t  more;
    qchain_store_read *list[1024];
    unsigned        n, want;    /* answered when there are so many */
    unsigned        n_submit, most, n_pread;
    uint32_t        flags;      /* of the last */
    bool            stop;
    pthread_t       thread;
};

static unsigned char toy_byte(const struct toy *t, uint64_t at)
{
    return (unsigned char)((at * 31 + at / 256 * 7) ^ t->number);
}

static int toy_answer(struct toy *t, void *buf, size_t length, uint64_t offset, qchain_error *err)
{
    if (offset + length > SIZE)
        abort();
    if (t->fail_at >= 0 && offset == (uint64_t)t->fail_at)
        return t->silent ? t->fail_with : qchain_backend_fail(err, t->fail_with, 0, "toy says no");
    for (size_t i = 0; i < length; i++)
        ((unsigned char *)buf)[i] = toy_byte(t, offset + i);
    return 0;
}

static void *toy_thread(void *arg)
{
    struct toy *t = arg;

    pthread_mutex_lock(&t->lock);
    for (;;) {
        while (t->n < t->want && !t->stop)
            pthread_cond_wait(&t->more, &t->lock);
        if (t->stop)
            break;
        while (t->n > 0) {
            qchain_store_read *r = t->list[--t->n];

            pthread_mutex_unlock(&t->lock);
            r->done(r, toy_answer(t, r->buf, r->length, r->offset, r->err));
            pthread_mutex_lock(&t->lock);
        }
    }
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

static void toy_submit(void *obj, qchain_store_read *r)
{
    struct toy *t = obj;

    pthread_mutex_lock(&t->lock);
    t->n_submit++;
    t->flags = r->flags;
    if (r->struct_size != sizeof(*r) || r->length == 0 || t->n == 1024)
        abort();
    if (!t->at_once) {
        t->list[t->n++] = r;
        t->most = t->n > t->most ? t->n : t->most;
        pthread_cond_signal(&t->more);
        r = NULL;
    }
    pthread_mutex_unlock(&t->lock);
    if (r)
        r->done(r, toy_answer(t, r->buf, r->length, r->offset, r->err));
}

static int toy_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                     qchain_error *err)
{
    struct toy *t = obj;

    pthread_mutex_lock(&t->lock);
    t->n_pread++;
    t->flags = flags;
    if (t->align && (offset % t->align || (length % t->align && offset + length != SIZE)))
        abort();
    pthread_mutex_unlock(&t->lock);
    return toy_answer(t, buf, length, offset, err);
}

static int toy_size(void *obj, uint64_t *size, qchain_error *err)
{
    (void)obj;
    (void)err;
    *size = SIZE;
    return 0;
}

static int toy_limits(void *obj, qchain_store_limits *out, qchain_error *err)
{
    struct toy *t = obj;

    (void)err;
    out->parallel = t->parallel;
    out->align_offset = t->align ? t->align : 1;
    return 0;
}

static void toy_close(void *obj)
{
    struct toy *t = obj;

    pthread_mutex_lock(&t->lock);
    t->stop = true;
    pthread_cond_signal(&t->more);
    pthread_mutex_unlock(&t->lock);
    pthread_join(t->thread, NULL);
    pthread_mutex_destroy(&t->lock);
    pthread_cond_destroy(&t->more);
}

static struct qc_store *toy_open(struct toy *t, unsigned number, bool far)
{
    static const qchain_store_ops ops[2] = {
        {.struct_size = sizeof(ops[0]), .version = 1, .name = "near", .close = toy_close,
         .size = toy_size, .pread = toy_pread, .limits = toy_limits},
        {.struct_size = sizeof(ops[0]), .version = 1, .name = "far", .close = toy_close,
         .size = toy_size, .pread = toy_pread, .limits = toy_limits, .submit = toy_submit}};
    qchain_store from = {sizeof(from), &ops[far], t, far ? "far" : "near"};
    struct qc_store *s;

    t->number = number;
    t->parallel = far ? 16 : 0;
    t->fail_at = -1;
    t->want = 1;
    pthread_mutex_init(&t->lock, NULL);
    pthread_cond_init(&t->more, NULL);
    assert_int_equal(pthread_create(&t->thread, NULL, toy_thread, t), 0);
    assert_int_equal(qc_store_create(&s, &from, NULL, NULL), 0);
    return s;
}

static void toy_want(struct toy *t, unsigned want)
{
    pthread_mutex_lock(&t->lock);
    t->want = want;
    pthread_mutex_unlock(&t->lock);
}

/* Pieces of 100 bytes of both stores in turn, each with room of its own. */
#define PIECE 100u

static void make_pieces(struct qc_store_piece *p, size_t n, struct qc_store *a, struct qc_store *b,
                        unsigned char *buf)
{
    memset(buf, 0xa5, n * PIECE);
    for (size_t i = 0; i < n; i++)
        p[i] = (struct qc_store_piece){i % 2 ? b : a, buf + i * PIECE, PIECE, i * 113 % (SIZE - PIECE)};
}

static void check_pieces(const struct qc_store_piece *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < p[i].length; k++)
            assert_int_equal(((unsigned char *)p[i].buf)[k],
                             p[i].offset + k < SIZE ? toy_byte(p[i].store->obj, p[i].offset + k) : 0);
}

static void far_and_near(void **unused)
{
    static const size_t counts[] = {0, 1, 2, 3, 17, 255, 256, 257, 600};
    struct toy a = {0}, b = {0};
    struct qc_store *far = toy_open(&a, 1, true), *near = toy_open(&b, 2, false);
    struct qc_store_piece *p = calloc(600, sizeof(*p));
    unsigned char *buf = malloc(600 * PIECE);
    size_t failed = 77;
    qchain_error err;

    (void)unused;
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        size_t n = counts[i];

        for (int mix = 0; mix < 3; mix++) {
            qc_error_init(&err);
            make_pieces(p, n, mix == 1 ? near : far, mix == 2 ? far : near, buf);
            a.at_once = i % 2;
            a.n_submit = b.n_pread = 0;
            assert_int_equal(qc_store_read_many(p, n, mix ? QC_READ_META : 0, &failed, &err), 0);
            assert_int_equal(err.code, 0);
            assert_int_equal(failed, 77);
            check_pieces(p, n);
            assert_int_equal(b.n_pread, mix == 2 ? 0 : mix == 1 ? n : n / 2);
            if (n > 1)
                assert_int_equal(a.n_submit, mix == 2 ? n : mix == 1 ? 0 : (n + 1) / 2);
            if (mix == 2 && n > 0)
                assert_int_equal(a.flags, QCHAIN_STORE_META);
        }
    }
    /* All are under way at once; of very many 256. */
    a.at_once = false;
    a.most = 0;
    toy_want(&a, 200);
    make_pieces(p, 200, far, far, buf);
    assert_int_equal(qc_store_read_many(p, 200, 0, NULL, &err), 0);
    assert_int_equal(a.most, 200);
    toy_want(&a, 1);
    qc_store_destroy(far);
    qc_store_destroy(near);
    free(p);
    free(buf);
}

static void past_the_end(void **unused)
{
    struct toy a = {0}, b = {0};
    struct qc_store *far = toy_open(&a, 1, true), *near = toy_open(&b, 2, false);
    unsigned char buf[8 * PIECE];
    struct qc_store_piece p[8];
    size_t failed = 77;
    qchain_error err;

    (void)unused;
    qc_error_init(&err);
    for (unsigned bad = 0; bad < 8; bad++) {
        for (unsigned by = 1; by <= 2 * PIECE; by += PIECE / 2) {
            make_pieces(p, 8, far, near, buf);
            p[bad].offset = SIZE - PIECE + by;
            assert_int_equal(qc_store_read_many(p, 8, QC_READ_PAST_END, &failed, &err), 0);
            check_pieces(p, 8);
            make_pieces(p, 8, far, near, buf);
            p[bad].offset = SIZE - PIECE + by;
            assert_int_equal(qc_store_read_many(p, 8, 0, &failed, &err), QCHAIN_E_CORRUPT);
            assert_int_equal(failed, bad);
            assert_int_equal(err.code, QCHAIN_E_CORRUPT);
            assert_non_null(strstr(err.text, "past the end"));
        }
    }
    qc_store_destroy(far);
    qc_store_destroy(near);
}

/* Each of 300 pieces fails, of either kind. */
static void who_failed(void **unused)
{
    enum { N = 300 };
    struct toy a = {0}, b = {0};
    struct qc_store *far = toy_open(&a, 1, true), *near = toy_open(&b, 2, false);
    struct qc_store_piece *p = calloc(N, sizeof(*p));
    unsigned char *buf = malloc(N * PIECE);
    size_t failed;
    qchain_error err;

    (void)unused;
    for (unsigned bad = 0; bad < N; bad += 1 + bad / 9) {
        struct toy *t = bad % 2 ? &b : &a;

        make_pieces(p, N, far, near, buf);
        t->fail_at = (int)p[bad].offset;
        t->fail_with = QCHAIN_E_TIMEOUT;
        a.at_once = bad % 3 == 0;
        for (int i = 0; i < 2; i++) {
            qc_error_init(&err);
            failed = N;
            assert_int_equal(qc_store_read_many(p, N, 0, i ? NULL : &failed, &err), QCHAIN_E_TIMEOUT);
            assert_int_equal(failed, i ? N : bad);
            assert_int_equal(err.code, QCHAIN_E_TIMEOUT);
            assert_non_null(strstr(err.text, "toy says no"));
        }
        t->fail_at = -1;
    }
    qc_store_destroy(far);
    qc_store_destroy(near);
    free(p);
    free(buf);
}

/* Two fail at once, one near and one far: code, number and words are of one of them. */
static void two_fail(void **unused)
{
    struct toy a = {0}, b = {0};
    struct qc_store *far = toy_open(&a, 1, true), *near = toy_open(&b, 2, false);
    unsigned char buf[20 * PIECE];
    struct qc_store_piece p[20];
    unsigned n[2] = {0};
    size_t failed;
    qchain_error err;
    int ret;

    (void)unused;
    make_pieces(p, 20, far, near, buf);
    a.fail_at = (int)p[0].offset;
    a.fail_with = QCHAIN_E_TIMEOUT;
    b.fail_at = (int)p[19].offset;
    b.fail_with = QCHAIN_E_ACCESS;
    for (int i = 0; i < 2000; i++) {
        a.silent = i % 2;
        qc_error_init(&err);
        ret = qc_store_read_many(p, 20, 0, &failed, &err);
        assert_true(ret == (failed == 0 ? QCHAIN_E_TIMEOUT : QCHAIN_E_ACCESS));
        assert_true(failed == 0 || failed == 19);
        assert_int_equal(err.code, ret);
        assert_non_null(strstr(err.text, failed == 0 && a.silent ? "without saying why" : "toy says no"));
        n[failed != 0]++;
    }
    qc_store_destroy(far);
    qc_store_destroy(near);
}

static void codes_that_are_none(void **unused)
{
    static const int odd[] = {1, 5, -1000000};
    struct toy a = {0};
    struct qc_store *far = toy_open(&a, 1, true);
    unsigned char buf[2 * PIECE];
    struct qc_store_piece p[2];
    size_t failed;
    qchain_error err;

    (void)unused;
    make_pieces(p, 2, far, far, buf);
    a.fail_at = (int)p[1].offset;
    a.silent = true;
    for (int i = 0; i < 3; i++) {
        qc_error_init(&err);
        a.fail_with = odd[i];
        assert_int_equal(qc_store_read_many(p, 2, 0, &failed, &err), QCHAIN_E_INTERNAL);
        assert_int_equal(err.code, QCHAIN_E_INTERNAL);
        assert_int_equal(failed, 1);
    }
    qc_store_destroy(far);
}

/* What a far store asks of its callers holds for submit, too. */
static void far_with_limits(void **unused)
{
    struct toy a = {.align = 512};
    unsigned char buf[8 * PIECE];
    struct qc_store_piece p[8];
    struct qc_store *far;
    qchain_error err;

    (void)unused;
    far = toy_open(&a, 1, true);
    make_pieces(p, 8, far, far, buf);
    assert_int_equal(qc_store_read_many(p, 8, 0, NULL, &err), 0);
    check_pieces(p, 8);
    assert_int_equal(a.n_submit, 0);
    assert_true(a.n_pread > 0);
    qc_store_destroy(far);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(far_and_near),        cmocka_unit_test(past_the_end),
        cmocka_unit_test(who_failed),          cmocka_unit_test(two_fail),
        cmocka_unit_test(codes_that_are_none), cmocka_unit_test(far_with_limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
