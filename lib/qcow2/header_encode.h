/* SPDX-License-Identifier: MIT */
/* The header of a qcow2 image and its extensions as bytes: for new images, and changed in place. */
#ifndef QC_QCOW2_HEADER_ENCODE_H
#define QC_QCOW2_HEADER_ENCODE_H

#include "qcow2/header.h"

#define QC2_SECTOR 512u          /* what reaches the medium whole or not at all */
#define QC2_FEATURE_NAMES 8u     /* how many features have names */

struct qc_store;

struct qc2_bytes {
    const void *p;
    size_t      len;
};

/* What the header's cluster holds beside the numbers. Borrowed. */
struct qc2_header_parts {
    struct qc2_bytes backing_file, data_file; /* names; length 0: none */
    struct qc2_bytes more;      /* fields behind those that are known */
    struct qc2_bytes unknown;   /* extensions of unknown types, whole and padded */
    unsigned         n_features; /* names in the feature table; 0: no table */
    uint32_t         name_at;   /* where the backing file's name goes; 0: behind the extensions */
};

/* The fixed fields, QC2_V2_LENGTH bytes or, of version 3, 112, as far as header_length goes. Answers how many. */
size_t qc2_header_encode_fields(uint8_t *p, const struct qc2_header *h);

/* Encode all into p, `room` bytes, at most the first cluster. h receives header_length and where names lie (the
 * backing format comes from it). *len receives the bytes used, which do not count a name at name_at. LIMIT if it
 * does not fit. */
int qc2_header_encode(uint8_t *p, size_t room, struct qc2_header *h,
                      const struct qc2_header_parts *parts, size_t *len, qchain_error *err);

/* Names to change; NULL: as it is, "": none. */
struct qc2_header_texts {
    const char *backing_file, *backing_format, *data_file;
};

/*
 * Replace the header of an image by another one, so that at every instant the old or the new one is there: the
 * sector that holds the fields and the extensions is written at once, and a name that it points to before, at
 * a place that the old header does not use. Durable when it returns. old: as parsed. to: a copy with other numbers;
 * receives what header_length and places have become. Extensions that this library does not know of stay.
 * UNSUPPORTED, nothing changed, if the extensions to be changed take more than a sector.
 */
int qc2_header_rewrite(struct qc_store *store, const struct qc2_header *old, struct qc2_header *to,
                       const struct qc2_header_texts *texts, qchain_error *err);

#endif
