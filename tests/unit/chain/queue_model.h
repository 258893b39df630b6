/* SPDX-License-Identifier: MIT */
/* Random requests of a queue that reads and changes a disk, against a model. */
#ifndef QUEUE_MODEL_H
#define QUEUE_MODEL_H

#include "chain/queue_tools.h"
#include "util/bytes.h"

#define GOOD(call)                                                                                 \
    do {                                                                                           \
        if ((call) != 0)                                                                           \
            fail_msg("%s", qchain_error_message(err));                                             \
    } while (0)

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
        b = t->offset + t->length; /* the last cluster may be cut off by the disk's end */
        b = b == SIZE ? b : qc_align_down(b, s->cluster);
        if (a < b)
            memset(s->model + a, 0, b - a);
        break;
    default:
        break;
    }
}

/* Run so many requests on a disk of SIZE bytes; sectors: all of whole ones. */
static void run_model(qchain *c, uint64_t cluster, bool sectors, int rounds)
{
    struct run_state s = {.c = c, .seed = mem_seed(41), .cluster = cluster, .sectors = sectors};
    qchain_completion done[SLOTS];
    unsigned char *got;
    int n, total = 0;

    s.q = make_queue(s.c, SLOTS);
    s.model = calloc(1, SIZE);
    GOOD(qchain_read(s.c, s.model, SIZE, 0, 0, err));
    for (uint64_t i = 0; i < SLOTS; i++) {
        s.slot[i].buf = aligned_alloc(4096, 40960);
        memset(s.slot[i].buf, 0, 40960); /* valgrind does not see what a ring puts there */
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
    qchain_queue_destroy(s.q);
    for (uint64_t i = 0; i < SLOTS; i++)
        free(s.slot[i].buf);
    free(s.model);
    free(got);
}

#endif
