/* SPDX-License-Identifier: MIT */
/* Windows and the ring that keeps them within a budget. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "chain/window.h"
#include "image_tools.h"
#include "util/alloc.h"

#define RUNS 10

static struct qc_window *make(uint64_t first)
{
    struct qc_run run[RUNS];

    for (unsigned i = 0; i < RUNS; i++)
        run[i] = qc_run_make(first + 512 * i, 512, QC_DATA, (first + i) << 9);
    return qc_window_create(NULL, run, RUNS);
}

/* What a window of make() counts for in a ring. */
static uint64_t window_bytes(void)
{
    struct qc_slots *slots = qc_slots_create();
    qc_window_slot slot;
    struct qc_ring ring;
    uint64_t bytes;

    atomic_init(&slot, NULL);
    qc_ring_init(&ring, UINT64_MAX);
    qc_ring_publish(&ring, slots, make(0), &slot, "owner");
    bytes = qc_ring_bytes(&ring);
    qc_ring_drop_owner(&ring, "owner");
    qc_ring_finish(&ring);
    qc_slots_destroy(slots);
    assert_true(bytes >= sizeof(struct qc_window) + RUNS * sizeof(struct qc_run));
    return bytes;
}

static void the_run_is_found(void **unused)
{
    struct qc_run run[100];
    uint64_t seed = 1, at;

    (void)unused;
    for (size_t n = 1; n <= 100; n++) {
        struct qc_window *w;

        at = 0;
        for (size_t i = 0; i < n; i++) {
            run[i] = qc_run_make(at, 512 * (1 + random_next(&seed) % 5), QC_ZERO, 0);
            at = qc_run_end(&run[i]);
        }
        w = qc_window_create(NULL, run, n);
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(qc_window_find(w, run[i].guest), i);
            assert_int_equal(qc_window_find(w, qc_run_end(&run[i]) - 1), i);
        }
        qc_free(w);
    }
}

static void the_ring_keeps_to_its_budget(void **unused)
{
    struct qc_slots *slots = qc_slots_create();
    qc_window_slot slot[100];
    struct qc_ring ring;
    unsigned seen = 0;

    (void)unused;
    for (int i = 0; i < 100; i++)
        atomic_init(&slot[i], NULL);
    qc_ring_init(&ring, 10 * window_bytes());
    for (unsigned i = 0; i < 100; i++) {
        qc_ring_publish(&ring, slots, make(i), &slot[i], "owner");
        assert_true(qc_ring_bytes(&ring) <= 10 * window_bytes());
        assert_non_null(atomic_load(&slot[i])); /* the newest is never the victim */
        if (atomic_load(&slot[0]))              /* and what is used stays */
            atomic_store(&atomic_load(&slot[0])->used, true);
    }
    assert_non_null(atomic_load(&slot[0]));
    for (int i = 0; i < 100; i++)
        seen += atomic_load(&slot[i]) != NULL;
    assert_int_equal(seen, 10);
    assert_int_equal(qc_ring_bytes(&ring), 10 * window_bytes());
    assert_int_equal(qc_counter_sum(slots, QC_CNT_EVICTIONS), 90);
    qc_ring_drop_owner(&ring, "owner");
    assert_int_equal(qc_ring_bytes(&ring), 0);
    for (int i = 0; i < 100; i++)
        assert_null(atomic_load(&slot[i]));
    qc_ring_finish(&ring);
    qc_slots_destroy(slots);
}

static void one_larger_than_the_budget_serves_its_reader(void **unused)
{
    struct qc_slots *slots = qc_slots_create();
    qc_window_slot slot[2];
    struct qc_ring ring;

    (void)unused;
    atomic_init(&slot[0], NULL);
    atomic_init(&slot[1], NULL);
    qc_ring_init(&ring, 1);
    qc_ring_publish(&ring, slots, make(0), &slot[0], "owner");
    assert_non_null(atomic_load(&slot[0]));
    qc_ring_publish(&ring, slots, make(0), &slot[1], "owner");
    assert_null(atomic_load(&slot[0]));
    assert_non_null(atomic_load(&slot[1]));
    qc_ring_drop_owner(&ring, "owner");
    qc_ring_finish(&ring);
    qc_slots_destroy(slots);
}

static void owners_are_kept_apart(void **unused)
{
    static const char a, b;
    struct qc_slots *slots = qc_slots_create();
    qc_window_slot slot[40];
    struct qc_ring ring;

    (void)unused;
    qc_ring_init(&ring, UINT64_C(1) << 30);
    qc_ring_drop_owner(&ring, &a);
    for (unsigned i = 0; i < 40; i++) {
        atomic_init(&slot[i], NULL);
        qc_ring_publish(&ring, slots, make(i), &slot[i], i % 3 ? &a : &b);
    }
    qc_ring_drop_owner(&ring, &a);
    for (unsigned i = 0; i < 40; i++)
        assert_int_equal(atomic_load(&slot[i]) != NULL, i % 3 == 0);
    assert_int_equal(qc_ring_bytes(&ring), 14 * window_bytes());
    qc_ring_drop_owner(&ring, &a);
    qc_ring_drop_owner(&ring, &b);
    assert_int_equal(qc_ring_bytes(&ring), 0);
    qc_ring_finish(&ring);
    qc_slots_destroy(slots);
}

/* -------------------------------------------------------------- threads --- */

struct shared {
    struct qc_slots *slots;
    struct qc_ring   ring;
    pthread_mutex_t  fill[32];
    qc_window_slot   slot[32];
};

struct user {
    struct shared *s;
    uint64_t       seed;
    int            bad;
};

static void *user(void *arg)
{
    struct user *u = arg;
    struct shared *s = u->s;

    for (int i = 0; i < 10000; i++) {
        unsigned n = random_next(&u->seed) % 32, token = qc_epoch_enter(s->slots);
        struct qc_window *w = atomic_load(&s->slot[n]);

        if (w) {
            u->bad |= w->run[0].guest != n || w->run[RUNS - 1].guest != n + 512 * (RUNS - 1);
            atomic_store_explicit(&w->used, true, memory_order_relaxed);
        }
        qc_epoch_exit(s->slots, token);
        if (w)
            continue;
        pthread_mutex_lock(&s->fill[n]); /* one filler a slot */
        if (!atomic_load(&s->slot[n]))
            qc_ring_publish(&s->ring, s->slots, make(n), &s->slot[n], s);
        pthread_mutex_unlock(&s->fill[n]);
    }
    return NULL;
}

static void many_threads(void **unused)
{
    struct shared s = {.slots = qc_slots_create()};
    struct user u[4];
    pthread_t thread[4];

    (void)unused;
    qc_ring_init(&s.ring, 7 * window_bytes());
    for (int i = 0; i < 32; i++) {
        atomic_init(&s.slot[i], NULL);
        pthread_mutex_init(&s.fill[i], NULL);
    }
    for (unsigned i = 0; i < 4; i++) {
        u[i] = (struct user){&s, i, 0};
        assert_int_equal(pthread_create(&thread[i], NULL, user, &u[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(thread[i], NULL);
        assert_int_equal(u[i].bad, 0);
    }
    assert_true(qc_ring_bytes(&s.ring) <= 7 * window_bytes());
    assert_true(qc_counter_sum(s.slots, QC_CNT_EVICTIONS) > 1000);
    qc_ring_drop_owner(&s.ring, &s);
    qc_epoch_drain(s.slots);
    qc_ring_finish(&s.ring);
    qc_slots_destroy(s.slots);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_run_is_found),
        cmocka_unit_test(the_ring_keeps_to_its_budget),
        cmocka_unit_test(one_larger_than_the_budget_serves_its_reader),
        cmocka_unit_test(owners_are_kept_apart),
        cmocka_unit_test(many_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
