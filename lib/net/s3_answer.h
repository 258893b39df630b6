/* SPDX-License-Identifier: MIT */
/* The XML by which S3, GCS and Azure say what is wrong. Hostile. */
#ifndef QC_NET_S3_ANSWER_H
#define QC_NET_S3_ANSWER_H

#include <stdbool.h>
#include <stddef.h>

/* "" where there is none. A value that is too long is cut, but a code, a region or an endpoint that is
 * cut would be another: it is left out. No control characters in code, region and endpoint. */
struct qc_s3_answer {
    char code[64];
    char message[256];
    char region[64];
    char endpoint[256];
};

#define QC_S3_ANSWER_MAX 65536

/* Read <Error><Code>...</Code>...</Error> of at most QC_S3_ANSWER_MAX bytes; more are not looked at. What
 * is broken off is read as far as it goes. Only the five entities of XML itself stand for something; a
 * document type ends the reading. False if there is no code. */
bool qc_s3_answer_read(const char *p, size_t len, struct qc_s3_answer *out);

#endif
