/* SPDX-License-Identifier: MIT */
/*
 * Pulling into the tip what the layers below it show, while the tip is in use: a place is written only if the tip
 * holds nothing there once its clusters are locked, so what a guest writes meanwhile stands. What the disk reads as
 * does not change, so dirty bitmaps take no note.
 */
#ifndef QC_CHAIN_PULL_H
#define QC_CHAIN_PULL_H

#include "chain/chain.h"
#include "chain/tip.h"

/* Store bytes that were read of the layers below; buf is NULL for zeros, which the tip then holds itself. The range is
 * of whole sectors, but for the disk's end; what has come to lie behind that is left out. */
int qc_chain_pull(qchain *c, const char *buf, uint64_t length, uint64_t offset, qchain_error *err);
/* The same for whole clusters, compressed. */
int qc_chain_pull_compressed(qchain *c, const char *buf, uint64_t length, uint64_t offset, qchain_error *err);
/* The same for streams of whole clusters; where the tip holds a part of the cluster the rest is read of the chain. */
int qc_chain_pull_streams(qchain *c, const struct qc_stream *s, size_t n, qchain_error *err);

/* For those who hold the locks of all clusters, inside and admitted. Does the tip hold anything at `from`, and how far
 * is it so? */
int qc_pull_holds(qchain *c, uint64_t from, uint64_t to, uint64_t *end, bool *held, qchain_error *err);
/* Store buf, or zeros, where the tip holds nothing. */
int qc_pull_locked(qchain *c, const char *buf, uint64_t from, uint64_t to, qchain_error *err);

/* A read of a disk that keeps what it reads (QCHAIN_OPEN_COPY_ON_READ). A failure to keep it is logged, no more. */
int qc_pull_readv(qchain *c, const qchain_iov *iov, size_t n_iov, uint64_t length, uint64_t offset, qchain_error *err);
/* Would such a read of these runs have something to keep? */
bool qc_pull_keeps(const qchain *c, const struct qc_run *run, size_t n);

#endif
