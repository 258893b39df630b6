/* SPDX-License-Identifier: MIT */
/* fuse_reply.c - reading, and what all answers need: memory of threads, errors, the log. */
#include <errno.h>
#include <stdlib.h>
#include <syslog.h>
#include <time.h>

#include "fuse_view.h"

/* ------------------------------------------------------- memory of threads --- */

static void give_back(void *data)
{
    struct fuse_work *w = data;

    pthread_mutex_lock(&w->view->work_lock);
    w->next_idle = w->view->idle_work;
    w->view->idle_work = w;
    pthread_mutex_unlock(&w->view->work_lock);
}

int fuse_work_init(struct fuse_view *v)
{
    pthread_mutex_init(&v->work_lock, NULL);
    pthread_mutex_init(&v->space_lock, NULL);
    return pthread_key_create(&v->work_key, give_back) == 0 ? 0 : -1;
}

void fuse_work_free(struct fuse_view *v)
{
    while (v->work) {
        struct fuse_work *w = v->work;

        v->work = w->next;
        pthread_mutex_destroy(&w->lock);
        qchain_error_destroy(w->err);
        free(w->buf);
        free(w);
    }
    pthread_key_delete(v->work_key);
    pthread_mutex_destroy(&v->work_lock);
    pthread_mutex_destroy(&v->space_lock);
}

/* One of a thread that has ended, or a new one; NULL without memory. */
static struct fuse_work *take(struct fuse_view *v)
{
    struct fuse_work *w;

    pthread_mutex_lock(&v->work_lock);
    w = v->idle_work;
    if (w)
        v->idle_work = w->next_idle;
    pthread_mutex_unlock(&v->work_lock);
    if (w)
        return w;
    w = calloc(1, sizeof(*w));
    if (!w)
        return NULL;
    w->view = v;
    w->err = qchain_error_create();
    pthread_mutex_init(&w->lock, NULL);
    pthread_mutex_lock(&v->work_lock);
    w->next = v->work;
    v->work = w;
    pthread_mutex_unlock(&v->work_lock);
    return w;
}

struct fuse_work *fuse_work_get(struct fuse_view *v, size_t room)
{
    struct fuse_work *w = pthread_getspecific(v->work_key);
    void *buf;

    if (!w) {
        w = take(v);
        if (!w)
            return NULL;
        if (pthread_setspecific(v->work_key, w) != 0) {
            give_back(w);
            return NULL;
        }
    }
    if (w->room < room) {
        if (posix_memalign(&buf, 4096, room) != 0)
            return NULL;
        free(w->buf);
        w->buf = buf;
        w->room = room;
    }
    return w;
}

/* ------------------------------------------------------------ errors, the log --- */

uint64_t fuse_now_ns(clockid_t clock)
{
    struct timespec t;

    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

void fuse_log_failure(struct fuse_view *v, const char *what, const qchain_error *err)
{
    uint_fast64_t now = fuse_now_ns(CLOCK_MONOTONIC), told = atomic_load(&v->told_ns);

    if ((told && now - told < 1000000000) || !atomic_compare_exchange_strong(&v->told_ns, &told, now))
        return;
    if (v->foreground)
        tool_complain(v->t, "%s: %s", what, qchain_error_message(err));
    else
        syslog(LOG_ERR, "%s: %s: %s", v->mountpoint, what, qchain_error_message(err));
}

void fuse_tell(struct fuse_view *v, const char *text)
{
    if (v->foreground)
        tool_complain(v->t, "%s", text);
    else
        syslog(LOG_INFO, "%s: %s", v->mountpoint, text);
}

/* -------------------------------------------------------------------- reading --- */

/* The program that waits for a read got a signal: it need not wait for the network. Who reads finds out when
 * he comes back. */
static void interrupted(fuse_req_t req, void *data)
{
    struct fuse_work *w = data;
    bool mine;

    pthread_mutex_lock(&w->lock);
    mine = w->req == req;
    if (mine)
        w->req = NULL;
    pthread_mutex_unlock(&w->lock);
    if (mine)
        fuse_reply_err(req, EINTR);
}

/* From now on the request can be interrupted; false if it has been. It is set after libfuse knows of it, since that
 * calls at once if it was interrupted before, and then still needs the request. */
static bool arm(struct fuse_work *w, fuse_req_t req)
{
    bool goes_on;

    fuse_req_interrupt_func(req, interrupted, w);
    pthread_mutex_lock(&w->lock);
    goes_on = !fuse_req_interrupted(req);
    w->req = goes_on ? req : NULL;
    pthread_mutex_unlock(&w->lock);
    return goes_on;
}

/* Is it still to be answered? */
static bool disarm(struct fuse_work *w)
{
    bool mine;

    pthread_mutex_lock(&w->lock);
    mine = w->req != NULL;
    w->req = NULL;
    pthread_mutex_unlock(&w->lock);
    return mine;
}

void fuse_view_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t offset, struct fuse_file_info *fi)
{
    struct fuse_view *v = fuse_req_userdata(req);
    struct fuse_node *n = fuse_tree_node(v, ino);
    struct fuse_work *w;
    uint64_t at = (uint64_t)offset;
    int r;

    (void)fi;
    if (!n || n->source == NODE_DIR || offset < 0) {
        fuse_reply_err(req, n && n->source == NODE_DIR ? EISDIR : EINVAL);
        return;
    }
    if (at >= n->size || size == 0) {
        fuse_reply_buf(req, NULL, 0);
        return;
    }
    size = size < n->size - at ? size : (size_t)(n->size - at);
    w = fuse_work_get(v, size);
    if (!w) {
        fuse_reply_err(req, ENOMEM);
        return;
    }
    if (v->far && !arm(w, req)) {
        fuse_reply_err(req, EINTR);
        return;
    }
    r = n->source == NODE_DISK ? qchain_read(v->c, w->buf, size, at, 0, w->err)
                               : qchain_source_read(v->c, n->source, w->buf, size, at, 0, w->err);
    if (r != 0)
        fuse_log_failure(v, "read", w->err);
    if (v->far && !disarm(w))
        return;
    if (r == 0)
        fuse_reply_buf(req, w->buf, size);
    else
        fuse_reply_err(req, program_errno(r));
}
