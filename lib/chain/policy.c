/* SPDX-License-Identifier: MIT */
#include "chain/policy.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

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
    qc_free(p->root);
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
