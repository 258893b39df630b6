/* SPDX-License-Identifier: MIT */
/*
 * The regional tier. The object of a range lies at PREFIX/IDENTITY/OFFSET-LENGTH and never changes, so it
 * is asked for by one plain GET; a 404 is a miss. Its bytes are told of only when all are there and
 * their checksum is right, so there is no progress from a region (blocks are small, and it is near).
 *
 * A fetch, in order:
 *   - the region is left alone: the tier below gets the asker's own fetch.
 *   - it is asked, into a buffer of the tier's own. A miss, or whatever is wrong: what is below is asked,
 *     into the asker's buffer, and its progress is passed on.
 *   - it is late: what is below is asked as well, into another buffer aside, as two must not write to
 *     one; what arrives is copied to the asker as it comes. Who is first whole has won. If it is the
 *     region, the rest from below arrives in vain and the fetch outlives its end; if it is not, the
 *     region's request is cancelled, and that it was late is a fault like others: else a region that is
 *     always slower would cost each read its patience.
 * What the region was asked for and lacks is stored when it has come from below.
 *
 * A fetch that outlives its end holds the tier, and that what is below; so closing never waits.
 */
#include "remote/regional_int.h"

#include <pthread.h>
#include <string.h>

#include "util/alloc.h"
#include "util/sha256.h"

#define MAX_RANGE ((size_t)64 << 20) /* larger ones are not looked for */

struct regional {
    struct qc_tier      tier;
    struct qc_region   *region;
    struct qc_region_id id;
    atomic_uint         refs; /* the asker's, and one a fetch */
};

/* One fetch. */
struct want {
    struct qc_http_request look;  /* at the region */
    struct qc_fetch        below;
    struct qc_alarm alarm;
    struct regional *t;
    struct qc_fetch *f;        /* the asker's: not looked at once it has ended */
    uint64_t         offset;   /* of it */
    size_t           length;
    struct qc_place *place;
    uint8_t         *body;     /* what the region answers */
    uint8_t         *aside;    /* what is below answers while the region may yet; NULL: to the asker */
    int64_t          begun_us;
    pthread_mutex_t  lock;     /* for all below, and the asker's buffer while two answers may come */
    unsigned         refs;
    size_t           told;     /* bytes copied from aside */
    bool             looking, asked, asking; /* asked: what is below; asking: it has not answered */
    bool             missing, damaged;       /* what the region said */
    bool             ended;    /* the asker's done is called, or about to be */
    int              below_ret;
};

static struct want *of_below(struct qc_fetch *below)
{
    return (struct want *)((char *)below - offsetof(struct want, below));
}

static struct want *of_alarm(struct qc_alarm *a)
{
    return (struct want *)((char *)a - offsetof(struct want, alarm));
}

/* ------------------------------------------------------------------- its life --- */

static void unref_tier(struct regional *t)
{
    if (atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) != 1)
        return;
    qc_tier_close(t->tier.below);
    qc_region_unref(t->region);
    qc_free(t);
}

static struct want *create_want(struct regional *t, struct qc_fetch *f)
{
    struct want *w = qc_calloc(1, sizeof(*w));

    if (!w)
        return NULL;
    w->body = qc_malloc(f->length + QC_REGION_TRAILER);
    if (!w->body || qc_region_place(&w->place, t->region, &t->id, f->offset, f->length, NULL) != 0) {
        qc_free(w->body);
        qc_free(w);
        return NULL;
    }
    pthread_mutex_init(&w->lock, NULL);
    w->t = t;
    w->f = f;
    w->offset = f->offset;
    w->length = f->length;
    w->refs = 1;
    atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
    return w;
}

/* Under the lock, which is released. */
static void release(struct want *w)
{
    bool last = --w->refs == 0;
    struct regional *t = w->t;

    pthread_mutex_unlock(&w->lock);
    if (!last)
        return;
    pthread_mutex_destroy(&w->lock);
    qc_place_unref(w->place);
    qc_free(w->body);
    qc_free(w->aside);
    qc_free(w);
    unref_tier(t);
}

/* ---------------------------------------------------------------- what is below --- */

/* Straight to the asker: nothing else writes to its buffer. */
static void pass_progress(struct qc_fetch *below, size_t have)
{
    struct qc_fetch *f = of_below(below)->f;

    f->progress(f, have);
}

/* Under the lock. */
static void copy_aside(struct want *w, size_t have)
{
    if (have > w->told) {
        memcpy((uint8_t *)w->f->buf + w->told, w->aside + w->told, have - w->told);
        w->told = have;
    }
}

static void copy_progress(struct qc_fetch *below, size_t have)
{
    struct want *w = of_below(below);

    pthread_mutex_lock(&w->lock);
    if (!w->ended) {
        copy_aside(w, have);
        w->f->progress(w->f, have);
    }
    pthread_mutex_unlock(&w->lock);
}

static void below_done(struct qc_fetch *below, int ret)
{
    struct want *w = of_below(below);
    struct qc_fetch *f = w->f;
    struct regional *t = w->t;
    bool mine, late = false, lacked;

    pthread_mutex_lock(&w->lock);
    w->asking = false;
    w->below_ret = ret;
    /* It failed, but the region may still answer: then that decides. */
    mine = !w->ended && (ret == 0 || !w->looking);
    lacked = !w->looking && (w->missing || w->damaged);
    if (mine) {
        w->ended = true;
        if (ret == 0 && w->aside)
            copy_aside(w, f->length);
        if (w->looking) {
            late = true;
            qc_http_cancel(qc_region_http(t->region), &w->look);
        }
    }
    pthread_mutex_unlock(&w->lock);
    if (mine) {
        if (late)
            qc_region_failed(t->region, "what it is nearer than answers sooner");
        if (ret == 0 && lacked)
            qc_region_store(t->region, &t->id, f->buf, f->offset, f->length, w->damaged);
        if (ret != 0)
            qc_error_copy(&f->err, &below->err);
        f->done(f, ret);
    }
    pthread_mutex_lock(&w->lock);
    release(w);
}

/* Under the lock: what is below is to be asked. */
static void prepare_below(struct want *w)
{
    struct qc_fetch *f = w->f;

    w->asked = w->asking = true;
    w->refs++;
    w->below.buf = w->aside ? w->aside : f->buf;
    w->below.offset = f->offset;
    w->below.length = f->length;
    w->below.flags = f->flags;
    w->below.progress = !f->progress ? NULL : w->aside ? copy_progress : pass_progress;
    w->below.done = below_done;
    qc_error_init(&w->below.err);
}

/* Not under it. The region may win meanwhile: the asker's fetch is not looked at. */
static void ask_below(struct want *w)
{
    qc_tier_fetch(w->t->tier.below, &w->below);
}

/* -------------------------------------------------------------- the region's answer --- */

/* The region is late. */
static void on_alarm(struct qc_alarm *a)
{
    struct want *w = of_alarm(a);
    bool ask;

    pthread_mutex_lock(&w->lock);
    ask = w->looking && !w->asked;
    if (ask && !(w->aside = qc_malloc(w->f->length)))
        ask = false; /* so it has until its deadline */
    if (ask)
        prepare_below(w);
    pthread_mutex_unlock(&w->lock);
    if (ask)
        ask_below(w);
    pthread_mutex_lock(&w->lock);
    release(w);
}

/* Is it the range, whole and undamaged? Tells the region's account how it went, unless it was given up. */
static bool judge(struct want *w, int ret, bool given_up)
{
    struct qc_http_request *q = &w->look;
    struct qc_region *r = w->t->region;

    if (given_up)
        return false;
    if (ret == 0) {
        w->damaged = q->have != q->length || q->got.size != q->length ||
                     !qc_region_is_sealed(w->body, w->length, w->offset, &w->t->id);
        if (w->damaged)
            qc_region_failed(r, "a range in it is damaged");
        else
            qc_region_answered(r, qc_region_now_us() - w->begun_us);
        return !w->damaged;
    }
    w->missing = ret == QCHAIN_E_NOTFOUND;
    if (w->missing)
        qc_region_answered(r, qc_region_now_us() - w->begun_us);
    else if (ret != QCHAIN_E_CANCELLED)
        qc_region_failed(r, q->err.text);
    return false;
}

/* It has the range: give it to the asker. The lock is held, and released. */
static void win(struct want *w)
{
    struct qc_fetch *f = w->f;
    struct qc_slots *slots = qc_region_slots(w->t->region);

    memcpy((uint8_t *)f->buf + w->told, w->body + w->told, f->length - w->told);
    w->ended = true;
    pthread_mutex_unlock(&w->lock);
    qc_count(slots, QC_CNT_REGION_HITS, 1);
    qc_count(slots, QC_CNT_REGION_BYTES, f->length);
    f->done(f, 0);
}

static void look_done(struct qc_http_request *q, int ret)
{
    struct want *w = (struct want *)q;
    struct qc_fetch *f = w->f;
    bool hit, given_up;

    pthread_mutex_lock(&w->lock);
    given_up = w->ended;
    pthread_mutex_unlock(&w->lock);
    hit = judge(w, ret, given_up);
    pthread_mutex_lock(&w->lock);
    w->looking = false;
    if (qc_alarm_stop(qc_region_alarms(w->t->region), &w->alarm))
        w->refs--;
    if (w->ended) {
        pthread_mutex_unlock(&w->lock);
    } else if (hit) {
        win(w);
    } else if (!w->asked) {
        prepare_below(w);
        pthread_mutex_unlock(&w->lock);
        qc_free(w->body);
        w->body = NULL;
        ask_below(w);
    } else if (!w->asking) { /* both failed */
        w->ended = true;
        pthread_mutex_unlock(&w->lock);
        qc_error_copy(&f->err, &w->below.err);
        f->done(f, w->below_ret);
    } else {
        pthread_mutex_unlock(&w->lock);
    }
    pthread_mutex_lock(&w->lock);
    release(w);
}

/* ---------------------------------------------------------------------- tier --- */

static void look(struct want *w)
{
    struct qc_http_request *q = &w->look;
    struct qc_region *r = w->t->region;
    int64_t patience = qc_region_patience_us(r);

    qc_error_init(&q->err);
    q->place = w->place;
    q->method = QC_HTTP_GET;
    q->flags = QC_HTTP_ONCE | QC_HTTP_MISSING_OK | QC_HTTP_NO_HEDGE;
    if (w->f->flags & QC_FETCH_META)
        q->flags |= QC_HTTP_META;
    q->length = w->f->length + QC_REGION_TRAILER;
    q->buf = w->body;
    q->deadline_ms = qc_region_limits(r)->look_ms;
    q->done = look_done;
    w->begun_us = qc_region_now_us();
    w->alarm.ring = on_alarm;
    w->looking = true;
    w->refs++; /* for this function */
    qc_http_submit(qc_region_http(r), q);
    /* Only now, as who is called by it may cancel the request. */
    pthread_mutex_lock(&w->lock);
    if (w->looking && qc_alarm_set(qc_region_alarms(r), &w->alarm, patience))
        w->refs++;
    release(w);
}

static void regional_fetch(struct qc_tier *tier, struct qc_fetch *f)
{
    struct regional *t = (struct regional *)tier;
    struct want *w = NULL;

    if (!(f->flags & QC_FETCH_FRESH) && f->length <= MAX_RANGE && qc_region_may_look(t->region))
        w = create_want(t, f);
    if (w)
        look(w);
    else
        qc_tier_fetch(t->tier.below, f);
}

static void regional_close(struct qc_tier *tier)
{
    unref_tier((struct regional *)tier);
}

static const struct qc_tier_ops regional_ops = {
    .name = "region",
    .fetch = regional_fetch,
    .close = regional_close,
};

static void add_text(struct qc_sha256 *h, const char *s)
{
    qc_sha256_update(h, s, strlen(s) + 1); /* with its end, so that no two texts run together */
}

static void add_number(struct qc_sha256 *h, uint64_t v)
{
    uint8_t bytes[8];

    for (int i = 0; i < 8; i++)
        bytes[i] = (uint8_t)(v >> (8 * i));
    qc_sha256_update(h, bytes, sizeof(bytes));
}

static void identify(struct qc_region_id *id, const char *key, const char *scope,
                     const struct qc_pin *pin)
{
    struct qc_sha256 h;

    qc_sha256_init(&h);
    add_text(&h, "qchain region 1");
    add_text(&h, key);
    add_text(&h, scope);
    add_number(&h, pin->size);
    add_number(&h, pin->mtime_s);
    add_text(&h, pin->etag);
    add_text(&h, pin->version);
    qc_sha256_finish(&h, id->digest);
}

int qc_regional_create(struct qc_tier **out, struct qc_region *r, const char *key, const char *scope,
                       const struct qc_pin *pin, struct qc_tier *below, qchain_error *err)
{
    struct regional *t;

    if (!qc_pin_is_set(pin)) {
        *out = below;
        return 0;
    }
    t = qc_calloc(1, sizeof(*t));
    if (!t) {
        qc_tier_close(below);
        return qc_fail_nomem(err);
    }
    t->tier.ops = &regional_ops;
    t->tier.below = below;
    identify(&t->id, key, scope, pin);
    atomic_init(&t->refs, 1);
    qc_region_ref(r);
    t->region = r;
    *out = &t->tier;
    return 0;
}
