/* SPDX-License-Identifier: MIT */
/*
 * Where metadata lies, so that nothing is ever written over it, whatever refcounts and tables say. L2 tables and
 * refcount blocks, of which there may be many, are in a hash table; the others are sorted stretches, those of
 * each kind by themselves.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2/l2.h"
#include "qcow2/table_walk.h"
#include "qcow2/writer_int.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"
#include "util/vec.h"

#define KINDS 9
#define SINGLE (QC2_REGION_L2 | QC2_REGION_REFBLOCK) /* a cluster each */

struct range {
    uint64_t first, end; /* clusters */
};

struct kind {
    struct range *r; /* sorted, none touches the next */
    size_t        n, cap;
};

struct qc2_regions {
    struct kind     kind[KINDS];
    struct qc2_cmap single;
};

static const char *const names[KINDS] = {
    "the header", "an L1 table", "an L2 table", "the refcount table", "a refcount block", "the snapshot table",
    "a snapshot's L1 table", "a bitmap's tables", "the encryption header",
};

static struct range clusters_of(const struct qc2_writer *w, uint64_t host, uint64_t length)
{
    unsigned bits = w->q->header.cluster_bits;

    return (struct range){host >> bits, length ? ((host + length - 1) >> bits) + 1 : host >> bits};
}

/* ------------------------------------------------------------------- stretches --- */

/* The first that ends after a cluster. */
static size_t first_after(const struct kind *k, uint64_t cluster)
{
    size_t low = 0, high = k->n;

    while (low < high) {
        size_t mid = low + (high - low) / 2;

        if (k->r[mid].end > cluster)
            high = mid;
        else
            low = mid + 1;
    }
    return low;
}

static bool has(const struct kind *k, struct range r)
{
    size_t i = k->n ? first_after(k, r.first) : 0;

    return i < k->n && k->r[i].first < r.end;
}

/* Replace `old` stretches from i on by n others; there is room. */
static void splice(struct kind *k, size_t i, size_t old, const struct range *new, size_t n)
{
    memmove(k->r + i + n, k->r + i + old, (k->n - i - old) * sizeof(*k->r));
    if (n > 0)
        memcpy(k->r + i, new, n * sizeof(*new));
    k->n = k->n - old + n;
}

static int reserve(struct kind *k)
{
    void *p = k->r;
    int rc = qc_grow(&p, &k->cap, k->n + 1, sizeof(*k->r));

    k->r = p;
    return rc;
}

static int range_add(struct kind *k, struct range r)
{
    size_t i, old = 0;

    if (reserve(k) < 0)
        return QCHAIN_E_NOMEM;
    i = r.first ? first_after(k, r.first - 1) : 0;
    for (; i + old < k->n && k->r[i + old].first <= r.end; old++) {
        r.first = qc_min64(r.first, k->r[i + old].first);
        r.end = qc_max64(r.end, k->r[i + old].end);
    }
    splice(k, i, old, &r, 1);
    return QCHAIN_OK;
}

static void range_remove(struct kind *k, struct range r)
{
    while (k->n > 0) {
        size_t i = first_after(k, r.first), n = 0;
        struct range left[2];

        if (i == k->n || k->r[i].first >= r.end)
            return;
        if (k->r[i].first < r.first)
            left[n++] = (struct range){k->r[i].first, r.first};
        if (k->r[i].end > r.end)
            left[n++] = (struct range){r.end, k->r[i].end};
        /* Without memory for the second, more is taken for metadata than is. */
        if (n == 2 && reserve(k) < 0)
            return;
        splice(k, i, 1, left, n);
    }
}

/* ---------------------------------------------------------------- the regions --- */

int qc2_region_add(struct qc2_writer *w, uint64_t host, uint64_t length, enum qc2_region what,
                   qchain_error *err)
{
    struct range r = clusters_of(w, host, length);
    int rc = QCHAIN_OK;

    if (r.first == r.end)
        return QCHAIN_OK;
    if (!(what & SINGLE))
        rc = range_add(&w->regions->kind[__builtin_ctz(what)], r);
    for (uint64_t c = r.first; what & SINGLE && c < r.end && rc == 0; c++)
        rc = qc2_cmap_add(&w->regions->single, c, what);
    return rc < 0 ? qc_fail_nomem(err) : QCHAIN_OK;
}

void qc2_region_remove(struct qc2_writer *w, uint64_t host, uint64_t length, enum qc2_region what)
{
    struct range r = clusters_of(w, host, length);

    if (r.first == r.end)
        return;
    if (!(what & SINGLE))
        range_remove(&w->regions->kind[__builtin_ctz(what)], r);
    for (uint64_t c = r.first; what & SINGLE && c < r.end; c++)
        qc2_cmap_remove(&w->regions->single, c, what);
}

unsigned qc2_region_find(const struct qc2_writer *w, uint64_t host, uint64_t length, unsigned minded)
{
    const struct qc2_regions *m = w->regions;
    struct range r = clusters_of(w, host, length);
    unsigned found = 0;

    for (unsigned i = 0; i < KINDS; i++)
        if (minded >> i & 1 && m->kind[i].n > 0 && has(&m->kind[i], r))
            found |= 1u << i;
    if (minded & SINGLE)
        for (uint64_t c = r.first; c < r.end; c++)
            found |= qc2_cmap_get(&m->single, c) & minded;
    return found;
}

int qc2_overlap_check(struct qc2_writer *w, uint64_t host, uint64_t length, unsigned what,
                      qchain_error *err)
{
    unsigned found = qc2_region_find(w, host, length, QC2_REGION_ALL & ~what);

    if (found == 0)
        return QCHAIN_OK;
    qc_fail(err, QCHAIN_E_CORRUPT, "writing %" PRIu64 " bytes at %" PRIu64
            " would destroy %s of the image", length, host, names[__builtin_ctz(found)]);
    qc_error_at(err, host);
    return qc2_writer_damaged(w, err);
}

/* -------------------------------------------------------------------- building --- */

/* While building, those of a kind are put one behind the other, and sorted at the end: a file that means harm
 * may have very many. */
static int push(struct qc2_writer *w, uint64_t host, uint64_t length, enum qc2_region what,
                qchain_error *err)
{
    struct kind *k = &w->regions->kind[__builtin_ctz(what)];
    uint64_t end;

    if (length == 0)
        return QCHAIN_OK;
    /* What the last snapshot is padded with, to a multiple of 8, need not be there. */
    if (!qc_add_ok(host, length, &end) || end > qc_align_up(qc_store_size(w->store), 8))
        return qc_fail(err, QCHAIN_E_CORRUPT, "%s at %" PRIu64 " ends past the end of the file",
                       names[__builtin_ctz(what)], host);
    if (reserve(k) < 0)
        return qc_fail_nomem(err);
    k->r[k->n++] = clusters_of(w, host, length);
    return QCHAIN_OK;
}

static int by_first(const void *a, const void *b)
{
    const struct range *x = a, *y = b;

    return x->first < y->first ? -1 : x->first > y->first;
}

static void sort(struct kind *k)
{
    size_t n = 0;

    if (k->n > 0)
        qsort(k->r, k->n, sizeof(*k->r), by_first);
    for (size_t i = 0; i < k->n; i++) {
        if (n > 0 && k->r[i].first <= k->r[n - 1].end)
            k->r[n - 1].end = qc_max64(k->r[n - 1].end, k->r[i].end);
        else
            k->r[n++] = k->r[i];
    }
    k->n = n;
}

static int add_snapshot(void *data, const struct qc2_snapshot *s, qchain_error *err)
{
    return push(data, s->l1_offset, UINT64_C(8) * s->l1_size, QC2_REGION_SNAPSHOT_L1, err);
}

static int sum_snapshot(void *data, const struct qc2_snapshot *s, qchain_error *err)
{
    (void)err;
    *(uint64_t *)data += s->bytes;
    return QCHAIN_OK;
}

static int add_bitmap(void *data, const struct qc2_bitmap *b, const char *name, qchain_error *err)
{
    (void)name;
    return push(data, b->table_offset, UINT64_C(8) * b->table_size, QC2_REGION_BITMAPS, err);
}

static int push_named(struct qc2_writer *w, qchain_error *err)
{
    const struct qc2_header *h = &w->q->header;
    bool bitmaps = h->has_bitmaps && h->autoclear & QC2_AUTOCLEAR_BITMAPS; /* else they are nobody's */
    uint64_t snapshots = 0;
    int rc = push(w, 0, 1, QC2_REGION_HEADER, err);

    if (rc == 0)
        rc = push(w, w->l1_offset, UINT64_C(8) * w->l1_size, QC2_REGION_L1, err);
    if (rc == 0)
        rc = push(w, w->counts->offset, w->counts->clusters << h->cluster_bits, QC2_REGION_REFTABLE, err);
    if (rc == 0)
        rc = qc2_each_snapshot(w->q, sum_snapshot, &snapshots, err);
    if (rc == 0)
        rc = push(w, h->snapshots_offset, snapshots, QC2_REGION_SNAPSHOTS, err);
    if (rc == 0)
        rc = qc2_each_snapshot(w->q, add_snapshot, w, err);
    if (rc == 0 && bitmaps)
        rc = push(w, h->bitmap_dir_offset, h->bitmap_dir_size, QC2_REGION_BITMAPS, err);
    if (rc == 0 && bitmaps)
        rc = qc2_each_bitmap(w->q, add_bitmap, w, err);
    if (rc == 0 && h->has_crypto)
        rc = push(w, h->crypto_offset, h->crypto_length, QC2_REGION_CRYPTO, err);
    for (unsigned i = 0; i < KINDS; i++)
        sort(&w->regions->kind[i]);
    return rc;
}

/* A table of one cluster, where nothing else lies. */
static int add_single(struct qc2_writer *w, uint64_t host, enum qc2_region what, qchain_error *err)
{
    unsigned found = qc2_region_find(w, host, w->q->base.cluster_size, QC2_REGION_ALL);

    if (found == 0)
        return qc2_region_add(w, host, w->q->base.cluster_size, what, err);
    qc_fail(err, QCHAIN_E_CORRUPT, "%s at %" PRIu64 " lies where %s is", names[__builtin_ctz(what)],
            host, names[__builtin_ctz(found)]);
    qc_error_at(err, host);
    return QCHAIN_E_CORRUPT;
}

/* No two of different kinds may share a cluster. */
static int check_named(struct qc2_writer *w, qchain_error *err)
{
    struct qc2_regions *m = w->regions;
    unsigned bits = w->q->header.cluster_bits;

    for (unsigned i = 0; i < KINDS; i++)
        for (size_t k = 0; k < m->kind[i].n; k++) {
            const struct range *r = &m->kind[i].r[k];

            for (unsigned other = i + 1; other < KINDS; other++)
                if (has(&m->kind[other], *r))
                    return qc_fail(err, QCHAIN_E_CORRUPT, "%s at %" PRIu64 " lies where %s is",
                                   names[i], r->first << bits, names[other]);
        }
    return QCHAIN_OK;
}

int qc2_regions_create(struct qc2_writer *w, qchain_error *err)
{
    int rc;

    w->regions = qc_calloc(1, sizeof(*w->regions));
    if (!w->regions)
        return qc_fail_nomem(err);
    rc = push_named(w, err);
    if (rc == 0)
        rc = check_named(w, err);
    for (uint64_t i = 0; i < w->counts->n && rc == 0; i++)
        if (w->counts->table[i])
            rc = add_single(w, w->counts->table[i], QC2_REGION_REFBLOCK, err);
    for (uint32_t i = 0; i < w->l1_size && rc == 0; i++)
        if (w->l1[i] & QC2_OFFSET_MASK)
            rc = add_single(w, w->l1[i] & QC2_OFFSET_MASK, QC2_REGION_L2, err);
    return rc;
}

void qc2_regions_destroy(struct qc2_writer *w)
{
    if (!w->regions)
        return;
    for (unsigned i = 0; i < KINDS; i++)
        qc_free(w->regions->kind[i].r);
    qc2_cmap_finish(&w->regions->single);
    qc_free(w->regions);
    w->regions = NULL;
}
