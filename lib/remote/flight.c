/* SPDX-License-Identifier: MIT */
#include "remote/flight.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#include "util/alloc.h"
#include "util/bytes.h"
#include "util/clock.h"

struct qc_flight {
    struct qc_fetch    fetch;  /* first */
    struct qc_object  *o;      /* counted */
    struct qc_flight  *next, **link; /* of the object's */
    struct qc_flight  *next_waiting; /* for room */
    struct qc_flight  *behind;       /* those that begin when this has ended, by next_behind; under the */
    struct qc_flight  *next_behind;  /* object's lock */
    struct qc_block   *block;  /* pinned; NULL: into a reader's memory, or not begun */
    uint64_t           key;    /* of the block */
    size_t             have;   /* under the object's lock */
    struct qc_part    *part;   /* who waits, under the object's lock */
    bool               direct;
    bool               counts; /* takes room */
    bool               keep;   /* the block is for the cache */
    bool               wanted; /* data, by readers; counted among these */
    uint64_t           begun_ns; /* of such ones; 0: its first bytes are there. Under the object's lock */
};

/* ------------------------------------------------------------------ readings --- */

void qc_reading_init(struct qc_reading *rd, qchain_error *err)
{
    rd->n = 0;
    rd->left = 1;
    rd->result = 0;
    rd->err = err;
    rd->over = NULL;
    pthread_mutex_init(&rd->lock, NULL);
    pthread_cond_init(&rd->ended, NULL);
}

void qc_reading_finish(struct qc_reading *rd)
{
    pthread_mutex_destroy(&rd->lock);
    pthread_cond_destroy(&rd->ended);
}

/* A part has ended. A reading that somebody waits for is gone once it is unlocked. */
static void part_over(struct qc_reading *rd, int ret, const qchain_error *err)
{
    void (*over)(struct qc_reading *, int) = NULL;

    pthread_mutex_lock(&rd->lock);
    if (ret != 0 && rd->result == 0) {
        rd->result = ret;
        qc_error_copy(rd->err, err);
    }
    if (--rd->left == 0) {
        over = rd->over;
        ret = rd->result;
        if (!over)
            pthread_cond_signal(&rd->ended);
    }
    pthread_mutex_unlock(&rd->lock);
    if (over)
        over(rd, ret);
}

int qc_reading_wait(struct qc_reading *rd)
{
    int ret;

    pthread_mutex_lock(&rd->lock);
    rd->left--;
    while (rd->left > 0)
        pthread_cond_wait(&rd->ended, &rd->lock);
    ret = rd->result;
    pthread_mutex_unlock(&rd->lock);
    qc_reading_finish(rd);
    return ret;
}

void qc_reading_begun(struct qc_reading *rd)
{
    part_over(rd, 0, NULL);
}

static struct qc_part *add_part(struct qc_reading *rd, char *dest, uint64_t offset, size_t length)
{
    struct qc_part *p = &rd->part[rd->n++];

    *p = (struct qc_part){.rd = rd, .dest = dest, .offset = offset, .length = length};
    pthread_mutex_lock(&rd->lock);
    rd->left++;
    pthread_mutex_unlock(&rd->lock);
    return p;
}

/* ---------------------------------------------------------------- being told --- */

static uint64_t flight_end(const struct qc_flight *f)
{
    return f->fetch.offset + f->fetch.length;
}

static const char *bytes_of(const struct qc_flight *f, uint64_t offset)
{
    return (const char *)f->fetch.buf + (offset - f->fetch.offset);
}

static void copy_part(const struct qc_flight *f, const struct qc_part *p)
{
    if (p->dest)
        memcpy(p->dest, bytes_of(f, p->offset), p->length);
}

static void parts_over(struct qc_part *p, int ret, const qchain_error *err)
{
    struct qc_part *next;

    for (; p; p = next) {
        next = p->next;
        part_over(p->rd, ret, err);
    }
}

static int fail_given_up(qchain_error *err)
{
    return qc_fail(err, QCHAIN_E_CANCELLED, "the chain is closed");
}

/* Those whose own memory a flight writes to stay: they have it back when it has landed. */
void qc_object_give_up(struct qc_object *o)
{
    struct qc_part *ended = NULL, **at, *p;
    qchain_error err;

    qc_error_init(&err);
    pthread_mutex_lock(&o->lock);
    o->given_up = true;
    for (struct qc_flight *f = o->flight; f; f = f->next)
        for (at = &f->part; (p = *at);) {
            if (!p->dest) {
                at = &p->next;
                continue;
            }
            *at = p->next;
            p->next = ended;
            ended = p;
        }
    pthread_mutex_unlock(&o->lock);
    parts_over(ended, fail_given_up(&err), &err);
}

/* The first bytes that a reader waits for have come from afar. */
static void note_delay(struct qc_flight *f, uint64_t begun_ns)
{
    uint64_t now = qc_now_ns();

    if (begun_ns > 0 && !f->fetch.local)
        qc_delay_note(&f->o->shared->delay, now, now - begun_ns);
}

void qc_flight_progress(struct qc_flight *f, size_t have)
{
    struct qc_part *ready = NULL, **at, *p;
    uint64_t begun_ns;

    pthread_mutex_lock(&f->o->lock);
    f->have = have;
    begun_ns = have > 0 ? f->begun_ns : 0;
    f->begun_ns -= begun_ns;
    for (at = &f->part; (p = *at);) {
        /* A reader whose own memory it is waits for the end: until then it is the tiers'. */
        if (!p->dest || p->offset + p->length - f->fetch.offset > have) {
            at = &p->next;
            continue;
        }
        copy_part(f, p);
        *at = p->next;
        p->next = ready;
        ready = p;
    }
    pthread_mutex_unlock(&f->o->lock);
    note_delay(f, begun_ns);
    parts_over(ready, 0, NULL);
}

/* A reader wants data of a far object now, or did until now. */
static void note_wanted(struct qc_flights *s)
{
    atomic_store_explicit(&s->wanted_ns, qc_now_ns(), memory_order_relaxed);
}

static void make_room(struct qc_flights *s, uint64_t bytes);
static void start_behind(struct qc_flight *f);

void qc_flight_over(struct qc_flight *f, int ret, const qchain_error *err)
{
    struct qc_object *o = f->o;
    struct qc_flights *s = o->shared;
    uint64_t room = f->counts ? f->fetch.length : 0;
    struct qc_flight *behind, *next;
    struct qc_part *p;

    if (f->wanted) {
        note_wanted(s);
        atomic_fetch_sub(&s->n_wanted, 1);
    }
    /* Before it counts as cached, or there would seem to be too much, and it would go at once. */
    if (room > 0)
        qc_block_cache_release(s->blocks, room);
    /* Into the cache before it is off the list: who looks at the list first finds it in either. */
    if (ret == 0 && f->block && f->keep)
        qc_block_insert(s->blocks, f->block, o->owner, f->key);
    pthread_mutex_lock(&o->lock);
    *f->link = f->next;
    if (f->next)
        f->next->link = f->link;
    p = f->part;
    behind = f->behind;
    pthread_mutex_unlock(&o->lock);
    if (ret == QCHAIN_E_CHANGED)
        atomic_store(&o->changed, true);
    for (struct qc_part *each = p; ret == 0 && each; each = each->next)
        copy_part(f, each);
    parts_over(p, ret, err);
    qc_block_unpin(s->blocks, f->block);
    for (; behind; behind = next) {
        next = behind->next_behind;
        start_behind(behind);
    }
    if (room > 0)
        make_room(s, room);
    qc_free(f);
    qc_object_drop(o);
    qc_flights_leave(s); /* the last: nothing of the environment is touched after it */
}

static void fetch_progress(struct qc_fetch *fetch, size_t have)
{
    qc_flight_progress((struct qc_flight *)(void *)fetch, have);
}

static void fetch_done(struct qc_fetch *fetch, int ret)
{
    qc_flight_over((struct qc_flight *)(void *)fetch, ret, &fetch->err);
}

/* ---------------------------------------------------------------------- room --- */

static void launch(struct qc_flight *f)
{
    if (!f->direct) {
        f->block = qc_block_new(f->fetch.length);
        if (!f->block) {
            qc_flight_over(f, qc_fail_nomem(&f->fetch.err), &f->fetch.err);
            return;
        }
        f->fetch.buf = f->block->data;
    }
    qc_tier_fetch(f->o->tier, &f->fetch);
}

/* The next flight that there is room for. One is let off, however large, if nothing is under way. */
static struct qc_flight *take_waiting(struct qc_flights *s)
{
    struct qc_flight *f = s->waiting;

    if (!f || (s->under_way > 0 && s->under_way + f->fetch.length > s->room))
        return NULL;
    s->waiting = f->next_waiting;
    if (!s->waiting)
        s->waiting_end = &s->waiting;
    s->under_way += f->fetch.length;
    return f;
}

/* Let off what waits, one after the other and never within another: what ends at once would make room
 * for the next, and so on. */
static void let_off(struct qc_flights *s)
{
    struct qc_flight *f;

    pthread_mutex_lock(&s->lock);
    if (s->letting_off) {
        pthread_mutex_unlock(&s->lock);
        return;
    }
    s->letting_off = true;
    while ((f = take_waiting(s))) {
        pthread_mutex_unlock(&s->lock);
        qc_block_cache_reserve(s->blocks, f->fetch.length);
        launch(f);
        pthread_mutex_lock(&s->lock);
    }
    s->letting_off = false;
    pthread_mutex_unlock(&s->lock);
}

static void make_room(struct qc_flights *s, uint64_t bytes)
{
    pthread_mutex_lock(&s->lock);
    s->under_way -= bytes;
    pthread_mutex_unlock(&s->lock);
    let_off(s);
}

static void start(struct qc_flight *f)
{
    struct qc_flights *s = f->o->shared;

    if (!f->counts) {
        launch(f);
        return;
    }
    pthread_mutex_lock(&s->lock);
    *s->waiting_end = f;
    s->waiting_end = &f->next_waiting;
    pthread_mutex_unlock(&s->lock);
    let_off(s);
}

void qc_flights_enter(struct qc_flights *s)
{
    pthread_mutex_lock(&s->lock);
    s->n++;
    pthread_mutex_unlock(&s->lock);
}

void qc_flights_leave(struct qc_flights *s)
{
    pthread_mutex_lock(&s->lock);
    if (--s->n == 0)
        pthread_cond_broadcast(&s->fewer);
    pthread_mutex_unlock(&s->lock);
}

bool qc_flights_wait(struct qc_flights *s, unsigned seconds)
{
    struct timespec until;
    bool none;
    int ret = 0;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += (time_t)seconds;
    pthread_mutex_lock(&s->lock);
    while (s->n > 0 && ret != ETIMEDOUT)
        ret = pthread_cond_timedwait(&s->fewer, &s->lock, &until);
    none = s->n == 0;
    pthread_mutex_unlock(&s->lock);
    return none;
}

int qc_flights_init(struct qc_flights *s)
{
    pthread_condattr_t attr;

    s->waiting_end = &s->waiting;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&s->fewer, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&s->delay.lock, NULL);
    return pthread_mutex_init(&s->lock, NULL) == 0 ? 0 : QCHAIN_E_NOMEM;
}

void qc_flights_finish(struct qc_flights *s)
{
    pthread_cond_destroy(&s->fewer);
    pthread_mutex_destroy(&s->delay.lock);
    pthread_mutex_destroy(&s->lock);
}

/* ----------------------------------------------------------------- beginning --- */

/* Under the object's lock. */
static bool join(struct qc_object *o, struct qc_reading *rd, char *dest, uint64_t offset,
                 size_t length)
{
    struct qc_flight *f = o->flight;
    struct qc_part *p;

    while (f && (offset < f->fetch.offset || offset + length > flight_end(f)))
        f = f->next;
    if (!f || o->given_up)
        return false;
    if (!rd)
        return true;
    if (offset + length - f->fetch.offset <= f->have) {
        memcpy(dest, bytes_of(f, offset), length);
    } else {
        p = add_part(rd, dest, offset, length);
        p->next = f->part;
        f->part = p;
    }
    qc_count(o->shared->slots, QC_CNT_JOINED, 1);
    return true;
}

bool qc_flight_join(struct qc_object *o, struct qc_reading *rd, char *dest, uint64_t offset,
                    size_t length)
{
    bool joined;

    pthread_mutex_lock(&o->lock);
    joined = join(o, rd, dest, offset, length);
    pthread_mutex_unlock(&o->lock);
    if (joined)
        note_wanted(o->shared);
    return joined;
}

static struct qc_flight *new_flight(struct qc_object *o, uint64_t start_at, size_t length)
{
    struct qc_flight *f = qc_calloc(1, sizeof(*f));

    if (!f)
        return NULL;
    qc_error_init(&f->fetch.err);
    f->fetch.offset = start_at;
    f->fetch.length = length;
    f->fetch.progress = fetch_progress;
    f->fetch.done = fetch_done;
    f->o = o;
    atomic_fetch_add(&o->users, 1);
    qc_flights_enter(o->shared);
    return f;
}

/* Under the object's lock. */
static void link_flight(struct qc_flight *f)
{
    struct qc_object *o = f->o;

    f->next = o->flight;
    f->link = &o->flight;
    if (f->next)
        f->next->link = &f->next;
    o->flight = f;
    if (f->wanted) {
        atomic_fetch_add(&o->shared->n_wanted, 1);
        f->begun_ns = qc_now_ns();
    }
}

/* Somebody brought it while we looked elsewhere. Under the object's lock. */
static bool landed_meanwhile(struct qc_object *o, char *dest, uint64_t offset, size_t length,
                             uint64_t key, uint64_t first)
{
    struct qc_block *b = qc_block_find(o->shared->blocks, o->owner, key);
    bool hit = b && (!dest || offset - first + length <= b->size);

    if (hit && dest)
        memcpy(dest, b->data + (offset - first), length);
    qc_block_unpin(o->shared->blocks, b);
    return hit;
}

static void fail_reading(struct qc_reading *rd, int (*fail)(qchain_error *err))
{
    qchain_error err;

    if (!rd)
        return;
    qc_error_init(&err);
    pthread_mutex_lock(&rd->lock);
    rd->left++;
    pthread_mutex_unlock(&rd->lock);
    part_over(rd, fail(&err), &err);
}

/* One that is not needed: it was never linked. */
static void drop_flight(struct qc_flight *f)
{
    struct qc_object *o = f->o;
    struct qc_flights *s = o->shared;

    qc_free(f);
    qc_object_drop(o);
    qc_flights_leave(s);
}

void qc_flight_want(struct qc_object *o, struct qc_reading *rd, char *dest, uint64_t offset,
                    size_t length, uint64_t first, uint64_t end, bool meta)
{
    struct qc_flight *f = new_flight(o, first, (size_t)(end - first));
    bool head = meta && first == 0 && end == o->head, there, given_up;
    struct qc_part *p;

    if (!f) {
        fail_reading(rd, qc_fail_nomem);
        return;
    }
    f->counts = f->wanted = !meta;
    f->key = head ? QC_KEY_HEAD : meta ? qc_key_meta(first) : qc_key_data(first);
    f->keep = !meta || head || atomic_load_explicit(&o->keep, memory_order_relaxed);
    f->fetch.flags = meta ? QC_FETCH_META : 0;
    pthread_mutex_lock(&o->lock);
    given_up = o->given_up;
    there = given_up || join(o, rd, dest, rd ? offset : first, rd ? length : f->fetch.length) ||
            (f->keep && landed_meanwhile(o, dest, offset, length, f->key, first)) ||
            (rd && offset + length <= o->head && landed_meanwhile(o, dest, offset, length, QC_KEY_HEAD, 0));
    if (!there) {
        if (rd) {
            p = add_part(rd, dest, offset, length);
            f->part = p;
        }
        link_flight(f);
    }
    pthread_mutex_unlock(&o->lock);
    if (given_up)
        fail_reading(rd, fail_given_up);
    if (there)
        drop_flight(f);
    else
        start(f);
}

/* One that was begun earlier, and brings some of the same bytes. Under the object's lock. */
static struct qc_flight *earlier_of(const struct qc_flight *f)
{
    struct qc_flight *e = f->next;

    while (e && (e->fetch.offset >= flight_end(f) || flight_end(e) <= f->fetch.offset))
        e = e->next;
    return e;
}

/* What is brought anew is stored by the tiers after all that they were given before, or the wrong bytes
 * would be the ones that stay. */
static void start_behind(struct qc_flight *f)
{
    struct qc_object *o = f->o;
    struct qc_flight *e;

    pthread_mutex_lock(&o->lock);
    e = earlier_of(f);
    if (e) {
        f->next_behind = e->behind;
        e->behind = f;
    }
    pthread_mutex_unlock(&o->lock);
    if (!e)
        start(f);
}

void qc_flight_fresh(struct qc_object *o, struct qc_reading *rd, char *dest, uint64_t offset,
                     size_t length)
{
    uint64_t first = qc_align_down(offset, QC_GRAIN);
    uint64_t end = qc_min64(qc_align_up(offset + length, QC_GRAIN), o->pin.size);
    struct qc_flight *f = new_flight(o, first, (size_t)(end - first));

    if (!f) {
        fail_reading(rd, qc_fail_nomem);
        return;
    }
    f->fetch.flags = QC_FETCH_META | QC_FETCH_FRESH;
    pthread_mutex_lock(&o->lock);
    f->part = add_part(rd, dest, offset, length);
    link_flight(f);
    pthread_mutex_unlock(&o->lock);
    start_behind(f);
}

static void fly_direct(struct qc_object *o, struct qc_reading *rd, char *dest, uint64_t offset,
                       size_t length, bool wanted)
{
    struct qc_flight *f = new_flight(o, offset, length);
    bool there;

    if (!f) {
        fail_reading(rd, qc_fail_nomem);
        return;
    }
    f->direct = true;
    f->wanted = wanted;
    f->fetch.buf = dest;
    pthread_mutex_lock(&o->lock);
    there = join(o, rd, dest, offset, length); /* begun while we looked elsewhere */
    if (!there) {
        f->part = add_part(rd, NULL, offset, length);
        link_flight(f);
    }
    pthread_mutex_unlock(&o->lock);
    if (there)
        drop_flight(f);
    else
        start(f);
}

void qc_flight_direct(struct qc_object *o, struct qc_reading *rd, char *dest, uint64_t offset,
                      size_t length)
{
    fly_direct(o, rd, dest, offset, length, true);
}

void qc_flight_bring(struct qc_object *o, struct qc_reading *rd, char *dest, uint64_t offset,
                     size_t length)
{
    fly_direct(o, rd, dest, offset, length, false);
}

struct qc_flight *qc_flight_begin(struct qc_object *o, struct qc_block *block, size_t length)
{
    struct qc_flight *f = new_flight(o, 0, length);

    if (!f)
        return NULL;
    f->block = block;
    f->fetch.buf = block->data;
    f->keep = true;
    f->key = QC_KEY_HEAD;
    pthread_mutex_lock(&o->lock);
    link_flight(f);
    pthread_mutex_unlock(&o->lock);
    return f;
}
