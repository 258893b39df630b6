/* SPDX-License-Identifier: MIT */
/* Flushes: how many fsyncs, in which order, what a crash leaves behind at any moment, and what an error does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <cmocka.h>

#include "crash_states.h"
#include "image_tools.h"
#include "util/error.h"
#include "util/bytes.h"
#include "qcow2/l2.h"
#include "writer_tools.h"
#include "share.h"

#define MIB (UINT64_C(1) << 20)

static void good(const struct rec_store *r, uint64_t mapped, uint64_t leaks)
{
    struct verdict v;

    image_check(r->bytes, r->size, &v);
    assert_string_equal(v.damage, "");
    assert_int_equal(v.mapped, mapped);
    assert_int_equal(v.leaks, leaks);
}

static struct rec_store *open_new(struct subject *s, uint32_t version, unsigned cluster_bits, unsigned order,
                                  uint64_t disk)
{
    struct rec_store *r = rec_create(0);

    image_make(r, version, cluster_bits, order, disk);
    assert_int_equal(subject_open(s, r, NULL, NULL), 0);
    rec_reset(r);
    return r;
}

static void test_fsyncs(void **state)
{
    struct subject s;
    struct rec_store *r = open_new(&s, 3, 16, 4, 64 * MIB);
    uint8_t byte = 1;

    (void)state;
    assert_int_equal(qc2_flush(s.w, NULL), 0);
    assert_int_equal(r->n_flushes, 0); /* nothing is dirty */

    assert_int_equal(map_cluster(&s, 0, NULL), 0);
    assert_int_equal(r->n_flushes, 0);
    assert_int_equal(qc2_flush(s.w, NULL), 0);
    assert_int_equal(r->n_flushes, 2); /* a new L2 table needs no more than data does */

    for (uint64_t i = 1; i < 100; i++)
        assert_int_equal(map_cluster(&s, i, NULL), 0);
    assert_int_equal(qc2_flush(s.w, NULL), 0);
    assert_int_equal(r->n_flushes, 4);

    assert_int_equal(qc_store_write(s.store, &byte, 1, 512, NULL), 0);
    assert_int_equal(qc2_flush(s.w, NULL), 0);
    assert_int_equal(r->n_flushes, 5); /* data in place */

    assert_int_equal(unmap_cluster(&s, 3, NULL), 0);
    assert_int_equal(qc2_flush(s.w, NULL), 0);
    assert_int_equal(r->n_flushes, 6); /* MAP alone */

    assert_int_equal(subject_close(&s, true, NULL), 0);
    good(r, 99, 0);
    rec_destroy(r);
}

/* 1 TiB with a small write each 128 MiB: what is dirty is bounded, but flushes are few. */
static void test_scattered(void **state)
{
    struct subject s;
    struct rec_store *r = open_new(&s, 3, 16, 4, 64 * MIB);
    uint64_t host = 16 * MIB;

    (void)state;
    for (unsigned i = 0; i < 8192; i++) {
        struct qc2_slice *slice;

        assert_int_equal(qc2_writer_ready(s.w, NULL), 0);
        pthread_mutex_lock(&s.w->lock);
        assert_int_equal(qc2_table_new(s.w, host, 65536, true, NULL), 0);
        assert_int_equal(qc2_slice_get(s.w, host, &slice, NULL), 0);
        slice->data[0] = 1;
        qc2_slice_dirty(s.w, slice, QC2_MAP);
        qc2_slice_put(s.w, slice);
        pthread_mutex_unlock(&s.w->lock);
        host += 4096; /* as if; memory has no room for the whole */
        assert_true(qc2_meta_dirty_bytes(s.w) <= 25 * MIB);
    }
    assert_true(r->n_flushes <= 8);
    assert_int_equal(subject_close(&s, false, NULL), 0);
    rec_destroy(r);
}

/* --------------------------------------------------------------- crashes --- */

/* A crash's states are looked at. */
struct judge {
    uint64_t states;
    uint64_t qemu_every; /* so many states are shown to qemu-img, too; 0: none */
    char     damage[300];
};

static char dir[] = "/tmp/test_writer_flush.XXXXXX";

/* What qemu-img check says: 0, or 3 for leaks. */
static int ask_qemu(const uint8_t *bytes, uint64_t size)
{
    char path[100], command[300];
    FILE *f;

    snprintf(path, sizeof(path), "%s/image", dir);
    f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, size, f), size);
    assert_int_equal(fclose(f), 0);
    snprintf(command, sizeof(command), "qemu-img check -q -f qcow2 %s >%s/log 2>&1", path, dir);
    return WEXITSTATUS(system(command));
}

static int judge(void *data, struct rec_store *const *state, uint64_t at, const char *which)
{
    struct judge *j = data;
    struct verdict v;

    j->states++;
    image_check(state[0]->bytes, state[0]->size, &v);
    if (v.damage[0])
        snprintf(j->damage, sizeof(j->damage), "%s (%s, at %llu)", v.damage, which, (unsigned long long)at);
    if (j->qemu_every && j->states % j->qemu_every == 0) {
        int code = ask_qemu(state[0]->bytes, state[0]->size);

        if (code != 0 && code != 3)
            fail_msg("qemu-img check: %d (%s, at %llu); see %s", code, which, (unsigned long long)at, dir);
        assert_int_equal(code == 3, v.leaks > 0);
    }
    return v.damage[0] != 0;
}

/* Do things at random, and see what a crash leaves. Returns how many states were looked at; damage: what is
 * wrong, or "". */
static uint64_t random_run(unsigned cluster_bits, unsigned order, bool discard, unsigned steps, uint64_t seed,
                           uint64_t qemu_every, char *damage, size_t room, uint64_t *same)
{
    struct qc_write_opts opts = {.discard = discard};
    struct rec_store *r = rec_create(4 * MIB);
    struct judge j = {.qemu_every = qemu_every};
    struct crash_walk w = {.log = r->log, .most = 256, .random = 20, .seed = seed, .any_time = true, .tell = judge,
                           .data = &j};
    struct subject s;

    image_make(r, order == 4 ? 2 : 3, cluster_bits, order, UINT64_C(256) << cluster_bits);
    rec_record(r->log);
    assert_int_equal(subject_open(&s, r, &opts, NULL), 0);
    for (unsigned i = 0; i < steps; i++) {
        uint64_t x = random_next(&seed), guest = x >> 8 & 255;

        if (x % 16 < 9)
            assert_int_equal(map_cluster_slowly(&s, guest, x >> 20 & 7 ? NULL : qc2_flush, NULL), 0);
        else if (x % 16 < 13)
            assert_int_equal(unmap_cluster(&s, guest, NULL), 0);
        else if (x % 16 < 15)
            assert_int_equal(qc2_flush(s.w, NULL), 0);
        else if (x % 256 == 15) {
            pthread_mutex_lock(&s.w->lock);
            assert_int_equal(qc2_l1_grow(s.w, s.w->l1_size + 1, NULL), 0);
            pthread_mutex_unlock(&s.w->lock);
        }
    }
    assert_int_equal(subject_close(&s, true, NULL), 0);
    crash_walk(&w);
    memcpy(damage, j.damage, room);
    if (!damage[0]) {
        struct verdict v;

        image_check(r->bytes, r->size, &v);
        assert_int_equal(v.leaks, 0);
    }
    rec_destroy(r);
    *same += w.same;
    return w.told;
}

static void test_crashes(void **state)
{
    uint64_t seed = 1, states = 0, same = 0, every = 701;
    char damage[300], command[100];

    (void)state;
    if (system("command -v qemu-img >/dev/null 2>&1") != 0)
        every = 0;
    assert_non_null(mkdtemp(dir));
    for (unsigned order = 0; order <= 6; order++) {
        states += random_run(9, order, order % 2, share(600), ++seed, every, damage, sizeof(damage), &same);
        assert_string_equal(damage, "");
    }
    states += random_run(12, 4, true, share(300), ++seed, every, damage, sizeof(damage), &same);
    assert_string_equal(damage, "");
    print_message("%llu states, %llu of them seen by qemu-img; %llu more the same as another\n",
                  (unsigned long long)states, (unsigned long long)(every ? states / every : 0),
                  (unsigned long long)same);
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    assert_int_equal(system(command), 0);
}

/* Each rule is needed: without it, damage is found. */
static void test_rules(void **state)
{
    uint64_t same = 0;
    char damage[300];

    (void)state;
    for (int rule = 1; rule <= 8; rule++) {
        damage[0] = '\0';
        if (rule == 7) /* no state is damaged; see below */
            continue;
        atomic_store(&qc2_test_break, rule);
        for (uint64_t seed = 1; seed < 20 && !damage[0]; seed++)
            random_run(9, 6, false, 600, seed, 0, damage, sizeof(damage), &same);
        atomic_store(&qc2_test_break, 0);
        print_message("rule %d: %s\n", rule, damage);
        assert_string_not_equal(damage, "");
    }
}

static bool all_synced(const struct rec_store *r)
{
    return r->log->n > 0 && r->log->op[r->log->n - 1].kind == REC_FLUSH;
}

/* What a flush reported is on the medium. */
static void test_durable(void **state)
{
    struct subject s;
    struct rec_store *r = open_new(&s, 3, 9, 4, MIB);

    (void)state;
    rec_record(r->log);
    for (uint64_t i = 0; i < 300; i++) {
        assert_int_equal(i % 3 ? map_cluster(&s, i * 5, NULL) : unmap_cluster(&s, i, NULL), 0);
        assert_int_equal(qc2_flush(s.w, NULL), 0);
        assert_true(all_synced(r));
    }
    atomic_store(&qc2_test_break, 7);
    assert_int_equal(map_cluster(&s, 5, NULL), 0);
    assert_int_equal(qc2_flush(s.w, NULL), 0);
    atomic_store(&qc2_test_break, 0);
    assert_false(all_synced(r));
    assert_int_equal(subject_close(&s, false, NULL), 0);
    rec_destroy(r);
}

/* ---------------------------------------------------------------- errors --- */

/* A disk of work, which an error may end at any place. */
static int work(struct subject *s, unsigned steps, uint64_t seed, unsigned *done)
{
    int rc = 0;

    for (*done = 0; *done < steps && rc == 0; (*done)++) {
        uint64_t x = random_next(&seed), guest = x >> 8 & 255;

        if (x % 16 < 9)
            rc = map_cluster(s, guest, NULL);
        else if (x % 16 < 13)
            rc = unmap_cluster(s, guest, NULL);
        else if (x % 16 < 15)
            rc = qc2_flush(s->w, NULL);
        else if (x % 64 == 15) {
            pthread_mutex_lock(&s->w->lock);
            rc = qc2_l1_grow(s->w, s->w->l1_size + 1, NULL);
            pthread_mutex_unlock(&s->w->lock);
        }
    }
    return rc;
}

static void valid(const struct rec_store *r, const char *when, uint64_t k)
{
    struct verdict v;

    image_check(r->bytes, r->size, &v);
    if (v.damage[0])
        fail_msg("%s, call %llu failed: %s", when, (unsigned long long)k, v.damage);
}

/* Call k fails, and perhaps some after it: the image is valid as it stands; if writing goes on, nothing was
 * lost, and the image is right in the end. */
static void fail_at(uint64_t k, uint64_t n, int code, unsigned order, bool discard)
{
    struct qc_write_opts opts = {.discard = discard};
    struct rec_store *r = rec_create(4 * MIB);
    struct subject s;
    unsigned done;
    bool stopped;
    int rc;

    image_make(r, 3, 9, order, MIB / 8);
    assert_int_equal(subject_open(&s, r, &opts, NULL), 0);
    rec_reset(r);
    r->log->fail_writes_only = true;
    r->log->fail_code = code;
    r->log->fail_from = k;
    r->log->fail_to = k + n;
    rc = work(&s, 150, 7, &done);
    valid(r, "at once", k);
    r->log->fail_from = r->log->fail_to = 0;
    if (rc == 0) {
        assert_int_equal(subject_close(&s, true, NULL), 0);
        rec_destroy(r);
        return;
    }
    rc = work(&s, 150, 8, &done);
    stopped = atomic_load(&s.w->stopped);
    assert_int_equal(rc, stopped ? QCHAIN_E_READONLY : 0);
    valid(r, "after more", k);
    rc = subject_close(&s, true, NULL);
    assert_int_equal(rc, stopped ? QCHAIN_E_READONLY : 0);
    valid(r, "in the end", k);
    rec_destroy(r);
}

static void test_errors(void **state)
{
    (void)state;
    for (uint64_t k = 1; k < 400; k += short_by())
        for (unsigned order = 4; order <= 6; order += 2) {
            fail_at(k, 1, QCHAIN_E_NOSPACE, order, k % 2);
            fail_at(k, 5, QCHAIN_E_IO, order, false);
        }
}

/* A medium without space: the same calls succeed when there is some. */
static void test_no_space(void **state)
{
    struct subject s;
    struct rec_store *r = open_new(&s, 3, 9, 4, MIB);
    uint64_t n = 0;

    (void)state;
    r->log->fail_writes_only = true;
    r->log->fail_code = QCHAIN_E_NOSPACE;
    for (uint64_t i = 0; i < 50; i++)
        assert_int_equal(map_cluster(&s, i, NULL), 0);
    r->log->fail_from = r->log->calls;
    r->log->fail_to = UINT64_MAX;
    assert_int_equal(qc2_flush(s.w, NULL), QCHAIN_E_NOSPACE);
    assert_int_equal(qc2_flush(s.w, NULL), QCHAIN_E_NOSPACE);
    assert_int_equal(map_cluster(&s, 50, NULL), QCHAIN_E_NOSPACE);
    valid(r, "without space", 0);
    r->log->fail_to = 0;
    for (uint64_t i = 50; i < 60; i++)
        assert_int_equal(map_cluster(&s, i, NULL), 0);
    n = 60;
    assert_int_equal(subject_close(&s, true, NULL), 0);
    good(r, n, 0);
    rec_destroy(r);
}

/* ---------------------------------------------------------------- threads --- */

struct worker {
    struct subject *s;
    pthread_t thread;
    uint64_t  seed;
    unsigned  number;
};

static void *worker_run(void *p)
{
    struct worker *k = p;

    for (unsigned i = 0; i < share(1500); i++) {
        uint64_t x = random_next(&k->seed), guest = k->number * 64 + (x >> 8 & 63);
        unsigned token = qc_epoch_enter(k->s->slots);
        int rc = 0;

        if (x % 16 < 9)
            rc = map_cluster(k->s, guest, NULL);
        else if (x % 16 < 13)
            rc = unmap_cluster(k->s, guest, NULL);
        qc_epoch_exit(k->s->slots, token);
        if (x % 16 == 14)
            rc = qc2_flush(k->s->w, NULL);
        if (rc == 0 && x % 512 == 15) {
            pthread_mutex_lock(&k->s->w->lock);
            rc = qc2_l1_grow(k->s->w, k->s->w->l1_size + 1, NULL);
            pthread_mutex_unlock(&k->s->w->lock);
        }
        assert_int_equal(rc, 0);
    }
    return NULL;
}

static void test_threads(void **state)
{
    struct worker k[4];
    struct subject s;
    struct rec_store *r = rec_create(0);
    struct qc_write_opts opts = {.cache_bytes = 64 << 10, .discard = true};
    struct verdict v;

    (void)state;
    image_make(r, 3, 9, 6, MIB / 8);
    assert_int_equal(subject_open(&s, r, &opts, NULL), 0);
    for (unsigned i = 0; i < 4; i++) {
        k[i] = (struct worker){.s = &s, .seed = i + 1, .number = i};
        assert_int_equal(pthread_create(&k[i].thread, NULL, worker_run, &k[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++)
        pthread_join(k[i].thread, NULL);
    assert_int_equal(subject_close(&s, true, NULL), 0);
    image_check(r->bytes, r->size, &v);
    assert_string_equal(v.damage, "");
    assert_int_equal(v.leaks, 0);
    rec_destroy(r);
}

static void *flush_run(void *p)
{
    assert_int_equal(qc2_flush(((struct subject *)p)->w, NULL), 0);
    return NULL;
}

/* Those who wait for a flush are served by one. */
static void test_group(void **state)
{
    struct timespec nap = {0, 50000000};
    pthread_t thread[8];
    struct subject s;
    struct rec_store *r = open_new(&s, 3, 12, 4, MIB);

    (void)state;
    assert_int_equal(map_cluster(&s, 1, NULL), 0);
    pthread_mutex_lock(&s.w->flush_lock);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, flush_run, &s), 0);
    nanosleep(&nap, NULL);
    pthread_mutex_unlock(&s.w->flush_lock);
    for (unsigned i = 0; i < 8; i++)
        pthread_join(thread[i], NULL);
    assert_int_equal(r->n_flushes, 2);
    assert_in_range(atomic_load(&s.w->begun), 1, 8); /* 1, unless a thread came very late */
    assert_int_equal(subject_close(&s, true, NULL), 0);
    rec_destroy(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fsyncs),
        cmocka_unit_test(test_scattered),
        cmocka_unit_test(test_crashes),
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_durable),
        cmocka_unit_test(test_errors),
        cmocka_unit_test(test_no_space),
        cmocka_unit_test(test_group),
        cmocka_unit_test(test_threads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
