/* SPDX-License-Identifier: MIT */
/* cmd_rebase.c - let an image stand on another backing file. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"

enum { OPT_COMPARE = TOOL_OPT_BASE, OPT_FORCE };

static const struct option rebase_options[] = {
    {"compress", no_argument, NULL, 'c'},
    {"compare", no_argument, NULL, OPT_COMPARE},
    {"force", no_argument, NULL, OPT_FORCE},
    {NULL, 0, NULL, 0},
};

struct rebase_args {
    const char *name, *backing, *format;
    const char *cache, *source_cache;
    uint32_t flags; /* QCHAIN_REBASE_* */
    uint64_t rate;
    bool share;
};

static int stop(struct tool *t)
{
    t->status = 1;
    return TOOL_STOP;
}

static int parse_option(struct tool *t, int c, struct rebase_args *a)
{
    switch (c) {
    case 'f':
        t->format = optarg;
        return 0;
    case 'b':
        a->backing = optarg;
        return 0;
    case 'F':
        a->format = optarg;
        return 0;
    case 't':
        a->cache = optarg;
        return 0;
    case 'T':
        a->source_cache = optarg;
        return 0;
    case 'u':
        a->flags |= QCHAIN_REBASE_UNSAFE;
        return 0;
    case 'c':
        a->flags |= QCHAIN_REBASE_COMPRESS;
        return 0;
    case OPT_COMPARE:
        a->flags |= QCHAIN_REBASE_COMPARE;
        return 0;
    case OPT_FORCE:
        a->flags |= QCHAIN_REBASE_FORCE;
        return 0;
    case 'r':
        return tool_parse_size(t, "rate limit", optarg, &a->rate) ? 0 : stop(t);
    case 'p':
        t->progress = t->progress ? t->progress : TOOL_PROGRESS_TEXT;
        return 0;
    case 'q':
        t->quiet = true;
        return 0;
    default:
        return TOOL_STOP;
    }
}

/* What does not go together; 0, or TOOL_STOP. */
static int check_args(struct tool *t, const struct rebase_args *a)
{
    uint32_t copying = QCHAIN_REBASE_COMPARE | QCHAIN_REBASE_COMPRESS;

    if (!(a->flags & QCHAIN_REBASE_UNSAFE) && !a->backing)
        t->status = tool_usage_error(t, "Must specify backing file (-b) or use unsafe mode (-u)");
    else if (a->flags & QCHAIN_REBASE_UNSAFE && a->flags & copying)
        t->status = tool_usage_error(t, "Cannot use %s with -u: nothing is copied",
                                     a->flags & QCHAIN_REBASE_COMPARE ? "--compare" : "-c");
    else if (a->flags & QCHAIN_REBASE_FORCE && !(a->flags & QCHAIN_REBASE_UNSAFE))
        t->status = tool_usage_error(t, "--force goes with -u");
    else
        return 0;
    return TOOL_STOP;
}

/* 0, or TOOL_STOP with t->status. */
static int parse_args(struct tool *t, int argc, char **argv, struct rebase_args *a)
{
    int c;

    while ((c = tool_getopt(t, argc, argv, "f:F:b:ucpt:T:r:q", rebase_options)) != TOOL_END)
        if (parse_option(t, c, a) != 0)
            return TOOL_STOP;
    if (optind != argc - 1) {
        t->status = tool_usage_error(t, "Expecting one image file name");
        return TOOL_STOP;
    }
    a->name = argv[optind];
    if (check_args(t, a) != 0)
        return TOOL_STOP;
    if (!tool_known_cache(a->cache) || !tool_known_cache(a->source_cache)) {
        bool source = tool_known_cache(a->cache);

        tool_complain(t, "Invalid %scache option: %s", source ? "source " : "", source ? a->source_cache : a->cache);
        return stop(t);
    }
    return 0;
}

/* An image records the format of what it stands on, or nobody may open that. */
static int check_format(struct tool *t, const struct rebase_args *a)
{
    if (a->format && strcmp(a->format, "qcow2") != 0 && strcmp(a->format, "raw") != 0) {
        tool_complain(t, "Invalid format name: '%s'", a->format);
        return 1;
    }
    if (a->backing && *a->backing && !a->format) {
        tool_complain(t, "Could not change the backing file to '%s': backing format must be specified",
                      tool_shown_name(t, a->backing));
        return 1;
    }
    return 0;
}

static int rebase(struct tool *t, qchain *c, const struct rebase_args *a)
{
    qchain_open_opts open;
    qchain_rebase_opts o;
    struct tool_job job;
    uint32_t flags = 0;
    int r;

    qchain_open_opts_init(&open, sizeof(open));
    program_set_cache(a->source_cache, &flags);
    open.flags = (flags & QCHAIN_OPEN_DIRECT) | (a->share ? (uint32_t)QCHAIN_OPEN_FORCE_SHARE : 0) |
                 (t->no_index ? (uint32_t)QCHAIN_OPEN_NO_INDEX : 0);
    qchain_rebase_opts_init(&o, sizeof(o));
    o.flags = a->flags;
    o.threads = t->threads;
    o.backing_file = a->backing;
    o.backing_format = a->format;
    o.open = &open;
    if (tool_job_start(t, &job, STDOUT_FILENO, false) != 0)
        return 1;
    qchain_job_rate(job.job, a->rate);
    o.job = job.job;
    r = qchain_rebase(c, &o, NULL, t->err);
    tool_job_finish(&job, r == 0);
    return tool_job_status(t, r, 1);
}

/* Only what the disk shows now is moved. */
static void warn_of_snapshots(struct tool *t, qchain *c, const struct rebase_args *a)
{
    qchain_image_info *i;

    if (t->quiet || qchain_layer_info(&i, c, 0, t->err) != 0)
        return;
    if (i->n_snapshots > 0)
        fprintf(stderr, "WARNING: what the internal snapshots of '%s' do not hold themselves they will read from "
                "the new backing file\n", tool_shown_name(t, a->name));
    qchain_image_info_free(i);
}

static int run_rebase(struct tool *t, int argc, char **argv)
{
    struct rebase_args a = {.cache = "writeback", .source_cache = "writeback"};
    uint32_t flags = 0;
    qchain *c = NULL;
    int status;

    if (parse_args(t, argc, argv, &a) != 0)
        return t->status;
    program_set_cache(a.cache, &flags);
    if (a.flags & QCHAIN_REBASE_UNSAFE) /* what it names may be gone */
        flags |= QCHAIN_OPEN_NO_BACKING;
    a.share = t->force_share; /* of what is read; the image itself is written */
    t->force_share = false;
    if (tool_open_writable(t, a.name, flags | QCHAIN_OPEN_NO_READ_AHEAD, &c) != 0)
        return 1;
    status = check_format(t, &a);
    if (status == 0)
        warn_of_snapshots(t, c, &a);
    if (status == 0)
        status = rebase(t, c, &a);
    if (status != 0) {
        qchain_close(c);
        return status;
    }
    return tool_close_writable(t, c) == 0 ? 0 : 1;
}

const struct tool_verb tool_verb_rebase = {
    .name = "rebase",
    .run = run_rebase,
    .synopsis = "[options] -b BACKING -F FMT IMG",
    .help = "  -b BACKING, -F FMT      the new backing file, as IMG names it ('': none)\n"
            "  -u                      copy nothing: BACKING is known to have the same bytes\n"
            "  --force                 with -u: do not look whether that can be\n"
            "  --compare               copy only what differs, by reading both\n"
            "  -c, --compress          write what is copied compressed\n"
            "  -f FMT                  the format of IMG\n"
            "  -p, -q                  show progress; be quiet\n"
            "  -t CACHE, -T CACHE      cache modes of IMG and of BACKING (writeback)\n"
            "  -r RATE                 bytes a second at most\n",
    .usage_exit = 1,
};
