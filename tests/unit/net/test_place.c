/* SPDX-License-Identifier: MIT */
/* Places: names, keys and scopes, how requests are addressed and signed. */
#include <time.h>

#include "place_tools.h"
#include "net/azure_sign.h"

static qchain_remote *conf;
static struct qc_credentials *creds;
static qchain_error err;

static int setup(void **unused)
{
    (void)unused;
    clean_environment();
    qc_error_init(&err);
    conf = qc_conf_new();
    assert_non_null(conf);
    creds = qc_credentials_create(conf, NULL);
    assert_non_null(creds);
    return 0;
}

static int teardown(void **unused)
{
    (void)unused;
    qc_credentials_destroy(creds);
    qc_conf_free(conf);
    return 0;
}

static void configure(const char *text)
{
    if (qc_conf_read(conf, text, "test", &err) != 0)
        fail_msg("%s", err.text);
}

static struct qc_place *place(const char *name)
{
    struct qc_place *p;

    if (qc_place_create(&p, creds, name, &err) != 0)
        fail_msg("%s: %s", name, err.text);
    return p;
}

/* Sign a request as the transport does it. */
static void sign(struct qc_place *p, enum qc_http_method method, const char *range, const char *extra,
                 struct qc_signed *out, bool *range_signed)
{
    bool unused;

    if (!qc_place_is_ready(p) && qc_place_prepare(p, false, &err) != 0)
        fail_msg("%s", err.text);
    assert_true(qc_place_is_ready(p));
    if (qc_place_sign(p, method, 1234, range, &extra, extra != NULL, out,
                      range_signed ? range_signed : &unused, &err) != 0)
        fail_msg("%s", err.text);
}

static void expect_url(const char *name, const char *url)
{
    struct qc_place *p = place(name);
    struct qc_signed s;

    sign(p, QC_HTTP_GET, NULL, NULL, &s, NULL);
    assert_string_equal(s.url, url);
    qc_signed_finish(&s);
    qc_place_unref(p);
}

static void expect_key(const char *name, const char *shown, const char *key)
{
    struct qc_place *p = place(name);

    assert_string_equal(qc_place_shown(p), shown);
    assert_string_equal(qc_place_key(p), key);
    qc_place_unref(p);
}

/* What prefixes of rules are compared with. */
static void expect_name(const char *name, const char *want)
{
    struct qc_place *p = place(name);

    assert_string_equal(qc_place_name(p), want);
    qc_place_unref(p);
}

/* What requests wait for together, and what is left alone when it fails. */
static void expect_server(const char *name, const char *server)
{
    struct qc_place *p = place(name);
    const char *key = qc_place_key(p);

    assert_int_equal(qc_place_server(key), strlen(server));
    assert_memory_equal(key, server, strlen(server));
    qc_place_unref(p);
}

/* ---------------------------------------------------------------- http names --- */

static void web_names(void **unused)
{
    (void)unused;
    expect_url("http://h/a b\xc3\xa9%41%zz?q=1 2", "http://h/a%20b%C3%A9%41%zz?q=1%202");
    expect_url("HTTP://U:P@H:80/x", "http://h/x");
    expect_url("https://h/a/../b/%2e%2e/c/./d", "https://h/c/d");
    expect_url("https://h/a?X-Amz-Signature=1", "https://h/a?X-Amz-Signature=1");
    expect_url("https://h/a+b:c@d;e,f!$&'()*=", "https://h/a+b:c@d;e,f!$&'()*=");
    expect_key("http://u:p@H:80/%41%2f%7e b?q#f", "http://H:80/%41%2f%7e b", "http://h/A%2F~%20b");
    expect_key("http://h/A%2F~%20b", "http://h/A%2F~%20b", "http://h/A%2F~%20b");
    expect_server("http://u:p@H:80/a/b?q", "http://h");
    expect_name("HTTP://u:p@H:80/x/../a b?q#f", "http://h/a%20b");
    expect_name("https://h:8443", "https://h:8443/");
    expect_server("https://h:8443/a", "https://h:8443");
}

static void wrong_names(void **unused)
{
    static const struct {
        const char *name;
        int code;
    } t[] = {{"ftp://h/x", QCHAIN_E_UNSUPPORTED}, {"/a/b", QCHAIN_E_INVAL}, {"s3://b", QCHAIN_E_INVAL},
             {"s3://b/", QCHAIN_E_INVAL}, {"az://c", QCHAIN_E_INVAL}, {"gs://", QCHAIN_E_INVAL},
             {"http://", QCHAIN_E_INVAL}, {"http://h/\n", QCHAIN_E_INVAL},
             {"http://u:SECRET@h:0/?SECRET", QCHAIN_E_INVAL}, {"http://u%00:SECRET@h/", QCHAIN_E_INVAL},
             {"http://u%0a:SECRET@h/", QCHAIN_E_AUTH}, {"s3://id:SECRET@b/k", QCHAIN_E_INVAL}};
    struct qc_place *p;

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        assert_int_equal(qc_place_create(&p, creds, t[i].name, &err), t[i].code);
        assert_null(p);
        assert_null(strstr(err.text, "SECRET"));
    }
}

static void web_logins(void **unused)
{
    struct qc_place *p;
    struct qc_signed s;

    (void)unused;
    configure("basic https://h user pass\nbearer https://t:8443 TOKEN");
    p = place("https://h/x");
    assert_true(qc_place_is_ready(p)); /* nothing to wait for */
    sign(p, QC_HTTP_GET, "bytes=0-9", "If-Match: \"e\"", &s, NULL);
    assert_true(s.has_credentials);
    assert_string_equal(s.user, "user");
    assert_string_equal(s.password, "pass");
    assert_string_equal(header_of(&s, "If-Match"), "\"e\"");
    assert_int_equal(s.n_headers, 1);
    assert_null(s.sigv4);
    qc_signed_finish(&s);
    qc_signed_finish(&s);
    qc_place_unref(p);

    p = place("https://t:8443/x");
    sign(p, QC_HTTP_GET, NULL, NULL, &s, NULL);
    assert_string_equal(header_of(&s, "Authorization"), "Bearer TOKEN");
    assert_true(s.has_credentials && !s.user);
    qc_signed_finish(&s);
    qc_place_unref(p);

    p = place("https://n%40me:p%3aw@h/x"); /* goes before the configuration */
    sign(p, QC_HTTP_GET, NULL, NULL, &s, NULL);
    assert_string_equal(s.user, "n@me");
    assert_string_equal(s.password, "p:w");
    assert_string_equal(s.url, "https://h/x");
    qc_signed_finish(&s);
    qc_place_unref(p);

    /* another scheme, port or host is another origin */
    for (int i = 0; i < 4; i++) {
        static const char *const other[] = {"http://h/x", "https://h:8443/", "https://h2/",
                                            "https://t/x"};

        p = place(other[i]);
        sign(p, QC_HTTP_GET, NULL, NULL, &s, NULL);
        assert_true(!s.has_credentials && !s.user && !s.n_headers);
        assert_string_equal(qc_place_scope(p), "");
        qc_signed_finish(&s);
        qc_place_unref(p);
    }
}

static void expect_target(struct qc_place *p, const char *set, const char *want)
{
    char *t;

    qc_place_set_target(p, set);
    t = qc_place_target(p);
    if (want)
        assert_string_equal(t, want);
    else
        assert_null(t);
    qc_free(t);
}

static void redirects(void **unused)
{
    static const char *const elsewhere[] = {"http://cdn/y", "https://h/y", "http://h:81/y", "http://h.evil/",
                                            "http://h@evil/"};
    struct qc_place *p = place("http://h/x");
    struct qc_signed s;

    (void)unused;
    expect_target(p, NULL, NULL);
    expect_target(p, "https://cdn/y?sig=1", "https://cdn/y?sig=1");
    sign(p, QC_HTTP_GET, NULL, NULL, &s, NULL);
    assert_string_equal(s.url, "http://h/x");
    qc_signed_finish(&s);
    assert_string_equal(qc_place_key(p), "http://h/x");
    expect_target(p, NULL, NULL);
    qc_place_unref(p);

    p = place("http://u:p@h/x"); /* credentials stay where they belong */
    for (size_t i = 0; i < sizeof(elsewhere) / sizeof(*elsewhere); i++)
        expect_target(p, elsewhere[i], NULL);
    expect_target(p, "http://h/z", "http://h/z");
    expect_target(p, "http://h?z", "http://h?z");
    qc_place_unref(p);

    configure("s3-access-key A\ns3-secret-key B\ns3-endpoint http://h");
    p = place("s3://b/k");
    expect_target(p, "http://h/b/k2", NULL);
    qc_place_unref(p);
}

static void siblings(void **unused)
{
    static const char *const t[][2] = {
        {"http://h/a.qcow2", "http://h/a.qcow2.qci"}, {"http://h/a?v=1", "http://h/a.qci"},
        {"http://u:p@h:99/a%20b", "http://u:p@h:99/a%20b.qci"},
        {"https://h/a?X-Amz-Algorithm=A&X-Amz-Signature=0", NULL}, {"https://h/a?sv=1&sig=0", NULL},
        {"s3://b/k?x#y", "s3://b/k?x#y.qci"}, {"az://c/k", "az://c/k.qci"}, {"gs://b/a b", "gs://b/a b.qci"}};

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        struct qc_place *p = place(t[i][0]);
        char *s = qc_place_sibling(p, ".qci");

        if (t[i][1])
            assert_string_equal(s, t[i][1]);
        else
            assert_null(s);
        qc_free(s);
        qc_place_unref(p);
    }
}

static bool same_scope(const char *a, const char *b)
{
    struct qc_place *p = place(a), *q = place(b);
    bool same = strcmp(qc_place_scope(p), qc_place_scope(q)) == 0;

    assert_ptr_equal(qc_place_scope(p), qc_place_scope(p));
    assert_true(strlen(qc_place_scope(p)) == 0 || strlen(qc_place_scope(p)) == 64);
    qc_place_unref(p);
    qc_place_unref(q);
    return same;
}

static void scopes(void **unused)
{
    (void)unused;
    assert_true(same_scope("http://h/a", "http://g/b"));
    assert_true(same_scope("http://u:p@h/a", "http://u:other@h/a"));
    assert_false(same_scope("http://u:p@h/a", "http://v:p@h/a"));
    assert_false(same_scope("http://u:p@h/a", "http://h/a"));
    assert_false(same_scope("http://h/a?id=1", "http://h/a?id=2"));
    assert_true(same_scope("http://h/a?X-Amz-Credential=AK%2F20260101%2Fr&X-Amz-Date=1&X-Amz-Signature=2",
                           "http://h/a?X-Amz-Credential=AK%2F20260202%2Fr&X-Amz-Date=9&X-Amz-Signature=8"));
    assert_false(same_scope("http://h/a?X-Amz-Credential=AK%2F20260101&X-Amz-Signature=2",
                            "http://h/a?X-Amz-Credential=AL%2F20260101&X-Amz-Signature=2"));
    assert_true(same_scope("https://h/a?sv=1&sp=r&se=2026&sig=a", "https://h/a?sv=1&sp=r&se=2027&sig=b"));
    assert_false(same_scope("https://h/a?sv=1&sp=r&sig=a", "https://h/a?sv=1&sp=rw&sig=a"));
}

/* -------------------------------------------------------------------- S3, GCS --- */

static void s3_addresses(void **unused)
{
    (void)unused;
    configure("s3-anonymous on");
    expect_url("s3://bucket/a b+\xc3\xa9//../~%41?x", /* to the last byte */
               "https://bucket.s3.us-east-1.amazonaws.com/a%20b%2B%C3%A9//../~%2541%3Fx");
    expect_url("s3://my.bucket/k", "https://s3.us-east-1.amazonaws.com/my.bucket/k");
    expect_url("s3://My_Bucket/k", "https://s3.us-east-1.amazonaws.com/My_Bucket/k");
    expect_key("s3://bucket/a b", "s3://bucket/a b", "https://s3.amazonaws.com/bucket/a%20b");
    expect_server("s3://bucket/a/b", "https://s3.amazonaws.com/bucket");
    expect_name("S3://Bucket/a/../b c?d", "s3://Bucket/a/../b c?d");
}

static void s3_endpoints(void **unused)
{
    (void)unused;
    configure("s3-anonymous on\ns3-endpoint http://127.0.0.1:7480/base/");
    expect_url("s3://bucket/k", "http://127.0.0.1:7480/base/bucket/k");
    expect_key("s3://bucket/k", "s3://bucket/k", "http://127.0.0.1:7480/base/bucket/k");
    expect_server("s3://bucket/k", "http://127.0.0.1:7480");
}

static void s3_virtual(void **unused)
{
    (void)unused;
    configure("s3-anonymous on\ns3-endpoint http://s3.localhost:7480\ns3-style virtual");
    expect_url("s3://bucket/k", "http://bucket.s3.localhost:7480/k");
    expect_url("s3://a.bucket/k", "http://a.bucket.s3.localhost:7480/k");
    expect_key("s3://bucket/k", "s3://bucket/k", "http://s3.localhost:7480/bucket/k");
}

static void s3_environment(void **unused)
{
    (void)unused;
    setenv("AWS_REGION", "cn-north-1", 1);
    setenv("AWS_ACCESS_KEY_ID", "AKID", 1);
    setenv("AWS_SECRET_ACCESS_KEY", "SECRET", 1);
    expect_url("s3://bucket/k", "https://bucket.s3.cn-north-1.amazonaws.com.cn/k");
    unsetenv("AWS_REGION");
    teardown(NULL);
    setup(NULL);
    setenv("AWS_DEFAULT_REGION", "eu-west-1", 1);
    setenv("AWS_ENDPOINT_URL", "http://s3.local:1", 1);
    expect_url("s3://bucket/k", "http://s3.local:1/bucket/k");
}

static void s3_wrong_settings(void **unused)
{
    static const char *const bad[] = {"ftp://h", "http://u:p@h/", "http://h/?x", "h:7480", "http://"};
    struct qc_place *p;

    (void)unused;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        setenv("AWS_ENDPOINT_URL_S3", bad[i], 1);
        assert_int_equal(qc_place_create(&p, creds, "s3://b/k", &err), QCHAIN_E_INVAL);
    }
    unsetenv("AWS_ENDPOINT_URL_S3");
    setenv("AWS_REGION", "x/../y", 1);
    p = place("s3://b/k");
    assert_int_equal(qc_place_prepare(p, false, &err), QCHAIN_E_INVAL);
    assert_false(qc_place_is_ready(p));
    qc_place_unref(p);
}

static void s3_signed(void **unused)
{
    struct qc_place *p;
    struct qc_signed s;
    bool range;

    (void)unused;
    configure("s3-endpoint http://h:1\ns3-region here-1\ns3-access-key AKID\ns3-secret-key SECRET\n"
              "s3-session-token TOKEN");
    p = place("s3://b/k");
    sign(p, QC_HTTP_GET, "bytes=0-9", "If-Match: \"e\"", &s, &range);
    assert_false(range);
    assert_string_equal(s.sigv4, "aws:amz:here-1:s3");
    assert_string_equal(s.user, "AKID");
    assert_string_equal(s.password, "SECRET");
    assert_true(s.has_credentials);
    assert_string_equal(header_of(&s, "x-amz-content-sha256"),
                        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    assert_string_equal(header_of(&s, "x-amz-security-token"), "TOKEN");
    assert_string_equal(header_of(&s, "If-Match"), "\"e\"");
    assert_int_equal(s.n_headers, 3);
    qc_signed_finish(&s);
    sign(p, QC_HTTP_PUT, NULL, "If-None-Match: *", &s, NULL);
    assert_string_equal(header_of(&s, "x-amz-content-sha256"), "UNSIGNED-PAYLOAD");
    qc_signed_finish(&s);
    assert_int_equal(strlen(qc_place_scope(p)), 64);
    assert_null(strstr(qc_place_scope(p), "AKID"));
    qc_place_unref(p);
}

static void gs_signed(void **unused)
{
    struct qc_place *p;
    struct qc_signed s;

    (void)unused;
    configure("gs-access-key GOOG\ngs-secret-key SECRET");
    p = place("gs://my.bucket/a b");
    assert_string_equal(qc_place_key(p), "https://storage.googleapis.com/my.bucket/a%20b");
    sign(p, QC_HTTP_GET, NULL, NULL, &s, NULL);
    assert_string_equal(s.url, "https://storage.googleapis.com/my.bucket/a%20b");
    assert_string_equal(s.sigv4, "aws:amz:auto:s3");
    assert_string_equal(s.user, "GOOG");
    qc_signed_finish(&s);
    qc_place_unref(p);
    teardown(NULL);
    setup(NULL);
    setenv("GOOGLE_OAUTH_ACCESS_TOKEN", "TOK", 1);
    configure("gs-endpoint http://127.0.0.1:9");
    p = place("gs://b/k");
    sign(p, QC_HTTP_GET, NULL, NULL, &s, NULL);
    assert_string_equal(s.url, "http://127.0.0.1:9/b/k");
    assert_string_equal(header_of(&s, "Authorization"), "Bearer TOK");
    assert_null(s.sigv4);
    qc_signed_finish(&s);
    qc_place_unref(p);
}

/* ----------------------------------------------------------------------- Azure --- */

#define AZURITE_KEY "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

/* Signatures made by another program from the same description. */
static void azure_vectors(void **unused)
{
    static char *get[] = {(char *)"If-Match: \"0x8D\"", (char *)"x-ms-version: 2021-08-06",
                          (char *)"X-Ms-Date:Sat, 31 Jan 2026 12:34:56 GMT ",
                          (char *)"x-ms-range: bytes=0-99", (char *)"Accept-Encoding: identity"};
    static char *put[] = {(char *)"If-None-Match: *", (char *)"x-ms-version: 2021-08-06",
                          (char *)"x-ms-blob-type: BlockBlob",
                          (char *)"x-ms-date: Sun, 01 Feb 2026 00:00:00 GMT"};
    struct qc_azure_request r = {"GET", "devstoreaccount1", "/devstoreaccount1/cont/a%20b/disk.qcow2", 0,
                                 get, 5};
    char *out, date[40];

    (void)unused;
    assert_int_equal(qc_azure_authorization(&out, &r, AZURITE_KEY, &err), 0);
    assert_string_equal(out, "Authorization: SharedKey devstoreaccount1:"
                        "IKQstKAzvGiAU8xGZ9+dq16vF/BcHFUm1I2KHrAU87M=");
    qc_free(out);
    r = (struct qc_azure_request){"PUT", "acct", "/cont/d", 1234, put, 4};
    out = qc_azure_text(&r);
    assert_string_equal(out, "PUT\n\n\n1234\n\n\n\n\n\n*\n\n\nx-ms-blob-type:BlockBlob\n"
                        "x-ms-date:Sun, 01 Feb 2026 00:00:00 GMT\nx-ms-version:2021-08-06\n/acct/cont/d");
    qc_free(out);
    assert_int_equal(qc_azure_authorization(&out, &r, AZURITE_KEY, &err), 0);
    assert_string_equal(out, "Authorization: SharedKey acct:"
                        "yxQeVGgSnVWxZ+KMPmO9XfySUwAWcRCjY9cIWWHCCLE=");
    qc_free(out);
    assert_int_equal(qc_azure_authorization(&out, &r, "not base64", &err), QCHAIN_E_AUTH);
    assert_null(out);
    qc_azure_date(1769862896, date);
    assert_string_equal(date, "Sat, 31 Jan 2026 12:34:56 GMT");
}

static void azure_key(void **unused)
{
    struct qc_azure_request r = {"GET", "devstoreaccount1", "/devstoreaccount1/cont/a%20b", 0, NULL, 0};
    struct qc_place *p;
    struct qc_signed s;
    char *want;
    bool range;

    (void)unused;
    configure("azure-endpoint http://127.0.0.1:10000/devstoreaccount1\nazure-key " AZURITE_KEY);
    p = place("az://cont/a b");
    assert_string_equal(qc_place_key(p), "http://127.0.0.1:10000/devstoreaccount1/cont/a%20b");
    sign(p, QC_HTTP_GET, "bytes=5-9", "If-Match: \"e\"", &s, &range);
    assert_true(range);
    assert_string_equal(s.url, "http://127.0.0.1:10000/devstoreaccount1/cont/a%20b");
    assert_string_equal(header_of(&s, "x-ms-range"), "bytes=5-9");
    assert_true(s.has_credentials && !s.sigv4 && !s.user);
    /* it signed what it sends */
    r.header = s.header;
    r.n_headers = s.n_headers - 1;
    assert_int_equal(qc_azure_authorization(&want, &r, AZURITE_KEY, &err), 0);
    assert_string_equal(s.header[s.n_headers - 1], want);
    qc_free(want);
    qc_signed_finish(&s);
    sign(p, QC_HTTP_PUT, NULL, NULL, &s, &range);
    assert_false(range);
    assert_string_equal(header_of(&s, "x-ms-blob-type"), "BlockBlob");
    qc_signed_finish(&s);
    qc_place_unref(p);
}

static void azure_sas(void **unused)
{
    struct qc_place *p;
    struct qc_signed s;
    bool range;

    (void)unused;
    setenv("AZURE_STORAGE_ACCOUNT", "acct", 1);
    setenv("AZURE_STORAGE_SAS_TOKEN", "?sv=2021&sig=a%2Bb", 1);
    setenv("AZURE_STORAGE_KEY", AZURITE_KEY, 1);
    p = place("az://cont/k");
    assert_string_equal(qc_place_key(p), "https://acct.blob.core.windows.net/cont/k");
    sign(p, QC_HTTP_GET, "bytes=0-1", NULL, &s, &range);
    assert_false(range);
    assert_string_equal(s.url, "https://acct.blob.core.windows.net/cont/k?sv=2021&sig=a%2Bb");
    assert_true(s.has_credentials);
    assert_null(header_of(&s, "Authorization"));
    qc_signed_finish(&s);
    qc_place_unref(p);
}

static void azure_without(void **unused)
{
    struct qc_place *p;
    struct qc_signed s;
    bool range;

    (void)unused;
    p = place("az://cont/k");
    assert_int_equal(qc_place_prepare(p, false, &err), 0);
    assert_int_equal(qc_place_sign(p, QC_HTTP_GET, 0, NULL, NULL, 0, &s, &range, &err), QCHAIN_E_AUTH);
    assert_non_null(strstr(err.text, "AZURE_STORAGE_ACCOUNT"));
    qc_place_unref(p);
    setenv("AZURE_STORAGE_ACCOUNT", "acct/../x", 1);
    assert_int_equal(qc_place_create(&p, creds, "az://cont/k", &err), QCHAIN_E_INVAL);
    setenv("AZURE_STORAGE_ACCOUNT", "acct", 1);
    expect_url("az://$web/k", "https://acct.blob.core.windows.net/%24web/k");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(web_names), TEST(wrong_names), TEST(web_logins), TEST(redirects), TEST(siblings),
        TEST(scopes), TEST(s3_addresses), TEST(s3_endpoints), TEST(s3_virtual), TEST(s3_environment),
        TEST(s3_wrong_settings), TEST(s3_signed), TEST(gs_signed), TEST(azure_vectors), TEST(azure_key),
        TEST(azure_sas), TEST(azure_without),
    };

    return cmocka_run_group_tests_name("net/place", tests, NULL, NULL);
}
