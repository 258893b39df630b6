/* SPDX-License-Identifier: MIT */
/* Committing by the library's call: what is told of it, which layer is the base, what is refused, who decides what is
 * opened, and memory that ends at any moment. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "failing_memory.h"
#include "share.h"

#include <qchain.h>

#define KIB 1024u
#define SIZE (2u << 20)

static char dir[] = "/tmp/qchain-commit-XXXXXX";
static qchain_error *err;
static qchain_env *all; /* in which all of the directory is allowed */
static unsigned char want[2 * SIZE], is[2 * SIZE];

static int setup(void **state)
{
    qchain_policy *policy = qchain_policy_create();
    qchain_env_opts o;
    int ret;

    (void)state;
    err = qchain_error_create();
    if (!mkdtemp(dir) || chdir(dir) != 0 || mkdir("sub", 0755) != 0)
        return -1;
    qchain_env_opts_init(&o, sizeof(o));
    o.policy = policy;
    ret = qchain_policy_allow_path(policy, dir, err);
    if (ret == 0)
        ret = qchain_env_create(&all, &o, err);
    qchain_policy_destroy(policy);
    return ret;
}

static int teardown(void **state)
{
    char command[64];

    (void)state;
    qchain_env_destroy(all);
    qchain_error_destroy(err);
    snprintf(command, sizeof(command), "rm -r %s", dir);
    return chdir("/") == 0 && system(command) == 0 ? 0 : -1;
}

#define GOOD(call)                                                                                 \
    do {                                                                                           \
        if ((call) != 0)                                                                           \
            fail_msg("%s: %s", #call, qchain_error_message(err));                                  \
    } while (0)

#define REFUSED(code, text, call)                                                                  \
    do {                                                                                           \
        assert_int_equal(call, code);                                                              \
        if (!strstr(qchain_error_message(err), text))                                              \
            fail_msg("no '%s' in: %s", text, qchain_error_message(err));                           \
    } while (0)

static void make(const char *name, const char *backing, uint64_t size, uint32_t cluster)
{
    qchain_create_opts o;

    qchain_create_opts_init(&o, sizeof(o));
    o.format = "qcow2";
    o.size = size;
    o.cluster_size = cluster;
    o.backing_file = backing;
    o.backing_format = backing ? "qcow2" : NULL;
    GOOD(qchain_create(all, name, &o, err));
}

static void put(const char *name, uint64_t offset, size_t length, int byte)
{
    static unsigned char buf[SIZE];
    qchain_open_opts o;
    qchain *c = NULL;

    qchain_open_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_OPEN_WRITE | QCHAIN_OPEN_UNSAFE;
    GOOD(qchain_open(&c, all, name, &o, err));
    memset(buf, byte, sizeof(buf));
    if (byte)
        GOOD(qchain_write(c, buf, length, offset, 0, err));
    else
        GOOD(qchain_write_zeroes(c, length, offset, 0, err));
    GOOD(qchain_finish(c, err));
    qchain_close(c);
}

static uint64_t get(const char *name, unsigned char *buf)
{
    qchain_open_opts o;
    qchain *c = NULL;
    uint64_t size;

    qchain_open_opts_init(&o, sizeof(o));
    GOOD(qchain_open(&c, all, name, &o, err));
    size = qchain_size(c);
    assert_true(size <= 2 * SIZE);
    GOOD(qchain_read(c, buf, (size_t)size, 0, 0, err));
    qchain_close(c);
    return size;
}

static void reads_as(const char *name, uint64_t size)
{
    assert_int_equal(get(name, is), size);
    assert_memory_equal(is, want, size);
}

static void sound(const char *name)
{
    qchain_check_result r = {.struct_size = sizeof(r)};

    GOOD(qchain_check(all, name, NULL, &r, err));
    assert_int_equal(r.corruptions + r.check_errors + r.leaks, 0);
}

/* top over mid over base; what the disk reads as is kept. */
static void make_three(void)
{
    make("base", NULL, SIZE, 32 * KIB);
    put("base", 0, 600 * KIB, 1);
    make("sub/mid", "../base", SIZE, 4 * KIB);
    put("sub/mid", 100 * KIB, 300 * KIB, 2);
    make("top", "sub/mid", SIZE + 512 * KIB, 16 * KIB);
    put("top", 300 * KIB + 512, 200 * KIB, 3);
    put("top", 50 * KIB, 70 * KIB, 0);
    put("top", SIZE + 100 * KIB, 50 * KIB, 4);
    get("top", want);
}

static qchain_commit_opts with(const char *base, uint32_t flags)
{
    qchain_commit_opts o;

    qchain_commit_opts_init(&o, sizeof(o));
    o.base = base;
    o.flags = flags;
    return o;
}

static uint64_t file_size(const char *name)
{
    struct stat st;

    return stat(name, &st) == 0 ? (uint64_t)st.st_size : UINT64_MAX;
}

/* -------------------------------------------------------------------- results --- */

static void test_results(void **state)
{
    qchain_commit_opts o = with(NULL, QCHAIN_COMMIT_KEEP);
    qchain_job_result r = {.struct_size = sizeof(r)};
    uint64_t before;

    (void)state;
    make_three();
    before = file_size("top");
    GOOD(qchain_commit(NULL, "top", &o, &r, err));
    assert_int_equal(r.layers, 3);
    assert_true(r.copied >= 250 * KIB && r.copied < 350 * KIB);
    assert_true(r.zeroed >= 60 * KIB && r.zeroed < 100 * KIB);
    assert_int_equal(file_size("top"), before);
    reads_as("top", SIZE + 512 * KIB);
    reads_as("sub/mid", SIZE + 512 * KIB);

    GOOD(qchain_commit(NULL, "top", NULL, NULL, err));
    assert_true(file_size("top") <= 4 * 16 * KIB);
    GOOD(qchain_commit(NULL, "top", NULL, &r, err));
    assert_int_equal(r.copied + r.zeroed, 0);
    reads_as("top", SIZE + 512 * KIB);

    /* Further down, from where the data now is. */
    o = with("../base", 0);
    GOOD(qchain_commit(NULL, "top", &o, &r, err));
    assert_true(r.copied > 400 * KIB);
    reads_as("base", SIZE + 512 * KIB);
    reads_as("top", SIZE + 512 * KIB);
    sound("base");
    sound("sub/mid");
    sound("top");
    put("sub/mid", 0, KIB, 9); /* it was not emptied: what it has hides the base still */
    GOOD(qchain_commit(all, "sub/mid", NULL, NULL, err));
    memset(want, 9, KIB);
    reads_as("base", SIZE + 512 * KIB);
}

static void test_base(void **state)
{
    static const char *const names[] = {"../base", "sub/../base", "./../base", "ABS/base"};
    char path[128];

    (void)state;
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        qchain_commit_opts o = with(path, 0);

        snprintf(path, sizeof(path), "%s%s", names[i][0] == 'A' ? dir : "", names[i] + (names[i][0] == 'A' ? 3 : 0));
        make_three();
        GOOD(qchain_commit(NULL, "top", &o, NULL, err));
        reads_as("base", SIZE + 512 * KIB);
    }
    make_three();
    for (unsigned i = 0; i < 3; i++) {
        qchain_commit_opts o = with(i == 0 ? "nope" : i == 1 ? "top" : "sub/nope", 0);

        REFUSED(QCHAIN_E_NOTFOUND, "Did not find", qchain_commit(NULL, "top", &o, NULL, err));
    }
    REFUSED(QCHAIN_E_NOTFOUND, "does not have a backing", qchain_commit(NULL, "base", NULL, NULL, err));
    reads_as("top", SIZE + 512 * KIB);
}

static void add_bitmap(const char *name, const char *bitmap)
{
    qchain_open_opts o;
    qchain *c = NULL;

    qchain_open_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_OPEN_WRITE;
    GOOD(qchain_open(&c, all, name, &o, err));
    GOOD(qchain_bitmap_add(c, bitmap, 4096, 1, err));
    GOOD(qchain_finish(c, err));
    qchain_close(c);
}

/* Bytes that a bitmap says were written to. */
static uint64_t dirty_bytes(const char *name, const char *bitmap)
{
    qchain_dirty_extent e[64];
    uint64_t next = 0, sum = 0;
    qchain *c = NULL;
    uint32_t n;

    GOOD(qchain_open(&c, all, name, NULL, err));
    while (next < qchain_size(c)) {
        GOOD(qchain_bitmap_query(c, bitmap, next, qchain_size(c) - next, e, 64, &n, &next, err));
        for (uint32_t i = 0; i < n; i++)
            sum += e[i].dirty ? e[i].length : 0;
    }
    qchain_close(c);
    return sum;
}

/* Those of the base note what comes; those of the top stay as they are, for its disk does not change. */
static void test_bitmaps(void **state)
{
    (void)state;
    make("base", NULL, SIZE, 64 * KIB);
    put("base", 0, SIZE, 1);
    make("top", "base", SIZE, 64 * KIB);
    add_bitmap("base", "below");
    add_bitmap("top", "above");
    put("top", 128 * KIB, 64 * KIB, 2);
    put("top", 512 * KIB, 128 * KIB, 0);
    get("top", want);
    assert_int_equal(dirty_bytes("top", "above"), 192 * KIB);
    assert_int_equal(dirty_bytes("base", "below"), 0);
    GOOD(qchain_commit(NULL, "top", NULL, NULL, err));
    assert_int_equal(dirty_bytes("base", "below"), 192 * KIB);
    assert_int_equal(dirty_bytes("top", "above"), 192 * KIB);
    reads_as("base", SIZE);
    reads_as("top", SIZE);
    sound("base");
    sound("top");
}

/* -------------------------------------------------------------------- refused --- */

static void set_byte(const char *name, long at, int byte)
{
    FILE *f = fopen(name, "r+b");

    assert_non_null(f);
    assert_int_equal(fseek(f, at, SEEK_SET), 0);
    assert_int_equal(fputc(byte, f), byte);
    fclose(f);
}

static void test_refused(void **state)
{
    qchain_commit_opts o = with(NULL, 2);
    qchain_open_opts open;
    qchain *c = NULL;

    (void)state;
    make_three();
    REFUSED(QCHAIN_E_INVAL, "flags", qchain_commit(NULL, "top", &o, NULL, err));
    REFUSED(QCHAIN_E_INVAL, "no image", qchain_commit(NULL, NULL, NULL, NULL, err));
    REFUSED(QCHAIN_E_NOTFOUND, "nofile", qchain_commit(NULL, "nofile", NULL, NULL, err));
    qchain_open_opts_init(&open, sizeof(open));
    o = with(NULL, 0);
    o.open = &open;
    open.flags = QCHAIN_OPEN_NO_BACKING;
    REFUSED(QCHAIN_E_INVAL, "flags", qchain_commit(NULL, "top", &o, NULL, err));
    open.flags = 0;
    open.snapshot = "s";
    REFUSED(QCHAIN_E_INVAL, "snapshot", qchain_commit(NULL, "top", &o, NULL, err));

    open.snapshot = NULL;
    for (unsigned i = 0; i < 4; i++) { /* somebody has the base, or the top */
        open.flags = i % 2 ? QCHAIN_OPEN_WRITE : 0;
        GOOD(qchain_open(&c, all, i < 2 ? "sub/mid" : "top", &open, err));
        REFUSED(QCHAIN_E_LOCKED, "in use", qchain_commit(NULL, "top", NULL, NULL, err));
        qchain_close(c);
    }
    set_byte("sub/mid", 79, 2); /* corrupt */
    REFUSED(QCHAIN_E_CORRUPT, "base: layer #0 'sub/mid': the image is marked corrupt", qchain_commit(NULL, "top", NULL, NULL, err));
    set_byte("sub/mid", 79, 1); /* dirty: mended */
    GOOD(qchain_commit(NULL, "top", NULL, NULL, err));
    reads_as("top", SIZE + 512 * KIB);
    sound("sub/mid");

    make_three();
    assert_int_equal(unlink("sub/mid"), 0);
    REFUSED(QCHAIN_E_NOTFOUND, "sub/mid", qchain_commit(NULL, "top", NULL, NULL, err));
}

static void test_cancelled(void **state)
{
    qchain_commit_opts o = with(NULL, 0);

    (void)state;
    make_three();
    o.job = qchain_job_create();
    qchain_job_cancel(o.job);
    assert_int_equal(qchain_commit(NULL, "top", &o, NULL, err), QCHAIN_E_CANCELLED);
    qchain_job_destroy(o.job);
    reads_as("top", SIZE + 512 * KIB);
    GOOD(qchain_commit(NULL, "top", NULL, NULL, err));
    reads_as("sub/mid", SIZE + 512 * KIB);
}

/* ------------------------------------------------------------- who decides --- */

/* How the files are found, and what was asked. */
struct answers {
    int         fd;    /* for the base, if >= 0 */
    const char *loop;  /* what the base is to stand on, or NULL */
    char        asked[200];
};

static int answer(void *data, const qchain_reference *ref, qchain_resolution *res)
{
    struct answers *a = data;
    size_t n = strlen(a->asked);

    snprintf(a->asked + n, sizeof(a->asked) - n, "%u:%s ", ref->layer, ref->name);
    if (strcmp(ref->name, "sub/mid") == 0 && a->fd >= 0) {
        res->fd = a->fd;
        return QCHAIN_RESOLVE_FD;
    }
    if (strcmp(ref->name, "../base") == 0 && a->loop) {
        res->name = a->loop;
        return QCHAIN_RESOLVE_ALLOW;
    }
    return QCHAIN_RESOLVE_DEFAULT;
}

static void test_resolver(void **state)
{
    struct answers a = {.fd = -1};
    qchain_commit_opts o = with(NULL, QCHAIN_COMMIT_KEEP);
    qchain_open_opts how;

    (void)state;
    make_three();
    qchain_open_opts_init(&how, sizeof(how));
    how.resolver = answer;
    how.resolver_data = &a;
    o.open = &how;
    GOOD(qchain_commit(NULL, "top", &o, NULL, err));
    assert_string_equal(a.asked, "0:sub/mid 1:../base ");

    a = (struct answers){.fd = open("sub/mid", O_RDONLY)};
    REFUSED(QCHAIN_E_READONLY, "not open for reading and writing", qchain_commit(NULL, "top", &o, NULL, err));
    close(a.fd);
    a.fd = open("sub/mid", O_RDWR);
    GOOD(qchain_commit(NULL, "top", &o, NULL, err));
    close(a.fd);
    reads_as("sub/mid", SIZE + 512 * KIB);

    a = (struct answers){.fd = -1, .loop = "top"};
    how.flags = QCHAIN_OPEN_FORCE_SHARE; /* else its lock is in the way */
    REFUSED(QCHAIN_E_CHAIN, "has a loop", qchain_commit(NULL, "top", &o, NULL, err));
}

static void test_policy(void **state)
{
    qchain_commit_opts o = with(NULL, 0);
    qchain_policy *policy = qchain_policy_create();
    qchain_open_opts open;
    char outside[128];

    (void)state;
    make_three();
    assert_int_equal(rename("top", "sub/top"), 0);
    make("sub/top", "../base", SIZE, 4 * KIB);
    put("sub/top", 0, KIB, 5);
    REFUSED(QCHAIN_E_ACCESS, "outside the top image's directory", qchain_commit(NULL, "sub/top", NULL, NULL, err));
    qchain_open_opts_init(&open, sizeof(open));
    open.policy = policy;
    o.open = &open;
    snprintf(outside, sizeof(outside), "%s", dir);
    GOOD(qchain_policy_allow_path(policy, outside, err));
    GOOD(qchain_commit(NULL, "sub/top", &o, NULL, err));
    get("base", want);
    assert_int_equal(want[0], 5);
    qchain_policy_destroy(policy);
}

/* --------------------------------------------------------------------- memory --- */

static void test_memory(void **state)
{
    qchain_commit_opts o = with(NULL, 0);
    qchain_env_opts eo;
    qchain_open_opts open;
    qchain_env *env = NULL;
    unsigned failures = 0;
    int ret, step = share(4) < 4 ? 7 : 1;

    (void)state;
    qchain_env_opts_init(&eo, sizeof(eo));
    eo.threads = 1;
    GOOD(qchain_env_create(&env, &eo, err));
    qchain_open_opts_init(&open, sizeof(open));
    open.flags = QCHAIN_OPEN_UNSAFE;
    o.open = &open;
    for (int k = 0; k < 100000; k += step) {
        if (k % 20 == 0)
            make_three();
        atomic_store(&fail_in, k);
        ret = qchain_commit(env, "top", &o, NULL, err);
        if (atomic_load(&fail_in) >= 0) { /* it went on to the end without */
            GOOD(ret);
            break;
        }
        atomic_store(&fail_in, -1);
        failures += ret != 0;
        if (ret != 0 && ret != QCHAIN_E_NOMEM && ret != QCHAIN_E_READONLY)
            fail_msg("memory %d: %d: %s", k, ret, qchain_error_message(err));
        if (k % 7 == 0)
            reads_as("top", SIZE + 512 * KIB);
        if (ret == 0)
            make_three(); /* there is nothing left to be done */
    }
    atomic_store(&fail_in, -1);
    assert_true(failures > 20u / (unsigned)step);
    reads_as("top", SIZE + 512 * KIB);
    reads_as("sub/mid", SIZE + 512 * KIB);
    qchain_env_destroy(env);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_results),  cmocka_unit_test(test_base),     cmocka_unit_test(test_refused),
        cmocka_unit_test(test_cancelled), cmocka_unit_test(test_resolver), cmocka_unit_test(test_policy),
        cmocka_unit_test(test_bitmaps),  cmocka_unit_test(test_memory),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
