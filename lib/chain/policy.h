/* SPDX-License-Identifier: MIT */
/* What images may refer to: the rules, and their text form. */
#ifndef QC_CHAIN_POLICY_H
#define QC_CHAIN_POLICY_H

#include <stdbool.h>
#include <qchain.h>

struct qchain_policy {
    uint32_t flags;          /* QCHAIN_POLICY_* */
    uint32_t max_layers;     /* 0: not set */
    char    *backing_format; /* or NULL */
    char   **root;           /* real paths of allowed directories */
    size_t   n_roots, cap_roots;
    char   **url;            /* allowed prefixes, in the form they are compared in */
    size_t   n_urls, cap_urls;
};

qchain_policy *qc_policy_new(void);
qchain_policy *qc_policy_copy(const qchain_policy *p); /* NULL: no memory */
void qc_policy_free(qchain_policy *p);

/* Allow a directory, by its real path. */
int qc_policy_add_root(qchain_policy *p, const char *dir, qchain_error *err);
/* Allow what lies beneath a URL; the '/' at its end may be left out. INVAL: it has a user, a
 * query, or "." or ".." in its path. */
int qc_policy_add_url(qchain_policy *p, const char *url, qchain_error *err);
int qc_policy_set_format(qchain_policy *p, const char *format, qchain_error *err);
/* Read rules, a line each. where: how messages call the text. */
int qc_policy_read(qchain_policy *p, const char *text, const char *where, qchain_error *err);

/* True if real_path lies beneath (or is) one of the roots. */
bool qc_policy_beneath_roots(const qchain_policy *p, const char *real_path);
/* True if the URL lies beneath one of the allowed ones: of the same scheme, host and port, and
 * with a path that begins with theirs. Compared are the paths without needless escapes ("%41"
 * is "A", but "%2F" is no '/'; in s3, az and gs none is one). False also for a path that a
 * server could take for another: with "." or ".." in any way of writing. */
bool qc_policy_beneath_urls(const qchain_policy *p, const char *url);
bool qc_path_beneath(const char *path, const char *dir);

#endif
