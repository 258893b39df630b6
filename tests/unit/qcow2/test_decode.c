/* SPDX-License-Identifier: MIT */
/* Decoders: streams of every kind, cut, damaged, with bytes after them; contexts
 * are reused and must not remember. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include <zlib.h>
#include <zstd.h>

#include "image_tools.h"
#include "qcow2/qcow2.h"
#include "util/error.h"

#define MAX 65536u

static uint64_t seed;

static struct qc_decoder *decoder(uint32_t kind)
{
    struct qc_image img = {.decoder_kind = kind, .cluster_size = MAX};

    return qc_qcow2_format.decoder_create(&img);
}

/* Bytes with more or less order in them. */
static void fill(uint8_t *p, size_t n)
{
    unsigned order = (unsigned)(random_next(&seed) % 8);

    for (size_t i = 0; i < n; i++)
        p[i] = i > 300 && random_next(&seed) % 8 < order ? p[i - 300 + random_next(&seed) % 2]
                                                         : (uint8_t)(random_next(&seed) >> order);
}

static size_t squeeze(uint32_t kind, uint8_t *to, size_t cap, const uint8_t *from, size_t n)
{
    z_stream z = {0};
    size_t len;

    if (kind == QCHAIN_COMPRESSION_ZSTD) {
        len = ZSTD_compress(to, cap, from, n, 1 + (int)(random_next(&seed) % 5));
        assert_false(ZSTD_isError(len));
        return len;
    }
    assert_int_equal(deflateInit2(&z, 1 + (int)(random_next(&seed) % 9), Z_DEFLATED,
                                  random_next(&seed) % 2 ? -12 : -15, 9,
                                  (int)(random_next(&seed) % 5)), Z_OK);
    z.next_in = (Bytef *)(uintptr_t)from;
    z.avail_in = (uInt)n;
    z.next_out = to;
    z.avail_out = (uInt)cap;
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    len = cap - z.avail_out;
    deflateEnd(&z);
    return len;
}

static int decode(struct qc_decoder *d, uint8_t *out, size_t n, const uint8_t *in, size_t in_len)
{
    /* Exact copies, so that a sanitizer sees a byte too much. */
    uint8_t *exact = malloc(in_len + 1), *to = malloc(n);
    int rc;

    memcpy(exact, in, in_len);
    exact = realloc(exact, in_len ? in_len : 1);
    rc = qc_qcow2_format.decode(d, to, n, exact, in_len, NULL);
    memcpy(out, to, n);
    free(exact);
    free(to);
    return rc;
}

static void try_kind(uint32_t kind)
{
    struct qc_decoder *d = decoder(kind);
    uint8_t *plain = malloc(MAX), *got = malloc(MAX), *stream = malloc(3 * MAX);

    assert_non_null(d);
    for (int round = 0; round < 150; round++) {
        size_t n = (size_t)512 << random_next(&seed) % 8, len, cut;

        fill(plain, n);
        len = squeeze(kind, stream, 3 * MAX, plain, n);
        assert_int_equal(decode(d, got, n, stream, len), 0);
        assert_memory_equal(got, plain, n);
        memset(stream + len, (int)random_next(&seed), 600);
        assert_int_equal(decode(d, got, n, stream, len + random_next(&seed) % 600), 0);
        assert_memory_equal(got, plain, n);
        cut = random_next(&seed) % (len / 2 + 1);
        assert_int_equal(decode(d, got, n, stream, cut), QCHAIN_E_CORRUPT);
        if (n > 512) /* less than a cluster */
            assert_int_equal(decode(d, got, MAX, stream, len), n == MAX ? 0 : QCHAIN_E_CORRUPT);
        stream[random_next(&seed) % len] ^= (uint8_t)(1u << random_next(&seed) % 8);
        decode(d, got, n, stream, len); /* whatever it says, it says it */
    }
    free(plain);
    free(got);
    free(stream);
    qc_qcow2_format.decoder_destroy(d);
}

static void test_zlib(void **state)
{
    (void)state;
    try_kind(QCHAIN_COMPRESSION_ZLIB);
}

static void test_zstd(void **state)
{
    (void)state;
    try_kind(QCHAIN_COMPRESSION_ZSTD);
}

/* Random bytes are an error or a cluster, never more than that. */
static void test_noise(void **state)
{
    struct qc_decoder *d[2] = {decoder(QCHAIN_COMPRESSION_ZLIB), decoder(QCHAIN_COMPRESSION_ZSTD)};
    uint8_t in[2048], out[4096];

    (void)state;
    for (int round = 0; round < 20000; round++) {
        size_t n = random_next(&seed) % sizeof(in);

        for (size_t i = 0; i < n; i++)
            in[i] = (uint8_t)random_next(&seed);
        if (round % 2 && n > 4)
            memcpy(in, "\x28\xb5\x2f\xfd", 4);
        decode(d[round % 2], out, 512u << round % 4, in, n);
    }
    qc_qcow2_format.decoder_destroy(d[0]);
    qc_qcow2_format.decoder_destroy(d[1]);
}

/* Several frames make a cluster; one that goes on past it is an error. */
static void test_frames(void **state)
{
    struct qc_decoder *d = decoder(QCHAIN_COMPRESSION_ZSTD);
    uint8_t plain[4096], got[4096], stream[8192];
    size_t a, b;

    (void)state;
    fill(plain, sizeof(plain));
    a = squeeze(QCHAIN_COMPRESSION_ZSTD, stream, sizeof(stream), plain, 1000);
    b = squeeze(QCHAIN_COMPRESSION_ZSTD, stream + a, sizeof(stream) - a, plain + 1000, 3096);
    assert_int_equal(decode(d, got, 4096, stream, a + b), 0);
    assert_memory_equal(got, plain, 4096);
    assert_int_equal(decode(d, got, 4095, stream, a + b), QCHAIN_E_CORRUPT);
    assert_int_equal(decode(d, got, 1000, stream, a + b), 0);
    qc_qcow2_format.decoder_destroy(d);
}

int main(void)
{
    const char *given = getenv("QC_SEED");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_zlib),
        cmocka_unit_test(test_zstd),
        cmocka_unit_test(test_noise),
        cmocka_unit_test(test_frames),
    };

    seed = given ? strtoull(given, NULL, 0) : (uint64_t)getpid();
    print_message("QC_SEED=%" PRIu64 "\n", seed);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
