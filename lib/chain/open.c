/* SPDX-License-Identifier: MIT */
/* Opening a chain: a loop from the top down, one layer at a time. */
#include <string.h>

#include "chain/chain.h"
#include "chain/gate.h"
#include "chain/names.h"
#include "qcow2/qcow2.h"
#include "raw/raw_image.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/escape.h"
#include "util/vec.h"

#define DEFAULT_MAX_LAYERS 4096
#define MAX_SOURCES 65535
#define PROBE_BYTES 512

static const struct qc_format *const formats[] = {&qc_qcow2_format, &qc_raw_format, NULL};

struct opener {
    qchain                 *c;
    qchain_env             *env;
    const qchain_open_opts *opts;
    struct qc_gate          gate;
    uint32_t                file_flags;
    bool                    no_backing;
    bool                    describe; /* the top alone, to be described */
    qchain_error           *err;
};

void qc_layer_prefix(const qchain *c, uint32_t layer, qchain_error *err)
{
    struct qc_escaped shown;

    qc_error_prefix(err, layer, "layer #%u '%s': ", layer,
                    qc_escape_str(&shown, c->layer[layer].name));
}

/* Open what the target says, as a store. real_path receives a local file's. */
static int open_store(struct opener *o, struct qc_target *t, struct qc_store **out,
                      char **real_path)
{
    struct qc_file_opts fo = {.fds = o->env->fds, .slots = o->env->slots, .log = &o->env->log,
                              .flags = o->file_flags, .fd = t->fd, .name = t->path};

    *real_path = NULL;
    if (t->is_store) {
        if (!t->store.name)
            t->store.name = t->path;
        t->is_store = false; /* closed by the store from here on */
        return qc_store_create(out, &t->store, o->env->slots, o->err);
    }
    if (t->block_device)
        fo.flags |= QC_FILE_BLOCK_DEVICE;
    if (!t->format || strcmp(t->format, "raw") != 0)
        fo.flags |= QC_FILE_FORMAT_LOCK;
    if (!t->vetted) {
        fo.gate = qc_gate_check_path;
        fo.gate_data = &o->gate;
    }
    return qc_file_open(out, t->path, &fo, real_path, o->err);
}

static int add_source(struct opener *o, struct qc_store *store, uint32_t layer, const char *name,
                      uint16_t *number)
{
    qchain *c = o->c;
    struct qc_source *s;

    if (c->n_sources == MAX_SOURCES)
        return qc_fail(o->err, QCHAIN_E_LIMIT, "more than %d files in a chain", MAX_SOURCES);
    if (qc_grow((void **)&c->source, &c->cap_sources, c->n_sources + 1, sizeof(*c->source)) != 0 ||
        qc_grow((void **)&c->hot, &c->cap_hot, c->n_sources + 1, sizeof(*c->hot)) != 0)
        return qc_fail_nomem(o->err);
    s = &c->source[c->n_sources];
    memset(s, 0, sizeof(*s));
    s->name = qc_strdup(name);
    if (!s->name)
        return qc_fail_nomem(o->err);
    s->store = store;
    qc_store_hot_init(&c->hot[c->n_sources], store);
    s->layer = layer;
    s->owner = atomic_fetch_add(&o->env->next_owner, 1);
    atomic_init(&s->holes, -1);
    *number = (uint16_t)c->n_sources++;
    return 0;
}

/* The same file twice is a loop, or a data file that is a layer: both are damage. */
static int check_not_twice(struct opener *o, const struct qc_store *store)
{
    const qchain_store_identity *mine = &store->identity, *other;
    struct qc_escaped shown;

    if (!(mine->flags & QCHAIN_IDENTITY_HAS_INODE))
        return 0;
    for (uint32_t i = 0; i < o->c->n_sources; i++) {
        other = &o->c->source[i].store->identity;
        if (other->flags & QCHAIN_IDENTITY_HAS_INODE && other->inode == mine->inode &&
            other->device == mine->device)
            return qc_fail(o->err, QCHAIN_E_CHAIN,
                           "is the same file as layer #%u '%s': the chain has a loop",
                           o->c->source[i].layer,
                           qc_escape_str(&shown, o->c->source[i].name));
    }
    return 0;
}

/* Which format is it: as said, or by its first bytes. */
static int find_format(struct opener *o, struct qc_store *store, const char *name,
                       const struct qc_format **format)
{
    struct qc_escaped shown;
    uint8_t head[PROBE_BYTES];
    size_t len = (size_t)qc_min64(sizeof(head), store->size);
    int ret;

    if (name) {
        *format = qc_format_by_name(formats, name);
        if (*format)
            return 0;
        return qc_fail(o->err, QCHAIN_E_UNSUPPORTED,
                       "format '%s' is not known to this library; there are qcow2 and raw",
                       qc_escape_str(&shown, name));
    }
    ret = qc_store_read(store, head, len, 0, QC_READ_META, o->err);
    if (ret == 0)
        *format = qc_format_probe(formats, head, len);
    return ret;
}

/* Open the external data file of layer k. */
static int open_data_file(struct opener *o, uint32_t k)
{
    struct qc_layer *l = &o->c->layer[k];
    const char *given = k == 0 ? o->opts->data_file : NULL;
    struct qc_store *store = NULL;
    struct qc_target t;
    char *real_path = NULL;
    int ret;

    qc_target_init(&t);
    if (given) {
        t.path = qc_strdup(given);
        t.format = qc_strdup("raw");
        t.vetted = t.block_device = true;
        ret = t.path && t.format ? 0 : qc_fail_nomem(o->err);
    } else if (!l->img->data_file_name) {
        ret = qc_fail(o->err, QCHAIN_E_CHAIN,
                      "its data lies in an external file that it does not name; give it with the "
                      "data_file option");
        qc_layer_prefix(o->c, k, o->err);
    } else {
        ret = qc_gate_decide(&o->gate, l, k, QCHAIN_REF_DATA_FILE, l->img->data_file_name, NULL,
                             &t, o->err);
    }
    if (ret != 0)
        goto out;
    ret = open_store(o, &t, &store, &real_path);
    if (ret == 0)
        ret = check_not_twice(o, store);
    if (ret == 0)
        ret = add_source(o, store, k, t.path, &l->data_source);
    if (ret != 0) {
        qc_error_prefix(o->err, k, "external data file: ");
        qc_layer_prefix(o->c, k, o->err);
        qc_store_destroy(store);
        goto out;
    }
    l->img->data_store = store;

out:
    qc_target_finish(&t);
    qc_free(real_path);
    return ret;
}

/* Fill in layer k, whose name is set, from an open store. */
static int open_image(struct opener *o, struct qc_layer *l, uint32_t k, struct qc_store *store,
                      const char *format_name)
{
    struct qc_image_opts io = {.snapshot = k == 0 ? o->opts->snapshot : NULL,
                               .salvage = o->opts->flags & QCHAIN_OPEN_SALVAGE,
                               .describe = o->describe,
                               .log = &o->env->log};
    int ret;

    ret = find_format(o, store, format_name, &l->format);
    if (ret == 0)
        ret = l->format->open(&l->img, store, &io, o->err);
    if (ret != 0)
        return ret;
    l->limit = l->img->virtual_size;
    if (k > 0)
        l->limit = qc_min64(l->limit, o->c->layer[k - 1].limit);
    return 0;
}

/* Open the layer that t names as the next of the chain. */
static int open_layer(struct opener *o, struct qc_target *t)
{
    qchain *c = o->c;
    uint32_t k = c->n_layers;
    struct qc_store *store = NULL;
    struct qc_layer *l;
    int ret;

    if (qc_grow((void **)&c->layer, &c->cap_layers, k + 1, sizeof(*c->layer)) != 0)
        return qc_fail_nomem(o->err);
    l = &c->layer[k];
    memset(l, 0, sizeof(*l));
    l->name = qc_strdup(t->path);
    if (!l->name)
        return qc_fail_nomem(o->err);
    c->n_layers++; /* from here on it is freed with the chain */
    ret = open_store(o, t, &store, &l->real_path);
    if (ret == 0)
        ret = check_not_twice(o, store);
    if (ret == 0)
        ret = add_source(o, store, k, l->name, &l->source);
    if (ret != 0) {
        qc_store_destroy(store);
    } else {
        l->data_source = l->source;
        ret = open_image(o, l, k, store, t->format);
    }
    if (ret != 0) {
        qc_layer_prefix(c, k, o->err);
        return ret;
    }
    if (l->img->wants_data_file && !o->describe)
        ret = open_data_file(o, k);
    return ret;
}

/* What the user named: trusted as a name. */
static int target_of_top(struct opener *o, const char *name, struct qc_target *t)
{
    const qchain_open_opts *opts = o->opts;
    struct qc_name parsed = {0};
    const char *format = opts->format;
    int ret = 0;

    t->vetted = t->block_device = true;
    if (opts->store) {
        t->store = *opts->store;
        t->is_store = true;
    }
    if (opts->flags & QCHAIN_OPEN_FD)
        t->fd = opts->fd;
    if (opts->store || opts->flags & QCHAIN_OPEN_FD) {
        t->path = qc_strdup(name ? name : opts->store && opts->store->name ? opts->store->name
                                                                           : "(no name)");
    } else {
        ret = qc_name_parse(&parsed, name, o->err);
        t->path = parsed.path;
        parsed.path = NULL;
        if (!format)
            format = parsed.format;
        if (parsed.force_share)
            o->file_flags |= QC_FILE_NO_LOCK;
        if (parsed.direct)
            o->file_flags |= QC_FILE_DIRECT;
        o->no_backing |= parsed.no_backing;
    }
    if (ret == 0 && format)
        t->format = qc_strdup(format);
    if (ret == 0 && (!t->path || (format && !t->format)))
        ret = qc_fail_nomem(o->err);
    qc_name_finish(&parsed);
    return ret;
}

/* The directories that the top brings along. A store or a descriptor has one only
 * if its name says so: what is called "vm1" lies nowhere. */
static int allow_top(struct opener *o, const char *name, const struct qc_target *t)
{
    bool by_path = !o->opts->store && !(o->opts->flags & QCHAIN_OPEN_FD);

    if (!name || (!by_path && !strchr(name, '/')))
        return 0;
    return qc_gate_add_name(&o->gate, t->path, o->err);
}

static int open_top(struct opener *o, const char *name)
{
    const struct qc_layer *top;
    struct qc_target t;
    int ret;

    qc_target_init(&t);
    ret = target_of_top(o, name, &t);
    if (ret == 0)
        ret = qc_gate_init(&o->gate, o->env, o->opts, o->err);
    /* The name's directory first: a data file is opened along with the layer. */
    if (ret == 0)
        ret = allow_top(o, name, &t);
    if (ret == 0)
        ret = open_layer(o, &t);
    top = ret == 0 ? &o->c->layer[0] : NULL;
    if (top && top->real_path)
        ret = qc_gate_add_real_path(&o->gate, top->real_path,
                                    &o->c->source[top->source].store->identity, o->err);
    qc_target_finish(&t);
    return ret;
}

static int open_below(struct opener *o)
{
    qchain *c = o->c;
    uint32_t max = o->opts->max_layers ? o->opts->max_layers
                   : o->gate.policy->max_layers ? o->gate.policy->max_layers
                                                : DEFAULT_MAX_LAYERS;
    const struct qc_layer *last = &c->layer[0];
    struct qc_target t;
    int ret;

    while (last->img->backing_name) {
        if (c->n_layers >= max)
            return qc_fail(o->err, QCHAIN_E_LIMIT,
                           "the chain has more than %u layers (option max_layers)", max);
        ret = qc_gate_decide(&o->gate, last, c->n_layers - 1, QCHAIN_REF_BACKING,
                             last->img->backing_name, last->img->backing_format, &t, o->err);
        if (ret != 0)
            return ret;
        ret = open_layer(o, &t);
        qc_target_finish(&t);
        if (ret != 0)
            return ret;
        last = &c->layer[c->n_layers - 1];
    }
    return 0;
}

static int open_chain(struct opener *o, const char *name)
{
    int ret = qc_env_enter(o->env, o->err);

    if (o->opts->flags & QCHAIN_OPEN_FORCE_SHARE)
        o->file_flags |= QC_FILE_NO_LOCK;
    if (o->opts->flags & QCHAIN_OPEN_DIRECT)
        o->file_flags |= QC_FILE_DIRECT;
    o->no_backing = o->describe || o->opts->flags & QCHAIN_OPEN_NO_BACKING;
    o->c = ret == 0 ? qc_calloc(1, sizeof(*o->c)) : NULL;
    if (!o->c) {
        if (o->opts->store && o->opts->store->ops->close)
            o->opts->store->ops->close(o->opts->store->obj);
        return ret != 0 ? ret : qc_fail_nomem(o->err);
    }
    o->c->env = o->env;
    ret = open_top(o, name);
    if (ret == 0 && !o->no_backing)
        ret = open_below(o);
    qc_gate_finish(&o->gate);
    return ret;
}

int qc_chain_open(qchain **out, qchain_env *env, const char *name, const qchain_open_opts *opts,
                  qchain_error *err)
{
    struct opener o = {.env = env, .opts = opts, .err = err};
    int ret = open_chain(&o, name);

    if (ret == 0) {
        o.c->size = o.c->layer[0].img->virtual_size;
        ret = qc_index_init(o.c, err);
    }
    if (ret != 0) {
        qc_chain_close(o.c);
        return ret;
    }
    *out = o.c;
    return 0;
}

void qc_chain_close(qchain *c)
{
    if (!c)
        return;
    qc_index_finish(c);
    for (uint32_t k = 0; k < c->n_layers; k++) {
        struct qc_layer *l = &c->layer[k];

        if (l->img)
            l->format->close(l->img);
        qc_free(l->name);
        qc_free(l->real_path);
    }
    for (uint32_t i = 0; i < c->n_sources; i++) {
        qc_block_drop_owner(c->env->blocks, c->source[i].owner);
        qc_store_destroy(c->source[i].store);
        qc_free(c->source[i].name);
    }
    qc_free(c->layer);
    qc_free(c->source);
    qc_free(c->hot);
    qc_free(c);
}

int qc_layer_describe(qchain_image_info *info, qchain *c, uint32_t layer, qchain_error *err)
{
    struct qc_layer *l = &c->layer[layer];
    struct qc_store *store = c->source[l->source].store;
    char *resolved;
    int ret;

    ret = l->format->describe(l->img, info, err);
    if (ret != 0) {
        qc_layer_prefix(c, layer, err);
        return ret;
    }
    info->file_size = store->size;
    info->allocated_size = qc_store_allocated(store);
    if (qc_file_is_block_device(store))
        info->flags |= QCHAIN_IMAGE_BLOCK_DEVICE;
    info->name = qc_escape_dup(l->name, strlen(l->name));
    if (!info->name)
        return qc_fail_nomem(err);
    if (!l->img->backing_name)
        return 0;
    resolved = qc_name_resolve(l->name, l->img->backing_name);
    info->backing_resolved = resolved ? qc_escape_dup(resolved, strlen(resolved)) : NULL;
    qc_free(resolved);
    return info->backing_resolved ? 0 : qc_fail_nomem(err);
}

int qc_chain_inspect(qchain_image_info *info, qchain_env *env, const char *name,
                     const qchain_open_opts *opts, qchain_error *err)
{
    struct opener o = {.env = env, .opts = opts, .err = err, .describe = true};
    int ret = open_chain(&o, name);

    if (ret == 0)
        ret = qc_layer_describe(info, o.c, 0, err);
    qc_chain_close(o.c);
    return ret;
}
