/* SPDX-License-Identifier: MIT */
/*
 * A writable store in memory that fails, or is cut off, at a chosen write or flush. What was written since the last
 * flush may be lost, sector by sector, as when a machine loses power.
 */
#ifndef CRASH_DISK_H
#define CRASH_DISK_H

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "image_tools.h"
#include "io/store.h"
#include "util/error.h"

enum crash_kind {
    CRASH_NEVER,
    CRASH_ERROR, /* one call fails, the next ones do not */
    CRASH_KILL,  /* that one and all later ones fail */
    CRASH_TORN,  /* the same, but half of the write arrives */
    CRASH_POWER  /* the same, and of what was not flushed any sectors arrive */
};

struct crash_disk {
    uint8_t        *p, *durable;
    uint64_t        size, durable_size, cap;
    unsigned        n_ops, at; /* so many writes and flushes were asked for; the one that crashes */
    enum crash_kind kind;
    bool            dead, no_space;
    uint64_t        seed;
    uint64_t        bad_from, bad_end; /* cannot be read */
};

static inline void crash_disk_init(struct crash_disk *d, const void *p, uint64_t size)
{
    *d = (struct crash_disk){.size = size, .durable_size = size, .cap = 2 * size + (10u << 20),
                             .seed = 1};
    d->p = calloc(1, d->cap);
    d->durable = calloc(1, d->cap);
    if (!d->p || !d->durable)
        abort();
    memcpy(d->p, p, size);
    memcpy(d->durable, p, size);
}

static inline void crash_disk_finish(struct crash_disk *d)
{
    free(d->p);
    free(d->durable);
}

/* The machine is switched on again: what is there? */
static inline void crash_disk_restart(struct crash_disk *d)
{
    uint64_t longer = d->size > d->durable_size ? d->size : d->durable_size;

    if (d->kind == CRASH_POWER) {
        for (uint64_t at = 0; at < longer; at += 512)
            if (memcmp(d->p + at, d->durable + at, 512) != 0 && random_next(&d->seed) % 2)
                memcpy(d->durable + at, d->p + at, 512);
        d->durable_size = random_next(&d->seed) % 2 ? d->size : d->durable_size;
        memset(d->durable + d->durable_size, 0, longer - d->durable_size);
        memcpy(d->p, d->durable, longer);
        d->size = d->durable_size;
    }
    memcpy(d->durable, d->p, longer);
    d->durable_size = d->size;
    d->kind = CRASH_NEVER;
    d->dead = false;
    d->n_ops = 0;
}

static inline void crash_close(void *obj)
{
    (void)obj;
}

static inline int crash_size(void *obj, uint64_t *size, qchain_error *err)
{
    (void)err;
    *size = ((struct crash_disk *)obj)->size;
    return 0;
}

static inline int crash_pread(void *obj, void *buf, size_t length, uint64_t offset, uint32_t flags,
                              qchain_error *err)
{
    struct crash_disk *d = obj;

    (void)flags;
    if (offset > d->size || length > d->size - offset)
        return qc_fail(err, QCHAIN_E_INTERNAL, "read past the end of the store");
    if (offset < d->bad_end && offset + length > d->bad_from)
        return qc_fail(err, QCHAIN_E_IO, "a bad sector");
    memcpy(buf, d->p + offset, length);
    return 0;
}

/* Does this call fail? */
static inline bool crash_now(struct crash_disk *d)
{
    bool now = d->kind != CRASH_NEVER && d->n_ops++ == d->at;

    if (d->kind == CRASH_NEVER)
        d->n_ops++;
    d->dead |= now && d->kind != CRASH_ERROR;
    return now || d->dead;
}

static inline int crash_pwrite(void *obj, const void *buf, size_t length, uint64_t offset,
                               uint32_t flags, qchain_error *err)
{
    struct crash_disk *d = obj;
    bool was_dead = d->dead, now = crash_now(d);

    (void)flags;
    if (now && !was_dead && d->kind == CRASH_TORN)
        length /= 2;
    else if (now)
        return qc_fail(err, d->no_space ? QCHAIN_E_NOSPACE : QCHAIN_E_IO, "the write fails");
    if (offset > d->cap || length > d->cap - offset)
        return qc_fail(err, QCHAIN_E_NOSPACE, "the disk is full");
    memcpy(d->p + offset, buf, length);
    d->size = offset + length > d->size ? offset + length : d->size;
    return now ? qc_fail(err, QCHAIN_E_IO, "half a write") : 0;
}

static inline int crash_flush(void *obj, uint32_t flags, qchain_error *err)
{
    struct crash_disk *d = obj;

    (void)flags;
    if (crash_now(d))
        return qc_fail(err, QCHAIN_E_IO, "the flush fails");
    memcpy(d->durable, d->p, d->size > d->durable_size ? d->size : d->durable_size);
    d->durable_size = d->size;
    return 0;
}

static inline int crash_resize(void *obj, uint64_t size, uint32_t flags, qchain_error *err)
{
    struct crash_disk *d = obj;

    (void)flags;
    if (size > d->cap || d->dead)
        return qc_fail(err, QCHAIN_E_NOSPACE, "the disk is full");
    if (size < d->size)
        memset(d->p + size, 0, d->size - size);
    d->size = size;
    return 0;
}

static const qchain_store_ops crash_ops = {
    .struct_size = sizeof(crash_ops),
    .version = QCHAIN_BACKEND_VERSION,
    .name = "crash",
    .close = crash_close,
    .size = crash_size,
    .pread = crash_pread,
    .pwrite = crash_pwrite,
    .flush = crash_flush,
    .resize = crash_resize,
};

/* A store over the disk, as after a restart. */
static inline struct qc_store *crash_store(struct crash_disk *d)
{
    qchain_store from = {.struct_size = sizeof(from), .ops = &crash_ops, .obj = d, .name = "disk"};
    struct qc_store *s;

    if (qc_store_create(&s, &from, NULL, NULL) != 0)
        abort();
    return s;
}

#endif
