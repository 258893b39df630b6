/* SPDX-License-Identifier: MIT */
/* The cache of decoded clusters. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cache/block_cache.h"
#include "image_tools.h"

#define SHARDS 8 /* the budget is divided among them */
#define BLOCK 4096

static void put(struct qc_block_cache *c, uint64_t owner, uint64_t offset, size_t size)
{
    struct qc_block *b = qc_block_new(size);

    assert_non_null(b);
    memset(b->data, (int)(owner * 31 + offset / 512), size);
    qc_block_insert(c, b, owner, offset);
    qc_block_unpin(c, b);
}

/* True if the block is there, and right. */
static bool has(struct qc_block_cache *c, uint64_t owner, uint64_t offset)
{
    struct qc_block *b = qc_block_find(c, owner, offset);
    bool right;

    if (!b)
        return false;
    right = b->owner == owner && b->offset == offset &&
            b->data[0] == (unsigned char)(owner * 31 + offset / 512) &&
            b->data[b->size - 1] == b->data[0];
    qc_block_unpin(c, b);
    assert_true(right);
    return true;
}

static void finds_what_was_put(void **unused)
{
    struct qc_block_cache *c = qc_block_cache_create(64 << 20);

    (void)unused;
    assert_null(qc_block_find(c, 0, 0));
    for (uint64_t owner = 0; owner < 10; owner++)
        for (uint64_t i = 0; i < 100; i++)
            put(c, owner, i * 65536, 512);
    for (uint64_t owner = 0; owner < 10; owner++)
        for (uint64_t i = 0; i < 100; i++)
            assert_true(has(c, owner, i * 65536));
    assert_false(has(c, 10, 0));
    assert_false(has(c, 1, 100 * 65536));
    assert_int_equal(qc_block_cache_bytes(c), 1000 * 512);
    qc_block_cache_destroy(c);
    qc_block_cache_destroy(NULL);
    qc_block_unpin(NULL, NULL);
}

static void a_key_is_taken_once(void **unused)
{
    struct qc_block_cache *c = qc_block_cache_create(64 << 20);
    struct qc_block *a = qc_block_new(100), *b = qc_block_new(100), *never = qc_block_new(7);

    (void)unused;
    qc_block_insert(c, a, 1, 512);
    qc_block_insert(c, b, 1, 512);
    assert_int_equal(qc_block_cache_bytes(c), 100);
    assert_ptr_equal(qc_block_find(c, 1, 512), a);
    qc_block_unpin(c, a);
    qc_block_unpin(c, a);
    qc_block_unpin(c, b); /* freed: it is in no table */
    qc_block_unpin(c, never);
    assert_ptr_equal(qc_block_find(c, 1, 512), a);
    qc_block_unpin(c, a);
    qc_block_cache_destroy(c);
}

static void keeps_to_its_budget(void **unused)
{
    const uint64_t budget = SHARDS * 8 * BLOCK;
    struct qc_block_cache *c = qc_block_cache_create(budget);
    unsigned kept = 0;

    (void)unused;
    for (uint64_t i = 0; i < 1000; i++) {
        put(c, 3, i * BLOCK, BLOCK);
        assert_true(qc_block_cache_bytes(c) <= budget);
        assert_true(has(c, 3, i * BLOCK)); /* the newest is never the victim */
        has(c, 3, 0);
    }
    assert_true(qc_block_cache_bytes(c) > budget / 2);
    assert_true(has(c, 3, 0)); /* what is used stays */
    for (uint64_t i = 1; i < 900; i++)
        kept += has(c, 3, i * BLOCK);
    assert_true(kept < 32); /* what is not goes */
    put(c, 3, 1, 2 * budget); /* larger than all: not kept, nor is all else lost for nothing */
    assert_false(has(c, 3, 1));
    assert_true(qc_block_cache_bytes(c) <= budget);
    qc_block_cache_destroy(c);
}

static void pinned_blocks_stay(void **unused)
{
    struct qc_block_cache *c = qc_block_cache_create(SHARDS * BLOCK);
    struct qc_block *pin[100];

    (void)unused;
    for (uint64_t i = 0; i < 100; i++) {
        pin[i] = qc_block_new(BLOCK);
        memset(pin[i]->data, (int)(5 * 31 + i * BLOCK / 512), BLOCK);
        qc_block_insert(c, pin[i], 5, i * BLOCK);
    }
    assert_int_equal(qc_block_cache_bytes(c), 100 * BLOCK);
    for (uint64_t i = 0; i < 100; i++)
        assert_true(has(c, 5, i * BLOCK));
    for (uint64_t i = 0; i < 100; i++)
        qc_block_unpin(c, pin[i]); /* and now they go */
    assert_true(qc_block_cache_bytes(c) <= SHARDS * BLOCK);
    qc_block_cache_destroy(c);
}

static void an_owner_is_forgotten(void **unused)
{
    struct qc_block_cache *c = qc_block_cache_create(64 << 20);
    struct qc_block *held;

    (void)unused;
    for (uint64_t i = 0; i < 200; i++) {
        put(c, 1, i * BLOCK, 100);
        put(c, 2, i * BLOCK, 100);
    }
    held = qc_block_find(c, 1, 0);
    qc_block_drop_owner(c, 1);
    for (uint64_t i = 0; i < 200; i++) {
        assert_false(has(c, 1, i * BLOCK));
        assert_true(has(c, 2, i * BLOCK));
    }
    assert_int_equal(held->data[99], 31); /* a pin holds it even so */
    qc_block_unpin(c, held);
    qc_block_drop_owner(c, 7);
    qc_block_drop_owner(c, 2);
    assert_int_equal(qc_block_cache_bytes(c), 0);
    qc_block_cache_destroy(c);
}

struct hammer {
    struct qc_block_cache *c;
    uint64_t               seed;
    int                    bad;
};

static void *hammer(void *arg)
{
    struct hammer *h = arg;

    for (int i = 0; i < 20000; i++) {
        uint64_t r = random_next(&h->seed), owner = r % 4, offset = r / 4 % 64 * BLOCK;
        struct qc_block *b = qc_block_find(h->c, owner, offset);

        if (!b) {
            b = qc_block_new(64);
            memset(b->data, (int)(owner * 31 + offset / BLOCK), 64);
            qc_block_insert(h->c, b, owner, offset);
        }
        h->bad |= b->data[0] != (unsigned char)(owner * 31 + offset / BLOCK) ||
                  b->data[63] != b->data[0];
        qc_block_unpin(h->c, b);
        if (r >> 54 == 0)
            qc_block_drop_owner(h->c, r >> 40 & 3);
    }
    return NULL;
}

static void many_threads(void **unused)
{
    struct qc_block_cache *c = qc_block_cache_create(SHARDS * 64 * 12);
    struct hammer h[4];
    pthread_t thread[4];

    (void)unused;
    for (unsigned i = 0; i < 4; i++) {
        h[i] = (struct hammer){c, i + 1, 0};
        assert_int_equal(pthread_create(&thread[i], NULL, hammer, &h[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(thread[i], NULL);
        assert_int_equal(h[i].bad, 0);
    }
    assert_true(qc_block_cache_bytes(c) <= SHARDS * 64 * 12);
    qc_block_cache_destroy(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(finds_what_was_put),  cmocka_unit_test(a_key_is_taken_once),
        cmocka_unit_test(keeps_to_its_budget), cmocka_unit_test(pinned_blocks_stay),
        cmocka_unit_test(an_owner_is_forgotten), cmocka_unit_test(many_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
