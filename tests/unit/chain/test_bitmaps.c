/* SPDX-License-Identifier: MIT */
/* Dirty bitmaps of a chain that is written: against a model, marks before writes, threads, queues, resizing. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include <qchain.h>

#include "image_tools.h"
#include "util/bytes.h"
#include "writer_tools.h"

#define DISK (UINT64_C(1) << 20)
#define THREADS 4

static qchain_error *err;

#define OK(call)                                                                                   \
    do {                                                                                           \
        if ((call) != 0)                                                                           \
            fail_msg("%s: %s", #call, qchain_error_message(err));                                  \
    } while (0)

static int open_flags(qchain **c, struct rec_store *r, uint32_t flags)
{
    qchain_open_opts o;
    qchain_store store;

    rec_store_of(r, &store);
    qchain_open_opts_init(&o, sizeof(o));
    o.flags = flags;
    o.store = &store;
    o.format = "qcow2";
    return qchain_open(c, NULL, "image", &o, err);
}

static qchain *open_rw(struct rec_store *r)
{
    qchain *c = NULL;

    OK(open_flags(&c, r, QCHAIN_OPEN_WRITE));
    return c;
}

static struct rec_store *make(uint32_t version)
{
    struct rec_store *r = rec_create(8 << 20);

    image_make(r, version, 12, 4, DISK);
    return r;
}

/* Does a bitmap say of each stretch of `granularity` bytes what the model says? exact: else it may have more. */
static void compare_at(qchain *c, const char *name, const uint8_t *model, uint64_t granularity, bool exact, int line)
{
    uint64_t at = 0, size = qchain_size(c), next = 0;
    qchain_dirty_extent e[3];
    uint32_t n;

    for (; next < size;) {
        OK(qchain_bitmap_query(c, name, next, UINT64_MAX, e, 3, &n, &next, err));
        assert_true(n > 0);
        for (uint32_t i = 0; i < n; i++) {
            assert_int_equal(e[i].offset, at);
            assert_true(e[i].length > 0);
            for (; at < e[i].offset + e[i].length; at += qc_min64(granularity, size - at))
                if (model[at / granularity] > e[i].dirty || (exact && model[at / granularity] != e[i].dirty))
                    fail_msg("line %d: %s at %llu: %u", line, name, (unsigned long long)at, e[i].dirty);
        }
    }
    assert_int_equal(at, size);
}

#define compare(c, name, model, granularity, exact) compare_at(c, name, model, granularity, exact, __LINE__)

static void note(uint8_t *model, uint64_t granularity, uint64_t offset, uint64_t length)
{
    for (uint64_t i = offset / granularity; length > 0 && i <= (offset + length - 1) / granularity; i++)
        model[i] = 1;
}

/* ------------------------------------------------------------------- writing --- */

static void change(qchain *c, uint64_t *seed, uint8_t *model, uint64_t granularity)
{
    static char buf[40000];
    uint64_t offset = random_next(seed) % DISK;
    uint64_t length = qc_min64(random_next(seed) % sizeof(buf), DISK - offset);

    memset(buf, (int)(1 + *seed % 255), sizeof(buf));
    switch (random_next(seed) % 5) {
    case 0:
        OK(qchain_write_zeroes(c, length, offset, 0, err));
        break;
    case 1:
        OK(qchain_discard(c, length, offset, 0, err));
        break;
    case 2:
        offset &= ~UINT64_C(4095);
        length = 4096;
        OK(qchain_write_compressed(c, buf, length, offset, 0, err));
        break;
    default:
        OK(qchain_write(c, buf, length, offset, 0, err));
    }
    note(model, granularity, offset, length);
}

static void test_tracks_all(void **state)
{
    static const uint64_t granularity[] = {512, 4096, 65536, UINT64_C(1) << 31};
    uint64_t seed = 3;

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        struct rec_store *r = make(3);
        uint8_t *model = calloc(DISK / 512, 1), *none = calloc(DISK / 512, 1);
        qchain *c = open_rw(r);

        OK(qchain_bitmap_add(c, "on", granularity[i], 1, err));
        OK(qchain_bitmap_add(c, "off", granularity[i], 0, err));
        for (int round = 0; round < 6; round++) {
            for (int k = 0; k < 3; k++)
                change(c, &seed, model, granularity[i]);
            compare(c, "on", model, granularity[i], true);
            compare(c, "off", none, granularity[i], true);
            if (round % 3 == 2)
                OK(qchain_finish(c, err));
            qchain_close(c);
            OK(open_flags(&c, r, 0));
            compare(c, "on", model, granularity[i], true);
            compare(c, "off", none, granularity[i], true);
            qchain_close(c);
            c = open_rw(r);
        }
        qchain_close(c);
        free(model);
        free(none);
        rec_destroy(r);
    }
}

static void test_calls(void **state)
{
    struct rec_store *r = make(3), *old = make(2);
    uint8_t model[256] = {0}, other[16] = {0};
    qchain *c = open_rw(r), *ro = NULL;
    qchain_dirty_extent e;
    uint64_t next;
    uint32_t n;
    char name[1025];

    (void)state;
    memset(name, 'n', sizeof(name));
    name[1024] = 0;
    assert_int_equal(qchain_bitmap_add(c, name, 0, 1, NULL), QCHAIN_E_LIMIT);
    name[1023] = 0;
    OK(qchain_bitmap_add(c, name, 0, 0, err));
    OK(qchain_bitmap_add(c, "a", 0, 1, err));
    assert_int_equal(qchain_bitmap_add(c, "a", 0, 1, NULL), QCHAIN_E_EXISTS);
    assert_int_equal(qchain_bitmap_add(c, "", 0, 1, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_bitmap_add(c, "b", 768, 1, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_bitmap_add(c, "b", 256, 1, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_bitmap_add(c, "b", UINT64_C(1) << 32, 1, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_bitmap_add(c, "b", 512, 2, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_bitmap_remove(c, "b", NULL), QCHAIN_E_NOTFOUND);
    assert_int_equal(qchain_bitmap_clear(c, "b", NULL), QCHAIN_E_NOTFOUND);
    assert_int_equal(qchain_bitmap_enable(c, "b", 1, NULL), QCHAIN_E_NOTFOUND);
    assert_int_equal(qchain_bitmap_query(c, "b", 0, 1, &e, 1, &n, &next, NULL), QCHAIN_E_NOTFOUND);
    assert_int_equal(qchain_bitmap_query(c, "a", DISK + 1, 1, &e, 1, &n, &next, NULL), QCHAIN_E_RANGE);
    OK(qchain_bitmap_query(c, "a", DISK, 1, &e, 1, &n, &next, err));
    assert_true(n == 0 && next == DISK);
    OK(qchain_write(c, "x", 1, 5000, 0, err));
    model[1] = 1;
    compare(c, "a", model, 4096, true); /* the cluster's size */
    OK(qchain_bitmap_enable(c, "a", 0, err));
    OK(qchain_write(c, "x", 1, 9000, 0, err));
    compare(c, "a", model, 4096, true);
    OK(qchain_bitmap_add(c, "b", 65536, 1, err));
    OK(qchain_write(c, "x", 1, 70000, 0, err));
    OK(qchain_bitmap_merge(c, "b", c, "a", err));
    other[0] = other[1] = 1;
    compare(c, "b", other, 65536, true);
    OK(qchain_bitmap_clear(c, "a", err));
    OK(qchain_bitmap_merge(c, "a", c, "b", err));
    memset(model, 1, 32);
    compare(c, "a", model, 4096, true);
    assert_int_equal(qchain_bitmap_merge(c, "a", c, "none", NULL), QCHAIN_E_NOTFOUND);
    OK(qchain_bitmap_remove(c, "b", err));
    OK(qchain_finish(c, err));
    assert_int_equal(qchain_bitmap_add(c, "z", 0, 1, NULL), QCHAIN_E_READONLY);
    qchain_close(c);
    OK(open_flags(&ro, r, 0));
    compare(ro, "a", model, 4096, true);
    assert_int_equal(qchain_bitmap_add(ro, "z", 0, 1, NULL), QCHAIN_E_READONLY);
    qchain_close(ro);
    c = open_rw(old);
    assert_int_equal(qchain_bitmap_add(c, "z", 0, 1, NULL), QCHAIN_E_UNSUPPORTED);
    qchain_close(c);
    rec_destroy(old);
    rec_destroy(r);
}

/* ---------------------------------------------------------------------- marks --- */

static uint64_t directory(const struct rec_store *r)
{
    for (uint64_t at = 104; at < 4096; at += 8)
        if (qc_be32(r->bytes + at) == 0x23852875)
            return qc_be64(r->bytes + at + 24);
    return 0;
}

/* The first write to the file is the mark, and durable before the second; a session that writes nothing changes
 * nothing; of a second write nobody marks again. */
static void test_marks_first(void **state)
{
    struct rec_store *r = make(3);
    qchain *c = open_rw(r);
    uint64_t dir;

    (void)state;
    OK(qchain_bitmap_add(c, "a", 4096, 1, err));
    qchain_close(c);
    dir = directory(r);
    assert_true(dir != 0 && (r->bytes[dir + 15] & 3) == 2);
    rec_reset(r);
    c = open_rw(r);
    qchain_close(c);
    assert_int_equal(r->n_writes, 0);

    c = open_rw(r);
    rec_record(r->log);
    OK(qchain_write(c, "x", 1, 0, 0, err));
    assert_true(r->log->n >= 3);
    assert_true(r->log->op[0].kind == REC_WRITE && r->log->op[0].offset == dir + 12 && r->log->op[0].length == 4);
    assert_true(r->log->op[1].kind == REC_FLUSH);
    assert_int_equal(r->bytes[dir + 15] & 3, 3);
    rec_reset(r);
    OK(qchain_write(c, "x", 1, 0, 0, err));
    assert_int_equal(r->n_writes, 1);
    qchain_close(c);
    assert_int_equal(r->bytes[directory(r) + 15] & 3, 2);

    /* If it cannot be marked nothing is written. */
    rec_reset(r);
    c = open_rw(r);
    r->log->fail_writes_only = true;
    r->log->fail_from = r->log->calls + 1;
    r->log->fail_to = r->log->calls + 2;
    assert_int_equal(qchain_write(c, "y", 1, 0, 0, NULL), QCHAIN_E_IO);
    assert_int_equal(r->n_writes, 0);
    OK(qchain_write(c, "y", 1, 0, 0, err));
    assert_int_equal(r->n_writes, 2);
    qchain_close(c);
    rec_destroy(r);
}

/* Without room finish ends nothing, and may be called again. */
static void test_no_room(void **state)
{
    struct rec_store *r = make(3);
    qchain *c = open_rw(r);
    uint8_t model[2048] = {0};
    uint64_t cap = r->cap;

    (void)state;
    OK(qchain_bitmap_add(c, "a", 512, 1, err));
    OK(qchain_write(c, "x", 1, 0, 0, err));
    OK(qchain_flush(c, err));
    model[0] = 1;
    r->cap = r->size;
    assert_int_equal(qchain_finish(c, NULL), QCHAIN_E_NOSPACE);
    r->cap = cap;
    OK(qchain_write(c, "x", 1, 512, 0, err));
    model[1] = 1;
    OK(qchain_finish(c, err));
    qchain_close(c);
    OK(open_flags(&c, r, 0));
    compare(c, "a", model, 512, true);
    qchain_close(c);
    rec_destroy(r);
}

/* --------------------------------------------------------------------- resize --- */

static void test_resize(void **state)
{
    struct rec_store *r = make(3);
    uint8_t model[4096] = {0}, off[4096] = {0};
    qchain *c = open_rw(r);

    (void)state;
    OK(qchain_bitmap_add(c, "a", 512, 1, err));
    OK(qchain_bitmap_add(c, "off", 512, 0, err));
    OK(qchain_write(c, "x", 1, 600, 0, err));
    OK(qchain_bitmap_merge(c, "off", c, "a", err));
    model[1] = off[1] = 1;
    qchain_close(c);
    c = open_rw(r);
    OK(qchain_resize(c, DISK + 4096, 0, err));
    memset(model + 2048, 1, 8);
    compare(c, "a", model, 512, true);
    compare(c, "off", off, 512, true);
    OK(qchain_resize(c, 1024, QCHAIN_RESIZE_SHRINK, err));
    OK(qchain_resize(c, 2048, 0, err));
    model[2] = model[3] = 1;
    compare(c, "a", model, 512, true);
    compare(c, "off", off, 512, true);
    qchain_close(c);
    OK(open_flags(&c, r, 0));
    assert_int_equal(qchain_size(c), 2048);
    compare(c, "a", model, 512, true);
    compare(c, "off", off, 512, true);
    qchain_close(c);
    rec_destroy(r);
}

/* -------------------------------------------------------------------- threads --- */

struct worker {
    qchain  *c;
    uint64_t seed;
    uint8_t  model[DISK / 512];
};

static void *write_some(void *arg)
{
    struct worker *w = arg;
    static const char byte = 1;

    for (int i = 0; i < 200; i++) {
        uint64_t offset = random_next(&w->seed) % DISK;

        if (qchain_write(w->c, &byte, 1, offset, 0, NULL) == 0)
            note(w->model, 512, offset, 1);
    }
    return NULL;
}

static void *write_by_queue(void *arg)
{
    struct worker *w = arg;
    static char buf[3000];
    qchain_completion done[8];
    qchain_queue *q = NULL;

    if (qchain_queue_create(&q, w->c, NULL, NULL) != 0)
        return NULL;
    for (int i = 0; i < 100; i++) {
        uint64_t offset = random_next(&w->seed) % (DISK - sizeof(buf));
        qchain_iov iov = {buf, sizeof(buf)};

        if (qchain_queue_writev(q, &iov, 1, offset, 0, NULL, NULL) == 0)
            note(w->model, 512, offset, sizeof(buf));
        while (qchain_queue_pending(q) > (i < 99 ? 4u : 0u))
            qchain_queue_reap(q, done, 1, 8, -1);
    }
    qchain_queue_destroy(q);
    return NULL;
}

/* Whatever is asked or changed meanwhile: what is enabled has all. */
static void test_threads(void **state)
{
    struct rec_store *r = make(3);
    struct worker *w = calloc(THREADS, sizeof(*w));
    uint8_t *model = calloc(DISK / 512, 1), *some = calloc(DISK / 512, 1);
    pthread_t t[THREADS];
    qchain *c = open_rw(r);

    (void)state;
    OK(qchain_bitmap_add(c, "all", 512, 1, err));
    for (unsigned i = 0; i < THREADS; i++) {
        w[i].c = c;
        w[i].seed = i + 1;
        pthread_create(&t[i], NULL, i % 2 ? write_by_queue : write_some, &w[i]);
    }
    for (int i = 0; i < 20; i++) {
        OK(qchain_bitmap_add(c, "other", 4096, i % 2, err));
        OK(qchain_bitmap_enable(c, "other", 1, err));
        compare(c, "all", some, 512, false);
        OK(qchain_bitmap_merge(c, "other", c, "all", err));
        OK(qchain_bitmap_remove(c, "other", err));
    }
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(t[i], NULL);
        for (uint64_t k = 0; k < DISK / 512; k++)
            model[k] |= w[i].model[k];
    }
    compare(c, "all", model, 512, true);
    qchain_close(c);
    OK(open_flags(&c, r, 0));
    compare(c, "all", model, 512, true);
    qchain_close(c);
    free(w);
    free(model);
    free(some);
    rec_destroy(r);
}

/* Does the file say so of its first bitmap? */
static bool in_use(const char *name, struct rec_store *r)
{
    FILE *f = fopen(name, "rb");
    uint64_t dir;

    r->size = fread(r->bytes, 1, r->cap, f);
    fclose(f);
    dir = directory(r);
    return dir && r->bytes[dir + 15] & 1;
}

/* What has a place already, if it is not the first time. */
static void write_one(struct worker *w)
{
    char byte = 1;
    qchain_iov iov = {&byte, 1};
    qchain_completion done;
    qchain_queue *q;

    OK(qchain_queue_create(&q, w->c, NULL, err));
    OK(qchain_queue_writev(q, &iov, 1, 0, 0, NULL, err));
    assert_int_equal(qchain_queue_reap(q, &done, 1, 1, -1), 1);
    assert_int_equal(done.result, 0);
    qchain_queue_destroy(q);
    note(w->model, 512, 0, 1);
}

/* A file, so that the ring writes; to new places and to the same again. */
static void test_ring(void **state)
{
    char name[] = "/tmp/bitmaps-XXXXXX";
    struct worker *w = calloc(1, sizeof(*w));
    struct rec_store *r = make(3);
    qchain_open_opts o;
    int fd = mkstemp(name);

    (void)state;
    assert_int_equal(write(fd, r->bytes, r->size), r->size);
    close(fd);
    qchain_open_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_OPEN_WRITE;
    for (unsigned round = 0; round < 2; round++) {
        w->seed = 1; /* the same places in both */
        OK(qchain_open(&w->c, NULL, name, &o, err));
        if (round == 0)
            OK(qchain_bitmap_add(w->c, "a", 512, 1, err));
        else
            OK(qchain_bitmap_clear(w->c, "a", err));
        memset(w->model, 0, sizeof(w->model));
        write_one(w);
        assert_int_equal(in_use(name, r), round > 0); /* in the first there was none to be marked */
        write_by_queue(w);
        compare(w->c, "a", w->model, 512, true);
        OK(qchain_finish(w->c, err));
        qchain_close(w->c);
    }
    unlink(name);
    rec_destroy(r);
    free(w);
}

static int set_up(void **state)
{
    (void)state;
    err = qchain_error_create();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    qchain_error_destroy(err);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tracks_all), cmocka_unit_test(test_calls), cmocka_unit_test(test_marks_first),
        cmocka_unit_test(test_no_room),    cmocka_unit_test(test_resize), cmocka_unit_test(test_threads),
        cmocka_unit_test(test_ring),
    };

    return cmocka_run_group_tests(tests, set_up, tear_down);
}
