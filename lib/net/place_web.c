/* SPDX-License-Identifier: MIT */
/* http and https names: taken as they are given, logins by origin, presigned queries. */
#include <string.h>

#include "net/config_int.h"
#include "net/place_int.h"
#include "util/alloc.h"
#include "util/error.h"

/* ------------------------------------------------------------------ queries --- */

/* Parts of a presigned query that are others each time somebody signs. */
static const char *const passing[] = {
    "x-amz-signature", "x-amz-date", "x-amz-expires", "x-amz-security-token",
    "x-goog-signature", "x-goog-date", "x-goog-expires", "signature", "expires", "policy",
    "sig", "se", "st", "ske", "skt"};

/* These are what makes a query a signed one. */
static const char *const signature[] = {"x-amz-signature", "x-goog-signature", "signature", "sig"};

static bool is_among(const char *s, size_t n, const char *const *list, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strlen(list[i]) == n && strncasecmp(s, list[i], n) == 0)
            return true;
    return false;
}

#define IS_AMONG(s, n, list) is_among(s, n, list, sizeof(list) / sizeof((list)[0]))

/* "X-Amz-Credential=ID/20260131/us-east-1/s3/aws4_request": the date is left out. */
static void hash_credential(const char *s, size_t n, struct qc_sha256 *h)
{
    size_t id = 0;

    while (id < n && s[id] != '/' && !(n - id >= 3 && strncasecmp(s + id, "%2f", 3) == 0))
        id++;
    qc_sha256_update(h, s, id);
}

void qc_place_query_scope(const char *query, struct qc_sha256 *h, bool *presigned)
{
    *presigned = false;
    for (const char *s = query;;) {
        size_t n = strcspn(s, "&"), name = 0;

        while (name < n && s[name] != '=')
            name++;
        if (IS_AMONG(s, name, signature))
            *presigned = true;
        if (!IS_AMONG(s, name, passing)) {
            if ((name == 16 && strncasecmp(s, "x-amz-credential", 16) == 0) ||
                (name == 17 && strncasecmp(s, "x-goog-credential", 17) == 0))
                hash_credential(s, n, h);
            else
                qc_sha256_update(h, s, n);
            qc_sha256_update(h, "&", 1);
        }
        if (!s[n])
            return;
        s += n + 1;
    }
}

/* -------------------------------------------------------------------- names --- */

char *qc_place_web_clean(const char *name)
{
    const char *slash = strstr(name, "://");
    size_t n = strlen(name), from, k = 0;
    char *out = qc_malloc(3 * n + 1);

    if (!out)
        return NULL;
    from = slash ? (size_t)(slash - name) + 3 : 0;
    from += strcspn(name + from, "/?#");
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)name[i];

        if (i >= from && (c >= 0x80 || strchr(" \"<>\\^`{|}", c))) {
            out[k++] = '%';
            out[k++] = "0123456789ABCDEF"[c >> 4];
            out[k++] = "0123456789ABCDEF"[c & 15];
        } else {
            out[k++] = name[i];
        }
    }
    out[k] = '\0';
    return out;
}

static bool is_unreserved(unsigned char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           (c && strchr("-._~", c));
}

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* "%7e" and "~" are the same, "%2f" and "%2F" too, "%2F" and "/" are not. In place. */
static void same_way(char *path)
{
    char *o = path;

    for (char *s = path; *s; s++) {
        int hi = *s == '%' ? hex(s[1]) : -1, lo = hi >= 0 ? hex(s[2]) : -1;
        unsigned char c = (unsigned char)(hi * 16 + lo);

        if (lo < 0) {
            *o++ = *s;
            continue;
        }
        s += 2;
        if (is_unreserved(c)) {
            *o++ = (char)c;
            continue;
        }
        *o++ = '%';
        *o++ = "0123456789ABCDEF"[c >> 4];
        *o++ = "0123456789ABCDEF"[c & 15];
    }
    *o = '\0';
}

/* "user:password" or "user", both encoded, as in the URL. */
static int read_userinfo(struct qc_place *p, qchain_error *err)
{
    const char *s = p->userinfo;
    size_t n = strcspn(s, ":");
    char *user = qc_url_decode(s, n);
    char *password = s[n] ? qc_url_decode(s + n + 1, strlen(s + n + 1)) : qc_strdup("");
    int ret = 0;

    if (!user || !password)
        ret = strstr(s, "%00") ? qc_fail(err, QCHAIN_E_INVAL, "'%s': the user in the URL has a NUL",
                                         p->shown)
                               : qc_fail_nomem(err);
    if (!ret)
        ret = qc_login_new(&p->own, QC_LOGIN_WEB, p->shown, user, password, NULL, err);
    if (!ret)
        ret = qc_login_name(p->own, "user", user, err);
    qc_conf_wipe(user);
    qc_conf_wipe(password);
    return ret;
}

int qc_place_web_init(struct qc_place *p, qchain_error *err)
{
    struct qc_sha256 unused;
    char *origin;

    p->userinfo = p->url.userinfo;
    p->url.userinfo = NULL;
    qc_url_remove_dots(p->url.path);
    qc_sha256_init(&unused);
    if (p->url.query)
        qc_place_query_scope(p->url.query, &unused, &p->presigned);
    origin = qc_url_origin(&p->url);
    if (!origin)
        return qc_fail_nomem(err);
    p->key = qc_asprintf("%s%s", origin, p->url.path);
    if (p->key)
        same_way(p->key + strlen(origin));
    p->key_known = true;
    p->site = qc_site_get(p->creds, QC_LOGIN_WEB, origin);
    qc_free(origin);
    if (!p->key || !p->site)
        return qc_fail_nomem(err);
    if (p->userinfo)
        return read_userinfo(p, err);
    /* Without a callback there is nothing to wait for. */
    return qc_credentials_conf(p->creds)->credentials ? 0 : qc_site_prepare(p->site, 0, err);
}

/* ------------------------------------------------------------------ signing --- */

int qc_place_web_sign(struct qc_place *p, const struct qc_login *l, const struct qc_to_sign *r,
                      struct qc_signed *out, qchain_error *err)
{
    bool has_login = l->access_key || l->session_token;

    (void)r;
    out->url = qc_url_text(&p->url);
    if (!out->url)
        return qc_fail_nomem(err);
    if (!has_login)
        return 0;
    out->has_credentials = true;
    if (l->session_token)
        return qc_signed_add(out, qc_asprintf("Authorization: Bearer %s", l->session_token), err);
    out->user = qc_strdup(l->access_key);
    out->password = qc_strdup(l->secret_key ? l->secret_key : "");
    return out->user && out->password ? 0 : qc_fail_nomem(err);
}
