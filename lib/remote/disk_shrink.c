/* SPDX-License-Identifier: MIT */
/*
 * Evicting: the frames that were used least recently, of all files, become holes. One call for a frame
 * is enough, in whatever order the kernel does it: who reads meanwhile finds checksums that do not fit,
 * as does one who comes after a crash in between. Files with nothing left in them are removed; who has
 * one open reads misses from it, and makes another when it has something to store.
 */
#include "remote/disk_int.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "util/alloc.h"

/* Candidates kept in memory at once; 32 GiB of frames. What more there is takes another pass. */
#define CANDIDATES 16384u
#define PASSES 1000
/* Files that nobody finished to make; records that nobody refreshed; files with nothing in them: not
 * such that are only just being made. All in seconds. */
#define TEMPORARY_S 600
#define RECORD_S (30 * 24 * 3600)
#define EMPTY_S 60

struct candidate {
    uint64_t used, frame;
    uint8_t  digest[QC_DISK_DIGEST];
};

struct shrink {
    const atomic_bool *stop;
    uint64_t           now;
    struct candidate  *heap; /* of one pass, the most recently used on top */
    uint32_t           n;
    bool               over; /* too much is left although all frames are gone */
    uint64_t           freed;
};

int qc_disk_lock(int dir)
{
    struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    struct stat st;
    int fd = qc_disk_openat(dir, "lock", O_RDWR, &st), errnum;

    if (fd < 0 && errno == ENOENT) {
        fd = openat(dir, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (fd < 0)
            return -1;
    }
    if (fd >= 0 && fcntl(fd, F_OFD_SETLK, &fl) != 0) {
        errnum = errno;
        close(fd);
        errno = errnum;
        fd = -1;
    }
    return fd;
}

int qc_disk_each(int dir, int (*fn)(void *ctx, int dir, const char *name), void *ctx)
{
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), errnum;
    DIR *list = fd >= 0 ? fdopendir(fd) : NULL;
    struct dirent *e;

    if (!list) {
        errnum = errno;
        if (fd >= 0)
            close(fd);
        return errnum;
    }
    do {
        errno = 0;
        e = readdir(list);
        errnum = e ? fn(ctx, dir, e->d_name) : errno;
    } while (e && errnum == 0);
    closedir(list);
    return errnum;
}

/* ------------------------------------------------------------------- usage --- */

struct usage {
    uint64_t bytes, objects;
};

static bool ours(const char *name, bool *data)
{
    *data = qc_disk_parse_name(name, ".data", NULL);
    return *data || qc_disk_parse_name(name, ".name", NULL) || qc_disk_parse_name(name, ".tmp", NULL);
}

static int add_usage(void *ctx, int dir, const char *name)
{
    struct usage *u = ctx;
    struct stat st;
    bool data;

    if (!ours(name, &data) || fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return 0;
    u->bytes += (uint64_t)st.st_blocks * 512;
    u->objects += data && st.st_size > (off_t)QC_DISK_HEADER;
    return 0;
}

int qc_disk_usage(int dir, uint64_t *bytes, uint64_t *objects)
{
    struct usage u = {0};
    int errnum = qc_disk_each(dir, add_usage, &u);

    *bytes = u.bytes;
    if (objects)
        *objects = u.objects;
    return errnum;
}

/* ------------------------------------------------------------------- frames --- */

bool qc_disk_next_frame(int fd, uint64_t *frame)
{
    off_t at = lseek(fd, (off_t)qc_disk_frame_at(*frame), SEEK_DATA);

    if (at < (off_t)QC_DISK_HEADER)
        return false;
    *frame = ((uint64_t)at - QC_DISK_HEADER) / QC_FRAME_BYTES;
    return true;
}

/* A heap whose top is used last: the first to be dropped when an older one comes. */
static void sift_down(struct candidate *heap, uint32_t n, uint32_t i)
{
    for (uint32_t child; (child = 2 * i + 1) < n; i = child) {
        struct candidate swap = heap[i];

        if (child + 1 < n && heap[child + 1].used > heap[child].used)
            child++;
        if (heap[child].used <= heap[i].used)
            return;
        heap[i] = heap[child];
        heap[child] = swap;
    }
}

static void offer(struct shrink *s, const struct candidate *c)
{
    if (s->n == CANDIDATES) {
        if (c->used >= s->heap[0].used)
            return;
        s->heap[0] = *c;
        sift_down(s->heap, s->n, 0);
        return;
    }
    s->heap[s->n++] = *c;
    if (s->n == CANDIDATES)
        for (uint32_t i = CANDIDATES / 2; i > 0; i--)
            sift_down(s->heap, s->n, i - 1);
}

static bool stopped(const struct shrink *s)
{
    return s->stop && atomic_load(s->stop);
}

/* Offer each frame of a file. A file has no more frames than blocks, where its file system tells holes;
 * where not, what lies beyond is not looked at. */
static void offer_file(struct shrink *s, int fd, const struct stat *st, const uint8_t *digest)
{
    uint64_t most = (uint64_t)st->st_blocks / 8 + 1;
    struct candidate c = {0};

    memcpy(c.digest, digest, QC_DISK_DIGEST);
    for (; most > 0 && !stopped(s) && qc_disk_next_frame(fd, &c.frame); most--, c.frame++) {
        struct qc_disk_meta meta;
        ssize_t n = pread(fd, &meta, sizeof(meta), (off_t)(qc_disk_frame_at(c.frame) + QC_GRAIN));

        /* A time to come is no time. */
        c.used = n == (ssize_t)sizeof(meta) && meta.used <= s->now ? meta.used : 0;
        offer(s, &c);
    }
}

static void remove_file(struct shrink *s, int dir, const char *name, const struct stat *st)
{
    if (unlinkat(dir, name, 0) == 0)
        s->freed += (uint64_t)st->st_blocks * 512;
}

static bool is_older(const struct shrink *s, const struct stat *st, uint64_t seconds)
{
    return (uint64_t)st->st_mtime > s->now || s->now - (uint64_t)st->st_mtime > seconds;
}

static int scan_file(void *ctx, int dir, const char *name)
{
    uint8_t digest[QC_DISK_DIGEST];
    struct shrink *s = ctx;
    uint64_t first = 0;
    struct stat st;
    bool data;
    int fd;

    if (stopped(s))
        return EINTR;
    if (!ours(name, &data) || fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return 0;
    if (!data) {
        bool record = qc_disk_parse_name(name, ".name", NULL);

        if (is_older(s, &st, record ? RECORD_S : TEMPORARY_S) || (record && s->over))
            remove_file(s, dir, name, &st);
        return 0;
    }
    qc_disk_parse_name(name, ".data", digest);
    fd = qc_disk_openat(dir, name, O_RDONLY, &st);
    if (fd < 0)
        return 0;
    if (qc_disk_next_frame(fd, &first))
        offer_file(s, fd, &st, digest);
    else if (is_older(s, &st, EMPTY_S) || s->over)
        remove_file(s, dir, name, &st);
    close(fd);
    return 0;
}

/* ---------------------------------------------------------------- evicting --- */

static void evict(struct shrink *s, int dir, const struct candidate *c)
{
    struct stat before, after;
    char name[QC_DISK_NAME];
    uint64_t first = 0;
    int fd;

    qc_disk_file_name(name, c->digest, ".data");
    fd = qc_disk_openat(dir, name, O_RDWR, &before);
    if (fd < 0)
        return;
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)qc_disk_frame_at(c->frame),
                  (off_t)QC_FRAME_BYTES) != 0 || !qc_disk_next_frame(fd, &first)) {
        /* Nothing is left; or nothing less than a file can be given back here. */
        remove_file(s, dir, name, &before);
    } else if (fstat(fd, &after) == 0 && after.st_blocks < before.st_blocks) {
        s->freed += (uint64_t)(before.st_blocks - after.st_blocks) * 512;
    }
    close(fd);
}

static int by_use(const void *a, const void *b)
{
    const struct candidate *x = a, *y = b;

    return x->used < y->used ? -1 : x->used > y->used;
}

int qc_disk_shrink(int dir, uint64_t most, const atomic_bool *stop, uint64_t *freed)
{
    struct shrink s = {.stop = stop, .now = qc_disk_now()};
    uint64_t bytes = 0, before;
    int errnum = qc_disk_usage(dir, &bytes, NULL);

    s.heap = qc_malloc(CANDIDATES * sizeof(*s.heap));
    if (!s.heap)
        errnum = ENOMEM;
    for (int pass = 0; errnum == 0 && bytes > most && pass < PASSES; pass++) {
        before = s.freed;
        s.n = 0;
        errnum = qc_disk_each(dir, scan_file, &s);
        qsort(s.heap, s.n, sizeof(*s.heap), by_use);
        for (uint32_t i = 0; i < s.n && errnum == 0 && bytes > most + (s.freed - before); i++) {
            evict(&s, dir, &s.heap[i]);
            errnum = stopped(&s) ? EINTR : 0;
        }
        if (s.freed == before && (s.n > 0 || s.over)) /* there is nothing more that could go */
            break;
        s.over = s.n == 0;
        if (errnum == 0) /* others write meanwhile */
            errnum = qc_disk_usage(dir, &bytes, NULL);
    }
    qc_free(s.heap);
    *freed = s.freed;
    return errnum == EINTR ? 0 : errnum;
}
