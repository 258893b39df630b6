/* SPDX-License-Identifier: MIT */
/* Mapping images with small and large L1 tables: what is resident and what is read
 * again must make no difference. And whether holes are looked for. */
#include <inttypes.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "image_tools.h"
#include "qcow2/qcow2.h"
#include "util/error.h"

/* An image in memory: header, L1 table, refcount table and blocks, L2 tables, data. */
struct made {
    uint8_t *p;
    uint64_t size, used; /* bytes there are, and bytes in use */
    unsigned bits, order;
    uint64_t l1, reftable;
    uint32_t l1_size;
    struct qc_store *store;
    struct qc_image *img;
};

static void put(uint8_t *p, unsigned width, uint64_t v)
{
    while (width-- > 0) {
        p[width] = (uint8_t)v;
        v >>= 8;
    }
}

static uint64_t take(struct made *m, uint64_t bytes)
{
    uint64_t at = m->used, cluster = UINT64_C(1) << m->bits;

    m->used += (bytes + cluster - 1) / cluster * cluster;
    assert_true(m->used <= m->size);
    return at;
}

static void make(struct made *m, unsigned bits, uint64_t disk, uint64_t file)
{
    uint64_t cover = UINT64_C(1) << (2 * bits - 3);

    memset(m, 0, sizeof(*m));
    m->bits = bits;
    m->order = 4;
    m->size = file;
    m->p = calloc(1, file);
    assert_non_null(m->p);
    m->l1_size = (uint32_t)((disk + cover - 1) / cover);
    take(m, 1);
    m->l1 = take(m, UINT64_C(8) * m->l1_size);
    m->reftable = take(m, 1);
    put(m->p, 4, 0x514649fb);
    put(m->p + 4, 4, 3);
    put(m->p + 20, 4, bits);
    put(m->p + 24, 8, disk);
    put(m->p + 36, 4, m->l1_size);
    put(m->p + 40, 8, m->l1);
    put(m->p + 48, 8, m->reftable);
    put(m->p + 56, 4, 1);
    put(m->p + 96, 4, m->order);
    put(m->p + 100, 4, 104);
}

/* Map one cluster to somewhere. */
static void set(struct made *m, uint64_t cluster, uint64_t entry)
{
    uint64_t per_table = UINT64_C(1) << (m->bits - 3);
    uint8_t *l1 = m->p + m->l1 + cluster / per_table * 8;
    uint64_t table = 0;

    for (int i = 0; i < 8; i++)
        table = table << 8 | l1[i];
    if (!table) {
        table = take(m, 1);
        put(l1, 8, table);
    }
    put(m->p + table + cluster % per_table * 8, 8, entry);
}

static void open_made(struct made *m, uint64_t allocated)
{
    struct qc_image_opts o = {0};
    qchain_error err;

    qc_error_init(&err);
    m->store = memory_store(m->p, m->size, allocated);
    assert_non_null(m->store);
    if (qc_qcow2_format.open(&m->img, m->store, &o, &err) < 0)
        fail_msg("open: %s", err.text);
}

static void close_made(struct made *m)
{
    qc_qcow2_format.close(m->img);
    qc_store_destroy(m->store);
    free(m->p);
}

/* The map of a few clusters at a time against the whole one. */
static void check_pieces(struct made *m, uint64_t *seed)
{
    struct qc_runs whole = {0};
    uint64_t size = m->img->virtual_size;
    size_t k = 0;

    assert_int_equal(m->img->format->map(m->img, 0, size, &whole, NULL), 0);
    for (int i = 0; i < 300; i++) {
        uint64_t at = random_next(seed) % (size / 512) * 512;
        uint64_t most = (UINT64_C(1) << random_next(seed) % 24) / 512 + 1;
        uint64_t n = (1 + random_next(seed) % most) * 512;
        struct qc_runs part = {0};

        n = n < size - at ? n : size - at;
        assert_int_equal(m->img->format->map(m->img, at, n, &part, NULL), 0);
        for (k = 0; k < whole.n && qc_run_end(&whole.run[k]) <= at; k++)
            ;
        for (size_t j = 0; j < part.n; j++, k++) {
            const struct qc_run *p = &part.run[j], *w = &whole.run[k];
            uint64_t skip = at > w->guest ? at - w->guest : 0;

            assert_int_equal(qc_run_kind(p), qc_run_kind(w));
            assert_int_equal(p->guest, w->guest + skip);
            if (qc_kind_has_host(qc_run_kind(w)))
                assert_int_equal(qc_run_host(p), qc_run_host(w) + skip);
            assert_true(qc_run_end(p) == qc_run_end(w) || qc_run_end(p) == at + n);
        }
        assert_true(k == whole.n || whole.run[k].guest >= at + n);
        qc_runs_finish(&part);
    }
    qc_runs_finish(&whole);
}

/* Walk with next_used; nothing must be left out. */
static void check_next_used(struct made *m)
{
    struct qc_runs whole = {0}, walked = {0};
    uint64_t size = m->img->virtual_size, at = 0;

    assert_int_equal(m->img->format->map(m->img, 0, size, &whole, NULL), 0);
    for (;;) {
        uint64_t n = m->img->map_unit;

        assert_int_equal(m->img->format->next_used(m->img, at, &at, NULL), 0);
        if (at == UINT64_MAX)
            break;
        n = n < size - at ? n : size - at;
        assert_int_equal(m->img->format->map(m->img, at, n, &walked, NULL), 0);
        at += n;
    }
    assert_int_equal(walked.n, whole.n);
    assert_memory_equal(walked.run, whole.run, whole.n * sizeof(whole.run[0]));
    qc_runs_finish(&whole);
    qc_runs_finish(&walked);
}

static void test_l1_sizes(void **state)
{
    /* 512-byte clusters: a table covers 32 KiB of disk. */
    static const uint64_t slots[] = {1, 2, 255, 256, 257, 3000, 32768, 32769, 100000, 300000};
    const char *given = getenv("QC_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)getpid();

    (void)state;
    print_message("QC_SEED=%" PRIu64 "\n", seed);
    for (size_t i = 0; i < sizeof(slots) / sizeof(slots[0]); i++) {
        uint64_t disk = slots[i] * 32768 - random_next(&seed) % 64 * 512;
        struct made m;

        make(&m, 9, disk, slots[i] * 8 + (2 << 20));
        for (int k = 0; k < 500; k++) {
            uint64_t at = random_next(&seed) % (disk / 512);

            for (uint64_t n = random_next(&seed) % 100; n > 0 && at < disk / 512; n--, at++)
                set(&m, at, random_next(&seed) % 8 ? (1000 + at % 1000) * 512 : 1);
        }
        open_made(&m, m.size);
        check_pieces(&m, &seed);
        check_next_used(&m);
        close_made(&m);
    }
}

static void test_empty(void **state)
{
    struct made m;
    uint64_t used;

    (void)state;
    make(&m, 9, UINT64_C(40000) * 32768, 1 << 20);
    open_made(&m, m.size);
    assert_int_equal(m.img->format->next_used(m.img, 0, &used, NULL), 0);
    assert_true(used == UINT64_MAX);
    assert_int_equal(m.img->format->next_used(m.img, m.img->virtual_size, &used, NULL), 0);
    assert_true(used == UINT64_MAX);
    check_next_used(&m);
    close_made(&m);
}

static void *map_all(void *data)
{
    struct qc_image *img = data;
    struct qc_runs runs = {0};
    size_t n;

    if (img->format->map(img, 0, img->virtual_size, &runs, NULL) < 0)
        runs.n = 0;
    n = runs.n;
    qc_runs_finish(&runs);
    return (void *)(uintptr_t)n;
}

/* Many threads at once build the L1's bitmap once. */
static void test_threads(void **state)
{
    pthread_t t[8];
    struct made m;

    (void)state;
    make(&m, 9, UINT64_C(1000) * 32768, 2 << 20);
    for (uint64_t i = 0; i < 1000; i += 3)
        set(&m, i * 64, (1000 + i) * 512);
    open_made(&m, m.size);
    for (int i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&t[i], NULL, map_all, m.img), 0);
    for (int i = 0; i < 8; i++) {
        void *n;

        pthread_join(t[i], &n);
        assert_int_equal((uintptr_t)n, 334);
    }
    close_made(&m);
}

/* A range past the disk is refused, not clipped. */
static void test_range(void **state)
{
    struct qc_runs runs = {0};
    struct made m;

    (void)state;
    make(&m, 12, 1 << 20, 1 << 16);
    open_made(&m, m.size);
    assert_int_equal(m.img->format->map(m.img, 0, (1 << 20) + 512, &runs, NULL), QCHAIN_E_RANGE);
    assert_int_equal(m.img->format->map(m.img, UINT64_MAX - 511, 512, &runs, NULL),
                     QCHAIN_E_RANGE);
    assert_int_equal(m.img->format->map(m.img, 1 << 20, 0, &runs, NULL), 0);
    qc_runs_finish(&runs);
    close_made(&m);
}

/* ------------------------------------------------------------------- holes --- */

/* 100 clusters of 4 KiB of which n_used have a refcount. */
static bool holes(unsigned order, uint64_t n_used, uint64_t allocated_clusters, uint64_t block)
{
    struct made m;
    bool yes;

    make(&m, 12, 1 << 20, 100 * 4096);
    put(m.p + 96, 4, order);
    put(m.p + m.reftable, 8, block);
    for (uint64_t i = 0; i < n_used && block == 8 * 4096; i++) {
        if (order >= 3)
            m.p[block + (i << order) / 8 + (1u << order) / 8 - 1] = 1;
        else
            m.p[block + (i << order) / 8] |= (uint8_t)(1u << ((i << order) % 8));
    }
    open_made(&m, allocated_clusters * 4096);
    assert_int_equal(m.img->format->may_have_holes(m.img, &yes, NULL), 0);
    assert_int_equal(m.img->format->may_have_holes(m.img, &yes, NULL), 0);
    close_made(&m);
    return yes;
}

/* The threshold is that of QEMU: a ninth more than occupied, at least 2 more. */
static void test_holes(void **state)
{
    (void)state;
    for (unsigned order = 0; order <= 6; order++) {
        assert_true(holes(order, 100, 10, 8 * 4096));
        assert_true(holes(order, 100, 90, 8 * 4096));
        assert_false(holes(order, 99, 90, 8 * 4096));
        assert_false(holes(order, 100, 91, 8 * 4096));
        assert_true(holes(order, 12, 10, 8 * 4096));
        assert_false(holes(order, 11, 10, 8 * 4096));
        assert_false(holes(order, 100, 10, 0));
        assert_false(holes(order, 100, 10, 8 * 4096 + 512));
        assert_false(holes(order, 100, 10, UINT64_C(1) << 40));
        assert_false(holes(order, 100, 10, UINT64_MAX - 4095));
    }
}

/* Let one more slot have the L2 table of another. */
static void share(struct made *m, uint64_t slot, uint64_t with)
{
    memcpy(m->p + m->l1 + slot * 8, m->p + m->l1 + with * 8, 8);
}

static void check_shared(unsigned bits, uint64_t slots, uint64_t used, bool sparse, bool refused)
{
    uint64_t first = slots - used, per_table = UINT64_C(1) << (bits - 3);
    struct qc_runs runs = {0};
    char want[100];
    struct made m;
    qchain_error err;
    int rc;

    qc_error_init(&err);
    make(&m, bits, slots << (2 * bits - 3), slots * 8 + ((used + 16) << bits));
    for (uint64_t i = first; i < slots; i++)
        set(&m, i * per_table, UINT64_C(1) << bits);
    share(&m, slots - 1, first + 2);
    open_made(&m, m.size);
    if (sparse) /* a hole that nobody reads */
        m.store->size = UINT64_C(1) << 40;
    rc = m.img->format->map(m.img, 0, 1 << 16, &runs, &err);
    assert_int_equal(rc, refused ? QCHAIN_E_CORRUPT : 0);
    snprintf(want, sizeof(want), "L1 entries %u and %u use the same L2 table at ",
             (unsigned)first + 2, (unsigned)slots - 1);
    if (refused && !strstr(err.text, want))
        fail_msg("\"%s\" does not say \"%s\"", err.text, want);
    qc_runs_finish(&runs);
    close_made(&m);
}

/* Entries that share L2 tables would make a disk of any length of a small file,
 * however long the file claims to be. A few are like any other damage. */
static void test_shared_tables(void **state)
{
    static const uint64_t slots[] = {65, 128, 256, 257, 1000, 40000};

    (void)state;
    for (size_t i = 0; i < sizeof(slots) / sizeof(slots[0]); i++)
        for (int sparse = 0; sparse < 2; sparse++) {
            check_shared(9, slots[i], 65, sparse, true);
            check_shared(9, slots[i], 64, sparse, false);
            if (slots[i] <= 1000)
                check_shared(12, slots[i], slots[i], sparse, true);
        }
}

/* A directory may have 64 MiB, but not that much text is taken from it. */
static int describe_bitmaps(unsigned n, qchain_error *err)
{
    struct qc_image_opts o = {.describe = true};
    qchain_image_info info = {0};
    struct made m;
    uint64_t dir;
    int rc;

    make(&m, 12, 1 << 20, 12 << 20);
    dir = take(&m, n * UINT64_C(1048));
    put(m.p + 88, 8, 1); /* autoclear: the bitmaps are good */
    put(m.p + 104, 4, 0x23852875);
    put(m.p + 108, 4, 24);
    put(m.p + 112, 4, n);
    put(m.p + 120, 8, n * UINT64_C(1048));
    put(m.p + 128, 8, dir);
    for (unsigned i = 0; i < n; i++) {
        uint8_t *p = m.p + dir + i * UINT64_C(1048);

        put(p, 8, 4096);
        put(p + 8, 4, 1);
        p[16] = 1;
        p[17] = 16;
        put(p + 18, 2, 1023);
        memset(p + 24, 'n', 1023);
        snprintf((char *)p + 24, 9, "%08u", i);
        p[32] = 'n';
    }
    m.store = memory_store(m.p, m.size, m.size);
    rc = qc_qcow2_format.open(&m.img, m.store, &o, err);
    if (rc == 0)
        rc = qc_qcow2_format.describe(m.img, &info, err);
    if (rc == 0)
        assert_int_equal(info.n_bitmaps, n);
    qc_info_finish(&info);
    close_made(&m);
    return rc;
}

static void test_bitmap_names(void **state)
{
    qchain_error err;

    (void)state;
    qc_error_init(&err);
    if (describe_bitmaps(8200, &err) != 0)
        fail_msg("%s", err.text);
    assert_int_equal(describe_bitmaps(8201, &err), QCHAIN_E_LIMIT);
    assert_non_null(strstr(err.text, "8 MiB of names"));
}

static size_t longest;
static int (*plain_pread)(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                          qchain_error *err);

static int measured_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                          qchain_error *err)
{
    if (length > longest)
        longest = length;
    return plain_pread(obj, buf, length, offset, flags, err);
}

/* Of a far store tables are read together, with what lies between them: but small ones that lie apart
 * must not bring the whole file at once. */
static void test_far_tables(void **unused)
{
    struct made m;
    struct qc_runs runs = {0};
    uint64_t disk = UINT64_C(64) << 20;

    (void)unused;
    make(&m, 9, disk, UINT64_C(72) << 20);
    for (uint64_t table = 0; table < disk >> 15; table++) {
        set(&m, table << 6, m.used);
        take(&m, 32 << 10);
    }
    open_made(&m, m.size);
    m.store->limits.parallel = 8;
    plain_pread = m.store->ops.pread;
    m.store->ops.pread = measured_pread;
    longest = 0;
    assert_int_equal(m.img->format->map(m.img, 0, disk, &runs, NULL), 0);
    assert_int_equal(runs.n, disk >> 15);
    assert_in_range(longest, 64 << 10, 8 << 20);
    qc_runs_finish(&runs);
    close_made(&m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_l1_sizes), cmocka_unit_test(test_empty),
        cmocka_unit_test(test_threads),  cmocka_unit_test(test_range),
        cmocka_unit_test(test_holes),   cmocka_unit_test(test_shared_tables),
        cmocka_unit_test(test_bitmap_names), cmocka_unit_test(test_far_tables),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
