/* SPDX-License-Identifier: MIT */
/*
 * The L1 table, an array of big-endian numbers of 64 bits:
 *
 *   BIT
 *    63   COPIED: the L2 table's refcount is exactly 1
 *   9-55  offset of the L2 table, cluster aligned; 0: none
 *
 * Other bits are reserved; like QEMU we do not look at them.
 */
#include "qcow2/image_int.h"

#include <inttypes.h>
#include <stdlib.h>

#include "qcow2/l2.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"
#include "util/vec.h"

#define PIECE 8192u /* entries read at a time: 64 KiB */
#define FEW 64      /* entries that may share tables */
#define SEEN_BITS (UINT64_C(1) << 28) /* 32 MiB of them */

int qc2_l1_read(struct qc2_image *q, uint64_t *entry, uint32_t slot, uint32_t n, qchain_error *err)
{
    int rc = qc_store_read(q->base.store, entry, (size_t)n * 8,
                           q->l1_offset + (uint64_t)slot * 8, qc2_meta_flags(q), err);

    if (rc < 0) {
        qc_error_prefix(err, -1, "L1 table: ");
        return rc;
    }
    for (uint32_t i = 0; i < n; i++)
        entry[i] = qc_be64(&entry[i]) & QC2_OFFSET_MASK;
    return QCHAIN_OK;
}

static struct qc2_l1_map *map_alloc(uint32_t n_slots)
{
    struct qc2_l1_map *m;
    bool whole = n_slots <= QC2_L1_WHOLE;
    uint8_t shift = 0;
    size_t words;

    while (!whole && n_slots > (uint64_t)QC2_L1_BITS << shift)
        shift++;
    words = whole ? n_slots : (qc_div_up(n_slots, UINT64_C(1) << shift) + 63) / 64;
    m = qc_calloc(1, sizeof(*m) + words * sizeof(m->word[0]));
    if (!m)
        return NULL;
    m->n_slots = n_slots;
    m->shift = shift;
    m->whole = whole;
    return m;
}

/* True if the entry counts as a table; those past the end of a file that is read
 * in spite of damage do not. */
static bool in_use(const struct qc2_image *q, uint64_t entry)
{
    return entry != 0 && !(q->salvage && entry >= q->base.store->size);
}

/* ------------------------------------------------- each L2 table once --- */

/*
 * Many entries with one L2 table would let a small file describe a disk that takes
 * hours to follow; a few are damage like any other, and read as they are. What was
 * seen is known by a bit for each cluster of the file; where the file is so long
 * that this takes too much (mostly it is sparse then), the entries are collected
 * and sorted.
 */
struct seen {
    uint64_t *bit;
    uint64_t *list;
    size_t    n, cap;
};

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return x < y ? -1 : x > y;
}

/* The first entry that lies in n sorted ones twice; 0: none. */
static uint64_t sorted_twice(const uint64_t *entry, size_t n)
{
    for (size_t i = 1; i < n; i++)
        if (entry[i] == entry[i - 1] && entry[i] != 0)
            return entry[i];
    return 0;
}

/* The same for a small table in its own order. */
static uint64_t small_twice(const struct qc2_image *q, const uint64_t *entry, uint32_t n)
{
    uint64_t slot[2 * QC2_L1_WHOLE] = {0};
    uint32_t at;

    for (uint32_t i = 0; i < n; i++) {
        if (!in_use(q, entry[i]))
            continue;
        at = (uint32_t)((entry[i] * UINT64_C(0x9e3779b97f4a7c15)) >> 55);
        for (; slot[at] != 0; at = (at + 1) % (2 * QC2_L1_WHOLE))
            if (slot[at] == entry[i])
                return entry[i];
        slot[at] = entry[i];
    }
    return 0;
}

_Static_assert(2 * QC2_L1_WHOLE == 1u << (64 - 55), "the hash has that many bits");

static int seen_init(struct seen *s, const struct qc2_image *q, qchain_error *err)
{
    uint64_t clusters = qc_div_up(q->base.store->size, q->base.cluster_size);

    *s = (struct seen){0};
    if (clusters > SEEN_BITS)
        return QCHAIN_OK;
    s->bit = qc_calloc(clusters / 64 + 1, sizeof(*s->bit));
    return s->bit ? QCHAIN_OK : qc_fail_nomem(err);
}

static void seen_finish(struct seen *s)
{
    qc_free(s->bit);
    qc_free(s->list);
}

/* Note an entry; *twice receives it if it was seen before. */
static int seen_add(struct seen *s, const struct qc2_image *q, uint64_t entry, uint64_t *twice,
                    qchain_error *err)
{
    uint64_t cluster = entry / q->base.cluster_size, mask = UINT64_C(1) << cluster % 64;
    void *p = s->list;
    int rc;

    if (!s->bit) {
        rc = qc_grow(&p, &s->cap, s->n + 1, sizeof(*s->list));
        s->list = p;
        if (rc < 0)
            return qc_fail_nomem(err);
        s->list[s->n++] = entry;
        return QCHAIN_OK;
    }
    /* What cannot be a table fails when it is followed. */
    if (entry >= q->base.store->size || entry % q->base.cluster_size != 0)
        return QCHAIN_OK;
    if (*twice == 0 && s->bit[cluster / 64] & mask)
        *twice = entry;
    s->bit[cluster / 64] |= mask;
    return QCHAIN_OK;
}

/* Say which slots have the entry. */
static int fail_twice(struct qc2_image *q, uint32_t n_slots, uint64_t entry, qchain_error *err)
{
    uint64_t *piece = qc_malloc(PIECE * sizeof(*piece));
    uint32_t slot[2] = {0, 0}, found = 0, n;
    int rc = piece ? QCHAIN_OK : qc_fail_nomem(err);

    for (uint32_t at = 0; rc == 0 && at < n_slots && found < 2; at += n) {
        n = (uint32_t)qc_min64(n_slots - at, PIECE);
        rc = qc2_l1_read(q, piece, at, n, err);
        for (uint32_t i = 0; rc == 0 && i < n && found < 2; i++)
            if (piece[i] == entry)
                slot[found++] = at + i;
    }
    qc_free(piece);
    if (rc < 0)
        return rc;
    return qc_fail(err, QCHAIN_E_CORRUPT, "L1 entries %" PRIu32 " and %" PRIu32
                   " use the same L2 table at %" PRIu64, slot[0], slot[1], entry);
}

/* ------------------------------------------------------------- the map --- */

/* What is found out about the entries on the way. */
struct found {
    uint64_t used;
    uint64_t twice; /* one that there is twice; 0: none */
};

/* One piece of a large table. */
static int add_piece(const struct qc2_image *q, struct qc2_l1_map *m, struct seen *s,
                     const uint64_t *piece, uint32_t slot, uint32_t n, struct found *f,
                     qchain_error *err)
{
    int rc = QCHAIN_OK;

    for (uint32_t i = 0; i < n && rc == 0; i++) {
        uint32_t bit = (slot + i) >> m->shift;

        if (!in_use(q, piece[i]))
            continue;
        f->used++;
        m->word[bit / 64] |= UINT64_C(1) << bit % 64;
        rc = seen_add(s, q, piece[i], &f->twice, err);
    }
    return rc;
}

/* Stream a large table and note what is in use. */
static int map_stream(struct qc2_image *q, struct qc2_l1_map *m, struct found *f,
                      qchain_error *err)
{
    uint64_t *piece = qc_malloc(PIECE * sizeof(*piece));
    struct seen s;
    int rc = seen_init(&s, q, err);

    if (rc == 0 && !piece)
        rc = qc_fail_nomem(err);
    for (uint32_t slot = 0; slot < m->n_slots && rc == 0; slot += PIECE) {
        uint32_t n = (uint32_t)qc_min64(m->n_slots - slot, PIECE);

        rc = qc2_l1_read(q, piece, slot, n, err);
        if (rc == 0)
            rc = add_piece(q, m, &s, piece, slot, n, f, err);
    }
    if (rc == 0 && s.n > 0) {
        qsort(s.list, s.n, sizeof(*s.list), by_value);
        f->twice = sorted_twice(s.list, s.n);
    }
    seen_finish(&s);
    qc_free(piece);
    return rc;
}

static int map_whole(struct qc2_image *q, struct qc2_l1_map *m, struct found *f,
                     qchain_error *err)
{
    int rc = qc2_l1_read(q, m->word, 0, m->n_slots, err);

    if (rc < 0)
        return rc;
    for (uint32_t i = 0; i < m->n_slots; i++)
        f->used += in_use(q, m->word[i]);
    if (f->used > FEW)
        f->twice = small_twice(q, m->word, m->n_slots);
    return QCHAIN_OK;
}

static int map_fill(struct qc2_image *q, struct qc2_l1_map *m, qchain_error *err)
{
    uint64_t clusters = qc_div_up(q->base.store->size, q->base.cluster_size);
    struct found f = {0};
    int rc = m->whole ? map_whole(q, m, &f, err) : map_stream(q, m, &f, err);

    if (rc == 0 && f.used > clusters)
        return qc_fail(err, QCHAIN_E_CORRUPT,
                       "L1 table has %" PRIu64 " entries in use, more than the file's %" PRIu64
                       " clusters", f.used, clusters);
    if (rc == 0 && f.used > FEW && f.twice != 0)
        return fail_twice(q, m->n_slots, f.twice, err);
    return rc;
}

static int map_build(struct qc2_image *q, struct qc2_l1_map **out, qchain_error *err)
{
    uint64_t cover = UINT64_C(1) << qc2_l2_cover_bits(&q->header);
    uint64_t need = qc_div_up(q->base.virtual_size, cover);
    struct qc2_l1_map *m = map_alloc((uint32_t)qc_min64(need, q->l1_size));
    int rc;

    if (!m)
        return qc_fail_nomem(err);
    rc = map_fill(q, m, err);
    if (rc < 0) {
        qc_free(m);
        return rc;
    }
    *out = m;
    return QCHAIN_OK;
}

int qc2_l1_get(struct qc2_image *q, const struct qc2_l1_map **out, qchain_error *err)
{
    struct qc2_l1_map *m = atomic_load_explicit(&q->l1_map, memory_order_acquire);
    int rc = QCHAIN_OK;

    if (!m) {
        pthread_mutex_lock(&q->lock);
        m = atomic_load_explicit(&q->l1_map, memory_order_relaxed);
        if (!m) {
            rc = map_build(q, &m, err);
            if (rc == 0)
                atomic_store_explicit(&q->l1_map, m, memory_order_release);
        }
        pthread_mutex_unlock(&q->lock);
    }
    *out = m;
    return rc;
}

uint32_t qc2_l1_next(const struct qc2_l1_map *m, uint32_t slot)
{
    uint32_t bits = (uint32_t)qc_div_up(m->n_slots, UINT64_C(1) << m->shift);
    uint32_t bit = slot >> m->shift;

    if (m->whole) {
        while (slot < m->n_slots && m->word[slot] == 0)
            slot++;
        return slot;
    }
    while (bit < bits) {
        uint64_t rest = m->word[bit / 64] >> bit % 64;
        uint64_t first;

        if (!rest) {
            bit = (bit | 63) + 1;
            continue;
        }
        bit += (uint32_t)__builtin_ctzll(rest);
        first = (uint64_t)bit << m->shift;
        return (uint32_t)qc_max64(slot, first);
    }
    return m->n_slots;
}
