/* SPDX-License-Identifier: MIT */
/* The header alone, as strict C99 (headers.sh says with which flags). */
#include <qchain.h>

int main(void)
{
    qchain_open_opts opts;

    qchain_open_opts_init(&opts, sizeof(opts));
    return opts.struct_size == sizeof(opts) && opts.flags == 0 ? 0 : 1;
}
