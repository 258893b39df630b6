/* SPDX-License-Identifier: MIT */
#include "chain/names.h"

#include <ctype.h>
#include <string.h>

#include "util/alloc.h"
#include "util/error.h"
#include "util/escape.h"

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

int qc_name_parse(struct qc_name *n, const char *name, qchain_error *err)
{
    struct qc_escaped shown;

    memset(n, 0, sizeof(*n));
    if (strncmp(name, "json:", 5) == 0)
        return qc_name_parse_json(n, name + 5, err);
    if (strncmp(name, "file:", 5) == 0) {
        name += 5;
        if (strncmp(name, "//", 2) == 0) /* file:///path */
            name += 2;
    } else if (qc_name_scheme(name)) {
        return qc_fail(err, QCHAIN_E_UNSUPPORTED,
                       "'%s': this version opens local files only; a file whose name has a colon "
                       "is written ./NAME or file:NAME",
                       qc_escape_str(&shown, name));
    }
    if (!*name)
        return qc_fail(err, QCHAIN_E_INVAL, "the image's name is empty");
    n->path = qc_strdup(name);
    return n->path ? 0 : qc_fail_nomem(err);
}

char *qc_name_directory(const char *path)
{
    const char *slash = strrchr(path, '/');

    if (!slash)
        return qc_strdup(".");
    return slash == path ? qc_strdup("/") : qc_strndup(path, (size_t)(slash - path));
}

char *qc_name_resolve(const char *from, const char *name)
{
    const char *slash = from ? strrchr(from, '/') : NULL;

    if (name[0] == '/' || qc_name_scheme(name) || !slash)
        return qc_strdup(name);
    return qc_asprintf("%.*s/%s", (int)(slash - from), from, name);
}
