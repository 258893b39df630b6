/* SPDX-License-Identifier: MIT */
#include "chain/recorder.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "chain/trace_part.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/clock.h"

#define MOST_LANES 16u
#define ALL_RECORDS 32768u  /* of all lanes together */
#define JOIN_NS 100000000   /* what is read so much later is a record of its own */
#define INTERVAL_NS 250000000 /* between two writes of what is there */

struct lane {
    _Alignas(64) pthread_mutex_t lock;
    bool      open;
    uint32_t  n;
    uint64_t  lost;
    qchain_trace_record *record; /* their times in ns, so that hardly two are the same and order is kept */
};

struct qc_recorder {
    struct lane     lane[MOST_LANES];
    uint32_t        n_lanes;      /* as many as there are processors */
    uint32_t        room;         /* records of a lane */
    uint64_t        began_ns;
    /* The writer's alone. */
    struct qc_trace_part part;
    qchain_trace_record *spare;    /* takes a lane's place */
    qchain_trace_record *gathered; /* of all lanes */
    uint8_t        *block;
    uint64_t        lost;          /* and not told yet */
    bool            ended;         /* nothing is written any more: full, or err says why */
    qchain_error    err;
    /* Wakes it. */
    pthread_mutex_t lock;
    pthread_cond_t  wake;
    bool            asked, stop;
    pthread_t       thread;
};

/* ------------------------------------------------------------------- readers --- */

/* The beginning of a recording is known to whoever found its lanes open. */
static uint64_t since_began(const struct qc_recorder *r, uint64_t ns)
{
    return ns > r->began_ns ? ns - r->began_ns : 0;
}

/* Into its lane; true when that is half full just now. */
static bool put_into(struct lane *l, uint32_t room, const qchain_trace_record *record)
{
    if (qc_trace_join(l->record, l->n, record, JOIN_NS))
        return false;
    if (l->n == room)
        l->lost++;
    else
        l->record[l->n++] = *record;
    return l->n == room / 2;
}

void qc_recorder_note(struct qc_recorder *r, uint64_t offset, uint64_t length)
{
    struct lane *l = &r->lane[qc_slot_number() % r->n_lanes];
    uint64_t ns = qc_now_ns();
    bool half_full = false;

    pthread_mutex_lock(&l->lock);
    if (l->open)
        half_full = put_into(l, r->room, &(qchain_trace_record){since_began(r, ns), offset, length, 1});
    pthread_mutex_unlock(&l->lock);
    if (!half_full)
        return;
    pthread_mutex_lock(&r->lock);
    r->asked = true;
    pthread_cond_signal(&r->wake);
    pthread_mutex_unlock(&r->lock);
}

/* ------------------------------------------------------------------ the writer --- */

static int by_time(const void *a, const void *b)
{
    const qchain_trace_record *x = a, *y = b;

    if (x->time_us != y->time_us)
        return x->time_us < y->time_us ? -1 : 1;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* What the lanes hold, in order, neighbours of different lanes joined. */
static size_t gather(struct qc_recorder *r)
{
    qchain_trace_record *full;
    size_t n = 0, kept = 0;
    uint32_t count;

    for (unsigned i = 0; i < r->n_lanes; i++) {
        struct lane *l = &r->lane[i];

        pthread_mutex_lock(&l->lock);
        full = l->record;
        count = l->n;
        l->record = r->spare;
        l->n = 0;
        r->lost += l->lost;
        l->lost = 0;
        pthread_mutex_unlock(&l->lock);
        r->spare = full;
        memcpy(r->gathered + n, full, count * sizeof(*full));
        n += count;
    }
    qsort(r->gathered, n, sizeof(*r->gathered), by_time);
    for (size_t i = 0; i < n; i++)
        if (!qc_trace_join(r->gathered, kept, &r->gathered[i], JOIN_NS))
            r->gathered[kept++] = r->gathered[i];
    for (size_t i = 0; i < kept; i++)
        r->gathered[i].time_us /= 1000;
    return kept;
}

static void write_out(struct qc_recorder *r)
{
    size_t n = gather(r), done, size;
    int ret;

    for (size_t at = 0; at < n && !r->ended; at += done) {
        size = qc_trace_put_block(r->block, r->gathered + at, n - at, r->lost, &done);
        ret = qc_trace_part_write(&r->part, r->block, size, &r->err);
        r->ended = ret != 0;
        if (ret == 0)
            r->lost = 0;
    }
}

static void *writer(void *arg)
{
    struct qc_recorder *r = arg;
    struct timespec until;
    uint64_t ns;

    pthread_mutex_lock(&r->lock);
    while (!r->stop) {
        ns = qc_now_ns() + INTERVAL_NS;
        until = (struct timespec){(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
        while (!r->stop && !r->asked && pthread_cond_timedwait(&r->wake, &r->lock, &until) == 0)
            ;
        r->asked = false;
        pthread_mutex_unlock(&r->lock);
        write_out(r);
        pthread_mutex_lock(&r->lock);
    }
    pthread_mutex_unlock(&r->lock);
    return NULL;
}

/* ------------------------------------------------------------- start and stop --- */

static void free_buffers(struct qc_recorder *r)
{
    for (unsigned i = 0; i < r->n_lanes; i++) {
        qc_free(r->lane[i].record);
        r->lane[i].record = NULL;
    }
    qc_free(r->spare);
    qc_free(r->gathered);
    qc_free(r->block);
    r->spare = r->gathered = NULL;
    r->block = NULL;
}

static bool make_buffers(struct qc_recorder *r)
{
    bool ok = true;

    for (unsigned i = 0; i < r->n_lanes; i++) {
        r->lane[i].record = qc_calloc(r->room, sizeof(qchain_trace_record));
        ok = ok && r->lane[i].record;
    }
    r->spare = qc_calloc(r->room, sizeof(*r->spare));
    r->gathered = qc_calloc((size_t)r->n_lanes * r->room, sizeof(*r->gathered));
    r->block = qc_malloc(QC_TRACE_BLOCK_MAX);
    return ok && r->spare && r->gathered && r->block;
}

/* A thread that reads may still have it in hand after a recording, so it stays until the chain is closed. */
static struct qc_recorder *make_recorder(void)
{
    struct qc_recorder *r = qc_aligned(_Alignof(struct qc_recorder), sizeof(*r));
    long processors = sysconf(_SC_NPROCESSORS_CONF);
    pthread_condattr_t attr;

    if (!r)
        return NULL;
    memset(r, 0, sizeof(*r));
    r->n_lanes = processors < 1 ? 1 : (uint32_t)qc_min64((uint64_t)processors, MOST_LANES);
    r->room = ALL_RECORDS / r->n_lanes;
    for (unsigned i = 0; i < r->n_lanes; i++)
        pthread_mutex_init(&r->lane[i].lock, NULL);
    pthread_mutex_init(&r->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&r->wake, &attr);
    pthread_condattr_destroy(&attr);
    return r;
}

static void open_lanes(struct qc_recorder *r, bool open)
{
    for (unsigned i = 0; i < r->n_lanes; i++) {
        pthread_mutex_lock(&r->lane[i].lock);
        r->lane[i].open = open;
        if (open)
            r->lane[i].n = 0;
        pthread_mutex_unlock(&r->lane[i].lock);
    }
}

static int start_thread(struct qc_recorder *r, qchain_error *err)
{
    sigset_t all, old;
    int rc;

    pthread_mutex_lock(&r->lock); /* a late reader of the recording before may still ask */
    r->stop = r->asked = false;
    pthread_mutex_unlock(&r->lock);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&r->thread, NULL, writer, r);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc == 0 ? 0 : qc_fail(err, QCHAIN_E_NOMEM, "trace: no thread can be started: %s", strerror(rc));
}

int qc_recorder_start(qchain *c, const char *path, uint32_t flags, uint64_t max_bytes, qchain_error *err)
{
    bool keep_first = flags & QCHAIN_TRACE_KEEP_FIRST;
    struct qc_trace_header h = {.disk_size = c->size};
    struct qc_recorder *r;
    struct timespec t;
    int ret;

    if (atomic_load(&c->recorder))
        return qc_fail(err, QCHAIN_E_BUSY, "trace: the chain is being recorded already: stop that first");
    if (!c->own_recorder)
        c->own_recorder = make_recorder();
    r = c->own_recorder;
    if (!r)
        return qc_fail_nomem(err);
    clock_gettime(CLOCK_REALTIME, &t);
    h.began_ns = (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
    r->lost = 0;
    r->ended = false;
    qc_error_init(&r->err);
    if (!make_buffers(r))
        ret = qc_fail_nomem(err);
    else
        ret = qc_trace_part_open(&r->part, path, &h, keep_first ? max_bytes : max_bytes / 2, keep_first, err);
    if (ret != 0) {
        free_buffers(r);
        return ret;
    }
    ret = start_thread(r, err);
    if (ret != 0) {
        qc_trace_part_close(&r->part);
        free_buffers(r);
        return ret;
    }
    r->began_ns = qc_now_ns();
    open_lanes(r, true);
    atomic_store_explicit(&c->recorder, r, memory_order_release);
    return 0;
}

int qc_recorder_stop(qchain *c, qchain_error *err)
{
    struct qc_recorder *r = atomic_exchange(&c->recorder, NULL);
    int ret;

    if (!r)
        return qc_fail(err, QCHAIN_E_NOTFOUND, "trace: the chain is not being recorded");
    open_lanes(r, false);
    pthread_mutex_lock(&r->lock);
    r->stop = true;
    pthread_cond_signal(&r->wake);
    pthread_mutex_unlock(&r->lock);
    pthread_join(r->thread, NULL);
    write_out(r);
    qc_trace_part_close(&r->part);
    free_buffers(r);
    ret = r->err.code;
    qc_error_copy(err, &r->err);
    return ret;
}

void qc_recorder_destroy(qchain *c)
{
    struct qc_recorder *r = c->own_recorder;

    if (atomic_load(&c->recorder))
        (void)qc_recorder_stop(c, NULL); /* who wants to know calls qchain_trace_stop */
    if (!r)
        return;
    for (unsigned i = 0; i < r->n_lanes; i++)
        pthread_mutex_destroy(&r->lane[i].lock);
    pthread_cond_destroy(&r->wake);
    pthread_mutex_destroy(&r->lock);
    qc_free(r);
    c->own_recorder = NULL;
}
