/* SPDX-License-Identifier: MIT */
/* What the regional tier's halves share: regional.c reads, regional_store.c stores and remembers;
 * and what calls them in time, regional_alarm.c. */
#ifndef QC_REMOTE_REGIONAL_INT_H
#define QC_REMOTE_REGIONAL_INT_H

#include <pthread.h>

#include "remote/regional.h"
#include "util/log.h"

/* An object of the region: the range's bytes, then these (integers big-endian):
 *    0  "QCr1"
 *    4  CRC32C of the bytes and of what follows here
 *    8  offset in the object
 *   16  length
 *   24  the first 8 bytes of the object's identity */
#define QC_REGION_TRAILER 32u

/* What names an object, of one generation, as seen with one set of credentials: SHA-256. */
struct qc_region_id {
    uint8_t digest[32];
};

/* Put the trailer behind length bytes of body. */
void qc_region_seal(uint8_t *body, size_t length, uint64_t offset, const struct qc_region_id *id);
/* Is it that range's? */
bool qc_region_is_sealed(const uint8_t *body, size_t length, uint64_t offset,
                         const struct qc_region_id *id);

/* The place of a range. */
int qc_region_place(struct qc_place **out, struct qc_region *r, const struct qc_region_id *id,
                    uint64_t offset, size_t length, qchain_error *err);

int64_t qc_region_now_us(void);

/* May it be asked now? */
bool qc_region_may_look(struct qc_region *r);
/* How it answered: after so long, or what was wrong. */
void qc_region_answered(struct qc_region *r, int64_t took_us);
void qc_region_failed(struct qc_region *r, const char *why);

/* Have length bytes stored, copied before this returns; or not, if that is too much. over: what is
 * there is damaged. */
void qc_region_store(struct qc_region *r, const struct qc_region_id *id, const void *data,
                     uint64_t offset, size_t length, bool over);

/* After so long an answer is late. */
int64_t qc_region_patience_us(struct qc_region *r);

/* Calls at a time, by a thread that starts at the first need. Embed one, zeroed, and set ring. */
struct qc_alarm {
    void (*ring)(struct qc_alarm *a); /* no lock is held */
    struct qc_alarm *next, *prev;
    int64_t due_us;
    bool    set;
};
struct qc_alarms {
    pthread_mutex_t  lock; /* taken last */
    pthread_cond_t   changed; /* the first alarm, or the end has come */
    struct qc_alarm *first, *last; /* by time */
    pthread_t        thread;
    bool             has_thread, stop;
};
void qc_alarms_init(struct qc_alarms *s);
void qc_alarms_stop(struct qc_alarms *s);   /* none is set; ends the thread */
void qc_alarms_finish(struct qc_alarms *s); /* after that */
/* False if there is no thread for it. */
bool qc_alarm_set(struct qc_alarms *s, struct qc_alarm *a, int64_t after_us);
/* True if it will not ring; false if it has rung, or is about to, or was not set. */
bool qc_alarm_stop(struct qc_alarms *s, struct qc_alarm *a);

struct qc_alarms *qc_region_alarms(struct qc_region *r);
struct qc_http *qc_region_http(struct qc_region *r);
struct qc_slots *qc_region_slots(struct qc_region *r);
void qc_region_ref(struct qc_region *r);
void qc_region_unref(struct qc_region *r);

#endif
