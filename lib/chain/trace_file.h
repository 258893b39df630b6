/* SPDX-License-Identifier: MIT */
/*
 * The bytes of a trace: what was read of a disk, and when. No I/O.
 *
 * All numbers are big-endian; checksums are CRC32C, over what they cover with themselves as zeros.
 *
 * Header, 64 bytes:
 *     0  8 bytes  "QCHAINTR"
 *     8  u32      version: 1
 *    12  u32      bytes of the header: 64
 *    16  u32      checksum of the header
 *    20  u32      which file of the recording it is, from 0: each begins anew with a header
 *    24  u64      bytes of the disk when the recording began, below 2^63. Told to people; records may lie past it
 *                 (the disk may have grown)
 *    32  u64      when the recording began, ns since the epoch
 *    40  16 bytes the recording's number, random: its files are told from others by it
 *    56  8 bytes  zeros
 * There is no name in it: a trace is of whatever disk the caller says.
 *
 * Then blocks, one behind the other up to the end of the file, each of a header of 32 bytes
 *     0  u32      0x5154424b, "QTBK"
 *     4  u32      checksum of the block, records included
 *     8  u32      bytes of the records, 4..32768
 *    12  u32      how many they are, 1..4096
 *    16  u64      base of their times, us since the recording began, below 2^63
 *    24  u64      reads that were lost before this block
 * and records, each of four LEB128 numbers of at most 64 bits in at most ten bytes:
 *     time in us less that of the record before (of the first: less the base)
 *     offset less the end of the record before (of the first: less 0), zigzag
 *     length, at least 1; the end of the record is below 2^63
 *     reads that it stands for, less 1
 *
 * Reading ends at the first block that is not whole and right: a writer that was killed leaves the beginning of
 * one at the end of the file.
 */
#ifndef QC_CHAIN_TRACE_FILE_H
#define QC_CHAIN_TRACE_FILE_H

#include <stddef.h>
#include <stdint.h>

#include "util/error.h"

#define QC_TRACE_HEAD 8u /* bytes that tell it from other files */
#define QC_TRACE_HEADER_BYTES 64u
#define QC_TRACE_BLOCK_HEADER_BYTES 32u
#define QC_TRACE_BODY_MAX 32768u
#define QC_TRACE_BLOCK_MAX (QC_TRACE_BLOCK_HEADER_BYTES + QC_TRACE_BODY_MAX)
#define QC_TRACE_BLOCK_RECORDS 4096u
#define QC_TRACE_BYTES_MAX (16u << 20) /* of all files that are read as one */
#define QC_TRACE_RECORDING_MAX (8u << 20) /* of one recording */
#define QC_TRACE_SUFFIX ".qctrace"
#define QC_TRACE_OLDER ".1" /* behind the name of the file before */

struct qc_trace_header {
    uint32_t part;
    uint64_t disk_size, began_ns;
    uint8_t  id[16];
};

/* Do bytes begin as a trace does? */
bool qc_trace_looks_so(const void *p, size_t n);
void qc_trace_put_header(uint8_t p[QC_TRACE_HEADER_BYTES], const struct qc_trace_header *h);
/* CORRUPT, UNSUPPORTED. */
int qc_trace_get_header(struct qc_trace_header *h, const uint8_t *p, size_t n, qchain_error *err);

/* Can it be in a file? */
bool qc_trace_record_ok(const qchain_trace_record *r);
/* One block with as many of n > 0 records as it can hold; they are right, and in order of time. *done receives how
 * many it holds, at least one. Returns its bytes. */
size_t qc_trace_put_block(uint8_t p[QC_TRACE_BLOCK_MAX], const qchain_trace_record *r, size_t n, uint64_t lost,
                          size_t *done);
/* The block that n bytes begin with: its bytes; 0 if it is not whole and right. */
size_t qc_trace_get_block(qchain_trace_record r[QC_TRACE_BLOCK_RECORDS], uint32_t *n_records, uint64_t *lost,
                          const uint8_t *p, size_t n);

/* Make a read part of one of n records, of which only the last few are looked at, if it begins within it or right
 * behind it, no more than `within` later, in the unit that their times have. */
bool qc_trace_join(qchain_trace_record *record, size_t n, const qchain_trace_record *r, uint64_t within);

#endif
