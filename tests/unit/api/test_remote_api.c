/* SPDX-License-Identifier: MIT */
/* The door to remote layers: configurations and their files, statistics, allowed URLs. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "api/api.h"
#include "chain/env.h"
#include "net/config.h"

static char dir[] = "/tmp/qc-remote-XXXXXX";
static char path[64];
static qchain_error err;

static int setup(void **state)
{
    qc_error_init(&err);
    *state = qchain_remote_create();
    return 0;
}

static int teardown(void **state)
{
    qchain_remote_destroy(*state);
    unlink(path);
    return 0;
}

static void put_file(const char *text, size_t len, mode_t mode)
{
    int fd;

    unlink(path);
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, len), len);
    assert_int_equal(fchmod(fd, mode), 0);
    close(fd);
}

static void nothing_is_no_argument(void **state)
{
    (void)state;
    assert_int_equal(qchain_remote_parse(NULL, "x", &err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_remote_parse(*state, NULL, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_remote_load(NULL, path, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_remote_load(*state, NULL, &err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_policy_allow_url(NULL, "https://h/", &err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_env_remote_stats(NULL, NULL), QCHAIN_E_INVAL);
    qchain_remote_destroy(NULL);
}

static void rules_from_text(void **state)
{
    qchain_remote *r = *state;

    assert_int_equal(qchain_remote_parse(r, "connections 3\nhedge off", &err), 0);
    assert_int_equal(r->connections, 3);
    assert_false(r->hedge);
    assert_int_equal(qchain_remote_parse(r, "connections 4\ns3-secret-key", &err), QCHAIN_E_INVAL);
    assert_string_equal(qchain_error_message(&err),
                        "remote, line 2: s3-secret-key takes 1 value; one with blanks stands in double "
                        "quotes");
    assert_int_equal(qchain_remote_parse(r, "", NULL), 0);
}

static void rules_from_a_file(void **state)
{
    qchain_remote *r = *state;
    char message[160];

    put_file("workers 2\n", 10, 0644);
    assert_int_equal(qchain_remote_load(r, path, &err), 0);
    assert_int_equal(r->workers, 2);
    put_file("workers 3\n", 10, 0400);
    assert_int_equal(qchain_remote_load(r, path, &err), 0);
    assert_int_equal(r->workers, 3);

    put_file("\nworkers x\n", 11, 0600);
    assert_int_equal(qchain_remote_load(r, path, &err), QCHAIN_E_INVAL);
    snprintf(message, sizeof(message), "%s, line 2: workers takes a number from 1 to 64", path);
    assert_string_equal(qchain_error_message(&err), message);
}

static void whom_a_file_must_belong_to(void **state)
{
    static const mode_t open_to_others[] = {0620, 0602, 0666};

    for (int i = 0; i < 3; i++) {
        put_file("workers 2\n", 10, open_to_others[i]);
        assert_int_equal(qchain_remote_load(*state, path, &err), QCHAIN_E_ACCESS);
        assert_non_null(strstr(qchain_error_message(&err), "chmod go-w"));
    }
    assert_int_equal(((qchain_remote *)*state)->workers, 1);
    if (geteuid() == 0) {
        put_file("workers 2\n", 10, 0600);
        assert_int_equal(chown(path, 12345, (gid_t)-1), 0);
        assert_int_equal(qchain_remote_load(*state, path, &err), QCHAIN_E_ACCESS);
        assert_non_null(strstr(qchain_error_message(&err), "12345"));
    }
}

static void what_is_no_file_of_rules(void **state)
{
    char *large = calloc(1, 1 << 20);

    assert_int_equal(qchain_remote_load(*state, "/nothing/here", &err), QCHAIN_E_NOTFOUND);
    assert_int_equal(qchain_remote_load(*state, dir, &err), QCHAIN_E_ACCESS);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_int_equal(qchain_remote_load(*state, path, &err), QCHAIN_E_ACCESS); /* at once */
    put_file("workers\0 2", 10, 0600);
    assert_int_equal(qchain_remote_load(*state, path, &err), QCHAIN_E_INVAL);
    memset(large, '#', 1 << 20);
    put_file(large, 1 << 20, 0600);
    assert_int_equal(qchain_remote_load(*state, path, &err), QCHAIN_E_INVAL);
    put_file(large, (1 << 20) - 1, 0600);
    assert_int_equal(qchain_remote_load(*state, path, &err), 0);
    free(large);
}

static void count(void *data)
{
    ++*(int *)data;
}

static int none(void *data, const char *where, int renew, qchain_credentials *out)
{
    (void)data;
    (void)where;
    (void)renew;
    (void)out;
    return 1;
}

static void data_of_a_callback_is_freed_once(void **state)
{
    qchain_remote *r = qchain_remote_create();
    int freed = 0;

    (void)state;
    assert_int_equal(qchain_remote_set_credentials(NULL, none, &freed, count, &err), QCHAIN_E_INVAL);
    assert_int_equal(freed, 1); /* also when the call fails */
    assert_int_equal(qchain_remote_set_credentials(r, none, &freed, count, &err), 0);
    assert_ptr_equal(r->credentials, none);
    assert_int_equal(qchain_remote_set_credentials(r, none, NULL, NULL, &err), 0);
    assert_int_equal(freed, 2);
    qchain_remote_destroy(r);
    assert_int_equal(freed, 2);
}

/* Each counter in its own field, and no more written than the caller has room for. */
static void statistics(void **state)
{
    struct {
        qchain_remote_stats o;
        uint64_t            newer, guard;
    } s;
    enum { FIRST = QC_CNT_HTTP_REQUESTS, N = QC_CNT_FAILOVERS - QC_CNT_HTTP_REQUESTS + 1 };
    const uint64_t *field = &s.o.requests;
    qchain_env *env;

    (void)state;
    assert_int_equal(qchain_env_create(&env, NULL, &err), 0);
    for (int i = 0; i < N; i++)
        qc_count(env->slots, (enum qc_counter)(FIRST + i), (uint64_t)i + 1);
    memset(&s, 0xee, sizeof(s));
    s.o.struct_size = sizeof(s.o);
    assert_int_equal(qchain_env_remote_stats(env, &s.o), 0);
    for (int i = 0; i < N; i++) /* in the order of the counters */
        assert_int_equal(field[i], i + 1);
    assert_ptr_equal(&field[N], &s.o.first_byte_p50_us);
    assert_int_equal(s.o.total_p99_us, 0); /* nothing was asked of a server */
    assert_int_equal(s.newer, UINT64_C(0xeeeeeeeeeeeeeeee));

    memset(&s, 0xee, sizeof(s));
    s.o.struct_size = offsetof(qchain_remote_stats, sent_bytes);
    assert_int_equal(qchain_env_remote_stats(env, &s.o), 0);
    assert_int_equal(s.o.bytes, 2);
    assert_int_equal(s.o.sent_bytes, UINT64_C(0xeeeeeeeeeeeeeeee));
    s.o.struct_size = sizeof(s.o) + sizeof(s.newer);
    assert_int_equal(qchain_env_remote_stats(env, &s.o), 0);
    assert_int_equal(s.o.struct_size, sizeof(s.o) + sizeof(s.newer));
    assert_int_equal(s.o.failovers, N);
    assert_int_equal(s.newer, 0);
    assert_int_equal(s.guard, UINT64_C(0xeeeeeeeeeeeeeeee));
    s.o.struct_size = 7;
    assert_int_equal(qchain_env_remote_stats(env, &s.o), QCHAIN_E_INVAL);
    qchain_env_destroy(env);
}

static void an_environment_copies(void **state)
{
    qchain_env_opts o;
    qchain_env *env;

    qchain_env_opts_init(&o, sizeof(o));
    o.remote = *state;
    assert_int_equal(qchain_remote_parse(*state, "cache-size 1G", &err), 0);
    assert_int_equal(qchain_env_create(&env, &o, &err), 0);
    qchain_remote_destroy(*state);
    *state = NULL;
    qchain_env_destroy(env);
}

static void urls_are_allowed(void **state)
{
    qchain_policy *p = qchain_policy_create();

    (void)state;
    assert_int_equal(qchain_policy_allow_url(p, "https://host/dir/", &err), 0);
    assert_int_equal(qchain_policy_allow_url(p, NULL, &err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_policy_allow_url(p, "no url", &err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_policy_parse(p, "allow-url s3://bucket/a/", &err), 0);
    qchain_policy_destroy(p);
}

static int make_dir(void **state)
{
    (void)state;
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/remote", dir);
    return 0;
}

static int drop_dir(void **state)
{
    (void)state;
    return rmdir(dir);
}

int main(void)
{
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(nothing_is_no_argument),
        TEST(rules_from_text),
        TEST(rules_from_a_file),
        TEST(whom_a_file_must_belong_to),
        TEST(what_is_no_file_of_rules),
        TEST(data_of_a_callback_is_freed_once),
        TEST(statistics),
        TEST(an_environment_copies),
        TEST(urls_are_allowed),
    };

    return cmocka_run_group_tests(tests, make_dir, drop_dir);
}
