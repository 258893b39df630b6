/* SPDX-License-Identifier: MIT */
/* The door to making images and changing their options. */
#include <string.h>

#include "api/api.h"
#include "chain/chain.h"
#include "ops/amend.h"
#include "ops/create.h"

#define KNOWN_CREATE                                                                               \
    (QCHAIN_CREATE_EXTENDED_L2 | QCHAIN_CREATE_LAZY_REFCOUNTS | QCHAIN_CREATE_DATA_FILE_RAW |      \
     QCHAIN_CREATE_UNSAFE_BACKING | QCHAIN_CREATE_KEEP)
#define KNOWN_AMEND                                                                                \
    (QCHAIN_AMEND_VERSION | QCHAIN_AMEND_BACKING_FILE | QCHAIN_AMEND_BACKING_FORMAT |              \
     QCHAIN_AMEND_SIZE | QCHAIN_AMEND_LAZY_REFCOUNTS | QCHAIN_AMEND_REFCOUNT_BITS |                \
     QCHAIN_AMEND_DATA_FILE | QCHAIN_AMEND_DATA_FILE_RAW)

void qchain_create_opts_init(qchain_create_opts *o, size_t size)
{
    qc_opts_init(o, size);
}

int qc_create_opts_take(qchain_create_opts *o, const qchain_create_opts *from, const char *what, qchain_error *err)
{
    int ret = qc_opts_copy(o, sizeof(*o), from, err);

    if (ret == 0 && (o->flags & ~(uint32_t)KNOWN_CREATE || o->reserved0))
        ret = qc_fail(err, QCHAIN_E_INVAL, "%s: unknown flags 0x%x or reserved fields set", what, o->flags);
    return ret;
}

int qchain_create(qchain_env *env, const char *name, const qchain_create_opts *opts, qchain_error *err)
{
    qchain_env *own = NULL;
    qchain_create_opts o;
    int ret;

    QC_ERR(err);
    ret = qc_create_opts_take(&o, opts, "create", err);
    if (ret == 0 && !name)
        ret = qc_fail(err, QCHAIN_E_INVAL, "create: no image is named");
    if (ret == 0 && !env) {
        ret = qchain_env_create(&own, NULL, err);
        env = own;
    }
    if (ret == 0)
        ret = qc_env_enter(env, err);
    if (ret == 0)
        ret = qc_create(env, name, &o, err);
    qchain_env_destroy(own);
    return ret;
}

int qchain_measure(qchain *source, const qchain_create_opts *opts, qchain_measure_result *out,
                   qchain_error *err)
{
    qchain_measure_result r = {.struct_size = sizeof(r)};
    qchain_create_opts o;
    int ret;

    QC_ERR(err);
    ret = qc_create_opts_take(&o, opts, "measure", err);
    if (ret == 0 && !out)
        ret = qc_fail(err, QCHAIN_E_INVAL, "measure: out is NULL");
    if (ret == 0)
        ret = qc_result_check(out, "measure", err);
    if (ret == 0 && source && qc_env_forked(source->env))
        ret = qc_fail_forked(err);
    if (ret == 0)
        ret = qc_measure(source, &o, &r, err);
    if (ret == 0)
        qc_stats_out(out, &r, sizeof(r));
    return ret;
}

int qchain_amend(qchain *c, const qchain_create_opts *opts, uint32_t mask, qchain_job *job, qchain_error *err)
{
    qchain_create_opts o;
    int ret;

    (void)job; /* nothing takes long */
    QC_ERR(err);
    ret = qc_create_opts_take(&o, opts, "amend", err);
    if (ret == 0 && !c)
        ret = qc_fail(err, QCHAIN_E_INVAL, "amend: the chain is NULL");
    if (ret == 0 && mask & ~(uint32_t)KNOWN_AMEND)
        ret = qc_fail(err, QCHAIN_E_INVAL, "amend: unknown bits in mask 0x%x", mask);
    if (ret == 0 && qc_env_forked(c->env))
        ret = qc_fail_forked(err);
    return ret == 0 ? qc_amend(c, &o, mask, err) : ret;
}
