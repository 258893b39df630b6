/* SPDX-License-Identifier: MIT */
/* Objects: one flight for all who want the same, each served as soon as his bytes are there. */
#include "object_tools.h"

#define KIB UINT64_C(1024)
#define MANY 64

/* --------------------------------------------------------------- one flight --- */

static void one_flight(struct rig *r, size_t length)
{
    struct reader x[MANY];
    unsigned before = held_count(&r->t);
    uint64_t joined = counted(r, QC_CNT_JOINED);

    for (unsigned i = 0; i < MANY; i++)
        reader_start(&x[i], r, BLOCK + (length == BLOCK ? 0 : i * 777), length, 0);
    await_count(r, QC_CNT_JOINED, joined + MANY - 1);
    assert_int_equal(held_count(&r->t), before + 1);
    assert_int_equal(held_at(&r->t, before).offset, BLOCK);
    assert_int_equal(held_at(&r->t, before).length, BLOCK);
    assert_int_equal(held_at(&r->t, before).flags, 0);
    held_end(&r->t, before, 0);
    for (unsigned i = 0; i < MANY; i++)
        reader_join(&x[i], 0);
    assert_int_equal(held_count(&r->t), before + 1);
}

static void many_readers_make_one_flight(void **unused)
{
    struct rig r;

    (void)unused;
    rig_init(&r, 10 * BLOCK, 64 * BLOCK, 32 * BLOCK);
    one_flight(&r, 4096);
    /* Then it is in memory. */
    assert_int_equal(counted(&r, QC_CNT_MEMORY_HITS), 0);
    assert_int_equal(read_now(&r, BLOCK + 5, 70, 0), 0);
    assert_int_equal(read_now(&r, BLOCK, BLOCK, 0), 0);
    assert_int_equal(counted(&r, QC_CNT_MEMORY_HITS), 2);
    assert_int_equal(held_count(&r.t), 1);
    rig_finish(&r);
}

static void bulk_readers_make_one_flight(void **unused)
{
    struct rig r;

    (void)unused;
    for (int round = 0; round < 20; round++) {
        rig_init(&r, 10 * BLOCK, 64 * BLOCK, 32 * BLOCK);
        one_flight(&r, BLOCK);
        rig_finish(&r);
    }
}

/* A long read finds nothing of its first block; before it comes to ask for it, another one does. */
static void begun_while_looking_elsewhere(void **unused)
{
    struct reader a, b;
    struct rig r;

    (void)unused;
    for (size_t ragged = 0; ragged < 200; ragged += 100) { /* bulk, and blocks */
        rig_init_bare(&r, 64 * BLOCK, 32 * BLOCK);
        r.t.stop_at = 3 * BLOCK;
        rig_open(&r, &held_local_ops, 10 * BLOCK);
        reader_start(&a, &r, 2 * BLOCK + ragged, 2 * BLOCK - ragged, 0);
        while (!atomic_load(&r.t.stopped))
            usleep(100);
        reader_start(&b, &r, 2 * BLOCK + ragged, 2 * BLOCK - ragged, 0);
        held_wait(&r.t, 2);
        atomic_store(&r.t.go, true);
        await_count(&r, QC_CNT_JOINED, 2);
        held_end(&r.t, 0, 0);
        held_end(&r.t, 1, 0);
        reader_join(&a, 0);
        reader_join(&b, 0);
        assert_int_equal(held_count(&r.t), 2);
        rig_finish(&r);
    }
}

/* The first bytes, begun by another, land while a reader of some of them looks elsewhere. */
static void the_head_lands_while_looking_elsewhere(void **unused)
{
    struct qc_block *block;
    struct qc_flight *f;
    struct reader x;
    struct rig r;

    (void)unused;
    for (unsigned meta = 0; meta < 2; meta++) {
        block = qc_block_new(HEAD);
        rig_init_bare(&r, 64 * BLOCK, 32 * BLOCK);
        r.t.stop_at = 4096;
        rig_open(&r, &held_local_ops, 10 * BLOCK);
        reader_start(&x, &r, 4096, 100, meta ? QC_READ_META : 0);
        while (!atomic_load(&r.t.stopped))
            usleep(100);
        f = qc_flight_begin(r.o, block, HEAD);
        assert_non_null(f);
        make_bytes(block->data, 0, HEAD);
        qc_flight_over(f, 0, NULL);
        atomic_store(&r.t.go, true);
        for (int i = 0; i < 20000 && !atomic_load(&x.done) && held_count(&r.t) == 0; i++)
            sleep_ms(1);
        assert_int_equal(held_count(&r.t), 0);
        reader_join(&x, 0);
        rig_finish(&r);
    }
}

static void served_as_bytes_arrive(void **unused)
{
    struct reader a, b, c, late;
    struct rig r;

    (void)unused;
    rig_init(&r, 10 * BLOCK, 64 * BLOCK, 32 * BLOCK);
    reader_start(&a, &r, 2 * BLOCK, 4096, 0);
    held_wait(&r.t, 1);
    reader_start(&b, &r, 2 * BLOCK + 6000, 4096, 0);
    reader_start(&c, &r, 2 * BLOCK + 50000, 100, 0);
    await_count(&r, QC_CNT_JOINED, 2);
    held_give(&r.t, 0, 4095);
    assert_false(reader_within(&a, 20));
    held_give(&r.t, 0, 8192);
    assert_true(reader_within(&a, 20000));
    assert_false(reader_within(&b, 50));
    held_give(&r.t, 0, 6000 + 4096);
    assert_true(reader_within(&b, 20000));
    /* Who comes now need not wait. */
    reader_start(&late, &r, 2 * BLOCK + 1, 7000, 0);
    assert_true(reader_within(&late, 20000));
    assert_false(reader_within(&c, 20));
    held_end(&r.t, 0, QCHAIN_E_IO); /* too late for those */
    reader_join(&a, 0);
    reader_join(&b, 0);
    reader_join(&late, 0);
    reader_join(&c, QCHAIN_E_IO);
    assert_string_equal(c.err.text, "the tier says no");
    assert_int_equal(held_count(&r.t), 1);
    rig_finish(&r);
}

static void a_failure_is_of_those_who_waited(void **unused)
{
    struct reader x[8], other;
    struct rig r;

    (void)unused;
    rig_init(&r, 10 * BLOCK, 64 * BLOCK, 32 * BLOCK);
    for (unsigned i = 0; i < 8; i++)
        reader_start(&x[i], &r, BLOCK + i * 500, 500, 0);
    held_wait(&r.t, 1);
    await_count(&r, QC_CNT_JOINED, 7);
    reader_start(&other, &r, 5 * BLOCK, 500, 0);
    held_wait(&r.t, 2);
    held_end(&r.t, 0, QCHAIN_E_TIMEOUT);
    for (unsigned i = 0; i < 8; i++)
        reader_join(&x[i], QCHAIN_E_TIMEOUT);
    assert_false(reader_within(&other, 10));
    r.t.mode = AT_ONCE;
    assert_int_equal(read_now(&r, BLOCK, 500, 0), 0); /* tried again */
    assert_int_equal(held_count(&r.t), 3);
    held_end(&r.t, 1, 0);
    reader_join(&other, 0);
    rig_finish(&r);
}

/* One read over several flights, of which one fails. */
static void a_piece_fails(void **unused)
{
    struct reader x;
    struct rig r;

    (void)unused;
    for (unsigned bad = 0; bad < 3; bad++) {
        rig_init(&r, 10 * BLOCK, 64 * BLOCK, 32 * BLOCK);
        reader_start(&x, &r, BLOCK + 100, 2 * BLOCK, 0);
        held_wait(&r.t, 3);
        for (unsigned i = 0; i < 3; i++) {
            assert_false(reader_within(&x, 5));
            held_end(&r.t, i, i == bad ? QCHAIN_E_ACCESS : 0);
        }
        reader_join(&x, QCHAIN_E_ACCESS);
        r.t.mode = AT_ONCE;
        assert_int_equal(read_now(&r, BLOCK + 100, 2 * BLOCK, 0), 0);
        assert_int_equal(held_count(&r.t), 4); /* the others are in memory */
        rig_finish(&r);
    }
}

/* ---------------------------------------------------------------- widening --- */

static void is_fetched(struct rig *r, uint64_t offset, size_t length, uint32_t flags, uint64_t from,
                       uint64_t to)
{
    unsigned n = held_count(&r->t);
    struct held h;

    assert_int_equal(read_now(r, offset, length, flags), 0);
    assert_int_equal(held_count(&r->t), n + 1);
    h = held_at(&r->t, n);
    assert_int_equal(h.offset, from);
    assert_int_equal(h.offset + h.length, to);
    assert_int_equal(h.flags, flags & QC_READ_META ? QC_FETCH_META : 0);
}

static void what_a_read_brings(void **unused)
{
    uint64_t size = 10 * BLOCK + 5000;
    struct rig r;
    unsigned n;

    (void)unused;
    rig_init(&r, size, 64 * BLOCK, 32 * BLOCK);
    r.t.mode = AT_ONCE;
    is_fetched(&r, BLOCK + 100, 1, 0, BLOCK, 2 * BLOCK);
    is_fetched(&r, size - 1, 1, 0, 10 * BLOCK, size);
    is_fetched(&r, 1, 1, 0, 0, BLOCK);
    /* Metadata: grains; of the beginning all of the head. */
    is_fetched(&r, 20 * KIB + 4 * BLOCK, 1, QC_READ_META, 20 * KIB + 4 * BLOCK, 24 * KIB + 4 * BLOCK);
    is_fetched(&r, 4 * BLOCK + 5000, 4096, QC_READ_META, 4 * BLOCK + 4096, 4 * BLOCK + 12288);
    is_fetched(&r, 8 * BLOCK, BLOCK, QC_READ_META, 8 * BLOCK, 9 * BLOCK);
    rig_close(&r);
    rig_open(&r, &held_ops, size);
    is_fetched(&r, 4096, 10, QC_READ_META, 0, HEAD);
    is_fetched(&r, HEAD - 1, 2, QC_READ_META, HEAD - 4096, HEAD + 4096);
    is_fetched(&r, size - 10, 10, QC_READ_META, 10 * BLOCK + 4096, size);
    n = held_count(&r.t);
    assert_int_equal(read_now(&r, 0, HEAD, QC_READ_META), 0); /* it stays */
    assert_int_equal(read_now(&r, 100, 1000, 0), 0);          /* data finds it, too */
    assert_int_equal(held_count(&r.t), n);
    rig_finish(&r);
}

static void metadata_stays_if_told(void **unused)
{
    struct rig r;

    (void)unused;
    rig_init(&r, 10 * BLOCK, 64 * BLOCK, 32 * BLOCK);
    r.t.mode = AT_ONCE;
    for (unsigned i = 1; i < 3; i++) {
        assert_int_equal(read_now(&r, 3 * BLOCK + 9, 10, QC_READ_META), 0);
        assert_int_equal(held_count(&r.t), i);
    }
    atomic_store(&r.o->keep, true);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(read_now(&r, 3 * BLOCK + 9 + i, 10, QC_READ_META), 0);
    assert_int_equal(held_count(&r.t), 3);
    /* More than what is kept is read, and right. */
    assert_int_equal(read_now(&r, 3 * BLOCK + 9, 10000, QC_READ_META), 0);
    assert_int_equal(held_count(&r.t), 4);
    /* What data brought, metadata finds. */
    assert_int_equal(read_now(&r, 6 * BLOCK, 10, 0), 0);
    assert_int_equal(read_now(&r, 6 * BLOCK + 30000, 10000, QC_READ_META), 0);
    assert_int_equal(held_count(&r.t), 5);
    rig_finish(&r);
}

/* -------------------------------------------------------------------- bulk --- */

static void bulk_goes_straight(void **unused)
{
    struct reader x, y, z;
    struct rig r;
    uint64_t at = 3 * 4096;
    struct held h;

    (void)unused;
    rig_init(&r, 20 * BLOCK, 64 * BLOCK, 32 * BLOCK);
    reader_start(&x, &r, at, 4 * BLOCK, 0);
    held_wait(&r.t, 4);
    for (unsigned i = 0; i < 4; i++) {
        h = held_at(&r.t, i);
        assert_int_equal(h.offset, at);
        assert_ptr_equal(h.buf, x.buf + (h.offset - x.offset));
        at += h.length;
    }
    assert_int_equal(at, x.offset + x.length); /* exact, nothing twice */
    assert_int_equal(qc_block_cache_bytes(r.blocks), 0);
    /* Others may look over his shoulder, but only at what is there. */
    reader_start(&y, &r, held_at(&r.t, 1).offset + 5000, 1000, 0);
    reader_start(&z, &r, held_at(&r.t, 1).offset + 500, 1000, 0);
    await_count(&r, QC_CNT_JOINED, 2);
    held_give(&r.t, 1, 2000);
    assert_true(reader_within(&z, 20000));
    assert_false(reader_within(&y, 20));
    assert_false(reader_within(&x, 20));
    for (unsigned i = 4; i-- > 0;)
        held_end(&r.t, i, 0);
    reader_join(&x, 0);
    reader_join(&y, 0);
    reader_join(&z, 0);
    assert_int_equal(held_count(&r.t), 4);
    rig_finish(&r);
}

/* What is in memory, or on its way, is left out of a long read. */
static void bulk_around_what_is_there(void **unused)
{
    struct reader small, x;
    struct rig r;
    unsigned n;

    (void)unused;
    rig_init(&r, 20 * BLOCK, 64 * BLOCK, 32 * BLOCK);
    r.t.mode = AT_ONCE;
    assert_int_equal(read_now(&r, 3 * BLOCK, 10, 0), 0);
    r.t.mode = HOLD;
    reader_start(&small, &r, 6 * BLOCK, 10, 0);
    held_wait(&r.t, 2);
    reader_start(&x, &r, BLOCK, 8 * BLOCK, 0);
    await_count(&r, QC_CNT_JOINED, 1);
    held_wait(&r.t, 2 + 2 + 2 + 2);
    n = held_count(&r.t);
    for (unsigned i = 1; i < n; i++) {
        struct held h = held_at(&r.t, i);

        assert_false(h.offset <= 3 * BLOCK && h.offset + h.length > 3 * BLOCK);
        if (i > 1)
            assert_false(h.offset <= 6 * BLOCK && h.offset + h.length > 6 * BLOCK);
        held_end(&r.t, i, 0);
    }
    reader_join(&small, 0);
    reader_join(&x, 0);
    rig_finish(&r);
}

/* ------------------------------------------------------------------- sizes --- */

static void all_sizes(void **unused)
{
    static const uint64_t sizes[] = {0, 1, 511, 4095, 4096, 4097, HEAD - 1, HEAD, HEAD + 1, BLOCK - 1,
                                     BLOCK, BLOCK + 1, 3 * BLOCK + 5, 3 * BLOCK + 4096};
    struct rig r;

    (void)unused;
    rig_init_bare(&r, 64 * BLOCK, 32 * BLOCK);
    r.t.mode = AT_ONCE;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (uint32_t flags = 0; flags <= QC_READ_META; flags += QC_READ_META) {
            uint64_t size = sizes[i];

            r.t.n = 0;
            rig_open(&r, &held_ops, size);
            assert_int_equal(r.s->size, size);
            assert_int_equal(read_now(&r, size, 0, flags), 0);
            assert_int_equal(read_now(&r, size, 1, flags), QCHAIN_E_CORRUPT); /* the seam's check */
            assert_int_equal(held_count(&r.t), 0);
            for (uint64_t n = 1; n <= size; n += 1 + n * 3) {
                assert_int_equal(read_now(&r, size - n, n, flags), 0);
                assert_int_equal(read_now(&r, 0, n, flags), 0);
            }
            assert_int_equal(read_now(&r, 0, size, flags), 0);
            rig_close(&r);
        }
    }
    rig_finish(&r);
}

/* -------------------------------------------------------------------- end --- */

static void changed_poisons(void **unused)
{
    struct reader x;
    struct sub s;
    struct rig r;

    (void)unused;
    rig_init(&r, 10 * BLOCK, 64 * BLOCK, 32 * BLOCK);
    r.t.mode = AT_ONCE;
    assert_int_equal(read_now(&r, BLOCK, 10, 0), 0);
    r.t.mode = HOLD;
    reader_start(&x, &r, 2 * BLOCK, 10, 0);
    held_wait(&r.t, 2);
    held_end(&r.t, 1, QCHAIN_E_CHANGED);
    reader_join(&x, QCHAIN_E_CHANGED);
    assert_int_equal(read_now(&r, BLOCK, 10, 0), QCHAIN_E_CHANGED); /* in memory or not */
    assert_non_null(strstr(r.err.text, "http://host/disk"));
    assert_null(strstr(r.err.text, "hidden"));
    assert_int_equal(read_now(&r, 5 * BLOCK, 10, QC_READ_META), QCHAIN_E_CHANGED);
    sub_start(&s, &r, BLOCK, 10, 0);
    assert_int_equal(atomic_load(&s.times), 1);
    sub_finish(&s, QCHAIN_E_CHANGED);
    assert_int_equal(held_count(&r.t), 2);
    rig_finish(&r);
}

/* A store is closed while something is on its way that nobody waits for. */
static void flights_outlive_the_store(void **unused)
{
    struct qc_block *block = qc_block_new(HEAD);
    struct qc_flight *f;
    struct reader x;
    struct rig r;

    (void)unused;
    rig_init(&r, 10 * BLOCK, 64 * BLOCK, 32 * BLOCK);
    f = qc_flight_begin(r.o, block, HEAD);
    assert_non_null(f);
    reader_start(&x, &r, 100, 900, QC_READ_META);
    await_count(&r, QC_CNT_JOINED, 1);
    make_bytes(block->data, 0, 4096);
    qc_flight_progress(f, 4096);
    reader_join(&x, 0);
    qc_flight_want(r.o, NULL, NULL, BLOCK, 0, BLOCK, 2 * BLOCK, false);
    held_wait(&r.t, 1);
    qc_store_destroy(r.s);
    r.s = NULL;
    assert_false(held_closed(&r.t));
    assert_false(qc_flights_wait(&r.fl, 0));
    held_end(&r.t, 0, 0);
    assert_false(held_closed(&r.t));
    qc_flight_over(f, QCHAIN_E_CANCELLED, &r.err);
    assert_true(held_closed(&r.t));
    assert_true(qc_flights_wait(&r.fl, 10));
    assert_int_equal(qc_block_cache_bytes(r.blocks), 0);
    rig_finish(&r);
}

/* The first bytes, begun by another. */
static void the_head_comes_by_itself(void **unused)
{
    struct qc_block *block = qc_block_new(BLOCK); /* larger than what comes */
    struct qc_flight *f;
    struct reader x;
    struct rig r;

    (void)unused;
    rig_init(&r, 5000, 64 * BLOCK, 32 * BLOCK);
    f = qc_flight_begin(r.o, block, 5000);
    assert_non_null(f);
    make_bytes(block->data, 0, 5000);
    qc_flight_progress(f, 4096);
    assert_int_equal(read_now(&r, 0, 4096, QC_READ_META), 0);
    reader_start(&x, &r, 4000, 1000, 0);
    await_count(&r, QC_CNT_JOINED, 2);
    assert_false(reader_within(&x, 10));
    qc_flight_over(f, 0, NULL);
    reader_join(&x, 0);
    assert_int_equal(read_now(&r, 0, 5000, 0), 0);
    assert_int_equal(held_count(&r.t), 0);
    rig_finish(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_readers_make_one_flight),
        cmocka_unit_test(bulk_readers_make_one_flight),
        cmocka_unit_test(begun_while_looking_elsewhere),
        cmocka_unit_test(the_head_lands_while_looking_elsewhere),
        cmocka_unit_test(served_as_bytes_arrive),
        cmocka_unit_test(a_failure_is_of_those_who_waited),
        cmocka_unit_test(a_piece_fails),
        cmocka_unit_test(what_a_read_brings),
        cmocka_unit_test(metadata_stays_if_told),
        cmocka_unit_test(bulk_goes_straight),
        cmocka_unit_test(bulk_around_what_is_there),
        cmocka_unit_test(all_sizes),
        cmocka_unit_test(changed_poisons),
        cmocka_unit_test(flights_outlive_the_store),
        cmocka_unit_test(the_head_comes_by_itself),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
