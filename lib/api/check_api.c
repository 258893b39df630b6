/* SPDX-License-Identifier: MIT */
/* The door to checking and mending. */
#include "api/api.h"
#include "chain/chain.h"
#include "ops/check_image.h"

#define KNOWN_CHECK ((uint32_t)(QCHAIN_CHECK_REPAIR_LEAKS | QCHAIN_CHECK_REPAIR_ALL))
#define KNOWN_OPEN ((uint32_t)(QCHAIN_OPEN_FORCE_SHARE | QCHAIN_OPEN_DIRECT | QCHAIN_OPEN_FD))

void qchain_check_opts_init(qchain_check_opts *o, size_t size)
{
    qc_opts_init(o, size);
}

static int check_args(const char *name, const qchain_check_opts *o, const qchain_open_opts *open,
                      const qchain_check_result *out, qchain_error *err)
{
    if (!out)
        return qc_fail(err, QCHAIN_E_INVAL, "check: an argument is NULL");
    if (o->flags & ~KNOWN_CHECK || o->reserved0)
        return qc_fail(err, QCHAIN_E_INVAL, "check: unknown flags 0x%x or reserved fields set",
                       o->flags);
    if (open->flags & ~KNOWN_OPEN || open->reserved0 || open->snapshot)
        return qc_fail(err, QCHAIN_E_INVAL, "check: open flags 0x%x or a snapshot: only FORCE_SHARE, "
                       "DIRECT and FD are for checking", open->flags);
    if (open->flags & QCHAIN_OPEN_FD && (open->store || open->fd < 0))
        return qc_fail(err, QCHAIN_E_INVAL, "check: the image is either a descriptor or a store");
    if (open->store && !open->store->ops)
        return qc_fail(err, QCHAIN_E_INVAL, "check: the store has no ops");
    if (!name && !open->store && !(open->flags & QCHAIN_OPEN_FD))
        return qc_fail(err, QCHAIN_E_INVAL, "check: no image is named");
    if (o->flags && open->flags & QCHAIN_OPEN_FORCE_SHARE)
        return qc_fail(err, QCHAIN_E_INVAL, "check: an image is not mended without its locks");
    return 0;
}

int qchain_check(qchain_env *env, const char *name, const qchain_check_opts *opts,
                 qchain_check_result *out, qchain_error *err)
{
    qchain_check_result found = {.struct_size = sizeof(found)};
    qchain_open_opts open = {.struct_size = sizeof(open)};
    qchain_env *own = NULL;
    qchain_check_opts o;
    int ret;

    QC_ERR(err);
    ret = qc_opts_copy(&o, sizeof(o), opts, err);
    if (ret == 0)
        ret = qc_opts_copy(&open, sizeof(open), o.open, err);
    if (ret == 0)
        ret = qc_result_check(out, "check", err);
    if (ret == 0)
        ret = check_args(name, &o, &open, out, err);
    if (ret == 0 && !env)
        ret = qchain_env_create(&own, NULL, err);
    if (ret == 0) {
        ret = qc_check(env ? env : own, name, &o, &open, &found, err);
        if (ret == 0)
            qc_stats_out(out, &found, sizeof(found));
    } else if (open.store && open.store->ops && open.store->ops->close) {
        open.store->ops->close(open.store->obj); /* the library's, also when the call is wrong */
    }
    qchain_env_destroy(own);
    return ret;
}
