/* SPDX-License-Identifier: MIT */
/* The door to queues: wrong arguments, limits, what is not there yet. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "mem_layers.h"

struct fixture {
    struct mem_chain *m;
    qchain           *c;
    qchain_queue     *q;
    qchain_error     *err;
};

static int setup(void **state)
{
    struct fixture *x = calloc(1, sizeof(*x));

    x->m = mem_chain_create(1);
    mem_layer_init(x->m, 0, 1 << 20, 12);
    mem_layer_set(x->m, 0, 3, MEM_DATA);
    x->err = qchain_error_create();
    *state = x;
    return mem_chain_open(x->m, &x->c, NULL, NULL, NULL) || qchain_queue_create(&x->q, x->c, NULL,
                                                                                 NULL);
}

static int teardown(void **state)
{
    struct fixture *x = *state;

    qchain_queue_destroy(x->q);
    qchain_close(x->c);
    mem_chain_destroy(x->m);
    qchain_error_destroy(x->err);
    free(x);
    return 0;
}

static void options_are_checked(void **state)
{
    struct fixture *x = *state;
    qchain_queue_opts o;
    qchain_queue *q = x->q;
    struct {
        qchain_queue_opts o;
        uint64_t          newer;
    } larger;

    assert_int_equal(qchain_queue_create(NULL, x->c, NULL, x->err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_queue_create(&q, NULL, NULL, x->err), QCHAIN_E_INVAL);
    assert_null(q);
    qchain_queue_opts_init(&o, sizeof(o));
    assert_int_equal(o.struct_size, sizeof(o));
    o.flags = 0x2;
    assert_int_equal(qchain_queue_create(&q, x->c, &o, x->err), QCHAIN_E_INVAL);
    assert_non_null(strstr(qchain_error_message(x->err), "flags 0x2"));
    o.flags = QCHAIN_QUEUE_NO_URING;
    o.depth = 32769;
    assert_int_equal(qchain_queue_create(&q, x->c, &o, x->err), QCHAIN_E_INVAL);
    assert_non_null(strstr(qchain_error_message(x->err), "32768"));
    o.depth = 32768;
    assert_int_equal(qchain_queue_create(&q, x->c, &o, x->err), 0);
    assert_string_equal(qchain_queue_engine(q), "threads");
    qchain_queue_destroy(q);
    o.flags = 0;
    assert_int_equal(qchain_queue_create(&q, x->c, &o, NULL), 0);
    qchain_queue_destroy(q);
    memset(&o, 0, sizeof(o));
    assert_int_equal(qchain_queue_create(&q, x->c, &o, x->err), QCHAIN_E_INVAL);
    qchain_queue_opts_init(&larger.o, sizeof(larger));
    assert_int_equal(qchain_queue_create(&q, x->c, &larger.o, NULL), 0);
    qchain_queue_destroy(q);
    larger.newer = 1;
    assert_int_equal(qchain_queue_create(&q, x->c, &larger.o, NULL), QCHAIN_E_UNSUPPORTED);
    qchain_queue_destroy(NULL);
    assert_string_equal(qchain_queue_engine(NULL), "threads");
}

static void requests_are_checked(void **state)
{
    struct fixture *x = *state;
    char buf[512];
    qchain_iov iov[] = {{buf, 256}, {NULL, 0}, {buf + 256, 256}}, bad[] = {{NULL, 3}};
    qchain_iov huge[] = {{buf, INT64_MAX}, {buf, 1}};

    assert_int_equal(qchain_queue_read(NULL, buf, 512, 0, 0, NULL, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_queue_read(x->q, NULL, 512, 0, 0, NULL, x->err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_queue_read(x->q, buf, 512, 0, 2, NULL, x->err), QCHAIN_E_INVAL);
    assert_non_null(strstr(qchain_error_message(x->err), "flags 0x2"));
    assert_int_equal(qchain_queue_read(x->q, buf, 512, (1 << 20) - 511, 0, NULL, x->err),
                     QCHAIN_E_RANGE);
    assert_non_null(strstr(qchain_error_message(x->err), "1048576"));
    assert_int_equal(qchain_queue_read(x->q, buf, 512, UINT64_MAX, 0, NULL, x->err),
                     QCHAIN_E_RANGE);
    assert_int_equal(qchain_queue_read(x->q, buf, SIZE_MAX, 1, 0, NULL, x->err), QCHAIN_E_RANGE);
    assert_int_equal(qchain_queue_readv(x->q, iov, 1025, 0, 0, NULL, x->err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_queue_readv(x->q, NULL, 1, 0, 0, NULL, x->err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_queue_readv(x->q, bad, 1, 0, 0, NULL, x->err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_queue_readv(x->q, huge, 2, 0, 0, NULL, x->err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_queue_readv(x->q, iov, 3, 1 << 20, 0, NULL, x->err), QCHAIN_E_RANGE);
    assert_int_equal(qchain_queue_readv(NULL, iov, 3, 0, 0, NULL, x->err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_queue_pending(x->q), 0);
    assert_int_equal(qchain_queue_readv(x->q, NULL, 0, 1 << 20, 0, NULL, x->err), 0);
    assert_int_equal(qchain_queue_readv(x->q, iov, 3, 3 * 4096, 0, NULL, x->err), 0);
    assert_int_equal(qchain_queue_pending(x->q), 2);
}

static void reaps_are_checked(void **state)
{
    struct fixture *x = *state;
    qchain_completion done[2];
    char buf[512];

    assert_int_equal(qchain_queue_reap(NULL, done, 0, 1, 0), QCHAIN_E_INVAL);
    assert_int_equal(qchain_queue_reap(x->q, NULL, 0, 1, 0), QCHAIN_E_INVAL);
    assert_int_equal(qchain_queue_reap(x->q, done, 0, 1, -2), QCHAIN_E_INVAL);
    assert_int_equal(qchain_queue_reap(x->q, done, 0, UINT32_MAX, 0), QCHAIN_E_INVAL);
    assert_int_equal(qchain_queue_fd(NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_queue_cancel(NULL, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_queue_pending(NULL), 0);
    assert_int_equal(qchain_queue_read(x->q, buf, 512, 3 * 4096, 0, buf, NULL), 0);
    memset(done, 0xee, sizeof(done));
    assert_int_equal(qchain_queue_reap(x->q, done, 2, 1, -1), 1); /* min above max */
    assert_ptr_equal(done[0].user, buf);
    assert_int_equal(done[0].result, 0);
    assert_null(done[0].error);
    assert_int_equal(done[0].reserved0 | done[0].reserved1, 0);
    assert_int_equal(done[1].reserved0, 0xeeeeeeee); /* not written to */
}

static void writing_is_refused(void **state)
{
    struct fixture *x = *state;
    char buf[512] = {0};

    assert_int_equal(qchain_queue_write(x->q, buf, 512, 0, 0, NULL, x->err), QCHAIN_E_READONLY);
    assert_int_equal(qchain_queue_flush(x->q, NULL, x->err), QCHAIN_E_READONLY);
    assert_int_equal(qchain_queue_write(x->q, buf, 512, 1 << 20, 0, NULL, x->err),
                     QCHAIN_E_RANGE);
    assert_int_equal(qchain_queue_write(x->q, buf, 512, 0, 4, NULL, x->err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_queue_write(NULL, buf, 512, 0, 0, NULL, x->err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_queue_flush(NULL, NULL, x->err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_queue_pending(x->q), 0);
}

static void environments_know_of_walkers(void **state)
{
    qchain_env_opts o;
    qchain_env *env;

    (void)state;
    qchain_env_opts_init(&o, sizeof(o));
    o.walkers = 65;
    assert_int_equal(qchain_env_create(&env, &o, NULL), QCHAIN_E_INVAL);
    o.walkers = 64;
    assert_int_equal(qchain_env_create(&env, &o, NULL), 0);
    qchain_env_destroy(env);
    o.reserved0 = 1;
    assert_int_equal(qchain_env_create(&env, &o, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_has("queue"), 1);
}

static void statistics_tell_of_queues(void **state)
{
    struct fixture *x = *state;
    qchain_stats s = {.struct_size = sizeof(s)};
    qchain_completion done;
    char buf[512];

    for (int i = 0; i < 2; i++) {
        assert_int_equal(qchain_queue_read(x->q, buf, 512, 3 * 4096, 0, buf, NULL), 0);
        assert_int_equal(qchain_queue_reap(x->q, &done, 1, 1, -1), 1);
    }
    assert_int_equal(qchain_env_stats(qchain_get_env(x->c), &s), 0);
    assert_int_equal(s.queue_requests, 2);
    assert_int_equal(s.queue_uring, 0); /* no file */
    assert_int_equal(s.queue_walks, 1);
    assert_int_equal(s.queue_leaf, 2);
    assert_int_equal(s.reads, 2);
    assert_int_equal(s.read_bytes, 1024);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define ON(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        ON(options_are_checked),
        ON(requests_are_checked),
        ON(reaps_are_checked),
        ON(writing_is_refused),
        ON(environments_know_of_walkers),
        ON(statistics_tell_of_queues),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
