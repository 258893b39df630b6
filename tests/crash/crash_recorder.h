/* SPDX-License-Identifier: MIT */
/*
 * A disk in memory that remembers what was written to it, in which order, and between which flushes; and
 * what a machine that stopped at some instant may have left of that.
 *
 * The model of the medium is the worst that is known: a write reaches it at any time after it was begun; only a
 * flush that has ended tells that all writes that had ended when it began are there; sectors of 512 bytes are
 * whole; of longer writes any sectors may be there. What lies past the end that was written is not there.
 */
#ifndef CRASH_RECORDER_H
#define CRASH_RECORDER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qchain-backend.h>

#define SECTOR 512u
#define DISK_MAX (UINT64_C(16) << 20)

enum rec_kind { REC_WRITE, REC_ZERO, REC_DISCARD, REC_RESIZE, REC_FLUSH };

struct rec_op {
    enum rec_kind  kind;
    uint64_t       offset, length;
    unsigned char *bytes; /* of a write */
    uint64_t       began, ended; /* on the recorder's clock; 0: not ended */
};

struct image {
    unsigned char *bytes; /* DISK_MAX of them */
    uint64_t       size;
};

struct recorder {
    pthread_mutex_t lock;
    struct image    live, start; /* now, and before the first operation */
    struct rec_op  *op;
    size_t          n, cap;
    uint64_t        clock;
    bool            recording;
    /* Faults to be injected: the k-th call fails (0: none), with this code; once, or from then on. */
    long            fail_at;
    int             fail_code;
    bool            fail_on;  /* and all after it */
    long            calls;
};

static inline void *need_memory(void *p)
{
    if (!p) {
        fprintf(stderr, "out of memory\n");
        abort();
    }
    return p;
}

static inline void image_init(struct image *m)
{
    m->bytes = need_memory(calloc(1, DISK_MAX));
    m->size = 0;
}

static inline void image_copy(struct image *to, const struct image *from)
{
    if (from->size < to->size)
        memset(to->bytes + from->size, 0, to->size - from->size);
    memcpy(to->bytes, from->bytes, from->size);
    to->size = from->size;
}

/* Sectors [first, last) of an operation, counted from its beginning. */
static inline void image_apply_part(struct image *m, const struct rec_op *o, uint64_t first, uint64_t last)
{
    uint64_t from = o->offset + first * SECTOR, to = o->offset + last * SECTOR;

    if (o->kind == REC_FLUSH)
        return;
    if (o->kind == REC_RESIZE) {
        if (o->length < m->size)
            memset(m->bytes + o->length, 0, m->size - o->length);
        m->size = o->length;
        return;
    }
    if (to > o->offset + o->length)
        to = o->offset + o->length;
    if (o->kind == REC_WRITE) {
        memcpy(m->bytes + from, o->bytes + (from - o->offset), to - from);
        if (to > m->size)
            m->size = to;
        return;
    }
    if (to > m->size)
        to = m->size;
    if (from < to) /* nobody may rely on what was given up */
        memset(m->bytes + from, o->kind == REC_ZERO ? 0 : 0xdb, to - from);
}

static inline uint64_t op_sectors(const struct rec_op *o)
{
    return o->kind == REC_RESIZE || o->kind == REC_FLUSH ? 1 : (o->length + SECTOR - 1) / SECTOR;
}

static inline void image_apply(struct image *m, const struct rec_op *o)
{
    image_apply_part(m, o, 0, op_sectors(o));
}

/* ------------------------------------------------------------ the recording store --- */

/* Begin an operation: its number, or -1 with err set if it is one that fails. */
static inline long rec_begin(struct recorder *r, enum rec_kind kind, const void *bytes, uint64_t length,
                             uint64_t offset, qchain_error *err, int *code)
{
    struct rec_op *o;
    long at = -1;

    pthread_mutex_lock(&r->lock);
    r->calls++;
    if (r->fail_at && (r->calls == r->fail_at || (r->fail_on && r->calls > r->fail_at))) {
        *code = qchain_backend_fail(err, r->fail_code, 0, "the fault that the test injected");
    } else if (offset > DISK_MAX || length > DISK_MAX - offset) {
        *code = qchain_backend_fail(err, QCHAIN_E_NOSPACE, 0, "the test's disk is full");
    } else {
        if (r->n == r->cap) {
            r->cap = r->cap ? 2 * r->cap : 256;
            r->op = need_memory(realloc(r->op, r->cap * sizeof(*r->op)));
        }
        at = (long)r->n++;
        o = &r->op[at];
        *o = (struct rec_op){.kind = kind, .offset = offset, .length = length, .began = ++r->clock};
        if (bytes) {
            o->bytes = need_memory(malloc(length));
            memcpy(o->bytes, bytes, length);
        }
        image_apply(&r->live, o);
    }
    pthread_mutex_unlock(&r->lock);
    return at;
}

static inline int rec_end(struct recorder *r, long at)
{
    pthread_mutex_lock(&r->lock);
    r->op[at].ended = ++r->clock;
    pthread_mutex_unlock(&r->lock);
    return 0;
}

static inline int rec_do(struct recorder *r, enum rec_kind kind, const void *bytes, uint64_t length,
                         uint64_t offset, qchain_error *err)
{
    int code = 0;
    long at = rec_begin(r, kind, bytes, length, offset, err, &code);

    return at < 0 ? code : rec_end(r, at);
}

static inline void rec_close(void *obj)
{
    (void)obj;
}

static inline int rec_size(void *obj, uint64_t *size, qchain_error *err)
{
    struct recorder *r = obj;

    (void)err;
    *size = r->live.size;
    return 0;
}

static inline int rec_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags, qchain_error *err)
{
    struct recorder *r = obj;
    int ret = 0;

    (void)flags;
    pthread_mutex_lock(&r->lock);
    r->calls++;
    if (r->fail_at && (r->calls == r->fail_at || (r->fail_on && r->calls > r->fail_at)))
        ret = qchain_backend_fail(err, QCHAIN_E_IO, 0, "the fault that the test injected");
    else if (offset + length > r->live.size)
        ret = qchain_backend_fail(err, QCHAIN_E_IO, 0, "a read past the end of the test's disk");
    else
        memcpy(buf, r->live.bytes + offset, length);
    pthread_mutex_unlock(&r->lock);
    return ret;
}

static inline int rec_pwrite(void *obj, const void *buf, size_t length, uint64_t offset, uint32_t flags,
                             qchain_error *err)
{
    (void)flags;
    return rec_do(obj, REC_WRITE, buf, length, offset, err);
}

static inline int rec_flush(void *obj, uint32_t flags, qchain_error *err)
{
    (void)flags;
    return rec_do(obj, REC_FLUSH, NULL, 0, 0, err);
}

static inline int rec_resize(void *obj, uint64_t size, uint32_t flags, qchain_error *err)
{
    (void)flags;
    return rec_do(obj, REC_RESIZE, NULL, size, 0, err);
}

static inline int rec_discard(void *obj, uint64_t length, uint64_t offset, uint32_t flags, qchain_error *err)
{
    (void)flags;
    return rec_do(obj, REC_DISCARD, NULL, length, offset, err);
}

static inline int rec_zero(void *obj, uint64_t length, uint64_t offset, uint32_t flags, qchain_error *err)
{
    (void)flags;
    return rec_do(obj, REC_ZERO, NULL, length, offset, err);
}

static const qchain_store_ops rec_ops = {
    .struct_size = sizeof(rec_ops),
    .version = QCHAIN_BACKEND_VERSION,
    .name = "recorder",
    .close = rec_close,
    .size = rec_size,
    .pread = rec_pread,
    .pwrite = rec_pwrite,
    .flush = rec_flush,
    .resize = rec_resize,
    .discard = rec_discard,
    .zero = rec_zero,
};

static inline qchain_store rec_store(struct recorder *r)
{
    return (qchain_store){.struct_size = sizeof(qchain_store), .ops = &rec_ops, .obj = r, .name = "disk"};
}

static inline void rec_init(struct recorder *r)
{
    memset(r, 0, sizeof(*r));
    pthread_mutex_init(&r->lock, NULL);
    image_init(&r->live);
    image_init(&r->start);
}

/* Begin anew with the bytes of an image. */
static inline void rec_load(struct recorder *r, const struct image *from)
{
    for (size_t i = 0; i < r->n; i++)
        free(r->op[i].bytes);
    r->n = 0;
    r->clock = 0;
    r->calls = r->fail_at = 0;
    image_copy(&r->live, from);
    image_copy(&r->start, from);
}

static inline void rec_finish(struct recorder *r)
{
    for (size_t i = 0; i < r->n; i++)
        free(r->op[i].bytes);
    free(r->op);
    free(r->live.bytes);
    free(r->start.bytes);
    pthread_mutex_destroy(&r->lock);
}

/* -------------------------------------------------------------- what a crash leaves --- */

/* The states of the disk between two flushes, told one by one. at: the clock at the crash. Stop with a value
 * other than 0, which comes back. */
typedef int (*state_fn)(void *data, const struct image *m, uint64_t at, const char *which);

struct states {
    struct recorder *r;
    struct image     base, now; /* what is certain; a state */
    size_t          *pending;   /* operations that may be there or not */
    size_t           n_pending, cap;
    uint64_t         seen[1 << 12]; /* hashes of states told lately */
    uint64_t         n_told, n_same;
    unsigned         most;      /* states an interval, about */
    uint64_t         seed;
    state_fn         fn;
    void            *data;
};

static inline uint64_t states_random(struct states *s)
{
    s->seed ^= s->seed << 13;
    s->seed ^= s->seed >> 7;
    s->seed ^= s->seed << 17;
    return s->seed;
}

static inline uint64_t image_hash(const struct image *m)
{
    uint64_t h = m->size, v;

    for (uint64_t i = 0; i + 8 <= m->size; i += 8) {
        memcpy(&v, m->bytes + i, 8);
        h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 29;
    }
    return h | 1;
}

static inline int states_tell(struct states *s, uint64_t at, const char *which)
{
    uint64_t h = image_hash(&s->now), *slot = &s->seen[h >> 52];

    if (*slot == (h ^ at)) {
        s->n_same++;
        return 0;
    }
    *slot = h ^ at;
    s->n_told++;
    return s->fn(s->data, &s->now, at, which);
}

/* The state that has those pending operations whose bit is set. */
static inline int states_subset(struct states *s, const uint8_t *has, uint64_t at, const char *which)
{
    image_copy(&s->now, &s->base);
    for (size_t i = 0; i < s->n_pending; i++)
        if (has[i])
            image_apply(&s->now, &s->r->op[s->pending[i]]);
    return states_tell(s, at, which);
}

/* All before number i, and some sectors of that one. */
static inline int states_torn(struct states *s, size_t i, uint64_t at)
{
    const struct rec_op *o = &s->r->op[s->pending[i]];
    uint64_t n = op_sectors(o);
    int ret = 0;

    if (o->kind != REC_WRITE && o->kind != REC_ZERO)
        return 0;
    for (int k = 0; ret == 0 && n > 1 && k < 4; k++) {
        uint64_t a = k < 2 ? 0 : states_random(s) % n, b = k == 1 ? 1 : a + 1 + states_random(s) % (n - a);

        image_copy(&s->now, &s->base);
        for (size_t j = 0; j < i; j++)
            image_apply(&s->now, &s->r->op[s->pending[j]]);
        image_apply_part(&s->now, o, a, b);
        ret = states_tell(s, at, "torn");
    }
    return ret;
}

/* Everything that may be on the medium if the machine stops at `at`. */
static inline int states_of_interval(struct states *s, uint64_t at)
{
    size_t n = s->n_pending;
    uint8_t *has = need_memory(calloc(n + 1, 1));
    int ret = 0;

    if (n <= 8 && (1u << n) <= s->most) {
        for (unsigned m = 0; ret == 0 && m < 1u << n; m++) {
            for (size_t i = 0; i < n; i++)
                has[i] = m >> i & 1;
            ret = states_subset(s, has, at, "subset");
        }
    } else {
        for (size_t i = 0; ret == 0 && i <= n; i++) { /* prefixes */
            memset(has, 0, n);
            memset(has, 1, i);
            ret = states_subset(s, has, at, "prefix");
        }
        for (size_t i = 0; ret == 0 && i < n; i++) { /* all but one, one alone */
            memset(has, 1, n);
            has[i] = 0;
            ret = states_subset(s, has, at, "all but one");
            memset(has, 0, n);
            has[i] = 1;
            ret = ret ? ret : states_subset(s, has, at, "one alone");
        }
        for (size_t k = 3 * n; ret == 0 && k < s->most; k++) {
            for (size_t i = 0; i < n; i++)
                has[i] = states_random(s) & 1;
            ret = states_subset(s, has, at, "random subset");
        }
    }
    for (size_t i = 0; ret == 0 && i < n; i++)
        ret = states_torn(s, i, at);
    free(has);
    return ret;
}

/* Walk the log: at each flush's end, and at the log's, tell what a crash just before may leave. */
static inline int states_walk(struct states *s)
{
    struct recorder *r = s->r;
    size_t *keep;
    int ret = 0;

    image_init(&s->base);
    image_init(&s->now);
    image_copy(&s->base, &r->start);
    for (size_t i = 0; ret == 0 && i < r->n; i++) {
        const struct rec_op *o = &r->op[i];

        if (s->n_pending == s->cap) {
            s->cap = s->cap ? 2 * s->cap : 64;
            s->pending = need_memory(realloc(s->pending, s->cap * sizeof(*s->pending)));
        }
        if (o->kind != REC_FLUSH) {
            s->pending[s->n_pending++] = i;
            continue;
        }
        ret = states_of_interval(s, o->ended ? o->ended - 1 : r->clock);
        if (!o->ended)
            continue;
        keep = s->pending;
        for (size_t j = 0; j < s->n_pending; j++) { /* what had ended when it began is there */
            const struct rec_op *p = &r->op[s->pending[j]];

            if (p->ended && p->ended < o->began)
                image_apply(&s->base, p);
            else
                *keep++ = s->pending[j];
        }
        s->n_pending = (size_t)(keep - s->pending);
    }
    if (ret == 0)
        ret = states_of_interval(s, r->clock + 1);
    free(s->pending);
    free(s->base.bytes);
    free(s->now.bytes);
    return ret;
}

#endif
