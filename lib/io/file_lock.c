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
 * as backing file. A writer holds 101 and 103 as well, and minds 201 and 203 too. A
 * reader of a raw image holds 100 and minds 200 only, a writer 101 and 201 as well:
 * guests may share raw disks. Who wants to be alone holds 200, and minds 100.
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

/* The bytes of a row that somebody may hold, and what that says. */
struct rule {
    int         held, minded;
    unsigned    when; /* all of these must be so */
    const char *who;
};

enum { ALWAYS = 0, OF_FORMATS = 0x1, OF_WRITERS = 0x2, OF_LONERS = 0x4 };

static const struct rule rules[] = {
    {USED_BASE + PERM_READ, UNSHARED_BASE + PERM_READ, ALWAYS,
     "another process wants no readers"},
    {USED_BASE + PERM_WRITE, UNSHARED_BASE + PERM_WRITE, OF_WRITERS,
     "another process wants no writers"},
    {USED_BASE + PERM_RESIZE, UNSHARED_BASE + PERM_RESIZE, OF_WRITERS | OF_FORMATS,
     "another process wants its size kept"},
    {UNSHARED_BASE + PERM_WRITE, USED_BASE + PERM_WRITE, OF_FORMATS,
     "another process has it open for writing"},
    {UNSHARED_BASE + PERM_RESIZE, USED_BASE + PERM_RESIZE, OF_FORMATS,
     "another process may resize it"},
    {UNSHARED_BASE + PERM_READ, USED_BASE + PERM_READ, OF_LONERS, "another process reads it"},
};

#define N_RULES (sizeof(rules) / sizeof(rules[0]))

static bool applies(const struct qc_file *f, const struct rule *r)
{
    unsigned is = (f->flags & QC_FILE_FORMAT_LOCK ? OF_FORMATS : 0) |
                  (f->writable ? OF_WRITERS : 0) | (f->flags & QC_FILE_ALONE ? OF_LONERS : 0);

    return (r->when & ~is) == 0;
}

static int in_use(const struct qc_file *f, int byte, const char *who, qchain_error *err)
{
    if (f->writable)
        return qc_fail(err, QCHAIN_E_LOCKED, "%s: image is in use, it cannot be written (lock byte "
                       "%d: %s); it can be when that process has closed it",
                       f->name, byte, who);
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
    qc_log(f->log, QCHAIN_LOG_WARN, "io", "%s: %s without locks, the file system has none "
           "(errno %d)", f->name, f->writable ? "writing" : "reading", errnum);
    return 0;
}

int qc_file_lock(const struct qc_file *f, int fd, bool *taken, qchain_error *err)
{
    int e;

    *taken = false;
    /* First hold, then look: of two that come at once at least one sees the other. */
    for (size_t i = 0; i < N_RULES; i++) {
        if (!applies(f, &rules[i]))
            continue;
        e = lock_byte(fd, rules[i].held, F_RDLCK);
        if (e != 0)
            return lock_failed(f, e, rules[i].held, "another process has locked it alone", err);
        *taken = true;
    }
    /* Nearly always nobody holds anything from the first of them to the last. */
    if (f->flags & QC_FILE_FORMAT_LOCK && !f->writable &&
        test_bytes(fd, USED_BASE + PERM_WRITE,
                   UNSHARED_BASE + PERM_READ - USED_BASE - PERM_WRITE + 1) == 0)
        return 0;
    for (size_t i = 0; i < N_RULES; i++) {
        if (!applies(f, &rules[i]))
            continue;
        e = test_bytes(fd, rules[i].minded, 1);
        if (e != 0)
            return lock_failed(f, e, rules[i].minded, rules[i].who, err);
    }
    return 0;
}

void qc_file_unlock(const struct qc_file *f, int fd)
{
    for (size_t i = 0; i < N_RULES; i++)
        if (applies(f, &rules[i]))
            lock_byte(fd, rules[i].held, F_UNLCK);
}
