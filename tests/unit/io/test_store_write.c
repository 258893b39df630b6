/* SPDX-License-Identifier: MIT */
/* Writing through the dispatcher, to a store in memory that can be made to fail. */
#include "io_tools.h"

#include <pthread.h>
#include <time.h>

#include "io/store.h"

#define ROOM (1u << 20)

struct mem {
    uint8_t        *bytes;  /* ROOM of them; zeros from size on */
    pthread_mutex_t lock;
    uint64_t        size;
    uint32_t        align_memory, align_offset;
    uint64_t        max_transfer;
    bool            misaligned;
    unsigned        calls, flushes, zeros, resizes;
    unsigned        fail_at;   /* the call that fails, from 1 on; 0: none */
    int             fail_code;
    bool            in_part;    /* half of a write that fails is there */
    bool            slow_read;  /* others come in between */
    bool            slow_flush; /* each takes a while, and notes what it covers */
    uint8_t         durable;   /* byte 0 as the last flush that ended found it when it began */
};

static int step(struct mem *m, qchain_error *err)
{
    m->calls++;
    return m->fail_at == m->calls ? qc_fail(err, m->fail_code, "the medium is broken") : 0;
}

static void look(struct mem *m, const void *buf, size_t length, uint64_t offset, bool write)
{
    uint32_t block = m->align_offset;

    if (block < 2)
        return;
    if ((uintptr_t)buf % m->align_memory != 0 || offset % block != 0 ||
        (length % block != 0 && (write || offset + length != m->size)))
        m->misaligned = true;
}

static void mem_close(void *obj)
{
    (void)obj;
}

static int mem_size(void *obj, uint64_t *size, qchain_error *err)
{
    (void)err;
    *size = ((struct mem *)obj)->size;
    return 0;
}

static int mem_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                     qchain_error *err)
{
    struct mem *m = obj;
    int rc;

    (void)flags;
    pthread_mutex_lock(&m->lock);
    rc = step(m, err);
    look(m, buf, length, offset, false);
    assert_true(offset + length <= m->size);
    if (rc == 0)
        memcpy(buf, m->bytes + offset, length);
    pthread_mutex_unlock(&m->lock);
    if (m->slow_read)
        nanosleep(&(struct timespec){.tv_nsec = 1000}, NULL);
    return rc;
}

static int mem_pwrite(void *obj, const void *buf, size_t length, uint64_t offset, uint32_t flags,
                      qchain_error *err)
{
    struct mem *m = obj;
    int rc;

    assert_int_equal(flags, 0);
    pthread_mutex_lock(&m->lock);
    rc = step(m, err);
    look(m, buf, length, offset, true);
    assert_true(length > 0 && offset + length <= ROOM);
    assert_true(m->max_transfer == 0 || length <= m->max_transfer);
    if (rc != 0 && m->in_part)
        length /= 2;
    if (rc == 0 || m->in_part) {
        memcpy(m->bytes + offset, buf, length);
        if (offset + length > m->size)
            m->size = offset + length;
    }
    pthread_mutex_unlock(&m->lock);
    return rc;
}

static int mem_pwritev(void *obj, const qchain_iov *iov, size_t n_iov, size_t length,
                       uint64_t offset, uint32_t flags, qchain_error *err)
{
    int rc = 0;

    assert_true(n_iov <= 1024);
    for (size_t i = 0; rc == 0 && i < n_iov; i++) {
        if (iov[i].len > 0)
            rc = mem_pwrite(obj, iov[i].base, iov[i].len, offset, flags, err);
        offset += iov[i].len;
        length -= iov[i].len;
    }
    assert_true(rc != 0 || length == 0);
    return rc;
}

static void nap(unsigned ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000L}, NULL);
}

static int mem_flush(void *obj, uint32_t flags, qchain_error *err)
{
    struct mem *m = obj;
    uint8_t now;
    bool slow;
    int rc;

    (void)flags;
    pthread_mutex_lock(&m->lock);
    m->flushes++;
    rc = step(m, err);
    now = m->bytes[0];
    slow = m->slow_flush;
    pthread_mutex_unlock(&m->lock);
    if (slow)
        nap(2);
    pthread_mutex_lock(&m->lock);
    m->durable = now;
    pthread_mutex_unlock(&m->lock);
    return rc;
}

static int mem_resize(void *obj, uint64_t size, uint32_t flags, qchain_error *err)
{
    struct mem *m = obj;
    int rc;

    (void)flags;
    pthread_mutex_lock(&m->lock);
    m->resizes++;
    rc = step(m, err);
    if (rc == 0) {
        assert_true(size <= ROOM);
        if (size < m->size)
            memset(m->bytes + size, 0, m->size - size);
        m->size = size;
    }
    pthread_mutex_unlock(&m->lock);
    return rc;
}

static int mem_zero(void *obj, uint64_t length, uint64_t offset, uint32_t flags, qchain_error *err)
{
    struct mem *m = obj;
    int rc;

    pthread_mutex_lock(&m->lock);
    m->zeros++;
    rc = step(m, err);
    assert_true(offset + length <= m->size);
    if (rc == 0 && !(flags & QCHAIN_STORE_UNMAP))
        rc = qc_fail(err, QCHAIN_E_UNSUPPORTED, "only by giving space back");
    if (rc == 0)
        memset(m->bytes + offset, 0, length);
    pthread_mutex_unlock(&m->lock);
    return rc;
}

static int mem_limits(void *obj, qchain_store_limits *out, qchain_error *err)
{
    struct mem *m = obj;

    (void)err;
    out->align_memory = m->align_memory;
    out->align_offset = m->align_offset;
    out->max_transfer = m->max_transfer;
    return 0;
}

static const qchain_store_ops mem_ops = {
    .struct_size = sizeof(mem_ops), .version = QCHAIN_BACKEND_VERSION, .name = "mem",
    .close = mem_close, .size = mem_size, .pread = mem_pread, .pwrite = mem_pwrite,
    .flush = mem_flush, .resize = mem_resize, .zero = mem_zero, .limits = mem_limits,
    .pwritev = mem_pwritev,
};

static const qchain_store_ops few_ops = {
    .struct_size = sizeof(few_ops), .version = QCHAIN_BACKEND_VERSION, .name = "mem",
    .close = mem_close, .size = mem_size, .pread = mem_pread, .pwrite = mem_pwrite,
    .flush = mem_flush, .resize = mem_resize, .limits = mem_limits,
};

static struct mem *make_mem(uint64_t size, uint32_t align_memory, uint32_t align_offset)
{
    struct mem *m = calloc(1, sizeof(*m));

    m->bytes = calloc(1, ROOM);
    pthread_mutex_init(&m->lock, NULL);
    m->size = size;
    m->align_memory = align_memory;
    m->align_offset = align_offset;
    m->fail_code = QCHAIN_E_IO;
    for (uint64_t i = 0; i < size; i++)
        m->bytes[i] = pattern_at(i, 1);
    return m;
}

static void drop_mem(struct mem *m)
{
    assert_false(m->misaligned);
    pthread_mutex_destroy(&m->lock);
    free(m->bytes);
    free(m);
}

static struct qc_store *wrap(struct mem *m, const qchain_store_ops *ops, struct qc_slots *slots)
{
    qchain_store from = {.struct_size = sizeof(from), .ops = ops, .obj = m, .name = "disk"};
    struct qc_store *s = NULL;

    assert_int_equal(qc_store_create(&s, &from, slots, NULL), 0);
    return s;
}

/* ------------------------------------------------------------------- tests --- */

static void test_plain(void **state)
{
    struct qc_slots *slots = qc_slots_create();
    struct mem *m = make_mem(1000, 1, 1);
    struct qc_store *s = wrap(m, &mem_ops, slots);
    struct qc_store_hot hot;
    qchain_iov iov[3] = {{"abc", 3}, {"", 0}, {"de", 2}};
    char buf[16];
    qchain_error err;

    (void)state;
    assert_true(qc_store_is_writable(s));
    assert_false(qc_store_is_dirty(s));
    assert_int_equal(qc_store_flush(s, &err), 0);
    assert_int_equal(m->flushes, 0); /* nothing to flush */
    qc_store_hot_init(&hot, s);

    assert_int_equal(qc_store_write(s, "xyz", 3, 998, &err), 0);
    assert_int_equal(qc_store_size(s), 1001);
    assert_int_equal(qc_store_writev(s, iov, 3, 5, 2000, &err), 0);
    assert_int_equal(qc_store_size(s), 2005);
    /* Who copied the size before sees what was added after. */
    assert_int_equal(qc_store_read_hot(&hot, slots, buf, 8, 1999, &err), 0);
    assert_memory_equal(buf, "\0abcde\0", 8);
    assert_int_equal(qc_store_hot_size(&hot), 2005);
    assert_int_equal(qc_counter_sum(slots, QC_CNT_STORE_WRITES), 2);
    assert_int_equal(qc_counter_sum(slots, QC_CNT_STORE_WRITE_BYTES), 8);

    assert_true(qc_store_is_dirty(s));
    assert_int_equal(qc_store_flush(s, &err), 0);
    assert_false(qc_store_is_dirty(s));
    assert_int_equal(qc_store_flush(s, &err), 0);
    assert_int_equal(m->flushes, 1);
    assert_int_equal(qc_counter_sum(slots, QC_CNT_FLUSHES), 1);
    qc_store_wrote(s, 3000, 10); /* by a ring */
    assert_int_equal(qc_store_size(s), 3010);
    assert_true(qc_store_is_dirty(s));
    m->size = 3010;

    assert_int_equal(qc_store_resize(s, 1500, &err), 0);
    assert_int_equal(qc_store_size(s), 1500);
    assert_int_equal(m->size, 1500);
    assert_int_equal(qc_store_write(s, "x", 1, (uint64_t)INT64_MAX, &err), QCHAIN_E_LIMIT);
    assert_int_equal(qc_store_write(s, "x", 1, UINT64_MAX, &err), QCHAIN_E_LIMIT);
    qc_store_destroy(s);
    drop_mem(m);
    qc_slots_destroy(slots);
}

static void test_not_writable(void **state)
{
    qchain_store_ops ops = mem_ops;
    struct mem *m = make_mem(1000, 1, 1);
    qchain_store from = {.struct_size = sizeof(from), .ops = &ops, .obj = m};
    struct qc_store *s;
    qchain_error err;

    (void)state;
    ops.resize = NULL;
    assert_int_equal(qc_store_create(&s, &from, NULL, &err), QCHAIN_E_INVAL);
    ops.pwrite = NULL;
    assert_int_equal(qc_store_create(&s, &from, NULL, &err), 0);
    assert_false(qc_store_is_writable(s));
    assert_int_equal(qc_store_write(s, "x", 1, 0, &err), QCHAIN_E_READONLY);
    assert_int_equal(qc_store_zero(s, 1, 0, true, &err), QCHAIN_E_READONLY);
    assert_int_equal(qc_store_resize(s, 1, &err), QCHAIN_E_READONLY);
    assert_int_equal(qc_store_discard(s, 1, 0, &err), QCHAIN_E_READONLY);
    assert_int_equal(qc_store_flush(s, &err), 0);
    assert_false(qc_store_is_dirty(s));
    assert_int_equal(m->calls, 0);
    qc_store_destroy(s);
    drop_mem(m);
}

struct model {
    uint8_t *bytes;
    uint64_t size;
};

static void check_model(struct qc_store *s, struct mem *m, const struct model *d)
{
    uint64_t size = qc_store_size(s);
    uint8_t *buf = malloc(ROOM);

    assert_true(size >= d->size && size <= m->size);
    if (m->align_offset > 1)
        assert_true(size < d->size + m->align_offset);
    else
        assert_int_equal(size, d->size);
    assert_int_equal(size, m->size);
    assert_int_equal(qc_store_read(s, buf, ROOM, 0, QC_READ_PAST_END, NULL), 0);
    assert_memory_equal(buf, d->bytes, ROOM);
    free(buf);
}

static void random_write(struct qc_store *s, struct model *d, unsigned *seed)
{
    uint64_t offset = (uint64_t)rand_r(seed) % 60000;
    size_t length = (size_t)rand_r(seed) % (rand_r(seed) % 4 ? 2000 : 20000), at = 0;
    size_t n_iov = 1 + (unsigned)rand_r(seed) % 600;
    qchain_iov *iov = calloc(n_iov, sizeof(*iov));
    uint8_t *buf = aligned_alloc(4096, 32768);
    unsigned skew = rand_r(seed) % 2 ? (unsigned)rand_r(seed) % 512 : 0;

    if (rand_r(seed) % 3 == 0) {
        offset &= ~(uint64_t)4095;
        length = length / 4096 * 4096;
    }
    for (size_t i = 0; i < length; i++)
        buf[skew + i] = (uint8_t)rand_r(seed);
    for (size_t i = 0; i < n_iov; i++) {
        size_t n = i + 1 == n_iov ? length - at : (size_t)rand_r(seed) % (length / n_iov + 2);

        iov[i] = (qchain_iov){buf + skew + at, n < length - at ? n : length - at};
        at += iov[i].len;
    }
    assert_int_equal(qc_store_writev(s, iov, n_iov, length, offset, NULL), 0);
    memcpy(d->bytes + offset, buf + skew, length);
    if (length > 0 && offset + length > d->size)
        d->size = offset + length;
    free(buf);
    free(iov);
}

static void random_zero(struct qc_store *s, struct model *d, unsigned *seed)
{
    uint64_t offset = (uint64_t)rand_r(seed) % 60000;
    uint64_t length = (uint64_t)rand_r(seed) % 10000;

    assert_int_equal(qc_store_zero(s, length, offset, rand_r(seed) % 2, NULL), 0);
    memset(d->bytes + offset, 0, length);
    if (length > 0 && offset + length > d->size)
        d->size = offset + length;
}

/* Whatever a store asks for, the bytes are those of a model. */
static void test_random(void **state)
{
    static const struct {
        uint32_t memory, offset, most;
        uint64_t size;
    } kind[] = {{1, 1, 0, 5000}, {1, 1, 700, 5000}, {512, 512, 0, 5000}, {512, 512, 1024, 5120},
                {4096, 4096, 0, 5000}, {4, 4096, 8192, 0}, {4096, 512, 0, 77}};

    (void)state;
    for (size_t k = 0; k < 2 * sizeof(kind) / sizeof(kind[0]); k++) {
        size_t i = k / 2;
        struct mem *m = make_mem(kind[i].size, kind[i].memory, kind[i].offset);
        struct model d = {.bytes = malloc(ROOM), .size = kind[i].size};
        unsigned seed = (unsigned)k + 1;
        struct qc_store *s;

        m->max_transfer = kind[i].most;
        memcpy(d.bytes, m->bytes, ROOM);
        s = wrap(m, k % 2 ? &few_ops : &mem_ops, NULL);
        for (int round = 0; round < 150; round++) {
            if (rand_r(&seed) % 8 == 0)
                random_zero(s, &d, &seed);
            else
                random_write(s, &d, &seed);
            if (rand_r(&seed) % 20 == 0) {
                d.size = (uint64_t)rand_r(&seed) % 70000;
                memset(d.bytes + d.size, 0, ROOM - d.size);
                assert_int_equal(qc_store_resize(s, d.size, NULL), 0);
            }
            check_model(s, m, &d);
            d.size = qc_store_size(s);
        }
        qc_store_destroy(s);
        free(d.bytes);
        drop_mem(m);
    }
}

/* A write within the size leaves it, though the last block is written whole. */
static void test_last_block(void **state)
{
    struct mem *m = make_mem(1000, 512, 512);
    struct qc_store *s = wrap(m, &mem_ops, NULL);
    uint8_t buf[24];

    (void)state;
    assert_int_equal(qc_store_write(s, "abc", 3, 990, NULL), 0);
    assert_int_equal(qc_store_size(s), 1000);
    assert_int_equal(m->size, 1000);
    assert_int_equal(m->resizes, 1);
    assert_int_equal(qc_store_read(s, buf, 24, 980, QC_READ_PAST_END, NULL), 0);
    assert_true(is_pattern(buf, 10, 980, 1) && is_pattern(buf + 13, 7, 993, 1));
    assert_memory_equal(buf + 10, "abc", 3);
    assert_memory_equal(buf + 20, "\0\0\0\0", 4);
    assert_false(qc_store_takes_write(s, 512, 512)); /* the ring would make it longer */
    assert_true(qc_store_takes_write(s, 512, 0));
    /* Past the end it becomes whole blocks, and says so. */
    assert_int_equal(qc_store_write(s, "abc", 3, 998, NULL), 0);
    assert_int_equal(qc_store_size(s), 1024);
    assert_int_equal(m->size, 1024);
    assert_true(qc_store_takes_write(s, 512, 4096));
    qc_store_destroy(s);
    drop_mem(m);
}

/* Each call that is made fails once: it is said, nothing hangs, and what follows works. */
static void test_failures(void **state)
{
    char buf[3000];
    unsigned failed = 0;

    (void)state;
    memset(buf, 'x', sizeof(buf));
    for (unsigned at = 1; at < 40; at++) {
        struct mem *m = make_mem(3001, 512, 512);
        struct qc_store *s;
        qchain_error err;
        int rc[5], n = 0;

        m->max_transfer = 1024;
        s = wrap(m, &mem_ops, NULL);
        m->fail_at = at;
        m->fail_code = QCHAIN_E_NOSPACE;
        qc_error_init(&err);
        rc[n++] = qc_store_write(s, buf, sizeof(buf), 77, &err);
        rc[n++] = qc_store_write(s, buf, 10, 2990, &err);
        rc[n++] = qc_store_zero(s, 3000, 100, true, &err);
        rc[n++] = qc_store_zero(s, 5000, 100, false, &err);
        rc[n++] = qc_store_resize(s, 512, &err);
        for (int i = 0; i < n; i++) {
            assert_true(rc[i] == 0 || rc[i] == QCHAIN_E_NOSPACE);
            failed += rc[i] != 0;
        }
        assert_int_equal(qc_store_size(s), m->size);
        assert_true(qc_store_is_dirty(s));
        m->fail_at = 0;
        assert_int_equal(qc_store_write(s, buf, sizeof(buf), 0, &err), 0);
        assert_memory_equal(m->bytes, buf, sizeof(buf));
        assert_int_equal(qc_store_flush(s, &err), 0);
        qc_store_destroy(s);
        drop_mem(m);
    }
    assert_true(failed > 15);
}

static void test_sticky(void **state)
{
    struct mem *m = make_mem(1000, 1, 1);
    struct qc_store *s = wrap(m, &mem_ops, NULL);
    qchain_error err;
    char byte;

    (void)state;
    assert_int_equal(qc_store_write(s, "x", 1, 0, &err), 0);
    m->fail_at = m->calls + 1;
    assert_int_equal(qc_store_flush(s, &err), QCHAIN_E_IO);
    m->fail_at = 0;
    assert_int_equal(qc_store_flush(s, &err), QCHAIN_E_READONLY);
    assert_non_null(strstr(err.text, "a flush failed"));
    assert_non_null(strstr(err.text, "the medium is broken"));
    assert_int_equal(m->flushes, 1);
    assert_int_equal(qc_store_write(s, "x", 1, 0, &err), QCHAIN_E_READONLY);
    assert_int_equal(qc_store_zero(s, 1, 0, true, &err), QCHAIN_E_READONLY);
    assert_int_equal(qc_store_resize(s, 1, &err), QCHAIN_E_READONLY);
    assert_int_equal(qc_store_discard(s, 1, 0, &err), QCHAIN_E_READONLY);
    assert_false(qc_store_takes_write(s, 1, 0));
    assert_true(qc_store_is_dirty(s));
    assert_int_equal(qc_store_read(s, &byte, 1, 0, 0, &err), 0); /* reading goes on */
    qc_store_destroy(s);
    drop_mem(m);
}

/* A write past the end that fails may have left some of its bytes there. Where zeros are made they are gone. */
static void test_zeros_over_what_failed(void **state)
{
    struct mem *m = make_mem(1000, 1, 1);
    struct qc_store *s = wrap(m, &mem_ops, NULL);
    char buf[4096], zeros[16384] = {0};
    qchain_error err;

    (void)state;
    memset(buf, 0x5a, sizeof(buf));
    m->in_part = true;
    m->fail_code = QCHAIN_E_NOSPACE;
    m->fail_at = m->calls + 1;
    assert_int_equal(qc_store_write(s, buf, 4096, 4096, &err), QCHAIN_E_NOSPACE);
    assert_int_equal(qc_store_zero(s, 8192, 4096, false, &err), 0);
    assert_memory_equal(m->bytes + 4096, zeros, 8192);
    assert_int_equal(qc_store_size(s), 12288);

    memset(m->bytes + 12288, 0x5a, 2048); /* by a ring */
    m->size = 14336;
    qc_store_failed(s, 12288, 4096);
    assert_int_equal(qc_store_zero(s, 1024, 12288, true, &err), 0);
    assert_int_equal(qc_store_zero(s, 4096, 13312, false, &err), 0);
    assert_memory_equal(m->bytes + 12288, zeros, 5120);
    qc_store_destroy(s);
    drop_mem(m);
}

/* ----------------------------------------------------------------- threads --- */

#define THREADS 4
#define ROUNDS 400

struct worker {
    struct qc_store *s;
    struct mem      *m;
    unsigned         number;
    bool             whole; /* blocks, else bytes of its own */
};

static void *write_own_bytes(void *data)
{
    struct worker *w = data;
    uint8_t *block = aligned_alloc(512, 512);

    for (unsigned i = 0; i < ROUNDS; i++) {
        uint8_t v = (uint8_t)(i + w->number);

        if (w->whole) { /* a block of which others write a byte each */
            memset(block, v, 512);
            assert_int_equal(qc_store_write(w->s, block, 512, 512, NULL), 0);
            nap(1);
            pthread_mutex_lock(&w->m->lock);
            assert_memory_equal(w->m->bytes + 512 + THREADS, block, 512 - THREADS);
            pthread_mutex_unlock(&w->m->lock);
        } else {
            assert_int_equal(qc_store_write(w->s, &v, 1, 100 + w->number, NULL), 0);
            assert_int_equal(qc_store_write(w->s, &v, 1, 512 + w->number, NULL), 0);
            assert_int_equal(qc_store_write(w->s, &v, 1, 2000 + i * THREADS + w->number, NULL), 0);
        }
    }
    free(block);
    return NULL;
}

/* Several write into one block, and make the store longer, and lose nothing of each other. */
static void test_one_block(void **state)
{
    struct mem *m = make_mem(1100, 512, 512);
    struct qc_store *s = wrap(m, &mem_ops, NULL);
    struct worker w[THREADS];
    pthread_t thread[THREADS];

    (void)state;
    m->slow_read = true;
    for (unsigned i = 0; i < THREADS; i++) {
        w[i] = (struct worker){s, m, i, i == 3};
        assert_int_equal(pthread_create(&thread[i], NULL, write_own_bytes, &w[i]), 0);
    }
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    for (unsigned t = 0; t < 3; t++) {
        assert_int_equal(m->bytes[100 + t], (uint8_t)(ROUNDS - 1 + t));
        for (unsigned i = 0; i < ROUNDS; i++)
            assert_int_equal(m->bytes[2000 + i * THREADS + t], (uint8_t)(i + t));
    }
    for (unsigned i = THREADS; i < 512; i++)
        assert_int_equal(m->bytes[512 + i], (uint8_t)(ROUNDS - 1 + 3));
    assert_int_equal(qc_store_size(s), m->size);
    qc_store_destroy(s);
    drop_mem(m);
}

static void *write_and_flush(void *data)
{
    struct worker *w = data;
    uint8_t v;

    for (unsigned i = 1; i <= 40; i++) {
        pthread_mutex_lock(&w->m->lock);
        v = ++w->m->bytes[0]; /* as a write that has ended, and then is told */
        pthread_mutex_unlock(&w->m->lock);
        qc_store_wrote(w->s, 0, 1);
        assert_int_equal(qc_store_flush(w->s, NULL), 0);
        pthread_mutex_lock(&w->m->lock);
        assert_true(w->m->durable >= v);
        pthread_mutex_unlock(&w->m->lock);
    }
    return NULL;
}

/* A flush that began before a write ended is not taken for one that covers it; one that began
 * after serves all who wait. */
static void test_flushes(void **state)
{
    struct mem *m = make_mem(1000, 1, 1);
    struct qc_store *s = wrap(m, &mem_ops, NULL);
    struct worker w = {.s = s, .m = m};
    pthread_t thread[THREADS];

    (void)state;
    m->bytes[0] = 0;
    m->slow_flush = true;
    for (unsigned i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, write_and_flush, &w), 0);
    for (unsigned i = 0; i < THREADS; i++)
        pthread_join(thread[i], NULL);
    assert_int_equal(m->bytes[0], 40 * THREADS);
    assert_false(qc_store_is_dirty(s));
    assert_true(m->flushes < 40 * THREADS);
    qc_store_destroy(s);
    drop_mem(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_plain),
        cmocka_unit_test(test_not_writable),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_last_block),
        cmocka_unit_test(test_failures),
        cmocka_unit_test(test_sticky),
        cmocka_unit_test(test_zeros_over_what_failed),
        cmocka_unit_test(test_one_block),
        cmocka_unit_test(test_flushes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
