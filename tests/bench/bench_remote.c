/* SPDX-License-Identifier: MIT */
/*
 * bench_remote [--rule RULE]... [--depth N] [--no-index] [--wait SECONDS] [--record FILE] LIST NAME - reads of a chain.
 *
 * LIST has lines "OFFSET LENGTH"; they are read in order by qchain_read, or with --depth N by a queue
 * that keeps N in flight. NAME is a path or a URL. --wait lets caches finish their stores before the
 * end; --record records a trace. Prints JSON: seconds to open, to the first read's end, of all reads; what went over the network;
 * peak memory; a sum of the bytes.
 */
#include <qchain.h>

#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { MAX_DEPTH = 1024, LONGEST = 4 << 20 };

struct place {
    uint64_t offset;
    size_t   length;
};

static struct {
    struct place *at;
    size_t n, room;
} list;

static qchain_error *err;
static uint64_t sum;
static double first_read;

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what, const char *why)
{
    fprintf(stderr, "bench_remote: %s: %s\n", what, why);
    exit(1);
}

static void load(const char *name)
{
    unsigned long offset, length;
    FILE *f = fopen(name, "re");

    if (!f)
        die(name, "cannot read");
    while (fscanf(f, "%lu %lu", &offset, &length) == 2) {
        if (list.n == list.room) {
            list.room = list.room ? 2 * list.room : 4096;
            list.at = realloc(list.at, list.room * sizeof(*list.at));
            if (!list.at)
                die(name, "no memory");
        }
        if (length > LONGEST)
            die(name, "a read is too long");
        list.at[list.n++] = (struct place){ offset, length };
    }
    fclose(f);
}

static void add(const unsigned char *buf, size_t length)
{
    uint64_t head = 0;

    memcpy(&head, buf, length < 8 ? length : 8);
    sum += head;
    if (first_read == 0)
        first_read = now();
}

static void read_in_turn(qchain *c)
{
    unsigned char *buf = malloc(LONGEST);

    for (size_t i = 0; i < list.n; i++) {
        if (qchain_read(c, buf, list.at[i].length, list.at[i].offset, 0, err) != 0)
            die("read", qchain_error_message(err));
        add(buf, list.at[i].length);
    }
    free(buf);
}

struct slot {
    unsigned char *buf;
    size_t length;
};

static void read_many(qchain *c, unsigned depth)
{
    qchain_queue_opts o;
    qchain_queue *q;
    struct slot slots[MAX_DEPTH], *idle[MAX_DEPTH];
    unsigned n_idle = depth;

    qchain_queue_opts_init(&o, sizeof(o));
    o.depth = depth;
    if (qchain_queue_create(&q, c, &o, err) != 0)
        die("queue", qchain_error_message(err));
    for (unsigned i = 0; i < depth; i++) {
        slots[i].buf = malloc(LONGEST);
        idle[i] = &slots[i];
    }
    for (size_t next = 0; next < list.n || n_idle < depth;) {
        qchain_completion done[64];
        int n;

        while (next < list.n && n_idle) {
            struct slot *s = idle[--n_idle];

            s->length = list.at[next].length;
            if (qchain_queue_read(q, s->buf, s->length, list.at[next].offset, 0, s, err) != 0)
                die("submit", qchain_error_message(err));
            next++;
        }
        n = qchain_queue_reap(q, done, 1, 64, -1);
        for (int i = 0; i < n; i++) {
            struct slot *s = done[i].user;

            if (done[i].result != 0)
                die("read", done[i].error);
            add(s->buf, s->length);
            idle[n_idle++] = s;
        }
    }
    qchain_queue_destroy(q);
    for (unsigned i = 0; i < depth; i++)
        free(slots[i].buf);
}

static void report(qchain_env *env, qchain *c, double begin, double opened, double end)
{
    qchain_remote_stats s = { .struct_size = sizeof(s) };
    struct rusage u;

    qchain_env_remote_stats(env, &s);
    getrusage(RUSAGE_SELF, &u);
    printf("{\"open_seconds\": %.6f, \"first_seconds\": %.6f, \"read_seconds\": %.6f, "
           "\"reads\": %zu, \"layers\": %u, \"sum\": %lu, \"requests\": %lu, \"bytes\": %lu, "
           "\"connections\": %lu, \"wasted\": %lu, \"disk_hits\": %lu, \"memory_hits\": %lu, "
           "\"hedges\": %lu, \"rss_kib\": %ld, \"cpu_seconds\": %.4f}\n", opened - begin,
           first_read - begin, end - opened, list.n, qchain_layers(c), sum, s.requests, s.bytes,
           s.connections, s.wasted_bytes, s.disk_hits, s.memory_hits, s.hedges, u.ru_maxrss,
           (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) +
           (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6);
}

static void measure(const qchain_remote *remote, const char *name, unsigned depth, uint32_t flags,
                    double wait, const char *record)
{
    qchain_env_opts eo;
    qchain_open_opts oo;
    qchain_env *env;
    qchain *c;
    double begin, opened, end;

    qchain_env_opts_init(&eo, sizeof(eo));
    eo.remote = remote;
    qchain_open_opts_init(&oo, sizeof(oo));
    oo.flags = flags;
    begin = now();
    if (qchain_env_create(&env, &eo, err) != 0)
        die("environment", qchain_error_message(err));
    if (qchain_open(&c, env, name, &oo, err) != 0)
        die("open", qchain_error_message(err));
    if (record && qchain_trace_start(c, record, NULL, err) != 0)
        die(record, qchain_error_message(err));
    opened = now();
    if (depth)
        read_many(c, depth);
    else
        read_in_turn(c);
    end = now();
    if (wait > 0)
        usleep((useconds_t)(wait * 1e6));
    report(env, c, begin, opened, end);
    if (record && qchain_trace_stop(c, err) != 0)
        die(record, qchain_error_message(err));
    qchain_close(c);
    qchain_env_destroy(env);
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {
        { "rule", 1, NULL, 'r' }, { "depth", 1, NULL, 'd' }, { "no-index", 0, NULL, 'n' },
        { "wait", 1, NULL, 'w' }, { "record", 1, NULL, 't' }, { 0 }
    };
    qchain_remote *remote = qchain_remote_create();
    unsigned depth = 0;
    uint32_t flags = 0;
    const char *record = NULL;
    double wait = 0;
    int o;

    err = qchain_error_create();
    while ((o = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (o == 'r' && qchain_remote_parse(remote, optarg, err) != 0)
            die(optarg, qchain_error_message(err));
        else if (o == 'd')
            depth = (unsigned)atoi(optarg);
        else if (o == 'n')
            flags |= QCHAIN_OPEN_NO_INDEX;
        else if (o == 'w')
            wait = atof(optarg);
        else if (o == 't')
            record = optarg;
        else if (o == '?')
            return 2;
    }
    if (optind + 2 != argc || depth > MAX_DEPTH) {
        fprintf(stderr, "usage: bench_remote [--rule RULE]... [--depth N] [--no-index] LIST NAME\n");
        return 2;
    }
    load(argv[optind]);
    measure(remote, argv[optind + 1], depth, flags, wait, record);
    qchain_remote_destroy(remote);
    qchain_error_destroy(err);
    free(list.at);
    return 0;
}
