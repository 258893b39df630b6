/* SPDX-License-Identifier: MIT */
/*
 * Mapping a range: the L1 slots in use, the slices of their L2 tables, runs.
 * Tables that lie next to each other in the file and on the disk, as small ones
 * do, are read at once. Nothing is kept: the index above keeps the runs.
 */
#include "qcow2/image_int.h"

#include <inttypes.h>

#include "qcow2/l2.h"
#include "qcow2/map_far.h"
#include "util/alloc.h"
#include "util/bytes.h"
#include "util/error.h"

#define L1_PIECE 512u       /* entries */
#define SMALL_BUFFER 8192u  /* on the stack, for readers of a few entries */
#define LARGE_BUFFER (64u << 10) /* stays in the processor's cache, and in the heap */

/* One call of qc2_map. */
struct mapper {
    struct qc2_image *q;
    struct qc2_l2     l2;
    struct qc_runs   *out;
    qchain_error     *err;
    uint64_t         *buf;
    size_t            cap;   /* bytes */
    uint64_t          host;  /* entries to be read: where in the file, */
    uint64_t          guest; /* the disk offset of the first one's cluster, */
    uint64_t          bytes; /* and how many bytes; 0: none */
    struct qc2_far    far;   /* in a far store instead: all that are to be read */
};

/* Read and parse what is pending. */
static int flush_pending(struct mapper *m)
{
    unsigned entry_bits = qc2_l2_entry_bits(&m->l2);

    while (m->bytes > 0) {
        size_t n = (size_t)qc_min64(m->bytes, m->cap);
        int rc = qc_store_read(m->q->base.store, m->buf, n, m->host, qc2_meta_flags(m->q),
                               m->err);

        if (rc < 0) {
            qc_error_prefix(m->err, -1, "L2 table at %" PRIu64 ": ", m->host);
            return rc;
        }
        rc = qc2_l2_parse(&m->l2, m->buf, n >> entry_bits, m->guest, m->host, m->out, m->err);
        if (rc < 0)
            return rc;
        m->host += n;
        m->guest += (uint64_t)(n >> entry_bits) << m->l2.cluster_bits;
        m->bytes -= n;
    }
    return QCHAIN_OK;
}

static int check_table(struct mapper *m, uint32_t slot, uint64_t table)
{
    uint64_t cluster = m->q->base.cluster_size;
    const char *rule = NULL;

    if (table % cluster != 0)
        rule = "the L2 table's offset is not aligned to a cluster";
    else if (table + cluster > m->l2.file_size && !m->q->salvage)
        rule = "the L2 table ends past the end of the file";
    if (!rule)
        return QCHAIN_OK;
    qc_fail(m->err, QCHAIN_E_CORRUPT, "L1 entry %" PRIu32 "=%" PRIu64 ": %s", slot, table, rule);
    qc_error_at(m->err, m->q->l1_offset + UINT64_C(8) * slot);
    return QCHAIN_E_CORRUPT;
}

/* Take the part of one L2 table that the range covers. */
static int add_table(struct mapper *m, uint32_t slot, uint64_t table)
{
    unsigned entry_bits = qc2_l2_entry_bits(&m->l2);
    unsigned cover_bits = qc2_l2_cover_bits(&m->q->header);
    uint64_t base = (uint64_t)slot << cover_bits;
    uint64_t start = qc_max64(m->l2.start, base) - base;
    uint64_t end = qc_min64(m->l2.end - base, UINT64_C(1) << cover_bits);
    uint64_t first = start >> m->l2.cluster_bits;
    uint64_t last = (end - 1) >> m->l2.cluster_bits;
    uint64_t host = table + (first << entry_bits);
    uint64_t guest = base + (first << m->l2.cluster_bits);
    uint64_t bytes = (last - first + 1) << entry_bits;
    int rc = check_table(m, slot, table);

    if (rc < 0)
        return rc;
    if (m->q->salvage && table >= m->l2.file_size)
        return QCHAIN_OK;
    if (qc_store_is_far(m->q->base.store)) {
        rc = qc2_far_add(&m->far, host, guest, bytes, m->err);
        return rc == 0 && qc2_far_is_full(&m->far)
                   ? qc2_far_flush(&m->far, m->q, &m->l2, m->out, m->err) : rc;
    }
    if (m->bytes > 0 && m->host + m->bytes == host &&
        m->guest + (m->bytes >> entry_bits << m->l2.cluster_bits) == guest) {
        m->bytes += bytes;
        return QCHAIN_OK;
    }
    rc = flush_pending(m);
    m->host = host;
    m->guest = guest;
    m->bytes = bytes;
    return rc;
}

/* Slots [slot, end) of a table that is not resident: entries are read again, as
 * far as their groups are in use. */
static int map_streamed(struct mapper *m, const struct qc2_l1_map *l1, uint32_t slot, uint32_t end)
{
    uint64_t entry[L1_PIECE];

    for (slot = qc2_l1_next(l1, slot); slot < end;) {
        uint32_t n = (uint32_t)qc_min64(end - slot, L1_PIECE);
        int rc = qc2_l1_read(m->q, entry, slot, n, m->err);

        for (uint32_t i = 0; i < n && rc == 0; i++)
            if (entry[i])
                rc = add_table(m, slot + i, entry[i]);
        if (rc < 0)
            return rc;
        slot = qc2_l1_next(l1, slot + n);
    }
    return QCHAIN_OK;
}

static int map_slots(struct mapper *m, const struct qc2_l1_map *l1)
{
    unsigned cover_bits = qc2_l2_cover_bits(&m->q->header);
    uint64_t first = m->l2.start >> cover_bits;
    uint64_t end = qc_min64(((m->l2.end - 1) >> cover_bits) + 1, l1->n_slots);
    int rc = QCHAIN_OK;

    if (first >= end)
        return QCHAIN_OK;
    if (l1->whole) {
        for (uint32_t i = (uint32_t)first; i < end && rc == 0; i++)
            if (l1->word[i])
                rc = add_table(m, i, l1->word[i]);
    } else {
        rc = map_streamed(m, l1, (uint32_t)first, (uint32_t)end);
    }
    if (rc == 0)
        rc = flush_pending(m);
    return rc < 0 ? rc : qc2_far_flush(&m->far, m->q, &m->l2, m->out, m->err);
}

static void mapper_init(struct mapper *m, struct qc2_image *q, uint64_t offset, uint64_t length,
                        struct qc_runs *out, qchain_error *err)
{
    *m = (struct mapper){.q = q, .out = out, .err = err};
    m->l2.cluster_bits = q->header.cluster_bits;
    m->l2.extended = qc2_extended_l2(&q->header);
    m->l2.zero_flag = q->header.version >= 3;
    m->l2.data_file = q->base.wants_data_file;
    m->l2.salvage = q->salvage;
    m->l2.file_size = q->base.store->size;
    m->l2.virtual_size = q->base.virtual_size;
    m->l2.start = offset;
    m->l2.end = offset + length;
}

int qc2_map(struct qc_image *img, uint64_t offset, uint64_t length, struct qc_runs *out,
            qchain_error *err)
{
    struct qc2_image *q = qc2_of(img);
    uint64_t small[SMALL_BUFFER / 8];
    const struct qc2_l1_map *l1;
    struct mapper m;
    uint64_t need;
    int rc;

    if (offset > img->virtual_size || length > img->virtual_size - offset)
        return qc_fail(err, QCHAIN_E_RANGE, "range past the end of the disk");
    if (length == 0)
        return QCHAIN_OK;
    if (q->header.crypt_method != 0)
        return qc_fail(err, QCHAIN_E_UNSUPPORTED, "the image is encrypted");
    rc = qc2_l1_get(q, &l1, err);
    if (rc < 0)
        return rc;
    mapper_init(&m, q, offset, length, out, err);
    need = ((length >> m.l2.cluster_bits) + 2) << qc2_l2_entry_bits(&m.l2);
    m.cap = (size_t)qc_min64(qc_align_up(need, SMALL_BUFFER), LARGE_BUFFER);
    m.buf = m.cap == SMALL_BUFFER ? small : qc_malloc(m.cap);
    if (!m.buf)
        return qc_fail_nomem(err);
    rc = map_slots(&m, l1);
    qc2_far_finish(&m.far);
    if (m.buf != small)
        qc_free(m.buf);
    return rc;
}

int qc2_next_used(struct qc_image *img, uint64_t offset, uint64_t *used, qchain_error *err)
{
    struct qc2_image *q = qc2_of(img);
    unsigned cover_bits = qc2_l2_cover_bits(&q->header);
    const struct qc2_l1_map *l1;
    uint64_t slot = offset >> cover_bits;
    int rc = qc2_l1_get(q, &l1, err);

    if (rc < 0)
        return rc;
    *used = UINT64_MAX;
    if (offset >= img->virtual_size || slot >= l1->n_slots)
        return QCHAIN_OK;
    slot = qc2_l1_next(l1, (uint32_t)slot);
    if (slot < l1->n_slots)
        *used = qc_max64(offset, slot << cover_bits);
    return QCHAIN_OK;
}
