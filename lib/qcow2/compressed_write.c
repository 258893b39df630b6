/* SPDX-License-Identifier: MIT */
/* Storing the stream of a compressed cluster. */
#include <inttypes.h>
#include <pthread.h>

#include "qcow2/l2_spot.h"
#include "util/error.h"

static int take_room(struct qc2_writer *w, uint64_t length, uint64_t *host, qchain_error *err)
{
    int rc = qc2_writer_ready(w, err);

    if (rc < 0)
        return rc;
    pthread_mutex_lock(&w->lock);
    rc = qc2_alloc_bytes(w, length, host, err);
    pthread_mutex_unlock(&w->lock);
    return rc;
}

/* Let the entry of the cluster refer to the stream. */
static int enter(struct qc2_writer *w, uint64_t offset, uint64_t host, uint64_t length, qchain_error *err)
{
    struct qc2_gone gone = {0, 0};
    struct qc2_entry e = {0, 0};
    struct qc2_spot s;
    struct qc2_l2 g;
    int rc;

    qc2_spot_geometry(w, offset, w->q->base.cluster_size, &g);
    e.word = qc2_entry_of_stream(&g, host, length);
    if (e.word == 0)
        return qc_fail(err, QCHAIN_E_LIMIT,
                       "a compressed cluster at %" PRIu64 " in the file: too far for an L2 entry", host);
    rc = qc2_spot_make(w, offset, &s, err);
    if (rc < 0)
        return rc;
    rc = qc2_spot_check(&g, &s, 0, err);
    if (rc == 0) {
        qc2_gone_add(w, &g, &gone, qc2_entry_get(&g, s.raw, 0));
        qc2_entry_put(&g, s.raw, 0, e);
        qc2_slice_dirty(w, s.slice, QC2_MAP);
        qc2_gone_end(w, &gone);
    }
    qc2_spot_leave(w, &s);
    return rc;
}

int qc2_write_compressed(struct qc_image *img, uint64_t offset, const void *stream, size_t length,
                         qchain_error *err)
{
    struct qc2_writer *w = qc2_of(img)->writer;
    uint64_t host;
    int rc;

    if (img->wants_data_file)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED, "no compressed clusters with an external data file");
    rc = take_room(w, length, &host, err);
    if (rc < 0)
        return rc;
    rc = qc_store_write(w->store, stream, length, host, err);
    pthread_mutex_lock(&w->lock);
    if (rc == 0) {
        rc = enter(w, offset, host, length, err);
        if (rc == QCHAIN_E_CORRUPT)
            rc = qc2_writer_damaged(w, err);
    }
    if (rc < 0)
        qc2_refcount_add(w, host, length, -1, NULL);
    pthread_mutex_unlock(&w->lock);
    return rc;
}
