/* SPDX-License-Identifier: MIT */
/* Streams of compressed clusters, and the entries that name them; entries as writing changes them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <cmocka.h>

#include "image_tools.h"
#include "qcow2/l2_entry.h"
#include "qcow2/writer.h"
#include "util/error.h"
#include "share.h"

/* Text that repeats what lies `back` bytes before. */
static void fill(uint8_t *p, size_t n, size_t back, uint64_t *seed)
{
    for (size_t i = 0; i < n; i++)
        p[i] = i >= back && random_next(seed) % 16 ? p[i - back] : (uint8_t)random_next(seed);
}

/* What readers of qcow2 are promised: a window of 4 KiB is enough. */
static void inflate_small(const uint8_t *in, size_t n, const uint8_t *want, size_t want_len)
{
    uint8_t *out = malloc(want_len), *to = out, some[64];
    z_stream z = {0};

    assert_int_equal(inflateInit2(&z, -12), Z_OK);
    z.next_in = (Bytef *)(uintptr_t)in;
    z.avail_in = (uInt)n;
    for (int rc = Z_OK; rc != Z_STREAM_END;) { /* in steps, so that only the window is there to look back on */
        z.next_out = some;
        z.avail_out = sizeof(some);
        rc = inflate(&z, Z_NO_FLUSH);
        assert_true(rc == Z_OK || rc == Z_STREAM_END);
        memcpy(to, some, sizeof(some) - z.avail_out);
        to += sizeof(some) - z.avail_out;
    }
    assert_int_equal(to - out, want_len);
    assert_memory_equal(out, want, want_len);
    inflateEnd(&z);
    free(out);
}

static void test_streams(void **state)
{
    uint64_t seed = 4;

    (void)state;
    for (unsigned kind = 0; kind < 2; kind++)
        for (unsigned bits = 9; bits <= 21; bits += 3) {
            struct qc_image img = {.cluster_size = 1u << bits,
                                   .decoder_kind = kind ? QCHAIN_COMPRESSION_ZSTD : QCHAIN_COMPRESSION_ZLIB};
            struct qc_encoder *e = qc2_encoder_create(&img);
            struct qc_decoder *d = qc2_decoder_create(&img);
            uint8_t *in = malloc(img.cluster_size), *out = malloc(img.cluster_size), *is = malloc(img.cluster_size);
            qchain_error err;

            qc_error_init(&err);
            for (unsigned i = 0; i < 12; i++) { /* an encoder serves again, also after it found no room */
                size_t n = img.cluster_size;

                fill(in, n, i % 3 == 0 ? n : i % 3 == 1 ? 40 : 6000, &seed);
                if (i % 3 == 0) {
                    assert_int_equal(qc2_encode(e, out, &n, in, img.cluster_size, &err), 1);
                    continue;
                }
                memset(in, 0, img.cluster_size / 2);
                assert_int_equal(qc2_encode(e, out, &n, in, img.cluster_size, &err), 0);
                assert_true(n > 0 && n < img.cluster_size);
                assert_int_equal(qc2_decode(d, is, img.cluster_size, out, n, &err), 0);
                assert_memory_equal(is, in, img.cluster_size);
                if (!kind)
                    inflate_small(out, n, in, img.cluster_size);
                n = 3; /* no room */
                assert_int_equal(qc2_encode(e, out, &n, in, img.cluster_size, &err), 1);
            }
            qc2_encoder_destroy(e);
            qc2_decoder_destroy(d);
            free(in);
            free(out);
            free(is);
        }
}

static void test_stream_entries(void **state)
{
    uint64_t seed = 9;

    (void)state;
    for (unsigned bits = 9; bits <= 21; bits++) {
        struct qc2_l2 g = {.cluster_bits = bits};
        unsigned x = 62 - (bits - 8);
        uint64_t cluster = UINT64_C(1) << bits, top = x < 56 ? UINT64_C(1) << x : UINT64_C(1) << 56;

        for (unsigned i = 0; i < share(1000); i++) {
            uint64_t host = random_next(&seed) % (top - cluster), length = random_next(&seed) % (cluster - 1) + 1;
            uint64_t word = qc2_entry_of_stream(&g, host, length), host2, length2;

            assert_true(word & QC2_COMPRESSED);
            assert_false(word & QC2_COPIED);
            qc2_entry_stream(&g, word, &host2, &length2);
            assert_int_equal(host2, host);
            assert_true(length2 >= length && length2 < length + 512); /* to the end of the last sector */
            assert_int_equal((host2 + length2) % 512, 0);
        }
        assert_int_equal(qc2_entry_of_stream(&g, top, 1), 0); /* too far */
        assert_true(qc2_entry_of_stream(&g, top - 1, 1) != 0);
    }
}

/* The table of what becomes of an entry. */
static void test_entries(void **state)
{
    const struct qc2_l2 std = {.cluster_bits = 16, .zero_flag = true, .file_size = 1 << 20};
    const struct qc2_l2 ext = {.cluster_bits = 16, .zero_flag = true, .extended = true, .file_size = 1 << 20};
    const struct qc2_entry own = {QC2_COPIED | 0x50000, 0}, shared = {0x50000, 0}, absent = {0, 0};
    struct qc2_entry e;
    unsigned first = 4, end = 6;

    (void)state;
    assert_int_equal(qc2_entry_use(&std, own, 0), QC2_USE_OWN);
    assert_int_equal(qc2_entry_use(&std, shared, 0), QC2_USE_FRESH);
    assert_int_equal(qc2_entry_use(&std, absent, 0), QC2_USE_FRESH);
    e = (struct qc2_entry){QC2_COPIED | 0x50000 | QC2_ZERO, 0};
    assert_int_equal(qc2_entry_use(&std, e, 0), QC2_USE_REUSE);
    assert_int_equal(qc2_entry_use(&std, (struct qc2_entry){QC2_COMPRESSED | QC2_COPIED | 0x50000, 0}, 0),
                     QC2_USE_FRESH);
    assert_int_equal(qc2_entry_written(&std, e, 0x50000, 0, 1).word, QC2_COPIED | 0x50000);
    assert_int_equal(qc2_entry_zeroed(&std, own, 0, 1, true).word, QC2_COPIED | 0x50000 | QC2_ZERO);
    assert_int_equal(qc2_entry_zeroed(&std, own, 0, 1, false).word, QC2_ZERO);
    assert_int_equal(qc2_entry_zeroed(&std, shared, 0, 1, true).word, QC2_ZERO);

    /* Subclusters 2, 3 and 8 are stored; 5 reads as zeros. */
    e = (struct qc2_entry){QC2_COPIED | 0x50000, 0x0000002000000000 | 0x10c};
    assert_int_equal(qc2_entry_use(&ext, e, 3), QC2_USE_OWN);
    assert_int_equal(qc2_entry_use(&ext, e, 5), QC2_USE_REUSE);
    qc2_entry_widen(&ext, e, &first, &end);
    assert_int_equal(first, 2);
    assert_int_equal(end, 9);
    assert_int_equal(qc2_entry_written(&ext, e, 0x50000, 4, 6).bitmap, 0x13c);
    assert_int_equal(qc2_entry_written(&ext, absent, 0x70000, 31, 32).bitmap, 0x80000000);
    assert_int_equal(qc2_entry_zeroed(&ext, e, 0, 4, true).bitmap, 0x0000002f00000000 | 0x100);
    assert_int_equal(qc2_entry_zeroed(&ext, e, 0, 4, false).word, e.word); /* 8 is still there */
    assert_int_equal(qc2_entry_zeroed(&ext, e, 0, 32, false).word, 0);
    assert_true(qc2_entry_zeroed(&ext, e, 0, 32, false).bitmap == UINT64_C(0xffffffff) << 32);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_entries), cmocka_unit_test(test_stream_entries), cmocka_unit_test(test_streams),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
