/* SPDX-License-Identifier: MIT */
/* The door to traces. */
#include "api/api.h"
#include "chain/chain.h"
#include "chain/recorder.h"
#include "chain/trace_file.h"
#include "ops/trace_load.h"
#include "util/alloc.h"

#define DEFAULT_BYTES (UINT64_C(4) << 20)
#define LEAST_BYTES (UINT64_C(128) << 10) /* each half has room for a block */
#define KNOWN_LOAD ((uint32_t)(QCHAIN_TRACE_LOAD_BESIDE | QCHAIN_TRACE_LOAD_DISTINCT))

void qchain_trace_opts_init(qchain_trace_opts *o, size_t size)
{
    qc_opts_init(o, size);
}

void qchain_trace_load_opts_init(qchain_trace_load_opts *o, size_t size)
{
    qc_opts_init(o, size);
}

static bool any_set(const uint64_t reserved[4])
{
    return reserved[0] || reserved[1] || reserved[2] || reserved[3];
}

int qchain_trace_start(qchain *c, const char *path, const qchain_trace_opts *opts, qchain_error *err)
{
    qchain_trace_opts o;
    int ret;

    QC_ERR(err);
    if (!c || !path)
        return qc_fail(err, QCHAIN_E_INVAL, "trace: an argument is NULL");
    if (qc_env_forked(c->env))
        return qc_fail_forked(err);
    ret = qc_opts_copy(&o, sizeof(o), opts, err);
    if (ret != 0)
        return ret;
    if (o.flags & ~(uint32_t)QCHAIN_TRACE_KEEP_FIRST || o.reserved0 || any_set(o.reserved))
        return qc_fail(err, QCHAIN_E_INVAL, "trace: unknown flags 0x%x or reserved fields set", o.flags);
    o.max_bytes = o.max_bytes ? o.max_bytes : DEFAULT_BYTES;
    if (o.max_bytes < LEAST_BYTES || o.max_bytes > QC_TRACE_RECORDING_MAX)
        return qc_fail(err, QCHAIN_E_INVAL, "trace: max_bytes=%llu: from %llu to %u",
                       (unsigned long long)o.max_bytes, (unsigned long long)LEAST_BYTES, QC_TRACE_RECORDING_MAX);
    return qc_recorder_start(c, path, o.flags, o.max_bytes, err);
}

int qchain_trace_stop(qchain *c, qchain_error *err)
{
    QC_ERR(err);
    if (!c)
        return qc_fail(err, QCHAIN_E_INVAL, "trace: no chain is given");
    return qc_env_forked(c->env) ? qc_fail_forked(err) : qc_recorder_stop(c, err);
}

static int check_load(qchain_trace **out, const char *const *names, uint32_t n, qchain_trace_load_opts *o,
                      const qchain_trace_load_opts *opts, qchain_error *err)
{
    int ret = qc_opts_copy(o, sizeof(*o), opts, err);

    if (ret != 0)
        return ret;
    if (!out || !names || n == 0)
        return qc_fail(err, QCHAIN_E_INVAL, "trace: an argument is NULL, or no trace is named");
    for (uint32_t i = 0; i < n; i++)
        if (!names[i])
            return qc_fail(err, QCHAIN_E_INVAL, "trace: name %u is NULL", i);
    if (o->flags & ~KNOWN_LOAD || any_set(o->reserved))
        return qc_fail(err, QCHAIN_E_INVAL, "trace: unknown flags 0x%x or reserved fields set", o->flags);
    return 0;
}

int qchain_trace_load(qchain_trace **out, qchain_env *env, const char *const *names, uint32_t n,
                      const qchain_trace_load_opts *opts, qchain_error *err)
{
    qchain_trace_load_opts o;
    qchain_env *own = NULL;
    qchain_trace *t = NULL;
    int ret;

    QC_ERR(err);
    if (out)
        *out = NULL;
    ret = check_load(out, names, n, &o, opts, err);
    if (ret == 0 && !env)
        ret = qchain_env_create(&own, NULL, err);
    if (ret == 0)
        ret = qc_env_enter(env ? env : own, err); /* not in a forked child: an object is asked for by threads */
    if (ret == 0 && !(t = qc_calloc(1, sizeof(*t))))
        ret = qc_fail_nomem(err);
    if (ret == 0) {
        t->struct_size = sizeof(*t);
        ret = qc_trace_load(t, env ? env : own, names, n, &o, err);
    }
    if (ret == 0)
        *out = t;
    else
        qchain_trace_free(t);
    qchain_env_destroy(own);
    return ret;
}

void qchain_trace_free(qchain_trace *t)
{
    if (!t)
        return;
    qc_trace_finish(t);
    qc_free(t);
}

int qchain_trace_save(const qchain_trace *t, const char *path, qchain_error *err)
{
    QC_ERR(err);
    if (!t || !path || (!t->records && t->n_records))
        return qc_fail(err, QCHAIN_E_INVAL, "trace: an argument is NULL");
    return qc_trace_save(t, path, err);
}
