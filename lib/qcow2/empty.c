/* SPDX-License-Identifier: MIT */
/*
 * Emptying an image: what lies below shows again, and has the same bytes, so each entry may go by itself at any time.
 * Where nothing but the disk is in the file, all of it is given up at once, and what remains is as small as a new
 * image. The order, a bar being an fsync:
 *
 *   the L1 table, zeros | a refcount table with one block | that block: it counts the header, itself, both tables |
 *   the file is cut off behind them
 *
 * If they lie further behind they are written to a new place, which is free by then or the disk's, all three at
 * once, and the header is switched to them before the file is cut off. Where they belong, right behind the header, may
 * be some of the old ones: then they are moved twice. A crash leaves clusters counted that nobody uses, at worst.
 *
 * With internal snapshots or bitmaps, L2 tables are given up one by one.
 */
#include <inttypes.h>
#include <pthread.h>
#include <string.h>

#include "io/file.h"
#include "qcow2/check_int.h"
#include "qcow2/l2_spot.h"
#include "qcow2/writer_int.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"

#define FLUSH_TABLES 256u /* given up before a flush: what was freed is in memory until then */

/* Where the tables of the empty image lie. */
struct plan {
    uint64_t reftable, block, l1;
    uint64_t reftable_clusters, l1_clusters;
    uint64_t end; /* of the file */
    bool     moved;
};

/* -------------------------------------------------------------- all at once --- */

static bool is_metadata(const struct qc2_writer *w, uint64_t cluster)
{
    return qc2_region_find(w, cluster << w->q->header.cluster_bits, 1, QC2_REGION_ALL & ~QC2_REGION_L2) != 0;
}

/* The first n clusters from `from` on, within what one block counts, where no table lies; 0: there are none. */
static uint64_t find_gap(const struct qc2_writer *w, uint64_t n, uint64_t from)
{
    uint64_t end = UINT64_C(1) << w->counts->block_bits, run = 0;

    for (uint64_t c = from; c < end; c++) {
        run = is_metadata(w, c) ? 0 : run + 1;
        if (run == n)
            return c + 1 - n;
    }
    return 0;
}

/* False if it cannot be done. */
static bool make_plan(const struct qc2_writer *w, struct plan *p)
{
    const struct qc2_counts *c = w->counts;
    unsigned bits = w->q->header.cluster_bits;
    uint64_t first, need;

    *p = (struct plan){.reftable = c->offset, .block = qc2_block_host(c, 0), .l1 = w->l1_offset,
                       .reftable_clusters = c->clusters,
                       .l1_clusters = qc_div_up(UINT64_C(8) * w->l1_size, w->q->base.cluster_size)};
    if (w->l1_size == 0)
        return false;
    p->end = qc_max64(p->block + (UINT64_C(1) << bits),
                      qc_max64(p->reftable + (p->reftable_clusters << bits), p->l1 + (p->l1_clusters << bits)));
    if (p->block && p->end >> bits <= 2 + p->reftable_clusters + p->l1_clusters &&
        p->end >> bits <= UINT64_C(1) << c->block_bits)
        return true;
    need = 2 + p->l1_clusters;
    first = find_gap(w, need, 1);
    if (first > 1) /* so that the next move leads there */
        first = find_gap(w, need, 1 + need) ? find_gap(w, need, 1 + need) : first;
    p->moved = true;
    p->reftable_clusters = 1;
    p->reftable = first << bits;
    p->block = (first + 1) << bits;
    p->l1 = (first + 2) << bits;
    p->end = (first + 2 + p->l1_clusters) << bits;
    return first != 0;
}

static void count_range(const struct qc2_writer *w, uint8_t *raw, uint64_t host, uint64_t clusters)
{
    for (uint64_t i = 0; i < clusters; i++)
        qc2_refcount_encode(raw, (host >> w->q->header.cluster_bits) + i, w->counts->order, 1);
}

static int write_block(struct qc2_writer *w, const struct plan *p, qchain_error *err)
{
    uint8_t *raw = qc_calloc(1, w->q->base.cluster_size);
    int rc = raw ? QCHAIN_OK : qc_fail_nomem(err);

    if (rc == 0) {
        count_range(w, raw, 0, 1);
        count_range(w, raw, p->reftable, p->reftable_clusters);
        count_range(w, raw, p->block, 1);
        count_range(w, raw, p->l1, p->l1_clusters);
        rc = qc_store_write(w->store, raw, w->q->base.cluster_size, p->block, err);
    }
    qc_free(raw);
    return rc;
}

static int write_reftable(struct qc2_writer *w, const struct plan *p, qchain_error *err)
{
    return qc2_table_write(w, p->reftable, &p->block, 1, 0, p->reftable_clusters << w->q->header.cluster_bits, err);
}

static int clear_l1(struct qc2_writer *w, uint64_t host, qchain_error *err)
{
    return qc2_table_write(w, host, w->l1, 0, 0, qc_align_up(UINT64_C(8) * w->l1_size, QC2_PIECE), err);
}

static int switch_header(struct qc2_writer *w, const struct plan *p, qchain_error *err)
{
    struct qc2_header *h = &w->q->header;
    int rc;

    h->l1_offset = p->l1;
    h->reftable_offset = p->reftable;
    h->reftable_clusters = (uint32_t)p->reftable_clusters;
    rc = qc2_header_store(w, err);
    if (rc < 0) /* which of both are the image's, nobody knows */
        atomic_store(&w->stopped, true);
    return rc;
}

/* The file is the empty image, whatever lies behind p->end. */
static int write_plan(struct qc2_writer *w, const struct plan *p, qchain_error *err)
{
    int rc = clear_l1(w, w->l1_offset, err);

    if (rc == 0 && !qc2_breaks(9))
        rc = qc2_sync(w, w->store, err);
    if (rc == 0)
        rc = write_reftable(w, p, err);
    if (rc == 0 && !p->moved && !qc2_breaks(10))
        rc = qc2_sync(w, w->store, err);
    if (rc == 0)
        rc = write_block(w, p, err);
    if (rc == 0 && p->moved)
        rc = clear_l1(w, p->l1, err);
    /* The last table may be short of a cluster, which is none of the file's yet. */
    if (rc == 0)
        rc = qc2_reach_end(w, p->end, err);
    if (rc == 0 && !qc2_breaks(11))
        rc = qc2_sync(w, w->store, err);
    return rc == 0 && p->moved ? switch_header(w, p, err) : rc;
}

/* What is in memory becomes what is in the file. */
static int adopt(struct qc2_writer *w, const struct plan *p, qchain_error *err)
{
    struct qc2_counts *c = w->counts;
    uint64_t cluster = w->q->base.cluster_size, bits = w->q->header.cluster_bits;
    int rc;

    qc2_meta_forget(w);
    for (uint32_t i = 0; i < w->l1_size; i++)
        if (w->l1[i] & QC2_OFFSET_MASK)
            qc2_region_remove(w, w->l1[i] & QC2_OFFSET_MASK, cluster, QC2_REGION_L2);
    for (uint64_t i = 0; i < c->n; i++)
        if (qc2_block_host(c, i))
            qc2_region_remove(w, qc2_block_host(c, i), cluster, QC2_REGION_REFBLOCK);
    qc2_region_remove(w, w->l1_offset, UINT64_C(8) * w->l1_size, QC2_REGION_L1);
    qc2_region_remove(w, c->offset, c->clusters << bits, QC2_REGION_REFTABLE);
    memset(w->l1, 0, UINT64_C(8) * w->l1_size);
    qc2_dirty_clear(w->l1_dirty, w->l1_size);
    w->l1_offset = w->q->l1_offset = p->l1;
    memset(c->table, 0, c->n * sizeof(*c->table));
    memset(c->dirty, 0, sizeof(c->dirty));
    c->table[0] = p->block;
    c->n = p->reftable_clusters << bits >> 3;
    c->offset = p->reftable;
    c->clusters = p->reftable_clusters;
    c->hint = c->hint_long = c->packed = 0;
    rc = qc2_region_add(w, p->l1, UINT64_C(8) * w->l1_size, QC2_REGION_L1, err);
    if (rc == 0)
        rc = qc2_region_add(w, p->reftable, p->reftable_clusters << bits, QC2_REGION_REFTABLE, err);
    if (rc == 0)
        rc = qc2_region_add(w, p->block, cluster, QC2_REGION_REFBLOCK, err);
    return rc;
}

/* Nothing refers to what is behind `end` any more; that it stays there is no failure. */
static void cut_off(struct qc2_writer *w, uint64_t end)
{
    uint64_t size = qc_store_size(w->store);

    if (size <= end)
        return;
    if (qc_file_is_block_device(w->store))
        qc_store_discard(w->store, size - end, end, NULL);
    else if (qc_store_resize(w->store, end, NULL) == 0)
        w->counts->high = end;
}

static int empty_at_once(struct qc2_writer *w, const struct plan *p, qchain_error *err)
{
    int rc = write_plan(w, p, err);

    if (rc == 0)
        rc = adopt(w, p, err);
    if (rc < 0) /* tables in memory are not what is in the file */
        atomic_store(&w->stopped, true);
    else
        cut_off(w, p->end);
    return rc;
}

/* ---------------------------------------------------------- table by table --- */

/* Free what the entries of a table refer to. Lock held. */
static int give_up_entries(struct qc2_writer *w, uint64_t guest, uint64_t end, qchain_error *err)
{
    struct qc2_gone gone = {0};
    struct qc2_spot s;
    struct qc2_l2 g;
    int rc = QCHAIN_OK;

    while (guest < end && rc == 0) {
        rc = qc2_spot_find(w, guest, &s, err);
        if (rc < 0)
            break;
        qc2_spot_geometry(w, guest, s.end - guest, &g);
        for (size_t i = 0; rc == 0 && guest < s.end; i++, guest += UINT64_C(1) << g.cluster_bits) {
            struct qc2_entry e = qc2_entry_get(&g, s.raw, i);

            rc = qc2_spot_check(&g, &s, i, err);
            if (rc == 0)
                qc2_gone_add(w, &g, &gone, e);
        }
        qc2_spot_leave(w, &s);
    }
    qc2_gone_end(w, &gone);
    return rc;
}

/* The table of one slot is no more, nor what it has behind the disk's end: VM state begins with a slot of its own. */
static int give_up_table(struct qc2_writer *w, uint32_t slot, qchain_error *err)
{
    uint64_t cover = UINT64_C(1) << qc2_l2_cover_bits(&w->q->header), start = slot * cover;
    uint64_t table = w->l1[slot] & QC2_OFFSET_MASK, cluster = w->q->base.cluster_size;
    int rc = give_up_entries(w, start, start + cover, err);

    if (rc == 0)
        rc = qc2_l1_set(w, slot, 0, err);
    if (rc < 0)
        return rc;
    qc2_table_drop(w, table, cluster);
    qc2_free_later(w, table, cluster);
    return QCHAIN_OK;
}

static int give_up_slot(struct qc2_writer *w, uint32_t slot, qchain_error *err)
{
    int rc = qc2_writer_ready(w, err);

    if (rc < 0)
        return rc;
    pthread_mutex_lock(&w->lock);
    if (w->l1[slot] & QC2_OFFSET_MASK)
        rc = give_up_table(w, slot, err);
    if (rc == QCHAIN_E_CORRUPT)
        rc = qc2_writer_damaged(w, err);
    pthread_mutex_unlock(&w->lock);
    return rc;
}

static int empty_by_table(struct qc2_writer *w, qchain_error *err)
{
    uint64_t cover = UINT64_C(1) << qc2_l2_cover_bits(&w->q->header);
    uint64_t n = qc_min64(qc_div_up(w->q->base.virtual_size, cover), w->l1_size);
    bool discard = w->discard;
    int rc = QCHAIN_OK;

    w->discard = true; /* the file stays as long as it is, so space is given back */
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        rc = give_up_slot(w, i, err);
        if (rc == 0 && i % FLUSH_TABLES == FLUSH_TABLES - 1)
            rc = qc2_flush(w, err);
    }
    if (rc == 0)
        rc = qc2_flush(w, err);
    if (rc == 0) { /* nobody is inside */
        qc_epoch_drain(w->requests);
        qc2_freed_work(w);
        rc = qc2_flush(w, err);
    }
    w->discard = discard;
    return rc;
}

/* ----------------------------------------------------------------- the slot --- */

int qc2_make_empty(struct qc_image *img, qchain_error *err)
{
    struct qc2_image *q = qc2_of(img);
    struct qc2_writer *w = q->writer;
    bool at_once = q->header.n_snapshots == 0 && !q->header.has_bitmaps && !q->header.has_crypto;
    struct plan p;
    int rc = qc2_writer_ready(w, err);

    if (rc == 0)
        rc = qc2_flush(w, err);
    if (rc < 0)
        return rc;
    qc_epoch_drain(w->requests);
    qc2_freed_work(w);
    pthread_mutex_lock(&w->lock);
    rc = qc2_flush_locked(w, err);
    at_once = rc == 0 && at_once && make_plan(w, &p);
    if (at_once)
        rc = empty_at_once(w, &p, err);
    if (at_once && rc == 0 && p.moved && p.reftable > img->cluster_size && make_plan(w, &p))
        rc = empty_at_once(w, &p, err);
    pthread_mutex_unlock(&w->lock);
    if (rc == 0 && !at_once)
        rc = empty_by_table(w, err);
    qc2_tell(w);
    if (rc == 0 && w->data != w->store)
        rc = qc_store_discard(w->data, qc_store_size(w->data), 0, err);
    return rc;
}
