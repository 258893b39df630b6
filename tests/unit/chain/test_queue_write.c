/* SPDX-License-Identifier: MIT */
/* Requests of queues that change the disk; the tip's format is a double. */
#define TIP_DOUBLE
#include "chain/tip_tools.h"
#include "chain/queue_model.h"

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

static void run(unsigned bits, uint64_t below, uint32_t flags, bool sectors, int rounds)
{
    qchain *c = open_tip(SIZE, bits, below, flags);

    run_model(c, UINT64_C(1) << bits, sectors, rounds);
    GOOD(qchain_finish(c, err));
    qchain_close(c);
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

static bool dir_is_direct(void)
{
    char path[96];
    int fd;

    snprintf(path, sizeof(path), "%s/top", dir);
    fd = open(path, O_RDONLY | O_DIRECT);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static void check_carriers(uint32_t flags)
{
    static _Alignas(4096) char buf[4096] = "data";
    qchain *c = open_tip(MIB, 16, 0, flags);
    qchain_queue *q = make_queue(c, 8);
    qchain_stats s;

    GOOD(qchain_queue_write(q, buf, 4096, 8192, 0, &buf, err)); /* learns the file */
    reap_good(q);
    GOOD(qchain_queue_write(q, buf, 4096, 128 * KIB, 0, &buf, err));
    reap_good(q);
    GOOD(qchain_queue_write(q, buf, 4096, 132 * KIB, 0, &buf, err));
    reap_good(q);
    s = stats_of(c);
    assert_true(s.queue_uring + s.queue_leaf == 3 && s.queue_walks == 0);
    /* buffered ones not everywhere */
    assert_true(s.queue_uring == (has_ring(q) && ((flags && dir_is_direct()) || s.queue_uring) ? 3 : 0));
    qchain_queue_destroy(q);
    qchain_close(c);
}

static void writes_in_place_and_to_new_places_need_no_walker(void **unused)
{
    (void)unused;
    check_carriers(0);
    check_carriers(QCHAIN_OPEN_DIRECT);
}

static void held_requests_go_with_the_eighth(void **unused)
{
    qchain *c = open_tip(MIB, 16, 0, 0);
    qchain_queue *q = make_queue(c, 64);
    qchain_completion done[16];
    char buf[8][512] = {{0}};
    int n = 0;

    (void)unused;
    for (int i = 0; i < 8; i++)
        GOOD(qchain_queue_write(q, buf[i], 512, (uint64_t)i * 65536, QCHAIN_REQUEST_MORE, &buf, err));
    while (n < 8)
        n += qchain_queue_reap(q, done, 1, 16, 20000);
    qchain_queue_destroy(q);
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
    qchain_queue_destroy(q);
    qchain_close(c);
}

/* Clusters stay locked until a queue is reaped. Who waits for them can be cancelled, and closed. */
static void who_waits_for_clusters_can_be_cancelled(void **unused)
{
    qchain *c = open_tip(MIB, 16, 0, 0);
    qchain_queue *q = make_queue(c, 8), *other = make_queue(c, 8);
    char buf[4096] = "data";

    (void)unused;
    GOOD(qchain_queue_write(q, buf, 4096, 0, 0, buf, err)); /* learns the file */
    reap_good(q);
    GOOD(qchain_queue_write(other, buf, 4096, 65536, 0, buf, err));
    reap_good(other);
    GOOD(qchain_queue_write(q, buf, 4096, 128 * KIB, 0, buf, err));
    GOOD(qchain_queue_write(other, buf, 4096, 132 * KIB, 0, buf, err));
    if (has_ring(q)) {
        assert_int_equal(qchain_queue_cancel(other, buf), 1);
        reap_bad(other, QCHAIN_E_CANCELLED);
        GOOD(qchain_queue_write(other, buf, 4096, 132 * KIB, 0, buf, err));
    }
    qchain_queue_destroy(other);
    reap_good(q);
    GOOD(qchain_write(c, buf, 4096, 132 * KIB, 0, err));
    qchain_queue_destroy(q);
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
    for (uint64_t i = 1; i < 8; i++) { /* giving up others lets go of what nobody uses */
        GOOD(qchain_write(c, buf, 4096, i * 4096, 0, err));
        GOOD(qchain_discard(c, 4096, (i - 1) * 4096, 0, err));
    }
    reap_good(q);
    double_no_limbo = false;
    qchain_queue_destroy(q);
    qchain_close(c);
    return got[0] == 2;
}

static void places_that_requests_use_are_not_used_anew(void **unused)
{
    qchain *c = open_tip(MIB, 12, 0, 0);
    qchain_queue *q = make_queue(c, 8);
    bool ring = has_ring(q);

    (void)unused;
    qchain_queue_destroy(q);
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
        qchain_queue_destroy(q);
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
    qchain_queue_destroy(q);
    GOOD(qchain_finish(c, err));
    q = make_queue(c, 8);
    assert_int_equal(qchain_queue_write(q, buf, 512, 0, 0, buf, err), QCHAIN_E_READONLY);
    qchain_queue_destroy(q);
    qchain_close(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON(random_requests_follow_the_model),
        ON(writes_in_place_and_to_new_places_need_no_walker),
        ON(held_requests_go_with_the_eighth),
        ON(while_drained_writes_wait_and_reads_go_on),
        ON(who_waits_for_clusters_can_be_cancelled),
        ON(places_that_requests_use_are_not_used_anew),
        ON(failures_are_told_and_leave_nothing_behind),
        ON(wrong_calls_are_refused),
    };

    RUN_TWICE(tests);
}
