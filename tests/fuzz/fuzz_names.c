/* SPDX-License-Identifier: MIT */
/*
 * Text that others wrote: names of layers, and what the gate says of them; URLs, settings, and the
 * answers of servers that are text. The first byte chooses which; the rest is the text, in which a
 * line's end parts one name from the next.
 */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "chain/gate.h"
#include "net/aws_json.h"
#include "net/aws_profile.h"
#include "net/config.h"
#include "net/http_int.h"
#include "net/place.h"
#include "net/s3_answer.h"
#include "net/url.h"
#include "util/alloc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require_at(int ok, int line)
{
    if (ok)
        return;
    fprintf(stderr, __FILE__ ":%d: this does not hold\n", line);
    abort();
}
#define require(ok) require_at(ok, __LINE__)

/* Without what could end a line, of a message or of a header. */
static void require_line(const char *s)
{
    for (; *s; s++)
        require((unsigned char)*s >= 0x20 && *s != 0x7f);
}

static void require_told(int ret, const qchain_error *err)
{
    require(ret <= 0 && err->code == ret);
    if (ret == 0)
        return;
    require(err->text[0] != '\0');
    require_line(err->text);
}

/* The next line of the text, as a string of its own; NULL: none is left. */
static char *next_line(const char **text)
{
    size_t n = *text ? strcspn(*text, "\n") : 0;
    char *line = *text ? strndup(*text, n) : NULL;

    if (line)
        *text = (*text)[n] ? *text + n + 1 : NULL;
    return line;
}

/* ------------------------------------------------------- what lies beneath what --- */

/* The rules of RFC 3986, 6.2.2, as simply as can be: what a URL comes to for a server. Escapes are all
 * decoded, and a '\' is a '/': there are servers for which they are. */
struct plain {
    char *origin; /* "scheme://host:port", lower case; of s3, az and gs as it is */
    char *path;   /* a list of components, each behind a '/' */
};

static int hex(char c)
{
    const char *digits = "0123456789abcdef", *at = c ? strchr(digits, c | 0x20) : NULL;

    return at ? (int)(at - digits) : -1;
}

static char *decoded(const char *s, size_t n)
{
    char *out = calloc(1, n + 1), *o = out;

    for (size_t i = 0; i < n; i++) {
        *o = s[i];
        if (s[i] == '%' && n - i > 2 && hex(s[i + 1]) >= 0 && hex(s[i + 2]) >= 0) {
            *o = (char)(hex(s[i + 1]) * 16 + hex(s[i + 2]));
            i += 2;
        }
        if (*o == '\\')
            *o = '/';
        if (*o) /* a NUL ends nothing here */
            o++;
    }
    *o = '\0';
    return out;
}

/* Component by component, onto a stack. */
static char *without_dots(const char *path)
{
    char *out = calloc(1, strlen(path) + 3), *o = out;

    for (const char *s = path; *s; s += strcspn(s, "/")) {
        size_t n;

        s += *s == '/';
        n = strcspn(s, "/");
        if (n == 2 && memcmp(s, "..", 2) == 0) {
            while (o > out && *--o != '/')
                continue;
        } else if (n != 1 || *s != '.') {
            *o++ = '/';
            memcpy(o, s, n);
            o += n;
            continue;
        }
        if (!s[n])
            *o++ = '/';
    }
    *o = '\0';
    return out;
}

static void make_plain(struct plain *p, const char *url)
{
    int web = strncasecmp(url, "http", 4) == 0;
    const char *host = strstr(url, "://"), *end;
    char *path, scheme[16], address[INET6_ADDRSTRLEN] = "";
    size_t port = strncasecmp(url, "https", 5) == 0 ? 443 : 80, n;

    require(host != NULL);
    snprintf(scheme, sizeof(scheme), "%.*s", (int)(host - url), url);
    host += 3;
    end = host + strcspn(host, web ? "/?#\\" : "/");
    for (const char *at = host; web && at < end; at++)
        if (*at == '@')
            host = at + 1;
    n = (size_t)(end - host);
    if (web && *host == '[') { /* as the C library writes it */
        struct in6_addr a;

        snprintf(address, sizeof(address), "%.*s", (int)strcspn(host + 1, "]"), host + 1);
        require(inet_pton(AF_INET6, address, &a) == 1);
        inet_ntop(AF_INET6, &a, address, sizeof(address));
        host += strcspn(host, "]") + 1;
        port = *host == ':' && host + 1 < end ? strtoul(host + 1, NULL, 10) : port;
        n = 0;
    } else if (web) {
        const char *colon = memrchr(host, ':', n);

        if (colon) {
            n = (size_t)(colon - host);
            port = colon + 1 < end ? strtoul(colon + 1, NULL, 10) : port;
        }
    }
    require(asprintf(&p->origin, "%s://%s%.*s:%zu", scheme, address, (int)n, host, web ? port : 0) > 0);
    for (char *c = p->origin; *c && (web || c < p->origin + strlen(scheme)); c++)
        *c = (char)(*c >= 'A' && *c <= 'Z' ? *c | 0x20 : *c);
    path = *end != '/' ? strdup("/") : web ? decoded(end, strcspn(end, "?#")) : strdup(end);
    p->path = web ? without_dots(path) : strdup(path); /* keys are not read at all */
    free(path);
}

/* What is beneath goes by the top's name as it is written, whatever its escapes come to. */
static void require_beneath(const char *url, const char *top)
{
    int web = strncasecmp(top, "http", 4) == 0;
    const char *path = strstr(top, "://") + 3, *end;
    struct plain is, of;
    char *dir;

    path += strcspn(path, web ? "/?#" : "/");
    for (end = path + (web ? strcspn(path, "?#") : strlen(path)); end > path && end[-1] != '/';)
        end--;
    dir = strndup(top, (size_t)(end - top));
    make_plain(&is, url);
    make_plain(&of, dir);
    require(strcmp(is.origin, of.origin) == 0);
    require(strncmp(is.path, of.path, strlen(of.path)) == 0);
    free(dir);
    free(is.origin);
    free(is.path);
    free(of.origin);
    free(of.path);
}

/* ------------------------------------------------------------------------ gate --- */

static int has_dots_in_key(const char *url)
{
    url = strchr(strstr(url, "://") + 3, '/');
    if (!url)
        return 0;
    return strstr(url, "/./") || strstr(url, "/../") ||
           (strlen(url) > 2 && strcmp(url + strlen(url) - 2, "/.") == 0) ||
           (strlen(url) > 3 && strcmp(url + strlen(url) - 3, "/..") == 0);
}

/* What an image beside the top may name: on the top's own server, beneath its directory. */
static void gate(const char *text)
{
    struct qc_gate g = {.policy = qchain_policy_create()};
    char *top = next_line(&text), *name;
    struct qc_layer from = {.name = top};
    struct qc_target t;
    struct qc_name read = {0};
    qchain_error err = {0};
    int ret;

    /* The caller's own name is what he says it is; where even that is in doubt, nothing is compared. */
    ret = strchr(top, '\\') || strcasestr(top, "%5c") || strcasestr(top, "%2f") ||
          strstr(top, "%00");
    if (ret == 0)
        ret = qc_name_parse(&read, top, &err);
    if (ret == 0 && read.is_url && qc_gate_add_name(&g, read.path, &err) == 0) {
        from.name = read.path;
        while ((name = next_line(&text))) {
            qc_error_init(&err);
            ret = qc_gate_decide(&g, &from, 1, QCHAIN_REF_BACKING, name, "raw", &t, &err);
            require_told(ret, &err);
            if (ret == 0) {
                require(t.is_url);
                require_beneath(t.path, read.path);
                require(strncasecmp(t.path, "http", 4) == 0 || !has_dots_in_key(t.path));
                qc_target_finish(&t);
            }
            free(name);
        }
    }
    qc_name_finish(&read);
    qc_gate_finish(&g);
    free(top);
}

/* ------------------------------------------------------------------------ URLs --- */

static void same_url(const struct qc_url *a, const struct qc_url *b)
{
    require(qc_url_same_origin(a, b) && strcmp(a->path, b->path) == 0);
    require(!a->userinfo == !b->userinfo && (!a->userinfo || strcmp(a->userinfo, b->userinfo) == 0));
    require(!a->query == !b->query && (!a->query || strcmp(a->query, b->query) == 0));
}

static void resolve(const struct qc_url *base, const char *location)
{
    qchain_error err = {0};
    struct qc_url to, again;
    struct plain p;
    char *text;

    require_told(qc_url_resolve(&to, base, location, &err), &err);
    if (err.code == 0) {
        require(!to.userinfo && to.path[0] == '/' && to.port > 0);
        require(!strstr(to.path, "/../") && !strstr(to.path, "/./"));
        text = qc_url_text(&to);
        require_line(text);
        require(!strchr(text, ' ') && qc_url_parse(&again, text, NULL) == 0);
        same_url(&to, &again);
        make_plain(&p, text);
        free(p.origin);
        free(p.path);
        qc_url_finish(&again);
        qc_free(text);
    }
    qc_url_finish(&to);
}

static void url(const char *text)
{
    qchain_error err = {0};
    char *name = next_line(&text), *line, *shown = qc_url_shown(name), *whole;
    struct qc_url u, again;

    require_told(qc_url_parse(&u, name, &err), &err);
    if (err.code == 0) {
        whole = qc_url_text(&u);
        require(qc_url_parse(&again, whole, NULL) == 0);
        same_url(&u, &again);
        require(!strstr(shown, "://") || u.port == 0 || !strpbrk(shown, "@?#") ||
                strpbrk(shown, "@?#") > strchr(strstr(shown, "://") + 3, '/'));
        qc_url_finish(&again);
        qc_free(whole);
        while (u.port && (line = next_line(&text))) {
            resolve(&u, line);
            free(line);
        }
    }
    qc_url_finish(&u);
    qc_free(shown);
    free(name);
}

static void escapes(const char *text)
{
    size_t n = strlen(text);
    char *all = qc_url_encode(text, n, 0), *back = qc_url_decode(all, strlen(all));
    char *some = qc_url_encode(text, n, QC_URL_KEEP_SLASH | QC_URL_KEEP_ESCAPES);
    char *dots = strdup(text), *twice;

    require(strcmp(back, text) == 0);
    require(strspn(all, "%ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~") ==
            strlen(all));
    twice = qc_url_encode(some, strlen(some), QC_URL_KEEP_SLASH | QC_URL_KEEP_ESCAPES);
    require(strcmp(some, twice) == 0);
    qc_url_remove_dots(dots);
    require(*text != '/' || (!strstr(dots, "/../") && !strstr(dots, "/./") && *dots == '/'));
    qc_free(all);
    qc_free(back);
    qc_free(some);
    qc_free(twice);
    free(dots);
}

/* ---------------------------------------------------------------------- places --- */

static void check_signed(const struct qc_signed *s)
{
    require_line(s->url);
    require(!strchr(s->url, ' ') && strncmp(s->url, "http", 4) == 0);
    for (size_t i = 0; i < s->n_headers; i++) {
        require_line(s->header[i]);
        require(strchr(s->header[i], ':') != NULL);
    }
}

static void sign(struct qc_place *p)
{
    static const char *const extra[] = {"If-Match: \"a\""};
    qchain_error err = {0};
    struct qc_signed s;
    bool range_signed;

    for (int m = QC_HTTP_GET; m <= QC_HTTP_DELETE; m++) {
        qc_error_init(&err);
        require_told(qc_place_sign(p, (enum qc_http_method)m, 10, m ? NULL : "bytes=0-9", extra, 1, &s,
                                   &range_signed, &err), &err);
        if (err.code == 0)
            check_signed(&s);
        qc_signed_finish(&s);
    }
}

static qchain_remote *make_conf(void)
{
    qchain_remote *conf = qc_conf_new();

    conf->s3_endpoint = qc_strdup("https://s3.example.net:9000/x");
    conf->s3_access_key = qc_strdup("AKIDEXAMPLE");
    conf->s3_secret_key = qc_strdup("secret");
    conf->s3_virtual = true;
    conf->gs_token = qc_strdup("token");
    conf->azure_account = qc_strdup("account");
    conf->azure_key = qc_strdup("c2VjcmV0");
    return conf;
}

/* A word may stand in a sentence of ours. */
static bool is_word(const char *s)
{
    return s[strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_ ")] == '\0';
}

/* What stands before the host and behind the '?' is told to nobody, unless it also stands elsewhere. */
static void require_untold(const char *input, const char *name, const char *told)
{
    struct qc_url u;
    const char *secret[2];

    if (qc_url_parse(&u, name, NULL) != 0)
        return;
    secret[0] = u.userinfo;
    secret[1] = u.query;
    for (int i = 0; i < 2; i++) {
        bool look = secret[i] && strlen(secret[i]) > 5 && !is_word(secret[i]);
        const char *at = look ? strstr(input, secret[i]) : NULL;

        if (at && !strstr(at + 1, secret[i]))
            require(!strstr(told, secret[i]));
    }
    qc_url_finish(&u);
}

static void place(const char *text)
{
    const char *input = text;
    qchain_error err = {0};
    qchain_remote *conf = make_conf();
    struct qc_credentials *creds = qc_credentials_create(conf, NULL);
    struct qc_place *p, *other;
    char *name = next_line(&text), *sibling;

    require_told(qc_place_create(&p, creds, name, &err), &err);
    require_untold(input, name, err.text);
    if (p) {
        require_untold(input, name, qc_place_key(p));
        require_untold(input, name, qc_place_scope(p));
        require_untold(input, name, qc_place_shown(p));
        if (qc_place_prepare(p, false, NULL) == 0)
            sign(p);
        sibling = qc_place_sibling(p, ".qci");
        if (sibling && qc_place_create(&other, creds, sibling, NULL) == 0) {
            require(strcmp(qc_place_key(p), qc_place_key(other)) != 0);
            require(strncmp(qc_place_key(p), qc_place_key(other), strlen(qc_place_key(p))) == 0);
            qc_place_unref(other);
        }
        qc_error_init(&err);
        qc_place_refused(p, 403, text ? text : "", text ? strlen(text) : 0, NULL, true, &err);
        require_line(err.text);
        require_untold(input, name, err.text);
        qc_free(sibling);
    }
    qc_place_unref(p);
    qc_credentials_destroy(creds);
    qc_conf_free(conf);
    free(name);
}

/* --------------------------------------------------------------------- answers --- */

static time_t no_date(const char *s, const time_t *unused)
{
    (void)unused;
    return strlen(s) > 8 ? (time_t)strtol(s, NULL, 0) : -1;
}

static void answer(const char *text, size_t size)
{
    struct qc_curl curl = {.getdate = no_date};
    struct qc_answer a = {0};
    struct qc_pin pin;
    int64_t ms;

    for (const char *end = text + size, *next; text < end && !a.too_much; text = next) {
        next = memchr(text, '\n', (size_t)(end - text));
        next = next ? next + 1 : end;
        require(qc_answer_line(&a, &curl, text, (size_t)(next - text)));
    }
    require_line(a.etag);
    require_line(a.version);
    require_line(a.date);
    require_line(a.retry_after);
    require(a.status == 0 || (a.status >= 100 && a.status <= 999));
    require(!a.has_range || a.bad_range || (a.total <= INT64_MAX && a.last < INT64_MAX));
    require(!a.has_length || a.bad_length || a.length <= INT64_MAX);
    ms = qc_answer_retry_ms(&a, &curl);
    require(ms >= -1 && ms <= 86400000);
    qc_answer_pin(&a, 1, &pin);
    require(qc_pin_same(&pin, &pin));
    qc_answer_reset(&a);
}

static void refusal(const char *text, size_t size)
{
    struct qc_s3_answer a;
    bool is = qc_s3_answer_read(text, size, &a);

    require(is == (a.code[0] != '\0'));
    require(memchr(a.message, 0, sizeof(a.message)) != NULL);
    require_line(a.code);
    require_line(a.region);
    require_line(a.endpoint);
}

static void json(const char *text, size_t size)
{
    struct qc_json_field field[] = {{"AccessKeyId", NULL}, {"Expiration", NULL}, {"Token", NULL}};
    int ret = qc_json_read(text, size, field, 3);

    require(ret == 0 || ret == QCHAIN_E_INVAL);
    for (int i = 0; i < 3; i++)
        require(!field[i].value || strlen(field[i].value) <= size);
    if (field[1].value)
        qc_json_time(field[1].value);
    qc_json_finish(field, 3);
}

static void profile(const char *text, size_t size)
{
    static int fd = -1;
    qchain_error err = {0};
    struct qc_aws_profile p;
    char path[64];

    if (fd < 0) {
        fd = memfd_create("profile", MFD_CLOEXEC);
        require(fd >= 0);
        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        setenv("AWS_SHARED_CREDENTIALS_FILE", path, 1);
        setenv("AWS_CONFIG_FILE", path, 1);
    }
    require(ftruncate(fd, 0) == 0 && pwrite(fd, text, size, 0) == (ssize_t)size);
    require_told(qc_aws_profile_read(&p, "p", &err), &err);
    qc_aws_profile_finish(&p);
}

static void config(const char *text)
{
    qchain_error err = {0};
    qchain_remote *conf = qc_conf_new(), *copy;

    require_told(qc_conf_read(conf, text, "the text", &err), &err);
    if (err.code == 0) {
        require(conf->workers > 0 && conf->connections > 0 && conf->deadline_ms > 0);
        require(conf->block_bytes >= 65536 && (conf->block_bytes & (conf->block_bytes - 1)) == 0);
        copy = qc_conf_copy(conf);
        require(copy != NULL && copy->n_logins == conf->n_logins);
        qc_conf_free(copy);
    }
    qc_conf_free(conf);
}

static void names(const char *text)
{
    qchain_error err = {0};
    struct qc_escaped shown;
    char *from = next_line(&text), *name = text ? next_line(&text) : NULL, *resolved, *dir;
    struct qc_name n;

    require_told(qc_name_parse(&n, from, &err), &err);
    if (err.code == 0) {
        require(!n.path || n.is_url == qc_name_is_url(n.path));
        qc_name_finish(&n);
    }
    require_line(qc_name_shown(&shown, from));
    dir = qc_name_directory(from);
    resolved = name ? qc_name_resolve(from, name) : NULL;
    require(!name || resolved);
    qc_free(dir);
    qc_free(resolved);
    free(from);
    free(name);
}

static void pins(const char *text)
{
    char buf[256], back[256];
    struct qc_pin p = {0};

    if (strlen(text) > 255 || !qc_pin_get(&p, text))
        return;
    qc_pin_put(buf, &p);
    require(qc_pin_get(&p, buf));
    qc_pin_put(back, &p);
    require(strcmp(buf, back) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text;

    if (size < 1)
        return 0;
    text = malloc(size);
    memcpy(text, data + 1, size - 1);
    text[size - 1] = '\0';
    switch (data[0] % 12) {
    case 0: gate(text); break;
    case 1: url(text); break;
    case 2: escapes(text); break;
    case 3: place(text); break;
    case 4: answer(text, size - 1); break;
    case 5: refusal(text, size - 1); break;
    case 6: json(text, size - 1); break;
    case 7: profile(text, size - 1); break;
    case 8: config(text); break;
    case 9: names(text); break;
    case 10: pins(text); break;
    default: gate(text); break;
    }
    free(text);
    return 0;
}
