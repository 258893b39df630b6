/* SPDX-License-Identifier: MIT */
/* Strings from images, made fit for messages: no control bytes, no broken UTF-8. */
#ifndef QC_UTIL_ESCAPE_H
#define QC_UTIL_ESCAPE_H

#include <stddef.h>

#define QC_ESCAPE_MAX 300

/* A string for one message; use as qc_escape(&e, p, len). */
struct qc_escaped {
    char text[QC_ESCAPE_MAX];
};

/* Write p[0..len) into e, control bytes and invalid UTF-8 as \xNN, cut at 256
 * bytes with "...". Returns e->text. */
const char *qc_escape(struct qc_escaped *e, const char *p, size_t len);

/* The same for a NUL-terminated string; NULL gives "". */
const char *qc_escape_str(struct qc_escaped *e, const char *s);

/* The whole of a string, escaped without a limit; NULL when there is no memory.
 * Free with qc_free. */
char *qc_escape_dup(const char *p, size_t len);

#endif
