/* SPDX-License-Identifier: MIT */
/* Where credentials are looked for, in their order. */
#include "remote/credentials_int.h"

int qc_credentials_find(struct qc_credentials *c, enum qc_login_kind kind, struct qc_login **out,
                        qchain_error *err)
{
    (void)c;
    (void)kind;
    (void)out;
    (void)err;
    return 1;
}
