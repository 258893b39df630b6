/* SPDX-License-Identifier: MIT */
/* Rebase, stream, merge and taking a layer out: random chains keep their bytes, images stay valid, the handle
 * reads on; what cannot be right is refused. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include <qchain.h>

#include "ops/chain_files.h"
#include "mem_layers.h"
#include "share.h"

/* The handle reads on after the operation, also what is written, made zero and given up then. */
static void use_on(qchain *c, unsigned char *want, uint64_t size, uint64_t *s)
{
    unsigned char *p = read_all(c);
    uint64_t at = some(s, size), n = 1 + some(s, size - at);

    same("the handle", p, want, size);
    free(p);
    if (some(s, 2)) {
        OK(qchain_write_zeroes(c, n, at, 0, err));
        memset(want + at, 0, n);
        at = some(s, size);
        n = 1 + some(s, size - at);
        OK(qchain_write(c, want, n, at, 0, err));
        memmove(want + at, want, n);
        p = read_all(c);
        same("the handle, written", p, want, size);
        free(p);
    }
}

static int rebase_to(qchain *c, const char *backing, const char *format, uint32_t flags, uint32_t threads,
                     qchain_job *job)
{
    qchain_job_result r = {.struct_size = sizeof(r)};
    qchain_rebase_opts o;

    qchain_rebase_opts_init(&o, sizeof(o));
    o.flags = flags;
    o.threads = threads;
    o.backing_file = backing;
    o.backing_format = format;
    o.job = job;
    return qchain_rebase(c, &o, &r, err);
}

/* One that is cancelled before it begins, or in its midst, changes nothing to be seen. */
static void cancel_first(const char *name, const char *backing, const char *format, const unsigned char *want,
                         uint64_t size)
{
    qchain_job *job = qchain_job_create();
    qchain *c = open_chain(name, QCHAIN_OPEN_WRITE);

    qchain_job_cancel(job);
    if (rebase_to(c, backing, format, 0, 1, job) != 0)
        assert_int_equal(qchain_error_code(err), QCHAIN_E_CANCELLED);
    OK(qchain_finish(c, err));
    qchain_close(c);
    qchain_job_destroy(job);
    look(name, want, size);
}

static void one_rebase(struct chain *k, uint64_t *s)
{
    static const uint32_t flags[] = {0, 0, 0, QCHAIN_REBASE_COMPARE, QCHAIN_REBASE_COMPRESS,
                                     QCHAIN_REBASE_COMPARE | QCHAIN_REBASE_COMPRESS};
    const char *top = k->name[k->n - 1], *backing = NULL, *format = NULL;
    uint64_t kind = some(s, 8);
    uint32_t flag = flags[some(s, 6)], threads = (uint32_t)some(s, 5);
    qchain *c;

    if (kind < 4 && k->n > 1) {
        unsigned i = (unsigned)some(s, k->n - 1);

        backing = k->name[i];
        format = some(s, 2) ? k->format[i] : NULL;
    } else if (kind < 7) { /* of another chain, which may have layers of this one */
        unsigned i = k->n > 1 ? (unsigned)some(s, k->n - 1) : 0;
        bool shared = k->n > 1 && some(s, 2);

        make_layer("x", shared ? k->name[i] : NULL, shared ? k->format[i] : NULL, some_size(k->size, s), false, s);
        backing = "x";
        format = "qcow2";
    }
    if (some(s, 5) == 0)
        cancel_first(top, backing, format, k->want, k->size);
    c = open_chain(top, QCHAIN_OPEN_WRITE);
    OK(rebase_to(c, backing, format, flag, threads, NULL));
    use_on(c, k->want, k->size, s);
    OK(qchain_finish(c, err));
    qchain_close(c);
    look(top, k->want, k->size);
}

static void one_stream(struct chain *k, uint64_t *s)
{
    const char *top = k->name[k->n - 1];
    qchain_job_result r = {.struct_size = sizeof(r)};
    qchain *c = open_chain(top, QCHAIN_OPEN_WRITE);

    if (some(s, 3)) {
        uint32_t base = 1 + (uint32_t)some(s, k->n);

        OK(qchain_stream(c, base, 0, NULL, &r, err));
        assert_int_equal(r.layers, base < k->n ? k->n - base + 1 : 1);
    } else {
        OK(qchain_merge(c, some(s, 2) ? 0 : 1 + some(s, 1 << 20), 0, NULL, &r, err));
        assert_true(r.layers >= (k->n < 2 ? 1 : 2) && r.layers <= k->n);
    }
    use_on(c, k->want, k->size, s);
    OK(qchain_finish(c, err));
    qchain_close(c);
    c = open_chain(top, 0);
    assert_int_equal(qchain_layers(c), r.layers);
    qchain_close(c);
    look(top, k->want, k->size);
}

static void one_delete(struct chain *k, uint64_t *s)
{
    const char *children[] = {k->name[k->n - 1], "y"}, *layer = k->name[k->n - 2];
    qchain_job_result r = {.struct_size = sizeof(r)};
    unsigned char *other;
    uint64_t size = some_size(k->size, s);
    bool twice = some(s, 2);

    if (k->n < 2 || strcmp(k->format[k->n - 2], "raw") == 0)
        return;
    make_layer("y", layer, "qcow2", size, false, s);
    other = contents("y");
    if (twice) /* as if it had ended after the first child */
        OK(qchain_delete_layer(env, layer, children, 1, 0, NULL, NULL, &r, err));
    OK(qchain_delete_layer(env, layer, children, 2, QCHAIN_DELETE_FILE, NULL, NULL, &r, err));
    assert_int_equal(access(layer, F_OK), -1);
    look(children[0], k->want, k->size);
    look("y", other, size);
    free(other);
}

static void random_chains(void **state)
{
    uint64_t first = mem_seed(7000), rounds = share(300);

    (void)state;
    for (seed = first; seed < first + rounds; seed++) {
        uint64_t s = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
        struct chain k;

        make_chain(&k, 1 + (unsigned)some(&s, 5), &s);
        k.want = contents(k.name[k.n - 1]);
        switch (some(&s, 4)) {
        case 0:
            one_stream(&k, &s);
            break;
        case 1:
            if (k.n > 1) {
                one_delete(&k, &s);
                break;
            } /* fall through */
        default:
            one_rebase(&k, &s);
        }
        free(k.want);
    }
}

/* An image of so many sectors of a byte each, from a sector on. */
static void make_plain(const char *name, const char *below, uint64_t sectors, uint64_t from, int byte)
{
    static unsigned char buf[512 * 256];
    qchain_create_opts o;
    qchain *c;

    qchain_create_opts_init(&o, sizeof(o));
    o.size = sectors * 512;
    o.cluster_size = 4096;
    o.backing_file = below;
    o.backing_format = below ? "qcow2" : NULL;
    OK(qchain_create(env, name, &o, err));
    c = open_chain(name, QCHAIN_OPEN_WRITE | QCHAIN_OPEN_UNSAFE);
    memset(buf, byte, sizeof(buf));
    OK(qchain_write(c, buf, (sectors - from) * 512, from * 512, 0, err));
    OK(qchain_finish(c, err));
    qchain_close(c);
}

static int unsafe_to(const char *name, uint32_t open, const char *backing, const char *format, uint32_t flags)
{
    qchain *c = open_chain(name, QCHAIN_OPEN_WRITE | open);
    int ret = rebase_to(c, backing, format, QCHAIN_REBASE_UNSAFE | flags, 0, NULL);

    OK(qchain_finish(c, err));
    qchain_close(c);
    return ret;
}

/* What is named must be there, be what it is called, be long enough, and not stand on the image. */
static void unsafe_is_looked_at(void **state)
{
    unsigned char *want, *got;

    (void)state;
    make_plain("base", NULL, 128, 0, 1);
    make_plain("renamed", NULL, 128, 0, 1);
    make_plain("short", NULL, 64, 0, 1);
    make_plain("tip", "base", 128, 120, 2);
    make_plain("over", "tip", 128, 127, 3);
    want = contents("tip");
    for (uint32_t open = 0; open <= QCHAIN_OPEN_NO_BACKING; open += QCHAIN_OPEN_NO_BACKING) {
        assert_int_equal(unsafe_to("tip", open, "nofile", "qcow2", 0), QCHAIN_E_CHAIN);
        assert_int_equal(unsafe_to("tip", open, "short", "qcow2", 0), QCHAIN_E_CHAIN);
        assert_int_equal(unsafe_to("tip", open, "over", "qcow2", 0), QCHAIN_E_CHAIN);
        assert_int_equal(unsafe_to("tip", open, "tip", "qcow2", 0), QCHAIN_E_CHAIN);
        assert_int_equal(unsafe_to("tip", open, "renamed", NULL, 0), QCHAIN_E_INVAL);
        assert_int_equal(unsafe_to("tip", open, "/etc/passwd", "raw", 0), QCHAIN_E_ACCESS);
    }
    look("tip", want, 128 * 512); /* nothing of that was done */
    assert_int_equal(unsafe_to("tip", 0, "renamed", "qcow2", 0), 0);
    look("tip", want, 128 * 512);
    make_plain("tail", "base", 128, 64, 2); /* needs nothing behind the short one's end */
    assert_int_equal(unsafe_to("tail", 0, "short", "qcow2", 0), 0);
    got = contents("tail");
    assert_int_equal(got[63 * 512], 1);
    assert_int_equal(got[64 * 512], 2);
    free(got);
    assert_int_equal(unsafe_to("tip", 0, "nofile", "qcow2", QCHAIN_REBASE_FORCE), 0);
    assert_int_equal(unsafe_to("tip", QCHAIN_OPEN_NO_BACKING, "base", "qcow2", 0), 0);
    look("tip", want, 128 * 512);
    free(want);
}

/* Once it stands elsewhere, the handle is for reading and writing alone; others need what they need. */
static void calls_are_checked(void **state)
{
    qchain_job_result r = {.struct_size = sizeof(r)};
    const char *child = "tip";
    qchain *c;

    (void)state;
    make_plain("base", NULL, 128, 0, 1);
    make_plain("mid", "base", 128, 60, 4);
    make_plain("tip", "mid", 128, 120, 2);
    c = open_chain("tip", QCHAIN_OPEN_WRITE);
    assert_int_equal(rebase_to(c, "nofile", "qcow2", 0, 0, NULL), QCHAIN_E_NOTFOUND);
    assert_int_equal(rebase_to(c, "base", NULL, QCHAIN_REBASE_FORCE, 0, NULL), QCHAIN_E_INVAL);
    assert_int_equal(rebase_to(c, "base", NULL, 0x100, 0, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_stream(c, 0, 0, NULL, &r, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_stream(c, 4, 0, NULL, &r, err), QCHAIN_E_INVAL);
    OK(qchain_stream(c, 1, 0, NULL, &r, err));
    assert_int_equal(r.layers, 3);
    OK(qchain_stream(c, 2, 0, NULL, &r, err));
    assert_int_equal(r.copied, 64 * 512); /* whole clusters, from sector 56 on */
    assert_int_equal(qchain_stream(c, 2, 0, NULL, &r, err), QCHAIN_E_INVAL);
    assert_int_equal(rebase_to(c, "base", NULL, 0, 0, NULL), QCHAIN_E_INVAL);
    OK(qchain_finish(c, err));
    qchain_close(c);
    c = open_chain("tip", 0);
    assert_int_equal(qchain_stream(c, 1, 0, NULL, &r, err), QCHAIN_E_READONLY);
    qchain_close(c);
    c = open_chain("tip", QCHAIN_OPEN_WRITE | QCHAIN_OPEN_NO_BACKING);
    assert_int_equal(rebase_to(c, "base", "qcow2", 0, 0, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_stream(c, 1, 0, NULL, &r, err), 0);
    qchain_close(c);
    /* As if done before. */
    assert_int_equal(qchain_delete_layer(env, "mid", &child, 1, QCHAIN_DELETE_FILE, NULL, NULL, &r, err), 0);
    assert_int_equal(access("mid", F_OK), -1);
    make_plain("alone", NULL, 128, 0, 1);
    child = "alone";
    assert_int_equal(qchain_delete_layer(env, "tip", &child, 1, QCHAIN_DELETE_FILE, NULL, NULL, &r, err),
                     QCHAIN_E_INVAL);
    assert_int_equal(access("tip", F_OK), 0);
}

/* ------------------------------------------------------------------- jobs --- */

#define HELD (12u << 20) /* bytes that move: more than a few tasks */

static double seconds(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void *go_on_soon(void *job)
{
    usleep(150000);
    qchain_job_pause(job, 0);
    return NULL;
}

/* A tip over a layer that holds much, over a base that holds nothing. */
static void make_much(void)
{
    static unsigned char buf[1 << 20];
    qchain *c;

    make_plain("base", NULL, HELD / 512, HELD / 512 - 1, 1);
    make_plain("mid", "base", HELD / 512, HELD / 512 - 1, 2);
    make_plain("tip", "mid", HELD / 512, HELD / 512 - 1, 3);
    c = open_chain("mid", QCHAIN_OPEN_WRITE | QCHAIN_OPEN_UNSAFE);
    for (uint64_t at = 0; at < HELD; at += sizeof(buf)) {
        memset(buf, (int)(at >> 20) + 1, sizeof(buf));
        OK(qchain_write(c, buf, sizeof(buf), at, 0, err));
    }
    OK(qchain_finish(c, err));
    qchain_close(c);
}

static int move_tip(qchain_job *job)
{
    qchain *c = open_chain("tip", QCHAIN_OPEN_WRITE);
    int ret = rebase_to(c, "base", "qcow2", 0, 1, job);

    OK(qchain_finish(c, err));
    qchain_close(c);
    return ret;
}

static int commit_mid(qchain_job *job)
{
    qchain_commit_opts o;

    qchain_commit_opts_init(&o, sizeof(o));
    o.threads = 1;
    o.job = job;
    return qchain_commit(env, "mid", &o, NULL, err);
}

/* Rebase and commit wait while they are paused, and keep to a rate; their progress comes to its end. */
static void jobs_pause_and_keep_a_rate(void **state)
{
    int (*const op[])(qchain_job *) = {move_tip, commit_mid};
    uint64_t done, total;
    pthread_t thread;
    double begin;

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        qchain_job *job = qchain_job_create();
        unsigned char *want;

        make_much();
        want = contents("tip");
        if (i % 2) {
            qchain_job_rate(job, HELD * 4);
        } else {
            qchain_job_pause(job, 1);
            assert_int_equal(pthread_create(&thread, NULL, go_on_soon, job), 0);
        }
        begin = seconds();
        OK(op[i / 2](job));
        assert_true(seconds() - begin > 0.14);
        if (i % 2 == 0)
            pthread_join(thread, NULL);
        qchain_job_progress(job, &done, &total);
        assert_true(done == total && total == HELD);
        look("tip", want, HELD);
        free(want);
        qchain_job_destroy(job);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unsafe_is_looked_at),
        cmocka_unit_test(calls_are_checked),
        cmocka_unit_test(jobs_pause_and_keep_a_rate),
        cmocka_unit_test(random_chains),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
