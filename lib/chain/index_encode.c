/* SPDX-License-Identifier: MIT */
#include "chain/index_file.h"

#include <string.h>

#include "util/alloc.h"
#include "util/bytes.h"
#include "util/crc32c.h"
#include "util/vec.h"

#define RECORD_MAX 40u /* bytes of a run: four numbers */

void qc_ixf_buf_finish(struct qc_ixf_buf *b)
{
    qc_free(b->p);
    *b = (struct qc_ixf_buf){0};
}

static int reserve(struct qc_ixf_buf *b, size_t more)
{
    void *p = b->p;
    int ret = qc_grow(&p, &b->cap, b->n + more, 1);

    b->p = p;
    return ret;
}

/* All machines this is built for are little-endian. */
static void put16(uint8_t *p, uint16_t v)
{
    memcpy(p, &v, sizeof(v));
}

static void put32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, sizeof(v));
}

static void put64(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, sizeof(v));
}

/* -------------------------------------------------------------------- runs --- */

/* There is room. */
static void put_number(struct qc_ixf_buf *b, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        b->p[b->n++] = (uint8_t)(v | 0x80);
    b->p[b->n++] = (uint8_t)v;
}

static void put_difference(struct qc_ixf_buf *b, uint64_t v, uint64_t before)
{
    uint64_t d = v - before;

    put_number(b, d << 1 ^ (0 - (d >> 63)));
}

/* True if the record before says the same of what lies before r. */
static bool goes_on(const struct qc_ixf_encoder *e, enum qc_kind kind, uint32_t source)
{
    return e->grows && kind == e->kind && (kind == QC_END || source == e->source);
}

/* Begin a record, or take the one before back to write it again, longer. */
static uint64_t begin_record(struct qc_ixf_buf *b, struct qc_ixf_encoder *e,
                             const struct qc_run *r, uint32_t source)
{
    enum qc_kind kind = qc_run_kind(r);

    if (goes_on(e, kind, source)) {
        b->n = e->at;
        e->source = e->source_before;
        e->units += r->length;
        return e->units;
    }
    e->n_runs++;
    e->grows = kind == QC_END || kind == QC_SHORT;
    e->something |= !e->grows;
    e->kind = (uint8_t)kind;
    e->source_before = e->source;
    e->units = r->length;
    e->at = b->n;
    return e->units;
}

static void put_host(struct qc_ixf_buf *b, struct qc_ixf_encoder *e, const struct qc_run *r)
{
    uint64_t host = qc_run_host(r);

    if (qc_run_kind(r) == QC_COMPRESSED) {
        put_difference(b, host, e->host_end);
        put_number(b, r->sectors);
        e->host_end = qc_align_down(host, 512) + ((uint64_t)r->sectors << 9);
    } else {
        put_difference(b, host >> 9, e->host_end >> 9);
        e->host_end = host + qc_run_length(r);
    }
}

int qc_ixf_put_runs(struct qc_ixf_buf *b, struct qc_ixf_encoder *e, const struct qc_run *run,
                    size_t n, uint32_t n_sources)
{
    uint32_t source;
    enum qc_kind kind;

    for (const struct qc_run *r = run; r < run + n; r++) {
        if (reserve(b, RECORD_MAX) != 0)
            return QCHAIN_E_NOMEM;
        kind = qc_run_kind(r);
        source = n_sources - 1 - r->source;
        put_number(b, begin_record(b, e, r, source) << 3 | (uint64_t)kind);
        if (kind != QC_END) {
            put_difference(b, source, e->source);
            e->source = source;
        }
        if (qc_kind_has_host(kind))
            put_host(b, e, r);
    }
    return 0;
}

/* --------------------------------------------------- table, directory, header --- */

static void put_bytes(struct qc_ixf_buf *b, const char *s, size_t n)
{
    memcpy(b->p + b->n, s, n);
    b->n += n;
}

int qc_ixf_put_source(struct qc_ixf_buf *b, const struct qc_ixf_source *s)
{
    size_t name = strlen(s->name), location = strlen(s->location), format = strlen(s->format);
    size_t validator = strlen(s->validator);
    uint8_t *p;

    if (reserve(b, QC_IXF_ENTRY_BYTES + name + location + format + validator) != 0)
        return QCHAIN_E_NOMEM;
    p = b->p + b->n;
    put32(p, s->layer);
    put32(p + 4, s->flags);
    put64(p + 8, s->size);
    put64(p + 16, s->mtime_ns);
    put64(p + 24, s->allocated);
    put64(p + 32, s->virtual_size);
    put32(p + 40, s->cluster_size);
    put32(p + 44, s->decoder_kind);
    put16(p + 48, (uint16_t)name);
    put16(p + 50, (uint16_t)location);
    put16(p + 52, (uint16_t)format);
    put16(p + 54, (uint16_t)validator);
    b->n += QC_IXF_ENTRY_BYTES;
    put_bytes(b, s->name, name);
    put_bytes(b, s->location, location);
    put_bytes(b, s->format, format);
    put_bytes(b, s->validator, validator);
    return 0;
}

int qc_ixf_put_page(struct qc_ixf_buf *b, const struct qc_ixf_page *page)
{
    uint8_t *p;

    if (reserve(b, QC_IXF_DIR_BYTES) != 0)
        return QCHAIN_E_NOMEM;
    p = b->p + b->n;
    put64(p, page->start);
    put64(p + 8, page->offset);
    put32(p + 16, page->bytes);
    put32(p + 20, page->crc);
    put32(p + 24, page->n_runs);
    put32(p + 28, page->nothing);
    b->n += QC_IXF_DIR_BYTES;
    return 0;
}

void qc_ixf_write_header(uint8_t p[QC_IXF_HEADER_BYTES], const struct qc_ixf_header *h)
{
    memset(p, 0, QC_IXF_HEADER_BYTES);
    memcpy(p, "QCHAINIX", 8);
    put32(p + 8, 1);
    put32(p + 12, QC_IXF_HEADER_BYTES);
    put64(p + 24, h->file_size);
    put64(p + 32, h->virtual_size);
    put64(p + 40, h->built_ns);
    put32(p + 48, h->n_layers);
    put32(p + 52, h->n_sources);
    put64(p + 56, h->table_offset);
    put32(p + 64, h->table_bytes);
    put32(p + 68, h->table_crc);
    put64(p + 72, h->dir_offset);
    put32(p + 80, h->n_pages);
    put32(p + 84, h->dir_crc);
    put64(p + 88, h->n_runs);
    memcpy(p + 96, h->id, sizeof(h->id));
    put32(p + 20, qc_crc32c(0, p, QC_IXF_HEADER_BYTES));
}
