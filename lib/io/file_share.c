/* SPDX-License-Identifier: MIT */
#include "io/file_share.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "io/file_int.h"
#include "util/bytes.h"
#include "util/error.h"

#define STEP (UINT64_C(64) << 20) /* what the kernel copies by one call, that cannot be ended */

void qc_file_write_behind(struct qc_store *s)
{
    struct qc_file *f = qc_file_is_local(s) ? s->obj : NULL;

    if (f && f->writable && !f->direct && !f->block_device)
        (void)sync_file_range(atomic_load(&f->entry.fd), 0, 0, SYNC_FILE_RANGE_WRITE);
}

/* How many of the bytes; errno says why not all. */
static uint64_t share(int to, uint64_t offset, int from, uint64_t from_offset, uint64_t length)
{
    struct file_clone_range r = {.src_fd = from, .src_offset = from_offset, .src_length = length,
                                 .dest_offset = offset};
    int rc;

    do
        rc = ioctl(to, FICLONERANGE, &r);
    while (rc != 0 && errno == EINTR);
    return rc == 0 ? length : 0;
}

static uint64_t copy_within(int to, uint64_t offset, int from, uint64_t from_offset, uint64_t length)
{
    uint64_t done = 0;
    ssize_t n;

    while (done < length) {
        off64_t in = (off64_t)(from_offset + done), out = (off64_t)(offset + done);

        n = copy_file_range(from, &in, to, &out, qc_min64(length - done, STEP), 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n == 0)
            errno = EIO;
        if (n <= 0)
            break;
        done += (uint64_t)n;
    }
    return done;
}

int qc_file_share(struct qc_store *to, uint64_t offset, struct qc_store *from, uint64_t from_offset,
                  uint64_t length, bool copy, uint64_t *done, qchain_error *err)
{
    struct qc_file *t = qc_file_is_local(to) ? to->obj : NULL, *f = qc_file_is_local(from) ? from->obj : NULL;
    int fd, target, ret, e = 0;

    *done = 0;
    if (!t || !f || !t->writable || t->block_device || f->block_device || length == 0)
        return 0;
    ret = qc_fdpool_acquire(f->pool, &f->entry, qc_file_open_again, f, &fd, err);
    if (ret != 0)
        return ret;
    target = atomic_load(&t->entry.fd);
    *done = share(target, offset, fd, from_offset, length);
    if (*done == 0 && copy && errno != ENOSPC && errno != EDQUOT)
        *done = copy_within(target, offset, fd, from_offset, length);
    if (*done < length)
        e = errno;
    qc_fdpool_release(f->pool, &f->entry);
    if (*done > 0)
        qc_store_wrote(to, offset, *done);
    if (e != ENOSPC && e != EDQUOT)
        return 0;
    qc_store_failed(to, offset, length);
    return qc_fail_errno(err, e, "%s: copying at offset %llu", to->name, (unsigned long long)offset);
}
