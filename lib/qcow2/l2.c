/* SPDX-License-Identifier: MIT */
/*
 * An L2 entry is a big-endian number of 64 bits:
 *
 *   BIT   STANDARD CLUSTER                    COMPRESSED CLUSTER
 *    63   COPIED: refcount is exactly 1       0
 *    62   0                                   1
 *   0     reads as zeros (version 3, not
 *         with extended entries)              x = 62 - (cluster_bits - 8)
 *   9-55  host offset, cluster aligned;       0..x-1  host byte offset, < 2^56
 *         0: not allocated                    x..61   further 512-byte sectors
 *                                                     that the stream may touch
 *
 * Other bits are reserved; like QEMU we do not look at them.
 *
 * An extended entry is followed by a bitmap of 64 bits for the 32 subclusters of
 * a standard cluster: bit i says that subcluster i is stored, bit 32 + i that it
 * reads as zeros; neither, that it is not allocated here. Both is an error.
 *
 * With an external data file the host offset is the guest offset, and COPIED
 * tells offset 0 from "not allocated".
 *
 * Tables are mostly zero, or mostly one stretch after the other, so both are
 * passed over eight entries at a time.
 */
#include "qcow2/l2.h"

#include <inttypes.h>

#include "util/bytes.h"
#include "util/error.h"

#define KEY_MASK (QC2_OFFSET_MASK | QC2_COMPRESSED | QC2_ZERO)
#define SUBCLUSTERS 32u

/* Where the entry at hand is, for messages and results. */
struct place {
    uint64_t guest;
    uint64_t host; /* of the entry in the file */
};

static int bad(qchain_error *err, const struct place *at, uint64_t entry, const char *rule)
{
    qc_fail(err, QCHAIN_E_CORRUPT,
            "L2 entry at %" PRIu64 "=0x%016" PRIx64 " (disk offset %" PRIu64 "): %s", at->host,
            entry, at->guest, rule);
    qc_error_at(err, at->host);
    return QCHAIN_E_CORRUPT;
}

static inline int put(const struct qc2_l2 *g, struct qc_runs *out, uint64_t guest, uint64_t length,
               enum qc_kind kind, uint64_t host, qchain_error *err)
{
    uint64_t end = qc_min64(guest + length, g->end);
    uint64_t start = qc_max64(guest, g->start);

    if (start >= end)
        return QCHAIN_OK;
    host = qc_kind_has_host(kind) ? host + (start - guest) : 0;
    if (qc_runs_add(out, qc_run_make(start, end - start, kind, host)) < 0)
        return qc_fail_nomem(err);
    return QCHAIN_OK;
}

static int put_compressed(const struct qc2_l2 *g, uint64_t e, const struct place *at,
                          struct qc_runs *out, qchain_error *err)
{
    unsigned x = 62 - (g->cluster_bits - 8);
    uint64_t host = e & ((UINT64_C(1) << x) - 1);
    uint64_t sectors = ((e & (QC2_COMPRESSED - 1)) >> x) + 1;
    uint64_t end = at->guest + (UINT64_C(1) << g->cluster_bits);
    struct qc_run r;

    if (g->data_file)
        return bad(err, at, e, "compressed, in an image with an external data file");
    if (host > QC_HOST_MAX)
        return bad(err, at, e, "compressed data above 2^56");
    if (host >= g->file_size) {
        if (!g->salvage)
            return bad(err, at, e, "compressed data past the end of the file");
        return put(g, out, at->guest, end - at->guest, QC_ZERO, 0, err);
    }
    r = qc_run_make(at->guest, qc_min64(end, g->virtual_size) - at->guest, QC_COMPRESSED, host);
    r.sectors = (uint16_t)sectors;
    if (qc_runs_add(out, r) < 0)
        return qc_fail_nomem(err);
    return QCHAIN_OK;
}

/* What holds for every host offset; key has it in QC2_OFFSET_MASK. */
static int check_host(const struct qc2_l2 *g, uint64_t key, const struct place *at,
                      qchain_error *err)
{
    uint64_t host = key & QC2_OFFSET_MASK;

    if (host & ((UINT64_C(1) << g->cluster_bits) - 1))
        return bad(err, at, key, "host offset not aligned to a cluster");
    if (g->data_file && host != at->guest)
        return bad(err, at, key, "host offset differs from the disk offset, "
                                 "in an image with an external data file");
    return QCHAIN_OK;
}

static inline bool is_like(uint64_t raw, uint64_t key)
{
    return (__builtin_bswap64(raw) & KEY_MASK) == key;
}

/* How many entries from raw[0], which is key, go on as key + step, key + 2 * step,
 * ...; at most n. */
static size_t count_like(const uint64_t *raw, size_t n, uint64_t key, uint64_t step)
{
    size_t i = 1;

    if (n < 2 || !is_like(raw[1], key + step))
        return 1; /* a scattered table pays no more than this */
    for (; i + 8 <= n; i += 8) {
        uint64_t differ = 0;

        for (unsigned k = 0; k < 8; k++)
            differ |= (__builtin_bswap64(raw[i + k]) & KEY_MASK) ^ (key + (i + k) * step);
        if (differ)
            break;
    }
    while (i < n && is_like(raw[i], key + i * step))
        i++;
    return i;
}

/* The first entry from raw[i] on that is not zero. Most of a whole-disk map's own
 * work is done here, so it goes by vectors; the buffer need not be aligned to them. */
static size_t skip_zero(const uint64_t *raw, size_t i, size_t n)
{
    typedef uint64_t vec __attribute__((vector_size(32), aligned(8), may_alias));
    const size_t step = 8 * sizeof(vec) / sizeof(*raw);

    for (; i + step <= n; i += step) {
        const vec *v = (const vec *)(const void *)(raw + i);
        vec any = (v[0] | v[1]) | (v[2] | v[3]) | ((v[4] | v[5]) | (v[6] | v[7]));

        if (any[0] | any[1] | any[2] | any[3])
            break;
    }
    while (i < n && raw[i] == 0)
        i++;
    return i;
}

/* Append n clusters of stored data, the first at host. Where a cluster begins past
 * the end of the file there is nothing that could be meant. */
static int put_data(const struct qc2_l2 *g, uint64_t host, size_t n, const struct place *at,
                    struct qc_runs *out, qchain_error *err)
{
    uint64_t length = (uint64_t)n << g->cluster_bits;
    uint64_t inside = length;
    int rc;

    if (!g->data_file && host + length > g->file_size) {
        uint64_t left = host < g->file_size ? g->file_size - host : 0;

        inside = qc_min64(length, qc_align_up(left, UINT64_C(1) << g->cluster_bits));
    }
    if (inside < length && !g->salvage) {
        uint64_t i = inside >> g->cluster_bits;
        struct place there = {at->guest + inside, at->host + i * 8};

        return bad(err, &there, host + inside, "cluster begins past the end of the file");
    }
    rc = put(g, out, at->guest, inside, QC_DATA, host, err);
    if (rc == 0 && inside < length)
        rc = put(g, out, at->guest + inside, length - inside, QC_ZERO, 0, err);
    return rc;
}

/* One standard entry and those that go on from it; *used: how many. */
static int parse_standard(const struct qc2_l2 *g, const uint64_t *raw, size_t n, uint64_t entry,
                          const struct place *at, size_t *used, struct qc_runs *out,
                          qchain_error *err)
{
    uint64_t cluster = UINT64_C(1) << g->cluster_bits;
    uint64_t key = entry & KEY_MASK;
    uint64_t host = key & QC2_OFFSET_MASK;
    bool present = host != 0 || (g->data_file && (entry & QC2_COPIED));
    int rc;

    if (entry & QC2_ZERO) {
        if (!g->zero_flag)
            return bad(err, at, entry, "zero flag in a version 2 image");
        rc = host ? check_host(g, key, at, err) : QCHAIN_OK;
        if (rc < 0)
            return rc;
        *used = count_like(raw, n, key, host ? cluster : 0);
        return put(g, out, at->guest, *used << g->cluster_bits, host ? QC_ZERO_ALLOC : QC_ZERO,
                   host, err);
    }
    *used = 1;
    if (!present)
        return QCHAIN_OK;
    rc = check_host(g, key, at, err);
    if (rc < 0)
        return rc;
    *used = count_like(raw, n, key, cluster);
    return put_data(g, host, *used, at, out, err);
}

static int parse_standard_table(const struct qc2_l2 *g, const uint64_t *raw, size_t n,
                                uint64_t guest, uint64_t host, struct qc_runs *out,
                                qchain_error *err)
{
    size_t i = 0, used;

    for (;;) {
        struct place at;
        uint64_t entry;
        int rc;

        i = skip_zero(raw, i, n);
        if (i == n)
            return QCHAIN_OK;
        entry = __builtin_bswap64(raw[i]);
        at.guest = guest + ((uint64_t)i << g->cluster_bits);
        at.host = host + i * 8;
        if (entry & QC2_COMPRESSED) {
            used = 1;
            rc = put_compressed(g, entry, &at, out, err);
        } else {
            rc = parse_standard(g, raw + i, n - i, entry, &at, &used, out, err);
        }
        if (rc < 0)
            return rc;
        i += used;
    }
}

static enum qc_kind subcluster_kind(uint32_t stored, uint32_t zero, unsigned i, bool present)
{
    if (zero >> i & 1)
        return present ? QC_ZERO_ALLOC : QC_ZERO;
    if (stored >> i & 1)
        return QC_DATA;
    return present ? QC_PREALLOC : QC_END;
}

/* How many subclusters from i on are alike. */
static unsigned count_subclusters(uint32_t stored, uint32_t zero, unsigned i)
{
    uint32_t same_stored = stored >> i & 1 ? ~stored : stored;
    uint32_t same_zero = zero >> i & 1 ? ~zero : zero;
    uint32_t differ = (same_stored | same_zero) >> i;

    return differ ? (unsigned)__builtin_ctz(differ) : SUBCLUSTERS - i;
}

static int parse_extended(const struct qc2_l2 *g, uint64_t entry, uint64_t bitmap,
                          const struct place *at, struct qc_runs *out, qchain_error *err)
{
    uint64_t host = entry & QC2_OFFSET_MASK;
    uint64_t sub = UINT64_C(1) << (g->cluster_bits - 5);
    uint32_t stored = (uint32_t)bitmap, zero = (uint32_t)(bitmap >> 32);
    bool present = host != 0 || (g->data_file && (entry & QC2_COPIED));
    int rc;

    if (stored & zero)
        return bad(err, at, bitmap, "a subcluster is both stored and zero");
    if (stored && !present)
        return bad(err, at, entry, "subclusters are stored, but there is no host offset");
    rc = present ? check_host(g, entry, at, err) : QCHAIN_OK;
    if (rc < 0)
        return rc;
    if (stored && !g->data_file && host >= g->file_size) {
        if (!g->salvage)
            return bad(err, at, entry, "cluster begins past the end of the file");
        zero |= stored;
        stored = 0;
    }
    for (unsigned i = 0, n; i < SUBCLUSTERS; i += n) {
        enum qc_kind kind = subcluster_kind(stored, zero, i, present);

        n = count_subclusters(stored, zero, i);
        if (kind == QC_END)
            continue;
        rc = put(g, out, at->guest + i * sub, n * sub, kind, host + i * sub, err);
        if (rc < 0)
            return rc;
    }
    return QCHAIN_OK;
}

static int parse_extended_table(const struct qc2_l2 *g, const uint64_t *raw, size_t n,
                                uint64_t guest, uint64_t host, struct qc_runs *out,
                                qchain_error *err)
{
    for (size_t i = 0; i < n; i++) {
        struct place at;
        uint64_t entry;
        int rc;

        i = skip_zero(raw, 2 * i, 2 * n) / 2;
        if (i == n)
            break;
        entry = __builtin_bswap64(raw[2 * i]);
        at.guest = guest + ((uint64_t)i << g->cluster_bits);
        at.host = host + i * 16;
        rc = entry & QC2_COMPRESSED
                 ? put_compressed(g, entry, &at, out, err)
                 : parse_extended(g, entry, __builtin_bswap64(raw[2 * i + 1]), &at, out, err);
        if (rc < 0)
            return rc;
    }
    return QCHAIN_OK;
}

int qc2_l2_parse(const struct qc2_l2 *g, const uint64_t *raw, size_t n, uint64_t guest,
                 uint64_t host, struct qc_runs *out, qchain_error *err)
{
    if (g->extended)
        return parse_extended_table(g, raw, n, guest, host, out, err);
    return parse_standard_table(g, raw, n, guest, host, out, err);
}
