/* SPDX-License-Identifier: MIT */
/* cmd_stream.c - pull what is below an image into it. */
#include <stdio.h>
#include <unistd.h>

#include "tool.h"

struct stream_args {
    const char *name, *base, *cache;
    uint64_t rate;
};

static const struct option stream_options[] = {{NULL, 0, NULL, 0}};

static int parse_args(struct tool *t, int argc, char **argv, struct stream_args *a)
{
    int c;

    t->status = 1;
    while ((c = tool_getopt(t, argc, argv, "f:b:t:r:pq", stream_options)) != TOOL_END) {
        if (c == TOOL_STOP)
            return TOOL_STOP;
        if (c == 'f')
            t->format = optarg;
        else if (c == 'b')
            a->base = optarg;
        else if (c == 't')
            a->cache = optarg;
        else if (c == 'p')
            t->progress = t->progress ? t->progress : TOOL_PROGRESS_TEXT;
        else if (c == 'q')
            t->quiet = true;
        else if (!tool_parse_size(t, "rate limit", optarg, &a->rate))
            return TOOL_STOP;
    }
    if (optind != argc - 1) {
        t->status = tool_usage_error(t, "Expecting one image file name");
        return TOOL_STOP;
    }
    if (!tool_known_cache(a->cache)) {
        tool_complain(t, "Invalid cache option: %s", a->cache);
        return TOOL_STOP;
    }
    a->name = argv[optind];
    return 0;
}

static int stream(struct tool *t, qchain *c, const struct stream_args *a)
{
    uint32_t base = qchain_layers(c);
    struct tool_job job;
    int r;

    if (a->base && !tool_find_layer(t, c, a->base, base - 1, &base))
        return 1;
    if (base == 0) {
        tool_complain(t, "-b names a layer below the image");
        return 1;
    }
    if (tool_job_start(t, &job, STDOUT_FILENO, false) != 0)
        return 1;
    qchain_job_rate(job.job, a->rate);
    r = qchain_stream(c, base, 0, job.job, NULL, t->err);
    tool_job_finish(&job, r == 0);
    return tool_job_status(t, r, 1);
}

static int run_stream(struct tool *t, int argc, char **argv)
{
    struct stream_args a = {.cache = "writeback"};
    uint32_t flags = 0;
    qchain *c = NULL;
    int status;

    if (parse_args(t, argc, argv, &a) != 0)
        return t->status;
    program_set_cache(a.cache, &flags);
    if (tool_open_writable(t, a.name, flags | QCHAIN_OPEN_NO_READ_AHEAD, &c) != 0)
        return 1;
    status = stream(t, c, &a);
    if (status == 0)
        return tool_close_writable(t, c) == 0 ? 0 : 1;
    qchain_close(c);
    return status;
}

const struct tool_verb tool_verb_stream = {
    .name = "stream",
    .run = run_stream,
    .synopsis = "[options] [-b BASE] IMG",
    .help = "  -b BASE                 what lies above this layer (name or number), not all\n"
            "  -f FMT                  the format of IMG\n"
            "  -p, -q                  show progress; be quiet\n"
            "  -t CACHE                cache mode of IMG (writeback)\n"
            "  -r RATE                 bytes a second at most\n",
    .usage_exit = 1,
};
