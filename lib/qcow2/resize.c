/* SPDX-License-Identifier: MIT */
/* The disk's size. */
#include <inttypes.h>
#include <pthread.h>

#include "qcow2/l2.h"
#include "qcow2/writer.h"
#include "qcow2/zero_write.h"
#include "util/bytes.h"
#include "util/error.h"

/* L1 entries that a disk of size bytes needs. */
static uint64_t slots_of(const struct qc2_image *q, uint64_t size)
{
    return qc_div_up(size, UINT64_C(1) << qc2_l2_cover_bits(&q->header));
}

/* The header says so, durably; with it the external file, if there is one. */
static int store_size(struct qc2_writer *w, uint64_t size, qchain_error *err)
{
    struct qc2_image *q = w->q;
    uint64_t old = q->header.size;
    int rc = QCHAIN_OK;

    if (q->base.wants_data_file && size > old)
        rc = qc_store_resize(w->data, size, err);
    if (rc < 0)
        return rc;
    pthread_mutex_lock(&w->lock);
    q->header.size = size;
    rc = qc2_header_store(w, err);
    if (rc == 0)
        q->base.virtual_size = size;
    else
        q->header.size = old;
    pthread_mutex_unlock(&w->lock);
    if (rc == 0 && q->base.wants_data_file && size < old)
        rc = qc_store_resize(w->data, size, err);
    return rc;
}

static int grow(struct qc2_writer *w, uint64_t size, uint64_t hidden, qchain_error *err)
{
    struct qc2_image *q = w->q;
    uint64_t cluster = q->base.cluster_size, slots = slots_of(q, size);
    uint64_t first = qc_align_up(qc_max64(q->base.virtual_size, hidden), cluster), end = qc_align_up(size, cluster);
    uint64_t reach = (uint64_t)w->l1_size << qc2_l2_cover_bits(&q->header);
    int rc = QCHAIN_OK;

    if (slots > QC2_MAX_L1_ENTRIES)
        return qc_fail(err, QCHAIN_E_LIMIT,
                       "a disk of %" PRIu64 " bytes: with clusters of %" PRIu64 " its L1 table is too long", size,
                       cluster);
    /* What a snapshot's VM state, or a longer disk, has left there. */
    if (first < end)
        rc = qc2_drop(w, first, qc_min64(end, reach), err);
    if (rc == 0 && slots > w->l1_size) {
        pthread_mutex_lock(&w->lock);
        rc = qc2_l1_grow(w, (uint32_t)slots, err);
        pthread_mutex_unlock(&w->lock);
    }
    if (rc == 0)
        rc = qc2_flush(w, err);
    return rc < 0 ? rc : store_size(w, size, err);
}

/* Tables of what lies wholly beyond the disk. */
static int drop_tables(struct qc2_writer *w, uint64_t size, qchain_error *err)
{
    int rc = QCHAIN_OK;

    pthread_mutex_lock(&w->lock);
    for (uint64_t i = slots_of(w->q, size); i < w->l1_size && rc == 0; i++) {
        uint64_t table = w->l1[i] & QC2_OFFSET_MASK;

        if (table == 0)
            continue;
        rc = qc2_l1_set(w, (uint32_t)i, 0, err);
        if (rc == 0) {
            qc2_table_drop(w, table, w->q->base.cluster_size);
            qc2_free_later(w, table, w->q->base.cluster_size);
        }
    }
    pthread_mutex_unlock(&w->lock);
    return rc;
}

static int shrink(struct qc2_writer *w, uint64_t size, qchain_error *err)
{
    struct qc2_image *q = w->q;
    uint64_t cluster = q->base.cluster_size;
    int rc = qc2_drop(w, qc_align_up(size, cluster),
                      (uint64_t)w->l1_size << qc2_l2_cover_bits(&q->header), err);

    if (rc == 0)
        rc = qc2_flush(w, err);
    if (rc == 0)
        rc = store_size(w, size, err);
    if (rc == 0)
        rc = drop_tables(w, size, err);
    return rc < 0 ? rc : qc2_flush(w, err);
}

int qc2_resize(struct qc_image *img, uint64_t size, uint64_t hidden, qchain_error *err)
{
    struct qc2_image *q = qc2_of(img);
    struct qc2_writer *w = q->writer;
    int rc;

    if (size > QC2_MAX_DISK || size % 512 != 0)
        return qc_fail(err, QCHAIN_E_LIMIT, "a disk of %" PRIu64 " bytes: a multiple of 512, at most 2^63 - 512",
                       size);
    if (q->header.n_snapshots > 0 && q->header.version < 3)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED,
                       "a version 2 image with snapshots cannot be resized: they do not note their size");
    rc = qc2_writer_ready(w, err);
    if (rc < 0 || size == q->header.size)
        return rc;
    return size > img->virtual_size ? grow(w, size, hidden, err) : shrink(w, size, err);
}
