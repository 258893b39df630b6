/* SPDX-License-Identifier: MIT */
/* Queues: what they read, who carries it, how one waits for it. */
#include "queue_tools.h"

/* ------------------------------------------------------------- right bytes --- */

enum { DEPTH = 24, BIG = 300000 };

struct slot {
    unsigned char *buf;
    uint64_t       offset, length;
    qchain_iov     iov[1024];
    bool           busy;
};

/* Cut a slot's buffer into pieces, empty ones too. */
static uint32_t cut(struct slot *s, uint64_t *seed)
{
    uint32_t n = 1 + random_next(seed) % (random_next(seed) % 8 ? 12 : 1024), i;
    uint64_t at = 0, len;

    for (i = 0; i < n; i++) {
        len = i + 1 == n ? s->length - at : random_next(seed) % (s->length / n + 2);
        len = len > s->length - at ? s->length - at : len;
        s->iov[i] = (qchain_iov){len ? s->buf + at : NULL, len};
        at += len;
    }
    return n;
}

static void check_slot(const struct mem_chain *m, const qchain_completion *done)
{
    struct slot *s = done->user;

    if (done->result != 0)
        fail_msg("%llu at %llu: %s", (unsigned long long)s->length,
                 (unsigned long long)s->offset, done->error);
    assert_true(s->busy);
    s->busy = false;
    assert_true(equals_model(m, s->buf, s->length, s->offset));
    assert_int_equal(s->buf[s->length], 0xa5);
}

/* Many reads of any size and shape; what comes back is as the model says. */
static void hammer(const struct mem_chain *m, qchain *c, uint64_t *seed, int rounds)
{
    static struct slot slot[DEPTH];
    qchain_queue *q = make_queue(c, DEPTH);
    qchain_completion done[DEPTH];
    uint64_t size = qchain_size(c);
    int n, left = 0;

    for (int i = 0; i < DEPTH; i++)
        slot[i] = (struct slot){.buf = calloc(1, BIG + 1)};
    for (int round = 0; round < rounds || left > 0; round++) {
        for (int i = 0; i < DEPTH && round < rounds; i++) {
            struct slot *s = &slot[i];
            uint32_t flags = random_next(seed) % 2 ? QCHAIN_REQUEST_MORE : 0;
            uint64_t most = random_next(seed) % 4 ? 9000 : BIG;

            if (s->busy)
                continue;
            s->offset = random_next(seed) % (size + 1);
            s->length = random_next(seed) % most;
            if (s->length > size - s->offset)
                s->length = size - s->offset;
            memset(s->buf, 0xa5, s->length + 1);
            s->busy = true;
            left++;
            if (random_next(seed) % 3)
                n = qchain_queue_read(q, s->buf, s->length, s->offset, flags, s, err);
            else
                n = qchain_queue_readv(q, s->iov, cut(s, seed), s->offset, flags, s, err);
            if (n != 0)
                fail_msg("%s", qchain_error_message(err));
        }
        assert_int_equal(qchain_queue_pending(q), left);
        n = qchain_queue_reap(q, done, random_next(seed) % 3, 1 + random_next(seed) % DEPTH,
                              round < rounds ? (int)(random_next(seed) % 3) - 1 : -1);
        assert_in_range(n, 0, DEPTH);
        for (int i = 0; i < n; i++)
            check_slot(m, &done[i]);
        left -= n;
    }
    qchain_queue_destroy(q);
    for (int i = 0; i < DEPTH; i++)
        free(slot[i].buf);
}

static void random_chains_of_files(void **unused)
{
    uint64_t seed = mem_seed(40);
    uint64_t n_leaf = 0, n_walks = 0;
    qchain_stats s;

    (void)unused;
    for (int round = 0; round < 6; round++) {
        struct mem_chain *m = mem_chain_random(1 + random_next(&seed) % 6, MIB, &seed);
        qchain *c = open_files(m, round % 3 == 2 ? QCHAIN_OPEN_DIRECT : 0);

        hammer(m, c, &seed, 40);
        s = stats_of(c);
        assert_true(s.queue_requests >= DEPTH && s.queue_requests == s.reads);
        n_leaf += s.queue_leaf;
        n_walks += s.queue_walks;
        qchain_close(c);
        mem_chain_destroy(m);
    }
    assert_true(n_leaf > 0 && n_walks >= 6);
}

static void random_chains_of_stores(void **unused)
{
    uint64_t seed = mem_seed(41);

    (void)unused;
    for (int round = 0; round < 6; round++) {
        struct mem_chain *m = mem_chain_random(1 + random_next(&seed) % 6, MIB, &seed);
        qchain *c = open_stores(m, NULL);

        hammer(m, c, &seed, 40);
        assert_int_equal(stats_of(c).queue_uring, 0);
        qchain_close(c);
        for (uint32_t k = 0; k < m->n; k++)
            assert_int_equal(atomic_load(&m->layer[k].n_open), 0);
        mem_chain_destroy(m);
    }
}

/* Windows of which the budget holds few: those asked for are evicted before they are
 * looked at, and walkers do it. */
static void a_budget_too_small(void **unused)
{
    struct mem_chain *m = mem_chain_create(1);
    qchain_env *env = make_env(2, 4, MIB);
    uint64_t seed = mem_seed(42), offset[32];
    unsigned char buf[32][700];
    qchain_completion done[32];
    qchain_queue *q;
    qchain *c;

    (void)unused;
    mem_layer_init(m, 0, 8 * 128 * MIB, 9);
    for (uint64_t w = 0; w < 8; w++)
        for (uint64_t i = 0; i < 32768; i += 2)
            mem_layer_set(m, 0, w * (128 * MIB / 512) + i, MEM_ZERO);
    c = open_stores(m, env);
    q = make_queue(c, 32);
    for (int round = 0; round < 4; round++) {
        memset(buf, 0xa5, sizeof(buf));
        for (int i = 0; i < 32; i++) {
            offset[i] = (uint64_t)(i % 8) * 128 * MIB + random_next(&seed) % (16 * MIB - 700);
            submit(q, buf[i], 700, offset[i], &offset[i]);
        }
        assert_int_equal(qchain_queue_reap(q, done, 32, 32, -1), 32);
        for (int i = 0; i < 32; i++) {
            assert_int_equal(done[i].result, 0);
            assert_true(equals_model(m, buf[i], 700, offset[i]));
        }
    }
    assert_true(stats_of(c).index_evictions > 0);
    qchain_queue_destroy(q);
    qchain_close(c);
    qchain_env_destroy(env);
    mem_chain_destroy(m);
}

/* --------------------------------------------------------------- who does it --- */

/* Warm reads of files: each one read of the ring and nothing else, or one leaf task. */
static void warm_reads_go_to_the_ring(void **unused)
{
    struct mem_chain *m = plain_disk(4 * MIB, 64);
    qchain *c = open_files(m, 0);
    qchain_queue *q = make_queue(c, 16);
    unsigned char buf[4096] = {0};
    qchain_stats s, t;

    (void)unused;
    submit(q, buf, 4096, 0, buf);
    assert_ptr_equal(reap_good(q), buf);
    s = stats_of(c);
    assert_int_equal(s.index_fills, 1);
    assert_int_equal(s.queue_walks, 1);
    for (uint64_t i = 0; i < 500; i++) {
        submit(q, buf, 4096, i * 7 * 1024, buf);
        assert_ptr_equal(reap_good(q), buf);
        assert_true(equals_model(m, buf, 4096, i * 7 * 1024));
    }
    t = stats_of(c);
    assert_int_equal(t.queue_requests - s.queue_requests, 500);
    assert_int_equal(t.reads - s.reads, 500);
    assert_int_equal(t.read_bytes - s.read_bytes, 500 * 4096);
    assert_int_equal(t.store_reads - s.store_reads, 500);
    assert_int_equal(t.store_bytes - s.store_bytes, 500 * 4096);
    assert_int_equal(t.queue_uring - s.queue_uring, has_ring(q) ? 500 : 0);
    assert_int_equal(t.queue_leaf - s.queue_leaf, has_ring(q) ? 0 : 500);
    assert_int_equal(t.queue_walks - s.queue_walks, 0);
    assert_int_equal(t.meta_reads, s.meta_reads);
    qchain_queue_destroy(q);
    qchain_close(c);
    mem_chain_destroy(m);
}

/* All who ask while a window is unknown wait for one walk. */
static void one_walk_for_all_who_wait(void **unused)
{
    struct mem_chain *m = plain_disk(4 * MIB, 64);
    qchain *c = open_files(m, 0);
    qchain_queue *q[2] = {make_queue(c, 32), make_queue(c, 32)};
    static unsigned char buf[2][32][4096];
    qchain_completion done[32];

    (void)unused;
    for (int i = 0; i < 32; i++)
        for (int k = 0; k < 2; k++)
            submit(q[k], buf[k][i], 4096, (uint64_t)i * 5000, buf[k][i]);
    for (int k = 0; k < 2; k++) {
        assert_int_equal(qchain_queue_reap(q[k], done, 32, 32, -1), 32);
        for (int i = 0; i < 32; i++) {
            assert_int_equal(done[i].result, 0);
            assert_true(equals_model(m, buf[k][i], 4096, (uint64_t)i * 5000));
        }
    }
    assert_int_equal(stats_of(c).index_fills, 1);
    qchain_queue_destroy(q[0]);
    qchain_queue_destroy(q[1]);
    qchain_close(c);
    mem_chain_destroy(m);
}

/* The same where metadata is slow enough that all of them do wait. */
static void parked_requests_share_a_walk(void **unused)
{
    struct mem_chain *m = plain_disk(4 * MIB, 64);
    qchain_env *env = make_env(2, 4, 0);
    qchain *c = open_stores(m, env);
    qchain_queue *q = make_queue(c, 32);
    static unsigned char buf[32][4096];
    qchain_completion done[32];
    qchain_stats s;

    (void)unused;
    atomic_store(&m->layer[0].held, true);
    for (int i = 0; i < 32; i++)
        submit(q, buf[i], 4096, (uint64_t)i * 5000, buf[i]);
    assert_int_equal(stats_of(c).queue_leaf, 0);
    atomic_store(&m->layer[0].held, false);
    assert_int_equal(qchain_queue_reap(q, done, 32, 32, -1), 32);
    s = stats_of(c);
    assert_int_equal(s.index_fills, 1);
    assert_int_equal(s.queue_walks, 1);
    assert_int_equal(s.queue_leaf, 32);
    for (int i = 0; i < 32; i++)
        assert_true(equals_model(m, buf[i], 4096, (uint64_t)i * 5000));
    qchain_queue_destroy(q);
    qchain_close(c);
    qchain_env_destroy(env);
    mem_chain_destroy(m);
}

/* Zeros are there when the submission returns, and nobody was asked. */
static void zeros_are_done_at_once(void **unused)
{
    struct mem_chain *m = plain_disk(64 * MIB, 4);
    qchain *c = open_files(m, 0);
    qchain_queue *q = make_queue(c, 8);
    unsigned char *buf = malloc(4 * MIB);
    qchain_completion done;
    qchain_stats s, t;

    (void)unused;
    memset(buf, 0xa5, 4 * MIB);
    assert_int_equal(qchain_read(c, buf, 512, 0, 0, NULL), 0);
    s = stats_of(c);
    submit(q, buf, MIB, 32 * MIB, buf);
    for (size_t i = 0; i < MIB; i++)
        assert_int_equal(buf[i], 0);
    assert_int_equal(qchain_queue_reap(q, &done, 0, 1, 0), 1);
    assert_int_equal(qchain_queue_readv(q, (qchain_iov[]){{buf + MIB, 10}, {buf + 2 * MIB, 20}},
                                        2, 33 * MIB, 0, buf, err), 0);
    assert_int_equal(buf[MIB + 9] | buf[2 * MIB + 19], 0);
    assert_int_equal(buf[MIB + 10] & buf[2 * MIB + 20], 0xa5);
    assert_int_equal(qchain_queue_reap(q, &done, 0, 1, 0), 1);
    t = stats_of(c);
    assert_int_equal(t.queue_leaf + t.queue_uring + t.queue_walks, 0);
    assert_int_equal(t.store_reads, s.store_reads);
    submit(q, buf, 4 * MIB, 32 * MIB, buf); /* more than shall be copied by a submission */
    reap_good(q);
    assert_int_equal(stats_of(c).queue_leaf, 1);
    for (size_t i = 0; i < 4 * MIB; i++)
        assert_int_equal(buf[i], 0);
    submit(q, NULL, 0, 64 * MIB, buf); /* nothing at the very end */
    assert_int_equal(qchain_queue_reap(q, &done, 0, 1, 0), 1);
    assert_int_equal(done.result, 0);
    free(buf);
    qchain_queue_destroy(q);
    qchain_close(c);
    mem_chain_destroy(m);
}

/* One request, several stretches: each goes where it belongs. */
static void pieces_go_where_they_belong(void **unused)
{
    struct mem_chain *m = mem_chain_create(1);
    unsigned char *buf = calloc(1, 80 * 4096);
    qchain_queue *q;
    qchain_stats s, t;
    qchain *c;

    (void)unused;
    mem_layer_init(m, 0, 4 * MIB, 12);
    mem_layer_set(m, 0, 0, MEM_DATA);
    mem_layer_set(m, 0, 2, MEM_DATA); /* 0 and 2 are neighbours in the file, not on disk */
    mem_layer_set(m, 0, 3, MEM_COMPRESSED);
    mem_layer_set(m, 0, 4, MEM_ZERO);
    mem_layer_set(m, 0, 5, MEM_DATA);
    for (uint64_t i = 0; i < 200; i++)
        mem_layer_set(m, 0, 100 + i, i % 2 ? MEM_DATA : MEM_COMPRESSED);
    c = open_files(m, 0);
    q = make_queue(c, 8);
    assert_int_equal(qchain_read(c, buf, 512, 0, 0, NULL), 0);

    s = stats_of(c);
    submit(q, buf, 6 * 4096 - 100, 50, buf);
    reap_good(q);
    t = stats_of(c);
    assert_true(equals_model(m, buf, 6 * 4096 - 100, 50));
    assert_int_equal(t.queue_uring - s.queue_uring, has_ring(q) ? 3 : 0);
    assert_int_equal(t.queue_leaf - s.queue_leaf, 1);
    assert_int_equal(t.decoded_clusters - s.decoded_clusters, 1);

    s = t; /* more stretches than a request has reads: a leaf */
    submit(q, buf, 20 * 4096, 101 * 4096, buf);
    reap_good(q);
    t = stats_of(c);
    assert_true(equals_model(m, buf, 20 * 4096, 101 * 4096));
    assert_int_equal(t.queue_uring, s.queue_uring);
    assert_int_equal(t.queue_leaf - s.queue_leaf, 1);
    assert_int_equal(t.queue_walks, s.queue_walks);

    s = t; /* more than are captured: a walker */
    submit(q, buf, 60 * 4096, 101 * 4096, buf);
    reap_good(q);
    t = stats_of(c);
    assert_true(equals_model(m, buf, 60 * 4096, 101 * 4096));
    assert_int_equal(t.queue_leaf, s.queue_leaf);
    assert_int_equal(t.queue_walks - s.queue_walks, 1);

    free(buf);
    qchain_queue_destroy(q);
    qchain_close(c);
    mem_chain_destroy(m);
}

/* A request may begin in one window and end in the next. */
static void a_request_spans_windows(void **unused)
{
    struct mem_chain *m = plain_disk(256 * MIB, 1);
    unsigned char buf[8192] = {0};
    qchain_queue *q;
    qchain *c;

    (void)unused;
    mem_layer_set(m, 0, 2047, MEM_DATA);
    mem_layer_set(m, 0, 2048, MEM_DATA);
    c = open_files(m, 0);
    q = make_queue(c, 4);
    for (int i = 0; i < 3; i++) { /* cold, and warm */
        memset(buf, 0, sizeof(buf));
        submit(q, buf, 8192, 128 * MIB - 4096, buf);
        reap_good(q);
        assert_true(equals_model(m, buf, 8192, 128 * MIB - 4096));
    }
    assert_int_equal(stats_of(c).index_fills, 2);
    if (has_ring(q))
        assert_int_equal(stats_of(c).queue_uring, 4);
    qchain_queue_destroy(q);
    qchain_close(c);
    mem_chain_destroy(m);
}

/* Layers that are known from a sidecar are opened by walkers, when they are read. */
static void files_not_open_yet_are_opened_by_walkers(void **unused)
{
    static const struct timespec old[2] = {{1600000000, 0}, {1600000000, 0}};
    struct mem_chain *m = mem_chain_create(3);
    unsigned char buf[4096] = {0};
    qchain_queue *q;
    qchain_stats s;
    qchain *c;

    (void)unused;
    for (uint32_t k = 3; k-- > 0;) {
        mem_layer_init(m, k, 4 * MIB, 16);
        mem_layer_set(m, k, k, k == 2 ? MEM_COMPRESSED : MEM_DATA);
    }
    qchain_close(open_files(m, 0));
    for (uint32_t k = 0; k < 3; k++)
        assert_int_equal(utimensat(AT_FDCWD, layer_path(k), old, 0), 0);
    assert_int_equal(qchain_open(&c, NULL, layer_path(0), NULL, err), 0);
    if (qchain_index_build(c, NULL, err) != 0)
        fail_msg("%s", qchain_error_message(err));
    qchain_close(c);
    assert_int_equal(qchain_open(&c, NULL, layer_path(0), NULL, err), 0);
    assert_int_equal(qchain_index_layers(c), 3);
    q = make_queue(c, 4);
    submit(q, buf, 512, 3 * 65536, buf); /* the window, which is all zeros here */
    reap_good(q);
    for (uint32_t k = 1; k < 3; k++) {
        assert_null(qc_source_opened(c, k));
        for (int i = 0; i < 2; i++) {
            s = stats_of(c);
            submit(q, buf, 4096, k * 65536, buf);
            reap_good(q);
            assert_true(equals_model(m, buf, 4096, k * 65536));
            assert_int_equal(stats_of(c).queue_walks - s.queue_walks, i == 0);
        }
        assert_non_null(qc_source_opened(c, k));
    }
    qchain_queue_destroy(q);
    qchain_close(c);
    mem_chain_destroy(m);
}

static void direct_reads(void **unused)
{
    struct mem_chain *m = plain_disk(4 * MIB, 64);
    qchain *c = open_files(m, QCHAIN_OPEN_DIRECT);
    qchain_queue *q = make_queue(c, 8);
    unsigned char *buf = aligned_alloc(4096, 16384);
    qchain_stats s;

    (void)unused;
    memset(buf, 0, 16384);
    submit(q, buf, 512, 0, buf);
    reap_good(q);
    s = stats_of(c);
    submit(q, buf, 8192, 65536, buf);
    reap_good(q);
    assert_true(equals_model(m, buf, 8192, 65536));
    if (has_ring(q) && qc_source_opened(c, 0)->limits.align_offset > 1)
        assert_int_equal(stats_of(c).queue_uring - s.queue_uring, 1);
    s = stats_of(c);
    submit(q, buf + 1, 5000, 65537, buf); /* bounced */
    reap_good(q);
    assert_true(equals_model(m, buf + 1, 5000, 65537));
    if (qc_source_opened(c, 0)->limits.align_offset > 1)
        assert_int_equal(stats_of(c).queue_leaf - s.queue_leaf, 1);
    free(buf);
    qchain_queue_destroy(q);
    qchain_close(c);
    mem_chain_destroy(m);
}

/* ------------------------------------------------------- depth, MORE, waiting --- */

static void depth_and_busy(void **unused)
{
    struct mem_chain *m = plain_disk(4 * MIB, 64);
    qchain *c = open_files(m, 0);
    qchain_queue *q = make_queue(c, 4);
    unsigned char buf[5][512] = {{0}};
    qchain_completion done[8];

    (void)unused;
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 4; i++)
            submit(q, buf[i], 512, 512, buf[i]);
        assert_int_equal(qchain_queue_read(q, buf[4], 512, 0, 0, NULL, err), QCHAIN_E_BUSY);
        assert_non_null(strstr(qchain_error_message(err), "4 requests"));
        assert_int_equal(qchain_queue_pending(q), 4);
        assert_int_equal(qchain_queue_reap(q, done, 1, 1, -1), 1);
        assert_int_equal(qchain_queue_pending(q), 3);
        submit(q, buf[4], 512, 512, buf[4]);
        /* More than are outstanding are not waited for. */
        assert_int_equal(qchain_queue_reap(q, done, 8, 8, -1), 4);
        assert_int_equal(qchain_queue_reap(q, done, 8, 8, -1), 0);
        assert_int_equal(qchain_queue_pending(q), 0);
    }
    assert_int_equal(qchain_queue_reap(q, NULL, 0, 0, 0), 0);
    qchain_queue_destroy(q);
    qchain_close(c);
    mem_chain_destroy(m);
}

/* Held back until the eighth, one without the flag, or a reap. */
static void more_holds_back(void **unused)
{
    struct mem_chain *m = plain_disk(4 * MIB, 64);
    qchain *c = open_files(m, 0);
    qchain_queue *q = make_queue(c, 32);
    unsigned char buf[16][512];
    qchain_completion done[16];
    int fd;

    (void)unused;
    submit(q, buf[0], 512, 512, NULL);
    reap_good(q);
    fd = qchain_queue_fd(q);
    if (!has_ring(q))
        goto out; /* it may be held back: leaves begin at once */
    memset(buf, 0xa5, sizeof(buf));
    for (int i = 0; i < 7; i++)
        assert_int_equal(qchain_queue_read(q, buf[i], 512, 512, QCHAIN_REQUEST_MORE, NULL, err),
                         0);
    assert_false(readable_within(fd, 30));
    for (int i = 0; i < 7; i++)
        assert_int_equal(buf[i][0], 0xa5);
    assert_int_equal(qchain_queue_read(q, buf[7], 512, 512, QCHAIN_REQUEST_MORE, NULL, err), 0);
    assert_true(readable_within(fd, 5000));
    assert_int_equal(qchain_queue_reap(q, done, 8, 16, -1), 8);
    assert_false(readable_within(fd, 0));

    assert_int_equal(qchain_queue_read(q, buf[0], 512, 512, QCHAIN_REQUEST_MORE, NULL, err), 0);
    assert_false(readable_within(fd, 20));
    submit(q, buf[1], 512, 512, NULL);
    assert_true(readable_within(fd, 5000));
    assert_int_equal(qchain_queue_reap(q, done, 2, 16, -1), 2);

    assert_int_equal(qchain_queue_read(q, buf[0], 512, 512, QCHAIN_REQUEST_MORE, NULL, err), 0);
    (void)qchain_queue_reap(q, done, 0, 0, 0); /* any reap starts it */
    assert_true(readable_within(fd, 5000));
    assert_int_equal(qchain_queue_reap(q, done, 1, 16, 0), 1);
out:
    qchain_queue_destroy(q);
    qchain_close(c);
    mem_chain_destroy(m);
}

static void waits_have_an_end(void **unused)
{
    struct mem_chain *m = plain_disk(4 * MIB, 64);
    qchain *c = open_stores(m, NULL);
    qchain_queue *q = make_queue(c, 4);
    unsigned char buf[512];
    qchain_completion done;
    uint64_t start;

    (void)unused;
    submit(q, buf, 512, 0, buf);
    reap_good(q);
    atomic_store(&m->layer[0].held, true); /* whoever waited for it would wait for ever */
    submit(q, buf, 512, 0, buf);
    start = now_ms();
    assert_int_equal(qchain_queue_reap(q, &done, 1, 1, 0), 0);
    assert_int_equal(qchain_queue_reap(q, &done, 1, 1, 40), 0);
    assert_true(now_ms() - start >= 40);
    atomic_store(&m->layer[0].held, false);
    assert_int_equal(qchain_queue_reap(q, &done, 1, 1, -1), 1);
    qchain_queue_destroy(q);
    qchain_close(c);
    mem_chain_destroy(m);
}

static atomic_int n_signals;

static void on_signal(int sig)
{
    (void)sig;
    atomic_fetch_add(&n_signals, 1);
}

static void signals_do_not_end_a_wait(void **unused)
{
    struct mem_chain *m = plain_disk(4 * MIB, 64);
    qchain *c = open_stores(m, NULL);
    qchain_queue *q = make_queue(c, 4);
    struct itimerval often = {{0, 5000}, {0, 5000}}, never = {{0, 0}, {0, 0}};
    struct sigaction sa = {.sa_handler = on_signal}, old;
    unsigned char buf[512];
    qchain_completion done;
    uint64_t start;

    (void)unused;
    submit(q, buf, 512, 0, buf);
    reap_good(q);
    atomic_store(&m->layer[0].held, true);
    submit(q, buf, 512, 0, buf);
    sigaction(SIGALRM, &sa, &old);
    setitimer(ITIMER_REAL, &often, NULL);
    start = now_ms();
    assert_int_equal(qchain_queue_reap(q, &done, 1, 1, 60), 0);
    assert_true(now_ms() - start >= 60);
    while (atomic_load(&n_signals) <= 3)
        assert_int_equal(qchain_queue_reap(q, &done, 1, 1, 60), 0);
    atomic_store(&m->layer[0].held, false);
    assert_int_equal(qchain_queue_reap(q, &done, 1, 1, -1), 1);
    setitimer(ITIMER_REAL, &never, NULL);
    sigaction(SIGALRM, &old, NULL);
    qchain_queue_destroy(q);
    qchain_close(c);
    mem_chain_destroy(m);
}

/* ------------------------------------------------------------- the descriptor --- */

/* Sleep in epoll until the queue has something, and reap it. */
static int epoll_and_reap(qchain_queue *q, int ep, qchain_completion *done, uint32_t max)
{
    struct epoll_event ev;
    int n;

    for (int tries = 0; tries < 1000; tries++) {
        n = epoll_wait(ep, &ev, 1, 20000);
        if (n < 0 && errno == EINTR)
            continue;
        assert_int_equal(n, 1);
        n = qchain_queue_reap(q, done, 0, max, 0);
        if (n != 0)
            return n;
    }
    fail_msg("readable a thousand times, and nothing to reap");
    return -1;
}

static void the_descriptor_tells_of_all_kinds(void **unused)
{
    struct mem_chain *m = mem_chain_create(1);
    struct epoll_event ev = {.events = EPOLLIN};
    int ep = epoll_create1(EPOLL_CLOEXEC);
    unsigned char buf[4][4096];
    qchain_completion done[4];
    qchain_queue *q;
    qchain *c;

    (void)unused;
    mem_layer_init(m, 0, 512 * MIB, 16);
    for (uint64_t i = 0; i < 3; i++)
        for (uint64_t k = 0; k < 3; k++)
            mem_layer_set(m, 0, i * 2048 + k, k == 0   ? MEM_DATA
                                              : k == 1 ? MEM_COMPRESSED
                                                       : MEM_ZERO);
    c = open_files(m, 0);
    q = make_queue(c, 8);
    ev.data.fd = qchain_queue_fd(q);
    assert_int_equal(epoll_ctl(ep, EPOLL_CTL_ADD, qchain_queue_fd(q), &ev), 0);
    assert_false(readable_within(qchain_queue_fd(q), 0));
    for (uint64_t i = 0; i < 300; i++) { /* parked, ring, leaf, zeros, in three windows */
        uint64_t offset = i % 3 * 128 * MIB + i / 3 % 3 * 65536;

        memset(buf, 0xa5, sizeof(buf));
        submit(q, buf[0], 4096, offset, buf[0]);
        if (i / 9 % 2) /* who has polled may also wait, and poll again */
            assert_int_equal(qchain_queue_reap(q, done, 1, 4, 20000), 1);
        else
            assert_int_equal(epoll_and_reap(q, ep, done, 4), 1);
        assert_int_equal(done[0].result, 0);
        assert_true(equals_model(m, buf[0], 4096, offset));
    }
    for (int kind = 0; kind < 3; kind++) { /* what is left over keeps it readable */
        for (int i = 0; i < 4; i++)
            submit(q, buf[i], 4096, (uint64_t)kind * 65536, buf[i]);
        for (int i = 0; i < 4; i++)
            assert_int_equal(epoll_and_reap(q, ep, done, 1), 1);
        assert_int_equal(qchain_queue_pending(q), 0);
    }
    for (int i = 0; i < 5 && readable_within(qchain_queue_fd(q), 0); i++)
        assert_int_equal(qchain_queue_reap(q, done, 0, 4, 0), 0);
    assert_false(readable_within(qchain_queue_fd(q), 20)); /* and then it is not */
    close(ep);
    qchain_queue_destroy(q);
    qchain_close(c);
    mem_chain_destroy(m);
}

/* Asked for late: what ended before is told of too. */
static void a_descriptor_asked_for_late(void **unused)
{
    struct mem_chain *m = plain_disk(4 * MIB, 16);
    qchain_completion done;
    unsigned char buf[512];
    qchain_queue *q;
    qchain *c;

    (void)unused;
    mem_layer_set(m, 0, 20, MEM_COMPRESSED);
    c = open_files(m, 0);
    assert_int_equal(qchain_read(c, buf, 512, 0, 0, NULL), 0);
    for (uint64_t at = 0; at < 48; at += 4) { /* data, compressed, zeros */
        q = make_queue(c, 8);
        submit(q, buf, 512, at * 65536, buf);
        usleep(5000);
        assert_true(readable_within(qchain_queue_fd(q), 30000));
        assert_int_equal(qchain_queue_reap(q, &done, 1, 1, -1), 1);
        qchain_queue_destroy(q);
    }
    qchain_close(c);
    mem_chain_destroy(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON(random_chains_of_files),
        ON(random_chains_of_stores),
        ON(a_budget_too_small),
        ON(warm_reads_go_to_the_ring),
        ON(one_walk_for_all_who_wait),
        ON(parked_requests_share_a_walk),
        ON(zeros_are_done_at_once),
        ON(pieces_go_where_they_belong),
        ON(a_request_spans_windows),
        ON(files_not_open_yet_are_opened_by_walkers),
        ON(direct_reads),
        ON(depth_and_busy),
        ON(more_holds_back),
        ON(waits_have_an_end),
        ON(signals_do_not_end_a_wait),
        ON(the_descriptor_tells_of_all_kinds),
        ON(a_descriptor_asked_for_late),
    };

    RUN_TWICE(tests);
}
