/* SPDX-License-Identifier: MIT */
/*
 * Lock bytes as QEMU has them (since 2.10), so that each sees the other. Who uses
 * an image takes shared locks on two rows of bytes, one byte a permission:
 *
 *     100 + i   I use permission i
 *     200 + i   nobody else may use permission i
 *
 *     i = 0 read consistent data, 1 write, 2 rewrite what is there, 3 resize
 *
 * and then looks whether anybody else holds the byte of the other row. A reader
 * of qcow2 holds 100, 201 and 203 and minds 200, 101 and 103, whether as top or
 * as backing file. A reader of a raw image holds 100 and minds 200 only: guests
 * may share raw disks.
 */
#include "io/file_int.h"

#include <errno.h>
#include <fcntl.h>

#include "util/error.h"

#define USED_BASE 100
#define UNSHARED_BASE 200

enum permission { PERM_READ = 0, PERM_WRITE = 1, PERM_RESIZE = 3 };

static int lock_byte(int fd, int byte, short type)
{
    struct flock fl = {.l_type = type, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    int rc;

    do
        rc = fcntl(fd, F_OFD_SETLK, &fl);
    while (rc != 0 && errno == EINTR);
    return rc == 0 ? 0 : errno;
}

/* EAGAIN if anybody else holds one of the bytes. */
static int test_bytes(int fd, int first, int n)
{
    struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = first, .l_len = n};

    if (fcntl(fd, F_OFD_GETLK, &fl) != 0)
        return errno;
    return fl.l_type == F_UNLCK ? 0 : EAGAIN;
}

static int in_use(const struct qc_file *f, int byte, const char *who, qchain_error *err)
{
    return qc_fail(err, QCHAIN_E_LOCKED,
                   "%s: image is in use by a writer (lock byte %d: %s); use -U / "
                   "QCHAIN_OPEN_FORCE_SHARE to read anyway", f->name, byte, who);
}

/* What stands in the way, if errnum says that something does; otherwise locks do
 * not work here, which is worth a line but no reason to fail. */
static int lock_failed(const struct qc_file *f, int errnum, int byte, const char *who,
                       qchain_error *err)
{
    if (errnum == EAGAIN || errnum == EACCES)
        return in_use(f, byte, who, err);
    qc_log(f->log, QCHAIN_LOG_WARN, "io", "%s: reading without locks, the file system has none "
           "(errno %d)", f->name, errnum);
    return 0;
}

int qc_file_lock(const struct qc_file *f, int fd, bool *taken, qchain_error *err)
{
    static const struct {
        int         held, minded;
        const char *who;
    } rule[] = {
        {USED_BASE + PERM_READ, UNSHARED_BASE + PERM_READ,
         "another process wants no readers"},
        {UNSHARED_BASE + PERM_WRITE, USED_BASE + PERM_WRITE,
         "another process has it open for writing"},
        {UNSHARED_BASE + PERM_RESIZE, USED_BASE + PERM_RESIZE,
         "another process may resize it"},
    };
    size_t n = f->flags & QC_FILE_FORMAT_LOCK ? 3 : 1;
    int e;

    *taken = false;
    /* First hold, then look: of two that come at once at least one sees the other. */
    for (size_t i = 0; i < n; i++) {
        e = lock_byte(fd, rule[i].held, F_RDLCK);
        if (e != 0)
            return lock_failed(f, e, rule[i].held, "another process has locked it alone", err);
        *taken = true;
    }
    /* Nearly always nobody holds anything from the first of them to the last. */
    if (n > 1 && test_bytes(fd, USED_BASE + PERM_WRITE,
                            UNSHARED_BASE + PERM_READ - USED_BASE - PERM_WRITE + 1) == 0)
        return 0;
    for (size_t i = 0; i < n; i++) {
        e = test_bytes(fd, rule[i].minded, 1);
        if (e != 0)
            return lock_failed(f, e, rule[i].minded, rule[i].who, err);
    }
    return 0;
}

void qc_file_unlock(const struct qc_file *f, int fd)
{
    lock_byte(fd, USED_BASE + PERM_READ, F_UNLCK);
    if (f->flags & QC_FILE_FORMAT_LOCK) {
        lock_byte(fd, UNSHARED_BASE + PERM_WRITE, F_UNLCK);
        lock_byte(fd, UNSHARED_BASE + PERM_RESIZE, F_UNLCK);
    }
}
