/* SPDX-License-Identifier: MIT */
/*
 * Check and repair: counts, sweeps and refcounts by themselves; then every small image of tests/files, as it is and
 * with damage from a seed: repairs that run to their end, that fail at each write, and that are cut off there. The
 * directory comes from QC_FILES; without it the files are made. QC_SEED and QC_CHECK_ROUNDS: of the damage.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>

#include "crash_states.h"
#include "image_tools.h"
#include "qcow2/check_int.h"
#include "qcow2/qcow2.h"
#include "util/bytes.h"
#include "util/error.h"
#include "share.h"

#define MAX_FILE (160u << 10)
#define MAX_DISK (4u << 20)

static char     dir[512];
static char    *names[512];
static unsigned n_names;
static uint64_t seed;

static int find_files(void **state)
{
    const char *given = getenv("QC_FILES");
    char command[1024];
    struct dirent *e;
    DIR *d;

    (void)state;
    if (given) {
        snprintf(dir, sizeof(dir), "%s", given);
    } else {
        strcpy(dir, "/tmp/qchain-check-XXXXXX");
        assert_non_null(mkdtemp(dir));
        snprintf(command, sizeof(command), "python3 tests/files/make-files.py %s >/dev/null", dir);
        assert_int_equal(system(command), 0);
    }
    d = opendir(dir);
    assert_non_null(d);
    while ((e = readdir(d)))
        if (strstr(e->d_name, ".qcow2") && n_names < 512)
            names[n_names++] = strdup(e->d_name);
    closedir(d);
    assert_true(n_names > 100);
    seed = getenv("QC_SEED") ? strtoull(getenv("QC_SEED"), NULL, 0) : 1;
    print_message("QC_SEED=%" PRIu64 "\n", seed);
    return 0;
}

static int remove_files(void **state)
{
    char command[1024];

    (void)state;
    for (unsigned i = 0; i < n_names; i++)
        free(names[i]);
    if (getenv("QC_FILES"))
        return 0;
    snprintf(command, sizeof(command), "rm -r %s", dir);
    return system(command);
}

static uint8_t *load(const char *name, uint64_t *size)
{
    char path[1024];
    uint8_t *p;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    p = load_file(path, size);
    if (p && *size > MAX_FILE) {
        free(p);
        return NULL;
    }
    return p;
}

/* ----------------------------------------------------------------- parts --- */

static void counts_of_all_sizes(void **state)
{
    struct qc2_tally t;

    (void)state;
    assert_int_equal(qc2_tally_init(&t, 1000), 0);
    for (uint64_t k = 0; k < 1000; k++)
        for (unsigned i = 0; i < 3; i++)
            assert_int_equal(qc2_tally_add(&t, k, k), 0);
    assert_int_equal(qc2_tally_add(&t, 999, UINT64_MAX), 0);
    assert_int_equal(qc2_tally_add(&t, 7, 254), 0);
    assert_true(qc2_tally_get(&t, 999) == UINT64_MAX);
    assert_true(qc2_tally_get(&t, 7) == 21 + 254);
    for (uint64_t k = 0; k < 999; k++)
        if (k != 7)
            assert_true(qc2_tally_get(&t, k) == 3 * k);
    qc2_tally_finish(&t);
}

static int add_piece(void *data, uint64_t start, uint64_t end, uint64_t times, uint64_t active,
                     qchain_error *err)
{
    char *text = data;

    (void)err;
    sprintf(text + strlen(text), "%d-%d:%d,%d ", (int)start, (int)end, (int)times, (int)active);
    return 0;
}

static void stretches_over_each_other(void **state)
{
    struct qc2_stretches s = {0};
    char text[256] = "";
    qchain_error err;

    (void)state;
    qc_error_init(&err);
    assert_int_equal(qc2_stretch_add(&s, 10, 30, false, &err), 0);
    assert_int_equal(qc2_stretch_add(&s, 20, 40, true, &err), 0);
    assert_int_equal(qc2_stretch_add(&s, 20, 30, false, &err), 0);
    assert_int_equal(qc2_stretch_add(&s, 5, 5, false, &err), 0);
    assert_int_equal(qc2_stretch_add(&s, 50, 60, false, &err), 0);
    assert_int_equal(qc2_sweep(&s, add_piece, text, &err), 0);
    assert_string_equal(text, "10-20:1,0 20-30:3,1 30-40:1,1 50-60:1,0 ");
    free(s.v);
}

static void refcounts_of_all_widths(void **state)
{
    (void)state;
    for (unsigned order = 0; order <= 6; order++) {
        uint64_t max = order == 6 ? UINT64_MAX : (UINT64_C(1) << (1u << order)) - 1;
        uint8_t raw[512] = {0};
        uint64_t rnd = order + 1;

        for (unsigned i = 0; i < 64; i++)
            qc2_refcount_encode(raw, i, order, random_next(&rnd) & max);
        rnd = order + 1;
        for (unsigned i = 0; i < 64; i++)
            assert_true(qc2_refcount_decode(raw, i, order) == (random_next(&rnd) & max));
    }
}

/* ---------------------------------------------------------------- checks --- */

/* How a repair is cut off at one of its calls that change something. */
enum cut {
    CUT_ERROR, /* that call fails, the next ones do not */
    CUT_KILL,  /* that one and all later ones fail */
    CUT_TORN,  /* the same, but half of a write arrives */
    CUT_POWER  /* the same, and of what was not flushed any sectors arrive */
};

static struct rec_store *disk(const uint8_t *p, uint64_t size)
{
    struct rec_store *d = rec_create(2 * size + (10u << 20));

    memcpy(d->bytes, p, size);
    d->size = size;
    d->log->fail_writes_only = true;
    return d;
}

static struct qc_store *store_of(struct rec_store *d)
{
    qchain_store from;
    struct qc_store *s;

    rec_store_of(d, &from);
    assert_int_equal(qc_store_create(&s, &from, NULL, NULL), 0);
    return s;
}

struct told {
    unsigned errors, warnings;
    bool     structure; /* refcount structures are damaged */
    char     first[1024];
};

static void found(void *data, int level, const char *message)
{
    struct told *t = data;

    if (t->errors + t->warnings == 0)
        snprintf(t->first, sizeof(t->first), "%s", message);
    t->structure |= strstr(message, "refcount table") || strstr(message, "refcount_table") ||
                    strstr(message, "refcount block");
    t->errors += level == QCHAIN_LOG_ERROR;
    t->warnings += level == QCHAIN_LOG_WARN;
}

static int check(struct rec_store *d, uint32_t flags, struct qc2_check_result *r, struct told *t)
{
    struct qc2_check_opts o = {.flags = flags, .found = t ? found : NULL, .found_data = t};
    struct qc_store *s = store_of(d);
    qchain_error err;
    int rc;

    qc_error_init(&err);
    memset(r, 0, sizeof(*r));
    rc = qc2_check(s, &o, r, &err);
    qc_store_destroy(s);
    if (rc < 0) {
        assert_int_equal(err.code, rc);
        if (t)
            snprintf(t->first, sizeof(t->first), "%s", err.text);
    }
    return rc;
}

struct expected {
    const char *name;
    unsigned    corruptions, leaks, allocated, fragmented, compressed;
    uint64_t    end;
    const char *says;
};

static void numbers(void **state)
{
    static const struct expected rows[] = {
        {"good-v3.qcow2", 0, 0, 4, 1, 0, 36864, ""},
        {"good-v2.qcow2", 0, 0, 3, 1, 0, 32768, ""},
        {"good-zlib-packed.qcow2", 0, 0, 4, 4, 4, 32768, ""},
        {"good-snapshots.qcow2", 0, 0, 4, 2, 0, 65536, ""},
        {"good-bitmaps.qcow2", 0, 0, 4, 1, 0, 49152, ""},
        {"good-refcount-1.qcow2", 0, 0, 4, 1, 0, 36864, ""},
        {"good-refcount-64.qcow2", 0, 0, 4, 1, 0, 36864, ""},
        {"good-beyond-size.qcow2", 0, 0, 514, 512, 0, 36864, ""},
        {"good-bitmaps-stale.qcow2", 0, 1, 4, 1, 0, 40960, "bitmaps are lost"},
        {"good-copied-flags.qcow2", 1, 0, 4, 1, 0, 36864, "the COPIED flag is not set"},
        {"good-reserved-bits.qcow2", 2, 0, 4, 1, 0, 36864, "reserved bits are set"},
        {"good-zlib-copied.qcow2", 1, 0, 1, 1, 1, 24576, "with the COPIED flag"},
        {"bad-entry-past-end.qcow2", 1, 0, 5, 3, 0, 36864, "past the end of the file"},
        {"bad-l1-bomb.qcow2", 1, 0, 0, 0, 0, 20480, "refcount 0, but 32 references"},
        {"bad-l1-past-end.qcow2", 1, 6, 0, 0, 0, 36864, "the L1 table at"},
        {"bad-snapshot-l1-unaligned.qcow2", 1, 6, 4, 1, 0, 45056, "snapshot 0: its L1 table"},
        {"bad-data-file-offset.qcow2", 1, 0, 6, 4, 0, 20480, "differs from the disk offset"},
        {"bad-subcluster-both.qcow2", 2, 0, 5, 3, 0, 147456, "both stored and zero"},
        {"bad-bitmap-name-twice.qcow2", 1, 0, 4, 1, 0, 45056, "refcount 1, but 2 references"},
    };

    (void)state;
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        const struct expected *e = &rows[i];
        struct qc2_check_result r;
        struct told t = {0};
        struct rec_store *d;
        uint64_t size;
        uint8_t *p = load(e->name, &size);

        assert_non_null(p);
        d = disk(p, size);
        assert_int_equal(check(d, 0, &r, &t), 0);
        if (r.corruptions != e->corruptions || r.leaks != e->leaks ||
            r.allocated_clusters != e->allocated || r.fragmented_clusters != e->fragmented ||
            r.compressed_clusters != e->compressed || r.image_end_offset != e->end ||
            !strstr(t.first, e->says) || (t.errors > 0) != (r.corruptions > 0))
            fail_msg("%s: %d corrupt, %d leaks, %d/%d/%d, end %d, '%s'", e->name, (int)r.corruptions,
                     (int)r.leaks, (int)r.allocated_clusters, (int)r.fragmented_clusters,
                     (int)r.compressed_clusters, (int)r.image_end_offset, t.first);
        assert_int_equal(memcmp(d->bytes, p, size), 0);
        rec_destroy(d);
        free(p);
    }
}

static void memory_is_bounded(void **state)
{
    struct qc2_check_opts o = {.max_memory = 8};
    struct qc2_check_result r;
    struct rec_store *d;
    struct qc_store *s;
    qchain_error err;
    uint64_t size;
    uint8_t *p = load("good-v3.qcow2", &size);

    (void)state;
    d = disk(p, size);
    s = store_of(d);
    qc_error_init(&err);
    assert_int_equal(qc2_check(s, &o, &r, &err), QCHAIN_E_LIMIT);
    assert_non_null(strstr(err.text, "clusters take"));
    qc_store_destroy(s);
    rec_destroy(d);
    free(p);
}

/* With an L2 table that cannot be read its clusters look unused: nothing must be freed. */
static void unreadable_tables_free_nothing(void **state)
{
    struct qc2_check_result r;
    struct rec_store *d;
    uint64_t size;
    uint8_t *p = load("good-v3.qcow2", &size);

    (void)state;
    d = disk(p, size);
    d->bad_from = 20480;
    d->bad_end = 20488;
    assert_int_equal(check(d, QC2_CHECK_REPAIR_ALL, &r, NULL), 0);
    assert_true(r.check_errors > 0 && r.leaks_fixed == 0 && r.corruptions_fixed == 0);
    assert_int_equal(memcmp(d->bytes, p, size), 0);
    rec_destroy(d);
    free(p);
}

static int stop(void *data, qchain_error *err)
{
    return --*(int *)data < 0 ? qc_fail(err, QCHAIN_E_CANCELLED, "enough") : 0;
}

static void can_be_cancelled(void **state)
{
    uint64_t size;
    uint8_t *p = load("good-snapshots.qcow2", &size);
    int rc = QCHAIN_E_CANCELLED, n = 0;

    (void)state;
    for (; rc != 0 && n < 100; n++) {
        int left = n;
        struct qc2_check_opts o = {.go_on = stop, .go_on_data = &left};
        struct qc2_check_result r;
        struct rec_store *d;
        struct qc_store *s;
        qchain_error err;

        d = disk(p, size);
        s = store_of(d);
        qc_error_init(&err);
        rc = qc2_check(s, &o, &r, &err);
        assert_true(rc == 0 || rc == QCHAIN_E_CANCELLED);
        qc_store_destroy(s);
        rec_destroy(d);
    }
    assert_true(n > 3 && rc == 0);
    free(p);
}

/* ------------------------------------------------------ hostile claims --- */

/* Thousands of snapshots claim L1 tables that lie over each other, each entry of which refers to one L2 table: all
 * is read once. */
static void claims_cost_nothing(void **state)
{
    enum { BITS = 9, SNAPSHOTS = 20000, ENTRY = 56 };
    uint64_t table = 4096, l1 = table + SNAPSHOTS * ENTRY, size;
    struct qc2_check_result r;
    struct rec_store *d;
    uint8_t *p;

    (void)state;
    l1 = qc_align_up(l1, 512);
    size = l1 + (8u << 20);
    p = calloc(1, size);
    assert_non_null(p);
    memcpy(p, "QFI\xfb\0\0\0\x03", 8);
    p[23] = BITS;
    p[60 + 2] = SNAPSHOTS >> 8;
    p[60 + 3] = SNAPSHOTS & 255;
    p[64 + 6] = table >> 8;
    p[48 + 6] = 2; /* a refcount table, empty */
    p[56 + 3] = 1;
    p[99] = 4;
    p[103] = 104;
    for (uint64_t i = 0; i < SNAPSHOTS; i++) {
        uint8_t *s = p + table + i * ENTRY;
        uint64_t at = __builtin_bswap64(l1 + i % 4096 * 512);

        memcpy(s, &at, 8);
        s[9] = 0x0c; /* 786432 entries: 6 MiB */
        s[39] = 16;
    }
    for (uint64_t at = l1; at < size; at += 8)
        p[at + 6] = 1024 >> 8; /* an L2 table at 1024 */
    d = disk(p, size);
    assert_int_equal(check(d, 0, &r, NULL), 0);
    assert_true(r.corruptions > 1000);
    rec_destroy(d);
    free(p);
}

/* --------------------------------------------------------------- repairs --- */

/* The disk as a reader sees it, or NULL if he sees an error. */
static uint8_t *guest(const struct rec_store *d, const char *snapshot, uint64_t *size)
{
    struct qc_store *s = memory_store(d->bytes, d->size, d->size);
    struct qc_image_opts io = {.salvage = true, .snapshot = snapshot};
    struct qc_image *img = NULL;
    uint8_t *out = NULL;
    qchain_error err;

    qc_error_init(&err);
    if (qc_qcow2_format.open(&img, s, &io, &err) == 0 && img->virtual_size <= MAX_DISK &&
        !img->wants_data_file) {
        *size = img->virtual_size;
        out = calloc(1, *size + 1);
        if (read_layer(img, NULL, out, &err) != 0) {
            free(out);
            out = NULL;
        }
    }
    qc_qcow2_format.close(img);
    qc_store_destroy(s);
    return out;
}

/* What was readable is so still, and the same. */
static void expect_same_guest(const struct rec_store *before, const struct rec_store *after,
                              const char *name)
{
    static const char *const which[] = {NULL, "1"};

    for (unsigned i = 0; i < 2; i++) {
        uint64_t size = 0, size2 = 0;
        uint8_t *a = guest(before, which[i], &size);
        uint8_t *b = a ? guest(after, which[i], &size2) : NULL;

        if (a && (!b || size != size2 || memcmp(a, b, size) != 0))
            fail_msg("%s: the %s changed", name, i ? "snapshot" : "disk");
        free(a);
        free(b);
    }
}

static bool no_worse(const struct qc2_check_result *now, const struct qc2_check_result *before)
{
    return now->corruptions <= before->corruptions && now->check_errors <= before->check_errors;
}

/* The image cut off at operation k of its repair, then repaired again to the end. */
static void cut_at(const char *name, const struct rec_store *from, uint32_t flags, enum cut kind,
                   unsigned k, const struct qc2_check_result *before, bool structure,
                   const struct qc2_check_result *whole)
{
    struct qc2_check_result r;
    struct rec_store *d = disk(from->bytes, from->size);
    uint64_t power = k + 1;
    int rc;

    if (kind == CUT_POWER)
        rec_record(d->log);
    d->log->fail_from = k + 1;
    d->log->fail_to = kind == CUT_ERROR ? k + 2 : UINT64_MAX;
    d->log->fail_torn = kind == CUT_TORN;
    rc = check(d, flags, &r, NULL);
    if (kind != CUT_ERROR && rc == 0)
        fail_msg("%s: the repair does not notice that operation %u fails", name, k);
    if (kind == CUT_POWER)
        crash_restart(d->log, &power);
    rec_reset(d);
    d->log->on = false;
    assert_int_equal(check(d, 0, &r, NULL), 0);
    /* A refcount table that claims the end of the file and more is seen to claim more as the file grows. */
    if (!structure && !no_worse(&r, before))
        fail_msg("%s: cut off (kind %d) at operation %u: %d corruptions, before %d", name, (int)kind, k,
                 (int)r.corruptions, (int)before->corruptions);
    expect_same_guest(from, d, name);
    assert_int_equal(check(d, flags, &r, NULL), 0);
    /* The room that the first attempt took may be what the second lacks, where an entry refers to a place just
     * past the end; not where all can be mended. */
    if (!no_worse(&r, structure && whole->corruptions > 0 ? before : whole) ||
        (whole->leaks == 0 && whole->corruptions == 0 && r.leaks > 0))
        fail_msg("%s: repaired after it was cut off (kind %d) at %u: %d corruptions, %d leaks; without %d, "
                 "%d", name, (int)kind, k, (int)r.corruptions, (int)r.leaks, (int)whole->corruptions,
                 (int)whole->leaks);
    expect_same_guest(from, d, name);
    rec_destroy(d);
}

/* Repair an image whole, and cut off everywhere. true if there was anything to do. */
static bool repair_all_ways(const char *name, const uint8_t *p, uint64_t size, uint32_t flags)
{
    struct qc2_check_result before, r, again;
    struct rec_store *from = disk(p, size), *d = disk(p, size);
    struct told t = {0};
    unsigned n_ops = 0;

    if (check(d, 0, &before, &t) != 0)
        goto out;
    rec_reset(d);
    if (check(d, flags, &r, &t) != 0)
        fail_msg("%s: the repair fails: %s", name, t.first);
    n_ops = (unsigned)d->log->calls;
    if (!no_worse(&r, &before))
        fail_msg("%s: %d corruptions, %d after the repair", name, (int)before.corruptions,
                 (int)r.corruptions);
    expect_same_guest(from, d, name);
    assert_int_equal(check(d, 0, &again, NULL), 0);
    if (again.corruptions != r.corruptions || again.leaks != r.leaks ||
        (r.corruptions == 0 && (again.dirty || again.corrupt)))
        fail_msg("%s: the repair says %d corruptions, %d leaks; the next check %d, %d", name,
                 (int)r.corruptions, (int)r.leaks, (int)again.corruptions, (int)again.leaks);
    for (unsigned k = 0; k < n_ops; k += short_by())
        for (int kind = CUT_ERROR; kind <= CUT_POWER; kind++)
            cut_at(name, from, flags, (enum cut)kind, k, &before, t.structure, &r);
out:
    rec_destroy(from);
    rec_destroy(d);
    return n_ops > 0;
}

static void files_are_repaired(void **state)
{
    unsigned n = 0;

    (void)state;
    for (unsigned i = 0; i < n_names; i++) {
        uint64_t size;
        uint8_t *p = load(names[i], &size);

        if (!p)
            continue;
        n += repair_all_ways(names[i], p, size, QC2_CHECK_REPAIR_ALL);
        repair_all_ways(names[i], p, size, QC2_CHECK_REPAIR_LEAKS);
        free(p);
    }
    assert_true(n > 10);
}

/* What can be mended is, wholly. */
static void repairs_that_succeed(void **state)
{
    static const char *const good[] = {
        "good-copied-flags.qcow2", "good-reserved-bits.qcow2", "good-zlib-copied.qcow2",
        "good-reftable-missing.qcow2", "good-reftable-past-end.qcow2", "bad-zero-unaligned.qcow2",
        "good-subclusters-compressed.qcow2", "bad-subcluster-unaligned.qcow2", "bad-l1-bomb.qcow2",
        "good-bitmaps-stale.qcow2", "good-dirty.qcow2", "good-corrupt.qcow2",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        struct qc2_check_result r;
        struct rec_store *d;
        uint64_t size;
        uint8_t *p = load(good[i], &size);

        assert_non_null(p);
        d = disk(p, size);
        assert_int_equal(check(d, QC2_CHECK_REPAIR_ALL, &r, NULL), 0);
        if (r.corruptions + r.leaks + r.check_errors > 0 || r.dirty || r.corrupt)
            fail_msg("%s: %d corruptions, %d leaks are left", good[i], (int)r.corruptions, (int)r.leaks);
        assert_int_equal(d->bytes[79] & 3, 0);
        rec_destroy(d);
        free(p);
    }
}

/* A repair of leaks changes nothing but refcounts that are too high. */
static void leaks_alone(void **state)
{
    struct qc2_check_result r;
    struct rec_store *d;
    uint64_t size;
    uint8_t *p = load("good-copied-flags.qcow2", &size);

    (void)state;
    d = disk(p, size);
    assert_int_equal(check(d, QC2_CHECK_REPAIR_LEAKS, &r, NULL), 0);
    assert_true(r.corruptions == 1 && r.corruptions_fixed == 0);
    assert_int_equal(memcmp(d->bytes, p, size), 0);
    rec_destroy(d);
    free(p);
}

/* The cluster at `at` is counted twice, and the entry that refers to it says so. */
static void make_shared(uint8_t *p, uint8_t *entry)
{
    uint64_t at = qc_be64(entry) & 0xfffffffffffe00, block = qc_be64(p + qc_be64(p + 48));

    if (at == 0 || qc_be64(entry) >> 62 & 1)
        return;
    entry[0] &= 0x7f;
    p[block + 2 * (at >> p[23]) + 1] = 2;
}

/* A cluster that was taken for shared is its owner's alone once the leak is mended, and is marked so. */
static void leaks_of_what_was_shared(void **state)
{
    struct qc2_check_result r;
    struct rec_store *d;
    uint64_t size, l1, table;
    uint8_t *p = load("good-v3.qcow2", &size);

    (void)state;
    l1 = qc_be64(p + 40);
    for (uint32_t i = 0; i < qc_be32(p + 36); i++) {
        table = qc_be64(p + l1 + 8 * i) & 0xfffffffffffe00;
        for (uint64_t k = 0; table && k < UINT64_C(1) << p[23]; k += 8)
            make_shared(p, p + table + k);
        make_shared(p, p + l1 + 8 * i);
    }
    d = disk(p, size);
    assert_int_equal(check(d, 0, &r, NULL), 0);
    assert_true(r.corruptions == 0 && r.leaks > 1);
    assert_int_equal(check(d, QC2_CHECK_REPAIR_LEAKS, &r, NULL), 0);
    assert_true(r.corruptions == 0 && r.leaks == 0 && r.leaks_fixed > 1);
    rec_destroy(d);
    free(p);
}

/* ---------------------------------------------------------------- damage --- */

/* Overwrite parts of the metadata of a good image: bits of tables, of refcounts, of the header's fields. */
static void damage(uint8_t *p, uint64_t size, uint64_t *rnd)
{
    uint64_t cluster = UINT64_C(1) << p[23], reftable = qc_be64(p + 48), l1 = qc_be64(p + 40), at;
    unsigned n = 1 + random_next(rnd) % 3;

    while (n-- > 0) {
        switch (random_next(rnd) % 6) {
        case 0: /* the refcount table */
            at = reftable + random_next(rnd) % 16;
            break;
        case 1: /* a refcount block */
            at = reftable < size - 8 ? qc_be64(p + reftable) + random_next(rnd) % 32 : 0;
            break;
        case 2: /* the L1 table */
            at = l1 + random_next(rnd) % 16;
            break;
        case 3: /* an L2 table */
            at = l1 < size - 8 ? (qc_be64(p + l1) & 0xfffffffffffe00) + random_next(rnd) % 64 : 0;
            break;
        case 4: /* where the refcount table is */
            at = 48 + random_next(rnd) % 12;
            break;
        default: /* any table */
            at = random_next(rnd) % qc_min64(size, 12 * cluster);
            break;
        }
        if (at >= 40 && at < size)
            p[at] = random_next(rnd) % 2 ? (uint8_t)random_next(rnd)
                                         : (uint8_t)(p[at] ^ 1u << random_next(rnd) % 8);
    }
}

static void damage_is_never_made_worse(void **state)
{
    static const char *const good[] = {"good-v3.qcow2", "good-v2.qcow2", "good-snapshots.qcow2",
                                       "good-bitmaps.qcow2", "good-cluster-512.qcow2",
                                       "good-zlib-packed.qcow2", "good-subclusters.qcow2",
                                       "good-refcount-1.qcow2", "good-refcount-64.qcow2"};
    unsigned rounds = getenv("QC_CHECK_ROUNDS") ? (unsigned)atoi(getenv("QC_CHECK_ROUNDS")) : share(60);
    uint64_t rnd = seed;

    (void)state;
    for (unsigned i = 0; i < rounds; i++) {
        const char *name = good[i % (sizeof(good) / sizeof(good[0]))];
        char text[128];
        uint64_t size;
        uint8_t *p = load(name, &size);

        if (!p)
            continue;
        damage(p, size, &rnd);
        snprintf(text, sizeof(text), "%s, damage %u of seed %" PRIu64, name, i, seed);
        repair_all_ways(text, p, size, i % 4 ? QC2_CHECK_REPAIR_ALL : QC2_CHECK_REPAIR_LEAKS);
        free(p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_of_all_sizes),
        cmocka_unit_test(stretches_over_each_other),
        cmocka_unit_test(refcounts_of_all_widths),
        cmocka_unit_test(numbers),
        cmocka_unit_test(memory_is_bounded),
        cmocka_unit_test(unreadable_tables_free_nothing),
        cmocka_unit_test(can_be_cancelled),
        cmocka_unit_test(claims_cost_nothing),
        cmocka_unit_test(repairs_that_succeed),
        cmocka_unit_test(leaks_alone),
        cmocka_unit_test(leaks_of_what_was_shared),
        cmocka_unit_test(files_are_repaired),
        cmocka_unit_test(damage_is_never_made_worse),
    };

    return cmocka_run_group_tests(tests, find_files, remove_files);
}
