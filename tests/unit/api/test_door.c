/* SPDX-License-Identifier: MIT */
/* The door: option structs that grow, wrong arguments, versions, texts. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "api/api.h"
#include "mem_layers.h"
#include "net/http.h"

static qchain *open_one(struct mem_chain **m)
{
    qchain *c = NULL;

    *m = mem_chain_create(1);
    mem_layer_init(*m, 0, 1 << 20, 12);
    mem_layer_set(*m, 0, 3, MEM_DATA);
    assert_int_equal(mem_chain_open(*m, &c, NULL, NULL, NULL), 0);
    return c;
}

static void structs_may_be_smaller_or_larger(void **unused)
{
    struct {
        size_t   struct_size;
        uint32_t a, b;
        uint64_t tail[3];
    } to, from;
    qchain_error err;

    (void)unused;
    qc_error_init(&err);
    memset(&to, 1, sizeof(to));
    assert_int_equal(qc_opts_copy(&to, 16, NULL, &err), 0);
    assert_int_equal(to.struct_size, 0);
    assert_int_equal(to.a, 0);
    assert_int_equal(to.tail[0], UINT64_C(0x0101010101010101));
    qc_opts_init(&from, sizeof(from));
    assert_int_equal(from.struct_size, sizeof(from));
    from.a = 7;
    assert_int_equal(qc_opts_copy(&to, 16, &from, &err), 0); /* larger: zeros beyond */
    assert_int_equal(to.a, 7);
    from.tail[2] = 1;
    assert_int_equal(qc_opts_copy(&to, 16, &from, &err), QCHAIN_E_UNSUPPORTED);
    from.struct_size = 12; /* smaller: b is not looked at */
    from.b = 9;
    assert_int_equal(qc_opts_copy(&to, 16, &from, &err), 0);
    assert_int_equal(to.a, 7);
    assert_int_equal(to.b, 0);
    for (from.struct_size = 0; from.struct_size < 8; from.struct_size++)
        assert_int_equal(qc_opts_copy(&to, 16, &from, &err), QCHAIN_E_INVAL);
    assert_non_null(strstr(err.text, "_init"));
    qc_opts_init(NULL, 8);
    qc_opts_init(&from, 3);
}

/* Out fields are written as far as the caller's struct goes, not beyond. */
static void out_fields_respect_the_callers_size(void **unused)
{
    struct {
        qchain_compare_opts o;
        uint64_t            guard;
    } s;
    struct {
        qchain_stats o;
        uint64_t     newer, guard;
    } stats;
    struct mem_chain *m;
    qchain *c = open_one(&m);

    (void)unused;
    memset(&s, 0xee, sizeof(s));
    qchain_compare_opts_init(&s.o, offsetof(qchain_compare_opts, offset));
    assert_int_equal(s.o.offset, UINT64_C(0xeeeeeeeeeeeeeeee));
    assert_int_equal(qchain_compare(c, c, &s.o, NULL), 0);
    assert_int_equal(s.o.offset, UINT64_C(0xeeeeeeeeeeeeeeee));
    assert_int_equal(s.o.struct_size, offsetof(qchain_compare_opts, offset));
    memset(&s, 0, sizeof(s));
    qchain_compare_opts_init(&s.o, sizeof(s));
    assert_int_equal(qchain_compare(c, c, &s.o, NULL), 0);
    assert_int_equal(s.o.struct_size, sizeof(s));

    memset(&stats, 0xee, sizeof(stats));
    stats.o.struct_size = offsetof(qchain_stats, store_reads);
    assert_int_equal(qchain_env_stats(qchain_get_env(c), &stats.o), 0);
    assert_int_equal(stats.o.store_reads, UINT64_C(0xeeeeeeeeeeeeeeee));
    assert_int_not_equal(stats.o.reads, UINT64_C(0xeeeeeeeeeeeeeeee));
    assert_int_equal(stats.o.struct_size, offsetof(qchain_stats, store_reads));
    stats.o.struct_size = offsetof(__typeof__(stats), guard);
    assert_int_equal(qchain_env_stats(qchain_get_env(c), &stats.o), 0);
    assert_int_equal(stats.newer, 0);
    assert_int_equal(stats.guard, UINT64_C(0xeeeeeeeeeeeeeeee));
    assert_true(stats.o.meta_reads > 0);
    stats.o.struct_size = SIZE_MAX;
    assert_int_equal(qchain_env_stats(qchain_get_env(c), &stats.o), QCHAIN_E_INVAL);
    stats.o.struct_size = 7;
    assert_int_equal(qchain_env_stats(qchain_get_env(c), &stats.o), QCHAIN_E_INVAL);
    assert_int_equal(qchain_env_stats(NULL, &stats.o), QCHAIN_E_INVAL);
    assert_int_equal(qchain_env_stats(qchain_get_env(c), NULL), QCHAIN_E_INVAL);
    qchain_close(c);
    mem_chain_destroy(m);
}

/* What nobody would be told of is not done: a check whose answer is lost reads like a good one. */
static void results_need_their_size(void **unused)
{
    qchain_check_result checked = {0};
    qchain_measure_result measured = {0};
    qchain_prefetch_result fetched = {0};
    qchain_job_result done = {0};
    struct mem_chain *m;
    qchain *c = open_one(&m);
    const char *const child = "child";
    qchain_error err;

    (void)unused;
    for (int garbage = 0; garbage < 2; garbage++) {
        if (garbage)
            checked.struct_size = measured.struct_size = fetched.struct_size = done.struct_size = SIZE_MAX / 2;
        qc_error_init(&err);
        assert_int_equal(qchain_check(NULL, "no-such-file", NULL, &checked, &err), QCHAIN_E_INVAL);
        assert_non_null(strstr(err.text, "struct_size"));
        assert_int_equal(qchain_measure(c, NULL, &measured, NULL), QCHAIN_E_INVAL);
        assert_int_equal(qchain_prefetch(&c, 1, NULL, &fetched, NULL), QCHAIN_E_INVAL);
        assert_int_equal(qchain_convert(c, "no/such/place", NULL, &done, NULL), QCHAIN_E_INVAL);
        assert_int_equal(qchain_rebase(c, NULL, &done, NULL), QCHAIN_E_INVAL);
        assert_int_equal(qchain_stream(c, 1, 0, NULL, &done, NULL), QCHAIN_E_INVAL);
        assert_int_equal(qchain_merge(c, 0, 0, NULL, &done, NULL), QCHAIN_E_INVAL);
        assert_int_equal(qchain_commit(NULL, "no-such-file", NULL, &done, NULL), QCHAIN_E_INVAL);
        assert_int_equal(qchain_delete_layer(NULL, "no-such-file", &child, 1, 0, NULL, NULL, &done, NULL),
                         QCHAIN_E_INVAL);
    }
    qchain_close(c);
    mem_chain_destroy(m);
}

static int log_frees;

static void count_free(void *data)
{
    log_frees += *(int *)data;
}

static void environments_check_their_options(void **unused)
{
    struct {
        qchain_env_opts o;
        uint64_t        newer;
    } s;
    qchain_env *env = (qchain_env *)&s;
    int one = 1;

    (void)unused;
    assert_int_equal(qchain_env_create(NULL, NULL, NULL), QCHAIN_E_INVAL);
    for (int i = 0; i < 6; i++) {
        memset(&s, 0, sizeof(s));
        qchain_env_opts_init(&s.o, sizeof(s));
        s.o.log_free = count_free;
        s.o.log_data = &one;
        s.o.flags = i == 1;
        s.o.threads = i == 2 ? 1025 : 2;
        s.o.index_bytes = i == 3 ? (1 << 20) - 1 : 0;
        s.o.log_level = i == 4 ? 5 : 0;
        s.newer = i == 5;
        assert_int_equal(qchain_env_create(&env, &s.o, NULL),
                         i == 0 ? 0 : i == 5 ? QCHAIN_E_UNSUPPORTED : QCHAIN_E_INVAL);
        assert_int_equal(env == NULL, i != 0);
        qchain_env_destroy(env);
        assert_int_equal(log_frees, i + 1); /* once, also when creation fails */
    }
    assert_int_equal(qchain_env_create(&env, NULL, NULL), 0);
    qchain_env_destroy(env);
    qchain_env_destroy(NULL);
}

static void wrong_arguments_are_refused(void **unused)
{
    struct mem_chain *m;
    qchain *c = open_one(&m), *none = NULL;
    qchain_error *err = qchain_error_create();
    qchain_image_info *info = NULL;
    qchain_open_opts o;
    qchain_extent e;
    qchain_iov iov[2] = {{NULL, 5}, {NULL, 0}};
    uint64_t next;
    uint32_t n;
    char b[32];

    (void)unused;
    assert_int_equal(qchain_open(NULL, NULL, "x", NULL, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_open(&none, NULL, NULL, NULL, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_open(&none, NULL, "/no/such/file", NULL, NULL), QCHAIN_E_NOTFOUND);
    qchain_open_opts_init(&o, sizeof(o));
    o.reserved0 = 1;
    assert_int_equal(qchain_open(&none, NULL, "x", &o, err), QCHAIN_E_INVAL);
    o.reserved0 = 0;
    o.max_layers = 65536;
    assert_int_equal(qchain_open(&none, NULL, "x", &o, err), QCHAIN_E_INVAL);
    o.max_layers = 0;
    o.flags = QCHAIN_OPEN_FD;
    o.fd = -1;
    assert_int_equal(qchain_open(&none, NULL, "x", &o, err), QCHAIN_E_INVAL);
    o.flags = QCHAIN_OPEN_WRITE | QCHAIN_OPEN_SALVAGE;
    assert_int_equal(qchain_open(&none, NULL, "x", &o, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_inspect(NULL, NULL, "x", NULL, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_inspect(&info, NULL, NULL, NULL, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_layer_info(NULL, c, 0, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_layer_info(&info, NULL, 0, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_layer_info(&info, c, 1, err), QCHAIN_E_RANGE);
    assert_null(info);
    assert_int_equal(qchain_read(NULL, b, 8, 0, 0, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_read(c, NULL, 8, 0, 0, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_read(c, NULL, 0, 0, 0, err), 0);
    assert_int_equal(qchain_read(c, NULL, 0, 1 << 20, 0, err), 0);
    assert_int_equal(qchain_read(c, b, 8, 0, 1, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_read(c, b, 8, (1 << 20) - 7, 0, err), QCHAIN_E_RANGE);
    assert_int_equal(qchain_read(c, b, 8, UINT64_MAX - 3, 0, err), QCHAIN_E_RANGE);
    assert_int_equal(qchain_read(c, b, SIZE_MAX, 8, 0, NULL), QCHAIN_E_RANGE);
    assert_int_equal(qchain_readv(c, NULL, 1, 0, 0, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_readv(c, NULL, 0, 0, 0, err), 0);
    assert_int_equal(qchain_readv(c, iov, 1025, 0, 0, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_readv(c, iov, 1, 0, 0, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_readv(c, iov + 1, 1, 0, 0, err), 0);
    iov[0] = (qchain_iov){b, SIZE_MAX};
    assert_int_equal(qchain_readv(c, iov, 2, 0, 0, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_map(NULL, 0, 1, &e, 1, &n, &next, 0, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_map(c, 0, 1, NULL, 1, &n, &next, 0, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_map(c, 0, 1, &e, 0, &n, &next, 0, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_map(c, 0, 1, &e, 1, NULL, &next, 0, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_map(c, 0, 1, &e, 1, &n, NULL, 0, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_map(c, 0, 1, &e, 1, &n, &next, 4, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_map(c, (1 << 20) + 1, 1, &e, 1, &n, &next, 0, NULL), QCHAIN_E_RANGE);
    assert_int_equal(qchain_map(c, 1 << 20, 1, &e, 1, &n, &next, 0, err), 0);
    assert_int_equal(n, 0);
    assert_int_equal(next, 1 << 20);
    assert_int_equal(qchain_diff(c, 0, 0, 0, 1, &e, 1, &n, &next, 0, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_diff(c, 2, 0, 0, 1, &e, 1, &n, &next, 0, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_diff(NULL, 1, 0, 0, 1, &e, 1, &n, &next, 0, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_checksum(NULL, (uint8_t *)b, 0, NULL, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_checksum(c, NULL, 0, NULL, NULL), QCHAIN_E_INVAL);
    qchain_error_destroy(err);
    qchain_close(c);
    mem_chain_destroy(m);
}

static int write_nothing(void *data, const void *buf, size_t length, uint64_t offset,
                         qchain_error *err)
{
    (void)data, (void)buf, (void)length, (void)offset, (void)err;
    return 0;
}

static void operations_check_their_options(void **unused)
{
    struct mem_chain *m;
    qchain *c = open_one(&m);
    qchain_sink sink = {sizeof(sink), write_nothing, NULL, NULL};
    qchain_copy_opts o;
    qchain_compare_opts p;
    qchain_rebase_opts r;
    qchain_open_opts open;
    qchain_index_info *info;
    const char *const child = "child";
    qchain_error err;

    (void)unused;
    qc_error_init(&err);
    assert_int_equal(qchain_copy_out(NULL, &sink, NULL, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_copy_out(c, NULL, NULL, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_copy_out(c, &sink, NULL, NULL), 0);
    qchain_copy_opts_init(&o, sizeof(o));
    o.flags = 0x10;
    assert_int_equal(qchain_copy_out(c, &sink, &o, NULL), QCHAIN_E_INVAL);
    o.flags = 0;
    o.offset = (1 << 20) + 1;
    assert_int_equal(qchain_copy_out(c, &sink, &o, NULL), QCHAIN_E_RANGE);
    o.offset = 512;
    o.length = 1 << 20;
    assert_int_equal(qchain_copy_out(c, &sink, &o, NULL), QCHAIN_E_RANGE);
    o.length = UINT64_MAX;
    assert_int_equal(qchain_copy_out(c, &sink, &o, NULL), QCHAIN_E_RANGE);
    o.offset = 1 << 20;
    o.length = 0;
    assert_int_equal(qchain_copy_out(c, &sink, &o, NULL), 0);
    sink.write = NULL;
    assert_int_equal(qchain_copy_out(c, &sink, NULL, NULL), QCHAIN_E_INVAL);
    sink.struct_size = 0;
    assert_int_equal(qchain_copy_out(c, &sink, NULL, NULL), QCHAIN_E_INVAL);
    qchain_compare_opts_init(&p, sizeof(p));
    assert_int_equal(qchain_compare(NULL, c, &p, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_compare(c, NULL, &p, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_compare(c, c, NULL, NULL), QCHAIN_E_INVAL);
    p.flags = 2;
    assert_int_equal(qchain_compare(c, c, &p, NULL), QCHAIN_E_INVAL);
    qchain_rebase_opts_init(&r, sizeof(r));
    r.reserved[3] = 1;
    assert_int_equal(qchain_rebase(c, &r, NULL, NULL), QCHAIN_E_INVAL);
    r.reserved[3] = 0;
    r.open = &open;
    qchain_open_opts_init(&open, sizeof(open));
    assert_int_equal(qchain_rebase(c, &r, NULL, NULL), QCHAIN_E_READONLY);
    open.flags = 0x40000000;
    assert_int_equal(qchain_rebase(c, &r, NULL, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_delete_layer(NULL, "no-such-file", &child, 1, 0, &open, NULL, NULL, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_delete_layer(NULL, "no-such-file", &child, 1, 2, NULL, NULL, NULL, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_stream(c, 1, 1, NULL, NULL, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_merge(c, 0, 1, NULL, NULL, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_index_inspect(&info, NULL, "no-such-file", &open, &err), QCHAIN_E_INVAL);
    qchain_close(c);
    mem_chain_destroy(m);
}

static void null_is_fine(void **unused)
{
    (void)unused;
    qchain_close(NULL);
    assert_int_equal(qchain_size(NULL), 0);
    assert_int_equal(qchain_layers(NULL), 0);
    assert_null(qchain_get_env(NULL));
    assert_null(qchain_source_name(NULL, 0));
    qchain_image_info_free(NULL);
    qchain_error_destroy(NULL);
    qchain_error_clear(NULL);
    assert_int_equal(qchain_error_code(NULL), 0);
    assert_string_equal(qchain_error_message(NULL), "");
    assert_int_equal(qchain_error_errno(NULL), 0);
    assert_int_equal(qchain_error_http_status(NULL), 0);
    assert_int_equal(qchain_error_layer(NULL), -1);
    assert_int_equal(qchain_error_offset(NULL), -1);
    qchain_free(NULL);
    qchain_job_destroy(NULL);
    qchain_job_cancel(NULL);
    qchain_job_pause(NULL, 1);
    qchain_job_rate(NULL, 1);
    qchain_policy_destroy(NULL);
    assert_int_equal(qchain_policy_allow_path(NULL, "/", NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_policy_backing_format(NULL, "raw", NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_policy_allow(NULL, 0, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_policy_parse(NULL, "", NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_policy_load(NULL, "/", NULL), QCHAIN_E_INVAL);
    qchain_env_opts_init(NULL, 8);
    qchain_open_opts_init(NULL, 8);
    qchain_copy_opts_init(NULL, 8);
    qchain_compare_opts_init(NULL, 8);
    assert_int_equal(qchain_backend_fail(NULL, QCHAIN_E_IO, 5, NULL), QCHAIN_E_IO);
}

static void versions_and_features(void **unused)
{
    static const char *const yes[] = {"qcow2", "raw", "zlib", "zstd", "direct", "locks", "queue",
                                      "index", "write"};
    static const char *const no[] = {"writes", "", "x"};
    char text[32];

    (void)unused;
    snprintf(text, sizeof(text), "%u.%u.%u", qchain_version() >> 16, qchain_version() >> 8 & 255,
             qchain_version() & 255);
    assert_string_equal(text, qchain_version_string());
    for (size_t i = 0; i < sizeof(yes) / sizeof(*yes); i++)
        assert_int_equal(qchain_has(yes[i]), 1);
    for (size_t i = 0; i < sizeof(no) / sizeof(*no); i++)
        assert_int_equal(qchain_has(no[i]), 0);
    assert_int_equal(qchain_has(NULL), 0);
    assert_int_equal(qchain_has("http"), qc_http_available(NULL) == 0);
    for (int code = 0; code >= QCHAIN_E_EXISTS; code--)
        assert_string_not_equal(qchain_code_name(code), "?");
    assert_string_equal(qchain_code_name(QCHAIN_E_CORRUPT), "CORRUPT");
    assert_string_equal(qchain_code_name(QCHAIN_E_INTERNAL), "INTERNAL");
    assert_string_equal(qchain_code_name(QCHAIN_E_EXISTS), "EXISTS");
    assert_string_equal(qchain_code_name(QCHAIN_E_EXISTS - 1), "?");
    assert_string_equal(qchain_code_name(1), "?");
    assert_string_equal(qchain_code_name(INT32_MIN), "?");
}

static void policies_are_loaded(void **unused)
{
    char path[] = "/tmp/qc-policy-XXXXXX";
    qchain_policy *p = qchain_policy_create();
    qchain_error *err = qchain_error_create();
    int fd = mkstemp(path);
    FILE *f = fdopen(fd, "w");

    (void)unused;
    fputs("trust\nnonsense\n", f);
    fflush(f);
    assert_int_equal(qchain_policy_load(p, path, err), QCHAIN_E_INVAL);
    assert_non_null(strstr(qchain_error_message(err), "line 2"));
    assert_non_null(strstr(qchain_error_message(err), path));
    rewind(f);
    fputs("trust\n#       \n", f);
    fflush(f);
    assert_int_equal(qchain_policy_load(p, path, err), 0);
    fputc('\0', f);
    fflush(f);
    assert_int_equal(qchain_policy_load(p, path, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_policy_load(p, "/tmp", err), QCHAIN_E_ACCESS);
    assert_int_equal(qchain_policy_load(p, "/no/such", err), QCHAIN_E_NOTFOUND);
    assert_int_equal(qchain_policy_allow(p, 8, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_policy_allow(p, 7, err), 0);
    fclose(f);
    remove(path);
    qchain_policy_destroy(p);
    qchain_error_destroy(err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(structs_may_be_smaller_or_larger),
        cmocka_unit_test(out_fields_respect_the_callers_size),
        cmocka_unit_test(results_need_their_size),
        cmocka_unit_test(environments_check_their_options),
        cmocka_unit_test(wrong_arguments_are_refused),
        cmocka_unit_test(operations_check_their_options),
        cmocka_unit_test(null_is_fine),
        cmocka_unit_test(versions_and_features),
        cmocka_unit_test(policies_are_loaded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
