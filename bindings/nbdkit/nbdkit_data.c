/* SPDX-License-Identifier: MIT */
/* nbdkit_data.c - reading, writing, extents. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nbdkit_qchain.h"

#define N_EXTENTS 128
#define MAX_ANSWER 65536u  /* extents in one answer, at most */
#define PIECE (1u << 20)

/* -------------------------------------------------------------------- failures --- */

/* One error object a thread, made when it first makes a call. Threads of nbdkit may end after it has unloaded the
 * plugin, so the key stays, and so does the code (it is linked with nodelete). */
static pthread_key_t errors;
static bool has_errors;

static void destroy_error(void *err)
{
    qchain_error_destroy(err);
}

void qcn_errors_begin(void)
{
    has_errors = pthread_key_create(&errors, destroy_error) == 0;
}

/* The first thread ends with the process, by no destructor. */
void qcn_errors_end(void)
{
    if (!has_errors)
        return;
    qchain_error_destroy(pthread_getspecific(errors));
    pthread_setspecific(errors, NULL);
}

qchain_error *qcn_error(void)
{
    qchain_error *err = has_errors ? pthread_getspecific(errors) : NULL;

    if (!err && has_errors) {
        err = qchain_error_create();
        if (err && pthread_setspecific(errors, err) != 0) {
            qchain_error_destroy(err);
            err = NULL;
        }
    }
    return err;
}

/* In NBD's words. An image that is read-only after a flush that failed is no question of rights; and without memory for an
 * error there is no code. */
static int errno_of(int code)
{
    int number = program_errno(code);

    return number == EROFS || number == EBUSY || number == 0 ? EIO : number;
}

int qcn_fail(struct qcn_export *e, int code)
{
    qchain_error *err = qcn_error();

    if (e && code == QCHAIN_E_CHANGED)
        __atomic_store_n(&e->stale, true, __ATOMIC_RELAXED);
    nbdkit_error("%s", err ? qchain_error_message(err) : "out of memory");
    nbdkit_set_error(errno_of(code ? code : qchain_error_code(err)));
    return -1;
}

/* --------------------------------------------------------------------- reading --- */

int qcn_pread(void *handle, void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct qcn_export *e = handle;
    int r = qchain_read(e->c, buf, count, offset, 0, qcn_error());

    (void)flags;
    return r == 0 ? 0 : qcn_fail(e, r);
}

/* As qemu-nbd says it: what is not stored is a hole. */
static uint32_t kind_of(const qchain_extent *x)
{
    return (x->flags & QCHAIN_EXTENT_DATA ? 0 : NBDKIT_EXTENT_HOLE) |
           (x->flags & QCHAIN_EXTENT_ZERO ? NBDKIT_EXTENT_ZERO : 0);
}

int qcn_extents(void *handle, uint32_t count, uint64_t offset, uint32_t flags, struct nbdkit_extents *extents)
{
    struct qcn_export *e = handle;
    qchain_extent x[N_EXTENTS];
    uint64_t at = offset, end = offset + count;
    uint32_t told = 0, first = 0, n, i;
    bool over = false;
    int r;

    while (at < end && !over) {
        r = qchain_map(e->c, at, end - at, x, N_EXTENTS, &n, &at, 0, qcn_error());
        if (r != 0)
            return told ? 0 : qcn_fail(e, r);
        for (i = 0; i < n && !over; i++) {
            if (told++ == 0)
                first = kind_of(&x[0]);
            /* Who asks for one extent gets it whole: layers that take turns in it make no end. */
            over = told == MAX_ANSWER || (flags & NBDKIT_FLAG_REQ_ONE && kind_of(&x[i]) != first);
            if (nbdkit_add_extent(extents, x[i].offset, x[i].length, kind_of(&x[i])) != 0)
                return -1;
        }
    }
    return 0;
}

/* Into whatever cache there is on the way: the kernel's, that of blocks in memory. */
static int read_away(struct qcn_export *e, uint64_t at, uint64_t end)
{
    uint32_t n = end - at < PIECE ? (uint32_t)(end - at) : PIECE;
    void *buf = malloc(n);
    int r = buf ? 0 : QCHAIN_E_NOMEM;

    if (!buf) {
        nbdkit_error("out of memory");
        nbdkit_set_error(ENOMEM);
        return -1;
    }
    for (; r == 0 && at < end; at += n) {
        n = end - at < PIECE ? (uint32_t)(end - at) : PIECE;
        r = qchain_read(e->c, buf, n, at, 0, qcn_error());
    }
    free(buf);
    return r == 0 ? 0 : qcn_fail(e, r);
}

int qcn_cache(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct qcn_export *e = handle;
    qchain_prefetch_range range = {.offset = offset, .length = count};
    qchain_prefetch_opts o;
    int r = QCHAIN_E_UNSUPPORTED;

    if (flags) {
        nbdkit_error("cache: unknown flags 0x%x", (unsigned)flags);
        nbdkit_set_error(EINVAL);
        return -1;
    }
    if (e->far) {
        qchain_prefetch_opts_init(&o, sizeof(o));
        o.ranges = &range;
        o.n_ranges = 1;
        r = qchain_prefetch(&e->c, 1, &o, NULL, qcn_error());
    }
    if (r == QCHAIN_E_UNSUPPORTED) /* there is no disk cache */
        return read_away(e, offset, offset + count);
    return r == 0 ? 0 : qcn_fail(e, r);
}

/* --------------------------------------------------------------------- writing --- */

int qcn_pwrite(void *handle, const void *buf, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct qcn_export *e = handle;
    uint32_t how = flags & NBDKIT_FLAG_FUA ? QCHAIN_WRITE_FUA : 0;
    int r = qchain_write(e->c, buf, count, offset, how, qcn_error());

    return r == 0 ? 0 : qcn_fail(e, r);
}

int qcn_flush(void *handle, uint32_t flags)
{
    struct qcn_export *e = handle;
    int r = qchain_flush(e->c, qcn_error());

    (void)flags;
    return r == 0 ? 0 : qcn_fail(e, r);
}

int qcn_trim(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct qcn_export *e = handle;
    int r = qchain_discard(e->c, count, offset, 0, qcn_error());

    if (r != 0)
        return qcn_fail(e, r);
    return flags & NBDKIT_FLAG_FUA ? qcn_flush(e, 0) : 0;
}

/* Whole units become zeros by their table alone; what is cut off at either end is written, or copied. */
static bool zeros_are_fast(const struct qcn_export *e, uint64_t offset, uint64_t length)
{
    uint64_t begin;

    if (e->fast_unit == 0)
        return false;
    begin = (offset + e->fast_unit - 1) / e->fast_unit * e->fast_unit;
    return begin + e->fast_unit <= offset + length;
}

int qcn_zero(void *handle, uint32_t count, uint64_t offset, uint32_t flags)
{
    struct qcn_export *e = handle;
    uint32_t how = (flags & NBDKIT_FLAG_FUA ? QCHAIN_WRITE_FUA : 0) |
                   (flags & NBDKIT_FLAG_MAY_TRIM ? QCHAIN_WRITE_UNMAP : 0);
    int r;

    if (flags & NBDKIT_FLAG_FAST_ZERO && !zeros_are_fast(e, offset, count)) {
        nbdkit_set_error(ENOTSUP);
        return -1;
    }
    r = qchain_write_zeroes(e->c, count, offset, how, qcn_error());
    return r == 0 ? 0 : qcn_fail(e, r);
}
