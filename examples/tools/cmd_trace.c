/* SPDX-License-Identifier: MIT */
/* cmd_trace.c - print, sum up and merge traces of what was read of a disk. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"

#define BLOCK (UINT64_C(2) << 20)
#define MAX_BLOCKS (UINT64_C(4) << 20) /* that are told one by one */

enum { OPT_OUTPUT = TOOL_OPT_BASE, OPT_BLOCKS, OPT_RANGES };

static const struct option trace_options[] = {
    {"output", required_argument, NULL, OPT_OUTPUT},
    {"blocks", no_argument, NULL, OPT_BLOCKS},
    {"ranges", no_argument, NULL, OPT_RANGES},
    {NULL, 0, NULL, 0},
};

struct trace_args {
    const char *const *name;
    uint32_t n;
    bool blocks, ranges;
};

/* --------------------------------------------------------------------- show --- */

static void put_record(struct tool_json *j, const qchain_trace_record *r)
{
    tool_json_open(j, NULL, false);
    tool_json_u64(j, "time-us", r->time_us);
    tool_json_u64(j, "offset", r->offset);
    tool_json_u64(j, "length", r->length);
    tool_json_u64(j, "reads", r->reads);
    tool_json_close(j);
}

static void show_json(struct tool_out *o, const struct trace_args *a, const qchain_trace *trace)
{
    struct tool_json j;
    uint64_t i;

    tool_json_init(&j, o);
    tool_json_open(&j, NULL, true);
    for (i = 0; a->ranges && i < trace->n_ranges; i++) {
        tool_json_open(&j, NULL, false);
        tool_json_u64(&j, "offset", trace->ranges[i].offset);
        tool_json_u64(&j, "length", trace->ranges[i].length);
        tool_json_close(&j);
    }
    for (i = 0; !a->ranges && i < trace->n_records; i++)
        put_record(&j, &trace->records[i]);
    tool_json_close(&j);
}

static void show_human(struct tool_out *o, const struct trace_args *a, const qchain_trace *trace)
{
    char line[128];
    uint64_t i;

    for (i = 0; a->ranges && i < trace->n_ranges; i++) {
        snprintf(line, sizeof(line), "%" PRIu64 "+%" PRIu64 "\n", trace->ranges[i].offset, trace->ranges[i].length);
        tool_out_str(o, line);
    }
    if (!a->ranges)
        tool_out_str(o, "Seconds         Offset          Length          Reads\n");
    for (i = 0; !a->ranges && i < trace->n_records; i++) {
        const qchain_trace_record *r = &trace->records[i];

        snprintf(line, sizeof(line), "%-15.6f %-15" PRIu64 " %-15" PRIu64 " %" PRIu64 "\n", (double)r->time_us / 1e6,
                 r->offset, r->length, r->reads);
        tool_out_str(o, line);
    }
}

/* --------------------------------------------------------------------- stat --- */

/* What was read of a block of 2 MiB. */
struct block {
    uint64_t number, bytes, distinct;
};

static int by_number(const void *a, const void *b)
{
    const struct block *x = a, *y = b;

    return x->number < y->number ? -1 : x->number > y->number;
}

/* Add a stretch to a list, a block at a time; false: it is more than can be told. */
static bool add_blocks(struct block *list, uint64_t *n, uint64_t offset, uint64_t length, bool distinct)
{
    uint64_t part;

    for (; length > 0; offset += part, length -= part) {
        part = BLOCK - offset % BLOCK < length ? BLOCK - offset % BLOCK : length;
        if (*n == MAX_BLOCKS)
            return false;
        memset(&list[*n], 0, sizeof(*list));
        list[*n].number = offset / BLOCK;
        *(distinct ? &list[*n].distinct : &list[*n].bytes) = part;
        ++*n;
    }
    return true;
}

/* All blocks in order, to be freed; *n is 0 where there are more than can be told. NULL without memory. */
static struct block *find_blocks(const qchain_trace *trace, uint64_t *n)
{
    struct block *list = malloc(MAX_BLOCKS * sizeof(*list));
    uint64_t all = 0, i;
    bool fits = true;

    *n = 0;
    for (i = 0; list && fits && i < trace->n_records; i++)
        fits = add_blocks(list, &all, trace->records[i].offset, trace->records[i].length, false);
    for (i = 0; list && fits && i < trace->n_ranges; i++)
        fits = add_blocks(list, &all, trace->ranges[i].offset, trace->ranges[i].length, true);
    if (!list || !fits)
        return list;
    qsort(list, all, sizeof(*list), by_number);
    for (i = 0; i < all; i++) {
        if (*n > 0 && list[*n - 1].number == list[i].number) {
            list[*n - 1].bytes += list[i].bytes;
            list[*n - 1].distinct += list[i].distinct;
        } else {
            list[(*n)++] = list[i];
        }
    }
    return list;
}

struct sums {
    uint64_t reads, bytes, distinct, span_us, n_blocks;
    const struct block *block;
};

/* Sums of a trace that anybody may have made: they stay at the largest number. */
static uint64_t plus(uint64_t a, uint64_t b)
{
    return b > UINT64_MAX - a ? UINT64_MAX : a + b;
}

static void sum_up(struct sums *s, const qchain_trace *trace)
{
    uint64_t i;

    for (i = 0; i < trace->n_records; i++) {
        s->reads = plus(s->reads, trace->records[i].reads);
        s->bytes = plus(s->bytes, trace->records[i].length);
    }
    for (i = 0; i < trace->n_ranges; i++)
        s->distinct = plus(s->distinct, trace->ranges[i].length);
    if (trace->n_records)
        s->span_us = trace->records[trace->n_records - 1].time_us;
}

static void stat_json(struct tool_out *o, const struct trace_args *a, const qchain_trace *trace, const struct sums *s)
{
    struct tool_json j;
    uint64_t i;

    tool_json_init(&j, o);
    tool_json_open(&j, NULL, false);
    tool_json_u64(&j, "virtual-size", trace->disk_size);
    tool_json_u64(&j, "began-ns", trace->began_ns);
    tool_json_u64(&j, "span-us", s->span_us);
    tool_json_u64(&j, "records", trace->n_records);
    tool_json_u64(&j, "reads", s->reads);
    tool_json_u64(&j, "lost-reads", trace->lost);
    tool_json_u64(&j, "bytes", s->bytes);
    tool_json_u64(&j, "distinct-bytes", s->distinct);
    tool_json_u64(&j, "ranges", trace->n_ranges);
    tool_json_u64(&j, "blocks-2m", s->n_blocks);
    tool_json_u64(&j, "unread-bytes", trace->unread);
    if (a->blocks) {
        tool_json_open(&j, "blocks", true);
        for (i = 0; i < s->n_blocks; i++) {
            tool_json_open(&j, NULL, false);
            tool_json_u64(&j, "offset", s->block[i].number * BLOCK);
            tool_json_u64(&j, "bytes", s->block[i].bytes);
            tool_json_u64(&j, "distinct-bytes", s->block[i].distinct);
            tool_json_close(&j);
        }
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

static void put_size(struct tool_out *o, const char *what, uint64_t value)
{
    char text[64];

    tool_size_text(text, sizeof(text), value);
    tool_out_str(o, what);
    tool_out_str(o, text);
    tool_out_str(o, " (");
    tool_out_u64(o, value);
    tool_out_str(o, " bytes)\n");
}

static void stat_human(struct tool_out *o, const struct trace_args *a, const qchain_trace *trace, const struct sums *s)
{
    char line[128];
    uint64_t i;

    put_size(o, "virtual size: ", trace->disk_size);
    snprintf(line, sizeof(line), "span of time: %.3f s\n", (double)s->span_us / 1e6);
    tool_out_str(o, line);
    put_fact(o, "reads: ", s->reads);
    if (trace->lost)
        put_fact(o, "reads lost, too fast to be recorded: ", trace->lost);
    put_size(o, "read: ", s->bytes);
    put_size(o, "distinct: ", s->distinct);
    put_fact(o, "ranges: ", trace->n_ranges);
    put_fact(o, "blocks of 2 MiB: ", s->n_blocks);
    if (a->blocks)
        tool_out_str(o, "Offset          Read            Distinct\n");
    for (i = 0; a->blocks && i < s->n_blocks; i++) {
        snprintf(line, sizeof(line), "%-15" PRIu64 " %-15" PRIu64 " %" PRIu64 "\n", s->block[i].number * BLOCK,
                 s->block[i].bytes, s->block[i].distinct);
        tool_out_str(o, line);
    }
}

static int stat_of(struct tool *t, struct tool_out *o, const struct trace_args *a, const qchain_trace *trace)
{
    struct sums s = {0};
    struct block *block = find_blocks(trace, &s.n_blocks);

    if (!block) {
        tool_complain(t, "out of memory");
        return 1;
    }
    if (s.n_blocks == 0 && trace->n_records > 0)
        tool_complain(t, "it reads of too many blocks to count them");
    s.block = block;
    sum_up(&s, trace);
    (t->output == TOOL_JSON ? stat_json : stat_human)(o, a, trace, &s);
    free(block);
    return 0;
}

/* ------------------------------------------------------------------ the verbs --- */

static int print(struct tool *t, const struct trace_args *a, bool stat)
{
    qchain_trace *trace;
    struct tool_out o;
    int status = 0;

    if (tool_load_traces(t, a->name, a->n, NULL, &trace) != 0) {
        tool_complain_error(t);
        return 1;
    }
    if (!tool_out_init(&o, STDOUT_FILENO)) {
        tool_complain(t, "out of memory");
        status = 1;
    } else {
        if (stat)
            status = stat_of(t, &o, a, trace);
        else
            (t->output == TOOL_JSON ? show_json : show_human)(&o, a, trace);
        if (tool_out_finish(t, &o) != 0)
            status = 1;
    }
    qchain_trace_free(trace);
    return status;
}

static int show(struct tool *t, const struct trace_args *a)
{
    return print(t, a, false);
}

static int stat_them(struct tool *t, const struct trace_args *a)
{
    return print(t, a, true);
}

/* The first name is that of the result. */
static int merge(struct tool *t, const struct trace_args *a)
{
    qchain_trace_load_opts o;
    qchain_trace *trace = NULL;
    int r;

    qchain_trace_load_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_TRACE_LOAD_DISTINCT;
    r = tool_load_traces(t, a->name + 1, a->n - 1, &o, &trace);
    if (r == 0)
        r = qchain_trace_save(trace, a->name[0], t->err);
    if (r)
        tool_complain_error(t);
    qchain_trace_free(trace);
    return r ? 1 : 0;
}

static const struct action {
    const char *name;
    int (*run)(struct tool *t, const struct trace_args *a);
    uint32_t least;
    bool output, blocks, ranges;
} actions[] = {
    {"show", show, 1, true, false, true},
    {"stat", stat_them, 1, true, true, false},
    {"merge", merge, 2, false, false, false},
};

#define N_ACTIONS (sizeof(actions) / sizeof(actions[0]))

static const struct action *find_action(const char *name)
{
    size_t i;

    for (i = 0; i < N_ACTIONS; i++)
        if (strcmp(actions[i].name, name) == 0)
            return &actions[i];
    return NULL;
}

static int run_trace(struct tool *t, int argc, char **argv)
{
    struct trace_args a = {0};
    const struct action *action;
    bool output = false;
    int c;

    t->status = 1;
    while ((c = tool_getopt(t, argc, argv, "q", trace_options)) != TOOL_END) {
        if (c == TOOL_STOP)
            return t->status;
        if (c == OPT_OUTPUT && !tool_parse_output(t, optarg, false))
            return 1;
        output = output || c == OPT_OUTPUT;
        t->quiet = t->quiet || c == 'q';
        a.blocks = a.blocks || c == OPT_BLOCKS;
        a.ranges = a.ranges || c == OPT_RANGES;
    }
    action = optind < argc ? find_action(argv[optind]) : NULL;
    if (!action)
        return tool_usage_error(t, "Expecting show, stat or merge");
    a.name = (const char *const *)argv + optind + 1;
    a.n = (uint32_t)(argc - optind - 1);
    if (a.n < action->least)
        return tool_usage_error(t, action->least > 1 ? "Expecting the trace to make and those to merge"
                                                     : "Expecting the names of traces");
    if ((output && !action->output) || (a.blocks && !action->blocks) || (a.ranges && !action->ranges))
        return tool_usage_error(t, "%s does not have this option", action->name);
    return action->run(t, &a);
}

const struct tool_verb tool_verb_trace = {
    .name = "trace",
    .run = run_trace,
    .synopsis = "show|stat|merge [options] TRACE...",
    .help = "  show TRACE...           print what was read, in order; several are one trace\n"
            "  stat TRACE...           sum it up: reads, bytes, distinct bytes, time, blocks\n"
            "  merge OUT TRACE...      make one of several: each byte once\n"
            "  --ranges                show: what to prefetch, OFFSET+LENGTH a line\n"
            "  --blocks                stat: with a line for each block of 2 MiB\n"
            "  --output=FORMAT         show, stat: human (default) or json\n"
            "  -q                      do not tell of recordings that were cut off\n",
    .usage_exit = 1,
};
