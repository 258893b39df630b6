/* SPDX-License-Identifier: MIT */
/* Converting by the library's call: what is copied and what is not, what is refused, and what is left then. */
#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include <qchain.h>

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define CLUSTER (64 * KIB)
#define SIZE (4 * MIB)

static char dir[] = "/tmp/qchain-convert-XXXXXX";
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

static void ok(int r)
{
    if (r != 0)
        fail_msg("%s", qchain_error_message(err));
}

static void make(const char *name, const char *backing)
{
    qchain_create_opts o;

    qchain_create_opts_init(&o, sizeof(o));
    o.size = SIZE;
    o.backing_file = backing;
    o.backing_format = backing ? "qcow2" : NULL;
    ok(qchain_create(NULL, name, &o, err));
}

static qchain *open_it(const char *name, uint32_t flags)
{
    qchain_open_opts o;
    qchain *c = NULL;

    qchain_open_opts_init(&o, sizeof(o));
    o.flags = flags;
    ok(qchain_open(&c, NULL, name, &o, err));
    return c;
}

static void fill(const char *name, uint64_t offset, uint64_t length, int byte)
{
    qchain *c = open_it(name, QCHAIN_OPEN_WRITE);
    char *buf = malloc(length);

    assert_non_null(buf);
    memset(buf, byte, length);
    ok(byte ? qchain_write(c, buf, length, offset, 0, err) : qchain_write_zeroes(c, length, offset, 0, err));
    ok(qchain_finish(c, err));
    qchain_close(c);
    free(buf);
}

/* base: 1 in [0, 1M); mid: 2 in [1M, 1M + 128K); top: 3 in [2M, 2M + 64K), zeros in [64K, 192K). */
static void make_chain(void)
{
    make("base", NULL);
    fill("base", 0, MIB, 1);
    make("mid", "base");
    fill("mid", MIB, 2 * CLUSTER, 2);
    make("top", "mid");
    fill("top", 2 * MIB, CLUSTER, 3);
    fill("top", CLUSTER, 2 * CLUSTER, 0);
}

static void assert_same(const char *name, const char *other)
{
    qchain_compare_opts o;
    qchain *a = open_it(name, 0), *b = open_it(other, 0);

    qchain_compare_opts_init(&o, sizeof(o));
    ok(qchain_compare(a, b, &o, err));
    assert_int_equal(o.result, QCHAIN_SAME);
    qchain_close(a);
    qchain_close(b);
}

static qchain_convert_opts opts(uint32_t flags, const qchain_create_opts *create)
{
    qchain_convert_opts o;

    qchain_convert_opts_init(&o, sizeof(o));
    o.flags = flags;
    o.create = create;
    return o;
}

static int convert(const char *name, const qchain_convert_opts *o, qchain_job_result *r)
{
    qchain *c = open_it("top", 0);
    int ret = qchain_convert(c, name, o, r, err);

    qchain_close(c);
    return ret;
}

/* Names in the directory, hidden ones too. */
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

static void test_flatten(void **state)
{
    qchain_job_result r = {.struct_size = sizeof(r)};
    qchain_convert_opts o = opts(0, NULL);
    qchain_create_opts raw;

    (void)state;
    make_chain();
    ok(convert("flat", NULL, &r));
    assert_int_equal(r.copied, MIB + CLUSTER);
    assert_int_equal(r.layers, 1);
    assert_same("top", "flat");

    qchain_create_opts_init(&raw, sizeof(raw));
    raw.format = "raw";
    raw.size = SIZE + 512;
    o = opts(QCHAIN_CONVERT_UNSAFE, &raw);
    ok(convert("flat.raw", &o, &r));
    assert_same("top", "flat.raw");
    o = opts(QCHAIN_CONVERT_COMPRESS, NULL);
    ok(convert("flat", &o, &r));
    assert_same("top", "flat");
    o = opts(0, NULL);
    o.sparse_bytes = UINT64_MAX; /* all of it */
    ok(convert("flat", &o, &r));
    assert_int_equal(r.copied, SIZE);
    assert_same("top", "flat");
}

static void test_backing(void **state)
{
    static const struct {
        const char *backing;
        uint64_t    copied;
    } over[] = {{"base", 3 * CLUSTER}, {"mid", CLUSTER}};
    qchain_job_result r = {.struct_size = sizeof(r)};
    qchain_create_opts c;
    qchain_convert_opts o;

    (void)state;
    for (size_t i = 0; i < sizeof(over) / sizeof(over[0]); i++) {
        qchain_create_opts_init(&c, sizeof(c));
        c.backing_file = over[i].backing;
        c.backing_format = "qcow2";
        o = opts(0, &c);
        ok(convert("delta", &o, &r));
        assert_int_equal(r.copied, over[i].copied);
        assert_int_equal(r.zeroed, 2 * CLUSTER);
        assert_int_equal(r.layers, 2 + i);
        assert_same("top", "delta");
    }
}

/* What an existing target held shows nowhere; unless it is said to read as zeros, which is not looked at. */
static void test_existing(void **state)
{
    qchain_convert_opts o = opts(QCHAIN_CONVERT_EXISTING, NULL);
    qchain_job_result r = {.struct_size = sizeof(r)};
    struct stat before, after;

    (void)state;
    make("there", NULL);
    fill("there", 3 * MIB, MIB, 9);
    assert_int_equal(stat("there", &before), 0);
    ok(convert("there", &o, &r));
    assert_int_equal(stat("there", &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
    assert_same("top", "there");
    make("there", NULL);
    o.flags |= QCHAIN_CONVERT_IS_ZERO;
    ok(convert("there", &o, &r));
    assert_int_equal(r.zeroed, 0);
    assert_same("top", "there");
    assert_int_equal(convert("nofile", &o, &r), QCHAIN_E_NOTFOUND);
}

static void test_refused(void **state)
{
    static const uint32_t wrong[] = {
        0x80000000u, QCHAIN_CONVERT_IS_ZERO, QCHAIN_CONVERT_SKIP_BROKEN,
        QCHAIN_CONVERT_OFFLOAD | QCHAIN_CONVERT_COMPRESS, QCHAIN_CONVERT_OFFLOAD | QCHAIN_CONVERT_SALVAGE};
    qchain_create_opts c;
    qchain_convert_opts o;
    unsigned files = count_files();

    (void)state;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        o = opts(wrong[i], NULL);
        assert_int_equal(convert("new", &o, NULL), QCHAIN_E_INVAL);
    }
    assert_int_equal(qchain_convert(NULL, "new", NULL, NULL, err), QCHAIN_E_INVAL);
    o = opts(0, NULL);
    o.sparse_bytes = 100;
    assert_int_equal(convert("new", &o, NULL), QCHAIN_E_INVAL);
    o = opts(0, NULL);
    assert_int_equal(convert("mid", &o, NULL), QCHAIN_E_INVAL); /* a layer of it */
    qchain_create_opts_init(&c, sizeof(c));
    c.size = MIB;
    o = opts(0, &c);
    assert_int_equal(convert("new", &o, NULL), QCHAIN_E_NOSPACE);
    c.size = 0;
    c.format = "raw";
    o.flags = QCHAIN_CONVERT_COMPRESS;
    assert_int_equal(convert("new", &o, NULL), QCHAIN_E_UNSUPPORTED);
    o.flags = QCHAIN_CONVERT_BITMAPS;
    assert_int_equal(convert("new", &o, NULL), QCHAIN_E_UNSUPPORTED);
    assert_int_equal(count_files(), files);
    assert_same("top", "flat");
}

/* A target is whole, or as it was. */
static void test_cancelled(void **state)
{
    qchain_convert_opts o = opts(0, NULL);
    unsigned files = count_files();
    struct stat before, after;

    (void)state;
    o.job = qchain_job_create();
    assert_non_null(o.job);
    qchain_job_cancel(o.job);
    assert_int_equal(stat("flat", &before), 0);
    assert_int_equal(convert("flat", &o, NULL), QCHAIN_E_CANCELLED);
    assert_int_equal(convert("new", &o, NULL), QCHAIN_E_CANCELLED);
    assert_int_equal(stat("flat", &after), 0);
    assert_int_equal(before.st_ino, after.st_ino);
    assert_int_equal(count_files(), files);
    qchain_job_destroy(o.job);
}

static uint64_t dirty_bytes(qchain *c, const char *name)
{
    qchain_dirty_extent e[16];
    uint64_t next, sum = 0;
    uint32_t n;

    ok(qchain_bitmap_query(c, name, 0, SIZE, e, 16, &n, &next, err));
    assert_int_equal(next, SIZE);
    for (uint32_t i = 0; i < n; i++)
        sum += e[i].dirty ? e[i].length : 0;
    return sum;
}

static void test_bitmaps(void **state)
{
    qchain_convert_opts o = opts(QCHAIN_CONVERT_BITMAPS, NULL);
    qchain_image_info *i;
    qchain *c = open_it("top", QCHAIN_OPEN_WRITE);

    (void)state;
    ok(qchain_bitmap_add(c, "on", 4 * KIB, 1, err));
    ok(qchain_bitmap_add(c, "off", CLUSTER, 0, err));
    ok(qchain_finish(c, err));
    qchain_close(c);
    fill("top", 3 * MIB, 10 * KIB, 7);
    ok(convert("flat", &o, NULL));
    assert_same("top", "flat");
    c = open_it("flat", 0);
    assert_int_equal(dirty_bytes(c, "on"), 12 * KIB);
    assert_int_equal(dirty_bytes(c, "off"), 0);
    ok(qchain_layer_info(&i, c, 0, err));
    assert_int_equal(i->n_bitmaps, 2);
    for (uint32_t k = 0; k < 2; k++) {
        bool on = strcmp(i->bitmaps[k].name, "on") == 0;

        assert_int_equal(i->bitmaps[k].flags, on ? QCHAIN_BITMAP_AUTO : 0);
        assert_int_equal(i->bitmaps[k].granularity, on ? 4 * KIB : CLUSTER);
    }
    qchain_image_info_free(i);
    qchain_close(c);
}

/* A file that was cut within its last cluster, and within a sector: the rest reads as zeros, and becomes zeros. */
static void test_cut_within_a_sector(void **state)
{
    enum { DISK = 25 << 20, LAST = 24 << 20 };
    static unsigned char got[DISK], want[DISK];
    qchain_convert_opts o = opts(0, NULL);
    qchain_create_opts mostly_holes;
    struct stat st;
    qchain *c;

    (void)state;
    qchain_create_opts_init(&mostly_holes, sizeof(mostly_holes));
    mostly_holes.size = LAST + CLUSTER;
    mostly_holes.preallocation = QCHAIN_PREALLOC_METADATA;
    ok(qchain_create(NULL, "cut", &mostly_holes, err));
    fill("cut", 0, 12 * MIB, 7);
    fill("cut", LAST, CLUSTER, 8);
    c = open_it("cut", QCHAIN_OPEN_WRITE);
    ok(qchain_resize(c, DISK, 0, err));
    ok(qchain_finish(c, err));
    qchain_close(c);
    assert_int_equal(stat("cut", &st), 0);
    assert_int_equal(truncate("cut", st.st_size - (off_t)CLUSTER + 1000), 0);
    memset(want, 7, 12 * MIB);
    memset(want + LAST, 8, 1000);
    o.threads = 1; /* whose memory still has what was there before */
    c = open_it("cut", 0);
    ok(qchain_read(c, got, DISK, 0, 0, err));
    assert_memory_equal(got, want, DISK);
    ok(qchain_convert(c, "whole", &o, NULL, err));
    qchain_close(c);
    c = open_it("whole", 0);
    ok(qchain_read(c, got, DISK, 0, 0, err));
    qchain_close(c);
    assert_memory_equal(got, want, DISK);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flatten),  cmocka_unit_test(test_backing),   cmocka_unit_test(test_existing),
        cmocka_unit_test(test_refused),  cmocka_unit_test(test_cancelled), cmocka_unit_test(test_bitmaps),
        cmocka_unit_test(test_cut_within_a_sector),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
