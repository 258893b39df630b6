/* SPDX-License-Identifier: MIT */
/* XML and JSON of servers: what is read of it, and that nothing in it does harm. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "image_tools.h"
#include "net/aws_json.h"
#include "net/s3_answer.h"

static void real_answers(void **unused)
{
    struct qc_s3_answer a;
    const char *s = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>\n <Code>NoSuchKey</Code>"
                    "<Message>The key &quot;a&amp;b&quot; is &lt;not&gt; here</Message><Key>k</Key>"
                    "<RequestId/><HostId x='>'>h</HostId></Error>";

    (void)unused;
    assert_true(qc_s3_answer_read(s, strlen(s), &a));
    assert_string_equal(a.code, "NoSuchKey");
    assert_string_equal(a.message, "The key \"a&b\" is <not> here");
    assert_string_equal(a.region, "");
    s = "<Error><Code>PermanentRedirect</Code><Endpoint>b.s3-eu-west-1.amazonaws.com</Endpoint>"
        "<Region> eu-west-1\n</Region></Error>";
    assert_true(qc_s3_answer_read(s, strlen(s), &a));
    assert_string_equal(a.region, "eu-west-1");
    assert_string_equal(a.endpoint, "b.s3-eu-west-1.amazonaws.com");
}

static void odd_answers(void **unused)
{
    static const struct {
        const char *xml, *code, *message;
    } t[] = {
        {"", NULL, NULL},
        {"<html><body>Code</body></html>", NULL, NULL},
        {"<Code>X</Code>", NULL, NULL},
        {"<Error/>", NULL, NULL},
        {"<Error><Message>m</Message></Error>", NULL, NULL},
        {"<!DOCTYPE x [<!ENTITY a \"b\">]><Error><Code>&a;</Code></Error>", NULL, NULL},
        {"<Error><Code>A B</Code></Error>", NULL, NULL},
        {"<Error><Code>A\x01</Code></Error>", NULL, NULL},
        {"<Error><Code>A\xff</Code></Error>", NULL, NULL},
        {"<Error><Code>X", NULL, NULL},
        {"<Error><Code>X</Code", "X", ""},
        {"<Error><Code>X</Code><Message>m", "X", ""},
        {"<Error><a><Code>no</Code></a><Code>Y</Code></Error>", "Y", ""},
        {"<Error><!-- <Code>no</Code> --><Code>Z</Code><Code>late</Code></Error>", "Z", ""},
        {"<Error></Error><Error><Code>no</Code></Error>", NULL, NULL},
        {"<Error><Code>X</Code><![CDATA[<Message>m</Message>]]></Error>", "X", ""},
        {"<Error><Code>X</Code><Message>&#65;&x;&</Message></Error>", "X", "&#65;&x;&"},
        {"<Error a=\"</Error>\"><Code>X</Code></Error>", "X", ""},
        {"<Error><Code>X</Code></></a></b></c><Message>m</Message>", "X", ""},
    };
    struct qc_s3_answer a;
    char big[2000];

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        bool ok = qc_s3_answer_read(t[i].xml, strlen(t[i].xml), &a);

        if (ok != (t[i].code != NULL))
            fail_msg("%s: %d", t[i].xml, ok);
        if (ok) {
            assert_string_equal(a.code, t[i].code);
            assert_string_equal(a.message, t[i].message);
        }
    }
    /* too long a code is none, too long a message is cut */
    snprintf(big, sizeof(big), "<Error><Code>%0100d</Code></Error>", 1);
    assert_false(qc_s3_answer_read(big, strlen(big), &a));
    snprintf(big, sizeof(big), "<Error><Code>X</Code><Message>%0900d</Message></Error>", 1);
    assert_true(qc_s3_answer_read(big, strlen(big), &a));
    assert_int_equal(strlen(a.message), sizeof(a.message) - 1);
}

/* Only the first 64 KiB count, and any number of tags is passed in one go. */
static void large_answers(void **unused)
{
    size_t n = 200000;
    char *s = test_malloc(n + 100);
    struct qc_s3_answer a;

    (void)unused;
    strcpy(s, "<Error>");
    memset(s + 7, ' ', n);
    strcpy(s + 60000, "<Code>A</Code>");
    s[60014] = ' ';
    assert_true(qc_s3_answer_read(s, n, &a));
    memset(s + 60000, ' ', 14);
    memcpy(s + 66000, "<Code>A</Code>", 14);
    assert_false(qc_s3_answer_read(s, n, &a));
    for (size_t i = 7; i + 3 < n; i += 3)
        memcpy(s + i, "<a>", 3);
    assert_false(qc_s3_answer_read(s, n, &a));
    test_free(s);
}

static void json_objects(void **unused)
{
    struct qc_json_field f[] = {{"A", NULL}, {"B", NULL}};
    static const char *const good[] = {
        "{}", " { } ", "{\"A\":\"x\"}", "{\"C\":1.5e3,\"D\":true,\"E\":null,\"B\":\"y\"}",
        "{\"A\":null}", "{\"A\":\"\\u0041\\\"\\\\\\/\\n\\ud83d\\ude00\"}"};
    static const char *const bad[] = {
        "", "x", "[]", "{", "{\"A\"}", "{\"A\":}", "{\"A\":\"x}", "{\"A\":\"x\",}", "{\"A\":\"x\"} x",
        "{\"A\":{}}", "{\"A\":[]}", "{A:\"x\"}", "{\"A\":\"\\u0000\"}", "{\"A\":\"\\ud83d\"}",
        "{\"A\":\"\\ude00\"}", "{\"A\":\"\\ud83d\\u0041\"}", "{\"A\":\"\\x\"}", "{\"A\":\"a\nb\"}",
        "{\"A\":\"x\",\"A\":\"y\"}", "{\"A\":\"\\u00", "{\"A\":\"\\", "{,}", "{\"A\":tru}"};

    (void)unused;
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
        assert_int_equal(qc_json_read(good[i], strlen(good[i]), f, 2), 0);
        if (i == 5)
            assert_string_equal(f[0].value, "A\"\\/\n\xf0\x9f\x98\x80");
        if (i == 3)
            assert_string_equal(f[1].value, "y");
        qc_json_finish(f, 2);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        if (qc_json_read(bad[i], strlen(bad[i]), f, 2) == 0)
            fail_msg("%s was taken", bad[i]);
        qc_json_finish(f, 2);
    }
}

static void times(void **unused)
{
    (void)unused;
    assert_int_equal(qc_json_time("2026-01-31T12:34:56Z"), 1769862896);
    assert_int_equal(qc_json_time("2026-01-31T12:34:56.789Z"), 1769862896);
    assert_int_equal(qc_json_time("2026-01-31T14:34:56+02:00"), 1769862896);
    assert_int_equal(qc_json_time("2026-01-31T11:34:56-0100"), 1769862896);
    assert_int_equal(qc_json_time("2026-01-31 12:34:56Z"), 0);
    assert_int_equal(qc_json_time("2026-13-31T12:34:56Z"), 0);
    assert_int_equal(qc_json_time("2026-01-31T12:34:56"), 0);
    assert_int_equal(qc_json_time("2026-01-31T12:34:56Zx"), 0);
    assert_int_equal(qc_json_time(""), 0);
}

/* Any bytes. */
static void noise(void **unused)
{
    static const char *const piece[] = {"<Error>", "<Code>", "</Code>", "<", ">", "/", "&amp;", "&",
                                        "<!--", "-->", "<?", "?>", "'", "\"", "x", "</", "\\u", "d83d",
                                        "{", "}", ":", ",", "\"A\"", "\\", " ", "<Region>"};
    uint64_t seed = 64206;
    struct qc_s3_answer a;
    struct qc_json_field f[] = {{"A", NULL}};

    (void)unused;
    print_message("seed %llu\n", (unsigned long long)seed);
    for (int round = 0; round < 40000; round++) {
        char text[300];
        char *exact;
        size_t n = 0;

        for (unsigned k = random_next(&seed) % 24; k; k--) {
            const char *p = piece[random_next(&seed) % (sizeof(piece) / sizeof(*piece))];

            memcpy(text + n, p, strlen(p));
            n += strlen(p);
        }
        exact = malloc(n ? n : 1); /* so that reading past its end is seen */
        memcpy(exact, text, n);
        qc_s3_answer_read(exact, n, &a);
        qc_json_read(exact, n, f, 1);
        qc_json_finish(f, 1);
        free(exact);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(real_answers), cmocka_unit_test(odd_answers),
        cmocka_unit_test(large_answers), cmocka_unit_test(json_objects),
        cmocka_unit_test(times), cmocka_unit_test(noise),
    };

    return cmocka_run_group_tests_name("net/s3_answer", tests, NULL, NULL);
}
