/* SPDX-License-Identifier: MIT */
/* SHA-256 (FIPS 180-4); none of the libraries we may use has one. */
#ifndef QC_UTIL_SHA256_H
#define QC_UTIL_SHA256_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct qc_sha256 {
    uint32_t state[8];
    uint64_t length;
    uint8_t  block[64];
    size_t   used;
    bool     accelerated; /* the processor has instructions for it */
};

void qc_sha256_init(struct qc_sha256 *h);
void qc_sha256_update(struct qc_sha256 *h, const void *p, size_t len);
void qc_sha256_finish(struct qc_sha256 *h, uint8_t digest[32]);

/* HMAC (RFC 2104) with it. */
void qc_hmac_sha256(const void *key, size_t key_len, const void *p, size_t len, uint8_t digest[32]);

#endif
