/* SPDX-License-Identifier: MIT */
/*
 * All references are counted in memory, a byte a cluster, and compared with the refcounts in the file. Each table
 * is read once, whatever refers to it how often: time and memory follow the size of the metadata and of the file,
 * and nothing that an image claims.
 *
 *   header, refcount table   check_refs.c: which clusters have a stored refcount of 1 (a bit each), for COPIED
 *   snapshots, bitmaps       check_tables.c
 *   L1 tables                check_l1.c, by a sweep over them all (check_sweep.c)
 *   L2 tables                check_l2.c, in the order of the file
 *   refcount blocks          check_refs.c: compared with what was counted (check_counts.c)
 *
 * What is mended, and in which order: check_repair.c.
 */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "qcow2/check_int.h"
#include "qcow2/qcow2.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"

#define BATCH_BYTES (1u << 20)
#define BATCH_CLUSTERS 512
#define MAX_MEMORY (UINT64_C(1) << 30)

/* -------------------------------------------------------------- telling --- */

static void say(const struct qc2_check *c, int level, const char *fmt, va_list ap)
{
    char text[QC_ERROR_TEXT];

    if (c->silent || !c->opts->found)
        return;
    vsnprintf(text, sizeof(text), fmt, ap);
    c->opts->found(c->opts->found_data, level, text);
}

void qc2_check_say(const struct qc2_check *c, int level, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    say(c, level, fmt, ap);
    va_end(ap);
}

void qc2_check_bad(struct qc2_check *c, uint64_t times, const char *fmt, ...)
{
    va_list ap;

    if (!qc_add_ok(c->r.corruptions, times, &c->r.corruptions))
        c->r.corruptions = UINT64_MAX;
    va_start(ap, fmt);
    say(c, QCHAIN_LOG_ERROR, fmt, ap);
    va_end(ap);
}

int qc2_check_go_on(const struct qc2_check *c, qchain_error *err)
{
    return c->opts->go_on ? c->opts->go_on(c->opts->go_on_data, err) : QCHAIN_OK;
}

/* -------------------------------------------------------------- reading --- */

void qc2_check_read(struct qc2_check *c, void *buf, size_t length, uint64_t at, const char *what)
{
    qchain_error why;

    qc_error_init(&why);
    if (qc_store_read(c->store, buf, length, at, QC_READ_META | QC_READ_PAST_END, &why) == 0)
        return;
    memset(buf, 0, length);
    c->lost = true;
    c->r.check_errors++;
    qc2_check_say(c, QCHAIN_LOG_ERROR, "%s at %" PRIu64 " cannot be read: %s", what, at, why.text);
}

void qc2_check_read_batch(struct qc2_check *c, const uint64_t *at, size_t n, const char *what)
{
    struct qc_store_piece piece[BATCH_CLUSTERS];
    size_t n_pieces = 0;

    if (n == 0)
        return;
    for (size_t i = 0; i < n; i++) {
        struct qc_store_piece *last = n_pieces ? &piece[n_pieces - 1] : NULL;

        if (last && last->offset + last->length == at[i])
            last->length += c->cluster;
        else
            piece[n_pieces++] = (struct qc_store_piece){c->store, c->buf + i * c->cluster,
                                                        c->cluster, at[i]};
    }
    if (qc_store_read_many(piece, n_pieces, QC_READ_META | QC_READ_PAST_END, NULL, NULL) == 0)
        return;
    for (size_t i = 0; i < n; i++) /* which ones, and why? */
        qc2_check_read(c, c->buf + i * c->cluster, c->cluster, at[i], what);
}

/* ------------------------------------------------------------- counting --- */

int qc2_check_count(struct qc2_check *c, uint64_t at, uint64_t length, uint64_t times,
                    const char *what, qchain_error *err)
{
    uint64_t end;

    /* The last cluster may stick out of the file, if it begins within. */
    if (!qc_add_ok(at, length, &end) || end >= c->size + c->cluster) {
        qc2_check_beyond(c, at);
        qc2_check_bad(c, times, "%s at %" PRIu64 " lies past the end of the file", what, at);
        return QCHAIN_OK;
    }
    for (uint64_t k = at >> c->bits; k <= (end - 1) >> c->bits; k++) {
        if (qc2_tally_add(&c->tally, k, times) < 0)
            return qc_fail_nomem(err);
        c->n_used = qc_max64(c->n_used, k + 1);
    }
    return QCHAIN_OK;
}

int qc2_check_region(struct qc2_check *c, uint64_t at, uint64_t length, const char *what,
                     bool *inside, qchain_error *err)
{
    uint64_t end;

    *inside = false;
    if (length == 0)
        return QCHAIN_OK;
    if (!qc_add_ok(at, length, &end) || end >= c->size + c->cluster) {
        qc2_check_beyond(c, at);
        qc2_check_bad(c, 1, "%s at %" PRIu64 " lies past the end of the file", what, at);
        return QCHAIN_OK;
    }
    *inside = true;
    return qc2_stretch_add(&c->meta, qc_align_down(at, c->cluster), qc_align_up(end, c->cluster),
                           false, err);
}

static int count_piece(void *data, uint64_t start, uint64_t end, uint64_t times, uint64_t active,
                       qchain_error *err)
{
    struct qc2_check *c = data;

    (void)active;
    c->n_used = qc_max64(c->n_used, end >> c->bits);
    for (uint64_t k = start >> c->bits; k < end >> c->bits; k++)
        if (qc2_tally_add(&c->tally, k, times) < 0)
            return qc_fail_nomem(err);
    return QCHAIN_OK;
}

/* ----------------------------------------------------------------- pass --- */

static void pass_finish(struct qc2_check *c)
{
    qc2_tally_finish(&c->tally);
    qc_free(c->single);
    qc_free(c->reftable);
    c->single = c->reftable = NULL;
    c->l1s.n = c->meta.n = c->bitmaps.n = c->l2s.n = 0;
    c->lost = c->rebuild = false;
    c->beyond = UINT64_MAX;
    c->refs_end = 0;
    c->n_reftable = 0;
}

static int pass_start(struct qc2_check *c, qchain_error *err)
{
    uint64_t most = c->opts->max_memory ? c->opts->max_memory : MAX_MEMORY;

    pass_finish(c);
    memset(&c->r, 0, sizeof(c->r));
    c->size = qc_store_size(c->store);
    c->n = c->n_used = qc_div_up(c->size, c->cluster);
    if (c->n > most / 9 * 8)
        return qc_fail(err, QCHAIN_E_LIMIT, "check: %" PRIu64 " clusters take %" PRIu64
                       " bytes of memory to count: at most %" PRIu64, c->n, c->n / 8 * 9, most);
    c->r.total_clusters = qc_div_up(c->q->base.virtual_size, c->cluster);
    c->r.dirty = c->h->incompatible & QC2_INCOMPAT_DIRTY;
    c->r.corrupt = c->h->incompatible & QC2_INCOMPAT_CORRUPT;
    c->single = qc_calloc(c->n / 64 + 1, 8);
    if (!c->single || qc2_tally_init(&c->tally, c->n + 2) < 0)
        return qc_fail_nomem(err);
    return QCHAIN_OK;
}

/* The tables that the header names. */
static int header_regions(struct qc2_check *c, qchain_error *err)
{
    const struct qc2_header *h = c->h;
    uint64_t l1_bytes = (uint64_t)h->l1_size * 8;
    bool inside;
    int rc = qc2_check_region(c, 0, c->cluster, "the header", &inside, err);

    if (rc == 0)
        rc = qc2_check_region(c, h->l1_offset, l1_bytes, "the L1 table", &inside, err);
    if (rc == 0 && inside)
        rc = qc2_stretch_add(&c->l1s, h->l1_offset, h->l1_offset + l1_bytes, true, err);
    if (rc == 0 && h->has_crypto)
        rc = qc2_check_region(c, h->crypto_offset, h->crypto_length, "the encryption header",
                              &inside, err);
    if (rc == 0 && c->n_reftable > 0 && !c->no_refs) {
        rc = qc2_check_region(c, h->reftable_offset, (uint64_t)h->reftable_clusters << c->bits,
                              "the refcount table", &inside, err);
        c->rebuild |= !inside;
    }
    return rc;
}

static void tell_bits(const struct qc2_check *c)
{
    if (c->r.corrupt)
        qc2_check_say(c, QCHAIN_LOG_WARN, "the image is marked as corrupt");
    if (c->r.dirty)
        qc2_check_say(c, QCHAIN_LOG_WARN, "the image was not closed properly");
}

int qc2_check_pass(struct qc2_check *c, qchain_error *err)
{
    int rc = pass_start(c, err);

    if (rc == 0)
        rc = qc2_check_load_refs(c, err);
    if (rc == 0)
        rc = header_regions(c, err);
    if (rc == 0)
        rc = qc2_check_snapshots(c, err);
    if (rc == 0)
        rc = qc2_check_bitmaps(c, err);
    if (rc == 0)
        rc = qc2_sweep(&c->meta, count_piece, c, err);
    if (rc == 0)
        rc = qc2_check_l1s(c, err);
    if (rc == 0)
        rc = qc2_check_l2s(c, err);
    if (rc == 0 && !c->no_refs)
        rc = qc2_check_refblocks(c, err);
    if (rc == 0 && !c->no_refs)
        rc = qc2_check_compare(c, err);
    if (rc == 0)
        tell_bits(c);
    return rc;
}

/* ------------------------------------------------------------------ all --- */

static int open_image(struct qc2_check *c, qchain_error *err)
{
    struct qc_image_opts io = {.salvage = true, .describe = true};
    struct qc_image *img;
    int rc = qc_qcow2_format.open(&img, c->store, &io, err);

    if (rc < 0)
        return rc;
    c->q = qc2_of(img);
    c->h = c->header = &c->q->header;
    c->bits = c->h->cluster_bits;
    c->cluster = qc2_cluster_size(c->h);
    c->batch = qc_max64(1, BATCH_BYTES / c->cluster);
    c->batch = qc_min64(c->batch, BATCH_CLUSTERS);
    c->buf = qc_aligned(4096, qc_max64(BATCH_BYTES, c->cluster));
    return c->buf ? QCHAIN_OK : qc_fail_nomem(err);
}

static void finish(struct qc2_check *c)
{
    pass_finish(c);
    qc_free(c->l1s.v);
    qc_free(c->meta.v);
    qc_free(c->bitmaps.v);
    qc_free(c->l2s.v);
    qc_free(c->buf);
    if (c->q)
        qc_qcow2_format.close(&c->q->base);
}

/* Mend what the pass found, and look again. */
static int repair(struct qc2_check *c, qchain_error *err)
{
    struct qc2_check_result first = c->r;
    int rc;

    if (first.corruptions == 0 && first.leaks == 0 && !first.dirty && !first.corrupt)
        return QCHAIN_OK;
    rc = qc2_check_repair(c, err);
    if (rc < 0)
        return rc;
    c->r.corruptions_fixed = first.corruptions - qc_min64(first.corruptions, c->r.corruptions);
    c->r.leaks_fixed = first.leaks - qc_min64(first.leaks, c->r.leaks);
    return QCHAIN_OK;
}

int qc2_check(struct qc_store *store, const struct qc2_check_opts *opts, struct qc2_check_result *out,
              qchain_error *err)
{
    static const struct qc2_check_opts none;
    struct qc2_check c = {.store = store, .opts = opts ? opts : &none};
    int rc = open_image(&c, err);

    if (rc == 0)
        rc = qc2_check_pass(&c, err);
    if (rc == 0 && c.opts->flags)
        rc = repair(&c, err);
    if (rc == 0)
        *out = c.r;
    finish(&c);
    return rc;
}
