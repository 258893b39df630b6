/* SPDX-License-Identifier: MIT */
/* Errors, versions, option structs. */
#include <string.h>
#include <qchain-backend.h>

#include "api/api.h"
#include "net/http.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/escape.h"

qchain_error *qchain_error_create(void)
{
    qchain_error *err = qc_malloc(sizeof(*err));

    if (err)
        qc_error_init(err);
    return err;
}

void qchain_error_destroy(qchain_error *err)
{
    qc_free(err);
}

void qchain_error_clear(qchain_error *err)
{
    if (err)
        qc_error_init(err);
}

int qchain_error_code(const qchain_error *err)
{
    return err ? err->code : 0;
}

const char *qchain_error_message(const qchain_error *err)
{
    return err ? err->text : "";
}

int qchain_error_errno(const qchain_error *err)
{
    return err ? err->sys_errno : 0;
}

int qchain_error_http_status(const qchain_error *err)
{
    return err ? err->http_status : 0;
}

int64_t qchain_error_layer(const qchain_error *err)
{
    return err ? err->layer : -1;
}

int64_t qchain_error_offset(const qchain_error *err)
{
    return err ? err->offset : -1;
}

const char *qchain_code_name(int code)
{
    static const char *const name[] = {
        "OK",       "NOMEM",  "INVAL",    "RANGE",    "LIMIT",   "IO",      "NET",
        "TIMEOUT",  "THROTTLED", "NOTFOUND", "ACCESS", "AUTH",    "NOSPACE", "READONLY",
        "BUSY",     "LOCKED", "CORRUPT",  "UNSUPPORTED", "CHAIN", "CHANGED", "CANCELLED",
        "INTERNAL", "EXISTS",
    };

    return code <= 0 && code > -(int)(sizeof(name) / sizeof(name[0])) ? name[-code] : "?";
}

int qchain_backend_fail(qchain_error *err, int code, int sys_errno, const char *message)
{
    char *text = qc_escape_dup(message ? message : "", message ? strlen(message) : 0);

    qc_fail(err, code, "%s", text ? text : "failed, without memory to say why");
    qc_free(text);
    if (err)
        err->sys_errno = sys_errno;
    return code;
}

uint32_t qchain_version(void)
{
    return QCHAIN_VERSION_MAJOR << 16 | QCHAIN_VERSION_MINOR << 8 | QCHAIN_VERSION_PATCH;
}

const char *qchain_version_string(void)
{
#define TEXT_OF(v) TEXT(v)
#define TEXT(v) #v
    return TEXT_OF(QCHAIN_VERSION_MAJOR) "." TEXT_OF(QCHAIN_VERSION_MINOR) "."
        TEXT_OF(QCHAIN_VERSION_PATCH);
}

int qchain_has(const char *feature)
{
    static const char *const has[] = {
        "qcow2", "raw", "zlib", "zstd", "direct", "locks", "write", "queue", "index",
#ifdef QC_HAVE_LIBDEFLATE
        "libdeflate",
#endif
#ifdef QC_HAVE_LIBURING
        "io_uring",
#endif
    };

    for (size_t i = 0; feature && i < sizeof(has) / sizeof(has[0]); i++)
        if (strcmp(has[i], feature) == 0)
            return 1;
    /* Only who asks for it has libcurl loaded. */
    return feature && strcmp(feature, "http") == 0 && qc_http_available(NULL) == 0;
}

void qchain_free(void *p)
{
    qc_free(p);
}

/* No struct will ever be larger: a size beyond it was never set. */
#define OPTS_MAX 65536

void qc_opts_init(void *o, size_t size)
{
    if (!o || size < sizeof(size))
        return;
    memset(o, 0, size);
    memcpy(o, &size, sizeof(size));
}

int qc_opts_copy(void *to, size_t to_size, const void *from, qchain_error *err)
{
    size_t size = 0;

    memset(to, 0, to_size);
    if (!from)
        return 0;
    memcpy(&size, from, sizeof(size));
    if (size < sizeof(size) || size > OPTS_MAX)
        return qc_fail(err, QCHAIN_E_INVAL,
                       "an option struct has no size: fill it with its _init call first");
    /* Copied first: what a failing call must release is found in the copy. */
    memcpy(to, from, size < to_size ? size : to_size);
    if (size > to_size && !qc_is_zero((const char *)from + to_size, size - to_size))
        return qc_fail(err, QCHAIN_E_UNSUPPORTED,
                       "an option struct uses fields that this version of the library lacks");
    return 0;
}

int qc_result_check(const void *out, const char *what, qchain_error *err)
{
    size_t size = sizeof(size);

    if (out)
        memcpy(&size, out, sizeof(size));
    return size >= sizeof(size) && size <= OPTS_MAX
               ? 0 : qc_fail(err, QCHAIN_E_INVAL, "%s: struct_size of the result is not set", what);
}

void qc_stats_out(void *out, const void *from, size_t size)
{
    size_t theirs;

    if (qc_result_check(out, "", NULL) != 0)
        return;
    memcpy(&theirs, out, sizeof(theirs));
    if (theirs > size)
        memset((char *)out + size, 0, theirs - size);
    memcpy(out, from, theirs < size ? theirs : size);
    memcpy(out, &theirs, sizeof(theirs));
}
