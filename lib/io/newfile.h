/* SPDX-License-Identifier: MIT */
/*
 * A file that is written whole before anybody can see it: without a name, or under
 * another where the file system knows only files with names, then fsync, rename,
 * fsync of the directory. Killed at any point, the old file is there or the new one;
 * what may remain of a file that had another name is that.
 */
#ifndef QC_IO_NEWFILE_H
#define QC_IO_NEWFILE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>
#include <qchain.h>

struct qc_file_opts;
struct qc_newfile;
struct qc_store;

/* Begin a file that will be called path. like: its owner (where we may give it away)
 * and permissions (without execution) are those of this file; NULL: ours, 0666 less
 * the umask. */
int qc_newfile_create(struct qc_newfile **out, const char *path, const struct stat *like,
                      qchain_error *err);
/* What has the name by the time it is to be given is not replaced (EXISTS). */
void qc_newfile_keep(struct qc_newfile *f);
/* Write at an offset; whole or failed (NOSPACE, IO). */
int qc_newfile_write(struct qc_newfile *f, const void *buf, size_t length, uint64_t offset,
                     qchain_error *err);
/* Copy bytes of another descriptor. */
int qc_newfile_copy(struct qc_newfile *f, int from, uint64_t from_offset, uint64_t length,
                    uint64_t offset, qchain_error *err);
/* The file as a writable store, to read what was written, too; once. It is the file's, and ends
 * with it. opts: its fds, slots, log, name and the flag QC_FILE_DIRECT count. */
int qc_newfile_store(struct qc_newfile *f, struct qc_store **out, const struct qc_file_opts *opts,
                     qchain_error *err);
/* Make it durable and visible. The file is finished either way. */
int qc_newfile_commit(struct qc_newfile *f, qchain_error *err);
/* The same without making it durable: a machine that loses power may be left with a file that is not whole. */
int qc_newfile_rename(struct qc_newfile *f, qchain_error *err);
/* Its descriptor, for reading and writing; the file's. */
int qc_newfile_fd(const struct qc_newfile *f);
/* Give it up. NULL is fine. */
void qc_newfile_abort(struct qc_newfile *f);

/* For tests: as if the file system knew no files without names. */
extern bool qc_newfile_test_named;

#endif
