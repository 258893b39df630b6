/* SPDX-License-Identifier: MIT */
#include "ops/copy.h"

#include <string.h>
#include <sys/mman.h>

#include "remote/remote.h"
#include "util/alloc.h"
#include "util/bytes.h"

#define MAP_BATCH 512
#define SALVAGE_UNIT 4096
#define SALVAGE_MAP (UINT64_C(128) << 20)  /* mapped at once after damage was met */
#define SALVAGE_PIECE (UINT64_C(64) << 10) /* lost when it cannot be mapped */
#define SALVAGE_SHARE 1024                 /* of what was lost in one stretch: the next piece */
#define MAX_THREADS 64
#define HUGE_PAGE ((size_t)2 << 20)

struct engine {
    struct qc_copy_job *job;
    uint64_t            started_ns;

    pthread_mutex_t     lock;     /* guards all below */
    uint64_t            pos;      /* the next task starts here */
    uint64_t            next_number;
    qchain_extent      *extent;   /* mapped from pos on */
    uint32_t            n_extents, at;
    uint64_t            mapped_to;
    uint64_t            piece;    /* map no more at a time; 0: no damage met so far */
    uint64_t            least;    /* a piece of this size is not divided any more */
    uint64_t            lost_run; /* bytes just lost in one stretch */

    pthread_cond_t      turn_came[MAX_THREADS]; /* of the task with that number, modulo; so that
                                       nobody is woken in vain */
    uint64_t            turn;     /* the task that may emit */
    int                 result;   /* the first failure ends it all */
    qchain_error       *err;
};

/* What salvaging gets over. Anything else would befall what is sound as well. */
static bool is_damage(int ret)
{
    return ret == QCHAIN_E_CORRUPT || ret == QCHAIN_E_IO;
}

/* What cannot be mapped, from pos to stop, becomes an extent of zeros. Pieces grow
 * with the stretch, so that a disk of any size ends in a bounded number of steps. */
static void lose(struct engine *e, uint64_t stop)
{
    uint64_t length = stop - e->pos;

    e->extent[0] = (qchain_extent){
        .offset = e->pos, .length = length, .flags = QCHAIN_EXTENT_ZERO,
    };
    e->n_extents = 1;
    e->job->salvaged += length;
    e->lost_run += length;
    if (e->lost_run / SALVAGE_SHARE > e->least)
        e->piece = e->least *= 2;
}

/* Map as much as can be from pos on, past damage. Holds the lock: while a job is
 * paused here, the others have nothing to do either. */
static int map_salvaging(struct engine *e, qchain_error *err)
{
    struct qc_copy_job *job = e->job;
    uint64_t stop;
    int ret;

    for (;;) {
        ret = qc_job_check(job->job, e->started_ns, err);
        if (ret != 0)
            return ret;
        stop = job->end;
        if (e->piece)
            stop = qc_min64(stop, qc_align_down(e->pos, e->piece) + e->piece);
        e->n_extents = 0;
        ret = qc_chain_map(job->c, e->pos, stop, e->extent, MAP_BATCH, &e->n_extents,
                           &e->mapped_to, 0, err);
        if (ret != 0 && !is_damage(ret))
            return ret;
        if (ret != 0)
            qc_error_init(err);
        if (ret == 0 || e->n_extents > 0) { /* perhaps not all, but from pos on */
            e->piece = qc_min64(2 * e->piece, SALVAGE_MAP);
            e->least = SALVAGE_PIECE;
            e->lost_run = 0;
            return 0;
        }
        if (e->piece == 0) {
            e->piece = SALVAGE_MAP;
        } else if (e->piece > e->least) {
            e->piece /= 2;
        } else {
            lose(e, stop);
            return 0;
        }
    }
}

/* See that the batch holds pos; extents before it are passed. */
static int map_on(struct engine *e, qchain_error *err)
{
    while (e->at < e->n_extents &&
           e->extent[e->at].offset + e->extent[e->at].length <= e->pos)
        e->at++;
    if (e->at < e->n_extents)
        return 0;
    e->at = 0;
    if (e->job->salvage)
        return map_salvaging(e, err);
    return qc_chain_map(e->job->c, e->pos, e->job->end, e->extent, MAP_BATCH, &e->n_extents,
                        &e->mapped_to, 0, err);
}

/* How far from pos on all extents of the batch are zeros (or all are not). */
static uint64_t same_until(const struct engine *e, bool *zero)
{
    uint64_t until = e->pos;
    bool z;

    for (uint32_t i = e->at; i < e->n_extents; i++) {
        z = e->extent[i].flags & QCHAIN_EXTENT_ZERO;
        if (i == e->at)
            *zero = z;
        else if (z != *zero)
            break;
        until = e->extent[i].offset + e->extent[i].length;
    }
    return until;
}

/* The next segment, of at most room bytes if it is data. */
static int next_segment(struct engine *e, uint64_t room, struct qc_segment *s, qchain_error *err)
{
    uint64_t end = e->job->end, align = e->job->align, until;
    bool zero = false;
    int ret;

    ret = map_on(e, err);
    if (ret != 0)
        return ret;
    until = same_until(e, &zero);
    if (zero && until < end)
        until = qc_align_down(until, align);
    if (!zero || until <= e->pos) { /* zeros that fill no unit are read as data */
        zero = false;
        if (until <= e->pos)
            until = e->pos + align;
        until = qc_min64(qc_min64(qc_align_up(until, align), e->pos + room), end);
    }
    s->offset = e->pos;
    s->length = until - e->pos;
    s->buf = NULL;
    e->pos = until;
    if (zero)
        return 0;
    return 1;
}

/* Plan the next task, under the lock. It has no segments when all is done. */
static int plan_task(struct engine *e, struct qc_copy_task *t, qchain_error *err)
{
    uint64_t used = 0, chunk = e->job->chunk;
    int ret;

    t->n = 0;
    t->start = e->pos;
    while (e->pos < e->job->end && t->n < QC_COPY_SEGMENTS && used < chunk) {
        ret = next_segment(e, chunk - used, &t->segment[t->n], err);
        if (ret < 0)
            return ret;
        if (ret > 0) {
            t->segment[t->n].buf = t->buf + used;
            used += t->segment[t->n].length;
        }
        t->n++;
    }
    t->end = e->pos;
    t->number = e->next_number++;
    return 0;
}

/* Read piece by piece; what is damaged is zeros, and counted. */
static int salvage_segment(struct engine *e, const struct qc_segment *s, qchain_error *err)
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
        if (ret != 0 && !is_damage(ret))
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

static int read_task(struct engine *e, struct qc_copy_task *t, qchain_error *err)
{
    int ret = 0;

    for (unsigned i = 0; ret == 0 && i < t->n; i++) {
        struct qc_segment *s = &t->segment[i];
        qchain_iov iov = {s->buf, (size_t)s->length};

        if (!s->buf)
            continue;
        ret = qc_chain_readv(e->job->c, &iov, 1, iov.len, s->offset, QC_CHAIN_READ_SERIAL, err);
        if (e->job->salvage && is_damage(ret))
            ret = salvage_segment(e, s, err);
    }
    return ret;
}

/* Wait for the task's turn, emit, pass the turn on. */
static int emit_task(struct engine *e, struct qc_copy_task *t, qchain_error *err)
{
    int ret;

    pthread_mutex_lock(&e->lock);
    while (e->turn != t->number && e->result == 0)
        pthread_cond_wait(&e->turn_came[t->number % MAX_THREADS], &e->lock);
    ret = e->result;
    pthread_mutex_unlock(&e->lock);
    if (ret != 0)
        return 0; /* it failed elsewhere, and was told there */
    ret = e->job->emit(e->job->ctx, t, err);
    if (ret != 0)
        return ret; /* nobody's turn comes any more */
    pthread_mutex_lock(&e->lock);
    e->turn++;
    pthread_cond_signal(&e->turn_came[e->turn % MAX_THREADS]);
    pthread_mutex_unlock(&e->lock);
    return 0;
}

static int do_task(struct engine *e, struct qc_copy_task *t, qchain_error *err)
{
    struct qc_copy_job *job = e->job;
    int ret = read_task(e, t, err);

    if (ret == 0 && job->work)
        ret = job->work(job->ctx, t, err);
    if (ret == 0 && job->emit)
        ret = emit_task(e, t, err);
    if (ret == 0)
        qc_job_add(job->job, t->end - t->start);
    return ret;
}

static void note_failure(struct engine *e, int ret, const qchain_error *err)
{
    pthread_mutex_lock(&e->lock);
    if (e->result == 0) {
        e->result = ret;
        if (ret < 0) /* a positive one is an answer, not a failure */
            qc_error_copy(e->err, err);
    }
    for (unsigned i = 0; i < MAX_THREADS; i++)
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
    struct engine *e = ctx;
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
            ret = plan_task(e, t, &err);
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

    return n > MAX_THREADS ? MAX_THREADS : n;
}

int qc_copy_run(struct qc_copy_job *job, qchain_error *err)
{
    struct engine e = {.job = job, .pos = job->start, .err = err, .started_ns = qc_now_ns(),
                       .least = SALVAGE_PIECE};
    unsigned threads = qc_copy_threads(job->c, job->threads);
    struct qc_pool *pool = qc_pool_create(threads - 1); /* its workers wait for each other, so
                                                           they are no leaf tasks */

    job->salvaged = 0;
    qc_job_begin(job->job, job->end - job->start);
    e.extent = qc_calloc(MAP_BATCH, sizeof(*e.extent));
    if (!pool || !e.extent) {
        qc_pool_destroy(pool);
        qc_free(e.extent);
        return qc_fail_nomem(err);
    }
    pthread_mutex_init(&e.lock, NULL);
    for (unsigned i = 0; i < MAX_THREADS; i++)
        pthread_cond_init(&e.turn_came[i], NULL);
    qc_pool_run(pool, threads, threads, worker, &e);
    qc_pool_destroy(pool);
    for (unsigned i = 0; i < MAX_THREADS; i++)
        pthread_cond_destroy(&e.turn_came[i]);
    pthread_mutex_destroy(&e.lock);
    qc_free(e.extent);
    return e.result;
}
