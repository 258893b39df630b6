/* SPDX-License-Identifier: MIT */
/* The door to queues: argument checks, defaults, the fork rule. */
#include "api/api.h"
#include "chain/chain.h"
#include "chain/queue.h"

#define DEFAULT_DEPTH 128
#define MAX_DEPTH 32768
#define MAX_PIECES 1024

void qchain_queue_opts_init(qchain_queue_opts *o, size_t size)
{
    qc_opts_init(o, size);
}

int qchain_queue_create(qchain_queue **out, qchain *c, const qchain_queue_opts *opts,
                        qchain_error *err)
{
    qchain_queue_opts o;
    int ret;

    QC_ERR(err);
    if (out)
        *out = NULL;
    if (!out || !c)
        return qc_fail(err, QCHAIN_E_INVAL, "qchain_queue_create: an argument is NULL");
    if (qc_env_forked(c->env))
        return qc_fail_forked(err);
    ret = qc_opts_copy(&o, sizeof(o), opts, err);
    if (ret != 0)
        return ret;
    if (o.flags & ~(uint32_t)QCHAIN_QUEUE_NO_URING)
        return qc_fail(err, QCHAIN_E_INVAL, "queue: unknown flags 0x%x", o.flags);
    if (o.depth > MAX_DEPTH)
        return qc_fail(err, QCHAIN_E_INVAL, "queue: depth=%u: at most %d", o.depth, MAX_DEPTH);
    return qc_queue_create(out, c, o.depth ? o.depth : DEFAULT_DEPTH,
                           !(o.flags & QCHAIN_QUEUE_NO_URING), err);
}

const char *qchain_queue_engine(const qchain_queue *q)
{
    return q && qc_queue_uses_uring(q) ? "io_uring" : "threads";
}

static bool is_forked(const qchain_queue *q)
{
    return qc_env_forked(qc_queue_chain(q)->env);
}

static int check_request(const qchain_queue *q, uint32_t flags, qchain_error *err)
{
    if (flags & ~(uint32_t)QCHAIN_REQUEST_MORE)
        return qc_fail(err, QCHAIN_E_INVAL, "queue: unknown request flags 0x%x", flags);
    return is_forked(q) ? qc_fail_forked(err) : 0;
}

static int check_range(const qchain_queue *q, uint64_t length, uint64_t offset, qchain_error *err)
{
    uint64_t size = qc_queue_chain(q)->size;

    if (offset <= size && length <= size - offset)
        return 0;
    return qc_fail(err, QCHAIN_E_RANGE,
                   "queue: %llu bytes at %llu reach beyond the disk's %llu bytes",
                   (unsigned long long)length, (unsigned long long)offset,
                   (unsigned long long)size);
}

int qchain_queue_read(qchain_queue *q, void *buf, size_t length, uint64_t offset, uint32_t flags,
                      void *user, qchain_error *err)
{
    qchain_iov iov = {buf, length};
    int ret;

    QC_ERR(err);
    if (!q || (!buf && length > 0))
        return qc_fail(err, QCHAIN_E_INVAL, "queue: an argument is NULL");
    ret = check_request(q, flags, err);
    if (ret == 0)
        ret = check_range(q, length, offset, err);
    if (ret != 0)
        return ret;
    return qc_queue_readv(q, &iov, 1, length, offset, flags & QCHAIN_REQUEST_MORE, user, err);
}

static int check_pieces(const qchain_queue *q, const qchain_iov *iov, uint32_t n_iov, uint64_t *length,
                        qchain_error *err)
{
    if (!q || (!iov && n_iov > 0) || n_iov > MAX_PIECES)
        return qc_fail(err, QCHAIN_E_INVAL, "queue: an argument is NULL, or more than %d pieces",
                       MAX_PIECES);
    for (uint32_t i = 0; i < n_iov; i++) {
        if (iov[i].len > INT64_MAX - *length || (!iov[i].base && iov[i].len))
            return qc_fail(err, QCHAIN_E_INVAL, "queue: piece %u is wrong", i);
        *length += iov[i].len;
    }
    return 0;
}

int qchain_queue_readv(qchain_queue *q, const qchain_iov *iov, uint32_t n_iov, uint64_t offset,
                       uint32_t flags, void *user, qchain_error *err)
{
    uint64_t length = 0;
    int ret;

    QC_ERR(err);
    ret = check_pieces(q, iov, n_iov, &length, err);
    if (ret == 0)
        ret = check_request(q, flags, err);
    if (ret == 0)
        ret = check_range(q, length, offset, err);
    if (ret != 0)
        return ret;
    return qc_queue_readv(q, iov, n_iov, (size_t)length, offset, flags & QCHAIN_REQUEST_MORE, user,
                          err);
}

/* Flags of one that writes; *change receives those that go on. */
static int check_change(const qchain_queue *q, uint32_t flags, uint32_t known, uint32_t *change,
                        qchain_error *err)
{
    if (flags & ~known)
        return qc_fail(err, QCHAIN_E_INVAL, "queue: unknown request flags 0x%x", flags);
    *change = (flags & QCHAIN_REQUEST_FUA ? QCHAIN_WRITE_FUA : 0u) |
              (flags & QCHAIN_REQUEST_UNMAP ? QCHAIN_WRITE_UNMAP : 0u);
    return is_forked(q) ? qc_fail_forked(err) : 0;
}

int qchain_queue_write(qchain_queue *q, const void *buf, size_t length, uint64_t offset,
                       uint32_t flags, void *user, qchain_error *err)
{
    qchain_iov iov = {(void *)(uintptr_t)buf, length};

    return qchain_queue_writev(q, &iov, 1, offset, flags, user, err);
}

int qchain_queue_writev(qchain_queue *q, const qchain_iov *iov, uint32_t n_iov, uint64_t offset,
                        uint32_t flags, void *user, qchain_error *err)
{
    uint64_t length = 0;
    uint32_t change = 0;
    int ret;

    QC_ERR(err);
    ret = check_pieces(q, iov, n_iov, &length, err);
    if (ret == 0)
        ret = check_change(q, flags, QCHAIN_REQUEST_MORE | QCHAIN_REQUEST_FUA, &change, err);
    if (ret == 0)
        ret = check_range(q, length, offset, err);
    if (ret != 0)
        return ret;
    return qc_queue_change(q, QC_REQUEST_WRITE, iov, n_iov, length, offset, change,
                           flags & QCHAIN_REQUEST_MORE, user, err);
}

int qchain_queue_write_zeroes(qchain_queue *q, uint64_t length, uint64_t offset, uint32_t flags,
                              void *user, qchain_error *err)
{
    uint32_t change = 0;
    int ret;

    QC_ERR(err);
    if (!q)
        return qc_fail(err, QCHAIN_E_INVAL, "queue: an argument is NULL");
    ret = check_change(q, flags, QCHAIN_REQUEST_MORE | QCHAIN_REQUEST_FUA | QCHAIN_REQUEST_UNMAP, &change,
                       err);
    if (ret == 0)
        ret = check_range(q, length, offset, err);
    if (ret != 0)
        return ret;
    return qc_queue_change(q, QC_REQUEST_ZEROES, NULL, 0, length, offset, change,
                           flags & QCHAIN_REQUEST_MORE, user, err);
}

int qchain_queue_discard(qchain_queue *q, uint64_t length, uint64_t offset, uint32_t flags, void *user,
                         qchain_error *err)
{
    uint32_t change = 0;
    int ret;

    QC_ERR(err);
    if (!q)
        return qc_fail(err, QCHAIN_E_INVAL, "queue: an argument is NULL");
    ret = check_change(q, flags, QCHAIN_REQUEST_MORE, &change, err);
    if (ret == 0)
        ret = check_range(q, length, offset, err);
    if (ret != 0)
        return ret;
    return qc_queue_change(q, QC_REQUEST_DISCARD, NULL, 0, length, offset, 0, flags & QCHAIN_REQUEST_MORE,
                           user, err);
}

int qchain_queue_flush(qchain_queue *q, void *user, qchain_error *err)
{
    QC_ERR(err);
    if (!q)
        return qc_fail(err, QCHAIN_E_INVAL, "queue: an argument is NULL");
    if (is_forked(q))
        return qc_fail_forked(err);
    return qc_queue_change(q, QC_REQUEST_FLUSH, NULL, 0, 0, 0, 0, false, user, err);
}

int qchain_queue_reap(qchain_queue *q, qchain_completion *out, uint32_t min, uint32_t max,
                      int timeout_ms)
{
    if (!q || (!out && max > 0) || max > INT32_MAX || timeout_ms < -1 || is_forked(q))
        return QCHAIN_E_INVAL;
    return qc_queue_reap(q, out, min, max, timeout_ms);
}

int qchain_queue_fd(qchain_queue *q)
{
    return !q || is_forked(q) ? QCHAIN_E_INVAL : qc_queue_fd(q);
}

int qchain_queue_cancel(qchain_queue *q, void *user)
{
    return !q || is_forked(q) ? QCHAIN_E_INVAL : qc_queue_cancel(q, user);
}

uint32_t qchain_queue_pending(const qchain_queue *q)
{
    return q ? qc_queue_pending(q) : 0;
}

void qchain_queue_destroy(qchain_queue *q)
{
    /* In a forked child the threads that work for it do not exist. */
    if (!q || is_forked(q))
        return;
    qc_queue_close(q);
}
