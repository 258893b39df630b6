/* SPDX-License-Identifier: MIT */
/* tool_imageopts.c - "driver=raw,file.filename=x" as a json: name. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tool.h"

/* Take one "key=value" off the text: ',' ends it, ",," is a comma. The copy has its
 * own memory. Returns what follows, or NULL without memory. */
static const char *take_pair(const char *p, char **pair)
{
    char *to = malloc(strlen(p) + 1);

    *pair = to;
    if (!to)
        return NULL;
    while (*p) {
        if (*p == ',') {
            if (p[1] != ',') {
                p++;
                break;
            }
            p++;
        }
        *to++ = *p++;
    }
    *to = '\0';
    return p;
}

static bool is_on(const char *value)
{
    return strcmp(value, "on") == 0 || strcmp(value, "yes") == 0 || strcmp(value, "true") == 0;
}

/* Options that say how to open rather than what: 1 if it was one. */
static int open_option(const char *key, const char *value, uint32_t *flags)
{
    if (strcmp(key, "force-share") == 0) {
        if (is_on(value))
            *flags |= QCHAIN_OPEN_FORCE_SHARE;
        return 1;
    }
    if (strcmp(key, "cache.direct") == 0) {
        if (is_on(value))
            *flags |= QCHAIN_OPEN_DIRECT;
        return 1;
    }
    if (strcmp(key, "read-only") == 0) {
        if (is_on(value))
            *flags &= ~(uint32_t)QCHAIN_OPEN_WRITE;
        return 1;
    }
    if (strcmp(key, "cache.no-flush") == 0) {
        if (is_on(value))
            *flags |= QCHAIN_OPEN_UNSAFE;
        return 1;
    }
    if (strcmp(key, "discard") == 0) {
        *flags &= ~(uint32_t)QCHAIN_OPEN_DISCARD;
        if (strcmp(value, "unmap") == 0 || strcmp(value, "on") == 0)
            *flags |= QCHAIN_OPEN_DISCARD;
        return 1;
    }
    return 0;
}

/* Quote for JSON; other than tool_out_json_str it leaves bytes above ASCII as they
 * are, since names of files need not be UTF-8. */
static void put_quoted(struct tool_out *o, const char *s)
{
    static const char hex[] = "0123456789abcdef";

    tool_out_char(o, '"');
    for (; *s; s++) {
        unsigned char c = (unsigned char)*s;

        if (c < 0x20) {
            tool_out_str(o, "\\u00");
            tool_out_char(o, hex[c >> 4]);
            tool_out_char(o, hex[c & 15]);
        } else {
            if (c == '"' || c == '\\')
                tool_out_char(o, '\\');
            tool_out_char(o, (char)c);
        }
    }
    tool_out_char(o, '"');
}

static void put_pair(struct tool_out *o, char *pair, unsigned *n, uint32_t *flags)
{
    const char *key = pair, *value;
    char *equals = strchr(pair, '=');

    if (equals) {
        *equals = '\0';
        value = equals + 1;
    } else if (*n == 0) {
        key = "file"; /* the first may leave out its name */
        value = pair;
    } else {
        value = "on";
    }
    if (open_option(key, value, flags))
        return;
    tool_out_str(o, *n ? ", " : "");
    put_quoted(o, key);
    tool_out_str(o, ": ");
    put_quoted(o, value);
    ++*n;
}

char *tool_image_opts(struct tool *t, const char *text, uint32_t *flags)
{
    struct tool_out o = {.fd = -1};
    unsigned n = 0;
    char *pair;

    /* a byte is at most six in JSON; the rest is room for what stands around it */
    o.cap = strlen(text) * 12 + 64;
    o.buf = malloc(o.cap);
    if (!o.buf)
        goto nomem;
    tool_out_str(&o, "json:{");
    while (*text) {
        const char *rest = take_pair(text, &pair);

        if (!rest)
            goto nomem;
        put_pair(&o, pair, &n, flags);
        free(pair);
        text = rest;
    }
    tool_out_mem(&o, "}", 2);
    return o.buf;

nomem:
    free(o.buf);
    tool_complain(t, "out of memory");
    return NULL;
}
