/* SPDX-License-Identifier: MIT */
#include "chain/extents.h"

#include "util/bytes.h"

static uint32_t flags_of_kind(enum qc_kind kind)
{
    switch (kind) {
    case QC_END:
    case QC_SHORT:
    case QC_ABSENT:
        return QCHAIN_EXTENT_ZERO;
    case QC_PREALLOC:
        return QCHAIN_EXTENT_ZERO | QCHAIN_EXTENT_HAS_OFFSET;
    case QC_ZERO:
        return QCHAIN_EXTENT_PRESENT | QCHAIN_EXTENT_ZERO;
    case QC_ZERO_ALLOC:
        return QCHAIN_EXTENT_PRESENT | QCHAIN_EXTENT_ZERO | QCHAIN_EXTENT_HAS_OFFSET;
    case QC_COMPRESSED:
        return QCHAIN_EXTENT_PRESENT | QCHAIN_EXTENT_DATA | QCHAIN_EXTENT_COMPRESSED;
    case QC_DATA:
        break;
    }
    return QCHAIN_EXTENT_PRESENT | QCHAIN_EXTENT_DATA | QCHAIN_EXTENT_HAS_OFFSET;
}

static bool continues(const qchain_extent *a, const qchain_extent *b)
{
    if (a->flags != b->flags || a->layer != b->layer || a->source != b->source ||
        a->offset + a->length != b->offset)
        return false;
    return !(a->flags & QCHAIN_EXTENT_HAS_OFFSET) ||
           a->host_offset + a->length == b->host_offset;
}

static void put(struct qc_extents *x, const qchain_extent *e)
{
    qchain_extent *last = x->n ? &x->out[x->n - 1] : NULL;
    bool keep_apart = e->flags & QCHAIN_EXTENT_COMPRESSED && x->flags & QCHAIN_MAP_CLUSTERS;

    if (last && !keep_apart && continues(last, e))
        last->length += e->length;
    else if (x->n < x->max)
        x->out[x->n++] = *e;
    else
        x->full = true;
}

/* Shall holes be looked for in a source? Then its store is given. */
static int wants_holes(struct qc_extents *x, struct qc_source *s, struct qc_store **store,
                       qchain_error *err)
{
    uint32_t number = (uint32_t)(s - x->c->source);
    int known = atomic_load_explicit(&s->holes, memory_order_relaxed);
    struct qc_image *img;
    bool holes;
    int ret;

    *store = NULL;
    if (x->flags & QCHAIN_MAP_NO_HOLES || known == 0)
        return 0;
    *store = qc_source_store(x->c, number, err);
    if (!*store)
        return err->code;
    if (known < 0) {
        img = (*store)->ops.extents ? qc_layer_image(x->c, s->layer, err) : NULL;
        if (!img && (*store)->ops.extents)
            return err->code;
        holes = false;
        ret = img ? img->format->may_have_holes(img, &holes, err) : 0;
        if (ret != 0) {
            qc_layer_prefix(x->c, s->layer, err);
            return ret;
        }
        known = holes;
        atomic_store_explicit(&s->holes, known, memory_order_relaxed);
    }
    if (known == 0)
        *store = NULL;
    return 0;
}

/* How far from host the source is all hole or all data; at most length. */
static int find_stretch(struct qc_extents *x, struct qc_store *store, uint64_t host,
                        uint64_t length, uint64_t *piece, bool *hole, qchain_error *err)
{
    qchain_store_extent *st = &x->stretch;
    uint64_t size = qc_store_size(store);
    int ret;

    if (host >= size) { /* preallocated and never written, or the rest of a sector */
        *hole = true;
        *piece = length;
        return 0;
    }
    if (x->looked_at != store || host < st->offset || host >= st->offset + st->length) {
        x->looked_at = NULL;
        ret = qc_store_extent(store, st, size - host, host, err);
        if (ret != 0)
            return ret;
        x->looked_at = store;
    }
    *hole = st->hole;
    *piece = qc_min64(length, st->offset + st->length - host);
    return 0;
}

static int put_with_holes(struct qc_extents *x, const struct qc_source *s, struct qc_store *store,
                          qchain_extent e, qchain_error *err)
{
    uint32_t data = e.flags, zero;
    uint64_t left = e.length;
    bool hole;
    int ret;

    /* A raw file's hole is no data; a qcow2 cluster over a hole is data that
     * reads as zeros: so QEMU tells them, too. */
    zero = data | QCHAIN_EXTENT_ZERO;
    if (x->c->layer[s->layer].cluster_size == 0)
        zero &= ~(uint32_t)QCHAIN_EXTENT_DATA;
    for (; left > 0 && !x->full; left -= e.length) {
        ret = find_stretch(x, store, e.host_offset, left, &e.length, &hole, err);
        if (ret != 0) {
            qc_layer_prefix(x->c, s->layer, err);
            return ret;
        }
        e.flags = hole ? zero : data;
        put(x, &e);
        e.offset += e.length;
        e.host_offset += e.length;
    }
    return 0;
}

int qc_extents_put(struct qc_extents *x, const struct qc_run *r, uint64_t *offset, uint64_t end,
                   qchain_error *err)
{
    struct qc_source *s = &x->c->source[r->source];
    enum qc_kind kind = qc_run_kind(r);
    qchain_extent e = {0};
    struct qc_store *holes = NULL;
    int ret;

    e.offset = *offset;
    e.length = qc_min64(qc_run_end(r), end) - *offset;
    e.layer = s->layer;
    e.source = r->source;
    e.flags = flags_of_kind(kind);
    if (kind == QC_COMPRESSED) {
        if (x->flags & QCHAIN_MAP_CLUSTERS) {
            e.host_offset = qc_run_host(r);
            e.host_length = (uint32_t)(qc_align_down(e.host_offset, 512) +
                                       (uint64_t)r->sectors * 512 - e.host_offset);
        }
    } else if (qc_kind_has_host(kind)) {
        e.host_offset = qc_run_host(r) + (*offset - r->guest);
    }
    if (kind == QC_DATA) {
        ret = wants_holes(x, s, &holes, err);
        if (ret != 0)
            return ret;
    }
    if (holes) {
        ret = put_with_holes(x, s, holes, e, err);
        if (ret != 0)
            return ret;
    } else {
        put(x, &e);
    }
    if (!x->full)
        *offset += e.length;
    else /* what was put ends with the last extent */
        *offset = qc_max64(*offset, x->out[x->n - 1].offset + x->out[x->n - 1].length);
    return 0;
}
