/* SPDX-License-Identifier: MIT */
/* cmd_inspect.c - print all that one image says, opening nothing else. */
#include <unistd.h>

#include "tool.h"

enum { OPT_OUTPUT = TOOL_OPT_BASE };

static const struct option inspect_options[] = {
    {"format", required_argument, NULL, 'f'},
    {"output", required_argument, NULL, OPT_OUTPUT},
    {NULL, 0, NULL, 0},
};

static void put_optional(struct tool_json *j, const char *key, const char *value)
{
    if (value)
        tool_json_str(j, key, value);
}

static void put_flags(struct tool_json *j, const qchain_image_info *i)
{
    static const struct {
        uint32_t flag;
        const char *name;
    } flags[] = {
        {QCHAIN_IMAGE_DIRTY, "dirty"},
        {QCHAIN_IMAGE_CORRUPT, "corrupt"},
        {QCHAIN_IMAGE_DATA_FILE, "data-file"},
        {QCHAIN_IMAGE_DATA_FILE_RAW, "data-file-raw"},
        {QCHAIN_IMAGE_EXTENDED_L2, "extended-l2"},
        {QCHAIN_IMAGE_LAZY_REFCOUNTS, "lazy-refcounts"},
        {QCHAIN_IMAGE_HAS_BACKING, "backing-file"},
        {QCHAIN_IMAGE_ENCRYPTED, "encrypted"},
        {QCHAIN_IMAGE_BLOCK_DEVICE, "block-device"},
    };
    size_t n;

    tool_json_open(j, "flags", true);
    for (n = 0; n < sizeof(flags) / sizeof(flags[0]); n++)
        if (i->flags & flags[n].flag)
            tool_json_str(j, NULL, flags[n].name);
    tool_json_close(j);
}

static void put_snapshots(struct tool_json *j, const qchain_image_info *i)
{
    uint32_t n;

    tool_json_open(j, "snapshots", true);
    for (n = 0; n < i->n_snapshots; n++) {
        const qchain_snapshot_info *s = &i->snapshots[n];

        tool_json_open(j, NULL, false);
        tool_json_str(j, "id", s->id);
        tool_json_str(j, "name", s->name);
        tool_json_u64(j, "vm-state-size", s->vm_state_size);
        tool_json_u64(j, "virtual-size", s->disk_size);
        tool_json_u64(j, "date-sec", s->date_sec);
        tool_json_u64(j, "date-nsec", s->date_nsec);
        tool_json_u64(j, "vm-clock-nsec", s->vm_clock_nsec);
        if (s->flags & QCHAIN_SNAPSHOT_HAS_ICOUNT)
            tool_json_u64(j, "icount", s->icount);
        tool_json_close(j);
    }
    tool_json_close(j);
}

static void put_bitmaps(struct tool_json *j, const qchain_image_info *i)
{
    uint32_t n;

    tool_json_open(j, "bitmaps", true);
    for (n = 0; n < i->n_bitmaps; n++) {
        const qchain_bitmap_info *b = &i->bitmaps[n];

        tool_json_open(j, NULL, false);
        tool_json_str(j, "name", b->name);
        tool_json_u64(j, "granularity", b->granularity);
        tool_json_bool(j, "in-use", b->flags & QCHAIN_BITMAP_IN_USE);
        tool_json_bool(j, "auto", b->flags & QCHAIN_BITMAP_AUTO);
        tool_json_close(j);
    }
    tool_json_close(j);
}

/* What only qcow2 has. */
static void put_qcow2(struct tool_json *j, const qchain_image_info *i)
{
    tool_json_u64(j, "version", i->version);
    tool_json_u64(j, "cluster-size", i->cluster_size);
    tool_json_u64(j, "subcluster-size", i->subcluster_size);
    tool_json_u64(j, "refcount-bits", i->refcount_bits);
    tool_json_str(j, "compression-type",
                  i->compression == QCHAIN_COMPRESSION_ZSTD ? "zstd" : "zlib");
    tool_json_u64(j, "crypt-method", i->crypt_method);
    tool_json_u64(j, "incompatible-features", i->incompatible_features);
    tool_json_u64(j, "compatible-features", i->compatible_features);
    tool_json_u64(j, "autoclear-features", i->autoclear_features);
    tool_json_u64(j, "unknown-extensions", i->n_unknown_extensions);
    put_snapshots(j, i);
    put_bitmaps(j, i);
}

static void put_image(struct tool_json *j, const qchain_image_info *i)
{
    tool_json_open(j, NULL, false);
    tool_json_str(j, "filename", i->name);
    tool_json_str(j, "format", i->format);
    tool_json_u64(j, "virtual-size", i->virtual_size);
    tool_json_u64(j, "file-size", i->file_size);
    if (!program_is_url(i->name))
        tool_json_u64(j, "actual-size", i->allocated_size);
    put_flags(j, i);
    put_optional(j, "backing-filename", tool_as_recorded(i->backing_name_raw, i->backing_name));
    put_optional(j, "full-backing-filename", i->backing_resolved);
    put_optional(j, "backing-filename-format", i->backing_format);
    put_optional(j, "data-filename", tool_as_recorded(i->data_file_raw, i->data_file));
    if (i->version)
        put_qcow2(j, i);
    tool_json_close(j);
}

static int print_image(struct tool *t, const qchain_image_info *info)
{
    struct tool_json j;
    struct tool_out o;

    if (!tool_out_init(&o, STDOUT_FILENO)) {
        tool_complain(t, "out of memory");
        return 1;
    }
    tool_json_init(&j, &o);
    put_image(&j, info);
    return tool_out_finish(t, &o) ? 1 : 0;
}

static int run_inspect(struct tool *t, int argc, char **argv)
{
    qchain_image_info *info;
    int c, status;

    while ((c = tool_getopt(t, argc, argv, "f:", inspect_options)) != TOOL_END) {
        switch (c) {
        case 'f':
            t->format = optarg;
            break;
        case OPT_OUTPUT:
            if (!tool_parse_output(t, optarg, false))
                return 2;
            if (t->output != TOOL_JSON)
                return tool_usage_error(t, "only --output=json is known; info prints text");
            break;
        default:
            return t->status;
        }
    }
    if (optind != argc - 1)
        return tool_usage_error(t, "Expecting one image file name");
    if (tool_inspect(t, argv[optind], &info) != 0)
        return 1;
    status = print_image(t, info);
    qchain_image_info_free(info);
    return status;
}

const struct tool_verb tool_verb_inspect = {
    .name = "inspect",
    .run = run_inspect,
    .synopsis = "[options] IMG",
    .help = "  -f, --format FMT        the format of IMG: qcow2, raw\n"
            "  --output=json           the only one, and the default\n",
    .usage_exit = 2,
};
