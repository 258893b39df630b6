/* SPDX-License-Identifier: MIT */
/* Writing images of all shapes: random operations against a model, and qemu-img's opinion of what came of it. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "image_tools.h"
#include "qcow2/l2.h"
#include "util/error.h"
#include "write_rig.h"
#include "share.h"

#define ROOM (UINT64_C(48) << 20)

/* ---- random operations ---- */

/* Sectors of which some are zero, some compress, some do not. */
static void fill(uint8_t *p, uint64_t length, uint64_t *seed)
{
    for (uint64_t at = 0; at < length; at += 512) {
        uint64_t n = length - at < 512 ? length - at : 512, v = random_next(seed);

        if (v % 4 == 0)
            memset(p + at, 0, n);
        else if (v % 4 == 1)
            memset(p + at, (int)(v >> 8 | 1), n);
        else
            for (uint64_t i = 0; i < n; i++)
                p[at + i] = (uint8_t)((v = v * 6364136223846793005u + 1442695040888963407u) >> 56);
    }
}

/* A range within [base, base + room): mostly a few clusters. */
static void choose(struct rig *r, uint64_t base, uint64_t room, uint64_t *seed, uint64_t *offset,
                   uint64_t *length)
{
    uint64_t cluster = r->img->cluster_size, v = random_next(seed);
    uint64_t most = v % 8 == 0 ? room : v % 8 < 4 ? 3 * cluster : 4096;

    *offset = base + random_next(seed) % (room / 512) * 512;
    *length = (random_next(seed) % (most / 512) + 1) * 512;
    if (v >> 8 & 1)
        *offset = *offset / cluster * cluster;
    if (v >> 9 & 1)
        *length = (*length + cluster - 1) / cluster * cluster;
    if (*offset < base)
        *offset = base;
    if (*length > base + room - *offset)
        *length = base + room - *offset;
}

static void operate(struct rig *r, uint64_t base, uint64_t room, uint64_t *seed)
{
    uint64_t cluster = r->img->cluster_size, offset, length, v = random_next(seed);
    uint8_t *buf;

    choose(r, base, room, seed, &offset, &length);
    buf = malloc(length + cluster);
    fill(buf, length + cluster, seed);
    if (v % 16 < 8) {
        rig_write(r, offset, length, buf);
    } else if (v % 16 < 11) {
        rig_zero(r, offset, length, v >> 8 & 1 ? QC_ZERO_UNMAP : 0);
    } else if (v % 16 < 13) {
        rig_discard(r, offset, length);
    } else if (v % 16 < 15 && !r->o.data_file) {
        offset = offset / cluster * cluster;
        if (offset >= base && offset + cluster <= base + room)
            rig_write_compressed(r, offset, buf);
    } else {
        qchain_error err;

        qc_error_init(&err);
        assert_int_equal(qc2_flush(((struct qc2_image *)r->img)->writer, &err), 0);
    }
    free(buf);
}

static void random_image(const struct rig_opts *o, uint64_t seed)
{
    struct rig r;

    rig_make(&r, o);
    for (unsigned round = 0; round < share(3); round++) {
        for (unsigned i = 0; i < share(60); i++) {
            operate(&r, 0, o->disk, &seed);
            if (i % 20 == 19)
                rig_compare(&r);
        }
        rig_end(&r);
        rig_check(&r);
        rig_begin(&r);
    }
    rig_destroy(&r);
}

static void test_shapes(void **state)
{
    static const struct rig_opts shape[] = {
        {.cluster_bits = 9, .disk = 600 << 10, .version = 3},
        {.cluster_bits = 9, .disk = (600 << 10) - 512, .version = 2, .backing = true},
        {.cluster_bits = 10, .disk = 700 << 10, .version = 2},
        {.cluster_bits = 12, .disk = (3 << 20) - 1536, .version = 3, .backing = true},
        {.cluster_bits = 12, .disk = 3 << 20, .version = 3, .zstd = true, .discard = true},
        {.cluster_bits = 16, .disk = 5 << 20, .version = 3, .backing = true, .discard = true},
        {.cluster_bits = 21, .disk = 9 << 20, .version = 3, .backing = true},
        {.cluster_bits = 14, .disk = 1 << 20, .version = 3, .extended = true},
        {.cluster_bits = 14, .disk = (1 << 20) - 512, .version = 3, .extended = true, .backing = true},
        {.cluster_bits = 16, .disk = 4 << 20, .version = 3, .extended = true, .backing = true, .zstd = true},
        {.cluster_bits = 12, .disk = 2 << 20, .version = 3, .data_file = true},
        {.cluster_bits = 12, .disk = 2 << 20, .version = 3, .data_file = true, .backing = true},
        {.cluster_bits = 12, .disk = 2 << 20, .version = 3, .data_file = true, .data_raw = true},
        {.cluster_bits = 14, .disk = 1 << 20, .version = 3, .data_file = true, .extended = true},
    };
    uint64_t seed = 1;

    (void)state;
    for (size_t i = 0; i < sizeof(shape) / sizeof(*shape); i++)
        for (unsigned order = 0; order <= 6; order += short_by() > 1 ? 4 : i % 2 ? 2 : 3) {
            struct rig_opts o = shape[i];

            o.refcount_order = order;
            o.room = ROOM;
            o.cache_bytes = order == 3 ? 64 << 10 : 0;
            random_image(&o, seed += 1000);
        }
}

/* ---- several threads ---- */

struct job {
    struct rig *r;
    uint64_t    base, room, seed;
    pthread_t   thread;
};

static void *work(void *data)
{
    struct job *j = data;

    for (unsigned i = 0; i < share(150); i++)
        operate(j->r, j->base, j->room, &j->seed);
    return NULL;
}

static void test_threads(void **state)
{
    struct rig_opts o = {.cluster_bits = 12, .refcount_order = 4, .disk = 4 << 20, .version = 3,
                         .backing = true, .room = ROOM};
    struct job job[4];
    struct rig r;

    (void)state;
    for (int round = 0; round < 2; round++) {
        o.extended = round == 1;
        o.cluster_bits = round == 1 ? 14 : 12;
        rig_make(&r, &o);
        qc2_encoder_destroy(r.encoder); /* serves one thread */
        r.encoder = NULL;
        for (unsigned i = 0; i < 4; i++) {
            job[i] = (struct job){&r, i * (o.disk / 4), o.disk / 4, 77 + i, 0};
            assert_int_equal(pthread_create(&job[i].thread, NULL, work, &job[i]), 0);
        }
        for (unsigned i = 0; i < 4; i++)
            pthread_join(job[i].thread, NULL);
        rig_compare(&r);
        rig_end(&r);
        rig_check(&r);
        rig_destroy(&r);
    }
}

/* ---- what is promised of places ---- */

static void place_of(struct rig *r, uint64_t offset, uint64_t length, struct qc_place *p)
{
    qchain_error err;

    qc_error_init(&err);
    if (qc2_place(r->img, offset, length, p, &err) < 0)
        fail_msg("%s", err.text);
}

static void test_stretches(void **state)
{
    struct rig_opts o = {.cluster_bits = 16, .refcount_order = 4, .disk = 16 << 20, .version = 3, .room = ROOM};
    uint8_t *buf = calloc(1, 4 << 20);
    struct qc_place p;
    struct rig r;

    (void)state;
    memset(buf, 1, 4 << 20);
    rig_make(&r, &o);
    /* 1 MiB is 16 clusters at once, and then one place. */
    place_of(&r, 1000, 1 << 20, &p);
    assert_false(p.own);
    assert_int_equal(p.length, 1 << 20);
    assert_int_equal(p.unit, 0);
    assert_int_equal(p.unit_length, 17 << 16);
    rig_write(&r, 0, 1 << 20, buf);
    place_of(&r, 4096, (1 << 20) - 8192, &p);
    assert_true(p.own);
    assert_int_equal(p.length, (1 << 20) - 8192);
    /* Zeros keep their place, unless it is to be given up. */
    rig_zero(&r, 65536, 65536, 0);
    place_of(&r, 0, 1 << 20, &p);
    assert_int_equal(p.length, 65536);
    place_of(&r, 65536 + 512, 512, &p);
    assert_false(p.own);
    assert_int_equal(p.unit, 65536);
    assert_int_equal(p.unit_length, 65536);
    rig_write(&r, 65536 + 512, 512, buf);
    place_of(&r, 0, 1 << 20, &p);
    assert_int_equal(p.length, 1 << 20);
    rig_end(&r);
    rig_check(&r);
    rig_destroy(&r);
    free(buf);
}

static void test_subclusters(void **state)
{
    struct rig_opts o = {.cluster_bits = 16, .refcount_order = 4, .disk = 4 << 20, .version = 3,
                         .extended = true, .backing = true, .room = ROOM};
    uint8_t buf[8192];
    struct qc_place p;
    struct qc_run run;
    struct rig r;

    (void)state;
    memset(buf, 7, sizeof(buf));
    rig_make(&r, &o);
    place_of(&r, 65536 + 3000, 100, &p);
    assert_int_equal(p.unit, 65536 + 2048);
    assert_int_equal(p.unit_length, 2048);
    rig_write(&r, 65536 + 3000, 100, buf);
    /* What was not touched still shows what lies below. */
    assert_int_equal(qc2_locate(r.img, 65536, 65536, &run, NULL), 0);
    assert_int_equal(qc_run_kind(&run), QC_PREALLOC);
    assert_int_equal(qc_run_length(&run), 2048);
    /* Beside it there is a place already. */
    place_of(&r, 65536 + 2048, 4096, &p);
    assert_true(p.own);
    assert_int_equal(p.length, 2048);
    place_of(&r, 65536 + 4096, 3000, &p);
    assert_false(p.own);
    assert_int_equal(p.priv[0], 1);
    assert_int_equal(p.unit_length, 4096);
    rig_write(&r, 65536 + 2048, 8192, buf);
    rig_zero(&r, 65536 + 4096, 2048, 0);
    rig_compare(&r);
    rig_end(&r);
    rig_check(&r);
    rig_destroy(&r);
}

/* ---- damage ---- */

/* Let the L2 entry of cluster 0 be `word`; a first write has made the table. */
static void forge(struct rig *r, uint64_t word)
{
    uint64_t l1 = 0, table = 0;

    for (int i = 40; i < 48; i++)
        l1 = l1 << 8 | r->file.p[i];
    for (int i = 0; i < 8; i++)
        table = table << 8 | r->file.p[l1 + (uint64_t)i];
    table &= QC2_OFFSET_MASK;
    for (int i = 0; i < 8; i++)
        r->file.p[table + (uint64_t)i] = (uint8_t)(word >> (56 - 8 * i));
}

static void test_damage(void **state)
{
    static const struct {
        uint64_t word;
        int      locate, place;
        const char *says;
    } bad[] = {
        {QC2_COPIED | 0x10200, QCHAIN_E_CORRUPT, QCHAIN_E_CORRUPT, "not aligned"},
        {QC2_COPIED | 0x7fff0000, QCHAIN_E_CORRUPT, QCHAIN_E_CORRUPT, "past the end"},
        {QC2_COPIED | 0x1000, QCHAIN_OK, QCHAIN_E_CORRUPT, "would destroy the refcount table"},
        {QC2_COPIED | 0x3000, QCHAIN_OK, QCHAIN_E_CORRUPT, "would destroy an L1 table"},
        {QC2_COMPRESSED | 0x7fffff000, QCHAIN_E_CORRUPT, QCHAIN_E_CORRUPT, "past the end"},
    };
    struct rig_opts o = {.cluster_bits = 12, .refcount_order = 4, .disk = 1 << 20, .version = 3, .room = ROOM};
    uint8_t buf[4096];

    (void)state;
    memset(buf, 3, sizeof(buf));
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        qchain_error err;
        struct qc_place p;
        struct qc_run run;
        struct rig r;

        rig_make(&r, &o);
        rig_write(&r, 4096, 4096, buf);
        rig_end(&r);
        forge(&r, bad[i].word);
        rig_begin(&r);
        qc_error_init(&err);
        assert_int_equal(qc2_locate(r.img, 0, 8192, &run, &err), bad[i].locate);
        assert_false(r.file.p[79] & QC2_INCOMPAT_CORRUPT); /* looking harms nobody */
        assert_int_equal(qc2_place(r.img, 0, 512, &p, &err), bad[i].place);
        if (!strstr(err.text, bad[i].says))
            fail_msg("%s, not: %s", err.text, bad[i].says);
        assert_true(r.file.p[79] & QC2_INCOMPAT_CORRUPT);
        assert_int_equal(qc2_place(r.img, 4096, 512, &p, &err), QCHAIN_E_READONLY);
        rig_destroy(&r);
    }
}

/* ---- sizes ---- */

static void test_resize(void **state)
{
    static const struct rig_opts shape[] = {
        {.cluster_bits = 9, .refcount_order = 4, .disk = 100 << 10, .version = 3},
        {.cluster_bits = 12, .refcount_order = 1, .disk = 1 << 20, .version = 2},
        {.cluster_bits = 14, .refcount_order = 4, .disk = 1 << 20, .version = 3, .extended = true},
        {.cluster_bits = 12, .refcount_order = 4, .disk = 1 << 20, .version = 3, .data_file = true},
    };
    uint64_t seed = 5;

    (void)state;
    for (size_t i = 0; i < sizeof(shape) / sizeof(*shape); i++) {
        struct rig_opts o = shape[i];
        struct rig r;

        o.room = ROOM;
        rig_make(&r, &o);
        for (int k = 0; k < 10; k++) {
            for (int n = 0; n < 15; n++)
                operate(&r, 0, r.img->virtual_size, &seed);
            rig_resize(&r, (random_next(&seed) % (o.disk * 2 / 512) + 8) * 512);
            rig_compare(&r);
            if (k % 3 == 2) {
                rig_end(&r);
                rig_check(&r);
                rig_begin(&r);
            }
        }
        rig_destroy(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stretches), cmocka_unit_test(test_subclusters), cmocka_unit_test(test_damage),
        cmocka_unit_test(test_shapes),    cmocka_unit_test(test_resize),      cmocka_unit_test(test_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
