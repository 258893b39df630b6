/* SPDX-License-Identifier: MIT */
/* The table of a sidecar: what its layers are, and whether that stays so. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "chain/chain.h"
#include "chain/sidecar.h"
#include "ops/index_build_int.h"
#include "ops/job.h"
#include "remote/remote.h"
#include "util/alloc.h"
#include "util/bytes.h"

uint64_t qc_build_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_REALTIME, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

int qc_build_refuse(struct qc_builder *b, uint32_t layer, const char *why)
{
    qc_fail(b->err, QCHAIN_E_UNSUPPORTED, "cannot have a sidecar index: %s", why);
    qc_layer_prefix(b->c, layer, b->err);
    return QCHAIN_E_UNSUPPORTED;
}

/* Look at source i, by a name that leads to it wherever the program went since the open. */
static int stat_source(const qchain *c, uint32_t i, struct stat *st)
{
    const struct qc_layer *l = &c->layer[c->source[i].layer];
    char *path = NULL;
    int ret;

    if (i == l->source && l->real_path)
        return stat(l->real_path, st);
    if (c->sidecar)
        path = qc_sidecar_file_path(c->sidecar, c->source[i].name);
    ret = stat(path ? path : c->source[i].name, st);
    qc_free(path);
    return ret;
}

/* Is source i an object? Then it is told from others by more than a time, each request that
 * walks it asks for that very one, and neither stat nor permissions tell anything of it. */
static bool is_remote(const qchain *c, uint32_t i)
{
    const struct qc_store *store = qc_source_opened(c, i);

    return store ? qc_remote_is(store)
                 : (qc_sidecar_source(c->sidecar, i)->flags & QC_IXF_REMOTE) != 0;
}

/* Shall holes be looked for in source i? And at which space on the medium was that found
 * out: looked at first, so that a file whose space changes meanwhile is asked again. */
static int find_holes(struct qc_builder *b, uint32_t i, bool *holes, uint64_t *allocated)
{
    struct qc_source *s = &b->c->source[i];
    int known = qc_source_opened(b->c, i) ? -1 : atomic_load(&s->holes), ret = 0;
    struct qc_image *img;
    struct stat st;

    *holes = known > 0;
    if (is_remote(b->c, i)) {
        *holes = false; /* what is fetched is fetched whole */
        *allocated = b->x.source[i].size;
        return 0;
    }
    if (known >= 0) {
        *allocated = qc_sidecar_source(b->c->sidecar, i)->allocated;
        return 0;
    }
    if (stat_source(b->c, i, &st) == 0)
        *allocated = (uint64_t)st.st_blocks * 512;
    img = qc_layer_image(b->c, s->layer, b->err);
    if (!img)
        return b->err->code;
    ret = img->format->may_have_holes(img, holes, b->err);
    if (ret != 0)
        qc_layer_prefix(b->c, s->layer, b->err);
    return ret;
}

/* The last component of where the top lies; to be freed. */
static char *name_of_top(const qchain *c)
{
    const struct qc_layer *l = &c->layer[0];
    const char *from = l->real_path ? l->real_path : c->source[l->source].shown;
    const char *slash = strrchr(from, '/');

    return qc_strndup(slash && slash[1] ? slash + 1 : from, QC_IXF_NAME_MAX);
}

/* Names as recorded, and what else is known of a layer without opening it. */
static int describe_source(const qchain *c, uint32_t i, struct qc_ixf_source *s, qchain_error *err)
{
    const struct qc_layer *l = &c->layer[c->source[i].layer];
    const struct qc_image *img = l->img, *above = s->layer ? (l - 1)->img : NULL;
    const struct qc_ixf_source *old = NULL;
    const char *name = NULL;

    if (!above || (i != l->source && !img))
        old = s->layer ? qc_sidecar_source(c->sidecar, i) : NULL;
    if (old) {
        name = old->name;
        s->flags = old->flags & QC_IXF_UNRECORDED;
    } else if (i != l->source) {
        name = img->data_file_name;
    } else if (s->layer > 0) {
        name = above->backing_name;
        s->flags = above->backing_format ? 0 : QC_IXF_UNRECORDED;
    }
    if (i == 0)
        s->name = name_of_top(c);
    else if (name) /* else given by the caller, not recorded */
        s->name = qc_strdup(name);
    if (!s->name && (i == 0 || name))
        return qc_fail_nomem(err);
    if (i != l->source) {
        s->flags = QC_IXF_DATA_FILE;
        return 0;
    }
    s->virtual_size = l->virtual_size;
    s->cluster_size = l->cluster_size;
    s->decoder_kind = img ? img->decoder_kind : qc_sidecar_source(c->sidecar, i)->decoder_kind;
    return 0;
}

/* Where a file lies, for people; to be freed. */
static char *location_of(const qchain *c, uint32_t i)
{
    const struct qc_layer *l = &c->layer[c->source[i].layer];
    char real[PATH_MAX];

    if (c->source[i].shown)
        return qc_strndup(c->source[i].shown, QC_IXF_NAME_MAX);
    if (i == l->source && l->real_path)
        return qc_strdup(l->real_path);
    return qc_strdup(realpath(c->source[i].name, real) ? real : c->source[i].name);
}

/* What a file is told by from what it is after a change. */
static int identify_file(struct qc_builder *b, uint32_t i, struct qc_ixf_source *s)
{
    const struct qc_store *store = qc_source_opened(b->c, i);

    if (store && (!qc_file_is_local(store) || qc_file_is_block_device(store) ||
                  !(store->identity.flags & QCHAIN_IDENTITY_HAS_MTIME)))
        return qc_build_refuse(b, s->layer, "it is no regular file");
    s->size = store ? store->size : qc_sidecar_source(b->c->sidecar, i)->size;
    s->mtime_ns = store ? store->identity.mtime_ns : qc_sidecar_source(b->c->sidecar, i)->mtime_ns;
    s->validator = qc_strdup("");
    return s->validator ? 0 : qc_fail_nomem(b->err);
}

/* The same of an object. */
static int identify_object(struct qc_builder *b, uint32_t i, struct qc_ixf_source *s)
{
    const struct qc_store *store = qc_source_opened(b->c, i);
    const struct qc_ixf_source *old = store ? NULL : qc_sidecar_source(b->c->sidecar, i);
    char text[256];

    if (store) {
        qc_pin_put(text, qc_remote_pin(store));
        s->size = store->size;
        if (qc_remote_pin(store)->mtime_s < UINT64_MAX / 1000000000u)
            s->mtime_ns = qc_remote_pin(store)->mtime_s * 1000000000u;
    } else {
        s->size = old->size;
        s->mtime_ns = old->mtime_ns;
    }
    s->validator = qc_strdup(store ? text : old->validator);
    if (!s->validator)
        return qc_fail_nomem(b->err);
    if (!*s->validator && s->mtime_ns == 0)
        return qc_build_refuse(b, s->layer, "its server sends neither an ETag nor a time, so a "
                               "change of it would not be noticed");
    return 0;
}

static int add_source(struct qc_builder *b, uint32_t i)
{
    qchain *c = b->c;
    struct qc_ixf_source *s = &b->x.source[i];
    const struct qc_layer *l = &c->layer[c->source[i].layer];
    bool remote = is_remote(c, i), holes;
    int ret;

    s->layer = c->source[i].layer;
    ret = (remote ? identify_object : identify_file)(b, i, s);
    if (ret == 0)
        ret = describe_source(c, i, s, b->err);
    if (ret == 0)
        ret = find_holes(b, i, &holes, &s->allocated);
    if (ret != 0)
        return ret;
    s->flags |= (holes ? QC_IXF_HOLES : 0) | (remote ? QC_IXF_REMOTE : 0);
    if (!s->name)
        return qc_build_refuse(b, s->layer, "its external data file is not named in the image");
    s->location = location_of(c, i);
    s->format = qc_strdup(i == l->source ? l->format->name : "raw");
    return s->location && s->format ? 0 : qc_fail_nomem(b->err);
}

int qc_build_table(struct qc_builder *b)
{
    const qchain *c = b->c;
    int ret = 0;

    b->x.source = qc_calloc(c->n_sources, sizeof(*b->x.source));
    if (!b->x.source)
        return qc_fail_nomem(b->err);
    b->x.header.n_sources = c->n_sources;
    b->x.header.n_layers = c->n_layers;
    b->x.header.virtual_size = c->size;
    for (uint32_t i = 0; ret == 0 && i < c->n_sources; i++)
        ret = add_source(b, i);
    return ret;
}

int qc_build_look_again(struct qc_builder *b)
{
    struct stat st;

    for (uint32_t i = 0; i < b->c->n_sources; i++) {
        struct qc_ixf_source *s = &b->x.source[i];

        if (s->flags & QC_IXF_REMOTE)
            continue; /* what was read of it was it */
        if (stat_source(b->c, i, &st) != 0) {
            qc_fail_errno(b->err, errno, "cannot look at it again");
        } else if ((uint64_t)st.st_size == s->size && st.st_mtim.tv_sec >= 0 &&
                   (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec ==
                       s->mtime_ns) {
            b->readers &= st.st_mode;
            if (s->mtime_ns + QC_SIDECAR_RACY_NS > b->x.header.built_ns)
                s->flags |= QC_IXF_RACY;
            continue;
        } else {
            qc_fail(b->err, QCHAIN_E_CHANGED, "was changed while its index was built");
        }
        qc_layer_prefix(b->c, s->layer, b->err);
        return b->err->code;
    }
    return 0;
}

int qc_build_wait(struct qc_builder *b)
{
    struct timespec nap = {0, 10 * 1000 * 1000};
    uint64_t now = qc_build_now(), newest = 0;
    int ret = 0;

    for (uint32_t i = 0; i < b->c->n_sources; i++) {
        const struct qc_ixf_source *s = &b->x.source[i];

        /* Told by its time alone, which is in whole seconds and of another clock. */
        if (s->flags & QC_IXF_REMOTE && (*s->validator || s->mtime_ns > now))
            continue;
        if (s->mtime_ns > now + QC_SIDECAR_RACY_NS && !(b->opts->flags & QCHAIN_INDEX_NO_WAIT)) {
            return qc_build_refuse(b, s->layer, "its modification time lies in the future; set "
                                   "it right with touch(1)");
        }
        newest = qc_max64(newest, s->mtime_ns);
    }
    if (b->opts->flags & QCHAIN_INDEX_NO_WAIT)
        return 0;
    while (ret == 0 && qc_build_now() < newest + QC_SIDECAR_RACY_NS) {
        nanosleep(&nap, NULL);
        ret = qc_job_check(b->opts->job, b->began_ns, b->err);
    }
    return ret;
}
