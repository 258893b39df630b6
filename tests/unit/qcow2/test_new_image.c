/* SPDX-License-Identifier: MIT */
/* New images: what is referred to is counted, once; options that do not fit together; in place; failures. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "image_tools.h"
#include "qcow2/new_image.h"
#include "qcow2/qcow2.h"
#include "util/bytes.h"
#include "util/error.h"
#include "written_store.h"
#include "share.h"

#define OFFSET UINT64_C(0x00fffffffffffe00)

static struct qc2_create_opts plain(uint64_t size)
{
    return (struct qc2_create_opts){.size = size, .version = 3, .cluster_size = 65536, .refcount_bits = 16};
}

static uint64_t refcount(const uint8_t *block, uint64_t i, unsigned bits)
{
    uint64_t v = 0;

    for (unsigned b = 0; b < bits; b += bits < 8 ? bits : 8) {
        uint64_t at = i * bits + b;

        v = v << 8 | (bits < 8 ? (unsigned)block[at / 8] >> (at % 8) & ((1u << bits) - 1) : block[at / 8]);
    }
    return v;
}

/* Count each reference of the image in p, and compare with what it says. */
static void check_counts(const struct written *w, const struct qc2_create_opts *o)
{
    unsigned bits = o->refcount_bits, entry = o->extended_l2 ? 16 : 8;
    uint64_t cs = o->cluster_size, n = qc_div_up(w->size, cs), per_block = cs * 8 / bits;
    uint64_t l1 = qc_be64(w->p + 40), table = qc_be64(w->p + 48), l1_size = qc_be32(w->p + 36);
    uint8_t *seen = calloc(n, 1), *p = calloc(n + 1, cs);

    memcpy(p, w->p, w->size);
    seen[0]++;
    for (uint64_t i = 0; i < qc_be32(p + 56); i++)
        seen[table / cs + i]++;
    for (uint64_t i = 0; i < qc_div_up(l1_size * 8, cs); i++)
        seen[l1 / cs + i]++;
    for (uint64_t i = 0; i < qc_be32(p + 56) * cs / 8; i++)
        if (qc_be64(p + table + 8 * i))
            seen[qc_be64(p + table + 8 * i) / cs]++;
    for (uint64_t i = 0; i < l1_size; i++) {
        uint64_t l2 = qc_be64(p + l1 + 8 * i);

        if (!l2)
            continue;
        assert_true(l2 >> 63);
        seen[(l2 & OFFSET) / cs]++;
        for (uint64_t k = 0; k < cs; k += entry) {
            uint64_t e = qc_be64(p + (l2 & OFFSET) + k);

            if (e && !o->data_file)
                seen[(e & OFFSET) / cs]++;
            else if (e)
                assert_int_equal(e & OFFSET, (i * cs / entry + k / entry) * cs);
        }
    }
    for (uint64_t i = 0; i < n; i++) {
        uint64_t block = qc_be64(p + table + i / per_block * 8);

        assert_true(block);
        assert_int_equal(seen[i], 1);
        assert_int_equal(refcount(p + block, i % per_block, bits), 1);
    }
    /* and no more are counted */
    for (uint64_t i = n; i < qc_align_up(n, per_block); i++)
        assert_int_equal(refcount(p + qc_be64(p + table + n / per_block * 8), i % per_block, bits), 0);
    free(p);
    free(seen);
}

/* The parser takes it, and it shows zeros. */
static void check_opens(struct qc_store *store, const struct qc2_create_opts *o)
{
    struct qc_image_opts opts = {0};
    struct qc_image *img = NULL;
    qchain_error err;

    qc_error_init(&err);
    if (qc_qcow2_format.open(&img, store, &opts, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(img->virtual_size, o->size);
    qc_qcow2_format.close(img);
}

static void test_random(void **state)
{
    static const uint64_t sizes[] = {0, 512, 65536, 1 << 20, (1 << 20) + 512, 3333 * 512, 12 << 20};
    uint64_t seed = 3;
    qchain_error err;

    (void)state;
    qc_error_init(&err);
    for (unsigned i = 0; i < share(600); i++) {
        uint64_t r = random_next(&seed);
        struct qc2_create_opts o = plain(sizes[r % 7]);
        struct written w = {0}, d = {0};
        struct qc_store *store, *data;

        r >>= 8;
        o.version = r & 7 ? 3 : 2;
        o.cluster_size = UINT64_C(512) << (r >> 3) % 9;
        o.preallocation = (r >> 8) % 4;
        if (o.version == 3) {
            o.refcount_bits = 1u << (r >> 10) % 7;
            o.compression = r >> 13 & 1;
            o.lazy_refcounts = r >> 14 & 1;
            o.extended_l2 = o.cluster_size >= 16384 && (r >> 15 & 1);
            if (r >> 16 & 1)
                o.data_file = "data.raw";
            o.data_file_raw = o.data_file && (r >> 17 & 1);
        }
        if (r >> 18 & 1 && !o.data_file_raw && (o.extended_l2 || !o.preallocation)) {
            o.backing_file = "base.qcow2";
            o.backing_format = r >> 19 & 1 ? "qcow2" : NULL;
        }
        if (r >> 20 & 1) { /* over what was there */
            struct qc2_layout l;
            uint8_t *old;
            uint64_t n;

            assert_int_equal(qc2_create_layout(&l, &o, &err), 0);
            n = (l.end << l.cluster_bits) + 4096;
            old = malloc(n);
            memset(old, 0xab, n);
            written_set(&w, old, n);
            free(old);
            o.in_place = true;
        }
        store = written_store(&w);
        data = o.data_file ? written_store(&d) : NULL;
        if (qc2_create(store, data, &o, &err) != 0)
            fail_msg("%u: %s", i, err.text);
        if (o.in_place) { /* what follows is not the image's */
            struct qc2_layout l;

            assert_int_equal(qc2_create_layout(&l, &o, &err), 0);
            w.size = l.end << l.cluster_bits;
            qc_store_destroy(store);
            store = written_store(&w);
            assert_int_equal(w.step[w.n_steps - 1].kind, WRITTEN_FLUSH);
            assert_int_equal(w.step[w.n_steps - 2].offset, 0);
        }
        if (o.in_place && o.preallocation && !o.data_file) {
            uint64_t shown = w.size - qc_div_up(o.size, o.cluster_size) * o.cluster_size;

            assert_true(qc_is_zero(w.p + shown, (size_t)(w.size - shown)));
        }
        if (data)
            assert_int_equal(d.size, o.size);
        check_counts(&w, &o);
        if (!data)
            check_opens(store, &o);
        qc_store_destroy(store);
        qc_store_destroy(data);
        written_free(&w);
        written_free(&d);
    }
}

static void test_refused(void **state)
{
    static const struct {
        struct qc2_create_opts o;
        int                    code;
    } cases[] = {
        {{.version = 4, .cluster_size = 65536, .refcount_bits = 16}, QCHAIN_E_INVAL},
        {{.version = 3, .cluster_size = 65535, .refcount_bits = 16}, QCHAIN_E_INVAL},
        {{.version = 3, .cluster_size = 256, .refcount_bits = 16}, QCHAIN_E_INVAL},
        {{.version = 3, .cluster_size = 4 << 20, .refcount_bits = 16}, QCHAIN_E_INVAL},
        {{.version = 3, .cluster_size = 65536, .refcount_bits = 3}, QCHAIN_E_INVAL},
        {{.version = 3, .cluster_size = 65536, .refcount_bits = 128}, QCHAIN_E_INVAL},
        {{.version = 2, .cluster_size = 65536, .refcount_bits = 8}, QCHAIN_E_INVAL},
        {{.version = 2, .cluster_size = 65536, .refcount_bits = 16, .lazy_refcounts = true}, QCHAIN_E_INVAL},
        {{.version = 2, .cluster_size = 65536, .refcount_bits = 16, .compression = 1}, QCHAIN_E_INVAL},
        {{.version = 2, .cluster_size = 65536, .refcount_bits = 16, .data_file = "x"}, QCHAIN_E_INVAL},
        {{.version = 3, .cluster_size = 8192, .refcount_bits = 16, .extended_l2 = true}, QCHAIN_E_INVAL},
        {{.version = 3, .cluster_size = 65536, .refcount_bits = 16, .compression = 2}, QCHAIN_E_INVAL},
        {{.version = 3, .cluster_size = 65536, .refcount_bits = 16, .preallocation = 4}, QCHAIN_E_INVAL},
        {{.version = 3, .cluster_size = 65536, .refcount_bits = 16, .data_file_raw = true}, QCHAIN_E_INVAL},
        {{.version = 3, .cluster_size = 65536, .refcount_bits = 16, .backing_format = "raw"}, QCHAIN_E_INVAL},
        {{.version = 3, .cluster_size = 65536, .refcount_bits = 16, .backing_file = "x", .preallocation = 1},
         QCHAIN_E_INVAL},
        {{.version = 3, .cluster_size = 65536, .refcount_bits = 16, .backing_file = "x", .data_file = "y",
          .data_file_raw = true}, QCHAIN_E_INVAL},
        {{.version = 3, .cluster_size = 512, .refcount_bits = 16, .size = UINT64_C(1) << 40}, QCHAIN_E_LIMIT},
        {{.version = 3, .cluster_size = 65536, .refcount_bits = 16, .size = QC2_MAX_DISK}, QCHAIN_E_LIMIT},
        {{.version = 3, .cluster_size = 512, .refcount_bits = 64, .size = UINT64_C(1) << 36,
          .preallocation = 1}, QCHAIN_E_LIMIT},
    };
    struct written w = {0};
    struct qc_store *store = written_store(&w);
    qchain_error err;

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        qc_error_init(&err);
        assert_int_equal(qc2_create(store, NULL, &cases[i].o, &err), cases[i].code);
        assert_int_equal(w.n_steps, 0);
    }
    qc_store_destroy(store);
    written_free(&w);
}

/* The largest disks: nothing of them is written but what they need. */
static void test_large(void **state)
{
    struct qc2_create_opts o = plain(UINT64_C(64) << 40);
    struct written w = {0};
    struct qc_store *store = written_store(&w);
    qchain_error err;

    (void)state;
    qc_error_init(&err);
    assert_int_equal(qc2_create(store, NULL, &o, &err), 0);
    check_counts(&w, &o);
    check_opens(store, &o);
    qc_store_destroy(store);
    written_free(&w);

    o = plain(UINT64_C(1) << 61); /* as large as can be: an L1 table of 32 MiB */
    o.cluster_size = 2 << 20;
    store = written_store(&w);
    assert_int_equal(qc2_create(store, NULL, &o, &err), 0);
    check_opens(store, &o);
    o.size += 512;
    assert_int_equal(qc2_create(store, NULL, &o, &err), QCHAIN_E_LIMIT);
    qc_store_destroy(store);
    written_free(&w);
}

/* Too small a device; and each write failing once. */
static void test_fails(void **state)
{
    struct qc2_create_opts o = plain(8 << 20);
    struct written w = {0};
    struct qc_store *store;
    qchain_error err;
    int ret = QCHAIN_E_IO;

    (void)state;
    qc_error_init(&err);
    o.preallocation = QCHAIN_PREALLOC_FULL;
    o.in_place = true;
    written_set(&w, NULL, 0);
    store = written_store(&w);
    assert_int_equal(qc2_create(store, NULL, &o, &err), QCHAIN_E_NOSPACE);
    qc_store_destroy(store);
    written_free(&w);

    for (size_t k = 1; ret != 0; k++) {
        uint8_t *old = calloc(1, 16 << 20);

        assert_true(k < 100);
        w.fail_at = k;
        memcpy(old, "QFI\xfb", 4);
        written_set(&w, old, 16 << 20);
        free(old);
        store = written_store(&w);
        ret = qc2_create(store, NULL, &o, &err);
        if (ret != 0 && k > 1) /* no image: neither the old nor half a new one */
            assert_true(qc_is_zero(w.p, 4) || k + 1 > w.n_steps);
        assert_true(ret == 0 || ret == QCHAIN_E_IO);
        qc_store_destroy(store);
        written_free(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_fails),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
