/* SPDX-License-Identifier: MIT */
/* Two disks side by side: what reads as zeros in both is not read. */
#include "ops/compare.h"

#include <string.h>

#include "chain/recorder.h"
#include "ops/copy.h"
#include "util/alloc.h"
#include "util/bytes.h"

#define MAP_BATCH 512
#define CHUNK (UINT64_C(512) << 10)

/* What a strict comparison wants to be equal. */
#define STATUS                                                                                     \
    (QCHAIN_EXTENT_PRESENT | QCHAIN_EXTENT_DATA | QCHAIN_EXTENT_ZERO | QCHAIN_EXTENT_HAS_OFFSET)

/* One disk, walked along its extents. */
struct side {
    qchain        *c;
    qchain_extent *extent;
    uint32_t       n, at;
    uint64_t       mapped_to;
};

struct compare {
    struct side  side[2];
    uint64_t     size;       /* of the larger disk */
    bool         strict;
    qchain_job  *job;
    uint64_t     started_ns;

    pthread_mutex_t lock;    /* guards all below, and the sides */
    uint64_t     pos;        /* the next piece starts here */
    uint64_t     differ_at;  /* the least offset at which they differ so far */
    uint32_t     verdict;    /* what differs there */
    int          result;     /* the first failure */
    uint32_t     failed;     /* the side that failed: 1 or 2 */
    qchain_error *err;
};

/* What counts of an extent. Zeros beyond the end of a shorter layer count as that
 * layer's, as in qemu-img compare. */
static uint32_t status_of(const struct side *s, const qchain_extent *e)
{
    bool shorter = !(e->flags & QCHAIN_EXTENT_PRESENT) && e->layer + 1 < s->c->n_layers;

    return (e->flags & STATUS) | (shorter ? QCHAIN_EXTENT_PRESENT : 0);
}

/* What a side is at pos, and up to where; beyond its end it is absent zeros. */
static int side_at(struct side *s, uint64_t pos, uint64_t size, uint32_t *status,
                   uint64_t *until, qchain_error *err)
{
    int ret;

    if (pos >= s->c->size) {
        *status = QCHAIN_EXTENT_ZERO;
        *until = size;
        return 0;
    }
    while (s->at < s->n && s->extent[s->at].offset + s->extent[s->at].length <= pos)
        s->at++;
    if (s->at == s->n) {
        ret = qc_chain_map(s->c, pos, s->c->size, s->extent, MAP_BATCH, &s->n, &s->mapped_to, 0,
                           err);
        if (ret != 0)
            return ret;
        s->at = 0;
    }
    *status = status_of(s, &s->extent[s->at]);
    *until = s->extent[s->at].offset + s->extent[s->at].length;
    return 0;
}

static void found(struct compare *p, uint64_t offset, uint32_t verdict)
{
    if (offset < p->differ_at) {
        p->differ_at = offset;
        p->verdict = verdict;
    }
}

/* The next piece that must be read: [*start, *end), empty when all is done.
 * Under the lock. */
static int next_piece(struct compare *p, uint64_t *start, uint64_t *end, qchain_error *err)
{
    uint32_t status[2];
    uint64_t until[2], stop;
    int ret;

    *start = *end = 0;
    while (p->pos < qc_min64(p->size, p->differ_at)) {
        for (int i = 0; i < 2; i++) {
            ret = side_at(&p->side[i], p->pos, p->size, &status[i], &until[i], err);
            if (ret != 0) {
                p->failed = (uint32_t)i + 1;
                return ret;
            }
        }
        if (p->strict && status[0] != status[1] &&
            p->pos < qc_min64(p->side[0].c->size, p->side[1].c->size)) {
            found(p, p->pos, QCHAIN_DIFFER_ALLOC);
            break;
        }
        stop = qc_min64(qc_min64(until[0], until[1]), p->size);
        if (status[0] & status[1] & QCHAIN_EXTENT_ZERO) {
            if (*end > *start)
                break;
            qc_job_add(p->job, stop - p->pos);
            p->pos = stop;
            continue;
        }
        if (*end == *start)
            *start = p->pos;
        p->pos = *end = qc_min64(stop, *start + CHUNK);
        if (*end == *start + CHUNK)
            break;
    }
    return 0;
}

/* The bytes of a side; beyond its end zeros. */
static int read_side(const struct side *s, char *buf, uint64_t start, uint64_t end,
                     qchain_error *err)
{
    size_t len = (size_t)(end - start);
    qchain_iov iov = {buf, start < s->c->size ? (size_t)qc_min64(len, s->c->size - start) : 0};

    memset(buf + iov.len, 0, len - iov.len);
    qc_note_read(s->c, start, iov.len);
    return iov.len ? qc_chain_readv(s->c, &iov, 1, iov.len, start, QC_CHAIN_READ_SERIAL, err) : 0;
}

static size_t first_difference(const char *a, const char *b, size_t len)
{
    size_t at = 0;

    while (at + 512 <= len && memcmp(a + at, b + at, 512) == 0)
        at += 512;
    while (at < len && a[at] == b[at])
        at++;
    return at;
}

static int compare_piece(struct compare *p, char *buf, uint64_t start, uint64_t end,
                         uint32_t *failed, qchain_error *err)
{
    size_t len = (size_t)(end - start), at;
    int ret;

    for (int i = 0; i < 2; i++) {
        *failed = (uint32_t)i + 1;
        ret = read_side(&p->side[i], buf + (size_t)i * CHUNK, start, end, err);
        if (ret != 0)
            return ret;
    }
    if (memcmp(buf, buf + CHUNK, len) != 0) {
        at = first_difference(buf, buf + CHUNK, len);
        pthread_mutex_lock(&p->lock);
        found(p, start + at, QCHAIN_DIFFER_CONTENT);
        pthread_mutex_unlock(&p->lock);
    }
    qc_job_add(p->job, len);
    return 0;
}

static void note_failure(struct compare *p, int ret, uint32_t failed, const qchain_error *err)
{
    pthread_mutex_lock(&p->lock);
    if (p->result == 0) {
        p->result = ret;
        if (failed)
            p->failed = failed;
        qc_error_copy(p->err, err);
    }
    pthread_mutex_unlock(&p->lock);
}

static int worker(void *ctx, uint64_t i)
{
    struct compare *p = ctx;
    char *buf = qc_aligned(4096, 2 * CHUNK);
    uint64_t start, end;
    uint32_t failed = 0;
    qchain_error err;
    int ret = 0;

    (void)i;
    qc_error_init(&err);
    if (!buf)
        ret = qc_fail_nomem(&err);
    while (ret == 0) {
        ret = qc_job_check(p->job, p->started_ns, &err);
        if (ret != 0)
            break;
        start = end = failed = 0;
        pthread_mutex_lock(&p->lock);
        if (p->result == 0)
            ret = next_piece(p, &start, &end, &err);
        pthread_mutex_unlock(&p->lock);
        if (ret != 0 || start == end)
            break;
        ret = compare_piece(p, buf, start, end, &failed, &err);
    }
    if (ret != 0)
        note_failure(p, ret, failed, &err);
    qc_free(buf);
    return 0;
}

int qc_compare(qchain *a, qchain *b, qchain_compare_opts *opts, qchain_error *err)
{
    struct compare p = {.side = {{.c = a}, {.c = b}}, .size = qc_max64(a->size, b->size),
                        .strict = opts->flags & QCHAIN_COMPARE_STRICT, .job = opts->job,
                        .differ_at = UINT64_MAX, .err = err, .started_ns = qc_now_ns()};
    unsigned threads = qc_copy_threads(a, opts->threads);
    struct qc_pool *pool;

    opts->result = QCHAIN_SAME;
    opts->failed = 0;
    if (p.strict && a->size != b->size) {
        opts->result = QCHAIN_DIFFER_SIZE;
        return 0;
    }
    pool = qc_pool_create(threads - 1);
    p.side[0].extent = qc_calloc(MAP_BATCH, sizeof(qchain_extent));
    p.side[1].extent = qc_calloc(MAP_BATCH, sizeof(qchain_extent));
    pthread_mutex_init(&p.lock, NULL);
    qc_job_begin(opts->job, p.size);
    if (pool && p.side[0].extent && p.side[1].extent)
        qc_pool_run(pool, threads, threads, worker, &p);
    else
        p.result = qc_fail_nomem(err);
    qc_pool_destroy(pool);
    pthread_mutex_destroy(&p.lock);
    qc_free(p.side[0].extent);
    qc_free(p.side[1].extent);
    if (p.result != 0) {
        opts->failed = p.failed;
        return p.result;
    }
    if (p.differ_at != UINT64_MAX) {
        opts->result = p.verdict;
        opts->offset = p.differ_at;
    }
    return 0;
}
