/* SPDX-License-Identifier: MIT */
/* cmd_delete.c - take a layer out of the chains above it. */
#include <stdlib.h>
#include <stdio.h>
#include <unistd.h>

#include "tool.h"

enum { OPT_KEEP = TOOL_OPT_BASE };

static const struct option delete_options[] = {
    {"keep", no_argument, NULL, OPT_KEEP},
    {NULL, 0, NULL, 0},
};

struct delete_args {
    const char *layer;
    const char *const *children;
    uint32_t n;
    uint64_t rate;
    bool keep;
};

static int parse_args(struct tool *t, int argc, char **argv, struct delete_args *a)
{
    int c;

    t->status = 1;
    while ((c = tool_getopt(t, argc, argv, "r:pq", delete_options)) != TOOL_END) {
        if (c == TOOL_STOP)
            return TOOL_STOP;
        if (c == OPT_KEEP)
            a->keep = true;
        else if (c == 'p')
            t->progress = t->progress ? t->progress : TOOL_PROGRESS_TEXT;
        else if (c == 'q')
            t->quiet = true;
        else if (!tool_parse_size(t, "rate limit", optarg, &a->rate))
            return TOOL_STOP;
    }
    if (argc - optind < 2) {
        t->status = tool_usage_error(t, "Expecting a layer and the images that stand on it");
        return TOOL_STOP;
    }
    if (t->image_opts) {
        t->status = tool_usage_error(t, "--image-opts cannot be used here: images are opened by their names");
        return TOOL_STOP;
    }
    a->layer = argv[optind];
    a->children = (const char *const *)argv + optind + 1;
    a->n = (uint32_t)(argc - optind - 1);
    return 0;
}

static int run_delete(struct tool *t, int argc, char **argv)
{
    struct delete_args a = {.layer = NULL};
    qchain_open_opts o;
    struct tool_job job;
    char *owned = NULL;
    int r;

    if (parse_args(t, argc, argv, &a) != 0)
        return t->status;
    t->format = "qcow2"; /* what has a backing file is that */
    if (!tool_may_write(t, a.children[0]) || tool_prepare_open(t, &a.layer, 0, &o, &owned) != 0)
        return 1;
    o.index = NULL;
    if (tool_job_start(t, &job, STDOUT_FILENO, false) != 0)
        return 1;
    qchain_job_rate(job.job, a.rate);
    r = qchain_delete_layer(t->env, a.layer, a.children, a.n, a.keep ? 0 : QCHAIN_DELETE_FILE, &o, job.job, NULL, t->err);
    tool_job_finish(&job, r == 0);
    free(owned);
    return tool_job_status(t, r, 1);
}

const struct tool_verb tool_verb_delete = {
    .name = "delete",
    .run = run_delete,
    .synopsis = "[options] LAYER CHILD...",
    .help = "  --keep                  let the file of LAYER stay\n"
            "  -p, -q                  show progress; be quiet\n"
            "  -r RATE                 bytes a second at most\n",
    .usage_exit = 1,
};
