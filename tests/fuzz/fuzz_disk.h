/* SPDX-License-Identifier: MIT */
/* A disk in memory that may be written to, for fuzzers: its size is bounded. */
#ifndef QC_FUZZ_DISK_H
#define QC_FUZZ_DISK_H

#include <qchain-backend.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FILE (24u << 20) /* that writing makes of the input */

struct disk {
    uint8_t *p;
    size_t   size, cap;
    size_t   n_writes;
};

static inline void disk_close(void *obj)
{
    (void)obj;
}

static inline int disk_size(void *obj, uint64_t *size, qchain_error *err)
{
    (void)err;
    *size = ((struct disk *)obj)->size;
    return 0;
}

static inline int disk_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                      qchain_error *err)
{
    struct disk *d = obj;

    (void)flags;
    (void)err;
    if (offset > d->size || length > d->size - offset)
        abort(); /* the library never asks for it */
    if (length > 0)
        memcpy(buf, d->p + offset, length);
    return 0;
}

static inline int disk_resize(void *obj, uint64_t size, uint32_t flags, qchain_error *err)
{
    struct disk *d = obj;
    uint8_t *p;

    (void)flags;
    if (size > MAX_FILE)
        return qchain_backend_fail(err, QCHAIN_E_NOSPACE, 0, "the disk is full");
    if (size > d->cap) {
        p = realloc(d->p, size);
        if (!p)
            return qchain_backend_fail(err, QCHAIN_E_NOMEM, 0, "no memory");
        d->p = p;
        d->cap = size;
    }
    if (size > d->size)
        memset(d->p + d->size, 0, size - d->size);
    d->size = size;
    return 0;
}

static inline int disk_pwrite(void *obj, const void *buf, size_t length, uint64_t offset, uint32_t flags,
                       qchain_error *err)
{
    struct disk *d = obj;
    int rc = 0;

    if (length > MAX_FILE || offset > MAX_FILE)
        return qchain_backend_fail(err, QCHAIN_E_NOSPACE, 0, "the disk is full");
    if (offset + length > d->size)
        rc = disk_resize(d, offset + length, flags, err);
    if (rc == 0)
        memcpy(d->p + offset, buf, length);
    d->n_writes++;
    return rc;
}

static inline int disk_flush(void *obj, uint32_t flags, qchain_error *err)
{
    (void)obj;
    (void)flags;
    (void)err;
    return 0;
}

static const qchain_store_ops disk_ops = {
    .struct_size = sizeof(disk_ops),
    .version = QCHAIN_BACKEND_VERSION,
    .name = "disk",
    .close = disk_close,
    .size = disk_size,
    .pread = disk_pread,
    .pwrite = disk_pwrite,
    .flush = disk_flush,
    .resize = disk_resize,
};

/* The input as a disk; NULL bytes: no memory. */
static inline struct disk disk_of(const uint8_t *data, size_t size)
{
    struct disk d = {.p = malloc(size + 1), .size = size, .cap = size + 1};

    if (d.p)
        memcpy(d.p, data, size);
    return d;
}

static inline qchain_store disk_store(struct disk *d)
{
    return (qchain_store){.struct_size = sizeof(qchain_store), .ops = &disk_ops, .obj = d, .name = "disk"};
}

#endif
