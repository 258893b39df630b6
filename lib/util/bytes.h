/* SPDX-License-Identifier: MIT */
/* Big-endian loads and stores, and overflow-checked arithmetic. */
#ifndef QC_UTIL_BYTES_H
#define QC_UTIL_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t qc_be16(const void *p)
{
    uint16_t v;

    memcpy(&v, p, sizeof(v));
    return __builtin_bswap16(v);
}

static inline uint32_t qc_be32(const void *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof(v));
    return __builtin_bswap32(v);
}

static inline uint64_t qc_be64(const void *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return __builtin_bswap64(v);
}

static inline void qc_put_be16(void *p, uint16_t v)
{
    v = __builtin_bswap16(v);
    memcpy(p, &v, sizeof(v));
}

static inline void qc_put_be32(void *p, uint32_t v)
{
    v = __builtin_bswap32(v);
    memcpy(p, &v, sizeof(v));
}

static inline void qc_put_be64(void *p, uint64_t v)
{
    v = __builtin_bswap64(v);
    memcpy(p, &v, sizeof(v));
}

/* *sum = a + b; false on overflow. */
static inline bool qc_add_ok(uint64_t a, uint64_t b, uint64_t *sum)
{
    return !__builtin_add_overflow(a, b, sum);
}

/* *product = a * b; false on overflow. */
static inline bool qc_mul_ok(uint64_t a, uint64_t b, uint64_t *product)
{
    return !__builtin_mul_overflow(a, b, product);
}

static inline uint64_t qc_min64(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static inline uint64_t qc_max64(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Round to a power of two; callers keep v + align within 64 bits. */
static inline uint64_t qc_align_down(uint64_t v, uint64_t align)
{
    return v & ~(align - 1);
}

static inline uint64_t qc_align_up(uint64_t v, uint64_t align)
{
    return (v + align - 1) & ~(align - 1);
}

static inline uint64_t qc_div_up(uint64_t v, uint64_t by)
{
    return v / by + (v % by != 0);
}

/* True if all len bytes are zero. */
bool qc_is_zero(const void *p, size_t len);

#endif
