/* SPDX-License-Identifier: MIT */
/* Lists of runs, the table of formats, and freeing an info. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "format/format.h"
#include "qcow2/qcow2.h"
#include "raw/raw_image.h"
#include "util/alloc.h"

static struct qc_run run(uint64_t guest, uint64_t length, enum qc_kind kind, uint64_t host)
{
    return qc_run_make(guest, length, kind, host);
}

static void test_merge(void **state)
{
    struct qc_runs l = {0};
    struct qc_run other;

    (void)state;
    assert_int_equal(qc_runs_add(&l, run(0, 4096, QC_DATA, 8192)), 0);
    assert_int_equal(qc_runs_add(&l, run(4096, 4096, QC_DATA, 12288)), 0);
    assert_int_equal(l.n, 1); /* goes on in both */
    assert_int_equal(qc_runs_add(&l, run(8192, 4096, QC_DATA, 8192)), 0);
    assert_int_equal(l.n, 2); /* another place */
    assert_int_equal(qc_runs_add(&l, run(16384, 4096, QC_DATA, 12288)), 0);
    assert_int_equal(l.n, 3); /* a gap */
    assert_int_equal(qc_runs_add(&l, run(20480, 4096, QC_ZERO, 0)), 0);
    assert_int_equal(qc_runs_add(&l, run(24576, 4096, QC_ZERO, 77)), 0);
    assert_int_equal(l.n, 4); /* zeros have no place */
    assert_int_equal(qc_run_length(&l.run[3]), 8192);
    assert_int_equal(qc_runs_add(&l, run(28672, 4096, QC_ZERO_ALLOC, 0)), 0);
    assert_int_equal(qc_runs_add(&l, run(32768, 4096, QC_ZERO_ALLOC, 8192)), 0);
    assert_int_equal(l.n, 6); /* but these do */
    other = run(36864, 4096, QC_ZERO_ALLOC, 12288);
    other.source = 1;
    assert_int_equal(qc_runs_add(&l, other), 0);
    assert_int_equal(l.n, 7); /* another file */
    assert_int_equal(qc_runs_add(&l, run(40960, 4096, QC_COMPRESSED, 0)), 0);
    assert_int_equal(qc_runs_add(&l, run(45056, 4096, QC_COMPRESSED, 4096)), 0);
    assert_int_equal(l.n, 9); /* never */
    assert_int_equal(qc_runs_add(&l, run(49152, 0, QC_DATA, 0)), 0);
    assert_int_equal(l.n, 9); /* nothing */
    qc_runs_finish(&l);
    assert_int_equal(l.n, 0);
    qc_runs_finish(&l);
}

/* A run's length has 32 bits: the sum of two must not lose any. */
static void test_long(void **state)
{
    uint64_t big = UINT64_C(1) << 40;
    struct qc_runs l = {0};

    (void)state;
    assert_int_equal(qc_runs_add(&l, run(0, big, QC_ZERO, 0)), 0);
    assert_int_equal(qc_runs_add(&l, run(big, big - 512, QC_ZERO, 0)), 0);
    assert_int_equal(l.n, 1);
    assert_int_equal(qc_runs_add(&l, run(2 * big - 512, 512, QC_ZERO, 0)), 0);
    assert_int_equal(l.n, 2);
    assert_true(qc_run_end(&l.run[1]) == 2 * big);
    qc_runs_finish(&l);
}

static void test_table(void **state)
{
    static const struct qc_format *const table[] = {&qc_raw_format, &qc_qcow2_format, NULL};

    (void)state;
    assert_ptr_equal(qc_format_by_name(table, "qcow2"), &qc_qcow2_format);
    assert_ptr_equal(qc_format_by_name(table, "raw"), &qc_raw_format);
    assert_null(qc_format_by_name(table, "vmdk"));
    assert_null(qc_format_by_name(table, ""));
    assert_null(qc_format_by_name(table, NULL));
    assert_ptr_equal(qc_format_probe(table, (const uint8_t *)"QFI\xfb", 4), &qc_qcow2_format);
    assert_ptr_equal(qc_format_probe(table, (const uint8_t *)"QFI\xfb", 3), &qc_raw_format);
    assert_ptr_equal(qc_format_probe(table, (const uint8_t *)"QFI\xfa....", 8), &qc_raw_format);
    assert_ptr_equal(qc_format_probe(table, NULL, 0), &qc_raw_format);
}

static void test_info(void **state)
{
    qchain_image_info info = {0};
    qchain_snapshot_info *s = qc_calloc(2, sizeof(*s));
    qchain_bitmap_info *b = qc_calloc(1, sizeof(*b));

    (void)state;
    qc_info_finish(NULL);
    qc_info_finish(&info);
    s[0].id = qc_strdup("1");
    s[1].name = qc_strdup("two");
    b[0].name = qc_strdup("b");
    info.n_snapshots = 2;
    info.snapshots = s;
    info.n_bitmaps = 1;
    info.bitmaps = b;
    info.name = qc_strdup("n");
    info.format = qc_strdup("f");
    info.backing_name = qc_strdup("b");
    info.backing_resolved = qc_strdup("r");
    info.backing_format = qc_strdup("bf");
    info.data_file = qc_strdup("d");
    info.backing_name_raw = qc_strdup("br");
    info.data_file_raw = qc_strdup("dr");
    qc_info_finish(&info); /* a leak checker says whether all of it went */
    assert_null(info.snapshots);
    assert_int_equal(info.n_bitmaps, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merge),
        cmocka_unit_test(test_long),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_info),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
