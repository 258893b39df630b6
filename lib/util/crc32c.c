/* SPDX-License-Identifier: MIT */
#include "util/crc32c.h"

#include <string.h>

/* As in sha256.c, the C library knows what the processor can. */
#if defined(__x86_64__) && defined(__has_include)
#if __has_include(<sys/platform/x86.h>)
#include <immintrin.h>
#include <sys/platform/x86.h>
#define HAVE_CRC32 1
#endif
#endif

/* An entry is linear in the bits of its number: the checksum of each bit, given
 * here, makes all of them. Slice k is a byte with k zero bytes behind it. */
#define ENTRY(n, a, b, c, d, e, f, g, h)                                                           \
    (((n) & 1 ? a : 0) ^ ((n) & 2 ? b : 0) ^ ((n) & 4 ? c : 0) ^ ((n) & 8 ? d : 0) ^               \
     ((n) & 16 ? e : 0) ^ ((n) & 32 ? f : 0) ^ ((n) & 64 ? g : 0) ^ ((n) & 128 ? h : 0))
#define FOUR(n, ...)                                                                               \
    ENTRY(n, __VA_ARGS__), ENTRY(n + 1, __VA_ARGS__), ENTRY(n + 2, __VA_ARGS__),                   \
        ENTRY(n + 3, __VA_ARGS__)
#define SIXTEEN(n, ...)                                                                            \
    FOUR(n, __VA_ARGS__), FOUR(n + 4, __VA_ARGS__), FOUR(n + 8, __VA_ARGS__),                      \
        FOUR(n + 12, __VA_ARGS__)
#define SIXTY_FOUR(n, ...)                                                                         \
    SIXTEEN(n, __VA_ARGS__), SIXTEEN(n + 16, __VA_ARGS__), SIXTEEN(n + 32, __VA_ARGS__),           \
        SIXTEEN(n + 48, __VA_ARGS__)
#define SLICE(...)                                                                                 \
    {                                                                                              \
        SIXTY_FOUR(0, __VA_ARGS__), SIXTY_FOUR(64, __VA_ARGS__), SIXTY_FOUR(128, __VA_ARGS__),     \
            SIXTY_FOUR(192, __VA_ARGS__)                                                           \
    }

static const uint32_t slice[8][256] = {
    SLICE(0xf26b8303, 0xe13b70f7, 0xc79a971f, 0x8ad958cf,
          0x105ec76f, 0x20bd8ede, 0x417b1dbc, 0x82f63b78),
    SLICE(0x13a29877, 0x274530ee, 0x4e8a61dc, 0x9d14c3b8,
          0x3fc5f181, 0x7f8be302, 0xff17c604, 0xfbc3faf9),
    SLICE(0xa541927e, 0x4f6f520d, 0x9edea41a, 0x38513ec5,
          0x70a27d8a, 0xe144fb14, 0xc76580d9, 0x8b277743),
    SLICE(0xdd45aab8, 0xbf672381, 0x7b2231f3, 0xf64463e6,
          0xe964b13d, 0xd725148b, 0xaba65fe7, 0x52a0c93f),
    SLICE(0x38116fac, 0x7022df58, 0xe045beb0, 0xc5670b91,
          0x8f2261d3, 0x1ba8b557, 0x37516aae, 0x6ea2d55c),
    SLICE(0xef306b19, 0xdb8ca0c3, 0xb2f53777, 0x6006181f,
          0xc00c303e, 0x85f4168d, 0x0e045beb, 0x1c08b7d6),
    SLICE(0x68032cc8, 0xd0065990, 0xa5e0c5d1, 0x4e2dfd53,
          0x9c5bfaa6, 0x3d5b83bd, 0x7ab7077a, 0xf56e0ef4),
    SLICE(0x493c7d27, 0x9278fa4e, 0x211d826d, 0x423b04da,
          0x847609b4, 0x0d006599, 0x1a00cb32, 0x34019664),
};

/* The next eight bytes; all machines this is built for are little-endian. */
static inline uint64_t load64(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return v;
}

static uint32_t continue_plain(uint32_t crc, const uint8_t *p, size_t n)
{
    for (; n >= 8; p += 8, n -= 8) {
        uint64_t v = load64(p) ^ crc;

        crc = slice[7][v & 0xff] ^ slice[6][v >> 8 & 0xff] ^ slice[5][v >> 16 & 0xff] ^
              slice[4][v >> 24 & 0xff] ^ slice[3][v >> 32 & 0xff] ^ slice[2][v >> 40 & 0xff] ^
              slice[1][v >> 48 & 0xff] ^ slice[0][v >> 56];
    }
    for (; n > 0; p++, n--)
        crc = crc >> 8 ^ slice[0][(crc ^ *p) & 0xff];
    return crc;
}

#ifdef HAVE_CRC32
__attribute__((target("sse4.2"))) static uint32_t continue_sse42(uint32_t crc, const uint8_t *p,
                                                                 size_t n)
{
    uint64_t v = crc;

    for (; n >= 8; p += 8, n -= 8)
        v = _mm_crc32_u64(v, load64(p));
    crc = (uint32_t)v;
    for (; n > 0; p++, n--)
        crc = _mm_crc32_u8(crc, *p);
    return crc;
}

/* Checksum crc as if zeros were behind it: so many as `by`, x^(8 zeros - 33), says. The product of two
 * reflected polynomials lacks a factor x, and the instruction multiplies by x^32. */
__attribute__((target("sse4.2,pclmul"))) static inline uint64_t behind(uint64_t crc, uint32_t by)
{
    __m128i product = _mm_clmulepi64_si128(_mm_cvtsi64_si128((int64_t)crc),
                                           _mm_cvtsi32_si128((int32_t)by), 0);

    return _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(product));
}

/* Three stretches side by side: the instruction takes three cycles, but one can be begun in each. */
__attribute__((target("sse4.2,pclmul"))) static inline uint32_t three(uint32_t crc, const uint8_t *p,
                                                                      size_t each, uint32_t by_one,
                                                                      uint32_t by_two)
{
    uint64_t a = crc, b = 0, c = 0;

    for (size_t i = 0; i < each; i += 8) {
        a = _mm_crc32_u64(a, load64(p + i));
        b = _mm_crc32_u64(b, load64(p + i + each));
        c = _mm_crc32_u64(c, load64(p + i + 2 * each));
    }
    return (uint32_t)(behind(a, by_two) ^ behind(b, by_one) ^ c);
}

/* LONG: three and 16 bytes are 4 KiB. */
#define LONG 1360
#define SHORT 160

__attribute__((target("sse4.2,pclmul"))) static uint32_t continue_three(uint32_t crc,
                                                                        const uint8_t *p, size_t n)
{
    for (; n >= 3 * LONG; p += 3 * LONG, n -= 3 * LONG)
        crc = three(crc, p, LONG, 0x3f70cc6f, 0x5aa1f3cf);
    for (; n >= 3 * SHORT; p += 3 * SHORT, n -= 3 * SHORT)
        crc = three(crc, p, SHORT, 0x878a92a7, 0xbac2fd7b);
    return continue_sse42(crc, p, n);
}
#endif

uint32_t qc_crc32c(uint32_t crc, const void *p, size_t n)
{
#ifdef HAVE_CRC32
    if (CPU_FEATURE_ACTIVE(SSE4_2) && CPU_FEATURE_ACTIVE(PCLMULQDQ))
        return ~continue_three(~crc, p, n);
    if (CPU_FEATURE_ACTIVE(SSE4_2))
        return ~continue_sse42(~crc, p, n);
#endif
    return ~continue_plain(~crc, p, n);
}
