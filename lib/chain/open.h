/* SPDX-License-Identifier: MIT */
/* What opening a chain and opening one of its layers later have in common. */
#ifndef QC_CHAIN_OPEN_H
#define QC_CHAIN_OPEN_H

#include "chain/gate.h"

/* Open what a target says, as a store. file_flags: QC_FILE_*. real_path receives a local
 * file's, to be freed with qc_free. */
int qc_open_store(qchain_env *env, struct qc_gate *gate, uint32_t file_flags, struct qc_target *t,
                  struct qc_store **out, char **real_path, qchain_error *err);

/* The format of a name; NULL if there is none. */
const struct qc_format *qc_open_format(const char *name);

#endif
