/* SPDX-License-Identifier: MIT */
/* Sidecars of chains behind URLs: written, used, compared with their stores, not believed. */
#include <fcntl.h>
#include <sys/stat.h>

#include "share.h"
#include "object_server.h"

#include "chain/chain.h"
#include "image_tools.h"
#include "mem_layers.h"
#include "util/error.h"

/* The library's memory, of which any piece can be refused. */
static atomic_long countdown;

static int refused(void)
{
    return atomic_load(&countdown) > 0 && atomic_fetch_sub(&countdown, 1) == 1;
}

#define malloc(n) (refused() ? NULL : malloc(n))
#define calloc(n, size) (refused() ? NULL : calloc(n, size))
#define realloc(p, n) (refused() ? NULL : realloc(p, n))
#include "util/alloc.c"
#undef malloc
#undef calloc
#undef realloc

#define LAYERS 6
#define MIB (UINT64_C(1) << 20)
#define DATA (4 * MIB) /* where a layer's cluster is, by its number */
#define SECRET "Zk93secret"

static char dir[] = "/tmp/qc-sidecar-url-XXXXXX";
static qchain_error *err;
static struct object_server *server;
static struct mem_chain *m;

static const char *in_dir(const char *name)
{
    static char path[128];

    snprintf(path, sizeof(path), "%s/%s", dir, name);
    return path;
}

/* before: "user:password@", behind: "?query". */
static const char *url_of(const char *before, const char *name, const char *behind)
{
    static char url[4][256];
    static int n;

    n = (n + 1) % 4;
    snprintf(url[n], sizeof(url[n]), "http://%s127.0.0.1:%u/%s%s", before, server->port, name, behind);
    return url[n];
}

static const char *top(void)
{
    return url_of("", "layer0", "");
}

static void put_layer(uint32_t k)
{
    char name[32];

    snprintf(name, sizeof(name), "/layer%u", k);
    object_put(server, name, m->layer[k].file, m->layer[k].file_size);
}

static struct object *layer_object(uint32_t k)
{
    char name[32];

    snprintf(name, sizeof(name), "/layer%u", k);
    return object_find(server, name);
}

/* Layer k has one cluster at k * DATA, and the lowest a few more. */
static int serve(void **unused)
{
    (void)unused;
    server = object_server_start();
    m = mem_chain_create(LAYERS);
    for (uint32_t k = 0; k < LAYERS; k++)
        mem_layer_init(m, k, LAYERS * DATA, 16);
    for (uint32_t k = 0; k < LAYERS; k++)
        mem_layer_set(m, k, k * DATA >> 16, MEM_DATA);
    for (uint32_t i = 1; i < 10; i++)
        mem_layer_set(m, LAYERS - 1, i, i % 2 ? MEM_COMPRESSED : MEM_DATA);
    for (uint32_t k = 0; k < LAYERS; k++)
        put_layer(k);
    return 0;
}

static int end_serving(void **unused)
{
    (void)unused;
    object_server_stop(server);
    mem_chain_destroy(m);
    return 0;
}

/* The object is gone from now on, or another one of the same bytes. */
static void change_layer(uint32_t k, bool gone)
{
    pthread_mutex_lock(&server->lock);
    layer_object(k)->gone = gone;
    layer_object(k)->generation = ++server->generation;
    pthread_mutex_unlock(&server->lock);
}

static unsigned requests(void)
{
    unsigned n;

    pthread_mutex_lock(&server->lock);
    n = server->requests;
    pthread_mutex_unlock(&server->lock);
    return n;
}

static unsigned checks_of(uint32_t k)
{
    unsigned n;

    pthread_mutex_lock(&server->lock);
    n = layer_object(k)->checks;
    pthread_mutex_unlock(&server->lock);
    return n;
}

static qchain_env *new_env(const char *rules)
{
    qchain_remote *r = qchain_remote_create();
    qchain_env *env = NULL;
    qchain_env_opts o;

    assert_int_equal(qchain_remote_parse(r, "hedge off\ndeadline 60\n", err), 0);
    assert_int_equal(qchain_remote_parse(r, rules, err), 0);
    qchain_env_opts_init(&o, sizeof(o));
    o.remote = r;
    assert_int_equal(qchain_env_create(&env, &o, err), 0);
    qchain_remote_destroy(r);
    return env;
}

static qchain *try_open(qchain_env *env, const char *name, uint32_t flags, const char *index)
{
    qchain_open_opts o;
    qchain *c = NULL;

    qchain_open_opts_init(&o, sizeof(o));
    o.flags = flags;
    o.index = index;
    return qchain_open(&c, env, name, &o, err) == 0 ? c : NULL;
}

static qchain *open_chain(qchain_env *env, const char *name, uint32_t flags, const char *index)
{
    qchain *c = try_open(env, name, flags, index);

    if (!c)
        fail_msg("%s", qchain_error_message(err));
    return c;
}

static int build(const char *name, uint32_t flags, const char *index)
{
    qchain_env *env = new_env("verify first-read");
    qchain *c = open_chain(env, name, flags, index);
    qchain_index_opts o;
    int ret;

    qchain_index_opts_init(&o, sizeof(o));
    o.name = index;
    ret = qchain_index_build(c, &o, err);
    qchain_close(c);
    qchain_env_destroy(env);
    return ret;
}

static void must_build(void)
{
    if (build(top(), QCHAIN_OPEN_NO_INDEX, NULL) != 0)
        fail_msg("%s", qchain_error_message(err));
}

static int verify(const char *name, const char *index)
{
    qchain_env *env = new_env("");
    qchain *c = open_chain(env, name, QCHAIN_OPEN_NO_INDEX, NULL);
    qchain_index_opts o;
    int ret;

    qchain_index_opts_init(&o, sizeof(o));
    o.name = index;
    ret = qchain_index_verify(c, &o, err);
    qchain_close(c);
    qchain_env_destroy(env);
    return ret;
}

static int drop(const char *name, const char *index)
{
    qchain_index_opts o;

    qchain_index_opts_init(&o, sizeof(o));
    o.name = index;
    return qchain_index_drop(NULL, name, &o, err);
}

static void same_maps(qchain *a, qchain *b)
{
    static qchain_extent ea[200], eb[200];
    uint64_t next_a, next_b;
    uint32_t na, nb;

    memset(ea, 0, sizeof(ea));
    memset(eb, 0, sizeof(eb));
    assert_int_equal(qchain_map(a, 0, UINT64_MAX, ea, 200, &na, &next_a, 0, err), 0);
    assert_int_equal(qchain_map(b, 0, UINT64_MAX, eb, 200, &nb, &next_b, 0, err), 0);
    assert_int_equal(next_a, qchain_size(a));
    assert_int_equal(na, nb);
    assert_memory_equal(ea, eb, na * sizeof(ea[0]));
}

static void is_right(qchain *c)
{
    uint8_t *got = malloc(DATA), *want = malloc(DATA);

    for (uint64_t at = 0; at < LAYERS * DATA; at += DATA) {
        if (qchain_read(c, got, DATA, at, 0, err) != 0)
            fail_msg("%s", qchain_error_message(err));
        mem_chain_read(m, want, DATA, at);
        assert_memory_equal(got, want, DATA);
    }
    free(got);
    free(want);
}

/* How many layers come from the sidecar when the chain is opened; all is right anyway. */
static uint32_t used(const char *rules, const char *name, const char *index)
{
    qchain_env *env = new_env(rules);
    qchain *c = open_chain(env, name, 0, index);
    qchain *plain = open_chain(env, name, QCHAIN_OPEN_NO_INDEX, NULL);
    uint32_t n = qchain_index_layers(c);

    same_maps(c, plain);
    is_right(c);
    qchain_close(c);
    qchain_close(plain);
    qchain_env_destroy(env);
    return n;
}

static int read_at(qchain *c, uint32_t k)
{
    char byte;

    return qchain_read(c, &byte, 1, k * DATA, 0, err);
}

static void nap(int ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000L};

    nanosleep(&t, NULL);
}

/* ---------------------------------------------------------------------- the index --- */

static void is_built_and_used(void **unused)
{
    qchain_index_info *info;
    qchain_env *env;
    unsigned before;
    qchain *c;

    (void)unused;
    assert_int_equal(used("", top(), NULL), 0);
    must_build();
    assert_int_equal(verify(top(), NULL), 0);
    assert_int_equal(used("", top(), NULL), LAYERS);
    assert_int_equal(used("verify strict", top(), NULL), LAYERS);
    env = new_env("verify first-read");
    before = requests();
    c = open_chain(env, top(), 0, NULL);
    assert_int_equal(requests() - before, 2);
    assert_int_equal(read_at(c, 0), 0);
    assert_true(requests() - before <= 3);
    qchain_close(c);
    assert_int_equal(qchain_index_inspect(&info, env, top(), NULL, err), 0);
    assert_null(info->why_not);
    assert_int_equal(info->n_files, LAYERS);
    assert_string_equal(info->files[0].name, "layer0");
    assert_string_equal(info->files[2].location, url_of("", "layer2", ""));
    assert_string_equal(info->name, url_of("", "layer0.qci", ""));
    qchain_index_info_free(info);
    qchain_env_destroy(env);
    /* From what is known, and over a layer's own. */
    assert_int_equal(build(top(), 0, NULL), 0);
    assert_int_equal(verify(top(), NULL), 0);
    assert_int_equal(drop(top(), NULL), 0);
    assert_int_equal(drop(top(), NULL), QCHAIN_E_NOTFOUND);
    assert_int_equal(verify(top(), NULL), QCHAIN_E_NOTFOUND);
    assert_int_equal(used("", top(), NULL), 0);
    assert_int_equal(build(url_of("", "layer2", ""), 0, NULL), 0);
    assert_int_equal(used("", top(), NULL), LAYERS - 2);
    assert_int_equal(build(top(), 0, NULL), 0);
    assert_int_equal(used("", top(), NULL), LAYERS);
    assert_int_equal(verify(top(), NULL), 0);
}

static void others_are_left_alone(void **unused)
{
    const char *other = url_of("", "layer3", "");
    unsigned generation = layer_object(3)->generation;

    (void)unused;
    assert_int_equal(build(top(), QCHAIN_OPEN_NO_INDEX, other), QCHAIN_E_INVAL);
    assert_int_equal(drop(NULL, other), QCHAIN_E_INVAL);
    object_put(server, "/short", "QCH", 3);
    assert_int_equal(drop(NULL, url_of("", "short", "")), QCHAIN_E_INVAL);
    assert_int_equal(layer_object(3)->generation, generation);
    assert_false(layer_object(3)->gone);
    object_put(server, "/empty", "", 0);
    assert_int_equal(build(top(), QCHAIN_OPEN_NO_INDEX, url_of("", "empty", "")), 0);
    assert_int_equal(verify(top(), url_of("", "empty", "")), 0);
    assert_int_equal(used("", top(), url_of("", "empty", "")), LAYERS);
}

static void flip(struct object *o, size_t at)
{
    pthread_mutex_lock(&server->lock);
    o->bytes[at] ^= 4;
    o->generation = ++server->generation;
    pthread_mutex_unlock(&server->lock);
}

/* Whatever is wrong with it, nothing fails. */
static void is_not_believed(void **unused)
{
    struct object *o;

    (void)unused;
    must_build();
    o = object_find(server, "/layer0.qci");
    for (size_t i = 0; i < o->size; i += 31 * short_by()) {
        flip(o, i);
        used("", top(), NULL);
        assert_int_not_equal(verify(top(), NULL), 0);
        flip(o, i);
    }
    put_layer(0); /* another generation of the same */
    assert_int_equal(used("", top(), NULL), 0);
    assert_int_equal(verify(top(), NULL), QCHAIN_E_CHANGED);
    must_build();
    put_layer(4);
    assert_int_equal(verify(top(), NULL), QCHAIN_E_CHANGED);
    must_build();
    pthread_mutex_lock(&server->lock);
    layer_object(4)->generation = 0; /* nothing that tells it from others */
    pthread_mutex_unlock(&server->lock);
    assert_int_equal(build(top(), QCHAIN_OPEN_NO_INDEX, NULL), QCHAIN_E_UNSUPPORTED);
    assert_non_null(strstr(qchain_error_message(err), "ETag"));
}

/* ---------------------------------------------------------------------- the layers --- */

static void strict_looks_at_all(void **unused)
{
    qchain_env *env = new_env("verify strict");
    qchain *c;

    (void)unused;
    must_build();
    c = open_chain(env, top(), 0, NULL);
    assert_int_equal(qchain_index_layers(c), LAYERS);
    assert_int_equal(checks_of(0), 0);
    for (uint32_t k = 1; k < LAYERS; k++)
        assert_int_equal(checks_of(k), 1);
    qchain_close(c);
    for (uint32_t k = 1; k < LAYERS; k++) {
        must_build();
        put_layer(k);
        c = open_chain(env, top(), 0, NULL);
        assert_int_equal(qchain_index_layers(c), 0);
        is_right(c);
        qchain_close(c);
    }
    must_build();
    change_layer(3, true);
    assert_null(try_open(env, top(), 0, NULL));
    assert_int_equal(qchain_error_code(err), QCHAIN_E_NOTFOUND);
    qchain_env_destroy(env);
}

static void first_read_looks_at_one(void **unused)
{
    qchain_env *env = new_env("verify first-read");
    qchain *c;

    (void)unused;
    must_build();
    put_layer(3);
    c = open_chain(env, top(), 0, NULL);
    assert_int_equal(qchain_index_layers(c), LAYERS);
    nap(1500);
    assert_int_equal(read_at(c, 4), 0);
    for (uint32_t k = 0; k < LAYERS; k++)
        assert_int_equal(checks_of(k), 0);
    assert_int_equal(read_at(c, 3), QCHAIN_E_CHANGED);
    assert_int_equal(read_at(c, 2), QCHAIN_E_CHANGED); /* the map was wrong, too */
    qchain_close(c);
    qchain_env_destroy(env);
}

/* Until reads fail, at most some seconds. */
static int wait_for_change(qchain *c)
{
    int ret = 0;

    for (int i = 0; i < 600 && ret == 0; i++) {
        nap(10);
        ret = read_at(c, 0);
    }
    return ret;
}

static void background_finds_out(void **unused)
{
    qchain_env *env = new_env("");
    qchain *c, *d;

    (void)unused;
    for (int gone = 0; gone < 2; gone++) {
        must_build();
        c = open_chain(env, top(), 0, NULL);
        d = open_chain(env, top(), 0, NULL);
        assert_int_equal(read_at(c, 0), 0);
        if (gone)
            change_layer(3, true);
        else
            put_layer(3);
        assert_int_equal(read_at(c, 0), 0);
        assert_int_equal(wait_for_change(c), QCHAIN_E_CHANGED);
        assert_int_equal(wait_for_change(d), QCHAIN_E_CHANGED);
        qchain_close(c);
        qchain_close(d);
        put_layer(3);
    }
    /* Who is as it was is left in peace, and asked once. */
    must_build();
    c = open_chain(env, top(), 0, NULL);
    assert_int_equal(read_at(c, 2), 0); /* this one is known */
    for (uint32_t k = 0; k < LAYERS; k++) {
        pthread_mutex_lock(&server->lock);
        layer_object(k)->checks = 0;
        pthread_mutex_unlock(&server->lock);
    }
    nap(2500);
    assert_int_equal(read_at(c, 0), 0);
    for (uint32_t k = 0; k < LAYERS; k++)
        assert_int_equal(checks_of(k), k != 0 && k != 2);
    is_right(c);
    qchain_close(c);
    qchain_env_destroy(env);
}

/* Neither a chain nor an environment waits for a server that says nothing. */
static void background_is_no_burden(void **unused)
{
    qchain_env *env = new_env("");
    uint64_t began;
    qchain *c;

    (void)unused;
    must_build();
    c = open_chain(env, top(), 0, NULL);
    pthread_mutex_lock(&server->lock);
    layer_object(1)->stalls = true;
    while (layer_object(1)->checks == 0)
        pthread_cond_wait(&server->changed, &server->lock);
    pthread_mutex_unlock(&server->lock);
    began = (uint64_t)time(NULL);
    assert_int_equal(read_at(c, 0), 0);
    qchain_close(c);
    qchain_env_destroy(env);
    assert_true((uint64_t)time(NULL) - began < 4);
}

/* Nor for tables that are read ahead. */
static void closing_waits_for_nobody(void **unused)
{
    qchain_env *env = new_env("");
    uint64_t began = (uint64_t)time(NULL);
    qchain *c;

    (void)unused;
    pthread_mutex_lock(&server->lock);
    for (uint32_t k = 0; k < LAYERS; k++) {
        layer_object(k)->stalls = true;
        layer_object(k)->stalls_at = 65536; /* behind the header */
    }
    pthread_mutex_unlock(&server->lock);
    c = open_chain(env, top(), 0, NULL);
    pthread_mutex_lock(&server->lock);
    while (layer_object(0)->gets < 2)
        pthread_cond_wait(&server->changed, &server->lock);
    pthread_mutex_unlock(&server->lock);
    qchain_close(c);
    qchain_env_destroy(env);
    assert_true((uint64_t)time(NULL) - began < 4);
}

struct crowd {
    qchain_env *env;
    const char *name;
    atomic_bool stop;
};

static void *open_and_close(void *arg)
{
    struct crowd *crowd = arg;
    uint64_t seed = (uint64_t)(uintptr_t)&seed;

    while (!atomic_load(&crowd->stop)) {
        qchain *c[4] = {0};

        for (int i = 0; i < 4; i++)
            assert_int_equal(qchain_open(&c[i], crowd->env, crowd->name, NULL, NULL), 0);
        nap(900 + (int)(random_next(&seed) % 600));
        for (int i = 0; i < 4; i++)
            qchain_close(c[(i + 1) % 4]);
    }
    return NULL;
}

static void many_chains_take_turns(void **unused)
{
    struct crowd crowd = {.env = new_env(""), .name = top()};
    unsigned before, n;
    pthread_t id[6];

    (void)unused;
    must_build();
    before = 0;
    for (uint32_t k = 0; k < LAYERS; k++)
        before += checks_of(k);
    for (int i = 0; i < 6; i++)
        assert_int_equal(pthread_create(&id[i], NULL, open_and_close, &crowd), 0);
    nap(2000);
    atomic_store(&crowd.stop, true);
    for (int i = 0; i < 6; i++)
        pthread_join(id[i], NULL);
    n = 0;
    for (uint32_t k = 0; k < LAYERS; k++)
        n += checks_of(k);
    qchain_env_destroy(crowd.env);
    assert_true(n - before > 3);
    assert_true(n - before < 80); /* 20 a second, though 24 chains have 5 layers each to ask for */
}

/* ---------------------------------------------------------------------- the names --- */

static void has_no_secret(const char *text)
{
    if (strstr(text, SECRET))
        fail_msg("a secret is shown: %s", text);
}

static void see_no_secret(qchain_env *env, const char *name, const char *index)
{
    qchain_index_info *info;
    qchain_image_info *image;
    qchain_open_opts o;
    uint8_t *bytes;
    uint64_t size;

    qchain_open_opts_init(&o, sizeof(o));
    o.index = index;
    assert_int_equal(qchain_index_inspect(&info, env, name, &o, err), 0);
    assert_null(info->why_not);
    has_no_secret(info->name);
    for (uint32_t i = 0; i < info->n_files; i++) {
        has_no_secret(info->files[i].name);
        has_no_secret(info->files[i].location);
    }
    qchain_index_info_free(info);
    assert_int_equal(qchain_inspect(&image, env, name, NULL, err), 0);
    has_no_secret(image->name);
    if (image->backing_resolved)
        has_no_secret(image->backing_resolved);
    qchain_image_info_free(image);
    bytes = load_file(index, &size);
    if (!bytes) /* behind a URL */
        return;
    assert_null(memmem(bytes, size, SECRET, strlen(SECRET)));
    free(bytes);
}

static void secrets_are_not_shown(void **unused)
{
    char *name = strdup(url_of("", "layer0", "?X-Amz-Signature=" SECRET));
    char *user = strdup(url_of("name:" SECRET "@", "layer0", ""));
    char *index = strdup(in_dir("signed.qci"));
    qchain_env *env = new_env("verify first-read");

    (void)unused;
    assert_int_equal(build(name, QCHAIN_OPEN_NO_INDEX, NULL), QCHAIN_E_INVAL);
    has_no_secret(qchain_error_message(err));
    assert_non_null(strstr(qchain_error_message(err), "--index"));
    assert_int_equal(drop(name, NULL), QCHAIN_E_INVAL);
    has_no_secret(qchain_error_message(err));
    assert_int_equal(verify(name, NULL), QCHAIN_E_INVAL);
    assert_int_equal(build(name, QCHAIN_OPEN_NO_INDEX, index), 0);
    assert_int_equal(used("", name, index), LAYERS);
    assert_int_equal(verify(name, index), 0);
    see_no_secret(env, name, index);
    unlink(index);
    assert_int_equal(build(user, QCHAIN_OPEN_NO_INDEX, index), 0);
    see_no_secret(env, user, index);
    free(index);
    index = strdup(url_of("name:" SECRET "@", "side.qci", "?q=" SECRET));
    assert_int_equal(build(name, QCHAIN_OPEN_NO_INDEX, index), 0);
    see_no_secret(env, name, index);
    assert_int_equal(drop(NULL, index), 0);
    assert_int_equal(drop(NULL, index), QCHAIN_E_NOTFOUND);
    has_no_secret(qchain_error_message(err));
    /* Beside it, with the user's name. */
    assert_int_equal(build(user, QCHAIN_OPEN_NO_INDEX, NULL), 0);
    assert_int_equal(used("", user, NULL), LAYERS);
    change_layer(0, false);
    assert_int_equal(verify(user, NULL), QCHAIN_E_CHANGED);
    has_no_secret(qchain_error_message(err));
    assert_int_equal(drop(user, NULL), 0);
    assert_int_equal(drop(user, NULL), QCHAIN_E_NOTFOUND);
    has_no_secret(qchain_error_message(err));
    qchain_env_destroy(env);
    free(name);
    free(user);
    free(index);
}

/* A file that tells of an image behind a URL must be the caller's own. */
static void files_are_ours(void **unused)
{
    char *index = strdup(in_dir("mine.qci"));
    struct stat st;

    (void)unused;
    assert_int_equal(build(top(), QCHAIN_OPEN_NO_INDEX, index), 0);
    assert_int_equal(stat(index, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(used("", top(), index), LAYERS);
    chmod(index, 0620);
    assert_int_equal(used("", top(), index), 0);
    assert_int_equal(verify(top(), index), QCHAIN_E_CHANGED);
    chmod(index, 0602);
    assert_int_equal(used("", top(), index), 0);
    chmod(index, 0644);
    assert_int_equal(used("", top(), index), LAYERS);
    if (geteuid() == 0) {
        assert_int_equal(chown(index, 65534, 65534), 0);
        assert_int_equal(used("", top(), index), 0);
    }
    assert_int_equal(used("", top(), in_dir("none.qci")), 0);
    free(index);
}

/* ---------------------------------------------------------------------- no memory --- */

enum { OPEN, BUILD, VERIFY, DROP, INSPECT, WORKS };

static int work(int what, qchain_env *env, qchain_error *e)
{
    qchain_open_opts o;
    qchain_index_info *info = NULL;
    qchain *c = NULL;
    char byte;
    int ret;

    qchain_open_opts_init(&o, sizeof(o));
    o.flags = what == BUILD || what == VERIFY ? QCHAIN_OPEN_NO_INDEX : 0;
    if (what == DROP)
        return qchain_index_drop(env, top(), NULL, e);
    if (what == INSPECT) {
        ret = qchain_index_inspect(&info, env, top(), NULL, e);
        qchain_index_info_free(info);
        return ret;
    }
    ret = qchain_open(&c, env, top(), &o, e);
    if (ret == 0)
        ret = what == BUILD    ? qchain_index_build(c, NULL, e)
              : what == VERIFY ? qchain_index_verify(c, NULL, e)
                               : qchain_read(c, &byte, 1, DATA, 0, e);
    qchain_close(c);
    return ret;
}

/* Whatever is missing: it fails, or works, and the index is the old one or the new one. */
static void memory_runs_out(void **unused)
{
    uint64_t seed = mem_seed(21);
    int n_failed = 0;

    (void)unused;
    for (int what = 0; what < WORKS; what++) {
        bool enough = false;

        for (long n = 1; !enough; n += 1 + (long)(random_next(&seed) % 24)) {
            qchain_env *env;
            int ret;

            if (what == DROP || n == 1)
                must_build();
            env = new_env(n % 2 ? "verify strict" : "verify background");
            atomic_store(&countdown, n);
            ret = work(what, env, err);
            enough = atomic_exchange(&countdown, 0) > 0;
            n_failed += ret == QCHAIN_E_NOMEM;
            /* ACCESS: the gate cannot tell that a layer lies beneath the top. */
            if (ret != 0 && ret != QCHAIN_E_NOMEM && ret != QCHAIN_E_ACCESS)
                fail_msg("work %d, without memory %ld: %s", what, n, qchain_error_message(err));
            qchain_env_destroy(env);
            if (what == BUILD || what == DROP)
                assert_int_equal(verify(top(), NULL), what == DROP && ret == 0 ? QCHAIN_E_NOTFOUND : 0);
        }
    }
    assert_true(n_failed > 10);
}

static int make_dir(void **unused)
{
    (void)unused;
    unsetenv("http_proxy");
    err = qchain_error_create();
    return mkdtemp(dir) && err ? 0 : -1;
}

static int remove_dir(void **unused)
{
    char command[160];

    (void)unused;
    qchain_error_destroy(err);
    snprintf(command, sizeof(command), "rm -rf '%s'", dir);
    return system(command);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, serve, end_serving)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(is_built_and_used),      TEST(others_are_left_alone), TEST(is_not_believed),
        TEST(strict_looks_at_all),    TEST(first_read_looks_at_one), TEST(background_finds_out),
        TEST(background_is_no_burden), TEST(closing_waits_for_nobody), TEST(many_chains_take_turns), TEST(secrets_are_not_shown),
        TEST(files_are_ours),         TEST(memory_runs_out),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
