/* SPDX-License-Identifier: MIT */
/*
 * ref_pread [--threads N] [--passes N] LIST - the limit that random reads are measured against.
 *
 * Reads 4 KiB at each place of a list with plain pread, in the order of the list, every file open
 * beforehand. LIST is what bench_places writes: lines "F NAME" number the files from 0,
 * lines "R FILE HOST GUEST" are the reads. One pass is not timed; then `passes` are. With several
 * threads each takes its share of the list. Prints reads a second and the sum of the first eight
 * bytes of each read, which must equal what bench_read prints for the same list.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, MAX_FILES = 65536, MAX_THREADS = 64 };

struct place {
    uint64_t host;
    uint32_t file;
};

static int files[MAX_FILES];
static unsigned n_files;
static struct place *places;
static size_t n_places;
static unsigned passes = 2;
static pthread_barrier_t barrier;

struct worker {
    pthread_t thread;
    size_t first, end;
    uint64_t sum;
    int failed;
};

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what)
{
    fprintf(stderr, "ref_pread: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void load(const char *name)
{
    char line[8192];
    size_t room = 0;
    FILE *f = fopen(name, "re");

    if (!f)
        die(name);
    while (fgets(line, sizeof(line), f)) {
        char *p = line + 1;

        if (line[0] == 'F') {
            line[strcspn(line, "\n")] = 0;
            if (n_files == MAX_FILES)
                die("too many files");
            files[n_files] = open(line + 2, O_RDONLY | O_CLOEXEC);
            if (files[n_files++] < 0)
                die(line + 2);
            continue;
        }
        if (n_places == room) {
            room = room ? room * 2 : 65536;
            places = realloc(places, room * sizeof(*places));
            if (!places)
                die("list");
        }
        places[n_places].file = (uint32_t)strtoul(p, &p, 10);
        places[n_places].host = strtoull(p, &p, 10);
        if (places[n_places].file >= n_files)
            die("bad list");
        n_places++;
    }
    fclose(f);
}

static void pass(struct worker *w, unsigned char *buf)
{
    for (size_t i = w->first; i < w->end; i++) {
        uint64_t head;

        if (pread(files[places[i].file], buf, BLOCK, (off_t)places[i].host) != BLOCK)
            w->failed = 1;
        memcpy(&head, buf, sizeof(head));
        w->sum += head;
    }
}

static void *work(void *data)
{
    struct worker *w = data;
    _Alignas(BLOCK) unsigned char buf[BLOCK];

    pass(w, buf);
    w->sum = 0;
    pthread_barrier_wait(&barrier);
    for (unsigned i = 0; i < passes; i++)
        pass(w, buf);
    pthread_barrier_wait(&barrier);
    return NULL;
}

int main(int argc, char **argv)
{
    static struct worker workers[MAX_THREADS];
    unsigned threads = 1;
    struct rlimit limit;
    double begin, seconds;
    uint64_t sum = 0;
    int failed = 0, i;

    for (i = 1; i + 1 < argc && strncmp(argv[i], "--", 2) == 0; i += 2) {
        if (strcmp(argv[i], "--threads") == 0)
            threads = (unsigned)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--passes") == 0)
            passes = (unsigned)strtoul(argv[i + 1], NULL, 10);
        else
            break;
    }
    if (i != argc - 1 || threads < 1 || threads > MAX_THREADS) {
        fprintf(stderr, "usage: ref_pread [--threads N] [--passes N] LIST\n");
        return 2;
    }
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    load(argv[i]);
    pthread_barrier_init(&barrier, NULL, threads + 1);
    for (unsigned t = 0; t < threads; t++) {
        workers[t].first = n_places * t / threads;
        workers[t].end = n_places * (t + 1) / threads;
        if (pthread_create(&workers[t].thread, NULL, work, &workers[t]) != 0)
            die("thread");
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
        die("a read failed or was short");
    printf("{\"reads\": %zu, \"seconds\": %.6f, \"reads_per_second\": %.0f, \"sum\": \"%016" PRIx64
           "\"}\n", n_places * passes, seconds, (double)(n_places * passes) / seconds, sum);
    return 0;
}
