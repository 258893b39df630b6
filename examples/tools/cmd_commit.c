/* SPDX-License-Identifier: MIT */
/* cmd_commit.c - write what layers hold into the layer below them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"

static const struct option commit_options[] = {
    {NULL, 0, NULL, 0},
};

struct commit_args {
    const char *name, *base, *cache;
    uint64_t rate;
    bool keep; /* -d */
};

static int parse_option(struct tool *t, int c, struct commit_args *a)
{
    switch (c) {
    case 'f':
        t->format = optarg;
        return 0;
    case 't':
        a->cache = optarg;
        return 0;
    case 'b':
        a->base = optarg;
        a->keep = true; /* layers between would show what is not theirs if the top were emptied */
        return 0;
    case 'd':
        a->keep = true;
        return 0;
    case 'p':
        if (!t->progress)
            t->progress = TOOL_PROGRESS_TEXT;
        return 0;
    case 'q':
        t->quiet = true;
        return 0;
    case 'r':
        return tool_parse_size(t, "rate limit", optarg, &a->rate) ? 0 : 1;
    default:
        return 1;
    }
}

/* 0, or TOOL_STOP with t->status. */
static int parse_args(struct tool *t, int argc, char **argv, struct commit_args *a, uint32_t *flags)
{
    int c;

    while ((c = tool_getopt(t, argc, argv, "f:t:b:dpqr:", commit_options)) != TOOL_END) {
        if (c == TOOL_STOP)
            return TOOL_STOP;
        t->status = parse_option(t, c, a);
        if (t->status)
            return TOOL_STOP;
    }
    t->status = 1;
    if (optind != argc - 1) {
        t->status = tool_usage_error(t, "Expecting one image file name");
        return TOOL_STOP;
    }
    a->name = argv[optind];
    if (program_set_cache(a->cache, flags))
        return 0;
    tool_complain(t, "Invalid cache option: %s", a->cache);
    return TOOL_STOP;
}

/* What is not found may be the backing file of what was taken as raw. */
static void warn_if_probed(struct tool *t, const struct commit_args *a, const char *name, qchain_open_opts open)
{
    qchain_image_info *info;

    open.flags &= ~(uint32_t)(QCHAIN_OPEN_WRITE | QCHAIN_OPEN_WRITETHROUGH | QCHAIN_OPEN_UNSAFE);
    if (open.format || a->base || qchain_inspect(&info, t->env, name, &open, NULL) != 0)
        return;
    if (strcmp(info->format, "raw") == 0)
        tool_warn_probed(a->name);
    qchain_image_info_free(info);
}

static int commit(struct tool *t, const struct commit_args *a, const char *name, const qchain_open_opts *open)
{
    qchain_commit_opts o;
    struct tool_job job;
    int r;

    qchain_commit_opts_init(&o, sizeof(o));
    o.flags = a->keep ? (uint32_t)QCHAIN_COMMIT_KEEP : 0;
    o.threads = t->threads;
    o.base = a->base;
    o.open = open;
    if (tool_job_start(t, &job, STDOUT_FILENO, false) != 0)
        return 1;
    qchain_job_rate(job.job, a->rate);
    o.job = job.job;
    r = qchain_commit(t->env, name, &o, NULL, t->err);
    tool_job_finish(&job, r == 0);
    if (r == 0 && !t->quiet)
        printf("Image committed.\n");
    if (r == QCHAIN_E_NOTFOUND)
        warn_if_probed(t, a, name, *open);
    return tool_job_status(t, r, 1);
}

static int run_commit(struct tool *t, int argc, char **argv)
{
    struct commit_args a = {.cache = "writeback"};
    qchain_open_opts open;
    const char *name;
    uint32_t flags = 0;
    char *owned;
    int status;

    if (parse_args(t, argc, argv, &a, &flags) != 0)
        return t->status;
    name = a.name;
    if (!tool_may_write(t, name) || tool_prepare_open(t, &name, flags | QCHAIN_OPEN_WRITE, &open, &owned) != 0)
        return 1;
    if (a.keep)
        open.flags &= ~(uint32_t)QCHAIN_OPEN_WRITE;
    status = commit(t, &a, name, &open);
    free(owned);
    return status;
}

const struct tool_verb tool_verb_commit = {
    .name = "commit",
    .run = run_commit,
    .synopsis = "[options] IMG",
    .help = "  -f FMT                  the format of IMG\n"
            "  -b BASE                 commit into this layer, and do not empty IMG\n"
            "  -d                      do not empty IMG afterwards\n"
            "  -t CACHE                the cache mode of what is written (writeback)\n"
            "  -r RATE                 bytes a second at most\n"
            "  -p, -q                  show progress; be quiet\n",
    .usage_exit = 1,
};
