/* SPDX-License-Identifier: MIT */
/* Opening a chain: a loop from the top down, one layer at a time. */
#include <string.h>

#include "chain/chain.h"
#include "chain/gate.h"
#include "chain/names.h"
#include "chain/open.h"
#include "chain/sidecar.h"
#include "chain/tip.h"
#include "chain/verify.h"
#include "chain/warm.h"
#include "qcow2/qcow2.h"
#include "raw/raw_image.h"
#include "remote/remote.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/escape.h"
#include "util/vec.h"

#define DEFAULT_MAX_LAYERS 4096
#define PROBE_BYTES 512

static const struct qc_format *const formats[] = {&qc_qcow2_format, &qc_raw_format, NULL};

const struct qc_format *qc_open_format(const char *name)
{
    return qc_format_by_name(formats, name);
}

struct opener {
    qchain                 *c;
    qchain_env             *env;
    const qchain_open_opts *opts;
    struct qc_gate          gate;
    uint32_t                file_flags;
    bool                    no_backing;
    bool                    describe; /* the top alone, to be described */
    struct qc_split        *split;    /* stop above the base; */
    bool                    lower;    /* begin with it: the gate and the target are there */
    struct qc_opening      *side;     /* on its way: the sidecar of the last layer, which lies
                                         behind a URL */
    uint32_t                n_warm;   /* layers that qc_warm_layer was called for */
    qchain_error           *err;
};

int qc_open_store(qchain_env *env, struct qc_gate *gate, uint32_t file_flags, struct qc_target *t,
                  struct qc_store **out, char **real_path, qchain_error *err)
{
    struct qc_file_opts fo = {.fds = env->fds, .slots = env->slots, .log = &env->log,
                              .flags = file_flags, .fd = t->fd, .name = t->path};
    struct qc_opening *head;
    int ret;

    *real_path = NULL;
    if (t->is_store) {
        if (!t->store.name)
            t->store.name = t->path;
        t->is_store = false; /* closed by the store from here on */
        return qc_store_create(out, &t->store, env->slots, err);
    }
    if (t->is_url) {
        ret = t->vetted ? 0 : qc_gate_check_url(gate, t->path, err);
        if (ret == 0)
            ret = qc_remote_begin(&head, env->remote, t->path, 0, err);
        return ret == 0 ? qc_remote_finish(head, out, err) : ret;
    }
    if (t->block_device)
        fo.flags |= QC_FILE_BLOCK_DEVICE;
    if (!t->format || strcmp(t->format, "raw") != 0)
        fo.flags |= QC_FILE_FORMAT_LOCK;
    if (!t->vetted) {
        fo.gate = qc_gate_check_path;
        fo.gate_data = gate;
    }
    return qc_file_open(out, t->path, &fo, real_path, err);
}

/* May there be a sidecar of the layer that is about to be opened? */
static bool wants_any_sidecar(const struct opener *o)
{
    const qchain_open_opts *opts = o->opts;

    return !o->no_backing &&
           !(opts->flags & (QCHAIN_OPEN_NO_INDEX | QCHAIN_OPEN_SALVAGE | QCHAIN_OPEN_FD)) &&
           !opts->store && !opts->resolver && !opts->snapshot && !opts->data_file;
}

/* Ask for the sidecar of layer k, which lies behind a URL, while its own first bytes are on
 * their way. Whether it may be believed is seen later. */
static void ask_for_sidecar(struct opener *o, const char *url, uint32_t k)
{
    const char *given = k == 0 ? o->opts->index : NULL;
    char *name = NULL;

    if (!wants_any_sidecar(o) || (given && !qc_name_is_url(given)))
        return;
    if (given)
        name = qc_strdup(given);
    else if (qc_remote_sibling_of(&name, o->env->remote, url, QC_SIDECAR_SUFFIX, NULL) != 0)
        name = NULL;
    if (name && qc_remote_begin(&o->side, o->env->remote, name,
                                QC_REMOTE_WHOLE | (given ? 0 : QC_REMOTE_MISSING_OK), NULL) != 0)
        o->side = NULL;
    qc_free(name);
}

/* Once nothing more urgent can be asked for. */
static void warm_layers(struct opener *o, uint32_t n)
{
    while (o->n_warm < n && !(o->opts->flags & QCHAIN_OPEN_NO_READ_AHEAD))
        qc_warm_layer(o->c, o->n_warm++);
}

/* Open a layer behind a URL. */
static int open_remote(struct opener *o, struct qc_target *t, uint32_t k, struct qc_store **out)
{
    struct qc_opening *head;
    int ret = t->vetted ? 0 : qc_gate_check_url(&o->gate, t->path, o->err);

    /* First, for the answer that there is none: it would come behind all of the head. */
    if (ret == 0 && (!t->format || strcmp(t->format, "raw") != 0))
        ask_for_sidecar(o, t->path, k);
    if (ret == 0)
        ret = qc_remote_begin(&head, o->env->remote, t->path, k > 0 ? QC_REMOTE_BRIEF : 0, o->err);
    if (ret != 0)
        return ret;
    warm_layers(o, k);
    return qc_remote_finish(head, out, o->err);
}

/* The top is to be written: can its files be? */
static int check_writable(struct opener *o, const struct qc_target *t, const struct qc_store *store)
{
    struct qc_escaped shown;

    if (t->is_url)
        return qc_fail(o->err, QCHAIN_E_READONLY, "'%s': what lies behind a URL can only be read",
                       qc_name_shown(&shown, t->path));
    if (store && !qc_store_is_writable(store))
        return qc_fail(o->err, QCHAIN_E_READONLY, "'%s': the store can only be read",
                       qc_name_shown(&shown, t->path));
    return 0;
}

/* Open what the target says as the next file of a layer. */
static int open_source(struct opener *o, struct qc_target *t, uint32_t layer, uint16_t *number,
                       char **real_path)
{
    bool write = layer < o->c->frozen;
    struct qc_store *store = NULL;
    int ret = write ? check_writable(o, t, NULL) : 0;

    *real_path = NULL;
    if (ret != 0)
        return ret;
    if (t->is_url && layer == o->c->n_layers - 1 && o->c->layer[layer].img == NULL)
        ret = open_remote(o, t, layer, &store);
    else
        ret = qc_open_store(o->env, &o->gate, o->file_flags | (write ? QC_FILE_WRITE : 0) |
                            (write && o->lower ? QC_FILE_ALONE : 0), t, &store, real_path, o->err);
    if (ret != 0)
        return ret;
    o->c->far |= qc_store_is_far(store);
    ret = write ? check_writable(o, t, store) : 0;
    if (ret == 0)
        ret = qc_chain_add_source(o->c, store, layer, t->path, number, o->err);
    if (ret != 0) {
        qc_store_destroy(store);
        return ret;
    }
    return qc_chain_check_loop(o->c, *number, o->err);
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
    struct qc_image *img = l->img;
    const char *given = k == 0 ? o->opts->data_file : NULL;
    struct qc_target t;
    char *real_path = NULL;
    int ret;

    qc_target_init(&t);
    if (given) {
        t.path = qc_strdup(given);
        t.format = qc_strdup("raw");
        t.vetted = t.block_device = true;
        t.is_url = qc_name_is_url(given);
        ret = t.path && t.format ? 0 : qc_fail_nomem(o->err);
    } else if (!img->data_file_name) {
        ret = qc_fail(o->err, QCHAIN_E_CHAIN,
                      "its data lies in an external file that it does not name; give it with the "
                      "data_file option");
        qc_layer_prefix(o->c, k, o->err);
    } else {
        ret = qc_gate_decide(&o->gate, l, k, QCHAIN_REF_DATA_FILE, img->data_file_name, NULL, &t,
                             o->err);
    }
    if (ret != 0)
        goto out;
    ret = open_source(o, &t, k, &l->data_source, &real_path);
    if (ret != 0) {
        qc_error_prefix(o->err, k, "external data file: ");
        qc_layer_prefix(o->c, k, o->err);
        goto out;
    }
    img->data_store = qc_source_opened(o->c, l->data_source);

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
    struct qc_image *img = NULL;
    int ret;

    ret = find_format(o, store, format_name, &l->format);
    if (ret == 0)
        ret = l->format->open(&img, store, &io, o->err);
    if (ret != 0)
        return ret;
    l->img = img;
    l->virtual_size = l->limit = img->virtual_size;
    l->cluster_size = img->cluster_size;
    if (k > o->c->frozen)
        l->limit = qc_min64(l->limit, o->c->layer[k - 1].limit);
    return 0;
}

/* Open the layer that t names as the next of the chain. */
static int open_layer(struct opener *o, struct qc_target *t)
{
    qchain *c = o->c;
    uint32_t k = c->n_layers;
    struct qc_layer *l;
    int ret;

    ret = qc_chain_add_layer(c, t->path, o->err);
    if (ret != 0)
        return ret;
    l = &c->layer[k];
    ret = open_source(o, t, k, &l->source, &l->real_path);
    l->data_source = l->source;
    if (ret == 0)
        ret = open_image(o, l, k, qc_source_opened(c, l->source), t->format);
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
        if (parsed.force_share) {
            o->file_flags |= QC_FILE_NO_LOCK;
            o->c->open_flags |= QCHAIN_OPEN_FORCE_SHARE;
        }
        if (parsed.direct)
            o->file_flags |= QC_FILE_DIRECT;
        o->no_backing |= parsed.no_backing;
        t->is_url = parsed.is_url;
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
                                    &qc_source_opened(o->c, top->source)->identity, o->err);
    qc_target_finish(&t);
    return ret;
}

/* May the map of a layer come from a sidecar? What its sidecar speaks of is the image as
 * it lies in its file, found by its name. */
static bool wants_sidecar(const struct opener *o, const struct qc_layer *l)
{
    const struct qc_store *store = qc_source_opened(o->c, l->source);

    if (!wants_any_sidecar(o) || l->cluster_size == 0 || o->c->n_layers <= o->c->frozen)
        return false; /* what is being written is known by itself alone */
    if (qc_remote_is(store))
        return o->side || (o->c->n_layers == 1 && o->opts->index);
    return l->real_path && !qc_file_is_block_device(store);
}

static int open_below(struct opener *o)
{
    qchain *c = o->c;
    uint32_t max = o->opts->max_layers ? o->opts->max_layers
                   : o->gate.policy->max_layers ? o->gate.policy->max_layers
                                                : DEFAULT_MAX_LAYERS;
    struct qc_layer *last;
    struct qc_target t;
    int ret;

    for (;;) {
        last = &c->layer[c->n_layers - 1];
        if (wants_sidecar(o, last)) {
            ret = qc_sidecar_attach(c, &o->gate, o->file_flags, max,
                                    c->n_layers == 1 ? o->opts->index : NULL, o->side, o->err);
            o->side = NULL;
            if (ret != 0 || c->sidecar)
                return ret;
            last = &c->layer[c->n_layers - 1]; /* the attempt may have moved it */
        }
        qc_remote_abandon(o->side);
        o->side = NULL;
        if (!last->img->backing_name) {
            warm_layers(o, c->n_layers);
            return o->split && !o->lower ? qc_split_not_found(o->split, c, o->err) : 0;
        }
        if (c->n_layers >= max)
            return qc_fail(o->err, QCHAIN_E_LIMIT,
                           "the chain has more than %u layers (option max_layers)", max);
        ret = qc_gate_decide(&o->gate, last, c->n_layers - 1, QCHAIN_REF_BACKING,
                             last->img->backing_name, last->img->backing_format, &t, o->err);
        if (ret != 0)
            return ret;
        if (o->split && !o->lower && qc_split_is_base(o->split, last, &t)) {
            o->split->target = t;
            return 0;
        }
        ret = open_layer(o, &t);
        qc_target_finish(&t);
        if (ret != 0)
            return ret;
    }
}

/* The base of a chain that is opened in two parts. */
static int open_base(struct opener *o)
{
    o->gate = o->split->gate;
    memset(&o->split->gate, 0, sizeof(o->split->gate));
    return open_layer(o, &o->split->target);
}

static int make_chain(struct opener *o)
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
    pthread_mutex_init(&o->c->late_lock, NULL);
    pthread_cond_init(&o->c->warmed, NULL);
    o->c->open_flags = o->opts->flags;
    o->c->frozen = o->opts->flags & QCHAIN_OPEN_WRITE && !o->describe ? 1 : 0;
    o->c->has_snapshot = o->opts->snapshot != NULL;
    o->c->by_caller = o->opts->store || o->opts->resolver || o->opts->data_file ||
                      o->opts->flags & QCHAIN_OPEN_FD;
    return 0;
}

static int open_chain(struct opener *o, const char *name)
{
    int ret = make_chain(o);

    if (ret == 0)
        ret = o->lower ? open_base(o) : open_top(o, name);
    if (ret == 0 && !o->no_backing)
        ret = open_below(o);
    qc_remote_abandon(o->side);
    if (ret == 0 && o->split && !o->lower)
        o->split->gate = o->gate;
    else
        qc_gate_finish(&o->gate);
    return ret;
}

/* All layers are open, unless ret says otherwise. */
static int finish_chain(struct opener *o, int ret, qchain **out)
{
    if (ret == 0) {
        o->c->size = o->c->layer[0].virtual_size;
        ret = qc_index_init(o->c, o->err);
    }
    if (ret == 0 && o->c->frozen)
        ret = qc_tip_create(o->c, o->err);
    if (ret == 0 && o->c->tip)
        o->c->size = o->c->layer[0].virtual_size = o->c->layer[0].limit = o->c->tip->img->virtual_size;
    if (ret == 0)
        ret = qc_verify_begin(o->c, o->err);
    if (ret != 0) {
        qc_chain_close(o->c);
        return ret;
    }
    *out = o->c;
    return 0;
}

int qc_chain_open(qchain **out, qchain_env *env, const char *name, const qchain_open_opts *opts,
                  qchain_error *err)
{
    struct opener o = {.env = env, .opts = opts, .err = err};

    return finish_chain(&o, open_chain(&o, name), out);
}

int qc_chain_open_upper(qchain **out, qchain_env *env, const char *name, const qchain_open_opts *opts,
                        struct qc_split *split, qchain_error *err)
{
    qchain_open_opts open = *opts;
    struct opener o = {.env = env, .opts = &open, .err = err, .split = split};
    int ret;

    qc_target_init(&split->target);
    open.flags |= QCHAIN_OPEN_NO_INDEX; /* a sidecar tells of what is below as well */
    open.index = NULL;
    ret = finish_chain(&o, open_chain(&o, name), out);
    if (ret != 0)
        qc_split_finish(split);
    return ret;
}

int qc_chain_open_lower(qchain **out, qchain *upper, const qchain_open_opts *opts, struct qc_split *split,
                        qchain_error *err)
{
    qchain_open_opts open = *opts;
    struct opener o = {.env = upper->env, .opts = &open, .err = err, .split = split, .lower = true};

    open.flags |= QCHAIN_OPEN_WRITE;
    open.flags &= ~(uint32_t)QCHAIN_OPEN_FD;
    open.format = open.snapshot = open.data_file = open.index = NULL;
    open.store = NULL;
    split->gate.above = upper->n_layers;
    return finish_chain(&o, open_chain(&o, NULL), out);
}

/* The layers that the top of a chain would stand on. */
static int open_instead(struct opener *o, const qchain *top, const char *backing, const char *format)
{
    const struct qc_layer *l = &top->layer[0];
    struct qc_target t;
    int ret = qc_gate_init(&o->gate, o->env, o->opts, o->err);

    if (ret == 0 && (!top->by_caller || strchr(l->name, '/')))
        ret = qc_gate_add_name(&o->gate, l->name, o->err);
    if (ret == 0 && l->real_path)
        ret = qc_gate_add_real_path(&o->gate, l->real_path,
                                    &qc_source_opened(top, l->source)->identity, o->err);
    if (ret == 0)
        ret = qc_gate_decide(&o->gate, l, 0, QCHAIN_REF_BACKING, backing, format, &t, o->err);
    if (ret != 0)
        return ret;
    ret = open_layer(o, &t);
    qc_target_finish(&t);
    return ret == 0 ? open_below(o) : ret;
}

int qc_chain_open_backing(qchain **out, qchain *top, const char *backing, const char *format,
                          const qchain_open_opts *opts, qchain_error *err)
{
    struct opener o = {.env = top->env, .opts = opts, .err = err};
    int ret = make_chain(&o);

    if (ret == 0)
        ret = open_instead(&o, top, backing, format);
    qc_remote_abandon(o.side);
    qc_gate_finish(&o.gate);
    return finish_chain(&o, ret, out);
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

int qc_chain_open_alone(qchain **out, qchain_env *env, const char *name, const qchain_open_opts *opts,
                        bool write, qchain_error *err)
{
    qchain_open_opts open = *opts;
    struct opener o = {.env = env, .opts = &open, .err = err, .describe = true,
                       .file_flags = write ? QC_FILE_WRITE : 0};
    int ret;

    open.flags |= QCHAIN_OPEN_SALVAGE;
    ret = open_chain(&o, name);
    if (ret != 0) {
        qc_chain_close(o.c);
        return ret;
    }
    *out = o.c;
    return 0;
}
