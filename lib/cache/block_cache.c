/* SPDX-License-Identifier: MIT */
#include "cache/block_cache.h"

#include <pthread.h>

#include "util/alloc.h"

#define N_SHARDS 8
#define N_BUCKETS 1024 /* a shard; 32 MiB hold 512 clusters of 64 KiB */

struct shard {
    pthread_mutex_t  lock;
    struct qc_block *bucket[N_BUCKETS];
    struct qc_block *newest, *oldest; /* all cached blocks of the shard */
    uint64_t         bytes;
};

struct qc_block_cache {
    uint64_t     budget; /* a shard */
    struct shard shard[N_SHARDS];
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
    c->budget = budget / N_SHARDS;
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
static void remove_block(struct shard *s, struct qc_block *b)
{
    struct qc_block **at = bucket_of(s, hash_key(b->owner, b->offset));

    while (*at != b)
        at = &(*at)->hash_next;
    *at = b->hash_next;
    list_remove(s, b);
    s->bytes -= b->size;
    b->cached = 0;
    if (b->pins == 0)
        qc_free(b);
}

void qc_block_cache_destroy(struct qc_block_cache *c)
{
    if (!c)
        return;
    for (int i = 0; i < N_SHARDS; i++) {
        while (c->shard[i].oldest)
            remove_block(&c->shard[i], c->shard[i].oldest);
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
        b->pins++;
        list_remove(s, b);
        list_push(s, b);
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
    b->pins = 1;
    b->cached = 0;
    b->size = size;
    return b;
}

void qc_block_insert(struct qc_block_cache *c, struct qc_block *b, uint64_t owner, uint64_t offset)
{
    uint64_t hash = hash_key(owner, offset);
    struct shard *s = shard_of(c, hash);
    struct qc_block *older, *next;

    b->owner = owner;
    b->offset = offset;
    pthread_mutex_lock(&s->lock);
    if (!find(s, hash, owner, offset)) {
        b->hash_next = *bucket_of(s, hash);
        *bucket_of(s, hash) = b;
        list_push(s, b);
        s->bytes += b->size;
        b->cached = 1;
        for (older = s->oldest; older && s->bytes > c->budget; older = next) {
            next = older->newer;
            if (older->pins == 0)
                remove_block(s, older);
        }
    }
    pthread_mutex_unlock(&s->lock);
}

void qc_block_unpin(struct qc_block_cache *c, struct qc_block *b)
{
    struct shard *s;

    if (!b)
        return;
    s = shard_of(c, hash_key(b->owner, b->offset));
    pthread_mutex_lock(&s->lock);
    b->pins--;
    if (b->pins == 0 && b->cached && s->bytes > c->budget)
        remove_block(s, b);
    else if (b->pins == 0 && !b->cached)
        qc_free(b);
    pthread_mutex_unlock(&s->lock);
}

void qc_block_drop_owner(struct qc_block_cache *c, uint64_t owner)
{
    struct qc_block *b, *next;

    for (int i = 0; i < N_SHARDS; i++) {
        pthread_mutex_lock(&c->shard[i].lock);
        for (b = c->shard[i].oldest; b; b = next) {
            next = b->newer;
            if (b->owner == owner)
                remove_block(&c->shard[i], b);
        }
        pthread_mutex_unlock(&c->shard[i].lock);
    }
}

uint64_t qc_block_cache_bytes(struct qc_block_cache *c)
{
    uint64_t sum = 0;

    for (int i = 0; i < N_SHARDS; i++) {
        pthread_mutex_lock(&c->shard[i].lock);
        sum += c->shard[i].bytes;
        pthread_mutex_unlock(&c->shard[i].lock);
    }
    return sum;
}
