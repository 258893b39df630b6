/* SPDX-License-Identifier: MIT */
/* Making images by the library's call: what is refused, what is replaced, where sizes come from. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include <qchain.h>

static char dir[] = "/tmp/qchain-create-XXXXXX";
static qchain_error *err;

static int setup(void **state)
{
    (void)state;
    err = qchain_error_create();
    return mkdtemp(dir) && chdir(dir) == 0 ? 0 : -1;
}

static int teardown(void **state)
{
    char command[64];

    (void)state;
    qchain_error_destroy(err);
    snprintf(command, sizeof(command), "rm -r %s", dir);
    return chdir("/") == 0 && system(command) == 0 ? 0 : -1;
}

static qchain_create_opts opts(const char *format, uint64_t size)
{
    qchain_create_opts o;

    qchain_create_opts_init(&o, sizeof(o));
    o.format = format;
    o.size = size;
    return o;
}

static uint64_t size_of(const char *name)
{
    qchain *c = NULL;
    uint64_t size;

    if (qchain_open(&c, NULL, name, NULL, err) != 0)
        fail_msg("%s", qchain_error_message(err));
    size = qchain_size(c);
    qchain_close(c);
    return size;
}

static void test_replaces(void **state)
{
    qchain_create_opts o = opts(NULL, 1000);
    struct stat before, after;

    (void)state;
    assert_int_equal(qchain_create(NULL, "a.qcow2", &o, err), 0);
    assert_int_equal(size_of("a.qcow2"), 1024);
    assert_int_equal(chmod("a.qcow2", 0640), 0);
    assert_int_equal(stat("a.qcow2", &before), 0);
    assert_int_equal(symlink("a.qcow2", "link"), 0);

    o.flags = QCHAIN_CREATE_KEEP;
    assert_int_equal(qchain_create(NULL, "link", &o, err), QCHAIN_E_EXISTS);
    assert_int_equal(symlink("nowhere", "loose"), 0);
    assert_int_equal(qchain_create(NULL, "loose", &o, err), QCHAIN_E_EXISTS);
    assert_true(lstat("loose", &after) == 0 && S_ISLNK(after.st_mode));
    o.flags = 0;
    o.size = 1 << 20;
    assert_int_equal(qchain_create(NULL, "link", &o, err), 0);
    assert_int_equal(size_of("a.qcow2"), 1 << 20);
    assert_int_equal(stat("a.qcow2", &after), 0);
    assert_int_not_equal(before.st_ino, after.st_ino);
    assert_int_equal(after.st_mode, before.st_mode);
    assert_int_equal(lstat("link", &after), 0);
    assert_true(S_ISLNK(after.st_mode));
}

/* A file that cannot grow, as on a full disk: which one is told, and nothing is left of it. */
static void test_no_room(void **state)
{
    qchain_create_opts o = opts("qcow2", 1 << 20);
    struct rlimit old, some;

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    some = old;
    some.rlim_cur = 65536;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &some), 0);
    assert_int_not_equal(qchain_create(NULL, "full.qcow2", &o, err), 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_non_null(strstr(qchain_error_message(err), "full.qcow2: "));
    assert_int_equal(access("full.qcow2", F_OK), -1);
}

static void test_backing(void **state)
{
    qchain_create_opts o = opts("raw", 3 << 20);

    (void)state;
    assert_int_equal(mkdir("sub", 0755), 0);
    assert_int_equal(qchain_create(NULL, "sub/base", &o, err), 0);
    o = opts("qcow2", UINT64_MAX);
    assert_int_equal(qchain_create(NULL, "sub/top", &o, err), QCHAIN_E_INVAL);
    o.backing_file = "base"; /* relative to the image, not to us */
    assert_int_equal(qchain_create(NULL, "sub/top", &o, err), QCHAIN_E_INVAL);
    o.backing_format = "raw";
    assert_int_equal(qchain_create(NULL, "sub/top", &o, err), 0);
    assert_int_equal(size_of("sub/top"), 3 << 20);
    assert_int_equal(qchain_create(NULL, "sub/base", &o, err), QCHAIN_E_INVAL);
    o.backing_file = "gone";
    assert_int_equal(qchain_create(NULL, "sub/other", &o, err), QCHAIN_E_NOTFOUND);
    o.flags = QCHAIN_CREATE_UNSAFE_BACKING;
    assert_int_equal(qchain_create(NULL, "sub/other", &o, err), QCHAIN_E_INVAL);
    assert_int_not_equal(access("sub/other", F_OK), 0);
    o.size = 512;
    assert_int_equal(qchain_create(NULL, "sub/other", &o, err), 0);
    o.backing_file = "top"; /* whose backing file this is */
    o.backing_format = "qcow2";
    o.flags = 0;
    assert_int_equal(qchain_create(NULL, "sub/base", &o, err), QCHAIN_E_INVAL);
    assert_int_equal(size_of("sub/base"), 3 << 20);
    o.data_file = "base";
    assert_int_equal(qchain_create(NULL, "sub/over", &o, err), QCHAIN_E_INVAL);
    o.data_file = NULL;
    o.backing_file = "base";
    o.backing_format = "qcow2"; /* it is not */
    assert_int_not_equal(qchain_create(NULL, "sub/other", &o, err), 0);
}

static void test_data_file(void **state)
{
    qchain_create_opts o = opts("qcow2", 1 << 20);
    struct stat st;
    FILE *f;

    (void)state;
    o.data_file = "disk.raw";
    o.flags = QCHAIN_CREATE_DATA_FILE_RAW;
    f = fopen("disk.raw", "w");
    assert_non_null(f);
    fputs("kept", f);
    fclose(f);
    assert_int_equal(qchain_create(NULL, "d.qcow2", &o, err), 0);
    assert_int_equal(stat("disk.raw", &st), 0);
    assert_int_equal(st.st_size, 1 << 20);
    f = fopen("disk.raw", "r");
    assert_int_equal(fgetc(f), 'k');
    fclose(f);
    assert_int_equal(qchain_create(NULL, "disk.raw", &o, err), QCHAIN_E_INVAL);
    o.data_file = "new/";
    assert_int_not_equal(qchain_create(NULL, "e.qcow2", &o, err), 0);
    assert_int_not_equal(access("e.qcow2", F_OK), 0);
}

static void test_raw(void **state)
{
    qchain_create_opts o = opts("raw", 1 << 20);
    struct stat st;

    (void)state;
    o.preallocation = QCHAIN_PREALLOC_METADATA;
    assert_int_equal(qchain_create(NULL, "r", &o, err), QCHAIN_E_INVAL);
    for (unsigned how = QCHAIN_PREALLOC_FALLOC; how <= QCHAIN_PREALLOC_FULL; how++) {
        o.preallocation = how;
        assert_int_equal(qchain_create(NULL, "r", &o, err), 0);
        assert_int_equal(stat("r", &st), 0);
        assert_int_equal(st.st_size, 1 << 20);
        assert_true(st.st_blocks >= 2048);
    }
    o.preallocation = 0;
    assert_int_equal(qchain_create(NULL, "r", &o, err), 0);
    assert_int_equal(stat("r", &st), 0);
    assert_int_equal(st.st_blocks, 0);
    o.cluster_size = 65536;
    assert_int_equal(qchain_create(NULL, "r", &o, err), QCHAIN_E_INVAL);
}

static void test_calls(void **state)
{
    qchain_measure_result m = {.struct_size = sizeof(m)};
    qchain_create_opts o = opts("vmdk", 0);

    (void)state;
    assert_int_equal(qchain_create(NULL, "x", &o, err), QCHAIN_E_UNSUPPORTED);
    o.format = NULL;
    assert_int_equal(qchain_create(NULL, NULL, &o, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_create(NULL, "http://localhost/x", &o, err), QCHAIN_E_UNSUPPORTED);
    assert_int_equal(qchain_create(NULL, dir, &o, err), QCHAIN_E_ACCESS);
    o.size = UINT64_MAX - 1;
    assert_int_equal(qchain_create(NULL, "x", &o, err), QCHAIN_E_LIMIT);
    o.size = 0;
    o.flags = 0x80;
    assert_int_equal(qchain_create(NULL, "x", &o, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_measure(NULL, &o, &m, err), QCHAIN_E_INVAL);
    o.flags = 0;
    o.size = UINT64_C(1) << 30;
    assert_int_equal(qchain_measure(NULL, &o, NULL, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_measure(NULL, &o, &m, err), 0);
    assert_int_equal(m.required, 393216);
    assert_int_equal(m.fully_allocated, 1074135040);
    assert_true(m.bitmaps == UINT64_MAX);
    assert_int_equal(qchain_amend(NULL, &o, 0, NULL, err), QCHAIN_E_INVAL);
}

static void amend(qchain *c, const qchain_create_opts *o, uint32_t mask, int code)
{
    int ret = qchain_amend(c, o, mask, NULL, err);

    if (ret != code)
        fail_msg("mask 0x%x: %d (%s)", mask, ret, qchain_error_message(err));
}

static void test_amend(void **state)
{
    qchain_create_opts o = opts("qcow2", 1 << 20);
    qchain_open_opts open;
    qchain_image_info *info;
    qchain *c;

    (void)state;
    assert_int_equal(qchain_create(NULL, "am.qcow2", &o, err), 0);
    qchain_open_opts_init(&open, sizeof(open));
    assert_int_equal(qchain_open(&c, NULL, "am.qcow2", &open, err), 0);
    amend(c, &o, QCHAIN_AMEND_VERSION, QCHAIN_E_READONLY);
    qchain_close(c);
    open.flags = QCHAIN_OPEN_WRITE;
    assert_int_equal(qchain_open(&c, NULL, "am.qcow2", &open, err), 0);
    amend(c, &o, 0x1000, QCHAIN_E_INVAL);
    o.version = 2;
    amend(c, &o, QCHAIN_AMEND_VERSION, 0);
    o.flags = QCHAIN_CREATE_LAZY_REFCOUNTS;
    amend(c, &o, QCHAIN_AMEND_LAZY_REFCOUNTS, QCHAIN_E_INVAL);
    o.version = 3;
    o.backing_file = "below";
    o.backing_format = "raw";
    amend(c, &o, QCHAIN_AMEND_BACKING_FORMAT, QCHAIN_E_INVAL);
    amend(c, &o, QCHAIN_AMEND_LAZY_REFCOUNTS | QCHAIN_AMEND_VERSION | QCHAIN_AMEND_BACKING_FILE |
                     QCHAIN_AMEND_BACKING_FORMAT, 0);
    o.refcount_bits = 8;
    amend(c, &o, QCHAIN_AMEND_REFCOUNT_BITS, QCHAIN_E_UNSUPPORTED);
    amend(c, &o, QCHAIN_AMEND_DATA_FILE, QCHAIN_E_UNSUPPORTED);
    amend(c, &o, QCHAIN_AMEND_DATA_FILE_RAW, 0); /* off, as it is */
    /* what is written later goes on from the changed header */
    assert_int_equal(qchain_write(c, "hello", 5, 4096, 0, err), 0);
    o.size = 2 << 20;
    amend(c, &o, QCHAIN_AMEND_SIZE, 0);
    assert_int_equal(qchain_finish(c, err), 0);
    qchain_close(c);

    open.flags = QCHAIN_OPEN_NO_BACKING;
    assert_int_equal(qchain_inspect(&info, NULL, "am.qcow2", &open, err), 0);
    assert_int_equal(info->version, 3);
    assert_true(info->flags & QCHAIN_IMAGE_LAZY_REFCOUNTS);
    assert_int_equal(info->virtual_size, 2 << 20);
    assert_string_equal(info->backing_format, "raw");
    qchain_image_info_free(info);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_replaces), cmocka_unit_test(test_no_room), cmocka_unit_test(test_backing),
        cmocka_unit_test(test_data_file), cmocka_unit_test(test_raw),    cmocka_unit_test(test_calls),
        cmocka_unit_test(test_amend),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
