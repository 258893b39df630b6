/* SPDX-License-Identifier: MIT */
/*
 * bench_seq [--threads N] [--block BYTES] TOP - a sequential read of a chain through the library.
 *
 * Copies the whole disk, but for what reads as zeros, to a sink that does nothing; prints bytes
 * and seconds, and whether the library can inflate with libdeflate.
 */
#include <qchain.h>

#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int count_bytes(void *data, const void *buf, size_t length, uint64_t offset,
                       qchain_error *err)
{
    (void)buf, (void)offset, (void)err;
    atomic_fetch_add_explicit((_Atomic uint64_t *)data, length, memory_order_relaxed);
    return 0;
}

static int copy(const char *top, qchain_copy_opts *opts, qchain_error *err)
{
    _Atomic uint64_t bytes = 0;
    qchain_sink sink = { .struct_size = sizeof(sink), .write = count_bytes, .data = &bytes };
    qchain *chain = NULL;
    double begin = now();
    int rc = qchain_open(&chain, NULL, top, NULL, err);

    if (rc == 0)
        rc = qchain_copy_out(chain, &sink, opts, err);
    qchain_close(chain);
    if (rc == 0)
        printf("{\"bytes\": %" PRIu64 ", \"seconds\": %.6f, \"libdeflate\": %d}\n",
               (uint64_t)bytes, now() - begin, qchain_has("libdeflate"));
    return rc;
}

int main(int argc, char **argv)
{
    qchain_error *err = qchain_error_create();
    qchain_copy_opts opts;
    struct rlimit limit;
    int i, rc;

    qchain_copy_opts_init(&opts, sizeof(opts));
    opts.flags = QCHAIN_COPY_NO_ZEROS;
    for (i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--threads") == 0)
            opts.threads = (uint32_t)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--block") == 0)
            opts.chunk_bytes = strtoull(argv[i + 1], NULL, 10);
        else
            break;
    }
    if (i != argc - 1) {
        fprintf(stderr, "usage: bench_seq [--threads N] [--block BYTES] TOP\n");
        return 2;
    }
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
    rc = copy(argv[i], &opts, err);
    if (rc != 0)
        fprintf(stderr, "bench_seq: %s\n", qchain_error_message(err));
    qchain_error_destroy(err);
    return rc != 0;
}
