/* SPDX-License-Identifier: MIT */
#include "rec_store.h"

#include <stdlib.h>
#include <string.h>

#include "util/error.h"

#define CAP (UINT64_C(64) << 20)

struct rec_store *rec_create(uint64_t room)
{
    struct rec_store *r = calloc(1, sizeof(*r));

    if (!r)
        return NULL;
    r->cap = room ? room : CAP;
    r->bytes = calloc(1, r->cap);
    r->fail_code = QCHAIN_E_IO;
    pthread_mutex_init(&r->lock, NULL);
    return r;
}

void rec_reset(struct rec_store *r)
{
    for (size_t i = 0; i < r->n; i++)
        free(r->op[i].bytes);
    r->n = 0;
    r->calls = r->n_flushes = r->n_writes = 0;
    r->fail_from = r->fail_to = 0;
}

void rec_destroy(struct rec_store *r)
{
    if (!r)
        return;
    rec_reset(r);
    pthread_mutex_destroy(&r->lock);
    free(r->op);
    free(r->bytes);
    free(r);
}

uint64_t rec_apply(uint8_t *buf, uint64_t cap, uint64_t size, const struct rec_op *op)
{
    uint64_t end = op->offset + op->length;

    if (op->kind == REC_FLUSH || end > cap)
        return size;
    if (op->kind == REC_RESIZE) {
        if (op->length < size)
            memset(buf + op->length, 0, size - op->length);
        return op->length;
    }
    if (op->kind == REC_WRITE)
        memcpy(buf + op->offset, op->bytes, op->length);
    else /* what was discarded reads as anything */
        memset(buf + op->offset, op->kind == REC_ZERO ? 0 : 0xdd, op->length);
    return end > size ? end : size;
}

/* Under the lock. */
static int step(struct rec_store *r, bool write, qchain_error *err)
{
    if (r->fail_writes_only && !write)
        return 0;
    r->calls++;
    if (r->calls < r->fail_from || r->calls >= r->fail_to)
        return 0;
    return qc_fail(err, r->fail_code, "the medium fails call %llu", (unsigned long long)r->calls);
}

static int change(struct rec_store *r, enum rec_kind kind, const void *buf, uint64_t length,
                  uint64_t offset, qchain_error *err)
{
    struct rec_op op = {.kind = kind, .offset = offset, .length = length, .bytes = (uint8_t *)(uintptr_t)buf};
    int rc;

    pthread_mutex_lock(&r->lock);
    rc = step(r, true, err);
    if (rc == 0 && kind != REC_RESIZE && offset + length > r->cap)
        rc = qc_fail(err, QCHAIN_E_NOSPACE, "no more than %llu bytes", (unsigned long long)r->cap);
    if (rc == 0) {
        r->size = rec_apply(r->bytes, r->cap, r->size, &op);
        r->n_flushes += kind == REC_FLUSH;
        r->n_writes += kind == REC_WRITE;
    }
    if (rc == 0 && r->log) {
        if (r->n == r->room) {
            r->room = r->room ? 2 * r->room : 64;
            r->op = realloc(r->op, r->room * sizeof(*r->op));
        }
        op.bytes = NULL;
        if (kind == REC_WRITE) {
            op.bytes = malloc(length);
            memcpy(op.bytes, buf, length);
        }
        r->op[r->n++] = op;
    }
    pthread_mutex_unlock(&r->lock);
    return rc;
}

static void rec_close(void *obj)
{
    (void)obj;
}

static int rec_size(void *obj, uint64_t *size, qchain_error *err)
{
    (void)err;
    *size = ((struct rec_store *)obj)->size;
    return 0;
}

static int rec_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                     qchain_error *err)
{
    struct rec_store *r = obj;
    int rc;

    (void)flags;
    pthread_mutex_lock(&r->lock);
    rc = step(r, false, err);
    if (rc == 0 && (offset > r->size || length > r->size - offset))
        rc = qc_fail(err, QCHAIN_E_INTERNAL, "read past the end of the store");
    if (rc == 0 && length > 0)
        memcpy(buf, r->bytes + offset, length);
    pthread_mutex_unlock(&r->lock);
    return rc;
}

static int rec_pwrite(void *obj, const void *buf, size_t length, uint64_t offset, uint32_t flags,
                      qchain_error *err)
{
    (void)flags;
    return change(obj, REC_WRITE, buf, length, offset, err);
}

static int rec_flush(void *obj, uint32_t flags, qchain_error *err)
{
    (void)flags;
    return change(obj, REC_FLUSH, NULL, 0, 0, err);
}

static int rec_resize(void *obj, uint64_t size, uint32_t flags, qchain_error *err)
{
    (void)flags;
    return change(obj, REC_RESIZE, NULL, size, 0, err);
}

static int rec_discard(void *obj, uint64_t length, uint64_t offset, uint32_t flags, qchain_error *err)
{
    (void)flags;
    return change(obj, REC_DISCARD, NULL, length, offset, err);
}

static int rec_zero(void *obj, uint64_t length, uint64_t offset, uint32_t flags, qchain_error *err)
{
    (void)flags;
    return change(obj, REC_ZERO, NULL, length, offset, err);
}

static const qchain_store_ops rec_ops = {
    .struct_size = sizeof(rec_ops),
    .version = QCHAIN_BACKEND_VERSION,
    .name = "rec",
    .close = rec_close,
    .size = rec_size,
    .pread = rec_pread,
    .pwrite = rec_pwrite,
    .flush = rec_flush,
    .resize = rec_resize,
    .discard = rec_discard,
    .zero = rec_zero,
};

void rec_store_of(struct rec_store *r, qchain_store *out)
{
    *out = (qchain_store){sizeof(*out), &rec_ops, r, "rec"};
}
