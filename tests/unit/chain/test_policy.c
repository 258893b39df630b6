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
                                    "allow   block-device  ",
                                    "here", &err),
                     0);
    assert_int_equal(p->n_roots, 2);
    assert_string_equal(p->root[0], "/tmp");
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
    static const char *const word[] = {"allow-path ", "trust", "allow ", "data-file", "max-layers ",
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
        cmocka_unit_test(roots_are_real_paths),
        cmocka_unit_test(random_texts_do_no_harm),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
