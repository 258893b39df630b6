/* SPDX-License-Identifier: MIT */
/* Dirty bitmaps in the file: stored and read back, what a crash leaves, errors at every call, tables that lie. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "crash_states.h"
#include "image_tools.h"
#include "qcow2/qcow2.h"
#include "util/bytes.h"
#include "util/error.h"
#include "writer_tools.h"

#define MIB (UINT64_C(1) << 20)
#define DISK (2 * MIB)
#define CAP (4 * MIB)

static const struct qc_write_ops *ops(void)
{
    return qc_qcow2_format.write;
}

#define OK(call)                                                                                   \
    do {                                                                                           \
        qchain_error e_, *err = &e_;                                                               \
        qc_error_init(err);                                                                        \
        if ((call) != 0)                                                                           \
            fail_msg("%s: %s", #call, e_.text);                                                    \
    } while (0)

static struct qc_bitmap *add(struct qc_bitmap_list *l, const char *name, uint32_t bits, bool enabled)
{
    struct qc_bitmap *b = qc_bitmap_append(l, name, strlen(name));

    b->granularity_bits = bits;
    b->enabled = enabled;
    b->changed = true;
    b->bits = qc_bits_create(qc_bitmap_bits(DISK, bits));
    return b;
}

/* An image of clusters of 512 bytes with three bitmaps: "a" follows the disk, "b" does not, "c" is all ones. */
static struct rec_store *make(void)
{
    struct rec_store *r = rec_create(0);
    struct qc_bitmap_list l = {.disk = DISK};
    struct subject s;

    image_make(r, 3, 9, 4, DISK);
    OK(subject_open(&s, r, NULL, err));
    qc_bits_set(add(&l, "a", 9, true)->bits, 100, 4000);
    qc_bits_set(add(&l, "b", 12, false)->bits, 3, 4);
    qc_bits_set(add(&l, "c", 9, true)->bits, 0, 4096);
    OK(ops()->bitmaps_store(s.img, &l, err));
    qc_bitmap_list_finish(&l);
    OK(subject_close(&s, true, err));
    rec_reset(r);
    return r;
}

static void list(struct subject *s, struct qc_bitmap_list *l)
{
    *l = (struct qc_bitmap_list){0};
    OK(ops()->bitmaps_list(s->img, l, err));
}

static struct qc_bitmap *named(const struct qc_bitmap_list *l, const char *name)
{
    for (size_t i = 0; i < l->n; i++)
        if (strcmp(l->b[i]->name, name) == 0)
            return l->b[i];
    return NULL;
}

static bool has_range(const struct qc_bitmap *b, uint64_t first, uint64_t end)
{
    return b->bits && qc_bits_next(b->bits, 0, true) == first &&
           qc_bits_next(b->bits, first, false) == end && qc_bits_next(b->bits, end, true) == b->bits->n;
}

static void test_round_trip(void **state)
{
    struct rec_store *r = make();
    struct qc_bitmap_list l;
    struct subject s;
    struct verdict v;

    (void)state;
    OK(subject_open(&s, r, NULL, err));
    list(&s, &l);
    assert_int_equal(l.n, 3);
    assert_int_equal(l.disk, DISK);
    for (size_t i = 0; i < 3; i++)
        OK(ops()->bitmap_load(s.img, &l, l.b[i], err));
    assert_true(has_range(named(&l, "a"), 100, 4000) && named(&l, "a")->enabled);
    assert_true(has_range(named(&l, "b"), 3, 4) && !named(&l, "b")->enabled);
    assert_true(has_range(named(&l, "c"), 0, 4096));
    while (l.n > 0)
        qc_bitmap_remove(&l, 0);
    OK(ops()->bitmaps_store(s.img, &l, err));
    assert_false(s.q->header.has_bitmaps);
    assert_int_equal(s.q->header.autoclear, 0);
    OK(subject_close(&s, true, err));
    qc_bitmap_list_finish(&l);
    image_check(r->bytes, r->size, &v);
    assert_string_equal(v.damage, "");
    assert_int_equal(v.leaks, 0); /* all was given back */
    rec_destroy(r);
}

/* ------------------------------------------------------------------- crashes --- */

static void count_clusters(struct subject *s, uint64_t host, uint64_t length, uint8_t *seen)
{
    for (uint64_t at = host; at < host + length; at += 512) {
        uint64_t count;

        assert_int_equal(seen[at / 512]++, 0);
        OK(qc2_refcount_get(s->w, at, &count, err));
        assert_true(count == 1);
    }
}

/* Every cluster that bitmaps refer to is counted, and theirs alone. Returns how many there are. */
static uint64_t check_counts(struct subject *s, const struct qc_bitmap_list *l)
{
    uint8_t *seen = calloc(1, CAP / 512);
    uint64_t n = 0;

    count_clusters(s, s->q->header.bitmap_dir_offset, s->q->header.bitmap_dir_size, seen);
    for (size_t i = 0; i < l->n; i++) {
        const struct qc_bitmap *b = l->b[i];

        count_clusters(s, b->host, UINT64_C(8) * b->host_entries, seen);
        for (uint32_t k = 0; k < b->host_entries; k++) {
            uint64_t e = qc_be64(s->rec->bytes + b->host + UINT64_C(8) * k);

            if (e > 1)
                count_clusters(s, e, 512, seen);
        }
    }
    for (uint64_t i = 0; i < CAP / 512; i++)
        n += seen[i];
    free(seen);
    return n;
}

/* What the session below may leave. */
static void check_state(struct rec_store *r)
{
    struct qc_bitmap_list l;
    struct verdict v;
    struct subject s;
    const struct qc_bitmap *a;
    bool new;

    image_check(r->bytes, r->size, &v);
    assert_string_equal(v.damage, "");
    OK(subject_open(&s, r, NULL, err));
    list(&s, &l);
    check_counts(&s, &l);
    new = named(&l, "d") != NULL;
    assert_true(new != (named(&l, "c") != NULL)); /* the old ones or the new */
    assert_int_equal(l.n, 3);
    for (size_t i = 0; i < l.n; i++)
        OK(ops()->bitmap_load(s.img, &l, l.b[i], err));
    assert_true(has_range(named(&l, "b"), 3, 4) && !named(&l, "b")->in_use);
    a = named(&l, "a");
    assert_true(new ? has_range(a, 100, 4096) && !a->in_use : has_range(a, 100, 4000));
    if (v.mapped > 0) /* something was written */
        assert_true(new || (a->in_use && named(&l, "c")->in_use));
    qc_bitmap_list_finish(&l);
    subject_close(&s, false, NULL);
}

/* Marked, written to, and stored: with another bit in "a", without "c", with "d". */
static int session(struct subject *s, qchain_error *err)
{
    struct qc_bitmap_list l = {0};
    int rc = ops()->bitmaps_list(s->img, &l, err);

    if (rc == 0)
        rc = ops()->bitmap_load(s->img, &l, named(&l, "a"), err);
    if (rc == 0) {
        named(&l, "a")->mark = true; /* "c" was removed */
        qc_bitmap_remove(&l, 2);
        rc = ops()->bitmaps_mark(s->img, &l, false, err);
    }
    if (rc == 0)
        rc = map_cluster(s, 5, err);
    if (rc == 0)
        rc = qc2_flush(s->w, err);
    if (rc == 0) {
        qc_bits_set(named(&l, "a")->bits, 4000, 4096);
        named(&l, "a")->changed = true;
        qc_bits_set(add(&l, "d", 16, true)->bits, 1, 2);
        rc = ops()->bitmaps_store(s->img, &l, err);
        if (rc == QCHAIN_E_NOSPACE)
            rc = ops()->bitmaps_store(s->img, &l, err); /* again */
    }
    qc_bitmap_list_finish(&l);
    return rc;
}

static int look_at(void *data, struct rec_store *const *state, uint64_t at, const char *which)
{
    (void)data;
    (void)at;
    (void)which;
    check_state(state[0]);
    return 0;
}

static void test_crash(void **state)
{
    struct rec_store *r = make();
    struct crash_walk w = {.log = r->log, .most = 1000, .seed = 1, .any_time = true, .tell = look_at};
    struct subject s;

    (void)state;
    rec_record(r->log);
    OK(subject_open(&s, r, NULL, err));
    OK(session(&s, err));
    OK(subject_close(&s, true, err));
    crash_walk(&w);
    print_message("%llu states, %llu more the same\n", (unsigned long long)w.told, (unsigned long long)w.same);
    assert_true(w.told > 60);
    check_state(r);
    rec_destroy(r);
}

/* -------------------------------------------------------------------- errors --- */

static void test_errors(void **state)
{
    static const int code[] = {QCHAIN_E_IO, QCHAIN_E_NOSPACE};
    int rc = -1;

    (void)state;
    for (unsigned kind = 0; kind < 2; kind++, rc = -1)
        for (uint64_t k = 1; rc != 0; k++) {
            struct rec_store *r = make();
            struct verdict v;
            struct subject s;
            uint64_t calls;

            OK(subject_open(&s, r, NULL, err));
            calls = r->log->calls;
            r->log->fail_writes_only = kind == 1;
            r->log->fail_from = (kind == 1 ? r->log->calls : calls) + k;
            r->log->fail_to = r->log->fail_from + 1;
            r->log->fail_code = code[kind];
            rc = session(&s, NULL);
            if (r->log->calls < r->log->fail_from)
                rc = 0; /* nothing failed */
            else if (kind == 0)
                assert_true(rc == 0 || rc == code[0] || rc == QCHAIN_E_READONLY);
            r->log->fail_from = r->log->fail_to = 0;
            subject_close(&s, !atomic_load(&s.w->stopped), NULL);
            check_state(r);
            OK(subject_open(&s, r, NULL, err));
            if (rc == 0) {
                struct qc_bitmap_list l;

                list(&s, &l);
                image_check(r->bytes, r->size, &v);
                if (kind == 1)
                    assert_int_equal(v.leaks, check_counts(&s, &l));
                else /* what an old table referred to is lost if it cannot be read */
                    assert_true(v.leaks >= check_counts(&s, &l));
                qc_bitmap_list_finish(&l);
            } else if (r->log->calls >= 10000) {
                fail();
            }
            subject_close(&s, false, NULL);
            rec_destroy(r);
            if (rc == 0 && kind == 1 && k < 30)
                rc = -1; /* a second attempt did it */
        }
}

/* -------------------------------------------------------------------- damage --- */

static int load_of(struct rec_store *r, const char *name)
{
    struct qc_bitmap_list l;
    struct subject s;
    int rc;

    OK(subject_open(&s, r, NULL, err));
    list(&s, &l);
    rc = ops()->bitmap_load(s.img, &l, named(&l, name), NULL);
    qc_bitmap_list_finish(&l);
    subject_close(&s, false, NULL);
    return rc;
}

static void remove_all(struct rec_store *r)
{
    struct qc_bitmap_list l = {.disk = DISK};
    struct subject s;

    OK(subject_open(&s, r, NULL, err));
    OK(ops()->bitmaps_store(s.img, &l, err));
    OK(subject_close(&s, true, err));
}

static void test_bad_tables(void **state)
{
    struct qc_bitmap_list l;
    struct rec_store *r;
    struct verdict v;
    struct subject s;
    uint64_t table = 0, size = 0;

    (void)state;
    for (unsigned i = 0; i < 6; i++) {
        r = make();
        OK(subject_open(&s, r, NULL, err));
        list(&s, &l);
        table = named(&l, "b")->host;
        size = r->size;
        qc_bitmap_list_finish(&l);
        subject_close(&s, false, NULL);
        qc_put_be64(r->bytes + table, (const uint64_t[]){2, UINT64_C(1) << 63, 513, 256 + 512,
                                                       qc_align_up(size, 512), UINT64_MAX}[i]);
        assert_int_equal(load_of(r, "b"), QCHAIN_E_CORRUPT);
        assert_int_equal(load_of(r, "a"), 0);
        remove_all(r);
        image_check(r->bytes, r->size, &v);
        assert_string_equal(v.damage, "");
        assert_int_equal(v.leaks, 1); /* nobody knows where it was */
        rec_destroy(r);
    }
}

static void test_bad_directory(void **state)
{
    struct rec_store *r = make();
    uint64_t dir = 0, calls;
    struct subject s;

    (void)state;
    OK(subject_open(&s, r, NULL, err));
    dir = s.q->header.bitmap_dir_offset;
    subject_close(&s, false, NULL);
    qc_put_be32(r->bytes + dir + 8, 2); /* "a" has a table of one entry */
    assert_int_equal(load_of(r, "a"), QCHAIN_E_CORRUPT);
    qc_put_be32(r->bytes + dir + 12, 8); /* reserved */
    calls = r->n_writes;
    assert_int_equal(subject_open(&s, r, NULL, NULL), QCHAIN_E_CORRUPT);
    assert_int_equal(r->n_writes, calls);
    rec_destroy(r);
}

/* Extra data stays; what needs it is left alone. */
static void test_extra_data(void **state)
{
    struct rec_store *r = make();
    struct qc_bitmap_list l;
    struct subject s;
    uint64_t dir;
    uint8_t *p;

    (void)state;
    OK(subject_open(&s, r, NULL, err));
    dir = s.q->header.bitmap_dir_offset;
    subject_close(&s, false, NULL);
    p = r->bytes + dir; /* the first entry, of 32 bytes, becomes one of 40 */
    memmove(p + 40, p + 32, 64);
    p[32] = p[24];
    p[24] = 0xee;
    memset(p + 25, 0, 7);
    qc_put_be32(p + 20, 8);
    for (size_t at = 0; at < 512; at += 8) /* the extension */
        if (qc_be32(r->bytes + at) == QC2_EXT_BITMAPS && at >= 104)
            qc_put_be64(r->bytes + at + 16, 104);
    OK(subject_open(&s, r, NULL, err));
    list(&s, &l);
    assert_true(l.b[0]->foreign && l.b[0]->enabled && !l.b[1]->foreign);
    OK(ops()->bitmaps_mark(s.img, &l, true, err));
    qc_bitmap_remove(&l, 1);
    OK(ops()->bitmaps_store(s.img, &l, err));
    qc_bitmap_list_finish(&l);
    OK(subject_close(&s, true, err));
    OK(subject_open(&s, r, NULL, err));
    list(&s, &l);
    assert_int_equal(l.n, 2);
    assert_true(l.b[0]->foreign && l.b[0]->in_use && !l.b[1]->in_use);
    assert_int_equal(r->bytes[s.q->header.bitmap_dir_offset + 24], 0xee);
    check_counts(&s, &l);
    qc_bitmap_list_finish(&l);
    subject_close(&s, false, NULL);
    rec_destroy(r);
}

static void test_limits(void **state)
{
    struct rec_store *r = rec_create(0);
    struct qc_bitmap_list l = {.disk = DISK};
    struct subject s;

    (void)state;
    image_make(r, 3, 9, 4, DISK);
    OK(subject_open(&s, r, NULL, err));
    assert_int_equal(ops()->bitmap_fits(s.img, &l, 9, UINT64_C(1) << 41, 1, NULL), 0);
    assert_int_equal(ops()->bitmap_fits(s.img, &l, 9, (UINT64_C(1) << 41) + 512, 1, NULL), QCHAIN_E_LIMIT);
    l.n = 65535;
    l.b = calloc(l.n, sizeof(*l.b));
    assert_int_equal(ops()->bitmap_fits(s.img, &l, 9, DISK, 1, NULL), QCHAIN_E_LIMIT);
    free(l.b);
    subject_close(&s, false, NULL);
    image_make(r, 2, 9, 4, DISK);
    OK(subject_open(&s, r, NULL, err));
    l.n = 0;
    assert_int_equal(ops()->bitmap_fits(s.img, &l, 9, DISK, 1, NULL), QCHAIN_E_UNSUPPORTED);
    subject_close(&s, false, NULL);
    rec_destroy(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_crash),
        cmocka_unit_test(test_errors), cmocka_unit_test(test_bad_tables),
        cmocka_unit_test(test_bad_directory), cmocka_unit_test(test_extra_data),
        cmocka_unit_test(test_limits),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
