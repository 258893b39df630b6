/* SPDX-License-Identifier: MIT */
#include "qcow2/cluster_map.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/random.h>
#include <qchain.h>

#include "util/alloc.h"

#define FIRST_CAP 64u

void qc2_cmap_finish(struct qc2_cmap *m)
{
    qc_free(m->e);
    *m = (struct qc2_cmap){0};
}

/* Nobody knows it who chooses where the tables of an image lie: else he could let them all meet in one place, and
 * millions take hours. */
static uint64_t multiplier(void)
{
    static _Atomic uint64_t known;
    uint64_t v = atomic_load_explicit(&known, memory_order_relaxed), none = 0;

    if (v)
        return v;
    if (getrandom(&v, sizeof(v), GRND_NONBLOCK) != (ssize_t)sizeof(v))
        v = UINT64_C(0x9e3779b97f4a7c15);
    v |= 1;
    return atomic_compare_exchange_strong(&known, &none, v) ? v : none;
}

static size_t place_of(const struct qc2_cmap *m, uint64_t cluster)
{
    return (size_t)(cluster * m->multiplier >> 32) & (m->cap - 1);
}

/* The cluster's entry, or the free one where it would be; at most half are in use. */
static struct qc2_cmap_entry *find(const struct qc2_cmap *m, uint64_t cluster)
{
    size_t at = place_of(m, cluster);

    while (m->e[at].bits != 0 && m->e[at].cluster != cluster)
        at = (at + 1) & (m->cap - 1);
    return &m->e[at];
}

uint32_t qc2_cmap_get(const struct qc2_cmap *m, uint64_t cluster)
{
    return m->n > 0 ? find(m, cluster)->bits : 0;
}

static int grow(struct qc2_cmap *m)
{
    struct qc2_cmap bigger = {.cap = m->cap ? 2 * m->cap : FIRST_CAP, .n = m->n, .multiplier = multiplier()};

    bigger.e = qc_calloc(bigger.cap, sizeof(*bigger.e));
    if (!bigger.e)
        return QCHAIN_E_NOMEM;
    for (size_t i = 0; i < m->cap; i++)
        if (m->e[i].bits != 0)
            *find(&bigger, m->e[i].cluster) = m->e[i];
    qc_free(m->e);
    *m = bigger;
    return QCHAIN_OK;
}

int qc2_cmap_add(struct qc2_cmap *m, uint64_t cluster, uint32_t bits)
{
    struct qc2_cmap_entry *e;

    if (2 * (m->n + 1) > m->cap && grow(m) < 0)
        return QCHAIN_E_NOMEM;
    e = find(m, cluster);
    m->n += e->bits == 0;
    e->cluster = cluster;
    e->bits |= bits;
    return QCHAIN_OK;
}

void qc2_cmap_remove(struct qc2_cmap *m, uint64_t cluster, uint32_t bits)
{
    struct qc2_cmap_entry *e = m->n > 0 ? find(m, cluster) : NULL;
    size_t at;

    if (!e || e->bits == 0)
        return;
    e->bits &= ~bits;
    if (e->bits != 0)
        return;
    m->n--;
    /* Those behind it, up to the next free entry, may have been displaced by it. */
    for (at = ((size_t)(e - m->e) + 1) & (m->cap - 1); m->e[at].bits != 0;
         at = (at + 1) & (m->cap - 1)) {
        struct qc2_cmap_entry moved = m->e[at];

        m->e[at].bits = 0;
        *find(m, moved.cluster) = moved;
    }
}

void qc2_cmap_tidy(struct qc2_cmap *m)
{
    bool moved = m->cap > 0;

    /* Put each where a search comes first, until all are: a move only ever makes a way shorter. One round
     * does it but where a way goes past the end. */
    while (moved) {
        moved = false;
        m->n = 0;
        for (size_t i = 0; i < m->cap; i++) {
            struct qc2_cmap_entry was = m->e[i], *now;

            if (was.bits == 0)
                continue;
            m->e[i].bits = 0;
            now = find(m, was.cluster);
            *now = was;
            moved |= now != &m->e[i];
            m->n++;
        }
    }
}
