/* SPDX-License-Identifier: MIT */
#include "chain/gate.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "net/url.h"
#include "util/alloc.h"
#include "util/escape.h"

void qc_target_init(struct qc_target *t)
{
    memset(t, 0, sizeof(*t));
    t->fd = -1;
}

void qc_target_finish(struct qc_target *t)
{
    if (t->is_store && t->store.ops && t->store.ops->close)
        t->store.ops->close(t->store.obj);
    qc_free(t->path);
    qc_free(t->format);
    qc_target_init(t);
}

int qc_gate_init(struct qc_gate *g, qchain_env *env, const qchain_open_opts *opts,
                 qchain_error *err)
{
    g->policy = qc_policy_copy(opts->policy ? opts->policy : env->policy);
    g->resolver = opts->resolver;
    g->resolver_data = opts->resolver_data;
    return g->policy ? 0 : qc_fail_nomem(err);
}

void qc_gate_finish(struct qc_gate *g)
{
    qc_policy_free(g->policy);
    qc_free(g->top_dir);
    qc_free(g->top_url);
    memset(g, 0, sizeof(*g));
}

/* Allow the directory of a file, unless it is not there, or the root of all: who
 * wants the whole system allowed must say so. */
static int allow_directory_of(struct qc_gate *g, const char *path, qchain_error *err)
{
    char real[PATH_MAX];
    char *dir = qc_name_directory(path);
    int ret = 0;

    if (!dir)
        return qc_fail_nomem(err);
    if (realpath(dir, real) && strcmp(real, "/") != 0)
        ret = qc_policy_add_root(g->policy, real, err);
    qc_free(dir);
    return ret;
}

/* Allow the directory of a URL. One with dots in its path that cannot be taken out has none
 * that could be compared with. */
static int allow_directory_of_url(struct qc_gate *g, const char *url, qchain_error *err)
{
    struct qc_url u = {0};
    char *bare = NULL;
    int ret;

    qc_free(g->top_url);
    g->top_url = qc_name_resolve(url, "./");
    if (!g->top_url)
        return qc_fail_nomem(err);
    ret = qc_url_parse(&u, g->top_url, err);
    if (ret != 0)
        return ret;
    qc_free(u.userinfo);
    u.userinfo = NULL;
    bare = qc_url_text(&u);
    ret = bare ? qc_policy_add_url(g->policy, bare, NULL) : QCHAIN_E_NOMEM;
    qc_free(bare);
    qc_url_finish(&u);
    return ret == QCHAIN_E_NOMEM ? qc_fail_nomem(err) : 0;
}

int qc_gate_add_name(struct qc_gate *g, const char *name, qchain_error *err)
{
    qc_free(g->top_dir);
    g->top_dir = NULL;
    if (qc_name_is_url(name))
        return allow_directory_of_url(g, name, err);
    g->top_dir = qc_name_directory(name);
    return g->top_dir ? allow_directory_of(g, name, err) : qc_fail_nomem(err);
}

int qc_gate_add_real_path(struct qc_gate *g, const char *real_path,
                          const qchain_store_identity *id, qchain_error *err)
{
    struct stat st;

    /* What has no name any more, or never had one, has no directory either. */
    if (!(id->flags & QCHAIN_IDENTITY_HAS_INODE) || stat(real_path, &st) != 0 ||
        st.st_ino != id->inode || st.st_dev != id->device)
        return 0;
    return allow_directory_of(g, real_path, err);
}

static const char *kind_name(uint32_t kind)
{
    return kind == QCHAIN_REF_DATA_FILE ? "external data file" : "backing file";
}

int qc_gate_check_path(void *data, const char *real_path, qchain_error *err)
{
    struct qc_gate *g = data;
    struct qc_escaped shown;

    if (g->policy->flags & QCHAIN_POLICY_TRUST || qc_policy_beneath_roots(g->policy, real_path))
        return 0;
    return qc_fail(err, QCHAIN_E_ACCESS,
                   "'%s' lies outside the top image's directory; allow its directory with "
                   "--allow-path DIR (qchain_policy_allow_path)",
                   qc_escape_str(&shown, real_path));
}

/* Is it the user whom the caller named for the top, and the top's server? */
static bool is_tops_user(const struct qc_gate *g, const struct qc_url *u)
{
    struct qc_url top = {0};
    bool is;

    if (!g->top_url || qc_url_parse(&top, g->top_url, NULL) != 0)
        return false;
    is = top.userinfo && strcmp(top.userinfo, u->userinfo) == 0 && qc_url_same_origin(&top, u);
    qc_url_finish(&top);
    return is;
}

int qc_gate_check_url(const struct qc_gate *g, const char *url, qchain_error *err)
{
    struct qc_escaped shown;
    struct qc_url u = {0};
    int ret = qc_url_parse(&u, url, err);

    qc_name_shown(&shown, url);
    if (ret != 0 || g->policy->flags & QCHAIN_POLICY_TRUST)
        goto out;
    if (u.userinfo && !is_tops_user(g, &u))
        ret = qc_fail(err, QCHAIN_E_ACCESS,
                      "'%s' is recorded with a user, and users named by an image are not taken; "
                      "allow it with --trust (QCHAIN_POLICY_TRUST)", shown.text);
    else if (!qc_policy_beneath_urls(g->policy, url))
        ret = qc_fail(err, QCHAIN_E_ACCESS,
                      "'%s' does not lie beneath %s; allow what it lies beneath with "
                      "--allow-url URL (qchain_policy_allow_url)", shown.text,
                      g->top_url ? "the top image's URL" : "an allowed URL");

out:
    qc_url_finish(&u);
    return ret;
}

/* Is path a plain name in the top's own directory? So nearly every layer is. */
static bool beside_top(const struct qc_gate *g, const char *path)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    size_t len;

    if (!g->top_dir || strcmp(name, "..") == 0 || strcmp(name, ".") == 0 || !*name)
        return false;
    if (!slash)
        return strcmp(g->top_dir, ".") == 0;
    len = slash == path ? 1 : (size_t)(slash - path);
    return strlen(g->top_dir) == len && memcmp(g->top_dir, path, len) == 0;
}

/* Is the place allowed, going by its name, before anything is opened? What does
 * not exist must lie within by its name, so that nothing is told of elsewhere.
 * A link is followed only as a reference, and what it leads to is checked. */
static int check_name(struct qc_gate *g, const char *path, qchain_error *err)
{
    char real[PATH_MAX], here[PATH_MAX];
    char *dir;
    int ret;

    if (beside_top(g, path))
        return 0;
    if (realpath(path, real))
        return qc_gate_check_path(g, real, err);
    dir = qc_name_directory(path);
    if (!dir)
        return qc_fail_nomem(err);
    ret = qc_gate_check_path(g, realpath(dir, here) ? here : path, err);
    qc_free(dir);
    return ret;
}

/* Read the reference as it stands in the image into a path and a format. */
static int read_reference(struct qc_gate *g, const char *resolved, uint32_t kind,
                          struct qc_target *out, qchain_error *err)
{
    bool trust = g->policy->flags & QCHAIN_POLICY_TRUST;
    size_t scheme = qc_name_scheme(resolved);
    struct qc_name name;
    int ret;

    if (scheme == 0) {
        out->path = qc_strdup(resolved);
        return out->path ? 0 : qc_fail_nomem(err);
    }
    if (!trust && strncmp(resolved, "json:", 5) == 0)
        return qc_fail(err, QCHAIN_E_ACCESS,
                       "json: names are not followed; allow them with --trust "
                       "(QCHAIN_POLICY_TRUST)");
    if (!trust && strncmp(resolved, "file:/", 6) != 0 && !qc_name_is_url(resolved))
        return qc_fail(err, QCHAIN_E_ACCESS,
                       "'%.*s:' names are not followed; allow them with --trust "
                       "(QCHAIN_POLICY_TRUST)", (int)scheme, resolved);
    ret = qc_name_parse(&name, resolved, err);
    if (ret != 0)
        return ret;
    out->path = name.path;
    out->is_url = name.is_url;
    if (kind == QCHAIN_REF_BACKING && name.format) {
        out->format = name.format;
        name.format = NULL;
    }
    qc_free(name.format);
    return 0;
}

/* The format of a backing file: recorded, by policy, or (trusted) probed. */
static int decide_format(struct qc_gate *g, uint32_t kind, const char *recorded,
                         struct qc_target *out, qchain_error *err)
{
    const char *format = recorded;

    if (kind == QCHAIN_REF_DATA_FILE)
        format = "raw";
    else if (out->format)
        return 0;
    else if (!format && g->policy->backing_format)
        format = g->policy->backing_format;
    else if (!format && !(g->policy->flags & QCHAIN_POLICY_TRUST))
        return qc_fail(err, QCHAIN_E_ACCESS,
                       "its format is not recorded in the image; say it with "
                       "--backing-format FMT (qchain_policy_backing_format)");
    if (!format)
        return 0;
    qc_free(out->format);
    out->format = qc_strdup(format);
    return out->format ? 0 : qc_fail_nomem(err);
}

/* Is the place allowed? An image behind a URL knows nothing of the files of this host, so
 * what it names is none of them, whatever directories are allowed. */
static int check_place(struct qc_gate *g, const char *from, const struct qc_target *t,
                       qchain_error *err)
{
    if (t->is_url)
        return qc_gate_check_url(g, t->path, err);
    if (qc_name_is_url(from))
        return qc_fail(err, QCHAIN_E_ACCESS,
                       "an image behind a URL does not lead to local files; allow it with "
                       "--trust (QCHAIN_POLICY_TRUST)");
    return check_name(g, t->path, err);
}

static int decide_by_policy(struct qc_gate *g, const qchain_reference *ref, struct qc_target *out,
                            qchain_error *err)
{
    uint32_t flags = g->policy->flags;
    int ret;

    if (ref->kind == QCHAIN_REF_DATA_FILE &&
        !(flags & (QCHAIN_POLICY_DATA_FILE | QCHAIN_POLICY_TRUST)))
        return qc_fail(err, QCHAIN_E_ACCESS,
                       "data files named by an image are not opened; allow them with --trust, "
                       "or with 'allow data-file' in the policy (QCHAIN_POLICY_DATA_FILE)");
    ret = read_reference(g, ref->resolved, ref->kind, out, err);
    if (ret == 0)
        ret = decide_format(g, ref->kind, ref->format, out, err);
    if (ret == 0 && !(flags & QCHAIN_POLICY_TRUST))
        ret = check_place(g, ref->from, out, err);
    out->block_device = flags & (QCHAIN_POLICY_BLOCK_DEVICE | QCHAIN_POLICY_TRUST);
    return ret;
}

/* A name that the resolver chose is read like one of the user's. */
static int take_name(const char *name, struct qc_target *out, qchain_error *err)
{
    struct qc_name parsed;
    int ret = qc_name_parse(&parsed, name, err);

    if (ret != 0)
        return ret;
    out->path = parsed.path;
    out->is_url = parsed.is_url;
    out->format = parsed.format;
    return 0;
}

/* Take what the resolver answered. */
static int take_answer(struct qc_gate *g, int verdict, const qchain_resolution *res,
                       const qchain_reference *ref, struct qc_target *out, qchain_error *err)
{
    const char *name = res->name ? res->name : ref->resolved;
    int ret = 0;

    out->vetted = true;
    out->block_device = true;
    if (verdict == QCHAIN_RESOLVE_FD) {
        if (res->fd < 0)
            return qc_fail(err, QCHAIN_E_INVAL, "the resolver answered FD without a descriptor");
        out->fd = res->fd;
    }
    if (verdict == QCHAIN_RESOLVE_STORE) {
        if (!res->store || !res->store->ops)
            return qc_fail(err, QCHAIN_E_INVAL, "the resolver answered STORE without a store");
        out->store = *res->store;
        out->is_store = true;
    }
    if (verdict == QCHAIN_RESOLVE_ALLOW) {
        ret = take_name(name, out, err);
    } else {
        out->path = qc_strdup(name);
        if (!out->path)
            ret = qc_fail_nomem(err);
    }
    if (ret == 0 && res->format) {
        qc_free(out->format);
        out->format = qc_strdup(res->format);
        if (!out->format)
            ret = qc_fail_nomem(err);
    }
    return ret == 0 ? decide_format(g, ref->kind, ref->format, out, err) : ret;
}

static int decide(struct qc_gate *g, const qchain_reference *ref, struct qc_target *out,
                  qchain_error *err)
{
    qchain_resolution res = {.struct_size = sizeof(res), .fd = -1};
    int verdict = QCHAIN_RESOLVE_DEFAULT;

    if (g->resolver)
        verdict = g->resolver(g->resolver_data, ref, &res);
    switch (verdict) {
    case QCHAIN_RESOLVE_DEFAULT:
        return decide_by_policy(g, ref, out, err);
    case QCHAIN_RESOLVE_ALLOW:
    case QCHAIN_RESOLVE_FD:
    case QCHAIN_RESOLVE_STORE:
        return take_answer(g, verdict, &res, ref, out, err);
    case QCHAIN_RESOLVE_DENY:
        return qc_fail(err, QCHAIN_E_ACCESS, "refused by the program's resolver");
    default:
        return qc_fail(err, QCHAIN_E_INVAL, "the resolver answered %d, which means nothing",
                       verdict);
    }
}

int qc_gate_decide(struct qc_gate *g, const struct qc_layer *from, uint32_t layer, uint32_t kind,
                   const char *name, const char *format, struct qc_target *out,
                   qchain_error *err)
{
    struct qc_escaped shown, shown_from;
    char *resolved = qc_name_resolve(from->name, name);
    qchain_reference ref = {sizeof(ref), g->above + layer, kind, from->name, name, resolved, format};
    int ret;

    qc_target_init(out);
    ret = resolved ? decide(g, &ref, out, err) : qc_fail_nomem(err);
    if (ret != 0) {
        qc_target_finish(out);
        qc_error_prefix(err, layer, "layer #%u '%s': %s '%s': ", layer,
                        qc_name_shown(&shown_from, from->name), kind_name(kind),
                        qc_name_shown(&shown, name));
    }
    qc_free(resolved);
    return ret;
}
