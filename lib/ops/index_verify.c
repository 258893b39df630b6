/* SPDX-License-Identifier: MIT */
/* Does a sidecar say what the layers say? */
#include <string.h>

#include "chain/chain.h"
#include "chain/fill.h"
#include "chain/names.h"
#include "chain/sidecar.h"
#include "ops/index_build.h"
#include "ops/job.h"
#include "remote/remote.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/pool.h"

struct verifier {
    qchain          *c;
    struct qc_ixf    x;
    struct qc_store *store;
    qchain_error    *err;
};

/* ------------------------------------------------------------------ the table --- */

static int is_changed(struct verifier *v, uint32_t i, const char *what)
{
    qc_fail(v->err, QCHAIN_E_CHANGED, "%s; the index would not be believed: build it again", what);
    qc_layer_prefix(v->c, v->c->source[i].layer, v->err);
    return QCHAIN_E_CHANGED;
}

static const char *recorded_name(const qchain *c, uint32_t i)
{
    const struct qc_layer *l = &c->layer[c->source[i].layer];
    const struct qc_image *img = l->img;

    if (i != l->source)
        return img->data_file_name;
    return c->source[i].layer > 0 ? ((const struct qc_image *)(l - 1)->img)->backing_name : NULL;
}

/* Is source i the file that the index tells of? */
static int check_file(struct verifier *v, uint32_t i, const struct qc_ixf_source *s)
{
    const struct qc_store *store = qc_source_opened(v->c, i);

    if (qc_remote_is(store))
        return is_changed(v, i, "is no file, as the index tells");
    if (store->size != s->size || !(store->identity.flags & QCHAIN_IDENTITY_HAS_MTIME) ||
        store->identity.mtime_ns != s->mtime_ns)
        return is_changed(v, i, "was changed since the index was built (size or modification "
                          "time)");
    if (s->mtime_ns > UINT64_MAX - QC_SIDECAR_RACY_NS ||
        s->mtime_ns + QC_SIDECAR_RACY_NS > v->x.header.built_ns)
        return is_changed(v, i, "was modified less than two seconds before the index was built");
    return 0;
}

/* Is it the object? */
static int check_object(struct verifier *v, uint32_t i, const struct qc_ixf_source *s)
{
    const struct qc_pin *is = qc_remote_pin(qc_source_opened(v->c, i));
    struct qc_pin was;
    int ret;

    if (!is)
        return is_changed(v, i, "does not lie behind a URL, as the index tells");
    ret = qc_sidecar_pin(&was, s, v->err);
    if (ret == 0 && !qc_pin_same(&was, is))
        ret = is_changed(v, i, "was changed since the index was built (size, ETag or time)");
    return ret;
}

static int check_source(struct verifier *v, uint32_t i)
{
    const struct qc_ixf_source *s = &v->x.source[i];
    const struct qc_layer *l = &v->c->layer[v->c->source[i].layer];
    const struct qc_image *img = l->img;
    const char *name = recorded_name(v->c, i);
    int ret;

    if (s->layer != v->c->source[i].layer || (name && strcmp(name, s->name) != 0))
        return is_changed(v, i, "is another file than the index tells of");
    if ((s->flags & QC_IXF_REMOTE) != 0)
        ret = check_object(v, i, s);
    else
        ret = check_file(v, i, s);
    if (ret != 0)
        return ret;
    if (i == l->source ? s->virtual_size != l->virtual_size ||
                             s->cluster_size != l->cluster_size ||
                             s->decoder_kind != img->decoder_kind ||
                             strcmp(s->format, l->format->name) != 0
                       : !(s->flags & QC_IXF_DATA_FILE))
        return is_changed(v, i, "is another image than the index tells of");
    return 0;
}

static int check_table(struct verifier *v)
{
    const qchain *c = v->c;
    int ret = 0;

    if (v->x.header.n_layers != c->n_layers || v->x.header.n_sources != c->n_sources ||
        v->x.header.virtual_size != c->size)
        return qc_fail(v->err, QCHAIN_E_CHANGED, "tells of %u layers in %u files and a disk of "
                       "%llu bytes, the chain has %u, %u and %llu: build it again",
                       v->x.header.n_layers, v->x.header.n_sources,
                       (unsigned long long)v->x.header.virtual_size, c->n_layers, c->n_sources,
                       (unsigned long long)c->size);
    for (uint32_t i = 0; ret == 0 && i < c->n_sources; i++)
        ret = check_source(v, i);
    return ret;
}

/* ------------------------------------------------------------------- the runs --- */

static int differs(struct verifier *v, uint64_t at)
{
    return qc_fail(v->err, QCHAIN_E_CORRUPT, "says something else than the layers about disk "
                   "offset %llu: it is wrong; build it again", (unsigned long long)at);
}

static int compare_runs(struct verifier *v, const struct qc_runs *is, const struct qc_runs *said)
{
    size_t n = is->n < said->n ? is->n : said->n;

    for (size_t i = 0; i < n; i++)
        if (memcmp(&is->run[i], &said->run[i], sizeof(is->run[i])) != 0)
            return differs(v, qc_min64(is->run[i].guest, said->run[i].guest));
    if (is->n != said->n)
        return differs(v, (is->n > n ? is : said)->run[n].guest);
    return 0;
}

/* What the sidecar says of [start, end). */
static int said_runs(struct verifier *v, uint64_t start, uint64_t end, struct qc_runs *out)
{
    int ret = 0;

    out->n = 0;
    for (uint32_t i = qc_ixf_find_page(&v->x, start);
         ret == 0 && i < v->x.header.n_pages && v->x.page[i].start < end; i++) {
        uint8_t *p = qc_malloc(v->x.page[i].bytes);

        ret = p ? qc_sidecar_read_page(&v->x, v->store, i, p, v->err) : qc_fail_nomem(v->err);
        if (ret == 0)
            ret = qc_ixf_decode_page(&v->x, i, p, start, end, 0, out, v->err);
        qc_free(p);
    }
    if (ret == 0)
        qc_runs_join(out);
    return ret;
}

static int compare_all(struct verifier *v, const qchain_index_opts *opts)
{
    uint64_t start, end, began = qc_now_ns();
    struct qc_runs said = {0};
    struct qc_walk w;
    int ret = qc_walk_init(&w, v->c, opts->threads, v->err);

    if (ret != 0)
        return ret;
    w.end = v->c->size;
    qc_job_begin(opts->job, v->c->size);
    do {
        ret = qc_job_check(opts->job, began, v->err);
        if (ret == 0)
            ret = qc_walk_next(&w, v->err);
        for (unsigned i = 0; ret == 0 && i < w.n; i++) {
            qc_walk_range(&w, i, &start, &end);
            qc_runs_join(&w.runs[i]);
            ret = said_runs(v, start, end, &said);
            if (ret == 0)
                ret = compare_runs(v, &w.runs[i], &said);
            qc_job_add(opts->job, end - start);
        }
    } while (ret == 0 && w.n > 0);
    qc_runs_finish(&said);
    qc_walk_finish(&w);
    return ret;
}

int qc_index_verify(qchain *c, const qchain_index_opts *opts, qchain_error *err)
{
    struct verifier v = {.c = c, .err = err};
    const char *tip = c->layer[0].real_path;
    struct qc_escaped shown;
    char *path = NULL;
    int ret = c->tip ? qc_fail(err, QCHAIN_E_UNSUPPORTED, "the chain is open for writing")
                     : qc_index_place(&path, c, opts->name, err);

    if (ret != 0) {
        qc_error_prefix(err, -1, "index: ");
        return ret;
    }
    ret = qc_sidecar_load(&v.x, &v.store, c->env, path, tip ? tip : c->layer[0].name, err);
    if (ret == QCHAIN_E_ACCESS && !qc_name_is_url(path)) /* not ours to believe */
        ret = err->code = QCHAIN_E_CHANGED;
    if (ret == 0)
        ret = check_table(&v);
    if (ret == 0)
        ret = compare_all(&v, opts);
    if (ret != 0)
        qc_error_prefix(err, -1, "index '%s': ", qc_name_shown(&shown, path));
    qc_store_destroy(v.store);
    qc_ixf_finish(&v.x);
    qc_free(path);
    return ret;
}
