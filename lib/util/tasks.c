/* SPDX-License-Identifier: MIT */
#include "util/tasks.h"

#include <pthread.h>
#include <signal.h>
#include <time.h>

#include "util/alloc.h"

#define STUCK_NS (QC_TASKS_STUCK_MS * INT64_C(1000000))
/* Idle threads end after so long: system calls are cheaper in a process that has
 * only one thread, and starting another costs little. */
#define IDLE_NS INT64_C(100000000)

enum thread_state { NONE, ALIVE, ENDED };

struct task_thread {
    struct qc_tasks  *set;
    pthread_t         id;
    enum thread_state state;    /* ENDED: to be joined */
    bool              running;  /* a task, of: */
    bool              hangs;    /* it is taken for hanging */
    const void       *key;
    int64_t           begun_ns;
};

/* All of it is under the lock. */
struct qc_tasks {
    pthread_mutex_t     lock;
    pthread_cond_t      work;   /* a task may begin, or is to be watched, or the end has come */
    pthread_cond_t      ended;  /* the last thread has ended */
    struct qc_task     *turn;   /* first task of the key whose turn it is; NULL: none queued */
    struct task_thread *thread;
    unsigned            n_wanted, n_slots;   /* n_slots: with those that make up for others */
    unsigned            n_alive, n_running;
    unsigned            n_idle;              /* threads that wait, the watching one too */
    unsigned            n_hanging, n_made_up;
    int64_t             moved_ns;            /* when a task was last begun or ended */
    bool                watched;             /* a thread waits for a task to hang */
    bool                coming;              /* a thread was started, and has not looked yet */
    bool                stop;
};

static int64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

/* ----------------------------------------------------------------- queue --- */

static void enqueue(struct qc_tasks *s, struct qc_task *t)
{
    struct qc_task *first = s->turn;

    while (first && first->key != t->key)
        first = first->next_key == s->turn ? NULL : first->next_key;
    t->queued = true;
    t->next = t->prev = t->next_key = t->prev_key = t;
    if (first) {
        t->next = first;
        t->prev = first->prev;
        t->next->prev = t->prev->next = t;
    } else if (s->turn) { /* a new key: the last to have its turn */
        t->next_key = s->turn;
        t->prev_key = s->turn->prev_key;
        t->next_key->prev_key = t->prev_key->next_key = t;
    } else {
        s->turn = t;
    }
}

static void dequeue(struct qc_tasks *s, struct qc_task *t)
{
    struct qc_task *first = s->turn, *heir = t->next;

    while (first != t && first->next_key != s->turn)
        first = first->next_key;
    t->queued = false;
    t->next->prev = t->prev;
    t->prev->next = t->next;
    if (first != t)
        return;
    if (heir == t) { /* the key's last */
        t->next_key->prev_key = t->prev_key;
        t->prev_key->next_key = t->next_key;
        heir = t->next_key == t ? NULL : t->next_key;
    } else if (t->next_key == t) {
        heir->next_key = heir->prev_key = heir;
    } else {
        heir->next_key = t->next_key;
        heir->prev_key = t->prev_key;
        heir->next_key->prev_key = heir->prev_key->next_key = heir;
    }
    if (s->turn == t)
        s->turn = heir;
}

/* ----------------------------------------------------------- who may run --- */

static unsigned hanging_of(const struct qc_tasks *s, const void *key)
{
    unsigned n = 0;

    if (s->n_hanging == 0)
        return 0;
    for (unsigned i = 0; i < s->n_slots; i++)
        n += s->thread[i].hangs && s->thread[i].key == key;
    return n;
}

/* Running tasks that are not made up for. */
static unsigned counted(const struct qc_tasks *s)
{
    return s->n_running - (s->n_made_up < QC_TASKS_EXTRA ? s->n_made_up : QC_TASKS_EXTRA);
}

/* The task that may begin now, NULL if none may. */
static struct qc_task *next_task(const struct qc_tasks *s)
{
    struct qc_task *t = s->turn;
    unsigned n = counted(s);

    if (!t || n >= s->n_wanted)
        return NULL;
    do {
        if (2 * (n + 1) <= s->n_wanted || hanging_of(s, t->key) < QC_TASKS_KEY_THREADS)
            return t;
        t = t->next_key;
    } while (t != s->turn);
    return NULL;
}

static void begin(struct qc_tasks *s, struct task_thread *self, struct qc_task *t)
{
    struct qc_task *after = t->next_key;

    dequeue(s, t);
    if (after != t) /* else the key is alone, and dequeue has set its next task */
        s->turn = after;
    self->running = true;
    self->key = t->key;
    self->begun_ns = s->moved_ns = now_ns();
    s->n_running++;
}

static void end(struct qc_tasks *s, struct task_thread *self)
{
    self->running = false;
    s->n_running--;
    s->moved_ns = now_ns();
    if (!self->hangs)
        return;
    self->hangs = false;
    if (hanging_of(s, self->key) < QC_TASKS_KEY_THREADS)
        s->n_made_up--;
    s->n_hanging--;
}

/* The task that would be the next to be taken for hanging, and when. */
static struct task_thread *next_to_hang(const struct qc_tasks *s, int64_t *when)
{
    int64_t all = s->moved_ns + STUCK_NS / (1 + (int64_t)s->n_hanging);
    struct task_thread *oldest = NULL;

    for (unsigned i = 0; i < s->n_slots; i++) {
        struct task_thread *t = &s->thread[i];

        if (t->running && !t->hangs && (!oldest || t->begun_ns < oldest->begun_ns))
            oldest = t;
    }
    if (oldest)
        *when = oldest->begun_ns + STUCK_NS < all ? oldest->begun_ns + STUCK_NS : all;
    return oldest;
}

/* Tasks wait and none may begin: find one that hangs; false if none does. */
static bool find_hanging(struct qc_tasks *s)
{
    int64_t when;
    struct task_thread *t = next_to_hang(s, &when);

    if (!t || when > now_ns())
        return false;
    if (hanging_of(s, t->key) < QC_TASKS_KEY_THREADS)
        s->n_made_up++;
    t->hangs = true;
    s->n_hanging++;
    return true;
}

/* --------------------------------------------------------------- threads --- */

static void *task_thread(void *arg);

static bool start_one(struct qc_tasks *s)
{
    struct task_thread *t = s->thread;
    sigset_t all, old;
    int rc;

    if (s->n_alive == s->n_slots)
        return false;
    while (t->state == ALIVE)
        t++;
    if (t->state == ENDED) /* it needs the lock no more */
        pthread_join(t->id, NULL);
    t->set = s;
    t->state = NONE;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&t->id, NULL, task_thread, t);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    if (rc != 0)
        return false;
    t->state = ALIVE;
    s->n_alive++;
    s->coming = true;
    return true;
}

/* Have a thread for what is queued: to run it or, where it may not begin, to watch
 * for a task that hangs. Threads are started one at a time: when one has begun a task
 * it calls the next. False if there is none and none can be started. */
static bool call_thread(struct qc_tasks *s)
{
    if (!s->turn || s->coming || (s->watched && !next_task(s)))
        return true;
    if (s->n_idle == 0)
        return start_one(s);
    pthread_cond_signal(&s->work);
    return true;
}

/* Wait for something to do; false if the thread is not needed any more. */
static bool wait_for_work(struct qc_tasks *s)
{
    bool watch = s->turn && !s->watched;
    int64_t when = now_ns() + (watch ? STUCK_NS : IDLE_NS);
    struct timespec until;
    int rc;

    /* As many may be idle as may begin tasks, and one to watch. */
    if (!watch && (s->stop || s->n_idle + counted(s) > s->n_wanted))
        return false;
    if (watch)
        next_to_hang(s, &when);
    until.tv_sec = when / 1000000000;
    until.tv_nsec = when % 1000000000;
    s->n_idle++;
    s->watched |= watch;
    rc = pthread_cond_timedwait(&s->work, &s->lock, &until);
    s->n_idle--;
    if (watch)
        s->watched = false;
    return watch || rc == 0 || s->turn;
}

static void *task_thread(void *arg)
{
    struct task_thread *self = arg;
    struct qc_tasks *s = self->set;
    struct qc_task *t;

    pthread_mutex_lock(&s->lock);
    s->coming = false;
    do {
        while ((t = next_task(s)) || (s->turn && find_hanging(s))) {
            if (!t)
                continue;
            begin(s, self, t);
            call_thread(s);
            pthread_mutex_unlock(&s->lock);
            t->run(t);
            pthread_mutex_lock(&s->lock);
            end(s, self);
        }
    } while (wait_for_work(s));
    self->state = ENDED;
    if (--s->n_alive == 0)
        pthread_cond_signal(&s->ended);
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* ------------------------------------------------------------------ door --- */

struct qc_tasks *qc_tasks_create(unsigned n_threads)
{
    struct qc_tasks *s = qc_calloc(1, sizeof(*s));
    pthread_condattr_t attr;

    if (!s)
        return NULL;
    s->n_wanted = n_threads;
    s->n_slots = n_threads + QC_TASKS_EXTRA;
    s->thread = qc_calloc(s->n_slots, sizeof(*s->thread));
    if (!s->thread) {
        qc_free(s);
        return NULL;
    }
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->work, &attr);
    pthread_cond_init(&s->ended, NULL);
    pthread_condattr_destroy(&attr);
    return s;
}

void qc_tasks_destroy(struct qc_tasks *s)
{
    if (!s)
        return;
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_broadcast(&s->work);
    while (s->n_alive > 0) /* a thread ends only when nothing is left for it */
        pthread_cond_wait(&s->ended, &s->lock);
    pthread_mutex_unlock(&s->lock);
    for (unsigned i = 0; i < s->n_slots; i++)
        if (s->thread[i].state == ENDED)
            pthread_join(s->thread[i].id, NULL);
    pthread_cond_destroy(&s->ended);
    pthread_cond_destroy(&s->work);
    pthread_mutex_destroy(&s->lock);
    qc_free(s->thread);
    qc_free(s);
}

bool qc_tasks_submit(struct qc_tasks *s, struct qc_task *t)
{
    bool taken = true;

    pthread_mutex_lock(&s->lock);
    enqueue(s, t);
    if (!call_thread(s) && s->n_alive == 0) {
        dequeue(s, t);
        taken = false;
    }
    pthread_mutex_unlock(&s->lock);
    return taken;
}

bool qc_tasks_withdraw(struct qc_tasks *s, struct qc_task *t)
{
    bool queued;

    pthread_mutex_lock(&s->lock);
    queued = t->queued;
    if (queued)
        dequeue(s, t);
    pthread_mutex_unlock(&s->lock);
    return queued;
}

unsigned qc_tasks_threads(struct qc_tasks *s)
{
    unsigned n;

    pthread_mutex_lock(&s->lock);
    n = s->n_alive;
    pthread_mutex_unlock(&s->lock);
    return n;
}
