/* SPDX-License-Identifier: MIT */
/* How layers behind URLs are reached: settings and their text form (see qchain_remote in
 * <qchain.h>). */
#ifndef QC_NET_CONFIG_H
#define QC_NET_CONFIG_H

#include <stdbool.h>
#include <stdint.h>
#include <qchain.h>

/* "basic ORIGIN USER PASSWORD", "bearer ORIGIN TOKEN" */
struct qc_conf_login {
    char *origin;   /* as qc_url_origin writes it */
    char *user;     /* NULL: bearer */
    char *password; /* or the token */
};

/* "region PREFIX URL", "replica PREFIX URL": what is beneath PREFIX is (or is kept) beneath URL. Both as
 * qc_url_text writes them; a prefix and a replica's URL end in one '/', a region's URL in none. */
struct qc_conf_pair {
    char *prefix;
    char *url;
};

enum qc_verify { QC_VERIFY_BACKGROUND = 0, QC_VERIFY_FIRST_READ = 1, QC_VERIFY_STRICT = 2 };

/* Every string may be NULL: not set. Numbers are set to their defaults by qc_conf_new. */
struct qchain_remote {
    /* transport */
    uint32_t workers;         /* HTTP threads: 1 */
    uint32_t connections;     /* to one origin, at most: 64 */
    uint32_t block_bytes;     /* data misses are widened to: 2 MiB; a power of two, 64 KiB..16 MiB */
    uint32_t connect_ms;      /* 10 000 */
    uint32_t stall_ms;        /* less than 1 KiB/s for so long is a stall: 20 000 */
    uint32_t deadline_ms;     /* of one request with all its attempts: 60 000 */
    bool     hedge;           /* true */
    bool     insecure;        /* certificates are not verified */
    char    *ca_file, *client_cert, *client_key, *proxy;
    uint32_t verify;          /* enum qc_verify */
    /* credentials */
    char    *s3_endpoint, *s3_region, *s3_profile;
    bool     s3_virtual;      /* bucket in the host name */
    bool     s3_anonymous;    /* do not sign */
    char    *s3_access_key, *s3_secret_key, *s3_session_token;
    char    *azure_endpoint, *azure_account, *azure_key, *azure_sas;
    char    *gs_endpoint, *gs_access_key, *gs_secret_key, *gs_token;
    struct qc_conf_login *login;
    uint32_t n_logins;
    qchain_credentials_fn credentials; /* or NULL */
    struct qc_conf_callback *callback; /* owns credentials' data; shared by copies, or NULL */
    /* tiers */
    char    *cache_dir;
    uint64_t cache_bytes;     /* 10 GiB */
    uint32_t revalidate_s;    /* what the cache says of an object's identity is believed for so long
                                 without asking: 0 */
    struct qc_conf_pair *region, *replica;
    uint32_t n_regions, n_replicas;
};

/* The callback's data with its reference count: the last copy frees it. */
struct qc_conf_callback {
    void  *data;
    void (*free_fn)(void *data);
    _Atomic uint32_t refs;
};

qchain_remote *qc_conf_new(void);                        /* defaults; NULL: no memory */
qchain_remote *qc_conf_copy(const qchain_remote *from);  /* NULL: no memory */
void qc_conf_free(qchain_remote *c);                     /* NULL is fine; wipes secrets */
/* Ask fn for credentials from now on, and let data go with the last copy. NOMEM: it has not. */
int qc_conf_set_credentials(qchain_remote *c, qchain_credentials_fn fn, void *data,
                            void (*free_fn)(void *data));

/* Read rules, one a line, '#' begins a comment at a line's start or after a blank. where: how
 * messages call the text. Messages never show a value of a secret. */
int qc_conf_read(qchain_remote *c, const char *text, const char *where, qchain_error *err);

#endif
