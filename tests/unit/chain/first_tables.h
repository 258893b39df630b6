/* SPDX-License-Identifier: MIT */
#ifndef FIRST_TABLES_H
#define FIRST_TABLES_H

#include "chain/chain.h"

/* The first tables of a far chain are asked for beside its opening, and one of them on a guess: who counts requests
 * waits for them, or what comes late counts as somebody else's. */
static inline void wait_for_first_tables(qchain *c)
{
    pthread_mutex_lock(&c->late_lock);
    while (c->n_warm > 0)
        pthread_cond_wait(&c->warmed, &c->late_lock);
    pthread_mutex_unlock(&c->late_lock);
}

#endif
