/* SPDX-License-Identifier: MIT */
#include "qcow2/writer.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "io/file.h"
#include "qcow2/bitmap_store.h"
#include "qcow2/check.h"
#include "qcow2/writer_int.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"

#define CACHE_BYTES (UINT64_C(32) << 20)
/* At most: what a flush may have to write. The L2 tables of a disk of 64 GiB with subclusters are 16 MiB. */
#define DIRTY_BYTES (UINT64_C(24) << 20)
#define SLICE_BYTES 4096u
#define MAX_LINES 16u

atomic_int qc2_test_break;

/* ---------------------------------------------------------------------- log --- */

struct qc2_line {
    struct qc2_line *next;
    int              level;
    char             text[];
};

void qc2_say(struct qc2_writer *w, int level, const char *fmt, ...)
{
    struct qc2_line **end = &w->said, *l;
    char text[QC_ERROR_TEXT];
    unsigned n = 0;
    va_list ap;

    for (; *end; end = &(*end)->next)
        n++;
    if (n == MAX_LINES)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    l = qc_malloc(sizeof(*l) + strlen(text) + 1);
    if (!l)
        return;
    l->next = NULL;
    l->level = level;
    strcpy(l->text, text);
    *end = l;
    atomic_store(&w->has_said, true);
}

void qc2_tell(struct qc2_writer *w)
{
    struct qc2_line *l, *next;

    if (!atomic_load(&w->has_said))
        return;
    pthread_mutex_lock(&w->lock);
    l = w->said;
    w->said = NULL;
    atomic_store(&w->has_said, false);
    pthread_mutex_unlock(&w->lock);
    for (; l; l = next) {
        next = l->next;
        qc_log(w->q->log, l->level, "qcow2", "%s: %s", w->store->name, l->text);
        qc_free(l);
    }
}

/* ------------------------------------------------------------------- create --- */

/* Is this an image that may be written? */
static int check_image(const struct qc2_image *q, qchain_error *err)
{
    const struct qc2_header *h = &q->header;

    if (h->incompatible & QC2_INCOMPAT_CORRUPT)
        return qc_fail(err, QCHAIN_E_CORRUPT,
                       "the image is marked corrupt: repair it before it is written (check -r all)");
    if (h->crypt_method != 0)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED, "the image is encrypted: it cannot be written");
    if (h->size % 512 != 0)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED, "header size=%" PRIu64
                       ": no multiple of 512: the image cannot be written", h->size);
    if (q->salvage || q->l1_offset != h->l1_offset || q->l1_size != h->l1_size)
        return qc_fail(err, QCHAIN_E_READONLY, "the image was opened %s: it cannot be written",
                       q->salvage ? "for salvaging" : "at an internal snapshot");
    if (q->base.wants_data_file && !q->base.data_store)
        return qc_fail(err, QCHAIN_E_INVAL, "the external data file is not open");
    return QCHAIN_OK;
}

static int check_stores(const struct qc2_writer *w, qchain_error *err)
{
    const struct qc_store *s = qc_store_is_writable(w->store) ? w->data : w->store;

    return qc_store_is_writable(s)
               ? QCHAIN_OK
               : qc_fail(err, QCHAIN_E_READONLY, "%s: not open for writing", s->name);
}

/* What somebody who knows no bitmaps has changed is not what they tell of: the spec says so by a bit, without which
 * they are no more than clusters that leaked. */
static void forget_stale_bitmaps(struct qc2_image *q)
{
    struct qc2_header *h = &q->header;

    if (h->has_bitmaps && !(h->autoclear & QC2_AUTOCLEAR_BITMAPS)) {
        qc_log(q->log, QCHAIN_LOG_WARN, "qcow2", "%s: a program without support for bitmaps changed the image: "
               "its bitmaps are lost", q->base.store->name);
        h->has_bitmaps = false;
        h->n_bitmaps = 0;
        h->bitmap_dir_offset = h->bitmap_dir_size = 0;
    }
}

/* Before the first write: features that say of the image what it will not be any more. */
static int clear_features(struct qc2_writer *w, qchain_error *err)
{
    struct qc2_header *h = &w->q->header;
    uint64_t keep = h->autoclear & (QC2_AUTOCLEAR_BITMAPS | QC2_AUTOCLEAR_DATA_FILE_RAW);

    if (!h->has_bitmaps)
        keep &= ~(uint64_t)QC2_AUTOCLEAR_BITMAPS;
    if (keep == h->autoclear)
        return QCHAIN_OK;
    h->autoclear = keep;
    return qc2_header_store(w, err);
}

static int load(struct qc2_writer *w, const struct qc_write_opts *opts, qchain_error *err)
{
    uint64_t cache = opts->cache_bytes ? opts->cache_bytes : CACHE_BYTES;
    int rc = qc2_meta_create(w, cache, err);

    forget_stale_bitmaps(w->q);
    w->dirty_limit = qc_min64(cache / 4 * 3, DIRTY_BYTES);
    if (rc == 0)
        rc = qc2_freed_create(w, err);
    if (rc == 0)
        rc = qc2_l1_load(w, err);
    if (rc == 0)
        rc = qc2_counts_create(w, err);
    if (rc == 0)
        rc = qc2_regions_create(w, err);
    return rc == 0 ? clear_features(w, err) : rc;
}

int qc2_writer_create(struct qc2_writer **out, struct qc2_image *q, const struct qc_write_opts *opts,
                      qchain_error *err)
{
    struct qc2_writer *w;
    int rc = check_image(q, err);

    if (rc < 0)
        return rc;
    w = qc_calloc(1, sizeof(*w));
    if (!w)
        return qc_fail_nomem(err);
    w->q = q;
    w->requests = opts->requests;
    w->store = q->base.store;
    w->data = q->base.data_store ? q->base.data_store : q->base.store;
    w->discard = opts->discard;
    w->unsafe = opts->unsafe;
    w->slice_bytes = (uint32_t)qc_min64(SLICE_BYTES, q->base.cluster_size);
    pthread_mutex_init(&w->lock, NULL);
    pthread_mutex_init(&w->flush_lock, NULL);
    pthread_mutex_init(&w->io_lock, NULL);
    rc = check_stores(w, err);
    if (rc == 0)
        rc = load(w, opts, err);
    if (rc < 0) {
        qc2_writer_destroy(w);
        return rc;
    }
    *out = w;
    return QCHAIN_OK;
}

void qc2_writer_destroy(struct qc2_writer *w)
{
    if (!w)
        return;
    qc2_tell(w);
    qc2_freed_destroy(w);
    qc2_regions_destroy(w);
    qc2_counts_destroy(w);
    qc2_l1_unload(w);
    qc2_meta_destroy(w);
    pthread_mutex_destroy(&w->io_lock);
    pthread_mutex_destroy(&w->flush_lock);
    pthread_mutex_destroy(&w->lock);
    qc_free(w);
}

/* ---------------------------------------------------------------------- use --- */

static int stopped(qchain_error *err)
{
    return qc_fail(err, QCHAIN_E_READONLY, "writing has stopped after an earlier failure");
}

int qc2_writer_ready(struct qc2_writer *w, qchain_error *err)
{
    qc2_freed_work(w);
    qc2_tell(w);
    if (atomic_load(&w->stopped))
        return stopped(err);
    return qc2_meta_dirty_bytes(w) > w->dirty_limit ? qc2_flush(w, err) : QCHAIN_OK;
}

int qc2_writer_damaged(struct qc2_writer *w, qchain_error *err)
{
    struct qc2_header *h = &w->q->header;

    (void)err; /* says what is wrong; that the mark could not be made is no better */
    if (h->version >= 3 && !(h->incompatible & QC2_INCOMPAT_CORRUPT)) {
        h->incompatible |= QC2_INCOMPAT_CORRUPT;
        qc2_header_store(w, NULL);
    }
    if (!atomic_exchange(&w->stopped, true))
        qc2_say(w, QCHAIN_LOG_ERROR, "damaged, nothing is written any more: %s", err ? err->text : "");
    return QCHAIN_E_CORRUPT;
}

int qc2_writer_end(struct qc2_writer *w, qchain_error *err)
{
    int rc = atomic_load(&w->stopped) ? stopped(err) : qc2_flush(w, err);

    if (rc < 0)
        return rc;
    /* Nobody is inside, so all that was freed can be given back; then counts are exact. */
    qc_epoch_drain(w->requests);
    qc2_freed_work(w);
    rc = qc2_flush(w, err);
    if (rc == 0)
        qc_file_trim(w->store);
    return rc;
}

/* ---------------------------------------------------------------- the seam --- */

/* An image that was not closed properly: its counts are made anew. Writing sets this bit only for the time of
 * snapshots, whatever lazy_refcounts says: the order of writes keeps refcounts right. */
static int mend_dirty(struct qc2_image *q, bool shared, qchain_error *err)
{
    struct qc2_check_opts o = {.flags = QC2_CHECK_REPAIR_ALL};
    struct qc2_check_result res;
    int rc;

    if (!(q->header.incompatible & QC2_INCOMPAT_DIRTY) || q->header.incompatible & QC2_INCOMPAT_CORRUPT ||
        !qc_store_is_writable(q->base.store))
        return QCHAIN_OK;
    if (shared)
        return qc_fail(err, QCHAIN_E_LOCKED, "the image was not closed properly, or is being written just now: without "
                       "its locks it is neither mended nor written");
    qc_log(q->log, QCHAIN_LOG_WARN, "qcow2", "%s: was not closed properly: its refcounts are made anew",
           q->base.store->name);
    rc = qc2_check(q->base.store, &o, &res, err);
    if (rc == 0)
        rc = qc2_reload_header(q, err);
    if (rc == 0 && (res.corruptions > 0 || res.check_errors > 0 || res.dirty))
        rc = qc_fail(err, QCHAIN_E_CORRUPT, "the image was not closed properly, and it has damage that could "
                     "not be mended: see what a check says of it");
    return rc;
}

static int begin(struct qc_image *img, const struct qc_write_opts *opts, qchain_error *err)
{
    int rc = mend_dirty(qc2_of(img), opts->shared, err);

    return rc < 0 ? rc : qc2_writer_create(&qc2_of(img)->writer, qc2_of(img), opts, err);
}

static int end(struct qc_image *img, qchain_error *err)
{
    return qc2_writer_end(qc2_of(img)->writer, err);
}

static int flush(struct qc_image *img, qchain_error *err)
{
    return qc2_flush(qc2_of(img)->writer, err);
}

const struct qc_write_ops qc2_write_ops = {
    .begin = begin,
    .end = end,
    .locate = qc2_locate,
    .place = qc2_place,
    .alloc = qc2_place_alloc,
    .finish_alloc = qc2_place_finish,
    .abort_alloc = qc2_place_abort,
    .zero = qc2_zero,
    .discard = qc2_discard,
    .encoder_create = qc2_encoder_create,
    .encoder_destroy = qc2_encoder_destroy,
    .encode = qc2_encode,
    .write_compressed = qc2_write_compressed,
    .flush = flush,
    .resize = qc2_resize,
    .make_empty = qc2_make_empty,
    .snapshot_create = qc2_snapshot_create,
    .snapshot_apply = qc2_snapshot_apply,
    .snapshot_delete = qc2_snapshot_delete,
    .vmstate_base = qc2_vmstate_base,
    .bitmaps_list = qc2_bitmaps_list,
    .bitmap_load = qc2_bitmap_load,
    .bitmap_fits = qc2_bitmap_fits,
    .bitmaps_mark = qc2_bitmaps_mark,
    .bitmaps_store = qc2_bitmaps_store,
};
