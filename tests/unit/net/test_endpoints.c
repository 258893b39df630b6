/* SPDX-License-Identifier: MIT */
/* Credentials from the endpoints of containers and instances, which a small server stands in for; and
 * signatures that libcurl makes of what places say, checked by the rules. */
#include <time.h>

#include "place_tools.h"
#include "net/credentials.h"
#include "net/curl_api.h"
#include "util/sha256.h"

#define SECRET "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

static qchain_remote *conf;
static struct qc_credentials *creds;
static struct standin server;
static struct log_kept kept;
static struct qc_log logger;
static qchain_error err;

/* How the server behaves; set while it is idle. */
static atomic_int role_status, token_status, numbers;
static const char *json_body;

static void expiration(char out[40], int ahead)
{
    time_t t = time(NULL) + ahead;
    struct tm tm;

    strftime(out, 40, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&t, &tm));
}

static void give_json(char *reply, size_t size, int ahead, const char *more)
{
    char body[600], when[40];

    expiration(when, ahead);
    snprintf(body, sizeof(body), "{\"Code\":\"Success\",\"AccessKeyId\":\"ASIA%d\",\"SecretAccessKey\":\""
             SECRET "\",\"Token\":\"TOK\",\"Expiration\":\"%s\"%s}", atomic_fetch_add(&numbers, 1), when,
             more);
    standin_reply(reply, size, 200, json_body ? json_body : body);
}

static void instance(struct standin *s, const char *r, char *reply, size_t size)
{
    static const char list[] = "GET /latest/meta-data/iam/security-credentials/";

    (void)s;
    if (strncmp(r, "PUT /latest/api/token HTTP", 26) == 0) {
        if (!strstr(r, "X-aws-ec2-metadata-token-ttl-seconds: "))
            standin_reply(reply, size, 400, "");
        else
            standin_reply(reply, size, token_status ? token_status : 200, "SESSION==");
    } else if (!strstr(r, "X-aws-ec2-metadata-token: SESSION==\r\n")) {
        standin_reply(reply, size, 401, "");
    } else if (strncmp(r, list, strlen(list)) != 0) {
        standin_reply(reply, size, 404, "");
    } else if (r[strlen(list)] == ' ') {
        standin_reply(reply, size, role_status ? role_status : 200, "my-role\n");
    } else if (strncmp(r + strlen(list), "my-role ", 8) == 0) {
        give_json(reply, size, 3600, ",\"LastUpdated\":\"x\",\"Type\":\"AWS-HMAC\"");
    } else {
        standin_reply(reply, size, 404, "");
    }
}

static void container(struct standin *s, const char *r, char *reply, size_t size)
{
    (void)s;
    if (!strstr(r, "Authorization: Bearer%20me\r\n"))
        standin_reply(reply, size, 401, "");
    else
        give_json(reply, size, 3600, ",\"RoleArn\":\"arn:aws:iam::1:role/r\"");
}

static void busy_once(struct standin *s, const char *r, char *reply, size_t size)
{
    if (atomic_load(&s->requests) == 1)
        standin_reply(reply, size, 503, "");
    else
        instance(s, r, reply, size);
}

static void any(struct standin *s, const char *r, char *reply, size_t size)
{
    (void)s;
    (void)r;
    standin_reply(reply, size, 200, "ok");
}

static int setup(void **unused)
{
    (void)unused;
    clean_environment();
    qc_error_init(&err);
    memset(&kept, 0, sizeof(kept));
    pthread_mutex_init(&kept.lock, NULL);
    logger = (struct qc_log){.fn = log_keep, .data = &kept, .level = QCHAIN_LOG_DEBUG};
    role_status = token_status = numbers = 0;
    json_body = NULL;
    conf = qc_conf_new();
    creds = qc_credentials_create(conf, &logger);
    assert_non_null(creds);
    return 0;
}

static int teardown(void **unused)
{
    (void)unused;
    assert_null(strstr(kept.text, SECRET));
    assert_null(strstr(err.text, SECRET));
    qc_credentials_destroy(creds);
    qc_conf_free(conf);
    pthread_mutex_destroy(&kept.lock);
    return 0;
}

static void again(void)
{
    qc_credentials_destroy(creds);
    creds = qc_credentials_create(conf, &logger);
    assert_non_null(creds);
}

static int prepare(const char *where, struct qc_login **out)
{
    struct qc_site *s = qc_site_get(creds, QC_LOGIN_S3, where);
    int ret = qc_site_prepare(s, 0, &err);

    *out = ret ? NULL : qc_site_login(s);
    return ret;
}

static void start_instance(void (*answer)(struct standin *, const char *, char *, size_t))
{
    char url[64];

    standin_start(&server, answer);
    snprintf(url, sizeof(url), "http://127.0.0.1:%u/", server.port);
    setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url, 1);
    unsetenv("AWS_EC2_METADATA_DISABLED");
    setenv("http_proxy", "http://127.0.0.1:1", 1); /* must not be asked */
}

static void instances(void **unused)
{
    struct qc_login *l, *m;

    (void)unused;
    start_instance(instance);
    assert_int_equal(prepare("s3://a", &l), 0);
    assert_string_equal(l->access_key, "ASIA0");
    assert_string_equal(l->secret_key, SECRET);
    assert_string_equal(l->session_token, "TOK");
    assert_string_equal(l->identity, "instance my-role");
    assert_true(l->expires > (uint64_t)time(NULL) + 3500 && l->expires < (uint64_t)time(NULL) + 3700);
    assert_int_equal(atomic_load(&server.requests), 3);
    assert_int_equal(prepare("s3://b", &m), 0); /* another bucket, the same credentials */
    assert_ptr_equal(l, m);
    assert_int_equal(atomic_load(&server.requests), 3);
    assert_int_equal(qc_site_prepare(qc_site_get(creds, QC_LOGIN_S3, "s3://b"), m->number, &err), 0);
    assert_int_equal(atomic_load(&server.requests), 6);
    qc_login_unref(m);
    assert_int_equal(prepare("s3://b", &m), 0);
    assert_string_equal(m->access_key, "ASIA1");
    assert_string_equal(m->identity, l->identity); /* so caches stay good */
    qc_login_unref(m);
    qc_login_unref(l);
    standin_stop(&server);
}

static void no_instance(void **unused)
{
    struct qc_login *l;

    (void)unused;
    start_instance(instance);
    token_status = 404;
    assert_int_equal(prepare("s3://a", &l), 0);
    assert_null(l->access_key);
    qc_login_unref(l);
    again();
    token_status = 0;
    role_status = 404;
    assert_int_equal(prepare("s3://a", &l), 0);
    assert_null(l->access_key);
    qc_login_unref(l);
    again();
    role_status = 500;
    assert_int_equal(prepare("s3://a", &l), QCHAIN_E_AUTH);
    assert_non_null(strstr(err.text, "HTTP 500"));
    role_status = 0;
    assert_int_equal(prepare("s3://a", &l), QCHAIN_E_AUTH); /* remembered */
    again();
    setenv("AWS_EC2_METADATA_DISABLED", "TRUE", 1);
    assert_int_equal(prepare("s3://a", &l), 0);
    assert_null(l->access_key);
    qc_login_unref(l);
    unsetenv("AWS_EC2_METADATA_DISABLED");
    standin_stop(&server);
    again();
    assert_int_equal(prepare("s3://a", &l), 0); /* nobody listens */
    assert_null(l->access_key);
    qc_login_unref(l);
    again();
    setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "file:///etc", 1);
    assert_int_equal(prepare("s3://a", &l), QCHAIN_E_AUTH);
}

static void busy_instance(void **unused)
{
    struct qc_login *l;

    (void)unused;
    start_instance(busy_once);
    assert_int_equal(prepare("s3://a", &l), 0);
    assert_string_equal(l->access_key, "ASIA0");
    qc_login_unref(l);
    assert_int_equal(atomic_load(&server.requests), 4);
    standin_stop(&server);
}

static void hostile_instance(void **unused)
{
    static const char *const bad[] = {
        "", "{}", "[]", "{\"AccessKeyId\":\"A\"}", "{\"Code\":\"AssumeRoleUnauthorizedAccess\"}",
        "{\"AccessKeyId\":\"A\\r\\nHost: evil\",\"SecretAccessKey\":\"" SECRET "\"}",
        "{\"AccessKeyId\":\"A\",\"SecretAccessKey\":\"" SECRET "\",\"Token\":\"a b\"}",
        "{\"AccessKeyId\":\"A\",\"AccessKeyId\":\"B\",\"SecretAccessKey\":\"" SECRET "\"}"};
    struct qc_login *l;

    (void)unused;
    start_instance(instance);
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        json_body = bad[i];
        again();
        assert_int_equal(prepare("s3://a", &l), QCHAIN_E_AUTH);
        assert_non_null(strstr(err.text, "instance's endpoint"));
        assert_null(strstr(err.text, SECRET));
    }
    standin_stop(&server);
}

static void containers(void **unused)
{
    static const char *const bad[] = {"http://example.com/", "http://169.254.169.254/", "ftp://127.0.0.1/",
                                      "127.0.0.1", "http://127.0.0.1.evil.example/", "http://10.0.0.1/"};
    struct qc_login *l;
    char url[64];

    (void)unused;
    standin_start(&server, container);
    snprintf(url, sizeof(url), "http://localhost:%u/creds?x=1", server.port);
    setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url, 1);
    setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Bearer%20me", 1);
    assert_int_equal(prepare("s3://a", &l), 0);
    assert_string_equal(l->access_key, "ASIA0");
    assert_string_equal(l->identity, "container arn:aws:iam::1:role/r");
    qc_login_unref(l);
    again();
    setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "wrong", 1);
    assert_int_equal(prepare("s3://a", &l), QCHAIN_E_AUTH);
    assert_non_null(strstr(err.text, "HTTP 401"));
    again();
    setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN", "x\r\nHost: y", 1);
    assert_int_equal(prepare("s3://a", &l), QCHAIN_E_AUTH);
    again();
    setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/nonexistent", 1);
    assert_int_equal(prepare("s3://a", &l), QCHAIN_E_AUTH);
    unsetenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE");
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        again();
        setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", bad[i], 1);
        assert_int_equal(prepare("s3://a", &l), QCHAIN_E_AUTH);
        assert_non_null(strstr(err.text, "FULL_URI"));
    }
    standin_stop(&server);
}

/* ------------------------------------------------------------------ signatures --- */

static void hex_of(const uint8_t digest[32], char out[65])
{
    for (size_t i = 0; i < 32; i++)
        snprintf(out + 2 * i, 3, "%02x", digest[i]);
}

/* A header of a request as it was sent, into out; name in lower case. */
static void sent_header(const char *request, const char *name, char out[2000])
{
    const char *s = request;
    size_t n = strlen(name);

    for (;;) {
        s = strstr(s, "\r\n");
        if (!s || s[2] == '\r')
            fail_msg("no header %s was sent", name);
        s += 2;
        if (strncasecmp(s, name, n) == 0 && s[n] == ':')
            break;
    }
    s += n + 1;
    s += strspn(s, " ");
    snprintf(out, 2000, "%.*s", (int)strcspn(s, "\r"), s);
}

/* The signature of a request, by the rules of version 4, without a query. */
static void sign_v4(const char *request, const char *secret, char out[65], char date[2000])
{
    char authorization[2000], value[2000], text[8000], names[500], region[64], key[200], hash[65];
    uint8_t digest[32];
    struct qc_sha256 h;
    const char *s, *path = strchr(request, ' ') + 1;
    size_t n;

    sent_header(request, "authorization", authorization);
    sent_header(request, "x-amz-date", date);
    s = strstr(authorization, "SignedHeaders=");
    assert_non_null(s);
    snprintf(names, sizeof(names), "%.*s", (int)strcspn(s + 14, ","), s + 14);
    n = (size_t)snprintf(text, sizeof(text), "%.*s\n%.*s\n\n", (int)strcspn(request, " "), request,
                         (int)strcspn(path, " "), path);
    for (s = names; *s; s += *s == ';') {
        char name[100];

        snprintf(name, sizeof(name), "%.*s", (int)strcspn(s, ";"), s);
        sent_header(request, name, value);
        n += (size_t)snprintf(text + n, sizeof(text) - n, "%s:%s\n", name, value);
        s += strlen(name);
    }
    sent_header(request, "x-amz-content-sha256", value);
    snprintf(text + n, sizeof(text) - n, "\n%s\n%s", names, value);
    qc_sha256_init(&h);
    qc_sha256_update(&h, text, strlen(text));
    qc_sha256_finish(&h, digest);
    hex_of(digest, hash);

    s = strstr(authorization, "Credential=");
    assert_non_null(s);
    s = strchr(s, '/') + 10; /* behind the date */
    snprintf(region, sizeof(region), "%.*s", (int)strcspn(s, "/"), s);
    snprintf(text, sizeof(text), "AWS4-HMAC-SHA256\n%s\n%.8s/%s/s3/aws4_request\n%s", date, date, region,
             hash);
    snprintf(key, sizeof(key), "AWS4%s", secret);
    qc_hmac_sha256(key, strlen(key), date, 8, digest);
    qc_hmac_sha256(digest, 32, region, strlen(region), digest);
    qc_hmac_sha256(digest, 32, "s3", 2, digest);
    qc_hmac_sha256(digest, 32, "aws4_request", 12, digest);
    qc_hmac_sha256(digest, 32, text, strlen(text), digest);
    hex_of(digest, out);
}

static size_t drop(char *p, size_t size, size_t n, void *data)
{
    (void)p;
    (void)data;
    return size * n;
}

/* Do it as the transport does. */
static void perform(const struct qc_signed *s, const char *range)
{
    const struct qc_curl *curl = qc_curl_load(&err);
    struct curl_slist *list = NULL;
    CURL *easy = curl->easy_init();

    for (size_t i = 0; i < s->n_headers; i++)
        list = curl->slist_append(list, s->header[i]);
    curl->easy_setopt(easy, CURLOPT_URL, s->url);
    curl->easy_setopt(easy, CURLOPT_PATH_AS_IS, 1L);
    curl->easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl->easy_setopt(easy, CURLOPT_PROXY, "");
    curl->easy_setopt(easy, CURLOPT_HTTPHEADER, list);
    curl->easy_setopt(easy, CURLOPT_RANGE, range);
    curl->easy_setopt(easy, CURLOPT_WRITEFUNCTION, drop);
    curl->easy_setopt(easy, CURLOPT_AWS_SIGV4, s->sigv4);
    curl->easy_setopt(easy, CURLOPT_USERNAME, s->user);
    curl->easy_setopt(easy, CURLOPT_PASSWORD, s->password);
    assert_int_equal(curl->easy_perform(easy), CURLE_OK);
    curl->slist_free_all(list);
    curl->easy_cleanup(easy);
}

static void check_signed(struct qc_place *p, int64_t skew)
{
    static const char *const extra[] = {"If-Match: \"abc\""};
    char request[STANDIN_REQUEST], want[65], date[2000], authorization[2000], expected[40];
    time_t now = time(NULL) + (time_t)skew;
    struct qc_signed s;
    struct tm tm;
    bool range;

    assert_int_equal(qc_place_sign(p, QC_HTTP_GET, 0, "bytes=0-9", extra, 1, &s, &range, &err), 0);
    perform(&s, "0-9");
    qc_signed_finish(&s);
    assert_true(atomic_load(&server.requests) > 0);
    standin_last(&server, request);
    sign_v4(request, SECRET, want, date);
    sent_header(request, "authorization", authorization);
    if (!strstr(authorization, want))
        fail_msg("wrong signature:\n%s\nwanted %s", request, want);
    strftime(expected, sizeof(expected), "%Y%m%dT%H%M", gmtime_r(&now, &tm));
    if (strncmp(date, expected, 13) != 0) { /* a minute may have passed */
        now -= 59;
        strftime(expected, sizeof(expected), "%Y%m%dT%H%M", gmtime_r(&now, &tm));
    }
    assert_memory_equal(date, expected, 11);
    assert_non_null(strstr(authorization, "x-amz-content-sha256"));
    assert_non_null(strstr(authorization, "x-amz-security-token"));
    assert_non_null(strstr(authorization, "/here-2/s3/"));
}

/* libcurl signs what we say as the rules want it, also with another clock than this machine's. */
static void signatures(void **unused)
{
    char rules[400], date[64], request[STANDIN_REQUEST], want[65], when[2000];
    static const char body[] = "<Error><Code>RequestTimeTooSkewed</Code></Error>";
    time_t t = time(NULL) - 40000;
    struct qc_place *p;
    struct tm tm;

    (void)unused;
    standin_start(&server, any);
    snprintf(rules, sizeof(rules), "s3-endpoint http://127.0.0.1:%u\ns3-region here-2\n"
             "s3-access-key AKID\ns3-secret-key " SECRET "\ns3-session-token TOK/+=", server.port);
    assert_int_equal(qc_conf_read(conf, rules, "t", &err), 0);
    assert_int_equal(qc_place_create(&p, creds, "s3://bucket/a b/../+~(1)\xc3\xa9", &err), 0);
    assert_int_equal(qc_place_prepare(p, false, &err), 0);
    check_signed(p, 0);
    strftime(date, sizeof(date), "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&t, &tm));
    assert_int_equal(qc_place_refused(p, 403, body, strlen(body), date, true, &err), QC_REFUSED_AGAIN);
    check_signed(p, -40000);
    /* the checker can say no */
    standin_last(&server, request);
    memcpy(strstr(request, "bytes=") ? strstr(request, "\"abc\"") : request, "\"abd\"", 5);
    sign_v4(request, SECRET, want, when);
    assert_null(strstr(request, want));
    qc_place_unref(p);
    standin_stop(&server);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(instances), TEST(no_instance), TEST(busy_instance), TEST(hostile_instance), TEST(containers),
        TEST(signatures),
    };

    return cmocka_run_group_tests_name("net/endpoints", tests, NULL, NULL);
}
