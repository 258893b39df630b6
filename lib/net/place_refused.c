/* SPDX-License-Identifier: MIT */
/* What servers say when they do not give what is asked for, and what can be learnt of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "net/config_int.h"
#include "net/place_int.h"
#include "net/s3_answer.h"
#include "util/alloc.h"
#include "util/error.h"
#include "util/escape.h"

#define SKEW_MAX_S 86400
#define SKEW_MIN_S 30 /* less is none that a server minds */

struct refusal {
    struct qc_place    *p;
    struct qc_login    *login; /* that was used, as far as known; may be NULL */
    int                 status;
    const char         *date;
    bool                over_tls;
    struct qc_s3_answer says;
};

static bool is_one_of(const char *code, const char *const *list, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (strcmp(code, list[i]) == 0)
            return true;
    return false;
}

#define IS_ONE_OF(code, list) is_one_of(code, list, sizeof(list) / sizeof((list)[0]))

/* ----------------------------------------------------------------- the clock --- */

/* "Sat, 31 Jan 2026 12:34:56 GMT", the only way that is still sent; 0: something else. */
static int64_t parse_date(const char *s)
{
    static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
    int day, year, hour, minute, second, end = 0;
    char month[4] = "";
    const char *m;
    struct tm tm = {0};

    if (strnlen(s, 64) > 40 ||
        sscanf(s, "%*3[A-Za-z], %2d %3[A-Za-z] %4d %2d:%2d:%2d GMT%n", &day, month, &year, &hour,
               &minute, &second, &end) != 6 || !end)
        return 0;
    m = strlen(month) == 3 ? strstr(months, month) : NULL;
    if (!m || (m - months) % 3 || day < 1 || day > 31 || year < 2000 || year > 9999 || hour < 0 ||
        hour > 23 || minute < 0 || minute > 59 || second < 0 || second > 60)
        return 0;
    tm = (struct tm){.tm_year = year - 1900, .tm_mon = (int)(m - months) / 3, .tm_mday = day,
                     .tm_hour = hour, .tm_min = minute, .tm_sec = second};
    return (int64_t)timegm(&tm);
}

/* Signatures carry the time. One that a server does not take may be wrong by our clock; the server's is
 * believed where nobody else could have written its answer. */
static bool learn_skew(const struct refusal *r)
{
    static const char *const code[] = {"RequestTimeTooSkewed", "RequestExpired", "AccessDenied",
                                       "AuthenticationFailed", "SignatureDoesNotMatch"};
    int64_t date = r->date ? parse_date(r->date) : 0, skew, now;

    if (r->p->kind == QC_PLACE_WEB || !r->login || !r->login->secret_key || !date || !r->over_tls ||
        qc_credentials_conf(r->p->creds)->insecure || !IS_ONE_OF(r->says.code, code))
        return false;
    skew = date - (int64_t)time(NULL);
    if (skew > SKEW_MAX_S || skew < -SKEW_MAX_S)
        return false;
    now = qc_site_skew(r->p->site);
    if (llabs(skew - now) < SKEW_MIN_S)
        return now != 0; /* perhaps signed before another request found it out */
    qc_site_set_skew(r->p->site, skew);
    qc_log(qc_credentials_log(r->p->creds), QCHAIN_LOG_WARN, "net",
           "%s: this machine's clock is wrong by %lld seconds, says the server; requests to it are "
           "signed with the server's time", qc_site_where(r->p->site), (long long)skew);
    return true;
}

/* ------------------------------------------------------------------- messages --- */

/* All of a secret, or a piece of it that is long enough to be of use. */
static bool contains(const char *text, const char *secret)
{
    size_t n = secret ? strlen(secret) : 0;
    char piece[13] = "";

    if (n < sizeof(piece))
        return n && strstr(text, secret);
    for (size_t i = 0; i + sizeof(piece) - 1 <= n; i++) {
        memcpy(piece, secret + i, sizeof(piece) - 1);
        if (strstr(text, piece))
            return true;
    }
    return false;
}

/* A server may say again what it was sent; people send messages to each other. */
static bool tells_secret(const struct refusal *r, const char *text)
{
    const struct qc_login *l = r->login;
    const char *query = r->p->url.query;

    if (contains(text, query))
        return true;
    return l && (contains(text, l->secret_key) || contains(text, l->session_token) ||
                 (r->p->kind == QC_PLACE_WEB && contains(text, l->access_key)));
}

static void say(const struct refusal *r, char out[700])
{
    struct qc_escaped code, message;

    out[0] = '\0';
    if (!r->says.code[0] || tells_secret(r, r->says.code))
        snprintf(out, 700, "HTTP %d", r->status);
    else if (!r->says.message[0] || tells_secret(r, r->says.message))
        snprintf(out, 700, "HTTP %d, %s", r->status, qc_escape_str(&code, r->says.code));
    else
        snprintf(out, 700, "HTTP %d, %s: %s", r->status, qc_escape_str(&code, r->says.code),
                 qc_escape(&message, r->says.message, strcspn(r->says.message, "\r\n")));
}

/* What to do about it. */
static const char *advice(const struct refusal *r)
{
    static const char *const skewed[] = {"RequestTimeTooSkewed", "RequestExpired"};
    bool nobody = !r->login || !r->login->identity;

    if (r->status == 407)
        return "the proxy asks for a login; it is part of the proxy's URL";
    if (IS_ONE_OF(r->says.code, skewed))
        return "set this machine's clock";
    if (r->p->presigned)
        return "the signature in the URL may have expired, or is for something else";
    switch (r->p->kind) {
    case QC_PLACE_WEB:
        if (r->p->url.path[strlen(r->p->url.path) - 1] == '/')
            return "the URL names a directory, not an image";
        return nobody ? "configure a login for this origin (basic or bearer)"
                      : "check the login that is configured for this origin";
    case QC_PLACE_S3:
        return nobody ? "no credentials were found; give them by s3-access-key and s3-secret-key, or by "
                        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                      : "check the key, and that it may read this bucket";
    case QC_PLACE_GS:
        return nobody ? "no credentials were found; give them by gs-token, or by gs-access-key and "
                        "gs-secret-key"
                      : "check the token or key, and that it may read this bucket";
    default:
        return nobody ? "no credentials were found; give them by azure-key or azure-sas"
                      : "check the account's key or the SAS, and that it may read this container";
    }
}

static void set_error(const struct refusal *r, qchain_error *err)
{
    static const char *const missing[] = {"NoSuchKey", "NoSuchBucket", "NoSuchVersion", "BlobNotFound",
                                          "ContainerNotFound", "ResourceNotFound"};
    static const char *const slow[] = {"SlowDown", "ServerBusy", "Throttling", "ThrottlingException",
                                       "RequestLimitExceeded", "TooManyRequestsException"};
    static const char *const key[] = {"ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId",
                                      "InvalidToken", "TokenRefreshRequired", "SignatureDoesNotMatch",
                                      "RequestTimeTooSkewed", "AuthorizationHeaderMalformed",
                                      "AuthenticationFailed"};
    struct qc_escaped e;
    const char *shown = qc_escape_str(&e, r->p->shown), *code = r->says.code;
    char reason[700];

    say(r, reason);
    if (IS_ONE_OF(code, slow) || r->status == 429)
        qc_fail(err, QCHAIN_E_THROTTLED, "'%s': the server asks to slow down (%s)", shown, reason);
    else if (IS_ONE_OF(code, missing) || r->status == 404 || r->status == 410)
        qc_fail(err, QCHAIN_E_NOTFOUND, "'%s': there is no such object (%s)", shown, reason);
    else if (r->status == 401 || r->status == 403 || r->status == 407 || IS_ONE_OF(code, key))
        qc_fail(err, QCHAIN_E_AUTH, "'%s': access is refused (%s); %s", shown, reason, advice(r));
    else if (r->status == 412)
        qc_fail(err, QCHAIN_E_CHANGED, "'%s': the object is not what it was (%s)", shown, reason);
    else if (r->status == 451)
        qc_fail(err, QCHAIN_E_ACCESS, "'%s': the server may not give it (%s)", shown, reason);
    else if (r->status == 409)
        qc_fail(err, QCHAIN_E_BUSY, "'%s': there is one already, or it is being written (%s)", shown,
                reason);
    else
        qc_fail(err, QCHAIN_E_NET, "'%s': the server does not do it (%s)%s", shown, reason,
                r->status == 400 && !r->over_tls && r->p->kind == QC_PLACE_WEB
                    ? "; perhaps it speaks https:// on this port" : "");
    if (err)
        err->http_status = r->status;
}

/* ------------------------------------------------------------------- decisions --- */

/* May other credentials help? What never changes need not be got again. */
static bool should_renew(const struct refusal *r)
{
    static const char *const stale[] = {"ExpiredToken", "ExpiredTokenException", "InvalidAccessKeyId",
                                        "InvalidToken", "TokenRefreshRequired"};
    bool callback = qc_credentials_conf(r->p->creds)->credentials != NULL;

    if (r->p->own || !r->login || !r->login->identity)
        return false;
    if (IS_ONE_OF(r->says.code, stale))
        return true;
    if (r->p->kind == QC_PLACE_AZ)
        return callback && strcmp(r->says.code, "AuthenticationFailed") == 0;
    /* tokens and passwords that a program gives come to their end without a word for it */
    return r->status == 401 && (callback || r->p->kind == QC_PLACE_GS);
}

static bool learn_region(const struct refusal *r)
{
    static const char *const code[] = {"AuthorizationHeaderMalformed", "PermanentRedirect",
                                       "TemporaryRedirect", "Redirect",
                                       "IllegalLocationConstraintException", "InvalidRegion"};

    if (r->p->kind != QC_PLACE_S3 || (r->status != 301 && r->status != 307 && r->status != 400 &&
                                      r->status != 403))
        return false;
    return IS_ONE_OF(r->says.code, code) &&
           qc_place_s3_learn_region(r->p, r->says.region, r->says.endpoint);
}

enum qc_refusal qc_place_refused(struct qc_place *p, int status, const char *body, size_t len,
                                 const char *date, bool over_tls, qchain_error *err)
{
    struct refusal r = {.p = p, .status = status, .date = date, .over_tls = over_tls};
    enum qc_refusal ret = QC_REFUSED;

    if (!body) {
        body = "";
        len = 0;
    }
    /* Azure's answers begin with a byte order mark. */
    if (len >= 3 && memcmp(body, "\xef\xbb\xbf", 3) == 0) {
        body += 3;
        len -= 3;
    }
    qc_s3_answer_read(body, len, &r.says);
    r.login = p->own ? qc_login_ref(p->own) : qc_site_login(p->site);
    set_error(&r, err);
    if (learn_region(&r) || learn_skew(&r))
        ret = QC_REFUSED_AGAIN;
    else if (should_renew(&r))
        ret = QC_REFUSED_REFRESH;
    qc_login_unref(r.login);
    return ret;
}
