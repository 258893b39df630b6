/* SPDX-License-Identifier: MIT */
#include "util/bytes.h"

bool qc_is_zero(const void *p, size_t len)
{
    const unsigned char *b = p;
    uint64_t w[8];

    /* Eight words at a time; the compiler makes vectors of it. */
    while (len >= sizeof(w)) {
        memcpy(w, b, sizeof(w));
        if (w[0] | w[1] | w[2] | w[3] | w[4] | w[5] | w[6] | w[7])
            return false;
        b += sizeof(w);
        len -= sizeof(w);
    }
    while (len--)
        if (*b++)
            return false;
    return true;
}
