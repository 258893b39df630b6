/* SPDX-License-Identifier: MIT */
#include "remote/bring.h"

#include <string.h>

#include "remote/remote_int.h"
#include "util/clock.h"
#include "util/escape.h"

int qc_bring_check(struct qc_remote *r, qchain_error *err)
{
    struct qc_disk *disk = qc_remote_disk(r);
    struct qc_escaped shown;

    if (!r->conf->cache_dir)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED, "there is no disk cache to fetch into: name a directory for it "
                       "(setting cache-dir, option --cache-dir DIR)");
    qc_escape_str(&shown, r->conf->cache_dir);
    if (!disk)
        return qc_fail(err, QCHAIN_E_IO, "the disk cache '%s' cannot be used (the log says why): it must be a "
                       "directory of your own that others may not write to", shown.text);
    if (!qc_disk_is_writable(disk))
        return qc_fail(err, QCHAIN_E_IO, "the disk cache '%s' may not be written to", shown.text);
    return 0;
}

bool qc_bring_keeps(const struct qc_store *s)
{
    struct qc_tier *t = qc_object_of(s)->tier;

    return t->ops->keeps && t->ops->lacks && t->ops->keeps(t);
}

bool qc_bring_lacks(const struct qc_store *s, uint64_t offset, uint64_t end, uint64_t *from, uint64_t *to)
{
    struct qc_tier *t = qc_object_of(s)->tier;

    return t->ops->lacks(t, offset, end, from, to);
}

bool qc_bring_same(const struct qc_store *a, const struct qc_store *b)
{
    const struct qc_object *x = qc_object_of(a), *y = qc_object_of(b);

    return x == y || (x->shared == y->shared && strcmp(qc_place_key(x->place), qc_place_key(y->place)) == 0 &&
                      strcmp(qc_place_scope(x->place), qc_place_scope(y->place)) == 0 &&
                      qc_pin_same(&x->pin, &y->pin));
}

static struct qc_bring *of_reading(struct qc_reading *rd)
{
    return (struct qc_bring *)(void *)((char *)rd - offsetof(struct qc_bring, rd));
}

/* A flight that ends calls this, and has the object still; so has one that is joined. */
static void brought(struct qc_reading *rd, int ret)
{
    struct qc_bring *b = of_reading(rd);
    struct qc_tier *t = b->o->tier;

    if (ret == 0 && !b->unkept && !t->ops->keeps(t))
        ret = qc_fail(&b->err, QCHAIN_E_IO, "what was fetched could not be stored in the disk cache (the log says "
                      "why): is its file system full?");
    qc_reading_finish(rd);
    b->done(b, ret);
}

void qc_bring_begin(const struct qc_store *s, struct qc_bring *b)
{
    b->o = qc_object_of(s);
    qc_error_init(&b->err);
    b->rd.part = &b->part;
    qc_reading_init(&b->rd, &b->err);
    b->rd.over = brought;
    qc_flight_bring(b->o, &b->rd, b->buf, b->offset, b->length);
    qc_reading_begun(&b->rd); /* b may be gone */
}

void qc_bring_changed(const struct qc_store *s)
{
    struct qc_object *o = qc_object_of(s);

    if (o->shared->forget)
        o->shared->forget(o->shared->forget_data, o->place);
}

uint64_t qc_bring_quiet_ns(struct qc_remote *r)
{
    uint64_t last = atomic_load_explicit(&r->flights.wanted_ns, memory_order_relaxed), now;

    if (atomic_load(&r->flights.n_wanted) > 0)
        return 0;
    now = qc_now_ns();
    return last == 0 ? UINT64_MAX : now > last ? now - last : 1;
}

uint64_t qc_bring_room(struct qc_remote *r)
{
    return qc_delay_window(&r->flights.delay, qc_now_ns());
}
