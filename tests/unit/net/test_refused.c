/* SPDX-License-Identifier: MIT */
/* What refusals mean and teach: errors, other regions, clocks, and that no secret gets out by them. */
#include <time.h>

#include "place_tools.h"

#define SECRET "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
#define TOKEN "FwoGZXIvYXdzEXAMPLETOKENofSomeLength0123456789"

static qchain_remote *conf;
static struct qc_credentials *creds;
static struct log_kept kept;
static struct qc_log logger;
static qchain_error err;

static int setup(void **unused)
{
    (void)unused;
    clean_environment();
    qc_error_init(&err);
    memset(&kept, 0, sizeof(kept));
    pthread_mutex_init(&kept.lock, NULL);
    logger = (struct qc_log){.fn = log_keep, .data = &kept, .level = QCHAIN_LOG_DEBUG};
    conf = qc_conf_new();
    creds = qc_credentials_create(conf, &logger);
    assert_non_null(creds);
    return 0;
}

static int teardown(void **unused)
{
    (void)unused;
    assert_null(strstr(kept.text, SECRET));
    assert_null(strstr(kept.text, TOKEN));
    qc_credentials_destroy(creds);
    qc_conf_free(conf);
    pthread_mutex_destroy(&kept.lock);
    return 0;
}

static struct qc_place *place(const char *rules, const char *name)
{
    struct qc_place *p;

    if (rules && qc_conf_read(conf, rules, "test", &err) != 0)
        fail_msg("%s", err.text);
    if (qc_place_create(&p, creds, name, &err) != 0 || qc_place_prepare(p, false, &err) != 0)
        fail_msg("%s: %s", name, err.text);
    return p;
}

static enum qc_refusal refused(struct qc_place *p, int status, const char *code, const char *more)
{
    char body[2000];

    snprintf(body, sizeof(body), "<?xml version=\"1.0\"?><Error><Code>%s</Code>%s</Error>", code, more);
    qc_error_init(&err);
    return qc_place_refused(p, status, body, strlen(body), NULL, true, &err);
}

#define S3_RULES "s3-access-key AKID\ns3-secret-key " SECRET "\ns3-session-token " TOKEN

static void codes(void **unused)
{
    static const struct {
        int status;
        const char *code;
        int want;
        enum qc_refusal what;
    } t[] = {
        {404, "NoSuchKey", QCHAIN_E_NOTFOUND, QC_REFUSED},
        {404, "", QCHAIN_E_NOTFOUND, QC_REFUSED},
        {410, "Gone", QCHAIN_E_NOTFOUND, QC_REFUSED},
        {403, "AccessDenied", QCHAIN_E_AUTH, QC_REFUSED},
        {401, "", QCHAIN_E_AUTH, QC_REFUSED},
        {407, "", QCHAIN_E_AUTH, QC_REFUSED},
        {403, "SignatureDoesNotMatch", QCHAIN_E_AUTH, QC_REFUSED},
        {403, "InvalidAccessKeyId", QCHAIN_E_AUTH, QC_REFUSED_REFRESH},
        {400, "ExpiredToken", QCHAIN_E_AUTH, QC_REFUSED_REFRESH},
        {400, "TokenRefreshRequired", QCHAIN_E_AUTH, QC_REFUSED_REFRESH},
        {412, "PreconditionFailed", QCHAIN_E_CHANGED, QC_REFUSED},
        {429, "", QCHAIN_E_THROTTLED, QC_REFUSED},
        {400, "SlowDown", QCHAIN_E_THROTTLED, QC_REFUSED},
        {409, "BlobAlreadyExists", QCHAIN_E_BUSY, QC_REFUSED},
        {451, "", QCHAIN_E_ACCESS, QC_REFUSED},
        {400, "InvalidRequest", QCHAIN_E_NET, QC_REFUSED},
        {400, "AuthorizationHeaderMalformed", QCHAIN_E_AUTH, QC_REFUSED},
    };
    struct qc_place *p = place(S3_RULES, "s3://b/k");

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        enum qc_refusal what = refused(p, t[i].status, t[i].code, "<Message>why it is</Message>");

        if (err.code != t[i].want || what != t[i].what)
            fail_msg("%d %s: %d %d '%s'", t[i].status, t[i].code, err.code, what, err.text);
        assert_int_equal(err.http_status, t[i].status);
        assert_non_null(strstr(err.text, "s3://b/k"));
        if (t[i].code[0])
            assert_non_null(strstr(err.text, t[i].code));
    }
    assert_int_equal(qc_place_refused(p, 403, NULL, 0, NULL, true, &err), QC_REFUSED);
    assert_int_equal(qc_place_refused(p, 403, "\xef\xbb\xbf<Error><Code>ExpiredToken</Code></Error>", 41,
                                      NULL, true, NULL), QC_REFUSED_REFRESH);
    qc_place_unref(p);
}

/* Nothing can be renewed of a login that stands in the URL, or of nobody's. */
static void nothing_to_renew(void **unused)
{
    struct qc_place *p = place(NULL, "http://u:p@h/x");

    (void)unused;
    assert_int_equal(refused(p, 401, "ExpiredToken", ""), QC_REFUSED);
    qc_place_unref(p);
    p = place("s3-anonymous on", "s3://b/k");
    assert_int_equal(refused(p, 403, "InvalidAccessKeyId", ""), QC_REFUSED);
    assert_non_null(strstr(err.text, "AWS_ACCESS_KEY_ID"));
    qc_place_unref(p);
    p = place("gs-token " TOKEN, "gs://b/k");
    assert_int_equal(refused(p, 401, "AuthenticationRequired", ""), QC_REFUSED_REFRESH);
    qc_place_unref(p);
}

static void regions(void **unused)
{
    static const char *const bad[] = {
        "", "<Region></Region>", "<Region>us-east-1</Region>", "<Region>EU</Region>",
        "<Region>a/../b</Region>", "<Region>a.evil.example</Region>",
        "<Region>0123456789012345678901234567890123</Region>",
        "<Endpoint>b.s3.evil.example</Endpoint>", "<Endpoint>b.s3.x.amazonaws.com.evil.example</Endpoint>",
        "<Endpoint>s3.amazonaws.com</Endpoint>"};
    struct qc_place *p = place(S3_RULES, "s3://bucket/k");
    struct qc_place *other = place(NULL, "s3://other/k");
    struct qc_signed s;
    bool range;

    (void)unused;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_int_equal(refused(p, 301, "PermanentRedirect", bad[i]), QC_REFUSED);
    assert_int_equal(refused(p, 301, "PermanentRedirect", "<Region>eu-west-1</Region>"),
                     QC_REFUSED_AGAIN);
    assert_int_equal(qc_place_sign(p, QC_HTTP_GET, 0, NULL, NULL, 0, &s, &range, &err), 0);
    assert_string_equal(s.sigv4, "aws:amz:eu-west-1:s3");
    assert_string_equal(s.url, "https://bucket.s3.eu-west-1.amazonaws.com/k");
    qc_signed_finish(&s);
    assert_string_equal(qc_place_key(p), "https://s3.amazonaws.com/bucket/k"); /* as before */
    /* the same again: that request was signed before; each tries again once */
    assert_int_equal(refused(p, 301, "PermanentRedirect", "<Region>eu-west-1</Region>"),
                     QC_REFUSED_AGAIN);
    assert_int_equal(refused(p, 301, "PermanentRedirect",
                             "<Endpoint>bucket.s3-ap-south-1.amazonaws.com</Endpoint>"), QC_REFUSED_AGAIN);
    /* and it is this bucket's */
    assert_int_equal(qc_place_sign(other, QC_HTTP_GET, 0, NULL, NULL, 0, &s, &range, &err), 0);
    assert_string_equal(s.sigv4, "aws:amz:us-east-1:s3");
    qc_signed_finish(&s);
    qc_place_unref(other);
    qc_place_unref(p);
}

/* Elsewhere than at AWS the region changes, and the host never. */
static void region_elsewhere(void **unused)
{
    struct qc_place *p = place(S3_RULES "\ns3-endpoint https://s3.my.example", "s3://bucket/k");
    struct qc_signed s;
    bool range;

    (void)unused;
    assert_int_equal(refused(p, 400, "AuthorizationHeaderMalformed", "<Region>eu-1</Region>"),
                     QC_REFUSED_AGAIN);
    assert_int_equal(qc_place_sign(p, QC_HTTP_GET, 0, NULL, NULL, 0, &s, &range, &err), 0);
    assert_string_equal(s.sigv4, "aws:amz:eu-1:s3");
    assert_string_equal(s.url, "https://s3.my.example/bucket/k");
    qc_signed_finish(&s);
    qc_place_unref(p);
}

static void http_date(int64_t ahead, char out[64])
{
    time_t t = (time_t)(time(NULL) + ahead);
    struct tm tm;

    strftime(out, 64, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&t, &tm));
}

static enum qc_refusal skewed(struct qc_place *p, const char *date, bool tls)
{
    static const char body[] = "<Error><Code>RequestTimeTooSkewed</Code></Error>";

    return qc_place_refused(p, 403, body, strlen(body), date, tls, &err);
}

static void clocks(void **unused)
{
    static const char *const bad[] = {NULL, "", "now", "Sat, 31 Foo 2026 12:34:56 GMT",
                                      "Sat, 31 Jan 2026 12:34:56", "Sat, 31 Jan 2026 25:34:56 GMT",
                                      "Sat, 31 anF 2026 12:34:56 GMT"};
    struct qc_place *p = place(S3_RULES, "s3://bucket/k");
    struct qc_signed s;
    char date[64];
    bool range;

    (void)unused;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_int_equal(skewed(p, bad[i], true), QC_REFUSED);
    http_date(3600, date);
    assert_int_equal(skewed(p, date, false), QC_REFUSED); /* anybody may have written it */
    assert_int_equal(err.code, QCHAIN_E_AUTH);
    http_date(90000, date);
    assert_int_equal(skewed(p, date, true), QC_REFUSED);
    http_date(5, date);
    assert_int_equal(skewed(p, date, true), QC_REFUSED);
    conf->insecure = true;
    http_date(3600, date);
    assert_int_equal(skewed(p, date, true), QC_REFUSED);
    conf->insecure = false;
    assert_int_equal(qc_place_sign(p, QC_HTTP_GET, 0, NULL, NULL, 0, &s, &range, &err), 0);
    assert_null(header_of(&s, "X-Amz-Date"));
    qc_signed_finish(&s);

    http_date(-7200, date);
    assert_int_equal(skewed(p, date, true), QC_REFUSED_AGAIN);
    assert_int_equal(skewed(p, date, true), QC_REFUSED_AGAIN); /* signed before; as with regions */
    assert_int_equal(qc_place_sign(p, QC_HTTP_GET, 0, NULL, NULL, 0, &s, &range, &err), 0);
    assert_int_equal(strlen(header_of(&s, "X-Amz-Date")), 16);
    qc_signed_finish(&s);
    assert_non_null(strstr(kept.text, "clock"));
    qc_place_unref(p);
}

/* What a server echoes of what it was sent is not passed on. */
static void echoes(void **unused)
{
    static const char *const said[] = {SECRET, TOKEN, "token FwoGZXIvYXdzEXAMP", "xx ofSomeLength0123 xx"};
    struct qc_place *p = place(S3_RULES, "s3://b/k");
    char more[300];

    (void)unused;
    for (size_t i = 0; i < sizeof(said) / sizeof(*said); i++) {
        snprintf(more, sizeof(more), "<Message>you sent %s</Message>", said[i]);
        refused(p, 403, "AccessDenied", more);
        assert_null(strstr(err.text, "you sent"));
        refused(p, 403, said[i], "<Message>m</Message>");
        assert_null(strstr(err.text, said[i]));
    }
    refused(p, 403, "AccessDenied", "<Message>evil\x1b[2J\xff end\nTime: now</Message>");
    assert_null(strchr(err.text, '\x1b'));
    assert_null(strchr(err.text, '\n'));
    assert_null(strstr(err.text, "now")); /* one line tells it */
    assert_non_null(strstr(err.text, "\\x1b"));
    qc_place_unref(p);
    p = place(NULL, "https://u:hunter2@h/x?sig=" TOKEN);
    refused(p, 403, "A", "<Message>for u:hunter2</Message>");
    assert_null(strstr(err.text, "hunter2"));
    refused(p, 403, "A", "<Message>sig=" TOKEN "</Message>");
    assert_null(strstr(err.text, TOKEN));
    assert_null(strstr(qc_place_shown(p), "hunter2"));
    assert_null(strstr(qc_place_key(p), "hunter2"));
    assert_null(strstr(qc_place_shown(p), TOKEN));
    assert_null(strstr(qc_place_key(p), TOKEN));
    qc_place_unref(p);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(codes), TEST(nothing_to_renew), TEST(regions), TEST(region_elsewhere), TEST(clocks),
        TEST(echoes),
    };

    return cmocka_run_group_tests_name("net/refused", tests, NULL, NULL);
}
