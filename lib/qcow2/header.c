/* SPDX-License-Identifier: MIT */
/*
 * The header, all numbers big-endian:
 *
 *   OFFSET SIZE FIELD
 *        0    4 magic, 51 46 49 fb
 *        4    4 version, 2 or 3
 *        8    8 backing_file_offset, 0: no backing file
 *       16    4 backing_file_size, bytes of the name, no NUL
 *       20    4 cluster_bits, 9..21
 *       24    8 size of the disk in bytes
 *       32    4 crypt_method: 0 none, 1 AES, 2 LUKS
 *       36    4 l1_size in entries
 *       40    8 l1_table_offset
 *       48    8 refcount_table_offset
 *       56    4 refcount_table_clusters
 *       60    4 nb_snapshots
 *       64    8 snapshots_offset
 *                                            version 2 ends here
 *       72    8 incompatible_features
 *       80    8 compatible_features
 *       88    8 autoclear_features
 *       96    4 refcount_order, 0..6
 *      100    4 header_length, >= 104, multiple of 8
 *      104    1 compression_type: 0 zlib, 1 zstd; only if header_length > 104
 *
 * Extensions follow from header_length (72 in version 2) to the backing file
 * name or the end of the first cluster, each:
 *
 *        0    4 type, 0: no more follow
 *        4    4 length of the data, without padding
 *        8    n data, padded to a multiple of 8
 */
#include "qcow2/header.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "util/bytes.h"
#include "util/error.h"
#include "util/escape.h"

#define LUKS_HEADER 592u
#define LUKS_MAX (UINT64_C(4) << 20)

static int corrupt(qchain_error *err, const char *field, uint64_t value, const char *rule)
{
    return qc_fail(err, QCHAIN_E_CORRUPT, "header %s=%" PRIu64 ": %s", field, value, rule);
}

static int check_magic(const uint8_t *p, size_t len, uint64_t file_size, qchain_error *err)
{
    uint32_t version;

    if (len < 4 || qc_be32(p) != QC2_MAGIC)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED, "header magic: this is no qcow2 image");
    if (len < QC2_V2_LENGTH)
        return qc_fail(err, QCHAIN_E_CORRUPT,
                       "file size=%" PRIu64 ": shorter than a qcow2 header", file_size);
    version = qc_be32(p + 4);
    if (version == 1)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED,
                       "header version=1: this is qcow, the format before qcow2");
    if (version != 2 && version != 3)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED, "header version=%" PRIu32 ": 2 and 3 are known",
                       version);
    return QCHAIN_OK;
}

/* The fields that only version 3 has. */
static int parse_v3(struct qc2_header *h, const uint8_t *p, size_t len, uint64_t file_size,
                    qchain_error *err)
{
    if (len < QC2_V3_LENGTH)
        return qc_fail(err, QCHAIN_E_CORRUPT,
                       "file size=%" PRIu64 ": shorter than a version 3 header", file_size);
    h->incompatible = qc_be64(p + 72);
    h->compatible = qc_be64(p + 80);
    h->autoclear = qc_be64(p + 88);
    h->refcount_order = qc_be32(p + 96);
    h->header_length = qc_be32(p + 100);
    if (h->header_length < QC2_V3_LENGTH || h->header_length % 8 != 0)
        return corrupt(err, "header_length", h->header_length,
                       "must be at least 104 and a multiple of 8");
    if (h->header_length > qc2_cluster_size(h))
        return corrupt(err, "header_length", h->header_length, "larger than a cluster");
    if (h->header_length > file_size)
        return corrupt(err, "header_length", h->header_length, "past the end of the file");
    if (h->header_length > 104)
        h->compression = p[104];
    return QCHAIN_OK;
}

static int check_compression(const struct qc2_header *h, qchain_error *err)
{
    bool bit = h->incompatible & QC2_INCOMPAT_COMPRESSION;

    if (bit && h->compression == QCHAIN_COMPRESSION_ZLIB)
        return corrupt(err, "compression_type", 0, "must not be 0 with incompatible feature 3");
    if (!bit && h->compression != QCHAIN_COMPRESSION_ZLIB)
        return corrupt(err, "compression_type", h->compression,
                       "must be 0 without incompatible feature 3");
    if (h->compression > QCHAIN_COMPRESSION_ZSTD)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED,
                       "header compression_type=%" PRIu32 ": 0 (zlib) and 1 (zstd) are known",
                       h->compression);
    return QCHAIN_OK;
}

static int check_backing(const struct qc2_header *h, const struct qc2_limits *lim,
                         qchain_error *err)
{
    uint64_t end;

    if (h->backing_offset == 0)
        return QCHAIN_OK;
    if (h->backing_size == 0 || h->backing_size > QC2_MAX_BACKING_NAME)
        return corrupt(err, "backing_file_size", h->backing_size, "must be 1 to 1023");
    if (h->backing_offset < h->header_length)
        return corrupt(err, "backing_file_offset", h->backing_offset, "inside the header");
    if (!qc_add_ok(h->backing_offset, h->backing_size, &end) || end > qc2_cluster_size(h))
        return corrupt(err, "backing_file_offset", h->backing_offset,
                       "the name must lie in the first cluster");
    if (end > lim->file_size)
        return corrupt(err, "backing_file_offset", h->backing_offset, "past the end of the file");
    return QCHAIN_OK;
}

static void read_fields(struct qc2_header *h, const uint8_t *p)
{
    memset(h, 0, sizeof(*h));
    h->version = qc_be32(p + 4);
    h->backing_offset = qc_be64(p + 8);
    h->backing_size = qc_be32(p + 16);
    h->cluster_bits = qc_be32(p + 20);
    h->size = qc_be64(p + 24);
    h->crypt_method = qc_be32(p + 32);
    h->l1_size = qc_be32(p + 36);
    h->l1_offset = qc_be64(p + 40);
    h->reftable_offset = qc_be64(p + 48);
    h->reftable_clusters = qc_be32(p + 56);
    h->n_snapshots = qc_be32(p + 60);
    h->snapshots_offset = qc_be64(p + 64);
    h->refcount_order = 4;
    h->header_length = QC2_V2_LENGTH;
}

int qc2_header_parse(struct qc2_header *h, const uint8_t *p, size_t len,
                     const struct qc2_limits *lim, qchain_error *err)
{
    int rc = check_magic(p, len, lim->file_size, err);

    if (rc < 0)
        return rc;
    read_fields(h, p);
    if (h->cluster_bits < 9)
        return corrupt(err, "cluster_bits", h->cluster_bits, "must be at least 9");
    if (h->cluster_bits > 21)
        return qc_fail(err, QCHAIN_E_LIMIT, "header cluster_bits=%" PRIu32 ": at most 21",
                       h->cluster_bits);
    if (h->version >= 3) {
        rc = parse_v3(h, p, len, lim->file_size, err);
        if (rc < 0)
            return rc;
    }
    return check_backing(h, lim, err);
}

uint64_t qc2_extensions_end(const struct qc2_header *h)
{
    return h->backing_offset ? h->backing_offset : qc2_cluster_size(h);
}

static int ext_error(qchain_error *err, uint32_t type, uint32_t len, const char *rule)
{
    return qc_fail(err, QCHAIN_E_CORRUPT,
                   "header extension 0x%08" PRIx32 " length=%" PRIu32 ": %s", type, len, rule);
}

/* Bit of a known type, to find those that come twice; 0 for others. */
static unsigned known_bit(uint32_t type)
{
    switch (type) {
    case QC2_EXT_BACKING_FORMAT:
        return 1;
    case QC2_EXT_FEATURES:
        return 2;
    case QC2_EXT_BITMAPS:
        return 4;
    case QC2_EXT_CRYPTO:
        return 8;
    case QC2_EXT_DATA_FILE:
        return 16;
    default:
        return 0;
    }
}

static int ext_backing_format(struct qc2_header *h, const uint8_t *data, uint32_t len,
                              qchain_error *err)
{
    if (len >= sizeof(h->backing_format))
        return ext_error(err, QC2_EXT_BACKING_FORMAT, len, "a format's name has at most 15 bytes");
    if (memchr(data, 0, len))
        return ext_error(err, QC2_EXT_BACKING_FORMAT, len, "NUL in the backing file's format");
    memcpy(h->backing_format, data, len);
    h->backing_format[len] = '\0';
    return QCHAIN_OK;
}

static int ext_data_file(struct qc2_header *h, const uint8_t *p, uint64_t at, uint32_t len,
                         qchain_error *err)
{
    if (len > QC2_MAX_DATA_FILE_NAME)
        return qc_fail(err, QCHAIN_E_LIMIT,
                       "header extension 0x%08x length=%" PRIu32
                       ": names of data files have at most 4095 bytes",
                       QC2_EXT_DATA_FILE, len);
    if (memchr(p + at, 0, len))
        return ext_error(err, QC2_EXT_DATA_FILE, len, "NUL in the data file's name");
    h->data_file.offset = (uint32_t)at;
    h->data_file.length = len;
    return QCHAIN_OK;
}

/*   OFFSET SIZE FIELD of the bitmaps extension
 *        0    4 nb_bitmaps, 1..65535
 *        4    4 reserved, 0
 *        8    8 bitmap_directory_size in bytes
 *       16    8 bitmap_directory_offset
 * What the fields say is checked when bitmaps are listed: reading does without. */
static int ext_bitmaps(struct qc2_header *h, const uint8_t *data, uint32_t len, qchain_error *err)
{
    if (len != 24)
        return ext_error(err, QC2_EXT_BITMAPS, len, "the bitmaps extension has 24 bytes");
    h->has_bitmaps = true;
    h->n_bitmaps = qc_be32(data);
    h->bitmap_dir_size = qc_be64(data + 8);
    h->bitmap_dir_offset = qc_be64(data + 16);
    return QCHAIN_OK;
}

/*   OFFSET SIZE FIELD of the encryption extension
 *        0    8 offset of the encryption header, in clusters' multiples
 *        8    8 length of the encryption header in bytes */
static int ext_crypto(struct qc2_header *h, const uint8_t *data, uint32_t len, qchain_error *err)
{
    uint64_t offset, length;

    if (len != 16)
        return ext_error(err, QC2_EXT_CRYPTO, len, "the encryption extension has 16 bytes");
    offset = qc_be64(data);
    length = qc_be64(data + 8);
    if (offset % qc2_cluster_size(h) != 0)
        return corrupt(err, "encryption offset", offset, "not aligned to a cluster");
    if (length < LUKS_HEADER || length > LUKS_MAX)
        return corrupt(err, "encryption length", length, "must be 592 bytes to 4 MiB");
    h->has_crypto = true;
    h->crypto_offset = offset;
    h->crypto_length = length;
    return QCHAIN_OK;
}

static int ext_one(struct qc2_header *h, const uint8_t *p, uint64_t at, uint32_t type,
                   uint32_t len, qchain_error *err)
{
    switch (type) {
    case QC2_EXT_BACKING_FORMAT:
        return ext_backing_format(h, p + at, len, err);
    case QC2_EXT_FEATURES:
        if (len % QC2_FEATURE_ENTRY != 0)
            return ext_error(err, type, len, "the feature table has entries of 48 bytes");
        return QCHAIN_OK;
    case QC2_EXT_BITMAPS:
        return ext_bitmaps(h, p + at, len, err);
    case QC2_EXT_CRYPTO:
        return ext_crypto(h, p + at, len, err);
    case QC2_EXT_DATA_FILE:
        return ext_data_file(h, p, at, len, err);
    default:
        h->n_unknown++;
        return QCHAIN_OK;
    }
}

int64_t qc2_extensions_parse(struct qc2_header *h, const uint8_t *p, size_t len, bool whole,
                             qchain_error *err)
{
    uint64_t end = qc2_extensions_end(h);
    uint64_t at = h->header_length;
    unsigned seen = 0;

    h->n_unknown = 0;
    while (at < end && !(whole && at >= len)) {
        uint32_t type, n;
        unsigned bit;
        int rc;

        if (end - at < 8)
            return corrupt(err, "extension at", at, "no room for its type and length");
        if (at + 8 > len)
            return whole ? corrupt(err, "extension at", at, "past the end of the file")
                         : (int64_t)(at + 8);
        type = qc_be32(p + at);
        n = qc_be32(p + at + 4);
        at += 8;
        if (n > end - at)
            return ext_error(err, type, n, "longer than the room for extensions");
        if (type == QC2_EXT_END)
            break;
        bit = known_bit(type);
        if (seen & bit)
            return ext_error(err, type, n, "this extension comes twice");
        if (bit && at + n > len)
            return whole ? ext_error(err, type, n, "past the end of the file")
                         : (int64_t)(at + n);
        seen |= bit;
        rc = ext_one(h, p, at, type, n, err);
        if (rc < 0)
            return rc;
        at += ((uint64_t)n + 7) & ~UINT64_C(7);
    }
    return QCHAIN_OK;
}

/* Find the feature table among the extensions in p, as far as they can be read. */
static struct qc2_piece find_features(const struct qc2_header *h, const uint8_t *p, size_t len)
{
    struct qc2_piece none = {0, 0};
    uint64_t end = qc_min64(qc2_extensions_end(h), len);
    uint64_t at = h->header_length;

    while (at + 8 <= end) {
        uint32_t type = qc_be32(p + at), n = qc_be32(p + at + 4);

        at += 8;
        if (type == QC2_EXT_END || n > end - at)
            return none;
        if (type == QC2_EXT_FEATURES)
            return (struct qc2_piece){(uint32_t)at, n};
        at += ((uint64_t)n + 7) & ~UINT64_C(7);
    }
    return none;
}

/*   OFFSET SIZE FIELD of a feature name
 *        0    1 kind: 0 incompatible, 1 compatible, 2 autoclear
 *        1    1 bit, 0..63
 *        2   46 name, padded with NUL */
static const char *feature_name(struct qc_escaped *text, const uint8_t *p, struct qc2_piece table,
                                unsigned bit)
{
    for (uint32_t i = 0; i + QC2_FEATURE_ENTRY <= table.length; i += QC2_FEATURE_ENTRY) {
        const uint8_t *e = p + table.offset + i;

        if (e[0] == 0 && e[1] == bit)
            return qc_escape(text, (const char *)e + 2, strnlen((const char *)e + 2, 46));
    }
    return NULL;
}

int qc2_features_check(const struct qc2_header *h, const uint8_t *p, size_t len,
                       qchain_error *err)
{
    uint64_t unknown = h->incompatible & ~(uint64_t)QC2_INCOMPAT_KNOWN;
    struct qc2_piece table;
    char list[512] = "";
    size_t used = 0;

    if (!unknown)
        return check_compression(h, err);
    table = find_features(h, p, len);
    for (unsigned bit = 0; bit < 64 && used < sizeof(list); bit++) {
        struct qc_escaped text;
        const char *name;

        if (!(unknown >> bit & 1))
            continue;
        name = feature_name(&text, p, table, bit);
        used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%u%s%s%s", used ? ", " : "",
                                 bit, name ? " '" : "", name ? name : "", name ? "'" : "");
    }
    return qc_fail(err, QCHAIN_E_UNSUPPORTED,
                   "header incompatible_features=0x%" PRIx64 ": unknown features: %s",
                   h->incompatible, list);
}

int qc2_l1_check(const struct qc2_header *h, uint64_t entries, uint64_t offset, uint64_t size,
                 const struct qc2_limits *lim, const char *what, qchain_error *err)
{
    uint64_t cover = UINT64_C(1) << qc2_l2_cover_bits(h);
    uint64_t end;

    if (entries > QC2_MAX_L1_ENTRIES)
        return qc_fail(err, QCHAIN_E_LIMIT, "%s l1_size=%" PRIu64 ": at most %u entries", what,
                       entries, QC2_MAX_L1_ENTRIES);
    if (entries < qc_div_up(size, cover))
        return qc_fail(err, QCHAIN_E_CORRUPT,
                       "%s l1_size=%" PRIu64 ": too small for a disk of %" PRIu64 " bytes", what,
                       entries, size);
    if (entries == 0)
        return QCHAIN_OK;
    if (offset == 0 || offset % qc2_cluster_size(h) != 0)
        return qc_fail(err, QCHAIN_E_CORRUPT,
                       "%s l1_table_offset=%" PRIu64 ": must be aligned to a cluster and not 0",
                       what, offset);
    if (!qc_add_ok(offset, entries * 8, &end) || end > UINT64_C(1) << 56 ||
        (end > lim->file_size && !lim->salvage))
        return qc_fail(err, QCHAIN_E_CORRUPT,
                       "%s l1_table_offset=%" PRIu64 ": the table ends past the end of the file",
                       what, offset);
    return QCHAIN_OK;
}

static int check_snapshots(const struct qc2_header *h, const struct qc2_limits *lim,
                           qchain_error *err)
{
    uint64_t end;

    if (h->n_snapshots == 0)
        return QCHAIN_OK;
    if (h->n_snapshots > QC2_MAX_SNAPSHOTS)
        return qc_fail(err, QCHAIN_E_LIMIT, "header nb_snapshots=%" PRIu32 ": at most %u",
                       h->n_snapshots, QC2_MAX_SNAPSHOTS);
    if (h->snapshots_offset == 0 || h->snapshots_offset % qc2_cluster_size(h) != 0)
        return corrupt(err, "snapshots_offset", h->snapshots_offset,
                       "must be aligned to a cluster and not 0");
    if (!qc_add_ok(h->snapshots_offset, UINT64_C(40) * h->n_snapshots, &end) ||
        (end > lim->file_size && !lim->salvage))
        return corrupt(err, "snapshots_offset", h->snapshots_offset,
                       "the table ends past the end of the file");
    return QCHAIN_OK;
}

static int check_crypt(const struct qc2_header *h, const struct qc2_limits *lim,
                       qchain_error *err)
{
    uint64_t end;

    if (h->crypt_method > 2)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED,
                       "header crypt_method=%" PRIu32 ": 0, 1 (AES) and 2 (LUKS) are known",
                       h->crypt_method);
    if (h->crypt_method == 2 && !h->has_crypto)
        return corrupt(err, "crypt_method", 2, "the encryption extension is missing");
    if (h->crypt_method != 2 && h->has_crypto)
        return corrupt(err, "crypt_method", h->crypt_method,
                       "must be 2 with an encryption extension");
    if (h->has_crypto && (!qc_add_ok(h->crypto_offset, h->crypto_length, &end) ||
                          (end > lim->file_size && !lim->salvage)))
        return corrupt(err, "encryption offset", h->crypto_offset,
                       "the encryption header ends past the end of the file");
    return QCHAIN_OK;
}

int qc2_header_check(const struct qc2_header *h, const struct qc2_limits *lim, qchain_error *err)
{
    int rc;

    if (qc2_extended_l2(h) && h->cluster_bits < 14)
        return corrupt(err, "cluster_bits", h->cluster_bits,
                       "must be at least 14 with extended L2 entries");
    if (h->size > QC2_MAX_DISK)
        return qc_fail(err, QCHAIN_E_LIMIT, "header size=%" PRIu64 ": at most 2^63 - 512 bytes",
                       h->size);
    if (h->refcount_order > 6)
        return corrupt(err, "refcount_order", h->refcount_order, "must be 0 to 6");
    if (h->reftable_clusters > QC2_MAX_REFTABLE_BYTES >> h->cluster_bits)
        return qc_fail(err, QCHAIN_E_LIMIT,
                       "header refcount_table_clusters=%" PRIu32 ": at most 8 MiB",
                       h->reftable_clusters);
    if ((h->autoclear & QC2_AUTOCLEAR_DATA_FILE_RAW) &&
        !(h->incompatible & QC2_INCOMPAT_DATA_FILE))
        return qc_fail(err, QCHAIN_E_CORRUPT,
                       "header autoclear_features=0x%" PRIx64
                       ": a raw external data file without an external data file",
                       h->autoclear);
    rc = check_crypt(h, lim, err);
    if (rc == 0)
        rc = qc2_l1_check(h, h->l1_size, h->l1_offset, h->size, lim, "header", err);
    if (rc == 0)
        rc = check_snapshots(h, lim, err);
    return rc;
}
