/* SPDX-License-Identifier: MIT */
#include "util/crc32c.h"

#include <stdbool.h>
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

/* By how many bits a 128-bit lane is moved up the message: multiply its halves (the low one is first in
 * the message) by x^(bits + 63) and x^(bits - 1), in reflected form. */
static const int64_t by_2048[2] = {0xe9a5d8be00000000, 0x1426a81500000000};
static const int64_t by_512[2] = {0x1c19243b00000000, 0x75bba45b00000000};
/* Lane i is moved behind the last one. */
static const int64_t to_last[8] = {0xa46ef4aa00000000, 0x6051243f00000000,
                                   0x33ccbbbc00000000, 0xa2158b3400000000,
                                   0x3743f7bd00000000, 0x3171d43000000000, 0, 0};

static inline bool has_wide(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("vpclmulqdq") &&
           __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.2");
}

#define WIDE __attribute__((target("avx512f,vpclmulqdq,pclmul,sse4.2")))

WIDE static inline __m512i wide_load(const void *p)
{
    return _mm512_loadu_si512(p);
}

WIDE static inline __m512i wide_constant(const int64_t k[2])
{
    return _mm512_set_epi64(k[1], k[0], k[1], k[0], k[1], k[0], k[1], k[0]);
}

/* x moved up, and what lies there. */
WIDE static inline __m512i fold(__m512i x, __m512i by, __m512i there)
{
    return _mm512_ternarylogic_epi64(_mm512_clmulepi64_epi128(x, by, 0x00),
                                     _mm512_clmulepi64_epi128(x, by, 0x11), there, 0x96);
}

/* 64 bytes, and copy them if there is where to. */
WIDE static inline __m512i take(uint8_t *to, const uint8_t *p, size_t at)
{
    __m512i x = wide_load(p + at);

    if (to)
        _mm512_storeu_si512(to + at, x);
    return x;
}

/* Sixteen lanes side by side, for n >= 256; as in Gopal et al., Fast CRC Computation for Generic
 * Polynomials Using PCLMULQDQ (Intel, 2009). to: NULL, or where to copy the bytes. */
WIDE static inline uint32_t wide(uint32_t crc, uint8_t *to, const uint8_t *p, size_t n)
{
    __m512i by = wide_constant(by_2048), a, b, c, d;
    size_t at = 256;
    __m128i last;
    uint64_t v;

    a = _mm512_xor_si512(take(to, p, 0), _mm512_zextsi128_si512(_mm_cvtsi32_si128((int32_t)crc)));
    b = take(to, p, 64);
    c = take(to, p, 128);
    d = take(to, p, 192);
    for (; n - at >= 256; at += 256) {
        a = fold(a, by, take(to, p, at));
        b = fold(b, by, take(to, p, at + 64));
        c = fold(c, by, take(to, p, at + 128));
        d = fold(d, by, take(to, p, at + 192));
    }
    by = wide_constant(by_512);
    d = fold(fold(fold(a, by, b), by, c), by, d);
    for (; n - at >= 64; at += 64)
        d = fold(d, by, take(to, p, at));
    last = _mm512_extracti32x4_epi32(d, 3);
    a = fold(d, wide_load(to_last), _mm512_zextsi128_si512(last)); /* the last lane becomes nothing */
    last = _mm_xor_si128(_mm_xor_si128(_mm512_extracti32x4_epi32(a, 0),
                                       _mm512_extracti32x4_epi32(a, 1)),
                         _mm512_extracti32x4_epi32(a, 2));
    v = _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(last));
    v = _mm_crc32_u64(v, (uint64_t)_mm_extract_epi64(last, 1));
    if (to)
        memcpy(to + at, p + at, n - at);
    return continue_sse42((uint32_t)v, p + at, n - at);
}

WIDE static uint32_t continue_wide(uint32_t crc, const uint8_t *p, size_t n)
{
    return wide(crc, NULL, p, n);
}

WIDE static uint32_t copy_wide(uint32_t crc, uint8_t *to, const uint8_t *p, size_t n)
{
    return wide(crc, to, p, n);
}

/* Where registers have 32 bytes, folding is no faster than the instruction; but each keeps another part of
 * the processor busy, so both go on at once: of 4 KiB the first half is folded, in sixteen lanes as above,
 * while three stretches of the rest go through the instruction. */
#define MIXED __attribute__((target("avx2,vpclmulqdq,pclmul,sse4.2")))
#define MIXED_BYTES 4096
#define FOLDED 2048
#define STRETCH 680 /* three, and 8 bytes */
#define STEPS 96    /* bytes of a stretch that take as long as folding 256 does */

static inline bool has_mixed(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("vpclmulqdq") &&
           __builtin_cpu_supports("pclmul") && __builtin_cpu_supports("sse4.2");
}

/* 32 bytes, and copy them if there is where to. */
MIXED static inline __m256i half_take(uint8_t *to, const uint8_t *p, size_t at)
{
    __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)(p + at));

    if (to)
        _mm256_storeu_si256((__m256i *)(void *)(to + at), x);
    return x;
}

/* The same for eight bytes. */
static inline uint64_t word_take(uint8_t *to, const uint8_t *p, size_t at)
{
    uint64_t v = load64(p + at);

    if (to)
        memcpy(to + at, &v, sizeof(v));
    return v;
}

MIXED static inline __m256i half_constant(const int64_t k[2])
{
    return _mm256_set_epi64x(k[1], k[0], k[1], k[0]);
}

MIXED static inline __m256i half_fold(__m256i x, __m256i by, __m256i there)
{
    return _mm256_xor_si256(_mm256_xor_si256(_mm256_clmulepi64_epi128(x, by, 0x00),
                                             _mm256_clmulepi64_epi128(x, by, 0x11)), there);
}

/* The checksum of sixteen lanes, two a register, of which x[0] is the first in the message. */
MIXED static inline uint64_t gather(const __m256i x[8])
{
    __m256i by = half_constant(by_512), even = x[0], odd = x[1];
    __m128i first, last, k = _mm_set_epi64x(to_last[5], to_last[4]);
    uint64_t v;

    even = half_fold(half_fold(half_fold(even, by, x[2]), by, x[4]), by, x[6]);
    odd = half_fold(half_fold(half_fold(odd, by, x[3]), by, x[5]), by, x[7]);
    odd = half_fold(even, half_constant(to_last + 2), odd);
    first = _mm256_castsi256_si128(odd);
    last = _mm_xor_si128(_mm256_extracti128_si256(odd, 1), _mm_clmulepi64_si128(first, k, 0x00));
    last = _mm_xor_si128(last, _mm_clmulepi64_si128(first, k, 0x11));
    v = _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(last));
    return _mm_crc32_u64(v, (uint64_t)_mm_extract_epi64(last, 1));
}

/* to: NULL, or where to copy the bytes. */
MIXED static inline uint32_t mixed(uint32_t crc, uint8_t *to, const uint8_t *p)
{
    size_t q = FOLDED, end;
    __m256i by = half_constant(by_2048), x[8];
    uint64_t a = 0, b = 0, c = 0;

    x[0] = _mm256_xor_si256(half_take(to, p, 0), _mm256_set_epi64x(0, 0, 0, (int64_t)crc));
    x[1] = half_take(to, p, 32), x[2] = half_take(to, p, 64), x[3] = half_take(to, p, 96);
    x[4] = half_take(to, p, 128), x[5] = half_take(to, p, 160), x[6] = half_take(to, p, 192);
    x[7] = half_take(to, p, 224);
    for (size_t at = 256; at < FOLDED; at += 256) {
        x[0] = half_fold(x[0], by, half_take(to, p, at));
        x[1] = half_fold(x[1], by, half_take(to, p, at + 32));
        x[2] = half_fold(x[2], by, half_take(to, p, at + 64));
        x[3] = half_fold(x[3], by, half_take(to, p, at + 96));
        x[4] = half_fold(x[4], by, half_take(to, p, at + 128));
        x[5] = half_fold(x[5], by, half_take(to, p, at + 160));
        x[6] = half_fold(x[6], by, half_take(to, p, at + 192));
        x[7] = half_fold(x[7], by, half_take(to, p, at + 224));
        for (end = q + STEPS; q < end; q += 8) {
            a = _mm_crc32_u64(a, word_take(to, p, q));
            b = _mm_crc32_u64(b, word_take(to, p, q + STRETCH));
            c = _mm_crc32_u64(c, word_take(to, p, q + 2 * STRETCH));
        }
    }
    for (end = FOLDED + STRETCH; q < end; q += 8) {
        a = _mm_crc32_u64(a, word_take(to, p, q));
        b = _mm_crc32_u64(b, word_take(to, p, q + STRETCH));
        c = _mm_crc32_u64(c, word_take(to, p, q + 2 * STRETCH));
    }
    c ^= behind(gather(x), 0xae1175c2) ^ behind(a, 0x3f70cc6f) ^ behind(b, 0xe417f38a);
    return (uint32_t)_mm_crc32_u64(c, word_take(to, p, MIXED_BYTES - 8));
}

MIXED static uint32_t copy_mixed(uint32_t crc, uint8_t *to, const uint8_t *p)
{
    return mixed(crc, to, p);
}

MIXED static uint32_t continue_mixed(uint32_t crc, const uint8_t *p, size_t n)
{
    for (; n >= MIXED_BYTES; p += MIXED_BYTES, n -= MIXED_BYTES)
        crc = mixed(crc, NULL, p);
    return continue_three(crc, p, n);
}
#endif

uint32_t qc_crc32c(uint32_t crc, const void *p, size_t n)
{
#ifdef HAVE_CRC32
    if (n >= 256 && has_wide())
        return ~continue_wide(~crc, p, n);
    if (n >= MIXED_BYTES && has_mixed())
        return ~continue_mixed(~crc, p, n);
    if (CPU_FEATURE_ACTIVE(SSE4_2) && CPU_FEATURE_ACTIVE(PCLMULQDQ))
        return ~continue_three(~crc, p, n);
    if (CPU_FEATURE_ACTIVE(SSE4_2))
        return ~continue_sse42(~crc, p, n);
#endif
    return ~continue_plain(~crc, p, n);
}

uint32_t qc_crc32c_copy(uint32_t crc, void *to, const void *p, size_t n)
{
#ifdef HAVE_CRC32
    if (n >= 256 && has_wide())
        return ~copy_wide(~crc, to, p, n);
    if (n == MIXED_BYTES && has_mixed())
        return ~copy_mixed(~crc, to, p);
#endif
    memcpy(to, p, n);
    return qc_crc32c(crc, p, n);
}
