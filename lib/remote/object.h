/* SPDX-License-Identifier: MIT */
/*
 * One remote object as a store. Reads of data are widened to aligned blocks, which stay in memory for a
 * while; metadata is read as it is. What is on its way already is waited for, not asked for again, and
 * whoever waits is served as soon as his bytes are there.
 *
 * A flight is one range on its way from the tiers. It goes into a block of memory, or, if a reader wants
 * nearly all of a long range, straight into his buffer. Flights outlive the store that began them: they
 * count as users of the object.
 */
#ifndef QC_REMOTE_OBJECT_H
#define QC_REMOTE_OBJECT_H

#include <pthread.h>
#include <stdatomic.h>

#include "cache/block_cache.h"
#include "io/store.h"
#include "net/config.h"
#include "remote/delay.h"
#include "remote/tier.h"
#include "util/tasks.h"

struct qc_flight;

/* What all objects of an environment share: memory for what is on its way. */
struct qc_flights {
    pthread_mutex_t        lock;
    uint64_t               under_way, room; /* bytes */
    struct qc_flight      *waiting, **waiting_end;
    bool                   letting_off; /* somebody does */
    uint32_t               n;           /* flights and openings */
    pthread_cond_t         fewer;
    struct qc_block_cache *blocks;
    struct qc_tasks       *leaves;
    struct qc_slots       *slots;
    uint32_t               block_bytes;
    uint32_t               parallel;
    /* Of data that readers want, or are expected to: what is under way, and when some last was. */
    atomic_uint            n_wanted;
    atomic_uint_fast64_t   wanted_ns; /* 0: never */
    struct qc_delay        delay;     /* and what it felt */
    /* An object was found to be another than the pin says: forget the pin. May block; NULL:
     * nobody keeps pins. */
    void                 (*forget)(void *data, struct qc_place *place);
    void                  *forget_data;
};

struct qc_object {
    struct qc_flights *shared;
    struct qc_place   *place; /* counted */
    struct qc_pin      pin;
    struct qc_tier    *tier;  /* owned */
    uint64_t           owner; /* of its blocks */
    atomic_uint        users; /* the store, and flights */
    atomic_bool        changed; /* not what it was: all fails */
    atomic_bool        keep;    /* metadata that is read now is wanted again soon */
    bool               given_up; /* nothing is waited for any more; under the lock */
    uint32_t           head;    /* bytes of the first range, which is read at once */
    pthread_mutex_t    lock;
    struct qc_flight  *flight;  /* all, under the lock */
    uint64_t           next;    /* where a sequential reader would go on, */
    uint64_t           ahead;   /* how far he did so, and */
    uint64_t           begun;   /* up to where blocks were asked for ahead of him; under the lock */
};

/* tier becomes the object's, also on failure; place is counted. NOMEM. */
int  qc_object_create(struct qc_object **out, struct qc_flights *shared, struct qc_place *place,
                      const struct qc_pin *pin, struct qc_tier *tier, uint64_t owner, uint32_t head,
                      qchain_error *err);
void qc_object_drop(struct qc_object *o); /* one user less; NULL is fine */
/* As a store, which becomes the user that create counted. */
int  qc_object_store(struct qc_object *o, struct qc_slots *slots, struct qc_store **out,
                     qchain_error *err);
/* The object behind a store, or NULL. */
struct qc_object *qc_object_of(const struct qc_store *s);
/* Who waits for it, or comes to wait, is told CANCELLED; what is on its way lands, for caches. */
void qc_object_give_up(struct qc_object *o);

/* The first bytes, which come by another way: a flight into block (a pin becomes the flight's) for
 * [0, length). Tell it how far it is, and once when it is over, whoever does. NULL: no memory. */
struct qc_flight *qc_flight_begin(struct qc_object *o, struct qc_block *block, size_t length);
void qc_flight_progress(struct qc_flight *f, size_t have);
void qc_flight_over(struct qc_flight *f, int ret, const qchain_error *err);

/* Count something that is under way, and that it has ended. */
void qc_flights_enter(struct qc_flights *s);
void qc_flights_leave(struct qc_flights *s);
/* Wait until nothing is under way, at most so long; true if so. */
bool qc_flights_wait(struct qc_flights *s, unsigned seconds);
int  qc_flights_init(struct qc_flights *s);
void qc_flights_finish(struct qc_flights *s);

#endif
