/* SPDX-License-Identifier: MIT */
/* Describing and removing sidecars. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chain/chain.h"
#include "chain/names.h"
#include "chain/sidecar.h"
#include "ops/index_build.h"
#include "remote/remote.h"
#include "util/alloc.h"
#include "util/escape.h"

/* There is no place beside an image, or no memory to say where it is. */
static int no_place(const char *url, qchain_error *err)
{
    if (!url || !strchr(url, '?'))
        return qc_fail_nomem(err);
    return qc_fail(err, QCHAIN_E_INVAL, "the image's URL is signed, for the image alone: what is beside "
                   "it is not known; say where the index is with --index (qchain_index_opts.name)");
}

int qc_index_place(char **path, const qchain *c, const char *name, qchain_error *err)
{
    const struct qc_layer *top = &c->layer[0];
    bool remote = qc_remote_is(qc_source_opened(c, top->source));

    *path = NULL;
    if (!name && !top->real_path && !remote)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED, "the image is no file, so it has none");
    *path = name ? qc_strdup(name) : qc_sidecar_beside(c, 0);
    return *path ? 0 : no_place(!name && remote ? top->name : NULL, err);
}

int qc_index_place_of(char **path, qchain_env *env, const char *url, qchain_error *err)
{
    int ret;

    *path = NULL;
    ret = qc_remote_sibling_of(path, env->remote, url, QC_SIDECAR_SUFFIX, err);
    return ret != 0 || *path ? ret : no_place(url, err);
}

/* ----------------------------------------------------------------- describing --- */

static int describe_files(qchain_index_info *info, const struct qc_ixf *x, qchain_error *err)
{
    qchain_index_file *file = qc_calloc(x->header.n_sources, sizeof(*file));

    info->files = file;
    if (!file)
        return qc_fail_nomem(err);
    info->n_files = x->header.n_sources;
    for (uint32_t i = 0; i < x->header.n_sources; i++) {
        const struct qc_ixf_source *s = &x->source[i];

        file[i].layer = s->layer;
        file[i].flags = (s->flags & QC_IXF_DATA_FILE ? QCHAIN_INDEX_FILE_DATA : 0) |
                        (s->flags & QC_IXF_RACY ? QCHAIN_INDEX_FILE_RACY : 0) |
                        (s->flags & QC_IXF_HOLES ? QCHAIN_INDEX_FILE_HOLES : 0) |
                        (s->flags & QC_IXF_REMOTE ? QCHAIN_INDEX_FILE_REMOTE : 0);
        file[i].virtual_size = s->virtual_size;
        file[i].cluster_size = s->cluster_size;
        file[i].size = s->size;
        file[i].mtime_ns = s->mtime_ns;
        file[i].name = qc_name_shown_dup(s->name);
        file[i].location = qc_name_shown_dup(s->location);
        file[i].format = qc_escape_dup(s->format, strlen(s->format));
        if (!file[i].name || !file[i].location || !file[i].format)
            return qc_fail_nomem(err);
    }
    return 0;
}

void qc_index_info_finish(qchain_index_info *info)
{
    for (uint32_t i = 0; i < info->n_files; i++) {
        qc_free((char *)info->files[i].name);
        qc_free((char *)info->files[i].location);
        qc_free((char *)info->files[i].format);
    }
    qc_free((qchain_index_file *)info->files);
    qc_free((char *)info->name);
    qc_free((char *)info->why_not);
}

/* Would it be believed now? *why receives a sentence, or NULL. */
static int ask_why_not(char **why, qchain_env *env, const char *image,
                       const qchain_open_opts *opts, qchain_error *err)
{
    const char *text = NULL;
    qchain_error failed;
    qchain *c = NULL;
    int ret;

    *why = NULL;
    qc_error_init(&failed);
    ret = qc_chain_open(&c, env, image, opts, &failed);
    if (ret == QCHAIN_E_NOMEM)
        return qc_fail_nomem(err);
    if (ret != 0)
        text = qchain_error_message(&failed);
    else if (c->why_not)
        text = c->why_not;
    else if (!c->sidecar || qc_sidecar_first(c) != 0)
        text = "none is used with these options";
    if (text)
        *why = qc_strdup(text);
    qc_chain_close(c);
    return text && !*why ? qc_fail_nomem(err) : 0;
}

/* The path of the image's sidecar. */
static int find_path(char **path, qchain_env *env, const char *image, const qchain_open_opts *opts,
                     qchain_error *err)
{
    qchain_open_opts alone = *opts;
    qchain *c = NULL;
    int ret;

    *path = NULL;
    if (opts->index) {
        *path = qc_strdup(opts->index);
        return *path ? 0 : qc_fail_nomem(err);
    }
    alone.flags |= QCHAIN_OPEN_NO_INDEX | QCHAIN_OPEN_NO_BACKING;
    ret = qc_chain_open(&c, env, image, &alone, err);
    if (ret == 0) {
        ret = qc_index_place(path, c, NULL, err);
        qc_error_prefix(err, -1, "index: ");
    }
    qc_chain_close(c);
    return ret;
}

int qc_index_inspect(qchain_index_info *info, qchain_env *env, const char *image,
                     const qchain_open_opts *opts, qchain_error *err)
{
    struct qc_store *store = NULL;
    struct qc_escaped shown;
    struct qc_ixf x = {0};
    char *path, *why = NULL;
    int ret = find_path(&path, env, image, opts, err);

    if (ret != 0)
        return ret;
    ret = qc_sidecar_load(&x, &store, env, path, NULL, err);
    if (ret != 0) {
        qc_error_prefix(err, -1, "index '%s': ", qc_name_shown(&shown, path));
        goto out;
    }
    info->version = 1;
    info->file_size = x.header.file_size;
    info->virtual_size = x.header.virtual_size;
    info->built_ns = x.header.built_ns;
    info->n_runs = x.header.n_runs;
    info->n_pages = x.header.n_pages;
    info->n_layers = x.header.n_layers;
    info->name = qc_name_shown_dup(path);
    ret = info->name ? describe_files(info, &x, err) : qc_fail_nomem(err);
    if (ret == 0)
        ret = ask_why_not(&why, env, image, opts, err);
    info->why_not = why;

out:
    qc_store_destroy(store);
    qc_ixf_finish(&x);
    qc_free(path);
    return ret;
}

/* ------------------------------------------------------------------- removing --- */

static int is_none(qchain_error *err)
{
    return qc_fail(err, QCHAIN_E_INVAL, "is no sidecar index; it is left alone");
}

static int drop_file(const char *path, qchain_error *err)
{
    char magic[8] = {0};
    struct stat st;
    int fd, ret = 0;

    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOFOLLOW);
    if (fd < 0) {
        ret = qc_fail_errno(err, errno, "cannot open");
    } else if (fstat(fd, &st) != 0) {
        ret = qc_fail_errno(err, errno, "fstat");
    } else if (!S_ISREG(st.st_mode) || pread(fd, magic, sizeof(magic), 0) < 0 ||
               (st.st_size > 0 && memcmp(magic, "QCHAINIX", sizeof(magic)) != 0)) {
        ret = is_none(err);
    } else if (unlink(path) != 0) {
        ret = qc_fail_errno(err, errno, "cannot remove");
    }
    if (fd >= 0)
        close(fd);
    return ret;
}

int qc_index_check_object(qchain_env *env, const char *url, qchain_error *err)
{
    struct qc_store *store = NULL;
    struct qc_opening *head;
    char magic[8] = {0};
    int ret = qc_remote_begin(&head, env->remote, url, 0, err);

    if (ret == 0)
        ret = qc_remote_finish(head, &store, err);
    if (ret == 0 && store->size > 0)
        ret = store->size < sizeof(magic)
                  ? is_none(err)
                  : qc_store_read(store, magic, sizeof(magic), 0, QC_READ_META, err);
    if (ret == 0 && store->size > 0 && memcmp(magic, "QCHAINIX", sizeof(magic)) != 0)
        ret = is_none(err);
    qc_store_destroy(store);
    return ret;
}

int qc_index_drop(qchain_env *env, const char *path, qchain_error *err)
{
    int ret;

    if (!qc_name_is_url(path))
        return drop_file(path, err);
    ret = qc_env_enter(env, err);
    if (ret == 0)
        ret = qc_index_check_object(env, path, err);
    return ret == 0 ? qc_remote_delete(env->remote, path, err) : ret;
}
