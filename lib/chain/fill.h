/* SPDX-License-Identifier: MIT */
/* Merging layers' maps: the runs of a range as seen through some layers. */
#ifndef QC_CHAIN_FILL_H
#define QC_CHAIN_FILL_H

#include "format/run.h"
#include <qchain.h>

/* Put into out (emptied first) the runs of [start, end) as seen through layers
 * [first, last) as if first were the top, from the top down, stopping when all
 * is covered. What none of them holds is left out, except zeros beyond the end
 * of a shorter one among them and, when the bottom is one of them, `end` runs:
 * then all is covered. */
int qc_fill_layers(struct qchain *c, uint32_t first, uint32_t last, uint64_t start, uint64_t end,
                   struct qc_runs *out, qchain_error *err);

/* The same through layers [0, last), what is far away of all of them at once. */
int qc_fill_upper(struct qchain *c, uint32_t last, uint64_t start, uint64_t end, struct qc_runs *out,
                  qchain_error *err);

/* The same through all layers, with groups of layers on several threads. */
int qc_fill_all(struct qchain *c, uint64_t start, uint64_t end, struct qc_runs *out,
                qchain_error *err);

/* Insert into acc the parts of add[0..n) that acc does not cover. Both sorted.
 * covered: bytes inserted are added. */
int qc_runs_merge_under(struct qc_runs *acc, const struct qc_run *add, size_t n,
                        uint64_t *covered);

/* Join neighbours that continue each other. */
void qc_runs_join(struct qc_runs *l);

/* The first offset >= guest at which any of layers [first, last), seen as if first were the
 * top, may hold something, at most end. err is not NULL. */
int qc_fill_next_used(struct qchain *c, uint32_t first, uint32_t last, uint64_t guest, uint64_t end,
                      uint64_t *used, qchain_error *err);

/* Where no layer holds anything: the run at offset, which reaches at most (rounded up to
 * 512) to end; without looking at any layer. */
struct qc_run qc_fill_nothing(const struct qchain *c, uint64_t offset, uint64_t end);

#endif
