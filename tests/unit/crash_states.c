/* SPDX-License-Identifier: MIT */
#include "crash_states.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SEEN (1u << 14)

struct walk {
    struct crash_walk *w;
    struct rec_log    *log;
    struct rec_store  *base[REC_FILES], *now[REC_FILES]; /* what is certain; a state */
    size_t            *pending;                          /* operations that may be there or not */
    size_t             n_pending;
    uint8_t           *has;                              /* of the pending ones: a subset */
    uint64_t           seen[SEEN];                       /* hashes of states that were told */
};

static uint64_t next_random(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed;
}

static uint64_t hash(const struct walk *k)
{
    uint64_t h = 1, v;

    for (unsigned f = 0; f < k->log->n_files; f++) {
        h = (h ^ k->now[f]->size) * UINT64_C(0x9e3779b97f4a7c15);
        for (uint64_t i = 0; i < k->now[f]->size; i += 8) { /* zeros follow the end */
            memcpy(&v, k->now[f]->bytes + i, 8);
            h = (h ^ v) * UINT64_C(0x9e3779b97f4a7c15);
            h ^= h >> 29;
        }
    }
    return h | 1;
}

static int tell(struct walk *k, uint64_t at, const char *which)
{
    uint64_t h = hash(k), *slot = &k->seen[h >> 32 & (SEEN - 1)], mark = k->w->any_time ? h : h ^ at;

    if (*slot == mark) {
        k->w->same++;
        return 0;
    }
    *slot = mark;
    k->w->told++;
    return k->w->tell(k->w->data, k->now, at, which);
}

static const struct rec_op *pending(const struct walk *k, size_t i)
{
    return &k->log->op[k->pending[i]];
}

static void certain(struct walk *k)
{
    for (unsigned f = 0; f < k->log->n_files; f++)
        rec_copy(k->now[f], k->base[f]);
}

/* The state that has those pending operations whose mark is set. */
static int tell_subset(struct walk *k, uint64_t at, const char *which)
{
    certain(k);
    for (size_t i = 0; i < k->n_pending; i++)
        if (k->has[i])
            rec_apply(k->now[pending(k, i)->file], pending(k, i));
    return tell(k, at, which);
}

/* Some sectors of an operation. */
static void apply_sectors(struct walk *k, const struct rec_op *o, uint64_t *seed)
{
    for (uint64_t s = 0; s < rec_sectors(o); s++)
        if (next_random(seed) >> 20 & 1)
            rec_apply_part(k->now[o->file], o, s, s + 1);
}

/* The same, and of those that are missing some sectors. */
static int tell_torn_subset(struct walk *k, uint64_t at)
{
    certain(k);
    for (size_t i = 0; i < k->n_pending; i++)
        if (k->has[i])
            rec_apply(k->now[pending(k, i)->file], pending(k, i));
        else
            apply_sectors(k, pending(k, i), &k->w->seed);
    return tell(k, at, "torn subset");
}

static void random_subset(struct walk *k)
{
    for (size_t i = 0; i < k->n_pending; i++)
        k->has[i] = next_random(&k->w->seed) >> 20 & 1;
}

static int all_subsets(struct walk *k, uint64_t at)
{
    int ret = 0;

    for (unsigned m = 0; ret == 0 && m < 1u << k->n_pending; m++) {
        for (size_t i = 0; i < k->n_pending; i++)
            k->has[i] = m >> i & 1;
        ret = tell_subset(k, at, "subset");
    }
    for (size_t r = 0; ret == 0 && k->n_pending && r < k->w->random; r++) {
        random_subset(k);
        ret = tell_torn_subset(k, at);
    }
    return ret;
}

static int some_subsets(struct walk *k, uint64_t at)
{
    size_t n = k->n_pending, random = k->w->most > 3 * n ? k->w->most - 3 * n : 0;
    int ret = 0;

    if (random < k->w->random)
        random = k->w->random;
    for (size_t i = 0; ret == 0 && i <= n; i++) {
        memset(k->has, 0, n);
        memset(k->has, 1, i);
        ret = tell_subset(k, at, "prefix");
    }
    for (size_t i = 0; ret == 0 && i < n; i++) {
        memset(k->has, 1, n);
        k->has[i] = 0;
        ret = tell_subset(k, at, "all but one");
        memset(k->has, 0, n);
        k->has[i] = 1;
        ret = ret ? ret : tell_subset(k, at, "one alone");
    }
    for (size_t r = 0; ret == 0 && r < random; r++) {
        random_subset(k);
        ret = r % 4 == 3 ? tell_torn_subset(k, at) : tell_subset(k, at, "random subset");
    }
    return ret;
}

/* All before number i, and some sectors of that one; at last also all after it. */
static int torn(struct walk *k, size_t i, uint64_t at)
{
    const struct rec_op *o = pending(k, i);
    uint64_t n = rec_sectors(o);
    int ret = 0;

    if (o->kind != REC_WRITE && o->kind != REC_ZERO)
        return 0;
    for (int j = 0; ret == 0 && n > 1 && j < 4; j++) {
        uint64_t a = j < 2 ? 0 : next_random(&k->w->seed) % n;
        uint64_t b = j == 1 ? 1 : a + 1 + next_random(&k->w->seed) % (n - a);

        certain(k);
        for (size_t p = 0; p < i; p++)
            rec_apply(k->now[pending(k, p)->file], pending(k, p));
        rec_apply_part(k->now[o->file], o, a, b);
        for (size_t p = i + 1; j == 3 && p < k->n_pending; p++)
            rec_apply(k->now[pending(k, p)->file], pending(k, p));
        ret = tell(k, at, "torn");
    }
    return ret;
}

/* Everything that may be on the medium if the machine stops at `at`. */
static int tell_interval(struct walk *k, uint64_t at)
{
    size_t n = k->n_pending;
    int ret = n <= 8 && 1u << n <= k->w->most ? all_subsets(k, at) : some_subsets(k, at);

    for (size_t i = 0; ret == 0 && i < n; i++)
        ret = torn(k, i, at);
    return ret;
}

/* A flush ended: what had ended in that file when it began is there. */
static void settle(struct walk *k, const struct rec_op *flush)
{
    size_t kept = 0;

    for (size_t j = 0; j < k->n_pending; j++) {
        const struct rec_op *p = pending(k, j);

        if (p->file == flush->file && p->ended && p->ended < flush->began)
            rec_apply(k->base[p->file], p);
        else
            k->pending[kept++] = k->pending[j];
    }
    k->n_pending = kept;
}

static void begin(struct walk *k)
{
    for (unsigned f = 0; f < k->log->n_files; f++) {
        const struct rec_store *file = k->log->file[f];

        k->base[f] = f ? rec_create_beside(k->base[0], file->cap) : rec_create(file->cap);
        k->now[f] = f ? rec_create_beside(k->now[0], file->cap) : rec_create(file->cap);
        memcpy(k->base[f]->bytes, file->start, file->start_size);
        k->base[f]->size = file->start_size;
    }
    k->pending = calloc(k->log->n + 1, sizeof(*k->pending));
    k->has = calloc(k->log->n + 1, 1);
    if (!k->pending || !k->has)
        abort();
}

static void end(struct walk *k)
{
    for (unsigned f = 0; f < k->log->n_files; f++) {
        rec_destroy(k->base[f]);
        rec_destroy(k->now[f]);
    }
    free(k->pending);
    free(k->has);
    free(k);
}

int crash_walk(struct crash_walk *w)
{
    struct walk *k = calloc(1, sizeof(*k));
    const struct rec_log *log = w->log;
    int ret = 0;

    if (!k)
        abort();
    k->w = w;
    k->log = w->log;
    begin(k);
    for (size_t i = 0; ret == 0 && i < log->n; i++) {
        const struct rec_op *o = &log->op[i];

        if (o->kind != REC_FLUSH) {
            k->pending[k->n_pending++] = i;
            continue;
        }
        ret = tell_interval(k, o->ended ? o->ended - 1 : log->clock);
        if (o->ended)
            settle(k, o);
    }
    if (ret == 0)
        ret = tell_interval(k, log->clock + 1);
    end(k);
    return ret;
}

void crash_restart(struct rec_log *log, uint64_t *seed)
{
    struct walk *k = calloc(1, sizeof(*k));

    if (!k)
        abort();
    k->log = log;
    begin(k);
    for (size_t i = 0; i < log->n; i++)
        if (log->op[i].kind != REC_FLUSH)
            k->pending[k->n_pending++] = i;
        else if (log->op[i].ended)
            settle(k, &log->op[i]);
    certain(k);
    for (size_t i = 0; i < k->n_pending; i++)
        apply_sectors(k, pending(k, i), seed);
    for (unsigned f = 0; f < log->n_files; f++)
        rec_copy(log->file[f], k->now[f]);
    end(k);
    rec_reset(log->file[0]);
}
