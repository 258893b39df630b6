/* SPDX-License-Identifier: MIT */
/*
 * 06-remote.c - open a chain from a URL, and see what that took.
 *
 *     06-remote URL [CACHE-DIR]
 *
 * URL is http://, https://, s3://BUCKET/KEY, az://CONTAINER/BLOB or gs://BUCKET/KEY. The layers below lie
 * beside it and are found as those of a file are. With a directory for a cache the second run asks the
 * server for next to nothing.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <qchain.h>

#define MIB (1024 * 1024)

/* Where credentials are not given here, they are looked for where the cloud's own tools do. */
static const char rules[] =
    "stall-timeout 10   # seconds\n"
    "deadline 30\n"
    "cache-size 2G\n";

/* An environment is where chains share connections, caches and settings. */
static int make_env(qchain_env **env, const char *cache_dir, qchain_error *err)
{
    qchain_remote *remote = qchain_remote_create();
    qchain_env_opts opts;
    char rule[512];
    int r = QCHAIN_E_NOMEM;

    *env = NULL;
    if (remote)
        r = qchain_remote_parse(remote, rules, err);
    if (r == 0 && cache_dir) {
        snprintf(rule, sizeof(rule), "cache-dir \"%s\"", cache_dir);
        r = qchain_remote_parse(remote, rule, err);
    }
    if (r == 0) {
        qchain_env_opts_init(&opts, sizeof(opts));
        opts.remote = remote;
        r = qchain_env_create(env, &opts, err);
    }
    qchain_remote_destroy(remote); /* the environment has a copy */
    return r;
}

/* The first bytes of the disk. */
static int read_some(qchain *chain, qchain_error *err)
{
    uint64_t length = qchain_size(chain) < 4 * MIB ? qchain_size(chain) : 4 * MIB;
    void *buf = malloc(4 * MIB);
    int r = buf ? qchain_read(chain, buf, (size_t)length, 0, 0, err) : QCHAIN_E_NOMEM;

    if (r == 0)
        printf("%" PRIu64 " of %" PRIu64 " bytes in %" PRIu32 " layers were read\n", length,
               qchain_size(chain), qchain_layers(chain));
    free(buf);
    return r;
}

static void print_stats(qchain_env *env)
{
    qchain_remote_stats s = {.struct_size = sizeof(s)};

    if (qchain_env_remote_stats(env, &s) != 0)
        return;
    printf("requests     %" PRIu64 " over %" PRIu64 " connections, %" PRIu64 " of them retries\n",
           s.requests, s.connections, s.retries);
    printf("received     %" PRIu64 " bytes\n", s.bytes);
    printf("disk cache   %" PRIu64 " bytes\n", s.disk_bytes);
    printf("first byte   half of the requests had it after %" PRIu64 " us, 99 %% after %" PRIu64 " us\n",
           s.first_byte_p50_us, s.first_byte_p99_us);
}

int main(int argc, char **argv)
{
    qchain_error *err = qchain_error_create();
    qchain_env *env = NULL;
    qchain *chain = NULL;
    int r;

    if (argc < 2) {
        fprintf(stderr, "usage: %s URL [CACHE-DIR]\n", argv[0]);
        qchain_error_destroy(err);
        return 2;
    }
    r = make_env(&env, argc > 2 ? argv[2] : NULL, err);
    if (r == 0)
        r = qchain_open(&chain, env, argv[1], NULL, err);
    if (r == 0)
        r = read_some(chain, err);
    if (r == 0)
        print_stats(env);
    else
        /* The message names the URL without what is secret in it. */
        fprintf(stderr, "%s\n", err ? qchain_error_message(err) : "out of memory");
    qchain_close(chain);
    qchain_env_destroy(env);
    qchain_error_destroy(err);
    return r ? 1 : 0;
}
