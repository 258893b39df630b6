/* SPDX-License-Identifier: MIT */
/*
 * Where the bytes of a disk lie in local files as they are shown, the file system can let a raw image have them without
 * anybody looking at them: whole blocks at a time, and at once.
 */
#include "ops/convert.h"

#include "chain/tip.h"
#include "io/file_share.h"
#include "ops/job.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/vec.h"

#define BATCH 512
#define BLOCK UINT64_C(4096)
#define STEP (UINT64_C(1) << 30)
#define GAP (UINT64_C(1) << 20) /* shared, and copied nevertheless where both neighbours are */

struct sharing {
    qchain           *from, *to;
    bool              copy, is_zero;
    bool              no;   /* it was tried, and there is no way */
    qchain_job       *job;
    struct qc_ranges *left;
    uint64_t          shared;
};

static int leave(struct sharing *s, uint64_t start, uint64_t end, qchain_error *err)
{
    struct qc_ranges *l = s->left;
    struct qc_range *last = l->n > 0 ? &l->r[l->n - 1] : NULL;

    if (start >= end)
        return 0;
    if (last && start - last->end <= GAP) {
        last->end = end;
        return 0;
    }
    if (qc_grow((void **)&l->r, &l->cap, l->n + 1, sizeof(*l->r)) != 0)
        return qc_fail_nomem(err);
    l->r[l->n++] = (struct qc_range){start, end};
    return 0;
}

/* Whole blocks [start, end) of the disk, which lie at host. */
static int share(struct sharing *s, struct qc_store *file, uint64_t start, uint64_t end, uint64_t host,
                 qchain_error *err)
{
    uint64_t n, done = 0;
    int ret = 0;

    for (; ret == 0 && start < end && !s->no; start += done, host += done) {
        n = qc_min64(end - start, STEP);
        ret = qc_job_check(s->job, 0, err);
        if (ret == 0)
            ret = qc_file_share(s->to->tip->data, start, file, host, n, s->copy, &done, err);
        s->no = done < n;
        s->shared += done;
        qc_job_pass(s->job, done);
    }
    return ret == 0 ? leave(s, start, end, err) : ret;
}

static int put(struct sharing *s, const qchain_extent *e, qchain_error *err)
{
    uint64_t start = qc_align_up(e->offset, BLOCK), end = qc_align_down(e->offset + e->length, BLOCK);
    uint64_t host = e->host_offset + (start - e->offset);
    struct qc_store *file;
    int ret;

    if (e->flags & QCHAIN_EXTENT_ZERO && s->is_zero)
        return 0;
    if (!(e->flags & QCHAIN_EXTENT_HAS_OFFSET) || e->flags & QCHAIN_EXTENT_ZERO || host % BLOCK != 0 ||
        start >= end || s->no)
        return leave(s, e->offset, e->offset + e->length, err);
    file = qc_source_store(s->from, e->source, err);
    if (!file)
        return err->code;
    ret = leave(s, e->offset, start, err);
    if (ret == 0) /* a file may be shorter than what it is said to hold: that is zeros */
        ret = qc_store_size(file) < host + (end - start) ? leave(s, start, end, err)
                                                         : share(s, file, start, end, host, err);
    return ret == 0 ? leave(s, end, e->offset + e->length, err) : ret;
}

int qc_convert_share(qchain *from, qchain *to, bool is_zero, bool copy, qchain_job *job, struct qc_ranges *left,
                     uint64_t *shared, qchain_error *err)
{
    struct sharing s = {.from = from, .to = to, .copy = copy, .is_zero = is_zero, .job = job, .left = left};
    qchain_extent *e = qc_calloc(BATCH, sizeof(*e));
    uint64_t at = 0, next = 0;
    uint32_t n;
    int ret = e ? 0 : qc_fail_nomem(err);

    while (ret == 0 && next < from->size && !s.no) {
        n = 0;
        ret = qc_chain_map(from, next, from->size, e, BATCH, &n, &next, 0, err);
        for (uint32_t i = 0; ret == 0 && i < n; i++) {
            ret = put(&s, &e[i], err);
            at = e[i].offset + e[i].length;
        }
    }
    if (ret == 0)
        ret = leave(&s, at, from->size, err);
    *shared = s.shared;
    qc_free(e);
    return ret;
}
