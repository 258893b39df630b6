/* SPDX-License-Identifier: MIT */
/* Sparse bits against an array of bytes, without memory, and set by several threads. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "failing_memory.h"
#include "format/bits.h"
#include "image_tools.h"
#include "util/bytes.h"

#define MAX 200000u

static uint64_t naive_next(const uint8_t *m, uint64_t n, uint64_t from, bool value)
{
    while (from < n && m[from] != value)
        from++;
    return from < n ? from : n;
}

static void compare(const struct qc_bits *b, const uint8_t *m, uint64_t n, uint64_t *seed)
{
    static uint8_t bytes[MAX / 8 + 9];
    uint64_t at;

    assert_int_equal(b->n, n);
    for (uint64_t from = 0, stop; from < n; from = stop) {
        bool value = m[from];

        stop = naive_next(m, n, from, !value);
        assert_int_equal(qc_bits_next(b, from, value), from);
        assert_int_equal(qc_bits_next(b, from, !value), stop);
    }
    assert_int_equal(qc_bits_next(b, n, true), n);
    at = random_next(seed) % (n / 8 + 1);
    qc_bits_store(b, at, bytes, sizeof(bytes) - at);
    for (uint64_t i = at * 8; i < sizeof(bytes) * 8; i++)
        assert_int_equal(bytes[i / 8 - at] >> i % 8 & 1, i < n ? m[i] : 0);
}

static void random_range(uint64_t *seed, uint64_t n, uint64_t *first, uint64_t *end)
{
    *first = random_next(seed) % (n + 1);
    *end = *first + random_next(seed) % (random_next(seed) % 3 ? 100 : 70000);
    if (random_next(seed) % 4 == 0) {
        *first &= ~UINT64_C(32767);
        *end = qc_align_up(*end, 32768);
    }
}

static void test_model(void **state)
{
    static uint8_t m[MAX], raw[4096];
    uint64_t seed = 7, n = 0, first, end;
    struct qc_bits *b = qc_bits_create(0);

    (void)state;
    for (int round = 0; round < 3000; round++) {
        switch (random_next(&seed) % 16) {
        case 0:
            end = random_next(&seed) % MAX;
            assert_true(qc_bits_resize(b, end));
            memset(m + qc_min64(n, end), 0, MAX - qc_min64(n, end));
            n = end;
            break;
        case 1:
            if (round % 8 == 0) {
                qc_bits_clear(b);
                memset(m, 0, MAX);
            }
            break;
        case 2: /* over what is clear */
            first = qc_bits_next(b, 0, true) / 8;
            end = qc_min64(first, sizeof(raw));
            for (uint64_t i = 0; i < end; i++) {
                raw[i] = (uint8_t)(random_next(&seed) & random_next(&seed));
                for (unsigned k = 0; k < 8; k++)
                    if (8 * i + k < n)
                        m[8 * i + k] = raw[i] >> k & 1;
            }
            assert_true(qc_bits_load(b, 0, raw, end));
            break;
        default:
            random_range(&seed, n, &first, &end);
            assert_int_equal(qc_bits_set(b, first, end), naive_next(m, n, first, false) < qc_min64(end, n));
            for (uint64_t i = first; i < qc_min64(end, n); i++)
                m[i] = 1;
        }
        if (round % 16 == 0)
            compare(b, m, n, &seed);
    }
    qc_bits_destroy(b);
}

/* Without memory more is set, never less, and nothing of it is seen once the bits are gone. */
static void test_no_memory(void **state)
{
    struct qc_bits *b = qc_bits_create(100000);

    (void)state;
    atomic_store(&fail_in, 0);
    assert_true(qc_bits_set(b, 50000, 50001));
    assert_int_equal(qc_bits_next(b, 0, true), 32768);
    assert_int_equal(qc_bits_next(b, 50000, false), 65536);
    atomic_store(&fail_in, 0);
    assert_false(qc_bits_resize(b, 10000000));
    assert_int_equal(b->n, 100000);
    atomic_store(&fail_in, 0);
    assert_false(qc_bits_load(b, 0, (const uint8_t *)"x", 1));
    assert_true(qc_bits_resize(b, 40000));
    assert_true(qc_bits_resize(b, 100000));
    assert_int_equal(qc_bits_next(b, 32768, false), 40000);
    atomic_store(&fail_in, 0);
    assert_null(qc_bits_create(5));
    atomic_store(&fail_in, 1);
    assert_null(qc_bits_create(5));
    qc_bits_destroy(b);
}

static struct qc_bits *shared;

static void *setter(void *arg)
{
    uint64_t from = (uint64_t)(uintptr_t)arg;

    for (uint64_t i = from; i < MAX; i += 4)
        qc_bits_set(shared, i, i + 1);
    return NULL;
}

static void test_threads(void **state)
{
    pthread_t t[4];

    (void)state;
    shared = qc_bits_create(MAX);
    for (uintptr_t i = 0; i < 4; i++)
        pthread_create(&t[i], NULL, setter, (void *)i);
    for (uint64_t at = 0; at < MAX; at = qc_bits_next(shared, at, true) + 1)
        continue;
    for (unsigned i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(qc_bits_next(shared, 0, false), MAX);
    qc_bits_destroy(shared);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_model), cmocka_unit_test(test_no_memory),
                                       cmocka_unit_test(test_threads)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
