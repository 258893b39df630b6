/* SPDX-License-Identifier: MIT */
#include "net/place.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "net/config_int.h"
#include "net/credentials_int.h"
#include "net/place_int.h"
#include "util/alloc.h"
#include "util/error.h"
#include "util/escape.h"

/* ----------------------------------------------------------------- creation --- */

static int kind_of(const char *scheme, enum qc_place_kind *kind)
{
    static const struct {
        const char *scheme;
        enum qc_place_kind kind;
    } table[] = {{"http", QC_PLACE_WEB}, {"https", QC_PLACE_WEB}, {"s3", QC_PLACE_S3},
                 {"gs", QC_PLACE_GS}, {"az", QC_PLACE_AZ}};

    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++)
        if (strcmp(table[i].scheme, scheme) == 0) {
            *kind = table[i].kind;
            return 0;
        }
    return QCHAIN_E_UNSUPPORTED;
}

/* One of ours? Then what is odd in its path may be encoded; object names are never touched. */
static bool is_web(const char *name)
{
    return strncasecmp(name, "http://", 7) == 0 || strncasecmp(name, "https://", 8) == 0;
}

static int parse_name(struct qc_place *p, const char *name, qchain_error *err)
{
    char *clean = is_web(name) ? qc_place_web_clean(name) : qc_strdup(name);
    struct qc_escaped e;
    int ret;

    p->shown = qc_url_shown(name);
    if (!clean || !p->shown) {
        qc_conf_wipe(clean);
        return qc_fail_nomem(err);
    }
    ret = qc_url_parse(&p->url, clean, err);
    qc_conf_wipe(clean);
    if (ret) {
        qc_error_prefix(err, -1, "'%s': ", qc_escape_str(&e, p->shown));
        return ret;
    }
    if (kind_of(p->url.scheme, &p->kind) != 0)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED, "'%s': URLs of http, https, s3, az and gs can be "
                       "opened", qc_escape_str(&e, p->shown));
    return 0;
}

static int init_kind(struct qc_place *p, qchain_error *err)
{
    struct qc_escaped e;

    if (p->kind == QC_PLACE_WEB)
        return qc_place_web_init(p, err);
    if (p->url.path[1] == '\0')
        return qc_fail(err, QCHAIN_E_INVAL, "'%s' names a bucket, but no object in it",
                       qc_escape_str(&e, p->shown));
    p->path = qc_url_encode(p->url.path, strlen(p->url.path), QC_URL_KEEP_SLASH);
    if (!p->path)
        return qc_fail_nomem(err);
    return p->kind == QC_PLACE_AZ ? qc_place_az_init(p, err) : qc_place_s3_init(p, err);
}

static int set_name(struct qc_place *p, qchain_error *err)
{
    char *origin = qc_url_origin(&p->url);

    p->name = origin ? qc_asprintf("%s%s", origin, p->url.path) : NULL;
    qc_free(origin);
    return p->name ? 0 : qc_fail_nomem(err);
}

int qc_place_create(struct qc_place **out, struct qc_credentials *creds, const char *name,
                    qchain_error *err)
{
    struct qc_place *p = qc_calloc(1, sizeof(*p));
    int ret;

    *out = NULL;
    if (!p)
        return qc_fail_nomem(err);
    atomic_init(&p->refs, 1);
    p->creds = creds;
    pthread_mutex_init(&p->lock, NULL);
    ret = parse_name(p, name, err);
    if (ret == 0)
        ret = init_kind(p, err);
    if (ret == 0)
        ret = set_name(p, err);
    if (ret)
        qc_place_unref(p);
    else
        *out = p;
    return ret;
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
    qc_url_finish(&p->url);
    qc_conf_wipe(p->userinfo);
    qc_login_unref(p->own);
    qc_free(p->path);
    qc_free(p->shown);
    qc_free(p->name);
    qc_free(p->key);
    qc_conf_wipe(p->target);
    pthread_mutex_destroy(&p->lock);
    qc_free(p);
}

/* -------------------------------------------------------------------- names --- */

const char *qc_place_shown(const struct qc_place *p)
{
    return p->shown;
}

const char *qc_place_name(const struct qc_place *p)
{
    return p->name;
}

const char *qc_place_key(const struct qc_place *place)
{
    struct qc_place *p = (struct qc_place *)place;
    bool known;

    pthread_mutex_lock(&p->lock);
    known = p->key_known;
    pthread_mutex_unlock(&p->lock);
    if (!known)
        qc_place_s3_settle_key(p);
    return p->key; /* which is never another from now on */
}

/* The login to use now, counted, or NULL: one must be got first. */
static struct qc_login *login_now(struct qc_place *p)
{
    return p->own ? qc_login_ref(p->own) : qc_site_login(p->site);
}

static void hash_scope(struct qc_place *p, const struct qc_login *l)
{
    struct qc_sha256 h;
    uint8_t digest[32];
    bool presigned;

    if (!l->identity && !p->url.query)
        return;
    qc_sha256_init(&h);
    if (l->identity)
        qc_sha256_update(&h, l->identity, strlen(l->identity));
    qc_sha256_update(&h, "\n", 1);
    if (p->url.query)
        qc_place_query_scope(p->url.query, &h, &presigned);
    qc_sha256_finish(&h, digest);
    for (int i = 0; i < 32; i++)
        snprintf(p->scope + (size_t)(2 * i), 3, "%02x", digest[i]);
}

void qc_place_lonely(char *out, size_t size)
{
    uint64_t r[2];

    /* what cannot be had is drawn from what differs between any two calls */
    if (getrandom(r, sizeof(r), GRND_NONBLOCK) != (ssize_t)sizeof(r)) {
        struct timespec t;

        clock_gettime(CLOCK_MONOTONIC, &t);
        r[0] = (uint64_t)getpid() << 32 ^ (uint64_t)(uintptr_t)out;
        r[1] = (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
    }
    snprintf(out, size, "%016llx%016llx", (unsigned long long)r[0], (unsigned long long)r[1]);
}

const char *qc_place_scope(const struct qc_place *place)
{
    struct qc_place *p = (struct qc_place *)place;
    struct qc_login *l;
    bool known;

    pthread_mutex_lock(&p->lock);
    known = p->scope_known;
    pthread_mutex_unlock(&p->lock);
    if (known)
        return p->scope;
    l = login_now(p);
    if (!l && qc_place_prepare(p, false, NULL) == 0)
        l = login_now(p);
    pthread_mutex_lock(&p->lock);
    if (!p->scope_known) {
        if (l)
            hash_scope(p, l);
        else
            qc_place_lonely(p->scope, sizeof(p->scope));
        p->scope_known = true;
    }
    pthread_mutex_unlock(&p->lock);
    qc_login_unref(l);
    return p->scope;
}

char *qc_place_sibling(const struct qc_place *p, const char *suffix)
{
    char *origin, *out = NULL;

    if (p->presigned)
        return NULL;
    if (p->kind != QC_PLACE_WEB)
        return qc_asprintf("%s://%s%s%s", p->url.scheme, p->url.host, p->url.path, suffix);
    origin = qc_url_origin(&p->url);
    if (origin)
        out = qc_asprintf("%s://%s%s%s%s%s", p->url.scheme, p->userinfo ? p->userinfo : "",
                          p->userinfo ? "@" : "", origin + strlen(p->url.scheme) + 3, p->url.path,
                          suffix);
    qc_free(origin);
    return out;
}

/* ---------------------------------------------------------------- redirects --- */

/* A request with credentials goes where they belong. */
static bool is_for(struct qc_place *p, const char *target)
{
    struct qc_login *l = login_now(p);
    bool anyone = l && !l->access_key && !l->session_token, same = false;
    char *origin;

    qc_login_unref(l);
    if (anyone)
        return true;
    if (p->kind != QC_PLACE_WEB)
        return false; /* the signature is for another URL */
    origin = qc_url_origin(&p->url);
    if (origin)
        same = strncmp(target, origin, strlen(origin)) == 0 &&
               strchr("/?", target[strlen(origin)]); /* or its end */
    qc_free(origin);
    return same;
}

char *qc_place_target(struct qc_place *p)
{
    char *out;

    pthread_mutex_lock(&p->lock);
    out = p->target ? qc_strdup(p->target) : NULL;
    pthread_mutex_unlock(&p->lock);
    if (!out || is_for(p, out))
        return out;
    qc_conf_wipe(out);
    return NULL;
}

void qc_place_set_target(struct qc_place *p, const char *url)
{
    char *copy = url ? qc_strdup(url) : NULL, *old;

    pthread_mutex_lock(&p->lock);
    old = p->target;
    p->target = copy;
    pthread_mutex_unlock(&p->lock);
    qc_conf_wipe(old);
}

/* ------------------------------------------------------------------ signing --- */

bool qc_place_is_ready(struct qc_place *p)
{
    struct qc_login *l = login_now(p);

    qc_login_unref(l);
    return l && (p->kind != QC_PLACE_S3 || qc_aws_settings_known(p->creds));
}

int qc_place_prepare(struct qc_place *p, bool refresh, qchain_error *err)
{
    const char *endpoint, *region;
    uint64_t refused = 0;
    int ret = p->kind == QC_PLACE_S3 ? qc_aws_settings(p->creds, &endpoint, &region, err) : 0;

    if (ret || p->own)
        return ret;
    if (refresh) {
        pthread_mutex_lock(&p->lock);
        refused = p->used;
        pthread_mutex_unlock(&p->lock);
    }
    return qc_site_prepare(p->site, refused, err);
}

int qc_signed_add(struct qc_signed *s, char *header, qchain_error *err)
{
    char **more = header ? qc_realloc(s->header, s->n_headers + 1, sizeof(*more)) : NULL;

    if (!more) {
        qc_conf_wipe(header);
        return qc_fail_nomem(err);
    }
    s->header = more;
    s->header[s->n_headers++] = header;
    return 0;
}

void qc_signed_finish(struct qc_signed *s)
{
    qc_conf_wipe(s->url);
    for (size_t i = 0; i < s->n_headers; i++)
        qc_conf_wipe(s->header[i]);
    qc_free(s->header);
    qc_free(s->sigv4);
    qc_conf_wipe(s->user);
    qc_conf_wipe(s->password);
    memset(s, 0, sizeof(*s));
}

int qc_place_sign(struct qc_place *p, enum qc_http_method method, uint64_t length,
                  const char *range, const char *const *extra, size_t n_extra,
                  struct qc_signed *out, bool *range_signed, qchain_error *err)
{
    struct qc_to_sign r = {method, length, range, extra, n_extra};
    struct qc_login *l = login_now(p);
    struct qc_escaped e;
    int ret = 0;

    memset(out, 0, sizeof(*out));
    *range_signed = false;
    if (!l)
        return qc_fail(err, QCHAIN_E_AUTH, "'%s': there are no credentials yet",
                       qc_escape_str(&e, p->shown));
    for (size_t i = 0; ret == 0 && i < n_extra; i++)
        ret = qc_signed_add(out, qc_strdup(extra[i]), err);
    if (ret == 0)
        ret = p->kind == QC_PLACE_WEB ? qc_place_web_sign(p, l, &r, out, err)
              : p->kind == QC_PLACE_AZ ? qc_place_az_sign(p, l, &r, out, range_signed, err)
                                       : qc_place_s3_sign(p, l, &r, out, err);
    pthread_mutex_lock(&p->lock);
    p->used = l->number;
    pthread_mutex_unlock(&p->lock);
    qc_login_unref(l);
    if (ret)
        qc_signed_finish(out);
    return ret;
}
