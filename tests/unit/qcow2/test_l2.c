/* SPDX-License-Identifier: MIT */
/* The L2 parser against one that looks at one sector after the other. */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "image_tools.h"
#include "qcow2/l2.h"
#include "util/error.h"

#define N 256u           /* entries of a table */
#define CLUSTERS 600u    /* of the file */
#define ROUNDS 3000

/* What one sector is: kind (QC_END: absent), where; -1: the entry is an error. */
struct sector {
    int      kind;
    uint64_t host;
    uint64_t cluster; /* compressed: where its run begins */
};

static struct sector compressed_sector(const struct qc2_l2 *g, uint64_t e, uint64_t cluster)
{
    struct sector s = {QC_COMPRESSED, 0, cluster};
    unsigned x = 62 - (g->cluster_bits - 8);

    s.host = e & ((UINT64_C(1) << x) - 1);
    if (g->data_file || s.host >> 56)
        s.kind = -1;
    else if (s.host >= g->file_size)
        s.kind = g->salvage ? QC_ZERO : -1;
    return s;
}

static struct sector naive(const struct qc2_l2 *g, uint64_t e, uint64_t bitmap, uint64_t guest)
{
    uint64_t size = UINT64_C(1) << g->cluster_bits;
    uint64_t cluster = guest / size * size, place = e & UINT64_C(0x00fffffffffffe00);
    struct sector s = {QC_END, place + guest % size, cluster};
    bool present = place || (g->data_file && e >> 63), zero = e & 1, stored = present, gone;
    unsigned bit = (unsigned)(guest % size / (size / 32));

    if (e >> 62 & 1)
        return compressed_sector(g, e, cluster);
    if (g->extended) {
        stored = bitmap >> bit & 1;
        zero = bitmap >> (32 + bit) & 1;
        if ((bitmap >> 32 & bitmap & UINT32_MAX) || ((uint32_t)bitmap && !present))
            s.kind = -1;
    } else if (zero) {
        present = place != 0;
        stored = false;
        if (!g->zero_flag)
            s.kind = -1;
    }
    if (present && (place % size || (g->data_file && place != cluster)))
        s.kind = -1;
    gone = !g->data_file && place >= g->file_size;
    if (gone && !g->salvage && (g->extended ? (uint32_t)bitmap != 0 : stored && present))
        s.kind = -1;
    if (s.kind == -1)
        return s;
    if (zero || (stored && gone))
        s.kind = present && !(stored && gone && !g->extended) ? QC_ZERO_ALLOC : QC_ZERO;
    else if (stored)
        s.kind = QC_DATA;
    else if (present)
        s.kind = QC_PREALLOC;
    return s;
}

static uint64_t random_place(uint64_t *seed, const struct qc2_l2 *g, uint64_t guest)
{
    uint64_t r = random_next(seed);

    if (g->data_file && r % 256)
        return guest;
    if (r % 300 == 0)
        return random_next(seed) & UINT64_C(0x00fffffffffffe00);
    if (r % 300 == 1)
        return (UINT64_C(1) << g->cluster_bits) * CLUSTERS; /* just past the end */
    return (1 + r / 512 % (CLUSTERS - 1)) << g->cluster_bits;
}

/* A table with stretches: zeros, runs of data, zero clusters, this and that. */
static void random_table(uint64_t *seed, const struct qc2_l2 *g, uint64_t *e, uint64_t *bitmap,
                         uint64_t guest)
{
    unsigned step = g->cluster_bits;

    for (size_t i = 0; i < N;) {
        uint64_t r = random_next(seed);
        uint64_t place = random_place(seed, g, guest + ((uint64_t)i << step));
        size_t n = 1 + (r >> 8) % ((r >> 40) % 4 ? 6 : 40);
        unsigned kind = r % 16;

        for (; n > 0 && i < N; n--, i++, place += kind < 12 ? UINT64_C(1) << step : 0) {
            e[i] = bitmap[i] = 0;
            if (kind < 5)
                continue;
            e[i] = place | (kind % 2 || g->data_file ? QC2_COPIED : 0);
            bitmap[i] = UINT32_MAX;
            if (kind == 5 && g->zero_flag)
                e[i] |= QC2_ZERO, bitmap[i] <<= 32;
            else if (kind == 6 && g->zero_flag)
                e[i] = QC2_ZERO, bitmap[i] = g->extended ? (uint64_t)1 << 40 : 0;
            else if (kind == 7 && !g->data_file)
                e[i] = QC2_COMPRESSED | (place + random_next(seed) % 512) |
                       (random_next(seed) % 2 << 61);
            else if (kind == 8)
                bitmap[i] = random_next(seed) & random_next(seed), bitmap[i] &= ~(bitmap[i] << 32);
            else if (kind == 9)
                bitmap[i] = 0;
            if (random_next(seed) % 4000 == 0)
                e[i] = random_next(seed), bitmap[i] = random_next(seed);
        }
    }
}

static void compare(const struct qc2_l2 *g, const struct qc_runs *runs, const uint64_t *e,
                    const uint64_t *bitmap, uint64_t guest, bool failed)
{
    size_t k = 0;
    bool wrong = false;

    for (uint64_t at = g->start; at < g->end; at += 512) {
        size_t i = (size_t)((at - guest) >> g->cluster_bits);
        struct sector s = naive(g, e[i], bitmap[i], at);
        const struct qc_run *r;

        if (s.kind == -1) {
            wrong = true;
            break;
        }
        if (failed)
            continue;
        while (k < runs->n && qc_run_end(&runs->run[k]) <= at)
            k++;
        r = k < runs->n && runs->run[k].guest <= at ? &runs->run[k] : NULL;
        assert_int_equal(r ? (int)qc_run_kind(r) : QC_END, s.kind);
        if (s.kind == QC_COMPRESSED) {
            assert_int_equal(qc_run_host(r), s.host);
            assert_int_equal(r->guest, s.cluster);
            assert_int_equal(r->sectors, (e[i] >> (62 - (g->cluster_bits - 8)) &
                                          ((1u << (g->cluster_bits - 8)) - 1)) + 1);
        } else if (r && qc_kind_has_host(qc_run_kind(r))) {
            assert_int_equal(qc_run_host(r) + at - r->guest, s.host);
        }
    }
    assert_int_equal(wrong, failed);
}

static void test_random(void **state)
{
    const char *given = getenv("QC_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)getpid();
    uint64_t raw[2 * N], e[N], bitmap[N];

    (void)state;
    print_message("QC_SEED=%" PRIu64 "\n", seed);
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t mode = random_next(&seed), guest;
        struct qc2_l2 g = {.extended = mode & 1, .data_file = (mode & 6) == 6,
                           .salvage = (mode & 24) == 24, .zero_flag = mode >> 5 & 7};
        struct qc_runs runs = {0};
        int rc;

        g.cluster_bits = (g.extended ? 14 : 9) + (unsigned)(mode >> 8) % (g.extended ? 3 : 5);
        g.zero_flag |= g.extended;
        g.file_size = ((uint64_t)CLUSTERS << g.cluster_bits) - random_next(&seed) % 3 * 100;
        guest = (random_next(&seed) % 100 * N) << g.cluster_bits;
        random_table(&seed, &g, e, bitmap, guest);
        for (size_t i = 0; i < N; i++) {
            raw[g.extended ? 2 * i : i] = __builtin_bswap64(e[i]);
            if (g.extended)
                raw[2 * i + 1] = __builtin_bswap64(bitmap[i]);
        }
        g.start = guest + random_next(&seed) % (UINT64_C(1) << g.cluster_bits) / 512 * 512;
        g.end = guest + ((uint64_t)N << g.cluster_bits) -
                random_next(&seed) % (UINT64_C(1) << g.cluster_bits) / 512 * 512;
        g.virtual_size = g.end;
        rc = qc2_l2_parse(&g, raw, N, guest, 65536, &runs, NULL);
        assert_true(rc == 0 || rc == QCHAIN_E_CORRUPT);
        compare(&g, &runs, e, bitmap, guest, rc < 0);
        qc_runs_finish(&runs);
    }
}

/* Neighbours are one run, however many. */
static void test_merged(void **state)
{
    uint64_t raw[512];
    struct qc2_l2 g = {.cluster_bits = 16, .zero_flag = true, .file_size = UINT64_C(1) << 30,
                       .end = UINT64_C(512) << 16};
    struct qc_runs runs = {0};

    (void)state;
    g.virtual_size = g.end;
    for (uint64_t i = 0; i < 512; i++)
        raw[i] = __builtin_bswap64((i + 5) << 16 | (i % 3 ? QC2_COPIED : 0));
    raw[100] = 0;
    assert_int_equal(qc2_l2_parse(&g, raw, 512, 0, 0, &runs, NULL), 0);
    assert_int_equal(runs.n, 2);
    assert_int_equal(qc_run_length(&runs.run[0]), 100 << 16);
    assert_int_equal(qc_run_host(&runs.run[1]), 106 << 16);
    qc_runs_finish(&runs);
}

/* The message names the entry's place, also in the middle of a run. */
static void test_message(void **state)
{
    uint64_t raw[32];
    struct qc2_l2 g = {.cluster_bits = 12, .zero_flag = true, .file_size = 40 << 12,
                       .end = 32 << 12, .virtual_size = 32 << 12};
    struct qc_runs runs = {0};
    qchain_error err;

    (void)state;
    for (uint64_t i = 0; i < 32; i++)
        raw[i] = __builtin_bswap64((i + 20) << 12);
    qc_error_init(&err);
    assert_int_equal(qc2_l2_parse(&g, raw, 32, 0, 8192, &runs, &err), QCHAIN_E_CORRUPT);
    assert_int_equal(err.offset, 8192 + 20 * 8);
    assert_non_null(strstr(err.text, "disk offset 81920"));
    assert_non_null(strstr(err.text, "past the end"));
    qc_runs_finish(&runs);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_merged),
        cmocka_unit_test(test_message),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
