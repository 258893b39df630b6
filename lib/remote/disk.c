/* SPDX-License-Identifier: MIT */
/* The cache's directory: who may have one, its files, its growth. */
#include "remote/disk_int.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

#include "util/alloc.h"
#include "util/bytes.h"

/* A look is due when a process has written this part of the limit. */
#define LOOK_PART 64
#define DIR_FLAGS (O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

uint64_t qc_disk_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME_COARSE, &t);
    return (uint64_t)t.tv_sec;
}

static int64_t monotonic_s(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec;
}

/* --------------------------------------------------------------- directory --- */

/* Bytes that another user can put there would be served as ours. */
static int check_owner(int fd, const char *shown, qchain_error *err)
{
    struct stat st;

    if (fstat(fd, &st) != 0)
        return qc_fail_errno(err, errno, "cache directory '%s'", shown);
    if (st.st_uid != geteuid())
        return qc_fail(err, QCHAIN_E_ACCESS, "cache directory '%s' belongs to user %u, but this process "
                       "runs as user %u: give each user a directory of his own", shown,
                       (unsigned)st.st_uid, (unsigned)geteuid());
    if (st.st_mode & 022)
        return qc_fail(err, QCHAIN_E_ACCESS, "cache directory '%s' may be written to by others (mode "
                       "%03o): run chmod go-w on it, or name another", shown,
                       (unsigned)st.st_mode & 0777);
    return 0;
}

static int cannot_open(int at, const char *path, const char *shown, int errnum, qchain_error *err)
{
    struct stat st;

    if (fstatat(at, path, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISLNK(st.st_mode))
        return qc_fail(err, QCHAIN_E_ACCESS, "cache directory '%s' is a symbolic link: name the "
                       "directory that it leads to", shown);
    if (errnum == ENOTDIR)
        return qc_fail(err, QCHAIN_E_INVAL, "cache directory '%s': not a directory", shown);
    return qc_fail_errno(err, errnum, "cache directory '%s'", shown);
}

/* Open one level of it, made if that is asked for and possible. */
static int open_level(int *fd, int at, const char *path, const char *shown, bool make,
                      qchain_error *err)
{
    int made = 0, ret;

    if (make && mkdirat(at, path, 0700) != 0)
        made = errno;
    *fd = openat(at, path, DIR_FLAGS);
    if (*fd < 0) /* the reason why it could not be made is the better one */
        return cannot_open(at, path, shown, errno == ENOENT && made ? made : errno, err);
    ret = check_owner(*fd, shown, err);
    if (ret != 0) {
        close(*fd);
        *fd = -1;
    }
    return ret;
}

int qc_disk_dir_open(int *fd, bool *writable, const char *dir, bool make, qchain_error *err)
{
    struct qc_escaped shown;
    size_t n = strlen(dir);
    qchain_error inner;
    char *path;
    int top, ret;

    while (n > 1 && dir[n - 1] == '/') /* behind a slash a link would be followed */
        n--;
    *fd = -1;
    *writable = false;
    path = qc_strndup(dir, n);
    if (!path)
        return qc_fail_nomem(err);
    qc_escape_str(&shown, path);
    ret = open_level(&top, AT_FDCWD, path, shown.text, make, err);
    qc_free(path);
    if (ret != 0)
        return ret;
    qc_error_init(&inner);
    ret = open_level(fd, top, "v1", shown.text, make, &inner);
    if (ret != 0 && (inner.sys_errno == ENOENT || inner.sys_errno == EROFS ||
                     (inner.sys_errno == EACCES && faccessat(top, "v1", F_OK, AT_EACCESS) != 0)))
        ret = 0; /* nothing was ever stored here, or will be */
    else if (ret != 0)
        qc_error_copy(err, &inner);
    if (*fd >= 0)
        *writable = faccessat(*fd, ".", W_OK | X_OK, AT_EACCESS) == 0;
    close(top);
    return ret;
}

int qc_disk_openat(int dir, const char *name, int flags, struct stat *st)
{
    /* A pipe must not make us wait. The time of access is of no use, and the file is ours, else this
     * fails. */
    int fd = openat(dir, name, flags | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | O_NOATIME);

    if (fd < 0)
        return -1;
    if (fstat(fd, st) == 0 && S_ISREG(st->st_mode) && st->st_uid == geteuid())
        return fd;
    close(fd);
    errno = EPERM;
    return -1;
}

/* ----------------------------------------------------------------- writing --- */

int qc_disk_write(int fd, const void *buf, size_t length, uint64_t offset)
{
    const char *p = buf;
    struct rlimit most;
    uint64_t end;
    ssize_t n;

    /* Sparse files end far out. Past the limit a write raises a signal that ends programs, and a cache
     * is no reason for that. */
    if (!qc_add_ok(offset, length, &end) || end > INT64_MAX)
        return EFBIG;
    if (getrlimit(RLIMIT_FSIZE, &most) == 0 && most.rlim_cur != RLIM_INFINITY && end > most.rlim_cur)
        return EFBIG;
    while (length > 0) {
        n = pwrite(fd, p, length, (off_t)offset);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? errno : ENOSPC;
        p += n;
        length -= (size_t)n;
        offset += (uint64_t)n;
    }
    return 0;
}

int qc_disk_put(int dir, const char *name, const void *buf, size_t length, bool replace)
{
    char temporary[QC_DISK_NAME];
    uint8_t random[QC_DISK_DIGEST];
    int fd, errnum;

    if (getrandom(random, sizeof(random), GRND_NONBLOCK) != (ssize_t)sizeof(random))
        return EAGAIN;
    qc_disk_file_name(temporary, random, ".tmp");
    fd = openat(dir, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return errno;
    errnum = qc_disk_write(fd, buf, length, 0);
    close(fd);
    if (errnum == 0 && renameat2(dir, temporary, dir, name, replace ? 0 : RENAME_NOREPLACE) != 0)
        errnum = errno;
    /* Not every file system can keep what is there. If it is replaced, who uses it will notice. */
    if (errnum == EINVAL && !replace)
        errnum = renameat(dir, temporary, dir, name) == 0 ? 0 : errno;
    if (errnum != 0)
        unlinkat(dir, temporary, 0);
    return errnum;
}

bool qc_disk_fills(struct qc_disk *d)
{
    return d->writable && d->o.max_bytes > 0 &&
           (atomic_load_explicit(&d->off_until, memory_order_relaxed) == 0 ||
            atomic_load_explicit(&d->off_until, memory_order_relaxed) <= monotonic_s());
}

void qc_disk_write_failed(struct qc_disk *d, int errnum, const char *doing)
{
    int64_t now = monotonic_s(), until = atomic_load(&d->off_until);
    char reason[128];

    while (until <= now)
        if (atomic_compare_exchange_weak(&d->off_until, &until, now + QC_DISK_OFF_S)) {
            qc_log(d->o.log, QCHAIN_LOG_WARN, "cache", "'%s': %s: %s; nothing is stored there for %d s",
                   d->shown.text, doing, strerror_r(errnum, reason, sizeof(reason)), QC_DISK_OFF_S);
            return;
        }
}

/* ------------------------------------------------------------------ growth --- */

static void look(struct qc_task *t)
{
    struct qc_disk *d = (struct qc_disk *)((char *)t - offsetof(struct qc_disk, look));
    uint64_t bytes = 0, freed = 0;
    int lock = qc_disk_lock(d->fd);

    /* Who does not get the lock leaves it to who has it. */
    if (lock >= 0 && qc_disk_usage(d->fd, &bytes, NULL) == 0 && bytes > d->o.max_bytes) {
        qc_disk_shrink(d->fd, d->o.max_bytes / 10 * 9, &d->stop, &freed);
        qc_log(d->o.log, QCHAIN_LOG_DEBUG, "cache", "'%s': %llu bytes, %llu evicted", d->shown.text,
               (unsigned long long)bytes, (unsigned long long)freed);
    }
    if (lock >= 0)
        close(lock);
    pthread_mutex_lock(&d->lock);
    d->looking = false;
    pthread_cond_broadcast(&d->idle);
    pthread_mutex_unlock(&d->lock);
}

void qc_disk_wrote(struct qc_disk *d, uint64_t bytes)
{
    uint64_t due = d->o.max_bytes / LOOK_PART;

    if (atomic_fetch_add(&d->written, bytes) + bytes <= due)
        return;
    pthread_mutex_lock(&d->lock);
    if (!d->looking && !atomic_load(&d->stop)) {
        atomic_store(&d->written, 0);
        d->looking = qc_tasks_submit(d->o.leaves, &d->look);
    }
    pthread_mutex_unlock(&d->lock);
}

/* -------------------------------------------------------------------- door --- */

int qc_disk_open(struct qc_disk **out, const char *dir, const struct qc_disk_opts *opts,
                 qchain_error *err)
{
    struct qc_disk *d = qc_calloc(1, sizeof(*d));
    uint64_t random = 0;
    int ret;

    *out = NULL;
    if (!d)
        return qc_fail_nomem(err);
    d->o = *opts;
    qc_escape_str(&d->shown, dir);
    ret = qc_disk_dir_open(&d->fd, &d->writable, dir, true, err);
    if (ret != 0) {
        qc_free(d);
        return ret;
    }
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->idle, NULL);
    d->look.key = d;
    d->look.run = look;
    /* Processes that each write little would never look. So each begins somewhere on the way. */
    if (getrandom(&random, sizeof(random), GRND_NONBLOCK) == (ssize_t)sizeof(random))
        atomic_init(&d->written, random % (d->o.max_bytes / LOOK_PART + 1));
    *out = d;
    return 0;
}

bool qc_disk_is_writable(const struct qc_disk *d)
{
    return d->writable;
}

void qc_disk_close(struct qc_disk *d)
{
    if (!d)
        return;
    atomic_store(&d->stop, true);
    pthread_mutex_lock(&d->lock);
    if (d->looking && qc_tasks_withdraw(d->o.leaves, &d->look))
        d->looking = false;
    while (d->looking)
        pthread_cond_wait(&d->idle, &d->lock);
    pthread_mutex_unlock(&d->lock);
    pthread_mutex_destroy(&d->lock);
    pthread_cond_destroy(&d->idle);
    if (d->fd >= 0)
        close(d->fd);
    qc_free(d);
}
