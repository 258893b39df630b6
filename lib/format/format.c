/* SPDX-License-Identifier: MIT */
#include "format/format.h"

#include <string.h>

const struct qc_format *qc_format_by_name(const struct qc_format *const *table, const char *name)
{
    for (; *table; table++)
        if (name && strcmp((*table)->name, name) == 0)
            return *table;
    return NULL;
}

const struct qc_format *qc_format_probe(const struct qc_format *const *table,
                                        const uint8_t *head, size_t len)
{
    const struct qc_format *fallback = NULL;

    for (; *table; table++) {
        if (!(*table)->probe) {
            if (!fallback)
                fallback = *table;
        } else if ((*table)->probe(head, len)) {
            return *table;
        }
    }
    return fallback;
}
