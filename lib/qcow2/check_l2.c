/* SPDX-License-Identifier: MIT */
/* L2 tables: what their entries refer to, and whether they say so as they should. */
#include <inttypes.h>

#include "qcow2/check_int.h"
#include "qcow2/l2.h"
#include "util/bytes.h"
#include "util/error.h"

#define AT_ONCE 512 /* tables */

/* A table, and the entry at hand. */
struct walk {
    struct qc2_check          *c;
    const struct qc2_found_l2 *t;
    uint64_t                   next;  /* where the cluster after the last one would lie; 0: none yet */
    uint64_t                   place; /* of the entry in the file */
    uint64_t                   guest; /* of its cluster */
};

static void bad(struct walk *w, uint64_t times, uint64_t e, const char *rule)
{
    qc2_check_bad(w->c, times, "L2 entry at %" PRIu64 "=0x%016" PRIx64 ": %s", w->place, e, rule);
}

/* Like qemu-img, whose numbers these are: a cluster is a fragment if it does not follow the one before it within
 * the table; compressed ones always are. */
static inline void note_allocated(struct walk *w, uint64_t at)
{
    struct qc2_check_result *r = &w->c->r;

    if (w->t->active == 0)
        return;
    r->allocated_clusters += w->t->active;
    if (w->next != 0 && at != w->next)
        r->fragmented_clusters += w->t->active;
    w->next = at + w->c->cluster;
}

static void check_copied(struct walk *w, uint64_t e, uint64_t at)
{
    bool data_file = w->c->h->incompatible & QC2_INCOMPAT_DATA_FILE;

    if (w->t->active == 0)
        return;
    if (!(e & QC2_COPIED) == (data_file || qc2_is_single(w->c, at)))
        bad(w, w->t->active, e, e & QC2_COPIED
                ? "the COPIED flag is set, but the cluster's refcount is not 1"
                : "the COPIED flag is not set, but the cluster's refcount is 1");
}

static int compressed(struct walk *w, uint64_t e, uint64_t bitmap, qchain_error *err)
{
    struct qc2_check *c = w->c;
    unsigned x = 62 - (c->bits - 8);
    uint64_t at = e & ((UINT64_C(1) << x) - 1);
    uint64_t sectors = ((e & (QC2_COMPRESSED - 1)) >> x) + 1;

    if (e & QC2_COPIED)
        bad(w, w->t->visits, e, "compressed, with the COPIED flag");
    if (c->h->incompatible & QC2_INCOMPAT_DATA_FILE) {
        bad(w, w->t->visits, e, "compressed, in an image with an external data file");
        return QCHAIN_OK;
    }
    if (bitmap != 0)
        bad(w, w->t->visits, e, "compressed, with a bitmap of subclusters");
    if (w->t->active > 0) {
        c->r.allocated_clusters += w->t->active;
        c->r.fragmented_clusters += w->t->active;
        c->r.compressed_clusters += w->t->active;
    }
    return qc2_check_count(c, at, sectors * 512 - at % 512, w->t->visits, "a compressed cluster",
                           err);
}

static void check_bitmap(struct walk *w, uint64_t e, uint64_t bitmap, bool present)
{
    if ((uint32_t)bitmap & (uint32_t)(bitmap >> 32)) {
        w->c->lost = true;
        bad(w, w->t->visits, e, "a subcluster is both stored and zero");
    } else if (!present && (uint32_t)bitmap != 0) {
        bad(w, w->t->visits, e, "subclusters are stored, but there is no host offset");
    }
}

static int standard(struct walk *w, uint64_t e, uint64_t bitmap, bool extended, qchain_error *err)
{
    struct qc2_check *c = w->c;
    bool data_file = c->h->incompatible & QC2_INCOMPAT_DATA_FILE;
    uint64_t at = e & QC2_OFFSET_MASK;
    bool zero = e & QC2_ZERO && !extended;
    bool present = at != 0 || (data_file && e & QC2_COPIED && !zero);

    if (e & QC2_L2_RESERVED)
        bad(w, w->t->visits, e, "reserved bits are set");
    if (zero && c->h->version < 3)
        bad(w, w->t->visits, e, "zero flag in a version 2 image");
    if (extended)
        check_bitmap(w, e, bitmap, present);
    if (!present) {
        if (e & QC2_COPIED && !zero)
            bad(w, w->t->visits, e, "the COPIED flag without a cluster");
        return QCHAIN_OK;
    }
    note_allocated(w, at);
    if (at % c->cluster != 0) {
        c->lost |= !zero && !(extended && (uint32_t)bitmap == 0);
        bad(w, w->t->visits, e, "the cluster is not aligned");
        return QCHAIN_OK;
    }
    check_copied(w, e, at);
    if (data_file) {
        if (at != w->guest)
            bad(w, w->t->visits, e, "the host offset differs from the disk offset, in an image with "
                                    "an external data file");
        return QCHAIN_OK;
    }
    return qc2_check_count(c, at, c->cluster, w->t->visits, "a data cluster", err);
}

static int entry(struct walk *w, uint64_t e, uint64_t bitmap, bool extended, qchain_error *err)
{
    return e & QC2_COMPRESSED ? compressed(w, e, bitmap, err)
                              : standard(w, e, bitmap, extended, err);
}

static int extended_table(struct walk *w, const uint64_t *raw, size_t n, qchain_error *err)
{
    uint64_t start = w->t->at;
    int rc = QCHAIN_OK;

    for (size_t i = 0; i < n && rc == 0; i++) {
        if ((raw[2 * i] | raw[2 * i + 1]) == 0)
            continue;
        w->place = start + i * 16;
        w->guest = w->t->guest + ((uint64_t)i << w->c->bits);
        rc = entry(w, qc_be64(&raw[2 * i]), qc_be64(&raw[2 * i + 1]), true, err);
    }
    return rc;
}

/* Most entries are of the plainest kind, and there are millions of them. */
static int standard_table(struct walk *w, const uint64_t *raw, size_t n, qchain_error *err)
{
    struct qc2_check *c = w->c;
    uint64_t unusual = ~(QC2_OFFSET_MASK | QC2_COPIED) | (c->cluster - 1);
    bool data_file = c->h->incompatible & QC2_INCOMPAT_DATA_FILE;
    int rc = QCHAIN_OK;

    for (size_t i = 0; i < n && rc == 0; i++) {
        uint64_t e = __builtin_bswap64(raw[i]);
        uint64_t at = e & QC2_OFFSET_MASK;

        if (e == 0)
            continue;
        w->place = w->t->at + i * 8;
        w->guest = w->t->guest + ((uint64_t)i << c->bits);
        if ((e & unusual) || at == 0 || at >= c->size || data_file) {
            rc = entry(w, e, 0, false, err);
            continue;
        }
        note_allocated(w, at);
        check_copied(w, e, at);
        if (qc2_tally_add(&c->tally, at >> c->bits, w->t->visits) < 0)
            rc = qc_fail_nomem(err);
    }
    return rc;
}

int qc2_each_l2(struct qc2_check *c, qc2_l2_fn fn, void *data, qchain_error *err)
{
    uint64_t at[AT_ONCE];
    int rc = QCHAIN_OK;

    for (size_t i = 0, n; i < c->l2s.n && rc == 0; i += n) {
        n = qc_min64(qc_min64(c->l2s.n - i, c->batch), AT_ONCE);
        for (size_t k = 0; k < n; k++)
            at[k] = c->l2s.v[i + k].at;
        rc = qc2_check_go_on(c, err);
        if (rc < 0)
            return rc;
        qc2_check_read_batch(c, at, n, "L2 table");
        for (size_t k = 0; k < n && rc == 0; k++)
            rc = fn(c, &c->l2s.v[i + k], (uint64_t *)(void *)(c->buf + k * c->cluster), data, err);
    }
    return rc;
}

static int count_table(struct qc2_check *c, const struct qc2_found_l2 *t, uint64_t *raw, void *data,
                       qchain_error *err)
{
    struct walk w = {.c = c, .t = t};
    size_t words = c->cluster / 8;

    (void)data;
    return qc2_extended_l2(c->h) ? extended_table(&w, raw, words / 2, err)
                                 : standard_table(&w, raw, words, err);
}

int qc2_check_l2s(struct qc2_check *c, qchain_error *err)
{
    return qc2_each_l2(c, count_table, NULL, err);
}
