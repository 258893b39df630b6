/* SPDX-License-Identifier: MIT */
/* Streams of compressed clusters moved as they are. */
#include <string.h>

#include "chain/far_read.h"
#include "chain/pull.h"
#include "ops/move_int.h"
#include "util/alloc.h"
#include "util/bytes.h"

/* Far stores are read in whole grains: so they take the bytes straight into our memory. */
#define FAR_GRAIN 4096

/* The bytes of the file that a stream may touch; the last sector may be cut by the file's end. */
static void extent_of(const struct qc_run *r, uint64_t file_size, uint64_t *start, uint64_t *end)
{
    *start = qc_run_host(r);
    *end = qc_min64(qc_align_down(*start, 512) + (uint64_t)r->sectors * 512, file_size);
}

/* Streams that follow each other in one file are read by one call to *buf, which moves on. *used: how many. */
static int read_stretch(struct qc_mover *v, const struct qc_run *run, size_t n, struct qc_stream *s, char **buf,
                        size_t *used, struct qc_far_list *far, qchain_error *err)
{
    qchain *c = v->m->from;
    struct qc_store *store = qc_source_store(c, run[0].source, err);
    uint64_t start, stop, from, to, size;
    size_t k;
    int ret;

    if (!store)
        return err->code;
    size = qc_store_size(store);
    extent_of(&run[0], size, &start, &stop);
    if (qc_store_is_far(store))
        start = qc_align_down(start, FAR_GRAIN);
    for (k = 0; k < n; k++) {
        extent_of(&run[k], size, &from, &to);
        if (to <= from) /* all of it behind the file's end */
            return qc_fail(err, QCHAIN_E_CORRUPT, "guest offset %llu: the stream of a compressed cluster, at %llu, "
                           "lies behind the file's end", (unsigned long long)run[k].guest, (unsigned long long)from);
        if (run[k].source != run[0].source || from < start || from > stop)
            break;
        s[k] = (struct qc_stream){run[k].guest, *buf + (from - start), (size_t)(to - from)};
        stop = qc_max64(stop, to);
    }
    if (qc_store_is_far(store))
        stop = qc_min64(qc_align_up(stop, FAR_GRAIN), size);
    qchain_iov iov = {*buf, (size_t)(stop - start)};

    if (qc_store_is_far(store))
        ret = qc_far_add(far, store, run[0].source, &iov, 1, start, err);
    else
        ret = qc_store_read(store, *buf, iov.len, start, 0, err);
    *buf += iov.len;
    if (ret != 0)
        qc_layer_prefix(c, c->source[run[0].source].layer, err);
    *used = k;
    atomic_fetch_add(&v->compressed, iov.len);
    return ret;
}

int qc_move_put_streams(struct qc_mover *v, const struct qc_copy_task *t, const struct qc_segment *g,
                        qchain_error *err)
{
    const struct qc_run *run = t->run + g->run;
    struct qc_stream *s = qc_calloc(g->n_run, sizeof(*s));
    struct qc_far_list far = {.exact = true};
    char *room = NULL, *buf = g->buf;
    size_t used = 0, bytes = 0;
    int ret = s ? qc_chain_check(v->m->from, err) : qc_fail_nomem(err);

    if (v->m->from->far) { /* grains are more than there is room for in the segment */
        for (size_t i = 0; i < g->n_run; i++)
            bytes += run[i].sectors * (size_t)512 + 2 * FAR_GRAIN;
        buf = room = qc_malloc(bytes);
        if (ret == 0 && !room)
            ret = qc_fail_nomem(err);
    }
    for (size_t i = 0; ret == 0 && i < g->n_run; i += used)
        ret = read_stretch(v, run + i, g->n_run - i, s + i, &buf, &used, &far, err);
    if (ret == 0)
        ret = qc_far_read(v->m->from, &far, err);
    if (ret == 0)
        ret = (v->m->to == v->m->from ? qc_chain_pull_streams : qc_chain_write_streams)(v->m->to, s, g->n_run, err);
    if (ret == 0)
        atomic_fetch_add(&v->copied, g->length);
    qc_far_finish(&far);
    qc_free(room);
    qc_free(s);
    return ret;
}
