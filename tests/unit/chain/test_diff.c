/* SPDX-License-Identifier: MIT */
/* Differences between layers, and holes under raw layers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "image_tools.h"
#include "mem_layers.h"

static qchain *open_chain(struct mem_chain *m)
{
    qchain *c = NULL;

    assert_int_equal(mem_chain_open(m, &c, NULL, NULL, NULL), 0);
    return c;
}

/* Does the model say that offset may differ between layers upto and below? */
static bool model_differs(const struct mem_chain *m, uint32_t below, uint32_t upto, uint64_t offset)
{
    for (uint32_t k = upto; k < below; k++) {
        const struct mem_layer *l = &m->layer[k];

        if (offset >= l->size)
            return k > upto; /* zeros, behind a shorter layer */
        if (!l->cluster_bits || (l->state && l->state[offset >> l->cluster_bits] != MEM_ABSENT))
            return true;
    }
    return false;
}

static void check_diff(const struct mem_chain *m, qchain *c, uint32_t below, uint32_t upto,
                       uint64_t from, uint64_t length, uint32_t max)
{
    qchain_extent e[64];
    uint64_t at = from, next = from, end = from + length;
    uint32_t n;

    end = end > qchain_size(c) ? qchain_size(c) : end;
    while (next < end) {
        assert_int_equal(qchain_diff(c, below, upto, next, end - next, e, max, &n, &next, 0, NULL),
                         0);
        assert_true(n <= max);
        for (uint32_t i = 0; i < n; i++) {
            assert_true(e[i].offset >= at && e[i].length > 0);
            for (; at < e[i].offset; at += 512)
                assert_false(model_differs(m, below, upto, at));
            for (; at < e[i].offset + e[i].length; at += 512)
                assert_true(model_differs(m, below, upto, at));
        }
    }
    for (; at < end; at += 512)
        assert_false(model_differs(m, below, upto, at));
    assert_true(next == end);
}

static void random_chains_differ_as_the_model(void **unused)
{
    uint64_t seed = mem_seed(40);

    (void)unused;
    for (int round = 0; round < 15; round++) {
        struct mem_chain *m = mem_chain_random(2 + random_next(&seed) % 4, 1 << 19, &seed);
        qchain *c = open_chain(m);

        for (uint32_t upto = 0; upto < m->n; upto++) {
            for (uint32_t below = upto + 1; below <= m->n; below++) {
                check_diff(m, c, below, upto, 0, UINT64_MAX / 2, 64);
                check_diff(m, c, below, upto, 0, UINT64_MAX / 2, 1);
                check_diff(m, c, below, upto, random_next(&seed) % (1 << 17) / 512 * 512,
                           random_next(&seed) % (1 << 18) / 512 * 512, 5);
            }
        }
        qchain_close(c);
        mem_chain_destroy(m);
    }
}

/* One layer's difference to what is below is what its own map says is present. */
static void one_layer_is_its_own_map(void **unused)
{
    uint64_t seed = mem_seed(41), next, at;
    struct mem_chain *m = mem_chain_create(3);
    static qchain_extent want[5000], got[5000];
    qchain_open_opts o;
    uint32_t n, n_got, to = 0;
    qchain *c, *alone = NULL;

    (void)unused;
    for (uint32_t k = 0; k < 3; k++) {
        mem_layer_init(m, k, 1 << 20, 12);
        mem_layer_randomize(m, k, 40, &seed);
    }
    c = open_chain(m);
    qchain_open_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_OPEN_NO_BACKING;
    assert_int_equal(mem_chain_open(m, &alone, NULL, &o, NULL), 0);
    assert_int_equal(qchain_map(alone, 0, 1 << 20, want, 5000, &n, &next, QCHAIN_MAP_CLUSTERS, NULL),
                     0);
    for (uint32_t i = 0; i < n; i++)
        if (want[i].flags & QCHAIN_EXTENT_PRESENT)
            want[to++] = want[i];
    assert_int_equal(qchain_diff(c, 1, 0, 0, 1 << 20, got, 5000, &n_got, &at, QCHAIN_MAP_CLUSTERS,
                                 NULL), 0);
    assert_int_equal(n_got, to);
    assert_memory_equal(got, want, to * sizeof(*got));
    assert_true(at == next);
    qchain_close(c);
    qchain_close(alone);
    mem_chain_destroy(m);
}

static void far_content_is_found(void **unused)
{
    struct mem_chain *m = mem_chain_create(2);
    const uint64_t size = UINT64_C(1) << 50, last = (size >> 21) - 1;
    qchain_extent e[8];
    uint64_t next;
    uint32_t n;
    qchain *c;

    (void)unused;
    mem_layer_init(m, 0, size, 21);
    mem_layer_init(m, 1, size / 2, 21);
    mem_layer_set(m, 0, 5, MEM_ZERO);
    mem_layer_set(m, 0, last, MEM_ZERO);
    mem_layer_set(m, 0, last / 2, MEM_ZERO);
    mem_layer_set(m, 1, 9, MEM_ZERO);
    c = open_chain(m);
    assert_int_equal(qchain_diff(c, 1, 0, 0, size, e, 8, &n, &next, 0, NULL), 0);
    assert_int_equal(n, 3);
    assert_true(next == size && e[2].offset == last << 21 && e[2].length == 1 << 21);
    assert_true(e[1].offset == last / 2 << 21 && e[0].offset == 5 << 21);
    assert_int_equal(qchain_diff(c, 2, 1, 0, size, e, 8, &n, &next, 0, NULL), 0);
    assert_int_equal(n, 1);
    assert_int_equal(e[0].offset, 9 << 21);
    assert_int_equal(e[0].layer, 1);
    assert_int_equal(qchain_map(c, 0, size, e, 8, &n, &next, 0, NULL), 0);
    assert_true(next == size);
    qchain_close(c);
    mem_chain_destroy(m);
}

/* ----------------------------------------------------------------- holes --- */

/* Bytes [700, 2000), [4096, 4097) and [10000, end) are data. */
static int some_extents(struct mem_layer *l, qchain_store_extent *out, uint64_t length,
                        uint64_t offset)
{
    static const uint64_t edge[] = {0, 700, 2000, 4096, 4097, 10000};
    uint64_t end = l->file_size;

    (void)length;
    for (unsigned i = 0; i < 6; i++) {
        if (offset < edge[i])
            end = edge[i] < end ? edge[i] : end;
        else {
            out->offset = edge[i];
            out->hole = i % 2 == 0;
        }
    }
    out->length = end - out->offset;
    return 0;
}

/* However odd the edges of holes: no byte of data is ever told to be zero. */
static void holes_hide_no_data(void **unused)
{
    struct mem_chain *m = mem_chain_create(1);
    qchain_extent e[20];
    uint64_t next = 0, at = 0, zeros = 0;
    uint32_t n, max[] = {1, 20};
    qchain *c;

    (void)unused;
    mem_layer_init(m, 0, 16384, 0);
    for (unsigned i = 0; i < 32; i++)
        mem_layer_set(m, 0, i, MEM_DATA);
    memset(m->layer[0].file, 0, 700);
    memset(m->layer[0].file + 2000, 0, 2096);
    memset(m->layer[0].file + 4097, 0, 10000 - 4097);
    m->layer[0].extents = some_extents;
    c = open_chain(m);
    for (int round = 0; round < 2; round++) {
        for (at = next = zeros = 0; next < 16384;) {
            assert_int_equal(qchain_map(c, next, 16384, e, max[round], &n, &next, 0, NULL), 0);
            for (uint32_t i = 0; i < n; i++) {
                assert_true(e[i].offset == at && e[i].length > 0);
                at += e[i].length;
                assert_true(e[i].flags & QCHAIN_EXTENT_PRESENT);
                for (uint64_t b = e[i].offset; e[i].flags & QCHAIN_EXTENT_ZERO && b < at; b++)
                    assert_int_equal(m->layer[0].file[b], 0);
                zeros += e[i].flags & QCHAIN_EXTENT_ZERO ? e[i].length : 0;
            }
        }
        assert_true(next == 16384);
        assert_true(zeros > 7000); /* and holes are found */
    }
    for (at = next = 0; next < 16384;) {
        assert_int_equal(qchain_map(c, next, 16384, e, 20, &n, &next, QCHAIN_MAP_NO_HOLES, NULL), 0);
        for (uint32_t i = 0; i < n; i++)
            assert_false(e[i].flags & QCHAIN_EXTENT_ZERO);
    }
    qchain_close(c);
    mem_chain_destroy(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_chains_differ_as_the_model),
        cmocka_unit_test(one_layer_is_its_own_map),
        cmocka_unit_test(far_content_is_found),
        cmocka_unit_test(holes_hide_no_data),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
