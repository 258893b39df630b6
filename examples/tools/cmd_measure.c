/* SPDX-License-Identifier: MIT */
/* cmd_measure.c - tell how large the file of a new image would be. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "tool.h"

#define MAX_LISTS 32

enum { OPT_OUTPUT = TOOL_OPT_BASE, OPT_SIZE };

static const struct option measure_options[] = {
    {"output", required_argument, NULL, OPT_OUTPUT},
    {"size", required_argument, NULL, OPT_SIZE},
    {NULL, 0, NULL, 0},
};

struct measure_args {
    const char *name;     /* NULL: --size */
    const char *format;   /* of the new image */
    const char *list[MAX_LISTS];
    unsigned n_lists;
    const char *snapshot;
    uint64_t size;
    bool size_given;
};

static int stop(struct tool *t)
{
    t->status = 1;
    return TOOL_STOP;
}

static bool parse_snapshot(const char *text, struct measure_args *a)
{
    a->snapshot = text;
    if (strncmp(text, "snapshot.", 9) != 0)
        return true;
    if (strncmp(text, "snapshot.id=", 12) == 0)
        a->snapshot = text + 12;
    else if (strncmp(text, "snapshot.name=", 14) == 0)
        a->snapshot = text + 14;
    return a->snapshot != text && !strchr(a->snapshot, ',');
}

static int parse_option(struct tool *t, int c, struct measure_args *a)
{
    switch (c) {
    case 'f':
        t->format = optarg;
        return 0;
    case 'O':
        a->format = optarg;
        return 0;
    case 'o':
        if (a->n_lists == MAX_LISTS) {
            tool_complain(t, "-o is given too often");
            return -1;
        }
        a->list[a->n_lists++] = optarg;
        return 0;
    case 'l':
        if (parse_snapshot(optarg, a))
            return 0;
        tool_complain(t, "Failed in parsing snapshot param '%s'", optarg);
        return -1;
    case OPT_OUTPUT:
        return tool_parse_output(t, optarg, false) ? 0 : -1;
    case OPT_SIZE:
        a->size_given = true;
        return tool_parse_size(t, "image size", optarg, &a->size) ? 0 : -1;
    default:
        return TOOL_STOP;
    }
}

/* 0, or TOOL_STOP with t->status. */
static int parse_args(struct tool *t, int argc, char **argv, struct measure_args *a)
{
    int c, r;

    while ((c = tool_getopt(t, argc, argv, "f:O:o:l:", measure_options)) != TOOL_END) {
        r = parse_option(t, c, a);
        if (r == TOOL_STOP)
            return TOOL_STOP;
        if (r != 0)
            return stop(t);
    }
    if (argc - optind > 1) {
        tool_complain(t, "At most one filename argument is allowed.");
        return stop(t);
    }
    a->name = optind < argc ? argv[optind] : NULL;
    if (!a->name && (t->format || a->snapshot || t->image_opts)) {
        tool_complain(t, "--image-opts, -f, and -l can only be used with a filename argument.");
        return stop(t);
    }
    if (!a->name && !a->size_given) {
        tool_complain(t, "Either --size N or one filename must be specified.");
        return stop(t);
    }
    if (a->name && a->size_given) {
        tool_complain(t, "--size N cannot be used together with a filename.");
        return stop(t);
    }
    if (strcmp(a->format, "raw") != 0 && strcmp(a->format, "qcow2") != 0) {
        tool_complain(t, "Unknown file format '%s'", a->format);
        return stop(t);
    }
    return 0;
}

static void print_result(const struct tool *t, const qchain_measure_result *r)
{
    if (t->output == TOOL_HUMAN) {
        printf("required size: %" PRIu64 "\nfully allocated size: %" PRIu64 "\n", r->required, r->fully_allocated);
        if (r->bitmaps != UINT64_MAX)
            printf("bitmaps size: %" PRIu64 "\n", r->bitmaps);
        return;
    }
    printf("{\n");
    if (r->bitmaps != UINT64_MAX)
        printf("    \"bitmaps\": %" PRIu64 ",\n", r->bitmaps);
    printf("    \"required\": %" PRIu64 ",\n    \"fully-allocated\": %" PRIu64 "\n}\n", r->required,
           r->fully_allocated);
}

static int measure(struct tool *t, const struct measure_args *a, const struct tool_create *c)
{
    qchain_measure_result result = {.struct_size = sizeof(result)};
    qchain *source = NULL;
    int r;

    if (a->name && tool_open(t, a->name, 0, a->snapshot, &source) != 0)
        return 1;
    r = qchain_measure(source, &c->o, &result, t->err);
    if (r == 0)
        print_result(t, &result);
    else
        tool_complain_error(t);
    qchain_close(source);
    return r == 0 ? 0 : 1;
}

static int run_measure(struct tool *t, int argc, char **argv)
{
    struct measure_args a = {.format = "raw"};
    struct tool_create c;
    int status = 1, r = 0;

    if (parse_args(t, argc, argv, &a) != 0)
        return t->status;
    tool_create_init(&c, "");
    c.o.format = a.format;
    for (unsigned i = 0; r == 0 && i < a.n_lists; i++)
        r = tool_create_parse(t, &c, a.list[i], false);
    if (r == 0) {
        if (a.size_given || c.o.size == UINT64_MAX)
            c.o.size = a.size;
        if (c.help) {
            tool_create_help(a.format, false);
            status = 0;
        } else {
            status = measure(t, &a, &c);
        }
    }
    tool_create_finish(&c);
    return status;
}

const struct tool_verb tool_verb_measure = {
    .name = "measure",
    .run = run_measure,
    .synopsis = "[options] [--size N | IMG]",
    .help = "  -O FMT                  the format of the new image: raw (default) or qcow2\n"
            "  -o KEY=VALUE,...        its options; -o help lists them\n"
            "  --size N                of an empty disk\n"
            "  -f FMT                  the format of IMG\n"
            "  -l SNAPSHOT             of IMG, as it was\n"
            "  --output=human|json     how to print\n",
    .usage_exit = 1,
};
