/* SPDX-License-Identifier: MIT */
/*
 * A budget of descriptors for any number of files. Open ones stand in a ring; a
 * clock's hand looks for one that was not used since it last came by. A victim is
 * made unreachable at once and closed when the readers that may hold its number
 * have left their epoch, or when its file is closed for good; its coffin carries
 * it there.
 */
#include "io/file_int.h"

#include <errno.h>
#include <pthread.h>
#include <sys/resource.h>
#include <unistd.h>

#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"

#define MIN_BUDGET 16
#define SPARE_DESCRIPTORS 64  /* left to the rest of the process */
#define MAX_BUDGET (1u << 20)
#define EVICT_WHEN_SHORT 8    /* at once, when the system has no more */
#define MAX_SHORTAGES 16      /* before an open is given up */
#define DRAIN_ROUNDS 150      /* some 5 ms */

struct qc_fdpool {
    struct qc_slots    *counters; /* borrowed */
    struct qc_slots    *epochs;
    uint64_t            budget;
    atomic_uint_fast64_t n_open;  /* with those that wait to be closed */
    pthread_cond_t      buried;   /* another evicted one was closed */
    pthread_mutex_t     lock;     /* guards what follows, the entries and coffins */
    uint64_t            n_live;   /* in the ring or about to be */
    struct qc_fd_entry *hand;     /* somewhere in the ring; NULL: empty */
};

struct qc_fd_coffin {
    struct qc_retired retired; /* first: the epochs know only this */
    struct qc_fdpool *pool;
    struct qc_fd_entry *entry;   /* while it is among those evicted of it; else NULL */
    struct qc_fd_coffin *next;   /* of those */
    int               fd;        /* -1: closed, or being closed */
};

static uint64_t default_budget(void)
{
    struct rlimit r;

    if (getrlimit(RLIMIT_NOFILE, &r) != 0 || r.rlim_cur < SPARE_DESCRIPTORS)
        return MIN_BUDGET;
    return qc_min64(r.rlim_cur - SPARE_DESCRIPTORS, MAX_BUDGET);
}

struct qc_fdpool *qc_fdpool_create(uint32_t max_open, struct qc_slots *slots)
{
    struct qc_fdpool *p = qc_calloc(1, sizeof(*p));

    if (!p)
        return NULL;
    p->counters = slots;
    p->budget = qc_max64(max_open ? max_open : default_budget(), MIN_BUDGET);
    p->epochs = qc_slots_create();
    if (!p->epochs || pthread_mutex_init(&p->lock, NULL) != 0) {
        qc_slots_destroy(p->epochs);
        qc_free(p);
        return NULL;
    }
    pthread_cond_init(&p->buried, NULL);
    return p;
}

void qc_fdpool_destroy(struct qc_fdpool *p)
{
    if (!p)
        return;
    qc_slots_destroy(p->epochs); /* closes what still waits */
    pthread_cond_destroy(&p->buried);
    pthread_mutex_destroy(&p->lock);
    qc_free(p);
}

uint64_t qc_fdpool_open_count(struct qc_fdpool *p)
{
    return atomic_load(&p->n_open);
}

struct qc_slots *qc_fdpool_epochs(struct qc_fdpool *p)
{
    return p->epochs;
}

void qc_fd_entry_init(struct qc_fd_entry *e)
{
    atomic_init(&e->fd, -1);
    atomic_init(&e->used, false);
    e->pins = 0;
    e->coffin = e->evicted = NULL;
    e->next = e->prev = NULL;
}

static void close_one(struct qc_fdpool *p, int fd)
{
    if (fd < 0)
        return;
    close(fd); /* may block, so never under the lock */
    atomic_fetch_sub(&p->n_open, 1);
}

static void bury(struct qc_retired *r)
{
    struct qc_fd_coffin *c = (struct qc_fd_coffin *)r, **at;
    struct qc_fdpool *p = c->pool;
    int fd;

    pthread_mutex_lock(&p->lock);
    fd = c->fd;
    c->fd = -1;
    pthread_mutex_unlock(&p->lock);
    close_one(p, fd);
    pthread_mutex_lock(&p->lock);
    if (c->entry) {
        for (at = &c->entry->evicted; *at != c; at = &(*at)->next)
            continue;
        *at = c->next;
        pthread_cond_broadcast(&p->buried);
    }
    pthread_mutex_unlock(&p->lock);
    qc_free(c);
}

/* ------------------------------------------------- the ring, under the lock --- */

static void ring_add(struct qc_fdpool *p, struct qc_fd_entry *e)
{
    if (!p->hand) {
        e->next = e->prev = e;
        p->hand = e;
        return;
    }
    e->next = p->hand;
    e->prev = p->hand->prev;
    e->prev->next = e;
    p->hand->prev = e;
}

/* Take an entry out of the ring and make its descriptor unreachable. */
static struct qc_fd_coffin *ring_remove(struct qc_fdpool *p, struct qc_fd_entry *e)
{
    struct qc_fd_coffin *c = e->coffin;

    if (p->hand == e)
        p->hand = e->next == e ? NULL : e->next;
    e->prev->next = e->next;
    e->next->prev = e->prev;
    e->next = e->prev = NULL;
    e->coffin = NULL;
    c->fd = atomic_exchange(&e->fd, -1);
    p->n_live--;
    return c;
}

/* The next victim, or NULL if all are pinned. */
static struct qc_fd_coffin *evict_one(struct qc_fdpool *p)
{
    uint64_t steps = 2 * p->n_live;
    struct qc_fd_coffin *c;
    struct qc_fd_entry *e;

    while (p->hand && steps-- > 0) {
        e = p->hand;
        p->hand = e->next;
        if (e->pins > 0)
            continue;
        if (atomic_exchange_explicit(&e->used, false, memory_order_relaxed))
            continue;
        c = ring_remove(p, e);
        c->entry = e;
        c->next = e->evicted;
        e->evicted = c;
        return c;
    }
    return NULL;
}

/* Evict until n_live is at most `most`, at most `n` of them; a list by next. */
static struct qc_retired *evict(struct qc_fdpool *p, uint64_t most, unsigned n)
{
    struct qc_retired *list = NULL;
    struct qc_fd_coffin *c;

    while (n-- > 0 && p->n_live > most && (c = evict_one(p))) {
        c->retired.next = list;
        list = &c->retired;
    }
    return list;
}

/* ------------------------------------------------------------------ outside --- */

static void retire_all(struct qc_fdpool *p, struct qc_retired *list)
{
    struct qc_retired *next;

    for (; list; list = next) {
        next = list->next;
        qc_epoch_retire(p->epochs, list);
    }
    /* Nobody is inside for longer than one system call, but that may hang, and it
     * is only a budget. */
    if (atomic_load(&p->n_open) > p->budget + p->budget / 8)
        qc_epoch_drain_some(p->epochs, DRAIN_ROUNDS);
}

/* The process or the system has no more descriptors: give back some of ours.
 * False if there are none to give. */
static bool make_room(struct qc_fdpool *p)
{
    uint64_t before = atomic_load(&p->n_open);
    struct qc_retired *list;

    pthread_mutex_lock(&p->lock);
    list = evict(p, 0, EVICT_WHEN_SHORT);
    pthread_mutex_unlock(&p->lock);
    retire_all(p, list);
    qc_epoch_drain_some(p->epochs, DRAIN_ROUNDS);
    return list || atomic_load(&p->n_open) < before;
}

static int open_with_patience(struct qc_fdpool *p, qc_fd_open_fn open_fn, void *data, int *fd,
                              qchain_error *err)
{
    qchain_error e;
    int rc;

    for (unsigned shortages = 0;; shortages++) {
        qc_error_init(&e);
        rc = open_fn(data, fd, &e);
        if (rc == 0 || (e.sys_errno != EMFILE && e.sys_errno != ENFILE))
            break;
        if (shortages == MAX_SHORTAGES || !make_room(p))
            break;
    }
    if (rc != 0)
        qc_error_copy(err, &e);
    else
        qc_count(p->counters, QC_CNT_FILE_OPENS, 1);
    return rc;
}

/* Open a pinned entry that was closed. Two threads may do so at once: the first
 * to come back wins, which is cheaper than to make the other wait for a wait. */
static int open_entry(struct qc_fdpool *p, struct qc_fd_entry *e, qc_fd_open_fn open_fn,
                      void *data, int *out, qchain_error *err)
{
    struct qc_fd_coffin *coffin = qc_malloc(sizeof(*coffin));
    int fd = -1;
    int rc;

    if (!coffin)
        return qc_fail_nomem(err);
    *coffin = (struct qc_fd_coffin){.retired.free_fn = bury, .pool = p};
    rc = open_with_patience(p, open_fn, data, &fd, err);
    if (rc != 0) {
        qc_free(coffin);
        return rc;
    }
    pthread_mutex_lock(&p->lock);
    *out = atomic_load(&e->fd);
    if (*out < 0) {
        *out = fd;
        e->coffin = coffin;
        coffin = NULL;
        ring_add(p, e);
        p->n_live++;
        atomic_fetch_add(&p->n_open, 1);
        atomic_store_explicit(&e->used, true, memory_order_relaxed);
        atomic_store(&e->fd, fd);
    }
    pthread_mutex_unlock(&p->lock);
    if (coffin) {
        close(fd);
        qc_free(coffin);
    }
    return 0;
}

int qc_fdpool_acquire(struct qc_fdpool *p, struct qc_fd_entry *e, qc_fd_open_fn open_fn,
                      void *data, int *fd, qchain_error *err)
{
    struct qc_retired *list = NULL;
    int rc;

    pthread_mutex_lock(&p->lock);
    e->pins++;
    *fd = atomic_load(&e->fd);
    if (*fd < 0)
        list = evict(p, p->budget - 1, UINT32_MAX);
    else
        atomic_store_explicit(&e->used, true, memory_order_relaxed);
    pthread_mutex_unlock(&p->lock);
    if (*fd >= 0)
        return 0;

    retire_all(p, list);
    rc = open_entry(p, e, open_fn, data, fd, err);
    if (rc != 0)
        qc_fdpool_release(p, e);
    return rc;
}

void qc_fdpool_release(struct qc_fdpool *p, struct qc_fd_entry *e)
{
    pthread_mutex_lock(&p->lock);
    e->pins--;
    pthread_mutex_unlock(&p->lock);
}

void qc_fdpool_remove(struct qc_fdpool *p, struct qc_fd_entry *e)
{
    struct qc_fd_coffin *c = NULL, *old;
    int fd;

    pthread_mutex_lock(&p->lock);
    if (atomic_load(&e->fd) >= 0)
        c = ring_remove(p, e);
    /* Those that were evicted would keep its lock bytes. They wait for readers that
     * may hold their number, but of this file there are none any more. */
    while ((old = e->evicted)) {
        fd = old->fd;
        if (fd < 0) { /* somebody else closes it just now */
            pthread_cond_wait(&p->buried, &p->lock);
            continue;
        }
        old->fd = -1;
        old->entry = NULL;
        e->evicted = old->next;
        pthread_mutex_unlock(&p->lock);
        close_one(p, fd);
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    if (c)
        bury(&c->retired);
}
