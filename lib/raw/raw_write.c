/* SPDX-License-Identifier: MIT */
/* Writing raw images: every place is the image's own. */
#include "raw/raw_int.h"

#include "util/bytes.h"
#include "util/error.h"

static int raw_begin(struct qc_image *img, const struct qc_write_opts *opts, qchain_error *err)
{
    struct qc_raw_image *raw = qc_raw_of(img);

    (void)err;
    raw->discard = opts->discard;
    raw->unsafe = opts->unsafe;
    return 0;
}

static int raw_flush(struct qc_image *img, qchain_error *err)
{
    return qc_raw_of(img)->unsafe ? 0 : qc_store_flush(img->store, err);
}

static int raw_locate(struct qc_image *img, uint64_t offset, uint64_t length, struct qc_run *out,
                      qchain_error *err)
{
    (void)img;
    (void)err;
    *out = qc_run_make(offset, qc_min64(length, QC_RAW_RUN_MAX), QC_DATA, offset);
    return 0;
}

/* In a file whose size is no multiple of 512 the rest of the last sector comes into being when it is written to. */
static int raw_place(struct qc_image *img, uint64_t offset, uint64_t length, struct qc_place *out,
                     qchain_error *err)
{
    (void)img;
    (void)err;
    *out = (struct qc_place){.offset = offset, .length = length, .host = offset, .own = true};
    return 0;
}

static int raw_zero(struct qc_image *img, uint64_t offset, uint64_t length, uint32_t flags, uint64_t *done,
                    qchain_error *err)
{
    int ret = qc_store_zero(img->store, length, offset, flags & QC_ZERO_UNMAP, err);

    *done = ret == 0 ? length : 0;
    return ret;
}

static int raw_discard(struct qc_image *img, uint64_t offset, uint64_t length, bool has_backing,
                       qchain_error *err)
{
    (void)has_backing;
    return qc_raw_of(img)->discard ? qc_store_discard(img->store, length, offset, err) : 0;
}

static int raw_resize(struct qc_image *img, uint64_t size, uint64_t hidden, qchain_error *err)
{
    int ret = size > QC_HOST_MAX ? qc_fail(err, QCHAIN_E_LIMIT, "raw image: at most 2^56 bytes")
                                 : qc_store_resize(img->store, size, err);

    (void)hidden;
    if (ret == 0)
        img->virtual_size = size;
    return ret;
}

const struct qc_write_ops qc_raw_write_ops = {
    .begin = raw_begin,
    .end = raw_flush,
    .locate = raw_locate,
    .place = raw_place,
    .zero = raw_zero,
    .discard = raw_discard,
    .flush = raw_flush,
    .resize = raw_resize,
};
