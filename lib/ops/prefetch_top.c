/* SPDX-License-Identifier: MIT */
/*
 * What was fetched is stored in the top of the chain, as a read that keeps what it reads would do it (chain/pull.h):
 * where the top holds something by now, that stands. So the top is a valid image all the time, over the same chain,
 * and what it holds is not mapped to an object any more: that is how a prefetch that was killed goes on.
 */
#include "ops/prefetch_int.h"

#include "chain/codec.h"
#include "chain/pull.h"
#include "chain/tip.h"
#include "util/alloc.h"
#include "util/bytes.h"

/* May the top take the stream of a compressed cluster as it is? All of the cluster shows, and the top would store it in
 * the same way. */
static bool takes_stream(const qchain *c, const struct qc_image *img, const struct qc_want *w)
{
    const struct qc_image *to = c->tip->img;

    return c->tip->ops->write_compressed && !to->data_store && img->format == to->format &&
           img->decoder_kind == to->decoder_kind && img->cluster_size == to->cluster_size &&
           w->packed <= to->cluster_size && w->guest % to->cluster_size == 0 &&
           (w->shows == to->cluster_size || w->guest + w->shows == c->size);
}

/* Bytes that turn out to be damaged are looked for where they come from, by a read of the chain. */
static int unpack(qchain *c, const struct qc_image *img, const struct qc_want *w, const struct qc_stream *in, char *out,
                  qchain_error *err)
{
    struct qc_codec *codec = qc_codec_get(c->env, img, 0);
    qchain_iov iov = {out + (w->guest & (img->cluster_size - 1)), (size_t)w->shows};
    int ret;

    if (!codec)
        return qc_fail_nomem(err);
    ret = img->format->decode(codec->decoder, out, img->cluster_size, in->buf, in->length, err);
    qc_codec_put(c->env, codec);
    if (ret == QCHAIN_E_CORRUPT) {
        qc_error_init(err);
        ret = qc_chain_readv(c, &iov, 1, iov.len, w->guest, QC_CHAIN_READ_SERIAL, err);
    }
    return ret;
}

static int store_packed(qchain *c, const struct qc_want *w, const char *in, qchain_error *err)
{
    const struct qc_image *img = qc_layer_image(c, c->source[w->source].layer, err);
    struct qc_stream stream = {w->guest, in, (size_t)qc_min64(w->packed, w->end - w->host)};
    char *out;
    int ret;

    if (!img)
        return err->code;
    if (takes_stream(c, img, w))
        return qc_chain_pull_streams(c, &stream, 1, err);
    out = qc_malloc(img->cluster_size);
    ret = out ? unpack(c, img, w, &stream, out, err) : qc_fail_nomem(err);
    if (ret == 0)
        ret = qc_chain_pull(c, out + (w->guest & (img->cluster_size - 1)), w->shows, w->guest, err);
    qc_free(out);
    return ret;
}

static int store_plain(qchain *c, const struct qc_want *w, const char *buf, uint64_t held, qchain_error *err)
{
    uint64_t length = qc_min64(qc_align_up(held, 512), w->shows);

    return qc_chain_pull(c, qc_is_zero(buf, (size_t)length) ? NULL : buf, length, w->guest, err);
}

int qc_prefetch_store(qchain *c, const struct qc_want *piece, uint32_t n, const char *buf, uint64_t start,
                      qchain_error *err)
{
    int ret = qc_chain_check(c, err);

    for (uint32_t i = 0; ret == 0 && i < n; i++) {
        const struct qc_want *w = &piece[i];
        const char *p = buf + (w->host - start);

        ret = w->packed ? store_packed(c, w, p, err) : store_plain(c, w, p, qc_min64(w->end - w->host, w->shows), err);
    }
    return ret;
}
