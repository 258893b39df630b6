/* SPDX-License-Identifier: MIT */
#include "qcow2/snapshot_tree.h"

#include <inttypes.h>
#include <stdlib.h>

#include "io/file.h"
#include "qcow2/l2_spot.h"
#include "qcow2/refcount_bulk.h"
#include "qcow2/refcount_peek.h"
#include "qcow2/writer_int.h"
#include "util/alloc.h"
#include "util/error.h"

#define PIECE (256u << 10) /* stays in the processor's cache */
#define AHEAD (4u << 20)   /* bytes of tables that the medium is asked for before they are read */
#define RAW_COPIED (__builtin_bswap64(QC2_COPIED))

/* A walk over the L2 tables; those that lie side by side are read together. */
struct walk;
typedef int (*table_fn)(struct walk *k, uint64_t *raw, uint64_t table, qchain_error *err);

struct walk {
    struct qc2_writer *w;
    struct qc2_l2      g;
    table_fn           fn;
    uint64_t          *buf;
    uint64_t           stride;  /* 64-bit words per entry */
    uint32_t           slot;    /* of the table at hand */
    bool               changed; /* fn: the table is to be written back */
    uint32_t           ahead;   /* tables up to this slot are asked for; */
    uint64_t           block;   /* and this block of counts */
    /* counting */
    int                delta;
    uint64_t           calls, max_calls;
    uint64_t           any;     /* all words of a table, or'ed */
    uint64_t          *settled; /* counting down: see qc2_tree_leave */
    bool               mine;    /* the table at hand is the disk's alone now, and so far all in it */
    /* regaining */
    struct qc2_peek   *peek;
};

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

/* No two slots share a table, and all lie in the file: else the work would have no bound. */
static int check_tree(struct qc2_writer *w, const struct qc2_tree *t, qchain_error *err)
{
    uint64_t cluster = w->q->base.cluster_size, last = 0;
    uint64_t file_end = qc_align_up(qc_store_size(w->store), cluster);
    uint64_t *sorted = qc_calloc(t->n + 1, sizeof(*sorted));
    bool rising = true;
    int rc = QCHAIN_OK;
    size_t n = 0;

    if (!sorted)
        return qc_fail_nomem(err);
    for (uint32_t i = 0; i < t->n && rc == 0; i++) {
        uint64_t table = t->l1[i] & QC2_OFFSET_MASK;

        if (table == 0)
            continue;
        if (table % cluster != 0 || table >= file_end)
            rc = qc_fail(err, QCHAIN_E_CORRUPT, "L1 entry %" PRIu32 "=%" PRIu64 ": not an L2 table inside the file",
                         i, table);
        rising &= table > last;
        last = table;
        sorted[n++] = table;
    }
    if (rc == 0 && !rising) {
        qsort(sorted, n, sizeof(*sorted), by_value);
        for (size_t i = 1; i < n && rc == 0; i++)
            if (sorted[i] == sorted[i - 1])
                rc = qc_fail(err, QCHAIN_E_CORRUPT, "two L1 entries refer to the L2 table at %" PRIu64, sorted[i]);
    }
    qc_free(sorted);
    return rc;
}

/* How many tables from slot i on lie side by side, as many as fit the buffer. */
static uint32_t side_by_side(const struct walk *k, const struct qc2_tree *t, uint32_t i)
{
    uint64_t cluster = UINT64_C(1) << k->g.cluster_bits, first = t->l1[i] & QC2_OFFSET_MASK;
    uint32_t n = 1;

    while (i + n < t->n && (n + 1) * cluster <= qc_max64(PIECE, cluster) &&
           (t->l1[i + n] & QC2_OFFSET_MASK) == first + n * cluster)
        n++;
    return n;
}

/* Write n tables of the piece back, from number i on, and let it reach the medium while the walk goes on. */
static int write_back(struct walk *k, uint64_t table, uint32_t i, uint32_t n, qchain_error *err)
{
    uint64_t cluster = UINT64_C(1) << k->g.cluster_bits, at = table + i * cluster;
    int rc = n > 0 ? qc2_overlap_check(k->w, at, n * cluster, QC2_REGION_L2, err) : QCHAIN_OK;

    if (n == 0 || rc < 0)
        return rc;
    rc = qc_store_write(k->w->store, k->buf + i * (cluster / 8), n * cluster, at, err);
    qc2_table_drop(k->w, at, n * cluster);
    qc_file_write_out(k->w->store, n * cluster, at);
    return rc;
}

/* Go through n tables that lie side by side. */
static int walk_piece(struct walk *k, uint64_t table, uint32_t n, qchain_error *err)
{
    uint64_t cluster = UINT64_C(1) << k->g.cluster_bits;
    int rc = qc_store_read(k->w->store, k->buf, n * cluster, table, QC_READ_META | QC_READ_PAST_END, err);
    int wrote = QCHAIN_OK;
    uint32_t first = 0; /* changed and not written yet: from here to i */

    for (uint32_t i = 0; i < n && rc == 0 && wrote == 0; i++) {
        k->changed = false;
        rc = k->fn(k, k->buf + i * (cluster / 8), table + i * cluster, err);
        k->slot++;
        if (rc == 0 && k->changed && i + 1 < n)
            continue;
        wrote = write_back(k, table, first, i + (rc == 0 && k->changed) - first, rc == 0 ? err : NULL);
        first = i + 1;
    }
    return rc != 0 ? rc : wrote;
}

/* Ask for the tables that come next, and for the counts of what lies around them: one after the other they would
 * take a medium's latency each. */
static void read_ahead(struct walk *k, const struct qc2_tree *t, uint32_t i)
{
    const struct qc2_counts *c = k->w->counts;
    uint64_t cluster = UINT64_C(1) << k->g.cluster_bits, end = qc_min64(t->n, i + qc_max64(AHEAD / cluster, 1));

    for (k->ahead = k->ahead > i ? k->ahead : i; k->ahead < end; k->ahead++) {
        uint64_t table = t->l1[k->ahead] & QC2_OFFSET_MASK, block;

        if (table == 0)
            continue;
        qc_file_read_in(k->w->store, cluster, table);
        block = qc2_block_host(c, qc2_block_of(c, table >> k->g.cluster_bits));
        if (block && block != k->block)
            qc_file_read_in(k->w->store, cluster, block);
        k->block = block;
    }
}

static int walk_tree(struct walk *k, const struct qc2_tree *t, qchain_error *err)
{
    uint32_t n;
    int rc = QCHAIN_OK;

    qc2_spot_geometry(k->w, 0, 0, &k->g);
    k->stride = k->g.extended ? 2 : 1;
    k->buf = qc_malloc(qc_max64(PIECE, UINT64_C(1) << k->g.cluster_bits));
    if (!k->buf)
        return qc_fail_nomem(err);
    for (uint32_t i = 0; i < t->n && rc == 0; i += n) {
        n = 1;
        if ((t->l1[i] & QC2_OFFSET_MASK) == 0)
            continue;
        read_ahead(k, t, i);
        n = side_by_side(k, t, i);
        k->slot = i;
        rc = walk_piece(k, t->l1[i] & QC2_OFFSET_MASK, n, err);
        if (rc == 0 && qc2_meta_dirty_bytes(k->w) > k->w->dirty_limit)
            rc = qc2_flush_locked(k->w, err);
    }
    qc_free(k->buf);
    return rc;
}

/* ---- counting ---- */

/* Count a stretch; a walk that undoes another ends where that one did. *one as in qc2_refcount_add_many. */
static int count_range(struct walk *k, uint64_t host, uint64_t length, bool whole, bool *one, qchain_error *err)
{
    int rc;

    if (k->calls == k->max_calls)
        return 1;
    rc = whole ? qc2_refcount_add_many(k->w, host, length, k->delta, one, err)
               : qc2_refcount_add(k->w, host, length, k->delta, err);
    if (rc == 0)
        k->calls++;
    return rc;
}

static int check_host(const struct walk *k, uint64_t host, uint64_t table, qchain_error *err)
{
    if ((host & ((UINT64_C(1) << k->g.cluster_bits) - 1)) == 0)
        return QCHAIN_OK;
    return qc_fail(err, QCHAIN_E_CORRUPT,
                   "L2 table at %" PRIu64 ": host offset %" PRIu64 " is not aligned to a cluster", table, host);
}

static int count_stream(struct walk *k, uint64_t word, qchain_error *err)
{
    uint64_t host, length;

    qc2_entry_stream(&k->g, word, &host, &length); /* streams carry no COPIED */
    return count_range(k, host, length, false, NULL, err);
}

/* Count the clusters that entries from raw[i] on refer to, as far as they lie side by side; *i: behind them. */
static int count_side_by_side(struct walk *k, uint64_t *raw, uint64_t n, uint64_t *i, uint64_t table,
                              qchain_error *err)
{
    uint64_t cluster = UINT64_C(1) << k->g.cluster_bits, stride = k->stride, at = *i, first = at, any = 0;
    uint64_t host = __builtin_bswap64(raw[at]) & QC2_OFFSET_MASK, next = host;
    int rc = check_host(k, host, table, err);
    bool one = false;

    for (; at < n && (__builtin_bswap64(raw[at]) & (QC2_OFFSET_MASK | QC2_COMPRESSED)) == next; at += stride) {
        next += cluster;
        any |= raw[at];
    }
    k->any |= any;
    *i = at;
    if (rc == 0)
        rc = count_range(k, host, next - host, true, &one, err);
    k->mine &= one;
    for (at = first; k->mine && at < *i; at += k->stride)
        raw[at] |= RAW_COPIED;
    return rc;
}

/* Is the table at hand the disk's, too, in the same place? */
static bool is_active(const struct walk *k, uint64_t table)
{
    return k->slot < k->w->l1_size && (k->w->l1[k->slot] & QC2_OFFSET_MASK) == table;
}

/* All that the table refers to is the disk's alone, and marked so in memory. */
static int settle_table(struct walk *k, uint64_t table, qchain_error *err)
{
    int rc = qc2_l1_set(k->w, k->slot, table | QC2_COPIED, err);

    if (rc == 0)
        k->settled[k->slot] = table;
    k->changed = rc == 0;
    return rc;
}

/* Clear COPIED. The counts that contradict it may reach the medium before or after: the image is marked dirty, and
 * without COPIED what is written next is only copied in vain. */
static void share_table(struct walk *k, uint64_t *raw, uint64_t n)
{
    for (uint64_t i = 0; i < n; i += k->stride)
        raw[i] &= ~RAW_COPIED;
    k->changed = true;
}

static int count_table(struct walk *k, uint64_t *raw, uint64_t table, qchain_error *err)
{
    uint64_t n = (UINT64_C(1) << k->g.cluster_bits) / 8, i = 0;
    bool one = false;
    int rc = count_range(k, table, n * 8, true, &one, err);

    k->any = 0;
    k->mine = one && k->settled && is_active(k, table);
    while (i < n && rc == 0) {
        uint64_t word = __builtin_bswap64(raw[i]);

        if (word & QC2_COMPRESSED) {
            k->any |= raw[i];
            rc = count_stream(k, word, err);
            i += k->stride;
        } else if (word & QC2_OFFSET_MASK) {
            rc = count_side_by_side(k, raw, n, &i, table, err);
        } else {
            i += k->stride;
        }
    }
    if (rc == 0 && k->delta > 0 && (k->any & RAW_COPIED))
        share_table(k, raw, n);
    return rc == 0 && k->mine ? settle_table(k, table, err) : rc;
}

int qc2_tree_drop(struct qc2_writer *w, const struct qc2_tree *t, qchain_error *err)
{
    struct walk k = {.w = w, .fn = count_table, .delta = -1, .max_calls = UINT64_MAX};
    int rc = check_tree(w, t, err);

    return rc == 0 ? walk_tree(&k, t, err) : rc;
}

int qc2_tree_join(struct qc2_writer *w, const struct qc2_tree *t, qchain_error *err)
{
    struct walk k = {.w = w, .fn = count_table, .delta = 1, .max_calls = UINT64_MAX};
    int rc = check_tree(w, t, err);

    if (rc < 0)
        return rc;
    rc = walk_tree(&k, t, err);
    if (rc < 0) {
        struct walk undo = {.w = w, .fn = count_table, .delta = -1, .max_calls = k.calls};

        walk_tree(&undo, t, NULL);
    }
    return rc;
}

int qc2_tree_leave(struct qc2_writer *w, const struct qc2_tree *t, uint64_t *settled, qchain_error *err)
{
    struct walk k = {.w = w, .fn = count_table, .delta = -1, .max_calls = UINT64_MAX, .settled = settled};
    int rc = check_tree(w, t, err);

    if (!(w->q->header.incompatible & QC2_INCOMPAT_DIRTY))
        k.settled = NULL; /* counts must be on the medium before COPIED says so */
    return rc == 0 ? walk_tree(&k, t, err) : rc;
}

/* ---- COPIED ---- */

static int regain_table(struct walk *k, uint64_t *raw, uint64_t table, qchain_error *err)
{
    uint64_t n = (UINT64_C(1) << k->g.cluster_bits) / 8;

    (void)table;
    for (uint64_t i = 0; i < n; i += k->stride) {
        uint64_t word = __builtin_bswap64(raw[i]);
        bool one;
        int rc;

        if ((word & (QC2_COPIED | QC2_COMPRESSED)) || (word & QC2_OFFSET_MASK) == 0)
            continue;
        rc = qc2_peek_is_one(k->peek, word & QC2_OFFSET_MASK, &one, err);
        if (rc < 0)
            return rc;
        if (one) {
            raw[i] |= RAW_COPIED;
            k->changed = true;
        }
    }
    return QCHAIN_OK;
}

/* Those tables of the active tree that only it has, below the slots that `by` has, too; others are 0. */
static int own_tables(struct qc2_writer *w, const struct qc2_tree *by, struct qc2_peek *peek, uint64_t *own,
                      qchain_error *err)
{
    for (uint32_t i = 0; i < w->l1_size; i++) {
        uint64_t table = w->l1[i] & QC2_OFFSET_MASK;
        bool one = false;
        int rc;

        own[i] = 0;
        if (table == 0 || i >= by->n || by->l1[i] == 0)
            continue;
        rc = qc2_peek_is_one(peek, table, &one, err);
        if (rc < 0)
            return rc;
        if (one)
            own[i] = table;
    }
    return QCHAIN_OK;
}

int qc2_tree_regain(struct qc2_writer *w, const struct qc2_tree *by, qchain_error *err)
{
    struct qc2_peek peek;
    struct walk k = {.w = w, .fn = regain_table, .peek = &peek};
    uint64_t *own = qc_calloc(w->l1_size + 1, sizeof(*own));
    struct qc2_tree t = {own, w->l1_size};
    int rc;

    if (!own)
        return qc_fail_nomem(err);
    rc = qc2_peek_start(&peek, w, err);
    if (rc == 0)
        rc = own_tables(w, by, &peek, own, err);
    if (rc == 0)
        rc = check_tree(w, &t, err);
    if (rc == 0)
        rc = walk_tree(&k, &t, err);
    for (uint32_t i = 0; i < w->l1_size && rc == 0; i++)
        if (own[i] && !(w->l1[i] & QC2_COPIED))
            rc = qc2_l1_set(w, i, own[i] | QC2_COPIED, err);
    qc2_peek_end(&peek);
    qc_free(own);
    return rc;
}
