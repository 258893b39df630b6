/* SPDX-License-Identifier: MIT */
/* Objects: everything at once, for some seconds, over a tier that answers in pieces, late, out of order,
 * and sometimes not. */
#include "object_tools.h"

#define THREADS 8
#define RUN_MS 2500
#define SIZE (40 * (uint64_t)BLOCK + 4097)

struct chaos {
    struct qc_tier    base;
    pthread_mutex_t   lock;
    pthread_cond_t    more;
    struct qc_fetch  *list[4096];
    unsigned          n;
    bool              stop, closed;
    pthread_t         thread[3];
    uint64_t          seed;
    atomic_uint       fetches, fails;
};

static uint64_t roll(uint64_t *seed)
{
    uint64_t z = *seed += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    return z ^ z >> 29;
}

static void chaos_fetch(struct qc_tier *t, struct qc_fetch *f)
{
    struct chaos *c = (struct chaos *)(void *)t;

    if (f->offset % QC_GRAIN != 0 || f->length == 0 || f->offset + f->length > SIZE)
        abort();
    atomic_fetch_add(&c->fetches, 1);
    if (f->offset / QC_GRAIN % 16 == 3) { /* some are answered within fetch */
        make_bytes(f->buf, f->offset, f->length);
        f->done(f, 0);
        return;
    }
    pthread_mutex_lock(&c->lock);
    if (c->n == 4096)
        abort();
    c->list[c->n++] = f;
    pthread_cond_signal(&c->more);
    pthread_mutex_unlock(&c->lock);
}

static void answer(struct chaos *c, struct qc_fetch *f, uint64_t r)
{
    size_t have = 0, next;
    bool fails = r % 16 == 0;

    if (r >> 8 & 1)
        usleep(r >> 9 & 1023);
    for (unsigned i = r >> 20 & 3; i > 0 && have < f->length; i--, have = next) {
        next = have + (roll(&r) % (f->length - have + 1));
        make_bytes((char *)f->buf + have, f->offset + have, next - have);
        f->progress(f, next);
    }
    if (fails) {
        atomic_fetch_add(&c->fails, 1);
        f->done(f, qc_fail(&f->err, QCHAIN_E_IO, "chaos"));
        return;
    }
    make_bytes((char *)f->buf + have, f->offset + have, f->length - have);
    f->done(f, 0);
}

static void *chaos_thread(void *arg)
{
    struct chaos *c = arg;

    pthread_mutex_lock(&c->lock);
    for (;;) {
        struct qc_fetch *f;
        uint64_t r;
        unsigned i;

        while (c->n == 0 && !c->stop)
            pthread_cond_wait(&c->more, &c->lock);
        if (c->n == 0)
            break;
        r = roll(&c->seed);
        i = (r >> 32) % c->n;
        f = c->list[i];
        c->list[i] = c->list[--c->n];
        pthread_mutex_unlock(&c->lock);
        answer(c, f, r);
        pthread_mutex_lock(&c->lock);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

static int chaos_local(struct qc_tier *t, void *buf, uint64_t offset, size_t length)
{
    (void)t;
    if (offset / BLOCK % 4 != 1 || (offset + length - 1) / BLOCK != offset / BLOCK)
        return QCHAIN_E_NOTFOUND;
    make_bytes(buf, offset, length);
    return 0;
}

static void chaos_close(struct qc_tier *t)
{
    struct chaos *c = (struct chaos *)(void *)t;

    pthread_mutex_lock(&c->lock);
    c->closed = true;
    pthread_mutex_unlock(&c->lock);
}

static const struct qc_tier_ops chaos_ops = {.name = "chaos", .fetch = chaos_fetch, .close = chaos_close};
static const struct qc_tier_ops chaos_local_ops = {.name = "chaos", .fetch = chaos_fetch,
                                                   .fetch_local = chaos_local, .close = chaos_close};

struct mixer {
    pthread_t   id;
    struct rig *r;
    uint64_t    seed, next;
    atomic_bool *over;
    unsigned    good, bad;
};

/* Where and how much: small, long, aligned, at the end, in sequence. */
static void choose(struct mixer *m, uint64_t *offset, size_t *length, uint32_t *flags)
{
    uint64_t r = roll(&m->seed);

    *flags = r % 4 == 0 ? QC_READ_META : 0;
    *length = 1 + (r >> 8) % (r % 8 == 1 ? 6 * BLOCK : 9000);
    *offset = (r >> 32) % (SIZE - *length);
    if (r % 8 == 2) {
        *offset = qc_align_down(*offset, BLOCK);
        *length = qc_min64((1 + (r >> 8) % 4) * BLOCK, SIZE - *offset);
    } else if (r % 8 == 3) {
        *offset = SIZE - *length;
    } else if (r % 8 > 5) {
        *length = 4096;
        *offset = m->next + *length > SIZE ? 0 : m->next;
        m->next = *offset + *length;
    }
}

static void check(struct mixer *m, const void *buf, uint64_t offset, size_t length, int ret,
                  const qchain_error *err)
{
    if (ret == 0 ? !right_bytes(buf, offset, length)
                 : ret != QCHAIN_E_IO || err->code != ret || strcmp(err->text, "chaos") != 0)
        abort();
    *(ret ? &m->bad : &m->good) += 1;
}

static void *mix(void *arg)
{
    struct mixer *m = arg;
    char *buf = malloc(6 * BLOCK);
    struct sub x[6];
    qchain_error err;
    uint64_t offset;
    size_t length;
    uint32_t flags;

    while (!atomic_load(m->over) || m->good <= 10) {
        choose(m, &offset, &length, &flags);
        qc_error_init(&err);
        check(m, buf, offset, length, qc_store_read(m->r->s, buf, length, offset, flags, &err), &err);
        if (roll(&m->seed) % 5)
            continue;
        for (unsigned i = 0; i < 6; i++) {
            choose(m, &offset, &length, &flags);
            sub_start(&x[i], m->r, offset, length, flags ? QCHAIN_STORE_META : 0);
        }
        for (unsigned i = 0; i < 6; i++) {
            while (!atomic_load(&x[i].times))
                usleep(50);
            check(m, x[i].buf, x[i].r.offset, x[i].r.length, x[i].ret, &x[i].err);
            if (atomic_load(&x[i].times) != 1)
                abort();
            free(x[i].buf);
        }
    }
    free(buf);
    return NULL;
}

static void run(bool local, uint64_t budget, uint64_t room, uint64_t *seed)
{
    struct chaos c = {.base = {local ? &chaos_local_ops : &chaos_ops, NULL}, .seed = roll(seed)};
    struct qc_pin pin = {.size = SIZE};
    struct mixer m[THREADS];
    atomic_bool over = false;
    struct rig r;

    rig_init_bare(&r, budget, room);
    pthread_mutex_init(&c.lock, NULL);
    pthread_cond_init(&c.more, NULL);
    assert_int_equal(qc_object_create(&r.o, &r.fl, r.place, &pin, &c.base, 7, HEAD, &r.err), 0);
    assert_int_equal(qc_object_store(r.o, r.slots, &r.s, &r.err), 0);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&c.thread[i], NULL, chaos_thread, &c), 0);
    for (unsigned i = 0; i < THREADS; i++) {
        m[i] = (struct mixer){.r = &r, .seed = roll(seed), .over = &over};
        assert_int_equal(pthread_create(&m[i].id, NULL, mix, &m[i]), 0);
    }
    for (int i = 0; i < 20; i++) {
        sleep_ms(RUN_MS / 2 / 20);
        qc_flights_enter(&r.fl); /* its lock */
        qc_flights_leave(&r.fl);
        atomic_store(&r.o->keep, i % 2);
    }
    for (int i = 0; i < 30000 && (atomic_load(&c.fails) == 0 || counted(&r, QC_CNT_JOINED) == 0); i++)
        sleep_ms(1); /* on a slow machine */
    atomic_store(&over, true);
    for (unsigned i = 0; i < THREADS; i++) {
        pthread_join(m[i].id, NULL);
        assert_true(m[i].good > 10);
    }
    qc_store_destroy(r.s); /* what was read ahead may still be on its way */
    r.s = NULL;
    assert_true(qc_flights_wait(&r.fl, 30));
    assert_true(c.closed);
    assert_int_equal(r.fl.under_way, 0);
    assert_int_equal(qc_block_cache_bytes(r.blocks), 0);
    assert_true(atomic_load(&c.fails) > 0);
    assert_true(counted(&r, QC_CNT_JOINED) > 0);
    pthread_mutex_lock(&c.lock);
    c.stop = true;
    pthread_cond_broadcast(&c.more);
    pthread_mutex_unlock(&c.lock);
    for (unsigned i = 0; i < 3; i++)
        pthread_join(c.thread[i], NULL);
    pthread_mutex_destroy(&c.lock);
    pthread_cond_destroy(&c.more);
    rig_finish(&r);
}

static void everything_at_once(void **unused)
{
    uint64_t seed = mem_seed((uint64_t)time(NULL));

    (void)unused;
    run(false, 6 * BLOCK, 3 * BLOCK, &seed);
    run(true, 64 * BLOCK, 32 * BLOCK, &seed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(everything_at_once)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
