/* SPDX-License-Identifier: MIT */
/*
 * O_DIRECT. The file tells the store its alignments as limits, and the store
 * bounces what does not fit; here is what remains: to find them out, to see
 * whether direct reading works at all, and the end of a file that is no multiple
 * of them.
 */
#include "io/file_int.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"

/* Fits all devices whose kernel does not tell. */
#define ALIGN_UNTOLD 4096
#define MAX_ALIGN (1u << 20)

static bool is_alignment(uint32_t v)
{
    return v > 0 && v <= MAX_ALIGN && (v & (v - 1)) == 0;
}

/* False if the kernel says that the file cannot be read directly. */
static bool ask_alignment(struct qc_file *f, int fd)
{
    f->align_memory = f->align_offset = ALIGN_UNTOLD;
#ifdef STATX_DIOALIGN
    struct statx sx;

    if (statx(fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) != 0 || !(sx.stx_mask & STATX_DIOALIGN))
        return true;
    if (sx.stx_dio_mem_align == 0 || sx.stx_dio_offset_align == 0)
        return false;
    if (is_alignment(sx.stx_dio_mem_align) && is_alignment(sx.stx_dio_offset_align)) {
        f->align_memory = sx.stx_dio_mem_align;
        f->align_offset = sx.stx_dio_offset_align;
    }
#endif
    return true;
}

static ssize_t pread_block(const struct qc_file *f, int fd, void *block, uint64_t offset)
{
    ssize_t got;

    do
        got = pread(fd, block, f->align_offset, offset);
    while (got < 0 && errno == EINTR);
    return got;
}

static void *alloc_block(const struct qc_file *f)
{
    return qc_aligned(f->align_memory, f->align_offset);
}

int qc_file_direct_setup(struct qc_file *f, int fd, qchain_error *err)
{
    int fl = fcntl(fd, F_GETFL);
    bool works = fl >= 0 && (fl & O_DIRECT) && ask_alignment(f, fd);
    void *block = alloc_block(f);

    if (!block)
        return qc_fail_nomem(err);
    /* Some file systems take the flag and then refuse the reads. */
    if (works && pread_block(f, fd, block, 0) < 0 && errno == EINVAL)
        works = false;
    qc_free(block);
    if (works)
        return 0;
    qc_log(f->log, QCHAIN_LOG_WARN, "io", "%s: cannot be read directly (O_DIRECT); reading "
           "through the page cache", f->name);
    f->direct = false;
    if (fl >= 0 && (fl & O_DIRECT) && !f->shared)
        fcntl(fd, F_SETFL, fl & ~O_DIRECT);
    return 0;
}

int qc_file_direct_tail(const struct qc_file *f, int fd, void *buf, size_t length,
                        uint64_t offset, qchain_error *err)
{
    char *block = alloc_block(f);
    ssize_t got;
    int rc = 0;

    if (!block)
        return qc_fail_nomem(err);
    got = pread_block(f, fd, block, offset);
    if (got < 0)
        rc = qc_file_read_failed(f, -1, errno, offset, err);
    else if ((size_t)got < length)
        rc = qc_file_read_failed(f, 0, 0, offset + got, err);
    else
        memcpy(buf, block, length);
    qc_free(block);
    return rc;
}
