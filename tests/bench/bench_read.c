/* SPDX-License-Identifier: MIT */
/*
 * bench_read [--threads N] [--passes N] LIST TOP - random reads of a chain through the library.
 *
 * Reads 4 KiB at each guest offset of a list made by bench_places, with qchain_read, in the order
 * of the list; the twin of ref_pread. One pass is not timed; then `passes` are. With several
 * threads each takes its share of the list. Prints reads a second and the sum of the first eight
 * bytes of each read.
 */
#include <qchain.h>

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

enum { BLOCK = 4096, MAX_THREADS = 64 };

struct worker {
    pthread_t thread;
    size_t first, end;
    uint64_t sum;
    int failed;
};

static unsigned threads = 1, passes = 2;
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
    fprintf(stderr, "bench_read: %s: %s\n", what, why);
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

static void pass(struct worker *w, unsigned char *buf, qchain_error *err)
{
    for (size_t i = w->first; i < w->end && !w->failed; i++) {
        uint64_t head;

        if (qchain_read(chain, buf, BLOCK, places[i], 0, err) != 0)
            w->failed = 1;
        memcpy(&head, buf, sizeof(head));
        w->sum += head;
    }
}

static void *work(void *data)
{
    struct worker *w = data;
    qchain_error *err = qchain_error_create();
    _Alignas(BLOCK) unsigned char buf[BLOCK];

    pass(w, buf, err);
    w->sum = 0;
    pthread_barrier_wait(&barrier);
    for (unsigned i = 0; i < passes; i++)
        pass(w, buf, err);
    pthread_barrier_wait(&barrier);
    if (w->failed)
        fprintf(stderr, "bench_read: %s\n", qchain_error_message(err));
    qchain_error_destroy(err);
    return NULL;
}

static void random_reads(const char *list)
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
        if (pthread_create(&workers[t].thread, NULL, work, &workers[t]) != 0)
            die("thread", "cannot start");
    }
    pthread_barrier_wait(&barrier);
    begin = now();
    pthread_barrier_wait(&barrier);
    seconds = now() - begin;
    for (unsigned t = 0; t < threads; t++) {
        pthread_join(workers[t].thread, NULL);
        sum += workers[t].sum;
        failed |= workers[t].failed;
    }
    if (failed)
        exit(1);
    printf("{\"reads\": %zu, \"seconds\": %.6f, \"reads_per_second\": %.0f, \"sum\": \"%016" PRIx64
           "\"}\n", n_places * passes, seconds, (double)(n_places * passes) / seconds, sum);
}

int main(int argc, char **argv)
{
    qchain_error *err = qchain_error_create();
    struct rlimit limit;
    int i;

    for (i = 1; i + 1 < argc && strncmp(argv[i], "--", 2) == 0; i += 2) {
        if (strcmp(argv[i], "--threads") == 0)
            threads = (unsigned)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--passes") == 0)
            passes = (unsigned)strtoul(argv[i + 1], NULL, 10);
        else
            break;
    }
    if (i != argc - 2 || threads < 1 || threads > MAX_THREADS) {
        fprintf(stderr, "usage: bench_read [--threads N] [--passes N] LIST TOP\n");
        return 2;
    }
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    if (qchain_open(&chain, NULL, argv[i + 1], NULL, err) != 0)
        die("open", qchain_error_message(err));
    random_reads(argv[i]);
    qchain_close(chain);
    qchain_error_destroy(err);
    free(places);
    return 0;
}
