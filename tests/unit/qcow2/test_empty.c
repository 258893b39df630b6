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

#include "image_tools.h"
#include "qcow2/l2.h"
#include "share.h"
#include "util/error.h"
#include "write_rig.h"
#include "writer_tools.h"

#define MIB (UINT64_C(1) << 20)
#define CAP (4 * MIB)

/* ------------------------------------------------------------------ crashes --- */

/* What a medium may have after a crash. */
struct medium {
    uint8_t *base, *state;
    uint64_t base_size, size, states, reach; /* reach: no state is longer */
    struct rec_store *again; /* where some of them are opened */
    char     damage[300];
};

static void judge(struct medium *m, const char *how, size_t at)
{
    struct verdict v;
    struct subject s;

    image_check(m->state, m->size, &v);
    if (v.damage[0] && !m->damage[0])
        snprintf(m->damage, sizeof(m->damage), "%s (%s, op %zu)", v.damage, how, at);
    if (v.damage[0] || m->states++ % 7 != 0)
        return;
    /* Emptied again it is what it would have been, and can be written. */
    memset(m->again->bytes, 0, m->again->size > m->reach ? m->again->size : m->reach);
    memcpy(m->again->bytes, m->state, m->size);
    m->again->size = m->size;
    assert_int_equal(subject_open(&s, m->again, NULL, NULL), 0);
    assert_int_equal(qc2_make_empty(s.img, NULL), 0);
    assert_int_equal(map_cluster(&s, 7, NULL), 0);
    assert_int_equal(subject_close(&s, true, NULL), 0);
    image_check(m->again->bytes, m->again->size, &v);
    assert_string_equal(v.damage, "");
    assert_int_equal(v.mapped, 1);
    assert_int_equal(v.leaks, 0);
}

static void apply(struct medium *m, const struct rec_op *op)
{
    uint64_t size = rec_apply(m->state, CAP, m->size, op);

    if (size < m->size)
        memset(m->state + size, 0, m->size - size);
    m->size = size;
}

/* Part of an operation: those of its sectors that the mask has. */
static void apply_torn(struct medium *m, const struct rec_op *op, uint64_t mask)
{
    struct rec_op part = *op;

    for (uint64_t at = 0; at < op->length; at += 512) {
        part.offset = op->offset + at;
        part.length = op->length - at < 512 ? op->length - at : 512;
        part.bytes = op->bytes ? op->bytes + at : NULL;
        if (mask >> (at / 512 % 64) & 1)
            apply(m, &part);
    }
}

static void some(struct medium *m, const struct rec_op *op, size_t n, uint64_t mask, uint64_t sectors, const char *how,
                 size_t at)
{
    memcpy(m->state, m->base, m->reach);
    m->size = m->base_size;
    for (size_t i = 0; i < n; i++)
        if (mask >> (i % 64) & 1)
            apply(m, &op[i]);
        else if (sectors && (op[i].kind == REC_WRITE || op[i].kind == REC_ZERO))
            apply_torn(m, &op[i], sectors);
    judge(m, how, at);
}

static void window(struct medium *m, const struct rec_op *op, size_t n, size_t at, uint64_t *seed)
{
    for (size_t i = 0; i < n; i++) {
        some(m, op, i, ~UINT64_C(0), 0, "prefix", at + i);
        some(m, op, n, ~(UINT64_C(1) << i), 0, "one missing", at + i);
        some(m, op, n, ~(UINT64_C(1) << i), 0x5a5a5a5a5a5a5a5a, "one torn", at + i);
        some(m, op, n, UINT64_C(1) << i, 0, "one alone", at + i);
    }
    for (unsigned i = 0; i < 20; i++)
        some(m, op, n, random_next(seed), random_next(seed), "subset", at);
    some(m, op, n, ~UINT64_C(0), 0, "all", at + n);
    memcpy(m->base, m->state, m->reach);
    m->base_size = m->size;
}

static void crash_everywhere(struct medium *m, const struct rec_store *r, uint64_t *seed)
{
    size_t first = 0;

    m->reach = m->base_size;
    for (size_t i = 0; i < r->n; i++)
        if (r->op[i].kind != REC_RESIZE && r->op[i].offset + r->op[i].length > m->reach)
            m->reach = r->op[i].offset + r->op[i].length;
    for (size_t i = 0; i <= r->n; i++)
        if (i == r->n || r->op[i].kind == REC_FLUSH) {
            window(m, r->op + first, i - first, first, seed);
            first = i + 1;
        }
}

static void fill(struct subject *s, unsigned times, uint64_t *seed)
{
    while (times-- > 0) {
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
    struct rec_store *r = rec_create(0);
    struct medium m = {.base = calloc(1, CAP), .state = calloc(1, CAP), .again = rec_create(0)};
    struct subject s;
    struct verdict v;
    uint64_t cluster = UINT64_C(1) << cluster_bits, tables;

    image_make(r, order == 4 ? 2 : 3, cluster_bits, order, 256 * cluster);
    assert_int_equal(subject_open(&s, r, NULL, NULL), 0);
    place_block(&s);
    fill(&s, 300, &seed);
    if (moved) {
        pthread_mutex_lock(&s.w->lock);
        assert_int_equal(qc2_l1_grow(s.w, s.w->l1_size + 1, NULL), 0);
        pthread_mutex_unlock(&s.w->lock);
    }
    assert_int_equal(qc2_flush(s.w, NULL), 0);
    memcpy(m.base, r->bytes, r->size);
    m.base_size = r->size;
    tables = 3 + (s.w->l1_size * 8 + cluster - 1) / cluster;
    rec_reset(r);
    r->log = true;
    assert_int_equal(qc2_make_empty(s.img, NULL), 0);
    fill(&s, 30, &seed); /* it goes on from there */
    assert_int_equal(qc2_flush(s.w, NULL), 0);
    image_check(r->bytes, r->size, &v);
    assert_string_equal(v.damage, "");
    assert_true(v.mapped > 10);
    assert_int_equal(qc2_make_empty(s.img, NULL), 0);
    assert_int_equal(subject_close(&s, true, NULL), 0);
    image_check(r->bytes, r->size, &v);
    assert_string_equal(v.damage, "");
    assert_int_equal(v.mapped + v.leaks, 0);
    if (r->size > tables * cluster)
        fail_msg("order %u, clusters of %u bits, moved %d: %u clusters, %u expected", order, cluster_bits, moved, (unsigned)(r->size / cluster), (unsigned)tables);
    crash_everywhere(&m, r, &seed);
    memcpy(damage, m.damage, room);
    free(m.base);
    free(m.state);
    rec_destroy(m.again);
    rec_destroy(r);
    return m.states;
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
    assert_true(states > share(3000));
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
        fill(&s, 300, &seed);
        assert_int_equal(qc2_flush(s.w, NULL), 0);
        rec_reset(r);
        r->fail_from = at;
        r->fail_to = at % 2 ? at + 1 : UINT64_MAX;
        r->fail_code = QCHAIN_E_IO;
        failed = qc2_make_empty(s.img, NULL) < 0 || (r->calls >= at && at < 40);
        r->fail_from = 0;
        r->fail_to = 0;
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
