/* SPDX-License-Identifier: MIT */
/*
 * The images of tests/files, each opened, described, mapped and read through the
 * format seam. The directory comes from QC_TEST_FILES or QC_FILES; without either
 * it is made. Then the same images with damage added at random.
 */
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "image_tools.h"
#include "qcow2/qcow2.h"
#include "util/error.h"
#include "util/sha256.h"

#define MAX_ROWS 512
#define COLUMNS 8

/* A line of expect.tsv. */
struct row {
    char *name, *options, *fails, *code, *message, *qemu, *sha256, *map;
};

static char dir[512];
static struct row rows[MAX_ROWS];
static size_t n_rows;
static unsigned n_wrong;

static void load_rows(void)
{
    char path[600];
    uint64_t size;
    char *text, *line, *next;

    snprintf(path, sizeof(path), "%s/expect.tsv", dir);
    text = (char *)load_file(path, &size);
    assert_non_null(text);
    text[size] = '\0';
    for (line = text; *line && n_rows < MAX_ROWS; line = next) {
        char *column[COLUMNS];

        next = line + strcspn(line, "\n");
        if (*next)
            *next++ = '\0';
        for (int i = 0; i < COLUMNS; i++) {
            column[i] = line;
            line += strcspn(line, "\t");
            if (*line)
                *line++ = '\0';
        }
        memcpy(&rows[n_rows++], column, sizeof(column));
    }
}

static int find_files(void **state)
{
    const char *given = getenv("QC_TEST_FILES");
    char command[1024];

    (void)state;
    if (!given)
        given = getenv("QC_FILES");
    if (given) {
        snprintf(dir, sizeof(dir), "%s", given);
    } else {
        strcpy(dir, "/tmp/qchain-files-XXXXXX");
        assert_non_null(mkdtemp(dir));
        snprintf(command, sizeof(command), "python3 tests/files/make-files.py %s", dir);
        assert_int_equal(system(command), 0);
    }
    load_rows();
    assert_true(n_rows > 100);
    return 0;
}

static int remove_files(void **state)
{
    char command[1024];

    (void)state;
    if (getenv("QC_TEST_FILES") || getenv("QC_FILES"))
        return 0;
    snprintf(command, sizeof(command), "rm -r %s", dir);
    return system(command);
}

/* ------------------------------------------------------------- expectations --- */

struct file {
    uint8_t         *bytes;
    uint64_t         size;
    struct qc_store *store;
};

static bool load(struct file *f, const char *name)
{
    char path[1024];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    memset(f, 0, sizeof(*f));
    f->bytes = load_file(path, &f->size);
    f->store = f->bytes ? memory_store(f->bytes, f->size, f->size) : NULL;
    return f->store;
}

static void unload(struct file *f)
{
    qc_store_destroy(f->store);
    free(f->bytes);
}

static void expect_failure(const struct row *r, const char *what, int rc, const qchain_error *err)
{
    if (rc < 0 && strcmp(qchain_code_name(rc), r->code) == 0 && strstr(err->text, r->message) &&
        err->code == rc)
        return;
    n_wrong++;
    print_error("%s: %s: expected %s with '%s', got %s: %s\n", r->name, what, r->code, r->message,
                qchain_code_name(rc), rc < 0 ? err->text : "success");
}

static bool expect_success(const struct row *r, const char *what, int rc, const qchain_error *err)
{
    if (rc == 0)
        return true;
    n_wrong++;
    print_error("%s: %s: %s: %s\n", r->name, what, qchain_code_name(rc), err->text);
    return false;
}

static void expect_text(const struct row *r, const char *what, const char *got, const char *want)
{
    if (strcmp(got, want) == 0)
        return;
    n_wrong++;
    print_error("%s: %s: expected %s, got %s\n", r->name, what, want, got);
}

static bool fails(const struct row *r, const char *where)
{
    return strcmp(r->fails, where) == 0;
}

static struct qc_image_opts options_of(const struct row *r)
{
    struct qc_image_opts o = {0};

    if (strncmp(r->options, "snapshot=", 9) == 0)
        o.snapshot = r->options + 9;
    o.salvage = strcmp(r->options, "salvage") == 0;
    return o;
}

/* One extent of the map as the generator writes it. */
struct extent {
    uint64_t start, length, offset;
    bool present, data, has_offset;
};

static void print_extent(FILE *f, const struct extent *e)
{
    if (e->length == 0)
        return;
    fprintf(f, "%s{\"start\":%" PRIu64 ",\"length\":%" PRIu64 ",\"depth\":0,\"present\":%s,"
            "\"zero\":%s,\"data\":%s", e->start ? "," : "", e->start, e->length,
            e->present ? "true" : "false", e->data ? "false" : "true",
            e->data ? "true" : "false");
    if (e->has_offset)
        fprintf(f, ",\"offset\":%" PRIu64, e->offset);
    fputc('}', f);
}

static void add_extent(FILE *f, struct extent *last, struct extent e)
{
    if (e.length == 0)
        return;
    if (last->length > 0 && last->present == e.present && last->data == e.data &&
        last->has_offset == e.has_offset &&
        (!e.has_offset || last->offset + last->length == e.offset)) {
        last->length += e.length;
        return;
    }
    print_extent(f, last);
    *last = e;
}

static char *map_json(struct qc_image *img, qchain_error *err)
{
    struct qc_runs runs = {0};
    struct extent last = {0};
    uint64_t at = 0;
    char *text = NULL;
    size_t len;
    FILE *f;

    if (img->format->map(img, 0, img->virtual_size, &runs, err) < 0) {
        qc_runs_finish(&runs);
        return NULL;
    }
    f = open_memstream(&text, &len);
    fputc('[', f);
    for (size_t i = 0; i < runs.n; i++) {
        const struct qc_run *r = &runs.run[i];
        enum qc_kind kind = qc_run_kind(r);
        struct extent e = {.start = r->guest, .length = qc_run_length(r), .present = true};

        if (kind == QC_PREALLOC)
            continue;
        e.data = kind == QC_DATA || kind == QC_COMPRESSED;
        e.has_offset = kind == QC_DATA;
        e.offset = e.has_offset ? qc_run_host(r) : 0;
        assert_true(r->guest >= at);
        add_extent(f, &last, (struct extent){.start = at, .length = r->guest - at});
        add_extent(f, &last, e);
        at = qc_run_end(r);
    }
    add_extent(f, &last, (struct extent){.start = at, .length = img->virtual_size - at});
    print_extent(f, &last);
    fputc(']', f);
    fclose(f);
    qc_runs_finish(&runs);
    return text;
}

static void check_map(const struct row *r, struct qc_image *img)
{
    qchain_error err;
    char *text, *whole, *pieces;

    qc_error_init(&err);
    text = map_json(img, &err);
    if (!expect_success(r, "map", err.code, &err))
        return;
    if (strcmp(r->map, "-") != 0)
        expect_text(r, "map", text, r->map);
    whole = map_text(img, UINT64_C(1) << 40, &err);
    pieces = map_text(img, UINT64_C(2) << 20, &err);
    expect_text(r, "map in pieces", pieces, whole);
    free(text);
    free(whole);
    free(pieces);
}

static void check_bytes(const struct row *r, struct qc_image *img)
{
    uint8_t *disk = malloc((size_t)img->virtual_size + 1);
    struct file data = {0};
    struct qc_sha256 h;
    uint8_t digest[32];
    char hex[65];
    qchain_error err;
    int rc;

    qc_error_init(&err);
    assert_non_null(disk);
    if (img->wants_data_file)
        assert_true(load(&data, img->data_file_name));
    rc = read_layer(img, data.store, disk, &err);
    if (fails(r, "read")) {
        expect_failure(r, "read", rc, &err);
    } else if (expect_success(r, "read", rc, &err)) {
        qc_sha256_init(&h);
        qc_sha256_update(&h, disk, (size_t)img->virtual_size);
        qc_sha256_finish(&h, digest);
        for (int i = 0; i < 32; i++)
            snprintf(hex + 2 * i, 3, "%02x", digest[i]);
        expect_text(r, "sha256", hex, r->sha256);
    }
    if (img->wants_data_file)
        unload(&data);
    free(disk);
}

static void check_describe(const struct row *r, const struct file *f)
{
    struct qc_image_opts o = {.describe = true};
    struct qc_image *img = NULL;
    qchain_image_info info = {0};
    qchain_error err;
    int rc;

    qc_error_init(&err);
    rc = qc_qcow2_format.open(&img, f->store, &o, &err);
    if (fails(r, "open")) {
        expect_failure(r, "inspect", rc, &err);
        return;
    }
    if (rc == 0) {
        rc = qc_qcow2_format.describe(img, &info, &err);
        qc_info_finish(&info);
        qc_qcow2_format.close(img);
    }
    if (fails(r, "inspect"))
        expect_failure(r, "inspect", rc, &err);
    else
        expect_success(r, "inspect", rc, &err);
}

/* Chains are for those who read chains; here their tops are single images. */
static bool is_chain(const struct row *r)
{
    return strstr(r->name, "-chain-") || strcmp(r->name, "good-chain.qcow2") == 0;
}

static void check_row(const struct row *r)
{
    struct qc_image_opts o = options_of(r);
    struct qc_image *img = NULL;
    struct file f;
    qchain_error err;
    int rc;

    qc_error_init(&err);
    assert_true(load(&f, r->name));
    check_describe(r, &f);
    rc = qc_qcow2_format.open(&img, f.store, &o, &err);
    if (fails(r, "open")) {
        expect_failure(r, "open", rc, &err);
    } else if (fails(r, "map") && !is_chain(r)) {
        char *text = rc == 0 ? map_json(img, &err) : NULL;

        expect_failure(r, "map", err.code, &err);
        free(text);
    } else if (expect_success(r, "open", rc, &err) && !is_chain(r)) {
        check_map(r, img);
        check_bytes(r, img);
    }
    qc_qcow2_format.close(img);
    unload(&f);
}

static void test_expectations(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_rows; i++)
        check_row(&rows[i]);
    assert_int_equal(n_wrong, 0);
}

/* ------------------------------------------------------------------- damage --- */

static void use(struct qc_store *store, bool salvage)
{
    struct qc_image_opts o = {.salvage = salvage};
    struct qc_image *img = NULL;
    qchain_image_info info = {0};
    bool holes;

    if (qc_qcow2_format.open(&img, store, &o, NULL) < 0)
        return;
    qc_qcow2_format.describe(img, &info, NULL);
    qc_info_finish(&info);
    qc_qcow2_format.may_have_holes(img, &holes, NULL);
    if (img->virtual_size <= 8 << 20) {
        uint8_t *disk = malloc((size_t)img->virtual_size + 1);

        read_layer(img, NULL, disk, NULL);
        free(disk);
    } else {
        struct qc_runs runs = {0};

        img->format->map(img, img->virtual_size - (1 << 20), 1 << 20, &runs, NULL);
        qc_runs_finish(&runs);
    }
    qc_qcow2_format.close(img);
}

/* A few bytes of the first 32 KiB, where metadata is, get other values. */
static void damage(struct file *f, uint64_t *seed)
{
    uint64_t reach = f->size < 32768 ? f->size : 32768;
    struct qc_store *store;
    uint8_t *copy;
    unsigned n = 1 + (unsigned)(random_next(seed) % 4);

    if (f->size == 0 || f->size > 1 << 20)
        return;
    copy = malloc((size_t)f->size);
    memcpy(copy, f->bytes, (size_t)f->size);
    while (n--) {
        uint64_t near = reach < 160 || random_next(seed) % 2 ? reach : 160;

        copy[random_next(seed) % near] = (uint8_t)random_next(seed);
    }
    store = memory_store(copy, random_next(seed) % 8 ? f->size : random_next(seed) % f->size,
                         f->size / 4);
    use(store, random_next(seed) % 4 == 0);
    qc_store_destroy(store);
    free(copy);
}

static void test_damage(void **state)
{
    const char *given = getenv("QC_SEED");
    uint64_t seed = given ? strtoull(given, NULL, 0) : (uint64_t)getpid();
    unsigned rounds = getenv("QC_DAMAGE_ROUNDS") ? (unsigned)atoi(getenv("QC_DAMAGE_ROUNDS")) : 50;

    (void)state;
    print_message("QC_SEED=%" PRIu64 "\n", seed);
    for (size_t i = 0; i < n_rows; i++) {
        struct file f;

        assert_true(load(&f, rows[i].name));
        for (unsigned k = 0; k < rounds; k++)
            damage(&f, &seed);
        unload(&f);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_expectations),
        cmocka_unit_test(test_damage),
    };

    if (!getenv("QC_TEST_FILES") && !getenv("QC_FILES") &&
        access("tests/files/make-files.py", R_OK) != 0)
        return 77;
    return cmocka_run_group_tests(tests, find_files, remove_files);
}
