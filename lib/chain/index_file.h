/* SPDX-License-Identifier: MIT */
/*
 * The sidecar index, version 1: the merged map of a chain, beside its top image.
 * This is its specification. Parsing does no I/O; every byte is hostile.
 *
 * Numbers are little-endian, offsets count from the file's beginning, reserved
 * bytes are 0. The parts follow each other without gaps: header, table, directory,
 * pages. Checksums are CRC32C.
 *
 * Header, 160 bytes:
 *     0  8 bytes  "QCHAINIX"
 *     8  u32      version: 1
 *    12  u32      bytes of the header: 160
 *    16  u32      flags: 0
 *    20  u32      checksum of the header, with this field as 0
 *    24  u64      bytes of the file
 *    32  u64      bytes of the virtual disk: that of layer 0
 *    40  u64      when the layers were last looked at, ns since the epoch
 *    48  u32      layers, 1..65535; layer 0 is the image that the sidecar belongs to
 *    52  u32      sources: files of the layers, their external data files included
 *    56  u64      offset of the table: 160
 *    64  u32      bytes of the table
 *    68  u32      checksum of the table
 *    72  u64      offset of the directory
 *    80  u32      pages: 1..65536; 0 if the disk has no bytes
 *    84  u32      checksum of the directory
 *    88  u64      runs in all pages
 *    96  16 bytes random, another in each build
 *   112  48 bytes reserved
 *
 * Table, an entry a source, from the top down; a layer's file, then, if it has one,
 * its external data file:
 *     0  u32      layer
 *     4  u32      QC_IXF_*: 1 data file, 2 racy, 4 holes, 8 its format is not
 *                 recorded in the image that refers to it, 16 remote: an object
 *                 behind a URL, which is never racy
 *     8  u64      bytes of the file
 *    16  u64      its modification time, ns since the epoch; of an object what its
 *                 server says, 0 if it says nothing
 *    24  u64      bytes it occupies on its medium
 *    32  u64      bytes of the virtual disk, a multiple of 512 below 2^63; 0 for a
 *                 data file
 *    40  u32      bytes of a cluster: a power of two from 512 to 2 MiB; 0 for raw and
 *                 for a data file
 *    44  u32      how compressed clusters are decoded (0 zlib, 1 zstd)
 *    48  u16      bytes of the name, 1..4095: as recorded in the image that refers to
 *                 it; for layer 0, its file's last component
 *    50  u16      bytes of the location, 1..4095: the path when the sidecar was built,
 *                 or the URL without user and query
 *    52  u16      bytes of the format, 1..15: "qcow2", "raw"
 *    54  u16      bytes of the validator, 0..255: of an object what tells this generation
 *                 of it from others (its ETag or version), if there is such; of a file 0
 *    56           name, location, format, validator; none has a NUL, the validator no
 *                 control characters
 *
 * Directory, an entry of 32 bytes a page. Pages cover the disk without gaps, in order:
 *     0  u64      disk offset of its first byte: a multiple of 128 MiB, 0 for the first
 *     8  u64      offset of the page
 *    16  u32      bytes of the page
 *    20  u32      checksum of the page
 *    24  u32      runs, as they are recorded
 *    28  u32      flags: 1 only if all runs are of the kinds END and SHORT
 *   A page of more than 128 MiB of disk has at most 64 KiB, any other at most 8 MiB.
 *
 * Page: runs that cover its part of the disk whole, each of LEB128 numbers of at most
 * 64 bits in at most ten bytes; "signed" ones are zigzag. The memory of a page begins
 * anew: source 0, host 0.
 *     length in 512-byte units << 3 | kind (format/run.h)
 *     not END: signed, the source less that of the run before (END left out).
 *              Sources are numbered from the bottom, the last of the table is 0:
 *              so pages that a new top does not touch are the same in its index
 *     DATA, ZERO_ALLOC, PREALLOC: signed, host offset / 512 less where the last run
 *              with a host ended, in units of 512 rounded down
 *     COMPRESSED: signed, host offset less where the last run with a host ended, in
 *              bytes (its sectors are taken to begin at its host offset rounded down
 *              to 512), then the sectors of its stream
 *   END has the source of the lowest layer's file. A compressed run lies within one
 *   cluster of its layer, which has no data file, and has 1..cluster / 256 + 1 sectors.
 *   Every byte that a run has in a file lies below 2^56, as does a stream's first.
 */
#ifndef QC_CHAIN_INDEX_FILE_H
#define QC_CHAIN_INDEX_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/run.h"
#include "util/error.h"

#define QC_IXF_HEADER_BYTES 160u
#define QC_IXF_ENTRY_BYTES 56u /* of the table, without the names */
#define QC_IXF_DIR_BYTES 32u
#define QC_IXF_WINDOW (UINT64_C(128) << 20)
#define QC_IXF_SOURCES_MAX 65535u
#define QC_IXF_PAGES_MAX 65536u
#define QC_IXF_TABLE_MAX (64u << 20)
#define QC_IXF_WIDE_PAGE_MAX (64u << 10)  /* of more than one window */
#define QC_IXF_PAGE_MAX (8u << 20)
#define QC_IXF_NAME_MAX 4095u
#define QC_IXF_VALIDATOR_MAX 255u

enum qc_ixf_flags {
    QC_IXF_DATA_FILE = 1,
    QC_IXF_RACY = 2,
    QC_IXF_HOLES = 4,
    QC_IXF_UNRECORDED = 8,
    QC_IXF_REMOTE = 16
};
#define QC_IXF_FLAGS 31u /* all of them */

struct qc_ixf_header {
    uint64_t file_size, virtual_size, built_ns, n_runs;
    uint64_t table_offset, dir_offset;
    uint32_t n_layers, n_sources, n_pages;
    uint32_t table_bytes, table_crc, dir_crc;
    uint8_t  id[16];
};

/* One entry of the table. Strings are qc_malloc'ed. */
struct qc_ixf_source {
    uint32_t layer;
    uint32_t flags; /* QC_IXF_* */
    uint64_t size, mtime_ns, allocated, virtual_size;
    uint32_t cluster_size, decoder_kind;
    char    *name, *location, *format;
    char    *validator; /* "": none */
};

/* One page. */
struct qc_ixf_page {
    uint64_t start;  /* of the disk */
    uint64_t offset; /* in the file */
    uint32_t bytes, crc, n_runs;
    bool     nothing;
};

/* A whole sidecar but for its pages. */
struct qc_ixf {
    struct qc_ixf_header  header;
    struct qc_ixf_source *source;
    struct qc_ixf_page   *page;
};

/* Bytes that grow. */
struct qc_ixf_buf {
    uint8_t *p;
    size_t   n, cap;
};

/* ---- reading: CORRUPT with a sentence, UNSUPPORTED for another version, NOMEM ---- */

/* len: at least QC_IXF_HEADER_BYTES. file_size: of the file it is from. */
int qc_ixf_parse_header(struct qc_ixf_header *h, const uint8_t *p, size_t len, uint64_t file_size,
                        qchain_error *err);
/* p: the table's bytes, the directory's bytes; x->header is set, the rest is made. The
 * directory needs nothing of the table. */
int qc_ixf_parse_table(struct qc_ixf *x, const uint8_t *p, qchain_error *err);
int qc_ixf_parse_directory(struct qc_ixf *x, const uint8_t *p, qchain_error *err);
/* Frees what parsing made, and zeroes x. */
void qc_ixf_finish(struct qc_ixf *x);

/* Where page i ends on the disk. */
uint64_t qc_ixf_page_end(const struct qc_ixf *x, uint32_t i);
/* The page that holds a disk offset, which lies below the virtual size. */
uint32_t qc_ixf_find_page(const struct qc_ixf *x, uint64_t guest);
/* Check a page's bytes against its checksum. */
int qc_ixf_check_page(const struct qc_ixf *x, uint32_t i, const uint8_t *p, qchain_error *err);
/* Append to out the runs of page i, whose bytes are p, that touch [from, to), cut to it
 * (a compressed one as format/run.h says), and with `first_source` added to their
 * numbers, which count from the top of the table. Runs are cut at multiples of 2^40
 * bytes of the disk, so the caller bounds the memory by the range. The whole page is
 * checked, also what lies outside the range. After a failure out is as it was. */
int qc_ixf_decode_page(const struct qc_ixf *x, uint32_t i, const uint8_t *p, uint64_t from,
                       uint64_t to, uint32_t first_source, struct qc_runs *out,
                       qchain_error *err);

/* The first offset >= guest in page i, whose bytes are p, that is neither END nor SHORT;
 * UINT64_MAX if there is none, guest if the page is damaged before. */
uint64_t qc_ixf_next_used(const struct qc_ixf *x, uint32_t i, const uint8_t *p, uint64_t guest);

/* ---- writing: 0 or NOMEM ---- */

void qc_ixf_buf_finish(struct qc_ixf_buf *b);

/* Where an encoder is within a page; zeros at its beginning. */
struct qc_ixf_encoder {
    uint32_t source;   /* from the bottom */
    uint64_t host_end;
    uint32_t n_runs;    /* recorded */
    bool     something; /* a run that is neither END nor SHORT */
    /* The last record, if it may still grow. */
    bool     grows;
    uint8_t  kind;
    uint32_t source_before;
    uint64_t units;
    size_t   at;        /* in the buffer */
};

/* Append runs that follow each other without gap, also those of the call before;
 * n_sources: of the table. Their numbers count from the top of the table. Neighbours
 * that are END, or SHORT of one source, become one record, also those of two calls:
 * within a page nothing else may touch the buffer. Others are recorded as they are. */
int qc_ixf_put_runs(struct qc_ixf_buf *b, struct qc_ixf_encoder *e, const struct qc_run *run,
                    size_t n, uint32_t n_sources);
/* Append one entry of the table (whose lengths and number the caller keeps within the
 * limits) or of the directory. */
int qc_ixf_put_source(struct qc_ixf_buf *b, const struct qc_ixf_source *s);
int qc_ixf_put_page(struct qc_ixf_buf *b, const struct qc_ixf_page *p);
/* The header's bytes, with its checksum. */
void qc_ixf_write_header(uint8_t p[QC_IXF_HEADER_BYTES], const struct qc_ixf_header *h);

#endif
