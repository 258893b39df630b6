/* SPDX-License-Identifier: MIT */
/*
 * What the tests of writing share: stores in memory that can be written and made to fail, and a double of the
 * qcow2 format: a table in memory that is forgotten with the image, with all slots of format/write.h. Programs
 * that include this are linked with it instead of the real one if they define TIP_DOUBLE.
 */
#ifndef TIP_TOOLS_H
#define TIP_TOOLS_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "chain/tip.h"
#include "image_tools.h"
#include "mem_layers.h"
#include "qcow2/qcow2.h"
#include "util/bytes.h"

#define KIB UINT64_C(1024)
#define MIB (KIB * KIB)

/* ------------------------------------------------------------------- stores --- */

struct rw_store {
    pthread_mutex_t lock;
    unsigned char  *p;
    uint64_t        size, cap;
    atomic_int      calls, fail_at;  /* the call that fails, counted from 1; 0: none */
    int             fail_code;
    uint64_t        bad, bad_end;    /* reads of any of this fail */
    atomic_int      flushes, writes, n_open;
    unsigned        delay_us;        /* of reads and writes */
    void          (*before_read)(void *data); /* called once */
    void           *before_read_data;
};

static inline struct rw_store *rw_create(uint64_t size)
{
    struct rw_store *s = calloc(1, sizeof(*s));

    pthread_mutex_init(&s->lock, NULL);
    s->size = size;
    s->cap = size + MIB;
    s->p = calloc(1, s->cap);
    s->fail_code = QCHAIN_E_IO;
    return s;
}

static inline void rw_destroy(struct rw_store *s)
{
    pthread_mutex_destroy(&s->lock);
    free(s->p);
    free(s);
}

static inline int rw_call(struct rw_store *s, qchain_error *err)
{
    if (s->delay_us) {
        struct timespec nap = {0, (long)s->delay_us * 1000};

        nanosleep(&nap, NULL);
    }
    if (atomic_fetch_add(&s->calls, 1) + 1 != atomic_load(&s->fail_at))
        return 0;
    return qc_fail(err, s->fail_code, "told to fail");
}

static inline void rw_close(void *obj)
{
    atomic_fetch_sub(&((struct rw_store *)obj)->n_open, 1);
}

static inline int rw_size(void *obj, uint64_t *size, qchain_error *e)
{
    (void)e;
    *size = ((struct rw_store *)obj)->size;
    return 0;
}

static inline int rw_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                           qchain_error *e)
{
    struct rw_store *s = obj;
    int ret = rw_call(s, e);

    (void)flags;
    if (ret != 0)
        return ret;
    if (s->before_read) {
        void (*call)(void *) = s->before_read;

        s->before_read = NULL;
        call(s->before_read_data);
    }
    if (offset < s->bad_end && s->bad < offset + length)
        return qc_fail(e, QCHAIN_E_IO, "a bad sector");
    pthread_mutex_lock(&s->lock);
    assert_true(offset + length <= s->size);
    memcpy(buf, s->p + offset, length);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static inline void rw_grow(struct rw_store *s, uint64_t size)
{
    if (size > s->cap) {
        uint64_t cap = size * 2;

        s->p = realloc(s->p, cap);
        memset(s->p + s->cap, 0, cap - s->cap);
        s->cap = cap;
    }
    if (size > s->size)
        s->size = size;
}

static inline int rw_pwrite(void *obj, const void *buf, size_t length, uint64_t offset, uint32_t flags,
                            qchain_error *e)
{
    struct rw_store *s = obj;
    int ret = rw_call(s, e);

    (void)flags;
    if (ret != 0)
        return ret;
    atomic_fetch_add(&s->writes, 1);
    pthread_mutex_lock(&s->lock);
    rw_grow(s, offset + length);
    memcpy(s->p + offset, buf, length);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static inline int rw_flush(void *obj, uint32_t flags, qchain_error *e)
{
    struct rw_store *s = obj;

    (void)flags;
    atomic_fetch_add(&s->flushes, 1);
    return rw_call(s, e);
}

static inline int rw_resize(void *obj, uint64_t size, uint32_t flags, qchain_error *e)
{
    struct rw_store *s = obj;
    int ret = rw_call(s, e);

    (void)flags;
    if (ret != 0)
        return ret;
    pthread_mutex_lock(&s->lock);
    if (size < s->size)
        memset(s->p + size, 0, s->size - size);
    rw_grow(s, size);
    s->size = size;
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static inline qchain_store rw_store_of(struct rw_store *s)
{
    static const qchain_store_ops ops = {
        .struct_size = sizeof(ops), .version = 1, .close = rw_close, .size = rw_size,
        .pread = rw_pread, .pwrite = rw_pwrite, .flush = rw_flush, .resize = rw_resize};

    atomic_fetch_add(&s->n_open, 1);
    return (qchain_store){.struct_size = sizeof(qchain_store), .ops = &ops, .obj = s, .name = "store"};
}

/* ------------------------------------------------------------------- double --- */

#ifdef TIP_DOUBLE

/* The first bytes of its file: "TIP", 'b' if it has a backing file, cluster bits, the disk's size in 512. */
struct tip_head {
    char     magic[3], backing;
    uint32_t cluster_bits;
    uint64_t size;
};

enum { D_ABSENT, D_OWN, D_SHARED, D_ZERO, D_ZERO_ALLOC };

struct d_entry {
    uint64_t host;
    uint8_t  state;
};

struct d_image {
    struct qc_image  base;
    struct qc_slots *requests;
    pthread_mutex_t  lock;
    struct d_entry  *entry;
    uint64_t         n, cluster;
    uint64_t         end;    /* of the file: clusters are given out from here */
    uint64_t        *spare;  /* and from here, single ones */
    uint64_t         n_spare;
    uint32_t         allocs; /* under way */
};

static bool double_no_limbo; /* a fault to be found */
static bool double_zero_kept; /* zero keeps the place */
static atomic_int double_fail_finish;

static struct d_image *d_of(struct qc_image *img)
{
    return (struct d_image *)img;
}

struct d_freed {
    struct qc_retired retired;
    struct d_image   *d;
    uint64_t          host;
};

static void d_reuse(struct qc_retired *r)
{
    struct d_freed *f = (struct d_freed *)(void *)r;

    pthread_mutex_lock(&f->d->lock);
    f->d->spare = realloc(f->d->spare, (f->d->n_spare + 1) * sizeof(uint64_t));
    f->d->spare[f->d->n_spare++] = f->host;
    pthread_mutex_unlock(&f->d->lock);
    free(f);
}

/* Not under the lock. */
static void d_free(struct d_image *d, uint64_t host)
{
    struct d_freed *f = malloc(sizeof(*f));

    *f = (struct d_freed){.retired = {.free_fn = d_reuse}, .d = d, .host = host};
    if (double_no_limbo)
        d_reuse(&f->retired);
    else
        qc_epoch_retire(d->requests, &f->retired);
}

static void d_set(struct d_image *d, uint64_t i, uint8_t state, uint64_t host)
{
    struct d_entry old;

    pthread_mutex_lock(&d->lock);
    old = d->entry[i];
    d->entry[i] = (struct d_entry){host, state};
    pthread_mutex_unlock(&d->lock);
    if ((old.state == D_OWN || old.state == D_ZERO_ALLOC) && old.host != host)
        d_free(d, old.host);
}

static int d_open(struct qc_image **out, struct qc_store *store, const struct qc_image_opts *opts,
                  qchain_error *err)
{
    struct tip_head head;
    struct d_image *d;
    int ret = qc_store_read(store, &head, sizeof(head), 0, QC_READ_META, err);

    (void)opts;
    if (ret != 0)
        return ret;
    d = calloc(1, sizeof(*d));
    pthread_mutex_init(&d->lock, NULL);
    d->base.format = &qc_qcow2_format;
    d->base.store = store;
    d->base.virtual_size = head.size * 512;
    d->base.cluster_size = 1u << head.cluster_bits;
    d->base.run_unit = d->base.cluster_size;
    d->base.map_unit = MIB;
    d->base.backing_name = head.backing == 'b' ? strdup("below") : NULL;
    d->base.backing_format = head.backing == 'b' ? strdup("raw") : NULL;
    d->cluster = d->base.cluster_size;
    d->n = 4 * qc_div_up(d->base.virtual_size, d->cluster) + 64;
    d->entry = calloc(d->n, sizeof(*d->entry));
    d->end = qc_align_up(qc_max64(store->size, d->cluster), d->cluster);
    *out = &d->base;
    return 0;
}

static void d_close(struct qc_image *img)
{
    struct d_image *d = d_of(img);

    if (!img)
        return;
    assert_int_equal(d->allocs, 0);
    if (d->requests)
        qc_epoch_drain(d->requests);
    pthread_mutex_destroy(&d->lock);
    free(d->base.backing_name);
    free(d->base.backing_format);
    free(d->entry);
    free(d->spare);
    free(d);
}

static int d_begin(struct qc_image *img, const struct qc_write_opts *opts, qchain_error *err)
{
    (void)err;
    d_of(img)->requests = opts->requests;
    return 0;
}

static int d_flush(struct qc_image *img, qchain_error *err)
{
    return qc_store_flush(img->store, err);
}

static const enum qc_kind d_kind[] = {QC_ABSENT, QC_DATA, QC_DATA, QC_ZERO, QC_ZERO_ALLOC};

static int d_locate(struct qc_image *img, uint64_t offset, uint64_t length, struct qc_run *out,
                    qchain_error *err)
{
    struct d_image *d = d_of(img);
    uint64_t i = offset / d->cluster;
    struct d_entry e;

    (void)err;
    assert_true(offset % 512 == 0 && length % 512 == 0 && length > 0 && i < d->n);
    pthread_mutex_lock(&d->lock);
    e = d->entry[i];
    pthread_mutex_unlock(&d->lock);
    *out = qc_run_make(offset, qc_min64(length, (i + 1) * d->cluster - offset), d_kind[e.state],
                       qc_kind_has_host(d_kind[e.state]) ? e.host + offset % d->cluster : 0);
    return 0;
}

static int d_place(struct qc_image *img, uint64_t offset, uint64_t length, struct qc_place *out,
                   qchain_error *err)
{
    struct d_image *d = d_of(img);
    uint64_t i = offset / d->cluster, end = i;
    bool own;

    (void)err;
    assert_true(length > 0 && qc_div_up(offset + length, d->cluster) <= d->n);
    pthread_mutex_lock(&d->lock);
    own = d->entry[i].state == D_OWN;
    do
        end++;
    while (end * d->cluster < offset + length && (d->entry[end].state == D_OWN) == own &&
           (!own || d->entry[end].host == d->entry[end - 1].host + d->cluster));
    *out = (struct qc_place){.offset = offset, .own = own,
                             .length = qc_min64(length, end * d->cluster - offset),
                             .host = d->entry[i].host + offset % d->cluster,
                             .unit = i * d->cluster, .unit_length = (end - i) * d->cluster};
    pthread_mutex_unlock(&d->lock);
    return 0;
}

static int d_alloc(struct qc_image *img, struct qc_place *p, qchain_error *err)
{
    struct d_image *d = d_of(img);

    (void)err;
    assert_false(p->own);
    pthread_mutex_lock(&d->lock);
    if (d->n_spare > 0) { /* one cluster, which holds anything */
        p->unit_host = d->spare[--d->n_spare];
        p->unit_length = d->cluster;
        p->length = qc_min64(p->length, p->unit + d->cluster - p->offset);
        p->zeroed = false;
    } else {
        p->unit_host = d->end;
        d->end += p->unit_length;
        p->zeroed = true;
    }
    d->allocs++;
    pthread_mutex_unlock(&d->lock);
    return 0;
}

static void d_abort(struct qc_image *img, struct qc_place *p)
{
    struct d_image *d = d_of(img);

    pthread_mutex_lock(&d->lock);
    d->allocs--;
    pthread_mutex_unlock(&d->lock);
    for (uint64_t at = 0; at < p->unit_length; at += d->cluster)
        d_free(d, p->unit_host + at);
}

static int d_finish(struct qc_image *img, struct qc_place *p, qchain_error *err)
{
    struct d_image *d = d_of(img);

    if (atomic_load(&double_fail_finish) && atomic_fetch_sub(&double_fail_finish, 1) == 1) {
        d_abort(img, p);
        return qc_fail(err, QCHAIN_E_IO, "told not to finish");
    }
    for (uint64_t at = 0; at < p->unit_length; at += d->cluster)
        d_set(d, (p->unit + at) / d->cluster, D_OWN, p->unit_host + at);
    pthread_mutex_lock(&d->lock);
    d->allocs--;
    pthread_mutex_unlock(&d->lock);
    return 0;
}

static int d_zero(struct qc_image *img, uint64_t offset, uint64_t length, uint32_t flags, uint64_t *done,
                  qchain_error *err)
{
    struct d_image *d = d_of(img);
    struct d_entry e;

    (void)err;
    *done = offset % d->cluster ? 0 : qc_align_down(length, d->cluster);
    for (uint64_t at = 0; at < *done; at += d->cluster) {
        uint64_t i = (offset + at) / d->cluster;

        pthread_mutex_lock(&d->lock);
        e = d->entry[i];
        pthread_mutex_unlock(&d->lock);
        if (e.state == D_OWN && double_zero_kept && !(flags & QC_ZERO_UNMAP))
            d_set(d, i, D_ZERO_ALLOC, e.host);
        else if (e.state != D_ZERO_ALLOC)
            d_set(d, i, D_ZERO, 0);
    }
    return 0;
}

static int d_discard(struct qc_image *img, uint64_t offset, uint64_t length, bool has_backing,
                     qchain_error *err)
{
    struct d_image *d = d_of(img);
    uint64_t end = offset + length;

    (void)err;
    /* The disk's end is the end of its last cluster. */
    end = qc_align_down(end == img->virtual_size ? qc_align_up(end, d->cluster) : end, d->cluster);
    for (uint64_t at = qc_align_up(offset, d->cluster); at < end; at += d->cluster)
        d_set(d, at / d->cluster, has_backing ? D_ZERO : D_ABSENT, 0);
    return 0;
}

static int d_resize(struct qc_image *img, uint64_t size, uint64_t hidden, qchain_error *err)
{
    struct d_image *d = d_of(img);

    (void)err;
    assert_true(qc_div_up(size, d->cluster) <= d->n);
    for (uint64_t i = qc_div_up(size, d->cluster); i < d->n; i++)
        if (size < img->virtual_size)
            d_set(d, i, D_ABSENT, 0);
    for (uint64_t i = qc_div_up(qc_max64(hidden, img->virtual_size), d->cluster); i < qc_div_up(size, d->cluster); i++)
        d_set(d, i, D_ABSENT, 0);
    img->virtual_size = size;
    return 0;
}

static int d_snapshot(struct qc_image *img, const struct qc_snapshot_new *s, qchain_error *err)
{
    struct d_image *d = d_of(img);

    (void)s;
    (void)err;
    for (uint64_t i = 0; i < d->n; i++)
        if (d->entry[i].state == D_OWN)
            d->entry[i].state = D_SHARED;
    return 0;
}

static int d_vmstate_base(struct qc_image *img, uint64_t *offset, qchain_error *err)
{
    (void)err;
    *offset = qc_align_up(img->virtual_size, d_of(img)->cluster);
    return 0;
}

static int d_never(struct qc_image *img, bool *holes, qchain_error *err)
{
    (void)img;
    (void)err;
    *holes = false;
    return 0;
}

static bool d_probe(const uint8_t *head, size_t len)
{
    return len >= 3 && memcmp(head, "TIP", 3) == 0;
}

static const struct qc_write_ops d_ops = {
    .begin = d_begin, .end = d_flush, .locate = d_locate, .place = d_place, .alloc = d_alloc,
    .finish_alloc = d_finish, .abort_alloc = d_abort, .zero = d_zero, .discard = d_discard,
    .flush = d_flush, .resize = d_resize, .snapshot_create = d_snapshot, .vmstate_base = d_vmstate_base};

const struct qc_format qc_qcow2_format = {.name = "qcow2", .probe = d_probe, .open = d_open,
                                          .close = d_close, .may_have_holes = d_never,
                                          .write = &d_ops};

/* A tip over a raw disk, or (below NULL) over nothing. */
struct tip_chain {
    struct rw_store *top, *below;
    qchain          *c;
    qchain_error    *err;
};

static int tip_resolve(void *data, const qchain_reference *ref, qchain_resolution *out)
{
    struct tip_chain *t = data;
    static qchain_store store;

    (void)ref;
    store = rw_store_of(t->below);
    out->store = &store;
    out->format = "raw";
    return QCHAIN_RESOLVE_STORE;
}

static void tip_open(struct tip_chain *t, uint64_t size, unsigned cluster_bits, uint64_t below,
                     uint32_t flags)
{
    struct tip_head head = {{'T', 'I', 'P'}, below ? 'b' : '-', cluster_bits, size / 512};
    qchain_open_opts o;
    qchain_store store;

    t->err = qchain_error_create();
    t->top = rw_create(sizeof(head));
    memcpy(t->top->p, &head, sizeof(head));
    t->below = below ? rw_create(below) : NULL;
    for (uint64_t i = 0; i < below; i += 512)
        memset(t->below->p + i, (int)(1 + i / 512 % 251), 512);
    store = rw_store_of(t->top);
    qchain_open_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_OPEN_WRITE | flags;
    o.store = &store;
    o.resolver = tip_resolve;
    o.resolver_data = t;
    if (qchain_open(&t->c, NULL, "top", &o, t->err) != 0)
        fail_msg("%s", qchain_error_message(t->err));
}

static void tip_close(struct tip_chain *t)
{
    qchain_close(t->c);
    assert_int_equal(t->top->n_open, 0);
    if (t->below) {
        assert_int_equal(t->below->n_open, 0);
        rw_destroy(t->below);
    }
    rw_destroy(t->top);
    qchain_error_destroy(t->err);
}

/* What the disk is to read as, from the beginning. */
static inline unsigned char *tip_model(const struct tip_chain *t, uint64_t size)
{
    unsigned char *m = calloc(1, size);

    if (t->below)
        memcpy(m, t->below->p, qc_min64(size, t->below->size));
    return m;
}

#endif
#endif
