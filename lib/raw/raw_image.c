/* SPDX-License-Identifier: MIT */
#include "raw/raw_int.h"

#include <inttypes.h>

#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"

static void raw_close(struct qc_image *img)
{
    qc_free(img);
}

static int raw_open(struct qc_image **out, struct qc_store *store,
                    const struct qc_image_opts *opts, qchain_error *err)
{
    struct qc_raw_image *raw;
    struct qc_image *img;

    if (opts->snapshot)
        return qc_fail(err, QCHAIN_E_NOTFOUND, "raw images have no internal snapshots");
    if (store->size > QC_HOST_MAX)
        return qc_fail(err, QCHAIN_E_LIMIT, "raw image size=%" PRIu64 ": at most 2^56 bytes",
                       store->size);
    raw = qc_calloc(1, sizeof(*raw));
    if (!raw)
        return qc_fail_nomem(err);
    img = &raw->base;
    img->format = &qc_raw_format;
    img->store = store;
    img->virtual_size = qc_align_up(store->size, 512);
    img->map_unit = QC_RAW_RUN_MAX;
    *out = img;
    return QCHAIN_OK;
}

static int raw_map(struct qc_image *img, uint64_t offset, uint64_t length, struct qc_runs *out,
                   qchain_error *err)
{
    if (offset > img->virtual_size || length > img->virtual_size - offset)
        return qc_fail(err, QCHAIN_E_RANGE, "raw image: range past the end of the disk");
    while (length > 0) {
        uint64_t n = qc_min64(length, QC_RAW_RUN_MAX - offset % QC_RAW_RUN_MAX);
        int rc = qc_runs_add(out, qc_run_make(offset, n, QC_DATA, offset));

        if (rc < 0)
            return qc_fail_nomem(err);
        offset += n;
        length -= n;
    }
    return QCHAIN_OK;
}

static int raw_next_used(struct qc_image *img, uint64_t offset, uint64_t *used, qchain_error *err)
{
    (void)err;
    *used = offset < img->virtual_size ? offset : UINT64_MAX;
    return QCHAIN_OK;
}

static int raw_may_have_holes(struct qc_image *img, bool *holes, qchain_error *err)
{
    (void)img;
    (void)err;
    *holes = true;
    return QCHAIN_OK;
}

static int raw_describe(struct qc_image *img, qchain_image_info *info, qchain_error *err)
{
    info->format = qc_strdup(qc_raw_format.name);
    info->virtual_size = img->virtual_size;
    return info->format ? QCHAIN_OK : qc_fail_nomem(err);
}

const struct qc_format qc_raw_format = {
    .name = "raw",
    .open = raw_open,
    .close = raw_close,
    .map = raw_map,
    .next_used = raw_next_used,
    .may_have_holes = raw_may_have_holes,
    .describe = raw_describe,
    .write = &qc_raw_write_ops,
};
