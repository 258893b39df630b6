/* SPDX-License-Identifier: MIT */
/* What the door's files share: checks of option structs, and a place for errors
 * that the caller does not want. */
#ifndef QC_API_API_H
#define QC_API_API_H

#include <stdbool.h>

#include "util/error.h"

/* Copy a caller's option struct of from_size bytes into to (to_size bytes, the
 * library's). A smaller one leaves defaults (zeros); a larger one must hold
 * zeros beyond what we know. */
int qc_opts_copy(void *to, size_t to_size, const void *from, qchain_error *err);

/* Fill a caller's struct of size bytes with zeros and its size. */
void qc_opts_init(void *o, size_t size);

/* Fill a caller's struct, which begins with its size, from ours of size bytes, as far as it goes; what a
 * newer caller has beyond is zeroed. */
void qc_stats_out(void *out, const void *from, size_t size);

/* INVAL if a struct that is to be filled has no size: what is found out would be told to nobody. NULL is fine. */
int qc_result_check(const void *out, const char *what, qchain_error *err);

/* Options of opening name, copied already: INVAL if they cannot be right. */
int qc_open_opts_check(const char *name, const qchain_open_opts *o, qchain_error *err);
/* Copy and check options of a new image. what: the call's name. */
int qc_create_opts_take(qchain_create_opts *o, const qchain_create_opts *from, const char *what, qchain_error *err);

/* The whole of a file that is text of less than 1 MiB; *text is to be freed. IO, INVAL, NOMEM. */
int qc_read_text(int fd, char **text, qchain_error *err);

/* QC_ERR(err): err, or a local object where the caller passed NULL, so that the
 * rooms below can always look at what failed. */
#define QC_ERR(err)                                                                                \
    qchain_error qc_local_error;                                                                   \
    if (!(err)) {                                                                                  \
        qc_error_init(&qc_local_error);                                                            \
        (err) = &qc_local_error;                                                                   \
    }

#endif
