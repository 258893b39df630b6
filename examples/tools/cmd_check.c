/* SPDX-License-Identifier: MIT */
/* cmd_check.c - look whether an image is valid, and mend it. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"

#define EXIT_CORRUPT 2
#define EXIT_LEAKS 3
#define EXIT_NOT_CHECKABLE 63

enum { OPT_OUTPUT = TOOL_OPT_BASE };

static const struct option check_options[] = {
    {"format", required_argument, NULL, 'f'},
    {"repair", required_argument, NULL, 'r'},
    {"output", required_argument, NULL, OPT_OUTPUT},
    {NULL, 0, NULL, 0},
};

struct args {
    uint32_t flags;
    const char *output, *cache;
};

/* ---------------------------------------------------------------- output --- */

static void put_number(struct tool_json *j, const char *key, uint64_t value)
{
    if (value)
        tool_json_u64(j, key, value);
}

/* The order is that of qemu-img, whose dictionaries are hash tables. */
static int put_json(struct tool *t, const qchain_check_result *r, const char *name)
{
    struct tool_json j;
    struct tool_out o;

    if (!tool_out_init(&o, STDOUT_FILENO))
        return -1;
    tool_json_init(&j, &o);
    tool_json_open(&j, NULL, false);
    put_number(&j, "image-end-offset", r->image_end_offset);
    put_number(&j, "compressed-clusters", r->compressed_clusters);
    put_number(&j, "total-clusters", r->total_clusters);
    put_number(&j, "corruptions-fixed", r->corruptions_fixed);
    put_number(&j, "corruptions", r->corruptions);
    tool_json_u64(&j, "check-errors", r->check_errors);
    put_number(&j, "leaks-fixed", r->leaks_fixed);
    put_number(&j, "leaks", r->leaks);
    put_number(&j, "allocated-clusters", r->allocated_clusters);
    tool_json_str(&j, "filename", name);
    tool_json_str(&j, "format", "qcow2");
    put_number(&j, "fragmented-clusters", r->fragmented_clusters);
    tool_json_close(&j);
    return tool_out_finish(t, &o);
}

static double percent(uint64_t part, uint64_t whole)
{
    return (double)part * 100.0 / (double)whole;
}

static void put_human(const qchain_check_result *r)
{
    if (r->corruptions_fixed || r->leaks_fixed)
        printf("The following inconsistencies were found and repaired:\n\n    %" PRIu64
               " leaked clusters\n    %" PRIu64 " corruptions\n\n"
               "Double checking the fixed image now...\n", r->leaks_fixed, r->corruptions_fixed);
    if (!r->corruptions && !r->leaks && !r->check_errors)
        printf("No errors were found on the image.\n");
    if (r->corruptions)
        printf("\n%" PRIu64 " errors were found on the image.\nData may be corrupted, or further "
               "writes to the image may corrupt it.\n", r->corruptions);
    if (r->leaks)
        printf("\n%" PRIu64 " leaked clusters were found on the image.\n"
               "This means waste of disk space, but no harm to data.\n", r->leaks);
    if (r->check_errors)
        printf("\n%" PRIu64 " internal errors have occurred during the check.\n", r->check_errors);
    if (r->total_clusters && r->allocated_clusters)
        printf("%" PRIu64 "/%" PRIu64 " = %0.2f%% allocated, %0.2f%% fragmented, "
               "%0.2f%% compressed clusters\n", r->allocated_clusters, r->total_clusters,
               percent(r->allocated_clusters, r->total_clusters),
               percent(r->fragmented_clusters, r->allocated_clusters),
               percent(r->compressed_clusters, r->allocated_clusters));
    if (r->image_end_offset)
        printf("Image end offset: %" PRIu64 "\n", r->image_end_offset);
}

static void found(void *data, int level, const char *message)
{
    static const char *const lead[] = {"", "ERROR ", "", "Repaired: "};

    (void)data;
    fflush(stdout);
    fprintf(stderr, "%s%s\n", lead[level >= 1 && level <= 3 ? level : 0], message);
}

/* ----------------------------------------------------------------- check --- */

/* A failed check: is it that there is nothing to check in such an image? */
static int failed(struct tool *t, int r, const char *name)
{
    qchain_image_info *info;
    char why[1024];
    bool raw;

    if (r == QCHAIN_E_CANCELLED)
        return tool_job_status(t, r, 1);
    if (r == QCHAIN_E_UNSUPPORTED) {
        snprintf(why, sizeof(why), "%s", qchain_error_message(t->err));
        if (tool_inspect(t, name, &info) != 0)
            return 1;
        raw = info->version == 0;
        qchain_image_info_free(info);
        tool_complain(t, "%s", raw ? "This image format does not support checks" : why);
        return raw ? EXIT_NOT_CHECKABLE : 1;
    }
    if (r != TOOL_CHECK_TOLD)
        tool_complain_error(t);
    return 1;
}

static int check(struct tool *t, const char *name, const struct args *a)
{
    qchain_check_result r = {.struct_size = sizeof(r)};
    qchain_check_opts o;
    struct tool_job job;
    int rc;

    qchain_check_opts_init(&o, sizeof(o));
    o.flags = a->flags;
    o.found = found;
    if (tool_job_start(t, &job, STDERR_FILENO, false) != 0)
        return 1;
    o.job = job.job;
    rc = tool_check(t, name, &o, &r);
    tool_job_finish(&job, rc == 0);
    if (rc != 0)
        return failed(t, rc, name);
    if (t->output == TOOL_JSON)
        rc = put_json(t, &r, tool_shown_name(t, name));
    else if (!t->quiet)
        put_human(&r);
    if (rc != 0 || r.check_errors)
        return 1;
    return r.corruptions ? EXIT_CORRUPT : r.leaks ? EXIT_LEAKS : 0;
}

static bool parse_repair(struct tool *t, const char *value, uint32_t *flags)
{
    if (strcmp(value, "leaks") == 0)
        *flags = QCHAIN_CHECK_REPAIR_LEAKS;
    else if (strcmp(value, "all") == 0)
        *flags = QCHAIN_CHECK_REPAIR_ALL;
    else {
        tool_usage_error(t, "Unknown option value for -r (expecting 'leaks' or 'all'): %s", value);
        return false;
    }
    return true;
}

static int run_check(struct tool *t, int argc, char **argv)
{
    struct args a = {0, NULL, "writeback"};
    int c;

    while ((c = tool_getopt(t, argc, argv, "f:r:T:q", check_options)) != TOOL_END) {
        switch (c) {
        case 'f':
            t->format = optarg;
            break;
        case 'r':
            if (!parse_repair(t, optarg, &a.flags))
                return 1;
            break;
        case 'T':
            a.cache = optarg;
            break;
        case OPT_OUTPUT:
            a.output = optarg;
            break;
        case 'q':
            t->quiet = true;
            break;
        default:
            return t->status;
        }
    }
    if (optind != argc - 1)
        return tool_usage_error(t, "Expecting one image file name");
    if (a.output && !tool_parse_output(t, a.output, false))
        return 1;
    if (!tool_known_cache(a.cache)) {
        tool_complain(t, "Invalid source cache option: %s", a.cache);
        return 1;
    }
    if (a.flags && !tool_may_write(t, argv[optind]))
        return 1;
    return check(t, argv[optind], &a);
}

const struct tool_verb tool_verb_check = {
    .name = "check",
    .run = run_check,
    .synopsis = "[options] IMG",
    .help = "  -f, --format FMT        the format of IMG: qcow2\n"
            "  -r, --repair leaks|all  mend leaked clusters, or all that can be mended\n"
            "  --output=FORMAT         human (default) or json\n"
            "  -T CACHE                a cache mode, without effect\n"
            "  -q                      print nothing but what is wrong\n"
            "Exits 0 if good, 1 not checked, 2 corrupt, 3 leaked clusters, 63 not qcow2.\n",
    .usage_exit = 1,
};
