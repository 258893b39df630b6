/* SPDX-License-Identifier: MIT */
/*
 * Chains that live in memory: a small qcow2 writer, stores over what it made,
 * and a model that says what each sector must read as. Needs the public headers
 * only, so that programs outside the unit tests may include mem_layers.c.
 */
#ifndef QC_TESTS_MEM_LAYERS_H
#define QC_TESTS_MEM_LAYERS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <qchain-backend.h>

enum mem_state { MEM_ABSENT = 0, MEM_DATA, MEM_ZERO, MEM_COMPRESSED };

/* One layer: a qcow2 image, or raw with cluster_bits 0. */
struct mem_layer {
    uint32_t      number; /* in the chain, 0 is the top */
    unsigned      cluster_bits;
    uint64_t      size;   /* of the virtual disk */
    uint64_t      n_clusters;
    unsigned char *state; /* one enum mem_state a cluster; NULL for an empty layer */
    unsigned char *file;
    uint64_t      file_size, cap;
    bool          has_backing;
    /* How its store behaves; pread counts calls of all stores of the layer. */
    atomic_int    n_open, n_pread;
    int           fail_from, fail_to; /* preads [from, to) fail EIO; from < 0: none */
    unsigned      delay_us;
    atomic_bool   held;  /* preads wait while this is true */
    int         (*extents)(struct mem_layer *l, qchain_store_extent *out, uint64_t length,
                           uint64_t offset);
};

struct mem_chain {
    struct mem_layer *layer;
    uint32_t          n;
};

/* n layers without content; all need mem_layer_* before they are opened. */
struct mem_chain *mem_chain_create(uint32_t n);
void mem_chain_destroy(struct mem_chain *m);

/* Make layer k an image of size bytes. cluster_bits 0: raw. */
void mem_layer_init(struct mem_chain *m, uint32_t k, uint64_t size, unsigned cluster_bits);
/* Give one cluster (or a raw layer's sector) a state; its bytes follow from its place. */
void mem_layer_set(struct mem_chain *m, uint32_t k, uint64_t cluster, enum mem_state state);

/* A store over layer k; closed by whoever opens it. */
void mem_layer_store(struct mem_chain *m, uint32_t k, qchain_store *out);
/* Open the chain through a resolver that answers with stores. */
int mem_chain_open(struct mem_chain *m, qchain **out, qchain_env *env, qchain_open_opts *opts,
                   qchain_error *err);
/* The resolver of mem_chain_open; data is the chain. */
int mem_resolve(void *data, const qchain_reference *ref, qchain_resolution *out);

/* The layer that shows at offset, n if none does, and in which state. */
uint32_t mem_chain_look(const struct mem_chain *m, uint64_t offset, enum mem_state *state);
/* What the disk must read as. */
void mem_chain_read(const struct mem_chain *m, void *buf, uint64_t length, uint64_t offset);

/* Give every cluster of layer k a random state, with a density in percent. */
void mem_layer_randomize(struct mem_chain *m, uint32_t k, unsigned percent, uint64_t *seed);
/* n layers of random sizes up to max_size, cluster sizes and content. */
struct mem_chain *mem_chain_random(uint32_t n, uint64_t max_size, uint64_t *seed);

/* A seed to print: QC_SEED of the environment, or the given one. */
uint64_t mem_seed(uint64_t otherwise);

#endif
