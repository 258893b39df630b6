/* SPDX-License-Identifier: MIT */
/*
 * The disk cache: a directory that many processes share. One sparse file an object identity; its bytes
 * are checked when they are read, so that a punched hole, a crash or a flipped bit is a miss, never
 * wrong bytes. What goes wrong here never fails a read.
 */
#ifndef QC_REMOTE_DISK_H
#define QC_REMOTE_DISK_H

#include "cache/block_cache.h"
#include "remote/tier.h"
#include "util/log.h"
#include "util/slots.h"
#include "util/tasks.h"

struct qc_disk; /* one open cache directory */

struct qc_disk_opts {
    uint64_t               max_bytes; /* on the medium */
    struct qc_tasks       *leaves;    /* for what blocks; borrowed */
    struct qc_block_cache *blocks;    /* keeps tables of checksums; borrowed */
    atomic_uint_fast64_t  *next_owner; /* keys in it */
    struct qc_slots       *slots;     /* counters; may be NULL */
    const struct qc_log   *log;
};

/* Open the directory, made if its parent is there (0700). ACCESS if it belongs to another user or others
 * may write to it, or it is reached by a link; NOTFOUND (no parent), INVAL (no directory), IO, NOSPACE,
 * NOMEM. A directory that may not be written to is read from. Logs nothing. */
int  qc_disk_open(struct qc_disk **out, const char *dir, const struct qc_disk_opts *opts,
                  qchain_error *err);
bool qc_disk_is_writable(const struct qc_disk *d);
void qc_disk_close(struct qc_disk *d); /* all tiers are closed; NULL is fine */

/* What the cache knows of the object that a place's key and scope name: 0 if it was noted at most
 * max_age_s ago, else NOTFOUND. Blocks on the local disk. */
int  qc_disk_find_pin(struct qc_disk *d, const char *key, const char *scope, uint32_t max_age_s,
                      struct qc_pin *pin);
/* Note what it is now (if it has validators). Blocks on the local disk; mostly one read of a small file. */
void qc_disk_note_pin(struct qc_disk *d, const char *key, const char *scope,
                      const struct qc_pin *pin);

/* Forget what was noted: it was written anew. */
void qc_disk_forget_pin(struct qc_disk *d, const char *key, const char *scope);

/* Wrap below (owned, also on failure). *out is below itself where nothing can be kept: the pin has no
 * validators, so that another generation could not be told from this one. NOMEM. */
int qc_disk_tier_create(struct qc_tier **out, struct qc_disk *d, const char *key, const char *scope,
                        const struct qc_pin *pin, struct qc_tier *below, qchain_error *err);

/* ---- maintenance: qchain_cache_* ---- */
int qc_disk_stat(const char *dir, qchain_cache_info *out, qchain_error *err);
int qc_disk_verify(const char *dir, qchain_cache_info *out, qchain_error *err);
int qc_disk_trim(const char *dir, uint64_t max_bytes, qchain_cache_info *out, qchain_error *err);
int qc_disk_clear(const char *dir, qchain_error *err);

#endif
