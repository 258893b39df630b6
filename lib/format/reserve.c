/* SPDX-License-Identifier: MIT */
#include "format/reserve.h"

#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"

#define PIECE (2u << 20)

static int write_zeros(struct qc_store *store, uint64_t length, uint64_t offset, qchain_error *err)
{
    char *buf = qc_aligned(4096, PIECE);
    int ret = 0;

    if (!buf)
        return qc_fail_nomem(err);
    memset(buf, 0, PIECE);
    while (ret == 0 && length > 0) {
        size_t n = (size_t)qc_min64(length, PIECE - offset % PIECE);

        ret = qc_store_write(store, buf, n, offset, err);
        offset += n;
        length -= n;
    }
    qc_free(buf);
    return ret;
}

int qc_reserve(struct qc_store *store, uint64_t length, uint64_t offset, uint32_t how, qchain_error *err)
{
    if (length == 0)
        return QCHAIN_OK;
    if (how == QCHAIN_PREALLOC_FULL)
        return write_zeros(store, length, offset, err);
    return how == QCHAIN_PREALLOC_FALLOC ? qc_store_zero(store, length, offset, false, err) : QCHAIN_OK;
}
