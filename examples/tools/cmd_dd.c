/* SPDX-License-Identifier: MIT */
/* cmd_dd.c - copy a disk or a part of it to a new image, called like dd. */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tool.h"

#define BLOCK 512

struct dd_args {
    const char *source;
    const char *target;
    const char *out_format;
    uint64_t block;
    uint64_t count; /* blocks of the source, counted from its beginning; UINT64_MAX: all */
    uint64_t skip;
};

/* ----------------------------------------------------------------- options --- */

/* "name=value"; false after a complaint. */
static bool parse_operand(struct tool *t, const char *text, struct dd_args *a)
{
    const char *value = strchr(text, '=');
    int n = value ? (int)(value - text) : (int)strlen(text);

    if (!value) {
        tool_complain(t, "unrecognized operand %s", text);
        return false;
    }
    value++;
    if (n == 2 && strncmp(text, "if", 2) == 0) {
        a->source = value;
        return true;
    }
    if (n == 2 && strncmp(text, "of", 2) == 0) {
        a->target = value;
        return true;
    }
    if (n == 2 && strncmp(text, "bs", 2) == 0)
        return tool_parse_number(t, "bs", value, 1, INT_MAX, &a->block);
    if (n == 5 && strncmp(text, "count", 5) == 0)
        return tool_parse_size(t, "count", value, &a->count);
    if (n == 4 && strncmp(text, "skip", 4) == 0)
        return tool_parse_size(t, "skip", value, &a->skip);
    tool_complain(t, "unrecognized operand %.*s", n, text);
    return false;
}

/* 0, or TOOL_STOP with t->status. */
static int parse_args(struct tool *t, int argc, char **argv, struct dd_args *a)
{
    int c;

    while ((c = tool_getopt(t, argc, argv, "f:O:", NULL)) != TOOL_END) {
        if (c == TOOL_STOP)
            return TOOL_STOP;
        if (c == 'f')
            t->format = optarg;
        else
            a->out_format = optarg;
    }
    t->status = 1;
    for (; optind < argc; optind++)
        if (!parse_operand(t, argv[optind], a))
            return TOOL_STOP;
    if (!a->source || !a->target) {
        tool_complain(t, "Must specify both input and output files");
        return TOOL_STOP;
    }
    if (strcmp(a->out_format, "raw") != 0 && strcmp(a->out_format, "qcow2") != 0) {
        tool_complain(t, "Unknown file format");
        return TOOL_STOP;
    }
    return 0;
}

/* ----------------------------------------------------------------- copying --- */

struct dd_job {
    struct tool *t;
    const struct dd_args *a;
    qchain *from, *to;
    uint64_t first, length; /* of the source */
};

/* As qemu-img counts: the end is `count' blocks from the beginning, wherever `skip' begins. */
static void set_range(struct dd_job *d)
{
    const struct dd_args *a = d->a;
    uint64_t end = qchain_size(d->from);

    if (a->count < UINT64_MAX && a->count < end / a->block + 1 && a->count * a->block < end)
        end = a->count * a->block;
    if (a->skip > end / a->block) {
        tool_complain(d->t, "%s: cannot skip to specified offset", tool_shown_name(d->t, a->source));
        return;
    }
    d->first = a->skip * a->block;
    d->length = end - d->first;
}

static int put(void *data, const void *buf, size_t length, uint64_t offset, qchain_error *err)
{
    const struct dd_job *d = data;

    return qchain_write(d->to, buf, length, offset - d->first, 0, err);
}

static int copy(const struct dd_job *d)
{
    qchain_sink sink = {.struct_size = sizeof(sink), .write = put, .data = (void *)d};
    struct tool_job job;
    qchain_copy_opts o;
    int r;

    if (!d->length)
        return 0;
    qchain_copy_opts_init(&o, sizeof(o));
    o.offset = d->first;
    o.length = d->length;
    o.threads = d->t->threads;
    if (tool_job_start(d->t, &job, STDERR_FILENO, false) != 0)
        return 1;
    o.job = job.job;
    r = qchain_copy_out(d->from, &sink, &o, d->t->err);
    tool_job_finish(&job, r == 0);
    return tool_job_status(d->t, r, 1);
}

/* ------------------------------------------------------------------ target --- */

/* A new file in the place of one that is read would be the end of it. */
static bool is_layer(const struct dd_job *d)
{
    struct stat target;

    return stat(d->a->target, &target) == 0 && tool_is_layer(d->from, &target);
}

static int make_target(struct dd_job *d)
{
    struct tool *t = d->t;
    qchain_create_opts o;

    if (is_layer(d)) {
        tool_complain(t, "%s: error while creating output image: it is a layer of the image that is read",
                      d->a->target);
        return 1;
    }
    qchain_create_opts_init(&o, sizeof(o));
    o.format = d->a->out_format;
    o.size = d->length;
    if (qchain_create(t->env, d->a->target, &o, t->err) != 0) {
        tool_complain(t, "%s: error while creating output image: %s", d->a->target,
                      qchain_error_message(t->err));
        return 1;
    }
    t->format = d->a->out_format;
    t->image_opts = false;
    t->force_share = false;
    return tool_open(t, d->a->target, QCHAIN_OPEN_WRITE | QCHAIN_OPEN_NO_INDEX, NULL, &d->to) ? 1 : 0;
}

/* What is half made shall not look whole. */
static void remove_target(const char *name)
{
    struct stat st;

    if (stat(name, &st) == 0 && S_ISREG(st.st_mode))
        unlink(name);
}

static int run_dd(struct tool *t, int argc, char **argv)
{
    struct dd_args a = {.out_format = "raw", .block = BLOCK, .count = UINT64_MAX};
    struct dd_job d = {.t = t, .a = &a};
    int status;

    if (parse_args(t, argc, argv, &a) != 0)
        return t->status;
    if (tool_open(t, a.source, 0, NULL, &d.from) != 0)
        return 1;
    set_range(&d);
    status = make_target(&d);
    if (status == 0) {
        status = copy(&d);
        if (tool_close_writable(t, d.to) != 0 && status == 0)
            status = 1;
        if (status)
            remove_target(a.target);
    }
    qchain_close(d.from);
    return status;
}

const struct tool_verb tool_verb_dd = {
    .name = "dd",
    .run = run_dd,
    .synopsis = "[options] [bs=N] [count=N] [skip=N] if=IMG of=NEW",
    .help = "  -f FMT, -O FMT          the formats of IMG, and of NEW (raw)\n"
            "  bs=N                    bytes a block (512)\n"
            "  count=N                 end N blocks from the beginning of IMG\n"
            "  skip=N                  begin N blocks from it\n",
    .usage_exit = 1,
};
