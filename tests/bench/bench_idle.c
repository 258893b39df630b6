/* SPDX-License-Identifier: MIT */
/*
 * bench_idle [--rule RULE]... [--reads N] LIST NAME PREFETCHED - what reads feel of a prefetch beside them.
 *
 * Reads of NAME at the places of LIST (lines "OFFSET LENGTH", each of them used once) in one environment: N one
 * after the other, then a quarter as many ten a second; then the same while PREFETCHED is fetched by
 * QCHAIN_PREFETCH_IDLE; then nothing is read for three seconds. Prints JSON: percentiles of each series in
 * milliseconds; how many seconds after the last read the prefetch's bytes of a quarter of a second reached nine
 * tenths of --rate, and its bytes a second in seconds one to three.
 */
#include <qchain.h>

#include <getopt.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MAX_READS = 4096, LONGEST = 1 << 20, TICK_MS = 50, TICKS = 60, A_QUARTER = 5 };

static qchain_error *err;
static unsigned long offset[MAX_READS], length[MAX_READS];
static unsigned n_places, next_place;

static double now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static void sleep_until(double ms)
{
    struct timespec t = {.tv_sec = (time_t)(ms / 1e3)};

    t.tv_nsec = (long)((ms - (double)t.tv_sec * 1e3) * 1e6);
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static void die(const char *what, const char *why)
{
    fprintf(stderr, "bench_idle: %s: %s\n", what, why);
    exit(1);
}

static void load(const char *name)
{
    FILE *f = fopen(name, "re");

    if (!f)
        die(name, "cannot read");
    while (n_places < MAX_READS && fscanf(f, "%lu %lu", &offset[n_places], &length[n_places]) == 2)
        if (length[n_places++] > LONGEST)
            die(name, "a read is too long");
    fclose(f);
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

/* So many reads, a new one each pace_ms or, with 0, as soon as the last has ended. */
static void read_some(qchain *c, const char *name, unsigned n, double pace_ms)
{
    static unsigned char buf[LONGEST];
    double *took = calloc(n, sizeof(*took)), begin = now_ms(), t;

    for (unsigned i = 0; i < n; i++, next_place++) {
        if (next_place == n_places)
            die("list", "not enough places for so many reads");
        if (pace_ms > 0)
            sleep_until(begin + i * pace_ms);
        t = now_ms();
        if (qchain_read(c, buf, length[next_place], offset[next_place], 0, err) != 0)
            die("read", qchain_error_message(err));
        took[i] = now_ms() - t;
    }
    qsort(took, n, sizeof(*took), by_size);
    printf("\"%s\": {\"p50\": %.3f, \"p90\": %.3f, \"p99\": %.3f, \"max\": %.3f, \"reads\": %u}, ", name, took[n / 2], took[n * 9 / 10],
           took[(n * 99 - 1) / 100], took[n - 1], n);
    free(took);
}

/* -------------------------------------------------------------------- prefetch --- */

struct behind {
    qchain *c;
    qchain_job *job;
    qchain_error *err;
    int ret;
};

static void *prefetch(void *arg)
{
    struct behind *b = arg;
    qchain_prefetch_opts o;

    qchain_prefetch_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_PREFETCH_IDLE;
    o.job = b->job;
    b->ret = qchain_prefetch(&b->c, 1, &o, NULL, b->err);
    return NULL;
}

static double bytes_of(qchain_env *env)
{
    qchain_remote_stats s = {.struct_size = sizeof(s)};

    qchain_env_remote_stats(env, &s);
    return (double)s.bytes;
}

/* Nobody reads: how soon does the prefetch take the link? */
static void watch(qchain_env *env, double rate)
{
    double begin = now_ms(), at[TICKS + 1], back = -1;

    for (int i = 0; i <= TICKS; i++) {
        sleep_until(begin + i * TICK_MS);
        at[i] = bytes_of(env);
        if (back < 0 && i >= A_QUARTER && at[i] - at[i - A_QUARTER] >= 0.9 * rate * A_QUARTER * TICK_MS / 1e3)
            back = i * TICK_MS / 1e3;
    }
    printf("\"back_seconds\": %.3f, \"idle_rate\": %.0f, ", back,
           (at[TICKS] - at[TICKS / 3]) / ((TICKS - TICKS / 3) * TICK_MS / 1e3));
}

static void measure(const qchain_remote *remote, const char *name, const char *other, unsigned reads, double rate)
{
    struct behind b = {.job = qchain_job_create(), .err = qchain_error_create()};
    qchain_env_opts eo;
    qchain_env *env;
    qchain *c;
    pthread_t thread;
    double before;

    qchain_env_opts_init(&eo, sizeof(eo));
    eo.remote = remote;
    if (qchain_env_create(&env, &eo, err) != 0 || qchain_open(&c, env, name, NULL, err) != 0 ||
        qchain_open(&b.c, env, other, NULL, err) != 0)
        die("open", qchain_error_message(err));
    printf("{");
    read_some(c, "alone", reads, 0);
    read_some(c, "alone_ten", reads / 4, 100);
    pthread_create(&thread, NULL, prefetch, &b);
    sleep_until(now_ms() + 500); /* by then it has the link */
    before = bytes_of(env);
    read_some(c, "beside", reads, 0);
    read_some(c, "beside_ten", reads / 4, 100);
    printf("\"beside_bytes\": %.0f, ", bytes_of(env) - before);
    watch(env, rate);
    qchain_job_cancel(b.job);
    pthread_join(thread, NULL);
    if (b.ret != QCHAIN_E_CANCELLED)
        die("prefetch", b.ret ? qchain_error_message(b.err) : "ended before it was watched: its disk is too small");
    printf("\"reads\": %u}\n", next_place);
    qchain_close(b.c);
    qchain_close(c);
    qchain_env_destroy(env);
    qchain_error_destroy(b.err);
    qchain_job_destroy(b.job);
}

int main(int argc, char **argv)
{
    static const struct option longs[] = {
        {"rule", 1, NULL, 'r'}, {"reads", 1, NULL, 'n'}, {"rate", 1, NULL, 'm'}, {0}
    };
    qchain_remote *remote = qchain_remote_create();
    unsigned reads = 100;
    double rate = 100e6;
    int o;

    err = qchain_error_create();
    while ((o = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (o == 'r' && qchain_remote_parse(remote, optarg, err) != 0)
            die(optarg, qchain_error_message(err));
        else if (o == 'n')
            reads = (unsigned)atoi(optarg);
        else if (o == 'm')
            rate = atof(optarg);
        else if (o == '?')
            return 2;
    }
    if (optind + 3 != argc || reads < 4) {
        fprintf(stderr, "usage: bench_idle [--rule RULE]... [--reads N] [--rate BYTES] LIST NAME PREFETCHED\n");
        return 2;
    }
    load(argv[optind]);
    measure(remote, argv[optind + 1], argv[optind + 2], reads, rate);
    qchain_remote_destroy(remote);
    qchain_error_destroy(err);
    return 0;
}
