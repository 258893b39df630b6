/* SPDX-License-Identifier: MIT */
/* s3 and gs names. libcurl makes the signatures (version 4); what it signs must be written as the stores
 * write it themselves: keys encoded to the last byte, no header that is not sent. */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "net/config_int.h"
#include "net/credentials_int.h"
#include "net/place_int.h"
#include "util/alloc.h"
#include "util/error.h"
#include "util/escape.h"

#define EMPTY_SHA256 "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

/* ------------------------------------------------------------------ endpoints --- */

int qc_place_endpoint(struct qc_url *u, const char *text, const char *what, qchain_error *err)
{
    int ret = qc_url_parse(u, text, err);
    size_t n;

    if (ret == QCHAIN_E_NOMEM)
        return ret;
    if (ret || (strcmp(u->scheme, "http") != 0 && strcmp(u->scheme, "https") != 0) || u->userinfo ||
        u->query) {
        qc_url_finish(u);
        return qc_fail(err, QCHAIN_E_INVAL, "the endpoint for %s is not a URL like "
                       "https://host:port", what);
    }
    for (n = strlen(u->path); n && u->path[n - 1] == '/'; n--)
        u->path[n - 1] = '\0';
    return 0;
}

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), k = strlen(end);

    return n >= k && strcmp(s + n - k, end) == 0;
}

/* "s3.amazonaws.com", "s3.REGION.amazonaws.com": where the region in the name may be another. */
static bool is_aws(const char *host)
{
    const char *s = strncmp(host, "s3.", 3) == 0 ? host + 3 : "";
    size_t n = strcspn(s, ".");

    if (strncmp(s, "amazonaws.com", 14) == 0)
        return true;
    return n && (strcmp(s + n, ".amazonaws.com") == 0 || strcmp(s + n, ".amazonaws.com.cn") == 0);
}

static char *aws_host(const char *region)
{
    return qc_asprintf("s3.%s.amazonaws.com%s", region, strncmp(region, "cn-", 3) == 0 ? ".cn" : "");
}

/* May the bucket be a label of a host's name? With dots no certificate fits. */
static bool is_label(const char *bucket, bool https)
{
    size_t n = strlen(bucket);

    for (const char *c = bucket; *c; c++)
        if (!((*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9') || *c == '-' ||
              (*c == '.' && !https && c[1] != '.')))
            return false;
    return n >= 3 && n <= 63 && *bucket != '-' && bucket[n - 1] != '-' && *bucket != '.' &&
           bucket[n - 1] != '.';
}

static bool is_address(const char *host)
{
    struct in_addr a4;

    return strchr(host, ':') || inet_aton(host, &a4);
}

/* The object's URL at an endpoint; NULL: AWS itself. learnt: the bucket's region is known. */
static int build_url(struct qc_place *p, const char *endpoint, const char *region, bool learnt,
                     char **out, qchain_error *err)
{
    bool virtual = qc_credentials_conf(p->creds)->s3_virtual || !endpoint;
    struct qc_url u = {0};
    char *bucket = NULL, *origin = NULL, *host;
    int ret = 0;

    *out = NULL;
    if (p->kind == QC_PLACE_GS)
        virtual = false;
    ret = qc_place_endpoint(&u, endpoint ? endpoint : "https://s3.amazonaws.com", p->url.scheme, err);
    if (ret)
        return ret;
    if (!endpoint || (learnt && is_aws(u.host))) {
        qc_free(u.host);
        u.host = aws_host(region);
    }
    virtual = virtual && u.host && is_label(p->url.host, strcmp(u.scheme, "https") == 0) &&
              !is_address(u.host);
    if (virtual) {
        host = qc_asprintf("%s.%s", p->url.host, u.host);
        qc_free(u.host);
        u.host = host;
    }
    bucket = qc_url_encode(p->url.host, strlen(p->url.host), 0);
    origin = u.host ? qc_url_origin(&u) : NULL;
    if (bucket && origin)
        *out = qc_asprintf("%s%s%s%s%s", origin, u.path, virtual ? "" : "/", virtual ? "" : bucket,
                           p->path);
    qc_url_finish(&u);
    qc_free(bucket);
    qc_free(origin);
    return *out ? 0 : qc_fail_nomem(err);
}

/* ----------------------------------------------------------------------- keys --- */

/* The key at an endpoint: the same however a bucket is addressed, and in whichever region it is. NULL:
 * no memory, or no endpoint. */
static char *key_at(const struct qc_place *p, const char *endpoint)
{
    struct qc_url u;
    char *origin, *out = NULL;

    if (qc_place_endpoint(&u, endpoint, p->url.scheme, NULL) != 0)
        return NULL;
    origin = is_aws(u.host) ? qc_strdup("https://s3.amazonaws.com") : qc_url_origin(&u);
    if (origin)
        out = qc_asprintf("%s%s/%s%s", origin, u.path, p->url.host, p->path);
    qc_free(origin);
    qc_url_finish(&u);
    return out;
}

void qc_place_s3_settle_key(struct qc_place *p)
{
    const char *endpoint, *region;
    char *key = NULL;
    int ret = qc_aws_settings(p->creds, &endpoint, &region, NULL);

    if (ret == 0 && endpoint)
        key = key_at(p, endpoint);
    pthread_mutex_lock(&p->lock);
    if (!p->key_known) {
        if (key) {
            qc_free(p->key);
            p->key = key;
            key = NULL;
        } else if (ret || endpoint) { /* to be shared with nobody; "https://s3..." is room enough */
            qc_place_lonely(p->key, strlen(p->key) + 1);
        }
        p->key_known = true;
    }
    pthread_mutex_unlock(&p->lock);
    qc_free(key);
}

int qc_place_s3_init(struct qc_place *p, qchain_error *err)
{
    bool gs = p->kind == QC_PLACE_GS;
    const char *endpoint = gs ? qc_credentials_conf(p->creds)->gs_endpoint
                              : qc_aws_endpoint_at_hand(p->creds);
    const char *own = gs ? "https://storage.googleapis.com" : "https://s3.amazonaws.com";
    struct qc_url u;
    char *where;
    int ret;

    if (endpoint) {
        ret = qc_place_endpoint(&u, endpoint, p->url.scheme, err);
        if (ret)
            return ret;
        qc_url_finish(&u);
    }
    where = qc_asprintf("%s://%s", p->url.scheme, p->url.host);
    if (where)
        p->site = qc_site_get(p->creds, gs ? QC_LOGIN_GS : QC_LOGIN_S3, where);
    qc_free(where);
    p->key = p->site ? key_at(p, endpoint ? endpoint : own) : NULL;
    p->key_known = endpoint || gs; /* else a profile may name an endpoint */
    return p->key ? 0 : qc_fail_nomem(err);
}

/* -------------------------------------------------------------------- signing --- */

/* libcurl signs with this machine's clock unless it is told a time. */
static int add_date(struct qc_place *p, struct qc_signed *out, qchain_error *err)
{
    int64_t skew = qc_site_skew(p->site);
    time_t now = (time_t)((int64_t)time(NULL) + skew);
    struct tm tm;

    if (skew == 0 || !gmtime_r(&now, &tm))
        return 0;
    return qc_signed_add(out, qc_asprintf("X-Amz-Date: %04d%02d%02dT%02d%02d%02dZ",
                                          tm.tm_year + 1900, tm.tm_mon + 1, tm.tm_mday, tm.tm_hour,
                                          tm.tm_min, tm.tm_sec), err);
}

static int sign_v4(struct qc_place *p, const struct qc_login *l, const char *region,
                   const struct qc_to_sign *r, struct qc_signed *out, qchain_error *err)
{
    int ret;

    out->has_credentials = true;
    out->sigv4 = qc_asprintf("aws:amz:%s:s3", region);
    out->user = qc_strdup(l->access_key);
    out->password = qc_strdup(l->secret_key);
    if (!out->sigv4 || !out->user || !out->password)
        return qc_fail_nomem(err);
    ret = qc_signed_add(out, qc_asprintf("x-amz-content-sha256: %s",
                                         r->method == QC_HTTP_PUT ? "UNSIGNED-PAYLOAD"
                                                                  : EMPTY_SHA256), err);
    if (ret == 0 && l->session_token)
        ret = qc_signed_add(out, qc_asprintf("x-amz-security-token: %s", l->session_token), err);
    return ret ? ret : add_date(p, out, err);
}

int qc_place_s3_sign(struct qc_place *p, const struct qc_login *l, const struct qc_to_sign *r,
                     struct qc_signed *out, qchain_error *err)
{
    const char *endpoint = NULL, *region = "auto";
    bool bearer = p->kind == QC_PLACE_GS && l->session_token;
    bool v4 = !bearer && l->access_key && l->secret_key;
    char known[QC_REGION_MAX] = "";
    int ret = 0;

    if (p->kind == QC_PLACE_GS) {
        endpoint = qc_credentials_conf(p->creds)->gs_endpoint;
        endpoint = endpoint ? endpoint : "https://storage.googleapis.com";
    } else {
        ret = qc_aws_settings(p->creds, &endpoint, &region, err);
        qc_site_region(p->site, known);
    }
    if (ret == 0)
        ret = build_url(p, endpoint, known[0] ? known : region, known[0], &out->url, err);
    if (ret)
        return ret;
    if (bearer) {
        out->has_credentials = true;
        return qc_signed_add(out, qc_asprintf("Authorization: Bearer %s", l->session_token), err);
    }
    return v4 ? sign_v4(p, l, known[0] ? known : region, r, out, err) : 0;
}

/* --------------------------------------------------------------------- regions --- */

/* "bucket.s3.eu-west-1.amazonaws.com", "s3-eu-west-1.amazonaws.com": the region, or "". */
static void region_of_host(const char *host, char region[QC_REGION_MAX])
{
    const char *s = strncmp(host, "s3", 2) == 0 ? host : strstr(host, ".s3");
    size_t n;

    region[0] = '\0';
    if (!s || !(ends_with(host, ".amazonaws.com") || ends_with(host, ".amazonaws.com.cn")))
        return;
    s += *s == '.' ? 3 : 2;
    if (*s != '.' && *s != '-')
        return;
    n = strcspn(++s, ".");
    if (n < QC_REGION_MAX && strncmp(s, "amazonaws", 9) != 0) {
        memcpy(region, s, n);
        region[n] = '\0';
    }
}

bool qc_place_s3_learn_region(struct qc_place *p, const char *region, const char *host)
{
    const char *endpoint, *used;
    char known[QC_REGION_MAX], found[QC_REGION_MAX];

    if (p->kind != QC_PLACE_S3 || qc_aws_settings(p->creds, &endpoint, &used, NULL) != 0)
        return false;
    qc_site_region(p->site, known);
    region_of_host(host, found);
    if (region[0] == '\0')
        region = found;
    if (!qc_region_is_name(region) || (!known[0] && strcmp(region, used) == 0))
        return false;
    /* If it is known already, this request was signed before another one found it out. */
    if (strcmp(region, known) != 0)
        qc_site_set_region(p->site, region);
    return true;
}
