/* SPDX-License-Identifier: MIT */
/*
 * Opening a local file. The name is opened as a mere reference first (O_PATH),
 * which wakes no device and blocks on no fifo. What it refers to is looked at
 * and shown to the gate; only then, through that very reference, opened for
 * use. So no swap of a symbolic link can come in between.
 */
#include "io/file_int.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "util/alloc.h"
#include "util/error.h"

static const char *kind_name(mode_t mode)
{
    switch (mode & S_IFMT) {
    case S_IFDIR:
        return "a directory";
    case S_IFIFO:
        return "a fifo";
    case S_IFSOCK:
        return "a socket";
    case S_IFCHR:
        return "a character device";
    default:
        return "of an unknown kind";
    }
}

static int check_kind(const struct qc_file *f, const struct stat *st, qchain_error *err)
{
    if (S_ISREG(st->st_mode) || (S_ISBLK(st->st_mode) && (f->flags & QC_FILE_BLOCK_DEVICE)))
        return 0;
    if (S_ISBLK(st->st_mode))
        return qc_fail(err, QCHAIN_E_ACCESS, "%s: is a block device: allowed only with the "
                       "policy \"allow block-device\" (QCHAIN_POLICY_BLOCK_DEVICE)", f->name);
    return qc_fail(err, QCHAIN_E_ACCESS, "%s: is %s, not a regular file", f->name,
                   kind_name(st->st_mode));
}

/* ------------------------------------------------------ what lies behind it --- */

static void proc_path(char path[32], int fd)
{
    snprintf(path, 32, "/proc/self/fd/%d", fd);
}

static bool is_same_file(const char *path, const struct stat *st)
{
    struct stat other;

    return stat(path, &other) == 0 && other.st_dev == st->st_dev && other.st_ino == st->st_ino;
}

/* The path behind a descriptor, to be freed. given: the name it was opened by,
 * which serves where /proc is not mounted; NULL if there is none. */
static int find_real_path(const struct qc_file *f, int fd, const char *given,
                          const struct stat *st, char **out, qchain_error *err)
{
    char link[32], target[PATH_MAX];
    ssize_t len;

    proc_path(link, fd);
    len = readlink(link, target, sizeof(target));
    if (len > 0 && len < (ssize_t)sizeof(target) && (target[0] == '/' || !given)) {
        *out = qc_strndup(target, (size_t)len);
    } else if (!given) {
        *out = qc_strdup(f->name);
    } else {
        if (!realpath(given, target))
            return qc_fail_errno(err, errno, "%s: cannot find its real path", f->name);
        if (!is_same_file(target, st))
            return qc_fail(err, QCHAIN_E_CHANGED, "%s: was replaced while it was opened", f->name);
        *out = qc_strdup(target);
    }
    return *out ? 0 : qc_fail_nomem(err);
}

/* ------------------------------------------------------------ is it the same --- */

static int make_stamp(const struct qc_file *f, int fd, struct qc_file_stamp *stamp,
                      qchain_error *err)
{
    struct stat st;

    if (fstat(fd, &st) != 0)
        return qc_fail_errno(err, errno, "%s: fstat", f->name);
    *stamp = (struct qc_file_stamp){
        .device = st.st_dev, .inode = st.st_ino, .size = (uint64_t)st.st_size,
        .mtime = st.st_mtim,
    };
    if (!S_ISBLK(st.st_mode))
        return 0;
    stamp->rdev = st.st_rdev;
    stamp->mtime = (struct timespec){0};
    if (ioctl(fd, BLKGETSIZE64, &stamp->size) != 0)
        return qc_fail_errno(err, errno, "%s: cannot ask the size of the block device", f->name);
    return 0;
}

static int compare_stamps(const struct qc_file *f, const struct qc_file_stamp *now,
                          qchain_error *err)
{
    const struct qc_file_stamp *was = &f->stamp;

    if (now->device != was->device || now->inode != was->inode || now->rdev != was->rdev)
        return qc_fail(err, QCHAIN_E_CHANGED,
                       "%s: file was replaced by another while the chain is open", f->name);
    if (now->size != was->size)
        return qc_fail(err, QCHAIN_E_CHANGED, "%s: file was changed while the chain is open: "
                       "had %" PRIu64 " bytes, has %" PRIu64, f->name, was->size, now->size);
    if (now->mtime.tv_sec != was->mtime.tv_sec || now->mtime.tv_nsec != was->mtime.tv_nsec)
        return qc_fail(err, QCHAIN_E_CHANGED, "%s: file was changed while the chain is open: "
                       "its modification time is another", f->name);
    return 0;
}

/* -------------------------------------------------------------------- for use --- */

static int access_mode(const struct qc_file *f)
{
    return f->writable ? O_RDWR : O_RDONLY;
}

/* Without updates of the access time where we may: nobody wants images written to
 * because they were read, and each read is cheaper by the look at it. */
static int open_quietly(const char *path, int flags)
{
    int fd = open(path, flags | O_NOATIME);

    return fd < 0 && errno == EPERM ? open(path, flags) : fd;
}

static int try_open(const char *path, struct qc_file *f)
{
    int flags = access_mode(f) | O_CLOEXEC | O_NOCTTY;
    int fd = open_quietly(path, flags | (f->direct ? O_DIRECT : 0));

    if (fd >= 0 || errno != EINVAL || !f->direct || f->known)
        return fd;
    qc_log(f->log, QCHAIN_LOG_WARN, "io", "%s: cannot be opened with O_DIRECT; going through "
           "the page cache", f->name);
    f->direct = false;
    return open_quietly(path, flags);
}

/* Open for use what the reference refers to. path serves without /proc. */
static int open_reference(struct qc_file *f, int ref, const char *path, const struct stat *st,
                          int *out, qchain_error *err)
{
    char link[32];
    int fd;

    proc_path(link, ref);
    fd = try_open(link, f);
    if (fd < 0 && errno == ENOENT && is_same_file(path, st))
        fd = try_open(path, f);
    if (fd < 0)
        return qc_fail_errno(err, errno, "%s: cannot open%s", f->name,
                             f->writable ? " for writing" : "");
    *out = fd;
    return 0;
}

/* Ask the gate about a path, and keep it as the way back to the file. */
static int pass_gate(struct qc_file *f, const struct qc_file_opts *opts, char *real,
                     qchain_error *err)
{
    int rc = opts->gate ? opts->gate(opts->gate_data, real, err) : 0;

    if (rc < 0) {
        qc_free(real);
        return rc;
    }
    qc_free(f->path);
    f->path = real;
    return 0;
}

static int open_path(struct qc_file *f, const struct qc_file_opts *first, int *out,
                     qchain_error *err)
{
    struct stat st;
    char *real = NULL;
    int rc;
    int ref = open(f->path, O_PATH | O_CLOEXEC | O_NONBLOCK);

    if (ref < 0 && f->known && (errno == ENOENT || errno == ENOTDIR))
        return qc_fail(err, QCHAIN_E_CHANGED,
                       "%s: file was removed or renamed while the chain is open", f->name);
    if (ref < 0)
        return qc_fail_errno(err, errno, "%s: cannot open", f->name);
    if (fstat(ref, &st) != 0) {
        rc = qc_fail_errno(err, errno, "%s: fstat", f->name);
        goto out;
    }
    /* An inode number may be given again, to something of another kind. */
    if (f->known && (st.st_dev != f->stamp.device || st.st_ino != f->stamp.inode ||
                     check_kind(f, &st, NULL) != 0)) {
        rc = qc_fail(err, QCHAIN_E_CHANGED,
                     "%s: file was replaced by another while the chain is open", f->name);
        goto out;
    }
    rc = check_kind(f, &st, err);
    if (rc == 0 && first) {
        f->block_device = S_ISBLK(st.st_mode);
        rc = find_real_path(f, ref, f->path, &st, &real, err);
        if (rc == 0)
            rc = pass_gate(f, first, real, err);
    }
    if (rc == 0)
        rc = open_reference(f, ref, f->path, &st, out, err);
out:
    close(ref);
    return rc;
}

/* Open what a descriptor refers to once more, so that position, locks and flags
 * are our own: a memfd and an unlinked file have no other way to it either. -1 where
 * there is no /proc or the file may not be opened again. Never waits for a lease. */
static int open_own(struct qc_file *f, int given, const struct stat *st)
{
    struct stat now;
    char link[32];
    int fd, flags = access_mode(f) | O_CLOEXEC | O_NOCTTY | O_NONBLOCK;

    proc_path(link, given);
    fd = f->direct ? open(link, flags | O_DIRECT) : -1;
    if (fd < 0)
        fd = open(link, flags); /* without O_DIRECT: noticed, and told, by the setup of it */
    if (fd < 0)
        return -1;
    /* Layers of an overlay may show another file by now. */
    if (fstat(fd, &now) == 0 && now.st_dev == st->st_dev && now.st_ino == st->st_ino &&
        now.st_size == st->st_size)
        return fd;
    close(fd);
    return -1;
}

/* The embedder's descriptor: it has the access, we only look what it is. */
static int open_given(struct qc_file *f, const struct qc_file_opts *opts, int *out,
                      qchain_error *err)
{
    struct stat st;
    char *real = NULL;
    int rc, mode, own;
    int fd = fcntl(f->given_fd, F_DUPFD_CLOEXEC, 3);

    if (fd < 0)
        return qc_fail_errno(err, errno, "%s: cannot duplicate descriptor %d", f->name,
                             f->given_fd);
    mode = fcntl(fd, F_GETFL);
    if (mode < 0 || (mode & O_PATH) || (mode & O_ACCMODE) == O_WRONLY) {
        rc = qc_fail(err, QCHAIN_E_ACCESS, "%s: descriptor %d is not open for reading", f->name,
                     f->given_fd);
        goto fail;
    }
    if (f->writable && (mode & O_ACCMODE) != O_RDWR) {
        rc = qc_fail(err, QCHAIN_E_READONLY, "%s: descriptor %d is not open for reading and "
                     "writing", f->name, f->given_fd);
        goto fail;
    }
    if (fstat(fd, &st) != 0) {
        rc = qc_fail_errno(err, errno, "%s: fstat", f->name);
        goto fail;
    }
    f->block_device = S_ISBLK(st.st_mode);
    f->direct = f->direct || (mode & O_DIRECT);
    rc = check_kind(f, &st, err);
    if (rc == 0)
        rc = find_real_path(f, fd, NULL, &st, &real, err);
    if (rc == 0)
        rc = pass_gate(f, opts, real, err);
    if (rc != 0)
        goto fail;
    own = open_own(f, fd, &st);
    f->shared = own < 0;
    if (own >= 0)
        close(fd);
    *out = f->shared ? fd : own;
    return 0;
fail:
    close(fd);
    return rc;
}

/* Buffered writes that need not wait (IOCB_NOWAIT): few file systems know them, and none tells. */
static bool writes_wait(const struct qc_file *f, int fd)
{
    struct statfs fs;

    if (f->direct || f->block_device || fstatfs(fd, &fs) != 0)
        return false;
    return fs.f_type != XFS_SUPER_MAGIC && fs.f_type != BTRFS_SUPER_MAGIC;
}

int qc_file_open_first(void *data, int *out, qchain_error *err)
{
    struct qc_file_first *first = data;
    struct qc_file *f = first->f;
    int fd = -1;
    int rc;

    rc = f->given ? open_given(f, first->opts, &fd, err) : open_path(f, first->opts, &fd, err);
    if (rc != 0)
        return rc;
    if (!(f->flags & QC_FILE_NO_LOCK))
        rc = qc_file_lock(f, fd, &f->locked, err);
    /* Only now: a writer may have changed it until the lock was ours. */
    if (rc == 0)
        rc = make_stamp(f, fd, &f->stamp, err);
    if (rc == 0 && f->direct)
        rc = qc_file_direct_setup(f, fd, err);
    f->writes_wait = writes_wait(f, fd);
    if (rc != 0) {
        if (f->shared && f->locked)
            qc_file_unlock(f, fd);
        close(fd);
        return rc;
    }
    f->known = true;
    *out = fd;
    return 0;
}

int qc_file_open_again(void *data, int *out, qchain_error *err)
{
    struct qc_file *f = data;
    struct qc_file_stamp now;
    bool taken;
    int fd = -1;
    int rc;

    rc = open_path(f, NULL, &fd, err);
    if (rc != 0)
        return rc;
    if (f->locked)
        rc = qc_file_lock(f, fd, &taken, err);
    if (rc == 0)
        rc = make_stamp(f, fd, &now, err);
    if (rc == 0)
        rc = compare_stamps(f, &now, err);
    if (rc != 0) {
        close(fd);
        return rc;
    }
    *out = fd;
    return 0;
}
