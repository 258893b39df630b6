/* SPDX-License-Identifier: MIT */
/* Reads and maps of chains in memory, against the model. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "failing_memory.h"
#include "image_tools.h"
#include "mem_layers.h"

static qchain *open_chain(struct mem_chain *m, qchain_env *env)
{
    qchain_error *err = qchain_error_create();
    qchain *c = NULL;

    if (mem_chain_open(m, &c, env, NULL, err) != 0)
        fail_msg("%s", qchain_error_message(err));
    qchain_error_destroy(err);
    return c;
}

static void check_read(const struct mem_chain *m, qchain *c, uint64_t offset, size_t length)
{
    unsigned char *got = malloc(length + 1), *want = malloc(length + 1);

    memset(got, 0xa5, length + 1);
    assert_int_equal(qchain_read(c, got, length, offset, 0, NULL), 0);
    mem_chain_read(m, want, length, offset);
    assert_memory_equal(got, want, length);
    assert_int_equal(got[length], 0xa5);
    free(got);
    free(want);
}

/* The map says of every sector what the model says, and covers all. */
static void check_map(const struct mem_chain *m, qchain *c, uint32_t max, uint32_t flags)
{
    qchain_extent *e = malloc(max * sizeof(*e));
    uint64_t at = 0, next = 0, size = qchain_size(c);
    enum mem_state state;
    uint32_t n, layer;

    while (next < size) {
        assert_int_equal(qchain_map(c, next, UINT64_MAX, e, max, &n, &next, flags, NULL), 0);
        assert_in_range(n, 1, max);
        for (uint32_t i = 0; i < n; i++) {
            assert_true(e[i].offset == at && e[i].length > 0);
            for (; at < e[i].offset + e[i].length; at += 512) {
                layer = mem_chain_look(m, at, &state);
                assert_int_equal((e[i].flags & QCHAIN_EXTENT_PRESENT) != 0, layer < m->n);
                assert_int_equal((e[i].flags & QCHAIN_EXTENT_COMPRESSED) != 0,
                                 state == MEM_COMPRESSED);
                assert_int_equal((e[i].flags & QCHAIN_EXTENT_ZERO) != 0,
                                 state == MEM_ZERO || layer == m->n);
                if (layer < m->n)
                    assert_int_equal(e[i].layer, layer);
            }
        }
        assert_true(next == at);
    }
    assert_true(at == size);
    free(e);
}

static void random_chains_read_as_the_model(void **unused)
{
    uint64_t seed = mem_seed(20);

    (void)unused;
    for (int round = 0; round < 12; round++) {
        struct mem_chain *m = mem_chain_random(1 + random_next(&seed) % 6, 1 << 20, &seed);
        qchain *c = open_chain(m, NULL);
        uint64_t size = qchain_size(c), offset, length;

        assert_true(size == m->layer[0].size);
        assert_int_equal(qchain_layers(c), m->n);
        check_read(m, c, 0, size);
        for (int i = 0; i < 60; i++) {
            offset = random_next(&seed) % size;
            length = random_next(&seed) % (i % 2 ? 5000 : size);
            check_read(m, c, offset, length > size - offset ? size - offset : length);
        }
        check_map(m, c, 1, 0);
        check_map(m, c, 7, QCHAIN_MAP_CLUSTERS);
        check_map(m, c, 5000, QCHAIN_MAP_NO_HOLES);
        qchain_close(c);
        for (uint32_t k = 0; k < m->n; k++)
            assert_int_equal(atomic_load(&m->layer[k].n_open), 0);
        mem_chain_destroy(m);
    }
}

/* Pieces of any length, none too, see the same bytes. */
static void scattered_reads(void **unused)
{
    uint64_t seed = mem_seed(21);
    struct mem_chain *m = mem_chain_random(3, 1 << 20, &seed);
    qchain *c = open_chain(m, NULL);
    uint64_t size = qchain_size(c);
    unsigned char *got = malloc(size), *want = malloc(size);
    qchain_iov iov[1024];

    (void)unused;
    for (int round = 0; round < 150; round++) {
        uint64_t offset = random_next(&seed) % size, at = 0;
        uint32_t n = 1 + random_next(&seed) % (round % 3 ? 20 : 1024);

        for (uint32_t i = 0; i < n; i++) {
            uint64_t len = random_next(&seed) % 3 ? random_next(&seed) % 2000 : 0;

            len = len > size - offset - at ? size - offset - at : len;
            iov[i] = (qchain_iov){len ? got + at : NULL, len};
            at += len;
        }
        memset(got, 0xa5, size);
        assert_int_equal(qchain_readv(c, iov, n, offset, 0, NULL), 0);
        mem_chain_read(m, want, at, offset);
        assert_memory_equal(got, want, at);
    }
    free(got);
    free(want);
    qchain_close(c);
    mem_chain_destroy(m);
}

static void shorter_layers_hide_what_is_below(void **unused)
{
    struct mem_chain *m = mem_chain_create(3);
    qchain_extent e[10];
    uint64_t next;
    uint32_t n;
    qchain *c;

    (void)unused;
    mem_layer_init(m, 2, 8 << 16, 16);
    mem_layer_init(m, 1, (3 << 16) + 512, 16); /* ends within a cluster */
    mem_layer_init(m, 0, 10 << 16, 16);
    for (unsigned i = 0; i < 8; i++)
        mem_layer_set(m, 2, i, MEM_DATA);
    mem_layer_set(m, 1, 1, MEM_ZERO);
    c = open_chain(m, NULL);
    check_read(m, c, 0, 10 << 16);
    check_map(m, c, 100, 0);
    assert_int_equal(qchain_map(c, 0, 10 << 16, e, 10, &n, &next, 0, NULL), 0);
    assert_int_equal(n, 4);
    assert_int_equal(e[2].offset + e[2].length, (3 << 16) + 512);
    assert_int_equal(e[3].flags, QCHAIN_EXTENT_ZERO);
    assert_int_equal(e[3].layer, 0); /* what shows there is the top's, beyond the next one's end */
    qchain_close(c);
    mem_chain_destroy(m);
}

/* A cluster that reaches beyond a shorter layer above counts only as far as it shows. */
static void clusters_cut_by_a_shorter_layer(void **unused)
{
    struct mem_chain *m = mem_chain_create(3);
    qchain *c;

    (void)unused;
    mem_layer_init(m, 2, 128 << 10, 12);
    mem_layer_init(m, 1, 128 << 10, 16);
    mem_layer_init(m, 0, (64 << 10) + 512, 9);
    mem_layer_set(m, 0, 0, MEM_DATA);
    mem_layer_set(m, 0, 1, MEM_DATA);
    mem_layer_set(m, 1, 1, MEM_COMPRESSED);
    for (unsigned i = 0; i < 32; i++)
        mem_layer_set(m, 2, i, MEM_DATA);
    c = open_chain(m, NULL);
    check_map(m, c, 100, 0);
    check_read(m, c, 0, (64 << 10) + 512);
    check_read(m, c, 2048, 4096);
    qchain_close(c);
    mem_chain_destroy(m);
}

static qchain_stats stats_of(qchain *c)
{
    qchain_stats s = {.struct_size = sizeof(s)};

    assert_int_equal(qchain_env_stats(qchain_get_env(c), &s), 0);
    return s;
}

static void parts_of_compressed_clusters_are_kept(void **unused)
{
    struct mem_chain *m = mem_chain_create(1);
    qchain_iov iov[1024];
    unsigned char buf[65536], want[65536];
    uint64_t decoded;
    qchain *c;

    (void)unused;
    mem_layer_init(m, 0, 64 << 16, 16);
    for (unsigned i = 0; i < 64; i++)
        mem_layer_set(m, 0, i, MEM_COMPRESSED);
    c = open_chain(m, NULL);
    for (unsigned i = 0; i < 16; i++)
        check_read(m, c, 5 * 65536 + i * 4096, 4096);
    assert_int_equal(stats_of(c).decoded_clusters, 1);
    assert_int_equal(stats_of(c).decoded_hits, 15);
    check_read(m, c, 5 * 65536 - 100, 65736); /* parts at both ends */
    check_read(m, c, 0, 64 << 16);            /* whole clusters are not worth keeping */
    assert_true(stats_of(c).block_bytes <= 4 * 65536);
    decoded = stats_of(c).decoded_clusters;
    for (unsigned i = 0; i < 1024; i++)
        iov[i] = (qchain_iov){buf + i * 64, 64};
    assert_int_equal(qchain_readv(c, iov, 1024, 20 * 65536, 0, NULL), 0);
    mem_chain_read(m, want, 65536, 20 * 65536);
    assert_memory_equal(buf, want, 65536);
    assert_int_equal(stats_of(c).decoded_clusters, decoded + 1); /* not once a piece */
    qchain_close(c);
    mem_chain_destroy(m);
}

static void broken_streams_are_told(void **unused)
{
    struct mem_chain *m = mem_chain_create(1);
    qchain_error *err = qchain_error_create();
    unsigned char buf[65536];
    qchain_extent e;
    uint64_t next;
    uint32_t n;
    qchain *c;

    (void)unused;
    mem_layer_init(m, 0, 4 << 16, 16);
    for (unsigned i = 0; i < 4; i++)
        mem_layer_set(m, 0, i, MEM_COMPRESSED);
    c = open_chain(m, NULL);
    assert_int_equal(qchain_map(c, 2 << 16, 65536, &e, 1, &n, &next, QCHAIN_MAP_CLUSTERS, err), 0);
    memset(m->layer[0].file + e.host_offset, 0xff, 20);
    assert_int_equal(qchain_read(c, buf, sizeof(buf), 2 << 16, 0, err), QCHAIN_E_CORRUPT);
    assert_int_equal(qchain_error_layer(err), 0);
    assert_int_equal(qchain_error_offset(err), e.host_offset);
    assert_non_null(strstr(qchain_error_message(err), "guest offset 131072"));
    assert_int_equal(qchain_read(c, buf, 100, (2 << 16) + 7, 0, err), QCHAIN_E_CORRUPT);
    check_read(m, c, 0, 2 << 16);
    check_read(m, c, 3 << 16, 1 << 16);
    qchain_error_destroy(err);
    qchain_close(c);
    mem_chain_destroy(m);
}

/* A hostile or merely large size costs nothing, or little. Each step over a disk asks for memory, so by failing after so
 * many requests it bounds the steps: there are 2^25 windows, and 2^31 ranges that a diff merges, but 2^21 runs of 1 TiB. */
static void a_huge_empty_disk(void **unused)
{
    struct mem_chain *m = mem_chain_create(2);
    /* As large as an L1 table of 32 MiB allows: 2 EiB. */
    const uint64_t size = UINT64_C(1) << 61;
    qchain_extent e[4];
    uint64_t next;
    uint32_t n;
    qchain *c;

    (void)unused;
    mem_layer_init(m, 1, size, 21);
    mem_layer_init(m, 0, size, 21);
    c = open_chain(m, NULL);
    atomic_store(&fail_in, 100);
    assert_int_equal(qchain_map(c, 0, size, e, 4, &n, &next, 0, NULL), 0);
    assert_int_equal(n, 1);
    assert_true(next == size && e[0].length == size);
    atomic_store(&fail_in, 3 << 20);
    assert_int_equal(qchain_diff(c, 2, 0, 0, size, e, 4, &n, &next, 0, NULL), 0);
    assert_int_equal(n, 0);
    assert_true(next == size);
    atomic_store(&fail_in, -1);
    check_read(m, c, size - 4096, 4096);
    qchain_close(c);
    mem_chain_destroy(m);
}

static void three_thousand_layers(void **unused)
{
    enum { N = 3000 };
    struct mem_chain *m = mem_chain_create(N);
    qchain *c;

    (void)unused;
    for (uint32_t k = 0; k < N; k++) {
        mem_layer_init(m, k, 4 << 20, 12);
        mem_layer_set(m, k, k * 7 % 1024, k % 5 ? MEM_DATA : MEM_ZERO);
    }
    c = open_chain(m, NULL);
    assert_int_equal(qchain_layers(c), N);
    check_read(m, c, 0, 4 << 20);
    check_map(m, c, 64, 0);
    qchain_close(c);
    for (uint32_t k = 0; k < N; k++)
        assert_int_equal(atomic_load(&m->layer[k].n_open), 0);
    mem_chain_destroy(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_chains_read_as_the_model),
        cmocka_unit_test(scattered_reads),
        cmocka_unit_test(shorter_layers_hide_what_is_below),
        cmocka_unit_test(clusters_cut_by_a_shorter_layer),
        cmocka_unit_test(parts_of_compressed_clusters_are_kept),
        cmocka_unit_test(broken_streams_are_told),
        cmocka_unit_test(a_huge_empty_disk),
        cmocka_unit_test(three_thousand_layers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
