/* SPDX-License-Identifier: MIT */
/*
 * Pieces of tables in memory. Each is on one list: of the clean ones, the least recently used first, or of the
 * dirty ones of a stage. Dirty ones never leave memory, nor do those that are pinned; a flush pins what it
 * writes.
 *
 * A table that nothing on the medium refers to yet ("new") is in the map of fresh clusters. All of it that is
 * not in memory is zeros, and need not be read.
 */
#include <string.h>

#include "qcow2/writer_int.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"

static struct qc2_slice **bucket_of(const struct qc2_writer *w, uint64_t host)
{
    uint64_t hash = host / w->slice_bytes * UINT64_C(0x9e3779b97f4a7c15) >> 32;

    return &w->meta->bucket[hash & (w->meta->n_buckets - 1)];
}

static struct qc2_slice *lookup(const struct qc2_writer *w, uint64_t host)
{
    struct qc2_slice *s = *bucket_of(w, host);

    while (s && s->host != host)
        s = s->next;
    return s;
}

static uint64_t cluster_of(const struct qc2_writer *w, uint64_t host)
{
    return host >> w->q->header.cluster_bits;
}

/* ------------------------------------------------------------------- lists --- */

static struct qc2_slices *list_of(struct qc2_writer *w, const struct qc2_slice *s)
{
    return s->dirty ? &w->meta->dirty[s->stage] : &w->meta->clean;
}

static void list_add(struct qc2_slices *l, struct qc2_slice *s)
{
    s->older = l->newest;
    s->newer = NULL;
    if (l->newest)
        l->newest->newer = s;
    else
        l->oldest = s;
    l->newest = s;
}

static void list_remove(struct qc2_slices *l, struct qc2_slice *s)
{
    if (s->older)
        s->older->newer = s->newer;
    else
        l->oldest = s->newer;
    if (s->newer)
        s->newer->older = s->older;
    else
        l->newest = s->older;
}

static void set_dirty(struct qc2_writer *w, struct qc2_slice *s, bool dirty, enum qc2_stage stage)
{
    struct qc2_meta *m = w->meta;

    list_remove(list_of(w, s), s);
    if (s->dirty) {
        m->n_dirty[s->stage]--;
        atomic_fetch_sub(&m->dirty_bytes, w->slice_bytes);
    }
    s->dirty = dirty;
    s->stage = stage;
    if (dirty) {
        m->n_dirty[stage]++;
        atomic_fetch_add(&m->dirty_bytes, w->slice_bytes);
    }
    list_add(list_of(w, s), s);
}

/* ---------------------------------------------------------- in and out --- */

static void slice_free(struct qc2_slice *s)
{
    if (s)
        qc_free(s->data);
    qc_free(s);
}

static void unhash(struct qc2_writer *w, struct qc2_slice *s)
{
    struct qc2_slice **p = bucket_of(w, s->host);

    while (*p != s)
        p = &(*p)->next;
    *p = s->next;
}

/* Take the least recently used one that nobody needs out of the cache; or NULL. */
static struct qc2_slice *evict(struct qc2_writer *w)
{
    struct qc2_slices *l = &w->meta->clean;
    struct qc2_slice *s = l->oldest;

    for (size_t i = 0; i < w->meta->n && s && s->pins > 0; i++) {
        list_remove(l, s);
        list_add(l, s);
        s = l->oldest;
    }
    if (!s || s->pins > 0)
        return NULL;
    list_remove(l, s);
    unhash(w, s);
    w->meta->n--;
    return s;
}

static struct qc2_slice *slice_new(struct qc2_writer *w)
{
    struct qc2_slice *s = w->meta->n >= w->meta->max ? evict(w) : NULL;

    if (s)
        return s;
    s = qc_calloc(1, sizeof(*s));
    if (s)
        s->data = qc_aligned(w->slice_bytes, w->slice_bytes);
    if (s && s->data)
        return s;
    slice_free(s);
    return evict(w);
}

static int slice_fill(struct qc2_writer *w, struct qc2_slice *s, qchain_error *err)
{
    if (qc2_cmap_get(&w->meta->fresh, cluster_of(w, s->host)) != 0) {
        memset(s->data, 0, w->slice_bytes);
        return QCHAIN_OK;
    }
    return qc_store_read(w->store, s->data, w->slice_bytes, s->host, QC_READ_META, err);
}

int qc2_slice_get(struct qc2_writer *w, uint64_t host, struct qc2_slice **out, qchain_error *err)
{
    struct qc2_slice *s, **bucket;
    int rc;

    host = qc_align_down(host, w->slice_bytes);
    s = lookup(w, host);
    if (s) {
        list_remove(list_of(w, s), s);
        list_add(list_of(w, s), s);
        s->pins++;
        *out = s;
        return QCHAIN_OK;
    }
    s = slice_new(w);
    if (!s)
        return qc_fail_nomem(err);
    *s = (struct qc2_slice){.host = host, .data = s->data, .pins = 1};
    rc = slice_fill(w, s, err);
    if (rc < 0) {
        slice_free(s);
        return rc;
    }
    bucket = bucket_of(w, host);
    s->next = *bucket;
    *bucket = s;
    list_add(&w->meta->clean, s);
    w->meta->n++;
    *out = s;
    return QCHAIN_OK;
}

void qc2_slice_put(struct qc2_writer *w, struct qc2_slice *s)
{
    (void)w;
    if (s && --s->pins == 0 && s->dropped)
        slice_free(s);
}

static enum qc2_stage stage_of(const struct qc2_writer *w, const struct qc2_slice *s)
{
    if (s->home != QC2_MAP || qc2_breaks(8))
        return s->home;
    return qc2_cmap_get(&w->meta->fresh, cluster_of(w, s->host)) & QC2_FRESH_NEW ? QC2_COUNTS : QC2_MAP;
}

void qc2_slice_dirty(struct qc2_writer *w, struct qc2_slice *s, enum qc2_stage stage)
{
    if (s->dropped)
        return;
    s->home = stage;
    stage = stage_of(w, s);
    if (!s->dirty || s->stage != stage)
        set_dirty(w, s, true, stage);
}

void qc2_slice_clean(struct qc2_writer *w, struct qc2_slice *s)
{
    set_dirty(w, s, false, s->stage);
}

uint64_t qc2_meta_dirty_bytes(const struct qc2_writer *w)
{
    return atomic_load(&w->meta->dirty_bytes);
}

/* ---------------------------------------------------------- new tables --- */

static void drop_slice(struct qc2_writer *w, struct qc2_slice *s)
{
    if (s->dirty)
        qc2_slice_clean(w, s);
    list_remove(&w->meta->clean, s);
    unhash(w, s);
    w->meta->n--;
    s->dropped = true;
    if (s->pins == 0)
        slice_free(s);
}

static void forget(struct qc2_writer *w, uint64_t host, uint64_t length)
{
    for (uint64_t at = host; at < host + length; at += w->slice_bytes) {
        struct qc2_slice *s = lookup(w, at);

        if (s)
            drop_slice(w, s);
    }
    for (uint64_t at = host; at < host + length; at += w->q->base.cluster_size)
        qc2_cmap_remove(&w->meta->fresh, cluster_of(w, at), ~0u);
}

void qc2_meta_forget(struct qc2_writer *w)
{
    for (size_t i = 0; i < w->meta->n_buckets; i++)
        while (w->meta->bucket[i])
            drop_slice(w, w->meta->bucket[i]);
}

bool qc2_table_in_memory(const struct qc2_writer *w, uint64_t host)
{
    bool any = qc2_cmap_get(&w->meta->fresh, cluster_of(w, host)) != 0;

    for (uint64_t at = host; !any && at < host + w->q->base.cluster_size; at += w->slice_bytes)
        any = lookup(w, at) != NULL;
    return any;
}

void qc2_table_drop(struct qc2_writer *w, uint64_t host, uint64_t length)
{
    /* What a flush is writing there must not come after what is written there next. */
    qc2_flush_wait(w);
    forget(w, host, length);
}

int qc2_table_new(struct qc2_writer *w, uint64_t host, uint64_t length, bool zeroed, qchain_error *err)
{
    uint32_t bits = QC2_FRESH_NEW | (zeroed ? QC2_FRESH_EOF : 0u);
    int rc = QCHAIN_OK;

    length = qc_align_up(length, w->q->base.cluster_size);
    forget(w, host, length);
    for (uint64_t at = host; rc == 0 && at < host + length; at += w->q->base.cluster_size)
        if (qc2_cmap_add(&w->meta->fresh, cluster_of(w, at), bits) < 0)
            rc = qc_fail_nomem(err);
    if (rc == 0 && !zeroed && !qc2_breaks(8))
        rc = qc_store_zero(w->store, length, host, false, err);
    if (rc < 0)
        forget(w, host, length);
    return rc;
}

uint64_t qc2_fresh_end(const struct qc2_writer *w)
{
    const struct qc2_cmap *m = &w->meta->fresh;
    uint64_t last = 0;

    for (size_t i = 0; i < m->cap; i++)
        if (m->e[i].bits & QC2_FRESH_EOF)
            last = qc_max64(last, m->e[i].cluster + 1);
    return last << w->q->header.cluster_bits;
}

void qc2_fresh_take(struct qc2_writer *w)
{
    struct qc2_cmap *m = &w->meta->fresh;

    for (size_t i = 0; i < m->cap; i++)
        if (m->e[i].bits & QC2_FRESH_NEW)
            m->e[i].bits ^= QC2_FRESH_NEW | QC2_FRESH_TAKEN;
}

/* Their stage follows from whether their table is new. */
static void restage(struct qc2_writer *w, enum qc2_stage stage)
{
    struct qc2_slice *s = w->meta->dirty[stage].oldest, *next;

    for (; s; s = next) {
        next = s->newer;
        if (stage_of(w, s) != stage)
            set_dirty(w, s, true, stage_of(w, s));
    }
}

void qc2_fresh_settle(struct qc2_writer *w, bool referred)
{
    struct qc2_cmap *m = &w->meta->fresh;

    for (size_t i = 0; i < m->cap; i++)
        if (m->e[i].bits & QC2_FRESH_TAKEN) {
            if (referred)
                m->e[i].bits = 0;
            else
                m->e[i].bits ^= QC2_FRESH_NEW | QC2_FRESH_TAKEN;
        }
    if (referred)
        qc2_cmap_tidy(m);
    restage(w, QC2_COUNTS);
    restage(w, QC2_MAP);
}

/* ------------------------------------------------------------------ life --- */

int qc2_meta_create(struct qc2_writer *w, uint64_t cache_bytes, qchain_error *err)
{
    struct qc2_meta *m = qc_calloc(1, sizeof(*m));

    if (!m)
        return qc_fail_nomem(err);
    w->meta = m;
    m->max = (size_t)qc_max64(cache_bytes / w->slice_bytes, 16);
    for (m->n_buckets = 16; m->n_buckets < m->max && m->n_buckets < 1u << 20;)
        m->n_buckets *= 2;
    m->bucket = qc_calloc(m->n_buckets, sizeof(struct qc2_slice *));
    return m->bucket ? QCHAIN_OK : qc_fail_nomem(err);
}

void qc2_meta_destroy(struct qc2_writer *w)
{
    struct qc2_meta *m = w->meta;

    if (!m)
        return;
    for (size_t i = 0; m->bucket && i < m->n_buckets; i++)
        for (struct qc2_slice *s = m->bucket[i], *next; s; s = next) {
            next = s->next;
            slice_free(s);
        }
    qc_free(m->bucket);
    qc2_cmap_finish(&m->fresh);
    qc_free(m);
    w->meta = NULL;
}
