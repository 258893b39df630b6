/* SPDX-License-Identifier: MIT */
/*
 * One fetch is one request, where there are no replicas. Where there are, it is a walk over the places
 * that hold the object, in two rounds within one deadline:
 *
 *   1. Each place that is not left alone gets one attempt, with its share of the deadline. So one that
 *      refuses, or answers 503, costs a round trip and not a minute of retries.
 *   2. What failed in a way that may pass, and what was left alone, is asked once more, now with the
 *      engine's retries, in what is left of the time: whoever is the only one alive must not fail a
 *      read because of one reset connection.
 *
 * A place that failed is left alone for a while: the server, for all tiers of the environment, if it
 * was not to be reached, was late or had too much to do; else (missing, changed, refused) the object's
 * copy there, for this tier. When the time is up one fetch asks again; the others go on without it until
 * that one has its answer.
 *
 * Bytes that the asker was told of are in its hands, so nothing is written over them: another place goes
 * on behind them. Places hold the same bytes, that is what the configuration says; all that is checked
 * is that each has the pin's size and does not change under us. What a replica first answers is not
 * told before its end, since only then is it compared with what another fetch may have pinned. Once the
 * object was replaced at one place, another of which nothing was seen before may hold the new one as well,
 * and is not asked.
 */
#include "remote/origin.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "util/alloc.h"
#include "util/escape.h"

#define PAUSE_MS 30000u
#define LEAST_MS 10 /* a request that has less time is not worth making */

/* A server; lives as long as the table. */
struct server {
    struct server *next;
    int64_t        until_ms; /* left alone until then; 0: it is well */
    char           name[];   /* "https://host:8443" */
};

struct qc_health {
    pthread_mutex_t  lock; /* guards all until_ms, pins of replicas, and `replaced` */
    struct qc_slots *slots;
    uint32_t         deadline_ms, pause_ms;
    struct server   *servers;
};

/* One place that holds the object. */
struct spot {
    struct qc_place *place;
    struct server   *server;
    int64_t          until_ms; /* as the server's, of the object here */
    struct qc_pin    pin;      /* only its size is set before the first answer */
    bool             pinned;
};

struct origin {
    struct qc_tier       tier;
    struct qc_http      *http;
    struct qc_health    *health;
    const struct qc_log *log;
    bool                 replaced; /* somewhere where it was seen before; under the health's lock */
    uint32_t             n_spots;
    struct spot          spot[]; /* [0]: the origin */
};

/* One fetch. */
struct walk {
    struct qc_http_request request;
    struct origin   *o;
    struct qc_fetch *f;
    int64_t          end_ms;   /* of its deadline */
    uint32_t         todo;     /* places to be asked in this round, a bit each */
    uint32_t         later;    /* those of the second round */
    uint32_t         asked;    /* a bit each */
    uint32_t         now;      /* the one that is asked */
    bool             second;   /* round */
    size_t           base;     /* where in the buffer the request began */
    size_t           told;     /* bytes that the asker knows of */
    struct qc_pin    pin;      /* of the request */
    qchain_error     first;    /* what went wrong at the origin, or else first */
};

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000) + t.tv_nsec / 1000000;
}

/* ------------------------------------------------------------------ health --- */

struct qc_health *qc_health_create(const qchain_remote *conf, struct qc_slots *slots)
{
    struct qc_health *h = qc_calloc(1, sizeof(*h));

    if (!h)
        return NULL;
    pthread_mutex_init(&h->lock, NULL);
    h->slots = slots;
    h->deadline_ms = conf->deadline_ms;
    h->pause_ms = PAUSE_MS;
    return h;
}

void qc_health_destroy(struct qc_health *h)
{
    struct server *next;

    if (!h)
        return;
    for (struct server *s = h->servers; s; s = next) {
        next = s->next;
        qc_free(s);
    }
    pthread_mutex_destroy(&h->lock);
    qc_free(h);
}

void qc_health_set_pause(struct qc_health *h, uint32_t ms)
{
    h->pause_ms = ms;
}

/* The server that a place's key names; NULL: no memory. */
static struct server *server_of(struct qc_health *h, const char *key)
{
    size_t len = qc_place_server(key);
    struct server *s;

    pthread_mutex_lock(&h->lock);
    for (s = h->servers; s; s = s->next)
        if (strncmp(s->name, key, len) == 0 && s->name[len] == '\0')
            break;
    if (!s && (s = qc_calloc(1, sizeof(*s) + len + 1))) {
        memcpy(s->name, key, len);
        s->next = h->servers;
        h->servers = s;
    }
    pthread_mutex_unlock(&h->lock);
    return s;
}

/* Under the lock: may it be asked? When its time is up, one who asks is told so, and the time begins
 * anew for the others; it ends with that one's answer. */
static bool may_ask(struct qc_health *h, struct spot *s)
{
    int64_t now = now_ms();

    if (s->until_ms > now || s->server->until_ms > now)
        return false;
    if (s->until_ms)
        s->until_ms = now + h->pause_ms;
    if (s->server->until_ms)
        s->server->until_ms = now + h->pause_ms;
    return true;
}

static bool is_the_servers(int code)
{
    return code == QCHAIN_E_NET || code == QCHAIN_E_TIMEOUT || code == QCHAIN_E_THROTTLED;
}

bool qc_health_may_ask(struct qc_health *h, const struct qc_place *p)
{
    struct spot spot = {.server = server_of(h, qc_place_key(p))};
    bool may = true;

    pthread_mutex_lock(&h->lock);
    if (spot.server)
        may = may_ask(h, &spot);
    pthread_mutex_unlock(&h->lock);
    return may;
}

void qc_health_tell(struct qc_health *h, const struct qc_place *p, int code)
{
    struct server *s = server_of(h, qc_place_key(p));

    pthread_mutex_lock(&h->lock);
    if (s && code == 0)
        s->until_ms = 0;
    else if (s && is_the_servers(code))
        s->until_ms = now_ms() + h->pause_ms;
    pthread_mutex_unlock(&h->lock);
}

static void note_fault(const struct walk *w, const qchain_error *why)
{
    struct origin *o = w->o;
    struct spot *s = &o->spot[w->now];
    int64_t *until = is_the_servers(why->code) ? &s->server->until_ms : &s->until_ms;
    struct qc_escaped shown;
    bool news;

    if (o->n_spots == 1)
        return;
    pthread_mutex_lock(&o->health->lock);
    o->replaced |= s->pinned && why->code == QCHAIN_E_CHANGED;
    news = *until == 0;
    *until = now_ms() + o->health->pause_ms;
    pthread_mutex_unlock(&o->health->lock);
    if (news)
        qc_log(o->log, QCHAIN_LOG_WARN, "remote", "%s is left alone for a while: %s",
               qc_escape_str(&shown, qc_place_shown(s->place)), why->text);
}

static void note_success(const struct walk *w)
{
    struct origin *o = w->o;
    struct spot *s = &o->spot[w->now];
    struct qc_escaped shown;
    bool news;

    if (o->n_spots == 1)
        return;
    pthread_mutex_lock(&o->health->lock);
    news = s->until_ms || s->server->until_ms;
    s->until_ms = s->server->until_ms = 0;
    pthread_mutex_unlock(&o->health->lock);
    if (news)
        qc_log(o->log, QCHAIN_LOG_INFO, "remote", "%s answers again",
               qc_escape_str(&shown, qc_place_shown(s->place)));
    if (w->now > 0)
        qc_count(o->health->slots, QC_CNT_FAILOVERS, 1);
}

/* ------------------------------------------------------------------- a walk --- */

static void ask_next(struct walk *w);

/* The asker's own done may close the tier: nothing of it is touched afterwards. */
static void end(struct walk *w, int ret)
{
    struct qc_fetch *f = w->f;

    qc_free(w);
    f->done(f, ret);
}

/* All places failed: say what the origin said. */
static void fail(struct walk *w)
{
    uint32_t others = (uint32_t)__builtin_popcount(w->asked) - 1;
    qchain_error *err = &w->f->err;
    size_t used;

    qc_error_copy(err, &w->first);
    used = strlen(err->text);
    if (others)
        snprintf(err->text + used, sizeof(err->text) - used,
                 "; %" PRIu32 " other place%s failed as well", others, others == 1 ? "" : "s");
    end(w, err->code);
}

/* Would another place, or the same one later, do better? */
static bool goes_on(int code)
{
    switch (code) {
    case QCHAIN_E_CANCELLED:
    case QCHAIN_E_NOMEM:
    case QCHAIN_E_INVAL:
    case QCHAIN_E_RANGE:
    case QCHAIN_E_INTERNAL:
        return false;
    default:
        return true;
    }
}

/* What a replica answered: is it the object, as far as can be told, and the one that it was? */
static int check_replica(struct walk *w)
{
    struct spot *s = &w->o->spot[w->now];
    struct qc_http_request *r = &w->request;
    struct qc_escaped shown;
    int ret = 0;

    pthread_mutex_lock(&w->o->health->lock);
    if (!s->pinned && !w->o->replaced && r->got.size == s->pin.size) {
        s->pin = r->got;
        s->pinned = true;
    } else if (r->got.size != s->pin.size || !qc_pin_same(&s->pin, &r->got)) {
        ret = QCHAIN_E_CHANGED;
    }
    pthread_mutex_unlock(&w->o->health->lock);
    if (ret == 0)
        return 0;
    return qc_fail(&r->err, ret,
                   "%s: the replica is not the object: it has %" PRIu64 " bytes instead of %" PRIu64
                   ", or changed", qc_escape_str(&shown, qc_place_shown(s->place)), r->got.size,
                   w->pin.size);
}

static void on_progress(struct qc_http_request *r, size_t have)
{
    struct walk *w = (struct walk *)r;

    w->told = w->base + have;
    w->f->progress(w->f, w->told);
}

static void on_done(struct qc_http_request *r, int ret)
{
    struct walk *w = (struct walk *)r;

    if (ret == 0 && r->have != r->length)
        ret = qc_fail(&r->err, QCHAIN_E_IO, "the answer ended early");
    if (ret == 0 && w->now > 0)
        ret = check_replica(w);
    if (ret == 0)
        note_success(w);
    else if (goes_on(ret))
        note_fault(w, &r->err);
    if (ret == 0 || w->told == w->f->length) {
        end(w, 0);
        return;
    }
    if (!w->asked || w->now == 0) /* the origin's word counts before a replica's */
        qc_error_copy(&w->first, &r->err);
    w->asked |= UINT32_C(1) << w->now;
    if (!goes_on(ret)) {
        qc_error_copy(&w->f->err, &r->err);
        end(w, ret);
        return;
    }
    if (is_the_servers(ret) && !w->second && w->o->n_spots > 1)
        w->later |= UINT32_C(1) << w->now;
    ask_next(w);
}

/* Find the next place to ask, and what it must give; false if there is none. */
static bool choose(struct walk *w)
{
    struct origin *o = w->o;
    bool found = false;

    pthread_mutex_lock(&o->health->lock);
    while (!found) {
        if (!w->todo && !w->second && w->later &&
            (!w->asked || w->end_ms - now_ms() >= LEAST_MS)) {
            w->second = true;
            w->todo = w->later;
        }
        if (!w->todo)
            break;
        w->now = (uint32_t)__builtin_ctz(w->todo);
        w->todo &= w->todo - 1;
        if (o->replaced && !o->spot[w->now].pinned)
            continue;
        found = w->second || o->n_spots == 1 || may_ask(o->health, &o->spot[w->now]);
        if (!found)
            w->later |= UINT32_C(1) << w->now;
    }
    w->pin = o->spot[w->now].pin;
    w->request.flags = w->f->flags & QC_FETCH_META ? QC_HTTP_META : 0;
    if (!o->spot[w->now].pinned) /* one answer is of one generation; two need not be */
        w->request.flags |= QC_HTTP_ONCE | QC_HTTP_NO_HEDGE;
    else if (!w->second && o->n_spots > 1)
        w->request.flags |= QC_HTTP_ONCE;
    pthread_mutex_unlock(&o->health->lock);
    return found;
}

/* 0: the configuration's. */
static uint32_t time_for(const struct walk *w)
{
    int64_t left = w->end_ms - now_ms(), share;

    if (w->o->n_spots == 1)
        return 0;
    share = w->second ? left / (1 + __builtin_popcount(w->todo))
                      : w->o->health->deadline_ms / w->o->n_spots;
    share = share < left ? share : left;
    return share > LEAST_MS ? (uint32_t)share : LEAST_MS;
}

static void ask_next(struct walk *w)
{
    struct qc_http_request *r = &w->request;
    struct qc_fetch *f = w->f;

    memset(r, 0, sizeof(*r));
    qc_error_init(&r->err);
    if (!choose(w)) {
        fail(w);
        return;
    }
    w->base = w->told;
    r->place = w->o->spot[w->now].place;
    r->method = QC_HTTP_GET;
    r->offset = f->offset + w->base;
    r->length = f->length - w->base;
    r->buf = (uint8_t *)f->buf + w->base;
    r->pin = &w->pin;
    r->deadline_ms = time_for(w);
    r->progress = f->progress && !(r->flags & QC_HTTP_NO_HEDGE) ? on_progress : NULL;
    r->done = on_done;
    qc_http_submit(w->o->http, r);
}

/* -------------------------------------------------------------------- tier --- */

static void origin_fetch(struct qc_tier *t, struct qc_fetch *f)
{
    struct origin *o = (struct origin *)t;
    struct walk *w = qc_calloc(1, sizeof(*w));

    if (!w) {
        f->done(f, qc_fail_nomem(&f->err));
        return;
    }
    w->o = o;
    w->f = f;
    w->end_ms = now_ms() + o->health->deadline_ms;
    w->todo = UINT32_MAX >> (32 - o->n_spots);
    ask_next(w);
}

static void origin_close(struct qc_tier *t)
{
    struct origin *o = (struct origin *)t;

    for (uint32_t i = 0; i < o->n_spots; i++)
        qc_place_unref(o->spot[i].place);
    qc_free(o);
}

static const struct qc_tier_ops origin_ops = {
    .name = "origin",
    .fetch = origin_fetch,
    .close = origin_close,
};

int qc_origin_create(struct qc_tier **out, struct qc_http *http, struct qc_health *health,
                     struct qc_place *place, const struct qc_pin *pin,
                     struct qc_place *const *replica, uint32_t n_replicas, const struct qc_log *log,
                     qchain_error *err)
{
    uint32_t n = 1 + (n_replicas < QC_ORIGIN_REPLICAS ? n_replicas : QC_ORIGIN_REPLICAS);
    struct origin *o = qc_calloc(1, sizeof(*o) + n * sizeof(o->spot[0]));

    if (!o)
        return qc_fail_nomem(err);
    o->tier.ops = &origin_ops;
    o->http = http;
    o->health = health;
    o->log = log;
    for (; o->n_spots < n; o->n_spots++) {
        struct spot *s = &o->spot[o->n_spots];
        struct qc_place *p = o->n_spots == 0 ? place : replica[o->n_spots - 1];

        s->server = server_of(health, qc_place_key(p));
        if (!s->server) {
            origin_close(&o->tier);
            return qc_fail_nomem(err);
        }
        s->place = qc_place_ref(p);
        s->pin.size = pin->size;
    }
    o->spot[0].pin = *pin;
    o->spot[0].pinned = true;
    *out = &o->tier;
    return 0;
}
