/* SPDX-License-Identifier: MIT */
/* Credentials from the endpoints that containers and instances have. Their answers are hostile. */
#ifndef QC_NET_AWS_ENDPOINT_H
#define QC_NET_AWS_ENDPOINT_H

#include "net/credentials.h"

/* AWS_CONTAINER_CREDENTIALS_RELATIVE_URI or _FULL_URI. 0, 1: no such variable, AUTH, NOMEM,
 * UNSUPPORTED (no libcurl). Blocks for seconds. */
int qc_aws_container_login(struct qc_login **out, qchain_error *err);
/* The instance's metadata service, with session tokens (version 2) only. 1: there is none, it is
 * switched off, or the instance has no role. */
int qc_aws_instance_login(struct qc_login **out, qchain_error *err);

#endif
