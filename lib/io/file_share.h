/* SPDX-License-Identifier: MIT */
/* Letting the file system copy: by sharing what it stores, or within the kernel. */
#ifndef QC_IO_FILE_SHARE_H
#define QC_IO_FILE_SHARE_H

#include "io/store.h"

/* Begin to write to the medium what was written to a local file, and do not wait: a flush will have less to do. */
void qc_file_write_behind(struct qc_store *s);

/* Let [offset, offset + length) of `to` hold the bytes of `from` at from_offset, which it has: by sharing (reflink), or
 * with `copy` by any way the kernel knows. *done: how many bytes, from the beginning on; less than all where there is no
 * such way: no local files, not of one file system, not whole blocks, or a failure that writing would meet, too. Errors:
 * NOSPACE. */
int qc_file_share(struct qc_store *to, uint64_t offset, struct qc_store *from, uint64_t from_offset,
                  uint64_t length, bool copy, uint64_t *done, qchain_error *err);

#endif
