/* SPDX-License-Identifier: MIT */
/* cmd_info.c - describe an image, or all images of a chain. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "tool.h"

enum { OPT_OUTPUT = TOOL_OPT_BASE, OPT_BACKING_CHAIN };

static const struct option info_options[] = {
    {"format", required_argument, NULL, 'f'},
    {"output", required_argument, NULL, OPT_OUTPUT},
    {"backing-chain", no_argument, NULL, OPT_BACKING_CHAIN},
    {NULL, 0, NULL, 0},
};

static bool has(const qchain_image_info *i, uint32_t flag)
{
    return (i->flags & flag) != 0;
}

static const char *backing_name(const qchain_image_info *i)
{
    return tool_as_recorded(i->backing_name_raw, i->backing_name);
}

/* The backing file as it would be opened, with the bytes that the image records
 * instead of what is fit for a terminal: JSON has its own escapes. */
static void put_full_backing(struct tool_json *j, const qchain_image_info *i)
{
    size_t all = strlen(i->backing_resolved), tail = strlen(i->backing_name);
    char *full = NULL;

    if (tail <= all && strcmp(i->backing_resolved + (all - tail), i->backing_name) == 0 &&
        asprintf(&full, "%.*s%s", (int)(all - tail), i->backing_resolved, backing_name(i)) < 0)
        full = NULL;
    tool_json_str(j, "full-backing-filename", full ? full : i->backing_resolved);
    free(full);
}

/* ------------------------------------------------- what qcow2 adds --- */

static void put_bitmaps(struct tool_json *j, const qchain_image_info *i)
{
    uint32_t n;

    tool_json_open(j, "bitmaps", true);
    for (n = 0; n < i->n_bitmaps; n++) {
        const qchain_bitmap_info *b = &i->bitmaps[n];

        tool_json_open(j, NULL, false);
        tool_json_open(j, "flags", true);
        if (b->flags & QCHAIN_BITMAP_IN_USE)
            tool_json_str(j, NULL, "in-use");
        if (b->flags & QCHAIN_BITMAP_AUTO)
            tool_json_str(j, NULL, "auto");
        tool_json_close(j);
        tool_json_str(j, "name", b->name);
        tool_json_u64(j, "granularity", b->granularity);
        tool_json_close(j);
    }
    tool_json_close(j);
}

/* The order is that of qemu-img, whose dictionaries are hash tables. */
void tool_put_qcow2(struct tool_json *j, const qchain_image_info *i)
{
    bool v3 = i->version >= 3;

    tool_json_str(j, "compat", v3 ? "1.1" : "0.10");
    tool_json_str(j, "compression-type",
                  i->compression == QCHAIN_COMPRESSION_ZSTD ? "zstd" : "zlib");
    if (v3)
        tool_json_bool(j, "lazy-refcounts", has(i, QCHAIN_IMAGE_LAZY_REFCOUNTS));
    if (v3 && i->n_bitmaps)
        put_bitmaps(j, i);
    tool_json_u64(j, "refcount-bits", i->refcount_bits);
    if (v3 && i->data_file)
        tool_json_str(j, "data-file", tool_as_recorded(i->data_file_raw, i->data_file));
    if (i->crypt_method) {
        tool_json_open(j, "encrypt", false);
        tool_json_str(j, "format", i->crypt_method == 1 ? "aes" : "luks");
        tool_json_close(j);
    }
    if (!v3)
        return;
    if (has(i, QCHAIN_IMAGE_DATA_FILE))
        tool_json_bool(j, "data-file-raw", has(i, QCHAIN_IMAGE_DATA_FILE_RAW));
    tool_json_bool(j, "corrupt", has(i, QCHAIN_IMAGE_CORRUPT));
    tool_json_bool(j, "extended-l2", has(i, QCHAIN_IMAGE_EXTENDED_L2));
}

/* ----------------------------------------------------------------- JSON --- */

static void put_snapshots(struct tool_json *j, const qchain_image_info *i)
{
    uint32_t n;

    tool_json_open(j, "snapshots", true);
    for (n = 0; n < i->n_snapshots; n++) {
        const qchain_snapshot_info *s = &i->snapshots[n];

        tool_json_open(j, NULL, false);
        if (s->flags & QCHAIN_SNAPSHOT_HAS_ICOUNT)
            tool_json_u64(j, "icount", s->icount);
        tool_json_u64(j, "vm-clock-nsec", s->vm_clock_nsec % 1000000000);
        tool_json_str(j, "name", s->name);
        tool_json_u64(j, "date-sec", s->date_sec);
        tool_json_u64(j, "date-nsec", s->date_nsec);
        tool_json_u64(j, "vm-clock-sec", s->vm_clock_nsec / 1000000000);
        tool_json_str(j, "id", s->id);
        tool_json_u64(j, "vm-state-size", s->vm_state_size);
        tool_json_close(j);
    }
    tool_json_close(j);
}

static void put_json(struct tool_json *j, const qchain_image_info *i, const char *name)
{
    bool qcow2 = i->version != 0;

    tool_json_open(j, NULL, false);
    if (i->backing_name && i->backing_format)
        tool_json_str(j, "backing-filename-format", i->backing_format);
    /* those of an image with a data file cannot be used */
    if (i->n_snapshots && !has(i, QCHAIN_IMAGE_DATA_FILE))
        put_snapshots(j, i);
    tool_json_u64(j, "virtual-size", i->virtual_size);
    tool_json_str(j, "filename", name);
    if (i->cluster_size)
        tool_json_u64(j, "cluster-size", i->cluster_size);
    tool_json_str(j, "format", i->format);
    if (!program_is_url(i->name))
        tool_json_u64(j, "actual-size", i->allocated_size);
    if (qcow2) {
        tool_json_open(j, "format-specific", false);
        tool_json_str(j, "type", "qcow2");
        tool_json_open(j, "data", false);
        tool_put_qcow2(j, i);
        tool_json_close(j);
        tool_json_close(j);
    }
    if (i->backing_name && i->backing_resolved)
        put_full_backing(j, i);
    if (has(i, QCHAIN_IMAGE_ENCRYPTED))
        tool_json_bool(j, "encrypted", true);
    if (i->backing_name)
        tool_json_str(j, "backing-filename", backing_name(i));
    tool_json_bool(j, "dirty-flag", has(i, QCHAIN_IMAGE_DIRTY));
    tool_json_close(j);
}

/* ----------------------------------------------------------------- text --- */

static void put_line(struct tool_out *o, const char *key, const char *value)
{
    tool_out_str(o, key);
    tool_out_str(o, value);
    tool_out_char(o, '\n');
}

static void put_snapshot_line(struct tool_out *o, const qchain_snapshot_info *s)
{
    char line[640], size[32], date[64], clock[64], icount[32] = "";
    uint64_t secs = s->vm_clock_nsec / 1000000000;
    time_t when = (time_t)s->date_sec;
    struct tm tm;

    if (!localtime_r(&when, &tm) || !strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm))
        snprintf(date, sizeof(date), "%" PRIu64, s->date_sec);
    tool_size_text(size, sizeof(size), s->vm_state_size);
    snprintf(clock, sizeof(clock), "%02" PRIu64 ":%02u:%02u.%03u", secs / 3600,
             (unsigned)(secs / 60 % 60), (unsigned)(secs % 60),
             (unsigned)(s->vm_clock_nsec / 1000000 % 1000));
    if (s->flags & QCHAIN_SNAPSHOT_HAS_ICOUNT)
        snprintf(icount, sizeof(icount), "%" PRIu64, s->icount);
    snprintf(line, sizeof(line), "%-9.127s %-16.255s %8s%20s%13s%11s\n", s->id, s->name, size, date,
             clock, icount);
    tool_out_str(o, line);
}

void tool_put_snapshots(struct tool_out *o, const qchain_image_info *i)
{
    char line[128];
    uint32_t n;

    if (!i->n_snapshots || has(i, QCHAIN_IMAGE_DATA_FILE))
        return;
    snprintf(line, sizeof(line), "Snapshot list:\n%-10s%-17s%8s%20s%13s%11s\n", "ID", "TAG",
             "VM SIZE", "DATE", "VM CLOCK", "ICOUNT");
    tool_out_str(o, line);
    for (n = 0; n < i->n_snapshots; n++)
        put_snapshot_line(o, &i->snapshots[n]);
}

static void put_backing_lines(struct tool_out *o, const qchain_image_info *i)
{
    tool_out_str(o, "backing file: ");
    tool_out_str(o, i->backing_name);
    if (!i->backing_resolved) {
        tool_out_str(o, " (cannot determine actual path)");
    } else if (strcmp(i->backing_name, i->backing_resolved) != 0) {
        tool_out_str(o, " (actual path: ");
        tool_out_str(o, i->backing_resolved);
        tool_out_char(o, ')');
    }
    tool_out_char(o, '\n');
    if (i->backing_format)
        put_line(o, "backing file format: ", i->backing_format);
}

static void put_human(struct tool_out *o, const qchain_image_info *i, const char *name)
{
    char size[32], line[128];
    struct tool_json j;

    put_line(o, "image: ", name);
    put_line(o, "file format: ", i->format);
    tool_size_text(size, sizeof(size), i->virtual_size);
    snprintf(line, sizeof(line), "%s (%" PRIu64 " bytes)", size, i->virtual_size);
    put_line(o, "virtual size: ", line);
    tool_size_text(size, sizeof(size), i->allocated_size);
    put_line(o, "disk size: ", program_is_url(i->name) ? "unavailable" : size);
    if (has(i, QCHAIN_IMAGE_ENCRYPTED))
        put_line(o, "encrypted: ", "yes");
    if (i->cluster_size) {
        snprintf(line, sizeof(line), "%" PRIu64, i->cluster_size);
        put_line(o, "cluster_size: ", line);
    }
    if (has(i, QCHAIN_IMAGE_DIRTY))
        put_line(o, "cleanly shut down: ", "no");
    if (i->backing_name)
        put_backing_lines(o, i);
    tool_put_snapshots(o, i);
    if (i->version == 0)
        return;
    put_line(o, "Format specific information:", "");
    tool_json_init_human(&j, o);
    tool_put_qcow2(&j, i);
}

/* ---------------------------------------------------------------- images --- */

struct info_list {
    qchain_image_info **infos;
    uint32_t n;
    const char *top; /* the bytes of the top's name, where the user gave them */
};

static void free_list(struct info_list *l)
{
    uint32_t i;

    for (i = 0; i < l->n; i++)
        qchain_image_info_free(l->infos[i]);
    free(l->infos);
}

static int list_chain(struct tool *t, qchain *c, struct info_list *l)
{
    uint32_t layers = qchain_layers(c);

    l->infos = calloc(layers, sizeof(*l->infos));
    if (!l->infos) {
        tool_complain(t, "out of memory");
        return -1;
    }
    for (l->n = 0; l->n < layers; l->n++) {
        if (qchain_layer_info(&l->infos[l->n], c, l->n, t->err) != 0) {
            tool_complain_error(t);
            return -1;
        }
    }
    return 0;
}

/* A path or URL among the forms that a name can have, or NULL. */
static const char *plain_path(struct tool *t, const char *name)
{
    if (t->image_opts || strncmp(name, "json:", 5) == 0)
        return NULL;
    return strncmp(name, "file:", 5) == 0 ? name + 5 : tool_shown_name(t, name);
}

static int make_list(struct tool *t, const char *name, bool chain, struct info_list *l)
{
    qchain *c;
    int r;

    l->top = plain_path(t, name);
    if (chain) {
        if (tool_open(t, name, 0, NULL, &c) != 0)
            return -1;
        r = list_chain(t, c, l);
        qchain_close(c);
        return r;
    }
    l->infos = calloc(1, sizeof(*l->infos));
    if (!l->infos) {
        tool_complain(t, "out of memory");
        return -1;
    }
    if (tool_inspect(t, name, &l->infos[0]) != 0)
        return -1;
    l->n = 1;
    return 0;
}

static void print_list(struct tool *t, struct tool_out *o, const struct info_list *l, bool chain)
{
    struct tool_json j;
    uint32_t i;

    tool_json_init(&j, o);
    if (t->output == TOOL_JSON && chain)
        tool_json_open(&j, NULL, true);
    for (i = 0; i < l->n; i++) {
        if (t->output == TOOL_JSON) {
            put_json(&j, l->infos[i], i == 0 && l->top ? l->top : l->infos[i]->name);
            continue;
        }
        if (i)
            tool_out_char(o, '\n');
        put_human(o, l->infos[i], l->infos[i]->name);
    }
    if (t->output == TOOL_JSON && chain)
        tool_json_close(&j);
}

static int run_info(struct tool *t, int argc, char **argv)
{
    const char *output = NULL;
    struct info_list l = {0};
    struct tool_out o;
    bool chain = false;
    int c, r;

    while ((c = tool_getopt(t, argc, argv, "f:", info_options)) != TOOL_END) {
        switch (c) {
        case 'f':
            t->format = optarg;
            break;
        case OPT_OUTPUT:
            output = optarg;
            break;
        case OPT_BACKING_CHAIN:
            chain = true;
            break;
        default:
            return t->status;
        }
    }
    if (optind != argc - 1)
        return tool_usage_error(t, "Expecting one image file name");
    if (output && !tool_parse_output(t, output, false))
        return 1;
    r = make_list(t, argv[optind], chain, &l);
    if (r == 0) {
        r = tool_out_init(&o, STDOUT_FILENO) ? 0 : -1;
        if (r == 0) {
            print_list(t, &o, &l, chain);
            r = tool_out_finish(t, &o);
        }
    }
    free_list(&l);
    return r ? 1 : 0;
}

const struct tool_verb tool_verb_info = {
    .name = "info",
    .run = run_info,
    .synopsis = "[options] IMG",
    .help = "  -f, --format FMT        the format of IMG: qcow2, raw\n"
            "  --output=FORMAT         human (default) or json\n"
            "  --backing-chain         describe all layers, from the top down\n",
    .usage_exit = 1,
};
