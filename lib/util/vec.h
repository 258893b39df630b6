/* SPDX-License-Identifier: MIT */
/* Growing arrays. */
#ifndef QC_UTIL_VEC_H
#define QC_UTIL_VEC_H

#include <stddef.h>
#include <stdint.h>

/* Make room for at least `need` elements of `size` bytes in *p, which has room
 * for *cap; grows by half. 0, or QCHAIN_E_NOMEM with nothing changed. */
int qc_grow(void **p, size_t *cap, size_t need, size_t size);

#endif
