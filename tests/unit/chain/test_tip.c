/* SPDX-License-Identifier: MIT */
/* A chain with a writable tip, against a model; the tip's format is a double. */
#define TIP_DOUBLE
#include "chain/tip_tools.h"

#define GOOD(t, call)                                                                              \
    do {                                                                                           \
        if ((call) != 0)                                                                           \
            fail_msg("%s", qchain_error_message((t)->err));                                        \
    } while (0)

static void check_all(struct tip_chain *t, const unsigned char *model)
{
    uint64_t size = qchain_size(t->c);
    unsigned char *got = malloc(size + 1);

    memset(got, 0xee, size);
    GOOD(t, qchain_read(t->c, got, size, 0, 0, t->err));
    for (uint64_t i = 0; i < size; i++)
        if (got[i] != model[i])
            fail_msg("byte %llu: %u instead of %u", (unsigned long long)i, got[i], model[i]);
    free(got);
}

/* The map covers all, and what it calls zero is. */
static void check_map(struct tip_chain *t, const unsigned char *model, uint32_t max)
{
    uint64_t size = qchain_size(t->c), next = 0, at = 0;
    qchain_extent e[64];
    uint32_t n;

    while (next < size) {
        GOOD(t, qchain_map(t->c, next, UINT64_MAX, e, max, &n, &next, 0, t->err));
        for (uint32_t i = 0; i < n; i++) {
            assert_true(e[i].offset == at && e[i].length > 0);
            at += e[i].length;
            if (e[i].flags & QCHAIN_EXTENT_ZERO)
                assert_true(qc_is_zero(model + e[i].offset, e[i].length));
            else if (e[i].layer == 0)
                assert_memory_equal(t->top->p + e[i].host_offset, model + e[i].offset, e[i].length);
            else
                assert_memory_equal(t->below->p + e[i].host_offset, model + e[i].offset, e[i].length);
        }
    }
    assert_true(at == size);
}

static void fill_random(unsigned char *p, size_t n, uint64_t *seed)
{
    uint64_t v = random_next(seed);

    for (size_t i = 0; i < n; i++)
        p[i] = (unsigned char)(1 + (v + i) % 255);
}

/* One random change of the disk and the model. */
static void change(struct tip_chain *t, unsigned char *model, uint64_t *seed, uint64_t cluster)
{
    static unsigned char buf[600 * 1024];
    uint64_t size = qchain_size(t->c), offset, length, a, b;
    qchain_iov iov[100];
    uint32_t n = 0;

    offset = random_next(seed) % size;
    length = random_next(seed) % (random_next(seed) % 4 ? 9000 : 500000);
    if (random_next(seed) % 2) {
        offset &= ~UINT64_C(511);
        length &= ~UINT64_C(511);
    }
    length = qc_min64(length, size - offset);
    switch (random_next(seed) % 10) {
    case 0:
    case 1:
        GOOD(t, qchain_write_zeroes(t->c, length, offset,
                                    random_next(seed) % 2 ? QCHAIN_WRITE_UNMAP : 0, t->err));
        memset(model + offset, 0, length);
        break;
    case 2:
        GOOD(t, qchain_discard(t->c, length, offset, 0, t->err));
        a = qc_align_up(offset, cluster);
        b = offset + length == size ? size : qc_align_down(offset + length, cluster);
        if (a < b)
            memset(model + a, 0, b - a);
        break;
    case 3:
        GOOD(t, qchain_snapshot_create(t->c, "s", NULL, t->err));
        break;
    case 4:
    case 5:
        fill_random(buf, length, seed);
        for (uint64_t at = 0; at < length && n < 100; n++) {
            iov[n] = (qchain_iov){buf + at, n == 99 ? length - at : qc_min64(random_next(seed) % 9000,
                                                                              length - at)};
            at += iov[n].len;
        }
        GOOD(t, qchain_writev(t->c, iov, n, offset, 0, t->err));
        memcpy(model + offset, buf, length);
        break;
    default:
        fill_random(buf, length, seed);
        GOOD(t, qchain_write(t->c, buf, length, offset,
                             random_next(seed) % 16 ? 0 : QCHAIN_WRITE_FUA, t->err));
        memcpy(model + offset, buf, length);
    }
}

/* Sizes of disk and backing file, clusters. */
static const struct {
    uint64_t size, below;
    unsigned bits;
} shapes[] = {
    {MIB, MIB, 12},           {MIB + 512, 0, 12},      {700 * 1024, 300 * 1024 + 512, 16},
    {512 * 1024, 2 * MIB, 9}, {MIB + 1536, 700 * 512, 18},
};

static void random_writes_read_as_the_model(void **unused)
{
    uint64_t seed = mem_seed(31);

    (void)unused;
    for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
        struct tip_chain t;
        unsigned char *model;

        double_zero_kept = i % 2;
        tip_open(&t, shapes[i].size, shapes[i].bits, shapes[i].below, 0);
        model = tip_model(&t, shapes[i].size);
        check_all(&t, model);
        for (int round = 0; round < 250; round++) {
            change(&t, model, &seed, UINT64_C(1) << shapes[i].bits);
            if (round % 10 == 0)
                check_all(&t, model);
            if (round % 50 == 0)
                check_map(&t, model, round % 100 ? 1 : 64);
        }
        check_all(&t, model);
        GOOD(&t, qchain_finish(t.c, t.err));
        assert_int_equal(qchain_write(t.c, "x", 1, 0, 0, NULL), QCHAIN_E_READONLY);
        free(model);
        tip_close(&t);
    }
}

/* A cluster is filled up from below by one read and one write; what the write covers need not be readable. */
static void clusters_are_filled_at_one_go(void **unused)
{
    unsigned char *model, data[4096];
    struct tip_chain t;
    int before;

    (void)unused;
    memset(data, 0x5a, sizeof(data));
    tip_open(&t, MIB, 16, MIB, 0);
    model = tip_model(&t, MIB);
    check_all(&t, model);
    before = t.below->calls;
    for (unsigned i = 0; i < 4; i++) {
        int writes = t.top->writes;

        GOOD(&t, qchain_write(t.c, data, sizeof(data), i * 65536 + 8192, 0, t.err));
        memcpy(model + i * 65536 + 8192, data, sizeof(data));
        assert_int_equal(t.top->writes - writes, 1);
    }
    assert_int_equal(t.below->calls - before, 4);
    t.below->bad = 5 * 65536 + 8192;
    t.below->bad_end = t.below->bad + 512;
    GOOD(&t, qchain_write(t.c, data, sizeof(data), t.below->bad, 0, t.err));
    memcpy(model + t.below->bad, data, sizeof(data));
    check_all(&t, model);
    t.below->bad = 6 * 65536;
    t.below->bad_end = t.below->bad + 512;
    assert_int_equal(qchain_write(t.c, data, sizeof(data), t.below->bad + 8192, 0, t.err), QCHAIN_E_IO);
    free(model);
    tip_close(&t);
}

static void a_diff_tells_what_the_tip_holds(void **unused)
{
    struct tip_chain t;
    qchain_extent e[8];
    uint64_t next;
    uint32_t n;

    (void)unused;
    tip_open(&t, MIB, 12, MIB, 0);
    GOOD(&t, qchain_write(t.c, "x", 1, 8192 + 5, 0, t.err));
    GOOD(&t, qchain_write_zeroes(t.c, 4096, 65536, 0, t.err));
    GOOD(&t, qchain_diff(t.c, 1, 0, 0, MIB, e, 8, &n, &next, 0, t.err));
    assert_int_equal(n, 2);
    assert_true(next == MIB);
    assert_true(e[0].offset == 8192 && e[0].length == 4096 && e[0].flags & QCHAIN_EXTENT_DATA);
    assert_true(e[1].offset == 65536 && e[1].length == 4096 && e[1].flags & QCHAIN_EXTENT_ZERO);
    GOOD(&t, qchain_diff(t.c, 2, 1, 0, MIB, e, 8, &n, &next, 0, t.err));
    assert_int_equal(n, 1);
    tip_close(&t);
}

/* A longer backing file never shows again, whichever way the disk grows. */
static void resizing_over_a_longer_backing_file(void **unused)
{
    static const uint64_t sizes[] = {300 * 1024 + 512, 310 * 1024, MIB, 200 * 1024, MIB + 512, 512, 3 * MIB / 2};
    unsigned char *model;
    struct tip_chain t;
    uint64_t old, seed = mem_seed(32);

    (void)unused;
    tip_open(&t, 300 * 1024, 14, MIB, 0);
    model = calloc(1, 2 * MIB);
    memcpy(model, t.below->p, 300 * 1024);
    old = 300 * 1024;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        if (sizes[i] < old) {
            assert_int_equal(qchain_resize(t.c, sizes[i], 0, t.err), QCHAIN_E_INVAL);
            memset(model + sizes[i], 0, 2 * MIB - sizes[i]);
        }
        GOOD(&t, qchain_resize(t.c, sizes[i], QCHAIN_RESIZE_SHRINK, t.err));
        assert_true(qchain_size(t.c) == sizes[i]);
        check_all(&t, model);
        check_map(&t, model, 64);
        for (int k = 0; k < 5; k++)
            change(&t, model, &seed, 1 << 14);
        check_all(&t, model);
        old = sizes[i];
    }
    assert_int_equal(qchain_resize(t.c, 100, QCHAIN_RESIZE_SHRINK, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qchain_write(t.c, "x", 1, 2 * MIB, 0, NULL), QCHAIN_E_RANGE);
    free(model);
    tip_close(&t);
}

static void the_vm_state_area_lies_behind_the_disk(void **unused)
{
    unsigned char got[9000], *model;
    struct tip_chain t;

    (void)unused;
    tip_open(&t, 300 * 1024 + 512, 14, MIB, 0);
    model = tip_model(&t, 300 * 1024 + 512);
    GOOD(&t, qchain_vmstate_read(t.c, got, sizeof(got), 100, t.err));
    assert_true(qc_is_zero(got, sizeof(got)));
    GOOD(&t, qchain_vmstate_write(t.c, "state", 5, 4321, t.err));
    GOOD(&t, qchain_vmstate_read(t.c, got, sizeof(got), 0, t.err));
    assert_memory_equal(got + 4321, "state", 5);
    assert_true(qc_is_zero(got, 4321) && qc_is_zero(got + 4326, sizeof(got) - 4326));
    check_all(&t, model);
    assert_int_equal(qchain_vmstate_write(t.c, "x", 1, INT64_MAX, t.err), QCHAIN_E_RANGE);
    free(model);
    tip_close(&t);
}

/* --------------------------------------------------------------------- faults --- */

/* The sectors that a failed change may have touched hold old or new bytes, all others are as they were. */
static void after_any_failure_the_rest_is_as_it_was(void **unused)
{
    enum { SIZE = 128 * 1024 };
    uint64_t seed = mem_seed(33);
    unsigned char *model, *was, *got = malloc(SIZE), buf[20000];

    (void)unused;
    for (int k = 1; k < 120; k++) {
        struct tip_chain t;
        bool failed = false;

        tip_open(&t, SIZE, 12, 100 * 1024, 0);
        model = tip_model(&t, SIZE);
        atomic_store(&t.top->calls, 0);
        atomic_store(&t.top->fail_at, k % 2 ? k / 2 + 1 : 0);
        atomic_store(&double_fail_finish, k % 2 ? 0 : k / 2);
        for (int i = 0; i < 60 && !failed; i++) {
            uint64_t offset = random_next(&seed) % SIZE;
            uint64_t length = qc_min64(random_next(&seed) % sizeof(buf), SIZE - offset);

            was = malloc(SIZE);
            memcpy(was, model, SIZE);
            if (i % 5 == 4) {
                memset(buf, 0, length);
                failed = qchain_write_zeroes(t.c, length, offset, 0, t.err) != 0;
            } else {
                fill_random(buf, length, &seed);
                failed = qchain_write(t.c, buf, length, offset, 0, t.err) != 0;
            }
            memcpy(model + offset, buf, length);
            if (i % 7 == 6 && !failed)
                failed = qchain_snapshot_create(t.c, "s", NULL, NULL) != 0;
            if (failed) {
                atomic_store(&double_fail_finish, 0);
                GOOD(&t, qchain_read(t.c, got, SIZE, 0, 0, t.err));
                for (uint64_t b = 0; b < SIZE; b++)
                    assert_true(got[b] == model[b] || got[b] == was[b]);
            }
            free(was);
        }
        atomic_store(&double_fail_finish, 0);
        atomic_store(&t.top->fail_at, 0);
        free(model);
        tip_close(&t);
    }
    free(got);
}

static void what_cannot_be_written_says_so(void **unused)
{
    struct rw_store *s = rw_create(MIB);
    qchain_store store = rw_store_of(s);
    qchain_store_ops ops = *store.ops;
    qchain_open_opts o;
    qchain *c;

    (void)unused;
    qchain_open_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_OPEN_WRITE;
    o.format = "raw";
    o.store = &store;
    ops.pwrite = NULL;
    store.ops = &ops;
    assert_int_equal(qchain_open(&c, NULL, "x", &o, NULL), QCHAIN_E_READONLY);
    store = rw_store_of(s);
    o.flags = 0;
    assert_int_equal(qchain_open(&c, NULL, "x", &o, NULL), 0);
    assert_int_equal(qchain_write(c, "x", 1, 0, 0, NULL), QCHAIN_E_READONLY);
    assert_int_equal(qchain_write_zeroes(c, 1, 0, 0, NULL), QCHAIN_E_READONLY);
    assert_int_equal(qchain_discard(c, 1, 0, 0, NULL), QCHAIN_E_READONLY);
    assert_int_equal(qchain_write_compressed(c, "x", 1, 0, 0, NULL), QCHAIN_E_READONLY);
    assert_int_equal(qchain_flush(c, NULL), QCHAIN_E_READONLY);
    assert_int_equal(qchain_finish(c, NULL), QCHAIN_E_READONLY);
    assert_int_equal(qchain_resize(c, MIB, 0, NULL), QCHAIN_E_READONLY);
    assert_int_equal(qchain_drain(c, NULL), QCHAIN_E_READONLY);
    assert_int_equal(qchain_snapshot_create(c, "s", NULL, NULL), QCHAIN_E_READONLY);
    assert_int_equal(qchain_vmstate_read(c, &o, 1, 0, NULL), QCHAIN_E_READONLY);
    qchain_resume(c);
    qchain_close(c);
    rw_destroy(s);
}

/* -------------------------------------------------------------------- threads --- */

#define SECTORS 512
#define WRITERS 6

/* A sector tells where it belongs, who wrote it and when. */
struct stamp {
    uint64_t sector, writer, turn;
    uint64_t pad[61];
};

struct crowd {
    struct tip_chain *t;
    atomic_bool       stop;
    uint64_t          last[WRITERS][SECTORS]; /* turn of each writer's last write */
    bool              apart;                  /* writers keep to sectors of their own */
};

struct member {
    pthread_t     thread;
    struct crowd *crowd;
    uint64_t      number, seed;
};

static void *write_stamps(void *arg)
{
    struct member *m = arg;
    struct crowd *w = m->crowd;
    struct stamp *buf = malloc(40 * sizeof(*buf));

    for (uint64_t turn = 1; turn < 800; turn++) {
        uint64_t first = random_next(&m->seed) % SECTORS, n = 1 + random_next(&m->seed) % 40;

        n = qc_min64(n, SECTORS - first);
        if (w->apart) {
            first = (first / WRITERS * WRITERS + m->number) % SECTORS;
            n = 1;
        }
        memset(buf, (int)turn, n * sizeof(*buf));
        for (uint64_t i = 0; i < n; i++) {
            buf[i].sector = first + i;
            buf[i].writer = m->number;
            buf[i].turn = turn;
            w->last[m->number][first + i] = turn;
        }
        if (qchain_write(w->t->c, buf, n * 512, first * 512, 0, NULL) != 0)
            abort();
        if (m->number == 0 && turn % 100 == 0 && qchain_snapshot_create(w->t->c, "s", NULL, NULL) != 0)
            abort();
    }
    free(buf);
    return NULL;
}

static void many_writers(bool apart)
{
    struct tip_chain t;
    struct crowd *w = calloc(1, sizeof(*w));
    struct member m[WRITERS];
    struct stamp s;

    tip_open(&t, SECTORS * 512, 14, SECTORS * 256, 0);
    t.top->delay_us = 1;
    w->t = &t;
    w->apart = apart;
    for (uint64_t i = 0; i < WRITERS; i++) {
        m[i] = (struct member){.crowd = w, .number = i, .seed = 77 + i};
        pthread_create(&m[i].thread, NULL, write_stamps, &m[i]);
    }
    for (uint64_t i = 0; i < WRITERS; i++)
        pthread_join(m[i].thread, NULL);
    for (uint64_t i = 0; i < SECTORS; i++) {
        bool written = false;

        GOOD(&t, qchain_read(t.c, &s, 512, i * 512, 0, t.err));
        for (uint64_t k = 0; k < WRITERS; k++)
            written |= w->last[k][i] != 0;
        if (!written)
            continue;
        assert_true(s.sector == i && s.writer < WRITERS);
        assert_true(s.turn == w->last[s.writer][i]);
    }
    free(w);
    tip_close(&t);
}

static void many_writers_to_the_same_clusters(void **unused)
{
    (void)unused;
    many_writers(false);
    many_writers(true);
}

/* Readers never see what belongs to another address, though places are given up and used anew all the time. */
static void *write_and_give_up(void *arg)
{
    struct member *m = arg;
    struct crowd *w = m->crowd;
    struct stamp s[8];

    while (!atomic_load(&w->stop)) {
        uint64_t block = random_next(&m->seed) % (SECTORS / 8);

        for (uint64_t i = 0; i < 8; i++)
            s[i] = (struct stamp){.sector = block * 8 + i, .writer = 99};
        if (qchain_write(w->t->c, s, sizeof(s), block * 4096, 0, NULL) != 0 ||
            qchain_discard(w->t->c, 4096, random_next(&m->seed) % (SECTORS / 8) * 4096, 0, NULL) != 0)
            abort();
    }
    return NULL;
}

static uint64_t look_for_strangers(int rounds)
{
    struct tip_chain t;
    struct crowd *w = calloc(1, sizeof(*w));
    uint64_t seed = mem_seed(34), strangers = 0;
    struct member m[2];
    struct stamp s[8];

    tip_open(&t, SECTORS * 512, 12, 0, 0);
    t.top->delay_us = 20;
    w->t = &t;
    for (uint64_t i = 0; i < 2; i++) {
        m[i] = (struct member){.crowd = w, .number = i, .seed = 7 + i};
        pthread_create(&m[i].thread, NULL, write_and_give_up, &m[i]);
    }
    for (int i = 0; i < rounds; i++) {
        uint64_t block = random_next(&seed) % (SECTORS / 8);

        GOOD(&t, qchain_read(t.c, s, sizeof(s), block * 4096, 0, t.err));
        for (uint64_t k = 0; k < 8; k++)
            strangers += s[k].writer != 0 && s[k].sector != block * 8 + k;
    }
    atomic_store(&w->stop, true);
    for (uint64_t i = 0; i < 2; i++)
        pthread_join(m[i].thread, NULL);
    free(w);
    tip_close(&t);
    return strangers;
}

static void give_up_and_write_others(void *data)
{
    struct tip_chain *t = data;
    char buf[4096] = "stranger";

    GOOD(t, qchain_discard(t->c, 4096, 0, 0, t->err));
    for (uint64_t i = 1; i < 8; i++) { /* giving up others lets go of what nobody uses */
        GOOD(t, qchain_write(t->c, buf, sizeof(buf), i * 4096, 0, t->err));
        GOOD(t, qchain_discard(t->c, 4096, (i - 1) * 4096, 0, t->err));
    }
}

/* The place of a read is given up after it was looked up and before its bytes are read. */
static bool reads_a_stranger(void)
{
    struct tip_chain t;
    char buf[4096] = "mine";

    tip_open(&t, SECTORS * 512, 12, 0, 0);
    GOOD(&t, qchain_write(t.c, buf, sizeof(buf), 0, 0, t.err));
    t.top->before_read = give_up_and_write_others;
    t.top->before_read_data = &t;
    GOOD(&t, qchain_read(t.c, buf, sizeof(buf), 0, 0, t.err));
    tip_close(&t);
    return strcmp(buf, "stranger") == 0;
}

static void places_in_use_are_not_used_anew(void **unused)
{
    (void)unused;
    assert_true(look_for_strangers(5000) == 0);
    assert_false(reads_a_stranger());
    /* The test sees it if they are. */
    double_no_limbo = true;
    assert_true(reads_a_stranger());
    double_no_limbo = false;
}

/* ---------------------------------------------------------------------- drain --- */

struct resizer {
    struct tip_chain *t;
    pthread_t         thread;
    atomic_bool       over;
};

static void *resize(void *arg)
{
    struct resizer *r = arg;

    if (qchain_resize(r->t->c, MIB, 0, NULL) != 0)
        abort();
    atomic_store(&r->over, true);
    return NULL;
}

static void resize_meanwhile(void *data)
{
    struct resizer *r = data;
    struct timespec nap = {0, 20000000};

    pthread_create(&r->thread, NULL, resize, r);
    nanosleep(&nap, NULL);
    assert_false(atomic_load(&r->over));
}

static void who_resizes_waits_for_readers(void **unused)
{
    struct resizer r = {0};
    struct tip_chain t;
    char buf[4096] = "mine";

    (void)unused;
    tip_open(&t, SECTORS * 512, 12, 0, 0);
    r.t = &t;
    GOOD(&t, qchain_write(t.c, buf, sizeof(buf), 0, 0, t.err));
    t.top->before_read = resize_meanwhile;
    t.top->before_read_data = &r;
    GOOD(&t, qchain_read(t.c, buf, sizeof(buf), 0, 0, t.err));
    pthread_join(r.thread, NULL);
    assert_true(qchain_size(t.c) == MIB);
    tip_close(&t);
}

static void *keep_writing(void *arg)
{
    struct member *m = arg;
    struct crowd *w = m->crowd;
    char buf[3000] = "data";

    while (!atomic_load(&w->stop))
        if (qchain_write(w->t->c, buf, sizeof(buf), random_next(&m->seed) % (SECTORS * 512 - 3000), 0,
                         NULL) != 0)
            abort();
    return NULL;
}

static void while_drained_nothing_is_written(void **unused)
{
    struct tip_chain t;
    struct crowd *w = calloc(1, sizeof(*w));
    struct timespec nap = {0, 2000000};
    struct member m[3];
    char buf[512];
    int writes;

    (void)unused;
    tip_open(&t, SECTORS * 512, 12, SECTORS * 512, 0);
    w->t = &t;
    for (uint64_t i = 0; i < 3; i++) {
        m[i] = (struct member){.crowd = w, .number = i, .seed = 7 + i};
        pthread_create(&m[i].thread, NULL, keep_writing, &m[i]);
    }
    for (int i = 0; i < 30; i++) {
        nanosleep(&nap, NULL);
        GOOD(&t, qchain_drain(t.c, t.err));
        writes = t.top->writes;
        if (i % 3 == 0)
            GOOD(&t, qchain_drain(t.c, t.err));
        if (i % 3 == 1)
            GOOD(&t, qchain_resize(t.c, (SECTORS + (uint64_t)i) * 512, QCHAIN_RESIZE_SHRINK, t.err));
        writes = i % 3 == 1 ? t.top->writes : writes;
        nanosleep(&nap, NULL);
        GOOD(&t, qchain_read(t.c, buf, 512, 512, 0, t.err)); /* reads go on */
        assert_int_equal(t.top->writes, writes);
        if (i % 3 == 0)
            qchain_resume(t.c);
        nanosleep(&nap, NULL);
        assert_int_equal(t.top->writes, writes);
        qchain_resume(t.c);
    }
    atomic_store(&w->stop, true);
    for (uint64_t i = 0; i < 3; i++)
        pthread_join(m[i].thread, NULL);
    GOOD(&t, qchain_drain(t.c, t.err)); /* closing while drained is fine */
    free(w);
    tip_close(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_writes_read_as_the_model),
        cmocka_unit_test(clusters_are_filled_at_one_go),
        cmocka_unit_test(a_diff_tells_what_the_tip_holds),
        cmocka_unit_test(resizing_over_a_longer_backing_file),
        cmocka_unit_test(the_vm_state_area_lies_behind_the_disk),
        cmocka_unit_test(after_any_failure_the_rest_is_as_it_was),
        cmocka_unit_test(what_cannot_be_written_says_so),
        cmocka_unit_test(many_writers_to_the_same_clusters),
        cmocka_unit_test(places_in_use_are_not_used_anew),
        cmocka_unit_test(while_drained_nothing_is_written),
        cmocka_unit_test(who_resizes_waits_for_readers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
