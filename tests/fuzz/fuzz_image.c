/* SPDX-License-Identifier: MIT */
/*
 * One qcow2 image through the format seam: open, describe, map, decode. The input
 * is the image; the last bits of its length choose options, so that every file is
 * an input.
 */
#include <stdlib.h>
#include <string.h>

#include "qcow2/qcow2.h"
#include "util/alloc.h"

#define MAX_RUNS 10000u
#define MAX_MAPS 64
#define MAX_DECODES 16

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    const uint8_t *data;
    size_t         size;
};

static void input_close(void *obj)
{
    (void)obj;
}

static int input_size(void *obj, uint64_t *size, qchain_error *err)
{
    (void)err;
    *size = ((struct input *)obj)->size;
    return 0;
}

static int input_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                       qchain_error *err)
{
    struct input *in = obj;

    (void)flags;
    (void)err;
    if (offset > in->size || length > in->size - offset)
        abort(); /* the library never asks for it */
    if (length > 0)
        memcpy(buf, in->data + offset, length);
    return 0;
}

static int input_allocated(void *obj, uint64_t *bytes, qchain_error *err)
{
    (void)err;
    *bytes = ((struct input *)obj)->size / 4;
    return 0;
}

static const qchain_store_ops input_ops = {
    .struct_size = sizeof(input_ops),
    .version = QCHAIN_BACKEND_VERSION,
    .name = "input",
    .close = input_close,
    .size = input_size,
    .pread = input_pread,
    .allocated = input_allocated,
};

static void decode_one(struct qc_image *img, struct qc_decoder *d, const struct qc_run *r)
{
    size_t in_len = (size_t)r->sectors * 512 - qc_run_host(r) % 512;
    uint8_t *in = malloc(in_len), *out = malloc(img->cluster_size);

    if (qc_run_host(r) >= img->store->size)
        abort(); /* map refuses it */
    if (in && out &&
        qc_store_read(img->store, in, in_len, qc_run_host(r), QC_READ_PAST_END, NULL) == 0)
        img->format->decode(d, out, img->cluster_size, in, in_len, NULL);
    free(in);
    free(out);
}

/* What holds for every list of runs. */
static void check_runs(const struct qc_image *img, const struct qc_runs *runs)
{
    uint64_t at = 0;

    for (size_t i = 0; i < runs->n; i++) {
        const struct qc_run *r = &runs->run[i];

        if (r->length == 0 || r->guest < at || r->guest % 512 != 0 ||
            qc_run_end(r) > img->virtual_size)
            abort();
        at = qc_run_end(r);
    }
}

static void map_some(struct qc_image *img)
{
    struct qc_decoder *d = img->format->decoder_create(img);
    struct qc_runs runs = {0};
    uint64_t at = 0;
    int decodes = 0;

    for (int i = 0; i < MAX_MAPS && runs.n < MAX_RUNS && at < img->virtual_size; i++) {
        uint64_t unit = img->map_unit < (64u << 20) ? (64u << 20) : img->map_unit;

        if (img->format->next_used(img, at, &at, NULL) < 0 || at == UINT64_MAX)
            break;
        at -= at % img->map_unit;
        if (unit > img->virtual_size - at)
            unit = img->virtual_size - at;
        if (img->format->map(img, at, unit, &runs, NULL) < 0)
            break;
        at += unit;
    }
    check_runs(img, &runs);
    for (size_t i = 0; d && i < runs.n && decodes < MAX_DECODES; i++)
        if (qc_run_kind(&runs.run[i]) == QC_COMPRESSED) {
            decode_one(img, d, &runs.run[i]);
            decodes++;
        }
    qc_runs_finish(&runs);
    img->format->decoder_destroy(d);
}

static void use(struct qc_store *store, const struct qc_image_opts *opts, char **snapshot)
{
    struct qc_image *img = NULL;
    qchain_image_info info = {0};
    bool holes;

    if (qc_qcow2_format.open(&img, store, opts, NULL) < 0)
        return;
    qc_qcow2_format.describe(img, &info, NULL);
    if (snapshot && info.n_snapshots > 0 && info.snapshots[0].id)
        *snapshot = strdup(info.snapshots[0].id);
    qc_info_finish(&info);
    qc_qcow2_format.may_have_holes(img, &holes, NULL);
    map_some(img);
    qc_qcow2_format.close(img);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    qchain_store from = {sizeof(from), &input_ops, &in, "input"};
    struct qc_image_opts opts = {.salvage = size & 1, .describe = size & 2};
    struct qc_store *store = NULL;
    char *snapshot = NULL;

    if (qc_store_create(&store, &from, NULL, NULL) < 0)
        return 0;
    use(store, &opts, &snapshot);
    if (snapshot) {
        opts.snapshot = snapshot;
        use(store, &opts, NULL);
    }
    free(snapshot);
    qc_store_destroy(store);
    return 0;
}
