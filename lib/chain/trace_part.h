/* SPDX-License-Identifier: MIT */
/* The files of a recording, one after the other: opened, written block by block, renamed when full. */
#ifndef QC_CHAIN_TRACE_PART_H
#define QC_CHAIN_TRACE_PART_H

#include "chain/trace_file.h"

struct qc_trace_part {
    int      dir, fd;      /* the directory, and the file that is written; -1: none */
    char    *path, *older_path;
    const char *name, *older; /* in that directory: within these */
    struct qc_trace_header header;
    uint64_t size;         /* of the file */
    uint64_t most;         /* of a file */
    bool     keep_first;   /* none is renamed */
};

/* Make or empty the file, remove the older one. path is copied; header is that of the first, its id is chosen. On
 * failure there is nothing to close. INVAL, LOCKED, NOTFOUND, ACCESS, NOSPACE, IO, NOMEM. */
int  qc_trace_part_open(struct qc_trace_part *f, const char *path, const struct qc_trace_header *header, uint64_t most,
                        bool keep_first, qchain_error *err);
/* Put a block into it, or into the next; 1: it is full, and the last. NOSPACE, IO, INVAL. */
int  qc_trace_part_write(struct qc_trace_part *f, const uint8_t *p, size_t n, qchain_error *err);
void qc_trace_part_close(struct qc_trace_part *f);

/* May a file be replaced by a trace: there is none, it is empty, or it is a trace that nobody records into? INVAL,
 * LOCKED, and those of opening it.
 * dir: AT_FDCWD, or where name lies; path: for messages. */
int qc_trace_replaceable(int dir, const char *name, const char *path, qchain_error *err);

#endif
