/* SPDX-License-Identifier: MIT */
/*
 * bench_queue [--threads N] [--passes N] [--depth N] [--batch N] [--engine io_uring|threads]
 *             [--direct 0|1] LIST TOP - random reads of a chain through queues.
 *
 * Reads 4 KiB at each guest offset of a list made by bench_places, in the order of the list; the
 * twin of bench_read. Each thread has a queue of its own and takes its share of the list; `depth`
 * reads are in flight, submitted `batch` at a time, and as many are submitted as were reaped. One
 * pass is not timed; then `passes` are. Prints reads a second and the sum of the first eight bytes
 * of each read, which must equal what bench_read prints for the same list.
 */
#include <qchain.h>

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { BLOCK = 4096, MAX_THREADS = 64, MAX_DEPTH = 4096 };

struct worker {
    pthread_t thread;
    size_t first, end;
    qchain_queue *queue;
    unsigned char *buffers;
    uint64_t sum;
    int failed;
};

static unsigned threads = 1, passes = 2, depth = 32, batch = 8, direct, no_uring;
static qchain *chain;
static uint64_t *places;
static size_t n_places;
static pthread_barrier_t barrier;

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what, const char *why)
{
    fprintf(stderr, "bench_queue: %s: %s\n", what, why);
    exit(1);
}

static void *grow(void *p, size_t used, size_t *room, size_t unit)
{
    if (used < *room)
        return p;
    *room = *room ? *room * 2 : 65536;
    p = realloc(p, *room * unit);
    if (!p)
        die("list", "no memory");
    return p;
}

static void load(const char *name)
{
    char line[8192];
    size_t room = 0;
    FILE *f = fopen(name, "re");

    if (!f)
        die(name, "cannot read");
    while (fgets(line, sizeof(line), f)) {
        char *p = line + 1;

        if (line[0] != 'R')
            continue;
        places = grow(places, n_places, &room, sizeof(*places));
        strtoul(p, &p, 10);
        strtoull(p, &p, 10);
        places[n_places++] = strtoull(p, NULL, 10);
    }
    fclose(f);
}

/* Reap at least one, at most a batch; the buffers come back onto the stack of free ones. */
static unsigned reap(struct worker *w, void **idle, unsigned n_idle)
{
    qchain_completion done[MAX_DEPTH];
    int n = qchain_queue_reap(w->queue, done, 1, batch, -1);

    for (int i = 0; i < n; i++) {
        uint64_t head;

        if (done[i].result != 0) {
            fprintf(stderr, "bench_queue: %s\n", done[i].error);
            w->failed = 1;
        }
        memcpy(&head, done[i].user, sizeof(head));
        w->sum += head;
        idle[n_idle++] = done[i].user;
    }
    return n_idle;
}

static void pass(struct worker *w)
{
    void *idle[MAX_DEPTH];
    unsigned n_idle = depth, n;
    size_t i = w->first;

    for (unsigned k = 0; k < depth; k++)
        idle[k] = w->buffers + (size_t)k * BLOCK;
    while ((i < w->end || n_idle < depth) && !w->failed) {
        for (n = 0; n < batch && n_idle > 0 && i < w->end; n++, i++) {
            int more = n + 1 < batch && n_idle > 1 && i + 1 < w->end;

            n_idle--;
            if (qchain_queue_read(w->queue, idle[n_idle], BLOCK, places[i],
                                  more ? QCHAIN_REQUEST_MORE : 0, idle[n_idle], NULL) != 0)
                w->failed = 1;
        }
        if (n_idle < batch || i == w->end)
            n_idle = reap(w, idle, n_idle);
    }
}

static void *work(void *data)
{
    struct worker *w = data;

    pass(w);
    w->sum = 0;
    pthread_barrier_wait(&barrier);
    for (unsigned i = 0; i < passes; i++)
        pass(w);
    pthread_barrier_wait(&barrier);
    return NULL;
}

static void start(struct worker *w, qchain_error *err)
{
    qchain_queue_opts o;
    void *buffers;

    qchain_queue_opts_init(&o, sizeof(o));
    o.depth = depth;
    o.flags = no_uring ? QCHAIN_QUEUE_NO_URING : 0;
    if (qchain_queue_create(&w->queue, chain, &o, err) != 0)
        die("queue", qchain_error_message(err));
    if (!no_uring && strcmp(qchain_queue_engine(w->queue), "io_uring") != 0)
        die("queue", "there is no io_uring here (--engine threads)");
    if (posix_memalign(&buffers, BLOCK, (size_t)depth * BLOCK) != 0)
        die("buffers", "no memory");
    memset(buffers, 0, (size_t)depth * BLOCK);
    w->buffers = buffers;
    if (pthread_create(&w->thread, NULL, work, w) != 0)
        die("thread", "cannot start");
}

static void random_reads(const char *list, qchain_error *err)
{
    static struct worker workers[MAX_THREADS];
    uint64_t sum = 0;
    double begin, seconds;
    int failed = 0;

    load(list);
    pthread_barrier_init(&barrier, NULL, threads + 1);
    for (unsigned t = 0; t < threads; t++) {
        workers[t].first = n_places * t / threads;
        workers[t].end = n_places * (t + 1) / threads;
        start(&workers[t], err);
    }
    pthread_barrier_wait(&barrier);
    begin = now();
    pthread_barrier_wait(&barrier);
    seconds = now() - begin;
    for (unsigned t = 0; t < threads; t++) {
        pthread_join(workers[t].thread, NULL);
        qchain_queue_destroy(workers[t].queue);
        free(workers[t].buffers);
        sum += workers[t].sum;
        failed |= workers[t].failed;
    }
    if (failed)
        exit(1);
    printf("{\"engine\": \"%s\", \"depth\": %u, \"batch\": %u, \"reads\": %zu, \"seconds\": %.6f, "
           "\"reads_per_second\": %.0f, \"sum\": \"%016" PRIx64 "\"}\n",
           no_uring ? "threads" : "io_uring", depth, batch, n_places * passes, seconds,
           (double)(n_places * passes) / seconds, sum);
}

static int set_option(const char *name, const char *value)
{
    unsigned n = (unsigned)strtoul(value, NULL, 10);

    if (strcmp(name, "--threads") == 0)
        threads = n;
    else if (strcmp(name, "--passes") == 0)
        passes = n;
    else if (strcmp(name, "--depth") == 0)
        depth = n;
    else if (strcmp(name, "--batch") == 0)
        batch = n;
    else if (strcmp(name, "--direct") == 0)
        direct = n;
    else if (strcmp(name, "--engine") == 0)
        no_uring = strcmp(value, "threads") == 0;
    else
        return -1;
    return 0;
}

int main(int argc, char **argv)
{
    qchain_error *err = qchain_error_create();
    qchain_open_opts o;
    struct rlimit limit;
    int i;

    for (i = 1; i + 1 < argc && strncmp(argv[i], "--", 2) == 0; i += 2)
        if (set_option(argv[i], argv[i + 1]) != 0)
            break;
    if (i != argc - 2 || threads < 1 || threads > MAX_THREADS || depth < 1 || depth > MAX_DEPTH ||
        batch < 1 || batch > depth) {
        fprintf(stderr, "usage: bench_queue [--threads N] [--passes N] [--depth N] [--batch N] "
                "[--engine io_uring|threads] [--direct 0|1] LIST TOP\n");
        return 2;
    }
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    qchain_open_opts_init(&o, sizeof(o));
    o.flags = direct ? QCHAIN_OPEN_DIRECT : 0;
    if (qchain_open(&chain, NULL, argv[i + 1], &o, err) != 0)
        die("open", qchain_error_message(err));
    random_reads(argv[i], err);
    qchain_close(chain);
    qchain_error_destroy(err);
    free(places);
    return 0;
}
