/* SPDX-License-Identifier: MIT */
/* Of what is moved, only what differs from another disk. */
#include <string.h>

#include "ops/move_int.h"
#include "util/bytes.h"

#define MAP 64

/* A stretch of the target, as it is to be: buf is NULL for zeros. */
struct part {
    const char *buf;
    uint64_t    offset, length;
};

static int put(struct qc_mover *v, const struct part *p, uint64_t from, uint64_t to, bool zero, qchain_error *err)
{
    if (from == to)
        return 0;
    if (zero)
        return qc_move_put_zeros(v, p->offset + from, to - from, err);
    return qc_move_put_data(v, p->buf + from, p->offset + from, to - from, err);
}

/* Put the units that are not as they are in `other` (NULL: zeros), neighbours of a kind at once. */
static int put_differing(struct qc_mover *v, const struct part *p, const char *other, qchain_error *err)
{
    enum { SAME, DATA, ZERO } what, last = SAME;
    uint64_t at = 0, from = 0, n;
    int ret = 0;

    for (; ret == 0 && at < p->length; at += n) {
        bool zero;

        n = qc_min64(qc_align_down(p->offset + at, v->unit) + v->unit - (p->offset + at), p->length - at);
        zero = !p->buf || qc_is_zero(p->buf + at, (size_t)n);
        if (zero)
            what = !other || qc_is_zero(other + at, (size_t)n) ? SAME : ZERO;
        else
            what = other && memcmp(p->buf + at, other + at, (size_t)n) == 0 ? SAME : DATA;
        if (what == last)
            continue;
        if (last != SAME)
            ret = put(v, p, from, at, last == ZERO, err);
        last = what;
        from = at;
    }
    if (ret == 0 && last != SAME)
        ret = put(v, p, from, at, last == ZERO, err);
    return ret;
}

/* One stretch against which the other disk stores bytes. */
static int compare_stored(struct qc_mover *v, const struct part *p, char *room, qchain_error *err)
{
    uint64_t n, size = v->m->against->size;
    struct part piece;
    int ret = 0;

    for (uint64_t at = 0; ret == 0 && at < p->length; at += n) {
        n = qc_min64(p->length - at, v->room);
        piece = (struct part){p->buf ? p->buf + at : NULL, p->offset + at, n};
        qchain_iov iov = {room, (size_t)qc_min64(n, qc_max64(size, piece.offset) - piece.offset)};

        memset(room + iov.len, 0, (size_t)n - iov.len); /* beyond its end, in a unit that begins before */
        ret = qc_chain_readv(v->m->against, &iov, 1, iov.len, piece.offset, QC_CHAIN_READ_SERIAL, err);
        if (ret != 0) {
            qc_error_prefix(err, -1, "the disk that is compared with: ");
            break;
        }
        atomic_fetch_add(&v->compared, n);
        ret = put_differing(v, &piece, room, err);
    }
    return ret;
}

/* How far from offset on the other disk has nothing but zeros (or stores bytes), in whole units. */
static int look(struct qc_mover *v, uint64_t offset, uint64_t end, uint64_t *stop, bool *zero, qchain_error *err)
{
    qchain *o = v->m->against;
    qchain_extent x[MAP];
    uint64_t next, size = o->size;
    uint32_t n;
    int ret;

    *zero = true;
    *stop = end;
    if (offset >= size)
        return 0;
    ret = qc_chain_map(o, offset, qc_min64(end, size), x, MAP, &n, &next, QCHAIN_MAP_NO_HOLES, err);
    if (ret != 0)
        return ret;
    *zero = x[0].flags & QCHAIN_EXTENT_ZERO;
    for (uint32_t i = 0; i < n; i++) {
        if (!!(x[i].flags & QCHAIN_EXTENT_ZERO) != *zero)
            break;
        next = x[i].offset + x[i].length;
    }
    if (next >= size && *zero)
        next = end;
    *stop = qc_min64(end, *zero ? qc_align_down(next, v->unit) : qc_align_up(next, v->unit));
    if (next < end && *stop <= offset) { /* a unit of both kinds */
        *zero = false;
        *stop = qc_min64(end, qc_align_down(offset, v->unit) + v->unit);
    }
    if (next >= end)
        *stop = end;
    return 0;
}

int qc_move_compare(struct qc_mover *v, const char *buf, uint64_t offset, uint64_t length, char *room,
                    qchain_error *err)
{
    uint64_t end = offset + length, stop;
    bool zero;
    int ret = 0;

    for (uint64_t at = offset; ret == 0 && at < end; at = stop) {
        struct part p = {buf ? buf + (at - offset) : NULL, at, 0};

        ret = look(v, at, end, &stop, &zero, err);
        p.length = stop - at;
        if (ret == 0 && zero && buf)
            ret = put_differing(v, &p, NULL, err);
        else if (ret == 0 && !zero)
            ret = compare_stored(v, &p, room, err);
    }
    return ret;
}
