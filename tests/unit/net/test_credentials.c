/* SPDX-License-Identifier: MIT */
/* Where credentials come from: the callback, settings, files, endpoints; how they are renewed. */
#include <sys/stat.h>
#include <time.h>

#include "place_tools.h"
#include "net/credentials.h"

#define SECRET "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"

static qchain_remote *conf;
static struct qc_credentials *creds;
static struct log_kept kept;
static struct qc_log logger;
static qchain_error err;
static char dir[64];

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
    strcpy(dir, "/tmp/qc-credentials-XXXXXX");
    assert_non_null(mkdtemp(dir));
    return 0;
}

static int teardown(void **unused)
{
    char path[128];

    (void)unused;
    assert_null(strstr(kept.text, SECRET));
    assert_null(strstr(err.text, SECRET));
    qc_credentials_destroy(creds);
    qc_conf_free(conf);
    pthread_mutex_destroy(&kept.lock);
    snprintf(path, sizeof(path), "%s/credentials", dir);
    unlink(path);
    snprintf(path, sizeof(path), "%s/config", dir);
    unlink(path);
    assert_int_equal(rmdir(dir), 0);
    return 0;
}

static void again(void)
{
    qc_credentials_destroy(creds);
    creds = qc_credentials_create(conf, &logger);
    assert_non_null(creds);
}

static void write_file(const char *name, const char *variable, const char *text)
{
    char path[128];
    FILE *f;

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    f = fopen(path, "w");
    assert_non_null(f);
    assert_int_equal(fwrite(text, 1, strlen(text), f), strlen(text));
    fclose(f);
    setenv(variable, path, 1);
}

#define CREDENTIALS "credentials", "AWS_SHARED_CREDENTIALS_FILE"
#define CONFIG "config", "AWS_CONFIG_FILE"

/* The login of a bucket, which must be got; counted. */
static struct qc_login *login(enum qc_login_kind kind, const char *where)
{
    struct qc_site *s = qc_site_get(creds, kind, where);
    struct qc_login *l;

    assert_non_null(s);
    assert_ptr_equal(s, qc_site_get(creds, kind, where));
    if (qc_site_prepare(s, 0, &err) != 0)
        fail_msg("%s", err.text);
    l = qc_site_login(s);
    assert_non_null(l);
    return l;
}

static void expect_s3(const char *id, const char *token)
{
    struct qc_login *l = login(QC_LOGIN_S3, "s3://b");

    assert_string_equal(l->access_key ? l->access_key : "-", id);
    assert_string_equal(l->session_token ? l->session_token : "-", token);
    if (l->access_key)
        assert_string_equal(l->secret_key, SECRET);
    qc_login_unref(l);
}

static void expect_error(const char *text)
{
    assert_int_equal(qc_site_prepare(qc_site_get(creds, QC_LOGIN_S3, "s3://b"), 0, &err),
                     QCHAIN_E_AUTH);
    if (!strstr(err.text, text))
        fail_msg("'%s' does not tell of '%s'", err.text, text);
}

/* Each of these goes before those that come after it. */
static void order(void **unused)
{
    (void)unused;
    expect_s3("-", "-");
    assert_non_null(strstr(kept.text, "not signed"));
    again();
    write_file(CONFIG, "[default]\naws_access_key_id = CONFIG\naws_secret_access_key = " SECRET "\n");
    expect_s3("CONFIG", "-");
    again();
    write_file(CREDENTIALS, "[default]\naws_access_key_id=FILE\naws_secret_access_key=" SECRET
               "\naws_session_token=FTOK\n");
    expect_s3("FILE", "FTOK");
    again();
    setenv("AWS_ACCESS_KEY_ID", "ENV", 1);
    setenv("AWS_SECRET_ACCESS_KEY", SECRET, 1);
    expect_s3("ENV", "-");
    again();
    assert_int_equal(qc_conf_read(conf, "s3-access-key CONF\ns3-secret-key " SECRET, "t", &err), 0);
    expect_s3("CONF", "-");
    again();
    assert_int_equal(qc_conf_read(conf, "s3-anonymous on", "t", &err), 0);
    expect_s3("-", "-");
}

static void profiles(void **unused)
{
    (void)unused;
    write_file(CREDENTIALS, "# a comment\n[other]\naws_access_key_id=OTHER\naws_secret_access_key=" SECRET
               "\n[ work ]\r\n  nested = 1\naws_access_key_id = WORK ; why\r\n"
               "AWS_SECRET_ACCESS_KEY = " SECRET " # c\n[half]\naws_access_key_id=HALF\n");
    write_file(CONFIG, "[work]\naws_access_key_id=NOT\naws_secret_access_key=x\n"
               "[profile work]\nregion = eu-west-7\nendpoint_url = http://store:7480/\n"
               "s3 =\n  region = no\n[profile proc]\ncredential_process = /bin/true\n"
               "[profile half]\naws_secret_access_key=x\n");
    expect_s3("-", "-"); /* no default in it */
    again();
    setenv("AWS_PROFILE", "work", 1);
    expect_s3("WORK", "-");
    again();
    setenv("AWS_PROFILE", "half", 1); /* halves of two files are no pair */
    expect_s3("-", "-");
    again();
    setenv("AWS_PROFILE", "proc", 1);
    expect_error("credential_process");
    again();
    setenv("AWS_PROFILE", "gone", 1);
    expect_error("'gone'");
    again();
    assert_int_equal(qc_conf_read(conf, "s3-profile other", "t", &err), 0);
    expect_s3("OTHER", "-");
}

/* A profile's region and endpoint; and a key that is known before any request was made. */
static void profile_settings(void **unused)
{
    struct qc_place *p;
    struct qc_signed s;
    bool range;

    (void)unused;
    write_file(CREDENTIALS, "[work]\naws_access_key_id=WORK\naws_secret_access_key=" SECRET "\n");
    write_file(CONFIG, "[profile work]\nregion = eu-west-7\nendpoint_url = http://store:7480/\n");
    setenv("AWS_PROFILE", "work", 1);
    assert_int_equal(qc_place_create(&p, creds, "s3://b/k", &err), 0);
    assert_false(qc_place_is_ready(p));
    assert_string_equal(qc_place_key(p), "http://store:7480/b/k");
    assert_int_equal(qc_place_prepare(p, false, &err), 0);
    assert_int_equal(qc_place_sign(p, QC_HTTP_GET, 0, NULL, NULL, 0, &s, &range, &err), 0);
    assert_string_equal(s.url, "http://store:7480/b/k");
    assert_string_equal(s.sigv4, "aws:amz:eu-west-7:s3");
    qc_signed_finish(&s);
    qc_place_unref(p);
}

static void hostile_files(void **unused)
{
    char path[128];
    char *big = calloc(1, (2 << 20) + 1);

    (void)unused;
    memset(big, 'x', 2 << 20);
    write_file(CREDENTIALS, big);
    expect_error("larger");
    again();
    memcpy(big + 1000, "\n[default]\naws_access_key_id=X\naws_secret_access_key=y", 53);
    big[1 << 19] = '\0';
    write_file(CREDENTIALS, big);
    expect_error("too long");
    again();
    big[1053] = '\n'; /* one long line that says nothing */
    write_file(CREDENTIALS, big);
    qc_login_unref(login(QC_LOGIN_S3, "s3://b"));
    free(big);
    again();
    write_file(CREDENTIALS, "[default\n]\n=\n==\n[\n[]\n[default]\n=x\naws_access_key_id\n"
               "aws_access_key_id=\naws_secret_access_key=\n[default");
    expect_s3("-", "-");
    again();
    write_file(CREDENTIALS, "[default]\naws_access_key_id=A B\naws_secret_access_key=x\n");
    expect_error("characters");
    again();
    snprintf(path, sizeof(path), "%s/credentials", dir);
    unlink(path);
    assert_int_equal(mkfifo(path, 0600), 0); /* nobody will ever write to it */
    expect_error("regular");
    again();
    setenv("AWS_SHARED_CREDENTIALS_FILE", dir, 1);
    expect_error("regular");
}

static void halves(void **unused)
{
    (void)unused;
    setenv("AWS_ACCESS_KEY_ID", "ENV", 1);
    expect_error("no secret key");
    again();
    unsetenv("AWS_ACCESS_KEY_ID");
    setenv("AWS_SECRET_ACCESS_KEY", SECRET, 1);
    expect_error("no access key id");
}

/* ------------------------------------------------------------------- callback --- */

struct giver {
    atomic_int calls, renewals, freed;
    int        ret;
    uint64_t   expires;
    bool       none;
    char       where[64];
};

static int give(void *data, const char *where, int renew, qchain_credentials *out)
{
    struct giver *g = data;
    static const char *const id[] = {"CB0", "CB1", "CB2", "CB3"};
    int n = atomic_fetch_add(&g->calls, 1);

    atomic_fetch_add(&g->renewals, renew);
    assert_true(out->struct_size == sizeof(*out));
    snprintf(g->where, sizeof(g->where), "%s", where);
    usleep(20000);
    if (g->ret)
        return g->ret;
    out->access_key = id[n % 4];
    out->secret_key = SECRET;
    out->expires = g->expires;
    return 0;
}

static void callback(void **unused)
{
    struct giver g = {0};
    struct qc_place *p;
    struct qc_signed s;
    bool range;

    (void)unused;
    conf->credentials = give;
    conf->callback = qc_calloc(1, sizeof(*conf->callback));
    conf->callback->data = &g;
    atomic_init(&conf->callback->refs, 1);
    setenv("AWS_REGION", "r-1", 1);
    setenv("AWS_ENDPOINT_URL", "http://h", 1);
    assert_int_equal(qc_place_create(&p, creds, "s3://bucket/k", &err), 0);
    assert_int_equal(g.calls, 0);
    assert_false(qc_place_is_ready(p));
    assert_int_equal(qc_place_sign(p, QC_HTTP_GET, 0, NULL, NULL, 0, &s, &range, &err), QCHAIN_E_AUTH);
    assert_int_equal(qc_place_prepare(p, false, &err), 0);
    assert_int_equal(qc_place_prepare(p, false, &err), 0);
    assert_string_equal(g.where, "s3://bucket");
    assert_int_equal(g.calls, 1);
    assert_int_equal(qc_place_sign(p, QC_HTTP_GET, 0, NULL, NULL, 0, &s, &range, &err), 0);
    assert_string_equal(s.user, "CB0");
    qc_signed_finish(&s);
    assert_int_equal(qc_place_prepare(p, true, &err), 0); /* CB0 was refused */
    assert_int_equal(g.calls, 2);
    assert_int_equal(g.renewals, 1);
    assert_int_equal(qc_place_prepare(p, true, &err), 0); /* and it was not used since */
    assert_int_equal(g.calls, 2);
    assert_int_equal(qc_place_sign(p, QC_HTTP_GET, 0, NULL, NULL, 0, &s, &range, &err), 0);
    assert_string_equal(s.user, "CB1");
    qc_signed_finish(&s);
    qc_place_unref(p);

    /* others: none of mine, then no */
    g.ret = 1;
    setenv("AWS_ACCESS_KEY_ID", "ENV", 1);
    setenv("AWS_SECRET_ACCESS_KEY", SECRET, 1);
    expect_s3("ENV", "-");
    again();
    g.ret = QCHAIN_E_AUTH;
    expect_error("gave no credentials");
    g.ret = 0;
    expect_error("gave no credentials"); /* for some seconds */
}

static void *prepare_main(void *data)
{
    qchain_error why;

    qc_error_init(&why);
    return (void *)(intptr_t)qc_place_prepare(data, false, &why);
}

static void one_for_all(void **unused)
{
    struct giver g = {0};
    struct qc_place *p;
    pthread_t t[16];

    (void)unused;
    conf->credentials = give;
    conf->callback = qc_calloc(1, sizeof(*conf->callback));
    conf->callback->data = &g;
    atomic_init(&conf->callback->refs, 1);
    setenv("AWS_ENDPOINT_URL", "http://h", 1);
    for (int round = 0; round < 2; round++) {
        g.ret = round ? QCHAIN_E_AUTH : 0;
        again();
        atomic_store(&g.calls, 0);
        assert_int_equal(qc_place_create(&p, creds, "s3://bucket/k", &err), 0);
        for (int i = 0; i < 16; i++)
            assert_int_equal(pthread_create(&t[i], NULL, prepare_main, p), 0);
        for (int i = 0; i < 16; i++) {
            void *ret;

            pthread_join(t[i], &ret);
            assert_int_equal((int)(intptr_t)ret, round ? QCHAIN_E_AUTH : 0);
        }
        assert_int_equal(g.calls, 1);
        qc_place_unref(p);
    }
}

/* Renewed before they expire; those that cannot be serve until shortly before. */
static void expiry(void **unused)
{
    struct giver g = {.expires = (uint64_t)time(NULL) + 200};
    struct qc_site *s;
    struct qc_login *l;

    (void)unused;
    conf->credentials = give;
    conf->callback = qc_calloc(1, sizeof(*conf->callback));
    conf->callback->data = &g;
    atomic_init(&conf->callback->refs, 1);
    s = qc_site_get(creds, QC_LOGIN_S3, "s3://b");
    assert_int_equal(qc_site_prepare(s, 0, &err), 0);
    assert_null(qc_site_login(s)); /* 200 s left: must be renewed */
    g.ret = QCHAIN_E_NET;
    assert_int_equal(qc_site_prepare(s, 0, &err), 0); /* but is good for now */
    l = qc_site_login(s);
    assert_non_null(l);
    qc_login_unref(l);
    assert_int_equal(g.calls, 2);
    assert_int_equal(qc_site_prepare(s, 0, &err), 0);
    assert_int_equal(g.calls, 2);
    again();
    g.ret = 0;
    g.expires = (uint64_t)time(NULL) + 1000;
    s = qc_site_get(creds, QC_LOGIN_S3, "s3://b");
    assert_int_equal(qc_site_prepare(s, 0, &err), 0);
    l = qc_site_login(s);
    assert_non_null(l);
    qc_login_unref(l);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(order), TEST(profiles), TEST(profile_settings), TEST(hostile_files), TEST(halves),
        TEST(callback), TEST(one_for_all), TEST(expiry),
    };

    return cmocka_run_group_tests_name("net/credentials", tests, NULL, NULL);
}
