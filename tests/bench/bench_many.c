/* SPDX-License-Identifier: MIT */
/*
 * bench_many RULES READS NAME... - many disks open in one process.
 *
 * Opens every NAME (paths or URLs) in one environment, reads 4 KiB at READS random places of each, and
 * prints JSON: disks, layers, seconds, requests, and the resident memory when all are open, and after
 * the reads, less what the process had before. RULES: text for qchain_remote_parse, or "".
 */
#include <qchain.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static qchain_error *err;

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what)
{
    fprintf(stderr, "bench_many: %s: %s\n", what, qchain_error_message(err));
    exit(1);
}

static long rss_kib(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "re");

    if (!f || fscanf(f, "%*d %ld", &pages) != 1)
        pages = 0;
    if (f)
        fclose(f);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static void read_some(qchain *c, unsigned n, uint64_t *seed)
{
    unsigned char buf[4096];

    while (n--) {
        uint64_t at;

        *seed = *seed * 6364136223846793005u + 1442695040888963407u;
        at = (*seed >> 11) % (qchain_size(c) / sizeof(buf)) * sizeof(buf);
        if (qchain_read(c, buf, sizeof(buf), at, 0, err) != 0)
            die("read");
    }
}

int main(int argc, char **argv)
{
    qchain_remote_stats s = { .struct_size = sizeof(s) };
    qchain_remote *remote = qchain_remote_create();
    uint64_t seed = 1, layers = 0;
    qchain **chains;
    qchain_env_opts o;
    qchain_env *env;
    long before, open_rss, rss;
    double begin, opened;
    int n = argc - 3;

    err = qchain_error_create();
    if (n < 1) {
        fprintf(stderr, "usage: bench_many RULES READS NAME...\n");
        return 2;
    }
    chains = calloc((size_t)n, sizeof(*chains));
    if (!chains || qchain_remote_parse(remote, argv[1], err) != 0)
        die(argv[1]);
    before = rss_kib();
    begin = now();
    qchain_env_opts_init(&o, sizeof(o));
    o.remote = remote;
    if (qchain_env_create(&env, &o, err) != 0)
        die("environment");
    for (int i = 0; i < n; i++) {
        if (qchain_open(&chains[i], env, argv[3 + i], NULL, err) != 0)
            die("open");
        layers += qchain_layers(chains[i]);
    }
    opened = now();
    open_rss = rss_kib();
    for (int i = 0; i < n; i++)
        read_some(chains[i], (unsigned)atoi(argv[2]), &seed);
    rss = rss_kib();
    qchain_env_remote_stats(env, &s);
    printf("{\"disks\": %d, \"layers\": %lu, \"open_seconds\": %.3f, \"read_seconds\": %.3f, "
           "\"requests\": %lu, \"open_rss_kib\": %ld, \"rss_kib\": %ld}\n", n, layers, opened - begin,
           now() - opened, s.requests, open_rss - before, rss - before);
    for (int i = 0; i < n; i++)
        qchain_close(chains[i]);
    qchain_env_destroy(env);
    qchain_remote_destroy(remote);
    qchain_error_destroy(err);
    free(chains);
    return 0;
}
