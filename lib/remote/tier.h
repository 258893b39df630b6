/* SPDX-License-Identifier: MIT */
/*
 * Tiers: where the bytes of one object may come from, each wrapped around the next: disk cache,
 * regional cache, origin with its replicas. A tier is asked for ranges; it answers from what it has or
 * asks the tier below. All tiers of an object have its pin.
 */
#ifndef QC_REMOTE_TIER_H
#define QC_REMOTE_TIER_H

#include <stdbool.h>

#include "net/pin.h"
#include "net/place.h"
#include "util/error.h"

enum qc_fetch_flags {
    QC_FETCH_META = 0x1,  /* metadata: small, waited for */
    QC_FETCH_FRESH = 0x2  /* from the origin: what caches hold is replaced */
};

/* One range, asynchronously. Embed it. */
struct qc_fetch {
    /* The asker's; unchanged until done is called. */
    void     *buf;
    uint64_t  offset;  /* a multiple of QC_GRAIN */
    size_t    length;  /* the same, or up to the object's end; within its size */
    uint32_t  flags;   /* QC_FETCH_* */
    /* Bytes [0, have) of buf are there; have never falls, and may reach length before done is called
     * (while a tier still keeps buf to store it). Must not block. May be NULL. */
    void    (*progress)(struct qc_fetch *f, size_t have);
    /* Once; then f is the asker's again. Any thread, or within fetch. Must not block. */
    void    (*done)(struct qc_fetch *f, int ret);
    qchain_error err;
    bool      local;   /* set by a tier that has it on this machine, before progress */
};

#define QC_GRAIN 4096u

struct qc_tier;

struct qc_tier_ops {
    const char *name;
    /* Begin. Never blocks. */
    void (*fetch)(struct qc_tier *t, struct qc_fetch *f);
    /* Answer from what is on this machine, on this thread: 0, or NOTFOUND without a message (err is not
     * touched) if a byte is missing. Any offset and length within the object. May block on local disks
     * only. NULL: never. */
    int  (*fetch_local)(struct qc_tier *t, void *buf, uint64_t offset, size_t length);
    /* The first stretch of [offset, end) that the tier lacks on this machine, by whole grains; false: it
     * lacks none. It looks at no byte of it, so what is damaged is not lacking. May block on local disks
     * only. NULL: the tier keeps nothing. */
    bool (*lacks)(struct qc_tier *t, uint64_t offset, uint64_t end, uint64_t *from, uint64_t *to);
    /* Does it keep what it fetches now? Never blocks. NULL: no. */
    bool (*keeps)(struct qc_tier *t);
    /* Free it, and the tier below. Nothing of the asker's is under way; the tier waits for what it has
     * under way itself (stores), or lets that end by itself. */
    void (*close)(struct qc_tier *t);
};

/* Embedded first in each tier's own struct. */
struct qc_tier {
    const struct qc_tier_ops *ops;
    struct qc_tier           *below; /* owned; NULL for the lowest */
};

static inline void qc_tier_fetch(struct qc_tier *t, struct qc_fetch *f)
{
    t->ops->fetch(t, f);
}

static inline void qc_tier_close(struct qc_tier *t)
{
    if (t)
        t->ops->close(t);
}

#endif
