/* SPDX-License-Identifier: MIT */
#include "net/url.h"

#include <arpa/inet.h>
#include <string.h>

#include "util/alloc.h"
#include "util/error.h"

#define URL_MAX 8192
#define HOST_MAX 255

static bool is_alpha(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static char lower(char c)
{
    return c >= 'A' && c <= 'Z' ? (char)(c + ('a' - 'A')) : c;
}

static int hex_value(char c)
{
    if (is_digit(c))
        return c - '0';
    c = lower(c);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* The length of the scheme before a "://", or 0. */
static size_t scheme_length(const char *s)
{
    size_t n = 0;

    if (!is_alpha(s[0]))
        return 0;
    while (is_alpha(s[n]) || is_digit(s[n]) || s[n] == '+' || s[n] == '-' || s[n] == '.')
        n++;
    return strncmp(s + n, "://", 3) == 0 ? n : 0;
}

static bool is_object_scheme(const char *s)
{
    return strcmp(s, "s3") == 0 || strcmp(s, "az") == 0 || strcmp(s, "gs") == 0;
}

static uint16_t own_port(const char *scheme)
{
    return strcmp(scheme, "http") == 0 ? 80 : strcmp(scheme, "https") == 0 ? 443 : 0;
}

static char *lower_dup(const char *s, size_t n)
{
    char *out = qc_strndup(s, n);

    for (size_t i = 0; out && i < n; i++)
        out[i] = lower(out[i]);
    return out;
}

/* ------------------------------------------------------------------ parsing --- */

/* A bucket or container: what any of the stores allows in the name of one. */
static int parse_bucket(struct qc_url *u, const char *s, size_t n, qchain_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (!is_alpha(s[i]) && !is_digit(s[i]) && !strchr("-._$", s[i]))
            return qc_fail(err, QCHAIN_E_INVAL, "a %s URL names its bucket by letters, digits, "
                           "'-', '.' and '_' only", u->scheme);
    /* It becomes a part of a path, where dots lead to another place. */
    if ((n == 1 || n == 2) && strncmp(s, "..", n) == 0)
        return qc_fail(err, QCHAIN_E_INVAL, "a %s URL has dots for its bucket's name", u->scheme);
    if (n == 0 || n > HOST_MAX)
        return qc_fail(err, QCHAIN_E_INVAL, "a %s URL %s", u->scheme,
                       n ? "has too long a bucket name" : "names no bucket");
    u->host = qc_strndup(s, n);
    return u->host ? 0 : qc_fail_nomem(err);
}

static int parse_port(struct qc_url *u, const char *s, size_t n, qchain_error *err)
{
    uint32_t port = 0;

    if (n == 0)
        return 0;
    for (size_t i = 0; i < n; i++) {
        if (!is_digit(s[i]) || port > 65535)
            return qc_fail(err, QCHAIN_E_INVAL, "a URL's port is not a number of 1 to 65535");
        port = port * 10 + (uint32_t)(s[i] - '0');
    }
    if (port == 0 || port > 65535)
        return qc_fail(err, QCHAIN_E_INVAL, "a URL's port is not a number of 1 to 65535");
    u->port = (uint16_t)port;
    return 0;
}

/* "[::1]" and what is behind it; the address is kept as the C library writes it. */
static int parse_ipv6(struct qc_url *u, const char *s, size_t n, size_t *used, qchain_error *err)
{
    char text[INET6_ADDRSTRLEN] = "";
    struct in6_addr a;
    size_t k = 1;

    while (k < n && s[k] != ']')
        k++;
    if (k >= n || k - 1 >= sizeof(text))
        return qc_fail(err, QCHAIN_E_INVAL, "a URL's IPv6 address is not one");
    memcpy(text, s + 1, k - 1);
    if (inet_pton(AF_INET6, text, &a) != 1 || !inet_ntop(AF_INET6, &a, text, sizeof(text)))
        return qc_fail(err, QCHAIN_E_INVAL, "a URL's IPv6 address is not one");
    *used = k + 1;
    u->host = qc_strdup(text);
    return u->host ? 0 : qc_fail_nomem(err);
}

static int parse_host(struct qc_url *u, const char *s, size_t n, size_t *used, qchain_error *err)
{
    size_t k = 0;

    if (n && s[0] == '[')
        return parse_ipv6(u, s, n, used, err);
    while (k < n && s[k] != ':') {
        if (!is_alpha(s[k]) && !is_digit(s[k]) && !strchr("-._", s[k]))
            return qc_fail(err, QCHAIN_E_INVAL, "a URL's host has characters that a host's name "
                           "cannot have");
        k++;
    }
    if (k == 0 || k > HOST_MAX)
        return qc_fail(err, QCHAIN_E_INVAL, "a URL has %s", k ? "too long a host" : "no host");
    *used = k;
    u->host = lower_dup(s, k);
    return u->host ? 0 : qc_fail_nomem(err);
}

static int parse_authority(struct qc_url *u, const char *s, size_t n, qchain_error *err)
{
    const char *at = memchr(s, '@', n);
    size_t used = 0;
    int ret;

    if (at) {
        u->userinfo = qc_strndup(s, (size_t)(at - s));
        if (!u->userinfo)
            return qc_fail_nomem(err);
        n -= (size_t)(at + 1 - s);
        s = at + 1;
        /* Programs disagree on which one ends it, and so on who the host is. */
        if (memchr(s, '@', n) || strchr(u->userinfo, '\\'))
            return qc_fail(err, QCHAIN_E_INVAL, "a URL has more than one '@', or a '\\', before its "
                           "path; within a password they are written %%40 and %%5C");
    }
    ret = parse_host(u, s, n, &used, err);
    if (ret)
        return ret;
    if (used == n)
        return 0;
    if (s[used] != ':')
        return qc_fail(err, QCHAIN_E_INVAL, "a URL has something else than a port behind its host");
    return parse_port(u, s + used + 1, n - used - 1, err);
}

/* No character that could end a line or a header, or be taken for another by the next program. */
static int check_text(const char *text, bool blanks, qchain_error *err)
{
    size_t n = strnlen(text, URL_MAX + 1);

    if (n > URL_MAX)
        return qc_fail(err, QCHAIN_E_INVAL, "a URL is longer than %d bytes", URL_MAX);
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)text[i];

        if (c < 0x20 || c == 0x7f)
            return qc_fail(err, QCHAIN_E_INVAL, "a URL has control characters");
        if (c == ' ' && !blanks)
            return qc_fail(err, QCHAIN_E_INVAL, "a URL has blanks; they are written %%20");
    }
    return 0;
}

static int parse_object(struct qc_url *u, const char *s, qchain_error *err)
{
    size_t n = strcspn(s, "/");
    int ret = parse_bucket(u, s, n, err);

    if (ret)
        return ret;
    u->path = qc_strdup(s[n] ? s + n : "/");
    return u->path ? 0 : qc_fail_nomem(err);
}

static int parse_web(struct qc_url *u, const char *s, qchain_error *err)
{
    size_t n = strcspn(s, "/?#"), path, query;
    int ret = parse_authority(u, s, n, err);

    if (ret)
        return ret;
    s += n;
    path = strcspn(s, "?#");
    u->path = path ? qc_strndup(s, path) : qc_strdup("/");
    if (!u->path)
        return qc_fail_nomem(err);
    s += path;
    if (*s != '?')
        return 0;
    query = strcspn(++s, "#");
    u->query = qc_strndup(s, query);
    return u->query ? 0 : qc_fail_nomem(err);
}

int qc_url_parse(struct qc_url *u, const char *text, qchain_error *err)
{
    size_t n = scheme_length(text);
    int ret;

    memset(u, 0, sizeof(*u));
    if (!n)
        return qc_fail(err, QCHAIN_E_INVAL, "a URL begins with its scheme and \"://\"");
    u->scheme = lower_dup(text, n < 32 ? n : 32);
    if (!u->scheme)
        return qc_fail_nomem(err);
    ret = check_text(text, is_object_scheme(u->scheme), err);
    if (ret)
        goto out;
    u->port = own_port(u->scheme);
    text += n + 3;
    ret = is_object_scheme(u->scheme) ? parse_object(u, text, err) : parse_web(u, text, err);
out:
    if (ret)
        qc_url_finish(u);
    return ret;
}

static void wipe_free(char *s)
{
    if (s)
        explicit_bzero(s, strlen(s));
    qc_free(s);
}

void qc_url_finish(struct qc_url *u)
{
    qc_free(u->scheme);
    wipe_free(u->userinfo);
    qc_free(u->host);
    qc_free(u->path);
    wipe_free(u->query);
    memset(u, 0, sizeof(*u));
}

/* ------------------------------------------------------------------ writing --- */

static char *origin_with(const struct qc_url *u, const char *userinfo)
{
    bool v6 = strchr(u->host, ':') != NULL;
    char port[8] = "";

    if (u->port && u->port != own_port(u->scheme)) {
        unsigned v = u->port, k = 0;
        char digits[6];

        for (; v; v /= 10)
            digits[k++] = (char)('0' + v % 10);
        port[0] = ':';
        for (unsigned i = 0; i < k; i++)
            port[1 + i] = digits[k - 1 - i];
    }
    return qc_asprintf("%s://%s%s%s%s%s%s", u->scheme, userinfo ? userinfo : "",
                       userinfo ? "@" : "", v6 ? "[" : "", u->host, v6 ? "]" : "", port);
}

char *qc_url_origin(const struct qc_url *u)
{
    return origin_with(u, NULL);
}

char *qc_url_text(const struct qc_url *u)
{
    char *origin = origin_with(u, u->userinfo), *out = NULL;

    if (origin)
        out = qc_asprintf("%s%s%s%s", origin, u->path, u->query ? "?" : "",
                          u->query ? u->query : "");
    wipe_free(origin);
    return out;
}

/* Where a user before the host ends, or s. A password may have a '/' in it that should have been encoded:
 * what then looks like a port is no number. */
static const char *behind_user(const char *s)
{
    size_t authority = strcspn(s, "/"); /* passwords have '?' and '#', whatever the rules are */
    size_t colon = *s == '[' ? authority : strcspn(s, ":/");
    const char *at = memrchr(s, '@', authority);

    if (!at && colon < authority &&
        colon + 1 + strspn(s + colon + 1, "0123456789") != authority)
        at = strrchr(s, '@');
    return at ? at + 1 : s;
}

char *qc_url_shown(const char *text)
{
    size_t n = scheme_length(text), end;
    const char *host;
    bool object;

    if (!n)
        return qc_strdup(text);
    object = n == 2 && (strncasecmp(text, "s3", 2) == 0 || strncasecmp(text, "az", 2) == 0 ||
                        strncasecmp(text, "gs", 2) == 0);
    host = behind_user(text + n + 3);
    end = strlen(host);
    /* In a key '?' is a character like others, but somebody may have thought otherwise. */
    if (!object)
        end = strcspn(host, "?#");
    else if (strchr(host, '?') && strchr(strchr(host, '?'), '='))
        end = strcspn(host, "?");
    return qc_asprintf("%.*s%.*s", (int)(n + 3), text, (int)end, host);
}

bool qc_url_same_origin(const struct qc_url *a, const struct qc_url *b)
{
    return strcmp(a->scheme, b->scheme) == 0 && strcmp(a->host, b->host) == 0 && a->port == b->port;
}

/* ---------------------------------------------------------------- resolving --- */

/* Is s[0..n) "." (1), ".." (2), in either way of writing, or else (0)? */
static int dots(const char *s, size_t n)
{
    int count = 0;

    for (size_t i = 0; i < n; count++) {
        if (s[i] == '.')
            i++;
        else if (n - i >= 3 && s[i] == '%' && s[i + 1] == '2' && lower(s[i + 2]) == 'e')
            i += 3;
        else
            return 0;
    }
    return count <= 2 ? count : 0;
}

void qc_url_remove_dots(char *path)
{
    char *in = path, *out = path;

    if (*in != '/')
        return;
    while (*in) { /* in is at a '/' */
        size_t n = strcspn(in + 1, "/");
        int d = dots(in + 1, n);
        bool last = !in[1 + n];

        if (d == 2)
            while (out > path && *--out != '/') {
            }
        if (d) {
            if (last)
                *out++ = '/';
        } else {
            memmove(out, in, n + 1);
            out += n + 1;
        }
        in += n + 1;
    }
    if (out == path)
        *out++ = '/';
    *out = '\0';
}

/* path and query of a relative reference, as text behind base's origin. NULL: no memory. */
static char *merge(const struct qc_url *base, const char *ref)
{
    const char *slash = strrchr(base->path, '/');
    size_t dir = slash ? (size_t)(slash - base->path) + 1 : 0;

    if (ref[0] == '/')
        return qc_strdup(ref);
    if (ref[0] == '?')
        return qc_asprintf("%s%s", base->path, ref);
    if (ref[0] == '\0' || ref[0] == '#')
        return qc_asprintf("%s%s%s", base->path, base->query ? "?" : "",
                           base->query ? base->query : "");
    return qc_asprintf("%.*s%s", (int)dir, base->path, ref);
}

/* A reference that names its scheme: "x:", before any '/', '?' or '#'. */
static bool has_scheme(const char *s)
{
    size_t n = strcspn(s, ":/?#");

    return n > 0 && s[n] == ':' && is_alpha(s[0]);
}

/* Servers write blanks and other bytes into Location that a URL cannot hold. */
static char *clean_location(const char *s)
{
    size_t n = strlen(s), k = 0;
    char *out;

    while (n && (s[n - 1] == ' ' || s[n - 1] == '\t'))
        n--;
    while (n && (*s == ' ' || *s == '\t'))
        s++, n--;
    out = qc_malloc(3 * n + 1);
    for (size_t i = 0; out && i < n; i++) {
        unsigned char c = (unsigned char)s[i];

        if (c == ' ' || c >= 0x80) {
            out[k++] = '%';
            out[k++] = "0123456789ABCDEF"[c >> 4];
            out[k++] = "0123456789ABCDEF"[c & 15];
        } else {
            out[k++] = s[i];
        }
    }
    if (out)
        out[k] = '\0';
    return out;
}

int qc_url_resolve(struct qc_url *out, const struct qc_url *base, const char *location,
                   qchain_error *err)
{
    char *ref = NULL, *origin = NULL, *rest = NULL, *text = NULL;
    int ret = QCHAIN_E_NOMEM;

    memset(out, 0, sizeof(*out));
    if (strnlen(location, URL_MAX + 1) > URL_MAX)
        return qc_fail(err, QCHAIN_E_INVAL, "a redirect leads to a URL of more than %d bytes", URL_MAX);
    ref = clean_location(location);
    if (!ref)
        goto out;
    if (has_scheme(ref)) {
        text = qc_strdup(ref);
    } else if (ref[0] == '/' && ref[1] == '/') {
        text = qc_asprintf("%s:%s", base->scheme, ref);
    } else {
        origin = qc_url_origin(base);
        rest = merge(base, ref);
        text = origin && rest ? qc_asprintf("%s%s", origin, rest) : NULL;
    }
    if (!text)
        goto out;
    ret = qc_url_parse(out, text, err);
    if (ret == 0 && strcmp(out->scheme, "http") != 0 && strcmp(out->scheme, "https") != 0)
        ret = qc_fail(err, QCHAIN_E_INVAL, "a redirect leads to something else than http or https");
    if (ret == 0) {
        qc_url_remove_dots(out->path);
        wipe_free(out->userinfo); /* a server's idea of who we are */
        out->userinfo = NULL;
    }
out:
    if (ret == QCHAIN_E_NOMEM)
        qc_fail_nomem(err);
    if (ret)
        qc_url_finish(out);
    wipe_free(ref);
    qc_free(origin);
    wipe_free(rest);
    wipe_free(text);
    return ret;
}

/* ----------------------------------------------------------------- encoding --- */

static bool is_escape(const char *s, size_t left)
{
    return left >= 3 && s[0] == '%' && hex_value(s[1]) >= 0 && hex_value(s[2]) >= 0;
}

char *qc_url_encode(const char *s, size_t len, unsigned flags)
{
    char *out = len < SIZE_MAX / 3 ? qc_malloc(3 * len + 1) : NULL, *o = out;

    for (size_t i = 0; out && i < len; i++) {
        unsigned char c = (unsigned char)s[i];

        if (is_alpha(s[i]) || is_digit(s[i]) || (c && strchr("-._~", c)) ||
            (c == '/' && flags & QC_URL_KEEP_SLASH) ||
            (flags & QC_URL_KEEP_ESCAPES && is_escape(s + i, len - i))) {
            *o++ = s[i];
            continue;
        }
        *o++ = '%';
        *o++ = "0123456789ABCDEF"[c >> 4];
        *o++ = "0123456789ABCDEF"[c & 15];
    }
    if (out)
        *o = '\0';
    return out;
}

char *qc_url_decode(const char *s, size_t len)
{
    char *out = qc_malloc(len + 1), *o = out;

    if (out)
        *out = '\0'; /* always a string, for who wipes it */
    for (size_t i = 0; out && i < len; i++) {
        char c = s[i];

        if (is_escape(s + i, len - i)) {
            c = (char)(hex_value(s[i + 1]) * 16 + hex_value(s[i + 2]));
            i += 2;
        }
        if (c == '\0') {
            wipe_free(out);
            return NULL;
        }
        *o++ = c;
        *o = '\0';
    }
    return out;
}
