/* SPDX-License-Identifier: MIT */
/* The door to writing: argument checks, defaults, the fork rule. */
#include <string.h>
#include <time.h>

#include "api/api.h"
#include "chain/tip.h"

#define MAX_PIECES 1024

static int check_call(const qchain *c, const char *what, uint32_t flags, uint32_t known,
                      qchain_error *err)
{
    if (!c)
        return qc_fail(err, QCHAIN_E_INVAL, "%s: the chain is NULL", what);
    if (flags & ~known)
        return qc_fail(err, QCHAIN_E_INVAL, "%s: unknown flags 0x%x", what, flags);
    if (qc_env_forked(c->env))
        return qc_fail_forked(err);
    return qc_tip_check(c, err);
}

static int check_range(const qchain *c, const char *what, uint64_t length, uint64_t offset,
                       qchain_error *err)
{
    uint64_t size = c->size;

    if (offset <= size && length <= size - offset)
        return 0;
    return qc_fail(err, QCHAIN_E_RANGE, "%s: %llu bytes at %llu reach beyond the disk's %llu bytes", what,
                   (unsigned long long)length, (unsigned long long)offset, (unsigned long long)size);
}

int qchain_write(qchain *c, const void *buf, size_t length, uint64_t offset, uint32_t flags,
                 qchain_error *err)
{
    qchain_iov iov = {(void *)(uintptr_t)buf, length};
    int ret;

    QC_ERR(err);
    ret = check_call(c, "write", flags, QCHAIN_WRITE_FUA, err);
    if (ret == 0 && !buf && length > 0)
        ret = qc_fail(err, QCHAIN_E_INVAL, "write: an argument is NULL");
    if (ret == 0)
        ret = check_range(c, "write", length, offset, err);
    return ret == 0 ? qc_chain_writev(c, &iov, 1, length, offset, flags, err) : ret;
}

int qchain_writev(qchain *c, const qchain_iov *iov, uint32_t n_iov, uint64_t offset, uint32_t flags,
                  qchain_error *err)
{
    uint64_t length = 0;
    int ret;

    QC_ERR(err);
    ret = check_call(c, "write", flags, QCHAIN_WRITE_FUA, err);
    if (ret == 0 && ((!iov && n_iov > 0) || n_iov > MAX_PIECES))
        ret = qc_fail(err, QCHAIN_E_INVAL, "write: an argument is NULL, or more than %d pieces",
                      MAX_PIECES);
    for (uint32_t i = 0; ret == 0 && i < n_iov; i++) {
        if (iov[i].len > INT64_MAX - length || (!iov[i].base && iov[i].len))
            ret = qc_fail(err, QCHAIN_E_INVAL, "write: piece %u is wrong", i);
        else
            length += iov[i].len;
    }
    if (ret == 0)
        ret = check_range(c, "write", length, offset, err);
    return ret == 0 ? qc_chain_writev(c, iov, n_iov, (size_t)length, offset, flags, err) : ret;
}

int qchain_write_zeroes(qchain *c, uint64_t length, uint64_t offset, uint32_t flags, qchain_error *err)
{
    int ret;

    QC_ERR(err);
    ret = check_call(c, "write_zeroes", flags, QCHAIN_WRITE_FUA | QCHAIN_WRITE_UNMAP, err);
    if (ret == 0)
        ret = check_range(c, "write_zeroes", length, offset, err);
    return ret == 0 ? qc_chain_write_zeroes(c, length, offset, flags, err) : ret;
}

int qchain_discard(qchain *c, uint64_t length, uint64_t offset, uint32_t flags, qchain_error *err)
{
    int ret;

    QC_ERR(err);
    ret = check_call(c, "discard", flags, 0, err);
    if (ret == 0)
        ret = check_range(c, "discard", length, offset, err);
    return ret == 0 ? qc_chain_discard(c, length, offset, err) : ret;
}

int qchain_write_compressed(qchain *c, const void *buf, size_t length, uint64_t offset, uint32_t flags,
                            qchain_error *err)
{
    int ret;

    QC_ERR(err);
    ret = check_call(c, "compressed write", flags, QCHAIN_WRITE_FUA, err);
    if (ret == 0 && !buf && length > 0)
        ret = qc_fail(err, QCHAIN_E_INVAL, "compressed write: an argument is NULL");
    if (ret == 0)
        ret = check_range(c, "compressed write", length, offset, err);
    return ret == 0 ? qc_chain_write_compressed(c, buf, length, offset, flags, err) : ret;
}

int qchain_flush(qchain *c, qchain_error *err)
{
    int ret;

    QC_ERR(err);
    ret = check_call(c, "flush", 0, 0, err);
    return ret == 0 ? qc_chain_flush(c, err) : ret;
}

int qchain_finish(qchain *c, qchain_error *err)
{
    int ret;

    QC_ERR(err);
    ret = check_call(c, "finish", 0, 0, err);
    return ret == 0 ? qc_chain_finish(c, err) : ret;
}

int qchain_resize(qchain *c, uint64_t size, uint32_t flags, qchain_error *err)
{
    int ret;

    QC_ERR(err);
    ret = check_call(c, "resize", flags, QCHAIN_RESIZE_SHRINK, err);
    if (ret == 0 && size % 512 != 0)
        ret = qc_fail(err, QCHAIN_E_INVAL, "resize: %llu bytes: must be a multiple of 512",
                      (unsigned long long)size);
    if (ret == 0 && size > INT64_MAX)
        ret = qc_fail(err, QCHAIN_E_LIMIT, "resize: %llu bytes: at most 2^63 - 512",
                      (unsigned long long)size);
    return ret == 0 ? qc_chain_resize(c, size, flags & QCHAIN_RESIZE_SHRINK, err) : ret;
}

int qchain_drain(qchain *c, qchain_error *err)
{
    int ret;

    QC_ERR(err);
    ret = check_call(c, "drain", 0, 0, err);
    return ret == 0 ? qc_chain_drain(c, err) : ret;
}

void qchain_resume(qchain *c)
{
    if (c && !qc_env_forked(c->env))
        qc_chain_resume(c);
}

/* ---------------------------------------------------------------- snapshots --- */

void qchain_snapshot_opts_init(qchain_snapshot_opts *o, size_t size)
{
    qc_opts_init(o, size);
}

static uint64_t now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int qchain_snapshot_create(qchain *c, const char *name, const qchain_snapshot_opts *opts,
                           qchain_error *err)
{
    qchain_snapshot_opts o;
    struct qc_snapshot_new s;
    bool counted;
    int ret;

    QC_ERR(err);
    ret = check_call(c, "snapshot", 0, 0, err);
    if (ret == 0)
        ret = qc_opts_copy(&o, sizeof(o), opts, err);
    if (ret != 0)
        return ret;
    counted = o.flags & QCHAIN_SNAPSHOT_HAS_ICOUNT;
    if (!name || o.flags & ~(uint32_t)QCHAIN_SNAPSHOT_HAS_ICOUNT || o.reserved0)
        return qc_fail(err, QCHAIN_E_INVAL, "snapshot: no name, unknown flags or reserved fields set");
    if (!counted && o.icount)
        return qc_fail(err, QCHAIN_E_INVAL, "snapshot: icount counts with QCHAIN_SNAPSHOT_HAS_ICOUNT");
    s = (struct qc_snapshot_new){.name = name, .vm_state_size = o.vm_state_size,
                                 .vm_clock_nsec = o.vm_clock_nsec, .icount = counted ? o.icount : UINT64_MAX,
                                 .date_ns = o.date_ns ? o.date_ns : now_ns()};
    return qc_chain_snapshot_create(c, &s, err);
}

int qchain_snapshot_apply(qchain *c, const char *key, qchain_error *err)
{
    int ret;

    QC_ERR(err);
    ret = check_call(c, "snapshot", 0, 0, err);
    if (ret == 0 && !key)
        ret = qc_fail(err, QCHAIN_E_INVAL, "snapshot: no name");
    return ret == 0 ? qc_chain_snapshot_apply(c, key, err) : ret;
}

int qchain_snapshot_delete(qchain *c, const char *key, qchain_error *err)
{
    int ret;

    QC_ERR(err);
    ret = check_call(c, "snapshot", 0, 0, err);
    if (ret == 0 && !key)
        ret = qc_fail(err, QCHAIN_E_INVAL, "snapshot: no name");
    return ret == 0 ? qc_chain_snapshot_delete(c, key, err) : ret;
}

int qchain_vmstate_read(qchain *c, void *buf, size_t length, uint64_t offset, qchain_error *err)
{
    int ret;

    QC_ERR(err);
    ret = check_call(c, "VM state", 0, 0, err);
    if (ret == 0 && !buf && length > 0)
        ret = qc_fail(err, QCHAIN_E_INVAL, "VM state: an argument is NULL");
    return ret == 0 ? qc_chain_vmstate_read(c, buf, length, offset, err) : ret;
}

int qchain_vmstate_write(qchain *c, const void *buf, size_t length, uint64_t offset, qchain_error *err)
{
    int ret;

    QC_ERR(err);
    ret = check_call(c, "VM state", 0, 0, err);
    if (ret == 0 && !buf && length > 0)
        ret = qc_fail(err, QCHAIN_E_INVAL, "VM state: an argument is NULL");
    return ret == 0 ? qc_chain_vmstate_write(c, buf, length, offset, err) : ret;
}
