/* SPDX-License-Identifier: MIT */
/* nbdkit_config.c - the command line: names, policy, how URLs are reached. */
#include <stdlib.h>
#include <string.h>

#include "nbdkit_qchain.h"

struct qcn_config qcn_config;

const char qcn_config_help[] =
    "[file=]IMAGE             the image, a path or URL; all layers below it are found\n"
    "export=NAME=IMAGE        another one, for clients that ask for NAME (several times)\n"
    "write=true               the top layer may be written to (default: read-only)\n"
    "format=qcow2|raw         format of the images, instead of looking\n"
    "cache=MODE               none, writeback (default), writethrough, directsync, unsafe\n"
    "snapshot=NAME            the disk of an internal snapshot\n"
    "copy-on-read=true        keep in the top layer what is read of those below\n"
    "force-share=true         take no locks, mind none\n"
    "index=FILE               the sidecar index of the image of file=\n"
    "no-index=true            use no sidecar index\n"
    "allow-path=DIR           layers may lie beneath DIR, too (several times)\n"
    "allow-url=URL            layers may lie beneath URL, too (several times)\n"
    "backing-format=FMT       format of backing files that record none\n"
    "trust=true               follow every reference that an image makes\n"
    "remote=RULE              how URLs are reached: a rule of qchain-remote(5) (several times)\n"
    "remote-config=FILE       rules from a file\n"
    "cache-dir=DIR            a disk cache for what is read from URLs";

/* ----------------------------------------------------------------------- rules --- */

static int tell(int r)
{
    if (r == 0)
        return 0;
    nbdkit_error("%s", qchain_error_message(qcn_error()));
    return -1;
}

static int load_policy(void)
{
    const char *path = program_policy_file();

    return path ? tell(qchain_policy_load(qcn_config.policy, path, qcn_error())) : 0;
}

static int load_remote(void)
{
    char *path = program_remote_file();
    int r = path ? tell(qchain_remote_load(qcn_config.remote, path, qcn_error())) : 0;

    free(path);
    return r;
}

/* What the files say comes first, so that the command line has the last word. */
int qcn_config_load(void)
{
    if (qcn_config.policy)
        return 0;
    qcn_config.policy = qchain_policy_create();
    qcn_config.remote = qchain_remote_create();
    if (!qcn_config.policy || !qcn_config.remote) {
        nbdkit_error("out of memory");
        return -1;
    }
    return load_policy() == 0 ? load_remote() : -1;
}

void qcn_config_free(void)
{
    size_t i;

    for (i = 0; i < qcn_config.n_exports; i++)
        pthread_mutex_destroy(&qcn_config.exports[i].lock);
    free(qcn_config.exports);
    qchain_policy_destroy(qcn_config.policy);
    qchain_remote_destroy(qcn_config.remote);
    memset(&qcn_config, 0, sizeof(qcn_config));
}

/* ----------------------------------------------------------------------- names --- */

/* The name as it holds when nbdkit has gone to another directory; NULL after a complaint. */
static const char *lasting_name(const char *name)
{
    const char *interned;
    char *absolute;

    if (program_is_url(name) || strncmp(name, "json:", 5) == 0)
        return name;
    name += strncmp(name, "file:", 5) == 0 ? 5 : 0;
    if (!*name) {
        nbdkit_error("the name of an image is missing");
        return NULL;
    }
    absolute = nbdkit_absolute_path(name);
    interned = absolute ? nbdkit_strdup_intern(absolute) : NULL;
    free(absolute);
    return interned;
}

static int add_export(const char *name, const char *image)
{
    struct qcn_config *f = &qcn_config;
    struct qcn_export *grown, e = {.name = name, .image = lasting_name(image), .lock = PTHREAD_MUTEX_INITIALIZER};
    bool is_default = *name == '\0';
    size_t i;

    if (!e.image)
        return -1;
    for (i = 0; i < f->n_exports; i++) {
        if (strcmp(f->exports[i].name, name) == 0) {
            nbdkit_error(is_default ? "file= is given twice: for several images say export=NAME=IMAGE%s"
                                    : "there are two exports called '%s'", name);
            return -1;
        }
    }
    grown = realloc(f->exports, (f->n_exports + 1) * sizeof(*grown));
    if (!grown) {
        nbdkit_error("out of memory");
        return -1;
    }
    f->exports = grown;
    if (is_default)
        memmove(grown + 1, grown, f->n_exports * sizeof(*grown));
    grown[is_default ? 0 : f->n_exports] = e;
    f->n_exports++;
    f->has_default = f->has_default || is_default;
    return 0;
}

static int take_export(const char *value)
{
    const char *equals = strchr(value, '='), *name;

    if (!equals || equals == value || (size_t)(equals - value) > 4096) {
        nbdkit_error("export=%s: what is wanted is export=NAME=IMAGE", value);
        return -1;
    }
    name = nbdkit_strndup_intern(value, (size_t)(equals - value));
    return name ? add_export(name, equals + 1) : -1;
}

/* ------------------------------------------------------------------------ keys --- */

static int take_flag(const char *value, uint32_t flag)
{
    int on = nbdkit_parse_bool(value);

    if (on < 0)
        return -1;
    qcn_config.flags = on ? qcn_config.flags | flag : qcn_config.flags & ~flag;
    return 0;
}

static int take_cache(const char *value)
{
    if (program_set_cache(value, &qcn_config.flags))
        return 0;
    nbdkit_error("cache=%s: it is none, writeback, writethrough, directsync or unsafe", value);
    return -1;
}

static int take_trust(const char *value)
{
    int on = nbdkit_parse_bool(value);

    return on <= 0 ? on : tell(qchain_policy_allow(qcn_config.policy, QCHAIN_POLICY_TRUST, qcn_error()));
}

static int take_write(const char *value)
{
    int on = nbdkit_parse_bool(value);

    qcn_config.write = on > 0;
    return on < 0 ? -1 : 0;
}

static int take_format(const char *value)
{
    qcn_config.format = value;
    return 0;
}

static int take_snapshot(const char *value)
{
    qcn_config.snapshot = value;
    return 0;
}

static int take_index(const char *value)
{
    qcn_config.index = lasting_name(value);
    return qcn_config.index ? 0 : -1;
}

static int take_file(const char *value)
{
    return add_export("", value);
}

static int take_copy_on_read(const char *value)
{
    return take_flag(value, QCHAIN_OPEN_COPY_ON_READ);
}

static int take_force_share(const char *value)
{
    return take_flag(value, QCHAIN_OPEN_FORCE_SHARE);
}

static int take_no_index(const char *value)
{
    return take_flag(value, QCHAIN_OPEN_NO_INDEX);
}

static int take_allow_path(const char *value)
{
    return tell(qchain_policy_allow_path(qcn_config.policy, value, qcn_error()));
}

static int take_allow_url(const char *value)
{
    return tell(qchain_policy_allow_url(qcn_config.policy, value, qcn_error()));
}

static int take_backing_format(const char *value)
{
    return tell(qchain_policy_backing_format(qcn_config.policy, value, qcn_error()));
}

static int take_remote(const char *value)
{
    return tell(qchain_remote_parse(qcn_config.remote, value, qcn_error()));
}

static int take_remote_config(const char *value)
{
    return tell(qchain_remote_load(qcn_config.remote, value, qcn_error()));
}

static int take_cache_dir(const char *value)
{
    char *dir = nbdkit_absolute_path(value), *rule = dir ? program_cache_rule(dir) : NULL;
    int r = rule ? tell(qchain_remote_parse(qcn_config.remote, rule, qcn_error())) : -1;

    if (dir && !rule)
        nbdkit_error("out of memory");
    free(rule);
    free(dir);
    return r;
}

int qcn_config_key(const char *key, const char *value)
{
    static const struct {
        const char *key;
        int       (*take)(const char *value);
    } keys[] = {
        {"file", take_file},
        {"export", take_export},
        {"write", take_write},
        {"format", take_format},
        {"cache", take_cache},
        {"snapshot", take_snapshot},
        {"copy-on-read", take_copy_on_read},
        {"force-share", take_force_share},
        {"index", take_index},
        {"no-index", take_no_index},
        {"allow-path", take_allow_path},
        {"allow-url", take_allow_url},
        {"backing-format", take_backing_format},
        {"trust", take_trust},
        {"remote", take_remote},
        {"remote-config", take_remote_config},
        {"cache-dir", take_cache_dir},
    };
    size_t i;

    if (qcn_config_load() != 0)
        return -1;
    for (i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        if (strcmp(key, keys[i].key) == 0)
            return keys[i].take(value);
    nbdkit_error("unknown parameter '%s': nbdkit qchain --help shows those there are", key);
    return -1;
}

int qcn_config_complete(void)
{
    struct qcn_config *f = &qcn_config;

    if (qcn_config_load() != 0)
        return -1;
    if (f->n_exports == 0)
        nbdkit_error("which image? Say file=IMAGE, or export=NAME=IMAGE");
    else if (f->index && !f->has_default)
        nbdkit_error("index= is of the image of file=, and there is none");
    else if (f->write && f->snapshot)
        nbdkit_error("an internal snapshot cannot be written to: leave out snapshot=%s or write=true", f->snapshot);
    else if (f->write && f->flags & QCHAIN_OPEN_FORCE_SHARE)
        nbdkit_error("force-share=true is for reading: an image that is written to must be locked");
    else if (!f->write && f->flags & QCHAIN_OPEN_COPY_ON_READ)
        nbdkit_error("copy-on-read=true stores in the image, so it needs write=true");
    else
        return 0;
    return -1;
}
