/* SPDX-License-Identifier: MIT */
/*
 * What a guest may find after a crash: for each sector of the disk, the values it had, with the instants (on
 * the log's clock) between which each was written. A value is a number that fills the sector, and
 * 0 is zeros; nothing else is ever right.
 */
#ifndef CRASH_MODEL_H
#define CRASH_MODEL_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR 512u
#define MODEL_SECTORS 1024u /* of the disk, at most */
#define MODEL_SNAPSHOTS 8u
#define GARBAGE UINT64_MAX  /* a sector that holds no number */

struct version {
    uint64_t began, ended; /* 0: not ended, or failed: it may be there or not */
    uint64_t value;
};

struct history {
    struct version *v;
    uint32_t        n, cap;
};

struct model_snapshot {
    bool     used;
    char     name[16];
    uint64_t made, gone;  /* it may be there from when its making began ... until its deletion ended */
    uint32_t sectors;     /* of the disk then */
    uint64_t value[MODEL_SECTORS];
};

struct guest_flush {
    uint64_t began, ended;
};

struct model {
    struct history        sector[MODEL_SECTORS];
    uint32_t              sectors; /* size of the disk now */
    uint64_t              next_value;
    struct guest_flush   *flush;
    size_t                n_flushes, cap_flushes;
    struct model_snapshot snap[MODEL_SNAPSHOTS];
    uint32_t              n_snaps;
};

static inline void *need_memory(void *p)
{
    if (!p) {
        fprintf(stderr, "out of memory\n");
        abort();
    }
    return p;
}

static inline void sector_fill(unsigned char *p, uint64_t value)
{
    for (unsigned i = 0; i < SECTOR; i += 8)
        memcpy(p + i, &value, 8);
}

static inline uint64_t sector_value(const unsigned char *p)
{
    uint64_t first, v;

    memcpy(&first, p, 8);
    for (unsigned i = 8; i < SECTOR; i += 8) {
        memcpy(&v, p + i, 8);
        if (v != first)
            return GARBAGE;
    }
    return first;
}

static inline void model_put(struct model *m, uint32_t sector, uint64_t value, uint64_t began, uint64_t ended)
{
    struct history *h = &m->sector[sector];

    if (h->n == h->cap) {
        h->cap = h->cap ? 2 * h->cap : 4;
        h->v = need_memory(realloc(h->v, h->cap * sizeof(*h->v)));
    }
    h->v[h->n++] = (struct version){began, ended, value};
}

static inline uint64_t model_now(const struct model *m, uint32_t sector)
{
    const struct history *h = &m->sector[sector];

    return h->n ? h->v[h->n - 1].value : 0;
}

static inline void model_flushed(struct model *m, uint64_t began, uint64_t ended)
{
    if (m->n_flushes == m->cap_flushes) {
        m->cap_flushes = m->cap_flushes ? 2 * m->cap_flushes : 16;
        m->flush = need_memory(realloc(m->flush, m->cap_flushes * sizeof(*m->flush)));
    }
    m->flush[m->n_flushes++] = (struct guest_flush){began, ended};
}

static inline void model_reset(struct model *m)
{
    for (uint32_t i = 0; i < MODEL_SECTORS; i++)
        m->sector[i].n = 0;
    m->n_flushes = m->n_snaps = 0;
}

static inline void model_finish(struct model *m)
{
    for (uint32_t i = 0; i < MODEL_SECTORS; i++)
        free(m->sector[i].v);
    free(m->flush);
}

/* When the last flush began that the guest knew to be done at the instant `at`; 0: none. */
static inline uint64_t model_certain(const struct model *m, uint64_t at)
{
    uint64_t certain = 0;

    for (size_t i = 0; i < m->n_flushes; i++)
        if (m->flush[i].ended <= at && m->flush[i].began > certain)
            certain = m->flush[i].began;
    return certain;
}

/* May the sector hold value after a crash at `at` (UINT64_MAX: there was none)? certain: model_certain(m, at). */
static inline bool model_allows(const struct model *m, uint32_t sector, uint64_t value, uint64_t at,
                                uint64_t certain)
{
    const struct history *h = &m->sector[sector];

    if (at == UINT64_MAX) /* nothing crashed */
        return value == model_now(m, sector);
    for (uint32_t i = h->n; i-- > 0;) {
        const struct version *v = &h->v[i];

        if (v->began > at)
            continue;
        if (v->value == value)
            return true;
        if (v->ended && v->ended <= certain)
            return false; /* whatever came before is overwritten for good */
    }
    return value == 0; /* what it was before all versions */
}

#endif
