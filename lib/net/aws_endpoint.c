/* SPDX-License-Identifier: MIT */
#include "net/aws_endpoint.h"

#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "net/aws_json.h"
#include "net/aws_profile.h"
#include "net/config_int.h"
#include "net/curl_api.h"
#include "net/url.h"
#include "util/alloc.h"
#include "util/error.h"
#include "util/escape.h"

#define ANSWER_MAX 65536u
#define CONNECT_MS 1000L
#define WHOLE_MS 5000L
#define UNKNOWN_LIFE_S 900 /* of credentials that do not say when they expire */

/* ----------------------------------------------------------------- requests --- */

struct answer {
    long   status;
    char  *body; /* NUL behind it; secret */
    size_t len;
};

static void answer_finish(struct answer *a)
{
    if (a->body)
        explicit_bzero(a->body, a->len);
    qc_free(a->body);
    memset(a, 0, sizeof(*a));
}

static size_t receive(char *p, size_t size, size_t n, void *data)
{
    struct answer *a = data;

    n *= size;
    if (n > ANSWER_MAX - a->len)
        return 0; /* ends it */
    memcpy(a->body + a->len, p, n);
    a->len += n;
    a->body[a->len] = '\0';
    return n;
}

struct request {
    const char *url;
    bool        put;
    bool        near;      /* on this host or link: no proxy is asked */
    char       *header[2]; /* or NULL */
};

static CURLcode set_up(const struct qc_curl *curl, CURL *easy, const struct request *r,
                       struct curl_slist *list, struct answer *a)
{
    CURLcode rc = curl->easy_setopt(easy, CURLOPT_URL, r->url);

    curl->easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl->easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_MS);
    curl->easy_setopt(easy, CURLOPT_TIMEOUT_MS, WHOLE_MS);
    curl->easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    curl->easy_setopt(easy, CURLOPT_WRITEFUNCTION, receive);
    curl->easy_setopt(easy, CURLOPT_WRITEDATA, a);
    if (r->near)
        curl->easy_setopt(easy, CURLOPT_PROXY, "");
    if (r->put) {
        curl->easy_setopt(easy, CURLOPT_POSTFIELDS, "");
        curl->easy_setopt(easy, CURLOPT_CUSTOMREQUEST, "PUT");
    }
    return rc ? rc : curl->easy_setopt(easy, CURLOPT_HTTPHEADER, list);
}

static CURLcode perform(const struct qc_curl *curl, const struct request *r, struct answer *a)
{
    CURL *easy = curl->easy_init();
    struct curl_slist *list = NULL, *more;
    CURLcode rc = easy ? CURLE_OK : CURLE_OUT_OF_MEMORY;

    for (size_t i = 0; !rc && i < 2; i++) {
        if (!r->header[i])
            continue;
        more = curl->slist_append(list, r->header[i]);
        rc = more ? CURLE_OK : CURLE_OUT_OF_MEMORY;
        list = more ? more : list;
    }
    if (!rc)
        rc = set_up(curl, easy, r, list, a);
    if (!rc)
        rc = curl->easy_perform(easy);
    if (!rc)
        curl->easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &a->status);
    for (struct curl_slist *l = list; l; l = l->next)
        explicit_bzero(l->data, strlen(l->data));
    if (list)
        curl->slist_free_all(list);
    if (easy)
        curl->easy_cleanup(easy);
    return rc;
}

/* One request, and once more if the endpoint only says that it is busy. *rc tells what libcurl said. */
static int ask(const struct request *r, struct answer *a, CURLcode *rc, qchain_error *err)
{
    const struct qc_curl *curl = qc_curl_load(err);
    struct timespec pause = {.tv_nsec = 100000000};

    memset(a, 0, sizeof(*a));
    if (!curl)
        return QCHAIN_E_UNSUPPORTED;
    a->body = qc_malloc(ANSWER_MAX + 1);
    if (!a->body)
        return qc_fail_nomem(err);
    for (int attempt = 0; attempt < 2; attempt++) {
        if (attempt)
            nanosleep(&pause, NULL);
        a->len = 0;
        a->body[0] = '\0';
        *rc = perform(curl, r, a);
        if (*rc == CURLE_OUT_OF_MEMORY)
            return qc_fail_nomem(err);
        if (*rc || (a->status != 429 && a->status < 500))
            break;
    }
    return *rc ? qc_fail(err, QCHAIN_E_AUTH, "%s", curl->easy_strerror(*rc)) : 0;
}

/* ------------------------------------------------------------------ answers --- */

/* way: how it was found, for the scope; fallback: whose, where the answer does not say. */
static int read_login(struct qc_login **out, const struct answer *a, const char *way,
                      const char *fallback, qchain_error *err)
{
    struct qc_json_field f[] = {{"AccessKeyId", NULL}, {"SecretAccessKey", NULL}, {"Token", NULL},
                                {"Expiration", NULL}, {"RoleArn", NULL}, {"Code", NULL}};
    struct qc_escaped e;
    int ret = qc_json_read(a->body, a->len, f, 6);

    if (ret == QCHAIN_E_NOMEM)
        ret = qc_fail_nomem(err);
    else if (ret)
        ret = qc_fail(err, QCHAIN_E_AUTH, "its answer is not the JSON object it should be");
    else if (f[5].value && strcmp(f[5].value, "Success") != 0)
        ret = qc_fail(err, QCHAIN_E_AUTH, "it says %s", qc_escape_str(&e, f[5].value));
    else if (!f[0].value || !*f[0].value || !f[1].value || !*f[1].value)
        ret = qc_fail(err, QCHAIN_E_AUTH, "its answer has no credentials");
    if (ret == 0)
        ret = qc_login_new(out, QC_LOGIN_S3, way, f[0].value, f[1].value, f[2].value, err);
    if (ret == 0) {
        (*out)->expires = f[3].value ? qc_json_time(f[3].value) : 0;
        if (!(*out)->expires)
            (*out)->expires = (uint64_t)time(NULL) + UNKNOWN_LIFE_S;
        ret = qc_login_name(*out, way, f[4].value && *f[4].value ? f[4].value : fallback, err);
    }
    qc_json_finish(f, 6);
    return ret;
}

/* ---------------------------------------------------------------- containers --- */

/* Plain http only where nobody can listen: on this host, and to the two addresses that hosts of
 * containers have for it. */
static bool is_near(const struct qc_url *u)
{
    struct in6_addr a6;
    struct in_addr a4;

    if (strcmp(u->host, "localhost") == 0 || strcmp(u->host, "169.254.170.2") == 0 ||
        strcmp(u->host, "169.254.170.23") == 0 || strcmp(u->host, "fd00:ec2::23") == 0)
        return true;
    if (inet_pton(AF_INET, u->host, &a4) == 1)
        return ntohl(a4.s_addr) >> 24 == 127;
    return inet_pton(AF_INET6, u->host, &a6) == 1 && IN6_IS_ADDR_LOOPBACK(&a6);
}

static int container_url(const char *full, bool *near, qchain_error *err)
{
    struct qc_url u;
    int ret = qc_url_parse(&u, full, err);

    if (ret)
        return qc_fail(err, QCHAIN_E_AUTH, "AWS_CONTAINER_CREDENTIALS_FULL_URI is not a URL");
    *near = is_near(&u);
    if (strcmp(u.scheme, "https") != 0 && !(strcmp(u.scheme, "http") == 0 && *near))
        ret = qc_fail(err, QCHAIN_E_AUTH, "AWS_CONTAINER_CREDENTIALS_FULL_URI is neither https nor on "
                      "this host");
    qc_url_finish(&u);
    return ret;
}

/* "Authorization: ..." into *out, NULL where nobody asks for it. */
static int container_token(char **out, qchain_error *err)
{
    const char *file = getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"),
               *token = getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN");
    char *text = NULL;
    int ret = 0;

    *out = NULL;
    if (file && *file) {
        ret = qc_aws_file_read(&text, file, err);
        if (ret)
            return ret;
        if (!text)
            return qc_fail(err, QCHAIN_E_AUTH, "the file that AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE "
                           "names is not there");
        text[strcspn(text, "\r\n")] = '\0';
        token = text;
    }
    for (const char *c = token; c && *c && ret == 0; c++)
        if ((unsigned char)*c < ' ' || (unsigned char)*c >= 0x7f)
            ret = qc_fail(err, QCHAIN_E_AUTH, "the container's authorization token has characters "
                          "that cannot be sent");
    if (ret == 0 && token && *token) {
        *out = qc_asprintf("Authorization: %s", token);
        ret = *out ? 0 : qc_fail_nomem(err);
    }
    qc_conf_wipe(text);
    return ret;
}

int qc_aws_container_login(struct qc_login **out, qchain_error *err)
{
    const char *relative = getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI"),
               *full = getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI");
    struct request r = {.near = true};
    struct answer a = {0};
    char *url = NULL;
    CURLcode rc;
    int ret;

    *out = NULL;
    if ((!relative || !*relative) && (!full || !*full))
        return 1;
    url = relative && *relative ? qc_asprintf("http://169.254.170.2%s%s", *relative == '/' ? "" : "/",
                                              relative)
                                : qc_strdup(full);
    ret = url ? container_url(url, &r.near, err) : qc_fail_nomem(err);
    if (ret == 0)
        ret = container_token(&r.header[0], err);
    r.url = url;
    if (ret == 0)
        ret = ask(&r, &a, &rc, err);
    if (ret == 0 && a.status != 200)
        ret = qc_fail(err, QCHAIN_E_AUTH, "it answers HTTP %ld", a.status);
    if (ret == 0)
        ret = read_login(out, &a, "container", url, err);
    if (ret)
        qc_error_prefix(err, -1, "credentials from the container's endpoint: ");
    answer_finish(&a);
    qc_conf_wipe(r.header[0]);
    qc_free(url);
    return ret;
}

/* ----------------------------------------------------------------- instances --- */

/* Does libcurl say that nobody is there, rather than that somebody is ill? */
static bool is_nobody(CURLcode rc)
{
    return rc == CURLE_COULDNT_CONNECT || rc == CURLE_OPERATION_TIMEDOUT ||
           rc == CURLE_COULDNT_RESOLVE_HOST;
}

/* A session token, as a header. 1: nobody is there. */
static int instance_token(const char *base, char **out, qchain_error *err)
{
    char ttl[] = "X-aws-ec2-metadata-token-ttl-seconds: 21600", no_type[] = "Content-Type:";
    struct request r = {.put = true, .near = true, .header = {ttl, no_type}};
    struct answer a = {0};
    CURLcode rc = CURLE_OK;
    char *url = qc_asprintf("%s/latest/api/token", base);
    int ret;

    r.url = url;
    ret = url ? ask(&r, &a, &rc, err) : qc_fail_nomem(err);
    if (ret == QCHAIN_E_AUTH && is_nobody(rc))
        ret = 1;
    else if (ret == 0 && (a.status == 403 || a.status == 404 || a.status == 405))
        ret = 1; /* switched off, or none that we speak with */
    else if (ret == 0 && a.status != 200)
        ret = qc_fail(err, QCHAIN_E_AUTH, "it answers HTTP %ld when asked for a session", a.status);
    for (size_t i = 0; ret == 0 && i < a.len; i++)
        if ((unsigned char)a.body[i] <= ' ' || (unsigned char)a.body[i] >= 0x7f)
            ret = qc_fail(err, QCHAIN_E_AUTH, "its session token has characters that cannot be sent");
    if (ret == 0 && !(*out = qc_asprintf("X-aws-ec2-metadata-token: %s", a.body)))
        ret = qc_fail_nomem(err);
    answer_finish(&a);
    qc_free(url);
    return ret;
}

/* The name of the instance's role, which becomes part of a URL. 1: it has none. */
static int read_role(const struct answer *a, char role[129], qchain_error *err)
{
    size_t n = strcspn(a->body, "\r\n");

    if (a->status == 404 || (a->status == 200 && n == 0))
        return 1;
    if (a->status != 200)
        return qc_fail(err, QCHAIN_E_AUTH, "it answers HTTP %ld when asked for a role", a->status);
    for (size_t i = 0; i < n; i++) {
        char c = a->body[i];

        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
              strchr("+=,.@_-", c)) || n > 128)
            return qc_fail(err, QCHAIN_E_AUTH, "it names no role");
    }
    memcpy(role, a->body, n);
    role[n] = '\0';
    return strcmp(role, ".") == 0 || strcmp(role, "..") == 0
               ? qc_fail(err, QCHAIN_E_AUTH, "it names no role") : 0;
}

static int instance_login(const char *base, char *token, struct qc_login **out, qchain_error *err)
{
    struct request r = {.near = true, .header = {token}};
    char role[129] = "", *list = NULL, *url = NULL;
    struct answer a = {0};
    CURLcode rc;
    int ret;

    r.url = list = qc_asprintf("%s/latest/meta-data/iam/security-credentials/", base);
    ret = list ? ask(&r, &a, &rc, err) : qc_fail_nomem(err);
    if (ret == 0)
        ret = read_role(&a, role, err);
    answer_finish(&a);
    if (ret)
        goto out;
    r.url = url = qc_asprintf("%s%s", list, role);
    ret = url ? ask(&r, &a, &rc, err) : qc_fail_nomem(err);
    if (ret == 0 && a.status != 200)
        ret = qc_fail(err, QCHAIN_E_AUTH, "it answers HTTP %ld when asked for the role's credentials",
                      a.status);
    if (ret == 0)
        ret = read_login(out, &a, "instance", role, err);
out:
    answer_finish(&a);
    qc_free(list);
    qc_free(url);
    return ret;
}

int qc_aws_instance_login(struct qc_login **out, qchain_error *err)
{
    const char *off = getenv("AWS_EC2_METADATA_DISABLED"),
               *set = getenv("AWS_EC2_METADATA_SERVICE_ENDPOINT");
    char *base = NULL, *token = NULL;
    size_t n;
    int ret;

    *out = NULL;
    if (off && strcasecmp(off, "true") == 0)
        return 1;
    base = qc_strdup(set && *set ? set : "http://169.254.169.254");
    if (!base)
        return qc_fail_nomem(err);
    for (n = strlen(base); n && base[n - 1] == '/'; n--)
        base[n - 1] = '\0';
    ret = strncmp(base, "http://", 7) == 0 || strncmp(base, "https://", 8) == 0
              ? instance_token(base, &token, err)
              : qc_fail(err, QCHAIN_E_AUTH, "AWS_EC2_METADATA_SERVICE_ENDPOINT is not a URL");
    if (ret == 0)
        ret = instance_login(base, token, out, err);
    if (ret < 0) {
        qc_login_unref(*out);
        *out = NULL;
        qc_error_prefix(err, -1, "credentials from the instance's endpoint: ");
    }
    qc_conf_wipe(token);
    qc_free(base);
    return ret;
}
