/* SPDX-License-Identifier: MIT */
/* Chains of far stores: they say what near ones say, ask for much at once, and fail as they should. */
#include "share.h"
#include "far_tools.h"

#define MAX_EXTENTS 20000

/* ------------------------------------------------------------- as near ones --- */

/* Maps (or differences, if upto < below) of both are the same. */
static void same_extents(qchain *a, qchain *b, uint32_t below, uint32_t upto, uint64_t offset,
                         uint64_t length, uint32_t flags)
{
    static qchain_extent x[MAX_EXTENTS], y[MAX_EXTENTS];
    uint64_t next_x = 0, next_y = 0;
    uint32_t n = 0, m = 0;
    int rx, ry;

    memset(x, 0, sizeof(x[0]));
    if (below) {
        rx = qchain_diff(a, below, upto, offset, length, x, MAX_EXTENTS, &n, &next_x, flags, err);
        ry = qchain_diff(b, below, upto, offset, length, y, MAX_EXTENTS, &m, &next_y, flags, err);
    } else {
        rx = qchain_map(a, offset, length, x, MAX_EXTENTS, &n, &next_x, flags, err);
        ry = qchain_map(b, offset, length, y, MAX_EXTENTS, &m, &next_y, flags, err);
    }
    assert_int_equal(rx, 0);
    if (ry != 0)
        fail_msg("%s", qchain_error_message(err));
    assert_int_equal(n, m);
    assert_true(next_x == next_y);
    assert_memory_equal(x, y, n * sizeof(x[0]));
}

static uint32_t cut(qchain_iov *iov, unsigned char *buf, uint64_t length, uint64_t *seed)
{
    uint32_t n = 1 + random_next(seed) % (random_next(seed) % 4 ? 9 : 1024);
    uint64_t at = 0, len;

    for (uint32_t i = 0; i < n; i++) {
        len = i + 1 == n ? length - at : random_next(seed) % (length / n + 2);
        len = len > length - at ? length - at : len;
        iov[i] = (qchain_iov){len ? buf + at : NULL, len};
        at += len;
    }
    return n;
}

static void random_reads(const struct mem_chain *m, qchain *c, uint64_t *seed, int count)
{
    static qchain_iov iov[1024];
    uint64_t size = qchain_size(c), offset, length;
    unsigned char *buf = malloc(size + 1);
    int ret;

    for (int i = 0; i < count; i++) {
        offset = random_next(seed) % size;
        length = random_next(seed) % (random_next(seed) % 3 ? 20000 : size);
        length = length > size - offset ? size - offset : length;
        memset(buf, 0xa5, length + 1);
        if (i % 2)
            ret = qchain_read(c, buf, length, offset, 0, err);
        else
            ret = qchain_readv(c, iov, cut(iov, buf, length, seed), offset, 0, err);
        if (ret != 0)
            fail_msg("%s", qchain_error_message(err));
        assert_true(equals_model(m, buf, length, offset));
        assert_int_equal(buf[length], 0xa5);
    }
    free(buf);
}

static void says_what_near_ones_say(void **unused)
{
    uint64_t seed = mem_seed(50);
    uint8_t x[32], y[32];

    (void)unused;
    for (unsigned round = 0; round < 4 + share(8); round++) {
        struct mem_chain *m = mem_chain_random(1 + random_next(&seed) % 8, MIB, &seed);
        struct far *f = far_create(m, 4);
        qchain *near = open_stores(m, NULL), *c;
        uint64_t size = qchain_size(near);

        f->delay_us = round % 3 ? 300 : 0;
        c = far_open(f, NULL);
        if (round % 2) {
            random_reads(m, c, &seed, 30); /* readers fill the windows, or maps */
            assert_true(f->n_submit > 0);
        }
        same_extents(near, c, 0, 0, 0, size, 0);
        same_extents(near, c, 0, 0, 0, size, QCHAIN_MAP_CLUSTERS);
        same_extents(near, c, 0, 0, size / 3 / 512 * 512, size / 3, QCHAIN_MAP_CLUSTERS);
        for (uint32_t upto = 0; upto < m->n; upto++)
            for (uint32_t below = upto + 1; below <= m->n; below++)
                same_extents(near, c, below, upto, 0, size, 0);
        random_reads(m, c, &seed, 30);
        assert_int_equal(qchain_checksum(near, x, 0, NULL, err), 0);
        assert_int_equal(qchain_checksum(c, y, 0, NULL, err), 0);
        assert_memory_equal(x, y, 32);
        qchain_close(near);
        qchain_close(c);
        far_destroy(f);
        mem_chain_destroy(m);
    }
}

/* --------------------------------------------------------------- failures --- */

/* The requests of a call fail one by one: it fails with that layer, or what failed is done again, or does
 * not show; and the next call is fine. */
static void each_request_fails(void **unused)
{
    uint64_t seed = mem_seed(51);
    unsigned n_failed = 0, n_fine = 0;

    (void)unused;
    for (int round = 0; round < 4; round++) {
        struct mem_chain *m = mem_chain_random(5, MIB / 4, &seed);
        struct far *f = far_create(m, 3);
        uint64_t size = m->layer[0].size;
        unsigned char *buf = malloc(size);

        for (int k = 0, more = 1; more; k++) {
            qchain *c = far_open(f, NULL);
            int ret;

            far_set(f, k, -1);
            ret = qchain_read(c, buf, size, 0, 0, err);
            more = f->failed_layer >= 0;
            if (ret == 0) {
                assert_true(equals_model(m, buf, size, 0));
                n_fine += more;
            } else {
                assert_int_equal(ret, QCHAIN_E_IO);
                assert_int_equal(qchain_error_layer(err), f->failed_layer);
                assert_non_null(strstr(qchain_error_message(err), "too far away"));
                assert_int_equal(qchain_error_errno(err), EIO);
                n_failed++;
            }
            far_set(f, -1, -1);
            assert_int_equal(qchain_read(c, buf, size, 0, 0, err), 0);
            assert_true(equals_model(m, buf, size, 0));
            qchain_close(c);
        }
        free(buf);
        far_destroy(f);
        mem_chain_destroy(m);
    }
    assert_true(n_failed > 20 && n_fine > 0);
}

/* The deepest layer that shows in a range: what is above it can be known without those below. */
static uint32_t deepest(const struct mem_chain *m, uint64_t offset, uint64_t length)
{
    enum mem_state state;
    uint32_t most = 0, k;

    for (uint64_t at = offset; at < offset + length; at += 512) {
        k = mem_chain_look(m, at, &state);
        most = k > most ? k : most;
    }
    return most;
}

/* A layer that is gone matters where it shows, and nowhere else. */
static void a_layer_is_gone(void **unused)
{
    uint64_t seed = mem_seed(52);

    (void)unused;
    for (int round = 0; round < 4; round++) {
        struct mem_chain *m = mem_chain_create(6);
        enum mem_state state;
        struct far *f;
        uint64_t size = MIB;
        unsigned char buf[512];

        for (uint32_t k = 6; k-- > 0;) {
            mem_layer_init(m, k, size, 12);
            mem_layer_randomize(m, k, 50, &seed);
        }
        for (uint64_t i = 0; i < size >> 12; i++) /* of round 3 nothing below the top shows, */
            if (round == 3 || i / 16 % 3 == 0)    /* in others there are parts like that */
                mem_layer_set(m, round == 3 ? 0 : 2, i, MEM_DATA);
        f = far_create(m, 3);
        for (int gone = 1; gone < 6; gone++) {
            qchain *c = far_open(f, NULL);
            unsigned bad = 0;

            far_set(f, -1, gone);
            for (uint64_t at = 0; at < size; at += 4096) {
                uint32_t shows = mem_chain_look(m, at, &state);
                int ret = qchain_read(c, buf, sizeof(buf), at, 0, err);

                if (ret == 0) {
                    assert_true(shows != (uint32_t)gone || state == MEM_ZERO);
                    assert_true(equals_model(m, buf, sizeof(buf), at));
                    continue;
                }
                bad++;
                assert_int_equal(ret, QCHAIN_E_IO);
                assert_int_equal(qchain_error_layer(err), gone);
                assert_true(deepest(m, at / 65536 * 65536, 65536) >= (uint32_t)gone);
            }
            assert_true(round == 3 ? bad == 0 : bad > 0 && bad <= (gone > 2 ? 176 : 256));
            far_set(f, -1, -1);
            qchain_close(c);
        }
        far_destroy(f);
        mem_chain_destroy(m);
    }
}

/* -------------------------------------------------------------------- rounds --- */

/* L2 tables that a chain refers to, in bytes. */
static uint64_t table_bytes(const struct mem_chain *m)
{
    uint64_t sum = 0;

    for (uint32_t k = 0; k < m->n; k++) {
        const struct mem_layer *l = &m->layer[k];
        uint64_t cluster = UINT64_C(1) << l->cluster_bits, per = cluster / 8;

        for (uint64_t t = 0; t * per < l->n_clusters; t++) {
            bool used = false;

            for (uint64_t i = t * per; i < (t + 1) * per && i < l->n_clusters; i++)
                used |= l->state && l->state[i] != MEM_ABSENT;
            sum += used ? cluster : 0;
        }
    }
    return sum;
}

/* How many times the first read of a deep chain waits. */
static unsigned rounds_of(uint32_t depth, unsigned cluster_bits, uint64_t size, unsigned percent,
                          double *overhead)
{
    struct mem_chain *m = mem_chain_create(depth);
    unsigned char buf[512];
    uint64_t seed = 7;
    struct far *f;
    unsigned rounds;
    qchain *c;

    for (uint32_t k = depth; k-- > 0;) {
        mem_layer_init(m, k, size, cluster_bits);
        for (uint64_t i = 0; i < m->layer[k].n_clusters; i++)
            if (random_next(&seed) % 100 < percent)
                mem_layer_set(m, k, i, MEM_DATA);
    }
    f = far_create(m, 1);
    c = far_open(f, NULL);
    f->quiet_us = 15000;
    far_reset(f);
    assert_int_equal(qchain_read(c, buf, sizeof(buf), size / 2, 0, err), 0);
    assert_true(equals_model(m, buf, sizeof(buf), size / 2));
    rounds = f->rounds;
    *overhead = (double)f->meta_bytes / (double)table_bytes(m);
    print_message("depth %u, clusters of 2^%u: %u rounds, %u requests, %.2f of the tables' bytes\n", depth,
                  cluster_bits, rounds, f->n_requests, *overhead);
    qchain_close(c);
    far_destroy(f);
    mem_chain_destroy(m);
    return rounds;
}

static void tables_come_together(void **unused)
{
    double overhead;

    (void)unused;
    /* An L1 table, the L2 tables, the data: however deep. */
    assert_in_range(rounds_of(2, 16, 16 * MIB, 3, &overhead), 1, 3);
    assert_in_range(rounds_of(40, 16, 16 * MIB, 3, &overhead), 1, 3);
    assert_in_range(rounds_of(120, 16, 16 * MIB, 3, &overhead), 1, 3);
    /* Two layers a thread, where there are more than threads. */
    assert_in_range(rounds_of(250, 16, 16 * MIB, 2, &overhead), 1, 5);
    /* Small clusters: many tables, and few more bytes than those. */
    assert_in_range(rounds_of(3, 12, 24 * MIB, 50, &overhead), 1, 3);
    assert_true(overhead <= 1.3);
    assert_in_range(rounds_of(10, 12, 24 * MIB, 5, &overhead), 1, 3);
    assert_true(overhead <= 1.3);
}

/* Tables next to each other are one request; with little between them, too; with much they are not, but
 * at the same time all the same. */
static void near_tables_are_merged(void **unused)
{
    static const struct {
        unsigned data; /* clusters between two tables */
        unsigned least, most;
    } gap[] = {{0, 1, 1}, {7, 1, 1}, {9, 10, 10}};

    (void)unused;
    for (int i = 0; i < 3; i++) {
        struct mem_chain *m = mem_chain_create(1);
        uint64_t next;
        qchain_extent *e = calloc(MAX_EXTENTS, sizeof(*e));
        struct far *f;
        uint32_t n;
        qchain *c;

        mem_layer_init(m, 0, 20 * MIB, 12);
        for (uint64_t t = 0; t < 10; t++) {
            mem_layer_set(m, 0, t * 512, MEM_ZERO);
            for (unsigned d = 1; d <= gap[i].data; d++)
                mem_layer_set(m, 0, t * 512 + d, MEM_DATA);
        }
        f = far_create(m, 1);
        c = far_open(f, NULL);
        f->quiet_us = 15000;
        far_reset(f);
        assert_int_equal(qchain_map(c, 0, 20 * MIB, e, MAX_EXTENTS, &n, &next, 0, err), 0);
        assert_in_range(f->n_meta - 1, gap[i].least, gap[i].most); /* and the L1 table */
        assert_in_range(f->rounds, 1, 2);
        qchain_close(c);
        far_destroy(f);
        mem_chain_destroy(m);
        free(e);
    }
}

/* However the tables lie: one request is no longer than some megabytes. */
static void merging_has_an_end(void **unused)
{
    struct mem_chain *m = mem_chain_create(1);
    qchain_extent e[16];
    uint64_t next, size = 120 * MIB;
    struct far *f;
    uint32_t n;
    qchain *c;

    (void)unused;
    mem_layer_init(m, 0, size, 9); /* an L2 table of 512 bytes for each 32 KiB */
    for (uint64_t i = 0; i < m->layer[0].n_clusters; i += 64) {
        mem_layer_set(m, 0, i, MEM_ZERO);
        for (unsigned d = 1; d < 60; d++)
            mem_layer_set(m, 0, i + d, MEM_DATA);
    }
    f = far_create(m, 1);
    c = far_open(f, NULL);
    far_reset(f);
    assert_int_equal(qchain_map(c, 0, size, e, 16, &n, &next, 0, err), 0);
    assert_true(f->n_meta >= m->layer[0].file_size / (5 * MIB));
    qchain_close(c);
    far_destroy(f);
    mem_chain_destroy(m);
}

/* Many pieces of one read, of several layers, are under way at once. */
static void pieces_come_together(void **unused)
{
    struct mem_chain *m = mem_chain_create(4);
    uint64_t size = MIB;
    unsigned char *buf = malloc(size);
    struct far *f;
    qchain *c;

    (void)unused;
    for (uint32_t k = 4; k-- > 0;)
        mem_layer_init(m, k, size, 12);
    for (uint64_t i = 0; i < size >> 12; i++)
        mem_layer_set(m, (uint32_t)(i % 4), i, i % 16 < 14 ? MEM_DATA : MEM_COMPRESSED);
    f = far_create(m, 1);
    c = far_open(f, NULL);
    assert_int_equal(qchain_read(c, buf, 512, 0, 0, err), 0);
    f->quiet_us = 15000;
    far_reset(f);
    assert_int_equal(qchain_read(c, buf, size, 0, 0, err), 0);
    assert_true(equals_model(m, buf, size, 0));
    assert_true(f->most >= 200);
    assert_in_range(f->rounds, 1, 3); /* stored, compressed */
    assert_int_equal(f->n_meta, 0);
    free(buf);
    qchain_close(c);
    far_destroy(f);
    mem_chain_destroy(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON(says_what_near_ones_say), ON(each_request_fails),   ON(a_layer_is_gone),
        ON(tables_come_together),    ON(near_tables_are_merged), ON(merging_has_an_end),
        ON(pieces_come_together),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
