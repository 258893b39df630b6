/* SPDX-License-Identifier: MIT */
/*
 * Writing what layers hold into the layer below them. The order, which each kill leaves a chain with the same bytes:
 * the base grows | the data is written, and made durable | the top is emptied. Until the last step what was written is
 * hidden by where it came from; running again does it again.
 */
#include "ops/commit.h"

#include "chain/names.h"
#include "chain/open.h"
#include "chain/tip.h"
#include "ops/job.h"
#include "ops/move.h"

struct commit {
    const qchain_commit_opts *opts;
    qchain *above; /* the layers above the base, the top open for writing if it may be emptied */
    qchain *base;  /* the base, open for writing, and what is below */
};

/* No file may be in both parts: within each that was looked at when it was opened. */
static int check_loop(const struct commit *k, qchain_error *err)
{
    struct qc_escaped shown;

    for (uint32_t i = 0; i < k->base->n_sources; i++)
        for (uint32_t n = 0; n < k->above->n_sources; n++) {
            const struct qc_source *a = &k->above->source[n], *b = &k->base->source[i];

            if (b->has_inode && a->has_inode && a->inode == b->inode && a->device == b->device)
                return qc_fail(err, QCHAIN_E_CHAIN, "'%s' lies above the base, and below it: the chain has a loop",
                               qc_name_shown(&shown, b->name));
        }
    return 0;
}

/* How the parts are opened: space that is not needed any more goes to the file system, as ever with commit. */
static int open_parts(struct commit *k, qchain_env *env, const char *name, const qchain_open_opts *open,
                      qchain_error *err)
{
    struct qc_split split = {.base = k->opts->base};
    qchain_open_opts o = *open;
    int ret;

    o.flags |= QCHAIN_OPEN_DISCARD;
    if (!(k->opts->flags & QCHAIN_COMMIT_KEEP))
        o.flags |= QCHAIN_OPEN_WRITE;
    ret = qc_chain_open_upper(&k->above, env, name, &o, &split, err);
    if (ret != 0)
        return ret;
    ret = qc_chain_open_lower(&k->base, k->above, &o, &split, err);
    if (ret != 0)
        qc_error_prefix(err, -1, "base: ");
    qc_split_finish(&split);
    return ret == 0 ? check_loop(k, err) : ret;
}

static int move(struct commit *k, qchain_job_result *result, qchain_error *err)
{
    struct qc_move m = {.from = k->above, .to = k->base, .below = k->above->n_layers, .end = k->above->size,
                        .flags = QC_MOVE_KEEP_STREAMS | QC_MOVE_EXACT | QC_MOVE_STILL, .threads = k->opts->threads,
                        .job = k->opts->job};
    int ret = 0;

    if (!(k->base->open_flags & QCHAIN_OPEN_UNSAFE))
        m.flags |= QC_MOVE_WRITE_BEHIND;
    /* What the layers above have behind the base's end was zeros below them, and is so in what the base gets. */
    if (k->above->size > k->base->size)
        ret = qc_chain_resize(k->base, k->above->size, false, err);
    if (ret == 0)
        ret = qc_move_run(&m, err);
    *result = m.done;
    return ret;
}

static int commit(struct commit *k, qchain_job_result *result, qchain_error *err)
{
    bool empty = k->above->tip && k->above->n_layers == 1;
    int ret = move(k, result, err);

    if (ret == 0)
        ret = qc_chain_finish(k->base, err);
    /* From here on it is done, whether or not somebody wants it to end. */
    if (ret == 0 && empty)
        ret = qc_chain_make_empty(k->above, err);
    if (ret == 0 && k->above->tip)
        ret = qc_chain_finish(k->above, err);
    result->layers = k->above->n_layers + k->base->n_layers;
    return ret;
}

static void close_part(qchain *c)
{
    if (c && c->tip)
        (void)qc_tip_end(c, true, NULL);
    qc_chain_close(c);
}

int qc_commit(qchain_env *env, const char *name, const qchain_commit_opts *opts, const qchain_open_opts *open,
              qchain_job_result *result, qchain_error *err)
{
    struct commit k = {.opts = opts};
    int ret = open_parts(&k, env, name, open, err);

    if (ret == 0)
        ret = commit(&k, result, err);
    close_part(k.base);
    close_part(k.above);
    return ret;
}
