/* SPDX-License-Identifier: MIT */
/* Refcounts of every width, allocation against a model, and what grows: blocks, the refcount table. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "image_tools.h"
#include "util/bytes.h"
#include "util/error.h"
#include "writer_tools.h"

#define MIB (UINT64_C(1) << 20)

static struct rec_store *open_new(struct subject *s, uint32_t version, unsigned cluster_bits, unsigned order)
{
    struct rec_store *r = rec_create(32 * MIB);

    image_make(r, version, cluster_bits, order, MIB);
    assert_int_equal(subject_open(s, r, NULL, NULL), 0);
    rec_reset(r);
    return r;
}

static uint64_t count(struct subject *s, uint64_t host)
{
    uint64_t n = 0;

    assert_int_equal(qc2_refcount_get(s->w, host, &n, NULL), 0);
    return n;
}

static uint64_t alloc(struct subject *s, uint64_t n)
{
    uint64_t host = 0;
    bool zeroed;

    assert_int_equal(qc2_alloc(s->w, n, &host, &zeroed, NULL), 0);
    return host;
}

/* ------------------------------------------------------------------ counts --- */

static void test_widths(void **state)
{
    (void)state;
    for (unsigned order = 0; order <= 6; order++) {
        struct subject s;
        struct rec_store *r = open_new(&s, 3, 16, order);
        uint64_t max = order == 6 ? UINT64_MAX : (UINT64_C(1) << (1u << order)) - 1;
        uint64_t host = alloc(&s, 3) + 65536, steps = max < 300 ? max : 300;
        qchain_error err;

        qc_error_init(&err);
        assert_int_equal(count(&s, host), 1);
        for (uint64_t n = 1; n < steps; n++)
            assert_int_equal(qc2_refcount_add(s.w, host, 1, 1, &err), 0);
        assert_int_equal(count(&s, host), steps);
        assert_int_equal(count(&s, host - 65536), 1);
        assert_int_equal(count(&s, host + 65536), 1);
        if (steps == max) {
            /* All or nothing: those before it are as they were. */
            uint64_t first = count(&s, host - 65536) == max ? host : host - 65536;

            assert_int_equal(qc2_refcount_add(s.w, first, 3 * 65536 - 1, 1, &err), QCHAIN_E_LIMIT);
            assert_int_equal(count(&s, host - 65536), 1);
            assert_int_equal(count(&s, host), max);
        }
        /* In the file as the format says; seen from outside. */
        assert_int_equal(qc2_flush(s.w, NULL), 0);
        if (order == 6)
            assert_int_equal(qc_be64(r->bytes + 2 * 65536 + host / 65536 * 8), steps);
        if (order == 4)
            assert_int_equal(qc_be16(r->bytes + 2 * 65536 + host / 65536 * 2), steps);
        if (order == 1)
            assert_int_equal(r->bytes[2 * 65536 + host / 65536 / 4] >> host / 65536 % 4 * 2 & 3, steps);
        for (uint64_t n = steps; n > 0; n--)
            assert_int_equal(qc2_refcount_add(s.w, host, 1, -1, &err), 0);
        assert_int_equal(count(&s, host), 0);
        assert_int_equal(alloc(&s, 1), host); /* the first that is free */
        assert_int_equal(subject_close(&s, true, NULL), 0);
        rec_destroy(r);
    }
}

/* A count of 0 for what is in use is damage: the image is marked, and not written any more. */
static void test_underflow(void **state)
{
    struct subject s;
    struct rec_store *r = open_new(&s, 3, 9, 4);
    qchain_error err;

    (void)state;
    qc_error_init(&err);
    assert_int_equal(qc2_refcount_add(s.w, 512 * 100, 1, -1, &err), QCHAIN_E_CORRUPT);
    assert_non_null(strstr(err.text, "51200"));
    assert_true(atomic_load(&s.w->stopped));
    assert_int_equal(r->bytes[79] & QC2_INCOMPAT_CORRUPT, QC2_INCOMPAT_CORRUPT);
    assert_int_equal(qc2_flush(s.w, &err), QCHAIN_E_READONLY);
    assert_int_equal(subject_close(&s, true, NULL), QCHAIN_E_READONLY);
    assert_int_equal(subject_open(&s, r, NULL, &err), QCHAIN_E_CORRUPT);
    assert_non_null(strstr(err.text, "check -r"));
    rec_destroy(r);
}

/* Counts that say that metadata is free are not believed. */
static void test_metadata_is_not_free(void **state)
{
    (void)state;
    for (unsigned cluster = 0; cluster < 4; cluster++) {
        struct rec_store *r = rec_create(0);
        struct subject s;
        uint64_t host = 1;
        bool zeroed;
        qchain_error err;

        qc_error_init(&err);
        image_make(r, 3, 9, 4, MIB);
        memset(r->bytes + 2 * 512 + 2 * cluster, 0, 2);
        assert_int_equal(subject_open(&s, r, NULL, NULL), 0);
        assert_int_equal(qc2_alloc(s.w, 1 + cluster % 2, &host, &zeroed, &err),
                         cluster % 2 == 0 || cluster == 3 ? QCHAIN_E_CORRUPT : 0);
        subject_close(&s, false, NULL);
        rec_destroy(r);
    }
}

/* -------------------------------------------------------------- allocation --- */

#define CLUSTERS 3000u

/* Random allocations and frees; the model is a count for each cluster. */
static void model_run(unsigned order, uint64_t seed)
{
    static uint8_t model[CLUSTERS];
    struct subject s;
    struct rec_store *r = open_new(&s, 3, 9, order);
    uint64_t high = r->size / 512, host;
    bool zeroed;

    memset(model, 0, sizeof(model));
    for (unsigned i = 0; i < 4000; i++) {
        uint64_t x = random_next(&seed), n = x >> 8 & 15 ? 1 : 1 + (x >> 16) % 40;
        uint64_t at = (x >> 24) % CLUSTERS;

        if (x % 8 < 5) {
            assert_int_equal(qc2_alloc(s.w, n, &host, &zeroed, NULL), 0);
            if (host / 512 + n > CLUSTERS) {
                assert_int_equal(qc2_refcount_add(s.w, host, n * 512, -1, NULL), 0);
                break;
            }
            assert_int_equal(host % 512, 0);
            assert_true(!zeroed || host / 512 >= high);
            for (uint64_t c = host / 512; c < host / 512 + n; c++) {
                assert_int_equal(model[c], 0);
                assert_int_equal(qc2_region_find(s.w, c * 512, 512, QC2_REGION_ALL), 0);
                model[c] = 1;
                high = high > c + 1 ? high : c + 1;
            }
        } else if (model[at]) {
            assert_int_equal(qc2_refcount_add(s.w, at * 512, 512, -1, NULL), 0);
            model[at]--;
        }
        if (x % 512 == 7)
            assert_int_equal(qc2_flush(s.w, NULL), 0);
    }
    for (uint64_t c = 0; c < CLUSTERS; c++) {
        bool meta = qc2_region_find(s.w, c * 512, 512, QC2_REGION_ALL) != 0;

        assert_int_equal(count(&s, c * 512), meta ? 1 : model[c]);
    }
    assert_int_equal(subject_close(&s, true, NULL), 0);
    /* Again from the file. */
    assert_int_equal(subject_open(&s, r, NULL, NULL), 0);
    for (uint64_t c = 0; c < CLUSTERS; c++)
        if (qc2_region_find(s.w, c * 512, 512, QC2_REGION_ALL) == 0)
            assert_int_equal(count(&s, c * 512), model[c]);
    subject_close(&s, false, NULL);
    rec_destroy(r);
}

static void test_model(void **state)
{
    (void)state;
    for (unsigned order = 0; order <= 6; order++)
        for (uint64_t seed = 1; seed < 5; seed++)
            model_run(order, seed);
}

/* Single clusters fill holes; the next allocation does not go over all counts again. */
static void test_steady(void **state)
{
    struct subject s;
    struct rec_store *r = open_new(&s, 3, 9, 4);
    uint64_t first = alloc(&s, 2000), calls;

    (void)state;
    assert_int_equal(qc2_refcount_add(s.w, first + 512 * 7, 512, -1, NULL), 0);
    assert_int_equal(qc2_refcount_add(s.w, first + 512 * 900, 1024, -1, NULL), 0);
    assert_int_equal(alloc(&s, 1), first + 512 * 7);
    assert_int_equal(alloc(&s, 2), first + 512 * 900);
    calls = r->log->calls;
    first = alloc(&s, 1);
    for (unsigned i = 1; i < 50; i++)
        assert_in_range(alloc(&s, 1), first + i * 512, first + (i + 1) * 512); /* one is a refcount block */
    assert_int_equal(r->log->calls, calls);
    subject_close(&s, false, NULL);
    rec_destroy(r);
}

static void test_packing(void **state)
{
    struct subject s;
    struct rec_store *r = open_new(&s, 3, 12, 1); /* counts up to 3 */
    uint64_t a, b, c, d, e;

    (void)state;
    assert_int_equal(qc2_alloc_bytes(s.w, 1000, &a, NULL), 0);
    assert_int_equal(qc2_alloc_bytes(s.w, 1000, &b, NULL), 0);
    assert_int_equal(b, a + 1000);
    assert_int_equal(count(&s, a), 2);
    assert_int_equal(qc2_alloc_bytes(s.w, 4000, &c, NULL), 0); /* goes on in the next cluster */
    assert_int_equal(c, b + 1000);
    assert_int_equal(count(&s, a), 3);
    assert_int_equal(count(&s, a + 4096), 1);
    alloc(&s, 1);
    assert_int_equal(qc2_alloc_bytes(s.w, 3000, &d, NULL), 0); /* the next is taken */
    assert_int_equal(d % 4096, 0);
    assert_int_equal(count(&s, d), 1);
    assert_int_equal(qc2_alloc_bytes(s.w, 100, &e, NULL), 0);
    assert_int_equal(e, d + 3000);
    /* What is given up entirely is not packed into any more. */
    assert_int_equal(qc2_refcount_add(s.w, d, 3000, -1, NULL), 0);
    assert_int_equal(qc2_refcount_add(s.w, e, 100, -1, NULL), 0);
    assert_int_equal(count(&s, d), 0);
    assert_int_equal(alloc(&s, 1), d);
    assert_int_equal(qc2_alloc_bytes(s.w, 100, &e, NULL), 0);
    assert_int_not_equal(e / 4096, d / 4096);
    subject_close(&s, false, NULL);
    rec_destroy(r);
}

/* One bit: nothing can be shared. */
static void test_packing_alone(void **state)
{
    struct subject s;
    struct rec_store *r = open_new(&s, 3, 12, 0);
    uint64_t a, b;

    (void)state;
    assert_int_equal(qc2_alloc_bytes(s.w, 1000, &a, NULL), 0);
    assert_int_equal(qc2_alloc_bytes(s.w, 1000, &b, NULL), 0);
    assert_int_equal(b, a + 4096);
    subject_close(&s, false, NULL);
    rec_destroy(r);
}

/* ------------------------------------------------------------------ growth --- */

/* The image is valid in all states between one number of operations and the next. */
static void judge_prefixes(const struct rec_store *r)
{
    struct rec_store *state = rec_create(16 * MIB);
    struct verdict v;

    memcpy(state->bytes, r->start, r->start_size);
    state->size = r->start_size;
    for (size_t i = 0; i < r->log->n; i++) {
        rec_apply(state, &r->log->op[i]);
        if (i % 16 == 0 || r->log->op[i].offset < 512 || i + 50 > r->log->n) {
            image_check(state->bytes, state->size, &v);
            assert_string_equal(v.damage, "");
        }
    }
    rec_destroy(state);
}

/* 512-byte clusters and counts of 64 bits: 64 entries of 64 clusters fill the first refcount table at 2 MiB. */
static void test_table_growth(void **state)
{
    struct subject s;
    struct rec_store *r = open_new(&s, 3, 9, 6);
    uint64_t before, last = 0, high = 0;
    struct verdict v;

    (void)state;
    rec_record(r->log);
    /* One by one, as data is. */
    while (s.q->header.reftable_clusters == 1) {
        high = qc_max64(high, last);
        last = alloc(&s, 1);
    }
    assert_true(high > 2 * MIB - 65536);
    assert_int_equal(last, 512); /* where the old table was */
    before = r->n_flushes;
    assert_int_equal(before, 2); /* the table, the header */
    assert_int_equal(qc2_flush(s.w, NULL), 0);
    assert_in_range(r->n_flushes - before, 1, 2);
    judge_prefixes(r);
    /* A stretch that needs many blocks, and the table to grow several times. */
    r->log->on = false;
    last = alloc(&s, 20000);
    assert_int_equal(qc2_flush(s.w, NULL), 0);
    image_check(r->bytes, r->size, &v);
    assert_string_equal(v.damage, "");
    for (uint64_t c = 0; c < 20000; c++)
        assert_int_equal(count(&s, last + c * 512), 1);
    assert_int_equal(subject_close(&s, true, NULL), 0);
    assert_int_equal(subject_open(&s, r, NULL, NULL), 0);
    for (uint64_t c = 0; c < 20000; c++)
        assert_int_equal(count(&s, last + c * 512), 1);
    subject_close(&s, false, NULL);
    rec_destroy(r);
}

/* Growth that fails at any call leaves all as it was, or writing stopped. */
static void test_table_growth_fails(void **state)
{
    uint64_t host, n_stopped = 0;
    bool over = false, zeroed;

    (void)state;
    for (uint64_t k = 1; !over; k++) {
        struct subject s;
        struct rec_store *r = open_new(&s, 3, 9, 6);
        uint64_t used = 0;
        struct verdict v;
        int rc;

        alloc(&s, 3000);
        assert_int_equal(qc2_flush(s.w, NULL), 0);
        rec_reset(r);
        r->log->fail_writes_only = true;
        r->log->fail_code = k % 2 ? QCHAIN_E_NOSPACE : QCHAIN_E_IO;
        r->log->fail_from = k;
        r->log->fail_to = k + 1;
        rc = qc2_alloc(s.w, 3000, &host, &zeroed, NULL);
        over = rc == 0;
        r->log->fail_from = r->log->fail_to = 0;
        image_check(r->bytes, r->size, &v);
        assert_string_equal(v.damage, "");
        if (rc < 0 && !atomic_load(&s.w->stopped)) {
            assert_int_equal(qc2_flush(s.w, NULL), 0);
            image_check(r->bytes, r->size, &v);
            assert_string_equal(v.damage, "");
            rc = qc2_alloc(s.w, 3000, &host, &zeroed, NULL);
            assert_int_equal(rc, 0);
        }
        if (rc == 0) {
            for (uint64_t c = 0; c < 16384; c++)
                used += count(&s, c * 512) - (qc2_region_find(s.w, c * 512, 512, QC2_REGION_ALL) != 0);
            assert_int_equal(used, 6000);
            assert_int_equal(subject_close(&s, true, NULL), 0);
            image_check(r->bytes, r->size, &v);
            assert_string_equal(v.damage, "");
        } else {
            n_stopped++;
            subject_close(&s, false, NULL);
        }
        rec_destroy(r);
    }
    assert_int_equal(n_stopped, 3); /* the two fsyncs, and the header */
}

/* 8 MiB of table are the end. */
static void test_exhausted(void **state)
{
    struct subject s;
    struct rec_store *r = open_new(&s, 3, 9, 6);
    uint64_t host;
    bool zeroed;
    qchain_error err;

    (void)state;
    qc_error_init(&err);
    assert_int_equal(qc2_alloc(s.w, UINT64_C(1) << 26, &host, &zeroed, &err), QCHAIN_E_LIMIT);
    assert_int_equal(qc2_alloc(s.w, UINT64_C(1) << 47, &host, &zeroed, &err), QCHAIN_E_LIMIT);
    assert_int_equal(qc2_alloc(s.w, UINT64_C(1) << 60, &host, &zeroed, &err), QCHAIN_E_LIMIT);
    assert_int_equal(alloc(&s, 1) % 512, 0);
    subject_close(&s, false, NULL);
    rec_destroy(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_widths),
        cmocka_unit_test(test_underflow),
        cmocka_unit_test(test_metadata_is_not_free),
        cmocka_unit_test(test_model),
        cmocka_unit_test(test_steady),
        cmocka_unit_test(test_packing),
        cmocka_unit_test(test_packing_alone),
        cmocka_unit_test(test_table_growth),
        cmocka_unit_test(test_table_growth_fails),
        cmocka_unit_test(test_exhausted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
