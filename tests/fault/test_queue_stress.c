/* SPDX-License-Identifier: MIT */
/*
 * Queues under load and trouble, in an environment with one leaf thread, one walker
 * and little memory for maps: threads with queues on many chains read, cancel and
 * close at random, others block in qchain_read and qchain_map, and most chains' stores
 * hang. Each accepted request must complete once, with the right bytes or a code that
 * the store's trouble explains, and leave its buffer alone afterwards; requests to
 * healthy chains must complete while others hang, some of which are let go only after
 * that. The bound for it is generous: it tells waiting for a dead store from being slow.
 *
 * QC_SEED repeats a run as far as threads can be repeated; QC_SECONDS is its length.
 */
#include "../unit/mem_layers.c"

#include <dirent.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <time.h>

#include "stress_chains.h"

#define N_CHAINS 40
#define N_WORKERS 7
#define N_HEALTHY 4 /* of them, with healthy chains only */
#define BOUND_MS 20000 /* for a request to a healthy chain */
#define MAX_LENGTH (1 << 20)
#define MAX_PIECES 6
#define MAX_DEPTH 24
#define GAP 32 /* guard bytes around each piece */
#define GUARD 0xC7
#define CANARY 0x5A

struct request {
    enum { IDLE, FLYING, DONE } state;
    bool           cancelled; /* somebody asked */
    unsigned char *mem;       /* pieces and guards; all CANARY when done */
    size_t         mem_len;
    qchain_iov     iov[MAX_PIECES];
    uint32_t       n_iov;
    size_t         length;
    uint64_t       offset;
    long           since;
};

struct queue {
    qchain_queue  *q; /* NULL: not open */
    struct chain  *chain;
    uint32_t       depth, flying;
    struct request request[MAX_DEPTH + 4];
    unsigned       next;
};

struct worker {
    const char    *name;
    void         (*work)(struct worker *w);
    bool           healthy;  /* takes the healthy chains, else the others */
    bool           polls;    /* never waits in a reap, but in epoll_wait */
    unsigned       n_queues;
    uint64_t       seed;
    pthread_t      id;
    int            epoll;
    struct queue  *queue;
    unsigned char *want;
    _Atomic(const char *) doing;
    unsigned long  accepted, good, failed, cancelled, dropped, empty;
};

static struct chain chains[N_CHAINS];
static unsigned n_healthy, n_ill; /* these come first, then the slow and failing ones */
static qchain_env *env;
static atomic_bool stop;
static atomic_bool settle; /* the healthy ones shall complete what they have, once */
static atomic_int n_settled, n_ended;
static atomic_long slowest; /* ms, of a request to a healthy chain */
static atomic_bool used_uring;
static uint64_t first_seed;

static void die(const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    printf("QC_SEED=%llu: ", (unsigned long long)first_seed);
    vprintf(fmt, args);
    printf("\n");
    va_end(args);
    fflush(stdout);
    _exit(1);
}

static long ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static uint64_t pick(struct worker *w, uint64_t n)
{
    return mem_random(&w->seed) % n;
}

static struct chain *pick_chain(struct worker *w)
{
    if (w->healthy)
        return &chains[pick(w, n_healthy)];
    return &chains[n_healthy + (pick(w, 2) ? pick(w, n_ill) : pick(w, N_CHAINS - n_healthy))];
}

/* A place of a chain, mostly where something is. */
static void pick_range(struct worker *w, const struct chain *c, uint64_t *offset, size_t *length)
{
    static const size_t most[] = {512, 4096, 4096, 16384, 65536, 65536, 200000, MAX_LENGTH};
    uint64_t size = qchain_size(c->c), at;
    size_t len = 1 + pick(w, most[pick(w, 8)]);

    at = pick(w, 5) ? c->spot[pick(w, N_SPOTS)] + pick(w, SPOT) : pick(w, size);
    if (pick(w, 2)) { /* as disks are read */
        at = at / 512 * 512;
        len = (len + 511) / 512 * 512;
    }
    *offset = at < size ? at : size - 1;
    *length = len < size - *offset ? len : size - *offset;
}

/* A request to a healthy chain may take so long. */
static void check_time(const struct chain *c, long since, const char *what)
{
    long took = ms() - since, old = atomic_load(&slowest);

    if (c->kind > FILES)
        return;
    while (took > old && !atomic_compare_exchange_weak(&slowest, &old, took))
        ;
    if (took > BOUND_MS)
        die("chain %u (%s): %s for %ld ms while %d reads of other stores hang", c->number,
            kind_name[c->kind], what, took, atomic_load(&n_hanging));
}

/* -------------------------------------------------------------- requests --- */

static void check_all(const unsigned char *p, size_t n, int byte, const char *what)
{
    for (size_t i = 0; i < n; i++)
        if (p[i] != byte)
            die("%s: byte %zu of %zu is 0x%02x", what, i, n, p[i]);
}

/* Lay the pieces out in any order, with guards between. */
static void lay_out(struct worker *w, struct request *r)
{
    size_t left = r->length, len, at = GAP;
    uint32_t n = pick(w, 3) ? 1 : 1 + (uint32_t)pick(w, MAX_PIECES);
    bool backwards = pick(w, 2);

    if (r->state == DONE)
        check_all(r->mem, r->mem_len, CANARY, "a buffer was written after its completion");
    free(r->mem);
    r->n_iov = n;
    r->mem_len = r->length + GAP * (n + 1);
    r->mem = must(malloc(r->mem_len));
    memset(r->mem, GUARD, r->mem_len);
    for (uint32_t i = 0; i < n; i++) {
        len = i + 1 < n ? pick(w, left + 1) : left;
        left -= len;
        r->iov[i].base = backwards ? r->mem + r->mem_len - at - len : r->mem + at;
        r->iov[i].len = len;
        at += len + GAP;
    }
}

static void check_bytes(struct worker *w, const struct queue *q, const struct request *r)
{
    size_t at = 0;

    mem_chain_read(q->chain->mem, w->want, r->length, r->offset);
    for (uint32_t i = 0; i < r->n_iov; at += r->iov[i++].len)
        if (memcmp(r->iov[i].base, w->want + at, r->iov[i].len) != 0)
            die("chain %u (%s, %s): wrong bytes in [%llu, +%zu), piece %u", q->chain->number,
                kind_name[q->chain->kind], qchain_queue_engine(q->q),
                (unsigned long long)r->offset, r->length, i);
}

/* The request is over: its guards are whole, and its memory is ours. */
static void land(struct queue *q, struct request *r)
{
    for (uint32_t i = 0; i < r->n_iov; i++) {
        check_all((unsigned char *)r->iov[i].base - GAP, GAP, GUARD, "before a piece");
        check_all((unsigned char *)r->iov[i].base + r->iov[i].len, GAP, GUARD, "after a piece");
    }
    memset(r->mem, CANARY, r->mem_len);
    r->state = DONE;
    q->flying--;
}

static bool allowed(const struct chain *c, int code, bool cancelled)
{
    return (code == QCHAIN_E_CANCELLED && cancelled) ||
           (code == QCHAIN_E_TIMEOUT && c->kind == DEAD) ||
           (code == QCHAIN_E_IO && c->kind == FAILING);
}

static void complete(struct worker *w, struct queue *q, const qchain_completion *done)
{
    struct request *r = done->user;

    if (r < q->request || r >= q->request + MAX_DEPTH + 4 || r->state != FLYING)
        die("chain %u: a completion of no request, or a second one", q->chain->number);
    check_time(q->chain, r->since, "a request took");
    if (done->result == 0) {
        check_bytes(w, q, r);
        w->good++;
    } else if (!allowed(q->chain, done->result, r->cancelled)) {
        die("chain %u (%s): [%llu, +%zu): %s: %s", q->chain->number, kind_name[q->chain->kind],
            (unsigned long long)r->offset, r->length, qchain_code_name(done->result),
            done->error ? done->error : "(nothing said)");
    }
    if ((done->result == 0) != (done->error == NULL) || (done->error && !*done->error))
        die("result %d and error text do not agree", done->result);
    w->failed += done->result != 0 && done->result != QCHAIN_E_CANCELLED;
    w->cancelled += done->result == QCHAIN_E_CANCELLED;
    land(q, r);
}

static uint32_t reap(struct worker *w, struct queue *q, uint32_t min, int timeout_ms)
{
    qchain_completion done[MAX_DEPTH];
    uint32_t max = 1 + (uint32_t)pick(w, MAX_DEPTH);
    int n = qchain_queue_reap(q->q, done, min < max ? min : max, max, timeout_ms);

    if (n < 0 || (uint32_t)n > max || (uint32_t)n > q->flying)
        die("a reap of at most %u, with %u in flight, answers %d", max, q->flying, n);
    if (timeout_ms < 0 && (uint32_t)n < (min < max ? min : max) && q->flying >= min)
        die("a reap of at least %u without a time-out answers %d", min, n);
    for (int i = 0; i < n; i++)
        complete(w, q, &done[i]);
    if (qchain_queue_pending(q->q) != q->flying)
        die("%u are pending, not %u", qchain_queue_pending(q->q), q->flying);
    return (uint32_t)n;
}

/* One request; false if the queue is full. */
static bool submit(struct worker *w, struct queue *q, bool more)
{
    struct request *r = &q->request[q->next];
    uint32_t flags = more ? QCHAIN_REQUEST_MORE : 0;
    int ret;

    for (unsigned i = 0; r->state == FLYING && i < MAX_DEPTH + 4; i++)
        r = &q->request[++q->next % (MAX_DEPTH + 4)];
    q->next = (unsigned)(r - q->request + 1) % (MAX_DEPTH + 4);
    pick_range(w, q->chain, &r->offset, &r->length);
    lay_out(w, r);
    r->since = ms();
    r->cancelled = false;
    if (r->n_iov == 1)
        ret = qchain_queue_read(q->q, r->iov[0].base, r->length, r->offset, flags, r, NULL);
    else
        ret = qchain_queue_readv(q->q, r->iov, r->n_iov, r->offset, flags, r, NULL);
    if (ret != (q->flying < q->depth ? 0 : QCHAIN_E_BUSY))
        die("with %u of %u in flight a request is answered %d", q->flying, q->depth, ret);
    r->state = ret == 0 ? FLYING : IDLE;
    q->flying += ret == 0;
    w->accepted += ret == 0;
    return ret == 0;
}

static void submit_some(struct worker *w, struct queue *q)
{
    unsigned n = 1 + (unsigned)pick(w, pick(w, 4) ? 4 : 16);

    while (n-- > 0)
        if (!submit(w, q, n > 0)) {
            reap(w, q, 0, 0); /* what was held back goes now */
            return;
        }
}

static void cancel_one(struct worker *w, struct queue *q)
{
    uint64_t at = pick(w, MAX_DEPTH + 4);
    struct request *r = &q->request[at];
    int n;

    for (unsigned i = 1; r->state != FLYING && i < MAX_DEPTH + 4; i++)
        r = &q->request[(at + i) % (MAX_DEPTH + 4)];
    r->cancelled |= r->state == FLYING;
    n = qchain_queue_cancel(q->q, r);
    if (n < 0 || n > (r->state == FLYING))
        die("a cancel asks %d requests", n);
}

static void bad_request(struct queue *q)
{
    unsigned char byte = GUARD;
    uint64_t size = qchain_size(q->chain->c);
    int ret = qchain_queue_read(q->q, &byte, 1, size, 0, NULL, NULL);

    if (ret != (q->flying < q->depth ? QCHAIN_E_RANGE : ret) || ret == 0)
        die("a read past the end is answered %d", ret);
    if (qchain_queue_read(q->q, &byte, 1, 0, 0x80, NULL, NULL) != QCHAIN_E_INVAL)
        die("an unknown flag is not refused");
    if (qchain_queue_pending(q->q) != q->flying || byte != GUARD)
        die("a refused request was taken");
}

/* ---------------------------------------------------------------- queues --- */

static void open_queue(struct worker *w, struct queue *q)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = q};
    qchain_queue_opts o;

    qchain_queue_opts_init(&o, sizeof(o));
    o.flags = pick(w, 3) ? 0 : QCHAIN_QUEUE_NO_URING;
    o.depth = q->depth = 1 + (uint32_t)pick(w, MAX_DEPTH);
    q->chain = pick_chain(w);
    q->flying = 0;
    if (qchain_queue_create(&q->q, q->chain->c, &o, NULL) != 0)
        die("no queue can be made");
    if (strcmp(qchain_queue_engine(q->q), "io_uring") == 0) {
        if (o.flags)
            die("io_uring though it was not wanted");
        atomic_store(&used_uring, true);
    }
    if (w->polls && epoll_ctl(w->epoll, EPOLL_CTL_ADD, qchain_queue_fd(q->q), &event) != 0)
        die("the descriptor cannot be polled");
}

/* With requests in flight: none completes any more, and their buffers are ours. */
static void close_queue(struct worker *w, struct queue *q)
{
    if (w->polls)
        epoll_ctl(w->epoll, EPOLL_CTL_DEL, qchain_queue_fd(q->q), NULL);
    qchain_queue_destroy(q->q);
    q->q = NULL;
    for (unsigned i = 0; i < MAX_DEPTH + 4; i++) {
        if (q->request[i].state != FLYING)
            continue;
        w->dropped++;
        land(q, &q->request[i]);
    }
    if (q->flying != 0)
        die("%u requests got lost", q->flying);
}

/* A queue that has nothing to do does not call. */
static void check_quiet(struct worker *w, struct queue *q)
{
    struct pollfd p = {.fd = qchain_queue_fd(q->q), .events = POLLIN};

    for (int i = 0; q->flying == 0; i++) {
        reap(w, q, 0, 0);
        if (poll(&p, 1, 0) == 0)
            return;
        if (i > 2000)
            die("the descriptor stays readable, with nothing pending");
        usleep(1000);
    }
}

static void check_overdue(struct worker *w)
{
    for (unsigned k = 0; k < w->n_queues; k++)
        for (unsigned i = 0; w->queue[k].q && i < MAX_DEPTH + 4; i++)
            if (w->queue[k].request[i].state == FLYING)
                check_time(w->queue[k].chain, w->queue[k].request[i].since, "a request waits");
}

static void wait_by_epoll(struct worker *w, int timeout_ms)
{
    struct epoll_event event[8];
    int n = epoll_wait(w->epoll, event, 8, timeout_ms);

    for (int i = 0; i < n; i++)
        w->empty += reap(w, event[i].data.ptr, 0, 0) == 0;
}

static void step(struct worker *w, struct queue *q)
{
    unsigned what = (unsigned)pick(w, 100);

    if (what < 50) {
        atomic_store(&w->doing, "submitting");
        submit_some(w, q);
    } else if (what < 90 && w->polls) {
        atomic_store(&w->doing, "polling");
        wait_by_epoll(w, (int)pick(w, 10));
    } else if (what < 90) {
        atomic_store(&w->doing, "reaping");
        reap(w, q, (uint32_t)pick(w, q->flying + 2), w->healthy ? (int)pick(w, 40) - 1 : 3);
    } else if (what < 96) {
        cancel_one(w, q);
    } else if (what < 97) {
        bad_request(q);
    } else if (what < 98) {
        atomic_store(&w->doing, "waiting for a quiet descriptor");
        check_quiet(w, q);
    } else if (!hangs_for_good(q->chain) || !atomic_load(&ill)) {
        atomic_store(&w->doing, "closing");
        close_queue(w, q);
    }
}

/* Complete what is in flight. */
static void drain(struct worker *w, struct queue *q)
{
    atomic_store(&w->doing, "draining");
    while (q->q && q->flying > 0) {
        if (w->polls)
            wait_by_epoll(w, 100);
        else
            reap(w, q, q->flying, 100);
        check_overdue(w);
    }
    if (q->q)
        check_quiet(w, q);
}

static void settle_once(struct worker *w, bool *settled)
{
    if (*settled || !w->healthy || !atomic_load(&settle))
        return;
    for (unsigned k = 0; k < w->n_queues; k++)
        drain(w, &w->queue[k]);
    *settled = true;
    atomic_fetch_add(&n_settled, 1);
}

static void use_queues(struct worker *w)
{
    bool settled = false;

    w->queue = must(calloc(w->n_queues, sizeof(*w->queue)));
    w->epoll = epoll_create1(EPOLL_CLOEXEC);
    for (unsigned i = 0; !atomic_load(&stop); i++) {
        struct queue *q = &w->queue[pick(w, w->n_queues)];

        if (!q->q)
            open_queue(w, q);
        step(w, q);
        if (i % 64 == 0)
            check_overdue(w);
        settle_once(w, &settled);
    }
    for (unsigned k = 0; k < w->n_queues; k++) {
        struct queue *q = &w->queue[k];

        drain(w, q);
        if (q->q)
            close_queue(w, q);
        for (unsigned i = 0; i < MAX_DEPTH + 4; i++) {
            if (q->request[i].state == DONE)
                check_all(q->request[i].mem, q->request[i].mem_len, CANARY, "written at last");
            free(q->request[i].mem);
        }
    }
    close(w->epoll);
    free(w->queue);
}

/* -------------------------------------------------------- blocking calls --- */

static void check_result(struct worker *w, const struct chain *c, int ret, const qchain_error *err)
{
    if (ret != 0 && !allowed(c, ret, false))
        die("chain %u (%s): %s", c->number, kind_name[c->kind], qchain_error_message(err));
    w->good += ret == 0;
    w->failed += ret != 0;
}

static void map_range(struct worker *w, const struct chain *c, uint64_t offset, size_t length,
                      qchain_error *err)
{
    uint64_t next = offset, at;
    enum mem_state state;
    qchain_extent e[32];
    uint32_t n, layer;
    int ret = 0;

    while (ret == 0 && next < offset + length) {
        at = next;
        ret = qchain_map(c->c, at, offset + length - at, e, 32, &n, &next, 0, err);
        for (uint32_t i = 0; ret == 0 && i < n; at += e[i++].length) {
            layer = mem_chain_look(c->mem, at, &state);
            if (e[i].offset != at || (layer < c->mem->n && e[i].layer != layer) ||
                !(e[i].flags & QCHAIN_EXTENT_DATA) != (layer == c->mem->n || state == MEM_ZERO))
                die("chain %u: the map is wrong at %llu", c->number, (unsigned long long)at);
        }
        if (ret == 0 && (at != next || n == 0))
            die("chain %u: the map has a gap at %llu", c->number, (unsigned long long)at);
    }
    check_result(w, c, ret, err);
}

static void block(struct worker *w)
{
    unsigned char *buf = must(malloc(MAX_LENGTH));
    qchain_error *err = qchain_error_create();
    bool settled = false;
    uint64_t offset;
    size_t length;
    long since;
    int ret;

    while (!atomic_load(&stop)) {
        struct chain *c = pick_chain(w);

        if (hangs_for_good(c) && atomic_load(&ill))
            continue;
        pick_range(w, c, &offset, &length);
        since = ms();
        atomic_store(&w->doing, "blocking");
        if (pick(w, 4)) {
            ret = qchain_read(c->c, buf, length, offset, 0, err);
            check_result(w, c, ret, err);
            mem_chain_read(c->mem, w->want, length, offset);
            if (ret == 0 && memcmp(buf, w->want, length) != 0)
                die("chain %u: a blocking read gave wrong bytes", c->number);
        } else {
            map_range(w, c, offset, length, err);
        }
        check_time(c, since, "a blocking call took");
        settle_once(w, &settled);
        usleep((useconds_t)pick(w, 1000)); /* others want the processor, too */
    }
    qchain_error_destroy(err);
    free(buf);
}

/* ------------------------------------------------------------------ main --- */

static void *work(void *arg)
{
    struct worker *w = arg;

    w->want = must(malloc(MAX_LENGTH));
    w->work(w);
    free(w->want);
    atomic_fetch_add(&n_ended, 1);
    return NULL;
}

static unsigned entries(const char *dir)
{
    DIR *d = opendir(dir);
    unsigned n = 0;

    while (d && readdir(d))
        n++;
    if (d)
        closedir(d);
    return n;
}

static void make_env(void)
{
    qchain_env_opts o;

    qchain_env_opts_init(&o, sizeof(o));
    o.threads = 1;
    o.walkers = 1;
    o.index_bytes = 1 << 20;
    o.block_bytes = 1 << 20;
    if (qchain_env_create(&env, &o, NULL) != 0)
        die("no environment");
}

static void make_chains(const char *dir, uint64_t *seed)
{
    static const unsigned count[] = {6, 5, 2, 3, 24};
    qchain_error *err = qchain_error_create();
    unsigned n = 0;

    n_healthy = count[MEMORY] + count[FILES];
    n_ill = count[SLOW] + count[FAILING];
    for (unsigned kind = 0; kind < 5; kind++) {
        for (unsigned i = 0; i < count[kind]; i++, n++) {
            chain_make(&chains[n], n, kind, dir, seed);
            if (chain_open(&chains[n], env, err) != 0)
                die("chain %u: %s", n, qchain_error_message(err));
        }
    }
    if (n != N_CHAINS)
        die("%u chains", n);
    qchain_error_destroy(err);
}

static void wait_for_workers(struct worker *w, atomic_int *count, int n, const char *what)
{
    for (long until = ms() + 60000; atomic_load(count) < n; usleep(5000)) {
        if (ms() < until)
            continue;
        for (int i = 0; i < N_WORKERS; i++)
            printf("%s: %s\n", w[i].name, atomic_load(&w[i].doing));
        die("not all threads %s", what);
    }
}

/* Everything is healthy again: something of each spot of each chain can be read. */
static void read_all_spots(void)
{
    static unsigned char buf[65536], want[65536];
    qchain_completion done;
    qchain_queue *q;

    for (struct chain *c = chains; c < chains + N_CHAINS; c++) {
        if (qchain_queue_create(&q, c->c, NULL, NULL) != 0)
            die("no queue at the end");
        for (unsigned i = 0; i < N_SPOTS; i++) {
            uint64_t at = c->spot[i] + i * (SPOT - sizeof(buf)) / N_SPOTS, size = qchain_size(c->c);
            size_t len = size - at < sizeof(buf) ? size - at : sizeof(buf);

            if (at >= size)
                continue;
            if (qchain_queue_read(q, buf, len, at, 0, c, NULL) != 0 ||
                qchain_queue_reap(q, &done, 1, 1, 60000) != 1 || done.user != c || done.result)
                die("chain %u (%s): not well again", c->number, kind_name[c->kind]);
            mem_chain_read(c->mem, want, len, at);
            if (memcmp(buf, want, len) != 0)
                die("chain %u (%s): wrong bytes at last", c->number, kind_name[c->kind]);
        }
        qchain_queue_destroy(q);
    }
}

/* Files that have lost their bytes: no read may succeed with others. */
static void read_shrunk_files(struct chain *c)
{
    static unsigned char buf[65536], want[65536];
    qchain_completion done;
    unsigned failed = 0;
    qchain_queue *q;

    if (qchain_queue_create(&q, c->c, NULL, NULL) != 0)
        die("no queue for shrunk files");
    for (unsigned i = 0; i < N_SPOTS; i++) /* the maps, while they can be had */
        if (c->spot[i] < qchain_size(c->c) && qchain_read(c->c, buf, 512, c->spot[i], 0, NULL) != 0)
            die("chain %u cannot be read any more", c->number);
    for (uint32_t k = 0; k < c->mem->n; k++) {
        char *name = mem_file_name(c->dir, k);

        if (truncate(name, 700) != 0)
            die("%s cannot be truncated", name);
        free(name);
    }
    for (uint64_t i = 0; i < 4 * N_SPOTS; i++) {
        uint64_t at = c->spot[i / 4] + i % 4 * 65536;
        size_t len = i % 4 ? 3000 : 65536;

        if (at >= qchain_size(c->c) || len > qchain_size(c->c) - at)
            continue;
        if (qchain_queue_read(q, buf, len, at, 0, NULL, NULL) != 0 ||
            qchain_queue_reap(q, &done, 1, 1, 60000) != 1)
            die("shrunk files hold a queue up");
        mem_chain_read(c->mem, want, len, at);
        if (done.result == 0 && memcmp(buf, want, len) != 0)
            die("wrong bytes from shrunk files");
        if (done.result != 0 && done.result != QCHAIN_E_IO && done.result != QCHAIN_E_CHANGED &&
            done.result != QCHAIN_E_CORRUPT)
            die("shrunk files: %s", done.error);
        failed += done.result != 0;
    }
    if (failed < 5)
        die("shrunk files hardly fail");
    qchain_queue_destroy(q);
}

static void end_all(unsigned threads, unsigned descriptors)
{
    qchain_stats stats = {.struct_size = sizeof(stats)};

    qchain_env_stats(env, &stats);
    printf("queues: %llu requests, %llu reads by io_uring, %llu by leaf threads, %llu walks; "
           "%llu windows filled, %llu evicted\n", (unsigned long long)stats.queue_requests,
           (unsigned long long)stats.queue_uring, (unsigned long long)stats.queue_leaf,
           (unsigned long long)stats.queue_walks, (unsigned long long)stats.index_fills,
           (unsigned long long)stats.index_evictions);
    if (!stats.queue_requests || !stats.queue_leaf || !stats.queue_walks ||
        !stats.index_evictions || (stats.queue_uring > 0) != atomic_load(&used_uring))
        die("not all of the machinery was used");
    for (unsigned n = 0; n < N_CHAINS; n++)
        if (!chain_end(&chains[n]))
            die("chain %u: a store was left open, or closed twice", n);
    qchain_env_destroy(env);
    for (int i = 0; entries("/proc/self/task") > threads; i++) { /* the kernel's end later */
        if (i > 1000)
            die("%u threads are left, not %u", entries("/proc/self/task"), threads);
        usleep(10000);
    }
    if (entries("/proc/self/fd") != descriptors)
        die("%u descriptors are left, not %u", entries("/proc/self/fd"), descriptors);
}

static void *nothing(void *arg)
{
    return arg;
}

int main(void)
{
    static struct worker w[N_WORKERS] = {
        {.name = "polling", .work = use_queues, .healthy = true, .polls = true, .n_queues = 8},
        {.name = "reaping", .work = use_queues, .healthy = true, .n_queues = 6},
        {.name = "troubled polling", .work = use_queues, .polls = true, .n_queues = 24},
        {.name = "troubled reaping", .work = use_queues, .n_queues = 16},
        {.name = "blocking", .work = block, .healthy = true},
        {.name = "troubled blocking", .work = block},
        {.name = "blocking, too", .work = block, .healthy = true},
    };
    const char *seconds = getenv("QC_SECONDS"), *tmp = getenv("TMPDIR");
    long length = (seconds ? atol(seconds) : 3) * 1000;
    char dir[4096];
    uint64_t seed;
    unsigned threads, descriptors;

    setvbuf(stdout, NULL, _IOLBF, 0);
    seed = first_seed = mem_seed(20240521);
    atomic_store(&troubles, (unsigned)seed);
    snprintf(dir, sizeof(dir), "%s/qchain-stress-XXXXXX", tmp ? tmp : "/tmp");
    if (!mkdtemp(dir))
        die("no directory");
    pthread_create(&w[0].id, NULL, nothing, NULL); /* a sanitizer may start one of its own */
    pthread_join(w[0].id, NULL);
    threads = entries("/proc/self/task");
    descriptors = entries("/proc/self/fd");
    make_env();
    make_chains(dir, &seed);
    atomic_store(&ill, true);
    for (int i = 0; i < N_WORKERS; i++) {
        w[i].seed = mem_random(&seed);
        atomic_store(&w[i].doing, "starting");
        if (pthread_create(&w[i].id, NULL, work, &w[i]) != 0)
            die("no thread");
    }
    usleep((useconds_t)(length * 700));
    atomic_store(&settle, true);
    wait_for_workers(w, &n_settled, N_HEALTHY, "settle");
    if (atomic_load(&n_hanging) < 3)
        die("hardly anything hangs");
    atomic_store(&ill, false);
    usleep((useconds_t)(length * 300));
    atomic_store(&stop, true);
    wait_for_workers(w, &n_ended, N_WORKERS, "end");
    for (int i = 0; i < N_WORKERS; i++)
        pthread_join(w[i].id, NULL);
    for (int i = 0; i < N_WORKERS; i++)
        printf("%-18s %lu accepted, %lu good, %lu failed, %lu cancelled, %lu closed in flight, "
               "%lu empty reaps\n", w[i].name, w[i].accepted, w[i].good, w[i].failed,
               w[i].cancelled, w[i].dropped, w[i].empty);
    printf("slowest with a healthy store: %ld ms; %d reads hung, %d failed\n",
           atomic_load(&slowest), atomic_load(&n_hung), atomic_load(&n_refused));
    for (int i = 0; i < 4; i++)
        if (w[i].accepted != w[i].good + w[i].failed + w[i].cancelled + w[i].dropped)
            die("%s: %lu requests did not complete once", w[i].name, w[i].accepted);
    if (atomic_load(&n_hung) < 5 || atomic_load(&n_refused) < 5)
        die("hardly anything hung or failed");
    read_all_spots();
    read_shrunk_files(&chains[n_healthy - 1]);
    end_all(threads, descriptors);
    rmdir(dir);
    return 0;
}
