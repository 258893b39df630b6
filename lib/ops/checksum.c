/* SPDX-License-Identifier: MIT */
/* The digest of a disk: a tree of SHA-256 over 64 KiB blocks (see qchain.h). */
#include "ops/checksum.h"

#include <string.h>

#include "ops/copy.h"
#include "util/bytes.h"
#include "util/sha256.h"

#define BLOCK (UINT64_C(64) << 10)
#define FANOUT 1024
#define LEVELS 8 /* 2^16 * 2^70: more than any disk */
#define CHUNK (16 * BLOCK)

typedef uint8_t digest_t[32];

/* The tree, built from the left: one open group a level. */
struct tree {
    struct qc_sha256 group[LEVELS];
    unsigned         n[LEVELS];    /* digests in the open group */
    digest_t         zero[LEVELS]; /* what a level has for zeros only */
    digest_t         first[LEVELS]; /* the level's first digest, and how many it has */
    uint64_t         count[LEVELS];
};

static void tree_init(struct tree *t)
{
    static const uint8_t zeros[4096];
    struct qc_sha256 h;

    memset(t, 0, sizeof(*t));
    qc_sha256_init(&h);
    for (uint64_t i = 0; i < BLOCK / sizeof(zeros); i++)
        qc_sha256_update(&h, zeros, sizeof(zeros));
    qc_sha256_finish(&h, t->zero[0]);
    for (int l = 1; l < LEVELS; l++) {
        qc_sha256_init(&h);
        for (int i = 0; i < FANOUT; i++)
            qc_sha256_update(&h, t->zero[l - 1], sizeof(digest_t));
        qc_sha256_finish(&h, t->zero[l]);
    }
}

static void tree_push(struct tree *t, int level, const digest_t digest)
{
    digest_t full;

    for (; level < LEVELS; level++) {
        if (t->count[level]++ == 0)
            memcpy(t->first[level], digest, sizeof(digest_t));
        if (t->n[level]++ == 0)
            qc_sha256_init(&t->group[level]);
        qc_sha256_update(&t->group[level], digest, sizeof(digest_t));
        if (t->n[level] < FANOUT)
            return;
        qc_sha256_finish(&t->group[level], full);
        t->n[level] = 0;
        digest = full;
    }
}

/* n digests for zeros at a level: whole groups go in one level up. */
static void tree_push_zeros(struct tree *t, int level, uint64_t n)
{
    while (n > 0 && t->n[level] > 0) {
        tree_push(t, level, t->zero[level]);
        n--;
    }
    if (n >= FANOUT && level + 1 < LEVELS) {
        /* The groups' members count here, too: the top level is the one with one. */
        if (t->count[level] == 0)
            memcpy(t->first[level], t->zero[level], sizeof(digest_t));
        t->count[level] += n / FANOUT * FANOUT;
        tree_push_zeros(t, level + 1, n / FANOUT);
        n %= FANOUT;
    }
    for (; n > 0; n--)
        tree_push(t, level, t->zero[level]);
}

static void tree_finish(struct tree *t, uint64_t size, digest_t out)
{
    struct qc_sha256 h;
    digest_t digest;
    uint8_t tail[8];
    int level = 0;

    if (t->count[0] == 0)
        tree_push(t, 0, t->zero[0]);
    while (t->count[level] > 1) {
        if (t->n[level] > 0) {
            while (t->n[level] < FANOUT) {
                qc_sha256_update(&t->group[level], t->zero[level], sizeof(digest_t));
                t->n[level]++;
            }
            qc_sha256_finish(&t->group[level], digest);
            t->n[level] = 0;
            tree_push(t, level + 1, digest);
        }
        level++;
    }
    for (int i = 0; i < 8; i++)
        tail[i] = (uint8_t)(size >> 8 * i);
    qc_sha256_init(&h);
    qc_sha256_update(&h, t->first[level], sizeof(digest_t));
    qc_sha256_update(&h, tail, sizeof(tail));
    qc_sha256_finish(&h, out);
}

/* Hash the blocks of a task's data, on its worker. */
static int hash_task(void *ctx, struct qc_copy_task *t, qchain_error *err)
{
    digest_t *digest = t->local;
    struct qc_sha256 h;
    uint64_t n;

    (void)ctx;
    (void)err;
    for (unsigned i = 0; i < t->n; i++) {
        struct qc_segment *s = &t->segment[i];

        for (uint64_t at = 0; s->buf && at < s->length; at += n) {
            static const uint8_t zeros[512];

            n = qc_min64(BLOCK, s->length - at);
            qc_sha256_init(&h);
            qc_sha256_update(&h, s->buf + at, (size_t)n);
            while (h.length < BLOCK)
                qc_sha256_update(&h, zeros, (size_t)qc_min64(sizeof(zeros), BLOCK - h.length));
            qc_sha256_finish(&h, *digest++);
        }
    }
    return 0;
}

static int add_task(void *ctx, struct qc_copy_task *t, qchain_error *err)
{
    struct tree *tree = ctx;
    const digest_t *digest = t->local;

    (void)err;
    for (unsigned i = 0; i < t->n; i++) {
        uint64_t blocks = qc_div_up(t->segment[i].length, BLOCK);

        if (!t->segment[i].buf)
            tree_push_zeros(tree, 0, blocks);
        for (; t->segment[i].buf && blocks > 0; blocks--)
            tree_push(tree, 0, *digest++);
    }
    return 0;
}

int qc_checksum(qchain *c, uint8_t digest[32], uint32_t threads, qchain_job *job,
                qchain_error *err)
{
    struct tree tree;
    struct qc_copy_job copy = {.c = c, .end = c->size, .align = BLOCK, .chunk = CHUNK,
                               .threads = threads, .job = job, .ctx = &tree,
                               .local_size = CHUNK / BLOCK * sizeof(digest_t),
                               .work = hash_task, .emit = add_task};
    int ret;

    tree_init(&tree);
    ret = qc_copy_run(&copy, err);
    if (ret == 0)
        tree_finish(&tree, c->size, digest);
    return ret;
}
