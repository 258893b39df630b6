/* SPDX-License-Identifier: MIT */
/*
 * An HTTP engine without a network, for tests of tiers: it defines what net/http.h and the parts of
 * net/place.h that tiers use declare, so that the library's own are not linked. Servers are rules by
 * the beginning of a URL; each has a pattern as its object, or keeps what is PUT. Answers come from
 * threads, when they are due.
 */
#ifndef FAKE_HTTP_H
#define FAKE_HTTP_H

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
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

#include "net/http.h"
#include "remote/tier.h"
#include "util/alloc.h"
#include "util/log.h"
#include "util/slots.h"

/* ------------------------------------------------------------------ tools --- */

static inline uint8_t pattern_at(uint64_t offset)
{
    uint64_t x = (offset / 8 + 1) * 0x9e3779b97f4a7c15u;

    return (uint8_t)(x >> (8 * (offset % 8)));
}

static inline void fill_pattern(uint8_t *p, size_t length, uint64_t offset)
{
    for (size_t i = 0; i < length; i++)
        p[i] = pattern_at(offset + i);
}

static inline bool is_pattern(const uint8_t *p, size_t length, uint64_t offset)
{
    for (size_t i = 0; i < length; i++)
        if (p[i] != pattern_at(offset + i))
            return false;
    return true;
}

static inline int64_t ms_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000) + t.tv_nsec / 1000000;
}

static inline void nap_ms(unsigned ms)
{
    struct timespec t = {ms / 1000, (long)(ms % 1000) * 1000000};

    nanosleep(&t, NULL);
}

static inline uint32_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return (uint32_t)(*state >> 16);
}

/* QC_SEED, or another each time; printed. */
static inline uint64_t test_seed(void)
{
    const char *given = getenv("QC_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)time(NULL) * 1000003 + (uint64_t)getpid();

    print_message("QC_SEED=%" PRIu64 "\n", seed);
    return seed | 1;
}

/* ----------------------------------------------------------------- places --- */

struct qc_place {
    atomic_uint refs;
    char       *name, *key;
};

static atomic_int fake_places; /* that live */

int qc_place_create(struct qc_place **out, struct qc_credentials *creds, const char *name,
                    qchain_error *err)
{
    struct qc_place *p;
    (void)creds;
    if (!strstr(name, "://"))
        return qc_fail(err, QCHAIN_E_UNSUPPORTED, "no scheme");
    p = qc_calloc(1, sizeof(*p));
    atomic_init(&p->refs, 1);
    p->name = qc_strdup(name);
    p->key = qc_strdup(name); /* as real ones are, of names that are written as URLs are */
    atomic_fetch_add(&fake_places, 1);
    *out = p;
    return 0;
}

struct qc_place *qc_place_ref(struct qc_place *p)
{
    atomic_fetch_add(&p->refs, 1);
    return p;
}

void qc_place_unref(struct qc_place *p)
{
    if (!p || atomic_fetch_sub(&p->refs, 1) != 1)
        return;
    qc_free(p->name);
    qc_free(p->key);
    qc_free(p);
    atomic_fetch_sub(&fake_places, 1);
}

const char *qc_place_shown(const struct qc_place *p)
{
    return p->name;
}

const char *qc_place_key(const struct qc_place *p)
{
    return p->key;
}

static inline struct qc_place *new_place(const char *name)
{
    struct qc_place *p;

    assert_int_equal(qc_place_create(&p, NULL, name, NULL), 0);
    return p;
}

/* ----------------------------------------------------------------- engine --- */

#define FAKE_THREADS 4
#define FAKE_RULES 8

/* How a server behaves, and what it saw. Under the engine's lock: see WITH. */
struct fake_rule {
    const char *prefix;
    bool        keeps;        /* what is PUT; else it has a pattern of size bytes */
    uint64_t    size;
    const char *etag;
    int         code;         /* fails with this, where it is not 0, ... */
    int         status;       /* ... and this status */
    unsigned    only_next;    /* ... the next so many requests, then no more; 0: all */
    unsigned    fail_permille; /* ... or by chance, then with a code of its own choice */
    bool        only_puts;    /* ... only these; delay_ms as well */
    size_t      cut;          /* bytes that come before the failure */
    unsigned    delay_ms, jitter_ms; /* see also let_go */
    unsigned    damage_permille;
    bool        at_once;      /* answers within submit */
    bool        no_condition; /* 501 for a conditional PUT */
    unsigned    gets, puts, cancelled, now, most; /* now, most: PUTs at once */
    /* The last request: */
    uint32_t    flags, deadline_ms;
    uint64_t    offset;
    size_t      length;
    bool        had_pin, had_progress;
    struct qc_pin pin;
};

struct fake_object {
    struct fake_object *next;
    char    *name;
    uint8_t *body;
    size_t   length;
};

struct qc_http_private {
    struct qc_http_private *next;
    struct qc_http_request *r;
    struct fake_rule *rule;
    int64_t due;
    bool    cancelled;
    /* Decided when it was submitted. */
    int     code;
    uint32_t dice;
};

struct qc_http {
    pthread_mutex_t lock;
    pthread_cond_t  work;
    pthread_t       thread[FAKE_THREADS];
    bool            stop;
    struct qc_http_private *queue;
    struct fake_rule   rule[FAKE_RULES];
    struct fake_object *objects;
    unsigned        live;
    uint64_t        random;
};

#define WITH(h, what)                                                                              \
    do {                                                                                           \
        pthread_mutex_lock(&(h)->lock);                                                            \
        what;                                                                                      \
        pthread_mutex_unlock(&(h)->lock);                                                          \
    } while (0)

/* A number of a rule's, read under the lock. */
#define SEEN(h, rule_, field)                                                                      \
    ({                                                                                             \
        pthread_mutex_lock(&(h)->lock);                                                            \
        __typeof__((rule_)->field) seen_ = (rule_)->field;                                         \
        pthread_mutex_unlock(&(h)->lock);                                                          \
        seen_;                                                                                     \
    })

static inline struct fake_object *fake_find(struct qc_http *h, const char *name)
{
    struct fake_object *o = h->objects;

    while (o && strcmp(o->name, name) != 0)
        o = o->next;
    return o;
}

static inline void fake_keep(struct qc_http *h, const char *name, const void *body, size_t length)
{
    struct fake_object *o = fake_find(h, name);

    if (!o) {
        o = calloc(1, sizeof(*o));
        o->name = malloc(strlen(name) + 1);
        strcpy(o->name, name);
        o->next = h->objects;
        h->objects = o;
    }
    free(o->body);
    o->body = malloc(length + 1);
    o->length = length;
    memcpy(o->body, body, length);
}

static inline void fake_forget(struct qc_http *h)
{
    struct fake_object *next;

    for (struct fake_object *o = h->objects; o; o = next) {
        next = o->next;
        free(o->body);
        free(o->name);
        free(o);
    }
    h->objects = NULL;
}

static inline void fake_get_kept(struct qc_http *h, struct qc_http_private *e)
{
    struct qc_http_request *r = e->r;
    struct fake_object *o = fake_find(h, r->place->name);

    if (!o) {
        r->status = 404;
        qc_fail(&r->err, QCHAIN_E_NOTFOUND, "%s: 404", r->place->name);
        return;
    }
    assert_true(r->offset < o->length);
    r->have = o->length - r->offset < r->length ? o->length - r->offset : r->length;
    memcpy(r->buf, o->body + r->offset, r->have);
    if (e->dice % 1000 < e->rule->damage_permille)
        ((uint8_t *)r->buf)[e->dice / 1000 % r->have] ^= 0x10;
    r->got.size = o->length;
    r->status = 206;
}

static inline void fake_put(struct qc_http *h, struct qc_http_private *e)
{
    struct qc_http_request *r = e->r;
    bool conditional = r->flags & QC_HTTP_IF_ABSENT;

    if (conditional && e->rule->no_condition) {
        r->status = 501;
        qc_fail(&r->err, QCHAIN_E_UNSUPPORTED, "%s: 501", r->place->name);
    } else if (conditional && fake_find(h, r->place->name)) {
        r->status = 412;
        qc_fail(&r->err, QCHAIN_E_CHANGED, "%s: 412", r->place->name);
    } else {
        r->status = 201;
        fake_keep(h, r->place->name, r->buf, r->length);
    }
}

/* Bytes of the pattern, in pieces; not under the lock. */
static inline void fake_get_pattern(struct qc_http_private *e, const struct fake_rule *rule)
{
    struct qc_http_request *r = e->r;
    size_t all = e->code && rule->cut < r->length ? rule->cut : r->length;

    r->status = 206;
    r->got.size = rule->size;
    if (rule->etag)
        snprintf(r->got.etag, sizeof(r->got.etag), "%s", rule->etag);
    if (r->pin && !qc_pin_same(r->pin, &r->got)) {
        r->status = 412;
        qc_fail(&r->err, QCHAIN_E_CHANGED, "%s changed", r->place->name);
        return;
    }
    while (r->have < all) {
        size_t n = all - r->have < 5000 ? all - r->have : 5000 + e->dice % 3000;

        n = n < all - r->have ? n : all - r->have;
        fill_pattern((uint8_t *)r->buf + r->have, n, r->offset + r->have);
        r->have += n;
        if (r->progress)
            r->progress(r, r->have);
    }
}

static inline void fake_answer(struct qc_http *h, struct qc_http_private *e)
{
    struct qc_http_request *r = e->r;
    struct fake_rule rule;
    bool plain;

    pthread_mutex_lock(&h->lock);
    rule = *e->rule;
    plain = !e->cancelled && r->method == QC_HTTP_GET && !rule.keeps && (!e->code || rule.cut);
    if (e->cancelled) {
        e->rule->cancelled++;
        qc_fail(&r->err, QCHAIN_E_CANCELLED, "cancelled");
    } else if (r->method == QC_HTTP_PUT && !e->code) {
        fake_put(h, e);
    } else if (!plain && !e->code) {
        fake_get_kept(h, e);
    }
    pthread_mutex_unlock(&h->lock);
    if (plain)
        fake_get_pattern(e, &rule);
    if (e->code && !r->err.code) {
        r->status = rule.status;
        qc_fail(&r->err, e->code, "%s: failed by rule", r->place->name);
    }
    r->attempts = 1;
    WITH(h, {
        e->rule->now -= r->method == QC_HTTP_PUT;
        r->priv = NULL;
    });
    free(e);
    r->done(r, r->err.code);
    WITH(h, h->live--); /* so that what it led to is counted by now */
}

static inline void *fake_thread(void *arg)
{
    struct qc_http *h = arg;
    struct qc_http_private **first, *e;
    struct timespec until;

    pthread_mutex_lock(&h->lock);
    while (!h->stop || h->queue) {
        first = &h->queue;
        for (struct qc_http_private **p = &h->queue; *p; p = &(*p)->next)
            if ((*p)->due < (*first)->due)
                first = p;
        e = *first;
        if (e && (e->due <= ms_now() || h->stop)) {
            e->cancelled |= h->stop;
            *first = e->next;
            pthread_mutex_unlock(&h->lock);
            fake_answer(h, e);
            pthread_mutex_lock(&h->lock);
        } else if (e) {
            until = (struct timespec){e->due / 1000, e->due % 1000 * 1000000};
            pthread_cond_timedwait(&h->work, &h->lock, &until);
        } else {
            pthread_cond_wait(&h->work, &h->lock);
        }
    }
    pthread_mutex_unlock(&h->lock);
    return NULL;
}

struct qc_http *qc_http_create(const qchain_remote *conf, const struct qc_log *log,
                               struct qc_slots *slots)
{
    struct qc_http *h = calloc(1, sizeof(*h));
    pthread_condattr_t attr;

    (void)conf, (void)log, (void)slots;
    pthread_mutex_init(&h->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&h->work, &attr);
    pthread_condattr_destroy(&attr);
    h->random = 88172645463325252u;
    for (int i = 0; i < FAKE_THREADS; i++)
        assert_int_equal(pthread_create(&h->thread[i], NULL, fake_thread, h), 0);
    return h;
}

void qc_http_destroy(struct qc_http *h)
{
    WITH(h, h->stop = true);
    pthread_cond_broadcast(&h->work);
    for (int i = 0; i < FAKE_THREADS; i++)
        pthread_join(h->thread[i], NULL);
    assert_int_equal(h->live, 0);
    fake_forget(h);
    pthread_cond_destroy(&h->work);
    pthread_mutex_destroy(&h->lock);
    free(h);
}

/* A rule for all beneath a prefix; the longest counts. */
static inline struct fake_rule *add_rule(struct qc_http *h, const char *prefix)
{
    struct fake_rule *rule = h->rule;

    while (rule->prefix)
        rule++;
    assert_true(rule < h->rule + FAKE_RULES);
    rule->prefix = prefix;
    return rule;
}

static inline struct fake_rule *find_rule(struct qc_http *h, const char *name)
{
    struct fake_rule *best = NULL;

    for (struct fake_rule *rule = h->rule; rule->prefix; rule++)
        if (strncmp(name, rule->prefix, strlen(rule->prefix)) == 0 &&
            (!best || strlen(rule->prefix) > strlen(best->prefix)))
            best = rule;
    assert_non_null(best);
    return best;
}

/* Codes that chance has. */
static const int fake_codes[] = {QCHAIN_E_NET, QCHAIN_E_TIMEOUT, QCHAIN_E_THROTTLED,
                                 QCHAIN_E_AUTH, QCHAIN_E_IO, QCHAIN_E_CORRUPT};

static inline void fake_decide(struct qc_http *h, struct qc_http_private *e)
{
    struct fake_rule *rule = e->rule;
    bool meant = !rule->only_puts || e->r->method == QC_HTTP_PUT;

    e->dice = next_random(&h->random);
    e->due = ms_now();
    if (!meant)
        return;
    e->due += rule->delay_ms + (rule->jitter_ms ? next_random(&h->random) % rule->jitter_ms : 0);
    e->code = rule->code;
    if (rule->only_next && rule->code && --rule->only_next == 0)
        rule->code = 0;
    if (next_random(&h->random) % 1000 < rule->fail_permille)
        e->code = fake_codes[next_random(&h->random) % (sizeof(fake_codes) / sizeof(int))];
}

static inline void fake_note(struct fake_rule *rule, const struct qc_http_request *r)
{
    if (r->method == QC_HTTP_PUT) {
        rule->puts++;
        rule->now++;
        rule->most = rule->now > rule->most ? rule->now : rule->most;
    } else {
        rule->gets++;
    }
    rule->flags = r->flags;
    rule->deadline_ms = r->deadline_ms;
    rule->offset = r->offset;
    rule->length = r->length;
    rule->had_pin = r->pin != NULL;
    rule->had_progress = r->progress != NULL;
    if (r->pin)
        rule->pin = *r->pin;
}

void qc_http_submit(struct qc_http *h, struct qc_http_request *r)
{
    struct qc_http_private *e = calloc(1, sizeof(*e));
    bool at_once;

    assert_true(r->length > 0);
    assert_int_equal(r->err.code, 0);
    pthread_mutex_lock(&h->lock);
    e->r = r;
    e->rule = find_rule(h, r->place->name);
    r->priv = e;
    r->have = 0;
    fake_note(e->rule, r);
    fake_decide(h, e);
    h->live++;
    at_once = e->rule->at_once || h->stop;
    e->cancelled = h->stop;
    if (!at_once) {
        e->next = h->queue;
        h->queue = e;
    }
    pthread_cond_broadcast(&h->work);
    pthread_mutex_unlock(&h->lock);
    if (at_once)
        fake_answer(h, e);
}

void qc_http_cancel(struct qc_http *h, struct qc_http_request *r)
{
    WITH(h, {
        if (r->priv) {
            r->priv->cancelled = true;
            r->priv->due = 0;
        }
        pthread_cond_broadcast(&h->work);
    });
}

/* Longer than any test: the requests end by let_go, or are cancelled. */
#define HELD_MS 3600000

/* The requests that a rule holds up, in the order in which they came, are due now; later ones are not held up. */
static inline void let_go(struct qc_http *h, struct fake_rule *rule)
{
    WITH(h, {
        rule->delay_ms = 0;
        for (struct qc_http_private *e = h->queue; e; e = e->next)
            if (e->rule == rule)
                e->due -= HELD_MS;
        pthread_cond_broadcast(&h->work);
    });
}

/* ------------------------------------------------------------------ askers --- */

/* One fetch, waited for; what it is told is checked at once. */
struct asker {
    struct qc_fetch f;
    pthread_mutex_t lock;
    pthread_cond_t  ended;
    bool     done;
    int      ret;
    size_t   told;
    unsigned times; /* that it was told */
};

static inline void asker_told(struct qc_fetch *f, size_t have)
{
    struct asker *a = (struct asker *)f;

    pthread_mutex_lock(&a->lock);
    assert_false(a->done);
    assert_true(have >= a->told && have <= f->length);
    assert_true(is_pattern((uint8_t *)f->buf + a->told, have - a->told, f->offset + a->told));
    a->told = have;
    a->times++;
    pthread_mutex_unlock(&a->lock);
}

static inline void asker_done(struct qc_fetch *f, int ret)
{
    struct asker *a = (struct asker *)f;

    pthread_mutex_lock(&a->lock);
    assert_false(a->done);
    a->done = true;
    a->ret = ret;
    pthread_cond_signal(&a->ended);
    pthread_mutex_unlock(&a->lock);
}

static inline void ask(struct asker *a, struct qc_tier *t, uint64_t offset, size_t length,
                       uint32_t flags)
{
    memset(a, 0, sizeof(*a));
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->ended, NULL);
    qc_error_init(&a->f.err);
    a->f.buf = malloc(length);
    memset(a->f.buf, 0xee, length);
    a->f.offset = offset;
    a->f.length = length;
    a->f.flags = flags;
    a->f.progress = asker_told;
    a->f.done = asker_done;
    qc_tier_fetch(t, &a->f);
}

/* Wait for it; what it read is right, or it failed as told. */
static inline int await(struct asker *a)
{
    pthread_mutex_lock(&a->lock);
    while (!a->done)
        pthread_cond_wait(&a->ended, &a->lock);
    pthread_mutex_unlock(&a->lock);
    if (a->ret == 0)
        assert_true(is_pattern(a->f.buf, a->f.length, a->f.offset));
    else
        assert_int_equal(a->f.err.code, a->ret);
    free(a->f.buf);
    pthread_cond_destroy(&a->ended);
    pthread_mutex_destroy(&a->lock);
    return a->ret;
}

static inline int read_range(struct qc_tier *t, uint64_t offset, size_t length)
{
    struct asker a;

    ask(&a, t, offset, length, 0);
    return await(&a);
}

#endif
