/* SPDX-License-Identifier: MIT */
/* Requests of queues that change the disk; the tip's format is a double. */
#define TIP_DOUBLE
#include "chain/tip_tools.h"
#include "chain/queue_tools.h"

#define GOOD(call)                                                                                 \
    do {                                                                                           \
        if ((call) != 0)                                                                           \
            fail_msg("%s", qchain_error_message(err));                                             \
    } while (0)

/* A tip and its backing file as files. */
static qchain *open_tip(uint64_t size, unsigned bits, uint64_t below, uint32_t flags)
{
    struct tip_head head = {{'T', 'I', 'P'}, below ? 'b' : '-', bits, size / 512};
    qchain_open_opts o;
    qchain *c = NULL;
    char path[96];
    FILE *f;

    snprintf(path, sizeof(path), "%s/below", dir);
    f = fopen(path, "wb");
    for (uint64_t i = 0; i < below; i++)
        fputc((int)(1 + i / 512 % 251), f);
    fclose(f);
    snprintf(path, sizeof(path), "%s/top", dir);
    f = fopen(path, "wb");
    fwrite(&head, 1, sizeof(head), f);
    for (int i = sizeof(head); i < 4096; i++)
        fputc(0, f);
    fclose(f);
    qchain_open_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_OPEN_WRITE | flags;
    if (qchain_open(&c, NULL, path, &o, err) != 0)
        fail_msg("%s", qchain_error_message(err));
    return c;
}

/* ------------------------------------------------------------------ the model --- */

#define SLOTS 32
#define SLOT_BYTES (37 * 512)
#define SIZE (SLOTS * SLOT_BYTES)

/* What one slot has under way, in its own part of the disk; clusters are shared with its neighbours. */
struct slot {
    uint64_t       offset, length;
    int            what;
    unsigned char *buf;
};

struct run_state {
    qchain        *c;
    qchain_queue  *q;
    unsigned char *model;
    struct slot    slot[SLOTS];
    uint64_t       seed, cluster;
    bool           sectors;
};

enum { READ, WRITE, WRITEV, ZEROES, DISCARD, FLUSH };

static void issue(struct run_state *s, uint64_t i)
{
    static const int kinds[] = {READ, READ, READ, WRITE, WRITE, WRITE, WRITE, WRITEV, WRITEV, ZEROES, DISCARD, FLUSH};
    struct slot *t = &s->slot[i];
    uint32_t more = random_next(&s->seed) % 2 ? QCHAIN_REQUEST_MORE : 0;
    qchain_iov iov[3];
    uint64_t third;

    t->what = kinds[random_next(&s->seed) % (sizeof(kinds) / sizeof(kinds[0]))];
    t->offset = random_next(&s->seed) % SLOT_BYTES;
    t->length = qc_min64(random_next(&s->seed) % (random_next(&s->seed) % 3 ? 5000 : SLOT_BYTES),
                         SLOT_BYTES - t->offset);
    if (s->sectors) {
        t->offset &= ~UINT64_C(511);
        t->length = qc_max64(t->length & ~UINT64_C(511), 512);
    }
    t->offset += i * SLOT_BYTES;
    if (t->what == WRITE || t->what == WRITEV)
        for (uint64_t k = 0; k < t->length; k++)
            t->buf[k] = (unsigned char)(1 + (t->offset + k + s->seed) % 255);
    third = t->length / 3;
    iov[0] = (qchain_iov){t->buf, third};
    iov[1] = (qchain_iov){t->buf + third, third};
    iov[2] = (qchain_iov){t->buf + 2 * third, t->length - 2 * third};
    switch (t->what) {
    case READ:
        GOOD(qchain_queue_read(s->q, t->buf, t->length, t->offset, more, t, err));
        break;
    case WRITE:
        if (random_next(&s->seed) % 20 == 0)
            more |= QCHAIN_REQUEST_FUA;
        GOOD(qchain_queue_write(s->q, t->buf, t->length, t->offset, more, t, err));
        break;
    case WRITEV:
        GOOD(qchain_queue_writev(s->q, iov, 3, t->offset, more, t, err));
        break;
    case ZEROES:
        GOOD(qchain_queue_write_zeroes(s->q, t->length, t->offset, more | QCHAIN_REQUEST_UNMAP, t, err));
        break;
    case DISCARD:
        GOOD(qchain_queue_discard(s->q, t->length, t->offset, more, t, err));
        break;
    default:
        GOOD(qchain_queue_flush(s->q, t, err));
    }
}

static void settle(struct run_state *s, const qchain_completion *done)
{
    struct slot *t = done->user;
    unsigned char *m = s->model + t->offset;
    uint64_t a, b;

    if (done->result != 0)
        fail_msg("%s", done->error);
    switch (t->what) {
    case READ:
        assert_memory_equal(t->buf, m, t->length);
        break;
    case WRITE:
    case WRITEV:
        memcpy(m, t->buf, t->length);
        break;
    case ZEROES:
        memset(m, 0, t->length);
        break;
    case DISCARD:
        a = qc_align_up(t->offset, s->cluster);
        b = qc_align_down(t->offset + t->length, s->cluster);
        if (a < b)
            memset(s->model + a, 0, b - a);
        break;
    default:
        break;
    }
}

static void run(unsigned bits, uint64_t below, uint32_t flags, bool sectors, int rounds)
{
    struct run_state s = {.seed = mem_seed(41), .cluster = UINT64_C(1) << bits, .sectors = sectors};
    qchain_completion done[SLOTS];
    unsigned char *got;
    int n, total = 0;

    s.c = open_tip(SIZE, bits, below, flags);
    s.q = make_queue(s.c, SLOTS);
    s.model = calloc(1, SIZE);
    GOOD(qchain_read(s.c, s.model, SIZE, 0, 0, err));
    for (uint64_t i = 0; i < SLOTS; i++) {
        s.slot[i].buf = aligned_alloc(4096, 40960);
        issue(&s, i);
    }
    while (total < rounds) {
        n = qchain_queue_reap(s.q, done, 1, SLOTS, 20000);
        assert_true(n > 0);
        for (int i = 0; i < n; i++)
            settle(&s, &done[i]);
        for (int i = 0; i < n; i++)
            issue(&s, (uint64_t)((struct slot *)done[i].user - s.slot));
        total += n;
    }
    while (qchain_queue_pending(s.q) > 0) {
        n = qchain_queue_reap(s.q, done, 1, SLOTS, 20000);
        assert_true(n > 0);
        for (int i = 0; i < n; i++)
            settle(&s, &done[i]);
    }
    got = malloc(SIZE);
    GOOD(qchain_read(s.c, got, SIZE, 0, 0, err));
    assert_memory_equal(got, s.model, SIZE);
    qchain_queue_close(s.q);
    GOOD(qchain_finish(s.c, err));
    qchain_close(s.c);
    for (uint64_t i = 0; i < SLOTS; i++)
        free(s.slot[i].buf);
    free(s.model);
    free(got);
}

static void random_requests_follow_the_model(void **unused)
{
    (void)unused;
    run(12, 0, 0, false, 8000);
    run(16, SIZE, 0, false, 8000);
    double_zero_kept = true;
    run(13, SIZE / 2, 0, true, 8000);
    run(12, SIZE / 3, QCHAIN_OPEN_DIRECT, true, 8000);
    double_zero_kept = false;
    run(14, 0, QCHAIN_OPEN_WRITETHROUGH, false, 1000);
}

/* ----------------------------------------------------------------------- others --- */

static void writes_in_place_and_to_new_places_go_to_the_ring(void **unused)
{
    qchain *c = open_tip(MIB, 16, 0, 0);
    qchain_queue *q = make_queue(c, 8);
    char buf[4096] = "data";
    qchain_stats s;

    (void)unused;
    GOOD(qchain_queue_write(q, buf, 4096, 8192, 0, &buf, err)); /* learns the file */
    reap_good(q);
    GOOD(qchain_queue_write(q, buf, 4096, 128 * KIB, 0, &buf, err));
    reap_good(q);
    GOOD(qchain_queue_write(q, buf, 4096, 132 * KIB, 0, &buf, err));
    reap_good(q);
    s = stats_of(c);
    if (has_ring(q))
        assert_true(s.queue_uring == 3 && s.queue_walks == 0 && s.queue_leaf == 0);
    else
        assert_true(s.queue_uring == 0);
    qchain_queue_close(q);
    qchain_close(c);
}

static void held_requests_go_with_the_eighth(void **unused)
{
    qchain *c = open_tip(MIB, 16, 0, 0);
    qchain_queue *q = make_queue(c, 64);
    qchain_completion done[16];
    char buf[8][512];
    int n = 0;

    (void)unused;
    for (int i = 0; i < 8; i++)
        GOOD(qchain_queue_write(q, buf[i], 512, (uint64_t)i * 65536, QCHAIN_REQUEST_MORE, &buf, err));
    while (n < 8)
        n += qchain_queue_reap(q, done, 1, 16, 20000);
    qchain_queue_close(q);
    qchain_close(c);
}

static void while_drained_writes_wait_and_reads_go_on(void **unused)
{
    qchain *c = open_tip(MIB, 12, MIB, 0);
    qchain_queue *q = make_queue(c, 8);
    qchain_completion done;
    char buf[4096] = "data", got[4096];

    (void)unused;
    GOOD(qchain_drain(c, err));
    GOOD(qchain_queue_write(q, buf, 4096, 0, 0, buf, err));
    GOOD(qchain_queue_write_zeroes(q, 4096, 8192, 0, buf + 1, err));
    GOOD(qchain_queue_read(q, got, 4096, 0, 0, got, err));
    assert_int_equal(qchain_queue_reap(q, &done, 1, 1, 20000), 1);
    assert_ptr_equal(done.user, got);
    assert_int_equal(got[0], 1);
    assert_int_equal(qchain_queue_reap(q, &done, 1, 1, 50), 0);
    qchain_resume(c);
    reap_good(q);
    reap_good(q);
    GOOD(qchain_read(c, got, 4, 0, 0, err));
    assert_memory_equal(got, "data", 4);
    /* Cancelled, and closed, while it waits. */
    GOOD(qchain_drain(c, err));
    GOOD(qchain_queue_write(q, buf, 4096, 0, 0, buf, err));
    assert_int_equal(qchain_queue_cancel(q, buf), 1);
    reap_bad(q, QCHAIN_E_CANCELLED);
    GOOD(qchain_queue_write(q, buf, 4096, 0, 0, buf, err));
    GOOD(qchain_queue_discard(q, 4096, 0, 0, buf, err));
    qchain_queue_close(q);
    qchain_close(c);
}

/* What a read in the ring reads is not used anew before it has ended. */
static bool sees_a_stranger(bool no_limbo)
{
    qchain *c = open_tip(MIB, 12, 0, 0);
    qchain_queue *q = make_queue(c, 8);
    unsigned char got[4096], buf[4096];

    double_no_limbo = no_limbo;
    memset(buf, 1, sizeof(buf));
    GOOD(qchain_write(c, buf, 4096, 0, 0, err));
    GOOD(qchain_queue_read(q, got, 4096, 0, 0, got, err)); /* learns the file */
    reap_good(q);
    GOOD(qchain_queue_read(q, got, 4096, 0, QCHAIN_REQUEST_MORE, got, err)); /* prepared, not submitted */
    GOOD(qchain_discard(c, 4096, 0, 0, err));
    memset(buf, 2, sizeof(buf));
    for (uint64_t i = 1; i < 8; i++)
        GOOD(qchain_write(c, buf, 4096, i * 4096, 0, err));
    reap_good(q);
    double_no_limbo = false;
    qchain_queue_close(q);
    qchain_close(c);
    return got[0] == 2;
}

static void places_that_requests_use_are_not_used_anew(void **unused)
{
    qchain *c = open_tip(MIB, 12, 0, 0);
    qchain_queue *q = make_queue(c, 8);
    bool ring = has_ring(q);

    (void)unused;
    qchain_queue_close(q);
    qchain_close(c);
    assert_false(sees_a_stranger(false));
    if (ring)
        assert_true(sees_a_stranger(true)); /* the test would see it */
}

/* A store that fails: the completion says why, and nothing is held afterwards. */
static void failures_are_told_and_leave_nothing_behind(void **unused)
{
    qchain_completion done;
    char buf[3000] = "data";
    int failed = 0;

    (void)unused;
    for (int k = 1; k < 30; k++) {
        struct tip_chain t;
        qchain_queue *q;

        tip_open(&t, MIB, 12, MIB / 2, 0);
        q = make_queue(t.c, 8);
        atomic_store(&t.top->calls, 0);
        atomic_store(&t.top->fail_at, k);
        for (uint64_t i = 0; i < 20; i++) {
            GOOD(qchain_queue_write(q, buf, sizeof(buf), i * 4000, 0, buf, err));
            assert_int_equal(qchain_queue_reap(q, &done, 1, 1, 20000), 1);
            if (done.result != 0) {
                assert_int_equal(done.result, QCHAIN_E_IO);
                assert_non_null(strstr(done.error, "told to fail"));
                failed++;
            }
        }
        GOOD(qchain_drain(t.c, t.err));
        qchain_resume(t.c);
        qchain_queue_close(q);
        tip_close(&t);
    }
    assert_true(failed > 20);
}

static void wrong_calls_are_refused(void **unused)
{
    qchain *c = open_tip(MIB, 12, 0, 0);
    qchain_queue *q = make_queue(c, 8);
    char buf[512];

    (void)unused;
    assert_int_equal(qchain_queue_write(q, buf, 512, MIB, 0, buf, err), QCHAIN_E_RANGE);
    assert_int_equal(qchain_queue_write(q, buf, 512, 0, QCHAIN_REQUEST_UNMAP, buf, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_queue_write_zeroes(q, MIB, 1, 0, buf, err), QCHAIN_E_RANGE);
    assert_int_equal(qchain_queue_discard(q, 512, 0, QCHAIN_REQUEST_FUA, buf, err), QCHAIN_E_INVAL);
    assert_int_equal(qchain_queue_pending(q), 0);
    GOOD(qchain_queue_write(q, NULL, 0, 0, 0, buf, err));
    reap_good(q);
    qchain_queue_close(q);
    GOOD(qchain_finish(c, err));
    q = make_queue(c, 8);
    assert_int_equal(qchain_queue_write(q, buf, 512, 0, 0, buf, err), QCHAIN_E_READONLY);
    qchain_queue_close(q);
    qchain_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON(random_requests_follow_the_model),
        ON(writes_in_place_and_to_new_places_go_to_the_ring),
        ON(held_requests_go_with_the_eighth),
        ON(while_drained_writes_wait_and_reads_go_on),
        ON(places_that_requests_use_are_not_used_anew),
        ON(failures_are_told_and_leave_nothing_behind),
        ON(wrong_calls_are_refused),
    };

    RUN_TWICE(tests);
}
