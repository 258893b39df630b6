/* SPDX-License-Identifier: MIT */
/* tool_remote.c - how URLs are reached, and names of them that people may see. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "tool.h"

/* --------------------------------------------------------------- settings --- */

int tool_load_remote(struct tool *t)
{
    char *path = program_remote_file();
    int r = path ? qchain_remote_load(t->remote, path, t->err) : 0;

    free(path);
    if (r == 0)
        return 0;
    tool_complain_error(t);
    return t->verb->usage_exit;
}

int tool_remote_dir(struct tool *t, const char *dir)
{
    char *rule = program_cache_rule(dir);
    int r = rule ? qchain_remote_parse(t->remote, rule, t->err) : 0;

    if (!rule)
        tool_complain(t, "out of memory");
    else if (r)
        tool_complain_error(t);
    free(rule);
    return rule && r == 0 ? 0 : -1;
}

/* ------------------------------------------------------------------ names --- */

/* The length of "//", each of which may be "\/" as in JSON, or 0. */
static size_t two_slashes(const char *p)
{
    size_t n = 0;
    int i;

    for (i = 0; i < 2; i++) {
        if (p[n] == '\\')
            n++;
        if (p[n++] != '/')
            return 0;
    }
    return n;
}

/* If a URL begins at p: how long its scheme and slashes are. */
static size_t url_scheme(const char *p)
{
    static const char *const schemes[] = {"http:", "https:", "s3:", "az:", "gs:"};
    size_t n, i;

    for (i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++) {
        n = strlen(schemes[i]);
        if (strncasecmp(p, schemes[i], n) == 0 && two_slashes(p + n))
            return n + two_slashes(p + n);
    }
    return 0;
}

/* What may be seen of the URL whose n bytes stand behind its scheme: from *begin so many bytes. Passwords
 * have '?' and '#' in them, whatever the rules are: then nothing of it is. In keys of objects '?' is a
 * character like others, but somebody may have thought otherwise. */
static size_t seen_part(const char *url, size_t n, bool object, size_t *begin)
{
    size_t host = strcspn(url, "/\\"), query = strcspn(url, "?#"), i;

    host = host < n ? host : n;
    for (i = host; i > 0 && url[i - 1] != '@'; i--)
        ;
    *begin = i;
    if (query >= n || (object && !memchr(url + query, '=', n - query)))
        return n - i;
    return query > i ? query - i : 0;
}

/* Copy a name without user names, passwords, queries and fragments of the URLs in it. Of a name that is
 * a list of options or JSON, a URL ends at a comma or quote. */
static char *cut_secrets(const char *name, bool plain)
{
    char *shown = malloc(strlen(name) + 1), *to = shown;

    while (shown && *name) {
        size_t n = url_scheme(name), end, begin, seen;
        bool object = strncasecmp(name, "http", 4) != 0;

        if (!n) {
            *to++ = *name++;
            continue;
        }
        to = mempcpy(to, name, n);
        name += n;
        end = strcspn(name, plain ? "" : "\",");
        seen = seen_part(name, end, object, &begin);
        to = mempcpy(to, name + begin, seen);
        name += end;
    }
    if (shown)
        *to = '\0';
    return shown;
}

const char *tool_shown_name(struct tool *t, const char *name)
{
    bool options = t->image_opts || strncmp(name, "json:", 5) == 0;

    if (!options && !url_scheme(name))
        return name;
    free(t->shown);
    t->shown = cut_secrets(name, !options);
    return t->shown ? t->shown : "?";
}

const char *tool_as_recorded(const char *raw, const char *shown)
{
    return raw && !strstr(raw, "://") ? raw : shown;
}
