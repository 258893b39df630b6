/* SPDX-License-Identifier: MIT */
/*
 * The regional cache: a second bucket or URL near by that keeps ranges of objects of other regions. A
 * range that it lacks is read from below, and stored there once, in the background, by a conditional
 * PUT. What goes wrong here never fails a read. One an environment and rule.
 */
#ifndef QC_REMOTE_REGIONAL_H
#define QC_REMOTE_REGIONAL_H

#include "net/http.h"
#include "remote/tier.h"

struct qc_region; /* what the objects of one rule share: bounds, faults met, what is being stored */

/* url: where to keep ranges, a prefix ("s3://bucket/cache", "http://cache/dav"). INVAL (a query),
 * UNSUPPORTED, NOMEM. */
int  qc_region_create(struct qc_region **out, struct qc_http *http, struct qc_credentials *creds,
                      const char *url, const struct qc_log *log, struct qc_slots *slots,
                      qchain_error *err);
/* Waits for what is stored, at most some seconds. All tiers are closed; the HTTP engine still runs, and
 * may end reads of theirs that came too late. NULL is fine. */
void qc_region_destroy(struct qc_region *r);

/* Wrap below, which becomes the tier's (also on failure). key, scope: of the object's place. An object
 * that nothing but its size tells from another is not kept: then *out is below. NOMEM. */
int qc_regional_create(struct qc_tier **out, struct qc_region *r, const char *key, const char *scope,
                       const struct qc_pin *pin, struct qc_tier *below, qchain_error *err);

/* How long and how much; for tests, which change them before the first fetch. */
struct qc_region_limits {
    uint32_t look_ms;     /* a GET's deadline: 2000 */
    uint32_t patience_ms; /* without an answer for so long, what is below is asked too: at least 100 */
    uint32_t patience_max_ms; /* and at most 1000; in between it is 4 times what an answer takes */
    uint32_t put_ms;      /* a PUT's deadline: 30 000 */
    uint32_t faults;      /* in a row, after which it is left alone: 5 */
    uint32_t pause_ms;    /* for so long: 30 000 */
    uint32_t close_ms;    /* destroying waits for PUTs: 3000 */
    uint32_t puts;        /* at once: 8 */
    uint32_t ranges;      /* being stored, or waiting for it: 256 */
    size_t   copy_bytes;  /* of these: 32 MiB */
};
struct qc_region_limits *qc_region_limits(struct qc_region *r);

#endif
