/* SPDX-License-Identifier: MIT */
/*
 * What an environment has for layers behind URLs: configuration, credentials, HTTP, caches; and objects
 * opened as stores over their tiers.
 */
#ifndef QC_REMOTE_REMOTE_H
#define QC_REMOTE_REMOTE_H

#include "cache/block_cache.h"
#include "io/store.h"
#include "net/config.h"
#include "net/pin.h"
#include "util/log.h"
#include "util/tasks.h"

struct qc_remote;
struct qc_opening;

struct qc_remote_deps {
    struct qc_tasks       *leaves;
    struct qc_block_cache *blocks;
    atomic_uint_fast64_t  *next_owner;
    struct qc_slots       *slots;
    const struct qc_log   *log;
};

/* conf is copied, NULL: the defaults. Does no I/O, starts nothing. */
int  qc_remote_create(struct qc_remote **out, const qchain_remote *conf,
                      const struct qc_remote_deps *deps, qchain_error *err);
/* All stores are closed: end what is under way (leaf tasks may be begun by that), and, when no leaf task
 * is left, free all. NULL is fine. */
void qc_remote_stop(struct qc_remote *r);
void qc_remote_destroy(struct qc_remote *r);

/* Does the name begin with a scheme that is ours: http, https, s3, az, gs? */
bool qc_remote_name(const char *name);

/* Begin to open an object: its first bytes are on their way, with its size and validators. MISSING_OK:
 * it may well not be there, and that is remembered for a while. INVAL, UNSUPPORTED, NOMEM. */
enum qc_remote_flags {
    QC_REMOTE_MISSING_OK = 0x1,
    QC_REMOTE_WHOLE = 0x2, /* as much as 1 MiB at once */
    QC_REMOTE_BRIEF = 0x4, /* a header and names, and no more: what is next waits for it */
};
int qc_remote_begin(struct qc_opening **out, struct qc_remote *r, const char *name, uint32_t flags,
                    qchain_error *err);
/* Wait for it: a store whose limits say remote. opening is gone afterwards. */
int qc_remote_finish(struct qc_opening *opening, struct qc_store **out, qchain_error *err);
void qc_remote_abandon(struct qc_opening *opening); /* NULL is fine */

/* Open one that is known already: no request is made before the first read, which fails CHANGED if the
 * object is not pin's. */
int qc_remote_open_pinned(struct qc_store **out, struct qc_remote *r, const char *name,
                          const struct qc_pin *pin, qchain_error *err);

/* The rest of this header: s is any store. True if it was made here. */
bool qc_remote_is(const struct qc_store *s);
/* Of a store made here, else NULL. */
const struct qc_pin *qc_remote_pin(const struct qc_store *s);
/* Metadata that is read from now on is wanted again soon (or no more): keep it in memory. */
void qc_remote_keep(const struct qc_store *s, bool keep);
/* It is about to be closed: reads that wait for its server end CANCELLED, now. */
void qc_remote_give_up(const struct qc_store *s);
/* The name of an object beside it, see qc_place_sibling; to be freed. NULL: none, or no memory. */
char *qc_remote_sibling(const struct qc_store *s, const char *suffix);
/* The same of an object that is not open. No I/O. INVAL, UNSUPPORTED, NOMEM. */
int qc_remote_sibling_of(char **out, struct qc_remote *r, const char *name, const char *suffix,
                         qchain_error *err);
/* Write an object whole. if_absent: BUSY if there is one. */
int qc_remote_put(struct qc_remote *r, const char *name, const void *buf, size_t length, bool if_absent,
                  qchain_error *err);
int qc_remote_delete(struct qc_remote *r, const char *name, qchain_error *err);

/* Is the object pin's still? Its origin is asked for a byte, past all caches. CHANGED, NOTFOUND, or why
 * that cannot be told. */
int qc_remote_check(struct qc_remote *r, const char *name, const struct qc_pin *pin, qchain_error *err);
/* The same in parts, so that another thread may end the waiting early: it is then over soon, with
 * CANCELLED or as it would have been. */
struct qc_checking;
int  qc_remote_check_begin(struct qc_checking **out, struct qc_remote *r, const char *name,
                           const struct qc_pin *pin, qchain_error *err);
int  qc_remote_check_wait(struct qc_checking *k, qchain_error *err);
void qc_remote_check_cancel(struct qc_checking *k);
void qc_remote_check_free(struct qc_checking *k); /* waited for, or cancelled */
/* When layers that only a sidecar index knows are to be checked. */
enum qc_verify qc_remote_verify(const struct qc_remote *r);

/* First-byte and total latencies, see http.h. */
uint64_t qc_remote_latency_us(struct qc_remote *r, bool first_byte, unsigned percentile);

#endif
