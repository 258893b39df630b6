/* SPDX-License-Identifier: MIT */
#include "io/uring.h"

#ifdef QC_HAVE_LIBURING

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/resource.h>

#include "io/file_int.h"
#include "util/alloc.h"
#include "util/bytes.h"

#define SQ_ENTRIES 64u       /* prepared at a time; also cancels in flight */
#define MAX_FILES 32768u     /* registered; what Linux before 5.19 allows */
#define MAX_READ 0x7ffff000u /* bytes one system call moves, at most */
#define POLL_AGAIN_MS 1      /* where waiting in the ring itself is not allowed */

/* What completions belong to that are no reads. */
#define TAG_WATCH 1u
#define TAG_CANCEL 2u

/* A file's place in the ring's table, and what O_DIRECT asks of reads of it. */
struct known_file {
    uint16_t slot;
    uint8_t  memory_bits, offset_bits; /* log2 of the alignments */
    bool     no_writes;                /* they would wait for each other */
};

enum { NOT_SEEN = 0xffff, REFUSED = 0xfffe };

struct qc_uring {
    struct io_uring       ring;
    struct known_file    *file;
    unsigned              n_files;
    unsigned              n_slots, n_used; /* of the table */
    unsigned              depth, in_flight, cancels;
    bool                  broken;   /* the kernel refuses to be entered */
    bool                  watching;
    struct qc_uring_read *failed;   /* not taken by the kernel */
};

/* ------------------------------------------------------------------ create --- */

/* Features come with kernels: these say 5.13, which also has polls that stay. */
#define NEEDED (IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG | IORING_FEAT_RSRC_TAGS)

/* One ring's memory may have been another thread's ring before. liburing calls the
 * kernel past the checkers of threads: this tells them the order. */
static atomic_uint rings_ended;

static void end_ring(struct qc_uring *u)
{
    atomic_fetch_add(&rings_ended, 1);
    io_uring_queue_exit(&u->ring);
}

static bool set_up(struct qc_uring *u, unsigned depth)
{
    /* The kernel need not interrupt this thread to tell that a read has ended: the
     * thread looks at the ring anyway. Older ones do not know that. Not
     * SINGLE_ISSUER: a queue may be made by one thread and used by another. */
    static const unsigned flags[] = {
        IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG, 0
    };
    struct io_uring_params p;

    for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
        memset(&p, 0, sizeof(p));
        p.flags = flags[i] | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
        p.cq_entries = depth + 2 * SQ_ENTRIES;
        if (io_uring_queue_init_params(SQ_ENTRIES, &u->ring, &p) != 0)
            continue;
        (void)atomic_load(&rings_ended);
        if ((p.features & NEEDED) == NEEDED && p.cq_entries > 2 * SQ_ENTRIES) {
            u->depth = (unsigned)qc_min64(depth, p.cq_entries - 2 * SQ_ENTRIES);
            return true;
        }
        end_ring(u);
        return false;
    }
    return false;
}

/* An empty table of files; what cannot be had makes the ring useless. */
static bool make_table(struct qc_uring *u, unsigned n)
{
    struct rlimit limit;
    int *none, rc;

    n = (unsigned)qc_min64(n, MAX_FILES);
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        n = (unsigned)qc_min64(n, limit.rlim_cur);
    if (n == 0)
        return false;
    u->n_slots = n;
    if (io_uring_register_files_sparse(&u->ring, n) == 0)
        return true;
    none = qc_malloc(n * sizeof(*none)); /* before 5.19 */
    if (!none)
        return false;
    memset(none, 0xff, n * sizeof(*none));
    rc = io_uring_register_files(&u->ring, none, n);
    qc_free(none);
    return rc == 0;
}

struct qc_uring *qc_uring_create(unsigned depth, unsigned n_files)
{
    struct qc_uring *u = qc_calloc(1, sizeof(*u));

    if (!u)
        return NULL;
    u->file = qc_calloc(n_files ? n_files : 1, sizeof(*u->file));
    if (!u->file || !set_up(u, depth)) {
        qc_free(u->file);
        qc_free(u);
        return NULL;
    }
    u->n_files = n_files;
    for (unsigned i = 0; i < n_files; i++)
        u->file[i].slot = NOT_SEEN;
    if (make_table(u, n_files))
        return u;
    qc_uring_destroy(u);
    return NULL;
}

void qc_uring_destroy(struct qc_uring *u)
{
    if (!u)
        return;
    /* Closing the ring lets go of files some time later; lock bytes must not stay. */
    while (io_uring_unregister_files(&u->ring) == -EINTR)
        continue;
    end_ring(u);
    qc_free(u->file);
    qc_free(u);
}

/* ------------------------------------------------------------------ submit --- */

/* The kernel did not take what is prepared: take it back. */
static void take_back(struct qc_uring *u, int error)
{
    struct io_uring_sq *sq = &u->ring.sq;
    unsigned head = *sq->khead;

    for (unsigned i = head; i != sq->sqe_tail; i++) {
        uint64_t what = sq->sqes[i & sq->ring_mask].user_data;
        struct qc_uring_read *r = (struct qc_uring_read *)(uintptr_t)what;

        if (what == TAG_WATCH) {
            u->watching = false;
        } else if (what == TAG_CANCEL) {
            u->cancels--;
        } else {
            r->result = error;
            r->next = u->failed;
            u->failed = r;
        }
    }
    sq->sqe_head = sq->sqe_tail = head;
    io_uring_smp_store_release(sq->ktail, head);
}

static void not_taken(struct qc_uring *u, int error)
{
    if (error != -EAGAIN && error != -EBUSY && error != -ENOMEM)
        u->broken = true;
    take_back(u, error);
}

bool qc_uring_submit(struct qc_uring *u)
{
    int rc;

    while (io_uring_sq_ready(&u->ring) > 0) {
        rc = io_uring_submit(&u->ring);
        if (rc <= 0 && rc != -EINTR) {
            not_taken(u, rc < 0 ? rc : -EAGAIN);
            return false;
        }
    }
    return true;
}

unsigned qc_uring_unsubmitted(const struct qc_uring *u)
{
    return io_uring_sq_ready(&u->ring);
}

bool qc_uring_has_failed(const struct qc_uring *u)
{
    return u->failed != NULL;
}

static struct io_uring_sqe *get_sqe(struct qc_uring *u)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

    if (sqe)
        return sqe;
    qc_uring_submit(u);
    return io_uring_get_sqe(&u->ring);
}

static uint8_t log2_of(uint32_t v)
{
    return v > 1 ? (uint8_t)(31 - __builtin_clz(v)) : 0;
}

/* Register a file at its first use; false if its reads, or this one, are not for us.
 * Inside the epoch its number cannot be closed; the kernel then keeps the file. */
static __attribute__((noinline)) bool learn_file(struct qc_uring *u, struct known_file *k,
                                                 const struct qc_store *store)
{
    const struct qc_file *f = qc_file_is_local(store) ? store->obj : NULL;
    unsigned token;
    int fd, rc = 1;

    if (k->slot == REFUSED)
        return false;
    if (!f || u->n_used == u->n_slots) {
        k->slot = REFUSED;
        return false;
    }
    token = qc_epoch_enter(f->epochs);
    fd = atomic_load(&f->entry.fd);
    if (fd >= 0)
        rc = io_uring_register_files_update(&u->ring, u->n_used, &fd, 1);
    qc_epoch_exit(f->epochs, token);
    if (fd < 0)
        return false; /* somebody will open it */
    if (rc != 1) {
        k->slot = REFUSED;
        return false;
    }
    k->memory_bits = log2_of(store->limits.align_memory);
    k->offset_bits = log2_of(store->limits.align_offset);
    k->no_writes = f->writes_wait;
    k->slot = (uint16_t)u->n_used++;
    return true;
}

static bool is_aligned(const struct known_file *k, const qchain_iov *iov, unsigned n_iov,
                       uint64_t offset)
{
    uint64_t memory = (UINT64_C(1) << k->memory_bits) - 1;
    uint64_t block = (UINT64_C(1) << k->offset_bits) - 1;

    if (offset & block)
        return false;
    for (unsigned i = 0; i < n_iov; i++)
        if (((uintptr_t)iov[i].base & memory) || (iov[i].len & block))
            return false;
    return true;
}

/* Where the kernel cannot do buffered writes without waiting, a ring has one worker do those of a file, one after
 * the other, each with two switches of threads: our own are faster. */
static bool takes_writes(struct qc_uring *u, unsigned file, const struct qc_store *store)
{
    struct known_file *k;

    if (file >= u->n_files)
        return false;
    k = &u->file[file];
    return (k->slot < REFUSED || learn_file(u, k, store)) && !k->no_writes;
}

/* The place for a read of a file that suits it, or NULL. */
static inline struct io_uring_sqe *place_of(struct qc_uring *u, struct qc_uring_read *r,
                                            struct qc_store *store, unsigned file,
                                            const qchain_iov *iov, unsigned n_iov,
                                            size_t length, uint64_t offset)
{
    struct io_uring_sqe *sqe;
    struct known_file *k;

    if (file >= u->n_files || u->in_flight >= u->depth || length > MAX_READ || u->broken)
        return NULL;
    k = &u->file[file];
    if (k->slot >= REFUSED && !learn_file(u, k, store))
        return NULL;
    if (k->offset_bits && !is_aligned(k, iov, n_iov, offset))
        return NULL;
    sqe = get_sqe(u);
    if (!sqe)
        return NULL;
    r->length = (uint32_t)length;
    u->in_flight++;
    return sqe;
}

static inline void finish_sqe(struct qc_uring *u, struct io_uring_sqe *sqe, unsigned file,
                              struct qc_uring_read *r)
{
    sqe->fd = u->file[file].slot;
    sqe->flags = IOSQE_FIXED_FILE;
    sqe->user_data = (uintptr_t)r;
}

bool qc_uring_prepare(struct qc_uring *u, struct qc_uring_read *r, struct qc_store *store,
                      unsigned file, void *buf, size_t length, uint64_t offset)
{
    qchain_iov iov = {buf, length};
    struct io_uring_sqe *sqe = place_of(u, r, store, file, &iov, 1, length, offset);

    if (!sqe)
        return false;
    io_uring_prep_read(sqe, -1, buf, (unsigned)length, offset);
    finish_sqe(u, sqe, file, r);
    return true;
}

bool qc_uring_preparev(struct qc_uring *u, struct qc_uring_read *r, struct qc_store *store,
                       unsigned file, const qchain_iov *iov, unsigned n_iov, size_t length,
                       uint64_t offset)
{
    struct io_uring_sqe *sqe = place_of(u, r, store, file, iov, n_iov, length, offset);

    if (!sqe)
        return false;
    io_uring_prep_readv(sqe, -1, (const struct iovec *)(const void *)iov, n_iov, offset);
    finish_sqe(u, sqe, file, r);
    return true;
}

bool qc_uring_prepare_write(struct qc_uring *u, struct qc_uring_read *r, struct qc_store *store,
                            unsigned file, const void *buf, size_t length, uint64_t offset)
{
    qchain_iov iov = {(void *)(uintptr_t)buf, length};
    struct io_uring_sqe *sqe;

    if (!takes_writes(u, file, store) || !qc_store_takes_write(store, length, offset))
        return false;
    sqe = place_of(u, r, store, file, &iov, 1, length, offset);
    if (!sqe)
        return false;
    io_uring_prep_write(sqe, -1, buf, (unsigned)length, offset);
    finish_sqe(u, sqe, file, r);
    return true;
}

bool qc_uring_prepare_writev(struct qc_uring *u, struct qc_uring_read *r, struct qc_store *store,
                             unsigned file, const qchain_iov *iov, unsigned n_iov, size_t length,
                             uint64_t offset)
{
    struct io_uring_sqe *sqe;

    if (!takes_writes(u, file, store) || !qc_store_takes_write(store, length, offset))
        return false;
    sqe = place_of(u, r, store, file, iov, n_iov, length, offset);
    if (!sqe)
        return false;
    io_uring_prep_writev(sqe, -1, (const struct iovec *)(const void *)iov, n_iov, offset);
    finish_sqe(u, sqe, file, r);
    return true;
}

void qc_uring_cancel(struct qc_uring *u, struct qc_uring_read *r)
{
    struct io_uring_sqe *sqe;

    if (u->cancels >= SQ_ENTRIES)
        return;
    qc_uring_submit(u); /* it may be among those */
    sqe = get_sqe(u);
    if (!sqe)
        return;
    io_uring_prep_cancel(sqe, r, 0);
    sqe->user_data = TAG_CANCEL;
    u->cancels++;
    qc_uring_submit(u);
}

bool qc_uring_watch(struct qc_uring *u, int eventfd)
{
    struct io_uring_sqe *sqe;

    if (u->watching)
        return true;
    sqe = u->broken ? NULL : get_sqe(u);
    if (!sqe)
        return false;
    /* One poll that stays: each write to the eventfd is one more completion. */
    io_uring_prep_poll_multishot(sqe, eventfd, POLLIN);
    sqe->user_data = TAG_WATCH;
    u->watching = true;
    qc_uring_submit(u);
    return u->watching;
}

/* -------------------------------------------------------------------- reap --- */

static struct qc_uring_read *take_failed(struct qc_uring *u)
{
    struct qc_uring_read *r = u->failed;

    u->failed = r->next;
    u->in_flight--;
    return r;
}

/* A completion; NULL if it was no read's. */
static struct qc_uring_read *take_cqe(struct qc_uring *u, const struct io_uring_cqe *cqe)
{
    struct qc_uring_read *r = NULL;

    if (cqe->user_data == TAG_WATCH) {
        if (!(cqe->flags & IORING_CQE_F_MORE)) /* the thread that began it has ended, perhaps */
            u->watching = false;
    } else if (cqe->user_data == TAG_CANCEL) {
        u->cancels--;
    } else {
        r = (struct qc_uring_read *)(uintptr_t)cqe->user_data;
        r->result = cqe->res;
        u->in_flight--;
    }
    io_uring_cq_advance(&u->ring, 1);
    return r;
}

/* The kernel has completions that it posts when it is entered. */
static bool kernel_asks(const struct qc_uring *u)
{
    return IO_URING_READ_ONCE(*u->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

struct qc_uring_read *qc_uring_reap(struct qc_uring *u)
{
    struct io_uring_cq *cq = &u->ring.cq;
    struct qc_uring_read *r = NULL;
    bool asked = false;
    unsigned head;

    if (u->failed)
        return take_failed(u);
    while (!r) {
        head = *cq->khead;
        if (head == io_uring_smp_load_acquire(cq->ktail)) {
            if (asked || !kernel_asks(u))
                return NULL;
            io_uring_get_events(&u->ring);
            asked = true;
            continue;
        }
        r = take_cqe(u, &cq->cqes[head & cq->ring_mask]);
    }
    return r;
}

static void wait_for_reads(struct qc_uring *u, int timeout_ms)
{
    struct __kernel_timespec ts = {.tv_sec = timeout_ms / 1000,
                                   .tv_nsec = timeout_ms % 1000 * 1000000LL};
    struct pollfd fd = {.fd = u->ring.ring_fd, .events = POLLIN};
    struct io_uring_cqe *cqe;
    int rc;

    rc = io_uring_submit_and_wait_timeout(&u->ring, &cqe, 1, timeout_ms < 0 ? NULL : &ts, NULL);
    if (rc >= 0 || rc == -ETIME || rc == -EINTR)
        return;
    not_taken(u, rc);
    if (!u->failed)
        poll(&fd, 1, timeout_ms == 0 ? 0 : POLL_AGAIN_MS);
}

void qc_uring_wait(struct qc_uring *u, int others, int timeout_ms)
{
    struct pollfd fds[2] = {{.fd = u->ring.ring_fd, .events = POLLIN},
                            {.fd = others, .events = POLLIN}};

    if (u->failed)
        return;
    if (others < 0)
        wait_for_reads(u, timeout_ms); /* one call does both */
    else if (qc_uring_submit(u))
        poll(fds, 2, timeout_ms);
}

int qc_uring_fd(const struct qc_uring *u)
{
    return u->ring.ring_fd;
}

#endif
