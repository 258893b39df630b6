/* SPDX-License-Identifier: MIT */
#include "chain/policy.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "chain/names.h"
#include "net/url.h"
#include "util/alloc.h"
#include "util/error.h"
#include "util/escape.h"
#include "util/vec.h"

qchain_policy *qc_policy_new(void)
{
    return qc_calloc(1, sizeof(qchain_policy));
}

void qc_policy_free(qchain_policy *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->n_roots; i++)
        qc_free(p->root[i]);
    for (size_t i = 0; i < p->n_urls; i++)
        qc_free(p->url[i]);
    qc_free(p->root);
    qc_free(p->url);
    qc_free(p->backing_format);
    qc_free(p);
}

/* Take ownership of a root's path (also on failure). */
static int push_root(qchain_policy *p, char *path)
{
    if (!path || qc_grow((void **)&p->root, &p->cap_roots, p->n_roots + 1, sizeof(*p->root)) != 0) {
        qc_free(path);
        return QCHAIN_E_NOMEM;
    }
    p->root[p->n_roots++] = path;
    return 0;
}

/* The same for an allowed URL. */
static int push_url(qchain_policy *p, char *url)
{
    if (!url || qc_grow((void **)&p->url, &p->cap_urls, p->n_urls + 1, sizeof(*p->url)) != 0) {
        qc_free(url);
        return QCHAIN_E_NOMEM;
    }
    p->url[p->n_urls++] = url;
    return 0;
}

qchain_policy *qc_policy_copy(const qchain_policy *from)
{
    qchain_policy *p = qc_policy_new();

    if (!p)
        return NULL;
    p->flags = from->flags;
    p->max_layers = from->max_layers;
    if (from->backing_format) {
        p->backing_format = qc_strdup(from->backing_format);
        if (!p->backing_format)
            goto fail;
    }
    for (size_t i = 0; i < from->n_roots; i++)
        if (push_root(p, qc_strdup(from->root[i])) != 0)
            goto fail;
    for (size_t i = 0; i < from->n_urls; i++)
        if (push_url(p, qc_strdup(from->url[i])) != 0)
            goto fail;
    return p;

fail:
    qc_policy_free(p);
    return NULL;
}

int qc_policy_add_root(qchain_policy *p, const char *dir, qchain_error *err)
{
    struct qc_escaped shown;
    char *real = realpath(dir, NULL), *copy;

    if (!real)
        return qc_fail_errno(err, errno, "allowed path '%s'", qc_escape_str(&shown, dir));
    copy = qc_strdup(real);
    free(real);
    return push_root(p, copy) == 0 ? 0 : qc_fail_nomem(err);
}

int qc_policy_set_format(qchain_policy *p, const char *format, qchain_error *err)
{
    struct qc_escaped shown;
    char *copy = NULL;

    if (format) {
        if (strcmp(format, "raw") != 0 && strcmp(format, "qcow2") != 0)
            return qc_fail(err, QCHAIN_E_UNSUPPORTED,
                           "backing format '%s' is not known; there are raw and qcow2",
                           qc_escape_str(&shown, format));
        copy = qc_strdup(format);
        if (!copy)
            return qc_fail_nomem(err);
    }
    qc_free(p->backing_format);
    p->backing_format = copy;
    return 0;
}

static int read_max_layers(qchain_policy *p, const char *text, qchain_error *err)
{
    char *end;
    unsigned long n;

    errno = 0;
    n = strtoul(text, &end, 10);
    if (errno || *end || end == text || !isdigit((unsigned char)text[0]) || n == 0 || n > 65535)
        return qc_fail(err, QCHAIN_E_INVAL, "max-layers takes a number from 1 to 65535");
    p->max_layers = (uint32_t)n;
    return 0;
}

/* One rule: "word" or "word argument", blanks trimmed. */
static int read_rule(qchain_policy *p, char *rule, qchain_error *err)
{
    struct qc_escaped shown;
    char *arg = rule + strcspn(rule, " \t");

    if (*arg) {
        *arg++ = '\0';
        arg += strspn(arg, " \t");
    }
    if (strcmp(rule, "allow-path") == 0 && *arg)
        return qc_policy_add_root(p, arg, err);
    if (strcmp(rule, "allow-url") == 0 && *arg)
        return qc_policy_add_url(p, arg, err);
    if (strcmp(rule, "backing-format") == 0 && *arg)
        return qc_policy_set_format(p, arg, err);
    if (strcmp(rule, "max-layers") == 0)
        return read_max_layers(p, arg, err);
    if (strcmp(rule, "trust") == 0 && !*arg)
        p->flags |= QCHAIN_POLICY_TRUST;
    else if (strcmp(rule, "allow") == 0 && strcmp(arg, "data-file") == 0)
        p->flags |= QCHAIN_POLICY_DATA_FILE;
    else if (strcmp(rule, "allow") == 0 && strcmp(arg, "block-device") == 0)
        p->flags |= QCHAIN_POLICY_BLOCK_DEVICE;
    else
        return qc_fail(err, QCHAIN_E_INVAL, "'%s%s%s' is not a rule", qc_escape_str(&shown, rule),
                       *arg ? " " : "", *arg ? "..." : "");
    return 0;
}

int qc_policy_read(qchain_policy *p, const char *text, const char *where, qchain_error *err)
{
    char *copy = qc_strdup(text), *line, *rest, *end;
    int ret = 0, n = 0;

    if (!copy)
        return qc_fail_nomem(err);
    for (rest = copy; ret == 0 && (line = strsep(&rest, "\n"));) {
        n++;
        line[strcspn(line, "#")] = '\0';
        line += strspn(line, " \t\r");
        for (end = line + strlen(line); end > line && isspace((unsigned char)end[-1]); end--)
            end[-1] = '\0';
        if (*line)
            ret = read_rule(p, line, err);
    }
    if (ret != 0)
        qc_error_prefix(err, -1, "%s, line %d: ", where, n);
    qc_free(copy);
    return ret;
}

bool qc_path_beneath(const char *path, const char *dir)
{
    size_t len = strlen(dir);

    while (len > 1 && dir[len - 1] == '/')
        len--;
    if (len == 1 && dir[0] == '/')
        return path[0] == '/';
    return strncmp(path, dir, len) == 0 && (path[len] == '/' || path[len] == '\0');
}

bool qc_policy_beneath_roots(const qchain_policy *p, const char *real_path)
{
    for (size_t i = 0; i < p->n_roots; i++)
        if (qc_path_beneath(real_path, p->root[i]))
            return true;
    return false;
}

/* -------------------------------------------------------------------- URLs --- */

static int hex_value(char c)
{
    return isdigit((unsigned char)c) ? c - '0'
           : isxdigit((unsigned char)c) ? (c | 32) - 'a' + 10
                                        : -1;
}

static bool is_plain(unsigned char c)
{
    return c && c < 0x80 && (isalnum(c) || strchr("-._~", c));
}

/* The path of an http URL with escapes only where they are needed, and then in capitals. */
static char *normal_path(const char *path)
{
    static const char digit[] = "0123456789ABCDEF", kept[] = "/!$&'()*+,;=:@";
    char *out = qc_malloc(3 * strlen(path) + 1), *to = out;
    unsigned char c;
    bool escaped;

    for (; out && *path; path++) {
        c = (unsigned char)*path;
        escaped = c == '%' && hex_value(path[1]) >= 0 && hex_value(path[2]) >= 0;
        if (escaped) {
            c = (unsigned char)(hex_value(path[1]) << 4 | hex_value(path[2]));
            path += 2;
        }
        if (is_plain(c) || (!escaped && c < 0x80 && strchr(kept, c))) {
            *to++ = (char)c;
        } else {
            *to++ = '%';
            *to++ = digit[c >> 4];
            *to++ = digit[c & 15];
        }
    }
    if (out)
        *to = '\0';
    return out;
}

/* The length of what some server may take for the end of a component; 0: no such. Some decode
 * first, some know backslashes, some drop parameters. */
static size_t separator(const char *s, bool web)
{
    static const char *const known[] = {"/", ";", "%2F", "%5C", "%3B", "%00"};

    for (size_t i = 0; i < (web ? sizeof(known) / sizeof(*known) : 1); i++)
        if (strncmp(s, known[i], strlen(known[i])) == 0)
            return strlen(known[i]);
    return 0;
}

/* Has a path in its normal form a component "." or ".."? */
static bool has_dots(const char *path, bool web)
{
    size_t dots = 0, others = 0, n;

    for (; *path; path += n ? n : 1) {
        n = separator(path, web);
        if (n && others == 0 && (dots == 1 || dots == 2))
            return true;
        dots = n ? 0 : dots + (*path == '.');
        others = n ? 0 : others + (*path != '.');
    }
    return others == 0 && (dots == 1 || dots == 2);
}

/* Make what URLs are compared by: the origin and the path. INVAL: the path has dots. */
static int normal_url(char **out, const struct qc_url *u, bool directory, qchain_error *err)
{
    bool web = strncmp(u->scheme, "http", 4) == 0;
    char *origin = qc_url_origin(u), *path = web ? normal_path(u->path) : qc_strdup(u->path);
    int ret = 0;

    *out = NULL;
    if (origin && path && has_dots(path, web)) {
        ret = qc_fail(err, QCHAIN_E_INVAL, "its path has a component '.' or '..', which leads "
                      "to another place");
    } else if (origin && path) {
        *out = qc_asprintf("%s%s%s", origin, path,
                           directory && path[strlen(path) - 1] != '/' ? "/" : "");
    }
    if (ret == 0 && !*out)
        ret = qc_fail_nomem(err);
    qc_free(origin);
    qc_free(path);
    return ret;
}

int qc_policy_add_url(qchain_policy *p, const char *url, qchain_error *err)
{
    struct qc_escaped shown;
    struct qc_url u = {0};
    char *normal = NULL;
    int ret;

    if (!qc_name_is_url(url))
        ret = qc_fail(err, QCHAIN_E_INVAL, "does not begin with http://, https://, s3://, az:// "
                      "or gs://");
    else
        ret = qc_url_parse(&u, url, err);
    if (ret == 0 && (u.userinfo || u.query))
        ret = qc_fail(err, QCHAIN_E_INVAL, "has a user or a query; allowed is all beneath a path");
    if (ret == 0)
        ret = normal_url(&normal, &u, true, err);
    if (ret == 0 && push_url(p, normal) != 0)
        ret = qc_fail_nomem(err);
    if (ret != 0)
        qc_error_prefix(err, -1, "allowed URL '%s': ", qc_name_shown(&shown, url));
    qc_url_finish(&u);
    return ret;
}

bool qc_policy_beneath_urls(const qchain_policy *p, const char *url)
{
    struct qc_url u = {0};
    char *normal = NULL;
    bool beneath = false;

    if (qc_name_is_url(url) && qc_url_parse(&u, url, NULL) == 0 &&
        normal_url(&normal, &u, false, NULL) == 0)
        for (size_t i = 0; i < p->n_urls && !beneath; i++)
            beneath = strncmp(normal, p->url[i], strlen(p->url[i])) == 0;
    qc_free(normal);
    qc_url_finish(&u);
    return beneath;
}
