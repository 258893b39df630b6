/* SPDX-License-Identifier: MIT */
/* Queues of chains that lie far away. */
#include "share.h"
#include "far_tools.h"

/* A disk of one far layer: one run of data, then some of several kinds. */
static struct mem_chain *make_disk(void)
{
    struct mem_chain *m = mem_chain_create(3);

    for (uint32_t k = 3; k-- > 0;)
        mem_layer_init(m, k, 4 * MIB, 16);
    for (uint32_t i = 0; i < 16; i++) /* one run */
        mem_layer_set(m, 1, i, MEM_DATA);
    for (uint32_t i = 20; i < 60; i++)
        mem_layer_set(m, i % 3, i, i % 4 ? MEM_DATA : i % 8 ? MEM_COMPRESSED : MEM_ZERO);
    return m;
}

struct bench {
    struct mem_chain *m;
    struct far       *f;
    qchain           *c;
    qchain_queue     *q;
    unsigned char    *buf;
};

static void begin(struct bench *b)
{
    b->m = make_disk();
    b->f = far_create(b->m, 3);
    b->c = far_open(b->f, NULL);
    b->q = make_queue(b->c, 32);
    b->buf = calloc(1, 5 * MIB);
}

static void end(struct bench *b)
{
    qchain_queue_destroy(b->q);
    qchain_close(b->c);
    far_destroy(b->f);
    mem_chain_destroy(b->m);
    free(b->buf);
}

/* Have the map known. */
static void know(struct bench *b)
{
    assert_int_equal(qchain_read(b->c, b->buf, 512, 0, 0, err), 0);
    far_reset(b->f);
}

static void within_one_run(void **unused)
{
    struct bench b;

    (void)unused;
    begin(&b);
    know(&b);
    far_hold(b.f, true);
    for (unsigned i = 0; i < 16; i++)
        submit(b.q, b.buf + i * 4096, 4096, i * 50000, &b);
    while (b.f->n_submit < 16) /* all at once, and no thread waits for any: they were submitted here */
        usleep(100);
    assert_int_equal(b.f->n_submit, 16);
    assert_int_equal(stats_of(b.c).queue_leaf, 0);
    assert_int_equal(qchain_queue_reap(b.q, &(qchain_completion){0}, 1, 1, 20), 0);
    far_hold(b.f, false);
    for (unsigned i = 0; i < 16; i++)
        reap_good(b.q);
    for (unsigned i = 0; i < 16; i++)
        assert_true(equals_model(b.m, b.buf + i * 4096, 4096, i * 50000));
    assert_int_equal(b.f->n_meta, 0);
    /* The store may answer at once. */
    b.f->at_once = true;
    for (unsigned i = 0; i < 16; i++)
        submit(b.q, b.buf + i * 4096, 4096, i * 50000 + 512, &b);
    for (unsigned i = 0; i < 16; i++)
        reap_good(b.q);
    for (unsigned i = 0; i < 16; i++)
        assert_true(equals_model(b.m, b.buf + i * 4096, 4096, i * 50000 + 512));
    end(&b);
}

static void over_many_runs(void **unused)
{
    struct bench b;

    (void)unused;
    for (int known = 0; known < 2; known++) {
        begin(&b);
        if (known)
            know(&b);
        b.f->delay_us = 500;
        submit(b.q, b.buf, 4 * MIB, 0, &b);
        reap_good(b.q);
        assert_true(equals_model(b.m, b.buf, 4 * MIB, 0));
        submit(b.q, b.buf, MIB + 5, MIB + 77, &b);
        reap_good(b.q);
        assert_true(equals_model(b.m, b.buf, MIB + 5, MIB + 77));
        submit(b.q, b.buf, 4 * 65536, 16 * 65536, &b); /* nothing */
        reap_good(b.q);
        assert_true(equals_model(b.m, b.buf, 4 * 65536, 16 * 65536));
        end(&b);
    }
}

/* The descriptor tells when something comes from afar. */
static void tells_pollers(void **unused)
{
    qchain_completion done;
    struct bench b;
    int fd;

    (void)unused;
    begin(&b);
    know(&b);
    fd = qchain_queue_fd(b.q);
    for (unsigned i = 0; i < 20; i++) {
        b.f->at_once = i % 2;
        far_hold(b.f, !(i % 2));
        submit(b.q, b.buf, 4096, i * 5000, &b);
        if (i % 2 == 0) {
            while (qchain_queue_reap(b.q, &done, 0, 1, 0) == 0 && readable_within(fd, 10))
                continue;
            assert_false(readable_within(fd, 10));
            far_hold(b.f, false);
        }
        assert_true(readable_within(fd, 20000));
        while (qchain_queue_reap(b.q, &done, 0, 1, 0) == 0)
            assert_true(readable_within(fd, 20000));
        assert_int_equal(done.result, 0);
        assert_true(equals_model(b.m, b.buf, 4096, i * 5000));
    }
    end(&b);
}

static void failures_have_a_layer(void **unused)
{
    static const struct {
        uint64_t offset;
        uint32_t length;
        int      layer;
    } at[] = {{5000, 4096, 1}, {23 * 65536 - 512, 1024, 1}, {21 * 65536, 3 * 65536, 2}};
    qchain_completion done;
    struct bench b;

    (void)unused;
    for (int i = 0; i < 3; i++) {
        begin(&b);
        know(&b);
        b.f->at_once = i == 1;
        /* One run, and several; by submit, and by a leaf. */
        far_set(b.f, -1, i == 1 ? 22 % 3 : at[i].layer);
        submit(b.q, b.buf, at[i].length, at[i].offset, &b);
        done = reap_bad(b.q, QCHAIN_E_IO);
        assert_ptr_equal(done.user, &b);
        assert_non_null(strstr(done.error, "too far away"));
        assert_non_null(strstr(done.error, i == 2 ? "layer #2" : "layer #1"));
        far_set(b.f, -1, -1);
        submit(b.q, b.buf, at[i].length, at[i].offset, &b);
        reap_good(b.q);
        assert_true(equals_model(b.m, b.buf, at[i].length, at[i].offset));
        end(&b);
    }
}

/* Metadata fails: who waits for the window is told. */
static void each_request_fails(void **unused)
{
    qchain_completion done[8];
    unsigned bad = 0;

    (void)unused;
    for (int k = 0, more = 1; more; k++) {
        struct bench b;

        begin(&b);
        far_set(b.f, k, -1);
        for (unsigned i = 0; i < 8; i++)
            submit(b.q, b.buf + i * 600000, 500000, i * 400000, b.buf + i * 600000);
        for (int n = 0, got; n < 8; n += got) {
            got = qchain_queue_reap(b.q, done, 1, 8, 20000);
            assert_true(got > 0);
            for (int i = 0; i < got; i++) {
                uint64_t number = (uint64_t)((unsigned char *)done[i].user - b.buf) / 600000;

                if (done[i].result == 0) {
                    assert_true(equals_model(b.m, done[i].user, 500000, number * 400000));
                    continue;
                }
                assert_int_equal(done[i].result, QCHAIN_E_IO);
                assert_non_null(strstr(done[i].error, "too far away"));
                bad++;
            }
        }
        more = b.f->failed_layer >= 0;
        end(&b);
    }
    assert_true(bad > 3);
}

/* What is under way when it is cancelled, or the queue closed, is waited for. */
static void cancel_and_close(void **unused)
{
    qchain_completion done[16];
    struct bench b;
    int n = 0;

    (void)unused;
    begin(&b);
    know(&b);
    b.f->delay_us = 20000;
    for (unsigned i = 0; i < 8; i++)
        submit(b.q, b.buf + i * 8192, 4096, i * 9000, i % 2 ? &b : NULL);
    submit(b.q, b.buf + 100000, 3 * 65536, 21 * 65536, &b);
    assert_int_equal(qchain_queue_cancel(b.q, &b), 5);
    while (n < 9)
        n += qchain_queue_reap(b.q, done + n, 1, 16 - (uint32_t)n, 20000);
    for (int i = 0; i < 9; i++)
        assert_true(done[i].result == 0 || (done[i].result == QCHAIN_E_CANCELLED && done[i].user));
    assert_int_equal(qchain_queue_pending(b.q), 0);
    for (unsigned i = 0; i < 8; i++)
        if (i % 2 == 0)
            assert_true(equals_model(b.m, b.buf + i * 8192, 4096, i * 9000));
    /* Now it is closed with much under way: into memory that is gone afterwards. */
    for (int round = 0; round < 5; round++) {
        unsigned char *own = malloc(32 * 4096);
        qchain_queue *q = make_queue(b.c, 32);

        for (unsigned i = 0; i < 32; i++)
            submit(q, own + i * 4096, 4096, i * 9000, NULL);
        qchain_queue_destroy(q);
        free(own);
    }
    end(&b);
}

/* Unknown windows of several queues, closed while they are filled. */
static void close_while_filling(void **unused)
{
    (void)unused;
    for (unsigned round = 0; round < 2 + share(8); round++) {
        struct bench b;

        begin(&b);
        b.f->delay_us = 2000;
        for (unsigned i = 0; i < 8; i++)
            submit(b.q, b.buf + i * 65536, 65536, i * 131072, NULL);
        if (round % 2)
            usleep(round * 300);
        end(&b);
    }
}

static void random_requests(void **unused)
{
    enum { DEPTH = 24 };
    uint64_t seed = mem_seed(60);

    (void)unused;
    for (unsigned round = 0; round < 3 + share(3); round++) {
        struct mem_chain *m = mem_chain_random(1 + random_next(&seed) % 6, MIB, &seed);
        struct far *f = far_create(m, 4);
        qchain *c = far_open(f, NULL);
        qchain_queue *q = make_queue(c, DEPTH);
        struct { unsigned char *buf; uint64_t offset, length; bool busy; } s[DEPTH] = {0};
        uint64_t size = qchain_size(c);
        qchain_completion done[DEPTH];
        unsigned left = 0;
        int n;

        f->delay_us = round % 3 * 200;
        f->at_once = round % 3 == 0;
        for (unsigned i = 0; i < 400 || left > 0; i++) {
            unsigned k = i % DEPTH;

            if (i < 400 && !s[k].busy) {
                s[k].offset = random_next(&seed) % size;
                s[k].length = random_next(&seed) % (random_next(&seed) % 4 ? 9000 : 300000);
                if (s[k].length > size - s[k].offset)
                    s[k].length = size - s[k].offset;
                s[k].buf = malloc(s[k].length + 1);
                s[k].buf[s[k].length] = 0xa5;
                s[k].busy = true;
                left++;
                assert_int_equal(qchain_queue_read(q, s[k].buf, s[k].length, s[k].offset,
                                                   random_next(&seed) % 2 ? QCHAIN_REQUEST_MORE : 0,
                                                   &s[k], err), 0);
            }
            n = qchain_queue_reap(q, done, i < 400 ? random_next(&seed) % 2 : 1, DEPTH, 20000);
            assert_true(n > 0 || i < 400);
            for (int j = 0; j < n; j++) {
                k = (unsigned)(((char *)done[j].user - (char *)s) / (ptrdiff_t)sizeof(s[0]));
                if (done[j].result != 0)
                    fail_msg("%s", done[j].error);
                assert_true(s[k].busy && equals_model(m, s[k].buf, s[k].length, s[k].offset));
                assert_int_equal(s[k].buf[s[k].length], 0xa5);
                free(s[k].buf);
                s[k].busy = false;
                left--;
            }
        }
        qchain_queue_destroy(q);
        qchain_close(c);
        far_destroy(f);
        mem_chain_destroy(m);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON(within_one_run),      ON(over_many_runs),   ON(tells_pollers),
        ON(failures_have_a_layer), ON(each_request_fails), ON(cancel_and_close),
        ON(close_while_filling), ON(random_requests),
    };

    RUN_TWICE(tests);
}
