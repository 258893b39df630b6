/* SPDX-License-Identifier: MIT */
/* Prefetching into the top of a chain whose layers lie on a server in this process. */
#include <signal.h>
#include <sys/resource.h>

#include "chain/object_server.h"

#include "chain/first_tables.h"
#include "mem_layers.h"

#define MIB (UINT64_C(1) << 20)
#define DISK (16 * MIB)
#define LAYERS 4

static char dir[] = "/tmp/qc-prefetch-top-XXXXXX";
static char top[64];
static qchain_error *err;
static struct object_server *server;
static struct mem_chain *m;
static qchain_env *env;
static qchain_prefetch_opts opts;
static qchain_prefetch_result result;

static int setup(void **unused)
{
    uint64_t seed = mem_seed(91);
    qchain_remote *r = qchain_remote_create();
    qchain_env_opts o;

    (void)unused;
    server = object_server_start();
    m = mem_chain_create(LAYERS);
    for (uint32_t k = 0; k < LAYERS; k++) {
        char name[32];

        mem_layer_init(m, k, DISK, 16);
        mem_layer_randomize(m, k, k + 1 < LAYERS ? 40 : 80, &seed);
        snprintf(name, sizeof(name), "/layer%u", k);
        object_put(server, name, m->layer[k].file, m->layer[k].file_size);
    }
    assert_int_equal(qchain_remote_parse(r, "hedge off\ndeadline 60", err), 0);
    qchain_env_opts_init(&o, sizeof(o));
    o.remote = r;
    assert_int_equal(qchain_env_create(&env, &o, err), 0);
    qchain_remote_destroy(r);
    snprintf(top, sizeof(top), "%s/top.qcow2", dir);
    qchain_prefetch_opts_init(&opts, sizeof(opts));
    opts.flags = QCHAIN_PREFETCH_TOP;
    return 0;
}

static int teardown(void **unused)
{
    (void)unused;
    unlink(top);
    qchain_env_destroy(env);
    object_server_stop(server);
    mem_chain_destroy(m);
    return 0;
}

static void make_top(uint64_t cluster_size, uint32_t compression)
{
    qchain_create_opts o;
    char url[64];

    snprintf(url, sizeof(url), "http://127.0.0.1:%u/layer0", server->port);
    qchain_create_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_CREATE_UNSAFE_BACKING;
    o.size = DISK;
    o.cluster_size = cluster_size;
    o.compression = compression;
    o.backing_file = url;
    o.backing_format = "qcow2";
    if (qchain_create(env, top, &o, err) != 0)
        fail_msg("%s", qchain_error_message(err));
}

static qchain *open_top(uint32_t flags)
{
    qchain_policy *p = qchain_policy_create();
    qchain_open_opts o;
    qchain *c = NULL;

    assert_int_equal(qchain_policy_allow(p, QCHAIN_POLICY_TRUST, err), 0);
    qchain_open_opts_init(&o, sizeof(o));
    o.flags = flags | QCHAIN_OPEN_NO_INDEX;
    o.format = "qcow2";
    o.policy = p;
    if (qchain_open(&c, env, top, &o, err) != 0)
        fail_msg("%s", qchain_error_message(err));
    qchain_policy_destroy(p);
    wait_for_first_tables(c);
    return c;
}

static int prefetch(qchain *c)
{
    memset(&result, 0, sizeof(result));
    result.struct_size = sizeof(result);
    return qchain_prefetch(&c, 1, &opts, &result, err);
}

static void prefetch_well(qchain *c)
{
    if (prefetch(c) != 0)
        fail_msg("%s", qchain_error_message(err));
}

static void all_is_right(qchain *c)
{
    uint8_t *got = malloc(MIB), *want = malloc(MIB);

    for (uint64_t at = 0; at < DISK; at += MIB) {
        if (qchain_read(c, got, MIB, at, 0, err) != 0)
            fail_msg("%s", qchain_error_message(err));
        mem_chain_read(m, want, MIB, at);
        assert_memory_equal(got, want, MIB);
    }
    free(got);
    free(want);
}

/* Bytes of data that the map says come from layers that far down and further. */
static uint64_t data_from(qchain *c, uint32_t layer)
{
    qchain_extent x[256];
    uint64_t at = 0, sum = 0;
    uint32_t n;

    while (at < DISK) {
        assert_int_equal(qchain_map(c, at, DISK - at, x, 256, &n, &at, QCHAIN_MAP_NO_HOLES, err), 0);
        for (uint32_t i = 0; i < n; i++)
            sum += x[i].flags & QCHAIN_EXTENT_DATA && x[i].layer >= layer ? x[i].length : 0;
    }
    return sum;
}

static unsigned requests(void)
{
    unsigned n;

    pthread_mutex_lock(&server->lock);
    n = server->requests;
    pthread_mutex_unlock(&server->lock);
    return n;
}

static void check_sound(void)
{
    qchain_check_result r = {.struct_size = sizeof(r)};

    assert_int_equal(qchain_check(env, top, NULL, &r, err), 0);
    assert_true(r.corruptions == 0 && r.leaks == 0);
}

/* All that shows is in the top, which reads as before, and next time nothing is left to be fetched. */
static void comes_over(uint64_t cluster_size, uint32_t compression)
{
    qchain *c;
    uint64_t before;
    unsigned n;

    make_top(cluster_size, compression);
    c = open_top(QCHAIN_OPEN_WRITE);
    before = data_from(c, 1);
    assert_true(before > DISK / 4 && data_from(c, 0) == before);
    prefetch_well(c);
    assert_int_equal(result.end, QCHAIN_PREFETCH_ALL);
    assert_true(result.fetched > DISK / 8 && result.requests > 0 && result.cached == 0);
    assert_true(data_from(c, 1) == 0);
    n = requests();
    prefetch_well(c);
    assert_true(result.fetched == 0 && result.requests == 0 && result.visible == 0 && result.local >= before);
    assert_int_equal(requests(), n);
    all_is_right(c);
    assert_int_equal(qchain_finish(c, err), 0);
    qchain_close(c);
    check_sound();
    c = open_top(0);
    assert_true(data_from(c, 1) == 0);
    all_is_right(c);
    qchain_close(c);
}

static void of_the_same_clusters(void **unused)
{
    qchain_image_info *i;
    qchain *c;

    (void)unused;
    comes_over(65536, QCHAIN_COMPRESSION_ZLIB);
    /* Compressed clusters came as they were, so the file is smaller than what it shows. */
    c = open_top(0);
    assert_int_equal(qchain_layer_info(&i, c, 0, err), 0);
    assert_true(i->file_size < data_from(c, 0));
    qchain_image_info_free(i);
    qchain_close(c);
}

static void of_another_compression(void **unused)
{
    (void)unused;
    comes_over(65536, QCHAIN_COMPRESSION_ZSTD);
}

static void of_smaller_clusters(void **unused)
{
    (void)unused;
    comes_over(4096, QCHAIN_COMPRESSION_ZLIB);
}

/* What fills up a cluster is read from below, too. */
static void of_larger_clusters(void **unused)
{
    (void)unused;
    comes_over(1 << 20, QCHAIN_COMPRESSION_ZLIB);
}

/* What was written stands; max_bytes ends it, and it goes on. */
static void goes_on_beside_writes(void **unused)
{
    static char ours[65536];
    uint64_t fetched = 0, most;
    qchain *c;

    (void)unused;
    memset(ours, 0x5a, sizeof(ours));
    make_top(65536, QCHAIN_COMPRESSION_ZLIB);
    c = open_top(QCHAIN_OPEN_WRITE);
    most = data_from(c, 1);
    opts.max_bytes = MIB;
    do {
        uint64_t before = data_from(c, 1);

        prefetch_well(c);
        assert_true(result.fetched <= MIB && data_from(c, 1) <= before);
        fetched += result.fetched;
        assert_int_equal(qchain_write(c, ours, sizeof(ours), 3 * MIB, 0, err), 0);
    } while (result.end == QCHAIN_PREFETCH_BYTES && fetched < 2 * most);
    assert_int_equal(result.end, QCHAIN_PREFETCH_ALL);
    assert_true(data_from(c, 1) == 0);
    for (uint32_t k = 0; k < sizeof(ours); k += 512) {
        char got[512];

        assert_int_equal(qchain_read(c, got, sizeof(got), 3 * MIB + k, 0, err), 0);
        assert_memory_equal(got, ours + k, sizeof(got));
    }
    qchain_close(c);
    check_sound();
}

static void says_what_is_wrong(void **unused)
{
    qchain *c, *two[2];

    (void)unused;
    make_top(65536, QCHAIN_COMPRESSION_ZLIB);
    c = open_top(0);
    assert_int_equal(prefetch(c), QCHAIN_E_READONLY);
    qchain_close(c);
    c = two[0] = two[1] = open_top(QCHAIN_OPEN_WRITE);
    opts.flags |= QCHAIN_PREFETCH_METADATA;
    assert_int_equal(prefetch(c), QCHAIN_E_INVAL);
    opts.flags = QCHAIN_PREFETCH_TOP;
    assert_int_equal(qchain_prefetch(two, 2, &opts, NULL, err), QCHAIN_E_BUSY);
    prefetch_well(c); /* nothing of it was left behind */
    qchain_close(c);
}

/* A file that cannot grow, as on a full disk, is told of, once; with room again it goes on where it was. */
static void a_full_disk(void **unused)
{
    struct rlimit old, some;
    const char *said;
    uint64_t lacks;
    qchain *c;

    (void)unused;
    make_top(65536, QCHAIN_COMPRESSION_ZLIB);
    c = open_top(QCHAIN_OPEN_WRITE);
    lacks = data_from(c, 1);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    some = old;
    some.rlim_cur = 4 * MIB;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &some), 0);
    assert_int_equal(prefetch(c), QCHAIN_E_LIMIT); /* EFBIG */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    said = qchain_error_message(err);
    assert_non_null(strstr(said, top));
    assert_null(strstr(strstr(said, "layer #0") + 1, "layer #0"));
    qchain_close(c);
    c = open_top(QCHAIN_OPEN_WRITE);
    assert_in_range(data_from(c, 1), 1, lacks - 1);
    lacks = data_from(c, 1);
    prefetch_well(c);
    assert_true(result.visible == lacks && data_from(c, 1) == 0);
    all_is_right(c);
    qchain_close(c);
    check_sound();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(of_the_same_clusters, setup, teardown),
        cmocka_unit_test_setup_teardown(of_another_compression, setup, teardown),
        cmocka_unit_test_setup_teardown(of_smaller_clusters, setup, teardown),
        cmocka_unit_test_setup_teardown(of_larger_clusters, setup, teardown),
        cmocka_unit_test_setup_teardown(goes_on_beside_writes, setup, teardown),
        cmocka_unit_test_setup_teardown(says_what_is_wrong, setup, teardown),
        cmocka_unit_test_setup_teardown(a_full_disk, setup, teardown),
    };
    int ret;

    err = qchain_error_create();
    assert_non_null(mkdtemp(dir));
    ret = cmocka_run_group_tests_name("prefetch into a top", tests, NULL, NULL);
    rmdir(dir);
    qchain_error_destroy(err);
    return ret;
}
