/* SPDX-License-Identifier: MIT */
/* Emptying an image: what a crash leaves at any moment, how small the file becomes, and what stays: internal
 * snapshots, VM state, and what an error leaves. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "crash_states.h"
#include "image_tools.h"
#include "qcow2/l2.h"
#include "share.h"
#include "util/error.h"
#include "write_rig.h"
#include "writer_tools.h"

#define MIB (UINT64_C(1) << 20)
#define CAP (4 * MIB)

/* ------------------------------------------------------------------ crashes --- */

struct judge {
    uint64_t states;
    char     damage[300];
};

static int judge(void *data, struct rec_store *const *state, uint64_t at, const char *which)
{
    struct rec_store *now = state[0];
    struct judge *j = data;
    struct verdict v;
    struct subject s;

    image_check(now->bytes, now->size, &v);
    if (v.damage[0])
        snprintf(j->damage, sizeof(j->damage), "%s (%s, at %llu)", v.damage, which, (unsigned long long)at);
    if (v.damage[0] || j->states++ % 7 != 0)
        return v.damage[0] != 0;
    /* Emptied again it is what it would have been, and can be written. */
    assert_int_equal(subject_open(&s, now, NULL, NULL), 0);
    assert_int_equal(qc2_make_empty(s.img, NULL), 0);
    assert_int_equal(map_cluster(&s, 7, NULL), 0);
    assert_int_equal(subject_close(&s, true, NULL), 0);
    image_check(now->bytes, now->size, &v);
    assert_string_equal(v.damage, "");
    assert_int_equal(v.mapped, 1);
    assert_int_equal(v.leaks, 0);
    return 0;
}

static void fill(struct subject *s, uint64_t *seed)
{
    for (unsigned i = 0; i < 300; i++) {
        uint64_t x = random_next(seed);

        assert_int_equal(x % 5 ? map_cluster(s, x >> 8 & 255, NULL) : unmap_cluster(s, x >> 8 & 255, NULL), 0);
        if (x % 64 == 0)
            assert_int_equal(qc2_flush(s->w, NULL), 0); /* so that new tables lie among old data */
    }
}

/* The second refcount block comes to lie where the first one counts it. */
static void place_block(struct subject *s)
{
    unsigned order = s->q->header.refcount_order, bits = s->q->header.cluster_bits + 3 - order;
    uint64_t n = UINT64_C(1) << bits, host;
    bool zeroed;

    if (bits > 8)
        return;
    pthread_mutex_lock(&s->w->lock);
    assert_int_equal(qc2_alloc(s->w, n, &host, &zeroed, NULL), 0);
    assert_int_equal(qc2_refcount_add(s->w, host, n * s->img->cluster_size, -1, NULL), 0);
    pthread_mutex_unlock(&s->w->lock);
}

/* Fill an image, and empty it. moved: the L1 table lies behind the data then. Returns the states that a crash could
 * leave. */
static uint64_t run(unsigned cluster_bits, unsigned order, bool moved, uint64_t seed, char *damage, size_t room)
{
    struct rec_store *r = rec_create(CAP);
    struct judge j = {0};
    struct crash_walk w = {.log = r->log, .most = 256, .random = 40, .seed = seed, .any_time = true, .tell = judge,
                           .data = &j};
    struct subject s;
    struct verdict v;
    uint64_t cluster = UINT64_C(1) << cluster_bits, tables;

    image_make(r, order == 4 ? 2 : 3, cluster_bits, order, 256 * cluster);
    assert_int_equal(subject_open(&s, r, NULL, NULL), 0);
    place_block(&s);
    fill(&s, &seed);
    if (moved) {
        pthread_mutex_lock(&s.w->lock);
        assert_int_equal(qc2_l1_grow(s.w, s.w->l1_size + 1, NULL), 0);
        pthread_mutex_unlock(&s.w->lock);
    }
    assert_int_equal(qc2_flush(s.w, NULL), 0);
    tables = 3 + (s.w->l1_size * 8 + cluster - 1) / cluster;
    rec_record(r->log);
    assert_int_equal(qc2_make_empty(s.img, NULL), 0);
    r->log->on = false;
    fill(&s, &seed); /* it goes on from there */
    assert_int_equal(qc2_flush(s.w, NULL), 0);
    image_check(r->bytes, r->size, &v);
    if (atomic_load(&qc2_test_break) == 0) {
        assert_string_equal(v.damage, "");
        assert_true(v.mapped > 100);
    }
    assert_int_equal(qc2_make_empty(s.img, NULL), 0);
    assert_int_equal(subject_close(&s, true, NULL), 0);
    image_check(r->bytes, r->size, &v);
    assert_string_equal(v.damage, "");
    assert_int_equal(v.mapped + v.leaks, 0);
    if (r->size > tables * cluster)
        fail_msg("order %u, clusters of %u bits, moved %d: %u clusters, %u expected", order, cluster_bits, moved,
                 (unsigned)(r->size / cluster), (unsigned)tables);
    crash_walk(&w);
    memcpy(damage, j.damage, room);
    rec_destroy(r);
    return w.told;
}

static void test_crashes(void **state)
{
    uint64_t seed = 1, states = 0;
    char damage[300];

    (void)state;
    for (unsigned order = 0; order <= 6; order++)
        for (unsigned bits = 9; bits <= 12; bits += share(4) < 4 ? 2 : 1)
            for (unsigned moved = 0; moved < 2; moved++) {
                states += run(bits, order, moved, ++seed, damage, sizeof(damage));
                assert_string_equal(damage, "");
            }
    print_message("%llu states\n", (unsigned long long)states);
    assert_true(states > 300);
}

/* Without one of the fsyncs there are states that must not be. */
static void test_rules(void **state)
{
    char damage[300];

    (void)state;
    for (int rule = 9; rule <= 11; rule++) {
        bool found = false;

        for (uint64_t seed = 1; seed < 8 && !found; seed++)
            for (unsigned moved = 0; moved < 2; moved++) {
                atomic_store(&qc2_test_break, rule);
                run(9, 6, moved, seed, damage, sizeof(damage));
                found |= damage[0] != '\0';
            }
        atomic_store(&qc2_test_break, 0);
        if (!found)
            fail_msg("rule %d was broken, and nobody saw it", rule);
    }
}

/* An error at any call: the image is sound, and emptied by the next who opens it. */
static void test_errors(void **state)
{
    bool failed = true;

    (void)state;
    for (uint64_t at = 1; failed; at++) {
        struct rec_store *r = rec_create(0);
        struct subject s;
        struct verdict v;
        uint64_t seed = at;

        image_make(r, 3, 9, 4, 256 * 512);
        assert_int_equal(subject_open(&s, r, NULL, NULL), 0);
        fill(&s, &seed);
        assert_int_equal(qc2_flush(s.w, NULL), 0);
        rec_reset(r);
        r->log->fail_from = at;
        r->log->fail_to = at % 2 ? at + 1 : UINT64_MAX;
        r->log->fail_code = QCHAIN_E_IO;
        failed = qc2_make_empty(s.img, NULL) < 0 || (r->log->calls >= at && at < 40);
        r->log->fail_from = 0;
        r->log->fail_to = 0;
        subject_close(&s, at % 3 == 0, NULL);
        image_check(r->bytes, r->size, &v);
        assert_string_equal(v.damage, "");
        assert_int_equal(subject_open(&s, r, NULL, NULL), 0);
        assert_int_equal(qc2_make_empty(s.img, NULL), 0);
        assert_int_equal(subject_close(&s, true, NULL), 0);
        image_check(r->bytes, r->size, &v);
        assert_string_equal(v.damage, "");
        assert_int_equal(v.mapped + v.leaks, 0);
        rec_destroy(r);
    }
}

/* --------------------------------------------------------------- what stays --- */

static void scribble(struct rig *r, uint64_t *seed)
{
    uint64_t cluster = r->img->cluster_size, disk = r->img->virtual_size;
    uint8_t *buf = malloc(4 * cluster);

    for (unsigned i = 0; i < 60; i++) {
        uint64_t v = random_next(seed), offset = random_next(seed) % (disk / 512) * 512;
        uint64_t length = (random_next(seed) % (3 * cluster / 512) + 1) * 512;

        length = length < disk - offset ? length : disk - offset;
        memset(buf, (int)(v >> 16), 4 * cluster);
        if (v % 8 < 5)
            rig_write(r, offset, length, buf);
        else if (v % 8 < 6)
            rig_zero(r, offset, length, 0);
        else if (!r->o.data_file && offset / cluster * cluster + cluster <= disk)
            rig_write_compressed(r, offset / cluster * cluster, buf);
    }
    free(buf);
}

static void now_empty(struct rig *r)
{
    struct qc_run run;
    qchain_error err;

    qc_error_init(&err);
    if (qc2_make_empty(r->img, &err) < 0)
        fail_msg("make_empty: %s", err.text);
    memcpy(r->model, r->below, r->img->virtual_size);
    for (uint64_t at = 0; at < r->img->virtual_size; at = qc_run_end(&run)) {
        assert_int_equal(qc2_locate(r->img, at, r->img->virtual_size - at, &run, &err), 0);
        assert_int_equal(qc_run_kind(&run), QC_ABSENT);
    }
    rig_compare(r);
}

static void test_snapshots(void **state)
{
    static const struct rig_opts all[] = {
        {.cluster_bits = 12, .refcount_order = 4, .version = 3, .disk = (5 << 20) + 512},
        {.cluster_bits = 9, .refcount_order = 3, .version = 3, .disk = 1 << 20},
        {.cluster_bits = 14, .refcount_order = 4, .version = 3, .extended = true, .disk = 5 << 20},
        {.cluster_bits = 12, .refcount_order = 4, .version = 2, .disk = 5 << 20},
    };
    struct qc_snapshot_new s = {.name = "s", .vm_state_size = 1 << 16, .icount = UINT64_MAX};

    (void)state;
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        for (unsigned taken = 0; taken < 3; taken++) {
            struct rig_opts o = all[i];
            uint64_t seed = i * 3 + taken + 1, base;
            uint8_t *was = malloc(o.disk), vm[1 << 16], is[1 << 16];
            struct rig r;

            o.backing = true;
            o.room = 48 << 20;
            rig_make(&r, &o);
            scribble(&r, &seed);
            memset(vm, 0x77, sizeof(vm));
            assert_int_equal(qc2_vmstate_base(r.img, &base, NULL), 0);
            rig_write(&r, base, sizeof(vm), vm);
            memcpy(was, r.model, o.disk);
            if (taken)
                assert_int_equal(qc2_snapshot_create(r.img, &s, NULL), 0);
            if (taken == 2)
                scribble(&r, &seed);
            now_empty(&r);
            scribble(&r, &seed);
            now_empty(&r);
            rig_end(&r);
            rig_check(&r);
            if (taken)
                rig_compare_closed(&r, "s", was, o.disk);
            rig_begin(&r);
            if (taken) {
                assert_int_equal(qc2_snapshot_apply(r.img, "s", NULL), 0);
                memcpy(r.model, was, o.disk);
                rig_compare(&r);
                rig_read(&r, base, sizeof(vm), is);
                assert_memory_equal(vm, is, sizeof(vm));
                rig_end(&r);
                rig_check(&r);
                rig_begin(&r);
            }
            rig_end(&r);
            rig_destroy(&r);
            free(was);
        }
}

static void test_data_file(void **state)
{
    struct rig_opts o = {.cluster_bits = 12, .refcount_order = 4, .version = 3, .disk = 5 << 20, .room = 48 << 20,
                         .backing = true, .data_file = true};
    uint64_t seed = 5;
    struct rig r;

    (void)state;
    rig_make(&r, &o);
    scribble(&r, &seed);
    now_empty(&r);
    scribble(&r, &seed);
    rig_end(&r);
    rig_check(&r);
    rig_begin(&r);
    now_empty(&r);
    rig_end(&r);
    rig_check(&r);
    rig_destroy(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_crashes),   cmocka_unit_test(test_rules),     cmocka_unit_test(test_errors),
        cmocka_unit_test(test_snapshots), cmocka_unit_test(test_data_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
