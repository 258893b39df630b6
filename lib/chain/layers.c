/* SPDX-License-Identifier: MIT */
/* The layers of a chain and their files: adding, opening late, forgetting, describing. */
#include <string.h>

#include "chain/chain.h"
#include "chain/names.h"
#include "chain/open.h"
#include "chain/recorder.h"
#include "chain/sidecar.h"
#include "chain/tip.h"
#include "chain/verify.h"
#include "chain/warm.h"
#include "net/url.h"
#include "util/alloc.h"
#include "util/escape.h"
#include "util/vec.h"

#define MAX_SOURCES 65535

void qc_layer_prefix(qchain *c, uint32_t layer, qchain_error *err)
{
    struct qc_escaped shown;

    qc_error_prefix(err, layer, "layer #%u '%s': ", layer,
                    qc_name_shown(&shown, c->layer[layer].name));
    if (err && err->code == QCHAIN_E_CHANGED && c->sidecar)
        atomic_store(&c->changed, true);
}

int qc_chain_fail_changed(qchain_error *err)
{
    return qc_fail(err, QCHAIN_E_CHANGED, "a layer is not what it was when its sidecar index was "
                   "built, so the map of the disk is wrong; open the chain again");
}

/* ------------------------------------------------------------------- adding --- */

int qc_chain_add_layer(qchain *c, const char *name, qchain_error *err)
{
    struct qc_layer *l;

    if (qc_grow((void **)&c->layer, &c->cap_layers, c->n_layers + 1, sizeof(*c->layer)) != 0)
        return qc_fail_nomem(err);
    l = &c->layer[c->n_layers];
    memset(l, 0, sizeof(*l));
    l->name = qc_strdup(name);
    if (!l->name)
        return qc_fail_nomem(err);
    c->n_layers++; /* from here on it is freed with the chain */
    return 0;
}

int qc_chain_add_source(qchain *c, struct qc_store *store, uint32_t layer, const char *name,
                        uint16_t *number, qchain_error *err)
{
    struct qc_source *s;

    if (c->n_sources == MAX_SOURCES)
        return qc_fail(err, QCHAIN_E_LIMIT, "more than %d files in a chain", MAX_SOURCES);
    if (qc_grow((void **)&c->source, &c->cap_sources, c->n_sources + 1, sizeof(*c->source)) != 0 ||
        qc_grow((void **)&c->hot, &c->cap_hot, c->n_sources + 1, sizeof(*c->hot)) != 0)
        return qc_fail_nomem(err);
    s = &c->source[c->n_sources];
    memset(s, 0, sizeof(*s));
    memset(&c->hot[c->n_sources], 0, sizeof(c->hot[0]));
    s->name = qc_strdup(name);
    if (!s->name)
        return qc_fail_nomem(err);
    if (qc_name_is_url(name)) {
        s->shown = qc_url_shown(name);
        if (!s->shown) {
            qc_free(s->name);
            return qc_fail_nomem(err);
        }
    }
    s->layer = layer;
    s->owner = atomic_fetch_add(&c->env->next_owner, 1);
    atomic_init(&s->holes, -1);
    if (store) {
        qc_store_hot_init(&c->hot[c->n_sources], store);
        s->has_inode = store->identity.flags & QCHAIN_IDENTITY_HAS_INODE;
        s->device = store->identity.device;
        s->inode = store->identity.inode;
    }
    *number = (uint16_t)c->n_sources++;
    return 0;
}

int qc_chain_check_loop(const qchain *c, uint32_t source, qchain_error *err)
{
    const struct qc_source *mine = &c->source[source], *other;
    struct qc_escaped shown;

    for (uint32_t i = 0; i < source; i++) {
        other = &c->source[i];
        if (mine->has_inode ? other->has_inode && other->inode == mine->inode &&
                                  other->device == mine->device
                            : qc_name_is_url(mine->name) && strcmp(mine->name, other->name) == 0)
            return qc_fail(err, QCHAIN_E_CHAIN,
                           "is the same file as layer #%u '%s': the chain has a loop",
                           other->layer, qc_name_shown(&shown, other->name));
    }
    return 0;
}

void qc_chain_truncate(qchain *c, uint32_t n_layers, uint32_t n_sources)
{
    for (uint32_t k = n_layers; k < c->n_layers; k++) {
        struct qc_layer *l = &c->layer[k];
        struct qc_image *img = l->img;

        if (img)
            img->format->close(img);
        qc_free(l->name);
        qc_free(l->real_path);
    }
    for (uint32_t i = n_sources; i < c->n_sources; i++) {
        qc_block_drop_owner(c->env->blocks, c->source[i].owner);
        qc_store_destroy(qc_source_opened(c, i));
        qc_free(c->source[i].name);
        qc_free(c->source[i].shown);
    }
    c->n_layers = n_layers < c->n_layers ? n_layers : c->n_layers;
    c->n_sources = n_sources < c->n_sources ? n_sources : c->n_sources;
}

void qc_chain_close(qchain *c)
{
    if (!c)
        return;
    qc_recorder_destroy(c);
    qc_verify_end(c);
    qc_warm_end(c);
    qc_index_finish(c);
    qc_bitmaps_destroy(c);
    qc_tip_destroy(c);
    qc_chain_truncate(c, 0, 0);
    qc_sidecar_destroy(c->sidecar);
    qc_free(c->layer);
    qc_free(c->source);
    qc_free(c->hot);
    qc_free(c->why_not);
    pthread_cond_destroy(&c->warmed);
    pthread_mutex_destroy(&c->late_lock);
    qc_free(c);
}

/* ------------------------------------------------------------- opening late --- */

/* A layer is not what the sidecar says: what it says of the others is worth nothing
 * either. */
static int found_changed(qchain *c, uint32_t layer, qchain_error *err)
{
    atomic_store(&c->changed, true);
    if (layer < c->n_layers)
        qc_layer_prefix(c, layer, err);
    return QCHAIN_E_CHANGED;
}

static int check_identity(const struct qc_store *store, const struct qc_ixf_source *expected,
                          qchain_error *err)
{
    const qchain_store_identity *id = &store->identity;

    if (expected->flags & QC_IXF_REMOTE)
        return 0; /* each request asks for that object alone */
    if (store->size == expected->size && id->flags & QCHAIN_IDENTITY_HAS_MTIME &&
        id->mtime_ns == expected->mtime_ns)
        return 0;
    return qc_fail(err, QCHAIN_E_CHANGED, "was changed since the chain was opened (size or "
                   "modification time): open the chain again");
}

struct qc_store *qc_source_store(qchain *c, uint32_t i, qchain_error *err)
{
    struct qc_store *store = qc_source_opened(c, i), *other;
    struct qc_source *s = &c->source[i];
    const struct qc_ixf_source *expected;
    struct qc_target t;
    char *real_path = NULL;
    int ret;

    if (store)
        return store;
    if (qc_chain_check(c, err) != 0)
        return NULL;
    expected = qc_sidecar_source(c->sidecar, i);
    qc_target_init(&t);
    t.path = qc_sidecar_file_path(c->sidecar, s->name);
    t.format = expected->format;
    if (!t.path)
        ret = qc_fail_nomem(err);
    else if (expected->flags & QC_IXF_REMOTE)
        ret = qc_sidecar_open_remote(c, i, t.path, &store, err);
    else
        ret = qc_open_store(c->env, qc_sidecar_gate(c->sidecar), qc_sidecar_file_flags(c->sidecar),
                            &t, &store, &real_path, err);
    qc_free(t.path);
    qc_free(real_path);
    if (ret == 0)
        ret = check_identity(store, expected, err);
    else if (ret == QCHAIN_E_NOTFOUND)
        ret = qc_fail(err, QCHAIN_E_CHANGED, "was removed or renamed since the chain was opened");
    if (ret != 0) {
        qc_store_destroy(store);
        if (ret == QCHAIN_E_CHANGED)
            found_changed(c, s->layer, err);
        else
            qc_layer_prefix(c, s->layer, err);
        return NULL;
    }
    pthread_mutex_lock(&c->late_lock);
    other = qc_source_opened(c, i); /* two threads may open it: the first to come back wins */
    if (!other)
        qc_store_hot_init(&c->hot[i], store);
    pthread_mutex_unlock(&c->late_lock);
    if (other)
        qc_store_destroy(store);
    return other ? other : store;
}

/* The image itself must say what the sidecar said of it. */
static int check_image(const qchain *c, uint32_t k, const struct qc_image *img, qchain_error *err)
{
    const struct qc_layer *l = &c->layer[k];
    const struct qc_ixf_source *mine = qc_sidecar_source(c->sidecar, l->source), *below = NULL;

    if (k + 1 < c->n_layers)
        below = qc_sidecar_source(c->sidecar, c->layer[k + 1].source);
    if (img->virtual_size == l->virtual_size && img->cluster_size == l->cluster_size &&
        img->decoder_kind == mine->decoder_kind &&
        img->wants_data_file == (l->source != l->data_source) &&
        (img->backing_name ? below && strcmp(img->backing_name, below->name) == 0 : !below))
        return 0;
    return qc_fail(err, QCHAIN_E_CHANGED, "is not the image that the sidecar index tells of: "
                   "build the index again");
}

struct qc_image *qc_layer_image(qchain *c, uint32_t k, qchain_error *err)
{
    struct qc_layer *l = &c->layer[k];
    struct qc_image *img = atomic_load_explicit(&l->img, memory_order_acquire), *other;
    struct qc_image_opts io = {.log = &c->env->log};
    struct qc_store *store, *data;
    int ret;

    if (img)
        return img;
    store = qc_source_store(c, l->source, err);
    data = store ? qc_source_store(c, l->data_source, err) : NULL;
    if (!data)
        return NULL;
    ret = l->format->open(&img, store, &io, err);
    if (ret == 0) {
        ret = check_image(c, k, img, err);
        if (ret != 0)
            img->format->close(img);
    }
    if (ret != 0) {
        if (ret == QCHAIN_E_CHANGED)
            found_changed(c, k, err);
        else
            qc_layer_prefix(c, k, err);
        return NULL;
    }
    img->data_store = data != store ? data : NULL;
    pthread_mutex_lock(&c->late_lock);
    other = l->img;
    if (!other)
        atomic_store_explicit(&l->img, img, memory_order_release);
    pthread_mutex_unlock(&c->late_lock);
    if (other)
        img->format->close(img);
    return other ? other : img;
}

/* -------------------------------------------------------------- describing --- */

static int describe(qchain_image_info *info, qchain *c, uint32_t layer, qchain_error *err)
{
    struct qc_layer *l = &c->layer[layer];
    struct qc_image *img = qc_layer_image(c, layer, err);
    struct qc_store *store;
    char *resolved;
    int ret;

    if (!img)
        return err->code;
    store = img->store;
    ret = img->format->describe(img, info, err);
    if (ret != 0) {
        qc_layer_prefix(c, layer, err);
        return ret;
    }
    info->file_size = qc_store_size(store);
    info->allocated_size = qc_store_allocated(store);
    if (qc_file_is_block_device(store))
        info->flags |= QCHAIN_IMAGE_BLOCK_DEVICE;
    info->name = qc_name_shown_dup(l->name);
    if (!info->name)
        return qc_fail_nomem(err);
    if (!img->backing_name)
        return 0;
    resolved = qc_name_resolve(l->name, img->backing_name);
    info->backing_resolved = resolved ? qc_name_shown_dup(resolved) : NULL;
    qc_free(resolved);
    return info->backing_resolved ? 0 : qc_fail_nomem(err);
}

int qc_layer_describe(qchain_image_info *info, qchain *c, uint32_t layer, qchain_error *err)
{
    bool changes = layer == 0 && c->tip; /* names and tables, by who is alone */
    unsigned token = changes ? qc_tip_enter(c->tip) : 0;
    int ret = describe(info, c, layer, err);

    if (changes)
        qc_tip_exit(c->tip, token);
    return ret;
}
