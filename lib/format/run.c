/* SPDX-License-Identifier: MIT */
#include "format/run.h"

#include "util/alloc.h"
#include "util/vec.h"

#include <qchain.h>

int qc_runs_reserve(struct qc_runs *l, size_t n)
{
    void *p = l->run;
    int rc = qc_grow(&p, &l->cap, n, sizeof(*l->run));

    l->run = p;
    return rc;
}

/* True if b goes on where a ends, in the disk and in the file. */
static int continues(const struct qc_run *a, const struct qc_run *b)
{
    enum qc_kind kind = qc_run_kind(a);

    if (kind != qc_run_kind(b) || kind == QC_COMPRESSED || a->source != b->source)
        return 0;
    if (qc_run_end(a) != b->guest || a->length > UINT32_MAX - b->length)
        return 0;
    return !qc_kind_has_host(kind) || qc_run_host(a) + qc_run_length(a) == qc_run_host(b);
}

int qc_runs_add(struct qc_runs *l, struct qc_run r)
{
    if (r.length == 0)
        return QCHAIN_OK;
    if (l->n > 0 && continues(&l->run[l->n - 1], &r)) {
        l->run[l->n - 1].length += r.length;
        return QCHAIN_OK;
    }
    if (l->n == l->cap) {
        int rc = qc_runs_reserve(l, l->n + 1);

        if (rc < 0)
            return rc;
    }
    l->run[l->n++] = r;
    return QCHAIN_OK;
}

void qc_runs_finish(struct qc_runs *l)
{
    qc_free(l->run);
    l->run = NULL;
    l->n = 0;
    l->cap = 0;
}
