/* SPDX-License-Identifier: MIT */
/* cmd_amend.c - change options of an image. */
#include <stdio.h>
#include <string.h>

#include "tool.h"

#define MAX_LISTS 32

struct amend_args {
    const char *name;
    const char *list[MAX_LISTS];
    unsigned n_lists;
    const char *cache;
};

static int stop(struct tool *t)
{
    t->status = 1;
    return TOOL_STOP;
}

static int parse_option(struct tool *t, int c, struct amend_args *a)
{
    switch (c) {
    case 'f':
        t->format = optarg;
        return 0;
    case 'o':
        if (a->n_lists == MAX_LISTS) {
            tool_complain(t, "-o is given too often");
            return stop(t);
        }
        a->list[a->n_lists++] = optarg;
        return 0;
    case 't':
        a->cache = optarg;
        return 0;
    case 'p': /* nothing takes long */
        return 0;
    case 'q':
        t->quiet = true;
        return 0;
    default:
        return TOOL_STOP;
    }
}

/* 0, or TOOL_STOP with t->status. */
static int parse_args(struct tool *t, int argc, char **argv, struct amend_args *a)
{
    static const struct option longs[] = {{"force", no_argument, NULL, 'p'}, {NULL, 0, NULL, 0}};
    int c;

    while ((c = tool_getopt(t, argc, argv, "f:o:t:pq", longs)) != TOOL_END)
        if (parse_option(t, c, a) != 0)
            return TOOL_STOP;
    if (a->n_lists == 0) {
        t->status = tool_usage_error(t, "Must specify options (-o)");
        return TOOL_STOP;
    }
    a->name = optind == argc - 1 ? argv[optind] : NULL;
    if (!tool_known_cache(a->cache)) {
        tool_complain(t, "Invalid cache option: %s", a->cache);
        return stop(t);
    }
    return 0;
}

/* What qemu-img knows of, and leaves to other commands. */
static bool check(struct tool *t, const struct tool_create *c)
{
    if (c->given & (1u << TOOL_KEY_BACKING_FILE | 1u << TOOL_KEY_BACKING_FORMAT)) {
        tool_complain(t, "Cannot amend the backing file");
        fprintf(stderr, "'qchain rebase' changes it.\n");
        return false;
    }
    return true;
}

static uint32_t mask_of(const struct tool_create *c)
{
    static const struct {
        enum tool_create_key key;
        uint32_t bit;
    } bits[] = {
        {TOOL_KEY_COMPAT, QCHAIN_AMEND_VERSION},
        {TOOL_KEY_SIZE, QCHAIN_AMEND_SIZE},
        {TOOL_KEY_LAZY_REFCOUNTS, QCHAIN_AMEND_LAZY_REFCOUNTS},
        {TOOL_KEY_REFCOUNT_BITS, QCHAIN_AMEND_REFCOUNT_BITS},
        {TOOL_KEY_DATA_FILE, QCHAIN_AMEND_DATA_FILE},
        {TOOL_KEY_DATA_FILE_RAW, QCHAIN_AMEND_DATA_FILE_RAW},
    };
    uint32_t mask = 0;

    for (size_t i = 0; i < sizeof(bits) / sizeof(bits[0]); i++)
        if (c->given & 1u << bits[i].key)
            mask |= bits[i].bit;
    return mask;
}

static int amend(struct tool *t, const struct amend_args *a, const struct tool_create *c)
{
    uint32_t mask = mask_of(c), flags = QCHAIN_OPEN_WRITE;
    qchain *chain = NULL;
    int r;

    /* What lies below matters to the size alone. */
    if (!(mask & QCHAIN_AMEND_SIZE))
        flags |= QCHAIN_OPEN_NO_BACKING;
    if (!tool_may_write(t, a->name) || tool_open(t, a->name, flags, NULL, &chain) != 0)
        return 1;
    r = qchain_amend(chain, &c->o, mask, NULL, t->err);
    if (r == 0)
        r = qchain_finish(chain, t->err);
    if (r != 0)
        tool_complain_error(t);
    qchain_close(chain);
    return r == 0 ? 0 : 1;
}

static int run_amend(struct tool *t, int argc, char **argv)
{
    struct amend_args a = {.cache = "writeback"};
    struct tool_create c;
    int status = 1, r = 0;

    if (parse_args(t, argc, argv, &a) != 0)
        return t->status;
    tool_create_init(&c, "");
    for (unsigned i = 0; r == 0 && i < a.n_lists; i++)
        r = tool_create_parse(t, &c, a.list[i], true);
    if (r == 0 && c.help) {
        tool_create_help("qcow2", true);
        status = 0;
    } else if (r == 0 && !a.name) {
        tool_complain(t, "Expecting one image file name");
    } else if (r == 0 && check(t, &c)) {
        status = amend(t, &a, &c);
    }
    tool_create_finish(&c);
    return status;
}

const struct tool_verb tool_verb_amend = {
    .name = "amend",
    .run = run_amend,
    .synopsis = "[options] -o KEY=VALUE,... IMG",
    .help = "  -o KEY=VALUE,...        what to change; -o help lists it\n"
            "  -f FMT                  the format of IMG\n"
            "  -t CACHE                a cache mode; without effect\n"
            "  -p                      show progress; without effect\n"
            "  -q                      print nothing but errors\n",
    .usage_exit = 1,
};
