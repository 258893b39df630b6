/* SPDX-License-Identifier: MIT */
/*
 * Whose credentials are used where. A site is what the callback is asked for: a bucket, a container, an
 * origin; places share it, with what was learnt of it. A login is what was found, and never changes.
 */
#ifndef QC_NET_CREDENTIALS_H
#define QC_NET_CREDENTIALS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "net/config.h"
#include "util/log.h"

struct qc_credentials;
struct qc_site;

enum qc_login_kind { QC_LOGIN_WEB, QC_LOGIN_S3, QC_LOGIN_GS, QC_LOGIN_AZ };

/* Counted, immutable; wiped when it is freed. All strings may be NULL. */
struct qc_login {
    atomic_uint refs;
    char    *access_key;    /* az: the account; web: the user */
    char    *secret_key;    /* az: the key; web: the password */
    char    *session_token; /* az: SAS; gs, web: bearer token */
    char    *identity;      /* whose they are, the same when they are renewed; NULL: nobody's */
    uint64_t expires;       /* seconds since the epoch; 0: never */
    uint64_t number;        /* tells logins apart; set by the table */
};

struct qc_login *qc_login_ref(struct qc_login *l);
void qc_login_unref(struct qc_login *l); /* NULL is fine */
/* Strings are copied. INVAL if one has characters that cannot be sent (what: whose they are, for the
 * message), NOMEM. */
int  qc_login_new(struct qc_login **out, enum qc_login_kind kind, const char *what,
                  const char *access_key, const char *secret_key, const char *session_token,
                  qchain_error *err);
/* Whose they are: a word for the way they were found, and a name of theirs. NOMEM. */
int  qc_login_name(struct qc_login *l, const char *way, const char *name, qchain_error *err);

/* Find or make the site called where ("s3://bucket"). It lives as long as c. NULL: no memory. */
struct qc_site *qc_site_get(struct qc_credentials *c, enum qc_login_kind kind, const char *where);
const char *qc_site_where(const struct qc_site *s);
/* The login there is now, counted; NULL: none yet, or it must be renewed. */
struct qc_login *qc_site_login(struct qc_site *s);
/* Get one; or renew the one whose number is refused (0: none was). Blocks. One at a time looks, and
 * what it finds is for all who wait; a failure is remembered for some seconds. AUTH, NOMEM. */
int  qc_site_prepare(struct qc_site *s, uint64_t refused, qchain_error *err);

/* What was learnt: seconds that the server's clock is ahead, and the bucket's region ("": unknown). */
void qc_site_set_skew(struct qc_site *s, int64_t seconds);
int64_t qc_site_skew(struct qc_site *s);
#define QC_REGION_MAX 33
void qc_site_set_region(struct qc_site *s, const char *region);
void qc_site_region(struct qc_site *s, char region[QC_REGION_MAX]);

const qchain_remote *qc_credentials_conf(const struct qc_credentials *c);
const struct qc_log *qc_credentials_log(const struct qc_credentials *c);

#endif
