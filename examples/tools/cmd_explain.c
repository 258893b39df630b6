/* SPDX-License-Identifier: MIT */
/*
 * cmd_explain.c - why the bytes of a disk come from where they come: which layers were asked, what they said, and
 * which requests it takes.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tool.h"

/* Without a length one stretch is explained, as far as it goes within so much. */
#define DEFAULT_LENGTH (2u << 20)
/* Of layers that hold nothing so many are named: the first, and the last one. */
#define SHOWN_ABOVE 4
/* --read: so much at once. */
#define READ_BYTES ((size_t)4 << 20)

enum { OPT_OUTPUT = TOOL_OPT_BASE, OPT_READ };

static const struct option explain_options[] = {
    {"format", required_argument, NULL, 'f'},
    {"output", required_argument, NULL, OPT_OUTPUT},
    {"read", no_argument, NULL, OPT_READ},
    {NULL, 0, NULL, 0},
};

enum kind { DATA, COMPRESSED, ZERO, ZERO_ALLOCATED, HOLE, RESERVED, UNALLOCATED, BEYOND_LAYER, BEYOND_END };

static const struct {
    const char *name;
    const char *text;
} kinds[] = {
    [DATA] = {"data", "stored bytes"},
    [COMPRESSED] = {"compressed", "a compressed cluster"},
    [ZERO] = {"zero", "zeros, as a layer says"},
    [ZERO_ALLOCATED] = {"zero-allocated", "zeros, as a layer says, with space kept for them"},
    [HOLE] = {"hole", "zeros: a hole in a layer's file"},
    [RESERVED] = {"reserved", "zeros: no layer holds it, but one has space for it"},
    [UNALLOCATED] = {"unallocated", "zeros: no layer holds it"},
    [BEYOND_LAYER] = {"beyond-layer", "zeros: hidden by a layer that is shorter than the disk"},
    [BEYOND_END] = {"beyond-end", "beyond the end of the disk"},
};

/* What is known of the disk cache. */
enum cached { CACHE_NONE, CACHE_MISS, CACHE_PART, CACHE_HIT, CACHE_UNKNOWN };

static const char *const cache_names[] = {"none", "miss", "part", "hit", "unknown"};

/* What was asked of stores so far. */
struct cost {
    qchain_stats local;
    qchain_remote_stats remote;
};

struct explain {
    struct tool *t;
    qchain *c;
    uint32_t layers;
    qchain_image_info **info; /* of layers that were asked for */
    struct cost found;        /* what opening, and mapping the first stretch, took */
    struct tool_json j;
    uint64_t offset, length;
    bool read;                /* --read */
    char *buf;                /* READ_BYTES, or NULL until it is needed */
};

/* One stretch, and all that is to be said of it. */
struct stretch {
    qchain_extent e;
    enum kind kind;
    bool placed;              /* it lies somewhere in a file: */
    uint64_t host_length;
    bool remote, data_file;
    enum cached cached;
    struct cost cost;         /* --read: of reading it */
};

/* -------------------------------------------------------------------- facts --- */

static const qchain_image_info *layer(struct explain *x, uint32_t k)
{
    if (!x->info[k] && qchain_layer_info(&x->info[k], x->c, k, x->t->err) != 0) {
        tool_complain_error(x->t);
        return NULL;
    }
    return x->info[k];
}

static bool from_sidecar(const struct explain *x, uint32_t k)
{
    return k >= x->layers - qchain_index_layers(x->c);
}

static void take_cost(const struct explain *x, struct cost *cost)
{
    memset(cost, 0, sizeof(*cost));
    cost->local.struct_size = sizeof(cost->local);
    cost->remote.struct_size = sizeof(cost->remote);
    qchain_env_stats(x->t->env, &cost->local);
    qchain_env_remote_stats(x->t->env, &cost->remote);
}

/* Zeros with a place are either said to be zeros or a hole; who does not look for holes can tell. */
static int kind_of_placed_zeros(struct explain *x, const qchain_extent *e, enum kind *kind)
{
    qchain_extent again;
    uint64_t next;
    uint32_t n;

    if (qchain_map(x->c, e->offset, 1, &again, 1, &n, &next, QCHAIN_MAP_NO_HOLES, x->t->err) != 0) {
        tool_complain_error(x->t);
        return -1;
    }
    *kind = again.flags & QCHAIN_EXTENT_DATA ? HOLE : ZERO_ALLOCATED;
    return 0;
}

static int find_kind(struct explain *x, const qchain_extent *e, enum kind *kind)
{
    bool present = e->flags & QCHAIN_EXTENT_PRESENT, placed = e->flags & QCHAIN_EXTENT_HAS_OFFSET;

    if (present && (e->flags & QCHAIN_EXTENT_ZERO) && placed)
        return kind_of_placed_zeros(x, e, kind);
    if (e->flags & QCHAIN_EXTENT_COMPRESSED)
        *kind = COMPRESSED;
    else if (e->flags & QCHAIN_EXTENT_DATA)
        *kind = DATA;
    else if (present)
        *kind = ZERO;
    else if (placed)
        *kind = RESERVED;
    else
        *kind = e->layer + 1 < x->layers ? BEYOND_LAYER : UNALLOCATED;
    return 0;
}

/* A prefetch that may not fetch a byte tells what is there. */
static enum cached look_into_cache(struct explain *x, const struct stretch *s)
{
    qchain_prefetch_range range = {.offset = s->e.offset, .length = s->e.length};
    qchain_prefetch_result result = {.struct_size = sizeof(result)};
    qchain_prefetch_opts o;
    int r;

    qchain_prefetch_opts_init(&o, sizeof(o));
    o.ranges = &range;
    o.n_ranges = 1;
    o.max_bytes = 1;
    r = qchain_prefetch(&x->c, 1, &o, &result, x->t->err);
    if (r == QCHAIN_E_UNSUPPORTED)
        return CACHE_NONE;
    if (r || result.unkept)
        return CACHE_UNKNOWN;
    if (result.end == QCHAIN_PREFETCH_ALL)
        return CACHE_HIT;
    return result.cached ? CACHE_PART : CACHE_MISS;
}

static int read_it(struct explain *x, struct stretch *s)
{
    uint64_t at = s->e.offset, end = at + s->e.length;
    size_t n;

    if (!x->buf && !(x->buf = malloc(READ_BYTES))) {
        tool_complain(x->t, "out of memory");
        return -1;
    }
    take_cost(x, &s->cost);
    for (; at < end; at += n) {
        n = end - at < READ_BYTES ? (size_t)(end - at) : READ_BYTES;
        if (qchain_read(x->c, x->buf, n, at, 0, x->t->err) != 0) {
            tool_complain_error(x->t);
            return -1;
        }
    }
    return 0;
}

static int examine(struct explain *x, const qchain_extent *e, struct stretch *s)
{
    qchain_source_info source = {.struct_size = sizeof(source)};

    memset(s, 0, sizeof(*s));
    s->e = *e;
    if (find_kind(x, e, &s->kind) != 0)
        return -1;
    s->placed = (e->flags & (QCHAIN_EXTENT_HAS_OFFSET | QCHAIN_EXTENT_COMPRESSED)) != 0;
    s->host_length = e->flags & QCHAIN_EXTENT_COMPRESSED ? e->host_length : e->length;
    if (s->placed && qchain_source_stat(x->c, e->source, &source, x->t->err) != 0) {
        tool_complain_error(x->t);
        return -1;
    }
    s->remote = source.flags & QCHAIN_SOURCE_REMOTE;
    s->data_file = source.flags & QCHAIN_SOURCE_DATA_FILE;
    if (s->remote && (e->flags & QCHAIN_EXTENT_DATA))
        s->cached = look_into_cache(x, s);
    return x->read ? read_it(x, s) : 0;
}

/* Where the tables of a qcow2 image are looked at for an offset. */
struct tables {
    uint64_t l1, l2, subcluster;
};

static struct tables tables_at(const qchain_image_info *i, uint64_t offset)
{
    uint64_t entries = i->cluster_size / (i->flags & QCHAIN_IMAGE_EXTENDED_L2 ? 16 : 8);
    uint64_t cluster = offset / i->cluster_size;

    return (struct tables){cluster / entries, cluster % entries,
                           offset % i->cluster_size / i->subcluster_size};
}

/* --------------------------------------------------------------------- text --- */

/* The file that holds a stretch, fit for a terminal. */
static const char *file_name(const qchain_image_info *i, const struct stretch *s)
{
    return s->data_file && i->data_file ? i->data_file : i->name;
}

/* "#1 mid.qcow2: L1 entry 0, L2 entry 16: " */
static void print_layer(const qchain_image_info *i, uint32_t k, uint64_t offset)
{
    printf("    #%" PRIu32 " %s: ", k, i->name);
    if (i->version && i->cluster_size) {
        struct tables at = tables_at(i, offset);

        printf("L1 entry %" PRIu64 ", L2 entry %" PRIu64, at.l1, at.l2);
        if (i->flags & QCHAIN_IMAGE_EXTENDED_L2)
            printf(", subcluster %" PRIu64, at.subcluster);
        printf(": ");
    }
}

/* What the entry of the layer where the search ended says. */
static void print_entry(const qchain_image_info *i, const struct stretch *s)
{
    const char *compression = i->compression == QCHAIN_COMPRESSION_ZSTD ? "zstd" : "zlib";

    switch (s->kind) {
    case COMPRESSED:
        printf("%s stream of at most %" PRIu64 " bytes at %" PRIu64 "\n", compression, s->host_length,
               s->e.host_offset);
        break;
    case DATA:
    case HOLE:
    case ZERO_ALLOCATED:
    case RESERVED:
        printf("%s%s%" PRIu64 "\n", i->version ? "" : "raw: ",
               s->kind == DATA ? "data at "
               : s->kind == HOLE ? "a hole at "
               : s->kind == RESERVED ? "nothing, with space at "
                                     : "zeros, with space at ",
               s->e.host_offset);
        break;
    case ZERO:
        printf("zeros, without space in the file\n");
        break;
    default:
        printf("nothing\n");
    }
}

static int print_path(struct explain *x, const struct stretch *s)
{
    uint32_t last = s->e.layer, k;
    const qchain_image_info *i;

    printf("  lookup, from the top down:\n");
    for (k = 0; k <= last; k++) {
        if (last > SHOWN_ABOVE + 1 && k == SHOWN_ABOVE - 1) {
            printf("    #%" PRIu32 " to #%" PRIu32 ": nothing\n", k, last - 2);
            k = last - 1;
        }
        i = layer(x, k);
        if (!i)
            return -1;
        print_layer(i, k, s->e.offset);
        if (k < last)
            printf("nothing\n");
        else
            print_entry(i, s);
    }
    if (s->kind != BEYOND_LAYER)
        return 0;
    i = layer(x, last + 1);
    if (!i)
        return -1;
    printf("    #%" PRIu32 " %s: ends at %" PRIu64 ", so what is below it cannot be seen\n", last + 1, i->name,
           i->virtual_size);
    return 0;
}

static void print_shape(const qchain_image_info *i)
{
    char size[32], part[32];

    if (!i->version || !i->cluster_size)
        return;
    tool_size_text(size, sizeof(size), i->cluster_size);
    tool_size_text(part, sizeof(part), i->subcluster_size);
    printf("  clusters: %s", size);
    if (i->flags & QCHAIN_IMAGE_EXTENDED_L2)
        printf(" in subclusters of %s", part);
    printf("\n");
}

static void print_remote(const qchain_image_info *i, const struct stretch *s)
{
    static const char *const said[] = {
        [CACHE_NONE] = "none is set (--cache-dir)", [CACHE_MISS] = "miss",
        [CACHE_PART] = "miss, a part of it is there", [CACHE_HIT] = "hit: no request for it",
        [CACHE_UNKNOWN] = "nobody can tell, the server sends nothing to know the object by"};

    printf("  request: GET %s bytes=%" PRIu64 "-%" PRIu64 ", in whole blocks (block-size, 2M if not set)\n",
           file_name(i, s), s->e.host_offset, s->e.host_offset + s->host_length - 1);
    printf("  disk cache: %s\n", said[s->cached]);
}

static void print_cost(const struct stretch *s, const struct cost *now)
{
    const struct cost *before = &s->cost;

    printf("  read: %" PRIu64 " calls for data, %" PRIu64 " bytes; %" PRIu64 " clusters unpacked\n",
           now->local.store_reads - before->local.store_reads, now->local.store_bytes - before->local.store_bytes,
           now->local.decoded_clusters - before->local.decoded_clusters);
    if (s->remote)
        printf("        %" PRIu64 " requests, %" PRIu64 " bytes received; answered by the disk cache: %" PRIu64
               ", from memory: %" PRIu64 "\n",
               now->remote.requests - before->remote.requests, now->remote.bytes - before->remote.bytes,
               now->remote.disk_hits - before->remote.disk_hits,
               now->remote.memory_hits - before->remote.memory_hits);
}

static int print_stretch(struct explain *x, const struct stretch *s)
{
    const qchain_image_info *i = layer(x, s->e.layer);
    struct cost now;

    if (!i)
        return -1;
    take_cost(x, &now);
    printf("%" PRIu64 " to %" PRIu64 " (%" PRIu64 " bytes): %s\n", s->e.offset, s->e.offset + s->e.length - 1,
           s->e.length, kinds[s->kind].text);
    if (s->e.flags & QCHAIN_EXTENT_PRESENT)
        printf("  layer: #%" PRIu32 " of %" PRIu32 ", %s (%s)\n", s->e.layer, x->layers, i->name, i->format);
    if (s->placed)
        printf("  file: %s%s, from byte %" PRIu64 "\n", file_name(i, s),
               s->data_file ? " (the layer's data file)" : "", s->e.host_offset);
    if (s->e.flags & QCHAIN_EXTENT_PRESENT)
        print_shape(i);
    if (print_path(x, s) != 0)
        return -1;
    printf("  known from: %s\n", from_sidecar(x, s->e.layer) ? "the sidecar index" : "the layers themselves");
    if (s->remote && (s->e.flags & QCHAIN_EXTENT_DATA))
        print_remote(i, s);
    if (x->read)
        print_cost(s, &now);
    return 0;
}

/* What all stretches share. */
static void print_found(const struct explain *x)
{
    const struct cost *f = &x->found;

    printf("to open it and find the first stretch: %" PRIu64 " reads of metadata, %" PRIu64 " bytes", f->local.meta_reads, f->local.meta_bytes);
    if (f->local.sidecar_reads)
        printf(" (of sidecar indexes: %" PRIu64 ", %" PRIu64 " bytes)", f->local.sidecar_reads,
               f->local.sidecar_bytes);
    printf("\n");
    if (f->remote.requests || f->remote.disk_hits)
        printf("                                       %" PRIu64 " requests, %" PRIu64
               " bytes received; answered by the disk cache: %" PRIu64 "\n",
               f->remote.requests, f->remote.bytes, f->remote.disk_hits);
}

/* --------------------------------------------------------------------- JSON --- */

static int put_layer(struct explain *x, const char *key, uint32_t k, uint64_t offset)
{
    const qchain_image_info *i = layer(x, k);

    if (!i)
        return -1;
    tool_json_open(&x->j, key, false);
    tool_json_u64(&x->j, "layer", k);
    tool_json_str(&x->j, "filename", i->name);
    tool_json_str(&x->j, "format", i->format);
    tool_json_u64(&x->j, "virtual-size", i->virtual_size);
    tool_json_bool(&x->j, "sidecar-index", from_sidecar(x, k));
    if (i->version && i->cluster_size) {
        struct tables at = tables_at(i, offset);

        tool_json_u64(&x->j, "cluster-size", i->cluster_size);
        tool_json_u64(&x->j, "l1-index", at.l1);
        tool_json_u64(&x->j, "l2-index", at.l2);
        if (i->flags & QCHAIN_IMAGE_EXTENDED_L2) {
            tool_json_u64(&x->j, "subcluster-size", i->subcluster_size);
            tool_json_u64(&x->j, "subcluster", at.subcluster);
        }
    }
    tool_json_close(&x->j);
    return 0;
}

static void put_cost(struct explain *x, const char *key, const struct cost *from, const struct cost *to)
{
    tool_json_open(&x->j, key, false);
    tool_json_u64(&x->j, "metadata-reads", to->local.meta_reads - from->local.meta_reads);
    tool_json_u64(&x->j, "metadata-bytes", to->local.meta_bytes - from->local.meta_bytes);
    tool_json_u64(&x->j, "data-reads", to->local.store_reads - from->local.store_reads);
    tool_json_u64(&x->j, "data-bytes", to->local.store_bytes - from->local.store_bytes);
    tool_json_u64(&x->j, "requests", to->remote.requests - from->remote.requests);
    tool_json_u64(&x->j, "received-bytes", to->remote.bytes - from->remote.bytes);
    tool_json_u64(&x->j, "disk-cache-hits", to->remote.disk_hits - from->remote.disk_hits);
    tool_json_close(&x->j);
}

static const char *source_name(const struct explain *x, uint32_t source)
{
    const char *name = qchain_source_name(x->c, source);

    return name ? name : "?";
}

static void put_place(struct explain *x, const struct stretch *s)
{
    tool_json_str(&x->j, "filename", source_name(x, s->e.source));
    tool_json_bool(&x->j, "data-file", s->data_file);
    tool_json_u64(&x->j, "offset", s->e.host_offset);
    tool_json_u64(&x->j, "host-length", s->host_length);
    if (!s->remote || !(s->e.flags & QCHAIN_EXTENT_DATA))
        return;
    tool_json_open(&x->j, "request", false);
    tool_json_u64(&x->j, "first-byte", s->e.host_offset);
    tool_json_u64(&x->j, "last-byte", s->e.host_offset + s->host_length - 1);
    tool_json_str(&x->j, "disk-cache", cache_names[s->cached]);
    tool_json_close(&x->j);
}

static int put_stretch(struct explain *x, const struct stretch *s)
{
    uint32_t k, upto = s->e.layer + (s->kind == BEYOND_LAYER);
    struct cost now;

    take_cost(x, &now);
    tool_json_open(&x->j, NULL, false);
    tool_json_u64(&x->j, "start", s->e.offset);
    tool_json_u64(&x->j, "length", s->e.length);
    tool_json_str(&x->j, "kind", kinds[s->kind].name);
    tool_json_u64(&x->j, "depth", s->e.layer);
    if (s->placed)
        put_place(x, s);
    tool_json_open(&x->j, "lookup", true);
    for (k = 0; k <= upto; k++) {
        if (upto > SHOWN_ABOVE + 1 && k == SHOWN_ABOVE - 1)
            k = upto - 1;
        if (put_layer(x, NULL, k, s->e.offset) != 0)
            return -1;
    }
    tool_json_close(&x->j);
    if (x->read)
        put_cost(x, "read", &s->cost, &now);
    tool_json_close(&x->j);
    return 0;
}

static void put_head(struct explain *x)
{
    static const struct cost nothing;

    tool_json_open(&x->j, NULL, false);
    tool_json_u64(&x->j, "virtual-size", qchain_size(x->c));
    tool_json_u64(&x->j, "layers", x->layers);
    tool_json_u64(&x->j, "sidecar-layers", qchain_index_layers(x->c));
    put_cost(x, "found", &nothing, &x->found);
    tool_json_open(&x->j, "stretches", true);
}

static void put_beyond_end(struct explain *x)
{
    if (x->t->output == TOOL_JSON) {
        tool_json_open(&x->j, NULL, false);
        tool_json_u64(&x->j, "start", x->offset);
        tool_json_str(&x->j, "kind", kinds[BEYOND_END].name);
        tool_json_close(&x->j);
    } else {
        printf("%" PRIu64 ": %s, which has %" PRIu64 " bytes\n", x->offset, kinds[BEYOND_END].text,
               qchain_size(x->c));
    }
}

/* ---------------------------------------------------------------- the range --- */

static int explain_stretches(struct explain *x)
{
    bool json = x->t->output == TOOL_JSON, one = x->length == 0;
    uint64_t offset = x->offset, size = qchain_size(x->c), left = one ? DEFAULT_LENGTH : x->length;
    uint64_t end = left < size - offset ? offset + left : size;
    struct stretch s;
    qchain_extent e;
    uint32_t n;

    do {
        if (qchain_map(x->c, offset, end - offset, &e, 1, &n, &offset, QCHAIN_MAP_CLUSTERS, x->t->err) != 0) {
            tool_complain_error(x->t);
            return -1;
        }
        if (e.offset == x->offset) {
            take_cost(x, &x->found);
            if (json)
                put_head(x);
        }
        if (examine(x, &e, &s) != 0 || (json ? put_stretch(x, &s) : print_stretch(x, &s)) != 0)
            return -1;
    } while (!one && offset < end);
    return 0;
}

static int explain(struct explain *x)
{
    bool json = x->t->output == TOOL_JSON;
    struct tool_out o = {0};
    int r = 0;

    if (json && !tool_out_init(&o, STDOUT_FILENO)) {
        tool_complain(x->t, "out of memory");
        return -1;
    }
    tool_json_init(&x->j, &o);
    if (x->offset < qchain_size(x->c)) {
        r = explain_stretches(x);
    } else {
        take_cost(x, &x->found);
        if (json)
            put_head(x);
        put_beyond_end(x);
    }
    if (r == 0 && json) {
        tool_json_close(&x->j);
        tool_json_close(&x->j);
    } else if (r == 0) {
        print_found(x);
    }
    if (r != 0)
        o.len = 0; /* half a tree is of no use */
    return json && tool_out_finish(x->t, &o) != 0 ? -1 : r;
}

static int explain_chain(struct explain *x)
{
    uint32_t k;
    int r;

    x->layers = qchain_layers(x->c);
    x->info = calloc(x->layers, sizeof(*x->info));
    if (!x->info) {
        tool_complain(x->t, "out of memory");
        return -1;
    }
    r = explain(x);
    free(x->buf);
    for (k = 0; k < x->layers; k++)
        qchain_image_info_free(x->info[k]);
    free(x->info);
    return r;
}

static int run_explain(struct tool *t, int argc, char **argv)
{
    struct explain x = {.t = t};
    int c, r;

    while ((c = tool_getopt(t, argc, argv, "f:", explain_options)) != TOOL_END) {
        switch (c) {
        case 'f':
            t->format = optarg;
            break;
        case OPT_OUTPUT:
            if (!tool_parse_output(t, optarg, false))
                return 2;
            break;
        case OPT_READ:
            x.read = true;
            break;
        default:
            return t->status;
        }
    }
    if (argc - optind < 2 || argc - optind > 3)
        return tool_usage_error(t, "Expecting an image file name, an offset and perhaps a length");
    if (!tool_parse_size(t, "offset", argv[optind + 1], &x.offset))
        return 2;
    if (argc - optind == 3 && !tool_parse_number(t, "length", argv[optind + 2], 1, INT64_MAX, &x.length))
        return 2;
    if (tool_open(t, argv[optind], 0, NULL, &x.c) != 0)
        return 1;
    r = explain_chain(&x);
    qchain_close(x.c);
    return r ? 1 : 0;
}

const struct tool_verb tool_verb_explain = {
    .name = "explain",
    .run = run_explain,
    .synopsis = "[options] IMG OFFSET [LENGTH]",
    .help = "  OFFSET, LENGTH          of the disk; without LENGTH the stretch at OFFSET\n"
            "  -f, --format FMT        the format of IMG: qcow2, raw\n"
            "  --output=FORMAT         human (default) or json\n"
            "  --read                  read it too, and tell what that took\n",
    .usage_exit = 2,
};
