/* SPDX-License-Identifier: MIT */
/* fuse_hydrate.c - what the layers below hold comes into the image while its disk is used. */
#include <signal.h>
#include <stdlib.h>

#include "fuse_view.h"

struct fuse_hydrate {
    struct fuse_view *v;
    qchain_job       *job;
    qchain_error     *err;
    pthread_t         thread;
};

static void *hydrate(void *data)
{
    struct fuse_hydrate *h = data;
    int r = qchain_stream(h->v->c, qchain_layers(h->v->c), 0, h->job, NULL, h->err);

    if (r == 0)
        fuse_tell(h->v, "all of the disk is in the image: the layers below are not needed any more");
    else if (r != QCHAIN_E_CANCELLED)
        fuse_log_failure(h->v, "hydrate", h->err);
    return NULL;
}

static void drop(struct fuse_hydrate *h)
{
    qchain_job_destroy(h->job);
    qchain_error_destroy(h->err);
    free(h);
}

struct fuse_hydrate *fuse_hydrate_begin(struct fuse_view *v)
{
    struct fuse_hydrate *h = calloc(1, sizeof(*h));
    sigset_t all, old;
    int r = -1;

    if (!h)
        return NULL;
    h->v = v;
    h->job = qchain_job_create();
    h->err = qchain_error_create();
    if (h->job && h->err) {
        qchain_job_rate(h->job, v->hydrate_rate);
        sigfillset(&all); /* they are for those who unmount */
        pthread_sigmask(SIG_SETMASK, &all, &old);
        r = pthread_create(&h->thread, NULL, hydrate, h);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
    }
    if (r == 0)
        return h;
    drop(h);
    return NULL;
}

void fuse_hydrate_end(struct fuse_hydrate *h)
{
    if (!h)
        return;
    qchain_job_cancel(h->job);
    pthread_join(h->thread, NULL);
    drop(h);
}
