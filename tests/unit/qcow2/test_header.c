/* SPDX-License-Identifier: MIT */
/* The header's parser: one good header, and each field wrong once. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "qcow2/header.h"
#include "util/error.h"

#define FILE_SIZE 1048576u
#define CLUSTER 4096u

static void put(uint8_t *p, unsigned width, uint64_t v)
{
    while (width-- > 0) {
        p[width] = (uint8_t)v;
        v >>= 8;
    }
}

/* A header that is right, in a cluster of zeros. */
static void make(uint8_t *p, unsigned version)
{
    memset(p, 0, CLUSTER);
    put(p, 4, 0x514649fb);
    put(p + 4, 4, version);
    put(p + 20, 4, 12);
    put(p + 24, 8, 2 << 20);
    put(p + 36, 4, 1);
    put(p + 40, 8, 3 * CLUSTER);
    put(p + 48, 8, CLUSTER);
    put(p + 56, 4, 1);
    if (version == 2)
        return;
    put(p + 96, 4, 4);
    put(p + 100, 4, 112);
}

/* All of it, as an image is opened. */
static int check(struct qc2_header *h, const uint8_t *p, size_t len, bool salvage,
                 qchain_error *err)
{
    struct qc2_limits lim = {FILE_SIZE, salvage};
    int64_t rc = qc2_header_parse(h, p, len, &lim, err);

    if (rc == 0)
        rc = qc2_features_check(h, p, len, err);
    if (rc == 0)
        rc = qc2_extensions_parse(h, p, len, false, err);
    if (rc > 0)
        return (int)rc;
    return rc == 0 ? qc2_header_check(h, &lim, err) : (int)rc;
}

struct change {
    unsigned    at, width;
    uint64_t    value;
    int         code; /* 0: harmless */
    const char *message;
};

static const struct change changes[] = {
    {0, 4, 0x514649fa, QCHAIN_E_UNSUPPORTED, "no qcow2 image"},
    {4, 4, 0, QCHAIN_E_UNSUPPORTED, "header version=0"},
    {4, 4, 1, QCHAIN_E_UNSUPPORTED, "header version=1"},
    {4, 4, 4, QCHAIN_E_UNSUPPORTED, "header version=4"},
    {4, 4, 0xffffffff, QCHAIN_E_UNSUPPORTED, "header version=4294967295"},
    {8, 8, 200, QCHAIN_E_CORRUPT, "header backing_file_size=0"},
    {8, 8, 1, QCHAIN_E_CORRUPT, "header backing_file_size=0"},
    {16, 4, 77, 0, NULL},
    {20, 4, 0, QCHAIN_E_CORRUPT, "header cluster_bits=0"},
    {20, 4, 8, QCHAIN_E_CORRUPT, "header cluster_bits=8"},
    {20, 4, 22, QCHAIN_E_LIMIT, "header cluster_bits=22"},
    {20, 4, 64, QCHAIN_E_LIMIT, "header cluster_bits=64"},
    {24, 8, 0, 0, NULL},
    {24, 8, 2 << 20 | 1, QCHAIN_E_CORRUPT, "header l1_size=1: too small"},
    {24, 8, UINT64_C(1) << 63, QCHAIN_E_LIMIT, "header size=9223372036854775808"},
    {24, 8, UINT64_MAX, QCHAIN_E_LIMIT, "header size=18446744073709551615"},
    {32, 4, 1, 0, NULL},
    {32, 4, 2, QCHAIN_E_CORRUPT, "header crypt_method=2"},
    {32, 4, 3, QCHAIN_E_UNSUPPORTED, "header crypt_method=3"},
    {36, 4, 0, QCHAIN_E_CORRUPT, "header l1_size=0"},
    {36, 4, 2, 0, NULL},
    {36, 4, 4194305, QCHAIN_E_LIMIT, "header l1_size=4194305"},
    {36, 4, 4194304, QCHAIN_E_CORRUPT, "header l1_table_offset=12288: the table ends"},
    {40, 8, 0, QCHAIN_E_CORRUPT, "header l1_table_offset=0"},
    {40, 8, 12289, QCHAIN_E_CORRUPT, "header l1_table_offset=12289"},
    {40, 8, FILE_SIZE, QCHAIN_E_CORRUPT, "header l1_table_offset=1048576"},
    {40, 8, UINT64_MAX - 4095, QCHAIN_E_CORRUPT, "header l1_table_offset=18446744073709547520"},
    {48, 8, 0, 0, NULL},
    {48, 8, 1, 0, NULL},
    {48, 8, UINT64_MAX, 0, NULL},
    {56, 4, 0, 0, NULL},
    {56, 4, 2048, 0, NULL},
    {56, 4, 2049, QCHAIN_E_LIMIT, "header refcount_table_clusters=2049"},
    {56, 4, 0xffffffff, QCHAIN_E_LIMIT, "header refcount_table_clusters=4294967295"},
    {60, 4, 1, QCHAIN_E_CORRUPT, "header snapshots_offset=0"},
    {60, 4, 65537, QCHAIN_E_LIMIT, "header nb_snapshots=65537"},
    {64, 8, 1, 0, NULL},
    {72, 8, 1, 0, NULL},
    {72, 8, 2, 0, NULL},
    {72, 8, 4, 0, NULL},
    {72, 8, 8, QCHAIN_E_CORRUPT, "header compression_type=0"},
    {72, 8, 16, QCHAIN_E_CORRUPT, "header cluster_bits=12: must be at least 14"},
    {72, 8, 32, QCHAIN_E_UNSUPPORTED, "unknown features: 5"},
    {72, 8, UINT64_MAX, QCHAIN_E_UNSUPPORTED, "unknown features: 5, 6, 7"},
    {80, 8, UINT64_MAX, 0, NULL},
    {88, 8, 1, 0, NULL},
    {88, 8, 2, QCHAIN_E_CORRUPT, "header autoclear_features=0x2"},
    {88, 8, UINT64_MAX - 2, 0, NULL},
    {96, 4, 6, 0, NULL},
    {96, 4, 7, QCHAIN_E_CORRUPT, "header refcount_order=7"},
    {96, 4, 0xffffffff, QCHAIN_E_CORRUPT, "header refcount_order=4294967295"},
    {100, 4, 103, QCHAIN_E_CORRUPT, "header header_length=103"},
    {100, 4, 105, QCHAIN_E_CORRUPT, "header header_length=105"},
    {100, 4, 104, 0, NULL},
    {100, 4, 4104, QCHAIN_E_CORRUPT, "header header_length=4104"},
    {104, 1, 1, QCHAIN_E_CORRUPT, "header compression_type=1"},
    {112, 4, 0x12345678, 0, NULL},
    {112, 8, 0x1234567800000f88, 0, NULL},
    {112, 8, 0x1234567800000f89, QCHAIN_E_CORRUPT, "header extension 0x12345678"},
    {112, 8, 0x12345678ffffffff, QCHAIN_E_CORRUPT, "header extension 0x12345678"},
    {112, 8, 0xe2792aca00000010, QCHAIN_E_CORRUPT, "header extension 0xe2792aca length=16"},
    {112, 8, 0xe2792aca00000003, QCHAIN_E_CORRUPT, "NUL"},
    {112, 8, 0x6803f85700000031, QCHAIN_E_CORRUPT, "header extension 0x6803f857 length=49"},
    {112, 8, 0x2385287500000017, QCHAIN_E_CORRUPT, "header extension 0x23852875 length=23"},
    {112, 8, 0x2385287500000018, 0, NULL},
    {112, 8, 0x0537be7700000011, QCHAIN_E_CORRUPT, "header extension 0x0537be77 length=17"},
    {112, 8, 0x0537be7700000010, QCHAIN_E_CORRUPT, "encryption length=0"},
    {112, 8, 0x4441544100000001, QCHAIN_E_CORRUPT, "NUL in the data file"},
    {112, 8, 0x4441544100000000, 0, NULL},
};

static void test_each_field(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(changes) / sizeof(changes[0]); i++) {
        const struct change *c = &changes[i];
        uint8_t p[CLUSTER];
        struct qc2_header h;
        qchain_error err;
        int rc;

        make(p, 3);
        put(p + c->at, c->width, c->value);
        qc_error_init(&err);
        rc = check(&h, p, sizeof(p), false, &err);
        if (rc != c->code || (c->message && !strstr(err.text, c->message)))
            fail_msg("change %zu at %u: got %d: %s", i, c->at, rc, err.text);
    }
}

static void test_good(void **state)
{
    uint8_t p[CLUSTER];
    struct qc2_header h;

    (void)state;
    make(p, 2);
    memset(p + 72, 0, 8);
    assert_int_equal(check(&h, p, sizeof(p), false, NULL), 0);
    assert_int_equal(h.refcount_order, 4);
    assert_int_equal(h.header_length, 72);
    assert_int_equal(qc2_l2_cover_bits(&h), 21);
    make(p, 3);
    put(p + 20, 4, 14);
    put(p + 40, 8, 1 << 14);
    put(p + 72, 8, 16 | 8);
    p[104] = 1;
    assert_int_equal(check(&h, p, sizeof(p), false, NULL), 0);
    assert_true(qc2_extended_l2(&h));
    assert_int_equal(h.compression, QCHAIN_COMPRESSION_ZSTD);
    assert_int_equal(qc2_l2_cover_bits(&h), 24);
}

/* Every length of what is there of the file: an answer, and no byte past it. */
static void test_short(void **state)
{
    uint8_t p[CLUSTER];

    (void)state;
    make(p, 3);
    for (size_t len = 0; len < 112; len++) {
        struct qc2_limits lim = {len, false};
        uint8_t *exact = test_malloc(len + 1);
        struct qc2_header h;

        memcpy(exact, p, len);
        assert_true(qc2_header_parse(&h, exact, len, &lim, NULL) < 0);
        test_free(exact);
    }
}

static void test_past_end(void **state)
{
    uint8_t p[CLUSTER];
    struct qc2_header h;

    (void)state;
    make(p, 3);
    put(p + 40, 8, FILE_SIZE);
    assert_int_equal(check(&h, p, sizeof(p), false, NULL), QCHAIN_E_CORRUPT);
    assert_int_equal(check(&h, p, sizeof(p), true, NULL), 0);
}

/* Extensions that the first read does not hold: the parser says how much it wants. */
static void test_more(void **state)
{
    uint8_t p[CLUSTER];
    struct qc2_limits lim = {FILE_SIZE, false};
    struct qc2_header h;

    (void)state;
    make(p, 3);
    put(p + 112, 8, 0x1234567800000000 | 2000);
    put(p + 2120, 8, 0xe2792aca00000005);
    memcpy(p + 2128, "qcow2", 5);
    assert_int_equal(qc2_header_parse(&h, p, 512, &lim, NULL), 0);
    assert_int_equal(qc2_extensions_parse(&h, p, 512, false, NULL), 2128);
    assert_int_equal(qc2_extensions_parse(&h, p, 2128, false, NULL), 2133);
    assert_int_equal(qc2_extensions_parse(&h, p, 2133, false, NULL), 2133 + 11);
    assert_int_equal(qc2_extensions_parse(&h, p, sizeof(p), false, NULL), 0);
    assert_string_equal(h.backing_format, "qcow2");
    assert_int_equal(h.n_unknown, 1);
    assert_true(qc2_extensions_parse(&h, p, 2128, true, NULL) < 0);
}

static void test_twice(void **state)
{
    uint8_t p[CLUSTER];
    struct qc2_header h;
    qchain_error err;

    (void)state;
    make(p, 3);
    put(p + 112, 8, 0x4441544100000000);
    put(p + 120, 8, 0x4441544100000000);
    qc_error_init(&err);
    assert_int_equal(check(&h, p, sizeof(p), false, &err), QCHAIN_E_CORRUPT);
    assert_non_null(strstr(err.text, "twice"));
}

static void test_feature_names(void **state)
{
    uint8_t p[CLUSTER];
    struct qc2_header h;
    qchain_error err;

    (void)state;
    make(p, 3);
    put(p + 72, 8, UINT64_C(1) << 40 | 1 << 7);
    put(p + 112, 8, 0x6803f85700000060);
    p[120] = 0;
    p[121] = 40;
    memset(p + 122, 'n', 46);
    p[168] = 1; /* a compatible one */
    p[169] = 7;
    memcpy(p + 170, "other", 5);
    qc_error_init(&err);
    assert_int_equal(check(&h, p, sizeof(p), false, &err), QCHAIN_E_UNSUPPORTED);
    assert_non_null(strstr(err.text, "7, 40 'nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn'"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_field), cmocka_unit_test(test_good),
        cmocka_unit_test(test_short),      cmocka_unit_test(test_past_end),
        cmocka_unit_test(test_more),       cmocka_unit_test(test_twice),
        cmocka_unit_test(test_feature_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
