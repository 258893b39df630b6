/* SPDX-License-Identifier: MIT */
/*
 * What is wanted of a disk: it is mapped step by step, and what each step shows of objects becomes stretches of
 * these, merged with their neighbours, in the order in which the disk (or a trace) has them.
 */
#include "ops/prefetch_int.h"

#include <stdlib.h>
#include <string.h>

#include "chain/tip.h"
#include "remote/bring.h"
#include "util/alloc.h"
#include "util/bytes.h"

#define EXTENTS 512          /* of one call to the map */
#define WANTS 4096           /* of a batch */
#define FIRST_STEP (UINT64_C(128) << 20)
#define FULL_STEP (UINT64_C(1) << 30) /* where there is data; where there is none, steps grow on */
#define MOST_BYTES (UINT64_C(32) << 20)

int qc_prefetch_batch_init(struct qc_prefetch_batch *b, uint32_t flags, qchain_error *err)
{
    bool top = flags & QCHAIN_PREFETCH_TOP;

    memset(b, 0, sizeof(*b));
    b->metadata = flags & QCHAIN_PREFETCH_METADATA;
    b->most = 1; /* the first is fetched as soon as anything is known */
    b->want = qc_calloc(WANTS, sizeof(*b->want));
    b->extent = qc_calloc(EXTENTS, sizeof(*b->extent));
    b->piece = top ? qc_calloc(WANTS, sizeof(*b->piece)) : NULL;
    if (b->want && b->extent && (b->piece || !top))
        return 0;
    qc_prefetch_batch_finish(b);
    return qc_fail_nomem(err);
}

void qc_prefetch_batch_finish(struct qc_prefetch_batch *b)
{
    qc_free(b->want);
    qc_free(b->piece);
    qc_free(b->extent);
}

/* ------------------------------------------------------------------- ranges --- */

/* Clipped by the disk's end. */
static uint64_t range_end(const qchain_prefetch_range *r, uint64_t size)
{
    return r->offset > size ? r->offset : r->offset + qc_min64(r->length, size - r->offset);
}

int qc_prefetch_disk_init(struct qc_prefetch_disk *d, qchain *c, const qchain_prefetch_opts *o,
                          uint32_t number, uint64_t *length, qchain_error *err)
{
    uint64_t size = c->size;

    *d = (struct qc_prefetch_disk){.c = c, .range = o->ranges, .n_ranges = o->ranges ? o->n_ranges : 0,
                                   .number = number, .step = FIRST_STEP};
    *length = 0;
    if (!o->ranges)
        *length = d->end = size;
    for (uint32_t i = 0; i < d->n_ranges; i++) {
        const qchain_prefetch_range *r = &o->ranges[i];

        if (r->chain != number)
            continue;
        if (r->offset > size)
            return qc_fail(err, QCHAIN_E_RANGE, "a range begins at %llu, past the disk's end at %llu",
                           (unsigned long long)r->offset, (unsigned long long)size);
        *length += range_end(r, size) - r->offset;
    }
    return 0;
}

/* See that there is something left to be mapped; false: nothing is. */
static bool next_range(struct qc_prefetch_disk *d)
{
    while (d->pos >= d->end && d->next_range < d->n_ranges) {
        const qchain_prefetch_range *r = &d->range[d->next_range++];

        if (r->chain != d->number)
            continue;
        d->pos = r->offset;
        d->end = range_end(r, d->c->size);
    }
    return d->pos < d->end;
}

/* ------------------------------------------------------------------ extents --- */

/* Add the stretch of an object that an extent of it lies in. */
static void add_want(struct qc_prefetch_batch *b, const qchain_extent *x, uint64_t size)
{
    bool packed = x->flags & QCHAIN_EXTENT_COMPRESSED;
    uint64_t start = qc_min64(x->host_offset, size), end = size - start;
    struct qc_want *w = &b->want[b->n];

    end = start + qc_min64(packed ? x->host_length : x->length, end);
    *w = (struct qc_want){.start = qc_align_down(start, QC_GRAIN), .end = qc_min64(qc_align_up(end, QC_GRAIN), size),
                          .shows = x->length, .source = x->source, .order = b->n, .guest = x->offset,
                          .host = x->host_offset, .packed = packed ? x->host_length : 0};
    if (start < end)
        b->n++;
    else
        b->passed += x->length; /* past the object's end: zeros */
}

/* The same by pieces, which end where units of the top do; x becomes what there was room for. */
static void add_pieces(struct qc_prefetch_batch *b, qchain_extent *x, uint64_t unit, uint64_t size)
{
    uint64_t most = qc_max64(QC_PREFETCH_PIECE, unit), at = x->offset, end = x->offset + x->length, stop;
    qchain_extent part = *x;

    if (x->flags & QCHAIN_EXTENT_COMPRESSED) {
        add_want(b, x, size);
        return;
    }
    for (; at < end && b->n < WANTS; at = stop) {
        stop = qc_min64(qc_align_down(at, most) + most, end);
        part.offset = at;
        part.length = stop - at;
        part.host_offset = x->host_offset + (at - x->offset);
        add_want(b, &part, size);
    }
    x->length = at - x->offset;
}

/* x becomes shorter if there is no room for all of it. */
static int add_extent(struct qc_prefetch_disk *d, struct qc_prefetch_batch *b, qchain_extent *x,
                      qchain_prefetch_result *result, qchain_error *err)
{
    bool far, kept;
    struct qc_store *s;

    if (!(x->flags & QCHAIN_EXTENT_DATA)) {
        b->passed += x->length;
        return 0;
    }
    s = qc_source_store(d->c, x->source, err);
    if (!s)
        return err->code;
    far = qc_remote_is(s);
    kept = b->piece || (far && qc_bring_keeps(s));
    if (far && b->piece)
        add_pieces(b, x, d->c->tip->unit, qc_store_size(s));
    else if (far && kept && !b->metadata)
        add_want(b, x, qc_store_size(s));
    else
        b->passed += x->length;
    *(!far ? &result->local : kept || b->metadata ? &result->visible : &result->unkept) += x->length;
    return 0;
}

/* Map a step from the disk's position on. */
static int map_step(struct qc_prefetch_disk *d, struct qc_prefetch_batch *b, qchain_prefetch_result *result,
                    qchain_error *err)
{
    uint64_t start = d->pos, stop = qc_align_down(start, d->step) + d->step, next = start, told = start;
    uint32_t n = 0, before = b->n;
    int ret;

    stop = stop < start ? d->end : qc_min64(stop, d->end);
    ret = qc_chain_map(d->c, start, stop, b->extent, EXTENTS, &n, &next,
                       QCHAIN_MAP_NO_HOLES | QCHAIN_MAP_CLUSTERS, err);
    for (uint32_t i = 0; ret == 0 && i < n && b->n < WANTS; i++) {
        ret = add_extent(d, b, &b->extent[i], result, err);
        told += b->extent[i].length;
        if (b->n == WANTS)
            next = told; /* the rest is mapped again */
    }
    if (ret != 0)
        return ret;
    d->pos = next > start ? next : d->end; /* a disk that has become smaller ends */
    b->passed += d->pos > told ? d->pos - told : 0;
    if (b->n == before || d->step < FULL_STEP)
        d->step = qc_min64(2 * d->step, UINT64_C(1) << 62);
    else
        d->step = FULL_STEP;
    return 0;
}

/* ------------------------------------------------------------------ merging --- */

static int by_place(const void *left, const void *right)
{
    const struct qc_want *a = left, *b = right;

    if (a->source != b->source)
        return a->source < b->source ? -1 : 1;
    return a->start < b->start ? -1 : a->start > b->start;
}

static int by_order(const void *left, const void *right)
{
    const struct qc_want *a = left, *b = right;

    return a->order < b->order ? -1 : a->order > b->order;
}

/* Neighbours become one, which comes when the first of them is wanted. */
static void merge(struct qc_prefetch_batch *b)
{
    uint32_t n = 0;

    if (b->n == 0)
        return;
    qsort(b->want, b->n, sizeof(*b->want), by_place);
    if (b->piece)
        memcpy(b->piece, b->want, b->n * sizeof(*b->piece));
    for (uint32_t i = 0; i < b->n; i++) {
        b->want[i].first = i;
        b->want[i].n_pieces = 1;
    }
    for (uint32_t i = 1; i < b->n; i++) {
        struct qc_want *last = &b->want[n];
        const struct qc_want *w = &b->want[i];

        if (w->source == last->source && w->start <= last->end + QC_PREFETCH_GAP) {
            last->end = qc_max64(last->end, w->end);
            last->shows += w->shows;
            last->n_pieces++;
            last->order = last->order < w->order ? last->order : w->order;
        } else {
            b->want[++n] = *w;
        }
    }
    b->n = n + 1;
    qsort(b->want, b->n, sizeof(*b->want), by_order);
}

int qc_prefetch_plan(struct qc_prefetch_disk *d, struct qc_prefetch_batch *b, bool *more,
                     qchain_prefetch_result *result, qchain_error *err)
{
    uint64_t bytes = 0;
    uint32_t steps = 0, first = 0;
    int ret = 0;

    b->n = 0;
    b->passed = 0;
    *more = next_range(d);
    /* Ranges of a trace are short: many make a batch. */
    while (ret == 0 && bytes < b->most && b->n + EXTENTS <= WANTS && steps < EXTENTS && next_range(d)) {
        ret = map_step(d, b, result, err);
        for (; first < b->n; first++)
            bytes += b->want[first].end - b->want[first].start;
        steps += d->pos < d->end ? EXTENTS / 8 : 1; /* long ones are waited for: let others go on */
    }
    b->most = qc_min64(qc_max64(2 * b->most, QC_PREFETCH_REQUEST), MOST_BYTES);
    merge(b);
    return ret;
}
