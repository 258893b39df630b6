/* SPDX-License-Identifier: MIT */
/* URLs taken apart and put together; what is refused; addresses nobody should be led to. */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include <cmocka.h>

#include "image_tools.h"
#include "net/url.h"
#include "util/alloc.h"
#include "util/error.h"

static void parts(void **unused)
{
    static const struct {
        const char *text, *scheme, *userinfo, *host;
        unsigned port;
        const char *path, *query, *whole;
    } t[] = {
        {"http://h", "http", NULL, "h", 80, "/", NULL, "http://h/"},
        {"HTTPS://Ex.Com:443/A%2fb?x=1&y#frag", "https", NULL, "ex.com", 443, "/A%2fb", "x=1&y",
         "https://ex.com/A%2fb?x=1&y"},
        {"http://u:p%40@h:8080?q", "http", "u:p%40", "h", 8080, "/", "q", "http://u:p%40@h:8080/?q"},
        {"http://h:/x", "http", NULL, "h", 80, "/x", NULL, "http://h/x"},
        {"http://h#f?x", "http", NULL, "h", 80, "/", NULL, "http://h/"},
        {"http://h/a?b?c#d?e", "http", NULL, "h", 80, "/a", "b?c", "http://h/a?b?c"},
        {"https://[2001:DB8:0:0::1]:99/", "https", NULL, "2001:db8::1", 99, "/", NULL,
         "https://[2001:db8::1]:99/"},
        {"http://h/%", "http", NULL, "h", 80, "/%", NULL, "http://h/%"},
        {"s3://Bucket.a/k e?y#1%20", "s3", NULL, "Bucket.a", 0, "/k e?y#1%20", NULL,
         "s3://Bucket.a/k e?y#1%20"},
        {"s3://b", "s3", NULL, "b", 0, "/", NULL, "s3://b/"},
        {"az://$root/x", "az", NULL, "$root", 0, "/x", NULL, "az://$root/x"},
        {"GS://b//x", "gs", NULL, "b", 0, "//x", NULL, "gs://b//x"},
        {"file:///etc/passwd", NULL, NULL, NULL, 0, NULL, NULL, NULL},
    };

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        struct qc_url u;
        char *text;
        int ret = qc_url_parse(&u, t[i].text, NULL);

        if (!t[i].scheme) {
            assert_int_equal(ret, QCHAIN_E_INVAL);
            continue;
        }
        assert_int_equal(ret, 0);
        assert_string_equal(u.scheme, t[i].scheme);
        assert_string_equal(u.host, t[i].host);
        assert_int_equal(u.port, t[i].port);
        assert_string_equal(u.path, t[i].path);
        assert_string_equal(u.query ? u.query : "-", t[i].query ? t[i].query : "-");
        assert_string_equal(u.userinfo ? u.userinfo : "-", t[i].userinfo ? t[i].userinfo : "-");
        text = qc_url_text(&u);
        assert_string_equal(text, t[i].whole);
        qc_free(text);
        qc_url_finish(&u);
        qc_url_finish(&u);
    }
}

static void refused(void **unused)
{
    static const char *const bad[] = {
        "", "x", "://h", "http:/h", "http:h", "//h/x", "/etc/x", "1http://h", "http://", "http:///x",
        "http://?x", "http://:80/", "http://h:0/", "http://h:65536/", "http://h:99999999999999999999/",
        "http://h:8x/", "http://h:-1/", "http://h: 80/", "http://a b/", "http://h/a b", "http://h/?a b",
        "http://h/\n", "http://h/\x7f", "http://h\t/", "http://u@v@h/", "http://h\\@x/", "http://h%00/",
        "http://[::1/", "http://[::1]x/", "http://[::g]/", "http://[fe80::1%eth0]/", "http://[]/",
        "http://[1.2.3.4]/", "http://h\xc3\xa9/", "http://h;x/", "s3://", "s3:///k", "s3://a@b/k",
        "s3://./k", "az://../k", "s3://a:b/k", "s3://b\xff/k", "s3://b/k\n", "s3://b?x", "az://a%20b/", "http://@/",
        "http://u:SECRET@/x", "http://u:SECRET@h:0/?SECRET", "s3://SECRET@b/x"};
    char *big = test_malloc(9000);
    struct qc_url u;
    qchain_error err;

    (void)unused;
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        qc_error_init(&err);
        if (qc_url_parse(&u, bad[i], &err) != QCHAIN_E_INVAL)
            fail_msg("'%s' was taken", bad[i]);
        assert_true(err.code == QCHAIN_E_INVAL && err.text[0]);
        assert_null(strstr(err.text, "SECRET"));
        assert_null(u.scheme);
    }
    memset(big, 'a', 9000);
    memcpy(big, "http://h/", 9);
    big[8193] = '\0';
    assert_int_equal(qc_url_parse(&u, big, &err), QCHAIN_E_INVAL);
    big[8192] = '\0';
    assert_int_equal(qc_url_parse(&u, big, &err), 0);
    qc_url_finish(&u);
    test_free(big);
}

static void shown(void **unused)
{
    static const char *const t[][2] = {
        {"http://u:p@h:1/a?b#c", "http://h:1/a"}, {"https://a@b@h/x", "https://h/x"},
        {"HTTP://h", "HTTP://h"}, {"/a/b?c#d@e", "/a/b?c#d@e"}, {"disk.qcow2", "disk.qcow2"},
        {"s3://b/k?x#y", "s3://b/k?x#y"}, {"s3://id:key@b/k", "s3://b/k"},
        {"s3://b/k?X-Amz-Signature=0", "s3://b/k"}, {"ftp://u:p@h/x?y", "ftp://h/x"},
        {"http://h\\u:p@x/", "http://x/"}, {"http://u:p?x#@h/", "http://h/"},
        {"http://u:p/q@h/x", "http://h/x"}, {"http://h:1/a@b", "http://h:1/a@b"},
        {"http://h/u:p@x", "http://h/u:p@x"}, {"http://[::1]/u:p@x", "http://[::1]/u:p@x"}};

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        char *s = qc_url_shown(t[i][0]);

        assert_string_equal(s, t[i][1]);
        qc_free(s);
    }
}

static void origins(void **unused)
{
    static const struct {
        const char *a, *b, *origin;
        bool same;
    } t[] = {{"http://H/x", "http://h:80/y?z", "http://h", true},
             {"https://h/x", "http://h/x", "https://h", false},
             {"http://h:81/", "http://h/", "http://h:81", false},
             {"http://h./", "http://h/", "http://h.", false},
             {"http://u@h/", "http://h/", "http://h", true},
             {"https://[::1]/", "https://[0:0::1]:443/", "https://[::1]", true}};

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        struct qc_url a, b;
        char *origin;

        assert_int_equal(qc_url_parse(&a, t[i].a, NULL), 0);
        assert_int_equal(qc_url_parse(&b, t[i].b, NULL), 0);
        assert_int_equal(qc_url_same_origin(&a, &b), t[i].same);
        origin = qc_url_origin(&a);
        assert_string_equal(origin, t[i].origin);
        qc_free(origin);
        qc_url_finish(&a);
        qc_url_finish(&b);
    }
}

/* RFC 3986, 5.4, and what servers do besides. */
static void locations(void **unused)
{
    static const char *const t[][2] = {
        {"g", "http://a/b/c/g"}, {"./g", "http://a/b/c/g"}, {"g/", "http://a/b/c/g/"},
        {"/g", "http://a/g"}, {"//g", "http://g/"}, {"?y", "http://a/b/c/d;p?y"},
        {"g?y", "http://a/b/c/g?y"}, {"#s", "http://a/b/c/d;p?q"}, {"g#s", "http://a/b/c/g"},
        {";x", "http://a/b/c/;x"}, {"", "http://a/b/c/d;p?q"}, {".", "http://a/b/c/"},
        {"./", "http://a/b/c/"}, {"..", "http://a/b/"}, {"../", "http://a/b/"},
        {"../g", "http://a/b/g"}, {"../..", "http://a/"}, {"../../g", "http://a/g"},
        {"../../../../g", "http://a/g"}, {"/./g", "http://a/g"}, {"/../g", "http://a/g"},
        {"g.", "http://a/b/c/g."}, {"..g", "http://a/b/c/..g"}, {"./../g", "http://a/b/g"},
        {"g;x=1/../y", "http://a/b/c/y"}, {"g?y/../x", "http://a/b/c/g?y/../x"},
        {"%2e%2E/g", "http://a/b/g"}, {"...", "http://a/b/c/..."}, {"/a//b/../c", "http://a/a//c"},
        {" /x y ", "http://a/x%20y"}, {"/\xc3\xa9", "http://a/%C3%A9"},
        {"https://u:p@x:444/y", "https://x:444/y"}, {"//u@x/y", "http://x/y"},
        {"HTTP://X", "http://x/"}, {"file:///etc/passwd", NULL}, {"ftp://h/", NULL},
        {"s3://b/k", NULL}, {"http:g", NULL}, {"javascript:x", NULL}, {"//", NULL},
        {"http://h:0/", NULL}, {"/a\rb", NULL}, {"//h\\@x/", NULL}};
    struct qc_url base, u;
    qchain_error err;

    (void)unused;
    assert_int_equal(qc_url_parse(&base, "http://me:secret@a/b/c/d;p?q", NULL), 0);
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        int ret = qc_url_resolve(&u, &base, t[i][0], &err);
        char *text;

        assert_int_equal(ret, t[i][1] ? 0 : QCHAIN_E_INVAL);
        if (ret)
            continue;
        text = qc_url_text(&u);
        assert_string_equal(text, t[i][1]);
        qc_free(text);
        qc_url_finish(&u);
    }
    qc_url_finish(&base);
}

static void encoding(void **unused)
{
    static const struct {
        const char *in;
        unsigned flags;
        const char *out;
    } t[] = {{"aZ09-._~", 0, "aZ09-._~"}, {"a/b", 0, "a%2Fb"}, {"a/b", QC_URL_KEEP_SLASH, "a/b"},
             {"+ (\xff)", 0, "%2B%20%28%FF%29"}, {"%41%4%zz%", 0, "%2541%254%25zz%25"},
             {"%41%4%zz%", QC_URL_KEEP_ESCAPES, "%41%254%25zz%25"}, {"", 0, ""}};
    char *s;

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        s = qc_url_encode(t[i].in, strlen(t[i].in), t[i].flags);
        assert_string_equal(s, t[i].out);
        qc_free(s);
    }
    s = qc_url_encode("\0x", 2, 0);
    assert_string_equal(s, "%00x");
    qc_free(s);
    s = qc_url_decode("%41%4%zz%2f%", 12);
    assert_string_equal(s, "A%4%zz/%");
    qc_free(s);
    assert_null(qc_url_decode("a%00b", 5));
    s = qc_url_decode("%41", 2); /* the length counts */
    assert_string_equal(s, "%4");
    qc_free(s);
}

static void addresses(void **unused)
{
    static const char *const inside[] = {
        "0.0.0.0", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.1",
        "0x7f000001", "2130706433", "169.254.169.254", "172.16.0.0", "172.31.255.255", "192.168.3.4",
        "224.0.0.1", "255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "febf::1", "fec0::1",
        "fc00::1", "fdff::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:a00:1", "64:ff9b::169.254.169.254",
        "64:ff9b:1::808:808", "2002:7f00:1::", "2002:a9fe:a9fe::1", "::127.0.0.1", "::ffff:0:10.0.0.1"};
    static const char *const outside[] = {
        "1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255",
        "128.0.0.0", "169.253.0.1", "169.255.0.1", "172.15.255.255", "172.32.0.0", "192.167.0.1",
        "192.169.0.1", "223.255.255.255", "2600::1", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808::1",
        "fbff::1", "", "localhost", "example.com", "300.1.1.1", "::g", "127.0.0.1 ", "1.2.3.4.5"};
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct sockaddr_in in = {.sin_family = AF_INET};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};

    (void)unused;
    for (size_t i = 0; i < sizeof(inside) / sizeof(*inside); i++)
        if (!qc_address_text_is_private(inside[i]))
            fail_msg("%s was taken for public", inside[i]);
    for (size_t i = 0; i < sizeof(outside) / sizeof(*outside); i++)
        if (qc_address_text_is_private(outside[i]))
            fail_msg("%s was taken for private", outside[i]);
    assert_true(qc_address_is_private((struct sockaddr *)&un));
    inet_pton(AF_INET, "192.168.0.9", &in.sin_addr);
    assert_true(qc_address_is_private((struct sockaddr *)&in));
    inet_pton(AF_INET, "8.8.4.4", &in.sin_addr);
    assert_false(qc_address_is_private((struct sockaddr *)&in));
    inet_pton(AF_INET6, "fd00::2", &in6.sin6_addr);
    assert_true(qc_address_is_private((struct sockaddr *)&in6));
    inet_pton(AF_INET6, "2a00::2", &in6.sin6_addr);
    assert_false(qc_address_is_private((struct sockaddr *)&in6));
}

/* Any bytes: nothing breaks, and what was taken is the same when it is read again. */
static void noise(void **unused)
{
    static const char some[] = "http://s3:az@[]?#%/.2eE:1\\ab\x01\xff ";
    uint64_t seed = 20261127;

    (void)unused;
    print_message("seed %llu\n", (unsigned long long)seed);
    for (int round = 0; round < 60000; round++) {
        char text[64], *again, *shown_text;
        size_t n = random_next(&seed) % 40, from = 0;
        struct qc_url u, v;

        if (round % 4) {
            strcpy(text, round % 4 == 1 ? "http://" : round % 4 == 2 ? "s3://" : "http://h/");
            from = strlen(text);
        }
        for (size_t i = from; i < from + n; i++)
            text[i] = some[random_next(&seed) % (sizeof(some) - 1)];
        text[from + n] = '\0';
        shown_text = qc_url_shown(text);
        assert_non_null(shown_text);
        qc_free(shown_text);
        if (qc_url_parse(&u, text, NULL) != 0)
            continue;
        again = qc_url_text(&u);
        assert_int_equal(qc_url_parse(&v, again, NULL), 0);
        assert_true(qc_url_same_origin(&u, &v));
        assert_string_equal(u.path, v.path);
        qc_url_finish(&v);
        if (u.port && qc_url_resolve(&v, &u, text + n / 2, NULL) == 0) {
            assert_null(strstr(v.path, "/../"));
            assert_null(v.userinfo);
            qc_url_finish(&v);
        }
        qc_free(again);
        qc_url_finish(&u);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts),     cmocka_unit_test(refused),  cmocka_unit_test(shown),
        cmocka_unit_test(origins),   cmocka_unit_test(locations), cmocka_unit_test(encoding),
        cmocka_unit_test(addresses), cmocka_unit_test(noise),
    };

    return cmocka_run_group_tests_name("net/url", tests, NULL, NULL);
}
