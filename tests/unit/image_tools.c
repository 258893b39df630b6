/* SPDX-License-Identifier: MIT */
#include "image_tools.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/error.h"

struct memory {
    const uint8_t *p;
    uint64_t       size;
    uint64_t       allocated;
};

static void memory_close(void *obj)
{
    free(obj);
}

static int memory_size(void *obj, uint64_t *size, qchain_error *err)
{
    (void)err;
    *size = ((struct memory *)obj)->size;
    return 0;
}

static int memory_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                        qchain_error *err)
{
    struct memory *m = obj;

    (void)flags;
    if (offset > m->size || length > m->size - offset)
        return qc_fail(err, QCHAIN_E_INTERNAL, "read past the end of the store");
    if (length > 0)
        memcpy(buf, m->p + offset, length);
    return 0;
}

static int memory_allocated(void *obj, uint64_t *bytes, qchain_error *err)
{
    (void)err;
    *bytes = ((struct memory *)obj)->allocated;
    return 0;
}

static const qchain_store_ops memory_ops = {
    .struct_size = sizeof(memory_ops),
    .version = QCHAIN_BACKEND_VERSION,
    .name = "memory",
    .close = memory_close,
    .size = memory_size,
    .pread = memory_pread,
    .allocated = memory_allocated,
};

struct qc_store *memory_store(const void *p, uint64_t size, uint64_t allocated)
{
    struct memory *m = malloc(sizeof(*m));
    qchain_store from = {sizeof(from), &memory_ops, m, "memory"};
    struct qc_store *s = NULL;

    if (!m)
        return NULL;
    *m = (struct memory){p, size, allocated};
    return qc_store_create(&s, &from, NULL, NULL) < 0 ? NULL : s;
}

uint8_t *load_file(const char *path, uint64_t *size)
{
    FILE *f = fopen(path, "rb");
    uint8_t *p = NULL;
    long n;

    if (!f)
        return NULL;
    if (fseek(f, 0, SEEK_END) == 0 && (n = ftell(f)) >= 0 && fseek(f, 0, SEEK_SET) == 0) {
        p = malloc((size_t)n + 1);
        *size = (uint64_t)n;
        if (p && fread(p, 1, (size_t)n, f) != (size_t)n) {
            free(p);
            p = NULL;
        }
    }
    fclose(f);
    return p;
}

uint64_t random_next(uint64_t *state)
{
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static int read_compressed(struct qc_image *img, const struct qc_run *r, uint8_t *out,
                           qchain_error *err)
{
    size_t in_len = (size_t)r->sectors * 512 - qc_run_host(r) % 512;
    struct qc_decoder *d = img->format->decoder_create(img);
    uint8_t *in = malloc(in_len), *cluster = malloc(img->cluster_size);
    int rc = QCHAIN_E_NOMEM;

    if (d && in && cluster)
        rc = qc_store_read(img->store, in, in_len, qc_run_host(r), QC_READ_PAST_END, err);
    if (rc == 0)
        rc = img->format->decode(d, cluster, img->cluster_size, in, in_len, err);
    if (rc == 0)
        memcpy(out + r->guest, cluster, (size_t)qc_run_length(r));
    img->format->decoder_destroy(d);
    free(in);
    free(cluster);
    return rc;
}

int read_layer(struct qc_image *img, struct qc_store *data, uint8_t *out, qchain_error *err)
{
    struct qc_runs runs = {0};
    int rc = img->format->map(img, 0, img->virtual_size, &runs, err);

    memset(out, 0, (size_t)img->virtual_size);
    for (size_t i = 0; i < runs.n && rc == 0; i++) {
        const struct qc_run *r = &runs.run[i];

        if (qc_run_kind(r) == QC_DATA)
            rc = qc_store_read(data ? data : img->store, out + r->guest,
                               (size_t)qc_run_length(r), qc_run_host(r), QC_READ_PAST_END, err);
        else if (qc_run_kind(r) == QC_COMPRESSED)
            rc = read_compressed(img, r, out, err);
    }
    qc_runs_finish(&runs);
    return rc;
}

char *map_text(struct qc_image *img, uint64_t step, qchain_error *err)
{
    static const char *const kinds[] = {"end",  "short", "zero", "zero-alloc", "prealloc",
                                        "data", "compressed"};
    struct qc_runs runs = {0};
    char *text = NULL;
    size_t len = 0;
    FILE *f;
    int rc = 0;

    for (uint64_t at = 0; at < img->virtual_size && rc == 0; at += step) {
        uint64_t n = img->virtual_size - at < step ? img->virtual_size - at : step;

        rc = img->format->map(img, at, n, &runs, err);
    }
    f = rc == 0 ? open_memstream(&text, &len) : NULL;
    for (size_t i = 0; f && i < runs.n; i++) {
        const struct qc_run *r = &runs.run[i];
        enum qc_kind kind = qc_run_kind(r);

        fprintf(f, "%" PRIu64 " %" PRIu64 " %s %" PRIu64 " %u\n", r->guest, qc_run_length(r),
                kinds[kind], qc_kind_has_host(kind) ? qc_run_host(r) : 0, (unsigned)r->sectors);
    }
    if (f)
        fclose(f);
    qc_runs_finish(&runs);
    return text;
}
