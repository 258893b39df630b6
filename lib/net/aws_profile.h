/* SPDX-License-Identifier: MIT */
/* The files in which AWS's own tools keep credentials and settings. */
#ifndef QC_NET_AWS_PROFILE_H
#define QC_NET_AWS_PROFILE_H

#include <stdbool.h>
#include <qchain.h>

/* What a profile says; strings are qc_malloc'ed, NULL where it does not say. */
struct qc_aws_profile {
    bool  found;        /* a file has it */
    char *name;         /* the one that was looked for */
    char *access_key, *secret_key, *session_token;
    char *region, *endpoint;
    const char *other;  /* a way to credentials that it names and we do not go, or NULL */
};

#define QC_AWS_FILE_MAX (1u << 20)

/* Read the profile of that name (NULL: AWS_PROFILE, or "default") from AWS_SHARED_CREDENTIALS_FILE or
 * ~/.aws/credentials, and AWS_CONFIG_FILE or ~/.aws/config; the first goes before the second. Files that
 * are not there say nothing. AUTH (a file that cannot be read, is too long), NOMEM. */
int  qc_aws_profile_read(struct qc_aws_profile *p, const char *name, qchain_error *err);
void qc_aws_profile_finish(struct qc_aws_profile *p); /* wipes */

/* A whole small file, NUL behind it, to be wiped; NULL without an error where there is none. */
int  qc_aws_file_read(char **out, const char *path, qchain_error *err);

#endif
