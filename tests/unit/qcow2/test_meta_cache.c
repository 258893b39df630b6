/* SPDX-License-Identifier: MIT */
/* Pieces of tables in memory, new tables, where metadata lies, and what is done to an image before it is
 * written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "image_tools.h"
#include "mem_layers.h"
#include "qcow2/cluster_map.h"
#include "qcow2/l2.h"
#include "util/bytes.h"
#include "util/error.h"
#include "share.h"
#include "writer_tools.h"

#define MIB (UINT64_C(1) << 20)

static struct rec_store *open_new(struct subject *s, const struct qc_write_opts *opts)
{
    struct rec_store *r = rec_create(0);

    image_make(r, 3, 12, 4, MIB);
    r->size = 4 * MIB;
    assert_int_equal(subject_open(s, r, opts, NULL), 0);
    rec_reset(r);
    return r;
}

static struct qc2_slice *get(struct subject *s, uint64_t host)
{
    struct qc2_slice *slice = NULL;

    assert_int_equal(qc2_slice_get(s->w, host, &slice, NULL), 0);
    return slice;
}

static uint8_t peek(struct subject *s, uint64_t host)
{
    struct qc2_slice *slice = get(s, host);
    uint8_t v = slice->data[host % s->w->slice_bytes];

    qc2_slice_put(s->w, slice);
    return v;
}

static void poke(struct subject *s, uint64_t host, uint8_t v, enum qc2_stage stage)
{
    struct qc2_slice *slice = get(s, host);

    slice->data[host % s->w->slice_bytes] = v;
    qc2_slice_dirty(s->w, slice, stage);
    qc2_slice_put(s->w, slice);
}

/* ------------------------------------------------------------------- slices --- */

static void test_cached(void **state)
{
    struct qc_write_opts opts = {.cache_bytes = 16 * 4096};
    struct subject s;
    struct rec_store *r = open_new(&s, &opts);

    (void)state;
    for (unsigned i = 0; i < 32; i++)
        r->bytes[MIB + 4096 * i + 5] = (uint8_t)(i + 1);
    assert_int_equal(peek(&s, MIB + 5), 1);
    assert_int_equal(peek(&s, MIB + 5), 1);
    assert_int_equal(r->log->calls, 1); /* read once */
    poke(&s, MIB + 7, 77, QC2_MAP);
    for (unsigned i = 1; i < 32; i++) /* more than fits: what is dirty stays */
        assert_int_equal(peek(&s, MIB + 4096 * i + 5), i + 1);
    assert_int_equal(r->log->calls, 32);
    assert_int_equal(peek(&s, MIB + 7), 77);
    assert_int_equal(r->log->calls, 32);
    assert_int_equal(peek(&s, MIB + 4096 * 31), 0);
    assert_int_equal(r->log->calls, 32); /* the last are still there, */
    assert_int_equal(peek(&s, MIB + 4096 + 5), 2);
    assert_int_equal(r->log->calls, 33); /* the first are not */
    assert_int_equal(r->bytes[MIB + 7], 0);
    assert_int_equal(qc2_meta_dirty_bytes(s.w), 4096);
    assert_int_equal(qc2_flush(s.w, NULL), 0);
    assert_int_equal(r->bytes[MIB + 7], 77);
    assert_int_equal(qc2_meta_dirty_bytes(s.w), 0);
    subject_close(&s, false, NULL);
    rec_destroy(r);
}

static void test_pinned(void **state)
{
    struct qc_write_opts opts = {.cache_bytes = 16 * 4096};
    struct qc2_slice *pinned[40];
    struct subject s;
    struct rec_store *r = open_new(&s, &opts);

    (void)state;
    for (unsigned i = 0; i < 40; i++) {
        pinned[i] = get(&s, MIB + 4096 * i);
        pinned[i]->data[0] = (uint8_t)i;
    }
    for (unsigned i = 0; i < 40; i++) {
        assert_int_equal(pinned[i]->data[0], i);
        qc2_slice_put(s.w, pinned[i]);
    }
    qc2_slice_put(s.w, NULL);
    subject_close(&s, false, NULL);
    rec_destroy(r);
}

static void test_read_fails(void **state)
{
    struct subject s;
    struct rec_store *r = open_new(&s, NULL);
    struct qc2_slice *slice;

    (void)state;
    r->log->fail_from = 1;
    r->log->fail_to = 2;
    assert_int_equal(qc2_slice_get(s.w, MIB, &slice, NULL), QCHAIN_E_IO);
    assert_int_equal(qc2_slice_get(s.w, MIB, &slice, NULL), 0);
    qc2_slice_put(s.w, slice);
    assert_int_equal(qc2_slice_get(s.w, 64 * MIB, &slice, NULL), QCHAIN_E_CORRUPT);
    subject_close(&s, false, NULL);
    rec_destroy(r);
}

/* --------------------------------------------------------------- new tables --- */

static void test_new_table(void **state)
{
    struct qc_write_opts opts = {.cache_bytes = 16 * 4096};
    struct subject s;
    struct rec_store *r = open_new(&s, &opts);
    uint64_t past = 6 * MIB;

    (void)state;
    /* One that was used before reads as zeros at once, in the file, too. */
    memset(r->bytes + 2 * MIB, 0x55, 65536);
    assert_int_equal(qc2_table_new(s.w, 2 * MIB, 65536, false, NULL), 0);
    assert_int_equal(r->bytes[2 * MIB + 65535], 0);
    assert_int_equal(peek(&s, 2 * MIB + 1), 0);

    /* One past the end of the file is zeros without being read, also after others came in its place. */
    assert_int_equal(qc2_table_new(s.w, past, 65536, true, NULL), 0);
    rec_reset(r);
    rec_record(r->log);
    poke(&s, past + 4096, 9, QC2_MAP);
    for (unsigned i = 0; i < 16; i++)
        assert_int_equal(peek(&s, past + 4096 * i), i == 1 ? 9 : 0);
    assert_int_equal(r->log->calls, 0);
    poke(&s, MIB, 3, QC2_MAP);
    assert_int_equal(qc2_flush(s.w, NULL), 0);
    /* The new one, and the end of the file, come before what is MAP. */
    assert_int_equal(r->log->op[0].offset, past + 65536 - 512);
    assert_int_equal(r->log->op[1].offset, past + 4096);
    assert_int_equal(r->log->op[2].kind, REC_FLUSH);
    assert_int_equal(r->log->op[3].offset, MIB);
    assert_int_equal(r->log->op[4].kind, REC_FLUSH);
    assert_int_equal(r->log->n, 5);
    assert_int_equal(r->size, past + 65536);

    /* From now on it is like any other. */
    poke(&s, past, 8, QC2_MAP);
    assert_int_equal(qc2_flush(s.w, NULL), 0);
    assert_int_equal(r->log->n, 7);
    assert_int_equal(peek(&s, past + 4097), 0);
    subject_close(&s, false, NULL);
    rec_destroy(r);
}

static void test_dropped(void **state)
{
    struct subject s;
    struct rec_store *r = open_new(&s, NULL);
    struct qc2_slice *held;

    (void)state;
    poke(&s, MIB, 1, QC2_MAP);
    poke(&s, MIB + 4096, 1, QC2_MAP);
    held = get(&s, MIB + 4096);
    qc2_table_drop(s.w, MIB, 8192);
    assert_int_equal(qc2_meta_dirty_bytes(s.w), 0);
    qc2_slice_dirty(s.w, held, QC2_MAP); /* too late */
    qc2_slice_put(s.w, held);
    assert_int_equal(qc2_flush(s.w, NULL), 0);
    assert_int_equal(r->n_writes, 0);
    assert_int_equal(peek(&s, MIB), 0);
    subject_close(&s, false, NULL);
    rec_destroy(r);
}

/* Neighbours go together. */
static void test_merged(void **state)
{
    struct subject s;
    struct rec_store *r = open_new(&s, NULL);

    (void)state;
    for (unsigned i = 0; i < 300; i++)
        poke(&s, MIB + 4096 * (i * 7 % 300), (uint8_t)i, QC2_MAP);
    assert_int_equal(qc2_flush(s.w, NULL), 0);
    for (unsigned i = 0; i < 300; i++)
        assert_int_equal(r->bytes[MIB + 4096 * (i * 7 % 300)], i & 255);
    assert_int_equal(r->n_flushes, 1);
    subject_close(&s, false, NULL);
    rec_destroy(r);
}

static void test_unsafe(void **state)
{
    struct qc_write_opts opts = {.unsafe = true};
    struct subject s;
    struct rec_store *r = rec_create(0);
    struct verdict v;

    (void)state;
    image_make(r, 3, 9, 4, MIB);
    assert_int_equal(subject_open(&s, r, &opts, NULL), 0);
    for (unsigned i = 0; i < 500; i++)
        assert_int_equal(map_cluster(&s, i % 200, NULL), 0);
    assert_int_equal(qc2_flush(s.w, NULL), 0);
    image_check(r->bytes, r->size, &v); /* if the process died now */
    assert_string_equal(v.damage, "");
    assert_int_equal(v.mapped, 200);
    assert_int_equal(subject_close(&s, true, NULL), 0);
    assert_int_equal(r->n_flushes, 0);
    image_check(r->bytes, r->size, &v);
    assert_string_equal(v.damage, "");
    assert_int_equal(v.mapped, 200);
    assert_int_equal(v.leaks, 0);
    rec_destroy(r);
}

/* A place that nothing was written to: the file goes on to it. */
static void test_reach(void **state)
{
    struct subject s;
    struct rec_store *r = open_new(&s, NULL);

    (void)state;
    assert_int_equal(qc2_reach(s.w, MIB, 8192, NULL), 0);
    assert_int_equal(r->n_writes, 0);
    assert_int_equal(qc2_reach(s.w, 5 * MIB, 8192, NULL), 0);
    assert_int_equal(r->size, 5 * MIB + 8192);
    assert_int_equal(qc2_reach(s.w, 5 * MIB, 8192, NULL), 0);
    assert_int_equal(r->n_writes, 1);
    subject_close(&s, false, NULL);
    rec_destroy(r);
}

/* ------------------------------------------------------------- cluster maps --- */

static void test_cluster_map(void **state)
{
    static uint8_t model[512];
    struct qc2_cmap m = {0};
    uint64_t seed = 3;

    (void)state;
    memset(model, 0, sizeof(model));
    assert_int_equal(qc2_cmap_get(&m, 7), 0);
    qc2_cmap_remove(&m, 7, 1);
    qc2_cmap_tidy(&m);
    for (unsigned i = 0; i < 20000; i++) {
        uint64_t x = random_next(&seed), c = x >> 8 & 511;
        uint32_t bits = 1u << (x >> 20 & 2);
        size_t n = 0;

        if (x % 64 == 0) {
            for (size_t k = 0; k < m.cap; k++)
                m.e[k].bits &= ~bits;
            for (unsigned k = 0; k < 512; k++)
                model[k] &= (uint8_t)~bits;
            qc2_cmap_tidy(&m);
        } else if (x % 2) {
            assert_int_equal(qc2_cmap_add(&m, c << 30, bits), 0);
            model[c] |= (uint8_t)bits;
        } else {
            qc2_cmap_remove(&m, c << 30, bits);
            model[c] &= (uint8_t)~bits;
        }
        for (unsigned k = 0; k < 512; k++)
            n += model[k] != 0;
        assert_int_equal(m.n, n);
        for (unsigned k = x % 8; k < 512; k += 8)
            assert_int_equal(qc2_cmap_get(&m, (uint64_t)k << 30), model[k]);
    }
    qc2_cmap_finish(&m);
}

/* Clusters chosen so that a fixed way of spreading them puts them all in one place. */
static void test_cluster_map_chosen(void **state)
{
    uint64_t inverse = 1, n = 100000;
    struct qc2_cmap m = {0};
    clock_t start = clock();

    (void)state;
    for (unsigned i = 0; i < 6; i++)
        inverse *= 2 - UINT64_C(0x9e3779b97f4a7c15) * inverse;
    for (uint64_t i = 0; i < n; i++)
        assert_int_equal(qc2_cmap_add(&m, i * inverse, 1), 0);
    assert_int_equal(m.n, n);
    assert_int_equal(qc2_cmap_get(&m, 77 * inverse), 1);
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 5);
    qc2_cmap_finish(&m);
}

static void test_regions(void **state)
{
    static const unsigned kinds[] = {QC2_REGION_SNAPSHOT_L1, QC2_REGION_L2, QC2_REGION_BITMAPS};
    static unsigned model[300];
    struct subject s;
    struct rec_store *r = open_new(&s, NULL);
    uint64_t seed = 9;

    (void)state;
    memset(model, 0, sizeof(model));
    for (unsigned i = 0; i < 5000; i++) {
        uint64_t x = random_next(&seed), first = 10 + (x >> 8) % 280, n = 1 + (x >> 20) % 10;
        unsigned what = kinds[(x >> 40) % 3], found = 0, minded = (unsigned)(x >> 44) & QC2_REGION_ALL;

        for (uint64_t c = first; c < first + n; c++)
            found |= model[c] & minded;
        assert_int_equal(qc2_region_find(s.w, first * 4096 + 100, n * 4096 - 200, minded), found);
        for (uint64_t c = first; c < first + n; c++)
            model[c] = x % 2 ? model[c] | what : model[c] & ~what;
        if (x % 2)
            assert_int_equal(qc2_region_add(s.w, first * 4096 + 100, n * 4096 - 200, what, NULL), 0);
        else
            qc2_region_remove(s.w, first * 4096 + 100, n * 4096 - 200, what);
    }
    assert_int_equal(qc2_region_find(s.w, 0, 1, QC2_REGION_ALL), QC2_REGION_HEADER);
    assert_int_equal(qc2_region_find(s.w, 4095, 4096 * 3, QC2_REGION_ALL),
                     QC2_REGION_HEADER | QC2_REGION_REFTABLE | QC2_REGION_REFBLOCK | QC2_REGION_L1);
    assert_int_equal(qc2_overlap_check(s.w, 4096 * 3, 4096, QC2_REGION_L1, NULL), 0);
    assert_int_equal(qc2_overlap_check(s.w, 4096 * 3, 4096, 0, NULL), QCHAIN_E_CORRUPT);
    assert_true(atomic_load(&s.w->stopped));
    assert_int_equal(r->bytes[79], QC2_INCOMPAT_CORRUPT);
    subject_close(&s, false, NULL);
    rec_destroy(r);
}

struct listener {
    struct qc2_writer *w;
    unsigned           lines;
};

static void listen_to(void *data, int level, const char *tag, const char *message)
{
    struct listener *l = data;

    (void)tag;
    assert_int_equal(level, QCHAIN_LOG_ERROR);
    assert_non_null(strstr(message, "damaged"));
    assert_int_equal(pthread_mutex_trylock(&l->w->lock), 0); /* nobody holds it */
    pthread_mutex_unlock(&l->w->lock);
    l->lines++;
}

/* Who listens to the log may wait for somebody who waits for the lock. */
static void test_log(void **state)
{
    struct subject s;
    struct rec_store *r = open_new(&s, NULL);
    struct listener l = {.w = s.w};
    struct qc_log log = {listen_to, &l, QCHAIN_LOG_WARN};

    (void)state;
    s.q->log = &log;
    pthread_mutex_lock(&s.w->lock);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(qc2_overlap_check(s.w, 4096 * 3, 4096, 0, NULL), QCHAIN_E_CORRUPT);
    pthread_mutex_unlock(&s.w->lock);
    assert_int_equal(qc2_writer_ready(s.w, NULL), QCHAIN_E_READONLY);
    assert_int_equal(l.lines, 1);
    subject_close(&s, false, NULL);
    assert_int_equal(l.lines, 1);
    rec_destroy(r);
}

/* ------------------------------------------------------------------- begin --- */

struct refusal {
    uint64_t at;
    uint8_t  value;
    int      code;
};

/* One byte of an image with 4 KiB clusters is another: it is not written. */
static void test_refused(void **state)
{
    static const struct refusal cases[] = {
        {79, 2, QCHAIN_E_CORRUPT},          /* corrupt */
        {31, 1, QCHAIN_E_UNSUPPORTED},      /* size */
        {54, 0x20, QCHAIN_E_CORRUPT},       /* the refcount table lies where its block is */
        {59, 0, QCHAIN_E_CORRUPT},          /* has no clusters */
        {59, 255, QCHAIN_E_CORRUPT},        /* goes on past the end */
        {4096 + 7, 1, QCHAIN_E_CORRUPT},    /* an entry with reserved bits */
        {4096 + 2, 1, QCHAIN_E_CORRUPT},    /* one past the end */
        {4096 + 14, 0x20, QCHAIN_E_CORRUPT}, /* a block that there is twice */
        {3 * 4096 + 7, 2, QCHAIN_E_CORRUPT}, /* L1: reserved bits */
        {3 * 4096 + 6, 0x10, QCHAIN_E_CORRUPT}, /* an L2 table where the refcount table is */
        {3 * 4096 + 1, 1, QCHAIN_E_CORRUPT}, /* past the end */
        {0, 0, 0},
    };

    (void)state;
    for (const struct refusal *c = cases; c->code; c++) {
        struct rec_store *r = rec_create(0);
        struct subject s;
        qchain_error err;

        qc_error_init(&err);
        image_make(r, 3, 12, 4, MIB);
        r->bytes[c->at] = c->value;
        assert_int_equal(subject_open(&s, r, NULL, &err), c->code);
        assert_true(err.text[0]);
        assert_int_equal(r->n_writes, 0);
        rec_destroy(r);
    }
}

/* Features that are not known, or not true any more, are cleared before anything else is written. */
static void test_autoclear(void **state)
{
    struct rec_store *r = rec_create(0);
    struct subject s;

    (void)state;
    image_make(r, 3, 12, 4, MIB);
    r->bytes[95] = 0x81;
    rec_record(r->log);
    assert_int_equal(subject_open(&s, r, NULL, NULL), 0);
    assert_int_equal(r->log->n, 2);
    assert_int_equal(r->log->op[0].kind, REC_WRITE);
    assert_int_equal(r->log->op[0].length, 104);
    assert_int_equal(r->log->op[1].kind, REC_FLUSH);
    assert_int_equal(r->bytes[95], 0);
    subject_close(&s, false, NULL);
    rec_reset(r);
    assert_int_equal(subject_open(&s, r, NULL, NULL), 0);
    assert_int_equal(r->log->n, 0);
    assert_int_equal(subject_close(&s, true, NULL), 0);
    assert_int_equal(r->log->n, 0);
    rec_destroy(r);
}

/* Images that mean harm: whatever is refused or written, memory is not hurt. A sanitizer looks on. */
static void test_hostile(void **state)
{
    uint64_t seed = mem_seed(11);
    unsigned opened = 0, marked = 0;

    (void)state;
    for (unsigned i = 0; i < share(3000); i++) {
        struct rec_store *r = rec_create(2 * MIB);
        struct subject s;
        qchain_error err;

        qc_error_init(&err);
        image_make(r, i % 4 ? 3 : 2, 9, i % 4 ? i % 7 : 4, MIB / 4);
        for (uint64_t n = random_next(&seed) % 4 + 1; n > 0; n--) {
            uint64_t x = random_next(&seed);

            r->bytes[x % 5 ? (x >> 8) % r->size : 24 + (x >> 8) % 80] = (uint8_t)(x >> 40 & 1 ? x >> 48 : 0);
        }
        if (subject_open(&s, r, NULL, &err) < 0) {
            assert_true(err.text[0]);
            rec_destroy(r);
            continue;
        }
        opened++;
        for (unsigned k = 0; k < 40 && !atomic_load(&s.w->stopped); k++)
            if (k % 10 == 9)
                qc2_flush(s.w, &err);
            else if (k % 5 == 4)
                unmap_cluster(&s, k / 2, &err);
            else
                map_cluster(&s, random_next(&seed) % 256, &err);
        marked += atomic_load(&s.w->stopped);
        subject_close(&s, !atomic_load(&s.w->stopped), NULL);
        rec_destroy(r);
    }
    assert_true(short_by() > 1 || (opened > 100 && marked > 10));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cached),
        cmocka_unit_test(test_pinned),
        cmocka_unit_test(test_read_fails),
        cmocka_unit_test(test_new_table),
        cmocka_unit_test(test_dropped),
        cmocka_unit_test(test_merged),
        cmocka_unit_test(test_unsafe),
        cmocka_unit_test(test_reach),
        cmocka_unit_test(test_cluster_map),
        cmocka_unit_test(test_cluster_map_chosen),
        cmocka_unit_test(test_regions),
        cmocka_unit_test(test_log),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_autoclear),
        cmocka_unit_test(test_hostile),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
