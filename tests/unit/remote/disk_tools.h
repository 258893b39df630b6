/* SPDX-License-Identifier: MIT */
/* What the tests of the disk cache share: a cache in a scratch directory, and a tier below that makes
 * up its bytes. */
#ifndef DISK_TOOLS_H
#define DISK_TOOLS_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "image_tools.h"
#include "mem_layers.h"
#include "remote/disk_int.h"
#include "util/alloc.h"

/* ------------------------------------------------------------------- bytes --- */

/* The eight bytes at a multiple of eight. */
static inline uint64_t bytes_at(uint64_t offset, unsigned seed)
{
    uint64_t x = (offset / 8 + 1) * UINT64_C(0x9e3779b97f4a7c15) + seed * UINT64_C(0xbf58476d1ce4e5b9);

    x ^= x >> 29;
    return x * UINT64_C(0x94d049bb133111eb);
}

static inline void make_bytes(void *buf, uint64_t offset, size_t length, unsigned seed)
{
    uint8_t *p = buf;

    for (size_t i = 0, n; i < length; i += n) {
        uint64_t x = bytes_at(offset + i, seed);

        n = 8 - (offset + i) % 8;
        n = n < length - i ? n : length - i;
        memcpy(p + i, (uint8_t *)&x + (offset + i) % 8, n);
    }
}

static inline bool right_bytes(const void *buf, uint64_t offset, size_t length, unsigned seed)
{
    const uint8_t *p = buf;

    for (size_t i = 0, n; i < length; i += n) {
        uint64_t x = bytes_at(offset + i, seed);

        n = 8 - (offset + i) % 8;
        n = n < length - i ? n : length - i;
        if (memcmp(p + i, (uint8_t *)&x + (offset + i) % 8, n) != 0)
            return false;
    }
    return true;
}

/* -------------------------------------------------------------- tier below --- */

/* Answers within fetch, in two parts. */
struct fake_tier {
    struct qc_tier base;
    unsigned       seed;
    atomic_uint    fetches, closed;
    atomic_int     fails;   /* with this code */
};

static inline void fake_fetch(struct qc_tier *t, struct qc_fetch *f)
{
    struct fake_tier *fake = (struct fake_tier *)t;
    size_t half = f->length / 2;
    int ret = atomic_load(&fake->fails);

    atomic_fetch_add(&fake->fetches, 1);
    make_bytes(f->buf, f->offset, half, fake->seed);
    if (f->progress)
        f->progress(f, half);
    if (ret != 0) {
        f->done(f, qc_fail(&f->err, ret, "the tier below says so"));
        return;
    }
    make_bytes((char *)f->buf + half, f->offset + half, f->length - half, fake->seed);
    f->done(f, 0); /* progress may leave the end untold */
}

static inline void fake_close(struct qc_tier *t)
{
    atomic_fetch_add(&((struct fake_tier *)t)->closed, 1);
}

static const struct qc_tier_ops fake_ops = {.name = "fake", .fetch = fake_fetch, .close = fake_close};

static inline void fake_init(struct fake_tier *fake, unsigned seed)
{
    memset(fake, 0, sizeof(*fake));
    fake->base.ops = &fake_ops;
    fake->seed = seed;
}

/* -------------------------------------------------------------------- asker --- */

struct asker {
    struct qc_fetch f;
    pthread_mutex_t lock;
    pthread_cond_t  wake;
    size_t          have;
    bool            done, backwards;
    int             ret;
};

static inline void asker_progress(struct qc_fetch *f, size_t have)
{
    struct asker *a = (struct asker *)f;

    pthread_mutex_lock(&a->lock);
    a->backwards |= have < a->have || have > f->length || a->done;
    a->have = have;
    pthread_mutex_unlock(&a->lock);
}

static inline void asker_done(struct qc_fetch *f, int ret)
{
    struct asker *a = (struct asker *)f;

    pthread_mutex_lock(&a->lock);
    a->backwards |= a->done;
    a->done = true;
    a->ret = ret;
    pthread_cond_signal(&a->wake);
    pthread_mutex_unlock(&a->lock);
}

static inline void ask(struct asker *a, struct qc_tier *t, void *buf, uint64_t offset, size_t length)
{
    memset(a, 0, sizeof(*a));
    pthread_mutex_init(&a->lock, NULL);
    pthread_cond_init(&a->wake, NULL);
    qc_error_init(&a->f.err);
    a->f.buf = buf;
    a->f.offset = offset;
    a->f.length = length;
    a->f.progress = asker_progress;
    a->f.done = asker_done;
    qc_tier_fetch(t, &a->f);
}

static inline int await(struct asker *a)
{
    pthread_mutex_lock(&a->lock);
    while (!a->done)
        pthread_cond_wait(&a->wake, &a->lock);
    pthread_mutex_unlock(&a->lock);
    pthread_mutex_destroy(&a->lock);
    pthread_cond_destroy(&a->wake);
    return a->ret;
}

/* Fetch and wait; the bytes are right, or it failed. */
static inline int fetch(struct qc_tier *t, uint64_t offset, size_t length, unsigned seed)
{
    uint8_t *buf = malloc(length);
    struct asker a;
    int ret;

    ask(&a, t, buf, offset, length);
    ret = await(&a);
    assert_false(a.backwards);
    if (ret == 0) {
        assert_int_equal(a.have, length);
        assert_true(right_bytes(buf, offset, length, seed));
    }
    free(buf);
    return ret;
}

/* From this machine: true if it was there, and then it is right. */
static inline bool local(struct qc_tier *t, uint64_t offset, size_t length, unsigned seed)
{
    uint8_t *buf = malloc(length + 1);
    int ret;

    buf[length] = 0x5a;
    ret = t->ops->fetch_local(t, buf, offset, length);
    assert_true(ret == 0 || ret == QCHAIN_E_NOTFOUND);
    assert_int_equal(buf[length], 0x5a);
    if (ret == 0)
        assert_true(right_bytes(buf, offset, length, seed));
    free(buf);
    return ret == 0;
}

/* --------------------------------------------------------------------- rig --- */

struct rig {
    char                 *dir;  /* a scratch directory; the cache is "c" in it */
    char                 *cache;
    struct qc_disk_opts   o;
    atomic_uint_fast64_t  next_owner;
    struct qc_log         log;
    atomic_uint           lines;
    char                  last_line[1024];
    struct qc_disk       *d;
    qchain_error          err;
};

static inline void rig_line(void *data, int level, const char *tag, const char *text)
{
    struct rig *r = data;

    (void)tag;
    if (level > QCHAIN_LOG_WARN)
        return;
    if (atomic_fetch_add(&r->lines, 1) == 0)
        snprintf(r->last_line, sizeof(r->last_line), "%s", text);
}

/* All but a directory. */
static inline void rig_init_bare(struct rig *r, uint64_t max_bytes)
{
    memset(r, 0, sizeof(*r));
    qc_error_init(&r->err);
    r->log = (struct qc_log){.fn = rig_line, .data = r, .level = QCHAIN_LOG_DEBUG};
    atomic_init(&r->next_owner, 1);
    r->o = (struct qc_disk_opts){.max_bytes = max_bytes, .leaves = qc_tasks_create(2),
                                 .blocks = qc_block_cache_create(1 << 20),
                                 .next_owner = &r->next_owner, .slots = qc_slots_create(),
                                 .log = &r->log};
}

static inline void rig_init(struct rig *r, uint64_t max_bytes)
{
    char dir[64] = "/var/tmp/qc-disk-XXXXXX";

    rig_init_bare(r, max_bytes);
    assert_non_null(mkdtemp(dir));
    r->dir = strdup(dir);
    r->cache = qc_asprintf("%s/c", dir);
}

static inline void rig_open(struct rig *r)
{
    assert_int_equal(qc_disk_open(&r->d, r->cache, &r->o, &r->err), 0);
}

/* Open the cache anew, with nothing in memory: as another process would see it. */
static inline void rig_reopen(struct rig *r)
{
    qc_disk_close(r->d);
    qc_block_cache_destroy(r->o.blocks);
    r->o.blocks = qc_block_cache_create(1 << 20);
    rig_open(r);
}

static inline void rig_finish(struct rig *r)
{
    char cmd[128];

    qc_disk_close(r->d);
    qc_tasks_destroy(r->o.leaves);
    qc_block_cache_destroy(r->o.blocks);
    qc_slots_destroy(r->o.slots);
    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", r->dir);
    assert_int_equal(system(cmd), 0);
    free(r->dir);
    qc_free(r->cache);
}

static inline uint64_t counted(struct rig *r, enum qc_counter c)
{
    return qc_counter_sum(r->o.slots, c);
}

static inline struct qc_tier *tier_of(struct rig *r, struct fake_tier *fake, const char *key,
                                      const char *scope, uint64_t size, const char *etag)
{
    struct qc_pin pin = {.size = size};
    struct qc_tier *t;

    snprintf(pin.etag, sizeof(pin.etag), "%s", etag);
    assert_int_equal(qc_disk_tier_create(&t, r->d, key, scope, &pin, &fake->base, &r->err), 0);
    return t;
}

/* The path of the only file of a kind in the cache, to be freed; NULL if there is none. */
static inline char *only_file(const struct rig *r, const char *suffix)
{
    char *v1 = qc_asprintf("%s/v1", r->cache), *path = NULL;
    DIR *d = opendir(v1);

    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        size_t n = strlen(e->d_name), m = strlen(suffix);

        if (n < m || strcmp(e->d_name + n - m, suffix) != 0)
            continue;
        assert_null(path);
        path = qc_asprintf("%s/%s", v1, e->d_name);
    }
    closedir(d);
    qc_free(v1);
    return path;
}

static inline int files_of(const struct rig *r, const char *suffix)
{
    char *v1 = qc_asprintf("%s/v1", r->cache);
    DIR *d = opendir(v1);
    int n = 0;

    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));) {
        size_t len = strlen(e->d_name), m = strlen(suffix);

        n += len >= m && strcmp(e->d_name + len - m, suffix) == 0;
    }
    closedir(d);
    qc_free(v1);
    return n;
}

#endif
