/* SPDX-License-Identifier: MIT */
/* Epochs under readers and a writer, and counters. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "util/alloc.h"
#include "util/slots.h"

#define ALIVE 0x600dd00du
#define DEAD 0xdeadbeefu
#define N_POINTERS 8
#define ROUNDS 20000

/* What readers look at. A freed one stays where it is, but says DEAD: a reader
 * that comes too late sees it for certain, also without a sanitizer. */
struct thing {
    struct qc_retired retired; /* first */
    atomic_uint       magic;
    struct thing     *next_dead;
};

static atomic_int freed;
static _Atomic(struct thing *) dead_list;

static struct thing *new_thing(void)
{
    struct thing *t = calloc(1, sizeof(*t));

    atomic_store(&t->magic, ALIVE);
    return t;
}

static void poison(struct qc_retired *r)
{
    struct thing *t = (struct thing *)r, *head;

    atomic_store(&t->magic, DEAD);
    head = atomic_load(&dead_list);
    do
        t->next_dead = head;
    while (!atomic_compare_exchange_weak(&dead_list, &head, t));
    atomic_fetch_add(&freed, 1);
}

static void bury(void)
{
    struct thing *t = atomic_exchange(&dead_list, NULL), *next;

    for (; t; t = next) {
        next = t->next_dead;
        free(t);
    }
    atomic_store(&freed, 0);
}

struct stress {
    struct qc_slots *slots;
    _Atomic(struct thing *) pointer[N_POINTERS];
    atomic_bool  stop;
    atomic_int   bad;
    atomic_ulong looked;
};

static void look(struct stress *s, unsigned i, int depth)
{
    unsigned token = qc_epoch_enter(s->slots);
    struct thing *t = atomic_load(&s->pointer[i % N_POINTERS]);

    if (depth > 0)
        look(s, i * 7 + 1, depth - 1);
    if (i % 64 == 0)
        sched_yield();
    if (atomic_load_explicit(&t->magic, memory_order_relaxed) != ALIVE)
        atomic_fetch_add(&s->bad, 1);
    qc_epoch_exit(s->slots, token);
    atomic_fetch_add_explicit(&s->looked, 1, memory_order_relaxed);
}

static void *reader(void *arg)
{
    struct stress *s = arg;

    for (unsigned i = 0; !atomic_load(&s->stop); i++)
        look(s, i, i % 3);
    return NULL;
}

static void readers_never_see_the_dead(void **unused)
{
    struct stress s = {.slots = qc_slots_create()};
    pthread_t thread[4];
    struct thing *old;

    (void)unused;
    assert_non_null(s.slots);
    for (int i = 0; i < N_POINTERS; i++)
        atomic_init(&s.pointer[i], new_thing());
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, reader, &s), 0);
    while (atomic_load(&s.looked) < 1000)
        sched_yield();
    for (int i = 0; i < ROUNDS; i++) {
        old = atomic_exchange(&s.pointer[i % N_POINTERS], new_thing());
        old->retired.free_fn = poison;
        qc_epoch_retire(s.slots, &old->retired);
        if (i % 100 == 0)
            qc_epoch_reclaim(s.slots);
        if (i % 5000 == 0) {
            qc_epoch_drain(s.slots);
            assert_int_equal(atomic_load(&freed), i + 1);
        }
        if (i % 256 == 0)
            sched_yield();
    }
    qc_epoch_drain(s.slots);
    assert_int_equal(atomic_load(&freed), ROUNDS);
    atomic_store(&s.stop, true);
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    assert_int_equal(atomic_load(&s.bad), 0);
    for (int i = 0; i < N_POINTERS; i++)
        free(atomic_load(&s.pointer[i]));
    qc_slots_destroy(s.slots);
    bury();
}

static void retire_new(struct qc_slots *s)
{
    struct thing *t = new_thing();

    t->retired.free_fn = poison;
    qc_epoch_retire(s, &t->retired);
}

static void a_reader_holds_what_it_may_see(void **unused)
{
    struct qc_slots *s = qc_slots_create();
    unsigned outer, inner;

    (void)unused;
    outer = qc_epoch_enter(s);
    inner = qc_epoch_enter(s);
    retire_new(s);
    for (int i = 0; i < 10; i++)
        qc_epoch_reclaim(s);
    assert_int_equal(atomic_load(&freed), 0);
    qc_epoch_exit(s, inner);
    for (int i = 0; i < 10; i++)
        qc_epoch_reclaim(s);
    assert_int_equal(atomic_load(&freed), 0);
    qc_epoch_exit(s, outer);
    qc_epoch_drain(s);
    assert_int_equal(atomic_load(&freed), 1);
    qc_epoch_drain(s); /* nothing left: returns at once */
    qc_slots_destroy(s);
    bury();
}

/* A reader that came after an object was unlinked does not hold it for ever. */
static void later_readers_hold_nothing_back(void **unused)
{
    struct qc_slots *s = qc_slots_create();
    unsigned token, next;

    (void)unused;
    token = qc_epoch_enter(s);
    for (int i = 0; i < 100; i++) { /* there is always a reader inside */
        retire_new(s);
        next = qc_epoch_enter(s);
        qc_epoch_exit(s, token);
        token = next;
    }
    assert_true(atomic_load(&freed) > 90);
    qc_epoch_exit(s, token);
    qc_epoch_drain(s);
    assert_int_equal(atomic_load(&freed), 100);
    qc_slots_destroy(s);
    bury();
}

static void destroy_frees_what_is_retired(void **unused)
{
    struct qc_slots *s = qc_slots_create();
    unsigned token = qc_epoch_enter(s);

    (void)unused;
    retire_new(s);
    retire_new(s);
    qc_epoch_exit(s, token);
    qc_slots_destroy(s);
    assert_int_equal(atomic_load(&freed), 2);
    qc_slots_destroy(NULL);
    bury();
}

static void *count_up(void *arg)
{
    for (int i = 0; i < 50000; i++)
        qc_count(arg, QC_CNT_READS, 2);
    return NULL;
}

static void counters_add_up(void **unused)
{
    struct qc_slots *s = qc_slots_create();
    pthread_t thread[4];

    (void)unused;
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, count_up, s), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    assert_int_equal(qc_counter_sum(s, QC_CNT_READS), 400000);
    assert_int_equal(qc_counter_sum(s, QC_CNT_READ_BYTES), 0);
    qc_count(NULL, QC_CNT_READS, 1);
    assert_true(qc_slot_number() < QC_N_SLOTS);
    assert_int_equal((uintptr_t)&s->slot[0] % 128, 0);
    qc_slots_destroy(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(readers_never_see_the_dead),
        cmocka_unit_test(a_reader_holds_what_it_may_see),
        cmocka_unit_test(later_readers_hold_nothing_back),
        cmocka_unit_test(destroy_frees_what_is_retired),
        cmocka_unit_test(counters_add_up),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
