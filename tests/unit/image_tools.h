/* SPDX-License-Identifier: MIT */
/* What tests of formats share: a store in memory, and reading one layer. */
#ifndef QC_TESTS_IMAGE_TOOLS_H
#define QC_TESTS_IMAGE_TOOLS_H

#include <stddef.h>
#include <stdint.h>

#include "format/format.h"

/* A store over p[0..size), which must outlive it; allocated is what it says of the
 * space it takes. NULL when there is no memory. */
struct qc_store *memory_store(const void *p, uint64_t size, uint64_t allocated);

/* The bytes of a file, malloc'ed; NULL if it cannot be read. */
uint8_t *load_file(const char *path, uint64_t *size);

/* A small generator of numbers with a seed; never returns the same twice in a row. */
uint64_t random_next(uint64_t *state);

/* Read the disk that one layer shows, zeros where it holds nothing, into out
 * (virtual_size bytes). data: the external data file, or NULL. */
int read_layer(struct qc_image *img, struct qc_store *data, uint8_t *out, qchain_error *err);

/* The map of one layer as text, a run a line: "guest length kind host sectors". To
 * be freed; NULL and err if it cannot be mapped. step: bytes a call of map. */
char *map_text(struct qc_image *img, uint64_t step, qchain_error *err);

#endif
