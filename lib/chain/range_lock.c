/* SPDX-License-Identifier: MIT */
#include "chain/range_lock.h"

#include <stddef.h>

void qc_range_locks_init(struct qc_range_locks *r)
{
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->changed, NULL);
    r->first = r->last = NULL;
}

void qc_range_locks_finish(struct qc_range_locks *r)
{
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->lock);
}

static bool overlap(const struct qc_range_lock *a, const struct qc_range_lock *b)
{
    return a->start < b->end && b->start < a->end;
}

/* Nobody who came before l, holding or waiting, wants any of it. */
static bool is_free(const struct qc_range_locks *r, const struct qc_range_lock *l)
{
    for (const struct qc_range_lock *other = r->first; other != l; other = other->next)
        if (overlap(other, l))
            return false;
    return true;
}

static void append(struct qc_range_locks *r, struct qc_range_lock *l)
{
    l->next = NULL;
    l->prev = r->last;
    if (r->last)
        r->last->next = l;
    else
        r->first = l;
    r->last = l;
    l->held = is_free(r, l);
}

bool qc_range_lock_try(struct qc_range_locks *r, struct qc_range_lock *l)
{
    bool held;

    pthread_mutex_lock(&r->lock);
    append(r, l);
    held = l->held; /* not to be looked at later: it may be granted, and be used up, by then */
    pthread_mutex_unlock(&r->lock);
    return held;
}

void qc_range_lock_take(struct qc_range_locks *r, struct qc_range_lock *l, uint64_t start, uint64_t end)
{
    l->start = start;
    l->end = end;
    l->granted = NULL;
    pthread_mutex_lock(&r->lock);
    append(r, l);
    while (!l->held)
        pthread_cond_wait(&r->changed, &r->lock);
    pthread_mutex_unlock(&r->lock);
}

static void take_out(struct qc_range_locks *r, struct qc_range_lock *l)
{
    if (l->prev)
        l->prev->next = l->next;
    else
        r->first = l->next;
    if (l->next)
        l->next->prev = l->prev;
    else
        r->last = l->prev;
}

/* l is in the list no more: those that it kept waiting, and nobody else does. Lock held; the list of those to be
 * called. */
static struct qc_range_lock *let_in(struct qc_range_locks *r, const struct qc_range_lock *l)
{
    struct qc_range_lock *granted = NULL, **end = &granted;
    bool wake = false;

    for (struct qc_range_lock *other = l->next; other; other = other->next) {
        if (other->held || !overlap(other, l) || !is_free(r, other))
            continue;
        other->held = true;
        if (other->granted) {
            *end = other;
            end = &other->next_granted;
        } else {
            wake = true;
        }
    }
    *end = NULL;
    if (wake)
        pthread_cond_broadcast(&r->changed);
    return granted;
}

static void call(struct qc_range_lock *granted)
{
    struct qc_range_lock *next;

    for (; granted; granted = next) {
        next = granted->next_granted;
        granted->granted(granted);
    }
}

void qc_range_lock_give(struct qc_range_locks *r, struct qc_range_lock *l)
{
    struct qc_range_lock *granted;

    pthread_mutex_lock(&r->lock);
    take_out(r, l);
    granted = let_in(r, l);
    pthread_mutex_unlock(&r->lock);
    call(granted);
}

bool qc_range_lock_withdraw(struct qc_range_locks *r, struct qc_range_lock *l)
{
    struct qc_range_lock *granted = NULL;
    bool waits;

    pthread_mutex_lock(&r->lock);
    waits = !l->held;
    if (waits) {
        take_out(r, l);
        granted = let_in(r, l);
    }
    pthread_mutex_unlock(&r->lock);
    call(granted);
    return waits;
}
