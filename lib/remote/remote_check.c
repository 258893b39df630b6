/* SPDX-License-Identifier: MIT */
/* Is an object what it was? Asked at its origin, whatever caches hold. */
#include "remote/remote_int.h"
#include "util/alloc.h"

/* Of the waiting thread's and the request's, each until it is done with it. */
struct qc_checking {
    struct qc_http_request req; /* first */
    struct qc_remote      *r;
    struct qc_pin          pin;
    char                   byte;
    atomic_uint            users;
    pthread_mutex_t        lock;  /* guards what follows */
    pthread_cond_t         told;
    bool                   over;
    int                    ret;
};

static void drop(struct qc_checking *k)
{
    if (atomic_fetch_sub(&k->users, 1) > 1)
        return;
    qc_place_unref(k->req.place);
    pthread_mutex_destroy(&k->lock);
    pthread_cond_destroy(&k->told);
    qc_free(k);
}

static void check_done(struct qc_http_request *req, int ret)
{
    struct qc_checking *k = (struct qc_checking *)(void *)req;

    pthread_mutex_lock(&k->lock);
    k->over = true;
    k->ret = ret;
    pthread_cond_signal(&k->told);
    pthread_mutex_unlock(&k->lock);
    drop(k);
}

int qc_remote_check_begin(struct qc_checking **out, struct qc_remote *r, const char *name,
                          const struct qc_pin *pin, qchain_error *err)
{
    struct qc_checking *k = qc_calloc(1, sizeof(*k));
    struct qc_http_request *req;
    int ret;

    if (!k)
        return qc_fail_nomem(err);
    req = &k->req;
    k->r = r;
    k->pin = *pin;
    atomic_init(&k->users, 1);
    qc_error_init(&req->err);
    pthread_mutex_init(&k->lock, NULL);
    pthread_cond_init(&k->told, NULL);
    ret = qc_place_create(&req->place, r->creds, name, err);
    if (ret != 0) {
        drop(k);
        return ret;
    }
    req->method = QC_HTTP_GET;
    req->flags = QC_HTTP_META | QC_HTTP_NO_HEDGE;
    req->length = 1;
    req->buf = &k->byte;
    /* Of an empty object there is no byte that could be asked for by its pin. */
    req->pin = pin->size > 0 ? &k->pin : NULL;
    req->done = check_done;
    atomic_fetch_add(&k->users, 1);
    *out = k;
    qc_http_submit(r->http, req);
    return 0;
}

int qc_remote_check_wait(struct qc_checking *k, qchain_error *err)
{
    int ret;

    pthread_mutex_lock(&k->lock);
    while (!k->over)
        pthread_cond_wait(&k->told, &k->lock);
    ret = k->ret;
    pthread_mutex_unlock(&k->lock);
    if (ret != 0)
        qc_error_copy(err, &k->req.err);
    else if (!qc_pin_same(&k->pin, &k->req.got))
        ret = qc_fail(err, QCHAIN_E_CHANGED, "the object is another than it was");
    return ret;
}

void qc_remote_check_cancel(struct qc_checking *k)
{
    pthread_mutex_lock(&k->lock);
    if (!k->over)
        qc_http_cancel(k->r->http, &k->req);
    pthread_mutex_unlock(&k->lock);
}

void qc_remote_check_free(struct qc_checking *k)
{
    drop(k);
}

int qc_remote_check(struct qc_remote *r, const char *name, const struct qc_pin *pin, qchain_error *err)
{
    struct qc_checking *k;
    int ret = qc_remote_check_begin(&k, r, name, pin, err);

    if (ret != 0)
        return ret;
    ret = qc_remote_check_wait(k, err);
    qc_remote_check_free(k);
    return ret;
}

enum qc_verify qc_remote_verify(const struct qc_remote *r)
{
    return (enum qc_verify)r->conf->verify;
}
