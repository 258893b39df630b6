/* SPDX-License-Identifier: MIT */
/*
 * Internal snapshots: taken, gone back to, removed. Nobody else is inside the image. The order:
 *
 *   create  counts of all that the disk has +1, COPIED cleared, the copy of the L1 table, the new snapshot table |
 *           the header | the old snapshot table is freed
 *   apply   counts of all that the snapshot has +1, a new L1 table | the header: table and size by one write |
 *           counts of all that the disk had -1; but for L2 tables that are both's, whose counts stay
 *   delete  the new snapshot table | the header | counts of all that the snapshot had -1 | COPIED set where
 *           something is the disk's alone again
 *
 * A bar is an fsync. Between them more may be counted than there is, so what is cut short leaves leaks; and COPIED
 * says of clusters that they are counted once when they are counted twice, or the other way round. This cannot be
 * changed at one stroke, so the image is marked dirty meanwhile: who opens it for writing after a crash counts
 * anew. Version 2 has no such mark; there a check is needed after a crash within one of these, as it always was.
 */
#include <inttypes.h>
#include <pthread.h>
#include <string.h>

#include "qcow2/l2.h"
#include "qcow2/snapshot_store.h"
#include "qcow2/snapshot_tree.h"
#include "qcow2/writer_int.h"
#include "qcow2/zero_write.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"

static uint64_t table_bytes(const struct qc2_writer *w, uint32_t n)
{
    return qc_align_up(UINT64_C(8) * n, w->q->base.cluster_size);
}

/* A place for an L1 table of n > 0 entries, with these written there. */
static int write_l1(struct qc2_writer *w, const uint64_t *l1, uint32_t n, enum qc2_region what,
                    uint64_t *host, qchain_error *err)
{
    uint64_t bytes = table_bytes(w, n);
    bool zeroed;
    int rc = qc2_alloc(w, bytes >> w->q->header.cluster_bits, host, &zeroed, err);

    if (rc < 0)
        return rc;
    rc = qc2_region_add(w, *host, bytes, what, err);
    if (rc == 0)
        rc = qc2_table_write(w, *host, l1, n, QC2_COPIED, bytes, err);
    if (rc < 0) {
        qc2_region_remove(w, *host, bytes, what);
        qc2_refcount_add(w, *host, bytes, -1, NULL);
    }
    return rc;
}

static void drop_l1(struct qc2_writer *w, uint64_t host, uint32_t n, enum qc2_region what)
{
    if (n == 0)
        return;
    qc2_region_remove(w, host, UINT64_C(8) * n, what);
    qc2_free_later(w, host, UINT64_C(8) * n);
}

/* Flush twice: what is freed by the first is given back by then, and the second writes that. */
static int settle(struct qc2_writer *w, qchain_error *err)
{
    int rc = qc2_flush(w, err);

    return rc < 0 ? rc : qc2_flush(w, err);
}

/* From now on, or no longer, counts and COPIED may contradict each other. */
static int mark_dirty(struct qc2_writer *w, bool dirty, qchain_error *err)
{
    struct qc2_header *h = &w->q->header;
    int rc;

    if (h->version < 3)
        return QCHAIN_OK;
    h->incompatible &= ~(uint64_t)QC2_INCOMPAT_DIRTY;
    h->incompatible |= dirty ? QC2_INCOMPAT_DIRTY : 0;
    rc = qc2_header_store(w, err);
    if (rc < 0) /* nothing has begun; or all is done, and whoever writes the header next says so */
        h->incompatible &= ~(uint64_t)QC2_INCOMPAT_DIRTY;
    return rc;
}

/* What all three begin with: the lock, held on success. */
static int begin(struct qc2_writer *w, struct qc2_snapshots *t, qchain_error *err)
{
    int rc = qc2_writer_ready(w, err);

    *t = (struct qc2_snapshots){0};
    if (rc < 0)
        return rc;
    if (w->q->base.wants_data_file)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED, "no internal snapshots with an external data file");
    rc = qc2_flush(w, err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&w->lock);
    rc = qc2_flush_locked(w, err);
    if (rc == 0)
        rc = qc2_snapshots_load(w, t, err);
    if (rc == 0)
        rc = mark_dirty(w, true, err);
    if (rc < 0)
        pthread_mutex_unlock(&w->lock);
    return rc;
}

static int end(struct qc2_writer *w, struct qc2_snapshots *t, int rc, qchain_error *err)
{
    int ret;

    if (rc == QCHAIN_E_CORRUPT)
        rc = qc2_writer_damaged(w, err);
    pthread_mutex_unlock(&w->lock);
    qc2_tell(w);
    qc2_snapshots_finish(t);
    if (atomic_load(&w->stopped))
        return rc;
    /* A failure has taken back what it had done, so that all is right again then, too. */
    ret = settle(w, rc < 0 ? NULL : err);
    if (ret == 0) {
        pthread_mutex_lock(&w->lock);
        ret = mark_dirty(w, false, rc < 0 ? NULL : err);
        pthread_mutex_unlock(&w->lock);
    }
    return rc < 0 ? rc : ret;
}

/* ---- create ---- */

/* The disk's own L1 table: none of its tables is its alone. */
static int share_active(struct qc2_writer *w, qchain_error *err)
{
    int rc = QCHAIN_OK;

    for (uint32_t i = 0; i < w->l1_size && rc == 0; i++)
        if (w->l1[i] & QC2_COPIED)
            rc = qc2_l1_set(w, i, w->l1[i] & ~QC2_COPIED, err);
    return rc;
}

/* All is counted: the copy of the L1 table and the new snapshot table, and the header. */
static int enter(struct qc2_writer *w, struct qc2_snapshots *t, const struct qc_snapshot_new *s,
                 qchain_error *err)
{
    static const uint64_t none;
    uint32_t n = w->l1_size > 0 ? w->l1_size : 1;
    uint64_t l1, table;
    int rc = write_l1(w, w->l1_size > 0 ? w->l1 : &none, n, QC2_REGION_SNAPSHOT_L1, &l1, err);

    if (rc < 0)
        return rc;
    rc = qc2_snapshots_add(t, s, l1, n, w->q->base.virtual_size, err);
    if (rc == 0)
        rc = qc2_snapshots_write(w, t, &table, err);
    if (rc == 0) {
        rc = share_active(w, err);
        if (rc == 0)
            rc = qc2_flush_locked(w, err);
        if (rc == 0)
            return qc2_snapshots_switch(w, t, table, err);
        qc2_snapshots_unwrite(w, t, table);
    }
    drop_l1(w, l1, n, QC2_REGION_SNAPSHOT_L1);
    return rc;
}

/* Nothing came of it: all that is the disk's is its alone, and some is marked as not. */
static void take_back(struct qc2_writer *w, const struct qc2_tree *active, bool counted)
{
    if (atomic_load(&w->stopped))
        return;
    if ((counted && qc2_tree_drop(w, active, NULL) < 0) || qc2_flush_locked(w, NULL) < 0 ||
        qc2_tree_regain(w, active, NULL) < 0)
        atomic_store(&w->stopped, true);
}

static int create(struct qc2_writer *w, struct qc2_snapshots *t, const struct qc_snapshot_new *s,
                  qchain_error *err)
{
    struct qc2_tree active = {w->l1, w->l1_size};
    bool counted;
    int rc;

    if (t->n >= QC2_MAX_SNAPSHOTS)
        return qc_fail(err, QCHAIN_E_LIMIT, "the image has %" PRIu32 " snapshots: no more are possible", t->n);
    if (w->q->header.refcount_order == 0)
        return qc_fail(err, QCHAIN_E_LIMIT, "refcounts of 1 bit: no cluster can belong to a snapshot, too");
    rc = qc2_tree_join(w, &active, err);
    counted = rc == 0;
    if (rc == 0)
        rc = enter(w, t, s, err);
    if (rc < 0)
        take_back(w, &active, counted);
    return rc;
}

int qc2_snapshot_create(struct qc_image *img, const struct qc_snapshot_new *s, qchain_error *err)
{
    struct qc2_writer *w = qc2_of(img)->writer;
    struct qc2_snapshots t;
    uint64_t base;
    int rc = begin(w, &t, err);

    if (rc < 0) {
        qc2_snapshots_finish(&t);
        return rc;
    }
    rc = create(w, &t, s, err);
    rc = end(w, &t, rc, err);
    /* The VM state is the snapshot's alone from now on. */
    if (rc == 0 && s->vm_state_size > 0) {
        rc = qc2_vmstate_base(img, &base, err);
        if (rc == 0)
            rc = qc2_drop(w, base, base + qc_align_up(s->vm_state_size, img->cluster_size), err);
        if (rc == 0)
            rc = settle(w, err);
    }
    return rc;
}

/* ---- the other two ---- */

/* The snapshot's L1 table, as numbers, at least `room` entries long. */
static int load_l1(struct qc2_writer *w, const struct qc2_snapshot *s, uint32_t room, uint64_t **out,
                   qchain_error *err)
{
    struct qc2_limits lim = {qc_store_size(w->store), false};
    int rc = qc2_l1_check(&w->q->header, s->l1_size, s->l1_offset, 0, &lim, "snapshot", err);
    uint64_t *l1;

    if (rc < 0)
        return rc;
    l1 = qc_calloc((room > s->l1_size ? room : s->l1_size) + 1, sizeof(*l1));
    if (!l1)
        return qc_fail_nomem(err);
    if (s->l1_size > 0)
        rc = qc_store_read(w->store, l1, UINT64_C(8) * s->l1_size, s->l1_offset, QC_READ_META, err);
    for (uint32_t i = 0; i < s->l1_size && rc == 0; i++)
        l1[i] = __builtin_bswap64(l1[i]) & QC2_OFFSET_MASK;
    if (rc < 0)
        qc_free(l1);
    else
        *out = l1;
    return rc;
}

/* ---- apply ---- */

/* The tables that the active L1 table refers to are known as such, or no longer. */
static int note_tables(struct qc2_writer *w, const uint64_t *l1, uint32_t n, bool add, qchain_error *err)
{
    uint64_t cluster = w->q->base.cluster_size;
    int rc = QCHAIN_OK;

    for (uint32_t i = 0; i < n && rc == 0; i++) {
        uint64_t table = l1[i] & QC2_OFFSET_MASK;

        if (table == 0)
            continue;
        if (add)
            rc = qc2_region_add(w, table, cluster, QC2_REGION_L2, err);
        else
            qc2_region_remove(w, table, cluster, QC2_REGION_L2);
    }
    return rc;
}

/* What going back changes: entries are the numbers of L2 tables, or 0 where both have the same. */
struct change {
    uint64_t *l1;     /* the disk's new table, and which sectors of it are to be written: none */
    uint64_t *dirty;
    uint64_t *fresh;  /* tables that only the snapshot has, */
    uint64_t *gone;   /* and those that only the disk has */
    uint32_t  n, n_gone;
};

static void change_finish(struct change *c)
{
    qc_free(c->l1);
    qc_free(c->dirty);
    qc_free(c->fresh);
    qc_free(c->gone);
}

static int change_init(struct change *c, const struct qc2_writer *w, qchain_error *err)
{
    c->dirty = qc2_dirty_create(c->n);
    c->fresh = qc_calloc(c->n, sizeof(*c->fresh));
    c->n_gone = w->l1_size;
    c->gone = qc_calloc(c->n_gone + 1, sizeof(*c->gone));
    if (!c->dirty || !c->fresh || !c->gone)
        return qc_fail_nomem(err);
    for (uint32_t i = 0; i < c->n; i++)
        if (i >= w->l1_size || c->l1[i] != (w->l1[i] & QC2_OFFSET_MASK))
            c->fresh[i] = c->l1[i];
    for (uint32_t i = 0; i < c->n_gone; i++)
        if (i >= c->n || c->l1[i] != (w->l1[i] & QC2_OFFSET_MASK))
            c->gone[i] = w->l1[i] & QC2_OFFSET_MASK;
    return QCHAIN_OK;
}

/* The new L1 table lies at host, and it and what it refers to are durable: it becomes the disk's. */
static int switch_disk(struct qc2_writer *w, struct change *c, uint64_t host, uint64_t disk_size,
                       qchain_error *err)
{
    struct qc2_image *q = w->q;
    uint64_t *old = w->l1, *old_dirty = w->l1_dirty, old_host = w->l1_offset;
    uint32_t old_n = w->l1_size;
    int rc;

    q->header.l1_offset = host;
    q->header.l1_size = c->n;
    q->header.size = disk_size;
    rc = qc2_header_store(w, err);
    if (rc < 0) { /* which of both the disk is, nobody knows */
        atomic_store(&w->stopped, true);
        return rc;
    }
    note_tables(w, old, old_n, false, NULL);
    w->l1 = c->l1;
    w->l1_dirty = c->dirty;
    w->l1_size = q->l1_size = c->n;
    w->l1_offset = q->l1_offset = host;
    q->base.virtual_size = qc_align_down(disk_size, 512);
    c->l1 = old;
    c->dirty = old_dirty;
    drop_l1(w, old_host, old_n, QC2_REGION_L1);
    rc = note_tables(w, w->l1, w->l1_size, true, err);
    return rc == 0 ? qc2_tree_drop(w, &(struct qc2_tree){c->gone, c->n_gone}, err) : rc;
}

/* The snapshot's tables belong to the disk as well, from now on; a copy of its L1 table lies at *host. */
static int take_over(struct qc2_writer *w, const struct change *c, uint64_t *host, qchain_error *err)
{
    struct qc2_tree fresh = {c->fresh, c->n};
    int rc = qc2_tree_join(w, &fresh, err);

    if (rc < 0)
        return rc;
    rc = write_l1(w, c->l1, c->n, QC2_REGION_L1, host, err);
    if (rc < 0) {
        if (!atomic_load(&w->stopped))
            qc2_tree_drop(w, &fresh, NULL);
        return rc;
    }
    rc = qc2_flush_locked(w, err);
    if (rc < 0)
        atomic_store(&w->stopped, true);
    return rc;
}

static int apply(struct qc2_writer *w, const struct qc2_snapshots *table, const char *key, qchain_error *err)
{
    unsigned cover_bits = qc2_l2_cover_bits(&w->q->header);
    struct change c = {.l1 = NULL};
    uint64_t disk_size, need, host;
    struct qc2_snapshot s;
    size_t at;
    int rc = qc2_snapshots_find(w, table, key, &s, &at, err);

    if (rc < 0)
        return rc;
    disk_size = s.has_disk_size ? s.disk_size : w->q->header.size;
    if (disk_size > QC2_MAX_DISK)
        return qc_fail(err, QCHAIN_E_LIMIT, "snapshot disk_size=%" PRIu64 ": at most 2^63 - 512 bytes",
                       disk_size);
    need = qc_max64(s.l1_size, qc_max64(qc_div_up(disk_size, UINT64_C(1) << cover_bits), 1));
    if (need > QC2_MAX_L1_ENTRIES)
        return qc_fail(err, QCHAIN_E_LIMIT, "snapshot disk_size=%" PRIu64 ": its L1 table is too long",
                       disk_size);
    c.n = (uint32_t)need;
    rc = load_l1(w, &s, c.n, &c.l1, err);
    if (rc == 0)
        rc = change_init(&c, w, err);
    if (rc == 0)
        rc = take_over(w, &c, &host, err);
    if (rc == 0)
        rc = switch_disk(w, &c, host, disk_size, err);
    change_finish(&c);
    return rc;
}

int qc2_snapshot_apply(struct qc_image *img, const char *key, qchain_error *err)
{
    struct qc2_writer *w = qc2_of(img)->writer;
    struct qc2_snapshots t;
    int rc = begin(w, &t, err);

    if (rc < 0) {
        qc2_snapshots_finish(&t);
        return rc;
    }
    rc = apply(w, &t, key, err);
    return end(w, &t, rc, err);
}

/* ---- delete ---- */

static int switch_without(struct qc2_writer *w, struct qc2_snapshots *t, qchain_error *err)
{
    uint64_t host;
    int rc = qc2_snapshots_write(w, t, &host, err);

    if (rc < 0)
        return rc;
    rc = qc2_flush_locked(w, err);
    if (rc < 0) {
        qc2_snapshots_unwrite(w, t, host);
        return rc;
    }
    return qc2_snapshots_switch(w, t, host, err);
}

/* The snapshot is gone, whether or not all of it can be counted down: what is the disk's alone becomes known. l1, n
 * entries, is changed. */
static int leave(struct qc2_writer *w, uint64_t *l1, uint32_t n, qchain_error *err)
{
    uint64_t *settled = qc_calloc(n + UINT64_C(1), sizeof(*settled));
    struct qc2_tree t = {l1, n};
    int rc = settled ? qc2_tree_leave(w, &t, settled, err) : qc_fail_nomem(err), then = 0;
    qchain_error *later = rc < 0 ? NULL : err;
    bool more = false;

    for (uint32_t i = 0; i < n && settled; i++) {
        l1[i] = settled[i] ? 0 : l1[i];
        more |= l1[i] != 0;
    }
    if (more)
        then = qc2_flush_locked(w, later);
    if (more && then == 0)
        then = qc2_tree_regain(w, &t, later);
    qc_free(settled);
    return rc < 0 ? rc : then;
}

static int delete(struct qc2_writer *w, struct qc2_snapshots *table, const char *key, qchain_error *err)
{
    uint64_t *l1 = NULL, l1_offset;
    uint32_t l1_size;
    struct qc2_snapshot s;
    size_t at;
    int rc = qc2_snapshots_find(w, table, key, &s, &at, err);

    if (rc == 0)
        rc = load_l1(w, &s, 0, &l1, err);
    if (rc < 0)
        return rc;
    l1_offset = s.l1_offset;
    l1_size = s.l1_size;
    qc2_snapshots_remove(table, at, s.bytes);
    rc = switch_without(w, table, err);
    if (rc == 0) {
        drop_l1(w, l1_offset, l1_size, QC2_REGION_SNAPSHOT_L1);
        rc = leave(w, l1, l1_size, err);
    }
    qc_free(l1);
    return rc;
}

int qc2_snapshot_delete(struct qc_image *img, const char *key, qchain_error *err)
{
    struct qc2_writer *w = qc2_of(img)->writer;
    struct qc2_snapshots t;
    int rc = begin(w, &t, err);

    if (rc < 0) {
        qc2_snapshots_finish(&t);
        return rc;
    }
    rc = delete(w, &t, key, err);
    return end(w, &t, rc, err);
}

/* ---- VM state ---- */

int qc2_vmstate_base(struct qc_image *img, uint64_t *offset, qchain_error *err)
{
    unsigned cover_bits = qc2_l2_cover_bits(&qc2_of(img)->header);

    (void)err;
    *offset = qc_div_up(img->virtual_size, UINT64_C(1) << cover_bits) << cover_bits;
    return QCHAIN_OK;
}
