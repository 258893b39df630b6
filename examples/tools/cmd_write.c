/* SPDX-License-Identifier: MIT */
/* cmd_write.c - write the bytes of a file or pipe, or zeros, into an image. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tool.h"

#define CHUNK (2 * 1024 * 1024)

enum { OPT_OFFSET = TOOL_OPT_BASE, OPT_LENGTH, OPT_ZEROES };

static const struct option write_options[] = {
    {"format", required_argument, NULL, 'f'},
    {"cache", required_argument, NULL, 't'},
    {"offset", required_argument, NULL, OPT_OFFSET},
    {"length", required_argument, NULL, OPT_LENGTH},
    {"zeroes", no_argument, NULL, OPT_ZEROES},
    {NULL, 0, NULL, 0},
};

struct write_args {
    const char *name;
    const char *source; /* "-": standard input */
    uint64_t offset;
    uint64_t length;
    uint32_t flags; /* QCHAIN_OPEN_* */
    bool has_length;
    bool zeroes;
};

/* ----------------------------------------------------------------- options --- */

static int parse_option(struct tool *t, int c, struct write_args *a)
{
    switch (c) {
    case 'f':
        t->format = optarg;
        return 0;
    case 't':
        if (program_set_cache(optarg, &a->flags))
            return 0;
        tool_complain(t, "Invalid cache option: %s", optarg);
        return -1;
    case OPT_OFFSET:
        return tool_parse_size(t, "offset", optarg, &a->offset) ? 0 : -1;
    case OPT_LENGTH:
        a->has_length = true;
        return tool_parse_size(t, "length", optarg, &a->length) ? 0 : -1;
    default:
        a->zeroes = true;
        return 0;
    }
}

/* 0, or TOOL_STOP with t->status. */
static int parse_args(struct tool *t, int argc, char **argv, struct write_args *a)
{
    int c, n;

    while ((c = tool_getopt(t, argc, argv, "f:t:", write_options)) != TOOL_END) {
        if (c == TOOL_STOP)
            return TOOL_STOP;
        t->status = t->verb->usage_exit;
        if (parse_option(t, c, a) != 0)
            return TOOL_STOP;
    }
    n = argc - optind;
    t->status = t->verb->usage_exit;
    if (a->zeroes && (!a->has_length || n != 1)) {
        tool_usage_error(t, "--zeroes needs --length and nothing to read");
        return TOOL_STOP;
    }
    if (n < 1 || n > 2) {
        tool_usage_error(t, "Expecting an image and at most one file to read");
        return TOOL_STOP;
    }
    a->name = argv[optind];
    a->source = n > 1 ? argv[optind + 1] : "-";
    return 0;
}

/* ----------------------------------------------------------------- copying --- */

struct write_job {
    struct tool *t;
    const struct write_args *a;
    qchain *c;
    int fd;
    bool regular;
    char *buf;
};

/* 0, or 1 after a complaint. */
static int check_range(const struct write_job *w, uint64_t length)
{
    uint64_t size = qchain_size(w->c);

    if (w->a->offset <= size && length <= size - w->a->offset)
        return 0;
    tool_complain(w->t, "%s: what is to be written ends beyond the disk, which has %" PRIu64 " bytes",
                  tool_shown_name(w->t, w->a->name), size);
    return 1;
}

static int failed(const struct write_job *w)
{
    tool_complain_error(w->t);
    return 1;
}

static int read_failed(const struct write_job *w)
{
    tool_complain(w->t, "%s: %s", w->a->source, strerror(errno));
    return 1;
}

/* Fill the buffer as far as the input goes; -1 with errno. */
static ssize_t read_chunk(const struct write_job *w, size_t most)
{
    size_t have = 0;

    while (have < most) {
        ssize_t n = read(w->fd, w->buf + have, most - have);

        if (n < 0 && errno != EINTR)
            return -1;
        if (n == 0)
            break;
        if (n > 0)
            have += (size_t)n;
    }
    return (ssize_t)have;
}

/* A hole at the place where the file stands becomes zeros that need no reading. *length receives how
 * long it is, 0 for none. */
static int copy_hole(const struct write_job *w, uint64_t at, uint64_t left, uint64_t *length)
{
    off_t here, data;
    struct stat st;

    *length = 0;
    if (!w->regular || (here = lseek(w->fd, 0, SEEK_CUR)) < 0)
        return 0;
    data = lseek(w->fd, here, SEEK_DATA);
    if (data < 0 && errno == ENXIO && fstat(w->fd, &st) == 0)
        data = st.st_size;
    if (data > here)
        *length = (uint64_t)(data - here) < left ? (uint64_t)(data - here) : left;
    if (lseek(w->fd, here + (off_t)*length, SEEK_SET) < 0)
        return read_failed(w);
    if (*length && check_range(w, at + *length) != 0)
        return 1;
    if (*length && qchain_write_zeroes(w->c, *length, w->a->offset + at, 0, w->t->err) != 0)
        return failed(w);
    return 0;
}

static int copy(const struct write_job *w)
{
    uint64_t at = 0, most = w->a->has_length ? w->a->length : UINT64_MAX;

    while (at < most) {
        uint64_t hole, left = most - at;
        ssize_t n;

        if (copy_hole(w, at, left, &hole) != 0)
            return 1;
        at += hole;
        if (hole)
            continue;
        n = read_chunk(w, left < CHUNK ? (size_t)left : CHUNK);
        if (n < 0)
            return read_failed(w);
        if (n == 0)
            break;
        if (check_range(w, at + (uint64_t)n) != 0)
            return 1;
        if (qchain_write(w->c, w->buf, (size_t)n, w->a->offset + at, 0, w->t->err) != 0)
            return failed(w);
        at += (uint64_t)n;
    }
    return 0;
}

/* A file that is too long is refused before anything is written. */
static int check_file(struct write_job *w)
{
    struct stat st;
    off_t at = lseek(w->fd, 0, SEEK_CUR);
    uint64_t length;

    if (fstat(w->fd, &st) != 0)
        return read_failed(w);
    w->regular = S_ISREG(st.st_mode) && at >= 0;
    if (!w->regular)
        return 0;
    length = st.st_size > at ? (uint64_t)(st.st_size - at) : 0;
    return check_range(w, w->a->has_length && w->a->length < length ? w->a->length : length);
}

static int write_input(struct write_job *w)
{
    bool file = strcmp(w->a->source, "-") != 0;
    int status;

    w->fd = file ? open(w->a->source, O_RDONLY | O_CLOEXEC) : STDIN_FILENO;
    if (w->fd < 0)
        return read_failed(w);
    w->buf = malloc(CHUNK);
    if (!w->buf)
        tool_complain(w->t, "out of memory");
    status = w->buf ? check_file(w) : 1;
    if (status == 0)
        status = copy(w);
    free(w->buf);
    if (file)
        close(w->fd);
    return status;
}

static int write_zeroes(const struct write_job *w)
{
    if (check_range(w, w->a->length) != 0)
        return 1;
    if (qchain_write_zeroes(w->c, w->a->length, w->a->offset, QCHAIN_WRITE_UNMAP, w->t->err) != 0)
        return failed(w);
    return 0;
}

static int run_write(struct tool *t, int argc, char **argv)
{
    struct write_args a = {0};
    struct write_job w = {.t = t, .a = &a, .fd = -1};
    int status;

    if (parse_args(t, argc, argv, &a) != 0)
        return t->status;
    if (tool_open_writable(t, a.name, a.flags, &w.c) != 0)
        return 1;
    status = a.zeroes ? write_zeroes(&w) : write_input(&w);
    return tool_close_writable(t, w.c) != 0 ? 1 : status;
}

const struct tool_verb tool_verb_write = {
    .name = "write",
    .run = run_write,
    .synopsis = "[options] IMG [FILE|-]",
    .help = "  -f, --format FMT        the format of IMG: qcow2, raw\n"
            "  --offset N              begin at N of the disk (default: 0)\n"
            "  --length N              write N bytes at most (default: all that FILE has)\n"
            "  --zeroes                write zeros, as many as --length says; read nothing\n"
            "  -t, --cache MODE        none, directsync, unsafe, writethrough or\n"
            "                          writeback (default)\n",
    .usage_exit = 2,
};
