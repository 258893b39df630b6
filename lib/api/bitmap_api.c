/* SPDX-License-Identifier: MIT */
/* The door to dirty bitmaps: argument checks, defaults, the fork rule. */
#include <string.h>

#include "api/api.h"
#include "chain/bitmaps.h"
#include "util/bytes.h"

#define MAX_NAME 1023u

static int check_call(const qchain *c, const char *what, const char *name, qchain_error *err)
{
    if (!c || !name)
        return qc_fail(err, QCHAIN_E_INVAL, "%s: an argument is NULL", what);
    if (qc_env_forked(c->env))
        return qc_fail_forked(err);
    return 0;
}

int qchain_bitmap_add(qchain *c, const char *name, uint64_t granularity, int enabled, qchain_error *err)
{
    size_t length;
    int ret;

    QC_ERR(err);
    ret = check_call(c, "bitmap", name, err);
    if (ret != 0)
        return ret;
    length = strlen(name);
    if (granularity == 0)
        granularity = qc_min64(65536, qc_max64(4096, c->layer[0].cluster_size));
    if (length == 0)
        return qc_fail(err, QCHAIN_E_INVAL, "bitmap: the name is empty");
    if (length > MAX_NAME)
        return qc_fail(err, QCHAIN_E_LIMIT, "bitmap: the name has %zu bytes: at most %u", length, MAX_NAME);
    if (granularity < 512 || granularity > UINT64_C(1) << 31 || (granularity & (granularity - 1)))
        return qc_fail(err, QCHAIN_E_INVAL, "bitmap: the granularity must be a power of two from 512 to 2 GiB");
    if (enabled != 0 && enabled != 1)
        return qc_fail(err, QCHAIN_E_INVAL, "bitmap: enabled is 1 or 0");
    return qc_chain_bitmap_add(c, name, (uint32_t)__builtin_ctzll(granularity), enabled, err);
}

int qchain_bitmap_remove(qchain *c, const char *name, qchain_error *err)
{
    int ret;

    QC_ERR(err);
    ret = check_call(c, "bitmap", name, err);
    return ret == 0 ? qc_chain_bitmap_remove(c, name, err) : ret;
}

int qchain_bitmap_clear(qchain *c, const char *name, qchain_error *err)
{
    int ret;

    QC_ERR(err);
    ret = check_call(c, "bitmap", name, err);
    return ret == 0 ? qc_chain_bitmap_clear(c, name, err) : ret;
}

int qchain_bitmap_enable(qchain *c, const char *name, int enabled, qchain_error *err)
{
    int ret;

    QC_ERR(err);
    ret = check_call(c, "bitmap", name, err);
    if (ret == 0 && enabled != 0 && enabled != 1)
        ret = qc_fail(err, QCHAIN_E_INVAL, "bitmap: enabled is 1 or 0");
    return ret == 0 ? qc_chain_bitmap_enable(c, name, enabled, err) : ret;
}

int qchain_bitmap_merge(qchain *c, const char *name, qchain *source, const char *from, qchain_error *err)
{
    int ret;

    QC_ERR(err);
    ret = check_call(c, "bitmap", name, err);
    if (ret == 0)
        ret = check_call(source, "bitmap", from, err);
    return ret == 0 ? qc_chain_bitmap_merge(c, name, source, from, err) : ret;
}

int qchain_bitmap_query(qchain *c, const char *name, uint64_t offset, uint64_t length,
                        qchain_dirty_extent *extents, uint32_t max, uint32_t *n, uint64_t *next,
                        qchain_error *err)
{
    int ret;

    QC_ERR(err);
    ret = check_call(c, "bitmap", name, err);
    if (ret == 0 && (!extents || max == 0 || !n || !next))
        ret = qc_fail(err, QCHAIN_E_INVAL, "bitmap: an argument is NULL, or there is no room for an extent");
    return ret == 0 ? qc_chain_bitmap_query(c, name, offset, length, extents, max, n, next, err) : ret;
}
