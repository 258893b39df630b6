/* SPDX-License-Identifier: MIT */
/* The chapter on traces, included first, as strict C99: it brings the users' header. */
#include <qchain-trace.h>

int main(void)
{
    qchain_trace_opts opts;

    qchain_trace_opts_init(&opts, sizeof(opts));
    qchain_trace_free(NULL);
    return opts.struct_size == sizeof(opts) && qchain_trace_stop(NULL, NULL) == QCHAIN_E_INVAL ? 0 : 1;
}
