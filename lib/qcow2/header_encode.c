/* SPDX-License-Identifier: MIT */
/* Bytes from a header; header.c tells what lies where. */
#include "qcow2/header_encode.h"

#include <inttypes.h>
#include <string.h>

#include "util/bytes.h"
#include "util/error.h"

#define V3_ENCODED 112u /* the last field is the compression type, padded */

static const struct {
    uint8_t     kind, bit; /* kind: 0 incompatible, 1 compatible, 2 autoclear */
    const char *name;
} features[QC2_FEATURE_NAMES] = {
    {0, 0, "dirty bit"},
    {0, 1, "corrupt bit"},
    {0, 2, "external data file"},
    {0, 3, "compression type"},
    {0, 4, "extended L2 entries"},
    {1, 0, "lazy refcounts"},
    {2, 0, "bitmaps"},
    {2, 1, "raw external data"},
};

static void encode_v3(uint8_t *p, const struct qc2_header *h)
{
    qc_put_be64(p + 72, h->incompatible);
    qc_put_be64(p + 80, h->compatible);
    qc_put_be64(p + 88, h->autoclear);
    qc_put_be32(p + 96, h->refcount_order);
    qc_put_be32(p + 100, h->header_length);
    if (h->header_length <= 104)
        return;
    memset(p + 104, 0, 8);
    p[104] = (uint8_t)h->compression;
}

size_t qc2_header_encode_fields(uint8_t *p, const struct qc2_header *h)
{
    qc_put_be32(p, QC2_MAGIC);
    qc_put_be32(p + 4, h->version);
    qc_put_be64(p + 8, h->backing_offset);
    qc_put_be32(p + 16, h->backing_size);
    qc_put_be32(p + 20, h->cluster_bits);
    qc_put_be64(p + 24, h->size);
    qc_put_be32(p + 32, h->crypt_method);
    qc_put_be32(p + 36, h->l1_size);
    qc_put_be64(p + 40, h->l1_offset);
    qc_put_be64(p + 48, h->reftable_offset);
    qc_put_be32(p + 56, h->reftable_clusters);
    qc_put_be32(p + 60, h->n_snapshots);
    qc_put_be64(p + 64, h->snapshots_offset);
    if (h->version < 3)
        return QC2_V2_LENGTH;
    encode_v3(p, h);
    return h->header_length > QC2_V3_LENGTH ? V3_ENCODED : QC2_V3_LENGTH;
}

/* ----------------------------------------------------------- extensions --- */

/* Bytes of an extension with `len` bytes of data. */
static size_t ext_size(size_t len)
{
    return 8 + (size_t)qc_align_up(len, 8);
}

/* Write an extension's head and data; answers where the next one goes. data may be NULL. */
static uint8_t *put_ext(uint8_t *p, uint32_t type, const void *data, size_t len)
{
    qc_put_be32(p, type);
    qc_put_be32(p + 4, (uint32_t)len);
    memset(p + 8, 0, ext_size(len) - 8);
    if (data)
        memcpy(p + 8, data, len);
    return p + ext_size(len);
}

static uint8_t *put_features(uint8_t *p, unsigned n)
{
    uint8_t *end = put_ext(p, QC2_EXT_FEATURES, NULL, (size_t)n * QC2_FEATURE_ENTRY);

    p += 8;
    for (unsigned i = 0; i < n; i++, p += QC2_FEATURE_ENTRY) {
        p[0] = features[i].kind;
        p[1] = features[i].bit;
        memcpy(p + 2, features[i].name, strlen(features[i].name));
    }
    return end;
}

static uint8_t *put_crypto(uint8_t *p, const struct qc2_header *h)
{
    uint8_t data[16];

    qc_put_be64(data, h->crypto_offset);
    qc_put_be64(data + 8, h->crypto_length);
    return put_ext(p, QC2_EXT_CRYPTO, data, sizeof(data));
}

static uint8_t *put_bitmaps(uint8_t *p, const struct qc2_header *h)
{
    uint8_t data[24];

    qc_put_be32(data, h->n_bitmaps);
    qc_put_be32(data + 4, 0);
    qc_put_be64(data + 8, h->bitmap_dir_size);
    qc_put_be64(data + 16, h->bitmap_dir_offset);
    return put_ext(p, QC2_EXT_BITMAPS, data, sizeof(data));
}

static size_t extensions_size(const struct qc2_header *h, const struct qc2_header_parts *parts)
{
    size_t n = 8 + parts->unknown.len; /* what ends them */

    if (h->backing_format[0])
        n += ext_size(strlen(h->backing_format));
    if (parts->data_file.len)
        n += ext_size(parts->data_file.len);
    if (h->has_crypto)
        n += ext_size(16);
    if (parts->n_features)
        n += ext_size(parts->n_features * (size_t)QC2_FEATURE_ENTRY);
    if (h->has_bitmaps)
        n += ext_size(24);
    return n;
}

static void put_extensions(uint8_t *start, uint8_t *p, struct qc2_header *h,
                           const struct qc2_header_parts *parts)
{
    if (h->backing_format[0])
        p = put_ext(p, QC2_EXT_BACKING_FORMAT, h->backing_format, strlen(h->backing_format));
    h->data_file = (struct qc2_piece){0, 0};
    if (parts->data_file.len) {
        h->data_file = (struct qc2_piece){(uint32_t)(p + 8 - start), (uint32_t)parts->data_file.len};
        p = put_ext(p, QC2_EXT_DATA_FILE, parts->data_file.p, parts->data_file.len);
    }
    if (h->has_crypto)
        p = put_crypto(p, h);
    if (parts->n_features)
        p = put_features(p, parts->n_features);
    if (h->has_bitmaps)
        p = put_bitmaps(p, h);
    if (parts->unknown.len)
        memcpy(p, parts->unknown.p, parts->unknown.len);
    memset(p + parts->unknown.len, 0, 8);
}

int qc2_header_encode(uint8_t *p, size_t room, struct qc2_header *h,
                      const struct qc2_header_parts *parts, size_t *len, qchain_error *err)
{
    bool behind = parts->backing_file.len && !parts->name_at;
    size_t fixed = h->version < 3 ? QC2_V2_LENGTH : V3_ENCODED + parts->more.len;
    size_t end;

    h->header_length = (uint32_t)fixed;
    end = fixed + extensions_size(h, parts);
    *len = end + (behind ? parts->backing_file.len : 0);
    if (*len > room)
        return qc_fail(err, QCHAIN_E_LIMIT,
                       "the header, with its names and extensions, takes %zu bytes: "
                       "there is room for %zu",
                       *len, room);
    h->backing_size = (uint32_t)parts->backing_file.len;
    h->backing_offset = !h->backing_size ? 0 : behind ? end : parts->name_at;
    qc2_header_encode_fields(p, h);
    if (h->version >= 3 && parts->more.len)
        memcpy(p + V3_ENCODED, parts->more.p, parts->more.len);
    put_extensions(p, p + fixed, h, parts);
    if (behind)
        memcpy(p + end, parts->backing_file.p, parts->backing_file.len);
    return QCHAIN_OK;
}
