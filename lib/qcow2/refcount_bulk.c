/* SPDX-License-Identifier: MIT */
/* Counting long stretches of clusters: a snapshot counts all that a disk has. */
#include "qcow2/refcount_bulk.h"

#include "qcow2/writer_int.h"
#include "util/bytes.h"

#define COUNT_MAX 0xffffu
#define LOW UINT64_C(0x0001000100010001)
#define HIGH (LOW << 15)

/* Is one of four counts 0? */
static inline uint64_t zeros(uint64_t v)
{
    return (v - LOW) & ~v & HIGH;
}

/* Four counts, each in this machine's order. */
static inline uint64_t four(const uint8_t *p)
{
    uint64_t v;

    memcpy(&v, p, sizeof(v));
    return (v & 0xff * LOW) << 8 | (v >> 8 & 0xff * LOW);
}

/* Can n counts of 16 bits all be changed, with none of them becoming 0? *one: do all become 1? */
static bool is_simple(const uint8_t *p, uint64_t n, int delta, bool *one)
{
    uint64_t never = (delta > 0 ? COUNT_MAX : 1) * LOW, odd = 0, above = 0, i = 0; /* nor may one be 0 */

    for (; i + 4 <= n; i += 4) {
        uint64_t v = four(p + 2 * i);

        odd |= zeros(v) | zeros(v ^ never);
        above |= v ^ 2 * LOW;
    }
    for (; i < n; i++) {
        uint16_t v = qc_be16(p + 2 * i);

        odd |= v == 0 || v == (uint16_t)never;
        above |= v ^ 2u;
    }
    *one = delta < 0 && above == 0;
    return odd == 0;
}

static void add(uint8_t *p, uint64_t n, int delta)
{
    uint64_t i = 0;

    for (; i + 4 <= n; i += 4) {
        uint64_t v = four(p + 2 * i) + (uint64_t)delta * LOW; /* none of them carries: see is_simple */

        v = (v & 0xff * LOW) << 8 | (v >> 8 & 0xff * LOW);
        memcpy(p + 2 * i, &v, sizeof(v));
    }
    for (; i < n; i++) {
        uint16_t v = __builtin_bswap16((uint16_t)(qc_be16(p + 2 * i) + delta));

        memcpy(p + 2 * i, &v, 2);
    }
}

/* Those of n counts from the cluster on that lie in one slice, *some; false if it takes more care. */
static bool add_simply(struct qc2_writer *w, uint64_t cluster, uint64_t n, int delta, uint64_t *some, bool *one)
{
    uint64_t per_slice = w->slice_bytes / 2;
    struct qc2_slice *s;
    uint32_t number;
    bool ok;

    if (w->counts->order != 4)
        return false;
    if (qc2_count_slice(w, cluster, &s, &number, NULL) < 0 || !s)
        return false;
    *some = qc_min64(n, per_slice - number);
    ok = is_simple(s->data + 2 * number, *some, delta, one);
    if (ok) {
        add(s->data + 2 * number, *some, delta);
        qc2_slice_dirty(w, s, QC2_COUNTS);
    }
    qc2_slice_put(w, s);
    return ok;
}

int qc2_refcount_add_many(struct qc2_writer *w, uint64_t host, uint64_t length, int delta, bool *one,
                          qchain_error *err)
{
    unsigned bits = w->q->header.cluster_bits;
    uint64_t first = host >> bits, n = length >> bits, done = 0, some = 0;
    int rc = QCHAIN_OK;

    *one = true;
    while (done < n && rc == 0) {
        bool become_one = false;

        if (!add_simply(w, first + done, n - done, delta, &some, &become_one)) {
            some = qc_min64(n - done, 256);
            become_one = false;
            rc = qc2_refcount_add(w, (first + done) << bits, some << bits, delta, err);
        }
        *one &= become_one;
        if (rc == 0)
            done += some;
    }
    if (rc < 0 && done > 0)
        qc2_refcount_add_many(w, host, done << bits, -delta, &(bool){false}, NULL);
    return rc;
}
