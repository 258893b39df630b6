/* SPDX-License-Identifier: MIT */
/* Making images: options, the backing file, where the bytes go, and when they can be seen. */
#include "ops/create.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "chain/chain.h"
#include "chain/names.h"
#include "format/reserve.h"
#include "io/newfile.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/escape.h"

#define MAX_DISK (INT64_MAX & ~INT64_C(511))

/* --------------------------------------------------------------- options --- */

static bool is_raw(const qchain_create_opts *o)
{
    return o->format && strcmp(o->format, "raw") == 0;
}

static int parse_raw(const qchain_create_opts *o, qchain_error *err)
{
    const char *what = o->version         ? "version"
                       : o->cluster_size  ? "cluster_size"
                       : o->refcount_bits ? "refcount_bits"
                       : o->compression   ? "compression"
                       : o->backing_file || o->backing_format ? "backing_file"
                       : o->data_file     ? "data_file"
                       : o->flags & ~(uint32_t)QCHAIN_CREATE_KEEP ? "flags"
                                                              : NULL;

    if (what)
        return qc_fail(err, QCHAIN_E_INVAL, "create: %s: a raw image has no such thing", what);
    if (o->preallocation == QCHAIN_PREALLOC_METADATA || o->preallocation > QCHAIN_PREALLOC_FULL)
        return qc_fail(err, QCHAIN_E_INVAL,
                       "create: preallocation=%" PRIu32 ": a raw image knows off, falloc and full",
                       o->preallocation);
    return QCHAIN_OK;
}

int qc_create_parse(struct qc2_create_opts *out, bool *raw, const qchain_create_opts *o,
                    qchain_error *err)
{
    struct qc_escaped text;

    *raw = is_raw(o);
    *out = (struct qc2_create_opts){
        .version = o->version ? o->version : 3,
        .cluster_size = o->cluster_size ? o->cluster_size : 65536,
        .refcount_bits = o->refcount_bits ? o->refcount_bits : 16,
        .compression = o->compression,
        .preallocation = o->preallocation,
        .extended_l2 = o->flags & QCHAIN_CREATE_EXTENDED_L2,
        .lazy_refcounts = o->flags & QCHAIN_CREATE_LAZY_REFCOUNTS,
        .data_file_raw = o->flags & QCHAIN_CREATE_DATA_FILE_RAW,
        .backing_file = o->backing_file,
        .backing_format = o->backing_format,
        .data_file = o->data_file,
    };
    if (*raw)
        return parse_raw(o, err);
    if (o->format && strcmp(o->format, "qcow2") != 0)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED,
                       "create: format '%s' is not known to this library; there are qcow2 and raw",
                       qc_escape_str(&text, o->format));
    if ((o->backing_file && !*o->backing_file) || (o->data_file && !*o->data_file))
        return qc_fail(err, QCHAIN_E_INVAL, "create: the name of a backing or data file is empty");
    return qc2_create_check(out, err);
}

int qc_create_round(uint64_t *size, qchain_error *err)
{
    if (*size > MAX_DISK)
        return qc_fail(err, QCHAIN_E_LIMIT,
                       "create: size=%" PRIu64 ": a disk has at most 2^63 - 512 bytes", *size);
    *size = qc_align_up(*size, 512);
    return QCHAIN_OK;
}

/* ---------------------------------------------------------------- a file --- */

/* A file to be written: a new one that takes the name at the end, or, of devices and data files that are there, the
 * one that has it. */
struct target {
    char              *path;   /* real, if it exists */
    bool               exists, in_place;
    struct stat        st;
    struct qc_newfile *file;
    struct qc_store   *store, *old; /* old: what is replaced, held so that nobody else uses it */
};

static void target_finish(struct target *t)
{
    if (t->in_place)
        qc_store_destroy(t->store);
    qc_newfile_abort(t->file);
    qc_store_destroy(t->old);
    qc_free(t->path);
}

/* Follow links, so that what they lead to is replaced and not they. */
static int target_find(struct target *t, const char *path, qchain_error *err)
{
    char *real;

    t->exists = stat(path, &t->st) == 0;
    real = t->exists ? realpath(path, NULL) : NULL;
    t->path = qc_strdup(real ? real : path);
    free(real);
    return t->path ? 0 : qc_fail_nomem(err);
}

/* existing: the file that has the name is to be written, not replaced. */
static int target_open(struct target *t, qchain_env *env, bool existing, qchain_error *err)
{
    struct qc_file_opts fo = {.fds = env->fds, .slots = env->slots, .log = &env->log, .fd = -1,
                              .flags = QC_FILE_WRITE | QC_FILE_FORMAT_LOCK | QC_FILE_BLOCK_DEVICE,
                              .name = t->path};
    int ret = 0;

    t->in_place = t->exists && (existing || S_ISBLK(t->st.st_mode));
    if (t->exists)
        ret = qc_file_open(t->in_place ? &t->store : &t->old, t->path, &fo, NULL, err);
    if (ret != 0 || t->in_place)
        return ret;
    ret = qc_newfile_create(&t->file, t->path, t->exists ? &t->st : NULL, err);
    return ret == 0 ? qc_newfile_store(t->file, &t->store, &fo, err) : ret;
}

/* Give it its name, if it is new; durable: with what it holds. */
static int target_commit(struct target *t, bool durable, qchain_error *err)
{
    struct qc_newfile *f = t->file;

    t->file = NULL;
    if (f)
        return durable ? qc_newfile_commit(f, err) : qc_newfile_rename(f, err);
    return durable && t->store ? qc_store_flush(t->store, err) : 0;
}

static bool same_file(const struct target *a, const struct target *b)
{
    if (a->exists && b->exists)
        return a->st.st_dev == b->st.st_dev && a->st.st_ino == b->st.st_ino;
    return strcmp(a->path, b->path) == 0;
}

/* --------------------------------------------------------------- writing --- */

struct qc_creating {
    qchain_env               *env;
    const qchain_create_opts *opts;
    struct qc2_create_opts    o;
    bool                      raw;
    struct target             image, data;
    bool                      data_named; /* the data file has its name, and has it from us */
    qchain_error             *err;
};

/* Where the backing file's name leads from the image; it is no file that is about to be written. */
static int find_backing(struct qc_creating *c, char **path)
{
    struct qc_name n = {0};
    struct stat st;
    int ret;

    *path = qc_name_resolve(c->image.path, c->o.backing_file);
    if (!*path)
        return qc_fail_nomem(c->err);
    ret = qc_name_parse(&n, *path, c->err);
    if (ret == 0 && n.path && !n.is_url && stat(n.path, &st) == 0 &&
        ((c->image.exists && st.st_dev == c->image.st.st_dev && st.st_ino == c->image.st.st_ino) ||
         (c->data.exists && st.st_dev == c->data.st.st_dev && st.st_ino == c->data.st.st_ino)))
        ret = qc_fail(c->err, QCHAIN_E_INVAL, "create: the image or its data file is its own backing file");
    qc_name_finish(&n);
    return ret;
}

static bool is_source(const qchain *c, const struct target *t)
{
    for (uint32_t i = 0; t->exists && i < c->n_sources; i++)
        if (c->source[i].has_inode && c->source[i].inode == t->st.st_ino && c->source[i].device == t->st.st_dev)
            return true;
    return false;
}

/* See that the backing file and all below it can be opened; its size if none was given. */
static int look_at_backing(struct qc_creating *c)
{
    qchain_open_opts open = {.struct_size = sizeof(open), .format = c->o.backing_format,
                             .policy = c->opts->policy, .fd = -1};
    bool look = c->o.backing_file && !(c->opts->flags & QCHAIN_CREATE_UNSAFE_BACKING);
    qchain *below = NULL;
    char *path = NULL;
    int ret;

    if (!look && c->o.size == UINT64_MAX)
        return qc_fail(c->err, QCHAIN_E_INVAL, "create: the size of the disk must be given");
    if (!c->o.backing_file)
        return QCHAIN_OK;
    ret = find_backing(c, &path);
    if (ret == 0 && look) {
        ret = qc_chain_open(&below, c->env, path, &open, c->err);
        if (ret != 0)
            qc_error_prefix(c->err, -1, "the backing file: ");
        else if (is_source(below, &c->image) || is_source(below, &c->data))
            ret = qc_fail(c->err, QCHAIN_E_INVAL,
                          "create: the backing file needs the file that is to be replaced, or written as data file");
        if (ret == 0 && c->o.size == UINT64_MAX)
            c->o.size = below->size;
        qc_chain_close(below);
    }
    qc_free(path);
    return ret;
}

static int find_data_file(struct qc_creating *c)
{
    char *path;
    int ret;

    if (!c->o.data_file)
        return QCHAIN_OK;
    if (qc_name_scheme(c->o.data_file))
        return qc_fail(c->err, QCHAIN_E_UNSUPPORTED, "create: the data file must be named by a path");
    path = qc_name_resolve(c->image.path, c->o.data_file);
    if (!path)
        return qc_fail_nomem(c->err);
    ret = target_find(&c->data, path, c->err);
    if (ret == 0 && same_file(&c->image, &c->data))
        ret = qc_fail(c->err, QCHAIN_E_INVAL, "create: the image is its own data file");
    qc_free(path);
    return ret;
}

static int write_raw(struct qc_creating *c)
{
    struct qc_store *s = c->image.store;
    uint64_t size = c->o.size;
    int ret;

    if (!c->image.in_place) {
        ret = qc_store_resize(s, size, c->err);
        return ret == 0 ? qc_reserve(s, size, 0, c->o.preallocation, c->err) : ret;
    }
    if (qc_store_size(s) < size)
        return qc_fail(c->err, QCHAIN_E_NOSPACE, "create: the device has %" PRIu64 " bytes, not %" PRIu64,
                       qc_store_size(s), size);
    /* What it began with shall not be taken for an image of another format. */
    ret = qc_store_zero(s, qc_min64(512, qc_store_size(s)), 0, false, c->err);
    return ret == 0 && c->o.preallocation == QCHAIN_PREALLOC_FULL
               ? qc_reserve(s, size, 0, c->o.preallocation, c->err)
               : ret;
}

/* The data file first: an image is not there without it. */
static int write_files(struct qc_creating *c)
{
    struct qc_escaped text;
    int ret;

    ret = c->o.data_file ? target_open(&c->data, c->env, true, c->err) : 0;
    if (ret == 0)
        ret = target_open(&c->image, c->env, false, c->err);
    if (ret != 0)
        return ret;
    if (c->opts->flags & QCHAIN_CREATE_KEEP)
        qc_newfile_keep(c->image.file);
    c->o.in_place = c->image.in_place;
    ret = c->raw ? write_raw(c) : qc2_create(c->image.store, c->data.store, &c->o, c->err);
    if (ret != 0)
        qc_error_prefix(c->err, -1, "%s: ", qc_name_shown(&text, c->image.path));
    if (ret == 0 && c->o.data_file) {
        ret = target_commit(&c->data, true, c->err);
        c->data_named = ret == 0 && !c->data.exists;
    }
    return ret;
}

static int create_at(struct qc_creating *c, const char *path)
{
    struct qc_escaped text;
    struct qc2_layout l;
    int ret = target_find(&c->image, path, c->err);

    if (ret == 0 && c->image.exists && c->opts->flags & QCHAIN_CREATE_KEEP)
        ret = qc_fail(c->err, QCHAIN_E_EXISTS, "create: the file exists");
    if (ret == 0)
        ret = find_data_file(c);
    if (ret == 0)
        ret = look_at_backing(c);
    if (ret == 0)
        ret = qc_create_round(&c->o.size, c->err);
    if (ret == 0 && !c->raw) /* before any file is made */
        ret = qc2_create_layout(&l, &c->o, c->err);
    if (ret != 0)
        qc_error_prefix(c->err, -1, "%s: ", qc_name_shown(&text, path));
    else
        ret = write_files(c); /* whose messages name the file already */
    return ret;
}

static int begin(struct qc_creating *c, const char *name)
{
    const qchain_create_opts *o = c->opts;
    struct qc_name n = {0};
    int ret = qc_create_parse(&c->o, &c->raw, o, c->err);

    c->o.size = o->size;
    if (ret == 0 && o->backing_file && !(o->backing_format && *o->backing_format))
        ret = qc_fail(c->err, QCHAIN_E_INVAL, "create: a backing file needs its format to be given");
    if (ret == 0)
        ret = qc_name_parse(&n, name, c->err);
    if (ret == 0 && (n.is_url || !n.path))
        ret = qc_fail(c->err, QCHAIN_E_UNSUPPORTED, "create: images are made in local files only");
    if (ret == 0)
        ret = create_at(c, n.path);
    qc_name_finish(&n);
    return ret;
}

int qc_create_begin(struct qc_creating **out, qchain_env *env, const char *name, const qchain_create_opts *o,
                    qchain_error *err)
{
    struct qc_creating *c = qc_calloc(1, sizeof(*c));
    int ret;

    if (!c)
        return qc_fail_nomem(err);
    c->env = env;
    c->opts = o;
    c->err = err;
    ret = begin(c, name);
    if (ret == 0)
        *out = c;
    else
        qc_create_end(c);
    return ret;
}

bool qc_create_in_place(const struct qc_creating *c)
{
    return c->image.in_place;
}

/* By its descriptor, since it has no name yet; what it refers to is found from where it will lie. */
int qc_create_open(struct qc_creating *c, uint32_t flags, qchain **out, qchain_error *err)
{
    qchain_open_opts open = {.struct_size = sizeof(open), .format = c->raw ? "raw" : "qcow2", .fd = -1,
                             .policy = c->opts->policy, .flags = flags | QCHAIN_OPEN_WRITE | QCHAIN_OPEN_NO_INDEX};
    const char *dir = strchr(c->image.path, '/') ? "" : "./";
    char *name = qc_malloc(strlen(dir) + strlen(c->image.path) + 1), *data = NULL;
    int ret = name ? 0 : qc_fail_nomem(err);

    if (ret == 0 && c->o.data_file) {
        qc_store_destroy(c->data.in_place ? c->data.store : NULL); /* and with it its lock */
        c->data.store = NULL;
        open.data_file = data = qc_name_resolve(c->image.path, c->o.data_file);
        ret = data ? 0 : qc_fail_nomem(err);
    }
    if (ret == 0) {
        sprintf(name, "%s%s", dir, c->image.path);
        if (c->image.in_place) {
            qc_store_destroy(c->image.store);
            c->image.store = NULL;
        } else {
            open.flags |= QCHAIN_OPEN_FD;
            open.fd = qc_newfile_fd(c->image.file);
        }
        ret = qc_chain_open(out, c->env, name, &open, err);
    }
    qc_free(name);
    qc_free(data);
    return ret;
}

int qc_create_commit(struct qc_creating *c, bool durable, qchain_error *err)
{
    int ret = target_commit(&c->image, durable, err);

    if (ret == 0)
        c->data_named = false;
    return ret;
}

void qc_create_end(struct qc_creating *c)
{
    if (!c)
        return;
    if (c->data_named)
        unlink(c->data.path);
    target_finish(&c->image);
    target_finish(&c->data);
    qc_free(c);
}

int qc_create(qchain_env *env, const char *name, const qchain_create_opts *o, qchain_error *err)
{
    struct qc_creating *c;
    int ret = qc_create_begin(&c, env, name, o, err);

    if (ret != 0)
        return ret;
    ret = qc_create_commit(c, true, err);
    qc_create_end(c);
    return ret;
}
