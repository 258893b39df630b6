/* SPDX-License-Identifier: MIT */
#include "qcow2/snapshot_store.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"
#include "util/escape.h"

#define EXTRA 24u /* bytes of extra data that we write */
#define READ_STEP (64u << 10)

_Static_assert(EXTRA <= QC2_SNAPSHOT_MAX_EXTRA, "readers take it");

/* ---- reading ---- */

static int make_room(struct qc2_snapshots *t, uint64_t bytes, qchain_error *err)
{
    uint8_t *p;

    if (bytes > QC2_SNAPSHOT_MAX_TABLE)
        return qc_fail(err, QCHAIN_E_LIMIT, "snapshot table: more than 64 MiB");
    if (bytes <= t->cap)
        return QCHAIN_OK;
    p = qc_realloc(t->raw, bytes * 2, 1);
    if (!p)
        return qc_fail_nomem(err);
    t->raw = p;
    t->cap = bytes * 2;
    return QCHAIN_OK;
}

/* Have `need` bytes of the table in memory, of *have that are. What a last entry is padded with may be cut off
 * by the file's end. */
static int read_more(struct qc2_writer *w, struct qc2_snapshots *t, uint64_t need, uint64_t *have,
                     qchain_error *err)
{
    uint64_t size = qc_align_up(qc_store_size(w->store), 512);
    uint64_t left = size > t->host ? size - t->host : 0;
    uint64_t to = qc_min64(left, qc_align_up(need, READ_STEP));
    int rc;

    if (need <= *have)
        return QCHAIN_OK;
    if (need > left)
        return qc_fail(err, QCHAIN_E_CORRUPT, "snapshot table: an entry ends past the end of the file");
    rc = make_room(t, to, err);
    if (rc == 0)
        rc = qc_store_read(w->store, t->raw + *have, to - *have, t->host + *have,
                           QC_READ_META | QC_READ_PAST_END, err);
    if (rc == 0)
        *have = to;
    return rc;
}

int qc2_snapshots_load(struct qc2_writer *w, struct qc2_snapshots *t, qchain_error *err)
{
    const struct qc2_header *h = &w->q->header;
    uint64_t have = 0;
    int rc = QCHAIN_OK;

    if (h->n_snapshots == 0)
        return QCHAIN_OK;
    t->host = h->snapshots_offset;
    for (t->n = 0; t->n < h->n_snapshots && rc == 0; t->n++) {
        struct qc2_snapshot s;
        int64_t need = QC2_SNAPSHOT_FIXED;

        while (rc == 0 && need > 0) {
            rc = read_more(w, t, t->bytes + (uint64_t)need, &have, err);
            need = rc < 0 ? 0 : qc2_snapshot_parse(&s, t->raw + t->bytes, have - t->bytes, t->n, err);
            if (need < 0)
                rc = (int)need;
        }
        if (rc == 0)
            rc = read_more(w, t, t->bytes + s.bytes, &have, err);
        if (rc == 0)
            t->bytes += s.bytes;
    }
    t->host_bytes = t->bytes;
    return rc;
}

void qc2_snapshots_finish(struct qc2_snapshots *t)
{
    qc_free(t->raw);
}

/* ---- looking ---- */

static bool is_called(const char *what, size_t len, const char *key)
{
    return strlen(key) == len && memcmp(what, key, len) == 0;
}

int qc2_snapshots_find(struct qc2_writer *w, const struct qc2_snapshots *t, const char *key,
                       struct qc2_snapshot *out, size_t *at, qchain_error *err)
{
    struct qc_escaped text;
    bool by_id = false;
    uint32_t n = 0;
    struct qc2_snapshot s;

    for (size_t i = 0; i < t->bytes; i += s.bytes) {
        bool id;

        if (qc2_snapshot_parse(&s, t->raw + i, t->bytes - i, 0, err) != 0)
            return qc_fail(err, QCHAIN_E_INTERNAL, "snapshot table: an entry that was sound is not");
        id = is_called(s.id, s.id_len, key);
        if (!id && (by_id || !is_called(s.name, s.name_len, key)))
            continue;
        if (n == 0 || (id && !by_id)) {
            *out = s;
            *at = i;
            n = 0;
        }
        by_id |= id;
        n++;
    }
    if (n == 0)
        return qc_fail(err, QCHAIN_E_NOTFOUND,
                       "no internal snapshot has the id or name '%s' (the image has %" PRIu32 ")",
                       qc_escape_str(&text, key), t->n);
    if (n > 1) /* as when one is opened */
        qc2_say(w, QCHAIN_LOG_WARN, "snapshot '%s': ambiguous, %" PRIu32 " are called so; taking the first",
                qc_escape_str(&text, key), n);
    return QCHAIN_OK;
}

/* ---- changing ---- */

/* The number an id begins with; what is none counts as 0. */
static uint64_t number_of(const struct qc2_snapshot *s)
{
    uint64_t n = 0;

    for (size_t i = 0; i < s->id_len && s->id[i] >= '0' && s->id[i] <= '9'; i++)
        if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, (uint64_t)(s->id[i] - '0'), &n))
            return UINT64_MAX;
    return n;
}

static int next_id(const struct qc2_snapshots *t, char *id, size_t room, qchain_error *err)
{
    uint64_t highest = 0;
    struct qc2_snapshot s;

    for (size_t i = 0; i < t->bytes; i += s.bytes) {
        if (qc2_snapshot_parse(&s, t->raw + i, t->bytes - i, 0, err) != 0)
            return qc_fail(err, QCHAIN_E_INTERNAL, "snapshot table: an entry that was sound is not");
        highest = qc_max64(highest, number_of(&s));
    }
    if (highest == UINT64_MAX)
        return qc_fail(err, QCHAIN_E_LIMIT, "no snapshot id is left: one is 2^64 - 1 or more");
    snprintf(id, room, "%" PRIu64, highest + 1);
    return QCHAIN_OK;
}

static void put16(uint8_t *p, uint16_t v)
{
    v = __builtin_bswap16(v);
    memcpy(p, &v, sizeof(v));
}

static void put32(uint8_t *p, uint32_t v)
{
    v = __builtin_bswap32(v);
    memcpy(p, &v, sizeof(v));
}

static void put64(uint8_t *p, uint64_t v)
{
    v = __builtin_bswap64(v);
    memcpy(p, &v, sizeof(v));
}

int qc2_snapshots_add(struct qc2_snapshots *t, const struct qc_snapshot_new *s, uint64_t l1_offset,
                      uint32_t l1_size, uint64_t disk_size, qchain_error *err)
{
    const char *name = s->name ? s->name : "";
    size_t name_len = strlen(name), id_len, bytes;
    char id[24];
    uint8_t *p;
    int rc = next_id(t, id, sizeof(id), err);

    if (rc < 0)
        return rc;
    if (name_len > UINT16_MAX)
        return qc_fail(err, QCHAIN_E_LIMIT, "snapshot name: %zu bytes, at most 65535", name_len);
    id_len = strlen(id);
    bytes = qc_align_up(QC2_SNAPSHOT_FIXED + EXTRA + id_len + name_len, 8);
    rc = make_room(t, t->bytes + bytes, err);
    if (rc < 0)
        return rc;
    p = t->raw + t->bytes;
    memset(p, 0, bytes);
    put64(p, l1_offset);
    put32(p + 8, l1_size);
    put16(p + 12, (uint16_t)id_len);
    put16(p + 14, (uint16_t)name_len);
    put32(p + 16, (uint32_t)(s->date_ns / 1000000000u));
    put32(p + 20, (uint32_t)(s->date_ns % 1000000000u));
    put64(p + 24, s->vm_clock_nsec);
    put32(p + 32, (uint32_t)qc_min64(s->vm_state_size, UINT32_MAX));
    put32(p + 36, EXTRA);
    put64(p + 40, s->vm_state_size);
    put64(p + 48, disk_size);
    put64(p + 56, s->icount);
    memcpy(p + QC2_SNAPSHOT_FIXED + EXTRA, id, id_len);
    memcpy(p + QC2_SNAPSHOT_FIXED + EXTRA + id_len, name, name_len);
    t->bytes += bytes;
    t->n++;
    return QCHAIN_OK;
}

void qc2_snapshots_remove(struct qc2_snapshots *t, size_t at, uint64_t bytes)
{
    memmove(t->raw + at, t->raw + at + bytes, t->bytes - at - bytes);
    t->bytes -= bytes;
    t->n--;
}

/* ---- writing ---- */

int qc2_snapshots_write(struct qc2_writer *w, const struct qc2_snapshots *t, uint64_t *host,
                        qchain_error *err)
{
    uint64_t cluster = w->q->base.cluster_size;
    uint64_t length = qc_align_up(t->bytes, cluster);
    uint8_t *raw;
    bool zeroed;
    int rc;

    *host = 0;
    if (t->bytes == 0)
        return QCHAIN_OK;
    raw = qc_calloc(1, length);
    if (!raw)
        return qc_fail_nomem(err);
    memcpy(raw, t->raw, t->bytes);
    rc = qc2_alloc(w, length / cluster, host, &zeroed, err);
    if (rc == 0) {
        rc = qc2_region_add(w, *host, length, QC2_REGION_SNAPSHOTS, err);
        if (rc == 0)
            rc = qc_store_write(w->store, raw, length, *host, err);
        if (rc < 0)
            qc2_snapshots_unwrite(w, t, *host);
    }
    qc_free(raw);
    return rc;
}

void qc2_snapshots_unwrite(struct qc2_writer *w, const struct qc2_snapshots *t, uint64_t host)
{
    if (t->bytes == 0)
        return;
    qc2_region_remove(w, host, t->bytes, QC2_REGION_SNAPSHOTS);
    qc2_refcount_add(w, host, t->bytes, -1, NULL);
}

int qc2_snapshots_switch(struct qc2_writer *w, const struct qc2_snapshots *t, uint64_t host,
                         qchain_error *err)
{
    struct qc2_header *h = &w->q->header;
    int rc;

    h->n_snapshots = t->n;
    h->snapshots_offset = host;
    rc = qc2_header_store(w, err);
    if (rc < 0) {
        atomic_store(&w->stopped, true);
        return rc;
    }
    if (t->host_bytes > 0) {
        qc2_region_remove(w, t->host, t->host_bytes, QC2_REGION_SNAPSHOTS);
        qc2_free_later(w, t->host, t->host_bytes);
    }
    return QCHAIN_OK;
}
