/* SPDX-License-Identifier: MIT */
/*
 * A far chain without a sidecar opens in one round trip a layer. The next thing that nearly every user
 * reads is the disk's beginning: each layer's L1 table, then one slice of an L2 table. Both are asked for
 * as soon as a layer's header is known, so that they come while the layers below are opened; what comes
 * is kept in the block cache for whoever fills the window.
 */
#include "chain/warm.h"

#include "remote/remote.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/tasks.h"

struct qc_warm {
    struct qc_task   task;
    struct qc_warm  *next;
    qchain          *c;
    struct qc_image *img;
    struct qc_store *store;
};

static void warm(struct qc_task *t)
{
    struct qc_warm *w = (struct qc_warm *)(void *)t;
    struct qc_image *img = w->img;
    uint64_t end = qc_min64(img->virtual_size, UINT64_C(1) << QC_WINDOW_BITS);
    struct qc_runs runs = {0};
    qchain *c = w->c;

    if (img->format->read_ahead)
        img->format->read_ahead(img);
    /* What fails will fail again for whoever needs it, and be told then. */
    if (end > 0)
        (void)img->format->map(img, 0, end, &runs, NULL);
    qc_runs_finish(&runs);
    qc_remote_keep(img->store, false); /* what others read from now on is read for good */
    pthread_mutex_lock(&c->late_lock);
    c->n_warm--;
    pthread_cond_signal(&c->warmed);
    pthread_mutex_unlock(&c->late_lock);
}

void qc_warm_layer(qchain *c, uint32_t k)
{
    struct qc_layer *l = &c->layer[k];
    struct qc_store *store = qc_source_opened(c, l->source);
    struct qc_warm *w;

    if (l->cluster_size == 0 || !qc_remote_is(store))
        return;
    w = qc_malloc(sizeof(*w));
    if (!w)
        return;
    qc_remote_keep(store, true);
    *w = (struct qc_warm){.task = {.key = c, .run = warm}, .next = c->warm, .c = c, .img = l->img,
                          .store = store};
    c->warm = w;
    pthread_mutex_lock(&c->late_lock);
    c->n_warm++;
    pthread_mutex_unlock(&c->late_lock);
    if (qc_tasks_submit(c->env->far_tasks, &w->task))
        return;
    pthread_mutex_lock(&c->late_lock);
    c->n_warm--;
    pthread_mutex_unlock(&c->late_lock);
}

void qc_warm_end(qchain *c)
{
    struct qc_warm *w, *next;

    for (w = c->warm; w; w = w->next) {
        if (!qc_tasks_withdraw(c->env->far_tasks, &w->task)) {
            qc_remote_give_up(w->store); /* a server that is dead is not waited for */
            continue;
        }
        pthread_mutex_lock(&c->late_lock);
        c->n_warm--;
        pthread_mutex_unlock(&c->late_lock);
    }
    pthread_mutex_lock(&c->late_lock);
    while (c->n_warm > 0)
        pthread_cond_wait(&c->warmed, &c->late_lock);
    pthread_mutex_unlock(&c->late_lock);
    for (w = c->warm; w; w = next) {
        next = w->next;
        qc_free(w);
    }
    c->warm = NULL;
}
