/* SPDX-License-Identifier: MIT */
#include "util/pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <time.h>

#include "util/alloc.h"

/* One qc_pool_run. It lives on the caller's stack: `helpers` counts the pool
 * threads inside, and the caller waits for the last of them. */
struct batch {
    struct batch *next;
    int (*fn)(void *ctx, uint64_t i);
    void *ctx;
    uint64_t n;
    atomic_uint_fast64_t begun;
    atomic_int result;
    unsigned wanted;  /* threads that may still join; under the lock */
    unsigned helpers; /* threads inside; under the lock */
};

/* Idle threads end after so long: system calls are cheaper in a process that has
 * only one thread, and starting another costs little. */
#define IDLE_NS 100000000L

enum thread_state { NONE, RUNNING, ENDED };

struct pool_thread {
    struct qc_pool   *pool;
    pthread_t         id;
    enum thread_state state; /* ENDED: to be joined */
};

struct qc_pool {
    pthread_mutex_t     lock;
    pthread_cond_t      work;  /* a batch wants threads, or the end has come */
    pthread_cond_t      left;  /* a helper left its batch */
    struct batch       *first; /* batches that want threads */
    struct pool_thread *thread;
    unsigned            n_threads, max_threads, n_idle; /* n_threads: RUNNING */
    bool                stop;
};

static void work_on(struct batch *b)
{
    uint64_t i;
    int ret, none;

    while ((i = atomic_fetch_add(&b->begun, 1)) < b->n) {
        if (atomic_load_explicit(&b->result, memory_order_relaxed) != 0)
            break;
        ret = b->fn(b->ctx, i);
        none = 0;
        if (ret != 0)
            atomic_compare_exchange_strong(&b->result, &none, ret);
    }
}

static void unlink_batch(struct qc_pool *p, struct batch *b)
{
    for (struct batch **at = &p->first; *at; at = &(*at)->next) {
        if (*at == b) {
            *at = b->next;
            return;
        }
    }
}

/* Wait for work; false when none came for long. Under the lock. */
static bool wait_for_work(struct qc_pool *p)
{
    struct timespec until;
    int rc = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += IDLE_NS;
    until.tv_sec += until.tv_nsec / 1000000000L;
    until.tv_nsec %= 1000000000L;
    p->n_idle++;
    while (!p->first && !p->stop && rc == 0)
        rc = pthread_cond_timedwait(&p->work, &p->lock, &until);
    p->n_idle--;
    return p->first != NULL;
}

static void *pool_thread(void *arg)
{
    struct pool_thread *self = arg;
    struct qc_pool *p = self->pool;
    struct batch *b;

    pthread_mutex_lock(&p->lock);
    while (!p->stop && (p->first || wait_for_work(p))) {
        b = p->first;
        b->helpers++;
        if (--b->wanted == 0)
            unlink_batch(p, b);
        pthread_mutex_unlock(&p->lock);
        work_on(b);
        pthread_mutex_lock(&p->lock);
        if (--b->helpers == 0)
            pthread_cond_broadcast(&p->left);
    }
    self->state = ENDED;
    p->n_threads--;
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

struct qc_pool *qc_pool_create(unsigned n_threads)
{
    struct qc_pool *p = qc_calloc(1, sizeof(*p));
    pthread_condattr_t attr;

    if (!p)
        return NULL;
    p->thread = qc_calloc(n_threads, sizeof(*p->thread));
    if (!p->thread) {
        qc_free(p);
        return NULL;
    }
    p->max_threads = n_threads;
    pthread_mutex_init(&p->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&p->work, &attr);
    pthread_cond_init(&p->left, NULL);
    pthread_condattr_destroy(&attr);
    return p;
}

static void join_thread(struct qc_pool *p, struct pool_thread *t)
{
    bool started;

    pthread_mutex_lock(&p->lock);
    started = t->state != NONE;
    pthread_mutex_unlock(&p->lock);
    if (started)
        pthread_join(t->id, NULL);
}

void qc_pool_destroy(struct qc_pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 0; i < p->max_threads; i++)
        join_thread(p, &p->thread[i]);
    pthread_cond_destroy(&p->left);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->lock);
    qc_free(p->thread);
    qc_free(p);
}

unsigned qc_pool_threads(const struct qc_pool *p)
{
    return p->max_threads;
}

static int start_one(struct qc_pool *p)
{
    struct pool_thread *t = p->thread;

    while (t->state == RUNNING)
        t++;
    if (t->state == ENDED) /* it needs the lock no more */
        pthread_join(t->id, NULL);
    t->pool = p;
    t->state = NONE;
    if (pthread_create(&t->id, NULL, pool_thread, t) != 0)
        return -1;
    t->state = RUNNING;
    p->n_threads++;
    return 0;
}

/* Start threads until `wanted` are idle or no more may or can be had; under the
 * lock. A thread that cannot be started is no error: the caller works itself. */
static void start_threads(struct qc_pool *p, unsigned wanted)
{
    sigset_t all, old;

    if (p->n_idle >= wanted || p->n_threads == p->max_threads)
        return;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (unsigned have = p->n_idle; have < wanted && p->n_threads < p->max_threads; have++)
        if (start_one(p) != 0)
            break;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
}

int qc_pool_run(struct qc_pool *p, unsigned width, uint64_t n,
                int (*fn)(void *ctx, uint64_t i), void *ctx)
{
    struct batch b = {.fn = fn, .ctx = ctx, .n = n};

    if (width > n)
        width = (unsigned)n;
    if (width > p->max_threads + 1)
        width = p->max_threads + 1;
    if (width > 1) {
        b.wanted = width - 1;
        pthread_mutex_lock(&p->lock);
        b.next = p->first;
        p->first = &b;
        start_threads(p, b.wanted);
        pthread_cond_broadcast(&p->work);
        pthread_mutex_unlock(&p->lock);
    }
    work_on(&b);
    if (width > 1) {
        pthread_mutex_lock(&p->lock);
        if (b.wanted) /* nobody need join any more */
            unlink_batch(p, &b);
        while (b.helpers)
            pthread_cond_wait(&p->left, &p->lock);
        pthread_mutex_unlock(&p->lock);
    }
    return atomic_load(&b.result);
}
