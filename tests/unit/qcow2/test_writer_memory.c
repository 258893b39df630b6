/* SPDX-License-Identifier: MIT */
/* Writing without memory: each allocation fails once. The image stays valid, and what failed can be done again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "failing_memory.h"
#include "image_tools.h"
#include "util/error.h"
#include "writer_tools.h"

#define MIB (UINT64_C(1) << 20)

static int one_step(struct subject *s, uint64_t x)
{
    uint64_t guest = x >> 8 & 255;
    int rc = 0;

    if (x % 16 < 9)
        return map_cluster(s, guest, NULL);
    if (x % 16 < 13)
        return unmap_cluster(s, guest, NULL);
    if (x % 16 < 15)
        return qc2_flush(s->w, NULL);
    pthread_mutex_lock(&s->w->lock);
    if (s->w->l1_size < 10)
        rc = qc2_l1_grow(s->w, s->w->l1_size + 1, NULL);
    pthread_mutex_unlock(&s->w->lock);
    return rc;
}

static bool run(int k, unsigned order)
{
    struct qc_write_opts opts = {.cache_bytes = 16 * 512, .discard = k % 2};
    struct rec_store *r = rec_create(4 * MIB);
    struct verdict v;
    struct subject s;
    uint64_t seed = 5;
    bool failed_now;

    image_make(r, 3, 9, order, MIB / 8);
    atomic_store(&fail_in, k);
    atomic_store(&failed, 0);
    if (subject_open(&s, r, &opts, NULL) < 0) {
        assert_int_equal(atomic_load(&failed), 1);
        assert_int_equal(subject_open(&s, r, &opts, NULL), 0);
    }
    for (unsigned i = 0; i < 150; i++) {
        uint64_t x = random_next(&seed);
        int rc = one_step(&s, x);

        if (rc == 0)
            continue;
        assert_int_equal(rc, QCHAIN_E_NOMEM);
        image_check(r->bytes, r->size, &v);
        assert_string_equal(v.damage, "");
        assert_int_equal(one_step(&s, x), 0);
    }
    failed_now = atomic_load(&failed) > 0;
    assert_int_equal(subject_close(&s, true, NULL), 0);
    image_check(r->bytes, r->size, &v);
    assert_string_equal(v.damage, "");
    assert_true(v.leaks <= 1); /* what was to be freed, and could not be noted */
    rec_destroy(r);
    atomic_store(&fail_in, -1);
    return failed_now;
}

static void test_each(void **state)
{
    int k = 0;

    (void)state;
    while (run(k, 4 + k % 3))
        k++;
    print_message("%d allocations\n", k);
    assert_true(k > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_each)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
