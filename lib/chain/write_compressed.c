/* SPDX-License-Identifier: MIT */
/* Whole clusters, compressed on several threads and stored in order. */
#include <string.h>

#include "chain/pull.h"
#include "util/alloc.h"
#include "util/bytes.h"

#define RING_BYTES (UINT64_C(2) << 20)

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

/* One call: every thread encodes the next cluster, and then, if nobody else does and it is its turn, stores what
 * is ready, in order. Streams wait in a ring. */
struct press {
    qchain         *c;
    const char     *buf;
    uint64_t        offset, end;
    bool            pull;    /* only where the tip holds nothing */
    uint64_t        slots;   /* of the ring */
    char           *stream;  /* room of a cluster each */
    size_t         *length;  /* of each stream; 0: it would not be smaller */
    bool           *ready;
    pthread_mutex_t lock;    /* guards ready and all below */
    pthread_cond_t  moved;
    uint64_t        stored;  /* so many clusters */
    bool            storing; /* somebody is at it */
    int             ret;     /* the first failure ends it all */
    qchain_error   *err;
};

static void fail(struct press *p, int ret, const qchain_error *err)
{
    pthread_mutex_lock(&p->lock);
    if (p->ret == 0) {
        p->ret = ret;
        qc_error_copy(p->err, err);
    }
    pthread_cond_broadcast(&p->moved);
    pthread_mutex_unlock(&p->lock);
}

/* Wait until the slot of cluster i is free; whoever is to empty it is at work already. */
static bool wait_for_slot(struct press *p, uint64_t i)
{
    bool go;

    pthread_mutex_lock(&p->lock);
    while (p->ret == 0 && i >= p->stored + p->slots)
        pthread_cond_wait(&p->moved, &p->lock);
    go = p->ret == 0;
    pthread_mutex_unlock(&p->lock);
    return go;
}

static int encode_cluster(struct press *p, uint64_t i, qchain_error *err)
{
    struct qc_tip *t = p->c->tip;
    size_t cluster = t->unit, n = (size_t)qc_min64(cluster, p->end - p->offset - i * cluster);
    struct qc_tip_encoder *e = get_encoder(t);
    const char *in = p->buf + i * cluster;
    uint64_t slot = i % p->slots;
    int ret;

    if (!e)
        return qc_fail_nomem(err);
    if (n < cluster) {
        memcpy(e->last, in, n);
        memset(e->last + n, 0, cluster - n);
        in = e->last;
    }
    p->length[slot] = cluster;
    ret = t->ops->encode(e->encoder, p->stream + slot * cluster, &p->length[slot], in, cluster, err);
    put_encoder(t, e);
    if (ret > 0)
        p->length[slot] = 0;
    return ret < 0 ? ret : 0;
}

/* Store a cluster that is locked, s->length 0: as it is. buf: its bytes, NULL: they are read of the chain if they are
 * needed, because the tip holds a part. */
static int pull_cluster(qchain *c, const struct qc_stream *s, const char *buf, uint64_t end, qchain_error *err)
{
    uint64_t stop;
    qchain_iov iov;
    char *room = NULL;
    bool held;
    int ret = qc_pull_holds(c, s->offset, end, &stop, &held, err);

    if (ret != 0 || (held && stop == end))
        return ret;
    if (!held && stop == end && s->length > 0)
        return c->tip->ops->write_compressed(c->tip->img, s->offset, s->buf, s->length, err);
    if (!buf) {
        iov = (qchain_iov){room = qc_aligned(4096, c->tip->unit), (size_t)(end - s->offset)};
        ret = room ? qc_chain_readv(c, &iov, 1, iov.len, s->offset, QC_CHAIN_READ_INSIDE | QC_CHAIN_READ_SERIAL, err)
                   : qc_fail_nomem(err);
        buf = room;
    }
    if (ret == 0)
        ret = qc_pull_locked(c, buf, s->offset, end, err);
    qc_free(room);
    return ret;
}

static int store_cluster(struct press *p, uint64_t i, qchain_error *err)
{
    struct qc_tip *t = p->c->tip;
    uint64_t slot = i % p->slots, offset = p->offset + i * t->unit, end = qc_min64(offset + t->unit, p->end);
    qchain_iov iov = {(char *)(uintptr_t)p->buf + i * t->unit, end - offset};
    struct qc_cursor cur = {&iov, 0};
    struct qc_stream s = {offset, p->stream + slot * t->unit, p->length[slot]};
    struct qc_range_lock lock;
    int ret;

    if (!p->pull && s.length == 0)
        return qc_tip_write_range(p->c, &cur, offset, end, 0, err);
    qc_tip_lock_clusters(t, &lock, offset, end);
    ret = p->pull ? pull_cluster(p->c, &s, iov.base, end, err)
                  : t->ops->write_compressed(t->img, offset, s.buf, s.length, err);
    qc_range_lock_give(&t->ranges, &lock);
    return ret;
}

/* Store what is ready, unless somebody is at it, who will find it. */
static int store_ready(struct press *p, qchain_error *err)
{
    int ret = 0;

    pthread_mutex_lock(&p->lock);
    while (ret == 0 && p->ret == 0 && !p->storing && p->ready[p->stored % p->slots]) {
        p->storing = true;
        pthread_mutex_unlock(&p->lock);
        ret = store_cluster(p, p->stored, err);
        pthread_mutex_lock(&p->lock);
        p->storing = false;
        p->ready[p->stored % p->slots] = false;
        p->stored++;
        pthread_cond_broadcast(&p->moved);
    }
    pthread_mutex_unlock(&p->lock);
    return ret;
}

static int press_cluster(void *ctx, uint64_t i)
{
    struct press *p = ctx;
    qchain_error err;
    int ret;

    if (!wait_for_slot(p, i))
        return 0;
    qc_error_init(&err);
    ret = encode_cluster(p, i, &err);
    if (ret == 0) {
        pthread_mutex_lock(&p->lock);
        p->ready[i % p->slots] = true;
        pthread_mutex_unlock(&p->lock);
        ret = store_ready(p, &err);
    }
    if (ret != 0)
        fail(p, ret, &err);
    return ret;
}

static int write_clusters(qchain *c, const char *buf, uint64_t offset, uint64_t end, bool pull, qchain_error *err)
{
    struct qc_pool *pool = c->env->pool;
    unsigned threads = qc_pool_threads(pool);
    uint64_t cluster = c->tip->unit, n = qc_div_up(end - offset, cluster);
    struct press p = {.c = c, .buf = buf, .offset = offset, .end = end, .pull = pull, .err = err};

    p.slots = qc_min64(qc_max64(RING_BYTES / cluster, 2 * threads), n);
    p.stream = qc_malloc(p.slots * cluster);
    p.length = qc_calloc(p.slots, sizeof(*p.length));
    p.ready = qc_calloc(p.slots, sizeof(*p.ready));
    pthread_mutex_init(&p.lock, NULL);
    pthread_cond_init(&p.moved, NULL);
    if (p.stream && p.length && p.ready)
        qc_pool_run(pool, threads, n, press_cluster, &p);
    else
        p.ret = qc_fail_nomem(err);
    pthread_cond_destroy(&p.moved);
    pthread_mutex_destroy(&p.lock);
    qc_free(p.stream);
    qc_free(p.length);
    qc_free(p.ready);
    return p.ret;
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

static int write_streams(qchain *c, const struct qc_stream *s, size_t n, bool pull, qchain_error *err)
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
        end = qc_min64(s[i].offset + t->unit, c->size);
        qc_tip_lock_clusters(t, &lock, s[i].offset, end);
        ret = pull ? pull_cluster(c, &s[i], NULL, end, err)
                   : t->ops->write_compressed(t->img, s[i].offset, s[i].buf, s[i].length, err);
        qc_range_lock_give(&t->ranges, &lock);
        if (!pull)
            qc_tip_note_write(c, s[i].offset, end - s[i].offset);
    }
    return qc_tip_end_write(c, token, 0, ret, err);
}

int qc_chain_write_streams(qchain *c, const struct qc_stream *s, size_t n, qchain_error *err)
{
    return write_streams(c, s, n, false, err);
}

int qc_chain_pull_streams(qchain *c, const struct qc_stream *s, size_t n, qchain_error *err)
{
    return write_streams(c, s, n, true, err);
}

int qc_chain_pull_compressed(qchain *c, const char *buf, uint64_t length, uint64_t offset, qchain_error *err)
{
    unsigned token;
    int ret = check_compressed(c, length, offset, err);

    if (ret == 0)
        ret = qc_tip_begin_write(c, offset + length, &token, err);
    if (ret != 0)
        return ret;
    if (length > 0)
        ret = write_clusters(c, buf, offset, offset + length, true, err);
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
        ret = write_clusters(c, buf, offset, offset + length, false, err);
        qc_tip_note_write(c, offset, length);
    }
    return qc_tip_end_write(c, token, flags, ret, err);
}
