/* SPDX-License-Identifier: MIT */
/* cmd_convert.c - copy a disk to a raw image. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tool.h"

#define SECTOR 512
#define MAX_SPARSE (16 * 1024 * 1024)
#define DETECTED 4096 /* what the library looks for by itself */
#define MAX_PARALLEL 16

enum {
    OPT_SALVAGE = TOOL_OPT_BASE,
    OPT_TARGET_IMAGE_OPTS,
    OPT_TARGET_IS_ZERO,
    OPT_BITMAPS,
    OPT_SKIP_BROKEN
};

static const struct option convert_options[] = {
    {"target-image-opts", no_argument, NULL, OPT_TARGET_IMAGE_OPTS},
    {"salvage", no_argument, NULL, OPT_SALVAGE},
    {"target-is-zero", no_argument, NULL, OPT_TARGET_IS_ZERO},
    {"bitmaps", no_argument, NULL, OPT_BITMAPS},
    {"skip-broken-bitmaps", no_argument, NULL, OPT_SKIP_BROKEN},
    {NULL, 0, NULL, 0},
};

struct convert_args {
    const char *source;
    const char *target;
    const char *out_format;
    const char *snapshot;
    const char *cache;        /* of the target */
    const char *source_cache;
    uint64_t sparse;
    uint64_t rate;
    bool sparse_given;
    bool offload;             /* -C: a hint, without effect */
    bool salvage;
    bool existing;            /* -n */
    bool target_is_zero;
};

/* ----------------------------------------------------------------- options --- */

static int refuse(struct tool *t, const char *option)
{
    tool_complain(t, "option %s needs the write side, which this version does not have", option);
    return 1;
}

static int refuse_option(struct tool *t, int c)
{
    char text[3] = {'-', (char)c, '\0'};

    switch (c) {
    case OPT_BITMAPS:
        return refuse(t, "--bitmaps");
    case OPT_SKIP_BROKEN:
        return refuse(t, "--skip-broken-bitmaps");
    case OPT_TARGET_IMAGE_OPTS:
        return refuse(t, "--target-image-opts");
    default:
        return refuse(t, text);
    }
}

/* "ID_OR_NAME", "snapshot.id=ID" or "snapshot.name=NAME"; the library finds either. */
static int parse_snapshot(struct tool *t, const char *text, struct convert_args *a)
{
    static const char *const keys[] = {"snapshot.id=", "snapshot.name="};
    size_t i;

    a->snapshot = text;
    if (strncmp(text, "snapshot.", 9) != 0)
        return 0;
    for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        if (strncmp(text, keys[i], strlen(keys[i])) == 0)
            a->snapshot = text + strlen(keys[i]);
    if (a->snapshot != text && !strchr(a->snapshot, ','))
        return 0;
    tool_complain(t, "Failed in parsing snapshot param '%s'", text);
    return 1;
}

static int parse_sparse(struct tool *t, const char *text, struct convert_args *a)
{
    if (!tool_parse_size(t, "buffer size for sparse output", text, &a->sparse))
        return 1;
    a->sparse_given = true;
    if (a->sparse % SECTOR == 0 && a->sparse <= MAX_SPARSE)
        return 0;
    tool_complain(t,
                  "Invalid buffer size for sparse output specified. Valid sizes are multiples of "
                  "%d up to %d. Select 0 to disable sparse detection (fully allocates output).",
                  SECTOR, MAX_SPARSE);
    return 1;
}

static int parse_parallel(struct tool *t, const char *text)
{
    char *end;
    long n = strtol(text, &end, 0);

    if (end == text || *end || n < 1 || n > MAX_PARALLEL) {
        tool_complain(t,
                      "Invalid number of coroutines. Allowed number of coroutines is between 1 "
                      "and %d",
                      MAX_PARALLEL);
        return 1;
    }
    /* so many requests may be in flight; more threads than processors gain nothing */
    if (n == 1 && !t->threads)
        t->threads = 1;
    return 0;
}

/* One option of our own; 0, or the exit code to leave with. */
static int parse_option(struct tool *t, int c, struct convert_args *a)
{
    switch (c) {
    case 'f':
        t->format = optarg;
        return 0;
    case 'O':
        a->out_format = optarg;
        return 0;
    case 'p':
        if (!t->progress)
            t->progress = TOOL_PROGRESS_TEXT;
        return 0;
    case 'q':
        t->quiet = true;
        return 0;
    case 'n':
        a->existing = true;
        return 0;
    case 'C':
        a->offload = true;
        return 0;
    case 'W':
        return 0; /* files are always written in any order */
    case 't':
        a->cache = optarg;
        return 0;
    case 'T':
        a->source_cache = optarg;
        return 0;
    case 'm':
        return parse_parallel(t, optarg);
    case 'S':
        return parse_sparse(t, optarg, a);
    case 'l':
        return parse_snapshot(t, optarg, a);
    case 'r':
        return tool_parse_size(t, "rate limit", optarg, &a->rate) ? 0 : 1;
    case OPT_SALVAGE:
        a->salvage = true;
        return 0;
    case OPT_TARGET_IS_ZERO:
        a->target_is_zero = true;
        return 0;
    default:
        return refuse_option(t, c);
    }
}

/* Options that do not go together; 0 or 1. */
static int check_args(struct tool *t, const struct convert_args *a)
{
    const char *what = NULL;

    if (a->sparse_given && a->offload)
        what = "Cannot enable copy offloading when -S is used";
    else if (a->offload && a->salvage)
        what = "Cannot use copy offloading in salvaging mode";
    else if (a->target_is_zero && !a->existing)
        what = "--target-is-zero requires use of -n flag";
    if (what) {
        tool_complain(t, "%s", what);
        return 1;
    }
    if (strcmp(a->out_format, "raw") != 0) {
        tool_complain(t, "option -O %s needs the write side, which this version does not have; "
                         "it writes raw images",
                      a->out_format);
        return 1;
    }
    if (!tool_known_cache(a->source_cache) || !tool_known_cache(a->cache)) {
        bool source = !tool_known_cache(a->source_cache);

        tool_complain(t, "Invalid %scache option: %s", source ? "source " : "",
                      source ? a->source_cache : a->cache);
        return 1;
    }
    return 0;
}

/* 0, or TOOL_STOP with t->status. */
static int parse_args(struct tool *t, int argc, char **argv, struct convert_args *a)
{
    int c;

    while ((c = tool_getopt(t, argc, argv, "f:O:B:CcF:o:l:S:pt:T:qnm:Wr:", convert_options)) !=
           TOOL_END) {
        if (c == TOOL_STOP)
            return TOOL_STOP;
        t->status = parse_option(t, c, a);
        if (t->status)
            return TOOL_STOP;
    }
    t->status = 1;
    if (check_args(t, a) != 0)
        return TOOL_STOP;
    if (argc - optind < 2) {
        tool_complain(t, "Must specify image file name");
        return TOOL_STOP;
    }
    if (argc - optind > 2) {
        tool_complain(t, "joining several images is not supported: name one and a target");
        return TOOL_STOP;
    }
    a->source = argv[optind];
    a->target = argv[optind + 1];
    return 0;
}

/* ----------------------------------------------------------------- copying --- */

static bool is_cache(const char *mode, const char *one, const char *other)
{
    return strcmp(mode, one) == 0 || strcmp(mode, other) == 0;
}

/* A target that is there must be long enough. */
static int check_target_size(struct tool *t, const struct tool_sink *s, uint64_t size)
{
    off_t have = lseek(s->fd, 0, SEEK_END);

    if (!s->seekable || have < 0 || (uint64_t)have >= size)
        return 0;
    tool_complain(t, "output file is smaller than input file");
    return 1;
}

static int run_copy(struct tool *t, struct tool_sink *s, qchain *c, const struct convert_args *a)
{
    int progress_fd = s->fd == STDOUT_FILENO ? STDERR_FILENO : STDOUT_FILENO;
    qchain_copy_opts o;
    struct tool_job job;
    int r;

    qchain_copy_opts_init(&o, sizeof(o));
    o.threads = t->threads;
    if (a->sparse == DETECTED)
        o.flags |= QCHAIN_COPY_DETECT_ZEROS;
    else
        s->min_zeros = a->sparse;
    s->fill = a->sparse == 0;
    s->is_zero = s->is_zero || a->target_is_zero;
    if (a->salvage)
        o.flags |= QCHAIN_COPY_SALVAGE;
    if (tool_job_start(t, &job, progress_fd, !s->seekable) != 0)
        return 1;
    qchain_job_rate(job.job, a->rate);
    o.job = job.job;
    r = tool_sink_copy(t, s, c, &o);
    tool_job_finish(&job, r == 0);
    if (r == 0 && o.salvaged_bytes && !t->quiet)
        tool_complain(t, "warning: %" PRIu64 " bytes could not be read and were set to zero",
                      o.salvaged_bytes);
    return tool_sink_status(t, s, r);
}

static int convert(struct tool *t, qchain *c, const struct convert_args *a)
{
    bool dsync = is_cache(a->cache, "writethrough", "directsync");
    struct tool_sink s;
    uint64_t size = qchain_size(c);
    int status = 0;

    if (tool_sink_open(t, &s, a->target, c,
                       (a->existing ? TOOL_SINK_EXISTING : 0) | (dsync ? TOOL_SINK_DSYNC : 0)) != 0)
        return 1;
    if (a->existing)
        status = check_target_size(t, &s, size);
    if (status == 0 && size)
        status = run_copy(t, &s, c, a);
    return tool_sink_close(t, &s, size, strcmp(a->cache, "unsafe") != 0, status);
}

static int run_convert(struct tool *t, int argc, char **argv)
{
    struct convert_args a = {.out_format = "raw",
                             .cache = "unsafe",
                             .source_cache = "writeback",
                             .sparse = DETECTED};
    uint32_t flags = 0;
    qchain *c;
    int status;

    if (parse_args(t, argc, argv, &a) != 0)
        return t->status;
    if (is_cache(a.source_cache, "none", "off") || strcmp(a.source_cache, "directsync") == 0)
        flags |= QCHAIN_OPEN_DIRECT;
    if (a.salvage)
        flags |= QCHAIN_OPEN_SALVAGE;
    if (tool_open(t, a.source, flags, a.snapshot, &c) != 0)
        return 1;
    status = convert(t, c, &a);
    qchain_close(c);
    return status;
}

const struct tool_verb tool_verb_convert = {
    .name = "convert",
    .run = run_convert,
    .synopsis = "[options] SRC DST",
    .help = "  -f FMT, -O raw          the formats of SRC and of DST, which may be '-'\n"
            "  -p, -q                  show progress; be quiet\n"
            "  -S SIZE                 zeros that become holes (4k); 0: write them all\n"
            "  -n, --target-is-zero    DST exists; and holds nothing but zeros\n"
            "  -l SNAPSHOT             convert an internal snapshot, by id or name\n"
            "  --salvage               what cannot be read becomes zeros\n"
            "  -t CACHE, -T CACHE      cache modes of DST (unsafe) and of SRC\n"
            "  -r RATE                 bytes a second at most\n"
            "  -m N, -W, -C            known, but of little effect\n",
    .usage_exit = 1,
};
