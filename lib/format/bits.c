/* SPDX-License-Identifier: MIT */
#include "format/bits.h"

#include <string.h>

#include "util/alloc.h"
#include "util/bytes.h"

#define CHUNK_BITS (QC_BITS_CHUNK * 8u)
#define CHUNK_WORDS (QC_BITS_CHUNK / 8u)

static qc_word ones[1]; /* its address marks a chunk of nothing but ones */

static size_t chunks_of(uint64_t n)
{
    return (size_t)qc_div_up(n, CHUNK_BITS);
}

struct qc_bits *qc_bits_create(uint64_t n)
{
    struct qc_bits *b = qc_calloc(1, sizeof(*b));

    if (b && !qc_bits_resize(b, n)) {
        qc_free(b);
        return NULL;
    }
    return b;
}

static void free_chunk(struct qc_bits *b, size_t i)
{
    qc_word *p = atomic_load_explicit(&b->chunk[i], memory_order_relaxed);

    if (p != ones)
        qc_free((void *)p);
    atomic_store_explicit(&b->chunk[i], NULL, memory_order_relaxed);
}

void qc_bits_destroy(struct qc_bits *b)
{
    if (!b)
        return;
    qc_bits_clear(b);
    qc_free(b->chunk);
    qc_free(b);
}

/* ---------------------------------------------------------------------- set --- */

/* Bits [first, end) of a word's 64 that lie in word w. */
static uint64_t mask_of(uint32_t w, uint32_t first, uint32_t end)
{
    uint64_t mask = UINT64_MAX;

    if (w == first / 64)
        mask <<= first % 64;
    if (w == (end - 1) / 64)
        mask &= UINT64_MAX >> (63 - (end - 1) % 64);
    return mask;
}

static bool set_words(qc_word *p, uint32_t first, uint32_t end)
{
    bool changed = false;

    for (uint32_t w = first / 64; w <= (end - 1) / 64; w++) {
        uint64_t mask = mask_of(w, first, end);

        if ((atomic_load_explicit(&p[w], memory_order_relaxed) & mask) == mask)
            continue;
        atomic_fetch_or_explicit(&p[w], mask, memory_order_relaxed);
        changed = true;
    }
    return changed;
}

/* Part of a chunk; others may be at it. */
static bool set_chunk(struct qc_bits *b, size_t i, uint32_t first, uint32_t end)
{
    qc_word *p = atomic_load_explicit(&b->chunk[i], memory_order_acquire), *new;

    if (p == ones)
        return false;
    if (p)
        return set_words(p, first, end);
    new = end - first == CHUNK_BITS ? ones : qc_calloc(CHUNK_WORDS, sizeof(*new));
    if (!new)
        new = ones;
    if (new != ones)
        set_words(new, first, end);
    if (atomic_compare_exchange_strong(&b->chunk[i], &p, new))
        return true;
    if (new != ones)
        qc_free((void *)new);
    return p == ones ? false : set_words(p, first, end);
}

bool qc_bits_set(struct qc_bits *b, uint64_t first, uint64_t end)
{
    bool changed = false;
    uint64_t stop;

    end = qc_min64(end, b->n);
    for (; first < end; first = stop) {
        stop = qc_min64(end, (first / CHUNK_BITS + 1) * CHUNK_BITS);
        changed |= set_chunk(b, (size_t)(first / CHUNK_BITS), (uint32_t)(first % CHUNK_BITS),
                             (uint32_t)((stop - 1) % CHUNK_BITS) + 1);
    }
    return changed;
}

void qc_bits_clear(struct qc_bits *b)
{
    for (size_t i = 0; i < b->n_chunks; i++)
        free_chunk(b, i);
}

/* --------------------------------------------------------------------- look --- */

/* The first bit >= from of a chunk that has a value; CHUNK_BITS: none. */
static uint32_t next_in(const qc_word *p, uint32_t from, bool value)
{
    uint64_t flip = value ? 0 : UINT64_MAX, word;

    for (uint32_t w = from / 64; w < CHUNK_WORDS; w++) {
        word = atomic_load_explicit(&p[w], memory_order_relaxed) ^ flip;
        if (w == from / 64)
            word &= UINT64_MAX << from % 64;
        if (word)
            return w * 64 + (uint32_t)__builtin_ctzll(word);
    }
    return CHUNK_BITS;
}

uint64_t qc_bits_next(const struct qc_bits *b, uint64_t from, bool value)
{
    while (from < b->n) {
        const qc_word *p = atomic_load_explicit(&b->chunk[from / CHUNK_BITS], memory_order_acquire);
        uint32_t at = (uint32_t)(from % CHUNK_BITS);

        if (!p || p == ones)
            at = (p == ones) == value ? at : CHUNK_BITS;
        else
            at = next_in(p, at, value);
        from = qc_align_down(from, CHUNK_BITS) + at;
        if (at < CHUNK_BITS)
            break;
    }
    return qc_min64(from, b->n);
}

/* --------------------------------------------------------------------- size --- */

/* What is beyond the last bit must be clear, should there be more of them one day. */
static void cut(struct qc_bits *b)
{
    uint32_t end = (uint32_t)(b->n % CHUNK_BITS);
    size_t i = b->n_chunks - 1;
    qc_word *p;

    if (end == 0)
        return;
    p = atomic_load_explicit(&b->chunk[i], memory_order_relaxed);
    if (p == ones) {
        p = qc_calloc(CHUNK_WORDS, sizeof(*p));
        if (!p)
            return; /* more are set than were */
        set_words(p, 0, end);
        atomic_store_explicit(&b->chunk[i], p, memory_order_relaxed);
    } else if (p) {
        atomic_fetch_and_explicit(&p[end / 64], ~(UINT64_MAX << end % 64), memory_order_relaxed);
        for (uint32_t w = end / 64 + 1; w < CHUNK_WORDS; w++)
            atomic_store_explicit(&p[w], 0, memory_order_relaxed);
    }
}

bool qc_bits_resize(struct qc_bits *b, uint64_t n)
{
    size_t need = chunks_of(n);
    _Atomic(qc_word *) *chunk;

    if (need > b->n_chunks) {
        chunk = qc_calloc(need, sizeof(*chunk));
        if (!chunk)
            return false;
        for (size_t i = 0; i < b->n_chunks; i++)
            atomic_init(&chunk[i], atomic_load_explicit(&b->chunk[i], memory_order_relaxed));
        qc_free(b->chunk);
        b->chunk = chunk;
    }
    for (size_t i = need; i < b->n_chunks; i++)
        free_chunk(b, i);
    b->n_chunks = need;
    if (n < b->n) {
        b->n = n;
        cut(b);
    }
    b->n = n;
    return true;
}

/* -------------------------------------------------------------------- bytes --- */

bool qc_bits_load(struct qc_bits *b, uint64_t at, const uint8_t *p, size_t len)
{
    uint64_t end = qc_min64(at + len, qc_div_up(b->n, 8)), stop;

    for (; at < end; p += stop - at, at = stop) {
        size_t i = (size_t)(at / QC_BITS_CHUNK);
        qc_word *chunk = atomic_load_explicit(&b->chunk[i], memory_order_relaxed);

        stop = qc_min64(end, (i + 1) * (uint64_t)QC_BITS_CHUNK);
        if (qc_is_zero(p, (size_t)(stop - at)))
            continue;
        if (!chunk) {
            chunk = qc_calloc(CHUNK_WORDS, sizeof(*chunk));
            if (!chunk)
                return false;
            atomic_store_explicit(&b->chunk[i], chunk, memory_order_relaxed);
        }
        if (chunk != ones) /* words are kept with their lowest byte first, as the bytes are */
            memcpy((uint8_t *)chunk + at % QC_BITS_CHUNK, p, (size_t)(stop - at));
    }
    if (b->n > 0)
        cut(b);
    return true;
}

void qc_bits_store(const struct qc_bits *b, uint64_t at, uint8_t *p, size_t len)
{
    uint64_t first = at * 8, end = qc_min64(b->n, (at + len) * 8), stop;

    memset(p, 0, len);
    for (first = qc_bits_next(b, first, true); first < end; first = qc_bits_next(b, stop, true)) {
        stop = qc_min64(qc_bits_next(b, first, false), end);
        for (uint64_t i = first; i < stop; i++) {
            if (i % 8 == 0 && stop - i >= 8) {
                size_t whole = (size_t)((stop - i) / 8);

                memset(p + (i / 8 - at), 0xff, whole);
                i += whole * 8 - 1;
            } else {
                p[i / 8 - at] |= (uint8_t)(1u << i % 8);
            }
        }
    }
}
