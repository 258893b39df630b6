/* SPDX-License-Identifier: MIT */
#include "chain/trace_part.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "util/alloc.h"
#include "util/escape.h"

/* Nothing else than a trace is ever written over: who mistypes a name keeps his file. */
static int check_content(int fd, const char *path, qchain_error *err)
{
    struct qc_escaped shown;
    struct stat st;
    char head[QC_TRACE_HEAD];
    ssize_t n;

    if (fstat(fd, &st) != 0)
        return qc_fail_errno(err, errno, "trace '%s'", qc_escape_str(&shown, path));
    n = S_ISREG(st.st_mode) ? pread(fd, head, sizeof(head), 0) : -1;
    if (n == 0 || (n > 0 && qc_trace_looks_so(head, (size_t)n)))
        return 0;
    return qc_fail(err, QCHAIN_E_INVAL, "'%s' is there and is no trace: it is left alone; choose another name, or "
                   "remove it", qc_escape_str(&shown, path));
}

/* A recording has its file locked, where the file system can do that. */
static int lock(int fd, int how, const char *path, qchain_error *err)
{
    struct qc_escaped shown;

    if (flock(fd, how | LOCK_NB) == 0 || errno != EWOULDBLOCK)
        return 0;
    return qc_fail(err, QCHAIN_E_LOCKED, "trace '%s': somebody records into it", qc_escape_str(&shown, path));
}

int qc_trace_replaceable(int dir, const char *name, const char *path, qchain_error *err)
{
    struct qc_escaped shown;
    int fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW);
    int ret;

    if (fd < 0)
        return errno == ENOENT ? 0 : qc_fail_errno(err, errno, "trace '%s'", qc_escape_str(&shown, path));
    ret = check_content(fd, path, err);
    if (ret == 0)
        ret = lock(fd, LOCK_SH, path, err);
    close(fd);
    return ret;
}

/* Write it all or nothing. */
static int put(struct qc_trace_part *f, const uint8_t *p, size_t n, qchain_error *err)
{
    struct qc_escaped shown;
    size_t done = 0;
    ssize_t got;
    int why;

    while (done < n) {
        got = pwrite(f->fd, p + done, n - done, (off_t)(f->size + done));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            why = got < 0 ? errno : ENOSPC;
            (void)!ftruncate(f->fd, (off_t)f->size); /* or else reading ends there */
            return qc_fail_errno(err, why, "writing the trace '%s'", qc_escape_str(&shown, f->path));
        }
        done += (size_t)got;
    }
    f->size += n;
    return 0;
}

static int begin_file(struct qc_trace_part *f, int flags, qchain_error *err)
{
    uint8_t header[QC_TRACE_HEADER_BYTES];
    struct qc_escaped shown;
    int ret;

    f->size = 0;
    f->fd = openat(f->dir, f->name, O_RDWR | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_NOFOLLOW | flags, 0666);
    if (f->fd < 0)
        return qc_fail_errno(err, errno, "trace '%s'", qc_escape_str(&shown, f->path));
    ret = lock(f->fd, LOCK_EX, f->path, err);
    if (ret == 0)
        ret = check_content(f->fd, f->path, err);
    if (ret == 0 && ftruncate(f->fd, 0) != 0)
        ret = qc_fail_errno(err, errno, "trace '%s'", qc_escape_str(&shown, f->path));
    if (ret != 0)
        return ret;
    qc_trace_put_header(header, &f->header);
    return put(f, header, sizeof(header), err);
}

/* The older file of another recording would only be in the way. */
static int remove_older(struct qc_trace_part *f, qchain_error *err)
{
    struct qc_escaped shown;
    int ret = qc_trace_replaceable(f->dir, f->older, f->older_path, err);

    if (ret == 0 && unlinkat(f->dir, f->older, 0) != 0 && errno != ENOENT)
        ret = qc_fail_errno(err, errno, "removing '%s'", qc_escape_str(&shown, f->older_path));
    return ret;
}

static int open_directory(struct qc_trace_part *f, const char *path, qchain_error *err)
{
    const char *slash = strrchr(path, '/');
    char *dir = slash ? qc_strndup(path, slash == path ? 1 : (size_t)(slash - path)) : qc_strdup(".");
    struct qc_escaped shown;
    int ret = 0;

    f->path = qc_strdup(path);
    f->older_path = qc_asprintf("%s" QC_TRACE_OLDER, path);
    if (dir && f->path && f->older_path) {
        f->name = f->path + (slash ? slash + 1 - path : 0);
        f->older = f->older_path + (f->name - f->path);
    }
    if (!f->name)
        ret = qc_fail_nomem(err);
    else if (!*f->name)
        ret = qc_fail(err, QCHAIN_E_INVAL, "trace '%s': this is no name of a file", qc_escape_str(&shown, path));
    if (ret == 0)
        f->dir = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (ret == 0 && f->dir < 0)
        ret = qc_fail_errno(err, errno, "trace '%s': its directory", qc_escape_str(&shown, path));
    qc_free(dir);
    return ret;
}

int qc_trace_part_open(struct qc_trace_part *f, const char *path, const struct qc_trace_header *header, uint64_t most,
                       bool keep_first, qchain_error *err)
{
    int ret;

    *f = (struct qc_trace_part){.dir = -1, .fd = -1, .header = *header, .most = most, .keep_first = keep_first};
    if (getrandom(f->header.id, sizeof(f->header.id), 0) != sizeof(f->header.id))
        return qc_fail_errno(err, errno, "trace: random bytes");
    ret = open_directory(f, path, err);
    if (ret == 0)
        ret = qc_trace_replaceable(f->dir, f->older, f->older_path, err); /* said before the other one is emptied */
    if (ret == 0)
        ret = begin_file(f, 0, err);
    if (ret == 0)
        ret = remove_older(f, err);
    if (ret != 0)
        qc_trace_part_close(f);
    return ret;
}

/* Does the name still lead to the file that is written? */
static bool is_ours(const struct qc_trace_part *f)
{
    struct stat named, open;

    return fstatat(f->dir, f->name, &named, AT_SYMLINK_NOFOLLOW) == 0 && fstat(f->fd, &open) == 0 &&
           named.st_dev == open.st_dev && named.st_ino == open.st_ino;
}

/* In between there is no file of that name: who reads then takes the older one. */
static int next_file(struct qc_trace_part *f, qchain_error *err)
{
    struct qc_escaped shown;
    int ret = qc_trace_replaceable(f->dir, f->older, f->older_path, err);

    if (ret == 0 && !is_ours(f))
        ret = qc_fail(err, QCHAIN_E_IO, "trace '%s': the file was moved or replaced while it was recorded; the "
                      "recording ends", qc_escape_str(&shown, f->path));
    if (ret == 0 && renameat(f->dir, f->name, f->dir, f->older) != 0)
        ret = qc_fail_errno(err, errno, "renaming '%s'", qc_escape_str(&shown, f->path));
    if (ret != 0)
        return ret;
    close(f->fd);
    f->fd = -1;
    f->header.part++;
    return begin_file(f, O_EXCL, err);
}

int qc_trace_part_write(struct qc_trace_part *f, const uint8_t *p, size_t n, qchain_error *err)
{
    int ret = 0;

    if (f->size + n > f->most) {
        if (f->keep_first)
            return 1;
        ret = next_file(f, err);
    }
    return ret == 0 ? put(f, p, n, err) : ret;
}

void qc_trace_part_close(struct qc_trace_part *f)
{
    if (f->fd >= 0)
        close(f->fd);
    if (f->dir >= 0)
        close(f->dir);
    qc_free(f->path);
    qc_free(f->older_path);
    *f = (struct qc_trace_part){.dir = -1, .fd = -1};
}
