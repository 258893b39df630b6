/* SPDX-License-Identifier: MIT */
/* Who read a byte first: a sweep over the disk, with a heap of the records that cover the place. */
#include "ops/trace_load.h"

#include <stdlib.h>

#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"

/* A record's beginning; then also what was found of it. */
struct part {
    uint64_t start, end;
    uint32_t record;
};

struct sweep {
    const qchain_trace_record *r;
    struct part *begin;  /* of all records, by offset */
    size_t       n, next;
    uint32_t    *heap;   /* records, the earliest first; some may have ended */
    size_t       n_heap;
    struct part *found;
    size_t       n_found;
};

static int by_start(const void *a, const void *b)
{
    const struct part *x = a, *y = b;

    if (x->start != y->start)
        return x->start < y->start ? -1 : 1;
    return x->record < y->record ? -1 : x->record > y->record;
}

static int by_record(const void *a, const void *b)
{
    const struct part *x = a, *y = b;

    if (x->record != y->record)
        return x->record < y->record ? -1 : 1;
    return x->start < y->start ? -1 : x->start > y->start;
}

static void push(struct sweep *s, uint32_t record)
{
    size_t i = s->n_heap++, up;

    for (; i > 0 && s->heap[up = (i - 1) / 2] > record; i = up)
        s->heap[i] = s->heap[up];
    s->heap[i] = record;
}

static void pop(struct sweep *s)
{
    uint32_t last = s->heap[--s->n_heap];
    size_t i = 0, down;

    while ((down = 2 * i + 1) < s->n_heap) {
        if (down + 1 < s->n_heap && s->heap[down + 1] < s->heap[down])
            down++;
        if (s->heap[down] >= last)
            break;
        s->heap[i] = s->heap[down];
        i = down;
    }
    s->heap[i] = last;
}

static uint64_t end_of(const struct sweep *s, uint32_t record)
{
    return s->r[record].offset + s->r[record].length;
}

static void emit(struct sweep *s, uint64_t start, uint64_t end, uint32_t record)
{
    struct part *last = s->n_found ? &s->found[s->n_found - 1] : NULL;

    if (last && last->record == record && last->end == start)
        last->end = end;
    else
        s->found[s->n_found++] = (struct part){start, end, record};
}

/* Each step passes the beginning of a record or the end of one, so there are at most 2 * n parts. */
static void sweep(struct sweep *s)
{
    uint64_t at = 0, stop;

    for (;;) {
        while (s->n_heap > 0 && end_of(s, s->heap[0]) <= at)
            pop(s);
        if (s->n_heap == 0) {
            if (s->next == s->n)
                return;
            at = s->begin[s->next].start;
        } else {
            stop = end_of(s, s->heap[0]);
            if (s->next < s->n)
                stop = qc_min64(stop, s->begin[s->next].start);
            emit(s, at, stop, s->heap[0]);
            at = stop;
        }
        for (; s->next < s->n && s->begin[s->next].start == at; s->next++)
            push(s, s->begin[s->next].record);
    }
}

int qc_trace_distinct(const qchain_trace_record *r, size_t n, qchain_trace_record **out, size_t *n_out,
                      qchain_error *err)
{
    struct sweep s = {.r = r, .n = n};
    int ret = 0;

    *out = NULL;
    *n_out = 0;
    s.begin = qc_calloc(n, sizeof(*s.begin));
    s.heap = qc_calloc(n, sizeof(*s.heap));
    s.found = qc_calloc(n, 2 * sizeof(*s.found));
    if (!s.begin || !s.heap || !s.found) {
        ret = qc_fail_nomem(err);
        goto out;
    }
    for (size_t i = 0; i < n; i++)
        s.begin[i] = (struct part){.start = r[i].offset, .record = (uint32_t)i};
    qsort(s.begin, n, sizeof(*s.begin), by_start);
    sweep(&s);
    qsort(s.found, s.n_found, sizeof(*s.found), by_record);
    *out = qc_calloc(s.n_found, sizeof(**out));
    if (!*out) {
        ret = qc_fail_nomem(err);
        goto out;
    }
    for (size_t i = 0; i < s.n_found; i++)
        (*out)[i] = (qchain_trace_record){r[s.found[i].record].time_us, s.found[i].start,
                                          s.found[i].end - s.found[i].start, 1};
    *n_out = s.n_found;
out:
    qc_free(s.begin);
    qc_free(s.heap);
    qc_free(s.found);
    return ret;
}
