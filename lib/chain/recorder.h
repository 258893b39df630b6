/* SPDX-License-Identifier: MIT */
/*
 * What is read through a chain, recorded (see <qchain-trace.h>; the file: chain/trace_file.h).
 *
 * Readers put records into lanes, which they choose by processor: each has a lock that hardly ever two want, held
 * for some instructions. A thread of the recording takes the lanes' buffers over by swapping them with an empty one,
 * orders and joins what is in them, and writes it as blocks. So a reader never waits for the file; what does not fit
 * its lane is counted as lost.
 */
#ifndef QC_CHAIN_RECORDER_H
#define QC_CHAIN_RECORDER_H

#include "chain/chain.h"

struct qc_recorder;

/* Begin; flags and max_bytes are right. BUSY if there is a recording. */
int qc_recorder_start(qchain *c, const char *path, uint32_t flags, uint64_t max_bytes, qchain_error *err);
/* End it; NOTFOUND if there is none. */
int qc_recorder_stop(qchain *c, qchain_error *err);
/* The chain is closed: nobody reads any more. */
void qc_recorder_destroy(qchain *c);
void qc_recorder_note(struct qc_recorder *r, uint64_t offset, uint64_t length);

/* A read of the guest's begins. */
static inline void qc_note_read(qchain *c, uint64_t offset, uint64_t length)
{
    struct qc_recorder *r = atomic_load_explicit(&c->recorder, memory_order_acquire);

    if (__builtin_expect(r != NULL, 0) && length > 0)
        qc_recorder_note(r, offset, length);
}

#endif
