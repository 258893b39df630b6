/* SPDX-License-Identifier: MIT */
/* Ranges that are brought without a reader: who joins whom, and how readers are seen. */
#include "object_tools.h"

#include "remote/bring.h"
#include "remote/remote_int.h"

#define SIZE (40 * (uint64_t)BLOCK + 4097)
#define AT (8 * (uint64_t)BLOCK)
#define LENGTH (BLOCK / 2)

static atomic_bool keeps;

static bool held_keeps(struct qc_tier *t)
{
    (void)t;
    return atomic_load(&keeps);
}

/* A rig whose tier says that it keeps things. */
static void begin(struct rig *r)
{
    static struct qc_tier_ops ops;

    ops = held_ops;
    ops.keeps = held_keeps;
    atomic_store(&keeps, true);
    rig_init_bare(r, 64 * (uint64_t)BLOCK, 32 * (uint64_t)BLOCK);
    rig_open(r, &ops, SIZE);
}

struct brought {
    struct qc_bring b;
    atomic_int      times;
    int             ret;
};

static void is_done(struct qc_bring *b, int ret)
{
    struct brought *x = (struct brought *)(void *)b;

    x->ret = ret;
    atomic_fetch_add(&x->times, 1);
}

static void bring(struct brought *x, struct rig *r, uint64_t offset, size_t length)
{
    memset(x, 0, sizeof(*x));
    x->b.buf = malloc(length);
    x->b.offset = offset;
    x->b.length = length;
    x->b.done = is_done;
    qc_bring_begin(r->s, &x->b);
}

static void finish(struct brought *x, int code)
{
    for (int i = 0; i < 20000 && atomic_load(&x->times) == 0; i++)
        sleep_ms(1);
    assert_int_equal(atomic_load(&x->times), 1);
    assert_int_equal(x->ret, code);
    assert_int_equal(x->b.err.code, code);
    if (code == 0)
        assert_true(right_bytes(x->b.buf, x->b.offset, x->b.length));
    free(x->b.buf);
}

/* One fetch, of just that range; a reader who comes is served as soon as his bytes are there. */
static void readers_join_it(void **unused)
{
    struct reader reader;
    struct brought x;
    struct rig r;

    (void)unused;
    begin(&r);
    bring(&x, &r, AT, LENGTH);
    held_wait(&r.t, 1);
    assert_true(held_at(&r.t, 0).offset == AT && held_at(&r.t, 0).length == LENGTH);
    reader_start(&reader, &r, AT + 4096, 4096, 0);
    assert_false(reader_within(&reader, 50));
    held_give(&r.t, 0, 3 * 4096);
    reader_join(&reader, 0);
    assert_int_equal(atomic_load(&x.times), 0);
    held_end(&r.t, 0, 0);
    finish(&x, 0);
    assert_int_equal(held_count(&r.t), 1);
    rig_finish(&r);
}

/* And it joins a reader's. */
static void it_joins_readers(void **unused)
{
    struct reader reader;
    struct brought x;
    struct rig r;

    (void)unused;
    begin(&r);
    reader_start(&reader, &r, AT + 4096, 4096, 0);
    held_wait(&r.t, 1); /* all of the block */
    bring(&x, &r, AT, LENGTH);
    sleep_ms(20);
    assert_int_equal(held_count(&r.t), 1);
    held_give(&r.t, 0, held_at(&r.t, 0).length);
    held_end(&r.t, 0, 0);
    reader_join(&reader, 0);
    finish(&x, 0);
    rig_finish(&r);
}

static void failures_are_told(void **unused)
{
    struct brought x;
    struct rig r;

    (void)unused;
    begin(&r);
    bring(&x, &r, AT, LENGTH);
    held_wait(&r.t, 1);
    held_end(&r.t, 0, QCHAIN_E_NET);
    finish(&x, QCHAIN_E_NET);
    /* What cannot be stored was brought in vain. */
    bring(&x, &r, AT, LENGTH);
    held_wait(&r.t, 2);
    held_give(&r.t, 1, LENGTH);
    atomic_store(&keeps, false);
    held_end(&r.t, 1, 0);
    finish(&x, QCHAIN_E_IO);
    rig_finish(&r);
}

/* Data that readers wait for is seen; what is brought, and tables, are not. */
static void readers_are_seen(void **unused)
{
    static struct qc_remote remote; /* of which no more is looked at than its flights */
    struct reader reader;
    struct brought x;
    struct rig r;

    (void)unused;
    begin(&r);
    bring(&x, &r, AT, LENGTH);
    held_wait(&r.t, 1);
    reader_start(&reader, &r, 2 * AT, 4096, QCHAIN_STORE_META);
    held_wait(&r.t, 2);
    assert_true(atomic_load(&r.fl.n_wanted) == 0 && atomic_load(&r.fl.wanted_ns) == 0);
    held_give(&r.t, 1, held_at(&r.t, 1).length);
    held_end(&r.t, 1, 0);
    reader_join(&reader, 0);
    assert_true(qc_bring_quiet_ns(&remote) == UINT64_MAX);
    reader_start(&reader, &r, 3 * AT, 4096, 0);
    held_wait(&r.t, 3);
    assert_int_equal(atomic_load(&r.fl.n_wanted), 1);
    atomic_store(&remote.flights.n_wanted, 1);
    assert_true(qc_bring_quiet_ns(&remote) == 0);
    held_give(&r.t, 2, held_at(&r.t, 2).length);
    held_end(&r.t, 2, 0);
    reader_join(&reader, 0);
    for (int i = 0; i < 20000 && atomic_load(&r.fl.n_wanted) > 0; i++)
        sleep_ms(1);
    atomic_store(&remote.flights.n_wanted, 0);
    atomic_store(&remote.flights.wanted_ns, atomic_load(&r.fl.wanted_ns));
    assert_true(atomic_load(&r.fl.wanted_ns) > 0);
    sleep_ms(30);
    assert_true(qc_bring_quiet_ns(&remote) >= 30000000 && qc_bring_quiet_ns(&remote) < UINT64_C(30000000000));
    /* One who joins what is brought is a reader, too. */
    atomic_store(&r.fl.wanted_ns, 0);
    reader_start(&reader, &r, AT, 4096, 0);
    for (int i = 0; i < 20000 && atomic_load(&r.fl.wanted_ns) == 0; i++)
        sleep_ms(1);
    assert_true(atomic_load(&r.fl.wanted_ns) > 0);
    assert_false(reader_within(&reader, 20));
    held_give(&r.t, 0, LENGTH);
    held_end(&r.t, 0, 0);
    reader_join(&reader, 0);
    finish(&x, 0);
    rig_finish(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(readers_join_it),
        cmocka_unit_test(it_joins_readers),
        cmocka_unit_test(failures_are_told),
        cmocka_unit_test(readers_are_seen),
    };

    return cmocka_run_group_tests_name("bringing", tests, NULL, NULL);
}
