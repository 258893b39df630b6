/* SPDX-License-Identifier: MIT */
/* cmd_merge.c - pull small layers right below an image into it, as before an upload. */
#include <stdio.h>
#include <unistd.h>

#include "tool.h"

enum { OPT_LIMIT = TOOL_OPT_BASE };

static const struct option merge_options[] = {
    {"limit", required_argument, NULL, OPT_LIMIT},
    {NULL, 0, NULL, 0},
};

struct merge_args {
    const char *name;
    uint64_t limit, rate;
};

static int parse_args(struct tool *t, int argc, char **argv, struct merge_args *a)
{
    int c;

    t->status = 1;
    while ((c = tool_getopt(t, argc, argv, "f:r:pq", merge_options)) != TOOL_END) {
        if (c == TOOL_STOP)
            return TOOL_STOP;
        if (c == 'f')
            t->format = optarg;
        else if (c == 'p')
            t->progress = t->progress ? t->progress : TOOL_PROGRESS_TEXT;
        else if (c == 'q')
            t->quiet = true;
        else if (!(c == 'r' ? tool_parse_size(t, "rate limit", optarg, &a->rate)
                            : tool_parse_size(t, "limit", optarg, &a->limit)))
            return TOOL_STOP;
    }
    if (optind != argc - 1) {
        t->status = tool_usage_error(t, "Expecting one image file name");
        return TOOL_STOP;
    }
    a->name = argv[optind];
    return 0;
}

static int merge(struct tool *t, qchain *c, const struct merge_args *a)
{
    qchain_job_result result = {.struct_size = sizeof(result)};
    uint32_t layers = qchain_layers(c);
    struct tool_job job;
    int r;

    if (tool_job_start(t, &job, STDOUT_FILENO, false) != 0)
        return 1;
    qchain_job_rate(job.job, a->rate);
    r = qchain_merge(c, a->limit, 0, job.job, &result, t->err);
    tool_job_finish(&job, r == 0);
    if (r == 0 && !t->quiet)
        printf("Layers merged: %u.\n", (unsigned)(layers - result.layers));
    return tool_job_status(t, r, 1);
}

static int run_merge(struct tool *t, int argc, char **argv)
{
    struct merge_args a = {.limit = 0};
    qchain *c = NULL;
    int status;

    if (parse_args(t, argc, argv, &a) != 0)
        return t->status;
    if (tool_open_writable(t, a.name, QCHAIN_OPEN_NO_READ_AHEAD, &c) != 0)
        return 1;
    status = merge(t, c, &a);
    if (status == 0)
        return tool_close_writable(t, c) == 0 ? 0 : 1;
    qchain_close(c);
    return status;
}

const struct tool_verb tool_verb_merge = {
    .name = "merge",
    .run = run_merge,
    .synopsis = "[options] IMG",
    .help = "  --limit=SIZE            how much the merged layers may store together (300 MB)\n"
            "  -f FMT                  the format of IMG\n"
            "  -p, -q                  show progress; be quiet\n"
            "  -r RATE                 bytes a second at most\n",
    .usage_exit = 1,
};
