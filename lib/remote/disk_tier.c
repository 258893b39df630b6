/* SPDX-License-Identifier: MIT */
/*
 * The disk cache as a tier. A fetch is tried on the disk by a leaf task, and where a byte is missing
 * goes on to the tier below; what that gave is stored by another leaf task, from the asker's own buffer.
 * So the asker's done is called when it is stored. Nobody waits for that: progress has said before that
 * all bytes are there.
 */
#include "remote/disk_int.h"

#include "util/alloc.h"
#include "util/bytes.h"

struct disk_tier {
    struct qc_tier         base;
    struct qc_disk_object *object;
};

/* One fetch under way. */
struct disk_fetch {
    struct qc_fetch   below;
    struct qc_task    task;
    struct disk_tier *tier;
    struct qc_fetch  *asker;
    size_t            told;  /* have, as the asker knows it */
};

static struct disk_fetch *of_task(struct qc_task *t)
{
    return (struct disk_fetch *)((char *)t - offsetof(struct disk_fetch, task));
}

static struct disk_fetch *of_below(struct qc_fetch *f)
{
    return (struct disk_fetch *)((char *)f - offsetof(struct disk_fetch, below));
}

/* The tier may be gone when the asker's done has been called. */
static void finish(struct disk_fetch *df, int ret)
{
    struct qc_fetch *f = df->asker;

    if (ret != 0)
        qc_error_copy(&f->err, &df->below.err);
    qc_free(df);
    f->done(f, ret);
}

static void tell(struct disk_fetch *df, size_t have)
{
    if (have <= df->told)
        return;
    df->told = have;
    if (df->asker->progress)
        df->asker->progress(df->asker, have);
}

static void below_progress(struct qc_fetch *below, size_t have)
{
    tell(of_below(below), have);
}

static void run_store(struct qc_task *t)
{
    struct disk_fetch *df = of_task(t);
    struct qc_fetch *f = df->asker;
    struct qc_disk *d = df->tier->object->disk;

    qc_disk_object_store(df->tier->object, f->buf, f->offset, f->length);
    atomic_fetch_sub(&d->queued, f->length);
    finish(df, 0);
}

static void below_done(struct qc_fetch *below, int ret)
{
    struct disk_fetch *df = of_below(below);
    struct qc_fetch *f = df->asker;
    struct qc_disk *d = df->tier->object->disk;
    uint64_t queued;

    if (ret != 0) {
        finish(df, ret);
        return;
    }
    tell(df, f->length);
    queued = atomic_fetch_add(&d->queued, f->length) + f->length;
    memset(&df->task, 0, sizeof(df->task));
    df->task.key = df->tier;
    df->task.run = run_store;
    /* A medium that is slower than the network must not hold back ever more buffers. */
    if (queued <= QC_DISK_QUEUE && qc_disk_fills(d) && !atomic_load(&df->tier->object->no_fill) &&
        qc_tasks_submit(d->o.leaves, &df->task))
        return;
    atomic_fetch_sub(&d->queued, f->length);
    finish(df, 0);
}

static void run_fetch(struct qc_task *t)
{
    struct disk_fetch *df = of_task(t);
    struct qc_fetch *f = df->asker;

    if (f->flags & QC_FETCH_FRESH ||
        !qc_disk_object_read(df->tier->object, f->buf, f->offset, f->length)) {
        qc_tier_fetch(df->tier->base.below, &df->below);
        return;
    }
    f->local = true;
    tell(df, f->length);
    finish(df, 0);
}

static void disk_fetch(struct qc_tier *t, struct qc_fetch *f)
{
    struct disk_tier *dt = (struct disk_tier *)t;
    struct disk_fetch *df = qc_calloc(1, sizeof(*df));

    if (df) {
        df->tier = dt;
        df->asker = f;
        df->below.buf = f->buf;
        df->below.offset = f->offset;
        df->below.length = f->length;
        df->below.flags = f->flags;
        df->below.progress = below_progress;
        df->below.done = below_done;
        qc_error_init(&df->below.err);
        df->task.key = dt;
        df->task.run = run_fetch;
        if (qc_tasks_submit(dt->object->disk->o.leaves, &df->task))
            return;
        qc_free(df);
    }
    qc_tier_fetch(t->below, f); /* no memory, no thread: as if there were no cache */
}

static int disk_fetch_local(struct qc_tier *t, void *buf, uint64_t offset, size_t length)
{
    struct disk_tier *dt = (struct disk_tier *)t;

    return qc_disk_object_read(dt->object, buf, offset, length) ? 0 : QCHAIN_E_NOTFOUND;
}

static bool disk_lacks(struct qc_tier *t, uint64_t offset, uint64_t end, uint64_t *from, uint64_t *to)
{
    return qc_disk_object_lacks(((struct disk_tier *)t)->object, offset, end, from, to);
}

static bool disk_keeps(struct qc_tier *t)
{
    struct qc_disk_object *o = ((struct disk_tier *)t)->object;

    return qc_disk_fills(o->disk) && !atomic_load(&o->no_fill);
}

/* Stores are parts of fetches, and none is under way. */
static void disk_close(struct qc_tier *t)
{
    struct disk_tier *dt = (struct disk_tier *)t;

    qc_tier_close(t->below);
    qc_disk_object_put(dt->object);
    qc_free(dt);
}

static const struct qc_tier_ops disk_ops = {
    .name = "disk",
    .fetch = disk_fetch,
    .fetch_local = disk_fetch_local,
    .lacks = disk_lacks,
    .keeps = disk_keeps,
    .close = disk_close,
};

int qc_disk_tier_create(struct qc_tier **out, struct qc_disk *d, const char *key, const char *scope,
                        const struct qc_pin *pin, struct qc_tier *below, qchain_error *err)
{
    struct disk_tier *dt;
    uint64_t end;

    *out = below;
    /* An object without validators may be another tomorrow, of the same size: its bytes are not kept
     * beyond the chain that reads it. Nor those of one that is too large for any file. */
    if (!qc_pin_is_set(pin) || !qc_mul_ok(pin->size / QC_FRAME_DATA + 2, QC_FRAME_STRIDE, &end) ||
        end > INT64_MAX)
        return 0;
    *out = NULL;
    dt = qc_calloc(1, sizeof(*dt));
    if (dt)
        dt->object = qc_disk_object_get(d, key, scope, pin);
    if (!dt || !dt->object) {
        qc_free(dt);
        qc_tier_close(below);
        return qc_fail_nomem(err);
    }
    dt->base.ops = &disk_ops;
    dt->base.below = below;
    *out = &dt->base;
    return 0;
}
