/* SPDX-License-Identifier: MIT */
/* cmd_read.c - copy a disk or a part of it to a file or pipe. */
#include <inttypes.h>
#include <unistd.h>

#include "tool.h"

enum { OPT_OFFSET = TOOL_OPT_BASE, OPT_LENGTH, OPT_RECORD };

static const struct option read_options[] = {
    {"format", required_argument, NULL, 'f'},
    {"offset", required_argument, NULL, OPT_OFFSET},
    {"length", required_argument, NULL, OPT_LENGTH},
    {"record", required_argument, NULL, OPT_RECORD},
    {NULL, 0, NULL, 0},
};

struct read_args {
    const char *name;
    const char *target;
    uint64_t offset;
    uint64_t length;
    bool has_length;
};

/* 0, or TOOL_STOP with t->status. */
static int parse_args(struct tool *t, int argc, char **argv, struct read_args *a)
{
    bool ok = true;
    int c;

    t->status = t->verb->usage_exit;
    while (ok && (c = tool_getopt(t, argc, argv, "f:pq", read_options)) != TOOL_END) {
        switch (c) {
        case 'f':
            t->format = optarg;
            break;
        case 'p':
            if (!t->progress)
                t->progress = TOOL_PROGRESS_TEXT;
            break;
        case 'q':
            t->quiet = true;
            break;
        case OPT_OFFSET:
            ok = tool_parse_size(t, "offset", optarg, &a->offset);
            break;
        case OPT_LENGTH:
            ok = tool_parse_size(t, "length", optarg, &a->length);
            a->has_length = true;
            break;
        case OPT_RECORD:
            t->record = optarg;
            break;
        default:
            return TOOL_STOP;
        }
    }
    if (!ok)
        return TOOL_STOP;
    if (argc - optind < 1 || argc - optind > 2) {
        t->status = tool_usage_error(t, "Expecting an image and at most one file to write");
        return TOOL_STOP;
    }
    a->name = argv[optind];
    a->target = optind + 1 < argc ? argv[optind + 1] : "-";
    return 0;
}

static int copy(struct tool *t, qchain *c, const struct read_args *a)
{
    struct tool_sink sink;
    struct tool_job job;
    qchain_copy_opts o;
    int status = 0, r;

    if (tool_sink_open(t, &sink, a->target, c, 0) != 0)
        return 1;
    qchain_copy_opts_init(&o, sizeof(o));
    o.offset = a->offset;
    o.length = a->length;
    o.threads = t->threads;
    if (a->length) {
        if (tool_job_start(t, &job, STDERR_FILENO, !sink.seekable) != 0) {
            status = 1;
        } else {
            o.job = job.job;
            r = tool_sink_copy(t, &sink, c, &o);
            tool_job_finish(&job, r == 0);
            status = tool_sink_status(t, &sink, r);
        }
    }
    return tool_sink_close(t, &sink, a->length, false, status);
}

static int run_read(struct tool *t, int argc, char **argv)
{
    struct read_args a = {0};
    uint64_t size;
    qchain *c;
    int status;

    if (parse_args(t, argc, argv, &a) != 0)
        return t->status;
    if (tool_open(t, a.name, 0, NULL, &c) != 0)
        return 1;
    size = qchain_size(c);
    if (!a.has_length && a.offset <= size)
        a.length = size - a.offset;
    if (a.offset > size || a.length > size - a.offset) {
        tool_complain(t, "%s: the range ends beyond the disk, which has %" PRIu64 " bytes",
                      tool_shown_name(t, a.name), size);
        status = 1;
    } else {
        status = tool_record_start(t, c) == 0 ? copy(t, c, &a) : 1;
    }
    if (tool_record_stop(t, c) != 0)
        status = 1;
    qchain_close(c);
    return status;
}

const struct tool_verb tool_verb_read = {
    .name = "read",
    .run = run_read,
    .synopsis = "[options] IMG [OUT|-]",
    .help = "  -f, --format FMT        the format of IMG: qcow2, raw\n"
            "  --offset N              begin at N (default: 0)\n"
            "  --length N              copy N bytes (default: all behind the offset)\n"
            "  --record FILE           record what is read in FILE, see qchain-trace(1)\n"
            "  -p, --progress=text|json  show progress on standard error\n"
            "  -q                      do not\n",
    .usage_exit = 2,
};
