/* SPDX-License-Identifier: MIT */
/* Lock bytes: the pure rules against a process that holds some, then QEMU itself. */
#include "io_tools.h"

#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include "io/store.h"

struct fixture {
    char             *dir;
    char             *path;
    struct qc_slots  *slots;
    struct qc_fdpool *fds;
};

static int setup(void **state)
{
    struct fixture *x = calloc(1, sizeof(*x));

    x->dir = make_scratch();
    x->path = scratch_path(x->dir, "image");
    write_pattern(x->path, 65536, 3);
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
    drop_scratch(x->dir);
    qc_free(x->path);
    free(x);
    return 0;
}

static int try_open(struct fixture *x, uint32_t flags, qchain_error *err)
{
    struct qc_file_opts o = file_opts(x->fds, x->slots, flags);
    struct qc_store *s;
    int rc = qc_file_open(&s, x->path, &o, NULL, err);

    if (rc == 0)
        qc_store_destroy(s);
    return rc;
}

static struct qc_store *must_open(struct fixture *x, uint32_t flags)
{
    struct qc_file_opts o = file_opts(x->fds, x->slots, flags);
    struct qc_store *s = NULL;

    assert_int_equal(qc_file_open(&s, x->path, &o, NULL, NULL), 0);
    return s;
}

/* Somebody else's view of the file: another open file description. */
static int other(const char *path)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);

    assert_true(fd >= 0);
    return fd;
}

static int set_byte(int fd, int byte, short type)
{
    struct flock fl = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    return fcntl(fd, F_OFD_SETLK, &fl);
}

static bool byte_is_held(int fd, int byte)
{
    struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};

    assert_int_equal(fcntl(fd, F_OFD_GETLK, &fl), 0);
    return fl.l_type != F_UNLCK;
}

static void holds_a_readers_bytes(void **state)
{
    struct fixture *x = *state;
    int fd = other(x->path);

    for (uint32_t flags = 0; flags <= QC_FILE_FORMAT_LOCK; flags += QC_FILE_FORMAT_LOCK) {
        struct qc_store *s = must_open(x, flags), *again = must_open(x, flags);

        for (int byte = 90; byte < 220; byte++) {
            bool want = byte == 100 || (flags && (byte == 201 || byte == 203));

            if (byte_is_held(fd, byte) != want)
                fail_msg("flags %u: byte %d", flags, byte);
        }
        qc_store_destroy(s);
        assert_true(byte_is_held(fd, 100)); /* the other one's */
        qc_store_destroy(again);
        assert_false(byte_is_held(fd, 100));
    }
    struct qc_store *s = must_open(x, QC_FILE_NO_LOCK | QC_FILE_FORMAT_LOCK);

    assert_false(byte_is_held(fd, 100) || byte_is_held(fd, 201));
    qc_store_destroy(s);
    close(fd);
}

/* Which single byte of another process keeps a reader out. */
static void minds_a_writers_bytes(void **state)
{
    struct fixture *x = *state;
    int fd = other(x->path);

    for (int byte = 100; byte < 204; byte++) {
        bool stops_raw = byte == 200, stops_format = stops_raw || byte == 101 || byte == 103;
        qchain_error err;

        assert_int_equal(set_byte(fd, byte, F_RDLCK), 0);
        assert_int_equal(try_open(x, 0, &err), stops_raw ? QCHAIN_E_LOCKED : 0);
        assert_int_equal(try_open(x, QC_FILE_FORMAT_LOCK, &err),
                         stops_format ? QCHAIN_E_LOCKED : 0);
        if (stops_format) {
            assert_non_null(strstr(err.text, "in use by a writer"));
            assert_non_null(strstr(err.text, "FORCE_SHARE"));
        }
        assert_int_equal(try_open(x, QC_FILE_FORMAT_LOCK | QC_FILE_NO_LOCK, &err), 0);
        assert_int_equal(set_byte(fd, byte, F_UNLCK), 0);
    }
    /* An exclusive lock on a byte that we would hold. */
    assert_int_equal(set_byte(fd, 100, F_WRLCK), 0);
    assert_int_equal(try_open(x, 0, NULL), QCHAIN_E_LOCKED);
    close(fd);
    assert_int_equal(try_open(x, QC_FILE_FORMAT_LOCK, NULL), 0);
}

/* The same, between processes. */
static void sees_another_process(void **state)
{
    struct fixture *x = *state;
    int ready[2], done[2], status;
    char c = 0;
    pid_t pid;

    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe(done), 0);
    pid = fork();
    if (pid == 0) {
        int fd = open(x->path, O_RDWR);

        close(done[1]);
        c = fd >= 0 && set_byte(fd, 101, F_RDLCK) == 0;
        if (write(ready[1], &c, 1) == 1 && read(done[0], &c, 1) == 0)
            _exit(0);
        _exit(1);
    }
    close(done[0]);
    assert_int_equal(read(ready[0], &c, 1), 1);
    assert_int_equal(c, 1);
    assert_int_equal(try_open(x, QC_FILE_FORMAT_LOCK, NULL), QCHAIN_E_LOCKED);
    assert_int_equal(try_open(x, 0, NULL), 0);
    close(done[1]);
    close(ready[0]);
    close(ready[1]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(try_open(x, QC_FILE_FORMAT_LOCK, NULL), 0);
}

/* The bytes lie on the embedder's description, which lives on. */
static void gives_back_on_a_given_descriptor(void **state)
{
    struct fixture *x = *state;
    struct qc_file_opts o = file_opts(x->fds, x->slots, QC_FILE_FORMAT_LOCK);
    struct qc_store *s;
    int fd = other(x->path), writer;

    o.fd = open(x->path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(qc_file_open(&s, NULL, &o, NULL, NULL), 0);
    assert_true(byte_is_held(fd, 201));
    qc_store_destroy(s);
    assert_false(byte_is_held(fd, 100) || byte_is_held(fd, 201) || byte_is_held(fd, 203));
    writer = other(x->path);
    assert_int_equal(set_byte(writer, 103, F_RDLCK), 0);
    assert_int_equal(qc_file_open(&s, NULL, &o, NULL, NULL), QCHAIN_E_LOCKED);
    assert_false(byte_is_held(fd, 100) || byte_is_held(fd, 201));
    close(writer);
    close(fd);
    close(o.fd);
}

/* A file closed by the pool meets a writer when it is opened again. */
static void locks_again_when_reopened(void **state)
{
    struct fixture *x = *state;
    struct qc_store *s = must_open(x, QC_FILE_FORMAT_LOCK);
    struct qc_file_opts o = file_opts(x->fds, x->slots, 0);
    struct qc_store *many[64];
    char *path = x->path, name[16];
    int fd = other(path);
    qchain_error err;
    uint8_t b[8];

    for (int i = 0; i < 64; i++) {
        snprintf(name, sizeof(name), "m%d", i);
        x->path = scratch_path(x->dir, name);
        write_pattern(x->path, 10, 1);
        assert_int_equal(qc_file_open(&many[i], x->path, &o, NULL, NULL), 0);
        qc_free(x->path);
    }
    x->path = path;
    assert_false(byte_is_held(fd, 201));
    assert_int_equal(set_byte(fd, 101, F_RDLCK), 0);
    assert_int_equal(qc_store_read(s, b, 8, 0, 0, &err), QCHAIN_E_LOCKED);
    assert_int_equal(set_byte(fd, 101, F_UNLCK), 0);
    assert_int_equal(qc_store_read(s, b, 8, 0, 0, &err), 0);
    assert_true(byte_is_held(fd, 201));
    for (int i = 0; i < 64; i++)
        qc_store_destroy(many[i]);
    qc_store_destroy(s);
    close(fd);
}

/* -------------------------------------------------------------------- qemu --- */

static int run(const char *fmt, const char *path)
{
    char *cmd = qc_asprintf(fmt, path);
    int status;

    assert_non_null(cmd);
    status = system(cmd);
    qc_free(cmd);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* A qemu-io that has the image open until its input ends; 0 if it failed. */
static pid_t start_qemu_io(const char *path, const char *format, bool writes, int *input)
{
    int in[2];
    pid_t pid;

    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_RDWR);

        prctl(PR_SET_PDEATHSIG, SIGKILL);
        dup2(in[0], 0);
        dup2(null, 1);
        dup2(null, 2);
        if (writes)
            execlp("qemu-io", "qemu-io", "-f", format, path, (char *)NULL);
        else
            execlp("qemu-io", "qemu-io", "-r", "-f", format, path, (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    *input = in[1];
    return pid;
}

static void stop_qemu_io(pid_t pid, int input)
{
    int status;

    close(input);
    assert_int_equal(waitpid(pid, &status, 0), pid);
}

/* Until qemu-io holds the byte; it locks in the course of opening. */
static void wait_for_byte(const char *path, int byte)
{
    struct timespec nap = {0, 10000000};
    int fd = other(path), rounds = 0;

    while (!byte_is_held(fd, byte) && rounds++ < 2000)
        nanosleep(&nap, NULL);
    close(fd);
    assert_true(rounds < 2000);
    nanosleep(&nap, NULL);
}

static void agrees_with_qemu(void **state)
{
    struct fixture *x = *state;
    struct qc_store *s;
    qchain_error err;
    int input;
    pid_t pid;

    if (run("command -v qemu-io qemu-img >%s.which", x->path) != 0)
        skip();
    /* A writer of qcow2 keeps us out, and we keep it out. */
    assert_int_equal(run("qemu-img create -q -f qcow2 %s 1M", x->path), 0);
    pid = start_qemu_io(x->path, "qcow2", true, &input);
    wait_for_byte(x->path, 203);
    assert_int_equal(try_open(x, QC_FILE_FORMAT_LOCK, &err), QCHAIN_E_LOCKED);
    assert_int_equal(try_open(x, QC_FILE_FORMAT_LOCK | QC_FILE_NO_LOCK, &err), 0);
    stop_qemu_io(pid, input);
    s = must_open(x, QC_FILE_FORMAT_LOCK);
    assert_int_not_equal(run("qemu-io -f qcow2 -c 'write 0 512' %s >/dev/null 2>&1", x->path), 0);
    assert_int_equal(run("qemu-io -r -f qcow2 -c 'read 0 512' %s >/dev/null 2>&1", x->path), 0);
    qc_store_destroy(s);
    assert_int_equal(run("qemu-io -f qcow2 -c 'write 0 512' %s >/dev/null 2>&1", x->path), 0);
    /* Readers do not mind each other. */
    pid = start_qemu_io(x->path, "qcow2", false, &input);
    wait_for_byte(x->path, 203);
    assert_int_equal(try_open(x, QC_FILE_FORMAT_LOCK, &err), 0);
    stop_qemu_io(pid, input);
    /* Raw images are shared, as QEMU shares them. */
    pid = start_qemu_io(x->path, "raw", true, &input);
    wait_for_byte(x->path, 101);
    assert_int_equal(try_open(x, 0, &err), 0);
    assert_int_equal(try_open(x, QC_FILE_FORMAT_LOCK, &err), QCHAIN_E_LOCKED);
    stop_qemu_io(pid, input);
    s = must_open(x, 0);
    assert_int_equal(run("qemu-io -f raw -c 'write 0 512' %s >/dev/null 2>&1", x->path), 0);
    qc_store_destroy(s);
}

static void note_bytes(const char *path, bool held[256])
{
    int fd = other(path);

    for (int byte = 0; byte < 256; byte++)
        held[byte] = byte_is_held(fd, byte);
    close(fd);
}

/* What qemu-io does to the image while we have it: does it get in? */
static bool lets_qemu(struct fixture *x, const char *format, bool writes)
{
    char *cmd = qc_asprintf("qemu-io %s -f %s -c 'read 0 512' %%s >/dev/null 2>&1",
                            writes ? "" : "-r", format);
    int status = run(cmd, x->path);

    qc_free(cmd);
    return status == 0;
}

/* Ours and QEMU's, one of which writes at least, in either order; and the same bytes held. */
static void writes_as_qemu_does(void **state)
{
    struct fixture *x = *state;
    bool ours[256], qemus[256];
    qchain_error err;
    int input;
    pid_t pid;

    if (run("command -v qemu-io qemu-img >%s.which", x->path) != 0)
        skip();
    for (int raw = 0; raw < 2; raw++) {
        const char *format = raw ? "raw" : "qcow2";
        uint32_t flags = raw ? 0 : QC_FILE_FORMAT_LOCK;
        int refused = raw ? 0 : QCHAIN_E_LOCKED;
        struct qc_store *s;

        assert_int_equal(run(raw ? "qemu-img create -q -f raw %s 1M"
                                 : "qemu-img create -q -f qcow2 %s 1M", x->path), 0);
        pid = start_qemu_io(x->path, format, true, &input);
        wait_for_byte(x->path, raw ? 101 : 203);
        note_bytes(x->path, qemus);
        assert_int_equal(try_open(x, flags | QC_FILE_WRITE, &err), refused);
        assert_int_equal(try_open(x, flags, &err), refused);
        assert_int_equal(try_open(x, flags | QC_FILE_WRITE | QC_FILE_NO_LOCK, &err), 0);
        stop_qemu_io(pid, input);
        pid = start_qemu_io(x->path, format, false, &input);
        wait_for_byte(x->path, raw ? 100 : 203);
        assert_int_equal(try_open(x, flags | QC_FILE_WRITE, &err), refused);
        if (!raw)
            assert_non_null(strstr(err.text, "cannot be written (lock byte 201"));
        stop_qemu_io(pid, input);

        s = must_open(x, flags | QC_FILE_WRITE);
        note_bytes(x->path, ours);
        assert_memory_equal(ours, qemus, sizeof(ours));
        assert_int_equal(lets_qemu(x, format, true), raw);
        assert_int_equal(lets_qemu(x, format, false), raw);
        qc_store_destroy(s);
        s = must_open(x, flags);
        assert_int_equal(lets_qemu(x, format, true), raw);
        assert_int_equal(lets_qemu(x, format, false), true);
        qc_store_destroy(s);
        s = must_open(x, flags | QC_FILE_WRITE | QC_FILE_NO_LOCK);
        assert_true(lets_qemu(x, format, true));
        qc_store_destroy(s);
    }
}

#define test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(holds_a_readers_bytes),
        test(minds_a_writers_bytes),
        test(sees_another_process),
        test(gives_back_on_a_given_descriptor),
        test(locks_again_when_reopened),
        test(agrees_with_qemu),
        test(writes_as_qemu_does),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
