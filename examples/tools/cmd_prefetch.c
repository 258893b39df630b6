/* SPDX-License-Identifier: MIT */
/* cmd_prefetch.c - bring what layers behind URLs show into the disk cache, or a local image. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"

/* Beside what is on its way; so that all of it stays small, however large the chain. */
#define INDEX_BYTES (8u << 20)
#define BLOCK_BYTES (8u << 20)

enum { OPT_OUTPUT = TOOL_OPT_BASE, OPT_RANGE, OPT_METADATA, OPT_IDLE, OPT_REQUESTS, OPT_PARALLEL, OPT_MAX_BYTES,
       OPT_DEADLINE, OPT_TRACE, OPT_TO };

static const struct option prefetch_options[] = {
    {"format", required_argument, NULL, 'f'},
    {"output", required_argument, NULL, OPT_OUTPUT},
    {"start-offset", required_argument, NULL, 's'},
    {"max-length", required_argument, NULL, 'l'},
    {"range", required_argument, NULL, OPT_RANGE},
    {"trace", required_argument, NULL, OPT_TRACE},
    {"to", required_argument, NULL, OPT_TO},
    {"metadata", no_argument, NULL, OPT_METADATA},
    {"idle", no_argument, NULL, OPT_IDLE},
    {"requests", required_argument, NULL, OPT_REQUESTS},
    {"parallel", required_argument, NULL, OPT_PARALLEL},
    {"max-bytes", required_argument, NULL, OPT_MAX_BYTES},
    {"deadline", required_argument, NULL, OPT_DEADLINE},
    {NULL, 0, NULL, 0},
};

struct prefetch_args {
    qchain_prefetch_opts o;
    uint64_t start, length;        /* -s, -l: of every disk */
    qchain_prefetch_range *range;  /* --range, likewise; in the end those of all disks */
    uint32_t n_ranges;
    const char **trace;            /* --trace */
    uint32_t n_traces;
    const char **to;               /* --to */
    uint32_t n_to;
    char **name;
    uint32_t n;
};

/* ------------------------------------------------------------------ options --- */

static bool add_ranges(struct tool *t, struct prefetch_args *a, const qchain_prefetch_range *range, uint32_t n)
{
    qchain_prefetch_range *more = n < UINT32_MAX - a->n_ranges
                                      ? realloc(a->range, ((size_t)a->n_ranges + n + 1) * sizeof(*more)) : NULL;

    if (!more) {
        tool_complain(t, "out of memory");
        return false;
    }
    a->range = more;
    if (n)
        memcpy(more + a->n_ranges, range, n * sizeof(*more));
    a->n_ranges += n;
    return true;
}

static bool add_range(struct tool *t, struct prefetch_args *a, uint64_t offset, uint64_t length, uint32_t chain)
{
    qchain_prefetch_range range = {.offset = offset, .length = length, .chain = chain};

    return add_ranges(t, a, &range, 1);
}

static bool add_name(struct tool *t, const char ***list, uint32_t *n, const char *name)
{
    const char **more = realloc(*list, (*n + 1) * sizeof(*more));

    if (!more) {
        tool_complain(t, "out of memory");
        return false;
    }
    *list = more;
    more[(*n)++] = name;
    return true;
}

/* OFFSET+LENGTH */
static bool parse_range(struct tool *t, struct prefetch_args *a, char *text)
{
    char *plus = strchr(text, '+');
    uint64_t offset, length;

    if (!plus) {
        tool_complain(t, "Invalid range '%s': expecting OFFSET+LENGTH", text);
        return false;
    }
    *plus = '\0';
    return tool_parse_size(t, "offset of a range", text, &offset) &&
           tool_parse_size(t, "length of a range", plus + 1, &length) && add_range(t, a, offset, length, 0);
}

static bool parse_deadline(struct tool *t, struct prefetch_args *a, const char *text)
{
    uint64_t seconds;

    if (!tool_parse_number(t, "deadline", text, 1, UINT32_MAX, &seconds))
        return false;
    a->o.deadline_ms = seconds * 1000;
    return true;
}

static bool parse_parallel(struct tool *t, struct prefetch_args *a, const char *text)
{
    uint64_t n;

    if (!tool_parse_number(t, "number of requests under way", text, 1, 256, &n))
        return false;
    a->o.parallel = (uint32_t)n;
    return true;
}

static bool parse_option(struct tool *t, struct prefetch_args *a, int c)
{
    switch (c) {
    case 'f':
        t->format = optarg;
        return true;
    case 'p':
        t->progress = t->progress ? t->progress : TOOL_PROGRESS_TEXT;
        return true;
    case 'q':
        t->quiet = true;
        return true;
    case 'r':
        return tool_parse_size(t, "rate limit", optarg, &a->o.bytes_per_second);
    case 's':
        return tool_parse_size(t, "start offset", optarg, &a->start);
    case 'l':
        return tool_parse_size(t, "max length", optarg, &a->length);
    case OPT_RANGE:
        return parse_range(t, a, optarg);
    case OPT_TRACE:
        return add_name(t, &a->trace, &a->n_traces, optarg);
    case OPT_TO:
        return add_name(t, &a->to, &a->n_to, optarg);
    case OPT_OUTPUT:
        return tool_parse_output(t, optarg, false);
    case OPT_METADATA:
        a->o.flags |= QCHAIN_PREFETCH_METADATA;
        return true;
    case OPT_IDLE:
        a->o.flags |= QCHAIN_PREFETCH_IDLE;
        return true;
    case OPT_REQUESTS:
        return tool_parse_number(t, "requests a second", optarg, 1, UINT32_MAX, &a->o.requests_per_second);
    case OPT_PARALLEL:
        return parse_parallel(t, a, optarg);
    case OPT_MAX_BYTES:
        return tool_parse_size(t, "most bytes", optarg, &a->o.max_bytes);
    default:
        return parse_deadline(t, a, optarg);
    }
}

static bool is_auto(const char *trace)
{
    return strcmp(trace, "auto") == 0;
}

/* One for each disk; "auto" may be said once for all. The same answers as below. */
static int check_traces(struct tool *t, struct prefetch_args *a)
{
    if (a->n_ranges || a->start || a->length != UINT64_MAX)
        t->status = tool_usage_error(t, "--trace and --range, -s, -l are mutually exclusive");
    else if (is_auto(a->trace[0]) && a->n_traces == 1 && t->image_opts)
        t->status = tool_usage_error(t, "--trace auto needs the name of an image: say which trace it is");
    else if (a->n_traces != a->n && !(a->n_traces == 1 && is_auto(a->trace[0])))
        t->status = tool_usage_error(t, "Expecting a --trace for each image: there are %u for %u", a->n_traces, a->n);
    else
        return 0;
    return TOOL_STOP;
}

/* One for each disk, which lies behind a URL; the layers beside it are allowed, as if it were opened by itself. */
static int check_to(struct tool *t, struct prefetch_args *a)
{
    uint32_t i;

    if (t->image_opts || a->o.flags & QCHAIN_PREFETCH_METADATA)
        t->status = tool_usage_error(t, "--to and %s are mutually exclusive", t->image_opts ? "--image-opts" : "--metadata");
    else if (a->n_to != a->n)
        t->status = tool_usage_error(t, "Expecting a --to for each image: there are %u for %u", a->n_to, a->n);
    else
        t->status = 0;
    for (i = 0; t->status == 0 && i < a->n; i++) {
        if (!program_is_url(a->name[i]))
            t->status = tool_usage_error(t, "--to is for images behind URLs; '%s' is here: see qchain-stream(1)",
                                         a->name[i]);
        else if (!tool_allow_beside(t, a->name[i]))
            t->status = 1;
    }
    a->o.flags |= QCHAIN_PREFETCH_TOP;
    return t->status == 0 ? 0 : TOOL_STOP;
}

/* 0, or TOOL_STOP with t->status. */
static int parse_args(struct tool *t, int argc, char **argv, struct prefetch_args *a)
{
    int c;

    t->status = 1;
    qchain_prefetch_opts_init(&a->o, sizeof(a->o));
    while ((c = tool_getopt(t, argc, argv, "f:pqr:s:l:", prefetch_options)) != TOOL_END)
        if (c == TOOL_STOP || !parse_option(t, a, c))
            return TOOL_STOP;
    if (optind >= argc) {
        t->status = tool_usage_error(t, "Expecting image file names");
        return TOOL_STOP;
    }
    a->name = argv + optind;
    a->n = (uint32_t)(argc - optind);
    if (a->n_to && check_to(t, a) != 0)
        return TOOL_STOP;
    if (a->n_traces)
        return check_traces(t, a);
    if (a->n_ranges && (a->start || a->length != UINT64_MAX)) {
        t->status = tool_usage_error(t, "--range and -s, -l are mutually exclusive");
        return TOOL_STOP;
    }
    if ((a->start || a->length != UINT64_MAX) && !add_range(t, a, a->start, a->length, 0))
        return TOOL_STOP;
    return 0;
}

/* ------------------------------------------------------------------- result --- */

static void put_size(const char *what, uint64_t bytes)
{
    char text[64];

    tool_size_text(text, sizeof(text), bytes);
    printf("%s: %s (%llu bytes)\n", what, text, (unsigned long long)bytes);
}

static void put_human(const struct prefetch_args *a, const qchain_prefetch_result *r)
{
    put_size("visible behind URLs", r->visible);
    if (r->local)
        put_size("in local layers", r->local);
    if (r->unkept)
        put_size("cannot be cached (no validators)", r->unkept);
    if (!(a->o.flags & QCHAIN_PREFETCH_METADATA)) {
        if (!a->n_to)
            put_size("in the cache already", r->cached);
        put_size("fetched", r->fetched);
        printf("requests: %llu\n", (unsigned long long)r->requests);
    }
    if (r->end != QCHAIN_PREFETCH_ALL)
        printf("ended by %s; run again to go on\n",
               r->end == QCHAIN_PREFETCH_BYTES ? "--max-bytes" : "--deadline");
}

static int put_json(struct tool *t, const qchain_prefetch_result *r)
{
    static const char *const ends[] = {"all", "max-bytes", "deadline"};
    struct tool_json j;
    struct tool_out o;

    if (!tool_out_init(&o, STDOUT_FILENO)) {
        tool_complain(t, "out of memory");
        return 1;
    }
    tool_json_init(&j, &o);
    tool_json_open(&j, NULL, false);
    tool_json_u64(&j, "visible", r->visible);
    tool_json_u64(&j, "local", r->local);
    tool_json_u64(&j, "unkept", r->unkept);
    tool_json_u64(&j, "cached", r->cached);
    tool_json_u64(&j, "fetched", r->fetched);
    tool_json_u64(&j, "requests", r->requests);
    tool_json_str(&j, "end", ends[r->end < 3 ? r->end : 0]);
    tool_json_close(&j);
    return tool_out_finish(t, &o) == 0 ? 0 : 1;
}

/* ----------------------------------------------------------------- the work --- */

/* What the trace of disk i says; without one beside it, the whole disk. */
static bool take_trace(struct tool *t, struct prefetch_args *a, uint32_t i, qchain *c)
{
    const char *name = a->trace[a->n_traces == 1 ? 0 : i];
    bool beside = is_auto(name), ok;
    qchain_trace *trace = NULL;
    qchain_trace_load_opts o;
    int r;

    qchain_trace_load_opts_init(&o, sizeof(o));
    o.chain = i;
    o.disk_size = qchain_size(c);
    o.flags = beside ? QCHAIN_TRACE_LOAD_BESIDE : 0;
    name = beside ? a->name[i] : name;
    r = tool_load_traces(t, &name, 1, &o, &trace);
    if (r == QCHAIN_E_NOTFOUND && beside) {
        if (!t->quiet)
            tool_complain(t, "%s: no trace lies beside it: all of it is fetched", tool_shown_name(t, name));
        return add_range(t, a, 0, UINT64_MAX, i);
    }
    if (r) {
        tool_complain_error(t);
        return false;
    }
    ok = add_ranges(t, a, trace->ranges, o.disk_size ? trace->n_ranges : 0);
    qchain_trace_free(trace);
    return ok;
}

static bool take_traces(struct tool *t, struct prefetch_args *a, qchain **chains)
{
    uint32_t i;

    for (i = 0; i < a->n; i++)
        if (!take_trace(t, a, i, chains[i]))
            return false;
    a->o.ranges = a->range;
    a->o.n_ranges = a->n_ranges;
    return true;
}

/* The ranges are for each of the disks. */
static bool spread_ranges(struct tool *t, struct prefetch_args *a, qchain **chains)
{
    uint32_t own = a->n_ranges, i, k;

    if (a->n_traces)
        return take_traces(t, a, chains);

    for (i = 1; i < a->n; i++)
        for (k = 0; k < own; k++)
            if (!add_range(t, a, a->range[k].offset, a->range[k].length, i))
                return false;
    a->o.ranges = a->range;
    a->o.n_ranges = a->n_ranges;
    return true;
}

static int prefetch(struct tool *t, struct prefetch_args *a, qchain **chains)
{
    qchain_prefetch_result result;
    struct tool_job job;
    int r;

    memset(&result, 0, sizeof(result));
    result.struct_size = sizeof(result);
    if (tool_job_start(t, &job, t->output == TOOL_JSON ? STDERR_FILENO : STDOUT_FILENO, false) != 0)
        return 1;
    job.eta = true;
    a->o.job = job.job;
    r = qchain_prefetch(chains, a->n, &a->o, &result, t->err);
    tool_job_finish(&job, r == 0 && result.end == QCHAIN_PREFETCH_ALL);
    if (r == 0 && t->output == TOOL_JSON)
        return put_json(t, &result);
    if (r == 0 && !t->quiet)
        put_human(a, &result);
    r = tool_job_status(t, r, 1);
    if (r && a->n_to && qchain_error_code(t->err) == QCHAIN_E_CHANGED)
        fprintf(stderr, "What --to FILE holds is of what it was: remove FILE, and begin anew\n");
    return r;
}

static bool open_all(struct tool *t, const struct prefetch_args *a, qchain **chains)
{
    uint32_t i;

    for (i = 0; i < a->n; i++)
        if (a->n_to ? tool_open_overlay(t, a->to[i], a->name[i], &chains[i]) != 0
                    : tool_open(t, a->name[i], 0, NULL, &chains[i]) != 0)
            return false;
    return true;
}

static int run(struct tool *t, struct prefetch_args *a)
{
    qchain **chains = calloc(a->n, sizeof(*chains));
    int status = 1;
    uint32_t i;

    if (!chains)
        tool_complain(t, "out of memory");
    else if (open_all(t, a, chains) && spread_ranges(t, a, chains))
        status = prefetch(t, a, chains);
    for (i = 0; chains && i < a->n; i++) {
        if (!a->n_to || status != 0)
            qchain_close(chains[i]);
        else if (tool_close_writable(t, chains[i]) != 0)
            status = 1;
    }
    free(chains);
    return status;
}

static int run_prefetch(struct tool *t, int argc, char **argv)
{
    struct prefetch_args a = {.length = UINT64_MAX};
    int status;

    t->index_bytes = INDEX_BYTES;
    t->block_bytes = BLOCK_BYTES;
    status = parse_args(t, argc, argv, &a) == 0 ? run(t, &a) : t->status;
    free(a.range);
    free(a.trace);
    free(a.to);
    return status;
}

const struct tool_verb tool_verb_prefetch = {
    .name = "prefetch",
    .run = run_prefetch,
    .synopsis = "[options] {--cache-dir DIR | --to FILE...} IMG...",
    .help = "  -f, --format FMT        the format of each IMG\n"
            "  -s, --start-offset OFFSET, -l, --max-length LENGTH  only this range\n"
            "  --range OFFSET+LENGTH   the same; several, in the order they are wanted\n"
            "  --trace FILE            what qchain-trace(1) says was read; auto: IMG.qctrace\n"
            "  --to FILE               into FILE over IMG (made if need be); one for each IMG\n"
            "  --metadata              only what finding the data takes\n"
            "  -r RATE, --requests N   bytes and requests a second at most\n"
            "  --parallel N            requests under way (default: chosen)\n"
            "  --max-bytes SIZE, --deadline SECONDS  end after so much, so long\n"
            "  --idle                  other reads of this process go first\n"
            "  --output=human|json     how the result is printed\n"
            "  -p, -q, --progress=text|json  show progress; print nothing but errors\n",
    .usage_exit = 1,
};
