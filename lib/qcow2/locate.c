/* SPDX-License-Identifier: MIT */
/* What map tells of an image that is read, told of one that is written: a run at a time, out of the tables in
 * memory. */
#include <pthread.h>

#include "qcow2/l2_spot.h"

#define AT_ONCE 16u /* entries that are parsed together */
#define ROOM 32u    /* runs they make at most; of extended entries one is parsed at a time */

/* True if b goes on where a ends. */
static bool continues(const struct qc_run *a, const struct qc_run *b)
{
    enum qc_kind kind = qc_run_kind(a);

    if (kind != qc_run_kind(b) || kind == QC_COMPRESSED)
        return false;
    return !qc_kind_has_host(kind) || qc_run_host(a) + qc_run_length(a) == qc_run_host(b);
}

/* The run at the beginning of what entries [i, i + n) from the spot on say; *end: where they end. */
static int first_run(const struct qc2_l2 *g, const struct qc2_spot *s, size_t i, size_t n,
                     struct qc_run *out, uint64_t *end, qchain_error *err)
{
    unsigned entry_bits = qc2_l2_entry_bits(g);
    uint64_t guest = s->guest + ((uint64_t)i << g->cluster_bits);
    uint64_t start = qc_max64(guest, g->start);
    struct qc_run room[ROOM];
    struct qc_runs runs = {room, 0, ROOM};
    int rc = qc2_l2_parse(g, s->raw + (i << (entry_bits - 3)), n, guest, s->host + (i << entry_bits),
                          &runs, err);

    if (rc < 0)
        return rc;
    *end = qc_min64(guest + ((uint64_t)n << g->cluster_bits), g->end);
    if (runs.n > 0 && room[0].guest <= start)
        *out = room[0];
    else
        *out = qc_run_make(start, (runs.n > 0 ? room[0].guest : *end) - start, QC_ABSENT, 0);
    return QCHAIN_OK;
}

/* Entries that follow are taken along while they go on from the first; what is wrong with one of them is
 * told when it is asked for. */
static int run_of(const struct qc2_l2 *g, const struct qc2_spot *s, struct qc_run *out, qchain_error *err)
{
    size_t n = (size_t)(((g->end - 1) >> g->cluster_bits) - (s->guest >> g->cluster_bits) + 1);
    size_t some = g->extended ? 1 : (size_t)qc_min64(n, AT_ONCE);
    uint64_t end;
    int rc = first_run(g, s, 0, some, out, &end, some > 1 ? NULL : err);

    if (rc < 0 && some > 1) {
        some = 1;
        rc = first_run(g, s, 0, some, out, &end, err);
    }
    if (rc < 0)
        return rc;
    for (size_t i = some; i < n && qc_run_end(out) == end; i += some) {
        struct qc_run r;

        some = g->extended ? 1 : (size_t)qc_min64(n - i, AT_ONCE);
        if (first_run(g, s, i, some, &r, &end, NULL) < 0 || !continues(out, &r))
            break;
        out->length += r.length;
    }
    return QCHAIN_OK;
}

int qc2_locate(struct qc_image *img, uint64_t offset, uint64_t length, struct qc_run *out, qchain_error *err)
{
    struct qc2_writer *w = qc2_of(img)->writer;
    struct qc2_spot s;
    struct qc2_l2 g;
    int rc;

    pthread_mutex_lock(&w->lock);
    rc = qc2_spot_find(w, offset, &s, err);
    if (rc == 0 && !s.slice) {
        *out = qc_run_make(offset, qc_min64(length, s.table_end - offset), QC_ABSENT, 0);
    } else if (rc == 0) {
        qc2_spot_geometry(w, offset, qc_min64(length, s.end - offset), &g);
        rc = run_of(&g, &s, out, err);
        qc2_spot_leave(w, &s);
    }
    pthread_mutex_unlock(&w->lock);
    return rc;
}
