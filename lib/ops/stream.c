/* SPDX-License-Identifier: MIT */
/* Pulling what is below into the top, down to a layer; and merging small layers before an upload. */
#include <stdlib.h>
#include <string.h>

#include "chain/names.h"
#include "chain/tip.h"
#include "ops/move.h"
#include "ops/rebase.h"
#include "util/alloc.h"
#include "util/bytes.h"

#define DEFAULT_LIMIT UINT64_C(300000000)
#define BATCH 256

/* -------------------------------------------------------------------- names --- */

/* Is it one name wherever it is written? */
static bool is_absolute(const char *name)
{
    return name[0] == '/' || qc_name_scheme(name) > 0;
}

/* resolved, as an image in the directory dir may record it; NULL: not without leaving the directory. */
static char *beneath(const char *resolved, const char *dir)
{
    size_t n = strlen(dir);

    if (strcmp(dir, ".") == 0 && !is_absolute(resolved) && strncmp(resolved, "../", 3) != 0)
        return qc_strdup(resolved);
    if (strncmp(resolved, dir, n) != 0 || resolved[n] != '/')
        return NULL;
    while (resolved[n] == '/')
        n++;
    return qc_strdup(resolved + n);
}

/* The name of layer k as the layer above it has it, but as seen from the top. To be freed. */
static int name_for_top(qchain *c, uint32_t k, char **name, qchain_error *err)
{
    const struct qc_image *above = qc_layer_image(c, k - 1, err);
    char *resolved, *dir_above = NULL, *dir = NULL, *real;

    *name = NULL;
    if (!above)
        return err->code;
    if (is_absolute(above->backing_name) && !qc_name_is_url(c->layer[k - 1].name)) {
        *name = qc_strdup(above->backing_name);
        return *name ? 0 : qc_fail_nomem(err);
    }
    resolved = qc_name_resolve(c->layer[k - 1].name, above->backing_name);
    dir_above = qc_name_directory(c->layer[k - 1].name);
    dir = qc_name_directory(c->layer[0].name);
    if (resolved && dir_above && dir) {
        if (strcmp(dir, dir_above) == 0)
            *name = qc_strdup(above->backing_name);
        else if (qc_name_is_url(resolved))
            *name = qc_strdup(resolved);
        else
            *name = beneath(resolved, dir);
        if (!*name) {
            real = realpath(resolved, NULL);
            *name = qc_strdup(real ? real : resolved);
            free(real);
        }
    }
    qc_free(resolved);
    qc_free(dir_above);
    qc_free(dir);
    return *name ? 0 : qc_fail_nomem(err);
}

/* ------------------------------------------------------------------- stream --- */

static int stream(qchain *c, uint32_t base, qchain_job *job, qchain_job_result *out, qchain_error *err)
{
    bool all = base == c->n_layers;
    char *name = NULL;
    int ret;

    if (base == 1 || (c->n_layers == 1 && !c->tip->img->backing_name))
        return 0;
    if (c->n_layers == 1)
        return qc_fail(err, QCHAIN_E_INVAL, "stream: the chain was opened without its backing file, from which data "
                       "would be copied");
    ret = all ? 0 : name_for_top(c, base, &name, err);
    if (ret == 0)
        ret = qc_restack_move(c, base, QC_MOVE_KEEP_STREAMS | (all ? QC_MOVE_SKIP_ZEROS : 0), 0, NULL, job, out,
                              err);
    if (ret == 0)
        ret = qc_restack_switch(c, name, all ? NULL : c->layer[base].format->name,
                                all ? 0 : c->layer[base].virtual_size, err);
    qc_free(name);
    if (ret == 0)
        out->layers = c->n_layers - base + 1;
    return ret;
}

int qc_stream(qchain *c, uint32_t base, qchain_job *job, qchain_job_result *out, qchain_error *err)
{
    int ret = qc_restack_begin(c, "stream", err);

    if (ret != 0)
        return ret;
    out->layers = c->n_layers;
    if (base == 0 || base > c->n_layers)
        ret = qc_fail(err, QCHAIN_E_INVAL, "stream: layer #%u is not below the top: the chain has %u layers", base,
                      c->n_layers);
    else
        ret = stream(c, base, job, out, err);
    qc_restack_end(c);
    return ret;
}

/* -------------------------------------------------------------------- merge --- */

/* Bytes that a layer stores by itself, added to *sum; counting ends when it is more than limit. */
static int count_data(qchain *c, uint32_t k, uint64_t limit, qchain_job *job, uint64_t *sum, qchain_error *err)
{
    uint64_t at = 0, end = qc_min64(c->size, c->layer[k].virtual_size);
    qchain_extent x[BATCH];
    uint32_t n;
    int ret = 0;

    while (ret == 0 && at < end && *sum <= limit) {
        ret = qc_job_check(job, 0, err);
        if (ret == 0)
            ret = qc_chain_diff(c, k + 1, k, at, end, x, BATCH, &n, &at, QCHAIN_MAP_NO_HOLES | QCHAIN_MAP_CLUSTERS,
                                err);
        for (uint32_t i = 0; ret == 0 && i < n; i++)
            if (x[i].flags & QCHAIN_EXTENT_DATA)
                *sum += x[i].flags & QCHAIN_EXTENT_COMPRESSED ? x[i].host_length : x[i].length;
    }
    return ret;
}

int qc_merge(qchain *c, uint64_t limit, qchain_job *job, qchain_job_result *out, qchain_error *err)
{
    uint64_t sum = 0;
    uint32_t base = 1;
    int ret = qc_restack_begin(c, "merge", err);

    if (ret != 0)
        return ret;
    limit = limit ? limit : DEFAULT_LIMIT;
    out->layers = c->n_layers;
    while (ret == 0 && base + 1 < c->n_layers) {
        ret = count_data(c, base, limit, job, &sum, err);
        if (ret != 0 || sum > limit)
            break;
        base++;
    }
    if (ret == 0)
        ret = stream(c, base, job, out, err);
    qc_restack_end(c);
    return ret;
}
