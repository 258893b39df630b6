/* SPDX-License-Identifier: MIT */
/* Comparing disks, and their checksums. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "share.h"
#include "image_tools.h"
#include "mem_layers.h"
#include "util/sha256.h"

static qchain *open_chain(struct mem_chain *m)
{
    qchain *c = NULL;

    assert_int_equal(mem_chain_open(m, &c, NULL, NULL, NULL), 0);
    return c;
}

/* A raw disk with the given bytes. */
static struct mem_chain *raw_disk(const void *p, uint64_t size)
{
    struct mem_chain *m = mem_chain_create(1);

    mem_layer_init(m, 0, size, 0);
    memcpy(m->layer[0].file, p, size);
    return m;
}

static void check_compare(qchain *a, qchain *b, uint32_t flags, uint32_t result, uint64_t offset)
{
    qchain_compare_opts o;

    for (uint32_t threads = 0; threads < 5; threads += 2) {
        qchain_compare_opts_init(&o, sizeof(o));
        o.flags = flags;
        o.threads = threads;
        assert_int_equal(qchain_compare(a, b, &o, NULL), 0);
        assert_int_equal(o.result, result);
        assert_int_equal(o.failed, 0);
        if (result == QCHAIN_DIFFER_CONTENT || result == QCHAIN_DIFFER_ALLOC)
            assert_true(o.offset == offset);
    }
}

static void the_first_difference_is_found(void **unused)
{
    uint64_t seed = mem_seed(60);

    (void)unused;
    for (unsigned round = 0; round < 1 + share(5); round++) {
        struct mem_chain *m = mem_chain_random(3, 4 << 20, &seed), *copy, *longer;
        qchain *c = open_chain(m), *d;
        uint64_t size = qchain_size(c), at;
        unsigned char *want = calloc(1, size + 70000);

        mem_chain_read(m, want, size, 0);
        copy = raw_disk(want, size);
        d = open_chain(copy);
        check_compare(c, d, 0, QCHAIN_SAME, 0);
        check_compare(d, c, 0, QCHAIN_SAME, 0);
        check_compare(c, c, QCHAIN_COMPARE_STRICT, QCHAIN_SAME, 0);
        at = size;
        for (int i = 0; i < 5; i++) { /* the least of several */
            uint64_t here = random_next(&seed) % size;

            copy->layer[0].file[here] ^= 0x40;
            at = here < at ? here : at;
            check_compare(c, d, 0, QCHAIN_DIFFER_CONTENT, at);
        }
        qchain_close(d);
        longer = raw_disk(want, size + 69632);
        d = open_chain(longer);
        check_compare(c, d, 0, QCHAIN_SAME, 0); /* a tail of zeros is no difference */
        check_compare(d, c, 0, QCHAIN_SAME, 0);
        check_compare(d, c, QCHAIN_COMPARE_STRICT, QCHAIN_DIFFER_SIZE, 0);
        longer->layer[0].file[size + 69631] = 1;
        check_compare(c, d, 0, QCHAIN_DIFFER_CONTENT, size + 69631);
        check_compare(d, c, 0, QCHAIN_DIFFER_CONTENT, size + 69631);
        qchain_close(d);
        qchain_close(c);
        mem_chain_destroy(copy);
        mem_chain_destroy(longer);
        mem_chain_destroy(m);
        free(want);
    }
}

static void strictly_allocation_counts(void **unused)
{
    struct mem_chain *a = mem_chain_create(1), *b = mem_chain_create(1);
    qchain *c, *d;

    (void)unused;
    mem_layer_init(a, 0, 8 << 20, 16);
    mem_layer_init(b, 0, 8 << 20, 16);
    for (unsigned i = 0; i < 100; i++) {
        mem_layer_set(a, 0, i, MEM_DATA);
        mem_layer_set(b, 0, i, MEM_DATA);
    }
    mem_layer_set(b, 0, 70, MEM_COMPRESSED); /* has no place of its own */
    c = open_chain(a);
    d = open_chain(b);
    check_compare(c, d, 0, QCHAIN_SAME, 0);
    check_compare(c, d, QCHAIN_COMPARE_STRICT, QCHAIN_DIFFER_ALLOC, 70 << 16);
    qchain_close(c);
    qchain_close(d);
    mem_chain_destroy(a);
    mem_chain_destroy(b);
}

/* The disk that failed is told, also after reads of the other went well. */
static void the_disk_that_fails_is_told(void **unused)
{
    const uint64_t size = UINT64_C(4) << 30;
    struct mem_chain *m[2];
    qchain_error *err = qchain_error_create();
    qchain_env_opts eo;
    qchain_env *env = NULL;
    qchain_compare_opts o;
    qchain *c[2] = {NULL, NULL};

    (void)unused;
    qchain_env_opts_init(&eo, sizeof(eo));
    eo.threads = 1; /* maps no further ahead than is asked for */
    assert_int_equal(qchain_env_create(&env, &eo, NULL), 0);
    for (uint32_t bad = 0; bad < 2; bad++) {
        for (int when = 0; when < 4; when++) {
            for (int i = 0; i < 2; i++) {
                m[i] = mem_chain_create(1);
                mem_layer_init(m[i], 0, size, 12);
                for (unsigned k = 0; k < 1200; k++) /* many extents: several batches of maps */
                    mem_layer_set(m[i], 0, k * 400, MEM_DATA);
                assert_int_equal(mem_chain_open(m[i], &c[i], env, NULL, NULL), 0);
            }
            m[bad]->layer[0].fail_from = atomic_load(&m[bad]->layer[0].n_pread) + when * 300;
            m[bad]->layer[0].fail_to = 1 << 30;
            qchain_compare_opts_init(&o, sizeof(o));
            o.threads = 1;
            assert_int_equal(qchain_compare(c[0], c[1], &o, err), QCHAIN_E_IO);
            assert_int_equal(o.failed, bad + 1);
            assert_int_equal(qchain_error_layer(err), 0);
            for (int i = 0; i < 2; i++) {
                qchain_close(c[i]);
                mem_chain_destroy(m[i]);
            }
        }
    }
    qchain_env_destroy(env);
    qchain_error_destroy(err);
}

/* -------------------------------------------------------------- checksum --- */

static void hash(const void *p, size_t len, uint8_t out[32])
{
    struct qc_sha256 h;

    qc_sha256_init(&h);
    qc_sha256_update(&h, p, len);
    qc_sha256_finish(&h, out);
}

/* As the header tells it, level by level. */
static void naive_checksum(const unsigned char *disk, uint64_t size, uint8_t out[32])
{
    uint64_t n = size ? (size + 65535) / 65536 : 1;
    uint8_t *level = calloc(n, 32), *group = malloc(1024 * 32), zero[32], last[40];
    unsigned char *block = calloc(1, 65536);

    hash(block, 65536, zero);
    for (uint64_t i = 0; i < n; i++) {
        uint64_t len = size > i * 65536 ? size - i * 65536 : 0;

        memset(block, 0, 65536);
        memcpy(block, disk + i * 65536, len < 65536 ? len : 65536);
        hash(block, 65536, level + i * 32);
    }
    while (n > 1) {
        uint64_t up = (n + 1023) / 1024;

        for (uint64_t i = 0; i < up; i++) {
            for (uint64_t k = 0; k < 1024; k++)
                memcpy(group + k * 32, i * 1024 + k < n ? level + (i * 1024 + k) * 32 : zero, 32);
            hash(group, 1024 * 32, level + i * 32);
        }
        for (int k = 0; k < 1024; k++)
            memcpy(group + k * 32, zero, 32);
        hash(group, 1024 * 32, zero);
        n = up;
    }
    memcpy(last, level, 32);
    for (int i = 0; i < 8; i++)
        last[32 + i] = (uint8_t)(size >> 8 * i);
    hash(last, 40, out);
    free(level);
    free(group);
    free(block);
}

static void check_checksum(struct mem_chain *m)
{
    qchain *c = open_chain(m);
    unsigned char *disk = malloc(m->layer[0].size + 1);
    uint8_t want[32], got[32];

    mem_chain_read(m, disk, m->layer[0].size, 0);
    naive_checksum(disk, m->layer[0].size, want);
    for (uint32_t threads = 0; threads < 4; threads += 3) {
        assert_int_equal(qchain_checksum(c, got, threads, NULL, NULL), 0);
        assert_memory_equal(got, want, 32);
    }
    free(disk);
    qchain_close(c);
}

static void checksums_are_as_told(void **unused)
{
    static const uint64_t blocks[] = {0, 1, 2, 15, 16, 17, 1023, 1024, 1025, 2048, 2049};
    uint64_t seed = mem_seed(61);

    (void)unused;
    for (size_t i = 0; i < sizeof(blocks) / sizeof(*blocks); i++) {
        for (int more = 0; more < 3; more++) {
            struct mem_chain *m = mem_chain_create(1);

            mem_layer_init(m, 0, blocks[i] * 65536 + (more == 1 ? 512 : 0), 12 + (unsigned)i % 5);
            for (int k = 0; more < 2 && k < 40 && m->layer[0].n_clusters; k++)
                mem_layer_set(m, 0, random_next(&seed) % m->layer[0].n_clusters,
                              random_next(&seed) % 4 ? MEM_DATA : MEM_ZERO);
            check_checksum(m);
            mem_chain_destroy(m);
        }
    }
    for (int i = 0; i < 6; i++) {
        struct mem_chain *m = mem_chain_random(3, 2 << 20, &seed);

        check_checksum(m);
        mem_chain_destroy(m);
    }
}

/* The same bytes, stored otherwise; and zeros cost nothing. */
static void only_the_bytes_count(void **unused)
{
    struct mem_chain *m[3];
    uint8_t digest[3][32], empty[32];
    qchain *c;

    (void)unused;
    for (int i = 0; i < 3; i++) {
        m[i] = mem_chain_create(i == 2 ? 2 : 1);
        if (i == 2)
            mem_layer_init(m[i], 1, UINT64_C(1) << 50, 21);
        mem_layer_init(m[i], 0, UINT64_C(1) << 50, 21);
        c = open_chain(m[i]);
        assert_int_equal(qchain_checksum(c, empty, 0, NULL, NULL), 0);
        qchain_close(c);
        mem_layer_set(m[i], 0, 3000000, i == 1 ? MEM_COMPRESSED : MEM_DATA);
        mem_layer_set(m[i], 0, 5, MEM_ZERO);
        c = open_chain(m[i]);
        assert_int_equal(qchain_checksum(c, digest[i], 0, NULL, NULL), 0);
        qchain_close(c);
    }
    assert_memory_equal(digest[0], digest[1], 32);
    assert_memory_equal(digest[0], digest[2], 32);
    assert_memory_not_equal(digest[0], empty, 32);
    for (int i = 0; i < 3; i++)
        mem_chain_destroy(m[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_difference_is_found),
        cmocka_unit_test(strictly_allocation_counts),
        cmocka_unit_test(the_disk_that_fails_is_told),
        cmocka_unit_test(checksums_are_as_told),
        cmocka_unit_test(only_the_bytes_count),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
