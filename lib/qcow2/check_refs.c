/* SPDX-License-Identifier: MIT */
/*
 * Refcounts as the file has them. The refcount table is an array of big-endian numbers of 64 bits:
 *
 *   BIT
 *   9-63  offset of a refcount block, cluster aligned; 0: none, all its counts are 0
 *   0-8   reserved, 0
 *
 * A block is one cluster of big-endian counts of 2^refcount_order bits; of those smaller than a byte the first is
 * in the lowest bits.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2/check_int.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"

#define AT_ONCE 1024 /* blocks of a batch */

uint64_t qc2_refcount_decode(const uint8_t *block, uint64_t i, unsigned order)
{
    unsigned width = 1u << order;

    switch (order) {
    case 3:
        return block[i];
    case 4:
        return qc_be16(block + 2 * i);
    case 5:
        return qc_be32(block + 4 * i);
    case 6:
        return qc_be64(block + 8 * i);
    default:
        return block[i * width / 8] >> (i * width % 8) & ((1u << width) - 1);
    }
}

void qc2_refcount_encode(uint8_t *block, uint64_t i, unsigned order, uint64_t count)
{
    unsigned width = 1u << order;
    unsigned shift;

    if (order >= 3) {
        for (unsigned k = 0; k < width / 8; k++)
            block[i * (width / 8) + k] = (uint8_t)(count >> (width - 8 - 8 * k));
        return;
    }
    shift = (unsigned)(i * width % 8);
    block[i * width / 8] &= (uint8_t)~(((1u << width) - 1) << shift);
    block[i * width / 8] |= (uint8_t)(count << shift);
}

/* ------------------------------------------------------- the table --- */

/* New ones must not lie where old ones are thought to be: half written, they would be taken for these. They take
 * at most 8 bytes for each 512 of the file. */
static void note_place(struct qc2_check *c, uint64_t at, uint64_t length)
{
    uint64_t reach = c->size + c->size / 32 + 64 * c->cluster;

    if (at < reach && at + length > c->size)
        c->refs_end = qc_max64(c->refs_end, at + length);
}

static void check_entry(struct qc2_check *c, uint32_t i)
{
    uint64_t e = c->reftable[i], at = e & ~UINT64_C(0x1ff);
    const char *rule = NULL;

    if (e == 0)
        return;
    if (e & 0x1ff)
        rule = "reserved bits are set";
    if (at % c->cluster != 0)
        rule = "the refcount block is not aligned to a cluster";
    else if (at >= c->size)
        rule = "the refcount block lies past the end of the file";
    note_place(c, at, c->cluster);
    if (rule) {
        c->rebuild = true;
        qc2_check_bad(c, 1, "refcount table entry %" PRIu32 "=0x%016" PRIx64 ": %s", i, e, rule);
    }
    c->reftable[i] = at % c->cluster != 0 || at >= c->size ? 0 : at;
}

static int find_single(struct qc2_check *c, uint64_t first, uint64_t n, uint8_t *raw,
                       void *data, qchain_error *err)
{
    unsigned order = c->h->refcount_order;

    (void)data;
    (void)err;
    for (uint64_t i = 0; raw && i < n; i++)
        if (order == 4 ? raw[2 * i] == 0 && raw[2 * i + 1] == 1
                       : qc2_refcount_decode(raw, i, order) == 1)
            c->single[(first + i) / 64] |= UINT64_C(1) << (first + i) % 64;
    return QCHAIN_OK;
}

int qc2_check_load_refs(struct qc2_check *c, qchain_error *err)
{
    uint64_t bytes = (uint64_t)c->h->reftable_clusters << c->bits;
    uint64_t at = c->h->reftable_offset;

    qc_free(c->reftable);
    c->n_reftable = 0;
    c->reftable = qc_malloc(bytes ? bytes : 1);
    if (!c->reftable)
        return qc_fail_nomem(err);
    note_place(c, at, bytes);
    if (bytes == 0 || at == 0 || at % c->cluster != 0 || at >= c->size) {
        c->rebuild = true;
        qc2_check_bad(c, 1, "header refcount_table_offset=%" PRIu64 ", refcount_table_clusters=%"
                      PRIu32 ": not a table inside the file", at, c->h->reftable_clusters);
        return QCHAIN_OK;
    }
    qc2_check_read(c, c->reftable, bytes, at, "refcount table");
    c->n_reftable = (uint32_t)(bytes / 8);
    for (uint32_t i = 0; i < c->n_reftable; i++) {
        c->reftable[i] = qc_be64(&c->reftable[i]);
        check_entry(c, i);
    }
    memset(c->single, 0, (c->n / 64 + 1) * 8);
    return qc2_each_refblock(c, find_single, NULL, err);
}

/* ------------------------------------------------------- the blocks --- */

int qc2_each_refblock(struct qc2_check *c, qc2_refblock_fn fn, void *data, qchain_error *err)
{
    uint64_t per = qc2_refblock_entries(c);
    uint64_t blocks = qc_div_up(c->n_used, per);
    uint64_t at[AT_ONCE];
    int rc = QCHAIN_OK;

    for (uint64_t i = 0, n; i < blocks && rc == 0; i += n) {
        size_t have = 0, next = 0;

        n = qc_min64(qc_min64(blocks - i, c->batch), AT_ONCE);
        for (uint64_t k = i; k < i + n; k++)
            if (k < c->n_reftable && c->reftable[k] != 0)
                at[have++] = c->reftable[k];
        rc = qc2_check_go_on(c, err);
        qc2_check_read_batch(c, at, have, "refcount block");
        for (uint64_t k = i; k < i + n && rc == 0; k++) {
            bool there = k < c->n_reftable && c->reftable[k] != 0;

            rc = fn(c, k * per, qc_min64(per, c->n_used - k * per),
                    there ? c->buf + next++ * c->cluster : NULL, data, err);
        }
    }
    return rc;
}

/* Count the blocks themselves: each must have its cluster to itself. */
int qc2_check_refblocks(struct qc2_check *c, qchain_error *err)
{
    for (uint32_t i = 0; i < c->n_reftable; i++)
        if (c->reftable[i] != 0 && qc2_tally_add(&c->tally, c->reftable[i] >> c->bits, 1) < 0)
            return qc_fail_nomem(err);
    for (uint32_t i = 0; i < c->n_reftable; i++) {
        uint64_t at = c->reftable[i], count;

        if (at == 0)
            continue;
        count = qc2_tally_get(&c->tally, at >> c->bits);
        if (count == 1)
            continue;
        c->rebuild = true;
        qc2_check_bad(c, 1, "refcount block %" PRIu32 " at %" PRIu64 ": its cluster is used %" PRIu64
                      " times", i, at, count);
    }
    return QCHAIN_OK;
}

/* ------------------------------------------------------- comparing --- */

/* Neighbours with the same trouble are told of at once. */
struct compare {
    uint64_t              first, n, stored, count;
    uint64_t              last;  /* in use */
    struct qc2_stretches *meta;  /* sorted, no two touch */
};

static void tell(struct qc2_check *c, const struct compare *m)
{
    bool leak = m->stored > m->count;

    if (m->n > 0)
        qc2_check_say(c, leak ? QCHAIN_LOG_WARN : QCHAIN_LOG_ERROR,
                      "cluster %" PRIu64 " to %" PRIu64 " (offset %" PRIu64 "): refcount %" PRIu64
                      ", but %" PRIu64 " reference%s%s", m->first, m->first + m->n - 1,
                      m->first << c->bits, m->stored, m->count, m->count == 1 ? "" : "s",
                      leak ? ": leaked" : "");
}

static void differ(struct qc2_check *c, struct compare *m, uint64_t k, uint64_t stored,
                   uint64_t count)
{
    if (stored > count)
        c->r.leaks++;
    else
        c->r.corruptions++;
    if (m->n == 0 || k != m->first + m->n || stored != m->stored || count != m->count) {
        tell(c, m);
        *m = (struct compare){k, 0, stored, count, m->last, m->meta};
    }
    m->n++;
}

static bool is_meta(const struct qc2_stretches *s, uint64_t at)
{
    size_t low = 0, high = s->n;

    while (low < high) {
        size_t mid = low + (high - low) / 2;

        if (s->v[mid].end <= at)
            low = mid + 1;
        else
            high = mid;
    }
    return low < s->n && s->v[low].start <= at;
}

static bool is_shared_l2(const struct qc2_check *c, uint64_t at, uint64_t count)
{
    size_t low = 0, high = c->l2s.n;

    while (low < high) {
        size_t mid = low + (high - low) / 2;

        if (c->l2s.v[mid].at < at)
            low = mid + 1;
        else
            high = mid;
    }
    return low < c->l2s.n && c->l2s.v[low].at == at && c->l2s.v[low].visits < count;
}

/* A table whose cluster others use, too, though the refcount says so. */
static void check_overlap(struct qc2_check *c, const struct compare *m, uint64_t k, uint64_t count)
{
    uint64_t at = k << c->bits;
    bool meta = is_meta(m->meta, at);

    if (meta || is_shared_l2(c, at, count))
        qc2_check_bad(c, 1, "cluster %" PRIu64 " (offset %" PRIu64 ") holds %s and is used %" PRIu64
                      " times, for other things, too", k, at, meta ? "a table" : "an L2 table", count);
}

static int compare_block(struct qc2_check *c, uint64_t first, uint64_t n, uint8_t *raw,
                         void *data, qchain_error *err)
{
    struct compare *m = data;
    uint64_t max = qc2_refcount_max(c), stored = 0, count;
    unsigned order = c->h->refcount_order;

    (void)err;
    if (!raw && qc_is_zero(c->tally.small + first, n))
        return QCHAIN_OK;
    for (uint64_t k = first; k < first + n; k++) {
        if (raw)
            stored = order == 4 ? qc_be16(raw + 2 * (k - first))
                                : qc2_refcount_decode(raw, k - first, order);
        count = qc2_tally_get(&c->tally, k);
        if (stored | count)
            m->last = k;
        if (count > max) {
            qc2_check_bad(c, count - max, "cluster %" PRIu64 " (offset %" PRIu64 "): %" PRIu64
                          " references, more than its refcount can say", k, k << c->bits, count);
            count = max;
        }
        if (stored != count) {
            c->rebuild |= !raw;
            differ(c, m, k, stored, count);
        } else if (count > 1) {
            check_overlap(c, m, k, count);
        }
    }
    return QCHAIN_OK;
}

static int keep_piece(void *data, uint64_t start, uint64_t end, uint64_t times, uint64_t active,
                      qchain_error *err)
{
    struct qc2_stretches *s = data;

    (void)times;
    (void)active;
    if (s->n > 0 && s->v[s->n - 1].end == start) {
        s->v[s->n - 1].end = end;
        return QCHAIN_OK;
    }
    return qc2_stretch_add(s, start, end, false, err);
}

int qc2_check_compare(struct qc2_check *c, qchain_error *err)
{
    struct qc2_stretches meta = {0};
    struct compare m = {.meta = &meta};
    int rc = qc2_sweep(&c->meta, keep_piece, &meta, err);

    if (rc == 0)
        rc = qc2_each_refblock(c, compare_block, &m, err);
    tell(c, &m);
    c->r.image_end_offset = (m.last + 1) << c->bits;
    qc_free(meta.v);
    return rc;
}
