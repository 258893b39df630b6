/* SPDX-License-Identifier: MIT */
/* The door to maintenance of cache directories. */
#include <string.h>

#include "api/api.h"
#include "remote/disk.h"

static int check(const char *call, const char *dir, const qchain_cache_info *out, qchain_error *err)
{
    if (!dir || !out)
        return qc_fail(err, QCHAIN_E_INVAL, "%s: an argument is NULL", call);
    if (!dir[0])
        return qc_fail(err, QCHAIN_E_INVAL, "%s: the directory's name is empty", call);
    return qc_result_check(out, call, err);
}

/* Give the caller as much as he knows of; what we lack is zero. Also after a failure: what was found
 * so far. */
static int give(qchain_cache_info *out, const qchain_cache_info *info, int ret)
{
    size_t size = out->struct_size;

    if (size > sizeof(*info))
        memset(out, 0, size);
    memcpy(out, info, size < sizeof(*info) ? size : sizeof(*info));
    out->struct_size = size;
    return ret;
}

int qchain_cache_stat(const char *dir, qchain_cache_info *out, qchain_error *err)
{
    qchain_cache_info info = {0};
    int ret;

    QC_ERR(err);
    ret = check("qchain_cache_stat", dir, out, err);
    return ret == 0 ? give(out, &info, qc_disk_stat(dir, &info, err)) : ret;
}

int qchain_cache_verify(const char *dir, qchain_cache_info *out, qchain_error *err)
{
    qchain_cache_info info = {0};
    int ret;

    QC_ERR(err);
    ret = check("qchain_cache_verify", dir, out, err);
    return ret == 0 ? give(out, &info, qc_disk_verify(dir, &info, err)) : ret;
}

int qchain_cache_trim(const char *dir, uint64_t max_bytes, qchain_cache_info *out, qchain_error *err)
{
    qchain_cache_info info = {0};
    int ret;

    QC_ERR(err);
    ret = check("qchain_cache_trim", dir, out, err);
    return ret == 0 ? give(out, &info, qc_disk_trim(dir, max_bytes, &info, err)) : ret;
}

int qchain_cache_clear(const char *dir, qchain_error *err)
{
    QC_ERR(err);
    if (!dir || !dir[0])
        return qc_fail(err, QCHAIN_E_INVAL, "qchain_cache_clear: no directory is named");
    return qc_disk_clear(dir, err);
}
