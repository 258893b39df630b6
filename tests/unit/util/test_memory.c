/* SPDX-License-Identifier: MIT */
/* Memory, growing arrays, byte order, arithmetic, SHA-256. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <qchain.h>

#include "image_tools.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/sha256.h"
#include "util/vec.h"

/* The compiler must not see the sizes, or it warns of what the test is about. */
static volatile size_t huge = SIZE_MAX;

static void sizes_do_not_overflow(void **unused)
{
    void *p;

    (void)unused;
    assert_null(qc_calloc(huge / 2, 3));
    assert_null(qc_calloc(huge, huge));
    assert_null(qc_realloc(NULL, huge / 2, 3));
    assert_null(qc_realloc(NULL, huge / 8 + 1, 8));
    assert_null(qc_malloc(huge / 2));
    assert_null(qc_aligned(4096, huge / 2 - 8192));
    p = qc_malloc(0); /* never NULL for want of bytes */
    assert_non_null(p);
    qc_free(p);
    p = qc_calloc(0, 8);
    assert_non_null(p);
    p = qc_realloc(p, 0, 8);
    assert_non_null(p);
    qc_free(p);
    qc_free(NULL);
}

static void aligned_memory(void **unused)
{
    (void)unused;
    for (size_t align = 1; align <= 65536; align *= 2) {
        char *p = qc_aligned(align, 100);

        assert_non_null(p);
        assert_int_equal((uintptr_t)p % align, 0);
        memset(p, 1, 100);
        qc_free(p);
    }
}

static void strings(void **unused)
{
    char big[5000], *p;

    (void)unused;
    p = qc_strdup("abc");
    assert_string_equal(p, "abc");
    qc_free(p);
    p = qc_strndup("abc", 2);
    assert_string_equal(p, "ab");
    qc_free(p);
    p = qc_strndup("abc", 100);
    assert_string_equal(p, "abc");
    qc_free(p);
    memset(big, 'x', sizeof(big) - 1);
    big[sizeof(big) - 1] = '\0';
    p = qc_asprintf("%s/%d", big, 5);
    assert_int_equal(strlen(p), sizeof(big) + 1);
    assert_string_equal(p + sizeof(big) - 1, "/5");
    qc_free(p);
}

static void arrays_grow(void **unused)
{
    void *p = NULL, *before;
    uint32_t *v;
    size_t cap = 0, grown = 0, was;

    (void)unused;
    for (size_t n = 1; n <= 100000; n++) {
        was = cap;
        assert_int_equal(qc_grow(&p, &cap, n, sizeof(uint32_t)), 0);
        assert_true(cap >= n);
        grown += cap != was;
        v = p;
        v[n - 1] = (uint32_t)n;
    }
    assert_true(grown < 40);
    v = p;
    for (uint32_t i = 0; i < 100000; i++)
        assert_int_equal(v[i], i + 1);
    was = cap;
    before = p;
    assert_int_equal(qc_grow(&p, &cap, SIZE_MAX / 2, 8), QCHAIN_E_NOMEM);
    assert_int_equal(qc_grow(&p, &cap, SIZE_MAX / 2, 1), QCHAIN_E_NOMEM);
    assert_int_equal(cap, was);
    assert_ptr_equal(p, before);
    assert_int_equal(v[99999], 100000);
    qc_free(p);
}

static void big_endian(void **unused)
{
    const unsigned char b[9] = {0xff, 1, 2, 3, 4, 5, 6, 7, 0x88};

    (void)unused;
    assert_int_equal(qc_be16(b + 1), 0x0102);
    assert_int_equal(qc_be32(b + 1), 0x01020304);
    assert_true(qc_be64(b + 1) == UINT64_C(0x0102030405060788));
}

static void arithmetic(void **unused)
{
    uint64_t v = 5;

    (void)unused;
    assert_true(qc_add_ok(UINT64_MAX - 1, 1, &v));
    assert_true(v == UINT64_MAX);
    assert_false(qc_add_ok(UINT64_MAX, 1, &v));
    assert_true(qc_mul_ok(UINT64_C(1) << 32, UINT32_MAX, &v));
    assert_false(qc_mul_ok(UINT64_C(1) << 32, UINT64_C(1) << 32, &v));
    assert_true(qc_align_down(1023, 512) == 512);
    assert_true(qc_align_down(1024, 512) == 1024);
    assert_true(qc_align_up(1, 512) == 512);
    assert_true(qc_align_up(512, 512) == 512);
    assert_true(qc_align_up(0, 512) == 0);
    assert_true(qc_div_up(UINT64_MAX, 2) == UINT64_C(1) << 63);
    assert_true(qc_div_up(0, 7) == 0);
    assert_true(qc_div_up(14, 7) == 2);
    assert_true(qc_min64(1, UINT64_MAX) == 1);
    assert_true(qc_max64(1, UINT64_MAX) == UINT64_MAX);
}

static void zeros_are_found(void **unused)
{
    unsigned char *b = calloc(1, 512);

    (void)unused;
    for (size_t len = 0; len < 200; len++) {
        assert_true(qc_is_zero(b + len % 7, len));
        for (size_t at = 0; at < len; at++) {
            b[len % 7 + at] = 1;
            assert_false(qc_is_zero(b + len % 7, len));
            b[len % 7 + at] = 0;
        }
        b[len % 7 + len] = 1; /* one past the end is nobody's business */
        assert_true(qc_is_zero(b + len % 7, len));
        b[len % 7 + len] = 0;
    }
    free(b);
}

static void hash_text(const char *text, size_t times, size_t step, const char *want)
{
    struct qc_sha256 h;
    uint8_t digest[32];
    char hex[65];
    size_t len = strlen(text), n;

    qc_sha256_init(&h);
    for (size_t i = 0; i < times; i++) {
        for (size_t at = 0; at < len; at += n) {
            n = len - at < step ? len - at : step;
            qc_sha256_update(&h, text + at, n);
        }
    }
    qc_sha256_finish(&h, digest);
    for (int i = 0; i < 32; i++)
        snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    assert_string_equal(hex, want);
}

/* The examples of FIPS 180-2, appendix B, and the empty message. */
static void sha256_vectors(void **unused)
{
    static const char two_blocks[] = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
    static const char thousand_a[] =
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    (void)unused;
    assert_int_equal(sizeof(thousand_a) - 1, 100);
    hash_text("", 1, 1, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    for (size_t step = 1; step < 70; step += 3) {
        hash_text("abc", 1, step,
                  "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        hash_text(two_blocks, 1, step,
                  "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    }
    hash_text(thousand_a, 10000, 100,
              "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

/* The same bytes in other pieces give the same digest, at every length near a block. */
static void sha256_pieces(void **unused)
{
    uint8_t data[300], whole[32], parts[32];
    struct qc_sha256 h;
    uint64_t seed = 3;

    (void)unused;
    for (size_t i = 0; i < sizeof(data); i++)
        data[i] = (uint8_t)random_next(&seed);
    for (size_t len = 0; len <= sizeof(data); len++) {
        qc_sha256_init(&h);
        qc_sha256_update(&h, data, len);
        qc_sha256_finish(&h, whole);
        qc_sha256_init(&h);
        for (size_t at = 0, n; at < len; at += n) {
            n = random_next(&seed) % (len - at + 1);
            qc_sha256_update(&h, data + at, n);
        }
        qc_sha256_finish(&h, parts);
        assert_memory_equal(whole, parts, 32);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sizes_do_not_overflow), cmocka_unit_test(aligned_memory),
        cmocka_unit_test(strings),               cmocka_unit_test(arrays_grow),
        cmocka_unit_test(big_endian),            cmocka_unit_test(arithmetic),
        cmocka_unit_test(zeros_are_found),       cmocka_unit_test(sha256_vectors),
        cmocka_unit_test(sha256_pieces),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
