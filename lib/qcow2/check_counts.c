/* SPDX-License-Identifier: MIT */
/* Reference counts as they should be. Nearly all are 0, 1 or small; images made to do harm have others. */
#include "qcow2/check_int.h"
#include "util/alloc.h"
#include "util/bytes.h"

int qc2_tally_init(struct qc2_tally *t, uint64_t n)
{
    *t = (struct qc2_tally){.n = n};
    t->small = qc_calloc(n ? n : 1, 1);
    return t->small ? QCHAIN_OK : QCHAIN_E_NOMEM;
}

void qc2_tally_finish(struct qc2_tally *t)
{
    qc_free(t->small);
    qc_free(t->big);
    *t = (struct qc2_tally){0};
}

/* Where the cluster is, or would be. */
static struct qc2_count_big *find(const struct qc2_tally *t, uint64_t cluster)
{
    size_t mask = t->cap_big - 1;
    size_t i = (size_t)((cluster * UINT64_C(0x9e3779b97f4a7c15)) >> 20) & mask;

    while (t->big[i].cluster_1 != 0 && t->big[i].cluster_1 != cluster + 1)
        i = (i + 1) & mask;
    return &t->big[i];
}

static int grow(struct qc2_tally *t)
{
    struct qc2_tally wider = *t;

    wider.cap_big = t->cap_big ? 2 * t->cap_big : 64;
    wider.big = qc_calloc(wider.cap_big, sizeof(*wider.big));
    if (!wider.big)
        return QCHAIN_E_NOMEM;
    for (size_t i = 0; i < t->cap_big; i++)
        if (t->big[i].cluster_1 != 0)
            *find(&wider, t->big[i].cluster_1 - 1) = t->big[i];
    qc_free(t->big);
    *t = wider;
    return QCHAIN_OK;
}

int qc2_tally_add_slow(struct qc2_tally *t, uint64_t cluster, uint64_t times)
{
    struct qc2_count_big *b;

    if (2 * (t->n_big + 1) > t->cap_big && grow(t) < 0)
        return QCHAIN_E_NOMEM;
    b = find(t, cluster);
    if (b->cluster_1 == 0) {
        b->cluster_1 = cluster + 1;
        b->count = t->small[cluster];
        t->small[cluster] = QC2_TALLY_BIG;
        t->n_big++;
    }
    if (!qc_add_ok(b->count, times, &b->count))
        b->count = UINT64_MAX;
    return QCHAIN_OK;
}

uint64_t qc2_tally_get_slow(const struct qc2_tally *t, uint64_t cluster)
{
    return t->cap_big ? find(t, cluster)->count : 0;
}
