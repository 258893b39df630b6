/* SPDX-License-Identifier: MIT */
#include "rec_store.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "util/error.h"

#define CAP (UINT64_C(64) << 20)

static void *needed(void *p)
{
    if (!p) {
        fprintf(stderr, "out of memory\n");
        abort();
    }
    return p;
}

/* -------------------------------------------------------------------- making --- */

static struct rec_store *create(struct rec_log *log, uint64_t room)
{
    struct rec_store *r = needed(calloc(1, sizeof(*r)));

    if (log->n_files == REC_FILES)
        abort();
    r->log = log;
    r->number = log->n_files++;
    log->file[r->number] = r;
    r->cap = room ? room : CAP;
    r->bytes = needed(calloc(1, r->cap));
    return r;
}

struct rec_store *rec_create(uint64_t room)
{
    struct rec_log *log = needed(calloc(1, sizeof(*log)));

    log->fail_code = QCHAIN_E_IO;
    pthread_mutex_init(&log->lock, NULL);
    return create(log, room);
}

struct rec_store *rec_create_beside(struct rec_store *other, uint64_t room)
{
    return create(other->log, room);
}

static void forget(struct rec_log *log)
{
    for (size_t i = 0; i < log->n; i++)
        free(log->op[i].bytes);
    log->n = 0;
    log->clock = 0;
}

void rec_destroy(struct rec_store *r)
{
    struct rec_log *log = r ? r->log : NULL;
    bool last = true;

    if (!r)
        return;
    log->file[r->number] = NULL;
    free(r->start);
    free(r->bytes);
    free(r);
    for (unsigned i = 0; i < log->n_files; i++)
        last &= !log->file[i];
    if (!last)
        return;
    forget(log);
    pthread_mutex_destroy(&log->lock);
    free(log->op);
    free(log);
}

/* ----------------------------------------------------------------- recording --- */

static void keep_start(struct rec_store *r)
{
    free(r->start);
    r->start = needed(malloc(r->size + 1));
    memcpy(r->start, r->bytes, r->size);
    r->start_size = r->size;
}

void rec_record(struct rec_log *log)
{
    forget(log);
    log->on = true;
    for (unsigned i = 0; i < log->n_files; i++)
        if (log->file[i])
            keep_start(log->file[i]);
}

void rec_reset(struct rec_store *r)
{
    struct rec_log *log = r->log;

    if (log->on)
        rec_record(log);
    log->calls = 0;
    log->fail_from = log->fail_to = 0;
    r->n_flushes = r->n_writes = 0;
}

uint64_t rec_clock(struct rec_log *log)
{
    uint64_t now;

    pthread_mutex_lock(&log->lock);
    now = ++log->clock;
    pthread_mutex_unlock(&log->lock);
    return now;
}

/* -------------------------------------------------------------------- applying --- */

static void set_size(struct rec_store *r, uint64_t size)
{
    if (size < r->size)
        memset(r->bytes + size, 0, r->size - size);
    r->size = size;
}

void rec_copy(struct rec_store *to, const struct rec_store *from)
{
    if (from->size > to->cap)
        abort();
    set_size(to, from->size);
    memcpy(to->bytes, from->bytes, from->size);
}

uint64_t rec_sectors(const struct rec_op *op)
{
    return op->kind == REC_RESIZE || op->kind == REC_FLUSH ? 1 : (op->length + REC_SECTOR - 1) / REC_SECTOR;
}

void rec_apply(struct rec_store *r, const struct rec_op *op)
{
    rec_apply_part(r, op, 0, rec_sectors(op));
}

void rec_apply_part(struct rec_store *r, const struct rec_op *op, uint64_t first, uint64_t last)
{
    uint64_t from = op->offset + first * REC_SECTOR, to = op->offset + last * REC_SECTOR;

    if (op->kind == REC_FLUSH)
        return;
    if (op->kind == REC_RESIZE) {
        set_size(r, op->length);
        return;
    }
    if (to > op->offset + op->length)
        to = op->offset + op->length;
    if (op->kind == REC_WRITE) {
        memcpy(r->bytes + from, op->bytes + (from - op->offset), to - from);
        if (to > r->size)
            r->size = to;
        return;
    }
    if (to > r->size)
        to = r->size;
    if (from < to) /* nobody may rely on what was given up */
        memset(r->bytes + from, op->kind == REC_ZERO ? 0 : 0xdb, to - from);
}

/* ------------------------------------------------------------------- the store --- */

/* Under the lock: one call more; does it fail? */
static int step(struct rec_log *log, bool write, qchain_error *err)
{
    if (log->fail_writes_only && !write)
        return 0;
    log->calls++;
    if (log->calls < log->fail_from || log->calls >= log->fail_to)
        return 0;
    return qc_fail(err, log->fail_code, "the medium fails call %llu", (unsigned long long)log->calls);
}

static struct rec_op *note(struct rec_log *log, const struct rec_op *op)
{
    struct rec_op *o;

    if (log->n == log->room) {
        log->room = log->room ? 2 * log->room : 256;
        log->op = needed(realloc(log->op, log->room * sizeof(*log->op)));
    }
    o = &log->op[log->n++];
    *o = *op;
    o->began = ++log->clock;
    if (o->kind == REC_WRITE) {
        o->bytes = needed(malloc(op->length + 1));
        memcpy(o->bytes, op->bytes, op->length);
    }
    return o;
}

/* What the medium does of it, under the lock. at: its number in the log, if that is on. */
static int carry_out(struct rec_store *r, struct rec_op *op, size_t *at, qchain_error *err)
{
    struct rec_log *log = r->log;
    int rc = step(log, true, err);

    if (rc != 0) {
        if (!log->fail_torn || log->calls != log->fail_from || op->kind != REC_WRITE)
            return rc;
        op->length /= 2;
    }
    if (op->offset > r->cap || op->length > r->cap - op->offset)
        return qc_fail(err, QCHAIN_E_NOSPACE, "no more than %llu bytes", (unsigned long long)r->cap);
    rec_apply(r, op);
    r->n_flushes += op->kind == REC_FLUSH;
    r->n_writes += op->kind == REC_WRITE;
    if (log->on) {
        note(log, op);
        *at = log->n - 1;
    }
    return rc;
}

static int change(struct rec_store *r, enum rec_kind kind, const void *buf, uint64_t length,
                  uint64_t offset, qchain_error *err)
{
    struct rec_op op = {.kind = kind, .file = r->number, .offset = offset, .length = length,
                        .bytes = (uint8_t *)(uintptr_t)buf};
    struct rec_log *log = r->log;
    size_t at = SIZE_MAX;
    int rc;

    pthread_mutex_lock(&log->lock);
    rc = carry_out(r, &op, &at, err);
    pthread_mutex_unlock(&log->lock);
    if (at != SIZE_MAX && rc == 0) { /* others may have begun meanwhile */
        pthread_mutex_lock(&log->lock);
        log->op[at].ended = ++log->clock;
        pthread_mutex_unlock(&log->lock);
    }
    return rc;
}

static void rec_close(void *obj)
{
    (void)obj;
}

static int rec_size(void *obj, uint64_t *size, qchain_error *err)
{
    struct rec_store *r = obj;

    (void)err;
    pthread_mutex_lock(&r->log->lock);
    *size = r->size;
    pthread_mutex_unlock(&r->log->lock);
    return 0;
}

static int rec_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                     qchain_error *err)
{
    struct rec_store *r = obj;
    int rc;

    (void)flags;
    pthread_mutex_lock(&r->log->lock);
    rc = step(r->log, false, err);
    if (rc == 0 && (offset > r->size || length > r->size - offset))
        rc = qc_fail(err, QCHAIN_E_INTERNAL, "read past the end of the store");
    if (rc == 0 && offset < r->bad_end && offset + length > r->bad_from)
        rc = qc_fail(err, QCHAIN_E_IO, "a bad sector");
    if (rc == 0 && length > 0)
        memcpy(buf, r->bytes + offset, length);
    pthread_mutex_unlock(&r->log->lock);
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
