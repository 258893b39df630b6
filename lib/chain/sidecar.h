/* SPDX-License-Identifier: MIT */
/*
 * A sidecar index in use: it knows the map of the lowest layers of a chain, from one
 * of them, whose sidecar it is, down to the bottom. When it may be believed is said in
 * <qchain.h>; its bytes are specified in chain/index_file.h.
 */
#ifndef QC_CHAIN_SIDECAR_H
#define QC_CHAIN_SIDECAR_H

#include "chain/chain.h"
#include "chain/gate.h"
#include "chain/index_file.h"
#include "net/pin.h"

/* A layer whose modification time is less than this before the build is not believed. */
#define QC_SIDECAR_RACY_NS UINT64_C(2000000000)

struct qc_opening;
struct qc_sidecar;

#define QC_SIDECAR_SUFFIX ".qci"

/* Look for the sidecar of the last layer that c has, whose image is open, and if it may be
 * believed add the layers below as it tells them and set c->sidecar, which then takes the
 * gate's content over. path: NULL = beside the layer. side: the sidecar is an object,
 * which is being opened; it is used up in any case. That there is none, or one that is not
 * believed, is no failure (but logged): c is as it was. */
int  qc_sidecar_attach(qchain *c, struct qc_gate *gate, uint32_t file_flags, uint32_t max_layers,
                       const char *path, struct qc_opening *side, qchain_error *err);
void qc_sidecar_destroy(struct qc_sidecar *sc); /* NULL is fine */

/* Read and check all but the pages of a sidecar, a file or an object; *store receives it open. tip:
 * its image, whose owner and writers may be those of the file, too; a URL: nobody's but the caller's
 * or root's; NULL: anybody. NOTFOUND if there is none. */
int qc_sidecar_load(struct qc_ixf *x, struct qc_store **store, qchain_env *env, const char *path,
                    const char *tip, qchain_error *err);
/* The same of a store that is open already; it stays the caller's. */
int qc_sidecar_parse(struct qc_ixf *x, struct qc_store *store, qchain_error *err);
/* What is recorded of a remote file as a pin. CORRUPT. */
int qc_sidecar_pin(struct qc_pin *pin, const struct qc_ixf_source *s, qchain_error *err);
/* Open source i, which lies behind a URL, as the sidecar pins it. */
int qc_sidecar_open_remote(qchain *c, uint32_t i, const char *url, struct qc_store **out,
                           qchain_error *err);
/* Read and check page i, which has x->page[i].bytes. */
int qc_sidecar_read_page(const struct qc_ixf *x, struct qc_store *store, uint32_t i, uint8_t *p,
                         qchain_error *err);
/* "PATH.qci", to be freed with qc_free; NULL: no memory. */
char *qc_sidecar_path(const char *image);
/* Where the sidecar of layer k would be, which is open; to be freed. NULL: no memory, or there is no such
 * place: beside a URL with a signature that is for nothing else. */
char *qc_sidecar_beside(const qchain *c, uint32_t k);

/* The first layer that the map of c comes from a sidecar of; n_layers if from none, also
 * when it was found damaged. */
uint32_t qc_sidecar_first(const qchain *c);
/* Append the runs of [start, end) that layers qc_sidecar_first.. have together; end lies
 * within the first one's virtual size. On failure the sidecar is not asked again, and the
 * layers must be. */
int qc_sidecar_runs(qchain *c, uint64_t start, uint64_t end, struct qc_runs *out,
                    qchain_error *err);
/* The first offset >= guest at which there may be something, UINT64_MAX if there is nothing;
 * cheap, may err towards too low. */
uint64_t qc_sidecar_next_used(const qchain *c, uint64_t guest);

/* What it says of itself, and of the file that is the chain's source i. */
const struct qc_ixf *qc_sidecar_content(const struct qc_sidecar *sc);
struct qc_store *qc_sidecar_store(const struct qc_sidecar *sc);
const struct qc_ixf_source *qc_sidecar_source(const struct qc_sidecar *sc, uint32_t i);
/* Is source i an object that nothing was asked for yet? And as what it is known. */
bool qc_sidecar_pins(const struct qc_sidecar *sc, const qchain *c, uint32_t i, struct qc_pin *pin);
/* Where a file of that name is, wherever the program went since; to be freed with qc_free.
 * NULL: no memory. */
char *qc_sidecar_file_path(const struct qc_sidecar *sc, const char *name);
/* To open these files with. */
struct qc_gate *qc_sidecar_gate(struct qc_sidecar *sc);
uint32_t        qc_sidecar_file_flags(const struct qc_sidecar *sc);

#endif
