/* SPDX-License-Identifier: MIT */
/*
 * bench_write [--count N] [--depth N] [--size BYTES] [--step BYTES] [--batch N] [--direct 0|1] [--format F]
 *             [--engine io_uring|threads] [--op write|zero|compressed] [--from FILE] IMAGE
 *
 * Writes to an image as `qemu-img bench -w` does: number i goes to i * step, modulo the disk; `depth` are in
 * flight. Prints seconds until all were done, and until a flush after them. compressed: the bytes of a raw
 * file, from its beginning to its end, one `size` a call, by two callers.
 */
#include <qchain.h>

#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { MAX_DEPTH = 1024, MAX_SIZE = 1 << 24 };

static uint64_t count = 75000, depth = 32, size = 4096, step, batch = 1, direct, no_uring;
static const char *op = "write", *format = "qcow2", *from;
static qchain *chain;

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void die(const char *what, const char *why)
{
    fprintf(stderr, "bench_write: %s: %s\n", what, why);
    exit(1);
}

static unsigned reap(qchain_queue *q, void **idle, unsigned n_idle)
{
    qchain_completion done[MAX_DEPTH];
    int n = qchain_queue_reap(q, done, 1, MAX_DEPTH, -1);

    for (int i = 0; i < n; i++) {
        if (done[i].result != 0)
            die("write", done[i].error);
        idle[n_idle++] = done[i].user;
    }
    return n_idle;
}

static void submit(qchain_queue *q, void *buf, uint64_t offset, int more, qchain_error *err)
{
    int ret;

    if (strcmp(op, "zero") == 0)
        ret = qchain_queue_write_zeroes(q, size, offset, 0, buf, err);
    else
        ret = qchain_queue_write(q, buf, size, offset, more ? QCHAIN_REQUEST_MORE : 0, buf, err);
    if (ret != 0)
        die("submit", qchain_error_message(err));
}

static void queue_writes(qchain_error *err)
{
    void *idle[MAX_DEPTH];
    unsigned n_idle = (unsigned)depth;
    uint64_t disk = qchain_size(chain), offset = 0;
    qchain_queue_opts o;
    qchain_queue *q;

    qchain_queue_opts_init(&o, sizeof(o));
    o.depth = (uint32_t)depth;
    o.flags = no_uring ? QCHAIN_QUEUE_NO_URING : 0;
    if (qchain_queue_create(&q, chain, &o, err) != 0)
        die("queue", qchain_error_message(err));
    for (unsigned k = 0; k < depth; k++) {
        if (posix_memalign(&idle[k], 4096, size) != 0)
            die("buffers", "no memory");
        memset(idle[k], 0x5a, size);
    }
    for (uint64_t i = 0; i < count || n_idle < depth;) {
        for (uint64_t n = 0; i < count && n_idle > 0; i++, n++) {
            n_idle--;
            submit(q, idle[n_idle], offset, n % batch != batch - 1 && n_idle > 0 && i + 1 < count, err);
            offset += step;
            if (offset + size > disk)
                offset = disk <= step ? 0 : offset % disk + size > disk ? 0 : offset % disk;
        }
        n_idle = reap(q, idle, n_idle);
    }
    qchain_queue_destroy(q);
    for (unsigned k = 0; k < depth; k++)
        free(idle[k]);
}

/* What the writers of compressed clusters share. */
static struct {
    pthread_mutex_t lock;
    int             fd;
    uint64_t        next;
} input = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* The next piece is taken by whoever is free: while one reads, the other's is compressed. */
static void *compressed_writer(void *unused)
{
    qchain_error *err = qchain_error_create();
    char *buf = malloc(size);
    uint64_t offset;
    ssize_t n;

    (void)unused;
    if (!buf)
        die("buffers", "no memory");
    for (;;) {
        pthread_mutex_lock(&input.lock);
        offset = input.next;
        input.next += size;
        pthread_mutex_unlock(&input.lock);
        n = pread(input.fd, buf, size, (off_t)offset);
        if (n <= 0)
            break;
        if (qchain_write_compressed(chain, buf, (size_t)n, offset, 0, err) != 0)
            die("write", qchain_error_message(err));
    }
    free(buf);
    qchain_error_destroy(err);
    return NULL;
}

static void compressed_writes(void)
{
    pthread_t other;

    input.fd = open(from ? from : "", O_RDONLY | O_CLOEXEC);
    if (input.fd < 0)
        die("--from", "cannot be read");
    if (pthread_create(&other, NULL, compressed_writer, NULL) != 0)
        die("threads", "cannot be started");
    compressed_writer(NULL);
    pthread_join(other, NULL);
    close(input.fd);
}

static int set_option(const char *name, const char *value)
{
    static const struct {
        const char *name;
        uint64_t   *to;
    } number[] = {{"--count", &count}, {"--depth", &depth}, {"--size", &size}, {"--step", &step},
                  {"--batch", &batch}, {"--direct", &direct}};

    for (size_t i = 0; i < sizeof(number) / sizeof(number[0]); i++) {
        if (strcmp(name, number[i].name) == 0) {
            *number[i].to = strtoull(value, NULL, 10);
            return 0;
        }
    }
    if (strcmp(name, "--engine") == 0)
        no_uring = strcmp(value, "threads") == 0;
    else if (strcmp(name, "--op") == 0)
        op = value;
    else if (strcmp(name, "--format") == 0)
        format = value;
    else if (strcmp(name, "--from") == 0)
        from = value;
    else
        return -1;
    return 0;
}

int main(int argc, char **argv)
{
    qchain_error *err = qchain_error_create();
    double begin, written, flushed;
    qchain_open_opts o;
    int i;

    for (i = 1; i + 1 < argc && strncmp(argv[i], "--", 2) == 0; i += 2)
        if (set_option(argv[i], argv[i + 1]) != 0)
            break;
    if (i != argc - 1 || depth < 1 || depth > MAX_DEPTH || size < 1 || size > MAX_SIZE || batch < 1) {
        fprintf(stderr, "usage: bench_write [options] IMAGE\n");
        return 2;
    }
    step = step ? step : size;
    qchain_open_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_OPEN_WRITE | (direct ? QCHAIN_OPEN_DIRECT : 0);
    o.format = format;
    if (qchain_open(&chain, NULL, argv[i], &o, err) != 0)
        die("open", qchain_error_message(err));
    begin = now();
    if (strcmp(op, "compressed") == 0)
        compressed_writes();
    else
        queue_writes(err);
    written = now();
    if (qchain_flush(chain, err) != 0)
        die("flush", qchain_error_message(err));
    flushed = now();
    printf("{\"count\": %llu, \"seconds\": %.6f, \"with_flush\": %.6f}\n", (unsigned long long)count,
           written - begin, flushed - begin);
    if (qchain_finish(chain, err) != 0)
        die("finish", qchain_error_message(err));
    qchain_close(chain);
    qchain_error_destroy(err);
    return 0;
}
