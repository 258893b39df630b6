/* SPDX-License-Identifier: MIT */
/* io_aio.c - commands whose requests go on while the shell does. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io.h"

#define FILL 0xcd
#define AT_ONCE 16 /* completions taken by a call */

/* One request that was begun. */
struct io_request {
    struct io_report report;
    struct io_pieces pieces;
    bool writes;
    bool zeroes, unmap, fua;
    int pattern; /* to compare with, or to write; -1: none */
    uint64_t offset;
    uint64_t length; /* of zeros */
    double start;
    /* It could not be begun: told like one that failed, when completions are. */
    struct io_request *next;
    int result;
    char *why;
};

static void free_request(struct io_request *q)
{
    io_pieces_free(&q->pieces);
    free(q->why);
    free(q);
}

/* ------------------------------------------------------------- completion --- */

static void report_read(const struct io_request *q, double seconds)
{
    const struct io_pieces *p = &q->pieces;

    if (q->pattern >= 0 && !io_is_pattern(p->buf, p->bytes, q->pattern))
        printf("Pattern verification failed at offset %" PRIu64 ", %" PRIu64 " bytes\n", q->offset,
               p->bytes);
    if (q->report.quiet)
        return;
    if (q->report.dump)
        io_dump(p->buf, q->offset, p->bytes);
    io_print_report(&q->report, "read", seconds, q->offset, p->bytes);
}

static void request_failed(struct io_shell *sh, const struct io_request *q, int r, const char *why)
{
    printf("%s failed: %s\n", q->writes ? "aio_write" : "readv", strerror(io_errno(sh, r)));
    if (why && r == QCHAIN_E_CORRUPT)
        fprintf(stderr, "%s: %s\n", sh->t->prog, why);
}

static void complete(struct io_shell *sh, const qchain_completion *done)
{
    struct io_request *q = done->user;
    double seconds = io_now() - q->start;

    qchain_error_clear(sh->t->err);
    if (done->result)
        request_failed(sh, q, done->result, done->error);
    else if (!q->writes)
        report_read(q, seconds);
    else if (!q->report.quiet)
        io_print_report(&q->report, "wrote", seconds, q->offset,
                        q->zeroes ? q->length : q->pieces.bytes);
    free_request(q);
}

static bool reap(struct io_shell *sh)
{
    qchain_completion done[AT_ONCE];
    int i, n = qchain_queue_reap(sh->queue, done, 1, AT_ONCE, -1);

    for (i = 0; i < n; i++)
        complete(sh, &done[i]);
    return n > 0;
}

void io_aio_drain(struct io_shell *sh)
{
    struct io_request *q;

    while ((q = sh->refused)) {
        sh->refused = q->next;
        request_failed(sh, q, q->result, q->why);
        free_request(q);
    }
    while (sh->queue && qchain_queue_pending(sh->queue) && reap(sh))
        continue;
}

IO_COMMAND(aio_flush)
{
    (void)cmd;
    (void)argc;
    (void)argv;
    io_aio_drain(sh);
    return 0;
}

/* ------------------------------------------------------------- submission --- */

static int submit_once(struct io_shell *sh, struct io_request *q)
{
    const struct io_pieces *p = &q->pieces;
    uint32_t flags = q->fua ? QCHAIN_REQUEST_FUA : 0;

    if (!q->writes)
        return qchain_queue_readv(sh->queue, p->iov, p->n, q->offset, 0, q, sh->t->err);
    if (q->zeroes)
        return qchain_queue_write_zeroes(sh->queue, q->length, q->offset,
                                         (q->fua ? QCHAIN_WRITE_FUA : 0) |
                                             (q->unmap ? QCHAIN_WRITE_UNMAP : 0),
                                         q, sh->t->err);
    return qchain_queue_writev(sh->queue, p->iov, p->n, q->offset, flags, q, sh->t->err);
}

/* The request is freed when it is done, or told to have failed. A command succeeds once it has begun, and also if
 * it could not: the failure is the request's. */
static void submit(struct io_shell *sh, struct io_request *q)
{
    struct io_request **last = &sh->refused;
    int r = 0;

    if (!sh->queue)
        r = qchain_queue_create(&sh->queue, sh->c, NULL, sh->t->err);
    q->start = io_now();
    if (r == 0)
        r = submit_once(sh, q);
    while (r == QCHAIN_E_BUSY && reap(sh))
        r = submit_once(sh, q);
    if (r == 0)
        return;
    q->result = r;
    q->why = strdup(qchain_error_message(sh->t->err));
    while (*last)
        last = &(*last)->next;
    *last = q;
}

static struct io_request *new_request(int pattern)
{
    struct io_request *q = calloc(1, sizeof(*q));

    if (q)
        q->pattern = pattern;
    else
        printf("%s\n", strerror(ENOMEM));
    return q;
}

/* 1: begin it; else what the command answers. */
static int parse_read(const struct io_command *cmd, int argc, char **argv, struct io_request *q)
{
    int c;

    io_getopt_start();
    while ((c = getopt(argc, argv, "CiP:qv")) != -1) {
        if (c == 'P' && !io_parse_pattern(optarg, &q->pattern))
            return -1;
        if (c == 'i') {
            printf("injecting invalid read request\n");
            return 0;
        }
        if (c == '?')
            return io_usage(cmd);
        q->report.machine |= c == 'C';
        q->report.quiet |= c == 'q';
        q->report.dump |= c == 'v';
    }
    if (optind > argc - 2)
        return io_usage(cmd);
    return io_parse_size(argv[optind], &q->offset) &&
                   io_pieces_make(&q->pieces, argv + optind + 1, argc - optind - 1, 0)
               ? 1
               : -1;
}

IO_COMMAND(aio_read)
{
    struct io_request *q = new_request(-1);
    int r;

    if (!q)
        return -1;
    r = parse_read(cmd, argc, argv, q);
    if (r == 1)
        submit(sh, q);
    else
        free_request(q);
    return r == 1 ? 0 : r;
}

/* The same. */
static int parse_write_options(const struct io_command *cmd, int argc, char **argv,
                               struct io_request *q)
{
    int c;

    io_getopt_start();
    while ((c = getopt(argc, argv, "CfiP:quz")) != -1) {
        if (c == 'P' && !io_parse_pattern(optarg, &q->pattern))
            return -1;
        if (c == 'i') {
            printf("injecting invalid write request\n");
            return 0;
        }
        if (c == '?')
            return io_usage(cmd);
        q->report.machine |= c == 'C';
        q->fua |= c == 'f';
        q->report.quiet |= c == 'q';
        q->unmap |= c == 'u';
        q->zeroes |= c == 'z';
    }
    return optind > argc - 2 ? io_usage(cmd) : 1;
}

static int parse_write(const struct io_command *cmd, int argc, char **argv, struct io_request *q)
{
    int r = parse_write_options(cmd, argc, argv, q);
    const char *what = NULL;

    if (r != 1)
        return r;
    if (q->zeroes && optind != argc - 2)
        what = "-z supports only a single length parameter";
    else if (q->unmap && !q->zeroes)
        what = "-u requires -z to be specified";
    if (what) {
        printf("%s\n", what);
        return -1;
    }
    if (!io_parse_size(argv[optind], &q->offset))
        return -1;
    if (q->zeroes)
        return io_parse_size(argv[optind + 1], &q->length) ? 1 : -1;
    return io_pieces_make(&q->pieces, argv + optind + 1, argc - optind - 1, q->pattern) ? 1 : -1;
}

IO_COMMAND(aio_write)
{
    struct io_request *q = new_request(FILL);
    int r;

    if (!q)
        return -1;
    q->writes = true;
    r = parse_write(cmd, argc, argv, q);
    if (r == 1)
        submit(sh, q);
    else
        free_request(q);
    return r == 1 ? 0 : r;
}
