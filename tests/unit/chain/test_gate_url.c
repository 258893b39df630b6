/* SPDX-License-Identifier: MIT */
/* What images may refer to where URLs are in play: tables of a top, a reference and rules. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <cmocka.h>

#include "chain/gate.h"
#include "image_tools.h"
#include "mem_layers.h"
#include "util/alloc.h"
#include "util/error.h"

/* The library's memory, of which any piece can be refused. */
static long countdown;

static int refused(void)
{
    return countdown > 0 && --countdown == 0;
}

#define malloc(n) (refused() ? NULL : malloc(n))
#define calloc(n, size) (refused() ? NULL : calloc(n, size))
#define realloc(p, n) (refused() ? NULL : realloc(p, n))
#include "util/alloc.c"
#undef malloc
#undef calloc
#undef realloc

#define DIR_TOP "https://h/d/top?sig=secret"

static void gate_init(struct qc_gate *g, const char *top, const char *rules)
{
    qchain_error err;

    qc_error_init(&err);
    memset(g, 0, sizeof(*g));
    g->policy = qc_policy_new();
    if (rules && qc_policy_read(g->policy, rules, "rules", &err) != 0)
        fail_msg("%s: %s", rules, err.text);
    if (top && qc_gate_add_name(g, top, &err) != 0)
        fail_msg("%s: %s", top, err.text);
}

static int decide(struct qc_gate *g, const char *from, uint32_t kind, const char *name,
                  struct qc_target *t, qchain_error *err)
{
    char *exact = strdup(name); /* a checker sees reads beyond */
    struct qc_layer layer = {.name = (char *)from};
    int ret;

    qc_error_init(err);
    ret = qc_gate_decide(g, &layer, 0, kind, exact, "qcow2", t, err);
    assert_int_equal(ret, err->code);
    free(exact);
    return ret;
}

struct row {
    const char *top, *rules, *name;
    const char *path; /* what is opened; NULL: refused */
    const char *word; /* in the sentence, for refusals */
};

static void check_row(const struct row *r, const char *from)
{
    struct qc_gate g;
    struct qc_target t;
    qchain_error err;
    int ret;

    gate_init(&g, r->top, r->rules);
    ret = decide(&g, from, QCHAIN_REF_BACKING, r->name, &t, &err);
    if ((ret == 0) != (r->path != NULL))
        fail_msg("%s, %s: %s: %d %s", r->top, r->rules ? r->rules : "", r->name, ret, err.text);
    if (ret == 0) {
        assert_string_equal(t.path, r->path);
        assert_int_equal(t.is_url, qc_name_is_url(r->path));
        assert_false(t.vetted);
        assert_string_equal(t.format, "qcow2");
        if (t.is_url)
            assert_int_equal(qc_gate_check_url(&g, t.path, &err), 0);
    } else {
        assert_null(t.path);
        assert_false(t.is_url);
        if (!strstr(err.text, r->word) || strstr(err.text, "secret"))
            fail_msg("%s: %s: %s", r->top, r->name, err.text);
    }
    qc_target_finish(&t);
    qc_gate_finish(&g);
}

static void from_a_url(void **unused)
{
    static const struct row t[] = {
        /* beside it and beneath */
        {DIR_TOP, NULL, "base", "https://h/d/base", NULL},
        {DIR_TOP, NULL, "e/base", "https://h/d/e/base", NULL},
        {DIR_TOP, NULL, "./e/../base", "https://h/d/base", NULL},
        {DIR_TOP, NULL, "base?secret#x", "https://h/d/base%3Fsecret%23x", NULL},
        {DIR_TOP, NULL, "https://h/d/base", "https://h/d/base", NULL},
        {DIR_TOP, NULL, "https://h/d/base?sig=secret", "https://h/d/base?sig=secret", NULL},
        {DIR_TOP, NULL, "HTTPS://H:443/%64/base", "HTTPS://H:443/%64/base", NULL},
        {DIR_TOP, NULL, "/d/base", "https://h/d/base", NULL},
        {DIR_TOP, NULL, "./a:b", "https://h/d/a%3Ab", NULL},
        {"https://h/top", NULL, "../../base", "https://h/base", NULL},
        {"https://h/d/../e/top", NULL, "base", "https://h/e/base", NULL},
        {"s3://b/d/top", NULL, "base", "s3://b/d/base", NULL},
        {"s3://b/d/top", NULL, "a b?c", "s3://b/d/a b?c", NULL},
        {"s3://b/d/top", NULL, "s3://b/d/e/base", "s3://b/d/e/base", NULL},
        {"az://c/top", NULL, "/e/base", "az://c/e/base", NULL},
        {"gs://b/d/top", NULL, "e/base", "gs://b/d/e/base", NULL},
        /* elsewhere on the server */
        {DIR_TOP, NULL, "../base", NULL, "--allow-url URL (qchain_policy_allow_url)"},
        {DIR_TOP, NULL, "../dd/base", NULL, "--allow-url"},
        {DIR_TOP, NULL, "../../../../etc/passwd", NULL, "--allow-url"},
        {DIR_TOP, NULL, "/etc/passwd", NULL, "'https://h/etc/passwd' does not lie beneath"},
        {DIR_TOP, NULL, "//evil/x", NULL, "'https://h//evil/x' does not lie beneath"},
        {DIR_TOP, NULL, "https://h/dd/x", NULL, "--allow-url"},
        {DIR_TOP, NULL, "https://h/d", NULL, "--allow-url"},
        {DIR_TOP, NULL, "https://h/d/../x", NULL, "--allow-url"},
        {DIR_TOP, NULL, "https://h/d/%2e%2e/x", NULL, "--allow-url"},
        {DIR_TOP, NULL, "https://h/d/..%2fx", NULL, "--allow-url"},
        {DIR_TOP, NULL, "https://h/d/..\\x", NULL, "--allow-url"},
        {DIR_TOP, NULL, "%2e%2e/x", NULL, "--allow-url"},
        {DIR_TOP, NULL, "..%2Fx", NULL, "--allow-url"},
        {DIR_TOP, NULL, "..\\x", NULL, "--allow-url"},
        {"s3://b/d/top", NULL, "../base", NULL, "--allow-url"},
        {"s3://b/d/top", NULL, "/base", NULL, "--allow-url"},
        {"s3://b/d/top", NULL, "s3://b/d/../x", NULL, "--allow-url"},
        {"s3://b/d/top", NULL, "s3://other-bucket/..", NULL, "--allow-url"},
        {"s3://b/d/top", NULL, "s3://bb/d/x", NULL, "--allow-url"},
        {"s3://b/d/top", NULL, "gs://b/d/x", NULL, "--allow-url"},
        {"s3://b/d/top", NULL, "https://b/d/x", NULL, "--allow-url"},
        {"s3://b/d/../top", NULL, "base", NULL, "--allow-url"}, /* no prefix to compare with */
        /* another server */
        {DIR_TOP, NULL, "http://h/d/base", NULL, "--allow-url"},
        {"http://h/d/top", NULL, "https://h/d/base", NULL, "--allow-url"},
        {DIR_TOP, NULL, "https://h:8443/d/base", NULL, "--allow-url"},
        {DIR_TOP, NULL, "https://h./d/base", NULL, "--allow-url"},
        {DIR_TOP, NULL, "https://evil/d/base?secret", NULL, "'https://evil/d/base' does not"},
        {DIR_TOP, NULL, "https://secret@h/d/base", NULL, "users named by an image are not taken"},
        {DIR_TOP, NULL, "https://secret@evil/d/base", NULL, "users named by an image"},
        {DIR_TOP, NULL, "https://h\\@evil/d/base", NULL, "more than one '@'"},
        {DIR_TOP, NULL, "https://evil\\@h/d/base", NULL, "more than one '@'"},
        {DIR_TOP, NULL, "https://a@h@evil/d/base", NULL, "more than one '@'"},
        {DIR_TOP, NULL, "https://xn--h/d/base", NULL, "--allow-url"},
        {DIR_TOP, NULL, "https://h%00.evil/d/base", NULL, "characters"},
        {DIR_TOP, NULL, "https://\xd4\xbb/d/base", NULL, "characters"},
        {DIR_TOP, NULL, "https://h/d/a\nHost: evil", NULL, "control characters"},
        {"s3://b/d/top", NULL, "a\rb", NULL, "control characters"},
        {DIR_TOP, NULL, "https:///d/base", NULL, "no host"},
        {DIR_TOP, NULL, "https://h:0/d/base", NULL, "port"},
        /* what is no URL */
        {DIR_TOP, NULL, "http:/x", NULL, "--trust"},
        {DIR_TOP, NULL, "https:base", NULL, "--trust"},
        {DIR_TOP, NULL, "nbd://secret@h/d/base", NULL, "--trust"},
        {DIR_TOP, NULL, "ftp://h/d/base", NULL, "--trust"},
        {DIR_TOP, NULL, "a:b", NULL, "--trust"},
        {DIR_TOP, NULL, "file:/etc/passwd", NULL, "--trust"},
        {DIR_TOP, NULL, "file:///etc/passwd", NULL, "--trust"},
        {DIR_TOP, NULL, "file:base", NULL, "--trust"},
        {DIR_TOP, NULL, "json:{\"file.filename\":\"/etc/passwd\"}", NULL, "--trust"},
        {DIR_TOP, NULL, "json:{\"driver\":\"https\",\"url\":\"https://h/d/x?secret\"}", NULL, "--trust"},
    };

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++)
        check_row(&t[i], t[i].top);
}

static void by_rules(void **unused)
{
    static const struct row t[] = {
        {DIR_TOP, "allow-url https://h/", "../base", "https://h/base", NULL},
        {DIR_TOP, "allow-url https://h/e", "/e/base", "https://h/e/base", NULL},
        {DIR_TOP, "allow-url https://h/e", "/ee/base", NULL, "--allow-url"},
        {DIR_TOP, "allow-url https://h/", "//evil/x", "https://h//evil/x", NULL},
        {DIR_TOP, "allow-url http://h/d", "http://h/d/base", "http://h/d/base", NULL},
        {DIR_TOP, "allow-url s3://b/p/", "s3://b/p/k", "s3://b/p/k", NULL},
        {DIR_TOP, "allow-url s3://b/p/", "s3://b/q/k", NULL, "--allow-url"},
        {DIR_TOP, "allow-url https://g", "https://u:secret@g/base", NULL, "users named by an image"},
        {DIR_TOP, "allow-url https://h/", "https://h/d/../x", NULL, "--allow-url"},
        {"s3://b/d/../top", "allow-url s3://b", "base", NULL, "--allow-url"},
        /* no rule about files lets an image behind a URL lead to one */
        {DIR_TOP, "allow-path /", "file:/etc/passwd", NULL, "does not lead to local files"},
        {DIR_TOP, "allow-path /etc", "/etc/passwd", NULL, "--allow-url"},
        {DIR_TOP, "allow-path /etc\nallow-url https://h", "/etc/passwd", "https://h/etc/passwd", NULL},
        /* trust */
        {DIR_TOP, "trust", "https://g/x?y", "https://g/x?y", NULL},
        {DIR_TOP, "trust", "https://u@g/../x", "https://u@g/../x", NULL},
        {DIR_TOP, "trust", "../x", "https://h/x", NULL},
        {DIR_TOP, "trust", "/etc/passwd", "https://h/etc/passwd", NULL},
        {DIR_TOP, "trust", "file:/etc/passwd", "/etc/passwd", NULL},
        {DIR_TOP, "trust", "file:s3://b/x", "./s3://b/x", NULL},
        {DIR_TOP, "trust", "json:{\"driver\":\"qcow2\",\"file.driver\":\"https\",\"file.url\":"
         "\"https://g/x\"}", "https://g/x", NULL},
        {DIR_TOP, "trust", "json:{\"driver\":\"qcow2\",\"file.filename\":\"/x\"}", "/x", NULL},
        {DIR_TOP, "trust", "nbd://secret@g/x", NULL, "this library opens files and URLs"},
        {DIR_TOP, "trust", "ssh:x", NULL, "this library opens files and URLs"},
        {DIR_TOP, "trust", "https:/g/x", NULL, "this library opens files and URLs"},
        {DIR_TOP, "trust", "https://g/\n", NULL, "control characters"},
        {DIR_TOP, "trust", "https://g/a b", NULL, "blanks"},
        /* a user whom the caller named for the top's server goes along, and only there */
        {"https://u:secret@h/d/top", NULL, "base", "https://u:secret@h/d/base", NULL},
        {"https://u:secret@h/d/top", NULL, "https://h/d/base", "https://h/d/base", NULL},
        {"https://u:secret@h/d/top", NULL, "https://u:secret@h/x", NULL, "--allow-url"},
        {"https://u:secret@h/d/top", NULL, "https://v:secret@h/d/base", NULL, "users named"},
        {"https://u:secret@h/d/top", "allow-url https://g", "https://u:secret@g/d/base", NULL,
         "users named"},
        /* a local top */
        {"/tmp/top", NULL, "base", "/tmp/base", NULL},
        {"/tmp/top", NULL, "/tmp/x", "/tmp/x", NULL},
        {"/tmp/top", NULL, "file:/tmp/x", "/tmp/x", NULL},
        {"/tmp/top", NULL, "/etc/passwd", NULL, "--allow-path"},
        {"/tmp/top", NULL, "https://h/d/x", NULL, "beneath an allowed URL"},
        {"/tmp/top", NULL, "s3://b/x", NULL, "beneath an allowed URL"},
        {"/tmp/top", NULL, "http:/x", NULL, "--trust"},
        {"/tmp/top", "allow-path /", "https://h/d/x", NULL, "--allow-url"},
        {"/tmp/top", "allow-url https://h/d", "https://h/d/x", "https://h/d/x", NULL},
        {"/tmp/top", "allow-url https://h/d", "HTTPS://H/d/x", "HTTPS://H/d/x", NULL},
        {"/tmp/top", "allow-url https://h/d", "https://h/dd/x", NULL, "--allow-url"},
        {"/tmp/top", "allow-url https://h/d", "//h/d/x", NULL, "--allow-path"},
        {"/tmp/top", "trust", "https://h/d/x", "https://h/d/x", NULL},
        {"/tmp/top", "trust", "nbd:h", NULL, "this library opens files and URLs"},
    };

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++)
        check_row(&t[i], t[i].top);
}

/* A layer's names are read as of its own place, whatever the top is. */
static void deeper_layers(void **unused)
{
    static const struct {
        struct row  row;
        const char *from;
    } t[] = {
        {{"/tmp/top", "allow-url https://h/d", "base", "https://h/d/base", NULL}, "https://h/d/mid"},
        {{"/tmp/top", "allow-url https://h/d", "/tmp/base", NULL, "--allow-url"}, "https://h/d/mid"},
        {{"/tmp/top", "allow-url https://h/d", "file:/tmp/base", NULL, "--trust"}, "https://h/d/mid"},
        {{"/tmp/top", "allow-url https://h/d", "../x", NULL, "--allow-url"}, "https://h/d/mid"},
        {{DIR_TOP, "allow-path /tmp", "base", "/tmp/base", NULL}, "/tmp/mid"},
        {{DIR_TOP, NULL, "base", NULL, "--allow-path"}, "/tmp/mid"},
        {{DIR_TOP, NULL, "https://h/d/x", "https://h/d/x", NULL}, "/tmp/mid"},
        {{DIR_TOP, "allow-url s3://b/", "base", "s3://b/base", NULL}, "s3://b/mid"},
        {{DIR_TOP, "allow-path /", "/etc/passwd", NULL, "does not lead to local"}, "https:///mid"},
        {{NULL, NULL, "base", NULL, "--allow-url"}, "https://h/d/mid"},
    };

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++)
        check_row(&t[i].row, t[i].from);
}

static void data_files(void **unused)
{
    static const struct {
        const char *rules, *name, *path;
    } t[] = {
        {NULL, "data", NULL},
        {"allow data-file", "data", "https://h/d/data"},
        {"allow data-file", "../data", NULL},
        {"allow data-file", "https://g/data", NULL},
        {"allow data-file", "file:/tmp/data", NULL},
        {"allow data-file\nallow-url https://g", "https://g/data", "https://g/data"},
        {"trust", "https://g/data", "https://g/data"},
        {"allow-url https://g", "https://g/data", NULL},
    };
    struct qc_gate g;
    struct qc_target target;
    qchain_error err;

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        gate_init(&g, DIR_TOP, t[i].rules);
        if (decide(&g, DIR_TOP, QCHAIN_REF_DATA_FILE, t[i].name, &target, &err) == 0) {
            assert_non_null(t[i].path);
            assert_string_equal(target.path, t[i].path);
            assert_string_equal(target.format, "raw");
            assert_true(target.is_url);
        } else {
            if (t[i].path)
                fail_msg("%s: %s", t[i].name, err.text);
            assert_int_equal(err.code, QCHAIN_E_ACCESS);
        }
        qc_target_finish(&target);
        qc_gate_finish(&g);
    }
}

struct answer {
    int         verdict;
    const char *name, *resolved;
};

static int answer(void *data, const qchain_reference *ref, qchain_resolution *out)
{
    const struct answer *a = data;

    assert_string_equal(ref->resolved, a->resolved);
    out->name = a->name;
    out->fd = 0;
    return a->verdict;
}

/* What the resolver answers is not checked, and may be a URL. */
static void resolvers(void **unused)
{
    static const struct {
        const char   *from, *name;
        struct answer answer;
        const char   *path;
        bool          is_url;
    } t[] = {
        {DIR_TOP, "../x", {QCHAIN_RESOLVE_ALLOW, NULL, "https://h/x"}, "https://h/x", true},
        {DIR_TOP, "x", {QCHAIN_RESOLVE_ALLOW, "s3://b/y", "https://h/d/x"}, "s3://b/y", true},
        {DIR_TOP, "x", {QCHAIN_RESOLVE_ALLOW, "/tmp/y", "https://h/d/x"}, "/tmp/y", false},
        {"/tmp/top", "x", {QCHAIN_RESOLVE_ALLOW, "gs://b/y", "/tmp/x"}, "gs://b/y", true},
        {"/tmp/top", "x", {QCHAIN_RESOLVE_ALLOW, "nbd://b/y", "/tmp/x"}, NULL, false},
        {"/tmp/top", "x", {QCHAIN_RESOLVE_ALLOW, "https:///y", "/tmp/x"}, NULL, false},
        {DIR_TOP, "x", {QCHAIN_RESOLVE_FD, NULL, "https://h/d/x"}, "https://h/d/x", false},
        {DIR_TOP, "../x", {QCHAIN_RESOLVE_DEFAULT, NULL, "https://h/x"}, NULL, false},
        {DIR_TOP, "x", {QCHAIN_RESOLVE_DENY, NULL, "https://h/d/x"}, NULL, false},
    };
    struct qc_gate g;
    struct qc_target target;
    qchain_error err;

    (void)unused;
    for (size_t i = 0; i < sizeof(t) / sizeof(*t); i++) {
        struct answer a = t[i].answer;

        gate_init(&g, t[i].from, NULL);
        g.resolver = answer;
        g.resolver_data = &a;
        if (decide(&g, t[i].from, QCHAIN_REF_BACKING, t[i].name, &target, &err) == 0) {
            assert_non_null(t[i].path);
            assert_string_equal(target.path, t[i].path);
            assert_int_equal(target.is_url, t[i].is_url);
            assert_true(target.vetted);
        } else if (t[i].path) {
            fail_msg("%s: %s", t[i].name, err.text);
        }
        qc_target_finish(&target);
        qc_gate_finish(&g);
    }
}

static void long_names(void **unused)
{
    char *name = malloc(30000);
    struct qc_gate g;
    struct qc_target t;
    qchain_error err;
    int ret, good = 0;

    (void)unused;
    gate_init(&g, DIR_TOP, NULL);
    for (size_t n = 1; n < 30000; n += n < 8100 || n > 8300 ? 97 : 1) {
        memset(name, 'x', n);
        name[n] = '\0';
        ret = decide(&g, DIR_TOP, QCHAIN_REF_BACKING, name, &t, &err);
        assert_int_equal(ret == 0, n + strlen("https://h/d/") <= 8192);
        good += ret == 0;
        qc_target_finish(&t);
        for (size_t k = 0; k < n; k++)
            name[k] = "../"[k % 3];
        ret = decide(&g, DIR_TOP, QCHAIN_REF_BACKING, name, &t, &err);
        assert_int_equal(ret == 0, n == 1);
        qc_target_finish(&t);
    }
    assert_true(good > 100);
    qc_gate_finish(&g);
    free(name);
}

/* Names and URLs of random pieces: whatever passes lies at the server, in the directory, and
 * no program reads it as anything else. */
static void random_references(void **unused)
{
    static const char *const piece[] = {"https://", "http://", "s3://", "h", "h/", "h/d/", "evil", "/",
                                        "..", ".", "@", ":", "443", "?", "#", "\\", "%2e", "%2f", "%5C",
                                        "d/", "base", ";", "\n", " ", "file:", "\xc3\xa4"};
    uint64_t seed = mem_seed(13);
    unsigned allowed = 0;
    struct qc_gate g;

    (void)unused;
    gate_init(&g, DIR_TOP, NULL);
    for (int round = 0; round < 50000; round++) {
        char name[300] = "";
        struct qc_target t;
        qchain_error err;

        if (random_next(&seed) % 3 == 0)
            strcat(name, "https://h/d/");
        for (uint64_t k = random_next(&seed) % 10; k > 0; k--)
            strcat(name, piece[random_next(&seed) % (sizeof(piece) / sizeof(*piece))]);
        if (*name && decide(&g, DIR_TOP, QCHAIN_REF_BACKING, name, &t, &err) == 0) {
            const char *path = strchr(t.path + 8, '/');

            allowed++;
            assert_true(t.is_url);
            t.path[strcspn(t.path, "?#")] = '\0';
            assert_int_equal(strncasecmp(t.path, "https://h", 9), 0);
            assert_true(path == t.path + 9 || strncmp(t.path + 9, ":/", 2) == 0 ||
                        strncmp(t.path + 9, ":443/", 5) == 0);
            assert_int_equal(strncmp(path, "/d/", 3), 0);
            assert_null(strstr(path, "/../"));
            assert_null(strstr(path, "\\..\\"));
            assert_null(strstr(path, "/..%2f"));
            assert_null(strstr(path, "/%2e%2e/"));
        }
        if (*name)
            qc_target_finish(&t);
    }
    assert_true(allowed > 1000);
    qc_gate_finish(&g);
}

/* Open DIR_TOP's neighbour with the n-th piece of memory refused; 0: none. */
static int decide_without(long n, const char *name, uint32_t flags, bool *enough)
{
    struct qc_layer layer = {.name = (char *)"https://u:p@h/d/top?x"};
    struct qc_gate g = {.policy = qc_policy_new()};
    struct qc_target t;
    qchain_error err;
    int ret;

    qc_error_init(&err);
    qc_target_init(&t);
    g.policy->flags = flags;
    countdown = n;
    ret = qc_gate_add_name(&g, layer.name, &err);
    if (ret == 0)
        ret = qc_gate_decide(&g, &layer, 0, QCHAIN_REF_BACKING, name, "qcow2", &t, &err);
    *enough = n == 0 || countdown > 0;
    countdown = 0;
    assert_int_equal(ret, err.code);
    assert_int_equal(ret == 0, t.path != NULL);
    qc_target_finish(&t);
    qc_gate_finish(&g);
    return ret;
}

/* Without memory nothing is allowed that is not else, and nothing is lost. */
static void memory_runs_out(void **unused)
{
    static const char *const name[] = {"base", "/etc/passwd", "https://h/d/base", "https://u:p@h/d/x",
                                       "json:{\"driver\":\"https\",\"url\":\"https://h/d/x\"}"};

    (void)unused;
    for (size_t i = 0; i < sizeof(name) / sizeof(*name); i++) {
        for (uint32_t flags = 0; flags <= QCHAIN_POLICY_TRUST; flags += QCHAIN_POLICY_TRUST) {
            bool enough;
            int want = decide_without(0, name[i], flags, &enough), ret;

            for (long n = 1;; n++) {
                ret = decide_without(n, name[i], flags, &enough);
                if (enough)
                    break;
                /* Whether it is allowed cannot be found out: then it is not. */
                assert_true(ret == want || ret == QCHAIN_E_NOMEM || ret == QCHAIN_E_ACCESS);
            }
            assert_int_equal(ret, want);
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(from_a_url), cmocka_unit_test(by_rules),
        cmocka_unit_test(deeper_layers), cmocka_unit_test(data_files),
        cmocka_unit_test(resolvers), cmocka_unit_test(long_names),
        cmocka_unit_test(random_references), cmocka_unit_test(memory_runs_out),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
