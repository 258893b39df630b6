/* SPDX-License-Identifier: MIT */
/* Parsers of the snapshot table and the bitmap directory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "qcow2/bitmap_dir.h"
#include "qcow2/snapshot_table.h"
#include "util/error.h"

#define FILE_SIZE (1u << 20)

static void put(uint8_t *p, unsigned width, uint64_t v)
{
    while (width-- > 0) {
        p[width] = (uint8_t)v;
        v >>= 8;
    }
}

static size_t make_snapshot(uint8_t *p, uint32_t extra)
{
    memset(p, 0, 40 + extra);
    put(p, 8, 0x123000);
    put(p + 8, 4, 7);
    put(p + 12, 2, 2);
    put(p + 14, 2, 5);
    put(p + 16, 4, 1000);
    put(p + 20, 4, 2000);
    put(p + 24, 8, 3000);
    put(p + 32, 4, 4000);
    put(p + 36, 4, extra);
    for (uint32_t i = 0; i + 8 <= extra && i < 24; i += 8)
        put(p + 40 + i, 8, 5000 + i);
    memcpy(p + 40 + extra, "42" "hello", 7);
    return 47 + extra;
}

static void test_snapshot(void **state)
{
    static const uint32_t extras[] = {0, 7, 8, 15, 16, 23, 24, 1024};
    uint8_t p[1200];

    (void)state;
    for (size_t i = 0; i < sizeof(extras) / sizeof(extras[0]); i++) {
        uint32_t extra = extras[i];
        size_t len = make_snapshot(p, extra);
        struct qc2_snapshot s;

        assert_int_equal(qc2_snapshot_parse(&s, p, len, 0, NULL), 0);
        assert_int_equal(s.l1_offset, 0x123000);
        assert_int_equal(s.l1_size, 7);
        assert_int_equal(s.date_sec, 1000);
        assert_int_equal(s.date_nsec, 2000);
        assert_int_equal(s.vm_clock_nsec, 3000);
        assert_int_equal(s.vm_state_size, extra >= 8 ? 5000 : 4000);
        assert_int_equal(s.has_disk_size, extra >= 16);
        assert_int_equal(s.disk_size, extra >= 16 ? 5008 : 0);
        assert_int_equal(s.has_icount, extra >= 24);
        assert_int_equal(s.id_len, 2);
        assert_memory_equal(s.id, "42", 2);
        assert_int_equal(s.name_len, 5);
        assert_memory_equal(s.name, "hello", 5);
        assert_int_equal(s.bytes, (len + 7) / 8 * 8);
        for (size_t n = 0; n < len; n++)
            assert_int_equal(qc2_snapshot_parse(&s, p, n, 0, NULL), n < 40 ? 40 : len);
    }
}

static void test_snapshot_limits(void **state)
{
    uint8_t p[1200];
    struct qc2_snapshot s;
    qchain_error err;

    (void)state;
    make_snapshot(p, 24);
    put(p + 56, 8, UINT64_MAX);
    assert_int_equal(qc2_snapshot_parse(&s, p, sizeof(p), 0, NULL), 0);
    assert_false(s.has_icount);
    put(p + 12, 4, 0xffffffff);
    assert_int_equal(qc2_snapshot_parse(&s, p, sizeof(p), 0, NULL), 40 + 24 + 2 * 65535);
    put(p + 36, 4, 1025);
    qc_error_init(&err);
    assert_int_equal(qc2_snapshot_parse(&s, p, sizeof(p), 3, &err), QCHAIN_E_LIMIT);
    assert_non_null(strstr(err.text, "snapshot 3 extra_data_size=1025"));
}

static void make_bitmap(uint8_t *p)
{
    memset(p, 0, 24);
    put(p, 8, 0x4000);
    put(p + 8, 4, 2);
    put(p + 12, 4, 2);
    p[16] = 1;
    p[17] = 16;
    put(p + 18, 2, 5);
}

static const struct bitmap_change {
    unsigned at, width;
    uint64_t value;
    int      code;
} bitmap_changes[] = {
    {0, 8, 0, QCHAIN_E_CORRUPT},
    {0, 8, 0x4200, QCHAIN_E_CORRUPT},
    {0, 8, FILE_SIZE, QCHAIN_E_CORRUPT},
    {0, 8, UINT64_MAX - 4095, QCHAIN_E_CORRUPT},
    {8, 4, 0, QCHAIN_E_CORRUPT},
    {8, 4, 131072, QCHAIN_E_CORRUPT}, /* not too large, but past the end */
    {8, 4, 131073, QCHAIN_E_LIMIT},
    {8, 4, 0xffffffff, QCHAIN_E_LIMIT},
    {12, 4, 7, 0},
    {12, 4, 8, QCHAIN_E_CORRUPT},
    {16, 1, 0, QCHAIN_E_UNSUPPORTED},
    {16, 1, 2, QCHAIN_E_UNSUPPORTED},
    {17, 1, 8, QCHAIN_E_LIMIT},
    {17, 1, 31, 0},
    {17, 1, 32, QCHAIN_E_LIMIT},
    {17, 1, 255, QCHAIN_E_LIMIT},
    {18, 2, 0, QCHAIN_E_CORRUPT},
    {18, 2, 1023, 0},
    {18, 2, 1024, QCHAIN_E_CORRUPT},
    {20, 4, 0xffffffff, 0}, /* the directory's end says whether that is too much */
};

static void test_bitmap(void **state)
{
    struct qc2_header h = {.cluster_bits = 12, .size = (UINT64_C(1) << 32) - 512};
    struct qc2_bitmap b;
    uint8_t p[24];

    (void)state;
    make_bitmap(p);
    assert_int_equal(qc2_bitmap_parse(&b, p, &h, FILE_SIZE, 0, NULL), 0);
    assert_int_equal(b.bytes, 32);
    for (size_t i = 0; i < sizeof(bitmap_changes) / sizeof(bitmap_changes[0]); i++) {
        const struct bitmap_change *c = &bitmap_changes[i];

        make_bitmap(p);
        put(p + c->at, c->width, c->value);
        assert_int_equal(qc2_bitmap_parse(&b, p, &h, FILE_SIZE, 0, NULL), c->code);
    }
    make_bitmap(p);
    h.size = (UINT64_C(1) << 32) + 512; /* 2 clusters of bits, 64 KiB each, are 4 GiB */
    assert_int_equal(qc2_bitmap_parse(&b, p, &h, FILE_SIZE, 0, NULL), QCHAIN_E_CORRUPT);
    put(p + 12, 4, 1);
    assert_int_equal(qc2_bitmap_parse(&b, p, &h, FILE_SIZE, 0, NULL), 0);
}

static void test_bitmap_dir(void **state)
{
    struct qc2_header h = {.cluster_bits = 12, .n_bitmaps = 1, .bitmap_dir_size = 32,
                           .bitmap_dir_offset = 0x5000};

    (void)state;
    assert_int_equal(qc2_bitmap_dir_check(&h, FILE_SIZE, NULL), 0);
    h.n_bitmaps = 0;
    assert_int_equal(qc2_bitmap_dir_check(&h, FILE_SIZE, NULL), QCHAIN_E_CORRUPT);
    h.n_bitmaps = 65536;
    assert_int_equal(qc2_bitmap_dir_check(&h, FILE_SIZE, NULL), QCHAIN_E_LIMIT);
    h.n_bitmaps = 65535;
    h.bitmap_dir_offset = 0x5001;
    assert_int_equal(qc2_bitmap_dir_check(&h, FILE_SIZE, NULL), QCHAIN_E_CORRUPT);
    h.bitmap_dir_offset = FILE_SIZE;
    assert_int_equal(qc2_bitmap_dir_check(&h, FILE_SIZE, NULL), QCHAIN_E_CORRUPT);
    h.bitmap_dir_size = (64u << 20) + 1;
    assert_int_equal(qc2_bitmap_dir_check(&h, FILE_SIZE, NULL), QCHAIN_E_LIMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_snapshot),
        cmocka_unit_test(test_snapshot_limits),
        cmocka_unit_test(test_bitmap),
        cmocka_unit_test(test_bitmap_dir),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
