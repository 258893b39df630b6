/* SPDX-License-Identifier: MIT */
/* Objects: how much is under way, what is read ahead, and reads that are not waited for. */
#include "object_tools.h"

/* -------------------------------------------------------------------- room --- */

static void no_more_than_room(void **unused)
{
    enum { N = 10 };
    struct reader x[N];
    struct rig r;

    (void)unused;
    rig_init(&r, 64 * BLOCK, 8 * BLOCK, 3 * BLOCK);
    for (unsigned i = 0; i < N; i++)
        reader_start(&x[i], &r, i * 2 * BLOCK, 4096, 0);
    held_wait(&r.t, 3);
    for (unsigned i = 0; i < N; i++) {
        sleep_ms(5);
        assert_int_equal(held_count(&r.t), i + 3 < N ? i + 3 : N);
        held_end(&r.t, i, i == 4 ? QCHAIN_E_IO : 0); /* a failure makes room as well */
        held_wait(&r.t, i + 4 < N ? i + 4 : N);
    }
    for (unsigned i = 0; i < N; i++) /* in the order in which they asked, which only threads know */
        pthread_join(x[i].id, NULL);
    for (unsigned i = 0, bad = 0; i < N; i++) {
        bad += x[i].ret != 0;
        assert_true(x[i].ret == 0 ? right_bytes(x[i].buf, x[i].offset, x[i].length)
                                  : x[i].ret == QCHAIN_E_IO);
        assert_true(bad <= 1);
        free(x[i].buf);
    }
    assert_true(r.t.most_bytes <= 3 * BLOCK);
    assert_true(qc_block_cache_bytes(r.blocks) <= 8 * BLOCK);
    rig_finish(&r);
}

/* Where one block is more than there is room for, they come one by one. */
static void one_is_always_let_off(void **unused)
{
    struct sub x[5];
    struct rig r;

    (void)unused;
    rig_init(&r, 64 * BLOCK, BLOCK / 2, 100);
    for (unsigned i = 0; i < 5; i++)
        sub_start(&x[i], &r, i * BLOCK, 10, 0);
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(held_count(&r.t), i + 1);
        held_end(&r.t, i, 0);
        sub_finish(&x[i], 0);
    }
    assert_int_equal(r.t.most_now, 1);
    assert_int_equal(qc_block_cache_bytes(r.blocks), 0); /* there is no room for it */
    rig_finish(&r);
}

static void *end_first(void *arg)
{
    held_end(arg, 0, 0);
    return NULL;
}

/* Flights that end within fetch let the next one off: in a loop, not on top of each other. */
static void ending_at_once_is_not_deep(void **unused)
{
    enum { N = 5000 };
    struct sub *x = calloc(N, sizeof(*x));
    pthread_attr_t attr;
    pthread_t id;
    struct rig r;

    (void)unused;
    rig_init(&r, (uint64_t)N * BLOCK, 4 * BLOCK, BLOCK);
    for (unsigned i = 0; i < N; i++)
        sub_start(&x[i], &r, (uint64_t)i * BLOCK + i, 10, 0);
    assert_int_equal(held_count(&r.t), 1);
    r.t.mode = AT_ONCE;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 256 << 10);
    assert_int_equal(pthread_create(&id, &attr, end_first, &r.t), 0);
    pthread_join(id, NULL);
    pthread_attr_destroy(&attr);
    for (unsigned i = 0; i < N; i++)
        sub_finish(&x[i], 0);
    assert_true(r.t.most_now <= 1);
    rig_finish(&r);
    free(x);
}

/* With a memory so small that what is under way fills it, what landed stays all the same. */
static void what_landed_stays(void **unused)
{
    struct sub a, b;
    struct rig r;

    (void)unused;
    rig_init(&r, 64 * BLOCK, 2 * BLOCK, 2 * BLOCK);
    sub_start(&a, &r, BLOCK, 10, 0);
    sub_start(&b, &r, 4 * BLOCK, 10, 0);
    assert_int_equal(held_count(&r.t), 2);
    held_end(&r.t, 0, 0);
    sub_finish(&a, 0);
    assert_int_equal(read_now(&r, BLOCK + 10, 10, 0), 0);
    assert_int_equal(held_count(&r.t), 2);
    held_end(&r.t, 1, 0);
    sub_finish(&b, 0);
    assert_int_equal(read_now(&r, BLOCK + 10, 10, 0), 0);
    assert_int_equal(read_now(&r, 4 * BLOCK + 10, 10, 0), 0);
    assert_int_equal(held_count(&r.t), 2);
    assert_int_equal(qc_block_cache_bytes(r.blocks), 2 * BLOCK);
    rig_finish(&r);
}

/* ------------------------------------------------------------------- ahead --- */

static void sequential_readers_are_read_ahead(void **unused)
{
    uint64_t size = 20 * BLOCK + 777, at;
    unsigned n;
    struct rig r;
    uint8_t seen[21] = {0};

    (void)unused;
    rig_init(&r, size, 64 * BLOCK, 32 * BLOCK);
    r.t.mode = AT_ONCE;
    for (at = 0; at < 2 * BLOCK - 4096; at += 4096)
        assert_int_equal(read_now(&r, at, 4096, 0), 0);
    assert_int_equal(held_count(&r.t), 2); /* two blocks are a coincidence */
    assert_int_equal(read_now(&r, at, 4096, 0), 0);
    at += 4096;
    assert_int_equal(held_count(&r.t), 2 + 4);
    for (unsigned i = 2; i < 6; i++)
        assert_int_equal(held_at(&r.t, i).offset, i * BLOCK);
    for (; at < size; at += qc_min64(4096, size - at)) {
        n = held_count(&r.t);
        assert_int_equal(read_now(&r, at, qc_min64(4096, size - at), 0), 0);
        for (; n < held_count(&r.t); n++)
            assert_true(held_at(&r.t, n).offset > at); /* the reader himself finds all in memory */
    }
    assert_int_equal(held_count(&r.t), 21);
    for (unsigned i = 0; i < 21; i++) {
        struct held h = held_at(&r.t, i);

        assert_int_equal(h.offset % BLOCK, 0);
        assert_int_equal(seen[h.offset / BLOCK]++, 0);
        assert_int_equal(h.length, qc_min64(BLOCK, size - h.offset));
    }
    rig_finish(&r);
}

static void others_are_not(void **unused)
{
    uint64_t seed = mem_seed(3), size = 200 * BLOCK;
    struct rig r;

    (void)unused;
    rig_init(&r, size, 300 * BLOCK, 32 * BLOCK);
    r.t.mode = AT_ONCE;
    /* Here and there; backwards; in steps; metadata in sequence; long pieces in sequence. */
    for (unsigned i = 0; i < 400; i++) {
        unsigned n = held_count(&r.t);

        seed = seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
        assert_int_equal(read_now(&r, (seed >> 33) % (size / 4096) * 4096, 4096, 0), 0);
        assert_true(held_count(&r.t) <= n + 1);
    }
    rig_close(&r);
    r.t.n = 0;
    rig_open(&r, &held_ops, size);
    for (unsigned i = 0; i < 20 * 16; i++)
        assert_int_equal(read_now(&r, 30 * BLOCK - i * 4096, 4096, 0), 0);
    assert_in_range(held_count(&r.t), 20, 21);
    for (unsigned i = 0; i < 20 * 16; i++)
        assert_int_equal(read_now(&r, 40 * BLOCK + i * 4096, 2048, 0), 0);
    assert_in_range(held_count(&r.t), 40, 41);
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(read_now(&r, 80 * BLOCK + i * BLOCK, BLOCK, 0), 0);
    assert_in_range(held_count(&r.t), 60, 61);
    for (unsigned i = 0; i < 3 * 16; i++)
        assert_int_equal(read_now(&r, 120 * BLOCK + i * 4096, 4096, QC_READ_META), 0);
    assert_in_range(held_count(&r.t), 60 + 48, 61 + 48);
    rig_finish(&r);
}

/* What is read ahead fails quietly, and is asked for again by who needs it. */
static void ahead_fails_quietly(void **unused)
{
    struct reader x;
    struct rig r;
    unsigned n;

    (void)unused;
    rig_init(&r, 20 * BLOCK, 64 * BLOCK, 32 * BLOCK);
    r.t.mode = AT_ONCE;
    for (unsigned i = 0; i < 31; i++)
        assert_int_equal(read_now(&r, i * 4096, 4096, 0), 0);
    r.t.mode = HOLD;
    assert_int_equal(read_now(&r, 31 * 4096, 4096, 0), 0); /* not held up by what it began */
    n = held_count(&r.t);
    assert_int_equal(n, 6);
    reader_start(&x, &r, 3 * BLOCK, 10, 0); /* one that waits for it is told */
    await_count(&r, QC_CNT_JOINED, 1);
    for (unsigned i = 2; i < 6; i++)
        held_end(&r.t, i, QCHAIN_E_IO);
    reader_join(&x, QCHAIN_E_IO);
    r.t.mode = AT_ONCE;
    for (unsigned i = 2; i < 6; i++)
        assert_int_equal(read_now(&r, i * BLOCK, 100, 0), 0);
    assert_int_equal(held_count(&r.t), n + 4);
    rig_finish(&r);
}

/* ------------------------------------------------------------------ submit --- */

static void submitted_reads(void **unused)
{
    struct sub a, b, c, m;
    struct rig r;

    (void)unused;
    rig_init(&r, 20 * BLOCK + 5, 64 * BLOCK, 32 * BLOCK);
    sub_start(&a, &r, BLOCK, 100, 0);
    sub_start(&b, &r, BLOCK + 60000, 3 * BLOCK, 0); /* several flights, one shared */
    sub_start(&m, &r, 9 * BLOCK, 8, QCHAIN_STORE_META);
    held_wait(&r.t, 1 + 3 + 1);
    assert_int_equal(held_at(&r.t, 4).flags, QC_FETCH_META);
    assert_int_equal(held_at(&r.t, 4).length, 4096);
    held_give(&r.t, 0, 200);
    sub_finish(&a, 0); /* on this thread, and at once */
    assert_false(sub_within(&b, 10));
    for (unsigned i = 3; i > 0; i--)
        held_end(&r.t, i, 0);
    assert_false(sub_within(&b, 10));
    held_end(&r.t, 0, 0);
    assert_true(atomic_load(&b.times) == 1);
    sub_finish(&b, 0);
    held_end(&r.t, 4, QCHAIN_E_NOTFOUND);
    sub_finish(&m, QCHAIN_E_NOTFOUND);
    assert_string_equal(m.err.text, "the tier says no");
    /* From memory: within the call. */
    sub_start(&c, &r, BLOCK + 5, 500, 0);
    assert_int_equal(atomic_load(&c.times), 1);
    sub_finish(&c, 0);
    r.t.mode = AT_ONCE;
    r.t.fails = QCHAIN_E_TIMEOUT;
    sub_start(&c, &r, 10 * BLOCK + 1, 10 * BLOCK, 0); /* many fail, one is told, once */
    sub_finish(&c, QCHAIN_E_TIMEOUT);
    r.t.fails = 0;
    sub_start(&c, &r, 15 * BLOCK + 5, 5 * BLOCK, 0);
    sub_finish(&c, 0);
    rig_finish(&r);
}

static void local_disks_are_a_leafs(void **unused)
{
    struct reader x;
    struct sub a, b;
    struct rig r;

    (void)unused;
    rig_init_bare(&r, 64 * BLOCK, 32 * BLOCK);
    r.t.local_end = 3 * BLOCK;
    rig_open(&r, &held_local_ops, 20 * BLOCK);
    sub_start(&a, &r, BLOCK, 5000, 0);
    sub_finish(&a, 0);
    assert_int_equal(atomic_load(&r.t.locals), 1);
    assert_false(pthread_equal(r.t.local_thread, pthread_self()));
    assert_int_equal(held_count(&r.t), 0);
    /* Partly there. */
    sub_start(&b, &r, 2 * BLOCK + 100, 2 * BLOCK, 0);
    held_wait(&r.t, 2);
    assert_int_equal(held_at(&r.t, 0).offset, 3 * BLOCK);
    held_end(&r.t, 0, 0);
    held_end(&r.t, 1, 0);
    sub_finish(&b, 0);
    /* Who waits looks by himself. */
    assert_int_equal(read_now(&r, 2 * BLOCK, 10, QC_READ_META), 0);
    assert_true(pthread_equal(r.t.local_thread, pthread_self()));
    reader_start(&x, &r, 2 * BLOCK, 3 * BLOCK, 0);
    reader_join(&x, 0);
    assert_int_equal(held_count(&r.t), 2);
    rig_finish(&r);
}

/* What is brought anew is asked for when the tiers have done with what came before, or they would store
 * the wrong bytes last. What came before may be two blocks, and may fail. */
static void anew_comes_last(void **unused)
{
    struct sub first, second, far;
    struct reader anew, again;
    struct rig r;

    (void)unused;
    rig_init(&r, 20 * BLOCK, 64 * BLOCK, 32 * BLOCK);
    sub_start(&first, &r, 2 * BLOCK - 100, 100, 0);
    sub_start(&second, &r, 2 * BLOCK, 100, 0);
    sub_start(&far, &r, 7 * BLOCK, 100, 0);
    assert_int_equal(held_count(&r.t), 3);
    held_give(&r.t, 0, BLOCK); /* readers have it, tiers still store it */
    sub_finish(&first, 0);
    reader_start(&anew, &r, 2 * BLOCK - 100, 200, QC_READ_FRESH);
    sleep_ms(20);
    assert_int_equal(held_count(&r.t), 3);
    held_end(&r.t, 0, 0);
    sleep_ms(20);
    assert_int_equal(held_count(&r.t), 3);
    held_end(&r.t, 1, QCHAIN_E_IO);
    sub_finish(&second, QCHAIN_E_IO);
    held_wait(&r.t, 4);
    assert_true(held_at(&r.t, 3).flags & QC_FETCH_FRESH);
    held_give(&r.t, 3, held_at(&r.t, 3).length);
    reader_join(&anew, 0);
    reader_start(&again, &r, 2 * BLOCK - 100, 100, QC_READ_FRESH);
    sleep_ms(20);
    assert_int_equal(held_count(&r.t), 4);
    held_end(&r.t, 3, 0);
    held_wait(&r.t, 5);
    held_end(&r.t, 4, 0);
    reader_join(&again, 0);
    held_end(&r.t, 2, 0);
    sub_finish(&far, 0);
    rig_finish(&r);
}

/* The environment ends while things are under way: who waits for that is told. */
static void waiting_for_the_last(void **unused)
{
    struct sub x;
    struct rig r;

    (void)unused;
    rig_init(&r, 20 * BLOCK, 64 * BLOCK, BLOCK);
    assert_true(qc_flights_wait(&r.fl, 0));
    sub_start(&x, &r, 0, 5 * BLOCK - 7, 0); /* room for one at a time */
    assert_false(qc_flights_wait(&r.fl, 0));
    for (unsigned i = 0; i < 5; i++) {
        assert_int_equal(held_count(&r.t), i + 1);
        assert_false(qc_flights_wait(&r.fl, 0));
        held_end(&r.t, i, i < 2 ? 0 : QCHAIN_E_CANCELLED);
    }
    sub_finish(&x, QCHAIN_E_CANCELLED);
    assert_true(qc_flights_wait(&r.fl, 0));
    rig_finish(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_more_than_room),
        cmocka_unit_test(one_is_always_let_off),
        cmocka_unit_test(ending_at_once_is_not_deep),
        cmocka_unit_test(what_landed_stays),
        cmocka_unit_test(sequential_readers_are_read_ahead),
        cmocka_unit_test(others_are_not),
        cmocka_unit_test(ahead_fails_quietly),
        cmocka_unit_test(submitted_reads),
        cmocka_unit_test(local_disks_are_a_leafs),
        cmocka_unit_test(anew_comes_last),
        cmocka_unit_test(waiting_for_the_last),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
