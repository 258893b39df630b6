/* SPDX-License-Identifier: MIT */
/* A place in a scattered buffer. */
#ifndef QC_CHAIN_PIECES_H
#define QC_CHAIN_PIECES_H

#include <qchain-backend.h>

#define QC_PIECES 64 /* of one call to a store */

struct qc_cursor {
    const qchain_iov *iov;
    size_t            at; /* bytes of *iov that are done */
};

static inline void qc_cursor_skip_done(struct qc_cursor *cur)
{
    while (cur->at == cur->iov->len) {
        cur->iov++;
        cur->at = 0;
    }
}

/* The next n bytes, at least one, as iovecs, at most max of them; *bytes receives how many. */
static inline size_t qc_cursor_take(struct qc_cursor *cur, uint64_t n, qchain_iov *out, size_t max,
                                    size_t *bytes)
{
    size_t got = 0, len;

    *bytes = 0;
    qc_cursor_skip_done(cur);
    while (n > 0 && got < max) {
        len = cur->iov->len - cur->at;
        if (len > n)
            len = (size_t)n;
        if (len > 0) {
            out[got].base = (char *)cur->iov->base + cur->at;
            out[got++].len = len;
        }
        cur->at += len;
        n -= len;
        *bytes += len;
        if (cur->at == cur->iov->len && n > 0) {
            cur->iov++;
            cur->at = 0;
        }
    }
    return got;
}

#endif
