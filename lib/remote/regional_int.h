/* SPDX-License-Identifier: MIT */
/* What the regional tier's two halves share: regional.c reads, regional_store.c stores and remembers. */
#ifndef QC_REMOTE_REGIONAL_INT_H
#define QC_REMOTE_REGIONAL_INT_H

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

/* A call when an answer is late. Embed it, zeroed. */
struct qc_region_alarm {
    void (*ring)(struct qc_region_alarm *a); /* by a thread of the region's, which holds no lock */
    struct qc_region_alarm *next, *prev;
    int64_t due_us;
    bool    set;
};
/* False if there is no thread for it. */
bool qc_region_set_alarm(struct qc_region *r, struct qc_region_alarm *a);
/* True if it will not ring; false if it has rung, or is about to, or was not set. */
bool qc_region_stop_alarm(struct qc_region *r, struct qc_region_alarm *a);

struct qc_http *qc_region_http(struct qc_region *r);
struct qc_slots *qc_region_slots(struct qc_region *r);
void qc_region_ref(struct qc_region *r);
void qc_region_unref(struct qc_region *r);

#endif
