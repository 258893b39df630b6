/* SPDX-License-Identifier: MIT */
#include "io/newfile.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "io/file.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"
#include "util/escape.h"

#define NAME_TRIES 100
#define COPY_BYTES (256u << 10)
#define SUFFIX 7 /* a dot and six digits */
#define OF_FD "/proc/self/fd/%d"

bool qc_newfile_test_named;

struct qc_newfile {
    char             *name;      /* the last component that it will have */
    char              temporary[NAME_MAX + 1];
    int               dir, fd;
    bool              exists;    /* under its temporary name; else it has none yet */
    bool              failed;    /* something is missing in it */
    bool              keeps;     /* what has the name by then */
    struct qc_store  *store;     /* on it; NULL: nobody asked */
    struct qc_escaped path;      /* for messages */
};

static int fail_errno(const struct qc_newfile *f, int errnum, const char *what, qchain_error *err)
{
    return qc_fail_errno(err, errnum, "%s: %s", f->path.text, what);
}

/* ------------------------------------------------------------------ create --- */

/* Open the directory, so that all names mean the same one, whatever is moved. */
static int open_dir(struct qc_newfile *f, const char *path, qchain_error *err)
{
    const char *slash = strrchr(path, '/');
    char *dir;

    f->name = qc_strdup(slash ? slash + 1 : path);
    if (!slash)
        dir = qc_strdup(".");
    else
        dir = qc_strndup(path, slash == path ? 1 : (size_t)(slash - path));
    if (!f->name || !dir) {
        qc_free(dir);
        return qc_fail_nomem(err);
    }
    f->dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    qc_free(dir);
    if (f->dir < 0)
        return fail_errno(f, errno, "cannot open its directory", err);
    return f->name[0] ? 0 : qc_fail(err, QCHAIN_E_INVAL, "%s: names no file", f->path.text);
}

/* A file without a name, which is gone when nobody has it open any more, however we end; false where there is no such
 * thing, or no way to name it later. */
static bool open_nameless(struct qc_newfile *f, mode_t mode)
{
    char path[sizeof(OF_FD) + 12];
    struct stat st;

    f->fd = qc_newfile_test_named ? -1 : openat(f->dir, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, mode);
    if (f->fd < 0)
        return false;
    snprintf(path, sizeof(path), OF_FD, f->fd);
    if (stat(path, &st) == 0)
        return true;
    close(f->fd);
    f->fd = -1;
    return false;
}

/* One more name beside the one it will have. Not mkostemp's: that knows no directory descriptor, and only the kernel
 * can apply the umask, or the directory's default, without disturbing other threads. */
static int next_temporary(struct qc_newfile *f, qchain_error *err)
{
    int keep = (int)qc_min64(strlen(f->name), NAME_MAX - SUFFIX - 1);
    uint32_t random;

    if (getrandom(&random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return fail_errno(f, errno, "cannot get random bytes", err);
    snprintf(f->temporary, sizeof(f->temporary), ".%.*s.%06" PRIx32, keep, f->name, random & 0xffffff);
    return 0;
}

static int open_temporary(struct qc_newfile *f, mode_t mode, qchain_error *err)
{
    int ret;

    if (open_nameless(f, mode))
        return 0;
    for (int i = 0; i < NAME_TRIES; i++) {
        ret = next_temporary(f, err);
        if (ret != 0)
            return ret;
        f->fd = openat(f->dir, f->temporary, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode);
        if (f->fd >= 0) {
            f->exists = true;
            return 0;
        }
        if (errno != EEXIST)
            break;
    }
    return fail_errno(f, errno, "cannot create a temporary file beside it", err);
}

/* Give a nameless file a temporary name: only renaming puts one in another's place. */
static int link_temporary(struct qc_newfile *f, qchain_error *err)
{
    char path[sizeof(OF_FD) + 12];
    int ret;

    snprintf(path, sizeof(path), OF_FD, f->fd);
    for (int i = 0; i < NAME_TRIES; i++) {
        ret = next_temporary(f, err);
        if (ret != 0)
            return ret;
        if (linkat(AT_FDCWD, path, f->dir, f->temporary, AT_SYMLINK_FOLLOW) == 0) {
            f->exists = true;
            return 0;
        }
        if (errno != EEXIST)
            break;
    }
    return fail_errno(f, errno, "cannot name its temporary file", err);
}

/* Owner first: giving a file away may clear bits of its mode. Who may not do that is left
 * the owner; then, if the group is another too, it gets only what everybody gets. */
static int be_like(struct qc_newfile *f, const struct stat *like, qchain_error *err)
{
    mode_t mode = like->st_mode & 0666;
    struct stat st;

    if (fchown(f->fd, like->st_uid, like->st_gid) != 0 &&
        fchown(f->fd, (uid_t)-1, like->st_gid) != 0)
        mode = (mode & ~(mode_t)0070) | (mode & 0007) << 3;
    /* What the directory's default lets others do is not what `like` lets them do. */
    if (fremovexattr(f->fd, "system.posix_acl_access") != 0 && errno != ENODATA &&
        errno != EOPNOTSUPP && errno != ENOSYS)
        return fail_errno(f, errno, "cannot drop its temporary file's access list", err);
    if (fchmod(f->fd, mode) == 0)
        return 0;
    /* A file system without permissions is fine where they are not too wide. */
    if (errno == EPERM && fstat(f->fd, &st) == 0 && (st.st_mode & 0666 & ~mode) == 0)
        return 0;
    return fail_errno(f, errno, "cannot set its temporary file's permissions", err);
}

int qc_newfile_create(struct qc_newfile **out, const char *path, const struct stat *like,
                      qchain_error *err)
{
    struct qc_newfile *f = qc_calloc(1, sizeof(*f));
    int ret;

    if (!f)
        return qc_fail_nomem(err);
    f->dir = f->fd = -1;
    qc_escape_str(&f->path, path);
    ret = open_dir(f, path, err);
    if (ret == 0)
        ret = open_temporary(f, like ? 0600 : 0666, err);
    if (ret == 0 && like)
        ret = be_like(f, like, err);
    if (ret != 0) {
        qc_newfile_abort(f);
        return ret;
    }
    *out = f;
    return 0;
}

void qc_newfile_keep(struct qc_newfile *f)
{
    f->keeps = true;
}

/* ------------------------------------------------------------------- write --- */

/* No space, or a broken medium, whatever the errno. */
static int write_failed(struct qc_newfile *f, int errnum, uint64_t offset, qchain_error *err)
{
    int code = qc_code_of_errno(errnum) == QCHAIN_E_NOSPACE ? QCHAIN_E_NOSPACE : QCHAIN_E_IO;

    f->failed = true;
    qc_fail_errno(err, errnum, "%s: write at offset %" PRIu64, f->path.text, offset);
    qc_error_at(err, offset);
    if (err)
        err->code = code;
    return code;
}

int qc_newfile_write(struct qc_newfile *f, const void *buf, size_t length, uint64_t offset,
                     qchain_error *err)
{
    const char *p = buf;
    ssize_t n;

    while (length > 0) {
        n = pwrite(f->fd, p, length, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return write_failed(f, n < 0 ? errno : EIO, offset, err);
        p += n;
        length -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

static int read_whole(struct qc_newfile *f, int from, char *p, size_t length, uint64_t offset,
                      qchain_error *err)
{
    ssize_t n;

    while (length > 0) {
        n = pread(from, p, length, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            f->failed = true;
            if (n < 0)
                qc_fail_errno(err, errno, "%s: read of what is copied into it, at offset %" PRIu64,
                              f->path.text, offset);
            else
                qc_fail(err, QCHAIN_E_IO, "%s: what is copied into it ends at offset %" PRIu64,
                        f->path.text, offset);
            if (err)
                err->code = QCHAIN_E_IO;
            return QCHAIN_E_IO;
        }
        p += n;
        length -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

int qc_newfile_copy(struct qc_newfile *f, int from, uint64_t from_offset, uint64_t length,
                    uint64_t offset, qchain_error *err)
{
    char *buf = qc_malloc(qc_min64(length, COPY_BYTES));
    size_t n;
    int ret = 0;

    if (!buf) {
        f->failed = true;
        return qc_fail_nomem(err);
    }
    while (ret == 0 && length > 0) {
        n = qc_min64(length, COPY_BYTES);
        ret = read_whole(f, from, buf, n, from_offset, err);
        if (ret == 0)
            ret = qc_newfile_write(f, buf, n, offset, err);
        from_offset += n;
        offset += n;
        length -= n;
    }
    qc_free(buf);
    return ret;
}

int qc_newfile_store(struct qc_newfile *f, struct qc_store **out, const struct qc_file_opts *opts,
                     qchain_error *err)
{
    struct qc_file_opts o = {
        .fds = opts->fds, .slots = opts->slots, .log = opts->log, .fd = f->fd,
        .name = opts->name ? opts->name : f->path.text,
        /* Nobody else knows its name yet. */
        .flags = (opts->flags & QC_FILE_DIRECT) | QC_FILE_WRITE | QC_FILE_NO_LOCK,
    };
    int ret;

    if (f->store)
        return qc_fail(err, QCHAIN_E_INTERNAL, "%s: has a store already", f->path.text);
    ret = qc_file_open(&f->store, NULL, &o, NULL, err);
    *out = f->store;
    return ret;
}

/* ------------------------------------------------------------------ finish --- */

static int sync_fd(int fd)
{
    int ret;

    do
        ret = fsync(fd);
    while (ret != 0 && errno == EINTR);
    return ret;
}

static int make_durable(struct qc_newfile *f, qchain_error *err)
{
    int ret = f->store ? qc_store_flush(f->store, err) : 0; /* which may know of a flush that failed */

    if (ret == 0 && sync_fd(f->fd) != 0)
        ret = fail_errno(f, errno, "fsync of its temporary file", err);
    return ret;
}

/* A file system that cannot do it by renaming can by a link. */
static int rename_to_new(const struct qc_newfile *f)
{
    int ret;

    if (!qc_newfile_test_named) {
        ret = renameat2(f->dir, f->temporary, f->dir, f->name, RENAME_NOREPLACE);
        if (ret == 0 || errno != EINVAL)
            return ret;
    }
    ret = linkat(f->dir, f->temporary, f->dir, f->name, 0);
    if (ret == 0)
        unlinkat(f->dir, f->temporary, 0);
    return ret;
}

static int give_name(struct qc_newfile *f, qchain_error *err)
{
    int fd = f->fd, ret = f->exists ? 0 : link_temporary(f, err);

    if (ret != 0)
        return ret;
    f->fd = -1;
    if (close(fd) != 0)
        return fail_errno(f, errno, "close of its temporary file", err);
    if ((f->keeps ? rename_to_new(f) : renameat(f->dir, f->temporary, f->dir, f->name)) != 0)
        return fail_errno(f, errno, "cannot give its temporary file this name", err);
    f->exists = false;
    return 0;
}

static int commit(struct qc_newfile *f, bool durable, qchain_error *err)
{
    int ret;

    if (f->failed)
        return qc_fail(err, QCHAIN_E_IO, "%s: is not replaced: its new content is not whole",
                       f->path.text);
    ret = durable ? make_durable(f, err) : 0;
    if (ret == 0)
        ret = give_name(f, err);
    /* Some file systems cannot, and say so. */
    if (ret == 0 && durable && sync_fd(f->dir) != 0 && errno != EINVAL && errno != EOPNOTSUPP)
        ret = fail_errno(f, errno, "fsync of its directory", err);
    return ret;
}

int qc_newfile_commit(struct qc_newfile *f, qchain_error *err)
{
    int ret = commit(f, true, err);

    qc_newfile_abort(f);
    return ret;
}

int qc_newfile_rename(struct qc_newfile *f, qchain_error *err)
{
    int ret = commit(f, false, err);

    qc_newfile_abort(f);
    return ret;
}

int qc_newfile_fd(const struct qc_newfile *f)
{
    return f->fd;
}

void qc_newfile_abort(struct qc_newfile *f)
{
    if (!f)
        return;
    qc_store_destroy(f->store);
    if (f->fd >= 0)
        close(f->fd);
    if (f->exists)
        unlinkat(f->dir, f->temporary, 0);
    if (f->dir >= 0)
        close(f->dir);
    qc_free(f->name);
    qc_free(f);
}
