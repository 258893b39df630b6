/* SPDX-License-Identifier: MIT */
/* A store in memory that is written: it keeps account of what is done to it, and fails when told to. */
#ifndef QC_TESTS_REC_STORE_H
#define QC_TESTS_REC_STORE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <qchain-backend.h>

enum rec_kind { REC_WRITE, REC_ZERO, REC_DISCARD, REC_RESIZE, REC_FLUSH };

struct rec_op {
    enum rec_kind kind;
    uint64_t      offset, length;
    uint8_t      *bytes; /* of a write */
};

struct rec_store {
    pthread_mutex_t lock;
    uint8_t        *bytes;
    uint64_t        size, cap;
    struct rec_op  *op;
    size_t          n, room;
    bool            log;       /* note operations */
    uint64_t        calls;     /* reads, too */
    uint64_t        n_flushes, n_writes;
    uint64_t        fail_from, fail_to; /* calls [from, to), counted from 1 on, fail */
    int             fail_code;
    bool            fail_writes_only;   /* only those are counted as calls */
};

/* Empty; it may grow to `room` bytes, 0: 64 MiB. */
struct rec_store *rec_create(uint64_t room);
void rec_destroy(struct rec_store *r);
/* Forget what was noted, and counted. */
void rec_reset(struct rec_store *r);
/* A store over it, which does not own it. */
void rec_store_of(struct rec_store *r, qchain_store *out);

/* Bytes as a medium may have them; apply returns how long they are then. buf has room for cap bytes, zeros from
 * size on. */
uint64_t rec_apply(uint8_t *buf, uint64_t cap, uint64_t size, const struct rec_op *op);

#endif
