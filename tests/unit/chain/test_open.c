/* SPDX-License-Identifier: MIT */
/* Opening: what the gate decides, what a resolver may answer, what is closed. */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "mem_layers.h"

static char dir[] = "/tmp/qc-open-XXXXXX";

static const char *in_dir(const char *name)
{
    static char path[4][128];
    static int n;

    n = (n + 1) % 4;
    snprintf(path[n], sizeof(path[n]), "%s/%s", dir, name);
    return path[n];
}

static void write_layer(const struct mem_chain *m, uint32_t k)
{
    char name[32];
    FILE *f;

    snprintf(name, sizeof(name), "layer%u", k);
    f = fopen(in_dir(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(m->layer[k].file, 1, m->layer[k].file_size, f), m->layer[k].file_size);
    fclose(f);
}

/* n layers of 1 MiB with one cluster each, also as files layer0, layer1, ... */
static struct mem_chain *layers(uint32_t n)
{
    struct mem_chain *m = mem_chain_create(n);

    for (uint32_t k = 0; k < n; k++)
        mem_layer_init(m, k, 1 << 20, 12);
    for (uint32_t k = 0; k < n; k++) {
        mem_layer_set(m, k, k % 256, MEM_DATA);
        write_layer(m, k);
    }
    return m;
}

static void check_content(const struct mem_chain *m, qchain *c)
{
    static unsigned char got[1 << 20], want[1 << 20];

    assert_int_equal(qchain_read(c, got, sizeof(got), 0, 0, NULL), 0);
    mem_chain_read(m, want, sizeof(want), 0);
    assert_memory_equal(got, want, sizeof(got));
}

struct answer {
    struct mem_chain *m;
    int               verdict, fd, asked;
    const char       *name, *format;
    bool              no_store;
};

static int answer(void *data, const qchain_reference *ref, qchain_resolution *out)
{
    static qchain_store store;
    struct answer *a = data;

    a->asked++;
    assert_int_equal(ref->layer, a->asked - 1);
    assert_int_equal(ref->kind, QCHAIN_REF_BACKING);
    assert_string_equal(ref->format, "qcow2");
    assert_non_null(strstr(ref->resolved, ref->name));
    if (a->asked > 1)
        return QCHAIN_RESOLVE_DEFAULT;
    out->name = a->name;
    out->format = a->format;
    if (a->verdict == QCHAIN_RESOLVE_FD)
        out->fd = a->fd;
    if (a->verdict == QCHAIN_RESOLVE_STORE && !a->no_store) {
        mem_layer_store(a->m, 1, &store);
        out->store = &store;
    }
    return a->verdict;
}

/* Open layer0 with an answer for its backing file; returns the code. */
static int ask(struct mem_chain *m, struct answer *a, qchain_error *err)
{
    qchain_open_opts o;
    qchain *c = NULL;
    int ret;

    a->m = m;
    a->asked = 0;
    qchain_open_opts_init(&o, sizeof(o));
    o.resolver = answer;
    o.resolver_data = a;
    ret = qchain_open(&c, NULL, in_dir("layer0"), &o, err);
    if (ret == 0)
        check_content(m, c);
    else
        assert_null(c);
    qchain_close(c);
    assert_int_equal(atomic_load(&m->layer[1].n_open), 0);
    return ret;
}

static void resolvers_decide(void **unused)
{
    struct mem_chain *m = layers(2);
    qchain_error *err = qchain_error_create();
    struct answer a = {.verdict = QCHAIN_RESOLVE_DEFAULT, .fd = -1};

    (void)unused;
    assert_int_equal(ask(m, &a, err), 0);
    a.verdict = QCHAIN_RESOLVE_DENY;
    assert_int_equal(ask(m, &a, err), QCHAIN_E_ACCESS);
    assert_non_null(strstr(qchain_error_message(err), "resolver"));
    assert_int_equal(qchain_error_layer(err), 0);
    a.verdict = 77;
    assert_int_equal(ask(m, &a, err), QCHAIN_E_INVAL);
    a.verdict = QCHAIN_RESOLVE_STORE;
    assert_int_equal(ask(m, &a, err), 0);
    a.format = "vmdk";
    assert_int_equal(ask(m, &a, err), QCHAIN_E_UNSUPPORTED);
    a.format = NULL;
    a.no_store = true;
    assert_int_equal(ask(m, &a, err), QCHAIN_E_INVAL);
    a.verdict = QCHAIN_RESOLVE_ALLOW;
    assert_int_equal(ask(m, &a, err), 0);
    rename(in_dir("layer1"), in_dir("elsewhere"));
    assert_int_equal(ask(m, &a, err), QCHAIN_E_NOTFOUND);
    a.name = in_dir("elsewhere");
    assert_int_equal(ask(m, &a, err), 0);
    a.verdict = QCHAIN_RESOLVE_FD;
    assert_int_equal(ask(m, &a, err), QCHAIN_E_INVAL); /* none was given: no way to ALLOW */
    a.fd = open(in_dir("elsewhere"), O_RDONLY | O_CLOEXEC);
    assert_int_equal(ask(m, &a, err), 0);
    assert_int_equal(fcntl(a.fd, F_GETFD), FD_CLOEXEC); /* duplicated, and so still ours */
    close(a.fd);
    assert_int_equal(ask(m, &a, err), QCHAIN_E_INVAL);
    qchain_error_destroy(err);
    mem_chain_destroy(m);
}

/* An image opened by a descriptor, without a name, allows no directory but its own. */
static void a_descriptor_without_a_name_allows_nothing_here(void **unused)
{
    struct mem_chain *m = layers(2);
    qchain_error *err = qchain_error_create();
    char here[4096], sub[] = "/tmp/qc-open-XXXXXX", path[128];
    qchain_open_opts o;
    qchain *c = NULL;

    (void)unused;
    assert_non_null(mkdtemp(sub));
    snprintf(path, sizeof(path), "%s/layer0", sub);
    assert_int_equal(rename(in_dir("layer0"), path), 0);
    assert_non_null(getcwd(here, sizeof(here)));
    assert_int_equal(chdir(dir), 0); /* where there is a layer1 */
    qchain_open_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_OPEN_FD;
    o.fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_int_equal(qchain_open(&c, NULL, NULL, &o, err), QCHAIN_E_ACCESS);
    assert_int_equal(qchain_open(&c, NULL, in_dir("layer0"), &o, err), 0); /* the caller says so */
    check_content(m, c);
    qchain_close(c);
    close(o.fd);
    assert_int_equal(chdir(here), 0);
    unlink(path);
    rmdir(sub);
    qchain_error_destroy(err);
    mem_chain_destroy(m);
}

static void few_descriptors_serve_many_layers(void **unused)
{
    enum { N = 150 };
    struct mem_chain *m = layers(N);
    qchain_stats s = {.struct_size = sizeof(s)};
    qchain_env_opts o;
    qchain_env *env = NULL;
    qchain *c = NULL;

    (void)unused;
    qchain_env_opts_init(&o, sizeof(o));
    o.max_open_files = 16;
    o.threads = 2;
    assert_int_equal(qchain_env_create(&env, &o, NULL), 0);
    assert_int_equal(qchain_open(&c, env, in_dir("layer0"), NULL, NULL), 0);
    assert_int_equal(qchain_layers(c), N);
    check_content(m, c);
    check_content(m, c);
    assert_int_equal(qchain_env_stats(env, &s), 0);
    assert_in_range(s.open_files, 1, 16 + 3); /* each thread may hold one on top */
    assert_true(s.file_opens > N);
    qchain_close(c);
    assert_int_equal(qchain_env_stats(env, &s), 0);
    assert_int_equal(s.open_files, 0);
    qchain_env_destroy(env);
    mem_chain_destroy(m);
}

static void depth_is_limited(void **unused)
{
    struct mem_chain *m = layers(6);
    qchain_policy *p = qchain_policy_create();
    qchain_error *err = qchain_error_create();
    qchain_open_opts o;
    qchain *c = NULL;

    (void)unused;
    qchain_open_opts_init(&o, sizeof(o));
    o.max_layers = 5;
    assert_int_equal(mem_chain_open(m, &c, NULL, &o, err), QCHAIN_E_LIMIT);
    assert_non_null(strstr(qchain_error_message(err), "5 layers"));
    o.max_layers = 6;
    assert_int_equal(mem_chain_open(m, &c, NULL, &o, err), 0);
    qchain_close(c);
    assert_int_equal(qchain_policy_parse(p, "max-layers 3", err), 0);
    o.max_layers = 0;
    o.policy = p;
    assert_int_equal(mem_chain_open(m, &c, NULL, &o, err), QCHAIN_E_LIMIT);
    o.max_layers = 1;
    o.flags = QCHAIN_OPEN_NO_BACKING;
    assert_int_equal(mem_chain_open(m, &c, NULL, &o, err), 0);
    assert_int_equal(qchain_layers(c), 1);
    qchain_close(c);
    for (int k = 0; k < 6; k++)
        assert_int_equal(atomic_load(&m->layer[k].n_open), 0);
    qchain_policy_destroy(p);
    qchain_error_destroy(err);
    mem_chain_destroy(m);
}

static void policy_decides(void **unused)
{
    struct mem_chain *m = layers(2);
    qchain_policy *p = qchain_policy_create();
    qchain_error *err = qchain_error_create();
    char sub[] = "/tmp/qc-open-XXXXXX", path[128];
    qchain_open_opts o;
    qchain *c = NULL;

    (void)unused;
    assert_non_null(mkdtemp(sub));
    snprintf(path, sizeof(path), "%s/layer0", sub);
    assert_int_equal(rename(in_dir("layer0"), path), 0);
    unlink(in_dir("elsewhere"));
    snprintf(path, sizeof(path), "%s/layer1", sub);
    assert_int_equal(symlink(in_dir("layer1"), path), 0); /* leads out of the directory */
    snprintf(path, sizeof(path), "%s/layer0", sub);
    assert_int_equal(qchain_open(&c, NULL, path, NULL, err), QCHAIN_E_ACCESS);
    assert_non_null(strstr(qchain_error_message(err), "--allow-path"));
    qchain_open_opts_init(&o, sizeof(o));
    o.policy = p;
    assert_int_equal(qchain_policy_allow_path(p, dir, err), 0);
    assert_int_equal(qchain_open(&c, NULL, path, &o, err), 0);
    check_content(m, c);
    qchain_close(c);
    /* A backing file whose format is not recorded. */
    memset(m->layer[0].file + 104, 0, 16);
    write_layer(m, 0);
    assert_int_equal(qchain_open(&c, NULL, in_dir("layer0"), NULL, err), QCHAIN_E_ACCESS);
    assert_non_null(strstr(qchain_error_message(err), "--backing-format"));
    assert_int_equal(qchain_policy_backing_format(p, "qcow2", err), 0);
    assert_int_equal(qchain_open(&c, NULL, in_dir("layer0"), &o, err), 0);
    check_content(m, c);
    qchain_close(c);
    /* A chain that bites its tail. */
    memcpy(m->layer[1].file, m->layer[0].file, 4096);
    memcpy(m->layer[1].file + 200, "layer0", 6);
    write_layer(m, 1);
    assert_int_equal(qchain_open(&c, NULL, in_dir("layer0"), &o, err), QCHAIN_E_CHAIN);
    assert_int_equal(qchain_error_layer(err), 2);
    unlink(path);
    snprintf(path, sizeof(path), "%s/layer1", sub);
    unlink(path);
    rmdir(sub);
    qchain_policy_destroy(p);
    qchain_error_destroy(err);
    mem_chain_destroy(m);
}

static void stores_are_closed_when_the_open_fails(void **unused)
{
    struct mem_chain *m = mem_chain_create(1);
    struct {
        qchain_open_opts o;
        uint64_t         newer;
    } larger;
    qchain_store top;
    qchain *c = NULL;

    (void)unused;
    mem_layer_init(m, 0, 1 << 20, 12);
    for (int i = 0; i < 6; i++) {
        memset(&larger, 0, sizeof(larger));
        qchain_open_opts_init(&larger.o, sizeof(larger));
        mem_layer_store(m, 0, &top);
        larger.o.store = &top;
        larger.newer = i == 0;
        larger.o.flags = i == 1 ? 1u << 30 : i == 2 ? QCHAIN_OPEN_WRITE : 0;
        larger.o.format = i == 3 ? "vmdk" : NULL;
        larger.o.snapshot = i == 4 ? "none" : NULL;
        m->layer[0].fail_from = i == 5 ? 0 : -1;
        m->layer[0].fail_to = 1 << 30;
        assert_true(qchain_open(&c, NULL, "x", &larger.o, NULL) < 0);
        assert_null(c);
        assert_int_equal(atomic_load(&m->layer[0].n_open), 0);
    }
    mem_chain_destroy(m);
}

static void inspecting_opens_one_image(void **unused)
{
    struct mem_chain *m = layers(3);
    qchain_image_info *info = NULL;
    qchain_open_opts o;
    qchain_store top;

    (void)unused;
    qchain_open_opts_init(&o, sizeof(o));
    mem_layer_store(m, 0, &top);
    o.store = &top;
    assert_int_equal(qchain_inspect(&info, NULL, "d/layer0", &o, NULL), 0);
    assert_string_equal(info->format, "qcow2");
    assert_string_equal(info->name, "d/layer0");
    assert_string_equal(info->backing_name, "layer1");
    assert_string_equal(info->backing_resolved, "d/layer1");
    assert_string_equal(info->backing_format, "qcow2");
    assert_int_equal(info->virtual_size, 1 << 20);
    assert_int_equal(info->cluster_size, 4096);
    assert_int_equal(info->file_size, m->layer[0].file_size);
    qchain_image_info_free(info);
    qchain_image_info_free(NULL);
    assert_int_equal(atomic_load(&m->layer[0].n_open), 0);
    mem_chain_destroy(m);
}

static int make_dir(void **unused)
{
    (void)unused;
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **unused)
{
    char name[32];

    (void)unused;
    for (int k = 0; k < 150; k++) {
        snprintf(name, sizeof(name), "layer%d", k);
        unlink(in_dir(name));
    }
    unlink(in_dir("elsewhere"));
    return rmdir(dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(resolvers_decide),
        cmocka_unit_test(a_descriptor_without_a_name_allows_nothing_here),
        cmocka_unit_test(few_descriptors_serve_many_layers),
        cmocka_unit_test(depth_is_limited),
        cmocka_unit_test(policy_decides),
        cmocka_unit_test(stores_are_closed_when_the_open_fails),
        cmocka_unit_test(inspecting_opens_one_image),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
