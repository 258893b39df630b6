/* SPDX-License-Identifier: MIT */
/* What servers say when they do not give what is asked for. */
#include "remote/place_int.h"
#include "util/error.h"
#include "util/escape.h"

enum qc_refusal qc_place_refused(struct qc_place *p, int status, const char *body, size_t len,
                                 const char *date, bool over_tls, qchain_error *err)
{
    struct qc_escaped e;
    const char *shown = qc_escape_str(&e, p->shown);

    (void)body;
    (void)len;
    (void)date;
    (void)over_tls;
    if (status == 401 || status == 403)
        qc_fail(err, QCHAIN_E_AUTH, "'%s': the server refuses access (HTTP %d); check the credentials "
                "for it", shown, status);
    else if (status == 404 || status == 410)
        qc_fail(err, QCHAIN_E_NOTFOUND, "'%s': there is no such object (HTTP %d)", shown, status);
    else if (status == 412)
        qc_fail(err, QCHAIN_E_CHANGED, "'%s': the object is not what it was (HTTP 412)", shown);
    else if (status == 429)
        qc_fail(err, QCHAIN_E_THROTTLED, "'%s': the server asks to slow down (HTTP 429)", shown);
    else
        qc_fail(err, QCHAIN_E_NET, "'%s': the server refuses the request (HTTP %d)", shown, status);
    if (err)
        err->http_status = status;
    return QC_REFUSED;
}
