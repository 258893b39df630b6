/* SPDX-License-Identifier: MIT */
/* CRC32C: known answers, and the processor's way and the table's against a plain one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "image_tools.h"
#include "mem_layers.h"
/* The ways by themselves. */
#include "util/crc32c.c"

static uint32_t by_bits(uint32_t crc, const uint8_t *p, size_t n)
{
    for (crc = ~crc; n > 0; p++, n--) {
        crc ^= *p;
        for (int i = 0; i < 8; i++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78 : 0);
    }
    return ~crc;
}

static void check_all(uint32_t from, const uint8_t *p, size_t n, uint32_t want)
{
    uint8_t *to = test_malloc(n + 1);

    to[n] = 77;
    assert_int_equal(qc_crc32c_copy(from, to, p, n), want);
    assert_memory_equal(to, p, n);
    assert_int_equal(to[n], 77);
    test_free(to);
    assert_int_equal(by_bits(from, p, n), want);
    assert_int_equal(qc_crc32c(from, p, n), want);
    assert_int_equal(~continue_plain(~from, p, n), want);
#ifdef HAVE_CRC32
    if (CPU_FEATURE_ACTIVE(SSE4_2))
        assert_int_equal(~continue_sse42(~from, p, n), want);
    if (CPU_FEATURE_ACTIVE(SSE4_2) && CPU_FEATURE_ACTIVE(PCLMULQDQ))
        assert_int_equal(~continue_three(~from, p, n), want);
    if (n >= 256 && has_wide())
        assert_int_equal(~continue_wide(~from, p, n), want);
#endif
}

/* RFC 3720, B.4, and the usual nine digits. */
static void known_answers(void **unused)
{
    static const uint8_t command[48] = {
        0x01, 0xc0, 0, 0, 0, 0, 0, 0, 0, 0, 0,    0, 0,    0, 0, 0, 0x14, 0, 0, 0, 0, 0, 0x04, 0,
        0,    0,    0, 0x14, 0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0, 0};
    uint8_t b[32];

    (void)unused;
    memset(b, 0, sizeof(b));
    check_all(0, b, sizeof(b), 0x8a9136aa);
    memset(b, 0xff, sizeof(b));
    check_all(0, b, sizeof(b), 0x62a8ab43);
    for (unsigned i = 0; i < sizeof(b); i++)
        b[i] = (uint8_t)i;
    check_all(0, b, sizeof(b), 0x46dd794e);
    for (unsigned i = 0; i < sizeof(b); i++)
        b[i] = (uint8_t)(31 - i);
    check_all(0, b, sizeof(b), 0x113fdb5c);
    check_all(0, command, sizeof(command), 0xd9963a56);
    check_all(0, (const uint8_t *)"123456789", 9, 0xe3069283);
    check_all(0, b, 0, 0);
    check_all(0x12345678, b, 0, 0x12345678);
}

/* Each alignment with each small length, in memory that ends where the bytes do. */
static void all_ways_agree(void **unused)
{
    uint64_t seed = mem_seed(20261);

    (void)unused;
    printf("QC_SEED=%llu\n", (unsigned long long)seed);
    for (size_t n = 0; n < 300; n++) {
        for (size_t align = 0; align < 8; align++) {
            uint8_t *p = test_malloc(align + n + 1);
            uint32_t from = n % 2 ? (uint32_t)random_next(&seed) : 0;

            for (size_t i = 0; i < align + n; i++)
                p[i] = (uint8_t)random_next(&seed);
            check_all(from, p + align, n, by_bits(from, p + align, n));
            test_free(p);
        }
    }
}

/* Around the lengths at which three stretches go side by side. */
static void stretches(void **unused)
{
    static const size_t around[] = {265, 480, 512, 960, 4080, 4096, 4560, 8160, 8192};
    uint64_t seed = mem_seed(20263);

    (void)unused;
    for (size_t i = 0; i < sizeof(around) / sizeof(around[0]); i++) {
        for (size_t n = around[i] - 9; n < around[i] + 9; n++) {
            uint8_t *p = test_malloc(n);
            uint32_t from = (uint32_t)random_next(&seed);

            for (size_t j = 0; j < n; j++)
                p[j] = (uint8_t)random_next(&seed);
            check_all(from, p, n, by_bits(from, p, n));
            test_free(p);
        }
    }
}

/* In parts it is what it is in one piece. */
static void goes_on(void **unused)
{
    uint64_t seed = mem_seed(20262);
    uint8_t *p = test_malloc(100000);
    uint32_t whole, crc;

    (void)unused;
    for (size_t i = 0; i < 100000; i++)
        p[i] = (uint8_t)random_next(&seed);
    whole = by_bits(0, p, 100000);
    check_all(0, p, 100000, whole);
    for (int round = 0; round < 50; round++) {
        size_t at = 0, n;

        crc = 0;
        while (at < 100000) {
            n = random_next(&seed) % 3000;
            if (n > 100000 - at)
                n = 100000 - at;
            crc = qc_crc32c(crc, p + at, n);
            at += n;
        }
        assert_int_equal(crc, whole);
    }
    test_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(known_answers),
        cmocka_unit_test(all_ways_agree),
        cmocka_unit_test(stretches),
        cmocka_unit_test(goes_on),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
