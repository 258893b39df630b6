/* SPDX-License-Identifier: MIT */
/*
 * Bringing ranges of objects into the disk cache, or only here, though nobody reads them yet: without blocks in
 * memory and without widening. Who reads meanwhile what is on its way waits for that.
 */
#ifndef QC_REMOTE_BRING_H
#define QC_REMOTE_BRING_H

#include "remote/flight.h"
#include "remote/remote.h"

/* Can the environment's disk cache take anything now? UNSUPPORTED (there is none), IO (it cannot be used,
 * or not be written to); err says what to do. May block on local disks. */
int qc_bring_check(struct qc_remote *r, qchain_error *err);

/* The rest: s is a store of qc_remote_is. */

/* Is what is fetched of it kept on this machine? Not if a replaced object could not be told from it. */
bool qc_bring_keeps(const struct qc_store *s);
/* The first stretch of [offset, end) that is not on this machine, by whole grains (the last one of the
 * object may be less); false: all of it is. Needs keeps. May block on local disks only. */
bool qc_bring_lacks(const struct qc_store *s, uint64_t offset, uint64_t end, uint64_t *from, uint64_t *to);

/* Are both the same object in the same cache, opened twice? */
bool qc_bring_same(const struct qc_store *a, const struct qc_store *b);

/* One range on its way. Embed it. */
struct qc_bring {
    /* The asker's; unchanged until done is called. */
    void     *buf;
    uint64_t  offset;  /* a multiple of QC_GRAIN */
    size_t    length;  /* the same, or up to the object's end; at least 1 */
    bool      unkept;  /* for buf alone: the disk cache, if there is one, need not have it */
    /* Once, when it is stored, or has failed: then b is the asker's again. Any thread, or within
     * qc_bring_begin; the store may be closed by then. Must not block. */
    void    (*done)(struct qc_bring *b, int ret);
    qchain_error err;
    /* Ours. */
    struct qc_reading  rd;
    struct qc_part     part;
    struct qc_object  *o;
};
/* Begin. Never blocks. */
void qc_bring_begin(const struct qc_store *s, struct qc_bring *b);
/* It was found to be replaced: have nobody believe what the disk cache noted of it. May block. */
void qc_bring_changed(const struct qc_store *s);

/* For how long no reader of the environment has had data to fetch; 0: one has now; UINT64_MAX: there was
 * none at all. Nanoseconds. */
uint64_t qc_bring_quiet_ns(struct qc_remote *r);
/* Bytes that may be under way beside readers, by what they wait: see delay.h. */
uint64_t qc_bring_room(struct qc_remote *r);

#endif
