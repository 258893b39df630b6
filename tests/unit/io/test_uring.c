/* SPDX-License-Identifier: MIT */
/* Reads through io_uring: files and their table, what is refused, waiting, the end. */
#include "io_tools.h"

#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <time.h>

#include "image_tools.h"
#include "io/uring.h"

#define FILES 40
#define SIZE (256u * 1024 + 777)

struct fixture {
    char             *dir;
    struct qc_slots  *slots;
    struct qc_fdpool *fds;
    struct qc_store  *store[FILES];
    struct qc_uring  *u;
    int               fds_before;
};

static void open_files(struct fixture *x, unsigned n, uint32_t flags)
{
    struct qc_file_opts o = file_opts(x->fds, x->slots, flags);
    char name[32], *path;

    for (unsigned i = 0; i < n; i++) {
        snprintf(name, sizeof(name), "f%u", i);
        path = scratch_path(x->dir, name);
        write_pattern(path, SIZE, i);
        assert_int_equal(qc_file_open(&x->store[i], path, &o, NULL, NULL), 0);
        qc_free(path);
    }
}

static void close_files(struct fixture *x)
{
    for (unsigned i = 0; i < FILES; i++) {
        qc_store_destroy(x->store[i]);
        x->store[i] = NULL;
    }
}

static int setup(void **state)
{
    struct fixture *x = calloc(1, sizeof(*x));

    x->dir = make_scratch();
    x->fds_before = count_fds();
    x->slots = qc_slots_create();
    x->fds = qc_fdpool_create(16, x->slots);
    x->u = qc_uring_create(64, FILES);
    *state = x;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *x = *state;

    qc_uring_destroy(x->u);
    close_files(x);
    qc_fdpool_destroy(x->fds);
    qc_slots_destroy(x->slots);
    assert_int_equal(count_fds(), x->fds_before);
    drop_scratch(x->dir);
    free(x);
    return 0;
}

static struct fixture *need_ring(void **state)
{
    struct fixture *x = *state;

    if (!x->u)
        skip();
    return x;
}

static struct qc_uring_read *reap_one(struct qc_uring *u)
{
    struct qc_uring_read *r;

    while (!(r = qc_uring_reap(u)))
        qc_uring_wait(u, -1, -1);
    return r;
}

static uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static bool readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, 0) == 1;
}

static void reads_are_what_the_files_hold(void **state)
{
    struct fixture *x = need_ring(state);
    static uint8_t buf[32][9000];
    struct qc_uring_read r[32];
    uint64_t seed = 1, at[32];
    unsigned file[32], k;
    size_t len[32];
    qchain_iov iov[32][3];

    open_files(x, 8, QC_FILE_NO_LOCK);
    for (int round = 0; round < 30; round++) {
        for (unsigned i = 0; i < 32; i++) {
            file[i] = random_next(&seed) % 8;
            len[i] = 1 + random_next(&seed) % 9000;
            at[i] = random_next(&seed) % (SIZE - len[i]);
            r[i] = (struct qc_uring_read){.user = &r[i]};
            iov[i][0] = (qchain_iov){buf[i], len[i] / 3};
            iov[i][1] = (qchain_iov){buf[i] + len[i] / 3, 0};
            iov[i][2] = (qchain_iov){buf[i] + len[i] / 3, len[i] - len[i] / 3};
            memset(buf[i], 0, sizeof(buf[i]));
            if (i % 2)
                assert_true(qc_uring_prepare(x->u, &r[i], x->store[file[i]], file[i], buf[i],
                                             len[i], at[i]));
            else
                assert_true(qc_uring_preparev(x->u, &r[i], x->store[file[i]], file[i], iov[i], 3,
                                              len[i], at[i]));
        }
        assert_int_equal(qc_uring_unsubmitted(x->u), 32);
        assert_null(qc_uring_reap(x->u));
        qc_uring_submit(x->u);
        assert_int_equal(qc_uring_unsubmitted(x->u), 0);
        for (unsigned i = 0; i < 32; i++) {
            struct qc_uring_read *got = reap_one(x->u);

            assert_ptr_equal(got->user, got);
            k = (unsigned)(got - r);
            assert_in_range(k, 0, 31);
            got->user = NULL; /* each comes out once */
            assert_int_equal(got->length, len[k]);
            assert_int_equal(got->result, len[k]);
            assert_true(is_pattern(buf[k], len[k], at[k], file[k]));
        }
        assert_null(qc_uring_reap(x->u));
    }
}

/* More than the submission ring holds at once goes to the kernel on the way; more than
 * the depth is refused. */
static void depth_is_the_limit(void **state)
{
    struct fixture *x = need_ring(state);
    struct qc_uring *u = qc_uring_create(200, FILES);
    struct qc_uring_read r[201];
    static uint8_t buf[201][64];
    unsigned n = 0;

    open_files(x, 1, QC_FILE_NO_LOCK);
    assert_non_null(u);
    for (unsigned i = 0; i < 200; i++)
        assert_true(qc_uring_prepare(u, &r[i], x->store[0], 0, buf[i], 64, i * 64));
    assert_false(qc_uring_prepare(u, &r[200], x->store[0], 0, buf[200], 64, 0));
    qc_uring_submit(u);
    assert_non_null(reap_one(u));
    assert_true(qc_uring_prepare(u, &r[200], x->store[0], 0, buf[200], 64, 200 * 64));
    for (n = 0; n < 200; n++)
        assert_int_equal(reap_one(u)->result, 64);
    for (unsigned i = 0; i < 201; i++)
        assert_true(is_pattern(buf[i], 64, i * 64, 0));
    qc_uring_destroy(u);
}

/* The pool holds 16; the ring what it has seen. */
static void files_stay_open_and_closed_ones_are_refused(void **state)
{
    struct fixture *x = need_ring(state);
    struct qc_uring_read r;
    uint64_t opens;
    unsigned closed = 0;
    uint8_t buf[512];

    open_files(x, FILES, QC_FILE_NO_LOCK);
    for (unsigned i = 0; i < FILES; i++) {
        memset(buf, 0, sizeof(buf));
        if (!qc_uring_prepare(x->u, &r, x->store[i], i, buf, 512, 1024)) {
            closed++;
            assert_int_equal(qc_store_read(x->store[i], buf, 512, 1024, 0, NULL), 0);
            assert_true(qc_uring_prepare(x->u, &r, x->store[i], i, buf, 512, 1024));
        }
        assert_ptr_equal(reap_one(x->u), &r);
        assert_int_equal(r.result, 512);
        assert_true(is_pattern(buf, 512, 1024, i));
    }
    assert_in_range(closed, FILES - 17, FILES);
    assert_in_range(qc_fdpool_open_count(x->fds), 1, 18);
    opens = qc_counter_sum(x->slots, QC_CNT_FILE_OPENS);
    for (unsigned i = 0; i < FILES; i++) {
        assert_true(qc_uring_prepare(x->u, &r, x->store[i], i, buf, 512, 0));
        assert_ptr_equal(reap_one(x->u), &r);
        assert_true(is_pattern(buf, 512, 0, i));
    }
    assert_int_equal(qc_counter_sum(x->slots, QC_CNT_FILE_OPENS), opens);
}

static void what_is_no_file_of_the_table_is_refused(void **state)
{
    struct fixture *x = need_ring(state);
    struct qc_uring *two = qc_uring_create(8, 2);
    struct qc_store *memory = memory_store("0123456789abcdef", 16, 16);
    struct qc_uring_read r;
    uint8_t buf[16];

    open_files(x, 3, QC_FILE_NO_LOCK);
    for (int again = 0; again < 2; again++) {
        assert_false(qc_uring_prepare(two, &r, memory, 0, buf, 16, 0));
        assert_false(qc_uring_prepare(two, &r, x->store[2], 2, buf, 16, 0));
        assert_true(qc_uring_prepare(two, &r, x->store[1], 1, buf, 16, 0));
        assert_ptr_equal(reap_one(two), &r);
    }
    assert_int_equal(qc_uring_unsubmitted(two), 0);
    qc_store_destroy(memory);
    qc_uring_destroy(two);
    assert_null(qc_uring_create(8, 0)); /* a table of none is no use */
}

static void direct_reads_are_aligned_or_refused(void **state)
{
    struct fixture *x = need_ring(state);
    const uint64_t size = SIZE;
    struct qc_uring_read r;
    uint8_t *buf;
    uint32_t memory, block;

    open_files(x, 1, QC_FILE_NO_LOCK | QC_FILE_DIRECT);
    memory = x->store[0]->limits.align_memory;
    block = x->store[0]->limits.align_offset;
    if (block <= 1)
        skip(); /* a file system without O_DIRECT */
    buf = qc_aligned(4096, 65536);
    memset(buf, 0, 65536);
    assert_true(qc_uring_prepare(x->u, &r, x->store[0], 0, buf, 8 * block, 2 * block));
    assert_ptr_equal(reap_one(x->u), &r);
    assert_int_equal(r.result, 8 * block);
    assert_true(is_pattern(buf, 8 * block, 2 * block, 0));
    assert_false(qc_uring_prepare(x->u, &r, x->store[0], 0, buf, block, 1));
    assert_false(qc_uring_prepare(x->u, &r, x->store[0], 0, buf, block - 1, 0));
    if (memory > 1)
        assert_false(qc_uring_prepare(x->u, &r, x->store[0], 0, buf + 1, block, 0));
    assert_false(qc_uring_preparev(x->u, &r, x->store[0], 0,
                                   (qchain_iov[]){{buf, block}, {buf + block, 3}}, 2, block + 3,
                                   0));
    assert_false(qc_uring_prepare(x->u, &r, x->store[0], 0, buf, size % block,
                                  size - size % block));
    qc_free(buf);
}

static void *write_later(void *arg)
{
    usleep(30000);
    assert_int_equal(eventfd_write(*(int *)arg, 1), 0);
    return NULL;
}

static void waiting_ends_by_time_and_by_the_eventfd(void **state)
{
    struct fixture *x = need_ring(state);
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_t thread;
    eventfd_t count;
    uint64_t start = now_ms();

    qc_uring_wait(x->u, -1, 0);
    assert_true(now_ms() - start < 10000);
    qc_uring_wait(x->u, -1, 40);
    assert_true(now_ms() - start >= 40);
    qc_uring_wait(x->u, fd, 40);
    assert_true(now_ms() - start >= 80);
    pthread_create(&thread, NULL, write_later, &fd);
    qc_uring_wait(x->u, fd, -1);
    pthread_join(thread, NULL);
    assert_int_equal(eventfd_read(fd, &count), 0);
    assert_true(qc_uring_watch(x->u, fd));
    assert_true(qc_uring_watch(x->u, fd));
    for (int i = 0; i < 5; i++) { /* read or not, it wakes each time */
        assert_false(readable(qc_uring_fd(x->u)));
        pthread_create(&thread, NULL, write_later, &fd);
        assert_int_equal(poll(&(struct pollfd){qc_uring_fd(x->u), POLLIN, 0}, 1, 30000), 1);
        pthread_join(thread, NULL);
        assert_true(readable(qc_uring_fd(x->u)));
        assert_null(qc_uring_reap(x->u));
        if (i % 2)
            assert_int_equal(eventfd_read(fd, &count), 0);
    }
    close(fd);
}

static void *watch_and_end(void *arg)
{
    struct fixture *x = ((void **)arg)[0];

    assert_true(qc_uring_watch(x->u, *(int *)((void **)arg)[1]));
    return NULL;
}

/* A watch that another thread began, which has ended, still works or is begun anew. */
static void a_watch_outlives_its_thread(void **state)
{
    struct fixture *x = need_ring(state);
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_t thread;

    pthread_create(&thread, NULL, watch_and_end, (void *[]){x, &fd});
    pthread_join(thread, NULL);
    for (int i = 0; i < 3; i++) {
        assert_null(qc_uring_reap(x->u));
        assert_true(qc_uring_watch(x->u, fd));
        pthread_create(&thread, NULL, write_later, &fd);
        assert_int_equal(poll(&(struct pollfd){qc_uring_fd(x->u), POLLIN, 0}, 1, 30000), 1);
        pthread_join(thread, NULL);
    }
    close(fd);
}

static void a_cancelled_read_comes_out_once(void **state)
{
    struct fixture *x = need_ring(state);
    struct qc_uring_read r;
    uint8_t buf[4096];

    open_files(x, 1, QC_FILE_NO_LOCK);
    for (int i = 0; i < 300; i++) { /* more than cancels may be in flight */
        assert_true(qc_uring_prepare(x->u, &r, x->store[0], 0, buf, 4096, 0));
        qc_uring_cancel(x->u, &r);
        assert_ptr_equal(reap_one(x->u), &r);
        assert_true(r.result == 4096 || r.result == -ECANCELED);
        assert_null(qc_uring_reap(x->u));
    }
}

/* A process that forbids itself io_uring when the ring is there already: what is behind
 * the ring's descriptor takes no reads any more. */
static void what_the_kernel_refuses_comes_out_as_failed(void **state)
{
    struct fixture *x = need_ring(state);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    struct qc_uring_read r[3];
    uint8_t buf[512];

    open_files(x, 1, QC_FILE_NO_LOCK);
    for (int i = 0; i < 2; i++)
        assert_true(qc_uring_prepare(x->u, &r[i], x->store[0], 0, buf, 512, 0));
    assert_int_equal(dup3(null, qc_uring_fd(x->u), O_CLOEXEC), qc_uring_fd(x->u));
    qc_uring_wait(x->u, -1, -1);
    for (int i = 0; i < 2; i++)
        assert_true(reap_one(x->u)->result < 0);
    assert_null(qc_uring_reap(x->u));
    assert_false(qc_uring_prepare(x->u, &r[2], x->store[0], 0, buf, 512, 0));
    assert_false(qc_uring_watch(x->u, null));
    qc_uring_wait(x->u, -1, 5);
    qc_uring_wait(x->u, null, 5);
    assert_int_equal(qc_uring_unsubmitted(x->u), 0);
    close(null);
}

/* A file that became shorter: short, or none, not an error. */
static void shrunken_files_read_short(void **state)
{
    struct fixture *x = need_ring(state);
    struct qc_uring_read r;
    uint8_t buf[8192];
    char *path;

    open_files(x, 1, QC_FILE_NO_LOCK);
    path = scratch_path(x->dir, "f0");
    assert_int_equal(truncate(path, 5000), 0);
    assert_true(qc_uring_prepare(x->u, &r, x->store[0], 0, buf, 8192, 0));
    assert_ptr_equal(reap_one(x->u), &r);
    assert_int_equal(r.result, 5000);
    assert_int_equal(r.length, 8192);
    qc_free(path);
}

/* With the ring and the store the lock bytes are gone, at once. */
static void locks_end_with_the_ring(void **state)
{
    struct fixture *x = need_ring(state);
    struct flock all = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 100, .l_len = 200};
    struct qc_uring_read r;
    struct qc_uring *u;
    uint8_t buf[512];
    char *path = scratch_path(x->dir, "f0");
    int fd;

    for (int i = 0; i < 30; i++) {
        open_files(x, 1, QC_FILE_FORMAT_LOCK);
        u = qc_uring_create(8, 1);
        fd = open(path, O_RDWR | O_CLOEXEC);
        assert_true(qc_uring_prepare(u, &r, x->store[0], 0, buf, 512, 0));
        assert_ptr_equal(reap_one(u), &r);
        assert_int_equal(fcntl(fd, F_OFD_SETLK, &all), -1);
        qc_uring_destroy(u);
        assert_int_equal(fcntl(fd, F_OFD_SETLK, &all), -1);
        close_files(x);
        assert_int_equal(fcntl(fd, F_OFD_SETLK, &all), 0);
        close(fd);
    }
    qc_free(path);
}

/* The store is told by who reaps. Written directly: what goes through the page cache is not for the
 * ring on most file systems. */
static void writes_are_what_the_file_holds(void **state)
{
    struct fixture *x = need_ring(state);
    static _Alignas(4096) uint8_t buf[8192], back[8192];
    const uint64_t far = 65536;
    struct qc_uring_read r[3];
    qchain_iov iov[2] = {{buf, 4096}, {buf + 4096, 4096}};
    qchain_error err;

    for (size_t i = 0; i < sizeof(buf); i++)
        buf[i] = (uint8_t)(i * 7 + 1);
    open_files(x, 2, QC_FILE_NO_LOCK);
    assert_false(qc_uring_prepare_write(x->u, &r[0], x->store[0], 0, buf, 4096, 0)); /* read only */
    close_files(x);
    qc_uring_destroy(x->u);
    x->u = qc_uring_create(64, FILES);
    open_files(x, 2, QC_FILE_NO_LOCK | QC_FILE_WRITE | QC_FILE_DIRECT);
    if (x->store[0]->limits.align_offset > 4096 || x->store[0]->limits.align_offset == 0) {
        close_files(x);
        skip();
    }
    assert_true(qc_uring_prepare_write(x->u, &r[0], x->store[0], 0, buf, 8192, 4096));
    assert_true(qc_uring_prepare_writev(x->u, &r[1], x->store[1], 1, iov, 2, 8192, far));
    for (int i = 0; i < 2; i++)
        assert_int_equal(reap_one(x->u)->result, 8192);
    assert_false(qc_store_is_dirty(x->store[0]));
    qc_store_wrote(x->store[0], 4096, 8192);
    qc_store_wrote(x->store[1], far, 8192);
    assert_true(qc_store_is_dirty(x->store[0]));
    assert_int_equal(qc_store_size(x->store[0]), SIZE);
    assert_int_equal(qc_store_read(x->store[0], back, 8192, 4096, 0, &err), 0);
    assert_memory_equal(back, buf, 8192);
    /* And a read by the ring of what a call wrote. */
    assert_true(qc_uring_prepare(x->u, &r[2], x->store[1], 1, back, 8192, far));
    assert_int_equal(reap_one(x->u)->result, 8192);
    assert_memory_equal(back, buf, 8192);
    assert_int_equal(qc_store_flush(x->store[1], &err), 0);
    assert_false(qc_store_is_dirty(x->store[1]));
}

static void direct_writes_are_aligned_or_refused(void **state)
{
    struct fixture *x = need_ring(state);
    struct qc_uring_read r;
    uint8_t *buf = aligned_alloc(4096, 8192);
    uint64_t block;

    open_files(x, 1, QC_FILE_NO_LOCK | QC_FILE_WRITE | QC_FILE_DIRECT);
    block = x->store[0]->limits.align_offset;
    memset(buf, 0x5a, 8192);
    if (block > 1 && block <= 4096) {
        assert_false(qc_uring_prepare_write(x->u, &r, x->store[0], 0, buf, 4096, 1));
        assert_false(qc_uring_prepare_write(x->u, &r, x->store[0], 0, buf + 1, 4096, 0));
        assert_false(qc_uring_prepare_write(x->u, &r, x->store[0], 0, buf, 100, 0));
        /* The store ends within a block, of which the rest is not its own. */
        assert_false(qc_uring_prepare_write(x->u, &r, x->store[0], 0, buf, 4096, 256 * 1024));
        assert_true(qc_uring_prepare_write(x->u, &r, x->store[0], 0, buf, 4096, 8192));
        assert_int_equal(reap_one(x->u)->result, 4096);
        memset(buf, 0, 8192);
        assert_int_equal(qc_store_read(x->store[0], buf, 4096, 8192, 0, NULL), 0);
        for (int i = 0; i < 4096; i++)
            assert_int_equal(buf[i], 0x5a);
    }
    free(buf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
#define ON(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
        ON(reads_are_what_the_files_hold),
        ON(depth_is_the_limit),
        ON(files_stay_open_and_closed_ones_are_refused),
        ON(what_is_no_file_of_the_table_is_refused),
        ON(direct_reads_are_aligned_or_refused),
        ON(waiting_ends_by_time_and_by_the_eventfd),
        ON(a_watch_outlives_its_thread),
        ON(a_cancelled_read_comes_out_once),
        ON(what_the_kernel_refuses_comes_out_as_failed),
        ON(shrunken_files_read_short),
        ON(locks_end_with_the_ring),
        ON(writes_are_what_the_file_holds),
        ON(direct_writes_are_aligned_or_refused),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
