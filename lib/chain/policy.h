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
};

qchain_policy *qc_policy_new(void);
qchain_policy *qc_policy_copy(const qchain_policy *p); /* NULL: no memory */
void qc_policy_free(qchain_policy *p);

/* Allow a directory, by its real path. */
int qc_policy_add_root(qchain_policy *p, const char *dir, qchain_error *err);
int qc_policy_set_format(qchain_policy *p, const char *format, qchain_error *err);
/* Read rules, a line each. where: how messages call the text. */
int qc_policy_read(qchain_policy *p, const char *text, const char *where, qchain_error *err);

/* True if real_path lies beneath (or is) one of the roots. */
bool qc_policy_beneath_roots(const qchain_policy *p, const char *real_path);
bool qc_path_beneath(const char *path, const char *dir);

#endif
