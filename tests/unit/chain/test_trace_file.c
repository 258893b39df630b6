/* SPDX-License-Identifier: MIT */
/* The bytes of traces: what goes in comes out, and nothing else ever does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "chain/trace_file.h"
#include "image_tools.h"
#include "mem_layers.h"
#include "share.h"
#include "util/bytes.h"
#include "util/crc32c.h"

#define MANY 20000u

static qchain_trace_record *made, *got;
static uint8_t block[QC_TRACE_BLOCK_MAX];
static uint64_t seed;

/* A number of a random count of bits. */
static uint64_t some(unsigned bits)
{
    uint64_t v = random_next(&seed);

    return v >> (64 - 1 - random_next(&seed) % bits);
}

static void make_records(size_t n, unsigned bits)
{
    uint64_t time = 0;

    for (size_t i = 0; i < n; i++) {
        qchain_trace_record *r = &made[i];

        time = qc_min64(INT64_MAX, time + (random_next(&seed) % 4 ? some(20) : 0));
        r->time_us = time;
        r->offset = some(bits) & INT64_MAX;
        r->length = qc_min64(some(bits) + 1, INT64_MAX - r->offset);
        r->reads = random_next(&seed) % 8 ? 1 : some(64) + 1;
        if (r->length == 0)
            r->offset--, r->length = 1;
        if (r->reads == 0)
            r->reads = UINT64_MAX;
    }
}

/* All n come back, by as many blocks as it takes; lost comes with the first. */
static unsigned round_trip(size_t n, uint64_t lost)
{
    unsigned blocks = 0;
    uint64_t told;
    uint32_t count;
    size_t done, size;

    for (size_t at = 0; at < n; at += done, blocks++) {
        memset(block, 0xa5, sizeof(block));
        size = qc_trace_put_block(block, made + at, n - at, lost + blocks, &done);
        assert_in_range(done, 1, QC_TRACE_BLOCK_RECORDS);
        assert_in_range(size, QC_TRACE_BLOCK_HEADER_BYTES + 4, QC_TRACE_BLOCK_MAX);
        assert_int_equal(qc_trace_get_block(got, &count, &told, block, size), size);
        assert_int_equal(qc_trace_get_block(got, &count, &told, block, sizeof(block)), size);
        assert_int_equal(count, done);
        assert_true(told == lost + blocks);
        assert_memory_equal(got, made + at, done * sizeof(*made));
    }
    return blocks;
}

static void what_goes_in_comes_out(void **unused)
{
    (void)unused;
    for (unsigned round = 0; round < share(60); round++) {
        size_t n = 1 + random_next(&seed) % MANY;

        make_records(n, 1 + (unsigned)(random_next(&seed) % 63));
        round_trip(n, some(63));
    }
}

static void the_largest_numbers_go_through(void **unused)
{
    (void)unused;
    made[0] = (qchain_trace_record){INT64_MAX, INT64_MAX - 1, 1, UINT64_MAX};
    made[1] = (qchain_trace_record){INT64_MAX, 0, INT64_MAX, 1};
    made[2] = (qchain_trace_record){INT64_MAX, INT64_MAX - 1, 1, 1};
    made[3] = (qchain_trace_record){INT64_MAX, 0, 1, UINT64_MAX};
    assert_int_equal(round_trip(4, UINT64_MAX), 1);
    /* Records of the most bytes end a block by its bytes, the smallest by their count. */
    for (size_t i = 0; i < MANY; i++)
        made[i] = (qchain_trace_record){0, i % 2 ? 0 : INT64_MAX - 1, i % 2 ? INT64_MAX : 1, UINT64_MAX};
    assert_true(round_trip(MANY, 0) > MANY / QC_TRACE_BLOCK_RECORDS + 1);
    for (size_t i = 0; i < MANY; i++)
        made[i] = (qchain_trace_record){7, i, 1, 1};
    assert_int_equal(round_trip(MANY, 0), MANY / QC_TRACE_BLOCK_RECORDS + 1);
}

/* In room of its own, so that a checker sees a byte too much. */
static size_t get_exactly(const uint8_t *p, size_t n, uint32_t *count)
{
    uint8_t *copy = test_malloc(n + 1);
    uint64_t lost;
    size_t size;

    memcpy(copy + 1, p, n);
    size = qc_trace_get_block(got, count, &lost, copy + 1, n);
    test_free(copy);
    return size;
}

static void a_block_cut_or_flipped_is_none(void **unused)
{
    uint32_t count;
    size_t done, size;

    (void)unused;
    make_records(40, 40);
    size = qc_trace_put_block(block, made, 40, 0, &done);
    assert_int_equal(done, 40);
    for (size_t n = 0; n < size; n++)
        assert_int_equal(get_exactly(block, n, &count), 0);
    for (size_t i = 0; i < size; i++)
        for (unsigned bit = 0; bit < 8; bit++) {
            block[i] ^= (uint8_t)(1u << bit);
            assert_int_equal(get_exactly(block, size, &count), 0);
            block[i] ^= (uint8_t)(1u << bit);
        }
    assert_int_equal(get_exactly(block, size, &count), size);
}

/* With the checksum made right for whatever the rest says: no record comes out that could not be put in. */
static void a_forged_block_says_nothing_impossible(void **unused)
{
    unsigned taken = 0, refused = 0;
    uint32_t count;
    size_t done, size;

    (void)unused;
    for (unsigned round = 0; round < share(200000); round++) {
        make_records(1 + random_next(&seed) % 20, 60);
        size = qc_trace_put_block(block, made, 1 + random_next(&seed) % 20, 0, &done);
        for (unsigned i = 0; i <= random_next(&seed) % 4; i++)
            block[8 + random_next(&seed) % (size - 8)] = (uint8_t)random_next(&seed);
        qc_put_be32(block + 4, 0);
        qc_put_be32(block + 4, qc_crc32c(0, block, size));
        if (get_exactly(block, size, &count) == 0) {
            refused++;
            continue;
        }
        taken++;
        assert_in_range(count, 1, QC_TRACE_BLOCK_RECORDS);
        for (uint32_t i = 0; i < count; i++) {
            assert_true(qc_trace_record_ok(&got[i]));
            assert_true(i == 0 || got[i].time_us >= got[i - 1].time_us);
        }
    }
    assert_true(taken > 100 / short_by() && refused > 100 / short_by());
}

/* Ten bytes may hold 64 bits, and no more; eleven are none. */
static void numbers_have_64_bits(void **unused)
{
    static const struct {
        uint8_t end[3];
        size_t  n;
        bool    ok;
    } ends[] = {{{0x00}, 1, true}, {{0x01}, 1, false}, {{0x02}, 1, false}, {{0x7f}, 1, false},
                {{0x80, 0x00}, 2, false}};
    uint32_t count;
    size_t size;

    (void)unused;
    /* Of the reads less 1: nine bytes with 63 bits, then the end. With all 64 there would be none. */
    for (unsigned i = 0; i < sizeof(ends) / sizeof(ends[0]); i++) {
        uint8_t *p = block + QC_TRACE_BLOCK_HEADER_BYTES;

        memset(block, 0, sizeof(block));
        memcpy(block, "QTBK", 4);
        p[2] = 1;
        memset(p + 3, 0xff, 9);
        memcpy(p + 12, ends[i].end, ends[i].n);
        size = QC_TRACE_BLOCK_HEADER_BYTES + 12 + ends[i].n;
        qc_put_be32(block + 8, (uint32_t)(12 + ends[i].n));
        qc_put_be32(block + 12, 1);
        qc_put_be32(block + 4, qc_crc32c(0, block, size));
        assert_int_equal(get_exactly(block, size, &count), ends[i].ok ? size : 0);
    }
}

static void headers_are_checked(void **unused)
{
    struct qc_trace_header h = {.part = 7, .disk_size = INT64_MAX, .began_ns = 12345678901234567, .id = {1, 2, 3}};
    struct qc_trace_header back;
    uint8_t p[QC_TRACE_HEADER_BYTES];
    qchain_error err;

    (void)unused;
    qc_trace_put_header(p, &h);
    assert_int_equal(qc_trace_get_header(&back, p, sizeof(p), &err), 0);
    assert_true(back.part == 7 && back.disk_size == INT64_MAX && back.began_ns == h.began_ns);
    assert_memory_equal(back.id, h.id, sizeof(h.id));
    for (size_t n = 0; n < sizeof(p); n++)
        assert_int_equal(qc_trace_get_header(&back, p, n, &err), QCHAIN_E_CORRUPT);
    for (size_t i = 0; i < 8 * sizeof(p); i++) {
        p[i / 8] ^= (uint8_t)(1u << i % 8);
        assert_int_equal(qc_trace_get_header(&back, p, sizeof(p), &err),
                         i / 8 >= 8 && i / 8 < 12 ? QCHAIN_E_UNSUPPORTED : QCHAIN_E_CORRUPT);
        p[i / 8] ^= (uint8_t)(1u << i % 8);
    }
    h.disk_size = (uint64_t)INT64_MAX + 1;
    qc_trace_put_header(p, &h);
    assert_int_equal(qc_trace_get_header(&back, p, sizeof(p), &err), QCHAIN_E_CORRUPT);
}

static void neighbours_are_joined(void **unused)
{
    qchain_trace_record list[10] = {{0, 1000, 100, 1}, {5, 9000, 1000, 2}};

    (void)unused;
    assert_true(qc_trace_join(list, 2, &(qchain_trace_record){6, 1100, 50, 1}, 100000)); /* right behind */
    assert_true(qc_trace_join(list, 2, &(qchain_trace_record){7, 9100, 10, 1}, 100000)); /* within */
    assert_true(qc_trace_join(list, 2, &(qchain_trace_record){8, 9900, 200, 3}, 100000)); /* over the end */
    assert_false(qc_trace_join(list, 2, &(qchain_trace_record){9, 1151, 10, 1}, 100000)); /* a gap */
    assert_false(qc_trace_join(list, 2, &(qchain_trace_record){9, 999, 10, 1}, 100000)); /* before it */
    assert_false(qc_trace_join(list, 2, &(qchain_trace_record){1000000, 1150, 10, 1}, 100000)); /* much later */
    assert_false(qc_trace_join(list, 2, &(qchain_trace_record){4, 9000, 10, 1}, 100000)); /* earlier */
    assert_false(qc_trace_join(list, 0, &(qchain_trace_record){9, 1150, 10, 1}, 100000));
    assert_true(list[0].offset == 1000 && list[0].length == 150 && list[0].reads == 2 && list[0].time_us == 0);
    assert_true(list[1].offset == 9000 && list[1].length == 1100 && list[1].reads == 6);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_goes_in_comes_out),
        cmocka_unit_test(the_largest_numbers_go_through),
        cmocka_unit_test(a_block_cut_or_flipped_is_none),
        cmocka_unit_test(a_forged_block_says_nothing_impossible),
        cmocka_unit_test(numbers_have_64_bits),
        cmocka_unit_test(headers_are_checked),
        cmocka_unit_test(neighbours_are_joined),
    };
    int failed;

    seed = mem_seed(20261128);
    made = malloc(MANY * sizeof(*made));
    got = malloc(QC_TRACE_BLOCK_RECORDS * sizeof(*got));
    failed = made && got ? cmocka_run_group_tests(tests, NULL, NULL) : 1;
    free(made);
    free(got);
    return failed;
}
