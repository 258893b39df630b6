/* SPDX-License-Identifier: MIT */
/*
 * Repairs. Each step leaves an image that is no worse than the one before it, whenever it ends, and is durable
 * before the next begins:
 *
 *   1  entries of L1 and L2 tables, where it is known what they mean: bits that must be 0
 *   2  refcounts that are too low are raised, or all are written anew (check_rebuild.c)
 *   3  refcounts that are too high are lowered; not if a reference is not understood, since what it meant looks
 *      unused
 *   4  COPIED flags, which follow from refcounts
 *   5  the dirty and the corrupt bit, once nothing is wrong any more
 *
 * A pass before each step finds what there is to do. A table is written to only if its cluster is nothing else, too.
 * An entry that points nowhere is left as it is: what it says is lost, and no other value would be true.
 */
#include <inttypes.h>
#include <string.h>

#include "qcow2/check_int.h"
#include "qcow2/l2.h"
#include "util/bytes.h"
#include "util/error.h"

#define SECTOR 512u
#define PIECE 65536u

static void put64(uint8_t *p, uint64_t v)
{
    v = __builtin_bswap64(v);
    memcpy(p, &v, 8);
}

int qc2_check_put_header(struct qc2_check *c, const uint8_t *bytes, size_t n, uint64_t at,
                         qchain_error *err)
{
    int rc = qc_store_write(c->store, bytes, n, at, err);

    if (rc == 0)
        rc = qc_store_flush(c->store, err);
    if (rc < 0)
        qc_error_prefix(err, -1, "repair: header: ");
    return rc;
}

/* Features that are not known here end with the first change. */
static int clear_autoclear(struct qc2_check *c, qchain_error *err)
{
    uint64_t known = QC2_AUTOCLEAR_BITMAPS | QC2_AUTOCLEAR_DATA_FILE_RAW;
    uint8_t raw[8];

    if ((c->h->autoclear & ~known) == 0)
        return QCHAIN_OK;
    c->header->autoclear &= known;
    put64(raw, c->h->autoclear);
    return qc2_check_put_header(c, raw, sizeof(raw), 88, err);
}

static int clear_bits(struct qc2_check *c, qchain_error *err)
{
    uint64_t bits = QC2_INCOMPAT_DIRTY | QC2_INCOMPAT_CORRUPT;
    uint8_t raw[8];
    int rc;

    if ((c->h->incompatible & bits) == 0)
        return QCHAIN_OK;
    c->header->incompatible &= ~bits;
    put64(raw, c->h->incompatible);
    rc = qc2_check_put_header(c, raw, sizeof(raw), 72, err);
    if (rc == 0) {
        c->r.dirty = c->r.corrupt = false;
        qc2_check_say(c, QCHAIN_LOG_INFO, "the image is marked as clean");
    }
    return rc;
}

/* ------------------------------------------------- a table's changes --- */

/* Which bytes of a table in memory were changed; they are written as whole sectors. */
struct changes {
    size_t   first, end; /* of the table; end 0: none */
    uint64_t n;          /* entries changed in all tables */
    bool     copied;     /* COPIED flags are minded; else the other bits */
};

static void changed(struct changes *m, size_t at, size_t length)
{
    m->first = m->end ? qc_min64(m->first, at) : at;
    m->end = qc_max64(m->end, at + length);
    m->n++;
}

/* Write what changed of a table of `length` bytes that lies at `place`. */
static int write_changes(struct qc2_check *c, struct changes *m, const uint8_t *table, size_t length,
                         uint64_t place, qchain_error *err)
{
    size_t first = qc_align_down(m->first, SECTOR), end = qc_min64(qc_align_up(m->end, SECTOR), length);
    int rc;

    if (m->end == 0)
        return QCHAIN_OK;
    m->end = 0;
    rc = clear_autoclear(c, err);
    if (rc == 0)
        rc = qc_store_write(c->store, table + first, end - first, place + first, err);
    if (rc < 0)
        qc_error_prefix(err, -1, "repair: ");
    return rc;
}

/* --------------------------------------------------------- L1 tables --- */

static uint64_t better_l1(const struct qc2_check *c, uint64_t e, bool active, bool copied)
{
    uint64_t at = e & QC2_OFFSET_MASK;

    if (!copied)
        return e & ~(QC2_L1_RESERVED | (at == 0 ? QC2_COPIED : 0));
    if (!active || at == 0 || at % c->cluster != 0 || at >= c->size)
        return e;
    if (qc2_is_single(c, at) && qc2_tally_get(&c->tally, at >> c->bits) == 1)
        return e | QC2_COPIED;
    return qc2_is_single(c, at) ? e : e & ~QC2_COPIED;
}

struct l1_pass {
    struct qc2_check *c;
    struct changes    m;
};

static int mend_l1_piece(void *data, uint64_t start, uint64_t end, uint64_t times, uint64_t active,
                         qchain_error *err)
{
    struct l1_pass *p = data;
    struct qc2_check *c = p->c;
    int rc = QCHAIN_OK;

    for (uint64_t at = start, n; at < end && rc == 0; at += n) {
        uint64_t next = qc_align_down(at, PIECE) + PIECE; /* pieces end with clusters or within one */

        n = qc_min64(end, qc_min64(next, qc_align_down(at, c->cluster) + c->cluster)) - at;
        if (at >= c->size || qc2_tally_get(&c->tally, at >> c->bits) != times)
            continue; /* something else is there, too */
        qc2_check_read(c, c->buf, (size_t)n, at, "L1 table");
        for (size_t i = 0; i < n; i += 8) {
            uint64_t e = qc_be64(c->buf + i), to = better_l1(c, e, active > 0, p->m.copied);

            if (to != e) {
                put64(c->buf + i, to);
                changed(&p->m, i, 8);
            }
        }
        rc = write_changes(c, &p->m, c->buf, (size_t)n, at, err);
    }
    return rc;
}

/* --------------------------------------------------------- L2 tables --- */

/* The entry as it should be, as far as that is known. bitmap: of subclusters, if there is one. */
static uint64_t better_l2(const struct qc2_check *c, uint64_t e, uint64_t bitmap)
{
    bool extended = qc2_extended_l2(c->h);
    bool data_file = c->h->incompatible & QC2_INCOMPAT_DATA_FILE;
    uint64_t at = e & QC2_OFFSET_MASK;

    if (e & QC2_COMPRESSED)
        return e & ~QC2_COPIED;
    e &= ~QC2_L2_RESERVED;
    if (!extended && e & QC2_ZERO && c->h->version >= 3 && at % c->cluster != 0)
        return QC2_ZERO; /* it reads as zeros wherever it lies */
    if (extended && at % c->cluster != 0 && (uint32_t)bitmap == 0)
        return 0; /* nothing is stored there */
    if (at == 0 && !data_file)
        e &= ~QC2_COPIED;
    return e;
}

static uint64_t better_copied(const struct qc2_check *c, uint64_t e)
{
    uint64_t at = e & QC2_OFFSET_MASK;

    if (e & QC2_COMPRESSED || at == 0 || at % c->cluster != 0)
        return e;
    if (c->h->incompatible & QC2_INCOMPAT_DATA_FILE) /* at is a place in that, however short this one is */
        return e | QC2_COPIED;
    if (at >= c->size)
        return e;
    if (qc2_is_single(c, at) && qc2_tally_get(&c->tally, at >> c->bits) == 1)
        return e | QC2_COPIED;
    return qc2_is_single(c, at) ? e : e & ~QC2_COPIED;
}

static int mend_l2(struct qc2_check *c, const struct qc2_found_l2 *t, uint64_t *raw, void *data,
                   qchain_error *err)
{
    struct changes *m = data;
    size_t step = qc2_extended_l2(c->h) ? 2 : 1;

    if (qc2_tally_get(&c->tally, t->at >> c->bits) != t->visits || c->size - t->at < c->cluster)
        return QCHAIN_OK; /* something else is there, too, or it is cut */
    if (m->copied && t->active == 0)
        return QCHAIN_OK;
    for (size_t i = 0; i < c->cluster / 8; i += step) {
        uint64_t e = qc_be64(&raw[i]), to;

        if (e == 0)
            continue;
        to = m->copied ? better_copied(c, e) : better_l2(c, e, step == 2 ? qc_be64(&raw[i + 1]) : 0);
        if (to != e) {
            put64((uint8_t *)&raw[i], to);
            changed(m, i * 8, 8);
        }
        if (!m->copied && step == 2 && e & QC2_COMPRESSED && raw[i + 1] != 0) {
            raw[i + 1] = 0; /* not used, so what it says is nothing */
            changed(m, (i + 1) * 8, 8);
        }
    }
    return write_changes(c, m, (const uint8_t *)raw, c->cluster, t->at, err);
}

/* Steps 1 and 4, after a pass. */
static int mend_entries(struct qc2_check *c, bool copied, qchain_error *err)
{
    struct l1_pass l1 = {.c = c, .m = {.copied = copied}};
    struct changes l2 = {.copied = copied};
    int rc = qc2_sweep(&c->l1s, mend_l1_piece, &l1, err);

    if (rc == 0)
        rc = qc2_each_l2(c, mend_l2, &l2, err);
    if (rc == 0)
        rc = qc_store_flush(c->store, err);
    if (rc == 0 && l1.m.n + l2.n > 0)
        qc2_check_say(c, QCHAIN_LOG_INFO, "%s of %" PRIu64 " table entries",
                      copied ? "the COPIED flags" : "reserved bits and flags", l1.m.n + l2.n);
    return rc;
}

/* --------------------------------------------------------- refcounts --- */

struct adjust {
    struct changes m;
    bool           raise;
};

static int adjust_block(struct qc2_check *c, uint64_t first, uint64_t n, uint8_t *raw, void *data,
                        qchain_error *err)
{
    uint64_t max = qc2_refcount_max(c), place = c->reftable[first / qc2_refblock_entries(c)];
    unsigned order = c->h->refcount_order;
    struct adjust *a = data;

    if (!raw)
        return QCHAIN_OK;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t stored = qc2_refcount_decode(raw, i, order);
        uint64_t count = qc_min64(qc2_tally_get(&c->tally, first + i), max);

        if (a->raise ? stored >= count : stored <= count)
            continue;
        qc2_refcount_encode(raw, i, order, count);
        changed(&a->m, (size_t)((i << order) / 8), order > 3 ? (1u << order) / 8 : 1);
    }
    return write_changes(c, &a->m, raw, c->cluster, place, err);
}

static int adjust_refcounts(struct qc2_check *c, bool raise, bool *changed, qchain_error *err)
{
    struct adjust a = {.raise = raise};
    int rc = qc2_each_refblock(c, adjust_block, &a, err);

    if (rc == 0)
        rc = qc_store_flush(c->store, err);
    *changed |= a.m.n > 0;
    if (rc == 0 && a.m.n > 0)
        qc2_check_say(c, QCHAIN_LOG_INFO, "%" PRIu64 " refcounts %s", a.m.n,
                      raise ? "raised" : "lowered");
    return rc;
}

/* Write them anew: a pass without the old ones says what they are. */
static int rebuild(struct qc2_check *c, qchain_error *err)
{
    int rc;

    c->no_refs = true;
    c->silent = true;
    rc = qc2_check_pass(c, err);
    c->no_refs = false;
    c->silent = false;
    if (rc == 0 && c->r.check_errors == 0)
        rc = clear_autoclear(c, err);
    if (rc == 0 && c->r.check_errors == 0)
        rc = qc2_check_rebuild(c, err);
    return rc;
}

/* Steps 2 and 3, after a pass. */
static int mend_refcounts(struct qc2_check *c, bool *changed, qchain_error *err)
{
    bool all = c->opts->flags & QC2_CHECK_REPAIR_ALL;
    int rc = QCHAIN_OK;

    if (c->rebuild) {
        if (all)
            return rebuild(c, err);
        qc2_check_say(c, QCHAIN_LOG_ERROR, "the refcount structures are damaged: they must be rebuilt "
                      "before leaks can be mended");
        return QCHAIN_OK;
    }
    if (all)
        rc = adjust_refcounts(c, true, changed, err);
    if (rc == 0 && !c->lost)
        rc = adjust_refcounts(c, false, changed, err);
    return rc;
}

/* ----------------------------------------------------------------- all --- */

static int quiet_pass(struct qc2_check *c, qchain_error *err)
{
    int rc;

    c->silent = true;
    rc = qc2_check_pass(c, err);
    c->silent = false;
    return rc;
}

static bool is_right(const struct qc2_check *c)
{
    return c->r.corruptions == 0 && c->r.check_errors == 0;
}

/* What cannot be read must not be taken for unused: with read errors nothing is written. */
static int steps(struct qc2_check *c, qchain_error *err)
{
    bool all = c->opts->flags & QC2_CHECK_REPAIR_ALL, changed = false;
    int rc = QCHAIN_OK;

    if (c->r.check_errors > 0)
        return QCHAIN_OK;
    if (all && c->r.corruptions > 0)
        rc = mend_entries(c, false, err);
    if (rc == 0)
        rc = quiet_pass(c, err);
    if (rc == 0 && c->r.check_errors == 0)
        rc = mend_refcounts(c, &changed, err);
    if (rc == 0)
        rc = quiet_pass(c, err);
    /* Where a leak was mended a cluster may have become its owner's alone. */
    if (rc == 0 && (all || changed) && c->r.check_errors == 0 && !c->rebuild)
        rc = mend_entries(c, true, err);
    return rc;
}

int qc2_check_repair(struct qc2_check *c, qchain_error *err)
{
    int rc = steps(c, err);

    if (rc == 0)
        rc = qc2_check_pass(c, err);
    if (rc == 0 && is_right(c))
        rc = clear_bits(c, err);
    return rc;
}
