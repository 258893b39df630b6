/* SPDX-License-Identifier: MIT */
/*
 * Where a write goes. Three kinds of stretches, each of whole units and within one slice of a table:
 *
 *   own    stored in clusters of this image alone, side by side: written in place, and that is all
 *   reuse  such clusters hold the place, but zeros or what lies below is read there: what is written fills
 *          whole units of them, then the entries change
 *   fresh  there is no place, or others look at it (a snapshot; a compressed stream): new clusters, and
 *          the old ones are freed later
 *
 * Of a new cluster with subclusters those are filled that are written, and those that were stored at the old place.
 */
#include <pthread.h>

#include "qcow2/l2_spot.h"
#include "util/error.h"

/* priv of a place */
enum { USE, HOST };

static uint64_t round_up(uint64_t v, unsigned bits)
{
    return qc_align_up(v, UINT64_C(1) << bits);
}

static uint64_t round_down(uint64_t v, unsigned bits)
{
    return qc_align_down(v, UINT64_C(1) << bits);
}

/* CORRUPT that was met on the way to a change: nothing more is to be changed. */
static int stop_if_corrupt(struct qc2_writer *w, int rc, qchain_error *err)
{
    return rc == QCHAIN_E_CORRUPT ? qc2_writer_damaged(w, err) : rc;
}

/* The i-th entry from the spot on, if it is sound, or there is no table at all. */
static int entry_at(const struct qc2_l2 *g, const struct qc2_spot *s, size_t i, struct qc2_entry *e,
                    qchain_error *err)
{
    int rc = QCHAIN_OK;

    *e = (struct qc2_entry){0, 0};
    if (s->slice) {
        rc = qc2_spot_check(g, s, i, err);
        *e = qc2_entry_get(g, s->raw, i);
    }
    return rc;
}

/* From the spot's entry on, clusters that need a new place: where they end, at most g->end. */
static uint64_t fresh_end(const struct qc2_l2 *g, const struct qc2_spot *s)
{
    uint64_t at = s->guest;
    struct qc2_entry e;

    if (!s->slice)
        return g->end;
    for (size_t i = 0; at < g->end; i++, at += UINT64_C(1) << g->cluster_bits)
        if (i > 0 && (entry_at(g, s, i, &e, NULL) < 0 || qc2_entry_use(g, e, 0) != QC2_USE_FRESH))
            break;
    return qc_min64(at, g->end);
}

/* The units from g->start on that are used like the first, side by side in the file; at most to g->end. */
static uint64_t placed_end(const struct qc2_l2 *g, const struct qc2_spot *s, enum qc2_use use, uint64_t host)
{
    unsigned unit_bits = qc2_unit_bits(g), n = qc2_units(g);
    unsigned unit = (unsigned)((g->start - s->guest) >> unit_bits);
    uint64_t at = g->start;
    struct qc2_entry e = qc2_entry_get(g, s->raw, 0);

    for (size_t i = 0;;) {
        while (unit < n && at < g->end && qc2_entry_use(g, e, unit) == use) {
            unit++;
            at = round_down(at, unit_bits) + (UINT64_C(1) << unit_bits);
        }
        if (unit < n || at >= g->end)
            return qc_min64(at, g->end);
        i++;
        if (entry_at(g, s, i, &e, NULL) < 0 || qc2_entry_host(e) != host + ((uint64_t)i << g->cluster_bits))
            return at;
        unit = 0;
    }
}

/* The units that a new place must hold: those touched, and in the first and the last cluster those
 * that were stored. */
static void widen_fresh(const struct qc2_l2 *g, const struct qc2_spot *s, struct qc_place *p)
{
    unsigned unit_bits = qc2_unit_bits(g);
    uint64_t first = p->unit, end = p->unit + p->unit_length;
    uint64_t last = round_down(end - 1, g->cluster_bits);
    struct qc2_entry e = {0, 0};
    unsigned from, to;

    from = (unsigned)((first - s->guest) >> unit_bits);
    to = (unsigned)((qc_min64(end, s->guest + (UINT64_C(1) << g->cluster_bits)) - s->guest) >> unit_bits);
    if (s->slice)
        e = qc2_entry_get(g, s->raw, 0);
    qc2_entry_widen(g, e, &from, &to);
    p->unit = s->guest + ((uint64_t)from << unit_bits);
    if (last > s->guest) {
        from = 0;
        to = (unsigned)((end - last) >> unit_bits);
        if (s->slice)
            e = qc2_entry_get(g, s->raw, (last - s->guest) >> g->cluster_bits);
        qc2_entry_widen(g, e, &from, &to);
    }
    p->unit_length = last + ((uint64_t)to << unit_bits) - p->unit;
}

static int place_in(struct qc2_writer *w, const struct qc2_l2 *g, const struct qc2_spot *s,
                    struct qc_place *p, qchain_error *err)
{
    unsigned unit_bits = qc2_unit_bits(g);
    struct qc2_entry e;
    enum qc2_use use;
    uint64_t host;
    int rc = entry_at(g, s, 0, &e, err);

    if (rc < 0)
        return rc;
    use = qc2_entry_use(g, e, (unsigned)((g->start - s->guest) >> unit_bits));
    host = qc2_entry_host(e) + (g->start - s->guest);
    *p = (struct qc_place){.offset = g->start, .own = use == QC2_USE_OWN, .priv = {[USE] = use}};
    p->length = (use == QC2_USE_FRESH ? fresh_end(g, s) : placed_end(g, s, use, qc2_entry_host(e))) -
                g->start;
    if (use == QC2_USE_OWN) {
        p->host = host;
        return g->data_file ? QCHAIN_OK : qc2_overlap_check(w, host, p->length, 0, err);
    }
    p->unit = round_down(p->offset, unit_bits);
    p->unit_length = round_up(p->offset + p->length, unit_bits) - p->unit;
    if (use == QC2_USE_FRESH) {
        widen_fresh(g, s, p);
        return QCHAIN_OK;
    }
    p->priv[HOST] = host - (p->offset - p->unit);
    return g->data_file ? QCHAIN_OK : qc2_overlap_check(w, p->priv[HOST], p->unit_length, 0, err);
}

int qc2_place(struct qc_image *img, uint64_t offset, uint64_t length, struct qc_place *out, qchain_error *err)
{
    struct qc2_writer *w = qc2_of(img)->writer;
    struct qc2_spot s;
    struct qc2_l2 g;
    int rc;

    if (atomic_load_explicit(&w->stopped, memory_order_relaxed))
        return qc2_writer_ready(w, err);
    pthread_mutex_lock(&w->lock);
    rc = qc2_spot_find(w, offset, &s, err);
    if (rc == 0) {
        qc2_spot_geometry(w, offset, qc_min64(length, s.end - offset), &g);
        rc = place_in(w, &g, &s, out, err);
        qc2_spot_leave(w, &s);
    }
    rc = stop_if_corrupt(w, rc, err);
    pthread_mutex_unlock(&w->lock);
    return rc;
}

/* Clusters for a fresh stretch; as many as there are side by side. */
static int alloc_fresh(struct qc2_writer *w, struct qc_place *p, qchain_error *err)
{
    unsigned cluster_bits = w->q->header.cluster_bits;
    uint64_t start = round_down(p->unit, cluster_bits);
    uint64_t n = (round_up(p->unit + p->unit_length, cluster_bits) - start) >> cluster_bits;
    uint64_t host, end;
    int rc = qc2_alloc(w, n, &host, &p->zeroed, err);

    while ((rc == QCHAIN_E_NOSPACE || rc == QCHAIN_E_LIMIT) && n > 1) {
        n /= 2;
        rc = qc2_alloc(w, n, &host, &p->zeroed, err);
    }
    if (rc < 0)
        return rc;
    end = start + (n << cluster_bits);
    p->unit_length = qc_min64(p->unit + p->unit_length, end) - p->unit;
    p->length = qc_min64(p->offset + p->length, end) - p->offset;
    p->priv[HOST] = host + (p->unit - start);
    return QCHAIN_OK;
}

int qc2_place_alloc(struct qc_image *img, struct qc_place *p, qchain_error *err)
{
    struct qc2_image *q = qc2_of(img);
    struct qc2_writer *w = q->writer;
    int rc = qc2_writer_ready(w, err);

    if (rc < 0)
        return rc;
    p->zeroed = false;
    if (img->wants_data_file) {
        p->priv[HOST] = p->unit;
    } else if (p->priv[USE] == QC2_USE_FRESH) {
        pthread_mutex_lock(&w->lock);
        rc = alloc_fresh(w, p, err);
        pthread_mutex_unlock(&w->lock);
        if (rc < 0)
            return rc;
    }
    p->unit_host = p->priv[HOST];
    p->host = p->unit_host + (p->offset - p->unit);
    return QCHAIN_OK;
}

static void enter(struct qc2_writer *w, const struct qc2_l2 *g, struct qc2_spot *s, const struct qc_place *p)
{
    unsigned unit_bits = qc2_unit_bits(g);
    uint64_t cluster = UINT64_C(1) << g->cluster_bits;
    uint64_t host = round_down(p->unit_host, g->cluster_bits);
    uint64_t end = p->unit + p->unit_length, at = p->unit;
    struct qc2_gone gone = {0, 0};

    for (size_t i = 0; at < end; i++) {
        uint64_t base = s->guest + i * cluster, to = qc_min64(end, base + cluster);
        struct qc2_entry e = qc2_entry_get(g, s->raw, i);

        qc2_entry_put(g, s->raw, i,
                      qc2_entry_written(g, e, host + i * cluster, (unsigned)((at - base) >> unit_bits),
                                        (unsigned)((to - base) >> unit_bits)));
        if (p->priv[USE] == QC2_USE_FRESH)
            qc2_gone_add(w, g, &gone, e);
        at = to;
    }
    qc2_slice_dirty(w, s->slice, QC2_MAP);
    qc2_gone_end(w, &gone);
}

static void give_back(struct qc2_writer *w, const struct qc_place *p)
{
    if (p->priv[USE] == QC2_USE_FRESH && !w->q->base.wants_data_file)
        qc2_refcount_add(w, p->unit_host, p->unit_length, -1, NULL);
}

int qc2_place_finish(struct qc_image *img, struct qc_place *p, qchain_error *err)
{
    struct qc2_writer *w = qc2_of(img)->writer;
    struct qc2_spot s;
    struct qc2_l2 g;
    int rc = qc2_writer_ready(w, err);

    if (rc == 0 && !img->wants_data_file)
        rc = qc2_reach(w, p->unit_host, p->unit_length, err);
    pthread_mutex_lock(&w->lock);
    if (rc == 0)
        rc = stop_if_corrupt(w, qc2_spot_make(w, p->unit, &s, err), err);
    if (rc == 0) {
        qc2_spot_geometry(w, p->unit, p->unit_length, &g);
        enter(w, &g, &s, p);
        qc2_spot_leave(w, &s);
    } else {
        give_back(w, p);
    }
    pthread_mutex_unlock(&w->lock);
    return rc;
}

void qc2_place_abort(struct qc_image *img, struct qc_place *p)
{
    struct qc2_writer *w = qc2_of(img)->writer;

    pthread_mutex_lock(&w->lock);
    give_back(w, p);
    pthread_mutex_unlock(&w->lock);
}
