/* SPDX-License-Identifier: MIT */
/* Error objects: set where the fault is found, prefixed on the way out. */
#ifndef QC_UTIL_ERROR_H
#define QC_UTIL_ERROR_H

#include <stdbool.h>
#include <qchain.h>

#define QC_ERROR_TEXT 1024

struct qchain_error {
    int      code;
    int      sys_errno;
    int      http_status;
    int64_t  layer;  /* -1: none */
    int64_t  offset; /* -1: none */
    char     text[QC_ERROR_TEXT];
};

/* Make an error on the stack usable. */
void qc_error_init(qchain_error *err);

/* Set err (may be NULL) to code with a sentence; returns code. */
int qc_fail(qchain_error *err, int code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The same for a failed system call: the code follows from the errno and
 * ": strerror" is appended. */
int qc_fail_errno(qchain_error *err, int errnum, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* No memory: never needs any. */
int qc_fail_nomem(qchain_error *err);

/* Remember the byte offset (in the layer's file) the failure belongs to. */
void qc_error_at(qchain_error *err, uint64_t offset);

/* Put "text" before the message and note the layer, going outward; does nothing
 * if err is NULL or holds no failure. layer -1 keeps what is there. */
void qc_error_prefix(qchain_error *err, int64_t layer, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* Copy src's failure into dst (either may be NULL). */
void qc_error_copy(qchain_error *dst, const qchain_error *src);

/* The code that stands for an errno. */
int qc_code_of_errno(int errnum);

#endif
