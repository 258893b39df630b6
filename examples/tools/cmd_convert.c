/* SPDX-License-Identifier: MIT */
/* cmd_convert.c - copy a disk to an image of its own. */
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
#define MAX_LISTS 32

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
    char **source;
    int n_sources;
    const char *target;
    const char *out_format;   /* NULL: by --target-image-opts */
    const char *backing, *backing_format;
    const char *list[MAX_LISTS];
    unsigned n_lists;
    const char *snapshot;
    const char *cache;        /* of the target */
    const char *source_cache;
    uint64_t sparse;
    uint64_t rate;
    bool sparse_given;
    bool compress;            /* -c */
    bool offload;             /* -C */
    bool existing;            /* -n */
    bool salvage, target_is_zero, target_image_opts, bitmaps, skip_broken;
};

/* ----------------------------------------------------------------- options --- */

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

static int add_list(struct tool *t, const char *list, struct convert_args *a)
{
    if (a->n_lists == MAX_LISTS) {
        tool_complain(t, "-o is given too often");
        return 1;
    }
    a->list[a->n_lists++] = list;
    return 0;
}

/* Options with a value; 0, or the exit code to leave with. */
static int parse_value(struct tool *t, int c, struct convert_args *a)
{
    switch (c) {
    case 'f':
        t->format = optarg;
        return 0;
    case 'O':
        a->out_format = optarg;
        return 0;
    case 'B':
        a->backing = optarg;
        return 0;
    case 'F':
        a->backing_format = optarg;
        return 0;
    case 't':
        a->cache = optarg;
        return 0;
    case 'T':
        a->source_cache = optarg;
        return 0;
    case 'o':
        return add_list(t, optarg, a);
    case 'm':
        return parse_parallel(t, optarg);
    case 'S':
        return parse_sparse(t, optarg, a);
    case 'l':
        return parse_snapshot(t, optarg, a);
    default: /* 'r' */
        return tool_parse_size(t, "rate limit", optarg, &a->rate) ? 0 : 1;
    }
}

/* And those without; false: it has one. */
static bool parse_switch(struct tool *t, int c, struct convert_args *a)
{
    switch (c) {
    case 'W': /* files are always written in any order */
        return true;
    case 'p':
        if (!t->progress)
            t->progress = TOOL_PROGRESS_TEXT;
        return true;
    case 'q':
        return t->quiet = true;
    case 'n':
        return a->existing = true;
    case 'c':
        return a->compress = true;
    case 'C':
        return a->offload = true;
    case OPT_SALVAGE:
        return a->salvage = true;
    case OPT_TARGET_IS_ZERO:
        return a->target_is_zero = true;
    case OPT_TARGET_IMAGE_OPTS:
        return a->target_image_opts = true;
    case OPT_BITMAPS:
        return a->bitmaps = true;
    case OPT_SKIP_BROKEN:
        return a->skip_broken = true;
    default:
        return false;
    }
}

/* Options that do not go together; 0 or 1. */
static int check_args(struct tool *t, const struct convert_args *a)
{
    const char *what = NULL;

    if (a->existing && a->n_lists)
        what = "-o has no effect when skipping image creation";
    else if (a->skip_broken && !a->bitmaps)
        what = "Use of --skip-broken-bitmaps requires --bitmaps";
    else if (a->target_image_opts && !a->existing)
        what = "--target-image-opts requires use of -n flag";
    else if (a->compress && a->offload)
        what = "Cannot enable copy offloading when -c is used";
    else if (a->sparse_given && a->offload)
        what = "Cannot enable copy offloading when -S is used";
    else if (a->offload && a->salvage)
        what = "Cannot use copy offloading in salvaging mode";
    else if (a->target_is_zero && !a->existing)
        what = "--target-is-zero requires use of -n flag";
    if (what)
        tool_complain(t, "%s", what);
    return what ? 1 : 0;
}

/* 0, or TOOL_STOP with t->status. */
static int parse_args(struct tool *t, int argc, char **argv, struct convert_args *a)
{
    int c;

    while ((c = tool_getopt(t, argc, argv, "f:O:B:CcF:o:l:S:pt:T:qnm:Wr:", convert_options)) !=
           TOOL_END) {
        if (c == TOOL_STOP)
            return TOOL_STOP;
        t->status = parse_switch(t, c, a) ? 0 : parse_value(t, c, a);
        if (t->status)
            return TOOL_STOP;
    }
    t->status = 1;
    if (!a->out_format && !a->target_image_opts)
        a->out_format = "raw";
    if (check_args(t, a) != 0)
        return TOOL_STOP;
    a->source = argv + optind;
    a->n_sources = argc - optind - 1;
    a->target = a->n_sources >= 1 ? argv[argc - 1] : "";
    return 0;
}

/* ------------------------------------------------------------- new targets --- */

/* All that the command line says of the target; 0 or -1. */
static int gather(struct tool *t, const struct convert_args *a, struct tool_create *c)
{
    c->o.format = a->out_format;
    if (a->existing)
        return 0;
    if (strcmp(c->o.format, "raw") != 0 && strcmp(c->o.format, "qcow2") != 0) {
        tool_complain(t, "Unknown file format '%s'", c->o.format);
        return -1;
    }
    c->name = "";
    for (unsigned i = 0; i < a->n_lists; i++)
        if (tool_create_parse(t, c, a->list[i], false) != 0)
            return -1;
    return 0;
}

static int check_new(struct tool *t, const struct convert_args *a, const struct tool_create *c)
{
    const qchain_create_opts *o = &c->o;
    bool raw = strcmp(o->format, "raw") == 0;
    const char *what = NULL;

    if (o->backing_file && raw)
        tool_complain(t, "Backing file not supported for file format 'raw'");
    else if (a->backing_format && raw)
        tool_complain(t, "Backing file format not supported for file format 'raw'");
    else if (o->backing_file && a->n_sources > 1)
        what = "Having a backing file for the target makes no sense when concatenating multiple input images";
    else if (o->backing_file && !o->backing_format)
        what = "Use of backing file requires explicit backing format";
    else if (a->compress && o->preallocation)
        what = "Compression and preallocation not supported at the same time";
    else if (a->compress && raw)
        what = "Compression not supported for this file format";
    else
        return 0;
    if (what)
        tool_complain(t, "%s", what);
    return -1;
}

/* Of the target, besides what -o says. */
static int complete(struct tool *t, const struct convert_args *a, struct tool_create *c, uint64_t size)
{
    if (a->backing)
        c->o.backing_file = a->backing;
    if (a->backing_format)
        c->o.backing_format = a->backing_format;
    c->o.size = size; /* whatever -o says, as qemu-img */
    c->o.policy = t->policy;
    if (!a->existing)
        return check_new(t, a, c);
    if (!a->backing || !a->target_is_zero)
        return 0;
    tool_complain(t, "Cannot use --target-is-zero when the destination image has a backing file");
    return -1;
}

/* ----------------------------------------------------------------- streams --- */

static bool is_cache(const char *mode, const char *one, const char *other)
{
    return strcmp(mode, one) == 0 || strcmp(mode, other) == 0;
}

/* Standard output, and what is no file that could be written in any order. */
static bool is_stream(const struct convert_args *a)
{
    struct stat st;

    if (a->target_image_opts)
        return false;
    if (strcmp(a->target, "-") == 0)
        return true;
    return stat(a->target, &st) == 0 && !S_ISREG(st.st_mode) && !S_ISBLK(st.st_mode) && !S_ISDIR(st.st_mode);
}

static int copy_stream(struct tool *t, struct tool_sink *s, qchain *c, const struct convert_args *a)
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

static int convert_to_stream(struct tool *t, qchain *c, const struct convert_args *a)
{
    bool dsync = is_cache(a->cache, "writethrough", "directsync");
    struct tool_sink s;
    uint64_t size = qchain_size(c);
    int status = 0;

    if (strcmp(a->out_format, "raw") != 0 || a->compress || a->bitmaps || a->offload) {
        tool_complain(t, "%s: what is no file or device takes raw images only, and no options of files",
                      strcmp(a->target, "-") == 0 ? "standard output" : a->target);
        return 1;
    }
    if (tool_sink_open(t, &s, a->target, c,
                       (a->existing ? TOOL_SINK_EXISTING : 0) | (dsync ? TOOL_SINK_DSYNC : 0)) != 0)
        return 1;
    if (size)
        status = copy_stream(t, &s, c, a);
    return tool_sink_close(t, &s, size, strcmp(a->cache, "unsafe") != 0, status);
}

/* ------------------------------------------------------------------- files --- */

static uint32_t flags_of(const struct convert_args *a)
{
    return (a->compress ? (uint32_t)QCHAIN_CONVERT_COMPRESS : 0) |
           (a->existing ? (uint32_t)QCHAIN_CONVERT_EXISTING : 0) |
           (a->target_is_zero ? (uint32_t)QCHAIN_CONVERT_IS_ZERO : 0) |
           (a->salvage ? (uint32_t)QCHAIN_CONVERT_SALVAGE : 0) |
           (a->offload ? (uint32_t)QCHAIN_CONVERT_OFFLOAD : 0) |
           (strcmp(a->cache, "unsafe") == 0 ? (uint32_t)QCHAIN_CONVERT_UNSAFE : 0) |
           (a->bitmaps ? (uint32_t)QCHAIN_CONVERT_BITMAPS : 0) |
           (a->skip_broken ? (uint32_t)QCHAIN_CONVERT_SKIP_BROKEN : 0);
}

/* What the library said, as the call of which it was a part. */
static int failed(struct tool *t, const struct convert_args *a, int r)
{
    const char *text = t->err ? qchain_error_message(t->err) : "out of memory";

    if (r == QCHAIN_E_CANCELLED)
        return tool_job_status(t, r, 1);
    if (!a->existing && strncmp(text, "create: ", 8) == 0)
        tool_complain(t, "%s: error while converting %s: %s", a->target, a->out_format, text + 8);
    else
        tool_complain(t, "%s", strncmp(text, "convert: ", 9) == 0 ? text + 9 : text);
    if (strncmp(text, "Cannot copy inconsistent bitmap", 31) == 0)
        fprintf(stderr, "Try --skip-broken-bitmaps, or use 'qchain bitmap --remove' to delete it\n");
    return 1;
}

static int run_convert_call(struct tool *t, qchain *c, const struct convert_args *a, const char *name,
                            qchain_convert_opts *o)
{
    qchain_job_result done = {.struct_size = sizeof(done)};
    struct tool_job job;
    int r;

    if (tool_job_start(t, &job, STDOUT_FILENO, false) != 0)
        return 1;
    qchain_job_rate(job.job, a->rate);
    o->job = job.job;
    r = qchain_convert(c, name, o, &done, t->err);
    tool_job_finish(&job, r == 0);
    if (r == 0 && done.salvaged && !t->quiet)
        tool_complain(t, "warning: %" PRIu64 " bytes could not be read and were set to zero", done.salvaged);
    return r == 0 ? 0 : failed(t, a, r);
}

static int convert_to_file(struct tool *t, qchain *c, const struct convert_args *a, const struct tool_create *create)
{
    qchain_convert_opts o;
    qchain_open_opts open;
    char *owned = NULL;
    int status = 1;

    qchain_convert_opts_init(&o, sizeof(o));
    qchain_open_opts_init(&open, sizeof(open));
    o.flags = flags_of(a);
    o.threads = t->threads;
    o.sparse_bytes = !a->sparse_given ? 0 : a->sparse ? a->sparse : UINT64_MAX;
    o.create = &create->o;
    o.open = &open;
    program_set_cache(a->cache, &open.flags);
    open.flags &= ~(uint32_t)QCHAIN_OPEN_UNSAFE;
    if (a->existing && a->sparse)
        open.flags |= QCHAIN_OPEN_DISCARD;
    if (a->target_image_opts && a->out_format) {
        tool_complain(t, "--image-opts and --format are mutually exclusive");
        return 1;
    }
    if (a->target_image_opts) {
        owned = tool_image_opts(t, a->target, &open.flags);
        if (!owned)
            return 1;
    }
    status = run_convert_call(t, c, a, owned ? owned : a->target, &o);
    free(owned);
    return status;
}

/* --------------------------------------------------------------------- all --- */

/* The disk of an internal snapshot is shown in the size that the image has now. */
static int find_size(struct tool *t, qchain *c, const struct convert_args *a, uint64_t *size)
{
    qchain_image_info *i;

    *size = qchain_size(c);
    if (!a->snapshot)
        return 0;
    if (tool_inspect(t, a->source[0], &i) != 0)
        return -1;
    if (i->virtual_size > *size)
        *size = i->virtual_size;
    qchain_image_info_free(i);
    return 0;
}

/* Those that are left out are named. */
static int look_at_bitmaps(struct tool *t, qchain *c, const struct convert_args *a, const struct tool_create *create)
{
    qchain_image_info *i;

    if (a->n_sources > 1) {
        tool_complain(t, "Copying bitmaps only possible with single source");
        return -1;
    }
    if (!a->existing && (strcmp(create->o.format, "raw") == 0 || create->o.version == 2)) {
        tool_complain(t, "Format driver '%s' does not support bitmaps", create->o.format);
        return -1;
    }
    if (!a->skip_broken || qchain_layer_info(&i, c, 0, t->err) != 0)
        return 0;
    for (uint32_t k = 0; k < i->n_bitmaps; k++)
        if (i->bitmaps[k].flags & QCHAIN_BITMAP_IN_USE)
            tool_complain(t, "warning: Skipping inconsistent bitmap '%s'", i->bitmaps[k].name);
    qchain_image_info_free(i);
    return 0;
}

static int convert(struct tool *t, qchain *c, const struct convert_args *a, struct tool_create *create)
{
    uint64_t size;

    if (find_size(t, c, a, &size) != 0 || gather(t, a, create) != 0 || complete(t, a, create, size) != 0)
        return 1;
    if (a->bitmaps && look_at_bitmaps(t, c, a, create) != 0)
        return 1;
    if (!tool_known_cache(a->cache)) {
        tool_complain(t, "Invalid cache option: %s", a->cache);
        return 1;
    }
    return is_stream(a) ? convert_to_stream(t, c, a) : convert_to_file(t, c, a, create);
}

/* "help" among the options: no image is needed for that. */
static bool wants_help(struct tool *t, const struct convert_args *a, struct tool_create *create)
{
    bool help = false;

    for (unsigned i = 0; i < a->n_lists; i++)
        help |= strcmp(a->list[i], "help") == 0 || strcmp(a->list[i], "?") == 0;
    if (!help)
        return false;
    t->status = 1;
    if (strcmp(a->out_format, "raw") != 0 && strcmp(a->out_format, "qcow2") != 0) {
        tool_complain(t, "Unknown file format '%s'", a->out_format);
        return true;
    }
    tool_create_help(create->o.format, false);
    t->status = 0;
    return true;
}

/* What the library sees of a single source. */
static bool is_target(struct tool *t, const struct convert_args *a, qchain **part, int n)
{
    struct stat st;

    while (n > 0 && stat(a->target, &st) == 0)
        if (tool_is_layer(part[--n], &st)) {
            tool_complain(t, "%s: is a layer of the image that is read", a->target);
            return true;
        }
    return false;
}

/* All that are named, as one. */
static int open_parts(struct tool *t, const struct convert_args *a, uint32_t flags, qchain **part, qchain **out)
{
    int n;

    for (n = 0; n < a->n_sources; n++)
        if (tool_open(t, a->source[n], flags, NULL, &part[n]) != 0)
            break;
    if (n == a->n_sources && a->snapshot)
        tool_complain(t, "No support for concatenating multiple snapshot");
    else if (n == a->n_sources && !is_target(t, a, part, n))
        return tool_join(t, part, (uint32_t)n, out);
    while (n > 0)
        qchain_close(part[--n]);
    return -1;
}

static int open_source(struct tool *t, const struct convert_args *a, qchain **out)
{
    uint32_t flags = a->salvage ? QCHAIN_OPEN_SALVAGE : 0;
    qchain **part;
    int r;

    if (is_cache(a->source_cache, "none", "off") || strcmp(a->source_cache, "directsync") == 0)
        flags |= QCHAIN_OPEN_DIRECT;
    if (a->n_sources == 1)
        return tool_open(t, a->source[0], flags, a->snapshot, out);
    part = calloc((size_t)a->n_sources, sizeof(qchain *));
    if (!part) {
        tool_complain(t, "out of memory");
        return -1;
    }
    r = open_parts(t, a, flags, part, out);
    free(part);
    return r;
}

static int run_convert(struct tool *t, int argc, char **argv)
{
    struct convert_args a = {.cache = "unsafe", .source_cache = "writeback", .sparse = DETECTED};
    struct tool_create create;
    qchain *c;
    int status = 1;

    if (parse_args(t, argc, argv, &a) != 0)
        return t->status;
    tool_create_init(&create, a.target);
    create.o.format = a.out_format;
    if (a.n_lists && wants_help(t, &a, &create)) {
        status = t->status;
    } else if (a.n_sources < 1) {
        tool_complain(t, "Must specify image file name");
    } else if (!tool_known_cache(a.source_cache)) {
        tool_complain(t, "Invalid source cache option: %s", a.source_cache);
    } else if (open_source(t, &a, &c) == 0) {
        status = convert(t, c, &a, &create);
        qchain_close(c);
    }
    tool_create_finish(&create);
    return status;
}

const struct tool_verb tool_verb_convert = {
    .name = "convert",
    .run = run_convert,
    .synopsis = "[options] SRC... DST    (several SRC are joined)",
    .help = "  -f FMT, -O FMT          the formats of SRC and of DST (raw); DST may be '-'\n"
            "  -o KEY=VALUE,...        options of DST's format; -o help lists them\n"
            "  -B BACKING, -F FMT      the image below DST, which is not copied; its format\n"
            "  -c, -C, -p, -q          compressed; the file system copies; progress; quiet\n"
            "  -S SIZE                 zeros that become holes (4k); 0: write them all\n"
            "  -n, --target-is-zero    DST exists; and holds nothing but zeros\n"
            "  --target-image-opts     DST is driver=...,file.filename=...\n"
            "  -l SNAPSHOT             convert an internal snapshot, by id or name\n"
            "  --salvage, --bitmaps, --skip-broken-bitmaps  zeros for damage; bitmaps, too\n"
            "  -t CACHE, -T CACHE      cache modes of DST (unsafe) and of SRC\n"
            "  -r RATE, -m N, -W       bytes a second at most; of little effect\n",
    .usage_exit = 1,
};
