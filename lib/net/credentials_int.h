/* SPDX-License-Identifier: MIT */
/* What the files of credentials share. */
#ifndef QC_NET_CREDENTIALS_INT_H
#define QC_NET_CREDENTIALS_INT_H

#include <pthread.h>

#include "net/credentials.h"

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

/* A variable of the environment that is set and not empty, or NULL. Read at the time of need. */
const char *qc_credentials_env(const char *name);

/* Where S3 is and which region is meant, of configuration, environment and profile; *endpoint may be
 * NULL: AWS itself. They live as long as c. Reads files the first time. INVAL, AUTH, NOMEM. */
int  qc_aws_settings(struct qc_credentials *c, const char **endpoint, const char **region,
                     qchain_error *err);
bool qc_aws_settings_known(struct qc_credentials *c); /* it would read no file */
/* The endpoint if no file need be read for it, or NULL. */
const char *qc_aws_endpoint_at_hand(const struct qc_credentials *c);
bool qc_region_is_name(const char *s);

/* Whose an az login is. NOMEM. */
int  qc_azure_login_name(struct qc_login *l, qchain_error *err);

#endif
