/* SPDX-License-Identifier: MIT */
/* Taking a layer out of the chains above it. */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chain/names.h"
#include "chain/sidecar.h"
#include "chain/tip.h"
#include "ops/rebase.h"
#include "util/alloc.h"

struct removal {
    qchain_env             *env;
    const char             *name;   /* of the layer */
    char                   *below;  /* what it stands on; NULL: nothing */
    const qchain_open_opts *opts;
    qchain_job             *job;
    qchain_job_result      *out;
    qchain_error           *err;
};

/* Is layer k of the chain the file of this name? */
static bool is_file(const qchain *c, uint32_t k, const char *name)
{
    const struct qc_layer *l = &c->layer[k];
    const struct qc_source *s = &c->source[l->source];
    struct stat st;

    if (strcmp(l->name, name) == 0)
        return true;
    if (qc_name_is_url(name) || qc_name_is_url(l->name) || stat(name, &st) != 0)
        return false;
    if (s->has_inode)
        return s->inode == st.st_ino && s->device == st.st_dev;
    return l->real_path && strcmp(l->real_path, name) == 0;
}

static int wrong_child(const struct removal *r, const char *child)
{
    struct qc_escaped a, b;

    return qc_fail(r->err, QCHAIN_E_INVAL, "delete: '%s' does not stand on '%s'", qc_name_shown(&a, child),
                   qc_name_shown(&b, r->name));
}

static int rebase_child(struct removal *r, qchain *c, const char *child)
{
    qchain_job_result one = {.struct_size = sizeof(one)};
    int ret;

    if (c->n_layers < 2 || !is_file(c, 1, r->name)) {
        /* A call before this one may have come so far. */
        if (r->below ? c->n_layers > 1 && is_file(c, 1, r->below) : c->n_layers == 1)
            return 0;
        return wrong_child(r, child);
    }
    ret = qc_stream(c, 2, r->job, &one, r->err);
    r->out->copied += one.copied;
    r->out->zeroed += one.zeroed;
    r->out->compressed += one.compressed;
    return ret;
}

static int do_child(struct removal *r, const char *child)
{
    qchain_open_opts open = *r->opts;
    qchain *c = NULL;
    int ret;

    open.flags |= QCHAIN_OPEN_WRITE;
    ret = qc_chain_open(&c, r->env, child, &open, r->err);
    if (ret == 0)
        ret = rebase_child(r, c, child);
    if (ret == 0)
        ret = qc_chain_finish(c, r->err);
    if (c)
        r->out->layers = c->n_layers > 1 ? c->n_layers - 1 : 1;
    qc_chain_close(c);
    return ret;
}

/* What the layer stands on, so that a child that was done before is known. */
static int find_below(struct removal *r)
{
    qchain_open_opts open = *r->opts;
    qchain_image_info info = {.struct_size = sizeof(info)};
    int ret;

    open.format = NULL;
    ret = qc_chain_inspect(&info, r->env, r->name, &open, r->err);
    if (ret == 0 && info.backing_name_raw) {
        r->below = qc_name_resolve(r->name, info.backing_name_raw);
        if (!r->below)
            ret = qc_fail_nomem(r->err);
    }
    qc_info_finish(&info);
    return ret;
}

/* Remove the file, which nobody else may have open. */
static int remove_file(struct removal *r)
{
    qchain_open_opts open = {.struct_size = sizeof(open), .flags = r->opts->flags & QCHAIN_OPEN_FORCE_SHARE};
    struct qc_escaped shown;
    char *sidecar = NULL;
    qchain *c = NULL;
    int ret = qc_chain_open_alone(&c, r->env, r->name, &open, true, r->err);

    if (ret == 0 && c->layer[0].real_path)
        sidecar = qc_sidecar_path(c->layer[0].real_path);
    if (ret == 0 && unlink(r->name) != 0)
        ret = qc_fail_errno(r->err, errno, "'%s' cannot be removed", qc_name_shown(&shown, r->name));
    if (ret == 0 && sidecar)
        (void)unlink(sidecar); /* it speaks of nothing any more */
    qc_free(sidecar);
    qc_chain_close(c);
    return ret;
}

int qc_delete_layer(qchain_env *env, const char *layer, const char *const *children, uint32_t n, bool remove,
                    const qchain_open_opts *opts, qchain_job *job, qchain_job_result *out, qchain_error *err)
{
    struct removal r = {.env = env, .name = layer, .opts = opts, .job = job, .out = out, .err = err};
    int ret = find_below(&r);

    for (uint32_t i = 0; ret == 0 && i < n; i++)
        ret = do_child(&r, children[i]);
    if (ret == 0 && remove)
        ret = remove_file(&r);
    qc_free(r.below);
    return ret;
}
