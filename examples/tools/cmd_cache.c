/* SPDX-License-Identifier: MIT */
/* cmd_cache.c - look at, check, shrink and empty a disk cache of remote layers. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"

enum { OPT_OUTPUT = TOOL_OPT_BASE };

static const struct option cache_options[] = {
    {"output", required_argument, NULL, OPT_OUTPUT},
    {NULL, 0, NULL, 0},
};

enum facts { FREED = 0x1, CHECKED = 0x2, SIZE = 0x4, SILENT = 0x8 };

struct action {
    const char *name;
    int (*run)(const char *dir, uint64_t size, qchain_cache_info *info, qchain_error *err);
    unsigned facts; /* what it has to tell beyond sizes, and SIZE: wants one */
};

/* ----------------------------------------------------------------- actions --- */

static int run_stat(const char *dir, uint64_t size, qchain_cache_info *info, qchain_error *err)
{
    (void)size;
    return qchain_cache_stat(dir, info, err);
}

static int run_verify(const char *dir, uint64_t size, qchain_cache_info *info, qchain_error *err)
{
    (void)size;
    return qchain_cache_verify(dir, info, err);
}

static int run_trim(const char *dir, uint64_t size, qchain_cache_info *info, qchain_error *err)
{
    return qchain_cache_trim(dir, size, info, err);
}

static int run_clear(const char *dir, uint64_t size, qchain_cache_info *info, qchain_error *err)
{
    (void)size;
    (void)info;
    return qchain_cache_clear(dir, err);
}

static const struct action actions[] = {
    {"stat", run_stat, 0},
    {"verify", run_verify, FREED | CHECKED},
    {"trim", run_trim, FREED | SIZE},
    {"clear", run_clear, SILENT},
};

#define N_ACTIONS (sizeof(actions) / sizeof(actions[0]))

/* ------------------------------------------------------------------ output --- */

static void put_number(struct tool_out *o, const char *what, uint64_t value)
{
    tool_out_str(o, what);
    tool_out_u64(o, value);
    tool_out_char(o, '\n');
}

static void put_size(struct tool_out *o, const char *what, uint64_t bytes)
{
    char text[64];

    tool_size_text(text, sizeof(text), bytes);
    tool_out_str(o, what);
    tool_out_str(o, text);
    tool_out_str(o, " (");
    tool_out_u64(o, bytes);
    tool_out_str(o, " bytes)\n");
}

static void put_human(struct tool_out *o, unsigned facts, const qchain_cache_info *info)
{
    put_number(o, "objects: ", info->objects);
    put_size(o, "disk size: ", info->bytes);
    if (facts & CHECKED) {
        put_number(o, "checked: ", info->checked);
        put_number(o, "damaged: ", info->damaged);
    }
    if (facts & FREED)
        put_size(o, "freed: ", info->freed);
}

static void put_json(struct tool_out *o, unsigned facts, const char *dir,
                     const qchain_cache_info *info)
{
    struct tool_json j;

    tool_json_init(&j, o);
    tool_json_open(&j, NULL, false);
    tool_json_str(&j, "directory", dir);
    tool_json_u64(&j, "objects", info->objects);
    tool_json_u64(&j, "actual-size", info->bytes);
    if (facts & CHECKED) {
        tool_json_u64(&j, "checked", info->checked);
        tool_json_u64(&j, "damaged", info->damaged);
    }
    if (facts & FREED)
        tool_json_u64(&j, "freed", info->freed);
    tool_json_close(&j);
}

static int put(struct tool *t, const struct action *a, const char *dir,
               const qchain_cache_info *info)
{
    struct tool_out o;

    if (t->quiet || a->facts & SILENT)
        return 0;
    if (!tool_out_init(&o, STDOUT_FILENO)) {
        tool_complain(t, "out of memory");
        return 1;
    }
    if (t->output == TOOL_JSON)
        put_json(&o, a->facts, dir, info);
    else
        put_human(&o, a->facts, info);
    return tool_out_finish(t, &o) == 0 ? 0 : 1;
}

/* ------------------------------------------------------------ command line --- */

static const struct action *find_action(const char *name)
{
    size_t i;

    for (i = 0; i < N_ACTIONS; i++)
        if (strcmp(actions[i].name, name) == 0)
            return &actions[i];
    return NULL;
}

static int do_action(struct tool *t, const struct action *a, const char *dir, uint64_t size)
{
    qchain_cache_info info;
    int r, status;

    memset(&info, 0, sizeof(info));
    info.struct_size = sizeof(info);
    r = a->run(dir, size, &info, t->err);
    if (r != 0) {
        tool_complain_error(t);
        return r == QCHAIN_E_NOTFOUND || r == QCHAIN_E_INVAL ? 2 : 1;
    }
    status = put(t, a, dir, &info);
    return status == 0 && info.damaged > 0 ? 3 : status;
}

static int run_cache(struct tool *t, int argc, char **argv)
{
    const struct action *action;
    uint64_t size = 0;
    int c, n;

    while ((c = tool_getopt(t, argc, argv, "q", cache_options)) != TOOL_END) {
        if (c == 'q')
            t->quiet = true;
        else if (c == TOOL_STOP)
            return t->status;
        else if (!tool_parse_output(t, optarg, false))
            return 1;
    }
    action = optind < argc ? find_action(argv[optind]) : NULL;
    if (!action)
        return tool_usage_error(t, "Expecting stat, verify, trim or clear");
    n = action->facts & SIZE ? 3 : 2;
    if (argc - optind != n)
        return tool_usage_error(t, n == 3 ? "Expecting a directory and a size"
                                          : "Expecting one directory");
    if (n == 3 && !tool_parse_size(t, "size", argv[optind + 2], &size))
        return 1;
    return do_action(t, action, argv[optind + 1], size);
}

const struct tool_verb tool_verb_cache = {
    .name = "cache",
    .run = run_cache,
    .synopsis = "stat|verify|trim|clear [options] DIR [SIZE]",
    .help = "  stat                    tell how many objects DIR holds bytes of, and its size\n"
            "  verify                  check all checksums; what is damaged is dropped\n"
            "  trim                    drop what was used least recently, until DIR takes at\n"
            "                          most SIZE (b k M G T)\n"
            "  clear                   drop everything\n"
            "  --output=FORMAT         human (default) or json\n"
            "  -q                      print nothing\n",
    .usage_exit = 1,
};
