/* SPDX-License-Identifier: MIT */
/*
 * A trace: header, blocks, and what was read first. The input is one byte, then the trace. Unless bit 0 of the byte
 * is set, the checksums are made right first, or nothing would ever get past them; bit 1: the lengths of blocks, too:
 * each ends where the next begins, or the file does.
 */
#include <stdlib.h>
#include <string.h>

#include "chain/trace_file.h"
#include "ops/trace_load.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/crc32c.h"

#define KEEP_CHECKSUMS 1
#define MEND_LENGTHS 2
#define MOST_RECORDS 16384u /* that are put in order */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static qchain_trace_record record[MOST_RECORDS + QC_TRACE_BLOCK_RECORDS], again[QC_TRACE_BLOCK_RECORDS];

static void require(int ok)
{
    if (!ok)
        abort();
}

/* ------------------------------------------------------------------ mending --- */

/* Where the next block seems to begin; size if there is none. */
static size_t next_block(const uint8_t *p, size_t at, size_t size)
{
    for (at++; at + 4 <= size; at++)
        if (memcmp(p + at, "QTBK", 4) == 0)
            return at;
    return size;
}

static void mend(uint8_t *p, size_t size, int how)
{
    size_t at = QC_TRACE_HEADER_BYTES, end;

    if (size < at)
        return;
    if (!(how & KEEP_CHECKSUMS)) {
        qc_put_be32(p + 16, 0);
        qc_put_be32(p + 16, qc_crc32c(0, p, at));
    }
    for (; at + QC_TRACE_BLOCK_HEADER_BYTES <= size; at = end) {
        end = next_block(p, at, size);
        if (end - at < QC_TRACE_BLOCK_HEADER_BYTES)
            return;
        if (how & MEND_LENGTHS)
            qc_put_be32(p + at + 8, (uint32_t)(end - at) - QC_TRACE_BLOCK_HEADER_BYTES);
        if (how & KEEP_CHECKSUMS)
            continue;
        qc_put_be32(p + at + 4, 0);
        qc_put_be32(p + at + 4, qc_crc32c(0, p + at, end - at));
    }
}

/* ----------------------------------------------------------- what must hold --- */

/* Written again, the same comes back. */
static void write_again(const qchain_trace_record *r, uint32_t n, uint64_t lost)
{
    static uint8_t block[QC_TRACE_BLOCK_MAX];
    size_t done = 0, size;
    uint64_t told;
    uint32_t got;

    for (uint32_t at = 0; at < n; at += (uint32_t)done) {
        size = qc_trace_put_block(block, r + at, n - at, lost, &done);
        require(done > 0 && size <= sizeof(block));
        require(qc_trace_get_block(again, &got, &told, block, size) == size && got == done && told == lost);
        require(memcmp(again, r + at, done * sizeof(*r)) == 0);
    }
}

static void order(size_t n)
{
    qchain_trace_record *out;
    uint64_t bytes = 0;
    size_t n_out;

    for (size_t i = 1; i < n; i++) /* as if they were */
        record[i].time_us = qc_max64(record[i].time_us, record[i - 1].time_us);
    require(qc_trace_distinct(record, n, &out, &n_out, NULL) == 0);
    require(n_out <= 2 * n && (n == 0 || n_out > 0));
    for (size_t i = 0; i < n_out; i++) {
        require(qc_trace_record_ok(&out[i]) && (i == 0 || out[i].time_us >= out[i - 1].time_us));
        bytes += out[i].length;
    }
    require(bytes <= INT64_MAX); /* each at most once */
    qc_free(out);
}

static void use(const uint8_t *p, size_t size)
{
    size_t at = QC_TRACE_HEADER_BYTES, n = 0, length;
    struct qc_trace_header h;
    uint64_t lost;
    uint32_t got;

    if (qc_trace_get_header(&h, p, size, NULL) != 0)
        return;
    require(h.disk_size <= INT64_MAX);
    while (n < MOST_RECORDS && (length = qc_trace_get_block(record + n, &got, &lost, p + at, size - at)) > 0) {
        require(length <= size - at && got > 0 && got <= QC_TRACE_BLOCK_RECORDS);
        for (uint32_t i = 0; i < got; i++)
            require(qc_trace_record_ok(&record[n + i]) &&
                    (i == 0 || record[n + i].time_us >= record[n + i - 1].time_us));
        write_again(record + n, got, lost);
        n += got;
        at += length;
    }
    order(n);
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
    mend(copy, size, data[0]);
    use(copy, size);
    free(copy);
    return 0;
}
