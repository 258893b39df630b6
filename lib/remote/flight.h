/* SPDX-License-Identifier: MIT */
/* Flights of an object, and the readings that wait for them. See object.h. */
#ifndef QC_REMOTE_FLIGHT_H
#define QC_REMOTE_FLIGHT_H

#include "remote/object.h"

/* Keys of an object's blocks in the block cache: offsets are multiples of QC_GRAIN. */
#define QC_KEY_HEAD UINT64_C(1)
static inline uint64_t qc_key_data(uint64_t offset) { return offset; }
static inline uint64_t qc_key_meta(uint64_t offset) { return offset | 2; }

/* A piece of a reading that waits for a flight. */
struct qc_part {
    struct qc_part    *next; /* of the flight */
    struct qc_reading *rd;
    char              *dest; /* NULL: the flight goes there by itself */
    uint64_t           offset;
    size_t             length;
};

/* One read. */
struct qc_reading {
    struct qc_part *part;   /* room for all */
    size_t          n;
    pthread_mutex_t lock;   /* guards what follows */
    pthread_cond_t  ended;
    size_t          left;   /* parts that wait, and one until all have begun */
    int             result;
    qchain_error   *err;
    void          (*over)(struct qc_reading *rd, int ret); /* NULL: somebody waits */
};

void qc_reading_init(struct qc_reading *rd, qchain_error *err); /* part is set */
void qc_reading_finish(struct qc_reading *rd);
/* All parts have begun: wait for them, and finish; or have over called when they have ended. */
int  qc_reading_wait(struct qc_reading *rd);
void qc_reading_begun(struct qc_reading *rd);

/* Wait for a flight that is under way and brings all of the piece; false if there is none. */
bool qc_flight_join(struct qc_object *o, struct qc_reading *rd, char *dest, uint64_t offset,
                    size_t length);
/* Have [start, end), which holds the piece, brought into a block, and wait. rd NULL: nobody waits. */
void qc_flight_want(struct qc_object *o, struct qc_reading *rd, char *dest, uint64_t offset,
                    size_t length, uint64_t start, uint64_t end, bool meta);
/* Have the grains of the piece brought anew, from the origin. */
void qc_flight_fresh(struct qc_object *o, struct qc_reading *rd, char *dest, uint64_t offset,
                     size_t length);
/* The same of data that nobody has asked for yet (bring.h): readers may join, but it is none of theirs. */
void qc_flight_bring(struct qc_object *o, struct qc_reading *rd, char *dest, uint64_t offset,
                     size_t length);
/* Have the piece brought straight into dest. */
void qc_flight_direct(struct qc_object *o, struct qc_reading *rd, char *dest, uint64_t offset,
                      size_t length);

#endif
