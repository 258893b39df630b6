/* SPDX-License-Identifier: MIT */
/*
 * Settings of remote layers: every rule, wrong ones, copies, what is wiped. Memory is this program's own,
 * so that it can run out at any point and blocks can be looked at when they are freed.
 */
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "net/config.h"
#include "util/alloc.h"
#include "util/error.h"

/* --------------------------------------------------------------- memory --- */

static long allowed = -1; /* allocations until one fails; -1: all succeed */
static long live;         /* blocks */
static unsigned leaks;    /* blocks that held a secret when they were freed */

static bool may_take(void)
{
    if (allowed == 0)
        return false;
    if (allowed > 0)
        allowed--;
    live++;
    return true;
}

void *qc_malloc(size_t size)
{
    return may_take() ? calloc(1, size + 1) : NULL;
}

void *qc_calloc(size_t n, size_t size)
{
    return may_take() ? calloc(n + 1, size) : NULL;
}

void *qc_realloc(void *p, size_t n, size_t size)
{
    if (p && allowed == 0)
        return NULL;
    return p ? realloc(p, n * size) : qc_calloc(n, size);
}

void *qc_aligned(size_t align, size_t size)
{
    return may_take() ? aligned_alloc(align, (size + align - 1) / align * align) : NULL;
}

void qc_free(void *p)
{
    if (!p)
        return;
    leaks += memmem(p, malloc_usable_size(p), "SECRET", 6) != NULL;
    live--;
    free(p);
}

char *qc_strndup(const char *s, size_t n)
{
    size_t len = strnlen(s, n);
    char *copy = qc_malloc(len + 1);

    return copy ? memcpy(copy, s, len) : NULL;
}

char *qc_strdup(const char *s)
{
    return qc_strndup(s, strlen(s));
}

char *qc_asprintf(const char *fmt, ...)
{
    va_list ap;
    char *text;
    int n;

    if (!may_take())
        return NULL;
    va_start(ap, fmt);
    n = vasprintf(&text, fmt, ap);
    va_end(ap);
    return n < 0 ? NULL : text;
}

/* ---------------------------------------------------------------- tests --- */

static qchain_error err;

static int setup(void **unused)
{
    (void)unused;
    allowed = -1;
    live = 0;
    leaks = 0;
    qc_error_init(&err);
    return 0;
}

/* Nothing is left, and no secret was. */
static int teardown(void **unused)
{
    (void)unused;
    assert_int_equal(live, 0);
    assert_int_equal(leaks, 0);
    return 0;
}

static void defaults(void **unused)
{
    qchain_remote *c = qc_conf_new();

    (void)unused;
    assert_int_equal(c->workers, 1);
    assert_int_equal(c->connections, 64);
    assert_int_equal(c->block_bytes, 2 << 20);
    assert_int_equal(c->connect_ms, 10000);
    assert_int_equal(c->stall_ms, 20000);
    assert_int_equal(c->deadline_ms, 60000);
    assert_true(c->hedge);
    assert_false(c->insecure || c->s3_virtual || c->s3_anonymous);
    assert_int_equal(c->verify, QC_VERIFY_BACKGROUND);
    assert_int_equal(c->cache_bytes, UINT64_C(10) << 30);
    assert_int_equal(c->revalidate_s, 0);
    assert_null(c->cache_dir);
    qc_conf_free(c);
    qc_conf_free(NULL);
}

static const char everything[] =
    "# all there is\n"
    "connections 8\nworkers 3 # threads\n\tblock-size\t64K\r\n"
    "connect-timeout 1.5\nstall-timeout 2\ndeadline 0.25\n"
    "hedge off\ninsecure on\nverify strict\n"
    "ca-file /etc/ca.pem\nclient-cert \"/a b/c#d.pem\"\nclient-key /k.pem\n"
    "proxy http://user:SECRETp@proxy:3128\n"
    "s3-endpoint HTTP://MinIO:9000/\ns3-region eu-central-1\ns3-style virtual\n"
    "s3-profile \"my \\\"own\\\" \\\\ one\"\ns3-anonymous on\n"
    "s3-access-key SECRETid\ns3-secret-key SECRET/k+e#y=\ns3-session-token SECRETt\n"
    "azure-endpoint http://127.0.0.1:10000/acc\nazure-account devstoreaccount1\n"
    "azure-key SECRETkey+/==\nazure-sas ?sv=2022&sig=SECRET%3D\n"
    "gs-endpoint https://gs\ngs-access-key SECRETg\ngs-secret-key SECRETs\ngs-token SECRETtok\n"
    "basic HTTPS://Host:443/ me \"SECRET word\"\nbearer http://[::1]:8080 SECRETb\n"
    "cache-dir /var/cache/qchain\ncache-size 512M\nrevalidate 60\n"
    "region S3://Bucket/a https://Near/cache/\n"
    "replica https://one/x/ gs://two\n"
    "replica https://one/x/ az://three/y/\n";

static void is_everything(const qchain_remote *c)
{
    assert_int_equal(c->connections, 8);
    assert_int_equal(c->workers, 3);
    assert_int_equal(c->block_bytes, 65536);
    assert_int_equal(c->connect_ms, 1500);
    assert_int_equal(c->stall_ms, 2000);
    assert_int_equal(c->deadline_ms, 250);
    assert_false(c->hedge);
    assert_true(c->insecure && c->s3_virtual && c->s3_anonymous);
    assert_int_equal(c->verify, QC_VERIFY_STRICT);
    assert_string_equal(c->ca_file, "/etc/ca.pem");
    assert_string_equal(c->client_cert, "/a b/c#d.pem");
    assert_string_equal(c->client_key, "/k.pem");
    assert_string_equal(c->proxy, "http://user:SECRETp@proxy:3128");
    assert_string_equal(c->s3_endpoint, "http://minio:9000");
    assert_string_equal(c->s3_region, "eu-central-1");
    assert_string_equal(c->s3_profile, "my \"own\" \\ one");
    assert_string_equal(c->s3_access_key, "SECRETid");
    assert_string_equal(c->s3_secret_key, "SECRET/k+e#y=");
    assert_string_equal(c->s3_session_token, "SECRETt");
    assert_string_equal(c->azure_endpoint, "http://127.0.0.1:10000/acc");
    assert_string_equal(c->azure_account, "devstoreaccount1");
    assert_string_equal(c->azure_key, "SECRETkey+/==");
    assert_string_equal(c->azure_sas, "sv=2022&sig=SECRET%3D");
    assert_string_equal(c->gs_endpoint, "https://gs");
    assert_string_equal(c->gs_access_key, "SECRETg");
    assert_string_equal(c->gs_secret_key, "SECRETs");
    assert_string_equal(c->gs_token, "SECRETtok");
    assert_int_equal(c->n_logins, 2);
    assert_string_equal(c->login[0].origin, "https://host");
    assert_string_equal(c->login[0].user, "me");
    assert_string_equal(c->login[0].password, "SECRET word");
    assert_string_equal(c->login[1].origin, "http://[::1]:8080");
    assert_null(c->login[1].user);
    assert_string_equal(c->login[1].password, "SECRETb");
    assert_string_equal(c->cache_dir, "/var/cache/qchain");
    assert_int_equal(c->cache_bytes, 512 << 20);
    assert_int_equal(c->revalidate_s, 60);
    assert_int_equal(c->n_regions, 1);
    assert_string_equal(c->region[0].prefix, "s3://Bucket/a/");
    assert_string_equal(c->region[0].url, "https://near/cache");
    assert_int_equal(c->n_replicas, 2);
    assert_string_equal(c->replica[0].prefix, "https://one/x/");
    assert_string_equal(c->replica[0].url, "gs://two/");
    assert_string_equal(c->replica[1].url, "az://three/y/");
}

static void every_rule(void **unused)
{
    qchain_remote *c = qc_conf_new(), *copy;

    (void)unused;
    assert_int_equal(qc_conf_read(c, everything, "here", &err), 0);
    is_everything(c);
    copy = qc_conf_copy(c);
    assert_int_equal(qc_conf_read(c, "s3-region other\nbasic https://host you other", "here", &err), 0);
    assert_int_equal(c->n_logins, 2);
    assert_string_equal(c->login[0].user, "you"); /* what is said last holds */
    assert_string_equal(c->s3_region, "other");
    qc_conf_free(c);
    is_everything(copy);
    qc_conf_free(copy);
}

/* Each with a part of its message. */
static void wrong_rules(void **unused)
{
    static const struct {
        const char *text, *message;
    } wrong[] = {
        {"connections 0", "takes a number from 1 to"},
        {"connections 5x", "takes a number"},
        {"connections -1", "takes a number"},
        {"connections 99999999999999999999", "takes a number"},
        {"connections", "takes 1 value"},
        {"connections 1 2", "takes 1 value"},
        {"connections 1 2 3 4 5 6 7", "takes 1 value"},
        {"block-size 3M", "power of two"},
        {"block-size 32K", "power of two"},
        {"block-size 32M", "power of two"},
        {"block-size 16777216T", "power of two"},
        {"block-size M", "power of two"},
        {"cache-size 9999999999T", "at least 1M"},
        {"cache-size 1", "at least 1M"},
        {"connect-timeout 0", "seconds"},
        {"connect-timeout 1.2345", "seconds"},
        {"connect-timeout 1.", "seconds"},
        {"connect-timeout .5", "seconds"},
        {"connect-timeout 3600.001", "seconds"},
        {"hedge yes", "on or off"},
        {"verify often", "background, first-read or strict"},
        {"s3-style host", "path or virtual"},
        {"s3-region a:b", "letters"},
        {"s3-region \"\"", "empty"},
        {"azure-key SECRET!", "base64"},
        {"azure-sas SECRET", "shared access signature"},
        {"gs-token \"SECRET b\"", "blanks"},
        {"s3-endpoint minio:9000", "http://"},
        {"s3-endpoint http://", "host"},
        {"s3-endpoint http://u:SECRET@h", "user name"},
        {"s3-endpoint http://h?SECRET", "query"},
        {"basic https://h/dir u SECRET", "more than scheme"},
        {"basic https://h:0 u SECRET", "port"},
        {"basic https://h:65536 u SECRET", "port"},
        {"basic https://h u:SECRET p", "':'"},
        {"basic s3://bucket u SECRET", "http://"},
        {"basic https://h SECRET", "takes 3 values"},
        {"bearer https://h \"SECRET x\"", "blanks"},
        {"bearer https://h \"\"", "empty"},
        {"region file:///x s3://b", "s3://"},
        {"replica s3:// s3://b", "bucket"},
        {"cache-dir ~/x", "whole path"},
        {"proxy proxy:3128", "http://proxy:3128"},
        {"proxy socks4a://", "http://proxy:3128"},
        {"s3-secret-kye SECRET", "'s3-secret-kye' is not a rule"},
        {"s3-secret-key=SECRET", "stands a blank"},
        {"SECRETabcdefghijklm", "does not begin with a rule's name"},
        {"abcSECRET", "does not begin with a rule's name"},
        {"abcdefghijklmnopqrstuvwxyz", "does not begin with a rule's name"},
        {"s3-secret-key \"SECRET", "double quote"},
        {"s3-secret-key \"SECRET\"x", "double quote"},
        {"s3-secret-key SECRET\x01", "control character"},
        {"gs-token SECRET\rX", "control character"},
    };

    (void)unused;
    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
        qchain_remote *c = qc_conf_new();
        char text[128];

        snprintf(text, sizeof(text), "# one\nhedge on\n%s\nhedge on", wrong[i].text);
        qc_error_init(&err);
        if (qc_conf_read(c, text, "there", &err) != QCHAIN_E_INVAL)
            fail_msg("'%s' was taken", wrong[i].text);
        if (strncmp(err.text, "there, line 3: ", 15) != 0 || !strstr(err.text, wrong[i].message) ||
            strstr(err.text, "SECRET"))
            fail_msg("'%s': %s", wrong[i].text, err.text);
        qc_conf_free(c);
        if (strstr(wrong[i].text, "://u:") || strstr(wrong[i].text, "h?"))
            leaks = 0; /* secrets do not belong there, and are not looked for */
    }
}

static void long_values(void **unused)
{
    qchain_remote *c = qc_conf_new();
    char *text = calloc(1, 20001);

    (void)unused;
    memset(text, 'a', 20000);
    memcpy(text, "gs-token ", 9);
    assert_int_equal(qc_conf_read(c, text, "x", &err), QCHAIN_E_INVAL);
    text[9 + 16384] = '\0';
    assert_int_equal(qc_conf_read(c, text, "x", &err), 0);
    assert_int_equal(strlen(c->gs_token), 16384);
    free(text);
    for (int i = 0; i < 256; i++) {
        char rule[64];

        snprintf(rule, sizeof(rule), "replica s3://b%d s3://c", i);
        assert_int_equal(qc_conf_read(c, rule, "x", &err), 0);
    }
    assert_int_equal(qc_conf_read(c, "replica s3://b s3://c", "x", &err), QCHAIN_E_INVAL);
    assert_int_equal(c->n_replicas, 256);
    qc_conf_free(c);
}

static void free_data(void *data)
{
    ++*(int *)data;
}

static int no_credentials(void *data, const char *where, int renew, qchain_credentials *out)
{
    (void)data;
    (void)where;
    (void)renew;
    (void)out;
    return 1;
}

static void the_last_copy_frees_the_callbacks_data(void **unused)
{
    qchain_remote *c = qc_conf_new(), *copy;
    int first = 0, second = 0;

    (void)unused;
    assert_int_equal(qc_conf_set_credentials(c, no_credentials, &first, free_data), 0);
    copy = qc_conf_copy(c);
    assert_ptr_equal(copy->credentials, no_credentials);
    assert_int_equal(qc_conf_set_credentials(c, NULL, &second, free_data), 0);
    assert_null(c->credentials);
    assert_int_equal(first, 0);
    qc_conf_free(c);
    assert_int_equal(first, 0);
    assert_int_equal(second, 1);
    qc_conf_free(copy);
    assert_int_equal(first, 1);
}

/* Reading, copying and the callback, with memory that runs out after n blocks. */
static bool all_with(long n)
{
    qchain_remote *c, *copy = NULL;
    int freed = 0, ret = QCHAIN_E_NOMEM;

    allowed = n;
    c = qc_conf_new();
    if (c)
        ret = qc_conf_read(c, everything, "x", &err);
    if (ret == 0)
        ret = qc_conf_set_credentials(c, no_credentials, &freed, free_data);
    if (ret == 0)
        copy = qc_conf_copy(c);
    if (ret != 0 || !copy)
        assert_int_equal(allowed, 0); /* that is why */
    if (ret != 0)
        assert_int_equal(ret, QCHAIN_E_NOMEM);
    if (copy)
        is_everything(copy);
    qc_conf_free(c);
    qc_conf_free(copy);
    assert_int_equal(freed, ret == 0);
    assert_int_equal(live, 0);
    allowed = -1;
    return copy != NULL;
}

static void memory_runs_out(void **unused)
{
    long n = 0;

    (void)unused;
    while (!all_with(n))
        n++;
    assert_true(n > 60);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(defaults),
        TEST(every_rule),
        TEST(wrong_rules),
        TEST(long_values),
        TEST(the_last_copy_frees_the_callbacks_data),
        TEST(memory_runs_out),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
