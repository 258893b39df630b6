/* SPDX-License-Identifier: MIT */
/* A store in memory that can be written, and remembers how. */
#ifndef QC_TESTS_WRITTEN_STORE_H
#define QC_TESTS_WRITTEN_STORE_H

#include <stddef.h>
#include <stdint.h>

#include "io/store.h"

enum written_kind { WRITTEN_BYTES, WRITTEN_FLUSH, WRITTEN_SIZE };

struct written_step {
    enum written_kind kind;
    uint64_t          offset, length;
    uint8_t          *bytes;
};

struct written {
    uint8_t             *p;
    uint64_t             size, room;
    struct written_step *step; /* all that was done, in order */
    size_t               n_steps;
    size_t               fail_at; /* the write or flush that fails with IO, from 1 on; 0: none */
};

/* Over w, all zeros at first, which must outlive the store. NULL when there is no memory. */
struct qc_store *written_store(struct written *w);
/* Set what it holds, before a store is made. */
void written_set(struct written *w, const void *p, uint64_t size);
/* Forget the steps. */
void written_forget(struct written *w);
/* Free what it holds. */
void written_free(struct written *w);

#endif
