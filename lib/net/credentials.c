/* SPDX-License-Identifier: MIT */
#include "net/credentials.h"

#include <pthread.h>
#include <string.h>
#include <time.h>

#include "net/config_int.h"
#include "net/credentials_int.h"
#include "net/place.h"
#include "util/alloc.h"
#include "util/error.h"

#define RENEW_BEFORE_S 300 /* before they expire */
#define LAST_USE_S 10      /* so short before they are used no more, where they cannot be renewed */
#define CREDENTIAL_MAX 16384
#define REMEMBER_MS 5000   /* a failure */

struct qc_site {
    struct qc_site        *next;
    struct qc_credentials *creds;
    enum qc_login_kind     kind;
    char                  *where;  /* "": what is found for all of a kind */
    pthread_mutex_t        lock;   /* for what is below */
    pthread_cond_t         done;   /* somebody who looked has ended */
    bool                   busy;   /* somebody looks */
    struct qc_login       *login;
    int64_t                failed_at; /* ms; 0: it did not */
    qchain_error           failure;
    int64_t                skew;
    char                   region[QC_REGION_MAX];
};

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000 + 1;
}

/* ------------------------------------------------------------------- logins --- */

struct qc_login *qc_login_ref(struct qc_login *l)
{
    atomic_fetch_add(&l->refs, 1);
    return l;
}

void qc_login_unref(struct qc_login *l)
{
    if (!l || atomic_fetch_sub(&l->refs, 1) != 1)
        return;
    qc_conf_wipe(l->access_key);
    qc_conf_wipe(l->secret_key);
    qc_conf_wipe(l->session_token);
    qc_conf_wipe(l->identity); /* may be a token */
    qc_free(l);
}

/* Nothing that could end a header's line, nor longer than any is. strict: what stands bare in a
 * header. */
static bool can_be_sent(const char *s, bool strict)
{
    if (!s)
        return true;
    if (strnlen(s, CREDENTIAL_MAX + 1) > CREDENTIAL_MAX)
        return false;
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;

        if (c < 0x20 || c == 0x7f || (strict && (c == ' ' || c >= 0x80)))
            return false;
    }
    return true;
}

int qc_login_new(struct qc_login **out, enum qc_login_kind kind, const char *what,
                 const char *access_key, const char *secret_key, const char *session_token,
                 qchain_error *err)
{
    bool web = kind == QC_LOGIN_WEB;
    struct qc_login *l;

    *out = NULL;
    if (!can_be_sent(access_key, !web) || !can_be_sent(secret_key, !web) ||
        !can_be_sent(session_token, true))
        return qc_fail(err, QCHAIN_E_AUTH, "%s: the credentials are too long, or have characters "
                       "that credentials cannot have", what);
    if (web && access_key && strchr(access_key, ':'))
        return qc_fail(err, QCHAIN_E_AUTH, "%s: the user's name has a ':'", what);
    l = qc_calloc(1, sizeof(*l));
    if (!l)
        return qc_fail_nomem(err);
    atomic_init(&l->refs, 1);
    if ((access_key && !(l->access_key = qc_strdup(access_key))) ||
        (secret_key && !(l->secret_key = qc_strdup(secret_key))) ||
        (session_token && !(l->session_token = qc_strdup(session_token)))) {
        qc_login_unref(l);
        return qc_fail_nomem(err);
    }
    *out = l;
    return 0;
}

int qc_login_name(struct qc_login *l, const char *way, const char *name, qchain_error *err)
{
    qc_conf_wipe(l->identity);
    l->identity = qc_asprintf("%s %s", way, name);
    return l->identity ? 0 : qc_fail_nomem(err);
}

/* -------------------------------------------------------------------- sites --- */

struct qc_credentials *qc_credentials_create(const qchain_remote *conf, const struct qc_log *log)
{
    struct qc_credentials *c = qc_calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    c->conf = conf;
    c->log = log;
    pthread_mutex_init(&c->lock, NULL);
    pthread_mutex_init(&c->aws_lock, NULL);
    return c;
}

void qc_credentials_destroy(struct qc_credentials *c)
{
    struct qc_site *s;

    if (!c)
        return;
    while ((s = c->site)) {
        c->site = s->next;
        qc_login_unref(s->login);
        pthread_cond_destroy(&s->done);
        pthread_mutex_destroy(&s->lock);
        qc_free(s->where);
        qc_free(s);
    }
    qc_free(c->aws_endpoint);
    pthread_mutex_destroy(&c->aws_lock);
    pthread_mutex_destroy(&c->lock);
    qc_free(c);
}

const qchain_remote *qc_credentials_conf(const struct qc_credentials *c)
{
    return c->conf;
}

const struct qc_log *qc_credentials_log(const struct qc_credentials *c)
{
    return c->log;
}

static struct qc_site *site_new(struct qc_credentials *c, enum qc_login_kind kind,
                                const char *where)
{
    struct qc_site *s = qc_calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->where = qc_strdup(where);
    if (!s->where) {
        qc_free(s);
        return NULL;
    }
    s->creds = c;
    s->kind = kind;
    pthread_mutex_init(&s->lock, NULL);
    pthread_cond_init(&s->done, NULL);
    return s;
}

struct qc_site *qc_site_get(struct qc_credentials *c, enum qc_login_kind kind, const char *where)
{
    struct qc_site *s;

    pthread_mutex_lock(&c->lock);
    for (s = c->site; s; s = s->next)
        if (s->kind == kind && strcmp(s->where, where) == 0)
            break;
    if (!s && (s = site_new(c, kind, where))) {
        s->next = c->site;
        c->site = s;
    }
    pthread_mutex_unlock(&c->lock);
    return s;
}

const char *qc_site_where(const struct qc_site *s)
{
    return s->where;
}

void qc_site_set_skew(struct qc_site *s, int64_t seconds)
{
    pthread_mutex_lock(&s->lock);
    s->skew = seconds;
    pthread_mutex_unlock(&s->lock);
}

int64_t qc_site_skew(struct qc_site *s)
{
    int64_t skew;

    pthread_mutex_lock(&s->lock);
    skew = s->skew;
    pthread_mutex_unlock(&s->lock);
    return skew;
}

void qc_site_set_region(struct qc_site *s, const char *region)
{
    size_t n = strnlen(region, QC_REGION_MAX - 1);

    pthread_mutex_lock(&s->lock);
    memcpy(s->region, region, n);
    s->region[n] = '\0';
    pthread_mutex_unlock(&s->lock);
}

void qc_site_region(struct qc_site *s, char region[QC_REGION_MAX])
{
    pthread_mutex_lock(&s->lock);
    memcpy(region, s->region, QC_REGION_MAX);
    pthread_mutex_unlock(&s->lock);
}

/* ------------------------------------------------------------------ finding --- */

/* Ask the embedder's callback. 1: none of its. */
static int ask_callback(struct qc_site *s, bool renew, struct qc_login **out, qchain_error *err)
{
    const qchain_remote *conf = s->creds->conf;
    qchain_credentials got = {.struct_size = sizeof(got)};
    int ret;

    if (!conf->credentials)
        return 1;
    ret = conf->credentials(conf->callback ? conf->callback->data : NULL, s->where, renew, &got);
    if (ret == 1)
        return 1;
    if (ret != 0)
        return qc_fail(err, ret < 0 ? ret : QCHAIN_E_AUTH, "'%s': the program gave no credentials",
                       s->where);
    ret = qc_login_new(out, s->kind, s->where, got.access_key, got.secret_key, got.session_token,
                       err);
    if (ret)
        return ret;
    (*out)->expires = got.expires;
    if (s->kind == QC_LOGIN_AZ)
        return qc_azure_login_name(*out, err);
    if (got.access_key)
        return qc_login_name(*out, "key", got.access_key, err);
    return got.session_token ? qc_login_name(*out, "token", got.session_token, err) : 0;
}

/* basic, bearer: of this origin. */
static int find_web(struct qc_site *s, struct qc_login **out, qchain_error *err)
{
    const qchain_remote *conf = s->creds->conf;

    for (uint32_t i = 0; i < conf->n_logins; i++) {
        const struct qc_conf_login *l = &conf->login[i];
        int ret;

        if (strcmp(l->origin, s->where) != 0)
            continue;
        ret = qc_login_new(out, s->kind, s->where, l->user, l->user ? l->password : NULL,
                           l->user ? NULL : l->password, err);
        if (ret)
            return ret;
        return qc_login_name(*out, l->user ? "user" : "token", l->user ? l->user : l->password,
                             err);
    }
    return 1;
}

/* What all sites of a kind share is found once, at the site without a name. */
static int find_shared(struct qc_site *s, uint64_t refused, struct qc_login **out,
                       qchain_error *err)
{
    struct qc_site *all = qc_site_get(s->creds, s->kind, "");
    int ret = all ? qc_site_prepare(all, refused, err) : qc_fail_nomem(err);

    if (ret)
        return ret;
    pthread_mutex_lock(&all->lock);
    *out = qc_login_ref(all->login);
    pthread_mutex_unlock(&all->lock);
    return 0;
}

static int find(struct qc_site *s, uint64_t refused, struct qc_login **out, qchain_error *err)
{
    int ret = 1;

    if (s->where[0])
        ret = ask_callback(s, refused != 0, out, err);
    if (ret != 1)
        return ret;
    if (s->kind == QC_LOGIN_WEB)
        ret = find_web(s, out, err);
    else if (s->where[0])
        return find_shared(s, refused, out, err);
    else
        ret = qc_credentials_find(s->creds, s->kind, out, err);
    if (ret == 1) /* nobody's */
        ret = qc_login_new(out, s->kind, s->where, NULL, NULL, NULL, err);
    return ret;
}

/* Under the lock: may the login be used, or must a new one be got first? */
static bool is_usable(const struct qc_site *s)
{
    uint64_t now;

    if (!s->login)
        return false;
    if (!s->login->expires)
        return true;
    now = (uint64_t)((int64_t)time(NULL) + s->skew);
    if (now + RENEW_BEFORE_S < s->login->expires)
        return true;
    return s->failed_at && now_ms() - s->failed_at < REMEMBER_MS &&
           now + LAST_USE_S < s->login->expires;
}

struct qc_login *qc_site_login(struct qc_site *s)
{
    struct qc_login *l = NULL;

    pthread_mutex_lock(&s->lock);
    if (is_usable(s))
        l = qc_login_ref(s->login);
    pthread_mutex_unlock(&s->lock);
    return l;
}

/* Under the lock: what was found becomes the site's; a failure is remembered. */
static void settle(struct qc_site *s, int ret, struct qc_login *found, const qchain_error *err)
{
    if (ret) {
        qc_login_unref(found);
        s->failed_at = ret == QCHAIN_E_NOMEM ? 0 : now_ms();
        s->failure = *err;
        return;
    }
    if (!found->number) /* one of all has its number already */
        found->number = atomic_fetch_add(&s->creds->numbers, 1) + 1;
    qc_login_unref(s->login);
    s->login = found;
    s->failed_at = 0;
}

int qc_site_prepare(struct qc_site *s, uint64_t refused, qchain_error *err)
{
    struct qc_login *found = NULL;
    qchain_error why;
    int ret = 0;

    qc_error_init(&why);
    pthread_mutex_lock(&s->lock);
    while (s->busy)
        pthread_cond_wait(&s->done, &s->lock);
    if (is_usable(s) && s->login->number != refused)
        goto out;
    if (s->failed_at && now_ms() - s->failed_at < REMEMBER_MS) {
        qc_error_copy(err, &s->failure);
        ret = s->failure.code;
        goto out;
    }
    s->busy = true;
    pthread_mutex_unlock(&s->lock);
    ret = find(s, refused, &found, &why);
    pthread_mutex_lock(&s->lock);
    s->busy = false;
    settle(s, ret, found, &why);
    pthread_cond_broadcast(&s->done);
    if (ret && refused == 0 && is_usable(s))
        ret = 0; /* what there is still serves for a while */
    if (ret)
        qc_error_copy(err, &why);
out:
    pthread_mutex_unlock(&s->lock);
    return ret;
}
