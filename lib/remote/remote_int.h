/* SPDX-License-Identifier: MIT */
/* Inside of remote.h: an environment's remote things, and the tiers of an object. */
#ifndef QC_REMOTE_REMOTE_INT_H
#define QC_REMOTE_REMOTE_INT_H

#include "remote/disk.h"
#include "net/http.h"
#include "remote/object.h"
#include "remote/origin.h"
#include "remote/regional.h"
#include "remote/remote.h"

#define QC_MISSING 1024 /* names that are remembered to be missing */

struct qc_missing {
    uint64_t hash;
    uint64_t until_ns;
};

struct qc_remote {
    qchain_remote         *conf;
    struct qc_remote_deps  deps;
    struct qc_credentials *creds;
    struct qc_http        *http;
    struct qc_health      *health;
    struct qc_flights      flights;
    pthread_mutex_t        lock;    /* guards what follows */
    bool                   disk_tried;
    struct qc_disk        *disk;    /* opened with the first object; NULL: none */
    struct qc_region     **region;  /* one a rule, made at the first need */
    struct qc_missing      missing[QC_MISSING];
};

/* remote_tiers.c */

/* The disk cache, opened at the first call; NULL if there is none. */
struct qc_disk *qc_remote_disk(struct qc_remote *r);
/* The places that hold what name lies at as well, by the rules; counted, at most QC_ORIGIN_REPLICAS. */
int  qc_remote_replicas(struct qc_remote *r, const char *name, struct qc_place **place, uint32_t *n,
                        qchain_error *err);
/* All tiers of an object. first: the place that told what it is, whose pin it is: place, or a replica of
 * it. *seed (may be NULL) receives the tier that offers its first bytes to the disk
 * cache once they are there (qc_seed_run), NULL if there is none. */
int  qc_remote_tiers(struct qc_tier **out, struct qc_remote *r, struct qc_place *place,
                     struct qc_place *first, const struct qc_pin *pin, struct qc_tier **seed,
                     qchain_error *err);
/* Put the first length bytes through the tiers of o; they are copied. Never blocks. */
void qc_seed_run(struct qc_object *o, struct qc_tier *seed, const void *bytes, size_t length);

#endif
