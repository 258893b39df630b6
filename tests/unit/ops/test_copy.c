/* SPDX-License-Identifier: MIT */
/* Copying out, and jobs. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "share.h"
#include "image_tools.h"
#include "mem_layers.h"

static qchain *open_chain(struct mem_chain *m)
{
    qchain *c = NULL;

    assert_int_equal(mem_chain_open(m, &c, NULL, NULL, NULL), 0);
    return c;
}

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* A sink in memory that looks at how it is called. */
struct target {
    pthread_mutex_t lock;
    unsigned char  *buf;
    uint64_t        size, next, written, zeroed;
    bool            ordered, broken;
    int             inside, stop_after, result, calls;
    unsigned        nap_us;
};

static int enter(struct target *t, uint64_t length, uint64_t offset)
{
    int calls;

    pthread_mutex_lock(&t->lock);
    calls = ++t->calls;
    t->inside++;
    if (t->ordered && (t->inside != 1 || offset < t->next))
        t->broken = true;
    if (offset + length > t->size || length == 0)
        t->broken = true;
    t->next = offset + length;
    pthread_mutex_unlock(&t->lock);
    if (t->nap_us)
        usleep(t->nap_us);
    return t->stop_after && calls >= t->stop_after ? t->result : 0;
}

static void leave(struct target *t, uint64_t *sum, uint64_t length)
{
    pthread_mutex_lock(&t->lock);
    *sum += length;
    t->inside--;
    pthread_mutex_unlock(&t->lock);
}

static int target_write(void *data, const void *buf, size_t length, uint64_t offset,
                        qchain_error *err)
{
    struct target *t = data;
    int ret = enter(t, length, offset);

    if (t->buf && offset + length <= t->size)
        memcpy(t->buf + offset, buf, length);
    leave(t, &t->written, length);
    return ret < 0 ? qchain_backend_fail(err, ret, 0, "the sink is full") : ret;
}

static int target_zero(void *data, uint64_t length, uint64_t offset, qchain_error *err)
{
    struct target *t = data;
    int ret = enter(t, length, offset);

    if (t->buf && offset + length <= t->size)
        memset(t->buf + offset, 0, length);
    leave(t, &t->zeroed, length);
    return ret < 0 ? qchain_backend_fail(err, ret, 0, "the sink is full") : ret;
}

static void target_init(struct target *t, uint64_t size, bool memory)
{
    memset(t, 0, sizeof(*t));
    pthread_mutex_init(&t->lock, NULL);
    t->size = size;
    t->buf = memory ? malloc(size) : NULL;
    if (t->buf)
        memset(t->buf, 0xa5, size);
}

static int copy(qchain *c, struct target *t, qchain_copy_opts *o, bool zero, qchain_error *err)
{
    qchain_sink sink = {sizeof(sink), target_write, zero ? target_zero : NULL, t};

    t->ordered = o->flags & QCHAIN_COPY_ORDERED;
    return qchain_copy_out(c, &sink, o, err);
}

static void copies_are_whole(void **unused)
{
    uint64_t seed = mem_seed(50);

    (void)unused;
    for (unsigned round = 0; round < 4 + share(20); round++) {
        struct mem_chain *m = mem_chain_random(1 + random_next(&seed) % 4, 3 << 20, &seed);
        qchain *c = open_chain(m);
        uint64_t size = qchain_size(c), sum = 0;
        unsigned char *want = malloc(size);
        qchain_copy_opts o;
        struct target t;

        target_init(&t, size, true);
        qchain_copy_opts_init(&o, sizeof(o));
        o.flags = (uint32_t)(round % 2 ? QCHAIN_COPY_ORDERED : 0) |
                  (uint32_t)(round % 3 ? 0 : QCHAIN_COPY_DETECT_ZEROS) |
                  (uint32_t)(round % 4 < 3 ? 0 : QCHAIN_COPY_NO_ZEROS);
        o.threads = (uint32_t)(round % 5);
        o.chunk_bytes = round % 7 ? 0 : 1 + random_next(&seed) % 100000;
        if (round % 6 == 5) {
            o.offset = random_next(&seed) % size;
            o.length = random_next(&seed) % (size - o.offset) + 1;
        }
        if (o.flags & QCHAIN_COPY_NO_ZEROS)
            memset(t.buf, 0, size);
        assert_int_equal(copy(c, &t, &o, round % 2, NULL), 0);
        assert_false(t.broken);
        sum = o.length ? o.length : size;
        mem_chain_read(m, want, sum, o.offset);
        assert_memory_equal(t.buf + o.offset, want, sum);
        if (!(o.flags & QCHAIN_COPY_NO_ZEROS))
            assert_true(t.written + t.zeroed == sum);
        if (round % 6 == 5 && !(o.flags & QCHAIN_COPY_NO_ZEROS) && o.offset)
            assert_int_equal(t.buf[o.offset - 1], 0xa5);
        assert_true(o.salvaged_bytes == 0);
        free(t.buf);
        free(want);
        qchain_close(c);
        mem_chain_destroy(m);
    }
}

static void zeros_are_detected(void **unused)
{
    struct mem_chain *m = mem_chain_create(1);
    qchain_copy_opts o;
    struct target t;
    qchain *c;

    (void)unused;
    mem_layer_init(m, 0, 1 << 20, 0);
    for (unsigned i = 0; i < 512; i++)
        mem_layer_set(m, 0, i, MEM_DATA);
    c = open_chain(m);
    for (uint32_t flags = 0; flags < 16; flags++) {
        target_init(&t, 1 << 20, true);
        qchain_copy_opts_init(&o, sizeof(o));
        o.flags = flags & ~(uint32_t)QCHAIN_COPY_SALVAGE;
        assert_int_equal(copy(c, &t, &o, true, NULL), 0);
        assert_int_equal(t.written, o.flags & QCHAIN_COPY_DETECT_ZEROS ? 1 << 18 : 1 << 20);
        assert_int_equal(t.zeroed, (o.flags & QCHAIN_COPY_DETECT_ZEROS) &&
                                   !(o.flags & QCHAIN_COPY_NO_ZEROS) ? 3 << 18 : 0);
        assert_memory_equal(t.buf, m->layer[0].file, 1 << 18);
        free(t.buf);
    }
    qchain_close(c);
    mem_chain_destroy(m);
}

static void salvaging_counts_what_is_lost(void **unused)
{
    struct mem_chain *m = mem_chain_create(1);
    qchain_error *err = qchain_error_create();
    qchain_copy_opts o;
    struct target t;
    qchain *c;

    (void)unused;
    mem_layer_init(m, 0, 1 << 20, 0);
    for (unsigned i = 0; i < 2048; i++)
        mem_layer_set(m, 0, i, MEM_DATA);
    c = open_chain(m);
    qchain_copy_opts_init(&o, sizeof(o));
    o.threads = 1;
    o.chunk_bytes = 65536;
    target_init(&t, 1 << 20, true);
    /* The first read of the chunk, and then its third and fourth piece. */
    m->layer[0].fail_from = atomic_load(&m->layer[0].n_pread);
    m->layer[0].fail_to = m->layer[0].fail_from + 3;
    assert_int_equal(copy(c, &t, &o, true, err), QCHAIN_E_IO);
    assert_int_equal(qchain_error_layer(err), 0);
    o.flags = QCHAIN_COPY_SALVAGE;
    m->layer[0].fail_from = atomic_load(&m->layer[0].n_pread);
    m->layer[0].fail_to = m->layer[0].fail_from + 3;
    assert_int_equal(copy(c, &t, &o, true, err), 0);
    assert_true(o.salvaged_bytes == 8192);
    for (int i = 0; i < 8192; i++)
        assert_int_equal(t.buf[i], 0);
    assert_memory_equal(t.buf + 8192, m->layer[0].file + 8192, (1 << 20) - 8192);
    free(t.buf);
    qchain_error_destroy(err);
    qchain_close(c);
    mem_chain_destroy(m);
}

/* A big-endian number of a layer's file, and its place. */
static unsigned char *number_at(const struct mem_layer *l, uint64_t at, uint64_t *value)
{
    *value = 0;
    for (int i = 0; i < 8; i++)
        *value = *value << 8 | l->file[at + (uint64_t)i];
    return l->file + at;
}

/* Make the L2 entry of a cluster one that cannot be. */
static void damage_entry(const struct mem_layer *l, uint64_t cluster)
{
    uint64_t per_table = UINT64_C(1) << (l->cluster_bits - 3), l1, table, entry;

    number_at(l, 40, &l1);
    number_at(l, l1 + cluster / per_table * 8, &table);
    table &= ~(UINT64_C(1) << 63);
    number_at(l, table + cluster % per_table * 8, &entry)[6] |= 2; /* not a cluster's offset */
}

/* Damaged metadata hurts nothing else, wherever it is met. */
static void salvaging_gets_over_metadata(void **unused)
{
    const uint64_t size = UINT64_C(300) << 20, bad[] = {3, 5, 6, 2100, 4799};
    struct mem_chain *m = mem_chain_create(1);
    qchain_error *err = qchain_error_create();
    unsigned char *want = malloc(size);
    qchain_copy_opts o;
    struct target t;
    qchain *c;

    (void)unused;
    mem_layer_init(m, 0, size, 16);
    for (unsigned i = 0; i < 4800; i += i < 20 || i > 4780 ? 1 : 10)
        mem_layer_set(m, 0, i, MEM_DATA);
    mem_chain_read(m, want, size, 0);
    for (unsigned i = 0; i < 5; i++) {
        damage_entry(&m->layer[0], bad[i]);
        memset(want + (bad[i] << 16), 0, 65536);
    }
    for (uint32_t i = 0; i < 4; i++) {
        c = open_chain(m);
        target_init(&t, size, true);
        qchain_copy_opts_init(&o, sizeof(o));
        o.threads = 1 + i;
        o.flags = i % 2 ? QCHAIN_COPY_ORDERED : 0;
        assert_int_equal(copy(c, &t, &o, true, err), QCHAIN_E_CORRUPT);
        o.flags |= QCHAIN_COPY_SALVAGE;
        assert_int_equal(copy(c, &t, &o, true, err), 0);
        assert_false(t.broken);
        assert_true(o.salvaged_bytes == 5 << 16);
        assert_memory_equal(t.buf, want, size);
        free(t.buf);
        qchain_close(c);
    }
    free(want);
    qchain_error_destroy(err);
    mem_chain_destroy(m);
}

/* All is lost, of a disk too large to try each cluster of it. */
static void salvaging_ends(void **unused)
{
    const uint64_t size = UINT64_C(1) << 42;
    struct mem_chain *m = mem_chain_create(1);
    qchain_copy_opts o;
    struct target t;
    double begin;
    uint64_t l1;
    qchain *c;

    (void)unused;
    mem_layer_init(m, 0, size, 16);
    mem_layer_set(m, 0, 0, MEM_DATA);
    number_at(&m->layer[0], 40, &l1);
    for (uint64_t i = 1; i < size >> 29; i++) /* more tables than the file can have */
        memcpy(m->layer[0].file + l1 + 8 * i, m->layer[0].file + l1, 8);
    c = open_chain(m);
    target_init(&t, size, false);
    qchain_copy_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_COPY_SALVAGE;
    begin = seconds();
    assert_int_equal(copy(c, &t, &o, true, NULL), 0);
#ifdef __SANITIZE_THREAD__ /* which makes this ten times slower */
    assert_true(seconds() - begin < 120);
#else
    assert_true(seconds() - begin < 30);
#endif
    assert_true(o.salvaged_bytes == size && t.zeroed == size);
    qchain_close(c);
    mem_chain_destroy(m);
}

/* A disk whose second half fails in some way, after the open. */
static int failing_code;

static void failing_close(void *obj)
{
    (void)obj;
}

static int failing_size(void *obj, uint64_t *size, qchain_error *err)
{
    (void)obj;
    (void)err;
    *size = 1 << 20;
    return 0;
}

static int failing_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                         qchain_error *err)
{
    (void)obj;
    (void)flags;
    memset(buf, 'x', length);
    return offset + length > 512 << 10 ? qchain_backend_fail(err, failing_code, 0, "so it fails")
                                       : 0;
}

/* What is no damage would befall the rest as well, so the copy ends. */
static void only_damage_is_salvaged(void **unused)
{
    static const qchain_store_ops ops = {
        .struct_size = sizeof(ops), .version = QCHAIN_BACKEND_VERSION, .name = "failing",
        .close = failing_close, .size = failing_size, .pread = failing_pread,
    };
    qchain_store store = {.struct_size = sizeof(store), .ops = &ops};
    qchain_error *err = qchain_error_create();
    qchain_open_opts open_opts;
    qchain_copy_opts o;
    struct target t;
    qchain *c = NULL;

    (void)unused;
    qchain_open_opts_init(&open_opts, sizeof(open_opts));
    open_opts.store = &store;
    open_opts.format = "raw";
    assert_int_equal(qchain_open(&c, NULL, NULL, &open_opts, err), 0);
    for (failing_code = QCHAIN_E_NOMEM; failing_code > QCHAIN_E_INTERNAL; failing_code--) {
        bool damage = failing_code == QCHAIN_E_IO || failing_code == QCHAIN_E_CORRUPT;

        target_init(&t, 1 << 20, false);
        qchain_copy_opts_init(&o, sizeof(o));
        o.flags = QCHAIN_COPY_SALVAGE;
        qchain_error_clear(err);
        assert_int_equal(copy(c, &t, &o, true, err), damage ? 0 : failing_code);
        assert_int_equal(qchain_error_code(err), damage ? 0 : failing_code);
        if (damage)
            assert_true(o.salvaged_bytes == 512 << 10);
        else
            assert_non_null(strstr(qchain_error_message(err), "so it fails"));
    }
    qchain_close(c);
    qchain_error_destroy(err);
}

static int silent_write(void *data, const void *buf, size_t length, uint64_t offset,
                        qchain_error *err)
{
    (void)buf;
    (void)length;
    (void)offset;
    (void)err;
    return *(int *)data;
}

static void the_sink_need_not_say_why(void **unused)
{
    struct mem_chain *m = mem_chain_create(1);
    qchain_error *err = qchain_error_create();
    qchain *c;
    int code;
    qchain_sink sink = {sizeof(sink), silent_write, NULL, &code};

    (void)unused;
    mem_layer_init(m, 0, 1 << 20, 0);
    c = open_chain(m);
    for (code = QCHAIN_E_NOMEM; code >= QCHAIN_E_INTERNAL; code--) {
        qchain_backend_fail(err, QCHAIN_E_LOCKED - (code == QCHAIN_E_LOCKED), 0, "before");
        assert_int_equal(qchain_copy_out(c, &sink, NULL, err), code);
        assert_int_equal(qchain_error_code(err), code);
        assert_string_equal(qchain_error_message(err), "the sink failed without saying why");
    }
    qchain_backend_fail(err, QCHAIN_E_LOCKED, 0, "before");
    code = 7; /* an answer, no failure */
    assert_int_equal(qchain_copy_out(c, &sink, NULL, err), 7);
    assert_string_equal(qchain_error_message(err), "before");
    qchain_error_destroy(err);
    qchain_close(c);
    mem_chain_destroy(m);
}

static void the_sink_ends_it(void **unused)
{
    static const int results[] = {1, 4711, QCHAIN_E_NOSPACE};
    uint64_t seed = mem_seed(51);
    struct mem_chain *m = mem_chain_random(2, 4 << 20, &seed);
    qchain_error *err = qchain_error_create();
    qchain *c = open_chain(m);
    qchain_copy_opts o;
    struct target t;

    (void)unused;
    for (int i = 0; i < 12; i++) {
        qchain_copy_opts_init(&o, sizeof(o));
        o.flags = i % 2 ? QCHAIN_COPY_ORDERED : 0;
        o.threads = 1 + (uint32_t)i % 4;
        target_init(&t, qchain_size(c), false);
        t.stop_after = 1 + i;
        t.result = results[i % 3];
        qchain_error_clear(err);
        assert_int_equal(copy(c, &t, &o, true, err), t.result);
        assert_int_equal(t.inside, 0);
        if (t.result < 0)
            assert_string_equal(qchain_error_message(err), "the sink is full");
        if (o.flags & QCHAIN_COPY_ORDERED)
            assert_int_equal(t.calls, t.stop_after);
    }
    qchain_error_destroy(err);
    qchain_close(c);
    mem_chain_destroy(m);
}

/* ------------------------------------------------------------------ jobs --- */

static void *cancel_soon(void *job)
{
    usleep(50000);
    qchain_job_cancel(job);
    return NULL;
}

static void *go_on_soon(void *job)
{
    usleep(150000);
    qchain_job_pause(job, 0);
    return NULL;
}

/* Even where a hole is one endless stretch of writes. */
static void jobs_are_cancelled(void **unused)
{
    struct mem_chain *m = mem_chain_create(1);
    qchain_error *err = qchain_error_create();
    qchain_copy_opts o;
    pthread_t thread;
    struct target t;
    double begin;
    qchain *c;

    (void)unused;
    mem_layer_init(m, 0, UINT64_C(1) << 44, 21);
    c = open_chain(m);
    for (int i = 0; i < 2; i++) {
        target_init(&t, UINT64_C(1) << 44, false);
        qchain_copy_opts_init(&o, sizeof(o));
        o.flags = i ? QCHAIN_COPY_ORDERED : 0;
        o.job = qchain_job_create();
        begin = seconds();
        assert_int_equal(pthread_create(&thread, NULL, cancel_soon, o.job), 0);
        assert_int_equal(copy(c, &t, &o, false, err), QCHAIN_E_CANCELLED);
        assert_true(seconds() - begin < 30);
        assert_string_equal(qchain_error_message(err), "cancelled");
        pthread_join(thread, NULL);
        assert_int_equal(qchain_checksum(c, (uint8_t[32]){0}, 0, o.job, err), QCHAIN_E_CANCELLED);
        qchain_job_destroy(o.job);
    }
    qchain_error_destroy(err);
    qchain_close(c);
    mem_chain_destroy(m);
}

/* A dying medium takes its time for each piece that is salvaged. */
static void salvaging_is_cancelled(void **unused)
{
    struct mem_chain *m = mem_chain_create(1);
    qchain_copy_opts o;
    pthread_t thread;
    struct target t;
    double begin;
    qchain *c;

    (void)unused;
    mem_layer_init(m, 0, 1 << 20, 0);
    c = open_chain(m);
    m->layer[0].fail_from = 0;
    m->layer[0].fail_to = 1 << 30;
    m->layer[0].delay_us = 20000;
    target_init(&t, 1 << 20, false);
    qchain_copy_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_COPY_SALVAGE;
    o.threads = 1;
    o.chunk_bytes = 1 << 20;
    o.job = qchain_job_create();
    begin = seconds();
    assert_int_equal(pthread_create(&thread, NULL, cancel_soon, o.job), 0);
    assert_int_equal(copy(c, &t, &o, true, NULL), QCHAIN_E_CANCELLED);
    assert_true(seconds() - begin < 20); /* all would take twice as long */
    pthread_join(thread, NULL);
    qchain_job_destroy(o.job);
    qchain_close(c);
    mem_chain_destroy(m);
}

static void jobs_pause_and_keep_a_rate(void **unused)
{
    struct mem_chain *m = mem_chain_create(1);
    uint64_t done, total;
    qchain_copy_opts o;
    pthread_t thread;
    struct target t;
    double begin;
    qchain *c;

    (void)unused;
    mem_layer_init(m, 0, 1 << 20, 0);
    c = open_chain(m);
    target_init(&t, 1 << 20, false);
    qchain_copy_opts_init(&o, sizeof(o));
    o.chunk_bytes = 65536;
    o.job = qchain_job_create();
    qchain_job_pause(o.job, 1);
    begin = seconds();
    assert_int_equal(pthread_create(&thread, NULL, go_on_soon, o.job), 0);
    assert_int_equal(copy(c, &t, &o, true, NULL), 0);
    assert_true(seconds() - begin > 0.14);
    pthread_join(thread, NULL);
    qchain_job_progress(o.job, &done, &total);
    assert_true(done == 1 << 20 && total == 1 << 20);
    qchain_job_rate(o.job, 4 << 20);
    begin = seconds();
    assert_int_equal(copy(c, &t, &o, true, NULL), 0);
    assert_true(seconds() - begin > 0.2);
    qchain_job_rate(o.job, 0);
    qchain_job_progress(o.job, NULL, NULL);
    qchain_job_progress(NULL, &done, &total);
    assert_true(done == 0 && total == 0);
    qchain_job_destroy(o.job);
    qchain_close(c);
    mem_chain_destroy(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_are_whole),   cmocka_unit_test(zeros_are_detected),
        cmocka_unit_test(salvaging_counts_what_is_lost),
        cmocka_unit_test(salvaging_gets_over_metadata),
        cmocka_unit_test(salvaging_ends),     cmocka_unit_test(only_damage_is_salvaged),
        cmocka_unit_test(salvaging_is_cancelled),
        cmocka_unit_test(the_sink_need_not_say_why),
        cmocka_unit_test(the_sink_ends_it),   cmocka_unit_test(jobs_are_cancelled),
        cmocka_unit_test(jobs_pause_and_keep_a_rate),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
