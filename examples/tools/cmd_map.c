/* SPDX-License-Identifier: MIT */
/* cmd_map.c - print which bytes of a disk are stored, and where. */
#include <string.h>
#include <unistd.h>

#include "tool.h"

enum { OPT_OUTPUT = TOOL_OPT_BASE };

static const struct option map_options[] = {
    {"format", required_argument, NULL, 'f'},
    {"output", required_argument, NULL, OPT_OUTPUT},
    {"start-offset", required_argument, NULL, 's'},
    {"max-length", required_argument, NULL, 'l'},
    {NULL, 0, NULL, 0},
};

struct map_args {
    const char *name;
    uint64_t start;
    uint64_t length;
};

/* What the printers need. */
struct map_print {
    struct tool *t;
    struct tool_out out;
    const qchain *chain;
};

/* Names come from images: control characters would act on a terminal. Else they are as qemu-img prints them. */
static void put_name(struct tool_out *o, const char *name)
{
    static const char hex[] = "0123456789abcdef";

    for (; *name; name++) {
        unsigned char c = (unsigned char)*name;

        if (c >= 0x20 && c != 0x7f) {
            tool_out_char(o, *name);
        } else {
            tool_out_str(o, "\\x");
            tool_out_char(o, hex[c >> 4]);
            tool_out_char(o, hex[c & 15]);
        }
    }
}

static int put_human(void *data, const qchain_extent *e, bool last)
{
    struct map_print *p = data;
    const char *name;

    (void)last;
    if (!(e->flags & QCHAIN_EXTENT_DATA))
        return 0;
    if (!(e->flags & QCHAIN_EXTENT_HAS_OFFSET) || (e->flags & QCHAIN_EXTENT_COMPRESSED)) {
        tool_out_flush(&p->out);
        tool_complain(p->t, "File contains external, encrypted or compressed clusters.");
        return 1;
    }
    if (e->flags & QCHAIN_EXTENT_ZERO)
        return 0;
    name = qchain_source_name(p->chain, e->source);
    tool_out_hex(&p->out, e->offset, 16);
    tool_out_hex(&p->out, e->length, 16);
    tool_out_hex(&p->out, e->host_offset, 16);
    put_name(&p->out, name ? name : "");
    tool_out_char(&p->out, '\n');
    return 0;
}

static int put_json(void *data, const qchain_extent *e, bool last)
{
    struct map_print *p = data;

    tool_extent_json(&p->out, e);
    if (!last)
        tool_out_str(&p->out, ",\n");
    return 0;
}

static int put_json_full(void *data, const qchain_extent *e, bool last)
{
    struct map_print *p = data;

    tool_extent_json_full(&p->out, p->chain, e);
    if (!last)
        tool_out_str(&p->out, ",\n");
    return 0;
}

static int print_map(struct tool *t, qchain *c, const struct map_args *a)
{
    static const tool_extent_fn printers[] = {put_human, put_json, put_json_full};
    struct map_print p = {.t = t, .chain = c};
    struct tool_merge m = {.put = printers[t->output], .data = &p};
    uint64_t end = qchain_size(c);
    int r;

    if (!tool_out_init(&p.out, STDOUT_FILENO)) {
        tool_complain(t, "out of memory");
        return 1;
    }
    m.as_text = t->output == TOOL_HUMAN;
    m.keep = t->output == TOOL_JSON_FULL;
    if (t->output == TOOL_HUMAN)
        tool_out_str(&p.out, "Offset          Length          Mapped to       File\n");
    else
        tool_out_char(&p.out, '[');
    if (a->length < end && a->start < end - a->length)
        end = a->start + a->length;
    /* nothing in the range: qemu-img prints an empty extent for it */
    if (a->start >= end) {
        m.current.offset = a->start;
        m.any = t->output == TOOL_JSON;
    }
    r = tool_merge_range(t, &m, c, a->start, end, 0, 0);
    if (r == 0)
        r = tool_merge_end(&m);
    if (r == 0 && t->output != TOOL_HUMAN)
        tool_out_str(&p.out, "]\n");
    if (tool_out_finish(t, &p.out) != 0)
        r = -1;
    return r ? 1 : 0;
}

/* 0, or TOOL_STOP with t->status. */
static int parse_args(struct tool *t, int argc, char **argv, struct map_args *a)
{
    const char *output = NULL;
    bool ok = true;
    int c;

    t->status = 1;
    while (ok && (c = tool_getopt(t, argc, argv, "f:s:l:", map_options)) != TOOL_END) {
        switch (c) {
        case 'f':
            t->format = optarg;
            break;
        case 's':
            ok = tool_parse_size(t, "start offset", optarg, &a->start);
            break;
        case 'l':
            ok = tool_parse_size(t, "max length", optarg, &a->length);
            break;
        case OPT_OUTPUT:
            output = optarg;
            break;
        default:
            return TOOL_STOP;
        }
    }
    if (!ok)
        return TOOL_STOP;
    if (optind != argc - 1) {
        t->status = tool_usage_error(t, "Expecting one image file name");
        return TOOL_STOP;
    }
    a->name = argv[optind];
    return !output || tool_parse_output(t, output, true) ? 0 : TOOL_STOP;
}

static int run_map(struct tool *t, int argc, char **argv)
{
    struct map_args a = {.length = UINT64_MAX};
    qchain *c;
    int status;

    if (parse_args(t, argc, argv, &a) != 0)
        return t->status;
    if (tool_open(t, a.name, 0, NULL, &c) != 0)
        return 1;
    status = print_map(t, c, &a);
    qchain_close(c);
    return status;
}

const struct tool_verb tool_verb_map = {
    .name = "map",
    .run = run_map,
    .synopsis = "[options] IMG",
    .help = "  -f, --format FMT        the format of IMG: qcow2, raw\n"
            "  --output=FORMAT         human (default), json or json-full\n"
            "  -s, --start-offset N    begin at N\n"
            "  -l, --max-length N      map N bytes at most\n",
    .usage_exit = 1,
};
