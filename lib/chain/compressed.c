/* SPDX-License-Identifier: MIT */
#include "chain/compressed.h"

#include <string.h>

#include "chain/chain.h"
#include "chain/codec.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/vec.h"

/* Neighbours in the file are fetched by one call, up to this many bytes; it is
 * also what one task decodes. */
#define STRETCH_MAX (256u << 10)
#define FAR_WIDTH 32 /* stretches of one read, at once */

void qc_decode_init(struct qc_decode_list *l)
{
    memset(l, 0, sizeof(*l));
}

void qc_decode_finish(struct qc_decode_list *l)
{
    qc_free(l->piece);
}

int qc_decode_add(struct qc_decode_list *l, const struct qc_run *r, uint64_t offset, void *buf,
                  size_t length)
{
    int ret = qc_grow((void **)&l->piece, &l->cap, l->n + 1, sizeof(*l->piece));

    if (ret != 0)
        return ret;
    l->piece[l->n++] = (struct qc_decode_piece){*r, offset, buf, length};
    return 0;
}

/* The bytes of the file that a run's stream may touch. */
static void stream_extent(const struct qc_run *r, uint64_t file_size, uint64_t *start,
                          uint64_t *end)
{
    *start = qc_run_host(r);
    *end = qc_align_down(*start, 512) + (uint64_t)r->sectors * 512;
    *end = qc_min64(*end, file_size); /* the last sector may be cut by the file's end */
}

/* Pieces [first, last): one stretch of one file. */
struct stretch {
    size_t   first, last;
    uint64_t start, end;
};

struct decode_job {
    qchain                *c;
    struct qc_decode_list *list;
    struct stretch        *stretch;
    size_t                 n;
    qchain_error          *errs; /* one a stretch */
};

static int plan_stretches(struct decode_job *job, qchain_error *err)
{
    struct qc_decode_list *l = job->list;
    struct qc_store *store;
    uint64_t start, end;
    size_t cap = 0;
    int ret;

    for (size_t i = 0; i < l->n; i++) {
        const struct qc_run *r = &l->piece[i].run;
        struct stretch *s = job->n ? &job->stretch[job->n - 1] : NULL;

        store = qc_source_store(job->c, r->source, err);
        if (!store)
            return err->code;
        stream_extent(r, qc_store_size(store), &start, &end);
        if (s && l->piece[s->first].run.source == r->source && start >= s->start &&
            start <= s->end + 4096 && qc_max64(end, s->end) - s->start <= STRETCH_MAX) {
            s->last = i + 1;
            s->end = qc_max64(end, s->end);
            continue;
        }
        ret = qc_grow((void **)&job->stretch, &cap, job->n + 1, sizeof(*job->stretch));
        if (ret != 0)
            return qc_fail_nomem(err);
        job->stretch[job->n++] = (struct stretch){i, i + 1, start, end};
    }
    return 0;
}

/* Places of a tip are used anew, so what the cache knows of them may be another cluster's. */
static bool may_cache(const qchain *c, const struct qc_run *r)
{
    return c->source[r->source].layer >= c->frozen;
}

/* Decode one piece from its stream. A whole cluster goes straight to the caller;
 * a part goes through a block that the cache keeps. */
static int decode_piece(qchain *c, struct qc_codec *codec, const struct qc_decode_piece *p,
                        const void *in, size_t in_len, qchain_error *err)
{
    const struct qc_source *source = &c->source[p->run.source];
    const struct qc_format *format = codec->format;
    size_t cluster = codec->cluster_size;
    struct qc_block *block;
    int ret;

    qc_count(c->env->slots, QC_CNT_DECODED, 1);
    if (p->length == cluster) {
        ret = format->decode(codec->decoder, p->buf, cluster, in, in_len, err);
        if (ret != 0)
            memset(p->buf, 0, cluster);
        return ret;
    }
    block = qc_block_new(cluster);
    if (!block)
        return qc_fail_nomem(err);
    ret = format->decode(codec->decoder, block->data, cluster, in, in_len, err);
    if (ret == 0) {
        memcpy(p->buf, block->data + (p->offset & (cluster - 1)), p->length);
        if (may_cache(c, &p->run))
            qc_block_insert(c->env->blocks, block, source->owner, qc_run_host(&p->run));
    }
    qc_block_unpin(c->env->blocks, block);
    return ret;
}

/* True if the piece could be served from the cache. */
static bool copy_cached(qchain *c, const struct qc_decode_piece *p, size_t cluster)
{
    const struct qc_source *source = &c->source[p->run.source];
    struct qc_block *block = NULL;

    if (may_cache(c, &p->run))
        block = qc_block_find(c->env->blocks, source->owner, qc_run_host(&p->run));
    if (!block)
        return false;
    memcpy(p->buf, block->data + (p->offset & (cluster - 1)), p->length);
    qc_block_unpin(c->env->blocks, block);
    qc_count(c->env->slots, QC_CNT_DECODED_HITS, 1);
    return true;
}

static int decode_stretch(void *ctx, uint64_t i)
{
    struct decode_job *job = ctx;
    qchain *c = job->c;
    const struct stretch *s = &job->stretch[i];
    struct qc_decode_piece *piece = job->list->piece;
    struct qc_source *source = &c->source[piece[s->first].run.source];
    struct qc_store *store = qc_source_opened(c, piece[s->first].run.source);
    qchain_error *err = &job->errs[i];
    const struct qc_image *img = qc_layer_image(c, source->layer, err);
    size_t len = (size_t)(s->end - s->start), first = s->first;
    struct qc_codec *codec;
    uint64_t start, end;
    bool fresh = false;
    int ret;

    if (!img)
        return err->code;
    while (first < s->last && copy_cached(c, &piece[first], img->cluster_size))
        first++;
    if (first == s->last)
        return 0;
    codec = qc_codec_get(c->env, img, len > STRETCH_MAX ? len : STRETCH_MAX);
    if (!codec)
        return qc_fail_nomem(err);
    ret = qc_store_read(store, codec->input, len, s->start, 0, err);
    for (size_t k = first; ret == 0 && k < s->last; k++) {
        /* A scattered buffer cuts a cluster into pieces: it is decoded for the first. */
        if (k > first && qc_run_host(&piece[k].run) == qc_run_host(&piece[k - 1].run) &&
            copy_cached(c, &piece[k], img->cluster_size))
            continue;
        stream_extent(&piece[k].run, qc_store_size(store), &start, &end);
        ret = decode_piece(c, codec, &piece[k], (char *)codec->input + (start - s->start),
                           (size_t)(end - start), err);
        /* Bits that were flipped on the way, or in a cache, are right at the origin. */
        if (ret == QCHAIN_E_CORRUPT && qc_store_is_far(store) && !fresh) {
            fresh = true;
            qc_error_init(err); /* or it would be told of another stretch's failure */
            ret = qc_store_read(store, codec->input, len, s->start, QC_READ_FRESH, err);
            if (ret == 0)
                ret = decode_piece(c, codec, &piece[k], (char *)codec->input + (start - s->start),
                                   (size_t)(end - start), err);
        }
        if (ret != 0) {
            qc_error_at(err, start);
            qc_error_prefix(err, -1, "guest offset %llu: compressed cluster at %llu: ",
                            (unsigned long long)piece[k].offset, (unsigned long long)start);
        }
    }
    qc_codec_put(c->env, codec);
    if (ret != 0)
        qc_layer_prefix(c, source->layer, err);
    return ret;
}

int qc_decode_run(qchain *c, struct qc_decode_list *l, bool serial, qchain_error *err)
{
    struct decode_job job = {.c = c, .list = l};
    struct qc_pool *pool = c->far ? c->env->far : c->env->pool;
    unsigned width = serial && !c->far ? 1 : qc_pool_threads(pool);
    int ret;

    ret = plan_stretches(&job, err);
    if (ret != 0)
        goto out;
    job.errs = qc_calloc(job.n, sizeof(*job.errs));
    if (!job.errs) {
        ret = qc_fail_nomem(err);
        goto out;
    }
    ret = qc_pool_run(pool, width < FAR_WIDTH ? width : FAR_WIDTH, job.n, decode_stretch, &job);
    for (size_t i = 0; ret != 0 && i < job.n; i++) {
        if (job.errs[i].code) {
            qc_error_copy(err, &job.errs[i]);
            break;
        }
    }

out:
    qc_free(job.stretch);
    qc_free(job.errs);
    return ret;
}
