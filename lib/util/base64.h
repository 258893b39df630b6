/* SPDX-License-Identifier: MIT */
/* Base64 (RFC 4648, 4), with padding. */
#ifndef QC_UTIL_BASE64_H
#define QC_UTIL_BASE64_H

#include <stddef.h>
#include <stdint.h>

/* NULL: no memory. Free with qc_free. */
char *qc_base64_encode(const void *p, size_t len);
/* The bytes that s stands for, at most 3/4 of its length, into out. -1 if it is not base64: other
 * characters (blanks too), padding that is missing or wrong, bits behind the last byte that are set. */
int   qc_base64_decode(const char *s, uint8_t *out, size_t *len);

#endif
