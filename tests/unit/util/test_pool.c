/* SPDX-License-Identifier: MIT */
/* The leaf pool. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "util/pool.h"

#define N 5000

struct work {
    struct qc_pool *pool;
    atomic_int      times[N];
    atomic_int      running, most, done;
    uint64_t        fail_at;
    int             nap_us;
    pthread_t       caller;
    atomic_int      elsewhere, signals_open;
};

static int task(void *ctx, uint64_t i)
{
    struct work *w = ctx;
    int now = atomic_fetch_add(&w->running, 1) + 1, most = atomic_load(&w->most);
    sigset_t mask;

    while (now > most && !atomic_compare_exchange_weak(&w->most, &most, now))
        ;
    atomic_fetch_add(&w->times[i], 1);
    if (!pthread_equal(pthread_self(), w->caller)) {
        atomic_fetch_add(&w->elsewhere, 1);
        pthread_sigmask(SIG_SETMASK, NULL, &mask);
        if (!sigismember(&mask, SIGTERM) || !sigismember(&mask, SIGUSR1) ||
            !sigismember(&mask, SIGINT))
            atomic_fetch_add(&w->signals_open, 1);
    }
    if (w->nap_us)
        usleep((useconds_t)w->nap_us);
    atomic_fetch_sub(&w->running, 1);
    atomic_fetch_add(&w->done, 1);
    return w->fail_at && i >= w->fail_at ? -(int)i : 0;
}

static struct work *new_work(struct qc_pool *pool)
{
    struct work *w = calloc(1, sizeof(*w));

    w->pool = pool;
    w->caller = pthread_self();
    return w;
}

static void every_index_once(void **unused)
{
    static const unsigned widths[] = {1, 2, 3, 4, 100};

    (void)unused;
    for (size_t k = 0; k < 5; k++) {
        struct qc_pool *p = qc_pool_create(4);
        struct work *w = new_work(p);

        assert_int_equal(qc_pool_threads(p), 4);
        assert_int_equal(qc_pool_run(p, widths[k], N, task, w), 0);
        for (int i = 0; i < N; i++)
            assert_int_equal(atomic_load(&w->times[i]), 1);
        assert_int_equal(atomic_load(&w->running), 0);
        assert_true(atomic_load(&w->most) <= (int)widths[k]);
        assert_int_equal(qc_pool_run(p, widths[k], 0, task, w), 0);
        assert_int_equal(atomic_load(&w->done), N);
        qc_pool_destroy(p);
        free(w);
    }
    qc_pool_destroy(NULL);
}

static void threads_are_used_and_block_signals(void **unused)
{
    struct qc_pool *p = qc_pool_create(3);
    struct work *w = new_work(p);
    sigset_t before, after;

    (void)unused;
    pthread_sigmask(SIG_SETMASK, NULL, &before);
    w->nap_us = 1000;
    assert_int_equal(qc_pool_run(p, 4, 100, task, w), 0);
    assert_true(atomic_load(&w->elsewhere) > 0);
    assert_true(atomic_load(&w->most) > 1);
    assert_int_equal(atomic_load(&w->signals_open), 0);
    pthread_sigmask(SIG_SETMASK, NULL, &after);
    for (int sig = 1; sig < 32; sig++)
        assert_int_equal(sigismember(&before, sig), sigismember(&after, sig));
    qc_pool_destroy(p);
    free(w);
}

static void width_one_stays_here(void **unused)
{
    struct qc_pool *p = qc_pool_create(4);
    struct work *w = new_work(p);

    (void)unused;
    assert_int_equal(qc_pool_run(p, 1, 100, task, w), 0);
    assert_int_equal(atomic_load(&w->elsewhere), 0);
    assert_int_equal(qc_pool_run(p, 8, 1, task, w), 0); /* no more threads than work */
    assert_int_equal(atomic_load(&w->elsewhere), 0);
    qc_pool_destroy(p);
    p = qc_pool_create(0);
    assert_non_null(p);
    assert_int_equal(qc_pool_run(p, 8, 100, task, w), 0);
    assert_int_equal(atomic_load(&w->elsewhere), 0);
    qc_pool_destroy(p);
    free(w);
}

static void the_first_failure_is_returned(void **unused)
{
    struct qc_pool *p = qc_pool_create(4);
    struct work *w = new_work(p);

    (void)unused;
    w->fail_at = 100;
    assert_int_equal(qc_pool_run(p, 1, N, task, w), -100);
    assert_int_equal(atomic_load(&w->done), 101);
    for (int round = 0; round < 50; round++) {
        int ret = qc_pool_run(p, 5, N, task, w);

        assert_in_range(-ret, 100, 110); /* one of those that run beside it */
    }
    assert_int_equal(atomic_load(&w->running), 0);
    qc_pool_destroy(p);
    free(w);
}

static int outer_task(void *ctx, uint64_t i)
{
    struct work *w = ctx, *mine = new_work(w->pool);
    int ret = qc_pool_run(w->pool, 4, 50, task, mine);

    for (int k = 0; k < 50; k++)
        if (atomic_load(&mine->times[k]) != 1)
            ret = -1000;
    atomic_fetch_add(&w->times[i], 1);
    free(mine);
    return ret;
}

static void runs_may_nest(void **unused)
{
    struct qc_pool *p = qc_pool_create(3);
    struct work *w = new_work(p);

    (void)unused;
    for (int round = 0; round < 20; round++)
        assert_int_equal(qc_pool_run(p, 4, 40, outer_task, w), 0);
    for (int i = 0; i < 40; i++)
        assert_int_equal(atomic_load(&w->times[i]), 20);
    qc_pool_destroy(p);
    free(w);
}

static void *many_runs(void *arg)
{
    struct work *w = new_work(arg);
    intptr_t bad = 0;

    for (int round = 0; round < 300; round++)
        bad |= qc_pool_run(arg, 3, 20, task, w);
    bad |= atomic_load(&w->done) != 300 * 20;
    free(w);
    return (void *)bad;
}

static void callers_do_not_mix(void **unused)
{
    struct qc_pool *p = qc_pool_create(3);
    pthread_t thread[4];
    void *bad;

    (void)unused;
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, many_runs, p), 0);
    for (int i = 0; i < 4; i++) {
        pthread_join(thread[i], &bad);
        assert_null(bad);
    }
    qc_pool_destroy(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_index_once),
        cmocka_unit_test(threads_are_used_and_block_signals),
        cmocka_unit_test(width_one_stays_here),
        cmocka_unit_test(the_first_failure_is_returned),
        cmocka_unit_test(runs_may_nest),
        cmocka_unit_test(callers_do_not_mix),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
