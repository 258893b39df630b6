/* SPDX-License-Identifier: MIT */
/* Laying runs under runs, against a model that knows every sector. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "chain/fill.h"
#include "image_tools.h"
#include "mem_layers.h"

#define SECTORS 400

/* What one sector is; kind -1: nothing. */
struct sector {
    int      kind;
    uint16_t source, sectors;
    uint64_t host;
};

static void model_clear(struct sector *m)
{
    for (int i = 0; i < SECTORS; i++)
        m[i] = (struct sector){.kind = -1};
}

static struct sector sector_of(const struct qc_run *r, uint64_t at)
{
    struct sector s = {(int)qc_run_kind(r), r->source, r->sectors, 0};

    if (qc_kind_has_host(qc_run_kind(r)))
        s.host = qc_run_host(r) + (qc_run_kind(r) == QC_COMPRESSED ? 0 : at - r->guest);
    return s;
}

/* Put runs where the model has nothing; returns the bytes that were new. */
static uint64_t model_under(struct sector *m, const struct qc_run *r, size_t n)
{
    uint64_t fresh = 0;

    for (size_t i = 0; i < n; i++) {
        for (uint64_t at = r[i].guest; at < qc_run_end(&r[i]); at += 512) {
            if (m[at / 512].kind >= 0)
                continue;
            m[at / 512] = sector_of(&r[i], at);
            fresh += 512;
        }
    }
    return fresh;
}

static void check_model(const struct sector *m, const struct qc_runs *l)
{
    struct sector got[SECTORS];
    uint64_t end = 0;

    model_clear(got);
    for (size_t i = 0; i < l->n; i++) {
        assert_true(l->run[i].guest >= end); /* sorted, without overlap */
        assert_true(l->run[i].length > 0);
        end = qc_run_end(&l->run[i]);
    }
    model_under(got, l->run, l->n);
    for (int i = 0; i < SECTORS; i++) {
        assert_int_equal(got[i].kind, m[i].kind);
        assert_int_equal(got[i].source, m[i].source);
        assert_int_equal(got[i].sectors, m[i].sectors);
        assert_true(got[i].host == m[i].host);
    }
}

/* Sorted runs of all kinds, some of them neighbours that continue each other. */
static size_t random_runs(struct qc_run *r, uint16_t source, uint64_t *seed)
{
    uint64_t at = random_next(seed) % 30, len, host = random_next(seed) % 1000 * 512;
    size_t n = 0;
    enum qc_kind kind;

    while (at < SECTORS) {
        len = 1 + random_next(seed) % 20;
        len = at + len > SECTORS ? SECTORS - at : len;
        kind = (enum qc_kind)(random_next(seed) % 7);
        if (random_next(seed) % 3 == 0)
            host = random_next(seed) % 100000 * 512;
        r[n] = qc_run_make(at * 512, len * 512, kind, qc_kind_has_host(kind) ? host : 0);
        r[n].source = source;
        r[n].sectors = kind == QC_COMPRESSED ? (uint16_t)(1 + len / 2) : 0;
        n++;
        host += len * 512;
        at += len;
        if (random_next(seed) % 2)
            at += random_next(seed) % 25;
    }
    return n;
}

static void random_layers_merge_as_the_model(void **unused)
{
    uint64_t seed = mem_seed(5), covered, expected;
    struct sector model[SECTORS];
    struct qc_run add[SECTORS];

    (void)unused;
    for (int round = 0; round < 1500; round++) {
        struct qc_runs acc = {0};

        covered = expected = 0;
        model_clear(model);
        for (uint16_t layer = 0; layer < 6; layer++) {
            size_t n = random_runs(add, layer, &seed);

            expected += model_under(model, add, n);
            assert_int_equal(qc_runs_merge_under(&acc, add, n, &covered), 0);
            assert_true(covered == expected);
            check_model(model, &acc);
            if (round % 2) {
                qc_runs_join(&acc);
                check_model(model, &acc);
            }
        }
        qc_runs_finish(&acc);
    }
}

static void nothing_merges_to_nothing(void **unused)
{
    struct qc_runs acc = {0};
    struct qc_run r = qc_run_make(512, 1024, QC_DATA, 4096);
    uint64_t covered = 0;

    (void)unused;
    assert_int_equal(qc_runs_merge_under(&acc, NULL, 0, &covered), 0);
    qc_runs_join(&acc);
    assert_int_equal(acc.n, 0);
    assert_int_equal(qc_runs_merge_under(&acc, &r, 1, &covered), 0);
    assert_int_equal(qc_runs_merge_under(&acc, &r, 1, &covered), 0); /* all hidden */
    assert_int_equal(acc.n, 1);
    assert_int_equal(covered, 1024);
    qc_runs_finish(&acc);
}

static void neighbours_join(void **unused)
{
    struct qc_run in[] = {
        qc_run_make(0, 512, QC_DATA, 8192),        qc_run_make(512, 512, QC_DATA, 8704),
        qc_run_make(1024, 512, QC_DATA, 4096),     qc_run_make(1536, 512, QC_ZERO, 0),
        qc_run_make(2048, 512, QC_ZERO, 0),        qc_run_make(2560, 512, QC_COMPRESSED, 100),
        qc_run_make(3072, 512, QC_COMPRESSED, 100), qc_run_make(4096, 512, QC_ZERO, 0),
        qc_run_make(4608, 512, QC_ZERO_ALLOC, 0),
    };
    struct qc_runs l = {0};
    uint64_t covered = 0;

    (void)unused;
    assert_int_equal(qc_runs_merge_under(&l, in, 9, &covered), 0);
    qc_runs_join(&l);
    assert_int_equal(l.n, 7);
    assert_int_equal(qc_run_length(&l.run[0]), 1024);
    assert_int_equal(qc_run_length(&l.run[2]), 1024);
    qc_runs_finish(&l);
    in[1].source = 1; /* another file: not the same stretch */
    assert_int_equal(qc_runs_merge_under(&l, in, 2, &covered), 0);
    qc_runs_join(&l);
    assert_int_equal(l.n, 2);
    qc_runs_finish(&l);
}

static void lengths_do_not_overflow(void **unused)
{
    const uint64_t half = UINT64_C(1) << 40;
    struct qc_run in[] = {qc_run_make(0, half, QC_END, 0), qc_run_make(half, half, QC_END, 0),
                          qc_run_make(2 * half, half, QC_END, 0)};
    struct qc_runs l = {0};
    uint64_t covered = 0;

    (void)unused;
    assert_int_equal(qc_runs_merge_under(&l, in, 3, &covered), 0);
    qc_runs_join(&l);
    assert_true(covered == 3 * half);
    assert_int_equal(l.n, 3); /* two of them are one sector more than 32 bits hold */
    qc_runs_finish(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_layers_merge_as_the_model),
        cmocka_unit_test(nothing_merges_to_nothing),
        cmocka_unit_test(neighbours_join),
        cmocka_unit_test(lengths_do_not_overflow),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
