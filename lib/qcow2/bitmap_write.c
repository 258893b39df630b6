/* SPDX-License-Identifier: MIT */
/*
 * Dirty bitmaps: marked as in use, and stored. The order of storing:
 *
 *   bits and tables of what has changed, and a new directory, all at new places | the header: extension and
 *   autoclear bit by one write | what the old directory alone referred to is freed
 *
 * A bar is an fsync. Marks are set in the directory itself: an entry's flags lie within a sector, and more marks
 * than were wanted, or fewer, before the first write, say nothing that is wrong.
 */
#include <inttypes.h>
#include <string.h>

#include "qcow2/bitmap_store.h"
#include "qcow2/header_encode.h"
#include "qcow2/writer_int.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"
#include "util/vec.h"

/* --------------------------------------------------------------- directory --- */

struct entry {
    struct qc2_bitmap b;
    uint64_t at;   /* in raw */
    bool     kept; /* the new directory refers to the same table */
};

/* The directory that the file has. */
struct dir {
    uint8_t      *raw;
    uint64_t      bytes;
    struct entry *entry;
    uint32_t      n;
};

static void dir_finish(struct dir *d)
{
    qc_free(d->raw);
    qc_free(d->entry);
}

static int dir_parse(struct qc2_writer *w, struct dir *d, qchain_error *err)
{
    const struct qc2_header *h = &w->q->header;
    uint64_t at = 0;
    int rc = QCHAIN_OK;

    for (d->n = 0; d->n < h->n_bitmaps && rc == 0; d->n++) {
        struct entry *e = &d->entry[d->n];

        if (d->bytes - at < QC2_BITMAP_FIXED)
            return qc_fail(err, QCHAIN_E_CORRUPT, "bitmap directory: too short");
        rc = qc2_bitmap_parse(&e->b, d->raw + at, h, qc_store_size(w->store), d->n, err);
        if (rc == 0 && e->b.bytes > d->bytes - at)
            rc = qc_fail(err, QCHAIN_E_CORRUPT, "bitmap directory: too short");
        e->at = at;
        at += e->b.bytes;
    }
    return rc;
}

/* Nothing was read yet; an image without bitmaps has no entries. */
static int dir_load(struct qc2_writer *w, struct dir *d, qchain_error *err)
{
    const struct qc2_header *h = &w->q->header;
    int rc;

    *d = (struct dir){0};
    if (!h->has_bitmaps)
        return QCHAIN_OK;
    rc = qc2_bitmap_dir_check(h, qc_store_size(w->store), err);
    if (rc < 0)
        return rc;
    d->bytes = h->bitmap_dir_size;
    d->raw = qc_malloc(d->bytes + 1);
    d->entry = qc_calloc(h->n_bitmaps, sizeof(*d->entry));
    if (!d->raw || !d->entry)
        return qc_fail_nomem(err);
    rc = qc_store_read(w->store, d->raw, d->bytes, h->bitmap_dir_offset, QC_READ_META, err);
    return rc == 0 ? dir_parse(w, d, err) : rc;
}

int qc2_bitmap_fits(struct qc_image *img, const struct qc_bitmap_list *list, uint32_t granularity_bits,
                    uint64_t disk, size_t more, qchain_error *err)
{
    const struct qc2_image *q = qc2_of(img);
    uint64_t clusters = qc2_bitmap_clusters(q, qc_bitmap_bits(disk, granularity_bits)), bytes = 0;

    if (q->header.version < 3)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED, "version 2 images have no bitmaps");
    if (clusters > QC2_BITMAP_MAX_TABLE || clusters << q->header.cluster_bits > QC2_BITMAP_MAX_BYTES)
        return qc_fail(err, QCHAIN_E_LIMIT, "a bitmap for %" PRIu64 " bytes with a granularity of %" PRIu64
                       " is too large: at most 512 MiB", disk, UINT64_C(1) << granularity_bits);
    if (more == 0)
        return QCHAIN_OK;
    if (list->n >= QC2_MAX_BITMAPS)
        return qc_fail(err, QCHAIN_E_LIMIT, "the image has %zu bitmaps: no more are possible", list->n);
    for (size_t i = 0; i < list->n; i++) /* what an entry has beside its name is of the same size, or nearly */
        bytes += QC2_BITMAP_FIXED + 8 + list->b[i]->name_len;
    if (bytes + QC2_BITMAP_FIXED + 8 + more > QC2_BITMAP_MAX_DIR)
        return qc_fail(err, QCHAIN_E_LIMIT, "the directory of bitmaps would be longer than 64 MiB");
    return QCHAIN_OK;
}

/* ------------------------------------------------------------------- marks --- */

/* The list's bitmaps by the number that they have in the file; NULL where none is there any more. */
static struct qc_bitmap **by_slot(const struct qc_bitmap_list *list, uint32_t n)
{
    struct qc_bitmap **slot = qc_calloc((size_t)n + 1, sizeof(*slot));

    for (size_t i = 0; slot && i < list->n; i++)
        if (list->b[i]->slot < n)
            slot[list->b[i]->slot] = list->b[i];
    return slot;
}

/* Set marks in d->raw; the bytes that have changed are [*from, *to). */
static int set_marks(struct dir *d, const struct qc_bitmap_list *list, bool all, uint64_t *from, uint64_t *to,
                     qchain_error *err)
{
    struct qc_bitmap **slot = by_slot(list, d->n);

    if (!slot)
        return qc_fail_nomem(err);
    *from = *to = 0;
    for (uint32_t i = 0; i < d->n; i++) {
        const struct entry *e = &d->entry[i];

        if (e->b.flags & QC2_BITMAP_IN_USE || (slot[i] && !all && !slot[i]->mark))
            continue;
        qc_put_be32(d->raw + e->at + 12, e->b.flags | QC2_BITMAP_IN_USE);
        *from = *to ? *from : e->at + 12;
        *to = e->at + 16;
    }
    qc_free(slot);
    return QCHAIN_OK;
}

static int mark(struct qc2_writer *w, const struct qc_bitmap_list *list, bool all, qchain_error *err)
{
    struct dir d;
    uint64_t from = 0, to = 0;
    int rc = dir_load(w, &d, err);

    if (rc == 0)
        rc = set_marks(&d, list, all, &from, &to, err);
    if (rc == 0 && to > 0) {
        rc = qc_store_write(w->store, d.raw + from, to - from, w->q->header.bitmap_dir_offset + from, err);
        if (rc == 0)
            rc = qc2_sync(w, w->store, err);
    }
    dir_finish(&d);
    return rc;
}

int qc2_bitmaps_mark(struct qc_image *img, const struct qc_bitmap_list *list, bool all, qchain_error *err)
{
    struct qc2_writer *w = qc2_of(img)->writer;
    int rc = qc2_writer_ready(w, err);

    if (rc < 0)
        return rc;
    pthread_mutex_lock(&w->lock);
    rc = mark(w, list, all, err);
    pthread_mutex_unlock(&w->lock);
    return rc;
}

/* -------------------------------------------------------------- new places --- */

struct made {
    uint64_t host, length;
    bool     table; /* noted as a region */
};

struct storing {
    struct qc2_writer     *w;
    struct qc_bitmap_list *list;
    struct dir             old;
    struct qc2_bitmap     *new;   /* as they will be */
    struct made           *made;
    size_t                 n_made, cap_made;
    uint8_t               *buf;   /* a cluster */
    uint64_t               dir, dir_bytes;
};

/* Nothing on the medium refers to what was made. */
static void unmake(struct storing *s)
{
    for (size_t i = 0; i < s->n_made; i++) {
        const struct made *m = &s->made[i];

        if (m->table)
            qc2_region_remove(s->w, m->host, m->length, QC2_REGION_BITMAPS);
        qc2_refcount_add(s->w, m->host, m->length, -1, NULL);
    }
}

/* Write whole clusters to a new place. */
static int make(struct storing *s, const uint8_t *p, uint64_t length, bool table, uint64_t *host, qchain_error *err)
{
    void *v = s->made;
    bool zeroed;
    int rc = qc_grow(&v, &s->cap_made, s->n_made + 1, sizeof(s->made[0]));

    s->made = v;
    if (rc != 0)
        return qc_fail_nomem(err);
    rc = qc2_alloc(s->w, length >> s->w->q->header.cluster_bits, host, &zeroed, err);
    if (rc < 0)
        return rc;
    s->made[s->n_made++] = (struct made){*host, length, false};
    if (table)
        rc = qc2_region_add(s->w, *host, length, QC2_REGION_BITMAPS, err);
    s->made[s->n_made - 1].table = table && rc == 0;
    return rc == 0 ? qc_store_write(s->w->store, p, length, *host, err) : rc;
}

/* The entry for one cluster of bits, written if need be. */
static int make_cluster(struct storing *s, const struct qc_bits *bits, uint64_t number, uint64_t *entry,
                        qchain_error *err)
{
    uint64_t cluster = s->w->q->base.cluster_size, first = number * cluster * 8, all = first + cluster * 8;
    uint64_t end = qc_min64(all, bits->n);

    *entry = 0;
    if (qc_bits_next(bits, first, true) >= end)
        return QCHAIN_OK;
    /* What is beyond the last bit must be 0, so a last cluster may have none of these. */
    if (end == all && qc_bits_next(bits, first, false) >= end) {
        *entry = QC2_BITMAP_ONES;
        return QCHAIN_OK;
    }
    qc_bits_store(bits, number * cluster, s->buf, cluster);
    return make(s, s->buf, cluster, false, entry, err);
}

static int make_table(struct storing *s, const struct qc_bits *bits, struct qc2_bitmap *new, qchain_error *err)
{
    uint64_t n = qc2_bitmap_clusters(s->w->q, bits->n), bytes = qc_align_up(8 * n, s->w->q->base.cluster_size);
    uint8_t *raw = qc_calloc(1, bytes);
    uint64_t entry;
    int rc = raw ? QCHAIN_OK : qc_fail_nomem(err);

    for (uint64_t i = 0; i < n && rc == 0; i++) {
        rc = make_cluster(s, bits, i, &entry, err);
        if (rc == 0)
            qc_put_be64(raw + 8 * i, entry);
    }
    new->table_size = (uint32_t)n;
    if (rc == 0)
        rc = make(s, raw, bytes, true, &new->table_offset, err);
    qc_free(raw);
    return rc;
}

/* What the directory will say of a bitmap. */
static int make_bitmap(struct storing *s, struct qc_bitmap *b, struct qc2_bitmap *new, qchain_error *err)
{
    struct entry *old = b->slot < s->old.n ? &s->old.entry[b->slot] : NULL;

    *new = (struct qc2_bitmap){.type = 1};
    if (old)
        *new = old->b;
    new->granularity_bits = (uint8_t)b->granularity_bits;
    new->name_len = (uint16_t)b->name_len;
    new->bytes = qc_align_up(QC2_BITMAP_FIXED + (uint64_t)new->extra_len + new->name_len, 8);
    if (!b->in_use && !b->foreign)
        new->flags = (new->flags & QC2_BITMAP_EXTRA_COMPATIBLE) | (b->enabled ? QC2_BITMAP_AUTO : 0u);
    if (old && (b->in_use || b->foreign || !atomic_load(&b->changed))) {
        if (b->in_use)
            new->flags |= QC2_BITMAP_IN_USE;
        old->kept = true;
        return QCHAIN_OK;
    }
    return b->bits ? make_table(s, b->bits, new, err)
                   : qc_fail(err, QCHAIN_E_INTERNAL, "a bitmap that changed has no bits");
}

static void put_entry(uint8_t *p, const struct qc2_bitmap *e, const uint8_t *extra, const char *name)
{
    qc_put_be64(p, e->table_offset);
    qc_put_be32(p + 8, e->table_size);
    qc_put_be32(p + 12, e->flags);
    p[16] = e->type;
    p[17] = e->granularity_bits;
    qc_put_be16(p + 18, e->name_len);
    qc_put_be32(p + 20, e->extra_len);
    if (e->extra_len > 0)
        memcpy(p + QC2_BITMAP_FIXED, extra, e->extra_len);
    memcpy(p + QC2_BITMAP_FIXED + e->extra_len, name, e->name_len);
}

static int make_dir(struct storing *s, qchain_error *err)
{
    uint64_t bytes, at = 0;
    uint8_t *raw;
    int rc;

    for (size_t i = 0; i < s->list->n; i++)
        s->dir_bytes += s->new[i].bytes;
    if (s->dir_bytes == 0)
        return QCHAIN_OK;
    if (s->dir_bytes > QC2_BITMAP_MAX_DIR)
        return qc_fail(err, QCHAIN_E_LIMIT, "the directory of bitmaps would be longer than 64 MiB");
    bytes = qc_align_up(s->dir_bytes, s->w->q->base.cluster_size);
    raw = qc_calloc(1, bytes);
    if (!raw)
        return qc_fail_nomem(err);
    for (size_t i = 0; i < s->list->n; at += s->new[i++].bytes) {
        const struct qc_bitmap *b = s->list->b[i];
        const uint8_t *extra = b->slot < s->old.n
                                   ? s->old.raw + s->old.entry[b->slot].at + QC2_BITMAP_FIXED : NULL;

        put_entry(raw + at, &s->new[i], extra, b->name);
    }
    rc = make(s, raw, bytes, true, &s->dir, err);
    qc_free(raw);
    return rc;
}

/* ------------------------------------------------------------------- store --- */

static int free_entry(void *data, uint32_t number, uint64_t entry, uint64_t place, qchain_error *err)
{
    struct qc2_writer *w = data;
    int rc = qc2_bitmap_entry_check(w->q, entry, place, err);

    (void)number;
    if (rc == 0 && entry & QC2_BITMAP_OFFSET)
        qc2_free_later(w, entry & QC2_BITMAP_OFFSET, w->q->base.cluster_size);
    return rc;
}

/* Of what nothing refers to any more, what cannot be read stays counted. */
static void free_old(struct storing *s, uint64_t dir_host)
{
    struct qc2_writer *w = s->w;
    qchain_error why;

    for (uint32_t i = 0; i < s->old.n; i++) {
        const struct qc2_bitmap *b = &s->old.entry[i].b;

        if (s->old.entry[i].kept)
            continue;
        qc_error_init(&why);
        if (qc2_bitmap_table_walk(w->q, b->table_offset, b->table_size, free_entry, w, &why) < 0)
            qc2_say(w, QCHAIN_LOG_WARN, "clusters of a bitmap are lost: %s", why.text);
        qc2_region_remove(w, b->table_offset, UINT64_C(8) * b->table_size, QC2_REGION_BITMAPS);
        qc2_free_later(w, b->table_offset, UINT64_C(8) * b->table_size);
    }
    if (s->old.bytes > 0) {
        qc2_region_remove(w, dir_host, s->old.bytes, QC2_REGION_BITMAPS);
        qc2_free_later(w, dir_host, s->old.bytes);
    }
}

/* All is durable: the header refers to it. */
static int switch_header(struct storing *s, qchain_error *err)
{
    static const struct qc2_header_texts same;
    struct qc2_header *h = &s->w->q->header, to = *h;
    int rc;

    to.has_bitmaps = s->list->n > 0;
    to.n_bitmaps = (uint32_t)s->list->n;
    to.bitmap_dir_offset = s->dir;
    to.bitmap_dir_size = s->dir_bytes;
    to.autoclear &= ~(uint64_t)QC2_AUTOCLEAR_BITMAPS;
    if (to.has_bitmaps)
        to.autoclear |= QC2_AUTOCLEAR_BITMAPS;
    rc = qc2_header_rewrite(s->w->store, h, &to, &same, err);
    if (rc == 0)
        *h = to;
    else if (rc == QCHAIN_E_IO || rc == QCHAIN_E_NOSPACE || rc == QCHAIN_E_READONLY)
        atomic_store(&s->w->stopped, true); /* nobody knows which of both it is */
    return rc;
}

static int make_all(struct storing *s, qchain_error *err)
{
    int rc = dir_load(s->w, &s->old, err);

    if (rc < 0)
        return rc;
    s->new = qc_calloc(s->list->n + 1, sizeof(*s->new));
    s->buf = qc_malloc(s->w->q->base.cluster_size);
    rc = s->new && s->buf ? QCHAIN_OK : qc_fail_nomem(err);
    for (size_t i = 0; i < s->list->n && rc == 0; i++)
        rc = make_bitmap(s, s->list->b[i], &s->new[i], err);
    if (rc == 0)
        rc = make_dir(s, err);
    return rc == 0 ? qc2_flush_locked(s->w, err) : rc;
}

static int store(struct storing *s, qchain_error *err)
{
    uint64_t old_dir = s->w->q->header.bitmap_dir_offset;
    int rc = make_all(s, err);

    if (rc == 0)
        rc = switch_header(s, err);
    if (rc < 0) {
        if (!atomic_load(&s->w->stopped))
            unmake(s);
        return rc;
    }
    free_old(s, old_dir);
    for (size_t i = 0; i < s->list->n; i++) {
        struct qc_bitmap *b = s->list->b[i];

        b->slot = (uint32_t)i;
        b->host = s->new[i].table_offset;
        b->host_entries = s->new[i].table_size;
        atomic_store(&b->changed, false);
    }
    return QCHAIN_OK;
}

int qc2_bitmaps_store(struct qc_image *img, struct qc_bitmap_list *list, qchain_error *err)
{
    struct storing s = {.w = qc2_of(img)->writer, .list = list};
    int rc = qc2_writer_ready(s.w, err);

    if (rc < 0 || (list->n == 0 && !s.w->q->header.has_bitmaps))
        return rc;
    pthread_mutex_lock(&s.w->lock);
    rc = store(&s, err);
    pthread_mutex_unlock(&s.w->lock);
    qc2_tell(s.w);
    dir_finish(&s.old);
    qc_free(s.new);
    qc_free(s.made);
    qc_free(s.buf);
    return rc;
}
