/* SPDX-License-Identifier: MIT */
/* The door to what changes where a chain's top stands: rebase, stream, merge, taking a layer out. */
#include "api/api.h"
#include "chain/chain.h"
#include "ops/rebase.h"

#define KNOWN_FLAGS                                                                                \
    (QCHAIN_REBASE_UNSAFE | QCHAIN_REBASE_FORCE | QCHAIN_REBASE_COMPARE | QCHAIN_REBASE_COMPRESS)

void qchain_rebase_opts_init(qchain_rebase_opts *o, size_t size)
{
    qc_opts_init(o, size);
}

static int check_chain(const qchain *c, const char *what, qchain_error *err)
{
    if (!c)
        return qc_fail(err, QCHAIN_E_INVAL, "%s: the chain is NULL", what);
    return qc_env_forked(c->env) ? qc_fail_forked(err) : 0;
}

static int check_rebase(const qchain_rebase_opts *o, qchain_error *err)
{
    if (o->flags & ~(uint32_t)KNOWN_FLAGS)
        return qc_fail(err, QCHAIN_E_INVAL, "rebase: unknown flags 0x%x", o->flags);
    if (o->flags & QCHAIN_REBASE_FORCE && !(o->flags & QCHAIN_REBASE_UNSAFE))
        return qc_fail(err, QCHAIN_E_INVAL, "rebase: FORCE goes with UNSAFE");
    if (o->flags & QCHAIN_REBASE_UNSAFE && o->flags & (QCHAIN_REBASE_COMPARE | QCHAIN_REBASE_COMPRESS))
        return qc_fail(err, QCHAIN_E_INVAL, "rebase: UNSAFE copies nothing, so there is nothing to compare or to "
                       "compress");
    return 0;
}

static void put_result(qchain_job_result *out, const qchain_job_result *r)
{
    if (out)
        qc_stats_out(out, r, sizeof(*r));
}

int qchain_rebase(qchain *c, const qchain_rebase_opts *opts, qchain_job_result *result, qchain_error *err)
{
    qchain_job_result r = {.struct_size = sizeof(r)};
    qchain_rebase_opts o;
    qchain_open_opts open;
    int ret;

    QC_ERR(err);
    ret = qc_opts_copy(&o, sizeof(o), opts, err);
    if (ret == 0 && o.open) {
        ret = qc_opts_copy(&open, sizeof(open), o.open, err);
        o.open = &open;
    }
    if (ret == 0)
        ret = check_chain(c, "rebase", err);
    if (ret == 0)
        ret = check_rebase(&o, err);
    if (ret == 0)
        ret = qc_rebase(c, &o, &r, err);
    put_result(result, &r);
    return ret;
}
