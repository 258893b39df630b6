/* SPDX-License-Identifier: MIT */
/* Objects opened, read, put and given up, against a server in this process. */
#include "net/http_server.h"
#include "image_tools.h"

#include "remote/remote_int.h"
#include "util/alloc.h"
#include "util/bytes.h"

#define SIZE 3000000u
#define HEAD 65536u

static struct srv *srv, *other;
static qchain_remote *conf;
static struct qc_remote_deps deps;
static atomic_uint_fast64_t next_owner;
static struct qc_remote *remote;
static qchain_error err;
static char scratch[64];

static void open_remote(void)
{
    deps.leaves = qc_tasks_create(2);
    deps.blocks = qc_block_cache_create(32 << 20);
    deps.slots = qc_slots_create();
    deps.next_owner = &next_owner;
    assert_int_equal(qc_remote_create(&remote, conf, &deps, &err), 0);
}

static void close_remote(void)
{
    qc_remote_stop(remote);
    qc_tasks_destroy(deps.leaves);
    qc_remote_destroy(remote);
    assert_int_equal(qc_block_cache_bytes(deps.blocks), 0);
    qc_block_cache_destroy(deps.blocks);
    qc_slots_destroy(deps.slots);
}

static void reopen_remote(void)
{
    close_remote();
    open_remote();
}

static int setup(void **unused)
{
    (void)unused;
    srv = srv_start(SIZE);
    other = srv_start(SIZE);
    conf = qc_conf_new();
    conf->proxy = qc_strdup("");
    conf->deadline_ms = 60000; /* a slow machine is no slow server */
    conf->connect_ms = 20000;
    conf->stall_ms = 20000;
    conf->hedge = false;
    conf->block_bytes = 1 << 20;
    qc_error_init(&err);
    strcpy(scratch, "/var/tmp/qc-remote-XXXXXX");
    assert_non_null(mkdtemp(scratch));
    open_remote();
    return 0;
}

static int teardown(void **unused)
{
    char cmd[128];

    (void)unused;
    close_remote();
    qc_conf_free(conf);
    srv_stop(srv);
    srv_stop(other);
    snprintf(cmd, sizeof(cmd), "rm -rf '%s'", scratch);
    return system(cmd);
}

static const char *url(const struct srv *s, const char *path)
{
    static _Thread_local char name[2][300];
    static _Thread_local unsigned i;
    char *to = name[i++ % 2];

    snprintf(to, sizeof(name[0]), "http://127.0.0.1:%u%s", s->port, path);
    return to;
}

static unsigned seen(struct srv *s)
{
    unsigned n;

    pthread_mutex_lock(&s->lock);
    n = s->n_seen;
    pthread_mutex_unlock(&s->lock);
    return n;
}

/* What the server saw as request i. */
static const char *seen_header(struct srv *s, unsigned i, const char *name)
{
    assert_true(i < seen(s));
    return srv_header(s->seen[i].head, name);
}

static struct qc_opening *begin(const char *path, uint32_t flags)
{
    struct qc_opening *o;

    if (qc_remote_begin(&o, remote, url(srv, path), flags, &err) != 0)
        fail_msg("%s", err.text);
    return o;
}

static struct qc_store *open_store(const char *path)
{
    struct qc_store *s = NULL;

    if (qc_remote_finish(begin(path, 0), &s, &err) != 0)
        fail_msg("%s", err.text);
    assert_true(qc_remote_is(s) && qc_store_is_far(s));
    return s;
}

static int read_at(struct qc_store *s, uint64_t offset, size_t length, uint32_t flags)
{
    char *buf = malloc(length);
    int ret;

    qc_error_init(&err);
    ret = qc_store_read(s, buf, length, offset, flags, &err);
    if (ret == 0)
        assert_true(srv_is(buf, length, offset, srv->seed));
    else
        assert_true(ret == err.code && err.text[0]);
    free(buf);
    return ret;
}

/* ------------------------------------------------------------------ opening --- */

static void opening_is_one_request(void **unused)
{
    struct qc_store *s = open_store("/disk");
    const struct qc_pin *pin = qc_remote_pin(s);

    (void)unused;
    assert_int_equal(s->size, SIZE);
    assert_int_equal(pin->size, SIZE);
    assert_string_equal(pin->etag, "\"one\"");
    assert_string_equal(s->identity.etag, "\"one\"");
    assert_int_equal(read_at(s, 0, HEAD, QC_READ_META), 0);
    assert_int_equal(read_at(s, 1000, 64, 0), 0);
    assert_int_equal(seen(srv), 1);
    assert_string_equal(srv->seen[0].method, "GET");
    assert_string_equal(seen_header(srv, 0, "Range"), "bytes=0-65535");
    assert_null(seen_header(srv, 0, "If-Match"));
    assert_int_equal(read_at(s, HEAD, 10, QC_READ_META), 0);
    assert_string_equal(seen_header(srv, 1, "Range"), "bytes=65536-69631");
    assert_string_equal(seen_header(srv, 1, "If-Match"), "\"one\"");
    assert_int_equal(read_at(s, SIZE - 1, 1, 0), 0);
    assert_string_equal(seen_header(srv, 2, "Range"), "bytes=2097152-2999999");
    qc_store_destroy(s);
    /* As much as there is of a small one, whole. */
    assert_int_equal(qc_remote_finish(begin("/index", QC_REMOTE_WHOLE), &s, &err), 0);
    assert_int_equal(read_at(s, 0, 1 << 20, QC_READ_META), 0);
    assert_int_equal(seen(srv), 4);
    assert_string_equal(seen_header(srv, 3, "Range"), "bytes=0-1048575");
    qc_store_destroy(s);
}

static void sizes_of_objects(void **unused)
{
    static const uint32_t sizes[] = {0, 1, 4095, 4096, 4097, 5000, HEAD - 1, HEAD, HEAD + 1};

    (void)unused;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (int flags = 0; flags <= (int)QC_REMOTE_WHOLE; flags += QC_REMOTE_WHOLE) {
            struct qc_store *s;
            uint32_t size = sizes[i];
            unsigned before = seen(srv);

            srv->size = size;
            assert_int_equal(qc_remote_finish(begin("/disk", (uint32_t)flags), &s, &err), 0);
            assert_int_equal(s->size, size);
            for (uint32_t n = 1; n <= size; n += 1 + n / 2) {
                assert_int_equal(read_at(s, size - n, n, QC_READ_META), 0);
                assert_int_equal(read_at(s, 0, n, 0), 0);
            }
            assert_int_equal(read_at(s, size, 1, 0), QCHAIN_E_CORRUPT);
            if (size <= HEAD || flags)
                assert_int_equal(seen(srv), before + 1);
            qc_store_destroy(s);
        }
    }
}

static void what_is_missing_is_remembered(void **unused)
{
    struct qc_store *s;

    (void)unused;
    srv_add(srv, (struct srv_step){.path = "/disk.qci", .status = 404, .times = 100});
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(qc_remote_finish(begin("/disk.qci", QC_REMOTE_MISSING_OK), &s, &err),
                         QCHAIN_E_NOTFOUND);
        assert_int_equal(err.code, QCHAIN_E_NOTFOUND);
        assert_true(err.text[0]);
        assert_int_equal(seen(srv), 1);
        qc_remote_abandon(begin("/disk.qci", QC_REMOTE_MISSING_OK));
    }
    /* Who needs it asks. */
    assert_int_equal(qc_remote_finish(begin("/disk.qci", 0), &s, &err), QCHAIN_E_NOTFOUND);
    assert_int_equal(seen(srv), 2);
    assert_null(strstr(err.text, "\n"));
    /* Another name, too. */
    assert_int_equal(qc_remote_finish(begin("/disk2.qci", QC_REMOTE_MISSING_OK), &s, &err), 0);
    qc_store_destroy(s);
    assert_int_equal(seen(srv), 3);
    /* And whoever puts one there. */
    assert_int_equal(qc_remote_put(remote, url(srv, "/disk.qci"), "hello", 5, false, &err),
                     QCHAIN_E_NOTFOUND);
    srv->step[0].path = "/nowhere";
    assert_int_equal(qc_remote_finish(begin("/disk.qci", QC_REMOTE_MISSING_OK), &s, &err),
                     QCHAIN_E_NOTFOUND);
    assert_int_equal(qc_remote_put(remote, url(srv, "/disk.qci"), "hello", 5, false, &err), 0);
    assert_int_equal(qc_remote_finish(begin("/disk.qci", QC_REMOTE_MISSING_OK), &s, &err), 0);
    qc_store_destroy(s);
}

static void names(void **unused)
{
    struct qc_opening *o = begin("/dir/disk?token=hidden", 0);
    struct qc_store *near = memory_store("x", 1, 1), *s;
    char *name;

    (void)unused;
    assert_true(qc_remote_name("https://x/y") && qc_remote_name("S3://b/k") && qc_remote_name("gs://b/k"));
    assert_false(qc_remote_name("/http://x") || qc_remote_name("file:///x") || qc_remote_name("az:/b/k"));
    qc_remote_abandon(o);
    o = begin("/dir/disk", 0);
    assert_int_equal(qc_remote_sibling_of(&name, remote, url(srv, "/dir/disk"), ".qci", &err), 0);
    assert_string_equal(name, url(srv, "/dir/disk.qci"));
    qc_free(name);
    assert_int_equal(qc_remote_finish(o, &s, &err), 0);
    name = qc_remote_sibling(s, ".qci");
    assert_string_equal(name, url(srv, "/dir/disk.qci"));
    qc_free(name);
    qc_store_destroy(s);
    assert_false(qc_remote_is(near));
    assert_null(qc_remote_pin(near));
    assert_null(qc_remote_sibling(near, ".qci"));
    qc_remote_keep(near, true);
    qc_store_destroy(near);
    o = NULL;
    assert_int_equal(qc_remote_begin(&o, remote, "http://", 0, &err), QCHAIN_E_INVAL);
    assert_null(o);
    qc_remote_abandon(NULL);
    srv_only(srv, (struct srv_step){.status = 403});
    assert_int_equal(qc_remote_finish(begin("/disk?token=hidden", 0), &s, &err), QCHAIN_E_AUTH);
    assert_null(strstr(err.text, "hidden"));
}

/* ----------------------------------------------------- while it is arriving --- */

static void the_head_is_still_arriving(void **unused)
{
    int64_t begun;
    struct qc_store *s;

    (void)unused;
    conf->stall_ms = 5000;
    reopen_remote();
    srv_add(srv, (struct srv_step){.end = SRV_STALL, .at = 16384});
    begun = srv_now_ms();
    s = open_store("/disk");
    assert_int_equal(s->size, SIZE);
    assert_int_equal(read_at(s, 0, 4096, QC_READ_META), 0);
    assert_int_equal(read_at(s, 500, 3000, 0), 0);
    assert_int_equal(seen(srv), 1); /* before the stall is noticed */
    assert_int_equal(read_at(s, 16000, 30000, QC_READ_META), 0); /* the rest of it, by another attempt */
    assert_true(srv_now_ms() - begun >= 4900);
    assert_int_equal(seen(srv), 2);
    assert_string_equal(seen_header(srv, 1, "If-Match"), "\"one\"");
    assert_int_equal(read_at(s, 0, HEAD, QC_READ_META), 0);
    assert_int_equal(seen(srv), 2);
    qc_store_destroy(s);
}

/* It breaks off, and another try finds another object. */
static void another_object_meanwhile(void **unused)
{
    struct qc_store *s;

    (void)unused;
    conf->stall_ms = 1000;
    reopen_remote();
    srv_add(srv, (struct srv_step){.end = SRV_STALL, .at = 16384});
    s = open_store("/disk");
    assert_int_equal(read_at(s, 0, 4096, QC_READ_META), 0);
    strcpy(srv->etag, "\"two\"");
    assert_int_equal(read_at(s, 30000, 30000, QC_READ_META), QCHAIN_E_CHANGED);
    assert_int_equal(read_at(s, 0, 4096, QC_READ_META), QCHAIN_E_CHANGED);
    qc_store_destroy(s);
}

/* The first bytes come, the rest never does: who waits is told, and the next one asks for himself. */
static void the_head_fails_late(void **unused)
{
    struct qc_store *s;

    (void)unused;
    conf->stall_ms = 2000;
    conf->deadline_ms = 3000;
    reopen_remote();
    srv_add(srv, (struct srv_step){.end = SRV_STALL, .at = 16384});
    srv_add(srv, (struct srv_step){.end = SRV_STALL, .at = 5, .times = 1});
    s = open_store("/disk");
    assert_int_equal(read_at(s, 30000, 100, QC_READ_META), QCHAIN_E_TIMEOUT);
    assert_int_equal(read_at(s, 30000, 100, QC_READ_META), 0);
    assert_int_equal(read_at(s, 0, HEAD, QC_READ_META), 0);
    qc_store_destroy(s);
}

static void given_up_at_any_moment(void **unused)
{
    struct qc_store *s;

    (void)unused;
    for (unsigned i = 0; i < 60; i++) {
        struct qc_opening *o;

        if (i % 3 == 0)
            srv_only(srv, (struct srv_step){.end = SRV_STALL, .at = (long)i * 300});
        else if (i % 3 == 1)
            srv_only(srv, (struct srv_step){.delay_ms = (int)i % 7});
        o = begin("/disk", i % 2 ? QC_REMOTE_MISSING_OK : 0);
        usleep(i * 60);
        if (i % 5 != 4 || i % 3 == 0) {
            qc_remote_abandon(o);
            continue;
        }
        assert_int_equal(qc_remote_finish(o, &s, &err), 0);
        if (i % 2)
            assert_int_equal(read_at(s, 100, 10, QC_READ_META), 0);
        qc_store_destroy(s); /* the rest is still arriving */
    }
}

/* Finished at the moment when the last bytes come, many times. */
static void finished_at_any_moment(void **unused)
{
    struct qc_store *s;

    (void)unused;
    for (unsigned i = 0; i < 150; i++) {
        struct qc_opening *o = begin("/disk", 0);

        usleep(i * 10);
        assert_int_equal(qc_remote_finish(o, &s, &err), 0);
        assert_int_equal(read_at(s, i * 300, 4000, QC_READ_META), 0);
        qc_store_destroy(s);
    }
    assert_int_equal(seen(srv), 150);
}

static void ended_while_all_hangs(void **unused)
{
    int64_t begun;
    struct qc_store *s;

    (void)unused;
    for (int caches = 0; caches < 2; caches++) {
        if (caches)
            conf->cache_dir = qc_asprintf("%s/c", scratch);
        conf->stall_ms = 60000;
        conf->deadline_ms = 60000;
        reopen_remote();
        srv_only(srv, (struct srv_step){.end = SRV_STALL, .at = 16384, .times = 50});
        for (int i = 0; i < 5; i++) {
            s = open_store("/disk");
            assert_int_equal(read_at(s, 0, 4096, QC_READ_META), 0);
            qc_store_destroy(s);
        }
        for (int i = 0; i < 5; i++)
            qc_remote_abandon(begin("/disk", 0));
        begun = srv_now_ms();
        reopen_remote();
        assert_true(srv_now_ms() - begun < 40000);
        srv_only(srv, (struct srv_step){.delay_ms = 1});
        qc_store_destroy(open_store("/disk"));
    }
}

/* --------------------------------------------------------------------- pins --- */

static void pinned(void **unused)
{
    struct qc_pin pin = {.size = SIZE, .etag = "\"one\""};
    struct qc_store *s;

    (void)unused;
    assert_int_equal(qc_remote_open_pinned(&s, remote, url(srv, "/disk"), &pin, &err), 0);
    assert_int_equal(seen(srv), 0);
    assert_int_equal(s->size, SIZE);
    assert_true(qc_pin_same(qc_remote_pin(s), &pin));
    assert_int_equal(read_at(s, 100, 100, QC_READ_META), 0);
    assert_string_equal(seen_header(srv, 0, "Range"), "bytes=0-65535");
    assert_string_equal(seen_header(srv, 0, "If-Match"), "\"one\"");
    qc_store_destroy(s);
    strcpy(pin.etag, "\"older\"");
    assert_int_equal(qc_remote_open_pinned(&s, remote, url(srv, "/disk"), &pin, &err), 0);
    assert_int_equal(read_at(s, SIZE - 100, 100, 0), QCHAIN_E_CHANGED);
    assert_int_equal(read_at(s, 0, 100, 0), QCHAIN_E_CHANGED);
    assert_int_equal(seen(srv), 2); /* the second was not asked for */
    qc_store_destroy(s);
    assert_int_equal(qc_remote_open_pinned(&s, remote, "http://", &pin, &err), QCHAIN_E_INVAL);
    pin.size = 0;
    assert_int_equal(qc_remote_open_pinned(&s, remote, url(srv, "/disk"), &pin, &err), 0);
    qc_store_destroy(s);
}

/* ---------------------------------------------------------- rules by prefix --- */

static void set_rules(const char *format)
{
    char text[400];

    snprintf(text, sizeof(text), format, srv->port, other->port);
    if (qc_conf_read(conf, text, "rules", &err) != 0)
        fail_msg("%s", err.text);
    reopen_remote();
}

static void replicas(void **unused)
{
    struct qc_store *s;

    (void)unused;
    set_rules("replica http://127.0.0.1:%u/a/b/ http://127.0.0.1:%u/copy/\n");
    for (int i = 0; i < 3; i++) {
        static const char *const path[] = {"/a/b/c/disk", "/a/bc/disk", "/x/a/b/disk"};

        s = open_store(path[i]);
        srv_only(srv, (struct srv_step){.status = 503, .times = 2});
        other->n_seen = 0;
        assert_int_equal(read_at(s, SIZE - 10, 10, QC_READ_META), 0);
        assert_int_equal(seen(other), i == 0);
        if (i == 0) {
            assert_string_equal(other->seen[0].path, "/copy/c/disk");
            /* The replica's own validator is not known yet: its size is what counts. */
            assert_string_equal(seen_header(other, 0, "Range"), "bytes=2998272-2999999");
        }
        qc_store_destroy(s);
    }
    /* A server that cannot do it is no reason to fail either. */
    set_rules("replica http://127.0.0.1:%u/a/b/ http://127.0.0.1:%u/copy/\n");
    srv_only(srv, (struct srv_step){.status = 501, .times = 1000});
    qc_store_destroy(open_store("/a/b/c/disk"));
}

static void regions(void **unused)
{
    struct qc_store *s;
    unsigned n;

    (void)unused;
    srv_only(other, (struct srv_step){.status = 404, .times = 1000});
    other->step[1] = (struct srv_step){.times = 0};
    set_rules("region http://127.0.0.1:%u/a/ http://127.0.0.1:%u/near\n");
    s = open_store("/b/disk");
    assert_int_equal(read_at(s, SIZE - 10, 10, 0), 0);
    assert_int_equal(seen(other), 0);
    qc_store_destroy(s);
    s = open_store("/a/disk");
    n = seen(srv);
    assert_int_equal(read_at(s, SIZE - 10, 10, 0), 0);
    assert_true(seen(other) >= 1); /* asked first, and it had none */
    assert_int_equal(seen(srv), n + 1);
    assert_int_equal(strncmp(other->seen[0].path, "/near/", 6), 0);
    assert_int_equal(read_at(s, 10, 10, 0), 0);
    qc_store_destroy(s);
}

/* ----------------------------------------------------------------- disk cache --- */

static void the_head_is_kept_on_disk(void **unused)
{
    struct qc_store *s;
    unsigned n;

    (void)unused;
    conf->cache_dir = qc_asprintf("%s/c", scratch);
    conf->revalidate_s = 1000;
    reopen_remote();
    s = open_store("/disk");
    assert_int_equal(read_at(s, 0, HEAD, QC_READ_META), 0);
    assert_int_equal(read_at(s, SIZE - 10, 10, 0), 0);
    qc_store_destroy(s);
    reopen_remote(); /* all that was on its way to the disk is there */
    n = seen(srv);
    assert_int_equal(n, 2);
    s = open_store("/disk");
    assert_int_equal(read_at(s, 100, 60000, QC_READ_META), 0);
    assert_int_equal(read_at(s, 5000, 10, 0), 0);
    assert_int_equal(read_at(s, SIZE - 500, 500, 0), 0);
    assert_int_equal(seen(srv), n); /* nothing was asked */
    qc_store_destroy(s);
}

/* Stores that are closed at once, environments that end at once: with all caches. */
static void ended_at_once(void **unused)
{
    (void)unused;
    conf->cache_dir = qc_asprintf("%s/c", scratch);
    set_rules("region http://127.0.0.1:%u/a/ http://127.0.0.1:%u/near\n");
    for (unsigned i = 0; i < 30; i++) {
        char path[32];

        snprintf(path, sizeof(path), "/a/%u", i);
        qc_store_destroy(open_store(path));
        if (i % 3 == 0)
            qc_remote_abandon(begin(path, QC_REMOTE_WHOLE));
        reopen_remote();
    }
}

/* ------------------------------------------------------------------- writing --- */

static void put_and_delete(void **unused)
{
    (void)unused;
    assert_int_equal(qc_remote_put(remote, url(srv, "/new"), "hello", 5, true, &err), 0);
    assert_int_equal(srv->n_stored, 5);
    assert_memory_equal(srv->stored, "hello", 5);
    assert_string_equal(srv->seen[0].method, "PUT");
    assert_string_equal(seen_header(srv, 0, "If-None-Match"), "*");
    assert_int_equal(qc_remote_put(remote, url(srv, "/new"), "hello", 5, true, &err), QCHAIN_E_BUSY);
    assert_int_equal(err.code, QCHAIN_E_BUSY);
    assert_int_equal(qc_remote_put(remote, url(srv, "/new"), "other", 5, false, &err), 0);
    assert_memory_equal(srv->stored, "other", 5);
    assert_null(seen_header(srv, seen(srv) - 1, "If-None-Match"));
    assert_int_equal(qc_remote_delete(remote, url(srv, "/new"), &err), 0);
    assert_string_equal(srv->seen[seen(srv) - 1].method, "DELETE");
    assert_int_equal(qc_remote_put(remote, "http://", "x", 1, false, &err), QCHAIN_E_INVAL);
    srv_only(srv, (struct srv_step){.status = 403});
    assert_int_equal(qc_remote_delete(remote, url(srv, "/new"), &err), QCHAIN_E_AUTH);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(opening_is_one_request), T(sizes_of_objects), T(what_is_missing_is_remembered), T(names),
        T(the_head_is_still_arriving), T(another_object_meanwhile), T(the_head_fails_late),
        T(given_up_at_any_moment), T(finished_at_any_moment), T(ended_while_all_hangs), T(pinned),
        T(replicas), T(regions), T(the_head_is_kept_on_disk), T(ended_at_once), T(put_and_delete),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
