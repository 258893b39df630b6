/* SPDX-License-Identifier: MIT */
/* cmd_bitmap.c - add, remove and change persistent dirty bitmaps. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

enum {
    OPT_ADD = TOOL_OPT_BASE,
    OPT_REMOVE,
    OPT_CLEAR,
    OPT_ENABLE,
    OPT_DISABLE,
    OPT_MERGE
};

static const struct option bitmap_options[] = {
    {"add", no_argument, NULL, OPT_ADD},
    {"remove", no_argument, NULL, OPT_REMOVE},
    {"clear", no_argument, NULL, OPT_CLEAR},
    {"enable", no_argument, NULL, OPT_ENABLE},
    {"disable", no_argument, NULL, OPT_DISABLE},
    {"merge", required_argument, NULL, OPT_MERGE},
    {"granularity", required_argument, NULL, 'g'},
    {"source-file", required_argument, NULL, 'b'},
    {"source-format", required_argument, NULL, 'F'},
    {NULL, 0, NULL, 0},
};

static const char *const action_names[] = {"add", "remove", "clear", "enable", "disable", "merge"};

/* What is to be done, in the order of the command line. */
struct action {
    int what; /* OPT_* */
    const char *merge;
};

struct bitmap_args {
    struct action *actions;
    size_t n_actions;
    const char *image;
    const char *bitmap;
    const char *source;
    const char *source_format;
    uint64_t granularity;
    bool adds, merges;
};

/* ----------------------------------------------------------------- options --- */

static int parse_option(struct tool *t, int c, struct bitmap_args *a)
{
    switch (c) {
    case 'b':
        a->source = optarg;
        return 0;
    case 'F':
        a->source_format = optarg;
        return 0;
    case 'f':
        t->format = optarg;
        return 0;
    case 'g':
        if (!tool_parse_number(t, "granularity", optarg, 1, INT64_MAX, &a->granularity))
            return -1;
        return 0;
    default:
        a->actions[a->n_actions].what = c;
        a->actions[a->n_actions++].merge = optarg;
        a->adds |= c == OPT_ADD;
        a->merges |= c == OPT_MERGE;
        return 0;
    }
}

/* Options that do not go together; -1 after a complaint. */
static int check_args(struct tool *t, int argc, const struct bitmap_args *a)
{
    const char *what = NULL;

    if (!a->n_actions)
        what = "Need at least one of --add, --remove, --clear, --enable, --disable, or --merge";
    else if (a->granularity && !a->adds)
        what = "granularity only supported with --add";
    else if (a->source_format && !a->source)
        what = "-F only supported with -b";
    else if (a->source && !a->merges)
        what = "Merge bitmap source file only supported with --merge";
    else if (argc - optind != 2)
        what = "Expecting filename and bitmap name";
    if (what)
        tool_complain(t, "%s", what);
    return what ? -1 : 0;
}

/* 0, or TOOL_STOP with t->status. */
static int parse_args(struct tool *t, int argc, char **argv, struct bitmap_args *a)
{
    int c;

    while ((c = tool_getopt(t, argc, argv, "b:f:F:g:", bitmap_options)) != TOOL_END) {
        if (c == TOOL_STOP)
            return TOOL_STOP;
        t->status = 1;
        if (parse_option(t, c, a) != 0)
            return TOOL_STOP;
    }
    t->status = 1;
    if (check_args(t, argc, a) != 0)
        return TOOL_STOP;
    a->image = argv[optind];
    a->bitmap = argv[optind + 1];
    return 0;
}

/* ----------------------------------------------------------------- actions --- */

static int act(struct tool *t, const struct bitmap_args *a, const struct action *action, qchain *c,
               qchain *source)
{
    switch (action->what) {
    case OPT_ADD:
        return qchain_bitmap_add(c, a->bitmap, a->granularity, 1, t->err);
    case OPT_REMOVE:
        return qchain_bitmap_remove(c, a->bitmap, t->err);
    case OPT_CLEAR:
        return qchain_bitmap_clear(c, a->bitmap, t->err);
    case OPT_ENABLE:
    case OPT_DISABLE:
        return qchain_bitmap_enable(c, a->bitmap, action->what == OPT_ENABLE, t->err);
    default:
        return qchain_bitmap_merge(c, a->bitmap, source ? source : c, action->merge, t->err);
    }
}

/* Is there one of this name? */
static bool has_bitmap(qchain *c, const char *name)
{
    qchain_dirty_extent e;
    uint64_t next;
    uint32_t n;

    return qchain_bitmap_query(c, name, 0, qchain_size(c), &e, 1, &n, &next, NULL) != QCHAIN_E_NOTFOUND;
}

/* What is common has qemu-img's words; the library's say more of the rest. */
static void complain(struct tool *t, const struct bitmap_args *a, const struct action *action,
                     qchain *c, int r)
{
    const char *name = action_names[action->what - OPT_ADD], *missing = a->bitmap;
    uint64_t g = a->granularity;
    bool odd = g && ((g & (g - 1)) != 0 || g < 512 || g > UINT64_C(1) << 31);

    if (action->what == OPT_MERGE && has_bitmap(c, a->bitmap))
        missing = action->merge;
    if (r == QCHAIN_E_NOTFOUND)
        tool_complain(t, "Operation %s on bitmap %s failed: Dirty bitmap '%s' not found", name,
                      a->bitmap, missing);
    else if (action->what == OPT_ADD && !*a->bitmap)
        tool_complain(t, "Operation %s on bitmap %s failed: Bitmap name cannot be empty", name,
                      a->bitmap);
    else if (action->what == OPT_ADD && odd)
        tool_complain(t,
                      "Operation %s on bitmap %s failed: Granularity must be power of 2 and at least "
                      "512",
                      name, a->bitmap);
    else if (action->what == OPT_ADD && r == QCHAIN_E_EXISTS)
        tool_complain(t, "Operation %s on bitmap %s failed: Bitmap already exists: %s", name, a->bitmap,
                      a->bitmap);
    else
        tool_complain(t, "Operation %s on bitmap %s failed: %s", name, a->bitmap,
                      qchain_error_message(t->err));
}

/* Stops at the first that fails; what was done before stays. */
static int act_all(struct tool *t, const struct bitmap_args *a, qchain *c, qchain *source)
{
    size_t i;
    int r;

    for (i = 0; i < a->n_actions; i++) {
        r = act(t, a, &a->actions[i], c, source);
        if (r) {
            complain(t, a, &a->actions[i], c, r);
            return 1;
        }
    }
    return 0;
}

/* The image is opened first: it may not be its own source. */
static int change(struct tool *t, const struct bitmap_args *a)
{
    qchain *c, *source = NULL;
    int status = 0;

    if (tool_open_writable(t, a->image, 0, &c) != 0)
        return 1;
    t->format = a->source_format;
    t->image_opts = false;
    if (a->source && tool_open(t, a->source, 0, NULL, &source) != 0)
        status = 1;
    if (status == 0)
        status = act_all(t, a, c, source);
    qchain_close(source);
    return tool_close_writable(t, c) != 0 ? 1 : status;
}

static int run_bitmap(struct tool *t, int argc, char **argv)
{
    struct bitmap_args a = {0};
    int status;

    a.actions = calloc((size_t)argc + 1, sizeof(*a.actions));
    if (!a.actions) {
        tool_complain(t, "out of memory");
        return 1;
    }
    status = parse_args(t, argc, argv, &a) == 0 ? change(t, &a) : t->status;
    free(a.actions);
    return status;
}

const struct tool_verb tool_verb_bitmap = {
    .name = "bitmap",
    .run = run_bitmap,
    .synopsis = "ACTION... [options] IMG BITMAP",
    .help = "  ACTION is one of these; several are done in their order:\n"
            "  --add, --remove         add a bitmap, enabled; remove it\n"
            "  --clear                 let it say that nothing was written\n"
            "  --enable, --disable     let it note what is written, or no longer\n"
            "  --merge FROM            add what the bitmap FROM has\n"
            "  -b, --source-file FILE  FROM is one of the image FILE\n"
            "  -F, --source-format FMT  whose format is FMT\n"
            "  -g, --granularity N     bytes of disk a bit, of a bitmap that is added (64k)\n"
            "  -f FMT                  the format of IMG\n",
    .usage_exit = 1,
};
