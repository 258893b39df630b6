/* SPDX-License-Identifier: MIT */
/*
 * Writing what changed. With the lock held, a flush copies all that is dirty; it writes the copies, stage after
 * stage, while others go on changing tables. The slices stay pinned until the outcome is noted, so that none is
 * read again before it is in the file. Who must write under the lock, or use a place that is being written,
 * waits for the writing (io_lock) and notes the outcome himself.
 */
#include <stdlib.h>
#include <string.h>

#include "qcow2/writer_int.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"

#define WRITE_BYTES (1u << 20) /* neighbours are written together, up to so many */
#define WRITE_PIECES 1024u

struct piece {
    uint64_t host;
    uint8_t *data;
    uint32_t length;
    struct qc2_slice *slice; /* NULL: of the L1 table (MAP) or the refcount table (BLOCKS), */
    uint64_t number;         /* and which piece of it */
};

struct qc2_taken {
    struct piece *piece[QC2_STAGES];
    size_t   n[QC2_STAGES];
    uint8_t *copies;
    uint64_t reach;            /* the file must go on to here; 0: no matter */
    struct qc2_batch *freed;
    bool     map_begun;
    int      rc;               /* of the writing */
};

/* ---------------------------------------------------------------- stores --- */

int qc2_sync(struct qc2_writer *w, struct qc_store *store, qchain_error *err)
{
    int rc = w->unsafe ? QCHAIN_OK : qc_store_flush(store, err);

    /* What is on the medium now, nobody knows. */
    if (rc < 0)
        atomic_store(&w->stopped, true);
    return rc;
}

int qc2_reach_end(struct qc2_writer *w, uint64_t end, qchain_error *err)
{
    static const uint8_t zeros[QC2_PIECE];

    if (qc_store_size(w->store) >= end)
        return QCHAIN_OK;
    /* Not by resizing: others may be writing behind it just now. */
    return qc_store_write(w->store, zeros, sizeof(zeros), end - sizeof(zeros), err);
}

int qc2_reach(struct qc2_writer *w, uint64_t host, uint64_t length, qchain_error *err)
{
    uint64_t end = qc_align_up(host + length, w->q->base.cluster_size);

    if (qc_store_size(w->store) > end - w->q->base.cluster_size)
        return QCHAIN_OK;
    return qc2_reach_end(w, end, err);
}

/* ---------------------------------------------------------------- taking --- */

static size_t count_pieces(const uint64_t *bits, uint64_t n_entries)
{
    size_t n = 0;

    for (uint64_t i = qc2_dirty_next(bits, n_entries, 0); i != UINT64_MAX;
         i = qc2_dirty_next(bits, n_entries, i + 1))
        n++;
    return n;
}

static int taken_alloc(struct qc2_writer *w, struct qc2_taken *t)
{
    const struct qc2_meta *m = w->meta;
    size_t l1 = count_pieces(w->l1_dirty, w->l1_size);
    size_t table = count_pieces(w->counts->dirty, w->counts->n), slices = 0, pieces = l1 + table;

    for (unsigned i = 0; i < QC2_STAGES; i++)
        slices += m->n_dirty[i];
    pieces += slices;
    if (pieces == 0)
        return QCHAIN_OK;
    t->piece[0] = qc_malloc(pieces * sizeof(struct piece));
    t->copies = qc_aligned(4096, slices * w->slice_bytes + (l1 + table) * QC2_PIECE);
    if (!t->piece[0] || !t->copies) {
        qc_free(t->piece[0]);
        qc_free(t->copies);
        *t = (struct qc2_taken){0};
        return QCHAIN_E_NOMEM;
    }
    t->piece[QC2_BLOCKS] = t->piece[0] + m->n_dirty[QC2_COUNTS];
    t->piece[QC2_MAP] = t->piece[QC2_BLOCKS] + m->n_dirty[QC2_BLOCKS] + table;
    return QCHAIN_OK;
}

/* The bytes of one piece of a table of numbers; returns how many. */
static uint32_t encode_piece(uint8_t *out, const uint64_t *entry, uint64_t n_entries, uint64_t number,
                             uint64_t mask)
{
    uint64_t first = number * QC2_PIECE_ENTRIES;
    uint64_t n = qc_min64(n_entries - first, QC2_PIECE_ENTRIES);

    qc2_entries_encode(out, entry + first, n, mask);
    return (uint32_t)n * 8;
}

static uint8_t *take_table(struct qc2_taken *t, enum qc2_stage stage, uint8_t *copy, uint64_t *bits,
                           const uint64_t *entry, uint64_t n_entries, uint64_t host, uint64_t mask)
{
    for (uint64_t i = qc2_dirty_next(bits, n_entries, 0); i != UINT64_MAX;
         i = qc2_dirty_next(bits, n_entries, i + 1)) {
        struct piece *p = &t->piece[stage][t->n[stage]++];

        *p = (struct piece){host + i * QC2_PIECE, copy, 0, NULL, i};
        p->length = encode_piece(copy, entry, n_entries, i, mask);
        copy += QC2_PIECE;
    }
    qc2_dirty_clear(bits, n_entries);
    return copy;
}

static uint8_t *take_slices(struct qc2_writer *w, struct qc2_taken *t, enum qc2_stage stage,
                            uint8_t *copy)
{
    struct qc2_slice *s;

    while ((s = w->meta->dirty[stage].oldest)) {
        t->piece[stage][t->n[stage]++] = (struct piece){s->host, copy, w->slice_bytes, s, 0};
        memcpy(copy, s->data, w->slice_bytes);
        copy += w->slice_bytes;
        s->pins++;
        qc2_slice_clean(w, s);
    }
    return copy;
}

/* Lock held. NOMEM: nothing was taken. */
static int take(struct qc2_writer *w, struct qc2_taken *t)
{
    uint8_t *copy;
    int rc = taken_alloc(w, t);

    if (rc < 0)
        return rc;
    t->reach = qc2_fresh_end(w);
    copy = t->copies;
    for (unsigned i = 0; i < QC2_STAGES; i++)
        copy = take_slices(w, t, (enum qc2_stage)i, copy);
    copy = take_table(t, QC2_MAP, copy, w->l1_dirty, w->l1, w->l1_size, w->l1_offset, 0);
    take_table(t, QC2_BLOCKS, copy, w->counts->dirty, w->counts->table, w->counts->n,
               w->counts->offset, QC2_FULL);
    qc2_fresh_take(w);
    t->freed = qc2_freed_take(w);
    return QCHAIN_OK;
}

/* --------------------------------------------------------------- writing --- */

static int by_host(const void *a, const void *b)
{
    const struct piece *x = a, *y = b;

    return x->host < y->host ? -1 : x->host > y->host;
}

/* The pieces of one stage, neighbours together. */
static int write_pieces(struct qc2_writer *w, struct piece *p, size_t n, qchain_error *err)
{
    qchain_iov iov[WRITE_PIECES];
    int rc = QCHAIN_OK;

    if (n > 0)
        qsort(p, n, sizeof(*p), by_host);
    for (size_t i = 0; i < n && rc == 0;) {
        uint64_t start = p[i].host, bytes = 0;
        size_t k = 0;

        do {
            iov[k++] = (qchain_iov){p[i].data, p[i].length};
            bytes += p[i++].length;
        } while (i < n && k < WRITE_PIECES && p[i].host == start + bytes && bytes < WRITE_BYTES);
        rc = k == 1 ? qc_store_write(w->store, iov[0].base, bytes, start, err)
                    : qc_store_writev(w->store, iov, k, bytes, start, err);
    }
    return rc;
}

static int write_stage(struct qc2_writer *w, struct qc2_taken *t, enum qc2_stage stage,
                       qchain_error *err)
{
    if (stage == QC2_MAP)
        t->map_begun = true;
    return write_pieces(w, t->piece[stage], t->n[stage], err);
}

/* What comes before MAP. */
static int write_counts(struct qc2_writer *w, struct qc2_taken *t, qchain_error *err)
{
    bool skip = qc2_breaks(1) || (qc2_breaks(5) && t->n[QC2_COUNTS] == 0);
    int rc = QCHAIN_OK;

    if (qc2_breaks(3))
        rc = write_stage(w, t, QC2_BLOCKS, err);
    if (rc == 0)
        rc = write_stage(w, t, QC2_COUNTS, err);
    if (rc == 0 && !skip)
        rc = qc2_sync(w, w->store, err);
    if (rc < 0 || t->n[QC2_BLOCKS] == 0 || qc2_breaks(3))
        return rc;
    rc = write_stage(w, t, QC2_BLOCKS, err);
    return rc == 0 && !skip ? qc2_sync(w, w->store, err) : rc;
}

static int write_taken(struct qc2_writer *w, struct qc2_taken *t, qchain_error *err)
{
    int rc = t->reach ? qc2_reach_end(w, t->reach, err) : QCHAIN_OK;

    if (rc == 0 && w->data != w->store && !qc2_breaks(5))
        rc = qc2_sync(w, w->data, err);
    if (rc == 0 && qc2_breaks(2)) {
        rc = write_stage(w, t, QC2_MAP, err);
        return rc == 0 ? write_counts(w, t, err) : rc;
    }
    if (rc == 0)
        rc = write_counts(w, t, err);
    if (rc < 0 || t->n[QC2_MAP] == 0)
        return rc;
    rc = write_stage(w, t, QC2_MAP, err);
    return rc == 0 && !qc2_breaks(7) ? qc2_sync(w, w->store, err) : rc;
}

/* --------------------------------------------------------------- outcome --- */

/* What was not written is dirty again; lock held. */
static void untake(struct qc2_writer *w, struct qc2_taken *t, enum qc2_stage stage)
{
    for (size_t i = 0; i < t->n[stage]; i++) {
        const struct piece *p = &t->piece[stage][i];

        if (p->slice && !p->slice->dirty)
            qc2_slice_dirty(w, p->slice, p->slice->home);
        else if (!p->slice && stage == QC2_MAP)
            qc2_dirty_set(w->l1_dirty, p->number * QC2_PIECE_ENTRIES);
        else if (!p->slice)
            qc2_dirty_set(w->counts->dirty, p->number * QC2_PIECE_ENTRIES);
    }
}

/* Note what came of the writing; lock held. */
static void settle(struct qc2_writer *w)
{
    struct qc2_taken *t = w->taken;

    w->taken = NULL;
    if (t->rc < 0) {
        untake(w, t, QC2_MAP);
        qc2_freed_untake(w, t->freed);
        t->freed = NULL;
    }
    if (t->rc < 0 && !t->map_begun) {
        untake(w, t, QC2_BLOCKS);
        untake(w, t, QC2_COUNTS);
    }
    qc2_fresh_settle(w, t->rc == 0 || t->map_begun);
    for (unsigned i = 0; i < QC2_STAGES; i++)
        for (size_t k = 0; k < t->n[i]; k++)
            qc2_slice_put(w, t->piece[i][k].slice);
}

void qc2_flush_wait(struct qc2_writer *w)
{
    pthread_mutex_lock(&w->io_lock);
    pthread_mutex_unlock(&w->io_lock);
    if (w->taken)
        settle(w);
}

/* ------------------------------------------------------ with the lock held --- */

int qc2_write_slices(struct qc2_writer *w, enum qc2_stage stage, qchain_error *err)
{
    struct qc2_slice *s = w->meta->dirty[stage].oldest;
    qchain_iov iov[WRITE_PIECES];
    int rc = QCHAIN_OK;

    while (s && rc == 0) { /* those that were made dirty one after the other are often neighbours */
        uint64_t start = s->host, bytes = 0;
        size_t n = 0;

        for (; s && n < WRITE_PIECES && s->host == start + bytes; s = s->newer, bytes += w->slice_bytes)
            iov[n++] = (qchain_iov){s->data, w->slice_bytes};
        rc = n == 1 ? qc_store_write(w->store, iov[0].base, bytes, start, err)
                    : qc_store_writev(w->store, iov, n, bytes, start, err);
    }
    return rc;
}

static int write_dirty(struct qc2_writer *w, const uint64_t *bits, const uint64_t *entry,
                       uint64_t n_entries, uint64_t host, uint64_t mask, qchain_error *err)
{
    uint8_t piece[QC2_PIECE];
    int rc = QCHAIN_OK;

    for (uint64_t i = qc2_dirty_next(bits, n_entries, 0); i != UINT64_MAX && rc == 0;
         i = qc2_dirty_next(bits, n_entries, i + 1)) {
        uint32_t length = encode_piece(piece, entry, n_entries, i, mask);

        rc = qc_store_write(w->store, piece, length, host + i * QC2_PIECE, err);
    }
    return rc;
}

/* COUNTS and BLOCKS, durable. */
static int write_counts_locked(struct qc2_writer *w, qchain_error *err)
{
    struct qc2_counts *c = w->counts;
    int rc = qc2_reach_end(w, qc2_fresh_end(w), err);

    if (rc == 0)
        rc = qc2_write_slices(w, QC2_COUNTS, err);
    if (rc == 0 && w->data != w->store)
        rc = qc2_sync(w, w->data, err);
    if (rc == 0)
        rc = qc2_sync(w, w->store, err);
    if (rc == 0)
        rc = qc2_write_slices(w, QC2_BLOCKS, err);
    if (rc == 0)
        rc = write_dirty(w, c->dirty, c->table, c->n, c->offset, QC2_FULL, err);
    return rc == 0 ? qc2_sync(w, w->store, err) : rc;
}

int qc2_flush_locked(struct qc2_writer *w, qchain_error *err)
{
    bool map_begun = false;
    int rc;

    qc2_flush_wait(w);
    rc = write_counts_locked(w, err);
    if (rc == 0) {
        map_begun = true;
        rc = qc2_write_slices(w, QC2_MAP, err);
    }
    if (rc == 0)
        rc = write_dirty(w, w->l1_dirty, w->l1, w->l1_size, w->l1_offset, 0, err);
    if (rc == 0)
        rc = qc2_sync(w, w->store, err);
    for (unsigned i = 0; i < QC2_STAGES && rc == 0; i++)
        while (w->meta->dirty[i].oldest)
            qc2_slice_clean(w, w->meta->dirty[i].oldest);
    if (rc == 0) {
        qc2_dirty_clear(w->l1_dirty, w->l1_size);
        qc2_dirty_clear(w->counts->dirty, w->counts->n);
    }
    if (map_begun) {
        qc2_fresh_take(w);
        qc2_fresh_settle(w, true);
    }
    return rc;
}

/* ----------------------------------------------------------------- flush --- */

/* flush_lock held. *freed: what nothing on the medium refers to any more. */
static int flush_once(struct qc2_writer *w, struct qc2_batch **freed, qchain_error *err)
{
    struct qc2_taken t = {0};
    int rc;

    pthread_mutex_lock(&w->lock);
    if (take(w, &t) < 0) {
        rc = qc2_flush_locked(w, err);
        *freed = rc == 0 ? qc2_freed_take(w) : NULL;
        pthread_mutex_unlock(&w->lock);
        return rc;
    }
    w->taken = &t;
    pthread_mutex_lock(&w->io_lock);
    pthread_mutex_unlock(&w->lock);

    rc = t.rc = write_taken(w, &t, err);
    pthread_mutex_unlock(&w->io_lock);

    pthread_mutex_lock(&w->lock);
    if (w->taken)
        settle(w);
    pthread_mutex_unlock(&w->lock);
    *freed = t.freed;
    qc_free(t.piece[0]);
    qc_free(t.copies);
    return rc;
}

int qc2_flush(struct qc2_writer *w, qchain_error *err)
{
    uint64_t before = atomic_load(&w->begun), number;
    struct qc2_batch *freed = NULL;
    int rc = QCHAIN_OK;

    pthread_mutex_lock(&w->flush_lock);
    if (w->flushed <= before) { /* else one that began after the call has done it */
        number = atomic_fetch_add(&w->begun, 1) + 1;
        rc = atomic_load(&w->stopped)
                 ? qc_fail(err, QCHAIN_E_READONLY, "writing has stopped after an earlier failure")
                 : flush_once(w, &freed, err);
        if (rc == 0)
            w->flushed = number;
    }
    pthread_mutex_unlock(&w->flush_lock);
    if (freed)
        qc2_freed_retire(w, freed);
    qc2_tell(w);
    return rc;
}
