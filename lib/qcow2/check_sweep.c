/* SPDX-License-Identifier: MIT */
/*
 * Thousands of snapshots may claim L1 tables that lie over each other. Going from edge to edge, each byte of the
 * file is looked at once, whatever they claim.
 */
#include <stdlib.h>

#include "qcow2/check_int.h"
#include "util/alloc.h"
#include "util/error.h"
#include "util/vec.h"

struct edge {
    uint64_t at;
    bool     begins, active;
};

int qc2_stretch_add(struct qc2_stretches *s, uint64_t start, uint64_t end, bool active,
                    qchain_error *err)
{
    void *p = s->v;
    int rc;

    if (start >= end)
        return QCHAIN_OK;
    rc = qc_grow(&p, &s->cap, s->n + 1, sizeof(*s->v));
    s->v = p;
    if (rc < 0)
        return qc_fail_nomem(err);
    s->v[s->n++] = (struct qc2_stretch){start, end, active};
    return QCHAIN_OK;
}

static int by_place(const void *a, const void *b)
{
    uint64_t x = ((const struct edge *)a)->at, y = ((const struct edge *)b)->at;

    return x < y ? -1 : x > y;
}

int qc2_sweep(const struct qc2_stretches *s, qc2_piece_fn fn, void *data, qchain_error *err)
{
    struct edge *e = qc_malloc((2 * s->n + 1) * sizeof(*e));
    uint64_t times = 0, active = 0;
    int rc = QCHAIN_OK;

    if (!e)
        return qc_fail_nomem(err);
    for (size_t i = 0; i < s->n; i++) {
        e[2 * i] = (struct edge){s->v[i].start, true, s->v[i].active};
        e[2 * i + 1] = (struct edge){s->v[i].end, false, s->v[i].active};
    }
    qsort(e, 2 * s->n, sizeof(*e), by_place);
    for (size_t i = 0; i < 2 * s->n && rc == 0; i++) {
        if (i > 0 && times > 0 && e[i].at > e[i - 1].at)
            rc = fn(data, e[i - 1].at, e[i].at, times, active, err);
        times += e[i].begins ? 1 : UINT64_MAX;
        if (e[i].active)
            active += e[i].begins ? 1 : UINT64_MAX;
    }
    qc_free(e);
    return rc;
}
