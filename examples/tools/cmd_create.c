/* SPDX-License-Identifier: MIT */
/* cmd_create.c - make an image. */
#include <stdio.h>
#include <string.h>

#include "tool.h"

#define MAX_LISTS 32

struct create_args {
    const char *name;
    const char *size;
    const char *backing, *backing_format;
    const char *list[MAX_LISTS];
    unsigned n_lists;
    bool unsafe;
};

/* 0, or TOOL_STOP with t->status. */
static int parse_args(struct tool *t, int argc, char **argv, struct create_args *a)
{
    int c;

    while ((c = tool_getopt(t, argc, argv, "f:b:F:uo:q", NULL)) != TOOL_END) {
        switch (c) {
        case 'f':
            t->format = optarg;
            break;
        case 'b':
            a->backing = optarg;
            break;
        case 'F':
            a->backing_format = optarg;
            break;
        case 'u':
            a->unsafe = true;
            break;
        case 'o':
            if (a->n_lists == MAX_LISTS) {
                t->status = tool_usage_error(t, "-o is given too often");
                return TOOL_STOP;
            }
            a->list[a->n_lists++] = optarg;
            break;
        case 'q':
            t->quiet = true;
            break;
        default:
            return TOOL_STOP;
        }
    }
    a->name = optind < argc ? argv[optind++] : "";
    a->size = optind < argc ? argv[optind++] : NULL;
    if (optind < argc) {
        t->status = tool_usage_error(t, "Unexpected argument: %s", argv[optind]);
        return TOOL_STOP;
    }
    if (t->image_opts) {
        t->status = tool_usage_error(t, "--image-opts cannot be used here: a new image has a name");
        return TOOL_STOP;
    }
    return 0;
}

/* All that the command line says, in one place. */
static int gather(struct tool *t, const struct create_args *a, struct tool_create *c)
{
    c->o.format = t->format ? t->format : "raw";
    if (strcmp(c->o.format, "raw") != 0 && strcmp(c->o.format, "qcow2") != 0) {
        tool_complain(t, "%s: Unknown file format '%s'", a->name, c->o.format);
        return -1;
    }
    for (unsigned i = 0; i < a->n_lists; i++)
        if (tool_create_parse(t, c, a->list[i], false) != 0)
            return -1;
    if (c->help)
        return 0;
    if (!*a->name) {
        tool_usage_error(t, "Expecting image file name");
        return -1;
    }
    if (a->size && c->o.size != UINT64_MAX) {
        tool_complain(t, "%s: The image size must be specified only once", a->name);
        return -1;
    }
    if (a->size && !tool_parse_size(t, "image size", a->size, &c->o.size))
        return -1;
    if (a->backing)
        c->o.backing_file = a->backing;
    if (a->backing_format)
        c->o.backing_format = a->backing_format;
    c->o.flags |= a->unsafe ? (uint32_t)QCHAIN_CREATE_UNSAFE_BACKING : 0;
    c->o.policy = t->policy;
    return 0;
}

/* What cannot be right whatever the library says. */
static int check(struct tool *t, const struct tool_create *c)
{
    const qchain_create_opts *o = &c->o;

    if ((o->backing_file || o->backing_format) && strcmp(o->format, "raw") == 0) {
        tool_complain(t, "%s: Backing file not supported for file format 'raw'", c->name);
        return -1;
    }
    if (o->backing_file && !o->backing_format) {
        tool_complain(t, "%s: Backing file specified without backing format (-F)", c->name);
        return -1;
    }
    if (o->size == UINT64_MAX && (!o->backing_file || o->flags & QCHAIN_CREATE_UNSAFE_BACKING)) {
        tool_complain(t, "%s: Image creation needs a size parameter", c->name);
        return -1;
    }
    return 0;
}

/* The size that the backing file gave, for the line that is printed. */
static int find_size(struct tool *t, struct tool_create *c)
{
    qchain_image_info *info;

    t->format = c->o.format;
    if (tool_inspect(t, c->name, &info) != 0)
        return -1;
    c->o.size = info->virtual_size;
    qchain_image_info_free(info);
    return 0;
}

static int create(struct tool *t, struct tool_create *c)
{
    bool known = c->o.size != UINT64_MAX;

    if (tool_make_env(t) != 0)
        return 1;
    if (known && !t->quiet)
        tool_create_print(c);
    if (qchain_create(t->env, c->name, &c->o, t->err) != 0) {
        tool_complain_error(t);
        return 1;
    }
    if (known || t->quiet)
        return 0;
    if (find_size(t, c) != 0)
        return 1;
    tool_create_print(c);
    return 0;
}

static int run_create(struct tool *t, int argc, char **argv)
{
    struct create_args a = {.unsafe = false};
    struct tool_create c;
    int status = 1;

    if (parse_args(t, argc, argv, &a) != 0)
        return t->status;
    tool_create_init(&c, a.name);
    if (gather(t, &a, &c) == 0) {
        if (c.help) {
            tool_create_help(c.o.format, false);
            status = 0;
        } else if (check(t, &c) == 0) {
            status = create(t, &c);
        }
    }
    tool_create_finish(&c);
    return status;
}

const struct tool_verb tool_verb_create = {
    .name = "create",
    .run = run_create,
    .synopsis = "[options] IMG [SIZE]",
    .help = "  -f FMT                  the format: raw (the default) or qcow2\n"
            "  -b BACKING, -F FMT      the image below, and its format\n"
            "  -u                      do not open the image below; SIZE must be given\n"
            "  -o KEY=VALUE,...        options of the format; -o help lists them\n"
            "  -q                      print nothing but errors\n",
    .usage_exit = 1,
};
