/* SPDX-License-Identifier: MIT */
/* Objects without memory: each allocation fails once; who asked is told, nothing hangs or leaks. */
#include "failing_memory.h"
#include "object_tools.h"

/* Run with each allocation failing in turn, until none is left that could. */
static void each_fails(struct rig *r, int (*fn)(struct rig *r))
{
    unsigned rounds = 0;
    int ret;

    for (bool all = false; !all; rounds++) {
        unsigned before = atomic_load(&failed);

        atomic_store(&fail_in, (int)rounds);
        ret = fn(r);
        all = atomic_load(&failed) == before;
        atomic_store(&fail_in, -1);
        assert_true(ret == 0 || (ret == QCHAIN_E_NOMEM && !all));
        assert_int_equal(fn(r), 0); /* tried again it goes well */
        rig_close(r);
        r->t.n = 0;
        rig_open(r, r->t.base.ops, r->t.size);
        assert_true(rounds < 1000);
    }
    assert_true(rounds > 1);
}

static int small_data(struct rig *r)
{
    return read_now(r, 2 * BLOCK + 5, 100, 0);
}

static int metadata(struct rig *r)
{
    int ret = read_now(r, 5 * BLOCK + 5, 100, QC_READ_META);

    return ret ? ret : read_now(r, 5, 100, QC_READ_META);
}

static int many_blocks(struct rig *r)
{
    return read_now(r, 2 * BLOCK + 5, 10 * BLOCK, 0);
}

static int bulk(struct rig *r)
{
    return read_now(r, 2 * BLOCK, 10 * BLOCK, 0);
}

static int submitted(struct rig *r)
{
    struct sub x;
    int ret;

    sub_start(&x, r, 2 * BLOCK + 5, 3 * BLOCK, 0);
    assert_true(sub_within(&x, 20000));
    ret = x.ret;
    sub_finish(&x, ret);
    return ret;
}

/* What is read ahead is nobody's: no memory for it is no failure. */
static int sequential(struct rig *r)
{
    int ret = 0;

    for (unsigned i = 0; ret == 0 && i < 3 * BLOCK / 8192; i++)
        ret = read_now(r, i * 8192, 8192, 0);
    return ret;
}

static void reads_without_memory(void **unused)
{
    static int (*const fn[])(struct rig *r) = {small_data, metadata, many_blocks, bulk, submitted,
                                               sequential};
    struct rig r;

    (void)unused;
    for (int local = 0; local < 2; local++) {
        rig_init_bare(&r, 64 * BLOCK, 2 * BLOCK);
        r.t.mode = AT_ONCE;
        r.t.local_end = BLOCK;
        rig_open(&r, local ? &held_local_ops : &held_ops, 20 * BLOCK + 5);
        for (size_t i = 0; i < sizeof(fn) / sizeof(fn[0]); i++)
            each_fails(&r, fn[i]);
        rig_finish(&r);
    }
}

/* Reading ahead ends with the object: nothing of an odd length is asked for, quietly, in vain. */
static void ahead_ends_with_the_object(void **unused)
{
    struct rig r;

    (void)unused;
    rig_init_bare(&r, 64 * BLOCK, 2 * BLOCK);
    r.t.mode = AT_ONCE;
    rig_open(&r, &held_ops, 5 * BLOCK + 5);
    atomic_store(&largest, 0);
    for (uint64_t at = 0; at < r.t.size; at += 4096)
        assert_int_equal(read_now(&r, at, qc_min64(4096, r.t.size - at), 0), 0);
    assert_in_range(atomic_load(&largest), BLOCK, BLOCK + 1000);
    assert_int_equal(held_count(&r.t), 6);
    rig_finish(&r);
}

static void no_memory_for_an_object(void **unused)
{
    struct qc_pin pin = {.size = 5};
    struct qc_object *o = NULL;
    struct qc_store *s = NULL;
    struct rig r;
    int ret;

    (void)unused;
    rig_init_bare(&r, 64 * BLOCK, 2 * BLOCK);
    r.t.base.ops = &held_ops;
    r.t.size = 5;
    for (int i = 0;; i++) {
        r.t.closed = false;
        atomic_store(&fail_in, i);
        ret = qc_object_create(&o, &r.fl, r.place, &pin, &r.t.base, 7, 5, &r.err);
        if (ret == 0)
            ret = qc_object_store(o, r.slots, &s, &r.err);
        if (ret == 0)
            break;
        assert_int_equal(ret, QCHAIN_E_NOMEM);
        assert_true(held_closed(&r.t)); /* whoever failed */
    }
    atomic_store(&fail_in, -1);
    qc_store_destroy(s);
    assert_true(held_closed(&r.t));
    rig_finish(&r);
}

/* Some always fail, with many threads: all end. */
struct worker {
    pthread_t   id;
    struct rig *r;
    uint64_t    seed;
    unsigned    good, bad;
};

static void *work(void *arg)
{
    struct worker *w = arg;
    char *buf = malloc(6 * BLOCK);
    qchain_error err;

    for (int i = 0; i < 1500; i++) {
        uint64_t x = w->seed = w->seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
        size_t length = 1 + (x >> 40) % (x & 1 << 20 ? 5 * BLOCK : 5000);
        uint64_t offset = (x >> 24) % (w->r->t.size - length);
        int ret;

        qc_error_init(&err);
        ret = qc_store_read(w->r->s, buf, length, offset, x >> 21 & 1 ? QC_READ_META : 0, &err);
        if (ret == 0 ? !right_bytes(buf, offset, length) : ret != QCHAIN_E_NOMEM || !err.text[0])
            abort();
        *(ret ? &w->bad : &w->good) += 1;
    }
    free(buf);
    return NULL;
}

static void some_always_fail(void **unused)
{
    struct worker w[4];
    struct rig r;

    (void)unused;
    rig_init_bare(&r, 8 * BLOCK, 4 * BLOCK);
    r.t.mode = AT_ONCE;
    rig_open(&r, &held_ops, 40 * BLOCK + 5);
    atomic_store(&fail_every, 7);
    for (unsigned i = 0; i < 4; i++) {
        w[i] = (struct worker){.r = &r, .seed = i};
        assert_int_equal(pthread_create(&w[i].id, NULL, work, &w[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        pthread_join(w[i].id, NULL);
        assert_true(w[i].good > 100 && w[i].bad > 100);
    }
    atomic_store(&fail_every, 0);
    rig_finish(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_without_memory),
        cmocka_unit_test(ahead_ends_with_the_object),
        cmocka_unit_test(no_memory_for_an_object),
        cmocka_unit_test(some_always_fail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
