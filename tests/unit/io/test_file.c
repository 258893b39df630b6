/* SPDX-License-Identifier: MIT */
/* Local files, buffered and direct, and what is refused as one. */
#include "io_tools.h"

#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <linux/loop.h>

#include "io/file_int.h"
#include "io/store.h"

#define SIZE (3u * 1024 * 1024 + 777)
#define SEED 5

struct fixture {
    char             *dir;
    char             *path; /* SIZE bytes of pattern */
    struct qc_slots  *slots;
    struct qc_fdpool *fds;
    int               fds_before;
    int               logged;
    struct qc_log     log;
};

static void count_line(void *data, int level, const char *tag, const char *message)
{
    (void)level;
    (void)tag;
    (void)message;
    ++*(int *)data;
}

static int setup(void **state)
{
    struct fixture *x = calloc(1, sizeof(*x));

    x->dir = make_scratch();
    x->path = scratch_path(x->dir, "file.raw");
    write_pattern(x->path, SIZE, SEED);
    x->fds_before = count_fds();
    x->slots = qc_slots_create();
    x->fds = qc_fdpool_create(16, x->slots);
    x->log = (struct qc_log){.fn = count_line, .data = &x->logged, .level = QCHAIN_LOG_WARN};
    assert_non_null(x->slots);
    assert_non_null(x->fds);
    *state = x;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *x = *state;

    assert_int_equal(qc_fdpool_open_count(x->fds), 0);
    qc_fdpool_destroy(x->fds);
    qc_slots_destroy(x->slots);
    assert_int_equal(count_fds(), x->fds_before); /* no descriptor is lost */
    drop_scratch(x->dir);
    qc_free(x->path);
    free(x);
    return 0;
}

static struct qc_store *open_file(struct fixture *x, const char *path, uint32_t flags)
{
    struct qc_file_opts o = file_opts(x->fds, x->slots, flags);
    struct qc_store *s = NULL;
    qchain_error err;
    int rc;

    o.log = &x->log;
    qc_error_init(&err);
    rc = qc_file_open(&s, path, &o, NULL, &err);
    if (rc != 0)
        fail_msg("%s: %s", path, err.text);
    return s;
}

static void open_fails(struct fixture *x, const char *path, int code, const char *text)
{
    struct qc_file_opts o = file_opts(x->fds, x->slots, 0);
    struct qc_store *s = NULL;
    char *real = NULL;
    qchain_error err;

    qc_error_init(&err);
    assert_int_equal(qc_file_open(&s, path, &o, &real, &err), code);
    assert_int_equal(err.code, code);
    if (!strstr(err.text, text))
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
    assert_null(s);
    assert_null(real);
    assert_int_equal(qc_file_open(&s, path, &o, NULL, NULL), code);
    assert_int_equal(count_fds(), x->fds_before);
}

/* Read ranges of all alignments, plain and scattered, and compare. */
static void read_around(struct qc_store *s)
{
    static const uint64_t offsets[] = {0, 1, 511, 512, 4095, 4096, 8192, 65536, 1048575,
                                       1048576 - 4096, SIZE - 777, SIZE - 4873, SIZE - 1};
    static const size_t lengths[] = {1, 511, 512, 777, 4096, 4097, 65536, 1048577, 2500000};
    uint8_t *raw = test_malloc(SIZE + 8192);
    uint8_t *buf = (uint8_t *)(((uintptr_t)raw + 4095) & ~(uintptr_t)4095);

    for (size_t i = 0; i < sizeof(offsets) / sizeof(offsets[0]); i++)
        for (size_t j = 0; j < sizeof(lengths) / sizeof(lengths[0]); j++) {
            uint64_t at = offsets[i];
            size_t n = lengths[j] < SIZE - at ? lengths[j] : SIZE - at;
            size_t shift = (i + j) % 3;
            qchain_iov iov[3] = {{buf + shift, n / 3}, {buf + shift + n / 3, n / 2},
                                 {buf + shift + n / 3 + n / 2, n - n / 3 - n / 2}};
            qchain_error err;

            memset(buf, 0, n + 8);
            if (qc_store_read(s, buf + shift, n, at, 0, &err) != 0)
                fail_msg("%zu at %zu: %s", n, (size_t)at, err.text);
            assert_true(is_pattern(buf + shift, n, at, SEED));
            memset(buf, 0, n + 8);
            if (qc_store_readv(s, iov, 3, n, at, QC_READ_META, &err) != 0)
                fail_msg("%zu at %zu: %s", n, (size_t)at, err.text);
            assert_true(is_pattern(buf + shift, n, at, SEED));
            assert_int_equal(buf[shift + n], 0);
        }
    /* The whole of it, and its end rounded up. */
    assert_int_equal(qc_store_read(s, buf, SIZE, 0, 0, NULL), 0);
    assert_true(is_pattern(buf, SIZE, 0, SEED));
    memset(buf, 0xee, 4096);
    assert_int_equal(qc_store_read(s, buf, 2048, SIZE - 777, QC_READ_PAST_END, NULL), 0);
    assert_true(is_pattern(buf, 777, SIZE - 777, SEED));
    for (int i = 777; i < 2048; i++)
        assert_int_equal(buf[i], 0);
    assert_int_equal(buf[2048], 0xee);
    test_free(raw);
}

static void reads_buffered(void **state)
{
    struct fixture *x = *state;
    struct qc_store *s = open_file(x, x->path, 0);
    struct stat st;
    uint8_t b[16];

    assert_int_equal(stat(x->path, &st), 0);
    assert_int_equal(s->size, SIZE);
    assert_int_equal(s->identity.size, SIZE);
    assert_int_equal(s->identity.inode, st.st_ino);
    assert_int_equal(s->identity.device, st.st_dev);
    assert_int_equal(s->identity.mtime_ns,
                     (uint64_t)st.st_mtim.tv_sec * 1000000000u + st.st_mtim.tv_nsec);
    assert_false(qc_file_is_block_device(s));
    assert_int_equal(qc_store_allocated(s), (uint64_t)st.st_blocks * 512);
    read_around(s);
    assert_int_equal(qc_store_read(s, b, 16, SIZE - 15, 0, NULL), QCHAIN_E_CORRUPT);
    assert_int_equal(qc_counter_sum(x->slots, QC_CNT_FILE_OPENS), 1);
    assert_int_equal(x->logged, 0);
    qc_store_destroy(s);
}

static void reads_direct(void **state)
{
    struct fixture *x = *state;
    struct qc_store *s = open_file(x, x->path, QC_FILE_DIRECT);

    if (s->limits.align_offset == 0)
        assert_int_equal(x->logged, 1); /* this file system has no O_DIRECT, and we said so */
    else
        assert_int_equal(x->logged, 0);
    read_around(s);
    qc_store_destroy(s);
}

/* A file system that refuses O_DIRECT: buffered, with one line. */
static void falls_back_from_direct(void **state)
{
    struct fixture *x = *state;
    int fd = open("/proc/version", O_RDONLY | O_DIRECT | O_CLOEXEC);
    struct qc_store *s;

    if (fd >= 0 || errno != EINVAL) {
        close(fd);
        skip();
    }
    s = open_file(x, "/proc/version", QC_FILE_DIRECT);
    assert_int_equal(s->limits.align_offset, 0);
    assert_int_equal(x->logged, 1);
    qc_store_destroy(s);
}

/* On a tmpfs, which has O_DIRECT only on newer kernels. */
static void reads_from_memory(void **state)
{
    struct fixture *x = *state;
    char path[] = "/dev/shm/qc-io-XXXXXX";
    int fd = mkstemp(path);
    struct qc_store *s;

    if (fd < 0)
        skip();
    close(fd);
    write_pattern(path, SIZE, SEED);
    s = open_file(x, path, QC_FILE_DIRECT);
    assert_int_equal(x->logged, s->limits.align_offset == 0 ? 1 : 0);
    read_around(s);
    qc_store_destroy(s);
    unlink(path);
}

static void reads_without_waiting(void **state)
{
    struct fixture *x = *state;
    struct qc_store *s = open_file(x, x->path, 0);
    uint8_t buf[4096];
    int rc;

    /* Read once, so that it is in the page cache. */
    assert_int_equal(qc_store_read(s, buf, 4096, 100, 0, NULL), 0);
    memset(buf, 0, sizeof(buf));
    rc = s->ops.pread_nowait(s->obj, buf, 4096, 100, 0, NULL);
    assert_true(rc == 0 || rc == QCHAIN_E_BUSY);
    if (rc == 0)
        assert_true(is_pattern(buf, 4096, 100, SEED));
    qc_store_destroy(s);
}

static void notices_shrinking(void **state)
{
    struct fixture *x = *state;

    for (uint32_t flags = 0; flags <= QC_FILE_DIRECT; flags += QC_FILE_DIRECT) {
        struct qc_store *s;
        uint8_t buf[9000];
        qchain_iov iov[2] = {{buf, 4000}, {buf + 4000, 5000}};
        qchain_error err;

        write_pattern(x->path, SIZE, SEED);
        s = open_file(x, x->path, flags);
        assert_int_equal(truncate(x->path, 70000), 0);
        qc_error_init(&err);
        assert_int_equal(qc_store_read(s, buf, 9000, 65000, 0, &err), QCHAIN_E_IO);
        assert_non_null(strstr(err.text, "shrank"));
        assert_true(err.offset >= 65000 && err.offset <= 70000);
        assert_int_equal(qc_store_readv(s, iov, 2, 9000, 65000, 0, &err), QCHAIN_E_IO);
        assert_int_equal(qc_store_read(s, buf, 9000, 2000000, 0, &err), QCHAIN_E_IO);
        assert_int_equal(qc_store_read(s, buf, 777, SIZE - 777, 0, &err), QCHAIN_E_IO);
        assert_int_equal(qc_store_read(s, buf, 100, SIZE - 100, 0, &err), QCHAIN_E_IO);
        assert_int_equal(qc_store_readv(s, iov, 2, 9000, 2000000, 0, &err), QCHAIN_E_IO);
        assert_int_equal(qc_store_read(s, buf, 9000, 50000, 0, &err), 0);
        assert_true(is_pattern(buf, 9000, 50000, SEED));
        qc_store_destroy(s);
    }
}

static void refuses_what_is_no_file(void **state)
{
    struct fixture *x = *state;
    char *fifo = scratch_path(x->dir, "fifo"), *sock = scratch_path(x->dir, "sock");
    char *link = scratch_path(x->dir, "link"), *loop = scratch_path(x->dir, "loop");
    char *none = scratch_path(x->dir, "none"), *below = scratch_path(x->dir, "file.raw/below");
    struct sockaddr_un sa = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    strncpy(sa.sun_path, sock, sizeof(sa.sun_path) - 1);
    assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
    close(fd);
    assert_int_equal(mkfifo(fifo, 0666), 0);
    assert_int_equal(symlink(fifo, link), 0);
    assert_int_equal(symlink(loop, loop), 0);

    open_fails(x, x->dir, QCHAIN_E_ACCESS, "is a directory");
    open_fails(x, fifo, QCHAIN_E_ACCESS, "is a fifo"); /* and does not wait for a writer */
    open_fails(x, link, QCHAIN_E_ACCESS, "is a fifo");
    open_fails(x, sock, QCHAIN_E_ACCESS, "is a socket");
    open_fails(x, "/dev/null", QCHAIN_E_ACCESS, "is a character device");
    open_fails(x, loop, QCHAIN_E_ACCESS, "symbolic");
    open_fails(x, none, QCHAIN_E_NOTFOUND, "none");
    open_fails(x, below, QCHAIN_E_NOTFOUND, "below");
    open_fails(x, "", QCHAIN_E_INVAL, "path");
    qc_free(fifo);
    qc_free(sock);
    qc_free(link);
    qc_free(loop);
    qc_free(none);
    qc_free(below);
}

struct gate {
    char seen[4096];
    int  verdict;
    int  calls;
};

static int gate(void *data, const char *real_path, qchain_error *err)
{
    struct gate *g = data;

    snprintf(g->seen, sizeof(g->seen), "%s", real_path);
    g->calls++;
    return g->verdict ? qc_fail(err, g->verdict, "the gate is shut") : 0;
}

static void asks_the_gate(void **state)
{
    struct fixture *x = *state;
    char *link = scratch_path(x->dir, "a-link"), *real = NULL;
    char *expected = realpath(x->path, NULL);
    struct gate g = {.verdict = QCHAIN_E_ACCESS};
    struct qc_file_opts o = file_opts(x->fds, x->slots, 0);
    struct qc_store *s;
    qchain_error err;

    assert_int_equal(symlink("file.raw", link), 0);
    o.gate = gate;
    o.gate_data = &g;
    assert_int_equal(qc_file_open(&s, link, &o, &real, &err), QCHAIN_E_ACCESS);
    assert_string_equal(err.text, "the gate is shut");
    assert_string_equal(g.seen, expected); /* not the link */
    assert_null(real);
    assert_int_equal(count_fds(), x->fds_before);
    g.verdict = 0;
    assert_int_equal(qc_file_open(&s, link, &o, &real, NULL), 0);
    assert_string_equal(real, expected);
    assert_int_equal(g.calls, 2);
    qc_store_destroy(s);
    qc_free(real);
    qc_free(link);
    free(expected);
}

static void takes_descriptors(void **state)
{
    struct fixture *x = *state;
    int fd = open(x->path, O_RDONLY | O_CLOEXEC), wr = open(x->path, O_WRONLY | O_CLOEXEC);
    struct qc_file_opts o = file_opts(x->fds, x->slots, 0);
    char *real = NULL, *expected = realpath(x->path, NULL);
    struct qc_store *s;
    qchain_error err;
    int dir;

    o.fd = fd;
    o.name = "given";
    assert_int_equal(qc_file_open(&s, NULL, &o, &real, &err), 0);
    assert_string_equal(real, expected);
    assert_string_equal(s->name, "given");
    close(fd);
    assert_int_equal(unlink(x->path), 0);
    read_around(s);
    qc_store_destroy(s);
    qc_free(real);
    free(expected);

    o.fd = wr;
    assert_int_equal(qc_file_open(&s, NULL, &o, NULL, &err), QCHAIN_E_ACCESS);
    close(wr);
    assert_int_equal(qc_file_open(&s, NULL, &o, NULL, &err), QCHAIN_E_INVAL);
    o.fd = dir = open(x->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(qc_file_open(&s, NULL, &o, NULL, &err), QCHAIN_E_ACCESS);
    close(dir);
}

static void finds_holes(void **state)
{
    struct fixture *x = *state;
    char *path = scratch_path(x->dir, "sparse");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    uint8_t block[65536] = {1};
    qchain_store_extent e;
    struct qc_store *s;

    assert_int_equal(ftruncate(fd, 1 << 20), 0);
    assert_int_equal(pwrite(fd, block, 65536, 131072), 65536);
    if (lseek(fd, 0, SEEK_DATA) != 131072) {
        close(fd);
        qc_free(path);
        skip(); /* the file system does not tell holes */
    }
    close(fd);
    s = open_file(x, path, 0);
    assert_int_equal(qc_store_extent(s, &e, 1 << 20, 0, NULL), 0);
    assert_true(e.hole == 1 && e.length == 131072);
    assert_int_equal(qc_store_extent(s, &e, 100, 4096, NULL), 0);
    assert_true(e.hole == 1 && e.length == 100 && e.offset == 4096);
    assert_int_equal(qc_store_extent(s, &e, 1 << 20, 131073, NULL), 0);
    assert_true(e.hole == 0 && e.length == 65535);
    assert_int_equal(qc_store_extent(s, &e, 1 << 20, 196608, NULL), 0);
    assert_true(e.hole == 1 && e.length == (1 << 20) - 196608); /* to the end of the file */
    assert_true(qc_store_allocated(s) < s->size);
    /* Beyond what the file has become: as a trailing hole. */
    assert_int_equal(truncate(path, 131072), 0);
    assert_int_equal(qc_store_extent(s, &e, 4096, 131072, NULL), 0);
    assert_true(e.hole == 1 && e.length == 4096);
    qc_store_destroy(s);
    qc_free(path);
}

/* A loop device over the fixture's file, or -1. */
static int attach_loop(struct fixture *x, char dev[32])
{
    int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int file = open(x->path, O_RDWR | O_CLOEXEC), loop = -1, n;
    struct loop_info64 info = {.lo_flags = LO_FLAGS_AUTOCLEAR}; /* goes when we go */

    for (int tries = 0; control >= 0 && file >= 0 && tries < 5 && loop < 0; tries++) {
        n = ioctl(control, LOOP_CTL_GET_FREE);
        snprintf(dev, 32, "/dev/loop%d", n);
        if (n >= 0)
            loop = open(dev, O_RDWR | O_CLOEXEC);
        if (loop >= 0 && ioctl(loop, LOOP_SET_FD, file) != 0) {
            close(loop);
            loop = -1;
        }
    }
    if (loop >= 0)
        ioctl(loop, LOOP_SET_STATUS64, &info);
    if (control >= 0)
        close(control);
    if (file >= 0)
        close(file);
    return loop;
}

static void reads_block_devices(void **state)
{
    struct fixture *x = *state;
    uint8_t *buf = test_malloc(1 << 20);
    qchain_store_extent e;
    struct qc_store *s;
    char dev[32];
    int loop;

    assert_int_equal(truncate(x->path, 3 << 20), 0); /* a whole number of sectors */
    loop = attach_loop(x, dev);
    if (loop < 0) {
        test_free(buf);
        skip();
    }
    x->fds_before++;
    open_fails(x, dev, QCHAIN_E_ACCESS, "block device");
    for (uint32_t direct = 0; direct <= QC_FILE_DIRECT; direct += QC_FILE_DIRECT) {
        s = open_file(x, dev, QC_FILE_BLOCK_DEVICE | direct);
        assert_true(qc_file_is_block_device(s));
        assert_int_equal(s->size, 3 << 20);
        assert_int_equal(s->identity.flags & QCHAIN_IDENTITY_HAS_MTIME, 0);
        assert_int_equal(qc_store_read(s, buf + 1, 99999, 70001, 0, NULL), 0);
        assert_true(is_pattern(buf + 1, 99999, 70001, SEED));
        assert_int_equal(qc_store_read(s, buf, 1 << 20, 2 << 20, 0, NULL), 0);
        assert_true(is_pattern(buf, 1 << 20, 2 << 20, SEED));
        assert_int_equal(qc_store_extent(s, &e, s->size, 0, NULL), 0);
        assert_true(e.hole == 0 && e.length == s->size);
        qc_store_destroy(s);
    }
    close(loop);
    x->fds_before--;
    test_free(buf);
}

/* Looking for holes, or locking, must not touch what the embedder's descriptor shares
 * with others; where its file has no other name either. */
static void leaves_given_descriptors_alone(void **state)
{
    struct fixture *x = *state;
    char *path = scratch_path(x->dir, "unlinked");
    struct qc_file_opts o = file_opts(x->fds, x->slots, QC_FILE_FORMAT_LOCK);

    for (int kind = 0; kind < 3; kind++) {
        int fd = kind == 2 ? memfd_create("given", MFD_CLOEXEC)
                           : open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        struct flock mine = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 1};
        uint8_t b[100], got[100];
        qchain_store_extent e;
        struct qc_store *s;

        memset(b, 7, sizeof(b));
        assert_int_equal(ftruncate(fd, 1 << 20), 0);
        assert_int_equal(pwrite(fd, b, sizeof(b), 65536), sizeof(b));
        assert_int_equal(lseek(fd, 1234, SEEK_SET), 1234);
        if (kind > 0)
            unlink(path);
        o.fd = fd;
        assert_int_equal(qc_file_open(&s, NULL, &o, NULL, NULL), 0);
        assert_false(((struct qc_file *)s->obj)->shared);
        assert_int_equal(qc_store_extent(s, &e, 1 << 20, 0, NULL), 0);
        assert_true(e.hole && e.length == 65536);
        assert_int_equal(lseek(fd, 0, SEEK_CUR), 1234);
        assert_int_equal(fcntl(fd, F_OFD_SETLK, &mine), -1); /* the lock is not the embedder's */
        assert_int_equal(qc_store_read(s, got, sizeof(got), 65536, 0, NULL), 0);
        assert_memory_equal(got, b, sizeof(b));
        qc_store_destroy(s);
        assert_int_equal(fcntl(fd, F_OFD_SETLK, &mine), 0);
        close(fd);
    }
    qc_free(path);
}

/* A file that we may not open, through a descriptor of somebody who might. */
static void takes_what_it_may_not_open(void **state)
{
    struct fixture *x = *state;
    struct qc_file_opts o = file_opts(x->fds, x->slots, QC_FILE_FORMAT_LOCK);
    struct qc_store *s = NULL;
    qchain_store_extent e;
    int fd = open(x->path, O_RDONLY | O_CLOEXEC), rc;
    uid_t user = geteuid();

    assert_int_equal(lseek(fd, 77, SEEK_SET), 77);
    assert_int_equal(chmod(x->path, 0), 0);
    if (user == 0 && seteuid(65534) != 0) {
        close(fd);
        skip();
    }
    o.fd = fd;
    rc = qc_file_open(&s, NULL, &o, NULL, NULL);
    if (user == 0)
        assert_int_equal(seteuid(0), 0);
    assert_int_equal(rc, 0);
    assert_true(((struct qc_file *)s->obj)->shared);
    read_around(s);
    assert_int_equal(qc_store_extent(s, &e, 1000, 0, NULL), 0);
    assert_false(e.hole);
    assert_int_equal(lseek(fd, 0, SEEK_CUR), 77);
    qc_store_destroy(s);
    close(fd);
}

#define test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(reads_buffered),
        test(reads_direct),
        test(falls_back_from_direct),
        test(reads_from_memory),
        test(reads_without_waiting),
        test(notices_shrinking),
        test(refuses_what_is_no_file),
        test(asks_the_gate),
        test(takes_descriptors),
        test(leaves_given_descriptors_alone),
        test(takes_what_it_may_not_open),
        test(finds_holes),
        test(reads_block_devices),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
