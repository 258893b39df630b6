/* SPDX-License-Identifier: MIT */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "image_tools.h"
#include "raw/raw_image.h"
#include "util/error.h"

static struct qc_image *open_raw(struct qc_store **store, uint64_t size)
{
    struct qc_image_opts o = {0};
    struct qc_image *img = NULL;

    *store = memory_store(NULL, size, size);
    assert_non_null(*store);
    assert_int_equal(qc_raw_format.open(&img, *store, &o, NULL), 0);
    return img;
}

static void test_sizes(void **state)
{
    static const uint64_t sizes[][2] = {{0, 0}, {1, 512}, {512, 512}, {513, 1024}, {5000, 5120}};

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct qc_store *store;
        struct qc_image *img = open_raw(&store, sizes[i][0]);
        struct qc_runs runs = {0};
        uint64_t used;

        assert_int_equal(img->virtual_size, sizes[i][1]);
        assert_int_equal(img->cluster_size, 0);
        assert_int_equal(qc_raw_format.map(img, 0, img->virtual_size, &runs, NULL), 0);
        assert_int_equal(runs.n, sizes[i][0] ? 1 : 0);
        assert_int_equal(qc_raw_format.next_used(img, 0, &used, NULL), 0);
        assert_true(used == (sizes[i][0] ? 0 : UINT64_MAX));
        qc_runs_finish(&runs);
        qc_raw_format.close(img);
        qc_store_destroy(store);
    }
}

/* More bytes than a run's length can say. */
static void test_large(void **state)
{
    uint64_t size = (UINT64_C(5) << 40) + 512, at = 12345 * 512;
    struct qc_store *store;
    struct qc_image *img = open_raw(&store, size);
    struct qc_runs runs = {0};

    (void)state;
    assert_int_equal(qc_raw_format.map(img, at, size - at, &runs, NULL), 0);
    for (size_t i = 0; i < runs.n; i++) {
        assert_int_equal(runs.run[i].guest, at);
        assert_int_equal(qc_run_host(&runs.run[i]), at);
        assert_int_equal(qc_run_kind(&runs.run[i]), QC_DATA);
        at = qc_run_end(&runs.run[i]);
    }
    assert_int_equal(at, size);
    assert_int_equal(qc_raw_format.map(img, size, 512, &runs, NULL), QCHAIN_E_RANGE);
    qc_runs_finish(&runs);
    qc_raw_format.close(img);
    qc_store_destroy(store);
}

static void test_rest(void **state)
{
    struct qc_image_opts o = {.snapshot = "x"};
    struct qc_store *store;
    struct qc_image *img = open_raw(&store, 1000), *none = NULL;
    qchain_image_info info = {0};
    bool holes = false;

    (void)state;
    assert_int_equal(qc_raw_format.may_have_holes(img, &holes, NULL), 0);
    assert_true(holes);
    assert_int_equal(qc_raw_format.describe(img, &info, NULL), 0);
    assert_string_equal(info.format, "raw");
    assert_int_equal(info.virtual_size, 1024);
    qc_info_finish(&info);
    assert_int_equal(qc_raw_format.open(&none, store, &o, NULL), QCHAIN_E_NOTFOUND);
    assert_null(none);
    qc_raw_format.close(img);
    qc_store_destroy(store);
    store = memory_store(NULL, (UINT64_C(1) << 56) + 1, 0);
    o.snapshot = NULL;
    assert_int_equal(qc_raw_format.open(&none, store, &o, NULL), QCHAIN_E_LIMIT);
    qc_store_destroy(store);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_rest),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
