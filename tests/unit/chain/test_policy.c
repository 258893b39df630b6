/* SPDX-License-Identifier: MIT */
/* Rules of what images may refer to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "chain/policy.h"
#include "image_tools.h"
#include "mem_layers.h"
#include "util/error.h"

static void every_rule(void **unused)
{
    qchain_policy *p = qc_policy_new(), *copy;
    qchain_error err;

    (void)unused;
    qc_error_init(&err);
    assert_int_equal(qc_policy_read(p,
                                    "# a comment\n"
                                    "\n"
                                    "  allow-path /tmp # rest of the line\r\n"
                                    "allow-path\t /usr/../usr/bin/.\n"
                                    "backing-format qcow2\n"
                                    "max-layers 65535\n"
                                    "allow data-file\n"
                                    "allow-url HTTPS://H:443/%61 # rest\n"
                                    "allow-url s3://bucket\n"
                                    "allow   block-device  ",
                                    "here", &err),
                     0);
    assert_int_equal(p->n_roots, 2);
    assert_string_equal(p->root[0], "/tmp");
    assert_int_equal(p->n_urls, 2);
    assert_string_equal(p->url[0], "https://h/a/");
    assert_string_equal(p->url[1], "s3://bucket/");
    assert_string_equal(p->root[1], "/usr/bin");
    assert_string_equal(p->backing_format, "qcow2");
    assert_int_equal(p->max_layers, 65535);
    assert_int_equal(p->flags, QCHAIN_POLICY_DATA_FILE | QCHAIN_POLICY_BLOCK_DEVICE);
    assert_int_equal(qc_policy_read(p, "trust\nbacking-format raw", "here", &err), 0);
    assert_true(p->flags & QCHAIN_POLICY_TRUST);
    copy = qc_policy_copy(p);
    qc_policy_free(p);
    assert_int_equal(copy->n_roots, 2);
    assert_string_equal(copy->root[1], "/usr/bin");
    assert_string_equal(copy->backing_format, "raw");
    assert_int_equal(copy->max_layers, 65535);
    assert_int_equal(qc_policy_set_format(copy, NULL, &err), 0);
    assert_null(copy->backing_format);
    qc_policy_free(copy);
    qc_policy_free(NULL);
}

static void wrong_rules_are_told_with_their_line(void **unused)
{
    static const struct {
        const char *text, *message;
        int code;
    } bad[] = {
        {"nonsense", "here, line 1: 'nonsense' is not a rule", QCHAIN_E_INVAL},
        {"\n\n# x\ntrust me", "here, line 4: 'trust ...' is not a rule", QCHAIN_E_INVAL},
        {"allow", "here, line 1: 'allow' is not a rule", QCHAIN_E_INVAL},
        {"allow everything", "here, line 1: 'allow ...' is not a rule", QCHAIN_E_INVAL},
        {"allow data-file x", "here, line 1: 'allow ...' is not a rule", QCHAIN_E_INVAL},
        {"allow-path", "here, line 1: 'allow-path' is not a rule", QCHAIN_E_INVAL},
        {"allow-path # /tmp", "here, line 1: 'allow-path' is not a rule", QCHAIN_E_INVAL},
        {"trust\nallow-path /no/such/dir", "here, line 2: allowed path '/no/such/dir': ",
         QCHAIN_E_NOTFOUND},
        {"allow-url", "here, line 1: 'allow-url' is not a rule", QCHAIN_E_INVAL},
        {"allow-url /x", "here, line 1: allowed URL '/x': does not begin with http://", QCHAIN_E_INVAL},
        {"allow-url nbd://h/", "here, line 1: allowed URL 'nbd://h/': does not", QCHAIN_E_INVAL},
        {"allow-url http:/h/", "here, line 1: allowed URL 'http:/h/': does not", QCHAIN_E_INVAL},
        {"allow-url https://", "here, line 1: allowed URL 'https://': ", QCHAIN_E_INVAL},
        {"allow-url https://u:p@h/a", "here, line 1: allowed URL 'https://h/a': has a user",
         QCHAIN_E_INVAL},
        {"allow-url https://h/a?b", "here, line 1: allowed URL 'https://h/a': has a user",
         QCHAIN_E_INVAL},
        {"allow-url https://h/a/%2e./", "here, line 1: allowed URL 'https://h/a/%2e./': its path",
         QCHAIN_E_INVAL},
        {"allow-url s3://b/../a", "here, line 1: allowed URL 's3://b/../a': its path", QCHAIN_E_INVAL},
        {"allow-url https://h/a b", "here, line 1: allowed URL 'https://h/a b': ", QCHAIN_E_INVAL},
        {"backing-format", "here, line 1: 'backing-format' is not a rule", QCHAIN_E_INVAL},
        {"backing-format vmdk", "here, line 1: backing format 'vmdk' is not known",
         QCHAIN_E_UNSUPPORTED},
        {"max-layers", "here, line 1: max-layers takes a number", QCHAIN_E_INVAL},
        {"max-layers 0", "here, line 1: max-layers takes a number", QCHAIN_E_INVAL},
        {"max-layers -1", "here, line 1: max-layers takes a number", QCHAIN_E_INVAL},
        {"max-layers 65536", "here, line 1: max-layers takes a number", QCHAIN_E_INVAL},
        {"max-layers 99999999999999999999", "here, line 1: max-layers takes", QCHAIN_E_INVAL},
        {"max-layers 5x", "here, line 1: max-layers takes a number", QCHAIN_E_INVAL},
        {"max-layers +5", "here, line 1: max-layers takes a number", QCHAIN_E_INVAL},
        {"a\x01""b", "here, line 1: 'a\\x01b' is not a rule", QCHAIN_E_INVAL},
    };

    (void)unused;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        qchain_policy *p = qc_policy_new();
        qchain_error err;

        qc_error_init(&err);
        assert_int_equal(qc_policy_read(p, bad[i].text, "here", &err), bad[i].code);
        if (strncmp(err.text, bad[i].message, strlen(bad[i].message)) != 0)
            fail_msg("%s: %s", bad[i].text, err.text);
        assert_int_equal(err.code, bad[i].code);
        assert_int_equal(qc_policy_read(p, bad[i].text, "here", NULL), bad[i].code);
        qc_policy_free(p);
    }
}

static void beneath(void **unused)
{
    static const struct {
        const char *path, *dir;
        bool        is;
    } t[] = {
        {"/a/b", "/a", true},   {"/a", "/a", true},    {"/a/b", "/a/", true},
        {"/a/b", "/a//", true}, {"/ab", "/a", false},  {"/ab", "/a/", false},
        {"/a", "/a/b", false},  {"/", "/a", false},    {"/a", "/", true},
        {"/", "/", true},       {"a", "/", false},     {"/x/a/b", "/a", false},
        {"a/b", "/a", false},   {"/a/../b", "/a", true}, /* real paths only: see the caller */
    };
    qchain_policy *p = qc_policy_new();

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++)
        assert_int_equal(qc_path_beneath(t[i].path, t[i].dir), t[i].is);
    assert_false(qc_policy_beneath_roots(p, "/tmp"));
    assert_int_equal(qc_policy_add_root(p, "/usr", NULL), 0);
    assert_int_equal(qc_policy_add_root(p, "/tmp", NULL), 0);
    assert_true(qc_policy_beneath_roots(p, "/tmp/x"));
    assert_true(qc_policy_beneath_roots(p, "/usr"));
    assert_false(qc_policy_beneath_roots(p, "/etc/x"));
    qc_policy_free(p);
}

static void beneath_urls(void **unused)
{
    static const struct {
        const char *prefix, *url;
        bool        is;
    } t[] = {
        {"https://h/a/", "https://h/a/b", true},       {"https://h/a", "https://h/a/b", true},
        {"https://h/a/", "https://h/a/", true},        {"https://h/a/", "https://h/a", false},
        {"https://h/a/", "https://h/ab", false},       {"https://h/a/", "https://h/ab/c", false},
        {"https://h/a/", "https://h/a/../b", false},   {"https://h/a/", "https://h/a/./b", false},
        {"https://h/a/", "https://h/a/..", false},     {"https://h/a/", "https://h/a/b/..", false},
        {"https://h/a/", "https://h/a/%2e%2e/b", false},
        {"https://h/a/", "https://h/a/.%2E/b", false}, {"https://h/a/", "https://h/a/%2e", false},
        {"https://h/a/", "https://h/a/..%2fb", false}, {"https://h/a/", "https://h/a/..%5cb", false},
        {"https://h/a/", "https://h/a/..\\b", false}, {"https://h/a/", "https://h/a/..;x/b", false},
        {"https://h/a/", "https://h/a/..%00/b", false},
        {"https://h/a/", "https://h/a/c%2F..%2F..%2Fb", false},
        {"https://h/a/", "https://h/a/..b", true},     {"https://h/a/", "https://h/a/b..", true},
        {"https://h/a/", "https://h/a/.../b", true},   {"https://h/a/", "https://h/a/.b/c", true},
        {"https://h/a/", "https://h/a/b?c=/../d", true},
        {"https://h/a/", "https://h/a/b#/../d", true}, {"https://h/a/", "https://h/a//b", true},
        {"https://h/a/", "https://h//a/b", false},
        {"https://h/a/", "http://h/a/b", false},       {"https://h/a/", "https://g/a/b", false},
        {"https://h/a/", "https://h:8443/a/b", false}, {"https://h/a/", "https://h.x/a/b", false},
        {"https://h/a/", "https://h./a/b", false},     {"https://h/a/", "https://xh/a/b", false},
        {"https://h/a/", "https://H:443/a/b", true},   {"HTTPS://H:443/a", "https://h/a/b", true},
        {"http://h:80/a", "http://h/a/b", true},       {"http://h:8080/a", "http://h/a/b", false},
        {"https://h", "https://h/a", true},            {"https://h/", "https://h", true},
        {"https://h/", "https://hh/", false},          {"https://h/", "https://h@evil/a", false},
        {"https://h/", "https://h:80/", false},        {"https://h/", "https://evil/https://h/", false},
        {"https://[::1]/a", "https://[0:0::1]:443/a/b", true},
        {"https://xn--e1afmkfd/a", "https://XN--E1AFMKFD/a/b", true},
        {"https://h/%61b/", "https://h/ab/c", true},   {"https://h/ab/", "https://h/%61%62/c", true},
        {"https://h/a/", "https://h/A/b", false},      {"https://h/a%2fb/", "https://h/a%2Fb/c", true},
        {"https://h/a%2Fb/", "https://h/a/b/c", false},
        {"https://h/a/b/", "https://h/a%2Fb/c", false},
        {"https://h/\xc3\xa4", "https://h/%c3%a4/b", true},
        {"https://h/a!", "https://h/a!/b", true},      {"https://h/a%21", "https://h/a!/b", false},
        {"https://h/a%", "https://h/a%25/b", true},    {"https://h/a%zz", "https://h/a%25zz/b", true},
        {"https://h/a/", "/a/b", false},               {"https://h/a/", "a", false},
        {"https://h/a/", "https:/h/a/b", false},       {"https://h/a/", "", false},
        {"https://h/a/", "https://h/a/b\n", false},    {"https://h/a/", "//h/a/b", false},
        {"s3://b/p", "s3://b/p/k", true},              {"s3://b", "s3://b/p/k", true},
        {"s3://b", "s3://bb/k", false},                {"s3://b", "s3://b/../c", false},
        {"s3://b", "s3://b/%2e%2e/c", true},           {"s3://b/p", "s3://B/p/k", false},
        {"s3://b/p", "s3://b/%70/k", false},           {"s3://b/p", "gs://b/p/k", false},
        {"s3://b/p?q", "s3://b/p?q/k", true},          {"s3://b/p?q", "s3://b/p/k", false},
        {"s3://b/p", "S3://b/p/k", true},              {"s3://b/p", "s3://b/p/..;x", true},
        {"az://c/p/", "az://c/p/k", true},             {"az://c/p/", "az://c/q/k", false},
    };

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        qchain_policy *p = qc_policy_new(), *copy;
        qchain_error err;

        qc_error_init(&err);
        assert_int_equal(qc_policy_add_url(p, "https://other/x", NULL), 0);
        assert_false(qc_policy_beneath_urls(p, t[i].url));
        if (qc_policy_add_url(p, t[i].prefix, &err) != 0)
            fail_msg("%s: %s", t[i].prefix, err.text);
        copy = qc_policy_copy(p);
        qc_policy_free(p);
        if (qc_policy_beneath_urls(copy, t[i].url) != t[i].is)
            fail_msg("%s beneath %s?", t[i].url, t[i].prefix);
        qc_policy_free(copy);
    }
}

/* Long names, and random ones: a prefix of another place is never allowed. */
static void random_urls_do_no_harm(void **unused)
{
    static const char *const piece[] = {"/", ".", "..", "%2e", "%2F", "%", "a", "b", "@", ":", "\\",
                                        ";", "?", "#", "h", "https://", "\xff", "%00", "%5c"};
    uint64_t seed = mem_seed(10);
    qchain_policy *p = qc_policy_new();
    char *text = calloc(1, 20001), *exact;
    unsigned allowed = 0;

    (void)unused;
    assert_int_equal(qc_policy_add_url(p, "https://h/a/", NULL), 0);
    memcpy(memset(text, 'a', 20000), "https://h/a/", 12);
    assert_false(qc_policy_beneath_urls(p, text));
    assert_int_equal(qc_policy_add_url(p, text, NULL), QCHAIN_E_INVAL);
    for (int round = 0; round < 50000; round++) {
        strcpy(text, round % 3 ? "https://h/a/" : "https://h");
        for (uint64_t n = random_next(&seed) % 12; n > 0; n--)
            strcat(text, piece[random_next(&seed) % (sizeof(piece) / sizeof(*piece))]);
        exact = strdup(text);
        if (qc_policy_beneath_urls(p, exact)) {
            allowed++;
            exact[strcspn(exact, "?#")] = '\0';
            assert_null(strstr(exact, "/../"));
            assert_null(strstr(exact, "/%2e./"));
            assert_true(strncmp(exact, "https://h/", 10) == 0 ||
                        strncmp(exact, "https://h:/", 11) == 0);
        }
        free(exact);
    }
    assert_true(allowed > 1000);
    free(text);
    qc_policy_free(p);
}

/* A root is its real path: a link to elsewhere allows elsewhere. */
static void roots_are_real_paths(void **unused)
{
    char dir[] = "/tmp/qc-policy-XXXXXX", link[64], *real;
    qchain_policy *p = qc_policy_new();
    qchain_error err;

    (void)unused;
    qc_error_init(&err);
    assert_non_null(mkdtemp(dir));
    snprintf(link, sizeof(link), "%s/link", dir);
    assert_int_equal(symlink("/usr/bin", link), 0);
    real = realpath("/usr/bin", NULL);
    assert_int_equal(qc_policy_add_root(p, link, &err), 0);
    assert_string_equal(p->root[0], real);
    assert_int_equal(qc_policy_add_root(p, "", &err), QCHAIN_E_NOTFOUND);
    unlink(link);
    rmdir(dir);
    free(real);
    qc_policy_free(p);
}

static void random_texts_do_no_harm(void **unused)
{
    static const char *const word[] = {"allow-path ", "allow-url ", "https://h", "s3://", "trust", "allow ", "data-file", "max-layers ",
                                       "7", "\n", " ", "#", "\t", "backing-format ", "raw", "/", "\xff"};
    uint64_t seed = mem_seed(9);

    (void)unused;
    for (int round = 0; round < 5000; round++) {
        char text[400] = "", *exact;
        qchain_policy *p = qc_policy_new();
        qchain_error err;
        int ret;

        for (uint64_t n = random_next(&seed) % 20; n > 0; n--)
            strcat(text, word[random_next(&seed) % (sizeof(word) / sizeof(*word))]);
        exact = strdup(text);
        qc_error_init(&err);
        ret = qc_policy_read(p, exact, "t", &err);
        assert_int_equal(ret, err.code);
        free(exact);
        qc_policy_free(p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rule),
        cmocka_unit_test(wrong_rules_are_told_with_their_line),
        cmocka_unit_test(beneath),
        cmocka_unit_test(beneath_urls),
        cmocka_unit_test(random_urls_do_no_harm),
        cmocka_unit_test(roots_are_real_paths),
        cmocka_unit_test(random_texts_do_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
