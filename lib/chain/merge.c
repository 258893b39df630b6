/* SPDX-License-Identifier: MIT */
/* Laying one layer's runs under those of the layers above it. */
#include "chain/fill.h"

#include <string.h>

#include "util/bytes.h"

/* r cut to [from, to). */
static struct qc_run cut(const struct qc_run *r, uint64_t from, uint64_t to)
{
    struct qc_run piece = *r;
    enum qc_kind kind = qc_run_kind(r);

    piece.guest = from;
    piece.length = (uint32_t)((to - from) >> 9);
    /* A compressed piece keeps its cluster's place: where in the cluster it
     * lies follows from its guest offset. */
    if (kind != QC_COMPRESSED && qc_kind_has_host(kind))
        piece.host_kind += (from - r->guest) << 8;
    return piece;
}

/* Index of the first run of acc that ends after guest. */
static size_t first_after(const struct qc_runs *acc, uint64_t guest)
{
    size_t low = 0, high = acc->n, mid;

    while (low < high) {
        mid = low + (high - low) / 2;
        if (qc_run_end(&acc->run[mid]) <= guest)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

/* The pieces of add that show between the runs of acc are appended to piece;
 * *first receives the place of the first in acc. */
static int find_pieces(const struct qc_runs *acc, const struct qc_run *add, size_t n,
                       struct qc_runs *piece, size_t *first)
{
    size_t at = first_after(acc, add[0].guest);
    uint64_t from, to, end;
    int ret;

    for (size_t i = 0; i < n; i++) {
        from = add[i].guest;
        end = qc_run_end(&add[i]);
        while (from < end) {
            while (at < acc->n && qc_run_end(&acc->run[at]) <= from)
                at++;
            if (at < acc->n && acc->run[at].guest <= from) {
                from = qc_run_end(&acc->run[at]);
                continue;
            }
            to = at < acc->n ? qc_min64(end, acc->run[at].guest) : end;
            if (piece->n == 0)
                *first = at;
            ret = qc_runs_reserve(piece, piece->n + 1);
            if (ret != 0)
                return ret;
            piece->run[piece->n++] = cut(&add[i], from, to);
            from = to;
        }
    }
    return 0;
}

/* Merge the pieces (sorted, touching nothing in acc, none before acc's run
 * number first) into acc, from the back, so that nothing is copied twice. */
static int insert_pieces(struct qc_runs *acc, const struct qc_runs *piece, size_t first)
{
    size_t a = acc->n, p = piece->n, to = a + p;
    int ret = qc_runs_reserve(acc, to);

    if (ret != 0)
        return ret;
    acc->n = to;
    while (p > 0) {
        if (a > first && acc->run[a - 1].guest > piece->run[p - 1].guest)
            acc->run[--to] = acc->run[--a];
        else
            acc->run[--to] = piece->run[--p];
    }
    return 0;
}

int qc_runs_merge_under(struct qc_runs *acc, const struct qc_run *add, size_t n, uint64_t *covered)
{
    struct qc_runs piece = {0};
    size_t first = 0;
    int ret = 0;

    if (n == 0)
        return 0;
    ret = find_pieces(acc, add, n, &piece, &first);
    if (ret == 0)
        ret = insert_pieces(acc, &piece, first);
    if (ret == 0)
        for (size_t i = 0; i < piece.n; i++)
            *covered += qc_run_length(&piece.run[i]);
    qc_runs_finish(&piece);
    return ret;
}

static int continues(const struct qc_run *a, const struct qc_run *b)
{
    enum qc_kind kind = qc_run_kind(a);

    if (kind != qc_run_kind(b) || kind == QC_COMPRESSED || a->source != b->source ||
        qc_run_end(a) != b->guest || a->length > UINT32_MAX - b->length)
        return 0;
    return !qc_kind_has_host(kind) || qc_run_host(a) + qc_run_length(a) == qc_run_host(b);
}

void qc_runs_join(struct qc_runs *l)
{
    size_t to = 0;

    for (size_t i = 1; i < l->n; i++) {
        if (continues(&l->run[to], &l->run[i]))
            l->run[to].length += l->run[i].length;
        else
            l->run[++to] = l->run[i];
    }
    if (l->n)
        l->n = to + 1;
}
