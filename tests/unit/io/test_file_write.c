/* SPDX-License-Identifier: MIT */
/* Files that are written: growth, holes, O_DIRECT, a full file system, a writer's locks. */
#include "io_tools.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "io/newfile.h"
#include "util/bytes.h"

struct fixture {
    char             *dir;
    char             *path;
    struct qc_slots  *slots;
    struct qc_fdpool *fds;
    int               fds_before;
};

static int setup(void **state)
{
    struct fixture *x = calloc(1, sizeof(*x));

    x->dir = make_scratch();
    x->path = scratch_path(x->dir, "image");
    x->fds_before = count_fds();
    write_pattern(x->path, 100000, 3);
    x->slots = qc_slots_create();
    x->fds = qc_fdpool_create(16, x->slots);
    *state = x;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *x = *state;

    assert_int_equal(qc_fdpool_open_count(x->fds), 0);
    qc_fdpool_destroy(x->fds);
    qc_slots_destroy(x->slots);
    assert_int_equal(count_fds(), x->fds_before);
    drop_scratch(x->dir);
    qc_free(x->path);
    free(x);
    return 0;
}

static struct qc_store *must_open(struct fixture *x, const char *path, uint32_t flags)
{
    struct qc_file_opts o = file_opts(x->fds, x->slots, flags);
    struct qc_store *s = NULL;
    qchain_error err;

    qc_error_init(&err);
    assert_int_equal(qc_file_open(&s, path, &o, NULL, &err), 0);
    return s;
}

static int try_open(struct fixture *x, uint32_t flags, int fd, qchain_error *err)
{
    struct qc_file_opts o = file_opts(x->fds, x->slots, flags);
    struct qc_store *s;
    int rc;

    qc_error_init(err);
    o.fd = fd;
    rc = qc_file_open(&s, x->path, &o, NULL, err);
    if (rc == 0)
        qc_store_destroy(s);
    return rc;
}

static struct stat stat_of(const char *path)
{
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    return st;
}

static void check_bytes(const char *path, const uint8_t *expected, uint64_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint8_t *buf = malloc(size);

    assert_true(fd >= 0);
    assert_int_equal(stat_of(path).st_size, size);
    assert_int_equal(pread(fd, buf, size, 0), (ssize_t)size);
    assert_memory_equal(buf, expected, size);
    free(buf);
    close(fd);
}

/* ------------------------------------------------------------------- write --- */

static void test_write(void **state)
{
    struct fixture *x = *state;
    struct qc_store *s = must_open(x, x->path, QC_FILE_WRITE), *other[40];
    qchain_iov iov[2] = {{"abc", 3}, {"defg", 4}};
    char name[16], *path, buf[16];
    qchain_error err;

    assert_true(qc_store_is_writable(s));
    assert_int_equal(s->identity.size, 100000);
    assert_int_equal(qc_store_write(s, "xyz", 3, 99999, &err), 0);
    assert_int_equal(qc_store_writev(s, iov, 2, 7, 200000, &err), 0);
    assert_int_equal(qc_store_size(s), 200007);
    assert_int_equal(stat_of(x->path).st_size, 200007);
    assert_int_equal(qc_store_flush(s, &err), 0);
    /* Others do not push it out of the pool, and its size need not be what it was. */
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof(name), "other%d", i);
        path = scratch_path(x->dir, name);
        write_pattern(path, 512, 1);
        other[i] = must_open(x, path, 0);
        qc_free(path);
    }
    assert_int_equal(qc_store_read(s, buf, 9, 199999, QC_READ_PAST_END, &err), 0);
    assert_memory_equal(buf, "\0abcdefg", 9);
    for (int i = 0; i < 40; i++)
        qc_store_destroy(other[i]);
    assert_int_equal(qc_store_resize(s, 5, &err), 0);
    assert_int_equal(stat_of(x->path).st_size, 5);
    assert_int_equal(qc_store_read(s, buf, 9, 4, 0, &err), QCHAIN_E_CORRUPT);
    qc_store_destroy(s);
}

static void test_refusals(void **state)
{
    struct fixture *x = *state;
    qchain_error err;
    int fd = open(x->path, O_RDONLY | O_CLOEXEC);
    struct qc_store *s;

    assert_int_equal(try_open(x, QC_FILE_WRITE, fd, &err), QCHAIN_E_READONLY);
    assert_non_null(strstr(err.text, "not open for reading and writing"));
    assert_int_equal(try_open(x, 0, fd, &err), 0);
    close(fd);
    fd = open(x->path, O_RDWR | O_CLOEXEC);
    assert_int_equal(try_open(x, QC_FILE_WRITE, fd, &err), 0);
    close(fd);
    s = must_open(x, x->path, 0);
    assert_false(qc_store_is_writable(s));
    assert_int_equal(qc_store_write(s, "x", 1, 0, &err), QCHAIN_E_READONLY);
    qc_store_destroy(s);
    if (geteuid() == 0)
        return;
    assert_int_equal(chmod(x->path, 0444), 0);
    assert_int_equal(try_open(x, QC_FILE_WRITE, -1, &err), QCHAIN_E_ACCESS);
}

/* Zeros and discards: what they leave, and that space is given back. */
static void test_space(void **state)
{
    struct fixture *x = *state;
    uint8_t *d = calloc(1, 400000);
    uint64_t before = (uint64_t)stat_of(x->path).st_blocks, after;
    struct qc_store *s;

    for (uint64_t i = 0; i < 100000; i++)
        d[i] = pattern_at(i, 3);
    s = must_open(x, x->path, QC_FILE_WRITE | QC_FILE_FORMAT_LOCK);
    assert_int_equal(qc_store_zero(s, 33333, 7, true, NULL), 0);
    memset(d + 7, 0, 33333);
    after = (uint64_t)stat_of(x->path).st_blocks;
    if (after == before)
        print_message("no holes here\n");
    else
        assert_true(after <= before - 32768 / 4096 * 8 + 8);
    assert_int_equal(qc_store_zero(s, 10000, 50001, false, NULL), 0);
    memset(d + 50001, 0, 10000);
    assert_int_equal(qc_store_zero(s, 300000, 95000, true, NULL), 0); /* past the end */
    memset(d + 95000, 0, 5000);
    assert_int_equal(qc_store_size(s), 395000);
    check_bytes(x->path, d, 395000);
    before = (uint64_t)stat_of(x->path).st_blocks;
    assert_int_equal(qc_store_discard(s, 8192, 65536, NULL), 0);
    assert_int_equal(qc_store_discard(s, 1 << 20, 395000, NULL), 0);
    assert_true((uint64_t)stat_of(x->path).st_blocks <= before);
    assert_int_equal(qc_store_size(s), 395000);
    qc_store_destroy(s);
    free(d);
}

static void random_writes(struct qc_store *s, uint8_t *d, uint64_t *size, unsigned seed)
{
    uint8_t *buf = malloc(70000);

    for (int i = 0; i < 200; i++) {
        uint64_t offset = (uint64_t)rand_r(&seed) % 200000;
        size_t length = 1 + (size_t)rand_r(&seed) % (i % 5 ? 3000 : 60000);

        for (size_t k = 0; k < length; k++)
            buf[k] = (uint8_t)rand_r(&seed);
        assert_int_equal(qc_store_write(s, buf, length, offset, NULL), 0);
        memcpy(d + offset, buf, length);
        *size = qc_max64(*size, offset + length);
    }
    free(buf);
}

static void test_direct(void **state)
{
    struct fixture *x = *state;
    struct qc_store *s = must_open(x, x->path, QC_FILE_WRITE | QC_FILE_DIRECT);
    uint8_t *d = calloc(1, 400000), *back = malloc(400000);
    uint64_t size = 100000, block = s->limits.align_offset;

    if (block == 0) {
        qc_store_destroy(s);
        free(d);
        free(back);
        skip();
    }
    for (uint64_t i = 0; i < size; i++)
        d[i] = pattern_at(i, 3);
    /* Within the size it stays, odd as it is. */
    assert_int_equal(qc_store_write(s, "abc", 3, size - 5, NULL), 0);
    memcpy(d + size - 5, "abc", 3);
    check_bytes(x->path, d, size);
    random_writes(s, d, &size, 5);
    assert_int_equal(qc_store_flush(s, NULL), 0);
    assert_true(qc_store_size(s) >= size && qc_store_size(s) < size + block);
    check_bytes(x->path, d, qc_store_size(s));
    assert_int_equal(qc_store_zero(s, 30001, 17, true, NULL), 0);
    memset(d + 17, 0, 30001);
    assert_int_equal(qc_store_read(s, back, 400000, 0, QC_READ_PAST_END, NULL), 0);
    assert_memory_equal(back, d, 400000);
    qc_store_destroy(s);
    free(d);
    free(back);
}

struct worker {
    struct qc_store *s;
    unsigned         number;
};

static void *write_every_fourth(void *data)
{
    struct worker *w = data;
    uint8_t buf[100];

    memset(buf, (int)w->number + 1, sizeof(buf));
    for (uint64_t i = w->number; i < 1200; i += 4)
        assert_int_equal(qc_store_write(w->s, buf, 100, i * 100, NULL), 0);
    return NULL;
}

/* Neighbours in the same blocks, by four threads, also past the end. */
static void write_by_threads(struct fixture *x, uint32_t flags)
{
    struct qc_store *s = must_open(x, x->path, flags);
    struct worker w[4];
    pthread_t t[4];
    uint8_t *back = malloc(120000);

    for (unsigned i = 0; i < 4; i++) {
        w[i] = (struct worker){s, i};
        assert_int_equal(pthread_create(&t[i], NULL, write_every_fourth, &w[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(qc_store_read(s, back, 120000, 0, 0, NULL), 0);
    for (unsigned i = 0; i < 120000; i++)
        assert_int_equal(back[i], i / 100 % 4 + 1);
    qc_store_destroy(s);
    free(back);
}

static void test_threads(void **state)
{
    write_by_threads(*state, QC_FILE_WRITE);
}

static void test_threads_direct(void **state)
{
    write_by_threads(*state, QC_FILE_WRITE | QC_FILE_DIRECT);
}

/* A file system of 256 KiB is full, and says so. */
static void test_full(void **state)
{
    struct fixture *x = *state;
    char *dir = scratch_path(x->dir, "small"), *path = qc_asprintf("%s/small/f", x->dir);
    struct qc_store *s;
    char *buf = calloc(1, 1 << 20);
    qchain_error err;
    bool mounted;

    assert_int_equal(mkdir(dir, 0700), 0);
    mounted = mount("none", dir, "tmpfs", 0, "size=256k") == 0;
    if (mounted) {
        write_pattern(path, 1000, 1);
        s = must_open(x, path, QC_FILE_WRITE);
        qc_error_init(&err);
        assert_int_equal(qc_store_write(s, buf, 1 << 20, 5000, &err), QCHAIN_E_NOSPACE);
        assert_int_equal(err.sys_errno, ENOSPC);
        assert_true(err.offset >= 5000);
        assert_int_equal(qc_store_size(s), 1000);
        assert_int_equal(qc_store_resize(s, 1000, &err), 0); /* gives it back */
        assert_int_equal(qc_store_write(s, buf, 5000, 1000, &err), 0);
        assert_int_equal(qc_store_flush(s, &err), 0);
        qc_store_destroy(s);
        assert_int_equal(umount(dir), 0);
    }
    free(buf);
    qc_free(dir);
    qc_free(path);
    if (!mounted)
        skip();
}

/* Larger than a file may be here. */
static void test_too_large(void **state)
{
    struct fixture *x = *state;
    struct qc_store *s = must_open(x, x->path, QC_FILE_WRITE);
    qchain_error err;
    int rc;

    qc_error_init(&err);
    rc = qc_store_write(s, "x", 1, (uint64_t)INT64_MAX - 4096, &err);
    if (rc != 0) { /* not every file system has an end before that */
        assert_int_equal(rc, QCHAIN_E_LIMIT);
        assert_int_equal(err.sys_errno, EFBIG);
    }
    qc_store_destroy(s);
}

static void test_newfile(void **state)
{
    struct fixture *x = *state;
    struct qc_file_opts o = file_opts(x->fds, x->slots, 0);
    char *path = scratch_path(x->dir, "made"), buf[8];
    struct qc_newfile *f;
    struct qc_store *s;

    for (int abort = 0; abort < 2; abort++) {
        assert_int_equal(qc_newfile_create(&f, path, NULL, NULL), 0);
        assert_int_equal(qc_newfile_store(f, &s, &o, NULL), 0);
        assert_true(qc_store_is_writable(s));
        assert_int_equal(qc_store_size(s), 0);
        assert_int_equal(qc_store_write(s, abort ? "bad" : "abc", 3, 4096, NULL), 0);
        assert_int_equal(qc_store_read(s, buf, 4, 4095, 0, NULL), 0);
        assert_memory_equal(buf, abort ? "\0bad" : "\0abc", 4);
        if (abort)
            qc_newfile_abort(f);
        else
            assert_int_equal(access(path, F_OK), -1);
        if (!abort)
            assert_int_equal(qc_newfile_commit(f, NULL), 0);
        s = must_open(x, path, 0);
        assert_int_equal(qc_store_size(s), 4099);
        assert_int_equal(qc_store_read(s, buf, 3, 4096, 0, NULL), 0);
        assert_memory_equal(buf, "abc", 3);
        qc_store_destroy(s);
    }
    qc_free(path);
}

/* ------------------------------------------------------------------- locks --- */

/* In another process: open with these flags and stay, or say the code. */
static pid_t hold(struct fixture *x, uint32_t flags, int *stop)
{
    int ready[2], over[2];
    char c = 0;
    pid_t pid;

    assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
    assert_int_equal(pipe2(over, O_CLOEXEC), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct qc_fdpool *fds = qc_fdpool_create(16, NULL);
        struct qc_file_opts o = file_opts(fds, NULL, flags);
        struct qc_store *s;

        close(over[1]);
        c = qc_file_open(&s, x->path, &o, NULL, NULL) == 0;
        if (write(ready[1], &c, 1) != 1 || read(over[0], &c, 1) != 0)
            _exit(1);
        _exit(0);
    }
    assert_int_equal(read(ready[0], &c, 1), 1);
    assert_int_equal(c, 1);
    close(ready[0]);
    close(ready[1]);
    close(over[0]);
    *stop = over[1];
    return pid;
}

/* Of formats, who writes is alone; of raw images, all may come. */
static void test_locks(void **state)
{
    enum { R = 0, W = QC_FILE_WRITE, F = QC_FILE_FORMAT_LOCK, U = QC_FILE_NO_LOCK };
    static const struct {
        uint32_t there, comes;
        int      rc, byte;
    } t[] = {
        {F | W, F | W, QCHAIN_E_LOCKED, 201}, {F | W, F | R, QCHAIN_E_LOCKED, 101},
        {F | R, F | W, QCHAIN_E_LOCKED, 201}, {F | R, F | R, 0, 0},
        {R, W, 0, 0}, {W, W, 0, 0}, {W, R, 0, 0},
        {W, F | R, QCHAIN_E_LOCKED, 101}, {F | W, W, QCHAIN_E_LOCKED, 201},
        {F | W, R, 0, 0}, {F | W, F | W | U, 0, 0}, {F | W | U, F | W, 0, 0},
    };
    struct fixture *x = *state;
    qchain_error err;

    for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        int stop, status;
        pid_t pid = hold(x, t[i].there, &stop);
        char byte[32];

        assert_int_equal(try_open(x, t[i].comes, -1, &err), t[i].rc);
        snprintf(byte, sizeof(byte), "lock byte %d", t[i].byte);
        if (t[i].rc != 0)
            assert_non_null(strstr(err.text, byte));
        close(stop);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        assert_int_equal(try_open(x, t[i].comes, -1, &err), 0);
    }
}

int main(void)
{
#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_write), TEST(test_refusals), TEST(test_space), TEST(test_direct),
        TEST(test_threads), TEST(test_threads_direct), TEST(test_full), TEST(test_too_large),
        TEST(test_newfile), TEST(test_locks),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
