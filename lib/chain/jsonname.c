/* SPDX-License-Identifier: MIT */
/*
 * "json:{...}" names, as QEMU writes them: an object of strings, booleans,
 * numbers, null and objects of the same; {"file": {"filename": "x"}} and
 * {"file.filename": "x"} mean the same. Only what says where an image lies (a file,
 * or "url" with the drivers http and https) and how to open it is known; anything
 * else is refused rather than ignored. What QEMU takes here to log in to servers is
 * refused with the setting that is for it.
 */
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "chain/names.h"
#include "util/alloc.h"
#include "util/error.h"
#include "util/escape.h"

#define MAX_DEPTH 4
#define MAX_TEXT 8192
#define KEY_MAX 128

struct reader {
    const char     *at, *begin;
    bool            secret; /* the text may hold what is not for messages */
    struct qc_name *name;
    qchain_error   *err;
    char            text[MAX_TEXT]; /* the last string read */
    char            driver[32], file_driver[32];
    char           *filename, *url; /* owned */
};

static int bad_json(struct reader *r, const char *what)
{
    struct qc_escaped shown;

    if (r->secret)
        return qc_fail(r->err, QCHAIN_E_INVAL, "json: name: %s at byte %zu", what,
                       (size_t)(r->at - r->begin));
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

/* The option's name without "file.", which is where options of QEMU's curl driver stand. */
static const char *bare(const char *key)
{
    return strncmp(key, "file.", 5) == 0 ? key + 5 : key;
}

static bool is_one_of(const char *key, const char *const *known)
{
    for (; *known; known++)
        if (strcmp(key, *known) == 0)
            return true;
    return false;
}

static const char *const passwords[] = {"username", "password-secret", NULL};
static const char *const proxies[] = {"proxy-username", "proxy-password-secret", NULL};
static const char *const cookies[] = {"cookie", "cookie-secret", NULL};
/* How QEMU reads; this library does it its own way. */
static const char *const ignored[] = {"readahead", "timeout", "node-name", NULL};

/* True for options whose value is text, whatever it looks like. */
static bool takes_text(const char *key)
{
    static const char *const known[] = {"filename", "url", "node-name", "locking", NULL};

    key = bare(key);
    return is_one_of(key, known) || is_one_of(key, passwords) || is_one_of(key, proxies) ||
           is_one_of(key, cookies);
}

static int is_unknown(struct reader *r, const char *key)
{
    struct qc_escaped shown;
    const char *instead = NULL, *name = bare(key);

    if (is_one_of(name, passwords))
        instead = "set 'basic ORIGIN USER PASSWORD' instead";
    else if (is_one_of(name, cookies))
        instead = "cookies are not sent; set 'basic ORIGIN USER PASSWORD' or 'bearer ORIGIN TOKEN' "
                  "instead";
    else if (is_one_of(name, proxies))
        instead = "set 'proxy URL' instead";
    else if (strcmp(name, "sslverify") == 0)
        instead = "set 'insecure on' instead";
    if (!instead)
        return qc_fail(r->err, QCHAIN_E_UNSUPPORTED, "json: name: option '%s' is not known",
                       qc_escape_str(&shown, key));
    return qc_fail(r->err, QCHAIN_E_UNSUPPORTED,
                   "json: name: option '%s' is not taken from names: %s (qchain_remote_parse)",
                   qc_escape_str(&shown, key), instead);
}

static int set_string(struct reader *r, const char *key)
{
    const char *name = bare(key);

    if (strcmp(key, "driver") == 0)
        snprintf(r->driver, sizeof(r->driver), "%.31s", r->text);
    else if (strcmp(key, "file.driver") == 0)
        snprintf(r->file_driver, sizeof(r->file_driver), "%.31s", r->text);
    else if (strcmp(name, "filename") == 0)
        return keep(&r->filename, r->text, r->err);
    else if (strcmp(name, "url") == 0)
        return keep(&r->url, r->text, r->err);
    else if (strcmp(key, "backing") == 0 && !*r->text) /* as in image options */
        r->name->no_backing = true;
    else if (!is_one_of(name, ignored) && strcmp(key, "file.aio") != 0 &&
             strcmp(key, "file.locking") != 0)
        return is_unknown(r, key);
    return 0;
}

static int set_flag(struct reader *r, const char *key, bool on)
{
    if (strcmp(key, "force-share") == 0)
        r->name->force_share = on;
    else if (strcmp(key, "cache.direct") == 0 || strcmp(key, "file.cache.direct") == 0)
        r->name->direct = on;
    else if (strcmp(key, "read-only") != 0 && strcmp(key, "file.read-only") != 0 &&
             strcmp(key, "cache.no-flush") != 0 && strcmp(key, "file.cache.no-flush") != 0 &&
             !(on && strcmp(bare(key), "sslverify") == 0))
        return is_unknown(r, key);
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

/* A number goes with options that are not looked at. */
static bool take_number(struct reader *r, const char *key)
{
    size_t len = strspn(r->at, "0123456789");

    if (len == 0 || isalnum((unsigned char)r->at[len]) || !is_one_of(bare(key), ignored))
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
    if (take_number(r, key))
        return 0;
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

static bool is_file(const char *driver)
{
    return strcmp(driver, "file") == 0 || strcmp(driver, "host_device") == 0;
}

static bool is_web(const char *driver)
{
    return strcmp(driver, "http") == 0 || strcmp(driver, "https") == 0;
}

/* driver: of a server, or "". */
static int settle_url(struct reader *r, const char *driver)
{
    const char *url = r->url ? r->url : r->filename;
    size_t len = strlen(driver);

    if (r->url && !*driver)
        return qc_fail(r->err, QCHAIN_E_INVAL,
                       "json: name: 'url' goes with the drivers http and https only");
    if (!url || !*url)
        return qc_fail(r->err, QCHAIN_E_INVAL, "json: name: 'file.url' is missing");
    if (*driver && (strncasecmp(url, driver, len) != 0 || strncmp(url + len, "://", 3) != 0))
        return qc_fail(r->err, QCHAIN_E_INVAL,
                       "json: name: with the driver %s the URL begins with %s://", driver, driver);
    return qc_name_set_url(r->name, url, r->err);
}

/* The drivers make sense together: a format over a file or a URL, or one of these alone. */
static int settle_drivers(struct reader *r)
{
    struct qc_escaped shown;
    const char *file = r->file_driver;

    if (is_file(r->driver) || is_web(r->driver)) {
        file = r->driver;
        if (keep(&r->name->format, "raw", r->err) != 0)
            return QCHAIN_E_NOMEM;
    } else if (*r->driver && keep(&r->name->format, r->driver, r->err) != 0) {
        return QCHAIN_E_NOMEM;
    }
    if (*file && !is_file(file) && !is_web(file))
        return qc_fail(r->err, QCHAIN_E_UNSUPPORTED,
                       "json: name: driver '%s' is not known; there are file, host_device, http "
                       "and https", qc_escape_str(&shown, file));
    if (is_web(file))
        return settle_url(r, file);
    if (r->url || (!*file && r->filename && qc_name_is_url(r->filename)))
        return settle_url(r, "");
    if (!r->filename || !*r->filename)
        return qc_fail(r->err, QCHAIN_E_INVAL, "json: name: 'file.filename' is missing");
    return qc_name_set_path(r->name, r->filename, r->err);
}

int qc_name_parse_json(struct qc_name *n, const char *json, qchain_error *err)
{
    struct reader *r = qc_calloc(1, sizeof(*r));
    int ret;

    memset(n, 0, sizeof(*n));
    if (!r)
        return qc_fail_nomem(err);
    r->at = r->begin = json;
    r->secret = strstr(json, "://") || strstr(json, "cookie") || strstr(json, ":\\/\\/");
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
    qc_free(r->filename);
    qc_free(r->url);
    qc_free(r);
    if (ret != 0)
        qc_name_finish(n);
    return ret;
}
