/* SPDX-License-Identifier: MIT */
/* What the two halves of the settings share. */
#ifndef QC_NET_CONFIG_INT_H
#define QC_NET_CONFIG_INT_H

#include <stddef.h>

#include "net/config.h"

/* The field of the i-th setting that is a string; NULL behind the last. */
char **qc_conf_string(qchain_remote *c, size_t i);

void qc_conf_wipe(char *s); /* overwritten and freed; NULL is fine */

/* user: NULL for bearer. NOMEM. */
int  qc_login_init(struct qc_conf_login *l, const char *origin, const char *user, const char *password);
void qc_login_finish(struct qc_conf_login *l);
int  qc_pair_init(struct qc_conf_pair *p, const char *prefix, const char *url);
void qc_pair_finish(struct qc_conf_pair *p);

#endif
