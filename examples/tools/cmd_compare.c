/* SPDX-License-Identifier: MIT */
/* cmd_compare.c - compare the visible bytes of two disks. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "tool.h"

/* Exit codes, as qemu-img's. */
enum { DIFFERENT = 1, CANNOT_OPEN = 2, CANNOT_MAP = 3, CANNOT_READ = 4 };

#define PROBE 1024
#define SECTOR 512 /* what qemu-img compares by, and names */

struct compare_args {
    const char *name[2];
    const char *format[2];
    bool strict;
};

/* After a failure: is it the disk's map that cannot be read, or its bytes? */
static bool maps(struct tool *t, qchain *c)
{
    qchain_extent *extents = malloc(PROBE * sizeof(*extents));
    uint64_t at = 0, size = qchain_size(c);
    uint32_t n;
    int r = 0;

    while (extents && r == 0 && at < size)
        r = qchain_map(c, at, size - at, extents, PROBE, &n, &at, 0, t->err);
    free(extents);
    return r == 0;
}

static int failed(struct tool *t, qchain *c[2], const qchain_compare_opts *o, int r)
{
    int status = tool_job_status(t, r, CANNOT_READ);

    if (status == CANNOT_READ && (o->failed == 1 || o->failed == 2) && !maps(t, c[o->failed - 1]))
        status = CANNOT_MAP;
    return status;
}

static void say(const struct tool *t, const char *text)
{
    if (!t->quiet)
        fputs(text, stdout);
}

static int report(struct tool *t, qchain *c[2], const qchain_compare_opts *o)
{
    uint64_t a = qchain_size(c[0]), b = qchain_size(c[1]);
    uint64_t common = a < b ? a : b;
    char line[96] = "Images are identical.\n";
    int status = DIFFERENT;

    switch (o->result) {
    case QCHAIN_DIFFER_SIZE:
        say(t, "Strict mode: Image size mismatch!\n");
        return DIFFERENT;
    case QCHAIN_DIFFER_ALLOC:
        snprintf(line, sizeof(line), "Strict mode: Offset %" PRIu64 " block status mismatch!\n",
                 o->offset);
        break;
    case QCHAIN_DIFFER_CONTENT:
        snprintf(line, sizeof(line), "Content mismatch at offset %" PRIu64 "!\n",
                 o->offset - o->offset % SECTOR);
        break;
    default:
        status = 0;
        break;
    }
    /* said when the common part is found equal */
    if (a != b && (status == 0 || o->offset >= common))
        say(t, "Warning: Image size mismatch!\n");
    say(t, line);
    return status;
}

static int compare(struct tool *t, qchain *c[2], const struct compare_args *a)
{
    qchain_compare_opts o;
    struct tool_job job;
    int r;

    qchain_compare_opts_init(&o, sizeof(o));
    o.flags = a->strict ? QCHAIN_COMPARE_STRICT : 0;
    o.threads = t->threads;
    if (tool_job_start(t, &job, STDOUT_FILENO, false) != 0)
        return CANNOT_READ;
    o.job = job.job;
    r = qchain_compare(c[0], c[1], &o, t->err);
    tool_job_finish(&job, r == 0);
    return r ? failed(t, c, &o, r) : report(t, c, &o);
}

/* 0, or TOOL_STOP with t->status. */
static int parse_args(struct tool *t, int argc, char **argv, struct compare_args *a)
{
    const char *cache = "writeback";
    int c;

    while ((c = tool_getopt(t, argc, argv, "f:F:T:pqs", NULL)) != TOOL_END) {
        switch (c) {
        case 'f':
            a->format[0] = optarg;
            break;
        case 'F':
            a->format[1] = optarg;
            break;
        case 'T':
            cache = optarg;
            break;
        case 'p':
            if (!t->progress)
                t->progress = TOOL_PROGRESS_TEXT;
            break;
        case 'q':
            t->quiet = true;
            break;
        case 's':
            a->strict = true;
            break;
        default:
            return TOOL_STOP;
        }
    }
    if (optind != argc - 2) {
        t->status = tool_usage_error(t, "Expecting two image file names");
        return TOOL_STOP;
    }
    if (!tool_known_cache(cache)) {
        tool_complain(t, "Invalid source cache option: %s", cache);
        t->status = 2;
        return TOOL_STOP;
    }
    a->name[0] = argv[optind];
    a->name[1] = argv[optind + 1];
    return 0;
}

static int run_compare(struct tool *t, int argc, char **argv)
{
    struct compare_args a = {.strict = false};
    qchain *c[2] = {NULL, NULL};
    int status = 0, i;

    if (parse_args(t, argc, argv, &a) != 0)
        return t->status;
    for (i = 0; i < 2 && status == 0; i++) {
        t->format = a.format[i];
        if (tool_open(t, a.name[i], 0, NULL, &c[i]) != 0)
            status = CANNOT_OPEN;
    }
    if (status == 0)
        status = compare(t, c, &a);
    qchain_close(c[1]);
    qchain_close(c[0]);
    return status;
}

const struct tool_verb tool_verb_compare = {
    .name = "compare",
    .run = run_compare,
    .synopsis = "[options] IMG1 IMG2",
    .help = "  -f FMT, -F FMT          the formats of the first and the second image\n"
            "  -s                      sizes and allocation must be equal too\n"
            "  -p, --progress=text|json  show progress\n"
            "  -q                      print nothing but errors\n"
            "  -T CACHE                a cache mode; without effect\n"
            "Exits 0 if equal, 1 if not, 2 if one cannot be opened, 3 or 4 if not read.\n",
    .usage_exit = 1,
};
