/* SPDX-License-Identifier: MIT */
/* The chapter on remote layers, included first, as strict C99: it brings the users' header. */
#include <qchain-remote.h>

static int no_credentials(void *data, const char *where, int renew, qchain_credentials *out)
{
    (void)data;
    return where == NULL || renew == 2 || out == NULL ? QCHAIN_E_INVAL : 1;
}

int main(void)
{
    qchain_remote *r = qchain_remote_create();
    int            result = qchain_remote_set_credentials(r, no_credentials, NULL, NULL, NULL);

    qchain_remote_destroy(r);
    return result == QCHAIN_OK ? 0 : 1;
}
