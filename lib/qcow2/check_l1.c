/* SPDX-License-Identifier: MIT */
/* L1 tables, of the disk and of snapshots: which L2 tables there are, and how often each is referred to. */
#include <inttypes.h>
#include <stdlib.h>

#include "qcow2/check_int.h"
#include "qcow2/l2.h"
#include "util/bytes.h"
#include "util/error.h"
#include "util/vec.h"

#define PIECE 65536u
#define MOST_TABLES (UINT64_C(16) << 20)

static int by_place(const void *a, const void *b)
{
    uint64_t x = ((const struct qc2_found_l2 *)a)->at, y = ((const struct qc2_found_l2 *)b)->at;

    return x < y ? -1 : x > y;
}

/* Sort, and make one of those that are the same table. */
static void unite(struct qc2_found_l2s *l)
{
    size_t n = 0;

    if (l->n == 0)
        return;
    qsort(l->v, l->n, sizeof(*l->v), by_place);
    for (size_t i = 1; i < l->n; i++) {
        struct qc2_found_l2 *last = &l->v[n], *next = &l->v[i];

        if (next->at != last->at) {
            l->v[++n] = *next;
            continue;
        }
        if (last->active == 0)
            last->guest = next->guest;
        last->visits += next->visits;
        last->active += next->active;
    }
    l->n = n + 1;
}

static int add_table(struct qc2_check *c, const struct qc2_found_l2 *t, qchain_error *err)
{
    struct qc2_found_l2s *l = &c->l2s;
    void *p = l->v;
    int rc = QCHAIN_OK;

    if (l->n == l->cap)
        unite(l);
    if (l->n >= MOST_TABLES)
        return qc_fail(err, QCHAIN_E_LIMIT, "check: more than %" PRIu64 " L2 tables", MOST_TABLES);
    if (l->n * 4 >= l->cap * 3)
        rc = qc_grow(&p, &l->cap, l->n + l->n / 2 + 64, sizeof(*l->v));
    l->v = p;
    if (rc < 0)
        return qc_fail_nomem(err);
    l->v[l->n++] = *t;
    return QCHAIN_OK;
}

/* One entry that is not zero, at `place` in the file. */
static int entry(struct qc2_check *c, uint64_t e, uint64_t place, uint64_t times, uint64_t active,
                 qchain_error *err)
{
    struct qc2_found_l2 t = {.at = e & QC2_OFFSET_MASK, .visits = times, .active = active};

    if (e & QC2_L1_RESERVED)
        qc2_check_bad(c, times, "L1 entry at %" PRIu64 "=0x%016" PRIx64 ": reserved bits are set",
                      place, e);
    if (t.at == 0) {
        if (!(e & QC2_L1_RESERVED))
            qc2_check_bad(c, times, "L1 entry at %" PRIu64 "=0x%016" PRIx64
                          ": has the COPIED flag, but no L2 table", place, e);
        return QCHAIN_OK;
    }
    if (t.at % c->cluster != 0 || t.at >= c->size) {
        c->lost = true;
        if (t.at >= c->size)
            qc2_check_beyond(c, t.at);
        qc2_check_bad(c, times, "L1 entry at %" PRIu64 "=0x%016" PRIx64 ": the L2 table %s", place,
                      e, t.at >= c->size ? "lies past the end of the file"
                                         : "is not aligned to a cluster");
        return QCHAIN_OK;
    }
    if (c->size - t.at < c->cluster) {
        qc2_check_beyond(c, t.at);
        qc2_check_bad(c, times, "L1 entry at %" PRIu64 "=0x%016" PRIx64
                      ": the L2 table is cut by the end of the file", place, e);
    }
    if (active && !(e & QC2_COPIED) == qc2_is_single(c, t.at))
        qc2_check_bad(c, active, "L1 entry at %" PRIu64 "=0x%016" PRIx64
                      ": the COPIED flag is %s, but the L2 table's refcount is %s1", place, e,
                      e & QC2_COPIED ? "set" : "not set", e & QC2_COPIED ? "not " : "");
    if (active)
        t.guest = (place - c->h->l1_offset) / 8 << qc2_l2_cover_bits(c->h);
    if (qc2_tally_add(&c->tally, t.at >> c->bits, times) < 0)
        return qc_fail_nomem(err);
    return add_table(c, &t, err);
}

static int piece(void *data, uint64_t start, uint64_t end, uint64_t times, uint64_t active,
                 qchain_error *err)
{
    struct qc2_check *c = data;
    const uint64_t *raw = (const uint64_t *)(const void *)c->buf;
    int rc = QCHAIN_OK;

    for (uint64_t at = start, n; at < end && rc == 0; at += n) {
        n = qc_min64(end - at, PIECE);
        rc = qc2_check_go_on(c, err);
        qc2_check_read(c, c->buf, (size_t)n, at, "L1 table");
        for (size_t i = 0; i < n / 8 && rc == 0; i++)
            if (raw[i] != 0)
                rc = entry(c, qc_be64(&raw[i]), at + i * 8, times, active, err);
    }
    return rc;
}

int qc2_check_l1s(struct qc2_check *c, qchain_error *err)
{
    int rc;

    c->l2s.n = 0;
    rc = qc2_sweep(&c->l1s, piece, c, err);
    if (rc == 0)
        unite(&c->l2s);
    return rc;
}
