/* SPDX-License-Identifier: MIT */
/* Inside of prefetching: what is wanted (prefetch_plan.c), what is under way (prefetch_window.c), and how it comes
 * into a top (prefetch_top.c). */
#ifndef QC_OPS_PREFETCH_INT_H
#define QC_OPS_PREFETCH_INT_H

#include <stdbool.h>

#include "chain/chain.h"
#include "ops/job.h"

/* ------------------------------------------------------------------ the plan --- */

/* Two pieces of a file are fetched as one if no more lies between them: so much of a request's time passes
 * anyway before its first byte. It is what may be fetched in vain for a piece. */
#define QC_PREFETCH_GAP (UINT64_C(16) << 10)
#define QC_PREFETCH_REQUEST (UINT64_C(2) << 20)

/* What goes into a top is written by pieces of no more than this, or of a unit of the top. */
#define QC_PREFETCH_PIECE (UINT64_C(256) << 10)

/* A stretch of an object, in whole grains of the cache but for the object's end: a piece, or pieces merged. */
struct qc_want {
    uint64_t start, end;
    uint64_t shows;  /* guest bytes */
    uint32_t source; /* of the chain */
    uint32_t order;  /* of the first piece of it among the batch's */
    uint64_t guest, host; /* a piece's offsets */
    uint32_t packed; /* bytes of its stream if it is compressed, else 0 */
    uint32_t first, n_pieces; /* of merged ones: among the batch's pieces */
};

/* One of the disks, and how far it is mapped. */
struct qc_prefetch_disk {
    qchain  *c;
    const qchain_prefetch_range *range; /* its own are picked out of these by `number`; NULL: all of the disk */
    uint32_t n_ranges, next_range, number;
    uint64_t pos, end;  /* what is left of the range */
    uint64_t step;      /* mapped by the next call, at most */
};

/* A batch of what is wanted next of one disk; its memory is used again and again. */
struct qc_prefetch_batch {
    struct qc_want *want;    /* in the order in which they are wanted */
    uint32_t        n;
    struct qc_want *piece;   /* what they were merged of, by place; NULL: into the cache, where nobody asks */
    uint64_t        passed;  /* guest bytes mapped with it that need nothing */
    uint64_t        most;    /* bytes; grows */
    qchain_extent  *extent;
    bool            metadata; /* map, and want nothing */
};

/* flags: QCHAIN_PREFETCH_* */
int  qc_prefetch_batch_init(struct qc_prefetch_batch *b, uint32_t flags, qchain_error *err);
void qc_prefetch_batch_finish(struct qc_prefetch_batch *b);
/* Guest bytes of all ranges of a disk; RANGE. */
int  qc_prefetch_disk_init(struct qc_prefetch_disk *d, qchain *c, const qchain_prefetch_opts *o,
                           uint32_t number, uint64_t *length, qchain_error *err);
/* Map on, a bounded step. *more: false if the disk is at its end; the batch may be empty anyway. What it finds is
 * counted in result. */
int  qc_prefetch_plan(struct qc_prefetch_disk *d, struct qc_prefetch_batch *b, bool *more,
                      qchain_prefetch_result *result, qchain_error *err);

/* ---------------------------------------------------------------- the window --- */

struct qc_prefetch_window;

/* opts are borrowed. NULL: no memory. */
struct qc_prefetch_window *qc_prefetch_window_create(const qchain_prefetch_opts *o, uint64_t started_ns);
/* Not waited for: what is under way lands in the cache, and then all is freed. NULL is fine. */
void qc_prefetch_window_drop(struct qc_prefetch_window *w);

/* What the rules say of going on: GO, or why it has ended (which is enum qchain_prefetch_end, made larger by
 * one), or a failure. */
#define QC_PREFETCH_GO 0
#define QC_PREFETCH_ENDED(why) (1 + (int)(why))

/* Is it cancelled, at its deadline, or has something under way failed? */
int  qc_prefetch_check(struct qc_prefetch_window *w, qchain_error *err);
/* How long the next request may be: 2 MiB, or with IDLE less where readers feel so much. */
uint64_t qc_prefetch_request(const struct qc_prefetch_window *w, struct qc_remote *remote);
/* Wait until another request may begin: for room, rates, a pause, and with IDLE for readers. *length, which is
 * what is wanted, becomes what max_bytes lets. */
int  qc_prefetch_hold(struct qc_prefetch_window *w, struct qc_remote *remote, size_t *length,
                      qchain_error *err);
/* Cut what is under way, for any of the disks, off both ends of a stretch of an object; false if nothing is left. */
bool qc_prefetch_trim(struct qc_prefetch_window *w, const struct qc_store *s, uint64_t *start, uint64_t *end);
/* Begin a request of [start, start + length); once it has landed its pieces, which are copied, are stored in the top,
 * by hold or settle. */
int  qc_prefetch_begin(struct qc_prefetch_window *w, qchain *c, uint32_t source, struct qc_store *s,
                       uint64_t start, size_t length, const struct qc_want *piece, uint32_t n_pieces,
                       qchain_error *err);
/* Wait until nothing is under way. */
int  qc_prefetch_settle(struct qc_prefetch_window *w, qchain_error *err);
/* Bytes and requests that have ended well. */
void qc_prefetch_count(struct qc_prefetch_window *w, qchain_prefetch_result *result);

/* How many requests may be under way beside readers: quiet_ns, see qc_bring_quiet_ns; since_ns: since the
 * last one was begun. */
unsigned qc_prefetch_beside(uint64_t quiet_ns, uint64_t since_ns, unsigned most);

/* ------------------------------------------------------------------- the top --- */

/* Store pieces in the top, where it holds nothing yet. buf: the object's bytes from start on, with QC_PREFETCH_SLACK of
 * zeros behind them: an object may end within a sector. */
#define QC_PREFETCH_SLACK 512u
int qc_prefetch_store(qchain *c, const struct qc_want *piece, uint32_t n, const char *buf, uint64_t start,
                      qchain_error *err);

#endif
