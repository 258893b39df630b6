/* SPDX-License-Identifier: MIT */
/* The door to sidecar indexes. */
#include <limits.h>
#include <stdlib.h>

#include "api/api.h"
#include "chain/chain.h"
#include "chain/names.h"
#include "chain/sidecar.h"
#include "ops/index_build.h"
#include "util/alloc.h"
#include "util/escape.h"

#define MAX_THREADS 64

void qchain_index_opts_init(qchain_index_opts *o, size_t size)
{
    qc_opts_init(o, size);
}

static int check_opts(qchain_index_opts *o, const qchain_index_opts *opts, uint32_t known,
                      qchain_error *err)
{
    int ret = qc_opts_copy(o, sizeof(*o), opts, err);

    if (ret == 0 && o->flags & ~known)
        ret = qc_fail(err, QCHAIN_E_INVAL, "index: unknown flags 0x%x", o->flags);
    if (ret == 0 && o->threads > MAX_THREADS)
        ret = qc_fail(err, QCHAIN_E_INVAL, "index: threads=%u: at most %d", o->threads,
                      MAX_THREADS);
    return ret;
}

int qchain_index_build(qchain *c, const qchain_index_opts *opts, qchain_error *err)
{
    qchain_index_opts o;
    int ret;

    QC_ERR(err);
    if (!c)
        return qc_fail(err, QCHAIN_E_INVAL, "index: no chain is given");
    ret = check_opts(&o, opts, QCHAIN_INDEX_NO_WAIT, err);
    if (ret == 0 && qc_env_forked(c->env))
        ret = qc_fail_forked(err);
    return ret == 0 ? qc_index_build(c, &o, err) : ret;
}

int qchain_index_verify(qchain *c, const qchain_index_opts *opts, qchain_error *err)
{
    qchain_index_opts o;
    int ret;

    QC_ERR(err);
    if (!c)
        return qc_fail(err, QCHAIN_E_INVAL, "index: no chain is given");
    ret = check_opts(&o, opts, 0, err);
    if (ret == 0 && qc_env_forked(c->env))
        ret = qc_fail_forked(err);
    if (ret == 0 && !(c->open_flags & QCHAIN_OPEN_NO_INDEX))
        ret = qc_fail(err, QCHAIN_E_INVAL, "index: to be verified against its layers the chain "
                      "must be opened with QCHAIN_OPEN_NO_INDEX");
    return ret == 0 ? qc_index_verify(c, &o, err) : ret;
}

/* The path of an image's sidecar: beside what its name leads to, if that exists still. */
static int path_of(char **out, qchain_env *env, const char *image, qchain_error *err)
{
    struct qc_name name = {0};
    char real[PATH_MAX];
    int ret = qc_name_parse(&name, image, err);

    if (ret != 0)
        return ret;
    if (name.is_url) {
        ret = qc_index_place_of(out, env, name.path, err);
    } else {
        *out = qc_sidecar_path(realpath(name.path, real) ? real : name.path);
        ret = *out ? 0 : qc_fail_nomem(err);
    }
    qc_name_finish(&name);
    return ret;
}

int qchain_index_drop(qchain_env *env, const char *name, const qchain_index_opts *opts,
                      qchain_error *err)
{
    struct qc_escaped shown;
    qchain_env *own = NULL;
    qchain_index_opts o;
    char *path = NULL;
    int ret;

    QC_ERR(err);
    ret = check_opts(&o, opts, 0, err);
    if (ret == 0 && !name && !o.name)
        ret = qc_fail(err, QCHAIN_E_INVAL, "index: no image is named");
    if (ret == 0 && !env)
        ret = qchain_env_create(&own, NULL, err);
    if (ret == 0 && o.name)
        ret = (path = qc_strdup(o.name)) ? 0 : qc_fail_nomem(err);
    else if (ret == 0)
        ret = path_of(&path, env ? env : own, name, err);
    if (ret == 0) {
        ret = qc_index_drop(env ? env : own, path, err);
        if (ret != 0)
            qc_error_prefix(err, -1, "index '%s': ", qc_name_shown(&shown, path));
    }
    qc_free(path);
    qchain_env_destroy(own);
    return ret;
}

uint32_t qchain_index_layers(const qchain *c)
{
    return c ? c->n_layers - qc_sidecar_first(c) : 0;
}

int qchain_index_inspect(qchain_index_info **out, qchain_env *env, const char *name,
                         const qchain_open_opts *open_opts, qchain_error *err)
{
    qchain_index_info *info = NULL;
    qchain_env *own = NULL;
    qchain_open_opts o;
    int ret;

    QC_ERR(err);
    if (!out || !name)
        return qc_fail(err, QCHAIN_E_INVAL, "index: an argument is NULL");
    *out = NULL;
    ret = qc_opts_copy(&o, sizeof(o), open_opts, err);
    if (ret == 0 && (o.store || o.flags & QCHAIN_OPEN_FD))
        ret = qc_fail(err, QCHAIN_E_INVAL, "index: an image in a store or behind a descriptor has "
                      "none");
    if (ret == 0)
        ret = qc_open_opts_check(name, &o, err);
    if (ret == 0 && !env)
        ret = qchain_env_create(&own, NULL, err);
    if (ret != 0)
        return ret;
    info = qc_calloc(1, sizeof(*info));
    ret = info ? qc_index_inspect(info, env ? env : own, name, &o, err) : qc_fail_nomem(err);
    if (ret == 0) {
        info->struct_size = sizeof(*info);
        *out = info;
    } else {
        qchain_index_info_free(info);
    }
    qchain_env_destroy(own);
    return ret;
}

void qchain_index_info_free(qchain_index_info *info)
{
    if (!info)
        return;
    qc_index_info_finish(info);
    qc_free(info);
}
