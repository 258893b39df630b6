/* SPDX-License-Identifier: MIT */
/* The index: windows filled once, dropped under a budget, right all the same. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "chain/chain.h"
#include "image_tools.h"
#include "mem_layers.h"

#define WINDOW (UINT64_C(128) << 20)
#define N_WINDOWS 48
#define SIZE (N_WINDOWS * WINDOW)
#define CLUSTERS_A_WINDOW ((uint32_t)(WINDOW >> 16))

/* Three layers with some hundred clusters in every window. */
static struct mem_chain *many_windows(unsigned in_a_window, uint64_t *seed)
{
    struct mem_chain *m = mem_chain_create(3);

    for (uint32_t k = 0; k < 3; k++)
        mem_layer_init(m, k, SIZE, 16);
    for (uint64_t w = 0; w < N_WINDOWS; w++)
        for (unsigned i = 0; i < in_a_window; i++)
            mem_layer_set(m, (uint32_t)(random_next(seed) % 3),
                          w * CLUSTERS_A_WINDOW + random_next(seed) % CLUSTERS_A_WINDOW,
                          random_next(seed) % 64 ? MEM_ZERO : MEM_DATA);
    return m;
}

static qchain_env *new_env(uint64_t index_bytes, uint32_t threads)
{
    qchain_env_opts o;
    qchain_env *env = NULL;

    qchain_env_opts_init(&o, sizeof(o));
    o.index_bytes = index_bytes;
    o.threads = threads;
    assert_int_equal(qchain_env_create(&env, &o, NULL), 0);
    return env;
}

static qchain_stats stats_of(qchain_env *env)
{
    qchain_stats s = {.struct_size = sizeof(s)};

    assert_int_equal(qchain_env_stats(env, &s), 0);
    return s;
}

struct user {
    const struct mem_chain *m;
    qchain                 *c;
    uint64_t                seed;
    int                     reads, maps, bad;
};

static int check_read(struct user *u, uint64_t offset, size_t length)
{
    unsigned char got[8192], want[8192];

    if (qchain_read(u->c, got, length, offset, 0, NULL) != 0)
        return 1;
    mem_chain_read(u->m, want, length, offset);
    return memcmp(got, want, length) != 0;
}

/* Sums of what the map tells are those of the model. */
static int check_map(struct user *u, uint64_t offset, uint64_t length)
{
    qchain_extent e[50];
    enum mem_state state;
    uint64_t next = offset;
    uint32_t n, layer;

    while (next < offset + length) {
        if (qchain_map(u->c, next, offset + length - next, e, 50, &n, &next, 0, NULL) != 0)
            return 1;
        for (uint32_t i = 0; i < n; i++) {
            layer = mem_chain_look(u->m, e[i].offset, &state);
            if ((e[i].flags & QCHAIN_EXTENT_PRESENT) != (layer < 3 ? QCHAIN_EXTENT_PRESENT : 0) ||
                !(e[i].flags & QCHAIN_EXTENT_ZERO) != (state == MEM_DATA))
                return 1;
            if (mem_chain_look(u->m, e[i].offset + e[i].length - 1, &state) != layer)
                return 1;
        }
    }
    return next != offset + length;
}

static void *use(void *arg)
{
    struct user *u = arg;

    for (int i = 0; i < u->reads; i++)
        u->bad |= check_read(u, random_next(&u->seed) % (SIZE - 8192), 1 + random_next(&u->seed) % 8192);
    for (int i = 0; i < u->maps; i++)
        u->bad |= check_map(u, random_next(&u->seed) % (SIZE / 2) / 512 * 512, SIZE / 2);
    return NULL;
}

static void run_users(struct mem_chain *m, qchain *c, int n, int reads, int maps, uint64_t seed)
{
    struct user u[8];
    pthread_t thread[8];

    for (int i = 0; i < n; i++) {
        u[i] = (struct user){m, c, seed + (unsigned)i, reads, maps, 0};
        assert_int_equal(pthread_create(&thread[i], NULL, use, &u[i]), 0);
    }
    for (int i = 0; i < n; i++) {
        pthread_join(thread[i], NULL);
        assert_int_equal(u[i].bad, 0);
    }
}

static void windows_are_filled_once(void **unused)
{
    uint64_t seed = mem_seed(30);
    struct mem_chain *m = many_windows(100, &seed);
    qchain_env *env = new_env(0, 4);
    qchain *c = NULL;

    (void)unused;
    for (uint32_t k = 0; k < 3; k++)
        m->layer[k].delay_us = 200; /* so that they meet */
    assert_int_equal(mem_chain_open(m, &c, env, NULL, NULL), 0);
    run_users(m, c, 8, 60, 0, seed);
    assert_int_equal(stats_of(env).index_fills, N_WINDOWS);
    assert_int_equal(stats_of(env).index_evictions, 0);
    qchain_close(c);
    assert_int_equal(stats_of(env).index_bytes, 0);
    qchain_env_destroy(env);
    mem_chain_destroy(m);
}

/* Threads that map the same unknown disk read its tables about once. */
static void spans_are_filled_once(void **unused)
{
    uint64_t seed = mem_seed(31), alone, together;
    struct mem_chain *m = many_windows(100, &seed);
    qchain_env *env = new_env(0, 2);
    qchain_extent e;
    uint64_t next;
    uint32_t n;
    qchain *c = NULL;

    (void)unused;
    for (uint32_t k = 0; k < 3; k++)
        m->layer[k].delay_us = 500;
    assert_int_equal(mem_chain_open(m, &c, env, NULL, NULL), 0);
    alone = stats_of(env).meta_reads;
    for (next = 0; next < SIZE;)
        assert_int_equal(qchain_map(c, next, SIZE, &e, 1, &n, &next, 0, NULL), 0);
    alone = stats_of(env).meta_reads - alone;
    assert_int_equal(stats_of(env).index_fills, N_WINDOWS);
    qchain_close(c);
    assert_int_equal(mem_chain_open(m, &c, env, NULL, NULL), 0);
    together = stats_of(env).meta_reads;
    run_users(m, c, 8, 0, 2, seed);
    together = stats_of(env).meta_reads - together;
    assert_true(together <= 2 * alone);
    qchain_close(c);
    qchain_env_destroy(env);
    mem_chain_destroy(m);
}

static void right_under_a_small_budget(void **unused)
{
    uint64_t seed = mem_seed(32);
    struct mem_chain *m = many_windows(1800, &seed); /* far more than 1 MiB of runs */
    qchain_env *env = new_env(1 << 20, 3);
    qchain *c = NULL;

    (void)unused;
    assert_int_equal(mem_chain_open(m, &c, env, NULL, NULL), 0);
    run_users(m, c, 8, 300, 1, seed);
    assert_true(stats_of(env).index_evictions > N_WINDOWS);
    assert_true(stats_of(env).index_bytes <= 1 << 20);
    /* A map of all, in order, must not fill windows over and over. */
    seed = stats_of(env).index_fills;
    assert_int_equal(check_map(&(struct user){.m = m, .c = c}, 0, SIZE), 0);
    assert_true(stats_of(env).index_fills - seed <= 8 * N_WINDOWS);
    qchain_close(c);
    qchain_env_destroy(env);
    mem_chain_destroy(m);
}

static void chains_share_a_budget(void **unused)
{
    uint64_t seed = mem_seed(33);
    struct mem_chain *m[3];
    qchain_env *env = new_env(1 << 20, 2);
    qchain *c[3];

    (void)unused;
    for (int i = 0; i < 3; i++) {
        m[i] = many_windows(600, &seed);
        assert_int_equal(mem_chain_open(m[i], &c[i], env, NULL, NULL), 0);
    }
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 3; i++)
            run_users(m[i], c[i], 2, 40, 0, seed + (unsigned)round);
        assert_true(stats_of(env).index_bytes <= 1 << 20);
    }
    qchain_close(c[1]); /* takes its own windows along, no others */
    run_users(m[0], c[0], 2, 40, 0, seed);
    qchain_close(c[0]);
    run_users(m[2], c[2], 2, 40, 0, seed);
    qchain_close(c[2]);
    assert_int_equal(stats_of(env).index_bytes, 0);
    qchain_env_destroy(env);
    for (int i = 0; i < 3; i++)
        mem_chain_destroy(m[i]);
}

static void windows_are_filled_ahead(void **unused)
{
    uint64_t seed = mem_seed(34);
    struct mem_chain *m = many_windows(50, &seed);
    qchain_env *env = new_env(0, 2);
    qchain *c = NULL;

    (void)unused;
    assert_int_equal(mem_chain_open(m, &c, env, NULL, NULL), 0);
    assert_false(qc_index_known(c, 0));
    for (uint64_t at = 0; at < SIZE; at += WINDOW) {
        if (!qc_index_known(c, at))
            qc_index_fill_ahead(c, at, SIZE);
        assert_true(qc_index_known(c, at));
    }
    assert_int_equal(stats_of(env).index_fills, N_WINDOWS);
    qchain_close(c);
    qchain_env_destroy(env);
    mem_chain_destroy(m);
}

/* A failed fill leaves the window unknown: the next reader tries again. */
static void failures_are_not_remembered(void **unused)
{
    uint64_t seed = mem_seed(35);
    struct mem_chain *m = many_windows(50, &seed);
    qchain_env *env = new_env(0, 2);
    struct user u = {.m = m};
    unsigned char buf[512];
    qchain_extent e;
    uint64_t next;
    uint32_t n;

    (void)unused;
    assert_int_equal(mem_chain_open(m, &u.c, env, NULL, NULL), 0);
    m->layer[1].fail_from = 0;
    m->layer[1].fail_to = 1 << 30;
    assert_int_equal(qchain_read(u.c, buf, 512, 0, 0, NULL), QCHAIN_E_IO);
    assert_int_equal(qchain_map(u.c, 0, SIZE, &e, 1, &n, &next, 0, NULL), QCHAIN_E_IO);
    assert_false(qc_index_known(u.c, 0));
    m->layer[1].fail_to = 0;
    assert_int_equal(check_read(&u, 12345, 8000), 0);
    assert_int_equal(check_map(&u, 0, SIZE), 0);
    qchain_close(u.c);
    qchain_env_destroy(env);
    mem_chain_destroy(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(windows_are_filled_once),
        cmocka_unit_test(spans_are_filled_once),
        cmocka_unit_test(right_under_a_small_budget),
        cmocka_unit_test(chains_share_a_budget),
        cmocka_unit_test(windows_are_filled_ahead),
        cmocka_unit_test(failures_are_not_remembered),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
