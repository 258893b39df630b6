/* SPDX-License-Identifier: MIT */
/*
 * Refcounts written anew: blocks, then their table, behind everything that is in the file; all made durable; then
 * the header is switched to them by one write within its first sector. Until then nothing old has been touched.
 */
#include <inttypes.h>
#include <string.h>

#include "qcow2/check_int.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"

struct plan {
    uint64_t  start;   /* the first new cluster */
    uint64_t  blocks;  /* how many are written, one after the other */
    uint64_t  table;   /* clusters of the table, behind them */
    uint64_t  n_slots; /* entries that are used */
    uint64_t *slot;    /* the table as in the file */
};

/* Where references are not understood, what was counted stays counted. */
static int keep_stored(struct qc2_check *c, uint64_t first, uint64_t n, uint8_t *raw, void *data,
                       qchain_error *err)
{
    (void)data;
    for (uint64_t i = 0; i < n; i++) {
        uint64_t stored = raw ? qc2_refcount_decode(raw, i, c->h->refcount_order) : 1;
        uint64_t count = qc2_tally_get(&c->tally, first + i);

        if (stored > count && qc2_tally_add(&c->tally, first + i, stored - count) < 0)
            return qc_fail_nomem(err);
    }
    return QCHAIN_OK;
}

static uint64_t count_of(const struct qc2_check *c, const struct plan *p, uint64_t k)
{
    if (k >= c->n_used)
        return k >= p->start && k < p->start + p->blocks + p->table;
    return qc_min64(qc2_tally_get(&c->tally, k), qc2_refcount_max(c));
}

/* Does block i have a count that is not 0? */
static bool is_needed(const struct qc2_check *c, const struct plan *p, uint64_t i)
{
    uint64_t per = qc2_refblock_entries(c), first = i * per, end = first + per;

    if (end > p->start && first < p->start + p->blocks + p->table)
        return true;
    return first < c->n_used &&
           !qc_is_zero(c->tally.small + first, qc_min64(end, c->n_used) - first);
}

/* How much room they take depends on where they lie, and that on how much room they take: it only grows. */
static int make_plan(struct qc2_check *c, struct plan *p, qchain_error *err)
{
    uint64_t per = qc2_refblock_entries(c), before;

    *p = (struct plan){.start = qc_max64(c->n_used, qc_div_up(c->refs_end, c->cluster)), .table = 1};
    do {
        uint64_t blocks = 0;

        before = p->blocks + p->table;
        p->n_slots = qc_div_up(p->start + before, per);
        for (uint64_t i = 0; i < p->n_slots; i++)
            blocks += is_needed(c, p, i);
        p->blocks = qc_max64(p->blocks, blocks);
        p->table = qc_max64(p->table, qc_div_up(p->n_slots * 8, c->cluster));
        if (p->table << c->bits > QC2_MAX_REFTABLE_BYTES)
            return qc_fail(err, QCHAIN_E_LIMIT, "repair: the new refcount table would be larger than "
                           "8 MiB");
    } while (p->blocks + p->table != before);
    p->slot = qc_calloc(p->table << c->bits, 1);
    return p->slot ? QCHAIN_OK : qc_fail_nomem(err);
}

static void fill_block(const struct qc2_check *c, const struct plan *p, uint64_t i, uint8_t *raw)
{
    uint64_t per = qc2_refblock_entries(c);

    memset(raw, 0, c->cluster);
    for (uint64_t k = 0; k < per; k++) {
        uint64_t count = count_of(c, p, i * per + k);

        if (count > 0)
            qc2_refcount_encode(raw, k, c->h->refcount_order, count);
    }
}

static int write_blocks(struct qc2_check *c, struct plan *p, qchain_error *err)
{
    uint64_t done = 0, held = 0;
    int rc = QCHAIN_OK;

    for (uint64_t i = 0; i < p->n_slots && rc == 0; i++) {
        if (is_needed(c, p, i)) {
            p->slot[i] = __builtin_bswap64((p->start + done + held) << c->bits);
            fill_block(c, p, i, c->buf + held++ * c->cluster);
        }
        if (held == c->batch || (i + 1 == p->n_slots && held > 0)) {
            rc = qc2_check_go_on(c, err);
            if (rc == 0)
                rc = qc_store_write(c->store, c->buf, held << c->bits, (p->start + done) << c->bits,
                                    err);
            done += held;
            held = 0;
        }
    }
    return rc;
}

static int switch_header(struct qc2_check *c, const struct plan *p, qchain_error *err)
{
    uint64_t at = __builtin_bswap64((p->start + p->blocks) << c->bits);
    uint32_t clusters = __builtin_bswap32((uint32_t)p->table);
    uint8_t raw[12];
    int rc;

    memcpy(raw, &at, 8);
    memcpy(raw + 8, &clusters, 4);
    rc = qc2_check_put_header(c, raw, sizeof(raw), 48, err);
    if (rc == 0) {
        c->header->reftable_offset = (p->start + p->blocks) << c->bits;
        c->header->reftable_clusters = (uint32_t)p->table;
        qc2_check_say(c, QCHAIN_LOG_INFO, "the refcount structures were written anew: %" PRIu64
                      " blocks", p->blocks);
    }
    return rc;
}

int qc2_check_rebuild(struct qc2_check *c, qchain_error *err)
{
    uint64_t size = qc_store_size(c->store);
    struct plan p = {0};
    int rc = c->lost ? qc2_each_refblock(c, keep_stored, NULL, err) : QCHAIN_OK;

    if (rc == 0)
        rc = make_plan(c, &p, err);
    if (rc == 0 && (p.start + p.blocks + p.table) << c->bits > c->beyond) {
        qc2_check_say(c, QCHAIN_LOG_ERROR, "the refcount structures are not rebuilt: the file would grow over "
                      "offset %" PRIu64 ", which entries refer to though it lies past the end", c->beyond);
    } else if (rc == 0) {
        rc = write_blocks(c, &p, err);
        if (rc == 0)
            rc = qc_store_write(c->store, p.slot, p.table << c->bits, (p.start + p.blocks) << c->bits,
                                err);
        if (rc == 0)
            rc = qc_store_flush(c->store, err);
        if (rc < 0)
            qc_store_resize(c->store, size, NULL); /* give the room back, if that works */
        else
            rc = switch_header(c, &p, err);
    }
    qc_free(p.slot);
    return rc;
}
