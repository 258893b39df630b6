/* SPDX-License-Identifier: MIT */
#include "net/aws_json.h"

#include <qchain.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#include "net/config_int.h"
#include "util/alloc.h"

struct reader {
    const char *p, *end;
};

static void skip_blanks(struct reader *r)
{
    while (r->p < r->end && strchr(" \t\r\n", *r->p) && *r->p)
        r->p++;
}

static bool take(struct reader *r, char c)
{
    skip_blanks(r);
    if (r->p >= r->end || *r->p != c)
        return false;
    r->p++;
    return true;
}

static int hex4(struct reader *r)
{
    int v = 0;

    if (r->end - r->p < 4)
        return -1;
    for (int i = 0; i < 4; i++) {
        char c = *r->p++;

        if (c >= '0' && c <= '9')
            v = v * 16 + c - '0';
        else if ((c | 32) >= 'a' && (c | 32) <= 'f')
            v = v * 16 + (c | 32) - 'a' + 10;
        else
            return -1;
    }
    return v;
}

/* Behind "\u"; a pair of surrogates is one character. At most 4 bytes; 0: broken, or NUL. */
static size_t unicode(struct reader *r, char *out)
{
    int hi = hex4(r), lo;
    uint32_t c = (uint32_t)hi;

    if (hi <= 0 || (hi >= 0xdc00 && hi <= 0xdfff))
        return 0;
    if (hi >= 0xd800 && hi <= 0xdbff) {
        if (r->end - r->p < 2 || *r->p++ != '\\' || *r->p++ != 'u')
            return 0;
        lo = hex4(r);
        if (lo < 0xdc00 || lo > 0xdfff)
            return 0;
        c = 0x10000 + (((uint32_t)hi & 0x3ff) << 10 | ((uint32_t)lo & 0x3ff));
    }
    if (c < 0x80) {
        out[0] = (char)c;
        return 1;
    }
    if (c < 0x800) {
        out[0] = (char)(0xc0 | c >> 6);
        out[1] = (char)(0x80 | (c & 63));
        return 2;
    }
    if (c < 0x10000) {
        out[0] = (char)(0xe0 | c >> 12);
        out[1] = (char)(0x80 | (c >> 6 & 63));
        out[2] = (char)(0x80 | (c & 63));
        return 3;
    }
    out[0] = (char)(0xf0 | c >> 18);
    out[1] = (char)(0x80 | (c >> 12 & 63));
    out[2] = (char)(0x80 | (c >> 6 & 63));
    out[3] = (char)(0x80 | (c & 63));
    return 4;
}

/* Behind a '\\': bytes written, or 0. */
static size_t escaped(struct reader *r, char *out)
{
    static const char plain[] = "\"\\/bfnrt", means[] = "\"\\/\b\f\n\r\t";
    const char *at;

    if (r->p == r->end)
        return 0;
    if (*r->p == 'u') {
        r->p++;
        return unicode(r, out);
    }
    at = *r->p ? strchr(plain, *r->p) : NULL;
    if (!at)
        return 0;
    r->p++;
    *out = means[at - plain];
    return 1;
}

/* A string, decoded; no escape is shorter than what it stands for. */
static int read_string(struct reader *r, char **out)
{
    char *s, *o;

    *out = NULL;
    if (!take(r, '"'))
        return QCHAIN_E_INVAL;
    s = o = qc_malloc((size_t)(r->end - r->p) + 1);
    if (!s)
        return QCHAIN_E_NOMEM;
    while (r->p < r->end && (unsigned char)*r->p >= 0x20) {
        char c = *r->p++;
        size_t n = 1;

        if (c == '"') {
            *o = '\0';
            *out = s;
            return 0;
        }
        *o = c;
        if (c == '\\' && !(n = escaped(r, o)))
            break;
        o += n;
    }
    *o = '\0';
    qc_conf_wipe(s);
    return QCHAIN_E_INVAL;
}

/* A number or a word: taken for one if it looks like it. */
static int skip_plain(struct reader *r)
{
    static const char *const word[] = {"true", "false", "null"};
    const char *from = r->p;

    for (size_t i = 0; i < sizeof(word) / sizeof(word[0]); i++) {
        size_t n = strlen(word[i]);

        if ((size_t)(r->end - r->p) >= n && memcmp(r->p, word[i], n) == 0) {
            r->p += n;
            return 0;
        }
    }
    while (r->p < r->end && *r->p && strchr("0123456789+-.eE", *r->p))
        r->p++;
    return r->p > from ? 0 : QCHAIN_E_INVAL;
}

static int read_member(struct reader *r, struct qc_json_field *field, size_t n_fields)
{
    struct qc_json_field *f = NULL;
    char *name = NULL, *value = NULL;
    int ret = read_string(r, &name);

    if (ret == 0 && !take(r, ':'))
        ret = QCHAIN_E_INVAL;
    if (ret)
        goto out;
    for (size_t i = 0; i < n_fields; i++)
        if (strcmp(field[i].name, name) == 0)
            f = &field[i];
    skip_blanks(r);
    if (r->p < r->end && *r->p == '"')
        ret = read_string(r, &value);
    else
        ret = skip_plain(r);
    if (ret == 0 && f && f->value)
        ret = QCHAIN_E_INVAL; /* which of them? */
    if (ret == 0 && f) {
        f->value = value;
        value = NULL;
    }
out:
    qc_free(name);
    qc_conf_wipe(value);
    return ret;
}

int qc_json_read(const char *p, size_t len, struct qc_json_field *field, size_t n_fields)
{
    struct reader r = {p, p + len};
    int ret = 0;

    if (!take(&r, '{'))
        return QCHAIN_E_INVAL;
    if (!take(&r, '}')) {
        do
            ret = read_member(&r, field, n_fields);
        while (ret == 0 && take(&r, ','));
        if (ret == 0 && !take(&r, '}'))
            ret = QCHAIN_E_INVAL;
    }
    skip_blanks(&r);
    return ret ? ret : r.p == r.end ? 0 : QCHAIN_E_INVAL;
}

void qc_json_finish(struct qc_json_field *field, size_t n_fields)
{
    for (size_t i = 0; i < n_fields; i++) {
        qc_conf_wipe(field[i].value);
        field[i].value = NULL;
    }
}

/* n digits at *s as a number; -1 if they are not there. */
static int digits(const char **s, int n)
{
    int v = 0;

    for (int i = 0; i < n; i++, ++*s) {
        if (**s < '0' || **s > '9')
            return -1;
        v = v * 10 + **s - '0';
    }
    return v;
}

uint64_t qc_json_time(const char *text)
{
    static const char before[] = "--T::"; /* what follows year, month ... */
    int v[6], hours, minutes, sign;
    const char *s = text;
    struct tm tm = {0};
    int64_t t;

    for (int i = 0; i < 6; i++) {
        v[i] = digits(&s, i ? 2 : 4);
        if (v[i] < 0 || (i < 5 && *s++ != before[i]))
            return 0;
    }
    if (v[0] < 1970 || v[1] < 1 || v[1] > 12 || v[2] < 1 || v[2] > 31 || v[3] > 23 || v[4] > 59 ||
        v[5] > 60)
        return 0;
    if (*s == '.')
        for (s++; *s >= '0' && *s <= '9'; s++) {
        }
    tm = (struct tm){.tm_year = v[0] - 1900, .tm_mon = v[1] - 1, .tm_mday = v[2], .tm_hour = v[3],
                     .tm_min = v[4], .tm_sec = v[5]};
    t = timegm(&tm);
    if (*s == 'Z' && !s[1])
        return t > 0 ? (uint64_t)t : 0;
    sign = *s == '+' ? 1 : *s == '-' ? -1 : 0;
    s += sign != 0;
    hours = sign ? digits(&s, 2) : -1;
    s += hours >= 0 && *s == ':';
    minutes = hours >= 0 ? digits(&s, 2) : -1;
    if (minutes < 0 || *s || hours > 14 || minutes > 59)
        return 0;
    t -= sign * (hours * 3600 + minutes * 60);
    return t > 0 ? (uint64_t)t : 0;
}
