/* SPDX-License-Identifier: MIT */
/*
 * Layers behind URLs that only a sidecar index knows, compared with their stores: when the chain is
 * opened, or one after the other while it is in use (setting `verify` of qchain_remote). A layer that is
 * read is compared by that anyway, since each request asks for the object that it was.
 */
#ifndef QC_CHAIN_VERIFY_H
#define QC_CHAIN_VERIFY_H

#include "chain/chain.h"

struct qc_sidecar;

/* What an environment's chains wait for their turn at; starts nothing. NULL: no memory. */
struct qc_verifier *qc_verifier_create(qchain_env *env);
/* No chain is left: have its task end soon. NULL is fine. */
void qc_verifier_stop(struct qc_verifier *v);
/* The task has ended. NULL is fine. */
void qc_verifier_destroy(struct qc_verifier *v);

/* In strict mode: is everything that sc knows what it was? c has its layers. CHANGED, or why a store
 * does not tell. */
int  qc_verify_all(qchain *c, const struct qc_sidecar *sc, qchain_error *err);
/* In background mode: begin, some time from now. Nothing of a chain that is open may change its layers'
 * numbers. NOMEM. */
int  qc_verify_begin(qchain *c, qchain_error *err);
/* Let it be; waits for nothing. */
void qc_verify_end(qchain *c);

#endif
