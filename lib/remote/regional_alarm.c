/* SPDX-License-Identifier: MIT */
#include <signal.h>
#include <time.h>

#include "remote/regional_int.h"

void qc_alarms_init(struct qc_alarms *s)
{
    pthread_condattr_t attr;

    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &attr);
    pthread_condattr_destroy(&attr);
}

void qc_alarms_stop(struct qc_alarms *s)
{
    pthread_mutex_lock(&s->lock);
    s->stop = true;
    pthread_cond_signal(&s->changed);
    pthread_mutex_unlock(&s->lock);
    if (s->has_thread) /* and after stop none is started */
        pthread_join(s->thread, NULL);
}

void qc_alarms_finish(struct qc_alarms *s)
{
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
}

static void unlink_alarm(struct qc_alarms *s, struct qc_alarm *a)
{
    if (a->prev)
        a->prev->next = a->next;
    else
        s->first = a->next;
    if (a->next)
        a->next->prev = a->prev;
    else
        s->last = a->prev;
    a->set = false;
}

static void *alarm_thread(void *arg)
{
    struct qc_alarms *s = arg;
    struct timespec until;
    struct qc_alarm *a;

    pthread_mutex_lock(&s->lock);
    while (!s->stop) {
        a = s->first;
        if (!a) {
            pthread_cond_wait(&s->changed, &s->lock);
        } else if (a->due_us > qc_region_now_us()) {
            until = (struct timespec){a->due_us / 1000000, a->due_us % 1000000 * 1000};
            pthread_cond_timedwait(&s->changed, &s->lock, &until);
        } else {
            unlink_alarm(s, a);
            pthread_mutex_unlock(&s->lock);
            a->ring(a);
            pthread_mutex_lock(&s->lock);
        }
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

/* Under the lock. */
static bool have_thread(struct qc_alarms *s)
{
    sigset_t all, old;

    if (s->has_thread)
        return true;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    s->has_thread = pthread_create(&s->thread, NULL, alarm_thread, s) == 0;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return s->has_thread;
}

/* Nearly always it is the last to ring. */
static void link_alarm(struct qc_alarms *s, struct qc_alarm *a)
{
    struct qc_alarm *before = s->last;

    while (before && before->due_us > a->due_us)
        before = before->prev;
    a->prev = before;
    a->next = before ? before->next : s->first;
    if (a->next)
        a->next->prev = a;
    else
        s->last = a;
    if (before)
        before->next = a;
    else
        s->first = a;
    a->set = true;
}

bool qc_alarm_set(struct qc_alarms *s, struct qc_alarm *a, int64_t after_us)
{
    bool yes;

    pthread_mutex_lock(&s->lock);
    yes = !s->stop && have_thread(s);
    if (yes) {
        a->due_us = qc_region_now_us() + after_us;
        link_alarm(s, a);
        if (s->first == a)
            pthread_cond_signal(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return yes;
}

bool qc_alarm_stop(struct qc_alarms *s, struct qc_alarm *a)
{
    bool yes;

    pthread_mutex_lock(&s->lock);
    yes = a->set;
    if (yes)
        unlink_alarm(s, a);
    pthread_mutex_unlock(&s->lock);
    return yes;
}
