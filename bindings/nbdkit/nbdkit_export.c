/* SPDX-License-Identifier: MIT */
/* nbdkit_export.c - one chain an export, shared by its connections; the environment of all. */
#include <errno.h>
#include <string.h>
#include <sys/resource.h>

#include "nbdkit_qchain.h"

int qchain_debug_log;

static qchain_env *env;

/* ----------------------------------------------------------------- environment --- */

/* Failures are told by the calls that fail. What else people must hear is that a cache that they asked for cannot be
 * had, though all works without it. */
static void log_line(void *data, int level, const char *tag, const char *message)
{
    (void)data;
    if (level <= QCHAIN_LOG_WARN && strcmp(tag, "cache") == 0)
        nbdkit_error("%s: %s", tag, message);
    else
        nbdkit_debug("%s: %s", tag, message);
}

static int make_env(qchain_env **out)
{
    qchain_env_opts o;
    struct rlimit rl;

    qchain_env_opts_init(&o, sizeof(o));
    o.policy = qcn_config.policy;
    o.remote = qcn_config.remote;
    o.log = log_line;
    o.log_level = qchain_debug_log > 0 ? (uint32_t)qchain_debug_log : QCHAIN_LOG_WARN;
    /* Connections need descriptors, too. */
    if (getrlimit(RLIMIT_NOFILE, &rl) == 0 && rl.rlim_cur != RLIM_INFINITY && rl.rlim_cur >= 64)
        o.max_open_files = (uint32_t)(rl.rlim_cur < PROGRAM_MAX_FILES ? rl.rlim_cur : PROGRAM_MAX_FILES) / 4 * 3;
    return qchain_env_create(out, &o, qcn_error());
}

int qcn_start(void)
{
    program_raise_file_limit();
    return make_env(&env) == 0 ? 0 : qcn_fail(NULL, 0);
}

void qcn_end(void)
{
    size_t i;

    for (i = 0; i < qcn_config.n_exports; i++) {
        qchain_close(qcn_config.exports[i].c);
        qcn_config.exports[i].c = NULL;
    }
    qchain_env_destroy(env);
    env = NULL;
}

/* --------------------------------------------------------------------- opening --- */

static void prepare(const struct qcn_export *e, bool write, qchain_open_opts *o)
{
    const struct qcn_config *f = &qcn_config;

    qchain_open_opts_init(o, sizeof(*o));
    o->format = f->format;
    o->snapshot = f->snapshot;
    o->index = *e->name == '\0' ? f->index : NULL;
    o->flags = f->flags;
    if (write)
        o->flags |= QCHAIN_OPEN_WRITE | QCHAIN_OPEN_DISCARD;
    else
        o->flags &= ~(uint32_t)(QCHAIN_OPEN_WRITETHROUGH | QCHAIN_OPEN_UNSAFE | QCHAIN_OPEN_COPY_ON_READ);
}

/* A guest that may write to a raw disk could make it look like a qcow2 image, which the next open would believe. */
static bool may_write(const qchain_image_info *top)
{
    if (top->version != 0 || qcn_config.format)
        return true;
    nbdkit_error("'%s' has no format that is known, so it is raw, or so it seems: to write to it say format=raw", top->name);
    nbdkit_set_error(EPERM);
    return false;
}

/* What must be known of an open chain. */
static int look_at_chain(struct qcn_export *e)
{
    qchain_image_info *top;
    uint32_t i;
    int r;

    if (qchain_layer_info(&top, e->c, 0, qcn_error()) != 0)
        return qcn_fail(NULL, 0);
    e->unit = top->subcluster_size > 4096 ? top->subcluster_size : 4096;
    e->fast_unit = top->version >= 3 && !(top->flags & QCHAIN_IMAGE_DATA_FILE_RAW) ? top->subcluster_size : 0;
    e->far = false;
    for (i = 0; qchain_source_name(e->c, i); i++)
        e->far = e->far || program_is_url(qchain_source_name(e->c, i));
    r = !e->writable || may_write(top) ? 0 : -1;
    qchain_image_info_free(top);
    return r;
}

static int open_export(struct qcn_export *e, bool write)
{
    qchain_open_opts o;

    prepare(e, write, &o);
    e->stale = false;
    e->writable = write;
    if (qchain_open(&e->c, env, e->image, &o, qcn_error()) != 0)
        return qcn_fail(NULL, 0);
    if (look_at_chain(e) == 0)
        return 0;
    qchain_close(e->c);
    e->c = NULL;
    return -1;
}

static void close_export(struct qcn_export *e)
{
    if (e->writable && qchain_finish(e->c, qcn_error()) != 0)
        qcn_fail(NULL, 0);
    qchain_close(e->c);
    e->c = NULL;
}

/* ----------------------------------------------------------------- connections --- */

struct qcn_export *qcn_export_find(const char *name)
{
    struct qcn_config *f = &qcn_config;
    size_t i;

    /* One image: whatever clients call it. */
    if (f->n_exports == 1 && f->has_default)
        return &f->exports[0];
    for (i = 0; i < f->n_exports; i++)
        if (strcmp(f->exports[i].name, name) == 0)
            return &f->exports[i];
    return NULL;
}

int qcn_export_use(struct qcn_export *e, bool read_only)
{
    int r = 0;

    pthread_mutex_lock(&e->lock);
    if (!e->c)
        r = open_export(e, qcn_config.write && !read_only);
    if (r == 0)
        e->users++;
    pthread_mutex_unlock(&e->lock);
    return r;
}

/* One that is read stays open for the next connection. One that is written is ended, so that it is whole, and free for
 * others, while nobody uses it. */
void qcn_export_leave(struct qcn_export *e)
{
    pthread_mutex_lock(&e->lock);
    if (--e->users == 0 && (e->writable || __atomic_load_n(&e->stale, __ATOMIC_RELAXED)))
        close_export(e);
    pthread_mutex_unlock(&e->lock);
}

/* ------------------------------------------------------------------- beforehand --- */

/* What would fail at the first connection is told now, while somebody reads it. Of images behind URLs only the top is
 * looked at: each layer below would cost a round trip, twice. */
static int look_at(struct qcn_export *e, qchain_env *own)
{
    qchain_image_info *info;
    qchain_open_opts o;
    int r;

    prepare(e, false, &o);
    if (program_is_url(e->image)) {
        r = qchain_inspect(&info, own, e->image, &o, qcn_error());
        if (r == 0)
            qchain_image_info_free(info);
        return r == 0 ? 0 : qcn_fail(NULL, 0);
    }
    if (qchain_open(&e->c, own, e->image, &o, qcn_error()) != 0)
        return qcn_fail(NULL, 0);
    e->writable = qcn_config.write;
    r = look_at_chain(e);
    qchain_close(e->c);
    e->c = NULL;
    return r;
}

int qcn_look(void)
{
    qchain_env *own;
    size_t i;
    int r = 0;

    if (make_env(&own) != 0)
        return qcn_fail(NULL, 0);
    for (i = 0; r == 0 && i < qcn_config.n_exports; i++)
        r = look_at(&qcn_config.exports[i], own);
    qchain_env_destroy(own);
    return r;
}
