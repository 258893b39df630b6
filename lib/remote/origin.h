/* SPDX-License-Identifier: MIT */
/* The lowest tier: the object itself, at its origin or one of its replicas. */
#ifndef QC_REMOTE_ORIGIN_H
#define QC_REMOTE_ORIGIN_H

#include "remote/http.h"
#include "remote/tier.h"

/* place: counted by the tier. pin: copied. replica: other places that hold the same bytes, counted;
 * used in their order when the one before fails by itself (NET, TIMEOUT, THROTTLED, NOTFOUND, AUTH,
 * CHANGED, IO), and asked again after a while. A replica's first answer must have the pin's size, and
 * is pinned by its own validators. NOMEM. */
int qc_origin_create(struct qc_tier **out, struct qc_http *http, struct qc_place *place,
                     const struct qc_pin *pin, struct qc_place *const *replica, uint32_t n_replicas,
                     const struct qc_log *log, qchain_error *err);

#endif
