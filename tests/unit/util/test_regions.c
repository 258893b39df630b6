/* SPDX-License-Identifier: MIT */
/* util/regions: things do not touch, keep their bytes, and give everything back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "util/regions.h"

#define THINGS 5000

/* Address space of the process, in KiB. */
static long mapped_kib(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");

    if (f) {
        if (fscanf(f, "%ld", &pages) != 1)
            pages = 0;
        fclose(f);
    }
    return pages * 4;
}

static size_t size_of(unsigned i)
{
    return 1 + i * 37 % 3000;
}

static void things_do_not_touch(void **unused)
{
    static unsigned char *thing[THINGS];
    struct qc_regions r;
    long before;

    (void)unused;
    before = mapped_kib();
    qc_regions_init(&r);
    for (unsigned i = 0; i < THINGS; i++) {
        thing[i] = qc_regions_alloc(&r, size_of(i));
        assert_non_null(thing[i]);
        assert_int_equal((uintptr_t)thing[i] % 16, 0);
        memset(thing[i], (int)(i % 251), size_of(i));
    }
    assert_true(mapped_kib() >= before + 6 * 1024); /* about 7.5 MB of them */
    for (unsigned i = 0; i < THINGS; i++) {
        assert_int_equal(thing[i][0], i % 251);
        assert_int_equal(thing[i][size_of(i) - 1], i % 251);
    }
    for (unsigned i = 0; i < THINGS; i += 2)
        qc_regions_free(&r, thing[i]);
    for (unsigned i = 1; i < THINGS; i += 2) {
        assert_int_equal(thing[i][size_of(i) - 1], i % 251);
        qc_regions_free(&r, thing[i]);
    }
    qc_regions_finish(&r);
    assert_true(mapped_kib() <= before + 1024);
}

static void an_empty_region_serves_again(void **unused)
{
    struct qc_regions r;
    void *first, *second;

    (void)unused;
    qc_regions_init(&r);
    first = qc_regions_alloc(&r, 100);
    assert_non_null(first);
    qc_regions_free(&r, first);
    second = qc_regions_alloc(&r, 100);
    assert_ptr_equal(first, second);
    qc_regions_free(&r, second);
    assert_null(qc_regions_alloc(&r, QC_REGION_MOST + 1));
    qc_regions_finish(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(things_do_not_touch),
        cmocka_unit_test(an_empty_region_serves_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
