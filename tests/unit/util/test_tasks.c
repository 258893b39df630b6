/* SPDX-License-Identifier: MIT */
/* Queued tasks: order, turns, limits, and what happens while some of them hang. */
#include <pthread.h>
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

#include "share.h"
#include "util/tasks.h"

/* Where time decides, a machine that stops for long may spoil a try, not all. */
#define TRIES 10

struct job {
    struct qc_task  task; /* first: run gets it */
    struct qc_tasks *set;
    unsigned        number, nap_us;
    atomic_bool    *gate;  /* hangs until it is true */
    struct job     *then;  /* jobs it submits, */
    unsigned        n_then;
    atomic_int      times;
};

static atomic_int running, most, begun, done, signals_open;
static atomic_uint order[1000]; /* numbers as begun */

static void run_job(struct qc_task *t)
{
    struct job *j = (struct job *)t;
    int now = atomic_fetch_add(&running, 1) + 1, old = atomic_load(&most);
    int at = atomic_fetch_add(&begun, 1);
    sigset_t mask;

    while (now > old && !atomic_compare_exchange_weak(&most, &old, now))
        ;
    if (at < 1000)
        atomic_store(&order[at], j->number);
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    if (!sigismember(&mask, SIGTERM) || !sigismember(&mask, SIGUSR1))
        atomic_fetch_add(&signals_open, 1);
    for (unsigned i = 0; i < j->n_then; i++)
        if (!qc_tasks_submit(j->set, &j->then[i].task))
            abort();
    if (j->nap_us)
        usleep(j->nap_us);
    while (j->gate && !atomic_load(j->gate))
        usleep(3000);
    atomic_fetch_sub(&running, 1);
    atomic_fetch_add(&j->times, 1);
    atomic_fetch_add(&done, 1); /* the last: then all may be freed */
}

/* n jobs of one key, numbered from first. */
static struct job *new_jobs(struct qc_tasks *s, unsigned n, const void *key, unsigned first)
{
    struct job *j = calloc(n, sizeof(*j));

    for (unsigned i = 0; i < n; i++) {
        j[i].task.key = key;
        j[i].task.run = run_job;
        j[i].set = s;
        j[i].number = first + i;
    }
    return j;
}

static void submit_all(struct qc_tasks *s, struct job *j, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        assert_true(qc_tasks_submit(s, &j[i].task));
}

static void each_ran_once(struct job *j, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(atomic_load(&j[i].times), 1);
}

static int reset(void **unused)
{
    (void)unused;
    atomic_store(&running, 0);
    atomic_store(&most, 0);
    atomic_store(&begun, 0);
    atomic_store(&done, 0);
    for (int i = 0; i < 1000; i++)
        atomic_store(&order[i], UINT32_MAX);
    return 0;
}

static void wait_for(atomic_int *what, int n)
{
    for (int i = 0; i < 60000 && atomic_load(what) < n; i++)
        usleep(1000);
    assert_true(atomic_load(what) >= n);
}

static void wait_for_threads(struct qc_tasks *s, unsigned n)
{
    for (int i = 0; i < 60000 && qc_tasks_threads(s) != n; i++)
        usleep(1000);
    assert_int_equal(qc_tasks_threads(s), n);
}

static long ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ----------------------------------------------------------------- queue --- */

static void tasks_of_a_key_begin_in_order(void **unused)
{
    int in_order = 0;

    for (int try = 0; try < TRIES && !in_order; try++) {
        struct qc_tasks *s = qc_tasks_create(1);
        struct job *j = new_jobs(s, 500, "key", 0);

        reset(unused);
        assert_int_equal(qc_tasks_threads(s), 0);
        submit_all(s, j, 500);
        wait_for(&done, 500);
        each_ran_once(j, 500);
        in_order = atomic_load(&most) == 1;
        for (unsigned i = 0; in_order && i < 500; i++)
            assert_int_equal(atomic_load(&order[i]), i);
        qc_tasks_destroy(s);
        free(j);
    }
    assert_true(in_order);
    assert_int_equal(atomic_load(&signals_open), 0);
    qc_tasks_destroy(NULL);
}

/* One task submits 6 of a, 3 of b, 1 of c, so that none begins before all wait. */
static void keys_take_turns(void **unused)
{
    static const unsigned want[] = {0, 100, 200, 300, 101, 201, 102, 202, 103, 104, 105};
    int in_order = 0;

    for (int try = 0; try < TRIES && !in_order; try++) {
        struct qc_tasks *s = qc_tasks_create(1);
        struct job *all = new_jobs(s, 11, "a", 99);

        reset(unused);
        all[0].number = 0;
        all[0].then = all + 1;
        all[0].n_then = 10;
        for (unsigned i = 7; i < 11; i++) {
            all[i].task.key = i < 10 ? "b" : "c";
            all[i].number = i < 10 ? 193 + i : 300;
        }
        all[0].task.key = "first";
        submit_all(s, all, 1);
        wait_for(&done, 11);
        each_ran_once(all, 11);
        in_order = atomic_load(&most) == 1;
        for (unsigned i = 0; in_order && i < 11; i++)
            assert_int_equal(atomic_load(&order[i]), want[i]);
        qc_tasks_destroy(s);
        free(all);
    }
    assert_true(in_order);
}

/* Of a key with all the hanging tasks that are made up for, no other begins. */
static void a_task_can_be_withdrawn(void **unused)
{
    static const unsigned out[] = {3, 0, 5, 1, 4, 2}; /* middle, first, last, ..., alone */
    atomic_bool gate = false;
    struct qc_tasks *s = qc_tasks_create(1);
    struct job *dead = new_jobs(s, 2, "dead", 0), *j = new_jobs(s, 6, dead->task.key, 10);

    (void)unused;
    dead[0].gate = dead[1].gate = &gate;
    assert_false(qc_tasks_withdraw(s, &j[0].task));
    submit_all(s, dead, 2);
    wait_for(&begun, 2);
    assert_false(qc_tasks_withdraw(s, &dead[0].task));
    for (int round = 0; round < 2; round++) {
        submit_all(s, j, 6);
        for (int i = 0; i < 6; i++) {
            assert_true(qc_tasks_withdraw(s, &j[out[i]].task));
            assert_false(qc_tasks_withdraw(s, &j[out[i]].task));
        }
    }
    submit_all(s, j, 6);
    assert_true(qc_tasks_withdraw(s, &j[2].task));
    atomic_store(&gate, true);
    wait_for(&done, 2 + 5);
    assert_false(qc_tasks_withdraw(s, &j[1].task));
    qc_tasks_destroy(s);
    each_ran_once(dead, 2);
    each_ran_once(j, 2);
    assert_int_equal(atomic_load(&j[2].times), 0);
    each_ran_once(j + 3, 3);
    free(dead);
    free(j);
}

/* --------------------------------------------------------------- threads --- */

static void no_more_run_than_wanted(void **unused)
{
    bool good = false;

    for (int try = 0; try < TRIES && !good; try++) {
        struct qc_tasks *s = qc_tasks_create(3);
        struct job *a = new_jobs(s, 200, "a", 0), *b = new_jobs(s, 200, "b", 500);
        unsigned threads = 0;

        reset(unused);
        for (int i = 0; i < 200; i++)
            a[i].nap_us = b[i].nap_us = 200;
        submit_all(s, a, 200);
        submit_all(s, b, 200);
        while (atomic_load(&done) < 400) {
            threads = qc_tasks_threads(s) > threads ? qc_tasks_threads(s) : threads;
            usleep(100);
        }
        each_ran_once(a, 200);
        each_ran_once(b, 200);
        good = atomic_load(&most) == 3 && threads <= 4; /* one watches */
        qc_tasks_destroy(s);
        free(a);
        free(b);
    }
    assert_true(good);
}

static void idle_threads_end(void **unused)
{
    struct qc_tasks *s = qc_tasks_create(4);
    struct job *j = new_jobs(s, 40, "a", 0);

    (void)unused;
    for (int round = 1; round <= 3; round++) {
        for (int i = 0; i < 40; i++)
            j[i].nap_us = 1000;
        submit_all(s, j, 40);
        assert_true(qc_tasks_threads(s) > 0);
        wait_for(&done, 40 * round);
        wait_for_threads(s, 0);
    }
    qc_tasks_destroy(s);
    free(j);
}

static void destroy_runs_what_is_queued(void **unused)
{
    struct qc_tasks *s = qc_tasks_create(2);
    struct job *j = new_jobs(s, 100, "a", 0), *more = new_jobs(s, 100, "b", 200);

    (void)unused;
    for (int i = 0; i < 100; i++) {
        j[i].nap_us = 300;
        j[i].then = &more[i];
        j[i].n_then = 1;
    }
    submit_all(s, j, 100);
    qc_tasks_destroy(s);
    each_ran_once(j, 100);
    each_ran_once(more, 100);
    free(j);
    free(more);
}

/* Stacks that no machine has make every pthread_create fail. */
static void refuse_threads(bool refuse)
{
    static pthread_attr_t usual;
    pthread_attr_t huge;

    if (!refuse) {
        assert_int_equal(pthread_setattr_default_np(&usual), 0);
        return;
    }
    assert_int_equal(pthread_getattr_default_np(&usual), 0);
    huge = usual;
    assert_int_equal(pthread_attr_setstacksize(&huge, (size_t)1 << 48), 0);
    assert_int_equal(pthread_setattr_default_np(&huge), 0);
}

static void without_threads_the_task_is_given_back(void **unused)
{
    atomic_bool gate = false;
    struct qc_tasks *s = qc_tasks_create(2);
    struct job *j = new_jobs(s, 10, "a", 0);

    (void)unused;
    refuse_threads(true);
    for (int i = 0; i < 10; i++)
        assert_false(qc_tasks_submit(s, &j[i].task));
    assert_int_equal(qc_tasks_threads(s), 0);
    refuse_threads(false);
    j[0].gate = &gate;
    assert_true(qc_tasks_submit(s, &j[0].task));
    wait_for(&begun, 1);
    refuse_threads(true); /* the one that there is does it all */
    submit_all(s, j + 1, 9);
    assert_int_equal(qc_tasks_threads(s), 1);
    atomic_store(&gate, true);
    wait_for(&done, 10);
    refuse_threads(false);
    each_ran_once(j, 10);
    qc_tasks_destroy(s);
    free(j);
}

/* --------------------------------------------------------------- hanging --- */

/* n_dead keys whose tasks hang are queued before a healthy one, over n_threads.
 * Returns how long 50 tasks of it took, one after the other. */
static long healthy_beside_dead(unsigned n_threads, unsigned n_dead)
{
    atomic_bool gate = false;
    struct qc_tasks *s = qc_tasks_create(n_threads);
    struct job *dead = new_jobs(s, n_dead * 8, NULL, 0), *live = new_jobs(s, 50, "live", 500);
    unsigned hang, most_of_one = 0;
    long from = ms();

    for (unsigned i = 0; i < n_dead * 8; i++) {
        dead[i].task.key = &dead[i % n_dead];
        dead[i].gate = &gate;
    }
    submit_all(s, dead, n_dead * 8);
    for (unsigned i = 0; i < 50; i++) {
        assert_true(qc_tasks_submit(s, &live[i].task));
        wait_for(&done, (int)i + 1);
    }
    from = ms() - from;
    assert_true(from < 20000);
    hang = (unsigned)atomic_load(&running);
    assert_true(hang <= n_dead * QC_TASKS_KEY_THREADS + n_threads);
    assert_true(qc_tasks_threads(s) <= n_threads + QC_TASKS_EXTRA);
    for (unsigned k = 0; k < n_dead; k++) {
        unsigned n = 0;

        for (int i = 0; i < 1000; i++)
            n += atomic_load(&order[i]) < 500 && atomic_load(&order[i]) % n_dead == k;
        most_of_one = n > most_of_one ? n : most_of_one;
    }
    if (n_threads == 1)
        assert_true(most_of_one <= QC_TASKS_KEY_THREADS);
    each_ran_once(live, 50);
    atomic_store(&gate, true);
    wait_for(&done, (int)n_dead * 8 + 50);
    each_ran_once(dead, n_dead * 8);
    wait_for_threads(s, 0);
    qc_tasks_destroy(s);
    free(dead);
    free(live);
    return from;
}

static void thirty_dead_keys_and_one_thread(void **unused)
{
    long took = INT32_MAX, one = healthy_beside_dead(1, 1);

    /* The first waits for every dead key's turn (200 ms, not 30 times 50), the next for
     * some more, the rest for nobody; twice 30 times 50 would be 3 s. A machine on which
     * one dead key, 50 ms, costs much more cannot tell, nor one under a checker. */
    for (int try = 0; try < TRIES && took > 2500; try++) {
        reset(unused);
        took = healthy_beside_dead(1, 30);
    }
    assert_true(took <= 2500 || one > 200 || short_by() > 1);
}

static void one_dead_key_leaves_threads_to_others(void **unused)
{
    healthy_beside_dead(4, 1);
    reset(unused);
    healthy_beside_dead(2, 32);
}

/* What hung and ended is no longer made up for. */
static void the_limit_holds_again_after_hanging(void **unused)
{
    bool good = false;

    for (int try = 0; try < TRIES && !good; try++) {
        atomic_bool gate = false;
        struct qc_tasks *s = qc_tasks_create(2);
        struct job *j = new_jobs(s, 8, NULL, 0), *after = new_jobs(s, 200, "a", 500);

        reset(unused);
        for (int i = 0; i < 8; i++) {
            j[i].task.key = &j[i];
            j[i].gate = &gate;
        }
        submit_all(s, j, 8);
        wait_for(&begun, 8); /* all of them: each has a key of its own */
        atomic_store(&gate, true);
        wait_for(&done, 8);
        atomic_store(&most, 0);
        for (int i = 0; i < 200; i++)
            after[i].nap_us = 200;
        submit_all(s, after, 200);
        wait_for(&done, 208);
        good = atomic_load(&most) == 2;
        qc_tasks_destroy(s);
        free(j);
        free(after);
    }
    assert_true(good);
}

/* ---------------------------------------------------------------- all at once --- */

struct crowd {
    struct qc_tasks *set;
    unsigned         seed;
    unsigned         withdrawn;
    struct job      *job;
};

#define CROWD_JOBS 3000

static void *one_of_the_crowd(void *arg)
{
    static const char keys[7];
    struct crowd *c = arg;

    for (unsigned i = 0; i < CROWD_JOBS; i++) {
        struct job *j = &c->job[i];

        j->task.key = &keys[rand_r(&c->seed) % 7];
        if (rand_r(&c->seed) % 300 == 0)
            j->nap_us = 60000; /* long enough to be taken for hanging */
        if (!qc_tasks_submit(c->set, &j->task))
            abort();
        if (rand_r(&c->seed) % 4 == 0) {
            j = &c->job[rand_r(&c->seed) % (i + 1)];
            c->withdrawn += qc_tasks_withdraw(c->set, &j->task);
        }
    }
    return NULL;
}

static void many_submit_and_withdraw(void **unused)
{
    struct qc_tasks *s = qc_tasks_create(2);
    struct crowd c[4];
    pthread_t thread[4];
    unsigned ran = 0, withdrawn = 0;

    (void)unused;
    for (unsigned i = 0; i < 4; i++) {
        c[i] = (struct crowd){s, i + 1, 0, new_jobs(s, CROWD_JOBS, NULL, 0)};
        assert_int_equal(pthread_create(&thread[i], NULL, one_of_the_crowd, &c[i]), 0);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    qc_tasks_destroy(s);
    for (int i = 0; i < 4; i++) {
        for (int k = 0; k < CROWD_JOBS; k++) {
            assert_in_range(atomic_load(&c[i].job[k].times), 0, 1);
            ran += (unsigned)atomic_load(&c[i].job[k].times);
        }
        withdrawn += c[i].withdrawn;
        free(c[i].job);
    }
    assert_int_equal(ran + withdrawn, 4 * CROWD_JOBS);
    assert_int_equal(atomic_load(&running), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(tasks_of_a_key_begin_in_order, reset),
        cmocka_unit_test_setup(keys_take_turns, reset),
        cmocka_unit_test_setup(a_task_can_be_withdrawn, reset),
        cmocka_unit_test_setup(no_more_run_than_wanted, reset),
        cmocka_unit_test_setup(idle_threads_end, reset),
        cmocka_unit_test_setup(destroy_runs_what_is_queued, reset),
        cmocka_unit_test_setup(without_threads_the_task_is_given_back, reset),
        cmocka_unit_test_setup(thirty_dead_keys_and_one_thread, reset),
        cmocka_unit_test_setup(one_dead_key_leaves_threads_to_others, reset),
        cmocka_unit_test_setup(the_limit_holds_again_after_hanging, reset),
        cmocka_unit_test_setup(many_submit_and_withdraw, reset),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
