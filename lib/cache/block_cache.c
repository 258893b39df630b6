/* SPDX-License-Identifier: MIT */
#include "cache/block_cache.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "util/alloc.h"

#define N_SHARDS 8
#define CACHED 1u
#define PIN 2u
#define OFTEN 4u /* uses that are counted, at most */
#define N_BUCKETS 1024 /* a shard; 32 MiB hold 512 clusters of 64 KiB */

struct shard {
    pthread_mutex_t  lock;
    struct qc_block *bucket[N_BUCKETS];
    struct qc_block *newest, *oldest; /* all cached blocks of the shard */
};

/* One budget for all shards: blocks may be as large as a shard's part of it would be. */
struct qc_block_cache {
    uint64_t             budget;
    atomic_uint_fast64_t bytes;    /* of cached blocks */
    atomic_uint_fast64_t reserved; /* of others that count, too */
    atomic_uint          victim;   /* the shard that gives next */
    struct shard         shard[N_SHARDS];
};

static uint64_t hash_key(uint64_t owner, uint64_t offset)
{
    uint64_t h = (offset ^ owner << 40) * UINT64_C(0x9e3779b97f4a7c15);

    return h ^ h >> 29;
}

static struct shard *shard_of(struct qc_block_cache *c, uint64_t hash)
{
    return &c->shard[hash % N_SHARDS];
}

static struct qc_block **bucket_of(struct shard *s, uint64_t hash)
{
    return &s->bucket[hash / N_SHARDS % N_BUCKETS];
}

struct qc_block_cache *qc_block_cache_create(uint64_t budget)
{
    struct qc_block_cache *c = qc_calloc(1, sizeof(*c));

    if (!c)
        return NULL;
    c->budget = budget;
    for (int i = 0; i < N_SHARDS; i++)
        pthread_mutex_init(&c->shard[i].lock, NULL);
    return c;
}

static void list_remove(struct shard *s, struct qc_block *b)
{
    *(b->newer ? &b->newer->older : &s->newest) = b->older;
    *(b->older ? &b->older->newer : &s->oldest) = b->newer;
}

static void list_push(struct shard *s, struct qc_block *b)
{
    b->newer = NULL;
    b->older = s->newest;
    *(s->newest ? &s->newest->newer : &s->oldest) = b;
    s->newest = b;
}

/* Take b out of the shard; it is freed now, or by the last unpin. */
static void remove_block(struct qc_block_cache *c, struct shard *s, struct qc_block *b)
{
    struct qc_block **at = bucket_of(s, hash_key(b->owner, b->offset));

    while (*at != b)
        at = &(*at)->hash_next;
    *at = b->hash_next;
    list_remove(s, b);
    atomic_fetch_sub_explicit(&c->bytes, b->size, memory_order_relaxed);
    if (atomic_fetch_sub_explicit(&b->state, CACHED, memory_order_acq_rel) == CACHED)
        qc_free(b);
}

void qc_block_cache_destroy(struct qc_block_cache *c)
{
    if (!c)
        return;
    for (int i = 0; i < N_SHARDS; i++) {
        while (c->shard[i].oldest)
            remove_block(c, &c->shard[i], c->shard[i].oldest);
        pthread_mutex_destroy(&c->shard[i].lock);
    }
    qc_free(c);
}

static struct qc_block *find(struct shard *s, uint64_t hash, uint64_t owner, uint64_t offset)
{
    struct qc_block *b = *bucket_of(s, hash);

    while (b && (b->owner != owner || b->offset != offset))
        b = b->hash_next;
    return b;
}

struct qc_block *qc_block_find(struct qc_block_cache *c, uint64_t owner, uint64_t offset)
{
    uint64_t hash = hash_key(owner, offset);
    struct shard *s = shard_of(c, hash);
    struct qc_block *b;

    pthread_mutex_lock(&s->lock);
    b = find(s, hash, owner, offset);
    if (b) {
        atomic_fetch_add_explicit(&b->state, PIN, memory_order_relaxed);
        if (b->used < OFTEN)
            b->used++;
    }
    pthread_mutex_unlock(&s->lock);
    return b;
}

struct qc_block *qc_block_new(size_t size)
{
    struct qc_block *b = qc_malloc(sizeof(*b) + size);

    if (!b)
        return NULL;
    b->owner = b->offset = 0; /* an unpin finds a shard also for blocks never inserted */
    b->used = 0;
    atomic_init(&b->state, PIN);
    b->size = size;
    return b;
}

static bool over_budget(struct qc_block_cache *c)
{
    return atomic_load_explicit(&c->bytes, memory_order_relaxed) +
               atomic_load_explicit(&c->reserved, memory_order_relaxed) > c->budget;
}

/* Pins are taken under the lock, so that what has none stays so. */
static bool is_pinned(const struct qc_block *b)
{
    return atomic_load_explicit(&b->state, memory_order_acquire) >= PIN;
}

/* Take the oldest block out of a shard that has no use left, but not `but`; false if all are pinned. Those that
 * have become the newest, with a use less, and are come by again if nothing else is found. */
static bool evict_from(struct qc_block_cache *c, struct shard *s, const struct qc_block *but)
{
    struct qc_block *b, *next;

    pthread_mutex_lock(&s->lock);
    for (b = s->oldest; b && (b->used || b == but || is_pinned(b)); b = next) {
        next = b->newer;
        if (b->used && b != but) {
            b->used--;
            list_remove(s, b);
            list_push(s, b);
            next = next ? next : b;
        }
    }
    if (b)
        remove_block(c, s, b);
    pthread_mutex_unlock(&s->lock);
    return b != NULL;
}

/* The shards give in turn, so that one with large blocks does not keep them for long. */
static void evict(struct qc_block_cache *c, const struct qc_block *but)
{
    unsigned in_vain = 0, at;

    while (in_vain < N_SHARDS && over_budget(c)) {
        at = atomic_fetch_add_explicit(&c->victim, 1, memory_order_relaxed) % N_SHARDS;
        in_vain = evict_from(c, &c->shard[at], but) ? 0 : in_vain + 1;
    }
}

void qc_block_insert(struct qc_block_cache *c, struct qc_block *b, uint64_t owner, uint64_t offset)
{
    uint64_t hash = hash_key(owner, offset);
    struct shard *s = shard_of(c, hash);
    bool added = false;

    b->owner = owner;
    b->offset = offset;
    pthread_mutex_lock(&s->lock);
    if (b->size <= c->budget && !find(s, hash, owner, offset)) {
        b->hash_next = *bucket_of(s, hash);
        *bucket_of(s, hash) = b;
        list_push(s, b);
        atomic_fetch_add_explicit(&c->bytes, b->size, memory_order_relaxed);
        atomic_fetch_add_explicit(&b->state, CACHED, memory_order_relaxed);
        added = true;
    }
    pthread_mutex_unlock(&s->lock);
    if (added)
        evict(c, b);
}

void qc_block_unpin(struct qc_block_cache *c, struct qc_block *b)
{
    struct shard *s;

    if (!b)
        return;
    if (over_budget(c)) {
        s = shard_of(c, hash_key(b->owner, b->offset));
        pthread_mutex_lock(&s->lock);
        if (atomic_load_explicit(&b->state, memory_order_relaxed) == (PIN | CACHED))
            remove_block(c, s, b);
        pthread_mutex_unlock(&s->lock);
    }
    /* Unless it was the last to know of it others may free it from now on. */
    if (atomic_fetch_sub_explicit(&b->state, PIN, memory_order_acq_rel) == PIN)
        qc_free(b);
}

void qc_block_drop_owner(struct qc_block_cache *c, uint64_t owner)
{
    struct qc_block *b, *next;

    for (int i = 0; i < N_SHARDS; i++) {
        pthread_mutex_lock(&c->shard[i].lock);
        for (b = c->shard[i].oldest; b; b = next) {
            next = b->newer;
            if (b->owner == owner)
                remove_block(c, &c->shard[i], b);
        }
        pthread_mutex_unlock(&c->shard[i].lock);
    }
}

uint64_t qc_block_cache_bytes(struct qc_block_cache *c)
{
    return atomic_load_explicit(&c->bytes, memory_order_relaxed);
}

void qc_block_cache_reserve(struct qc_block_cache *c, uint64_t bytes)
{
    atomic_fetch_add_explicit(&c->reserved, bytes, memory_order_relaxed);
    evict(c, NULL);
}

void qc_block_cache_release(struct qc_block_cache *c, uint64_t bytes)
{
    atomic_fetch_sub_explicit(&c->reserved, bytes, memory_order_relaxed);
}

uint64_t qc_block_cache_budget(const struct qc_block_cache *c)
{
    return c->budget;
}
