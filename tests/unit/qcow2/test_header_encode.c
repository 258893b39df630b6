/* SPDX-License-Identifier: MIT */
/* Headers as bytes: there and back, byte for byte what QEMU writes, and changed in place without a torn one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "image_tools.h"
#include "qcow2/header_encode.h"
#include "util/bytes.h"
#include "util/error.h"
#include "written_store.h"
#include "share.h"

#define FILE_SIZE (1u << 20)

/* All that an image's first cluster says. */
struct said {
    struct qc2_header h;
    char              backing[1024], data_file[4096];
};

static int parse(struct said *s, const uint8_t *p, size_t len, qchain_error *err)
{
    struct qc2_limits lim = {FILE_SIZE, true};
    int64_t rc;

    memset(s, 0, sizeof(*s));
    rc = qc2_header_parse(&s->h, p, len, &lim, err);
    if (rc == 0)
        rc = qc2_extensions_parse(&s->h, p, len, true, err);
    if (rc == 0)
        rc = qc2_features_check(&s->h, p, len, err);
    if (rc == 0)
        rc = qc2_header_check(&s->h, &lim, err);
    if (rc != 0)
        return (int)rc;
    if (s->h.backing_offset)
        memcpy(s->backing, p + s->h.backing_offset, s->h.backing_size);
    memcpy(s->data_file, p + s->h.data_file.offset, s->h.data_file.length);
    return 0;
}

/* Is what both say of the disk the same, wherever it lies? */
static bool same_meaning(const struct said *a, const struct said *b)
{
    struct said x = *a, y = *b;

    x.h.backing_offset = y.h.backing_offset = 0;
    x.h.data_file.offset = y.h.data_file.offset = 0;
    x.h.header_length = y.h.header_length = 0;
    return memcmp(&x, &y, sizeof(x)) == 0;
}

static struct qc2_header numbers(unsigned version, unsigned cluster_bits)
{
    struct qc2_header h = {
        .version = version, .cluster_bits = cluster_bits, .size = 1 << 20, .l1_size = 4096,
        .l1_offset = UINT64_C(3) << cluster_bits, .reftable_offset = UINT64_C(1) << cluster_bits,
        .reftable_clusters = 1, .refcount_order = 4,
    };

    if (version == 3) {
        h.refcount_order = 6;
        h.incompatible = QC2_INCOMPAT_COMPRESSION;
        h.compression = 1;
        h.compatible = 1;
    }
    return h;
}

static const uint8_t unknown_ext[24] = {0x12, 0x34, 0x56, 0x78, 0, 0, 0, 9, 'u', 'n', 'k', 'n', 'o', 'w', 'n', '!', '?'};

/* Random parts; what comes back by the parser is what went in. */
static void test_round_trip(void **state)
{
    static uint8_t p[65536];
    uint64_t seed = 5;
    qchain_error err;

    (void)state;
    qc_error_init(&err);
    for (unsigned i = 0; i < share(20000); i++) {
        uint64_t r = random_next(&seed);
        unsigned version = 2 + (r & 1), bits = 9 + (unsigned)(r >> 1) % 8;
        struct qc2_header h = numbers(version, bits), before;
        struct qc2_header_parts parts = {.n_features = version == 3 ? (r >> 8) % 9 : 0};
        char name[1024];
        struct said s;
        size_t len, n = (r >> 16) % 1024;
        int rc;

        memset(name, 'n', sizeof(name));
        if (r & 0x100000000)
            parts.backing_file = (struct qc2_bytes){name, n};
        if (r & 0x200000000)
            parts.data_file = (struct qc2_bytes){name, (r >> 40) % 600};
        if (r & 0x400000000)
            strcpy(h.backing_format, r & 0x800000000 ? "qcow2" : "raw");
        if (r & 0x1000000000)
            parts.unknown = (struct qc2_bytes){unknown_ext, sizeof(unknown_ext)};
        if (r & 0x2000000000) {
            h.has_bitmaps = true;
            h.n_bitmaps = 7;
            h.bitmap_dir_size = 224;
            h.bitmap_dir_offset = 0x20000;
        }
        before = h;
        memset(p, 0, sizeof(p));
        rc = qc2_header_encode(p, (size_t)1 << bits, &h, &parts, &len, &err);
        if (rc == QCHAIN_E_LIMIT)
            continue;
        assert_int_equal(rc, 0);
        assert_true(len <= (size_t)1 << bits);
        rc = parse(&s, p, (size_t)1 << bits, &err);
        if (rc != 0)
            fail_msg("%u: %s", i, err.text);
        assert_int_equal(s.h.n_unknown, parts.unknown.len ? 1 : 0);
        s.h.n_unknown = 0;
        assert_memory_equal(&s.h, &h, sizeof(h));
        assert_int_equal(s.h.backing_size, parts.backing_file.len);
        assert_memory_equal(s.backing, name, s.h.backing_size);
        assert_int_equal(s.h.data_file.length, parts.data_file.len);
        assert_memory_equal(s.data_file, name, s.h.data_file.length);
        assert_string_equal(s.h.backing_format, before.backing_format);
    }
}

/* ------------------------------------------------------------- rewriting --- */

/* Every state that a crash may leave: all up to a flush is there; of the sectors written since then any. */
static void check_crashes(const struct written *after, const uint8_t *before, size_t size,
                          const struct said *old, const struct said *new, uint64_t *seed)
{
    size_t begin = 0;
    uint8_t *p = malloc(size), *state = malloc(size);
    struct said s;
    qchain_error err;

    qc_error_init(&err);
    memcpy(p, before, size);
    for (size_t i = 0; i <= after->n_steps; i++) {
        if (i < after->n_steps && after->step[i].kind != WRITTEN_FLUSH)
            continue;
        for (unsigned round = 0; round < 64; round++) {
            memcpy(state, p, size);
            for (size_t k = begin; k < i; k++) {
                const struct written_step *w = &after->step[k];

                for (uint64_t at = w->offset; at < w->offset + w->length;) {
                    uint64_t n = qc_min64(512 - at % 512, w->offset + w->length - at);

                    if (random_next(seed) & 64)
                        memcpy(state + at, w->bytes + (at - w->offset), n);
                    at += n;
                }
            }
            if (parse(&s, state, size, &err) != 0)
                fail_msg("torn: %s", err.text);
            if (!same_meaning(&s, old) && !same_meaning(&s, new))
                fail_msg("a header that was never there");
        }
        for (size_t k = begin; k < i; k++)
            memcpy(p + after->step[k].offset, after->step[k].bytes, after->step[k].length);
        begin = i + 1;
    }
    assert_memory_equal(p, after->p, size);
    free(p);
    free(state);
}

static const char *pick_name(uint64_t r, char *buf, const char *none)
{
    size_t n = r % 7 == 0 ? 1 + (r >> 8) % 1023 : 1 + (r >> 8) % 60;

    switch (r >> 3 & 3) {
    case 0:
        return NULL;
    case 1:
        return none;
    default:
        memset(buf, 'a' + (int)((r >> 32) % 26), n);
        buf[n] = '\0';
        return buf;
    }
}

static void rewrite_once(uint64_t *seed, unsigned *done, unsigned *refused)
{
    static uint8_t first[65536];
    uint64_t r = random_next(seed);
    unsigned bits = 9 + (unsigned)(r >> 1) % 8;
    size_t size = (size_t)1 << bits, len;
    struct qc2_header h = numbers(3, bits), to;
    struct qc2_header_parts parts = {.n_features = bits > 9 ? 8 : 0};
    char name[1100], format[16], data[1100];
    struct qc2_header_texts texts = {0};
    struct said old, new, now;
    struct written w = {0};
    struct qc_store *store;
    qchain_error err;
    int rc;

    qc_error_init(&err);
    memset(first, 0, sizeof(first));
    memset(name, 'N', sizeof(name));
    if (r & 0x10000) {
        parts.backing_file = (struct qc2_bytes){name, 1 + (r >> 20) % (r & 0x20000 ? 1000 : 40)};
        strcpy(h.backing_format, "qcow2");
    }
    if (r & 0x100000000000)
        parts.unknown = (struct qc2_bytes){unknown_ext, sizeof(unknown_ext)};
    rc = qc2_header_encode(first, size, &h, &parts, &len, &err);
    if (rc != 0)
        return;
    assert_int_equal(parse(&old, first, size, &err), 0);
    written_set(&w, first, size);
    store = written_store(&w);

    to = old.h;
    if (r & 0x200000000000)
        to.compatible ^= 1;
    if (r & 0x400000000000) {
        to.has_bitmaps = true;
        to.n_bitmaps = 3;
        to.bitmap_dir_size = 96;
        to.bitmap_dir_offset = 0x10000;
        to.autoclear = QC2_AUTOCLEAR_BITMAPS;
    }
    texts.backing_file = pick_name(random_next(seed), name, "");
    texts.data_file = random_next(seed) & 32 ? NULL : pick_name(random_next(seed), data, "");
    if (texts.backing_file)
        texts.backing_format = !texts.backing_file[0] ? "" : strcpy(format, r & 0x800000000000 ? "raw" : "qcow2");

    rc = qc2_header_rewrite(store, &old.h, &to, &texts, &err);
    if (rc != 0) {
        assert_int_equal(rc, QCHAIN_E_UNSUPPORTED);
        assert_memory_equal(w.p, first, size);
        ++*refused;
    } else {
        ++*done;
        if (parse(&now, w.p, size, &err) != 0)
            fail_msg("afterwards: %s", err.text);
        new = old;
        new.h = to;
        if (texts.backing_file) {
            memset(new.backing, 0, sizeof(new.backing));
            strcpy(new.backing, texts.backing_file);
        }
        if (texts.data_file) {
            memset(new.data_file, 0, sizeof(new.data_file));
            strcpy(new.data_file, texts.data_file);
        }
        new.h.n_unknown = old.h.n_unknown;
        assert_memory_equal(&now, &new, sizeof(now));
        check_crashes(&w, first, size, &old, &new, seed);
        assert_true(w.n_steps == 0 || w.step[w.n_steps - 1].kind == WRITTEN_FLUSH);
    }
    qc_store_destroy(store);
    written_free(&w);
}

static void test_rewrite_crashes(void **state)
{
    unsigned done = 0, refused = 0;
    uint64_t seed = 77;

    (void)state;
    for (unsigned i = 0; i < share(4000); i++)
        rewrite_once(&seed, &done, &refused);
    assert_true(done > 3000);
    assert_true(refused > 0);
}

/* A number alone: nothing else in the cluster changes, and it takes one write. */
static void test_rewrite_number(void **state)
{
    static uint8_t first[65536];
    struct qc2_header h = numbers(3, 16), to;
    struct qc2_header_parts parts = {.n_features = 8, .backing_file = {"base", 4}};
    struct qc2_header_texts none = {0};
    struct written w = {0};
    struct said old;
    struct qc_store *store;
    qchain_error err;
    size_t len;

    (void)state;
    qc_error_init(&err);
    assert_int_equal(qc2_header_encode(first, sizeof(first), &h, &parts, &len, &err), 0);
    assert_int_equal(parse(&old, first, sizeof(first), &err), 0);
    written_set(&w, first, sizeof(first));
    store = written_store(&w);
    to = old.h;
    assert_int_equal(qc2_header_rewrite(store, &old.h, &to, &none, &err), 0);
    assert_int_equal(w.n_steps, 0);
    to.size = 1 << 19;
    assert_int_equal(qc2_header_rewrite(store, &old.h, &to, &none, &err), 0);
    assert_int_equal(w.n_steps, 2);
    qc_put_be64(first + 24, 1 << 19);
    assert_memory_equal(w.p, first, sizeof(first));

    written_forget(&w);
    w.fail_at = 1;
    to.size = 1 << 18;
    assert_int_equal(qc2_header_rewrite(store, &old.h, &to, &none, &err), QCHAIN_E_IO);
    qc_store_destroy(store);
    written_free(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_rewrite_crashes),
        cmocka_unit_test(test_rewrite_number),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
