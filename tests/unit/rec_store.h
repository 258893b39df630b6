/* SPDX-License-Identifier: MIT */
/*
 * Files in memory that are written: they keep account of what is done to them, several in one log if they belong
 * together, and fail when told to. crash_states.h tells what a crash leaves of them.
 */
#ifndef QC_TESTS_REC_STORE_H
#define QC_TESTS_REC_STORE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <qchain-backend.h>

#define REC_SECTOR 512u
#define REC_FILES 8u /* in one log, at most */

enum rec_kind { REC_WRITE, REC_ZERO, REC_DISCARD, REC_RESIZE, REC_FLUSH };

struct rec_op {
    enum rec_kind kind;
    unsigned      file;           /* its number in the log                                         */
    uint64_t      offset, length; /* of a resize: length is the new size                           */
    uint8_t      *bytes;          /* of a write                                                    */
    uint64_t      began, ended;   /* on the log's clock, which stands before 1 when recording begins; 0: not ended */
};

/* What was done to files, in the order in which it was begun, and the faults of their medium. */
struct rec_log {
    pthread_mutex_t   lock;
    struct rec_store *file[REC_FILES];
    unsigned          n_files;
    bool              on;                 /* note operations                                       */
    struct rec_op    *op;
    size_t            n, room;
    uint64_t          clock;
    uint64_t          calls;              /* of all files; reads, too                              */
    uint64_t          fail_from, fail_to; /* calls [from, to), counted from 1 on, fail             */
    int               fail_code;
    bool              fail_writes_only;   /* only what changes something is counted as a call      */
    bool              fail_torn;          /* half of the write that is the first to fail arrives   */
};

/* A file. */
struct rec_store {
    struct rec_log *log;
    unsigned        number;
    uint8_t        *bytes; /* cap of them, zeros from size on                                      */
    uint64_t        size, cap;
    uint8_t        *start; /* as it was when recording began; NULL: it did not                     */
    uint64_t        start_size;
    uint64_t        n_flushes, n_writes;
    uint64_t        bad_from, bad_end; /* cannot be read                                           */
};

/* Empty, with a log of its own; it may grow to `room` bytes, 0: 64 MiB. */
struct rec_store *rec_create(uint64_t room);
/* The same, in the log of another. */
struct rec_store *rec_create_beside(struct rec_store *other, uint64_t room);
/* The log goes with the last of its files. */
void rec_destroy(struct rec_store *r);

/* Note from now on what is done to the files of the log, which is empty now. */
void rec_record(struct rec_log *log);
/* Forget what was noted, and counted, and the faults; a recording begins anew. */
void rec_reset(struct rec_store *r);
/* A new instant. */
uint64_t rec_clock(struct rec_log *log);
/* A store over it, which does not own it. */
void rec_store_of(struct rec_store *r, qchain_store *out);

/* Bytes as a medium may have them. */
void     rec_copy(struct rec_store *to, const struct rec_store *from);
void     rec_apply(struct rec_store *r, const struct rec_op *op);
uint64_t rec_sectors(const struct rec_op *op);
/* Sectors [first, last) of a write, counted from its beginning. */
void     rec_apply_part(struct rec_store *r, const struct rec_op *op, uint64_t first, uint64_t last);

#endif
