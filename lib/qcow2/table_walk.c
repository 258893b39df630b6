/* SPDX-License-Identifier: MIT */
#include "qcow2/table_walk.h"

#include <inttypes.h>
#include <string.h>

#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"

#define WINDOW (256u << 10) /* larger than any entry */

_Static_assert(WINDOW > QC2_SNAPSHOT_MAX_ENTRY, "an entry fits the window");

/* A stretch of the file, seen through a window. */
struct walk {
    struct qc2_image *q;
    const char       *what;
    uint64_t          at;   /* file offset of the window's first byte */
    uint64_t          end;  /* of the table, or of the file */
    uint8_t          *buf;
    size_t            have; /* bytes in the window */
};

static int walk_start(struct walk *w, struct qc2_image *q, const char *what, uint64_t at,
                      uint64_t end, qchain_error *err)
{
    *w = (struct walk){.q = q, .what = what, .at = at, .end = end};
    w->buf = qc_malloc(WINDOW);
    return w->buf ? QCHAIN_OK : qc_fail_nomem(err);
}

/* Have at least n <= WINDOW bytes in the window. */
static int walk_need(struct walk *w, size_t n, qchain_error *err)
{
    uint64_t left = w->end > w->at ? w->end - w->at : 0;
    size_t more;
    int rc;

    if (n <= w->have)
        return QCHAIN_OK;
    if (n > left)
        return qc_fail(err, QCHAIN_E_CORRUPT, "%s: an entry ends past %" PRIu64 ", the end",
                       w->what, w->end);
    more = (size_t)qc_min64(left, qc_max64(n, WINDOW)) - w->have;
    rc = qc_store_read(w->q->base.store, w->buf + w->have, more, w->at + w->have,
                       qc2_meta_flags(w->q), err);
    if (rc < 0) {
        qc_error_prefix(err, -1, "%s: ", w->what);
        return rc;
    }
    w->have += more;
    return QCHAIN_OK;
}

static void walk_skip(struct walk *w, uint64_t n)
{
    if (n < w->have) {
        memmove(w->buf, w->buf + n, w->have - n);
        w->have -= n;
    } else {
        w->have = 0;
    }
    w->at += n;
}

int qc2_each_snapshot(struct qc2_image *q, qc2_snapshot_fn fn, void *data, qchain_error *err)
{
    uint64_t start = q->header.snapshots_offset;
    struct walk w;
    int64_t rc;

    if (q->header.n_snapshots == 0)
        return QCHAIN_OK;
    rc = walk_start(&w, q, "snapshot table", start, q->base.store->size, err);
    for (uint32_t i = 0; i < q->header.n_snapshots && rc == 0; i++) {
        struct qc2_snapshot s;
        int64_t need = QC2_SNAPSHOT_FIXED;

        while (rc == 0 && need > 0) {
            rc = walk_need(&w, (size_t)need, err);
            need = rc < 0 ? 0 : qc2_snapshot_parse(&s, w.buf, w.have, i, err);
            if (need < 0)
                rc = need;
        }
        if (rc == 0 && w.at - start + s.bytes > QC2_SNAPSHOT_MAX_TABLE)
            rc = qc_fail(err, QCHAIN_E_LIMIT, "snapshot table: more than 64 MiB");
        if (rc == 0)
            rc = fn(data, &s, err);
        if (rc == 0)
            walk_skip(&w, s.bytes);
    }
    qc_free(w.buf);
    return (int)rc;
}

/* One entry of the bitmap directory, wholly inside it. */
static int bitmap_entry(struct walk *w, uint32_t number, qc2_bitmap_fn fn, void *data,
                        qchain_error *err)
{
    struct qc2_bitmap b;
    int rc = walk_need(w, QC2_BITMAP_FIXED, err);

    if (rc == 0)
        rc = qc2_bitmap_parse(&b, w->buf, &w->q->header, w->q->base.store->size, number, err);
    if (rc < 0)
        return rc;
    if (b.bytes > w->end - w->at)
        return qc_fail(err, QCHAIN_E_CORRUPT,
                       "bitmap %" PRIu32 " extra_data_size=%" PRIu32
                       ": the entry ends past the end of the directory", number, b.extra_len);
    walk_skip(w, QC2_BITMAP_FIXED + (uint64_t)b.extra_len);
    rc = walk_need(w, b.name_len, err);
    if (rc == 0)
        rc = fn(data, &b, (const char *)w->buf, err);
    walk_skip(w, b.bytes - QC2_BITMAP_FIXED - b.extra_len);
    return rc;
}

int qc2_each_bitmap(struct qc2_image *q, qc2_bitmap_fn fn, void *data, qchain_error *err)
{
    const struct qc2_header *h = &q->header;
    uint64_t start = h->bitmap_dir_offset;
    struct walk w;
    int rc = qc2_bitmap_dir_check(h, q->base.store->size, err);

    if (rc < 0)
        return rc;
    rc = walk_start(&w, q, "bitmap directory", start, start + h->bitmap_dir_size, err);
    for (uint32_t i = 0; i < h->n_bitmaps && rc == 0; i++)
        rc = bitmap_entry(&w, i, fn, data, err);
    if (rc == 0 && w.at != w.end)
        rc = qc_fail(err, QCHAIN_E_CORRUPT,
                     "bitmaps directory_size=%" PRIu64 ": %" PRIu64 " bytes after the last entry",
                     h->bitmap_dir_size, w.end - w.at);
    qc_free(w.buf);
    return rc;
}
