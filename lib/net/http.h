/* SPDX-License-Identifier: MIT */
/*
 * HTTP requests, asynchronous, on worker threads of their own, each with a curl multi handle.
 * A request ends exactly once, after as many attempts as it takes: retries with full jitter, resumed
 * where the last attempt broke off, signed anew, redirects, hedges. Workers never block on anything
 * but their sockets, and call nothing but the two callbacks of a request, which must not block.
 */
#ifndef QC_NET_HTTP_H
#define QC_NET_HTTP_H

#include <stdatomic.h>

#include "net/pin.h"
#include "net/place.h"
#include "util/error.h"
#include "util/slots.h"

struct qc_http;
struct qc_http_private;

/* One an environment; starts no thread and does not load libcurl before the first request. conf, log
 * and slots are borrowed for life. NULL: no memory. */
struct qc_http *qc_http_create(const qchain_remote *conf, const struct qc_log *log,
                               struct qc_slots *slots);
/* What is under way fails CANCELLED soon, and so does at once whatever is submitted from now on. */
void qc_http_abort(struct qc_http *h);
/* Ends the workers; what is under way is failed CANCELLED first. NULL is fine. */
void qc_http_destroy(struct qc_http *h);

enum qc_http_flags {
    QC_HTTP_META = 0x1,       /* small and waited for: before others in the queue */
    QC_HTTP_IF_ABSENT = 0x2,  /* PUT with If-None-Match: * */
    QC_HTTP_ONCE = 0x4,       /* one attempt, no retries but on a dead kept-alive connection */
    QC_HTTP_MISSING_OK = 0x8, /* a 404 is not logged: somebody only looks */
    QC_HTTP_NO_HEDGE = 0x10
};

struct qc_http_request {
    /* The caller's; all unchanged until done is called. */
    struct qc_place *place;    /* borrowed */
    enum qc_http_method method;
    uint32_t  flags;           /* QC_HTTP_* */
    uint64_t  offset;          /* GET: where to begin */
    size_t    length;          /* GET: bytes wanted, at least 1; PUT: bytes of the body */
    void     *buf;             /* GET: room for length bytes; PUT: the body, not changed */
    const struct qc_pin *pin;  /* GET: what the object must be, and [offset, offset + length) lies
                                  within its size. NULL: whatever it is; then fewer bytes are a
                                  success where the object ends earlier */
    uint32_t  deadline_ms;     /* 0: the configuration's */
    /* GET: bytes [0, have) of buf are there, and are the pinned object's; have never falls. By a
     * worker; may be NULL. */
    void    (*progress)(struct qc_http_request *r, size_t have);
    /* Once, after which r is the caller's again (and may be freed or submitted in the call). By a
     * worker, a helper thread, or within submit. ret: 0 or r->err.code. */
    void    (*done)(struct qc_http_request *r, int ret);

    /* The answer. */
    struct qc_pin got;         /* GET: what it is (of a PUT: etag) */
    size_t    have;            /* GET: bytes in buf */
    qchain_error err;
    uint32_t  attempts;
    /* Until this, a HTTP status of the last answer, 0 if there was none. */
    int       status;

    struct qc_http_private *priv; /* the engine's */
};

/* Begin. Never blocks (threads may be started). */
void qc_http_submit(struct qc_http *h, struct qc_http_request *r);
/* Ask that it end early: it is done soon, with CANCELLED or as it would have been. Any thread, while
 * the caller knows that done has not returned. */
void qc_http_cancel(struct qc_http *h, struct qc_http_request *r);
/* Submit and wait. r->done and progress are not used. Never from a worker. */
int qc_http_perform(struct qc_http *h, struct qc_http_request *r);

/* Latencies, for statistics: from the start of an attempt to its first byte, in microseconds, at a
 * percentile (0..100) of the last ones; 0 if there was none. */
uint64_t qc_http_first_byte_us(struct qc_http *h, unsigned percentile);
uint64_t qc_http_total_us(struct qc_http *h, unsigned percentile);

/* Is libcurl there? Loads it. UNSUPPORTED with a sentence. */
int qc_http_available(qchain_error *err);

#endif
