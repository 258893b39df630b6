/* SPDX-License-Identifier: MIT */
#include "io/file_int.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"
#include "util/escape.h"

static_assert(sizeof(qchain_iov) == sizeof(struct iovec) &&
              offsetof(qchain_iov, base) == offsetof(struct iovec, iov_base) &&
              offsetof(qchain_iov, len) == offsetof(struct iovec, iov_len),
              "a qchain_iov is an iovec");

/* -------------------------------------------------------------------- read --- */

int qc_file_read_failed(const struct qc_file *f, ssize_t got, int errnum, uint64_t offset,
                        qchain_error *err)
{
    if (got < 0) {
        qc_fail_errno(err, errnum, "read at offset %" PRIu64, offset);
        /* Whatever the errno: an open file that cannot be read is a broken medium. */
        if (err)
            err->code = QCHAIN_E_IO;
    } else {
        qc_fail(err, QCHAIN_E_IO, "read at offset %" PRIu64 ": file shrank: it had %" PRIu64
                " bytes when opened", offset, f->stamp.size);
    }
    qc_error_at(err, offset);
    return QCHAIN_E_IO;
}

static int read_all(const struct qc_file *f, int fd, char *buf, size_t length, uint64_t offset,
                    qchain_error *err)
{
    for (;;) {
        ssize_t got = pread(fd, buf, length, (off_t)offset);

        if (got == (ssize_t)length)
            return 0;
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return qc_file_read_failed(f, got, errno, offset, err);
        buf += got;
        length -= got;
        offset += got;
        /* Direct reads end within a block only where the file does. */
        if (f->direct && got % f->align_offset != 0)
            return qc_file_read_failed(f, 0, 0, offset, err);
    }
}

static int read_fd(const struct qc_file *f, int fd, void *buf, size_t length, uint64_t offset,
                   qchain_error *err)
{
    size_t tail;
    int rc = 0;

    if (!f->direct)
        return read_all(f, fd, buf, length, offset, err);
    tail = length % f->align_offset;
    length -= tail;
    if (length > 0)
        rc = read_all(f, fd, buf, length, offset, err);
    if (rc == 0 && tail > 0)
        rc = qc_file_direct_tail(f, fd, (char *)buf + length, tail, offset + length, err);
    return rc;
}

/* Piece by piece, leaving out the first `done` bytes. */
static int read_pieces(const struct qc_file *f, int fd, const qchain_iov *iov, size_t n_iov,
                       size_t done, uint64_t offset, qchain_error *err)
{
    int rc = 0;

    for (size_t i = 0; rc == 0 && i < n_iov; i++) {
        size_t skip = qc_min64(done, iov[i].len);

        if (skip < iov[i].len)
            rc = read_fd(f, fd, (char *)iov[i].base + skip, iov[i].len - skip, offset + skip, err);
        offset += iov[i].len;
        done -= skip;
    }
    return rc;
}

static int readv_fd(const struct qc_file *f, int fd, const qchain_iov *iov, size_t n_iov,
                    size_t length, uint64_t offset, qchain_error *err)
{
    ssize_t got = 0;

    if (f->direct && length % f->align_offset != 0)
        return read_pieces(f, fd, iov, n_iov, 0, offset, err);
    do
        got = preadv(fd, (const struct iovec *)(const void *)iov, (int)n_iov, (off_t)offset);
    while (got < 0 && errno == EINTR);
    if (got == (ssize_t)length)
        return 0;
    if (got <= 0)
        return qc_file_read_failed(f, got, errno, offset, err);
    if (f->direct && got % f->align_offset != 0)
        return qc_file_read_failed(f, 0, 0, offset + got, err);
    return read_pieces(f, fd, iov, n_iov, got, offset, err);
}

/* The descriptor for the hot path, inside the epoch; -1 if it is not open. */
static inline int use_fd(struct qc_file *f)
{
    int fd = atomic_load(&f->entry.fd);

    if (fd >= 0 && !atomic_load_explicit(&f->entry.used, memory_order_relaxed))
        atomic_store_explicit(&f->entry.used, true, memory_order_relaxed);
    return fd;
}

/* For what is not hot: keep the file open while it is used. */
static int hold_fd(struct qc_file *f, int *fd, qchain_error *err)
{
    return qc_fdpool_acquire(f->pool, &f->entry, qc_file_open_again, f, fd, err);
}

static void let_go(struct qc_file *f)
{
    qc_fdpool_release(f->pool, &f->entry);
}

static int file_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                      qchain_error *err)
{
    struct qc_file *f = obj;
    unsigned token = qc_epoch_enter(f->epochs);
    int fd = use_fd(f);
    int rc;

    (void)flags;
    if (fd >= 0) {
        rc = read_fd(f, fd, buf, length, offset, err);
        qc_epoch_exit(f->epochs, token);
        return rc;
    }
    qc_epoch_exit(f->epochs, token);
    rc = hold_fd(f, &fd, err);
    if (rc != 0)
        return rc;
    rc = read_fd(f, fd, buf, length, offset, err);
    let_go(f);
    return rc;
}

static int file_preadv(void *obj, const qchain_iov *iov, size_t n_iov, size_t length,
                       uint64_t offset, uint32_t flags, qchain_error *err)
{
    struct qc_file *f = obj;
    unsigned token = qc_epoch_enter(f->epochs);
    int fd = use_fd(f);
    int rc;

    (void)flags;
    if (fd >= 0) {
        rc = readv_fd(f, fd, iov, n_iov, length, offset, err);
        qc_epoch_exit(f->epochs, token);
        return rc;
    }
    qc_epoch_exit(f->epochs, token);
    rc = hold_fd(f, &fd, err);
    if (rc != 0)
        return rc;
    rc = readv_fd(f, fd, iov, n_iov, length, offset, err);
    let_go(f);
    return rc;
}

static int file_pread_nowait(void *obj, void *buf, size_t length, uint64_t offset,
                             uint32_t flags, qchain_error *err)
{
    struct qc_file *f = obj;
    struct iovec iov = {.iov_base = buf, .iov_len = length};
    unsigned token = qc_epoch_enter(f->epochs);
    int fd = use_fd(f);
    ssize_t got = -1;

    (void)flags;
    errno = EAGAIN;
    if (fd >= 0 && !f->direct)
        got = preadv2(fd, &iov, 1, (off_t)offset, RWF_NOWAIT);
    qc_epoch_exit(f->epochs, token);
    if (got == (ssize_t)length)
        return 0;
    /* Half of it, or no such thing on this file system: the call that waits will tell. */
    if (got >= 0 || errno == EAGAIN || errno == EINTR || errno == EOPNOTSUPP || errno == ENOSYS)
        return qc_fail(err, QCHAIN_E_BUSY, "read at offset %" PRIu64 ": would wait", offset);
    return qc_file_read_failed(f, -1, errno, offset, err);
}

/* ------------------------------------------------------- what else it knows --- */

static void file_close(void *obj)
{
    struct qc_file *f = obj;

    if (!f)
        return;
    if (f->shared && f->locked)
        qc_file_unlock(f, atomic_load(&f->entry.fd));
    qc_fdpool_remove(f->pool, &f->entry);
    qc_free(f->path);
    qc_free(f->name);
    qc_free(f);
}

static int file_size(void *obj, uint64_t *size, qchain_error *err)
{
    struct qc_file *f = obj;

    (void)err;
    *size = f->stamp.size;
    return 0;
}

/*
 * Data or hole, as QEMU decides it: no data after offset (ENXIO) is a hole to the
 * end; whatever else goes wrong, or contradicts itself because somebody punches
 * holes meanwhile, is data.
 */
static void find_extent(int fd, qchain_store_extent *out, uint64_t length, uint64_t offset)
{
    off_t at = (off_t)offset;
    off_t data = lseek(fd, at, SEEK_DATA);
    off_t hole;

    *out = (qchain_store_extent){.offset = offset, .length = length};
    if (data < 0) {
        out->hole = errno == ENXIO;
    } else if (data > at) {
        out->hole = 1;
        out->length = qc_min64(length, (uint64_t)(data - at));
    } else if (data == at) {
        hole = lseek(fd, at, SEEK_HOLE);
        if (hole < 0)
            out->hole = errno == ENXIO;
        else if (hole > at)
            out->length = qc_min64(length, (uint64_t)(hole - at));
    }
}

static int file_extents(void *obj, qchain_store_extent *out, uint64_t length, uint64_t offset,
                        uint32_t flags, qchain_error *err)
{
    struct qc_file *f = obj;
    int fd, rc;

    (void)flags;
    *out = (qchain_store_extent){.offset = offset, .length = length};
    if (f->shared)
        return 0; /* to look would move the embedder's position: all is data */
    rc = hold_fd(f, &fd, err);
    if (rc != 0)
        return rc;
    find_extent(fd, out, length, offset);
    let_go(f);
    return 0;
}

static int file_limits(void *obj, qchain_store_limits *out, qchain_error *err)
{
    struct qc_file *f = obj;

    (void)err;
    out->align_memory = f->direct ? f->align_memory : 1;
    out->align_offset = f->direct ? f->align_offset : 1;
    out->max_transfer = 0;
    return 0;
}

static int file_identity(void *obj, qchain_store_identity *out, qchain_error *err)
{
    struct qc_file *f = obj;

    (void)err;
    out->size = f->stamp.size;
    out->device = f->stamp.device;
    out->inode = f->stamp.inode;
    out->flags = QCHAIN_IDENTITY_HAS_INODE;
    if (!f->block_device && f->stamp.mtime.tv_sec >= 0) {
        out->mtime_ns = (uint64_t)f->stamp.mtime.tv_sec * 1000000000u +
                        (uint64_t)f->stamp.mtime.tv_nsec;
        out->flags |= QCHAIN_IDENTITY_HAS_MTIME;
    }
    return 0;
}

static int file_allocated(void *obj, uint64_t *bytes, qchain_error *err)
{
    struct qc_file *f = obj;
    struct stat st;
    int fd;
    int rc = hold_fd(f, &fd, err);

    if (rc != 0)
        return rc;
    if (fstat(fd, &st) != 0)
        rc = qc_fail_errno(err, errno, "%s: fstat", f->name);
    else
        *bytes = (uint64_t)st.st_blocks * 512;
    let_go(f);
    return rc;
}

#define READING_SLOTS                                                                            \
    .struct_size = sizeof(qchain_store_ops), .version = QCHAIN_BACKEND_VERSION, .name = "file",   \
    .close = file_close, .size = file_size, .pread = file_pread, .preadv = file_preadv,           \
    .pread_nowait = file_pread_nowait, .extents = file_extents, .limits = file_limits,            \
    .identity = file_identity, .allocated = file_allocated

static const qchain_store_ops file_ops = {READING_SLOTS};

static const qchain_store_ops writable_ops = {
    READING_SLOTS,
    .pwrite = qc_file_pwrite,
    .pwritev = qc_file_pwritev,
    .flush = qc_file_flush,
    .resize = qc_file_resize,
    .discard = qc_file_discard,
    .zero = qc_file_zero,
};

/* -------------------------------------------------------------------- open --- */

static struct qc_file *make_file(const char *path, const struct qc_file_opts *opts)
{
    const char *name = opts->name ? opts->name : path ? path : "descriptor";
    struct qc_file *f = qc_calloc(1, sizeof(*f));

    if (!f)
        return NULL;
    qc_fd_entry_init(&f->entry);
    f->pool = opts->fds;
    f->epochs = qc_fdpool_epochs(opts->fds);
    f->log = opts->log;
    f->flags = opts->flags;
    f->given_fd = opts->fd;
    f->given = opts->fd >= 0;
    f->writable = opts->flags & QC_FILE_WRITE;
    f->direct = opts->flags & QC_FILE_DIRECT;
    f->path = f->given ? NULL : qc_strdup(path);
    f->name = qc_escape_dup(name, strlen(name));
    if (f->name && (f->path || f->given))
        return f;
    file_close(f);
    return NULL;
}

int qc_file_open(struct qc_store **out, const char *path, const struct qc_file_opts *opts,
                 char **real_path, qchain_error *err)
{
    struct qc_file_first first = {.opts = opts};
    qchain_store store = {.struct_size = sizeof(store), .ops = &file_ops};
    char *real = NULL;
    struct qc_file *f;
    int fd, rc;

    *out = NULL;
    if (real_path)
        *real_path = NULL;
    if (opts->fd < 0 && (!path || !path[0]))
        return qc_fail(err, QCHAIN_E_INVAL, "open: neither a path nor a descriptor is given");
    first.f = f = make_file(path, opts);
    if (!f)
        return qc_fail_nomem(err);
    rc = qc_fdpool_acquire(f->pool, &f->entry, qc_file_open_first, &first, &fd, err);
    if (rc != 0)
        goto fail;
    /* A given one stays pinned: there is no way to open it again. So does one that is written: its
     * locks must not be given up for a moment. */
    if (!f->given && !f->writable)
        let_go(f);
    if (f->writable)
        store.ops = &writable_ops;
    real = qc_strdup(f->path);
    if (!real) {
        rc = qc_fail_nomem(err);
        goto fail;
    }
    store.obj = f;
    store.name = opts->name ? opts->name : path ? path : real;
    rc = qc_store_create(out, &store, opts->slots, err);
    f = NULL; /* the store's, or closed by it */
    if (rc == 0 && real_path) {
        *real_path = real;
        real = NULL;
    }
fail:
    qc_free(real);
    file_close(f);
    return rc;
}

bool qc_file_is_local(const struct qc_store *s)
{
    return s->ops.pread == file_pread;
}

bool qc_file_is_block_device(const struct qc_store *s)
{
    return qc_file_is_local(s) && ((const struct qc_file *)s->obj)->block_device;
}
