/* SPDX-License-Identifier: MIT */
/* Names of layers: how they are written, and what they are relative to. */
#ifndef QC_CHAIN_NAMES_H
#define QC_CHAIN_NAMES_H

#include <stdbool.h>
#include <stddef.h>
#include <qchain.h>

#include "util/escape.h"

/* What a name says. Strings are owned. */
struct qc_name {
    char *path;   /* of a local file, or the URL as given; NULL when there is no name */
    char *format; /* "json:" names may say it; or NULL */
    bool  is_url;
    bool  force_share, direct, no_backing;
};

void qc_name_finish(struct qc_name *n);

/* Read a name that the user gave: a path, "file:PATH", a URL or "json:{...}". A path that
 * would read like a URL gets "./" before it. */
int qc_name_parse(struct qc_name *n, const char *name, qchain_error *err);
/* Read the text behind "json:". */
int qc_name_parse_json(struct qc_name *n, const char *json, qchain_error *err);
/* Take a name that is known to be of a local file, or to be a URL, which is checked. */
int qc_name_set_path(struct qc_name *n, const char *path, qchain_error *err);
int qc_name_set_url(struct qc_name *n, const char *url, qchain_error *err);

/* Length of a leading "scheme" in "scheme:rest" (before any slash), or 0. */
size_t qc_name_scheme(const char *name);
/* Does it begin like a URL of a kind that layers may lie behind ("https://", ...)? */
bool qc_name_is_url(const char *name);

/* name as recorded in the image that was opened as `from`: itself when absolute
 * or with a scheme, else in from's directory. Where `from` is a URL, also an absolute
 * path is one: of the same origin; and ".." ends at its root. NULL: no memory. */
char *qc_name_resolve(const char *from, const char *name);

/* The directory part of a path ("." when it has none); of a URL all up to and with the
 * last '/' of its path. NULL: no memory. */
char *qc_name_directory(const char *path);

/* A name for a message: without secrets (user, query and fragment of a URL; what stands
 * in a "json:" name that has a URL), and escaped. Returns e->text. */
const char *qc_name_shown(struct qc_escaped *e, const char *name);
/* The same without a limit; to be freed with qc_free. NULL: no memory. */
char *qc_name_shown_dup(const char *name);

#endif
