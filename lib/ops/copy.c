/* SPDX-License-Identifier: MIT */
#include "ops/copy.h"

#include <string.h>
#include <sys/mman.h>

#include "chain/recorder.h"
#include "chain/tip.h"
#include "ops/copy_int.h"
#include "remote/remote.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/vec.h"

#define SALVAGE_UNIT 4096
#define HUGE_PAGE ((size_t)2 << 20)

/* Read piece by piece; what is damaged is zeros, and counted. */
static int salvage_segment(struct qc_copy_engine *e, const struct qc_segment *s, qchain_error *err)
{
    struct qc_copy_job *job = e->job;
    uint64_t lost = 0;

    for (uint64_t at = 0; at < s->length; at += SALVAGE_UNIT) {
        qchain_iov iov = {s->buf + at, (size_t)qc_min64(SALVAGE_UNIT, s->length - at)};
        /* A dying medium takes its time for each. */
        int ret = qc_job_check(job->job, e->started_ns, err);

        if (ret != 0)
            return ret;
        qc_error_init(err);
        ret = qc_chain_readv(job->c, &iov, 1, iov.len, s->offset + at, QC_CHAIN_READ_SERIAL, err);
        if (ret != 0 && !qc_copy_is_damage(ret))
            return ret;
        if (ret != 0) {
            memset(iov.base, 0, iov.len);
            lost += iov.len;
        }
    }
    qc_error_init(err);
    pthread_mutex_lock(&e->lock);
    job->salvaged += lost;
    pthread_mutex_unlock(&e->lock);
    return 0;
}

/* Note how a segment is read: where things lie; what is not selected, through the chain. */
static void plan_segment(struct qc_copy_task *t, const struct qc_segment *s)
{
    const struct qc_run *run = t->run + s->run;
    uint64_t at = s->offset, end = s->offset + s->length, stop;
    size_t n;

    for (size_t i = 0; i < s->n_run; i += n, at = stop) {
        bool absent = qc_run_kind(&run[i]) == QC_ABSENT;
        qchain_iov *iov = &t->iov[t->n_span];

        for (n = 1; i + n < s->n_run && (qc_run_kind(&run[i + n]) == QC_ABSENT) == absent; n++)
            ;
        stop = qc_min64(qc_run_end(&run[i + n - 1]), end);
        *iov = (qchain_iov){s->buf + (at - s->offset), (size_t)(stop - at)};
        t->span[t->n_span++] = (struct qc_span){absent ? NULL : run + i, n, iov, at, stop};
    }
}

static int read_spans(struct qc_copy_engine *e, const struct qc_copy_task *t, qchain_error *err)
{
    qchain *c = e->job->c;
    unsigned token = c->tip ? qc_tip_enter(c->tip) : 0;
    int ret = qc_chain_check(c, err);

    if (ret == 0)
        ret = qc_chain_read_spans(c, t->span, t->n_span, QC_CHAIN_READ_SERIAL | QC_CHAIN_READ_EXACT, err);
    if (c->tip)
        qc_tip_exit(c->tip, token);
    return ret;
}

/* Of a selection all that the task needs is asked for at once: of what lies far away each piece would take a round
 * trip, and pieces are small. */
static int read_selected(struct qc_copy_engine *e, struct qc_copy_task *t, qchain_error *err)
{
    if (qc_grow((void **)&t->span, &t->cap_span, t->n_run, sizeof(*t->span)) != 0 ||
        qc_grow((void **)&t->iov, &t->cap_iov, t->n_run, sizeof(*t->iov)) != 0)
        return qc_fail_nomem(err);
    t->n_span = 0;
    for (unsigned i = 0; i < t->n; i++)
        if (t->segment[i].buf && !t->segment[i].streams)
            plan_segment(t, &t->segment[i]);
    return t->n_span > 0 ? read_spans(e, t, err) : 0;
}

static int read_segment(struct qc_copy_engine *e, struct qc_copy_task *t, const struct qc_segment *s,
                        qchain_error *err)
{
    qchain_iov iov = {s->buf, (size_t)s->length};
    int ret = qc_chain_check(e->job->c, err);

    if (ret != 0)
        return ret;
    if (e->job->select) {
        t->n_span = 0;
        plan_segment(t, s);
        return read_spans(e, t, err);
    }
    qc_note_read(e->job->c, s->offset, s->length);
    return qc_chain_readv(e->job->c, &iov, 1, iov.len, s->offset, QC_CHAIN_READ_SERIAL, err);
}

static int read_task(struct qc_copy_engine *e, struct qc_copy_task *t, qchain_error *err)
{
    int ret = 0;

    if (e->job->select) {
        ret = read_selected(e, t, err);
        if (ret == 0 || !e->job->salvage || !qc_copy_is_damage(ret))
            return ret;
        ret = 0; /* one by one: what is sound is to be had */
    }
    for (unsigned i = 0; ret == 0 && i < t->n; i++) {
        struct qc_segment *s = &t->segment[i];

        if (!s->buf || s->streams)
            continue;
        ret = read_segment(e, t, s, err);
        if (e->job->salvage && qc_copy_is_damage(ret))
            ret = salvage_segment(e, s, err);
    }
    return ret;
}

/* Wait for the task's turn, emit, pass the turn on. */
static int emit_task(struct qc_copy_engine *e, struct qc_copy_task *t, qchain_error *err)
{
    int ret;

    pthread_mutex_lock(&e->lock);
    while (e->turn != t->number && e->result == 0)
        pthread_cond_wait(&e->turn_came[t->number % QC_COPY_MAX_THREADS], &e->lock);
    ret = e->result;
    pthread_mutex_unlock(&e->lock);
    if (ret != 0)
        return 0; /* it failed elsewhere, and was told there */
    ret = e->job->emit(e->job->ctx, t, err);
    if (ret != 0)
        return ret; /* nobody's turn comes any more */
    pthread_mutex_lock(&e->lock);
    e->turn++;
    pthread_cond_signal(&e->turn_came[e->turn % QC_COPY_MAX_THREADS]);
    pthread_mutex_unlock(&e->lock);
    return 0;
}

static int do_task(struct qc_copy_engine *e, struct qc_copy_task *t, qchain_error *err)
{
    struct qc_copy_job *job = e->job;
    int ret = read_task(e, t, err);

    if (ret == 0 && job->work)
        ret = job->work(job->ctx, t, err);
    if (ret == 0 && job->emit)
        ret = emit_task(e, t, err);
    if (ret == 0)
        qc_job_pass(job->job, t->end - t->start - t->moves);
    if (ret == 0)
        qc_job_add(job->job, t->moves);
    return ret;
}

static void note_failure(struct qc_copy_engine *e, int ret, const qchain_error *err)
{
    pthread_mutex_lock(&e->lock);
    if (e->result == 0) {
        e->result = ret;
        if (ret < 0) /* a positive one is an answer, not a failure */
            qc_error_copy(e->err, err);
    }
    for (unsigned i = 0; i < QC_COPY_MAX_THREADS; i++)
        pthread_cond_signal(&e->turn_came[i]);
    pthread_mutex_unlock(&e->lock);
}

/* Large ones lie on huge pages where there are some: what comes by the network is written once, all over. */
static char *make_buffer(size_t n)
{
    char *p = qc_aligned(n >= HUGE_PAGE ? HUGE_PAGE : 4096, n);

    if (p && n >= HUGE_PAGE)
        (void)madvise(p, n / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE);
    return p;
}

/* A worker: tasks until there are no more. */
static int worker(void *ctx, uint64_t i)
{
    struct qc_copy_engine *e = ctx;
    struct qc_copy_task *t = qc_calloc(1, sizeof(*t));
    qchain_error err;
    int ret = 0;

    (void)i;
    qc_error_init(&err);
    if (t) {
        t->buf = make_buffer((size_t)e->job->chunk);
        t->local = qc_calloc(1, e->job->local_size);
    }
    if (!t || !t->buf || !t->local)
        ret = qc_fail_nomem(&err);
    while (ret == 0) {
        ret = qc_job_check(e->job->job, e->started_ns, &err);
        if (ret != 0)
            break;
        pthread_mutex_lock(&e->lock);
        t->n = 0;
        if (e->result == 0)
            ret = qc_copy_plan(e, t, &err);
        pthread_mutex_unlock(&e->lock);
        if (ret != 0 || t->n == 0)
            break;
        ret = do_task(e, t, &err);
    }
    if (ret != 0)
        note_failure(e, ret, &err);
    if (t) {
        qc_free(t->buf);
        qc_free(t->local);
        qc_free(t->run);
        qc_free(t->span);
        qc_free(t->iov);
    }
    qc_free(t);
    return 0;
}

/* Threads for a chain that lies far away mostly wait; what they have under way should be what a good link
 * carries in a round trip, and no more: it all passes through the processor's cache. */
static unsigned far_threads(qchain *c)
{
    uint64_t us = qc_remote_latency_us(c->env->remote, true, 50);

    return us < 5000 ? 4 : us < 40000 ? 8 : 16;
}

unsigned qc_copy_threads(qchain *c, unsigned asked)
{
    unsigned n = asked ? asked : c->far ? far_threads(c) : qc_pool_threads(c->env->pool);

    return n > QC_COPY_MAX_THREADS ? QC_COPY_MAX_THREADS : n;
}

int qc_copy_run(struct qc_copy_job *job, qchain_error *err)
{
    struct qc_copy_engine e = {.job = job, .err = err, .started_ns = qc_now_ns()};
    unsigned threads = qc_copy_threads(job->c, job->threads);
    struct qc_pool *pool = qc_pool_create(threads - 1); /* its workers wait for each other, so
                                                           they are no leaf tasks */

    job->salvaged = 0;
    if (job->began_ns)
        e.started_ns = job->began_ns;
    else
        qc_job_begin(job->job, job->end - job->start);
    if (!pool || qc_copy_plan_init(&e, err) != 0) {
        qc_pool_destroy(pool);
        return qc_fail_nomem(err);
    }
    pthread_mutex_init(&e.lock, NULL);
    for (unsigned i = 0; i < QC_COPY_MAX_THREADS; i++)
        pthread_cond_init(&e.turn_came[i], NULL);
    qc_pool_run(pool, threads, threads, worker, &e);
    qc_pool_destroy(pool);
    for (unsigned i = 0; i < QC_COPY_MAX_THREADS; i++)
        pthread_cond_destroy(&e.turn_came[i]);
    pthread_mutex_destroy(&e.lock);
    qc_free(e.extent);
    return e.result;
}
