/* SPDX-License-Identifier: MIT */
/* Memory that fails when a test says so: in place of util/alloc.c, which is not linked then. */
#ifndef FAILING_MEMORY_H
#define FAILING_MEMORY_H

#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/alloc.h"

static atomic_int fail_in = -1; /* so many succeed, then one fails; < 0: none */
static atomic_int fail_every;   /* one of so many; 0: none */
static atomic_uint failed, n_asked;

static atomic_size_t largest;   /* that qc_malloc was asked for */

static bool fails_now(void)
{
    unsigned n = atomic_fetch_add(&n_asked, 1);
    int every = atomic_load(&fail_every);
    bool fails = every && n % (unsigned)every == 0;

    if (atomic_load(&fail_in) >= 0)
        fails |= atomic_fetch_sub(&fail_in, 1) == 0;
    atomic_fetch_add(&failed, fails);
    return fails;
}

void *qc_malloc(size_t size)
{
    if (size > atomic_load(&largest))
        atomic_store(&largest, size);
    return fails_now() ? NULL : malloc(size ? size : 1);
}

void *qc_calloc(size_t n, size_t size)
{
    return fails_now() ? NULL : calloc(n ? n : 1, size ? size : 1);
}

void *qc_realloc(void *p, size_t n, size_t size)
{
    return fails_now() ? NULL : realloc(p, n && size ? n * size : 1);
}

void *qc_aligned(size_t align, size_t size)
{
    void *p;

    if (fails_now())
        return NULL;
    return posix_memalign(&p, align < sizeof(p) ? sizeof(p) : align, size ? size : 1) == 0 ? p : NULL;
}

void qc_free(void *p)
{
    free(p);
}

char *qc_strndup(const char *s, size_t n)
{
    return fails_now() ? NULL : strndup(s, n);
}

char *qc_strdup(const char *s)
{
    return fails_now() ? NULL : strdup(s);
}

char *qc_asprintf(const char *fmt, ...)
{
    char *text;
    va_list ap;
    int n;

    if (fails_now())
        return NULL;
    va_start(ap, fmt);
    n = vasprintf(&text, fmt, ap);
    va_end(ap);
    return n < 0 ? NULL : text;
}

#endif
