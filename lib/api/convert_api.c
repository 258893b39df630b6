/* SPDX-License-Identifier: MIT */
/* The door to converting: argument checks, defaults, the fork rule. */
#include <string.h>

#include "api/api.h"
#include "chain/chain.h"
#include "ops/convert.h"
#include "util/bytes.h"

#define KNOWN_CONVERT                                                                              \
    (QCHAIN_CONVERT_COMPRESS | QCHAIN_CONVERT_EXISTING | QCHAIN_CONVERT_IS_ZERO |                  \
     QCHAIN_CONVERT_SALVAGE | QCHAIN_CONVERT_OFFLOAD | QCHAIN_CONVERT_UNSAFE |                     \
     QCHAIN_CONVERT_BITMAPS | QCHAIN_CONVERT_SKIP_BROKEN)
#define MAX_THREADS 256
#define SECTOR 512

void qchain_convert_opts_init(qchain_convert_opts *o, size_t size)
{
    qc_opts_init(o, size);
}

/* What does not go together; NULL: all does. */
static const char *check_flags(const qchain_convert_opts *o)
{
    bool existing = o->flags & QCHAIN_CONVERT_EXISTING;
    bool offload = o->flags & QCHAIN_CONVERT_OFFLOAD;

    if (o->flags & QCHAIN_CONVERT_IS_ZERO && !existing)
        return "IS_ZERO is for a target that is there (EXISTING)";
    if (o->flags & QCHAIN_CONVERT_SKIP_BROKEN && !(o->flags & QCHAIN_CONVERT_BITMAPS))
        return "SKIP_BROKEN needs BITMAPS";
    if (offload && (o->flags & (QCHAIN_CONVERT_COMPRESS | QCHAIN_CONVERT_SALVAGE) || o->sparse_bytes))
        return "what the file system copies cannot be compressed, salvaged, or looked at for zeros";
    if (o->sparse_bytes != UINT64_MAX && o->sparse_bytes % SECTOR != 0)
        return "sparse_bytes must be a multiple of 512";
    if (!existing && o->flags & QCHAIN_CONVERT_COMPRESS && o->create->preallocation)
        return "Compression and preallocation not supported at the same time";
    return NULL;
}

static int check(const qchain *source, const char *name, const qchain_convert_opts *o, qchain_error *err)
{
    const char *why;

    if (!source || !name)
        return qc_fail(err, QCHAIN_E_INVAL, "convert: an argument is NULL");
    if (o->flags & ~(uint32_t)KNOWN_CONVERT || o->threads > MAX_THREADS ||
        !qc_is_zero(o->reserved, sizeof(o->reserved)))
        return qc_fail(err, QCHAIN_E_INVAL, "convert: unknown flags 0x%x, more than %d threads, or reserved fields set",
                       o->flags, MAX_THREADS);
    why = check_flags(o);
    if (why)
        return qc_fail(err, QCHAIN_E_INVAL, "convert: %s", why);
    if (o->open->flags & QCHAIN_OPEN_FD || o->open->store)
        return qc_fail(err, QCHAIN_E_INVAL, "convert: the target is opened by its name");
    return qc_env_forked(source->env) ? qc_fail_forked(err) : 0;
}

int qchain_convert(qchain *source, const char *name, const qchain_convert_opts *opts, qchain_job_result *result,
                   qchain_error *err)
{
    qchain_job_result done = {.struct_size = sizeof(done)};
    qchain_create_opts create;
    qchain_convert_opts o;
    qchain_open_opts open;
    int ret;

    QC_ERR(err);
    ret = qc_opts_copy(&o, sizeof(o), opts, err);
    if (ret == 0)
        ret = qc_create_opts_take(&create, o.create, "convert", err);
    if (ret == 0)
        ret = qc_opts_copy(&open, sizeof(open), o.open, err);
    if (ret == 0)
        ret = qc_open_opts_check(name, &open, err);
    if (ret == 0)
        ret = qc_result_check(result, "convert", err);
    if (ret != 0)
        return ret;
    o.create = &create;
    o.open = &open;
    ret = check(source, name, &o, err);
    if (ret != 0)
        return ret;
    if (create.size == 0 || create.size == UINT64_MAX)
        create.size = source->size;
    ret = qc_convert(source, name, &o, &done, err);
    if (result)
        qc_stats_out(result, &done, sizeof(done));
    return ret;
}
