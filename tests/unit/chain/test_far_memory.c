/* SPDX-License-Identifier: MIT */
/* Far chains without memory: each allocation of a call fails once; the call says so, or does without, and
 * the next one is fine. */
#include "failing_memory.h"
#include "far_tools.h"

#define SIZE (MIB / 2)

/* Small clusters, so that there are many tables, with much between some. */
static struct mem_chain *make_chain(void)
{
    struct mem_chain *m = mem_chain_create(3);
    uint64_t seed = 5;

    for (uint32_t k = 3; k-- > 0;) {
        mem_layer_init(m, k, SIZE, 9);
        mem_layer_randomize(m, k, 30, &seed);
    }
    return m;
}

static int map_it(const struct mem_chain *m, qchain *c)
{
    static qchain_extent e[4096];
    uint64_t next;
    uint32_t n;

    (void)m;
    return qchain_map(c, 0, SIZE, e, 4096, &n, &next, 0, err);
}

static int read_it(const struct mem_chain *m, qchain *c)
{
    unsigned char *buf = malloc(SIZE);
    int ret = qchain_read(c, buf, SIZE, 0, 0, err);

    assert_true(ret != 0 || equals_model(m, buf, SIZE, 0));
    free(buf);
    return ret;
}

static int scatter_it(const struct mem_chain *m, qchain *c)
{
    unsigned char *buf = malloc(SIZE);
    qchain_iov iov[100];
    int ret;

    for (size_t i = 0; i < 100; i++)
        iov[i] = (qchain_iov){buf + i * 1000, 1000};
    ret = qchain_readv(c, iov, 100, 777, 0, err);
    assert_true(ret != 0 || equals_model(m, buf, 100000, 777));
    free(buf);
    return ret;
}

static int queue_it(const struct mem_chain *m, qchain *c)
{
    unsigned char *buf = malloc(SIZE);
    qchain_completion done[8];
    qchain_queue *q;
    unsigned accepted = 0;
    int ret = 0, one;

    one = qchain_queue_create(&q, c, NULL, err);
    if (one != 0) {
        free(buf);
        return one;
    }
    for (unsigned i = 0; i < 8; i++) {
        one = qchain_queue_read(q, buf + i * 60000, i % 2 ? 60000 : 300, i * 60000, 0, buf + i * 60000,
                                err);
        accepted += one == 0;
        ret = one ? one : ret;
    }
    for (int got; accepted > 0; accepted -= (unsigned)got) {
        got = qchain_queue_reap(q, done, 1, 8, 20000);
        assert_true(got > 0);
        for (int i = 0; i < got; i++) {
            uint64_t at = (uint64_t)((unsigned char *)done[i].user - buf);

            assert_true(done[i].result ? done[i].error && done[i].error[0]
                                       : equals_model(m, done[i].user, at / 60000 % 2 ? 60000 : 300, at));
            ret = done[i].result ? done[i].result : ret;
        }
    }
    qchain_queue_destroy(q);
    free(buf);
    return ret;
}

static void each_allocation_fails(int (*fn)(const struct mem_chain *m, qchain *c), bool known)
{
    struct mem_chain *m = make_chain();
    struct far *f = far_create(m, 3);
    qchain_env *env = make_env(0, 0, 0); /* one, or most time goes into making threads */
    unsigned rounds = 0, bad = 0;

    for (bool all = false; !all; rounds++) {
        qchain *c = far_open(f, env);
        unsigned before;
        int ret;

        if (known)
            assert_int_equal(map_it(m, c), 0);
        f->at_once = rounds % 2;
        before = atomic_load(&failed);
        atomic_store(&fail_in, (int)rounds);
        ret = fn(m, c);
        all = atomic_load(&fail_in) >= 0; /* none was left to fail */
        atomic_store(&fail_in, -1);
        assert_true(ret == 0 || (ret == QCHAIN_E_NOMEM && atomic_load(&failed) > before));
        bad += ret != 0;
        assert_int_equal(fn(m, c), 0);
        qchain_close(c);
        assert_true(rounds < 3000);
    }
    print_message("%u allocations, %u of them needed\n", rounds, bad);
    assert_true(bad > 0 && rounds > 3);
    qchain_env_destroy(env);
    far_destroy(f);
    mem_chain_destroy(m);
}

static void calls_without_memory(void **unused)
{
    static int (*const fn[])(const struct mem_chain *m, qchain *c) = {map_it, read_it, scatter_it, queue_it};

    (void)unused;
    for (size_t i = 0; i < sizeof(fn) / sizeof(fn[0]); i++)
        each_allocation_fails(fn[i], false);
    for (size_t i = 1; i < sizeof(fn) / sizeof(fn[0]); i++)
        each_allocation_fails(fn[i], true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {ON(calls_without_memory)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
