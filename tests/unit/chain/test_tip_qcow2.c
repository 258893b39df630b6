/* SPDX-License-Identifier: MIT */
/* Chains whose tip is a qcow2 image that is written, against a model; qemu-img makes the images and looks at them
 * afterwards. Skipped without it. */
#include "chain/tip_tools.h"
#include "chain/queue_model.h"
#include "qcow2/writer.h"
#include "share.h"

static void shell(const char *fmt, ...)
{
    char cmd[1000];
    va_list ap;
    int at = snprintf(cmd, sizeof(cmd), "cd '%s' && ", dir);

    va_start(ap, fmt);
    vsnprintf(cmd + at, sizeof(cmd) - (size_t)at, fmt, ap);
    va_end(ap);
    if (system(cmd) != 0)
        fail_msg("%s", cmd);
}

/* What a chain is made of: options of qemu-img for the tip; the backing file's size in KiB (0: none), and format. */
struct shape {
    const char *options;
    uint64_t    size;
    unsigned    cluster;
    uint64_t    below; /* KiB */
    const char *below_format;
    uint32_t    flags;
};

static const struct shape shapes[] = {
    {"cluster_size=65536", 4 * MIB, 65536, 0, "", 0},
    {"cluster_size=65536", 4 * MIB + 512, 65536, 3000, "raw", 0},
    {"cluster_size=4096", MIB, 4096, 5000, "qcow2", 0},
    {"cluster_size=512", 700 * KIB, 512, 500, "raw", QCHAIN_OPEN_DISCARD},
    {"cluster_size=65536,compat=0.10", 3 * MIB, 65536, 4000, "qcow2", 0},
    {"cluster_size=4096,compat=0.10", MIB, 4096, 0, "", 0},
    {"cluster_size=16384,extended_l2=on", 2 * MIB + 1536, 16384, 2000, "raw", 0},
    {"cluster_size=2M", 9 * MIB, 2 << 20, 9000, "qcow2", QCHAIN_OPEN_DISCARD},
    {"cluster_size=4096,refcount_bits=64,lazy_refcounts=on", MIB, 4096, 1000, "raw", 0},
    {"cluster_size=65536,data_file=data.raw", 2 * MIB, 65536, 0, "", 0},
    {"cluster_size=65536", 4 * MIB, 65536, 3000, "raw", QCHAIN_OPEN_DIRECT},
};
#define N_SHAPES (sizeof(shapes) / sizeof(shapes[0]))

struct disk {
    const struct shape *shape;
    qchain             *c;
    unsigned char      *model;
    uint64_t            seed;
    int                 snapshots;
    unsigned char      *saved; /* of the snapshot "s" */
    uint64_t            saved_size;
};

static void reopen(struct disk *d)
{
    qchain_policy *p = qchain_policy_create();
    qchain_open_opts o;
    char path[96];

    GOOD(qchain_policy_allow(p, QCHAIN_POLICY_DATA_FILE, err));
    snprintf(path, sizeof(path), "%s/top", dir);
    qchain_open_opts_init(&o, sizeof(o));
    o.flags = QCHAIN_OPEN_WRITE | d->shape->flags;
    o.policy = p;
    GOOD(qchain_open(&d->c, NULL, path, &o, err));
    qchain_policy_destroy(p);
}

static void make_below(const struct shape *s)
{
    char path[96];
    FILE *f;

    snprintf(path, sizeof(path), "%s/below.raw", dir);
    f = fopen(path, "wb");
    for (uint64_t i = 0; i < s->below * KIB; i++)
        fputc(i / 65536 % 5 == 3 ? 0 : (int)(1 + i / 512 % 251), f);
    fclose(f);
    if (strcmp(s->below_format, "qcow2") == 0)
        shell("qemu-img convert -c -f raw -O qcow2 below.raw below");
    else
        shell("mv below.raw below");
}

static void make_disk(struct disk *d, const struct shape *s)
{
    *d = (struct disk){.shape = s, .seed = mem_seed(51)};
    if (s->below)
        make_below(s);
    shell("rm -f top data.raw; qemu-img create -q -f qcow2 -o %s %s%s%s top %llu 2>&1", s->options,
          s->below ? "-b below -F " : "", s->below_format, "", (unsigned long long)s->size);
    reopen(d);
    assert_true(qchain_size(d->c) == s->size);
    d->model = calloc(1, 18 * MIB);
    d->saved = calloc(1, 18 * MIB);
    GOOD(qchain_read(d->c, d->model, s->size, 0, 0, err));
}


static void check_disk(struct disk *d, const char *when)
{
    uint64_t size = qchain_size(d->c);
    unsigned char *got = malloc(size);

    GOOD(qchain_read(d->c, got, size, 0, 0, err));
    for (uint64_t i = 0; i < size; i++)
        if (got[i] != d->model[i])
            fail_msg("%s over %llu KiB, %llu bytes, %s: byte %llu: %u instead of %u", d->shape->options,
                     (unsigned long long)d->shape->below, (unsigned long long)size, when,
                     (unsigned long long)i, got[i], d->model[i]);
    free(got);
}

/* What qemu-img says of an image that was closed. */
static void check_image(struct disk *d, bool leaks)
{
    char path[96];
    FILE *f;

    shell("qemu-img check -f qcow2 top >check.txt 2>&1%s || { cat check.txt; false; }", leaks ? " || [ $? = 3 ]" : "");
    snprintf(path, sizeof(path), "%s/model", dir);
    f = fopen(path, "wb");
    fwrite(d->model, 1, d->shape->size, f);
    fclose(f);
}

static void end_disk(struct disk *d)
{
    GOOD(qchain_finish(d->c, err));
    qchain_close(d->c);
    check_image(d, false);
    free(d->model);
    free(d->saved);
}

static void fill_bytes(struct disk *d, unsigned char *p, uint64_t n)
{
    uint64_t v = random_next(&d->seed);

    for (uint64_t i = 0; i < n; i++)
        p[i] = (unsigned char)(v % 4 ? 1 + (v + i) % 255 : v);
}

static bool is_v2_over_backing(const struct shape *s)
{
    return strstr(s->options, "0.10") && s->below;
}

static void change(struct disk *d)
{
    static unsigned char buf[9 * 1024 * 1024];
    uint64_t size = qchain_size(d->c), cluster = d->shape->cluster, offset, length, a, b;
    int what = (int)(random_next(&d->seed) % 16);

    offset = random_next(&d->seed) % size;
    length = random_next(&d->seed) % (random_next(&d->seed) % 4 ? 9000 : 10 * cluster);
    if (random_next(&d->seed) % 2) {
        offset &= ~UINT64_C(511);
        length &= ~UINT64_C(511);
    }
    length = qc_min64(qc_min64(length, size - offset), sizeof(buf));
    a = qc_align_up(offset, cluster);
    b = offset + length == size ? size : qc_align_down(offset + length, cluster); /* the last one may be cut */
    if (what < 2) {
        GOOD(qchain_write_zeroes(d->c, length, offset, what ? QCHAIN_WRITE_UNMAP : 0, err));
        memset(d->model + offset, 0, length);
    } else if (what == 2) {
        GOOD(qchain_discard(d->c, length, offset, 0, err));
        if (a < b && !is_v2_over_backing(d->shape))
            memset(d->model + a, 0, b - a);
        else if (a < b)
            GOOD(qchain_read(d->c, d->model + a, b - a, a, 0, err));
    } else if (what == 3 && !strstr(d->shape->options, "data_file")) {
        a = qc_align_down(offset, cluster);
        b = qc_min64(size, a + (1 + random_next(&d->seed) % 4) * cluster);
        fill_bytes(d, buf, b - a);
        GOOD(qchain_write_compressed(d->c, buf, b - a, a, 0, err));
        memcpy(d->model + a, buf, b - a);
    } else if (what == 4) {
        GOOD(qchain_flush(d->c, err));
    } else {
        fill_bytes(d, buf, length);
        GOOD(qchain_write(d->c, buf, length, offset, what == 5 ? QCHAIN_WRITE_FUA : 0, err));
        memcpy(d->model + offset, buf, length);
    }
}

/* A snapshot is made, comes back, goes away. */
static void snapshots(struct disk *d)
{
    uint64_t size = qchain_size(d->c);

    if (strstr(d->shape->options, "data_file"))
        return;
    if (!d->snapshots) {
        GOOD(qchain_snapshot_create(d->c, "s", NULL, err));
        memcpy(d->saved, d->model, size);
        d->saved_size = size;
        d->snapshots = 1;
    } else if (random_next(&d->seed) % 2) {
        GOOD(qchain_snapshot_apply(d->c, "s", err));
        memcpy(d->model, d->saved, size);
    } else {
        GOOD(qchain_snapshot_delete(d->c, "s", err));
        d->snapshots = 0;
    }
}

static void random_changes_follow_the_model(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < N_SHAPES; i++) {
        struct disk d;

        make_disk(&d, &shapes[i]);
        for (unsigned round = 1; round <= share(300); round++) {
            change(&d);
            if (round % 40 == 0)
                snapshots(&d);
            if (round % 25 == 0)
                check_disk(&d, "open");
            if (round % 75)
                continue;
            GOOD(qchain_finish(d.c, err));
            qchain_close(d.c);
            check_image(&d, false);
            reopen(&d);
            check_disk(&d, "opened again");
        }
        end_disk(&d);
        shell("qemu-img compare -q -f raw -F qcow2 model top");
    }
}

/* Short ranges of zeros, from any byte, over the borders of clusters that hold data. */
static void zeros_begin_at_any_byte(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < N_SHAPES; i++) {
        uint64_t cluster = shapes[i].cluster, size = qc_min64(shapes[i].size, 16 * cluster);
        struct disk d;

        make_disk(&d, &shapes[i]);
        fill_bytes(&d, d.model, size);
        /* From the last to the first, so that they do not lie one behind the other. */
        for (uint64_t at = (size - 1) / cluster * cluster, n = 1; n; at -= cluster) {
            n = at;
            GOOD(qchain_write(d.c, d.model + at, qc_min64(cluster, size - at), at, 0, err));
        }
        for (uint64_t at = cluster; at + 1024 < size; at += cluster) {
            uint64_t offset = at - random_next(&d.seed) % 512, length = 1 + random_next(&d.seed) % 1023;

            GOOD(qchain_write_zeroes(d.c, length, offset, QCHAIN_WRITE_UNMAP, err));
            memset(d.model + offset, 0, length);
        }
        check_disk(&d, "with zeros");
        end_disk(&d);
    }
}

static void resizing_hides_what_is_below(void **unused)
{
    (void)unused;
    for (size_t i = 0; i < N_SHAPES; i++) {
        static const unsigned tenths[] = {13, 7, 18, 2, 10};
        struct disk d;
        uint64_t old;

        make_disk(&d, &shapes[i]);
        for (size_t k = 0; k < sizeof(tenths) / sizeof(tenths[0]); k++) {
            uint64_t size = shapes[i].size / 10 * tenths[k] / 512 * 512;

            old = qchain_size(d.c);
            for (int n = 0; n < 10; n++)
                change(&d);
            GOOD(qchain_resize(d.c, size, QCHAIN_RESIZE_SHRINK, err));
            if (size < old)
                memset(d.model + size, 0, 18 * MIB - size);
            check_disk(&d, "resized");
        }
        end_disk(&d);
    }
}

static void the_vm_state_lies_behind_the_disk(void **unused)
{
    char got[70000];
    struct disk d;

    (void)unused;
    make_disk(&d, &shapes[1]);
    GOOD(qchain_vmstate_read(d.c, got, sizeof(got), 0, err));
    assert_true(qc_is_zero(got, sizeof(got)));
    GOOD(qchain_vmstate_write(d.c, "state", 5, 65533, err));
    GOOD(qchain_vmstate_read(d.c, got, sizeof(got), 0, err));
    assert_true(memcmp(got + 65533, "state", 5) == 0 && qc_is_zero(got, 65533));
    check_disk(&d, "with a VM state");
    end_disk(&d);
}

/* -------------------------------------------------------------------- threads --- */

#define SECTORS 2048
#define WRITERS 5

struct stamp {
    uint64_t sector, writer, turn;
    uint64_t pad[61];
};

struct crowd {
    qchain     *c;
    atomic_bool stop;
    bool        mix; /* discards, too */
    uint64_t    last[WRITERS][SECTORS];
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

    for (uint64_t turn = 1; turn < 300 + share(700); turn++) {
        uint64_t first = random_next(&m->seed) % SECTORS, n = 1 + random_next(&m->seed) % 40;

        n = qc_min64(n, SECTORS - first);
        memset(buf, (int)turn, n * sizeof(*buf));
        for (uint64_t i = 0; i < n; i++) {
            buf[i].sector = first + i;
            buf[i].writer = m->number;
            buf[i].turn = turn;
            w->last[m->number][first + i] = turn;
        }
        if (qchain_write(w->c, buf, n * 512, first * 512, 0, NULL) != 0 ||
            (m->number == 1 && turn % 50 == 0 && qchain_flush(w->c, NULL) != 0) ||
            (m->number == 0 && turn == 500 && qchain_snapshot_create(w->c, "t", NULL, NULL) != 0))
            abort();
    }
    free(buf);
    return NULL;
}

static void many_writers_to_the_same_clusters(void **unused)
{
    static const struct shape list[] = {
        {"cluster_size=65536", SECTORS * 512, 65536, 500, "raw", 0},
        {"cluster_size=4096", SECTORS * 512, 4096, 500, "qcow2", 0},
        {"cluster_size=16384,extended_l2=on", SECTORS * 512, 16384, 500, "raw", 0},
    };

    (void)unused;
    for (size_t k = 0; k < 3; k++) {
        struct crowd *w = calloc(1, sizeof(*w));
        struct member m[WRITERS];
        struct disk d;
        struct stamp s;

        make_disk(&d, &list[k]);
        w->c = d.c;
        for (uint64_t i = 0; i < WRITERS; i++) {
            m[i] = (struct member){.crowd = w, .number = i, .seed = 77 + i};
            pthread_create(&m[i].thread, NULL, write_stamps, &m[i]);
        }
        for (uint64_t i = 0; i < WRITERS; i++)
            pthread_join(m[i].thread, NULL);
        for (uint64_t i = 0; i < SECTORS; i++) {
            GOOD(qchain_read(d.c, &s, 512, i * 512, 0, err));
            assert_true(s.sector == i && s.writer < WRITERS);
            assert_true(s.turn == w->last[s.writer][i]);
        }
        free(w);
        end_disk(&d);
    }
}

/* What is read in 4 KiB pieces belongs to its address, though clusters are given up, written anew, made zero and
 * flushed, so that their places are used by others all the time. */
static void *give_up_and_write(void *arg)
{
    struct member *m = arg;
    struct crowd *w = m->crowd;
    struct stamp s[8];

    while (!atomic_load(&w->stop)) {
        uint64_t block = random_next(&m->seed) % (SECTORS / 8), other = random_next(&m->seed) % (SECTORS / 8);

        for (uint64_t i = 0; i < 8; i++)
            s[i] = (struct stamp){.sector = block * 8 + i, .writer = 99};
        if (qchain_write(w->c, s, sizeof(s), block * 4096, 0, NULL) != 0 ||
            qchain_discard(w->c, 4096, other * 4096, 0, NULL) != 0)
            abort();
        if (random_next(&m->seed) % 4 == 0 && qchain_flush(w->c, NULL) != 0)
            abort();
    }
    return NULL;
}

static uint64_t look_for_strangers(void)
{
    static const struct shape shape = {"cluster_size=4096", SECTORS * 512, 4096, 0, "", QCHAIN_OPEN_UNSAFE};
    enum { DEPTH = 32 };
    struct crowd *w = calloc(1, sizeof(*w));
    struct stamp(*s)[8] = aligned_alloc(4096, DEPTH * 4096);
    uint64_t strangers = 0, block[DEPTH], seed = 5;
    qchain_completion done[DEPTH];
    struct member m[2];
    qchain_queue *q;
    struct disk d;
    int n;

    make_disk(&d, &shape);
    q = make_queue(d.c, DEPTH);
    w->c = d.c;
    for (uint64_t i = 0; i < 2; i++) {
        m[i] = (struct member){.crowd = w, .number = i, .seed = 7 + i};
        pthread_create(&m[i].thread, NULL, give_up_and_write, &m[i]);
    }
    for (unsigned round = 0; round < share(1500); round++) {
        for (int i = 0; i < DEPTH; i++) {
            block[i] = random_next(&seed) % (SECTORS / 8);
            GOOD(qchain_queue_read(q, s[i], 4096, block[i] * 4096,
                                   i + 1 < DEPTH ? QCHAIN_REQUEST_MORE : 0, s[i], err));
        }
        for (int got = 0; got < DEPTH; got += n) {
            n = qchain_queue_reap(q, done, 1, DEPTH, 20000);
            for (int i = 0; i < n; i++)
                assert_int_equal(done[i].result, 0);
        }
        for (int i = 0; i < DEPTH; i++)
            for (uint64_t k = 0; k < 8; k++)
                strangers += s[i][k].writer != 0 && s[i][k].sector != block[i] * 8 + k;
    }
    atomic_store(&w->stop, true);
    for (uint64_t i = 0; i < 2; i++)
        pthread_join(m[i].thread, NULL);
    qchain_queue_destroy(q);
    end_disk(&d);
    free(w);
    free(s);
    return strangers;
}

static void reads_never_see_another_address(void **unused)
{
    (void)unused;
    assert_true(look_for_strangers() == 0);
}

/* A read that was looked up, but has not gone to the kernel yet, while its place is given up, and others are
 * written once that is on the medium. */
static bool sees_a_stranger(int broken, bool *held)
{
    static const struct shape shape = {"cluster_size=4096", MIB, 4096, 0, "", 0};
    unsigned char got[4096], buf[4096];
    qchain_queue *q;
    struct disk d;

    make_disk(&d, &shape);
    q = make_queue(d.c, 8);
    memset(buf, 1, sizeof(buf));
    GOOD(qchain_write(d.c, buf, 4096, 0, 0, err));
    GOOD(qchain_flush(d.c, err));
    GOOD(qchain_queue_read(q, got, 4096, 0, 0, got, err)); /* learns the file */
    reap_good(q);
    GOOD(qchain_queue_read(q, got, 4096, 0, QCHAIN_REQUEST_MORE, got, err));
    *held = strcmp(qchain_queue_engine(q), "io_uring") == 0;
    atomic_store(&qc2_test_break, broken);
    memset(buf, 2, sizeof(buf));
    GOOD(qchain_discard(d.c, 4096, 0, 0, err));
    for (uint64_t i = 1; i < 8; i++) {
        GOOD(qchain_flush(d.c, err));
        GOOD(qchain_write(d.c, buf, 4096, i * 4096, 0, err));
    }
    reap_good(q);
    atomic_store(&qc2_test_break, 0);
    memset(d.model, 0, 4096);
    memset(d.model + 4096, 2, 7 * 4096);
    qchain_queue_destroy(q);
    check_disk(&d, "after all");
    end_disk(&d);
    return got[0] == 2;
}

static void places_that_requests_use_are_not_used_anew(void **unused)
{
    bool held;

    (void)unused;
    assert_false(sees_a_stranger(0, &held));
    /* The test would see it; but threads do not hold a read back, and may have done it before. */
    assert_true(sees_a_stranger(4, &held) || !held);
}

static void requests_of_a_queue_follow_the_model(void **unused)
{
    static const struct shape list[] = {
        {"cluster_size=65536", SIZE, 65536, SIZE / 2048, "raw", 0},
        {"cluster_size=4096", SIZE, 4096, 0, "", QCHAIN_OPEN_DIRECT | QCHAIN_OPEN_DISCARD},
        {"cluster_size=16384,extended_l2=on", SIZE, 16384, 200, "raw", 0},
        {"cluster_size=512", SIZE, 512, 200, "qcow2", 0},
        {"cluster_size=4096,data_file=data.raw", SIZE, 4096, 0, "", QCHAIN_OPEN_UNSAFE},
    };

    (void)unused;
    for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++) {
        struct disk d;

        make_disk(&d, &list[i]);
        run_model(d.c, list[i].cluster, i == 1, 6000);
        GOOD(qchain_read(d.c, d.model, SIZE, 0, 0, err));
        end_disk(&d);
        shell("qemu-img compare -q -f raw -F qcow2 model top");
    }
    engine = QCHAIN_QUEUE_NO_URING;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON(random_changes_follow_the_model),
        ON(zeros_begin_at_any_byte),
        ON(resizing_hides_what_is_below),
        ON(the_vm_state_lies_behind_the_disk),
        ON(many_writers_to_the_same_clusters),
        ON(reads_never_see_another_address),
        ON(places_that_requests_use_are_not_used_anew),
        ON(requests_of_a_queue_follow_the_model),
        ON(requests_of_a_queue_follow_the_model), /* with threads */
    };

    if (system("qemu-img --version >/dev/null 2>&1") != 0)
        return 77;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
