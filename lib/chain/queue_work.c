/* SPDX-License-Identifier: MIT */
/* Requests on their way: into the ring, to leaves and walkers. */
#include <string.h>
#include <sys/eventfd.h>

#include "chain/pull.h"
#include "chain/queue_int.h"
#include "util/alloc.h"
#include "util/bytes.h"

#define MAX_RUNS 32              /* of a request that is not done by a walker */
#define ZEROS_AT_ONCE (1u << 20) /* more are a leaf's */

/* ----------------------------------------------------------- other threads --- */

/* Give a request back. Once it is on the list its queue may end: givers keeps it. */
void qc_request_hand_back(struct qc_request *r)
{
    qchain_queue *q = r->q;
    struct qc_request *first;

    atomic_fetch_add(&q->givers, 1);
    first = atomic_load(&q->inbox);
    do
        r->next = first;
    while (!atomic_compare_exchange_weak(&q->inbox, &first, r));
    /* Either we see that it listens, or it saw the request: both are seq_cst. Where the
     * list was not empty, whoever began it has written, or it was seen. */
    if (!first && atomic_load(&q->listening))
        eventfd_write(q->eventfd, 1);
    atomic_fetch_sub(&q->givers, 1);
}

struct qc_text *qc_text_of(const qchain_error *err)
{
    size_t n = strlen(err->text) + 1;
    struct qc_text *t = qc_malloc(sizeof(*t) + n);

    if (!t)
        return NULL;
    t->next = NULL;
    memcpy(t->s, err->text, n);
    return t;
}

#define REQUEST_OF(p, member)                                                                      \
    ((struct qc_request *)(void *)((char *)(p) - offsetof(struct qc_request, member)))

/* Runs [first, last) of a request into its buffer. */
static int read_some(struct qc_request *r, uint32_t first, uint32_t last, qchain_error *err)
{
    const struct qc_run *run = r->pieces ? r->pieces->run : &r->run;
    uint64_t from = qc_max64(run[first].guest, r->offset);
    uint64_t to = qc_min64(qc_run_end(&run[last - 1]), r->offset + r->length);
    qchain_iov part = {(char *)r->one.base + (from - r->offset), to - from};
    bool whole = to - from == r->length;

    return qc_chain_read_runs(r->q->c, run + first, last - first, whole ? r->iov : &part, from, to, 0, err);
}

static int read_todo(struct qc_request *r, qchain_error *err)
{
    uint32_t n = r->pieces ? r->pieces->n : 1, last;
    int ret = 0;

    for (uint32_t i = 0; ret == 0 && i < n; i = last) {
        last = i + 1;
        if (!(r->doing >> i & 1))
            continue;
        while (last < n && r->doing >> last & 1)
            last++;
        ret = read_some(r, i, last, err);
    }
    return ret;
}

/* The work of a leaf or a walker. */
void qc_request_work(struct qc_request *r)
{
    qchain_error err;

    qc_error_init(&err);
    if (r->kind != QC_REQUEST_READ)
        r->ret = qc_request_work_write(r, &err);
    else if (r->elsewhere == QC_LEAF)
        r->ret = read_todo(r, &err);
    else
        r->ret = qc_chain_readv(r->q->c, r->iov, r->n_iov, r->length, r->offset, QC_CHAIN_READ_KEEP, &err);
    if (r->ret != 0)
        r->text = qc_text_of(&err);
}

static void run_task(struct qc_task *t)
{
    struct qc_request *r = REQUEST_OF(t, task);

    qc_request_work(r);
    qc_request_hand_back(r);
}

static void window_ready(struct qc_index_waiter *w, int ret)
{
    struct qc_request *r = REQUEST_OF(w, waiter);

    r->ret = ret;
    qc_request_hand_back(r);
}

void qc_request_drop_parts(struct qc_request *r)
{
    if (r->pieces) {
        qc_free(r->pieces);
        r->pieces = NULL;
    }
    if (r->iov != &r->one) {
        qc_free((void *)(uintptr_t)r->iov);
        r->iov = &r->one;
    }
}

struct qc_tasks *qc_request_tasks(const qchain_queue *q, enum qc_elsewhere where)
{
    const qchain_env *env = q->c->env;

    if (q->c->far)
        return env->far_tasks;
    return where == QC_LEAF ? env->leaves : env->walkers;
}

bool qc_request_send(qchain_queue *q, struct qc_request *r, enum qc_elsewhere where)
{
    qchain_env *env = q->c->env;

    r->elsewhere = where;
    r->task = (struct qc_task){.key = q->c, .run = run_task};
    if (where == QC_LEAF) {
        r->doing = r->todo;
        r->todo = 0;
    }
    q->n_elsewhere++;
    if (qc_tasks_submit(qc_request_tasks(q, where), &r->task)) {
        qc_count(env->slots, where == QC_LEAF ? QC_CNT_QUEUE_LEAF : QC_CNT_QUEUE_WALKS, 1);
        return true;
    }
    q->n_elsewhere--;
    return false;
}

/* ------------------------------------------------------------------- start --- */

static bool is_zero(const struct qc_run *run)
{
    enum qc_kind kind = qc_run_kind(run);

    return kind != QC_DATA && kind != QC_COMPRESSED;
}

static void zero_all(const struct qc_request *r)
{
    for (uint32_t i = 0; i < r->n_iov; i++)
        memset(r->iov[i].base, 0, r->iov[i].len);
}

/* Give the bytes [from, to) of a data run to the ring. */
static inline bool into_ring(qchain_queue *q, struct qc_request *r, struct qc_uring_read *read,
                             const struct qc_run *run, uint64_t from, uint64_t to)
{
    const struct qc_store_hot *hot = &q->c->hot[run->source];
    struct qc_store *store = qc_source_opened(q->c, run->source);
    uint64_t host = qc_run_host(run) + (from - run->guest), length = to - from;
    uint64_t size = qc_store_hot_size(hot);
    bool taken;

    if (!q->ring || length > size || host > size - length)
        return false; /* past the end there are zeros to be made */
    read->user = r;
    if (r->n_iov > 1)
        taken = qc_uring_preparev(q->ring, read, store, run->source, r->iov, r->n_iov, length,
                                  host);
    else
        taken = qc_uring_prepare(q->ring, read, store, run->source,
                                 (char *)r->one.base + (from - r->offset), length, host);
    if (taken)
        qc_count_bytes(q->c->env->slots, QC_CNT_STORE_READS, length);
    return taken;
}

/* A read that a far store does without being waited for. */
struct far_part {
    qchain_store_read  read; /* first */
    qchain_error       err;
    struct qc_request *r;
};

static void far_done(qchain_store_read *read, int result)
{
    struct far_part *p = (struct far_part *)(void *)read;
    struct qc_request *r = p->r;
    qchain *c = r->q->c;

    r->ret = qc_store_submitted(result, &p->err);
    if (r->ret != 0) {
        qc_layer_prefix(c, c->source[r->run.source].layer, &p->err);
        r->text = qc_text_of(&p->err);
    }
    qc_free(p);
    qc_request_hand_back(r);
}

/* The whole of a request, within one run, to a far store. */
static bool into_far(qchain_queue *q, struct qc_request *r)
{
    struct qc_store *store = qc_source_opened(q->c, r->run.source);
    uint64_t host = qc_run_host(&r->run) + (r->offset - r->run.guest), size = qc_store_size(store);
    struct far_part *p;

    if (!qc_store_can_submit(store) || r->n_iov > 1 || host > size || r->length > size - host)
        return false;
    p = qc_malloc(sizeof(*p));
    if (!p)
        return false;
    qc_error_init(&p->err);
    p->r = r;
    p->read = (qchain_store_read){.buf = r->one.base, .length = r->length, .offset = host,
                                  .err = &p->err, .done = far_done};
    r->elsewhere = QC_FAR;
    q->n_elsewhere++;
    qc_store_submit(store, &p->read);
    return true;
}

/* A request within one run. How many reads went to the ring, or NOMEM. */
static inline int start_one(qchain_queue *q, struct qc_request *r)
{
    if (qc_run_kind(&r->run) == QC_DATA) {
        if (into_ring(q, r, &r->read, &r->run, r->offset, r->offset + r->length)) {
            r->in_ring = 1;
            return 1;
        }
        if (q->c->far && into_far(q, r))
            return 0;
    } else if (qc_run_kind(&r->run) != QC_COMPRESSED && r->length <= ZEROS_AT_ONCE) {
        zero_all(r);
        qc_request_finish(q, r);
        return 0;
    }
    r->todo = 1;
    return qc_request_send(q, r, QC_LEAF) ? 0 : QCHAIN_E_NOMEM;
}

/* Copy out all runs of a request, at most MAX_RUNS + 1. 0 if a window is not known: *at
 * is where. */
static uint32_t capture(qchain_queue *q, const struct qc_request *r, struct qc_run *run,
                        uint64_t *at)
{
    uint64_t end = r->offset + r->length;
    uint32_t n = 0;
    size_t got;

    for (*at = r->offset; *at < end && n <= MAX_RUNS; *at = qc_run_end(&run[n - 1])) {
        got = qc_index_peek(q->c, *at, end, run + n, MAX_RUNS + 1 - n);
        if (got == 0)
            return 0;
        n += (uint32_t)got;
    }
    return n;
}

/* The same through the tip, which the request is inside of then. MAX_RUNS + 1 if a walker must read it:
 * somebody is alone in the tip, or something is wrong, which the walker will tell. */
static uint32_t capture_tip(qchain_queue *q, struct qc_request *r, struct qc_run *run, uint64_t *at)
{
    uint64_t end = r->offset + r->length;
    qchain_error why;
    size_t n = 0;

    if (!qc_tip_try_enter(q->c->tip, &r->token))
        return MAX_RUNS + 1;
    r->holds |= QC_HOLDS_EPOCH;
    qc_error_init(&why);
    if (end > q->c->size ||
        qc_tip_copy(q->c, r->offset, end, QC_TIP_NO_WAIT, run, MAX_RUNS + 1, &n, at, &why) != 0 ||
        qc_pull_keeps(q->c, run, n))
        return MAX_RUNS + 1;
    return (uint32_t)n;
}

/* A file that is not open yet is opened by a walker. */
static bool all_open(const qchain_queue *q, const struct qc_run *run, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!is_zero(&run[i]) && !qc_source_opened(q->c, run[i].source))
            return false;
    return true;
}

static int start_pieces(qchain_queue *q, struct qc_request *r)
{
    struct qc_pieces *p = r->pieces;
    int n_ring = 0;

    for (uint32_t i = 0; i < p->n; i++) {
        const struct qc_run *run = &p->run[i];
        uint64_t from = qc_max64(run->guest, r->offset);
        uint64_t to = qc_min64(qc_run_end(run), r->offset + r->length);

        if (is_zero(run) && to - from <= ZEROS_AT_ONCE) {
            memset((char *)r->one.base + (from - r->offset), 0, to - from);
        } else if (qc_run_kind(run) == QC_DATA && into_ring(q, r, &p->read[i], run, from, to)) {
            r->in_ring |= (uint8_t)(1u << i);
            n_ring++;
        } else {
            r->todo |= 1u << i;
        }
    }
    if (r->todo && !qc_request_send(q, r, QC_LEAF)) {
        if (n_ring == 0)
            return QCHAIN_E_NOMEM;
        r->todo = r->doing; /* tried again when a read comes out of the ring */
        r->elsewhere = QC_NOTHING;
    } else if (!r->todo && n_ring == 0 && r->elsewhere == QC_NOTHING) {
        qc_request_finish(q, r);
    }
    return n_ring;
}

static int park(qchain_queue *q, struct qc_request *r, uint64_t guest)
{
    r->elsewhere = QC_PARKED;
    r->waiter.ready = window_ready;
    q->n_elsewhere++;
    if (qc_index_want(q->c, guest, &r->waiter))
        return 0;
    q->n_elsewhere--;
    return qc_request_send(q, r, QC_WHOLE) ? 0 : QCHAIN_E_NOMEM;
}

/* Whatever is not a single run that is known. */
static __attribute__((noinline)) int start_slowly(qchain_queue *q, struct qc_request *r)
{
    struct qc_run run[MAX_RUNS + 1];
    uint64_t at = r->offset;
    uint32_t n = q->c->tip ? capture_tip(q, r, run, &at) : capture(q, r, run, &at);

    if (n == 0 || n > MAX_RUNS)
        qc_request_let_go(q, r); /* it is looked up anew */
    if (n == 0)
        return park(q, r, at);
    if (n <= MAX_RUNS && all_open(q, run, n)) {
        if (n == 1) {
            r->run = run[0];
            return start_one(q, r);
        }
        r->pieces = qc_malloc(sizeof(*r->pieces) + n * sizeof(run[0]));
    }
    if (!r->pieces) {
        qc_request_let_go(q, r);
        return qc_request_send(q, r, QC_WHOLE) ? 0 : QCHAIN_E_NOMEM;
    }
    r->pieces->n = n;
    memcpy(r->pieces->run, run, n * sizeof(run[0]));
    if (n <= QC_RING_PIECES && r->n_iov == 1)
        return start_pieces(q, r);
    r->todo = UINT32_MAX >> (32 - n);
    return qc_request_send(q, r, QC_LEAF) ? 0 : QCHAIN_E_NOMEM;
}

/* The run at its beginning was looked up: r->run, of length 0 if it is not known. */
static inline int start_from(qchain_queue *q, struct qc_request *r)
{
    if (r->run.length == 0 || qc_run_end(&r->run) < r->offset + r->length)
        return start_slowly(q, r);
    if (!is_zero(&r->run) && !qc_source_opened(q->c, r->run.source))
        return start_slowly(q, r);
    return start_one(q, r);
}

int qc_request_start(qchain_queue *q, struct qc_request *r)
{
    if (r->kind != QC_REQUEST_READ)
        return qc_request_start_write(q, r);
    if (q->c->tip)
        return start_slowly(q, r);
    r->run.length = 0;
    qc_index_peek(q->c, r->offset, r->offset + r->length, &r->run, 1);
    return start_from(q, r);
}

void qc_requests_start_held(qchain_queue *q)
{
    struct qc_run *run[QC_INDEX_MANY] = {NULL};
    uint32_t n = q->n_held;
    int n_ring = 0, ret;

    for (uint32_t i = 0; i < n; i++) {
        run[i] = &q->held[i]->run;
        run[i]->guest = q->held[i]->offset;
    }
    qc_index_peek_many(q->c, run, n);
    for (uint32_t i = 0; i < n; i++)
        if (run[i]->length)
            __builtin_prefetch(&q->c->hot[run[i]->source]);
    q->n_held = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct qc_request *r = q->held[i];

        ret = start_from(q, r);
        if (ret < 0) {
            r->elsewhere = QC_NOTHING;
            r->result = ret;
            qc_request_finish(q, r);
        } else {
            n_ring += ret;
        }
    }
    if (n_ring > 0)
        qc_count(q->c->env->slots, QC_CNT_QUEUE_URING, (uint64_t)n_ring);
}
