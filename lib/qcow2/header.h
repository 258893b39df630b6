/* SPDX-License-Identifier: MIT */
/* The header of a qcow2 image and its extensions: parsing and checking, no I/O. */
#ifndef QC_QCOW2_HEADER_H
#define QC_QCOW2_HEADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <qchain.h>

#define QC2_MAGIC 0x514649fbu
#define QC2_V2_LENGTH 72u
#define QC2_V3_LENGTH 104u
#define QC2_HEAD_BYTES 112u /* what qc2_header_parse looks at, at most */

#define QC2_MAX_L1_ENTRIES 4194304u
#define QC2_MAX_REFTABLE_BYTES (UINT64_C(8) << 20)
#define QC2_MAX_SNAPSHOTS 65536u
#define QC2_MAX_BITMAPS 65535u
#define QC2_MAX_BACKING_NAME 1023u
#define QC2_MAX_DATA_FILE_NAME 4095u
#define QC2_MAX_DISK (UINT64_C(0x7fffffffffffffff) & ~UINT64_C(511))

/* Types of extensions. */
#define QC2_EXT_END 0x00000000u
#define QC2_EXT_BACKING_FORMAT 0xe2792acau
#define QC2_EXT_FEATURES 0x6803f857u
#define QC2_EXT_BITMAPS 0x23852875u
#define QC2_EXT_CRYPTO 0x0537be77u
#define QC2_EXT_DATA_FILE 0x44415441u
#define QC2_FEATURE_ENTRY 48u /* bytes of a name in the feature table */

enum qc2_incompatible {
    QC2_INCOMPAT_DIRTY = 0x1,
    QC2_INCOMPAT_CORRUPT = 0x2,
    QC2_INCOMPAT_DATA_FILE = 0x4,
    QC2_INCOMPAT_COMPRESSION = 0x8,
    QC2_INCOMPAT_EXTENDED_L2 = 0x10,
    QC2_INCOMPAT_KNOWN = 0x1f
};

enum qc2_compatible { QC2_COMPAT_LAZY_REFCOUNTS = 0x1 };

enum qc2_autoclear {
    QC2_AUTOCLEAR_BITMAPS = 0x1,
    QC2_AUTOCLEAR_DATA_FILE_RAW = 0x2
};

/* A piece of the header's cluster. */
struct qc2_piece {
    uint32_t offset;
    uint32_t length;
};

struct qc2_header {
    uint32_t version;
    uint32_t cluster_bits;
    uint64_t backing_offset;
    uint32_t backing_size;
    uint32_t crypt_method;
    uint64_t size; /* bytes, as recorded */
    uint64_t l1_offset;
    uint64_t reftable_offset;
    uint64_t snapshots_offset;
    uint32_t l1_size; /* entries */
    uint32_t reftable_clusters;
    uint32_t n_snapshots;
    uint32_t refcount_order;
    uint64_t incompatible;
    uint64_t compatible;
    uint64_t autoclear;
    uint32_t header_length;
    uint32_t compression; /* QCHAIN_COMPRESSION_* */

    /* from the extensions */
    char     backing_format[16]; /* "" if none */
    struct qc2_piece data_file;  /* where its name is; length 0: none */
    uint32_t n_unknown;          /* extensions of unknown type */
    bool     has_bitmaps;
    bool     has_crypto;
    uint32_t n_bitmaps;
    uint64_t bitmap_dir_size;
    uint64_t bitmap_dir_offset;
    uint64_t crypto_offset;
    uint64_t crypto_length;
};

/* Where the metadata may lie. */
struct qc2_limits {
    uint64_t file_size;
    bool     salvage; /* tables past the end of the file are let pass */
};

/* Parse and check the fixed part: p holds the first len bytes of the file,
 * len >= min(QC2_HEAD_BYTES, file size). Unknown incompatible features are left
 * to qc2_features_check, which wants the extensions first. */
int qc2_header_parse(struct qc2_header *h, const uint8_t *p, size_t len,
                     const struct qc2_limits *lim, qchain_error *err);

/* Where extensions must end. */
uint64_t qc2_extensions_end(const struct qc2_header *h);

/* Parse the extensions that follow the fixed part. p holds the first len bytes
 * of the file. Returns 0, a negative code, or the number of bytes that are
 * needed (> len) if they go on past p; call again with more. At the end of the
 * file the area ends, too: pass whole = true. */
int64_t qc2_extensions_parse(struct qc2_header *h, const uint8_t *p, size_t len, bool whole,
                             qchain_error *err);

/* UNSUPPORTED if the image needs features that are not known here; their names
 * are looked up in the feature name table if p holds one. */
int qc2_features_check(const struct qc2_header *h, const uint8_t *p, size_t len,
                       qchain_error *err);

/* Check the placement of the tables that the header names, and what crypt_method
 * and the extensions say of each other. */
int qc2_header_check(const struct qc2_header *h, const struct qc2_limits *lim, qchain_error *err);

/* Check an L1 table's place: entries and offset, for a disk of size bytes (0: as
 * short as it likes). what: "header" or "snapshot". */
int qc2_l1_check(const struct qc2_header *h, uint64_t entries, uint64_t offset, uint64_t size,
                 const struct qc2_limits *lim, const char *what, qchain_error *err);

static inline uint64_t qc2_cluster_size(const struct qc2_header *h)
{
    return UINT64_C(1) << h->cluster_bits;
}

static inline bool qc2_extended_l2(const struct qc2_header *h)
{
    return h->incompatible & QC2_INCOMPAT_EXTENDED_L2;
}

/* log2 of the bytes of disk that one L2 table covers. */
static inline unsigned qc2_l2_cover_bits(const struct qc2_header *h)
{
    return 2 * h->cluster_bits - (qc2_extended_l2(h) ? 4 : 3);
}

#endif
