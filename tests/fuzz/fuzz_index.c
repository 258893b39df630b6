/* SPDX-License-Identifier: MIT */
/*
 * A sidecar index: header, table, directory, and its pages over several ranges. The
 * input is one byte, then the sidecar. Unless bit 0 of the byte is set, the checksums
 * are made right first, or nothing would ever get past them; bit 1: the lengths and
 * offsets in header and directory too; bit 2: the disk ends where the runs do.
 */
#include <stdlib.h>
#include <string.h>

#include "chain/index_file.h"
#include "util/crc32c.h"

#define KEEP_CHECKSUMS 1
#define MEND_LENGTHS 2
#define MEND_DISK 4
#define MAX_RANGE (UINT64_C(1) << 46) /* bytes of disk a call: bounds the runs */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(int ok)
{
    if (!ok)
        abort();
}

static uint64_t get(const uint8_t *p, unsigned bytes)
{
    uint64_t v = 0;

    memcpy(&v, p, bytes);
    return v;
}

static void put(uint8_t *p, uint64_t v, unsigned bytes)
{
    memcpy(p, &v, bytes);
}

/* ------------------------------------------------------------------ mending --- */

static void mend_lengths(uint8_t *p, size_t size)
{
    uint64_t table = get(p + 64, 4), pages = get(p + 80, 4), at, runs = 0, bytes;
    uint8_t *entry;

    table = table > size - 160 ? size - 160 : table;
    pages = pages > (size - 160 - table) / 32 ? (size - 160 - table) / 32 : pages;
    put(p + 24, size, 8);
    put(p + 56, 160, 8);
    put(p + 64, table, 4);
    put(p + 72, 160 + table, 8);
    put(p + 80, pages, 4);
    at = 160 + table + 32 * pages;
    for (uint64_t i = 0; i < pages; i++) {
        entry = p + 160 + table + 32 * i;
        bytes = get(entry + 16, 4);
        if (i + 1 == pages || bytes > size - at)
            bytes = size - at;
        put(entry + 8, at, 8);
        put(entry + 16, bytes, 4);
        runs += get(entry + 24, 4);
        at += bytes;
    }
    put(p + 88, runs, 8);
}

/* The disk gets the size that the runs of its last page add up to. */
static void mend_disk(uint8_t *p, size_t size)
{
    static const unsigned n_numbers[8] = {1, 2, 2, 3, 3, 3, 4, 1};
    uint64_t dir = get(p + 72, 8), pages = get(p + 80, 4), offset, bytes, disk, v, runs = 0;
    uint8_t *entry;

    if (dir > size || pages < 1 || pages > (size - dir) / 32 || size < 160 + 40)
        return;
    entry = p + dir + 32 * (pages - 1);
    disk = get(entry, 8);
    offset = get(entry + 8, 8);
    bytes = get(entry + 16, 4);
    if (offset > size || bytes > size - offset)
        return;
    for (const uint8_t *r = p + offset, *end = r + bytes; r < end; runs++) {
        v = 0;
        for (unsigned shift = 0, left = n_numbers[*r & 7], first = left; r < end && left > 0; r++) {
            if (left == first && shift < 64)
                v |= (uint64_t)(*r & 0x7f) << shift;
            shift += 7;
            left -= *r < 0x80;
        }
        disk += v >> 3 << 9;
    }
    put(p + 88, get(p + 88, 8) - get(entry + 24, 4) + runs, 8);
    put(entry + 24, runs, 4);
    put(p + 32, disk, 8);
    put(p + 160 + 32, disk, 8);
}

static void mend_checksums(uint8_t *p, size_t size)
{
    uint64_t table = get(p + 64, 4), dir = get(p + 72, 8), pages = get(p + 80, 4);
    uint64_t offset, bytes;

    for (uint64_t i = 0; dir <= size && pages <= (size - dir) / 32 && i < pages; i++) {
        uint8_t *entry = p + dir + 32 * i;

        offset = get(entry + 8, 8);
        bytes = get(entry + 16, 4);
        if (offset <= size && bytes <= size - offset)
            put(entry + 20, qc_crc32c(0, p + offset, bytes), 4);
    }
    if (dir <= size && pages <= (size - dir) / 32)
        put(p + 84, qc_crc32c(0, p + dir, 32 * pages), 4);
    if (table <= size - 160)
        put(p + 68, qc_crc32c(0, p + 160, table), 4);
    put(p + 20, 0, 4);
    put(p + 20, qc_crc32c(0, p, 160), 4);
}

/* ----------------------------------------------------------- what must hold --- */

static int has_data_file(const struct qc_ixf *x, uint32_t source)
{
    return source + 1 < x->header.n_sources &&
           x->source[source + 1].flags & QC_IXF_DATA_FILE;
}

static void check_run(const struct qc_ixf *x, const struct qc_run *r, uint32_t first)
{
    uint32_t source = r->source - first;
    enum qc_kind kind = qc_run_kind(r);
    uint64_t cluster;

    require(r->length > 0 && qc_run_length(r) <= UINT64_C(1) << 40);
    require(kind <= QC_COMPRESSED && r->source >= first && source < x->header.n_sources);
    require(r->guest % 512 == 0);
    if (!qc_kind_has_host(kind))
        require(qc_run_host(r) == 0);
    if (kind == QC_END)
        require(x->source[source].layer == x->header.n_layers - 1 &&
                !(x->source[source].flags & QC_IXF_DATA_FILE));
    if (kind != QC_COMPRESSED) {
        require(r->sectors == 0 && qc_run_host(r) % 512 == 0 &&
                qc_run_host(r) + qc_run_length(r) <= QC_HOST_MAX + 1);
        return;
    }
    cluster = x->source[source].cluster_size;
    require(cluster >= 512 && !has_data_file(x, source));
    require(r->guest / cluster == (qc_run_end(r) - 1) / cluster);
    require(r->sectors >= 1 && r->sectors <= cluster / 256 + 1);
}

/* Sorted, and covering exactly the part of the range that is in the page. */
static void check_runs(const struct qc_ixf *x, uint32_t i, const struct qc_runs *runs,
                       uint64_t from, uint64_t to, uint32_t first)
{
    uint64_t at = from > x->page[i].start ? from : x->page[i].start;
    uint64_t end = to < qc_ixf_page_end(x, i) ? to : qc_ixf_page_end(x, i);

    if (at >= end) {
        require(runs->n == 0);
        return;
    }
    for (size_t k = 0; k < runs->n; k++) {
        require(runs->run[k].guest == at);
        check_run(x, &runs->run[k], first);
        if (x->page[i].nothing)
            require(qc_run_kind(&runs->run[k]) <= QC_SHORT);
        at = qc_run_end(&runs->run[k]);
    }
    require(at == end);
}

static void check_table(const struct qc_ixf *x)
{
    const struct qc_ixf_header *h = &x->header;
    uint32_t layers = 0;

    for (uint32_t i = 0; i < h->n_sources; i++) {
        const struct qc_ixf_source *s = &x->source[i];

        layers += !(s->flags & QC_IXF_DATA_FILE);
        require(layers > 0 && s->layer == layers - 1 && s->size <= INT64_MAX);
        require(strlen(s->name) >= 1 && strlen(s->name) <= QC_IXF_NAME_MAX);
        require(strlen(s->location) >= 1 && strlen(s->location) <= QC_IXF_NAME_MAX);
        require(strlen(s->validator) <= QC_IXF_VALIDATOR_MAX);
        require(!*s->validator || s->flags & QC_IXF_REMOTE);
        require(!(s->flags & QC_IXF_REMOTE) || !(s->flags & QC_IXF_RACY));
        for (const char *v = s->validator; *v; v++)
            require((unsigned char)*v >= 32 && *v != 127);
        require(s->cluster_size == 0 || !(s->flags & QC_IXF_DATA_FILE));
    }
    require(layers == h->n_layers && x->source[0].virtual_size == h->virtual_size);
}

static void check_directory(const struct qc_ixf *x, size_t size)
{
    for (uint32_t i = 0; i < x->header.n_pages; i++) {
        const struct qc_ixf_page *page = &x->page[i];

        require(page->start < qc_ixf_page_end(x, i));
        require(page->offset <= size && page->bytes <= size - page->offset);
        require(qc_ixf_find_page(x, page->start) == i);
        require(qc_ixf_find_page(x, qc_ixf_page_end(x, i) - 1) == i);
    }
}

/* ---------------------------------------------------------------------- use --- */

static int use_range(const struct qc_ixf *x, uint32_t i, const uint8_t *p, uint64_t from,
                     uint64_t to, uint32_t first)
{
    struct qc_runs runs = {0};
    int ret;

    ret = qc_ixf_decode_page(x, i, p, from, to, first, &runs, NULL);
    if (ret == 0)
        check_runs(x, i, &runs, from, to, first);
    else
        require(runs.n == 0);
    qc_runs_finish(&runs);
    return ret;
}

static uint64_t host_at(const struct qc_run *r, uint64_t at)
{
    enum qc_kind kind = qc_run_kind(r);

    return qc_run_host(r) + (qc_kind_has_host(kind) && kind != QC_COMPRESSED ? at - r->guest : 0);
}

/* Both begin and end at the same place and say the same, however they are cut. */
static void require_same(const struct qc_runs *one, const struct qc_runs *two)
{
    const struct qc_run *a = one->run, *b = two->run;

    for (uint64_t at = a->guest; a < one->run + one->n; ) {
        require(b < two->run + two->n && a->guest <= at && b->guest <= at);
        require(qc_run_kind(a) == qc_run_kind(b) && a->source == b->source &&
                a->sectors == b->sectors && host_at(a, at) == host_at(b, at));
        at = qc_run_end(a) < qc_run_end(b) ? qc_run_end(a) : qc_run_end(b);
        a += qc_run_end(a) == at;
        b += qc_run_end(b) == at;
    }
    require(b == two->run + two->n);
}

/* Encoding what was decoded, and decoding that, gives the same. */
static void encode_again(const struct qc_ixf *x, uint32_t i, const uint8_t *p, uint64_t end)
{
    struct qc_ixf_page page = x->page[i];
    struct qc_runs first = {0}, second = {0};
    struct qc_ixf_encoder e = {0};
    struct qc_ixf_buf b = {0};
    struct qc_ixf again = *x;

    require(qc_ixf_decode_page(x, i, p, 0, end, 0, &first, NULL) == 0);
    require(qc_ixf_put_runs(&b, &e, first.run, first.n, x->header.n_sources) == 0);
    page.n_runs = e.n_runs;
    page.bytes = (uint32_t)b.n;
    page.nothing = !e.something;
    again.page = &page; /* the only one, to the end of the disk */
    again.header.n_pages = 1;
    again.header.virtual_size = end;
    require(qc_ixf_decode_page(&again, 0, b.p, 0, end, 0, &second, NULL) == 0);
    require_same(&first, &second);
    qc_runs_finish(&first);
    qc_runs_finish(&second);
    qc_ixf_buf_finish(&b);
}

static void use_page(const struct qc_ixf *x, uint32_t i, const uint8_t *p)
{
    uint64_t start = x->page[i].start, end = qc_ixf_page_end(x, i), n = (end - start) / 512;
    uint64_t few = end - start < MAX_RANGE ? end : start + MAX_RANGE;
    int ret = use_range(x, i, p, 0, few, 0);

    /* Whether a page is sound does not depend on what is asked of it. */
    require(use_range(x, i, p, start + n / 3 * 512, few, 65535 - x->header.n_sources) == ret);
    require(use_range(x, i, p, start + n / 2 * 512, start + n / 2 * 512 + 512, 0) == ret);
    require(use_range(x, i, p, end - 512, UINT64_MAX, 0) == ret);
    require(use_range(x, i, p, end, 0, 0) == ret);
    if (ret == 0 && few == end)
        encode_again(x, i, p, end);
}

static void use(const uint8_t *p, size_t size)
{
    struct qc_ixf x = {0};
    uint8_t *page;

    if (qc_ixf_parse_header(&x.header, p, size, size, NULL) != 0)
        return;
    if (qc_ixf_parse_table(&x, p + x.header.table_offset, NULL) == 0 &&
        qc_ixf_parse_directory(&x, p + x.header.dir_offset, NULL) == 0) {
        check_table(&x);
        check_directory(&x, size);
        for (uint32_t i = 0; i < x.header.n_pages; i++) {
            page = malloc(x.page[i].bytes);
            if (!page)
                break;
            memcpy(page, p + x.page[i].offset, x.page[i].bytes);
            if (qc_ixf_check_page(&x, i, page, NULL) == 0)
                use_page(&x, i, page);
            free(page);
        }
    }
    qc_ixf_finish(&x);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t *copy;

    if (size < 1)
        return 0;
    size--;
    copy = malloc(size ? size : 1);
    if (!copy)
        return 0;
    memcpy(copy, data + 1, size);
    if (size >= QC_IXF_HEADER_BYTES) {
        if (data[0] & MEND_LENGTHS)
            mend_lengths(copy, size);
        if (data[0] & MEND_DISK)
            mend_disk(copy, size);
        if (!(data[0] & KEEP_CHECKSUMS))
            mend_checksums(copy, size);
    }
    use(copy, size);
    free(copy);
    return 0;
}
