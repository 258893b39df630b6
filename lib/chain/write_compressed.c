/* SPDX-License-Identifier: MIT */
/* Whole clusters, compressed on several threads and stored in order. */
#include <string.h>

#include "chain/tip.h"
#include "util/alloc.h"
#include "util/bytes.h"

#define BATCH_BYTES (UINT64_C(4) << 20)
#define BATCH_MAX 256

struct qc_tip_encoder {
    struct qc_tip_encoder *next;
    struct qc_encoder     *encoder;
    char                  *last; /* room for a cluster that the disk's end cuts */
};

static void free_encoder(struct qc_tip *t, struct qc_tip_encoder *e)
{
    if (e->encoder)
        t->ops->encoder_destroy(e->encoder);
    qc_free(e->last);
    qc_free(e);
}

void qc_tip_free_encoders(struct qc_tip *t)
{
    struct qc_tip_encoder *e, *next;

    for (e = t->encoders; e; e = next) {
        next = e->next;
        free_encoder(t, e);
    }
    t->encoders = NULL;
}

static struct qc_tip_encoder *get_encoder(struct qc_tip *t)
{
    struct qc_tip_encoder *e;

    pthread_mutex_lock(&t->encoder_lock);
    e = t->encoders;
    if (e)
        t->encoders = e->next;
    pthread_mutex_unlock(&t->encoder_lock);
    if (e)
        return e;
    e = qc_calloc(1, sizeof(*e));
    if (!e)
        return NULL;
    e->encoder = t->ops->encoder_create(t->img);
    e->last = qc_malloc(t->unit);
    if (e->encoder && e->last)
        return e;
    free_encoder(t, e);
    return NULL;
}

static void put_encoder(struct qc_tip *t, struct qc_tip_encoder *e)
{
    pthread_mutex_lock(&t->encoder_lock);
    e->next = t->encoders;
    t->encoders = e;
    pthread_mutex_unlock(&t->encoder_lock);
}

/* Some clusters that follow each other. */
struct batch {
    qchain     *c;
    const char *buf;
    uint64_t    offset, end;
    char       *stream;           /* room of a cluster each */
    size_t      length[BATCH_MAX]; /* of each stream; 0: it would not be smaller */
    qchain_error *errs;           /* one each */
};

static int encode_cluster(void *ctx, uint64_t i)
{
    struct batch *b = ctx;
    struct qc_tip *t = b->c->tip;
    size_t cluster = t->unit, n = (size_t)qc_min64(cluster, b->end - b->offset - i * cluster);
    struct qc_tip_encoder *e = get_encoder(t);
    const char *in = b->buf + i * cluster;
    int ret;

    qc_error_init(&b->errs[i]);
    if (!e)
        return qc_fail_nomem(&b->errs[i]);
    if (n < cluster) {
        memcpy(e->last, in, n);
        memset(e->last + n, 0, cluster - n);
        in = e->last;
    }
    b->length[i] = cluster;
    ret = t->ops->encode(e->encoder, b->stream + i * cluster, &b->length[i], in, cluster, &b->errs[i]);
    put_encoder(t, e);
    if (ret > 0)
        b->length[i] = 0;
    return ret < 0 ? ret : 0;
}

static int store_cluster(struct batch *b, uint64_t i, qchain_error *err)
{
    struct qc_tip *t = b->c->tip;
    uint64_t offset = b->offset + i * t->unit, end = qc_min64(offset + t->unit, b->end);
    qchain_iov iov = {(char *)(uintptr_t)b->buf + i * t->unit, end - offset};
    struct qc_cursor cur = {&iov, 0};
    struct qc_range_lock lock;
    int ret;

    if (b->length[i] == 0)
        return qc_tip_write_range(b->c, &cur, offset, end, 0, err);
    qc_tip_lock_clusters(t, &lock, offset, end);
    ret = t->ops->write_compressed(t->img, offset, b->stream + i * t->unit, b->length[i], err);
    qc_range_lock_give(&t->ranges, &lock);
    return ret;
}

static int write_batch(struct batch *b, qchain_error *err)
{
    struct qc_pool *pool = b->c->env->pool;
    uint64_t n = qc_div_up(b->end - b->offset, b->c->tip->unit);
    int ret = qc_pool_run(pool, qc_pool_threads(pool), n, encode_cluster, b);

    for (uint64_t i = 0; ret != 0 && i < n; i++) {
        if (b->errs[i].code) {
            qc_error_copy(err, &b->errs[i]);
            break;
        }
    }
    for (uint64_t i = 0; ret == 0 && i < n; i++)
        ret = store_cluster(b, i, err);
    return ret;
}

static int write_clusters(qchain *c, const char *buf, uint64_t offset, uint64_t end, qchain_error *err)
{
    uint64_t cluster = c->tip->unit, most = qc_max64(BATCH_BYTES / cluster, 1);
    struct batch b = {.c = c};
    int ret = 0;

    most = qc_min64(qc_min64(most, BATCH_MAX), qc_div_up(end - offset, cluster));
    b.stream = qc_malloc(most * cluster);
    b.errs = qc_calloc(most, sizeof(*b.errs));
    if (!b.stream || !b.errs)
        ret = qc_fail_nomem(err);
    for (b.offset = offset; ret == 0 && b.offset < end; b.offset = b.end) {
        b.buf = buf + (b.offset - offset);
        b.end = qc_min64(end, b.offset + most * cluster);
        memset(b.errs, 0, most * sizeof(*b.errs));
        ret = write_batch(&b, err);
    }
    qc_free(b.stream);
    qc_free(b.errs);
    return ret;
}

static int check_compressed(const qchain *c, uint64_t length, uint64_t offset, qchain_error *err)
{
    int ret = qc_tip_check(c, err);

    if (ret != 0)
        return ret;
    if (!c->tip->ops->write_compressed || c->tip->img->data_store)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED, "%s images %shave no compressed clusters",
                       c->tip->img->format->name,
                       c->tip->img->data_store ? "with an external data file " : "");
    if (offset % c->tip->unit != 0 || (length % c->tip->unit != 0 && offset + length != c->size))
        return qc_fail(err, QCHAIN_E_INVAL, "compressed write: %llu bytes at %llu are not whole "
                       "clusters of %llu", (unsigned long long)length, (unsigned long long)offset,
                       (unsigned long long)c->tip->unit);
    return 0;
}

int qc_chain_write_streams(qchain *c, const struct qc_stream *s, size_t n, qchain_error *err)
{
    struct qc_tip *t = c->tip;
    struct qc_range_lock lock;
    unsigned token;
    uint64_t end;
    int ret = n == 0 ? 0 : check_compressed(c, 0, s[0].offset, err);

    if (ret != 0 || n == 0)
        return ret;
    ret = qc_tip_begin_write(c, qc_min64(s[n - 1].offset + t->unit, c->size), &token, err);
    if (ret != 0)
        return ret;
    for (size_t i = 0; ret == 0 && i < n; i++) {
        end = s[i].offset + t->unit;
        qc_tip_lock_clusters(t, &lock, s[i].offset, end);
        ret = t->ops->write_compressed(t->img, s[i].offset, s[i].buf, s[i].length, err);
        qc_range_lock_give(&t->ranges, &lock);
        qc_tip_note_write(c, s[i].offset, qc_min64(end, c->size) - s[i].offset);
    }
    return qc_tip_end_write(c, token, 0, ret, err);
}

int qc_chain_write_compressed(qchain *c, const void *buf, size_t length, uint64_t offset, uint32_t flags,
                              qchain_error *err)
{
    unsigned token;
    int ret = check_compressed(c, length, offset, err);

    if (ret == 0)
        ret = qc_tip_begin_write(c, offset + length, &token, err);
    if (ret != 0)
        return ret;
    if (length > 0) {
        ret = write_clusters(c, buf, offset, offset + length, err);
        qc_tip_note_write(c, offset, length);
    }
    return qc_tip_end_write(c, token, flags, ret, err);
}
