/* SPDX-License-Identifier: MIT */
/* The one place where the library takes memory, so that tests can make it fail
 * (by wrapping these symbols at link time). Sizes are checked for overflow. */
#ifndef QC_UTIL_ALLOC_H
#define QC_UTIL_ALLOC_H

#include <stdarg.h>
#include <stddef.h>

void *qc_malloc(size_t size);
void *qc_calloc(size_t n, size_t size);            /* zeroed */
void *qc_realloc(void *p, size_t n, size_t size);  /* n * size, checked */
void *qc_aligned(size_t align, size_t size);       /* align: a power of two */
void  qc_free(void *p);
char *qc_strdup(const char *s);
char *qc_strndup(const char *s, size_t n);
char *qc_asprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
