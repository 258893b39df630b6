/* SPDX-License-Identifier: MIT */
#include "util/alloc.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *qc_malloc(size_t size)
{
    return malloc(size ? size : 1);
}

void *qc_calloc(size_t n, size_t size)
{
    return calloc(n ? n : 1, size ? size : 1);
}

void *qc_realloc(void *p, size_t n, size_t size)
{
    size_t total;

    if (__builtin_mul_overflow(n, size, &total))
        return NULL;
    return realloc(p, total ? total : 1);
}

void *qc_aligned(size_t align, size_t size)
{
    void *p;

    return posix_memalign(&p, align < sizeof(void *) ? sizeof(void *) : align,
                          size ? size : 1) == 0 ? p : NULL;
}

void qc_free(void *p)
{
    free(p);
}

char *qc_strndup(const char *s, size_t n)
{
    size_t len = strnlen(s, n);
    char *copy = qc_malloc(len + 1);

    if (!copy)
        return NULL;
    memcpy(copy, s, len);
    copy[len] = '\0';
    return copy;
}

char *qc_strdup(const char *s)
{
    return qc_strndup(s, SIZE_MAX - 1);
}

char *qc_asprintf(const char *fmt, ...)
{
    va_list ap;
    char *text;
    int len;

    va_start(ap, fmt);
    len = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    if (len < 0)
        return NULL;
    text = qc_malloc((size_t)len + 1);
    if (!text)
        return NULL;
    va_start(ap, fmt);
    vsnprintf(text, (size_t)len + 1, fmt, ap);
    va_end(ap);
    return text;
}
