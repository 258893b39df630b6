/* SPDX-License-Identifier: MIT */
/* One check under way, for the files check*.c. */
#ifndef QC_QCOW2_CHECK_INT_H
#define QC_QCOW2_CHECK_INT_H

#include "qcow2/check.h"
#include "qcow2/image_int.h"

/* ---- check_counts.c: how often each cluster is referred to ---- */

/* A byte a cluster; what does not fit, in a hash table. */
struct qc2_count_big {
    uint64_t cluster_1; /* + 1; 0: free */
    uint64_t count;
};

struct qc2_tally {
    uint8_t              *small;
    uint64_t              n; /* clusters */
    struct qc2_count_big *big;
    size_t                n_big, cap_big; /* cap: a power of two */
};

#define QC2_TALLY_BIG 255u

int  qc2_tally_init(struct qc2_tally *t, uint64_t n);
void qc2_tally_finish(struct qc2_tally *t);
/* NOMEM only; cluster < n. */
int  qc2_tally_add_slow(struct qc2_tally *t, uint64_t cluster, uint64_t times);
uint64_t qc2_tally_get_slow(const struct qc2_tally *t, uint64_t cluster);

static inline int qc2_tally_add(struct qc2_tally *t, uint64_t cluster, uint64_t times)
{
    unsigned v = t->small[cluster];

    if (__builtin_expect(times < QC2_TALLY_BIG && v + times < QC2_TALLY_BIG, 1)) {
        t->small[cluster] = (uint8_t)(v + times);
        return 0;
    }
    return qc2_tally_add_slow(t, cluster, times);
}

static inline uint64_t qc2_tally_get(const struct qc2_tally *t, uint64_t cluster)
{
    unsigned v = t->small[cluster];

    return __builtin_expect(v != QC2_TALLY_BIG, 1) ? v : qc2_tally_get_slow(t, cluster);
}

/* ---- check_sweep.c: stretches of the file that may overlap ---- */

struct qc2_stretch {
    uint64_t start, end;
    bool     active; /* of the active L1 table */
};

struct qc2_stretches {
    struct qc2_stretch *v;
    size_t              n, cap;
};

/* Called for each piece on which the same stretches lie, in order: how many, and how many active ones. */
typedef int (*qc2_piece_fn)(void *data, uint64_t start, uint64_t end, uint64_t times,
                            uint64_t active, qchain_error *err);

int qc2_stretch_add(struct qc2_stretches *s, uint64_t start, uint64_t end, bool active,
                    qchain_error *err);
int qc2_sweep(const struct qc2_stretches *s, qc2_piece_fn fn, void *data, qchain_error *err);

/* ---- the check ---- */

/* An L2 table, read once however often it is referred to. */
struct qc2_found_l2 {
    uint64_t at;
    uint64_t guest;  /* of its first entry, by the first active reference */
    uint64_t visits; /* references */
    uint64_t active; /* those of the active L1 table */
};

struct qc2_found_l2s {
    struct qc2_found_l2 *v;
    size_t               n, cap;
};

struct qc2_check {
    struct qc_store             *store;
    const struct qc2_check_opts *opts;
    struct qc2_image            *q;
    const struct qc2_header     *h;
    unsigned                     bits;  /* of a cluster */
    uint64_t                     cluster;
    uint64_t                     size;  /* of the file */
    uint64_t                     n;     /* clusters of the file */
    uint64_t                     n_used; /* n, or one more: a stream may end past the end */
    struct qc2_header           *header;  /* the same, for repairs */
    struct qc2_tally             tally;
    struct qc2_stretches         l1s;     /* L1 tables, exactly */
    struct qc2_stretches         bitmaps; /* bitmap tables, exactly */
    struct qc2_stretches         meta;    /* all tables but L2 tables and refcount blocks, whole clusters */
    struct qc2_found_l2s         l2s;     /* sorted once they are complete */
    uint64_t                    *reftable; /* as numbers; what cannot be used is 0 */
    uint32_t                     n_reftable;
    uint64_t                    *single;  /* a bit a cluster: its stored refcount is 1 */
    uint8_t                     *buf;     /* a batch of tables */
    size_t                       batch;   /* clusters that fit */
    struct qc2_check_result      r;
    bool                         silent;
    bool                         no_refs; /* leave refcount structures uncounted */
    bool                         lost;    /* a reference is not understood: what it refers to may look unused */
    uint64_t                     beyond;  /* the lowest place past the end that something refers to */
    uint64_t                     refs_end; /* where refcount structures that lie just past the end would end */
    bool                         rebuild; /* refcount structures are damaged */
};

/* ---- check.c ---- */

/* Tell, unless silent. */
void qc2_check_say(const struct qc2_check *c, int level, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* The same, and count so many corruptions. */
void qc2_check_bad(struct qc2_check *c, uint64_t times, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
int  qc2_check_go_on(const struct qc2_check *c, qchain_error *err);
/* Read metadata; past the end it reads as zeros, and where it cannot be read, too (a check error). */
void qc2_check_read(struct qc2_check *c, void *buf, size_t length, uint64_t at, const char *what);
/* Read n <= c->batch clusters, at[] of them, into c->buf. */
void qc2_check_read_batch(struct qc2_check *c, const uint64_t *at, size_t n, const char *what);
/* Count [at, at + length), which `times` places refer to. false: it lies past the end. */
int  qc2_check_count(struct qc2_check *c, uint64_t at, uint64_t length, uint64_t times,
                     const char *what, qchain_error *err);
/* Count a table that lies in one piece; *inside says whether it is in the file. */
int  qc2_check_region(struct qc2_check *c, uint64_t at, uint64_t length, const char *what,
                      bool *inside, qchain_error *err);
/* Something refers to a place past the end: if the file grew over it, it would seem to be there. */
static inline void qc2_check_beyond(struct qc2_check *c, uint64_t at)
{
    uint64_t place = at > c->size ? at : c->size;

    c->lost = true;
    c->beyond = place < c->beyond ? place : c->beyond;
}

/* Look once, from scratch. */
int  qc2_check_pass(struct qc2_check *c, qchain_error *err);

/* ---- check_l1.c, check_l2.c ---- */

#define QC2_L1_RESERVED UINT64_C(0x7f000000000001ff)
#define QC2_L2_RESERVED UINT64_C(0x3f000000000001fe) /* of a standard entry */

int  qc2_check_l1s(struct qc2_check *c, qchain_error *err);
int  qc2_check_l2s(struct qc2_check *c, qchain_error *err);
/* Read each L2 table that was found, once, in the order of the file. raw is as in the file. */
typedef int (*qc2_l2_fn)(struct qc2_check *c, const struct qc2_found_l2 *t, uint64_t *raw, void *data,
                         qchain_error *err);
int  qc2_each_l2(struct qc2_check *c, qc2_l2_fn fn, void *data, qchain_error *err);

/* ---- check_tables.c: snapshots and bitmaps ---- */

int  qc2_check_snapshots(struct qc2_check *c, qchain_error *err);
int  qc2_check_bitmaps(struct qc2_check *c, qchain_error *err);

/* ---- check_refs.c: stored refcounts ---- */

uint64_t qc2_refcount_decode(const uint8_t *block, uint64_t i, unsigned order);
void     qc2_refcount_encode(uint8_t *block, uint64_t i, unsigned order, uint64_t count);
/* Entries of a refcount block. */
static inline uint64_t qc2_refblock_entries(const struct qc2_check *c)
{
    return (c->cluster * 8) >> c->h->refcount_order;
}
static inline uint64_t qc2_refcount_max(const struct qc2_check *c)
{
    return c->h->refcount_order == 6 ? UINT64_MAX : (UINT64_C(1) << (1u << c->h->refcount_order)) - 1;
}
/* Load the refcount table and c->single. */
int  qc2_check_load_refs(struct qc2_check *c, qchain_error *err);
int  qc2_check_refblocks(struct qc2_check *c, qchain_error *err);
int  qc2_check_compare(struct qc2_check *c, qchain_error *err);
/* One refcount block and the clusters it speaks of, [first, first + n), clipped to those there are; raw is NULL
 * where there is none. */
typedef int (*qc2_refblock_fn)(struct qc2_check *c, uint64_t first, uint64_t n, uint8_t *raw,
                               void *data, qchain_error *err);
int  qc2_each_refblock(struct qc2_check *c, qc2_refblock_fn fn, void *data, qchain_error *err);

/* ---- check_repair.c, check_rebuild.c ---- */

/* After a pass that found something: mend what the flags allow, durably. */
int  qc2_check_repair(struct qc2_check *c, qchain_error *err);
/* After a pass with no_refs: write refcounts anew, behind everything else, and switch to them. */
int  qc2_check_rebuild(struct qc2_check *c, qchain_error *err);
/* Write fields of the header, and make them durable. */
int  qc2_check_put_header(struct qc2_check *c, const uint8_t *bytes, size_t n, uint64_t at,
                          qchain_error *err);

static inline bool qc2_is_single(const struct qc2_check *c, uint64_t at)
{
    uint64_t k = at >> c->bits;

    return k < c->n && (c->single[k / 64] >> (k % 64) & 1);
}

#endif
