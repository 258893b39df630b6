/* SPDX-License-Identifier: MIT */
#include "util/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

void qc_log(const struct qc_log *log, int level, const char *tag, const char *fmt, ...)
{
    int saved = errno;
    char text[1024];
    va_list ap;

    if (!log || !log->fn || level > log->level)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    log->fn(log->data, level, tag, text);
    errno = saved;
}
