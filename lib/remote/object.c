/* SPDX-License-Identifier: MIT */
/* Objects: what a read finds in memory and on this machine, and what it must wait for. */
#include "remote/object.h"

#include <stdio.h>
#include <string.h>

#include "remote/flight.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/escape.h"

#define PIECES 4            /* of a read that is no more than this: no memory is taken */
#define AHEAD_AFTER 2       /* blocks read in sequence: then more are asked for ahead */
#define AHEAD_BLOCKS 4

/* ------------------------------------------------------------------- objects --- */

int qc_object_create(struct qc_object **out, struct qc_flights *shared, struct qc_place *place,
                     const struct qc_pin *pin, struct qc_tier *tier, uint64_t owner, uint32_t head,
                     qchain_error *err)
{
    struct qc_object *o = qc_calloc(1, sizeof(*o));

    if (!o) {
        qc_tier_close(tier);
        return qc_fail_nomem(err);
    }
    o->shared = shared;
    o->place = qc_place_ref(place);
    o->pin = *pin;
    o->tier = tier;
    o->owner = owner;
    o->head = head;
    atomic_init(&o->users, 1);
    pthread_mutex_init(&o->lock, NULL);
    *out = o;
    return 0;
}

void qc_object_drop(struct qc_object *o)
{
    if (!o || atomic_fetch_sub(&o->users, 1) > 1)
        return;
    qc_tier_close(o->tier);
    qc_block_drop_owner(o->shared->blocks, o->owner);
    qc_place_unref(o->place);
    pthread_mutex_destroy(&o->lock);
    qc_free(o);
}

/* ------------------------------------------------------------------- reading --- */

/* A range in memory: whole, or no hit. */
static bool copy_block(struct qc_object *o, uint64_t key, uint64_t start, char *dest, uint64_t offset,
                       size_t length)
{
    struct qc_block *b = qc_block_find(o->shared->blocks, o->owner, key);
    bool hit = b && offset >= start && offset - start + length <= b->size;

    if (hit)
        memcpy(dest, b->data + (offset - start), length);
    qc_block_unpin(o->shared->blocks, b);
    return hit;
}

/* The piece lies within one block if it is data. */
static bool in_memory(struct qc_object *o, char *dest, uint64_t offset, size_t length, bool meta)
{
    uint64_t grain = qc_align_down(offset, QC_GRAIN);
    uint64_t block = qc_align_down(offset, o->shared->block_bytes);
    bool hit;

    hit = (offset + length <= o->head && copy_block(o, QC_KEY_HEAD, 0, dest, offset, length)) ||
          (meta && copy_block(o, qc_key_meta(grain), grain, dest, offset, length)) ||
          copy_block(o, qc_key_data(block), block, dest, offset, length);
    if (hit)
        qc_count_bytes(o->shared->slots, QC_CNT_MEMORY_HITS, length);
    return hit;
}

static bool on_this_machine(struct qc_object *o, char *dest, uint64_t offset, size_t length)
{
    struct qc_tier *t = o->tier;

    return t->ops->fetch_local && t->ops->fetch_local(t, dest, offset, length) == 0;
}

/* How many pieces a read may come to. */
static size_t most_parts(const struct qc_object *o, size_t length, bool meta)
{
    return meta ? 1 : length / o->shared->block_bytes + 2;
}

/* What a piece of metadata is read with: its grains; of the first bytes the head. */
static void widen_meta(const struct qc_object *o, uint64_t *start, uint64_t *end)
{
    if (*end <= o->head) {
        *start = 0;
        *end = o->head;
        return;
    }
    *start = qc_align_down(*start, QC_GRAIN);
    *end = qc_min64(qc_align_up(*end, QC_GRAIN), o->pin.size);
}

static void want_meta(struct qc_object *o, struct qc_reading *rd, char *dest, uint64_t offset,
                      size_t length)
{
    uint64_t start = offset, end = offset + length;

    widen_meta(o, &start, &end);
    qc_flight_want(o, rd, dest, offset, length, start, end, true);
}

/* A stretch of data that is nowhere: most of a block, or more, is read as it is, straight into the
 * reader's memory; less brings its blocks. */
static void want_data(struct qc_object *o, struct qc_reading *rd, char *dest, uint64_t offset,
                      uint64_t end, bool exact)
{
    uint64_t block = o->shared->block_bytes, size = o->pin.size, next;
    bool bulk = (exact || end - offset >= block / 2) && offset % QC_GRAIN == 0 &&
                (end % QC_GRAIN == 0 || end == size);

    if (exact && !bulk && end - offset < block / 2) {
        want_meta(o, rd, dest, offset, (size_t)(end - offset)); /* whole grains */
        return;
    }
    for (; offset < end; dest += next - offset, offset = next) {
        uint64_t start = qc_align_down(offset, block);

        if (bulk) {
            next = end - offset <= block + block / 2 ? end : offset + block;
            qc_flight_direct(o, rd, dest, offset, (size_t)(next - offset));
        } else {
            next = qc_min64(start + block, end);
            qc_flight_want(o, rd, dest, offset, (size_t)(next - offset), start,
                           qc_min64(start + block, size), false);
        }
    }
}

/* Block by block: what is in memory, local (if that is looked at) or under way, and the stretches
 * between. */
static void read_data(struct qc_object *o, struct qc_reading *rd, char *buf, uint64_t offset,
                      size_t length, bool local, bool exact)
{
    uint64_t end = offset + length, at, next, missing = offset;

    for (at = offset; at < end; at = next) {
        char *dest = buf + (at - offset);

        next = qc_min64(qc_align_down(at, o->shared->block_bytes) + o->shared->block_bytes, end);
        if (!in_memory(o, dest, at, (size_t)(next - at), false) &&
            !(local && on_this_machine(o, dest, at, (size_t)(next - at))) &&
            !qc_flight_join(o, rd, dest, at, (size_t)(next - at)))
            continue;
        if (missing < at)
            want_data(o, rd, buf + (missing - offset), missing, at, exact);
        missing = next;
    }
    if (missing < end)
        want_data(o, rd, buf + (missing - offset), missing, end, exact);
}

/* A reader who goes on where he stopped, for some blocks, will go on. */
static void look_ahead(struct qc_object *o, uint64_t offset, size_t length)
{
    uint64_t block = o->shared->block_bytes, end = offset + length, from, to;

    pthread_mutex_lock(&o->lock);
    o->ahead = offset == o->next ? o->ahead + length : length;
    o->next = end;
    from = qc_max64(qc_align_up(end, block), o->begun);
    to = qc_min64(qc_align_up(end, block) + AHEAD_BLOCKS * block, o->pin.size);
    if (o->ahead < AHEAD_AFTER * block) {
        o->begun = 0;
        from = to;
    } else if (from < to) {
        o->begun = to;
    }
    pthread_mutex_unlock(&o->lock);
    for (; from < to; from += block)
        qc_flight_want(o, NULL, NULL, from, 0, from, qc_min64(from + block, o->pin.size), false);
}

static int check_unchanged(const struct qc_object *o, qchain_error *err)
{
    struct qc_escaped shown;

    if (!atomic_load_explicit(&o->changed, memory_order_relaxed))
        return 0;
    return qc_fail(err, QCHAIN_E_CHANGED, "'%s' was replaced since it was opened: open it again",
                   qc_escape_str(&shown, qc_place_shown(o->place)));
}

/* All of a read that does not wait; what is left the reading waits for. */
static void begin_read(struct qc_object *o, struct qc_reading *rd, char *buf, size_t length,
                       uint64_t offset, uint32_t flags, bool local)
{
    bool exact = flags & QCHAIN_STORE_EXACT;

    if (!(flags & QCHAIN_STORE_META)) {
        read_data(o, rd, buf, offset, length, local, exact);
        if (!exact && length < o->shared->block_bytes / 2)
            look_ahead(o, offset, length);
    } else if (!in_memory(o, buf, offset, length, true) &&
               !(local && on_this_machine(o, buf, offset, length)) &&
               !qc_flight_join(o, rd, buf, offset, length)) {
        want_meta(o, rd, buf, offset, length);
    }
}

static int object_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                        qchain_error *err)
{
    struct qc_object *o = obj;
    bool meta = flags & QCHAIN_STORE_META;
    size_t n = most_parts(o, length, meta);
    struct qc_part few[PIECES];
    struct qc_reading rd;
    int ret = check_unchanged(o, err);

    if (ret != 0)
        return ret;
    rd.part = n <= PIECES ? few : qc_malloc(n * sizeof(*rd.part));
    if (!rd.part)
        return qc_fail_nomem(err);
    qc_reading_init(&rd, err);
    if (flags & QCHAIN_STORE_FRESH) {
        qc_block_drop_owner(o->shared->blocks, o->owner);
        qc_flight_fresh(o, &rd, buf, offset, length);
    } else {
        begin_read(o, &rd, buf, length, offset, flags, true);
    }
    ret = qc_reading_wait(&rd);
    if (ret == QCHAIN_E_CHANGED && o->shared->forget)
        o->shared->forget(o->shared->forget_data, o->place);
    if (rd.part != few)
        qc_free(rd.part);
    return ret;
}

/* ------------------------------------------------------- without waiting --- */

/* A read on its way. What lies on local disks is looked at by a leaf task. */
struct submitted {
    struct qc_reading  rd;
    struct qc_task     task;
    struct qc_object  *o;
    qchain_store_read *r;
    struct qc_part     part[];
};

static void read_over(struct qc_reading *rd, int ret)
{
    struct submitted *s = (struct submitted *)(void *)rd;
    qchain_store_read *r = s->r;

    qc_reading_finish(rd);
    qc_free(s);
    r->done(r, ret);
}

static void run_submitted(struct qc_task *t)
{
    struct submitted *s = (struct submitted *)(void *)((char *)t - offsetof(struct submitted, task));
    qchain_store_read *r = s->r;

    begin_read(s->o, &s->rd, r->buf, r->length, r->offset, r->flags,
               s->o->tier->ops->fetch_local != NULL);
    qc_reading_begun(&s->rd); /* s may be gone */
}

static void object_submit(void *obj, qchain_store_read *r)
{
    struct qc_object *o = obj;
    size_t n = most_parts(o, r->length, r->flags & QCHAIN_STORE_META);
    struct submitted *s;
    int ret = check_unchanged(o, r->err);

    if (ret != 0) {
        r->done(r, ret);
        return;
    }
    s = qc_malloc(sizeof(*s) + n * sizeof(s->part[0]));
    if (!s) {
        r->done(r, qc_fail_nomem(r->err));
        return;
    }
    s->o = o;
    s->r = r;
    s->rd.part = s->part;
    qc_reading_init(&s->rd, r->err);
    s->rd.over = read_over;
    s->task = (struct qc_task){.key = o, .run = run_submitted};
    if (!o->tier->ops->fetch_local || !qc_tasks_submit(o->shared->leaves, &s->task))
        run_submitted(&s->task);
}

/* --------------------------------------------------------------------- store --- */

static void object_close(void *obj)
{
    qc_object_drop(obj);
}

static int object_size(void *obj, uint64_t *size, qchain_error *err)
{
    struct qc_object *o = obj;

    (void)err;
    *size = o->pin.size;
    return 0;
}

static int object_limits(void *obj, qchain_store_limits *out, qchain_error *err)
{
    struct qc_object *o = obj;

    (void)err;
    out->parallel = o->shared->parallel;
    return 0;
}

static int object_identity(void *obj, qchain_store_identity *out, qchain_error *err)
{
    struct qc_object *o = obj;
    const struct qc_pin *p = &o->pin;

    (void)err;
    if (p->mtime_s > 0 && p->mtime_s < UINT64_MAX / 1000000000u) {
        out->flags |= QCHAIN_IDENTITY_HAS_MTIME;
        out->mtime_ns = p->mtime_s * 1000000000u;
    }
    snprintf(out->etag, sizeof(out->etag), "%s", p->version[0] ? p->version : p->etag);
    return 0;
}

static const qchain_store_ops object_ops = {
    .struct_size = sizeof(object_ops),
    .version = QCHAIN_BACKEND_VERSION,
    .name = "remote",
    .close = object_close,
    .size = object_size,
    .pread = object_pread,
    .limits = object_limits,
    .identity = object_identity,
    .submit = object_submit,
};

int qc_object_store(struct qc_object *o, struct qc_slots *slots, struct qc_store **out,
                    qchain_error *err)
{
    qchain_store store = {sizeof(store), &object_ops, o, qc_place_shown(o->place)};

    return qc_store_create(out, &store, slots, err);
}

struct qc_object *qc_object_of(const struct qc_store *s)
{
    return s && s->ops.pread == object_pread ? s->obj : NULL;
}
