/* SPDX-License-Identifier: MIT */
#include "qcow2/header_amend.h"

#include <inttypes.h>
#include <string.h>

#include "qcow2/header_encode.h"
#include "qcow2/l2.h"
#include "qcow2/table_walk.h"
#include "qcow2/writer.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"

#define L1_PIECE 4096u /* entries */

struct amend {
    struct qc2_image         *q;
    const qchain_create_opts *opts;
    uint32_t                  mask;
    struct qc2_header         to;
    struct qc2_header_texts   texts;
    qchain_error             *err;
};

static int invalid(const struct amend *a, const char *why)
{
    return qc_fail(a->err, QCHAIN_E_INVAL, "amend: %s", why);
}

static int unsupported(const struct amend *a, const char *why)
{
    return qc_fail(a->err, QCHAIN_E_UNSUPPORTED, "amend: %s", why);
}

/* --------------------------------------------------------------- version --- */

/* UNSUPPORTED if an L2 table has entries that only version 3 knows. */
static int check_l2(struct amend *a, uint64_t offset, uint64_t *table)
{
    uint64_t cluster = a->q->base.cluster_size;
    int ret = qc_store_read(a->q->base.store, table, (size_t)cluster, offset, QC_READ_META, a->err);

    for (uint64_t i = 0; ret == 0 && i < cluster / 8; i++) {
        uint64_t e = qc_be64(&table[i]);

        if (!(e & QC2_COMPRESSED) && e & QC2_ZERO)
            ret = unsupported(a, "version 2 of the format does not know clusters that read as zeros, and the "
                                 "image has some");
    }
    return ret;
}

static int check_l1(struct amend *a, uint64_t offset, uint32_t entries)
{
    uint64_t *table = qc_malloc(a->q->base.cluster_size), *l1 = qc_calloc(L1_PIECE, 8);
    int ret = table && l1 ? 0 : qc_fail_nomem(a->err);

    for (uint32_t at = 0; ret == 0 && at < entries; at += L1_PIECE) {
        uint32_t n = (uint32_t)qc_min64(L1_PIECE, entries - at);

        ret = qc_store_read(a->q->base.store, l1, n * UINT64_C(8), offset + at * UINT64_C(8), QC_READ_META,
                            a->err);
        for (uint32_t i = 0; ret == 0 && i < n; i++) {
            uint64_t l2 = qc_be64(&l1[i]) & QC2_OFFSET_MASK;

            if (l2)
                ret = check_l2(a, l2, table);
        }
    }
    qc_free(table);
    qc_free(l1);
    return ret;
}

static int check_snapshot_v2(void *data, const struct qc2_snapshot *s, qchain_error *err)
{
    struct amend *a = data;

    (void)err;
    if (s->vm_state_size > UINT32_MAX || (s->has_disk_size && s->disk_size != a->q->header.size))
        return unsupported(a, "the image has an internal snapshot of another size, which version 2 of the format "
                              "cannot hold");
    return check_l1(a, s->l1_offset, s->l1_size);
}

static int check_snapshot_v3(void *data, const struct qc2_snapshot *s, qchain_error *err)
{
    (void)err;
    return s->has_disk_size ? QCHAIN_OK
                            : unsupported(data, "the image has an internal snapshot that does not say how large the "
                                                "disk was, as version 3 of the format asks for");
}

/* What version 2 has no room for. */
static int downgrade(struct amend *a)
{
    const struct qc2_header *h = &a->q->header;
    const char *what = h->incompatible & QC2_INCOMPAT_DATA_FILE     ? "an external data file"
                       : h->incompatible & QC2_INCOMPAT_EXTENDED_L2 ? "extended L2 entries"
                       : h->incompatible & QC2_INCOMPAT_COMPRESSION ? "compression other than zlib"
                       : h->incompatible                            ? "features that must not be ignored"
                       : h->refcount_order != 4                     ? "refcounts of other than 16 bits"
                       : h->has_bitmaps                             ? "dirty bitmaps"
                                                                    : NULL;
    int ret;

    if (what)
        return qc_fail(a->err, QCHAIN_E_UNSUPPORTED,
                       "amend: version 2 of the format does not know %s, which the image has", what);
    a->to.version = 2;
    a->to.compatible = a->to.autoclear = 0;
    ret = check_l1(a, h->l1_offset, h->l1_size);
    return ret == 0 ? qc2_each_snapshot(a->q, check_snapshot_v2, a, a->err) : ret;
}

static int amend_version(struct amend *a)
{
    uint32_t version = a->opts->version ? a->opts->version : 3;

    if (version != 2 && version != 3)
        return qc_fail(a->err, QCHAIN_E_INVAL, "amend: version=%" PRIu32 ": 2 or 3", version);
    if (version == a->q->header.version)
        return QCHAIN_OK;
    if (version == 2)
        return downgrade(a);
    a->to.version = 3;
    return qc2_each_snapshot(a->q, check_snapshot_v3, a, a->err);
}

/* ---------------------------------------------------------------- others --- */

static int amend_flags(struct amend *a)
{
    bool lazy = a->opts->flags & QCHAIN_CREATE_LAZY_REFCOUNTS;
    bool raw = a->opts->flags & QCHAIN_CREATE_DATA_FILE_RAW;

    if (a->mask & QCHAIN_AMEND_LAZY_REFCOUNTS) {
        if (lazy && a->to.version < 3)
            return invalid(a, "lazy refcounts need version 3 of the format");
        a->to.compatible &= ~(uint64_t)QC2_COMPAT_LAZY_REFCOUNTS;
        a->to.compatible |= lazy ? QC2_COMPAT_LAZY_REFCOUNTS : 0;
    }
    if (a->mask & QCHAIN_AMEND_DATA_FILE_RAW) {
        if (raw && !(a->to.autoclear & QC2_AUTOCLEAR_DATA_FILE_RAW))
            return unsupported(a, "data_file_raw cannot be set on an image that exists");
        a->to.autoclear &= ~(uint64_t)(raw ? 0 : QC2_AUTOCLEAR_DATA_FILE_RAW);
    }
    return QCHAIN_OK;
}

static int amend_files(struct amend *a)
{
    const qchain_create_opts *o = a->opts;

    if (a->mask & QCHAIN_AMEND_BACKING_FILE) {
        a->texts.backing_file = o->backing_file ? o->backing_file : "";
        if (!*a->texts.backing_file)
            a->texts.backing_format = "";
        else if (a->to.autoclear & QC2_AUTOCLEAR_DATA_FILE_RAW)
            return invalid(a, "an image whose data file is a raw image by itself has no backing file");
    }
    if (a->mask & QCHAIN_AMEND_BACKING_FORMAT) {
        bool has = a->texts.backing_file ? *a->texts.backing_file != 0 : a->q->header.backing_offset != 0;

        a->texts.backing_format = o->backing_format ? o->backing_format : "";
        if (*a->texts.backing_format && !has)
            return invalid(a, "a backing format without a backing file");
    }
    if (a->mask & QCHAIN_AMEND_DATA_FILE) {
        if (!(a->to.incompatible & QC2_INCOMPAT_DATA_FILE))
            return unsupported(a, "a data file can be named only for an image that has one");
        a->texts.data_file = o->data_file ? o->data_file : "";
    }
    return QCHAIN_OK;
}

static int amend_refcounts(struct amend *a)
{
    uint32_t bits = a->opts->refcount_bits ? a->opts->refcount_bits : 16;

    if (bits > 64 || bits & (bits - 1))
        return qc_fail(a->err, QCHAIN_E_INVAL,
                       "amend: refcount_bits=%" PRIu32 ": must be a power of two from 1 to 64", bits);
    if (bits != 1u << a->to.refcount_order)
        return unsupported(a, "the width of refcounts cannot be changed by this version: copy the image");
    return QCHAIN_OK;
}

/* --------------------------------------------------------------- writing --- */

/* The names as the image holds them in memory, made before anything is written. */
struct names {
    char *backing_file, *backing_format, *data_file;
};

static int dup_name(char **out, const char *now, const char *new, qchain_error *err)
{
    const char *s = new ? (*new ? new : NULL) : now;

    *out = s ? qc_strdup(s) : NULL;
    return s && !*out ? qc_fail_nomem(err) : QCHAIN_OK;
}

static int make_names(struct names *n, const struct amend *a)
{
    const struct qc_image *img = &a->q->base;
    int ret = dup_name(&n->backing_file, img->backing_name, a->texts.backing_file, a->err);

    if (ret == 0)
        ret = dup_name(&n->backing_format, img->backing_format, a->texts.backing_format, a->err);
    return ret == 0 ? dup_name(&n->data_file, img->data_file_name, a->texts.data_file, a->err) : ret;
}

static void swap(char **a, char **b)
{
    char *t = *a;

    *a = *b;
    *b = t;
}

static int write_header(struct amend *a)
{
    struct qc2_image *q = a->q;
    struct names n = {0};
    int ret = make_names(&n, a);

    if (ret == 0)
        ret = qc2_header_rewrite(q->base.store, &q->header, &a->to, &a->texts, a->err);
    if (ret == 0) {
        q->header = a->to;
        swap(&q->base.backing_name, &n.backing_file);
        swap(&q->base.backing_format, &n.backing_format);
        swap(&q->base.data_file_name, &n.data_file);
    }
    qc_free(n.backing_file);
    qc_free(n.backing_format);
    qc_free(n.data_file);
    return ret;
}

int qc2_amend(struct qc_image *img, const qchain_create_opts *opts, uint32_t mask, qchain_error *err)
{
    struct qc2_image *q = qc2_of(img);
    struct amend a = {.q = q, .opts = opts, .mask = mask, .err = err};
    int ret = 0;

    if (q->writer)
        pthread_mutex_lock(&q->writer->lock);
    a.to = q->header;
    if (mask & QCHAIN_AMEND_VERSION)
        ret = amend_version(&a);
    if (ret == 0)
        ret = amend_flags(&a);
    if (ret == 0)
        ret = amend_files(&a);
    if (ret == 0 && mask & QCHAIN_AMEND_REFCOUNT_BITS)
        ret = amend_refcounts(&a);
    if (ret == 0)
        ret = write_header(&a);
    if (q->writer)
        pthread_mutex_unlock(&q->writer->lock);
    return ret;
}
