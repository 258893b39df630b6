/* SPDX-License-Identifier: MIT */
/* cmd_resize.c - make a disk larger or smaller. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

#define SECTOR 512
#define PIECE (1u << 20)

enum { OPT_SHRINK = TOOL_OPT_BASE, OPT_PREALLOCATION };
enum { PREALLOC_OFF, PREALLOC_METADATA, PREALLOC_FALLOC, PREALLOC_FULL };

static const struct option resize_options[] = {
    {"shrink", no_argument, NULL, OPT_SHRINK},
    {"preallocation", required_argument, NULL, OPT_PREALLOCATION},
    {NULL, 0, NULL, 0},
};

struct resize_args {
    const char *name, *size;
    uint64_t value;
    int sign;           /* 0: value is the size; else it is added or taken away */
    unsigned prealloc;
    bool shrink;
};

static bool parse_prealloc(struct tool *t, const char *text, unsigned *out)
{
    static const char *const words[] = {"off", "metadata", "falloc", "full"};

    for (*out = 0; *out < 4; ++*out)
        if (strcmp(text, words[*out]) == 0)
            return true;
    tool_complain(t, "Invalid preallocation mode '%s'", text);
    return false;
}

/* [+|-]SIZE */
static bool parse_value(struct tool *t, const char *text, struct resize_args *a)
{
    a->sign = text[0] == '+' ? 1 : text[0] == '-' ? -1 : 0;
    text += a->sign != 0;
    if (a->sign != 0 && (text[0] == '+' || text[0] == '-')) {
        tool_complain(t, "Invalid image size specified.");
        return false;
    }
    return tool_parse_size(t, "image size", text, &a->value);
}

static int stop(struct tool *t)
{
    t->status = 1;
    return TOOL_STOP;
}

/* 0, or TOOL_STOP with t->status. The size is the last argument, whatever it looks like. */
static int parse_args(struct tool *t, int argc, char **argv, struct resize_args *a)
{
    int c, last = argc - 1;

    if (argc > 1 && strcmp(argv[last], "--help") != 0 && strcmp(argv[last], "-h") != 0) {
        a->size = argv[last];
        argc--;
    }
    while ((c = tool_getopt(t, argc, argv, "f:q", resize_options)) != TOOL_END) {
        switch (c) {
        case 'f':
            t->format = optarg;
            break;
        case 'q':
            t->quiet = true;
            break;
        case OPT_SHRINK:
            a->shrink = true;
            break;
        case OPT_PREALLOCATION:
            if (!parse_prealloc(t, optarg, &a->prealloc))
                return stop(t);
            break;
        default:
            return TOOL_STOP;
        }
    }
    if (!a->size || optind >= argc) {
        t->status = tool_usage_error(t, "Not enough arguments");
        return TOOL_STOP;
    }
    if (optind != argc - 1) {
        t->status = tool_usage_error(t, "Expecting image file name and size");
        return TOOL_STOP;
    }
    a->name = argv[optind];
    return parse_value(t, a->size, a) ? 0 : stop(t);
}

/* The size that is asked for; false after a complaint. */
static bool find_size(struct tool *t, const struct resize_args *a, uint64_t old, uint64_t *size)
{
    *size = a->value;
    if (a->sign > 0)
        *size = a->value > INT64_MAX - old ? 0 : old + a->value;
    else if (a->sign < 0)
        *size = a->value > old ? 0 : old - a->value;
    if (*size == 0) {
        tool_complain(t, "New image size must be positive");
        return false;
    }
    if (*size % SECTOR != 0) {
        tool_complain(t, "The new size must be a multiple of %d", SECTOR);
        return false;
    }
    if (*size <= old && a->prealloc != PREALLOC_OFF) {
        tool_complain(t, "Preallocation can only be used for growing images");
        return false;
    }
    if (*size < old && !a->shrink) {
        tool_complain(t, "Use the --shrink option to make an image smaller.");
        tool_complain(t, "warning: what lies beyond the new end of the disk is lost then.");
        return false;
    }
    return true;
}

/* Room for what was added: zeros that are written, or space that a raw file reserves. */
static int fill(struct tool *t, qchain *c, uint64_t from, uint64_t to, unsigned prealloc)
{
    char *zeros;
    int r = 0;

    if (prealloc == PREALLOC_OFF || from >= to)
        return 0;
    if (prealloc == PREALLOC_FALLOC)
        return qchain_write_zeroes(c, to - from, from, 0, t->err);
    zeros = calloc(1, PIECE);
    if (!zeros)
        return QCHAIN_E_NOMEM;
    while (r == 0 && from < to) {
        size_t n = to - from < PIECE ? (size_t)(to - from) : PIECE;

        r = qchain_write(c, zeros, n, from, 0, t->err);
        from += n;
    }
    free(zeros);
    return r;
}

static bool can_prealloc(struct tool *t, qchain *c, unsigned prealloc)
{
    qchain_image_info *info;
    bool raw;

    if (prealloc == PREALLOC_OFF || prealloc == PREALLOC_FULL)
        return true;
    if (qchain_layer_info(&info, c, 0, t->err) != 0) {
        tool_complain_error(t);
        return false;
    }
    raw = strcmp(info->format, "raw") == 0;
    qchain_image_info_free(info);
    if (raw && prealloc == PREALLOC_FALLOC)
        return true;
    tool_complain(t, "--preallocation=%s is not supported for %s images that exist",
                  prealloc == PREALLOC_FALLOC ? "falloc" : "metadata", raw ? "raw" : "qcow2");
    return false;
}

static int resize(struct tool *t, qchain *c, const struct resize_args *a)
{
    uint64_t old = qchain_size(c), size;
    int r;

    if (!find_size(t, a, old, &size) || !can_prealloc(t, c, a->prealloc))
        return 1;
    r = qchain_resize(c, size, size < old ? (uint32_t)QCHAIN_RESIZE_SHRINK : 0, t->err);
    if (r == 0)
        r = fill(t, c, old, size, a->prealloc);
    if (r == 0)
        r = qchain_finish(c, t->err);
    if (r != 0) {
        tool_complain_error(t);
        return 1;
    }
    if (!t->quiet)
        printf("Image resized.\n");
    return 0;
}

static int run_resize(struct tool *t, int argc, char **argv)
{
    struct resize_args a = {.shrink = false};
    qchain *c = NULL;
    int status;

    if (parse_args(t, argc, argv, &a) != 0)
        return t->status;
    if (!tool_may_write(t, a.name) || tool_open(t, a.name, QCHAIN_OPEN_WRITE, NULL, &c) != 0)
        return 1;
    status = resize(t, c, &a);
    qchain_close(c);
    return status;
}

const struct tool_verb tool_verb_resize = {
    .name = "resize",
    .run = run_resize,
    .synopsis = "[options] IMG [+|-]SIZE",
    .help = "  -f FMT                  the format of IMG\n"
            "  --shrink                let the disk become smaller\n"
            "  --preallocation=MODE    of what is added: off, full; of raw images falloc\n"
            "  -q                      print nothing but errors\n",
    .usage_exit = 1,
};
