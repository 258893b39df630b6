/* SPDX-License-Identifier: MIT */
/*
 * Local files and block devices as stores. Descriptors are opened on demand and
 * closed by a shared LRU (qc_fdpool) when there are too many; a file opened
 * again must be what it was (device, inode, size, mtime), else CHANGED.
 */
#ifndef QC_IO_FILE_H
#define QC_IO_FILE_H

#include "io/store.h"
#include "util/log.h"

struct qc_fdpool;

/* At most max_open descriptors are kept (0: RLIMIT_NOFILE less 64; at least 16);
 * the last few that were closed may linger until their readers have left.
 * slots: counters; borrowed, may be NULL. Descriptors in use are protected by
 * epochs of the pool's own, so a read may come from inside any epoch of the
 * caller's. NULL: no memory. */
struct qc_fdpool *qc_fdpool_create(uint32_t max_open, struct qc_slots *slots);
/* All files must be closed. NULL is fine. */
void qc_fdpool_destroy(struct qc_fdpool *p);
/* Descriptors open now. */
uint64_t qc_fdpool_open_count(struct qc_fdpool *p);

enum qc_file_flags {
    QC_FILE_DIRECT = 0x1,       /* O_DIRECT, with bounce buffers where needed */
    QC_FILE_NO_LOCK = 0x2,      /* take no lock bytes and mind none */
    QC_FILE_BLOCK_DEVICE = 0x4, /* block devices are welcome */
    QC_FILE_FORMAT_LOCK = 0x8,  /* the reader needs others not to write or resize
                                   (a format with metadata); else only its share */
    QC_FILE_WRITE = 0x10,       /* for reading and writing; the descriptor stays open */
    QC_FILE_ALONE = 0x20        /* not even readers, where others tell of themselves */
};

struct qc_file_opts {
    struct qc_fdpool    *fds;
    struct qc_slots     *slots;     /* counters; borrowed, may be NULL */
    const struct qc_log *log;       /* borrowed until the store is closed; may be NULL */
    uint32_t             flags;     /* QC_FILE_* */
    int                  fd;        /* -1, or an open descriptor, whose file is opened once more
                                       or, where that is not allowed, which is duplicated:
                                       pinned, never closed before the store; open for both
                                       where it is to be written */
    const char          *name;      /* how messages call it */
    /* Asked with the real path of what was opened (by descriptor) before its
     * bytes are used; may be NULL. 0 or a negative code. */
    int (*gate)(void *data, const char *real_path, qchain_error *err);
    void                *gate_data;
};

/* Open path (ignored with an fd) as a store, for reading or, with the flag, writing too. Refuses what is neither
 * a regular file nor, with the flag, a block device, before opening it for I/O
 * (O_PATH first, then by descriptor). real_path (may be NULL) receives the path
 * behind the descriptor, to be freed with qc_free. */
int qc_file_open(struct qc_store **out, const char *path, const struct qc_file_opts *opts,
                 char **real_path, qchain_error *err);

/* True if s was made by qc_file_open on a block device. */
bool qc_file_is_block_device(const struct qc_store *s);
/* True if s was made by qc_file_open. */
bool qc_file_is_local(const struct qc_store *s);

/* A direct write that makes a file longer has it to itself, and asks for space each time. So, before the store is
 * written up to `end`: the file is made longer, with space, some way ahead, which is no part of the store. A hint,
 * for local files that are written directly; one thread at a time. */
void qc_file_room(struct qc_store *s, uint64_t end);
/* Cut off what was ahead. Nobody writes. Without it zeros remain behind the store's end. */
void qc_file_trim(struct qc_store *s);
/* Begin to bring to the medium what was written here through the page cache, so that a flush has less to wait for.
 * Waits for nothing, and promises nothing. */
void qc_file_write_out(struct qc_store *s, uint64_t length, uint64_t offset);
/* The same the other way round: what will be read soon, through the page cache. */
void qc_file_read_in(struct qc_store *s, uint64_t length, uint64_t offset);

#endif
