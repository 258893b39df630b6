/* SPDX-License-Identifier: MIT */
#include "format/bitmap.h"

#include <string.h>

#include "util/alloc.h"
#include "util/vec.h"

static void free_bitmap(struct qc_bitmap *b)
{
    if (b) {
        qc_bits_destroy(b->bits);
        qc_free(b->name);
    }
    qc_free(b);
}

struct qc_bitmap *qc_bitmap_append(struct qc_bitmap_list *l, const char *name, size_t name_len)
{
    struct qc_bitmap *b = qc_calloc(1, sizeof(*b));
    void *p = l->b;
    int rc = qc_grow(&p, &l->cap, l->n + 1, sizeof(l->b[0]));

    l->b = p;
    if (b)
        b->name = qc_malloc(name_len + 1);
    if (rc != 0 || !b || !b->name) {
        free_bitmap(b);
        return NULL;
    }
    memcpy(b->name, name, name_len);
    b->name[name_len] = 0;
    b->name_len = (uint32_t)name_len;
    b->slot = QC_BITMAP_NEW;
    l->b[l->n++] = b;
    return b;
}

void qc_bitmap_remove(struct qc_bitmap_list *l, size_t i)
{
    free_bitmap(l->b[i]);
    memmove(&l->b[i], &l->b[i + 1], (l->n - i - 1) * sizeof(l->b[0]));
    l->n--;
}

void qc_bitmap_list_finish(struct qc_bitmap_list *l)
{
    for (size_t i = 0; i < l->n; i++)
        free_bitmap(l->b[i]);
    qc_free(l->b);
    *l = (struct qc_bitmap_list){0};
}
