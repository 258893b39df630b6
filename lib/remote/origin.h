/* SPDX-License-Identifier: MIT */
/* The lowest tier: the object itself, at its origin or one of its replicas. */
#ifndef QC_REMOTE_ORIGIN_H
#define QC_REMOTE_ORIGIN_H

#include "net/http.h"
#include "remote/tier.h"

/* What all origin tiers of an environment know of servers that failed of late, so that a dead one
 * does not cost each layer a deadline. */
struct qc_health;

/* conf's deadline is taken; slots (may be NULL) is borrowed. NULL: no memory. */
struct qc_health *qc_health_create(const qchain_remote *conf, struct qc_slots *slots);
/* After all tiers are closed and the HTTP engine has ended. NULL is fine. */
void qc_health_destroy(struct qc_health *h);
/* For tests: how long what failed is left alone, 30 000 if this is not called. */
void qc_health_set_pause(struct qc_health *h, uint32_t ms);

/* For openings, when there is no tier yet: may the server that a place lies at be asked, or has it failed
 * of late? And what came of asking it: 0, or the failure's code. */
bool qc_health_may_ask(struct qc_health *h, const struct qc_place *p);
void qc_health_tell(struct qc_health *h, const struct qc_place *p, int code);

/* health: borrowed. place: counted by the tier. pin: copied. replica: other places that hold the same
 * bytes, counted (at most QC_ORIGIN_REPLICAS are used); asked in their order when the one before fails
 * by itself (not CANCELLED, NOMEM), and left alone for a while then. A replica's first answer must have
 * the pin's size, and is pinned by its own validators. NOMEM. */
#define QC_ORIGIN_REPLICAS 31u
int qc_origin_create(struct qc_tier **out, struct qc_http *http, struct qc_health *health,
                     struct qc_place *place, const struct qc_pin *pin,
                     struct qc_place *const *replica, uint32_t n_replicas, const struct qc_log *log,
                     qchain_error *err);

#endif
