/* SPDX-License-Identifier: MIT */
/* Queues: failures, cancelling, closing, threads. */
#include "queue_tools.h"

/* ------------------------------------------------------------------- failures --- */

/* A failed request says what the blocking call says. */
static void failures_say_what_blocking_reads_say(void **unused)
{
    struct mem_chain *m = plain_disk(4 * MIB, 16);
    qchain *c = open_stores(m, NULL);
    qchain_queue *q = make_queue(c, 8);
    unsigned char buf[3][512];
    qchain_completion done[3], next;
    char said[1024];

    (void)unused;
    submit(q, buf[0], 512, 0, buf[0]);
    reap_good(q);
    m->layer[0].fail_from = 0;
    m->layer[0].fail_to = INT32_MAX;
    assert_int_equal(qchain_read(c, buf[0], 512, 0, 0, err), QCHAIN_E_IO);
    snprintf(said, sizeof(said), "%s", qchain_error_message(err));
    assert_non_null(strstr(said, "the medium failed"));
    for (int i = 0; i < 3; i++)
        submit(q, buf[i], 512, 0, buf[i]);
    assert_int_equal(qchain_queue_reap(q, done, 3, 3, -1), 3);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(done[i].result, QCHAIN_E_IO);
        assert_string_equal(done[i].error, said);
        assert_true(done[i].user == buf[0] || done[i].user == buf[1] || done[i].user == buf[2]);
    }
    assert_int_equal(qchain_queue_reap(q, &next, 0, 1, 0), 0);
    submit(q, buf[0], 512, 0, buf[0]); /* and one that is never reaped */
    qchain_queue_destroy(q);
    qchain_close(c);
    mem_chain_destroy(m);
}

/* Metadata that cannot be read, or makes no sense: a walker tells what is wrong, and
 * only who touches it fails. */
static void damage_hurts_who_touches_it(void **unused)
{
    struct mem_chain *m = plain_disk(256 * MIB, 16);
    unsigned char buf[512];
    uint64_t l2;
    qchain_queue *q;
    qchain *c;

    (void)unused;
    mem_layer_set(m, 0, 2048, MEM_DATA);
    l2 = m->layer[0].file_size - 65536; /* its data; an entry that points past the end: */
    (void)l2;
    mem_layer_set(m, 0, 8, MEM_DATA);
    for (uint64_t i = 0; i < m->layer[0].file_size; i += 8) {
        unsigned char *p = m->layer[0].file + i;

        /* The L2 entry of cluster 5 is made unaligned. */
        if (p[0] == 0x80 && i % 65536 == 5 * 8 && p[7] == 0) {
            p[6] = 2;
            break;
        }
    }
    c = open_files(m, 0);
    q = make_queue(c, 8);
    assert_int_equal(qchain_read(c, buf, 512, 5 * 65536, 0, err), QCHAIN_E_CORRUPT);
    for (int i = 0; i < 2; i++) {
        submit(q, buf, 512, 5 * 65536, buf);
        assert_string_equal(reap_bad(q, QCHAIN_E_CORRUPT).error, qchain_error_message(err));
        memset(buf, 0, sizeof(buf));
        submit(q, buf, 512, 6 * 65536, buf);
        reap_good(q);
        assert_true(equals_model(m, buf, 512, 6 * 65536));
        submit(q, buf, 512, 128 * MIB, buf);
        reap_good(q);
        assert_true(equals_model(m, buf, 512, 128 * MIB));
    }
    qchain_queue_destroy(q);
    qchain_close(c);
    mem_chain_destroy(m);
}

/* What the ring reads short is read again, for the reason. */
static void a_file_that_shrank(void **unused)
{
    struct mem_chain *m = plain_disk(4 * MIB, 64);
    qchain *c = open_files(m, 0);
    qchain_queue *q = make_queue(c, 8);
    unsigned char buf[8192] = {0};

    (void)unused;
    submit(q, buf, 512, 0, buf);
    reap_good(q);
    assert_int_equal(truncate(layer_path(0), (off_t)(m->layer[0].file_size - 4096)), 0);
    assert_int_equal(qchain_read(c, buf, 8192, 4 * MIB - 8192, 0, err), QCHAIN_E_IO);
    assert_non_null(strstr(qchain_error_message(err), "shrank"));
    submit(q, buf, 8192, 4 * MIB - 8192, buf);
    assert_string_equal(reap_bad(q, QCHAIN_E_IO).error, qchain_error_message(err));
    if (has_ring(q))
        assert_true(stats_of(c).queue_uring >= 2);
    assert_int_equal(stats_of(c).queue_leaf, has_ring(q) ? 1 : 2);
    submit(q, buf, 4096, 4 * MIB - 8192, buf);
    reap_good(q);
    assert_true(equals_model(m, buf, 4096, 4 * MIB - 8192));
    qchain_queue_destroy(q);
    qchain_close(c);
    mem_chain_destroy(m);
}

/* A last cluster that the file ends in the middle of: zeros, by a leaf. */
static void past_the_end_there_are_zeros(void **unused)
{
    struct mem_chain *m = plain_disk(4 * MIB, 64);
    unsigned char buf[8192], want[8192];
    qchain_queue *q;
    qchain *c;

    (void)unused;
    m->layer[0].file_size -= 4096;
    c = open_files(m, 0);
    q = make_queue(c, 8);
    for (int i = 0; i < 2; i++) {
        memset(buf, 0xa5, sizeof(buf));
        submit(q, buf, 8192, 4 * MIB - 8192, buf);
        reap_good(q);
        mem_chain_read(m, want, 8192, 4 * MIB - 8192);
        memset(want + 4096, 0, 4096);
        assert_memory_equal(buf, want, 8192);
    }
    qchain_queue_destroy(q);
    qchain_close(c);
    mem_chain_destroy(m);
}

static void a_changed_chain_fails_all(void **unused)
{
    struct mem_chain *m = plain_disk(4 * MIB, 64);
    qchain *c = open_files(m, 0);
    qchain_queue *q = make_queue(c, 8);
    unsigned char buf[512] = {0};

    (void)unused;
    submit(q, buf, 512, 0, buf);
    reap_good(q);
    atomic_store(&c->changed, true);
    assert_int_equal(qchain_read(c, buf, 512, 0, 0, err), QCHAIN_E_CHANGED);
    submit(q, buf, 512, 0, buf);
    assert_string_equal(reap_bad(q, QCHAIN_E_CHANGED).error, qchain_error_message(err));
    qchain_queue_destroy(q);
    qchain_close(c);
    mem_chain_destroy(m);
}

/* ------------------------------------------------------------- cancel and close --- */

static void cancelled_requests_complete_once(void **unused)
{
    struct mem_chain *m = plain_disk(4 * MIB, 16);
    qchain_env *env = make_env(1, 1, 0);
    qchain *c = open_stores(m, env);
    qchain_queue *q = make_queue(c, 32);
    static unsigned char buf[32][512];
    qchain_completion done[32];
    int n_cancelled = 0, n_other = 0, other;

    (void)unused;
    submit(q, buf[0], 512, 0, buf[0]);
    reap_good(q);
    atomic_store(&m->layer[0].held, true); /* the first, that is: there is one thread */
    for (int i = 0; i < 20; i++)
        submit(q, buf[i], 512, 0, i % 2 ? (void *)&other : (void *)buf);
    assert_int_equal(qchain_queue_cancel(q, buf + 5), 0);
    assert_int_equal(qchain_queue_cancel(q, &other), 10);
    assert_in_range(qchain_queue_cancel(q, &other), 0, 1); /* they have ended */
    atomic_store(&m->layer[0].held, false);
    assert_int_equal(qchain_queue_reap(q, done, 20, 32, -1), 20);
    for (int i = 0; i < 20; i++) {
        n_other += done[i].user == &other;
        if (done[i].result == 0)
            continue;
        assert_int_equal(done[i].result, QCHAIN_E_CANCELLED);
        assert_non_null(strstr(done[i].error, "cancelled"));
        assert_ptr_equal(done[i].user, &other);
        n_cancelled++;
    }
    assert_int_equal(n_other, 10);
    assert_in_range(n_cancelled, 9, 10); /* on a busy machine one has begun */
    assert_int_equal(qchain_queue_cancel(q, &other), 0);
    qchain_queue_destroy(q);
    qchain_close(c);
    qchain_env_destroy(env);
    mem_chain_destroy(m);
}

/* Those that wait for metadata end when it has come, or has not. */
static void parked_requests_can_be_cancelled(void **unused)
{
    struct mem_chain *m = plain_disk(4 * MIB, 16);
    qchain_env *env = make_env(1, 1, 0);
    qchain *c = open_stores(m, env);
    qchain_queue *q = make_queue(c, 32);
    static unsigned char buf[8][512];
    qchain_completion done[8];

    (void)unused;
    atomic_store(&m->layer[0].held, true);
    for (int i = 0; i < 8; i++)
        submit(q, buf[i], 512, 0, i < 4 ? (void *)buf : NULL);
    assert_int_equal(qchain_queue_cancel(q, buf), 4);
    atomic_store(&m->layer[0].held, false);
    assert_int_equal(qchain_queue_reap(q, done, 8, 8, -1), 8);
    for (int i = 0; i < 8; i++)
        assert_int_equal(done[i].result, done[i].user ? QCHAIN_E_CANCELLED : 0);
    qchain_queue_destroy(q);
    qchain_close(c);
    qchain_env_destroy(env);
    mem_chain_destroy(m);
}

static void ring_reads_can_be_cancelled(void **unused)
{
    struct mem_chain *m = plain_disk(4 * MIB, 64);
    qchain *c = open_files(m, QCHAIN_OPEN_DIRECT);
    qchain_queue *q = make_queue(c, 128);
    unsigned char *buf = aligned_alloc(4096, 128 * 4096);
    qchain_completion done[128];

    (void)unused;
    memset(buf, 0, 128 * 4096);
    for (int round = 0; round < 10; round++) {
        for (int i = 0; i < 128; i++)
            assert_int_equal(qchain_queue_read(q, buf + i * 4096, 4096, (uint64_t)i * 8192,
                                               i % 5 ? QCHAIN_REQUEST_MORE : 0, buf, err), 0);
        assert_in_range(qchain_queue_cancel(q, buf), 0, 128);
        assert_int_equal(qchain_queue_reap(q, done, 128, 128, -1), 128);
        for (int i = 0; i < 128; i++)
            assert_true(done[i].result == 0 || done[i].result == QCHAIN_E_CANCELLED);
    }
    qchain_queue_destroy(q);
    qchain_close(c);
    free(buf);
    mem_chain_destroy(m);
}

/* Close waits for everything, and then nobody writes to buffers any more. */
static void close_with_requests_in_flight(void **unused)
{
    struct mem_chain *m = plain_disk(256 * MIB, 16);
    qchain_queue *q;
    qchain *c;

    (void)unused;
    mem_layer_set(m, 0, 2100, MEM_COMPRESSED);
    for (int round = 0; round < 60; round++) {
        unsigned char *buf = malloc(32 * 512);

        m->layer[0].delay_us = 0;
        c = round % 2 ? open_files(m, 0) : open_stores(m, NULL);
        m->layer[0].delay_us = round % 8 * 200;
        q = make_queue(c, 32);
        for (int i = 0; i < 32; i++)
            assert_int_equal(qchain_queue_read(q, buf + i * 512, 512,
                                               i % 3 ? (uint64_t)i * 512
                                                     : (uint64_t)2100 * 65536 + (uint64_t)i * 512,
                                               i % 2 ? QCHAIN_REQUEST_MORE : 0, buf, err), 0);
        if (round % 5 == 4)
            usleep(2000);
        qchain_queue_destroy(q);
        free(buf);
        qchain_close(c);
    }
    mem_chain_destroy(m);
}

/* With the queue and the chain the layers' locks are gone. */
static void locks_end_with_the_queue(void **unused)
{
    struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 200};
    struct mem_chain *m = plain_disk(4 * MIB, 64);
    unsigned char buf[16][512];

    (void)unused;
    for (int round = 0; round < 30; round++) {
        qchain *c = open_files(m, round % 2 ? QCHAIN_OPEN_DIRECT : 0);
        qchain_queue *q = make_queue(c, 16);
        int fd = open(layer_path(0), O_RDWR | O_CLOEXEC);

        for (int i = 0; i < 16; i++)
            submit(q, buf[i], 512, (uint64_t)i * 4096, NULL);
        if (round % 3)
            reap_good(q);
        assert_int_equal(fcntl(fd, F_OFD_SETLK, &all), -1);
        qchain_queue_destroy(q);
        qchain_close(c);
        assert_int_equal(fcntl(fd, F_OFD_SETLK, &all), 0);
        close(fd);
    }
    mem_chain_destroy(m);
}

/* --------------------------------------------------------------------- threads --- */

struct handed {
    qchain_queue  *q;
    unsigned char *buf;
};

static void *submit_and_end(void *arg)
{
    struct handed *h = arg;

    for (int i = 0; i < 16; i++)
        submit(h->q, h->buf + i * 4096, 4096, (uint64_t)i * 8192, h->buf + i * 4096);
    return NULL;
}

/* One thread after the other may use a queue; the first ones end with reads in flight. */
static void a_queue_passes_from_thread_to_thread(void **unused)
{
    struct mem_chain *m = plain_disk(4 * MIB, 64);
    qchain *c = open_files(m, QCHAIN_OPEN_DIRECT);
    struct handed h = {make_queue(c, 16), aligned_alloc(4096, 16 * 4096)};
    qchain_completion done[16];
    pthread_t thread;

    (void)unused;
    for (int round = 0; round < 20; round++) {
        memset(h.buf, 0, 16 * 4096);
        pthread_create(&thread, NULL, submit_and_end, &h);
        pthread_join(thread, NULL);
        assert_int_equal(qchain_queue_reap(h.q, done, 16, 16, 20000), 16);
        for (int i = 0; i < 16; i++) {
            if (done[i].result != 0)
                fail_msg("%s", done[i].error);
            assert_true(equals_model(m, h.buf + i * 4096, 4096, (uint64_t)i * 8192));
        }
    }
    free(h.buf);
    qchain_queue_destroy(h.q);
    qchain_close(c);
    mem_chain_destroy(m);
}

struct user {
    pthread_t               thread;
    const struct mem_chain *m;
    qchain                 *c;
    uint64_t                seed;
};

static void *use(void *arg)
{
    struct user *u = arg;
    qchain_queue *q = make_queue(u->c, 16);
    unsigned char *buf = calloc(16, 9000);
    uint64_t offset[16];
    qchain_completion done[16];

    for (int round = 0; round < 60; round++) {
        for (int i = 0; i < 16; i++) {
            offset[i] = random_next(&u->seed) % (qchain_size(u->c) - 9000);
            if (qchain_queue_read(q, buf + i * 9000, 9000, offset[i], 0, &offset[i], NULL) != 0)
                abort();
        }
        if (qchain_queue_reap(q, done, 16, 16, -1) != 16)
            abort();
        for (int i = 0; i < 16; i++)
            if (done[i].result != 0 || !equals_model(u->m, buf + i * 9000, 9000, offset[i]))
                abort();
    }
    qchain_queue_destroy(q);
    free(buf);
    return NULL;
}

static void many_queues_on_one_chain(void **unused)
{
    uint64_t seed = mem_seed(43);
    struct mem_chain *m = mem_chain_random(4, 2 * MIB, &seed);
    qchain *c = open_files(m, 0);
    struct user u[4];

    (void)unused;
    for (int i = 0; i < 4; i++) {
        u[i] = (struct user){.m = m, .c = c, .seed = seed + (uint64_t)i};
        pthread_create(&u[i].thread, NULL, use, &u[i]);
    }
    for (int i = 0; i < 4; i++)
        pthread_join(u[i].thread, NULL);
    qchain_close(c);
    mem_chain_destroy(m);
}

/* What a forked child may do with a queue: nothing. */
static void forked_children_are_refused(void **unused)
{
    struct mem_chain *m = plain_disk(4 * MIB, 64);
    qchain *c = open_files(m, 0);
    qchain_queue *q = make_queue(c, 4), *other;
    unsigned char buf[512] = {0};
    qchain_completion done;
    int status, bad;
    pid_t child;

    (void)unused;
    submit(q, buf, 512, 0, buf);
    child = fork();
    if (child == 0) {
        bad = qchain_queue_read(q, buf, 512, 0, 0, NULL, NULL) != QCHAIN_E_INVAL;
        bad |= qchain_queue_reap(q, &done, 1, 1, -1) != QCHAIN_E_INVAL;
        bad |= qchain_queue_fd(q) != QCHAIN_E_INVAL;
        bad |= qchain_queue_cancel(q, buf) != QCHAIN_E_INVAL;
        bad |= qchain_queue_flush(q, NULL, NULL) != QCHAIN_E_INVAL;
        bad |= qchain_queue_create(&other, c, NULL, NULL) != QCHAIN_E_INVAL;
        qchain_queue_destroy(q);
        if (!bad) /* not by _exit: checkers would find fault with what a child must leave */
            execlp("true", "true", (char *)NULL);
        _exit(1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_ptr_equal(reap_good(q), buf);
    assert_true(equals_model(m, buf, 512, 0));
    qchain_queue_destroy(q);
    qchain_close(c);
    mem_chain_destroy(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON(failures_say_what_blocking_reads_say),
        ON(damage_hurts_who_touches_it),
        ON(a_file_that_shrank),
        ON(past_the_end_there_are_zeros),
        ON(a_changed_chain_fails_all),
        ON(cancelled_requests_complete_once),
        ON(parked_requests_can_be_cancelled),
        ON(ring_reads_can_be_cancelled),
        ON(close_with_requests_in_flight),
        ON(locks_end_with_the_queue),
        ON(a_queue_passes_from_thread_to_thread),
        ON(many_queues_on_one_chain),
        ON(forked_children_are_refused),
    };

    RUN_TWICE(tests);
}
