/* SPDX-License-Identifier: MIT */
/*
 * Inside of the file store. A file's descriptor is opened on demand and may be
 * closed by the pool whenever nobody uses it. Two ways to use it:
 *   - enter the pool's epoch, load fd; if it is not -1 it stays open until the
 *     epoch is left (the hot path: no lock);
 *   - qc_fdpool_acquire .. qc_fdpool_release, which opens it if need be.
 * Lock order: the pool's lock is taken last; nothing is called under it.
 */
#ifndef QC_IO_FILE_INT_H
#define QC_IO_FILE_INT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <time.h>

#include "io/file.h"

/* fdpool.c */

struct qc_fd_coffin;

/* A descriptor's place in the pool. Fields without a note: the pool's lock. */
struct qc_fd_entry {
    atomic_int           fd;   /* -1: closed. Stores under the lock, loads anywhere */
    atomic_bool          used; /* since the clock's hand passed; anywhere */
    uint32_t             pins; /* more than 0: must stay open */
    struct qc_fd_coffin *coffin; /* made when opened, so that closing needs no memory */
    struct qc_fd_coffin *evicted; /* those that still wait for readers to leave */
    struct qc_fd_entry  *next, *prev; /* the clock's ring, while open */
};

/* Opens a descriptor: 0 and *fd, or a negative code. */
typedef int (*qc_fd_open_fn)(void *data, int *fd, qchain_error *err);

void qc_fd_entry_init(struct qc_fd_entry *e);
/* Make sure it is open and keep it so until released. Opens by open_fn, after
 * closing others if the budget asks for it. Must not be called inside the pool's
 * epoch. */
int qc_fdpool_acquire(struct qc_fdpool *p, struct qc_fd_entry *e, qc_fd_open_fn open_fn,
                      void *data, int *fd, qchain_error *err);
void qc_fdpool_release(struct qc_fdpool *p, struct qc_fd_entry *e);
/* Close it for good, with what was evicted of it; nobody uses it any more. Waits
 * for no reader of other files. */
void qc_fdpool_remove(struct qc_fdpool *p, struct qc_fd_entry *e);
/* The epochs that protect descriptors. */
struct qc_slots *qc_fdpool_epochs(struct qc_fdpool *p);

/* What a file must still be when it is opened again. */
struct qc_file_stamp {
    dev_t           device;
    ino_t           inode;
    dev_t           rdev;  /* of a block device */
    uint64_t        size;
    struct timespec mtime; /* zero for a block device */
};

/* All but the entry and room is fixed once the file was opened for the first time. */
struct qc_file {
    struct qc_fd_entry   entry;    /* what every read looks at comes first */
    struct qc_slots     *epochs;
    bool                 direct;
    struct qc_fdpool    *pool;
    const struct qc_log *log;
    char                *path;  /* as given, then the real one */
    char                *name;  /* for messages, escaped */
    uint32_t             flags; /* QC_FILE_* */
    int                  given_fd; /* the embedder's, while opening; else -1 */
    bool                 given;    /* made from a descriptor: pinned */
    bool                 writable; /* pinned, too: what it was is what we made of it */
    bool                 shared;   /* on the embedder's open file: its position, locks and
                                      flags are not ours to change */
    bool                 known;    /* the stamp is set: opened before */
    bool                 locked;
    bool                 block_device;
    bool                 writes_wait; /* buffered ones, in the kernel: none is done without waiting */
    bool                 room_made; /* file_write.c: the file may be longer than the store, up to room_end */
    uint64_t             room_end;
    uint32_t             align_memory; /* when direct */
    uint32_t             align_offset;
    struct qc_file_stamp stamp;
};

/* file_open.c */

/* What only the first open needs. */
struct qc_file_first {
    struct qc_file            *f;
    const struct qc_file_opts *opts;
};

/* qc_fd_open_fn; data is a struct qc_file_first. Sets everything there is to
 * know about the file. */
int qc_file_open_first(void *data, int *fd, qchain_error *err);
/* qc_fd_open_fn; data is a struct qc_file. CHANGED if it is not what it was. */
int qc_file_open_again(void *data, int *fd, qchain_error *err);

/* file_lock.c */

/* Take lock bytes, a reader's or a writer's, and look for those that do not go with them. *taken
 * tells if there are locks at all. 0 or LOCKED. */
int qc_file_lock(const struct qc_file *f, int fd, bool *taken, qchain_error *err);
/* Give the bytes back, of a descriptor that others go on using. */
void qc_file_unlock(const struct qc_file *f, int fd);

/* file_direct.c */

/* Find out alignments and whether O_DIRECT works here; makes fd buffered and
 * clears f->direct if not. 0, or NOMEM. */
int qc_file_direct_setup(struct qc_file *f, int fd, qchain_error *err);
/* Read the last, partial block of a direct file. */
int qc_file_direct_tail(const struct qc_file *f, int fd, void *buf, size_t length,
                        uint64_t offset, qchain_error *err);

/* file.c */

/* A read that gave `got` (0: the end of the file, -1: errnum). Always negative. */
int qc_file_read_failed(const struct qc_file *f, ssize_t got, int errnum, uint64_t offset,
                        qchain_error *err);

/* file_write.c: slots of a writable file, whose descriptor stays open */

int qc_file_pwrite(void *obj, const void *buf, size_t length, uint64_t offset, uint32_t flags,
                   qchain_error *err);
int qc_file_pwritev(void *obj, const qchain_iov *iov, size_t n_iov, size_t length,
                    uint64_t offset, uint32_t flags, qchain_error *err);
int qc_file_flush(void *obj, uint32_t flags, qchain_error *err);
int qc_file_resize(void *obj, uint64_t size, uint32_t flags, qchain_error *err);
int qc_file_discard(void *obj, uint64_t length, uint64_t offset, uint32_t flags,
                    qchain_error *err);
int qc_file_zero(void *obj, uint64_t length, uint64_t offset, uint32_t flags, qchain_error *err);

#endif
