/* SPDX-License-Identifier: MIT */
/* Inside the copy engine: the workers' (copy.c) and the planner's (copy_plan.c). */
#ifndef QC_OPS_COPY_INT_H
#define QC_OPS_COPY_INT_H

#include <pthread.h>

#include "ops/copy.h"

#define QC_COPY_MAX_THREADS 64

struct qc_copy_engine {
    struct qc_copy_job *job;
    uint64_t            started_ns;

    pthread_mutex_t     lock;     /* guards all below */
    uint64_t            pos;      /* the next task starts here */
    uint64_t            next_number;
    qchain_extent      *extent;   /* mapped from pos on, */
    uint32_t            n_extents, at, max_extents;
    uint64_t            mapped_from, mapped_to; /* and the range they speak of */
    bool                whole;    /* the map of the chain answers; else what is selected is merged */
    uint64_t            stride;   /* of far layers: mapped at once */
    uint64_t            piece;    /* map no more at a time; 0: no damage met so far */
    uint64_t            least;    /* a piece of this size is not divided any more */
    uint64_t            lost_run; /* bytes just lost in one stretch */

    pthread_cond_t      turn_came[QC_COPY_MAX_THREADS]; /* of the task with that number, modulo; so that
                                       nobody is woken in vain */
    uint64_t            turn;     /* the task that may emit */
    int                 result;   /* the first failure ends it all */
    qchain_error       *err;
};

/* What salvaging gets over. Anything else would befall what is sound as well. */
static inline bool qc_copy_is_damage(int ret)
{
    return ret == QCHAIN_E_CORRUPT || ret == QCHAIN_E_IO;
}

int  qc_copy_plan_init(struct qc_copy_engine *e, qchain_error *err);
/* Plan the next task, under the lock. It has no segments when all is done. */
int  qc_copy_plan(struct qc_copy_engine *e, struct qc_copy_task *t, qchain_error *err);

#endif
