/* SPDX-License-Identifier: MIT */
#include "chain/names.h"

#include <ctype.h>
#include <string.h>
#include <strings.h>

#include "net/url.h"
#include "util/alloc.h"
#include "util/error.h"

void qc_name_finish(struct qc_name *n)
{
    qc_free(n->path);
    qc_free(n->format);
    memset(n, 0, sizeof(*n));
}

size_t qc_name_scheme(const char *name)
{
    size_t n = 0;

    if (!isalpha((unsigned char)name[0]))
        return 0;
    while (isalnum((unsigned char)name[n]) || name[n] == '+' || name[n] == '-' || name[n] == '.')
        n++;
    return name[n] == ':' ? n : 0;
}

bool qc_name_is_url(const char *name)
{
    static const char *const known[] = {"http", "https", "s3", "az", "gs"};
    size_t len = qc_name_scheme(name);

    if (len == 0 || strncmp(name + len, "://", 3) != 0)
        return false;
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
        if (strlen(known[i]) == len && strncasecmp(name, known[i], len) == 0)
            return true;
    return false;
}

/* ----------------------------------------------------------------- reading --- */

int qc_name_set_path(struct qc_name *n, const char *path, qchain_error *err)
{
    qc_free(n->path);
    /* From here on a name is told from a URL by its text alone. */
    n->path = qc_name_is_url(path) ? qc_asprintf("./%s", path) : qc_strdup(path);
    n->is_url = false;
    return n->path ? 0 : qc_fail_nomem(err);
}

int qc_name_set_url(struct qc_name *n, const char *url, qchain_error *err)
{
    struct qc_url parts = {0};
    int ret = qc_url_parse(&parts, url, err);

    qc_url_finish(&parts);
    if (ret != 0)
        return ret;
    qc_free(n->path);
    n->path = qc_strdup(url);
    n->is_url = true;
    return n->path ? 0 : qc_fail_nomem(err);
}

int qc_name_parse(struct qc_name *n, const char *name, qchain_error *err)
{
    struct qc_escaped shown;
    int ret;

    memset(n, 0, sizeof(*n));
    if (strncmp(name, "json:", 5) == 0)
        return qc_name_parse_json(n, name + 5, err);
    if (qc_name_is_url(name)) {
        ret = qc_name_set_url(n, name, err);
        if (ret != 0)
            qc_name_finish(n);
        return ret;
    }
    if (strncmp(name, "file:", 5) == 0) {
        name += 5;
        if (strncmp(name, "//", 2) == 0) /* file:///path */
            name += 2;
    } else if (qc_name_scheme(name)) {
        return qc_fail(err, QCHAIN_E_UNSUPPORTED,
                       "'%s': this library opens files and URLs that begin with http://, "
                       "https://, s3://, az:// or gs://; a file whose name has a colon is "
                       "written ./NAME or file:NAME", qc_name_shown(&shown, name));
    }
    if (!*name)
        return qc_fail(err, QCHAIN_E_INVAL, "the image's name is empty");
    return qc_name_set_path(n, name, err);
}

/* --------------------------------------------------------------- relations --- */

/* Only http and https have queries and escapes; names of other kinds are keys, byte by byte. */
static bool is_web(const char *scheme)
{
    return strncasecmp(scheme, "http", 4) == 0;
}

static char *directory_of_url(const char *url)
{
    const char *host = strstr(url, "://") + 3, *path = host + strcspn(host, "/?#"), *end;

    if (!is_web(url))
        path = host + strcspn(host, "/");
    if (*path != '/')
        return qc_asprintf("%.*s/", (int)(path - url), url);
    end = path + (is_web(url) ? strcspn(path, "?#") : strlen(path));
    while (end[-1] != '/')
        end--;
    return qc_strndup(url, (size_t)(end - url));
}

char *qc_name_directory(const char *path)
{
    const char *slash = strrchr(path, '/');

    if (qc_name_is_url(path))
        return directory_of_url(path);
    if (!slash)
        return qc_strdup(".");
    return slash == path ? qc_strdup("/") : qc_strndup(path, (size_t)(slash - path));
}

/* Take "." and ".." out of an absolute path, from an offset behind a '/' on. What would climb
 * above the root stays there. */
static void remove_dots(char *path, size_t offset)
{
    char *in = path + offset, *out = in;
    size_t len, step;

    for (; *in; in += step) {
        len = strcspn(in, "/");
        step = len + (in[len] == '/');
        if (len == 2 && memcmp(in, "..", 2) == 0) {
            if (out > path + 1)
                out--;
            while (out > path + 1 && out[-1] != '/')
                out--;
        } else if (len != 1 || *in != '.') {
            memmove(out, in, step);
            out += step;
        }
    }
    *out = '\0';
}

/* What lies beside a URL, or, by a name that begins with '/', beneath its root. */
static char *resolve_beside(const struct qc_url *base, const char *name)
{
    bool web = is_web(base->scheme);
    char *encoded = web ? qc_url_encode(name, strlen(name),
                                        QC_URL_KEEP_SLASH | QC_URL_KEEP_ESCAPES)
                        : qc_strdup(name);
    size_t dir = (size_t)(strrchr(base->path, '/') - base->path) + 1;
    struct qc_url url = *base;
    char *text = NULL;

    url.query = NULL;
    url.path = !encoded ? NULL
               : *name == '/' ? qc_strdup(encoded)
                              : qc_asprintf("%.*s%s", (int)dir, base->path, encoded);
    if (url.path) {
        /* Dots in a key that the caller named are part of it. */
        remove_dots(url.path, web || *name == '/' ? 1 : dir);
        text = qc_url_text(&url);
    }
    qc_free(url.path);
    qc_free(encoded);
    return text;
}

char *qc_name_resolve(const char *from, const char *name)
{
    const char *slash = from ? strrchr(from, '/') : NULL;
    struct qc_url base = {0};
    char *resolved;
    int ret;

    if (qc_name_scheme(name))
        return qc_strdup(name);
    if (from && qc_name_is_url(from)) {
        ret = qc_url_parse(&base, from, NULL);
        resolved = ret == 0 ? resolve_beside(&base, name) : NULL;
        qc_url_finish(&base);
        if (ret == 0 || ret == QCHAIN_E_NOMEM)
            return resolved;
    }
    if (name[0] == '/' || !slash)
        return qc_strdup(name);
    return qc_asprintf("%.*s/%s", (int)(slash - from), from, name);
}

/* ----------------------------------------------------------------- showing --- */

/* Not escaped; NULL: no memory. */
static char *without_secrets(const char *name)
{
    const char *marks = strstr(name, "://");

    if (marks && strncmp(name, "json:", 5) == 0)
        return qc_strdup("json:{...}");
    return marks && qc_name_scheme(name) == (size_t)(marks - name) ? qc_url_shown(name)
                                                                   : qc_strdup(name);
}

const char *qc_name_shown(struct qc_escaped *e, const char *name)
{
    char *shown = name && strstr(name, "://") ? without_secrets(name) : NULL;

    qc_escape_str(e, shown ? shown : name && strstr(name, "://") ? "(a URL)" : name);
    qc_free(shown);
    return e->text;
}

char *qc_name_shown_dup(const char *name)
{
    char *shown = without_secrets(name);
    char *out = shown ? qc_escape_dup(shown, strlen(shown)) : NULL;

    qc_free(shown);
    return out;
}
