/* SPDX-License-Identifier: MIT */
/*
 * qchain-remote.h - layers in object stores; a chapter of <qchain.h>, which includes it.
 *
 * Where a path is taken, so is a URL:
 *   http://HOST/PATH, https://...   basic or bearer credentials by origin; presigned queries
 *   s3://BUCKET/KEY                 any store that speaks S3 with signature version 4
 *   az://CONTAINER/BLOB             Azure Blob storage, shared key or SAS
 *   gs://BUCKET/KEY                 Google Cloud Storage, HMAC keys or a bearer token
 * A relative backing file name lies beside the URL of its image; bytes of it that a URL cannot hold
 * are encoded, and "%41" stays what it is (in s3, az and gs names nothing is ever decoded).
 *
 * Objects are taken to be immutable: the first answer pins size and validators (ETag, version, time of
 * change), every request repeats them, and an object that was replaced makes reads fail CHANGED; bytes
 * of two generations are never mixed. An object whose server sends no validator but its size is read
 * all the same, guarded by the size alone, with a line in the log.
 * Requests are range GETs, never HEAD. What the caller names may be anywhere; what an image names must
 * lie under the origin and directory of the top image's URL, or under an allowed prefix
 * (qchain_policy_allow_url). Credentials go to the origins they are configured for and nowhere else,
 * not by a redirect either. They never appear in errors, logs or info, nor do queries of URLs.
 *
 * What a read brings: data misses are widened to aligned blocks (2 MiB); metadata is not. Blocks are
 * kept in memory (qchain_env_opts.block_bytes), and where configured in a directory that processes
 * share and in a second bucket near by; what goes wrong with these caches never fails a read.
 *
 * Sidecar indexes ("sidecar index" in <qchain.h>) of images behind URLs have no owners and no times to
 * rely on. One is an object beside the image, asked for together with it (where the image's URL is signed
 * there is none, as the signature is for the image alone), or named by the caller; in a file it is believed
 * if it belongs to the caller or root and nobody else may write to it. A layer is what it was if its size
 * and ETag are; or its version, where the ETag is weak; or its time, where there is no other. The top is
 * compared when it is opened, each other layer by the first request for it, if not before (`verify` below).
 * If one was replaced the chain fails CHANGED, or, at the open, the sidecar is not used.
 *
 * libcurl is loaded when the first URL is opened, and not before.
 */
#ifndef QCHAIN_REMOTE_H
#define QCHAIN_REMOTE_H

#include <qchain.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Make a configuration with the defaults; NULL when there is no memory. One thread at a time.
 * Since 0.1. */
QCHAIN_API qchain_remote *qchain_remote_create(void);
/* Free it; NULL is fine. Environments keep copies. Secrets are wiped. Since 0.1. */
QCHAIN_API void qchain_remote_destroy(qchain_remote *r);
/* Read settings from text, one a line; '#' begins a comment. What is not set in any way below is looked
 * for where the cloud's own tools do (environment, files, endpoints of containers and instances).
 *   connections N            to one origin, at most (64)
 *   workers N                threads that transfer (1)
 *   block-size SIZE          what a data miss is widened to: 64K..16M, a power of two (2M)
 *   connect-timeout SECONDS  (10)
 *   stall-timeout SECONDS    less than 1 KiB/s for so long ends an attempt (20)
 *   deadline SECONDS         of a request with all its attempts (60)
 *   hedge on|off             ask once more when an answer is late, at most 5 % of requests (on)
 *   ca-file FILE, client-cert FILE, client-key FILE, proxy URL
 *   insecure on|off          do not verify certificates (off)
 *   verify background|first-read|strict
 *                            when layers known from a sidecar index are compared with the store: in the
 *                            background after the open (the default), when first read, or all at open
 *   s3-endpoint URL, s3-region NAME, s3-style path|virtual, s3-profile NAME, s3-anonymous on|off,
 *   s3-access-key ID, s3-secret-key KEY, s3-session-token TOKEN
 *   azure-endpoint URL, azure-account NAME, azure-key KEY, azure-sas TOKEN
 *   gs-endpoint URL, gs-access-key ID, gs-secret-key KEY, gs-token TOKEN
 *   basic ORIGIN USER PASSWORD, bearer ORIGIN TOKEN
 *                            for http and https; ORIGIN as in https://host:8443
 *   cache-dir DIR            the disk cache, shared by processes of one user
 *   cache-size SIZE          it takes at most about this much (10G)
 *   revalidate SECONDS       for so long after an object was last seen at its origin, the disk cache's
 *                            word for what it is is taken, without asking (0)
 *   region PREFIX URL        what lies beneath PREFIX is also kept beneath URL, which is nearer
 *   replica PREFIX URL       what lies beneath PREFIX lies beneath URL as well, unchanged
 * Errors: INVAL with the line's number (no value of a secret is shown; the lines before it hold), NOMEM.
 * Since 0.1. */
QCHAIN_API int qchain_remote_parse(qchain_remote *r, const char *text, qchain_error *err);
/* The same from a file of less than 1 MiB, which nobody but its owner (the caller or root) may write to.
 * Errors: NOTFOUND, ACCESS, IO, INVAL. Since 0.1. */
QCHAIN_API int qchain_remote_load(qchain_remote *r, const char *path, qchain_error *err);

/* Credentials that a callback gives; the library has set struct_size, and all else to zero. All strings may be
 * NULL; they are copied when it returns. */
typedef struct qchain_credentials {
    size_t      struct_size;
    uint32_t    flags;         /* 0 */
    uint32_t    reserved0;
    const char *access_key;    /* s3, gs; http: the user; az: the account */
    const char *secret_key;    /* s3, gs, az: the key; http: the password */
    const char *session_token; /* s3: session token; az: SAS; gs, http: bearer token */
    uint64_t    expires;       /* seconds since the epoch; 0 = never */
} qchain_credentials;

/* Asked for credentials of "s3://BUCKET", "az://CONTAINER", "gs://BUCKET" or "https://host:port". renew
 * is 1 if those given before were refused. Returns 0, 1 for "none of mine" (others are looked for), or a
 * negative QCHAIN_E_*. Called by a thread of the library or one in a call, never under a lock; may
 * block; must not call the library on the chain. */
typedef int (*qchain_credentials_fn)(void *data, const char *where, int renew,
                                     qchain_credentials *out);
/* Ask fn first, instead of one that was set before; NULL: nobody. free_data (may be NULL): called once,
 * when the last copy of the configuration is freed, or when this call fails. Errors: NOMEM. Since 0.1. */
QCHAIN_API int qchain_remote_set_credentials(qchain_remote *r, qchain_credentials_fn fn, void *data,
                                             void (*free_data)(void *data), qchain_error *err);

/* Allow layers beneath a URL ("https://host/dir/", "s3://bucket/prefix/"); a prefix ends at a '/'.
 * Errors: INVAL, NOMEM. Since 0.1. As a rule: "allow-url URL". */
QCHAIN_API int qchain_policy_allow_url(qchain_policy *p, const char *url, qchain_error *err);

/* ------------------------------------------------------------- the disk cache --- */

typedef struct qchain_cache_info {
    size_t   struct_size;   /* set by the caller: sizeof(qchain_cache_info) */
    uint64_t objects;       /* identities that have bytes in it */
    uint64_t bytes;         /* that they take on the medium */
    uint64_t damaged;       /* verify: units whose checksum is wrong; they are dropped */
    uint64_t checked;       /* verify: units looked at */
    uint64_t freed;         /* trim, verify: bytes given back */
    uint64_t reserved[4];
} qchain_cache_info;

/* Count, check every checksum of, shrink to max_bytes, or empty a cache directory, while others use it.
 * Block. Errors: NOTFOUND, ACCESS (whose it is, who may write to it), IO, INVAL (no cache). Since 0.1. */
QCHAIN_API int qchain_cache_stat(const char *dir, qchain_cache_info *out, qchain_error *err);
QCHAIN_API int qchain_cache_verify(const char *dir, qchain_cache_info *out, qchain_error *err);
QCHAIN_API int qchain_cache_trim(const char *dir, uint64_t max_bytes, qchain_cache_info *out,
                                 qchain_error *err);
QCHAIN_API int qchain_cache_clear(const char *dir, qchain_error *err);

/* ---------------------------------------------------------------- statistics --- */

typedef struct qchain_remote_stats {
    size_t   struct_size;      /* set by the caller: sizeof(qchain_remote_stats) */
    uint64_t requests;         /* attempts sent to servers, of all kinds */
    uint64_t bytes;            /* of bodies received */
    uint64_t sent_bytes;       /* of bodies sent */
    uint64_t connections;      /* opened */
    uint64_t retries;          /* attempts after a failed one */
    uint64_t hedges;           /* second attempts beside a late one */
    uint64_t redirects;        /* followed */
    uint64_t wasted_bytes;     /* received, and not used: broken off, too late, wrong */
    uint64_t memory_hits;      /* reads answered by blocks in memory */
    uint64_t memory_bytes;
    uint64_t joined;           /* reads that waited for what was on its way already */
    uint64_t disk_hits;        /* reads answered by the disk cache */
    uint64_t disk_bytes;
    uint64_t disk_stores;      /* ranges written to it */
    uint64_t disk_damaged;     /* units whose checksum was wrong */
    uint64_t region_hits;      /* ranges answered by a regional cache */
    uint64_t region_bytes;
    uint64_t region_stores;
    uint64_t region_faults;
    uint64_t failovers;        /* ranges that another replica gave */
    uint64_t first_byte_p50_us; /* from an attempt's start to its first byte, microseconds */
    uint64_t first_byte_p90_us;
    uint64_t first_byte_p99_us;
    uint64_t total_p50_us;     /* to its end */
    uint64_t total_p90_us;
    uint64_t total_p99_us;
} qchain_remote_stats;

/* What an environment's remote layers did so far. Errors: INVAL. Since 0.1. */
QCHAIN_API int qchain_env_remote_stats(qchain_env *env, qchain_remote_stats *out);

#ifdef __cplusplus
}
#endif
#endif
