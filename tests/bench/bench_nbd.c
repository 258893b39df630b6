/* SPDX-License-Identifier: MIT */
/*
 * bench_nbd [--depth N] [--reads N] [--size BYTES] URI - random reads of what an NBD server exports.
 *
 * One connection, one thread; `depth` reads of `size` bytes are in flight, at places that are the same in every run of
 * one disk size. A sixteenth of the reads goes ahead untimed. Prints JSON: seconds, reads a second, and the sum of the
 * first eight bytes of each timed read, which is the same for servers of the same disk.
 */
#include <libnbd.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_DEPTH = 1024 };

struct slot {
    unsigned char *buffer;
};

static unsigned depth = 32;
static uint64_t reads = 100000, size = 4096, n_places, random_state = 1, sum;
static struct nbd_handle *nbd;
static struct slot slots[MAX_DEPTH];
static unsigned ready[MAX_DEPTH], n_ready; /* slots whose read has ended */

static void die(const char *why)
{
    fprintf(stderr, "bench_nbd: %s\n", why);
    exit(1);
}

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* splitmix64 */
static uint64_t next_random(void)
{
    uint64_t z = random_state += 0x9e3779b97f4a7c15u;

    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static int on_done(void *data, int *error)
{
    struct slot *s = data;

    if (*error)
        die("a read failed");
    ready[n_ready++] = (unsigned)(s - slots);
    return 1;
}

static void submit(struct slot *s)
{
    nbd_completion_callback done = {.callback = on_done, .user_data = s};

    if (nbd_aio_pread(nbd, s->buffer, size, next_random() % n_places * size, done, 0) < 0)
        die(nbd_get_error());
}

/* So many reads from beginning to end. */
static void run(uint64_t count)
{
    uint64_t begun = 0, ended = 0, first;
    unsigned i, n, taken[MAX_DEPTH];

    for (; begun < depth && begun < count; begun++)
        submit(&slots[begun]);
    while (ended < count) {
        if (n_ready == 0 && nbd_poll(nbd, -1) < 0)
            die(nbd_get_error());
        n = n_ready;
        memcpy(taken, ready, n * sizeof(*ready));
        n_ready = 0;
        for (i = 0; i < n; i++) {
            memcpy(&first, slots[taken[i]].buffer, sizeof(first));
            sum += first;
            ended++;
            if (begun < count) {
                submit(&slots[taken[i]]);
                begun++;
            }
        }
    }
}

int main(int argc, char **argv)
{
    double begin;
    int i;

    for (i = 1; i + 2 < argc; i += 2) {
        if (strcmp(argv[i], "--depth") == 0)
            depth = (unsigned)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--reads") == 0)
            reads = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--size") == 0)
            size = strtoull(argv[i + 1], NULL, 10);
        else
            die("unknown option");
    }
    if (i + 1 != argc || depth == 0 || depth > MAX_DEPTH || size < sizeof(uint64_t))
        die("usage: bench_nbd [--depth N] [--reads N] [--size BYTES] URI");
    nbd = nbd_create();
    if (!nbd || nbd_connect_uri(nbd, argv[i]) != 0)
        die(nbd_get_error());
    n_places = (uint64_t)nbd_get_size(nbd) / size;
    for (i = 0; i < (int)depth; i++)
        if (n_places == 0 || !(slots[i].buffer = malloc(size)))
            die("no memory, or an empty disk");
    run(reads / 16);
    sum = 0;
    begin = now();
    run(reads);
    begin = now() - begin;
    printf("{\"seconds\": %.6f, \"reads_per_second\": %.1f, \"sum\": %" PRIu64 "}\n", begin, (double)reads / begin, sum);
    nbd_close(nbd);
    return 0;
}
