/* SPDX-License-Identifier: MIT */
#include "chain/admission.h"

void qc_admission_init(struct qc_admission *a)
{
    atomic_init(&a->inside, 0);
    atomic_init(&a->held, 0);
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->changed, NULL);
    a->first = NULL;
    a->end = &a->first;
}

void qc_admission_finish(struct qc_admission *a)
{
    pthread_cond_destroy(&a->changed);
    pthread_mutex_destroy(&a->lock);
}

/* Counted first, then looked: whoever holds counts himself first, then looks who is inside. Both are seq_cst, so
 * one of them sees the other. */
bool qc_admission_pass(struct qc_admission *a)
{
    atomic_fetch_add(&a->inside, 1);
    if (__builtin_expect(atomic_load(&a->held) == 0, 1))
        return true;
    qc_admission_leave(a);
    return false;
}

void qc_admission_enter(struct qc_admission *a)
{
    while (!qc_admission_pass(a)) {
        pthread_mutex_lock(&a->lock);
        while (atomic_load(&a->held) != 0)
            pthread_cond_wait(&a->changed, &a->lock);
        pthread_mutex_unlock(&a->lock);
    }
}

bool qc_admission_try(struct qc_admission *a, struct qc_admission_waiter *w)
{
    bool parked;

    while (!qc_admission_pass(a)) {
        pthread_mutex_lock(&a->lock);
        parked = atomic_load(&a->held) != 0;
        if (parked) {
            w->next = NULL;
            *a->end = w;
            a->end = &w->next;
        }
        pthread_mutex_unlock(&a->lock);
        if (parked)
            return false;
    }
    return true;
}

bool qc_admission_withdraw(struct qc_admission *a, struct qc_admission_waiter *w)
{
    struct qc_admission_waiter **at;
    bool found;

    pthread_mutex_lock(&a->lock);
    for (at = &a->first; *at && *at != w; at = &(*at)->next)
        continue;
    found = *at != NULL;
    if (found) {
        *at = w->next;
        if (a->end == &w->next)
            a->end = at;
    }
    pthread_mutex_unlock(&a->lock);
    return found;
}

void qc_admission_leave(struct qc_admission *a)
{
    if (atomic_fetch_sub(&a->inside, 1) != 1 || atomic_load(&a->held) == 0)
        return;
    pthread_mutex_lock(&a->lock);
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->lock);
}

void qc_admission_hold(struct qc_admission *a)
{
    pthread_mutex_lock(&a->lock);
    atomic_fetch_add(&a->held, 1);
    while (atomic_load(&a->inside) != 0)
        pthread_cond_wait(&a->changed, &a->lock);
    pthread_mutex_unlock(&a->lock);
}

void qc_admission_release(struct qc_admission *a)
{
    struct qc_admission_waiter *w = NULL, *next;

    pthread_mutex_lock(&a->lock);
    if (atomic_fetch_sub(&a->held, 1) == 1) {
        w = a->first;
        a->first = NULL;
        a->end = &a->first;
        pthread_cond_broadcast(&a->changed);
    }
    pthread_mutex_unlock(&a->lock);
    for (; w; w = next) {
        next = w->next;
        w->ready(w);
    }
}
