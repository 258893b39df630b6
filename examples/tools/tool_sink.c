/* SPDX-License-Identifier: MIT */
/* tool_sink.c - a file, device or stream that copied bytes go to. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tool.h"

#define ZEROS 65536
#define PIPE_BYTES (1024 * 1024)
#define SECTOR 512

/* ------------------------------------------------------------- opening --- */

bool tool_is_layer(qchain *c, const struct stat *target)
{
    const char *name;
    struct stat st;
    uint32_t i;

    for (i = 0; (name = qchain_source_name(c, i)) != NULL; i++)
        if (!program_is_url(name) && stat(name, &st) == 0 && st.st_dev == target->st_dev && st.st_ino == target->st_ino)
            return true;
    return false;
}

/* A program that has the file open as a disk holds locks in this range. */
static bool in_use(int fd)
{
    struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 200};

    return fcntl(fd, F_OFD_GETLK, &fl) == 0 && fl.l_type != F_UNLCK;
}

/* A file that is there: see that nobody needs what it holds, then empty it. */
static int take_existing(struct tool *t, struct tool_sink *s, qchain *c, unsigned flags)
{
    struct stat st;

    if (fstat(s->fd, &st) != 0) {
        tool_complain(t, "%s: %s", s->name, strerror(errno));
        return -1;
    }
    s->regular = S_ISREG(st.st_mode);
    s->seekable = s->regular || S_ISBLK(st.st_mode);
    if (!s->seekable)
        return 0;
    if (tool_is_layer(c, &st)) {
        tool_complain(t, "%s: is a layer of the image that is read", s->name);
        return -1;
    }
    if (in_use(s->fd)) {
        tool_complain(t, "%s: another process uses it as an image", s->name);
        return -1;
    }
    if (s->regular && !(flags & TOOL_SINK_EXISTING)) {
        if (ftruncate(s->fd, 0) != 0) {
            tool_complain(t, "%s: making it empty: %s", s->name, strerror(errno));
            return -1;
        }
        s->emptied = true;
        s->is_zero = true;
        return 0;
    }
    s->old_size = s->regular ? (uint64_t)st.st_size : UINT64_MAX;
    return 0;
}

/* Standard output may be a file: then it is written at the place where it stands. A
 * pipe is made larger, so that fewer calls fill it. */
static void take_stdout(struct tool_sink *s)
{
    struct stat st;
    off_t at;
    int mode;

    s->name = "standard output";
    s->fd = STDOUT_FILENO;
    fcntl(s->fd, F_SETPIPE_SZ, PIPE_BYTES);
    mode = fcntl(s->fd, F_GETFL);
    if (mode < 0 || (mode & O_APPEND) || fstat(s->fd, &st) != 0 || !S_ISREG(st.st_mode))
        return;
    at = lseek(s->fd, 0, SEEK_CUR);
    if (at < 0)
        return;
    s->seekable = true;
    s->regular = true;
    s->base = (uint64_t)at;
    s->old_size = (uint64_t)st.st_size;
}

int tool_sink_open(struct tool *t, struct tool_sink *s, const char *name, qchain *c,
                   unsigned flags)
{
    int mode = O_WRONLY | O_CLOEXEC | (flags & TOOL_SINK_DSYNC ? O_DSYNC : 0);

    memset(s, 0, sizeof(*s));
    pthread_mutex_init(&s->lock, NULL);
    s->name = name;
    if (strcmp(name, "-") == 0) {
        take_stdout(s);
        return 0;
    }
    if (program_is_url(name)) {
        tool_complain(t, "%s: the target must be a file, a device or '-'; images behind URLs are only "
                         "read",
                      tool_shown_name(t, name));
        return -1;
    }
    if (!(flags & TOOL_SINK_EXISTING)) {
        s->fd = open(name, mode | O_CREAT | O_EXCL, 0644);
        if (s->fd >= 0) {
            s->created = s->regular = s->seekable = s->is_zero = true;
            return 0;
        }
    }
    if ((flags & TOOL_SINK_EXISTING) || errno == EEXIST)
        s->fd = open(name, mode);
    if (s->fd < 0) {
        tool_complain(t, "%s: %s", name, strerror(errno));
        return -1;
    }
    if (take_existing(t, s, c, flags) == 0)
        return 0;
    close(s->fd);
    return -1;
}

/* -------------------------------------------------------------- writing --- */

/* Keep the first failure; 1 ends the copy. */
static int sink_failed(struct tool_sink *s, int sys_errno, uint64_t offset)
{
    pthread_mutex_lock(&s->lock);
    if (!s->error) {
        s->error = sys_errno;
        s->error_at = offset;
    }
    pthread_mutex_unlock(&s->lock);
    return 1;
}

static int write_all(struct tool_sink *s, const char *p, size_t n, uint64_t offset)
{
    while (n) {
        uint64_t at = s->base + (offset - s->first);
        ssize_t done = s->seekable ? pwrite(s->fd, p, n, (off_t)at) : write(s->fd, p, n);

        if (done < 0 && errno != EINTR)
            return sink_failed(s, errno, offset);
        if (done > 0) {
            p += done;
            n -= (size_t)done;
            offset += (uint64_t)done;
        }
    }
    return 0;
}

static int write_zeros(struct tool_sink *s, uint64_t n, uint64_t offset)
{
    static const char zeros[ZEROS];
    int r = 0;

    while (n && r == 0) {
        size_t part = n < ZEROS ? (size_t)n : ZEROS;

        r = write_all(s, zeros, part, offset);
        offset += part;
        n -= part;
    }
    return r;
}

/* A range that reads as zeros. Beyond the old end of a file nothing is to be done:
 * it gets its size at the end. */
static int sink_zero(void *data, uint64_t length, uint64_t offset, qchain_error *err)
{
    struct tool_sink *s = data;
    uint64_t at = s->base + (offset - s->first);

    (void)err;
    if (s->fill)
        return write_zeros(s, length, offset);
    if (s->is_zero || at >= s->old_size)
        return 0;
    if (fallocate(s->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at,
                  (off_t)length) == 0)
        return 0;
    return write_zeros(s, length, offset);
}

static bool is_zero_sector(const char *p, size_t n)
{
    return p[0] == 0 && memcmp(p, p + 1, n - 1) == 0;
}

/* How many bytes at p are zero sectors, or are not. */
static size_t run_of(const char *p, size_t n, bool *zero)
{
    size_t at = 0;

    *zero = is_zero_sector(p, n < SECTOR ? n : SECTOR);
    while (at < n) {
        size_t part = n - at < SECTOR ? n - at : SECTOR;

        if (is_zero_sector(p + at, part) != *zero)
            break;
        at += part;
    }
    return at;
}

static int sink_write(void *data, const void *buf, size_t length, uint64_t offset,
                      qchain_error *err)
{
    struct tool_sink *s = data;
    const char *p = buf;
    size_t from = 0, at = 0;
    int r;

    (void)err;
    if (!s->min_zeros)
        return write_all(s, p, length, offset);
    while (at < length) {
        bool zero;
        size_t n = run_of(p + at, length - at, &zero);

        if (zero && n >= s->min_zeros) {
            r = write_all(s, p + from, at - from, offset + from);
            if (r == 0)
                r = sink_zero(s, n, offset + at, NULL);
            if (r)
                return r;
            from = at + n;
        }
        at += n;
    }
    return write_all(s, p + from, length - from, offset + from);
}

int tool_sink_copy(struct tool *t, struct tool_sink *s, qchain *c, qchain_copy_opts *o)
{
    qchain_sink sink = {.struct_size = sizeof(sink), .write = sink_write, .data = s};

    s->first = o->offset;
    if (s->seekable)
        sink.zero = sink_zero;
    else
        o->flags |= QCHAIN_COPY_ORDERED;
    return qchain_copy_out(c, &sink, o, t->err);
}

int tool_sink_status(struct tool *t, const struct tool_sink *s, int r)
{
    if (!s->error)
        return tool_job_status(t, r, 1);
    tool_complain(t, "error while writing at byte %" PRIu64 " of %s: %s", s->error_at, s->name,
                  strerror(s->error));
    return 1;
}

/* -------------------------------------------------------------- closing --- */

/* The end may be a hole that nothing was written to. */
static int give_size(struct tool_sink *s, uint64_t length)
{
    uint64_t end = s->base + length;
    struct stat st;

    if (!s->regular)
        return 0;
    if (fstat(s->fd, &st) != 0)
        return -1;
    if ((uint64_t)st.st_size < end && ftruncate(s->fd, (off_t)end) != 0)
        return -1;
    if (s->fd == STDOUT_FILENO && lseek(s->fd, (off_t)end, SEEK_SET) < 0)
        return -1;
    return 0;
}

int tool_sink_close(struct tool *t, struct tool_sink *s, uint64_t length, bool sync, int status)
{
    if (status == 0 && (give_size(s, length) != 0 ||
                        (sync && s->seekable && fsync(s->fd) != 0))) {
        tool_complain(t, "%s: %s", s->name, strerror(errno));
        status = 1;
    }
    if (s->fd != STDOUT_FILENO) {
        /* an emptied file is left empty, so that nothing half made looks whole */
        if (status && s->emptied && ftruncate(s->fd, 0) != 0)
            tool_complain(t, "%s: %s", s->name, strerror(errno));
        if (close(s->fd) != 0 && status == 0) {
            tool_complain(t, "%s: %s", s->name, strerror(errno));
            status = 1;
        }
        if (status && s->created)
            unlink(s->name);
    }
    pthread_mutex_destroy(&s->lock);
    return status;
}
