/* SPDX-License-Identifier: MIT */
/*
 * qchain-source.h - the files a chain is made of, as they are: their bytes, not the disk's. Included by
 * <qchain.h>, whose rules on errors, option structs, threads and units hold here.
 *
 * Sources are numbered as in qchain_extent: from 0, the top's file, up to the first number for which
 * qchain_source_name answers NULL. A layer has one, or two if its data lies in an external data file. Bytes
 * come the way that they come for reads of the disk: from memory, from the disk cache, from an object's
 * server, always of the generation that the chain was opened with.
 */
#ifndef QCHAIN_SOURCE_H
#define QCHAIN_SOURCE_H

#include <qchain.h>

#ifdef __cplusplus
extern "C" {
#endif

enum qchain_source_flags {
    QCHAIN_SOURCE_DATA_FILE = 0x1, /* the external data file of its layer                        */
    QCHAIN_SOURCE_REMOTE    = 0x2  /* far away: reads wait for a network                         */
};

typedef struct qchain_source_info {
    size_t   struct_size;    /* set by the caller: sizeof(qchain_source_info)                    */
    uint32_t flags;          /* QCHAIN_SOURCE_*                                                  */
    uint32_t layer;          /* 0 is the top                                                     */
    uint64_t size;           /* bytes                                                            */
    uint64_t allocated_size; /* bytes on the medium; the size where nobody can tell              */
    uint64_t mtime_ns;       /* when it last changed, ns since the epoch; 0: not known           */
    uint64_t reserved[4];
} qchain_source_info;

/* Tell how large a file of the chain is, and whose. One that is known from a sidecar index alone is opened
 * for it, which may block. Errors: INVAL, RANGE (no such source), CHANGED, and those of opening. Since 0.1. */
QCHAIN_API int qchain_source_stat(qchain *c, uint32_t source, qchain_source_info *out, qchain_error *err);
/* Read length bytes at offset of a file of the chain into buf: all or an error. flags must be 0. Blocks; any
 * number of threads at once. Of a top that is open for writing these are the bytes that its file has just
 * now, without what waits to be flushed. Errors: INVAL, RANGE (beyond the size, or no such source), CHANGED,
 * IO (also: the file shrank), and those of requests. Since 0.1. */
QCHAIN_API int qchain_source_read(qchain *c, uint32_t source, void *buf, size_t length, uint64_t offset,
                                  uint32_t flags, qchain_error *err);

#ifdef __cplusplus
}
#endif
#endif
