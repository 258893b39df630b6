/* SPDX-License-Identifier: MIT */
/* Data pulled into the top while guests use it: by rebase, stream and merge, and by reads that keep what they read.
 * What a guest writes meanwhile stands, and nothing else changes. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <time.h>

#include "mem_layers.h"
#include "ops/chain_files.h"
#include "share.h"

#define GUESTS 3

/* One who uses a part of the disk, whose clusters at both ends he shares with others. */
struct guest {
    pthread_t      thread;
    qchain        *c;
    unsigned char *want; /* of the whole disk */
    uint64_t       from, to, seed;
    atomic_bool   *stop;
    char           wrong[200];
};

static void complain(struct guest *g, const char *what, const qchain_error *why)
{
    snprintf(g->wrong, sizeof(g->wrong), "%s: %s", what, why ? qchain_error_message(why) : "other bytes");
}

/* Given up: it reads as zeros or as before, byte by byte, which the guest then knows. */
static void see_what_is_left(struct guest *g, uint64_t at, uint64_t n, unsigned char *buf, qchain_error *e)
{
    if (qchain_read(g->c, buf, n, at, 0, e) != 0) {
        complain(g, "read", e);
        return;
    }
    for (uint64_t i = 0; i < n; i++)
        if (buf[i] != 0 && buf[i] != g->want[at + i])
            complain(g, "after a discard", NULL);
    memcpy(g->want + at, buf, n);
}

static void act(struct guest *g, unsigned char *buf, qchain_error *e)
{
    uint64_t at = g->from + some(&g->seed, g->to - g->from);
    uint64_t n = 1 + some(&g->seed, some(&g->seed, 4) ? 3000 : 200000);
    int ret = 0;

    n = n > g->to - at ? g->to - at : n;
    switch (some(&g->seed, 8)) {
    case 0:
        ret = qchain_write_zeroes(g->c, n, at, some(&g->seed, 2) ? QCHAIN_WRITE_UNMAP : 0, e);
        memset(g->want + at, 0, n);
        break;
    case 1:
        ret = qchain_discard(g->c, n, at, 0, e);
        if (ret == 0)
            see_what_is_left(g, at, n, buf, e);
        break;
    case 2:
    case 3:
    case 4:
        ret = qchain_read(g->c, buf, n, at, 0, e);
        if (ret == 0 && memcmp(buf, g->want + at, n) != 0)
            complain(g, "read", NULL);
        break;
    default:
        fill_bytes(buf, n, &g->seed);
        ret = qchain_write(g->c, buf, n, at, 0, e);
        memcpy(g->want + at, buf, n);
    }
    if (ret != 0)
        complain(g, "call", e);
}

static void *use(void *arg)
{
    struct guest *g = arg;
    qchain_error *e = qchain_error_create();
    unsigned char *buf = malloc(200001);

    for (unsigned i = 0; !g->wrong[0] && (i < 40 || !atomic_load(g->stop)); i++)
        act(g, buf, e);
    free(buf);
    qchain_error_destroy(e);
    return NULL;
}

static void begin_use(struct guest *g, qchain *c, unsigned char *want, atomic_bool *stop, uint64_t *s)
{
    uint64_t size = qchain_size(c);

    for (unsigned i = 0; i < GUESTS; i++) {
        g[i] = (struct guest){.c = c, .want = want, .from = size * i / GUESTS, .to = size * (i + 1) / GUESTS,
                              .seed = random_next(s), .stop = stop};
        assert_int_equal(pthread_create(&g[i].thread, NULL, use, &g[i]), 0);
    }
}

static void end_use(struct guest *g, atomic_bool *stop)
{
    atomic_store(stop, true);
    for (unsigned i = 0; i < GUESTS; i++)
        pthread_join(g[i].thread, NULL);
    for (unsigned i = 0; i < GUESTS; i++)
        if (g[i].wrong[0])
            fail_msg("seed %llu: guest %u: %s", (unsigned long long)seed, i, g[i].wrong);
}

static void restack(qchain *c, struct chain *k, uint64_t *s)
{
    qchain_job_result r = {.struct_size = sizeof(r)};
    qchain_rebase_opts o;
    unsigned i = k->n > 1 ? (unsigned)some(s, k->n - 1) : 0;
    bool shared = k->n > 1 && some(s, 2);

    qchain_rebase_opts_init(&o, sizeof(o));
    o.threads = (uint32_t)some(s, 4);
    o.flags = some(s, 3) ? 0 : QCHAIN_REBASE_COMPRESS;
    switch (k->n > 1 ? some(s, 5) : 2) {
    case 0:
        OK(qchain_stream(c, 1 + (uint32_t)some(s, k->n), 0, NULL, &r, err));
        break;
    case 1:
        OK(qchain_merge(c, 0, 0, NULL, &r, err));
        break;
    case 2: /* a stranger: what differs is found by comparing */
        make_layer("x", shared ? k->name[i] : NULL, shared ? k->format[i] : NULL,
                   some_size(k->size, s), false, s);
        o.backing_file = "x";
        o.backing_format = "qcow2";
        OK(qchain_rebase(c, &o, &r, err));
        break;
    case 3: /* onto nothing */
        OK(qchain_rebase(c, &o, &r, err));
        break;
    default:
        o.backing_file = k->name[i];
        o.backing_format = k->format[i];
        OK(qchain_rebase(c, &o, &r, err));
    }
}

static void guests_write_while_the_chain_becomes_shorter(void **unused)
{
    (void)unused;
    seed = mem_seed(61);
    for (unsigned round = 0; round < share(60); round++, seed++) {
        uint64_t s = seed;
        atomic_bool stop = false;
        struct guest g[GUESTS];
        struct chain k;
        unsigned char *got;
        qchain *c;

        make_chain(&k, 1 + (unsigned)some(&s, 5), &s);
        k.want = contents(k.name[k.n - 1]);
        c = open_chain(k.name[k.n - 1], QCHAIN_OPEN_WRITE | QCHAIN_OPEN_UNSAFE |
                       (some(&s, 3) ? 0 : QCHAIN_OPEN_COPY_ON_READ));
        begin_use(g, c, k.want, &stop, &s);
        restack(c, &k, &s);
        end_use(g, &stop);
        got = read_all(c);
        same("the disk", got, k.want, k.size);
        free(got);
        OK(qchain_finish(c, err));
        qchain_close(c);
        look(k.name[k.n - 1], k.want, k.size);
        free(k.want);
    }
}

/* ------------------------------------------------------------------ copy on read --- */

static void read_by_queue(qchain *c, const unsigned char *want, uint64_t *s)
{
    qchain_completion done[8];
    qchain_queue *q = NULL;
    qchain_queue_opts o;
    unsigned char *buf = malloc(8 * 70000);
    uint64_t size = qchain_size(c), at[8], n[8];

    qchain_queue_opts_init(&o, sizeof(o));
    o.depth = 8;
    OK(qchain_queue_create(&q, c, &o, err));
    for (unsigned i = 0; i < 8; i++) {
        at[i] = some(s, size);
        n[i] = 1 + some(s, 70000);
        n[i] = n[i] > size - at[i] ? size - at[i] : n[i];
        OK(qchain_queue_read(q, buf + i * 70000, n[i], at[i], 0, &at[i], err));
    }
    for (int left = 8, got; left > 0; left -= got) {
        got = qchain_queue_reap(q, done, 1, 8, 20000);
        assert_true(got > 0);
        for (int i = 0; i < got; i++) {
            size_t k = (size_t)((uint64_t *)done[i].user - at);

            assert_int_equal(done[i].result, 0);
            same("a queue's read", buf + k * 70000, want + at[k], n[k]);
        }
    }
    qchain_queue_destroy(q);
    free(buf);
}

/* When all was read once, the layers below are not needed any more, and were read once. */
static void what_was_read_is_kept(void **unused)
{
    (void)unused;
    seed = mem_seed(62);
    for (unsigned round = 0; round < share(60); round++, seed++) {
        uint64_t s = seed, reads;
        qchain_stats before = {.struct_size = sizeof(before)}, after = before;
        unsigned char *got;
        struct chain k;
        qchain *c;

        make_chain(&k, 2 + (unsigned)some(&s, 4), &s);
        k.want = contents(k.name[k.n - 1]);
        c = open_chain(k.name[k.n - 1], QCHAIN_OPEN_WRITE | QCHAIN_OPEN_UNSAFE | QCHAIN_OPEN_COPY_ON_READ);
        for (uint64_t i = some(&s, 4); i > 0; i--)
            read_by_queue(c, k.want, &s);
        got = read_all(c);
        same("read", got, k.want, k.size);
        free(got);
        OK(qchain_env_stats(env, &before) == 0 ? 0 : -1);
        got = read_all(c);
        same("read again", got, k.want, k.size);
        free(got);
        OK(qchain_env_stats(env, &after) == 0 ? 0 : -1);
        reads = after.store_writes - before.store_writes;
        assert_int_equal(reads, 0); /* nothing is stored twice */
        OK(qchain_finish(c, err));
        qchain_close(c);
        look(k.name[k.n - 1], k.want, k.size);
        c = open_chain(k.name[k.n - 1], QCHAIN_OPEN_NO_BACKING);
        got = read_all(c);
        same("the top alone", got, k.want, k.size);
        free(got);
        qchain_close(c);
        free(k.want);
    }
}

static void guests_write_while_reads_are_kept(void **unused)
{
    (void)unused;
    seed = mem_seed(63);
    for (unsigned round = 0; round < share(40); round++, seed++) {
        uint64_t s = seed;
        atomic_bool stop = false;
        struct guest g[GUESTS];
        struct chain k;
        qchain *c;

        make_chain(&k, 2 + (unsigned)some(&s, 3), &s);
        k.want = contents(k.name[k.n - 1]);
        c = open_chain(k.name[k.n - 1], QCHAIN_OPEN_WRITE | QCHAIN_OPEN_UNSAFE | QCHAIN_OPEN_COPY_ON_READ);
        begin_use(g, c, k.want, &stop, &s);
        free(read_all(c)); /* across all that they write */
        end_use(g, &stop);
        OK(qchain_finish(c, err));
        qchain_close(c);
        look(k.name[k.n - 1], k.want, k.size);
        free(k.want);
    }
}

static void make_pair(void)
{
    unsigned char *buf = malloc(2 << 20);
    qchain_create_opts co;
    qchain *c;

    qchain_create_opts_init(&co, sizeof(co));
    co.size = 2 << 20;
    co.format = "qcow2";
    OK(qchain_create(env, "below", &co, err));
    c = open_chain("below", QCHAIN_OPEN_WRITE);
    memset(buf, 7, 2 << 20);
    memset(buf + (1 << 20), 0, 512 << 10);
    OK(qchain_write(c, buf, 2 << 20, 0, 0, err));
    OK(qchain_finish(c, err));
    qchain_close(c);
    co.backing_file = "below";
    co.backing_format = "qcow2";
    OK(qchain_create(env, "top", &co, err));
    free(buf);
}

/* A queue's read keeps what it brings, in whole clusters; zeros that were stored below take no room above. */
static void queues_keep_and_zeros_take_no_room(void **unused)
{
    uint64_t places[] = {0, (1 << 20) + 70000, (1 << 20) + (512 << 10) + 65535}, next;
    qchain_completion done;
    qchain_queue *q = NULL;
    qchain_queue_opts o;
    qchain_extent x[16];
    unsigned char buf[512];
    uint64_t stored = 0;
    uint32_t n;
    qchain *c;

    (void)unused;
    make_pair();
    c = open_chain("top", QCHAIN_OPEN_WRITE | QCHAIN_OPEN_COPY_ON_READ);
    qchain_queue_opts_init(&o, sizeof(o));
    OK(qchain_queue_create(&q, c, &o, err));
    for (unsigned i = 0; i < 3; i++) {
        OK(qchain_queue_read(q, buf, sizeof(buf), places[i], 0, NULL, err));
        assert_int_equal(qchain_queue_reap(q, &done, 1, 1, 20000), 1);
        assert_int_equal(done.result, 0);
    }
    qchain_queue_destroy(q);
    OK(qchain_finish(c, err));
    qchain_close(c);
    c = open_chain("top", QCHAIN_OPEN_NO_BACKING);
    OK(qchain_map(c, 0, 2 << 20, x, 16, &n, &next, 0, err));
    for (uint32_t i = 0; i < n; i++)
        stored += x[i].flags & QCHAIN_EXTENT_DATA ? x[i].length : 0;
    assert_int_equal(stored, 3 * 65536); /* one, and two that the last read touches */
    qchain_close(c);
}

static unsigned told;

static void count_line(void *data, int level, const char *tag, const char *text)
{
    (void)data;
    (void)tag;
    told += level <= QCHAIN_LOG_WARN && strstr(text, "not kept") != NULL;
}

/* The top cannot grow: reads go on, and it is told once. */
static void a_read_does_not_fail_because_it_cannot_be_kept(void **unused)
{
    struct rlimit old, none;
    qchain_env *own = NULL;
    qchain_env_opts eo;
    qchain_open_opts o;
    unsigned char *buf = malloc(2 << 20);
    struct sigaction sa = {.sa_handler = SIG_IGN}, was;
    qchain *c;

    (void)unused;
    make_pair();
    qchain_env_opts_init(&eo, sizeof(eo));
    eo.log = count_line;
    assert_int_equal(qchain_env_create(&own, &eo, NULL), 0);
    qchain_open_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_OPEN_WRITE | QCHAIN_OPEN_COPY_ON_READ;
    OK(qchain_open(&c, own, "top", &o, err));
    getrlimit(RLIMIT_FSIZE, &old);
    none = old;
    none.rlim_cur = 700 << 10;
    sigaction(SIGXFSZ, &sa, &was);
    setrlimit(RLIMIT_FSIZE, &none);
    for (int i = 0; i < 3; i++) {
        memset(buf, 0, 2 << 20);
        OK(qchain_read(c, buf, 2 << 20, 0, 0, err));
        for (int k = 0; k < 2 << 20; k++)
            assert_int_equal(buf[k], k >> 19 == 2 ? 0 : 7);
    }
    setrlimit(RLIMIT_FSIZE, &old);
    sigaction(SIGXFSZ, &was, NULL);
    assert_int_equal(told, 1);
    OK(qchain_finish(c, err));
    qchain_close(c);
    qchain_env_destroy(own);
    look("top", buf, 2 << 20);
    free(buf);
}

/* ----------------------------------------------------------------------- refused --- */

struct streaming {
    pthread_t     thread;
    qchain       *c;
    qchain_job   *job;
    qchain_error *e;
    int           ret;
};

static void *stream(void *arg)
{
    struct streaming *t = arg;

    t->ret = qchain_stream(t->c, 2, 0, t->job, NULL, t->e);
    return NULL;
}

static void what_would_undo_it_waits_for_its_end(void **unused)
{
    struct streaming t = {.job = qchain_job_create(), .e = qchain_error_create()};
    qchain_create_opts co;
    qchain_open_opts o;
    qchain *c = NULL;
    char buf[512] = "guest";

    (void)unused;
    qchain_open_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_OPEN_COPY_ON_READ;
    qchain_create_opts_init(&co, sizeof(co));
    co.size = 1 << 20;
    co.format = "qcow2";
    OK(qchain_create(env, "low", &co, err));
    co.backing_file = "low";
    co.backing_format = "qcow2";
    OK(qchain_create(env, "high", &co, err));
    assert_int_equal(qchain_open(&c, env, "high", &o, err), QCHAIN_E_INVAL);
    t.c = c = open_chain("high", QCHAIN_OPEN_WRITE);
    qchain_job_pause(t.job, 1);
    assert_int_equal(pthread_create(&t.thread, NULL, stream, &t), 0);
    for (int ret = 0; ret != QCHAIN_E_BUSY;) { /* it has begun when something else is refused */
        ret = qchain_snapshot_create(c, "s", NULL, err);
        if (ret == 0)
            OK(qchain_snapshot_delete(c, "s", err));
    }
    assert_int_equal(qchain_resize(c, 2 << 20, 0, err), QCHAIN_E_BUSY);
    assert_int_equal(qchain_merge(c, 0, 0, NULL, NULL, err), QCHAIN_E_BUSY);
    OK(qchain_write(c, buf, sizeof(buf), 4096, 0, err));
    qchain_job_pause(t.job, 0);
    pthread_join(t.thread, NULL);
    if (t.ret != 0)
        fail_msg("%s", qchain_error_message(t.e));
    OK(qchain_resize(c, 2 << 20, 0, err));
    OK(qchain_finish(c, err));
    qchain_close(c);
    qchain_error_destroy(t.e);
    qchain_job_destroy(t.job);
}

int main(void)
{
#define ON(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        ON(guests_write_while_the_chain_becomes_shorter),
        ON(what_was_read_is_kept),
        ON(guests_write_while_reads_are_kept),
        ON(queues_keep_and_zeros_take_no_room),
        ON(a_read_does_not_fail_because_it_cannot_be_kept),
        ON(what_would_undo_it_waits_for_its_end),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
