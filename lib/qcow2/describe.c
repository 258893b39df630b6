/* SPDX-License-Identifier: MIT */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2/image_int.h"
#include "qcow2/table_walk.h"
#include "net/url.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"
#include "util/escape.h"
#include "util/vec.h"

#define MAX_TEXT (8u << 20) /* of all ids and names of one kind */

/* Arrays being filled; they belong to the info from the start. */
struct listing {
    qchain_image_info    *info;
    qchain_snapshot_info *snapshots;
    qchain_bitmap_info   *bitmaps;
    size_t                cap;
    uint64_t              text;
    uint64_t              size; /* of the disk, for snapshots that do not say */
};

static int list_snapshot(void *data, const struct qc2_snapshot *s, qchain_error *err)
{
    struct listing *l = data;
    void *p = l->snapshots;
    qchain_snapshot_info *to;
    int rc;

    l->text += s->id_len + s->name_len;
    if (l->text > MAX_TEXT)
        return qc_fail(err, QCHAIN_E_LIMIT, "snapshot table: more than 8 MiB of names");
    rc = qc_grow(&p, &l->cap, l->info->n_snapshots + (size_t)1, sizeof(*to));
    l->snapshots = p;
    l->info->snapshots = p;
    if (rc < 0)
        return qc_fail_nomem(err);
    to = &l->snapshots[l->info->n_snapshots];
    *to = (qchain_snapshot_info){
        .id = qc_escape_dup(s->id, s->id_len),
        .name = qc_escape_dup(s->name, s->name_len),
        .vm_state_size = s->vm_state_size,
        .disk_size = s->has_disk_size ? s->disk_size : l->size,
        .date_sec = s->date_sec,
        .date_nsec = s->date_nsec,
        .flags = s->has_icount ? QCHAIN_SNAPSHOT_HAS_ICOUNT : 0,
        .vm_clock_nsec = s->vm_clock_nsec,
        .icount = s->has_icount ? s->icount : 0,
    };
    l->info->n_snapshots++;
    return to->id && to->name ? QCHAIN_OK : qc_fail_nomem(err);
}

static int list_bitmap(void *data, const struct qc2_bitmap *b, const char *name,
                       qchain_error *err)
{
    struct listing *l = data;
    void *p = l->bitmaps;
    qchain_bitmap_info *to;
    int rc;

    l->text += b->name_len;
    if (l->text > MAX_TEXT)
        return qc_fail(err, QCHAIN_E_LIMIT, "bitmap directory: more than 8 MiB of names");
    rc = qc_grow(&p, &l->cap, l->info->n_bitmaps + (size_t)1, sizeof(*to));
    l->bitmaps = p;
    l->info->bitmaps = p;
    if (rc < 0)
        return qc_fail_nomem(err);
    to = &l->bitmaps[l->info->n_bitmaps];
    *to = (qchain_bitmap_info){
        .name = qc_escape_dup(name, b->name_len),
        .granularity = UINT64_C(1) << b->granularity_bits,
        .flags = (b->flags & QC2_BITMAP_IN_USE ? QCHAIN_BITMAP_IN_USE : 0u) |
                 (b->flags & QC2_BITMAP_AUTO ? QCHAIN_BITMAP_AUTO : 0u),
    };
    l->info->n_bitmaps++;
    return to->name ? QCHAIN_OK : qc_fail_nomem(err);
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int check_unique(const qchain_image_info *info, qchain_error *err)
{
    const char **name = qc_malloc(sizeof(*name) * (info->n_bitmaps + (size_t)1));
    int rc = QCHAIN_OK;

    if (!name)
        return qc_fail_nomem(err);
    for (uint32_t i = 0; i < info->n_bitmaps; i++)
        name[i] = info->bitmaps[i].name;
    qsort(name, info->n_bitmaps, sizeof(*name), by_name);
    for (uint32_t i = 1; i < info->n_bitmaps && rc == 0; i++)
        if (strcmp(name[i - 1], name[i]) == 0)
            rc = qc_fail(err, QCHAIN_E_CORRUPT, "bitmap name is not unique: '%s'", name[i]);
    qc_free(name);
    return rc;
}

/* What is listed stays when the rest is damaged and the caller wants to go on. */
static int tolerate(struct qc2_image *q, int rc, const qchain_error *cause, const char *what,
                    qchain_error *err)
{
    if (rc == QCHAIN_E_CORRUPT && q->salvage) {
        qc_log(q->log, QCHAIN_LOG_WARN, "qcow2", "%s: %s not listed completely: %s",
               q->base.store->name, what, cause->text);
        return QCHAIN_OK;
    }
    if (rc < 0)
        qc_error_copy(err, cause);
    return rc;
}

static int list_all(struct qc2_image *q, qchain_image_info *info, qchain_error *err)
{
    struct listing l = {.info = info, .size = q->header.size};
    const struct qc2_header *h = &q->header;
    qchain_error cause;
    int rc;

    qc_error_init(&cause);
    rc = tolerate(q, qc2_each_snapshot(q, list_snapshot, &l, &cause), &cause, "snapshots", err);
    if (rc < 0 || !h->has_bitmaps)
        return rc;
    if (!(h->autoclear & QC2_AUTOCLEAR_BITMAPS)) {
        qc_log(q->log, QCHAIN_LOG_WARN, "qcow2",
               "%s: bitmaps not listed: a program without support for them changed the image",
               q->base.store->name);
        return QCHAIN_OK;
    }
    l.cap = 0;
    l.text = 0;
    rc = qc2_each_bitmap(q, list_bitmap, &l, &cause);
    if (rc == 0)
        rc = check_unique(info, &cause);
    return tolerate(q, rc, &cause, "bitmaps", err);
}

static uint32_t flags_of(const struct qc2_image *q)
{
    const struct qc2_header *h = &q->header;
    uint32_t f = 0;

    f |= h->incompatible & QC2_INCOMPAT_DIRTY ? QCHAIN_IMAGE_DIRTY : 0u;
    f |= h->incompatible & QC2_INCOMPAT_CORRUPT ? QCHAIN_IMAGE_CORRUPT : 0u;
    f |= h->incompatible & QC2_INCOMPAT_DATA_FILE ? QCHAIN_IMAGE_DATA_FILE : 0u;
    f |= h->autoclear & QC2_AUTOCLEAR_DATA_FILE_RAW ? QCHAIN_IMAGE_DATA_FILE_RAW : 0u;
    f |= qc2_extended_l2(h) ? QCHAIN_IMAGE_EXTENDED_L2 : 0u;
    f |= h->compatible & QC2_COMPAT_LAZY_REFCOUNTS ? QCHAIN_IMAGE_LAZY_REFCOUNTS : 0u;
    f |= q->base.backing_name ? QCHAIN_IMAGE_HAS_BACKING : 0u;
    f |= h->crypt_method ? QCHAIN_IMAGE_ENCRYPTED : 0u;
    return f;
}

/* A name for display, without secrets of a URL; within "json:" those are not to be told from the
 * rest. NULL: no memory. */
static char *shown_name(const char *name)
{
    bool hides = strncmp(name, "json:", 5) == 0 && strstr(name, "://");
    char *bare = qc_url_shown(hides ? "json:{...}" : name);
    char *shown = bare ? qc_escape_dup(bare, strlen(bare)) : NULL;

    qc_free(bare);
    return shown;
}

/* A string of the image, for display and (raw may be NULL) as it is. */
static int copy_name(const char **shown, const char **raw, const char *name, qchain_error *err)
{
    if (!name)
        return QCHAIN_OK;
    *shown = shown_name(name);
    if (raw)
        *raw = qc_strdup(name);
    return *shown && (!raw || *raw) ? QCHAIN_OK : qc_fail_nomem(err);
}

int qc2_describe(struct qc_image *img, qchain_image_info *info, qchain_error *err)
{
    struct qc2_image *q = qc2_of(img);
    const struct qc2_header *h = &q->header;
    int rc;

    info->flags |= flags_of(q);
    info->version = h->version;
    info->virtual_size = img->virtual_size;
    info->cluster_size = img->cluster_size;
    info->subcluster_size = img->cluster_size >> (qc2_extended_l2(h) ? 5 : 0);
    info->refcount_bits = 1u << h->refcount_order;
    info->compression = h->compression;
    info->crypt_method = h->crypt_method;
    info->n_unknown_extensions = h->n_unknown;
    info->incompatible_features = h->incompatible;
    info->compatible_features = h->compatible;
    info->autoclear_features = h->autoclear;
    info->format = qc_strdup(img->format->name);
    if (!info->format)
        return qc_fail_nomem(err);
    rc = copy_name(&info->backing_name, &info->backing_name_raw, img->backing_name, err);
    if (rc == 0)
        rc = copy_name(&info->backing_format, NULL, img->backing_format, err);
    if (rc == 0)
        rc = copy_name(&info->data_file, &info->data_file_raw, img->data_file_name, err);
    return rc < 0 ? rc : list_all(q, info, err);
}
