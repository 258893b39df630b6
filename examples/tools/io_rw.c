/* SPDX-License-Identifier: MIT */
/* io_rw.c - commands that read and write while the shell waits. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "io.h"

#define FILL 0xcd /* what is written without a pattern */

/* -------------------------------------------------------------------- range --- */

/* "offset length"; what behind "cannot exceed" says how more may be had. */
static bool parse_range(char **argv, bool any_length, const char *what, uint64_t *offset,
                        uint64_t *length)
{
    if (!io_parse_size(argv[0], offset) || !io_parse_size(argv[1], length))
        return false;
    if (*length > IO_MAX_BYTES && !any_length) {
        printf("length cannot exceed %" PRIu64 "%s, given %s\n", IO_MAX_BYTES, what, argv[1]);
        return false;
    }
    return true;
}

static bool whole_sectors(uint64_t offset, uint64_t length)
{
    bool at_offset = offset % IO_SECTOR != 0;

    if (!at_offset && length % IO_SECTOR == 0)
        return true;
    printf("%" PRIu64 " is not a sector-aligned value for '%s'\n", at_offset ? offset : length,
           at_offset ? "offset" : "count");
    return false;
}

/* --------------------------------------------------------------------- read --- */

struct read_request {
    struct io_report report;
    bool vmstate;
    bool verify, has_length, has_offset;
    int pattern;
    uint64_t offset, length;
    uint64_t verify_offset, verify_length;
};

/* 1: go on; else what the command answers. */
static int parse_read(const struct io_command *cmd, int argc, char **argv, struct read_request *q)
{
    int c;

    io_getopt_start();
    while ((c = getopt(argc, argv, "bCl:pP:qs:v")) != -1) {
        switch (c) {
        case 'b':
            q->vmstate = true;
            break;
        case 'C':
            q->report.machine = true;
            break;
        case 'l':
            q->has_length = true;
            if (!io_parse_size(optarg, &q->verify_length))
                return -1;
            break;
        case 'p':
            break; /* the only way there is */
        case 'P':
            q->verify = true;
            if (!io_parse_pattern(optarg, &q->pattern))
                return -1;
            break;
        case 'q':
            q->report.quiet = true;
            break;
        case 's':
            q->has_offset = true;
            if (!io_parse_size(optarg, &q->verify_offset))
                return -1;
            break;
        case 'v':
            q->report.dump = true;
            break;
        default:
            return io_usage(cmd);
        }
    }
    return optind == argc - 2 ? 1 : io_usage(cmd);
}

/* What of the request's bytes is compared. */
static bool verify_range(struct read_request *q)
{
    if (!q->has_length && q->verify_offset <= q->length)
        q->verify_length = q->length - q->verify_offset;
    if (q->verify_offset <= q->length && q->verify_length <= q->length - q->verify_offset)
        return true;
    printf("pattern verification range exceeds end of read data\n");
    return false;
}

static int read_and_report(struct io_shell *sh, const struct read_request *q, unsigned char *buf)
{
    double start = io_now(), seconds;
    int r, result = 0;

    if (q->vmstate)
        r = qchain_vmstate_read(sh->c, buf, (size_t)q->length, q->offset, sh->t->err);
    else
        r = qchain_read(sh->c, buf, (size_t)q->length, q->offset, 0, sh->t->err);
    seconds = io_now() - start;
    if (r)
        return io_failed(sh, "read", r);
    if (q->verify && !io_is_pattern(buf + q->verify_offset, q->verify_length, q->pattern)) {
        printf("Pattern verification failed at offset %" PRIu64 ", %" PRIu64 " bytes\n",
               q->offset + q->verify_offset, q->verify_length);
        result = -1;
    }
    if (q->report.quiet)
        return result;
    if (q->report.dump)
        io_dump(buf, q->offset, q->length);
    io_print_report(&q->report, "read", seconds, q->offset, q->length);
    return result;
}

IO_COMMAND(read)
{
    struct read_request q = {0};
    unsigned char *buf;
    int r = parse_read(cmd, argc, argv, &q);

    if (r != 1)
        return r;
    if (!parse_range(argv + optind, false, "", &q.offset, &q.length))
        return -1;
    if (!q.verify && (q.has_length || q.has_offset))
        return io_usage(cmd);
    if (!verify_range(&q) || (q.vmstate && !whole_sectors(q.offset, q.length)))
        return -1;
    buf = io_buffer(q.length, 0);
    if (!buf)
        return -1;
    r = read_and_report(sh, &q, buf);
    free(buf);
    return r;
}

static int readv_and_report(struct io_shell *sh, const struct io_report *report,
                            const struct io_pieces *p, uint64_t offset, int pattern)
{
    double start = io_now(), seconds;
    int r = qchain_readv(sh->c, p->iov, p->n, offset, 0, sh->t->err), result = 0;

    seconds = io_now() - start;
    if (r)
        return io_failed(sh, "readv", r);
    if (pattern >= 0 && !io_is_pattern(p->buf, p->bytes, pattern)) {
        printf("Pattern verification failed at offset %" PRIu64 ", %" PRIu64 " bytes\n", offset,
               p->bytes);
        result = -1;
    }
    if (report->quiet)
        return result;
    if (report->dump)
        io_dump(p->buf, offset, p->bytes);
    io_print_report(report, "read", seconds, offset, p->bytes);
    return result;
}

IO_COMMAND(readv)
{
    struct io_report report = {0};
    struct io_pieces p;
    uint64_t offset;
    int c, r, pattern = -1;

    io_getopt_start();
    while ((c = getopt(argc, argv, "CP:qv")) != -1) {
        if (c == 'P' && !io_parse_pattern(optarg, &pattern))
            return -1;
        if (c == '?')
            return io_usage(cmd);
        report.machine |= c == 'C';
        report.quiet |= c == 'q';
        report.dump |= c == 'v';
    }
    if (optind > argc - 2)
        return io_usage(cmd);
    if (!io_parse_size(argv[optind], &offset) ||
        !io_pieces_make(&p, argv + optind + 1, argc - optind - 1, 0))
        return -1;
    r = readv_and_report(sh, &report, &p, offset, pattern);
    io_pieces_free(&p);
    return r;
}

/* -------------------------------------------------------------------- write --- */

struct write_request {
    struct io_report report;
    bool vmstate, compressed, fua, no_fallback, zeroes, unmap;
    bool has_pattern;
    const char *source;
    int pattern;
    uint64_t offset, length;
};

static int parse_write(const struct io_command *cmd, int argc, char **argv, struct write_request *q)
{
    int c;

    q->pattern = FILL;
    io_getopt_start();
    while ((c = getopt(argc, argv, "bcCfnpP:qs:uz")) != -1) {
        if (c == 'P' && !io_parse_pattern(optarg, &q->pattern))
            return -1;
        if (c == '?')
            return io_usage(cmd);
        if (c == 's')
            q->source = optarg;
        q->has_pattern |= c == 'P';
        q->vmstate |= c == 'b';
        q->compressed |= c == 'c';
        q->report.machine |= c == 'C';
        q->fua |= c == 'f';
        q->no_fallback |= c == 'n';
        q->report.quiet |= c == 'q';
        q->unmap |= c == 'u';
        q->zeroes |= c == 'z';
    }
    return optind == argc - 2 ? 1 : io_usage(cmd);
}

/* Options that do not go together. */
static bool check_write(const struct write_request *q)
{
    const char *what = NULL;

    if (q->vmstate && q->zeroes)
        what = "-b and -z cannot be specified at the same time";
    else if (q->fua && (q->vmstate || q->compressed))
        what = "-f and -b or -c cannot be specified at the same time";
    else if (q->no_fallback && !q->zeroes)
        what = "-n requires -z to be specified";
    else if (q->unmap && !q->zeroes)
        what = "-u requires -z to be specified";
    else if (q->zeroes + q->has_pattern + (q->source != NULL) > 1)
        what = "Only one of -z, -P, and -s can be specified at the same time";
    if (what)
        printf("%s\n", what);
    return !what;
}

/* A disk whose format was found by looking must not be made to look like qcow2: magic and version. */
static bool guarded(const struct io_shell *sh, const unsigned char *buf, uint64_t offset,
                    uint64_t length)
{
    unsigned char head[8];

    if (!sh->guard || offset >= sizeof(head) || !length)
        return false;
    if (qchain_read(sh->c, head, sizeof(head), 0, 0, NULL) != 0)
        return true;
    if (length > sizeof(head) - offset)
        length = sizeof(head) - offset;
    memcpy(head + offset, buf, (size_t)length);
    return memcmp(head, "QFI\xfb", 4) == 0 && (head[4] || head[5] || head[6] || head[7] >= 2);
}

static int write_bytes(struct io_shell *sh, const struct write_request *q, const unsigned char *buf)
{
    uint32_t flags = q->fua ? QCHAIN_WRITE_FUA : 0;
    size_t n = (size_t)q->length;

    if (q->vmstate)
        return qchain_vmstate_write(sh->c, buf, n, q->offset, sh->t->err);
    if (q->zeroes)
        return qchain_write_zeroes(sh->c, q->length, q->offset,
                                   flags | (q->unmap ? QCHAIN_WRITE_UNMAP : 0), sh->t->err);
    if (q->compressed)
        return qchain_write_compressed(sh->c, buf, n, q->offset, 0, sh->t->err);
    return qchain_write(sh->c, buf, n, q->offset, flags, sh->t->err);
}

static int write_and_report(struct io_shell *sh, const struct write_request *q,
                            const unsigned char *buf)
{
    double start = io_now(), seconds;
    int r;

    if (buf && !q->vmstate && guarded(sh, buf, q->offset, q->length)) {
        printf("write failed: %s\n", strerror(EPERM));
        return -1;
    }
    r = write_bytes(sh, q, buf);
    seconds = io_now() - start;
    if (r)
        return io_failed(sh, "write", r);
    if (!q->report.quiet)
        io_print_report(&q->report, "wrote", seconds, q->offset, q->length);
    return 0;
}

IO_COMMAND(write)
{
    struct write_request q = {0};
    unsigned char *buf = NULL;
    int r = parse_write(cmd, argc, argv, &q);

    if (r != 1)
        return r;
    if (!check_write(&q) ||
        !parse_range(argv + optind, q.no_fallback, " without -n", &q.offset, &q.length))
        return -1;
    if ((q.vmstate || q.compressed) && !whole_sectors(q.offset, q.length))
        return -1;
    if (!q.zeroes) {
        buf = q.source ? io_buffer_from(q.source, q.length) : io_buffer(q.length, q.pattern);
        if (!buf)
            return -1;
    }
    r = write_and_report(sh, &q, buf);
    free(buf);
    return r;
}

static int writev_and_report(struct io_shell *sh, const struct io_report *report,
                             const struct io_pieces *p, uint64_t offset, uint32_t flags)
{
    double start = io_now(), seconds;
    int r;

    if (guarded(sh, p->buf, offset, p->bytes)) {
        printf("writev failed: %s\n", strerror(EPERM));
        return -1;
    }
    r = qchain_writev(sh->c, p->iov, p->n, offset, flags, sh->t->err);
    seconds = io_now() - start;
    if (r)
        return io_failed(sh, "writev", r);
    if (!report->quiet)
        io_print_report(report, "wrote", seconds, offset, p->bytes);
    return 0;
}

IO_COMMAND(writev)
{
    struct io_report report = {0};
    struct io_pieces p;
    uint32_t flags = 0;
    uint64_t offset;
    int c, r, pattern = FILL;

    io_getopt_start();
    while ((c = getopt(argc, argv, "CfqP:")) != -1) {
        if (c == 'P' && !io_parse_pattern(optarg, &pattern))
            return -1;
        if (c == '?')
            return io_usage(cmd);
        if (c == 'f')
            flags = QCHAIN_WRITE_FUA;
        report.machine |= c == 'C';
        report.quiet |= c == 'q';
    }
    if (optind > argc - 2)
        return io_usage(cmd);
    if (!io_parse_size(argv[optind], &offset) ||
        !io_pieces_make(&p, argv + optind + 1, argc - optind - 1, pattern))
        return -1;
    r = writev_and_report(sh, &report, &p, offset, flags);
    io_pieces_free(&p);
    return r;
}

/* ------------------------------------------------------------------ discard --- */

IO_COMMAND(discard)
{
    struct io_report report = {0};
    uint64_t offset, length, size = qchain_size(sh->c);
    double start, seconds;
    int c, r;

    io_getopt_start();
    while ((c = getopt(argc, argv, "Cq")) != -1) {
        if (c == '?')
            return io_usage(cmd);
        report.machine |= c == 'C';
        report.quiet |= c == 'q';
    }
    if (optind != argc - 2)
        return io_usage(cmd);
    if (!parse_range(argv + optind, false, "", &offset, &length))
        return -1;
    start = io_now();
    if (sh->how.ignore_discard)
        r = offset > size || length > size - offset ? QCHAIN_E_RANGE : 0;
    else
        r = qchain_discard(sh->c, length, offset, 0, sh->t->err);
    seconds = io_now() - start;
    if (r)
        return io_failed(sh, "discard", r);
    if (!report.quiet)
        io_print_report(&report, "discard", seconds, offset, length);
    return 0;
}
