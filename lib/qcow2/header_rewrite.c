/* SPDX-License-Identifier: MIT */
/*
 * Changing the header of an image in place.
 *
 * The fields lie in the first sector. If extensions change, too, all of them must come to lie in it: the feature
 * names give way. The backing file's name may lie anywhere in the cluster. A new one is written where the old
 * header has nothing, made durable, and then the sector that points to it is written.
 */
#include <inttypes.h>
#include <string.h>

#include "io/store.h"
#include "qcow2/header_encode.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"

struct rewrite {
    struct qc_store         *store;
    const struct qc2_header *old;
    struct qc2_header       *to;
    uint8_t                 *head;      /* the first cluster, as it is */
    size_t                   len;       /* of it in the file */
    uint8_t                 *unknown;   /* extensions to keep */
    uint64_t                 ext_end;   /* where extensions end now */
    bool                     ext_ended; /* and that is said by one of type 0 */
    struct qc2_header_parts  parts;
    bool                     same_name, same_ext;
};

/* Find where the extensions end, and gather those that are not known. They were parsed before. */
static int gather(struct rewrite *r, qchain_error *err)
{
    uint64_t end = qc_min64(qc2_extensions_end(r->old), r->len);
    uint64_t at = r->old->header_length;
    size_t n = 0;

    r->unknown = qc_calloc(1, r->len + 8);
    if (!r->unknown)
        return qc_fail_nomem(err);
    while (at + 8 <= end) {
        uint32_t type = qc_be32(r->head + at), len = qc_be32(r->head + at + 4);
        uint64_t padded = 8 + qc_align_up(len, 8);

        if (type == QC2_EXT_END) {
            at += 8;
            r->ext_ended = true;
            break;
        }
        if (len > end - at - 8)
            return qc_fail(err, QCHAIN_E_CORRUPT, "header extension 0x%08" PRIx32 ": too long", type);
        if (type != QC2_EXT_BACKING_FORMAT && type != QC2_EXT_FEATURES &&
            type != QC2_EXT_BITMAPS && type != QC2_EXT_CRYPTO && type != QC2_EXT_DATA_FILE) {
            memcpy(r->unknown + n, r->head + at, 8 + len);
            n += (size_t)padded;
        }
        at += padded;
    }
    r->ext_end = qc_min64(at, end);
    r->parts.unknown = (struct qc2_bytes){r->unknown, n};
    return QCHAIN_OK;
}

static struct qc2_bytes old_piece(const struct rewrite *r, uint64_t offset, uint64_t len)
{
    return offset + len <= r->len ? (struct qc2_bytes){r->head + offset, (size_t)len}
                                  : (struct qc2_bytes){NULL, 0};
}

static bool same(struct qc2_bytes a, struct qc2_bytes b)
{
    return a.len == b.len && (a.len == 0 || memcmp(a.p, b.p, a.len) == 0);
}

static int take_text(struct qc2_bytes *b, const char *text, size_t max, const char *what,
                     qchain_error *err)
{
    if (!text)
        return QCHAIN_OK;
    *b = (struct qc2_bytes){text, strlen(text)};
    if (b->len > max)
        return qc_fail(err, QCHAIN_E_LIMIT, "the %s's name has %zu bytes: at most %zu", what,
                       b->len, max);
    return QCHAIN_OK;
}

static int take_texts(struct rewrite *r, const struct qc2_header_texts *t, qchain_error *err)
{
    const struct qc2_header *old = r->old;
    struct qc2_header *to = r->to;
    struct qc2_bytes name = old_piece(r, old->backing_offset, old->backing_offset ? old->backing_size : 0);
    struct qc2_bytes data = old_piece(r, old->data_file.offset, old->data_file.length);
    size_t fixed = old->version < 3 ? QC2_V2_LENGTH : QC2_HEAD_BYTES;
    int ret;

    r->parts.backing_file = name;
    r->parts.data_file = data;
    if (to->version >= 3 && old->header_length > fixed)
        r->parts.more = old_piece(r, fixed, old->header_length - fixed);
    ret = take_text(&r->parts.backing_file, t->backing_file, QC2_MAX_BACKING_NAME, "backing file", err);
    if (ret == 0)
        ret = take_text(&r->parts.data_file, t->data_file, QC2_MAX_DATA_FILE_NAME, "data file", err);
    if (ret == 0 && t->backing_format) {
        size_t len = strlen(t->backing_format);

        if (len >= sizeof(to->backing_format))
            return qc_fail(err, QCHAIN_E_LIMIT, "the backing file's format has %zu bytes: at most %zu",
                           len, sizeof(to->backing_format) - 1);
        memset(to->backing_format, 0, sizeof(to->backing_format));
        memcpy(to->backing_format, t->backing_format, len);
    }
    r->same_name = same(name, r->parts.backing_file);
    r->same_ext = same(data, r->parts.data_file) && old->version == to->version &&
                  strcmp(old->backing_format, to->backing_format) == 0 &&
                  old->has_bitmaps == to->has_bitmaps && old->has_crypto == to->has_crypto &&
                  (!to->has_bitmaps || (old->n_bitmaps == to->n_bitmaps &&
                                        old->bitmap_dir_size == to->bitmap_dir_size &&
                                        old->bitmap_dir_offset == to->bitmap_dir_offset)) &&
                  (!to->has_crypto || (old->crypto_offset == to->crypto_offset &&
                                       old->crypto_length == to->crypto_length)) &&
                  /* a field that there is no room for yet */
                  !(to->compression != old->compression && old->header_length < QC2_HEAD_BYTES);
    return ret;
}

/* A place for the new name, in a sector of its own or behind what is there; 0 if there is none. */
static uint32_t place_name(const struct rewrite *r, uint64_t ext_end)
{
    uint64_t len = r->parts.backing_file.len, cluster = qc2_cluster_size(r->old);
    uint64_t name = r->old->backing_offset, name_end = name + r->old->backing_size;
    uint64_t at = qc_align_up(qc_max64(QC2_SECTOR, qc_max64(ext_end, r->ext_end)), 8);

    if (r->same_name && name >= ext_end)
        return (uint32_t)name;
    if (!name || at + len <= name || at >= name_end)
        return at + len <= cluster ? (uint32_t)at : 0;
    at = qc_align_up(qc_max64(at, name_end), 8);
    return at + len <= cluster ? (uint32_t)at : 0;
}

/* The extensions stay as they are. */
static bool plan_fields(struct rewrite *r, uint8_t *sector, size_t *len)
{
    struct qc2_header *to = r->to;

    if (!r->same_ext)
        return false;
    to->header_length = r->old->header_length;
    to->data_file = r->old->data_file;
    if (r->same_name || r->parts.backing_file.len == 0) {
        to->backing_offset = r->same_name ? r->old->backing_offset : 0;
        to->backing_size = r->same_name ? r->old->backing_size : 0;
    } else {
        to->backing_offset = place_name(r, r->ext_end);
        to->backing_size = (uint32_t)r->parts.backing_file.len;
        if (!to->backing_offset)
            return false;
    }
    /* The end of the extensions must be where it was. */
    if (!r->ext_ended && to->backing_offset != r->old->backing_offset)
        return false;
    *len = qc2_header_encode_fields(sector, to);
    return true;
}

/* All extensions into the first sector, with as many names of features as there is room for. */
static int plan_sector(struct rewrite *r, uint8_t *sector, size_t *len, qchain_error *err)
{
    struct qc2_header_parts *parts = &r->parts;
    qchain_error why;
    size_t bare = 0;
    int ret;

    qc_error_init(&why);
    parts->n_features = 0;
    parts->name_at = parts->backing_file.len ? QC2_SECTOR : 0;
    ret = qc2_header_encode(sector, QC2_SECTOR, r->to, parts, &bare, &why);
    if (ret == 0 && parts->backing_file.len) {
        parts->name_at = place_name(r, bare);
        if (!parts->name_at) /* no place of its own: then behind them */
            ret = qc2_header_encode(sector, QC2_SECTOR, r->to, parts, &bare, &why);
    }
    if (ret != 0)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED,
                       "its header takes more than one sector of 512 bytes with this change, which "
                       "therefore cannot be made at once: %s",
                       why.text);
    if (r->to->version >= 3 && bare + 8 < QC2_SECTOR)
        parts->n_features = (unsigned)qc_min64((QC2_SECTOR - bare - 8) / QC2_FEATURE_ENTRY, QC2_FEATURE_NAMES);
    if (parts->name_at && parts->name_at < QC2_SECTOR)
        parts->n_features = 0; /* the name stays, within the sector */
    memset(sector, 0, QC2_SECTOR);
    ret = qc2_header_encode(sector, QC2_SECTOR, r->to, parts, len, err);
    if (ret == 0 && parts->name_at && parts->name_at < QC2_SECTOR) {
        size_t part = (size_t)qc_min64(parts->backing_file.len, QC2_SECTOR - parts->name_at);

        memcpy(sector + parts->name_at, parts->backing_file.p, part);
    }
    *len = QC2_SECTOR;
    return ret;
}

/* The name first, if it moves, then what points to it. */
static int write_out(const struct rewrite *r, const uint8_t *sector, size_t len, qchain_error *err)
{
    const struct qc2_bytes *name = &r->parts.backing_file;
    uint64_t at = r->to->backing_offset;
    int ret = 0;

    if (r->len >= len && memcmp(sector, r->head, len) == 0)
        return QCHAIN_OK;
    if (name->len && at >= QC2_SECTOR && !(r->same_name && at == r->old->backing_offset)) {
        ret = qc_store_write(r->store, name->p, name->len, at, err);
        if (ret == 0)
            ret = qc_store_flush(r->store, err);
    }
    if (ret == 0)
        ret = qc_store_write(r->store, sector, len, 0, err);
    if (ret == 0)
        ret = qc_store_flush(r->store, err);
    return ret;
}

int qc2_header_rewrite(struct qc_store *store, const struct qc2_header *old, struct qc2_header *to,
                       const struct qc2_header_texts *texts, qchain_error *err)
{
    struct rewrite r = {.store = store, .old = old, .to = to};
    uint8_t sector[QC2_SECTOR] = {0};
    size_t len = 0;
    int ret;

    r.len = (size_t)qc_min64(qc2_cluster_size(old), qc_store_size(store));
    r.head = qc_calloc(1, r.len + 1);
    if (!r.head)
        return qc_fail_nomem(err);
    ret = qc_store_read(store, r.head, r.len, 0, QC_READ_META, err);
    if (ret == 0)
        ret = gather(&r, err);
    if (ret == 0)
        ret = take_texts(&r, texts, err);
    if (ret == 0 && !plan_fields(&r, sector, &len))
        ret = plan_sector(&r, sector, &len, err);
    if (ret == 0)
        ret = write_out(&r, sector, len, err);
    qc_free(r.unknown);
    qc_free(r.head);
    return ret;
}
