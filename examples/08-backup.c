/* SPDX-License-Identifier: MIT */
/*
 * 08-backup.c - incremental backups by a dirty bitmap.
 *
 *     08-backup IMG FILE
 *
 * makes FILE a raw copy of the disk. The first time all of it is copied, and a bitmap is put into IMG, which notes from
 * then on what is written, by this library or by QEMU. Each later time only that is copied, into the same FILE: the bitmap
 * knows of one copy.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <qchain.h>

#define BITMAP "08-backup"
#define CHUNK (1u << 20)
#define BATCH 64

static uint64_t copied;

/* What is not the library's failure is told at once, and is 1. */
static int fail(const char *what)
{
    perror(what);
    return 1;
}

static int copy(qchain *c, int fd, uint64_t offset, uint64_t length, qchain_error *err)
{
    static char buf[CHUNK];

    for (uint64_t end = offset + length; offset < end;) {
        size_t n = end - offset < CHUNK ? (size_t)(end - offset) : CHUNK;
        int r = qchain_read(c, buf, n, offset, 0, err);
        ssize_t wrote;

        if (r)
            return r;
        wrote = pwrite(fd, buf, n, (off_t)offset);
        if (wrote >= 0 && (size_t)wrote < n)
            errno = ENOSPC;
        if (wrote != (ssize_t)n)
            return fail("08-backup: write");
        offset += n;
        copied += n;
    }
    return 0;
}

/* What was written since the last time: the cursor goes on as qchain_map's does. */
static int copy_dirty(qchain *c, int fd, qchain_error *err)
{
    qchain_dirty_extent extents[BATCH];
    uint64_t at = 0, size = qchain_size(c);
    uint32_t n;

    while (at < size) {
        int r = qchain_bitmap_query(c, BITMAP, at, size - at, extents, BATCH, &n, &at, err);

        for (uint32_t i = 0; r == 0 && i < n; i++)
            if (extents[i].dirty)
                r = copy(c, fd, extents[i].offset, extents[i].length, err);
        if (r)
            return r;
    }
    return 0;
}

/* The bitmap tells what is new since the copy that is in FILE. Without that copy, without a bitmap, or with one that a
 * crash made worthless, all is. */
static bool is_known(qchain *c, int fd)
{
    qchain_dirty_extent extent;
    uint64_t next;
    uint32_t n;
    struct stat st;

    return fstat(fd, &st) == 0 && (uint64_t)st.st_size == qchain_size(c) && st.st_size > 0 &&
           qchain_bitmap_query(c, BITMAP, 0, 1, &extent, 1, &n, &next, NULL) == 0;
}

static int copy_all(qchain *c, int fd, qchain_error *err)
{
    int r;

    qchain_bitmap_remove(c, BITMAP, NULL); /* there may be none */
    /* The file gets its size when all is in it. */
    r = ftruncate(fd, 0) != 0 ? fail("08-backup: truncate") : copy(c, fd, 0, qchain_size(c), err);
    return r ? r : qchain_bitmap_add(c, BITMAP, 0, 1, err);
}

static int backup(qchain *c, const char *file, qchain_error *err)
{
    int fd = open(file, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    int r;

    if (fd < 0)
        return fail(file);
    r = is_known(c, fd) ? copy_dirty(c, fd, err) : copy_all(c, fd, err);
    if (r == 0 && fsync(fd) != 0)
        r = fail(file);
    close(fd);
    /* Only when the copy is durable may the bitmap forget. */
    return r ? r : qchain_bitmap_clear(c, BITMAP, err);
}

int main(int argc, char **argv)
{
    qchain_error *err = qchain_error_create();
    qchain_open_opts opts;
    qchain *c = NULL;
    int r;

    if (argc != 3) {
        fprintf(stderr, "usage: %s IMG FILE\n", argv[0]);
        qchain_error_destroy(err);
        return 2;
    }
    /* For writing, so that nobody else writes meanwhile, and since the bitmap lives in the image. */
    qchain_open_opts_init(&opts, sizeof(opts));
    opts.flags = QCHAIN_OPEN_WRITE;
    r = qchain_open(&c, NULL, argv[1], &opts, err);
    if (r == 0)
        r = backup(c, argv[2], err);
    if (r == 0)
        r = qchain_finish(c, err); /* stores the bitmap */
    if (r == 0)
        printf("%" PRIu64 " of %" PRIu64 " bytes were copied\n", copied, qchain_size(c));
    else if (r < 0)
        fprintf(stderr, "08-backup: %s\n", qchain_error_message(err));
    qchain_close(c);
    qchain_error_destroy(err);
    return r ? 1 : 0;
}
