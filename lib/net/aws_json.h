/* SPDX-License-Identifier: MIT */
/* The flat JSON objects by which endpoints give credentials. Hostile. */
#ifndef QC_NET_AWS_JSON_H
#define QC_NET_AWS_JSON_H

#include <stddef.h>
#include <stdint.h>

struct qc_json_field {
    const char *name;
    char       *value; /* of a string, decoded, or NULL; qc_malloc'ed */
};

/* Read one object whose values are strings, numbers, true, false or null. Fields that are not asked for
 * are checked and left. INVAL: anything else, a name that comes twice, NUL, broken UTF-16; NOMEM. In
 * either case what was found must be freed. */
int qc_json_read(const char *p, size_t len, struct qc_json_field *field, size_t n_fields);
void qc_json_finish(struct qc_json_field *field, size_t n_fields); /* wipes */

/* "2026-01-31T12:34:56Z" (with parts of seconds, or an offset) as seconds since the epoch; 0: none. */
uint64_t qc_json_time(const char *text);

#endif
