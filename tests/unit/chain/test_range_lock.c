/* SPDX-License-Identifier: MIT */
/* Range locks and the admission of writes. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "chain/admission.h"
#include "chain/range_lock.h"
#include "image_tools.h"

static int order[8], n_granted;

struct waiter {
    struct qc_range_lock lock; /* first */
    int                  number;
};

static void granted(struct qc_range_lock *l)
{
    order[n_granted++] = ((struct waiter *)(void *)l)->number;
}

static struct waiter make(int number, uint64_t start, uint64_t end)
{
    return (struct waiter){.lock = {.start = start, .end = end, .granted = granted}, .number = number};
}

static void disjoint_ranges_are_held_at_once_others_in_order(void **unused)
{
    struct waiter a = make(0, 0, 10), b = make(1, 10, 20), c = make(2, 5, 15), d = make(3, 0, 5),
                  e = make(4, 14, 16), f = make(5, 20, 30);
    struct qc_range_locks r;

    (void)unused;
    n_granted = 0;
    qc_range_locks_init(&r);
    assert_true(qc_range_lock_try(&r, &a.lock));
    assert_true(qc_range_lock_try(&r, &b.lock));
    assert_false(qc_range_lock_try(&r, &c.lock));
    assert_false(qc_range_lock_try(&r, &d.lock));
    assert_false(qc_range_lock_try(&r, &e.lock)); /* behind c, who came before */
    assert_true(qc_range_lock_try(&r, &f.lock));
    qc_range_lock_give(&r, &b.lock);
    assert_int_equal(n_granted, 0);
    qc_range_lock_give(&r, &a.lock); /* c and d do not overlap */
    assert_int_equal(n_granted, 2);
    assert_true(order[0] == 2 && order[1] == 3);
    qc_range_lock_give(&r, &f.lock);
    qc_range_lock_give(&r, &d.lock);
    assert_int_equal(n_granted, 2);
    qc_range_lock_give(&r, &c.lock);
    assert_true(n_granted == 3 && order[2] == 4);
    qc_range_lock_give(&r, &e.lock);
    assert_true(!r.first && !r.last);
    qc_range_locks_finish(&r);
}

#define CELLS 64

struct crowd {
    struct qc_range_locks locks;
    struct qc_admission   admission;
    int                   cell[CELLS]; /* changed under its lock alone: a checker of threads sees more */
    atomic_bool           stop;
    atomic_int            inside, wrong, turns;
};

static void *take_and_give(void *arg)
{
    struct crowd *c = arg;
    uint64_t seed = (uintptr_t)&seed;

    for (int turn = 0; turn < 20000; turn++) {
        uint64_t start = random_next(&seed) % CELLS, end = start + 1 + random_next(&seed) % 6;
        struct qc_range_lock l;

        end = end < CELLS ? end : CELLS;
        qc_range_lock_take(&c->locks, &l, start, end);
        for (uint64_t i = start; i < end; i++)
            if (c->cell[i]++ != 0)
                atomic_fetch_add(&c->wrong, 1);
        for (uint64_t i = start; i < end; i++)
            c->cell[i]--;
        qc_range_lock_give(&c->locks, &l);
    }
    return NULL;
}

static void many_threads_never_meet_in_a_range(void **unused)
{
    static struct crowd c;
    pthread_t thread[6];

    (void)unused;
    qc_range_locks_init(&c.locks);
    for (int i = 0; i < 6; i++)
        pthread_create(&thread[i], NULL, take_and_give, &c);
    for (int i = 0; i < 6; i++)
        pthread_join(thread[i], NULL);
    assert_int_equal(c.wrong, 0);
    assert_null(c.locks.first);
    qc_range_locks_finish(&c.locks);
}

static int told;

static void ready(struct qc_admission_waiter *w)
{
    (void)w;
    told++;
}

static void who_is_not_let_in_is_told(void **unused)
{
    struct qc_admission_waiter w[3] = {{.ready = ready}, {.ready = ready}, {.ready = ready}};
    struct qc_admission a;

    (void)unused;
    told = 0;
    qc_admission_init(&a);
    assert_true(qc_admission_try(&a, &w[0]));
    qc_admission_leave(&a);
    qc_admission_hold(&a);
    qc_admission_hold(&a);
    for (int i = 0; i < 3; i++)
        assert_false(qc_admission_try(&a, &w[i]));
    assert_true(qc_admission_withdraw(&a, &w[2]));
    assert_false(qc_admission_withdraw(&a, &w[2]));
    assert_false(qc_admission_try(&a, &w[2]));
    assert_true(qc_admission_withdraw(&a, &w[0]));
    qc_admission_release(&a);
    assert_int_equal(told, 0);
    qc_admission_release(&a);
    assert_int_equal(told, 2);
    assert_false(qc_admission_withdraw(&a, &w[1]));
    assert_true(qc_admission_try(&a, &w[0]));
    qc_admission_leave(&a);
    qc_admission_finish(&a);
}

static void *come_and_go(void *arg)
{
    struct crowd *c = arg;

    while (!atomic_load(&c->stop)) {
        qc_admission_enter(&c->admission);
        atomic_fetch_add(&c->inside, 1);
        atomic_fetch_add(&c->turns, 1);
        atomic_fetch_sub(&c->inside, 1);
        qc_admission_leave(&c->admission);
    }
    return NULL;
}

static void nobody_is_inside_while_it_is_held(void **unused)
{
    static struct crowd c;
    struct timespec nap = {0, 200000};
    pthread_t thread[4];
    int turns;

    (void)unused;
    qc_admission_init(&c.admission);
    for (int i = 0; i < 4; i++)
        pthread_create(&thread[i], NULL, come_and_go, &c);
    for (int i = 0; i < 200; i++) {
        qc_admission_hold(&c.admission);
        turns = c.turns;
        assert_int_equal(c.inside, 0);
        nanosleep(&nap, NULL);
        assert_true(c.inside == 0 && c.turns == turns);
        qc_admission_release(&c.admission);
        nanosleep(&nap, NULL);
    }
    for (int i = 0; i < 100000 && c.turns <= 200; i++)
        nanosleep(&nap, NULL);
    assert_true(c.turns > 200); /* and nobody is kept out for ever */
    atomic_store(&c.stop, true);
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    qc_admission_finish(&c.admission);
}

static void who_waits_can_leave(void **unused)
{
    struct waiter a = make(0, 0, 10), b = make(1, 5, 15), c = make(2, 12, 20);
    struct qc_range_locks r;

    (void)unused;
    n_granted = 0;
    qc_range_locks_init(&r);
    assert_true(qc_range_lock_try(&r, &a.lock));
    assert_false(qc_range_lock_try(&r, &b.lock));
    assert_false(qc_range_lock_try(&r, &c.lock)); /* behind b alone */
    assert_false(qc_range_lock_withdraw(&r, &a.lock));
    assert_true(qc_range_lock_withdraw(&r, &b.lock));
    assert_true(n_granted == 1 && order[0] == 2);
    assert_false(qc_range_lock_withdraw(&r, &c.lock)); /* it was told already */
    qc_range_lock_give(&r, &a.lock);
    qc_range_lock_give(&r, &c.lock);
    assert_true(n_granted == 1 && !r.first && !r.last);
    qc_range_locks_finish(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(disjoint_ranges_are_held_at_once_others_in_order),
        cmocka_unit_test(who_waits_can_leave),
        cmocka_unit_test(many_threads_never_meet_in_a_range),
        cmocka_unit_test(who_is_not_let_in_is_told),
        cmocka_unit_test(nobody_is_inside_while_it_is_held),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
