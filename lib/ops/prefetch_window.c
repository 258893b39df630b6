/* SPDX-License-Identifier: MIT */
/*
 * Requests under way, and the rules of when the next may begin. What is under way belongs to itself: who
 * gives up waits for nothing, and the last that lands frees the window.
 */
#include "ops/prefetch_int.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "remote/bring.h"
#include "util/alloc.h"
#include "util/bytes.h"

#define PARALLEL 48                     /* requests, if nobody says how many: less than connections are;  */
#define FIRST 8                         /* at first, and one more for each that landed: the first to be
                                           wanted should not share the link with all others */
#define ROOM (UINT64_C(16) << 20)       /* bytes of their buffers */
#define NAP_NS (UINT64_C(5) * 1000000)
#define SECOND_NS UINT64_C(1000000000)
#define BURST_NS (SECOND_NS / 10)       /* of a rate that was not used */
/* Beside readers: one who reads again and again is hardly ever met by a request of ours, and it goes on. */
#define SHY_NS (UINT64_C(50) * 1000000)
#define QUIET_NS (UINT64_C(300) * 1000000)
#define TRICKLE_NS (UINT64_C(500) * 1000000)

/* One on its way. */
struct bringing {
    struct qc_bring            b; /* first */
    struct qc_prefetch_window *w;
    struct bringing           *next, **link;
    const struct qc_store     *store;
    qchain                    *c;
    uint32_t                   source, n_pieces;
    struct qc_want             piece[]; /* then the bytes */
};

struct qc_prefetch_window {
    const qchain_prefetch_opts *o;
    uint64_t         started_ns, next_ns, last_ns; /* when the next may, and the last did begin */
    uint64_t         begun;       /* bytes */
    pthread_mutex_t  lock;        /* guards what follows */
    pthread_cond_t   landed;
    struct bringing *under_way;
    struct bringing *arrived;     /* to be stored in tops; by next */
    unsigned         n;           /* of both, */
    uint64_t         bytes;       /* and in these */
    bool             dropped;
    uint64_t         fetched, requests;
    int              result;      /* the first failure, of this: */
    qchain          *c;
    uint32_t         source;
    const struct qc_store *store;
    qchain_error     err;
};

struct qc_prefetch_window *qc_prefetch_window_create(const qchain_prefetch_opts *o, uint64_t started_ns)
{
    struct qc_prefetch_window *w = qc_calloc(1, sizeof(*w));
    pthread_condattr_t attr;

    if (!w)
        return NULL;
    w->o = o;
    w->started_ns = w->next_ns = started_ns;
    qc_error_init(&w->err);
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w->landed, &attr);
    pthread_condattr_destroy(&attr);
    return w;
}

static void destroy(struct qc_prefetch_window *w)
{
    pthread_cond_destroy(&w->landed);
    pthread_mutex_destroy(&w->lock);
    qc_free(w);
}

/* What has arrived, one at a time; NULL: nothing has. */
static struct bringing *take_arrived(struct qc_prefetch_window *w)
{
    struct bringing *b;

    pthread_mutex_lock(&w->lock);
    b = w->arrived;
    if (b)
        w->arrived = b->next;
    pthread_mutex_unlock(&w->lock);
    return b;
}

/* It has ended, in whatever way. Under the lock. */
static void count_out(struct qc_prefetch_window *w, const struct bringing *b, int ret)
{
    w->n--;
    w->bytes -= b->b.length;
    if (ret == 0) {
        w->fetched += b->b.length;
        w->requests++;
    } else if (w->result == 0) {
        w->result = ret;
        w->c = b->c;
        w->source = b->source;
        w->store = b->store;
        qc_error_copy(&w->err, &b->b.err);
    }
}

void qc_prefetch_window_drop(struct qc_prefetch_window *w)
{
    struct bringing *b;
    bool last;

    if (!w)
        return;
    pthread_mutex_lock(&w->lock);
    w->dropped = true;
    for (b = w->arrived; b; b = w->arrived) {
        w->arrived = b->next;
        w->n--;
        qc_free(b);
    }
    last = w->n == 0;
    pthread_mutex_unlock(&w->lock);
    if (last)
        destroy(w);
}

static void landed(struct qc_bring *bring, int ret)
{
    struct bringing *b = (struct bringing *)(void *)bring;
    struct qc_prefetch_window *w = b->w;
    bool last, to_store;

    pthread_mutex_lock(&w->lock);
    *b->link = b->next;
    if (b->next)
        b->next->link = b->link;
    to_store = ret == 0 && b->n_pieces > 0 && !w->dropped;
    if (to_store) {
        b->next = w->arrived;
        w->arrived = b;
    } else {
        count_out(w, b, ret);
    }
    last = w->dropped && w->n == 0;
    pthread_cond_signal(&w->landed);
    pthread_mutex_unlock(&w->lock);
    if (!to_store)
        qc_free(b);
    if (last)
        destroy(w);
}

/* On the caller's thread: storing may block. */
static int store_arrived(struct qc_prefetch_window *w, qchain_error *err)
{
    struct bringing *b;
    int ret = 0;

    while (ret == 0 && (b = take_arrived(w))) {
        ret = qc_prefetch_store(b->c, b->piece, b->n_pieces, b->b.buf, b->b.offset, err);
        pthread_mutex_lock(&w->lock);
        count_out(w, b, 0);
        pthread_mutex_unlock(&w->lock);
        qc_free(b);
    }
    return ret;
}

/* ------------------------------------------------------------------- rules --- */

unsigned qc_prefetch_beside(uint64_t quiet_ns, uint64_t since_ns, unsigned most)
{
    if (quiet_ns >= QUIET_NS)
        return most;
    return quiet_ns >= SHY_NS || since_ns >= TRICKLE_NS ? 1 : 0;
}

/* What failed is told once nobody else says anything of it. */
static int tell_failure(struct qc_prefetch_window *w, qchain_error *err)
{
    qc_error_copy(err, &w->err);
    if (w->result == QCHAIN_E_CHANGED)
        qc_bring_changed(w->store);
    qc_layer_prefix(w->c, w->c->source[w->source].layer, err);
    return w->result;
}

int qc_prefetch_check(struct qc_prefetch_window *w, qchain_error *err)
{
    const qchain_job *job = w->o->job;
    uint64_t limit_ns;
    bool failed;

    pthread_mutex_lock(&w->lock);
    failed = w->result != 0;
    pthread_mutex_unlock(&w->lock);
    if (failed)
        return tell_failure(w, err);
    if (job && atomic_load(&job->cancelled))
        return qc_fail(err, QCHAIN_E_CANCELLED, "cancelled");
    if (w->o->deadline_ms == 0 || !qc_mul_ok(w->o->deadline_ms, 1000000, &limit_ns) ||
        qc_now_ns() - w->started_ns < limit_ns)
        return QC_PREFETCH_GO;
    return QC_PREFETCH_ENDED(QCHAIN_PREFETCH_DEADLINE);
}

/* Wait for something to land, not long: there is more to look at. Under the lock. */
static void nap(struct qc_prefetch_window *w)
{
    struct timespec until;

    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_nsec += (long)NAP_NS;
    if (until.tv_nsec >= (long)SECOND_NS) {
        until.tv_nsec -= (long)SECOND_NS;
        until.tv_sec++;
    }
    pthread_cond_timedwait(&w->landed, &w->lock, &until);
}

/* May a request begin now? Under the lock. */
static bool may_begin(const struct qc_prefetch_window *w, struct qc_remote *remote, size_t length)
{
    const qchain_job *job = w->o->job;
    unsigned most = w->o->parallel ? w->o->parallel : (unsigned)qc_min64(FIRST + w->requests, PARALLEL);
    uint64_t now = qc_now_ns(), room = ROOM;

    if ((job && atomic_load(&job->paused)) || now < w->next_ns)
        return false;
    if (w->o->flags & QCHAIN_PREFETCH_IDLE) {
        most = qc_prefetch_beside(qc_bring_quiet_ns(remote), now - w->last_ns, most);
        room = qc_min64(qc_bring_room(remote), ROOM);
    }
    return w->n < most && (w->n == 0 || w->bytes + length <= room);
}

uint64_t qc_prefetch_request(const struct qc_prefetch_window *w, struct qc_remote *remote)
{
    uint64_t n = QC_PREFETCH_REQUEST, room = w->o->flags & QCHAIN_PREFETCH_IDLE ? qc_bring_room(remote) : n;

    while (n > room && n > QC_DELAY_LEAST)
        n /= 2;
    return n;
}

int qc_prefetch_hold(struct qc_prefetch_window *w, struct qc_remote *remote, size_t *length,
                     qchain_error *err)
{
    uint64_t most = w->o->max_bytes ? w->o->max_bytes - qc_min64(w->begun, w->o->max_bytes) : UINT64_MAX;
    bool go = false;
    int ret = 0;

    if (*length > most)
        *length = (size_t)qc_align_down(most, QC_GRAIN);
    if (*length == 0)
        return QC_PREFETCH_ENDED(QCHAIN_PREFETCH_BYTES);
    while (ret == 0 && !go) {
        ret = qc_prefetch_check(w, err);
        if (ret == 0)
            ret = store_arrived(w, err);
        pthread_mutex_lock(&w->lock);
        go = ret == 0 && w->result == 0 && may_begin(w, remote, *length);
        if (ret == 0 && !go)
            nap(w);
        pthread_mutex_unlock(&w->lock);
    }
    return ret;
}

/* When the next may begin, by the rates; of a time that was not used some is left. */
static void pass_time(struct qc_prefetch_window *w, size_t length)
{
    const qchain_prefetch_opts *o = w->o;
    uint64_t now = qc_now_ns(), rate = o->bytes_per_second, own = o->job ? atomic_load(&o->job->rate) : 0;
    double takes = 0;

    if (own > 0 && (rate == 0 || own < rate))
        rate = own;
    if (rate > 0)
        takes = (double)length / (double)rate;
    if (o->requests_per_second > 0 && takes < 1 / (double)o->requests_per_second)
        takes = 1 / (double)o->requests_per_second;
    w->last_ns = now;
    w->next_ns = qc_max64(w->next_ns, now - qc_min64(now, BURST_NS));
    w->next_ns += (uint64_t)(takes < 1e9 ? takes * 1e9 : 1e18);
}

/* ---------------------------------------------------------------- requests --- */

bool qc_prefetch_trim(struct qc_prefetch_window *w, const struct qc_store *s, uint64_t *start, uint64_t *end)
{
    pthread_mutex_lock(&w->lock);
    for (const struct bringing *b = w->under_way; b; b = b->next) {
        uint64_t from = b->b.offset, to = from + b->b.length;

        if (to <= *start || from >= *end || !qc_bring_same(b->store, s))
            continue;
        if (from <= *start)
            *start = qc_min64(to, *end);
        else
            *end = from; /* what is behind it is asked for when it has landed */
    }
    pthread_mutex_unlock(&w->lock);
    return *start < *end;
}

int qc_prefetch_begin(struct qc_prefetch_window *w, qchain *c, uint32_t source, struct qc_store *s,
                      uint64_t start, size_t length, const struct qc_want *piece, uint32_t n_pieces,
                      qchain_error *err)
{
    size_t head = sizeof(struct bringing) + n_pieces * sizeof(*piece);
    struct bringing *b = qc_malloc(head + length + QC_PREFETCH_SLACK);

    if (!b)
        return qc_fail_nomem(err);
    memset(b, 0, sizeof(*b));
    if (n_pieces > 0)
        memcpy(b->piece, piece, n_pieces * sizeof(*piece));
    b->n_pieces = n_pieces;
    b->w = w;
    b->c = c;
    b->source = source;
    b->store = s;
    b->b.buf = (char *)b + head;
    memset((char *)b->b.buf + length, 0, QC_PREFETCH_SLACK);
    b->b.unkept = n_pieces > 0;
    b->b.offset = start;
    b->b.length = length;
    b->b.done = landed;
    w->begun += length;
    pass_time(w, length);
    pthread_mutex_lock(&w->lock);
    b->next = w->under_way;
    b->link = &w->under_way;
    if (b->next)
        b->next->link = &b->next;
    w->under_way = b;
    w->n++;
    w->bytes += length;
    pthread_mutex_unlock(&w->lock);
    qc_bring_begin(s, &b->b);
    return 0;
}

int qc_prefetch_settle(struct qc_prefetch_window *w, qchain_error *err)
{
    unsigned n;
    int ret;

    for (;;) {
        ret = qc_prefetch_check(w, err);
        if (ret == 0)
            ret = store_arrived(w, err);
        pthread_mutex_lock(&w->lock);
        n = w->n;
        if (ret == 0 && n > 0 && !w->arrived)
            nap(w);
        else if (ret == 0 && w->result != 0)
            n = 1; /* the last has just failed */
        pthread_mutex_unlock(&w->lock);
        if (ret != 0 || n == 0)
            return ret;
    }
}

void qc_prefetch_count(struct qc_prefetch_window *w, qchain_prefetch_result *result)
{
    pthread_mutex_lock(&w->lock);
    result->fetched = w->fetched;
    result->requests = w->requests;
    pthread_mutex_unlock(&w->lock);
}
