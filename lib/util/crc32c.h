/* SPDX-License-Identifier: MIT */
/* CRC32C (Castagnoli; RFC 3720, appendix B.4): zlib has only the other polynomial. */
#ifndef QC_UTIL_CRC32C_H
#define QC_UTIL_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Continue a checksum over n more bytes; begin with 0. */
uint32_t qc_crc32c(uint32_t crc, const void *p, size_t n);
/* The same, and copy the bytes on the way. */
uint32_t qc_crc32c_copy(uint32_t crc, void *to, const void *p, size_t n);

#endif
