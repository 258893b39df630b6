/* SPDX-License-Identifier: MIT */
/* Converting: a target is made or opened, what the source shows is moved into it, and then it counts. */
#include "ops/convert.h"

#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>

#include "chain/bitmaps_copy.h"
#include "chain/names.h"
#include "chain/tip.h"
#include "ops/create.h"
#include "ops/move.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/escape.h"

#define SPARSE_BYTES 4096

struct converting {
    qchain                    *from, *to;
    const qchain_convert_opts *o;
    const char                *name;
    struct qc_creating        *making; /* NULL: the target was there */
    qchain_job_result         *done;
    qchain_error              *err;
};

static bool has(const struct converting *v, uint32_t flag)
{
    return v->o->flags & flag;
}

/* ------------------------------------------------------------------ target --- */

static bool is_file_of(const qchain *c, const struct stat *st)
{
    for (uint32_t i = 0; i < c->n_sources; i++)
        if (c->source[i].has_inode && c->source[i].inode == st->st_ino && c->source[i].device == st->st_dev)
            return true;
    return false;
}

/* A target that is read, or made anew while it is read, would be the end of it. */
static int check_target(const struct converting *v, const char *name, const char *relative_to)
{
    struct qc_escaped text;
    struct qc_name n = {0};
    struct stat st;
    char *path = NULL;
    int ret = qc_name_parse(&n, name, v->err);

    if (ret == 0 && n.path && !n.is_url) {
        path = relative_to ? qc_name_resolve(relative_to, n.path) : qc_strdup(n.path);
        if (!path)
            ret = qc_fail_nomem(v->err);
        else if (stat(path, &st) == 0 && is_file_of(v->from, &st))
            ret = qc_fail(v->err, QCHAIN_E_INVAL, "%s: is a layer of the image that is read",
                          qc_name_shown(&text, path));
    }
    qc_free(path);
    qc_name_finish(&n);
    return ret;
}

/* Nothing is promised of a new image until it has its name, so nothing is ordered before. */
static int make_target(struct converting *v)
{
    const qchain_create_opts *create = v->o->create;
    uint32_t flags = v->o->open->flags & QCHAIN_OPEN_DIRECT;
    int ret = qc_create_begin(&v->making, v->from->env, v->name, create, v->err);

    if (ret != 0)
        return ret;
    if (!qc_create_in_place(v->making) || has(v, QCHAIN_CONVERT_UNSAFE))
        flags |= QCHAIN_OPEN_UNSAFE;
    return qc_create_open(v->making, flags, &v->to, v->err);
}

static int open_target(struct converting *v)
{
    qchain_open_opts open = *v->o->open;

    open.flags |= QCHAIN_OPEN_WRITE | QCHAIN_OPEN_NO_INDEX;
    if (has(v, QCHAIN_CONVERT_UNSAFE))
        open.flags |= QCHAIN_OPEN_UNSAFE;
    if (!open.format && v->o->create->format)
        open.format = v->o->create->format;
    return qc_chain_open(&v->to, v->from->env, v->name, &open, v->err);
}

static int get_target(struct converting *v)
{
    const qchain_create_opts *create = v->o->create;
    int ret = check_target(v, v->name, NULL);

    if (ret == 0 && !has(v, QCHAIN_CONVERT_EXISTING) && create->data_file)
        ret = check_target(v, create->data_file, v->name);
    if (ret == 0)
        ret = has(v, QCHAIN_CONVERT_EXISTING) ? open_target(v) : make_target(v);
    if (ret == 0 && v->to->size < v->from->size)
        ret = qc_fail(v->err, QCHAIN_E_NOSPACE, "output file is smaller than input file");
    if (ret == 0 && has(v, QCHAIN_CONVERT_COMPRESS) && (!v->to->tip->ops->write_compressed || v->to->tip->img->data_store))
        ret = qc_fail(v->err, QCHAIN_E_UNSUPPORTED, "Compression not supported for this file format");
    return ret;
}

/* Make it count, once all is in it. */
static int finish_target(struct converting *v)
{
    int ret = qc_chain_finish(v->to, v->err);

    qc_chain_close(v->to);
    v->to = NULL;
    if (ret == 0 && v->making)
        ret = qc_create_commit(v->making, !has(v, QCHAIN_CONVERT_UNSAFE), v->err);
    return ret;
}

/* -------------------------------------------------------------------- data --- */

/* The number of the source's layer that is the target's backing file, or that of its layers. */
static uint32_t find_backing(const struct converting *v)
{
    const struct qc_source *b = &v->to->source[v->to->layer[1].source];

    for (uint32_t k = 1; k < v->from->n_layers; k++) {
        const struct qc_source *s = &v->from->source[v->from->layer[k].source];

        if (s->has_inode && b->has_inode ? s->inode == b->inode && s->device == b->device
                                         : strcmp(s->name, b->name) == 0)
            return k;
    }
    return v->from->n_layers;
}

/* Does all of the target read as zeros as it is? */
static bool is_zero(const struct converting *v)
{
    if (has(v, QCHAIN_CONVERT_IS_ZERO))
        return true;
    return v->making && v->to->n_layers == 1 &&
           !(qc_create_in_place(v->making) && v->to->layer[0].cluster_size == 0) &&
           !v->to->tip->img->data_store;
}

/* What is moved: all that shows, or, over a backing file, what lies above it: where that is none of the source's
 * layers it stands for all but the top. */
static void choose(struct converting *v, struct qc_move *m)
{
    uint64_t sparse = v->o->sparse_bytes ? v->o->sparse_bytes : SPARSE_BYTES;

    *m = (struct qc_move){.from = v->from, .to = v->to, .below = v->from->n_layers + 1, .end = v->from->size,
                          .threads = v->o->threads, .job = v->o->job};
    if (v->to->n_layers > 1 && (v->making || v->o->create->backing_file)) {
        m->below = find_backing(v);
        if (m->below == v->from->n_layers)
            m->below = 1;
    }
    if (sparse != UINT64_MAX) {
        m->flags |= QC_MOVE_DETECT_ZEROS;
        m->sparse_bytes = sparse;
        if (is_zero(v))
            m->flags |= QC_MOVE_SKIP_ZEROS;
    } else {
        m->flags |= QC_MOVE_WRITE_ZEROS;
    }
    if (has(v, QCHAIN_CONVERT_COMPRESS))
        m->flags |= QC_MOVE_COMPRESS | QC_MOVE_KEEP_STREAMS;
    if (has(v, QCHAIN_CONVERT_SALVAGE))
        m->flags |= QC_MOVE_SALVAGE;
    if (!has(v, QCHAIN_CONVERT_UNSAFE))
        m->flags |= QC_MOVE_WRITE_BEHIND;
}

/* Sharing looks at no bytes: not where somebody wants to know what they are. */
static bool may_share(const struct converting *v)
{
    if (v->to->layer[0].cluster_size != 0 || v->from->tip || has(v, QCHAIN_CONVERT_SALVAGE))
        return false;
    return has(v, QCHAIN_CONVERT_OFFLOAD) || v->o->sparse_bytes == 0;
}

static int move_data(struct converting *v)
{
    struct qc_ranges left = {0};
    struct qc_move m;
    uint64_t shared = 0, total;
    int ret = 0;

    choose(v, &m);
    if (v->from->size == 0)
        return 0;
    if (!may_share(v)) {
        ret = qc_move_run(&m, v->err);
        *v->done = m.done;
        return ret;
    }
    m.began_ns = qc_now_ns();
    qc_job_begin(v->o->job, v->from->size);
    ret = qc_convert_share(v->from, v->to, m.flags & QC_MOVE_SKIP_ZEROS, has(v, QCHAIN_CONVERT_OFFLOAD), v->o->job,
                           &left, &shared, v->err);
    total = shared; /* what is neither shared nor left takes no time */
    for (size_t i = 0; i < left.n; i++)
        total += left.r[i].end - left.r[i].start;
    qc_job_total(v->o->job, total);
    for (size_t i = 0; ret == 0 && i < left.n; i++) {
        m.start = left.r[i].start;
        m.end = left.r[i].end;
        ret = qc_move_run(&m, v->err);
    }
    m.done.copied += shared;
    *v->done = m.done;
    qc_free(left.r);
    return ret;
}

/* --------------------------------------------------------------------- all --- */

static int convert(struct converting *v)
{
    bool skip = has(v, QCHAIN_CONVERT_SKIP_BROKEN);
    int ret = has(v, QCHAIN_CONVERT_BITMAPS) ? qc_bitmaps_check_copy(v->from, skip, v->err) : 0;

    if (ret == 0)
        ret = get_target(v);
    if (ret == 0 && has(v, QCHAIN_CONVERT_BITMAPS) && !v->to->tip->ops->bitmaps_list)
        ret = qc_fail(v->err, QCHAIN_E_UNSUPPORTED, "Format driver '%s' does not support bitmaps",
                      v->to->layer[0].format->name);
    if (ret == 0)
        ret = move_data(v);
    if (ret == 0 && has(v, QCHAIN_CONVERT_BITMAPS))
        ret = qc_bitmaps_copy(v->to, v->from, skip, v->err);
    if (ret == 0) {
        v->done->layers = v->to->n_layers;
        ret = finish_target(v);
    }
    return ret;
}

int qc_convert(qchain *source, const char *name, const qchain_convert_opts *o, qchain_job_result *done,
               qchain_error *err)
{
    struct converting v = {.from = source, .o = o, .name = name, .done = done, .err = err};
    int ret = convert(&v);

    if (v.to)
        (void)qc_tip_end(v.to, true, NULL);
    qc_chain_close(v.to);
    qc_create_end(v.making);
    return ret;
}
