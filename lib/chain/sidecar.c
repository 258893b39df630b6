/* SPDX-License-Identifier: MIT */
#include "chain/sidecar.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chain/open.h"
#include "chain/verify.h"
#include "remote/remote.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/escape.h"

#define REPLACED_TRIES 10
#define HEAD_BYTES (64u << 10) /* read at once: for most sidecars all but the pages */
#define LOOK_INTO (64 * QC_IXF_WINDOW) /* what is left of a page: worth a look for what is used */

struct qc_sidecar {
    struct qc_ixf    x;
    struct qc_store *store;
    char            *path;
    char            *cwd;  /* names that are relative are so to this; NULL: not known */
    struct qc_gate   gate;
    uint32_t         file_flags;
    uint32_t         first_layer, first_source; /* of the chain: what its numbers begin at */
    qchain_env      *env;
    uint64_t         owner; /* of its pages in the block cache, by their offsets */
    atomic_bool      bad;
};

char *qc_sidecar_path(const char *image)
{
    size_t len = strlen(image);
    char *path = qc_malloc(len + sizeof(QC_SIDECAR_SUFFIX));

    if (!path)
        return NULL;
    memcpy(path, image, len);
    memcpy(path + len, QC_SIDECAR_SUFFIX, sizeof(QC_SIDECAR_SUFFIX));
    return path;
}

char *qc_sidecar_beside(const qchain *c, uint32_t k)
{
    const struct qc_layer *l = &c->layer[k];

    return l->real_path ? qc_sidecar_path(l->real_path)
                        : qc_remote_sibling(qc_source_opened(c, l->source), QC_SIDECAR_SUFFIX);
}

/* ------------------------------------------------------------------ reading --- */

/* A file that tells of an object: no permissions of that are known here. */
static int check_own(const struct stat *st, qchain_error *err)
{
    if (st->st_uid != geteuid() && st->st_uid != 0)
        return qc_fail(err, QCHAIN_E_ACCESS, "belongs to user %u: not to the caller or root, as that "
                       "of an image behind a URL must", (unsigned)st->st_uid);
    if (st->st_mode & (S_IWGRP | S_IWOTH))
        return qc_fail(err, QCHAIN_E_ACCESS, "others than its owner may write to it: chmod go-w and "
                       "build it again");
    return 0;
}

/* Who may write to the sidecar may make the chain read any byte of its files at any
 * place: that must be nobody who could not do so by writing to the image. */
static int check_owner(const struct stat *st, const char *tip, qchain_error *err)
{
    struct stat image;

    if (!S_ISREG(st->st_mode))
        return qc_fail(err, QCHAIN_E_ACCESS, "is not a regular file");
    if (!tip)
        return 0;
    if (qc_name_is_url(tip))
        return check_own(st, err);
    if (stat(tip, &image) != 0)
        return qc_fail_errno(err, errno, "cannot look at its image");
    if (st->st_uid != image.st_uid && st->st_uid != geteuid() && st->st_uid != 0)
        return qc_fail(err, QCHAIN_E_ACCESS, "belongs to user %u: not to the image's owner (%u), "
                       "nor to the caller or root", (unsigned)st->st_uid, (unsigned)image.st_uid);
    if (st->st_mode & S_IWOTH & ~image.st_mode)
        return qc_fail(err, QCHAIN_E_ACCESS, "everybody may write to it, but not to its image: "
                       "chmod o-w and build it again");
    if (st->st_mode & S_IWGRP && !(image.st_mode & S_IWGRP && image.st_gid == st->st_gid))
        return qc_fail(err, QCHAIN_E_ACCESS, "a group may write to it, but not to its image: "
                       "chmod g-w and build it again");
    return 0;
}

static int open_once(struct qc_store **out, qchain_env *env, const char *path, const char *tip,
                     qchain_error *err)
{
    struct qc_file_opts fo = {.fds = env->fds, .slots = env->slots, .log = &env->log,
                              .flags = QC_FILE_NO_LOCK, .fd = -1, .name = path};
    struct stat st;
    int ret;

    if (stat(path, &st) != 0)
        return qc_fail_errno(err, errno, "cannot open");
    ret = check_owner(&st, tip, err);
    if (ret == 0)
        ret = qc_file_open(out, path, &fo, NULL, err);
    if (ret != 0)
        return ret;
    /* The same file that was looked at? */
    if ((*out)->identity.inode == st.st_ino && (*out)->identity.device == st.st_dev)
        return 0;
    qc_store_destroy(*out);
    *out = NULL;
    return qc_fail(err, QCHAIN_E_CHANGED, "was replaced while it was opened");
}

/* Builders put a new one in its place at any time. */
static int open_sidecar(struct qc_store **out, qchain_env *env, const char *path, const char *tip,
                        qchain_error *err)
{
    int ret = open_once(out, env, path, tip, err);

    for (int i = 1; ret == QCHAIN_E_CHANGED && i < REPLACED_TRIES; i++) {
        qc_error_init(err);
        ret = open_once(out, env, path, tip, err);
    }
    return ret;
}

static int read_part(struct qc_store *store, void *buf, size_t n, uint64_t offset,
                     qchain_error *err)
{
    qc_count_bytes(store->slots, QC_CNT_SIDECAR_READS, n);
    return qc_store_read(store, buf, n, offset, QC_READ_META, err);
}

/* A part that lies in the head already, or is read; *own is then to be freed. */
static int get_part(struct qc_store *store, const uint8_t *head, size_t head_len, uint64_t offset,
                    size_t n, const uint8_t **part, uint8_t **own, qchain_error *err)
{
    *own = NULL;
    if (offset + n <= head_len) {
        *part = head + offset;
        return 0;
    }
    *part = *own = qc_malloc(n);
    if (!*own)
        return qc_fail_nomem(err);
    return read_part(store, *own, n, offset, err);
}

static int load_parts(struct qc_ixf *x, struct qc_store *store, uint8_t *head, size_t head_len,
                      qchain_error *err)
{
    uint8_t *table = NULL, *dir = NULL;
    const uint8_t *part;
    int ret;

    if (store->size < QC_IXF_HEADER_BYTES)
        return qc_fail(err, QCHAIN_E_CORRUPT, "is too short for a sidecar index");
    ret = read_part(store, head, head_len, 0, err);
    if (ret == 0)
        ret = qc_ixf_parse_header(&x->header, head, head_len, store->size, err);
    if (ret == 0)
        ret = get_part(store, head, head_len, x->header.table_offset, x->header.table_bytes, &part,
                       &table, err);
    if (ret == 0)
        ret = qc_ixf_parse_table(x, part, err);
    if (ret == 0)
        ret = get_part(store, head, head_len, x->header.dir_offset,
                       (size_t)x->header.n_pages * QC_IXF_DIR_BYTES, &part, &dir, err);
    if (ret == 0)
        ret = qc_ixf_parse_directory(x, part, err);
    qc_free(table);
    qc_free(dir);
    return ret;
}

int qc_sidecar_parse(struct qc_ixf *x, struct qc_store *store, qchain_error *err)
{
    size_t head_len = (size_t)qc_min64(store->size, HEAD_BYTES);
    uint8_t *head = qc_malloc(head_len + 1);
    int ret;

    memset(x, 0, sizeof(*x));
    ret = head ? load_parts(x, store, head, head_len, err) : qc_fail_nomem(err);
    qc_free(head);
    if (ret != 0)
        qc_ixf_finish(x);
    return ret;
}

/* The same of an object that is being opened. */
static int load_object(struct qc_ixf *x, struct qc_store **store, struct qc_opening *side,
                       qchain_error *err)
{
    int ret = qc_remote_finish(side, store, err);

    if (ret == 0)
        ret = qc_sidecar_parse(x, *store, err);
    if (ret == 0)
        return 0;
    qc_store_destroy(*store);
    *store = NULL;
    return ret;
}

int qc_sidecar_load(struct qc_ixf *x, struct qc_store **store, qchain_env *env, const char *path,
                    const char *tip, qchain_error *err)
{
    struct qc_opening *side;
    int ret;

    memset(x, 0, sizeof(*x));
    *store = NULL;
    if (qc_name_is_url(path)) {
        /* Who may write there may write to the image beside it, or the caller named it. */
        ret = qc_remote_begin(&side, env->remote, path, QC_REMOTE_WHOLE, err);
        return ret == 0 ? load_object(x, store, side, err) : ret;
    }
    ret = open_sidecar(store, env, path, tip, err);
    if (ret == 0)
        ret = qc_sidecar_parse(x, *store, err);
    if (ret == 0)
        return 0;
    qc_store_destroy(*store);
    *store = NULL;
    return ret;
}

int qc_sidecar_read_page(const struct qc_ixf *x, struct qc_store *store, uint32_t i, uint8_t *p,
                         qchain_error *err)
{
    int ret = read_part(store, p, x->page[i].bytes, x->page[i].offset, err);

    return ret == 0 ? qc_ixf_check_page(x, i, p, err) : ret;
}

/* ---------------------------------------------------------------- believing --- */

/* What an attempt to use a sidecar works with. */
struct attempt {
    qchain            *c;
    struct qc_sidecar *sc;
    struct qc_gate    *gate;
    qchain_error      *err; /* why it is not believed */
};

static int check_racy(const struct attempt *a, const struct qc_ixf_source *s)
{
    struct qc_escaped shown;

    if (s->flags & QC_IXF_REMOTE)
        return 0; /* objects are told apart by more than their time */
    if (s->mtime_ns <= UINT64_MAX - QC_SIDECAR_RACY_NS &&
        s->mtime_ns + QC_SIDECAR_RACY_NS <= a->sc->x.header.built_ns)
        return 0;
    return qc_fail(a->err, QCHAIN_E_CHANGED, "'%s' was modified less than two seconds before the "
                   "index was built: build it again", qc_name_shown(&shown, s->name));
}

static int is_changed(const struct attempt *a, const char *name)
{
    struct qc_escaped shown;

    return qc_fail(a->err, QCHAIN_E_CHANGED, "'%s' was changed since (size or modification time)",
                   qc_name_shown(&shown, name));
}

static int tells_otherwise(const struct attempt *a, const char *name)
{
    struct qc_escaped shown;

    return qc_fail(a->err, QCHAIN_E_CHANGED, "it tells of other files than the image '%s' names",
                   qc_name_shown(&shown, name));
}

int qc_sidecar_pin(struct qc_pin *pin, const struct qc_ixf_source *s, qchain_error *err)
{
    memset(pin, 0, sizeof(*pin));
    pin->size = s->size;
    pin->mtime_s = s->mtime_ns / 1000000000u;
    if (qc_pin_get(pin, s->validator))
        return 0;
    return qc_fail(err, QCHAIN_E_CORRUPT, "a validator of an unknown kind");
}

/* An open file must be what the sidecar says. */
static int check_open_source(const struct attempt *a, uint32_t i, const struct qc_ixf_source *s)
{
    const struct qc_store *store = qc_source_opened(a->c, i);
    const struct qc_pin *is = qc_remote_pin(store);
    struct qc_pin was;

    if ((is != NULL) != ((s->flags & QC_IXF_REMOTE) != 0))
        return tells_otherwise(a, a->c->source[i].name);
    if (is) {
        if (qc_sidecar_pin(&was, s, a->err) != 0)
            return a->err->code;
        return qc_pin_same(&was, is) ? 0 : is_changed(a, a->c->source[i].name);
    }
    if (store->size != s->size || !(store->identity.flags & QCHAIN_IDENTITY_HAS_MTIME) ||
        store->identity.mtime_ns != s->mtime_ns)
        return is_changed(a, a->c->source[i].name);
    return check_racy(a, s);
}

static bool same_name(const char *a, const char *b)
{
    return a ? b && strcmp(a, b) == 0 : !b;
}

/* The layer that the sidecar belongs to: its image is open. */
static int check_tip(const struct attempt *a)
{
    const struct qc_layer *l = &a->c->layer[a->sc->first_layer];
    const struct qc_ixf *x = &a->sc->x;
    const struct qc_ixf_source *s = x->source, *data = NULL, *below = NULL;
    const struct qc_image *img = l->img;
    uint32_t next = 1;
    int ret;

    if (next < x->header.n_sources && s[next].flags & QC_IXF_DATA_FILE)
        data = &s[next++];
    if (next < x->header.n_sources)
        below = &s[next];
    if (strcmp(s->format, img->format->name) != 0 || s->virtual_size != img->virtual_size ||
        s->cluster_size != img->cluster_size || s->decoder_kind != img->decoder_kind ||
        (data != NULL) != img->wants_data_file ||
        !same_name(img->data_file_name, data ? data->name : NULL) ||
        !same_name(img->backing_name, below ? below->name : NULL))
        return tells_otherwise(a, l->name);
    ret = check_open_source(a, l->source, s);
    if (ret == 0 && data)
        ret = check_open_source(a, l->data_source, data);
    return ret;
}

/* What the name leads to, unless it is a link that the gate does not let pass: of names
 * beside the top it has not looked for links yet. */
static int look_at(const struct attempt *a, const char *path, struct stat *st)
{
    struct qc_escaped shown;
    char real[PATH_MAX];
    int ret = lstat(path, st);

    if (ret == 0 && !S_ISLNK(st->st_mode))
        return 0;
    if (ret != 0 || !realpath(path, real) || stat(real, st) != 0)
        return qc_fail_errno(a->err, errno, "'%s'", qc_name_shown(&shown, path));
    return qc_gate_check_path(a->gate, real, a->err);
}

/* Note an object that the gate lets pass; whether it is what it was is seen when it is first read. */
static int add_unopened_url(const struct attempt *a, const struct qc_target *t, uint32_t layer,
                            const struct qc_ixf_source *s, uint16_t *number)
{
    qchain *c = a->c;
    struct qc_pin pin;
    int ret = qc_sidecar_pin(&pin, s, a->err);

    if (ret == 0)
        ret = qc_chain_add_source(c, NULL, layer, t->path, number, a->err);
    if (ret != 0)
        return ret;
    atomic_init(&c->source[*number].holes, 0);
    c->far = true;
    return qc_chain_check_loop(c, *number, a->err);
}

/* Look at a file that the gate lets pass, and note it. */
static int add_unopened(const struct attempt *a, const struct qc_target *t, uint32_t layer,
                        const struct qc_ixf_source *s, uint16_t *number)
{
    qchain *c = a->c;
    struct qc_source *source;
    struct stat st;
    int ret;

    if (t->is_store || t->fd >= 0 || t->vetted || !t->format ||
        strcmp(t->format, s->format) != 0 || t->is_url != ((s->flags & QC_IXF_REMOTE) != 0))
        return tells_otherwise(a, s->name);
    if (t->is_url)
        return add_unopened_url(a, t, layer, s, number);
    ret = look_at(a, t->path, &st);
    if (ret != 0)
        return ret;
    if (!S_ISREG(st.st_mode) || (uint64_t)st.st_size != s->size || st.st_mtim.tv_sec < 0 ||
        (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec != s->mtime_ns)
        return is_changed(a, t->path);
    ret = check_racy(a, s);
    if (ret == 0)
        ret = qc_chain_add_source(c, NULL, layer, t->path, number, a->err);
    if (ret != 0)
        return ret;
    source = &c->source[*number];
    source->has_inode = true;
    source->device = st.st_dev;
    source->inode = st.st_ino;
    if ((uint64_t)st.st_blocks * 512 == s->allocated)
        atomic_init(&source->holes, s->flags & QC_IXF_HOLES ? 1 : 0);
    return qc_chain_check_loop(c, *number, a->err);
}

static int add_layer(const struct attempt *a, const struct qc_ixf_source *s)
{
    qchain *c = a->c;
    uint32_t k = c->n_layers;
    const struct qc_layer *from = &c->layer[k - 1];
    const struct qc_image *above = from->img; /* the tip's, else not open */
    const char *format = s->flags & QC_IXF_UNRECORDED ? NULL : s->format;
    struct qc_target t;
    struct qc_layer *l;
    int ret;

    ret = qc_gate_decide(a->gate, from, k - 1, QCHAIN_REF_BACKING, s->name,
                         above ? above->backing_format : format, &t, a->err);
    if (ret == 0)
        ret = qc_chain_add_layer(c, t.path, a->err);
    if (ret != 0)
        goto out;
    l = &c->layer[k];
    ret = add_unopened(a, &t, k, s, &l->source);
    l->data_source = l->source;
    l->format = qc_open_format(s->format);
    l->virtual_size = s->virtual_size;
    l->limit = qc_min64(s->virtual_size, c->layer[k - 1].limit);
    l->cluster_size = s->cluster_size;
    if (ret == 0 && !l->format)
        ret = tells_otherwise(a, s->name);

out:
    qc_target_finish(&t);
    return ret;
}

static int add_data_file(const struct attempt *a, const struct qc_ixf_source *s)
{
    qchain *c = a->c;
    uint32_t k = c->n_layers - 1;
    struct qc_target t;
    int ret;

    ret = qc_gate_decide(a->gate, &c->layer[k], k, QCHAIN_REF_DATA_FILE, s->name, NULL, &t, a->err);
    if (ret == 0)
        ret = add_unopened(a, &t, k, s, &c->layer[k].data_source);
    qc_target_finish(&t);
    return ret;
}

/* May it be believed? Then the chain has its layers. */
static int believe(const struct attempt *a, uint32_t max_layers)
{
    struct qc_ixf *x = &a->sc->x;
    uint32_t i = a->c->layer[a->sc->first_layer].data_source - a->sc->first_source + 1u;
    int ret;

    if (a->sc->first_layer + x->header.n_layers > max_layers)
        return qc_fail(a->err, QCHAIN_E_LIMIT, "it has too many layers");
    ret = check_tip(a);
    for (; ret == 0 && i < x->header.n_sources; i++)
        ret = x->source[i].flags & QC_IXF_DATA_FILE ? add_data_file(a, &x->source[i])
                                                    : add_layer(a, &x->source[i]);
    return ret;
}

/* Layers are opened later, when the program may have gone elsewhere. */
static int keep_directory(const struct attempt *a)
{
    char cwd[PATH_MAX];

    if (!getcwd(cwd, sizeof(cwd)))
        return 0;
    a->sc->cwd = qc_strdup(cwd);
    return a->sc->cwd ? 0 : qc_fail_nomem(a->err);
}

static void not_used(qchain *c, const char *path, bool top, const qchain_error *why)
{
    struct qc_escaped shown;

    qc_log(&c->env->log, QCHAIN_LOG_WARN, "chain", "index '%s' is not used: %s",
           qc_name_shown(&shown, path), qchain_error_message(why));
    if (top) {
        qc_free(c->why_not);
        c->why_not = qc_strdup(qchain_error_message(why));
    }
}

int qc_sidecar_open_remote(qchain *c, uint32_t i, const char *url, struct qc_store **out,
                           qchain_error *err)
{
    struct qc_sidecar *sc = c->sidecar;
    struct qc_pin pin;
    int ret = qc_gate_check_url(&sc->gate, url, err);

    if (ret == 0)
        ret = qc_sidecar_pin(&pin, qc_sidecar_source(sc, i), err);
    return ret == 0 ? qc_remote_open_pinned(out, c->env->remote, url, &pin, err) : ret;
}

int qc_sidecar_attach(qchain *c, struct qc_gate *gate, uint32_t file_flags, uint32_t max_layers,
                      const char *path, struct qc_opening *side, qchain_error *err)
{
    uint32_t k = c->n_layers - 1, n_layers = c->n_layers, n_sources = c->n_sources;
    const char *tip = c->layer[k].real_path;
    struct qc_sidecar *sc = qc_calloc(1, sizeof(*sc));
    struct attempt a = {c, sc, gate, NULL};
    qchain_error why;
    int ret = 0;

    qc_error_init(&why);
    a.err = &why;
    if (sc)
        sc->path = path ? qc_strdup(path) : qc_sidecar_beside(c, k);
    if (!sc || !sc->path) {
        qc_remote_abandon(side);
        ret = qc_fail_nomem(err);
        goto out;
    }
    sc->env = c->env;
    sc->owner = atomic_fetch_add(&c->env->next_owner, 1);
    sc->first_layer = k;
    sc->first_source = c->layer[k].source;
    sc->file_flags = file_flags;
    if (side)
        ret = load_object(&sc->x, &sc->store, side, &why);
    else
        ret = qc_sidecar_load(&sc->x, &sc->store, c->env, sc->path, tip ? tip : c->layer[k].name,
                              &why);
    if (ret == 0)
        ret = believe(&a, max_layers);
    if (ret == 0)
        ret = qc_verify_all(c, sc, &why);
    if (ret == 0)
        ret = keep_directory(&a);
    if (ret == 0) {
        sc->gate = *gate;
        memset(gate, 0, sizeof(*gate));
        c->sidecar = sc;
        return 0;
    }
    qc_chain_truncate(c, n_layers, n_sources);
    if (ret == QCHAIN_E_NOMEM) {
        qc_error_copy(err, &why);
        goto out;
    }
    if (ret != QCHAIN_E_NOTFOUND || path || sc->store)
        not_used(c, sc->path, k == 0, &why);
    ret = 0;

out:
    qc_sidecar_destroy(sc);
    return ret;
}

void qc_sidecar_destroy(struct qc_sidecar *sc)
{
    if (!sc)
        return;
    if (sc->env)
        qc_block_drop_owner(sc->env->blocks, sc->owner);
    qc_store_destroy(sc->store);
    qc_ixf_finish(&sc->x);
    qc_gate_finish(&sc->gate);
    qc_free(sc->path);
    qc_free(sc->cwd);
    qc_free(sc);
}

/* ------------------------------------------------------------------- in use --- */

uint32_t qc_sidecar_first(const qchain *c)
{
    const struct qc_sidecar *sc = c->sidecar;

    return sc && !atomic_load_explicit(&sc->bad, memory_order_relaxed) ? sc->first_layer
                                                                       : c->n_layers;
}

/* Page i, checked and pinned; many windows and many threads need the same one. */
static int get_page(struct qc_sidecar *sc, uint32_t i, struct qc_block **out, qchain_error *err)
{
    uint64_t offset = sc->x.page[i].offset;
    struct qc_block *b = qc_block_find(sc->env->blocks, sc->owner, offset);
    int ret;

    *out = b;
    if (b)
        return 0;
    *out = b = qc_block_new(sc->x.page[i].bytes);
    if (!b)
        return qc_fail_nomem(err);
    ret = qc_sidecar_read_page(&sc->x, sc->store, i, b->data, err);
    if (ret == 0)
        qc_block_insert(sc->env->blocks, b, sc->owner, offset);
    return ret;
}

int qc_sidecar_runs(qchain *c, uint64_t start, uint64_t end, struct qc_runs *out,
                    qchain_error *err)
{
    struct qc_sidecar *sc = c->sidecar;
    struct qc_escaped shown;
    struct qc_block *b;
    int ret = 0;

    for (uint32_t i = qc_ixf_find_page(&sc->x, start);
         ret == 0 && i < sc->x.header.n_pages && sc->x.page[i].start < end; i++) {
        ret = get_page(sc, i, &b, err);
        if (ret == 0)
            ret = qc_ixf_decode_page(&sc->x, i, b->data, start, end, sc->first_source, out, err);
        if (b)
            qc_block_unpin(sc->env->blocks, b);
    }
    if (ret == 0 || ret == QCHAIN_E_NOMEM)
        return ret;
    if (!atomic_exchange(&sc->bad, true))
        qc_log(&c->env->log, QCHAIN_LOG_WARN, "chain", "index '%s' is not used any more: %s",
               qc_name_shown(&shown, sc->path), qchain_error_message(err));
    return ret;
}

/* A page that cannot be read is left to who wants its runs. */
static uint64_t next_in_page(struct qc_sidecar *sc, uint32_t i, uint64_t guest)
{
    struct qc_block *b;
    uint64_t at = guest;

    if (get_page(sc, i, &b, NULL) == 0)
        at = qc_ixf_next_used(&sc->x, i, b->data, guest);
    if (b)
        qc_block_unpin(sc->env->blocks, b);
    return at;
}

uint64_t qc_sidecar_next_used(const qchain *c, uint64_t guest)
{
    const struct qc_ixf *x = &c->sidecar->x;
    uint64_t at;

    if (guest >= x->header.virtual_size)
        return UINT64_MAX;
    for (uint32_t i = qc_ixf_find_page(x, guest); i < x->header.n_pages; i++) {
        if (x->page[i].nothing)
            continue;
        at = qc_max64(guest, x->page[i].start);
        if (qc_ixf_page_end(x, i) - at > LOOK_INTO)
            at = next_in_page(c->sidecar, i, at);
        if (at != UINT64_MAX)
            return at;
    }
    return UINT64_MAX;
}

const struct qc_ixf *qc_sidecar_content(const struct qc_sidecar *sc)
{
    return &sc->x;
}

struct qc_store *qc_sidecar_store(const struct qc_sidecar *sc)
{
    return sc->store;
}

const struct qc_ixf_source *qc_sidecar_source(const struct qc_sidecar *sc, uint32_t i)
{
    return &sc->x.source[i - sc->first_source];
}

bool qc_sidecar_pins(const struct qc_sidecar *sc, const qchain *c, uint32_t i, struct qc_pin *pin)
{
    const struct qc_ixf_source *s = i >= sc->first_source ? qc_sidecar_source(sc, i) : NULL;

    return s && s->flags & QC_IXF_REMOTE && !qc_source_opened(c, i) &&
           qc_sidecar_pin(pin, s, NULL) == 0;
}

char *qc_sidecar_file_path(const struct qc_sidecar *sc, const char *name)
{
    size_t dir = sc->cwd && name[0] != '/' && !qc_name_is_url(name) ? strlen(sc->cwd) : 0;
    size_t len = strlen(name);
    char *path;

    if (dir == 0)
        return qc_strdup(name);
    path = qc_malloc(dir + 1 + len + 1);
    if (!path)
        return NULL;
    memcpy(path, sc->cwd, dir);
    path[dir] = '/';
    memcpy(path + dir + 1, name, len + 1);
    return path;
}

struct qc_gate *qc_sidecar_gate(struct qc_sidecar *sc)
{
    return &sc->gate;
}

uint32_t qc_sidecar_file_flags(const struct qc_sidecar *sc)
{
    return sc->file_flags;
}
