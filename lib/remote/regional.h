/* SPDX-License-Identifier: MIT */
/*
 * The regional cache: a second bucket or URL near by that keeps ranges of objects of other regions. A
 * range that it lacks is read from below, and stored there once, in the background, by a conditional
 * PUT. What goes wrong here never fails a read. One an environment and rule.
 */
#ifndef QC_REMOTE_REGIONAL_H
#define QC_REMOTE_REGIONAL_H

#include "remote/http.h"
#include "remote/tier.h"

struct qc_region; /* what the objects of one rule share: bounds, faults met, what is being stored */

/* url: where to keep ranges, a prefix ("s3://bucket/cache", "http://cache/dav"). */
int  qc_region_create(struct qc_region **out, struct qc_http *http, struct qc_credentials *creds,
                      const char *url, const struct qc_log *log, struct qc_slots *slots,
                      qchain_error *err);
void qc_region_destroy(struct qc_region *r); /* waits for what is stored, at most some seconds */

/* Wrap below, which becomes the tier's (also on failure). key, scope: of the object's place. NOMEM. */
int qc_regional_create(struct qc_tier **out, struct qc_region *r, const char *key, const char *scope,
                       const struct qc_pin *pin, struct qc_tier *below, qchain_error *err);

#endif
