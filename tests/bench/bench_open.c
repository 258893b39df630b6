/* SPDX-License-Identifier: MIT */
/*
 * bench_open TOP - open a chain and close it; prints the seconds of either and the peak memory.
 */
#include <qchain.h>

#include <stdio.h>
#include <sys/resource.h>
#include <time.h>

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

int main(int argc, char **argv)
{
    qchain_error *err = qchain_error_create();
    qchain *chain = NULL;
    struct rusage usage;
    double begin, opened, closed;
    unsigned layers;

    if (argc != 2) {
        fprintf(stderr, "usage: bench_open TOP\n");
        return 2;
    }
    begin = now();
    if (qchain_open(&chain, NULL, argv[1], NULL, err) != 0) {
        fprintf(stderr, "bench_open: %s\n", qchain_error_message(err));
        qchain_error_destroy(err);
        return 1;
    }
    opened = now();
    layers = qchain_layers(chain);
    qchain_close(chain);
    closed = now();
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"seconds\": %.6f, \"close_seconds\": %.6f, \"layers\": %u, \"rss_kib\": %ld}\n",
           opened - begin, closed - opened, layers, usage.ru_maxrss);
    qchain_error_destroy(err);
    return 0;
}
