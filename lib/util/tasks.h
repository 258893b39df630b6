/* SPDX-License-Identifier: MIT */
/*
 * Queued tasks on threads of their own, so that whoever submits one never waits.
 * The library has two sets: leaf tasks (a pread, a decode: they wait for nothing
 * queued) and walkers (they read metadata, and may wait for each other's windows
 * and for leaf work). Being apart, neither can keep the other from ending.
 *
 * Tasks have a key, in practice the chain they work for. Keys take turns, so that
 * one with a long queue delays the others by a task, not by its queue.
 *
 * So many tasks run at once as threads are wanted; one that hangs (a dead store) is
 * made up for. A task is taken for hanging when others wait and it has run for
 * QC_TASKS_STUCK_MS, or none was begun or ended for QC_TASKS_STUCK_MS / (1 + tasks
 * that hang). By this division a task queued behind k dead keys waits no longer for
 * them than QC_TASKS_STUCK_MS * (1 + 1/2 + ... + 1/k): 200 ms for 30.
 * QC_TASKS_KEY_THREADS hanging tasks of a key are made up for, QC_TASKS_EXTRA in all;
 * a key that has so many begins others only while less than half of the wanted
 * threads are busy. Thus QC_TASKS_EXTRA / QC_TASKS_KEY_THREADS dead keys leave at least
 * half of the wanted threads, and one, to the others.
 *
 * Threads start at the first need, end when idle for a while, block all signals.
 * While tasks wait that may not begin, one thread more sleeps until one hangs.
 */
#ifndef QC_UTIL_TASKS_H
#define QC_UTIL_TASKS_H

#include <stdbool.h>
#include <stdint.h>

struct qc_tasks;

/* Embed it; zero it once, then set key and run. The set's while queued, the
 * runner's from the moment run is called. */
struct qc_task {
    const void     *key;
    void          (*run)(struct qc_task *t);
    /* The set's. */
    struct qc_task *next, *prev;         /* of one key, a ring */
    struct qc_task *next_key, *prev_key; /* first tasks of all keys, a ring */
    bool            queued;
};

#define QC_TASKS_EXTRA 64u        /* hanging tasks that are made up for, at most */
#define QC_TASKS_STUCK_MS 50      /* see above */
#define QC_TASKS_KEY_THREADS 2u   /* of these, tasks of one key, at most */

/* n_threads: how many tasks run at once while none hangs, at least 1; starts none.
 * NULL when there is no memory. */
struct qc_tasks *qc_tasks_create(unsigned n_threads);
/* Runs what is queued, waits for what runs, ends the threads. Nothing may be
 * submitted any more, but by tasks that run. NULL is fine. */
void qc_tasks_destroy(struct qc_tasks *s);

/* Queue t, to be run once. key and run are set. Never blocks for long, never
 * fails, but where no thread runs and none can be started: then false, and the
 * task is the caller's again. */
bool qc_tasks_submit(struct qc_tasks *s, struct qc_task *t);
/* Take a task back that has not begun; false if it has, or was never submitted. */
bool qc_tasks_withdraw(struct qc_tasks *s, struct qc_task *t);

/* Threads that exist now; for tests. */
unsigned qc_tasks_threads(struct qc_tasks *s);

#endif
