/* SPDX-License-Identifier: MIT */
/*
 * Compressed clusters: raw deflate, or zstd frames. The length of a stream is
 * known to a sector only, so bytes after its end are ignored. Contexts are
 * reused, and no field of a stream decides how much memory is taken.
 */
#include "qcow2/image_int.h"

#include <string.h>

#include <zlib.h>
#include <zstd.h>
#include <zstd_errors.h>
#ifdef QC_HAVE_LIBDEFLATE
#include <libdeflate.h>
#endif

#include "util/alloc.h"
#include "util/error.h"

#define ZSTD_WINDOW_LOG 24 /* clusters have 2^21 bytes at most */

struct qc_decoder {
    uint32_t   kind; /* QCHAIN_COMPRESSION_* */
    bool       have_inflate;
    z_stream   inflate;
    ZSTD_DCtx *zstd;
#ifdef QC_HAVE_LIBDEFLATE
    struct libdeflate_decompressor *fast;
#endif
};

static bool zlib_start(struct qc_decoder *d)
{
    d->have_inflate = inflateInit2(&d->inflate, -15) == Z_OK;
#ifdef QC_HAVE_LIBDEFLATE
    d->fast = libdeflate_alloc_decompressor();
#endif
    return d->have_inflate;
}

static bool zstd_start(struct qc_decoder *d)
{
    d->zstd = ZSTD_createDCtx();
    return d->zstd &&
           !ZSTD_isError(ZSTD_DCtx_setParameter(d->zstd, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG));
}

struct qc_decoder *qc2_decoder_create(const struct qc_image *img)
{
    struct qc_decoder *d = qc_calloc(1, sizeof(*d));

    if (!d)
        return NULL;
    d->kind = img->decoder_kind;
    if (!(d->kind == QCHAIN_COMPRESSION_ZSTD ? zstd_start(d) : zlib_start(d))) {
        qc2_decoder_destroy(d);
        return NULL;
    }
    return d;
}

void qc2_decoder_destroy(struct qc_decoder *d)
{
    if (!d)
        return;
    if (d->have_inflate)
        inflateEnd(&d->inflate);
#ifdef QC_HAVE_LIBDEFLATE
    if (d->fast)
        libdeflate_free_decompressor(d->fast);
#endif
    ZSTD_freeDCtx(d->zstd);
    qc_free(d);
}

/* A whole stream of exactly out_len bytes; anything else is left to zlib, whose
 * verdict counts. */
static bool inflate_fast(struct qc_decoder *d, void *out, size_t out_len, const void *in,
                         size_t in_len)
{
#ifdef QC_HAVE_LIBDEFLATE
    return d->fast && libdeflate_deflate_decompress(d->fast, in, in_len, out, out_len, NULL) ==
                          LIBDEFLATE_SUCCESS;
#else
    (void)d;
    (void)out;
    (void)out_len;
    (void)in;
    (void)in_len;
    return false;
#endif
}

/* The cluster is whole when out is full, whatever follows in the stream. */
static int decode_zlib(struct qc_decoder *d, void *out, size_t out_len, const void *in,
                       size_t in_len, qchain_error *err)
{
    if (inflate_fast(d, out, out_len, in, in_len))
        return QCHAIN_OK;
    if (inflateReset(&d->inflate) != Z_OK)
        return qc_fail(err, QCHAIN_E_INTERNAL, "cannot reset the zlib decoder");
    d->inflate.next_in = (Bytef *)(uintptr_t)in;
    d->inflate.avail_in = (uInt)in_len;
    d->inflate.next_out = out;
    d->inflate.avail_out = (uInt)out_len;
    if (inflate(&d->inflate, Z_FINISH) == Z_MEM_ERROR)
        return qc_fail_nomem(err);
    if (d->inflate.avail_out > 0)
        return qc_fail(err, QCHAIN_E_CORRUPT,
                       "compressed cluster: the deflate stream is damaged or too short");
    return QCHAIN_OK;
}

static int zstd_failed(size_t code, qchain_error *err)
{
    if (ZSTD_getErrorCode(code) == ZSTD_error_memory_allocation)
        return qc_fail_nomem(err);
    return qc_fail(err, QCHAIN_E_CORRUPT, "compressed cluster: zstd: %s", ZSTD_getErrorName(code));
}

/* One frame or several, until out is full; the last one must end there. */
static int decode_zstd(struct qc_decoder *d, void *out, size_t out_len, const void *in,
                       size_t in_len, qchain_error *err)
{
    ZSTD_inBuffer from = {in, in_len, 0};
    ZSTD_outBuffer to = {out, out_len, 0};
    size_t left = 0;

    ZSTD_DCtx_reset(d->zstd, ZSTD_reset_session_only);
    while (to.pos < to.size) {
        size_t in_before = from.pos, out_before = to.pos;

        left = ZSTD_decompressStream(d->zstd, &to, &from);
        if (ZSTD_isError(left))
            return zstd_failed(left, err);
        if (from.pos == in_before && to.pos == out_before)
            return qc_fail(err, QCHAIN_E_CORRUPT,
                           "compressed cluster: the zstd stream is too short");
    }
    if (left > 0)
        return qc_fail(err, QCHAIN_E_CORRUPT,
                       "compressed cluster: the zstd frame does not end with the cluster");
    return QCHAIN_OK;
}

int qc2_decode(struct qc_decoder *d, void *out, size_t out_len, const void *in, size_t in_len,
               qchain_error *err)
{
    if (d->kind == QCHAIN_COMPRESSION_ZSTD)
        return decode_zstd(d, out, out_len, in, in_len, err);
    return decode_zlib(d, out, out_len, in, in_len, err);
}
