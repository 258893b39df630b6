/* SPDX-License-Identifier: MIT */
#include "util/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void qc_error_init(qchain_error *err)
{
    err->code = 0;
    err->sys_errno = 0;
    err->http_status = 0;
    err->layer = -1;
    err->offset = -1;
    err->text[0] = '\0';
}

/* A text that was cut loses the piece of a UTF-8 sequence that is left at its end. */
static void drop_piece(char *text)
{
    size_t n = strlen(text), at = n, want;
    unsigned char lead;

    while (at > 0 && n - at < 3 && ((unsigned char)text[at - 1] & 0xc0) == 0x80)
        at--;
    if (at == 0)
        return;
    lead = (unsigned char)text[at - 1];
    want = lead >= 0xf0 ? 4 : lead >= 0xe0 ? 3 : lead >= 0xc0 ? 2 : 1;
    if (want > n - at + 1)
        text[at - 1] = '\0';
}

int qc_fail(qchain_error *err, int code, const char *fmt, ...)
{
    va_list ap;

    if (!err)
        return code;
    qc_error_init(err);
    err->code = code;
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof(err->text), fmt, ap);
    va_end(ap);
    drop_piece(err->text);
    return code;
}

int qc_fail_errno(qchain_error *err, int errnum, const char *fmt, ...)
{
    int code = qc_code_of_errno(errnum);
    char reason[128];
    size_t used;
    va_list ap;

    if (!err)
        return code;
    qc_error_init(err);
    err->code = code;
    err->sys_errno = errnum;
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof(err->text), fmt, ap);
    va_end(ap);
    drop_piece(err->text);
    used = strlen(err->text);
    snprintf(err->text + used, sizeof(err->text) - used, ": %s",
             strerror_r(errnum, reason, sizeof(reason)));
    drop_piece(err->text);
    return code;
}

int qc_fail_nomem(qchain_error *err)
{
    if (err) {
        qc_error_init(err);
        err->code = QCHAIN_E_NOMEM;
        err->sys_errno = ENOMEM;
        strcpy(err->text, "out of memory");
    }
    return QCHAIN_E_NOMEM;
}

void qc_error_at(qchain_error *err, uint64_t offset)
{
    if (err)
        err->offset = offset > INT64_MAX ? INT64_MAX : (int64_t)offset;
}

void qc_error_prefix(qchain_error *err, int64_t layer, const char *fmt, ...)
{
    char old[QC_ERROR_TEXT];
    va_list ap;
    size_t used;

    if (!err || err->code == 0)
        return;
    memcpy(old, err->text, sizeof(old));
    va_start(ap, fmt);
    vsnprintf(err->text, sizeof(err->text), fmt, ap);
    va_end(ap);
    drop_piece(err->text);
    used = strlen(err->text);
    /* A message that grows too long loses its end, not its beginning. */
    snprintf(err->text + used, sizeof(err->text) - used, "%.*s", (int)sizeof(old), old);
    drop_piece(err->text);
    if (layer >= 0)
        err->layer = layer;
}

void qc_error_copy(qchain_error *dst, const qchain_error *src)
{
    if (dst && src && dst != src)
        *dst = *src;
}

int qc_code_of_errno(int errnum)
{
    switch (errnum) {
    case ENOENT:
    case ENOTDIR:
    case ENODEV:
    case ENXIO:
        return QCHAIN_E_NOTFOUND;
    case EACCES:
    case EPERM:
    case ELOOP:
        return QCHAIN_E_ACCESS;
    case ENOMEM:
        return QCHAIN_E_NOMEM;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return QCHAIN_E_NOSPACE;
    case EROFS:
        return QCHAIN_E_READONLY;
    case EINVAL:
    case EBADF:
    case ENAMETOOLONG:
        return QCHAIN_E_INVAL;
    case EMFILE:
    case ENFILE:
        return QCHAIN_E_LIMIT;
    case EBUSY:
        return QCHAIN_E_BUSY;
    case EEXIST:
        return QCHAIN_E_EXISTS;
    case EOPNOTSUPP:
    case ENOSYS:
        return QCHAIN_E_UNSUPPORTED;
    case ETIMEDOUT:
        return QCHAIN_E_TIMEOUT;
    default:
        return QCHAIN_E_IO;
    }
}
