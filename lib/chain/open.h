/* SPDX-License-Identifier: MIT */
/* What opening a chain and opening one of its layers later have in common. */
#ifndef QC_CHAIN_OPEN_H
#define QC_CHAIN_OPEN_H

#include "chain/gate.h"

/* Open what a target says, as a store. file_flags: QC_FILE_*. real_path receives a local
 * file's, to be freed with qc_free. */
int qc_open_store(qchain_env *env, struct qc_gate *gate, uint32_t file_flags, struct qc_target *t,
                  struct qc_store **out, char **real_path, qchain_error *err);

/* A chain opened in two parts, the layers above a base, and the base, which is to be written, with what is below it:
 * each file is opened, and locked, once. Zeros but for what is said to be set. */
struct qc_split {
    const char      *base;   /* set by the caller: the name that the layer has in the chain; NULL: the top's
                                backing file */
    struct qc_gate   gate;   /* of the upper part; serves the lower one as well */
    struct qc_target target; /* what the base is to be opened by */
};

/* Open the layers above. NOTFOUND if the chain has no such base. On success qc_split_finish follows. */
int qc_chain_open_upper(qchain **out, qchain_env *env, const char *name, const qchain_open_opts *opts,
                        struct qc_split *split, qchain_error *err);
/* Open the base for writing, with nobody else reading it, and what is below. opts: the same, of which
 * what concerns the top alone is not minded. */
int qc_chain_open_lower(qchain **out, qchain *upper, const qchain_open_opts *opts, struct qc_split *split,
                        qchain_error *err);
void qc_split_finish(struct qc_split *split);

/* Is what a layer refers to the base? */
bool qc_split_is_base(const struct qc_split *split, const struct qc_layer *from, const struct qc_target *t);
int  qc_split_not_found(const struct qc_split *split, const qchain *upper, qchain_error *err);

/* The format of a name; NULL if there is none. */
const struct qc_format *qc_open_format(const char *name);

#endif
