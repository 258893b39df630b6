/* SPDX-License-Identifier: MIT */
/* Reads of several stores at once, some of them far away. */
#include "io_tools.h"

#include <pthread.h>

#include "io/store.h"

#define SIZE 100000u
#define FAR_SEED 1
#define NEAR_SEED 2

/* A far store answers on a thread of its own, or fails there. */
struct far {
    int      fails;
    uint32_t flags; /* of the last read */
};

static void *answer(void *arg)
{
    qchain_store_read *r = arg;

    for (size_t i = 0; i < r->length; i++)
        ((uint8_t *)r->buf)[i] = pattern_at(r->offset + i, FAR_SEED);
    r->done(r, 0);
    return NULL;
}

static void *refuse(void *arg)
{
    qchain_store_read *r = arg;

    r->done(r, qc_fail(r->err, QCHAIN_E_NET, "the far one is broken"));
    return NULL;
}

static void far_submit(void *obj, qchain_store_read *r)
{
    struct far *f = obj;
    pthread_t id;

    f->flags = r->flags;
    assert_int_equal(pthread_create(&id, NULL, f->fails ? refuse : answer, r), 0);
    pthread_detach(id);
}

static void leave(void *obj)
{
    (void)obj;
}

static int size(void *obj, uint64_t *bytes, qchain_error *err)
{
    (void)obj;
    (void)err;
    *bytes = SIZE;
    return 0;
}

static int far_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                     qchain_error *err)
{
    (void)obj;
    (void)buf;
    (void)length;
    (void)offset;
    (void)flags;
    return qc_fail(err, QCHAIN_E_INTERNAL, "it was to be submitted");
}

static int near_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                      qchain_error *err)
{
    assert_int_equal(flags, 0);
    if (*(int *)obj)
        return qc_fail(err, QCHAIN_E_IO, "the near one is broken");
    for (size_t i = 0; i < length; i++)
        ((uint8_t *)buf)[i] = pattern_at(offset + i, NEAR_SEED);
    return 0;
}

static int far_limits(void *obj, qchain_store_limits *out, qchain_error *err)
{
    (void)obj;
    (void)err;
    out->parallel = 64;
    return 0;
}

static const qchain_store_ops far_ops = {
    .struct_size = sizeof(far_ops), .version = QCHAIN_BACKEND_VERSION, .name = "far", .close = leave,
    .size = size, .pread = far_pread, .limits = far_limits, .submit = far_submit};
static const qchain_store_ops near_ops = {
    .struct_size = sizeof(near_ops), .version = QCHAIN_BACKEND_VERSION, .name = "near", .close = leave,
    .size = size, .pread = near_pread};

static struct far far;
static int near_fails;
static struct qc_store *far_store, *near_store;

static int make_stores(void **unused)
{
    qchain_store f = {sizeof(f), &far_ops, &far, "far"}, n = {sizeof(n), &near_ops, &near_fails, "near"};

    (void)unused;
    far = (struct far){0};
    near_fails = 0;
    return qc_store_create(&far_store, &f, NULL, NULL) || qc_store_create(&near_store, &n, NULL, NULL);
}

static int drop_stores(void **unused)
{
    (void)unused;
    qc_store_destroy(far_store);
    qc_store_destroy(near_store);
    return 0;
}

#define PIECES 600 /* more than are begun at once */
#define LENGTH 100

static uint8_t buf[PIECES][LENGTH];

static int read_all(uint32_t flags, size_t *failed, qchain_error *err)
{
    struct qc_store_piece piece[PIECES];

    for (size_t i = 0; i < PIECES; i++)
        piece[i] = (struct qc_store_piece){i % 2 ? near_store : far_store, buf[i], LENGTH, i * 166};
    qc_error_init(err);
    return qc_store_read_many(piece, PIECES, flags, failed, err);
}

static void reads_all(void **unused)
{
    qchain_error err;

    (void)unused;
    assert_int_equal(read_all(QC_READ_PAST_END, NULL, &err), 0);
    for (size_t i = 0; i < PIECES; i++) {
        size_t inside = i * 166 + LENGTH <= SIZE ? LENGTH : SIZE - i * 166;

        assert_true(is_pattern(buf[i], inside, i * 166, i % 2 ? NEAR_SEED : FAR_SEED));
        assert_true(inside == LENGTH || buf[i][LENGTH - 1] == 0);
    }
    assert_int_equal(err.code, 0);
    assert_int_equal(far.flags, 0);
}

static void says_what_for(void **unused)
{
    qchain_error err;

    (void)unused;
    assert_int_equal(read_all(QC_READ_PAST_END | QC_READ_META | QC_READ_FRESH, NULL, &err), 0);
    assert_int_equal(far.flags, QCHAIN_STORE_META | QCHAIN_STORE_FRESH);
}

/* Code, sentence and piece belong together, also when both kinds fail. */
static void fails_as_one(void **unused)
{
    qchain_error err;
    size_t failed;
    int ret;

    (void)unused;
    for (int which = 1; which < 4; which++) {
        far.fails = which & 1;
        near_fails = which >> 1;
        failed = PIECES;
        ret = read_all(QC_READ_PAST_END, &failed, &err);
        assert_true(ret == QCHAIN_E_NET || ret == QCHAIN_E_IO);
        assert_int_equal(ret, err.code);
        assert_true(failed < PIECES);
        assert_int_equal(failed % 2, ret == QCHAIN_E_IO);
        assert_non_null(strstr(err.text, ret == QCHAIN_E_IO ? "the near one" : "the far one"));
    }
}

/* A store that asks something of its callers is read by pread, which sees to it. */
static void respects_limits(void **unused)
{
    qchain_error err;

    (void)unused;
    far_store->limits.max_transfer = 50;
    assert_int_equal(read_all(QC_READ_PAST_END, NULL, &err), QCHAIN_E_INTERNAL);
    assert_string_equal(err.text, "it was to be submitted");
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, make_stores, drop_stores)

int main(void)
{
    const struct CMUnitTest tests[] = {TEST(reads_all), TEST(says_what_for), TEST(fails_as_one),
                                       TEST(respects_limits)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
