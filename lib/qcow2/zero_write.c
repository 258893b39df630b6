/* SPDX-License-Identifier: MIT */
/* Zeros without writing them, and giving up what a range holds. */
#include <pthread.h>

#include "qcow2/l2_spot.h"
#include "qcow2/zero_write.h"
#include "util/bytes.h"
#include "util/error.h"

/* A change to whole units, as far as one slice goes. */
struct change {
    struct qc2_writer *w;
    struct qc2_l2      g;       /* start, end: the units */
    bool               bare;    /* nothing lies below: what is absent reads as zeros */
    bool               keep;    /* zero: places are kept */
    bool               discard; /* whole clusters are given up */
    struct qc2_entry   empty;   /* discard: what they become */
    struct qc2_gone    gone;
    bool               changed;
};

static struct qc2_entry zeroed(const struct change *c, struct qc2_entry e, unsigned from, unsigned to)
{
    if (c->bare && qc2_entry_is_absent(&c->g, e))
        return e;
    if (!c->discard)
        return qc2_entry_zeroed(&c->g, e, from, to, c->keep);
    if (c->g.data_file && qc2_entry_has_place(&c->g, e) && (c->empty.word | c->empty.bitmap)) {
        struct qc2_entry kept = c->empty;

        kept.word |= e.word & (QC2_OFFSET_MASK | QC2_COPIED);
        return kept;
    }
    return c->empty;
}

/* Change entries from the spot on; *end: how far it went. What is compressed is changed as a whole only. */
static int change_entries(struct change *c, struct qc2_spot *s, uint64_t *end, qchain_error *err)
{
    const struct qc2_l2 *g = &c->g;
    unsigned unit_bits = qc2_unit_bits(g);
    uint64_t cluster = UINT64_C(1) << g->cluster_bits;
    int rc = QCHAIN_OK;

    *end = g->start;
    for (size_t i = 0; *end < g->end; i++) {
        uint64_t base = s->guest + i * cluster, to = qc_min64(g->end, base + cluster);
        struct qc2_entry e = qc2_entry_get(g, s->raw, i), new;

        rc = qc2_spot_check(g, s, i, err);
        if (rc < 0 || ((e.word & QC2_COMPRESSED) && to - *end < cluster))
            break;
        new = zeroed(c, e, (unsigned)((*end - base) >> unit_bits), (unsigned)((to - base) >> unit_bits));
        if (new.word != e.word || new.bitmap != e.bitmap) {
            qc2_entry_put(g, s->raw, i, new);
            if (!qc2_entry_has_place(g, new))
                qc2_gone_add(c->w, g, &c->gone, e);
            c->changed = true;
        }
        *end = to;
    }
    return rc;
}

/* Of [offset, offset + length), whole units; *end is how far it went. */
static int change_some(struct change *c, uint64_t offset, uint64_t length, uint64_t *end, qchain_error *err)
{
    struct qc2_writer *w = c->w;
    struct qc2_spot s;
    int rc = qc2_spot_find(w, offset, &s, err);

    *end = offset;
    if (rc < 0)
        return rc;
    if (!s.slice && c->bare) {
        *end = qc_min64(offset + length, s.table_end);
        return QCHAIN_OK;
    }
    qc2_spot_leave(w, &s);
    rc = qc2_spot_make(w, offset, &s, err);
    if (rc < 0)
        return rc;
    qc2_spot_geometry(w, offset, qc_min64(length, s.end - offset), &c->g);
    c->changed = false;
    rc = change_entries(c, &s, end, err);
    if (c->changed)
        qc2_slice_dirty(w, s.slice, QC2_MAP);
    qc2_gone_end(w, &c->gone);
    qc2_spot_leave(w, &s);
    return rc;
}

static int change_locked(struct change *c, uint64_t offset, uint64_t length, uint64_t *end, qchain_error *err)
{
    int rc = qc2_writer_ready(c->w, err);

    if (rc < 0)
        return rc;
    pthread_mutex_lock(&c->w->lock);
    rc = change_some(c, offset, length, end, err);
    if (rc == QCHAIN_E_CORRUPT)
        rc = qc2_writer_damaged(c->w, err);
    pthread_mutex_unlock(&c->w->lock);
    return rc;
}

/* [*start, *end) becomes the units that lie in it wholly; what is behind the disk's end counts as in it. */
static bool whole_units(const struct qc2_image *q, uint64_t unit, uint64_t offset, uint64_t length,
                        uint64_t *start, uint64_t *end)
{
    *start = qc_align_up(offset, unit);
    *end = offset + length;
    *end = *end == q->base.virtual_size ? qc_align_up(*end, unit) : qc_align_down(*end, unit);
    return *start < *end;
}

/* The external file shows the disk to others, so zeros must be in it. */
static bool is_data_raw(const struct qc2_image *q)
{
    return q->base.wants_data_file && (q->header.autoclear & QC2_AUTOCLEAR_DATA_FILE_RAW);
}

static int zero_data(struct qc2_writer *w, uint64_t start, uint64_t end, bool unmap, qchain_error *err)
{
    end = qc_min64(end, w->q->base.virtual_size);
    return start < end ? qc_store_zero(w->data, end - start, start, unmap, err) : QCHAIN_OK;
}

/* Version 2 has no zeros but what is absent over nothing: how far that goes. */
static int zeros_v2(struct qc2_image *q, uint64_t offset, uint64_t length, uint64_t *done, qchain_error *err)
{
    struct qc_run r;
    int rc;

    length = qc_align_down(length, 512);
    if (q->base.backing_name || offset % 512 != 0 || length == 0)
        return QCHAIN_OK;
    rc = qc2_locate(&q->base, offset, length, &r, err);
    if (rc == 0 && qc_run_kind(&r) == QC_ABSENT)
        *done = qc_run_length(&r);
    return rc;
}

int qc2_zero(struct qc_image *img, uint64_t offset, uint64_t length, uint32_t flags, uint64_t *done,
             qchain_error *err)
{
    struct qc2_image *q = qc2_of(img);
    struct change c = {.w = q->writer, .bare = !img->backing_name && !(flags & QC_ZERO_HOLD), .keep = !(flags & QC_ZERO_UNMAP)};
    uint64_t start, end, to;
    int rc = QCHAIN_OK;

    *done = 0;
    if (q->header.version < 3)
        return flags & QC_ZERO_HOLD ? QCHAIN_OK : zeros_v2(q, offset, length, done, err);
    if (!whole_units(q, img->run_unit, offset, length, &start, &end) || start != offset)
        return QCHAIN_OK;
    if (is_data_raw(q)) {
        end = qc_min64(end, qc_align_down(start, img->map_unit) + img->map_unit);
        rc = zero_data(c.w, start, end, !c.keep, err);
    }
    if (rc == 0)
        rc = change_locked(&c, start, end - start, &to, err);
    if (rc == 0)
        *done = qc_min64(to - start, length);
    return rc;
}

static int discard_data(struct qc2_writer *w, uint64_t start, uint64_t end, qchain_error *err)
{
    end = qc_min64(end, w->q->base.virtual_size);
    if (!w->q->base.wants_data_file || is_data_raw(w->q) || !w->discard || start >= end)
        return QCHAIN_OK;
    return qc_store_discard(w->data, end - start, start, err);
}

/* What a given-up cluster becomes so that nothing of what lies below shows. */
static struct qc2_entry empty_entry(const struct qc2_image *q, bool has_backing)
{
    if (!has_backing && !q->base.wants_data_file)
        return (struct qc2_entry){0, 0};
    if (q->header.version < 3)
        return (struct qc2_entry){0, 0};
    if (qc2_extended_l2(&q->header))
        return (struct qc2_entry){0, UINT64_C(0xffffffff) << 32};
    return (struct qc2_entry){QC2_ZERO, 0};
}

int qc2_discard(struct qc_image *img, uint64_t offset, uint64_t length, bool has_backing, qchain_error *err)
{
    struct qc2_image *q = qc2_of(img);
    struct change c = {.w = q->writer, .bare = !has_backing, .discard = true,
                       .empty = empty_entry(q, has_backing)};
    uint64_t start, end;
    int rc = QCHAIN_OK;

    if (q->header.version < 3 && has_backing)
        return QCHAIN_OK;
    if (!whole_units(q, img->cluster_size, offset, length, &start, &end))
        return QCHAIN_OK;
    if (is_data_raw(q))
        rc = zero_data(c.w, start, end, true, err);
    while (rc == 0 && start < end) {
        uint64_t to = start;

        rc = change_locked(&c, start, end - start, &to, err);
        if (rc == 0)
            rc = discard_data(c.w, start, to, err);
        start = to;
    }
    return rc;
}

int qc2_drop(struct qc2_writer *w, uint64_t start, uint64_t end, qchain_error *err)
{
    struct change c = {.w = w, .bare = true, .discard = true};
    int rc = QCHAIN_OK;

    while (rc == 0 && start < end)
        rc = change_locked(&c, start, end - start, &start, err);
    return rc;
}
