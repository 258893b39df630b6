/* SPDX-License-Identifier: MIT */
/* N layers as one disk. */
#ifndef QC_CHAIN_CHAIN_H
#define QC_CHAIN_CHAIN_H

#include <stdatomic.h>

#include "chain/env.h"
#include "chain/index.h"
#include "format/format.h"
#include "util/error.h"

struct qc_bitmaps;
struct qc_recorder;
struct qc_tip;

/* A file that runs refer to. A layer has one, or two with a data file. Of layers that
 * are known from a sidecar alone it is opened at the first need: qc_source_store. */
struct qc_source {
    char                 *name;  /* as QEMU would print it; raw bytes */
    char                 *shown; /* the same without secrets of a URL; NULL: there are none */
    uint64_t              owner; /* its key in the block cache */
    uint32_t              layer;
    atomic_int            holes; /* look for holes when mapping: -1 not known yet */
    bool                  has_inode;
    uint64_t              device, inode; /* to find loops */
};

struct qc_layer {
    const struct qc_format *format;
    _Atomic(struct qc_image *) img; /* NULL: not opened yet, qc_layer_image opens it */
    uint64_t                virtual_size;
    uint32_t                cluster_size; /* 0: raw */
    char                   *name;  /* as opened; raw bytes */
    char                   *real_path; /* or NULL */
    uint64_t                limit; /* bytes that show at most: the least size from the first frozen layer to
                                      here; of a tip its own */
    uint16_t                source, data_source; /* equal without a data file */
};

struct qchain {
    qchain_env       *env;
    bool              owns_env;
    bool              has_snapshot; /* of the top: opened by an internal snapshot */
    bool              far;          /* a layer lies far away: reads are many at once */
    bool              by_caller;    /* files that its names alone do not lead to */
    uint32_t          open_flags;   /* QCHAIN_OPEN_* */
    atomic_uint_fast64_t size;    /* of the disk; a writable one may be resized */
    uint32_t          frozen;       /* the first layer that the index covers: 1 if the top is written, else 0 */
    struct qc_tip    *tip;          /* the top, open for writing; else NULL */
    _Atomic(struct qc_bitmaps *) bitmaps; /* of the top, or NULL as long as nobody has asked */
    struct qc_layer  *layer;
    uint32_t          n_layers;
    size_t            cap_layers;
    struct qc_source *source;
    struct qc_store_hot *hot; /* one a source, for reads */
    uint32_t          n_sources;
    size_t            cap_sources, cap_hot;
    _Atomic(struct qc_recorder *) recorder; /* while what is read is recorded, else NULL */
    struct qc_recorder *own_recorder; /* the same, from the first recording on */
    atomic_bool       changed; /* a layer is not what its sidecar says: all fails CHANGED */
    struct qc_verifying *verify; /* its turn among those that are compared with their stores, or NULL */
    struct qc_sidecar *sidecar; /* knows the lower layers; NULL if there is none */
    char             *why_not;  /* why the top's sidecar is not used; NULL: it is, or there is none */
    pthread_mutex_t   late_lock; /* guards what is opened late, while it is put in its place */
    pthread_cond_t    warmed;   /* n_warm, under late_lock, fell */
    struct qc_warm   *warm;     /* metadata being read ahead, see warm.h */
    uint32_t          n_warm;
    struct qc_index   index;
};

/* The store of source i if it is open, else NULL; never blocks. */
static inline struct qc_store *qc_source_opened(const qchain *c, uint32_t i)
{
    return atomic_load_explicit(&c->hot[i].store, memory_order_acquire);
}

/* The same, opened now if need be; NULL and err (CHANGED, and then the whole chain is;
 * or why it cannot be opened). May block. */
struct qc_store *qc_source_store(qchain *c, uint32_t i, qchain_error *err);
/* Layer k's image, opened now if need be; NULL and err. May block. */
struct qc_image *qc_layer_image(qchain *c, uint32_t k, qchain_error *err);

/* 0, or CHANGED once a layer was found to be not what its sidecar says. */
int qc_chain_fail_changed(qchain_error *err);
static inline int qc_chain_check(const qchain *c, qchain_error *err)
{
    return atomic_load_explicit(&c->changed, memory_order_relaxed) ? qc_chain_fail_changed(err) : 0;
}

/* Add a layer called name with nothing set, or a file of it; store: NULL if it is not
 * opened yet. 0, LIMIT or NOMEM. */
int qc_chain_add_layer(qchain *c, const char *name, qchain_error *err);
int qc_chain_add_source(qchain *c, struct qc_store *store, uint32_t layer, const char *name,
                        uint16_t *number, qchain_error *err);
/* CHAIN if the file of a number is one that came before it: a loop, or a data file that is
 * a layer. */
int qc_chain_check_loop(const qchain *c, uint32_t source, qchain_error *err);
/* Forget layers and files from these numbers on; what is open of them is closed. */
void qc_chain_truncate(qchain *c, uint32_t n_layers, uint32_t n_sources);

/* Open name and everything below it. */
int qc_chain_open(qchain **out, qchain_env *env, const char *name, const qchain_open_opts *opts,
                  qchain_error *err);
void qc_chain_close(qchain *c); /* NULL is fine */
/* Open, for reading, what the top of a chain would stand on if it named this as its backing file: by the rules that
 * hold for its own names. opts: flags, policy and resolver. */
int qc_chain_open_backing(qchain **out, qchain *top, const char *backing, const char *format,
                          const qchain_open_opts *opts, qchain_error *err);

/* Describe an image that is not part of an open chain, opening nothing else. */
int qc_chain_inspect(qchain_image_info *info, qchain_env *env, const char *name,
                     const qchain_open_opts *opts, qchain_error *err);
/* Open an image by itself, however damaged, to be checked: nothing but its store is to be used. write: the
 * store is opened for it. */
int qc_chain_open_alone(qchain **out, qchain_env *env, const char *name, const qchain_open_opts *opts,
                        bool write, qchain_error *err);
/* Describe an open layer. */
int qc_layer_describe(qchain_image_info *info, qchain *c, uint32_t layer, qchain_error *err);

/* Say in err which layer it was. What it says of a chain that a sidecar tells of is worth nothing
 * any more if a layer is not what it was. */
void qc_layer_prefix(qchain *c, uint32_t layer, qchain_error *err);

/* The range is checked already; err is not NULL. */
enum qc_chain_read_flags {
    QC_CHAIN_READ_SERIAL = 0x1, /* decode on this thread only */
    QC_CHAIN_READ_INSIDE = 0x2, /* the caller is inside the tip (tip.h) */
    QC_CHAIN_READ_VM = 0x4,     /* the same, and the range lies in its VM state area */
    QC_CHAIN_READ_EXACT = 0x8,  /* of what lies far away no more than is asked for: it is read once */
    QC_CHAIN_READ_KEEP = 0x10   /* the guest's: what it brings from below the tip is kept there, if that is wanted */
};
int qc_chain_readv(qchain *c, const qchain_iov *iov, size_t n_iov, size_t length, uint64_t offset,
                   uint32_t flags, qchain_error *err);

/* One of several ranges that are read together: what is far away is asked for at once. */
struct qc_span {
    const struct qc_run *run; /* looked up, in order, they cover it; NULL: what the chain shows. Of one with a tip the
                                 caller is inside it (tip.h) */
    size_t               n;
    const qchain_iov    *iov; /* holds end - offset bytes */
    uint64_t             offset, end;
};
/* flags: SERIAL, EXACT. */
int qc_chain_read_spans(qchain *c, const struct qc_span *span, size_t n, uint32_t flags, qchain_error *err);

/* The same with runs that were looked up, which cover [offset, end) in order: no look at
 * the index, and decoding on this thread. iov holds end - offset bytes. flags: EXACT. */
int qc_chain_read_runs(qchain *c, const struct qc_run *run, size_t n, const qchain_iov *iov,
                       uint64_t offset, uint64_t end, uint32_t flags, qchain_error *err);

/* See qchain_map; the arguments are checked already. */
int qc_chain_map(qchain *c, uint64_t offset, uint64_t end, qchain_extent *extents, uint32_t max,
                 uint32_t *n, uint64_t *next, uint32_t flags, qchain_error *err);
/* See qchain_diff. */
int qc_chain_diff(qchain *c, uint32_t below, uint32_t upto, uint64_t offset, uint64_t end,
                  qchain_extent *extents, uint32_t max, uint32_t *n, uint64_t *next,
                  uint32_t flags, qchain_error *err);

#endif
