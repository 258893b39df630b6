/* SPDX-License-Identifier: MIT */
#include "ops/rebase.h"

#include <string.h>
#include <sys/stat.h>

#include "chain/names.h"
#include "chain/tip.h"
#include "ops/move.h"
#include "util/alloc.h"
#include "util/bytes.h"

struct rebase {
    qchain                   *c;
    const qchain_rebase_opts *o;
    const char               *name;    /* NULL: no backing */
    const char               *format;
    uint32_t                  layer;   /* that it is in the chain; 0: none */
    qchain                   *against; /* it, open by itself, or NULL */
    qchain_job_result        *out;
    qchain_error             *err;
};

/* ------------------------------------------------------------------- whose --- */

static bool is_layer(const qchain *c, uint32_t k, const char *resolved, const struct stat *st)
{
    const struct qc_layer *l = &c->layer[k];
    const struct qc_source *s = &c->source[l->source];

    if (strcmp(l->name, resolved) == 0)
        return true;
    if (!st)
        return false;
    return (s->has_inode && s->inode == st->st_ino && s->device == st->st_dev) ||
           (l->real_path && strcmp(l->real_path, resolved) == 0);
}

/* Is the new backing a layer of the chain? */
static int find_layer(struct rebase *r)
{
    qchain *c = r->c;
    char *resolved = qc_name_resolve(c->layer[0].name, r->name);
    const struct stat *known = NULL;
    struct stat st;

    if (!resolved)
        return qc_fail_nomem(r->err);
    if (!qc_name_is_url(resolved) && stat(resolved, &st) == 0)
        known = &st;
    for (uint32_t k = 1; k < c->n_layers && r->layer == 0; k++)
        if (is_layer(c, k, resolved, known))
            r->layer = k;
    qc_free(resolved);
    if (r->layer && r->format && strcmp(r->format, c->layer[r->layer].format->name) != 0)
        r->layer = 0; /* other bytes, when it is read in another way */
    if (r->layer && !r->format)
        r->format = c->layer[r->layer].format->name;
    if (!r->format)
        return qc_fail(r->err, QCHAIN_E_INVAL,
                       "rebase: the format of the new backing file must be given: it is no layer of the chain");
    return 0;
}

/* Would the top stand on itself? */
static int check_loop(const struct rebase *r)
{
    const struct qc_source *top = &r->c->source[r->c->layer[0].source], *s;
    struct qc_escaped shown;

    for (uint32_t i = 0; i < r->against->n_sources; i++) {
        s = &r->against->source[i];
        if (top->has_inode ? s->has_inode && s->inode == top->inode && s->device == top->device
                           : strcmp(s->name, top->name) == 0)
            return qc_fail(r->err, QCHAIN_E_CHAIN, "rebase: '%s' stands on the image itself: the chain would have "
                           "a loop", qc_name_shown(&shown, r->name));
    }
    return 0;
}

/* It could not be opened, for a lock; which is our own if it stands on the image. */
static int who_locks(struct rebase *r, qchain_open_opts *open)
{
    qchain_error why = *r->err;
    int ret;

    open->flags |= QCHAIN_OPEN_FORCE_SHARE;
    qc_error_init(r->err);
    ret = qc_chain_open_backing(&r->against, r->c, r->name, r->format, open, r->err);
    if (ret == 0)
        ret = check_loop(r);
    if (ret == QCHAIN_E_CHAIN)
        return ret;
    *r->err = why;
    return QCHAIN_E_LOCKED;
}

/* Open the new backing as the top would open it. */
static int open_against(struct rebase *r)
{
    qchain_open_opts open = {.struct_size = sizeof(open)};
    int ret;

    if (r->o->open) {
        open.flags = r->o->open->flags &
                     (uint32_t)(QCHAIN_OPEN_FORCE_SHARE | QCHAIN_OPEN_DIRECT | QCHAIN_OPEN_NO_INDEX);
        open.max_layers = r->o->open->max_layers;
        open.policy = r->o->open->policy;
        open.resolver = r->o->open->resolver;
        open.resolver_data = r->o->open->resolver_data;
    }
    ret = qc_chain_open_backing(&r->against, r->c, r->name, r->format, &open, r->err);
    return ret == QCHAIN_E_LOCKED ? who_locks(r, &open) : ret == 0 ? check_loop(r) : ret;
}

/* ------------------------------------------------------------------ unsafe --- */

/* Does anything of [offset, end) come from below the top? */
static int relies_on(struct rebase *r, uint64_t offset, uint64_t end, bool *relies)
{
    qchain *c = r->c;
    bool blind = c->n_layers == 1 && c->tip->img->backing_name; /* what was below is not open */
    qchain_extent x[64];
    uint32_t n;
    int ret = 0;

    for (*relies = false; ret == 0 && offset < end && !*relies;) {
        uint64_t at = offset;

        ret = blind ? qc_chain_diff(c, 1, 0, offset, end, x, 64, &n, &offset, QCHAIN_MAP_NO_HOLES, r->err)
                    : qc_chain_map(c, offset, end, x, 64, &n, &offset, QCHAIN_MAP_NO_HOLES, r->err);
        for (uint32_t i = 0; ret == 0 && i < n; i++) {
            *relies |= blind ? x[i].offset > at || !(x[i].flags & QCHAIN_EXTENT_PRESENT)
                             : x[i].layer > 0 && x[i].flags & QCHAIN_EXTENT_DATA;
            at = x[i].offset + x[i].length;
        }
        *relies |= blind && at < offset;
    }
    return ret;
}

/* Can the named file be right? It is there, it opens, and it is long enough. */
static int verify(struct rebase *r)
{
    struct qc_escaped shown;
    bool relies;
    int ret = open_against(r);

    if (ret == QCHAIN_E_NOTFOUND || ret == QCHAIN_E_CORRUPT)
        r->err->code = ret = QCHAIN_E_CHAIN;
    if (ret != 0 || r->against->size >= r->c->size)
        return ret;
    ret = relies_on(r, r->against->size, r->c->size, &relies);
    if (ret == 0 && relies)
        ret = qc_fail(r->err, QCHAIN_E_CHAIN,
                      "rebase: '%s' cannot be what the image stands on: it has %llu bytes, and the image needs some "
                      "that lie behind them", qc_name_shown(&shown, r->name),
                      (unsigned long long)r->against->size);
    return ret;
}

/* -------------------------------------------------------------------- safe --- */

static int move(struct rebase *r)
{
    qchain *c = r->c;
    uint32_t flags = r->o->flags & QCHAIN_REBASE_COMPRESS ? QC_MOVE_COMPRESS : 0;
    uint32_t below = r->layer;
    int ret = 0;

    if (c->n_layers == 1 && c->tip->img->backing_name)
        return qc_fail(r->err, QCHAIN_E_INVAL,
                       "rebase: the chain was opened without its backing file, from which data would be copied");
    if (!r->name) {
        below = c->n_layers;
        flags |= QC_MOVE_SKIP_ZEROS | QC_MOVE_KEEP_STREAMS;
        flags |= r->o->flags & QCHAIN_REBASE_COMPARE ? QC_MOVE_DETECT_ZEROS : 0;
    } else if (r->layer && !(r->o->flags & QCHAIN_REBASE_COMPARE)) {
        flags |= QC_MOVE_KEEP_STREAMS;
    } else {
        ret = open_against(r);
        below = r->layer ? r->layer : c->n_layers + 1;
        flags |= QC_MOVE_COMPARE;
    }
    return ret == 0 ? qc_restack_move(c, below, flags, r->o->threads, r->against, r->o->job, r->out, r->err) : ret;
}

static int rebase(struct rebase *r)
{
    bool unsafe = r->o->flags & QCHAIN_REBASE_UNSAFE;
    uint64_t size = 0;
    int ret = r->name ? find_layer(r) : 0;

    if (ret == 0 && !unsafe)
        ret = move(r);
    else if (ret == 0 && r->name && !(r->o->flags & QCHAIN_REBASE_FORCE))
        ret = verify(r);
    if (ret != 0)
        return ret;
    if (r->name)
        size = r->against ? r->against->size : r->layer ? r->c->layer[r->layer].virtual_size : UINT64_MAX;
    return qc_restack_switch(r->c, r->name, r->name ? r->format : NULL, size, r->err);
}

int qc_rebase(qchain *c, const qchain_rebase_opts *o, qchain_job_result *out, qchain_error *err)
{
    struct rebase r = {.c = c, .o = o, .format = o->backing_format, .out = out, .err = err};
    int ret = qc_restack_begin(c, "rebase", err);

    if (ret != 0)
        return ret;
    r.name = o->backing_file && *o->backing_file ? o->backing_file : NULL;
    ret = rebase(&r);
    if (ret == 0)
        out->layers = !r.name ? 1 : r.layer ? c->n_layers - r.layer + 1 : r.against ? r.against->n_layers + 1 : 0;
    qc_chain_close(r.against);
    qc_restack_end(c);
    return ret;
}
