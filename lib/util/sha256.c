/* SPDX-License-Identifier: MIT */
#include "util/sha256.h"

#include <string.h>

#include "util/bytes.h"

/* The C library knows what the processor can; asking it ourselves would need a
 * variable of the process to remember. */
#if defined(__x86_64__) && defined(__has_include)
#if __has_include(<sys/platform/x86.h>)
#include <immintrin.h>
#include <sys/platform/x86.h>
#define HAVE_SHA_NI 1
#endif
#endif

static const uint32_t round_constant[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static inline uint32_t ror(uint32_t v, unsigned by)
{
    return v >> by | v << (32 - by);
}

/* One round; the caller rotates the names instead of the values. */
#define ROUND(a, b, c, d, e, f, g, h, i)                                                           \
    do {                                                                                           \
        uint32_t t = (h) + (ror(e, 6) ^ ror(e, 11) ^ ror(e, 25)) + (((e) & (f)) ^ (~(e) & (g))) +  \
                     round_constant[i] + w[i];                                                     \
        (d) += t;                                                                                  \
        (h) = t + (ror(a, 2) ^ ror(a, 13) ^ ror(a, 22)) +                                          \
              (((a) & (b)) ^ ((a) & (c)) ^ ((b) & (c)));                                           \
    } while (0)

static void compress_plain(uint32_t state[8], const uint8_t *p)
{
    uint32_t w[64];
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3];
    uint32_t e = state[4], f = state[5], g = state[6], h = state[7];

    for (int i = 0; i < 16; i++)
        w[i] = qc_be32(p + 4 * i);
    for (int i = 16; i < 64; i++)
        w[i] = w[i - 16] + w[i - 7] +
               (ror(w[i - 15], 7) ^ ror(w[i - 15], 18) ^ w[i - 15] >> 3) +
               (ror(w[i - 2], 17) ^ ror(w[i - 2], 19) ^ w[i - 2] >> 10);
    for (int i = 0; i < 64; i += 8) {
        ROUND(a, b, c, d, e, f, g, h, i);
        ROUND(h, a, b, c, d, e, f, g, i + 1);
        ROUND(g, h, a, b, c, d, e, f, i + 2);
        ROUND(f, g, h, a, b, c, d, e, i + 3);
        ROUND(e, f, g, h, a, b, c, d, i + 4);
        ROUND(d, e, f, g, h, a, b, c, i + 5);
        ROUND(c, d, e, f, g, h, a, b, i + 6);
        ROUND(b, c, d, e, f, g, h, a, i + 7);
    }
    state[0] += a;
    state[1] += b;
    state[2] += c;
    state[3] += d;
    state[4] += e;
    state[5] += f;
    state[6] += g;
    state[7] += h;
}

#ifdef HAVE_SHA_NI
/* The same with the processor's own instructions, ten times as fast. They keep
 * the state as two vectors, a b e f and c d g h. */
__attribute__((target("sha,sse4.1"))) static void compress_ni(uint32_t state[8], const uint8_t *p)
{
    const __m128i big_endian = _mm_set_epi64x(0x0c0d0e0f08090a0b, 0x0405060700010203);
    __m128i abcd = _mm_loadu_si128((const __m128i *)(const void *)state);
    __m128i efgh = _mm_loadu_si128((const __m128i *)(const void *)(state + 4));
    __m128i badc = _mm_shuffle_epi32(abcd, 0xb1), hgfe = _mm_shuffle_epi32(efgh, 0x1b);
    __m128i abef = _mm_alignr_epi8(badc, hgfe, 8), cdgh = _mm_blend_epi16(hgfe, badc, 0xf0);
    __m128i old_abef = abef, old_cdgh = cdgh, w[4], k, next;

    for (int i = 0; i < 4; i++)
        w[i] = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)(const void *)(p + 16 * i)),
                                big_endian);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) { /* four rounds each */
        k = _mm_loadu_si128((const __m128i *)(const void *)(round_constant + 4 * i));
        k = _mm_add_epi32(k, w[i & 3]);
        cdgh = _mm_sha256rnds2_epu32(cdgh, abef, k);
        abef = _mm_sha256rnds2_epu32(abef, cdgh, _mm_shuffle_epi32(k, 0x0e));
        if (i < 12) {
            next = _mm_sha256msg1_epu32(w[i & 3], w[(i + 1) & 3]);
            next = _mm_add_epi32(next, _mm_alignr_epi8(w[(i + 3) & 3], w[(i + 2) & 3], 4));
            w[i & 3] = _mm_sha256msg2_epu32(next, w[(i + 3) & 3]);
        }
    }
    abef = _mm_add_epi32(abef, old_abef);
    cdgh = _mm_add_epi32(cdgh, old_cdgh);
    hgfe = _mm_shuffle_epi32(abef, 0x1b); /* f e b a, from the top: in memory a b e f */
    badc = _mm_shuffle_epi32(cdgh, 0xb1);
    _mm_storeu_si128((__m128i *)(void *)state, _mm_blend_epi16(hgfe, badc, 0xf0));
    _mm_storeu_si128((__m128i *)(void *)(state + 4), _mm_alignr_epi8(badc, hgfe, 8));
}
#endif

static void compress(const struct qc_sha256 *h, uint32_t state[8], const uint8_t *p)
{
#ifdef HAVE_SHA_NI
    if (h->accelerated) {
        compress_ni(state, p);
        return;
    }
#endif
    (void)h;
    compress_plain(state, p);
}

void qc_sha256_init(struct qc_sha256 *h)
{
    static const uint32_t initial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};

    memcpy(h->state, initial, sizeof(initial));
    h->length = 0;
    h->used = 0;
    h->accelerated = false;
#ifdef HAVE_SHA_NI
    h->accelerated = CPU_FEATURE_ACTIVE(SHA) && CPU_FEATURE_ACTIVE(SSE4_1);
#endif
}

void qc_sha256_update(struct qc_sha256 *h, const void *p, size_t len)
{
    const uint8_t *b = p;
    size_t n;

    h->length += len;
    if (h->used) {
        n = len < 64 - h->used ? len : 64 - h->used;
        memcpy(h->block + h->used, b, n);
        h->used += n;
        b += n;
        len -= n;
        if (h->used < 64)
            return;
        compress(h, h->state, h->block);
        h->used = 0;
    }
    for (; len >= 64; b += 64, len -= 64)
        compress(h, h->state, b);
    memcpy(h->block, b, len);
    h->used = len;
}

void qc_sha256_finish(struct qc_sha256 *h, uint8_t digest[32])
{
    static const uint8_t padding[64] = {0x80};
    uint64_t bits = h->length * 8;
    uint8_t tail[8];

    for (int i = 0; i < 8; i++)
        tail[i] = (uint8_t)(bits >> (56 - 8 * i));
    qc_sha256_update(h, padding, h->used < 56 ? 56 - h->used : 120 - h->used);
    qc_sha256_update(h, tail, sizeof(tail));
    for (int i = 0; i < 32; i++)
        digest[i] = (uint8_t)(h->state[i / 4] >> (24 - 8 * (i % 4)));
}

void qc_hmac_sha256(const void *key, size_t key_len, const void *p, size_t len, uint8_t digest[32])
{
    uint8_t block[64] = {0}, inner[32];
    struct qc_sha256 h;

    qc_sha256_init(&h);
    if (key_len > sizeof(block)) {
        qc_sha256_update(&h, key, key_len);
        qc_sha256_finish(&h, block);
        qc_sha256_init(&h);
    } else if (key_len) {
        memcpy(block, key, key_len);
    }
    for (size_t i = 0; i < sizeof(block); i++)
        block[i] ^= 0x36;
    qc_sha256_update(&h, block, sizeof(block));
    qc_sha256_update(&h, p, len);
    qc_sha256_finish(&h, inner);
    for (size_t i = 0; i < sizeof(block); i++)
        block[i] ^= 0x36 ^ 0x5c;
    qc_sha256_init(&h);
    qc_sha256_update(&h, block, sizeof(block));
    qc_sha256_update(&h, inner, sizeof(inner));
    qc_sha256_finish(&h, digest);
    explicit_bzero(block, sizeof(block));
    explicit_bzero(&h, sizeof(h));
}
