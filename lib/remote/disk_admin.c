/* SPDX-License-Identifier: MIT */
/* Maintenance of a cache directory, while others use it. */
#include "remote/disk_int.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "util/alloc.h"
#include "util/crc32c.h"

#define LOCK_TRIES 100 /* of 50 ms; eviction is safe without the lock, it only does things twice */

struct verify {
    bool               writable;
    bool               failed;   /* something could not be read */
    qchain_cache_info *out;
    uint8_t           *data;     /* a frame's */
};

static int open_cache(int *fd, bool *writable, const char *dir, qchain_error *err)
{
    struct qc_escaped shown;
    int ret = qc_disk_dir_open(fd, writable, dir, false, err);

    if (ret == 0 && *fd < 0)
        ret = qc_fail(err, QCHAIN_E_INVAL, "'%s': no cache directory of this version: it has no v1",
                      qc_escape_str(&shown, dir));
    return ret;
}

static int report(int errnum, const char *dir, qchain_error *err)
{
    struct qc_escaped shown;

    if (errnum == 0)
        return 0;
    return qc_fail_errno(err, errnum, "cache directory '%s'", qc_escape_str(&shown, dir));
}

static int need_writable(bool writable, const char *dir, qchain_error *err)
{
    struct qc_escaped shown;

    if (writable)
        return 0;
    return qc_fail(err, QCHAIN_E_ACCESS, "cache directory '%s' may not be written to",
                   qc_escape_str(&shown, dir));
}

int qc_disk_stat(const char *dir, qchain_cache_info *out, qchain_error *err)
{
    bool writable;
    int fd, ret = open_cache(&fd, &writable, dir, err);

    if (ret != 0)
        return ret;
    ret = report(qc_disk_usage(fd, &out->bytes, &out->objects), dir, err);
    close(fd);
    return ret;
}

/* ------------------------------------------------------------------ verify --- */

/* Drop a grain: its entry, then its page. */
static void drop_grain(const struct verify *v, int fd, uint64_t frame, unsigned i)
{
    uint64_t base = qc_disk_frame_at(frame), none = 0;

    if (!v->writable)
        return;
    qc_disk_write(fd, &none, sizeof(none), base + i * sizeof(none));
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                  (off_t)(base + (2 + i) * (uint64_t)QC_GRAIN), QC_GRAIN) == 0)
        v->out->freed += QC_GRAIN;
}

/* Is the entry still what it was? If not, somebody has evicted the frame, or stored into it, since. */
static bool entry_stands(int fd, uint64_t frame, unsigned i, uint64_t entry)
{
    uint64_t now;

    return pread(fd, &now, sizeof(now), (off_t)(qc_disk_frame_at(frame) + i * sizeof(now))) ==
           (ssize_t)sizeof(now) && now == entry;
}

static void verify_frame(struct verify *v, int fd, uint64_t frame, uint64_t tag)
{
    uint64_t base = qc_disk_frame_at(frame), entry[QC_FRAME_GRAINS];
    ssize_t n = pread(fd, entry, sizeof(entry), (off_t)base), got;

    v->failed |= n < 0;
    if (n < (ssize_t)sizeof(entry))
        return;
    got = pread(fd, v->data, QC_FRAME_DATA, (off_t)(base + 2 * QC_GRAIN));
    v->failed |= got < 0;
    if (got < 0)
        return;
    memset(v->data + got, 0, QC_FRAME_DATA - (size_t)got);
    for (unsigned i = 0; i < QC_FRAME_GRAINS; i++) {
        uint64_t grain = frame * QC_FRAME_GRAINS + i;
        uint64_t want = (uint64_t)qc_disk_mark(tag, grain) << 32;

        if (entry[i] == 0)
            continue;
        v->out->checked++;
        want |= qc_crc32c(0, v->data + (size_t)i * QC_GRAIN, QC_GRAIN);
        if (entry[i] == want || !entry_stands(fd, frame, i, entry[i]))
            continue;
        v->out->damaged++;
        drop_grain(v, fd, frame, i);
    }
}

/* A file that is no object's, or no record, helps nobody. */
static void drop_file(struct verify *v, int dir, const char *name)
{
    struct stat st;

    v->out->damaged++;
    if (v->writable && fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
        unlinkat(dir, name, 0) == 0)
        v->out->freed += (uint64_t)st.st_blocks * 512;
}

static int verify_file(void *ctx, int dir, const char *name)
{
    uint8_t digest[QC_DISK_DIGEST];
    struct verify *v = ctx;
    struct qc_disk_header h;
    uint64_t frame = 0, most;
    struct stat st;
    ssize_t n;
    int fd;

    if (qc_disk_parse_name(name, ".name", NULL)) {
        if (!qc_disk_record_ok(dir, name) && faccessat(dir, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
            drop_file(v, dir, name);
        return 0;
    }
    if (!qc_disk_parse_name(name, ".data", digest))
        return 0;
    fd = qc_disk_openat(dir, name, v->writable ? O_RDWR : O_RDONLY, &st);
    if (fd < 0) {
        if (errno != ENOENT)
            drop_file(v, dir, name);
        return 0;
    }
    n = pread(fd, &h, sizeof(h), 0);
    v->failed |= n < 0;
    most = (uint64_t)st.st_blocks / 8 + 1;
    if (n >= 0 && (n < (ssize_t)sizeof(h) || !qc_disk_header_ok(&h, digest)))
        drop_file(v, dir, name);
    else
        for (; most > 0 && n > 0 && qc_disk_next_frame(fd, &frame); most--, frame++)
            verify_frame(v, fd, frame, qc_disk_tag(digest));
    close(fd);
    return 0;
}

int qc_disk_verify(const char *dir, qchain_cache_info *out, qchain_error *err)
{
    struct verify v = {.out = out};
    int fd, ret = open_cache(&fd, &v.writable, dir, err);

    if (ret != 0)
        return ret;
    v.data = qc_malloc(QC_FRAME_DATA);
    ret = v.data ? report(qc_disk_each(fd, verify_file, &v), dir, err) : qc_fail_nomem(err);
    if (ret == 0 && v.failed)
        ret = report(EIO, dir, err);
    if (ret == 0)
        ret = report(qc_disk_usage(fd, &out->bytes, &out->objects), dir, err);
    qc_free(v.data);
    close(fd);
    return ret;
}

/* ------------------------------------------------------------- trim, clear --- */

int qc_disk_trim(const char *dir, uint64_t max_bytes, qchain_cache_info *out, qchain_error *err)
{
    struct timespec nap = {0, 50000000};
    int fd, ret, lock = -1;
    bool writable;

    ret = open_cache(&fd, &writable, dir, err);
    if (ret != 0)
        return ret;
    ret = need_writable(writable, dir, err);
    for (int i = 0; i < LOCK_TRIES && ret == 0 && (lock = qc_disk_lock(fd)) < 0 &&
                    (errno == EAGAIN || errno == EACCES); i++)
        nanosleep(&nap, NULL);
    if (ret == 0)
        ret = report(qc_disk_shrink(fd, max_bytes, NULL, &out->freed), dir, err);
    if (ret == 0)
        ret = report(qc_disk_usage(fd, &out->bytes, &out->objects), dir, err);
    if (lock >= 0)
        close(lock);
    close(fd);
    return ret;
}

/* Nothing but what has the names of our files: the directory may be shared with other things by
 * mistake. The lock stays, somebody may hold it. */
static int clear_file(void *ctx, int dir, const char *name)
{
    int *failed = ctx;

    if ((qc_disk_parse_name(name, ".data", NULL) || qc_disk_parse_name(name, ".name", NULL) ||
         qc_disk_parse_name(name, ".tmp", NULL)) &&
        unlinkat(dir, name, 0) != 0 && errno != ENOENT && *failed == 0)
        *failed = errno;
    return 0;
}

int qc_disk_clear(const char *dir, qchain_error *err)
{
    int fd, ret, failed = 0, errnum;
    bool writable;

    ret = open_cache(&fd, &writable, dir, err);
    if (ret != 0)
        return ret;
    ret = need_writable(writable, dir, err);
    if (ret == 0) {
        errnum = qc_disk_each(fd, clear_file, &failed);
        ret = report(errnum ? errnum : failed, dir, err);
    }
    close(fd);
    return ret;
}
