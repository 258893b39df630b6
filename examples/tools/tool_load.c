/* SPDX-License-Identifier: MIT */
/*
 * tool_load.c - the work of `bench`: threads that read or write, each with a queue of its own. What
 * a request needs is made before the clock starts.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "tool_bench.h"

#define ALIGN 4096
#define REAP 64 /* completions taken at once */

/* One request's buffer. */
struct slot {
    unsigned char *buf;
    uint64_t begin_ns;
};

/* Threads wait here until all are ready, and for the word to go. */
struct gate {
    pthread_mutex_t lock;
    pthread_cond_t change;
    unsigned ready;
    bool open;
    bool give_up;
    uint64_t begin_ns;
};

struct worker {
    pthread_t thread;
    const struct tool_load *load;
    struct gate *gate;
    unsigned number;
    uint64_t todo;         /* requests not sent yet */
    uint64_t end_ns;       /* when the last one had ended */
    uint64_t deadline_ns;  /* with a time instead of a count */
    uint64_t done, failed, flushes;
    uint64_t since_flush;  /* writes that were sent */
    bool flushing;         /* one is in flight */
    char first_error[512]; /* of a request */
    bool broken;           /* could not begin; then first_error says why */
    struct tool_walk walk;
    qchain_error *err;
    qchain_queue *queue;   /* NULL: blocking */
    unsigned char *memory;
    struct slot *slots;
    struct slot **unused;  /* a stack of those not in flight */
    unsigned n_slots;
    unsigned n_unused;
    struct tool_latency *latencies;
};

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

/* ---------------------------------------------------------------- requests --- */

static void note_failure(struct worker *w, const char *message)
{
    if (!w->failed++)
        snprintf(w->first_error, sizeof(w->first_error), "%s", message ? message : "unknown");
}

static const char *last_message(const struct worker *w)
{
    return w->err ? qchain_error_message(w->err) : "out of memory";
}

static void note_time(struct worker *w, uint64_t begin_ns, uint64_t end_ns)
{
    tool_latency_add(w->latencies, end_ns - begin_ns);
}

/* With a time instead of a count: is it over? */
static void look_at_clock(struct worker *w)
{
    if (w->deadline_ns && now_ns() >= w->deadline_ns)
        w->todo = 0;
}

/* Is a flush to be next? */
static bool flush_due(const struct worker *w)
{
    uint64_t interval = w->load->flush_interval;

    return interval && w->since_flush && (w->since_flush == interval || !w->todo);
}

static int access_blocking(struct worker *w, unsigned char *buf, uint64_t offset)
{
    const struct tool_load *l = w->load;
    size_t length = (size_t)l->places->length;

    return l->write ? qchain_write(l->chain, buf, length, offset, 0, w->err)
                    : qchain_read(l->chain, buf, length, offset, 0, w->err);
}

static void run_blocking(struct worker *w)
{
    while (w->todo) {
        uint64_t begin = w->latencies ? now_ns() : 0;

        w->todo--;
        if (access_blocking(w, w->slots[0].buf, tool_walk_next(&w->walk)) != 0)
            note_failure(w, last_message(w));
        else if (w->latencies)
            note_time(w, begin, now_ns());
        w->done++;
        w->since_flush++;
        look_at_clock(w);
        if (!flush_due(w))
            continue;
        if (qchain_flush(w->load->chain, w->err) != 0)
            note_failure(w, last_message(w));
        w->since_flush = 0;
        w->flushes++;
    }
}

static int send_one(struct worker *w, struct slot *s, uint32_t flags)
{
    const struct tool_load *l = w->load;
    size_t length = (size_t)l->places->length;
    uint64_t offset = tool_walk_next(&w->walk);

    return l->write ? qchain_queue_write(w->queue, s->buf, length, offset, flags, s, w->err)
                    : qchain_queue_read(w->queue, s->buf, length, offset, flags, s, w->err);
}

/* Send as much as there are buffers for, but not past a flush. */
static void submit(struct worker *w)
{
    uint64_t room = w->n_unused < w->todo ? w->n_unused : w->todo, i;
    uint32_t batch = w->load->batch;

    if (w->load->flush_interval && room > w->load->flush_interval - w->since_flush)
        room = w->load->flush_interval - w->since_flush;
    for (i = 1; i <= room; i++) {
        uint32_t flags = i < room && i % batch ? QCHAIN_REQUEST_MORE : 0;
        struct slot *s = w->unused[w->n_unused - 1];

        w->todo--;
        w->since_flush++;
        if (w->latencies)
            s->begin_ns = now_ns();
        if (send_one(w, s, flags) == 0) {
            w->n_unused--;
        } else {
            note_failure(w, last_message(w));
            w->done++;
        }
    }
}

/* One at a time; and unless told not to wait, with nothing else in flight. */
static void send_flush(struct worker *w)
{
    if (w->flushing || (!w->load->no_drain && w->n_unused < w->n_slots))
        return;
    w->since_flush = 0;
    w->flushes++;
    if (qchain_queue_flush(w->queue, NULL, w->err) == 0)
        w->flushing = true;
    else
        note_failure(w, last_message(w));
}

static void take_flush(struct worker *w, const qchain_completion *ended)
{
    w->flushing = false;
    if (ended->result != 0)
        note_failure(w, ended->error);
}

/* Take what has ended, and wait for one. */
static void reap(struct worker *w)
{
    qchain_completion ended[REAP];
    int n = qchain_queue_reap(w->queue, ended, 1, REAP, -1), i;
    uint64_t end = w->latencies ? now_ns() : 0;

    if (n < 0) { /* cannot be: the queue is ours */
        note_failure(w, qchain_code_name(n));
        w->todo = w->since_flush = 0;
        w->n_unused = w->n_slots;
        w->flushing = false;
        return;
    }
    for (i = 0; i < n; i++) {
        struct slot *s = ended[i].user;

        if (!s) {
            take_flush(w, &ended[i]);
            continue;
        }
        if (ended[i].result != 0)
            note_failure(w, ended[i].error);
        else if (w->latencies)
            note_time(w, s->begin_ns, end);
        w->unused[w->n_unused++] = s;
        w->done++;
    }
}

static bool in_flight(const struct worker *w)
{
    return w->n_unused < w->n_slots || w->flushing;
}

static void run_queued(struct worker *w)
{
    while (w->todo || in_flight(w) || flush_due(w)) {
        if (flush_due(w))
            send_flush(w);
        if (!flush_due(w) && (w->load->no_drain || !w->flushing))
            submit(w);
        if (in_flight(w))
            reap(w);
        look_at_clock(w);
    }
}

/* ----------------------------------------------------------------- a thread --- */

static int make_buffers(struct worker *w)
{
    size_t one = ((size_t)w->load->places->length + ALIGN) / ALIGN * ALIGN;
    void *memory;
    unsigned i;

    w->slots = calloc(w->n_slots, sizeof(*w->slots));
    w->unused = calloc(w->n_slots, sizeof(struct slot *));
    if (!w->slots || !w->unused || posix_memalign(&memory, ALIGN, one * w->n_slots) != 0)
        return -1;
    w->memory = memory;
    memset(memory, w->load->pattern, one * w->n_slots); /* its pages are not to be counted */
    for (i = 0; i < w->n_slots; i++) {
        w->slots[i].buf = w->memory + i * one;
        w->unused[w->n_slots - 1 - i] = &w->slots[i];
    }
    w->n_unused = w->n_slots;
    return 0;
}

static int make_queue(struct worker *w)
{
    qchain_queue_opts o;

    qchain_queue_opts_init(&o, sizeof(o));
    o.depth = w->n_slots + (w->load->flush_interval ? 1 : 0);
    o.flags = w->load->no_uring ? QCHAIN_QUEUE_NO_URING : 0;
    return qchain_queue_create(&w->queue, w->load->chain, &o, w->err);
}

static void prepare(struct worker *w)
{
    const struct tool_load *l = w->load;
    uint64_t depth = l->depth < w->todo ? l->depth : w->todo;

    w->err = qchain_error_create();
    w->n_slots = l->blocking || !depth ? 1 : (unsigned)depth;
    if (l->latency)
        w->latencies = calloc(1, sizeof(*w->latencies));
    w->broken = tool_walk_start(&w->walk, l->places, w->number, l->threads, w->todo) != 0 ||
                (l->latency && !w->latencies) || make_buffers(w) != 0;
    if (w->broken) {
        snprintf(w->first_error, sizeof(w->first_error), "out of memory for %u requests",
                 w->n_slots);
    } else if (!l->blocking && make_queue(w) != 0) {
        w->broken = true;
        snprintf(w->first_error, sizeof(w->first_error), "%s", last_message(w));
    }
}

/* Say that we are ready; false if there is nothing to be done. */
static bool pass_gate(struct worker *w)
{
    struct gate *g = w->gate;
    bool go;

    pthread_mutex_lock(&g->lock);
    g->ready++;
    g->give_up |= w->broken;
    pthread_cond_broadcast(&g->change);
    while (!g->open)
        pthread_cond_wait(&g->change, &g->lock);
    go = !g->give_up;
    if (w->load->time_ns)
        w->deadline_ns = g->begin_ns + w->load->time_ns;
    pthread_mutex_unlock(&g->lock);
    return go;
}

static void *work(void *data)
{
    struct worker *w = data;

    prepare(w);
    if (pass_gate(w)) {
        if (w->queue)
            run_queued(w);
        else
            run_blocking(w);
        w->end_ns = now_ns();
    }
    return NULL;
}

static void worker_free(struct worker *w)
{
    qchain_queue_destroy(w->queue);
    free(w->memory);
    free(w->slots);
    free(w->unused);
    free(w->latencies);
    tool_walk_free(&w->walk);
    qchain_error_destroy(w->err);
}

/* -------------------------------------------------------------- all of them --- */

/* The shares of `count` requests: each thread takes every n-th one. */
static uint64_t share(const struct tool_load *l, unsigned number)
{
    if (l->time_ns)
        return UINT64_MAX;
    return l->count / l->threads + (number < l->count % l->threads);
}

/* Start the threads; how many there are. Signals are for the main thread. */
static unsigned start(const struct tool_load *l, struct worker *workers, struct gate *g)
{
    sigset_t all, old;
    unsigned i;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    for (i = 0; i < l->threads; i++) {
        struct worker *w = &workers[i];

        w->load = l;
        w->gate = g;
        w->number = i;
        w->todo = share(l, i);
        if (pthread_create(&w->thread, NULL, work, w) != 0)
            break;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return i;
}

/* Let them go once all are ready; with fewer than there should be, home. */
static void run_all(struct gate *g, unsigned started, bool enough)
{
    pthread_mutex_lock(&g->lock);
    while (g->ready < started)
        pthread_cond_wait(&g->change, &g->lock);
    g->open = true;
    g->give_up |= !enough;
    g->begin_ns = now_ns();
    pthread_cond_broadcast(&g->change);
    pthread_mutex_unlock(&g->lock);
}

static void sum_up(struct tool_load *l, const struct worker *workers, uint64_t begin_ns)
{
    uint64_t end_ns = begin_ns;
    unsigned i;

    for (i = 0; i < l->threads; i++) {
        const struct worker *w = &workers[i];

        l->done += w->done;
        l->flushes += w->flushes;
        if (w->failed && !l->failed)
            memcpy(l->first_error, w->first_error, sizeof(l->first_error));
        l->failed += w->failed;
        if (w->end_ns > end_ns)
            end_ns = w->end_ns;
        if (l->latencies)
            tool_latency_join(l->latencies, w->latencies);
    }
    l->engine = l->blocking ? "blocking" : qchain_queue_engine(workers[0].queue);
    l->seconds = (double)(end_ns - begin_ns) / 1e9;
}

int tool_load_run(struct tool *t, struct tool_load *l)
{
    struct worker *workers = calloc(l->threads, sizeof(*workers));
    struct gate g = {.lock = PTHREAD_MUTEX_INITIALIZER, .change = PTHREAD_COND_INITIALIZER};
    const char *why = NULL;
    unsigned started = 0, i;

    if (l->latency)
        l->latencies = calloc(1, sizeof(*l->latencies));
    if (!workers || (l->latency && !l->latencies)) {
        tool_complain(t, "out of memory");
        free(workers);
        return -1;
    }
    started = start(l, workers, &g);
    run_all(&g, started, started == l->threads);
    for (i = 0; i < started; i++) {
        pthread_join(workers[i].thread, NULL);
        if (workers[i].broken && !why)
            why = workers[i].first_error;
    }
    if (started < l->threads && !why)
        why = "a thread could not be started";
    if (why)
        tool_complain(t, "%s", why);
    else
        sum_up(l, workers, g.begin_ns);
    for (i = 0; i < started; i++)
        worker_free(&workers[i]);
    free(workers);
    return why ? -1 : 0;
}

void tool_load_free(struct tool_load *l)
{
    free(l->latencies);
}
