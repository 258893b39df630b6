/* SPDX-License-Identifier: MIT */
/*
 * A store made outside the library, with nothing but the public headers: as the
 * top of a chain, as a layer below by a resolver, beside a top from a file
 * descriptor. The image is laid out here by hand, so every byte is known.
 */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <qchain-backend.h>
#include <qchain.h>

#define UNIT ((size_t)4096)
#define DISK (16 * UNIT)
#define IMAGE (7 * UNIT)

#define CHECK(cond)                                                                          \
    do {                                                                                     \
        if (!(cond)) {                                                                       \
            fprintf(stderr, "backend_register: line %d: not so: %s\n", __LINE__, #cond);     \
            exit(1);                                                                         \
        }                                                                                    \
    } while (0)

/* ---------------------------------------------------- a store in memory --- */

typedef struct mem {
    const uint8_t *bytes;
    uint64_t       size;
    uint64_t       fail_from; /* reads that reach this far fail */
    atomic_int     reads;
    atomic_int     closed;
} mem;

static void mem_close(void *obj)
{
    mem *m = obj;

    m->closed++;
}

static int mem_size(void *obj, uint64_t *size, qchain_error *err)
{
    (void)err;
    *size = ((mem *)obj)->size;
    return 0;
}

static int mem_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                     qchain_error *err)
{
    mem *m = obj;

    CHECK(flags == 0);
    CHECK(offset <= m->size && length <= m->size - offset);
    m->reads++;
    if (offset + length > m->fail_from) {
        return qchain_backend_fail(err, QCHAIN_E_TIMEOUT, 0, "the tape is stuck");
    }
    memcpy(buf, m->bytes + offset, length);
    return 0;
}

static int mem_extents(void *obj, qchain_store_extent *out, uint64_t length, uint64_t offset,
                       uint32_t flags, qchain_error *err)
{
    (void)obj;
    (void)flags;
    (void)err;
    out->offset = offset;
    out->length = length;
    out->hole = 0;
    return 0;
}

static const qchain_store_ops mem_ops = {
    .struct_size = sizeof(qchain_store_ops),
    .version = QCHAIN_BACKEND_VERSION,
    .name = "mem",
    .close = mem_close,
    .size = mem_size,
    .pread = mem_pread,
    .extents = mem_extents,
};

/* As an extender's older header would have it: it ends after pread, and what
 * lies behind it is not the library's to read. */
static const qchain_store_ops old_ops = {
    .struct_size = offsetof(qchain_store_ops, preadv),
    .version = QCHAIN_BACKEND_VERSION,
    .name = "old",
    .close = mem_close,
    .size = mem_size,
    .pread = mem_pread,
    .preadv = (int (*)(void *, const qchain_iov *, size_t, size_t, uint64_t, uint32_t,
                       qchain_error *))(uintptr_t)1,
    .identity = (int (*)(void *, qchain_store_identity *, qchain_error *))(uintptr_t)1,
};

/* ------------------------------------------------------------- an image --- */

static void put32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++) {
        p[i] = (uint8_t)(v >> (24 - 8 * i));
    }
}

static void put64(uint8_t *p, uint64_t v)
{
    put32(p, (uint32_t)(v >> 32));
    put32(p + 4, (uint32_t)v);
}

/* A qcow2 image with guest clusters 2 and 5; everything else lies below. */
static void make_image(uint8_t *image, const char *backing)
{
    uint8_t *h = image;

    memset(image, 0, IMAGE);
    memcpy(h, "QFI\xfb", 4);
    put32(h + 4, 3);
    put64(h + 8, backing ? 256 : 0);
    put32(h + 16, backing ? (uint32_t)strlen(backing) : 0);
    put32(h + 20, 12);
    put64(h + 24, DISK);
    put32(h + 36, 1);             /* L1 entries */
    put64(h + 40, 3 * UNIT);
    put64(h + 48, 1 * UNIT);      /* refcount table */
    put32(h + 56, 1);
    put32(h + 96, 4);
    put32(h + 100, 104);
    if (backing) {
        put32(h + 104, 0xe2792aca); /* the backing file's format */
        put32(h + 108, 3);
        memcpy(h + 112, "raw", 3);
        memcpy(h + 256, backing, strlen(backing));
    }
    put64(image + UNIT, 2 * UNIT);
    for (size_t i = 0; i < IMAGE / UNIT; i++) {
        image[2 * UNIT + 2 * i + 1] = 1;
    }
    put64(image + 3 * UNIT, 4 * UNIT | 1ull << 63);
    put64(image + 4 * UNIT + 8 * 2, 5 * UNIT | 1ull << 63);
    put64(image + 4 * UNIT + 8 * 5, 6 * UNIT | 1ull << 63);
    memset(image + 5 * UNIT, 0x22, UNIT);
    memset(image + 6 * UNIT, 0x55, UNIT);
}

typedef struct fixture {
    uint8_t top[IMAGE];
    uint8_t base[DISK - 700]; /* shorter than the top, and of an odd size */
    uint8_t alone[DISK];      /* what the top reads as by itself */
    uint8_t whole[DISK];      /* and with the base below */
} fixture;

static void make_fixture(fixture *f, const char *backing)
{
    make_image(f->top, backing);
    for (size_t i = 0; i < sizeof(f->base); i++) {
        f->base[i] = (uint8_t)(i * 131 + (i >> 8));
    }
    memset(f->alone, 0, DISK);
    memset(f->alone + 2 * UNIT, 0x22, UNIT);
    memset(f->alone + 5 * UNIT, 0x55, UNIT);
    memset(f->whole, 0, DISK);
    memcpy(f->whole, f->base, sizeof(f->base));
    memcpy(f->whole + 2 * UNIT, f->alone + 2 * UNIT, UNIT);
    memcpy(f->whole + 5 * UNIT, f->alone + 5 * UNIT, UNIT);
}

static void same_bytes(qchain *c, const uint8_t *want)
{
    static uint8_t got[DISK];

    CHECK(qchain_size(c) == DISK);
    memset(got, 0xee, DISK);
    CHECK(qchain_read(c, got, DISK, 0, 0, NULL) == 0);
    CHECK(memcmp(got, want, DISK) == 0);
    for (size_t at = 1; at < DISK; at += 3001) {
        qchain_iov iov[3] = { { got, 100 }, { got + 100, 0 }, { got + 100, 777 } };
        size_t     n = DISK - at < 877 ? DISK - at : 877;

        iov[2].len = n > 100 ? n - 100 : 0;
        iov[0].len = n - iov[2].len;
        CHECK(qchain_readv(c, iov, 3, at, 0, NULL) == 0);
        CHECK(memcmp(got, want + at, n) == 0);
    }
}

/* ------------------------------------------------------------- resolver --- */

typedef struct answer {
    int          verdict;
    qchain_store store;
    int          fd;
    int          asked;
} answer;

static int resolve(void *data, const qchain_reference *ref, qchain_resolution *out)
{
    answer *a = data;

    a->asked++;
    CHECK(ref->struct_size >= sizeof(*ref));
    CHECK(ref->layer == 0 && ref->kind == QCHAIN_REF_BACKING);
    CHECK(ref->from != NULL && ref->resolved != NULL);
    CHECK(strcmp(ref->name, "tape:reel 7") == 0);
    CHECK(ref->format != NULL && strcmp(ref->format, "raw") == 0);
    out->store = a->verdict == QCHAIN_RESOLVE_STORE ? &a->store : NULL;
    out->fd = a->fd;
    return a->verdict;
}

/* ---------------------------------------------------------------- tests --- */

static void test_top(const qchain_store_ops *ops)
{
    static fixture   f;
    mem              m = { .bytes = f.top, .size = IMAGE, .fail_from = UINT64_MAX };
    qchain_store     store = { sizeof(store), ops, &m, "in memory" };
    qchain_open_opts opts;
    qchain          *c = NULL;

    make_fixture(&f, NULL);
    qchain_open_opts_init(&opts, sizeof(opts));
    opts.store = &store;
    CHECK(qchain_open(&c, NULL, NULL, &opts, NULL) == 0);
    CHECK(qchain_layers(c) == 1 && m.closed == 0);
    same_bytes(c, f.alone);
    CHECK(m.reads > 0);
    qchain_close(c);
    CHECK(m.closed == 1);
}

static void test_below(void)
{
    static fixture   f;
    mem              top = { .bytes = f.top, .size = IMAGE, .fail_from = UINT64_MAX };
    mem              base = { .bytes = f.base, .size = sizeof(f.base), .fail_from = UINT64_MAX };
    qchain_store     store = { sizeof(store), &mem_ops, &top, "top in memory" };
    answer           a = { QCHAIN_RESOLVE_STORE,
                           { sizeof(qchain_store), &old_ops, &base, "reel 7" }, -1, 0 };
    qchain_open_opts opts;
    qchain          *c = NULL;

    make_fixture(&f, "tape:reel 7");
    qchain_open_opts_init(&opts, sizeof(opts));
    opts.store = &store;
    opts.resolver = resolve;
    opts.resolver_data = &a;
    CHECK(qchain_open(&c, NULL, "top", &opts, NULL) == 0);
    CHECK(a.asked == 1 && qchain_layers(c) == 2);
    same_bytes(c, f.whole);
    CHECK(base.reads > 0);
    qchain_close(c);
    CHECK(top.closed == 1 && base.closed == 1);
}

static int memory_file(const void *bytes, size_t size)
{
    int fd = memfd_create("image", MFD_CLOEXEC);

    CHECK(fd >= 0);
    CHECK(write(fd, bytes, size) == (ssize_t)size);
    return fd;
}

static void test_descriptors(void)
{
    static fixture   f;
    mem              base = { .bytes = f.base, .size = sizeof(f.base), .fail_from = UINT64_MAX };
    answer           a = { QCHAIN_RESOLVE_STORE,
                           { sizeof(qchain_store), &mem_ops, &base, "reel 7" }, -1, 0 };
    qchain_open_opts opts;
    qchain          *c = NULL;

    make_fixture(&f, "tape:reel 7");
    qchain_open_opts_init(&opts, sizeof(opts));
    opts.flags = QCHAIN_OPEN_FD;
    opts.fd = memory_file(f.top, IMAGE);
    opts.resolver = resolve;
    opts.resolver_data = &a;
    CHECK(qchain_open(&c, NULL, NULL, &opts, NULL) == 0);
    close(opts.fd); /* the library has its own */
    same_bytes(c, f.whole);
    qchain_close(c);
    CHECK(base.closed == 1);

    opts.fd = memory_file(f.top, IMAGE);
    a.verdict = QCHAIN_RESOLVE_FD;
    a.fd = memory_file(f.base, sizeof(f.base));
    CHECK(qchain_open(&c, NULL, NULL, &opts, NULL) == 0);
    close(opts.fd);
    close(a.fd);
    same_bytes(c, f.whole);
    qchain_close(c);
    CHECK(a.asked == 2 && base.closed == 1);
}

static void test_failures(void)
{
    static fixture   f;
    mem              top = { .bytes = f.top, .size = IMAGE, .fail_from = 6 * UNIT };
    qchain_store     store = { sizeof(store), &mem_ops, &top, "worn" };
    qchain_store_ops ops = mem_ops;
    qchain_error    *err = qchain_error_create();
    answer           a = { .verdict = QCHAIN_RESOLVE_DENY, .fd = -1 };
    qchain_open_opts opts;
    qchain          *c = NULL;
    uint8_t          byte = 0;

    CHECK(err != NULL);
    qchain_open_opts_init(&opts, sizeof(opts));
    opts.store = &store;

    /* The store's own words reach the caller, with the layer. */
    make_fixture(&f, NULL);
    CHECK(qchain_open(&c, NULL, NULL, &opts, err) == 0);
    CHECK(qchain_read(c, &byte, 1, 2 * UNIT, 0, err) == 0 && byte == 0x22);
    CHECK(qchain_read(c, &byte, 1, 5 * UNIT, 0, err) == QCHAIN_E_TIMEOUT);
    CHECK(strstr(qchain_error_message(err), "the tape is stuck") != NULL);
    CHECK(qchain_error_layer(err) == 0);
    qchain_close(c);
    CHECK(top.closed == 1);

    /* Whatever goes wrong at the open, the store is closed, once. */
    make_fixture(&f, "tape:reel 7");
    c = NULL;
    CHECK(qchain_open(&c, NULL, NULL, &opts, err) == QCHAIN_E_ACCESS && c == NULL);
    CHECK(top.closed == 2);
    opts.resolver = resolve;
    opts.resolver_data = &a;
    CHECK(qchain_open(&c, NULL, NULL, &opts, err) == QCHAIN_E_ACCESS && top.closed == 3);
    CHECK(a.asked == 1);
    f.top[20] = 77;
    CHECK(qchain_open(&c, NULL, NULL, &opts, err) != 0 && top.closed == 4);
    opts.reserved0 = 1;
    CHECK(qchain_open(&c, NULL, NULL, &opts, err) != 0 && top.closed == 5);
    opts.reserved0 = 0;

    /* Slots that this library does not know are refused, and so are holes. */
    store.ops = &ops;
    ops.version = QCHAIN_BACKEND_VERSION + 1;
    CHECK(qchain_open(&c, NULL, NULL, &opts, err) != 0 && c == NULL);
    ops = mem_ops;
    ops.pread = NULL;
    CHECK(qchain_open(&c, NULL, NULL, &opts, err) != 0 && c == NULL);
    qchain_error_destroy(err);
}

int main(void)
{
    test_top(&mem_ops);
    test_top(&old_ops);
    test_below();
    test_descriptors();
    test_failures();
    puts("backend_register: stores and descriptors from outside read right");
    return 0;
}
