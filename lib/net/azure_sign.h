/* SPDX-License-Identifier: MIT */
/* Signatures with the key of a storage account (SharedKey, for blobs). */
#ifndef QC_NET_AZURE_SIGN_H
#define QC_NET_AZURE_SIGN_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include <qchain.h>

struct qc_azure_request {
    const char  *method;
    const char  *account;
    const char  *path;      /* as it stands in the URL, which has no query */
    uint64_t     length;    /* of the body */
    char *const *header;    /* "Name: value", all that will be sent and must be signed */
    size_t       n_headers;
};

/* What is signed. NULL: no memory. */
char *qc_azure_text(const struct qc_azure_request *r);
/* "Authorization: SharedKey ...", secret. key: in base64, as the account's owner sees it. AUTH if it is
 * none, NOMEM. */
int   qc_azure_authorization(char **out, const struct qc_azure_request *r, const char *key,
                             qchain_error *err);
/* "Sat, 31 Jan 2026 12:00:00 GMT", whatever the locale. */
void  qc_azure_date(time_t t, char out[40]);

#endif
