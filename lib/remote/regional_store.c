/* SPDX-License-Identifier: MIT */
/*
 * What the tiers of one region share.
 *
 * Stores: a range is copied when it was read, and waits for its turn to be PUT; copies are bounded by
 * bytes and by number, and what is over that is not stored this time: somebody will miss it again. A
 * PUT is conditional, as another may have stored the same; servers that ignore the condition write the
 * same bytes again, and one that does not know it (501) is not asked for it any more. A range that was
 * found damaged is written over.
 *
 * Faults: so many in a row, and the region is left alone for a while, then asked by one. Looking and
 * storing are counted apart, since a region that one may only read is still of use.
 *
 * Who reads by this library's own checksum trusts the region's owner: CRC32C finds what broke, not what
 * was forged.
 */
#include "remote/regional_int.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "util/alloc.h"
#include "util/bytes.h"
#include "util/crc32c.h"
#include "util/escape.h"

static const char magic[4] = {'Q', 'C', 'r', '1'};

/* Faults in a row; until then it is left alone, 0: it is not. */
struct streak {
    uint32_t faults;
    int64_t  until_us;
};

enum put_state { COPIED_NOW, WAITING, SENT };

struct put {
    struct qc_http_request request;
    struct qc_region   *region;
    struct put         *next, *prev;
    struct qc_place    *place;
    struct qc_region_id id;
    uint64_t            offset;
    size_t              length;  /* without the trailer */
    uint8_t            *body;
    enum put_state      state;
};

struct qc_region {
    struct qc_http        *http;
    struct qc_credentials *creds;
    const struct qc_log   *log;
    struct qc_slots       *slots;
    char                  *url;    /* without a slash at its end */
    struct qc_escaped      shown;
    struct qc_region_limits limits;
    atomic_uint            refs;

    pthread_mutex_t lock;          /* for all below; taken last */
    pthread_cond_t  stored;        /* a PUT ended, or nobody sends any more */
    struct streak   looks, stores;
    int64_t         usual_us;      /* what an answer takes, smoothed; 0: none yet */
    struct put     *first, *last;
    uint32_t        n_puts, n_sent;
    size_t          copy_bytes;
    bool            sending;       /* somebody hands PUTs to the engine */
    bool            unconditional; /* the server does not know If-None-Match */
    bool            stop;          /* nothing new is taken */
    bool            drop;          /* nothing is sent any more */
    struct qc_alarms alarms;
};

int64_t qc_region_now_us(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000) + t.tv_nsec / 1000;
}

static struct timespec at_us(int64_t us)
{
    return (struct timespec){us / 1000000, us % 1000000 * 1000};
}

struct qc_http *qc_region_http(struct qc_region *r)
{
    return r->http;
}

struct qc_slots *qc_region_slots(struct qc_region *r)
{
    return r->slots;
}

struct qc_alarms *qc_region_alarms(struct qc_region *r)
{
    return &r->alarms;
}

struct qc_region_limits *qc_region_limits(struct qc_region *r)
{
    return &r->limits;
}

/* ----------------------------------------------------------------- objects --- */

static void put_be32(uint8_t *p, uint32_t v)
{
    v = __builtin_bswap32(v);
    memcpy(p, &v, sizeof(v));
}

static void put_be64(uint8_t *p, uint64_t v)
{
    v = __builtin_bswap64(v);
    memcpy(p, &v, sizeof(v));
}

static uint32_t checksum(const uint8_t *body, size_t length)
{
    return qc_crc32c(qc_crc32c(0, body, length), body + length + 8, QC_REGION_TRAILER - 8);
}

void qc_region_seal(uint8_t *body, size_t length, uint64_t offset, const struct qc_region_id *id)
{
    uint8_t *t = body + length;

    memcpy(t, magic, sizeof(magic));
    put_be64(t + 8, offset);
    put_be64(t + 16, length);
    memcpy(t + 24, id->digest, 8);
    put_be32(t + 4, checksum(body, length));
}

bool qc_region_is_sealed(const uint8_t *body, size_t length, uint64_t offset,
                         const struct qc_region_id *id)
{
    const uint8_t *t = body + length;

    return memcmp(t, magic, sizeof(magic)) == 0 && qc_be64(t + 8) == offset &&
           qc_be64(t + 16) == length && memcmp(t + 24, id->digest, 8) == 0 &&
           qc_be32(t + 4) == checksum(body, length);
}

int qc_region_place(struct qc_place **out, struct qc_region *r, const struct qc_region_id *id,
                    uint64_t offset, size_t length, qchain_error *err)
{
    char hex[2 * sizeof(id->digest) + 1];
    char *name;
    int ret;

    for (size_t i = 0; i < sizeof(id->digest); i++)
        snprintf(hex + 2 * i, 3, "%02x", id->digest[i]);
    name = qc_asprintf("%s/%s/%" PRIu64 "-%zu", r->url, hex, offset, length);
    if (!name)
        return qc_fail_nomem(err);
    ret = qc_place_create(out, r->creds, name, err);
    qc_free(name);
    return ret;
}

/* ------------------------------------------------------------------ faults --- */

/* Under the lock. One who asks when the time is up is let through; for the others it begins anew, until
 * that one knows. */
static bool may(struct qc_region *r, struct streak *s)
{
    int64_t now = qc_region_now_us();

    if (s->until_us > now)
        return false;
    if (s->until_us)
        s->until_us = now + r->limits.pause_ms * INT64_C(1000);
    return true;
}

static void went_well(struct qc_region *r, struct streak *s)
{
    bool news;

    pthread_mutex_lock(&r->lock);
    news = s->until_us != 0;
    s->faults = 0;
    s->until_us = 0;
    pthread_mutex_unlock(&r->lock);
    if (news)
        qc_log(r->log, QCHAIN_LOG_INFO, "remote", "the regional cache %s is used again",
               r->shown.text);
}

static void went_wrong(struct qc_region *r, struct streak *s, const char *what, const char *why)
{
    bool news = false;

    qc_count(r->slots, QC_CNT_REGION_FAULTS, 1);
    pthread_mutex_lock(&r->lock);
    if (++s->faults >= r->limits.faults) {
        news = s->until_us == 0;
        s->until_us = qc_region_now_us() + r->limits.pause_ms * INT64_C(1000);
    }
    pthread_mutex_unlock(&r->lock);
    if (news)
        qc_log(r->log, QCHAIN_LOG_WARN, "remote",
               "%s the regional cache %s failed %" PRIu32 " times in a row, so that is left for a"
               " while: %s", what, r->shown.text, r->limits.faults, why);
}

bool qc_region_may_look(struct qc_region *r)
{
    bool yes;

    pthread_mutex_lock(&r->lock);
    yes = !r->stop && may(r, &r->looks);
    pthread_mutex_unlock(&r->lock);
    return yes;
}

void qc_region_answered(struct qc_region *r, int64_t took_us)
{
    pthread_mutex_lock(&r->lock);
    r->usual_us = r->usual_us ? r->usual_us + (took_us - r->usual_us) / 8 : took_us;
    pthread_mutex_unlock(&r->lock);
    went_well(r, &r->looks);
}

int64_t qc_region_patience_us(struct qc_region *r)
{
    int64_t least = r->limits.patience_ms * INT64_C(1000);
    int64_t most = r->limits.patience_max_ms * INT64_C(1000);
    int64_t us;

    pthread_mutex_lock(&r->lock);
    us = 4 * r->usual_us;
    pthread_mutex_unlock(&r->lock);
    us = us < most ? us : most;
    return us > least ? us : least;
}

void qc_region_failed(struct qc_region *r, const char *why)
{
    went_wrong(r, &r->looks, "reading from", why);
}

/* ------------------------------------------------------------------ stores --- */

static void link_put(struct qc_region *r, struct put *p)
{
    p->prev = r->last;
    if (r->last)
        r->last->next = p;
    else
        r->first = p;
    r->last = p;
    r->n_puts++;
    r->copy_bytes += p->length;
}

static void unlink_put(struct qc_region *r, struct put *p)
{
    if (p->prev)
        p->prev->next = p->next;
    else
        r->first = p->next;
    if (p->next)
        p->next->prev = p->prev;
    else
        r->last = p->prev;
    r->n_puts--;
    r->copy_bytes -= p->length;
    pthread_cond_broadcast(&r->stored);
}

static void free_put(struct put *p)
{
    qc_place_unref(p->place);
    qc_free(p->body);
    qc_free(p);
}

static void on_put(struct qc_http_request *q, int ret);

/* Under the lock: the next one to be sent; NULL: none, or it is enough. */
static struct put *next_put(struct qc_region *r)
{
    struct put *p = r->first;

    if (r->drop || r->n_sent >= r->limits.puts)
        return NULL;
    while (p && p->state != WAITING)
        p = p->next;
    if (!p)
        return NULL;
    p->state = SENT;
    r->n_sent++;
    if (r->unconditional)
        p->request.flags &= ~(uint32_t)QC_HTTP_IF_ABSENT;
    return p;
}

/* Hand what waits to the engine, which may answer within that: so one does it for all. */
static void send_puts(struct qc_region *r)
{
    struct put *p;

    pthread_mutex_lock(&r->lock);
    if (r->sending) {
        pthread_mutex_unlock(&r->lock);
        return;
    }
    r->sending = true;
    while ((p = next_put(r))) {
        pthread_mutex_unlock(&r->lock);
        qc_http_submit(r->http, &p->request);
        pthread_mutex_lock(&r->lock);
    }
    r->sending = false;
    pthread_cond_broadcast(&r->stored);
    pthread_mutex_unlock(&r->lock);
}

/* Is it there because somebody else stored it? */
static bool was_there(const struct qc_http_request *q, int ret)
{
    return (q->flags & QC_HTTP_IF_ABSENT) && (ret == QCHAIN_E_BUSY || ret == QCHAIN_E_CHANGED ||
                                              q->status == 412 || q->status == 409);
}

static void on_put(struct qc_http_request *q, int ret)
{
    struct put *p = (struct put *)q;
    struct qc_region *r = p->region;
    bool again = q->status == 501 && (q->flags & QC_HTTP_IF_ABSENT);

    qc_region_ref(r); /* p's own may be gone before this ends */
    if (ret == 0 || was_there(q, ret)) {
        went_well(r, &r->stores);
        if (ret == 0)
            qc_count(r->slots, QC_CNT_REGION_STORES, 1);
    } else if (ret != QCHAIN_E_CANCELLED && !again) {
        went_wrong(r, &r->stores, "writing to", q->err.text);
    }
    pthread_mutex_lock(&r->lock);
    r->n_sent--;
    if (ret != 0 && again && !r->drop) {
        r->unconditional = true;
        p->state = WAITING;
        p->request.status = 0;
        qc_error_init(&p->request.err);
        p = NULL;
    } else {
        unlink_put(r, p);
    }
    pthread_mutex_unlock(&r->lock);
    send_puts(r);
    if (p) {
        free_put(p);
        qc_region_unref(r);
    }
    qc_region_unref(r);
}

/* Under the lock. */
static bool is_being_stored(const struct qc_region *r, const struct put *like)
{
    for (const struct put *p = r->first; p; p = p->next)
        if (p->offset == like->offset && p->length == like->length &&
            memcmp(&p->id, &like->id, sizeof(p->id)) == 0)
            return true;
    return false;
}

/* Take the range on, if there is room; it counts from then on. */
static bool reserve(struct qc_region *r, struct put *p)
{
    bool yes;

    pthread_mutex_lock(&r->lock);
    yes = !r->stop && r->n_puts < r->limits.ranges && p->length <= r->limits.copy_bytes &&
          r->copy_bytes <= r->limits.copy_bytes - p->length && !is_being_stored(r, p) &&
          may(r, &r->stores);
    if (yes)
        link_put(r, p);
    pthread_mutex_unlock(&r->lock);
    return yes;
}

/* Copy the bytes and fill in the request. */
static int fill_put(struct put *p, const void *data, bool over)
{
    struct qc_http_request *q = &p->request;
    int ret = qc_region_place(&p->place, p->region, &p->id, p->offset, p->length, NULL);

    if (ret != 0)
        return ret;
    p->body = qc_malloc(p->length + QC_REGION_TRAILER);
    if (!p->body)
        return QCHAIN_E_NOMEM;
    memcpy(p->body, data, p->length);
    qc_region_seal(p->body, p->length, p->offset, &p->id);
    qc_error_init(&q->err);
    q->place = p->place;
    q->method = QC_HTTP_PUT;
    q->flags = over ? 0 : QC_HTTP_IF_ABSENT;
    q->buf = p->body;
    q->length = p->length + QC_REGION_TRAILER;
    q->deadline_ms = p->region->limits.put_ms;
    q->done = on_put;
    return 0;
}

void qc_region_store(struct qc_region *r, const struct qc_region_id *id, const void *data,
                     uint64_t offset, size_t length, bool over)
{
    struct put *p = qc_calloc(1, sizeof(*p));
    bool filled;

    if (!p)
        return;
    p->region = r;
    p->id = *id;
    p->offset = offset;
    p->length = length;
    if (!reserve(r, p)) {
        qc_free(p);
        return;
    }
    filled = fill_put(p, data, over) == 0;
    pthread_mutex_lock(&r->lock);
    filled &= !r->drop;
    if (filled) {
        qc_region_ref(r);
        p->state = WAITING;
    } else {
        unlink_put(r, p);
    }
    pthread_mutex_unlock(&r->lock);
    if (filled)
        send_puts(r);
    else
        free_put(p);
}

/* ---------------------------------------------------------------- its life --- */

void qc_region_ref(struct qc_region *r)
{
    atomic_fetch_add_explicit(&r->refs, 1, memory_order_relaxed);
}

void qc_region_unref(struct qc_region *r)
{
    if (atomic_fetch_sub_explicit(&r->refs, 1, memory_order_acq_rel) != 1)
        return;
    pthread_cond_destroy(&r->stored);
    qc_alarms_finish(&r->alarms);
    pthread_mutex_destroy(&r->lock);
    qc_free(r->url);
    qc_free(r);
}

/* The prefix, fit to be continued by a slash. A query would end up in the middle. */
static int take_url(struct qc_region *r, const char *url, qchain_error *err)
{
    static const struct qc_region_id nobody;
    struct qc_place *probe;
    size_t len = strlen(url);
    char *shown;
    int ret;

    if (strncasecmp(url, "http", 4) == 0 && strpbrk(url, "?#"))
        return qc_fail(err, QCHAIN_E_INVAL,
                       "the URL of a regional cache has a query or fragment, but names are put behind"
                       " it: give credentials by rules");
    while (len > 0 && url[len - 1] == '/')
        len--;
    r->url = qc_strndup(url, len);
    if (!r->url)
        return qc_fail_nomem(err);
    ret = qc_region_place(&probe, r, &nobody, 0, 1, err);
    if (ret != 0)
        return ret;
    /* As places are shown, less the name behind the prefix. */
    shown = qc_strdup(qc_place_shown(probe));
    qc_place_unref(probe);
    if (!shown)
        return qc_fail_nomem(err);
    for (int i = 0; i < 2 && strrchr(shown, '/'); i++)
        *strrchr(shown, '/') = '\0';
    qc_escape_str(&r->shown, shown);
    qc_free(shown);
    return 0;
}

int qc_region_create(struct qc_region **out, struct qc_http *http, struct qc_credentials *creds,
                     const char *url, const struct qc_log *log, struct qc_slots *slots,
                     qchain_error *err)
{
    struct qc_region *r = qc_calloc(1, sizeof(*r));
    pthread_condattr_t attr;
    int ret;

    if (!r)
        return qc_fail_nomem(err);
    pthread_mutex_init(&r->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&r->stored, &attr);
    pthread_condattr_destroy(&attr);
    qc_alarms_init(&r->alarms);
    atomic_init(&r->refs, 1);
    r->http = http;
    r->creds = creds;
    r->log = log;
    r->slots = slots;
    r->limits = (struct qc_region_limits){
        .look_ms = 2000, .patience_ms = 100, .patience_max_ms = 1000, .put_ms = 30000,
        .faults = 5, .pause_ms = 30000, .close_ms = 3000,
        .puts = 8, .ranges = 256, .copy_bytes = (size_t)32 << 20,
    };
    ret = take_url(r, url, err);
    if (ret != 0)
        qc_region_unref(r);
    else
        *out = r;
    return ret;
}

/* Under the lock: give up what still waits, ask the engine to end the rest, and wait for that. */
static void drop_puts(struct qc_region *r)
{
    struct put *next;

    r->drop = true;
    while (r->sending) /* what is SENT is the engine's by then */
        pthread_cond_wait(&r->stored, &r->lock);
    for (struct put *p = r->first; p; p = next) {
        next = p->next;
        if (p->state == SENT) {
            qc_http_cancel(r->http, &p->request);
        } else if (p->state == WAITING) {
            unlink_put(r, p);
            free_put(p);
            atomic_fetch_sub_explicit(&r->refs, 1, memory_order_relaxed); /* never the last */
        }
    }
    while (r->n_puts > 0)
        pthread_cond_wait(&r->stored, &r->lock);
}

void qc_region_destroy(struct qc_region *r)
{
    struct timespec until;

    if (!r)
        return;
    until = at_us(qc_region_now_us() + r->limits.close_ms * INT64_C(1000));
    pthread_mutex_lock(&r->lock);
    r->stop = true;
    while (r->n_puts > 0 && pthread_cond_timedwait(&r->stored, &r->lock, &until) == 0)
        continue;
    drop_puts(r);
    pthread_mutex_unlock(&r->lock);
    qc_alarms_stop(&r->alarms);
    qc_region_unref(r);
}
