/* SPDX-License-Identifier: MIT */
/* Decoders with their input buffers, kept between uses. */
#ifndef QC_CHAIN_CODEC_H
#define QC_CHAIN_CODEC_H

#include "format/format.h"

struct qchain_env;

struct qc_codec {
    struct qc_codec        *next;
    const struct qc_format *format;
    uint32_t                kind, cluster_size;
    struct qc_decoder      *decoder;
    void                   *input;
    size_t                  input_size;
};

/* An idle codec that fits img, or a new one; input holds at least input_size
 * bytes. NULL when there is no memory. Give it back with qc_codec_put. */
struct qc_codec *qc_codec_get(struct qchain_env *env, const struct qc_image *img,
                              size_t input_size);
void qc_codec_put(struct qchain_env *env, struct qc_codec *codec); /* NULL is fine */
/* Free a list of codecs. */
void qc_codecs_destroy(struct qc_codec *list);

#endif
