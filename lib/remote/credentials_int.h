/* SPDX-License-Identifier: MIT */
/* What the files of credentials share. */
#ifndef QC_REMOTE_CREDENTIALS_INT_H
#define QC_REMOTE_CREDENTIALS_INT_H

#include <pthread.h>

#include "remote/credentials.h"

struct qc_credentials {
    const qchain_remote  *conf;
    const struct qc_log  *log;
    atomic_uint_fast64_t  numbers; /* given to logins */
    pthread_mutex_t       lock;    /* for the list of sites */
    struct qc_site       *site;
    pthread_mutex_t       aws_lock;  /* for what is below */
    bool                  aws_known; /* settings were looked for */
    char                 *aws_endpoint; /* or NULL */
    char                  aws_region[QC_REGION_MAX];
};

/* What configuration, environment, files and endpoints have for all sites of a kind. 0, or 1: nothing
 * (*out is NULL), AUTH, NOMEM. Blocks. */
int qc_credentials_find(struct qc_credentials *c, enum qc_login_kind kind, struct qc_login **out,
                        qchain_error *err);

#endif
