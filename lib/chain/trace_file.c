/* SPDX-License-Identifier: MIT */
#include "chain/trace_file.h"

#include <string.h>

#include "util/bytes.h"
#include "util/crc32c.h"

#define VERSION 1u
#define BLOCK_MAGIC 0x5154424bu
#define NUMBER_MAX 10u                /* bytes of a LEB128 number */
#define RECORD_MAX (4 * NUMBER_MAX)
#define LOOK_BACK 8                   /* streams that are read side by side */

static const char magic[QC_TRACE_HEAD] = {'Q', 'C', 'H', 'A', 'I', 'N', 'T', 'R'};

/* ------------------------------------------------------------------- header --- */

bool qc_trace_looks_so(const void *p, size_t n)
{
    return n >= sizeof(magic) && memcmp(p, magic, sizeof(magic)) == 0;
}

void qc_trace_put_header(uint8_t p[QC_TRACE_HEADER_BYTES], const struct qc_trace_header *h)
{
    memset(p, 0, QC_TRACE_HEADER_BYTES);
    memcpy(p, magic, sizeof(magic));
    qc_put_be32(p + 8, VERSION);
    qc_put_be32(p + 12, QC_TRACE_HEADER_BYTES);
    qc_put_be32(p + 20, h->part);
    qc_put_be64(p + 24, h->disk_size);
    qc_put_be64(p + 32, h->began_ns);
    memcpy(p + 40, h->id, sizeof(h->id));
    qc_put_be32(p + 16, qc_crc32c(0, p, QC_TRACE_HEADER_BYTES));
}

int qc_trace_get_header(struct qc_trace_header *h, const uint8_t *p, size_t n, qchain_error *err)
{
    uint8_t copy[QC_TRACE_HEADER_BYTES];

    if (!qc_trace_looks_so(p, n))
        return qc_fail(err, QCHAIN_E_CORRUPT, "this is no trace");
    if (n < sizeof(copy))
        return qc_fail(err, QCHAIN_E_CORRUPT, "the trace ends within its header");
    if (qc_be32(p + 8) != VERSION)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED, "the trace has version %u; this library knows %u", qc_be32(p + 8),
                       VERSION);
    memcpy(copy, p, sizeof(copy));
    qc_put_be32(copy + 16, 0);
    if (qc_be32(p + 16) != qc_crc32c(0, copy, sizeof(copy)))
        return qc_fail(err, QCHAIN_E_CORRUPT, "the trace's header is damaged (checksum)");
    h->part = qc_be32(p + 20);
    h->disk_size = qc_be64(p + 24);
    h->began_ns = qc_be64(p + 32);
    memcpy(h->id, p + 40, sizeof(h->id));
    if (qc_be32(p + 12) != QC_TRACE_HEADER_BYTES || h->disk_size > INT64_MAX || qc_be64(p + 56) != 0)
        return qc_fail(err, QCHAIN_E_CORRUPT, "the trace's header makes no sense");
    return 0;
}

/* ------------------------------------------------------------------ numbers --- */

static uint8_t *put_number(uint8_t *p, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        *p++ = (uint8_t)(v | 0x80);
    *p++ = (uint8_t)v;
    return p;
}

/* Behind the number; NULL if there is none before end, or it has more than 64 bits. */
static const uint8_t *get_number(const uint8_t *p, const uint8_t *end, uint64_t *v)
{
    *v = 0;
    for (unsigned shift = 0; shift < 70 && p < end; shift += 7) {
        uint8_t b = *p++;

        if (shift == 63 && b > 1)
            return NULL;
        *v |= (uint64_t)(b & 0x7f) << shift;
        if (b < 0x80)
            return p;
    }
    return NULL;
}

/* ------------------------------------------------------------------- blocks --- */

bool qc_trace_record_ok(const qchain_trace_record *r)
{
    return r->length > 0 && r->reads > 0 && r->time_us <= INT64_MAX && r->offset <= INT64_MAX &&
           r->length <= INT64_MAX - r->offset;
}

size_t qc_trace_put_block(uint8_t p[QC_TRACE_BLOCK_MAX], const qchain_trace_record *r, size_t n, uint64_t lost,
                          size_t *done)
{
    uint8_t *to = p + QC_TRACE_BLOCK_HEADER_BYTES;
    uint64_t time = r[0].time_us, at = 0, step;
    size_t i;

    for (i = 0; i < n && i < QC_TRACE_BLOCK_RECORDS && to - p <= (ptrdiff_t)(QC_TRACE_BLOCK_MAX - RECORD_MAX); i++) {
        step = r[i].offset - at;
        to = put_number(to, r[i].time_us - time);
        to = put_number(to, step << 1 ^ (r[i].offset < at ? UINT64_MAX : 0));
        to = put_number(to, r[i].length);
        to = put_number(to, r[i].reads - 1);
        time = r[i].time_us;
        at = r[i].offset + r[i].length;
    }
    *done = i;
    qc_put_be32(p, BLOCK_MAGIC);
    qc_put_be32(p + 4, 0);
    qc_put_be32(p + 8, (uint32_t)(to - p) - QC_TRACE_BLOCK_HEADER_BYTES);
    qc_put_be32(p + 12, (uint32_t)i);
    qc_put_be64(p + 16, r[0].time_us);
    qc_put_be64(p + 24, lost);
    qc_put_be32(p + 4, qc_crc32c(0, p, (size_t)(to - p)));
    return (size_t)(to - p);
}

/* The checksum of a block of n bytes. */
static uint32_t checksum_of(const uint8_t *p, size_t n)
{
    static const uint8_t zeros[4];
    uint32_t crc = qc_crc32c(0, p, 4);

    crc = qc_crc32c(crc, zeros, sizeof(zeros));
    return qc_crc32c(crc, p + 8, n - 8);
}

/* One record behind another; NULL if it is wrong. */
static const uint8_t *get_record(qchain_trace_record *r, uint64_t time, uint64_t at, const uint8_t *p,
                                 const uint8_t *end)
{
    uint64_t step;

    p = get_number(p, end, &r->time_us);
    p = p ? get_number(p, end, &step) : NULL;
    p = p ? get_number(p, end, &r->length) : NULL;
    p = p ? get_number(p, end, &r->reads) : NULL;
    if (!p || r->time_us > INT64_MAX || r->reads == UINT64_MAX)
        return NULL;
    /* Unsigned: a step that leads out of the disk ends above INT64_MAX, either way. */
    r->offset = at + (step >> 1 ^ (step & 1 ? UINT64_MAX : 0));
    r->time_us += time;
    r->reads++;
    return qc_trace_record_ok(r) ? p : NULL;
}

size_t qc_trace_get_block(qchain_trace_record r[QC_TRACE_BLOCK_RECORDS], uint32_t *n_records, uint64_t *lost,
                          const uint8_t *p, size_t n)
{
    const uint8_t *end, *from = p + QC_TRACE_BLOCK_HEADER_BYTES;
    uint64_t time, at = 0;
    uint32_t body, count;

    if (n < QC_TRACE_BLOCK_HEADER_BYTES || qc_be32(p) != BLOCK_MAGIC)
        return 0;
    body = qc_be32(p + 8);
    count = qc_be32(p + 12);
    time = qc_be64(p + 16);
    if (body > QC_TRACE_BODY_MAX || body > n - QC_TRACE_BLOCK_HEADER_BYTES || count == 0 ||
        count > QC_TRACE_BLOCK_RECORDS || time > INT64_MAX)
        return 0;
    end = from + body;
    if (qc_be32(p + 4) != checksum_of(p, (size_t)(end - p)))
        return 0;
    for (uint32_t i = 0; i < count; i++) {
        from = get_record(&r[i], time, at, from, end);
        if (!from)
            return 0;
        time = r[i].time_us;
        at = r[i].offset + r[i].length;
    }
    if (from != end)
        return 0;
    *n_records = count;
    *lost = qc_be64(p + 24);
    return (size_t)(end - p);
}

/* ------------------------------------------------------------------ joining --- */

bool qc_trace_join(qchain_trace_record *record, size_t n, const qchain_trace_record *r, uint64_t within)
{
    uint64_t end = r->offset + r->length;

    for (size_t i = n; i > 0 && n - i < LOOK_BACK; i--) {
        qchain_trace_record *old = &record[i - 1];

        if (r->offset < old->offset || r->offset - old->offset > old->length || r->time_us < old->time_us ||
            r->time_us - old->time_us > within)
            continue;
        old->length = qc_max64(old->length, end - old->offset);
        old->reads += r->reads;
        return true;
    }
    return false;
}
