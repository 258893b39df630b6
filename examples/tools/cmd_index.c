/* SPDX-License-Identifier: MIT */
/* cmd_index.c - make, describe, check and remove the sidecar index of an image. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tool.h"

enum { OPT_OUTPUT = TOOL_OPT_BASE, OPT_FULL, OPT_NO_WAIT, OPT_FILES };

static const struct option index_options[] = {
    {"format", required_argument, NULL, 'f'},
    {"output", required_argument, NULL, OPT_OUTPUT},
    {"full", no_argument, NULL, OPT_FULL},
    {"no-wait", no_argument, NULL, OPT_NO_WAIT},
    {"files", no_argument, NULL, OPT_FILES},
    {NULL, 0, NULL, 0},
};

/* Options that only some actions take. */
enum given { FULL = 0x1, NO_WAIT = 0x2, FILES = 0x4, OUTPUT = 0x8 };

struct index_args {
    const char *name;
    const char *index; /* the sidecar's path or URL, NULL = beside the image */
    unsigned given;
};

struct action {
    const char *name;
    int (*run)(struct tool *t, struct index_args *a);
    unsigned takes;
};

/* Exit codes: no index, or one that is not believed; a damaged or wrong one; the rest. */
static int status_of(int r)
{
    switch (r) {
    case 0:
        return 0;
    case QCHAIN_E_NOTFOUND:
    case QCHAIN_E_CHANGED:
        return 2;
    case QCHAIN_E_CORRUPT:
        return 3;
    default:
        return 1;
    }
}

static void set_index_opts(const struct tool *t, const struct index_args *a, qchain_index_opts *o)
{
    qchain_index_opts_init(o, sizeof(*o));
    o->threads = t->threads;
    o->name = a->index;
}

/* ------------------------------------------------------------------- build --- */

static const char *plural(uint64_t n)
{
    return n == 1 ? "" : "s";
}

/* What was built, as the file itself tells it. */
static int report_build(struct tool *t, struct index_args *a, uint32_t from_index)
{
    qchain_index_info *info;

    t->index = a->index;
    t->no_index = false;
    if (tool_index_info(t, a->name, &info) != 0)
        return 1;
    if (!t->quiet)
        printf("%s: %" PRIu32 " layer%s, %" PRIu64 " run%s, %" PRIu64 " bytes, %" PRIu32
               " page%s; %" PRIu32 " layer%s read, %" PRIu32 " from an index\n",
               info->name, info->n_layers, plural(info->n_layers), info->n_runs,
               plural(info->n_runs), info->file_size, info->n_pages, plural(info->n_pages),
               info->n_layers - from_index, plural(info->n_layers - from_index), from_index);
    if (info->why_not)
        tool_complain(t, "warning: the index is not used: %s", info->why_not);
    qchain_index_info_free(info);
    return 0;
}

static int build(struct tool *t, struct index_args *a)
{
    uint32_t flags = a->given & FULL ? (uint32_t)QCHAIN_OPEN_NO_INDEX : 0;
    qchain_index_opts o;
    struct tool_job job;
    uint32_t from_index;
    qchain *c;
    int r;

    if (tool_open(t, a->name, flags, NULL, &c) != 0)
        return 1;
    from_index = qchain_index_layers(c);
    set_index_opts(t, a, &o);
    o.flags = a->given & NO_WAIT ? (uint32_t)QCHAIN_INDEX_NO_WAIT : 0;
    r = tool_job_start(t, &job, STDERR_FILENO, false);
    if (r == 0) {
        o.job = job.job;
        r = qchain_index_build(c, &o, t->err);
        tool_job_finish(&job, r == 0);
        r = tool_job_status(t, r, 1);
    }
    qchain_close(c);
    if (r)
        return r < 0 ? 1 : r;
    return report_build(t, a, from_index);
}

/* -------------------------------------------------------------------- show --- */

static void put_file(struct tool_json *j, const qchain_index_file *f)
{
    tool_json_open(j, NULL, false);
    tool_json_u64(j, "layer", f->layer);
    tool_json_bool(j, "data-file", f->flags & QCHAIN_INDEX_FILE_DATA);
    tool_json_str(j, "filename", f->name);
    tool_json_str(j, "location", f->location);
    tool_json_str(j, "format", f->format);
    tool_json_u64(j, "virtual-size", f->virtual_size);
    tool_json_u64(j, "cluster-size", f->cluster_size);
    tool_json_u64(j, "file-size", f->size);
    tool_json_u64(j, "mtime-sec", f->mtime_ns / 1000000000);
    tool_json_u64(j, "mtime-nsec", f->mtime_ns % 1000000000);
    tool_json_bool(j, "racy", f->flags & QCHAIN_INDEX_FILE_RACY);
    tool_json_bool(j, "holes", f->flags & QCHAIN_INDEX_FILE_HOLES);
    tool_json_bool(j, "remote", f->flags & QCHAIN_INDEX_FILE_REMOTE);
    tool_json_close(j);
}

static void put_json(struct tool_out *o, const qchain_index_info *info, bool files)
{
    struct tool_json j;
    uint32_t i;

    tool_json_init(&j, o);
    tool_json_open(&j, NULL, false);
    tool_json_str(&j, "filename", info->name);
    tool_json_bool(&j, "used", !info->why_not);
    if (info->why_not)
        tool_json_str(&j, "why-not", info->why_not);
    tool_json_u64(&j, "version", info->version);
    tool_json_u64(&j, "file-size", info->file_size);
    tool_json_u64(&j, "virtual-size", info->virtual_size);
    tool_json_u64(&j, "built-sec", info->built_ns / 1000000000);
    tool_json_u64(&j, "built-nsec", info->built_ns % 1000000000);
    tool_json_u64(&j, "runs", info->n_runs);
    tool_json_u64(&j, "pages", info->n_pages);
    tool_json_u64(&j, "layers", info->n_layers);
    tool_json_u64(&j, "file-count", info->n_files);
    if (files) {
        tool_json_open(&j, "files", true);
        for (i = 0; i < info->n_files; i++)
            put_file(&j, &info->files[i]);
        tool_json_close(&j);
    }
    tool_json_close(&j);
}

static void put_fact(struct tool_out *o, const char *what, uint64_t value)
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

/* In local time. */
static void put_time(struct tool_out *o, uint64_t ns)
{
    time_t sec = (time_t)(ns / 1000000000);
    char text[64] = "?";
    struct tm tm;

    if (localtime_r(&sec, &tm))
        strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm);
    tool_out_str(o, text);
}

/* A line a file. */
static void put_file_line(struct tool_out *o, const qchain_index_file *f)
{
    char size[64];

    tool_size_text(size, sizeof(size), f->size);
    tool_out_char(o, '#');
    tool_out_u64(o, f->layer);
    tool_out_char(o, ' ');
    tool_out_str(o, f->location);
    tool_out_str(o, ": ");
    tool_out_str(o, f->flags & QCHAIN_INDEX_FILE_DATA ? "data file" : f->format);
    tool_out_str(o, ", ");
    tool_out_str(o, size);
    if (f->mtime_ns || !(f->flags & QCHAIN_INDEX_FILE_REMOTE)) {
        tool_out_str(o, ", ");
        put_time(o, f->mtime_ns);
    }
    if (f->flags & QCHAIN_INDEX_FILE_RACY)
        tool_out_str(o, ", modified too shortly before the build");
    tool_out_char(o, '\n');
}

static void put_human(struct tool_out *o, const qchain_index_info *info, bool files)
{
    uint32_t i;

    tool_out_str(o, "index: ");
    tool_out_str(o, info->name);
    tool_out_str(o, info->why_not ? "\nused: no: " : "\nused: yes");
    tool_out_str(o, info->why_not ? info->why_not : "");
    tool_out_str(o, "\nbuilt: ");
    put_time(o, info->built_ns);
    tool_out_char(o, '\n');
    put_size(o, "virtual size: ", info->virtual_size);
    put_size(o, "index size: ", info->file_size);
    put_fact(o, "layers: ", info->n_layers);
    put_fact(o, "files: ", info->n_files);
    put_fact(o, "runs: ", info->n_runs);
    put_fact(o, "pages: ", info->n_pages);
    for (i = 0; files && i < info->n_files; i++)
        put_file_line(o, &info->files[i]);
}

static int show(struct tool *t, struct index_args *a)
{
    qchain_index_info *info;
    struct tool_out o;
    int r = tool_index_info(t, a->name, &info);

    if (r == QCHAIN_E_NOTFOUND && access(a->name, F_OK) == 0)
        fprintf(stderr, "'qchain index build' makes one\n");
    if (r)
        return status_of(r);
    if (!tool_out_init(&o, STDOUT_FILENO)) {
        tool_complain(t, "out of memory");
        r = 1;
    } else {
        (t->output == TOOL_JSON ? put_json : put_human)(&o, info, a->given & FILES);
        r = tool_out_finish(t, &o) ? 1 : 0;
    }
    qchain_index_info_free(info);
    return r;
}

/* --------------------------------------------------------- verify and drop --- */

static int verify(struct tool *t, struct index_args *a)
{
    qchain_index_opts o;
    struct tool_job job;
    qchain *c;
    int r;

    if (tool_open(t, a->name, QCHAIN_OPEN_NO_INDEX, NULL, &c) != 0)
        return 1;
    set_index_opts(t, a, &o);
    r = tool_job_start(t, &job, STDERR_FILENO, false);
    if (r == 0) {
        o.job = job.job;
        r = qchain_index_verify(c, &o, t->err);
        tool_job_finish(&job, r == 0);
        r = tool_job_status(t, r, status_of(r));
    }
    qchain_close(c);
    return r < 0 ? 1 : r;
}

static int drop(struct tool *t, struct index_args *a)
{
    const char *name = a->name;
    qchain_index_opts o;
    char *owned = NULL;
    uint32_t flags = 0;
    int r;

    if (t->image_opts) {
        name = owned = tool_image_opts(t, name, &flags);
        if (!owned)
            return 1;
    }
    set_index_opts(t, a, &o);
    r = 1;
    if (tool_make_env(t) == 0) {
        r = qchain_index_drop(t->env, name, &o, t->err);
        if (r)
            tool_complain_error(t);
    }
    free(owned);
    return status_of(r);
}

/* ------------------------------------------------------------ command line --- */

static const struct action actions[] = {
    {"build", build, FULL | NO_WAIT},
    {"show", show, FILES | OUTPUT},
    {"verify", verify, 0},
    {"drop", drop, 0},
};

#define N_ACTIONS (sizeof(actions) / sizeof(actions[0]))

/* 0 or TOOL_STOP with t->status. */
static int parse_options(struct tool *t, int argc, char **argv, struct index_args *a)
{
    uint64_t n;
    int c;

    t->status = 1;
    while ((c = tool_getopt(t, argc, argv, "f:T:pq", index_options)) != TOOL_END) {
        switch (c) {
        case 'f':
            t->format = optarg;
            break;
        case 'T':
            if (!tool_parse_number(t, "number of threads", optarg, 1, 64, &n))
                return TOOL_STOP;
            t->threads = (uint32_t)n;
            break;
        case 'p':
            if (!t->progress)
                t->progress = TOOL_PROGRESS_TEXT;
            break;
        case 'q':
            t->quiet = true;
            break;
        case OPT_OUTPUT:
            if (!tool_parse_output(t, optarg, false))
                return TOOL_STOP;
            a->given |= OUTPUT;
            break;
        case OPT_FULL:
            a->given |= FULL;
            break;
        case OPT_NO_WAIT:
            a->given |= NO_WAIT;
            break;
        case OPT_FILES:
            a->given |= FILES;
            break;
        default:
            return TOOL_STOP;
        }
    }
    return 0;
}

static const struct action *find_action(const char *name)
{
    size_t i;

    for (i = 0; i < N_ACTIONS; i++)
        if (strcmp(actions[i].name, name) == 0)
            return &actions[i];
    return NULL;
}

static int run_index(struct tool *t, int argc, char **argv)
{
    static const char *const names[] = {"--full", "--no-wait", "--files", "--output"};
    struct index_args a = {0};
    const struct action *action;
    size_t i;

    if (parse_options(t, argc, argv, &a) != 0)
        return t->status;
    action = optind < argc ? find_action(argv[optind]) : NULL;
    if (!action)
        return tool_usage_error(t, "Expecting build, show, verify or drop");
    if (optind != argc - 2)
        return tool_usage_error(t, "Expecting one image file name");
    for (i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        if (a.given & ~action->takes & 1u << i)
            return tool_usage_error(t, "%s has no option %s", action->name, names[i]);
    a.name = argv[optind + 1];
    a.index = t->index;
    return action->run(t, &a);
}

const struct tool_verb tool_verb_index = {
    .name = "index",
    .run = run_index,
    .synopsis = "build|show|verify|drop [options] IMG",
    .help = "  build                   write the sidecar index of IMG, beside it\n"
            "  show                    tell what it says, and whether it is used\n"
            "  verify                  compare it with the layers\n"
            "  drop                    remove it\n"
            "  -f, --format FMT        the format of IMG: qcow2\n"
            "  --full                  build: read all layers, whatever indexes there are\n"
            "  --no-wait               build: at once, even if a layer is not 2 seconds old\n"
            "  --output=FORMAT         show: human (default) or json\n"
            "  --files                 show: with a line a file\n"
            "  -T N                    as --threads N\n"
            "  -p, -q                  show progress; be quiet\n",
    .usage_exit = 1,
};
