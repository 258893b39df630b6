/* SPDX-License-Identifier: MIT */
#include "writer_tools.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qcow2/l2.h"
#include "qcow2/qcow2.h"
#include "util/bytes.h"
#include "util/error.h"

/* -------------------------------------------------------------------- making --- */

static void put(uint8_t *p, unsigned bytes, uint64_t v)
{
    for (unsigned i = 0; i < bytes; i++)
        p[i] = (uint8_t)(v >> 8 * (bytes - 1 - i));
}

static void put_count(uint8_t *block, unsigned order, uint64_t number, uint64_t v)
{
    uint64_t bit = number << order;

    if (order >= 3)
        put(block + bit / 8, 1u << (order - 3), v);
    else
        block[bit / 8] |= (uint8_t)(v << bit % 8);
}

/* Cluster 0: header, 1: refcount table, 2: its block, from 3 on: L1. The rest is zeros still. */
void image_make(struct rec_store *r, uint32_t version, unsigned cluster_bits, unsigned order, uint64_t disk)
{
    uint64_t cluster = UINT64_C(1) << cluster_bits;
    uint64_t n_l1 = qc_div_up(disk, UINT64_C(1) << (2 * cluster_bits - 3));
    uint64_t used = 3 + qc_div_up(n_l1 * 8, cluster);
    uint8_t *p = r->bytes;

    memcpy(p, "QFI\xfb", 4);
    put(p + 4, 4, version);
    put(p + 20, 4, cluster_bits);
    put(p + 24, 8, disk);
    put(p + 36, 4, n_l1);
    put(p + 40, 8, 3 * cluster);
    put(p + 48, 8, cluster);
    put(p + 56, 4, 1);
    if (version >= 3) {
        put(p + 96, 4, order);
        put(p + 100, 4, 104);
    }
    put(p + cluster, 8, 2 * cluster);
    for (uint64_t i = 0; i < used; i++)
        put_count(p + 2 * cluster, order, i, 1);
    r->size = used * cluster;
}

/* -------------------------------------------------------------------- opening --- */

int subject_open(struct subject *s, struct rec_store *r, const struct qc_write_opts *opts, qchain_error *err)
{
    struct qc_write_opts o = opts ? *opts : (struct qc_write_opts){0};
    struct qc_image_opts none = {0};
    qchain_store from;
    int rc;

    *s = (struct subject){.rec = r, .slots = qc_slots_create()};
    rec_store_of(r, &from);
    rc = s->slots ? qc_store_create(&s->store, &from, NULL, err) : qc_fail_nomem(err);
    if (rc == 0)
        rc = qc_qcow2_format.open(&s->img, s->store, &none, err);
    o.requests = s->slots;
    if (rc == 0)
        rc = s->img->format->write->begin(s->img, &o, err);
    if (rc < 0) {
        subject_close(s, false, NULL);
        return rc;
    }
    s->q = qc2_of(s->img);
    s->w = s->q->writer;
    return 0;
}

int subject_close(struct subject *s, bool end, qchain_error *err)
{
    int rc = end ? s->img->format->write->end(s->img, err) : 0;

    qc_qcow2_format.close(s->img);
    qc_store_destroy(s->store);
    qc_slots_destroy(s->slots);
    *s = (struct subject){0};
    return rc;
}

/* -------------------------------------------------------------------- mapping --- */

static uint64_t entries_of(const struct subject *s)
{
    return s->img->cluster_size / 8;
}

/* The L2 table of an L1 slot, made if there is none. */
static int table_of(struct subject *s, uint32_t slot, uint64_t *table, qchain_error *err)
{
    bool zeroed;
    int rc;

    if (slot >= s->w->l1_size)
        return qc_fail(err, QCHAIN_E_RANGE, "past the end of the disk");
    *table = s->w->l1[slot] & QC2_OFFSET_MASK;
    if (*table != 0)
        return 0;
    rc = qc2_alloc(s->w, 1, table, &zeroed, err);
    if (rc < 0)
        return rc;
    rc = qc2_table_new(s->w, *table, s->img->cluster_size, zeroed, err);
    if (rc == 0)
        rc = qc2_l1_set(s->w, slot, *table | QC2_COPIED, err);
    if (rc < 0) {
        qc2_table_drop(s->w, *table, s->img->cluster_size);
        qc2_refcount_add(s->w, *table, 1, -1, NULL);
    }
    return rc;
}

/* Lock held. */
static int set_entry(struct subject *s, uint64_t guest, uint64_t entry, qchain_error *err)
{
    struct qc2_slice *slice;
    uint64_t table, at, old;
    int rc = table_of(s, (uint32_t)(guest / entries_of(s)), &table, err);

    if (rc < 0)
        return rc;
    at = table + guest % entries_of(s) * 8;
    rc = qc2_slice_get(s->w, at, &slice, err);
    if (rc < 0)
        return rc;
    old = qc_be64(slice->data + at % s->w->slice_bytes);
    put(slice->data + at % s->w->slice_bytes, 8, entry);
    qc2_slice_dirty(s->w, slice, QC2_MAP);
    qc2_slice_put(s->w, slice);
    if (old)
        qc2_free_later(s->w, old & QC2_OFFSET_MASK, s->img->cluster_size);
    return 0;
}

int map_cluster(struct subject *s, uint64_t guest, qchain_error *err)
{
    return map_cluster_slowly(s, guest, NULL, err);
}

int map_cluster_slowly(struct subject *s, uint64_t guest, int (*between)(struct qc2_writer *, qchain_error *),
                       qchain_error *err)
{
    uint64_t host;
    uint8_t tag[8];
    bool zeroed;
    int rc = qc2_writer_ready(s->w, err);

    if (rc < 0)
        return rc;
    pthread_mutex_lock(&s->w->lock);
    rc = qc2_alloc(s->w, 1, &host, &zeroed, err);
    pthread_mutex_unlock(&s->w->lock);
    if (rc < 0)
        return rc;
    put(tag, 8, guest + 1);
    rc = between ? between(s->w, err) : 0;
    if (rc == 0)
        rc = qc_store_write(s->store, tag, sizeof(tag), host, err);
    pthread_mutex_lock(&s->w->lock);
    if (rc == 0)
        rc = set_entry(s, guest, host | QC2_COPIED, err);
    if (rc < 0)
        qc2_refcount_add(s->w, host, 1, -1, NULL);
    pthread_mutex_unlock(&s->w->lock);
    return rc;
}

int unmap_cluster(struct subject *s, uint64_t guest, qchain_error *err)
{
    int rc = qc2_writer_ready(s->w, err);

    if (rc < 0)
        return rc;
    pthread_mutex_lock(&s->w->lock);
    rc = set_entry(s, guest, 0, err);
    pthread_mutex_unlock(&s->w->lock);
    return rc;
}

/* ------------------------------------------------------------------- checking --- */

struct check {
    const uint8_t *p;
    uint64_t size, cluster, n;
    unsigned bits, order;
    uint32_t *refs;
    struct verdict *v;
};

static void damage(struct check *c, const char *what, uint64_t where)
{
    if (!c->v->damage[0])
        snprintf(c->v->damage, sizeof(c->v->damage), "%s at %" PRIu64, what, where);
}

/* Bytes that are referred to; a whole table must be inside the file, of data the beginning. */
static bool refer(struct check *c, uint64_t host, uint64_t length, bool whole, const char *what)
{
    if (host % c->cluster != 0 || host >= c->size || (whole && length > c->size - host)) {
        damage(c, what, host);
        return false;
    }
    for (uint64_t i = host / c->cluster; i <= (host + length - 1) / c->cluster && i < c->n; i++)
        c->refs[i]++;
    return true;
}

static uint64_t stored(const struct check *c, uint64_t cluster)
{
    uint64_t per = c->cluster * 8 >> c->order, table = qc_be64(c->p + 48);
    uint64_t entries = (uint64_t)qc_be32(c->p + 56) * c->cluster / 8, block, bit, v = 0;

    if (cluster / per >= entries)
        return 0;
    block = qc_be64(c->p + table + cluster / per * 8);
    if (block == 0 || block % c->cluster != 0 || block + c->cluster > c->size)
        return 0;
    bit = cluster % per << c->order;
    if (c->order < 3)
        return c->p[block + bit / 8] >> bit % 8 & ((1u << (1u << c->order)) - 1);
    for (unsigned i = 0; i < 1u << (c->order - 3); i++)
        v = v << 8 | c->p[block + bit / 8 + i];
    return v;
}

static void check_l2(struct check *c, uint64_t table, uint64_t first)
{
    for (uint64_t i = 0; i < c->cluster / 8; i++) {
        uint64_t entry = qc_be64(c->p + table + 8 * i), host = entry & QC2_OFFSET_MASK;

        if (entry == 0)
            continue;
        if (entry & ~(QC2_OFFSET_MASK | QC2_COPIED))
            damage(c, "reserved bits in an L2 entry", table + 8 * i);
        if (!refer(c, host, c->cluster, false, "data"))
            continue;
        c->v->mapped++;
        if (host + 8 > c->size || qc_be64(c->p + host) != first + i + 1)
            damage(c, "another cluster's data", host);
    }
}

void image_check(const uint8_t *bytes, uint64_t size, struct verdict *v)
{
    struct check c = {.p = bytes, .size = size, .v = v, .bits = qc_be32(bytes + 20)};
    uint64_t l1 = qc_be64(bytes + 40), n_l1 = qc_be32(bytes + 36), table = qc_be64(bytes + 48), table_bytes;

    *v = (struct verdict){0};
    c.cluster = UINT64_C(1) << c.bits;
    c.order = qc_be32(bytes + 4) >= 3 ? qc_be32(bytes + 96) : 4;
    c.n = qc_div_up(size, c.cluster);
    c.refs = calloc(c.n, sizeof(*c.refs));
    table_bytes = qc_be32(bytes + 56) * c.cluster;
    refer(&c, 0, c.cluster, false, "header");
    if (!refer(&c, table, table_bytes, true, "refcount table") ||
        (n_l1 && !refer(&c, l1, n_l1 * 8, true, "L1 table")))
        goto out;
    for (uint64_t i = 0; i < table_bytes / 8; i++)
        if (qc_be64(bytes + table + 8 * i))
            refer(&c, qc_be64(bytes + table + 8 * i), c.cluster, true, "refcount block");
    for (uint64_t i = 0; i < n_l1; i++) {
        uint64_t entry = qc_be64(bytes + l1 + 8 * i), host = entry & QC2_OFFSET_MASK;

        if (entry && refer(&c, host, c.cluster, true, "L2 table"))
            check_l2(&c, host, i * (c.cluster / 8));
    }
    for (uint64_t i = 0; i < c.n; i++) {
        uint64_t count = stored(&c, i);

        if (count < c.refs[i])
            damage(&c, "count too low", i * c.cluster);
        if (c.refs[i] > 1)
            damage(&c, "two references", i * c.cluster);
        v->leaks += count > c.refs[i] ? count - c.refs[i] : 0;
    }
out:
    free(c.refs);
}
