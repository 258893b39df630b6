/* SPDX-License-Identifier: MIT */
/*
 * 09-queue-write.c - write with many requests under way, and make that durable.
 *
 *     09-queue-write IMG LENGTH <FILE
 *
 * writes LENGTH bytes of standard input to the beginning of the disk, in pieces that complete in any order.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include <qchain.h>

enum { IN_FLIGHT = 16, CHUNK = 65536 };

/* One write: its buffer is the library's from its submission until it is reaped. */
struct request {
    struct request *next_free;
    unsigned char buf[CHUNK];
};

static struct request requests[IN_FLIGHT], *unused;
static uint64_t written;

/* Wait for one request at least; how many ended, negative if one failed. */
static int reap(qchain_queue *q, uint32_t min)
{
    qchain_completion ended[IN_FLIGHT];
    int n = qchain_queue_reap(q, ended, min, IN_FLIGHT, -1), failed = 0;

    for (int i = 0; i < n; i++) {
        struct request *r = ended[i].user;

        if (ended[i].result != 0) {
            fprintf(stderr, "09-queue-write: %s\n", ended[i].error);
            failed = 1;
        }
        if (r) { /* a flush has none */
            r->next_free = unused;
            unused = r;
        }
    }
    return failed ? -1 : n;
}

static int write_all(qchain_queue *q, uint64_t length, qchain_error *err)
{
    for (uint64_t at = 0; at < length;) {
        size_t n = length - at < CHUNK ? (size_t)(length - at) : CHUNK;
        struct request *r = unused;
        int last = at + n == length;

        if (!r) {
            if (reap(q, 1) < 0)
                return -1;
            continue;
        }
        if (fread(r->buf, 1, n, stdin) != n) {
            fprintf(stderr, "09-queue-write: standard input ends after %" PRIu64 " bytes\n", at);
            return -1;
        }
        unused = r->next_free;
        /* MORE: others follow at once, so that several go to the kernel together. */
        if (qchain_queue_write(q, r->buf, n, at, last ? 0 : QCHAIN_REQUEST_MORE, r, err) != 0) {
            fprintf(stderr, "09-queue-write: %s\n", qchain_error_message(err));
            return -1;
        }
        at += n;
        written += n;
    }
    while (qchain_queue_pending(q) > 0)
        if (reap(q, 1) < 0)
            return -1;
    /* A flush is about what has completed; what is under way may be in it or not. */
    if (qchain_queue_flush(q, NULL, err) != 0 || reap(q, 1) < 0)
        return -1;
    return 0;
}

int main(int argc, char **argv)
{
    qchain_error *err = qchain_error_create();
    qchain_queue *q = NULL;
    qchain_open_opts opts;
    qchain *c = NULL;
    int failed;

    if (argc != 3) {
        fprintf(stderr, "usage: %s IMG LENGTH <FILE\n", argv[0]);
        qchain_error_destroy(err);
        return 2;
    }
    for (int i = 0; i < IN_FLIGHT; i++)
        requests[i].next_free = i ? &requests[i - 1] : NULL;
    unused = &requests[IN_FLIGHT - 1];
    qchain_open_opts_init(&opts, sizeof(opts));
    opts.flags = QCHAIN_OPEN_WRITE;
    failed = qchain_open(&c, NULL, argv[1], &opts, err) != 0 || qchain_queue_create(&q, c, NULL, err) != 0;
    if (failed)
        fprintf(stderr, "09-queue-write: %s\n", qchain_error_message(err));
    else
        failed = write_all(q, strtoull(argv[2], NULL, 0), err) != 0;
    qchain_queue_destroy(q); /* before the chain is finished: what is under way ends here */
    if (!failed && qchain_finish(c, err) != 0) {
        fprintf(stderr, "09-queue-write: %s\n", qchain_error_message(err));
        failed = 1;
    }
    if (!failed)
        printf("%" PRIu64 " bytes are on the medium\n", written);
    qchain_close(c);
    qchain_error_destroy(err);
    return failed;
}
