/* SPDX-License-Identifier: MIT */
/* What the tests of sidecar files share: whole ones in memory, made and parsed. */
#ifndef INDEX_TOOLS_H
#define INDEX_TOOLS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "chain/index_file.h"
#include "image_tools.h"
#include "mem_layers.h"
#include "util/crc32c.h"

#define MIB (UINT64_C(1) << 20)

/* What a sidecar is made of. */
struct plan {
    uint64_t              virtual_size;
    struct qc_ixf_source *source;
    uint32_t              n_sources, n_layers, n_pages;
    uint64_t             *start; /* of each page */
    struct qc_ixf_buf    *page;
    struct qc_ixf_encoder *encoder;
};

/* The bytes of the whole, to be freed with qc_ixf_buf_finish; parts: 1 header, 1 table,
 * 1 directory and the pages follow each other. 0 or NOMEM. */
static inline int plan_build(const struct plan *plan, struct qc_ixf_buf *file)
{
    struct qc_ixf_buf dir = {0};
    struct qc_ixf_page page;
    struct qc_ixf_header h = {
        .virtual_size = plan->virtual_size, .built_ns = 77, .n_layers = plan->n_layers,
        .n_sources = plan->n_sources, .n_pages = plan->n_pages,
        .table_offset = QC_IXF_HEADER_BYTES, .id = "0123456789abcde"};
    uint8_t *grown;
    int ret = 0;

    *file = (struct qc_ixf_buf){0};
    for (uint32_t i = 0; ret == 0 && i < plan->n_sources; i++)
        ret = qc_ixf_put_source(file, &plan->source[i]);
    h.table_bytes = (uint32_t)file->n;
    h.table_crc = qc_crc32c(0, file->p, file->n);
    h.dir_offset = h.table_offset + h.table_bytes;
    h.file_size = h.dir_offset + (uint64_t)plan->n_pages * QC_IXF_DIR_BYTES;
    for (uint32_t i = 0; ret == 0 && i < plan->n_pages; i++) {
        const struct qc_ixf_buf *b = &plan->page[i];

        page = (struct qc_ixf_page){
            .start = plan->start[i], .offset = h.file_size, .bytes = (uint32_t)b->n,
            .crc = qc_crc32c(0, b->p, b->n), .n_runs = plan->encoder[i].n_runs,
            .nothing = !plan->encoder[i].something};
        ret = qc_ixf_put_page(&dir, &page);
        h.file_size += b->n;
        h.n_runs += page.n_runs;
    }
    h.dir_crc = qc_crc32c(0, dir.p, dir.n);
    grown = ret == 0 ? malloc(h.file_size) : NULL;
    if (grown) {
        qc_ixf_write_header(grown, &h);
        memcpy(grown + h.table_offset, file->p, file->n);
        if (dir.n)
            memcpy(grown + h.dir_offset, dir.p, dir.n);
        for (uint64_t i = 0, at = h.dir_offset + dir.n; i < plan->n_pages; i++) {
            memcpy(grown + at, plan->page[i].p, plan->page[i].n);
            at += plan->page[i].n;
        }
    }
    qc_ixf_buf_finish(file);
    qc_ixf_buf_finish(&dir);
    *file = (struct qc_ixf_buf){grown, grown ? h.file_size : 0, grown ? h.file_size : 0};
    return ret;
}

/* A copy that ends where its memory does, so that a sanitizer sees a byte too much. */
static inline uint8_t *exact(const uint8_t *p, size_t n)
{
    uint8_t *copy = malloc(n ? n : 1);

    assert_non_null(copy);
    if (n)
        memcpy(copy, p, n);
    return copy;
}

/* Header, table, directory. */
static inline int parse(struct qc_ixf *x, const uint8_t *p, size_t size, qchain_error *err)
{
    uint8_t *part;
    int ret;

    *x = (struct qc_ixf){0};
    part = exact(p, size < QC_IXF_HEADER_BYTES ? size : QC_IXF_HEADER_BYTES);
    ret = qc_ixf_parse_header(&x->header, part, size, size, err);
    free(part);
    if (ret != 0)
        return ret;
    part = exact(p + x->header.table_offset, x->header.table_bytes);
    ret = qc_ixf_parse_table(x, part, err);
    free(part);
    if (ret != 0)
        return ret;
    part = exact(p + x->header.dir_offset, (size_t)x->header.n_pages * QC_IXF_DIR_BYTES);
    ret = qc_ixf_parse_directory(x, part, err);
    free(part);
    return ret;
}

/* The runs of [from, to), whatever pages they are in. */
static inline int decode(const struct qc_ixf *x, const uint8_t *p, uint64_t from, uint64_t to,
                         uint32_t first, struct qc_runs *out, qchain_error *err)
{
    uint8_t *bytes;
    int ret = 0;

    if (from >= to)
        return 0;
    for (uint32_t i = qc_ixf_find_page(x, from);
         ret == 0 && i < x->header.n_pages && x->page[i].start < to; i++) {
        bytes = exact(p + x->page[i].offset, x->page[i].bytes);
        ret = qc_ixf_check_page(x, i, bytes, err);
        if (ret == 0)
            ret = qc_ixf_decode_page(x, i, bytes, from, to, first, out, err);
        free(bytes);
    }
    return ret;
}

/* All of a sidecar: 0, or what was wrong with it. Nothing is kept. */
static inline int swallow(const uint8_t *p, size_t size, qchain_error *err)
{
    struct qc_runs runs = {0};
    struct qc_ixf x;
    int ret = parse(&x, p, size, err);

    if (ret == 0)
        ret = decode(&x, p, 0, x.header.virtual_size, 0, &runs, err);
    qc_runs_finish(&runs);
    qc_ixf_finish(&x);
    return ret;
}

static inline struct qc_ixf_source source_make(uint32_t layer, uint32_t cluster, uint64_t disk)
{
    return (struct qc_ixf_source){
        .layer = layer, .size = INT64_MAX - layer, .mtime_ns = UINT64_C(1700000000000000000) + layer,
        .allocated = 512, .virtual_size = disk, .cluster_size = cluster, .name = "name",
        .location = "/some/where", .format = cluster ? "qcow2" : "raw",
        .validator = ""};
}

static inline struct qc_ixf_source data_file_make(uint32_t layer)
{
    struct qc_ixf_source s = source_make(layer, 0, 0);

    s.flags = QC_IXF_DATA_FILE;
    return s;
}

#endif
