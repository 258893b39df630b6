/* SPDX-License-Identifier: MIT */
/* The bytes seam: what the dispatcher does for any store. */
#include "io_tools.h"

#include "io/store.h"

#define SIZE 100000u
#define SEED 1

/* A store in memory that writes down how it was called. */
struct fake {
    uint64_t size;
    uint32_t align_memory, align_offset;
    uint64_t max_transfer;
    int      fail;          /* what the slots return */
    bool     says_why;
    unsigned calls, vector_calls, closed;
    uint64_t bytes;
    size_t   longest;
    size_t   most_pieces;
    bool     misaligned, outside;
    const void *last_buf;
    qchain_store_extent extent;
};

static void note(struct fake *f, const void *buf, size_t length, uint64_t offset)
{
    bool last = offset + length == f->size;

    f->bytes += length;
    f->last_buf = buf;
    if (length > f->longest)
        f->longest = length;
    if (length == 0 || offset + length > f->size)
        f->outside = true;
    if (f->align_memory > 1 && (uintptr_t)buf % f->align_memory != 0)
        f->misaligned = true;
    if (f->align_offset > 1 &&
        (offset % f->align_offset != 0 || (length % f->align_offset != 0 && !last)))
        f->misaligned = true;
}

static void fill(void *buf, size_t length, uint64_t offset)
{
    for (size_t i = 0; i < length; i++)
        ((uint8_t *)buf)[i] = pattern_at(offset + i, SEED);
}

static void fake_close(void *obj)
{
    ((struct fake *)obj)->closed++;
}

static int fake_size(void *obj, uint64_t *size, qchain_error *err)
{
    (void)err;
    *size = ((struct fake *)obj)->size;
    return 0;
}

static int fake_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                      qchain_error *err)
{
    struct fake *f = obj;

    assert_int_equal(flags, 0);
    f->calls++;
    note(f, buf, length, offset);
    if (f->fail)
        return f->says_why ? qc_fail(err, f->fail, "the fake is broken") : f->fail;
    fill(buf, length, offset);
    return 0;
}

static int fake_preadv(void *obj, const qchain_iov *iov, size_t n_iov, size_t length,
                       uint64_t offset, uint32_t flags, qchain_error *err)
{
    struct fake *f = obj;
    size_t sum = 0;

    (void)err;
    assert_int_equal(flags, 0);
    f->vector_calls++;
    if (n_iov > f->most_pieces)
        f->most_pieces = n_iov;
    for (size_t i = 0; i < n_iov; i++) {
        if (f->align_memory > 1 && (uintptr_t)iov[i].base % f->align_memory != 0)
            f->misaligned = true;
        fill(iov[i].base, iov[i].len, offset + sum);
        sum += iov[i].len;
    }
    note(f, NULL, length, offset);
    assert_int_equal(sum, length);
    return f->fail;
}

static int fake_extents(void *obj, qchain_store_extent *out, uint64_t length, uint64_t offset,
                        uint32_t flags, qchain_error *err)
{
    struct fake *f = obj;

    (void)flags;
    if (length == 0 || offset + length > f->size)
        f->outside = true;
    *out = f->extent;
    return f->fail ? qc_fail(err, f->fail, "the fake has none") : 0;
}

static int fake_limits(void *obj, qchain_store_limits *out, qchain_error *err)
{
    struct fake *f = obj;

    (void)err;
    out->align_memory = f->align_memory;
    out->align_offset = f->align_offset;
    out->max_transfer = f->max_transfer;
    return 0;
}

static int fake_identity(void *obj, qchain_store_identity *out, qchain_error *err)
{
    (void)obj;
    (void)err;
    out->mtime_ns = 77;
    out->flags = QCHAIN_IDENTITY_HAS_MTIME | 0x8000;
    memset(out->etag, 'x', sizeof(out->etag));
    return 0;
}

static int fake_allocated(void *obj, uint64_t *bytes, qchain_error *err)
{
    (void)obj;
    (void)err;
    *bytes = 4242;
    return 0;
}

static const qchain_store_ops plain_ops = {
    .struct_size = sizeof(plain_ops), .version = QCHAIN_BACKEND_VERSION, .name = "fake",
    .close = fake_close, .size = fake_size, .pread = fake_pread,
};

static qchain_store_ops with_all(void)
{
    qchain_store_ops ops = plain_ops;

    ops.preadv = fake_preadv;
    ops.extents = fake_extents;
    ops.limits = fake_limits;
    ops.identity = fake_identity;
    ops.allocated = fake_allocated;
    return ops;
}

static struct qc_store *create(struct fake *f, const qchain_store_ops *ops,
                               struct qc_slots *slots)
{
    qchain_store from = {.struct_size = sizeof(from), .ops = ops, .obj = f, .name = "a\nname"};
    struct qc_store *s = NULL;
    qchain_error err;

    qc_error_init(&err);
    assert_int_equal(qc_store_create(&s, &from, slots, &err), 0);
    assert_non_null(s);
    return s;
}

static int create_fails(struct fake *f, const qchain_store_ops *ops, qchain_error *err)
{
    qchain_store from = {.struct_size = sizeof(from), .ops = ops, .obj = f, .name = "x"};
    struct qc_store *s = (struct qc_store *)f;
    int rc = qc_store_create(&s, &from, NULL, err);

    assert_null(s);
    assert_int_equal(rc, err->code);
    return rc;
}

static void creates_with_defaults(void **state)
{
    struct fake f = {.size = SIZE};
    struct qc_store *s = create(&f, &plain_ops, NULL);
    qchain_store_extent e;

    (void)state;
    assert_int_equal(s->size, SIZE);
    assert_int_equal(s->identity.size, SIZE);
    assert_string_equal(s->name, "a\\x0aname");
    assert_int_equal(qc_store_allocated(s), SIZE);
    assert_int_equal(qc_store_extent(s, &e, 500, 100, NULL), 0);
    assert_int_equal(e.offset, 100);
    assert_int_equal(e.length, 500);
    assert_int_equal(e.hole, 0);
    qc_store_destroy(s);
    assert_int_equal(f.closed, 1);
    qc_store_destroy(NULL);
}

static void takes_what_it_needs_of_ops(void **state)
{
    struct fake f = {.size = SIZE, .align_memory = 1, .align_offset = 1};
    qchain_store_ops ops = with_all();
    struct qc_store *s = create(&f, &ops, NULL);

    (void)state;
    assert_int_equal(qc_store_allocated(s), 4242);
    assert_int_equal(s->identity.mtime_ns, 77);
    assert_int_equal(s->identity.flags, QCHAIN_IDENTITY_HAS_MTIME);
    assert_int_equal(strlen(s->identity.etag), sizeof(s->identity.etag) - 1);
    qc_store_destroy(s);

    /* An older extender, whose struct ended after pread. */
    ops.struct_size = offsetof(qchain_store_ops, preadv);
    s = create(&f, &ops, NULL);
    assert_null(s->ops.preadv);
    assert_null(s->ops.allocated);
    assert_int_equal(qc_store_allocated(s), SIZE);
    qc_store_destroy(s);
    assert_int_equal(f.closed, 2);
}

static void refuses_bad_ops(void **state)
{
    struct {
        qchain_store_ops ops;
        void            *more;
    } newer = {.ops = plain_ops};
    struct fake f = {.size = SIZE};
    qchain_store from = {.struct_size = sizeof(from) - 1, .ops = &plain_ops, .obj = &f};
    qchain_store_ops ops = plain_ops;
    struct qc_store *s;
    qchain_error err;

    (void)state;
    assert_int_equal(qc_store_create(&s, &from, NULL, NULL), QCHAIN_E_INVAL);
    assert_int_equal(f.closed, 1); /* whatever is wrong with it */
    from.struct_size = 0;
    assert_int_equal(qc_store_create(&s, &from, NULL, NULL), QCHAIN_E_INVAL);
    assert_int_equal(f.closed, 2);
    from.ops = NULL;
    assert_int_equal(qc_store_create(&s, &from, NULL, NULL), QCHAIN_E_INVAL);
    assert_int_equal(qc_store_create(&s, NULL, NULL, NULL), QCHAIN_E_INVAL);
    ops.version++;
    assert_int_equal(create_fails(&f, &ops, &err), QCHAIN_E_UNSUPPORTED);
    assert_int_equal(f.closed, 3);
    ops.version = 0;
    assert_int_equal(create_fails(&f, &ops, &err), QCHAIN_E_UNSUPPORTED);
    assert_int_equal(f.closed, 4);
    ops = plain_ops;
    ops.struct_size = 0;
    assert_int_equal(create_fails(&f, &ops, &err), QCHAIN_E_INVAL);
    assert_int_equal(f.closed, 5);
    ops.struct_size = offsetof(qchain_store_ops, close); /* says that it has no such slot */
    assert_int_equal(create_fails(&f, &ops, &err), QCHAIN_E_INVAL);
    assert_int_equal(f.closed, 5);
    for (ops = plain_ops, ops.version = 1; ops.version <= QCHAIN_BACKEND_VERSION; ops.version++)
        qc_store_destroy(create(&f, &ops, NULL));
    ops = plain_ops;
    ops.struct_size = offsetof(qchain_store_ops, preadv) - 1;
    assert_int_equal(create_fails(&f, &ops, &err), QCHAIN_E_INVAL);
    ops = plain_ops;
    ops.pread = NULL;
    f.closed = 0;
    assert_int_equal(create_fails(&f, &ops, &err), QCHAIN_E_INVAL);
    assert_int_equal(f.closed, 1);
    ops = plain_ops;
    ops.flags = 1;
    assert_int_equal(create_fails(&f, &ops, &err), QCHAIN_E_INVAL);
    assert_int_equal(f.closed, 2);
    newer.ops.struct_size = sizeof(newer);
    newer.more = &f;
    assert_int_equal(create_fails(&f, &newer.ops, &err), QCHAIN_E_UNSUPPORTED);
    newer.more = NULL;
    s = create(&f, &newer.ops, NULL);
    qc_store_destroy(s);
}

static void refuses_bad_answers(void **state)
{
    qchain_store_ops ops = with_all();
    struct fake f = {.size = (uint64_t)INT64_MAX + 1};
    qchain_error err;

    (void)state;
    assert_int_equal(create_fails(&f, &ops, &err), QCHAIN_E_LIMIT);
    assert_int_equal(f.closed, 1);
    f = (struct fake){.size = SIZE, .align_memory = 3, .align_offset = 1};
    assert_int_equal(create_fails(&f, &ops, &err), QCHAIN_E_INVAL);
    f = (struct fake){.size = SIZE, .align_memory = 1, .align_offset = 0};
    assert_int_equal(create_fails(&f, &ops, &err), QCHAIN_E_INVAL);
    f = (struct fake){.size = SIZE, .align_memory = 1, .align_offset = 512, .max_transfer = 511};
    assert_int_equal(create_fails(&f, &ops, &err), QCHAIN_E_INVAL);
    assert_int_equal(f.closed, 1);
}

static void checks_ranges(void **state)
{
    struct fake f = {.size = SIZE};
    struct qc_store *s = create(&f, &plain_ops, NULL);
    uint8_t buf[300];
    qchain_error err;

    (void)state;
    qc_error_init(&err);
    assert_int_equal(qc_store_read(s, buf, 100, SIZE - 100, 0, &err), 0);
    assert_true(is_pattern(buf, 100, SIZE - 100, SEED));
    f.calls = 0;
    assert_int_equal(qc_store_read(s, buf, 101, SIZE - 100, 0, &err), QCHAIN_E_CORRUPT);
    assert_int_equal(err.offset, SIZE - 100);
    assert_non_null(strstr(err.text, "99900"));
    assert_non_null(strstr(err.text, "100000"));
    assert_int_equal(qc_store_read(s, buf, 1, UINT64_MAX, 0, NULL), QCHAIN_E_CORRUPT);
    assert_int_equal(qc_store_read(s, buf, 0, UINT64_MAX, 0, NULL), 0);
    assert_int_equal(f.calls, 0);

    memset(buf, 0xee, sizeof(buf));
    assert_int_equal(qc_store_read(s, buf, 250, SIZE - 50, QC_READ_PAST_END, &err), 0);
    assert_true(is_pattern(buf, 50, SIZE - 50, SEED));
    for (int i = 50; i < 250; i++)
        assert_int_equal(buf[i], 0);
    assert_int_equal(buf[250], 0xee);
    assert_int_equal(f.calls, 1);
    assert_int_equal(f.bytes, 100 + 50);
    assert_int_equal(qc_store_read(s, buf, 300, UINT64_MAX - 2, QC_READ_PAST_END, &err), 0);
    assert_int_equal(buf[299], 0);
    assert_int_equal(f.calls, 1);
    assert_false(f.outside);
    qc_store_destroy(s);
}

/* Cut buf into n pieces of odd sizes, some empty. */
static size_t cut(qchain_iov *iov, size_t n, uint8_t *buf, size_t step)
{
    size_t sum = 0;

    for (size_t i = 0; i < n; i++) {
        iov[i].base = buf + sum;
        iov[i].len = i % 7 == 3 ? 0 : 1 + i * step % 61;
        sum += iov[i].len;
    }
    return sum;
}

static void reads_vectors(void **state)
{
    struct fake f = {.size = SIZE, .align_memory = 1, .align_offset = 1};
    qchain_store_ops ops = with_all();
    uint8_t *buf = test_malloc(SIZE);
    qchain_iov iov[3000];
    struct qc_store *s = create(&f, &ops, NULL);
    size_t sum = cut(iov, 900, buf, 5);

    (void)state;
    assert_int_equal(qc_store_readv(s, iov, 900, sum, 33, 0, NULL), 0);
    assert_int_equal(f.vector_calls, 1);
    assert_true(is_pattern(buf, sum, 33, SEED));
    memset(buf, 0, SIZE);
    sum = cut(iov, 3000, buf, 3);
    assert_int_equal(qc_store_readv(s, iov, 3000, sum, 1, 0, NULL), 0);
    assert_true(is_pattern(buf, sum, 1, SEED));
    assert_true(f.most_pieces <= 1024);
    /* Half of it past the end. */
    memset(buf, 0xee, SIZE);
    assert_int_equal(qc_store_readv(s, iov, 3000, sum, SIZE - 5000, 0, NULL), QCHAIN_E_CORRUPT);
    assert_int_equal(qc_store_readv(s, iov, 3000, sum, SIZE - 5000, QC_READ_PAST_END, NULL), 0);
    assert_true(is_pattern(buf, 5000, SIZE - 5000, SEED));
    for (size_t i = 5000; i < sum; i++)
        assert_int_equal(buf[i], 0);
    assert_int_equal(buf[sum], 0xee);
    assert_false(f.outside);
    qc_store_destroy(s);

    /* Without the slot: pread for each piece that is not empty. */
    f = (struct fake){.size = SIZE};
    s = create(&f, &plain_ops, NULL);
    sum = cut(iov, 700, buf, 3);
    memset(buf, 0, SIZE);
    assert_int_equal(qc_store_readv(s, iov, 700, sum, 7, 0, NULL), 0);
    assert_true(is_pattern(buf, sum, 7, SEED));
    assert_int_equal(f.calls, 600);
    assert_false(f.outside);
    qc_store_destroy(s);
    test_free(buf);
}

static void respects_limits(void **state)
{
    qchain_store_ops ops = with_all();
    struct fake f = {.size = SIZE, .align_memory = 1, .align_offset = 1, .max_transfer = 1000};
    struct qc_store *s = create(&f, &ops, NULL);
    uint8_t *buf = test_malloc(SIZE + 4096), *aligned;
    qchain_iov iov[500];
    size_t sum;

    (void)state;
    assert_int_equal(qc_store_read(s, buf, 5001, 10, 0, NULL), 0);
    assert_true(is_pattern(buf, 5001, 10, SEED));
    assert_int_equal(f.calls, 6);
    sum = cut(iov, 500, buf, 3);
    assert_int_equal(qc_store_readv(s, iov, 500, sum, 3, 0, NULL), 0);
    assert_true(is_pattern(buf, sum, 3, SEED));
    assert_int_equal(f.longest, 1000);
    qc_store_destroy(s);

    f = (struct fake){.size = SIZE, .align_memory = 4096, .align_offset = 512,
                      .max_transfer = 1500};
    s = create(&f, &ops, NULL);
    for (uint64_t at = 0; at < SIZE; at += 7777) {
        size_t n = SIZE - at < 9999 ? SIZE - at : 9999;

        memset(buf, 0, n);
        assert_int_equal(qc_store_read(s, buf + at % 3, n, at, 0, NULL), 0);
        assert_true(is_pattern(buf + at % 3, n, at, SEED));
    }
    assert_int_equal(qc_store_readv(s, iov, 500, sum, 3, 0, NULL), 0);
    assert_true(is_pattern(buf, sum, 3, SEED));
    assert_false(f.misaligned || f.outside);
    assert_int_equal(f.longest, 1024);
    /* What is aligned is not copied, but cut. */
    aligned = (uint8_t *)(((uintptr_t)buf + 4095) & ~(uintptr_t)4095);
    f.calls = f.vector_calls = 0;
    assert_int_equal(qc_store_read(s, aligned, 1024, 4096, 0, NULL), 0);
    assert_true(is_pattern(aligned, 1024, 4096, SEED));
    assert_int_equal(f.calls, 1);
    assert_ptr_equal(f.last_buf, aligned);
    /* Nor is the odd end of the store. */
    assert_int_equal(qc_store_read(s, aligned, SIZE % 512, SIZE / 512 * 512, 0, NULL), 0);
    assert_ptr_equal(f.last_buf, aligned);
    qc_store_destroy(s);
    test_free(buf);
}

static void sanitizes_extents(void **state)
{
    static const qchain_store_extent bad[] = {
        {.offset = 101, .length = 10},                   /* begins after it */
        {.offset = 0, .length = 100},                    /* ends at it */
        {.offset = 100, .length = 0},
        {.offset = 100, .length = UINT64_MAX - 50},      /* wraps */
        {.offset = 100, .length = 10, .hole = 2},
    };
    qchain_store_ops ops = with_all();
    struct fake f = {.size = SIZE, .align_memory = 1, .align_offset = 1};
    struct qc_store *s = create(&f, &ops, NULL);
    qchain_store_extent e;
    qchain_error err;

    (void)state;
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        f.extent = bad[i];
        qc_error_init(&err);
        assert_int_equal(qc_store_extent(s, &e, 50, 100, &err), QCHAIN_E_IO);
        assert_int_equal(err.code, QCHAIN_E_IO);
    }
    f.extent = (qchain_store_extent){.offset = 10, .length = UINT64_MAX - 10, .hole = 1};
    assert_int_equal(qc_store_extent(s, &e, UINT64_MAX, 100, &err), 0);
    assert_int_equal(e.offset, 100);
    assert_int_equal(e.length, SIZE - 100);
    assert_int_equal(e.hole, 1);
    f.extent = (qchain_store_extent){.offset = 90, .length = 20};
    assert_int_equal(qc_store_extent(s, &e, 50, 100, &err), 0);
    assert_int_equal(e.length, 10);
    assert_int_equal(e.hole, 0);
    assert_int_equal(qc_store_extent(s, &e, 50, SIZE, &err), 0);
    assert_int_equal(e.length, 50);
    assert_int_equal(e.hole, 1);
    f.fail = QCHAIN_E_UNSUPPORTED;
    qc_fail(&err, QCHAIN_E_BUSY, "before");
    assert_int_equal(qc_store_extent(s, &e, 50, 100, &err), 0);
    assert_string_equal(err.text, "before"); /* it is no failure */
    assert_int_equal(e.length, 50);
    f.fail = QCHAIN_E_NET;
    assert_int_equal(qc_store_extent(s, &e, 50, 100, &err), QCHAIN_E_NET);
    assert_false(f.outside);
    qc_store_destroy(s);
}

static void explains_failures(void **state)
{
    struct fake f = {.size = SIZE, .fail = QCHAIN_E_TIMEOUT, .says_why = true};
    struct qc_store *s = create(&f, &plain_ops, NULL);
    qchain_error err;
    uint8_t b;

    (void)state;
    qc_error_init(&err);
    assert_int_equal(qc_store_read(s, &b, 1, 0, 0, &err), QCHAIN_E_TIMEOUT);
    assert_string_equal(err.text, "the fake is broken");
    f.says_why = false;
    qc_error_init(&err);
    assert_int_equal(qc_store_read(s, &b, 1, 0, 0, &err), QCHAIN_E_TIMEOUT);
    assert_int_equal(err.code, QCHAIN_E_TIMEOUT);
    assert_true(err.text[0] != '\0');
    f.fail = 7;
    assert_int_equal(qc_store_read(s, &b, 1, 0, 0, &err), QCHAIN_E_INTERNAL);
    f.fail = -1000;
    assert_int_equal(qc_store_read(s, &b, 1, 0, 0, NULL), QCHAIN_E_INTERNAL);
    qc_store_destroy(s);
}

static void counts(void **state)
{
    struct qc_slots *slots = qc_slots_create();
    struct fake f = {.size = SIZE, .align_memory = 1, .align_offset = 1};
    qchain_store_ops ops = with_all();
    struct qc_store *s = create(&f, &ops, slots);
    uint8_t buf[400];
    qchain_iov iov[2] = {{buf, 100}, {buf + 100, 50}};

    (void)state;
    assert_int_equal(qc_store_read(s, buf, 100, 0, 0, NULL), 0);
    assert_int_equal(qc_store_read(s, buf, 300, 0, QC_READ_META, NULL), 0);
    assert_int_equal(qc_store_readv(s, iov, 2, 150, 0, 0, NULL), 0);
    /* Zeros past the end are not read from anywhere. */
    assert_int_equal(qc_store_read(s, buf, 100, SIZE, QC_READ_PAST_END, NULL), 0);
    assert_int_equal(qc_counter_sum(slots, QC_CNT_STORE_READS), 2);
    assert_int_equal(qc_counter_sum(slots, QC_CNT_STORE_BYTES), 250);
    assert_int_equal(qc_counter_sum(slots, QC_CNT_META_READS), 1);
    assert_int_equal(qc_counter_sum(slots, QC_CNT_META_BYTES), 300);
    qc_store_destroy(s);
    qc_slots_destroy(slots);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(creates_with_defaults),
        cmocka_unit_test(takes_what_it_needs_of_ops),
        cmocka_unit_test(refuses_bad_ops),
        cmocka_unit_test(refuses_bad_answers),
        cmocka_unit_test(checks_ranges),
        cmocka_unit_test(reads_vectors),
        cmocka_unit_test(respects_limits),
        cmocka_unit_test(sanitizes_extents),
        cmocka_unit_test(explains_failures),
        cmocka_unit_test(counts),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
