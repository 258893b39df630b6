/* SPDX-License-Identifier: MIT */
/*
 * The chains of test_queue_stress.c: some healthy in memory, some in files, some
 * slow, some that fail now and then, and many that are dead: reads of their stores
 * hang until they time out, in every third chain until all are healed; in every
 * second chain only reads of data, so that both kinds of threads hang. Include after
 * mem_layers.c.
 */
#ifndef QC_TESTS_STRESS_CHAINS_H
#define QC_TESTS_STRESS_CHAINS_H

#include "mem_files.h"

#define WINDOW (UINT64_C(128) << 20)
#define N_SPOTS 32 /* places of a chain that hold something */
#define SPOT (UINT64_C(1) << 20)
#define HANG_US 500000

enum kind { MEMORY, FILES, SLOW, FAILING, DEAD };

static const char *const kind_name[] = {"memory", "files", "slow", "failing", "dead"};

struct chain {
    enum kind         kind;
    unsigned          number;
    struct mem_chain *mem;
    char             *dir; /* FILES */
    qchain           *c;
    uint64_t          spot[N_SPOTS];
};

static atomic_bool ill;        /* SLOW, FAILING and DEAD behave as they are called */
static atomic_int  n_hanging;  /* preads that hang now, */
static atomic_int  n_hung;     /* and that did */
static atomic_int  n_refused;  /* preads that failed at once */
static atomic_uint troubles;   /* draws */

static unsigned draw(unsigned n)
{
    uint64_t state = atomic_fetch_add(&troubles, 1);

    return (unsigned)(mem_random(&state) % n);
}

/* ---------------------------------------------------------------- stores --- */

/* One store over a layer of a chain that is not well. */
struct ill_store {
    struct chain     *of;
    struct mem_layer *layer;
};

static void ill_close(void *obj)
{
    struct ill_store *s = obj;

    atomic_fetch_sub(&s->layer->n_open, 1);
    free(s);
}

static int ill_size(void *obj, uint64_t *size, qchain_error *err)
{
    return layer_size(((struct ill_store *)obj)->layer, size, err);
}

static bool is_metadata(const struct mem_layer *l, uint64_t offset)
{
    uint64_t cluster = UINT64_C(1) << l->cluster_bits, l1 = get64(l->file + 40), n = l->file[39];

    n += (uint64_t)l->file[38] << 8 | (uint64_t)l->file[37] << 16;
    if (l->cluster_bits == 0 || offset < l1 + n * 8)
        return l->cluster_bits != 0;
    for (uint64_t i = 0, l2; i < n; i++) {
        l2 = get64(l->file + l1 + i * 8) & UINT64_C(0x00fffffffffffe00);
        if (l2 / cluster == offset / cluster)
            return true;
    }
    return false;
}

static bool hangs_for_good(const struct chain *c)
{
    return c->kind == DEAD && c->number % 3 == 0;
}

static int hang(const struct chain *c, qchain_error *err)
{
    atomic_fetch_add(&n_hung, 1);
    atomic_fetch_add(&n_hanging, 1);
    for (int us = 0; (us < HANG_US || hangs_for_good(c)) && atomic_load(&ill); us += 5000)
        usleep(5000);
    atomic_fetch_sub(&n_hanging, 1);
    return qchain_backend_fail(err, QCHAIN_E_TIMEOUT, ETIMEDOUT, "the store does not answer");
}

static int ill_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                     qchain_error *err)
{
    struct ill_store *s = obj;

    if (atomic_load(&ill) && s->of->kind == DEAD &&
        (s->of->number % 2 || !is_metadata(s->layer, offset)))
        return hang(s->of, err);
    if (atomic_load(&ill) && s->of->kind == SLOW)
        usleep(draw(15000));
    if (atomic_load(&ill) && s->of->kind == FAILING && draw(4) == 0) {
        atomic_fetch_add(&n_refused, 1);
        return qchain_backend_fail(err, QCHAIN_E_IO, EIO, "the medium failed");
    }
    return layer_pread(s->layer, buf, length, offset, flags, err);
}

static const qchain_store_ops ill_ops = {
    .struct_size = sizeof(ill_ops),
    .version = QCHAIN_BACKEND_VERSION,
    .name = "ill",
    .close = ill_close,
    .size = ill_size,
    .pread = ill_pread,
};

static void ill_store(struct chain *c, uint32_t k, qchain_store *out)
{
    struct ill_store *s = must(malloc(sizeof(*s)));

    s->of = c;
    s->layer = &c->mem->layer[k];
    atomic_fetch_add(&s->layer->n_open, 1);
    *out = (qchain_store){sizeof(*out), &ill_ops, s, kind_name[c->kind]};
}

static int ill_resolve(void *data, const qchain_reference *ref, qchain_resolution *out)
{
    static _Thread_local qchain_store store; /* copied by the library at once */
    struct chain *c = data;
    unsigned k;

    if (sscanf(ref->name, "layer%u", &k) != 1 || k >= c->mem->n)
        return QCHAIN_RESOLVE_DENY;
    ill_store(c, k, &store);
    out->store = &store;
    return QCHAIN_RESOLVE_STORE;
}

/* ---------------------------------------------------------------- chains --- */

/* Every other spot has clusters of all states here and there, the rest one stretch. */
static void fill_layer(struct chain *c, uint32_t k, uint64_t *seed)
{
    struct mem_layer *l = &c->mem->layer[k];
    uint64_t unit = l->cluster_bits ? UINT64_C(1) << l->cluster_bits : 512;
    uint64_t per_spot = SPOT / unit, at, n;

    for (unsigned i = 0; i < N_SPOTS; i++) {
        uint64_t first = mem_random(seed) % (per_spot / 2);

        for (unsigned j = 0; j < 24; j++) {
            at = c->spot[i] + (i % 2 ? first + j : mem_random(seed) % per_spot) * unit;
            n = i % 2 ? 0 : mem_random(seed) % 8;
            if (at < l->size)
                mem_layer_set(c->mem, k, at / unit,
                              n < 3 ? MEM_DATA : n < 5 ? MEM_COMPRESSED : MEM_ZERO);
        }
    }
}

static void make_layers(struct chain *c, uint64_t *seed)
{
    uint64_t size = (3 + mem_random(seed) % 4) * WINDOW + mem_random(seed) % 4096 * 512;
    uint32_t n = 2 + (uint32_t)(mem_random(seed) % 3);

    c->mem = mem_chain_create(n);
    for (unsigned i = 0; i < N_SPOTS; i++)
        c->spot[i] = i == 0 ? 0 : mem_random(seed) % (size / SPOT) * SPOT;
    for (unsigned i = 1; i < 5; i++) /* some go over the edge of a window */
        c->spot[i] = i % 2 * WINDOW + WINDOW - SPOT / 2;
    for (uint32_t k = n; k-- > 0;) {
        bool raw = k == n - 1 && mem_random(seed) % 3 == 0;
        uint64_t mine = k == 0 ? size : size - mem_random(seed) % WINDOW / 512 * 512;

        mem_layer_init(c->mem, k, raw ? 2 * SPOT : mine,
                       raw ? 0 : 9 + (unsigned)(mem_random(seed) % 6));
        fill_layer(c, k, seed);
    }
}

static int chain_open(struct chain *c, qchain_env *env, qchain_error *err)
{
    qchain_open_opts o;
    qchain_store top;

    if (c->kind == MEMORY)
        return mem_chain_open(c->mem, &c->c, env, NULL, err);
    if (c->kind == FILES)
        return mem_files_open(c->mem, c->dir, &c->c, env, err);
    qchain_open_opts_init(&o, sizeof(o));
    ill_store(c, 0, &top);
    o.store = &top;
    o.format = "qcow2";
    o.resolver = ill_resolve;
    o.resolver_data = c;
    return qchain_open(&c->c, env, "layer0", &o, err);
}

static void chain_make(struct chain *c, unsigned number, enum kind kind, const char *dir,
                       uint64_t *seed)
{
    c->kind = kind;
    c->number = number;
    make_layers(c, seed);
    if (kind != FILES)
        return;
    c->dir = must(malloc(strlen(dir) + 32));
    sprintf(c->dir, "%s/chain%u", dir, number);
    mem_files_write(c->mem, c->dir);
}

/* False if a store of it was left open, or closed twice. */
static bool chain_end(struct chain *c)
{
    bool good = true;

    qchain_close(c->c);
    for (uint32_t k = 0; k < c->mem->n; k++)
        good &= atomic_load(&c->mem->layer[k].n_open) == 0;
    if (c->dir)
        mem_files_remove(c->mem, c->dir);
    free(c->dir);
    mem_chain_destroy(c->mem);
    return good;
}

#endif
