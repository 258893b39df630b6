/* SPDX-License-Identifier: MIT */
#include "mem_layers.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

/* Tests ask for more memory than there is: the checker shall say no, not end them. */
__attribute__((visibility("default"))) const char *__tsan_default_options(void);

const char *__tsan_default_options(void)
{
    return "allocator_may_return_null=1";
}

static void *must(void *p)
{
    if (!p)
        abort();
    return p;
}

static void put32(unsigned char *p, uint32_t v)
{
    for (int i = 0; i < 4; i++)
        p[i] = (unsigned char)(v >> (24 - 8 * i));
}

static void put64(unsigned char *p, uint64_t v)
{
    put32(p, (uint32_t)(v >> 32));
    put32(p + 4, (uint32_t)v);
}

static uint64_t get64(const unsigned char *p)
{
    uint64_t v = 0;

    for (int i = 0; i < 8; i++)
        v = v << 8 | p[i];
    return v;
}

static uint64_t mem_random(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

uint64_t mem_seed(uint64_t otherwise)
{
    const char *text = getenv("QC_SEED");
    uint64_t seed = text ? strtoull(text, NULL, 0) : otherwise;

    printf("seed %llu (QC_SEED sets it)\n", (unsigned long long)seed);
    return seed;
}

/* ---------------------------------------------------------------- images --- */

/* Room for length more bytes at an aligned end of the file; returns where. */
static uint64_t append(struct mem_layer *l, uint64_t length, uint64_t align)
{
    uint64_t at = (l->file_size + align - 1) / align * align, cap = l->cap;

    while (at + length > cap)
        cap = cap ? 2 * cap : 4096;
    if (cap != l->cap) {
        l->file = must(realloc(l->file, cap));
        memset(l->file + l->cap, 0, cap - l->cap);
        l->cap = cap;
    }
    l->file_size = at + length;
    return at;
}

struct mem_chain *mem_chain_create(uint32_t n)
{
    struct mem_chain *m = must(calloc(1, sizeof(*m)));

    m->layer = must(calloc(n, sizeof(*m->layer)));
    m->n = n;
    return m;
}

void mem_chain_destroy(struct mem_chain *m)
{
    if (!m)
        return;
    for (uint32_t k = 0; k < m->n; k++) {
        free(m->layer[k].state);
        free(m->layer[k].file);
    }
    free(m->layer);
    free(m);
}

void mem_layer_init(struct mem_chain *m, uint32_t k, uint64_t size, unsigned cluster_bits)
{
    struct mem_layer *l = &m->layer[k];
    uint64_t cluster = UINT64_C(1) << cluster_bits, l1_size, refcounts;
    char name[32];
    bool raw_below;
    int len;

    l->number = k;
    l->size = size;
    l->cluster_bits = cluster_bits;
    l->fail_from = l->fail_to = -1;
    l->has_backing = cluster_bits && k + 1 < m->n;
    if (cluster_bits == 0) {
        l->n_clusters = size / 512;
        append(l, size, 1);
        return;
    }
    l->n_clusters = size / cluster + (size % cluster != 0);
    l1_size = l->n_clusters / (cluster / 8) + (l->n_clusters % (cluster / 8) != 0);
    append(l, cluster, cluster);
    append(l, (l1_size ? l1_size : 1) * 8, cluster);
    refcounts = append(l, cluster, cluster);
    memcpy(l->file, "QFI\xfb", 4);
    put32(l->file + 4, 3);
    put32(l->file + 20, cluster_bits);
    put64(l->file + 24, size);
    put32(l->file + 36, (uint32_t)l1_size);
    put64(l->file + 40, cluster);
    put64(l->file + 48, refcounts);
    put32(l->file + 56, 1);
    put32(l->file + 96, 4);
    put32(l->file + 100, 104);
    if (!l->has_backing)
        return;
    len = snprintf(name, sizeof(name), "layer%u", k + 1);
    put64(l->file + 8, 200);
    put32(l->file + 16, (uint32_t)len);
    memcpy(l->file + 200, name, (size_t)len);
    put32(l->file + 104, 0xe2792aca); /* the format of the backing file */
    raw_below = m->layer[k + 1].cluster_bits == 0 && m->layer[k + 1].size > 0;
    put32(l->file + 108, raw_below ? 3 : 5);
    memcpy(l->file + 112, raw_below ? "raw\0" : "qcow2", 5);
}

/* A sector says where it belongs, over and over, so that it can be compressed. */
static void fill_sectors(unsigned char *buf, uint64_t length, uint32_t k, uint64_t offset)
{
    uint64_t word = 0, place;

    for (uint64_t i = 0; i < length; i++) {
        place = offset + i;
        if (i == 0 || place % 512 == 0) {
            word = (place / 512 + 1) * UINT64_C(0x9e3779b97f4a7c15) ^ (uint64_t)k << 32;
            word |= 1;
        }
        buf[i] = (unsigned char)(word >> place % 8 * 8);
    }
}

static uint64_t write_compressed(struct mem_layer *l, const unsigned char *data, size_t cluster)
{
    z_stream z = {0};
    unsigned char *out = must(malloc(2 * cluster + 64));
    unsigned x = 62 - (l->cluster_bits - 8);
    uint64_t at, sectors, len;

    if (deflateInit2(&z, 6, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY) != Z_OK)
        abort();
    z.next_in = (unsigned char *)(uintptr_t)data;
    z.avail_in = (unsigned)cluster;
    z.next_out = out;
    z.avail_out = (unsigned)(2 * cluster + 64);
    if (deflate(&z, Z_FINISH) != Z_STREAM_END)
        abort();
    len = z.total_out;
    deflateEnd(&z);
    at = append(l, len, 1);
    memcpy(l->file + at, out, len);
    free(out);
    sectors = (at % 512 + len - 1) / 512;
    return UINT64_C(1) << 62 | sectors << x | at;
}

void mem_layer_set(struct mem_chain *m, uint32_t k, uint64_t n, enum mem_state state)
{
    struct mem_layer *l = &m->layer[k];
    uint64_t cluster = UINT64_C(1) << l->cluster_bits, per_l2 = cluster / 8, l2, at, entry = 0;
    unsigned char *data;

    if (!l->state)
        l->state = must(calloc(l->n_clusters, 1));
    if (l->cluster_bits == 0) {
        l->state[n] = MEM_DATA;
        fill_sectors(l->file + n * 512, 512, k, n * 512);
        return;
    }
    l->state[n] = (unsigned char)state;
    l2 = get64(l->file + cluster + n / per_l2 * 8) & UINT64_C(0x00fffffffffffe00);
    if (!l2) {
        l2 = append(l, cluster, cluster);
        put64(l->file + cluster + n / per_l2 * 8, l2 | UINT64_C(1) << 63);
    }
    if (state == MEM_ZERO) {
        entry = 1;
    } else if (state != MEM_ABSENT) {
        data = must(malloc(cluster));
        fill_sectors(data, cluster, k, n * cluster);
        if (state == MEM_DATA) {
            at = append(l, cluster, cluster);
            memcpy(l->file + at, data, cluster);
            entry = at | UINT64_C(1) << 63;
        } else {
            entry = write_compressed(l, data, cluster);
        }
        free(data);
    }
    put64(l->file + l2 + n % per_l2 * 8, entry);
}

void mem_layer_randomize(struct mem_chain *m, uint32_t k, unsigned percent, uint64_t *seed)
{
    struct mem_layer *l = &m->layer[k];
    uint64_t r;

    for (uint64_t n = 0; n < l->n_clusters; n++) {
        r = mem_random(seed);
        if (r % 100 < percent)
            mem_layer_set(m, k, n, l->cluster_bits ? 1 + (enum mem_state)(r >> 32) % 3 : MEM_DATA);
    }
}

struct mem_chain *mem_chain_random(uint32_t n, uint64_t max_size, uint64_t *seed)
{
    struct mem_chain *m = mem_chain_create(n);

    for (uint32_t k = n; k-- > 0;) { /* from the bottom: a layer records the format below it */
        uint64_t size = (max_size / 2 + mem_random(seed) % (max_size / 2 + 1)) / 512 * 512;
        bool raw = k == n - 1 && mem_random(seed) % 4 == 0;

        mem_layer_init(m, k, size, raw ? 0 : 9 + (unsigned)(mem_random(seed) % 8));
        mem_layer_randomize(m, k, 10 + (unsigned)(mem_random(seed) % 50), seed);
    }
    return m;
}

/* ----------------------------------------------------------------- model --- */

uint32_t mem_chain_look(const struct mem_chain *m, uint64_t offset, enum mem_state *state)
{
    *state = MEM_ABSENT;
    for (uint32_t k = 0; k < m->n; k++) {
        const struct mem_layer *l = &m->layer[k];

        if (offset >= l->size)
            break;
        if (l->cluster_bits == 0) {
            *state = MEM_DATA;
            return k;
        }
        if (l->state && l->state[offset >> l->cluster_bits] != MEM_ABSENT) {
            *state = (enum mem_state)l->state[offset >> l->cluster_bits];
            return k;
        }
        if (!l->has_backing)
            break;
    }
    return m->n;
}

void mem_chain_read(const struct mem_chain *m, void *buf, uint64_t length, uint64_t offset)
{
    unsigned char *p = buf;
    enum mem_state state;
    uint64_t n;
    uint32_t k;

    for (; length > 0; length -= n, offset += n, p += n) {
        n = 512 - offset % 512;
        if (n > length)
            n = length;
        k = mem_chain_look(m, offset, &state);
        if (k == m->n || state == MEM_ZERO)
            memset(p, 0, n);
        else if (m->layer[k].cluster_bits == 0)
            memcpy(p, m->layer[k].file + offset, n);
        else
            fill_sectors(p, n, k, offset);
    }
}

/* ---------------------------------------------------------------- stores --- */

static void layer_close(void *obj)
{
    atomic_fetch_sub(&((struct mem_layer *)obj)->n_open, 1);
}

static int layer_size(void *obj, uint64_t *size, qchain_error *err)
{
    (void)err;
    *size = ((struct mem_layer *)obj)->file_size;
    return 0;
}

static int layer_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                       qchain_error *err)
{
    struct mem_layer *l = obj;
    int n = atomic_fetch_add(&l->n_pread, 1);

    (void)flags;
    if (l->delay_us)
        usleep(l->delay_us);
    while (atomic_load(&l->held))
        usleep(1000);
    if (l->fail_from >= 0 && n >= l->fail_from && n < l->fail_to)
        return qchain_backend_fail(err, QCHAIN_E_IO, EIO, "the medium failed");
    if (offset > l->file_size || length > l->file_size - offset)
        abort(); /* the library never asks for that */
    memcpy(buf, l->file + offset, length);
    return 0;
}

static int layer_extents(void *obj, qchain_store_extent *out, uint64_t length, uint64_t offset,
                         uint32_t flags, qchain_error *err)
{
    struct mem_layer *l = obj;

    (void)flags;
    if (!l->extents)
        return qchain_backend_fail(err, QCHAIN_E_UNSUPPORTED, 0, "no extents");
    return l->extents(l, out, length, offset);
}

static const qchain_store_ops layer_ops = {
    .struct_size = sizeof(layer_ops),
    .version = QCHAIN_BACKEND_VERSION,
    .name = "layer",
    .close = layer_close,
    .size = layer_size,
    .pread = layer_pread,
    .extents = layer_extents,
};

void mem_layer_store(struct mem_chain *m, uint32_t k, qchain_store *out)
{
    *out = (qchain_store){sizeof(*out), &layer_ops, &m->layer[k], "layer"};
    atomic_fetch_add(&m->layer[k].n_open, 1);
}

int mem_resolve(void *data, const qchain_reference *ref, qchain_resolution *out)
{
    static _Thread_local qchain_store store; /* copied by the library at once */
    struct mem_chain *m = data;
    unsigned k;

    if (sscanf(ref->name, "layer%u", &k) != 1 || k >= m->n)
        return QCHAIN_RESOLVE_DENY;
    mem_layer_store(m, k, &store);
    out->store = &store;
    return QCHAIN_RESOLVE_STORE;
}

int mem_chain_open(struct mem_chain *m, qchain **out, qchain_env *env, qchain_open_opts *opts,
                   qchain_error *err)
{
    qchain_open_opts o;
    qchain_store top;

    qchain_open_opts_init(&o, sizeof(o));
    if (opts)
        o = *opts;
    mem_layer_store(m, 0, &top);
    o.store = &top;
    o.format = m->layer[0].cluster_bits ? "qcow2" : "raw";
    o.resolver = mem_resolve;
    o.resolver_data = m;
    return qchain_open(out, env, "layer0", &o, err);
}
