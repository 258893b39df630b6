/* SPDX-License-Identifier: MIT */
/* Converting where memory fails, once, at any place: it says so, and leaves nothing, or it gets over it. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include <qchain.h>

#include "../failing_memory.h"

#define SIZE (1u << 20)

static char dir[] = "/tmp/qchain-convert-memory-XXXXXX";
static char data[SIZE];

static unsigned count_files(void)
{
    DIR *d = opendir(".");
    unsigned n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

static void make_source(void)
{
    qchain_create_opts o;
    qchain_open_opts open;
    qchain *c;

    qchain_create_opts_init(&o, sizeof(o));
    qchain_open_opts_init(&open, sizeof(open));
    o.size = SIZE;
    memset(data, 5, SIZE / 2);
    assert_int_equal(qchain_create(NULL, "source", &o, NULL), 0);
    open.flags = QCHAIN_OPEN_WRITE;
    assert_int_equal(qchain_open(&c, NULL, "source", &open, NULL), 0);
    assert_int_equal(qchain_write(c, data, SIZE / 2, 0, 0, NULL), 0);
    assert_int_equal(qchain_bitmap_add(c, "bitmap", 0, 1, NULL), 0);
    assert_int_equal(qchain_finish(c, NULL), 0);
    qchain_close(c);
}

static void assert_right(const char *name)
{
    char *got = malloc(SIZE);
    qchain *c;

    assert_non_null(got);
    assert_int_equal(qchain_open(&c, NULL, name, NULL, NULL), 0);
    assert_int_equal(qchain_read(c, got, SIZE, 0, 0, NULL), 0);
    assert_memory_equal(got, data, SIZE);
    qchain_close(c);
    free(got);
}

static void try_all(const char *format, uint32_t flags)
{
    qchain_create_opts create;
    qchain_convert_opts o;
    unsigned files = count_files();
    qchain *c;
    int ret = -1;

    qchain_create_opts_init(&create, sizeof(create));
    qchain_convert_opts_init(&o, sizeof(o));
    create.format = format;
    o.create = &create;
    o.flags = flags;
    for (int i = 0; ret != 0; i++) {
        assert_int_equal(qchain_open(&c, NULL, "source", NULL, NULL), 0);
        atomic_store(&failed, 0);
        atomic_store(&fail_in, i);
        ret = qchain_convert(c, "target", &o, NULL, NULL);
        atomic_store(&fail_in, -1);
        qchain_close(c);
        assert_true(ret == 0 || ret == QCHAIN_E_NOMEM);
        if (ret != 0) {
            assert_int_equal(count_files(), files);
        } else {
            assert_right("target");
            unlink("target");
            ret = atomic_load(&failed) ? -1 : 0; /* gone on without; until none is left to fail */
        }
    }
}

static void test_memory(void **state)
{
    (void)state;
    try_all("qcow2", 0);
    try_all("qcow2", QCHAIN_CONVERT_COMPRESS | QCHAIN_CONVERT_BITMAPS);
    try_all("raw", 0);
    try_all("raw", QCHAIN_CONVERT_OFFLOAD);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_memory)};
    char command[64];
    int r;

    if (!mkdtemp(dir) || chdir(dir) != 0)
        return 1;
    make_source();
    r = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(command, sizeof(command), "rm -r %s", dir);
    return chdir("/") == 0 && system(command) == 0 ? r : 1;
}
