/* SPDX-License-Identifier: MIT */
/* cmd_diff.c - print what layers of a chain change. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"

enum { OPT_OUTPUT = TOOL_OPT_BASE, OPT_BELOW, OPT_UPTO };

static const struct option diff_options[] = {
    {"format", required_argument, NULL, 'f'},
    {"output", required_argument, NULL, OPT_OUTPUT},
    {"below", required_argument, NULL, OPT_BELOW},
    {"upto", required_argument, NULL, OPT_UPTO},
    {NULL, 0, NULL, 0},
};

struct diff_args {
    const char *name;
    const char *below; /* a number or a name; NULL = the backing file */
    const char *upto;  /* NULL = the top */
};

struct diff_print {
    struct tool_out out;
    const qchain *chain;
    bool full;
};

static int put_human(void *data, const qchain_extent *e, bool last)
{
    struct diff_print *p = data;

    (void)last;
    tool_out_hex(&p->out, e->offset, 16);
    tool_out_hex(&p->out, e->length, 16);
    tool_out_str(&p->out, e->flags & QCHAIN_EXTENT_ZERO ? "zero    " : "data    ");
    tool_out_u64(&p->out, e->layer);
    tool_out_char(&p->out, '\n');
    return 0;
}

static int put_json(void *data, const qchain_extent *e, bool last)
{
    struct diff_print *p = data;

    if (p->full)
        tool_extent_json_full(&p->out, p->chain, e);
    else
        tool_extent_json(&p->out, e);
    if (!last)
        tool_out_str(&p->out, ",\n");
    return 0;
}

static int print_diff(struct tool *t, qchain *c, uint32_t below, uint32_t upto)
{
    struct diff_print p = {.chain = c, .full = t->output == TOOL_JSON_FULL};
    struct tool_merge m = {.data = &p, .keep = p.full};
    int r;

    if (!tool_out_init(&p.out, STDOUT_FILENO)) {
        tool_complain(t, "out of memory");
        return 1;
    }
    m.put = t->output == TOOL_HUMAN ? put_human : put_json;
    if (t->output == TOOL_HUMAN)
        tool_out_str(&p.out, "Offset          Length          Change  Layer\n");
    else
        tool_out_char(&p.out, '[');
    r = tool_merge_range(t, &m, c, 0, qchain_size(c), below, upto);
    if (r == 0)
        r = tool_merge_end(&m);
    if (r == 0 && t->output != TOOL_HUMAN)
        tool_out_str(&p.out, "]\n");
    if (tool_out_finish(t, &p.out) != 0)
        r = -1;
    return r ? 1 : 0;
}

static int diff(struct tool *t, qchain *c, const struct diff_args *a)
{
    uint32_t layers = qchain_layers(c), below, upto = 0;

    if (a->upto && !tool_find_layer(t, c, a->upto, layers - 1, &upto))
        return 2;
    below = upto + 1;
    if (a->below && !tool_find_layer(t, c, a->below, layers, &below))
        return 2;
    if (below <= upto) {
        tool_complain(t, "layer %u is not below layer %u", (unsigned)below, (unsigned)upto);
        return 2;
    }
    return print_diff(t, c, below, upto);
}

static int run_diff(struct tool *t, int argc, char **argv)
{
    struct diff_args a = {NULL, NULL, NULL};
    qchain *chain;
    int c, status;

    while ((c = tool_getopt(t, argc, argv, "f:", diff_options)) != TOOL_END) {
        switch (c) {
        case 'f':
            t->format = optarg;
            break;
        case OPT_OUTPUT:
            if (!tool_parse_output(t, optarg, true))
                return 2;
            break;
        case OPT_BELOW:
            a.below = optarg;
            break;
        case OPT_UPTO:
            a.upto = optarg;
            break;
        default:
            return t->status;
        }
    }
    if (optind != argc - 1)
        return tool_usage_error(t, "Expecting one image file name");
    a.name = argv[optind];
    if (tool_open(t, a.name, 0, NULL, &chain) != 0)
        return 1;
    status = diff(t, chain, &a);
    qchain_close(chain);
    return status;
}

const struct tool_verb tool_verb_diff = {
    .name = "diff",
    .run = run_diff,
    .synopsis = "[options] IMG",
    .help = "  -f, --format FMT        the format of IMG: qcow2, raw\n"
            "  --output=FORMAT         human (default), json or json-full\n"
            "  --upto LAYER            the uppermost layer that counts (default: 0, the top)\n"
            "  --below LAYER           the first one that does not (default: the next)\n"
            "A LAYER is a number, counted from the top, or the name of its file.\n",
    .usage_exit = 2,
};
