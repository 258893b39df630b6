/* SPDX-License-Identifier: MIT */
/* The gate: every reference that an image makes is decided here before anything
 * is opened, and checked again on what was opened. */
#ifndef QC_CHAIN_GATE_H
#define QC_CHAIN_GATE_H

#include "chain/chain.h"
#include "chain/names.h"

struct qc_gate {
    qchain_policy  *policy;   /* its own copy, with the top's directories added */
    qchain_resolver resolver; /* may be NULL */
    void           *resolver_data;
    char           *top_dir; /* of the top's name as given; NULL: none, or a URL */
    char           *top_url; /* its directory, with a user if it has one; NULL: no URL */
    uint32_t        above;   /* layers above those that it decides for, as the resolver counts them */
};

/* One thing to open. */
struct qc_target {
    char       *path;     /* a local file, or a URL; also the layer's name */
    char       *format;   /* NULL: to be probed */
    int         fd;       /* -1, or a descriptor to duplicate (borrowed) */
    bool        is_store; /* use `store` (owned until it is used) */
    bool        is_url;
    bool        vetted;   /* chosen by the user or the resolver: not checked */
    bool        block_device; /* one is welcome */
    qchain_store store;
};

void qc_target_init(struct qc_target *t);
void qc_target_finish(struct qc_target *t); /* closes a store that was not used */

int  qc_gate_init(struct qc_gate *g, qchain_env *env, const qchain_open_opts *opts,
                  qchain_error *err);
void qc_gate_finish(struct qc_gate *g);

/* Allow the directory of the top's name as given; of a URL what lies beneath it. */
int qc_gate_add_name(struct qc_gate *g, const char *name, qchain_error *err);
/* Allow the directory of its real path, if that is where the file is that was
 * opened (id). */
int qc_gate_add_real_path(struct qc_gate *g, const char *real_path,
                          const qchain_store_identity *id, qchain_error *err);

/* Decide what layer `layer` of the chain may open for a name that its image
 * records. kind: QCHAIN_REF_*. format: recorded, or NULL. */
int qc_gate_decide(struct qc_gate *g, const struct qc_layer *from, uint32_t layer, uint32_t kind,
                   const char *name, const char *format, struct qc_target *out,
                   qchain_error *err);

/* For qc_file_opts.gate: data is a qc_gate. */
int qc_gate_check_path(void *data, const char *real_path, qchain_error *err);

/* May an image refer to this URL? Anywhere if trusted, else beneath the top's, or what the
 * policy allows. For URLs that are opened later, too. INVAL, ACCESS, NOMEM. */
int qc_gate_check_url(const struct qc_gate *g, const char *url, qchain_error *err);

#endif
