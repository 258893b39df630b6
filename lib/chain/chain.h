/* SPDX-License-Identifier: MIT */
/* N layers as one disk. */
#ifndef QC_CHAIN_CHAIN_H
#define QC_CHAIN_CHAIN_H

#include <stdatomic.h>

#include "chain/env.h"
#include "chain/index.h"
#include "format/format.h"
#include "util/error.h"

/* A file that runs refer to. A layer has one, or two with a data file. */
struct qc_source {
    struct qc_store *store;
    char            *name;  /* as QEMU would print it; raw bytes */
    uint64_t         owner; /* its key in the block cache */
    uint32_t         layer;
    atomic_int       holes; /* look for holes when mapping: -1 not known yet */
};

struct qc_layer {
    const struct qc_format *format;
    struct qc_image        *img;
    char                   *name;  /* as opened; raw bytes */
    char                   *real_path; /* or NULL */
    uint64_t                limit; /* bytes that show at most: the least size from the top to here */
    uint16_t                source, data_source; /* equal without a data file */
};

struct qchain {
    qchain_env       *env;
    bool              owns_env;
    uint64_t          size;
    struct qc_layer  *layer;
    uint32_t          n_layers;
    size_t            cap_layers;
    struct qc_source *source;
    struct qc_store_hot *hot; /* one a source, for reads */
    uint32_t          n_sources;
    size_t            cap_sources, cap_hot;
    struct qc_index   index;
};

/* Open name and everything below it. */
int qc_chain_open(qchain **out, qchain_env *env, const char *name, const qchain_open_opts *opts,
                  qchain_error *err);
void qc_chain_close(qchain *c); /* NULL is fine */

/* Describe an image that is not part of an open chain, opening nothing else. */
int qc_chain_inspect(qchain_image_info *info, qchain_env *env, const char *name,
                     const qchain_open_opts *opts, qchain_error *err);
/* Describe an open layer. */
int qc_layer_describe(qchain_image_info *info, qchain *c, uint32_t layer, qchain_error *err);

/* Say in err which layer it was. */
void qc_layer_prefix(const qchain *c, uint32_t layer, qchain_error *err);

/* The range is checked already; err is not NULL. */
enum { QC_CHAIN_READ_SERIAL = 0x1 /* decode on this thread only */ };
int qc_chain_readv(qchain *c, const qchain_iov *iov, size_t n_iov, size_t length, uint64_t offset,
                   uint32_t flags, qchain_error *err);

/* See qchain_map; the arguments are checked already. */
int qc_chain_map(qchain *c, uint64_t offset, uint64_t end, qchain_extent *extents, uint32_t max,
                 uint32_t *n, uint64_t *next, uint32_t flags, qchain_error *err);
/* See qchain_diff. */
int qc_chain_diff(qchain *c, uint32_t below, uint32_t upto, uint64_t offset, uint64_t end,
                  qchain_extent *extents, uint32_t max, uint32_t *n, uint64_t *next,
                  uint32_t flags, qchain_error *err);

#endif
