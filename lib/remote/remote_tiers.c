/* SPDX-License-Identifier: MIT */
/* Which tiers an object has, by the configuration. */
#include <stdlib.h>
#include <string.h>

#include "remote/remote_int.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/escape.h"

/* -------------------------------------------------------------------- seeding --- */

/*
 * An object's first bytes come before its tiers are known. This tier lies below the disk cache for as
 * long as it takes to offer them to it: asked for them, it answers from memory.
 */
struct seed {
    struct qc_tier  t;
    pthread_mutex_t lock;
    char           *bytes; /* NULL: nothing to offer yet, or any more; under the lock */
    size_t          length;
};

static bool seed_answers(struct seed *s, struct qc_fetch *f)
{
    bool has;

    pthread_mutex_lock(&s->lock);
    has = s->bytes && f->offset == 0 && f->length <= s->length;
    if (has)
        memcpy(f->buf, s->bytes, f->length);
    pthread_mutex_unlock(&s->lock);
    return has;
}

static void seed_fetch(struct qc_tier *t, struct qc_fetch *f)
{
    if (f->flags & QC_FETCH_META && seed_answers((struct seed *)(void *)t, f))
        f->done(f, 0);
    else
        qc_tier_fetch(t->below, f);
}

static void seed_set(struct seed *s, char *bytes, size_t length)
{
    pthread_mutex_lock(&s->lock);
    qc_free(s->bytes);
    s->bytes = bytes;
    s->length = length;
    pthread_mutex_unlock(&s->lock);
}

static void seed_close(struct qc_tier *t)
{
    struct seed *s = (struct seed *)(void *)t;

    qc_tier_close(t->below);
    qc_free(s->bytes);
    pthread_mutex_destroy(&s->lock);
    qc_free(s);
}

static const struct qc_tier_ops seed_ops = {.name = "seed", .fetch = seed_fetch, .close = seed_close};

static struct qc_tier *seed_create(struct qc_tier *below)
{
    struct seed *s = qc_calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->t.ops = &seed_ops;
    s->t.below = below;
    pthread_mutex_init(&s->lock, NULL);
    return &s->t;
}

struct seeding {
    struct qc_fetch   f;
    struct qc_object *o;
    struct seed      *seed;
    char              buf[]; /* what the fetch gives: the same bytes */
};

static void seeding_done(struct qc_fetch *f, int ret)
{
    struct seeding *s = (struct seeding *)(void *)f;
    struct qc_flights *flights = s->o->shared;

    (void)ret;
    seed_set(s->seed, NULL, 0);
    qc_object_drop(s->o);
    qc_free(s);
    qc_flights_leave(flights);
}

void qc_seed_run(struct qc_object *o, struct qc_tier *seed, const void *bytes, size_t length)
{
    struct seeding *s = qc_calloc(1, sizeof(*s) + length);
    char *copy = qc_malloc(length);

    if (!s || !copy) {
        qc_free(s);
        qc_free(copy);
        return;
    }
    memcpy(copy, bytes, length);
    s->seed = (struct seed *)(void *)seed;
    seed_set(s->seed, copy, length);
    qc_error_init(&s->f.err);
    s->f.buf = s->buf;
    s->f.length = length;
    s->f.flags = QC_FETCH_META;
    s->f.done = seeding_done;
    s->o = o;
    atomic_fetch_add(&o->users, 1);
    qc_flights_enter(o->shared); /* its tiers are in use until it is over */
    qc_tier_fetch(o->tier, &s->f);
}

/* -------------------------------------------------------------------- choosing --- */

/* Who takes log lines may do anything: so not under the lock. */
static void tell_disk(struct qc_remote *r, const qchain_error *why)
{
    struct qc_escaped shown;

    qc_escape_str(&shown, r->conf->cache_dir);
    if (why->code != 0)
        qc_log(r->deps.log, QCHAIN_LOG_WARN, "cache", "'%s' is not used: %s", shown.text, why->text);
    else if (!qc_disk_is_writable(r->disk))
        qc_log(r->deps.log, QCHAIN_LOG_INFO, "cache", "'%s' may not be written to: it is only read from",
               shown.text);
}

struct qc_disk *qc_remote_disk(struct qc_remote *r)
{
    struct qc_disk_opts o = {.max_bytes = r->conf->cache_bytes, .leaves = r->deps.leaves,
                             .blocks = r->deps.blocks, .next_owner = r->deps.next_owner,
                             .slots = r->deps.slots, .log = r->deps.log};
    qchain_error why;
    bool first;

    if (!r->conf->cache_dir)
        return NULL;
    pthread_mutex_lock(&r->lock);
    first = !r->disk_tried;
    if (first) {
        r->disk_tried = true;
        qc_error_init(&why);
        if (qc_disk_open(&r->disk, r->conf->cache_dir, &o, &why) != 0)
            r->disk = NULL;
    }
    pthread_mutex_unlock(&r->lock);
    if (first)
        tell_disk(r, &why);
    return r->disk;
}

/* What stands behind the prefix, which ends in '/', in a name; NULL: it does not begin so. */
static const char *behind(const char *name, const char *prefix)
{
    size_t len = strlen(prefix);

    return strncmp(name, prefix, len) == 0 ? name + len : NULL;
}

/* A name beneath url. */
static char *beneath(const char *url, const char *rest)
{
    size_t len = strlen(url);

    return qc_asprintf("%s%s%s", url, len > 0 && url[len - 1] == '/' ? "" : "/", rest);
}

int qc_remote_replicas(struct qc_remote *r, const char *name, struct qc_place **place, uint32_t *n,
                       qchain_error *err)
{
    const char *rest;
    char *other;
    int ret = 0;

    *n = 0;
    for (uint32_t i = 0; ret == 0 && i < r->conf->n_replicas && *n < QC_ORIGIN_REPLICAS; i++) {
        rest = behind(name, r->conf->replica[i].prefix);
        if (!rest)
            continue;
        other = beneath(r->conf->replica[i].url, rest);
        ret = other ? qc_place_create(&place[*n], r->creds, other, err) : qc_fail_nomem(err);
        *n += ret == 0;
        qc_free(other);
    }
    return ret;
}

static struct qc_region *find_region(struct qc_remote *r, const char *name)
{
    struct qc_region *found = NULL;
    struct qc_escaped shown;
    qchain_error why;
    uint32_t i = 0;

    while (i < r->conf->n_regions && !behind(name, r->conf->region[i].prefix))
        i++;
    if (i == r->conf->n_regions)
        return NULL;
    pthread_mutex_lock(&r->lock);
    if (!r->region)
        r->region = qc_calloc(r->conf->n_regions, sizeof(*r->region));
    qc_error_init(&why);
    if (r->region && !r->region[i])
        qc_region_create(&r->region[i], r->http, r->creds, r->conf->region[i].url, r->deps.log,
                         r->deps.slots, &why);
    if (r->region)
        found = r->region[i];
    pthread_mutex_unlock(&r->lock);
    if (why.code != 0)
        qc_log(r->deps.log, QCHAIN_LOG_WARN, "cache", "region '%s' is not used: %s",
               qc_escape_str(&shown, r->conf->region[i].prefix), why.text);
    return found;
}

/* The disk cache over what there is so far. */
static int add_disk(struct qc_tier **tier, struct qc_remote *r, struct qc_place *place,
                    const struct qc_pin *pin, struct qc_tier **seed, qchain_error *err)
{
    struct qc_disk *disk = qc_remote_disk(r);
    struct qc_tier *below = *tier, *s = NULL;
    int ret;

    /* What cannot be told from its next generation is not kept beyond this process. */
    if (!disk || !qc_pin_is_set(pin))
        return 0;
    if (seed)
        s = seed_create(below);
    *tier = NULL;
    ret = qc_disk_tier_create(tier, disk, qc_place_key(place), qc_place_scope(place), pin,
                              s ? s : below, err);
    if (ret == 0 && seed)
        *seed = s;
    return ret;
}

/* The lowest tier: whoever told the pin first, then the others. */
static int make_origin(struct qc_tier **out, struct qc_remote *r, struct qc_place *place,
                       struct qc_place *first, const struct qc_pin *pin, qchain_error *err)
{
    struct qc_place *replica[QC_ORIGIN_REPLICAS], *other[QC_ORIGIN_REPLICAS];
    uint32_t n = 0, n_others = 0;
    int ret = qc_remote_replicas(r, qc_place_name(place), replica, &n, err);

    if (first != place)
        other[n_others++] = place;
    for (uint32_t i = 0; i < n && n_others < QC_ORIGIN_REPLICAS; i++)
        if (strcmp(qc_place_key(replica[i]), qc_place_key(first)) != 0)
            other[n_others++] = replica[i];
    if (ret == 0)
        ret = qc_origin_create(out, r->http, r->health, first, pin, other, n_others, r->deps.log, err);
    for (uint32_t i = 0; i < n; i++)
        qc_place_unref(replica[i]);
    return ret;
}

int qc_remote_tiers(struct qc_tier **out, struct qc_remote *r, struct qc_place *place,
                    struct qc_place *first, const struct qc_pin *pin, struct qc_tier **seed,
                    qchain_error *err)
{
    const char *name = qc_place_name(place);
    struct qc_tier *tier = NULL, *below;
    struct qc_region *region;
    int ret;

    if (seed)
        *seed = NULL;
    ret = make_origin(&tier, r, place, first, pin, err);
    region = ret == 0 && qc_pin_is_set(pin) ? find_region(r, name) : NULL;
    if (region) {
        below = tier;
        tier = NULL;
        ret = qc_regional_create(&tier, region, qc_place_key(place), qc_place_scope(place), pin, below,
                                 err);
    }
    if (ret == 0)
        ret = add_disk(&tier, r, place, pin, seed, err);
    if (ret == 0)
        *out = tier;
    else
        qc_tier_close(tier);
    return ret;
}
