/* SPDX-License-Identifier: MIT */
/* Log lines go to the embedder's callback, or nowhere. */
#ifndef QC_UTIL_LOG_H
#define QC_UTIL_LOG_H

#include <qchain.h>

struct qc_log {
    qchain_log_fn fn;    /* may be NULL */
    void         *data;
    int           level; /* lines above it are dropped */
};

/* log may be NULL. Keeps errno. tag: the room. */
void qc_log(const struct qc_log *log, int level, const char *tag, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

#endif
