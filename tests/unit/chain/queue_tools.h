/* SPDX-License-Identifier: MIT */
/* What the tests of queues share. They run twice, with io_uring (if there is one) and
 * with threads alone. */
#ifndef QUEUE_TOOLS_H
#define QUEUE_TOOLS_H

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "chain/chain.h"
#include "image_tools.h"
#include "mem_layers.h"

#define KIB UINT64_C(1024)
#define MIB (KIB * KIB)

static char dir[64];
static uint32_t engine; /* QCHAIN_QUEUE_NO_URING, or 0 */
static qchain_error *err;

static inline int setup(void **state)
{
    (void)state;
    strcpy(dir, "/var/tmp/qc-queue-XXXXXX"); /* a file system with O_DIRECT */
    err = qchain_error_create();
    return mkdtemp(dir) ? 0 : -1;
}

static inline int teardown(void **state)
{
    char cmd[128];

    (void)state;
    qchain_error_destroy(err);
    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
    return system(cmd);
}

static inline const char *layer_path(uint32_t k)
{
    static char path[96];

    snprintf(path, sizeof(path), "%s/layer%u", dir, k);
    return path;
}

/* The chain as files. */
static inline void write_files(const struct mem_chain *m)
{
    for (uint32_t k = 0; k < m->n; k++) {
        FILE *f = fopen(layer_path(k), "wb");

        assert_non_null(f);
        assert_int_equal(fwrite(m->layer[k].file, 1, m->layer[k].file_size, f),
                         m->layer[k].file_size);
        fclose(f);
    }
}

static inline qchain_env *make_env(uint32_t threads, uint32_t walkers, uint64_t index_bytes)
{
    qchain_env_opts o;
    qchain_env *env;

    qchain_env_opts_init(&o, sizeof(o));
    o.threads = threads;
    o.walkers = walkers;
    o.index_bytes = index_bytes;
    assert_int_equal(qchain_env_create(&env, &o, NULL), 0);
    return env;
}

static inline qchain *open_files(const struct mem_chain *m, uint32_t flags)
{
    qchain_open_opts o;
    qchain *c = NULL;

    write_files(m);
    qchain_open_opts_init(&o, sizeof(o));
    o.flags = flags;
    if (qchain_open(&c, NULL, layer_path(0), &o, err) != 0)
        fail_msg("%s", qchain_error_message(err));
    return c;
}

static inline qchain *open_stores(struct mem_chain *m, qchain_env *env)
{
    qchain *c = NULL;

    if (mem_chain_open(m, &c, env, NULL, err) != 0)
        fail_msg("%s", qchain_error_message(err));
    return c;
}

static inline qchain_queue *make_queue(qchain *c, uint32_t depth)
{
    qchain_queue_opts o;
    qchain_queue *q;

    qchain_queue_opts_init(&o, sizeof(o));
    o.flags = engine;
    o.depth = depth;
    assert_int_equal(qchain_queue_create(&q, c, &o, err), 0);
    return q;
}

static inline bool has_ring(const qchain_queue *q)
{
    return strcmp(qchain_queue_engine(q), "io_uring") == 0;
}

static inline qchain_stats stats_of(qchain *c)
{
    qchain_stats s = {.struct_size = sizeof(s)};

    assert_int_equal(qchain_env_stats(qchain_get_env(c), &s), 0);
    return s;
}

/* A disk of one layer whose first clusters of 64 KiB are data, one run of the index. */
static inline struct mem_chain *plain_disk(uint64_t size, uint32_t n_data)
{
    struct mem_chain *m = mem_chain_create(1);

    mem_layer_init(m, 0, size, 16);
    for (uint32_t i = 0; i < n_data; i++)
        mem_layer_set(m, 0, i, MEM_DATA);
    return m;
}

static inline void submit(qchain_queue *q, void *buf, size_t length, uint64_t offset, void *user)
{
    if (qchain_queue_read(q, buf, length, offset, 0, user, err) != 0)
        fail_msg("%s", qchain_error_message(err));
}

/* Reap one that must be there soon, and be fine. */
static inline void *reap_good(qchain_queue *q)
{
    qchain_completion done;

    assert_int_equal(qchain_queue_reap(q, &done, 1, 1, 20000), 1);
    if (done.result != 0)
        fail_msg("%s", done.error);
    assert_null(done.error);
    return done.user;
}

static inline qchain_completion reap_bad(qchain_queue *q, int code)
{
    qchain_completion done;

    assert_int_equal(qchain_queue_reap(q, &done, 1, 1, 20000), 1);
    assert_int_equal(done.result, code);
    assert_non_null(done.error);
    return done;
}

static inline bool equals_model(const struct mem_chain *m, const void *got, uint64_t length,
                         uint64_t offset)
{
    unsigned char *want = malloc(length + 1);
    bool same;

    mem_chain_read(m, want, length, offset);
    same = memcmp(got, want, length) == 0;
    free(want);
    return same;
}

static inline uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static inline bool readable_within(int fd, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, ms) == 1;
}

/* Run the tests with both engines. */
#define RUN_TWICE(tests)                                                                           \
    do {                                                                                           \
        int failed = cmocka_run_group_tests_name("io_uring", tests, NULL, NULL);                   \
                                                                                                   \
        engine = QCHAIN_QUEUE_NO_URING;                                                            \
        return failed + cmocka_run_group_tests_name("threads", tests, NULL, NULL);                 \
    } while (0)

#define ON(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

#endif
