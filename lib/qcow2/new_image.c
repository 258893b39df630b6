/* SPDX-License-Identifier: MIT */
/* A new image: options checked, laid out in one pass, written in order, the header last. */
#include "qcow2/new_image.h"

#include <inttypes.h>
#include <string.h>

#include "format/reserve.h"
#include "qcow2/header_encode.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"

#define OUT_BYTES (2u << 20)
#define COPIED (UINT64_C(1) << 63)
#define NAMES_ABOVE 4096 /* smaller clusters are left to the names of files, as by QEMU */

static bool power_of_two(uint64_t v)
{
    return v && !(v & (v - 1));
}

/* ---------------------------------------------------------------- check --- */

static int check_v2(const struct qc2_create_opts *o, qchain_error *err)
{
    const char *what = o->refcount_bits != 16   ? "refcounts of other than 16 bits need"
                       : o->lazy_refcounts      ? "lazy refcounts need"
                       : o->extended_l2         ? "extended L2 entries need"
                       : o->compression         ? "compression other than zlib needs"
                       : o->data_file           ? "an external data file needs"
                                                : NULL;

    return what ? qc_fail(err, QCHAIN_E_INVAL, "create: %s version 3 of the format", what) : QCHAIN_OK;
}

static int check_files(const struct qc2_create_opts *o, qchain_error *err)
{
    if (o->backing_format && !o->backing_file)
        return qc_fail(err, QCHAIN_E_INVAL, "create: a backing format without a backing file");
    if (o->data_file_raw && !o->data_file)
        return qc_fail(err, QCHAIN_E_INVAL, "create: data_file_raw needs a data file");
    if (o->data_file_raw && o->backing_file)
        return qc_fail(err, QCHAIN_E_INVAL,
                       "create: a data file that is a raw image by itself holds the whole disk: "
                       "there can be no backing file");
    if (o->preallocation && o->backing_file && !o->extended_l2)
        return qc_fail(err, QCHAIN_E_INVAL,
                       "create: preallocation over a backing file needs extended L2 entries: else it "
                       "would hide what the backing file holds");
    if (o->backing_file && strlen(o->backing_file) > QC2_MAX_BACKING_NAME)
        return qc_fail(err, QCHAIN_E_INVAL, "create: the backing file's name has more than %u bytes",
                       QC2_MAX_BACKING_NAME);
    if (o->backing_format && strlen(o->backing_format) > 15)
        return qc_fail(err, QCHAIN_E_INVAL, "create: the backing format has more than 15 bytes");
    if (o->data_file && strlen(o->data_file) > QC2_MAX_DATA_FILE_NAME)
        return qc_fail(err, QCHAIN_E_INVAL, "create: the data file's name has more than %u bytes",
                       QC2_MAX_DATA_FILE_NAME);
    return QCHAIN_OK;
}

int qc2_create_check(const struct qc2_create_opts *o, qchain_error *err)
{
    int ret;

    if (o->version != 2 && o->version != 3)
        return qc_fail(err, QCHAIN_E_INVAL, "create: version=%" PRIu32 ": 2 or 3", o->version);
    if (!power_of_two(o->cluster_size) || o->cluster_size < 512 || o->cluster_size > 2u << 20)
        return qc_fail(err, QCHAIN_E_INVAL,
                       "create: cluster_size=%" PRIu64 ": must be a power of two from 512 to 2 MiB",
                       o->cluster_size);
    if (!power_of_two(o->refcount_bits) || o->refcount_bits > 64)
        return qc_fail(err, QCHAIN_E_INVAL,
                       "create: refcount_bits=%" PRIu32 ": must be a power of two from 1 to 64",
                       o->refcount_bits);
    if (o->compression > QCHAIN_COMPRESSION_ZSTD)
        return qc_fail(err, QCHAIN_E_INVAL, "create: compression=%" PRIu32 ": not known", o->compression);
    if (o->preallocation > QCHAIN_PREALLOC_FULL)
        return qc_fail(err, QCHAIN_E_INVAL, "create: preallocation=%" PRIu32 ": not known",
                       o->preallocation);
    if (o->extended_l2 && o->cluster_size < 16384)
        return qc_fail(err, QCHAIN_E_INVAL,
                       "create: extended L2 entries need clusters of 16 KiB or more");
    ret = o->version == 2 ? check_v2(o, err) : QCHAIN_OK;
    return ret == 0 ? check_files(o, err) : ret;
}

/* --------------------------------------------------------------- layout --- */

/* Are there L2 tables from the beginning? A raw data file is valid only with all its clusters in use. */
static bool has_tables(const struct qc2_create_opts *o)
{
    return o->preallocation != QCHAIN_PREALLOC_OFF || o->data_file_raw;
}

static unsigned log2_of(uint64_t v)
{
    return 63 - (unsigned)__builtin_clzll(v);
}

/* How many refcount blocks and clusters of their table count `other` clusters and themselves. */
static void count_refcounts(struct qc2_layout *l, uint64_t other)
{
    unsigned block_bits = l->cluster_bits + 3 - l->refcount_order; /* log2 of clusters a block counts */
    uint64_t blocks = 1, table = 1, want;

    for (;;) {
        want = qc_div_up(other + blocks + table, UINT64_C(1) << block_bits);
        table = qc_div_up(want * 8, UINT64_C(1) << l->cluster_bits);
        if (want == blocks && qc_div_up(other + blocks + table, UINT64_C(1) << block_bits) == want)
            break;
        blocks = want;
    }
    l->n_blocks = blocks;
    l->n_reftable = table;
}

int qc2_create_layout(struct qc2_layout *l, const struct qc2_create_opts *o, qchain_error *err)
{
    uint64_t bytes, other;

    memset(l, 0, sizeof(*l));
    l->cluster_bits = log2_of(o->cluster_size);
    l->refcount_order = log2_of(o->refcount_bits);
    l->disk_clusters = qc_div_up(o->size, o->cluster_size);
    l->l1_entries = qc_div_up(l->disk_clusters, o->cluster_size / (o->extended_l2 ? 16 : 8));
    if (o->size > QC2_MAX_DISK || l->l1_entries > QC2_MAX_L1_ENTRIES)
        return qc_fail(err, QCHAIN_E_LIMIT,
                       "create: a disk of %" PRIu64 " bytes is too large for clusters of %" PRIu64
                       " bytes%s",
                       o->size, o->cluster_size, o->extended_l2 ? " with extended L2 entries" : "");
    l->n_l1 = qc_div_up(l->l1_entries * 8, o->cluster_size);
    l->n_l2 = has_tables(o) ? l->l1_entries : 0;
    l->n_data = has_tables(o) && !o->data_file ? l->disk_clusters : 0;
    other = 1 + l->n_l1 + l->n_l2 + l->n_data;
    count_refcounts(l, other);
    if (l->n_reftable * o->cluster_size > QC2_MAX_REFTABLE_BYTES)
        return qc_fail(err, QCHAIN_E_LIMIT,
                       "create: a disk of %" PRIu64 " bytes cannot be preallocated with clusters of %" PRIu64
                       " bytes: the refcount table would take more than 8 MiB",
                       o->size, o->cluster_size);
    bytes = (other + l->n_blocks + l->n_reftable) << l->cluster_bits;
    if (bytes >> l->cluster_bits != other + l->n_blocks + l->n_reftable || bytes > UINT64_C(1) << 56)
        return qc_fail(err, QCHAIN_E_LIMIT, "create: the file would take more than 2^56 bytes");
    l->reftable = 1;
    l->blocks = l->reftable + l->n_reftable;
    l->l1 = l->blocks + l->n_blocks;
    l->l2 = l->l1 + l->n_l1;
    l->data = l->l2 + l->n_l2;
    l->end = l->data + l->n_data;
    return QCHAIN_OK;
}

/* ---------------------------------------------------------------- write --- */

/* Bytes on their way, one stretch behind the other. */
struct out {
    struct qc_store *store;
    uint8_t         *buf; /* OUT_BYTES */
    size_t           len;
    uint64_t         at;  /* where buf goes */
};

static int out_flush(struct out *o, qchain_error *err)
{
    int ret = o->len ? qc_store_write(o->store, o->buf, o->len, o->at, err) : 0;

    o->at += o->len;
    o->len = 0;
    return ret;
}

/* Go on at another place. */
static int out_seek(struct out *o, uint64_t at, qchain_error *err)
{
    int ret;

    if (o->at + o->len == at)
        return 0;
    ret = out_flush(o, err);
    o->at = at;
    return ret;
}

/* Room for n bytes, zeroed, n <= OUT_BYTES. NULL after a failure. */
static uint8_t *out_room(struct out *o, size_t n, int *ret, qchain_error *err)
{
    uint8_t *p;

    if (o->len + n > OUT_BYTES && (*ret = out_flush(o, err)) != 0)
        return NULL;
    p = o->buf + o->len;
    memset(p, 0, n);
    o->len += n;
    return p;
}

static int out_zeros(struct out *o, uint64_t n, qchain_error *err)
{
    int ret = 0;

    while (n > 0) {
        size_t part = (size_t)qc_min64(n, OUT_BYTES / 4);

        if (!out_room(o, part, &ret, err))
            return ret;
        n -= part;
    }
    return ret;
}

struct creation {
    const struct qc2_create_opts *opts;
    struct qc2_layout             l;
    struct out                    out;
};

static uint64_t place(const struct creation *c, uint64_t cluster)
{
    return cluster << c->l.cluster_bits;
}

/* What is zeros up to the cluster `end` needs no writing in a new file. */
static int pad_to(struct creation *c, uint64_t end, qchain_error *err)
{
    uint64_t at = c->out.at + c->out.len;

    return c->opts->in_place ? out_zeros(&c->out, place(c, end) - at, err) : 0;
}

/* n numbers in a row, from first on, `step` apart, each followed by `extra`, if entries have 16 bytes. */
static int out_entries(struct creation *c, uint64_t n, uint64_t first, uint64_t step, unsigned bytes,
                       uint64_t extra, qchain_error *err)
{
    int ret = 0;

    for (uint64_t i = 0; i < n; i++) {
        uint8_t *p = out_room(&c->out, bytes, &ret, err);

        if (!p)
            return ret;
        qc_put_be64(p, first + i * step);
        if (bytes == 16)
            qc_put_be64(p + 8, extra);
    }
    return ret;
}

static int write_reftable(struct creation *c, qchain_error *err)
{
    int ret = out_seek(&c->out, place(c, c->l.reftable), err);

    if (ret == 0)
        ret = out_entries(c, c->l.n_blocks, place(c, c->l.blocks), c->opts->cluster_size, 8, 0, err);
    return ret == 0 ? pad_to(c, c->l.blocks, err) : ret;
}

/* Eight bytes of refcounts that are all 1, as in the file. */
static uint64_t ones(unsigned order)
{
    static const uint64_t pattern[] = {
        UINT64_C(0xffffffffffffffff), UINT64_C(0x5555555555555555), UINT64_C(0x1111111111111111),
        UINT64_C(0x0101010101010101), UINT64_C(0x0001000100010001), UINT64_C(0x0000000100000001), 1,
    };

    return pattern[order];
}

/* Every cluster up to the end counts 1. */
static int write_blocks(struct creation *c, qchain_error *err)
{
    unsigned order = c->l.refcount_order;
    uint64_t per_word = UINT64_C(64) >> order, words = c->l.end / per_word;
    unsigned rest = (unsigned)(c->l.end % per_word);
    int ret = out_seek(&c->out, place(c, c->l.blocks), err);
    uint8_t *p;

    if (ret == 0)
        ret = out_entries(c, words, ones(order), 0, 8, 0, err);
    if (ret != 0)
        return ret;
    if (rest) {
        p = out_room(&c->out, 8, &ret, err);
        if (!p)
            return ret;
        for (unsigned i = 0; i < rest; i++) {
            if (order < 3) /* several in a byte, the first in its lowest bits */
                p[(i << order) / 8] |= (uint8_t)(1u << ((i << order) % 8));
            else
                p[((i + 1) << (order - 3)) - 1] = 1;
        }
    }
    return pad_to(c, c->l.l1, err);
}

static int write_l1(struct creation *c, qchain_error *err)
{
    int ret = 0;

    if (c->l.n_l2 || c->opts->in_place)
        ret = out_seek(&c->out, place(c, c->l.l1), err);
    if (ret == 0 && c->l.n_l2)
        ret = out_entries(c, c->l.n_l2, place(c, c->l.l2) | COPIED, c->opts->cluster_size, 8, 0, err);
    return ret == 0 ? pad_to(c, c->l.l2, err) : ret;
}

/* With subclusters none is allocated yet, so that a backing file shows; a raw data file holds all. */
static int write_l2(struct creation *c, qchain_error *err)
{
    const struct qc2_create_opts *o = c->opts;
    uint64_t extra = o->data_file_raw ? UINT64_C(0xffffffff) : 0;
    uint64_t first = o->data_file ? 0 : place(c, c->l.data);
    int ret;

    if (!c->l.n_l2)
        return QCHAIN_OK;
    ret = out_seek(&c->out, place(c, c->l.l2), err);
    if (ret == 0)
        ret = out_entries(c, c->l.disk_clusters, first | COPIED, o->cluster_size, o->extended_l2 ? 16 : 8,
                          extra, err);
    return ret == 0 ? pad_to(c, c->l.data, err) : ret;
}

/* Space for guest data. What a device held there must not show, whatever was asked for. */
static int reserve_data(struct creation *c, qchain_error *err)
{
    uint32_t how = c->opts->preallocation;

    if (c->opts->in_place && how == QCHAIN_PREALLOC_METADATA)
        how = QCHAIN_PREALLOC_FALLOC;
    return qc_reserve(c->out.store, c->l.n_data << c->l.cluster_bits, place(c, c->l.data), how, err);
}

/* The data file, made as long as the disk; what is new of it is reserved. */
static int prepare_data(struct creation *c, struct qc_store *data, qchain_error *err)
{
    uint64_t size = c->opts->size, had = qc_store_size(data);
    int ret;

    if (had >= size)
        return QCHAIN_OK;
    ret = qc_store_resize(data, size, err);
    return ret == 0 ? qc_reserve(data, size - had, had, c->opts->preallocation, err) : ret;
}

static int write_header(struct creation *c, qchain_error *err)
{
    const struct qc2_create_opts *o = c->opts;
    struct qc2_header_parts parts = {.backing_file = {o->backing_file, 0}};
    struct qc2_header h = {
        .version = o->version,
        .cluster_bits = c->l.cluster_bits,
        .size = o->size,
        .l1_offset = c->l.l1_entries ? place(c, c->l.l1) : 0,
        .l1_size = (uint32_t)c->l.l1_entries,
        .reftable_offset = place(c, c->l.reftable),
        .reftable_clusters = (uint32_t)c->l.n_reftable,
        .refcount_order = c->l.refcount_order,
        .incompatible = (o->data_file ? QC2_INCOMPAT_DATA_FILE : 0) |
                        (o->compression ? QC2_INCOMPAT_COMPRESSION : 0) |
                        (o->extended_l2 ? QC2_INCOMPAT_EXTENDED_L2 : 0),
        .compatible = o->lazy_refcounts ? QC2_COMPAT_LAZY_REFCOUNTS : 0,
        .autoclear = o->data_file_raw ? QC2_AUTOCLEAR_DATA_FILE_RAW : 0,
        .compression = o->compression,
    };
    size_t room = (size_t)qc_min64(o->cluster_size, 16384), len = 0;
    int ret = out_seek(&c->out, 0, err);

    if (ret == 0)
        ret = out_flush(&c->out, err);
    if (ret != 0)
        return ret;
    memset(c->out.buf, 0, room);
    if (o->backing_file)
        parts.backing_file.len = strlen(o->backing_file);
    if (o->data_file)
        parts.data_file = (struct qc2_bytes){o->data_file, strlen(o->data_file)};
    if (o->backing_format)
        memcpy(h.backing_format, o->backing_format, strlen(o->backing_format));
    parts.n_features = o->version >= 3 && o->cluster_size > NAMES_ABOVE ? QC2_FEATURE_NAMES : 0;
    ret = qc2_header_encode(c->out.buf, room, &h, &parts, &len, err);
    if (ret == QCHAIN_E_LIMIT && parts.n_features) {
        parts.n_features = 0;
        ret = qc2_header_encode(c->out.buf, room, &h, &parts, &len, err);
    }
    return ret == 0 ? qc_store_write(c->out.store, c->out.buf, o->in_place ? room : len, 0, err) : ret;
}

/* In place: what the store held is no image any more before anything else is written. */
static int begin_in_place(struct creation *c, qchain_error *err)
{
    uint64_t need = place(c, c->l.end), size = qc_store_size(c->out.store);
    int ret;

    if (size < need)
        return qc_fail(err, QCHAIN_E_NOSPACE,
                       "create: the image needs %" PRIu64 " bytes, and there are %" PRIu64, need, size);
    memset(c->out.buf, 0, QC2_SECTOR);
    ret = qc_store_write(c->out.store, c->out.buf, QC2_SECTOR, 0, err);
    return ret == 0 ? qc_store_flush(c->out.store, err) : ret;
}

static int write_all(struct creation *c, struct qc_store *data, qchain_error *err)
{
    const struct qc2_create_opts *o = c->opts;
    bool padded = c->l.l1_entries == 0 || c->l.n_l2;
    uint64_t size = padded ? place(c, c->l.end) : place(c, c->l.l1) + c->l.l1_entries * 8;
    int ret = o->in_place ? begin_in_place(c, err) : qc_store_resize(c->out.store, size, err);

    if (ret == 0)
        ret = write_reftable(c, err);
    if (ret == 0)
        ret = write_blocks(c, err);
    if (ret == 0)
        ret = write_l1(c, err);
    if (ret == 0)
        ret = write_l2(c, err);
    if (ret == 0)
        ret = out_flush(&c->out, err);
    if (ret == 0)
        ret = reserve_data(c, err);
    if (ret == 0 && data)
        ret = prepare_data(c, data, err);
    if (ret == 0 && o->in_place)
        ret = qc_store_flush(c->out.store, err);
    if (ret == 0)
        ret = write_header(c, err);
    return ret == 0 && o->in_place ? qc_store_flush(c->out.store, err) : ret;
}

int qc2_create(struct qc_store *store, struct qc_store *data, const struct qc2_create_opts *o,
               qchain_error *err)
{
    struct creation c = {.opts = o, .out = {.store = store}};
    int ret = qc2_create_check(o, err);

    if (ret == 0)
        ret = qc2_create_layout(&c.l, o, err);
    if (ret != 0)
        return ret;
    c.out.buf = qc_malloc(OUT_BYTES);
    if (!c.out.buf)
        return qc_fail_nomem(err);
    ret = write_all(&c, data, err);
    qc_free(c.out.buf);
    return ret;
}
