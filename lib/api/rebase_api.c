/* SPDX-License-Identifier: MIT */
/* The door to what changes where a chain's top stands: rebase, stream, merge, taking a layer out. */
#include "api/api.h"
#include "chain/chain.h"
#include "ops/rebase.h"
#include "util/bytes.h"

#define KNOWN_FLAGS                                                                                \
    (QCHAIN_REBASE_UNSAFE | QCHAIN_REBASE_FORCE | QCHAIN_REBASE_COMPARE | QCHAIN_REBASE_COMPRESS)

void qchain_rebase_opts_init(qchain_rebase_opts *o, size_t size)
{
    qc_opts_init(o, size);
}

static int check_call(const qchain *c, uint32_t flags, const qchain_job_result *result, const char *what,
                      qchain_error *err)
{
    if (!c)
        return qc_fail(err, QCHAIN_E_INVAL, "%s: the chain is NULL", what);
    if (flags)
        return qc_fail(err, QCHAIN_E_INVAL, "%s: unknown flags 0x%x", what, flags);
    return qc_env_forked(c->env) ? qc_fail_forked(err) : qc_result_check(result, what, err);
}

static int check_rebase(const qchain_rebase_opts *o, qchain_error *err)
{
    if (o->flags & ~(uint32_t)KNOWN_FLAGS || !qc_is_zero(o->reserved, sizeof(o->reserved)))
        return qc_fail(err, QCHAIN_E_INVAL, "rebase: unknown flags 0x%x or reserved fields set", o->flags);
    if (o->open && qc_open_opts_check("", o->open, err) != 0)
        return err->code;
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
        ret = check_call(c, 0, result, "rebase", err);
    if (ret == 0)
        ret = check_rebase(&o, err);
    if (ret == 0)
        ret = qc_rebase(c, &o, &r, err);
    put_result(result, &r);
    return ret;
}

int qchain_stream(qchain *c, uint32_t base, uint32_t flags, qchain_job *job, qchain_job_result *result,
                  qchain_error *err)
{
    qchain_job_result r = {.struct_size = sizeof(r)};
    int ret;

    QC_ERR(err);
    ret = check_call(c, flags, result, "stream", err);
    if (ret == 0)
        ret = qc_stream(c, base, job, &r, err);
    put_result(result, &r);
    return ret;
}

int qchain_merge(qchain *c, uint64_t limit, uint32_t flags, qchain_job *job, qchain_job_result *result,
                 qchain_error *err)
{
    qchain_job_result r = {.struct_size = sizeof(r)};
    int ret;

    QC_ERR(err);
    ret = check_call(c, flags, result, "merge", err);
    if (ret == 0)
        ret = qc_merge(c, limit, job, &r, err);
    put_result(result, &r);
    return ret;
}

/* Children are opened one after the other, by names. */
static int check_delete(const qchain_open_opts *open, const char *layer, const char *const *children, uint32_t n,
                        qchain_error *err)
{
    qchain_open_opts of_child = *open;
    bool bad = !layer || (n && !children);

    for (uint32_t i = 0; !bad && i < n; i++)
        bad = !children[i];
    if (bad)
        return qc_fail(err, QCHAIN_E_INVAL, "delete: an argument is NULL");
    if (open->store || open->snapshot || open->data_file || open->index || open->flags & QCHAIN_OPEN_FD)
        return qc_fail(err, QCHAIN_E_INVAL, "delete: images are opened by their names");
    if (open->flags & (QCHAIN_OPEN_NO_BACKING | QCHAIN_OPEN_SALVAGE))
        return qc_fail(err, QCHAIN_E_INVAL, "delete: chains must be opened whole");
    of_child.flags |= QCHAIN_OPEN_WRITE;
    return qc_open_opts_check(layer, &of_child, err);
}

int qchain_delete_layer(qchain_env *env, const char *layer, const char *const *children, uint32_t n,
                        uint32_t flags, const qchain_open_opts *opts, qchain_job *job, qchain_job_result *result,
                        qchain_error *err)
{
    qchain_job_result r = {.struct_size = sizeof(r)};
    qchain_open_opts open = {.struct_size = sizeof(open)};
    qchain_env *own = NULL;
    int ret = 0;

    QC_ERR(err);
    if (opts)
        ret = qc_opts_copy(&open, sizeof(open), opts, err);
    if (ret == 0)
        ret = check_delete(&open, layer, children, n, err);
    if (ret == 0 && flags & ~(uint32_t)QCHAIN_DELETE_FILE)
        ret = qc_fail(err, QCHAIN_E_INVAL, "delete: unknown flags 0x%x", flags);
    if (ret == 0)
        ret = qc_result_check(result, "delete", err);
    if (ret == 0 && !env) {
        ret = qchain_env_create(&own, NULL, err);
        env = own;
    }
    if (ret == 0) /* what it opens minds the fork rule */
        ret = qc_delete_layer(env, layer, children, n, flags & QCHAIN_DELETE_FILE, &open, job, &r, err);
    qchain_env_destroy(own);
    put_result(result, &r);
    return ret;
}
