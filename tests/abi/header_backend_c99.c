/* SPDX-License-Identifier: MIT */
/* The extenders' header alone, as strict C99: it brings the users' header. */
#include <qchain-backend.h>

int main(void)
{
    qchain_store store = { sizeof(qchain_store), NULL, NULL, "none" };
    int          r = qchain_backend_fail(NULL, QCHAIN_E_IO, 0, "nobody listens");

    return r == QCHAIN_E_IO && store.struct_size == sizeof(store) ? 0 : 1;
}
