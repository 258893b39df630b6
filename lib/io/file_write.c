/* SPDX-License-Identifier: MIT */
/* Writing to local files and block devices, whose descriptors stay open all the time. */
#include "io/file_int.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "util/bytes.h"
#include "util/error.h"

static int fd_of(const struct qc_file *f)
{
    return atomic_load_explicit(&f->entry.fd, memory_order_relaxed);
}

/* Whatever else goes wrong with an open file: its medium is broken. */
static int code_of(int errnum)
{
    switch (errnum) {
    case ENOSPC:
    case EDQUOT:
        return QCHAIN_E_NOSPACE;
    case EFBIG:
        return QCHAIN_E_LIMIT;
    case EROFS:
        return QCHAIN_E_READONLY;
    case EACCES:
    case EPERM: /* sealed, or made immutable */
        return QCHAIN_E_ACCESS;
    case ENOMEM:
        return QCHAIN_E_NOMEM;
    default:
        return QCHAIN_E_IO;
    }
}

static int failed(const char *what, int errnum, uint64_t offset, qchain_error *err)
{
    int code = code_of(errnum);

    qc_fail_errno(err, errnum, "%s at offset %" PRIu64, what, offset);
    qc_error_at(err, offset);
    if (err)
        err->code = code;
    return code;
}

/* ------------------------------------------------------------------- write --- */

static int write_all(const struct qc_file *f, const char *buf, size_t length, uint64_t offset,
                     qchain_error *err)
{
    while (length > 0) {
        ssize_t n = pwrite(fd_of(f), buf, length, (off_t)offset);

        if (n < 0 && errno == EINTR)
            continue;
        /* Direct writes go on with a whole block. */
        if (n > 0 && f->direct)
            n -= n % f->align_offset;
        if (n <= 0)
            return failed("write", n < 0 ? errno : EIO, offset, err);
        buf += n;
        length -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

int qc_file_pwrite(void *obj, const void *buf, size_t length, uint64_t offset, uint32_t flags,
                   qchain_error *err)
{
    (void)flags;
    return write_all(obj, buf, length, offset, err);
}

int qc_file_pwritev(void *obj, const qchain_iov *iov, size_t n_iov, size_t length,
                    uint64_t offset, uint32_t flags, qchain_error *err)
{
    struct qc_file *f = obj;
    size_t done;
    ssize_t n;
    int rc = 0;

    (void)flags;
    do
        n = pwritev(fd_of(f), (const struct iovec *)(const void *)iov, (int)n_iov, (off_t)offset);
    while (n < 0 && errno == EINTR);
    if (n == (ssize_t)length)
        return 0;
    if (n <= 0)
        return failed("write", n < 0 ? errno : EIO, offset, err);
    done = (size_t)n - (f->direct ? (size_t)n % f->align_offset : 0);
    for (size_t i = 0; rc == 0 && i < n_iov; i++) {
        size_t skip = qc_min64(done, iov[i].len);

        rc = write_all(f, (const char *)iov[i].base + skip, iov[i].len - skip, offset + skip, err);
        offset += iov[i].len;
        done -= skip;
    }
    return rc;
}

/* ------------------------------------------------------- flush, size, space --- */

int qc_file_flush(void *obj, uint32_t flags, qchain_error *err)
{
    struct qc_file *f = obj;
    int rc, code;

    (void)flags;
    do
        rc = fdatasync(fd_of(f));
    while (rc != 0 && errno == EINTR);
    if (rc == 0)
        return 0;
    code = code_of(errno);
    qc_fail_errno(err, errno, "fdatasync");
    if (err)
        err->code = code;
    return code;
}

int qc_file_resize(void *obj, uint64_t size, uint32_t flags, qchain_error *err)
{
    struct qc_file *f = obj;
    int rc;

    (void)flags;
    if (f->block_device)
        return size <= f->stamp.size ? 0
               : qc_fail(err, QCHAIN_E_NOSPACE, "block device of %" PRIu64 " bytes cannot have %"
                         PRIu64, f->stamp.size, size);
    do
        rc = ftruncate(fd_of(f), (off_t)size);
    while (rc != 0 && errno == EINTR);
    return rc == 0 ? 0 : failed("resize", errno, size, err);
}

/* 0 or an errno. */
static int allocate(const struct qc_file *f, int mode, uint64_t length, uint64_t offset)
{
    int rc;

    do
        rc = fallocate(fd_of(f), mode | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)length);
    while (rc != 0 && errno == EINTR);
    return rc == 0 ? 0 : errno;
}

/* This file system or device has no such thing, or not for this range. */
static bool is_not_there(int errnum)
{
    return errnum == EOPNOTSUPP || errnum == ENOSYS || errnum == EINVAL || errnum == ENODEV;
}

int qc_file_zero(void *obj, uint64_t length, uint64_t offset, uint32_t flags, qchain_error *err)
{
    struct qc_file *f = obj;
    int e = EOPNOTSUPP;

    if (flags & QCHAIN_STORE_UNMAP)
        e = allocate(f, FALLOC_FL_PUNCH_HOLE, length, offset);
    if (is_not_there(e))
        e = allocate(f, FALLOC_FL_ZERO_RANGE, length, offset);
    if (is_not_there(e))
        return qc_fail(err, QCHAIN_E_UNSUPPORTED, "zeros cannot be made here but by writing them");
    return e == 0 ? 0 : failed("zeros", e, offset, err);
}

/* A hint, so it matters only if the medium is broken. */
int qc_file_discard(void *obj, uint64_t length, uint64_t offset, uint32_t flags, qchain_error *err)
{
    struct qc_file *f = obj;
    uint64_t range[2] = {offset, length};
    int e;

    (void)flags;
    if (f->block_device)
        e = ioctl(fd_of(f), BLKDISCARD, range) == 0 ? 0 : errno;
    else
        e = allocate(f, FALLOC_FL_PUNCH_HOLE, length, offset);
    return e == EIO ? failed("discard", e, offset, err) : 0;
}

/* -------------------------------------------------------------------- room --- */

#define ROOM_LEAST (UINT64_C(1) << 20)
#define ROOM_MOST (UINT64_C(64) << 20)

void qc_file_room(struct qc_store *s, uint64_t end)
{
    struct qc_file *f = qc_file_is_local(s) ? s->obj : NULL;
    uint64_t from, more;
    int rc;

    if (!f || !f->direct || f->block_device || f->shared || end <= f->room_end)
        return;
    from = qc_max64(f->room_end, qc_store_size(s));
    more = qc_max64(ROOM_LEAST, qc_min64(end / 8, ROOM_MOST));
    f->room_end = qc_align_up(end, ROOM_LEAST) + more;
    f->room_made = true;
    if (f->room_end <= from)
        return;
    do /* this changes no byte that is there, so nobody need be kept out */
        rc = fallocate(fd_of(f), 0, (off_t)from, (off_t)(f->room_end - from));
    while (rc != 0 && errno == EINTR);
    if (rc != 0) /* as it would be without; not tried again */
        f->room_end = UINT64_MAX;
}

void qc_file_write_out(struct qc_store *s, uint64_t length, uint64_t offset)
{
    struct qc_file *f = qc_file_is_local(s) ? s->obj : NULL;

    if (f && !f->direct)
        (void)sync_file_range(fd_of(f), (off_t)offset, (off_t)length, SYNC_FILE_RANGE_WRITE);
}

void qc_file_read_in(struct qc_store *s, uint64_t length, uint64_t offset)
{
    struct qc_file *f = qc_file_is_local(s) ? s->obj : NULL;

    if (f && !f->direct)
        (void)posix_fadvise(fd_of(f), (off_t)offset, (off_t)length, POSIX_FADV_WILLNEED);
}

void qc_file_trim(struct qc_store *s)
{
    struct qc_file *f = qc_file_is_local(s) ? s->obj : NULL;

    if (!f || !f->room_made)
        return;
    f->room_end = 0;
    f->room_made = false;
    qc_store_resize(s, qc_store_size(s), NULL);
}
