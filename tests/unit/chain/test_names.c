/* SPDX-License-Identifier: MIT */
/* Names of layers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "chain/names.h"
#include "image_tools.h"
#include "mem_layers.h"
#include "util/alloc.h"
#include "util/error.h"

/* Parse a copy that ends with its memory, so that a checker sees reads beyond. */
static int parse(struct qc_name *n, const char *text, qchain_error *err)
{
    char *exact = strdup(text);
    int ret;

    qc_error_init(err);
    ret = qc_name_parse(n, exact, err);
    free(exact);
    return ret;
}

static void schemes(void **unused)
{
    (void)unused;
    assert_int_equal(qc_name_scheme("json:{}"), 4);
    assert_int_equal(qc_name_scheme("a+b-c.1:x"), 7);
    assert_int_equal(qc_name_scheme("http://x/y"), 4);
    assert_int_equal(qc_name_scheme("x"), 0);
    assert_int_equal(qc_name_scheme(""), 0);
    assert_int_equal(qc_name_scheme(":x"), 0);
    assert_int_equal(qc_name_scheme("1a:x"), 0);
    assert_int_equal(qc_name_scheme("a/b:c"), 0);
    assert_int_equal(qc_name_scheme("./a:b"), 0);
    assert_int_equal(qc_name_scheme("a b:c"), 0);
    assert_int_equal(qc_name_scheme("\xc3\xa4:c"), 0);
}

static void resolving(void **unused)
{
    static const struct {
        const char *from, *name, *want;
    } t[] = {
        {"/d/top", "base", "/d/base"},      {"/d/top", "../x/base", "/d/../x/base"},
        {"/d/top", "/abs", "/abs"},         {"top", "base", "base"},
        {"d/top", "base", "d/base"},        {"/top", "base", "/base"},
        {"d/top", "json:{}", "json:{}"},    {"d/top", "nbd://h/x", "nbd://h/x"},
        {NULL, "base", "base"},             {"d/top", "./a:b", "d/./a:b"},
        {"d//top", "base", "d//base"},      {"d/", "base", "d/base"},
        {"d/e:f/top", "base", "d/e:f/base"}, {"file:x", "http://h/y", "http://h/y"},
        {"s3:/top", "/x", "/x"},            {"http:/d/top", "base", "http:/d/base"},
    };

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        char *got = qc_name_resolve(t[i].from, t[i].name);

        assert_string_equal(got, t[i].want);
        qc_free(got);
    }
}

static void resolving_beside_urls(void **unused)
{
    static const struct {
        const char *from, *name, *want;
    } t[] = {
        {"https://h/d/top", "base", "https://h/d/base"},
        {"https://h/d/top?sig=a/b#c/d", "base", "https://h/d/base"},
        {"https://h/top", "base", "https://h/base"},
        {"https://h", "base", "https://h/base"},
        {"https://h?q/r", "base", "https://h/base"},
        {"HTTPS://H:443/d/top", "base", "https://h/d/base"},
        {"http://H:8080/d/", "base", "http://h:8080/d/base"},
        {"http://[::1]:81/d/top", "base", "http://[::1]:81/d/base"},
        {"https://u:p@h/d/top", "base", "https://u:p@h/d/base"},
        {"https://h/d/top", "e/../f/./base", "https://h/d/f/base"},
        {"https://h/d/e/top", "../base", "https://h/d/base"},
        {"https://h/d/e/top", "../../base", "https://h/base"},
        {"https://h/d/e/top", "../../../../base", "https://h/base"},
        {"https://h/d/e/top", "..", "https://h/d/"},
        {"https://h/d/e/top", ".", "https://h/d/e/"},
        {"https://h/d/e/top", "./", "https://h/d/e/"},
        {"https://h/d/e/top", "a/..", "https://h/d/e/"},
        {"https://h/d/e/top", "...", "https://h/d/e/..."},
        {"https://h/d/e/top", "..a/.b", "https://h/d/e/..a/.b"},
        {"https://h/d/../e/top", "base", "https://h/e/base"},
        {"https://h/d/top", "/etc/passwd", "https://h/etc/passwd"},
        {"https://h/d/top", "/../etc/passwd", "https://h/etc/passwd"},
        {"https://h/d/top", "//evil/x", "https://h//evil/x"},
        {"https://h/d/top", "a b?c#d", "https://h/d/a%20b%3Fc%23d"},
        {"https://h/d/top", "a%41%4", "https://h/d/a%41%254"},
        {"https://h/d/top", "a\\..\\b", "https://h/d/a%5C..%5Cb"},
        {"https://h/d/top", "\xc3\xa4\n", "https://h/d/%C3%A4%0A"},
        {"https://h/d/top", "%2e%2e/x", "https://h/d/%2e%2e/x"}, /* the gate refuses it */
        {"https://h/d/top", "https://evil/x", "https://evil/x"},
        {"https://h/d/top", "http:/x", "http:/x"},
        {"https://h/d/top", "json:{}", "json:{}"},
        {"https://h/d/top", "a:b", "a:b"}, /* a protocol, as QEMU has it */
        {"https://h/d/top", "./a:b", "https://h/d/a%3Ab"},
        {"s3://b/d/top", "base", "s3://b/d/base"},
        {"s3://b", "base", "s3://b/base"},
        {"s3://B/top", "a b?c#d%41", "s3://B/a b?c#d%41"},
        {"s3://b/d?x/top", "base", "s3://b/d?x/base"},
        {"s3://b/d/e/top", "../base", "s3://b/d/base"},
        {"s3://b/d/top", "../../../base", "s3://b/base"},
        {"s3://b/d//top", "base", "s3://b/d//base"},
        {"s3://b/d/../top", "base", "s3://b/d/../base"}, /* such keys there may be */
        {"s3://b/d/top", "/etc/passwd", "s3://b/etc/passwd"},
        {"az://c/d/top", "base", "az://c/d/base"},
        {"gs://b/d/top", "base", "gs://b/d/base"},
        {"nbd://h/d/top", "base", "nbd://h/d/base"},
        {"https:///d/top", "base", "https:///d/base"}, /* no URL: the gate refuses it */
    };

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        char *got = qc_name_resolve(t[i].from, t[i].name);

        assert_string_equal(got, t[i].want);
        qc_free(got);
    }
}

static void showing(void **unused)
{
    static const char *const t[][2] = {
        {"/a b", "/a b"},
        {"a\n?x#y", "a\\x0a?x#y"},
        {"https://u:secret@h/a?secret#secret", "https://h/a"},
        {"nbd://u:secret@h/a?secret", "nbd://h/a"},
        {"s3://b/k\x01", "s3://b/k\\x01"},
        {"json:{\"file.filename\":\"x\"}", "json:{\"file.filename\":\"x\"}"},
        {"json:{\"url\":\"https://u:secret@h/\"}", "json:{...}"},
        {"./a://b@c?d", "./a://b@c?d"},
    };
    struct qc_escaped e;

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        assert_string_equal(qc_name_shown(&e, t[i][0]), t[i][1]);
        assert_string_equal(e.text, t[i][1]);
    }
    assert_string_equal(qc_name_shown(&e, NULL), "");
}

static void directories(void **unused)
{
    static const char *const t[][2] = {
        {"/a/b", "/a"}, {"/a", "/"}, {"a", "."}, {"a/b", "a"}, {"", "."}, {"a/", "a"}, {"/", "/"},
        {"https://h/a/b", "https://h/a/"}, {"https://h/a/", "https://h/a/"},
        {"https://h/a", "https://h/"}, {"https://h", "https://h/"}, {"https://h?a/b", "https://h/"},
        {"https://h/a?b/c", "https://h/"}, {"https://h/a/b#c/d", "https://h/a/"},
        {"s3://b/a?b/c", "s3://b/a?b/"}, {"s3://b", "s3://b/"}, {"S3://b/", "S3://b/"},
        {"nbd://h/a/b", "nbd://h/a"}, {"./https://h/a", "./https://h"},
    };

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        char *got = qc_name_directory(t[i][0]);

        assert_string_equal(got, t[i][1]);
        qc_free(got);
    }
}

static void good_names(void **unused)
{
    static const struct {
        const char *name, *path, *format;
        bool        force_share, direct, no_backing, is_url;
    } t[] = {
        {"a.qcow2", "a.qcow2", NULL, 0, 0, 0, 0},
        {"file:a:b", "a:b", NULL, 0, 0, 0, 0},
        {"file:///d/x", "/d/x", NULL, 0, 0, 0, 0},
        {"./json:x", "./json:x", NULL, 0, 0, 0, 0},
        {"json:{\"file.filename\":\"x\"}", "x", NULL, 0, 0, 0, 0},
        {"json:{\"filename\":\"x\",\"driver\":\"file\"}", "x", "raw", 0, 0, 0, 0},
        {"json: { \"driver\" : \"qcow2\" , \"file\" : { \"driver\" : \"file\" , \"filename\" : "
         "\"/d/x\" } } ", "/d/x", "qcow2", 0, 0, 0, 0},
        {"json:{\"driver\":\"raw\",\"file.driver\":\"host_device\",\"file.filename\":\"/dev/x\"}",
         "/dev/x", "raw", 0, 0, 0, 0},
        {"json:{\"file.filename\":\"x\",\"force-share\":true,\"cache.direct\":\"on\","
         "\"backing\":null}", "x", NULL, 1, 1, 1, 0},
        {"json:{\"file.filename\":\"x\",\"force-share\":false,\"backing\":\"\","
         "\"read-only\":true,\"file.cache.no-flush\":false,\"node-name\":\"n\"}", "x", NULL, 0, 0, 1, 0},
        {"json:{\"file.filename\":\"a\\u00e4\\u20ac\\\"\\\\\\/\\t\"}",
         "a\xc3\xa4\xe2\x82\xac\"\\/\t", NULL, 0, 0, 0, 0},
        {"json:{\"file.filename\":\"x\",\"file.filename\":\"y\"}", "y", NULL, 0, 0, 0, 0},
        {"json:{\"file\":{\"filename\":\"on\",\"locking\":\"off\"}}", "on", NULL, 0, 0, 0, 0},
        {"http://h/x?y#z", "http://h/x?y#z", NULL, 0, 0, 0, 1},
        {"HTTPS://u:p@H:443", "HTTPS://u:p@H:443", NULL, 0, 0, 0, 1},
        {"s3://b/a b", "s3://b/a b", NULL, 0, 0, 0, 1},
        {"az://c/x", "az://c/x", NULL, 0, 0, 0, 1},
        {"gs://b/x", "gs://b/x", NULL, 0, 0, 0, 1},
        {"file:http://h/x", "./http://h/x", NULL, 0, 0, 0, 0},
        {"file://s3://b/x", "./s3://b/x", NULL, 0, 0, 0, 0},
        {"json:{\"driver\":\"https\",\"url\":\"https://h/x\"}", "https://h/x", "raw", 0, 0, 0, 1},
        {"json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"https\",\"url\":\"https:\\/\\/h/x?y\","
         "\"readahead\":131072,\"timeout\":5,\"sslverify\":true}}", "https://h/x?y", "qcow2", 0, 0,
         0, 1},
        {"json:{\"driver\":\"qcow2\",\"file.driver\":\"http\",\"file.url\":\"http://h/on\","
         "\"file.readahead\":\"128k\",\"file.sslverify\":\"on\"}", "http://h/on", "qcow2", 0, 0, 0,
         1},
        {"json:{\"file\":{\"driver\":\"http\",\"filename\":\"HTTP://h/x\"}}", "HTTP://h/x", NULL, 0,
         0, 0, 1},
        {"json:{\"file.filename\":\"s3://b/x\"}", "s3://b/x", NULL, 0, 0, 0, 1},
        {"json:{\"file.driver\":\"file\",\"file.filename\":\"http://h/x\"}", "./http://h/x", NULL,
         0, 0, 0, 0},
    };
    struct qc_name n;
    qchain_error err;

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        if (parse(&n, t[i].name, &err) != 0)
            fail_msg("%s: %s", t[i].name, err.text);
        assert_string_equal(n.path, t[i].path);
        if (t[i].format)
            assert_string_equal(n.format, t[i].format);
        else
            assert_null(n.format);
        assert_int_equal(n.force_share, t[i].force_share);
        assert_int_equal(n.direct, t[i].direct);
        assert_int_equal(n.no_backing, t[i].no_backing);
        assert_int_equal(n.is_url, t[i].is_url);
        qc_name_finish(&n);
    }
}

static void bad_names(void **unused)
{
    static const char *const bad[] = {
        "", "file:", "file://", "nbd://x", "ftp://h/x", "fat:x",
        "http:", "http:/x", "http:x", "s3:b/x", "http://", "http:///x", "https://h:0/x", "s3://",
        "https://h/a b", "https://a@b@c/", "s3://b/\n", "httpss://h/x",
        "json:{\"file.driver\":\"https\",\"file.url\":\"http://h/x\"}",
        "json:{\"file.driver\":\"https\",\"file.url\":\"https:/h/x\"}",
        "json:{\"file.driver\":\"https\",\"file.url\":\"\"}",
        "json:{\"file.driver\":\"https\"}", "json:{\"file.url\":\"https://h/x\"}",
        "json:{\"file.driver\":\"https\",\"file.filename\":\"x\"}",
        "json:{\"file.driver\":\"file\",\"file.url\":\"https://h/x\"}",
        "json:{\"file.driver\":\"ftp\",\"file.url\":\"ftp://h/x\"}",
        "json:{\"file.filename\":\"http:///x\"}", "json:{\"file.filename\":1}",
        "json:{\"file.filename\":\"x\",\"timeout\":5x}",
        "json:{\"file.filename\":\"x\",\"timeout\":-5}",
        "json:", "json:{", "json:{}", "json:}", "json:x", "json:[]", "json:{\"", "json:{\"a",
        "json:{\"a\"", "json:{\"a\":", "json:{\"a\":1}", "json:{\"a\" \"b\"}",
        "json:{\"file.filename\":\"x\"", "json:{\"file.filename\":\"x\"}}",
        "json:{\"file.filename\":\"x\"} y", "json:{\"file.filename\":\"\"}",
        "json:{\"file.filename\":\"\\", "json:{\"file.filename\":\"\\q\"}",
        "json:{\"file.filename\":\"\\u", "json:{\"file.filename\":\"\\u00",
        "json:{\"file.filename\":\"\\u0000\"}", "json:{\"file.filename\":\"\\ud83d\\udcbe\"}",
        "json:{\"file.filename\":\"\\u00g0\"}", "json:{\"file.filename\":true}",
        "json:{\"file.filename\":null}", "json:{\"file.filename\":\"x\",\"backing\":\"y\"}",
        "json:{\"driver\":\"nbd\",\"file.driver\":\"nbd\",\"file.filename\":\"x\"}",
        "json:{\"file.filename\":\"x\",\"unknown\":\"y\"}",
        "json:{\"file.filename\":\"x\",\"unknown\":\"on\"}",
        "json:{\"file.filename\":\"x\",\"force-share\":truex}",
        "json:{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{\"a\":{}}}}}}}",
    };
    struct qc_name n;
    qchain_error err;

    (void)unused;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        int ret = parse(&n, bad[i], &err);

        if (ret != QCHAIN_E_INVAL && ret != QCHAIN_E_UNSUPPORTED)
            fail_msg("%s: %d", bad[i], ret);
        assert_int_equal(err.code, ret);
        assert_null(n.path);
        assert_null(n.format);
        assert_int_not_equal(strlen(err.text), 0);
    }
}

/* Options of QEMU's curl driver with secrets: what to set instead is told, not the secret. */
static void logins_are_not_taken(void **unused)
{
    static const char *const t[][2] = {
        {"\"username\":\"secret\"", "basic ORIGIN USER PASSWORD"},
        {"\"username\":\"on\"", "basic ORIGIN USER PASSWORD"},
        {"\"password-secret\":\"secret\"", "basic ORIGIN USER PASSWORD"},
        {"\"cookie\":\"secret\"", "cookies are not sent"},
        {"\"cookie-secret\":\"secret\"", "cookies are not sent"},
        {"\"proxy-username\":\"secret\"", "proxy URL"},
        {"\"proxy-password-secret\":\"secret\"", "proxy URL"},
        {"\"sslverify\":false", "insecure on"},
        {"\"sslverify\":\"off\"", "insecure on"},
        {"\"cookie\":\"\\qsecret\"", "an escape is wrong at byte "},
        {"\"readahead\":secret", "means nothing here at byte "},
    };
    struct qc_name n;
    qchain_error err;
    char text[400];

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        snprintf(text, sizeof(text), "json:{\"file\":{\"driver\":\"https\",%s,\"url\":"
                 "\"https://u:secret@h/?secret\"}}", t[i][0]);
        assert_int_not_equal(parse(&n, text, &err), 0);
        if (!strstr(err.text, t[i][1]) || strstr(err.text, "\"secret") || strstr(err.text, "'secret"))
            fail_msg("%s: %s", t[i][0], err.text);
    }
    assert_int_not_equal(parse(&n, "nbd://u:secret@h/x", &err), 0);
    assert_null(strstr(err.text, "secret"));
    assert_int_not_equal(parse(&n, "https://u:secret@h:0/x?secret", &err), 0);
    assert_null(strstr(err.text, "secret"));
}

static void long_strings_are_refused(void **unused)
{
    char *text = malloc(40000), *at;
    struct qc_name n;
    qchain_error err;

    (void)unused;
    for (int len = 8000; len < 8400; len++) {
        at = text + sprintf(text, "json:{\"file.filename\":\"");
        memset(at, 'x', (size_t)len);
        strcpy(at + len, "\"}");
        if (parse(&n, text, &err) == 0)
            assert_int_equal(strlen(n.path), len);
        else
            assert_true(len > 8180);
        qc_name_finish(&n);
    }
    for (int len = 1; len < 400; len++) {
        sprintf(text, "json:{\"%0*d\":{\"%0*d\":\"x\"}}", len, 0, len, 0);
        assert_true(parse(&n, text, &err) < 0);
    }
    free(text);
}

/* Pieces of names in any order: refused or parsed, and never read beyond. */
static void random_names_do_no_harm(void **unused)
{
    static const char *const piece[] = {
        "json:", "{", "}", "\"", ":", ",", "\\", "\\u00e4", "file.filename", "\"file\"",
        "\"filename\"", "\"driver\":\"qcow2\"", "true", "false", "null", "\"backing\"", "on", "off",
        " ", "\n", "x", "/", "\"url\":\"http://h\"", "\"driver\":\"http\"", "\"timeout\":1",
        "s3://b/", "http", "://", "{\"file\":{\"filename\":\"x\"", "\xff", "\\u", "\"force-share\":"};
    uint64_t seed = mem_seed(11);
    unsigned good = 0;

    (void)unused;
    for (int round = 0; round < 100000; round++) {
        char text[1200] = "json:";
        struct qc_name n;
        qchain_error err;
        int ret;

        if (random_next(&seed) % 2)
            strcat(text, "{\"file\":{\"filename\":\"x\"}");
        for (uint64_t k = random_next(&seed) % 12; k > 0; k--)
            strcat(text, piece[random_next(&seed) % (sizeof(piece) / sizeof(*piece))]);
        ret = parse(&n, text, &err);
        assert_int_equal(ret, err.code);
        good += ret == 0;
        assert_true(ret != 0 || (n.path && *n.path));
        qc_name_finish(&n);
    }
    assert_true(good > 100);
}

/* Whatever an image behind a URL records, without a scheme it stays at its origin and, with
 * the dots gone, has a path. */
static void random_names_stay_at_the_origin(void **unused)
{
    static const char *const piece[] = {"/", ".", "..", "../", "a", "%2e", "%", "?", "#", "@", "\\",
                                        "//", "\n", " ", "\xff", "evil", ";"};
    uint64_t seed = mem_seed(12);

    (void)unused;
    for (int round = 0; round < 50000; round++) {
        const char *from = round % 2 ? "https://h/d/e/top?q" : "s3://h/d/e/top";
        char name[200] = "", *got;

        for (uint64_t k = random_next(&seed) % 12; k > 0; k--)
            strcat(name, piece[random_next(&seed) % (sizeof(piece) / sizeof(*piece))]);
        got = qc_name_resolve(from, name);
        assert_int_equal(strncmp(got, round % 2 ? "https://h/" : "s3://h/", round % 2 ? 10 : 7), 0);
        assert_null(strstr(got, "/../"));
        assert_null(strstr(got, "/./"));
        if (round % 2)
            assert_null(strpbrk(got, "?#\\\n "));
        qc_free(got);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schemes),    cmocka_unit_test(resolving),
        cmocka_unit_test(resolving_beside_urls), cmocka_unit_test(showing),
        cmocka_unit_test(logins_are_not_taken),
        cmocka_unit_test(directories), cmocka_unit_test(good_names),
        cmocka_unit_test(bad_names),  cmocka_unit_test(long_strings_are_refused),
        cmocka_unit_test(random_names_do_no_harm),
        cmocka_unit_test(random_names_stay_at_the_origin),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
