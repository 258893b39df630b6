/* SPDX-License-Identifier: MIT */
/* The door to chains: argument checks, defaults, the fork rule. */
#include <string.h>

#include "api/api.h"
#include "chain/chain.h"
#include "chain/recorder.h"
#include "chain/tip.h"
#include "util/alloc.h"

#define KNOWN_OPEN                                                                                 \
    (QCHAIN_OPEN_FORCE_SHARE | QCHAIN_OPEN_DIRECT | QCHAIN_OPEN_NO_BACKING |                       \
     QCHAIN_OPEN_SALVAGE | QCHAIN_OPEN_WRITE | QCHAIN_OPEN_FD | QCHAIN_OPEN_NO_INDEX |            \
     QCHAIN_OPEN_WRITETHROUGH | QCHAIN_OPEN_UNSAFE | QCHAIN_OPEN_DISCARD |       \
     QCHAIN_OPEN_NO_READ_AHEAD | QCHAIN_OPEN_COPY_ON_READ)
#define MAX_PIECES 1024

void qchain_open_opts_init(qchain_open_opts *o, size_t size)
{
    qc_opts_init(o, size);
}

int qc_open_opts_check(const char *name, const qchain_open_opts *o, qchain_error *err)
{
    if (o->flags & ~(uint32_t)KNOWN_OPEN || o->reserved0)
        return qc_fail(err, QCHAIN_E_INVAL, "open: unknown flags 0x%x or reserved fields set",
                       o->flags);
    if (o->flags & QCHAIN_OPEN_WRITE && (o->snapshot || o->flags & QCHAIN_OPEN_SALVAGE))
        return qc_fail(err, QCHAIN_E_INVAL,
                       "open: an internal snapshot, or with salvaging, can only be read");
    if (o->flags & QCHAIN_OPEN_COPY_ON_READ && !(o->flags & QCHAIN_OPEN_WRITE))
        return qc_fail(err, QCHAIN_E_INVAL, "open: copy-on-read needs the top open for writing (QCHAIN_OPEN_WRITE)");
    if (o->flags & QCHAIN_OPEN_FD && (o->store || o->fd < 0))
        return qc_fail(err, QCHAIN_E_INVAL, "open: the top is either a descriptor or a store");
    if (o->store && !o->store->ops)
        return qc_fail(err, QCHAIN_E_INVAL, "open: the store has no ops");
    if (!name && !o->store && !(o->flags & QCHAIN_OPEN_FD))
        return qc_fail(err, QCHAIN_E_INVAL, "open: no image is named");
    if (o->max_layers > 65535)
        return qc_fail(err, QCHAIN_E_INVAL, "open: max_layers=%u: at most 65535", o->max_layers);
    return 0;
}

/* The caller's store becomes ours, also when the call is wrong. */
static void close_store(const qchain_open_opts *o)
{
    if (o->store && o->store->ops && o->store->ops->close)
        o->store->ops->close(o->store->obj);
}

/* Check the arguments and find the environment; *own says that it was made here. */
static int begin_open(const void *out, qchain_env **env, bool *own, const char *name,
                      qchain_open_opts *o, const qchain_open_opts *opts, qchain_error *err)
{
    int ret = qc_opts_copy(o, sizeof(*o), opts, err);

    if (ret == 0 && !out)
        ret = qc_fail(err, QCHAIN_E_INVAL, "open: out is NULL");
    if (ret == 0)
        ret = qc_open_opts_check(name, o, err);
    *own = ret == 0 && !*env;
    if (*own)
        ret = qchain_env_create(env, NULL, err);
    if (ret != 0)
        close_store(o);
    return ret;
}

int qchain_open(qchain **out, qchain_env *env, const char *name, const qchain_open_opts *opts,
                qchain_error *err)
{
    qchain_open_opts o;
    bool own;
    int ret;

    QC_ERR(err);
    if (out)
        *out = NULL;
    ret = begin_open(out, &env, &own, name, &o, opts, err);
    if (ret != 0)
        return ret;
    ret = qc_chain_open(out, env, name, &o, err);
    if (ret == 0)
        (*out)->owns_env = own;
    else if (own)
        qc_env_destroy(env);
    return ret;
}

void qchain_close(qchain *c)
{
    qchain_env *env;

    /* In a forked child nothing here is ours to take apart. */
    if (!c || qc_env_forked(c->env))
        return;
    env = c->owns_env ? c->env : NULL;
    if (c->tip)
        (void)qc_tip_end(c, true, NULL); /* who wants to know calls qchain_finish */
    qc_chain_close(c);
    qc_env_destroy(env);
}

uint64_t qchain_size(const qchain *c)
{
    return c ? c->size : 0;
}

uint32_t qchain_layers(const qchain *c)
{
    return c ? c->n_layers : 0;
}

qchain_env *qchain_get_env(qchain *c)
{
    return c ? c->env : NULL;
}

const char *qchain_source_name(const qchain *c, uint32_t source)
{
    const struct qc_source *s = c && source < c->n_sources ? &c->source[source] : NULL;

    if (!s)
        return NULL;
    return s->shown ? s->shown : s->name;
}

int qchain_inspect(qchain_image_info **out, qchain_env *env, const char *name,
                   const qchain_open_opts *opts, qchain_error *err)
{
    qchain_image_info *info = NULL;
    qchain_open_opts o;
    bool own;
    int ret;

    QC_ERR(err);
    if (out)
        *out = NULL;
    ret = begin_open(out, &env, &own, name, &o, opts, err);
    if (ret != 0)
        return ret;
    info = qc_calloc(1, sizeof(*info));
    if (info) {
        info->struct_size = sizeof(*info);
        ret = qc_chain_inspect(info, env, name, &o, err);
    } else {
        close_store(&o);
        ret = qc_fail_nomem(err);
    }
    if (ret == 0)
        *out = info;
    else
        qchain_image_info_free(info);
    if (own)
        qc_env_destroy(env);
    return ret;
}

int qchain_layer_info(qchain_image_info **out, qchain *c, uint32_t layer, qchain_error *err)
{
    qchain_image_info *info;
    int ret;

    QC_ERR(err);
    if (!out || !c)
        return qc_fail(err, QCHAIN_E_INVAL, "qchain_layer_info: an argument is NULL");
    *out = NULL;
    if (qc_env_forked(c->env))
        return qc_fail_forked(err);
    if (layer >= c->n_layers)
        return qc_fail(err, QCHAIN_E_RANGE, "layer #%u: the chain has %u layers", layer,
                       c->n_layers);
    info = qc_calloc(1, sizeof(*info));
    if (!info)
        return qc_fail_nomem(err);
    info->struct_size = sizeof(*info);
    ret = qc_layer_describe(info, c, layer, err);
    if (ret == 0)
        *out = info;
    else
        qchain_image_info_free(info);
    return ret;
}

void qchain_image_info_free(qchain_image_info *info)
{
    if (!info)
        return;
    qc_info_finish(info);
    qc_free(info);
}

/* Checks that map and diff share; *end receives where the range ends. */
static int check_map(const qchain *c, uint64_t offset, uint64_t length, const void *extents,
                     uint32_t max, const uint32_t *n, const uint64_t *next, uint32_t flags,
                     uint64_t *end, qchain_error *err)
{
    if (!c || !extents || max == 0 || !n || !next)
        return qc_fail(err, QCHAIN_E_INVAL, "map: an argument is NULL, or max is 0");
    if (flags & ~(uint32_t)(QCHAIN_MAP_NO_HOLES | QCHAIN_MAP_CLUSTERS))
        return qc_fail(err, QCHAIN_E_INVAL, "map: unknown flags 0x%x", flags);
    if (qc_env_forked(c->env))
        return qc_fail_forked(err);
    if (offset > c->size)
        return qc_fail(err, QCHAIN_E_RANGE,
                       "map: offset %llu lies beyond the disk's %llu bytes",
                       (unsigned long long)offset, (unsigned long long)c->size);
    *end = length > c->size - offset ? c->size : offset + length;
    return 0;
}

int qchain_map(qchain *c, uint64_t offset, uint64_t length, qchain_extent *extents, uint32_t max,
               uint32_t *n, uint64_t *next, uint32_t flags, qchain_error *err)
{
    uint64_t end;
    int ret;

    QC_ERR(err);
    ret = check_map(c, offset, length, extents, max, n, next, flags, &end, err);
    if (ret != 0)
        return ret;
    return qc_chain_map(c, offset, end, extents, max, n, next, flags, err);
}

int qchain_diff(qchain *c, uint32_t below, uint32_t upto, uint64_t offset, uint64_t length,
                qchain_extent *extents, uint32_t max, uint32_t *n, uint64_t *next, uint32_t flags,
                qchain_error *err)
{
    uint64_t end;
    int ret;

    QC_ERR(err);
    ret = check_map(c, offset, length, extents, max, n, next, flags, &end, err);
    if (ret != 0)
        return ret;
    if (upto >= below || below > c->n_layers)
        return qc_fail(err, QCHAIN_E_INVAL,
                       "diff: from below layer %u up to layer %u makes no sense in a chain of %u",
                       below, upto, c->n_layers);
    return qc_chain_diff(c, below, upto, offset, end, extents, max, n, next, flags, err);
}

static int check_read(const qchain *c, uint64_t length, uint64_t offset, uint32_t flags,
                      qchain_error *err)
{
    if (flags != 0)
        return qc_fail(err, QCHAIN_E_INVAL, "read: unknown flags 0x%x", flags);
    if (qc_env_forked(c->env))
        return qc_fail_forked(err);
    if (offset > c->size || length > c->size - offset)
        return qc_fail(err, QCHAIN_E_RANGE,
                       "read: %llu bytes at %llu reach beyond the disk's %llu bytes",
                       (unsigned long long)length, (unsigned long long)offset,
                       (unsigned long long)c->size);
    return 0;
}

int qchain_read(qchain *c, void *buf, size_t length, uint64_t offset, uint32_t flags,
                qchain_error *err)
{
    qchain_iov iov = {buf, length};
    int ret;

    QC_ERR(err);
    if (!c || (!buf && length > 0))
        return qc_fail(err, QCHAIN_E_INVAL, "read: an argument is NULL");
    ret = check_read(c, length, offset, flags, err);
    if (ret != 0)
        return ret;
    qc_count_bytes(c->env->slots, QC_CNT_READS, length);
    qc_note_read(c, offset, length);
    return qc_chain_readv(c, &iov, 1, length, offset, QC_CHAIN_READ_KEEP, err);
}

int qchain_readv(qchain *c, const qchain_iov *iov, uint32_t n_iov, uint64_t offset, uint32_t flags,
                 qchain_error *err)
{
    uint64_t length = 0;
    int ret;

    QC_ERR(err);
    if (!c || (!iov && n_iov > 0) || n_iov > MAX_PIECES)
        return qc_fail(err, QCHAIN_E_INVAL, "read: an argument is NULL, or more than %d pieces",
                       MAX_PIECES);
    for (uint32_t i = 0; i < n_iov; i++) {
        if (iov[i].len > INT64_MAX - length || (!iov[i].base && iov[i].len))
            return qc_fail(err, QCHAIN_E_INVAL, "read: piece %u is wrong", i);
        length += iov[i].len;
    }
    ret = check_read(c, length, offset, flags, err);
    if (ret != 0)
        return ret;
    qc_count_bytes(c->env->slots, QC_CNT_READS, length);
    qc_note_read(c, offset, length);
    return qc_chain_readv(c, iov, n_iov, (size_t)length, offset, QC_CHAIN_READ_KEEP, err);
}
