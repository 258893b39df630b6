/* SPDX-License-Identifier: MIT */
/* cmd_bench.c - measure how fast a disk is read or written. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tool_bench.h"

enum {
    OPT_PATTERN = TOOL_OPT_BASE,
    OPT_FLUSH_INTERVAL,
    OPT_NO_DRAIN,
    OPT_OUTPUT,
    OPT_ALLOCATED,
    OPT_RANDOM,
    OPT_SEED,
    OPT_BLOCKING,
    OPT_BATCH,
    OPT_WARM,
    OPT_LATENCY,
    OPT_TIME,
    OPT_RECORD
};

static const struct option bench_options[] = {
    {"format", required_argument, NULL, 'f'},
    {"pattern", required_argument, NULL, OPT_PATTERN},
    {"flush-interval", required_argument, NULL, OPT_FLUSH_INTERVAL},
    {"no-drain", no_argument, NULL, OPT_NO_DRAIN},
    {"output", required_argument, NULL, OPT_OUTPUT},
    {"allocated", no_argument, NULL, OPT_ALLOCATED},
    {"random", no_argument, NULL, OPT_RANDOM},
    {"seed", required_argument, NULL, OPT_SEED},
    {"blocking", no_argument, NULL, OPT_BLOCKING},
    {"batch", required_argument, NULL, OPT_BATCH},
    {"warm", no_argument, NULL, OPT_WARM},
    {"latency", no_argument, NULL, OPT_LATENCY},
    {"percentiles", no_argument, NULL, OPT_LATENCY},
    {"time", required_argument, NULL, OPT_TIME},
    {"record", required_argument, NULL, OPT_RECORD},
    {NULL, 0, NULL, 0},
};

#define MAX_DEPTH 32768 /* of a queue of the library, with the flush */
#define MAX_BATCH 8     /* with so many it hands them over in any case */
#define MAX_SECONDS 1000000
#define WARM_EXTENTS 1024

struct bench_args {
    const char *name;
    const char *cache;
    bool count_given;
    bool warm;
    uint64_t seconds_ns;
    struct tool_places places;
    struct tool_load load;
};

/* ------------------------------------------------------------ command line --- */

/* A plain number as strtoul reads it, without suffixes. */
static bool parse_plain(struct tool *t, const char *what, const char *text, uint64_t min,
                        uint64_t max, uint64_t *out)
{
    const char *p = text;
    char *end;

    while (isspace((unsigned char)*p))
        p++;
    errno = 0;
    *out = strtoull(p, &end, 0);
    if (errno == 0 && isdigit((unsigned char)*p) && *end == '\0' && *out >= min && *out <= max)
        return true;
    tool_complain(t, "Invalid %s specified", what);
    return false;
}

static bool parse_u32(struct tool *t, const char *what, const char *text, uint32_t min,
                      uint32_t max, uint32_t *out)
{
    uint64_t n;

    if (!parse_plain(t, what, text, min, max, &n))
        return false;
    *out = (uint32_t)n;
    return true;
}

/* Seconds, with parts of them. */
static bool parse_time(struct tool *t, const char *text, uint64_t *ns)
{
    char *end;
    double seconds = strtod(text, &end);

    if (isdigit((unsigned char)*text) && *end == '\0' && seconds > 0 && seconds <= MAX_SECONDS) {
        *ns = (uint64_t)(seconds * 1e9) + 1;
        return true;
    }
    tool_complain(t, "Invalid time specified. Must be above 0 and at most %d seconds.",
                  MAX_SECONDS);
    return false;
}

static bool parse_aio(struct tool *t, const char *value, struct tool_load *load)
{
    load->no_uring = strcmp(value, "threads") == 0;
    if (load->no_uring || strcmp(value, "native") == 0 || strcmp(value, "io_uring") == 0)
        return true;
    tool_complain(t, "Invalid aio option: %s", value);
    return false;
}

static bool parse_cache(struct tool *t, const char *value, struct bench_args *a)
{
    a->cache = value;
    if (tool_known_cache(value))
        return true;
    tool_complain(t, "Invalid cache mode");
    return false;
}

/* One option of qemu-img's; 1 if it is not. */
static int qemu_option(struct tool *t, int c, struct bench_args *a)
{
    struct tool_places *p = &a->places;
    uint64_t n;

    switch (c) {
    case 'c':
        a->count_given = true;
        return parse_plain(t, "request count", optarg, 0, INT32_MAX, &a->load.count) ? 0 : -1;
    case 'd':
        return parse_u32(t, "queue depth", optarg, 1, INT32_MAX, &a->load.depth) ? 0 : -1;
    case 'f':
        t->format = optarg;
        return 0;
    case 'i':
        return parse_aio(t, optarg, &a->load) ? 0 : -1;
    case 'n':
        a->load.no_uring = false;
        return 0;
    case 'o':
        return tool_parse_size(t, "offset", optarg, &p->begin) ? 0 : -1;
    case 'q':
        t->quiet = true;
        return 0;
    case 's':
        return tool_parse_number(t, "buffer size", optarg, 0, INT32_MAX, &p->length) ? 0 : -1;
    case 'S':
        return tool_parse_number(t, "step_size", optarg, 0, INT32_MAX, &p->step) ? 0 : -1;
    case 't':
        return parse_cache(t, optarg, a) ? 0 : -1;
    case 'w':
        a->load.write = true;
        return 0;
    case OPT_PATTERN:
        if (!parse_plain(t, "pattern byte", optarg, 0, 255, &n))
            return -1;
        a->load.pattern = (uint8_t)n;
        return 0;
    case OPT_FLUSH_INTERVAL:
        return parse_plain(t, "flush interval", optarg, 0, INT32_MAX, &a->load.flush_interval) ? 0 : -1;
    case OPT_NO_DRAIN:
        a->load.no_drain = true;
        return 0;
    default:
        return 1;
    }
}

/* One of ours. */
static int own_option(struct tool *t, int c, struct bench_args *a)
{
    switch (c) {
    case OPT_OUTPUT:
        return tool_parse_output(t, optarg, false) ? 0 : -1;
    case OPT_ALLOCATED:
        a->places.allocated = true;
        return 0;
    case OPT_RANDOM:
        a->places.random = true;
        return 0;
    case OPT_SEED:
        return parse_plain(t, "seed", optarg, 0, UINT64_MAX, &a->places.seed) ? 0 : -1;
    case OPT_BLOCKING:
        a->load.blocking = true;
        return 0;
    case OPT_BATCH:
        return parse_u32(t, "batch", optarg, 1, MAX_BATCH, &a->load.batch) ? 0 : -1;
    case OPT_WARM:
        a->warm = true;
        return 0;
    case OPT_LATENCY:
        a->load.latency = true;
        return 0;
    case OPT_RECORD:
        t->record = optarg;
        return 0;
    default: /* OPT_TIME */
        return parse_time(t, optarg, &a->seconds_ns) ? 0 : -1;
    }
}

/* Do the options make sense together? */
static bool check_args(struct tool *t, struct bench_args *a)
{
    struct tool_load *l = &a->load;

    if (l->flush_interval && !l->write)
        tool_complain(t, "--flush-interval is only available in write tests");
    else if (l->flush_interval && !l->blocking && l->flush_interval < l->depth)
        tool_complain(t, "Flush interval can't be smaller than depth");
    else if (a->seconds_ns && a->count_given)
        tool_complain(t, "-c and --time are mutually exclusive");
    else if (a->places.length == 0 && (a->places.random || a->places.allocated))
        tool_complain(t, "--random and --allocated need a buffer size above 0");
    else if (!l->blocking && l->depth > MAX_DEPTH && (a->seconds_ns || l->count > MAX_DEPTH))
        tool_complain(t, "Invalid queue depth specified. Must be between 1 and %d.", MAX_DEPTH);
    else
        return true;
    return false;
}

/* 0, or TOOL_STOP with t->status. */
static int parse_args(struct tool *t, int argc, char **argv, struct bench_args *a)
{
    static const char shorts[] = "c:d:f:i:no:qs:S:t:w";
    int c;

    while ((c = tool_getopt(t, argc, argv, shorts, bench_options)) != TOOL_END) {
        int r;

        if (c == TOOL_STOP)
            return TOOL_STOP;
        t->status = 1;
        r = qemu_option(t, c, a);
        if (r > 0)
            r = own_option(t, c, a);
        if (r < 0)
            return TOOL_STOP;
    }
    t->status = 1;
    if (optind != argc - 1) {
        t->status = tool_usage_error(t, "Expecting one image file name");
        return TOOL_STOP;
    }
    if (!check_args(t, a))
        return TOOL_STOP;
    a->name = argv[optind];
    a->load.time_ns = a->seconds_ns;
    if (a->seconds_ns)
        a->load.count = UINT64_MAX;
    a->load.threads = t->threads ? t->threads : 1;
    t->threads = 0; /* those of the library are another matter */
    if (a->places.step == 0)
        a->places.step = a->places.length;
    return 0;
}

/* Of what is only read no cache mode matters but those that go past the page cache. */
static int open_image(struct tool *t, const struct bench_args *a, qchain **c)
{
    uint32_t flags = 0;

    program_set_cache(a->cache, &flags);
    return a->load.write ? tool_open_writable(t, a->name, flags, c)
                         : tool_open(t, a->name, flags & QCHAIN_OPEN_DIRECT, NULL, c);
}

/* -------------------------------------------------------------- warming up --- */

static int drop_bytes(void *data, const void *buf, size_t length, uint64_t offset,
                      qchain_error *err)
{
    (void)data;
    (void)buf;
    (void)length;
    (void)offset;
    (void)err;
    return 0;
}

/* Read all stored bytes once, then all metadata, so that the last of it stays. */
static int warm_up(struct tool *t, qchain *c)
{
    qchain_sink sink = {.struct_size = sizeof(sink), .write = drop_bytes};
    qchain_extent *extents = malloc(WARM_EXTENTS * sizeof(*extents));
    uint64_t at = 0, size = qchain_size(c);
    qchain_copy_opts o;
    uint32_t n;
    int r;

    if (!extents) {
        tool_complain(t, "out of memory");
        return -1;
    }
    qchain_copy_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_COPY_NO_ZEROS;
    r = qchain_copy_out(c, &sink, &o, t->err);
    while (r == 0 && at < size)
        r = qchain_map(c, at, size - at, extents, WARM_EXTENTS, &n, &at, 0, t->err);
    free(extents);
    if (r)
        tool_complain_error(t);
    return r ? -1 : 0;
}

/* ------------------------------------------------------------------ telling --- */

static const struct {
    const char *name;
    double part;
} percentiles[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}};

#define N_PERCENTILES (sizeof(percentiles) / sizeof(percentiles[0]))

static uint64_t in_parallel(const struct bench_args *a)
{
    return (uint64_t)a->load.threads * (a->load.blocking ? 1 : a->load.depth);
}

static void print_begin(const struct bench_args *a)
{
    const struct tool_places *p = &a->places;
    const char *what = a->load.write ? "write" : "read";

    if (a->seconds_ns)
        printf("Sending %s requests for %g seconds, ", what, (double)a->seconds_ns / 1e9);
    else
        printf("Sending %" PRIu64 " %s requests, ", a->load.count, what);
    printf("%" PRIu64 " bytes each, %" PRIu64 " in parallel (%s at offset %" PRIu64
           ", step size %" PRIu64 ")\n",
           p->length, in_parallel(a), p->random ? "random, starting" : "starting", p->begin,
           p->step);
    if (a->load.flush_interval)
        printf("Sending flush every %" PRIu64 " requests\n", a->load.flush_interval);
    fflush(stdout);
}

static double a_second(const struct tool_load *l, uint64_t n)
{
    return l->seconds > 0 ? (double)n / l->seconds : 0;
}

static void print_end(const struct bench_args *a)
{
    const struct tool_load *l = &a->load;
    size_t i;

    if (l->failed == 0)
        printf("Run completed in %3.3f seconds.\n", l->seconds);
    if (l->time_ns)
        printf("%" PRIu64 " requests, %.0f a second.\n", l->done, a_second(l, l->done));
    if (!l->latencies || l->latencies->n == 0)
        return;
    printf("Latency in microseconds:");
    for (i = 0; i < N_PERCENTILES; i++)
        printf(" %s %.1f,", percentiles[i].name,
               (double)tool_latency_at(l->latencies, percentiles[i].part) / 1e3);
    printf(" max %.1f\n", (double)l->latencies->max_ns / 1e3);
}

static void print_latencies(const struct tool_latency *lat)
{
    size_t i;

    printf(",\n    \"latency-ns\": {\n");
    printf("        \"count\": %" PRIu64 ",\n", lat->n);
    printf("        \"mean\": %" PRIu64 ",\n", lat->n ? lat->sum_ns / lat->n : 0);
    for (i = 0; i < N_PERCENTILES; i++)
        printf("        \"%s\": %" PRIu64 ",\n", percentiles[i].name,
               tool_latency_at(lat, percentiles[i].part));
    printf("        \"max\": %" PRIu64 "\n    }", lat->max_ns);
}

static int print_json(struct tool *t, const struct bench_args *a)
{
    const struct tool_load *l = &a->load;
    const struct tool_places *p = &a->places;
    struct tool_out out;

    if (!tool_out_init(&out, STDOUT_FILENO)) {
        tool_complain(t, "out of memory");
        return -1;
    }
    tool_out_str(&out, "{\n    \"filename\": ");
    tool_out_json_str(&out, tool_shown_name(t, a->name));
    if (tool_out_finish(t, &out) != 0)
        return -1;
    printf(",\n    \"engine\": \"%s\",\n", l->engine);
    printf("    \"cache\": \"%s\",\n", a->cache);
    if (l->time_ns)
        printf("    \"time\": %g,\n", (double)l->time_ns / 1e9);
    else
        printf("    \"count\": %" PRIu64 ",\n", l->count);
    printf("    \"depth\": %" PRIu32 ",\n    \"threads\": %" PRIu32 ",\n", l->depth, l->threads);
    printf("    \"batch\": %" PRIu32 ",\n", l->batch);
    printf("    \"buffer-size\": %" PRIu64 ",\n    \"step-size\": %" PRIu64 ",\n", p->length,
           p->step);
    printf("    \"offset\": %" PRIu64 ",\n    \"virtual-size\": %" PRIu64 ",\n", p->begin, p->size);
    printf("    \"write\": %s,\n", tool_bool(l->write));
    if (l->write)
        printf("    \"pattern\": %u,\n    \"flush-interval\": %" PRIu64 ",\n    \"flushes\": %" PRIu64 ",\n",
               l->pattern, l->flush_interval, l->flushes);
    printf("    \"random\": %s,\n    \"seed\": %" PRIu64 ",\n", tool_bool(p->random), p->seed);
    printf("    \"allocated\": %s,\n    \"warm\": %s,\n", tool_bool(p->allocated),
           tool_bool(a->warm));
    if (p->n_stretches)
        printf("    \"places\": %" PRIu64 ",\n", p->stretches[p->n_stretches - 1].end);
    printf("    \"requests\": %" PRIu64 ",\n    \"failed\": %" PRIu64 ",\n", l->done, l->failed);
    printf("    \"seconds\": %.9f,\n", l->seconds);
    printf("    \"requests-per-second\": %.3f,\n", a_second(l, l->done - l->failed));
    printf("    \"bytes-per-second\": %.3f", a_second(l, l->done - l->failed) * (double)p->length);
    if (l->latencies)
        print_latencies(l->latencies);
    printf("\n}\n");
    return 0;
}

static int report(struct tool *t, const struct bench_args *a)
{
    const struct tool_load *l = &a->load;
    int r = 0;

    if (t->output == TOOL_JSON)
        r = print_json(t, a);
    else
        print_end(a);
    if (l->failed) {
        tool_complain(t, "Failed request: %s", l->first_error);
        tool_complain(t, "%" PRIu64 " of %" PRIu64 " requests failed", l->failed, l->done);
        r = -1;
    }
    return r;
}

static int bench(struct tool *t, qchain *c, struct bench_args *a)
{
    int r;

    a->places.size = qchain_size(c);
    a->load.chain = c;
    a->load.places = &a->places;
    if (a->places.size == 0) {
        tool_complain(t, "%s: the disk has no bytes to %s", tool_shown_name(t, a->name),
                      a->load.write ? "write" : "read");
        return -1;
    }
    if (tool_places_find(t, &a->places, c) != 0 || (a->warm && warm_up(t, c) != 0))
        return -1;
    if (t->output == TOOL_HUMAN)
        print_begin(a);
    r = tool_record_start(t, c);
    if (r == 0)
        r = tool_load_run(t, &a->load);
    if (tool_record_stop(t, c) != 0)
        r = -1;
    if (r == 0)
        r = report(t, a);
    return r;
}

static int run_bench(struct tool *t, int argc, char **argv)
{
    struct bench_args a = {
        .cache = "writeback",
        .places = {.length = 4096, .seed = 1},
        .load = {.count = 75000, .depth = 64, .batch = 8},
    };
    qchain *c;
    int r;

    if (parse_args(t, argc, argv, &a) != 0)
        return t->status;
    if (open_image(t, &a, &c) != 0)
        return 1;
    r = bench(t, c, &a);
    tool_load_free(&a.load);
    tool_places_free(&a.places);
    if (!a.load.write)
        qchain_close(c);
    else if (tool_close_writable(t, c) != 0)
        r = -1;
    return r ? 1 : 0;
}

const struct tool_verb tool_verb_bench = {
    .name = "bench",
    .run = run_bench,
    .synopsis = "[options] IMG",
    .help = "  -c COUNT | --time SECS  so many requests (default: 75000), or so long\n"
            "  -d DEPTH, --batch N     64 or DEPTH in flight a thread; 8 or N handed over\n"
            "  -f, --format FMT        the format of IMG\n"
            "  -t CACHE                none, directsync: past the page cache\n"
            "  -i AIO, -n              threads, native or io_uring (default); io_uring\n"
            "  -o N, -s N, -S N        the first offset; bytes a request (4k); the step\n"
            "  --random, --seed N      at random multiples of the step\n"
            "  --allocated, --warm     stored bytes only; read all once before\n"
            "  --blocking              plain reads, no queues\n"
            "  --latency               percentiles of their times (also --percentiles)\n"
            "  --output=json, --record FILE  print JSON; record reads: qchain-trace(1)\n"
            "  --threads N             N threads with a queue each (default: 1), not as below\n"
            "  -w, --pattern BYTE      write over IMG; --flush-interval N, --no-drain\n",
    .usage_exit = 1,
};
