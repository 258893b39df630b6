/* SPDX-License-Identifier: MIT */
/* Settings of remote layers as rules. One table says it all. */
#include "net/config_int.h"

#include <ctype.h>
#include <stddef.h>
#include <string.h>
#include <strings.h>

#include "net/url.h"
#include "util/alloc.h"
#include "util/error.h"

#define MAX_WORDS 5        /* of a rule, and one more to see that there are too many */
#define MAX_VALUE 16384u   /* bytes of a word; tokens are long */
#define MAX_ENTRIES 256u   /* of logins, regions, replicas each */
#define SHOWN_NAME 20u     /* what stands at a line's begin and is longer is no rule's name */

struct rule;

/* Each takes a rule's words (as many as it says) and answers 0 or an error without any of them. */
typedef int (*set_fn)(qchain_remote *c, const struct rule *r, char **arg, qchain_error *err);
/* NULL, or what is wrong with the value, as in "NAME is ...". May change it in place. */
typedef const char *(*check_fn)(char *value);

struct rule {
    const char *name;
    set_fn      set;
    size_t      at;    /* the field */
    check_fn    check; /* of strings */
    uint32_t    min, max;
    unsigned    n_args;
};

/* ------------------------------------------------------------- small checks --- */

static bool only(const char *s, const char *others)
{
    for (; *s; s++)
        if ((*s & 0x80) || (!isalnum((unsigned char)*s) && !strchr(others, *s)))
            return false;
    return true;
}

/* The length of "scheme://" if it is among those of the list ("http https"), else 0. */
static size_t scheme_length(const char *url, const char *list)
{
    const char *colon = strstr(url, "://");
    size_t n = colon ? (size_t)(colon - url) : 0;

    for (const char *w = list; n && *w; w += strspn(w, " ")) {
        size_t len = strcspn(w, " ");

        if (len == n && strncasecmp(url, w, n) == 0)
            return n + 3;
        w += len;
    }
    return 0;
}

static const char *check_proxy(char *url)
{
    size_t at = scheme_length(url, "http https socks4 socks4a socks5 socks5h");

    if (!at || url[at] == '\0' || url[at] == '/' || url[at] == ':')
        return "not a URL as in http://proxy:3128";
    return NULL;
}

static const char *check_file(char *path)
{
    return path[0] == '~' ? "a name with '~', which only a shell knows: write the whole path" : NULL;
}

static const char *check_word(char *value)
{
    return only(value, "-_.") ? NULL : "made of something else than letters, digits, '-', '_' and '.'";
}

static const char *check_account(char *value)
{
    return only(value, "-") ? NULL : "made of something else than letters, digits and '-'";
}

static const char *check_base64(char *value)
{
    return only(value, "+/=") ? NULL : "not in base64";
}

static const char *check_sas(char *value)
{
    if (value[0] == '?')
        memmove(value, value + 1, strlen(value));
    return strstr(value, "sig=") && !strpbrk(value, " #") ? NULL
                                                          : "not a shared access signature (sv=...&sig=...)";
}

static const char *check_token(char *value)
{
    return strpbrk(value, " \"") ? "a value with blanks or quotes in it" : NULL;
}

/* --------------------------------------------------------------------- URLs --- */

static const char web[] = "http https", all[] = "http https s3 az gs";

static int parse_url(struct qc_url *u, const struct rule *r, const char *text, const char *schemes,
                     qchain_error *err)
{
    int ret = QCHAIN_E_INVAL;

    memset(u, 0, sizeof(*u));
    if (!scheme_length(text, schemes))
        return qc_fail(err, ret, "a URL of %s begins with http:// or https://%s", r->name,
                       schemes == all ? ", s3://, az:// or gs://" : "");
    ret = qc_url_parse(u, text, err);
    if (ret != 0)
        qc_error_prefix(err, -1, "%s: ", r->name);
    else if (u->userinfo)
        ret = qc_fail(err, QCHAIN_E_INVAL, "a URL of %s has a user name in it; credentials have rules of "
                      "their own", r->name);
    else if (u->query)
        ret = qc_fail(err, QCHAIN_E_INVAL, "a URL of %s has a query", r->name);
    if (ret != 0)
        qc_url_finish(u);
    return ret;
}

/* Written as qc_url_text does, with one '/' at its end or none. *out is to be freed. */
static int read_url(char **out, const struct rule *r, const char *text, const char *schemes, bool slash,
                    qchain_error *err)
{
    struct qc_url u;
    int ret = parse_url(&u, r, text, schemes, err);
    char *whole = ret == 0 ? qc_url_text(&u) : NULL;
    size_t len = whole ? strlen(whole) : 0;

    qc_url_finish(&u);
    if (ret != 0)
        return ret;
    while (len && whole[len - 1] == '/')
        len--;
    *out = whole ? qc_asprintf("%.*s%s", (int)len, whole, slash ? "/" : "") : NULL;
    qc_free(whole);
    return *out ? 0 : qc_fail_nomem(err);
}

/* --------------------------------------------------------------- the setters --- */

static void *field(qchain_remote *c, const struct rule *r)
{
    return (char *)c + r->at;
}

static void keep_string(qchain_remote *c, const struct rule *r, char *owned)
{
    char **slot = field(c, r);

    qc_conf_wipe(*slot);
    *slot = owned;
}

static int set_string(qchain_remote *c, const struct rule *r, char **arg, qchain_error *err)
{
    char *copy;
    const char *wrong = r->check ? r->check(arg[0]) : NULL;

    if (!arg[0][0])
        wrong = "empty";
    if (wrong)
        return qc_fail(err, QCHAIN_E_INVAL, "the value of %s is %s", r->name, wrong);
    copy = qc_strdup(arg[0]);
    if (!copy)
        return qc_fail_nomem(err);
    keep_string(c, r, copy);
    return 0;
}

static int set_endpoint(qchain_remote *c, const struct rule *r, char **arg, qchain_error *err)
{
    char *url = NULL;
    int ret = read_url(&url, r, arg[0], web, false, err);

    if (ret == 0)
        keep_string(c, r, url);
    return ret;
}

/* Digits alone, at most max. */
static bool read_number(const char *text, size_t len, uint64_t max, uint64_t *out)
{
    uint64_t n = 0;

    for (size_t i = 0; i < len; i++) {
        if (!isdigit((unsigned char)text[i]) || n > max / 10)
            return false;
        n = n * 10 + (uint64_t)(text[i] - '0');
    }
    *out = n;
    return len > 0 && n <= max;
}

static int set_number(qchain_remote *c, const struct rule *r, char **arg, qchain_error *err)
{
    uint64_t n;

    if (!read_number(arg[0], strlen(arg[0]), r->max, &n) || n < r->min)
        return qc_fail(err, QCHAIN_E_INVAL, "%s takes a number from %u to %u", r->name, r->min, r->max);
    *(uint32_t *)field(c, r) = (uint32_t)n;
    return 0;
}

/* Seconds, with up to three digits behind a point, kept as milliseconds. */
static int set_seconds(qchain_remote *c, const struct rule *r, char **arg, qchain_error *err)
{
    size_t len = strcspn(arg[0], ".");
    const char *part = arg[0][len] ? arg[0] + len + 1 : "0";
    size_t digits = strlen(part);
    uint64_t s, ms;

    if (!read_number(arg[0], len, r->max, &s) || digits > 3 || !read_number(part, digits, 999, &ms))
        goto bad;
    for (; digits < 3; digits++)
        ms *= 10;
    ms += s * 1000;
    if (ms == 0 || ms > (uint64_t)r->max * 1000)
        goto bad;
    *(uint32_t *)field(c, r) = (uint32_t)ms;
    return 0;

bad:
    return qc_fail(err, QCHAIN_E_INVAL, "%s takes seconds from 0.001 to %u", r->name, r->max);
}

/* A number of bytes, with K, M, G or T behind it. */
static bool read_size(const char *text, uint64_t *out)
{
    static const char units[] = "KMGT";
    size_t len = strlen(text);
    const char *unit = len ? strchr(units, toupper((unsigned char)text[len - 1])) : NULL;
    unsigned shift = unit ? 10 * (unsigned)(unit - units + 1) : 0;

    if (!read_number(text, len - (unit != NULL), (uint64_t)INT64_MAX >> shift, out))
        return false;
    *out <<= shift;
    return true;
}

static int set_block(qchain_remote *c, const struct rule *r, char **arg, qchain_error *err)
{
    uint64_t n;

    if (!read_size(arg[0], &n) || n < (64 << 10) || n > (16 << 20) || (n & (n - 1)))
        return qc_fail(err, QCHAIN_E_INVAL, "%s takes a power of two from 64K to 16M", r->name);
    *(uint32_t *)field(c, r) = (uint32_t)n;
    return 0;
}

static int set_cache_size(qchain_remote *c, const struct rule *r, char **arg, qchain_error *err)
{
    uint64_t n;

    if (!read_size(arg[0], &n) || n < (1 << 20))
        return qc_fail(err, QCHAIN_E_INVAL, "%s takes a size of at least 1M, as in 512M or 10G", r->name);
    *(uint64_t *)field(c, r) = n;
    return 0;
}

static int set_flag(qchain_remote *c, const struct rule *r, char **arg, qchain_error *err)
{
    bool on = strcmp(arg[0], "on") == 0;

    if (!on && strcmp(arg[0], "off") != 0)
        return qc_fail(err, QCHAIN_E_INVAL, "%s takes on or off", r->name);
    *(bool *)field(c, r) = on;
    return 0;
}

static int set_style(qchain_remote *c, const struct rule *r, char **arg, qchain_error *err)
{
    bool virtual = strcmp(arg[0], "virtual") == 0;

    if (!virtual && strcmp(arg[0], "path") != 0)
        return qc_fail(err, QCHAIN_E_INVAL, "%s takes path or virtual", r->name);
    *(bool *)field(c, r) = virtual;
    return 0;
}

static int set_verify(qchain_remote *c, const struct rule *r, char **arg, qchain_error *err)
{
    static const char *const names[] = {"background", "first-read", "strict"};

    for (uint32_t i = 0; i < 3; i++)
        if (strcmp(arg[0], names[i]) == 0) {
            *(uint32_t *)field(c, r) = i; /* enum qc_verify */
            return 0;
        }
    return qc_fail(err, QCHAIN_E_INVAL, "%s takes background, first-read or strict", r->name);
}

/* ------------------------------------------------------------------- logins --- */

/* "HTTPS://Host:443/" to "https://host". *out is to be freed. */
static int read_origin(char **out, const struct rule *r, const char *text, qchain_error *err)
{
    struct qc_url u;
    int ret = parse_url(&u, r, text, web, err);

    if (ret)
        return ret;
    if (strcmp(u.path, "/") != 0)
        ret = qc_fail(err, QCHAIN_E_INVAL, "the origin of %s has more than scheme, host and port, as in "
                      "https://host:8443", r->name);
    else if (!(*out = qc_url_origin(&u)))
        ret = qc_fail_nomem(err);
    qc_url_finish(&u);
    return ret;
}

static int add_login(qchain_remote *c, const struct rule *r, const char *origin, const char *user,
                     const char *password, qchain_error *err)
{
    struct qc_conf_login l, *more;
    uint32_t i = 0;

    while (i < c->n_logins && strcmp(c->login[i].origin, origin) != 0)
        i++;
    if (i == MAX_ENTRIES)
        return qc_fail(err, QCHAIN_E_INVAL, "%s: there are %u logins already", r->name, MAX_ENTRIES);
    if (qc_login_init(&l, origin, user, password) != 0)
        return qc_fail_nomem(err);
    if (i < c->n_logins) { /* what is said last holds */
        qc_login_finish(&c->login[i]);
    } else {
        more = qc_realloc(c->login, i + 1, sizeof(*more));
        if (!more) {
            qc_login_finish(&l);
            return qc_fail_nomem(err);
        }
        c->login = more;
        c->n_logins++;
    }
    c->login[i] = l;
    return 0;
}

static int read_login(qchain_remote *c, const struct rule *r, char **arg, bool basic, qchain_error *err)
{
    char *origin = NULL;
    int ret = read_origin(&origin, r, arg[0], err);

    if (ret == 0)
        ret = add_login(c, r, origin, basic ? arg[1] : NULL, arg[basic ? 2 : 1], err);
    qc_free(origin);
    return ret;
}

static int set_basic(qchain_remote *c, const struct rule *r, char **arg, qchain_error *err)
{
    if (!arg[1][0] || strchr(arg[1], ':'))
        return qc_fail(err, QCHAIN_E_INVAL, "the user of %s is empty or has a ':' in it", r->name);
    return read_login(c, r, arg, true, err);
}

static int set_bearer(qchain_remote *c, const struct rule *r, char **arg, qchain_error *err)
{
    const char *wrong = arg[1][0] ? check_token(arg[1]) : "empty";

    if (wrong)
        return qc_fail(err, QCHAIN_E_INVAL, "the token of %s is %s", r->name, wrong);
    return read_login(c, r, arg, false, err);
}

/* -------------------------------------------------------- regions, replicas --- */

static int add_pair(struct qc_conf_pair **list, uint32_t *n, const struct rule *r, const char *prefix,
                    const char *url, qchain_error *err)
{
    struct qc_conf_pair *more;

    if (*n == MAX_ENTRIES)
        return qc_fail(err, QCHAIN_E_INVAL, "there are more than %u rules %s", MAX_ENTRIES, r->name);
    more = qc_realloc(*list, *n + 1, sizeof(*more));
    if (!more)
        return qc_fail_nomem(err);
    *list = more;
    if (qc_pair_init(&more[*n], prefix, url) != 0)
        return qc_fail_nomem(err);
    ++*n;
    return 0;
}

/* A region's URL has no '/' at its end, a replica's one: names are made by putting what lies behind the
 * prefix behind it. */
static int set_pair(qchain_remote *c, const struct rule *r, char **arg, qchain_error *err)
{
    bool region = strcmp(r->name, "region") == 0;
    char *prefix = NULL, *url = NULL;
    int ret = read_url(&prefix, r, arg[0], all, true, err);

    if (ret == 0)
        ret = read_url(&url, r, arg[1], all, !region, err);
    if (ret == 0)
        ret = region ? add_pair(&c->region, &c->n_regions, r, prefix, url, err)
                     : add_pair(&c->replica, &c->n_replicas, r, prefix, url, err);
    qc_free(prefix);
    qc_free(url);
    return ret;
}

/* ----------------------------------------------------------------- the table --- */

#define AT(f) offsetof(struct qchain_remote, f)
#define STRING(name, f, check) {name, set_string, AT(f), check, 0, 0, 1}
#define ENDPOINT(name, f) {name, set_endpoint, AT(f), NULL, 0, 0, 1}

static const struct rule rules[] = {
    {"connections", set_number, AT(connections), NULL, 1, 1024, 1},
    {"workers", set_number, AT(workers), NULL, 1, 64, 1},
    {"block-size", set_block, AT(block_bytes), NULL, 0, 0, 1},
    {"connect-timeout", set_seconds, AT(connect_ms), NULL, 0, 3600, 1},
    {"stall-timeout", set_seconds, AT(stall_ms), NULL, 0, 3600, 1},
    {"deadline", set_seconds, AT(deadline_ms), NULL, 0, 86400, 1},
    {"hedge", set_flag, AT(hedge), NULL, 0, 0, 1},
    {"insecure", set_flag, AT(insecure), NULL, 0, 0, 1},
    {"verify", set_verify, AT(verify), NULL, 0, 0, 1},
    {"s3-style", set_style, AT(s3_virtual), NULL, 0, 0, 1},
    {"s3-anonymous", set_flag, AT(s3_anonymous), NULL, 0, 0, 1},
    {"cache-size", set_cache_size, AT(cache_bytes), NULL, 0, 0, 1},
    {"revalidate", set_number, AT(revalidate_s), NULL, 0, 10 * 365 * 86400, 1},
    {"basic", set_basic, 0, NULL, 0, 0, 3},
    {"bearer", set_bearer, 0, NULL, 0, 0, 2},
    {"region", set_pair, 0, NULL, 0, 0, 2},
    {"replica", set_pair, 0, NULL, 0, 0, 2},
    STRING("ca-file", ca_file, check_file),
    STRING("client-cert", client_cert, check_file),
    STRING("client-key", client_key, check_file),
    STRING("proxy", proxy, check_proxy),
    ENDPOINT("s3-endpoint", s3_endpoint),
    STRING("s3-region", s3_region, check_word),
    STRING("s3-profile", s3_profile, NULL),
    STRING("s3-access-key", s3_access_key, check_token),
    STRING("s3-secret-key", s3_secret_key, NULL),
    STRING("s3-session-token", s3_session_token, check_token),
    ENDPOINT("azure-endpoint", azure_endpoint),
    STRING("azure-account", azure_account, check_account),
    STRING("azure-key", azure_key, check_base64),
    STRING("azure-sas", azure_sas, check_sas),
    ENDPOINT("gs-endpoint", gs_endpoint),
    STRING("gs-access-key", gs_access_key, check_token),
    STRING("gs-secret-key", gs_secret_key, NULL),
    STRING("gs-token", gs_token, check_token),
    STRING("cache-dir", cache_dir, check_file),
};

#define N_RULES (sizeof(rules) / sizeof(rules[0]))

char **qc_conf_string(qchain_remote *c, size_t i)
{
    for (size_t k = 0; k < N_RULES; k++)
        if ((rules[k].set == set_string || rules[k].set == set_endpoint) && i-- == 0)
            return field(c, &rules[k]);
    return NULL;
}

/* ----------------------------------------------------------------- the rules --- */

/* The quoted word whose opening quote p stands behind: in place, \" and \\ undone. Where it ends, or
 * NULL. */
static char *read_quoted(char *p)
{
    char *to = p;

    while (*p && *p != '"') {
        if (*p == '\\' && (p[1] == '"' || p[1] == '\\'))
            p++;
        *to++ = *p++;
    }
    if (!*p || (p[1] && !strchr(" \t", p[1])))
        return NULL;
    *to = '\0';
    return p + 1;
}

/* Split a line in place, up to a '#' that begins a word. Their number, or an error. */
static int split_line(char *line, char *word[MAX_WORDS], qchain_error *err)
{
    int n = 0;

    for (char *p = line + strspn(line, " \t"); *p && *p != '#'; p += strspn(p, " \t")) {
        if (n == MAX_WORDS)
            return n;
        if (*p == '"') {
            word[n] = p + 1;
            p = read_quoted(p + 1);
            if (!p)
                return qc_fail(err, QCHAIN_E_INVAL, "a double quote has no partner before a blank");
        } else {
            word[n] = p;
            p += strcspn(p, " \t");
        }
        if (*p)
            *p++ = '\0';
        for (const char *s = word[n]; *s; s++)
            if ((unsigned char)*s < 0x20 || *s == 0x7f)
                return qc_fail(err, QCHAIN_E_INVAL, "there is a control character in it");
        if (strlen(word[n++]) > MAX_VALUE)
            return qc_fail(err, QCHAIN_E_INVAL, "a value is longer than %u bytes", MAX_VALUE);
    }
    return n;
}

/* Shows it only if it can be a rule's name: it may be a secret that slipped to a line's begin. */
static int fail_unknown(const char *name, qchain_error *err)
{
    size_t len = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-");

    for (size_t i = 0; i < N_RULES; i++)
        if (strlen(rules[i].name) == len && strncmp(rules[i].name, name, len) == 0)
            return qc_fail(err, QCHAIN_E_INVAL, "between %s and its value stands a blank, nothing else",
                           rules[i].name);
    if (len == 0 || len > SHOWN_NAME || name[len])
        return qc_fail(err, QCHAIN_E_INVAL, "does not begin with a rule's name");
    return qc_fail(err, QCHAIN_E_INVAL, "'%s' is not a rule", name);
}

static int read_line(qchain_remote *c, char *line, qchain_error *err)
{
    char *word[MAX_WORDS];
    int n = split_line(line, word, err);

    if (n <= 0)
        return n;
    for (size_t i = 0; i < N_RULES; i++) {
        const struct rule *r = &rules[i];

        if (strcmp(word[0], r->name) != 0)
            continue;
        if ((unsigned)n != r->n_args + 1)
            return qc_fail(err, QCHAIN_E_INVAL, "%s takes %u value%s; one with blanks stands in double "
                           "quotes", r->name, r->n_args, r->n_args > 1 ? "s" : "");
        return r->set(c, r, word + 1, err);
    }
    return fail_unknown(word[0], err);
}

int qc_conf_read(qchain_remote *c, const char *text, const char *where, qchain_error *err)
{
    size_t size = strlen(text) + 1;
    char *copy = qc_malloc(size), *line, *rest = copy;
    int ret = 0, n = 0;

    if (!copy)
        return qc_fail_nomem(err);
    memcpy(copy, text, size);
    while (ret == 0 && (line = strsep(&rest, "\n"))) {
        size_t len = strlen(line);

        n++;
        if (len && line[len - 1] == '\r')
            line[len - 1] = '\0';
        ret = read_line(c, line, err);
    }
    if (ret != 0)
        qc_error_prefix(err, -1, "%s, line %d: ", where, n);
    explicit_bzero(copy, size);
    qc_free(copy);
    return ret;
}
