/* SPDX-License-Identifier: MIT */
#include "util/vec.h"

#include <qchain.h>

#include "util/alloc.h"

int qc_grow(void **p, size_t *cap, size_t need, size_t size)
{
    size_t want;
    void *bigger;

    if (need <= *cap)
        return 0;
    want = *cap + *cap / 2 < need ? need : *cap + *cap / 2;
    if (want < 16)
        want = 16;
    bigger = qc_realloc(*p, want, size);
    if (!bigger)
        return QCHAIN_E_NOMEM;
    *p = bigger;
    *cap = want;
    return 0;
}
