/* SPDX-License-Identifier: MIT */
/* The door to committing. */
#include "api/api.h"
#include "chain/chain.h"
#include "ops/commit.h"

#define KNOWN_COMMIT ((uint32_t)QCHAIN_COMMIT_KEEP)
#define KNOWN_OPEN                                                                                 \
    ((uint32_t)(QCHAIN_OPEN_FORCE_SHARE | QCHAIN_OPEN_DIRECT | QCHAIN_OPEN_WRITE | QCHAIN_OPEN_FD | \
                QCHAIN_OPEN_NO_INDEX | QCHAIN_OPEN_WRITETHROUGH | QCHAIN_OPEN_UNSAFE | QCHAIN_OPEN_DISCARD | \
                QCHAIN_OPEN_NO_READ_AHEAD))

void qchain_commit_opts_init(qchain_commit_opts *o, size_t size)
{
    qc_opts_init(o, size);
}

static int check_args(const char *name, const qchain_commit_opts *o, const qchain_open_opts *open, qchain_error *err)
{
    if (o->flags & ~KNOWN_COMMIT || o->reserved[0] || o->reserved[1] || o->reserved[2] || o->reserved[3])
        return qc_fail(err, QCHAIN_E_INVAL, "commit: unknown flags 0x%x or reserved fields set", o->flags);
    if (open->flags & ~KNOWN_OPEN || open->reserved0 || open->snapshot)
        return qc_fail(err, QCHAIN_E_INVAL, "commit: open flags 0x%x or a snapshot: a chain cannot be committed like "
                       "that", open->flags);
    if (open->flags & QCHAIN_OPEN_FD && (open->store || open->fd < 0))
        return qc_fail(err, QCHAIN_E_INVAL, "commit: the image is either a descriptor or a store");
    if (open->store && !open->store->ops)
        return qc_fail(err, QCHAIN_E_INVAL, "commit: the store has no ops");
    if (!name && !open->store && !(open->flags & QCHAIN_OPEN_FD))
        return qc_fail(err, QCHAIN_E_INVAL, "commit: no image is named");
    if (open->max_layers > 65535)
        return qc_fail(err, QCHAIN_E_INVAL, "commit: max_layers=%u: at most 65535", open->max_layers);
    return 0;
}

int qchain_commit(qchain_env *env, const char *name, const qchain_commit_opts *opts, qchain_job_result *result,
                  qchain_error *err)
{
    qchain_job_result done = {.struct_size = sizeof(done)};
    qchain_open_opts open = {.struct_size = sizeof(open)};
    qchain_env *own = NULL;
    qchain_commit_opts o;
    int ret;

    QC_ERR(err);
    ret = qc_opts_copy(&o, sizeof(o), opts, err);
    if (ret == 0)
        ret = qc_opts_copy(&open, sizeof(open), o.open, err);
    if (ret == 0)
        ret = check_args(name, &o, &open, err);
    if (ret == 0)
        ret = qc_result_check(result, "commit", err);
    if (ret == 0 && !env)
        ret = qchain_env_create(&own, NULL, err);
    if (ret == 0) {
        ret = qc_commit(env ? env : own, name, &o, &open, &done, err);
        if (result)
            qc_stats_out(result, &done, sizeof(done));
    } else if (open.store && open.store->ops && open.store->ops->close) {
        open.store->ops->close(open.store->obj); /* the library's, also when the call is wrong */
    }
    qchain_env_destroy(own);
    return ret;
}
