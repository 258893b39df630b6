/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "remote/remote_int.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/clock.h"
#include "util/escape.h"

#define HEAD_BYTES (64u << 10)   /* headers, names, small tables */
#define BRIEF_BYTES (16u << 10)  /* headers, names; what a server sends before it waits for an answer */
#define WHOLE_BYTES (1u << 20)   /* what is read whole if it is no longer */
#define FIRST_BYTES 4096u        /* enough to go on with: an image's header and its names */
#define PATIENCE_S 1 /* for what is under way when an environment ends */
#define MISSING_NS UINT64_C(60000000000)
#define PUT_BYTES_A_MS 1024u     /* a long body gets more time than other requests, */
#define PUT_MORE_MS 3600000u     /* but not for ever */

/* ---------------------------------------------------------------- environment --- */

/* What the disk cache has noted of a place is not so any more. */
static void forget_place(void *data, struct qc_place *place)
{
    struct qc_disk *disk = qc_remote_disk(data);

    if (disk)
        qc_disk_forget_pin(disk, qc_place_key(place), qc_place_scope(place));
}

int qc_remote_create(struct qc_remote **out, const qchain_remote *conf,
                     const struct qc_remote_deps *deps, qchain_error *err)
{
    struct qc_remote *r = qc_calloc(1, sizeof(*r));
    uint64_t budget = qc_block_cache_budget(deps->blocks);

    if (!r)
        return qc_fail_nomem(err);
    r->deps = *deps;
    pthread_mutex_init(&r->lock, NULL);
    qc_flights_init(&r->flights);
    r->conf = conf ? qc_conf_copy(conf) : qc_conf_new();
    r->creds = r->conf ? qc_credentials_create(r->conf, deps->log) : NULL;
    r->http = r->creds ? qc_http_create(r->conf, deps->log, deps->slots) : NULL;
    r->health = r->http ? qc_health_create(r->conf, deps->slots) : NULL;
    if (!r->health) {
        qc_remote_destroy(r);
        return qc_fail_nomem(err);
    }
    r->flights.blocks = deps->blocks;
    r->flights.leaves = deps->leaves;
    r->flights.slots = deps->slots;
    r->flights.block_bytes = r->conf->block_bytes;
    r->flights.forget = forget_place;
    r->flights.forget_data = r;
    r->flights.parallel = qc_max64(r->conf->connections, 2);
    r->flights.room = qc_max64(budget / 2, 2 * (uint64_t)r->conf->block_bytes);
    *out = r;
    return 0;
}

void qc_remote_stop(struct qc_remote *r)
{
    bool caches;

    if (!r || !r->http)
        return;
    /* What nobody waits for any more is given up; what caches are to keep is waited for, a while. */
    caches = r->conf->cache_dir || r->conf->n_regions > 0;
    if (!caches || !qc_flights_wait(&r->flights, PATIENCE_S)) {
        qc_http_abort(r->http);
        qc_flights_wait(&r->flights, UINT32_MAX / 2);
    }
    for (uint32_t i = 0; r->region && i < r->conf->n_regions; i++)
        qc_region_destroy(r->region[i]);
    qc_free(r->region);
    r->region = NULL;
    qc_http_destroy(r->http);
    r->http = NULL;
}

void qc_remote_destroy(struct qc_remote *r)
{
    if (!r)
        return;
    qc_remote_stop(r);
    qc_disk_close(r->disk);
    qc_health_destroy(r->health);
    qc_credentials_destroy(r->creds);
    qc_conf_free(r->conf);
    qc_flights_finish(&r->flights);
    pthread_mutex_destroy(&r->lock);
    qc_free(r);
}

uint64_t qc_remote_latency_us(struct qc_remote *r, bool first_byte, unsigned percentile)
{
    return first_byte ? qc_http_first_byte_us(r->http, percentile)
                      : qc_http_total_us(r->http, percentile);
}

bool qc_remote_name(const char *name)
{
    static const char *const scheme[] = {"http://", "https://", "s3://", "az://", "gs://"};

    for (size_t i = 0; i < sizeof(scheme) / sizeof(scheme[0]); i++)
        if (strncasecmp(name, scheme[i], strlen(scheme[i])) == 0)
            return true;
    return false;
}

/* ------------------------------------------------------------------- missing --- */

static uint64_t hash_place(const struct qc_place *p)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);

    for (const char *s = qc_place_key(p); *s; s++)
        h = (h ^ (unsigned char)*s) * UINT64_C(0x100000001b3);
    for (const char *s = qc_place_scope(p); *s; s++)
        h = (h ^ (unsigned char)*s) * UINT64_C(0x100000001b3);
    return h;
}

static void note_missing(struct qc_remote *r, const struct qc_place *p, bool missing)
{
    uint64_t hash = hash_place(p);
    struct qc_missing *m = &r->missing[hash % QC_MISSING];

    pthread_mutex_lock(&r->lock);
    if (missing)
        *m = (struct qc_missing){hash, qc_now_ns() + MISSING_NS};
    else if (m->hash == hash)
        m->until_ns = 0;
    pthread_mutex_unlock(&r->lock);
}

static bool is_missing(struct qc_remote *r, const struct qc_place *p)
{
    uint64_t hash = hash_place(p);
    const struct qc_missing *m = &r->missing[hash % QC_MISSING];
    bool missing;

    pthread_mutex_lock(&r->lock);
    missing = m->hash == hash && qc_now_ns() < m->until_ns;
    pthread_mutex_unlock(&r->lock);
    return missing;
}

/* ------------------------------------------------------------------- opening --- */

/* The caller's until finish or abandon, the request's until it is done. */
struct qc_opening {
    struct qc_http_request req; /* first */
    struct qc_remote      *r;
    struct qc_place       *place;
    struct qc_place       *places[QC_ORIGIN_REPLICAS + 1]; /* it, and its replicas; counted */
    uint32_t               n_places, at; /* at: that is asked */
    uint32_t               tried;   /* a bit each */
    bool                   patient; /* all were tried: with retries now */
    struct qc_block       *block; /* where the first bytes go */
    uint32_t               flags;
    bool                   known; /* no request: the pin is */
    struct qc_pin          pin;
    atomic_uint            users;
    pthread_mutex_t        lock;  /* guards what follows */
    pthread_cond_t         told;
    size_t                 have;
    bool                   over;
    int                    ret;
    struct qc_flight      *flight; /* once there is an object */
    struct qc_object      *object; /* counted, for seeding */
    struct qc_tier        *seed;
};

static void drop_opening(struct qc_opening *o)
{
    if (!o || atomic_fetch_sub(&o->users, 1) > 1)
        return;
    qc_block_unpin(o->r->deps.blocks, o->block);
    qc_place_unref(o->place);
    for (uint32_t i = 0; i < o->n_places; i++)
        qc_place_unref(o->places[i]);
    pthread_mutex_destroy(&o->lock);
    pthread_cond_destroy(&o->told);
    qc_free(o);
}

static void opening_progress(struct qc_http_request *req, size_t have)
{
    struct qc_opening *o = (struct qc_opening *)(void *)req;
    struct qc_flight *f;

    pthread_mutex_lock(&o->lock);
    o->have = have;
    f = o->flight;
    pthread_mutex_unlock(&o->lock);
    pthread_cond_signal(&o->told); /* who wakes finds the lock free */
    if (f)
        qc_flight_progress(f, have);
}

/* The first bytes are there, or will not come. */
static void end_flight(struct qc_opening *o, struct qc_flight *f, int ret)
{
    if (o->seed && ret == 0)
        qc_seed_run(o->object, o->seed, o->req.buf, o->object->head);
    qc_flight_over(f, ret, &o->req.err);
    qc_object_drop(o->object);
}

static void opening_done(struct qc_http_request *req, int ret)
{
    struct qc_opening *o = (struct qc_opening *)(void *)req;
    struct qc_flights *flights = &o->r->flights;
    struct qc_flight *f;

    if (ret == QCHAIN_E_NOTFOUND && o->flags & QC_REMOTE_MISSING_OK)
        note_missing(o->r, o->place, true);
    pthread_mutex_lock(&o->lock);
    o->over = true;
    o->ret = ret;
    o->have = req->have;
    f = o->flight;
    pthread_mutex_unlock(&o->lock);
    pthread_cond_signal(&o->told);
    if (f)
        end_flight(o, f, ret);
    drop_opening(o);
    qc_flights_leave(flights);
}

static int find_places(struct qc_opening *o, qchain_error *err)
{
    uint32_t n;
    int ret;

    o->places[0] = qc_place_ref(o->place);
    o->n_places = 1;
    ret = qc_remote_replicas(o->r, qc_place_name(o->place), o->places + 1, &n, err);
    o->n_places += n;
    return ret;
}

static struct qc_opening *new_opening(struct qc_remote *r, const char *name, uint32_t flags,
                                      qchain_error *err)
{
    struct qc_opening *o = qc_calloc(1, sizeof(*o));

    if (!o) {
        qc_fail_nomem(err);
        return NULL;
    }
    o->r = r;
    o->flags = flags;
    atomic_init(&o->users, 1);
    qc_error_init(&o->req.err);
    pthread_mutex_init(&o->lock, NULL);
    pthread_cond_init(&o->told, NULL);
    if (qc_place_create(&o->place, r->creds, name, err) == 0 && find_places(o, err) == 0)
        return o;
    drop_opening(o);
    return NULL;
}

/* Ask the place whose turn it is. Where there are others it gets one attempt, and its part of the
 * time. */
static int request_head(struct qc_opening *o, qchain_error *err)
{
    size_t length = o->flags & QC_REMOTE_WHOLE   ? WHOLE_BYTES
                    : o->flags & QC_REMOTE_BRIEF ? BRIEF_BYTES
                                                 : HEAD_BYTES;
    bool once = o->flags & QC_REMOTE_MISSING_OK || (o->n_places > 1 && !o->patient);

    if (!o->block)
        o->block = qc_block_new(length);
    if (!o->block)
        return qc_fail_nomem(err);
    o->have = 0;
    o->over = false;
    o->tried |= UINT32_C(1) << o->at;
    o->req.place = o->places[o->at];
    o->req.deadline_ms = o->n_places > 1 ? o->r->conf->deadline_ms / (o->n_places + 1) : 0;
    o->req.method = QC_HTTP_GET;
    /* What may well not be there is not worth much waiting. */
    o->req.flags = QC_HTTP_META | (once ? QC_HTTP_ONCE : 0) |
                   (o->flags & QC_REMOTE_MISSING_OK ? QC_HTTP_MISSING_OK : 0);
    o->req.length = length;
    o->req.buf = o->block->data;
    o->req.progress = opening_progress;
    o->req.done = opening_done;
    atomic_fetch_add(&o->users, 1);
    qc_flights_enter(&o->r->flights);
    qc_http_submit(o->r->http, &o->req);
    return 0;
}

/* The next place that was not asked yet, those first whose servers are well; and when all were, once,
 * the origin again, with patience. False: there is none. */
static bool next_place(struct qc_opening *o)
{
    if (o->n_places < 2 || o->patient)
        return false;
    for (unsigned pass = 0; pass < 2; pass++)
        for (uint32_t i = 0; i < o->n_places; i++)
            if (!(o->tried >> i & 1) &&
                (pass > 0 || qc_health_may_ask(o->r->health, o->places[i]))) {
                o->at = i;
                return true;
            }
    o->patient = true;
    o->at = 0;
    return true;
}

int qc_remote_begin(struct qc_opening **out, struct qc_remote *r, const char *name, uint32_t flags,
                    qchain_error *err)
{
    struct qc_opening *o = new_opening(r, name, flags, err);
    struct qc_disk *disk;
    int ret = 0;

    if (!o)
        return err ? err->code : QCHAIN_E_NOMEM;
    disk = r->conf->revalidate_s ? qc_remote_disk(r) : NULL;
    if (flags & QC_REMOTE_MISSING_OK && is_missing(r, o->place)) {
        o->over = true;
        o->ret = qc_fail(&o->req.err, QCHAIN_E_NOTFOUND, "was not there a moment ago");
    } else if (disk && qc_disk_find_pin(disk, qc_place_key(o->place), qc_place_scope(o->place),
                                        r->conf->revalidate_s, &o->pin) == 0 &&
               (!qc_pin_is_missing(&o->pin) || flags & QC_REMOTE_MISSING_OK)) {
        o->known = !qc_pin_is_missing(&o->pin);
        o->over = !o->known;
        if (o->over)
            o->ret = qc_fail(&o->req.err, QCHAIN_E_NOTFOUND, "was not there a while ago");
    } else {
        o->tried = 0;
        if (o->n_places > 1)
            next_place(o);
        ret = request_head(o, err);
    }
    if (ret == 0)
        *out = o;
    else
        drop_opening(o);
    return ret;
}

void qc_remote_abandon(struct qc_opening *o)
{
    if (!o)
        return;
    pthread_mutex_lock(&o->lock);
    if (!o->over && !o->known)
        qc_http_cancel(o->r->http, &o->req);
    pthread_mutex_unlock(&o->lock);
    drop_opening(o);
}

static int wait_for_head(struct qc_opening *o)
{
    int ret;

    pthread_mutex_lock(&o->lock);
    while (!o->over && o->have < FIRST_BYTES)
        pthread_cond_wait(&o->told, &o->lock);
    ret = o->over ? o->ret : 0;
    pthread_mutex_unlock(&o->lock);
    return ret;
}

/* Failures of the place, not of the request: another one may do better. */
static bool may_be_elsewhere(const struct qc_opening *o, int ret)
{
    return ret == QCHAIN_E_NET || ret == QCHAIN_E_TIMEOUT || ret == QCHAIN_E_THROTTLED ||
           ret == QCHAIN_E_AUTH || ret == QCHAIN_E_ACCESS || ret == QCHAIN_E_CORRUPT ||
           ret == QCHAIN_E_UNSUPPORTED ||
           (ret == QCHAIN_E_NOTFOUND && !(o->flags & QC_REMOTE_MISSING_OK));
}

/* Wait for the head, and ask elsewhere while that may help. Of failures the origin's own is told. */
static int settle(struct qc_opening *o, qchain_error *err)
{
    struct qc_remote *r = o->r;
    qchain_error why;
    int ret;

    qc_error_init(&why);
    for (;;) {
        ret = wait_for_head(o);
        if (o->n_places > 1)
            qc_health_tell(r->health, o->places[o->at], ret);
        if (ret == 0 && o->at > 0)
            qc_count(r->deps.slots, QC_CNT_FAILOVERS, 1);
        if (ret == 0)
            return 0;
        if (why.code == 0 || o->at == 0)
            why = o->req.err;
        if (!may_be_elsewhere(o, ret) || !next_place(o))
            break;
        ret = request_head(o, &why);
        if (ret != 0)
            break;
    }
    qc_error_copy(err, &why);
    return why.code;
}

static int make_object(struct qc_object **out, struct qc_remote *r, struct qc_place *place,
                       struct qc_place *first, const struct qc_pin *pin, struct qc_tier **seed, uint32_t head,
                       qchain_error *err)
{
    struct qc_escaped shown;
    struct qc_tier *tier;
    int ret = qc_remote_tiers(&tier, r, place, first, pin, seed, err);

    if (ret != 0)
        return ret;
    if (!qc_pin_is_set(pin))
        qc_log(r->deps.log, QCHAIN_LOG_WARN, "remote", "%s: the server sends neither ETag nor "
               "Last-Modified: a change that keeps the size is not noticed",
               qc_escape_str(&shown, qc_place_shown(place)));
    return qc_object_create(out, &r->flights, place, pin, tier,
                            atomic_fetch_add(r->deps.next_owner, 1),
                            (uint32_t)qc_min64(head, pin->size), err);
}

/* Have the request's bytes become the object's first flight. */
static int attach(struct qc_opening *o, struct qc_object *object, qchain_error *err)
{
    struct qc_flight *f;
    bool over;

    if (object->pin.size == 0)
        return 0;
    f = qc_flight_begin(object, o->block, object->head);
    if (!f)
        return qc_fail_nomem(err);
    pthread_mutex_lock(&o->lock);
    o->block = NULL; /* the flight's now */
    o->object = object;
    atomic_fetch_add(&object->users, 1);
    over = o->over;
    if (!over) {
        /* From now on others tell the flight, and end it: what is there it is told before. Nobody
         * waits for it yet. */
        qc_flight_progress(f, o->have);
        o->flight = f;
    }
    pthread_mutex_unlock(&o->lock);
    if (over)
        end_flight(o, f, o->ret);
    return 0;
}

/* For other processes that share the disk cache. */
static void note_pin(struct qc_opening *o, const struct qc_pin *pin)
{
    struct qc_disk *disk = qc_remote_disk(o->r);

    if (disk && qc_pin_is_set(pin))
        qc_disk_note_pin(disk, qc_place_key(o->place), qc_place_scope(o->place), pin);
}

int qc_remote_finish(struct qc_opening *o, struct qc_store **out, qchain_error *err)
{
    struct qc_remote *r = o->r;
    struct qc_object *object = NULL;
    const struct qc_pin missing = qc_pin_missing();
    uint32_t head = HEAD_BYTES;
    int ret = 0;

    if (!o->known) {
        ret = settle(o, err);
        if (ret == QCHAIN_E_NOTFOUND && o->flags & QC_REMOTE_MISSING_OK && o->req.attempts > 0)
            note_pin(o, &missing);
        o->pin = o->req.got;
        head = (uint32_t)o->req.length;
    }
    if (ret == 0)
        ret = make_object(&object, r, o->place, o->places[o->at], &o->pin, &o->seed, head, err);
    if (ret == 0 && !o->known)
        ret = attach(o, object, err);
    if (ret == 0 && !o->known)
        note_pin(o, &o->pin);
    if (ret == 0)
        ret = qc_object_store(object, r->deps.slots, out, err);
    else
        qc_object_drop(object);
    if (ret == 0)
        drop_opening(o);
    else
        qc_remote_abandon(o); /* nobody wants what is still on its way */
    return ret;
}

int qc_remote_open_pinned(struct qc_store **out, struct qc_remote *r, const char *name,
                          const struct qc_pin *pin, qchain_error *err)
{
    struct qc_object *object;
    struct qc_place *place;
    int ret = qc_place_create(&place, r->creds, name, err);

    if (ret != 0)
        return ret;
    ret = make_object(&object, r, place, place, pin, NULL, HEAD_BYTES, err);
    if (ret == 0)
        ret = qc_object_store(object, r->deps.slots, out, err);
    qc_place_unref(place);
    return ret;
}

/* ------------------------------------------------------------------ of stores --- */

bool qc_remote_is(const struct qc_store *s)
{
    return qc_object_of(s) != NULL;
}

const struct qc_pin *qc_remote_pin(const struct qc_store *s)
{
    const struct qc_object *o = qc_object_of(s);

    return o ? &o->pin : NULL;
}

void qc_remote_keep(const struct qc_store *s, bool keep)
{
    struct qc_object *o = qc_object_of(s);

    if (o)
        atomic_store(&o->keep, keep);
}

void qc_remote_give_up(const struct qc_store *s)
{
    struct qc_object *o = qc_object_of(s);

    if (o)
        qc_object_give_up(o);
}

char *qc_remote_sibling(const struct qc_store *s, const char *suffix)
{
    const struct qc_object *o = qc_object_of(s);

    return o ? qc_place_sibling(o->place, suffix) : NULL;
}

int qc_remote_sibling_of(char **out, struct qc_remote *r, const char *name, const char *suffix,
                         qchain_error *err)
{
    struct qc_place *place;
    int ret = qc_place_create(&place, r->creds, name, err);

    if (ret != 0)
        return ret;
    *out = qc_place_sibling(place, suffix);
    qc_place_unref(place);
    return 0;
}

/* ------------------------------------------------------------------- writing --- */

static int perform(struct qc_remote *r, const char *name, struct qc_http_request *req,
                   qchain_error *err)
{
    int ret = qc_place_create(&req->place, r->creds, name, err);

    if (ret != 0)
        return ret;
    qc_error_init(&req->err);
    ret = qc_http_perform(r->http, req);
    if (ret != 0)
        qc_error_copy(err, &req->err);
    else
        note_missing(r, req->place, false);
    forget_place(r, req->place);
    qc_place_unref(req->place);
    return ret;
}

int qc_remote_put(struct qc_remote *r, const char *name, const void *buf, size_t length, bool if_absent,
                  qchain_error *err)
{
    struct qc_http_request req = {.method = QC_HTTP_PUT, .length = length,
                                  .buf = (void *)(uintptr_t)buf,
                                  .flags = if_absent ? QC_HTTP_IF_ABSENT : 0};

    req.deadline_ms = r->conf->deadline_ms +
                      (uint32_t)qc_min64(length / PUT_BYTES_A_MS, PUT_MORE_MS);
    return perform(r, name, &req, err);
}

int qc_remote_delete(struct qc_remote *r, const char *name, qchain_error *err)
{
    struct qc_http_request req = {.method = QC_HTTP_DELETE};

    return perform(r, name, &req, err);
}
