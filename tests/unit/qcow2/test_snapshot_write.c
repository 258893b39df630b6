/* SPDX-License-Identifier: MIT */
/* Internal snapshots: taken, gone back to and removed in any order, between writes; what each reads as is
 * compared with a model, with our own reader and with qemu-img, which also makes some of them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "image_tools.h"
#include "util/error.h"
#include "write_rig.h"
#include "share.h"

#define ROOM (UINT64_C(48) << 20)
#define MOST 8

/* What a snapshot must read as. */
struct taken {
    char     id[16];
    uint8_t *model;
    uint64_t size;
};

struct album {
    struct rig   r;
    struct taken t[MOST];
    unsigned     n, last_id;
    uint64_t     seed;
};

static void write_some(struct album *a, unsigned times)
{
    struct rig *r = &a->r;
    uint64_t cluster = r->img->cluster_size, disk = r->img->virtual_size;

    while (times-- > 0) {
        uint64_t v = random_next(&a->seed), offset = random_next(&a->seed) % (disk / 512) * 512;
        uint64_t length = (random_next(&a->seed) % (3 * cluster / 512) + 1) * 512;
        uint8_t *buf;

        length = length < disk - offset ? length : disk - offset;
        buf = malloc(length + cluster);
        for (uint64_t i = 0; i < length + cluster; i++)
            buf[i] = (uint8_t)(v >> 16) + (uint8_t)(i >> 9);
        if (v % 8 < 4)
            rig_write(r, offset, length, buf);
        else if (v % 8 < 5)
            rig_zero(r, offset, length, v >> 8 & 1 ? QC_ZERO_UNMAP : 0);
        else if (v % 8 < 6)
            rig_discard(r, offset, length);
        else if (offset / cluster * cluster + cluster <= disk)
            rig_write_compressed(r, offset / cluster * cluster, buf);
        free(buf);
    }
}

static void take(struct album *a)
{
    char name[16];
    struct qc_snapshot_new s = {.name = name, .date_ns = UINT64_C(1700000000123456789), .icount = UINT64_MAX};
    struct taken *t = &a->t[a->n];
    qchain_error err;

    if (a->n == MOST)
        return;
    qc_error_init(&err);
    snprintf(name, sizeof(name), "s%u", a->last_id + 1);
    if (qc2_snapshot_create(a->r.img, &s, &err) < 0)
        fail_msg("create: %s", err.text);
    snprintf(t->id, sizeof(t->id), "%u", ++a->last_id);
    t->size = a->r.img->virtual_size;
    t->model = malloc(t->size);
    memcpy(t->model, a->r.model, t->size);
    a->n++;
}

static void apply(struct album *a, unsigned i)
{
    qchain_error err;

    qc_error_init(&err);
    if (qc2_snapshot_apply(a->r.img, a->t[i].id, &err) < 0)
        fail_msg("apply: %s", err.text);
    assert_int_equal(a->r.img->virtual_size, a->t[i].size);
    memset(a->r.model, 0, a->r.model_room);
    memcpy(a->r.model, a->t[i].model, a->t[i].size);
    rig_compare(&a->r);
}

static void forget(struct album *a, unsigned i)
{
    unsigned number;

    free(a->t[i].model);
    a->t[i] = a->t[--a->n];
    a->last_id = 0;
    for (i = 0; i < a->n; i++) {
        number = (unsigned)atoi(a->t[i].id);
        a->last_id = number > a->last_id ? number : a->last_id;
    }
}

static void delete(struct album *a, unsigned i)
{
    qchain_error err;

    qc_error_init(&err);
    if (qc2_snapshot_delete(a->r.img, a->t[i].id, &err) < 0)
        fail_msg("delete: %s", err.text);
    forget(a, i);
}

/* Closed, all that there is reads as it should. */
static void check(struct album *a)
{
    rig_end(&a->r);
    rig_check(&a->r);
    for (unsigned i = 0; i < a->n; i++)
        rig_compare_closed(&a->r, a->t[i].id, a->t[i].model, a->t[i].size);
    rig_begin(&a->r);
}

static void any_order(const struct rig_opts *o, uint64_t seed, unsigned steps)
{
    struct album a = {.seed = seed};

    rig_make(&a.r, o);
    for (unsigned i = 0; i < steps; i++) {
        uint64_t v = random_next(&a.seed);

        write_some(&a, (unsigned)(v >> 32) % 12);
        if (a.n == 0 || v % 8 < 3)
            take(&a);
        else if (v % 8 < 5)
            apply(&a, (unsigned)(v >> 16) % a.n);
        else if (v % 8 < 7)
            delete(&a, (unsigned)(v >> 16) % a.n);
        else if (o->version >= 3 && !o->backing)
            rig_resize(&a.r, o->disk / 2 + (v >> 16) % (o->disk / 512) * 512);
        if (i % 6 == 5)
            check(&a);
    }
    while (a.n > 0)
        delete(&a, 0);
    check(&a);
    rig_destroy(&a.r);
}

static void test_any_order(void **state)
{
    static const struct rig_opts shape[] = {
        {.cluster_bits = 9, .refcount_order = 4, .disk = 300 << 10, .version = 3},
        {.cluster_bits = 9, .refcount_order = 5, .disk = 300 << 10, .version = 2, .backing = true},
        {.cluster_bits = 12, .refcount_order = 4, .disk = 1 << 20, .version = 3, .backing = true, .discard = true},
        {.cluster_bits = 12, .refcount_order = 3, .disk = 1 << 20, .version = 3, .zstd = true},
        {.cluster_bits = 12, .refcount_order = 6, .disk = 1 << 20, .version = 3, .cache_bytes = 65536},
        {.cluster_bits = 14, .refcount_order = 4, .disk = 1 << 20, .version = 3, .extended = true},
        {.cluster_bits = 14, .refcount_order = 5, .disk = 1 << 20, .version = 3, .extended = true, .backing = true},
        {.cluster_bits = 16, .refcount_order = 4, .disk = 3 << 20, .version = 3},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(shape) / sizeof(*shape); i++) {
        struct rig_opts o = shape[i];

        o.room = ROOM;
        any_order(&o, 100 + i, share(30));
    }
}

/* ---- limits ---- */

static void refused(struct rig *r, int code)
{
    struct qc_snapshot_new s = {.name = "x", .icount = UINT64_MAX};
    uint8_t before[512];
    qchain_error err;

    qc_error_init(&err);
    assert_int_equal(qc2_flush(((struct qc2_image *)r->img)->writer, &err), 0);
    memcpy(before, r->file.p, sizeof(before));
    assert_int_equal(qc2_snapshot_create(r->img, &s, &err), code);
    assert_memory_equal(before, r->file.p, sizeof(before));
    rig_compare(r);
    rig_end(r);
    rig_check(r);
    rig_begin(r);
}

static void test_limits(void **state)
{
    struct rig_opts o = {.cluster_bits = 12, .refcount_order = 0, .disk = 1 << 20, .version = 3, .room = ROOM};
    struct album a = {.seed = 3};
    uint8_t buf[50000];

    (void)state;
    rig_make(&a.r, &o);
    write_some(&a, 10);
    refused(&a.r, QCHAIN_E_LIMIT);
    rig_destroy(&a.r);

    o.refcount_order = 1; /* up to 3: the disk and two snapshots */
    rig_make(&a.r, &o);
    memset(buf, 5, sizeof(buf));
    rig_write(&a.r, 100 << 10, sizeof(buf), buf);
    take(&a);
    take(&a);
    rig_write(&a.r, 100 << 10, 8192, buf); /* counted before it fails, and not after */
    refused(&a.r, QCHAIN_E_LIMIT);
    check(&a);
    delete(&a, 0);
    take(&a);
    check(&a);
    while (a.n > 0)
        forget(&a, 0);
    rig_destroy(&a.r);

    o.data_file = true;
    rig_make(&a.r, &o);
    refused(&a.r, QCHAIN_E_UNSUPPORTED);
    rig_destroy(&a.r);
}

static void test_names(void **state)
{
    struct rig_opts o = {.cluster_bits = 12, .refcount_order = 4, .disk = 1 << 20, .version = 3, .room = ROOM};
    struct qc_snapshot_new s = {.name = "1", .icount = 5};
    struct album a = {.seed = 3};
    qchain_error err;

    (void)state;
    qc_error_init(&err);
    rig_make(&a.r, &o);
    assert_int_equal(qc2_snapshot_delete(a.r.img, "1", &err), QCHAIN_E_NOTFOUND);
    s.name = "2"; /* the id of the next one */
    assert_int_equal(qc2_snapshot_create(a.r.img, &s, &err), 0);
    s.name = "other";
    assert_int_equal(qc2_snapshot_create(a.r.img, &s, &err), 0);
    assert_int_equal(qc2_snapshot_delete(a.r.img, "2", &err), 0); /* an id goes before a name */
    assert_int_equal(qc2_snapshot_delete(a.r.img, "other", &err), QCHAIN_E_NOTFOUND);
    assert_int_equal(qc2_snapshot_delete(a.r.img, "2", &err), 0);
    assert_int_equal(((struct qc2_image *)a.r.img)->header.n_snapshots, 0);
    check(&a);
    rig_destroy(&a.r);
}

/* ---- VM state ---- */

static void test_vmstate(void **state)
{
    struct rig_opts o = {.cluster_bits = 12, .refcount_order = 4, .disk = (5 << 20) + 512, .version = 3, .room = ROOM};
    struct qc_snapshot_new s = {.name = "vm", .vm_state_size = 3 << 20, .icount = UINT64_MAX};
    uint8_t *vm = malloc(3 << 20), *is = malloc(3 << 20);
    struct album a = {.seed = 3};
    struct qc_run run;
    qchain_error err;
    uint64_t base;

    (void)state;
    qc_error_init(&err);
    for (size_t i = 0; i < 3 << 20; i++)
        vm[i] = (uint8_t)(i >> 9 ^ i);
    rig_make(&a.r, &o);
    write_some(&a, 20);
    assert_int_equal(qc2_vmstate_base(a.r.img, &base, &err), 0);
    assert_int_equal(base, 6 << 20);
    rig_write(&a.r, base, 3 << 20, vm);
    rig_read(&a.r, base, 3 << 20, is);
    assert_memory_equal(vm, is, 3 << 20);
    assert_int_equal(qc2_snapshot_create(a.r.img, &s, &err), 0);
    /* It is the snapshot's, no longer the disk's. */
    assert_int_equal(qc2_locate(a.r.img, base, 3 << 20, &run, &err), 0);
    assert_int_equal(qc_run_kind(&run), QC_ABSENT);
    check(&a);
    write_some(&a, 5);
    assert_int_equal(qc2_snapshot_apply(a.r.img, "vm", &err), 0);
    rig_read(&a.r, base, 3 << 20, is);
    assert_memory_equal(vm, is, 3 << 20);
    rig_end(&a.r);
    rig_destroy(&a.r);
    free(vm);
    free(is);
}

/* ---- with qemu-img ---- */

/* In turn: it makes, applies and deletes what we do, on the same image. */
static void test_in_turn(void **state)
{
    struct rig_opts o = {.cluster_bits = 12, .refcount_order = 4, .disk = 2 << 20, .version = 3, .room = ROOM};
    char dir[] = "/tmp/qc-snap-XXXXXX", name[64];
    struct album a = {.seed = 11};

    (void)state;
    if (rig_run("command -v qemu-img >/dev/null 2>&1") != 0)
        skip();
    assert_non_null(mkdtemp(dir));
    snprintf(name, sizeof(name), "%s/rig", dir);
    rig_make(&a.r, &o);
    for (int i = 0; i < 12; i++) {
        unsigned which;

        write_some(&a, 15);
        take(&a);
        which = (unsigned)(random_next(&a.seed) % a.n);
        rig_end(&a.r);
        rig_save(&a.r, name);
        if (i % 3 == 0 && a.n < MOST) {
            struct taken *t = &a.t[a.n++];

            assert_int_equal(rig_run("qemu-img snapshot -c s%u %s.qcow2", a.last_id + 1, name), 0);
            *t = (struct taken){.model = malloc(o.disk), .size = o.disk};
            memcpy(t->model, a.r.model, o.disk);
            snprintf(t->id, sizeof(t->id), "%u", ++a.last_id);
        } else if (i % 3 == 1) {
            assert_int_equal(rig_run("qemu-img snapshot -a %s %s.qcow2", a.t[which].id, name), 0);
            memcpy(a.r.model, a.t[which].model, o.disk);
        } else {
            assert_int_equal(rig_run("qemu-img snapshot -d s%s %s.qcow2", a.t[which].id, name), 0);
            forget(&a, which);
        }
        for (unsigned k = 0; k < a.n; k++) { /* it reads ours, and its own */
            char path[80];
            uint64_t size;
            uint8_t *is;

            assert_int_equal(rig_run("qemu-img convert -l snapshot.id=%s -O raw %s.qcow2 %s.raw", a.t[k].id,
                                     name, name), 0);
            snprintf(path, sizeof(path), "%s.raw", name);
            is = load_file(path, &size);
            assert_int_equal(size, a.t[k].size);
            assert_memory_equal(is, a.t[k].model, size);
            free(is);
        }
        assert_true(rig_load(&a.r, name));
        rig_check(&a.r);
        rig_begin(&a.r);
        if (i % 2 && a.n > 1)
            delete(&a, 0);
        if (i % 4 == 3 && a.n > 0)
            apply(&a, a.n - 1);
        check(&a);
    }
    while (a.n > 0)
        forget(&a, 0);
    rig_destroy(&a.r);
    rig_run("rm -rf %s", dir);
}

/* ---- damage ---- */

/* A snapshot's table that refers to nonsense is not applied, and what is there stays. */
static void test_damage(void **state)
{
    struct rig_opts o = {.cluster_bits = 12, .refcount_order = 4, .disk = 4 << 20, .version = 3, .room = ROOM};
    static const uint64_t bad[] = {0x1200, 0x7fff000, 0, 0x2000};
    struct album a = {.seed = 13};

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        qchain_error err;
        uint64_t table = 0, l1 = 0, first = 0;
        uint8_t *p;

        qc_error_init(&err);
        rig_make(&a.r, &o);
        a.last_id = 0;
        write_some(&a, 40);
        take(&a);
        write_some(&a, 10);
        rig_end(&a.r);
        p = a.r.file.p;
        for (int k = 64; k < 72; k++)
            table = table << 8 | p[k];
        for (unsigned k = 0; k < 8; k++)
            l1 = l1 << 8 | p[table + k];
        for (unsigned k = 0; k < 8; k++)
            first = first << 8 | p[l1 + k];
        for (unsigned k = 0; k < 8; k++) /* bad[2]: two slots with one table */
            p[l1 + 8 + k] = (uint8_t)((bad[i] ? bad[i] : first) >> (56 - 8 * k));
        rig_begin(&a.r);
        if (bad[i] != 0x2000)
            assert_int_equal(qc2_snapshot_apply(a.r.img, "1", &err), QCHAIN_E_CORRUPT);
        else
            assert_true(qc2_snapshot_apply(a.r.img, "1", &err) < 0);
        rig_compare(&a.r);
        rig_destroy(&a.r);
        forget(&a, 0);
    }
}

/* ---- no room ---- */

/* Writes, a snapshot made, gone back to, removed: until something fails. *making: the snapshot was being made. */
static int sequence(struct rig *r, bool *making, qchain_error *err)
{
    struct qc_snapshot_new s = {.name = "x", .icount = UINT64_MAX};
    uint8_t *buf = malloc(20000), stream[100];
    struct qc_place p;
    uint64_t done;
    int rc = 0;

    memset(buf, 9, 20000);
    memset(stream, 1, sizeof(stream)); /* nobody reads it */
    for (unsigned i = 0; i < 6 && rc == 0; i++) {
        uint64_t at = (i * 2100 % 4000) << 10; /* two L2 tables */

        rc = qc2_place(r->img, at, 12288, &p, err);
        if (rc == 0 && !p.own) {
            rc = qc2_place_alloc(r->img, &p, err);
            if (rc == 0) {
                rc = qc_store_write(r->file.store, buf, p.unit_length, p.unit_host, err);
                if (rc == 0)
                    rc = qc2_place_finish(r->img, &p, err);
                else
                    qc2_place_abort(r->img, &p);
            }
        }
        if (rc == 0)
            rc = qc2_zero(r->img, at, 4096, 0, &done, err);
        if (rc == 0)
            rc = qc2_write_compressed(r->img, (i * 200) << 12, stream, sizeof(stream), err);
        *making = rc == 0 && i == 1;
        if (*making)
            rc = qc2_snapshot_create(r->img, &s, err);
        *making = *making && rc < 0;
        if (rc == 0 && i == 3)
            rc = qc2_snapshot_apply(r->img, "x", err);
        if (rc == 0 && i == 4)
            rc = qc2_snapshot_delete(r->img, "x", err);
        if (rc == 0 && i == 4)
            rc = qc2_resize(r->img, 9 << 20, 0, err);
    }
    free(buf);
    return rc;
}

/* Whichever write fails: the image is sound after, and, if writing went on, has no leaks. */
static void test_no_room(void **state)
{
    struct rig_opts o = {.cluster_bits = 12, .refcount_order = 4, .disk = 4 << 20, .version = 3, .room = ROOM};
    char dir[] = "/tmp/qc-full-XXXXXX", name[64];
    int failed = 1;

    (void)state;
    assert_non_null(mkdtemp(dir));
    snprintf(name, sizeof(name), "%s/rig", dir);
    for (int k = 1; failed; k += (int)short_by()) {
        qchain_error err;
        struct rig r;
        bool stopped, making;
        int status;

        qc_error_init(&err);
        rig_make(&r, &o);
        r.file.fail_in = k;
        failed = sequence(&r, &making, &err) < 0;
        r.file.fail_in = 0;
        stopped = qc2_writer_end(((struct qc2_image *)r.img)->writer, &err) < 0;
        rig_crash(&r);
        if (rig_save(&r, name)) {
            status = rig_run("qemu-img check %s.qcow2 >%s.log 2>&1", name, name);
            /* Work on snapshots that is cut short may leave COPIED where it is not, or the other way: of no harm,
             * since counts are never lower than they should be. But what came to nothing leaves none. */
            if (status != 0 && (stopped || !making))
                status = rig_run("grep -v OFLAG_COPIED %s.log | grep -q 'ERROR\\|%s'", name,
                                 stopped ? "ERROR" : "Leaked") == 0;
            if (status != 0) {
                rig_run("cat %s.log", name);
                fail_msg("write %d failed: %x (%s)", k, (unsigned)status, err.text);
            }
        }
        rig_destroy(&r);
    }
    rig_run("rm -rf %s", dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),   cmocka_unit_test(test_limits),  cmocka_unit_test(test_vmstate),
        cmocka_unit_test(test_damage),  cmocka_unit_test(test_any_order), cmocka_unit_test(test_in_turn),
        cmocka_unit_test(test_no_room),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
