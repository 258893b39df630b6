/* SPDX-License-Identifier: MIT */
/* Many files on few descriptors: closed when idle, opened again if still the same. */
#include "io_tools.h"

#include <pthread.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#include "io/file_int.h"
#include "io/store.h"

#define N_FILES 200
#define BUDGET 16
#define FILE_SIZE 20000u
#define N_THREADS 4
#define READS_A_THREAD 8000

struct fixture {
    char             *dir;
    struct qc_slots  *slots;
    struct qc_fdpool *fds;
    char             *path[N_FILES];
    struct qc_store  *store[N_FILES];
    int               fds_before;
    atomic_uint_fast64_t most_open;
};

static int setup(void **state)
{
    struct fixture *x = calloc(1, sizeof(*x));
    char name[16];

    x->dir = make_scratch();
    x->fds_before = count_fds();
    x->slots = qc_slots_create();
    x->fds = qc_fdpool_create(BUDGET, x->slots);
    for (int i = 0; i < N_FILES; i++) {
        struct qc_file_opts o = file_opts(x->fds, x->slots, QC_FILE_FORMAT_LOCK);

        snprintf(name, sizeof(name), "f%d", i);
        x->path[i] = scratch_path(x->dir, name);
        write_pattern(x->path[i], FILE_SIZE, (unsigned)i);
        assert_int_equal(qc_file_open(&x->store[i], x->path[i], &o, NULL, NULL), 0);
    }
    *state = x;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *x = *state;

    for (int i = 0; i < N_FILES; i++) {
        qc_store_destroy(x->store[i]);
        qc_free(x->path[i]);
    }
    qc_fdpool_destroy(x->fds);
    qc_slots_destroy(x->slots);
    assert_int_equal(count_fds(), x->fds_before);
    drop_scratch(x->dir);
    free(x);
    return 0;
}

static void read_one(struct fixture *x, unsigned i, uint64_t at, size_t n)
{
    uint8_t buf[4096];

    assert_int_equal(qc_store_read(x->store[i], buf, n, at, 0, NULL), 0);
    assert_true(is_pattern(buf, n, at, i));
}

static void keeps_the_budget(void **state)
{
    struct fixture *x = *state;

    assert_true(qc_fdpool_open_count(x->fds) <= BUDGET + BUDGET / 8 + 1);
    assert_true(count_fds() <= x->fds_before + BUDGET + BUDGET / 8 + 1);
    assert_int_equal(qc_counter_sum(x->slots, QC_CNT_FILE_OPENS), N_FILES);
    for (unsigned round = 0; round < 2; round++)
        for (unsigned i = 0; i < N_FILES; i++) {
            read_one(x, i, i * 7, 100);
            assert_true(qc_fdpool_open_count(x->fds) <= BUDGET + BUDGET / 8 + 1);
        }
    assert_int_equal(qc_counter_sum(x->slots, QC_CNT_FILE_OPENS), 3 * N_FILES);
}

/* Who is read again and again stays open while others come and go. */
static void keeps_what_is_used(void **state)
{
    struct fixture *x = *state;
    uint64_t opens;

    read_one(x, 0, 0, 100);
    opens = qc_counter_sum(x->slots, QC_CNT_FILE_OPENS);
    for (unsigned i = 1; i < N_FILES - 1; i++) {
        read_one(x, i, 0, 100);
        read_one(x, 0, 5, 100);
    }
    /* The files just opened by setup need no opening; file 0 never does. */
    assert_true(qc_counter_sum(x->slots, QC_CNT_FILE_OPENS) - opens <= N_FILES - 2);
    opens = qc_counter_sum(x->slots, QC_CNT_FILE_OPENS);
    read_one(x, 0, 0, 100);
    assert_int_equal(qc_counter_sum(x->slots, QC_CNT_FILE_OPENS), opens);
}

static uint64_t next_random(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed >> 33;
}

struct reader {
    struct fixture *x;
    uint64_t        seed;
    int             bad;
};

static void *read_at_random(void *arg)
{
    struct reader *r = arg;
    struct fixture *x = r->x;
    uint8_t buf[4096];

    for (int k = 0; k < READS_A_THREAD; k++) {
        /* Most reads hit a few files, so that hot reads meet evictions. */
        unsigned i = next_random(&r->seed) % (k % 4 ? 20 : N_FILES);
        size_t n = 1 + next_random(&r->seed) % sizeof(buf);
        uint64_t at = next_random(&r->seed) % (FILE_SIZE - n);
        uint64_t open, most = atomic_load(&x->most_open);
        qchain_iov iov[2] = {{buf, n / 2}, {buf + n / 2, n - n / 2}};
        qchain_store_extent e;

        if (k % 2 ? qc_store_read(x->store[i], buf, n, at, 0, NULL)
                  : qc_store_readv(x->store[i], iov, 2, n, at, 0, NULL))
            r->bad++;
        else if (!is_pattern(buf, n, at, i))
            r->bad++;
        if (k % 16 == 0 && (qc_store_extent(x->store[i], &e, n, at, NULL) != 0 || e.hole))
            r->bad++;
        open = qc_fdpool_open_count(x->fds);
        while (open > most && !atomic_compare_exchange_weak(&x->most_open, &most, open))
            continue;
    }
    return NULL;
}

static void serves_many_threads(void **state)
{
    struct fixture *x = *state;
    struct reader r[N_THREADS];
    pthread_t thread[N_THREADS];

    for (int i = 0; i < N_THREADS; i++) {
        r[i] = (struct reader){.x = x, .seed = (uint64_t)i + 1};
        assert_int_equal(pthread_create(&thread[i], NULL, read_at_random, &r[i]), 0);
    }
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(thread[i], NULL);
        assert_int_equal(r[i].bad, 0);
    }
    print_message("most descriptors open: %u of %u; opens: %u\n",
                  (unsigned)atomic_load(&x->most_open), BUDGET,
                  (unsigned)qc_counter_sum(x->slots, QC_CNT_FILE_OPENS));
    assert_true(atomic_load(&x->most_open) <= BUDGET + BUDGET / 8 + 2 * N_THREADS);
}

/* Read through so many files that those before are closed. */
static void push_out(struct fixture *x)
{
    for (unsigned round = 0; round < 2; round++)
        for (unsigned i = N_FILES / 2; i < N_FILES; i++)
            read_one(x, i, 0, 10);
}

static void expect_changed(struct fixture *x, unsigned i, const char *text)
{
    qchain_error err;
    uint8_t b[10];

    qc_error_init(&err);
    assert_int_equal(qc_store_read(x->store[i], b, 10, 0, 0, &err), QCHAIN_E_CHANGED);
    if (!strstr(err.text, text))
        fail_msg("\"%s\" does not say \"%s\"", err.text, text);
}

static void notices_changes_when_closed(void **state)
{
    struct fixture *x = *state;
    struct timespec later[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1700000000}};
    char *other = scratch_path(x->dir, "other");
    int fd;

    /* Same size, time and content, another inode. */
    push_out(x);
    write_pattern(other, FILE_SIZE, 7);
    assert_int_equal(rename(other, x->path[7]), 0);
    expect_changed(x, 7, "replaced");
    /* The time. */
    push_out(x);
    assert_int_equal(utimensat(AT_FDCWD, x->path[8], later, 0), 0);
    expect_changed(x, 8, "time");
    /* The size. */
    push_out(x);
    assert_int_equal(truncate(x->path[9], FILE_SIZE + 1), 0);
    expect_changed(x, 9, "20001");
    /* Gone, and something else in its place. */
    push_out(x);
    assert_int_equal(unlink(x->path[10]), 0);
    expect_changed(x, 10, "removed");
    assert_int_equal(mkfifo(x->path[10], 0644), 0);
    expect_changed(x, 10, "replaced");
    /* A change of time while it is open does not matter. */
    read_one(x, 11, 0, 10);
    assert_int_equal(utimensat(AT_FDCWD, x->path[11], later, 0), 0);
    read_one(x, 11, 0, 10);
    qc_free(other);

    /* Others were not disturbed, and nothing leaks on these paths. */
    read_one(x, 12, 0, 10);
    fd = (int)qc_fdpool_open_count(x->fds);
    assert_true(count_fds() <= x->fds_before + fd);
}

/* A reader that has loaded a descriptor may use it though the file is closed
 * meanwhile, and never reads from another file that got the same number. */
static void waits_for_readers(void **state)
{
    struct fixture *x = *state;
    struct qc_fdpool *fds = qc_fdpool_create(BUDGET, x->slots);
    struct qc_store *s[BUDGET + 1];
    struct qc_file *first = NULL;
    unsigned token = 0;
    uint8_t b[100];
    int fd = -1;

    for (int i = 0; i <= BUDGET; i++) {
        struct qc_file_opts o = file_opts(fds, x->slots, 0);

        if (i == BUDGET) { /* all are open now, and the first is the next to go */
            first = s[0]->obj;
            token = qc_epoch_enter(first->epochs);
            fd = atomic_load(&first->entry.fd);
            assert_true(fd >= 0);
        }
        assert_int_equal(qc_file_open(&s[i], x->path[i], &o, NULL, NULL), 0);
    }
    assert_int_equal(atomic_load(&first->entry.fd), -1);
    assert_int_equal(qc_fdpool_open_count(fds), BUDGET + 1);
    assert_int_equal(pread(fd, b, sizeof(b), 50), sizeof(b));
    assert_true(is_pattern(b, sizeof(b), 50, 0));
    qc_epoch_exit(first->epochs, token);
    qc_epoch_drain(first->epochs);
    assert_int_equal(qc_fdpool_open_count(fds), BUDGET);
    assert_int_equal(fcntl(fd, F_GETFD), -1);
    for (int i = 0; i <= BUDGET; i++)
        qc_store_destroy(s[i]);
    assert_int_equal(qc_fdpool_open_count(fds), 0);
    qc_fdpool_destroy(fds);
}

/* One reader hangs: others are opened and closed all the same, and what is closed
 * gives its locks back though it was evicted and waits for that reader. */
static void does_not_wait_for_one_that_hangs(void **state)
{
    struct fixture *x = *state;
    struct flock fl = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 1};
    int writer = open(x->path[0], O_RDWR | O_CLOEXEC);
    unsigned token;

    assert_true(writer >= 0);
    read_one(x, 0, 0, 10);
    token = qc_epoch_enter(qc_fdpool_epochs(x->fds)); /* what waited for it would wait for ever */
    push_out(x);
    assert_true(qc_fdpool_open_count(x->fds) > 2 * BUDGET);
    assert_int_equal(atomic_load(&((struct qc_file *)x->store[0]->obj)->entry.fd), -1);
    assert_int_equal(fcntl(writer, F_OFD_SETLK, &fl), -1); /* it waits with its lock */
    for (unsigned i = 0; i < N_FILES; i++) {
        qc_store_destroy(x->store[i]);
        x->store[i] = NULL;
        if (i == 0)
            assert_int_equal(fcntl(writer, F_OFD_SETLK, &fl), 0);
    }
    assert_int_equal(qc_fdpool_open_count(x->fds), 0);
    close(writer);
    qc_epoch_exit(qc_fdpool_epochs(x->fds), token);
}

/* Files come and go while readers make the epochs pass. */
static void *open_and_close(void *arg)
{
    struct reader *r = arg;
    struct fixture *x = r->x;
    uint8_t b[64];

    for (int k = 0; k < 1000; k++) {
        struct qc_file_opts o = file_opts(x->fds, x->slots, 0);
        unsigned i = (unsigned)(next_random(&r->seed) % N_FILES);
        struct qc_store *s[3];

        for (int n = 0; n < 3; n++)
            if (qc_file_open(&s[n], x->path[i], &o, NULL, NULL) != 0)
                return r->bad++, NULL;
        for (int n = 0; n < 3; n++) {
            if (qc_store_read(s[n], b, sizeof(b), 0, 0, NULL) || !is_pattern(b, sizeof(b), 0, i))
                r->bad++;
            qc_store_destroy(s[n]);
        }
    }
    return NULL;
}

static void closes_while_others_read(void **state)
{
    struct fixture *x = *state;
    struct reader r[N_THREADS];
    pthread_t thread[N_THREADS];

    for (int i = 0; i < N_THREADS; i++) {
        r[i] = (struct reader){.x = x, .seed = (uint64_t)i + 1};
        assert_int_equal(pthread_create(&thread[i], NULL, i % 2 ? read_at_random : open_and_close,
                                        &r[i]), 0);
    }
    for (int i = 0; i < N_THREADS; i++) {
        pthread_join(thread[i], NULL);
        assert_int_equal(r[i].bad, 0);
    }
}

/* Descriptors that the embedder gave stay open, also over the budget. */
static void pins_what_was_given(void **state)
{
    struct fixture *x = *state;
    struct qc_store *given[BUDGET + 4];
    uint8_t b[10];

    for (int i = 0; i < BUDGET + 4; i++) {
        struct qc_file_opts o = file_opts(x->fds, x->slots, 0);

        o.fd = open(x->path[i], O_RDONLY | O_CLOEXEC);
        assert_int_equal(qc_file_open(&given[i], NULL, &o, NULL, NULL), 0);
        close(o.fd);
        assert_int_equal(unlink(x->path[i]), 0);
    }
    for (unsigned i = BUDGET + 4; i < N_FILES; i++)
        read_one(x, i, 0, 10);
    for (unsigned i = 0; i < BUDGET + 4; i++) {
        assert_int_equal(qc_store_read(given[i], b, 10, 0, 0, NULL), 0);
        assert_true(is_pattern(b, 10, 0, i));
        qc_store_destroy(given[i]);
    }
    assert_true(qc_fdpool_open_count(x->fds) <= 2 * BUDGET);
}

/* The process runs out of descriptors before our budget does. */
static void gives_way_when_short(void **state)
{
    struct fixture *x = *state;
    struct qc_fdpool *roomy = qc_fdpool_create(1000, x->slots);
    struct qc_store *s[N_FILES];
    struct rlimit was, low;
    uint8_t b[10];

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    low = was;
    low.rlim_cur = (rlim_t)count_fds() + 60;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    for (unsigned i = 0; i < N_FILES; i++) {
        struct qc_file_opts o = file_opts(roomy, x->slots, 0);
        qchain_error err;

        if (qc_file_open(&s[i], x->path[i], &o, NULL, &err) != 0)
            fail_msg("file %u: %s", i, err.text);
    }
    for (unsigned i = 0; i < N_FILES; i++) {
        assert_int_equal(qc_store_read(s[i], b, 10, 0, 0, NULL), 0);
        assert_true(is_pattern(b, 10, 0, i));
    }
    assert_true(qc_fdpool_open_count(roomy) < 100);
    for (unsigned i = 0; i < N_FILES; i++)
        qc_store_destroy(s[i]);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
    qc_fdpool_destroy(roomy);
}

/* Nothing left to give back: a clear error, and all is well afterwards. */
static void fails_when_nothing_is_left(void **state)
{
    struct fixture *x = *state;
    struct qc_fdpool *fds = qc_fdpool_create(0, NULL);
    struct qc_file_opts o = file_opts(fds, NULL, 0);
    struct rlimit was, low;
    struct qc_store *s;
    qchain_error err;

    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    low = was;
    low.rlim_cur = 3;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    assert_int_equal(qc_file_open(&s, x->path[0], &o, NULL, &err), QCHAIN_E_LIMIT);
    assert_int_equal(err.sys_errno, EMFILE);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
    assert_int_equal(qc_file_open(&s, x->path[0], &o, NULL, &err), 0);
    qc_store_destroy(s);
    qc_fdpool_destroy(fds);
}

#define test(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        test(keeps_the_budget),
        test(keeps_what_is_used),
        test(serves_many_threads),
        test(notices_changes_when_closed),
        test(waits_for_readers),
        test(does_not_wait_for_one_that_hangs),
        test(closes_while_others_read),
        test(pins_what_was_given),
        test(gives_way_when_short),
        test(fails_when_nothing_is_left),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
