/* SPDX-License-Identifier: MIT */
#include "chain/index_file.h"

#include <inttypes.h>
#include <string.h>

#include "util/alloc.h"
#include "util/bytes.h"
#include "util/crc32c.h"

#define VERSION 1u
#define CRC_AT 20u       /* in the header */
#define RESERVED_AT 112u /* in the header */
#define SIZE_MAX_DISK ((UINT64_C(1) << 63) - 512)
#define CLUSTER_MIN 512u
#define CLUSTER_MAX (2u << 20)

/* All machines this is built for are little-endian. */
static uint16_t le16(const uint8_t *p)
{
    uint16_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static uint32_t le32(const uint8_t *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static uint64_t le64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static int corrupt(qchain_error *err, uint64_t offset, const char *what)
{
    qc_fail(err, QCHAIN_E_CORRUPT, "%s", what);
    qc_error_at(err, offset);
    return QCHAIN_E_CORRUPT;
}

/* ------------------------------------------------------------------ header --- */

static uint32_t header_crc(const uint8_t *p)
{
    static const uint8_t zeros[4];
    uint32_t crc = qc_crc32c(0, p, CRC_AT);

    crc = qc_crc32c(crc, zeros, sizeof(zeros));
    return qc_crc32c(crc, p + CRC_AT + 4, QC_IXF_HEADER_BYTES - CRC_AT - 4);
}

static void load_header(struct qc_ixf_header *h, const uint8_t *p)
{
    *h = (struct qc_ixf_header){
        .file_size = le64(p + 24), .virtual_size = le64(p + 32), .built_ns = le64(p + 40),
        .n_layers = le32(p + 48), .n_sources = le32(p + 52), .table_offset = le64(p + 56),
        .table_bytes = le32(p + 64), .table_crc = le32(p + 68), .dir_offset = le64(p + 72),
        .n_pages = le32(p + 80), .dir_crc = le32(p + 84), .n_runs = le64(p + 88),
    };
    memcpy(h->id, p + 96, sizeof(h->id));
}

/* Is it one, of this version, and undamaged? */
static int check_identity(const uint8_t *p, qchain_error *err)
{
    if (memcmp(p, "QCHAINIX", 8) != 0)
        return corrupt(err, 0, "header: does not begin with \"QCHAINIX\": not a sidecar index");
    if (le32(p + 8) != VERSION)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED, "header: version %" PRIu32 ", but this library "
                       "knows version %u only: build the sidecar again", le32(p + 8), VERSION);
    if (header_crc(p) != le32(p + CRC_AT))
        return corrupt(err, CRC_AT, "header: its checksum is wrong");
    if (le32(p + 12) != QC_IXF_HEADER_BYTES)
        return corrupt(err, 12, "header: its length is not 160 bytes");
    if (le32(p + 16) != 0)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED, "header: flags 0x%" PRIx32 " are not known: "
                       "build the sidecar again", le32(p + 16));
    if (!qc_is_zero(p + RESERVED_AT, QC_IXF_HEADER_BYTES - RESERVED_AT))
        return corrupt(err, RESERVED_AT, "header: reserved bytes are not 0");
    return 0;
}

/* The counts, each by itself: after this sums of the lengths cannot overflow. */
static int check_counts(const struct qc_ixf_header *h, qchain_error *err)
{
    uint64_t entries = (uint64_t)h->n_sources * (QC_IXF_ENTRY_BYTES + 3);

    if (h->virtual_size % 512 != 0 || h->virtual_size > SIZE_MAX_DISK)
        return corrupt(err, 32, "header: the disk's size is not a multiple of 512 below 2^63");
    if (h->n_layers < 1 || h->n_layers > QC_IXF_SOURCES_MAX)
        return corrupt(err, 48, "header: the number of layers is not 1..65535");
    if (h->n_sources < h->n_layers || h->n_sources > QC_IXF_SOURCES_MAX ||
        h->n_sources > 2 * h->n_layers)
        return corrupt(err, 52, "header: the number of files does not fit that of the layers");
    if (h->table_bytes < entries || h->table_bytes > QC_IXF_TABLE_MAX)
        return corrupt(err, 64, "header: the table's length does not fit the number of files");
    if (h->n_pages > QC_IXF_PAGES_MAX || (h->n_pages == 0) != (h->virtual_size == 0))
        return corrupt(err, 80, "header: the number of pages does not fit the disk");
    return 0;
}

int qc_ixf_parse_header(struct qc_ixf_header *h, const uint8_t *p, size_t len, uint64_t file_size,
                        qchain_error *err)
{
    uint64_t dir_bytes;
    int ret;

    if (len < QC_IXF_HEADER_BYTES)
        return qc_fail(err, QCHAIN_E_CORRUPT, "header: only %zu of 160 bytes are there", len);
    ret = check_identity(p, err);
    if (ret != 0)
        return ret;
    load_header(h, p);
    if (h->file_size != file_size)
        return qc_fail(err, QCHAIN_E_CORRUPT, "header: says that the file has %" PRIu64
                       " bytes, but it has %" PRIu64, h->file_size, file_size);
    ret = check_counts(h, err);
    if (ret != 0)
        return ret;
    dir_bytes = (uint64_t)h->n_pages * QC_IXF_DIR_BYTES;
    if (h->table_offset != QC_IXF_HEADER_BYTES)
        return corrupt(err, 56, "header: the table does not begin behind the header");
    if (h->dir_offset != h->table_offset + h->table_bytes)
        return corrupt(err, 72, "header: the directory does not begin behind the table");
    if (file_size < h->dir_offset + dir_bytes)
        return corrupt(err, 24, "header: the file ends within its directory");
    if (h->n_pages == 0 && file_size != h->dir_offset)
        return corrupt(err, 24, "header: there is something behind the last part");
    return 0;
}

/* ------------------------------------------------------------------- table --- */

/* The table, while it is parsed. */
struct table {
    const uint8_t *p;
    uint32_t       at, bytes;
    uint32_t       n; /* of the source that is parsed */
    qchain_error  *err;
};

static int bad_source(const struct table *t, int code, const char *what)
{
    qc_fail(t->err, code, "table: file %" PRIu32 ": %s", t->n, what);
    qc_error_at(t->err, QC_IXF_HEADER_BYTES + (uint64_t)t->at);
    return code;
}

/* The next len bytes as a string. */
static int take_string(struct table *t, uint32_t len, char **out)
{
    const char *s = (const char *)t->p + t->at;

    if (memchr(s, 0, len))
        return bad_source(t, QCHAIN_E_CORRUPT, "a name in it has a NUL");
    *out = qc_strndup(s, len);
    if (!*out)
        return qc_fail_nomem(t->err);
    t->at += len;
    return 0;
}

static int take_strings(struct table *t, struct qc_ixf_source *s, const uint8_t *e)
{
    uint32_t name = le16(e + 48), location = le16(e + 50), format = le16(e + 52);
    uint32_t validator = le16(e + 54);
    int ret;

    if (name < 1 || name > QC_IXF_NAME_MAX || location < 1 || location > QC_IXF_NAME_MAX ||
        format < 1 || format > 15 || validator > QC_IXF_VALIDATOR_MAX)
        return bad_source(t, QCHAIN_E_CORRUPT, "the length of a name in it is out of range");
    if (name + location + format + validator > t->bytes - t->at)
        return bad_source(t, QCHAIN_E_CORRUPT, "its names reach past the table's end");
    ret = take_string(t, name, &s->name);
    if (ret == 0)
        ret = take_string(t, location, &s->location);
    if (ret == 0)
        ret = take_string(t, format, &s->format);
    if (ret == 0)
        ret = take_string(t, validator, &s->validator);
    return ret;
}

/* What a validator says goes to servers: nothing in it may end a line. */
static int check_validator(const struct table *t, const struct qc_ixf_source *s)
{
    if (!(s->flags & QC_IXF_REMOTE))
        return *s->validator ? bad_source(t, QCHAIN_E_CORRUPT, "a local file with a validator") : 0;
    if (s->flags & QC_IXF_RACY)
        return bad_source(t, QCHAIN_E_CORRUPT, "an object that is racy");
    for (const char *v = s->validator; *v; v++)
        if ((unsigned char)*v < ' ' || *v == 0x7f)
            return bad_source(t, QCHAIN_E_CORRUPT, "its validator has control characters");
    return 0;
}

static int check_data_file(const struct table *t, const struct qc_ixf_source *s)
{
    const struct qc_ixf_source *before = s - 1;

    if (t->n == 0 || (before->flags & QC_IXF_DATA_FILE) || s->layer != before->layer)
        return bad_source(t, QCHAIN_E_CORRUPT, "a data file that is not behind its layer's file");
    if (s->virtual_size != 0 || s->cluster_size != 0)
        return bad_source(t, QCHAIN_E_CORRUPT, "a data file with a disk or clusters of its own");
    return 0;
}

static int check_layer(const struct table *t, const struct qc_ixf_source *s)
{
    bool raw = strcmp(s->format, "raw") == 0;
    uint32_t want = t->n == 0 ? 0 : s[-1].layer + 1, cluster = s->cluster_size;

    if (s->layer != want)
        return bad_source(t, QCHAIN_E_CORRUPT, "its layer does not follow that before it");
    if (s->virtual_size % 512 != 0 || s->virtual_size > SIZE_MAX_DISK)
        return bad_source(t, QCHAIN_E_CORRUPT,
                          "its disk's size is not a multiple of 512 below 2^63");
    if (raw && cluster != 0)
        return bad_source(t, QCHAIN_E_CORRUPT, "a raw layer with clusters");
    if (!raw && (cluster < CLUSTER_MIN || cluster > CLUSTER_MAX || (cluster & (cluster - 1)) != 0))
        return bad_source(t, QCHAIN_E_CORRUPT,
                          "its cluster size is not a power of two from 512 to 2 MiB");
    return 0;
}

static int check_source(const struct table *t, const struct qc_ixf_source *s)
{
    int ret;

    if (s->flags & ~QC_IXF_FLAGS)
        return bad_source(t, QCHAIN_E_UNSUPPORTED, "has flags that are not known");
    if (s->decoder_kind > 1)
        return bad_source(t, QCHAIN_E_UNSUPPORTED, "has a compression that is not known");
    if (strcmp(s->format, "raw") != 0 && strcmp(s->format, "qcow2") != 0)
        return bad_source(t, QCHAIN_E_UNSUPPORTED, "has a format that is not known");
    if (s->size > INT64_MAX)
        return bad_source(t, QCHAIN_E_CORRUPT, "its size is over 2^63 bytes");
    ret = check_validator(t, s);
    if (ret != 0)
        return ret;
    return s->flags & QC_IXF_DATA_FILE ? check_data_file(t, s) : check_layer(t, s);
}

static int parse_source(struct table *t, struct qc_ixf_source *s)
{
    const uint8_t *e = t->p + t->at;
    int ret;

    if (t->bytes - t->at < QC_IXF_ENTRY_BYTES)
        return bad_source(t, QCHAIN_E_CORRUPT, "reaches past the table's end");
    s->layer = le32(e);
    s->flags = le32(e + 4);
    s->size = le64(e + 8);
    s->mtime_ns = le64(e + 16);
    s->allocated = le64(e + 24);
    s->virtual_size = le64(e + 32);
    s->cluster_size = le32(e + 40);
    s->decoder_kind = le32(e + 44);
    t->at += QC_IXF_ENTRY_BYTES;
    ret = take_strings(t, s, e);
    return ret == 0 ? check_source(t, s) : ret;
}

static void free_sources(struct qc_ixf *x)
{
    for (uint32_t i = 0; x->source && i < x->header.n_sources; i++) {
        qc_free(x->source[i].name);
        qc_free(x->source[i].location);
        qc_free(x->source[i].format);
        qc_free(x->source[i].validator);
    }
    qc_free(x->source);
    x->source = NULL;
}

int qc_ixf_parse_table(struct qc_ixf *x, const uint8_t *p, qchain_error *err)
{
    const struct qc_ixf_header *h = &x->header;
    struct table t = {.p = p, .bytes = h->table_bytes, .err = err};
    int ret = 0;

    if (qc_crc32c(0, p, h->table_bytes) != h->table_crc)
        return corrupt(err, h->table_offset, "table: its checksum is wrong");
    x->source = qc_calloc(h->n_sources, sizeof(*x->source));
    if (!x->source)
        return qc_fail_nomem(err);
    for (; ret == 0 && t.n < h->n_sources; t.n++)
        ret = parse_source(&t, &x->source[t.n]);
    if (ret == 0 && t.at != t.bytes)
        ret = corrupt(err, h->table_offset + t.at, "table: has bytes behind its last entry");
    if (ret == 0 && x->source[h->n_sources - 1].layer != h->n_layers - 1)
        ret = corrupt(err, h->table_offset, "table: has not as many layers as the header says");
    if (ret == 0 && x->source[0].virtual_size != h->virtual_size)
        ret = corrupt(err, h->table_offset, "table: layer 0 has not the size of the disk");
    if (ret != 0)
        free_sources(x);
    return ret;
}

/* --------------------------------------------------------------- directory --- */

static int bad_page(const struct qc_ixf *x, uint32_t i, qchain_error *err, int code,
                    const char *what)
{
    qc_fail(err, code, "page %" PRIu32 " (disk offset %" PRIu64 "): %s", i, x->page[i].start, what);
    qc_error_at(err, x->header.dir_offset + (uint64_t)i * QC_IXF_DIR_BYTES);
    return code;
}

/* The starts are sound already; offset: where the page before it ends. */
static int check_entry(const struct qc_ixf *x, uint32_t i, uint64_t offset, qchain_error *err)
{
    const struct qc_ixf_page *page = &x->page[i];
    uint64_t covers = qc_ixf_page_end(x, i) - page->start;

    if (page->offset != offset)
        return bad_page(x, i, err, QCHAIN_E_CORRUPT, "does not begin where the part before ends");
    if (page->bytes > x->header.file_size - offset)
        return bad_page(x, i, err, QCHAIN_E_CORRUPT, "reaches past the file's end");
    if (page->bytes > (covers > QC_IXF_WINDOW ? QC_IXF_WIDE_PAGE_MAX : QC_IXF_PAGE_MAX))
        return bad_page(x, i, err, QCHAIN_E_CORRUPT, "has more bytes than a page may have");
    if (page->n_runs < 1 || page->n_runs > page->bytes || page->n_runs > covers / 512)
        return bad_page(x, i, err, QCHAIN_E_CORRUPT, "cannot have as many runs as it says");
    return 0;
}

static int load_pages(struct qc_ixf *x, const uint8_t *p, qchain_error *err)
{
    for (uint32_t i = 0; i < x->header.n_pages; i++, p += QC_IXF_DIR_BYTES) {
        struct qc_ixf_page *page = &x->page[i];

        page->start = le64(p);
        page->offset = le64(p + 8);
        page->bytes = le32(p + 16);
        page->crc = le32(p + 20);
        page->n_runs = le32(p + 24);
        page->nothing = le32(p + 28) & 1;
        if (le32(p + 28) & ~1u)
            return bad_page(x, i, err, QCHAIN_E_UNSUPPORTED, "has flags that are not known");
        if (page->start % QC_IXF_WINDOW != 0)
            return bad_page(x, i, err, QCHAIN_E_CORRUPT, "begins at no multiple of 128 MiB");
        if (i == 0 ? page->start != 0 : page->start <= page[-1].start)
            return bad_page(x, i, err, QCHAIN_E_CORRUPT, "does not follow the page before it");
        if (page->start >= x->header.virtual_size)
            return bad_page(x, i, err, QCHAIN_E_CORRUPT, "begins behind the disk's end");
    }
    return 0;
}

static int check_pages(const struct qc_ixf *x, qchain_error *err)
{
    const struct qc_ixf_header *h = &x->header;
    uint64_t offset = h->dir_offset + (uint64_t)h->n_pages * QC_IXF_DIR_BYTES, n_runs = 0;
    int ret;

    for (uint32_t i = 0; i < h->n_pages; i++) {
        ret = check_entry(x, i, offset, err);
        if (ret != 0)
            return ret;
        offset += x->page[i].bytes;
        n_runs += x->page[i].n_runs;
    }
    if (offset != h->file_size)
        return corrupt(err, offset, "directory: the file has bytes behind its last page");
    if (n_runs != h->n_runs)
        return corrupt(err, h->dir_offset, "directory: has not as many runs as the header says");
    return 0;
}

int qc_ixf_parse_directory(struct qc_ixf *x, const uint8_t *p, qchain_error *err)
{
    const struct qc_ixf_header *h = &x->header;
    int ret;

    if (qc_crc32c(0, p, (size_t)h->n_pages * QC_IXF_DIR_BYTES) != h->dir_crc)
        return corrupt(err, h->dir_offset, "directory: its checksum is wrong");
    x->page = qc_calloc(h->n_pages, sizeof(*x->page));
    if (!x->page)
        return qc_fail_nomem(err);
    ret = load_pages(x, p, err);
    if (ret == 0)
        ret = check_pages(x, err);
    if (ret != 0) {
        qc_free(x->page);
        x->page = NULL;
    }
    return ret;
}

void qc_ixf_finish(struct qc_ixf *x)
{
    free_sources(x);
    qc_free(x->page);
    *x = (struct qc_ixf){0};
}

/* ------------------------------------------------------------------- pages --- */

uint64_t qc_ixf_page_end(const struct qc_ixf *x, uint32_t i)
{
    return i + 1 < x->header.n_pages ? x->page[i + 1].start : x->header.virtual_size;
}

uint32_t qc_ixf_find_page(const struct qc_ixf *x, uint64_t guest)
{
    uint32_t low = 0, high = x->header.n_pages, mid;

    while (high - low > 1) {
        mid = low + (high - low) / 2;
        if (x->page[mid].start <= guest)
            low = mid;
        else
            high = mid;
    }
    return low;
}

int qc_ixf_check_page(const struct qc_ixf *x, uint32_t i, const uint8_t *p, qchain_error *err)
{
    const struct qc_ixf_page *page = &x->page[i];

    if (qc_crc32c(0, p, page->bytes) == page->crc)
        return 0;
    bad_page(x, i, err, QCHAIN_E_CORRUPT, "its checksum is wrong");
    qc_error_at(err, page->offset);
    return QCHAIN_E_CORRUPT;
}
