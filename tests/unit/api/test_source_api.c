/* SPDX-License-Identifier: MIT */
/* The door to the files of a chain: their bytes, sizes and numbers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include <qchain.h>

static char dir[64], top[96], base[96];
static qchain_error *err;

static int setup(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/qc-source-XXXXXX");
    err = qchain_error_create();
    if (!mkdtemp(dir))
        return -1;
    snprintf(top, sizeof(top), "%s/top", dir);
    snprintf(base, sizeof(base), "%s/base", dir);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    unlink(top);
    unlink(base);
    qchain_error_destroy(err);
    return rmdir(dir);
}

static void check(int r)
{
    if (r != 0)
        fail_msg("%s", qchain_error_message(err));
}

/* A qcow2 image over a raw file of 700 bytes, whose disk is larger. */
static qchain *make_chain(uint32_t flags)
{
    qchain_create_opts create;
    qchain_open_opts open;
    qchain *c = NULL;
    FILE *f = fopen(base, "w");

    assert_non_null(f);
    for (int i = 0; i < 700; i++)
        fputc(i % 251, f);
    assert_int_equal(fclose(f), 0);
    qchain_create_opts_init(&create, sizeof(create));
    create.size = 1 << 20;
    create.backing_file = "base";
    create.backing_format = "raw";
    check(qchain_create(NULL, top, &create, err));
    qchain_open_opts_init(&open, sizeof(open));
    open.flags = flags;
    check(qchain_open(&c, NULL, top, &open, err));
    return c;
}

static void bytes_are_the_files_own(void **state)
{
    unsigned char buf[700], magic[4];
    qchain_source_info info = {.struct_size = sizeof(info)};
    qchain *c = make_chain(0);

    (void)state;
    check(qchain_source_stat(c, 0, &info, err));
    assert_int_equal(info.layer, 0);
    assert_int_equal(info.flags, 0);
    assert_true(info.size > 65536 && info.mtime_ns != 0);
    check(qchain_source_read(c, 0, magic, 4, 0, 0, err));
    assert_memory_equal(magic, "QFI\xfb", 4);
    check(qchain_source_stat(c, 1, &info, err));
    assert_int_equal(info.layer, 1);
    assert_int_equal(info.size, 700);
    check(qchain_source_read(c, 1, buf, 700, 0, 0, err));
    for (int i = 0; i < 700; i++)
        assert_int_equal(buf[i], i % 251);
    check(qchain_source_read(c, 1, NULL, 0, 700, 0, err));
    qchain_close(c);
}

static void what_is_not_there_is_refused(void **state)
{
    qchain_source_info info = {.struct_size = sizeof(info)};
    qchain *c = make_chain(0);
    char buf[2];

    (void)state;
    assert_int_equal(qchain_source_stat(c, 2, &info, err), QCHAIN_E_RANGE);
    assert_int_equal(qchain_source_stat(NULL, 0, &info, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_source_stat(c, 0, NULL, err), QCHAIN_E_INVAL);
    info.struct_size = 0;
    assert_int_equal(qchain_source_stat(c, 0, &info, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_source_read(c, 2, buf, 1, 0, 0, err), QCHAIN_E_RANGE);
    assert_int_equal(qchain_source_read(c, 1, buf, 2, 699, 0, err), QCHAIN_E_RANGE);
    assert_int_equal(qchain_source_read(c, 1, buf, 1, UINT64_MAX, 0, err), QCHAIN_E_RANGE);
    assert_int_equal(qchain_source_read(c, 1, NULL, 1, 0, 0, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_source_read(c, 1, buf, 1, 0, 1, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_source_read(NULL, 1, buf, 1, 0, 0, NULL), QCHAIN_E_INVAL);
    qchain_close(c);
}

static void a_file_that_shrank_fails(void **state)
{
    qchain *c = make_chain(0);
    char buf[100];

    (void)state;
    assert_int_equal(truncate(base, 650), 0);
    check(qchain_source_read(c, 1, buf, 100, 500, 0, err));
    assert_int_equal(qchain_source_read(c, 1, buf, 100, 600, 0, err), QCHAIN_E_IO);
    assert_int_equal(qchain_error_layer(err), 1);
    qchain_close(c);
}

static void a_top_that_is_written_shows_what_it_has(void **state)
{
    qchain_source_info info = {.struct_size = sizeof(info)};
    qchain *c = make_chain(QCHAIN_OPEN_WRITE);
    char buf[4], data[512];
    uint64_t before;

    (void)state;
    memset(data, 'x', sizeof(data));
    check(qchain_source_stat(c, 0, &info, err));
    before = info.size;
    check(qchain_write(c, data, sizeof(data), 0, 0, err));
    check(qchain_flush(c, err));
    check(qchain_source_stat(c, 0, &info, err));
    assert_true(info.size > before);
    check(qchain_source_read(c, 0, buf, 4, before, 0, err));
    check(qchain_source_read(c, 0, buf, 4, 0, 0, err));
    assert_memory_equal(buf, "QFI\xfb", 4);
    check(qchain_finish(c, err));
    qchain_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(bytes_are_the_files_own, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_not_there_is_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(a_file_that_shrank_fails, setup, teardown),
        cmocka_unit_test_setup_teardown(a_top_that_is_written_shows_what_it_has, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
