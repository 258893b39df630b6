/* SPDX-License-Identifier: MIT */
/*
 * Streams of compressed clusters: raw deflate with a window of 4 KiB, which is what readers are promised, or
 * one zstd frame. Contexts are reused.
 */
#include "qcow2/writer.h"

#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"

#define WINDOW_BITS 12
#define MEM_LEVEL 9

struct qc_encoder {
    bool       have_deflate;
    z_stream   deflate;
    ZSTD_CCtx *zstd; /* NULL: zlib */
};

/* QEMU's level, with tables for a cluster: zstd's own for this level are made for several, and fall out of the near
 * cache. The table of short matches has an entry a byte, that of long ones, which are few, a sixteenth: faster by 6 to
 * 22 % on text, programs and archives, the streams 0.3 % larger to 0.7 % smaller. Of smaller or larger clusters its own
 * tables fit. */
static bool set_zstd(ZSTD_CCtx *c, int cluster_bits)
{
    bool ok = !ZSTD_isError(ZSTD_CCtx_setParameter(c, ZSTD_c_compressionLevel, ZSTD_CLEVEL_DEFAULT));

    if (ok && cluster_bits >= 15 && cluster_bits <= 17)
        ok = !ZSTD_isError(ZSTD_CCtx_setParameter(c, ZSTD_c_windowLog, cluster_bits)) &&
             !ZSTD_isError(ZSTD_CCtx_setParameter(c, ZSTD_c_chainLog, cluster_bits)) &&
             !ZSTD_isError(ZSTD_CCtx_setParameter(c, ZSTD_c_hashLog, cluster_bits - 4));
    return ok;
}

struct qc_encoder *qc2_encoder_create(const struct qc_image *img)
{
    struct qc_encoder *e = qc_calloc(1, sizeof(*e));
    bool ok;

    if (!e)
        return NULL;
    if (img->decoder_kind == QCHAIN_COMPRESSION_ZSTD) {
        e->zstd = ZSTD_createCCtx();
        ok = e->zstd && set_zstd(e->zstd, __builtin_ctz(img->cluster_size));
    } else {
        ok = deflateInit2(&e->deflate, Z_DEFAULT_COMPRESSION, Z_DEFLATED, -WINDOW_BITS, MEM_LEVEL,
                          Z_DEFAULT_STRATEGY) == Z_OK;
        e->have_deflate = ok;
    }
    if (!ok) {
        qc2_encoder_destroy(e);
        return NULL;
    }
    return e;
}

void qc2_encoder_destroy(struct qc_encoder *e)
{
    if (!e)
        return;
    if (e->have_deflate)
        deflateEnd(&e->deflate);
    ZSTD_freeCCtx(e->zstd);
    qc_free(e);
}

static int encode_zlib(struct qc_encoder *e, void *out, size_t *out_len, const void *in, size_t in_len,
                       qchain_error *err)
{
    if (deflateReset(&e->deflate) != Z_OK)
        return qc_fail(err, QCHAIN_E_INTERNAL, "cannot reset the zlib encoder");
    e->deflate.next_in = (Bytef *)(uintptr_t)in;
    e->deflate.avail_in = (uInt)in_len;
    e->deflate.next_out = out;
    e->deflate.avail_out = (uInt)*out_len;
    if (deflate(&e->deflate, Z_FINISH) != Z_STREAM_END)
        return 1;
    *out_len -= e->deflate.avail_out;
    return QCHAIN_OK;
}

static int encode_zstd(struct qc_encoder *e, void *out, size_t *out_len, const void *in, size_t in_len,
                       qchain_error *err)
{
    size_t n = ZSTD_compress2(e->zstd, out, *out_len, in, in_len);

    if (!ZSTD_isError(n)) {
        *out_len = n;
        return QCHAIN_OK;
    }
    if (ZSTD_getErrorCode(n) == ZSTD_error_dstSize_tooSmall)
        return 1;
    if (ZSTD_getErrorCode(n) == ZSTD_error_memory_allocation)
        return qc_fail_nomem(err);
    return qc_fail(err, QCHAIN_E_INTERNAL, "zstd: %s", ZSTD_getErrorName(n));
}

int qc2_encode(struct qc_encoder *e, void *out, size_t *out_len, const void *in, size_t in_len,
               qchain_error *err)
{
    *out_len = (size_t)qc_min64(*out_len, in_len - 1);
    return e->zstd ? encode_zstd(e, out, out_len, in, in_len, err)
                   : encode_zlib(e, out, out_len, in, in_len, err);
}
