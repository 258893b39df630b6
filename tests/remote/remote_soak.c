/* SPDX-License-Identifier: MIT */
/*
 * remote_soak SECONDS SEED RULES ORACLE URL [URL...] - read chains behind URLs that fail now and then,
 * all of which must read as the file ORACLE; RULES is a file for qchain_remote_load, or "-".
 *
 * Round after round an environment is made, every URL is opened, and threads read at random places,
 * some by qchain_read, some by queues; all is closed again, in half of the rounds while reads are under
 * way. Prints JSON: reads, errors, and descriptors, threads and memory before and after. Exits 1 at
 * the first wrong byte, 3 when something was not given back.
 */
#include <qchain.h>

#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { READERS = 6, LONGEST = 256 << 10, DEPTH = 32, MAX_URLS = 16, ROUND_SECONDS = 4,
       SLACK_KIB = 48 << 10 };

struct reader {
    pthread_t  thread;
    qchain    *chain;
    uint64_t   seed;
    bool       by_queue;
};

static const unsigned char *oracle;
static uint64_t oracle_size;
static double deadline;
static atomic_ulong reads, bytes, errors, opens, open_errors;
static atomic_bool stop_round;

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static uint64_t draw(uint64_t *seed)
{
    uint64_t z = *seed += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void wrong(uint64_t offset, size_t length)
{
    fprintf(stderr, "remote_soak: wrong bytes within %zu at %lu\n", length, (unsigned long)offset);
    _exit(1);
}

/* What went wrong, the first few times. */
static void note(atomic_ulong *count, const char *what, const char *why)
{
    if (atomic_fetch_add(count, 1) < 5)
        fprintf(stderr, "remote_soak: %s: %s\n", what, why ? why : "?");
}

static void check(const unsigned char *buf, uint64_t offset, size_t length)
{
    if (memcmp(buf, oracle + offset, length) != 0)
        wrong(offset, length);
    reads++;
    bytes += length;
}

static void choose(uint64_t *seed, uint64_t *offset, size_t *length)
{
    *length = 1 + (size_t)(draw(seed) % (draw(seed) % 4 ? 8192 : LONGEST));
    if (*length > oracle_size)
        *length = (size_t)oracle_size;
    *offset = draw(seed) % (oracle_size - *length + 1);
}

static void read_calls(struct reader *r)
{
    qchain_error *err = qchain_error_create();
    unsigned char *buf = malloc(LONGEST);

    while (!stop_round && buf && err) {
        uint64_t offset;
        size_t length;

        choose(&r->seed, &offset, &length);
        memset(buf, 0xa5, length);
        if (qchain_read(r->chain, buf, length, offset, 0, err) == 0)
            check(buf, offset, length);
        else
            note(&errors, "read", qchain_error_message(err));
    }
    free(buf);
    qchain_error_destroy(err);
}

struct slot {
    uint64_t offset;
    size_t   length;
    bool     busy;
    unsigned char *buf;
};

static void reap(qchain_queue *q, uint32_t least)
{
    qchain_completion done[DEPTH];
    int n = qchain_queue_reap(q, done, least, DEPTH, -1);

    for (int i = 0; i < n; i++) {
        struct slot *s = done[i].user;

        s->busy = false;
        if (done[i].result == 0)
            check(s->buf, s->offset, s->length);
        else
            note(&errors, "queue", done[i].error);
    }
}

static void read_queue(struct reader *r)
{
    qchain_error *err = qchain_error_create();
    struct slot slots[DEPTH] = { 0 };
    qchain_queue *q = NULL;

    for (int i = 0; i < DEPTH; i++)
        slots[i].buf = malloc(LONGEST);
    if (qchain_queue_create(&q, r->chain, NULL, err) != 0)
        note(&errors, "queue", qchain_error_message(err));
    while (q && !stop_round) {
        for (int i = 0; i < DEPTH; i++) {
            struct slot *s = &slots[i];

            if (s->busy)
                continue;
            choose(&r->seed, &s->offset, &s->length);
            memset(s->buf, 0xa5, s->length);
            s->busy = qchain_queue_read(q, s->buf, s->length, s->offset, 0, s, err) == 0;
            if (!s->busy)
                note(&errors, "submit", qchain_error_message(err));
        }
        reap(q, 1);
    }
    /* Half of them leave with requests under way: close waits. */
    while (q && r->seed % 2 && qchain_queue_pending(q))
        reap(q, 1);
    qchain_queue_destroy(q);
    for (int i = 0; i < DEPTH; i++)
        free(slots[i].buf);
    qchain_error_destroy(err);
}

static void *work(void *data)
{
    struct reader *r = data;

    if (r->by_queue)
        read_queue(r);
    else
        read_calls(r);
    return NULL;
}

static void sleep_until(double t)
{
    while (now() < t)
        usleep(10000);
}

/* Readers on all chains of one environment, for some seconds. */
static void read_all(qchain **chains, int n, uint64_t *seed)
{
    struct reader readers[READERS];
    double end = now() + ROUND_SECONDS;

    stop_round = false;
    for (int i = 0; i < READERS; i++) {
        readers[i] = (struct reader){ .chain = chains[i % n], .seed = draw(seed),
                                      .by_queue = i % 2 };
        if (pthread_create(&readers[i].thread, NULL, work, &readers[i]) != 0)
            abort();
    }
    sleep_until(end < deadline ? end : deadline);
    stop_round = true;
    for (int i = 0; i < READERS; i++)
        pthread_join(readers[i].thread, NULL);
}

static void one_round(const qchain_remote *remote, char **urls, int n, uint64_t *seed)
{
    qchain_error *err = qchain_error_create();
    qchain *chains[MAX_URLS];
    qchain_env_opts o;
    qchain_env *env = NULL;
    int opened = 0;

    qchain_env_opts_init(&o, sizeof(o));
    o.remote = remote;
    o.block_bytes = 16 << 20;
    if (qchain_env_create(&env, &o, err) != 0)
        note(&open_errors, "environment", qchain_error_message(err));
    for (int i = 0; env && i < n; i++) {
        opens++;
        if (qchain_open(&chains[opened], env, urls[i], NULL, err) == 0)
            opened++;
        else
            note(&open_errors, "open", qchain_error_message(err));
    }
    if (opened)
        read_all(chains, opened, seed);
    while (opened)
        qchain_close(chains[--opened]);
    qchain_env_destroy(env);
    qchain_error_destroy(err);
}

static unsigned entries(const char *path)
{
    struct dirent *e;
    unsigned n = 0;
    DIR *d = opendir(path);

    while (d && (e = readdir(d)))
        n += e->d_name[0] != '.';
    if (d)
        closedir(d);
    return n;
}

static long rss_kib(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");

    if (f && fscanf(f, "%*d %ld", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static void map_oracle(const char *path)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0 || fstat(fd, &st) != 0) {
        perror(path);
        exit(2);
    }
    oracle_size = (uint64_t)st.st_size;
    oracle = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED | MAP_POPULATE, fd, 0);
    if (oracle == MAP_FAILED)
        exit(2);
    close(fd);
}

int main(int argc, char **argv)
{
    qchain_remote *remote = qchain_remote_create();
    qchain_error *err = qchain_error_create();
    unsigned fds, threads, rounds = 1;
    uint64_t seed;
    long rss;
    bool back, sanitized;

    if (argc < 6 || argc - 5 > MAX_URLS) {
        fprintf(stderr, "usage: remote_soak SECONDS SEED RULES ORACLE URL...\n");
        return 2;
    }
    seed = strtoull(argv[2], NULL, 10);
    if (strcmp(argv[3], "-") != 0 && qchain_remote_load(remote, argv[3], err) != 0) {
        fprintf(stderr, "remote_soak: %s\n", qchain_error_message(err));
        return 2;
    }
    map_oracle(argv[4]);
    /* What a library keeps for ever, it has after the first round. */
    deadline = now() + ROUND_SECONDS;
    one_round(remote, argv + 5, argc - 5, &seed);
    fds = entries("/proc/self/fd");
    threads = entries("/proc/self/task");
    rss = rss_kib();
    deadline = now() + atof(argv[1]) - ROUND_SECONDS;
    for (; now() < deadline; rounds++)
        one_round(remote, argv + 5, argc - 5, &seed);
    /* Sanitizers keep memory of what is long gone. */
    sanitized = getenv("QC_SAN") && *getenv("QC_SAN");
    back = entries("/proc/self/fd") == fds && entries("/proc/self/task") == threads &&
           (sanitized || rss_kib() <= rss + SLACK_KIB);
    printf("{\"rounds\": %u, \"reads\": %lu, \"bytes\": %lu, \"errors\": %lu, \"opens\": %lu, "
           "\"open-errors\": %lu, \"fds\": [%u, %u], \"threads\": [%u, %u], \"rss-kib\": [%ld, %ld]}\n",
           rounds, reads, bytes, errors, opens, open_errors, fds, entries("/proc/self/fd"), threads,
           entries("/proc/self/task"), rss, rss_kib());
    qchain_remote_destroy(remote);
    qchain_error_destroy(err);
    return back ? 0 : 3;
}
