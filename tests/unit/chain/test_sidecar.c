/* SPDX-License-Identifier: MIT */
/* Sidecars: built, believed, not believed, found wrong while in use. */
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "share.h"
#include "chain/chain.h"
#include "image_tools.h"
#include "mem_layers.h"
#include "util/error.h"

#define MAX_LAYERS 8

static char dir[] = "/tmp/qc-sidecar-XXXXXX";
static qchain_error *err;

static const char *in_dir(const char *name)
{
    static char path[4][128];
    static int n;

    n = (n + 1) % 4;
    snprintf(path[n], sizeof(path[n]), "%s/%s", dir, name);
    return path[n];
}

static const char *layer_path(uint32_t k)
{
    char name[32];

    snprintf(name, sizeof(name), "layer%u", k);
    return in_dir(name);
}

/* Give a file a modification time some seconds ago. */
static void set_age(const char *path, int seconds)
{
    struct timespec now, t[2];

    clock_gettime(CLOCK_REALTIME, &now);
    t[0] = t[1] = now;
    t[0].tv_sec = t[1].tv_sec = now.tv_sec - seconds;
    assert_int_equal(utimensat(AT_FDCWD, path, t, 0), 0);
}

static void write_layer(const struct mem_chain *m, uint32_t k)
{
    FILE *f = fopen(layer_path(k), "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(m->layer[k].file, 1, m->layer[k].file_size, f), m->layer[k].file_size);
    fclose(f);
    set_age(layer_path(k), 10 + (int)k);
}

static void write_layers(const struct mem_chain *m)
{
    for (uint32_t k = 0; k < MAX_LAYERS; k++) {
        char sidecar[160];

        snprintf(sidecar, sizeof(sidecar), "%s.qci", layer_path(k));
        unlink(sidecar);
        unlink(layer_path(k));
    }
    for (uint32_t k = 0; k < m->n; k++)
        write_layer(m, k);
}

/* n layers of 140 MiB and a bit: a few clusters of every kind in each. */
static struct mem_chain *layers(uint32_t n, uint64_t *seed)
{
    uint64_t size = (UINT64_C(140) << 20) + 512 * 77;
    struct mem_chain *m = mem_chain_create(n);

    for (uint32_t k = 0; k < n; k++)
        mem_layer_init(m, k, size - (k % 3) * (UINT64_C(35) << 20), 16);
    for (uint32_t k = 0; k < n; k++)
        for (int i = 0; i < 40; i++)
            mem_layer_set(m, k, random_next(seed) % m->layer[k].n_clusters,
                          (enum mem_state)(1 + random_next(seed) % 3));
    write_layers(m);
    return m;
}

static qchain *open_chain(const char *path, uint32_t flags)
{
    qchain_open_opts o;
    qchain *c = NULL;

    qchain_open_opts_init(&o, sizeof(o));
    o.flags = flags;
    if (qchain_open(&c, NULL, path, &o, err) != 0)
        fail_msg("%s", qchain_error_message(err));
    return c;
}

static void build(const char *path, uint32_t flags, uint32_t index_flags)
{
    qchain *c = open_chain(path, flags);
    qchain_index_opts o;

    qchain_index_opts_init(&o, sizeof(o));
    o.flags = index_flags;
    if (qchain_index_build(c, &o, err) != 0)
        fail_msg("%s", qchain_error_message(err));
    qchain_close(c);
}

static int verify(const char *path)
{
    qchain *c = open_chain(path, QCHAIN_OPEN_NO_INDEX);
    int ret = qchain_index_verify(c, NULL, err);

    qchain_close(c);
    return ret;
}

static qchain_stats stats_of(qchain *c)
{
    qchain_stats s = {.struct_size = sizeof(s)};

    assert_int_equal(qchain_env_stats(qchain_get_env(c), &s), 0);
    return s;
}

/* All extents of two chains are the same. */
static void same_maps(qchain *a, qchain *b)
{
    qchain_extent ea[7], eb[7];
    uint64_t at = 0, next_a = 0, next_b = 0;
    uint32_t na, nb;

    assert_int_equal(qchain_size(a), qchain_size(b));
    while (at < qchain_size(a)) {
        assert_int_equal(qchain_map(a, at, UINT64_MAX, ea, 7, &na, &next_a, 0, err), 0);
        assert_int_equal(qchain_map(b, at, UINT64_MAX, eb, 7, &nb, &next_b, 0, err), 0);
        assert_int_equal(na, nb);
        assert_int_equal(next_a, next_b);
        assert_memory_equal(ea, eb, na * sizeof(ea[0]));
        at = next_a;
    }
}

/* Bytes around everything that is stored, and some places where nothing is. */
static int read_failures(const struct mem_chain *m, qchain *c)
{
    static unsigned char got[65536 * 3], want[65536 * 3];
    uint64_t size = qchain_size(c);
    int bad = 0, ret;

    for (uint64_t at = 0; at < size; at += 65536 * 3) {
        size_t n = size - at < sizeof(got) ? (size_t)(size - at) : sizeof(got);

        ret = qchain_read(c, got, n, at, 0, err);
        if (ret != 0) {
            assert_int_equal(ret, QCHAIN_E_CHANGED);
            bad++;
            continue;
        }
        mem_chain_read(m, want, n, at);
        assert_memory_equal(got, want, n);
    }
    return bad;
}

static void is_used_and_right(void **unused)
{
    uint64_t seed = mem_seed(11);

    (void)unused;
    for (unsigned round = 0; round < 2 + share(6); round++) {
        uint32_t n = 1 + (uint32_t)(random_next(&seed) % 6);
        struct mem_chain *m = round % 2 ? layers(n, &seed) : mem_chain_random(n, 4 << 20, &seed);
        qchain *plain, *c;

        write_layers(m);
        if (m->layer[0].cluster_bits == 0) { /* raw has none */
            mem_chain_destroy(m);
            continue;
        }
        build(layer_path(0), QCHAIN_OPEN_NO_INDEX, 0);
        assert_int_equal(verify(layer_path(0)), 0);
        c = open_chain(layer_path(0), 0);
        plain = open_chain(layer_path(0), QCHAIN_OPEN_NO_INDEX);
        assert_int_equal(qchain_index_layers(c), n);
        assert_int_equal(qchain_layers(c), n);
        assert_int_equal(qchain_index_layers(plain), 0);
        assert_int_equal(stats_of(c).file_opens, 2);
        same_maps(c, plain);
        assert_int_equal(read_failures(m, c), 0);
        assert_int_equal(qchain_index_layers(c), n);
        for (uint32_t k = 0; k < n; k++) {
            qchain_image_info *info;

            assert_int_equal(qchain_layer_info(&info, c, k, err), 0);
            assert_int_equal(info->virtual_size, m->layer[k].size / 512 * 512);
            qchain_image_info_free(info);
        }
        qchain_close(c);
        qchain_close(plain);
        mem_chain_destroy(m);
    }
}

/* Differences between layers, some of which only the sidecar knows. */
static void diffs_are_right(void **unused)
{
    uint64_t seed = mem_seed(12), next_a, next_b;
    struct mem_chain *m = layers(5, &seed);
    static qchain_extent a[1000], b[1000];
    uint32_t na, nb;
    qchain *plain, *c;

    (void)unused;
    build(layer_path(2), 0, 0);
    for (uint32_t upto = 0; upto < 5; upto++) {
        for (uint32_t below = upto + 1; below <= 5; below++) {
            c = open_chain(layer_path(0), 0);
            plain = open_chain(layer_path(0), QCHAIN_OPEN_NO_INDEX);
            assert_int_equal(qchain_index_layers(c), 3);
            memset(a, 0, sizeof(a));
            memset(b, 0, sizeof(b));
            assert_int_equal(qchain_diff(c, below, upto, 0, UINT64_MAX, a, 1000, &na, &next_a, 0,
                                         err), 0);
            assert_int_equal(qchain_diff(plain, below, upto, 0, UINT64_MAX, b, 1000, &nb, &next_b,
                                         0, err), 0);
            assert_int_equal(na, nb);
            assert_memory_equal(a, b, na * sizeof(a[0]));
            qchain_close(c);
            qchain_close(plain);
        }
    }
    mem_chain_destroy(m);
}

/* Tips over an indexed chain need no sidecar; with theirs they are the same. */
static void tips_go_on_from_below(void **unused)
{
    uint64_t seed = mem_seed(13);

    (void)unused;
    for (int round = 0; round < 4; round++) {
        struct mem_chain *m = layers(6, &seed);
        qchain *plain = open_chain(layer_path(0), QCHAIN_OPEN_NO_INDEX), *c;
        uint64_t meta;

        for (uint32_t k = 6; k-- > 0;) {
            c = open_chain(layer_path(k), 0);
            assert_int_equal(qchain_index_layers(c), 5 - k);
            if (k == 0)
                assert_int_equal(read_failures(m, c), 0);
            qchain_close(c);
            if (k == 0)
                break;
            build(layer_path(k), 0, 0);
            assert_int_equal(verify(layer_path(k)), 0);
        }
        c = open_chain(layer_path(0), 0);
        meta = stats_of(c).meta_reads;
        assert_int_equal(qchain_index_build(c, NULL, err), 0);
        /* only the tip was walked: L1, its L2 tables, and what the sidecar told */
        assert_true(stats_of(c).meta_reads - stats_of(c).sidecar_reads - meta < 30);
        qchain_close(c);
        assert_int_equal(verify(layer_path(0)), 0);
        c = open_chain(layer_path(0), 0);
        assert_int_equal(qchain_index_layers(c), 6);
        same_maps(c, plain);
        assert_int_equal(read_failures(m, c), 0);
        qchain_close(c);
        qchain_close(plain);
        mem_chain_destroy(m);
    }
}

/* Every layer in turn is changed before the open: the truth is told all the same. */
static void a_changed_layer_ends_belief(void **unused)
{
    uint64_t seed = mem_seed(14);
    struct mem_chain *m = layers(5, &seed);

    (void)unused;
    build(layer_path(0), 0, 0);
    for (uint32_t k = 0; k < 5; k++) {
        qchain_index_info *info;
        struct stat st;
        qchain *c;

        assert_int_equal(stat(layer_path(k), &st), 0);
        set_age(layer_path(k), 5);
        c = open_chain(layer_path(0), 0);
        assert_int_equal(qchain_index_layers(c), 0);
        assert_int_equal(read_failures(m, c), 0);
        qchain_close(c);
        assert_int_equal(verify(layer_path(0)), QCHAIN_E_CHANGED);
        assert_int_equal(qchain_index_inspect(&info, NULL, layer_path(0), NULL, err), 0);
        assert_non_null(info->why_not);
        assert_non_null(strstr(info->why_not, "changed"));
        assert_int_equal(info->n_layers, 5);
        qchain_index_info_free(info);
        utimensat(AT_FDCWD, layer_path(k), (struct timespec[]){st.st_atim, st.st_mtim}, 0);
        c = open_chain(layer_path(0), 0);
        assert_int_equal(qchain_index_layers(c), 5);
        qchain_close(c);
    }
    mem_chain_destroy(m);
}

/* ... or after the open: then reads fail, and never give wrong bytes. */
static void a_layer_changed_later_is_noticed(void **unused)
{
    uint64_t seed = mem_seed(15);

    (void)unused;
    for (uint32_t k = 1; k < 5; k++) {
        struct mem_chain *m = layers(5, &seed);
        qchain_extent e[4];
        uint64_t next;
        uint32_t n;
        qchain *c;

        build(layer_path(0), 0, 0);
        c = open_chain(layer_path(0), 0);
        assert_int_equal(qchain_index_layers(c), 5);
        if (k == 2)
            unlink(layer_path(k));
        else if (k == 3)
            assert_int_equal(truncate(layer_path(k), 65536), 0);
        else
            set_age(layer_path(k), 3);
        assert_true(read_failures(m, c) > 0);
        assert_int_equal(qchain_map(c, 0, UINT64_MAX, e, 4, &n, &next, 0, err), QCHAIN_E_CHANGED);
        qchain_close(c);
        mem_chain_destroy(m);
    }
}

/* What a layer says changes, but neither its size nor its time. */
static void change_secretly(const struct mem_chain *m, uint32_t k)
{
    struct stat st;

    assert_int_equal(stat(layer_path(k), &st), 0);
    write_layer(m, k);
    assert_int_equal(utimensat(AT_FDCWD, layer_path(k),
                               (struct timespec[]){st.st_atim, st.st_mtim}, 0), 0);
}

static void a_wrong_index_is_found_by_verify(void **unused)
{
    uint64_t seed = mem_seed(20), size;
    struct mem_chain *m = layers(3, &seed);
    unsigned char *name;
    qchain *c;

    (void)unused;
    mem_layer_set(m, 1, 700, MEM_ZERO);
    mem_layer_set(m, 0, 701, MEM_ABSENT);
    write_layers(m);
    build(layer_path(0), 0, 0);
    assert_int_equal(verify(layer_path(0)), 0);
    size = m->layer[1].file_size;
    mem_layer_set(m, 1, 701, MEM_ZERO);
    mem_layer_set(m, 1, 702, MEM_ZERO);
    assert_int_equal(m->layer[1].file_size, size);
    change_secretly(m, 1);
    assert_int_equal(verify(layer_path(0)), QCHAIN_E_CORRUPT);
    assert_non_null(strstr(qchain_error_message(err), "something else"));

    /* The tip names another layer. */
    name = memmem(m->layer[0].file, 4096, "layer1", 6);
    assert_non_null(name);
    name[5] = '2';
    change_secretly(m, 0);
    c = open_chain(layer_path(0), 0);
    assert_int_equal(qchain_index_layers(c), 0);
    assert_int_equal(qchain_layers(c), 2);
    qchain_close(c);
    assert_int_equal(verify(layer_path(0)), QCHAIN_E_CHANGED);
    mem_chain_destroy(m);
}

/* The sidecar beside a layer, whole; to be freed. */
static uint8_t *load_sidecar(uint32_t k, uint64_t *size)
{
    char path[160];
    uint8_t *p;

    snprintf(path, sizeof(path), "%s.qci", layer_path(k));
    p = load_file(path, size);
    assert_non_null(p);
    return p;
}

/* Of an index of many pages a tip's takes those over that the tip leaves alone. */
static void pages_are_taken_over(void **unused)
{
    uint64_t size = UINT64_C(20) << 30, seed = mem_seed(21), old_size, new_size, full_size;
    uint32_t n = 0, fit = 0;
    uint8_t *old, *new, *full;
    struct mem_chain *m;
    qchain_index_info *info;

    (void)unused;
    for (int round = 0; round < 3; round++) {
        m = mem_chain_create(3);
        mem_layer_init(m, 0, size + (round == 1) * 512 * 99 - (round == 2) * (size / 3), 16);
        mem_layer_init(m, 1, size - 512 * 33, 16);
        mem_layer_init(m, 2, size, 16);
        for (int i = 0; i < 30000; i++)
            mem_layer_set(m, 1 + i % 2, random_next(&seed) % (m->layer[1].n_clusters - 1), MEM_ZERO);
        for (uint64_t i = 0; i < 5; i++)
            mem_layer_set(m, 0, 100000 + 3 * i, i % 2 ? MEM_DATA : MEM_ZERO);
        write_layers(m);
        build(layer_path(1), 0, 0);
        old = load_sidecar(1, &old_size);
        build(layer_path(0), 0, 0);
        assert_int_equal(verify(layer_path(0)), 0);
        new = load_sidecar(0, &new_size);
        build(layer_path(0), QCHAIN_OPEN_NO_INDEX, 0);
        assert_int_equal(verify(layer_path(0)), 0);
        full = load_sidecar(0, &full_size);
        assert_int_equal(qchain_index_inspect(&info, NULL, layer_path(0), NULL, err), 0);
        assert_true(info->n_pages > 4);
        qchain_index_info_free(info);
        /* Most of the old pages' bytes stand in the new one. */
        for (uint64_t at = 4096; at + 4096 < old_size; at += 4096, n++)
            fit += memmem(new, new_size, old + at, 256) != NULL;
        assert_true(round == 2 || fit * 3 > n * 2);
        free(old);
        free(new);
        free(full);
        mem_chain_destroy(m);
    }
}

/* A page that grew too long is cut back to what it was before. */
static void pages_are_cut_back_whole(void **unused)
{
    struct mem_chain *m = mem_chain_create(1);

    (void)unused;
    mem_layer_init(m, 0, UINT64_C(260) << 20, 10);
    for (uint64_t i = 0; i < 64; i++)
        mem_layer_set(m, 0, i, MEM_DATA);
    for (uint64_t i = 0; i < 60000; i += 2)
        mem_layer_set(m, 0, (UINT64_C(128) << 10) + i, MEM_ZERO);
    write_layers(m);
    build(layer_path(0), 0, 0);
    assert_int_equal(verify(layer_path(0)), 0);
    mem_chain_destroy(m);
}

/* Layers are found wherever the program goes after the open. */
static void directories_may_change(void **unused)
{
    uint64_t seed = mem_seed(22);
    struct mem_chain *m = layers(4, &seed);
    char *here = getcwd(NULL, 0);
    qchain *c;

    (void)unused;
    assert_non_null(here);
    build(layer_path(0), 0, 0);
    assert_int_equal(chdir(dir), 0);
    c = open_chain("layer0", 0);
    assert_int_equal(qchain_index_layers(c), 4);
    assert_int_equal(chdir("/"), 0);
    assert_int_equal(read_failures(m, c), 0);
    assert_int_equal(qchain_index_build(c, NULL, err), 0);
    qchain_close(c);
    assert_int_equal(chdir(here), 0);
    free(here);
    mem_chain_destroy(m);
}

/* Only a sidecar is replaced; only who may read all layers may read it. */
static void builds_harm_nobody(void **unused)
{
    uint64_t seed = mem_seed(23);
    struct mem_chain *m = layers(3, &seed);
    qchain *c = open_chain(layer_path(0), 0);
    qchain_index_opts o;
    char path[160];
    struct stat st;

    (void)unused;
    qchain_index_opts_init(&o, sizeof(o));
    o.name = layer_path(2);
    assert_int_equal(qchain_index_build(c, &o, err), QCHAIN_E_INVAL);
    assert_int_equal(read_failures(m, c), 0);
    assert_int_equal(chmod(layer_path(1), 0640), 0);
    snprintf(path, sizeof(path), "%s.qci", layer_path(0));
    o.name = path;
    assert_int_equal(qchain_index_build(c, &o, err), 0);
    assert_int_equal(qchain_index_build(c, &o, err), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0044, 0040);
    qchain_close(c);
    mem_chain_destroy(m);
}

static void youth_is_not_believed(void **unused)
{
    uint64_t seed = mem_seed(16);
    struct mem_chain *m = layers(3, &seed);
    qchain_index_opts o;
    qchain *c;

    (void)unused;
    set_age(layer_path(1), 0);
    build(layer_path(0), 0, QCHAIN_INDEX_NO_WAIT);
    c = open_chain(layer_path(0), 0);
    assert_int_equal(qchain_index_layers(c), 0);
    assert_int_equal(read_failures(m, c), 0);
    qchain_close(c);
    assert_int_equal(verify(layer_path(0)), QCHAIN_E_CHANGED);
    set_age(layer_path(1), 1);
    build(layer_path(0), 0, 0); /* waits a second */
    c = open_chain(layer_path(0), 0);
    assert_int_equal(qchain_index_layers(c), 3);
    qchain_close(c);

    set_age(layer_path(1), -100);
    c = open_chain(layer_path(0), 0);
    qchain_index_opts_init(&o, sizeof(o));
    assert_int_equal(qchain_index_build(c, &o, err), QCHAIN_E_UNSUPPORTED);
    assert_non_null(strstr(qchain_error_message(err), "future"));
    o.flags = 2;
    assert_int_equal(qchain_index_build(c, &o, err), QCHAIN_E_INVAL);
    qchain_close(c);
    mem_chain_destroy(m);
}

/* A page that cannot be read right is found out when it is needed, and the layers tell. */
static void damage_is_no_harm(void **unused)
{
    uint64_t seed = mem_seed(17), size;
    struct mem_chain *m = layers(4, &seed);
    uint8_t *bytes;
    char path[160];
    FILE *f;
    qchain *c;

    (void)unused;
    snprintf(path, sizeof(path), "%s.qci", layer_path(0));
    build(layer_path(0), 0, 0);
    bytes = load_file(path, &size);
    assert_non_null(bytes);
    for (unsigned i = 0; i < 4 + share(36); i++) {
        uint64_t at = random_next(&seed) % size;

        if (i % 4 == 0)
            at = size - 1 - (uint64_t)i; /* the last page */
        bytes[at] ^= 1u << i % 8;
        f = fopen(path, "wb");
        assert_int_equal(fwrite(bytes, 1, i % 7 == 3 ? at : size, f), i % 7 == 3 ? at : size);
        fclose(f);
        bytes[at] ^= 1u << i % 8;
        c = open_chain(layer_path(0), 0);
        assert_int_equal(read_failures(m, c), 0);
        assert_int_equal(qchain_index_layers(c), 0);
        qchain_close(c);
        assert_int_not_equal(verify(layer_path(0)), 0);
    }
    free(bytes);
    assert_int_equal(qchain_index_drop(NULL, layer_path(0), NULL, err), 0);
    assert_int_equal(qchain_index_drop(NULL, layer_path(0), NULL, err), QCHAIN_E_NOTFOUND);
    assert_int_equal(verify(layer_path(0)), QCHAIN_E_NOTFOUND);
    snprintf(path, sizeof(path), "%s", layer_path(1));
    assert_int_equal(qchain_index_drop(NULL, NULL, &(qchain_index_opts){sizeof(qchain_index_opts),
                                       0, 0, path, NULL}, err), QCHAIN_E_INVAL);
    mem_chain_destroy(m);
}

/* Most of a huge disk is nothing: that takes no time and no room. */
static void huge_disks_are_small(void **unused)
{
    struct mem_chain *m = mem_chain_create(2);
    qchain_extent e[8];
    qchain_index_info *info;
    uint64_t next;
    uint32_t n;
    qchain *c;

    (void)unused;
    mem_layer_init(m, 0, UINT64_C(1) << 44, 21);
    mem_layer_init(m, 1, UINT64_C(1) << 43, 21);
    mem_layer_set(m, 0, (UINT64_C(1) << 22) + 5, MEM_DATA);
    mem_layer_set(m, 1, 7, MEM_DATA);
    write_layers(m);
    build(layer_path(0), 0, 0);
    assert_int_equal(verify(layer_path(0)), 0);
    assert_int_equal(qchain_index_inspect(&info, NULL, layer_path(0), NULL, err), 0);
    assert_null(info->why_not);
    assert_true(info->file_size < 4096);
    qchain_index_info_free(info);
    c = open_chain(layer_path(0), 0);
    assert_int_equal(qchain_index_layers(c), 2);
    assert_int_equal(qchain_map(c, 0, UINT64_MAX, e, 8, &n, &next, 0, err), 0);
    assert_int_equal(next, UINT64_C(1) << 44);
    assert_int_equal(n, 6);
    qchain_close(c);
    mem_chain_destroy(m);
}

struct reader {
    const struct mem_chain *m;
    qchain *c;
    int     bad;
};

static void *read_all(void *data)
{
    struct reader *r = data;
    unsigned char got[4096], want[4096];
    uint64_t seed = 99, at;

    for (unsigned i = 0; i < share(3000); i++) {
        at = random_next(&seed) % (qchain_size(r->c) / 512 - 8) * 512;
        if (qchain_read(r->c, got, sizeof(got), at, 0, NULL) != 0) {
            r->bad++;
            continue;
        }
        mem_chain_read(r->m, want, sizeof(want), at);
        r->bad += memcmp(got, want, sizeof(got)) != 0;
    }
    return NULL;
}

/* Threads that need the same layers for the first time at once. */
static void first_reads_may_meet(void **unused)
{
    uint64_t seed = mem_seed(18);
    struct mem_chain *m = layers(6, &seed);

    (void)unused;
    build(layer_path(0), 0, 0);
    for (unsigned round = 0; round < 1 + share(4); round++) {
        struct reader r[4];
        pthread_t id[4];
        qchain *c = open_chain(layer_path(0), 0);

        for (int i = 0; i < 4; i++) {
            r[i] = (struct reader){m, c, 0};
            assert_int_equal(pthread_create(&id[i], NULL, read_all, &r[i]), 0);
        }
        for (int i = 0; i < 4; i++) {
            pthread_join(id[i], NULL);
            assert_int_equal(r[i].bad, 0);
        }
        assert_int_equal(qchain_index_layers(c), 6);
        qchain_close(c);
    }
    mem_chain_destroy(m);
}

/* What cannot have one says so; options that go round it. */
static void some_chains_have_none(void **unused)
{
    uint64_t seed = mem_seed(19);
    struct mem_chain *m = layers(3, &seed);
    static const uint32_t flags[] = {QCHAIN_OPEN_FORCE_SHARE, QCHAIN_OPEN_NO_BACKING,
                                     QCHAIN_OPEN_SALVAGE};
    qchain *c = NULL;

    (void)unused;
    for (size_t i = 0; i < 3; i++) {
        c = open_chain(layer_path(0), flags[i]);
        assert_int_equal(qchain_index_build(c, NULL, err), QCHAIN_E_UNSUPPORTED);
        qchain_close(c);
    }
    assert_int_equal(mem_chain_open(m, &c, NULL, NULL, err), 0);
    assert_int_equal(qchain_index_build(c, NULL, err), QCHAIN_E_UNSUPPORTED);
    qchain_close(c);
    build(layer_path(0), 0, 0);
    c = open_chain(layer_path(0), QCHAIN_OPEN_NO_BACKING);
    assert_int_equal(qchain_index_layers(c), 0);
    assert_int_equal(qchain_layers(c), 1);
    qchain_close(c);
    c = open_chain(layer_path(0), 0);
    assert_int_equal(qchain_index_verify(c, NULL, err), QCHAIN_E_INVAL);
    qchain_close(c);
    mem_chain_destroy(m);
}

static int make_dir(void **unused)
{
    (void)unused;
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(is_used_and_right),
        cmocka_unit_test(diffs_are_right),
        cmocka_unit_test(tips_go_on_from_below),
        cmocka_unit_test(a_changed_layer_ends_belief),
        cmocka_unit_test(a_layer_changed_later_is_noticed),
        cmocka_unit_test(a_wrong_index_is_found_by_verify),
        cmocka_unit_test(pages_are_taken_over),
        cmocka_unit_test(pages_are_cut_back_whole),
        cmocka_unit_test(directories_may_change),
        cmocka_unit_test(builds_harm_nobody),
        cmocka_unit_test(youth_is_not_believed),
        cmocka_unit_test(damage_is_no_harm),
        cmocka_unit_test(huge_disks_are_small),
        cmocka_unit_test(first_reads_may_meet),
        cmocka_unit_test(some_chains_have_none),
    };

    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
