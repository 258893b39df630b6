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
        {"d/e:f/top", "base", "d/e:f/base"},
    };

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        char *got = qc_name_resolve(t[i].from, t[i].name);

        assert_string_equal(got, t[i].want);
        qc_free(got);
    }
}

static void directories(void **unused)
{
    static const char *const t[][2] = {{"/a/b", "/a"}, {"/a", "/"}, {"a", "."}, {"a/b", "a"},
                                       {"", "."},      {"a/", "a"}, {"/", "/"}};

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
        bool        force_share, direct, no_backing;
    } t[] = {
        {"a.qcow2", "a.qcow2", NULL, 0, 0, 0},
        {"file:a:b", "a:b", NULL, 0, 0, 0},
        {"file:///d/x", "/d/x", NULL, 0, 0, 0},
        {"./json:x", "./json:x", NULL, 0, 0, 0},
        {"json:{\"file.filename\":\"x\"}", "x", NULL, 0, 0, 0},
        {"json:{\"filename\":\"x\",\"driver\":\"file\"}", "x", "raw", 0, 0, 0},
        {"json: { \"driver\" : \"qcow2\" , \"file\" : { \"driver\" : \"file\" , \"filename\" : "
         "\"/d/x\" } } ", "/d/x", "qcow2", 0, 0, 0},
        {"json:{\"driver\":\"raw\",\"file.driver\":\"host_device\",\"file.filename\":\"/dev/x\"}",
         "/dev/x", "raw", 0, 0, 0},
        {"json:{\"file.filename\":\"x\",\"force-share\":true,\"cache.direct\":\"on\","
         "\"backing\":null}", "x", NULL, 1, 1, 1},
        {"json:{\"file.filename\":\"x\",\"force-share\":false,\"backing\":\"\","
         "\"read-only\":true,\"file.cache.no-flush\":false,\"node-name\":\"n\"}", "x", NULL, 0, 0, 1},
        {"json:{\"file.filename\":\"a\\u00e4\\u20ac\\\"\\\\\\/\\t\"}",
         "a\xc3\xa4\xe2\x82\xac\"\\/\t", NULL, 0, 0, 0},
        {"json:{\"file.filename\":\"x\",\"file.filename\":\"y\"}", "y", NULL, 0, 0, 0},
        {"json:{\"file\":{\"filename\":\"on\",\"locking\":\"off\"}}", "on", NULL, 0, 0, 0},
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
        qc_name_finish(&n);
    }
}

static void bad_names(void **unused)
{
    static const char *const bad[] = {
        "", "file:", "file://", "nbd://x", "http://h/x", "fat:x",
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
        " ", "\n", "x", "/", "{\"file\":{\"filename\":\"x\"", "\xff", "\\u", "\"force-share\":"};
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(schemes),    cmocka_unit_test(resolving),
        cmocka_unit_test(directories), cmocka_unit_test(good_names),
        cmocka_unit_test(bad_names),  cmocka_unit_test(long_strings_are_refused),
        cmocka_unit_test(random_names_do_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
