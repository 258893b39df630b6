/* SPDX-License-Identifier: MIT */
/* All headers as strict C11, the extenders' first, each of them twice. */
#include <qchain-backend.h>
#include <qchain.h>
#include <qchain-remote.h>
#include <qchain-source.h>
#include <qchain-trace.h>
#include <qchain-backend.h>
#include <qchain-remote.h>
#include <qchain-source.h>
#include <qchain.h>

_Static_assert(QCHAIN_OK == 0 && QCHAIN_E_INTERNAL == -21, "codes are for ever");
_Static_assert(QCHAIN_BACKEND_VERSION == 1, "the store seam has a version");

int main(void)
{
    uint32_t v = qchain_version();

    if (v != (QCHAIN_VERSION_MAJOR << 16 | QCHAIN_VERSION_MINOR << 8 | QCHAIN_VERSION_PATCH)) {
        return 1;
    }
    return qchain_has("qcow2") == 1 && qchain_has("no such feature") == 0 ? 0 : 1;
}
