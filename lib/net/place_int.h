/* SPDX-License-Identifier: MIT */
/* What the files of places share: web names, S3 and GCS, Azure. */
#ifndef QC_NET_PLACE_INT_H
#define QC_NET_PLACE_INT_H

#include <pthread.h>
#include <stdatomic.h>

#include "net/credentials.h"
#include "net/place.h"
#include "util/sha256.h"

enum qc_place_kind { QC_PLACE_WEB, QC_PLACE_S3, QC_PLACE_GS, QC_PLACE_AZ };

#define QC_SCOPE_SIZE 65 /* a SHA-256 in hex */

struct qc_place {
    atomic_uint        refs;
    enum qc_place_kind kind;
    struct qc_credentials *creds;
    struct qc_site    *site;     /* whose credentials; owned by creds */
    struct qc_url      url;      /* web: as it is asked for, without userinfo; others: bucket and key */
    char              *userinfo; /* web: as given in the name, or NULL */
    struct qc_login   *own;      /* web: made of it, or NULL */
    bool               presigned;
    char              *path;     /* others: "/key", encoded */
    char              *shown, *name;
    char              *key;
    pthread_mutex_t    lock;     /* for what is below */
    bool               key_known; /* s3: the endpoint is part of the key, and may stand in a file */
    bool               scope_known;
    char               scope[QC_SCOPE_SIZE];
    uint64_t           used;     /* number of the login that signed last */
    char              *target;
};

/* What one request asks of the signing. */
struct qc_to_sign {
    enum qc_http_method method;
    uint64_t            length;
    const char         *range;
    const char *const  *extra;
    size_t              n_extra;
};

/* One kind's own part. init takes p->url as parsed and sets site, key and what else there is. sign is
 * given a login that is usable; what the request brought is among out->header already. Both: NOMEM,
 * INVAL, AUTH. */
int qc_place_web_init(struct qc_place *p, qchain_error *err);
int qc_place_web_sign(struct qc_place *p, const struct qc_login *l, const struct qc_to_sign *r,
                      struct qc_signed *out, qchain_error *err);
int qc_place_s3_init(struct qc_place *p, qchain_error *err);
int qc_place_s3_sign(struct qc_place *p, const struct qc_login *l, const struct qc_to_sign *r,
                     struct qc_signed *out, qchain_error *err);
int qc_place_az_init(struct qc_place *p, qchain_error *err);
int qc_place_az_sign(struct qc_place *p, const struct qc_login *l, const struct qc_to_sign *r,
                     struct qc_signed *out, bool *range_signed, qchain_error *err);

/* Make p->key what it is with the endpoint of a profile; reads files. */
void qc_place_s3_settle_key(struct qc_place *p);
/* Remember the bucket's region, of its name or, if that is "", of its host's. False: no news. */
bool qc_place_s3_learn_region(struct qc_place *p, const char *region, const char *host);

/* An endpoint from the settings, its path without a '/' at the end. what: for whom. INVAL, NOMEM. */
int qc_place_endpoint(struct qc_url *u, const char *text, const char *what, qchain_error *err);

/* The name as a URL can hold it: what stands in paths and is none of a URL's characters is encoded.
 * NULL: no memory. */
char *qc_place_web_clean(const char *name);
/* Hash what of a query says which object it is and whose the signature: less signature and dates.
 * *presigned: it has a signature. */
void qc_place_query_scope(const char *query, struct qc_sha256 *h, bool *presigned);

/* A key or scope that nobody else has, for what cannot be told. */
void qc_place_lonely(char *out, size_t size);

/* Add a header; the text ("Name: value") is taken over, NULL: no memory. */
int qc_signed_add(struct qc_signed *s, char *header, qchain_error *err);

#endif
