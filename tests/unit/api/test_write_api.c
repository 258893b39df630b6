/* SPDX-License-Identifier: MIT */
/* The door to writing: raw images as files, the sidecar that goes, what is refused. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "image_tools.h"

#include <qchain-backend.h>

#include "writer_tools.h" /* image_make */

static char dir[64], path[96];
static qchain_error *err;

static int setup(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/qc-write-XXXXXX");
    err = qchain_error_create();
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/disk", dir);
    return 0;
}

static int teardown(void **state)
{
    char cmd[128];

    (void)state;
    qchain_error_destroy(err);
    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
    return system(cmd);
}

#define GOOD(call)                                                                                 \
    do {                                                                                           \
        if ((call) != 0)                                                                           \
            fail_msg("%s", qchain_error_message(err));                                             \
    } while (0)

static void make_file(const char *name, const void *bytes, size_t n, uint64_t size)
{
    FILE *f = fopen(name, "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
    assert_int_equal(truncate(name, (off_t)size), 0);
}

static uint64_t file_size(const char *name)
{
    struct stat st;

    return stat(name, &st) == 0 ? (uint64_t)st.st_size : UINT64_MAX;
}

static qchain *open_disk(uint32_t flags, const char *format)
{
    qchain_open_opts o;
    qchain *c = NULL;

    qchain_open_opts_init(&o, sizeof(o));
    o.flags = flags;
    o.format = format;
    GOOD(qchain_open(&c, NULL, path, &o, err));
    return c;
}

/* The last sector is there as a whole once it is written to, as in QEMU. */
static void raw_files_of_any_size_are_written(void **unused)
{
    char buf[1024], got[1024];
    qchain *c;

    (void)unused;
    make_file(path, "begin", 5, 1000);
    c = open_disk(QCHAIN_OPEN_WRITE, "raw");
    assert_true(qchain_size(c) == 1024);
    GOOD(qchain_write(c, "x", 1, 998, 0, err));
    GOOD(qchain_flush(c, err));
    assert_true(file_size(path) == 1000);
    memset(buf, 7, sizeof(buf));
    GOOD(qchain_write(c, buf, 512, 512, QCHAIN_WRITE_FUA, err));
    assert_true(file_size(path) == 1024);
    GOOD(qchain_read(c, got, 1024, 0, 0, err));
    assert_true(memcmp(got, "begin", 5) == 0 && memcmp(got + 512, buf, 512) == 0);
    GOOD(qchain_write_zeroes(c, 20, 1000, QCHAIN_WRITE_UNMAP, err));
    GOOD(qchain_discard(c, 1024, 0, 0, err)); /* not given back without QCHAIN_OPEN_DISCARD */
    GOOD(qchain_read(c, got, 1024, 0, 0, err));
    assert_true(got[0] == 'b' && got[999] == 7 && got[1000] == 0 && got[1019] == 0 && got[1020] == 7);
    assert_int_equal(qchain_resize(c, 512, 0, err), QCHAIN_E_INVAL);
    GOOD(qchain_resize(c, 512, QCHAIN_RESIZE_SHRINK, err));
    GOOD(qchain_resize(c, 4096, 0, err));
    assert_true(file_size(path) == 4096 && qchain_size(c) == 4096);
    GOOD(qchain_read(c, got, 1024, 512, 0, err));
    for (int i = 0; i < 1024; i++)
        assert_int_equal(got[i], 0);
    GOOD(qchain_finish(c, err));
    qchain_close(c);
}

static void what_raw_has_not_is_unsupported(void **unused)
{
    char buf[4096] = "";
    qchain *c;

    (void)unused;
    make_file(path, "", 0, 65536);
    c = open_disk(QCHAIN_OPEN_WRITE | QCHAIN_OPEN_WRITETHROUGH, "raw");
    assert_int_equal(qchain_snapshot_create(c, "s", NULL, err), QCHAIN_E_UNSUPPORTED);
    assert_int_equal(qchain_snapshot_apply(c, "s", err), QCHAIN_E_UNSUPPORTED);
    assert_int_equal(qchain_snapshot_delete(c, "s", err), QCHAIN_E_UNSUPPORTED);
    assert_int_equal(qchain_vmstate_read(c, buf, 1, 0, err), QCHAIN_E_UNSUPPORTED);
    assert_int_equal(qchain_vmstate_write(c, buf, 1, 0, err), QCHAIN_E_UNSUPPORTED);
    assert_int_equal(qchain_write_compressed(c, buf, 4096, 0, 0, err), QCHAIN_E_UNSUPPORTED);
    assert_int_equal(qchain_index_build(c, NULL, err), QCHAIN_E_UNSUPPORTED);
    qchain_close(c);
}

static void wrong_arguments_are_refused(void **unused)
{
    qchain_snapshot_opts so;
    qchain_iov iov = {NULL, 5};
    qchain *c;
    char b = 0;

    (void)unused;
    make_file(path, "", 0, 65536);
    c = open_disk(QCHAIN_OPEN_WRITE, "raw");
    assert_int_equal(qchain_write(NULL, &b, 1, 0, 0, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_write(c, NULL, 1, 0, 0, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_write(c, NULL, 0, 0, 0, err), 0);
    assert_int_equal(qchain_write(c, &b, 1, 0, 2, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_write(c, &b, 1, 65536, 0, NULL), QCHAIN_E_RANGE);
    assert_int_equal(qchain_write(c, &b, 1, UINT64_MAX, 0, err), QCHAIN_E_RANGE);
    assert_int_equal(qchain_writev(c, &iov, 1, 0, 0, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_writev(c, NULL, 1, 0, 0, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_write_zeroes(c, 65537, 0, 0, err), QCHAIN_E_RANGE);
    assert_int_equal(qchain_write_zeroes(c, 1, 0, 4, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_discard(c, 1, 0, 1, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_discard(c, 1, 65536, 0, err), QCHAIN_E_RANGE);
    assert_int_equal(qchain_resize(c, 513, 0, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_resize(c, UINT64_C(1) << 63, 0, err), QCHAIN_E_LIMIT);
    assert_int_equal(qchain_resize(c, 1024, 2, err), QCHAIN_E_INVAL);
    qchain_snapshot_opts_init(&so, sizeof(so));
    so.flags = 2;
    assert_int_equal(qchain_snapshot_create(c, "s", &so, err), QCHAIN_E_INVAL);
    so.flags = 0;
    so.icount = 1;
    assert_int_equal(qchain_snapshot_create(c, "s", &so, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_snapshot_create(c, NULL, NULL, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_snapshot_apply(c, NULL, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_flush(NULL, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_drain(NULL, err), QCHAIN_E_INVAL);
    qchain_resume(NULL);
    qchain_resume(c); /* without a drain: nothing */
    GOOD(qchain_write(c, &b, 1, 0, 0, err));
    qchain_close(c);
}

/* The sidecar of an image goes when it is opened for writing; a file that is only called so stays. */
static void the_sidecar_goes(void **unused)
{
    char side[128];

    (void)unused;
    make_file(path, "", 0, 65536);
    snprintf(side, sizeof(side), "%s.qci", path);
    make_file(side, "QCHAINIX", 8, 200);
    qchain_close(open_disk(0, "raw"));
    assert_true(file_size(side) == 200);
    qchain_close(open_disk(QCHAIN_OPEN_WRITE, "raw"));
    assert_true(file_size(side) == UINT64_MAX);
    make_file(side, "precious", 8, 8);
    qchain_close(open_disk(QCHAIN_OPEN_WRITE, "raw"));
    assert_true(file_size(side) == 8);
}

static unsigned char byte_at(long at, int set)
{
    FILE *f = fopen(path, "r+b");
    int c;

    assert_non_null(f);
    fseek(f, at, SEEK_SET);
    if (set >= 0)
        c = fputc(set, f);
    else
        c = fgetc(f);
    fclose(f);
    return (unsigned char)c;
}

/* An image that somebody writes may be marked as one that was not closed: without locks it is not mended. */
static void what_is_dirty_is_not_mended_without_locks(void **unused)
{
    qchain_check_result r = {.struct_size = sizeof(r)};
    qchain_check_opts check;
    qchain_create_opts o;
    qchain_open_opts open;
    char name[200];
    qchain *c;

    (void)unused;
    qchain_create_opts_init(&o, sizeof(o));
    o.size = 1 << 20;
    GOOD(qchain_create(NULL, path, &o, err));
    byte_at(79, 1);
    qchain_open_opts_init(&open, sizeof(open));
    open.flags = QCHAIN_OPEN_WRITE | QCHAIN_OPEN_FORCE_SHARE;
    assert_int_equal(qchain_open(&c, NULL, path, &open, err), QCHAIN_E_LOCKED);
    snprintf(name, sizeof(name), "json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"%s\"},"
             "\"force-share\":true}", path);
    open.flags = QCHAIN_OPEN_WRITE;
    assert_int_equal(qchain_open(&c, NULL, name, &open, err), QCHAIN_E_LOCKED);
    qchain_check_opts_init(&check, sizeof(check));
    check.flags = QCHAIN_CHECK_REPAIR_ALL;
    assert_int_equal(qchain_check(NULL, name, &check, &r, err), QCHAIN_E_INVAL);
    assert_int_equal(byte_at(79, -1), 1);
    GOOD(qchain_open(&c, NULL, path, &open, err));
    qchain_close(c);
    assert_int_equal(byte_at(79, -1), 0);
}

/* What could not be written out for want of space is written by the next try. */
static void finishing_goes_on_when_there_is_room(void **unused)
{
    struct rec_store *r = rec_create(0);
    qchain_open_opts open;
    qchain_store store;
    char got[4];
    qchain *c;

    (void)unused;
    image_make(r, 3, 16, 4, 1 << 20);
    rec_store_of(r, &store);
    qchain_open_opts_init(&open, sizeof(open));
    open.flags = QCHAIN_OPEN_WRITE;
    open.store = &store;
    open.format = "qcow2";
    GOOD(qchain_open(&c, NULL, "disk", &open, err));
    GOOD(qchain_write(c, "data", 4, 0, 0, err));
    rec_reset(r);
    r->log->fail_writes_only = true;
    r->log->fail_code = QCHAIN_E_NOSPACE;
    r->log->fail_from = 1;
    r->log->fail_to = 100;
    assert_int_equal(qchain_finish(c, err), QCHAIN_E_NOSPACE);
    r->log->fail_to = 0;
    GOOD(qchain_finish(c, err));
    assert_int_equal(qchain_finish(c, err), QCHAIN_E_READONLY);
    qchain_close(c);
    rec_store_of(r, &store);
    open.flags = 0;
    GOOD(qchain_open(&c, NULL, "disk", &open, err));
    GOOD(qchain_read(c, got, 4, 0, 0, err));
    assert_memory_equal(got, "data", 4);
    qchain_close(c);
    rec_destroy(r);
}

/* The data file ends with the disk: a VM's state is not put behind it. */
static void a_data_file_holds_no_vm_state(void **unused)
{
    qchain_create_opts o;
    qchain_open_opts open;
    char data[120], buf[4] = "vm";
    qchain *c;

    (void)unused;
    snprintf(data, sizeof(data), "%s/data", dir);
    qchain_create_opts_init(&o, sizeof(o));
    o.size = 1 << 20;
    o.data_file = "data";
    GOOD(qchain_create(NULL, path, &o, err));
    qchain_open_opts_init(&open, sizeof(open));
    open.flags = QCHAIN_OPEN_WRITE;
    open.data_file = data;
    GOOD(qchain_open(&c, NULL, path, &open, err));
    assert_int_equal(qchain_vmstate_write(c, buf, 4, 0, err), QCHAIN_E_UNSUPPORTED);
    assert_int_equal(qchain_vmstate_read(c, buf, 4, 0, err), QCHAIN_E_UNSUPPORTED);
    assert_int_equal(qchain_snapshot_create(c, "s", NULL, err), QCHAIN_E_UNSUPPORTED);
    qchain_close(c);
    assert_int_equal(file_size(data), 1 << 20);
}

/* A snapshot that cannot begin leaves no mark behind, which would be written with the next header. */
static void a_snapshot_that_does_not_begin_leaves_no_mark(void **unused)
{
    struct rec_store *r = rec_create(0);
    qchain_open_opts open;
    qchain_store store;
    qchain *c;

    (void)unused;
    image_make(r, 3, 16, 4, 1 << 20);
    rec_store_of(r, &store);
    qchain_open_opts_init(&open, sizeof(open));
    open.flags = QCHAIN_OPEN_WRITE;
    open.store = &store;
    open.format = "qcow2";
    GOOD(qchain_open(&c, NULL, "disk", &open, err));
    rec_reset(r);
    r->log->fail_writes_only = true;
    r->log->fail_code = QCHAIN_E_NOSPACE;
    r->log->fail_from = 1;
    r->log->fail_to = 2;
    assert_int_equal(qchain_snapshot_create(c, "s", NULL, err), QCHAIN_E_NOSPACE);
    GOOD(qchain_resize(c, 2 << 20, 0, err));
    GOOD(qchain_finish(c, err));
    qchain_close(c);
    assert_int_equal(r->bytes[79], 0);
    rec_destroy(r);
}

/* Zeros mean no count, whoever wrote them; a count of zero is said by the flag. */
static void snapshots_count_instructions_if_told(void **unused)
{
    qchain_snapshot_opts so = {.struct_size = sizeof(so)};
    struct rec_store *r = rec_create(0);
    qchain_open_opts open;
    qchain_image_info *info;
    qchain_store store;
    qchain *c;

    (void)unused;
    image_make(r, 3, 16, 4, 1 << 20);
    rec_store_of(r, &store);
    qchain_open_opts_init(&open, sizeof(open));
    open.flags = QCHAIN_OPEN_WRITE;
    open.store = &store;
    open.format = "qcow2";
    GOOD(qchain_open(&c, NULL, "disk", &open, err));
    GOOD(qchain_snapshot_create(c, "none", &so, err));
    so.flags = QCHAIN_SNAPSHOT_HAS_ICOUNT;
    GOOD(qchain_snapshot_create(c, "zero", &so, err));
    so.icount = 7;
    GOOD(qchain_snapshot_create(c, "seven", &so, err));
    GOOD(qchain_layer_info(&info, c, 0, err));
    assert_int_equal(info->n_snapshots, 3);
    assert_int_equal(info->snapshots[0].flags, 0);
    assert_int_equal(info->snapshots[1].flags, QCHAIN_SNAPSHOT_HAS_ICOUNT);
    assert_int_equal(info->snapshots[1].icount, 0);
    assert_int_equal(info->snapshots[2].icount, 7);
    qchain_image_info_free(info);
    qchain_close(c);
    rec_destroy(r);
}

struct looker {
    qchain    *c;
    atomic_bool over;
    int         failed;
};

static void *look(void *data)
{
    struct looker *l = data;
    qchain_image_info *info;

    while (!atomic_load(&l->over)) {
        if (qchain_layer_info(&info, l->c, 0, NULL) != 0)
            l->failed++;
        else
            qchain_image_info_free(info);
    }
    return NULL;
}

/* Names and tables of the top change under who describes it, and he sees the old or the new. */
static void the_top_is_described_while_it_changes(void **unused)
{
    qchain_create_opts o;
    qchain_open_opts open;
    struct looker l = {0};
    pthread_t thread;

    (void)unused;
    qchain_create_opts_init(&o, sizeof(o));
    o.size = 1 << 20;
    GOOD(qchain_create(NULL, path, &o, err));
    qchain_open_opts_init(&open, sizeof(open));
    open.flags = QCHAIN_OPEN_WRITE | QCHAIN_OPEN_UNSAFE;
    GOOD(qchain_open(&l.c, NULL, path, &open, err));
    assert_int_equal(pthread_create(&thread, NULL, look, &l), 0);
    o.backing_format = "raw";
    for (int i = 0; i < 300; i++) {
        o.backing_file = i % 2 ? "one" : "the other";
        GOOD(qchain_amend(l.c, &o, QCHAIN_AMEND_BACKING_FILE | QCHAIN_AMEND_BACKING_FORMAT, NULL, err));
        GOOD(qchain_snapshot_create(l.c, "s", NULL, err));
        GOOD(qchain_write(l.c, "data", 4, (uint64_t)i * 512, 0, err));
        GOOD(qchain_snapshot_delete(l.c, "s", err));
    }
    atomic_store(&l.over, true);
    pthread_join(thread, NULL);
    assert_int_equal(l.failed, 0);
    qchain_close(l.c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(raw_files_of_any_size_are_written, setup, teardown),
        cmocka_unit_test_setup_teardown(what_raw_has_not_is_unsupported, setup, teardown),
        cmocka_unit_test_setup_teardown(wrong_arguments_are_refused, setup, teardown),
        cmocka_unit_test_setup_teardown(the_sidecar_goes, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_dirty_is_not_mended_without_locks, setup, teardown),
        cmocka_unit_test_setup_teardown(finishing_goes_on_when_there_is_room, setup, teardown),
        cmocka_unit_test_setup_teardown(a_data_file_holds_no_vm_state, setup, teardown),
        cmocka_unit_test_setup_teardown(a_snapshot_that_does_not_begin_leaves_no_mark, setup, teardown),
        cmocka_unit_test_setup_teardown(snapshots_count_instructions_if_told, setup, teardown),
        cmocka_unit_test_setup_teardown(the_top_is_described_while_it_changes, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
