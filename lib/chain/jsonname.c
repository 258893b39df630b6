/* SPDX-License-Identifier: MIT */
/*
 * "json:{...}" names, as QEMU writes them: an object of strings, booleans,
 * numbers, null and objects of the same; {"file": {"filename": "x"}} and
 * {"file.filename": "x"} mean the same. Only what says where a local image lies
 * and how to open it is known; anything else is refused rather than ignored.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "chain/names.h"
#include "util/alloc.h"
#include "util/error.h"
#include "util/escape.h"

#define MAX_DEPTH 4
#define MAX_TEXT 8192
#define KEY_MAX 128

struct reader {
    const char     *at;
    struct qc_name *name;
    qchain_error   *err;
    char            text[MAX_TEXT]; /* the last string read */
    char            driver[32], file_driver[32];
};

static int bad_json(struct reader *r, const char *what)
{
    struct qc_escaped shown;

    return qc_fail(r->err, QCHAIN_E_INVAL, "json: name: %s at '%s'", what,
                   qc_escape(&shown, r->at, strnlen(r->at, 20)));
}

static void skip_space(struct reader *r)
{
    r->at += strspn(r->at, " \t\r\n");
}

static int put_utf8(char *out, unsigned v)
{
    if (v < 0x80) {
        out[0] = (char)v;
        return 1;
    }
    if (v < 0x800) {
        out[0] = (char)(0xc0 | v >> 6);
        out[1] = (char)(0x80 | (v & 0x3f));
        return 2;
    }
    out[0] = (char)(0xe0 | v >> 12);
    out[1] = (char)(0x80 | (v >> 6 & 0x3f));
    out[2] = (char)(0x80 | (v & 0x3f));
    return 3;
}

/* One escape after the backslash; bytes put into out (at most 3), or -1. */
static int read_escape(struct reader *r, char *out)
{
    static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
    const char *known = *r->at ? strchr(from, *r->at) : NULL;
    unsigned v = 0;

    if (known) {
        out[0] = to[known - from];
        r->at++;
        return 1;
    }
    if (*r->at != 'u')
        return -1;
    r->at++;
    for (int i = 0; i < 4; i++, r->at++) {
        if (!isxdigit((unsigned char)*r->at))
            return -1;
        v = v * 16 + (unsigned)(isdigit((unsigned char)*r->at) ? *r->at - '0'
                                                               : (*r->at | 32) - 'a' + 10);
    }
    /* Surrogate pairs and NUL have no place in a file's name. */
    return v == 0 || (v >= 0xd800 && v < 0xe000) ? -1 : put_utf8(out, v);
}

static int read_string(struct reader *r)
{
    size_t n = 0;
    int got;

    if (*r->at != '"')
        return bad_json(r, "a string is expected");
    r->at++;
    while (*r->at && *r->at != '"') {
        if (n + 4 > sizeof(r->text))
            return bad_json(r, "a string is too long");
        if (*r->at != '\\') {
            r->text[n++] = *r->at++;
            continue;
        }
        r->at++;
        got = read_escape(r, r->text + n);
        if (got < 0)
            return bad_json(r, "an escape is wrong");
        n += (size_t)got;
    }
    if (*r->at != '"')
        return bad_json(r, "a string does not end");
    r->at++;
    r->text[n] = '\0';
    return 0;
}

static int keep(char **to, const char *text, qchain_error *err)
{
    qc_free(*to);
    *to = qc_strdup(text);
    return *to ? 0 : qc_fail_nomem(err);
}

/* True for options whose value is text, whatever it looks like. */
static bool takes_text(const char *key)
{
    static const char *const known[] = {"filename", "file.filename", "node-name",
                                        "file.node-name", "file.locking"};

    for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
        if (strcmp(key, known[i]) == 0)
            return true;
    return false;
}

static int set_string(struct reader *r, const char *key)
{
    struct qc_escaped shown;

    if (strcmp(key, "driver") == 0) {
        snprintf(r->driver, sizeof(r->driver), "%.31s", r->text);
        return 0;
    }
    if (strcmp(key, "file.driver") == 0) {
        snprintf(r->file_driver, sizeof(r->file_driver), "%.31s", r->text);
        return 0;
    }
    if (strcmp(key, "file.filename") == 0 || strcmp(key, "filename") == 0)
        return keep(&r->name->path, r->text, r->err);
    if (strcmp(key, "node-name") == 0 || strcmp(key, "file.node-name") == 0 ||
        strcmp(key, "file.aio") == 0 || strcmp(key, "file.locking") == 0)
        return 0;
    if (strcmp(key, "backing") == 0 && !*r->text) { /* as in image options */
        r->name->no_backing = true;
        return 0;
    }
    return qc_fail(r->err, QCHAIN_E_UNSUPPORTED, "json: name: option '%s' is not known",
                   qc_escape_str(&shown, key));
}

static int set_flag(struct reader *r, const char *key, bool on)
{
    struct qc_escaped shown;

    if (strcmp(key, "force-share") == 0)
        r->name->force_share = on;
    else if (strcmp(key, "cache.direct") == 0 || strcmp(key, "file.cache.direct") == 0)
        r->name->direct = on;
    else if (strcmp(key, "read-only") != 0 && strcmp(key, "file.read-only") != 0 &&
             strcmp(key, "cache.no-flush") != 0 && strcmp(key, "file.cache.no-flush") != 0)
        return qc_fail(r->err, QCHAIN_E_UNSUPPORTED, "json: name: option '%s' is not known",
                       qc_escape_str(&shown, key));
    return 0;
}

static bool take_word(struct reader *r, const char *word)
{
    size_t len = strlen(word);

    if (strncmp(r->at, word, len) != 0 || isalnum((unsigned char)r->at[len]))
        return false;
    r->at += len;
    return true;
}

static int read_object(struct reader *r, const char *prefix, int depth);

static int read_value(struct reader *r, const char *key, int depth)
{
    char prefix[KEY_MAX + 1];
    int ret;

    skip_space(r);
    if (*r->at == '{') {
        snprintf(prefix, sizeof(prefix), "%s.", key);
        return read_object(r, prefix, depth + 1);
    }
    if (*r->at == '"') {
        ret = read_string(r);
        if (ret != 0)
            return ret;
        /* Image options have no types: "on" is a flag in a string, but a name may be "on", too. */
        if ((strcmp(r->text, "on") == 0 || strcmp(r->text, "off") == 0) && !takes_text(key))
            return set_flag(r, key, r->text[1] == 'n');
        return set_string(r, key);
    }
    if (take_word(r, "true"))
        return set_flag(r, key, true);
    if (take_word(r, "false"))
        return set_flag(r, key, false);
    if (take_word(r, "null") && strcmp(key, "backing") == 0) {
        r->name->no_backing = true;
        return 0;
    }
    return bad_json(r, "a value that means nothing here");
}

static int read_object(struct reader *r, const char *prefix, int depth)
{
    char key[KEY_MAX];
    int ret, len;

    if (depth > MAX_DEPTH)
        return bad_json(r, "too deep");
    skip_space(r);
    if (*r->at != '{')
        return bad_json(r, "'{' is expected");
    r->at++;
    skip_space(r);
    while (*r->at != '}') {
        ret = read_string(r);
        if (ret != 0)
            return ret;
        len = snprintf(key, sizeof(key), "%s%s", prefix, r->text);
        if (len < 0 || (size_t)len >= sizeof(key))
            return bad_json(r, "a key is too long");
        skip_space(r);
        if (*r->at != ':')
            return bad_json(r, "':' is expected");
        r->at++;
        ret = read_value(r, key, depth);
        if (ret != 0)
            return ret;
        skip_space(r);
        if (*r->at == ',') {
            r->at++;
            skip_space(r);
        } else if (*r->at != '}') {
            return bad_json(r, "',' or '}' is expected");
        }
    }
    r->at++;
    return 0;
}

/* The drivers make sense together: a format over a file, or a file alone. */
static int settle_drivers(struct reader *r)
{
    struct qc_escaped shown;
    const char *file = r->file_driver;

    if (strcmp(r->driver, "file") == 0 || strcmp(r->driver, "host_device") == 0) {
        file = r->driver;
        if (keep(&r->name->format, "raw", r->err) != 0)
            return QCHAIN_E_NOMEM;
    } else if (*r->driver && keep(&r->name->format, r->driver, r->err) != 0) {
        return QCHAIN_E_NOMEM;
    }
    if (*file && strcmp(file, "file") != 0 && strcmp(file, "host_device") != 0)
        return qc_fail(r->err, QCHAIN_E_UNSUPPORTED,
                       "json: name: driver '%s' is not known; this version opens local files only",
                       qc_escape_str(&shown, file));
    if (!r->name->path || !*r->name->path)
        return qc_fail(r->err, QCHAIN_E_INVAL, "json: name: 'file.filename' is missing");
    return 0;
}

int qc_name_parse_json(struct qc_name *n, const char *json, qchain_error *err)
{
    struct reader *r = qc_calloc(1, sizeof(*r));
    int ret;

    memset(n, 0, sizeof(*n));
    if (!r)
        return qc_fail_nomem(err);
    r->at = json;
    r->name = n;
    r->err = err;
    ret = read_object(r, "", 0);
    if (ret == 0) {
        skip_space(r);
        if (*r->at)
            ret = bad_json(r, "text after the end");
    }
    if (ret == 0)
        ret = settle_drivers(r);
    qc_free(r);
    if (ret != 0)
        qc_name_finish(n);
    return ret;
}
