/* SPDX-License-Identifier: MIT */
/* What is to be copied, cut into tasks. */
#include <string.h>

#include "chain/chain.h"
#include "ops/copy_int.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/vec.h"

#define MAP_BATCH 512
#define SELECT_BATCH 8192 /* a merge begins anew for each: enough for the clusters of one step */
#define FAR_BATCH 131072  /* the same of far layers, where a step costs a round trip: their tables come together */
#define FAR_STRIDE (UINT64_C(8) << 30) /* mapped at once: the first bytes should not wait for all tables */
#define SALVAGE_MAP (UINT64_C(128) << 20)  /* mapped at once after damage was met */
#define SALVAGE_PIECE (UINT64_C(64) << 10) /* lost when it cannot be mapped */
#define SALVAGE_SHARE 1024                 /* of what was lost in one stretch: the next piece */

int qc_copy_plan_init(struct qc_copy_engine *e, qchain_error *err)
{
    const struct qc_copy_select *s = e->job->select;

    e->pos = e->mapped_to = e->job->start;
    e->least = SALVAGE_PIECE;
    e->whole = !s || (s->upto == 0 && s->below >= e->job->c->n_layers);
    e->max_extents = !s ? MAP_BATCH : e->job->c->far ? FAR_BATCH : SELECT_BATCH;
    e->extent = qc_calloc(e->max_extents, sizeof(*e->extent));
    return e->extent ? 0 : qc_fail_nomem(err);
}

/* ---------------------------------------------------------------- mapping --- */

/* Of far layers a stretch at a time, while others still read what was found before; but a longer one each time where
 * nothing is. */
static uint64_t far_stop(struct qc_copy_engine *e, uint64_t stop)
{
    e->stride = e->stride == 0 || e->n_extents > 0 ? FAR_STRIDE : qc_min64(2 * e->stride, UINT64_C(1) << 62);
    if (stop - e->pos <= e->stride)
        return stop;
    return qc_align_down(e->pos, FAR_STRIDE) + e->stride;
}

/* From pos on, at most to stop. */
static int map(struct qc_copy_engine *e, uint64_t stop, qchain_error *err)
{
    const struct qc_copy_select *s = e->job->select;
    uint32_t flags = s && s->streams_of ? QCHAIN_MAP_CLUSTERS : 0;

    if (s && e->job->c->far)
        stop = far_stop(e, stop);
    e->at = e->n_extents = 0;
    e->mapped_from = e->pos;
    if (e->whole)
        return qc_chain_map(e->job->c, e->pos, stop, e->extent, e->max_extents, &e->n_extents, &e->mapped_to,
                            s ? QCHAIN_MAP_CLUSTERS : 0, err);
    return qc_chain_diff(e->job->c, (uint32_t)qc_min64(s->below, e->job->c->n_layers), 0, e->pos, stop, e->extent,
                         e->max_extents, &e->n_extents, &e->mapped_to, flags | QCHAIN_MAP_CLUSTERS, err);
}

/* What cannot be mapped, from pos to stop, becomes an extent of zeros. Pieces grow
 * with the stretch, so that a disk of any size ends in a bounded number of steps. */
static void lose(struct qc_copy_engine *e, uint64_t stop)
{
    uint64_t length = stop - e->pos;

    e->extent[0] = (qchain_extent){
        .offset = e->pos, .length = length, .flags = QCHAIN_EXTENT_PRESENT | QCHAIN_EXTENT_ZERO,
    };
    e->n_extents = 1;
    e->mapped_to = stop;
    e->job->salvaged += length;
    e->lost_run += length;
    if (e->lost_run / SALVAGE_SHARE > e->least)
        e->piece = e->least *= 2;
}

/* Map as much as can be from pos on, past damage. Holds the lock: while a job is
 * paused here, the others have nothing to do either. */
static int map_salvaging(struct qc_copy_engine *e, qchain_error *err)
{
    struct qc_copy_job *job = e->job;
    uint64_t stop;
    int ret;

    for (;;) {
        ret = qc_job_check(job->job, e->started_ns, err);
        if (ret != 0)
            return ret;
        stop = job->end;
        if (e->piece)
            stop = qc_min64(stop, qc_align_down(e->pos, e->piece) + e->piece);
        ret = map(e, stop, err);
        if (ret != 0 && !qc_copy_is_damage(ret))
            return ret;
        if (ret != 0)
            qc_error_init(err);
        if (ret == 0 || e->n_extents > 0) { /* perhaps not all, but from pos on */
            e->piece = qc_min64(2 * e->piece, SALVAGE_MAP);
            e->least = SALVAGE_PIECE;
            e->lost_run = 0;
            return 0;
        }
        if (e->piece == 0) {
            e->piece = SALVAGE_MAP;
        } else if (e->piece > e->least) {
            e->piece /= 2;
        } else {
            lose(e, stop);
            return 0;
        }
    }
}

/* See that the batch speaks of pos; extents before it are passed. */
static int map_on(struct qc_copy_engine *e, qchain_error *err)
{
    int ret;

    while (e->at < e->n_extents &&
           e->extent[e->at].offset + e->extent[e->at].length <= e->pos)
        e->at++;
    if (e->at < e->n_extents || e->pos < e->mapped_to)
        return 0;
    if (e->job->salvage)
        return map_salvaging(e, err);
    ret = qc_job_check(e->job->job, e->started_ns, err);
    return ret == 0 ? map(e, e->job->end, err) : ret;
}

/* --------------------------------------------------------------- deciding --- */

enum what {
    NOTHING, /* not selected */
    ZEROS,
    BYTES,
    STREAM   /* a whole compressed cluster that stays as it is */
};

static enum what selected_zeros(const struct qc_copy_engine *e, const qchain_extent *x)
{
    const struct qc_copy_select *s = e->job->select;
    /* Beyond the end of a shorter layer: that one decides. */
    uint32_t by = x->flags & QCHAIN_EXTENT_PRESENT ? x->layer : x->layer + 1;

    if (by < s->upto)
        return NOTHING;
    if (!(x->flags & QCHAIN_EXTENT_PRESENT) && by >= qc_min64(s->below, e->job->c->n_layers))
        return s->absent ? ZEROS : NOTHING;
    return ZEROS;
}

/* Is all of its cluster to be seen, in the same way as the target would store it? */
static bool is_stream(const struct qc_copy_engine *e, const qchain_extent *x)
{
    const struct qc_image *to = e->job->select->streams_of, *img;
    qchain *c = e->job->c;
    qchain_error why;

    if (!to || !(x->flags & QCHAIN_EXTENT_COMPRESSED) ||
        (x->layer < c->frozen && !e->job->select->still))
        return false;
    if (c->layer[x->layer].cluster_size != to->cluster_size || x->offset % to->cluster_size != 0 ||
        x->host_length > to->cluster_size || x->host_length == 0)
        return false;
    if (x->length != to->cluster_size && x->offset + x->length != to->virtual_size)
        return false;
    qc_error_init(&why);
    img = qc_layer_image(c, x->layer, &why); /* if it cannot be opened, reading will say so */
    return img && img->format == to->format && img->decoder_kind == to->decoder_kind;
}

/* What lies at pos, which is mapped, and how far that goes within the batch's next extent. */
static enum what look(const struct qc_copy_engine *e, uint32_t at, uint64_t pos, uint64_t *until)
{
    const struct qc_copy_select *s = e->job->select;
    const qchain_extent *x = &e->extent[at];

    if (at >= e->n_extents || x->offset > pos) { /* between extents */
        *until = at < e->n_extents ? x->offset : qc_min64(e->mapped_to, e->job->end);
        return s && s->absent ? ZEROS : NOTHING;
    }
    *until = qc_min64(x->offset + x->length, e->job->end);
    if (!s)
        return x->flags & QCHAIN_EXTENT_ZERO ? ZEROS : BYTES;
    if (x->flags & QCHAIN_EXTENT_ZERO)
        return selected_zeros(e, x);
    if (x->layer < s->upto)
        return NOTHING;
    return is_stream(e, x) && x->offset == pos ? STREAM : BYTES;
}

/* How far the batch says the same from pos on. */
static enum what same_until(const struct qc_copy_engine *e, uint64_t *until)
{
    uint32_t at = e->at;
    enum what what = look(e, at, e->pos, until);
    uint64_t next;

    for (;;) {
        while (at < e->n_extents && e->extent[at].offset + e->extent[at].length <= *until)
            at++;
        if (at >= e->n_extents && *until >= qc_min64(e->mapped_to, e->job->end))
            return what;
        if (look(e, at, *until, &next) != what || next <= *until)
            return what;
        *until = next;
    }
}

/* --------------------------------------------------------------- segments --- */

/* How bytes from pos on are read: where they lie if that is selected, else through the chain. */
static struct qc_run run_of(const struct qc_copy_engine *e, enum what what, uint64_t until)
{
    const struct qc_copy_select *s = e->job->select;
    uint64_t sectors = qc_align_up(until, 512) - e->pos;
    const qchain_extent *x = &e->extent[e->at];
    struct qc_run r = qc_run_make(e->pos, sectors, QC_ABSENT, 0);

    if (what == ZEROS || (what == NOTHING && e->at < e->n_extents && x->offset > e->pos &&
                          s->below >= e->job->c->n_layers))
        return qc_run_make(e->pos, sectors, QC_ZERO, 0);
    if (what == NOTHING || (x->layer < e->job->c->frozen && what != STREAM))
        return r;
    if (x->flags & QCHAIN_EXTENT_COMPRESSED) {
        r = qc_run_make(e->pos, sectors, QC_COMPRESSED, x->host_offset);
        r.sectors = (uint16_t)((x->host_length + x->host_offset % 512) / 512);
    } else {
        r = qc_run_make(e->pos, sectors, QC_DATA, x->host_offset + (e->pos - x->offset));
    }
    r.source = (uint16_t)x->source;
    return r;
}

/* Note the runs of [pos, stop), which pos passes. */
static int add_runs(struct qc_copy_engine *e, struct qc_copy_task *t, uint64_t stop, qchain_error *err)
{
    enum what what;
    uint64_t until;
    int ret = 0;

    while (e->pos < stop) {
        ret = map_on(e, err);
        if (ret != 0)
            return ret;
        what = look(e, e->at, e->pos, &until);
        /* Where a file ends within a sector, what is behind its end reads as the zeros that the next extent tells of. */
        until = qc_min64(qc_align_up(until, 512), stop);
        if (qc_grow((void **)&t->run, &t->cap_run, t->n_run + 1, sizeof(*t->run)) != 0)
            return qc_fail_nomem(err);
        t->run[t->n_run++] = run_of(e, what, until);
        e->pos = until;
    }
    return 0;
}

/* Bytes from pos to stop, as part of the last segment if they follow on it. */
static int add_bytes(struct qc_copy_engine *e, struct qc_copy_task *t, uint64_t stop, uint64_t *used,
                     qchain_error *err)
{
    struct qc_segment *s = t->n ? &t->segment[t->n - 1] : NULL;
    uint64_t length = stop - e->pos;
    size_t first = t->n_run;
    int ret = 0;

    if (!s || !s->buf || s->streams || s->offset + s->length != e->pos) {
        s = &t->segment[t->n++];
        *s = (struct qc_segment){.offset = e->pos, .buf = t->buf + *used, .run = first};
    }
    if (e->job->select)
        ret = add_runs(e, t, stop, err);
    s->length += length;
    s->n_run += t->n_run - first;
    *used += length;
    e->pos = stop;
    return ret;
}

/* Streams from pos to stop, as many as there is room for. */
static int add_streams(struct qc_copy_engine *e, struct qc_copy_task *t, uint64_t stop, uint64_t *used,
                       qchain_error *err)
{
    struct qc_segment *s = &t->segment[t->n++];
    const qchain_extent *x;
    int ret = 0;

    *s = (struct qc_segment){.offset = e->pos, .buf = t->buf + *used, .run = t->n_run, .streams = true};
    while (ret == 0 && e->pos < stop) {
        ret = map_on(e, err);
        x = &e->extent[e->at];
        if (ret != 0 || (s->length > 0 && x->host_length > e->job->chunk - *used))
            break;
        *used += x->host_length;
        s->length += x->length;
        ret = add_runs(e, t, x->offset + x->length, err);
    }
    s->n_run = t->n_run - s->run;
    return ret;
}

/* From pos on the batch says the same up to until: see that whole units are spoken of. *until is pos if the first is
 * not. Where the batch ends within it, the next one may tell. */
static int whole_units(struct qc_copy_engine *e, enum what *what, uint64_t *until, qchain_error *err)
{
    uint64_t align = e->job->align;
    int ret;

    if (*until >= e->job->end)
        return 0;
    if (*until < e->mapped_to || qc_align_down(*until, align) > e->pos || e->mapped_from == e->pos) {
        *until = qc_align_down(*until, align);
        return 0;
    }
    e->n_extents = e->at = 0;
    e->mapped_to = e->pos;
    ret = map_on(e, err);
    if (ret != 0)
        return ret;
    *what = same_until(e, until);
    if (*until < e->job->end)
        *until = qc_align_down(*until, align);
    return 0;
}

/* The next segment, or none if nothing is selected there. */
static int next_segment(struct qc_copy_engine *e, struct qc_copy_task *t, uint64_t *used, qchain_error *err)
{
    uint64_t end = e->job->end, align = e->job->align, room = e->job->chunk - *used, until;
    enum what what;
    int ret = map_on(e, err);

    if (ret != 0)
        return ret;
    what = same_until(e, &until);
    if (what == STREAM)
        return add_streams(e, t, until, used, err);
    if (what != BYTES) {
        ret = whole_units(e, &what, &until, err);
        if (ret != 0)
            return ret;
    }
    if (what == NOTHING && until > e->pos) {
        e->pos = until;
    } else if (what == ZEROS && until > e->pos) {
        t->segment[t->n++] = (struct qc_segment){.offset = e->pos, .length = until - e->pos};
        e->pos = until;
    } else { /* zeros that fill no unit are read as data */
        until = qc_max64(until, e->pos + align);
        until = qc_min64(qc_min64(qc_align_up(until, align), e->pos + qc_align_down(room, align)), end);
        return add_bytes(e, t, until, used, err);
    }
    return 0;
}

int qc_copy_plan(struct qc_copy_engine *e, struct qc_copy_task *t, qchain_error *err)
{
    uint64_t used = 0, chunk = e->job->chunk;
    int ret = 0;

    t->n = 0;
    t->n_run = 0;
    t->moves = 0;
    t->start = e->pos;
    while (ret == 0 && e->pos < e->job->end && t->n < QC_COPY_SEGMENTS && used + e->job->align <= chunk)
        ret = next_segment(e, t, &used, err);
    t->end = e->pos;
    t->number = e->next_number++;
    for (unsigned i = 0; i < t->n; i++)
        t->moves += t->segment[i].length;
    return ret;
}
