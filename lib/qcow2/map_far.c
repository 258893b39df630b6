/* SPDX-License-Identifier: MIT */
#include "qcow2/map_far.h"

#include <inttypes.h>

#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"
#include "util/vec.h"

#define FULL_BYTES (4u << 20)
/* Tables with less than this between them are read by one request: a request more costs about what its
 * share of round trip times bandwidth would carry, with as many under way as there are connections. */
#define GAP (32u << 10)

/* Bytes between the last table and one at host, if both are read by one request. */
static uint64_t gap_before(const struct qc2_far *f, uint64_t host)
{
    uint64_t end = f->n > 0 ? f->table[f->n - 1].host + f->table[f->n - 1].bytes : 0;

    return f->n > 0 && host >= end && host - end <= GAP ? host - end : 0;
}

int qc2_far_add(struct qc2_far *f, uint64_t host, uint64_t guest, uint64_t bytes, qchain_error *err)
{
    if (qc_grow((void **)&f->table, &f->cap, f->n + 1, sizeof(*f->table)) != 0)
        return qc_fail_nomem(err);
    f->bytes += gap_before(f, host) + bytes;
    f->table[f->n++] = (struct qc2_far_table){host, guest, bytes};
    return QCHAIN_OK;
}

bool qc2_far_is_full(const struct qc2_far *f)
{
    return f->bytes >= FULL_BYTES;
}

void qc2_far_finish(struct qc2_far *f)
{
    qc_free(f->table);
}

/*
 * The lowest layer of a chain is opened last, and its tables are what the first read then waits for, one
 * after the other. Whoever wrote it in order has put the first L2 table behind the L1 table: both are asked
 * for together. A wrong guess costs some KiB, a right one saves a round trip. What comes is found again in
 * the store's cache, or is not.
 */
#define FIRST_DISK (UINT64_C(128) << 20)

void qc2_far_guess(struct qc2_image *q)
{
    struct qc_store *s = q->base.store;
    uint64_t cluster = q->base.cluster_size, l1_bytes = (uint64_t)q->l1_size * 8;
    unsigned entry_bits = qc2_extended_l2(&q->header) ? 4 : 3;
    uint64_t entries = qc_div_up(qc_min64(FIRST_DISK, q->base.virtual_size), cluster);
    struct qc_store_piece piece[2] = {{s, NULL, 0, q->l1_offset}, {s, NULL, 0, 0}};
    char *buf;

    piece[0].length = (size_t)qc_min64(l1_bytes, GAP);
    piece[1].length = (size_t)qc_min64(entries << entry_bits, cluster);
    piece[1].offset = qc_align_up(q->l1_offset + l1_bytes, cluster);
    if (!qc_store_is_far(s) || q->base.backing_name || l1_bytes == 0 || piece[1].length == 0 ||
        piece[1].offset > s->size || piece[1].length > s->size - piece[1].offset)
        return;
    buf = qc_malloc(piece[0].length + piece[1].length);
    if (!buf)
        return;
    piece[0].buf = buf;
    piece[1].buf = buf + piece[0].length;
    (void)qc_store_read_many(piece, 2, QC_READ_META, NULL, NULL); /* who needs it is told */
    qc_free(buf);
}

/* Requests for all tables, as gap_before() counts them: piece i holds the tables [first[i], first[i + 1]). */
static void plan(const struct qc2_far *f, struct qc_store *store, struct qc_store_piece *piece,
                 size_t *first, size_t *n)
{
    *n = 0;
    for (size_t i = 0; i < f->n; i++) {
        const struct qc2_far_table *t = &f->table[i];
        struct qc_store_piece *p = *n > 0 ? &piece[*n - 1] : NULL;
        uint64_t end = p ? p->offset + p->length : 0;

        if (p && t->host >= end && t->host - end <= GAP) {
            p->length = (size_t)(t->host + t->bytes - p->offset);
            continue;
        }
        first[*n] = i;
        piece[(*n)++] = (struct qc_store_piece){store, NULL, (size_t)t->bytes, t->host};
    }
    first[*n] = f->n;
}

static int parse_piece(const struct qc2_far *f, const struct qc2_l2 *l2,
                       const struct qc_store_piece *p, size_t first, size_t last, struct qc_runs *out,
                       qchain_error *err)
{
    int rc = QCHAIN_OK;

    for (size_t i = first; rc == 0 && i < last; i++) {
        const struct qc2_far_table *t = &f->table[i];

        rc = qc2_l2_parse(l2, (const uint64_t *)(const void *)((char *)p->buf + (t->host - p->offset)),
                          (size_t)(t->bytes >> qc2_l2_entry_bits(l2)), t->guest, t->host, out, err);
    }
    return rc;
}

int qc2_far_flush(struct qc2_far *f, struct qc2_image *q, const struct qc2_l2 *l2,
                  struct qc_runs *out, qchain_error *err)
{
    struct qc_store_piece *piece = NULL;
    size_t *first = NULL, n = 0, failed = 0;
    uint64_t *buf = NULL;
    int rc = QCHAIN_OK;
    char *at;

    if (f->n == 0)
        return QCHAIN_OK;
    piece = qc_malloc(f->n * sizeof(*piece));
    first = qc_malloc((f->n + 1) * sizeof(*first));
    buf = qc_malloc((size_t)f->bytes);
    if (!piece || !first || !buf) {
        rc = qc_fail_nomem(err);
        goto out;
    }
    plan(f, q->base.store, piece, first, &n);
    at = (char *)buf;
    for (size_t i = 0; i < n; i++) {
        piece[i].buf = at;
        at += piece[i].length;
    }
    rc = qc_store_read_many(piece, n, qc2_meta_flags(q), &failed, err);
    if (rc < 0)
        qc_error_prefix(err, -1, "L2 table at %" PRIu64 ": ", piece[failed].offset);
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = parse_piece(f, l2, &piece[i], first[i], first[i + 1], out, err);

out:
    qc_free(piece);
    qc_free(first);
    qc_free(buf);
    f->n = 0;
    f->bytes = 0;
    return rc;
}
