/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <string.h>

#include "qcow2/image_int.h"
#include "qcow2/map_far.h"
#include "qcow2/qcow2.h"
#include "qcow2/table_walk.h"
#include "qcow2/writer.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"
#include "util/escape.h"

#define HEAD 4096u         /* holds all but unusual headers */
#define HEAD_MORE 65536u

/* The first bytes of the file, as many as it takes. */
struct head {
    uint8_t *p;
    size_t   len;
};

static bool qc2_probe(const uint8_t *head, size_t len)
{
    return len >= 4 && memcmp(head, "QFI\xfb", 4) == 0;
}

static int read_head(struct qc2_image *q, struct head *head, uint64_t len, qchain_error *err)
{
    uint8_t *p;
    int rc;

    len = qc_min64(len, q->base.store->size);
    p = qc_realloc(head->p, len + 1, 1);
    if (!p)
        return qc_fail_nomem(err);
    head->p = p;
    rc = qc_store_read(q->base.store, p + head->len, len - head->len, head->len, QC_READ_META,
                       err);
    if (rc == 0)
        head->len = len;
    return rc;
}

static int load_header(struct qc2_image *q, struct head *head, qchain_error *err)
{
    struct qc2_limits lim = qc2_limits_of(q);
    struct qc2_header *h = &q->header;
    int64_t rc = read_head(q, head, HEAD, err);

    if (rc == 0)
        rc = qc2_header_parse(h, head->p, head->len, &lim, err);
    if (rc == 0)
        rc = qc2_features_check(h, head->p, head->len, err);
    while (rc == 0) {
        uint64_t end = qc_min64(qc2_extensions_end(h), lim.file_size);

        rc = qc2_extensions_parse(h, head->p, head->len, head->len == lim.file_size, err);
        if (rc <= 0)
            break;
        rc = read_head(q, head,
                       qc_min64(end, qc_max64((uint64_t)rc, qc_max64(2 * head->len, HEAD_MORE))),
                       err);
    }
    return rc < 0 ? (int)rc : qc2_header_check(h, &lim, err);
}

/* The names that the header holds. */
static int load_names(struct qc2_image *q, const struct head *head, qchain_error *err)
{
    const struct qc2_header *h = &q->header;
    char name[QC2_MAX_BACKING_NAME];
    int rc;

    if (h->data_file.length > 0) {
        q->base.data_file_name =
            qc_strndup((const char *)head->p + h->data_file.offset, h->data_file.length);
        if (!q->base.data_file_name)
            return qc_fail_nomem(err);
    }
    if (h->backing_offset == 0)
        return QCHAIN_OK;
    if (h->backing_offset + h->backing_size <= head->len) {
        memcpy(name, head->p + h->backing_offset, h->backing_size);
    } else {
        rc = qc_store_read(q->base.store, name, h->backing_size, h->backing_offset, QC_READ_META,
                           err);
        if (rc < 0)
            return rc;
    }
    if (memchr(name, 0, h->backing_size))
        return qc_fail(err, QCHAIN_E_CORRUPT, "header backing file name: holds a NUL");
    q->base.backing_name = qc_strndup(name, h->backing_size);
    if (h->backing_format[0])
        q->base.backing_format = qc_strdup(h->backing_format);
    if (!q->base.backing_name || (h->backing_format[0] && !q->base.backing_format))
        return qc_fail_nomem(err);
    return QCHAIN_OK;
}

/* A search of the snapshot table: by id, or else by name. */
struct search {
    const char *key;
    size_t      len;
    uint32_t    n_id, n_name;
    struct qc2_snapshot by_id, by_name;
};

static int match(void *data, const struct qc2_snapshot *s, qchain_error *err)
{
    struct search *f = data;

    (void)err;
    if (s->id_len == f->len && memcmp(s->id, f->key, f->len) == 0 && f->n_id++ == 0)
        f->by_id = *s;
    if (s->name_len == f->len && memcmp(s->name, f->key, f->len) == 0 && f->n_name++ == 0)
        f->by_name = *s;
    return QCHAIN_OK;
}

static int use_snapshot(struct qc2_image *q, const char *key, qchain_error *err)
{
    struct search f = {.key = key, .len = strlen(key)};
    struct qc2_limits lim = qc2_limits_of(q);
    const struct qc2_snapshot *s;
    struct qc_escaped text;
    uint32_t n;
    int rc = qc2_each_snapshot(q, match, &f, err);

    if (rc < 0)
        return rc;
    s = f.n_id ? &f.by_id : &f.by_name;
    n = f.n_id ? f.n_id : f.n_name;
    if (n == 0)
        return qc_fail(err, QCHAIN_E_NOTFOUND,
                       "no internal snapshot has the id or name '%s' (the image has %" PRIu32 ")",
                       qc_escape_str(&text, key), q->header.n_snapshots);
    if (n > 1) /* as QEMU, which does not say so */
        qc_log(q->log, QCHAIN_LOG_WARN, "qcow2",
               "%s: snapshot '%s': ambiguous, %" PRIu32 " are called so; taking the first",
               q->base.store->name, qc_escape_str(&text, key), n);
    if (q->base.wants_data_file)
        return qc_fail(err, QCHAIN_E_CORRUPT,
                       "snapshot '%s': not allowed with an external data file",
                       qc_escape_str(&text, key));
    if (s->has_disk_size && s->disk_size > QC2_MAX_DISK)
        return qc_fail(err, QCHAIN_E_LIMIT,
                       "snapshot disk_size=%" PRIu64 ": at most 2^63 - 512 bytes", s->disk_size);
    rc = qc2_l1_check(&q->header, s->l1_size, s->l1_offset, s->has_disk_size ? s->disk_size : 0,
                      &lim, "snapshot", err);
    if (rc < 0)
        return rc;
    q->l1_offset = s->l1_offset;
    q->l1_size = s->l1_size;
    if (s->has_disk_size)
        q->base.virtual_size = qc_align_down(s->disk_size, 512);
    return QCHAIN_OK;
}

/* What reading can do without, but somebody should know. */
static void warn(const struct qc2_image *q)
{
    const struct qc2_header *h = &q->header;
    uint64_t reftable_bytes = (uint64_t)h->reftable_clusters << h->cluster_bits;
    uint64_t reftable_end;

    if (h->incompatible & QC2_INCOMPAT_CORRUPT)
        qc_log(q->log, QCHAIN_LOG_WARN, "qcow2", "%s: marked corrupt", q->base.store->name);
    if (h->incompatible & QC2_INCOMPAT_DIRTY)
        qc_log(q->log, QCHAIN_LOG_WARN, "qcow2", "%s: not closed properly; refcounts may be stale",
               q->base.store->name);
    if (h->size % 512 != 0)
        qc_log(q->log, QCHAIN_LOG_WARN, "qcow2",
               "%s: header size=%" PRIu64 " is no multiple of 512: rounded down",
               q->base.store->name, h->size);
    if (h->reftable_clusters == 0 || h->reftable_offset == 0 ||
        h->reftable_offset % qc2_cluster_size(h) != 0 ||
        !qc_add_ok(h->reftable_offset, reftable_bytes, &reftable_end) ||
        reftable_end > q->base.store->size)
        qc_log(q->log, QCHAIN_LOG_WARN, "qcow2",
               "%s: header refcount_table_offset=%" PRIu64 ", refcount_table_clusters=%" PRIu32
               ": not a table inside the file", q->base.store->name, h->reftable_offset,
               h->reftable_clusters);
}

static void set_common(struct qc2_image *q)
{
    const struct qc2_header *h = &q->header;

    q->base.virtual_size = qc_align_down(h->size, 512);
    q->base.cluster_size = (uint32_t)qc2_cluster_size(h);
    q->base.run_unit = qc2_extended_l2(h) ? q->base.cluster_size / 32 : q->base.cluster_size;
    q->base.map_unit = UINT64_C(1) << qc2_l2_cover_bits(h);
    q->base.decoder_kind = h->compression;
    q->base.wants_data_file = h->incompatible & QC2_INCOMPAT_DATA_FILE;
    q->l1_offset = h->l1_offset;
    q->l1_size = h->l1_size;
}

int qc2_reload_header(struct qc2_image *q, qchain_error *err)
{
    struct head head = {NULL, 0};
    int rc;

    q->header = (struct qc2_header){0};
    rc = load_header(q, &head, err);
    qc_free(head.p);
    if (rc == 0)
        set_common(q);
    return rc;
}

static int check_encryption(const struct qc2_header *h, const struct qc_image_opts *opts,
                            qchain_error *err)
{
    if (h->crypt_method == 0 || opts->describe)
        return QCHAIN_OK;
    return qc_fail(err, QCHAIN_E_UNSUPPORTED,
                   "encrypted with %s: encrypted images cannot be read yet",
                   h->crypt_method == 1 ? "AES" : "LUKS");
}

static void qc2_close(struct qc_image *img)
{
    struct qc2_image *q = qc2_of(img);

    if (!q)
        return;
    qc2_writer_destroy(q->writer);
    qc_free(img->backing_name);
    qc_free(img->backing_format);
    qc_free(img->data_file_name);
    qc_free(atomic_load_explicit(&q->l1_map, memory_order_relaxed));
    pthread_mutex_destroy(&q->lock);
    qc_free(q);
}

static int qc2_open(struct qc_image **out, struct qc_store *store,
                    const struct qc_image_opts *opts, qchain_error *err)
{
    struct qc2_image *q = qc_calloc(1, sizeof(*q));
    struct head head = {NULL, 0};
    int rc;

    if (!q)
        return qc_fail_nomem(err);
    q->base.format = &qc_qcow2_format;
    q->base.store = store;
    q->log = opts->log;
    q->salvage = opts->salvage;
    atomic_init(&q->l1_map, NULL);
    atomic_init(&q->holes, 0);
    if (pthread_mutex_init(&q->lock, NULL) != 0) {
        qc_free(q);
        return qc_fail_nomem(err);
    }
    rc = load_header(q, &head, err);
    if (rc == 0)
        rc = check_encryption(&q->header, opts, err);
    if (rc == 0)
        rc = load_names(q, &head, err);
    qc_free(head.p);
    if (rc == 0) {
        set_common(q);
        warn(q);
        if (opts->snapshot)
            rc = use_snapshot(q, opts->snapshot, err);
    }
    if (rc < 0) {
        qc2_close(&q->base);
        return rc;
    }
    *out = &q->base;
    return QCHAIN_OK;
}

const struct qc_format qc_qcow2_format = {
    .name = "qcow2",
    .probe = qc2_probe,
    .open = qc2_open,
    .close = qc2_close,
    .map = qc2_map,
    .read_ahead = qc2_read_ahead,
    .next_used = qc2_next_used,
    .may_have_holes = qc2_may_have_holes,
    .decoder_create = qc2_decoder_create,
    .decoder_destroy = qc2_decoder_destroy,
    .decode = qc2_decode,
    .describe = qc2_describe,
    .write = &qc2_write_ops,
};
