/* SPDX-License-Identifier: MIT */
/*
 * 11-prefetch.c - have on this machine what a start reads, before it reads it.
 *
 *     11-prefetch URL CACHE-DIR TRACE
 *
 * "starts" from a disk behind a URL: reads some parts of it. The first time it records which in TRACE. When TRACE is
 * there, these parts are first brought into the disk cache, in the order in which they will be wanted and with many requests
 * at once; then the start needs no server for them.
 */
#include <inttypes.h>
#include <stdio.h>
#include <unistd.h>

#include <qchain.h>

#define BLOCK 4096u
#define READS 64u

static int make_env(qchain_env **env, const char *cache_dir, qchain_error *err)
{
    qchain_remote *remote = qchain_remote_create();
    qchain_env_opts opts;
    char rules[600];
    int r = QCHAIN_E_NOMEM;

    snprintf(rules, sizeof(rules), "cache-dir \"%s\"\nblock-size 64K\n", cache_dir);
    if (remote)
        r = qchain_remote_parse(remote, rules, err);
    qchain_env_opts_init(&opts, sizeof(opts));
    opts.remote = remote;
    if (r == 0)
        r = qchain_env_create(env, &opts, err);
    qchain_remote_destroy(remote);
    return r;
}

/* Small reads all over the disk, one after the other: each costs a round trip where nothing is cached. */
static int start(qchain *c, qchain_error *err)
{
    uint64_t step = qchain_size(c) / READS / BLOCK * BLOCK;
    char buf[BLOCK];
    int r = 0;

    for (uint64_t i = 0; r == 0 && i < READS; i++)
        r = qchain_read(c, buf, sizeof(buf), i * 37 % READS * step, 0, err);
    return r;
}

static int replay(qchain *c, const char *path, qchain_error *err)
{
    qchain_prefetch_result result = {.struct_size = sizeof(result)};
    qchain_prefetch_opts opts;
    qchain_trace *trace;
    int r = qchain_trace_load(&trace, NULL, &path, 1, NULL, err);

    if (r != 0)
        return r;
    qchain_prefetch_opts_init(&opts, sizeof(opts));
    opts.ranges = trace->ranges;
    opts.n_ranges = trace->n_ranges;
    r = qchain_prefetch(&c, 1, &opts, &result, err);
    if (r == 0)
        printf("prefetched: %" PRIu64 " bytes by %" PRIu64 " requests, %" PRIu64 " were there\n", result.fetched,
               result.requests, result.cached);
    qchain_trace_free(trace);
    return r;
}

static uint64_t requests(qchain_env *env)
{
    qchain_remote_stats s = {.struct_size = sizeof(s)};

    return qchain_env_remote_stats(env, &s) == 0 ? s.requests : 0;
}

int main(int argc, char **argv)
{
    qchain_error *err = qchain_error_create();
    qchain_env *env = NULL;
    qchain *c = NULL;
    uint64_t before = 0;
    int r;

    if (argc != 4) {
        fprintf(stderr, "usage: %s URL CACHE-DIR TRACE\n", argv[0]);
        qchain_error_destroy(err);
        return 2;
    }
    r = make_env(&env, argv[2], err);
    if (r == 0)
        r = qchain_open(&c, env, argv[1], NULL, err);
    if (r == 0)
        r = access(argv[3], F_OK) == 0 ? replay(c, argv[3], err) : qchain_trace_start(c, argv[3], NULL, err);
    if (r == 0) {
        before = requests(env);
        r = start(c, err);
    }
    if (r == 0)
        printf("started: %" PRIu64 " requests\n", requests(env) - before);
    else
        fprintf(stderr, "11-prefetch: %s\n", qchain_error_message(err));
    qchain_close(c); /* also ends a recording */
    qchain_env_destroy(env);
    qchain_error_destroy(err);
    return r ? 1 : 0;
}
