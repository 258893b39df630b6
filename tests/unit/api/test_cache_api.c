/* SPDX-License-Identifier: MIT */
/* The door to cache directories: arguments, and structs of older and newer callers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include <qchain.h>

static char dir[64], v1[80];

static int setup(void **unused)
{
    (void)unused;
    strcpy(dir, "/var/tmp/qc-cache-XXXXXX");
    assert_non_null(mkdtemp(dir));
    strcat(strcpy(v1, dir), "/v1");
    return 0;
}

static int teardown(void **unused)
{
    char lock[90];

    (void)unused;
    strcat(strcpy(lock, v1), "/lock"); /* of who trims */
    unlink(lock);
    rmdir(v1);
    return rmdir(dir);
}

static void arguments(void **unused)
{
    qchain_error *err = qchain_error_create();
    qchain_cache_info info = {.struct_size = sizeof(info)}, none = {0};

    (void)unused;
    assert_int_equal(mkdir(v1, 0700), 0);
    assert_int_equal(qchain_cache_stat(NULL, &info, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_cache_stat(dir, NULL, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_cache_stat("", &info, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_cache_stat(dir, &none, err), QCHAIN_E_INVAL);
    assert_non_null(strstr(qchain_error_message(err), "struct_size"));
    assert_int_equal(qchain_cache_verify(NULL, &info, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_cache_verify(dir, &none, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_cache_trim(NULL, 0, &info, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_cache_trim(dir, 0, &none, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_cache_clear(NULL, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_cache_clear("", NULL), QCHAIN_E_INVAL);

    assert_int_equal(qchain_cache_stat(dir, &info, NULL), 0);
    assert_int_equal(qchain_cache_verify(dir, &info, NULL), 0);
    assert_int_equal(qchain_cache_trim(dir, 0, &info, NULL), 0);
    assert_int_equal(qchain_cache_clear(dir, NULL), 0);
    qchain_error_destroy(err);
}

static void no_cache(void **unused)
{
    qchain_cache_info info = {.struct_size = sizeof(info)};
    qchain_error *err = qchain_error_create();

    (void)unused;
    assert_int_equal(qchain_cache_stat(dir, &info, err), QCHAIN_E_INVAL);
    assert_non_null(strstr(qchain_error_message(err), dir));
    assert_int_equal(access(v1, F_OK), -1); /* it is not made by looking */
    assert_int_equal(qchain_cache_clear(dir, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_cache_stat(v1, &info, err), QCHAIN_E_NOTFOUND);
    qchain_error_destroy(err);
}

/* An older caller's struct is not written past its end; a newer one's end is zeros. */
static void sizes(void **unused)
{
    struct {
        qchain_cache_info info;
        uint64_t more[4];
    } x;

    (void)unused;
    assert_int_equal(mkdir(v1, 0700), 0);
    memset(&x, 0xee, sizeof(x));
    x.info.struct_size = offsetof(qchain_cache_info, bytes);
    assert_int_equal(qchain_cache_stat(dir, &x.info, NULL), 0);
    assert_int_equal(x.info.struct_size, offsetof(qchain_cache_info, bytes));
    assert_int_equal(x.info.objects, 0);
    assert_true(x.info.bytes == UINT64_C(0xeeeeeeeeeeeeeeee));
    x.info.struct_size = sizeof(x);
    assert_int_equal(qchain_cache_trim(dir, 5, &x.info, NULL), 0);
    assert_int_equal(x.info.struct_size, sizeof(x));
    assert_true(x.info.bytes == 0 && x.more[0] == 0 && x.more[3] == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(arguments, setup, teardown),
        cmocka_unit_test_setup_teardown(no_cache, setup, teardown),
        cmocka_unit_test_setup_teardown(sizes, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
