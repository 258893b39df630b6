/* SPDX-License-Identifier: MIT */
/* Files that appear whole: old or new, like another, and nothing left behind. */
#include <dirent.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "io/newfile.h"
#include "io_tools.h"

static char *scratch;
static qchain_error err;

static int setup(void **unused)
{
    (void)unused;
    scratch = make_scratch();
    qc_error_init(&err);
    return 0;
}

/* Have files that are not whole yet a name here? */
static bool has_names(void)
{
    int fd = qc_newfile_test_named ? -1 : open(scratch, O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);

    if (fd >= 0)
        close(fd);
    return fd < 0;
}

static int teardown(void **unused)
{
    (void)unused;
    drop_scratch(scratch);
    return 0;
}

/* Files in the scratch directory, hidden ones included. */
static int count_files(void)
{
    DIR *d = opendir(scratch);
    int n = 0;

    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
    closedir(d);
    return n;
}

static void holds(const char *path, uint64_t size, unsigned seed)
{
    uint8_t *buf = test_malloc(size + 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    assert_int_equal(read(fd, buf, size + 1), size);
    assert_true(is_pattern(buf, size, 0, seed));
    close(fd);
    test_free(buf);
}

static int put_pattern(struct qc_newfile *f, uint64_t from, uint64_t to, unsigned seed)
{
    uint8_t *buf = test_malloc(to - from);
    int ret;

    for (uint64_t i = from; i < to; i++)
        buf[i - from] = pattern_at(i, seed);
    ret = qc_newfile_write(f, buf, to - from, from, &err);
    test_free(buf);
    return ret;
}

static void the_old_or_the_new(void **unused)
{
    char *path = scratch_path(scratch, "a.qci");
    int fds = count_fds();
    struct qc_newfile *f;

    (void)unused;
    assert_int_equal(qc_newfile_create(&f, path, NULL, &err), 0);
    assert_int_equal(access(path, F_OK), -1); /* not before it is whole */
    assert_int_equal(put_pattern(f, 5000, 100000, 1), 0);
    assert_int_equal(put_pattern(f, 0, 5000, 1), 0);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(qc_newfile_commit(f, &err), 0);
    holds(path, 100000, 1);

    assert_int_equal(qc_newfile_create(&f, path, NULL, &err), 0);
    assert_int_equal(put_pattern(f, 0, 3000, 2), 0);
    holds(path, 100000, 1);
    qc_newfile_abort(f);
    holds(path, 100000, 1);
    assert_int_equal(count_files(), 1);

    assert_int_equal(qc_newfile_create(&f, path, NULL, &err), 0);
    assert_int_equal(put_pattern(f, 0, 3000, 2), 0);
    assert_int_equal(count_files(), 1 + has_names());
    assert_int_equal(qc_newfile_commit(f, &err), 0);
    holds(path, 3000, 2);
    assert_int_equal(count_files(), 1);
    assert_int_equal(count_fds(), fds);
    qc_newfile_abort(NULL);
    qc_free(path);
}

/* The name of the only file in the scratch directory. */
static void only_name(char name[256])
{
    DIR *d = opendir(scratch);

    assert_non_null(d);
    assert_int_equal(count_files(), 1);
    for (struct dirent *e; (e = readdir(d));)
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
            snprintf(name, 256, "%s", e->d_name);
    closedir(d);
}

/* The temporary name, if it has one, and that its descriptors are not passed on. */
static void hidden_beside_it(void **unused)
{
    char *path = scratch_path(scratch, "disk.qcow2.qci");
    struct qc_newfile *f;
    char name[256];

    (void)unused;
    assert_int_equal(qc_newfile_create(&f, path, NULL, &err), 0);
    if (has_names()) {
        only_name(name);
        assert_memory_equal(name, ".disk.qcow2.qci.", 16);
        assert_int_equal(strlen(name), 22);
    } else {
        assert_int_equal(count_files(), 0);
    }
    for (int fd = 3; fd < 64; fd++) {
        char link[64], target[256];
        ssize_t n;

        snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
        n = readlink(link, target, sizeof(target) - 1);
        if (n > 0 && (size_t)n >= strlen(scratch) && !memcmp(target, scratch, strlen(scratch)))
            assert_true(fcntl(fd, F_GETFD) & FD_CLOEXEC);
    }
    qc_newfile_abort(f);
    assert_int_equal(count_files(), 0);
    qc_free(path);
}

static void any_name(void **unused)
{
    char name[256], hidden[256], *path, *cwd = getcwd(NULL, 0);
    struct qc_newfile *f, *other;

    (void)unused;
    assert_non_null(cwd);
    assert_int_equal(chdir(scratch), 0);
    assert_int_equal(qc_newfile_create(&f, "plain", NULL, &err), 0); /* no slash */
    assert_int_equal(chdir(cwd), 0); /* the directory is that of the beginning */
    assert_int_equal(put_pattern(f, 0, 10, 3), 0);
    assert_int_equal(qc_newfile_commit(f, &err), 0);
    path = scratch_path(scratch, "plain");
    holds(path, 10, 3);
    assert_int_equal(unlink(path), 0);
    qc_free(path);

    memset(name, 'x', 255); /* as long as a name may be */
    name[255] = '\0';
    path = scratch_path(scratch, name);
    assert_int_equal(qc_newfile_create(&f, path, NULL, &err), 0);
    if (has_names()) {
        only_name(hidden);
        assert_int_equal(strlen(hidden), 255);
        assert_true(hidden[248] == '.' && strspn(hidden + 249, "0123456789abcdef") == 6);
    }
    assert_int_equal(qc_newfile_create(&other, path, NULL, &err), 0); /* two at once */
    assert_int_equal(put_pattern(other, 0, 10, 4), 0);
    assert_int_equal(qc_newfile_commit(other, &err), 0);
    holds(path, 10, 4);
    assert_int_equal(qc_newfile_commit(f, &err), 0);
    holds(path, 0, 0);
    qc_free(path);

    path = scratch_path(scratch, "");
    assert_int_equal(qc_newfile_create(&f, path, NULL, &err), QCHAIN_E_INVAL);
    qc_free(path);
    path = scratch_path(scratch, "no/such");
    assert_int_equal(qc_newfile_create(&f, path, NULL, &err), QCHAIN_E_NOTFOUND);
    qc_free(path);
    assert_int_equal(count_files(), 1);
    free(cwd);
}

static void name_of_a_directory(void **unused)
{
    char *path = scratch_path(scratch, "dir");
    struct qc_newfile *f;

    (void)unused;
    assert_int_equal(mkdir(path, 0755), 0);
    assert_int_equal(qc_newfile_create(&f, path, NULL, &err), 0);
    assert_int_not_equal(qc_newfile_commit(f, &err), 0);
    assert_non_null(strstr(err.text, "cannot give its temporary file this name"));
    assert_int_equal(count_files(), 1);
    qc_free(path);
}

/* A symbolic link is replaced; what it points to is left alone. */
static void a_link_is_replaced(void **unused)
{
    char *path = scratch_path(scratch, "link"), *target = scratch_path(scratch, "target");
    struct qc_newfile *f;
    struct stat st;

    (void)unused;
    write_pattern(target, 1000, 4);
    assert_int_equal(symlink(target, path), 0);
    assert_int_equal(qc_newfile_create(&f, path, NULL, &err), 0);
    assert_int_equal(put_pattern(f, 0, 20, 5), 0);
    assert_int_equal(qc_newfile_commit(f, &err), 0);
    assert_int_equal(lstat(path, &st), 0);
    assert_true(S_ISREG(st.st_mode));
    holds(path, 20, 5);
    holds(target, 1000, 4);
    qc_free(path);
    qc_free(target);
}

/* One that is only to be new: of two the first stays, and a link that leads nowhere. */
static void what_came_first_stays(void **unused)
{
    char *path = scratch_path(scratch, "new"), *link = scratch_path(scratch, "link");
    struct qc_newfile *first, *second;
    struct stat st;

    (void)unused;
    assert_int_equal(symlink("nowhere", link), 0);
    assert_int_equal(qc_newfile_create(&first, path, NULL, &err), 0);
    assert_int_equal(qc_newfile_create(&second, path, NULL, &err), 0);
    qc_newfile_keep(first);
    qc_newfile_keep(second);
    assert_int_equal(put_pattern(first, 0, 1000, 6), 0);
    assert_int_equal(put_pattern(second, 0, 2000, 7), 0);
    assert_int_equal(qc_newfile_commit(first, &err), 0);
    assert_int_equal(qc_newfile_commit(second, &err), QCHAIN_E_EXISTS);
    holds(path, 1000, 6);
    assert_int_equal(qc_newfile_create(&first, link, NULL, &err), 0);
    qc_newfile_keep(first);
    assert_int_equal(qc_newfile_commit(first, &err), QCHAIN_E_EXISTS);
    assert_true(lstat(link, &st) == 0 && S_ISLNK(st.st_mode));
    assert_int_equal(count_files(), 2);
    qc_free(path);
    qc_free(link);
}

static void copies(void **unused)
{
    char *path = scratch_path(scratch, "new"), *from = scratch_path(scratch, "from");
    struct qc_newfile *f;
    int fd;

    (void)unused;
    write_pattern(from, 1000000, 6);
    fd = open(from, O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(qc_newfile_create(&f, path, NULL, &err), 0);
    assert_int_equal(qc_newfile_copy(f, fd, 300000, 700000, 300000, &err), 0);
    assert_int_equal(qc_newfile_copy(f, fd, 0, 300000, 0, &err), 0);
    assert_int_equal(qc_newfile_copy(f, fd, 5, 0, 7, &err), 0);
    assert_int_equal(qc_newfile_commit(f, &err), 0);
    holds(path, 1000000, 6);

    assert_int_equal(qc_newfile_create(&f, path, NULL, &err), 0);
    assert_int_equal(qc_newfile_copy(f, fd, 999999, 2, 0, &err), QCHAIN_E_IO);
    assert_non_null(strstr(err.text, "ends at offset 1000000"));
    assert_int_equal(qc_newfile_commit(f, &err), QCHAIN_E_IO);
    holds(path, 1000000, 6);
    assert_int_equal(qc_newfile_create(&f, path, NULL, &err), 0);
    assert_int_equal(qc_newfile_copy(f, -1, 0, 1, 0, &err), QCHAIN_E_IO);
    assert_int_equal(err.code, QCHAIN_E_IO);
    qc_newfile_abort(f);
    assert_int_equal(count_files(), 2);
    close(fd);
    qc_free(path);
    qc_free(from);
}

/* A limit on the size of files says what a full disk says. */
static void no_space(void **unused)
{
    char *path = scratch_path(scratch, "full");
    struct rlimit old, small = {100000, 100000};
    struct qc_newfile *f;

    (void)unused;
    write_pattern(path, 500, 7);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(qc_newfile_create(&f, path, NULL, &err), 0);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_int_equal(put_pattern(f, 0, 90000, 8), 0);
    /* The first part of it fits: a short write, then none. */
    assert_int_equal(put_pattern(f, 90000, 110000, 8), QCHAIN_E_NOSPACE);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, SIG_DFL);
    assert_int_equal(err.code, QCHAIN_E_NOSPACE);
    assert_int_equal(err.offset, 100000);
    assert_non_null(strstr(err.text, "full: write at offset 100000"));
    assert_int_equal(qc_newfile_commit(f, &err), QCHAIN_E_IO); /* it is not whole */
    holds(path, 500, 7);
    assert_int_equal(count_files(), 1);
    qc_free(path);
}

/* ------------------------------------------------------- owner, permissions --- */

static mode_t mode_of(const char *path)
{
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    return st.st_mode & 07777;
}

static void permissions(void **unused)
{
    static const mode_t modes[][2] = {{0644, 0644}, {0600, 0600}, {0444, 0444},
                                      {0777, 0666}, {0664, 0664}, {06755, 0644}, {0, 0}};
    char *path = scratch_path(scratch, "new"), *image = scratch_path(scratch, "image");
    mode_t mask = umask(0027);
    struct qc_newfile *f;
    struct stat like;

    (void)unused;
    write_pattern(image, 10, 1);
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
        assert_int_equal(chmod(image, modes[i][0]), 0);
        assert_int_equal(stat(image, &like), 0);
        assert_int_equal(qc_newfile_create(&f, path, &like, &err), 0);
        assert_int_equal(put_pattern(f, 0, 100, 2), 0);
        assert_int_equal(qc_newfile_commit(f, &err), 0);
        assert_int_equal(mode_of(path), modes[i][1]);
    }
    assert_int_equal(qc_newfile_create(&f, path, NULL, &err), 0);
    assert_int_equal(qc_newfile_commit(f, &err), 0);
    assert_int_equal(mode_of(path), 0640); /* the umask's */
    umask(mask);
    qc_free(path);
    qc_free(image);
}

/* What a directory's default access list adds is not like the other file. */
static void no_access_list(void **unused)
{
    /* u::rwx, u:65534:rwx, g::r-x, m::rwx, o::r-x */
    static const uint16_t list[] = {2, 0, 1,  7, 0xffff, 0xffff, 2,  7, 65534,  0,     4,
                                    5, 0xffff, 0xffff, 16, 7, 0xffff, 0xffff, 32, 5, 0xffff,
                                    0xffff};
    struct stat like = {.st_mode = S_IFREG | 0664, .st_uid = geteuid(), .st_gid = getegid()};
    char *path = scratch_path(scratch, "new");
    struct qc_newfile *f;

    (void)unused;
    if (setxattr(scratch, "system.posix_acl_default", list, sizeof(list), 0) != 0) {
        qc_free(path);
        skip();
    }
    assert_int_equal(qc_newfile_create(&f, path, NULL, &err), 0);
    assert_int_equal(qc_newfile_commit(f, &err), 0);
    assert_true(getxattr(path, "system.posix_acl_access", NULL, 0) > 0);
    assert_int_equal(qc_newfile_create(&f, path, &like, &err), 0);
    assert_int_equal(qc_newfile_commit(f, &err), 0);
    assert_int_equal(getxattr(path, "system.posix_acl_access", NULL, 0), -1);
    assert_int_equal(mode_of(path), 0664);
    qc_free(path);
}

/* As another user, in a process of its own: what `what` returns is its exit code. */
static void as_nobody(int (*what)(const char *path, const struct stat *like), const char *path,
                      const struct stat *like, int want)
{
    pid_t pid;
    int status;

    fflush(NULL);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (geteuid() == 0 && (setgid(65534) != 0 || setuid(65534) != 0))
            _exit(99);
        _exit(what(path, like));
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), want);
}

static int make_one(const char *path, const struct stat *like)
{
    struct qc_newfile *f;
    int ret = qc_newfile_create(&f, path, like, &err);

    if (ret == 0)
        ret = qc_newfile_commit(f, &err);
    return -ret;
}

static void closed_directory(void **unused)
{
    char *path = scratch_path(scratch, "new");

    (void)unused;
    assert_int_equal(chmod(scratch, 0555), 0);
    as_nobody(make_one, path, NULL, -QCHAIN_E_ACCESS);
    assert_int_equal(chmod(scratch, 0755), 0);
    assert_int_equal(count_files(), 0);
    qc_free(path);
}

static void owner(void **unused)
{
    char *path = scratch_path(scratch, "new");
    struct stat like = {.st_mode = S_IFREG | 0660, .st_uid = 1234, .st_gid = 4321}, st;
    struct qc_newfile *f;

    (void)unused;
    if (geteuid() != 0)
        skip();
    assert_int_equal(qc_newfile_create(&f, path, &like, &err), 0);
    assert_int_equal(qc_newfile_commit(f, &err), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_uid, 1234);
    assert_int_equal(st.st_gid, 4321);
    assert_int_equal(st.st_mode & 07777, 0660);
    assert_int_equal(unlink(path), 0);

    /* Who may not give it away: ours, and our group may do no more than all may. */
    assert_int_equal(chmod(scratch, 0777), 0);
    as_nobody(make_one, path, &like, 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_uid, 65534);
    assert_int_equal(st.st_gid, 65534);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(unlink(path), 0);
    like.st_mode = S_IFREG | 0664;
    as_nobody(make_one, path, &like, 0);
    assert_int_equal(mode_of(path), 0644);
    assert_int_equal(unlink(path), 0);
    like.st_gid = 65534; /* the group is right, then it keeps what it has */
    as_nobody(make_one, path, &like, 0);
    assert_int_equal(mode_of(path), 0664);
    qc_free(path);
}

/* Once without names, where the file system has such files, and once with. */
int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_old_or_the_new, setup, teardown),
        cmocka_unit_test_setup_teardown(hidden_beside_it, setup, teardown),
        cmocka_unit_test_setup_teardown(any_name, setup, teardown),
        cmocka_unit_test_setup_teardown(name_of_a_directory, setup, teardown),
        cmocka_unit_test_setup_teardown(a_link_is_replaced, setup, teardown),
        cmocka_unit_test_setup_teardown(what_came_first_stays, setup, teardown),
        cmocka_unit_test_setup_teardown(copies, setup, teardown),
        cmocka_unit_test_setup_teardown(no_space, setup, teardown),
        cmocka_unit_test_setup_teardown(permissions, setup, teardown),
        cmocka_unit_test_setup_teardown(no_access_list, setup, teardown),
        cmocka_unit_test_setup_teardown(closed_directory, setup, teardown),
        cmocka_unit_test_setup_teardown(owner, setup, teardown),
    };

    int failed = cmocka_run_group_tests(tests, NULL, NULL);

    qc_newfile_test_named = true;
    return failed + cmocka_run_group_tests(tests, NULL, NULL);
}
