/* SPDX-License-Identifier: MIT */
/*
 * Who may write now: an open door that can be held shut. Passing it costs two atomic adds while nobody holds it.
 */
#ifndef QC_CHAIN_ADMISSION_H
#define QC_CHAIN_ADMISSION_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* One who does not block; embed it. */
struct qc_admission_waiter {
    struct qc_admission_waiter *next;
    /* Called once, with nothing held, when the door is open again, if he was not let in at once: he may try
     * again. */
    void (*ready)(struct qc_admission_waiter *w);
};

struct qc_admission {
    atomic_uint     inside;
    atomic_uint     held; /* how many hold it shut; changed under the lock */
    pthread_mutex_t lock;
    pthread_cond_t  changed;
    struct qc_admission_waiter *first, **end;
};

void qc_admission_init(struct qc_admission *a);
void qc_admission_finish(struct qc_admission *a);

/* Come in, blocking while it is held. */
void qc_admission_enter(struct qc_admission *a);
/* True: inside. False: it is held. */
bool qc_admission_pass(struct qc_admission *a);
/* True: inside. False: w will be told. */
bool qc_admission_try(struct qc_admission *a, struct qc_admission_waiter *w);
/* Take back one who was not let in and not told yet; false if he was, or is not waiting. */
bool qc_admission_withdraw(struct qc_admission *a, struct qc_admission_waiter *w);
void qc_admission_leave(struct qc_admission *a);

/* Shut the door and wait until nobody is inside. Nests. */
void qc_admission_hold(struct qc_admission *a);
void qc_admission_release(struct qc_admission *a);

#endif
