/* SPDX-License-Identifier: MIT */
/* The door to prefetching. */
#include <string.h>

#include "api/api.h"
#include "chain/chain.h"
#include "ops/prefetch.h"

#define KNOWN_FLAGS ((uint32_t)(QCHAIN_PREFETCH_METADATA | QCHAIN_PREFETCH_IDLE | QCHAIN_PREFETCH_TOP))
#define MOST_PARALLEL 256u

void qchain_prefetch_opts_init(qchain_prefetch_opts *o, size_t size)
{
    qc_opts_init(o, size);
}

static int check_opts(const qchain_prefetch_opts *o, uint32_t n, qchain_error *err)
{
    if (o->flags & ~KNOWN_FLAGS || o->reserved0 || o->reserved[0] || o->reserved[1] || o->reserved[2] ||
        o->reserved[3])
        return qc_fail(err, QCHAIN_E_INVAL, "prefetch: unknown flags 0x%x or reserved fields set", o->flags);
    if (o->flags & QCHAIN_PREFETCH_METADATA && o->flags & QCHAIN_PREFETCH_TOP)
        return qc_fail(err, QCHAIN_E_INVAL, "prefetch: METADATA is for the cache: a top has no room for other layers' "
                       "tables");
    if (o->parallel > MOST_PARALLEL)
        return qc_fail(err, QCHAIN_E_INVAL, "prefetch: %u requests under way: at most %u", o->parallel, MOST_PARALLEL);
    if (!o->ranges && o->n_ranges)
        return qc_fail(err, QCHAIN_E_INVAL, "prefetch: ranges is NULL, n_ranges is %u", o->n_ranges);
    for (uint32_t i = 0; o->ranges && i < o->n_ranges; i++)
        if (o->ranges[i].chain >= n || o->ranges[i].reserved0)
            return qc_fail(err, QCHAIN_E_INVAL, "prefetch: range %u is of disk %u of %u, or has reserved fields set", i,
                           o->ranges[i].chain, n);
    return 0;
}

static int check_chains(qchain *const *chains, uint32_t n, qchain_error *err)
{
    if (!chains || n == 0)
        return qc_fail(err, QCHAIN_E_INVAL, "prefetch: no chain is given");
    for (uint32_t i = 0; i < n; i++) {
        if (!chains[i])
            return qc_fail(err, QCHAIN_E_INVAL, "prefetch: chain %u is NULL", i);
        if (qc_env_forked(chains[i]->env))
            return qc_fail_forked(err);
    }
    return 0;
}

int qchain_prefetch(qchain *const *chains, uint32_t n, const qchain_prefetch_opts *opts,
                    qchain_prefetch_result *result, qchain_error *err)
{
    qchain_prefetch_result r = {.struct_size = sizeof(r)};
    qchain_prefetch_opts o;
    int ret;

    QC_ERR(err);
    ret = qc_opts_copy(&o, sizeof(o), opts, err);
    if (ret == 0)
        ret = check_chains(chains, n, err);
    if (ret == 0)
        ret = check_opts(&o, n, err);
    if (ret == 0)
        ret = qc_result_check(result, "prefetch", err);
    if (ret == 0)
        ret = qc_prefetch(chains, n, &o, &r, err);
    if (result)
        qc_stats_out(result, &r, sizeof(r));
    return ret;
}
