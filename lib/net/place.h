/* SPDX-License-Identifier: MIT */
/*
 * Where one object lies, and how a request for it is addressed and signed. Names:
 * http://, https:// (basic or bearer by origin, presigned queries), s3://bucket/key,
 * az://container/blob, gs://bucket/key.
 */
#ifndef QC_NET_PLACE_H
#define QC_NET_PLACE_H

#include <string.h>

#include "net/config.h"
#include "net/url.h"
#include "util/log.h"

struct qc_credentials; /* of an environment: what was found, cached, refreshed before it expires */
struct qc_place;       /* immutable but for what is learnt (redirect target, clock skew, region);
                          any thread; counted */

/* conf is borrowed for life. Does no I/O. NULL: no memory. */
struct qc_credentials *qc_credentials_create(const qchain_remote *conf, const struct qc_log *log);
void qc_credentials_destroy(struct qc_credentials *c); /* NULL is fine; no place may be left */

/* name: one of the above. Does no I/O. INVAL, UNSUPPORTED (scheme), NOMEM. */
int  qc_place_create(struct qc_place **out, struct qc_credentials *creds, const char *name,
                     qchain_error *err);
struct qc_place *qc_place_ref(struct qc_place *p);
void qc_place_unref(struct qc_place *p); /* NULL is fine */

/* For messages: no secrets, not escaped. Borrowed. */
const char *qc_place_shown(const struct qc_place *p);
/* For rules: the name as they write theirs, without user and query. Borrowed. */
const char *qc_place_name(const struct qc_place *p);
/* For cache keys: its URL, the same however the name was written; no query, no secrets.
 * Borrowed. May read AWS's files where neither the configuration nor the environment names an S3
 * endpoint; otherwise, and later, it does not block. */
const char *qc_place_key(const struct qc_place *p);
/* How many bytes of a key name the server: "https://host:8443". AWS's buckets have servers of their own,
 * though their keys begin alike. */
static inline size_t qc_place_server(const char *key)
{
    static const char aws[] = "https://s3.amazonaws.com/";
    const char *host = strstr(key, "://");
    size_t n = host ? (size_t)(host - key) + 3 : 0;

    if (strncmp(key, aws, sizeof(aws) - 1) == 0)
        n = sizeof(aws) - 1;
    return n + strcspn(key + n, "/");
}
/* For cache keys: whose credentials are used (a hash of access key id, account, user or token, or
 * of a presigned query less its signature and dates; "" for nobody's), hex. Two places with the same
 * key and scope may share bytes. Borrowed. Blocks as qc_place_prepare does, unless the place is ready or
 * scope was asked for before; where there are no credentials to be had it is one that nobody else has. */
const char *qc_place_scope(const struct qc_place *p);

/* True if qc_place_sign would not have to block. */
bool qc_place_is_ready(struct qc_place *p);
/* Get or refresh credentials (files, endpoints, the callback), once for all who wait. refresh: those
 * there are were refused. Blocks, so never on an HTTP worker. AUTH with a sentence. */
int qc_place_prepare(struct qc_place *p, bool refresh, qchain_error *err);

enum qc_http_method { QC_HTTP_GET, QC_HTTP_PUT, QC_HTTP_DELETE };

/* What one attempt needs of it. Strings are qc_malloc'ed and secret. */
struct qc_signed {
    char  *url;
    char **header;       /* n_headers of "Name: value" */
    size_t n_headers;
    char  *sigv4;        /* for CURLOPT_AWS_SIGV4: "aws:amz:REGION:s3"; NULL: none */
    char  *user, *password; /* for CURLOPT_USERNAME, PASSWORD; NULL: none */
    bool   has_credentials; /* so redirects stay within the origin */
};

/* length: of a PUT's body. extra, n_extra: "Name: value" of this request that must be signed along
 * where the scheme signs headers (Azure: Range goes as x-ms-range, If-Match, If-None-Match); they are
 * among out->header afterwards, in all schemes. range: "bytes=0-99", or NULL: goes to CURLOPT_RANGE
 * with http and S3, and is signed with Azure: *range_signed tells. AUTH if not ready. */
int  qc_place_sign(struct qc_place *p, enum qc_http_method method, uint64_t length,
                   const char *range, const char *const *extra, size_t n_extra,
                   struct qc_signed *out, bool *range_signed, qchain_error *err);
void qc_signed_finish(struct qc_signed *s); /* wipes */

/* What an answer of 4xx says. */
enum qc_refusal {
    QC_REFUSED,          /* the error stands in err */
    QC_REFUSED_REFRESH,  /* prepare with refresh, and try once more */
    QC_REFUSED_AGAIN     /* something was learnt (clock skew, region): sign anew, try once more */
};
/* status: 400..499 (or 301/307 of S3: another region). body: the beginning of the answer, at most
 * 64 KiB, hostile. date: the Date header or NULL; over_tls: the answer came by https. Sets err in any case (AUTH, NOTFOUND,
 * ACCESS, CHANGED for 412, THROTTLED for 429, NET otherwise; the server's code and message, escaped
 * and cut, are part of it). */
enum qc_refusal qc_place_refused(struct qc_place *p, int status, const char *body, size_t len,
                                 const char *date, bool over_tls, qchain_error *err);

/* Where a redirect led, until it fails: the URL to use instead, as a copy, or NULL. Nothing where there
 * are credentials and it is not of their origin. qc_place_sign always gives the place's own URL. */
char *qc_place_target(struct qc_place *p);
void  qc_place_set_target(struct qc_place *p, const char *url); /* NULL: forget it */

/* The name of another object: beside p ("NAME.qci" for suffix ".qci": before the query, which is
 * dropped; NULL for presigned ones, as the signature is not for it). To be freed with qc_free. */
char *qc_place_sibling(const struct qc_place *p, const char *suffix);

#endif
