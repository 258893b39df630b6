/* SPDX-License-Identifier: MIT */
/* What the tests of objects share: a tier that holds what it is asked for until the test lets it go, or
 * answers at once, or from threads; an object over it; readers on threads of their own. */
#ifndef OBJECT_TOOLS_H
#define OBJECT_TOOLS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "mem_layers.h"
#include "net/credentials.h"
#include "remote/flight.h"
#include "util/alloc.h"
#include "util/bytes.h"

#define BLOCK 65536u
#define HEAD 16384u

/* ------------------------------------------------------------------- bytes --- */

static inline uint64_t word_at(uint64_t offset)
{
    uint64_t x = (offset / 8 + 1) * UINT64_C(0x9e3779b97f4a7c15);

    return (x ^ x >> 31) * UINT64_C(0x94d049bb133111eb);
}

static inline void make_bytes(void *buf, uint64_t offset, size_t length)
{
    unsigned char *p = buf;

    for (size_t i = 0, n; i < length; i += n) {
        uint64_t x = word_at(offset + i);

        n = qc_min64(8 - (offset + i) % 8, length - i);
        memcpy(p + i, (char *)&x + (offset + i) % 8, n);
    }
}

static inline bool right_bytes(const void *buf, uint64_t offset, size_t length)
{
    const unsigned char *p = buf;

    for (size_t i = 0, n; i < length; i += n) {
        uint64_t x = word_at(offset + i);

        n = qc_min64(8 - (offset + i) % 8, length - i);
        if (memcmp(p + i, (char *)&x + (offset + i) % 8, n) != 0)
            return false;
    }
    return true;
}

/* -------------------------------------------------------------------- tier --- */

enum held_mode { HOLD, AT_ONCE };

struct held {
    struct qc_fetch *f;
    uint64_t         offset;
    size_t           length, given;
    uint32_t         flags;
    char            *buf;
    bool             over;
};

#define MOST_HELD 65536

struct held_tier {
    struct qc_tier  base;
    pthread_mutex_t lock;
    pthread_cond_t  more;
    enum held_mode  mode;
    int             fails;     /* AT_ONCE: with this code */
    uint64_t        size;
    struct held    *held;      /* all that was ever asked for */
    unsigned        n, now, most_now;
    uint64_t        now_bytes, most_bytes; /* of data into blocks; see counts_bytes */
    bool            closed;
    /* Local answers, if the tier has any: [0, local_end). */
    uint64_t        local_end;
    uint64_t        stop_at;   /* the first call at this offset stops there, if it is not 0, */
    atomic_uint     stopped;
    atomic_bool     go;        /* until this */
    atomic_uint     locals;
    pthread_t       local_thread;
};

static inline struct held held_at(struct held_tier *t, unsigned i)
{
    struct held h;

    pthread_mutex_lock(&t->lock);
    assert_true(i < t->n);
    h = t->held[i];
    pthread_mutex_unlock(&t->lock);
    return h;
}

static inline unsigned held_count(struct held_tier *t)
{
    unsigned n;

    pthread_mutex_lock(&t->lock);
    n = t->n;
    pthread_mutex_unlock(&t->lock);
    return n;
}

/* More of fetch i arrives: bytes [0, have). */
static inline void held_give(struct held_tier *t, unsigned i, size_t have)
{
    struct held h = held_at(t, i);

    assert_false(h.over);
    make_bytes(h.buf + h.given, h.offset + h.given, have - h.given);
    pthread_mutex_lock(&t->lock);
    t->held[i].given = have;
    pthread_mutex_unlock(&t->lock);
    if (h.f->progress)
        h.f->progress(h.f, have);
}

static inline void held_end(struct held_tier *t, unsigned i, int ret)
{
    struct held h = held_at(t, i);

    assert_false(h.over);
    if (ret == 0)
        make_bytes(h.buf + h.given, h.offset + h.given, h.length - h.given);
    pthread_mutex_lock(&t->lock);
    t->held[i].over = true;
    t->now--;
    t->now_bytes -= h.length;
    pthread_mutex_unlock(&t->lock);
    if (ret != 0)
        qc_fail(&h.f->err, ret, "the tier says no");
    h.f->done(h.f, ret);
}

static inline void held_fetch(struct qc_tier *tier, struct qc_fetch *f)
{
    struct held_tier *t = (struct held_tier *)(void *)tier;
    unsigned i;
    bool at_once;
    int fails;

    /* What the seam promises to tiers. */
    if (f->offset % QC_GRAIN != 0 || f->length == 0 || f->length > t->size ||
        f->offset > t->size - f->length ||
        (f->length % QC_GRAIN != 0 && f->offset + f->length != t->size))
        abort();
    pthread_mutex_lock(&t->lock);
    if (t->n == MOST_HELD)
        abort();
    i = t->n++;
    t->held[i] = (struct held){.f = f, .offset = f->offset, .length = f->length, .flags = f->flags,
                               .buf = f->buf};
    t->now++;
    t->now_bytes += f->length;
    t->most_now = t->now > t->most_now ? t->now : t->most_now;
    t->most_bytes = qc_max64(t->most_bytes, t->now_bytes);
    at_once = t->mode == AT_ONCE;
    fails = t->fails;
    pthread_cond_broadcast(&t->more);
    pthread_mutex_unlock(&t->lock);
    if (at_once)
        held_end(t, i, fails);
}

static inline int held_local(struct qc_tier *tier, void *buf, uint64_t offset, size_t length)
{
    struct held_tier *t = (struct held_tier *)(void *)tier;

    pthread_mutex_lock(&t->lock);
    t->local_thread = pthread_self();
    pthread_mutex_unlock(&t->lock);
    atomic_fetch_add(&t->locals, 1);
    if (t->stop_at && offset == t->stop_at && atomic_fetch_add(&t->stopped, 1) == 0)
        while (!atomic_load(&t->go))
            usleep(100);
    if (offset + length > t->local_end)
        return QCHAIN_E_NOTFOUND;
    make_bytes(buf, offset, length);
    return 0;
}

static inline void held_close(struct qc_tier *tier)
{
    struct held_tier *t = (struct held_tier *)(void *)tier;

    pthread_mutex_lock(&t->lock);
    t->closed = true;
    pthread_mutex_unlock(&t->lock);
}

static inline bool held_closed(struct held_tier *t)
{
    bool closed;

    pthread_mutex_lock(&t->lock);
    closed = t->closed;
    pthread_mutex_unlock(&t->lock);
    return closed;
}

static const struct qc_tier_ops held_ops = {.name = "held", .fetch = held_fetch, .close = held_close};
static const struct qc_tier_ops held_local_ops = {.name = "held", .fetch = held_fetch,
                                                  .fetch_local = held_local, .close = held_close};

/* Wait until n fetches were begun. */
static inline void held_wait(struct held_tier *t, unsigned n)
{
    struct timespec until;
    int ret = 0;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 30;
    pthread_mutex_lock(&t->lock);
    while (t->n < n && ret == 0)
        ret = pthread_cond_timedwait(&t->more, &t->lock, &until);
    pthread_mutex_unlock(&t->lock);
    if (ret != 0)
        fail_msg("%u fetches were expected, there are %u", n, held_count(t));
}

/* --------------------------------------------------------------------- rig --- */

struct rig {
    struct qc_flights      fl;
    struct qc_block_cache *blocks;
    struct qc_slots       *slots;
    qchain_remote         *conf;
    struct qc_credentials *creds;
    struct qc_place       *place;
    struct held_tier       t;
    struct qc_object      *o;
    struct qc_store       *s;
    qchain_error           err;
};

static inline void rig_open(struct rig *r, const struct qc_tier_ops *ops, uint64_t size)
{
    struct qc_pin pin = {.size = size};

    r->t.base.ops = ops;
    r->t.size = size;
    r->t.closed = false;
    strcpy(pin.etag, "\"one\"");
    assert_int_equal(qc_object_create(&r->o, &r->fl, r->place, &pin, &r->t.base, 7,
                                      (uint32_t)qc_min64(HEAD, size), &r->err), 0);
    assert_int_equal(qc_object_store(r->o, r->slots, &r->s, &r->err), 0);
    assert_true(qc_store_is_far(r->s));
    assert_ptr_equal(qc_object_of(r->s), r->o);
}

static inline void rig_init_bare(struct rig *r, uint64_t budget, uint64_t room)
{
    memset(r, 0, sizeof(*r));
    qc_error_init(&r->err);
    assert_int_equal(qc_flights_init(&r->fl), 0);
    r->blocks = qc_block_cache_create(budget);
    r->slots = qc_slots_create();
    r->fl.blocks = r->blocks;
    r->fl.leaves = qc_tasks_create(2);
    r->fl.slots = r->slots;
    r->fl.block_bytes = BLOCK;
    r->fl.parallel = 8;
    r->fl.room = room;
    r->conf = qc_conf_new();
    r->creds = qc_credentials_create(r->conf, NULL);
    assert_int_equal(qc_place_create(&r->place, r->creds, "http://host/disk?token=hidden", &r->err), 0);
    pthread_mutex_init(&r->t.lock, NULL);
    pthread_cond_init(&r->t.more, NULL);
    r->t.held = calloc(MOST_HELD, sizeof(*r->t.held));
}

static inline void rig_init(struct rig *r, uint64_t size, uint64_t budget, uint64_t room)
{
    rig_init_bare(r, budget, room);
    rig_open(r, &held_ops, size);
}

static inline void rig_close(struct rig *r)
{
    qc_store_destroy(r->s);
    r->s = NULL;
    assert_true(qc_flights_wait(&r->fl, 20));
    assert_true(held_closed(&r->t));
    assert_int_equal(r->t.now, 0);
    assert_int_equal(r->fl.under_way, 0);
    assert_null(r->fl.waiting);
    assert_int_equal(qc_block_cache_bytes(r->blocks), 0);
}

static inline void rig_finish(struct rig *r)
{
    if (r->s)
        rig_close(r);
    qc_tasks_destroy(r->fl.leaves);
    qc_place_unref(r->place);
    qc_credentials_destroy(r->creds);
    qc_conf_free(r->conf);
    qc_flights_finish(&r->fl);
    qc_block_cache_destroy(r->blocks);
    qc_slots_destroy(r->slots);
    pthread_mutex_destroy(&r->t.lock);
    pthread_cond_destroy(&r->t.more);
    free(r->t.held);
}

static inline uint64_t counted(struct rig *r, enum qc_counter c)
{
    return qc_counter_sum(r->slots, c);
}

static inline void sleep_ms(unsigned ms)
{
    usleep(ms * 1000);
}

/* Wait for a counter. */
static inline void await_count(struct rig *r, enum qc_counter c, uint64_t n)
{
    for (int i = 0; i < 20000 && counted(r, c) < n; i++)
        sleep_ms(1);
    assert_int_equal(counted(r, c), n);
}

/* ----------------------------------------------------------------- readers --- */

/* A read on a thread of its own. */
struct reader {
    pthread_t        id;
    struct qc_store *s;
    char            *buf;
    uint64_t         offset;
    size_t           length;
    uint32_t         flags;
    int              ret;
    qchain_error     err;
    atomic_bool      done;
};

static inline void *reader_thread(void *arg)
{
    struct reader *x = arg;

    x->ret = qc_store_read(x->s, x->buf, x->length, x->offset, x->flags, &x->err);
    atomic_store(&x->done, true);
    return NULL;
}

static inline void reader_start(struct reader *x, struct rig *r, uint64_t offset, size_t length,
                                uint32_t flags)
{
    memset(x, 0, sizeof(*x));
    qc_error_init(&x->err);
    x->s = r->s;
    x->buf = malloc(length + 1);
    memset(x->buf, 0xa5, length + 1);
    x->offset = offset;
    x->length = length;
    x->flags = flags;
    assert_int_equal(pthread_create(&x->id, NULL, reader_thread, x), 0);
}

static inline bool reader_within(struct reader *x, unsigned ms)
{
    for (unsigned i = 0; i < ms && !atomic_load(&x->done); i++)
        sleep_ms(1);
    return atomic_load(&x->done);
}

/* It has ended, or will: with this code, and the right bytes if that is 0. */
static inline void reader_join(struct reader *x, int code)
{
    pthread_join(x->id, NULL);
    if (x->ret != code)
        fail_msg("%d instead of %d: %s", x->ret, code, x->err.text);
    assert_int_equal(x->err.code, code);
    if (code == 0)
        assert_true(right_bytes(x->buf, x->offset, x->length));
    else
        assert_true(x->err.text[0]);
    assert_int_equal((unsigned char)x->buf[x->length], 0xa5);
    free(x->buf);
}

/* Here and now. */
static inline int read_now(struct rig *r, uint64_t offset, size_t length, uint32_t flags)
{
    char *buf = malloc(length + 1);
    int ret;

    memset(buf, 0xa5, length + 1);
    qc_error_init(&r->err);
    ret = qc_store_read(r->s, buf, length, offset, flags, &r->err);
    assert_int_equal(ret, r->err.code);
    if (ret == 0)
        assert_true(right_bytes(buf, offset, length));
    assert_int_equal((unsigned char)buf[length], 0xa5);
    free(buf);
    return ret;
}

/* One that is submitted. */
struct sub {
    qchain_store_read r; /* first */
    qchain_error      err;
    char             *buf;
    atomic_int        times;
    int               ret;
};

static inline void sub_done(qchain_store_read *r, int result)
{
    struct sub *x = (struct sub *)(void *)r;

    x->ret = result;
    atomic_fetch_add(&x->times, 1);
}

static inline void sub_start(struct sub *x, struct rig *r, uint64_t offset, size_t length, uint32_t flags)
{
    memset(x, 0, sizeof(*x));
    qc_error_init(&x->err);
    x->buf = malloc(length + 1);
    memset(x->buf, 0xa5, length + 1);
    x->r = (qchain_store_read){.buf = x->buf, .length = length, .offset = offset, .flags = flags,
                               .err = &x->err, .done = sub_done};
    qc_store_submit(r->s, &x->r);
}

static inline bool sub_within(struct sub *x, unsigned ms)
{
    for (unsigned i = 0; i < ms && !atomic_load(&x->times); i++)
        sleep_ms(1);
    return atomic_load(&x->times) > 0;
}

static inline void sub_finish(struct sub *x, int code)
{
    assert_true(sub_within(x, 20000));
    assert_int_equal(atomic_load(&x->times), 1);
    if (x->ret != code)
        fail_msg("%d instead of %d: %s", x->ret, code, x->err.text);
    assert_int_equal(x->err.code, code);
    if (code == 0)
        assert_true(right_bytes(x->buf, x->r.offset, x->r.length));
    assert_int_equal((unsigned char)x->buf[x->r.length], 0xa5);
    free(x->buf);
}

#endif
