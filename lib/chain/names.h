/* SPDX-License-Identifier: MIT */
/* Names of layers: how they are written, and what they are relative to. */
#ifndef QC_CHAIN_NAMES_H
#define QC_CHAIN_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <qchain.h>

/* What a name says. Strings are owned. */
struct qc_name {
    char *path;   /* of a local file; NULL when there is no name */
    char *format; /* "json:" names may say it; or NULL */
    bool  force_share, direct, no_backing;
};

void qc_name_finish(struct qc_name *n);

/* Read a name that the user gave: a path, "file:PATH" or "json:{...}". */
int qc_name_parse(struct qc_name *n, const char *name, qchain_error *err);
/* Read the text behind "json:". */
int qc_name_parse_json(struct qc_name *n, const char *json, qchain_error *err);

/* Length of a leading "scheme" in "scheme:rest" (before any slash), or 0. */
size_t qc_name_scheme(const char *name);

/* name as recorded in the image that was opened as `from`: itself when absolute
 * or with a scheme, else in from's directory. NULL: no memory. */
char *qc_name_resolve(const char *from, const char *name);

/* The directory part of a path ("." when it has none). NULL: no memory. */
char *qc_name_directory(const char *path);

#endif
